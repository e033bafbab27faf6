"""The check and the exercises of notebook 08-when-it-fails: the first patient is well, the second one's fault found."""

from dpsx_helpers import certificates, enrollments, registry, tutorial
from dpsx_helpers import clinic as patients
from dpsx_helpers.checks.exercises import Exercise, NotYet, running
from dpsx_helpers.diagnosis import mistakes
from dpsx_helpers.display import View, passed
from dpsx_helpers.progress import recorded
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop


@recorded("08")
def clinic() -> View:
    """The first patient is as it was before the ten mistakes: enrolled with its certificate, assigned, enabled."""
    target, name = running(), patients.FIRST
    file = tutorial.place_of(8) / name / certificates.CERTIFICATE_FILE
    if not file.exists():
        raise Stop(f"{name} has no certificate yet: run notebook 08 from its first cell, then this check.")
    entry, thumbprint = enrollments.get(target, name), certificates.describe(file).thumbprint_sha256
    if entry is None or entry.thumbprint_sha256 != thumbprint or entry.provisioning_status != "enabled":
        raise Stop(
            f"{name} is not enrolled with the certificate on disk, or not enabled: run the cell with clinic.patient "
            "in notebook 08, then this check."
        )
    if (found := patients.registered(target, name)) != "assigned":
        raise Stop(
            f"DPS remembers {name} as {found or 'one that never registered'}, not as assigned: run the last cell "
            "before this check, then this check."
        )
    device = registry.get(target, name)
    if device is None or device.status != "enabled":
        state = "not in the hub" if device is None else device.status
        raise Stop(f"{name} is {state}: run the cell of mistake 10 to its end, then this check.")
    return passed(f"{name} is enrolled with its own certificate", "DPS has assigned it", "in the hub it is enabled")


def _named(target: Target) -> str:
    truth, named = patients.fault(), patients.named()
    if truth is None:
        raise NotYet(
            f"there is no {patients.SECOND} yet: run the cell with clinic.admit(), and name what it suffers from."
        )
    if named is None:
        raise NotYet(
            f"{patients.SECOND} was admitted, but nothing is named: clinic.name is expected, with the number of a card."
        )
    called = f"{named}, {mistakes.BY_NUMBER[named].name}" if named in mistakes.BY_NUMBER else str(named)
    if named != truth:
        raise NotYet(
            f"you named {called}, and that is not what {patients.SECOND} suffers from: examine it again, and name "
            "another."
        )
    return f"{patients.SECOND} was admitted with a hidden fault, and you found it: {called}"


def _mended(target: Target) -> str:
    if patients.fault() is None:
        raise NotYet(f"there is no {patients.SECOND} yet: run the cell with clinic.admit(), then mend it.")
    why = patients.why_ill(target)
    if why and patients.named() != patients.fault():  # what is wrong would tell what is to be named
        raise NotYet(
            f"{patients.SECOND} is not well: its settings, files and enrollment are expected to agree, and then a "
            "registration that is assigned."
        )
    if why:
        raise NotYet(f"{patients.SECOND} is not well: {why}; a registration that is assigned is expected.")
    return f"{patients.SECOND} is mended: its settings, files and enrollment agree, and DPS has assigned it"


EXERCISES = (
    Exercise("Name what the second patient has", _named),
    Exercise("Mend the second patient", _mended),
)
