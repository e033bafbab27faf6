"""Students of a class: what the key of each opens, and which mistakes came up. No I/O.

A student's key is a shared access policy of both services that holds for one registration ID alone. Azure has no policy
of this kind, its policies hold for a whole service
(https://learn.microsoft.com/azure/iot-dps/how-to-control-access); it refuses a token that does not apply to the
request as this emulator does, with 401.
"""

from dataclasses import dataclass, field
from typing import Any

from dpsx_helpers.emulator import refusals
from dpsx_helpers.emulator.refusals import Answer, Refused
from dpsx_helpers.joining import POLICY

# What the teacher does to a device is no mistake of the student's.
_NOT_THEIRS = (refusals.REMOVED, refusals.DISABLED_MEANWHILE)


@dataclass(frozen=True, slots=True)
class Student:
    """One student. `key` (base64) opens what carries this registration ID, and nothing else."""

    registration_id: str
    key: str = field(repr=False)

    @property
    def policy(self) -> str:
        return f"{POLICY}{self.registration_id}"

    def owns(self, name: str) -> bool:
        """Whether an ID of an enrollment, a registration or a device is this student's, in whatever case.

        Registration IDs compare without regard to case, so that of no two students differ in case alone.
        """
        return name.isascii() and name.lower() == self.registration_id.lower()


@dataclass(frozen=True, slots=True)
class Mistakes:
    """What was refused to the devices and the key of one student: how often each, and the last one in words.

    `counts` is by the name of the refusal; `at` is a time as Azure writes it.
    """

    counts: dict[str, int]
    at: str
    last: str
    reason: str
    hint: str

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def document(self) -> dict[str, Any]:
        return {"counts": self.counts, "at": self.at, "last": self.last, "reason": self.reason, "hint": self.hint}


def counts_as_mistake(refused: Refused) -> bool:
    """Whether a refusal is one: to look for what is not there is none, nor is what the teacher does."""
    row = refused.refusal
    over_http = row.answer in (Answer.DPS_HTTP, Answer.HUB_HTTP, Answer.HUB_METHOD)
    return not (over_http and row.status == 404) and row not in _NOT_THEIRS


def with_one_more(before: Mistakes | None, refused: Refused, at: str) -> Mistakes:
    row = refused.refusal
    counts = dict(before.counts) if before else {}
    counts[row.name] = counts.get(row.name, 0) + 1
    return Mistakes(counts, at, row.name, refused.reason, row.hint)
