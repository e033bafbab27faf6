"""Whole conversations, driven with bytes: what each packet is answered with, what is stored before, who is closed."""

import logging
from dataclasses import replace

import pytest
from wire import (
    CONNECTED,
    DISCONNECT,
    HOST,
    HUB,
    PINGREQ,
    RESPONSES,
    Connack,
    Desk,
    Line,
    Pingresp,
    Puback,
    Published,
    Sent,
    Unsuback,
    Will,
    certificate,
    connect,
    events,
    one,
    packet,
    poll,
    publish,
    register,
    subscribe,
    text,
    thumbprint,
    to_dps,
    to_hub,
    unsubscribe,
)

from dpsx_helpers.emulator import dps
from dpsx_helpers.emulator.identity import Device
from dpsx_helpers.emulator.records import Status
from dpsx_helpers.emulator.store import Store, read_messages

NAME = "thermo-01"


def provision(desk: Desk) -> None:
    """The device is enrolled and assigned."""
    desk.enroll(NAME)
    line = desk.at_dps(NAME)
    line.say(register())
    line.end()


@pytest.fixture
def at_dps(desk: Desk) -> Line:
    """The enrolled device, let in by DPS and subscribed to its answers."""
    desk.enroll(NAME)
    return desk.at_dps(NAME)


@pytest.fixture
def at_hub(desk: Desk) -> Line:
    """The provisioned device on its connection to the hub, a second later."""
    provision(desk)
    desk.clock.go_on(1)
    return desk.online(NAME)


def answered(sent: list[Sent]) -> Published:
    """The one PUBLISH at QoS 0 that was sent."""
    found = one(sent)
    assert found.packet_id is None
    return found


def reason(caplog: pytest.LogCaptureFixture) -> str:
    """The one warning of this test."""
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "Remedy: " in warning
    return warning


# --- DPS --------------------------------------------------------------------------------------------------------------


def test_a_registration_from_connect_to_assigned(desk: Desk, at_dps: Line) -> None:
    acknowledged, *others = at_dps.say(register("a-1", b'{"payload": null}'))
    assert acknowledged == Puback(7), "the PUBACK comes first"
    accepted = answered(others)
    assert accepted.topic == "$dps/registrations/res/202/?$rid=a-1&retry-after=3"
    assert list(accepted.json) == ["operationId", "status"]
    result = answered(at_dps.say(poll(accepted.json["operationId"], "b 2", qos=0)))
    assert result.topic == "$dps/registrations/res/200/?$rid=b 2"
    assert (result.json["status"], result.json["operationId"]) == ("assigned", accepted.json["operationId"])
    assert result.json["registrationState"]["assignedHub"] == HOST
    assert at_dps.say(PINGREQ) == [Pingresp()]
    assert at_dps.say(DISCONNECT) == []
    assert at_dps.closing
    assert desk.device(NAME).primary_thumbprint == thumbprint(certificate(NAME))


def test_a_poll_that_changes_nothing_stores_nothing(desk: Desk, at_dps: Line) -> None:
    _, accepted = at_dps.say(register())
    operation = answered([accepted]).json["operationId"]
    kept = desk.store.registration(NAME)
    at_dps.conversation.receive(poll(operation))
    assert not desk.store.commit(), "there was nothing to commit"
    assert at_dps.conversation.outbox, "and there is an answer"
    assert desk.store.registration(NAME) == kept


def test_a_poll_that_is_counted_is_stored(desk: Desk) -> None:
    desk.services.dps = replace(desk.services.dps, progress=dps.Progress(polls=2))
    desk.enroll(NAME)
    line = desk.at_dps(NAME)
    operation = answered([line.say(register())[-1]]).json["operationId"]
    assert answered([line.say(poll(operation))[-1]]).json["status"] == "assigning"
    kept = desk.store.registration(NAME)
    assert kept is not None
    assert kept.polls == 1


def test_who_registers_again_is_stored_anew_in_the_hub_only_with_another_certificate(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    provision(desk)
    before, twin_before = desk.device(NAME), desk.twin(NAME)
    written: list[Device] = []
    put = desk.store.add_device
    monkeypatch.setattr(desk.store, "add_device", lambda device, twin: (written.append(device), put(device, twin)))
    provision(desk)
    assert (desk.device(NAME), desk.twin(NAME), written) == (before, twin_before, [])
    desk.store.put_device(replace(before, primary_thumbprint="00" * 32))
    provision(desk)
    assert desk.device(NAME) == replace(before, version=before.version + 1)
    assert written == [desk.device(NAME)]


def test_a_refused_registration_is_answered_and_the_connection_stays(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    line = desk.at_dps(NAME)
    refused = answered(line.say(register(qos=0)))
    assert refused.topic == "$dps/registrations/res/401/?$rid=1"
    assert list(refused.json) == ["errorCode", "trackingId", "message", "timestampUtc"]
    assert (refused.json["errorCode"], refused.json["message"]) == (401002, "Unauthorized")
    assert f"there is no enrollment for registration ID '{NAME}'" in reason(caplog)
    assert not line.closing
    desk.enroll(NAME)
    assert answered(line.say(register(2, qos=0))).topic.startswith("$dps/registrations/res/202/")


def test_a_disabled_enrollment_is_told_stored_and_explained(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.enroll(NAME, enabled=False)
    told = answered(desk.at_dps(NAME).say(register(qos=0)))
    assert (told.topic, told.json["status"]) == ("$dps/registrations/res/200/?$rid=1", "disabled")
    kept = desk.store.registration(NAME)
    assert kept is not None
    assert kept.status is Status.DISABLED
    assert "is disabled" in reason(caplog)


def test_nothing_is_in_the_outbox_before_its_records_are_written(desk: Desk, at_dps: Line) -> None:
    at_dps.conversation.receive(register())
    assert at_dps.conversation.outbox
    assert desk.store.registration(NAME) is not None
    assert desk.store.device(HUB, NAME) is not None
    other = Store(desk.path)
    assert other.device(HUB, NAME) is None, "not committed yet: the caller does that before it sends"
    desk.store.commit()
    assert other.device(HUB, NAME) is not None
    other.close()


def test_an_unsubscribed_device_has_nowhere_to_be_answered(at_dps: Line, caplog: pytest.LogCaptureFixture) -> None:
    assert at_dps.say(unsubscribe(RESPONSES, number=9)) == [Unsuback(9)]
    assert at_dps.say(register()) == []
    assert at_dps.closing
    assert "before it subscribed" in reason(caplog)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (subscribe("$dps/registrations/res/1/#"), "topic filter"),
        (subscribe("#"), "topic filter '#'"),
        (publish("$dps/registrations/PUT/other/?$rid=1"), "which the service does not have"),
        (publish(events(NAME)), "which the service does not have"),
        (register(qos=2), "at QoS 2"),
        (register(body=bytes(96 * 1024 + 1)), "the limit is 98304"),
        (to_dps(NAME), "CONNECT came while connected"),
        (b"\xf0\x00", "packet type 15"),
    ],
)
def test_a_violation_at_dps_closes_without_a_word_and_is_explained(
    at_dps: Line, caplog: pytest.LogCaptureFixture, data: bytes, words: str
) -> None:
    assert at_dps.say(data) == []
    assert at_dps.closing
    assert words in reason(caplog)


# --- connecting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (to_dps(NAME, scope="0ne00000000"), 3, "asked for ID scope '0ne00000000'; this DPS has '0ne00111111'"),
        (to_dps("another"), 5, f"the certificate's subject says CN='{NAME}'"),
        (connect(NAME, "nonsense"), 5, "neither the form of DPS nor that of a hub"),
        (connect(NAME, None, clean=False), 5, "neither the form of DPS nor that of a hub"),
        (to_hub(NAME), 5, f"has no device '{NAME}'"),
        (packet(0x10, b"\x00\x04MQTT\x05\x02\x00\x3c\x00" + text(NAME)), 1, "does not speak MQTT 3.1.1"),
    ],
)
def test_a_refused_connect_gets_its_connack_and_the_log_the_reason(
    desk: Desk, caplog: pytest.LogCaptureFixture, data: bytes, code: int, words: str
) -> None:
    line = desk.meet(NAME)
    assert line.say(data) == [Connack(code)]
    assert line.closing
    assert not line.conversation.connected
    assert words in reason(caplog)
    assert line.say(to_dps(NAME)) == [], "a closed connection hears nothing more"


def test_without_a_certificate_nobody_enters(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    assert desk.meet().say(to_dps(NAME, password="secret")) == [Connack(5)]
    assert "sent no client certificate" in reason(caplog)
    assert "secret" not in caplog.text


def test_a_certificate_that_cannot_be_read_is_refused(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    assert desk.meet(der=b"\x30\x00").say(to_dps(NAME)) == [Connack(5)]
    assert "cannot be read as X.509" in reason(caplog)


def test_a_will_at_dps_is_named_as_a_limit_of_the_emulator(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    line = desk.meet(NAME)
    assert line.say(to_dps(NAME, will=Will("topic"))) == []
    assert line.closing
    assert "limit of this emulator, not of Azure: a Will" in reason(caplog)


def test_a_packet_before_connect_closes(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    line = desk.meet(NAME)
    assert line.say(PINGREQ) == []
    assert line.closing
    assert "PINGREQ came while awaiting CONNECT" in reason(caplog)
    assert "a client that has not connected" in line.conversation.name


def test_the_keep_alive_of_the_connect_is_kept(desk: Desk) -> None:
    line = desk.meet(NAME)
    line.say(to_dps(NAME, keep_alive=17))
    assert (line.conversation.keep_alive, line.conversation.connected) == (17, True)


# --- the hub ----------------------------------------------------------------------------------------------------------


def test_telemetry_is_stored_before_it_is_acknowledged(desk: Desk, at_hub: Line) -> None:
    topic = events(NAME, "$.mid=1")
    at_hub.conversation.receive(publish(topic, b"one", number=1) + publish(topic, b"two", qos=0))
    assert list(read_messages(desk.path)) == [], "not committed yet"
    assert at_hub.hear() == [Puback(1)], "QoS 0 is not acknowledged"
    assert [message.body for message in read_messages(desk.path)] == [b"one", b"two"]


def test_the_log_has_a_line_for_each_step(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    provision(desk)
    line = desk.online(NAME)
    line.say(publish(events(NAME)))
    line.end()
    hub_lines = [record.getMessage() for record in caplog.records if record.name.endswith(".hub")]
    assert hub_lines == [
        f"c2 < CONNECT {NAME} (api-version 2021-04-12)",
        "c2 > CONNACK 0",
        f"c2 < {NAME}: 1 message(s) stored and acknowledged",
        f"c2 = {NAME} has gone without a DISCONNECT",
    ]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (subscribe("$iothub/twin/res/1/#"), "topic filter '$iothub/twin/res/1/#', which a hub does not have"),
        (subscribe("#"), "topic filter '#', which a hub does not have"),
        (subscribe("devices/other/messages/devicebound/#"), "of another device"),
        (publish("$iothub/twin/GET/?rid=1"), "which the service does not have"),
        (publish(events("other")), "of another device"),
        (publish("something"), "which the service does not have"),
        (publish(events(NAME), qos=2), "at QoS 2"),
        (publish(events(NAME), bytes(256 * 1024 + 1)), "the limit is 262144"),
        (to_hub(NAME), "CONNECT came while connected"),
    ],
)
def test_a_violation_at_the_hub_closes_without_a_word_and_is_explained(
    desk: Desk, at_hub: Line, caplog: pytest.LogCaptureFixture, data: bytes, words: str
) -> None:
    assert at_hub.say(data) == []
    assert at_hub.closing
    assert words in reason(caplog)
    assert list(read_messages(desk.path)) == []


def test_what_came_before_a_violation_in_the_same_bytes_counts(desk: Desk, at_hub: Line) -> None:
    good, late = publish(events(NAME), b"good"), publish(events(NAME), b"too late")
    assert at_hub.say(good + b"\x00\x00" + late) == [Puback(7)]
    assert at_hub.closing
    assert [message.body for message in read_messages(desk.path)] == [b"good"]


def test_an_unsubscribe_is_acknowledged(at_hub: Line) -> None:
    assert at_hub.say(unsubscribe("anything", number=9)) == [Unsuback(9)]


# --- who else is there ------------------------------------------------------------------------------------------------


def test_a_newer_connection_of_a_device_takes_the_place_of_the_older(
    desk: Desk, at_hub: Line, caplog: pytest.LogCaptureFixture
) -> None:
    newer = desk.meet(NAME)
    changes = at_hub.changes
    assert newer.say(to_hub(NAME)) == [CONNECTED]
    assert at_hub.closing
    assert at_hub.changes > changes, "its socket is told"
    assert "a newer connection" in reason(caplog)
    at_hub.end()
    made = desk.device(NAME)
    assert desk.services.is_connected(made), "the older one takes nothing with it"
    newer.end()
    assert not desk.services.is_connected(made)


def test_at_dps_nobody_evicts_anybody(desk: Desk, at_dps: Line) -> None:
    """After a refusal the Python SDK stays connected; a second try of the same program must not fight with it."""
    again, stranger = desk.meet(NAME), desk.meet(der=certificate(NAME, 1))
    assert (again.say(to_dps(NAME)), stranger.say(to_dps(NAME))) == ([CONNECTED], [CONNECTED])
    assert [line.closing for line in (at_dps, again, stranger)] == [False] * 3
    desk.services.reset()
    assert [line.closing for line in (at_dps, again, stranger)] == [True] * 3


def test_a_deleted_device_is_put_out(desk: Desk, at_hub: Line, caplog: pytest.LogCaptureFixture) -> None:
    made = desk.device(NAME)
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
    assert desk.store.device(HUB, NAME) is None
    assert desk.services.hub_at(HOST.upper()) == HUB
    assert desk.services.hub_at("elsewhere") is None


def test_connecting_is_noted_as_activity(desk: Desk, at_hub: Line) -> None:
    made = desk.device(NAME)
    assert made.last_activity > made.created
