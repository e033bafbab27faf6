"""The check and the exercises of notebook 10-a-fleet-of-devices."""

from dpsx_helpers.checks.exercises import Exercise
from dpsx_helpers.display import View
from dpsx_helpers.progress import recorded

EXERCISES: tuple[Exercise, ...] = ()


@recorded("10")
def fleet() -> View:
    """To be written."""
    raise NotImplementedError
