"""Launch day: many devices that register at the same moment, from one kernel or on several workers.

The devices run their own program, which stands in the notebook. This package makes the devices, follows what happens,
draws it, and does the arithmetic for more devices than fit here.
"""

from dpsx_helpers.fleet.delivery import Device, delete, in_tens, make, not_enrolled, second_delivery
from dpsx_helpers.fleet.drawing import herd, latency, timeline
from dpsx_helpers.fleet.launching import Launch, Registration, compare, launch
from dpsx_helpers.fleet.logbook import estimate, stagger
from dpsx_helpers.fleet.planning import attempts, launch_day
from dpsx_helpers.fleet.workers import launch_on_workers

__all__ = [
    "Device",
    "Launch",
    "Registration",
    "attempts",
    "compare",
    "delete",
    "estimate",
    "herd",
    "in_tens",
    "latency",
    "launch",
    "launch_day",
    "launch_on_workers",
    "make",
    "not_enrolled",
    "second_delivery",
    "stagger",
    "timeline",
]
