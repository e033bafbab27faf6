"""A class at one emulator: its students, what each has reached, and forgetting one of them. No sockets."""

import secrets
from base64 import b64encode
from typing import Any

from dpsx_helpers.certificates import CertificateError, describe
from dpsx_helpers.emulator.records import Enrollment
from dpsx_helpers.emulator.services import Services
from dpsx_helpers.emulator.students import Student


def admit(services: Services, registration_ids: list[str]) -> list[Student]:
    """Students with these registration IDs: a new key for who is new, the old one for who is there already."""
    admitted = []
    for name in registration_ids:
        student = services.store.student(name) or Student(name, b64encode(secrets.token_bytes(32)).decode())
        services.store.put_student(student)
        admitted.append(student)
    return admitted


def dismiss(services: Services, registration_id: str) -> bool:
    """Forget a student, their key, and all that they have made; False when there is none of this name."""
    known = services.store.student(registration_id) is not None
    if known:
        services.forget(registration_id)
        services.store.delete_student(registration_id)
    return known


def board(services: Services) -> dict[str, Any]:
    """What the service can see of every student, by name, and the faults that are on.

    `certificate` is the SHA-256 thumbprint of the enrolled one, `enrollment` is enabled, disabled or None,
    `registration` its status and the time of its last change, `connected` whether the device is at its hub right now,
    `messages` how many of its device are stored, `mistakes` what was refused to it (see `students.Mistakes`).
    """
    counts: dict[str, int] = {}
    for device, count in services.store.message_counts().items():
        counts[device.lower()] = counts.get(device.lower(), 0) + count
    rows = [_row(services, student, counts) for student in services.store.students()]
    return {"students": rows, "faults": [[fault.kind, fault.device] for fault in services.faults()]}


def _row(services: Services, student: Student, counts: dict[str, int]) -> dict[str, Any]:
    store, name = services.store, student.registration_id
    enrollment, registration, mistakes = store.enrollment(name), store.registration(name), store.mistakes(name)
    return {
        "registrationId": name,
        "certificate": _thumbprint(enrollment),
        "enrollment": None if enrollment is None else "enabled" if enrollment.enabled else "disabled",
        "registration": registration and {"status": registration.status.value, "updated": registration.updated},
        "connected": services.is_anywhere(name),
        "messages": counts.get(name.lower(), 0),
        "mistakes": mistakes and mistakes.document(),
    }


def _thumbprint(enrollment: Enrollment | None) -> str | None:
    der = enrollment and (enrollment.primary or enrollment.secondary)
    try:
        return describe(der).thumbprint_sha256 if der else None
    except CertificateError:  # cannot be: it was read when it was enrolled
        return None
