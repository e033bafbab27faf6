"""Direct methods: what a service may ask for, and what it gets back.

https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-direct-methods
"""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refused import bad_at_hub, outcome, refusal

from dpsx_helpers.emulator import documents, methods, refusals, topics
from dpsx_helpers.emulator.methods import Call
from dpsx_helpers.emulator.refusals import Refused

KB = 1024
NAME = "thermo-01"
RESPONSE, CONNECT = "responseTimeoutInSeconds", "connectTimeoutInSeconds"
BAD_RESPONSE = "responseTimeoutInSeconds is not a whole number of seconds from 5 to 300"
BAD_CONNECT = "connectTimeoutInSeconds is not a whole number of seconds from 0 to 300"


def parse(**fields: Any) -> Call:
    return methods.parse({"methodName": "reboot", **fields})


# --- the request ------------------------------------------------------------------------------------------------------


def test_the_shortest_request_waits_half_a_minute_for_the_answer_and_not_for_the_device() -> None:
    assert parse() == Call("reboot", b"null", 30, 0)


def test_the_longest_request_is_read_member_by_member() -> None:
    call = parse(payload={"delay": 5}, **{RESPONSE: 200, CONNECT: 10}, other="ignored")
    assert (call.name, json.loads(call.payload)) == ("reboot", {"delay": 5})
    assert (call.response_within, call.connect_within) == (200, 10)


def test_a_null_is_as_good_as_nothing() -> None:
    assert parse(payload=None, **{RESPONSE: None, CONNECT: None}) == parse()


@pytest.mark.parametrize("document", [None, [], "reboot", 7, True])
def test_a_body_that_is_no_object_is_refused(document: Any) -> None:
    assert refusal(lambda: methods.parse(document)) == bad_at_hub("the body is not a JSON object")


@pytest.mark.parametrize("name", ["r", "n" * 100, "with blanks", "a/b?c#d+e", "nörd", "値", "\xa0"])
def test_a_name_has_up_to_100_characters(name: str) -> None:
    assert parse(methodName=name).name == name


@pytest.mark.parametrize(
    "name", [None, "", "n" * 101, "a\n", "\x00", "\x1f", "\x7f", "\x80", "\x9f", 7, True, ["a"], {}]
)
def test_any_other_name_is_refused(name: Any) -> None:
    assert refusal(lambda: parse(methodName=name)) == bad_at_hub("methodName is not a text of 1 to 100 characters")


def test_without_a_name_there_is_no_call() -> None:
    assert refusal(lambda: methods.parse({})) == bad_at_hub("methodName is not a text of 1 to 100 characters")


def test_half_a_surrogate_pair_is_no_name_that_a_topic_could_carry() -> None:
    row, reason = refusal(lambda: topics.method(parse(methodName="\ud800").name, "1"))
    assert row is refusals.HUB_BAD_REQUEST
    assert "methodName" in reason


# --- the times --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "least", "most", "why"), [(RESPONSE, 5, 300, BAD_RESPONSE), (CONNECT, 0, 300, BAD_CONNECT)]
)
def test_a_time_may_have_its_bounds_and_no_second_more_or_less(name: str, least: int, most: int, why: str) -> None:
    for value in (least, least + 1, most - 1, most):
        for spelling in (value, str(value)):
            call = parse(**{name: spelling})
            assert (call.response_within if name == RESPONSE else call.connect_within) == value
    for value in (least - 1, most + 1, -least - 5, 10**400):
        for spelling in (value, str(value) if value < 10**9 else "9" * 400):
            assert refusal(lambda spelling=spelling: parse(**{name: spelling})) == bad_at_hub(why)  # type: ignore[misc]


def test_the_azure_cli_sends_its_times_as_text() -> None:
    assert parse(**{RESPONSE: "60", CONNECT: "0"}) == parse(**{RESPONSE: 60, CONNECT: 0})
    assert parse(**{RESPONSE: "060"}).response_within == 60


@pytest.mark.parametrize(("name", "why"), [(RESPONSE, BAD_RESPONSE), (CONNECT, BAD_CONNECT)])
@pytest.mark.parametrize(
    "value", [True, False, 30.0, 30.5, "", " 30", "30 ", "30\n", "+30", "30s", "3e1", "٣٠", "null", [30], {"s": 30}]
)
def test_any_other_time_is_refused(name: str, why: str, value: Any) -> None:
    assert refusal(lambda: parse(**{name: value})) == bad_at_hub(why)


# --- the payload ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [None, True, 0, 1.5, "", "text", "é", [], [1, {"a": None}], {}, {"a": {"b": [2]}}])
def test_a_payload_is_any_json(payload: Any) -> None:
    assert json.loads(parse(payload=payload).payload) == payload


def test_a_payload_may_have_128_kb() -> None:
    assert methods.MAX_PAYLOAD == 131_072
    assert len(parse(payload="x" * (128 * KB - 2)).payload) == 131_072
    assert refusal(lambda: parse(payload="x" * (128 * KB - 1))) == (
        refusals.METHOD_TOO_LARGE,
        "the payload of the method has 131073 bytes; the limit is 131072",
    )


@pytest.mark.parametrize("payload", ["\ud800", {"\udfff": 1}, ["a", {"b": "\udc00\ud800"}]])
def test_half_a_surrogate_pair_in_a_payload_arrives_or_is_refused(payload: Any) -> None:
    found = outcome(lambda: json.loads(parse(payload=payload).payload.decode()))
    assert found.refusal is refusals.HUB_BAD_REQUEST if isinstance(found, Refused) else found == payload


@pytest.mark.parametrize(
    ("payload", "more"),
    [
        pytest.param("é" * (64 * KB - 1), "é" * (64 * KB - 1) + "x", id="signs of two bytes"),
        pytest.param([1] * 65_534 + [12], [1] * 65_534 + [123], id="a list without blanks"),
        pytest.param({"a": "x" * (128 * KB - 8)}, {"a": "x" * (128 * KB - 7)}, id="an object without blanks"),
    ],
)
def test_the_size_is_that_of_the_json_and_not_of_one_way_to_spell_it(payload: Any, more: Any) -> None:
    shortest = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()
    assert len(shortest) == 128 * KB, "the test's own arithmetic"
    assert json.loads(parse(payload=payload).payload) == payload
    assert refusal(lambda: parse(payload=more))[0] is refusals.METHOD_TOO_LARGE


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_what_a_service_sends_is_what_a_device_gets(payload: Any) -> None:
    assert json.loads(parse(payload=payload).payload.decode()) == payload


@given(JSON | st.fixed_dictionaries({}, optional={"methodName": JSON, "payload": JSON, RESPONSE: JSON, CONNECT: JSON}))
def test_any_json_is_taken_or_refused(document: Any) -> None:
    found = outcome(lambda: methods.parse(document))
    if isinstance(found, Refused):
        assert found.refusal is refusals.HUB_BAD_REQUEST
    else:
        assert 5 <= found.response_within <= 300
        assert 0 <= found.connect_within <= 300


# --- the answer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "document"),
    [
        (b"", None),
        (b" \r\n\t", None),
        (b"null", None),
        (b"true", True),
        (b"7", 7),
        (b'"text"', "text"),
        ('{"grüße": ["é", {"a": 1.5}]}'.encode(), {"grüße": ["é", {"a": 1.5}]}),
    ],
)
@pytest.mark.parametrize("status", [200, 0, -1, 404, 2_147_483_647])
def test_a_service_gets_status_and_payload_of_the_device(status: int, payload: bytes, document: Any) -> None:
    assert methods.answer(NAME, status, payload) == {"status": status, "payload": document}


@pytest.mark.parametrize(
    "payload",
    [
        b"{",
        b"done",
        b"\xff",
        b'{"a": NaN}',
        b"Infinity",
        b"{} {}",
        pytest.param(b"[" * 100_000, id="opened without end"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, id="nested beyond all measure"),
        pytest.param(b'{"a": 1e400}', id="a number beyond all numbers"),
    ],
)
def test_an_answer_that_is_no_json_is_the_fault_of_the_device(payload: bytes) -> None:
    row, reason = refusal(lambda: methods.answer(NAME, 200, payload))
    assert row is refusals.BAD_METHOD_ANSWER
    assert repr(NAME) in reason
    assert "not JSON" in reason


@given(st.binary(max_size=30) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_answer_can_be_shown_or_is_refused(payload: bytes) -> None:
    found = outcome(lambda: methods.answer(NAME, 200, payload))
    if isinstance(found, Refused):
        assert found.refusal is refusals.BAD_METHOD_ANSWER
    else:
        assert documents.load(json.dumps(found, allow_nan=False).encode()) == found
