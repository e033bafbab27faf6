"""`dpsx run`: notebooks 00 to 05 without hands, the whole process from exec to exit."""

import re
import sys
from pathlib import Path

from benchmarks import programs, setting
from benchmarks.figures import Aim, Figure, Line, Samples, alternate

NAME = "notebooks"
TITLE = "The quickstart's six notebooks"
ROUNDS = 3
NEEDS: tuple[str, ...] = ()

_AIM = 20.0  # seconds
# `main()` of notebook 04 waits for DPS in two cells; the third time, with a wrong ID scope, DPS refuses at once.
_WAITING = 2 * setting.FLOOR


def measure(rounds: int) -> list[Line]:
    with setting.folder() as folder:

        def run() -> float:
            return _run(folder)

        (seconds,) = alternate(rounds, run)
    return figures(Samples.of(seconds))


def figures(seconds: Samples) -> list[Line]:
    note = f"{_WAITING} s of that are the SDK's own waiting for DPS, in notebook 04"
    return [Figure("`dpsx run`: notebooks 00 to 05, whole process", "s", seconds, aim=Aim(_AIM), note=note)]


def _run(folder: Path) -> float:
    environment = programs.own_environment(DPSX_WORK_DIR=str(folder))
    ran = programs.run([sys.executable, "-m", "dpsx_helpers", "run"], environment)
    done = re.findall(r"^✔ (0[0-5])-", ran.printed, re.MULTILINE)
    if done != [f"{number:02}" for number in range(6)] or "messages stored 20" not in ran.printed:
        raise RuntimeError(f"the notebooks did not run as they should:\n{ran.printed}")
    return ran.seconds
