"""The check and the exercises of notebook 09-device-twins-and-methods."""

from dpsx_helpers.checks.exercises import Exercise
from dpsx_helpers.display import View
from dpsx_helpers.progress import recorded

EXERCISES: tuple[Exercise, ...] = ()


@recorded("09")
def twins() -> View:
    """To be written."""
    raise NotImplementedError
