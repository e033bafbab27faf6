"""What of the tutorial is done, as far as this machine shows: `dpsx check`, for learners, and for teachers to collect.

Every check is made now, of the world as it is. What was passed before and is gone again (notebook 05 deletes what 02 to
04 made) stays on record in `progress.json`. Nothing is written, nothing is started; no secret is in the report, and no
name but that which the learner gives in DPSX_LEARNER.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from inspect import unwrap
from itertools import groupby
from pathlib import Path
from typing import Literal

from dpsx_helpers import checks, doctor, given_files, lab, progress, tutorial
from dpsx_helpers.checks import quickstart
from dpsx_helpers.checks.exercises import Exercise, NotRunning, of_notebook, running
from dpsx_helpers.display import View, open_questions
from dpsx_helpers.display import passed as seen_passed
from dpsx_helpers.errors import LearnerError, shown

#: "done": it can be seen now. "passed": it was, at the time noted. "look": only the learner can see it (on Azure).
#: "unseen": it is in an emulator that is not running.
State = Literal["done", "passed", "look", "unseen", "open"]
LEARNER = "DPSX_LEARNER"
_COMMAND = "`dpsx check`"
_ASLEEP = (
    "The emulator is not running, so what is in it cannot be looked at: run the first cell of a notebook, then start "
    f"{_COMMAND} again."
)
MARKS: dict[str, str] = {"done": "✔", "passed": "✔", "look": "?", "unseen": "–", "open": "☐"}

_LONGEST_NAME = 100

# The checks by notebook. 05 leaves nothing to look at: only the record tells that it was done.
_CHECKS: dict[int, Callable[[], View]] = {
    0: checks.start_here,
    1: checks.environment,
    2: checks.certificate,
    3: checks.enrollment,
    4: quickstart.provisioned,
    6: checks.programmatically,
    7: checks.groups,
    8: checks.clinic,
    9: checks.twins,
    10: checks.fleet,
}


# These make devices of other names, or ask what in a class is the teacher's alone: see targets.for_operator.
_NOT_IN_CLASS = (6, 7, 8, 10)


@dataclass(frozen=True)
class Step:
    """A notebook ("06") or an exercise ("06.1"). `found` is one sentence or more; `passed` is ISO 8601 in UTC."""

    step: str
    title: str
    state: State
    found: str
    passed: str | None


@dataclass(frozen=True)
class Report:
    """All steps in order, whose they are (DPSX_LEARNER, or None), and when (ISO 8601 in UTC) they were looked at."""

    made: str
    learner: str | None
    target: str
    steps: tuple[Step, ...]
    note: str = ""

    @property
    def done(self) -> int:
        return self._count("done", "passed")

    def as_text(self) -> str:
        """A line for each step, and below it what was found."""
        parts = ("dpsx check", self.learner, self.target, str(tutorial.work_dir()), f"{_minute(self.made)} UTC")
        lines = [" · ".join(part for part in parts if part), ""]
        if self.note:
            lines += [self.note, ""]
        for _, steps in groupby(self.steps, key=lambda step: step.step[:2]):
            lines += _of_notebook(list(steps))
        return "\n".join([*lines, "", self._sum()])

    def as_json(self) -> str:
        document = {"version": 1, **asdict(self), "done": self.done, "of": len(self.steps)}
        return json.dumps(document, indent=2, ensure_ascii=False)

    def _sum(self) -> str:
        unseen = self._count("unseen")
        return f"{self.done} of {len(self.steps)} done" + (f", {unseen} not seen." if unseen else ".")

    def _count(self, *states: State) -> int:
        return sum(step.state in states for step in self.steps)


def make() -> Report:
    """Look at everything. Raises LearnerError when there is no tutorial or work folder, or its notes are damaged."""
    _look_for_the_work_folder()
    target, passed = tutorial.target(), progress.recall()
    steps = []
    for number, (name, title) in enumerate(tutorial.STEPS):
        elsewhere = number in _NOT_IN_CLASS and tutorial.joined() is not None
        check = _not_here if elsewhere else _CHECKS.get(number)
        steps.append(_notebook(name[:2], title, check, passed.get(name[:2])))
        for place, exercise in enumerate(of_notebook(number), start=1):
            step, look = f"{name[:2]}.{place}", _not_here if elsewhere else _looking(exercise)
            steps.append(_step(step, f"Exercise {place}: {exercise.task}", look, passed.get(step)))
    learner = os.environ.get(LEARNER, "").strip()[:_LONGEST_NAME] or None
    return Report(datetime.now(UTC).isoformat(timespec="seconds"), learner, target, tuple(steps), _note())


def _look_for_the_work_folder() -> None:
    """A folder that the learner has named and that is not there is a slip of the pen: it is not made."""
    name = os.environ.get("DPSX_WORK_DIR", "").strip()
    if not name or os.path.isdir(named := given_files.path_of(name)) or named == _usual_work_folder():
        return
    raise LearnerError(
        f"There is no work folder {shown(name)} (from the environment variable DPSX_WORK_DIR): set it to the "
        f"folder that the notebooks have worked in, or unset it, and start {_COMMAND} again."
    )


def _usual_work_folder() -> Path | None:
    """The one that is taken when nobody names another; it is not there before the first notebook has run."""
    with suppress(lab.LabError):
        return lab.notebooks_folder() / "work"
    return None


def _not_here() -> View:
    raise LearnerError("In a class this is done on an emulator of your own: look again after `dpsx leave`.")


def _note() -> str:
    try:
        running()
    except NotRunning:
        return _ASLEEP
    except LearnerError as reason:  # the wrong inputs that each of the checks names, too
        return doctor.in_terminal(str(reason), _COMMAND)
    return ""


def _looking(exercise: Exercise) -> Callable[[], View]:
    return lambda: seen_passed(exercise.look(running()))


def _notebook(step: str, title: str, check: Callable[[], View] | None, passed: str | None) -> Step:
    if check is not None:
        return _step(step, title, unwrap(check), passed)  # the teacher's look is not the learner's pass
    found = "" if passed else f"The check at the end of notebook {step} was not passed yet."
    return Step(step, title, "passed" if passed else "open", found, passed)


def _step(step: str, title: str, check: Callable[[], View], passed: str | None) -> Step:
    try:
        seen = check()
    except LearnerError as reason:
        if isinstance(reason, NotRunning):  # the report says it once
            return Step(step, title, "passed" if passed else "unseen", "", passed)
        return Step(step, title, "passed" if passed else "open", doctor.in_terminal(str(reason), _COMMAND), passed)
    except Exception as error:  # noqa: BLE001 - one check that cannot be made must not keep the others from the report
        found = f"This could not be looked at ({type(error).__name__})."
        return Step(step, title, "passed" if passed else "open", found, passed)
    questions = open_questions(seen)
    state: State = "done" if not questions else "passed" if passed else "look"
    found = "; ".join(line.lstrip("✔☐ ") for line in seen.text.splitlines() if line.strip())
    return Step(step, title, state, doctor.in_terminal(found, _COMMAND), passed)


def _of_notebook(steps: Sequence[Step]) -> Iterator[str]:
    """The lines of a notebook and its exercises; of exercises that come too early only how many there are."""
    notebook, *exercises = steps
    waiting = exercises and all(step.state == notebook.state and step.state in ("open", "unseen") for step in steps)
    more = f" ({len(exercises)} exercises)" if waiting else ""
    yield from _lines(notebook, more)
    if not waiting:
        for step in exercises:
            yield from _lines(step)


def _lines(step: Step, more: str = "") -> Iterator[str]:
    indent = "  " if "." in step.step else ""
    when = f" (passed {_minute(step.passed)} UTC)" if step.passed and step.state == "passed" else ""
    yield f"{indent}{MARKS[step.state]} {step.step} {step.title}{more}{when}"
    if step.found and step.state in ("open", "look"):
        yield f"{indent}     {step.found}"


def _minute(stamp: str) -> str:
    return stamp[:16].replace("T", " ")
