"""The table of refusals: every row is whole, every template fits its uses, no fact of the wire spoils the log."""

import ast
import json
import re
import string
from dataclasses import replace
from pathlib import Path

import pytest

from dpsx_helpers import emulator
from dpsx_helpers.emulator import refusals
from dpsx_helpers.emulator.refusals import Answer, Refusal, Refused, dps_error, hub_error, injected

ROWS = [value for value in vars(refusals).values() if isinstance(value, Refusal)]
CONNACKS = {
    1: "Connection Refused: unacceptable protocol version",
    3: "Connection Refused: broker unavailable",
    5: "Connection Refused: not authorised",
}
PACKAGE = Path(emulator.__file__).parent
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def fields(row: Refusal) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(row.when) if name is not None}


def of_kind(*kinds: Answer) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", [row for row in ROWS if row.answer in kinds], ids=lambda row: row.name)


# --- rows -------------------------------------------------------------------------------------------------------------


def test_no_two_rows_share_a_name_and_all_are_listed() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) > 40
    assert list(refusals.ALL.values()) == ROWS
    assert all(refusals.ALL[row.name] is row for row in ROWS)


def test_every_kind_of_answer_has_its_rows() -> None:
    assert {row.answer for row in ROWS} == set(Answer)


@every_row
def test_a_row_names_case_remedy_and_source(row: Refusal) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", row.name)
    assert row.hint.strip() == row.hint != ""
    assert row.when.strip() == row.when != ""
    assert re.fullmatch(r"https://(learn\.microsoft\.com|github\.com|docs\.oasis-open\.org)/[^\s{}]+", row.source)
    assert not re.search(r"[\x00-\x1f]|\.$", row.when + row.hint)


@of_kind(Answer.CONNACK)
def test_a_connack_says_what_mqtt_says_of_its_code(row: Refusal) -> None:
    assert row.text == CONNACKS[row.status]


@of_kind(Answer.CLOSE)
def test_a_connection_closed_without_a_word_has_no_text(row: Refusal) -> None:
    assert (row.text, row.status) == ("", 0)


@of_kind(Answer.RESPONSE, Answer.DPS_HTTP, Answer.HUB_HTTP, Answer.HUB_METHOD)
def test_an_error_code_begins_with_its_status(row: Refusal) -> None:
    assert row.code // 1000 == row.status >= 400
    assert row.text


@of_kind(Answer.REGISTRATION)
def test_a_registration_that_fails_is_answered_with_200(row: Refusal) -> None:
    assert row.status == 200
    assert row.text
    assert row.code == 0 or 400_000 <= row.code < 600_000


@of_kind(Answer.HUB_HTTP)
def test_an_error_of_a_hub_has_a_name(row: Refusal) -> None:
    assert re.fullmatch(r"([A-Z][a-z]+)+", row.text.replace("IotHub", "Iothub"))


@pytest.mark.parametrize(
    ("name", "status", "code", "text"),
    [
        ("unknown-id-scope", 3, 0, "Connection Refused: broker unavailable"),
        ("common-name-differs", 5, 0, "Connection Refused: not authorised"),
        ("not-enrolled", 401, 401002, "Unauthorized"),
        ("not-enrolled-404", 404, 404201, "Enrollment not found."),
        ("other-certificate", 401, 401002, "Invalid certificate."),
        ("ca-certificate", 401, 401002, "Invalid certificate."),
        ("expired-certificate", 401, 401002, "Invalid certificate."),
        ("unknown-operation", 404, 404203, "Operation not found."),
        ("no-linked-hub", 200, 400208, "IoT Hub not found."),
        ("thumbprint-differs", 5, 401003, "Connection Refused: not authorised"),
        ("dps-unauthorized", 401, 401000, "Unauthorized"),
        ("device-not-found", 404, 404001, "DeviceNotFound"),
        ("evicted", 0, 400027, ""),
    ],
)
def test_the_answers_that_are_seen_of_azure(name: str, status: int, code: int, text: str) -> None:
    row = refusals.ALL[name]
    assert (row.status, row.code, row.text) == (status, code, text)


@pytest.mark.parametrize("row", [row for row in ROWS if row.name.endswith("not-emulated")], ids=lambda row: row.name)
def test_a_limit_of_the_emulator_is_called_one(row: Refusal) -> None:
    assert row.when.startswith("limit of this emulator, not of Azure: {feature}")
    assert row.status in (0, 501)


# --- uses -------------------------------------------------------------------------------------------------------------


def uses() -> list[tuple[str, str, set[str]]]:
    """Where the emulator refuses: place, row, and the facts that are given."""
    found = []
    for path in sorted(PACKAGE.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Refused":
                row = node.args[0]
                # Only rows named where they are used can be looked up; the others are variables.
                if isinstance(row, ast.Attribute) and isinstance(row.value, ast.Name) and row.value.id == "refusals":
                    facts = {keyword.arg or "**" for keyword in node.keywords} - {"retry_after"}
                    found.append((f"{path.name}:{node.lineno}", row.attr, facts))
    return found


@pytest.mark.parametrize(("place", "name", "facts"), uses(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_use_gives_the_facts_that_its_row_tells(place: str, name: str, facts: set[str]) -> None:
    assert facts == fields(getattr(refusals, name)), place


def test_the_uses_are_found() -> None:
    assert len(uses()) > 40


def test_both_rows_of_not_enrolled_tell_the_same_facts() -> None:
    """One of them is chosen at the start, so that a use cannot tell which it fills."""
    assert fields(refusals.NOT_ENROLLED) == fields(refusals.NOT_ENROLLED_404) == {"registration_id"}


def test_every_row_is_used() -> None:
    names = {name for name, value in vars(refusals).items() if isinstance(value, Refusal)}
    sources = [path for path in PACKAGE.glob("*.py") if path.name != "refusals.py"]
    used = {
        node.attr
        for path in sources
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    }
    assert names - used == set()


# --- reasons ----------------------------------------------------------------------------------------------------------


@every_row
def test_a_template_is_filled_with_every_fact(row: Refusal) -> None:
    facts = {name: f"the {name}" for name in fields(row)}
    refused = Refused(row, **facts)
    assert refused.refusal is row
    ours = {"feature", "violation", "why", "limit", "seconds"}
    assert all((value if name in ours else repr(value)) in refused.reason for name, value in facts.items())
    assert not set("{}") & set(refused.reason)
    assert str(refused) == f"{refused.reason} -> {row.hint}"


@every_row
def test_a_missing_fact_is_an_error_of_the_programmer(row: Refusal) -> None:
    assert fields(row), "a reason without any fact helps nobody"
    with pytest.raises(KeyError):
        Refused(row)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("device-1", "'device-1'"),
        ("", "''"),
        ("a\nb\x1b[31m\x00\x7f\u2028", r"'a\nb\x1b[31m\x00\x7f\u2028'"),
        ("it's {name}", '"it\'s {name}"'),
        (1234, "1234"),
        (None, "None"),
        ("x" * 98, f"'{'x' * 98}'"),
        ("x" * 99, f"'{'x' * 98}…"),
        ("\n" * 5000, "'" + r"\n" * 49 + "…"),
        (int("9" * 200), "9" * 99 + "…"),
    ],
    ids=range(10),
)
def test_a_fact_is_quoted_and_shortened(value: object, expected: str) -> None:
    reason = Refused(refusals.ENROLLMENT_NOT_FOUND, registration_id=value).reason
    assert reason == f"there is no enrollment {expected}"
    assert reason.isprintable()
    assert len(expected) <= 100


def test_a_phrase_of_the_rule_itself_stands_as_it_is_unless_it_would_break_the_line() -> None:
    assert Refused(refusals.DPS_BAD_REQUEST, why="the body is not JSON").reason == "the body is not JSON"
    assert Refused(refusals.DPS_BAD_REQUEST, why="no\nline").reason == r"'no\nline'"


# --- documents --------------------------------------------------------------------------------------------------------

TRACKING_ID, TIMESTAMP = "8ad0463c-6427-4479-9dfa-3e8bb7003e9b", "2020-04-10T05:24:22.4718526Z"


def test_the_error_document_of_dps() -> None:
    document = dps_error(refusals.OTHER_CERTIFICATE, TRACKING_ID, TIMESTAMP)
    assert document == {
        "errorCode": 401002,
        "trackingId": TRACKING_ID,
        "message": "Invalid certificate.",
        "timestampUtc": TIMESTAMP,
    }
    assert list(document) == ["errorCode", "trackingId", "message", "timestampUtc"]


def test_the_error_envelope_of_a_hub() -> None:
    refused = Refused(refusals.DEVICE_NOT_FOUND, device_id="dev-1")
    assert hub_error(refused, TRACKING_ID, TIMESTAMP) == {
        "Message": "ErrorCode:DeviceNotFound;The requested device 'dev-1' was not found in the hub's identity registry",
        "ExceptionMessage": f"Tracking ID:8AD0463C642744799DFA3E8BB7003E9B-TimeStamp:{TIMESTAMP}",
    }


def test_a_hub_never_says_why_a_token_was_refused() -> None:
    refused = Refused(refusals.HUB_UNAUTHORIZED, why="the token has expired")
    assert "expired" in refused.reason
    message = hub_error(refused, TRACKING_ID, TIMESTAMP)["Message"]
    assert message == "ErrorCode:IotHubUnauthorizedAccess;Unauthorized"


def test_dps_never_says_why() -> None:
    for row in ROWS:
        assert dps_error(row, TRACKING_ID, TIMESTAMP)["message"] == row.text
        assert not fields(replace(row, when=row.text if row.text[:1] != "{" else "")), "a text is no template"


def test_the_envelope_of_a_direct_method_is_a_document_within_one() -> None:
    refused = Refused(refusals.DEVICE_NOT_ONLINE, device_id="dev-1")
    envelope = hub_error(refused, TRACKING_ID, TIMESTAMP)
    assert envelope["ExceptionMessage"] == ""
    assert json.loads(envelope["Message"]) == {
        "errorCode": 404103,
        "trackingId": "8ad0463c642744799dfa3e8bb7003e9b",
        "message": "The operation failed because the requested device isn't online or hasn't registered the direct "
        "method callback.",
        "info": {},
        "timestampUtc": TIMESTAMP,
    }


# --- faults -----------------------------------------------------------------------------------------------------------


@every_row
def test_a_fault_refuses_as_its_row_does_and_says_that_it_is_one(row: Refusal) -> None:
    refused = injected(row, "some-fault")
    same = ("name", "answer", "status", "code", "text", "source")
    assert [getattr(refused.refusal, name) for name in same] == [getattr(row, name) for name in same]
    assert refused.reason == "the fault some-fault is switched on"
    assert "fault --clear" in refused.refusal.hint
