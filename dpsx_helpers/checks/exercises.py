"""Exercises: what each wants, and whether the world shows that it was done."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module

from dpsx_helpers import progress, targets
from dpsx_helpers.display import View, ask, passed
from dpsx_helpers.errors import LearnerError
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop

#: The module of each notebook with exercises; its EXERCISES are in the order of the notebook.
_MODULES = {6: "programmatically", 7: "groups", 8: "clinic", 9: "twins", 10: "fleet"}


class NotYet(LearnerError):
    """The exercise is not done: one sentence with what was found and what is expected."""


@dataclass(frozen=True)
class Exercise:
    """One exercise. `look` says in a sentence what was done and found, or raises NotYet. It reads, and changes nothing.

    `task` is what to do, in a few words, for the report.
    """

    task: str
    look: Callable[[Target], str]


@cache
def of_notebook(notebook: int) -> tuple[Exercise, ...]:
    """The exercises of this notebook, the first of which is number 1."""
    if notebook not in _MODULES:
        return ()
    return tuple(import_module(f"dpsx_helpers.checks.{_MODULES[notebook]}").EXERCISES)


def exercise(notebook: int, number: int) -> View:
    """Whether this exercise is done. Nothing is raised when it is not: the notebook goes on."""
    known = of_notebook(notebook)
    if not 1 <= number <= len(known):
        raise Stop(f"Notebook {notebook:02} has no exercise {number}: it has {len(known)}.")
    target = running()
    try:
        seen = known[number - 1].look(target)
    except LearnerError as reason:
        return ask(f"Not yet: {reason}")
    progress.record(f"{notebook:02}.{number}")
    return passed(seen)


class NotRunning(Stop):
    """The emulator is the target, and does not run."""


def running() -> Target:
    """The target in use. NotRunning when that is the emulator and it does not run."""
    target = targets.attached()
    if target is None:
        raise NotRunning(
            "The emulator is not running: run the cell that sets `target` near the top of this notebook, "
            "then this check."
        )
    return target
