"""One device that says anything, on plain MQTT or in a WebSocket, beside one that behaves.

After each input: nothing was raised, the connection still answers or is closing, what was acknowledged is stored and
nothing else is, the well-behaved device gets its answers, and nothing of it, or of anybody else, has changed.
"""

import itertools
import random
import re
import shutil
import tempfile
from collections.abc import Hashable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import wire
from test_websocket import frame, request

from dpsx_helpers.emulator import hub, refusals, twin
from dpsx_helpers.emulator.faults import KINDS, Fault
from dpsx_helpers.emulator.mqtt import MAX_PACKET
from dpsx_helpers.emulator.sessions import MOST_WAITING
from dpsx_helpers.emulator.websocket import MAX_HEAD, MAX_MESSAGE, WebSocket

from . import recorded
from .inputs import Input, count, missing, packets
from .mutation import Edit, gentle_packet_edits, packet_edits

NAME, OTHER = "north", "south"
SECRET = "what-is-of-south-alone"  # in all that is kept of the other device, and in no input
ACT = b"\xff\xff"  # a piece that begins with this is not sent: the service side does something
_TABLES = {"enrollments": "id", "registrations": "id", "devices": "id", "commands": "device", "messages": "device",
           "groups": "id", "ca_certificates": "name", "students": "id", "mistakes": "id"}  # fmt: skip
_OUTBOX = MOST_WAITING + 2 * MAX_PACKET  # the answers to one more packet may be on top of what halts a connection
_FILLED = 1 << 16  # bytes that are missing at the end of an input are filled in, if they are not more
_EVENTS = re.compile(rf"devices/{NAME}/messages/events(/.*)?".encode(), re.DOTALL)
_OPERATION = re.compile(rb"5\.[0-9a-f]{16}\.[0-9a-f-]{36}")
_AN_OPERATION = "5.0000000000000000.00000000-0000-0000-0000-000000000000"
_CALL = re.compile(rb"(?<=methods/res/200/\?\$rid=)[0-9a-f]{12}")
_FAULTS = sorted(set(KINDS) - {"silence"})  # that one breaks what is promised of acknowledgements, and is meant to

WORDS = [
    *(topic.encode() for topic in (wire.RESPONSES, wire.TWIN, wire.DESIRED, wire.METHODS, wire.commands_to(NAME))),
    *(word.encode() for word in (NAME, OTHER, wire.HOST, wire.SCOPE, wire.HUB)),
    *(wire.events(name, bag).encode() for name, bag in ((NAME, ""), (OTHER, ""), (NAME, "a=b&$.ct=x&c"))),
    b"$iothub/twin/GET/?$rid=1", b"$iothub/twin/PATCH/properties/reported/?$rid=2", b"$iothub/methods/res/200/?$rid=",
    b"$dps/registrations/PUT/iotdps-register/?$rid=1", b"&operationId=", b"$rid=", b"&$version=",
    b"/registrations/", b"/?api-version=2021-04-12", b"api-version=2019-03-31", b"MQTT", b"\x00\x04MQTT\x04\xc2",
    b"#", b"+", b"/", b"?", b"&", b"%", b"%00", b"%FF", b"%F0%9F%98", b"..", b"\x00", b"\xed\xa0\x80", b"\xef\xbb\xbf",
    b"\xc0\x80", b"\xf4\x90\x80\x80", b"\r\n", b"\x1b[2J", b"'", b'"', b"\xe2\x80\xa8", b"\xcc\x81", wire.PINGREQ,
    wire.DISCONNECT, wire.puback(1), b"GET ", b"Host:", b"Upgrade: websocket\r\n", b"Sec-WebSocket-Protocol: mqtt\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"\x82\x80", b"\x88\x80", b"\x89\x80", b"\x8a\x80",
    b"\x82\xfe\xff\xff", b"\x82\xff\x00\x00\x00\x00\x00\x10\x00\x00", b"\x02\x80", b"\x80\x80",
]  # fmt: skip


class Table:
    """DPS and a hub with two devices: `NAME`, whose records are laid out anew for each input, and `OTHER`."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="dpsx-fuzz-"))
        self._open.callback(shutil.rmtree, self.folder)
        self.desk = wire.Desk(self.folder)
        self._open.callback(lambda: self.desk.store.close())
        self._open.enter_context(wire.listening(SECRET))
        self._lay()
        self.other = self.desk.online(OTHER, *wire_filters(OTHER))
        self._now = self.desk.clock.now
        self._database = self.desk.store._db
        self._database.execute("PRAGMA synchronous=OFF")  # what a power failure would cost is not the question
        self._database.execute("PRAGMA temp_store=MEMORY")
        for table in _TABLES:
            self._database.execute(f"CREATE TEMP TABLE kept_{table} AS SELECT * FROM {table}")
        self._others = self._of_others()
        self._changes = self._database.total_changes
        self._connected = dict(self.desk.services._connected)
        self._twin = twin.for_device(self.desk.twin(OTHER))
        self._times = 0
        self.begin()

    def close(self) -> None:
        self._open.close()

    def _lay(self) -> None:
        desk = self.desk
        for name, secret in ((NAME, "plain"), (OTHER, SECRET)):
            desk.enroll(name, initial_twin={"tags": {"of": secret}, "properties": {"desired": {"of": secret}}})
            line = desk.at_dps(name)
            line.say(wire.register(1, f'{{"payload": "{secret}"}}'.encode()))
            line.end()
            desk.send(name, f"for {name}: {secret}".encode())
            online = desk.online(name)
            online.say(wire.publish(wire.events(name, f"of={secret}"), secret.encode()))
            online.end()

    def begin(self) -> None:
        """Everything as it was before the first input."""
        desk, database = self.desk, self._database
        if database.total_changes != self._changes:
            database.execute("BEGIN")
            for table in _TABLES:
                database.execute(f"DELETE FROM {table}")
                database.execute(f"INSERT INTO {table} SELECT * FROM kept_{table}")
            database.execute("COMMIT")
            self._changes = database.total_changes
        if desk.services.faults():
            desk.services.clear_faults()
            desk.store.commit()
        desk.clock.now = self._now
        desk._guids, desk._labels = itertools.count(1000), itertools.count(1000)
        del desk.lines[1:]

    def _of_others(self) -> list[list[Any]]:
        """All rows that are not of the device under test."""
        look = self._database.execute
        return [look(f"SELECT * FROM {table} WHERE {key} != ?", (NAME,)).fetchall() for table, key in _TABLES.items()]

    def messages(self) -> list[bytes]:
        """What is stored of the device under test beyond what was before."""
        rows = self._database.execute("SELECT body FROM messages WHERE device = ? ORDER BY number", (NAME,))
        return [body for (body,) in rows.fetchall()[1:]]

    def check(self) -> None:
        """Nobody else has noticed anything, and what is stored can be shown. All connections but one are gone."""
        desk, other = self.desk, self.other
        assert desk.services._connected == self._connected, "a connection is still noted that is gone"
        assert list(desk.services._online) == [(wire.HUB, OTHER)]
        assert other.hear() == [], "another device was sent something"
        self._times += 1
        asking = wire.get_twin("healthy", number=1000 + self._times % 1000) + wire.PINGREQ
        acknowledged, answer, pong = other.say(asking)
        assert acknowledged == wire.Puback(1000 + self._times % 1000)
        assert isinstance(answer, wire.Published)
        assert (answer.topic, answer.json) == ("$iothub/twin/res/200/?$rid=healthy", self._twin)
        assert pong == wire.Pingresp()
        assert not other.closing
        if self._database.total_changes != self._changes:
            assert self._of_others() == self._others, "something of another device has changed"
            assert set(_TABLES) | {"facts", "faults"} >= {
                name for (name,) in self._database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
                if not name.startswith("sqlite_")
            }  # fmt: skip
            self._can_be_shown()
        if self._times % 16 == 0:
            self._telemetry()

    def _can_be_shown(self) -> None:
        store = self.desk.store
        for message in store.messages(NAME, 100, 1 << 20):
            assert hub.message_document(message)["deviceId"] == NAME
        shown = store.twin(wire.HUB, NAME)
        assert shown is None or twin.unfit("properties.reported", shown.reported.values) == ""
        store.registration(NAME)
        store.enrollment(NAME)
        store.commands(wire.HUB, NAME)

    def _telemetry(self) -> None:
        """The other device sends, and a newcomer is let in; this is undone by the next `begin`."""
        before = len(self.desk.messages(OTHER))
        assert self.other.say(wire.publish(wire.events(OTHER), SECRET.encode())) == [wire.Puback(7)]
        assert self.desk.messages(OTHER)[before:] == [SECRET.encode()]
        newcomer = self.desk.meet(OTHER)
        assert newcomer.say(wire.to_dps(OTHER) + wire.PINGREQ) == [wire.CONNECTED, wire.Pingresp()]
        newcomer.end()


def wire_filters(name: str) -> tuple[str, ...]:
    return wire.commands_to(name), wire.TWIN, wire.DESIRED, wire.METHODS


class Mqtt:
    """Bytes to `Conversation`, as they come out of TLS."""

    name = "mqtt"
    words = WORDS

    def __init__(self) -> None:
        self.way: type[Plain | Upgraded] = Plain
        self.table = Table()
        self.seeds = [aligned(given, self.table) for given in (*recordings(wire.HOST), *spoken(wire.HOST))]
        self.edits: list[Edit] = packet_edits(WORDS)
        self.gentle: list[Edit] = gentle_packet_edits(WORDS)

    def renew(self) -> None:
        """Start again with a new table, after an input that broke something."""
        self.table.close()
        self.table = Table()

    def close(self) -> None:
        self.table.close()

    def run(self, given: Input) -> tuple[int, set[Hashable]]:
        self.table.begin()
        return Device(self.table, self.way()).meets(given)

    def check(self) -> None:
        self.table.check()


class WebSockets(Mqtt):
    """Bytes to `WebSocket`, and what is in it to `Conversation`."""

    name = "websocket"

    def __init__(self) -> None:
        super().__init__()
        self.way = Upgraded
        plain = self.seeds
        self.seeds = [tuple(framed(given)) for given in plain[:6] + plain[-3:]]
        whole = b"".join(plain[0])
        parts = (unmasked(2, whole[:50], 0), unmasked(9, b"hello"), unmasked(0, whole[50:]))
        self.seeds.append((request(), *parts, frame(10), frame(8, b"\x03\xe8bye")))
        self.edits, inner = [reframed], self.gentle
        self.gentle = [partial(inside_of_a_frame, edit) for edit in inner]


_NO_MASK = b"\0\0\0\0"  # which a client may choose, and which leaves what is inside as it is


def framed(given: Input) -> Iterator[bytes]:
    yield request()
    for piece in given:
        yield piece if piece.startswith(ACT) else unmasked(2, piece)


def unmasked(opcode: int, payload: bytes, first: int = 0x80) -> bytes:
    """A client's frame whose mask changes nothing."""
    size = len(payload)
    lengths = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2) if size < 65536 else b""
    return bytes([first | opcode]) + (lengths or b"\xff" + size.to_bytes(8)) + _NO_MASK + payload


def reframed(chance: random.Random, piece: bytes) -> bytes:
    """A frame around the piece, or around what seems to be inside of it."""
    inside = piece[6:] if piece[:1] == b"\x82" and chance.random() < 0.8 else piece
    kind, end = chance.choice((2, 2, 2, 2, 0, 1, 8, 9, 10, 3, 15)), chance.random() < 0.7
    if chance.random() < 0.1:  # more to come than comes
        size = chance.choice((126, 65535, MAX_MESSAGE, MAX_MESSAGE + 1, 1 << 30, (1 << 63) - 1))
        return bytes([0x82, 0xFF]) + size.to_bytes(8) + _NO_MASK + inside
    if chance.random() < 0.2 and len(inside) < 2000:
        return frame(kind, inside, end=end, mask=chance.choice((b"", b"abcd")))
    return unmasked(kind, inside, end << 7 | chance.choice((0, 0, 0, 0, 0x10, 0x40)))


def inside_of_a_frame(edit: Edit, chance: random.Random, piece: bytes) -> bytes:
    """The edit, of what is in a frame of `unmasked`."""
    start = {0xFE: 8, 0xFF: 14}.get(piece[1], 6) if len(piece) > 1 else 0
    if piece[:1] != b"\x82" or piece[start - 4 : start] != _NO_MASK:
        return piece
    return unmasked(2, edit(chance, piece[start:]))


class Plain:
    """Nothing between TLS and MQTT."""

    closed = False
    open = True

    def missing(self) -> bytes:
        return b""

    def receive(self, data: bytes) -> bytes:
        return data

    def send(self, data: bytes) -> bytes:
        return data

    def wrapped(self, data: bytes) -> bytes:
        return data


class Upgraded:
    """A WebSocket between TLS and MQTT, used as the listener uses it; and the client's end of it, put together here."""

    def __init__(self) -> None:
        self._socket = WebSocket()
        self._came = self._sent = b""
        self._opened = False

    @property
    def open(self) -> bool:
        return self._socket.opened and not self._socket.closed

    @property
    def closed(self) -> bool:
        return self._socket.closed

    def missing(self) -> bytes:
        """What completes the last frame."""
        data, at = self._came.partition(b"\r\n\r\n")[2] if self.open else b"", 0
        while at < len(data):
            if at + 2 > len(data):
                return b"\x80"
            size, start = data[at + 1] & 0x7F, at + 6
            if size >= 126:
                start += 2 if size == 126 else 8
                size = int.from_bytes(data[at + 2 : start - 4])
            if start > len(data):
                return bytes(start - len(data))
            assert size <= MAX_MESSAGE, "a frame that is too large was not refused"
            if start + size > len(data):
                return bytes(start + size - len(data))
            at = start + size
        return b""

    def receive(self, data: bytes) -> bytes:
        self._came += data
        inside = self._socket.receive(data)
        self._sent += self._socket.outgoing()
        assert self._socket.closed or len(self._socket._head) < MAX_HEAD
        assert len(inside) <= len(data) + MAX_MESSAGE
        return inside

    def send(self, data: bytes) -> bytes:
        """What of it reaches a client as MQTT."""
        self._socket.send(data)
        self._sent += self._socket.outgoing()
        if not self._opened:
            if not self._sent:
                return b""
            head, end, self._sent = self._sent.partition(b"\r\n\r\n")
            assert end
            if not head.startswith(b"HTTP/1.1 101 "):
                assert head.startswith(b"HTTP/1.1 400 ")
                assert self._socket.closed
                assert self._socket.problem.isprintable()
                self._sent = b""
                return b""
            assert self._socket.opened
            self._opened = True
        return b"".join(self._frames())

    def _frames(self) -> Iterator[bytes]:
        while self._sent:
            first, size, start = self._sent[0], self._sent[1], 2
            assert first in (0x82, 0x88, 0x8A), "whole binary messages, close and pong"
            if size >= 126:
                start = 4 if size == 126 else 10
                size = int.from_bytes(self._sent[2:start])
            inside, self._sent = self._sent[start : start + size], self._sent[start + size :]
            assert len(inside) == size
            if first == 0x82:
                yield inside

    def wrapped(self, data: bytes) -> bytes:
        return unmasked(2, data)


class Device:
    """The device under test on one connection."""

    def __init__(self, table: Table, way: Plain | Upgraded) -> None:
        self._table = table
        self._way = way
        self._line = table.desk.meet(NAME)
        self._lines = [self._line]
        self._stream = b""  # what came to the conversation
        self._sent: list[wire.Sent] = []
        self._features: set[Hashable] = set()

    def meets(self, given: Input) -> tuple[int, set[Hashable]]:
        """Feed it in. How many packets that were, and what happened."""
        for piece in given:
            self.meets_one(piece)
        self._it_still_answers_or_closes()
        self._what_was_acknowledged_is_stored()
        stored, will = len(self._table.messages()), getattr(self._line.conversation._peer, "_will", None)
        self.end()
        assert self._table.messages()[stored:] in ([], [will and will.payload]), "these are not its last words"
        rows = {row.name for row in self._line.conversation.refused}
        assert rows <= set(refusals.ALL)
        kinds = {(type(sent).__name__, getattr(sent, "topic", "")[:22]) for sent in self._sent}
        return max(1, count(self._stream)), self._features | rows | kinds

    def meets_one(self, piece: bytes) -> None:
        if piece.startswith(ACT):
            self._act(piece[len(ACT) :])
        else:
            self._say(piece)

    def end(self) -> None:
        for line in self._lines:
            line.end()

    # --- what it says ---

    def _say(self, data: bytes) -> None:
        conversation = self._line.conversation
        inside = self._way.receive(data)
        if inside and not conversation.closing:
            self._stream += inside
            conversation.receive(inside)
        self._hear()
        while conversation.halted and not conversation.closing:
            self._features.add("halted")
            conversation.resume()
            self._hear()
        if self._way.closed:
            conversation.close()
        assert len(conversation._mqtt._buffer) <= MAX_PACKET + 5 + len(inside) or conversation.closing

    def _hear(self) -> None:
        conversation, desk = self._line.conversation, self._table.desk
        desk.store.commit()
        conversation.committed()
        assert len(conversation.outbox) <= _OUTBOX, "the outbox has no bounds"
        out = bytes(conversation.outbox)
        conversation.outbox.clear()
        for sent in wire.read(self._way.send(out)):
            wire.worded(sent, NAME, (SECRET,))
            assert getattr(sent, "packet_id", None) != 0, "an identifier of 0 was taken"
            self._sent.append(sent)

    # --- what the service side does meanwhile ---

    def _act(self, rest: bytes) -> None:
        desk, which = self._table.desk, rest[0] if rest else 0
        known = desk.store.device(wire.HUB, NAME)
        match which % 10:
            case 0 if known and len(desk.waiting(NAME)) < 50:
                desk.send(NAME, b"command " + rest)
            case 1 if known:
                desk.change_twin(NAME, {"properties": {"desired": {f"k{which}": which}}})
            case 2 if known:
                desk.call(NAME, "reboot")
            case 3 if known:
                large = {f"part{number}": "x" * 4000 for number in range(7)}
                desk.change_twin(NAME, {"properties": {"desired": large}})
            case 4:
                desk.clock.go_on(which * 60)
            case 5:
                another = desk.meet(NAME)
                self._lines.append(another)
                another.say(wire.to_hub(NAME))
            case 6 if known:
                desk.services.remove(known)
            case 7:
                desk.enroll(NAME, enabled=bool(which & 16))
            case 8 if known:
                desk.services.purge_commands(known)
            case 9:
                desk.services.switch_on(Fault(_FAULTS[which % len(_FAULTS)], NAME, left=1 + which % 2))
        desk.store.commit()
        self._hear()

    # --- what must hold ---

    def _it_still_answers_or_closes(self) -> None:
        conversation, way = self._line.conversation, self._way
        while not conversation.closing and (more := way.missing()):  # its header first, then what that announces
            if len(more) >= _FILLED:
                return  # a large frame is on its way, and may be
            self._say(more)
        more = missing(self._stream)
        if not conversation.closing and more is not None and len(more) < _FILLED and way.open:
            self._say(way.wrapped(more + wire.PINGREQ))
            if conversation.connected and not conversation.closing:
                assert self._sent[-1:] == [wire.Pingresp()], "it is open, and answers nothing"
            if not conversation.connected:
                assert conversation.closing, "somebody spoke before the CONNECT"
        if not conversation.closing:
            assert more is not None, "a packet that can be none was not refused"
            return
        assert conversation.refused or conversation._in_order or way.closed, "it closed for no reason"
        seen = len(self._sent)
        conversation.receive(wire.PINGREQ)
        self._hear()
        assert len(self._sent) == seen, "it is closing, and still answers"

    def _what_was_acknowledged_is_stored(self) -> None:
        """Each PUBLISH at QoS 1 is acknowledged once, in order; each message of telemetry is stored once, in order."""
        numbers, bodies, before = [], [], []  # and how many bodies there were with each number
        for first, body in packets(self._stream):
            if first >> 4 != 3:
                continue
            end = 2 + int.from_bytes(body[:2])
            number = int.from_bytes(body[end : end + 2]) if first & 6 else None
            if number is not None:
                numbers.append(number)
            if _EVENTS.fullmatch(body[2:end]):
                bodies.append(body[end:] if number is None else body[end + 2 :])
            if number is not None:
                before.append(len(bodies))
        acknowledged = [sent.packet_id for sent in self._sent if isinstance(sent, wire.Puback)]
        stored = self._table.messages()
        if self._line.closing:
            assert acknowledged == numbers[: len(acknowledged)], "acknowledged out of order, or what never came"
            assert stored == bodies[: len(stored)], "stored out of order, or what never came"
            assert not acknowledged or len(stored) >= before[len(acknowledged) - 1], "acknowledged and not stored"
        else:
            assert acknowledged == numbers, "not all is acknowledged, or more than came"
            assert stored == bodies, "not all is stored, or more than came"


def recordings(host: str) -> list[Input]:
    """What Microsoft's client has said, and between it what the service did."""
    dps, at_hub = recorded.conversations(host)
    answer = next(at for at, packet in enumerate(at_hub) if b"methods/res" in packet)
    return [dps, (*at_hub[:answer], ACT + b"\2", ACT + b"\0", *at_hub[answer:])]


def spoken(host: str) -> list[Input]:
    """Conversations put together by hand, so that all that a device can say is in one of them."""
    to_hub = partial(wire.to_hub, host=host)
    will = wire.Will(wire.events(NAME), b"gone", 1)
    return [
        (
            wire.to_dps(NAME),
            wire.subscribe(wire.RESPONSES),
            wire.register(1, b'{"payload": {"a": 1}}'),
            wire.poll(_AN_OPERATION, qos=0),
            wire.unsubscribe(wire.RESPONSES),
            wire.DISCONNECT,
        ),
        (
            to_hub(NAME, clean=False, will=will),
            wire.subscribe(*wire_filters(NAME)),
            wire.puback(1),
            wire.publish(wire.events(NAME, "a=b&$.mid=1&c"), b"body"),
            wire.get_twin(qos=0),
            wire.report({"a": {"b": None, "c": [1]}}),
            ACT + b"\2",
            wire.method_answer("000000000000"),
            wire.PINGREQ,
            wire.unsubscribe(wire.TWIN),
            wire.publish(wire.events(NAME), b"quiet", qos=0, retain=True),
            wire.DISCONNECT,
        ),
        (to_hub(NAME), wire.subscribe(wire.commands_to(NAME), qos=2), ACT + b"\0", wire.puback(1), ACT + b"\5"),
        (to_hub(NAME), wire.subscribe(wire.TWIN, wire.DESIRED), ACT + b"\3", *[wire.get_twin()] * 3, ACT + b"\1"),
        (to_hub(NAME), ACT + b"\6", wire.publish(wire.events(NAME)), wire.report({"a": 1})),
        (ACT + b"\x09", wire.to_dps(NAME), wire.subscribe(wire.RESPONSES), wire.register(1), ACT + b"\4"),
        (to_hub(OTHER), wire.publish(wire.events(OTHER), b"in another's name")),
        (to_hub(NAME), wire.publish(wire.events(OTHER), b"in another's name")),
        (to_hub(NAME), wire.subscribe(wire.commands_to(OTHER))),
        (wire.connect(OTHER, f"{wire.SCOPE}/registrations/{OTHER}/api-version=2019-03-31", password="x"),),
        (to_hub(NAME, level=5),),
    ]


def aligned(given: Input, table: Table) -> Input:
    """The same with the IDs of operation and method call that the service gives here."""
    table.begin()
    device, said = Device(table, Plain()), []
    for piece in given:
        for sent in device._sent:
            if isinstance(sent, wire.Published) and sent.topic.startswith("$dps/registrations/res/202"):
                piece = _OPERATION.sub(sent.json["operationId"].encode(), piece)
            elif isinstance(sent, wire.Published) and sent.topic.startswith("$iothub/methods/POST"):
                piece = _CALL.sub(sent.topic.rpartition("=")[2].encode(), piece)
        said.append(piece)
        device.meets_one(piece)
    device.end()
    return tuple(said)
