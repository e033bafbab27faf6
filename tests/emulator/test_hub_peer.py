"""A device at its hub, and at DPS, driven with bytes: twins, direct methods, messages to it, its Will, faults."""

import json
import logging
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from wire import (
    CONNECTED,
    DESIRED,
    DISCONNECT,
    HOST,
    HUB,
    METHODS,
    PINGREQ,
    RESPONSES,
    RESUMED,
    TWIN,
    Connack,
    Desk,
    Line,
    Pingresp,
    Puback,
    Published,
    Suback,
    Unsuback,
    Will,
    certificate,
    commands_to,
    connect,
    events,
    get_twin,
    method_answer,
    one,
    packet,
    poll,
    puback,
    publish,
    register,
    report,
    subscribe,
    text,
    to_dps,
    to_hub,
    unsubscribe,
)

from dpsx_helpers.emulator import refusals
from dpsx_helpers.emulator.commands import MAX_DELIVERIES, MAX_PENDING
from dpsx_helpers.emulator.dps import Progress
from dpsx_helpers.emulator.faults import KINDS, Fault, Stage
from dpsx_helpers.emulator.hub import MAX_MESSAGE
from dpsx_helpers.emulator.limits import Limits
from dpsx_helpers.emulator.methods import MAX_PAYLOAD
from dpsx_helpers.emulator.records import Status, Substatus
from dpsx_helpers.emulator.refusals import Refused
from dpsx_helpers.emulator.store import read_messages

NAME, OTHER = "thermo-01", "thermo-02"
COMMANDS = commands_to(NAME)
KEY, SECOND_KEY = b64encode(bytes(range(32))).decode(), b64encode(bytes(range(32, 64))).decode()
LONGEST = 65_535  # bytes of a text in MQTT


@pytest.fixture
def desk(desk: Desk) -> Desk:
    """Two devices are in the hub."""
    desk.add(NAME)
    desk.add(OTHER)
    return desk


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def delivered(sent: list[Any]) -> list[tuple[bytes, bool]]:
    """Body and DUP of the cloud-to-device messages among what was sent."""
    prefix = COMMANDS.removesuffix("#")
    return [(p.payload, p.dup) for p in sent if isinstance(p, Published) and p.topic.startswith(prefix)]


def numbers(sent: list[Any]) -> list[int | None]:
    return [p.packet_id for p in sent if isinstance(p, Published)]


# --- telemetry --------------------------------------------------------------------------------------------------------


def test_telemetry_comes_with_system_and_application_properties(desk: Desk) -> None:
    bag = "%24.mid=m%201&$.ct=application%2Fjson&$.ce=utf-8&room=lab%20%26%20loft&empty=&bare&$.unknown=x"
    line = desk.online(NAME)
    assert line.say(publish(events(NAME, bag), b"{}", number=9)) == [Puback(9)]
    (message,) = read_messages(desk.path)
    assert (message.hub, message.device_id, message.body) == (HUB, NAME, b"{}")
    assert message.properties == {"room": "lab & loft", "empty": "", "bare": None}
    assert message.system_properties == {
        "messageId": "m 1",
        "contentType": "application/json",
        "contentEncoding": "utf-8",
        "$.unknown": "x",
        "connectionDeviceId": NAME,
        "connectionDeviceGenerationId": desk.device(NAME).generation_id,
        "connectionAuthMethod": '{"scope":"device","type":"x509Certificate","issuer":"external"}',
        "enqueuedTime": message.enqueued,
    }


def test_what_a_hub_vouches_for_cannot_be_claimed_by_a_device(desk: Desk) -> None:
    line = desk.online(NAME)
    line.say(publish(events(NAME, f"connectionDeviceId={OTHER}&$.connectionDeviceId={OTHER}"), b"mine"))
    (message,) = read_messages(desk.path)
    assert message.system_properties["connectionDeviceId"] == NAME
    assert message.device_id == NAME


def test_retain_and_dup_become_application_properties(desk: Desk) -> None:
    line = desk.online(NAME)
    assert line.say(publish(events(NAME), b"again", retain=True, dup=True)) == [Puback(7)]
    (message,) = read_messages(desk.path)
    assert message.properties == {"mqtt-retain": "true", "mqtt-dup": "true"}


def test_telemetry_at_qos_0_is_stored_and_not_acknowledged(desk: Desk) -> None:
    line = desk.online(NAME)
    assert line.say(publish(events(NAME), b"quiet", qos=0)) == []
    assert desk.messages(NAME) == [b"quiet"]


@pytest.mark.parametrize("topic", [events(NAME), events(NAME).removesuffix("/")])
def test_a_message_may_be_as_large_as_the_limit_and_no_larger(desk: Desk, topic: str) -> None:
    line = desk.online(NAME)
    assert line.say(publish(topic, bytes(MAX_MESSAGE))) == [Puback(7)]
    assert line.say(publish(topic, bytes(MAX_MESSAGE + 1))) == []
    assert line.why_closed == "too-large"
    assert len(desk.messages(NAME)) == 1


def test_what_is_acknowledged_is_stored_before(desk: Desk) -> None:
    """A second reader of the database sees each record before its acknowledgement may go out, and none earlier."""
    line = desk.online(NAME, TWIN, COMMANDS)
    desk.send(NAME, b"do")
    (number,) = numbers(line.hear())
    assert number is not None
    with desk.second_reader() as look:

        def seen() -> tuple[list[Any], int, int]:
            reported = json.loads(look("SELECT twin FROM devices WHERE id = ?", NAME)[0][0])["reported"]["version"]
            return look("SELECT body FROM messages"), reported, len(look("SELECT 1 FROM commands"))

        for data in (publish(events(NAME), b"one"), report({"a": 1}), puback(number)):
            line.conversation.receive(data)
        assert line.conversation.outbox, "the answers wait"
        assert seen() == ([], 1, 1), "they wait for the commit"
        desk.store.commit()
        assert seen() == ([(b"one",)], 2, 0)
    assert line.hear() == [Puback(7), Puback(7), Published("$iothub/twin/res/204/?$rid=1&$version=2", b"")]


def test_messages_in_one_turn_are_one_line_of_the_log(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    line = desk.online(NAME)
    line.say(publish(events(NAME), b"1"), publish(events(NAME), b"2"))
    assert f"{NAME}: 2 message(s) stored and acknowledged" in caplog.text


# --- twin: GET --------------------------------------------------------------------------------------------------------


def test_a_device_gets_its_twin_without_tags_and_metadata(desk: Desk) -> None:
    desk.change_twin(NAME, {"tags": {"room": "lab"}, "properties": {"desired": {"interval": 5}}})
    line = desk.online(NAME, TWIN)
    acknowledged, answer = line.say(get_twin("r-1"))
    assert acknowledged == Puback(7)
    assert isinstance(answer, Published)
    assert (answer.topic, answer.packet_id) == ("$iothub/twin/res/200/?$rid=r-1", None)
    assert answer.json == {"desired": {"interval": 5, "$version": 2}, "reported": {"$version": 1}}


def test_the_twin_is_asked_for_at_qos_0_too(desk: Desk) -> None:
    line = desk.online(NAME, TWIN)
    assert one(line.say(get_twin(qos=0))).topic == "$iothub/twin/res/200/?$rid=1"


@pytest.mark.parametrize("request_", [get_twin(), report({"a": 1})], ids=["GET", "PATCH"])
def test_who_has_not_subscribed_to_the_answers_gets_none(desk: Desk, request_: bytes) -> None:
    line = desk.online(NAME, DESIRED, COMMANDS, METHODS)
    assert line.say(request_) == [Puback(7)], "taken, and not answered"
    assert not line.closing
    assert line.say(subscribe(TWIN, number=3)) == [Suback(3, (1,))], "nor later"
    line.say(unsubscribe(TWIN))
    assert line.say(request_) == [Puback(7)]


def test_reported_properties_count_also_without_a_subscription(desk: Desk) -> None:
    desk.online(NAME).say(report({"a": 1}))
    assert desk.twin(NAME).reported.values == {"a": 1}


@pytest.mark.parametrize("request_", [get_twin, lambda rid: report({"a": 1}, rid)], ids=["GET", "PATCH"])
def test_a_request_id_as_long_as_a_topic_can_be_harms_nothing(desk: Desk, request_: Callable[[str], bytes]) -> None:
    """The topic of the answer is longer than that of the request: it may not fit into MQTT any more."""
    line = desk.online(NAME, TWIN)
    shortest = len("$iothub/twin/GET/?$rid=")
    topic = len("$iothub/twin/PATCH/properties/reported/?$rid=")
    for size in (LONGEST - topic, LONGEST - shortest):
        data = get_twin("x" * size) if size + topic > LONGEST else request_("x" * size)
        line.say(data)
    line.end()
    assert desk.online(NAME).say(PINGREQ) == [Pingresp()]


# --- twin: reported ---------------------------------------------------------------------------------------------------


def test_reported_properties_merge_and_count_up(desk: Desk) -> None:
    line = desk.online(NAME, TWIN)
    steps: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"a": 1, "b": {"c": [1, 2]}}, {"a": 1, "b": {"c": [1, 2]}}),
        ({"a": None, "b": {"d": "x"}}, {"b": {"c": [1, 2], "d": "x"}}),
        ({}, {"b": {"c": [1, 2], "d": "x"}}),
    ]
    for version, (patch, expected) in enumerate(steps, start=2):
        answer = line.say(report(patch, f"p{version}"))
        assert answer == [Puback(7), Published(f"$iothub/twin/res/204/?$rid=p{version}&$version={version}", b"")]
        assert desk.twin(NAME).reported.values == expected
    assert desk.twin(NAME).desired.version == 1
    assert desk.twin(OTHER).reported.values == {}


def nested(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[1]",
        b"7",
        b"null",
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a.b": 1}',
        b'{"$a": 1}',
        b'{"a b": 1}',
        b'{"": 1}',
        b'{"a": [null]}',
        b'{"a": 4503599627370496}',
        json.dumps({"a": "x" * 4097}).encode(),
        json.dumps({f"k{number}": "x" * 4000 for number in range(9)}).encode(),
        nested(12),
        *map(nested, range(100, 1100, 50)),
        nested(20_000),
    ],
    ids=lambda body: f"{body[:24]!r}…{len(body)}",
)
def test_a_patch_that_cannot_be_taken_changes_nothing_and_the_connection_stays(desk: Desk, body: bytes) -> None:
    line = desk.online(NAME, TWIN)
    line.say(report({"kept": 1}))
    before = desk.twin(NAME)
    assert line.say(report(body, "bad", number=8)) == [Puback(8), Published("$iothub/twin/res/400/?$rid=bad", b"")]
    assert desk.twin(NAME) == before
    assert line.refused == ["bad-twin-patch"]
    assert not line.closing


@pytest.mark.parametrize("body", [nested(10), b'{"a": "\\ud800"}', b'{"\\ud800": 1}', b' \n{"a": -4503599627370496}'])
def test_a_patch_at_its_limits_is_taken_and_given_back(desk: Desk, body: bytes) -> None:
    line = desk.online(NAME, TWIN)
    assert line.say(report(body, qos=0)) == [Published("$iothub/twin/res/204/?$rid=1&$version=2", b"")]
    assert one(line.say(get_twin(qos=0))).json["reported"] == json.loads(body) | {"$version": 2}


# --- twin: desired ----------------------------------------------------------------------------------------------------


def test_a_change_of_desired_properties_is_told_to_who_has_subscribed(desk: Desk) -> None:
    listening, deaf = desk.online(NAME, DESIRED), desk.online(OTHER, TWIN)
    for name in (NAME, OTHER):
        desk.change_twin(name, {"properties": {"desired": {"interval": 5, "old": None}}, "tags": {"room": 1}})
    told = one(listening.hear())
    assert told.topic == "$iothub/twin/PATCH/properties/desired/?$version=2"
    assert told.json == {"interval": 5, "old": None, "$version": 2}
    assert told.packet_id is None
    assert deaf.hear() == []


def test_a_change_of_the_whole_twin_names_what_is_gone(desk: Desk) -> None:
    desk.change_twin(NAME, {"properties": {"desired": {"old": 1}}})
    line = desk.online(NAME, DESIRED)
    desk.change_twin(NAME, {"properties": {"desired": {"new": 2}}}, whole=True)
    assert one(line.hear()).json == {"old": None, "new": 2, "$version": 3}


def test_a_change_of_tags_is_not_told(desk: Desk) -> None:
    line = desk.online(NAME, DESIRED)
    desk.change_twin(NAME, {"tags": {"room": "lab"}})
    assert line.hear() == []


def test_changes_are_not_kept_for_who_is_away(desk: Desk) -> None:
    desk.online(NAME, DESIRED, clean=False).end()
    desk.change_twin(NAME, {"properties": {"desired": {"interval": 5}}})
    line = desk.online(NAME, DESIRED, TWIN, clean=False)
    assert line.hear() == []
    assert one(line.say(get_twin(qos=0))).json["desired"] == {"interval": 5, "$version": 2}
    line.say(unsubscribe(DESIRED))
    desk.change_twin(NAME, {"properties": {"desired": {"interval": 6}}})
    assert line.hear() == []


# --- direct methods ---------------------------------------------------------------------------------------------------


def called_on(line: Line) -> tuple[str, str, bytes]:
    """Name and request ID of the method that a device was just asked to do, and the payload."""
    sent = one(line.hear())
    start, _, rid = sent.topic.partition("/?$rid=")
    assert start.startswith("$iothub/methods/POST/")
    assert sent.packet_id is None
    return start.removeprefix("$iothub/methods/POST/"), rid, sent.payload


def test_a_method_is_called_and_answered(desk: Desk) -> None:
    line = desk.online(NAME, METHODS)
    called = desk.call(NAME, "set interval", b'{"seconds": 5}')
    name, rid, payload = called_on(line)
    assert (name, payload) == ("set%20interval", b'{"seconds": 5}')
    assert called.heard == []
    assert line.say(method_answer(rid, b'{"ok": true}', 207)) == [Puback(7)]
    assert called.heard == [(207, b'{"ok": true}')]
    line.end()
    assert called.heard == [(207, b'{"ok": true}')], "who has answered is not lost"


def test_calls_are_answered_in_any_order_and_each_once(desk: Desk) -> None:
    line = desk.online(NAME, METHODS)
    first, second = desk.call(NAME, "first"), desk.call(NAME, "second")
    rids = [sent.topic.partition("$rid=")[2] for sent in line.hear() if isinstance(sent, Published)]
    assert len(set(rids)) == 2
    line.say(method_answer(rids[1], b"2", qos=0), method_answer(rids[0], b"1", status=-1, qos=0))
    line.say(method_answer(rids[0], b"3", qos=0))
    assert (first.heard, second.heard) == ([(-1, b"1")], [(200, b"2")])


@pytest.mark.parametrize("rid", ["nobody", "0" * 12])
def test_an_answer_that_nobody_waits_for_is_noted(desk: Desk, caplog: pytest.LogCaptureFixture, rid: str) -> None:
    line = desk.online(NAME, METHODS)
    called = desk.call(NAME)
    line.hear()
    assert line.say(method_answer(rid)) == [Puback(7)]
    assert "which nobody waits for any more" in caplog.text
    assert called.heard == []


def test_an_answer_that_comes_too_late_is_nobodys(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    line = desk.online(NAME, METHODS)
    called = desk.call(NAME)
    _, rid, _ = called_on(line)
    assert called.forget is not None
    called.forget()
    assert line.say(method_answer(rid)) == [Puback(7)]
    line.end()
    assert called.heard == []
    assert "which nobody waits for any more" in caplog.text


def test_another_device_cannot_answer(desk: Desk) -> None:
    line, other = desk.online(NAME, METHODS), desk.online(OTHER, METHODS)
    called = desk.call(NAME)
    _, rid, _ = called_on(line)
    assert other.hear() == []
    other.say(method_answer(rid, b'"forged"'))
    assert called.heard == []


def test_a_device_that_goes_while_it_is_asked_is_lost(desk: Desk) -> None:
    line = desk.online(NAME, METHODS)
    called = desk.call(NAME)
    line.say(DISCONNECT)
    line.end()
    assert called.heard == ["lost"]
    assert desk.call(NAME).forget is None


def test_an_answer_may_be_as_large_as_the_limit_and_no_larger(desk: Desk) -> None:
    line = desk.online(NAME, METHODS)
    first, second = desk.call(NAME), desk.call(NAME)
    rids = [sent.topic.partition("$rid=")[2] for sent in line.hear() if isinstance(sent, Published)]
    assert line.say(method_answer(rids[0], bytes(MAX_PAYLOAD))) == [Puback(7)]
    assert first.heard == [(200, bytes(MAX_PAYLOAD))]
    assert line.say(method_answer(rids[1], bytes(MAX_PAYLOAD + 1))) == []
    assert line.why_closed == "too-large"
    line.end()
    assert second.heard == ["lost"]


def test_only_who_listens_can_be_called(desk: Desk) -> None:
    assert desk.call(NAME).forget is None, "nobody is there"
    line = desk.online(NAME, TWIN)
    assert desk.call(NAME).forget is None, "nobody listens"
    heard: list[str] = []
    with desk.services.watching(lambda: heard.append("now")):
        line.say(subscribe(TWIN))
        assert heard == []
        line.say(subscribe(METHODS))
        assert heard == ["now"]
    assert desk.call(NAME).forget is not None
    line.hear()
    line.say(unsubscribe(METHODS))
    assert desk.call(NAME).forget is None, "not any more"
    assert line.hear() == []


# --- cloud-to-device messages -----------------------------------------------------------------------------------------


def test_a_message_goes_to_who_is_there_with_its_properties(desk: Desk) -> None:
    line = desk.online(NAME, COMMANDS)
    desk.send(NAME, b"do", messageId="m-1", properties={"unit": "°C & more"})
    sent = one(line.hear())
    assert sent == Published(
        f"devices/{NAME}/messages/devicebound/%24.mid=m-1&%24.to=%2Fdevices%2F{NAME}%2Fmessages%2FdeviceBound"
        "&unit=%C2%B0C%20%26%20more",
        b"do",
        1,
    )
    assert desk.waiting(NAME) == [b"do"], "until it is acknowledged"
    assert line.say(puback(1)) == []
    assert desk.waiting(NAME) == []


def test_messages_wait_for_an_offline_device_and_come_in_order(desk: Desk) -> None:
    desk.online(NAME, COMMANDS, clean=False).end()
    bodies = [f"{number}".encode() for number in range(12)]
    for body in bodies:
        desk.send(NAME, body)
    line = desk.meet(NAME)
    connack, *others = line.say(to_hub(NAME, clean=False))
    assert connack == RESUMED
    assert delivered(others) == [(body, False) for body in bodies], "without a SUBSCRIBE"
    assert numbers(others) == list(range(1, 13))
    line.say(*(puback(number) for number in range(12, 0, -1)))
    assert desk.waiting(NAME) == []


def test_a_message_is_deleted_when_it_is_acknowledged_and_not_before(desk: Desk) -> None:
    line = desk.online(NAME, COMMANDS)
    for body in (b"one", b"two", b"three"):
        desk.send(NAME, body)
    first, second, _ = numbers(line.hear())
    line.say(puback(second or 0))
    assert desk.waiting(NAME) == [b"one", b"three"]
    line.say(puback(second or 0), puback(999))
    assert desk.waiting(NAME) == [b"one", b"three"], "an acknowledgement of nothing"
    line.say(puback(first or 0))
    assert desk.waiting(NAME) == [b"three"]
    assert not line.closing


def test_what_was_not_acknowledged_comes_again_marked_as_dup(desk: Desk) -> None:
    line = desk.online(NAME, COMMANDS, clean=False)
    desk.send(NAME, b"lost")
    assert delivered(line.hear()) == [(b"lost", False)]
    desk.send(NAME, b"later")
    line.end()
    desk.send(NAME, b"new")
    again = desk.online(NAME, clean=False)
    assert again.hear() == []
    line = desk.meet(NAME)
    sent = line.say(to_hub(NAME, clean=False))
    assert delivered(sent) == [(b"lost", True), (b"later", True), (b"new", True)]
    assert again.closing
    assert line.say(puback(1), puback(2), puback(3)) == []
    assert desk.waiting(NAME) == []


def test_an_open_message_is_not_sent_twice_on_one_connection(desk: Desk) -> None:
    line = desk.online(NAME, COMMANDS, clean=False)
    desk.send(NAME, b"one")
    assert numbers(line.hear()) == [1]
    desk.send(NAME, b"two")
    assert numbers(line.hear()) == [2]
    assert line.say(subscribe(COMMANDS, number=4)) == [Suback(4, (1,))]


def test_after_ten_deliveries_a_message_is_given_up(desk: Desk) -> None:
    desk.online(NAME, COMMANDS, clean=False).end()
    desk.send(NAME, b"unwanted")
    for attempt in range(MAX_DELIVERIES):
        line = desk.meet(NAME)
        assert delivered(line.say(to_hub(NAME, clean=False))) == [(b"unwanted", attempt > 0)]
        line.end()
    assert desk.meet(NAME).say(to_hub(NAME, clean=False)) == [RESUMED]
    assert desk.waiting(NAME) == []


def test_the_tenth_delivery_can_still_be_acknowledged(desk: Desk) -> None:
    desk.online(NAME, COMMANDS, clean=False).end()
    desk.send(NAME, b"at last")
    for _ in range(MAX_DELIVERIES):
        line = desk.meet(NAME)
        line.say(to_hub(NAME, clean=False))
    line.say(puback(1))
    assert desk.waiting(NAME) == []


def test_a_message_expires_at_its_second(desk: Desk) -> None:
    for body, seconds in ((b"short", 10), (b"long", 11), (b"default", None)):
        desk.send(NAME, body, expiresIn=seconds)
    desk.clock.go_on(9.999)
    desk.online(NAME, COMMANDS, clean=False).end()
    assert desk.waiting(NAME) == [b"short", b"long", b"default"]
    desk.clock.go_on(0.001)
    assert delivered(desk.meet(NAME).say(to_hub(NAME, clean=False))) == [(b"long", True), (b"default", True)]
    desk.clock.go_on(3590)
    assert delivered(desk.meet(NAME).say(to_hub(NAME, clean=False))) == []
    assert desk.waiting(NAME) == []


def test_at_most_fifty_messages_wait(desk: Desk) -> None:
    for number in range(MAX_PENDING - 1):
        desk.send(NAME, b"%d" % number)
    desk.send(NAME, b"brief", expiresIn=5)
    with pytest.raises(Refused) as refused:
        desk.send(NAME, b"one too many")
    assert refused.value.refusal is refusals.QUEUE_FULL
    desk.send(OTHER, b"elsewhere is room")
    desk.clock.go_on(5)
    desk.send(NAME, b"in the place of what has expired")
    assert len(desk.waiting(NAME)) == MAX_PENDING


@pytest.mark.parametrize(
    "properties",
    [{"a": "€" * 20_000}, {f"name-{number}": "%" * 100 for number in range(250)}],
    ids=["long", "many"],
)
def test_a_message_whose_properties_do_not_fit_into_a_topic_is_refused(desk: Desk, properties: dict[str, str]) -> None:
    """64 KB of properties take more than that when they are url-encoded, and MQTT has no room for it."""
    line = desk.online(NAME, COMMANDS, clean=False)
    with pytest.raises(Refused) as refused:
        desk.send(NAME, b"", properties=properties)
    assert refused.value.refusal.answer is refusals.Answer.HUB_HTTP
    assert line.hear() == []
    assert desk.meet(NAME).say(to_hub(NAME, clean=False)) == [RESUMED], "and nothing poisons the queue"


def test_a_property_that_is_not_unicode_is_refused(desk: Desk) -> None:
    with pytest.raises(Refused) as refused:
        desk.send(NAME, b"", properties={"a": "\ud800"})
    assert refused.value.refusal is refusals.HUB_BAD_REQUEST


def test_a_subscription_at_qos_0_gets_each_message_once(desk: Desk) -> None:
    line = desk.online(NAME, COMMANDS, qos=0, clean=False)
    desk.send(NAME, b"once")
    assert (one(line.hear()).packet_id, desk.waiting(NAME)) == (None, [])
    line.end()
    desk.send(NAME, b"later")
    sent = desk.meet(NAME).say(to_hub(NAME, clean=False))
    assert delivered(sent) == [(b"later", False)]
    assert numbers(sent) == [None]
    assert desk.waiting(NAME) == []


def test_a_new_quality_of_service_replaces_the_old_for_good(desk: Desk) -> None:
    """https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/mqtt-v3.1.1.html, [MQTT-3.8.4-3]"""
    line = desk.online(NAME, COMMANDS, qos=1, clean=False)
    assert line.say(subscribe(COMMANDS, qos=0)) == [Suback(1, (0,))]
    desk.send(NAME, b"now")
    assert numbers(line.hear()) == [None]
    line.end()
    desk.send(NAME, b"later")
    assert numbers(desk.meet(NAME).say(to_hub(NAME, clean=False))) == [None]


# --- CleanSession -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarts", [False, True])
def test_a_kept_subscription_outlives_connection_and_process(desk: Desk, restarts: bool) -> None:
    line = desk.online(NAME, COMMANDS, clean=False)
    line.say(DISCONNECT)
    line.end()
    desk.send(NAME, b"while away")
    if restarts:
        desk.restart()
    sent = desk.meet(NAME).say(to_hub(NAME, clean=False))
    assert sent[0] == RESUMED
    assert delivered(sent) == [(b"while away", False)]


def test_a_delivery_that_a_restart_has_cut_off_comes_again(desk: Desk) -> None:
    desk.online(NAME, COMMANDS, clean=False)
    desk.send(NAME, b"cut off")
    desk.restart()
    assert delivered(desk.meet(NAME).say(to_hub(NAME, clean=False))) == [(b"cut off", True)]


@pytest.mark.parametrize(
    ("before", "clean", "expected"),
    [
        ([], False, CONNECTED),
        ([TWIN], False, RESUMED),
        ([DESIRED], False, RESUMED),
        ([METHODS], False, RESUMED),
        ([COMMANDS], False, RESUMED),
        ([TWIN, DESIRED, METHODS, COMMANDS], True, CONNECTED),
    ],
)
def test_session_present_says_that_a_subscription_was_kept(
    desk: Desk, before: list[str], clean: bool, expected: Connack
) -> None:
    """https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/mqtt-v3.1.1.html, [MQTT-3.2.2-1] to [MQTT-3.2.2-3]"""
    desk.online(NAME, *before, clean=False).end()
    assert desk.meet(NAME).say(to_hub(NAME, clean=clean)) == [expected]
    assert desk.meet(OTHER).say(to_hub(NAME)) == [Connack(5)], "never with a refusal"


@pytest.mark.parametrize("restarts", [False, True])
def test_a_device_that_comes_back_is_still_subscribed_to_its_twin_and_methods(desk: Desk, restarts: bool) -> None:
    """Microsoft's Python client subscribes once, however often it connects: https://github.com/Azure/iotedge/pull/5048"""
    desk.online(NAME, TWIN, DESIRED, METHODS, clean=False).end()
    if restarts:
        desk.restart()
    line = desk.online(NAME, clean=False)
    desk.change_twin(NAME, {"properties": {"desired": {"a": 1}}})
    assert one(line.hear()).json == {"a": 1, "$version": 2}
    assert desk.call(NAME).forget is not None
    assert one(line.hear()).topic.startswith("$iothub/methods/POST/reboot/")
    assert one(line.say(get_twin(qos=0))).json["desired"] == {"a": 1, "$version": 2}


@pytest.mark.parametrize("how", ["clean", "unsubscribed"])
def test_what_is_not_kept_any_more_is_gone_for_later_connections_too(desk: Desk, how: str) -> None:
    line = desk.online(NAME, TWIN, DESIRED, METHODS, clean=False)
    if how == "unsubscribed":
        line.say(unsubscribe(TWIN, DESIRED, METHODS))
    else:
        line.end()
        line = desk.online(NAME, TWIN, DESIRED, METHODS, clean=True)
    line.end()
    line = desk.online(NAME, clean=False)
    desk.change_twin(NAME, {"properties": {"desired": {"a": 1}}})
    assert desk.call(NAME).forget is None
    assert line.say(get_twin(qos=0)) == []


def test_a_call_that_waits_for_a_device_goes_out_when_it_comes_back(desk: Desk) -> None:
    desk.online(NAME, METHODS, clean=False).end()
    came: list[str] = []
    with desk.services.watching(lambda: came.append("it takes methods")):
        desk.online(NAME, clean=False)
    assert came == ["it takes methods"]


def test_a_clean_session_forgets_the_subscription(desk: Desk) -> None:
    desk.online(NAME, COMMANDS, clean=False).end()
    desk.send(NAME, b"waits")
    clean = desk.online(NAME, clean=True)
    assert clean.hear() == []
    clean.end()
    line = desk.meet(NAME)
    assert line.say(to_hub(NAME, clean=False)) == [CONNECTED], "it was forgotten for later ones, too"
    assert delivered(line.say(subscribe(COMMANDS))) == [(b"waits", False)]


def test_a_clean_session_gets_what_comes_after_its_subscribe(desk: Desk) -> None:
    desk.send(NAME, b"before")
    line = desk.online(NAME, COMMANDS, clean=True)
    assert line.hear() == []
    desk.send(NAME, b"after")
    assert delivered(line.hear()) == [(b"after", False)]
    assert desk.waiting(NAME) == [b"before", b"after"]
    line.end()
    desk.online(NAME, clean=False).end()
    desk.send(NAME, b"not for a clean session's subscription")
    assert desk.meet(NAME).say(to_hub(NAME, clean=False)) == [CONNECTED]


def test_the_suback_goes_before_the_messages_that_waited_for_it(desk: Desk) -> None:
    desk.send(NAME, b"waits")
    line = desk.meet(NAME)
    sent = line.say(to_hub(NAME, clean=False) + subscribe(COMMANDS, TWIN, number=5))
    assert sent[:2] == [CONNECTED, Suback(5, (1, 1))]
    assert delivered(sent[2:]) == [(b"waits", False)]


@pytest.mark.parametrize("clean", [True, False])
def test_an_unsubscribe_ends_it_for_good(desk: Desk, clean: bool) -> None:
    line = desk.online(NAME, COMMANDS, clean=clean)
    assert line.say(unsubscribe(COMMANDS, "unknown/#", number=6)) == [Unsuback(6)]
    desk.send(NAME, b"unheard")
    assert line.hear() == []
    line.end()
    assert desk.meet(NAME).say(to_hub(NAME, clean=False)) == [CONNECTED]
    assert desk.waiting(NAME) == [b"unheard"]


def test_what_is_open_when_it_unsubscribes_can_still_be_acknowledged(desk: Desk) -> None:
    line = desk.online(NAME, COMMANDS)
    desk.send(NAME, b"open")
    line.hear()
    line.say(unsubscribe(COMMANDS), puback(1))
    assert desk.waiting(NAME) == []


def test_another_devices_kept_subscription_is_its_own(desk: Desk) -> None:
    desk.online(NAME, COMMANDS, clean=False).end()
    desk.send(OTHER, b"for the other")
    assert desk.meet(NAME).say(to_hub(NAME, clean=False)) == [RESUMED]
    assert desk.meet(OTHER).say(to_hub(OTHER, clean=False)) == [CONNECTED]
    assert desk.waiting(OTHER) == [b"for the other"]


# --- purge ------------------------------------------------------------------------------------------------------------


def test_a_purge_takes_what_is_on_its_way_too(desk: Desk) -> None:
    line = desk.online(NAME, COMMANDS, clean=False)
    desk.send(NAME, b"on its way")
    (number,) = numbers(line.hear())
    desk.send(OTHER, b"elsewhere")
    assert desk.services.purge_commands(desk.device(NAME)) == 1
    desk.send(NAME, b"after the purge")
    assert delivered(line.hear()) == [(b"after the purge", False)]
    line.say(puback(number or 0))
    assert desk.waiting(NAME) == [b"after the purge"], "the late acknowledgement is nobody's"
    assert desk.waiting(OTHER) == [b"elsewhere"]


def test_a_purge_of_an_offline_device_counts_what_waited(desk: Desk) -> None:
    for body in (b"1", b"2"):
        desk.send(NAME, body)
    desk.send(NAME, b"3", expiresIn=1)
    desk.clock.go_on(1)
    assert desk.services.purge_commands(desk.device(NAME)) == 2
    assert desk.services.purge_commands(desk.device(NAME)) == 0


# --- the Will ---------------------------------------------------------------------------------------------------------


def wills(desk: Desk) -> list[Any]:
    return [one for one in read_messages(desk.path) if one.properties.get("iothub-MessageType") == "Will"]


@pytest.mark.parametrize("ending", ["no DISCONNECT", "violation", "newer connection"])
def test_the_will_is_stored_when_the_connection_breaks(desk: Desk, ending: str) -> None:
    line = desk.online(NAME, will=Will(events(NAME, "room=lab&$.ct=text"), b"farewell", qos=1))
    if ending == "violation":
        line.say(b"\xf0\x00")
    elif ending == "newer connection":
        desk.online(NAME)
    assert wills(desk) == []
    line.end()
    line.end()
    (will,) = wills(desk)
    assert (will.device_id, will.body) == (NAME, b"farewell")
    assert will.properties == {"room": "lab", "iothub-MessageType": "Will"}
    assert will.system_properties["contentType"] == "text"
    assert will.system_properties["connectionDeviceId"] == NAME


def test_a_will_with_retain_says_so(desk: Desk) -> None:
    desk.online(NAME, will=Will(events(NAME), retain=True)).end()
    assert wills(desk)[0].properties == {"mqtt-retain": "true", "iothub-MessageType": "Will"}


def test_after_a_disconnect_there_is_no_will(desk: Desk) -> None:
    line = desk.online(NAME, will=Will(events(NAME)))
    line.say(DISCONNECT)
    assert line.closing
    assert line.refused == []
    line.end()
    assert wills(desk) == []


def test_an_end_of_the_service_itself_is_nobodys_will(desk: Desk) -> None:
    desk.online(NAME, will=Will(events(NAME)))
    desk.restart()
    assert wills(desk) == []


def test_a_reset_leaves_no_last_words_behind(desk: Desk) -> None:
    line = desk.online(NAME, will=Will(events(NAME)))
    desk.services.reset()
    line.end()
    assert line.why_closed == "removed"
    assert wills(desk) == [], "nothing of before the reset comes back"


@pytest.mark.parametrize(
    "will",
    [
        Will(events(OTHER)),
        Will("elsewhere"),
        Will("$iothub/twin/GET/?$rid=1"),
        Will(events(NAME), qos=2),
        Will(f"devices/{NAME}/messages/devicebound/"),
    ],
    ids=lambda will: f"{will.topic} QoS {will.qos}",
)
def test_a_bad_will_closes(desk: Desk, will: Will) -> None:
    line = desk.meet(NAME)
    assert line.say(to_hub(NAME, will=will)) == []
    assert line.why_closed == "bad-will"
    line.end()
    assert desk.messages(NAME) == []
    assert desk.messages(OTHER) == []


def test_the_will_of_a_device_that_was_not_let_in_is_not_stored(desk: Desk) -> None:
    line = desk.meet(OTHER)
    assert line.say(to_hub(NAME, will=Will(events(NAME)))) == [Connack(5)]
    line.end()
    assert desk.messages(NAME) == []


# --- what closes the connection ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "row"),
    [
        (publish(events(NAME), qos=2), "qos-2"),
        (publish(get_topic := "$iothub/twin/GET/?$rid=1", qos=2), "qos-2"),
        (publish("$iothub/twin/GET/"), "unknown-topic"),
        (publish("$iothub/twin/GET/?"), "unknown-topic"),
        (publish("$iothub/twin/PATCH/properties/desired/?$rid=1"), "unknown-topic"),
        (publish("$iothub/methods/res/ok/?$rid=1"), "unknown-topic"),
        (publish("$iothub/methods/POST/reboot/?$rid=1"), "unknown-topic"),
        (publish(f"devices/{NAME}/messages/devicebound/"), "unknown-topic"),
        (publish("nonsense"), "unknown-topic"),
        (register(), "unknown-topic"),
        (publish(events(OTHER)), "foreign-topic"),
        (publish(events(NAME.upper())), "foreign-topic"),
        (subscribe(commands_to(OTHER)), "foreign-topic"),
        (subscribe(f"devices/{NAME}/messages/events/#"), "foreign-topic"),
        (subscribe(TWIN, commands_to(OTHER)), "foreign-topic"),
        (subscribe("#"), "hub-unknown-filter"),
        (subscribe(RESPONSES), "hub-unknown-filter"),
        (subscribe("$iothub/twin/res/200/#"), "hub-unknown-filter"),
        (to_hub(NAME), "protocol-violation"),
        (packet(0x82, b"\x00\x01"), "protocol-violation"),
        (packet(0x32, text(events(NAME)) + b"\x00\x00"), "protocol-violation"),
        (packet(0x62, b"\x00\x01"), "protocol-violation"),
        (b"\xf0\x00", "protocol-violation"),
        (publish(events(NAME), bytes(MAX_MESSAGE + 1)), "too-large"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[:30].hex(),
)
def test_a_violation_closes_without_a_word(desk: Desk, caplog: pytest.LogCaptureFixture, data: bytes, row: str) -> None:
    line = desk.online(NAME)
    assert line.say(data) == []
    assert line.why_closed == row
    (warning,) = warnings(caplog)
    assert "connection closed: " in warning
    assert refusals.ALL[row].hint in warning
    assert desk.messages(NAME) == desk.messages(OTHER) == []


def test_a_rejected_subscribe_subscribes_to_nothing(desk: Desk) -> None:
    line = desk.online(NAME, clean=False)
    line.say(subscribe(COMMANDS, "nonsense"))
    line.end()
    desk.send(NAME, b"unheard")
    assert desk.meet(NAME).say(to_hub(NAME, clean=False)) == [CONNECTED]


def test_who_is_closed_is_not_heard_any_more(desk: Desk) -> None:
    older = desk.online(NAME, TWIN)
    desk.online(NAME)
    assert older.why_closed == "evicted"
    assert older.hear() == []
    assert older.say(publish(events(NAME), b"too late"), report({"late": 1}), PINGREQ) == []
    assert desk.messages(NAME) == []
    assert desk.twin(NAME).reported.values == {}


def test_who_was_deleted_is_not_heard_any_more(desk: Desk) -> None:
    line = desk.online(NAME, COMMANDS, TWIN)
    desk.services.remove(desk.device(NAME))
    desk.add(NAME)
    assert line.why_closed == "removed"
    assert line.say(publish(events(NAME), b"too late"), report({"late": 1})) == []
    assert desk.messages(NAME) == []
    assert desk.twin(NAME).reported.values == {}


@pytest.mark.parametrize("ending", [DISCONNECT, b"\xf0\x00"], ids=["DISCONNECT", "violation"])
def test_nothing_more_is_sent_to_who_is_closed(desk: Desk, ending: bytes) -> None:
    """Its socket may linger for a moment: messages wait for the next connection, a method has nobody to go to."""
    line = desk.online(NAME, COMMANDS, DESIRED, METHODS, clean=False)
    line.say(ending)
    assert line.closing
    desk.send(NAME, b"for the next one")
    desk.change_twin(NAME, {"properties": {"desired": {"a": 1}}})
    assert desk.call(NAME).forget is None
    assert line.hear() == []
    line.end()
    assert delivered(desk.meet(NAME).say(to_hub(NAME, clean=False))) == [(b"for the next one", False)]


def test_a_newer_connection_evicts_the_older(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    older = desk.online(NAME, COMMANDS, METHODS)
    called = desk.call(NAME)
    older.hear()
    changes = older.changes
    newer = desk.online(NAME, COMMANDS)
    assert older.why_closed == "evicted"
    assert older.changes > changes, "its socket is told"
    assert not newer.closing
    desk.send(NAME, b"for the newer one")
    assert older.hear() == []
    assert delivered(newer.hear()) == [(b"for the newer one", False)]
    older.end()
    assert called.heard == ["lost"]
    assert desk.services.is_connected(desk.device(NAME))
    newer.end()
    assert not desk.services.is_connected(desk.device(NAME))
    assert "a newer connection" in caplog.text


def test_who_is_refused_evicts_nobody(desk: Desk) -> None:
    line = desk.online(NAME)
    assert desk.meet(OTHER).say(to_hub(NAME)) == [Connack(5)]
    assert not line.closing


def test_a_module_is_refused_as_a_limit_of_the_emulator(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    line = desk.meet(NAME)
    assert line.say(connect(f"{NAME}/edge", f"127.0.0.1/{NAME}/edge/?api-version=2021-04-12")) == []
    assert line.why_closed == "not-emulated"
    assert "limit of this emulator, not of Azure: a module identity" in caplog.text


def test_a_disabled_device_is_put_out(desk: Desk) -> None:
    line = desk.online(NAME)
    desk.services.drop(desk.device(NAME), refusals.DISABLED_MEANWHILE)
    assert line.why_closed == "disabled-meanwhile"
    assert line.hear() == []


# --- devices with keys ------------------------------------------------------------------------------------------------


def test_a_device_with_keys_logs_in_with_a_token(desk: Desk) -> None:
    desk.add("keyed", primary_key=KEY, secondary_key=SECOND_KEY)
    for key in (KEY, SECOND_KEY):
        line = desk.meet()
        assert line.say(to_hub("keyed", password=desk.token("keyed", key))) == [CONNECTED]
        assert line.say(publish(events("keyed"), b"hi")) == [Puback(7)]
    message = next(read_messages(desk.path))
    auth = '{"scope":"device","type":"sas","issuer":"iothub"}'
    assert message.system_properties["connectionAuthMethod"] == auth


@pytest.mark.parametrize("case", ["no password", "no token", "expired", "another key", "another device", "signature"])
def test_a_token_that_is_not_good_is_refused(desk: Desk, caplog: pytest.LogCaptureFixture, case: str) -> None:
    desk.add("keyed", primary_key=KEY, secondary_key=SECOND_KEY)
    stranger = b64encode(b"x" * 32).decode()
    password = {
        "no password": None,
        "no token": "hunter2",
        "expired": desk.token("keyed", KEY, seconds=0),
        "another key": desk.token("keyed", stranger),
        "another device": desk.token(NAME, KEY),
        "signature": desk.token("keyed", KEY).replace("sig=", "sig=A"),
    }[case]
    line = desk.meet("keyed")
    assert line.say(to_hub("keyed", password=password)) == [Connack(5)]
    assert line.why_closed == "token-not-valid"
    for secret in (KEY, stranger, "hunter2", "sig=", *([password] if password else [])):
        assert secret not in caplog.text


def test_a_token_does_not_help_a_device_that_has_a_certificate(desk: Desk) -> None:
    assert desk.meet().say(to_hub(NAME, password=desk.token(NAME, KEY))) == [Connack(5)]


# --- the log ----------------------------------------------------------------------------------------------------------


def everything_with_a_body(desk: Desk, line: Line) -> list[bytes]:
    """Let every kind of body go over the wire; the bodies."""
    bodies = [f"body-{number}".encode() for number in range(6)]
    telemetry, reported, desired, command, method, answer = bodies
    line.say(publish(events(NAME), telemetry), report({"value": reported.decode()}))
    desk.change_twin(NAME, {"properties": {"desired": {"value": desired.decode()}}})
    desk.send(NAME, command)
    desk.call(NAME, "reboot", b'"' + method + b'"')
    rid = next(p.topic for p in line.hear() if isinstance(p, Published) and "methods" in p.topic).partition("$rid=")[2]
    line.say(method_answer(rid, answer))
    return bodies


@pytest.mark.parametrize("asked", [False, True])
def test_bodies_are_in_the_log_only_where_that_was_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, asked: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    desk = Desk(tmp_path, bodies=asked)
    desk.add(NAME)
    bodies = everything_with_a_body(desk, desk.online(NAME, COMMANDS, TWIN, DESIRED, METHODS))
    desk.enroll(NAME)
    bodies.append(b"in-the-payload")
    desk.at_dps(NAME).say(register(body=b'{"payload": "in-the-payload"}'))
    assert [body.decode() in caplog.text for body in bodies] == [asked] * len(bodies)
    desk.store.close()


@pytest.mark.parametrize("bodies", [False, True])
def test_no_secret_is_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture, bodies: bool) -> None:
    caplog.set_level(logging.DEBUG)
    desk = Desk(tmp_path, bodies=bodies)
    made = desk.add("keyed", primary_key=KEY, secondary_key=SECOND_KEY)
    token = desk.token("keyed", KEY)
    desk.meet().say(to_hub("keyed", password=token), PINGREQ, to_hub("keyed", password=token))
    desk.meet("keyed").say(to_hub("keyed", password="hunter2"))
    desk.meet().say(to_dps("keyed", password=token), subscribe(RESPONSES), register())
    desk.meet("keyed").say(connect("keyed", "nonsense", password=token))
    desk.meet("keyed").say(connect("keyed", "nonsense", password="hunter2", level=5))
    assert caplog.text
    logged = caplog.text + repr(made) + repr(desk.services.faults())
    for secret in (token, "sig=", KEY, SECOND_KEY, "hunter2"):
        assert secret not in logged


@pytest.mark.parametrize(
    "data",
    [
        unsubscribe("a\nb"),
        subscribe("a\nb"),
        method_answer("a\nb"),
        get_twin("a\nb"),
        report(b"a\nb", "a\nb"),
        publish("a\nb"),
        publish(events("a\nb")),
        publish(events(NAME, "$.mid=a\nb"), b"a\nb"),
    ],
    ids=["unsubscribe", "subscribe", "method answer", "twin GET", "twin PATCH", "topic", "foreign topic", "message"],
)
def test_nothing_that_a_device_sends_breaks_a_line_of_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    caplog.set_level(logging.DEBUG)
    desk = Desk(tmp_path, bodies=True)
    desk.add(NAME)
    desk.online(NAME, TWIN).say(data)
    assert all(record.getMessage().isprintable() for record in caplog.records)
    desk.store.close()


# --- DPS: payload and tokens ------------------------------------------------------------------------------------------


def statuses(sent: list[Any]) -> list[str]:
    """The topics of DPS's answers, without their common beginning."""
    return [p.topic.removeprefix("$dps/registrations/res/") for p in sent if isinstance(p, Published)]


def answers(sent: list[Any]) -> list[Any]:
    return [p.json for p in sent if isinstance(p, Published)]


def assigned(line: Line) -> dict[str, Any]:
    """Register and poll once; the state of the registration."""
    (accepted,) = answers(line.say(register(qos=0)))
    (answer,) = answers(line.say(poll(accepted["operationId"], qos=0)))
    return dict(answer["registrationState"])


@pytest.mark.parametrize(
    ("body", "payload"),
    [
        (b"", None),
        (b" ", None),
        (b"{}", None),
        (b'{"payload": {"model": ["a", null]}}', {"model": ["a", None]}),
        (b'{"registrationId": "THERMO-01", "payload": 7}', 7),
        (b'{"payload": "\\ud800"}', "\ud800"),
    ],
)
def test_the_payload_of_a_register_is_kept(desk: Desk, body: bytes, payload: Any) -> None:
    desk.enroll(NAME)
    assert statuses(desk.at_dps(NAME).say(register(body=body))) == ["202/?$rid=1&retry-after=3"]
    kept = desk.store.registration(NAME)
    assert kept is not None
    assert kept.payload == payload


@pytest.mark.parametrize("levels", range(100, 1100, 100))
def test_a_payload_nested_beyond_measure_does_no_harm(desk: Desk, levels: int) -> None:
    desk.enroll(NAME)
    line = desk.at_dps(NAME)
    (status,) = statuses(line.say(register(body=b'{"payload": ' + nested(levels) + b"}", qos=0)))
    assert status.partition("/")[0] in ("202", "400")
    assert not line.closing


def test_a_token_instead_of_a_certificate_is_401000(desk: Desk) -> None:
    desk.enroll(NAME)
    line = desk.meet()
    assert line.say(to_dps(NAME, password=desk.token(NAME, KEY)) + subscribe(RESPONSES))[0] == CONNECTED
    for request in (register(qos=0), poll("5.0.0", qos=0)):
        sent = one(line.say(request))
        assert sent.topic == "$dps/registrations/res/401/?$rid=1"
        assert (sent.json["errorCode"], sent.json["message"]) == (401000, "Unauthorized")
    assert desk.store.registration(NAME) is None
    assert not line.closing


@pytest.mark.parametrize("length", [LONGEST - 45, LONGEST - 46, LONGEST - 60])
def test_a_request_id_as_long_as_a_topic_can_be_harms_nothing_at_dps(desk: Desk, length: int) -> None:
    desk.enroll(NAME)
    desk.at_dps(NAME).say(register("x" * length))
    assert desk.at_dps(NAME).say(PINGREQ) == [Pingresp()]


def test_it_takes_as_long_as_the_service_says(tmp_path: Path) -> None:
    desk = Desk(tmp_path, service={"progress": Progress(seconds=30)})
    desk.enroll(NAME)
    line = desk.at_dps(NAME)
    (accepted,) = answers(line.say(register(qos=0)))
    assert desk.store.device(HUB, NAME) is None
    for seconds, expected in ((29, "202/?$rid=1&retry-after=3"), (1, "200/?$rid=1")):
        desk.clock.go_on(seconds)
        assert statuses(line.say(poll(accepted["operationId"], qos=0))) == [expected]
    assert desk.device(NAME).status == "enabled"
    desk.store.close()


# --- faults at DPS ----------------------------------------------------------------------------------------------------

AT_REGISTER = [kind for kind in KINDS.values() if kind.stage is Stage.REGISTER]
AT_SETTLE = [kind for kind in KINDS.values() if kind.stage is Stage.SETTLE]


@pytest.fixture
def newcomer(desk: Desk) -> Line:
    """A device that is enrolled and has never registered, at DPS."""
    desk.enroll("new-01")
    desk.enroll(OTHER)
    return desk.at_dps("new-01")


@pytest.mark.parametrize(
    "kind",
    [kind for kind in AT_REGISTER if kind.refusal and kind.refusal.answer is refusals.Answer.RESPONSE],
    ids=lambda kind: kind.name,
)
def test_a_fault_answers_in_place_of_dps_once(desk: Desk, newcomer: Line, kind: Any) -> None:
    desk.services.switch_on(Fault(kind.name, "NEW-01", left=1, retry_after=17))
    acknowledged, sent = newcomer.say(register("r"))
    assert acknowledged == Puback(7)
    assert isinstance(sent, Published)
    wait = "&retry-after=17" if kind.refusal.status in (429, 500) else ""
    assert sent.topic == f"$dps/registrations/res/{kind.refusal.status}/?$rid=r{wait}"
    assert (sent.json["errorCode"], sent.json["message"]) == (kind.refusal.code, kind.refusal.text)
    assert not newcomer.closing
    assert desk.store.registration("new-01") is None
    assert desk.services.faults() == []
    assert assigned(newcomer)["substatus"] == "initialAssignment"


def test_silence_is_no_answer_at_all(desk: Desk, newcomer: Line, caplog: pytest.LogCaptureFixture) -> None:
    desk.services.switch_on(Fault("silence"))
    assert newcomer.say(register()) == []
    assert newcomer.say(register(), PINGREQ) == [Pingresp()], "until it is cleared"
    assert not newcomer.closing
    assert desk.store.registration("new-01") is None
    assert "the fault silence is switched on" in caplog.text
    desk.services.clear_faults()
    assert statuses(newcomer.say(register())) == ["202/?$rid=1&retry-after=3"]


def test_a_drop_closes_after_the_register(desk: Desk, newcomer: Line, caplog: pytest.LogCaptureFixture) -> None:
    desk.services.switch_on(Fault("drop", left=1))
    assert statuses(newcomer.say(register())) == []
    assert newcomer.why_closed == "dropped"
    assert desk.store.registration("new-01") is None
    assert "the fault drop is switched on" in caplog.text
    assert assigned(desk.at_dps("new-01"))["status"] == "assigned"


def test_slow_stays_assigning_for_its_seconds(desk: Desk, newcomer: Line) -> None:
    desk.services.switch_on(Fault("slow", left=1, seconds=20))
    (accepted,) = answers(newcomer.say(register(qos=0)))
    for seconds, expected in ((0, "assigning"), (19.9, "assigning"), (0.1, "assigned")):
        assert desk.store.device(HUB, "new-01") is None
        desk.clock.go_on(seconds)
        (answer,) = answers(newcomer.say(poll(accepted["operationId"], qos=0)))
        assert answer["status"] == expected
    assert desk.device("new-01").primary_thumbprint


def test_slow_goes_on_after_a_restart(desk: Desk, newcomer: Line) -> None:
    desk.services.switch_on(Fault("slow", left=1, seconds=20))
    (accepted,) = answers(newcomer.say(register(qos=0)))
    desk.restart()
    desk.clock.go_on(19)
    line = desk.at_dps("new-01")
    assert answers(line.say(poll(accepted["operationId"], qos=0)))[0]["status"] == "assigning"
    desk.clock.go_on(1)
    assert answers(line.say(poll(accepted["operationId"], qos=0)))[0]["status"] == "assigned"


def test_disabled_by_a_fault_leaves_no_trace_of_an_assignment(desk: Desk, newcomer: Line) -> None:
    desk.services.switch_on(Fault("disabled", left=1))
    (answer,) = answers(newcomer.say(register(qos=0)))
    assert answer["status"] == "disabled"
    assert "operationId" not in answer or answer["operationId"] == ""
    kept = desk.store.registration("new-01")
    assert kept is not None
    assert (kept.status, kept.hub, kept.device_id) == (Status.DISABLED, None, None)
    assert desk.store.device(HUB, "new-01") is None
    assert assigned(newcomer)["status"] == "assigned"
    kept = desk.store.registration("new-01")
    assert kept is not None
    assert kept.substatus is Substatus.INITIAL, "it was never assigned before"


def test_disabled_by_a_fault_needs_an_enrollment_too(desk: Desk) -> None:
    desk.services.switch_on(Fault("disabled"))
    assert statuses(desk.at_dps("nobody").say(register(qos=0))) == ["401/?$rid=1"]


@pytest.mark.parametrize("kind", AT_SETTLE, ids=lambda kind: kind.name)
@pytest.mark.parametrize("before", [False, True])
def test_a_registration_fails_and_a_device_stays_where_it_was(
    desk: Desk, newcomer: Line, kind: Any, before: bool
) -> None:
    if before:
        assigned(newcomer)
    desk.services.switch_on(Fault(kind.name, left=1))
    (accepted,) = answers(newcomer.say(register(qos=0)))
    assert accepted["status"] == "assigning"
    (answer,) = answers(newcomer.say(poll(accepted["operationId"], qos=0)))
    state = answer["registrationState"]
    assert (answer["status"], state["errorCode"], state["errorMessage"]) == (
        "failed",
        kind.refusal.code,
        kind.refusal.text,
    )
    assert (desk.store.device(HUB, "new-01") is not None) == before
    again = assigned(newcomer)
    assert (again["status"], again["assignedHub"]) == ("assigned", "127.0.0.1")


def test_a_fault_of_one_device_is_not_that_of_another(desk: Desk, newcomer: Line) -> None:
    desk.services.switch_on(Fault("drop", OTHER))
    desk.services.switch_on(Fault("429"))
    assert statuses(newcomer.say(register(qos=0))) == ["429/?$rid=1&retry-after=3"]
    other = desk.at_dps(OTHER)
    other.say(register(qos=0))
    assert other.why_closed == "dropped"


@pytest.mark.parametrize("code", [3, 5])
def test_faults_refuse_the_connect(desk: Desk, code: int) -> None:
    desk.enroll(NAME)
    desk.services.switch_on(Fault(f"connack-{code}", NAME, left=1))
    desk.services.switch_on(Fault(f"hub-connack-{code}", NAME, left=1))
    for login in (to_dps, to_hub):
        line = desk.meet(NAME)
        assert line.say(login(NAME)) == [Connack(code)]
        assert line.closing
        assert desk.meet(NAME).say(login(NAME)) == [CONNECTED]
        assert desk.meet(OTHER).say(login(OTHER)) == [CONNECTED]


@pytest.mark.parametrize(
    "data", [PINGREQ, subscribe(COMMANDS), unsubscribe(COMMANDS), puback(1), DISCONNECT, publish(events(NAME), b"x")]
)
def test_a_fault_evicts_at_the_next_packet_whatever_it_is(desk: Desk, data: bytes) -> None:
    line, other = desk.online(NAME), desk.online(OTHER)
    desk.services.switch_on(Fault("hub-eviction", NAME, left=1))
    assert other.say(PINGREQ) == [Pingresp()]
    assert line.say(data) == []
    assert line.why_closed == "evicted"
    assert desk.messages(NAME) == []
    assert desk.online(NAME).say(PINGREQ) == [Pingresp()]


def test_faults_outlive_a_restart_and_count_down(desk: Desk) -> None:
    desk.enroll(NAME)
    desk.services.switch_on(Fault("429", left=2))
    desk.at_dps(NAME).say(register())
    desk.restart()
    assert [fault.left for fault in desk.services.faults()] == [1]
    line = desk.at_dps(NAME)
    assert statuses(line.say(register(qos=0), register(qos=0))) == [
        "429/?$rid=1&retry-after=3",
        "202/?$rid=1&retry-after=3",
    ]


# --- rate limits ------------------------------------------------------------------------------------------------------


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path, limits=Limits())
    for name in (NAME, OTHER):
        made.enroll(name)
    yield made
    made.store.close()


def test_a_device_may_poll_five_times_in_ten_seconds(limited: Desk, caplog: pytest.LogCaptureFixture) -> None:
    line, other = limited.at_dps(NAME), limited.at_dps(OTHER)
    operation, foreign = (answers(one.say(register(qos=0)))[0]["operationId"] for one in (line, other))
    for _ in range(5):
        assert statuses(line.say(poll(operation, qos=0))) == ["200/?$rid=1"]
        limited.clock.go_on(1)
    sent = one(line.say(poll(operation, qos=0)))
    assert sent.topic == "$dps/registrations/res/429/?$rid=1&retry-after=5"
    assert sent.json["errorCode"] == 429001
    assert "5 in 10 s" in caplog.text
    assert statuses(other.say(poll(foreign, qos=0))) == ["200/?$rid=1"]
    line = limited.at_dps(NAME)
    assert statuses(line.say(poll(operation, qos=0))) == ["429/?$rid=1&retry-after=5"], "by its name"
    limited.clock.go_on(4.5)
    assert statuses(line.say(poll(operation, qos=0))) == ["429/?$rid=1&retry-after=1"]
    limited.clock.go_on(0.5)
    assert statuses(line.say(poll(operation, qos=0))) == ["200/?$rid=1"]


def test_all_devices_together_may_register_a_thousand_times_a_minute(limited: Desk) -> None:
    line, other = limited.at_dps(NAME), limited.at_dps(OTHER)
    for _ in range(5):
        assert set(statuses(line.say(register(qos=0) * 200))) == {"202/?$rid=1&retry-after=3"}
    limited.clock.go_on(12)
    kept = limited.store.registration(OTHER)
    assert statuses(other.say(register(qos=0))) == ["429/?$rid=1&retry-after=48"]
    assert limited.store.registration(OTHER) == kept, "nothing has changed"
    limited.clock.go_on(48)
    assert statuses(other.say(register(qos=0))) == ["202/?$rid=1&retry-after=3"]


def test_the_certificate_of_each_device_is_its_own() -> None:
    """What these tests stand on: devices differ, and the same name is the same device."""
    assert certificate(NAME) != certificate(OTHER)
    assert certificate(NAME) == certificate(NAME)


# --- a device that does not read --------------------------------------------------------------------------------------


def test_who_does_not_read_is_not_answered_any_further_and_nothing_is_lost(desk: Desk) -> None:
    """1,000 questions with answers of 30 KB each: the memory that they take is bounded, and the order is kept."""
    line = desk.online(NAME, TWIN)
    line.say(report({f"k{number}": "x" * 4000 for number in range(7)}))
    line.conversation.receive(b"".join(get_twin(number, qos=0) for number in range(1000)))
    assert line.conversation.halted
    waiting = len(line.conversation.outbox)
    assert 1 << 20 < waiting < (1 << 20) + 65_536
    line.conversation.receive(get_twin("late", qos=0))
    assert len(line.conversation.outbox) == waiting, "what comes meanwhile waits, too"
    topics: list[str] = []
    for _ in range(100):
        topics += [sent.topic for sent in line.hear() if isinstance(sent, Published)]
        if not line.conversation.halted:
            break
        line.conversation.resume()
    assert topics == [f"$iothub/twin/res/200/?$rid={rid}" for rid in (*range(1000), "late")]


# --- the log ----------------------------------------------------------------------------------------------------------


def test_the_log_tells_how_a_device_went(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    first = desk.online(NAME)
    first.say(DISCONNECT)
    first.end()
    desk.online(NAME).end()
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if "DISCONNECT" in line or "gone" in line] == [
        "c1 < DISCONNECT",
        f"c1 = {NAME} has gone",
        f"c2 = {NAME} has gone without a DISCONNECT",
    ]


@pytest.mark.parametrize(
    "data", [subscribe(*[TWIN] * 15_000), unsubscribe(*["y" * 65_000] * 4), unsubscribe(*["z"] * 20_000)]
)
def test_a_packet_of_thousands_of_filters_is_a_short_line(
    desk: Desk, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    caplog.set_level("INFO")
    desk.online(NAME).say(data)
    assert max(len(record.getMessage()) for record in caplog.records) < 700


@pytest.mark.parametrize("place", ["client ID", "host", "device ID", "user name", "topic"])
def test_a_token_in_the_wrong_place_loses_its_signature_in_the_log(
    desk: Desk, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    caplog.set_level("INFO")
    secret = "SharedAccessSignature sr=h&sig=SECRET%2Bxyz&se=1"
    user = f"{HOST}/{NAME}/?api-version=2021-04-12"
    data = {
        "client ID": connect(secret, user),
        "host": connect(NAME, f"{secret}/{NAME}/?api-version=2021-04-12"),
        "device ID": connect(secret, f"{HOST}/{secret}/?api-version=2021-04-12"),
        "user name": connect(NAME, secret),
        "topic": to_hub(NAME) + publish(f"nowhere/{secret}"),
    }[place]
    desk.meet(NAME).say(data)
    assert "sig=***" in caplog.text
    assert "SECRET" not in caplog.text


def test_a_log_of_bodies_is_without_keys(tmp_path: Path) -> None:
    services = Desk(tmp_path, bodies=True).services
    body = b'{"authentication": {"symmetricKey": {"primaryKey": "QUJD", "secondaryKey" : "REVG"}}, "room": "lab"}'
    shown = services.body(body)
    assert "lab" in shown
    assert "QUJD" not in shown
    assert "REVG" not in shown
    assert "U0VD" not in services.body(b"HostName=h;SharedAccessKey=U0VDUkVU and SharedAccessSignature sr=h&sig=U0VD")
