"""Where the emulator's processor time goes: `python -m benchmarks.hotspots telemetry` (or connects).

The emulator runs under cProfile, which makes Python's own functions look dearer than those in C: read the shares, and
compare two versions of the code by them; the times of the other benchmarks are without it.
"""

import argparse
import pstats
import sys
from collections import defaultdict
from pathlib import Path

from benchmarks import connects, setting, telemetry
from benchmarks.peers import Server
from benchmarks.programs import ROOT
from dpsx_helpers.emulator import Emulator

# Processor time, not that of the clock: what others do on the machine is not to be in it.
_PROFILED = """
import cProfile, sys, time
from dpsx_helpers.emulator.__main__ import main
profile = cProfile.Profile(time.process_time)
try:
    profile.runcall(main, sys.argv[2:])
finally:
    profile.dump_stats(sys.argv[1])
"""
#: Part and what tells it in a function's file or name; the first that fits counts.
_PARTS = (
    ("waiting", ("select.epoll", "select.poll", "select.kqueue")),
    ("TLS", ("OpenSSL", "_openssl", "emulator/tls.py", "cryptography")),
    ("sockets", ("_socket.socket",)),
    ("store", ("sqlite3", "emulator/store.py", "json/", "_json", "dataclasses.py")),
    ("log", ("logging/", "emulator/server.py", "TextIOWrapper", "time.strftime", "posix.stat")),
    ("MQTT", ("emulator/mqtt.py", "amqtt")),
    ("certificates", ("certificate", "re.Pattern", "/re/")),
    ("connections", ("emulator/listener.py", "emulator/sessions.py", "emulator/websocket.py")),
    ("rules", ("dpsx_helpers/emulator/", "uuid.py", "datetime", "urllib/parse.py", "enum.py")),
    ("asyncio", ("asyncio", "selectors.py", "_contextvars", "Context")),
)
_FUNCTIONS = 15  # listed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hotspots", description="Show where the time goes.")
    parser.add_argument("work", choices=("telemetry", "connects"))
    parser.add_argument("--clone", type=Path, default=ROOT, help="whose emulator: another clone's (this one's)")
    options = parser.parse_args()
    with setting.folder() as folder:
        state_dir = folder / "emulator"
        run = [sys.executable, "-c", _PROFILED, str(folder / "profile"), *setting.run_arguments(state_dir)]
        with setting.emulator_by(run, state_dir, options.clone.resolve()) as running:
            count = _telemetry(running, folder) if options.work == "telemetry" else _connects(running, folder)
        print(report(pstats.Stats(str(folder / "profile")), count))
    return 0


def _telemetry(running: Emulator, folder: Path) -> int:
    (device,) = setting.make_devices(1, folder)
    devices = setting.named(device, 10)
    setting.in_hub(running, devices)
    telemetry.send(running, Server.of(running), devices)
    return telemetry.MESSAGES


def _connects(running: Emulator, folder: Path) -> int:
    devices = setting.make_devices(connects.DEVICES, folder)
    setting.enroll(running, devices)
    connects.connect(Server.of(running), running.overview.id_scope, devices, 2)
    return connects.COUNT


def report(stats: pstats.Stats, count: int) -> str:
    """The parts, and the dearest functions, in microseconds for each of `count` pieces of work."""
    spent: defaultdict[str, float] = defaultdict(float)
    functions = []
    for (file, _, name), (_, calls, own, _, _) in stats.stats.items():  # type: ignore[attr-defined]
        part = _part(f"{file} {name}")
        spent[part] += own
        functions.append((own, calls, part, name if file == "~" else f"{Path(file).name} {name}"))
    del spent["waiting"]
    whole = sum(spent.values())
    lines = [f"| part | µs for each of {count:,} | share |", "|---|---|---|"]
    for part, own in sorted(spent.items(), key=lambda one: -one[1]):
        lines.append(f"| {part} | {own / count * 1e6:.1f} | {own / whole:.0%} |")
    lines += ["", "| function | part | calls | µs for each |", "|---|---|---|---|"]
    dearest = sorted((one for one in functions if one[2] != "waiting"), reverse=True)[:_FUNCTIONS]
    lines += [f"| {name} | {part} | {calls:,} | {own / count * 1e6:.1f} |" for own, calls, part, name in dearest]
    return "\n".join(lines)


def _part(function: str) -> str:
    return next((part for part, marks in _PARTS if any(mark in function for mark in marks)), "the rest")


if __name__ == "__main__":
    sys.exit(main())
