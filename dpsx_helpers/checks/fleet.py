"""The check and the exercises of notebook 10-a-fleet-of-devices."""

from dpsx_helpers.checks.exercises import Exercise, NotYet, running
from dpsx_helpers.display import View, passed
from dpsx_helpers.fleet import delivery, logbook
from dpsx_helpers.fleet.arithmetic import FIRST_POLL, REGISTRATIONS, simulate
from dpsx_helpers.fleet.logbook import Estimate, Measured
from dpsx_helpers.progress import recorded
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop

_OFF = 1.5  # times too long or too short: so much an estimate may be
_LAUNCH_DAY = 10_000  # devices
_MOST_MINUTES = 15
_SEEDS = range(5)  # so many launch days, each with other random moments


@recorded("10")
def fleet() -> View:
    """All devices of the largest launch are assigned, and the learner's estimate stands beside the measurement."""
    target = running()
    if not target.service:
        raise Stop(
            "DPS cannot be read without connection strings: set both, and run this notebook from its first cell."
        )
    book = logbook.read()
    alone = [launch for launch in book.launches if launch.workers == 0]
    if not alone:
        raise Stop("Nothing was launched yet: run the cells of notebook 10 from the top, then this check.")
    devices = max(launch.devices for launch in alone)
    _all_assigned(target, devices)
    judged = [(launch, seen) for launch in book.alone(devices) if (seen := book.estimate_for(launch))]
    if not judged:
        raise Stop(
            f"There is no estimate from before the launch of {devices} devices: run the cell with "
            "fleet.estimate, the one that launches them, then this check."
        )
    largest, estimate = judged[-1]
    lines = [
        f"{largest.devices} of {largest.devices} devices are assigned, says DPS",
        f"{_side_by_side(estimate, largest)}: {_ratio(estimate, largest)}",
    ]
    if smaller := [launch for launch in alone if launch.devices < largest.devices]:
        before = max(smaller, key=lambda launch: (launch.devices, launch.at))
        lines.append(
            f"{largest.devices / before.devices:.1f} times the devices ({before.devices}, then {largest.devices}) took "
            f"{largest.seconds / before.seconds:.1f} times the time"
        )
    return passed(*lines)


def _all_assigned(target: Target, devices: int) -> None:
    states = delivery.states(target, [delivery.name_of(number) for number in range(1, devices + 1)])
    missing = [name for name, state in states.items() if state != "assigned"]
    if missing:
        raise Stop(
            f"{devices - len(missing)} of {devices} devices are assigned in DPS, and {missing[0]} is not (state: "
            f"{states[missing[0]]}): run the cell that launches all of them again, then this check."
        )


def _side_by_side(estimate: Estimate, measured: Measured) -> str:
    return (
        f"you expected {estimate.seconds:.1f} s for {measured.devices} devices, and they took {measured.seconds:.1f} s"
    )


def _ratio(estimate: Estimate, measured: Measured) -> str:
    times = estimate.seconds / measured.seconds
    if 0.95 <= times <= 1.05:
        return "that is it"
    return f"{times:.1f} times too long" if times > 1 else f"{1 / times:.1f} times too short"


def _estimated(target: Target) -> str:
    book = logbook.read()
    largest = max((launch.devices for launch in book.launches), default=0)
    devices = largest // 10 or 1
    launches = book.alone(devices)
    if not largest or not launches:
        raise NotYet(f"no launch of a tenth of the fleet{f' ({devices} devices)' if largest else ''} was measured.")
    launch = launches[-1]
    estimate = book.estimate_for(launch)
    if estimate is None:
        raise NotYet(
            f"{devices} devices took {launch.seconds:.1f} s, but there is no estimate of yours for this launch"
            f"{_last_estimate(book)}: write it with fleet.estimate above the launch, and run the cell again."
        )
    if not 1 / _OFF <= estimate.seconds / launch.seconds <= _OFF:
        raise NotYet(
            f"{_side_by_side(estimate, launch)}, {_ratio(estimate, launch)}: look at the launches before it, estimate "
            "again, and run the cell again."
        )
    states = delivery.states(target, [delivery.name_of(number) for number in range(1, devices + 1)])
    if any(state != "assigned" for state in states.values()):
        raise NotYet(f"not all of the {devices} devices are assigned in DPS: run the cell again.")
    return f"{_side_by_side(estimate, launch)}; all are assigned"


def _last_estimate(book: logbook.Logbook) -> str:
    if not book.estimates:
        return ""
    last = book.estimates[-1]
    return f" (your last one, {last.seconds:.1f} s for {last.devices} devices, was for another)"


def _staggered(target: Target) -> str:
    plan = logbook.read().plan
    if plan is None:
        raise NotYet(f"there is no plan for {_LAUNCH_DAY:,} devices: write one with fleet.stagger.")
    if plan.devices != _LAUNCH_DAY:
        raise NotYet(f"your plan is for {plan.devices:,} devices, and launch day has {_LAUNCH_DAY:,}.")
    if plan.minutes * 60 + FIRST_POLL > _MOST_MINUTES * 60:
        raise NotYet(
            f"spread over {plan.minutes:g} minutes nobody is refused, but all have to be in within {_MOST_MINUTES}, "
            f"and the last to begin needs {FIRST_POLL} seconds more."
        )
    days = [simulate(plan.devices, spread=plan.minutes * 60, seed=seed) for seed in _SEEDS]
    worst = max(day.refusals for day in days)
    if worst:
        raise NotYet(
            f"spread over {plan.minutes:g} minutes, {plan.devices:,} devices still meet the limit of {REGISTRATIONS:,} "
            f"in a minute: on the worst of {len(days)} simulated days DPS answers 429 {worst:,} times."
        )
    return f"{plan.devices:,} devices within {plan.minutes:g} minutes: on {len(days)} simulated days nobody is refused"


def _mended(target: Target) -> str:
    names = logbook.read().second
    if not names:
        raise NotYet("the second delivery has not come yet: run the first lines of this exercise.")
    entries = delivery.entries(target, names)
    states = delivery.states(target, names)
    lost = [name for name in names if entries[name] == "none"]
    if lost:
        raise NotYet(
            f"{len(lost)} of the {len(names)} devices of the second delivery have no enrollment any more: run the cell "
            "again, and mend the entry instead of deleting it."
        )
    assigned = sum(state == "assigned" for state in states.values())
    shut = sum(status != "enabled" for status in entries.values())
    if shut:
        raise NotYet(
            f"{assigned} of the {len(names)} devices of the second delivery are assigned, and the entry of {shut} "
            "is still disabled in DPS."
        )
    if assigned < len(names):
        raise NotYet(
            f"every entry is enabled now, but {assigned} of the {len(names)} devices of the second delivery are "
            "assigned: launch the others once more."
        )
    return f"all {len(names)} devices of the second delivery are assigned, and every entry is enabled"


EXERCISES = (
    Exercise("Estimate a tenth of the fleet", _estimated),
    Exercise("Keep 10,000 devices below the limit", _staggered),
    Exercise("Find the device that did not come in", _mended),
)
