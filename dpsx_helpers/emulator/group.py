"""The documents of enrollment groups and of the CA certificates that they may name. No I/O.

Groups: https://learn.microsoft.com/rest/api/iot-dps/service/enrollment-group/create-or-update (api-version 2021-10-01)
CA certificates: https://learn.microsoft.com/rest/api/iot-dps/dps-certificate, which Azure has in its Resource Manager
and the emulator beside the rest of its data plane.
"""

from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

from cryptography import x509

from dpsx_helpers.certificates import describe
from dpsx_helpers.emulator import attestation, enrollment
from dpsx_helpers.emulator.dps import REGISTRATION_ID
from dpsx_helpers.emulator.enrollment import bad
from dpsx_helpers.emulator.records import CaCertificate, Group
from dpsx_helpers.emulator.stamps import Stamp


def parse(
    group_id: str,
    document: Any,
    existing: Group | None,
    hubs: Mapping[str, str],
    ca_certificate: Callable[[str], CaCertificate | None],
    stamp: Stamp,
) -> Group:
    """The record for a PUT of `document` under `group_id`. Its certificates are its own, or named CA certificates.

    A certificate of which only `info` comes back is kept from `existing`. Raises Refused naming what is wrong.
    """
    fields = enrollment.read_fields(document, {"enrollmentGroupId"})
    enrollment.check_id(fields, "enrollmentGroupId", group_id)
    mechanism = enrollment.read_mechanism(fields)
    if "clientCertificates" in mechanism:
        raise bad("x509.clientCertificates belong to an individual enrollment, not to an enrollment group")
    if ("signingCertificates" in mechanism) == ("caReferences" in mechanism):
        raise bad("attestation.x509 needs signingCertificates or caReferences, one of the two")
    own, names = _certificates(mechanism, existing), _references(mechanism, ca_certificate)
    return Group(
        group_id=existing.group_id if existing else group_id,
        primary=own[0],
        secondary=own[1],
        primary_ca=names[0],
        secondary_ca=names[1],
        **enrollment.read_terms(fields, hubs),
        etag=f'"{stamp.version}"',
        created=existing.created if existing else stamp.text,
        updated=stamp.text,
    )


def check_single(group: Group, groups_of: Callable[[bytes], Iterable[Group]]) -> None:
    """A certificate may be in one enrollment only:
    https://learn.microsoft.com/azure/iot-dps/concepts-x509-attestation
    """
    for der in filter(None, (group.primary, group.secondary)):
        for other in groups_of(der):
            if other.group_id.lower() != group.group_id.lower():
                raise bad(f"the enrollment group {other.group_id} has the certificate {describe(der).subject} already")


def render(group: Group, hubs: Mapping[str, str]) -> dict[str, Any]:
    """The group as DPS shows it."""
    return {
        "enrollmentGroupId": group.group_id,
        "attestation": mechanism(group),
        **enrollment.shown_terms(group, hubs),
    }


def mechanism(group: Group) -> dict[str, Any]:
    """`attestation`, also the answer to a request for the attestation mechanism alone."""
    if group.primary_ca or group.secondary_ca:
        return {
            "type": "x509",
            "x509": {"caReferences": {"primary": group.primary_ca, "secondary": group.secondary_ca}},
        }
    return {"type": "x509", "x509": {"signingCertificates": enrollment.shown_slots(group.primary, group.secondary)}}


def _certificates(mechanism: dict[str, Any], existing: Group | None) -> tuple[bytes | None, bytes | None]:
    if "signingCertificates" not in mechanism:
        return None, None
    known = (existing.primary, existing.secondary) if existing else (None, None)
    own = enrollment.read_slots(mechanism, "signingCertificates", known)
    if own == (None, None):
        raise bad("attestation.x509.signingCertificates has no certificate")
    return own


def _references(
    mechanism: dict[str, Any], ca_certificate: Callable[[str], CaCertificate | None]
) -> tuple[str | None, str | None]:
    if "caReferences" not in mechanism:
        return None, None
    references = enrollment.read_object(mechanism, "caReferences")
    primary, secondary = (_reference(references.get(slot), ca_certificate) for slot in ("primary", "secondary"))
    if primary is None and secondary is None:
        raise bad("attestation.x509.caReferences names no CA certificate")
    return primary, secondary


def _reference(name: Any, ca_certificate: Callable[[str], CaCertificate | None]) -> str | None:
    if name in (None, ""):
        return None
    known = ca_certificate(name) if isinstance(name, str) else None
    if known is None:
        raise bad(f"this DPS has no CA certificate {name!r}: add it before the group")
    return known.name


def doubts(group: Group, ca_certificate: Callable[[str], CaCertificate | None]) -> Iterator[str]:
    """Why this group will let nobody in, for the log: DPS takes it, and refuses the devices when they come."""
    for der in filter(None, (group.primary, group.secondary)):
        if not describe(der).is_ca:
            yield f"{describe(der).subject} is no CA certificate and cannot sign those of devices"
    for name in filter(None, (group.primary_ca, group.secondary_ca)):
        known = ca_certificate(name)
        if known is None or not known.verified:
            yield f"the CA certificate {name!r} is not verified: prove that you hold its key"


# --- CA certificates --------------------------------------------------------------------------------------------------


def parse_ca(name: str, document: Any, existing: CaCertificate | None, stamp: Stamp) -> CaCertificate:
    """The record for a PUT of `{"properties": {"certificate": …, "isVerified": …}}` under `name`.

    `isVerified: true` is what the portal's *set certificate status to verified on upload* sends.
    """
    if not REGISTRATION_ID.fullmatch(name) or len(name) > 64:
        raise bad("the name in the path is no name of a certificate: letters, digits and - . _ :, at most 64")
    properties = _properties(document)
    der = enrollment.read_certificate(properties.get("certificate"), "properties")
    if not describe(der).is_ca:
        raise bad(f"{describe(der).subject} is no CA certificate (basic constraints CA:TRUE)")
    verified = properties.get("isVerified", False)
    if not isinstance(verified, bool):
        raise bad("properties.isVerified is neither true nor false")
    return CaCertificate(
        name=existing.name if existing else name,
        der=der,
        verified=verified,
        code="",
        etag=stamp.etag,
        created=existing.created if existing else stamp.text,
        updated=stamp.text,
    )


def with_code(certificate: CaCertificate, stamp: Stamp) -> CaCertificate:
    """The certificate with a fresh verification code; it is not verified until that is used."""
    code = attestation.verification_code(stamp.guid)
    return replace(certificate, code=code, verified=False, etag=stamp.etag, updated=stamp.text)


def prove(certificate: CaCertificate, document: Any, stamp: Stamp) -> CaCertificate:
    """The certificate verified by `{"certificate": …}`: one whose CN is the code, signed with the key in question.

    https://learn.microsoft.com/azure/iot-dps/how-to-verify-certificates
    """
    if not certificate.code:
        raise bad(f"the CA certificate {certificate.name} has no verification code now: generate one first")
    if not isinstance(document, dict):
        raise bad("the body is not a JSON object")
    der = enrollment.read_certificate(document.get("certificate"), "verification")
    common_name = describe(der).common_name or ""
    if common_name != certificate.code:
        raise bad(f"the verification certificate says CN={common_name}, the verification code is {certificate.code}")
    proof, issuer = x509.load_der_x509_certificate(der), x509.load_der_x509_certificate(certificate.der)
    if not attestation.issued(proof, issuer):
        raise bad(f"the verification certificate is not signed by {describe(certificate.der).subject}")
    return replace(certificate, verified=True, code="", etag=stamp.etag, updated=stamp.text)


def render_ca(certificate: CaCertificate) -> dict[str, Any]:
    """The CA certificate as Azure's Resource Manager shows it; `thumbprint` is SHA-1, as in the portal."""
    facts = describe(certificate.der)
    properties: dict[str, Any] = {
        "subject": facts.common_name or facts.subject,
        "expiry": format_datetime(facts.not_after.astimezone(UTC), usegmt=True),
        "thumbprint": facts.thumbprint_sha1,
        "isVerified": certificate.verified,
        "certificate": b64encode(certificate.der).decode(),
        "created": _http_date(certificate.created),
        "updated": _http_date(certificate.updated),
    }
    if certificate.code:
        properties["verificationCode"] = certificate.code
    return {"name": certificate.name, "etag": certificate.etag, "properties": properties}


def _http_date(text: str) -> str:
    """A time in the form that Azure's Resource Manager has for certificates: `Thu, 12 Oct 2017 19:26:56 GMT`."""
    return format_datetime(datetime.fromisoformat(text[:19]).replace(tzinfo=UTC), usegmt=True)


def _properties(document: Any) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise bad("the body is not a JSON object")
    return enrollment.read_object(document, "properties")
