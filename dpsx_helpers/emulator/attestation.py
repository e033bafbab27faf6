"""Which enrollment lets a device in: the one of its registration ID, else the group of its closest issuer. No I/O.

https://learn.microsoft.com/azure/iot-dps/concepts-x509-attestation
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from dpsx_helpers.certificates import Description, describe
from dpsx_helpers.emulator import refusals
from dpsx_helpers.emulator.records import CaCertificate, Enrollment, Group
from dpsx_helpers.emulator.refusals import Refusal, Refused

# What `cryptography` raises for certificates that it can read and not use.
_UNFIT = (ValueError, TypeError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)


@dataclass(frozen=True, slots=True)
class Session:
    """A device that DPS let in. `registration_id` is spelled as the device spelled it.

    `certificate` is None when it showed a token instead; `sent` are the certificates (DER) that came behind its own.
    """

    registration_id: str
    certificate: Description | None
    sent: tuple[bytes, ...] = ()
    api_version: str = "2019-03-31"


@dataclass(frozen=True, slots=True)
class Known:
    """What DPS knows when a device asks: the enrollment of its registration ID, and where `groups` are to be found.

    `groups(certificate)` are those that this certificate (DER) lets in, `ca_certificates()` those of this DPS. Both
    are only asked for a device that has no enrollment of its own.
    """

    enrollment: Enrollment | None = None
    ca_certificates: Callable[[], Iterable[CaCertificate]] = tuple
    groups: Callable[[bytes], Sequence[Group]] = lambda _: ()


def prove(
    session: Session, known: Known, not_enrolled: Refusal, now: datetime
) -> tuple[Enrollment | Group, Description]:
    """The enrollment that decides about a device, and the certificate that the device has shown for it.

    Whether the enrollment is enabled is not looked at. Raises Refused.
    """
    certificate = session.certificate
    if certificate is None:
        raise Refused(refusals.TOKEN_REFUSED, registration_id=session.registration_id)
    enrollment: Enrollment | Group
    if known.enrollment is not None:
        enrollment = _individual(session, certificate, known.enrollment)
        chain: list[bytes] = []
    else:
        enrollment, chain = _group(session, certificate, known, not_enrolled, now)
    if certificate.is_ca:
        raise Refused(refusals.CA_CERTIFICATE, registration_id=session.registration_id)
    _check_dates(session, certificate, now)
    for issuer in chain:
        _check_issuer(session, issuer, now)
    return enrollment, certificate


def _individual(session: Session, certificate: Description, enrollment: Enrollment) -> Enrollment:
    """The certificate must be one of the enrollment's two; no issuer counts."""
    if certificate.der not in (enrollment.primary, enrollment.secondary):
        raise Refused(
            refusals.OTHER_CERTIFICATE,
            registration_id=session.registration_id,
            thumbprint=certificate.thumbprint_sha256,
        )
    return enrollment


def _group(
    session: Session, certificate: Description, known: Known, not_enrolled: Refusal, now: datetime
) -> tuple[Group, list[bytes]]:
    """The group of the closest issuer, with the chain of issuers from there to a verified certificate."""
    rid = session.registration_id
    verified = [ca.der for ca in known.ca_certificates() if ca.verified]
    chains = list(chains_to(certificate.der, session.sent, verified, now))
    if not chains and certificate.subject == certificate.issuer:
        raise Refused(not_enrolled, registration_id=rid)
    if not chains:
        raise Refused(refusals.CA_NOT_FOUND, registration_id=rid, issuer=certificate.issuer, sent=len(session.sent))
    for chain in chains:
        for issuer in chain:
            for group in known.groups(issuer):
                return group, chain
    raise Refused(not_enrolled, registration_id=rid)


def _check_dates(session: Session, certificate: Description, now: datetime) -> None:
    rid = session.registration_id
    if now > certificate.not_after:
        raise Refused(refusals.EXPIRED_CERTIFICATE, registration_id=rid, not_after=certificate.not_after)
    if now < certificate.not_before:
        raise Refused(refusals.FUTURE_CERTIFICATE, registration_id=rid, not_before=certificate.not_before)


def _check_issuer(session: Session, issuer: bytes, now: datetime) -> None:
    certificate = x509.load_der_x509_certificate(issuer)
    not_before, not_after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not not_before <= now <= not_after:
        raise Refused(
            refusals.ISSUER_NOT_VALID,
            registration_id=session.registration_id,
            subject=describe(issuer).subject,
            not_before=not_before,
            not_after=not_after,
        )


def chains_to(leaf: bytes, sent: Sequence[bytes], verified: Sequence[bytes], now: datetime) -> Iterator[list[bytes]]:
    """The ways from `leaf` up to each verified issuer, closest issuer first, the shortest way first. DER in and out.

    The device has to send all of them, but for the verified ones, which DPS has itself.
    """
    known = _readable((leaf, *sent, *verified))
    order = sorted(known, key=lambda der: (not _valid(known[der], now), der))  # whatever the device's order
    ways: list[list[bytes]] = [[]] if leaf in known else []
    met = {leaf}
    for way in ways:  # which grows meanwhile: breadth first
        below = known[way[-1] if way else leaf]
        for der in order:
            if der in met or not issued(below, known[der], below_it=len(way)):
                continue
            met.add(der)
            ways.append([*way, der])
            if der in verified:
                yield [*way, der]


def _valid(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc


def issued(certificate: x509.Certificate, issuer: x509.Certificate, below_it: int = 0) -> bool:
    """Whether `issuer` is a CA that may have issued `certificate`, and its key has signed it.

    `below_it`: how many CA certificates stand between the issuer and the device's own.
    https://www.rfc-editor.org/rfc/rfc5280#section-6.1
    """
    try:
        basic = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
        certificate.verify_directly_issued_by(issuer)
    except (*_UNFIT, InvalidSignature, UnsupportedAlgorithm):
        return False
    return basic.ca and (basic.path_length is None or basic.path_length >= below_it) and _may_sign(issuer)


def _may_sign(issuer: x509.Certificate) -> bool:
    """A key usage that is not there forbids nothing."""
    try:
        return issuer.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        return True


def _readable(certificates: Iterable[bytes]) -> dict[bytes, x509.Certificate]:
    """Those that can be read as X.509, each once: a device may send anything behind its own certificate."""
    found = {}
    for der in certificates:
        try:
            found[der] = x509.load_der_x509_certificate(der)
        except (ValueError, x509.InvalidVersion):
            continue
    return found


def verification_code(guid: str) -> str:
    """The common name that a proof of possession must have: 48 upper-case hex digits, as the portal shows it."""
    return sha256(guid.encode()).hexdigest().upper()[:48]
