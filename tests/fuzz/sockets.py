"""The same inputs over many short connections to a real emulator process, beside a device that goes on all the time.

Afterwards: the process lives and holds no more descriptors and threads than before, its memory has not grown, it has
logged no fault of its own, its HTTPS side answers, and the device beside was answered every time and is stored whole.
"""

import asyncio
import os
import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import wire
from connections import create
from pki import Device
from processes import COMMAND, RunningEmulator, wait_for
from rest import ask, done

from .devices import ACT, NAME, OTHER, SECRET, WORDS, framed, recordings, spoken
from .inputs import Input, count, length, packets, write
from .mutation import Mutator, gentle_packet_edits, packet_edits
from .records import Script, edited, scripts

AT_ONCE = 6  # connections
_ANSWER_WITHIN = 60.0  # seconds; whoever waits longer is stuck
_PAUSE = 0.02  # seconds in which an answer that is not needed may still come
#: Bytes that the process may have grown by from the end of its warm-up to the end: malloc, SQLite's cache of 2 MB and
#: the connections of the moment take their part. A leak of one connection's TLS is 30 KB, and there are thousands.
GROWTH = 16 << 20
_GONE_WITHIN = 10.0  # seconds for the last connections
_WARM_UP = 400  # connections
_LINGER = "hh" if os.name == "nt" else "ii"
_FAULTS = ("fault of the emulator itself", "Traceback", "Exception in callback", "Fatal error")


class Broken(AssertionError):
    """A promise that the run has found broken."""


class Healthy(threading.Thread):
    """A device that sends telemetry at QoS 1 and asks for its twin, again and again, and looks at each answer."""

    def __init__(self, emulator: RunningEmulator, device: Device) -> None:
        super().__init__(daemon=True)
        self.sent: list[str] = []
        self.failure: BaseException | None = None
        self.over = threading.Event()
        self._emulator = emulator
        self._device = device

    def run(self) -> None:
        try:
            self._go_on()
        except BaseException as error:  # noqa: BLE001 - for the thread that asks
            self.failure = error

    def _go_on(self) -> None:
        context = client_context(self._emulator, self._device)
        host = self._emulator.host
        with (
            socket.create_connection((host, 8883), timeout=_ANSWER_WITHIN) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            connection.sendall(wire.to_hub(OTHER, host=host) + wire.subscribe(wire.TWIN, qos=0))
            assert _read(connection, 2) == [wire.CONNECTED, wire.Suback(1, (0,))]
            twin = None
            while not self.over.wait(0.02):
                number = len(self.sent) % 65_535 + 1
                body = f"healthy {len(self.sent)}"
                connection.sendall(wire.publish(wire.events(OTHER), body.encode(), number=number))
                connection.sendall(wire.get_twin(number, qos=0))
                acknowledged, answer = _read(connection, 2)
                assert acknowledged == wire.Puback(number)
                assert isinstance(answer, wire.Published)
                assert answer.topic == f"$iothub/twin/res/200/?$rid={number}"
                twin = twin or answer.json
                assert answer.json == twin
                assert SECRET in str(twin)
                self.sent.append(body)
            connection.sendall(wire.DISCONNECT)


def _read(connection: ssl.SSLSocket, count: int) -> list[wire.Sent]:
    data = b""
    while len(list(packets(data))) < count:
        more = connection.recv(65536)
        assert more, "the connection of the other device was closed"
        data += more
    return wire.read(data)


def client_context(emulator: RunningEmulator, device: Device) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(emulator.emulator.overview.ca_file))
    context.load_cert_chain(device.certificate_file, device.key_file)
    return context


class Log:
    """The emulator's log, read as it is written: the file begins anew when it is large."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open(encoding="utf-8")
        self.faults: list[str] = []
        self.lines = 0

    def read(self) -> None:
        self._rest()
        if os.stat(self._path).st_ino != os.fstat(self._file.fileno()).st_ino:
            self._rest()
            self._file.close()
            self._file = self._path.open(encoding="utf-8")
            self._rest()

    def _rest(self) -> None:
        for line in self._file:
            self.lines += 1
            if any(words in line for words in _FAULTS):
                self.faults.append(line.rstrip())

    def close(self) -> None:
        self._file.close()


class SocketRun:
    """Everything on sockets. `packets` and `records` count what was sent, `connections` how often."""

    def __init__(
        self, folder: Path, seed: object, corpus: Sequence[Input] = (), *, program: Sequence[str] = COMMAND
    ) -> None:
        self.packets = self.records = self.connections = 0
        self._chance = random.Random(f"{seed} sockets")
        self._emulator = RunningEmulator(
            folder / "state", None, "--id-scope", wire.SCOPE, "--ws-port", "0", program=program
        )
        host = self._emulator.host
        self._device, other = (create(self._emulator, folder, name) for name in (NAME, OTHER))
        self._context = client_context(self._emulator, self._device)
        desired = {"properties": {"desired": {"of": SECRET}}}
        done(ask(self._emulator, "PATCH", f"/twins/{OTHER}", desired))
        self._said = [*recordings(host), *spoken(host), *corpus]
        self._scripts = list(scripts())
        self._mutate = Mutator(self._chance, WORDS, packet_edits(WORDS), gentle_packet_edits(WORDS))
        self._mutate_script = Mutator(self._chance, WORDS, [edited])
        self._log = Log(self._emulator.state_dir / "emulator.log")
        self._process = psutil.Process(self._emulator.process.pid)
        self._healthy = Healthy(self._emulator, other)
        self._healthy.start()
        wait_for(lambda: len(self._healthy.sent) > 2 or self._healthy.failure, within=_ANSWER_WITHIN)
        self._before = self._held()
        self._warm: int | None = None
        self.last: list[str] = []
        self.summary = ""

    def _held(self) -> tuple[int, int]:
        """Descriptors and threads of the emulator."""
        return self._process.num_fds() if os.name == "posix" else 0, self._process.num_threads()

    def _holds_no_more(self) -> bool:
        return all(now <= before for now, before in zip(self._held(), self._before, strict=True))

    def close(self) -> None:
        self._healthy.over.set()
        self._healthy.join(_ANSWER_WITHIN + 10)
        self._log.close()
        self._emulator.close()

    def run(
        self, *, packets: int | None = None, seconds: float | None = None, say: Callable[[str], object] = print
    ) -> None:
        """Go on until so many packets and records are sent, or so many seconds are over. Raises Broken."""
        self._say, self._began, self._told = say, time.monotonic(), 30.0
        end = None if seconds is None else time.monotonic() + seconds
        asyncio.run(self._run(packets, end))
        self._check_at_the_end()

    async def _run(self, most: int | None, end: float | None) -> None:
        def goes_on() -> bool:
            enough = most is not None and self.packets + self.records >= most
            return not enough and (end is None or time.monotonic() < end)

        async def worker() -> None:
            while goes_on():
                await self._once()
                if self.connections % 50 == 0:
                    self._check_now()

        async with asyncio.TaskGroup() as workers:
            for _ in range(AT_ONCE):
                workers.create_task(worker())

    def _check_now(self) -> None:
        if self._emulator.process.poll() is not None:
            self._tell(f"the emulator has ended with {self._emulator.process.returncode}")
        if self._healthy.failure is not None:
            self._tell(f"the other device was disturbed: {self._healthy.failure!r}")
        took = time.monotonic() - self._began
        if took > self._told:
            self._told *= 1.7
            self._say(f"after {took:,.0f} s on sockets: {self._counted()}")
        self._log.read()
        if self._log.faults:
            self._tell("the emulator has logged a fault of its own: " + " | ".join(self._log.faults[:5]))
        if self._warm is None and self.connections >= _WARM_UP:
            self._warm = self._process.memory_info().rss

    def _tell(self, what: str) -> None:
        raise Broken("\n".join((what, "the last inputs were:", *self.last)))

    def _check_at_the_end(self) -> None:
        emulator, healthy = self._emulator, self._healthy
        try:
            wait_for(self._holds_no_more, within=_GONE_WITHIN)
        except AssertionError:
            self._tell(f"descriptors and threads are {self._held()} and were {self._before}")
        grown = self._process.memory_info().rss - (self._warm or self._process.memory_info().rss)
        healthy.over.set()
        healthy.join(_ANSWER_WITHIN + 10)
        self._check_now()
        if grown > GROWTH:
            self._tell(f"the emulator has grown by {grown} bytes")
        stored = [message["body"] for message in emulator.messages(OTHER)]
        if healthy.is_alive() or stored != healthy.sent:
            self._tell(f"{len(healthy.sent)} messages of the other device are acknowledged, {len(stored)} stored")
        if done(ask(emulator, "GET", f"/devices/{OTHER}"))["deviceId"] != OTHER:
            self._tell("the HTTPS side does not answer")
        self.summary = (
            f"{self._counted()}; beside them {len(stored):,} messages and as many twins; {self._log.lines:,} lines "
            f"logged; descriptors and threads {self._held()}; memory {grown / 1024:+,.0f} KiB since the first "
            f"{_WARM_UP} connections"
        )

    def _counted(self) -> str:
        return f"{self.connections:,} connections, {self.packets:,} packets, {self.records:,} records"

    # --- one connection ---

    async def _once(self) -> None:
        chance = self._chance
        self.connections += 1
        kind = chance.choice(("mqtt", "mqtt", "websocket", "tls"))
        if kind == "tls":
            given = self._mutate_script(chance.choice(self._scripts), chance.choice(self._scripts))
        else:
            given = self._mutate(chance.choice(self._said), chance.choice(self._said))
            if kind == "websocket":
                given = self._mutate(tuple(framed(given)), given) if chance.random() < 0.5 else tuple(framed(given))
        self.last = [*self.last[-2 * AT_ONCE :], write(kind, given)]
        try:
            async with asyncio.timeout(_ANSWER_WITHIN):
                if kind == "tls":
                    await self._records(given)
                else:
                    await self._packets(given, websocket=kind == "websocket")
        except TimeoutError:
            self._tell("a connection was neither answered nor closed")
        except Broken:
            raise
        except AssertionError as error:
            self._tell(f"what the emulator sent is no MQTT: {error!r}")
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError):
            pass  # it was closed, which is an answer

    async def _packets(self, given: Input, *, websocket: bool) -> None:
        """A good handshake, and then anything."""
        overview = self._emulator.emulator.overview
        port = overview.ws_port if websocket else overview.mqtt_port
        reader, writer = await asyncio.open_connection(
            overview.host, port, ssl=self._context, server_hostname=overview.host, ssl_handshake_timeout=_ANSWER_WITHIN
        )
        try:
            sent = [piece for piece in given if not piece.startswith(ACT)]
            self.packets += max(1, len(sent) if websocket else count(b"".join(sent)))
            for piece in sent:
                writer.write(piece)
                if self._chance.random() < 0.3:
                    await writer.drain()
            how = self._chance.choice(("abort", "wait", "wait", "close"))
            if how == "wait":
                await self._answers(reader, whole=not websocket)
            elif how == "abort":
                writer.transport.abort()
        finally:
            writer.close()
            try:
                await asyncio.wait_for(writer.wait_closed(), 5)
            except (OSError, ssl.SSLError, TimeoutError):
                writer.transport.abort()

    async def _answers(self, reader: asyncio.StreamReader, *, whole: bool) -> None:
        data = b""
        try:
            while more := await asyncio.wait_for(reader.read(65536), _PAUSE):
                data += more
        except TimeoutError:
            pass
        if SECRET.encode() in data:
            self._tell("a device was sent what is of another")
        if whole:
            complete = b"".join(bytes([first]) + length(len(body)) + body for first, body in packets(data))
            wire.read(complete)

    async def _records(self, given: Input) -> None:
        """A handshake of which some records are changed on the way."""
        loop = asyncio.get_running_loop()
        overview = self._emulator.emulator.overview
        into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = self._context.wrap_bio(into, out, server_hostname=overview.host)
        with socket.socket() as plain:
            plain.setblocking(False)
            await loop.sock_connect(plain, (overview.host, overview.mqtt_port))
            script, shaken = Script(client, out, b"\x17\x03\x03\x00\x20" + self._chance.randbytes(32)), False
            for piece in given:
                try:
                    client.do_handshake()
                    shaken = True
                    while client.read(1 << 14):
                        pass
                except (ssl.SSLError, ValueError):
                    pass
                script.collect()
                sent = script.act(piece, shaken=shaken)
                if sent:
                    self.records += 1
                    await loop.sock_sendall(plain, sent)
                if not script.waiting and not shaken:
                    try:
                        heard = await asyncio.wait_for(loop.sock_recv(plain, 65536), _PAUSE)
                    except TimeoutError:
                        continue
                    if not heard:
                        return
                    into.write(heard)
            if self._chance.random() < 0.3:  # a reset instead of an end
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(_LINGER, 1, 0))
