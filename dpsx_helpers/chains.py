"""Whether a chain of certificates holds: looked at link by link, the way a service does, with every fault by its name.

A device sends its own certificate first, then that of its issuer, and so on, up to one that the other side
has already (https://www.rfc-editor.org/rfc/rfc5246#section-7.4.2). For DPS that is a CA certificate which was verified:
https://learn.microsoft.com/azure/iot-dps/concepts-x509-attestation#dps-device-chain-requirements
What makes a link hold is in https://www.rfc-editor.org/rfc/rfc5280#section-6.1. Revocation, policies and name
constraints are not looked at.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from cryptography import x509

from dpsx_helpers.chain_certificates import Certificate, Source, read

__all__ = ["NAMES", "Fault", "FaultName", "Link", "Role", "Source", "faults", "links"]

FaultName = Literal[
    "issuer name",
    "signature",
    "key identifier",
    "not a CA",
    "keyCertSign missing",
    "path length exceeded",
    "expired",
    "not yet valid",
    "link missing",
    "wrong order",
    "duplicate",
    "does not belong",
    "unknown end",
    "leaf is a CA",
    "private key",
]
NAMES: tuple[FaultName, ...] = get_args(FaultName)
Role = Literal["device", "intermediate", "root", "extra"]


@dataclass(frozen=True)
class Fault:
    """What is wrong with a link: a name to search for, and a sentence that says it of this one."""

    name: FaultName
    sentence: str


@dataclass(frozen=True)
class Link:
    """One certificate of a chain.

    `place` counts from 1 in the file; None: it is not in there, DPS has it. `known`: DPS has verified it.
    `path_length`: how many authorities may stand between it and a device, None for any number. The role "extra" is for
    what stands in the file and is no part of the chain.
    """

    role: Role
    place: int | None
    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime
    is_ca: bool
    path_length: int | None
    thumbprint_sha256: str
    known: bool
    faults: tuple[Fault, ...]


def links(
    source: Source, *, trusted: Iterable[Source] | Source | None = None, now: datetime | None = None
) -> tuple[Link, ...]:
    """The chain in a file (or text), from the device's certificate upwards, each link with its faults.

    `trusted` are the certificates that DPS has verified; without it nobody asks where the chain ends. What is
    in the file and not in the chain comes last. `now` is aware. Raises CertificateError for what holds no certificates.
    """
    sources = [trusted] if isinstance(trusted, str | bytes | Path) else trusted
    anchors = None if sources is None else [one for each in sources for one in read(each)[0]]
    found, with_key = read(source)
    known = {anchor.facts.der for anchor in anchors or ()}
    sent = [replace(one, place=place, known=one.facts.der in known) for place, one in enumerate(found, 1)]
    own = None if anchors is None else [replace(anchor, known=True) for anchor in anchors]
    climb = _climb(_leaf(sent), sent, own)
    seen = [*_judged(climb, now or datetime.now(UTC)), *_extras(climb.way, sent)]
    if with_key:
        seen[0] = replace(seen[0], faults=(*seen[0].faults, _WITH_KEY))
    return tuple(seen)


def faults(chain: Iterable[Link]) -> list[Fault]:
    """All faults of a chain, from the device's certificate upwards."""
    return [fault for link in chain for fault in link.faults]


_WITH_KEY = Fault(
    "private key", "The file holds a private key too, and it is shown to others: keep the key in a file of its own."
)

# --- which certificate stands above which -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Climb:
    """The way from the device's certificate upwards. `gaps`: above these places of the way a certificate is missing.

    `own` are the certificates that DPS knows; None: nobody has said which.
    """

    way: list[Certificate]
    gaps: set[int]
    own: Sequence[Certificate] | None

    @property
    def end(self) -> int | None:
        """Where the way meets a certificate that DPS knows: what is above, it does not look at."""
        return next((place for place, one in enumerate(self.way) if one.known), None)


def _leaf(sent: Sequence[Certificate]) -> Certificate:
    """The device's certificate: the first, or (in the wrong order) the one at the bottom of what the first issued."""
    current, met = sent[0], {sent[0].der}
    while True:
        below = [one for one in sent if one.der not in met and one.issuer == current.subject and not one.is_root]
        if not below:
            return current
        current = next((one for one in below if one.signed_by(current)), below[0])
        met.add(current.der)


def _climb(leaf: Certificate, sent: Sequence[Certificate], own: Sequence[Certificate] | None) -> _Climb:
    climb = _Climb([leaf], set(), own)
    left = _without(sent, leaf)
    while True:
        current, arrived = climb.way[-1], climb.end is not None
        above = _issuer_in_file(current, left) if arrived else _issuer(current, left, own or ())
        if above is None and not arrived and not current.is_root:
            above = _beyond(climb, left)
        if above is None:
            return climb
        climb.way.append(_behind(current, above, left))
        if above.place is None:
            return climb
        left = _without(left, above)


def _behind(current: Certificate, above: Certificate, left: Sequence[Certificate]) -> Certificate:
    """Of a certificate that is in the file twice, the one that stands where it should."""
    twins = (one for one in left if one.der == above.der and (one.place or 0) > (current.place or 0))
    return next(twins, above)


def _beyond(climb: _Climb, left: Sequence[Certificate]) -> Certificate | None:
    """Note that the issuer of the topmost certificate is missing. What is above the gap: an authority that is left in
    the file, else (above the device itself) the only certificate that DPS knows.
    """
    alone, own = len(climb.way) == 1, climb.own
    above = next((one for one in left if one.facts.is_ca), None)
    if above is not None or alone or own is not None:
        climb.gaps.add(len(climb.way) - 1)
    return above or (own[0] if alone and own is not None and len(own) == 1 else None)


def _without(certificates: Sequence[Certificate], one: Certificate) -> list[Certificate]:
    return [other for other in certificates if other.der != one.der]


def _issuer(current: Certificate, left: Sequence[Certificate], own: Sequence[Certificate]) -> Certificate | None:
    """The certificate above: a known one that has signed, one in the file that has, one that has the name only."""
    for anchor in own:
        if anchor.der != current.der and anchor.subject == current.issuer and current.signed_by(anchor):
            return next((one for one in left if one.der == anchor.der), anchor)
    if current.is_root:
        return None
    if found := _issuer_in_file(current, left):
        return found
    named = [one for one in (*left, *own) if one.subject == current.issuer]
    renamed = [one for one in left if one.facts.is_ca and current.signed_by(one)]
    return next(iter((*named, *renamed)), None)


def _issuer_in_file(current: Certificate, left: Sequence[Certificate]) -> Certificate | None:
    named = (one for one in left if one.subject == current.issuer)
    return None if current.is_root else next((one for one in named if current.signed_by(one)), None)


# --- faults -----------------------------------------------------------------------------------------------------------


def _judged(climb: _Climb, now: datetime) -> list[Link]:
    last = len(climb.way) - 1 if climb.end is None else climb.end
    seen = []
    for place, one in enumerate(climb.way):
        role: Role = "device" if place == 0 else "root" if one.is_root else "intermediate"
        seen.append(_link(one, role, _faults(climb, place, last, now) if place <= last else ()))
    return seen


def _faults(climb: _Climb, place: int, last: int, now: datetime) -> Iterable[Fault]:
    way, one = climb.way, climb.way[place]
    yield from _of_its_place(climb, place)
    yield from _of_the_certificate(one, now, device=place == 0)
    if place > 0:
        yield from _as_signer(one, way[1:place])
    if place < last and place not in climb.gaps:
        yield from _of_the_signature(one, way[place + 1])
    if place == last and not one.known:
        yield from _at_the_end(climb, place)


def _link(one: Certificate, role: Role, found: Iterable[Fault]) -> Link:
    facts = one.facts
    return Link(
        role=role,
        place=one.place,
        subject=one.subject,
        issuer=one.issuer,
        not_before=facts.not_before,
        not_after=facts.not_after,
        is_ca=facts.is_ca,
        path_length=one.path_length,
        thumbprint_sha256=facts.thumbprint_sha256,
        known=one.known,
        faults=tuple(found),
    )


def _of_its_place(climb: _Climb, place: int) -> Iterable[Fault]:
    way, one = climb.way, climb.way[place]
    if place in climb.gaps:
        known = " or verified in DPS" if climb.own is not None else ""
        yield Fault(
            "link missing",
            f"Its issuer is {one.issuer}, and no certificate of that name is in the file{known}: it is missing here.",
        )
    if place == 0 and one.place != 1:
        yield Fault(
            "wrong order", f"It is certificate {one.place} of the file: the device's certificate has to come first."
        )
    below = way[place - 1].place if place else None
    if below is not None and one.place is not None and one.place < below:
        yield Fault(
            "wrong order",
            f"It is certificate {one.place} of the file, and the one that it has signed is certificate {below}: an "
            "issuer stands behind what it has signed.",
        )


def _of_the_certificate(one: Certificate, now: datetime, *, device: bool) -> Iterable[Fault]:
    if device and one.facts.is_ca:
        yield Fault("leaf is a CA", "It is an authority (CA:TRUE), which a device must not be.")
    if now > one.facts.not_after:
        yield Fault("expired", f"It was valid until {one.facts.not_after:%Y-%m-%d %H:%M} UTC.")
    if now < one.facts.not_before:
        yield Fault("not yet valid", f"It is valid only from {one.facts.not_before:%Y-%m-%d %H:%M} UTC on.")


def _as_signer(one: Certificate, between: Sequence[Certificate]) -> Iterable[Fault]:
    """`between`: the authorities below it. Those that have issued themselves do not count."""
    if not one.facts.is_ca:
        said = "says CA:FALSE" if one.extension(x509.BasicConstraints) else "has no basic constraints"
        yield Fault("not a CA", f"It {said}, so it is no authority and must not sign a certificate.")
    usage = one.extension(x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        yield Fault("keyCertSign missing", "Its key usage does not allow its key to sign certificates (keyCertSign).")
    count = sum(not other.is_root for other in between)
    if one.path_length is not None and count > one.path_length:
        yield Fault(
            "path length exceeded",
            f"It allows {one.path_length} authorities between itself and a device (path length), and here are {count}.",
        )


def _of_the_signature(one: Certificate, signer: Certificate) -> Iterable[Fault]:
    if one.issuer != signer.subject:
        yield Fault("issuer name", f"It names {one.issuer} as its issuer; the next certificate is {signer.subject}.")
    signed, other_key = one.signed_by(signer), _other_key(one, signer)
    if not signed:
        yield Fault("signature", f"The key of {signer.subject} has not made its signature.")
    if other_key:
        yield Fault(
            "key identifier",
            "Its authority key identifier is not the subject key identifier of the next certificate: it means another "
            "key.",
        )
    if signer.place is None and not signed and other_key:
        yield Fault(
            "unknown end",
            f"Another {signer.subject} has signed it than the one that DPS knows: the names are the same, the "
            "keys are not.",
        )


def _other_key(one: Certificate, signer: Certificate) -> bool:
    """Whether the authority key identifier and the subject key identifier are both there, and differ."""
    meant, found = one.extension(x509.AuthorityKeyIdentifier), signer.extension(x509.SubjectKeyIdentifier)
    if meant is None:
        return False
    if meant.authority_cert_serial_number not in (None, signer.x509.serial_number):
        return True
    return None not in (meant.key_identifier, found) and found is not None and meant.key_identifier != found.digest


def _at_the_end(climb: _Climb, place: int) -> Iterable[Fault]:
    """Of the topmost certificate, which is none that DPS knows."""
    one = climb.way[place]
    if one.is_root and not one.signed_by(one):
        yield Fault("signature", "It names itself as its issuer, and its own key has not made its signature.")
    if climb.own is None:
        return
    if any(anchor.subject == one.subject for anchor in climb.own):
        yield Fault(
            "unknown end",
            f"DPS knows another {one.subject}, not this one: the names are the same, the certificates are not.",
        )
    elif one.is_root:
        yield Fault("unknown end", "The chain ends here, and DPS has not verified this certificate.")
    elif place:
        yield Fault("unknown end", "So the chain ends here, with no certificate that DPS knows.")


def _extras(way: Sequence[Certificate], sent: Sequence[Certificate]) -> Iterable[Link]:
    """What else is in the file: twice the same, or not connected. Another certificate of an issuer does no harm."""
    places = {one.der: one.place for one in way}
    for one in sent:
        if one.place == places.get(one.der):
            continue
        found: list[Fault] = []
        if places.get(one.der) is not None:
            found = [Fault("duplicate", f"It is the same certificate as number {places[one.der]} of the file.")]
        elif not any(below.issuer == one.subject and below.signed_by(one) for below in way):
            found = [Fault("does not belong", "It has signed no certificate of this chain: take it out of the file.")]
        places.setdefault(one.der, one.place)
        yield _link(one, "extra", found)
