"""What a launch day means in numbers: arithmetic from documented limits, and devices that all ask at once. No I/O.

The limits of DPS: https://learn.microsoft.com/azure/iot-dps/about-iot-dps#quotas-and-limits
Those of a hub: https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-quotas-throttling
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from random import Random

REGISTRATIONS = 1_000  # a minute, of one DPS
POLLS, POLLS_IN = 5, 10  # of one device, in so many seconds
SERVICES = 10  # DPS instances of one subscription
LINKED_HUBS = 50  # of one DPS
RECORDS = 1_000_000  # registrations that one DPS keeps, and devices of one hub
IN_BULK = 10  # individual enrollments in one request
#: New connections a second: at least so many of one hub, and so many more for each of its units.
CONNECTIONS = {"S1": (100, 12), "S2": (0, 120), "S3": (0, 6_000)}
#: Seconds until this SDK asks for the first time, and what DPS proposes from then on.
FIRST_POLL, RETRY_AFTER = 2, 3
_MINUTE = 60
_DAY = 86_400  # seconds after which a simulation ends in any case


def minutes(devices: int, services: int = 1) -> float:
    """How long so many registrations take at the best pace that so many DPS instances allow."""
    return devices / (REGISTRATIONS * services)


def connecting(devices: int, tier: str, units: int = 1, hubs: int = 1) -> float:
    """Seconds in which so many devices can connect to hubs of this tier, spread over them evenly."""
    least, of_a_unit = CONNECTIONS[tier]
    return ceil(devices / hubs) / max(least, of_a_unit * units)


def polls(seconds: float, retry_after: int = RETRY_AFTER) -> list[int]:
    """When (seconds after the register) this SDK asks whether a registration that takes so long is decided."""
    asked = [FIRST_POLL]
    while asked[-1] < seconds:
        asked.append(asked[-1] + retry_after)
    return asked


def busiest(moments: Sequence[float], window: float) -> int:
    """The most of these moments that lie in any `window` seconds."""
    ordered = sorted(moments)
    most, start = 0, 0
    for end, moment in enumerate(ordered):
        while ordered[start] <= moment - window:
            start += 1
        most = max(most, end - start + 1)
    return most


@dataclass(frozen=True)
class Course:
    """How a launch went, second by second: requests that came, and those of them that were answered 429."""

    devices: int
    asked: tuple[int, ...]
    refused: tuple[int, ...]

    @property
    def requests(self) -> int:
        return sum(self.asked)

    @property
    def refusals(self) -> int:
        return sum(self.refused)

    @property
    def seconds(self) -> int:
        """Until the last device was let in."""
        return len(self.asked)


def simulate(
    devices: int, *, spread: float = 0, retry_after: int = RETRY_AFTER, jitter: int = 0, seed: int = 10
) -> Course:
    """So many devices register at one DPS that takes 1,000 in any 60 seconds and answers 429 to the others.

    Each begins at a random moment in the first `spread` seconds (0: all at once). Who is refused asks again after
    `retry_after` seconds and up to `jitter` more, at random. That refused requests do not use up the limit is an
    assumption, and the kinder one: no public page says.
    """
    if devices < 0 or spread < 0 or retry_after < 1 or jitter < 0:
        raise ValueError("devices, spread and jitter are not negative, and retry_after is a second or more")
    chance = Random(seed)  # noqa: S311 - the same picture every time, and nothing secret
    coming: defaultdict[int, int] = defaultdict(int)
    for _ in range(devices):
        coming[int(chance.random() * spread)] += 1
    asked: list[int] = []
    accepted: list[int] = []
    left = devices
    while left and len(asked) < _DAY:
        now = len(asked)
        asks = coming.pop(now, 0)
        passed = min(asks, REGISTRATIONS - sum(accepted[-_MINUTE + 1 :]))
        asked.append(asks)
        accepted.append(passed)
        left -= passed
        if not jitter:
            coming[now + retry_after] += asks - passed
            continue
        for _ in range(asks - passed):
            coming[now + retry_after + chance.randrange(jitter + 1)] += 1
    return Course(devices, tuple(asked), tuple(came - went for came, went in zip(asked, accepted, strict=True)))


def shares(values: Sequence[float], *parts: float) -> list[float]:
    """The values below which such parts (0.5: the median) of all values lie; 0 of no values."""
    ordered = sorted(values)
    return [ordered[min(len(ordered) - 1, ceil(part * len(ordered)) - 1)] if ordered else 0.0 for part in parts]
