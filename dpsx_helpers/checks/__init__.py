"""Am I done with this section? Each check looks at the world, shows what it saw, or stops with one sentence that says
what is missing and where to go. An exercise that is not done yet stops nothing: its check says so.
"""

from dpsx_helpers.checks.clinic import clinic
from dpsx_helpers.checks.exercises import exercise
from dpsx_helpers.checks.fleet import fleet
from dpsx_helpers.checks.groups import groups
from dpsx_helpers.checks.programmatically import programmatically
from dpsx_helpers.checks.quickstart import (
    before_connecting,
    certificate,
    clean_up,
    enrollment,
    environment,
    simulate,
    start_here,
)
from dpsx_helpers.checks.twins import twins

__all__ = [
    "before_connecting",
    "certificate",
    "clean_up",
    "clinic",
    "enrollment",
    "environment",
    "exercise",
    "fleet",
    "groups",
    "programmatically",
    "simulate",
    "start_here",
    "twins",
]
