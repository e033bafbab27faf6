"""The check and the exercises of notebook 06-enroll-programmatically."""

from dpsx_helpers.checks.exercises import Exercise
from dpsx_helpers.display import View
from dpsx_helpers.progress import recorded

EXERCISES: tuple[Exercise, ...] = ()


@recorded("06")
def programmatically() -> View:
    """To be written."""
    raise NotImplementedError
