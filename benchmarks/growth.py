"""From 1 to 1,000 devices that register at once: what grows faster than their number?"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

from benchmarks import light_device, programs, setting
from benchmarks.figures import Aim, Figure, Line, Samples, alternate, exponent
from benchmarks.light_device import NotLetIn
from benchmarks.setting import FLOOR, Device

NAME = "growth"
TITLE = "From 1 to 1,000 devices"
ROUNDS = 5
NEEDS: tuple[str, ...] = ()
PICTURE = "growth"

_SIZES = (1, 10, 100, 1000)
_FITTED = _SIZES[1:]  # what one device takes is for the most part what any number takes once
_LINEAR = 1.1  # aim for the exponent; 1 is linear, and the spread of a good run is about a twentieth


@dataclass(frozen=True)
class Launch:
    """Seconds beyond the floor until the last was assigned; processor time of the emulator and of the light client; MB
    of the emulator's memory (RSS) at rest, and with all of them connected.
    """

    seconds: float
    emulator: float
    client: float
    at_rest: float
    memory: float


def measure(rounds: int, sizes: Sequence[int] = _SIZES) -> list[Line]:
    """Each size with a fresh emulator, whose DPS knows these devices alone."""
    programs.allow_sockets(max(sizes) + 200)
    with setting.folder() as folder:
        devices = setting.make_devices(max(sizes), folder)
        works = [partial(launch, folder, devices[:size]) for size in sizes]
        done = alternate(rounds, *works, warm_up=False)
    return figures(dict(zip(sizes, done, strict=True)))


def launch(folder: Path, devices: Sequence[Device]) -> Launch:
    """Enroll them, and let all register at once. Raises NotLetIn unless all are assigned."""
    with setting.emulator(Path(mkdtemp(dir=folder)) / "emulator") as running:
        setting.enroll(running, devices)
        seen = running.overview
        contexts = [light_device.context(device, seen.ca_file) for device in devices]
        at_rest, before = programs.memory(seen.pid).rss, programs.cpu_seconds(seen.pid)
        where, used = (seen.host, seen.mqtt_port), time.process_time()

        async def together() -> tuple[float, float, float, float]:
            began = time.perf_counter()
            pairs = zip(devices, contexts, strict=True)
            lines = await asyncio.gather(
                *(light_device.register(*where, tls, seen.id_scope, device.name, wait=FLOOR) for device, tls in pairs)
            )
            seconds, client = time.perf_counter() - began, time.process_time() - used
            emulator, memory = programs.cpu_seconds(seen.pid) - before, programs.memory(seen.pid).rss
            for line in lines:
                line.cut()
            return seconds - FLOOR, emulator, client, memory

        seconds, emulator, client, memory = asyncio.run(together())
        assigned = sum(record["status"] == "assigned" for record in running.registrations())
        if assigned != len(devices):
            raise NotLetIn(f"{assigned} of {len(devices)} are assigned, says DPS")
    return Launch(seconds, emulator, client, at_rest, memory)


def figures(done: dict[int, list[Launch]]) -> list[Line]:
    """From the launches of each size, by rounds."""
    lines: list[Line] = []
    for size, launches in done.items():
        what = f"{size:,} device{'s' if size > 1 else ''} at once"
        lines += [
            Figure(f"{what}: time beyond {FLOOR} s", "s", Samples.of(one.seconds for one in launches),
                   curve="time beyond 2.0 s, s", size=size),
            Figure(f"{what}: processor time of the emulator", "s", Samples.of(one.emulator for one in launches),
                   "of the light client", Samples.of(one.client for one in launches),
                   curve="processor time of the emulator, s", size=size),
            Figure(f"{what}: memory of the emulator", "MB", Samples.of(one.memory for one in launches),
                   "at rest", Samples.of(one.at_rest for one in launches), "difference",
                   curve="growth of its memory, MB", size=size),
        ]  # fmt: skip
    fitted = [size for size in done if size in _FITTED]
    if len(fitted) > 1:
        rounds = list(zip(*(done[size] for size in fitted), strict=True))
        exponents = Samples.of(exponent(fitted, [one.emulator for one in launches]) for launches in rounds)
        largest = fitted[-1]
        grown = Samples.of((one.memory - one.at_rest) * 1000 / largest for one in done[largest])
        lines += [
            Figure(f"processor time grows from {fitted[0]} to {largest:,} with the power", "", exponents,
                   aim=Aim(_LINEAR), note="1 is linear"),
            Figure(f"memory for each of {largest:,} that are connected", "kB", grown),
        ]  # fmt: skip
    return lines
