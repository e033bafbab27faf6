from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from devices import NAME, PASS_PHRASE, odd_pair
from test_views import accessible, structure

from dpsx_helpers import certificates, views
from dpsx_helpers.certificates import Pair
from dpsx_helpers.display import View

pytest_plugins = ["kit"]


def bar(view: View) -> tuple[str, float]:
    """What the bar of validity is called, and how much of it is empty on its left, in per cent."""
    seen = structure(view).seen
    place = next(number for number, (_, attributes) in enumerate(seen) if attributes.get("role") == "img")
    style = seen[place + 1][1].get("style") or ""
    return str(seen[place][1]["aria-label"]), float(style.split("margin-left:")[1].split("%")[0])


def test_a_valid_certificate_says_how_many_days_are_left(pair: Pair) -> None:
    view = views.certificate(pair.certificate_file)
    accessible(view)
    assert bar(view) == ("Validity: 364 days left of 365", 0.0)
    assert "Validity: 364 days left of 365" in view.text


def test_half_of_the_bar_is_empty_after_half_of_the_time(work: Path) -> None:
    label, empty = bar(views.certificate(odd_pair(work, days=30).certificate_file))
    assert label == "Validity: 29 days left of 60"
    assert empty == pytest.approx(50, abs=0.1)


def test_an_expired_certificate_says_so_and_its_bar_is_empty(work: Path) -> None:
    view = views.certificate(odd_pair(work, days=-3).certificate_file)
    accessible(view)
    assert bar(view) == ("Validity: expired 3 days ago", 100.0)
    assert "✘ expired 3 days ago" in view.html


def test_a_certificate_that_is_not_valid_yet_says_when_it_will_be(work: Path) -> None:
    later = datetime.now(UTC) + timedelta(days=2, minutes=5)
    made = certificates.create(NAME, PASS_PHRASE, work, key_type="ec-p256", now=later)
    view = views.certificate(made.certificate_file)
    accessible(view)
    assert bar(view) == ("Validity: not valid yet: it begins in 2 days", 0.0)


def test_the_last_day_and_the_first_after_it_are_said_without_a_zero(work: Path) -> None:
    begin = datetime.now(UTC) - timedelta(days=1)
    made = certificates.create(NAME, PASS_PHRASE, work, key_type="ec-p256", days=1, now=begin + timedelta(hours=1))
    assert bar(views.certificate(made.certificate_file))[0] == "Validity: less than a day left of 1"
    made = certificates.create(
        NAME, PASS_PHRASE, work, key_type="ec-p256", days=1, now=begin - timedelta(hours=1), existing="replace"
    )
    assert bar(views.certificate(made.certificate_file)) == ("Validity: expired less than a day ago", 100.0)


def test_both_thumbprints_can_be_copied_and_say_where_they_are_shown(pair: Pair) -> None:
    view = views.certificate(pair.certificate_file)
    described = certificates.describe(pair.certificate_file)
    copied = {a.get("aria-label"): a.get("data-value") for tag, a in structure(view).seen if tag == "button"}
    assert copied == {
        "Copy SHA-1 thumbprint": described.thumbprint_sha1,
        "Copy SHA-256 thumbprint": described.thumbprint_sha256,
        "Copy certificate as text": described.as_text(),
    }
    assert "the portal, on the page of the enrollment" in view.html
    assert "the hub, on the page of the device" in view.html


def test_an_authority_is_called_one(work: Path) -> None:
    assert (
        "an authority (CA:TRUE), which a device must not be"
        in views.certificate(odd_pair(work, is_ca=True).certificate_file).html
    )


def test_a_subject_is_shown_not_obeyed(work: Path) -> None:
    view = views.certificate(odd_pair(work, common_name="<img src=x onerror=alert(1)>").certificate_file)
    assert {"img", "script"} & {tag for tag, _ in structure(view).seen} == set()
    assert "&lt;img src=x onerror=alert(1)" in view.html
