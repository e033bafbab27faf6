"""What of the tutorial is done, as far as this machine shows: `dpsx check`, for learners, and for teachers to collect.

Every check is made now, of the world as it is. What was passed before and is gone again (notebook 05 deletes what 02 to
04 made) stays on record in `progress.json`. Nothing is written, nothing is started; no secret and no name of a
person is in the report.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from inspect import unwrap
from typing import Literal

from dpsx_helpers import checks, doctor, progress, tutorial
from dpsx_helpers.checks import quickstart
from dpsx_helpers.checks.exercises import Exercise, NotRunning, of_notebook, running
from dpsx_helpers.display import View, open_questions
from dpsx_helpers.display import passed as seen_passed
from dpsx_helpers.errors import LearnerError

#: "done": it can be seen now. "passed": it was, at the time noted. "look": only the learner can see it (on Azure).
State = Literal["done", "passed", "look", "open"]
_ASLEEP = (
    "The emulator is not running, so what is in it cannot be looked at: run the first cell of a notebook, then start "
    "dpsx again."
)
_MARKS: dict[State, str] = {"done": "✔", "passed": "✔", "look": "?", "open": "☐"}

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
    """All steps in order, and when they were looked at."""

    made: str
    target: str
    steps: tuple[Step, ...]
    note: str = ""

    @property
    def done(self) -> int:
        return sum(step.state in ("done", "passed") for step in self.steps)

    def as_text(self) -> str:
        """A line for each step, and below it what was found."""
        head = f"dpsx check · {self.target} · {self.made} UTC"
        note = [self.note, ""] if self.note else []
        return "\n".join([head, "", *note, *map(_lines, self.steps), "", f"{self.done} of {len(self.steps)} done."])

    def as_json(self) -> str:
        document = {"version": 1, **asdict(self), "done": self.done, "of": len(self.steps)}
        return json.dumps(document, indent=2, ensure_ascii=False)


def make() -> Report:
    """Look at everything. Raises LearnerError when there is no tutorial or its notes are damaged."""
    target, passed = tutorial.target(), progress.recall()
    steps = []
    for number, (name, title) in enumerate(tutorial.STEPS):
        steps.append(_notebook(name[:2], title, _CHECKS.get(number), passed.get(name[:2])))
        for place, exercise in enumerate(of_notebook(number), start=1):
            step = f"{name[:2]}.{place}"
            steps.append(_step(step, f"Exercise {place}: {exercise.task}", _looking(exercise), passed.get(step)))
    return Report(datetime.now(UTC).strftime("%Y-%m-%d %H:%M"), target, tuple(steps), _note())


def _note() -> str:
    try:
        running()
    except NotRunning:
        return _ASLEEP
    except LearnerError as reason:  # the wrong inputs that each of the checks names, too
        return doctor.in_terminal(str(reason))
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
        found = "" if isinstance(reason, NotRunning) else doctor.in_terminal(str(reason))  # the report says it once
        return Step(step, title, "passed" if passed else "open", found, passed)
    except Exception as error:  # noqa: BLE001 - one check that cannot be made must not keep the others from the report
        found = f"This could not be looked at ({type(error).__name__})."
        return Step(step, title, "passed" if passed else "open", found, passed)
    questions = open_questions(seen)
    state: State = "done" if not questions else "passed" if passed else "look"
    found = "; ".join(line.lstrip("✔☐ ") for line in seen.text.splitlines() if line.strip())
    return Step(step, title, state, doctor.in_terminal(found), passed)


def _lines(step: Step) -> str:
    indent = "  " if "." in step.step else ""
    when = f" (passed {step.passed[:16].replace('T', ' ')})" if step.passed and step.state == "passed" else ""
    first = f"{indent}{_MARKS[step.state]} {step.step} {step.title}{when}"
    told = step.found if step.state in ("open", "look") else ""
    return f"{first}\n{indent}     {told}" if told else first
