"""One MQTT 3.1.1 connection as a server sees it: bytes in, packets out. No sockets, no clock.

`Connection.receive` frames the byte stream, decodes each packet, checks it against the specification and yields small
frozen records: https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/mqtt-v3.1.1.html. Whatever is wrong with the bytes surfaces
as one exception, `ProtocolViolation`; the server then closes the connection, as Azure does. Who may connect, subscribe
or publish is decided elsewhere.

The functions at the end encode what a server sends.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum

# The largest message that a hub takes is 256 KB; a topic adds at most 64 KiB and six bytes to it.
MAX_PACKET = 256 * 1024 + 64 * 1024 + 6

CONNECTION_ACCEPTED, SERVER_UNAVAILABLE, NOT_AUTHORIZED = 0, 3, 5
UNACCEPTABLE_PROTOCOL_VERSION = 1
CONNECT, PUBLISH, PUBACK, SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT = 1, 3, 4, 8, 10, 12, 14  # packet types


class ProtocolViolation(Exception):
    """The bytes or their order break MQTT 3.1.1: the connection has to be closed."""


class UnsupportedProtocol(ProtocolViolation):
    """The client speaks another version of MQTT: CONNACK 1, then close (MQTT-3.1.2-2)."""


@dataclass(frozen=True, slots=True)
class Will:
    """What the server is to publish when the client goes without a DISCONNECT."""

    topic: str
    payload: bytes = field(repr=False)
    qos: int
    retain: bool


@dataclass(frozen=True, slots=True)
class Connect:
    """CONNECT. `keep_alive` in seconds, 0 = none. The password is kept out of the representation."""

    client_id: str
    username: str | None
    keep_alive: int
    clean_session: bool
    will: Will | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Publish:
    """PUBLISH. `packet_id` is None at QoS 0."""

    topic: str
    payload: bytes = field(repr=False)
    qos: int
    packet_id: int | None
    retain: bool = False
    dup: bool = False


@dataclass(frozen=True, slots=True)
class PubAck:
    packet_id: int


@dataclass(frozen=True, slots=True)
class Subscribe:
    """SUBSCRIBE: pairs of topic filter and requested QoS, in the order asked for."""

    packet_id: int
    filters: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    packet_id: int
    filters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PingReq:
    pass


@dataclass(frozen=True, slots=True)
class Disconnect:
    pass


Packet = Connect | Publish | PubAck | Subscribe | Unsubscribe | PingReq | Disconnect


class State(Enum):
    AWAITING_CONNECT = "awaiting CONNECT"
    CONNECTED = "connected"
    CLOSED = "closed"


# Which packets a server takes in which state; anything else is a violation (MQTT-3.1.0-1, MQTT-3.1.0-2).
ACCEPTS: dict[State, frozenset[type[Packet]]] = {
    State.AWAITING_CONNECT: frozenset({Connect}),
    State.CONNECTED: frozenset({Publish, PubAck, Subscribe, Unsubscribe, PingReq, Disconnect}),
    State.CLOSED: frozenset(),
}
_NEXT: dict[type[Packet], State] = {Connect: State.CONNECTED, Disconnect: State.CLOSED}

# Flags of the fixed header that the specification prescribes (table 2.2); PUBLISH carries its own.
_FLAGS = {CONNECT: 0, PUBACK: 0, SUBSCRIBE: 2, UNSUBSCRIBE: 2, PINGREQ: 0, DISCONNECT: 0}

_MQTT_3_1_1 = b"\x00\x04MQTT\x04"  # protocol name and level, the first bytes of every CONNECT


class Connection:
    """The receiving half of one connection. Feed it bytes as they come; it keeps incomplete packets."""

    def __init__(self) -> None:
        self.state = State.AWAITING_CONNECT
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Keep bytes for the next `receive`."""
        self._buffer += data

    def receive(self, data: bytes) -> Iterator[Packet]:
        """Yield each packet that `data` completes. Who stops early gets the rest from the next call.

        Packets before a faulty one are yielded first. Raises ProtocolViolation at the faulty one; the
        connection is CLOSED then and yields nothing more.
        """
        self.feed(data)
        while self.state is not State.CLOSED:
            frame = self._next_frame()
            if frame is None:
                return
            try:
                packet = _decode(*frame)
                self._advance(packet)
            except ProtocolViolation:
                self.state = State.CLOSED
                raise
            yield packet

    def _advance(self, packet: Packet) -> None:
        kind = type(packet)
        if kind not in ACCEPTS[self.state]:
            takers = [state.value for state, kinds in ACCEPTS.items() if kind in kinds]
            raise ProtocolViolation(
                f"{kind.__name__.upper()} came while {self.state.value}; it is taken only while {', '.join(takers)}"
            )
        self.state = _NEXT.get(kind, self.state)

    def _next_frame(self) -> tuple[int, int, bytes] | None:
        """Cut one packet off the buffer: its type, flags and body; None while it is incomplete."""
        length, position = 0, 1
        while True:
            if position >= len(self._buffer):
                return None
            byte = self._buffer[position]
            length |= (byte & 0x7F) << (7 * (position - 1))
            position += 1
            if not byte & 0x80:
                break
            if position > 4:
                self._fail("the remaining length takes more than four bytes")
        if length > MAX_PACKET:
            self._fail(f"a packet of {length} bytes is larger than anything Azure takes")
        if len(self._buffer) < position + length:
            return None
        first, body = self._buffer[0], bytes(self._buffer[position : position + length])
        del self._buffer[: position + length]
        return first >> 4, first & 0x0F, body

    def _fail(self, reason: str) -> None:
        self.state = State.CLOSED
        raise ProtocolViolation(reason)


def _decode(kind: int, flags: int, body: bytes) -> Packet:
    """One packet from its parts."""
    if kind not in _DECODERS:
        raise ProtocolViolation(f"packet type {kind} is not one that a client may send here")
    if kind in _FLAGS and flags != _FLAGS[kind]:
        raise ProtocolViolation(f"the flags {flags:04b} are reserved in packet type {kind}")
    return _DECODERS[kind](flags, body)


class _Fields:
    """The fields of a packet, one after the other. Whoever asks for one that is not whole gets a ProtocolViolation."""

    def __init__(self, kind: int, body: bytes, start: int = 0) -> None:
        self._kind, self._body, self._at = kind, body, start

    @property
    def left(self) -> bool:
        return self._at < len(self._body)

    def take(self, size: int) -> bytes:
        start, self._at = self._at, self._at + size
        if self._at > len(self._body):
            raise self.violation()
        return self._body[start : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def octets(self) -> bytes:
        """With their length in front."""
        return self.take(self.number(2))

    def text(self) -> str:
        try:
            return self.octets().decode()
        except UnicodeDecodeError:
            raise self.violation() from None

    def end(self) -> None:
        if self.left:
            raise self.violation()

    def violation(self) -> ProtocolViolation:
        return ProtocolViolation(f"the fields of packet type {self._kind} do not fill it exactly")


def _packet_id(value: int) -> int:
    if value == 0:
        raise ProtocolViolation("a packet identifier of 0 is not allowed")
    return value


def _connect(_: int, body: bytes) -> Connect:
    if len(body) >= len(_MQTT_3_1_1) and not body.startswith(_MQTT_3_1_1):
        raise UnsupportedProtocol("the client does not speak MQTT 3.1.1, the only version Azure takes on this port")
    fields = _Fields(CONNECT, body, len(_MQTT_3_1_1))
    flags, keep_alive = fields.number(1), fields.number(2)
    has_name, has_password, has_will = flags & 0x80, flags & 0x40, flags & 0x04
    retain, qos = bool(flags & 0x20), flags >> 3 & 0x03
    if flags & 0x01 or qos == 3 or ((qos or retain) and not has_will) or (has_password and not has_name):
        raise ProtocolViolation("the CONNECT flags contradict each other")
    client_id = fields.text()
    will = Will(fields.text(), fields.octets(), qos, retain) if has_will else None
    username = fields.text() if has_name else None
    password = fields.text() if has_password else None
    fields.end()
    if will is not None and not will.topic:
        raise ProtocolViolation("the topic of the Will is empty")
    return Connect(client_id, username, keep_alive, bool(flags & 0x02), will, password)


def _subscribe(_: int, body: bytes) -> Subscribe:
    fields = _Fields(SUBSCRIBE, body)
    packet_id, filters = _packet_id(fields.number(2)), []
    while fields.left:
        filters.append((fields.text(), fields.number(1)))
    if not filters or any(qos > 2 for _, qos in filters):
        raise ProtocolViolation("a SUBSCRIBE needs at least one filter, each with QoS 0, 1 or 2")
    return Subscribe(packet_id, tuple(filters))


def _unsubscribe(_: int, body: bytes) -> Unsubscribe:
    fields = _Fields(UNSUBSCRIBE, body)
    packet_id, filters = _packet_id(fields.number(2)), []
    while fields.left:
        filters.append(fields.text())
    if not filters:
        raise ProtocolViolation("an UNSUBSCRIBE needs at least one filter")
    return Unsubscribe(packet_id, tuple(filters))


def _publish(flags: int, body: bytes) -> Publish:  # without `_Fields`: this is what devices send all the time
    dup, qos, retain = bool(flags & 0x08), flags >> 1 & 0x03, bool(flags & 0x01)
    topic_end = 2 + int.from_bytes(body[:2])
    start = topic_end + 2 if qos else topic_end
    if qos == 3 or (dup and not qos):
        raise ProtocolViolation("QoS 3 does not exist, and nothing is sent twice at QoS 0")
    if len(body) < start:
        raise ProtocolViolation("malformed PUBLISH: it ends before its topic and packet identifier do")
    try:
        topic = body[2:topic_end].decode()
    except UnicodeDecodeError:
        topic = ""
    if not topic or "\0" in topic:
        raise ProtocolViolation("the topic of a PUBLISH is empty or is not UTF-8 text")
    if "#" in topic or "+" in topic:
        raise ProtocolViolation("malformed PUBLISH: its topic is a filter, with # or +")
    packet_id = _packet_id(int.from_bytes(body[topic_end:start])) if qos else None
    return Publish(topic, body[start:], qos, packet_id, retain, dup)


def _puback(flags: int, body: bytes) -> PubAck:
    if len(body) != 2:
        raise ProtocolViolation("a PUBACK carries a packet identifier and nothing else")
    return PubAck(_packet_id(int.from_bytes(body)))


def _empty(record: Packet) -> Callable[[int, bytes], Packet]:
    def decode(flags: int, body: bytes) -> Packet:
        if body:
            raise ProtocolViolation("this packet has no body")
        return record

    return decode


_DECODERS: dict[int, Callable[[int, bytes], Packet]] = {
    CONNECT: _connect,
    PUBLISH: _publish,
    PUBACK: _puback,
    SUBSCRIBE: _subscribe,
    UNSUBSCRIBE: _unsubscribe,
    PINGREQ: _empty(PingReq()),
    DISCONNECT: _empty(Disconnect()),
}


def _packet(first: int, body: bytes) -> bytes:
    """A packet from its first byte and what comes behind its length."""
    left, length = len(body), bytearray()
    while left > 0x7F:
        length.append(left & 0x7F | 0x80)
        left >>= 7
    length.append(left)
    return bytes((first, *length)) + body


def connack(code: int, *, session_present: bool = False) -> bytes:
    """CONNACK. `session_present`: the server has kept something of an earlier session (MQTT-3.2.2-2)."""
    return bytes((0x20, 2, session_present, code))


def suback(packet_id: int, codes: list[int]) -> bytes:
    """SUBACK: one granted QoS (or 0x80, refused) for each filter asked for."""
    return _packet(0x90, packet_id.to_bytes(2) + bytes(codes))


def unsuback(packet_id: int) -> bytes:
    return b"\xb0\x02" + packet_id.to_bytes(2)


def puback(packet_id: int) -> bytes:
    return b"\x40\x02" + packet_id.to_bytes(2)


def pingresp() -> bytes:
    return b"\xd0\x00"


def publish(topic: str, payload: bytes, packet_id: int | None = None, *, dup: bool = False) -> bytes:
    """PUBLISH at QoS 0, or with a packet identifier at QoS 1; `dup`: it may have been received before."""
    name = topic.encode()
    number = b"" if packet_id is None else packet_id.to_bytes(2)
    first = 0x30 | dup << 3 | (packet_id is not None) << 1
    return _packet(first, len(name).to_bytes(2) + name + number + payload)
