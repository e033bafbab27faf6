"""One MQTT connection as the server sees it: every packet, every violation, and any bytes at all.

The packets are put together here by hand, after https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/mqtt-v3.1.1.html.
"""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpsx_helpers.emulator import mqtt
from dpsx_helpers.emulator.mqtt import (
    MAX_PACKET,
    Connect,
    Connection,
    Disconnect,
    Packet,
    PingReq,
    ProtocolViolation,
    PubAck,
    Publish,
    State,
    Subscribe,
    Unsubscribe,
    UnsupportedProtocol,
    Will,
)

PINGREQ, DISCONNECT = b"\xc0\x00", b"\xe0\x00"


def text(value: str | bytes) -> bytes:
    """A string with its length in front."""
    encoded = value.encode() if isinstance(value, str) else value
    return len(encoded).to_bytes(2, "big") + encoded


def header(first: int, length: int) -> bytes:
    """A fixed header: the remaining length in as few bytes as it takes, seven bits in each, the lowest first."""
    encoded = bytearray([first])
    while True:
        length, digit = divmod(length, 128)
        encoded.append(digit | (0x80 if length else 0))
        if not length:
            return bytes(encoded)


def packet(first: int, body: bytes) -> bytes:
    return header(first, len(body)) + body


def connect(
    flags: int = 0x02, fields: bytes = text("d"), keep_alive: int = 60, protocol: bytes = b"\x00\x04MQTT\x04"
) -> bytes:
    return packet(0x10, protocol + bytes([flags]) + keep_alive.to_bytes(2, "big") + fields)


def subscribe(packet_id: int, *filters: tuple[str | bytes, int]) -> bytes:
    body = b"".join(text(topic) + bytes([qos]) for topic, qos in filters)
    return packet(0x82, packet_id.to_bytes(2, "big") + body)


def received(*chunks: bytes) -> list[Packet]:
    """What a fresh connection makes of the chunks, one after the other."""
    connection = Connection()
    return [found for chunk in chunks for found in connection.receive(chunk)]


def after_connect(data: bytes) -> list[Packet]:
    first, *others = received(connect(), data)
    assert first == Connect("d", None, 60, True)
    return others


def violation(data: bytes, *, connected: bool = True) -> ProtocolViolation:
    """The violation that `data` is. The connection must be shut by it for good."""
    connection = Connection()
    if connected:
        assert len(list(connection.receive(connect()))) == 1
    with pytest.raises(ProtocolViolation) as caught:
        list(connection.receive(data))
    assert connection.state is State.CLOSED
    assert list(connection.receive(PINGREQ + connect())) == []
    return caught.value


# --- framing ----------------------------------------------------------------------------------------------------------

PUBLISHED = Publish("devices/d/messages/events/", bytes(200), 1, 7)
STREAM = (
    connect(0x80, text("d") + text("0ne/registrations/d/api-version=2019-03-31"))
    + subscribe(1, ("$dps/registrations/res/#", 1))
    + packet(0x32, text("devices/d/messages/events/") + b"\x00\x07" + bytes(200))
    + PINGREQ
    + packet(0x40, b"\x01\x02")
    + packet(0xA2, b"\x00\x09" + text("a"))
    + DISCONNECT
)
PACKETS = [
    Connect("d", "0ne/registrations/d/api-version=2019-03-31", 60, False),
    Subscribe(1, (("$dps/registrations/res/#", 1),)),
    PUBLISHED,
    PingReq(),
    PubAck(0x0102),
    Unsubscribe(9, ("a",)),
    Disconnect(),
]


def test_packets_come_out_of_single_bytes() -> None:
    assert received(*(STREAM[at : at + 1] for at in range(len(STREAM)))) == PACKETS


def test_several_packets_come_in_one_chunk() -> None:
    assert received(STREAM) == PACKETS


def test_a_packet_comes_with_its_last_byte_and_not_before() -> None:
    connection = Connection()
    assert list(connection.receive(connect()[:-1])) == []
    assert connection.state.name == "AWAITING_CONNECT"
    assert list(connection.receive(connect()[-1:])) == [Connect("d", None, 60, True)]
    assert connection.state.name == "CONNECTED"


@given(st.lists(st.integers(1, len(STREAM) - 1), unique=True).map(sorted))
@settings(deadline=None)
def test_a_stream_chopped_anywhere_is_the_same_packets(cuts: list[int]) -> None:
    chunks = [STREAM[start:end] for start, end in pairwise([0, *cuts, len(STREAM)])]
    assert received(*chunks) == PACKETS


@pytest.mark.parametrize("size", [0, 127, 128, 16_383, 16_384, 256 * 1024])
def test_a_length_takes_as_many_bytes_as_it_needs(size: int) -> None:
    topic = text("a")
    assert after_connect(packet(0x30, topic + bytes(size)) + PINGREQ) == [Publish("a", bytes(size), 0, None), PingReq()]


def test_a_length_written_wider_than_needed_is_taken() -> None:
    assert after_connect(b"\xc0\x80\x00" + PINGREQ) == [PingReq(), PingReq()]


def test_the_largest_packet_is_taken() -> None:
    topic = "t" * 65_535
    payload = bytes(MAX_PACKET - len(text(topic)) - 2)
    assert after_connect(packet(0x32, text(topic) + b"\x00\x01" + payload)) == [Publish(topic, payload, 1, 1)]
    # A hub's largest message fits under the longest topic, and little more does: who sends more wants only memory.
    assert 256 * 1024 <= len(payload) < 256 * 1024 + 16


@pytest.mark.parametrize("length", [MAX_PACKET + 1, 268_435_455], ids=["one more", "the most MQTT has"])
def test_a_larger_packet_is_refused_before_it_has_come(length: int) -> None:
    assert str(length) in str(violation(header(0x30, length)))


@pytest.mark.parametrize("connected", [True, False])
def test_a_length_of_five_bytes_is_refused(connected: bool) -> None:
    assert "four bytes" in str(violation(b"\x30\x80\x80\x80\x80", connected=connected))


def test_a_length_of_four_bytes_is_waited_for() -> None:
    assert after_connect(b"\xc0\x80\x80\x80") == []
    assert after_connect(b"\xc0\x80\x80\x80\x00") == [PingReq()]


# --- what each packet says --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "fields", "expected"),
    [
        (0x00, text("d"), Connect("d", None, 60, False)),
        (0x02, text("d"), Connect("d", None, 60, True)),
        (0x02, text(""), Connect("", None, 60, True)),
        (0x80, text("d") + text("user"), Connect("d", "user", 60, False)),
        (0x80, text("d") + text(""), Connect("d", "", 60, False)),
        (0xC2, text("é") + text("u") + text("p"), Connect("é", "u", 60, True, password="p")),
        (0xC2, text("d") + text("u") + text(""), Connect("d", "u", 60, True, password="")),
        (0x06, text("d") + text("w") + text(b"\xff"), Connect("d", None, 60, True, Will("w", b"\xff", 0, False))),
        (0x36, text("d") + text("w") + text(""), Connect("d", None, 60, True, Will("w", b"", 2, True))),
        (
            0xCE,
            text("d") + text("w") + text("m") + text("u") + text("p"),
            Connect("d", "u", 60, True, Will("w", b"m", 1, False), "p"),
        ),
    ],
)
def test_a_connect_tells_who_comes(flags: int, fields: bytes, expected: Connect) -> None:
    assert received(connect(flags, fields)) == [expected]


@pytest.mark.parametrize("keep_alive", [0, 1, 256, 65_535])
def test_the_keep_alive_is_in_seconds(keep_alive: int) -> None:
    assert received(connect(keep_alive=keep_alive)) == [Connect("d", None, keep_alive, True)]


def test_an_empty_client_id_stays_empty_and_is_not_made_up() -> None:
    (found,) = received(connect(fields=text("")))
    assert isinstance(found, Connect)
    assert found.client_id == ""


def test_neither_password_nor_payload_is_in_the_representation() -> None:
    login, message = received(
        connect(0xC2, text("d") + text("u") + text("canary-1")), packet(0x30, text("a") + b"canary-2")
    )
    assert isinstance(login, Connect)
    assert isinstance(message, Publish)
    assert (login.password, message.payload) == ("canary-1", b"canary-2")
    assert "canary" not in repr(login) + str(message)


@pytest.mark.parametrize(("qos", "dup"), [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)])
@pytest.mark.parametrize("retain", [0, 1])
def test_a_publish_carries_its_flags(qos: int, dup: int, retain: int) -> None:
    data = packet(0x30 | dup << 3 | qos << 1 | retain, text("a/b") + (b"\xff\xfe" if qos else b"") + b"\x00x")
    assert after_connect(data) == [Publish("a/b", b"\x00x", qos, 0xFFFE if qos else None, bool(retain), bool(dup))]


def test_a_payload_may_be_empty_and_a_topic_is_utf_8() -> None:
    assert after_connect(packet(0x30, text("a/é/☃"))) == [Publish("a/é/☃", b"", 0, None)]


def test_a_subscribe_keeps_its_filters_in_order() -> None:
    assert after_connect(subscribe(0x0203, ("b/#", 2), ("a/+", 0), ("b/#", 1))) == [
        Subscribe(0x0203, (("b/#", 2), ("a/+", 0), ("b/#", 1)))
    ]


def test_an_unsubscribe_keeps_its_filters_in_order() -> None:
    assert after_connect(packet(0xA2, b"\x02\x03" + text("b/#") + text("a"))) == [Unsubscribe(0x0203, ("b/#", "a"))]


def test_puback_pingreq_and_disconnect() -> None:
    assert after_connect(packet(0x40, b"\xff\xff") + PINGREQ + DISCONNECT) == [PubAck(65_535), PingReq(), Disconnect()]


# --- violations -------------------------------------------------------------------------------------------------------

WELL_FORMED = {
    "PUBACK": (0x40, b"\x00\x01"),
    "SUBSCRIBE": (0x80, b"\x00\x01" + text("a") + b"\x00"),
    "UNSUBSCRIBE": (0xA0, b"\x00\x01" + text("a")),
    "PINGREQ": (0xC0, b""),
    "DISCONNECT": (0xE0, b""),
}
PRESCRIBED = {"SUBSCRIBE": 2, "UNSUBSCRIBE": 2}


@pytest.mark.parametrize("name", WELL_FORMED)
def test_only_the_prescribed_flags_are_taken(name: str) -> None:
    first, body = WELL_FORMED[name]
    for flags in range(16):
        data = packet(first | flags, body)
        if flags == PRESCRIBED.get(name, 0):
            assert len(after_connect(data)) == 1
        else:
            assert f"{flags:04b} are reserved" in str(violation(data))


@pytest.mark.parametrize("flags", range(1, 16))
def test_a_connect_has_no_flags_in_its_first_byte(flags: int) -> None:
    assert "reserved" in str(violation(bytes([0x10 | flags]) + connect()[1:], connected=False))


@pytest.mark.parametrize("kind", [0, 2, 5, 6, 7, 9, 11, 13, 15])
@pytest.mark.parametrize("connected", [True, False])
def test_what_only_servers_send_or_nobody_is_refused(kind: int, connected: bool) -> None:
    data = packet(kind << 4 | (2 if kind == 6 else 0), b"\x00\x01")
    assert f"packet type {kind} " in str(violation(data, connected=connected))


@pytest.mark.parametrize(
    ("first", "body", "reason"),
    [
        pytest.param(0x36, text("a") + b"\x00\x01", "QoS 3", id="publish at QoS 3"),
        pytest.param(0x32, text("a") + b"\x00\x00x", "identifier of 0", id="publish with id 0"),
        pytest.param(0x40, b"\x00\x00", "identifier of 0", id="puback with id 0"),
        pytest.param(0x82, b"\x00\x00" + text("a") + b"\x01", "identifier of 0", id="subscribe with id 0"),
        pytest.param(0xA2, b"\x00\x00" + text("a"), "identifier of 0", id="unsubscribe with id 0"),
        pytest.param(0x30, b"", "malformed", id="publish without a topic"),
        pytest.param(0x30, b"\x00\x05ab", "malformed", id="publish with half a topic"),
        pytest.param(0x32, text("a"), "malformed", id="publish without its id"),
        pytest.param(0x32, text("a") + b"\x01", "malformed", id="publish with half an id"),
        pytest.param(0x30, text("a/#"), "malformed", id="publish to a filter with #"),
        pytest.param(0x30, text("a/+/b"), "malformed", id="publish to a filter with +"),
        pytest.param(0x40, b"", "nothing else", id="puback without an id"),
        pytest.param(0x40, b"\x00", "nothing else", id="puback with half an id"),
        pytest.param(0x40, b"\x00\x01\x00", "nothing else", id="puback with more"),
        pytest.param(0x82, b"", "exactly", id="subscribe without an id"),
        pytest.param(0x82, b"\x00\x01", "at least one filter", id="subscribe to nothing"),
        pytest.param(0x82, b"\x00\x01" + text("a"), "exactly", id="subscribe without a QoS"),
        pytest.param(0x82, b"\x00\x01" + text("a") + b"\x01\x00", "exactly", id="subscribe with a byte more"),
        pytest.param(0x82, b"\x00\x01\x00\x05ab", "exactly", id="subscribe to half a filter"),
        pytest.param(0x82, b"\x00\x01" + text("a") + b"\x03", "QoS 0, 1 or 2", id="subscribe at QoS 3"),
        pytest.param(0x82, b"\x00\x01" + text("a") + b"\x81", "QoS 0, 1 or 2", id="subscribe with reserved bits"),
        pytest.param(0x82, b"\x00\x01" + text("a") + b"\x00" + text("b") + b"\x03", "QoS 0", id="the second at QoS 3"),
        pytest.param(0x82, b"\x00\x01" + text(b"\xff") + b"\x01", "exactly", id="subscribe to no UTF-8"),
        pytest.param(0xA2, b"\x00", "exactly", id="unsubscribe with half an id"),
        pytest.param(0xA2, b"\x00\x01", "at least one filter", id="unsubscribe from nothing"),
        pytest.param(0xA2, b"\x00\x01" + text("a") + b"\x00", "exactly", id="unsubscribe with a byte more"),
        pytest.param(0xA2, b"\x00\x01" + text(b"a\xed\xa0\x80"), "exactly", id="unsubscribe from a surrogate"),
        pytest.param(0xC0, b"x", "no body", id="pingreq with a body"),
        pytest.param(0xE0, b"x", "no body", id="disconnect with a body"),
    ],
)
def test_a_packet_that_breaks_a_rule_is_refused(first: int, body: bytes, reason: str) -> None:
    found = violation(packet(first, body))
    assert reason in str(found)
    assert not isinstance(found, UnsupportedProtocol)


@pytest.mark.parametrize("topic", [b"\xff\xfe", b"devices/d/\xff", b"\xed\xa0\x80", b"devices/d/\0", b""])
def test_a_publish_to_a_topic_that_is_not_utf_8_text_is_refused(topic: bytes) -> None:
    assert "topic" in str(violation(packet(0x30, text(topic) + b"payload")))


def test_a_publish_at_qos_0_is_never_a_second_try() -> None:
    assert "QoS 0" in str(violation(packet(0x38, text("devices/d") + b"payload")))


@pytest.mark.parametrize(
    ("flags", "fields", "reason"),
    [
        pytest.param(0x03, text("d"), "contradict", id="reserved flag"),
        pytest.param(0x42, text("d") + text("p"), "contradict", id="password without a user name"),
        pytest.param(0x1E, text("d") + text("w") + text("m"), "contradict", id="Will at QoS 3"),
        pytest.param(0x02, b"", "exactly", id="no client id"),
        pytest.param(0x02, b"\x00", "exactly", id="half a length"),
        pytest.param(0x02, b"\x00\x05ab", "exactly", id="half a client id"),
        pytest.param(0x02, text("d") + b"x", "exactly", id="a byte more"),
        pytest.param(0x02, text("d") + text("user"), "exactly", id="a user name not announced"),
        pytest.param(0x82, text("d") + b"\x00\x05ab", "exactly", id="half a user name"),
        pytest.param(0xC2, text("d") + text("u") + b"\x00\x05ab", "exactly", id="half a password"),
        pytest.param(0x06, text("d") + text("w"), "exactly", id="Will without a message"),
        pytest.param(0x02, text(b"\xff"), "exactly", id="client id is no UTF-8"),
        pytest.param(0x82, text("d") + text(b"a\xff"), "exactly", id="user name is no UTF-8"),
    ],
)
def test_a_connect_that_breaks_a_rule_is_refused(flags: int, fields: bytes, reason: str) -> None:
    found = violation(connect(flags, fields), connected=False)
    assert reason in str(found)
    assert not isinstance(found, UnsupportedProtocol)


@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        pytest.param(0x82, text("d"), id="user name"),
        pytest.param(0xC2, text("d") + text("u"), id="password"),
        pytest.param(0x06, text("d"), id="Will"),
    ],
)
def test_a_connect_lacking_an_announced_field_is_refused(flags: int, fields: bytes) -> None:
    violation(connect(flags, fields), connected=False)


@pytest.mark.parametrize("flags", [0x0A, 0x12, 0x22, 0x2A])
def test_will_qos_and_will_retain_need_a_will(flags: int) -> None:
    assert "contradict" in str(violation(connect(flags), connected=False))


@pytest.mark.parametrize("size", range(10))
def test_a_connect_cut_off_in_its_header_is_refused(size: int) -> None:
    found = violation(packet(0x10, b"\x00\x04MQTT\x04\x02\x00\x3c"[:size]), connected=False)
    assert not isinstance(found, UnsupportedProtocol), "too short to tell which version it speaks"


@pytest.mark.parametrize(
    "protocol",
    [
        pytest.param(b"\x00\x04MQTT\x05", id="MQTT 5"),
        pytest.param(b"\x00\x06MQIsdp\x03", id="MQTT 3.1"),
        pytest.param(b"\x00\x04MQTT\x03", id="level 3"),
        pytest.param(b"\x00\x04MQTT\x84", id="a bridge"),
        pytest.param(b"\x00\x04mqtt\x04", id="lower case"),
        pytest.param(b"\x00\x06MQTT\x04\x02", id="length does not fit"),
    ],
)
def test_another_protocol_is_told_apart_from_a_broken_one(protocol: bytes) -> None:
    assert isinstance(violation(connect(protocol=protocol), connected=False), UnsupportedProtocol)


def test_a_second_connect_is_refused() -> None:
    assert "CONNECT came while connected" in str(violation(connect()))


@pytest.mark.parametrize("name", [*WELL_FORMED, "PUBLISH"])
def test_nothing_comes_before_connect(name: str) -> None:
    first, body = WELL_FORMED.get(name, (0x30, text("a")))
    data = packet(first | PRESCRIBED.get(name, 0), body)
    assert f"{name} came while awaiting CONNECT" in str(violation(data, connected=False))


def test_nothing_comes_after_disconnect() -> None:
    assert after_connect(DISCONNECT + PINGREQ + b"\xff\xff") == [Disconnect()]


def test_what_came_before_a_violation_is_still_handed_out() -> None:
    packets = Connection().receive(connect() + PINGREQ + packet(0x40, b"\x00\x00") + PINGREQ)
    assert [next(packets), next(packets)] == [Connect("d", None, 60, True), PingReq()]
    with pytest.raises(ProtocolViolation):
        next(packets)


def test_a_violation_tells_nothing_of_what_was_sent() -> None:
    found = violation(connect(0xC2, text("d") + text("u") + text("canary") + b"\x00"), connected=False)
    assert "canary" not in str(found)


# --- any bytes at all -------------------------------------------------------------------------------------------------

# Bytes that look like a packet get further than plain noise does.
LOOKALIKES = st.builds(packet, st.integers(0, 255), st.binary(max_size=40) | st.binary(max_size=30).map(text))
CONNECT_LOOKALIKES = st.builds(connect, st.integers(0, 255), st.lists(st.binary(max_size=6).map(text)).map(b"".join))


@given(st.booleans(), st.lists(st.binary(max_size=30) | LOOKALIKES | CONNECT_LOOKALIKES, max_size=6))
@settings(deadline=None, max_examples=400)
def test_whatever_comes_is_a_packet_or_a_violation(connected: bool, chunks: list[bytes]) -> None:
    connection = Connection()
    try:
        for chunk in [connect(), *chunks] if connected else chunks:
            for found in connection.receive(chunk):
                assert isinstance(found, Packet)
                assert getattr(found, "packet_id", None) != 0
    except ProtocolViolation:
        assert connection.state is State.CLOSED


# --- what the server sends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        (mqtt.connack(mqtt.CONNECTION_ACCEPTED), b"\x20\x02\x00\x00"),
        (mqtt.connack(mqtt.UNACCEPTABLE_PROTOCOL_VERSION), b"\x20\x02\x00\x01"),
        (mqtt.connack(mqtt.SERVER_UNAVAILABLE), b"\x20\x02\x00\x03"),
        (mqtt.connack(mqtt.NOT_AUTHORIZED), b"\x20\x02\x00\x05"),
        (mqtt.suback(0x0102, [1]), b"\x90\x03\x01\x02\x01"),
        (mqtt.suback(1, [0, 1, 0x80]), b"\x90\x05\x00\x01\x00\x01\x80"),
        (mqtt.unsuback(0xFFFE), b"\xb0\x02\xff\xfe"),
        (mqtt.puback(0x0102), b"\x40\x02\x01\x02"),
        (mqtt.pingresp(), b"\xd0\x00"),
        (mqtt.publish("a/é", b"\x00{}"), b"\x30\x09\x00\x04a/\xc3\xa9\x00{}"),
        (mqtt.publish("a", b""), b"\x30\x03\x00\x01a"),
        (mqtt.publish("a", bytes(124)), b"\x30\x7f\x00\x01a" + bytes(124)),
        (mqtt.publish("a", bytes(125)), b"\x30\x80\x01\x00\x01a" + bytes(125)),
        (mqtt.publish("a", bytes(16_380)), b"\x30\xff\x7f\x00\x01a" + bytes(16_380)),
        (mqtt.publish("a", bytes(16_381)), b"\x30\x80\x80\x01\x00\x01a" + bytes(16_381)),
        (mqtt.publish("a", b"{}", 0x0102), b"\x32\x07\x00\x01a\x01\x02{}"),
        (mqtt.publish("a", b"{}", 7, dup=True), b"\x3a\x07\x00\x01a\x00\x07{}"),
        (mqtt.connack(mqtt.CONNECTION_ACCEPTED, session_present=True), b"\x20\x02\x01\x00"),
    ],
)
def test_packets_are_written_to_the_bit(encoded: bytes, expected: bytes) -> None:
    assert type(encoded) is bytes
    assert encoded == expected
