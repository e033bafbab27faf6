"""What the learner estimated, and what was measured: a small file in the notebook's own folder, one for each target."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from dpsx_helpers import given_files, tutorial
from dpsx_helpers.display import View, note
from dpsx_helpers.errors import shown_value
from dpsx_helpers.tutorial import Stop

NOTEBOOK = 10
_A_WEEK = 7 * 86_400.0
_KEPT = 50  # entries of a kind
T = TypeVar("T")


@dataclass(frozen=True)
class Estimate:
    """What the learner expected: so many devices in so many seconds. `at` is in seconds since 1970."""

    devices: int
    seconds: float
    at: float


@dataclass(frozen=True)
class Measured:
    """A launch: so many devices, from `fleet-001` on, in so many seconds. `workers` is 0 for this kernel alone."""

    devices: int
    seconds: float
    at: float
    workers: int = 0


@dataclass(frozen=True)
class Plan:
    """Over how many minutes so many devices are to be spread."""

    devices: int
    minutes: float


@dataclass(frozen=True)
class Logbook:
    """All that is noted, oldest first; `second` are the devices of the second delivery."""

    estimates: tuple[Estimate, ...] = ()
    launches: tuple[Measured, ...] = ()
    plan: Plan | None = None
    second: tuple[str, ...] = field(default=())

    def alone(self, devices: int) -> list[Measured]:
        """The launches of so many devices in one kernel, oldest first."""
        return [launch for launch in self.launches if (launch.devices, launch.workers) == (devices, 0)]

    def estimate_for(self, launch: Measured) -> Estimate | None:
        """The newest estimate for so many devices that is older than this launch, and newer than the one before it:
        a launch uses an estimate up.
        """
        since = max((one.at for one in self.alone(launch.devices) if one.at < launch.at), default=0.0)
        found = [one for one in self.estimates if one.devices == launch.devices and since < one.at <= launch.at]
        return found[-1] if found else None


def estimate(devices: int, seconds: float) -> View:
    """Note how long the learner expects so many devices to take. Stop when that is no time."""
    wanted = Estimate(_count(devices), _number(seconds, "an estimate", "seconds", _A_WEEK), _now())
    _add("estimates", asdict(wanted))
    return note(f"Noted: you expect {wanted.devices:,} devices to take {wanted.seconds:.1f} s.")


def stagger(devices: int, minutes: float) -> View:
    """Note over how many minutes the learner spreads so many devices. Stop when that is no time."""
    wanted = Plan(_count(devices), _number(minutes, "a plan", "minutes", _A_WEEK / 60, least=0.0))
    _change(lambda document: document | {"plan": asdict(wanted)})
    return note(f"Noted: {wanted.devices:,} devices begin at random moments within {wanted.minutes:g} minutes.")


def measured(devices: int, seconds: float, at: float, workers: int = 0) -> None:
    """Note a launch."""
    _add("launches", asdict(Measured(devices, round(seconds, 3), at, workers)))


def second(names: tuple[str, ...]) -> None:
    """Note the devices of the second delivery."""
    _change(lambda document: document | {"second": list(names)})


def read() -> Logbook:
    """All that is noted. Stop when the file is damaged."""
    document = _load()
    try:
        plan = document.get("plan")
        return Logbook(
            estimates=tuple(_checked(Estimate(**one)) for one in document.get("estimates", [])),
            launches=tuple(_checked(Measured(**one)) for one in document.get("launches", [])),
            plan=_checked(Plan(**plan)) if plan else None,
            second=tuple(str(name) for name in document.get("second", [])),
        )
    except (TypeError, ValueError, AttributeError):
        raise _damaged() from None


def forget() -> None:
    """Forget everything."""
    _file().unlink(missing_ok=True)


def _checked(entry: T) -> T:
    for name, value in vars(entry).items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(name)
    return entry


def _now() -> float:
    return datetime.now(UTC).timestamp()


def _count(devices: Any) -> int:
    if isinstance(devices, bool) or not isinstance(devices, int) or not 1 <= devices <= 1_000_000:
        raise Stop(f"{shown_value(devices)} is no number of devices: give a whole number from 1 to 1,000,000.")
    return devices


def _number(value: Any, what: str, unit: str, most: float, least: float = 1e-3) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise Stop(f"{shown_value(value)} is no {unit} for {what}: give a number, for example {unit}=3.5.")
    return float(value)


def _add(kind: str, entry: dict[str, Any]) -> None:
    read()  # so that a damaged file is told before it is lengthened
    _change(lambda document: document | {kind: [*document.get(kind, []), entry][-_KEPT:]})


def _change(how: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    tutorial.own_folder(NOTEBOOK)
    tutorial.write_json(_file(), how(_load()))


def _load() -> dict[str, Any]:
    try:
        document = given_files.read_json(_file())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        raise _damaged() from None
    if not isinstance(document, dict):
        raise _damaged()
    return document


def _damaged() -> Stop:
    return Stop(
        f"{_file()} is damaged: delete that file, which only holds your estimates and measured times, and run this "
        "notebook again."
    )


def _file() -> Path:
    return tutorial.place_of(NOTEBOOK) / f"logbook-{tutorial.target()}.json"
