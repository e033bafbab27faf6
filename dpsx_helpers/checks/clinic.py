"""The check and the exercises of notebook 08-when-it-fails."""

from dpsx_helpers.checks.exercises import Exercise
from dpsx_helpers.display import View
from dpsx_helpers.progress import recorded

EXERCISES: tuple[Exercise, ...] = ()


@recorded("08")
def clinic() -> View:
    """To be written."""
    raise NotImplementedError
