"""Which checks the learner has passed, and when: `progress.json` in the work folder.

The checks themselves look at the world. This is for what is rightly deleted again afterwards: after notebook 05 there
is no certificate to look at any more.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import ParamSpec

from dpsx_helpers import given_files, tutorial
from dpsx_helpers.display import View, open_questions
from dpsx_helpers.tutorial import Stop

P = ParamSpec("P")


def recorded(step: str) -> Callable[[Callable[P, View]], Callable[P, View]]:
    """Decorate a check that stops when it is not passed: `step` is its notebook ("06") or exercise ("06.1").

    What the learner is still asked to look at (on Azure) is not passed.
    """

    def decorate(check: Callable[P, View]) -> Callable[P, View]:
        @wraps(check)
        def checked(*arguments: P.args, **options: P.kwargs) -> View:
            seen = check(*arguments, **options)
            if not open_questions(seen):
                record(step)
            return seen

        return checked

    return decorate


def record(step: str) -> None:
    """Note that this check was passed now; the first time stays."""
    passed = recall()
    if step not in passed:
        document = {"version": 1, "passed": {**passed, step: datetime.now(UTC).isoformat(timespec="seconds")}}
        tutorial.write_json(_file(), document)


def recall() -> dict[str, str]:
    """When each step was passed first, in ISO 8601 and UTC. Stop when the file is damaged."""
    try:
        document = given_files.read_json(_file())
        passed = document["passed"]
        if not all(isinstance(text, str) for pair in passed.items() for text in pair):
            raise ValueError
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise Stop(
            f"{_file()} is damaged: delete that file, which only notes what you passed, and run this again."
        ) from None
    return dict(passed)


def _file() -> Path:
    return tutorial.work_dir() / "progress.json"
