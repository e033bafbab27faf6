"""Slow and rude clients: each costs a bounded time and a bounded memory, and nobody else is harmed.

A connection costs 51 KB until it comes to its CONNECT, whatever it has said until then, and 37 KB as that of a device
that is there and silent; each may cost 128 KB here. For one that does not read, what waits comes on top.
"""

import asyncio
import gc
import json
import logging
import os
import socket
import ssl
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import rude
import wire
from clients import bodies, connected, enroll, register, send
from connections import Sender, on_the_wire, provisioned
from pki import make_device
from processes import COMMAND, RunningEmulator, run_command, status, wait_for
from rest import ask
from rude import PORTS, Raw, is_closed, is_open
from wire import Desk

from dpsx_helpers.emulator import listener, sessions

Start = Callable[..., RunningEmulator]
DEVICE_PORTS = ("mqtt", "websocket")
CROWD = int(os.environ.get("DPSX_CROWD", "200"))  # connections of each kind; 1000 for the measurement in the docs
HALF_OPEN_COSTS = 128_000  # bytes
CONNECTED_COSTS = 128_000
pytestmark = pytest.mark.skipif(os.name != "posix", reason="descriptors are counted on POSIX systems")


@pytest.fixture(autouse=True)
def _many_descriptors() -> None:
    rude.may_open(4096)


def rss(emulator: RunningEmulator) -> int:
    return int(psutil.Process(emulator.process.pid).memory_info().rss)


def cpu(emulator: RunningEmulator) -> float:
    """The seconds of a processor that it has taken."""
    times = psutil.Process(emulator.process.pid).cpu_times()
    return float(times.user + times.system)


def answers_its_owner(emulator: RunningEmulator) -> bool:
    """Whether the commands that a learner types work."""
    listed = run_command("fault", "--state-dir", str(emulator.state_dir))
    return bool(listed.returncode == 0 and status(emulator.state_dir)["running"])


# --- who does not come to the point -----------------------------------------------------------------------------------


def test_half_open_handshakes_cost_little_and_a_device_registers_and_sends_meanwhile(
    start: Start, tmp_path: Path
) -> None:
    """150 on each of three ports, and again 150 when those have gone: the memory of the first serves the second."""
    emulator = start("--ws-port", "0")
    device = make_device(tmp_path, "polite")
    enroll(emulator, device)
    before = rss(emulator)
    with rude.half_open(emulator, 150, *PORTS) as sockets:
        assert register(emulator, device).status == "assigned"
        with connected(emulator, device) as client:
            send(client, "hello")
        assert bodies(emulator) == ["hello"]
        assert answers_its_owner(emulator)
        assert all(map(is_open, sockets)), "there was room for everybody"
        first = rss(emulator)
    assert first - before < len(sockets) * HALF_OPEN_COSTS
    wait_for(lambda: psutil.Process(emulator.process.pid).num_fds() < 100)
    with rude.half_open(emulator, 150, *PORTS) as sockets:
        assert answers_its_owner(emulator)
        assert rss(emulator) - first < len(sockets) * HALF_OPEN_COSTS / 2
    assert emulator.terminate() == 0


def drip(sock: socket.socket, data: bytes, gone: threading.Event) -> None:
    """Say it a byte at a time, until the other side has closed."""
    for at in range(len(data)):
        if gone.wait(0.1):
            return
        try:
            sock.sendall(data[at : at + 1])
        except OSError:
            return


def test_who_does_not_come_to_the_point_in_time_is_closed_on_every_port(start: Start, tmp_path: Path) -> None:
    """A second instead of a minute or two: for handshake and CONNECT, or for handshake and request, also in drops."""
    emulator = start("--ws-port", "0", program=rude.impatient())
    device = provisioned(emulator, tmp_path, "polite")
    hello, gone = rude.client_hello(emulator), threading.Event()
    connect = wire.to_hub("polite", host=emulator.host)
    request = b"GET / HTTP/1.1\r\n" + b"X-Many: x\r\n" * 100
    with on_the_wire(emulator, device) as line, rude.half_open(emulator, 3, *PORTS) as sockets, ExitStack() as open_:
        dripped: list[tuple[socket.socket, bytes]] = []
        for port in PORTS:
            address = (emulator.host, rude.port_of(emulator, port))
            begun = open_.enter_context(socket.create_connection(address, timeout=rude.WITHIN))
            secured = open_.enter_context(socket.create_connection(address, timeout=rude.WITHIN))
            secured = open_.enter_context(rude.trusting(emulator).wrap_socket(secured, server_hostname=emulator.host))
            dripped += [(begun, hello), (secured, request)]  # which is what a WebSocket begins with, too
            sockets += [open_.enter_context(closing(made)) for made in silent(emulator, port)]
        for port in DEVICE_PORTS:
            raw = open_.enter_context(Raw(emulator, port, device))
            dripped.append((raw.socket, raw.framed(connect)))
        threads = [threading.Thread(target=drip, args=(sock, data, gone)) for sock, data in dripped]
        for thread in threads:
            thread.start()
        every = [*sockets, *(sock for sock, _ in dripped)]
        closed = [is_closed(sock) for sock in every]
        gone.set()
        for thread in threads:
            thread.join()
        assert (len(closed), set(closed)) == (9 + 4 + 8, {True})
        line.publish(wire.events("polite"), "still there")
    assert bodies(emulator) == ["still there"]
    assert "no CONNECT came within 1 s" in emulator.log()


def silent(emulator: RunningEmulator, port: str) -> Iterator[ssl.SSLSocket]:
    """Connections over TLS that say nothing more."""
    plain = socket.create_connection((emulator.host, rude.port_of(emulator, port)), timeout=rude.WITHIN)
    yield rude.trusting(emulator).wrap_socket(plain, server_hostname=emulator.host)
    if port == "websocket":
        yield Raw(emulator, port).socket


@pytest.mark.parametrize("port", DEVICE_PORTS)
def test_a_device_that_drips_one_packet_for_longer_than_its_keep_alive_is_closed(
    start: Start, tmp_path: Path, port: str
) -> None:
    emulator = start("--ws-port", "0")
    device = provisioned(emulator, tmp_path, "dripping")
    with Raw(emulator, port, device) as raw:
        raw.ask(wire.to_hub("dripping", host=emulator.host, keep_alive=1), size=4)
        large, gone = raw.framed(wire.publish(wire.events("dripping"), b"y" * 100_000)), threading.Event()
        thread = threading.Thread(target=drip, args=(raw.socket, large, gone))
        thread.start()
        assert is_closed(raw.socket)
        gone.set()
        thread.join()
    assert "'dripping' said nothing for 2 s" in emulator.log()
    assert bodies(emulator) == []


@pytest.mark.parametrize("port", DEVICE_PORTS)
def test_whole_packets_keep_a_device_alive_and_bytes_do_not(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: str
) -> None:
    """MQTT-3.1.2-24 counts Control Packets. Half a PUBLISH is none, nor is a ping of a WebSocket."""
    device = make_device(tmp_path, "dripping")
    desk.add("dripping", primary_thumbprint=device.thumbprint)
    received: list[float] = []  # when the device was last heard, after each piece that came
    receive = listener.DeviceProtocol.data_received

    def watched(connection: listener.DeviceProtocol, data: bytes) -> None:
        receive(connection, data)
        received.append(connection._heard)

    monkeypatch.setattr(listener.DeviceProtocol, "data_received", watched)

    async def drip_one() -> list[float]:
        async with rude.listening(desk, tmp_path, websocket=port == "websocket") as (_, address, context):
            _, writer = await rude.connection(address, context, device)
            hello = wire.to_hub("dripping")
            writer.write(rude.upgraded(hello) if port == "websocket" else hello)
            while not desk.services.is_connected(desk.device("dripping")):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            packet = wire.publish(wire.events("dripping"), b"x")
            pieces = [packet[:1], packet[1:20], packet[20:-1], packet[-1:]]
            if port == "websocket":
                pieces = [rude.framed(piece) for piece in pieces]
                pieces.insert(0, rude.PING)
            heard = [received[-1]]
            for piece in pieces:
                before = len(received)
                writer.write(piece)
                while len(received) == before:
                    await asyncio.sleep(0.01)
                heard.append(received[-1])
            writer.close()
            return heard

    *heard, last = asyncio.run(asyncio.wait_for(drip_one(), 60))
    assert set(heard) == {heard[0]}
    assert last > heard[0]
    assert desk.messages("dripping") == [b"x"]


# --- who does not read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", DEVICE_PORTS)
def test_a_device_that_does_not_read_what_the_service_sends_is_parted_from(
    desk: Desk, tmp_path: Path, caplog: pytest.LogCaptureFixture, port: str
) -> None:
    """Changes of its twin, messages and method calls come without being asked for. 6 MiB of them wait, and no more."""
    device = make_device(tmp_path, "unmoved")
    desk.add("unmoved", primary_thumbprint=device.thumbprint)
    waited: list[int] = []

    async def flood() -> None:
        async with rude.listening(desk, tmp_path, websocket=port == "websocket") as (doors, address, context):
            _, writer = await rude.connection(address, context, device)
            saying = wire.to_hub("unmoved") + wire.subscribe(
                wire.DESIRED, wire.METHODS, wire.commands_to("unmoved"), qos=0
            )
            writer.write(rude.upgraded(saying) if port == "websocket" else saying)
            while not desk.services.is_connected(desk.device("unmoved")) or "SUBACK" not in caplog.text:
                await asyncio.sleep(0.01)
            (connection,) = doors.open
            for _ in range(20):
                desk.send("unmoved", b"c" * 60_000)
            for number in range(2000):
                desk.change_twin("unmoved", {"properties": {"desired": {"k": str(number) + "x" * 4000}}})
                desk.call("unmoved", payload=json.dumps("p" * 16_000).encode())
                await asyncio.sleep(0)
                waited.append(connection._transport.get_write_buffer_size())
                if not doors.open:
                    break
            assert not doors.open
            writer.close()

    asyncio.run(flood())
    assert max(waited) < listener.MOST_UNREAD + 200_000
    assert "'unmoved' does not read: more than 6 MiB wait for it" in caplog.text
    assert not desk.services.is_connected(desk.device("unmoved"))


def test_a_device_that_reads_late_gets_its_fifty_messages_and_what_came_behind_them(desk: Desk, tmp_path: Path) -> None:
    """3 MB of messages, and then 4 MB of changes that wait in the emulator's own memory."""
    device = make_device(tmp_path, "late")
    desk.add("late", primary_thumbprint=device.thumbprint)
    for number in range(50):
        desk.send("late", bytes([number]) * 65_000)

    async def read_late() -> tuple[int, bytes]:
        async with rude.listening(desk, tmp_path) as (doors, address, context):
            reader, writer = await rude.connection(address, context, device)
            commands = wire.subscribe(wire.DESIRED, wire.commands_to("late"))
            writer.write(wire.to_hub("late", clean=False) + commands)
            while len(desk.waiting("late")) < 50 or not desk.services.is_connected(desk.device("late")):
                await asyncio.sleep(0.01)
            (connection,) = doors.open
            changes = 0
            while connection._transport.get_write_buffer_size() < 4_000_000:
                more = {f"k{key}": str(changes) + "x" * 4000 for key in range(7)}
                desk.change_twin("late", {"properties": {"desired": more}})
                changes += 1
                await asyncio.sleep(0)
            desk.change_twin("late", {"properties": {"desired": {"last": True}}})
            data = b""
            while b"last" not in data:
                data += await reader.read(65536)
            writer.close()
            return changes + 1, data

    changes, data = asyncio.run(asyncio.wait_for(read_late(), 100))
    sent = [one for one in wire.read(data) if isinstance(one, wire.Published)]
    assert [one.payload[0] for one in sent[:50]] == list(range(50))
    assert len(sent) == 50 + changes


@pytest.mark.parametrize("port", DEVICE_PORTS)
def test_a_flood_of_pings_that_nobody_reads_costs_little_and_others_go_on(
    start: Start, tmp_path: Path, port: str
) -> None:
    """PINGREQ without end, or pings of the WebSocket; half a million answers of two bytes and more are never read."""
    emulator = start("--ws-port", "0")
    device, polite = (provisioned(emulator, tmp_path, name) for name in ("flooding", "polite"))
    before, ended = rss(emulator), threading.Event()
    with Raw(emulator, port, device) as raw, on_the_wire(emulator, polite) as line:
        raw.ask(wire.to_hub("flooding", host=emulator.host, keep_alive=0), size=4)
        flood = (wire.PINGREQ if port == "mqtt" else rude.PING) * 10_000
        raw.socket.settimeout(0.5)

        def pour() -> None:
            try:
                while not ended.is_set():
                    raw.socket.sendall(flood)
            except OSError:  # it is not read any more either
                return

        thread = threading.Thread(target=pour)
        thread.start()
        for number in range(20):
            line.publish(wire.events("polite"), f"{number}")
        ended.set()
        thread.join()
        assert rss(emulator) - before < 20_000_000
    assert bodies(emulator) == [f"{number}" for number in range(20)]
    assert answers_its_owner(emulator)


def test_an_answer_over_https_that_nobody_reads_is_given_up(start: Start, tmp_path: Path) -> None:
    """Answers of 4 MB: their memory is free again, though the client stays."""
    emulator = start("--ws-port", "0", program=rude.impatient())
    device = provisioned(emulator, tmp_path, "writing")
    with on_the_wire(emulator, device) as line:
        for _ in range(18):
            line.publish(wire.events("writing"), "x" * 250_000)
    token = json.loads((emulator.state_dir / "running.json").read_text())["token"]
    request = (
        f"GET /emulator/messages?device=writing HTTP/1.1\r\nHost: {emulator.emulator.overview.service_endpoint}\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    )
    with ExitStack() as open_:
        clients = []
        for _ in range(3):
            plain = socket.socket()
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            plain.settimeout(rude.WITHIN)
            plain.connect((emulator.host, rude.port_of(emulator, "https")))
            client = rude.trusting(emulator).wrap_socket(plain, server_hostname=emulator.host)
            clients.append(open_.enter_context(client))
            client.sendall(request.encode())
        wait_for(lambda: emulator.log().count("the answer was not read in time") == 3)
        assert answers_its_owner(emulator)
        assert all(map(is_closed, clients))
    answer = ask(emulator, "GET", "/emulator/messages?device=writing", authorization=f"Bearer {token}")
    assert len(answer.json()) == 16, "as many of the last as 4 MiB hold"


# --- many at once -----------------------------------------------------------------------------------------------------


async def come(emulator: RunningEmulator, context: ssl.SSLContext, name: str) -> asyncio.StreamWriter:
    """Connect to the hub as this device."""
    reader, writer = await asyncio.open_connection(emulator.host, 8883, ssl=context)
    writer.write(wire.to_hub(name, host=emulator.host, keep_alive=0))
    assert wire.read(await reader.readexactly(4)) == [wire.CONNECTED]
    return writer


def test_many_connects_in_a_short_time_all_succeed_and_no_message_of_another_device_is_lost(
    start: Start, tmp_path: Path
) -> None:
    """As many that stay as come and go at once; `DPSX_CROWD=1000` makes it 2,000. What they took is used again."""
    device = make_device(tmp_path, "crowd")
    names = rude.prepared(tmp_path / "state", device, CROWD)
    emulator = start("--ws-port", "none")
    sender = Sender(emulator, provisioned(emulator, tmp_path, "steady"))
    over = threading.Event()
    thread = threading.Thread(target=sender.send_until, args=(over.is_set, 1))
    thread.start()
    wait_for(lambda: len(sender.acknowledged) > 10)
    context, told = rude.trusting(emulator, device), len(sender.acknowledged)

    async def crowd() -> list[int]:
        staying, at_once, used = [], asyncio.Semaphore(50), []

        async def one(name: str) -> None:
            async with at_once:
                staying.append(await come(emulator, context, name))

        for _ in range(2):
            await asyncio.gather(*map(one, names))
            used.append(rss(emulator))
            while staying:
                staying.pop().transport.abort()
        return used

    before, worked, began = rss(emulator), cpu(emulator), time.monotonic()
    used = asyncio.run(crowd())
    took = time.monotonic() - began
    wait_for(lambda: len(sender.acknowledged) > told + 10)
    over.set()
    thread.join()
    wait_for(lambda: ask(emulator, "GET", f"/devices/{names[0]}").json()["connectionState"] == "Disconnected")
    assert set(bodies(emulator, "steady")) >= sender.acknowledged
    logging.getLogger(__name__).warning(
        "%d connects in %.1f s, %.1f s of a processor, %.0f KB each, then %.0f KB more",
        2 * CROWD, took, cpu(emulator) - worked, (used[0] - before) / CROWD / 1000, (used[1] - used[0]) / CROWD / 1000,
    )  # fmt: skip
    assert used[0] - before < CROWD * CONNECTED_COSTS
    assert used[1] - used[0] < CROWD * CONNECTED_COSTS / 2


# --- few descriptors --------------------------------------------------------------------------------------------------


def test_with_256_descriptors_who_is_there_stays_and_others_are_turned_away(start: Start, tmp_path: Path) -> None:
    device = make_device(tmp_path, "crowd")
    names = rude.prepared(tmp_path / "state", device, 200)
    emulator = start("--ws-port", "0", program=rude.with_descriptors(256))
    first = provisioned(emulator, tmp_path, "first")
    context = rude.trusting(emulator, device)
    with on_the_wire(emulator, first) as line:
        with rude.half_open(emulator, 400, "mqtt") as sockets:
            line.publish(wire.events("first"), "during 400 half-open handshakes")
            late = provisioned(emulator, tmp_path, "late")
            with on_the_wire(emulator, late) as other:
                other.publish(wire.events("late"), "came in all the same")
            assert is_closed(sockets[0]), "the oldest makes room"
        line.subscribe(wire.METHODS)
        with ThreadPoolExecutor(1) as pool:
            call = {"methodName": "wait", "payload": None, "responseTimeoutInSeconds": 60}
            calling = pool.submit(ask, emulator, "POST", "/twins/first/methods", call, within=60)
            topic, _ = line.messages.get(timeout=rude.WITHIN)
            with rude.half_open(emulator, 200, "https", "websocket"):
                assert answers_its_owner(emulator)
                line.say(topic.replace("POST/wait", "res/200"), "1", qos=1)
                assert calling.result().json() == {"status": 200, "payload": 1}, "it was under way"
            line.publish(wire.events("first"), "and during more on the other ports")

        async def come_to_stay() -> None:
            stay, away = [], 0
            for name in names:
                try:
                    stay.append(await come(emulator, context, name))
                except (OSError, asyncio.IncompleteReadError):
                    away += 1
            assert (len(stay), away) == (161, 39), "162 places, of which one is taken"
            line.publish(wire.events("first"), "among those that stay")
            assert answers_its_owner(emulator)
            stay.pop().transport.abort()
            while True:  # until its place is free
                try:
                    await come(emulator, context, names[-1])
                    break
                except (OSError, asyncio.IncompleteReadError):
                    await asyncio.sleep(0.1)

        asyncio.run(asyncio.wait_for(come_to_stay(), 100))
    assert len(bodies(emulator)) == 4
    log = emulator.log()
    assert "all 162 connections for devices are taken" in log
    assert "all 54 connections for clients of the service side are taken" in log
    assert "`ulimit -n 10040`" in log
    assert len([line for line in log.splitlines() if " are taken" in line]) < 20
    assert "Too many open files" not in log
    stopped = subprocess.run(
        [*COMMAND, "stop", "--state-dir", str(emulator.state_dir)], capture_output=True, timeout=60, check=False
    )
    assert stopped.returncode == 0
    assert emulator.close() == 0


def test_when_the_system_gives_no_descriptor_it_waits_and_recovers(start: Start, tmp_path: Path) -> None:
    """160 of the 256 are taken by something else, as other programs of the machine might."""
    emulator = start("--ws-port", "0", program=rude.with_descriptors(256, lost=160))
    device = provisioned(emulator, tmp_path, "first")
    with on_the_wire(emulator, device) as line:
        with rude.half_open(emulator, 150, "mqtt"):
            wait_for(lambda: "nobody can be let in at the moment" in emulator.log())
            line.publish(wire.events("first"), "during that")
        line.publish(wire.events("first"), "after that")
    assert answers_its_owner(emulator)
    late = provisioned(emulator, tmp_path, "late")
    with on_the_wire(emulator, late) as line:
        line.publish(wire.events("late"), "came in")
    assert bodies(emulator) == ["during that", "after that", "came in"]
    assert emulator.log().count("Too many open files") <= 3


# --- what is left of a connection -------------------------------------------------------------------------------------


def test_the_memory_of_a_connection_is_free_when_it_ends(desk: Desk, tmp_path: Path) -> None:
    """And not when Python looks for cycles the next time: that is late where each holds 50 KB outside its sight."""
    device = make_device(tmp_path, "brief")
    desk.add("brief", primary_thumbprint=device.thumbprint)

    async def come_and_go() -> weakref.ref[Any]:
        async with rude.listening(desk, tmp_path) as (doors, address, context):
            reader, writer = await rude.connection(address, context, device)
            writer.write(wire.to_hub("brief"))
            await reader.readexactly(4)
            (connection,) = doors.open
            channel = weakref.ref(connection._channel)
            del connection
            writer.transport.abort()
            while doors.open:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            return channel

    gc.disable()
    try:
        assert asyncio.run(come_and_go())() is None
    finally:
        gc.enable()


def test_a_flood_of_packets_waits_for_the_others_turn_and_nothing_before_a_goodbye_is_lost(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2,000 messages without acknowledgement and a DISCONNECT, in one piece, and the connection is closed at once."""
    device = make_device(tmp_path, "hasty")
    desk.add("hasty", primary_thumbprint=device.thumbprint)
    commits: list[int] = []
    pieces: list[int] = []
    receive = listener.DeviceProtocol.data_received

    def watched(connection: listener.DeviceProtocol, data: bytes) -> None:
        pieces.append(len(data))
        receive(connection, data)

    monkeypatch.setattr(listener.DeviceProtocol, "data_received", watched)
    said = [b"%d" % number for number in range(2000)]

    async def come_and_go() -> None:
        async with rude.listening(desk, tmp_path) as (doors, address, context):
            commit = desk.store.commit
            desk.store.commit = lambda: (commit(), commits.append(len(desk.messages("hasty"))))[0]  # type: ignore[method-assign]
            _, writer = await rude.connection(address, context, device)
            writer.write(
                wire.to_hub("hasty") + b"".join(wire.publish(wire.events("hasty"), one, qos=0) for one in said)
            )
            writer.write(wire.DISCONNECT)
            writer.close()
            with suppress(ssl.SSLError):  # since the CONNACK is not read
                await writer.wait_closed()
            while doors.open:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(come_and_go(), 100))
    assert desk.messages("hasty") == said
    assert max(pieces) <= 32 << 10
    steps = [after - before for before, after in pairwise(commits)]
    assert max(steps) <= 2 * sessions.MOST_AT_ONCE, "the end of one piece, and the beginning of the next"
