"""Shared access signatures. What a signature must be is computed here a second time, by hand."""

import base64
import binascii
import hashlib
import hmac
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpsx_helpers.emulator.sas import sign, verify, verify_device

HOST, NOW = "127.0.0.1:8443", 1_700_000_000
RESOURCES = frozenset({HOST, "dps.lab"})
KEYS = {
    "owner": base64.b64encode(b"0123456789abcdef0123456789abcdef").decode(),
    "reader": base64.b64encode(b"another key").decode(),
}


def signature(signed: str, expires: str, policy: str = "owner") -> str:
    digest = hmac.new(base64.b64decode(KEYS[policy]), f"{signed}\n{expires}".encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


def token(**changes: str | None) -> str:
    """A good token whose fields are changed, or left out where None is given."""
    fields: dict[str, Any] = {"sr": HOST, "se": str(NOW + 60), "skn": "owner"}
    fields["sig"] = signature("127.0.0.1%3A8443", fields["se"])
    fields |= changes
    return "SharedAccessSignature " + urlencode({name: value for name, value in fields.items() if value is not None})


def judge(text: str, now: float = NOW) -> str | None:
    return verify(text, RESOURCES, KEYS, now)


def test_the_untouched_token_of_these_tests_is_good() -> None:
    assert judge(token()) is None


def test_a_token_is_written_to_the_letter() -> None:
    mac = quote(signature("127.0.0.1%3A8443", "1700000060"), safe="")
    expected = f"SharedAccessSignature sr=127.0.0.1%3A8443&sig={mac}&se=1700000060&skn=owner"
    assert sign(HOST, "owner", KEYS["owner"], NOW + 60) == expected


@pytest.mark.parametrize("resource", sorted(RESOURCES))
@pytest.mark.parametrize("policy", sorted(KEYS))
def test_what_is_signed_verifies(resource: str, policy: str) -> None:
    assert judge(sign(resource, policy, KEYS[policy], NOW + 1)) is None


@given(st.binary(min_size=1, max_size=80), st.integers(1, 10**9), st.from_regex(r"[A-Za-z]{1,20}", fullmatch=True))
@settings(deadline=None)
def test_every_key_and_policy_verifies(key: bytes, seconds: int, policy: str) -> None:
    encoded = base64.b64encode(key).decode()
    assert verify(sign(HOST, policy, encoded, NOW + seconds), RESOURCES, {policy: encoded}, NOW) is None
    other = base64.b64encode(key + b"x").decode()
    assert verify(sign(HOST, policy, other, NOW + seconds), RESOURCES, {policy: encoded}, NOW) is not None


def test_a_key_that_is_not_base64_cannot_sign() -> None:
    with pytest.raises(binascii.Error):
        sign(HOST, "owner", "abcde", NOW + 60)


@pytest.mark.parametrize(
    ("sent", "signed"),
    [
        pytest.param("127.0.0.1%3A8443", "127.0.0.1%3A8443", id="upper case"),
        pytest.param("127.0.0.1%3a8443", "127.0.0.1%3a8443", id="lower case"),
        pytest.param("127.0.0.1:8443", "127.0.0.1:8443", id="as it is"),
        pytest.param("127.0.0.1%3a8443%2fenrollments", "127.0.0.1%3a8443%2fenrollments", id="with a path"),
        pytest.param("DPS.lab%2Fenrollments", "DPS.lab%2Fenrollments", id="a host in capitals"),
    ],
)
def test_each_spelling_of_the_resource_is_good(sent: str, signed: str) -> None:
    mac = quote(signature(signed, str(NOW + 60)), safe="")
    assert judge(f"SharedAccessSignature sr={sent}&sig={mac}&se={NOW + 60}&skn=owner") is None


@pytest.mark.parametrize("order", ["se sig skn sr", "skn se sr sig"])
def test_the_order_of_the_fields_does_not_matter(order: str) -> None:
    fields = dict(item.split("=") for item in token().removeprefix("SharedAccessSignature ").split("&"))
    assert judge("SharedAccessSignature " + "&".join(f"{name}={fields[name]}" for name in order.split())) is None


@pytest.mark.parametrize(("late", "good"), [(59, True), (59.9, True), (60, False), (61, False)])
def test_a_token_is_good_until_its_expiry(late: float, good: bool) -> None:
    reason = judge(token(), NOW + late)
    assert (reason is None) == good
    if not good:
        assert "expired" in str(reason)


def test_the_expiry_is_part_of_what_is_signed() -> None:
    assert "signature does not match" in str(judge(token(se=str(NOW + 61))))


def test_another_policy_has_another_key() -> None:
    assert "signature does not match the key of policy reader" in str(judge(token(skn="reader")))


@pytest.mark.parametrize("policy", ["Owner", "registryRead", "", None])
def test_an_unknown_policy_is_named_with_those_there_are(policy: str | None) -> None:
    reason = str(judge(token(skn=policy)))
    assert f"no policy {policy or ''!r}" in reason
    assert "owner, reader" in reason


@pytest.mark.parametrize("resource", ["127.0.0.1:8883", "127.0.0.1", "other.lab", "x127.0.0.1:8443", "", None])
def test_a_token_for_another_resource_is_refused(resource: str | None) -> None:
    mac = signature(quote(resource or "", safe=""), str(NOW + 60))
    assert "not for this service" in str(judge(token(sr=resource, sig=mac)))


def test_a_path_is_part_of_what_is_signed() -> None:
    assert "signature does not match" in str(judge(token(sr=HOST + "/enrollments")))


@pytest.mark.parametrize("place", range(0, 44, 6))
def test_a_signature_changed_in_one_character_is_refused(place: int) -> None:
    mac = signature("127.0.0.1%3A8443", str(NOW + 60))
    changed = mac[:place] + ("A" if mac[place] != "A" else "B") + mac[place + 1 :]
    assert "signature does not match" in str(judge(token(sig=changed)))


@pytest.mark.parametrize("mac", ["", None, "é", "\x00", "A" * 10_000])
def test_what_is_no_signature_is_refused(mac: str | None) -> None:
    assert "signature does not match" in str(judge(token(sig=mac)))


@pytest.mark.parametrize(
    "expires", ["", None, "soon", "-1", "1e12", "1700000060.0", " 1700000060", "²", "١٧٠٠٠٠٠٠٦٠", "0"]
)
def test_an_expiry_must_be_a_number_of_seconds(expires: str | None) -> None:
    mac = signature("127.0.0.1%3A8443", expires or "")
    assert "expired, or its expiry is not a number" in str(judge(token(se=expires, sig=mac)))


def test_an_expiry_of_thousands_of_digits_is_refused_too() -> None:
    assert judge(token(se="9" * 4301)) is not None


@pytest.mark.parametrize("scheme", ["", "Bearer ", "sharedaccesssignature ", "SharedAccessSignature", "Basic "])
def test_another_scheme_is_refused(scheme: str) -> None:
    text = scheme + token().removeprefix("SharedAccessSignature ")
    assert "no SharedAccessSignature" in str(judge(text))


def test_a_reason_shows_no_more_than_a_piece_of_what_was_sent() -> None:
    for field in ("skn", "sr"):
        assert len(str(judge(token(**{field: "x" * 5000})))) < 200


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "sr": st.sampled_from([HOST, "dps.lab/", HOST + "/é"]) | st.text(),
            "sig": st.text(),
            "se": st.just(str(NOW + 60)) | st.integers().map(str) | st.text(),
            "skn": st.sampled_from(sorted(KEYS)) | st.text(),
        },
    ),
    st.text(max_size=20),
)
@settings(deadline=None, max_examples=300)
def test_garbage_in_every_field_is_refused_and_raises_nothing(fields: dict[str, str], tail: str) -> None:
    assert judge("SharedAccessSignature " + urlencode(fields) + tail)
    assert judge("SharedAccessSignature " + "&".join(f"{name}={value}" for name, value in fields.items()) + tail)


@given(st.text())
@settings(deadline=None)
def test_no_header_at_all_is_good_by_chance(text: str) -> None:
    assert judge(text)
    assert judge("SharedAccessSignature " + text)


@pytest.mark.parametrize("path", ["/devices/x", "/devices/x/", "/devices/x/commands"])
def test_a_token_for_a_part_of_a_service_opens_that_part(path: str) -> None:
    mac = signature(quote(f"{HOST}/devices/x", safe=""), str(NOW + 60))
    assert verify(token(sr=f"{HOST}/devices/x", sig=mac), RESOURCES, KEYS, NOW, path) is None
    assert "nothing else" in str(verify(token(sr=f"{HOST}/devices/x", sig=mac), RESOURCES, KEYS, NOW, "/devices/xy"))


@pytest.mark.parametrize("safe", ["", "~()*!.'", "-_.!*()", "/", ":/()"])
def test_a_device_may_encode_its_resource_as_its_language_does(safe: str) -> None:
    """encodeURIComponent of JavaScript and WebUtility of .NET leave different signs as they are."""
    resource = "127.0.0.1/devices/dev(1)*!'"
    encoded = quote(resource, safe=safe)
    mac = quote(signature(encoded, str(NOW + 60)), safe="")
    text = f"SharedAccessSignature sr={encoded}&sig={mac}&se={NOW + 60}"
    assert verify_device(text, resource, KEYS["owner"], NOW) is None
    assert verify_device(text, resource, KEYS["reader"], NOW) == "the signature does not match a key of the device"
