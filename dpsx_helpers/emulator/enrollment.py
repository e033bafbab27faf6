"""The document of an individual enrollment: read what a client sends, write what DPS shows. No I/O.

Names and shapes: https://learn.microsoft.com/rest/api/iot-dps/service/individual-enrollment/create-or-update
(api-version 2021-10-01). What an enrollment group has in common with it is public here; the rest is in `group`.
"""

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dpsx_helpers.certificates import CertificateError, describe
from dpsx_helpers.emulator import documents, refusals, twin
from dpsx_helpers.emulator.dps import REGISTRATION_ID, record
from dpsx_helpers.emulator.identity import DEVICE_ID
from dpsx_helpers.emulator.records import Enrollment, Group, Registration
from dpsx_helpers.emulator.refusals import Refusal, Refused
from dpsx_helpers.emulator.stamps import Stamp

# Documented fields that are kept and shown again, and the value that the service fills in.
_SETTINGS: dict[str, Any] = {
    "optionalDeviceInformation": None,
    "capabilities": {"iotEdge": False},
    "reprovisionPolicy": {"updateHubAssignment": True, "migrateDeviceData": True},
    "allocationPolicy": "hashed",
}
_SHARED = {
    "attestation", "iotHubHostName", "iotHubs", "initialTwin", "provisioningStatus", "customAllocationDefinition",
    "etag", "createdDateTimeUtc", "lastUpdatedDateTimeUtc", *_SETTINGS,
}  # fmt: skip
_SLOTS = ("primary", "secondary")


def parse(
    registration_id: str, document: Any, existing: Enrollment | None, hubs: Mapping[str, str], stamp: Stamp
) -> Enrollment:
    """The record for a PUT of `document` under `registration_id`. `hubs`: identity -> address of the linked hubs.

    A certificate of which only `info` comes back is kept from `existing`, so that read, change, write works.
    Raises Refused naming the field that is wrong, or the feature that is not emulated.
    """
    fields = read_fields(document, {"registrationId", "deviceId", "registrationState"})
    check_id(fields, "registrationId", registration_id)
    primary, secondary = _certificates(fields, existing)
    return Enrollment(
        registration_id=existing.registration_id if existing else registration_id,
        primary=primary,
        secondary=secondary,
        device_id=_device_id(fields),
        **read_terms(fields, hubs),
        etag=f'"{stamp.version}"',
        created=existing.created if existing else stamp.text,
        updated=stamp.text,
    )


def render(enrollment: Enrollment, registration: Registration | None, hubs: Mapping[str, str]) -> dict[str, Any]:
    """The enrollment as DPS shows it: of each certificate the facts, not the certificate."""
    document = {
        "registrationId": enrollment.registration_id,
        "attestation": mechanism(enrollment),
        **shown_terms(enrollment, hubs),
    }
    if enrollment.device_id:
        document["deviceId"] = enrollment.device_id
    if registration and registration.group_id is None:
        document["registrationState"] = record(registration, hubs)
    return document


def mechanism(enrollment: Enrollment) -> dict[str, Any]:
    """`attestation`, also the answer to a request for the attestation mechanism alone."""
    slots = shown_slots(enrollment.primary, enrollment.secondary)
    return {"type": "x509", "x509": {"clientCertificates": slots}}


def read_fields(document: Any, own: set[str]) -> dict[str, Any]:
    """The fields that have a value. `own` are those that only this kind of enrollment has."""
    if not isinstance(document, dict):
        raise bad("the body is not a JSON object")
    fields = {name: value for name, value in document.items() if value is not None}
    unknown = sorted(set(fields) - _SHARED - own)
    if unknown:
        raise bad(f"an enrollment of this kind has no field {unknown[0]}")
    return fields


def read_terms(fields: dict[str, Any], hubs: Mapping[str, str]) -> dict[str, Any]:
    """What both kinds say of their devices: `enabled`, `hubs`, `initial_twin` and `settings` of the records."""
    settings = {
        name: _without_nulls(fields.get(name, default))
        for name, default in _SETTINGS.items()
        if name in fields or default is not None
    }
    _check_settings(settings)
    return {
        "enabled": _enabled(fields),
        "hubs": _hubs(fields, hubs),
        "initial_twin": _initial_twin(fields),
        "settings": settings,
    }


def shown_terms(enrollment: Enrollment | Group, hubs: Mapping[str, str]) -> dict[str, Any]:
    """The reverse of `read_terms`, with etag and dates."""
    document: dict[str, Any] = {
        **enrollment.settings,
        "provisioningStatus": "enabled" if enrollment.enabled else "disabled",
        "etag": enrollment.etag,
        "createdDateTimeUtc": enrollment.created,
        "lastUpdatedDateTimeUtc": enrollment.updated,
    }
    linked = [hubs[hub] for hub in enrollment.hubs if hub in hubs]
    if linked:
        document["iotHubs"] = linked
    if enrollment.initial_twin:
        document["initialTwin"] = enrollment.initial_twin
    return document


@dataclass(frozen=True, slots=True)
class Rows:
    """How requests about one kind of enrollment are refused."""

    missing: Refusal
    exists: Refusal
    changed: Refusal


INDIVIDUAL = Rows(refusals.ENROLLMENT_NOT_FOUND, refusals.ENROLLMENT_EXISTS, refusals.ENROLLMENT_CHANGED)
GROUP = Rows(refusals.GROUP_NOT_FOUND, refusals.GROUP_EXISTS, refusals.GROUP_CHANGED)


def named(name: str) -> dict[str, Any]:
    """The fact that the rows of either kind speak of."""
    return {"registration_id": name, "group_id": name}


def check_etag(
    enrollment: Enrollment | Group | None, if_match: str | None, name: str, rows: Rows = INDIVIDUAL, *, deleting: bool
) -> None:
    """`If-Match` as DPS reads it: needed to replace what exists, optional to delete it, `*` matches anything."""
    if enrollment is None:
        if deleting or (if_match and if_match.strip() not in ("*", '"*"')):
            raise Refused(rows.missing, **named(name))
        return
    if if_match is None:
        if not deleting:
            raise Refused(rows.exists, **named(name))
        return
    if not documents.matches(if_match, enrollment.etag):
        raise Refused(rows.changed, **named(name))


def bad(why: str) -> Refused:
    return Refused(refusals.DPS_BAD_REQUEST, why=why)


def not_emulated(feature: str) -> Refused:
    return Refused(refusals.DPS_NOT_EMULATED, feature=feature)


def read_object(document: dict[str, Any], name: str) -> dict[str, Any]:
    value = document.get(name)
    if not isinstance(value, dict):
        raise bad(f"{name} is missing or is not an object")
    return {key: item for key, item in value.items() if item is not None}


def check_id(fields: dict[str, Any], field: str, identifier: str) -> None:
    """The ID in the path must be one, and the document must not name another."""
    if not REGISTRATION_ID.fullmatch(identifier):
        raise bad(f"the {'registration' if field == 'registrationId' else 'enrollment group'} ID in the path is none")
    named = fields.get(field, identifier)
    if not isinstance(named, str) or named.lower() != identifier.lower():
        raise bad(f"{field} differs from the {'registration' if field == 'registrationId' else 'group'} ID in the path")


def read_mechanism(fields: dict[str, Any]) -> dict[str, Any]:
    """`attestation.x509`; the other types are not emulated."""
    attestation = read_object(fields, "attestation")
    kind = attestation.get("type")
    if kind in ("tpm", "symmetricKey"):
        raise not_emulated(f"attestation of type {kind}")
    if kind != "x509":
        raise bad("attestation.type is not x509")
    return read_object(attestation, "x509")


def _certificates(fields: dict[str, Any], existing: Enrollment | None) -> tuple[bytes | None, bytes | None]:
    mechanism = read_mechanism(fields)
    for name in ("signingCertificates", "caReferences"):
        if name in mechanism:
            raise bad(f"x509.{name} belong to an enrollment group, not to an individual enrollment")
    known = (existing.primary, existing.secondary) if existing else (None, None)
    primary, secondary = read_slots(mechanism, "clientCertificates", known)
    if primary is None and secondary is None:
        raise bad("attestation.x509.clientCertificates has no certificate")
    return primary, secondary


def read_slots(
    mechanism: dict[str, Any], name: str, known: tuple[bytes | None, bytes | None]
) -> tuple[bytes | None, bytes | None]:
    """The primary and secondary certificate, as DER. `known` are those that are there already."""
    slots = read_object(mechanism, name)
    primary, secondary = (_certificate(slots, *pair) for pair in zip(_SLOTS, known, strict=True))
    return primary, secondary


def shown_slots(primary: bytes | None, secondary: bytes | None) -> dict[str, Any]:
    """Facts of the certificates; an empty secondary slot reads back as null."""
    return {
        slot: None if der is None else {"info": shown_certificate(der)}
        for slot, der in zip(_SLOTS, (primary, secondary), strict=True)
    }


def _certificate(slots: dict[str, Any], slot: str, known: bytes | None) -> bytes | None:
    if slot not in slots:
        return None
    holder = read_object(slots, slot)
    if "certificate" in holder:
        return read_certificate(holder["certificate"], slot)
    thumbprint = read_object(holder, "info").get("sha256Thumbprint") if "info" in holder else None
    if known is not None and thumbprint == describe(known).thumbprint_sha256:
        return known
    if thumbprint:
        raise bad(f"{slot}.info names a certificate that this enrollment does not hold; send the certificate itself")
    return None


def read_certificate(text: Any, slot: str) -> bytes:
    """PEM text, or base64 of PEM or of DER, as the clients of Microsoft send it."""
    if not isinstance(text, str):
        raise bad(f"{slot}.certificate is not a string")
    try:
        raw = text.encode("ascii") if "-----BEGIN" in text else b64decode("".join(text.split()), validate=True)
        return describe(raw).der
    except (CertificateError, ValueError):
        raise bad(f"{slot}.certificate is no X.509 certificate in PEM or base64") from None


def _check_settings(settings: dict[str, Any]) -> None:
    policy = settings["allocationPolicy"]
    if policy == "custom":
        raise not_emulated("allocationPolicy custom")
    if policy not in ("hashed", "geoLatency", "static"):
        raise bad("allocationPolicy is none of hashed, geoLatency, static, custom")
    for name, flags in (
        ("capabilities", {"iotEdge"}),
        ("reprovisionPolicy", {"updateHubAssignment", "migrateDeviceData"}),
    ):
        value = settings[name]
        if (
            not isinstance(value, dict)
            or not set(value) <= flags
            or not all(isinstance(v, bool) for v in value.values())
        ):
            raise bad(f"{name} takes {', '.join(sorted(flags))}, each true or false")


def _device_id(document: dict[str, Any]) -> str | None:
    value = document.get("deviceId")
    if value in (None, ""):
        return None
    if not isinstance(value, str) or not DEVICE_ID.fullmatch(value):
        raise bad("deviceId is not 1 to 128 of the characters that a device ID may have")
    return value


def _enabled(document: dict[str, Any]) -> bool:
    value = document.get("provisioningStatus", "enabled")
    if value not in ("enabled", "disabled"):
        raise bad("provisioningStatus is neither enabled nor disabled")
    return bool(value == "enabled")


def _hubs(document: dict[str, Any], hubs: Mapping[str, str]) -> tuple[str, ...]:
    """The linked hubs that the enrollment asks for by address, as identities that outlive the addresses."""
    if "customAllocationDefinition" in document:
        raise not_emulated("customAllocationDefinition")
    one = document.get("iotHubHostName")
    asked = document.get("iotHubs") or ([one] if one else [])
    if not isinstance(asked, list) or not all(isinstance(name, str) for name in asked):
        raise bad("iotHubs is not a list of host names")
    if one and str(one).lower() not in [name.lower() for name in asked]:
        raise bad(f"iotHubHostName {one} is not among iotHubs")
    linked = {address.lower(): hub for hub, address in hubs.items()}
    unknown = [name for name in asked if name.lower() not in linked]
    if unknown:
        raise bad(f"hub {unknown[0]} is not linked to this DPS; linked: {', '.join(hubs.values()) or 'none'}")
    return tuple(dict.fromkeys(linked[name.lower()] for name in asked))


def _initial_twin(document: dict[str, Any]) -> dict[str, Any]:
    """`{"tags": {…}, "properties": {"desired": {…}}}`, every part optional, each section as a twin takes it."""
    initial = _sections(document.get("initialTwin", {}), {"tags", "properties"})
    if "properties" in initial:
        initial["properties"] = _sections(initial["properties"], {"desired"})
    desired = initial.get("properties", {}).get("desired", {})
    for name, section in (("tags", initial.get("tags", {})), ("properties.desired", desired)):
        why = twin.unfit(name, section)
        if why:
            raise bad(f"initialTwin: {why}")
    return initial


def _without_nulls(value: Any) -> Any:
    """An object without the members that say nothing; anything else as it is."""
    return {name: item for name, item in value.items() if item is not None} if isinstance(value, dict) else value


def _sections(value: Any, allowed: set[str]) -> dict[str, Any]:
    """An object that has only these members, each an object itself or null."""
    value = _without_nulls(value)
    if not isinstance(value, dict) or set(value) - allowed or not all(isinstance(v, dict) for v in value.values()):
        raise bad('initialTwin is not {"tags": {…}, "properties": {"desired": {…}}}')
    return value


def shown_certificate(der: bytes) -> dict[str, Any]:
    """X509CertificateInfo of the REST API."""
    facts = describe(der)
    return {
        "subjectName": facts.subject,
        "sha1Thumbprint": facts.thumbprint_sha1,
        "sha256Thumbprint": facts.thumbprint_sha256,
        "issuerName": facts.issuer,
        "notBeforeUtc": facts.not_before.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "notAfterUtc": facts.not_after.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "serialNumber": facts.serial_number,
        "version": facts.version,
    }
