"""What DPS keeps: enrollments, enrollment groups, CA certificates and registrations. Frozen records, no rules.

Certificates are DER, hubs are identities that outlive their addresses, times are text as Azure writes it.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """States of a registration (`enrollmentStatus` of the REST API)."""

    ASSIGNING = "assigning"
    ASSIGNED = "assigned"
    FAILED = "failed"
    DISABLED = "disabled"


class Substatus(StrEnum):
    """How an assigned device came to its hub:
    https://learn.microsoft.com/rest/api/iot-dps/device/runtime-registration/register-device
    """

    INITIAL = "initialAssignment"
    MIGRATED = "deviceDataMigrated"
    RESET = "deviceDataReset"
    REPROVISIONED = "reprovisionedToInitialAssignment"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Terms:
    """What both kinds of enrollment say. `hubs` are those that devices may go to, in the order named; none = any.

    `settings` are the documented fields that are shown again as they were sent.
    """

    enabled: bool
    hubs: tuple[str, ...]
    initial_twin: dict[str, Any]
    settings: dict[str, Any]
    etag: str
    created: str
    updated: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrollment(_Terms):
    """An individual enrollment."""

    registration_id: str
    primary: bytes | None
    secondary: bytes | None
    device_id: str | None

    @property
    def name(self) -> str:
        return self.registration_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Group(_Terms):
    """An enrollment group: the certificates of an issuer let in every device that they lead to.

    Either certificates of its own (`primary`, `secondary`) or the names of CA certificates of this DPS
    (`primary_ca`, `secondary_ca`).
    """

    group_id: str
    primary: bytes | None
    secondary: bytes | None
    primary_ca: str | None
    secondary_ca: str | None

    @property
    def name(self) -> str:
        return self.group_id


@dataclass(frozen=True, slots=True)
class CaCertificate:
    """A CA certificate of this DPS. It counts once its owner has proved to hold its key (`verified`).

    `code` is the common name that the proof, a certificate signed with that key, has to have.
    """

    name: str
    der: bytes
    verified: bool
    code: str
    etag: str
    created: str
    updated: str


@dataclass(frozen=True, slots=True)
class Registration:
    """What DPS remembers of a registration. `requested` is unix seconds, `polls` how often it was asked for since.

    While `assigning`, hub and device ID are still those of the registration before; `payload` is what the device sent;
    `held_until` (unix seconds) is how long a fault keeps it assigning.
    """

    registration_id: str
    status: Status
    operation_id: str
    requested: float
    created: str
    updated: str
    etag: str
    polls: int = 0
    hub: str | None = None
    device_id: str | None = None
    substatus: Substatus = Substatus.INITIAL
    group_id: str | None = None
    payload: Any = None
    held_until: float = 0.0
    error_code: int = 0
    error_message: str = ""
