"""Around notebook 06: pairs in its own folder, a fresh start, who knows which certificate, and what others do.

Nothing is deleted or replaced but the notebook's own: entries with a certificate that is in its folder.
"""

import re
import secrets
from pathlib import Path
from typing import Any

from dpsx_helpers import certificates, enrollments, given_files, registry, tutorial
from dpsx_helpers.certificates import Pair
from dpsx_helpers.display import View, digits, note, table
from dpsx_helpers.errors import LearnerError, shown_value
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop

#: What the last exercise is about: registration ID -> supplier.
BATCH = {"Python-device-11": "north", "Python-device-12": "south", "Python-device-13": "north"}


def pair(registration_id: str, folder: str, pass_phrase: str) -> Pair:
    """The device's certificate and key in this folder of the notebook, made when they are not there.

    Raises CertificateError when what is there is another device's, has expired or does not open; Stop without a folder.
    """
    if not isinstance(folder, str) or not re.fullmatch(r"\w[\w.-]{0,99}", folder):
        raise Stop(
            f"{shown_value(folder)} is no name for a folder: give a plain one in quotes, for example 'second', and run "
            "this cell again."
        )
    place = tutorial.own_folder(6) / folder
    try:
        place.mkdir(exist_ok=True)
    except OSError as error:
        raise Stop(
            f"The folder {place} cannot be made ({error.strerror}): move away what is there, and run this cell again."
        ) from error
    return certificates.create(registration_id, pass_phrase, place, key_type="ec-p256", existing="reuse")


def certificate(folder: str) -> certificates.Description:
    """The certificate in this folder of the notebook. Raises CertificateError when there is none."""
    return certificates.describe(_own() / folder / certificates.CERTIFICATE_FILE)


def start_over(target: Target, registration_id: str) -> View:
    """Delete what an earlier run of the notebook has enrolled, under whatever name, so that this one can create it.

    Stop when one of its names is enrolled with a certificate that is not the notebook's own.
    """
    own = own_certificates()
    names = {registration_id, *own.values(), *enrolled_as(target, *own)}  # a slip of the pen may have made others
    gone = [name for name in sorted(names) if _make_room(target, name, own)]
    if not gone:
        return note("Nothing of an earlier run is enrolled.")
    return note(f"Deleted what an earlier run of this notebook had enrolled: {', '.join(gone)}.")


def make_room(target: Target, registration_id: str) -> None:
    """Delete what an earlier try has enrolled for this device, under whatever name. Stop when its entry is somebody
    else's.
    """
    own = own_certificates()
    thumbprints = [thumbprint for thumbprint, name in own.items() if name == registration_id]
    for name in {registration_id, *enrolled_as(target, *thumbprints)}:
        _make_room(target, name, own)


def enrolled_as(target: Target, *thumbprints: str) -> list[str]:
    """The registration IDs of the entries with a certificate of one of these SHA-256 thumbprints."""
    return [
        entry.registration_id
        for entry in enrollments.list_all(target)
        if not {entry.thumbprint_sha256, entry.secondary_sha256}.isdisjoint(thumbprints)
    ]


def standing(target: Target, registration_id: str, **pairs: Pair) -> View:
    """Where each of the pairs (keyword: what it is called) is known: in the places of the entry, and in the hub."""
    names = {certificates.describe(one.certificate_file).thumbprint_sha256: name for name, one in pairs.items()}
    entry = enrollments.get(target, registration_id)
    device = registry.get(target, entry.device_id or registration_id) if entry else None
    known = [
        ("DPS: primary certificate", entry and entry.thumbprint_sha256),
        ("DPS: secondary certificate", entry and entry.secondary_sha256),
        ("hub: primary thumbprint", device and device.primary_thumbprint),
    ]
    rows = [
        (where, names.get(thumbprint, "another"), digits(thumbprint, across=32)) if thumbprint else (where, "none", "")
        for where, thumbprint in known
    ]
    return table(f"Who knows {registration_id} by which certificate", ("Where", "Which", "SHA-256 thumbprint"), rows)


def colleague(target: Target, registration_id: str) -> None:
    """Somebody else changes the entry: its tag `site` gets a value that it never had, and its tag `owner` goes.

    Prints the value, and keeps it for the check in the notebook's folder.
    """
    site = f"roof-{secrets.token_hex(2)}"
    with enrollments.service(target) as client:
        entry = dict(client.enrollment.get(registration_id))
        twin = entry.get("initialTwin") or {}
        tags = {name: value for name, value in (twin.get("tags") or {}).items() if name != "owner"}
        changed = entry | {"initialTwin": twin | {"tags": tags | {"site": site}}}
        client.enrollment.create_or_update(registration_id, changed, if_match=entry["etag"])
    left = {"tags": tags | {"site": site}, "desired": (twin.get("properties") or {}).get("desired") or {}}
    tutorial.write_json(_note(), {"registrationId": registration_id, "site": site, **left})
    print(f"A colleague has just set the tag site of {registration_id} to {site}.")  # noqa: T201


def told_by_colleague() -> tuple[str, str] | None:
    """(registration ID, site) as the colleague wrote it last; None when there is no note of it that can be read."""
    try:
        document = given_files.read_json(_note())
        return str(document["registrationId"]), str(document["site"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def lost_since_colleague(entry: enrollments.Enrollment) -> str | None:
    """What else than the tag `owner` differs from how the colleague left the entry; None: nothing does."""
    try:
        document = given_files.read_json(_note())
        tags, desired = document["tags"], document["desired"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if {name: value for name, value in entry.tags.items() if name != "owner"} != tags:
        return "another tag"
    return "a desired property" if entry.initial_twin != desired else None


def batch(target: Target, pass_phrase: str) -> None:
    """Enroll the devices of BATCH anew, all of them enabled, each with its tag `supplier`. Prints their names.

    What else this notebook has enrolled is enabled again, as an earlier try may have disabled it.
    """
    made = {name: pair(name, name, pass_phrase) for name in BATCH}
    own = own_certificates()
    with enrollments.service(target) as client:
        for name, supplier in BATCH.items():
            _make_room(target, name, own)
            client.enrollment.create_or_update(name, _document(name, made[name], {"supplier": supplier}))
        for entry in map(dict, client.enrollment.query({"query": "SELECT *"})):
            name, disabled = entry["registrationId"], entry.get("provisioningStatus") == "disabled"
            if disabled and name in own.values():
                enabled = entry | {"provisioningStatus": "enabled"}
                client.enrollment.create_or_update(name, enabled, if_match=entry["etag"])
    print("Enrolled and enabled:", ", ".join(f"{name} ({supplier})" for name, supplier in BATCH.items()))  # noqa: T201


def own_certificates() -> dict[str, str]:
    """SHA-256 thumbprint -> common name of every certificate in the notebook's folder."""
    found = {}
    for file in sorted(_own().glob(f"*/{certificates.CERTIFICATE_FILE}")):
        try:
            seen = certificates.describe(file)
        except LearnerError:
            continue  # not a certificate that can be enrolled
        if seen.common_name:
            found[seen.thumbprint_sha256] = seen.common_name
    return found


def _make_room(target: Target, name: str, own: dict[str, str]) -> bool:
    """Delete this entry; False when there is none. Stop when it is not the notebook's own."""
    entry = enrollments.get(target, name)
    if entry is None:
        return False
    if own.keys().isdisjoint({entry.thumbprint_sha256, entry.secondary_sha256}):
        raise Stop(
            f"{name} is enrolled already, and not with a certificate from {_own()}: delete that entry if it is yours, "
            "or choose another name, and run this cell again."
        )
    return enrollments.delete(target, name)


def _document(registration_id: str, made: Pair, tags: dict[str, Any]) -> dict[str, Any]:
    slots = {"primary": {"certificate": made.certificate_file.read_text(encoding="ascii")}}
    attestation = {"type": "x509", "x509": {"clientCertificates": slots}}
    return {"registrationId": registration_id, "attestation": attestation, "initialTwin": {"tags": tags}}


def _own() -> Path:
    return tutorial.place_of(6)


def _note() -> Path:
    return _own() / "colleague.json"
