"""Two versions of the emulator, side by side: `python -m benchmarks.versions OTHER_CLONE [--rounds N]`.

The same clients send telemetry and register, in alternation at the emulator of this clone and at that of another one,
for example of an older commit: `git worktree add ../older COMMIT`.
"""

import argparse
import sys
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

from benchmarks import connects, figures, setting, telemetry
from benchmarks.figures import Figure, Samples, alternate
from benchmarks.peers import Server
from benchmarks.programs import ROOT
from benchmarks.setting import Device
from benchmarks.together import Run
from dpsx_helpers.emulator import Emulator

_CONNECTIONS = 10  # that send telemetry


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.versions", description="Compare with another clone.")
    parser.add_argument("clone", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if not (options.clone / "dpsx_helpers" / "emulator").is_dir():
        parser.error(f"{options.clone} is no clone of this repository: name a folder that holds dpsx_helpers.")
    with setting.folder() as folder, ExitStack() as stack:
        devices = setting.make_devices(connects.DEVICES, folder)
        senders = setting.named(devices[0], _CONNECTIONS)
        clones = {"here": ROOT, "there": options.clone.resolve()}
        both = [stack.enter_context(_running(folder / name, root)) for name, root in clones.items()]
        for running in both:
            setting.enroll(running, devices)
            setting.in_hub(running, senders)
        sent = [partial(_send, running, senders) for running in both]
        registered = [partial(_register, running, devices) for running in both]
        messages, registrations = alternate(options.rounds, *sent), alternate(options.rounds, *registered)
    lines = [
        _figure("a message, ten connections", "µs", 1e6 / telemetry.MESSAGES, *messages),
        _figure("TLS, CONNECT, register, assigned", "ms", 1e3 / connects.COUNT, *registrations),
    ]
    print(figures.table(lines))
    return 0


def _running(state_dir: Path, root: Path) -> AbstractContextManager[Emulator]:
    command = [sys.executable, "-m", "dpsx_helpers.emulator", *setting.run_arguments(state_dir)]
    return setting.emulator_by(command, state_dir, root)


def _send(running: Emulator, devices: list[Device]) -> Run:
    return telemetry.send(running, Server.of(running), devices)


def _register(running: Emulator, devices: list[Device]) -> Run:
    return connects.connect(Server.of(running), running.overview.id_scope, devices, 1)


def _figure(work: str, unit: str, each: float, here: list[Run], there: list[Run]) -> Figure:
    ours, theirs = (Samples.of(run.cpu * each for run in runs) for runs in (here, there))
    return Figure(f"emulator's processor time for {work}", unit, ours, "the other clone", theirs)


if __name__ == "__main__":
    sys.exit(main())
