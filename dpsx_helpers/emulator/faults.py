"""Faults that a teacher can switch on: which there are, where each acts, and which one a device meets now. No I/O.

A fault acts on one registration ID (or device ID), or on all; for the next so many times, or until it is cleared.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

from dpsx_helpers.emulator import refusals
from dpsx_helpers.emulator.refusals import Refusal
from dpsx_helpers.errors import shown_value

RETRY_AFTER, SECONDS = 3, 10.0  # seconds, where a fault is not told
MOST_SECONDS = 172_800.0


class Stage(Enum):
    """What a device is doing when a fault acts."""

    DPS_CONNECT = "connects to DPS"
    REGISTER = "registers"
    SETTLE = "would be assigned"
    HUB_CONNECT = "connects to a hub"
    HUB_PACKET = "sends anything to its hub"


@dataclass(frozen=True, slots=True)
class Kind:
    """One fault. `refusal` is how the device is refused; without it `what` is something else."""

    name: str
    stage: Stage
    what: str
    refusal: Refusal | None = None


KINDS = {
    kind.name: kind
    for kind in (
        Kind("connack-3", Stage.DPS_CONNECT, "DPS answers CONNACK 3", refusals.UNKNOWN_ID_SCOPE),
        Kind("connack-5", Stage.DPS_CONNECT, "DPS answers CONNACK 5", refusals.BAD_LOGIN),
        Kind("401-unauthorized", Stage.REGISTER, "401002 Unauthorized", refusals.NOT_ENROLLED),
        Kind("401-invalid-certificate", Stage.REGISTER, "401002 Invalid certificate.", refusals.OTHER_CERTIFICATE),
        Kind("401-ca-not-found", Stage.REGISTER, "401002 CA certificate not found.", refusals.CA_NOT_FOUND),
        Kind("401-bad-token", Stage.REGISTER, "401000 Unauthorized", refusals.TOKEN_REFUSED),
        Kind("401-hub-not-found", Stage.REGISTER, "401001 IotHub not found.", refusals.HUB_NOT_FOUND),
        Kind("404-not-enrolled", Stage.REGISTER, "404201 Enrollment not found.", refusals.NOT_ENROLLED_404),
        Kind("409", Stage.REGISTER, "409203 Precondition failed.", refusals.CONCURRENT),
        Kind("429", Stage.REGISTER, "429 with retry-after", refusals.THROTTLED),
        Kind("500", Stage.REGISTER, "500 with retry-after", refusals.INTERNAL_ERROR),
        Kind("disabled", Stage.REGISTER, "200 with the status disabled", refusals.ENROLLMENT_DISABLED),
        Kind("silence", Stage.REGISTER, "no answer at all"),
        Kind("drop", Stage.REGISTER, "the connection is closed after the register", refusals.DROPPED),
        Kind("slow", Stage.REGISTER, "the registration stays assigning for --seconds"),
        Kind("failed-400207", Stage.SETTLE, "the registration fails: custom allocation", refusals.ALLOCATION_FAILED),
        Kind("failed-400208", Stage.SETTLE, "the registration fails: no linked hub", refusals.NO_LINKED_HUB),
        Kind("failed-400209", Stage.SETTLE, "the registration fails: the hub refuses DPS", refusals.HUB_REFUSED),
        Kind("hub-connack-3", Stage.HUB_CONNECT, "the hub answers CONNACK 3", refusals.HUB_UNAVAILABLE),
        Kind("hub-connack-5", Stage.HUB_CONNECT, "the hub answers CONNACK 5", refusals.UNKNOWN_DEVICE),
        Kind("hub-eviction", Stage.HUB_PACKET, "the hub closes the connection at the next packet", refusals.EVICTED),
    )
}


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that is on. `device` None = every device; `left` None = until cleared.

    `retry_after` (seconds) goes with 429 and 500, `seconds` with slow.
    """

    kind: str
    device: str | None = None
    left: int | None = None
    retry_after: int = RETRY_AFTER
    seconds: float = SECONDS

    def used(self) -> "Fault | None":
        """What is left of it after it has acted once; None when that was the last time."""
        if self.left is None:
            return self
        return replace(self, left=self.left - 1) if self.left > 1 else None


def unfit(fault: Fault) -> str:
    """Why this cannot be switched on, as one phrase; "" when it can."""
    if not isinstance(fault.kind, str) or fault.kind not in KINDS:
        return f"there is no fault {shown_value(fault.kind)}; there are {', '.join(KINDS)}"
    if fault.device is not None and not names_a_device(fault.device):
        return "the device is not a registration ID or device ID"
    if fault.left is not None and not _counts(fault.left):
        return "the number of times is not a whole number from 1 to 999999"
    if not _counts(fault.retry_after):
        return "retry-after is not a whole number of seconds from 1 to 999999"
    if isinstance(fault.seconds, bool) or not isinstance(fault.seconds, int | float):
        return "the seconds are not a number"
    return "" if 0 < fault.seconds <= MOST_SECONDS else f"the seconds are not above 0 and at most {MOST_SECONDS:.0f}"


def names_a_device(value: object) -> bool:
    """Whether a device can have it for its ID: https://learn.microsoft.com/azure/iot-dps/concepts-service#device-id"""
    return isinstance(value, str) and bool(value.strip()) and len(value) <= 128 and value.isprintable()


def _counts(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1_000_000


def pick(faults: Iterable[Fault], stage: Stage, device: str) -> Fault | None:
    """The fault that acts on a device at this stage: one of its own before one for all."""
    name = device.lower()
    own = [fault for fault in faults if KINDS[fault.kind].stage is stage]
    for wanted in (name, None):
        for fault in own:
            if (fault.device and fault.device.lower()) == wanted:
                return fault
    return None
