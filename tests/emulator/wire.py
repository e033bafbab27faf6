"""MQTT packets as bytes, a reader of what a server sends, and DPS with a hub that are driven with bytes and a clock.

After https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/mqtt-v3.1.1.html, put together by hand: nothing here is of the
emulator's own codec.
"""

import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

from in_memory import leaf

from dpsx_helpers.emulator import dps, refusals, sas, twin
from dpsx_helpers.emulator.identity import Device
from dpsx_helpers.emulator.methods import Call
from dpsx_helpers.emulator.records import Enrollment
from dpsx_helpers.emulator.refusals import Answer, Refused
from dpsx_helpers.emulator.services import Services
from dpsx_helpers.emulator.sessions import Conversation
from dpsx_helpers.emulator.store import Store

SCOPE, HUB, HOST = "0ne00111111", "hub-1", "127.0.0.1"
RESPONSES = "$dps/registrations/res/#"
TWIN, DESIRED, METHODS = "$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#", "$iothub/methods/POST/#"
PINGREQ, DISCONNECT = b"\xc0\x00", b"\xe0\x00"
NOW = datetime.now(UTC)


# --- what a client sends ----------------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    return len(value.encode()).to_bytes(2) + value.encode()


def packet(first: int, body: bytes) -> bytes:
    length, size = bytearray(), len(body)
    while True:
        size, digit = divmod(size, 128)
        length.append(digit | (0x80 if size else 0))
        if not size:
            return bytes([first]) + bytes(length) + body


@dataclass(frozen=True)
class Will:
    topic: str
    payload: bytes = b"gone"
    qos: int = 0
    retain: bool = False


def connect(
    client_id: str,
    username: str | None,
    *,
    password: str | None = None,
    clean: bool = True,
    will: Will | None = None,
    keep_alive: int = 60,
    level: int = 4,
) -> bytes:
    flags = (0x02 if clean else 0) | (0x80 if username is not None else 0) | (0x40 if password is not None else 0)
    fields = text(client_id)
    if will:
        flags |= 0x04 | will.qos << 3 | (0x20 if will.retain else 0)
        fields += text(will.topic) + len(will.payload).to_bytes(2) + will.payload
    fields += b"".join(text(value) for value in (username, password) if value is not None)
    return packet(0x10, b"\x00\x04MQTT" + bytes([level, flags]) + keep_alive.to_bytes(2) + fields)


def to_dps(name: str, *, scope: str = SCOPE, version: str = "2019-03-31", **more: Any) -> bytes:
    return connect(name, f"{scope}/registrations/{name}/api-version={version}", **more)


def to_hub(name: str, *, host: str = HOST, module: str = "", **more: Any) -> bytes:
    return connect(name, f"{host}/{name}/{module}?api-version=2021-04-12", **more)


def subscribe(*filters: str, qos: int = 1, number: int = 1) -> bytes:
    return packet(0x82, number.to_bytes(2) + b"".join(text(topic) + bytes([qos]) for topic in filters))


def unsubscribe(*filters: str, number: int = 2) -> bytes:
    return packet(0xA2, number.to_bytes(2) + b"".join(map(text, filters)))


def publish(
    topic: str, payload: bytes = b"", *, qos: int = 1, number: int = 7, retain: bool = False, dup: bool = False
) -> bytes:
    first = 0x30 | qos << 1 | (0x01 if retain else 0) | (0x08 if dup else 0)
    return packet(first, text(topic) + (number.to_bytes(2) if qos else b"") + payload)


def puback(number: int) -> bytes:
    return packet(0x40, number.to_bytes(2))


def register(rid: object = 1, body: bytes = b"", **more: Any) -> bytes:
    return publish(f"$dps/registrations/PUT/iotdps-register/?$rid={rid}", body, **more)


def poll(operation: object, rid: object = 1, **more: Any) -> bytes:
    topic = f"$dps/registrations/GET/iotdps-get-operationstatus/?$rid={rid}&operationId={operation}"
    return publish(topic, b" ", **more)


def events(name: str, bag: str = "") -> str:
    return f"devices/{name}/messages/events/{bag}"


def commands_to(name: str) -> str:
    return f"devices/{name}/messages/devicebound/#"


def get_twin(rid: object = 1, **more: Any) -> bytes:
    return publish(f"$iothub/twin/GET/?$rid={rid}", b"", **more)


def report(body: bytes | dict[str, Any], rid: object = 1, **more: Any) -> bytes:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    return publish(f"$iothub/twin/PATCH/properties/reported/?$rid={rid}", payload, **more)


def method_answer(rid: str, body: bytes = b"{}", status: int = 200, **more: Any) -> bytes:
    return publish(f"$iothub/methods/res/{status}/?$rid={rid}", body, **more)


# --- what a server sends ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Connack:
    code: int
    session_present: int = 0


@dataclass(frozen=True)
class Published:
    topic: str
    payload: bytes
    packet_id: int | None = None
    dup: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.payload, parse_constant=_no_constant)


@dataclass(frozen=True)
class Puback:
    packet_id: int


@dataclass(frozen=True)
class Suback:
    packet_id: int
    codes: tuple[int, ...]


@dataclass(frozen=True)
class Unsuback:
    packet_id: int


@dataclass(frozen=True)
class Pingresp:
    pass


Sent = Connack | Published | Puback | Suback | Unsuback | Pingresp
CONNECTED, RESUMED = Connack(0), Connack(0, 1)


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def read(data: bytes) -> list[Sent]:
    """The packets that a server has sent, which must be whole and of the kinds that a server may send."""
    found: list[Sent] = []
    position = 0
    while position < len(data):
        first, length, shift = data[position], 0, 0
        while True:
            position += 1
            length |= (data[position] & 0x7F) << shift
            shift += 7
            if not data[position] & 0x80:
                break
        body = data[position + 1 : position + 1 + length]
        assert len(body) == length, "half a packet was sent"
        found.append(_read_one(first, body))
        position += 1 + length
    return found


def _read_one(first: int, body: bytes) -> Sent:
    match first, len(body):
        case 0x20, 2:
            assert body[0] in (0, 1)
            return Connack(body[1], body[0])
        case 0x40, 2:
            return Puback(int.from_bytes(body))
        case 0x90, length if length > 2:
            return Suback(int.from_bytes(body[:2]), tuple(body[2:]))
        case 0xB0, 2:
            return Unsuback(int.from_bytes(body))
        case 0xD0, 0:
            return Pingresp()
    assert first & 0xF1 == 0x30, f"a server does not send {first:02x} {body[:20].hex()}"
    qos, dup = first >> 1 & 3, bool(first & 8)
    assert qos == 1 or (qos == 0 and not dup)
    end = 2 + int.from_bytes(body[:2])
    topic = body[2:end].decode()
    assert topic
    packet_id = int.from_bytes(body[end : end + 2]) if qos else None
    assert packet_id != 0
    return Published(topic, body[end + 2 :] if qos else body[end:], packet_id, dup)


def worded(sent: Sent, name: str, names: Iterable[str]) -> tuple[Any, ...]:
    """What was sent to the device `name`, in few words. Topics are its own; nothing has one of the other `names`."""
    match sent:
        case Connack(code, present):
            return ("connack", code, present)
        case Puback(number):
            return ("puback", number)
        case Suback(_, codes):
            return ("suback", len(codes))
        case Unsuback():
            return ("unsuback",)
        case Pingresp():
            return ("pong",)
    assert isinstance(sent, Published)
    everything = (sent.topic.encode() + sent.payload).lower()
    others = [other for other in names if other != name and other.encode() in everything]
    assert others == [], f"{name} was sent what is of {others}: {sent}"
    own = f"devices/{name}/messages/devicebound/"
    if sent.topic.startswith(own):
        return ("command", sent.payload, sent.packet_id, sent.dup)
    assert sent.packet_id is None
    for prefix, word in (("$dps/registrations/res/", "response"), ("$iothub/twin/res/", "twin")):
        if sent.topic.startswith(prefix):
            status = int(sent.topic.removeprefix(prefix).partition("/")[0])
            assert sent.payload == b"" if status in (204, 400) and word == "twin" else sent.json is not None
            return (word, status)
    desired = DESIRED.removesuffix("#") + "?$version="
    if sent.topic.startswith(desired):
        return ("desired", int(sent.topic.removeprefix(desired)))
    assert sent.topic.startswith(METHODS.removesuffix("#")), sent.topic
    return ("method", sent.topic.partition("$rid=")[2])


def one(sent: list[Sent]) -> Published:
    """The one PUBLISH that was sent, and nothing else."""
    (found,) = sent
    assert isinstance(found, Published)
    return found


# --- a service with devices -------------------------------------------------------------------------------------------


def certificate(name: str, which: int = 0) -> bytes:
    """A certificate (DER) for the common name `name`, the same for all tests of a process."""
    return _made(name, which)


@cache
def _made(name: str, _: int) -> bytes:
    return leaf(name).der


def thumbprint(der: bytes) -> str:
    return sha256(der).hexdigest().upper()


class Clock:
    """The time that the services see. It stands still until somebody moves it."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def go_on(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @property
    def seconds(self) -> float:
        return self.now.timestamp()


class Desk:
    """DPS with one hub on a store of its own, and the service side's hand on both."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.path = folder / "emulator.db"
        self.clock = Clock()
        self.lines: list[Line] = []
        self._options = options
        self._guids, self._labels = count(), count(1)
        self.start()

    def start(self) -> None:
        """Open what is stored, as a process does that has just started."""
        options = dict(self._options)
        service = dps.Service(SCOPE, {HUB: HOST}, **options.pop("service", {}))
        self.store = Store(self.path)
        self.services = Services(self.store, service, self.clock, self._guid, **options)

    def _guid(self) -> str:
        return f"{next(self._guids):08x}-0000-4000-8000-000000000000"

    def restart(self) -> None:
        """End in order: connections end without anybody's Will, and everything is opened anew."""
        self.services.stopping = True
        for line in self.lines:
            line.end()
        self.lines.clear()
        self.store.close()
        self.start()

    # --- records ---

    def enroll(self, name: str, der: bytes | None = None, **changes: Any) -> None:
        plain = Enrollment(
            registration_id=name,
            primary=der or certificate(name),
            secondary=None,
            device_id=None,
            enabled=True,
            hubs=(),
            initial_twin={},
            settings={},
            etag='"e"',
            created="then",
            updated="then",
        )
        self.store.put_enrollment(replace(plain, **changes))
        self.store.commit()

    def add(self, name: str, **fields: Any) -> Device:
        """A device in the hub: with the thumbprint of its certificate, unless `fields` say otherwise."""
        stamp = self.services.stamp()
        if "primary_key" not in fields:
            fields = {"primary_thumbprint": thumbprint(certificate(name))} | fields
        made = Device(HUB, name, f"generation of {name} {stamp.guid[:8]}", stamp.text, **fields)
        self.store.add_device(made, twin.new({}, stamp))
        self.store.commit()
        return made

    def device(self, name: str) -> Device:
        found = self.store.device(HUB, name)
        assert found is not None
        return found

    def twin(self, name: str) -> twin.Twin:
        found = self.store.twin(HUB, name)
        assert found is not None
        return found

    def token(self, name: str, key: str, seconds: float = 3600) -> str:
        return sas.sign(f"{HOST}/devices/{name}", "", key, int(self.clock.seconds + seconds))

    # --- what the service side does ---

    def send(self, name: str, body: bytes, **settings: Any) -> None:
        self.services.send_command(self.device(name), body, settings)
        self.store.commit()

    def waiting(self, name: str) -> list[bytes]:
        return [command.body for command in self.store.commands(HUB, name)]

    def change_twin(self, name: str, document: dict[str, Any], *, whole: bool = False) -> None:
        device = self.device(name)
        changed, told = twin.change(self.twin(name), document, self.services.stamp(), whole=whole)
        self.services.change_twin(device, changed, told)
        self.store.commit()

    def call(self, name: str, method: str = "reboot", payload: bytes = b"null") -> "Called":
        called = Called()
        call = Call(method, payload, 30, 0)
        called.forget = self.services.call_method(self.device(name), call, called.answered, called.lost)
        self.store.commit()
        return called

    # --- who comes ---

    def meet(self, name: str | None = None, der: bytes | None = None) -> "Line":
        """A connection on which the certificate of `name` (or any other, or none) was shown."""
        shown = der if name is None else certificate(name)
        line = Line(self, f"c{next(self._labels)}", () if shown is None else (shown,))
        self.lines.append(line)
        return line

    def online(self, name: str, *filters: str, qos: int = 1, **more: Any) -> "Line":
        """A device on its hub that has subscribed to the filters."""
        line = self.meet(name)
        assert line.say(to_hub(name, **more))[0] in (CONNECTED, RESUMED)
        if filters:
            assert line.say(subscribe(*filters, qos=qos))[0] == Suback(1, (qos,) * len(filters))
        return line

    def at_dps(self, name: str) -> "Line":
        line = self.meet(name)
        assert line.say(to_dps(name) + subscribe(RESPONSES)) == [CONNECTED, Suback(1, (1,))]
        return line

    @contextmanager
    def second_reader(self) -> Iterator[Callable[..., list[Any]]]:
        """Read what is permanent, as another process sees it: a function of a query and its values."""
        with closing(sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True)) as database:
            yield lambda query, *values: database.execute(query, values).fetchall()

    def permanent(self, query: str, *values: Any) -> list[Any]:
        with self.second_reader() as look:
            return look(query, *values)

    def messages(self, name: str) -> list[bytes]:
        """The bodies of the messages of a device that are stored for good."""
        return [body for (body,) in self.permanent("SELECT body FROM messages WHERE device = ? ORDER BY number", name)]


class Called:
    """What becomes of a direct method. `forget` is None when the device was not there to take it."""

    def __init__(self) -> None:
        self.forget: Callable[[], None] | None = None
        self.heard: list[tuple[int, bytes] | str] = []

    def answered(self, status: int, payload: bytes) -> None:
        self.heard.append((status, payload))

    def lost(self) -> None:
        self.heard.append("lost")


class _Watched(Conversation):
    """A conversation that keeps its refusals."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.refused: list[refusals.Refusal] = []

    def warn(self, refused: Refused) -> None:
        self.refused.append(refused.refusal)
        super().warn(refused)


class Line:
    """One connection as its socket would see it."""

    def __init__(self, desk: Desk, label: str, shown: tuple[bytes, ...]) -> None:
        self.desk = desk
        self.conversation = _Watched(desk.services, label, lambda: shown, self._changed)
        self.changes = 0
        self.ended = False

    def _changed(self) -> None:
        self.changes += 1

    def say(self, *data: bytes) -> list[Sent]:
        """Send, let the store commit, and read the answer."""
        for chunk in data:
            self.conversation.receive(chunk)
        return self.hear()

    def hear(self) -> list[Sent]:
        self.desk.store.commit()
        self.conversation.committed()
        sent = bytes(self.conversation.outbox)
        self.conversation.outbox.clear()
        return read(sent)

    def end(self) -> None:
        """The connection is gone."""
        if not self.ended:
            self.ended = True
            self.conversation.ended()
            self.desk.store.commit()

    @property
    def closing(self) -> bool:
        return self.conversation.closing

    @property
    def refused(self) -> list[str]:
        """The names of the refusals so far."""
        return [row.name for row in self.conversation.refused]

    @property
    def why_closed(self) -> str:
        """The one refusal that has ended the connection."""
        assert self.closing
        (name,) = [row.name for row in self.conversation.refused if row.answer in (Answer.CLOSE, Answer.CONNACK)]
        return name


# --- what is logged ---------------------------------------------------------------------------------------------------


class _Listening(logging.Handler):
    """Every line of the log can be written, and has no secret in it."""

    def __init__(self, secrets: tuple[str, ...]) -> None:
        super().__init__()
        self._secrets = secrets

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        assert not any(secret in line for secret in self._secrets)
        assert line.isprintable()

    def handleError(self, record: logging.LogRecord) -> None:
        raise AssertionError(f"{record.msg} cannot be logged")


@contextmanager
def listening(*secrets: str) -> Iterator[None]:
    """Inside, every line that the emulator logs in this process is looked at."""
    log, handler = logging.getLogger("dpsx_helpers.emulator"), _Listening(("sig=", *secrets))
    level, spreads = log.level, log.propagate
    log.setLevel(logging.DEBUG)
    log.addHandler(handler)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = spreads
