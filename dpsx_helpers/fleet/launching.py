"""A launch: many devices register at the same moment, each with the device's own program."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dpsx_helpers.display import View, note, table
from dpsx_helpers.fleet import delivery, logbook, steps
from dpsx_helpers.fleet.arithmetic import shares
from dpsx_helpers.fleet.bar import Bar
from dpsx_helpers.fleet.delivery import Device
from dpsx_helpers.fleet.steps import Answer
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop

#: The device's program: it takes a Device, and returns what the SDK's register() returned.
Provision = Callable[[Any], Awaitable[Any]]


_MANY = 20  # devices, from which on parts of them are worth telling


@dataclass(frozen=True)
class Registration:
    """How one device fared. All times are seconds after the moment at which the whole fleet was switched on.

    `begun`: its program ran; `connected`: DPS had accepted the connection (None where that was not followed);
    `answers` of DPS; `ended`: register() had returned, with an assignment or (`error`) without.
    """

    device: str
    begun: float
    ended: float
    connected: float | None = None
    answers: tuple[Answer, ...] = ()
    error: str | None = None

    @property
    def throttled(self) -> int:
        """How often DPS answered 429."""
        return sum(answer.status == 429 for answer in self.answers)


@dataclass(frozen=True, repr=False)
class Launch:
    """What a launch has come to. `assigned` of its devices are so in the registration records of DPS.

    `workers` is 0 for this kernel alone; `held` are the devices that a killed worker had in hand.
    """

    registrations: tuple[Registration, ...]
    seconds: float
    assigned: int
    workers: int = 0
    held: int | None = None

    @property
    def devices(self) -> int:
        return len(self.registrations)

    @property
    def latencies(self) -> list[float]:
        """From switching on to the assignment, of the devices that were assigned."""
        return [one.ended for one in self.registrations if one.error is None]

    @property
    def throttled(self) -> int:
        return sum(one.throttled for one in self.registrations)

    @property
    def failures(self) -> dict[str, str]:
        """What the SDK raised, for each device that it raised something for."""
        return {one.device: one.error for one in self.registrations if one.error is not None}

    @property
    def where(self) -> str:
        """Where the devices ran, in a few words."""
        if self.held is not None:
            return f"{self.workers} workers, one killed with {self.held} devices in hand"
        return f"{self.workers} workers" if self.workers else "one kernel"

    def summary(self) -> str:
        """One sentence."""
        middle, most = shares(self.latencies, 0.5, 0.95)
        are = "device is" if self.devices == 1 else "devices are"
        text = f"{self.assigned} of {self.devices} {are} assigned, says DPS"
        if self.latencies:
            text += f"; all in {self.seconds:.1f} s"
            if self.devices >= _MANY:
                text += f", half of them within {middle:.1f} s, 95 % within {most:.1f} s"
        if self.throttled:
            text += f"; DPS answered 429 {self.throttled} times"
        if self.failures:
            device, error = next(iter(self.failures.items()))
            error = error.partition(" <- ")[0]
            text += f"; the SDK raised an error for {len(self.failures)}, first for {device}: {error}"
        return text if text.endswith(".") else text + "."

    def __repr__(self) -> str:
        return self.summary()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return note(self.summary())._repr_mimebundle_()


async def launch(target: Target, provision: Provision, devices: Sequence[Device]) -> Launch:
    """Switch on all these devices at once in this kernel: `provision(device)` for each, side by side.

    The registration records that DPS had of them are deleted before, so that those it has afterwards are of this
    launch. A device whose `provision` raises is counted; the others go on.
    """
    names = names_of(devices)
    await asyncio.to_thread(delivery.forget, target, names)
    bar, at = Bar(len(names)), time.time()
    with one_root(target), steps.listening(start := time.perf_counter()) as heard:

        async def one(device: Device) -> Registration:
            begun = time.perf_counter() - start
            error = await _outcome(provision, device)
            ended = time.perf_counter() - start
            bar.advance(assigned=error is None)
            seen = heard.of(device.registration_id)
            connected, answers = (seen.at, tuple(seen.answers)) if seen else (None, ())
            return Registration(device.registration_id, begun, ended, connected, answers, error)

        registrations = await asyncio.gather(*(one(device) for device in devices))
    return await asyncio.to_thread(conclude, target, registrations, at, bar)


async def _outcome(provision: Provision, device: Device) -> str | None:
    """None when the device was assigned, else why not."""
    try:
        return unassigned(await provision(device))
    except Exception as error:  # noqa: BLE001 - whatever the learner's program raises belongs to this device alone
        return in_words(error)


def unassigned(result: Any) -> str | None:
    """None when this result of register() says `assigned`, else what it says."""
    status = getattr(result, "status", None)
    return None if status == "assigned" else f"register() returned {str(status)[:80]}"


def in_words(error: BaseException) -> str:
    """An exception and its causes in one line."""
    causes = [f"{type(error).__name__}: {error}"]
    while (cause := error.__cause__) is not None:
        causes.append(f"{type(cause).__name__}: {cause}")
        error = cause
    return " <- ".join(causes)


def conclude(
    target: Target,
    registrations: Sequence[Registration],
    at: float,
    bar: Bar,
    workers: int = 0,
    held: int | None = None,
) -> Launch:
    """Ask DPS what it has registered, note the launch in the logbook, and end its bar. `at`: when it began."""
    states = delivery.states(target, [one.device for one in registrations])
    seconds = max(one.ended for one in registrations)
    assigned = sum(state == "assigned" for state in states.values())
    done = Launch(tuple(registrations), seconds, assigned, workers, held)
    if registrations[0].device == delivery.name_of(1) and assigned == done.devices and not done.throttled:
        logbook.measured(done.devices, seconds, at, workers)
    bar.end(done.summary())
    return done


def compare(*launches: Launch | View) -> View:
    """Launches below each other. What is no launch (an extra that is missing) is said below the table."""
    rows = []
    for one in launches:
        if isinstance(one, Launch):
            middle, most = shares(one.latencies, 0.5, 0.95)
            times = (f"{one.seconds:.1f} s", f"{middle:.1f} s", f"{most:.1f} s")
            rows.append((one.where, str(one.devices), *times, f"{one.assigned} of {one.devices}"))
    headers = ("Where the devices ran", "Devices", "All after", "Half after", "95 % after", "Assigned, says DPS")
    shown = table(f"Launches, measured just now on {_processors()}", headers, rows)
    for one in launches:
        if isinstance(one, View):
            shown += one
    return shown


def _processors() -> str:
    count = os.cpu_count() or 1
    return f"{count} processors" if count > 1 else "one processor"


@contextmanager
def one_root(target: Target) -> Iterator[None]:
    """Let clients that are made meanwhile trust the emulator's CA alone.

    A device has a few root certificates on board. A computer has hundreds, and the SDK reads them all for each client,
    which takes longer than anything else that a device does here.
    """
    before = os.environ.get("SSL_CERT_FILE")
    if target.emulator is not None:
        os.environ["SSL_CERT_FILE"] = str(target.emulator.overview.ca_file)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("SSL_CERT_FILE", None)
        else:
            os.environ["SSL_CERT_FILE"] = before


def names_of(devices: Sequence[Device]) -> list[str]:
    names = [device.registration_id for device in devices]
    if not names:
        raise Stop("There are no devices to launch: run the cell that makes them, then this cell.")
    return names
