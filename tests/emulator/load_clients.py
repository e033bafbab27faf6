"""Clients that work on an emulator until it is gone, and remember exactly what was acknowledged to them: devices.

Each is a thread of its own. What they leave open when the emulator is gone they settle with the next one.
"""

import contextlib
import re
import ssl
import time
from base64 import b64encode
from collections import Counter, deque
from collections.abc import Iterator
from itertools import count
from socket import create_connection
from typing import TYPE_CHECKING, Any

import requests
import wire
from connections import ANSWER_WITHIN, PacketLine
from ledger import Post, Record, State
from pki import Device
from rest import ask, done

from dpsx_helpers.emulator import EmulatorError
from dpsx_helpers.emulator.commands import MAX_DELIVERIES

if TYPE_CHECKING:
    from load import Load

# How a client notices that nobody is there.
_LOST = (ConnectionError, ssl.SSLError, EOFError, requests.RequestException, EmulatorError)
_WINDOW = 16  # messages that a device sends ahead of their acknowledgements


class Client:
    """One thread. `work` goes on until the emulator is gone, and is called again for the next one."""

    def __init__(self, load: "Load", name: str) -> None:
        self.load, self.name = load, name
        self.done: Counter[str] = Counter()  # acknowledged, by what it was
        self.wrong: list[str] = []  # what no emulator may answer
        self.was_in = False  # since the last kill
        self._http: requests.Session | None = None

    @property
    def in_flight(self) -> int:
        """How much was sent, and is not acknowledged."""
        raise NotImplementedError

    def run(self) -> None:
        """Come in as soon as somebody is there, and work until that one is gone."""
        while not self.was_in and not self.load.over.is_set():
            try:
                with contextlib.closing(requests.Session()) as self._http, self._connected() as line:
                    self.was_in = True
                    self.work(line)
            except _LOST:
                time.sleep(0.005)
            except Exception as wrong:  # noqa: BLE001 - whatever it is, the test has to hear of it
                self.wrong.append(f"{self.name}: {wrong!r}")
                return

    @contextlib.contextmanager
    def _connected(self) -> Iterator[PacketLine | None]:
        line = self.connect()
        try:
            yield line
        finally:
            if line is not None:
                line.close()

    def connect(self) -> PacketLine | None:
        """The connection that it works on, if it is one over MQTT."""
        create_connection((self.load.emulator.host, 8443), timeout=ANSWER_WITHIN).close()
        return None

    def work(self, line: PacketLine | None) -> None:
        raise NotImplementedError

    def settle(self) -> list[str]:
        """Hold what there is against what is known, and go on from there."""
        raise NotImplementedError

    def ask(self, method: str, path: str, body: Any = None, **more: Any) -> requests.Response:
        return ask(self.load.emulator, method, path, body, session=self._http, **more)


class Telemetry(Client):
    """A device that sends numbered messages, many ahead. `again`: later once more what was not acknowledged."""

    def __init__(self, load: "Load", device: Device, *, again: bool = False) -> None:
        super().__init__(load, device.common_name)
        self._device, self._again = device, again
        self._numbers = count()
        self._waiting: dict[int, str] = {}
        self.post = Post(self.name)

    @property
    def in_flight(self) -> int:
        return len(self._waiting)

    def connect(self) -> PacketLine:
        return PacketLine(self.load.emulator, self._device, wire.to_hub(self.name, host=self.load.emulator.host))

    def work(self, line: PacketLine | None) -> None:
        assert line is not None
        if self._again:
            line.send(b"".join(self._packet(number, body, dup=True) for number, body in self._waiting.items()))
        else:
            self._waiting.clear()
        while True:
            batch = b""
            while len(self._waiting) < _WINDOW:
                number = next(self._numbers)
                body = self._waiting[number % 65_535 + 1] = f"{self.name} {number}"
                batch += self._packet(number % 65_535 + 1, body)
            line.send(batch)
            for _ in range(_WINDOW // 2):
                self.post.acknowledged.add(self._waiting.pop(line.expect(wire.Puback).packet_id))
                self.done["messages"] += 1
            time.sleep(0.002)  # the others want to come in between

    def _packet(self, number: int, body: str, *, dup: bool = False) -> bytes:
        self.post.sent[body] += 1
        return wire.publish(wire.events(self.name), body.encode(), number=number, dup=dup)

    def settle(self) -> list[str]:
        return self.post.problems(self.load.stored.get(self.name, ()))


class Reporter(Client):
    """A device that reports a property, and is told the version each time."""

    def __init__(self, load: "Load", device: Device) -> None:
        super().__init__(load, device.common_name)
        self._device = device
        self._record = Record(f"reported of {self.name}", State(0, 1, "1"))

    @property
    def in_flight(self) -> int:
        return int(self._record.asked is not None)

    def connect(self) -> PacketLine:
        greeting = wire.to_hub(self.name, host=self.load.emulator.host)
        return PacketLine(self.load.emulator, self._device, greeting, wire.TWIN)

    def work(self, line: PacketLine | None) -> None:
        assert line is not None
        while True:
            assert self._record.known is not None
            step = self._record.asked = self._record.known.step + 1
            line.send(wire.report({"step": step}, rid=step))
            line.expect(wire.Puback)
            topic = line.expect(wire.Published).topic
            found = re.fullmatch(rf"\$iothub/twin/res/204/\?\$rid={step}&\$version=(\d+)", topic)
            assert found is not None, topic
            self._record.acknowledged(State(step, int(found[1]), found[1]))
            self.done["twin versions"] += 1

    def settle(self) -> list[str]:
        reported = done(ask(self.load.emulator, "GET", f"/twins/{self.name}"))["properties"]["reported"]
        version = reported["$version"]
        return self._record.problems(State(reported.get("step", 0), version, str(version)))


class Postbox(Client):
    """Sends cloud-to-device messages, and is the device that gets them: up to three out, then in until four wait.

    What the device has acknowledged is off the queue for certain once something that it sent later was acknowledged to
    it.
    """

    def __init__(self, load: "Load", device: Device) -> None:
        super().__init__(load, device.common_name)
        self._device = device
        self._numbers = count(1)
        self._asked: str | None = None
        self._queued: dict[str, None] = {}  # for certain, as long as it is not among the doubtful
        self._doubtful: set[str] = set()
        self._seen: set[str] = set()
        self._given_up: set[str] = set()  # delivered as often as a message is, and not waited for

    @property
    def in_flight(self) -> int:
        return int(self._asked is not None) + len(self._doubtful)

    def connect(self) -> PacketLine:
        greeting = wire.to_hub(self.name, host=self.load.emulator.host, clean=False)
        return PacketLine(self.load.emulator, self._device, greeting, wire.commands_to(self.name))

    def work(self, line: PacketLine | None) -> None:
        assert line is not None
        inbox: deque[wire.Published] = deque()
        while True:
            if not self._queued:
                self._send(f"{self.name}-{next(self._numbers)}")
            for _ in range(min(3, len(self._queued))):
                self._take(line, inbox.popleft() if inbox else line.expect(wire.Published))
            line.send(wire.publish(wire.events(self.name), b"so far", number=1))
            while isinstance(packet := line.next(), wire.Published):
                inbox.append(packet)
            assert packet == wire.Puback(1)
            self.done["commands"] += len(self._doubtful)
            self._queued = {name: None for name in self._queued if name not in self._doubtful}
            self._doubtful.clear()
            while len(self._queued) < 4:
                self._send(f"{self.name}-{next(self._numbers)}")

    def _send(self, name: str) -> None:
        self._asked = name
        command = {"deviceId": self.name, "messageId": name, "body": b64encode(b"hello").decode()}
        done(self.ask("POST", "/emulator/send", command, authorization=f"Bearer {self.load.token()}"))
        self._queued[name], self._asked = None, None
        self.done["commands"] += 1

    def _take(self, line: PacketLine, packet: wire.Published) -> None:
        found = re.search(r"%24\.mid=([^&]+)", packet.topic)
        assert found is not None, packet.topic
        name = found[1]
        assert name in self._queued or name == self._asked, f"{name} came, and was off the queue"
        assert packet.dup or name not in self._seen, f"{name} came again as if for the first time"
        assert packet.packet_id is not None
        self._seen.add(name)
        self._doubtful.add(name)
        line.send(wire.puback(packet.packet_id))

    def settle(self) -> list[str]:
        deliveries = self.load.waiting.get(self.name, {})
        waiting, queued = list(deliveries), [*self._queued, *filter(None, [self._asked])]
        missing = [name for name in self._queued if name not in waiting and name not in self._doubtful]
        problems = [f"{name} was queued and is lost" for name in missing]
        problems += [f"{name} waits, and should not" for name in waiting if name not in {*queued, *self._given_up}]
        if [name for name in waiting if name in queued] != [name for name in queued if name in waiting]:
            problems.append(f"{self.name}: {waiting} wait in another order")
        self._given_up = {name for name, number in deliveries.items() if number >= MAX_DELIVERIES}
        self._queued, self._asked = {name: None for name in waiting if name not in self._given_up}, None
        self._doubtful.clear()
        return problems
