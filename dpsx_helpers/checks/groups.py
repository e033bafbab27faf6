"""The check and the exercises of notebook 07-enrollment-groups."""

from dpsx_helpers.checks.exercises import Exercise
from dpsx_helpers.display import View
from dpsx_helpers.progress import recorded

EXERCISES: tuple[Exercise, ...] = ()


@recorded("07")
def groups() -> View:
    """To be written."""
    raise NotImplementedError
