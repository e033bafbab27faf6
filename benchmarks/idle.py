"""Devices that are connected to their hub and have nothing to say: memory for each, and how busy the server is."""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import light_device, machine, programs, setting
from benchmarks.figures import Aim, Figure, Line, Samples, alternate
from benchmarks.light_device import Connection
from benchmarks.peers import Server, mosquitto
from benchmarks.setting import Device
from dpsx_helpers.emulator import Emulator

NAME = "idle"
TITLE = "Connected devices at rest"
ROUNDS = 3
NEEDS = ("mosquitto",)

_COUNTS = (1_000, 5_000)
_BODY = bytes(60_000)  # what each sends once
_AT_ONCE = 20  # that connect or send side by side
_KEEP_ALIVE = 60.0  # seconds between two PINGREQs of one device, as Microsoft's client has it
_REST = 20.0  # seconds for which the process is watched
_SETTLED = 3.0  # seconds from the last packet until the watching begins
_MOST, _MOST_BUSY = 60.0, 2.0  # kB for a device, percent of a core: the aims


@dataclass(frozen=True)
class Rest:
    """kB for each device, once all are connected and once each has sent _BODY, and percent of a core at rest: while
    nobody says anything, and with a PINGREQ a minute of each.
    """

    connected: float
    sent: float
    silent: float
    busy: float


def measure(rounds: int) -> list[Line]:
    """Each round with processes of its own, because memory that was used once is seldom given back."""
    programs.allow_sockets(max(_COUNTS) + 200)
    lines: list[Line] = []
    for count in _COUNTS:
        works = [lambda: _emulator(count)]  # noqa: B023 - both are called in this turn
        if machine.program("mosquitto"):
            works.append(lambda: _mosquitto(count))  # noqa: B023
        lines += figures(count, *alternate(rounds, *works, warm_up=False))
    return lines


def figures(count: int, ours: Sequence[Rest], peer: Sequence[Rest] = ()) -> list[Line]:
    """From what so many devices cost."""
    most, busy = Aim(_MOST), Aim(_MOST_BUSY)
    rows = [
        (f"memory for each of {count:,} idle devices", "kB", "connected", most),
        (f"the same after each has sent {len(_BODY) // 1000} kB", "kB", "sent", most),
        (f"busy with {count:,} idle devices that are silent", "% of a core", "silent", busy),
        (f"busy with {count:,} idle devices, a PINGREQ a minute", "% of a core", "busy", busy),
    ]
    return [
        Figure(work, unit, _one(ours, name), "mosquitto", _one(peer, name) if peer else None, aim=aim)
        for work, unit, name, aim in rows
    ]


def _one(rests: Sequence[Rest], name: str) -> Samples:
    return Samples.of(getattr(rest, name) for rest in rests)


def _emulator(count: int) -> Rest:
    with setting.folder() as folder, setting.emulator(folder / "emulator") as running:
        devices = setting.make_devices(count, folder)
        setting.in_hub(running, devices)
        return asyncio.run(_hold(Server.of(running), running, devices))


def _mosquitto(count: int) -> Rest:
    with setting.folder() as folder, setting.emulator(folder / "emulator") as running:
        devices = setting.make_devices(count, folder)
        files = [device.certificate_file for device in devices]
        with mosquitto(folder / "mosquitto", running, files) as server:
            return asyncio.run(_hold(server, running, devices))


async def _hold(server: Server, running: Emulator, devices: Sequence[Device]) -> Rest:
    contexts = [light_device.context(device, server.ca) for device in devices]
    turn = asyncio.Semaphore(_AT_ONCE)

    async def connect(device: Device, context: ssl.SSLContext) -> Connection:
        user_name = f"{running.overview.host}/{device.name}/?api-version=2021-04-12"
        async with turn:
            return await Connection.open(server.host, server.port, context, device.name, user_name, lambda *_: None)

    async def send(device: Device, connection: Connection) -> None:
        async with turn:
            await connection.answered(connection.publish(f"devices/{device.name}/messages/events/", _BODY, 1))

    empty = server.memory()
    connections = await asyncio.gather(*map(connect, devices, contexts))
    connected = server.memory()
    await asyncio.gather(*map(send, devices, connections))
    sent = server.memory()
    await asyncio.sleep(_SETTLED)
    silent = await _busy(server, [])
    busy = await _busy(server, connections)
    for connection in connections:
        connection.cut()
    each = 1000 / len(devices)
    return Rest((connected - empty) * each, (sent - empty) * each, silent, busy)


async def _busy(server: Server, connections: Sequence[Connection]) -> float:
    """Percent of a core that the server uses while each of these devices sends a PINGREQ in every _KEEP_ALIVE."""
    loop = asyncio.get_running_loop()
    cpu, begin = server.cpu(), loop.time()
    every = _KEEP_ALIVE / max(1, len(connections))
    for number, connection in enumerate(connections):
        due = begin + number * every
        if due > begin + _REST:
            break
        await asyncio.sleep(due - loop.time())
        connection.ping()
    await asyncio.sleep(begin + _REST - loop.time())
    return (server.cpu() - cpu) / (loop.time() - begin) * 100
