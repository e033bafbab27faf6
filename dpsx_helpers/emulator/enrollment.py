"""The enrollment document of the DPS data plane: read what a client sends, write what DPS shows. No I/O.

Names and shapes: https://learn.microsoft.com/rest/api/iot-dps/service/individual-enrollment/create-or-update
(api-version 2021-10-01).
"""

import re
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from dpsx_helpers.certificates import CertificateError, describe
from dpsx_helpers.emulator import documents, refusals
from dpsx_helpers.emulator.dps import REGISTRATION_ID, Enrollment, Registration, state
from dpsx_helpers.emulator.refusals import Refused
from dpsx_helpers.emulator.stamps import Stamp

# https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-identity-registry#device-identity-properties
_DEVICE_ID = re.compile(r"[A-Za-z0-9\-:.+%_#*?!(),=@;$']{1,128}")

_TWIN_LEVELS = 10

# Documented fields that are kept and shown again, and the value that the service fills in.
_SETTINGS: dict[str, Any] = {
    "optionalDeviceInformation": None,
    "capabilities": {"iotEdge": False},
    "reprovisionPolicy": {"updateHubAssignment": True, "migrateDeviceData": True},
    "allocationPolicy": "hashed",
}
_READ_ONLY = {"etag", "registrationState", "createdDateTimeUtc", "lastUpdatedDateTimeUtc"}
_KNOWN = {
    "registrationId", "deviceId", "attestation", "iotHubHostName", "iotHubs", "initialTwin", "provisioningStatus",
    "customAllocationDefinition", *_SETTINGS, *_READ_ONLY,
}  # fmt: skip


def parse(
    registration_id: str, document: Any, existing: Enrollment | None, hubs: Mapping[str, str], stamp: Stamp
) -> Enrollment:
    """The record for a PUT of `document` under `registration_id`. `hubs`: identity -> address of the linked hubs.

    A certificate of which only `info` comes back is kept from `existing`, so that read, change, write works.
    Raises Refused naming the field that is wrong, or the feature that is not emulated.
    """
    if not isinstance(document, dict):
        raise _bad("the body is not a JSON object")
    document = {name: value for name, value in document.items() if value is not None}
    _check_names(registration_id, document)
    attestation = _object(document, "attestation")
    primary, secondary = _certificates(attestation, existing)
    settings = {
        name: document.get(name, default)
        for name, default in _SETTINGS.items()
        if name in document or default is not None
    }
    _check_settings(settings)
    return Enrollment(
        registration_id=existing.registration_id if existing else registration_id,
        primary=primary,
        secondary=secondary,
        device_id=_device_id(document),
        enabled=_enabled(document),
        hub=_hub(document, hubs),
        initial_twin=_initial_twin(document),
        settings=settings,
        etag=f'"{stamp.version}"',
        created=existing.created if existing else stamp.text,
        updated=stamp.text,
    )


def render(enrollment: Enrollment, registration: Registration | None, hubs: Mapping[str, str]) -> dict[str, Any]:
    """The enrollment as DPS shows it: of each certificate the facts, not the certificate."""
    certificates = {"primary": {"info": _info(enrollment.primary)}}
    if enrollment.secondary:
        certificates["secondary"] = {"info": _info(enrollment.secondary)}
    document: dict[str, Any] = {
        "registrationId": enrollment.registration_id,
        "attestation": {"type": "x509", "x509": {"clientCertificates": certificates}},
        **enrollment.settings,
        "provisioningStatus": "enabled" if enrollment.enabled else "disabled",
        "etag": enrollment.etag,
        "createdDateTimeUtc": enrollment.created,
        "lastUpdatedDateTimeUtc": enrollment.updated,
    }
    if enrollment.device_id:
        document["deviceId"] = enrollment.device_id
    if enrollment.hub and enrollment.hub in hubs:
        document["iotHubHostName"] = hubs[enrollment.hub]
    if enrollment.initial_twin:
        document["initialTwin"] = enrollment.initial_twin
    if registration:
        document["registrationState"] = state(registration, hubs)
    return document


def check_etag(enrollment: Enrollment | None, if_match: str | None, registration_id: str, *, deleting: bool) -> None:
    """`If-Match` as DPS reads it: needed to replace what exists, optional to delete it, `*` matches anything."""
    if enrollment is None:
        if deleting or (if_match and if_match.strip() not in ("*", '"*"')):
            raise Refused(refusals.ENROLLMENT_NOT_FOUND, registration_id=registration_id)
        return
    if if_match is None:
        if not deleting:
            raise Refused(refusals.ENROLLMENT_EXISTS, registration_id=registration_id)
        return
    if if_match.strip().strip('"') not in ("*", enrollment.etag.strip('"')):
        raise Refused(refusals.ENROLLMENT_CHANGED, registration_id=registration_id)


def _bad(why: str) -> Refused:
    return Refused(refusals.DPS_BAD_REQUEST, why=why)


def _not_emulated(feature: str) -> Refused:
    return Refused(refusals.DPS_NOT_EMULATED, feature=feature)


def _object(document: dict[str, Any], name: str) -> dict[str, Any]:
    value = document.get(name)
    if not isinstance(value, dict):
        raise _bad(f"{name} is missing or is not an object")
    return {key: item for key, item in value.items() if item is not None}


def _check_names(registration_id: str, document: dict[str, Any]) -> None:
    unknown = sorted(set(document) - _KNOWN)
    if unknown:
        raise _bad(f"the enrollment has no field {unknown[0]}")
    if not REGISTRATION_ID.fullmatch(registration_id):
        raise _bad("the registration ID in the path is none")
    named = document.get("registrationId", registration_id)
    if not isinstance(named, str) or named.lower() != registration_id.lower():
        raise _bad("registrationId differs from the registration ID in the path")


def _certificates(attestation: dict[str, Any], existing: Enrollment | None) -> tuple[bytes, bytes | None]:
    kind = attestation.get("type")
    if kind in ("tpm", "symmetricKey"):
        raise _not_emulated(f"attestation of type {kind}")
    if kind != "x509":
        raise _bad("attestation.type is not x509")
    mechanism = _object(attestation, "x509")
    for name in ("signingCertificates", "caReferences"):
        if name in mechanism:
            raise _not_emulated(f"x509.{name} (certificates of an issuer)")
    slots = _object(mechanism, "clientCertificates")
    primary = _certificate(slots, "primary", existing.primary if existing else None)
    if primary is None:
        raise _bad("attestation.x509.clientCertificates.primary has no certificate")
    return primary, _certificate(slots, "secondary", existing.secondary if existing else None)


def _certificate(slots: dict[str, Any], slot: str, known: bytes | None) -> bytes | None:
    if slot not in slots:
        return None
    holder = _object(slots, slot)
    if "certificate" in holder:
        return _der(holder["certificate"], slot)
    thumbprint = _object(holder, "info").get("sha256Thumbprint") if "info" in holder else None
    if known is not None and thumbprint == describe(known).thumbprint_sha256:
        return known
    if thumbprint:
        raise _bad(f"{slot}.info names a certificate that this enrollment does not hold; send the certificate itself")
    return None


def _der(text: Any, slot: str) -> bytes:
    """PEM text, or base64 of PEM or of DER, as the clients of Microsoft send it."""
    if not isinstance(text, str):
        raise _bad(f"{slot}.certificate is not a string")
    try:
        raw = text.encode("ascii") if "-----BEGIN" in text else b64decode("".join(text.split()), validate=True)
        return describe(raw).der
    except (CertificateError, ValueError):
        raise _bad(f"{slot}.certificate is no X.509 certificate in PEM or base64") from None


def _check_settings(settings: dict[str, Any]) -> None:
    policy = settings["allocationPolicy"]
    if policy == "custom":
        raise _not_emulated("allocationPolicy custom")
    if policy not in ("hashed", "geoLatency", "static"):
        raise _bad("allocationPolicy is none of hashed, geoLatency, static, custom")
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
            raise _bad(f"{name} takes {', '.join(sorted(flags))}, each true or false")


def _device_id(document: dict[str, Any]) -> str | None:
    value = document.get("deviceId")
    if value in (None, ""):
        return None
    if not isinstance(value, str) or not _DEVICE_ID.fullmatch(value):
        raise _bad("deviceId is not 1 to 128 of the characters that a device ID may have")
    return value


def _enabled(document: dict[str, Any]) -> bool:
    value = document.get("provisioningStatus", "enabled")
    if value not in ("enabled", "disabled"):
        raise _bad("provisioningStatus is neither enabled nor disabled")
    return bool(value == "enabled")


def _hub(document: dict[str, Any], hubs: Mapping[str, str]) -> str | None:
    """The linked hub that the enrollment asks for by address, as an identity that outlives the address."""
    if "customAllocationDefinition" in document:
        raise _not_emulated("customAllocationDefinition")
    one = document.get("iotHubHostName")
    asked = [one] if one else document.get("iotHubs", [])
    if not isinstance(asked, list) or not all(isinstance(name, str) for name in asked):
        raise _bad("iotHubs is not a list of host names")
    if not asked:
        return None
    linked = {address.lower(): hub for hub, address in hubs.items()}
    unknown = [name for name in asked if name.lower() not in linked]
    if unknown:
        raise _bad(f"hub {unknown[0]} is not linked to this DPS; linked: {', '.join(hubs.values()) or 'none'}")
    return linked[asked[0].lower()]


def _initial_twin(document: dict[str, Any]) -> dict[str, Any]:
    """`{"tags": {…}, "properties": {"desired": {…}}}`, every part optional, each section at most 10 levels deep:
    https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-device-twins#tags-and-properties-format
    """
    twin: dict[str, Any] = document.get("initialTwin", {})
    sections = _sections(twin, {"tags", "properties"})
    desired = _sections(sections.get("properties", {}), {"desired"}).get("desired", {})
    if any(documents.deeper_than(section, _TWIN_LEVELS) for section in (sections.get("tags", {}), desired)):
        raise _bad(f"initialTwin is nested more than {_TWIN_LEVELS} levels deep")
    return twin


def _sections(value: Any, allowed: set[str]) -> dict[str, Any]:
    """An object that has only these members, each an object itself."""
    if not isinstance(value, dict) or set(value) - allowed or not all(isinstance(v, dict) for v in value.values()):
        raise _bad('initialTwin is not {"tags": {…}, "properties": {"desired": {…}}}')
    return value


def _info(der: bytes) -> dict[str, Any]:
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
