"""Cloud-to-device messages: what may be queued, for how long, how often it is delivered, and its topic.

https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-messages-c2d
"""

from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refused import bad_at_hub, outcome, refusal

from dpsx_helpers.emulator import commands, mqtt, refusals, topics
from dpsx_helpers.emulator.commands import Command
from dpsx_helpers.emulator.refusals import Refused
from dpsx_helpers.emulator.stamps import Stamp

NOW = datetime(2022, 8, 27, 17, 53, 19, tzinfo=UTC)
GUID = "120086f2-76fe-4341-9214-bb6cfb891b8a"
NAME = "thermo-01"
KB = 1024
PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


def stamp(second: int = 0) -> Stamp:
    return Stamp(NOW + timedelta(seconds=second), GUID)


def seconds(second: float = 0) -> float:
    """That moment in unix seconds."""
    return NOW.timestamp() + second


def enqueue(body: bytes = b"", *, pending: int = 0, second: int = 0, **given_settings: Any) -> Command:
    return commands.enqueue("hub-1", NAME, pending, body, given_settings, stamp(second))


BAD_PROPERTIES = bad_at_hub(
    "properties are texts under names of 1 to 128 printable ASCII characters that do not begin with $."
)
BAD_ID = bad_at_hub("messageId is not 1 to 128 printable ASCII characters")
BAD_TIME = bad_at_hub("expiresIn is not a number of seconds up to 172800")


# --- what is queued ---------------------------------------------------------------------------------------------------


def test_the_limits_are_those_of_the_documentation() -> None:
    assert (commands.MAX_MESSAGE, commands.MAX_PENDING, commands.MAX_DELIVERIES) == (65_536, 50, 10)
    assert (commands.TIME_TO_LIVE, commands.LONGEST_TIME_TO_LIVE) == (3600, 2 * 24 * 3600)


@pytest.mark.parametrize("settings", [{}, {"properties": None, "messageId": None, "expiresIn": None}])
def test_a_message_without_settings_lives_an_hour_under_a_new_id(settings: dict[str, Any]) -> None:
    assert asdict(enqueue(b"\x00body", **settings)) == {
        "hub": "hub-1",
        "device_id": NAME,
        "message_id": GUID,
        "properties": {},
        "body": b"\x00body",
        "enqueued": "2022-08-27T17:53:19.0000000Z",
        "expires": seconds(3600),
        "deliveries": 0,
        "number": 0,
    }


def test_a_message_has_the_settings_that_were_sent() -> None:
    command = enqueue(b"on", properties={"level": "7", "empty": ""}, messageId="m-1", expiresIn=90, deviceId="unread")
    assert (command.properties, command.message_id) == ({"level": "7", "empty": ""}, "m-1")
    assert command.expires == seconds(90)


def test_a_body_is_not_shown_by_accident() -> None:
    assert "secret" not in repr(enqueue(b"secret"))


@pytest.mark.parametrize("value", [0.5, 1, 59.25, 3600, 172_799.5, 172_800, 172_800.0])
def test_a_time_to_live_of_up_to_two_days_is_kept(value: float) -> None:
    assert enqueue(expiresIn=value).expires == seconds(value)


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        172_800.001,
        172_801,
        10**400,
        float("inf"),
        float("nan"),
        True,
        False,
        "60",
        "",
        [60],
        {},
        {"seconds": 60},
    ],
)
def test_any_other_time_to_live_is_refused(value: Any) -> None:
    assert refusal(lambda: enqueue(expiresIn=value)) == BAD_TIME


@pytest.mark.parametrize("message_id", ["m", "m" * 128, PRINTABLE])
def test_a_message_id_of_printable_ascii_is_kept(message_id: str) -> None:
    assert enqueue(messageId=message_id).message_id == message_id


@pytest.mark.parametrize("message_id", ["m" * 129, "a b", "ä", "a\n", "\x7f", "\ud800", 7, True, ["m"], {"m": 1}])
def test_any_other_message_id_is_refused(message_id: Any) -> None:
    assert refusal(lambda: enqueue(messageId=message_id)) == BAD_ID


@pytest.mark.parametrize("name", ["n", "n" * 128, PRINTABLE])
def test_a_property_has_a_name_of_printable_ascii(name: str) -> None:
    assert enqueue(properties={name: "value"}).properties == {name: "value"}


@pytest.mark.parametrize("value", ["", "text", "two words", "é and 値", "a&b=c/d+e%f#g"])
def test_a_property_may_be_any_text(value: str) -> None:
    assert enqueue(properties={"name": value}).properties == {"name": value}


@pytest.mark.parametrize(
    "properties",
    [
        {"": "value"},
        {"n" * 129: "value"},
        {"a b": "value"},
        {"ä": "value"},
        {"a\n": "value"},
        {"good": "value", "bad": 7},
        {"bad": None},
        {"bad": True},
        {"bad": ["value"]},
        {"bad": {}},
        ["name"],
        "name",
        7,
        True,
    ],
)
def test_other_properties_are_refused(properties: Any) -> None:
    assert refusal(lambda: enqueue(properties=properties)) == BAD_PROPERTIES


def test_half_a_surrogate_pair_is_no_text_that_could_be_sent() -> None:
    row, reason = refusal(lambda: enqueue(properties={"name": "\ud800"}))
    assert row is refusals.HUB_BAD_REQUEST
    assert "properties" in reason


# --- size and number --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "properties"),
    [
        (64 * KB, {}),
        (64 * KB - 9, {"name": "value"}),
        (64 * KB - 10, {"a": "12", "b": "é", "cd": "e", "f": ""}),
        (4 * KB, {"name": "x" * 20 * KB, "next": "y" * 20 * KB, "last": "z" * (20 * KB - 12)}),
    ],
)
def test_body_and_properties_together_may_have_64_kb(body: int, properties: dict[str, str]) -> None:
    assert len(enqueue(bytes(body), properties=properties).body) == body
    assert refusal(lambda: enqueue(bytes(body + 1), properties=properties)) == (
        refusals.COMMAND_TOO_LARGE,
        "the cloud-to-device message has 65537 bytes; the limit is 65536",
    )
    assert refusal(lambda: enqueue(bytes(body), properties=properties | {"more": ""}))[0] is refusals.COMMAND_TOO_LARGE


def test_fifty_may_wait_for_a_device() -> None:
    assert enqueue(b"the fiftieth", pending=49).body == b"the fiftieth"
    for pending in (50, 51):
        assert refusal(lambda pending=pending: enqueue(pending=pending)) == (  # type: ignore[misc]
            refusals.QUEUE_FULL,
            "50 cloud-to-device messages wait for device 'thermo-01', which is the limit",
        )


# --- expiry -----------------------------------------------------------------------------------------------------------


def waiting(*, expires: float = 60, deliveries: int = 0, number: int = 1) -> Command:
    return replace(enqueue(), expires=seconds(expires), deliveries=deliveries, number=number)


def test_a_message_lives_until_its_time_and_not_a_moment_longer() -> None:
    command = waiting(expires=60)
    assert commands.expired([command], seconds(59.999)) == []
    assert commands.expired([command], seconds(60)) == [command]
    assert commands.expired([command], seconds(61)) == [command]


@pytest.mark.parametrize("deliveries", range(12))
def test_after_ten_deliveries_without_an_acknowledgement_it_is_given_up(deliveries: int) -> None:
    command = waiting(deliveries=deliveries)
    assert commands.given_up(command) == (deliveries >= 10)
    assert commands.expired([command], seconds()) == [], "its time is not over"


def test_those_that_are_over_come_in_the_order_of_the_queue() -> None:
    queue = [
        waiting(number=1, expires=5),
        waiting(number=2, expires=60),
        waiting(number=3, expires=-1, deliveries=10),
    ]
    assert [command.number for command in commands.expired(iter(queue), seconds(5))] == [1, 3]
    assert commands.expired([], seconds()) == []


ACTIONS = st.lists(
    st.tuples(st.just("send"), st.integers(1, 40), st.integers(1, 30))  # time to live, how many
    | st.tuples(st.just("wait"), st.integers(1, 20), st.just(1))
    | st.tuples(st.just("deliver"), st.just(0), st.integers(1, 4))
    | st.tuples(st.just("acknowledge"), st.integers(0, 60), st.just(1)),
    max_size=25,
)


@given(ACTIONS)
def test_never_more_than_fifty_live_and_none_is_delivered_late(
    actions: list[tuple[str, int, int]],
) -> None:
    queue: list[Command] = []
    now, number = 0, 0

    def pending() -> list[Command]:
        """As the hub asks: what is over goes away now."""
        over = commands.expired(queue, seconds(now))
        queue[:] = [command for command in queue if command not in over and not commands.given_up(command)]
        return queue

    for action, value, times in actions:
        for _ in range(times):
            alive = len(pending())
            if action == "wait":
                now += value
            elif action == "acknowledge" and value < alive:
                del queue[value]
            elif action == "deliver":
                queue[:] = [replace(command, deliveries=command.deliveries + 1) for command in pending()]
                assert all(command.deliveries <= 10 for command in queue)
            elif action == "send":
                number += 1
                settings: dict[str, Any] = {"expiresIn": value, "messageId": f"{now + value}"}
                made = outcome(partial(enqueue, pending=alive, second=now, **settings))
                assert isinstance(made, Command) == (alive < 50)
                if isinstance(made, Command):
                    queue.append(replace(made, number=number))
                else:
                    assert made.refusal is refusals.QUEUE_FULL
            assert len(pending()) <= 50
            assert all(int(command.message_id) > now for command in queue), "the ID says when its time is over"
            assert all(command.deliveries < 10 for command in queue)
            assert [command.number for command in queue] == sorted(command.number for command in queue)


# --- the topic --------------------------------------------------------------------------------------------------------


def bag(command: Command) -> dict[str, str | None]:
    """What a device reads from the topic."""
    head, _, rest = commands.topic(command).partition("/messages/devicebound/")
    assert head == f"devices/{command.device_id}"
    return topics.parse_bag(rest)


def test_a_topic_has_system_and_application_properties() -> None:
    command = enqueue(messageId="m-1", properties={"level": "7", "text": "a b"})
    assert commands.topic(command) == (
        "devices/thermo-01/messages/devicebound/"
        "%24.mid=m-1&%24.to=%2Fdevices%2Fthermo-01%2Fmessages%2FdeviceBound&level=7&text=a%20b"
    )


@given(st.dictionaries(st.text(st.sampled_from(PRINTABLE), min_size=1, max_size=9), st.text(max_size=9), max_size=5))
def test_a_device_reads_the_properties_that_were_sent(properties: dict[str, str]) -> None:
    own = {name: value for name, value in properties.items() if not name.startswith("$.")}
    found = bag(enqueue(properties=own, messageId=PRINTABLE))
    assert found == {"$.mid": PRINTABLE, "$.to": f"/devices/{NAME}/messages/deviceBound"} | own


@pytest.mark.parametrize("name", ["$.mid", "$.to"])
def test_an_application_property_does_not_take_the_place_of_a_system_property(name: str) -> None:
    found = outcome(lambda: enqueue(messageId="m-1", properties={name: "forged"}))
    assert "properties" in found.reason if isinstance(found, Refused) else bag(found)[name] != "forged"


@pytest.mark.parametrize("sign", ["x", " ", "é"])
def test_what_is_queued_fits_into_a_topic_of_mqtt(sign: str) -> None:
    """A topic has at most 65,535 bytes (https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/mqtt-v3.1.1.html, section 1.5.3).

    What could never be sent would stay in the queue and stop every message after it.
    """
    room = 65_535 - len(commands.topic(enqueue(properties={"a": ""})))
    size = len(commands.topic(enqueue(properties={"a": sign}))) - 65_535 + room
    text = sign * (room // size) + "x" * (room % size)
    command = enqueue(properties={"a": text})
    assert len(commands.topic(command)) == 65_535
    assert commands.topic(command).encode() in mqtt.publish(commands.topic(command), command.body, 1)
    row, _ = refusal(lambda: enqueue(properties={"a": text + "x"}))
    assert row in (refusals.HUB_BAD_REQUEST, refusals.COMMAND_TOO_LARGE)
