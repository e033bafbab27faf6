"""The check and the exercises of notebook 06-enroll-programmatically."""

import json

from dpsx_helpers import enrollments, registry, rollover
from dpsx_helpers.certificates import Description
from dpsx_helpers.checks.exercises import Exercise, NotYet, running
from dpsx_helpers.display import View, passed
from dpsx_helpers.enrollments import Enrollment
from dpsx_helpers.errors import LearnerError
from dpsx_helpers.progress import recorded
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop

_THIRD = "Python-device-03"
_THIRD_IN_HUB = "wind-meter-03"
_SECONDS = 30
_OWNER = "operations"


@recorded("06")
def programmatically() -> View:
    """After the rollover: the entry has the new certificate and no other, and so has the hub."""
    target = running()
    old, new = _pair()
    name = new.common_name or ""
    entry = enrollments.get(target, name)
    if entry is None:
        raise Stop(f"There is no enrollment for {name}: run the cells of notebook 06 from the top, then this check.")
    _only_new_enrolled(entry, old, new)
    if entry.provisioning_status != "enabled":
        raise Stop(
            f"The enrollment of {name} is {entry.provisioning_status}: run the cell of notebook 06 that enables it "
            "again, then this check."
        )
    _only_new_in_hub(target, entry, old, new)
    return passed(
        f"the new certificate provisions: {name} is enrolled with it, and enabled",
        f"the hub knows {name} by it: {new.thumbprint_sha256}",
        f"the old one is refused: neither DPS nor the hub has {old.thumbprint_sha256} any more",
    )


def _pair() -> tuple[Description, Description]:
    """The old and the new certificate of one device."""
    try:
        old, new = rollover.certificate("old"), rollover.certificate("new")
    except LearnerError as error:
        raise Stop(
            "The old and the new certificate are not both in the folder of notebook 06: run its cells from the top, "
            "then this check."
        ) from error
    if old.thumbprint_sha256 == new.thumbprint_sha256:
        raise Stop(
            "The old and the new certificate in the folder of notebook 06 are the same: delete its folder new, run its "
            "cells from the top, then this check."
        )
    return old, new


def _only_new_enrolled(entry: Enrollment, old: Description, new: Description) -> None:
    enrolled = {entry.thumbprint_sha256, entry.secondary_sha256} - {None}
    name = entry.registration_id
    if new.thumbprint_sha256 not in enrolled:
        raise Stop(
            f"{name} is not enrolled with its new certificate: run the cells of the rollover in notebook 06, then this "
            "check."
        )
    if old.thumbprint_sha256 in enrolled:
        raise Stop(
            f"{name} is still enrolled with its old certificate too: run the cell of notebook 06 that takes it out, "
            "then this check."
        )
    if enrolled != {new.thumbprint_sha256}:
        raise Stop(
            f"{name} is enrolled with a second certificate that is neither the old nor the new one: run the cells of "
            "the rollover in notebook 06, then this check."
        )


def _only_new_in_hub(target: Target, entry: Enrollment, old: Description, new: Description) -> None:
    device_id = entry.device_id or entry.registration_id
    device = registry.get(target, device_id)
    if device is None:
        raise Stop(
            f"The hub has no device {device_id}: run the cells of notebook 06 that register it, then this check."
        )
    known = {device.primary_thumbprint, device.secondary_thumbprint}
    if device.primary_thumbprint != new.thumbprint_sha256 or old.thumbprint_sha256 in known:
        raise Stop(
            f"The hub does not know {device_id} by its new certificate alone: let the device register with it once "
            "more, as the last cell of the rollover in notebook 06 does, then this check."
        )


# --- exercises --------------------------------------------------------------------------------------------------------


def _third_device(target: Target) -> str:
    entry = enrollments.get(target, _THIRD)
    if entry is None:
        if elsewhere := rollover.enrolled_as(target, *_thumbprints(_THIRD)):
            raise NotYet(f"the certificate of {_THIRD} is enrolled as {elsewhere[0]}, and {_THIRD} is expected.")
        raise NotYet(f"there is no enrollment {_THIRD}, and one with the certificate in the folder third is expected.")
    if entry.thumbprint_sha256 != rollover.certificate("third").thumbprint_sha256:
        raise NotYet(f"the primary certificate of {_THIRD} is not the one in the folder third, which is expected.")
    if entry.device_id != _THIRD_IN_HUB:
        found = f"deviceId {entry.device_id}" if entry.device_id else "no deviceId"
        raise NotYet(f"{_THIRD} has {found}, and {_THIRD_IN_HUB} is expected.")
    if entry.initial_twin != {"telemetryInterval": _SECONDS}:
        raise NotYet(
            f"the desired properties of {_THIRD} are {_shown(entry.initial_twin)}, and "
            f"{_shown({'telemetryInterval': _SECONDS})} is expected."
        )
    if entry.provisioning_status != "enabled":
        raise NotYet(f"the enrollment of {_THIRD} is {entry.provisioning_status}, and enabled is expected.")
    return (
        f"{_THIRD} is enrolled: it will be {_THIRD_IN_HUB} in the hub, and is to send every {_SECONDS} seconds from "
        "its first start on"
    )


def _thumbprints(name: str) -> list[str]:
    """Of the certificates in the notebook's folder that have this common name."""
    return [thumbprint for thumbprint, common_name in rollover.own_certificates().items() if common_name == name]


def _concurrent_change(target: Target) -> str:
    told = rollover.told_by_colleague()
    if told is None:
        raise NotYet("your colleague has changed nothing yet: run the whole cell.")
    name, site = told
    entry = enrollments.get(target, name)
    if entry is None:
        raise NotYet(f"there is no enrollment {name} any more: run the notebook from its top.")
    theirs, ours = entry.tags.get("site") == site, entry.tags.get("owner") == _OWNER
    if not ours:
        found = _shown(entry.tags["owner"]) if "owner" in entry.tags else "not there"
        also = "" if theirs else f", and your colleague's site {site} is lost"
        raise NotYet(f"the tag owner of {name} is {found}{also}: {_OWNER} is expected beside the site {site}.")
    if not theirs:
        found = _shown(entry.tags["site"]) if "site" in entry.tags else "gone"
        raise NotYet(
            f"your tag owner is there, but your colleague's tag site is {found} instead of {site}: your change has "
            "overwritten theirs."
        )
    if lost := rollover.lost_since_colleague(entry):
        raise NotYet(
            f"both tags are there, but {lost} of {name} is not as your colleague left it: change nothing but the tag "
            "owner."
        )
    return f"{name} has both tags, your owner {_OWNER} and your colleague's site {site}: nobody's change was lost"


def _one_supplier(target: Target) -> str:
    north = [name for name, supplier in rollover.BATCH.items() if supplier == "north"]
    for name, supplier in rollover.BATCH.items():
        entry = enrollments.get(target, name)
        if entry is None:
            raise NotYet(
                f"there is no enrollment {name}: run the whole cell, which makes it, and if your lines delete it, let "
                "them disable it instead."
            )
        if entry.tags.get("supplier") != supplier:
            raise NotYet(f"{name} has lost its tag supplier {supplier}: change nothing but its provisioningStatus.")
        if name in north and entry.provisioning_status != "disabled":
            raise NotYet(f"{name} is from the supplier north and {entry.provisioning_status}: disabled is expected.")
    for name in sorted({*rollover.BATCH, *rollover.own_certificates().values()} - set(north)):
        entry = enrollments.get(target, name)
        if entry is not None and entry.provisioning_status != "enabled":
            raise NotYet(f"{name} is not from the supplier north and {entry.provisioning_status}: enabled is expected.")
    return f"of what this notebook enrolled, exactly {' and '.join(north)} are disabled, those of the supplier north"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:79]}…"


EXERCISES = (
    Exercise("Enroll a third device under another name", _third_device),
    Exercise("Change an entry that somebody else changes too", _concurrent_change),
    Exercise("Disable the devices of one supplier", _one_supplier),
)
