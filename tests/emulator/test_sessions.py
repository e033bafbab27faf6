"""Whole conversations, driven with bytes: what each packet is answered with, what is stored before, who is closed."""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from pki import Device, make_device

from dpsx_helpers.emulator import dps
from dpsx_helpers.emulator.records import Enrollment, Status
from dpsx_helpers.emulator.services import Services
from dpsx_helpers.emulator.sessions import Conversation
from dpsx_helpers.emulator.store import Store, read_messages

SCOPE, HOST = "0ne00111111", "127.0.0.1"
NOW = datetime.now(UTC)
NAME = "thermo-01"
RESPONSES = "$dps/registrations/res/#"
REGISTER = "$dps/registrations/PUT/iotdps-register/?$rid={}"
POLL = "$dps/registrations/GET/iotdps-get-operationstatus/?$rid={}&operationId={}"
CONNACK_0, PINGRESP = b"\x20\x02\x00\x00", b"\xd0\x00"


# --- what a client sends, and how it reads what comes back ------------------------------------------------------------


def text(value: str) -> bytes:
    return len(value.encode()).to_bytes(2) + value.encode()


def packet(first: int, body: bytes) -> bytes:
    length, size = bytearray(), len(body)
    while True:
        size, digit = divmod(size, 128)
        length.append(digit | (0x80 if size else 0))
        if not size:
            return bytes([first]) + bytes(length) + body


def connect(client_id: str, username: str, *, keep_alive: int = 60, password: str = "", will: bool = False) -> bytes:
    flags = 0x80 | (0x40 if password else 0) | (0x04 if will else 0)
    body = b"\x00\x04MQTT\x04" + bytes([flags]) + keep_alive.to_bytes(2) + text(client_id)
    body += (text("topic") + text("gone")) if will else b""
    return packet(0x10, body + text(username) + (text(password) if password else b""))


def to_dps(name: str = NAME, scope: str = SCOPE, **more: str) -> bytes:
    return connect(name, f"{scope}/registrations/{name}/api-version=2019-03-31", **more)  # type: ignore[arg-type]


def to_hub(name: str = NAME, **more: str) -> bytes:
    return connect(name, f"{HOST}/{name}/?api-version=2021-04-12", **more)  # type: ignore[arg-type]


def subscribe(topic: str, qos: int = 1, number: int = 1) -> bytes:
    return packet(0x82, number.to_bytes(2) + text(topic) + bytes([qos]))


def publish(topic: str, payload: bytes = b"", qos: int = 1, number: int = 7) -> bytes:
    return packet(0x30 | qos << 1, text(topic) + (number.to_bytes(2) if qos else b"") + payload)


def published(sent: bytes) -> tuple[str, dict[str, object]]:
    """(topic, body) of the one PUBLISH at QoS 0 that was sent."""
    assert sent[0] == 0x30
    length, position = 0, 1
    while True:
        length |= (sent[position] & 0x7F) << 7 * (position - 1)
        position += 1
        if not sent[position - 1] & 0x80:
            break
    assert len(sent) == position + length, "nothing else was sent"
    end = position + 2 + int.from_bytes(sent[position : position + 2])
    return sent[position + 2 : end].decode(), json.loads(sent[end:])


# --- a service with two devices ---------------------------------------------------------------------------------------


class Desk:
    """DPS with one hub on a store of its own, and a clock that goes on by a second with each request."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "emulator.db"
        self.store = Store(self.path)
        self.device, self.stranger = make_device(folder, NAME), make_device(folder, NAME)
        moments, guids = count(), count()
        self.services = Services(
            self.store,
            dps.Service(SCOPE, {"hub-1": HOST}),
            lambda: NOW + timedelta(seconds=next(moments)),
            lambda: f"{next(guids):08x}-0000-4000-8000-000000000000",
        )
        self._labels = count(1)

    def enroll(self, **changes: object) -> None:
        plain = Enrollment(NAME, self.device.der, None, None, True, (), {}, {}, '"e"', "then", "then")
        self.store.put_enrollment(replace(plain, **changes))  # type: ignore[arg-type]
        self.store.commit()

    def meet(self, device: Device | None = None) -> "Line":
        der = None if device is None else device.der
        return Line(self, f"c{next(self._labels)}", der)

    def provisioned(self) -> None:
        """The device is enrolled and assigned."""
        self.enroll()
        line = self.meet(self.device)
        line.say(to_dps() + subscribe(RESPONSES))
        line.say(publish(REGISTER.format(1)))
        line.conversation.ended()


class Line:
    """One connection as its socket would see it."""

    def __init__(self, desk: Desk, label: str, der: bytes | None) -> None:
        self.desk = desk
        self.changes = 0
        self.conversation = Conversation(desk.services, label, lambda: () if der is None else (der,), self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def say(self, data: bytes) -> bytes:
        """Send, let the store commit, and read the answer."""
        self.conversation.receive(data)
        return self.hear()

    def hear(self) -> bytes:
        self.desk.store.commit()
        self.conversation.committed()
        sent = bytes(self.conversation.outbox)
        self.conversation.outbox.clear()
        return sent

    @property
    def closing(self) -> bool:
        return self.conversation.closing


@pytest.fixture
def desk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Desk]:
    caplog.set_level(logging.INFO, "dpsx_helpers.emulator")
    made = Desk(tmp_path)
    yield made
    made.store.close()


@pytest.fixture
def at_dps(desk: Desk) -> Line:
    """The enrolled device, let in by DPS and subscribed to its answers."""
    desk.enroll()
    line = desk.meet(desk.device)
    assert line.say(to_dps()) == CONNACK_0
    assert line.say(subscribe(RESPONSES)) == b"\x90\x03\x00\x01\x01"
    return line


@pytest.fixture
def at_hub(desk: Desk) -> Line:
    """The provisioned device on its connection to the hub."""
    desk.provisioned()
    line = desk.meet(desk.device)
    assert line.say(to_hub()) == CONNACK_0
    return line


def reason(caplog: pytest.LogCaptureFixture) -> str:
    """The one warning of this test."""
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "Remedy: " in warning
    return warning


# --- DPS --------------------------------------------------------------------------------------------------------------


def test_a_registration_from_connect_to_assigned(desk: Desk, at_dps: Line) -> None:
    acknowledged, rest = (sent := at_dps.say(publish(REGISTER.format("a-1"), b'{"payload": null}')))[:4], sent[4:]
    assert acknowledged == b"\x40\x02\x00\x07", "the PUBACK comes first"
    topic, accepted = published(rest)
    assert topic == "$dps/registrations/res/202/?$rid=a-1&retry-after=3"
    assert list(accepted) == ["operationId", "status"]
    topic, answer = published(at_dps.say(publish(POLL.format("b 2", accepted["operationId"]), b" ", qos=0)))
    assert topic == "$dps/registrations/res/200/?$rid=b 2"
    assert (answer["status"], answer["operationId"]) == ("assigned", accepted["operationId"])
    assert answer["registrationState"]["assignedHub"] == HOST  # type: ignore[index]
    assert at_dps.say(b"\xc0\x00") == PINGRESP
    assert at_dps.say(b"\xe0\x00") == b""
    assert at_dps.closing
    made = desk.store.device("hub-1", NAME)
    assert made is not None
    assert made.primary_thumbprint == desk.device.thumbprint


def test_a_refused_registration_is_answered_and_the_connection_stays(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    line = desk.meet(desk.device)
    line.say(to_dps() + subscribe(RESPONSES))
    topic, error = published(line.say(publish(REGISTER.format(1), qos=0)))
    assert topic == "$dps/registrations/res/401/?$rid=1"
    assert list(error) == ["errorCode", "trackingId", "message", "timestampUtc"]
    assert (error["errorCode"], error["message"]) == (401002, "Unauthorized")
    assert f"there is no enrollment for registration ID '{NAME}'" in reason(caplog)
    assert not line.closing
    desk.enroll()
    assert published(line.say(publish(REGISTER.format(2), qos=0)))[0].startswith("$dps/registrations/res/202/")


def test_a_disabled_enrollment_is_told_stored_and_explained(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.enroll(enabled=False)
    line = desk.meet(desk.device)
    line.say(to_dps() + subscribe(RESPONSES))
    topic, answer = published(line.say(publish(REGISTER.format(1), qos=0)))
    assert (topic, answer["status"]) == ("$dps/registrations/res/200/?$rid=1", "disabled")
    kept = desk.store.registration(NAME)
    assert kept is not None
    assert kept.status is Status.DISABLED
    assert "is disabled" in reason(caplog)


def test_nothing_is_in_the_outbox_before_its_records_are_written(desk: Desk, at_dps: Line) -> None:
    at_dps.conversation.receive(publish(REGISTER.format(1)))
    assert at_dps.conversation.outbox
    assert desk.store.registration(NAME) is not None
    assert desk.store.device("hub-1", NAME) is not None
    other = Store(desk.path)
    assert other.device("hub-1", NAME) is None, "not committed yet: the caller does that before it sends"
    desk.store.commit()
    assert other.device("hub-1", NAME) is not None
    other.close()


def test_an_unsubscribed_device_has_nowhere_to_be_answered(at_dps: Line, caplog: pytest.LogCaptureFixture) -> None:
    assert at_dps.say(packet(0xA2, b"\x00\x09" + text(RESPONSES))) == b"\xb0\x02\x00\x09"
    assert at_dps.say(publish(REGISTER.format(1))) == b""
    assert at_dps.closing
    assert "before it subscribed" in reason(caplog)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (subscribe("$dps/registrations/res/1/#"), "topic filter"),
        (subscribe("#"), "topic filter '#'"),
        (publish("$dps/registrations/PUT/other/?$rid=1"), "which the service does not have"),
        (publish(f"devices/{NAME}/messages/events/"), "which the service does not have"),
        (publish(REGISTER.format(1), qos=2), "at QoS 2"),
        (publish(REGISTER.format(1), bytes(96 * 1024 + 1)), "the limit is 98304"),
        (to_dps(), "CONNECT came while connected"),
        (b"\xf0\x00", "packet type 15"),
    ],
)
def test_a_violation_at_dps_closes_without_a_word_and_is_explained(
    at_dps: Line, caplog: pytest.LogCaptureFixture, data: bytes, words: str
) -> None:
    assert at_dps.say(data) == b""
    assert at_dps.closing
    assert words in reason(caplog)


# --- connecting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (to_dps(scope="0ne00000000"), 3, "asked for ID scope '0ne00000000'; this DPS has '0ne00111111'"),
        (to_dps("another"), 5, f"the certificate's subject says CN='{NAME}'"),
        (connect(NAME, "nonsense"), 5, "neither the form of DPS nor that of a hub"),
        (packet(0x10, b"\x00\x04MQTT\x04\x00\x00\x3c" + text(NAME)), 5, "neither the form of DPS nor that of a hub"),
        (to_hub(), 5, f"has no device '{NAME}'"),
        (packet(0x10, b"\x00\x04MQTT\x05\x02\x00\x3c\x00" + text(NAME)), 1, "does not speak MQTT 3.1.1"),
    ],
)
def test_a_refused_connect_gets_its_connack_and_the_log_the_reason(
    desk: Desk, caplog: pytest.LogCaptureFixture, data: bytes, code: int, words: str
) -> None:
    line = desk.meet(desk.device)
    assert line.say(data) == bytes([0x20, 2, 0, code])
    assert line.closing
    assert not line.conversation.connected
    assert words in reason(caplog)
    assert line.say(to_dps()) == b"", "a closed connection hears nothing more"


def test_without_a_certificate_nobody_enters(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    line = desk.meet(None)
    assert line.say(to_dps(password="secret")) == bytes([0x20, 2, 0, 5])
    assert "sent no client certificate" in reason(caplog)
    assert "secret" not in caplog.text


def test_a_certificate_that_cannot_be_read_is_refused(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    line = Line(desk, "c1", b"\x30\x00")
    assert line.say(to_dps()) == bytes([0x20, 2, 0, 5])
    assert "cannot be read as X.509" in reason(caplog)


def test_a_will_at_dps_is_named_as_a_limit_of_the_emulator(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    line = desk.meet(desk.device)
    assert line.say(to_dps(will=True)) == b""  # type: ignore[arg-type]
    assert line.closing
    assert "limit of this emulator, not of Azure: a Will" in reason(caplog)


def test_a_packet_before_connect_closes(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    line = desk.meet(desk.device)
    assert line.say(b"\xc0\x00") == b""
    assert line.closing
    assert "PINGREQ came while awaiting CONNECT" in reason(caplog)
    assert "a client that has not connected" in line.conversation.name


def test_the_keep_alive_of_the_connect_is_kept(desk: Desk) -> None:
    desk.enroll()
    line = desk.meet(desk.device)
    line.say(to_dps(keep_alive=17))  # type: ignore[arg-type]
    assert (line.conversation.keep_alive, line.conversation.connected) == (17, True)


# --- the hub ----------------------------------------------------------------------------------------------------------


def test_telemetry_is_stored_before_it_is_acknowledged(desk: Desk, at_hub: Line) -> None:
    topic = f"devices/{NAME}/messages/events/$.mid=1"
    at_hub.conversation.receive(publish(topic, b"one", number=1) + publish(topic, b"two", qos=0))
    assert list(read_messages(desk.path)) == [], "not committed yet"
    assert at_hub.hear() == b"\x40\x02\x00\x01", "QoS 0 is not acknowledged"
    assert [message.body for message in read_messages(desk.path)] == [b"one", b"two"]


def test_the_log_has_a_line_for_each_step(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.provisioned()
    line = desk.meet(desk.device)
    line.say(to_hub())
    line.say(publish(f"devices/{NAME}/messages/events/"))
    line.conversation.ended()
    hub_lines = [record.getMessage() for record in caplog.records if record.name.endswith(".hub")]
    assert hub_lines == [
        f"c2 < CONNECT {NAME} (api-version 2021-04-12)",
        "c2 > CONNACK 0",
        f"c2 < {NAME}: 1 message(s) stored and acknowledged",
        f"c2 = {NAME} has gone",
    ]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (subscribe("$iothub/twin/res/1/#"), "topic filter '$iothub/twin/res/1/#', which a hub does not have"),
        (subscribe("#"), "topic filter '#', which a hub does not have"),
        (subscribe("devices/other/messages/devicebound/#"), "of another device"),
        (publish("$iothub/twin/GET/?rid=1"), "which the service does not have"),
        (publish("devices/other/messages/events/"), "of another device"),
        (publish("something"), "which the service does not have"),
        (publish(f"devices/{NAME}/messages/events/", qos=2), "at QoS 2"),
        (publish(f"devices/{NAME}/messages/events/", bytes(256 * 1024)), "the limit is 262144"),
        (to_hub(), "CONNECT came while connected"),
    ],
)
def test_a_violation_at_the_hub_closes_without_a_word_and_is_explained(
    desk: Desk, at_hub: Line, caplog: pytest.LogCaptureFixture, data: bytes, words: str
) -> None:
    assert at_hub.say(data) == b""
    assert at_hub.closing
    assert words in reason(caplog)
    assert list(read_messages(desk.path)) == []


def test_what_came_before_a_violation_in_the_same_bytes_counts(desk: Desk, at_hub: Line) -> None:
    topic = f"devices/{NAME}/messages/events/"
    assert at_hub.say(publish(topic, b"good") + b"\x00\x00" + publish(topic, b"too late")) == b"\x40\x02\x00\x07"
    assert at_hub.closing
    assert [message.body for message in read_messages(desk.path)] == [b"good"]


def test_an_unsubscribe_is_acknowledged(at_hub: Line) -> None:
    assert at_hub.say(packet(0xA2, b"\x00\x09" + text("anything"))) == b"\xb0\x02\x00\x09"


# --- who else is there ------------------------------------------------------------------------------------------------


def test_a_newer_connection_of_a_device_takes_the_place_of_the_older(
    desk: Desk, at_hub: Line, caplog: pytest.LogCaptureFixture
) -> None:
    newer = desk.meet(desk.device)
    changes = at_hub.changes
    assert newer.say(to_hub()) == CONNACK_0
    assert at_hub.closing
    assert at_hub.changes > changes, "its socket is told"
    assert "a newer connection" in reason(caplog)
    at_hub.conversation.ended()
    made = desk.store.device("hub-1", NAME)
    assert made is not None
    assert desk.services.is_connected(made), "the older one takes nothing with it"
    newer.conversation.ended()
    assert not desk.services.is_connected(made)


def test_at_dps_nobody_evicts_anybody(desk: Desk, at_dps: Line) -> None:
    """After a refusal the Python SDK stays connected; a second try of the same program must not fight with it."""
    again, stranger = desk.meet(desk.device), desk.meet(desk.stranger)
    assert (again.say(to_dps()), stranger.say(to_dps())) == (CONNACK_0, CONNACK_0)
    assert [line.closing for line in (at_dps, again, stranger)] == [False] * 3
    desk.services.reset()
    assert [line.closing for line in (at_dps, again, stranger)] == [True] * 3


def test_a_deleted_device_is_put_out(desk: Desk, at_hub: Line, caplog: pytest.LogCaptureFixture) -> None:
    made = desk.store.device("hub-1", NAME)
    assert made is not None
    desk.services.drop(replace(made, device_id="somebody else"))
    assert not at_hub.closing
    desk.services.drop(made)
    assert at_hub.closing
    assert "was deleted while it was connected" in reason(caplog)


def test_a_reset_forgets_records_and_puts_everybody_out(desk: Desk, at_hub: Line) -> None:
    desk.services.reset()
    desk.store.commit()
    assert at_hub.closing
    assert desk.store.enrollment(NAME) is None
    assert desk.store.device("hub-1", NAME) is None
    assert desk.services.hub_at(HOST.upper()) == "hub-1"
    assert desk.services.hub_at("elsewhere") is None


def test_connecting_is_noted_as_activity(desk: Desk, at_hub: Line) -> None:
    made = desk.store.device("hub-1", NAME)
    assert made is not None
    assert made.last_activity > made.created
