"""How soon an emulator is ready, what it holds in memory at rest; and what importing `dpsx_helpers` adds to the SDK."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import programs, setting
from benchmarks.figures import Aim, Figure, Line, Samples, alternate
from benchmarks.programs import Memory
from dpsx_helpers.emulator import Emulator

NAME = "start"
TITLE = "Start and memory of the emulator, and imports"
ROUNDS = 10
NEEDS: tuple[str, ...] = ()

_READY, _REST, _IMPORT = 0.5, 60.0, 0.1  # aims: seconds, MB, seconds
_SETTLED = 1.0  # seconds after which an emulator that is ready has done with starting
_WITHIN = 60.0  # seconds
_COMMAND = [sys.executable, "-m", "dpsx_helpers.emulator", "run", "--next-free-host", "--state-dir"]

# Without the tidying up at the end of an interpreter, which no emulator that is ready has done either.
_MODULES = "import os, dpsx_helpers.emulator.__main__, dpsx_helpers.emulator.server; os._exit(0)"
_SDK = "import azure.iot.device"
_PACKAGE = f"{_SDK}, dpsx_helpers"
_CELL = f"{_SDK}\nfrom dpsx_helpers import checks, conversation, diagnosis, forms, targets, tutorial, views"
_WIDGETS = f"{_SDK}, ipywidgets, IPython.display"


def measure(rounds: int) -> list[Line]:
    with setting.folder() as folder:
        numbers = iter(range(10_000))

        def fresh() -> tuple[float, Memory | None]:
            return _started(folder / f"emulator-{next(numbers)}", rest=True)

        def again() -> tuple[float, Memory | None]:
            return _started(folder / "emulator-0", rest=False)

        def modules() -> tuple[float, Memory | None]:
            return programs.python(_MODULES).seconds, None

        def attached() -> tuple[float, Memory | None]:
            return _from_python(folder / f"emulator-{next(numbers)}"), None

        begun = alternate(rounds, fresh, modules, again, attached)
    imports = alternate(rounds, *(_importing(code) for code in (_PACKAGE, _SDK, _CELL, _WIDGETS)))
    fresh_, modules_, again_, attached_ = (Samples.of(seconds for seconds, _ in one) for one in begun)
    memory = [used for _, used in begun[0] if used is not None]
    return [*starting(fresh_, again_, attached_, modules_), *resting(memory), *importing(*map(Samples.of, imports))]


def starting(fresh: Samples, again: Samples, attached: Samples, modules: Samples) -> list[Line]:
    """From the seconds until ready on a new state directory and on one that is there, and as a notebook starts it."""
    alone = "Python and the emulator's modules alone"
    return [
        Figure("emulator: from exec to ready, new state directory", "s", fresh, alone, modules, "difference",
               Aim(_READY)),
        Figure("the same on a state directory that is there", "s", again, alone, modules, "difference", Aim(_READY)),
        Figure("`Emulator.start()` as in a notebook", "s", attached, alone, modules, "difference",
               note="it looks every 20 ms and more whether the emulator answers"),
    ]  # fmt: skip


def resting(memory: list[Memory]) -> list[Line]:
    """From the memory of emulators that nobody has connected to."""
    return [
        Figure("emulator at rest: memory (RSS)", "MB", Samples.of(one.rss for one in memory), aim=Aim(_REST)),
        Figure("of that, its own and its part of what it shares (PSS)", "MB", Samples.of(one.pss for one in memory)),
        Figure("of that, its own alone (USS)", "MB", Samples.of(one.uss for one in memory)),
    ]


def importing(package: Samples, sdk: Samples, cell: Samples, widgets: Samples) -> list[Line]:
    """From the seconds of interpreters that import, from exec to exit."""
    return [
        Figure("`import dpsx_helpers` beside the SDK", "s", package, "the SDK alone", sdk, "difference",
               Aim(_IMPORT, of="comparison")),
        Figure("what notebook 04 imports from dpsx_helpers, beside the SDK", "s", cell, "the SDK and ipywidgets alone",
               widgets, "difference"),
    ]  # fmt: skip


def _importing(code: str) -> Callable[[], float]:
    return lambda: programs.python(code).seconds


def _started(state_dir: Path, *, rest: bool) -> tuple[float, Memory | None]:
    """Seconds from exec to the overview, which is printed when all ports are open; with `rest`, the memory then."""
    with _running(state_dir) as (seconds, running):
        if not rest:
            return seconds, None
        time.sleep(_SETTLED)
        return seconds, programs.memory(running.overview.pid)


@contextmanager
def _running(state_dir: Path) -> Iterator[tuple[float, Emulator]]:
    began = time.perf_counter()
    process = subprocess.Popen(
        [*_COMMAND, str(state_dir)], env=programs.own_environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    hung = threading.Timer(_WITHIN, process.kill)
    hung.start()
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        seconds = time.perf_counter() - began
        if not first.startswith(b"ID scope"):
            raise RuntimeError(f"an emulator did not start: {first!r}")
        running = Emulator.attach(state_dir)
        running.faults()  # an answer, with a certificate for that address
        yield seconds, running
    finally:
        hung.cancel()
        process.terminate()
        process.wait()
        if process.stdout:
            process.stdout.close()


def _from_python(state_dir: Path) -> float:
    began = time.perf_counter()
    running = Emulator.start(state_dir)
    seconds = time.perf_counter() - began
    running.stop()
    return seconds
