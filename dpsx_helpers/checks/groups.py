"""The check and the exercises of notebook 07-enrollment-groups."""

from pathlib import Path
from typing import Any

from dpsx_helpers import certificates, chains, enrollments, given_files, registry, tutorial
from dpsx_helpers.checks.exercises import Exercise, NotYet, running
from dpsx_helpers.display import View, passed
from dpsx_helpers.errors import LearnerError
from dpsx_helpers.progress import recorded
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop

_NOTEBOOK = 7
_ROOT, _FACTORY, _SECOND = "Contoso-Root-CA", "Contoso-Factory-CA", "Contoso-Second-Factory-CA"
_PRESSES, _GROUP = ("press-01", "press-02", "press-03"), "factory-presses"
_MIXER, _MIXERS = "mixer-01", "factory-mixers"
_BROKEN, _ANSWERS = "broken", "answers.json"


@recorded("07")
def groups() -> View:
    """The chain of each device holds, the group has the factory's certificate, and the three devices are assigned."""
    target = running()
    for name in _PRESSES:
        if fault := _fault(name):
            raise Stop(f"{fault}: run the cells of this notebook from the top, then this check.")
    if target.emulator is not None and not _is_verified(target, _file(_ROOT)):
        raise Stop(
            f"{_ROOT} is not among the verified certificates of DPS: run the cell with the proof of possession, then "
            "this check."
        )
    if fault := _unfit_group(target, _GROUP, _FACTORY):
        raise Stop(f"{fault}: run the cell that makes the group, then this check.")
    for name in _PRESSES:
        if (entry := enrollments.get(target, name)) is not None:
            raise Stop(
                f"{name} has an entry of its own, which is {entry.provisioning_status}, as exercise 2 leaves it, so "
                "the group does not decide: run the cell that deletes this entry and registers the device, then this "
                "check."
            )
    for name in _PRESSES:
        if fault := _not_assigned(target, name, _GROUP) or _not_in_hub(target, name):
            raise Stop(f"{fault}: run the cell that registers the three devices, then this check.")
    listed = ", ".join(_PRESSES[:-1]) + f" and {_PRESSES[-1]}"
    lines = [
        f"the chains of {listed} hold, link by link, up to {_ROOT}",
        f"the group {_GROUP} lets in whom {_FACTORY} has signed",
        f"{listed} are assigned by that group, and in the hub with the thumbprints of their certificates",
    ]
    if target.is_emulator:
        lines.insert(1, f"DPS has verified {_ROOT}")
    return passed(*lines)


def _second_factory(target: Target) -> str:
    if fault := _fault(_MIXER):
        raise NotYet(f"{fault}; run the cell that makes its certificate.")
    if enrollments.get(target, _MIXER) is not None:
        raise NotYet(
            f"{_MIXER} has an individual enrollment of its own; it is expected to come in by the group {_MIXERS} alone."
        )
    if fault := _unfit_group(target, _MIXERS, _SECOND):
        raise NotYet(f"{fault}; an enabled group with the certificate of {_SECOND} is expected.")
    if fault := _not_assigned(target, _MIXER, _MIXERS) or _not_in_hub(target, _MIXER):
        raise NotYet(f"{fault}; register it now that the group is there.")
    if fault := _unfit_group(target, _GROUP, _FACTORY) or _replaced(target):
        raise NotYet(f"{fault}; the first factory is expected to stay as it was.")
    return f"the group {_MIXERS} has the certificate of {_SECOND}, and let {_MIXER} in, which no entry names"


def _taken_out(target: Target) -> str:
    name, siblings = _PRESSES[-1], _PRESSES[:-1]
    if fault := _unfit_group(target, _GROUP, _FACTORY):
        raise NotYet(f"{fault}; the group is expected to stay open for the other devices.")
    entry = enrollments.get(target, name)
    if entry is None:
        raise NotYet(f"DPS has no entry of its own for {name}, so the group lets it in; a disabled one is expected.")
    if entry.provisioning_status != "disabled":
        raise NotYet(f"The entry of {name} is {entry.provisioning_status}; it is expected to be disabled.")
    device = registry.get(target, name)
    if device is not None and device.status != "disabled":
        raise NotYet(
            f"{name} cannot register any more, but it is still {device.status} in the hub and can go on sending; it is "
            "expected to be deleted or disabled there too."
        )
    for other in siblings:
        if fault := _not_in_hub(target, other):
            raise NotYet(f"{fault}; its siblings are expected to go on working.")
    where = "is not in the hub" if device is None else "is disabled in the hub"
    return f"{name} is disabled in DPS and {where}; {siblings[0]} and {siblings[1]} go on working"


def _named_faults(target: Target) -> str:
    folder = tutorial.place_of(_NOTEBOOK)
    files = sorted((folder / _BROKEN).glob("chain-*.pem"))
    if not files:
        raise NotYet(f"There are no chains in {folder / _BROKEN}; run the cell that makes them.")
    answers = _answers(folder / _ANSWERS)
    done = []
    for file in files:
        names = [fault.name for fault in chains.faults(chains.links(file, trusted=_file(_ROOT)))]
        answer = answers.get(file.name)
        if answer is None:
            raise NotYet(
                f"There is no answer for {file.name} yet; the name of its fault is expected, under the whole file name."
            )
        if str(answer).strip().casefold() not in map(str.casefold, chains.NAMES):
            raise NotYet(f"{answer!a} is not the name of a fault; chains.NAMES has them all.")
        if str(answer).strip().casefold() not in map(str.casefold, names):
            raise NotYet(f"{file.name} does not have the fault {answer!a}; views.chain writes its name in bold.")
        done.append(f"{file.name}: {answer}")
    return "the faults are found: " + ", ".join(done)


def _answers(file: Path) -> dict[str, Any]:
    try:
        document = given_files.read_json(file)
    except FileNotFoundError:
        document = {}
    except (OSError, ValueError):
        raise NotYet(f"{file} cannot be read as JSON; run the cell that writes it.") from None
    if not isinstance(document, dict):
        raise NotYet("The answers are no dictionary; a fault for each name of a file is expected.")
    return document


# --- what is there ----------------------------------------------------------------------------------------------------


def _file(name: str) -> Path:
    """The certificate file of an authority, or of a device, in the folder of this notebook."""
    folder = tutorial.place_of(_NOTEBOOK)
    if name.endswith("-CA"):
        return folder / f"{name}.pem"
    return folder / name / certificates.CERTIFICATE_FILE


def _fault(name: str) -> str | None:
    """What is wrong with the chain of a device; half a sentence."""
    for each in (_ROOT, name):
        if not _file(each).is_file():
            return f"There is no certificate of {each} on disk"
    try:
        links = chains.links(_file(name), trusted=_file(_ROOT))
    except LearnerError as error:
        return f"The chain of {name} cannot be read ({str(error).rstrip('.')})"
    if faults := chains.faults(links):
        return f"The chain of {name} does not hold ({', '.join(dict.fromkeys(fault.name for fault in faults))})"
    return None


def _is_verified(target: Target, file: Path) -> bool:
    assert target.emulator is not None
    thumbprint = certificates.describe(file).thumbprint_sha1
    known = [one["properties"] for one in target.emulator.ca_certificates()]
    return any(one["isVerified"] and one["thumbprint"] == thumbprint for one in known)


def _unfit_group(target: Target, group_id: str, authority: str) -> str | None:
    """Why this group does not let in the devices of the authority; half a sentence."""
    found = enrollments.group(target, group_id)
    if found is None:
        return f"DPS has no enrollment group {group_id}"
    if found.get("provisioningStatus") == "disabled":
        return f"The group {group_id} is disabled"
    if not _file(authority).is_file():
        return f"There is no certificate of {authority} on disk"
    if certificates.describe(_file(authority)).thumbprint_sha256 not in _signers(found):
        return f"The group {group_id} does not have the certificate of {authority} that is on disk"
    return None


def _signers(group: Any) -> list[str]:
    """SHA-256 thumbprints of the certificates of a group."""
    slots = ((group.get("attestation") or {}).get("x509") or {}).get("signingCertificates") or {}
    found = (((slot or {}).get("info") or {}).get("sha256Thumbprint") for slot in slots.values())
    return [str(thumbprint).upper() for thumbprint in found if thumbprint]


def _replaced(target: Target) -> str | None:
    """How the first group is another than the one that has let the presses in; half a sentence."""
    group = enrollments.group(target, _GROUP)
    if len(_signers(group)) > 1:
        return f"The group {_GROUP} has a second certificate now"
    registered = [str(record.get("lastUpdatedDateTimeUtc")) for record in enrollments.members(target, _GROUP)]
    if max(registered, default="") < str(group.get("createdDateTimeUtc")):
        return f"The group {_GROUP} was made anew, and no press has registered since"
    return None


def _not_assigned(target: Target, name: str, group_id: str) -> str | None:
    """Why this device is not one that the group has let in; half a sentence."""
    records = {str(one.get("registrationId")).lower(): one for one in enrollments.members(target, group_id)}
    record = records.get(name)
    if record is None:
        return f"{name} is not among the registration records of the group {group_id}"
    if record.get("status") != "assigned":
        return f"The registration of {name} is {record.get('status')}, not assigned"
    return None


def _not_in_hub(target: Target, name: str) -> str | None:
    """Why this device cannot work with its hub; half a sentence."""
    device = registry.get(target, name)
    if device is None:
        return f"{name} is not in the hub"
    if device.status != "enabled":
        return f"{name} is {device.status} in the hub"
    if device.primary_thumbprint != certificates.describe(_file(name)).thumbprint_sha256:
        return f"The hub knows {name} by another certificate than the one on disk"
    return None


EXERCISES = (
    Exercise("Let the second factory in", _second_factory),
    Exercise("Take press-03 out for good", _taken_out),
    Exercise("Name the fault of each chain", _named_faults),
)
