import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from azure.iot.device import RegistrationResult
from devices import NAME, provision, set_variables

from dpsx_helpers import certificates, display, enrollments, targets, tutorial, views
from dpsx_helpers.certificates import Pair
from dpsx_helpers.display import View
from dpsx_helpers.targets import Target

pytest_plugins = ["kit"]


class _Structure(HTMLParser):
    """Checks that tags are closed in order, and collects them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def structure(view: View) -> _Structure:
    parser = _Structure()
    parser.feed(view.html)
    parser.close()
    assert parser.open == []
    return parser


def accessible(view: View) -> None:
    """Well-formed HTML, header cells and a caption in each table, no fixed colours, and a text form."""
    parser = structure(view)
    tags = [tag for tag, _ in parser.seen]
    assert tags.count("table") == tags.count("caption")
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in parser.seen if tag == "th")
    if "table" in tags:
        assert "th" in tags
    for _, attributes in parser.seen:
        style = attributes.get("style") or ""
        assert "color:#" not in style.replace(" ", "")
        assert "background:#" not in style.replace(" ", "")
    bundle = view._repr_mimebundle_()
    assert bundle == {"text/html": view.html, "text/plain": view.text}
    assert repr(view) == view.text
    assert view.text.strip()


def test_everything_is_escaped() -> None:
    evil = '<script>alert("x")</script>'
    for view in (
        display.table(evil, (evil,), [(evil,)]),
        display.note(evil),
        display.passed(evil),
        display.ask(evil),
        display.block(evil, evil),
    ):
        assert "<script" not in view.html
        assert evil in view.text
        accessible(view)


def test_an_empty_table_says_so() -> None:
    assert display.table("Devices", ("A",), []).text == "Devices: nothing here yet."


def test_the_map_marks_this_step_in_words_and_for_screen_readers() -> None:
    for step, (_, title) in enumerate(tutorial.STEPS):
        view = views.tutorial_map(step)
        accessible(view)
        assert view.text.count("(you are here)") == view.html.count('aria-current="step"') == 1
        assert f"▶ {step:02} {title} (you are here)" in view.text
        assert view.html.count(".ipynb") == len(tutorial.STEPS) - 1


def test_machine_and_versions(work: Path) -> None:
    for view in (views.machine(), views.versions()):
        accessible(view)
        assert "azure-iot-device" in view.text
        assert "2.14.0" in view.text
        assert "git" in view.text


def test_overview_and_ports(emulated: Target) -> None:
    overview, ports = views.overview(emulated), views.ports(emulated)
    accessible(overview)
    accessible(ports)
    assert emulated.id_scope in overview.text
    assert "Global device endpoint" in overview.text
    line = next(line for line in ports.text.splitlines() if "8883" in line)
    assert "✔ answers" in line


def test_no_view_of_the_target_shows_a_service_key(emulated: Target) -> None:
    key = str(emulated.dps_connection_string).split("SharedAccessKey=")[1]
    for view in (views.overview(emulated), views.ports(emulated), views.log(emulated, service=True)):
        assert key not in view.html + view.text


def test_the_subject_is_picked_out(pair: Pair) -> None:
    view = views.certificate(pair.certificate_file)
    accessible(view)
    assert "===> CN=Python-device-01 <===" in view.text
    assert "===&gt; CN=Python-device-01 &lt;===" in view.html
    seen = certificates.describe(pair.certificate_file)
    for fact in (seen.serial_number, seen.thumbprint_sha1, seen.thumbprint_sha256, seen.issuer, "EC"):
        assert fact in view.html
        assert fact in view.text


def test_the_files_are_shown_without_their_secret(pair: Pair, work: Path) -> None:
    for view in (views.files(), views.files(pair), views.files(work)):
        accessible(view)
        assert "-----BEGIN ENCRYPTED PRIVATE KEY-----" in view.text
        assert pair.key_file.read_text().splitlines()[1] not in view.text + view.html
        assert "-rw-------" in view.text
    tutorial.delete_pair()
    assert views.files().text.count("(not there)") == 2


def test_environment_masks_the_pass_phrase_and_tells_what_was_there_before(
    emulated: Target, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert views.environment().text.count("not set") == 14
    before = {"PROVISIONING_HOST": "old.example.net", "PASS_PHRASE": tutorial.MASK}
    monkeypatch.setattr(tutorial, "exported_before", before)
    set_variables(emulated)
    view = views.environment()
    accessible(view)
    assert "old.example.net (overwritten in this kernel" in view.text
    assert view.text.count(tutorial.MASK) == 2
    assert "1234" not in view.text.replace(emulated.id_scope, "").replace(str(tutorial.work_dir()), "")


def test_the_mask_does_not_tell_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tutorial.masked("X509_PASS_PHRASE", "x" * 30) == tutorial.masked("PASS_PHRASE", "y")


def test_what_the_service_knows_before_and_after_provisioning(emulated: Target, pair: Pair) -> None:
    assert "nothing here yet" in views.enrollments(emulated).text
    assert "nothing here yet" in views.devices(emulated).text
    assert "no device" in views.desired(emulated, NAME).text
    assert "nothing here yet" in views.messages(emulated, NAME).text
    twin = {"properties": {"desired": {"interval": 5}}}
    enrollments.save(emulated, enrollments.EnrollmentRequest(pair.certificate_file, initial_twin=twin))
    set_variables(emulated)
    result = provision(3)
    shown = {
        "enrollments": views.enrollments(emulated),
        "devices": views.devices(emulated),
        "desired": views.desired(emulated, NAME),
        "messages": views.messages(emulated, NAME),
        "registration": views.registration(result),
        "log": views.log(emulated),
    }
    for view in shown.values():
        accessible(view)
    assert NAME in shown["enrollments"].text
    assert "STATUS" in shown["devices"].text
    assert "enabled" in shown["devices"].text
    assert '"interval": 5' in shown["desired"].text
    assert all(f"message {number}" in shown["messages"].text for number in range(3))
    assert all(word in shown["registration"].text for word in (NAME, emulated.hubs[0], "initialAssignment", "null"))
    assert "CONNACK 0" in shown["log"].text
    assert "GET /devices" not in shown["log"].text
    assert "GET /devices" in views.log(emulated, service=True).text
    assert "last 2 of 3" in views.messages(emulated, NAME, last=2).text


def test_a_registration_that_led_to_no_hub_says_so_first() -> None:
    view = views.registration(RegistrationResult("4.0123456789abcdef.guid", "failed", None))
    accessible(view)
    assert view.text.startswith("✘ failed: DPS answered, but assigned no hub")
    assert "4.0123456789abcdef.guid" in view.text


def test_each_field_of_the_registration_has_a_sentence_and_times_are_for_people(emulated: Target, pair: Pair) -> None:
    enrollments.save(emulated, pair.certificate_file)
    set_variables(emulated)
    view = views.registration(provision())
    rows = view.text.splitlines()[4:]
    assert len(rows) == 9
    assert all(row.endswith(".") for row in rows)
    assert view.text.startswith(f"✔ assigned: {NAME} belongs to the hub {emulated.hubs[0]}")
    times = [row for row in rows if row.split()[0].endswith("_date_time")]
    assert all(re.search(r" \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC  ", row) for row in times)


def test_on_azure_views_ask_instead_of_failing(work: Path) -> None:
    tutorial.enter("target", "azure")
    target = targets.current()
    for view in (views.enrollments(target), views.devices(target), views.messages(target, NAME)):
        accessible(view)
        assert view.text.startswith("☐")
        assert view.text.endswith("?")
    assert "Device twin" in views.desired(target, NAME).text
    assert "Azure Monitor" in views.log(target).text
    assert "not entered yet" in views.overview(target).text


def test_variables_exported_before_are_those_of_the_shell() -> None:
    assert set(tutorial.exported_before) <= set(tutorial.VARIABLES)
    assert all(os.environ.get(name) for name in ("PATH",))
