"""Devices that connect over TLS and register, beside devices that only connect, to mosquitto."""

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from functools import partial
from itertools import cycle

from benchmarks import light_device, machine, setting, together
from benchmarks.figures import Aim, Figure, Line, Samples, alternate
from benchmarks.light_device import Connection
from benchmarks.peers import Server, mosquitto
from benchmarks.setting import Device
from benchmarks.together import Run, Signal
from dpsx_helpers.certificate_making import KeyType

NAME = "connects"
TITLE = "TLS connections, each with a registration"
ROUNDS = 7
NEEDS = ("mosquitto",)

COUNT, DEVICES, _AT_ONCE = 400, 20, 10  # connections in a round; at once in each client process
_PROCESSES = (1, 2)  # of clients
_KEYS: dict[KeyType, str] = {"rsa-4096": "RSA 4096, as in the tutorial", "ec-p256": "EC P-256"}
_PART = 0.9  # of mosquitto's pace, the aim


def measure(rounds: int) -> list[Line]:
    """With the tutorial's certificates, whose client has most of the work, and with such as cost little."""
    lines: list[Line] = []
    for key_type, words in _KEYS.items():
        with setting.folder() as folder, setting.emulator(folder / "e") as running, contextlib.ExitStack() as stack:
            devices = setting.make_devices(DEVICES, folder, key_type)
            setting.enroll(running, devices)
            files = [device.certificate_file for device in devices]
            servers = [(Server.of(running), running.overview.id_scope)]
            if machine.program("mosquitto"):
                servers.append((stack.enter_context(mosquitto(folder / "mosquitto", running, files)), ""))
            for processes in _PROCESSES:
                works = [partial(connect, server, scope, devices, processes) for server, scope in servers]
                lines += figures(f"{words}, {_clients(processes)}", *alternate(rounds, *works))
    return lines


def figures(circumstances: str, ours: Sequence[Run], peer: Sequence[Run] = ()) -> list[Line]:
    """From the runs of COUNT connections."""
    rates, costs = (_rates(peer), _costs(peer)) if peer else (None, None)
    aim = Aim(_PART, of="comparison", at_least=True)
    beside = "mosquitto, TLS and CONNECT alone"
    return [
        Figure(f"TLS, CONNECT, register, assigned ({circumstances})", "/s", _rates(ours), beside, rates, aim=aim),
        Figure(f"server's processor time for one ({circumstances})", "ms", _costs(ours), beside, costs),
    ]


def _clients(processes: int) -> str:
    return "one client process" if processes == 1 else f"{processes} client processes"


def _rates(runs: Sequence[Run]) -> Samples:
    return Samples.of(COUNT / run.seconds for run in runs)


def _costs(runs: Sequence[Run]) -> Samples:
    return Samples.of(run.cpu / COUNT * 1e3 for run in runs)


def connect(server: Server, id_scope: str, devices: Sequence[Device], processes: int) -> Run:
    """So many connections; with an ID scope each of them registers."""
    shares = [devices[number::processes] for number in range(processes)]
    count = COUNT // processes
    return together.run(server, [(_connect_all, (server, id_scope, share, count)) for share in shares])


# --- one client process -----------------------------------------------------------------------------------------------


def _connect_all(server: Server, id_scope: str, devices: Sequence[Device], count: int, signal: Signal) -> None:
    contexts = {device: light_device.context(device, server.ca) for device in devices}
    signal.wait()
    asyncio.run(_at_once(server, id_scope, contexts, count))
    signal.done()


async def _at_once(server: Server, id_scope: str, contexts: dict[Device, ssl.SSLContext], count: int) -> None:
    """So many connections, _AT_ONCE side by side where there are as many devices, until all are done.

    No device is on two of them: DPS would take the second registration for one that replaces the first.
    """
    left, devices = iter(range(count)), list(contexts)

    async def one_after_the_other(own: Sequence[Device]) -> None:
        for device, _ in zip(cycle(own), left, strict=False):
            await _one(server, id_scope, device.name, contexts[device])

    lanes = min(_AT_ONCE, len(devices))
    await asyncio.gather(*(one_after_the_other(devices[lane::lanes]) for lane in range(lanes)))


async def _one(server: Server, id_scope: str, name: str, context: ssl.SSLContext) -> None:
    """Connect and, with an ID scope, register."""
    where = (server.host, server.port, context)
    if id_scope:
        connection = await light_device.register(*where, id_scope, name)
    else:
        connection = await Connection.open(*where, name, name, lambda *_: None)
    await connection.leave()
