"""A certificate as a card: whose it is, how long it still counts, its thumbprints, its fields. All of it is public."""

from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path

from dpsx_helpers import certificates
from dpsx_helpers.certificates import Description
from dpsx_helpers.display import BLUE, INK, LINE, MONOSPACE, RED, SURFACE, View, copyable, copyable_block, fold, table

# The portal's page of an enrollment shows SHA-1; DPS puts the SHA-256 of the same certificate into the hub:
# https://github.com/Azure/iotedge/issues/2951
_SHA1 = "the portal, on the page of the enrollment in your provisioning service"
_SHA256 = "the hub, on the page of the device, and the lists of this tutorial"


_BAR = (
    f"height:0.7em;margin:0.2em 0;border:1px solid {LINE};border-radius:0.35em;overflow:hidden;"
    "background:var(--jp-layout-color2,transparent)"
)


def certificate(source: Path | bytes) -> View:
    """The card; in plain text the whole certificate, laid out like the text view. Raises CertificateError."""
    seen = certificates.describe(source)
    parts = (
        _heading(seen),
        _validity(seen).html,
        _thumbprints(seen).html,
        fold("All fields", _fields(seen)).html,
        fold("As text", copyable_block("certificate as text", seen.as_text())).html,
    )
    style = (
        f"border:1px solid {LINE};border-radius:4px;padding:0.8em 1em;margin:0.3em 0;max-width:62em;"
        f"box-sizing:border-box;color:{INK};background:{SURFACE}"
    )
    html = f'<section aria-label="X.509 certificate" style="{style}">{"".join(parts)}</section>'
    return View(html, f"{seen.as_text()}\n{_validity(seen).text}")


def _heading(seen: Description) -> str:
    subject = f"<strong>{escape(f'===> {seen.subject} <===')}</strong>"
    maker = "itself (self-signed)" if seen.issuer == seen.subject else escape(seen.issuer)
    kind = "an authority (CA:TRUE), which a device must not be" if seen.is_ca else "a device or user, not an authority"
    return (
        f'<div style="font-size:1.25em;{MONOSPACE};overflow-wrap:anywhere">{subject}</div>'
        f'<div style="margin:0.2em 0 0.8em">Subject of this X.509 certificate. It is vouched for by {maker}, '
        f"with a key of the kind {escape(_key(seen))}, and is for {kind}.</div>"
    )


def _validity(seen: Description) -> View:
    """A bar from the first day to the last, in which the part that is still to come is filled."""
    now = datetime.now(UTC)
    whole = max((seen.not_after - seen.not_before) / timedelta(days=1), 1e-9)
    gone = min(max((now - seen.not_before) / timedelta(days=1) / whole, 0.0), 1.0)
    if now < seen.not_before:
        begins = _count((seen.not_before - now).days)
        words, colour, mark = f"not valid yet: it begins in {begins}", RED, "✘ "
    elif now > seen.not_after:
        words, colour, mark = f"expired {_count((now - seen.not_after).days)} ago", RED, "✘ "
    else:
        words, colour, mark = f"{_count(seen.days_left)} left of {round(whole)}", BLUE, ""
    label = f"Validity: {words}"
    bar = (
        f'<div role="img" aria-label="{label}" style="{_BAR}">'
        f'<div style="height:100%;margin-left:{gone:.1%};background:{colour}"></div></div>'
    )
    ends = (
        '<div style="display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 1em">'
        f"<span>valid from {_day(seen.not_before)}</span> <span>valid until {_day(seen.not_after)}</span></div>"
    )
    html = f'<div style="margin:0 0 0.8em"><strong>{mark}{words}</strong>{bar}{ends}</div>'
    return View(html, f"{mark}{label}")


def _count(days: int) -> str:
    if days == 0:
        return "less than a day"
    return "1 day" if days == 1 else f"{days} days"


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"


def _thumbprints(seen: Description) -> View:
    rows = [
        ("SHA-1", copyable("SHA-1 thumbprint", seen.thumbprint_sha1), _SHA1),
        ("SHA-256", copyable("SHA-256 thumbprint", seen.thumbprint_sha256), _SHA256),
    ]
    return table("Thumbprints: two digests of the same certificate", ("Kind", "Thumbprint", "Shown by"), rows)


def _fields(seen: Description) -> View:
    rows = [
        ("Version", str(seen.version)),
        ("Serial number", seen.serial_number),
        ("Signature algorithm", f"{seen.signature_algorithm} ({seen.signature_algorithm_oid})"),
        ("Issuer", seen.issuer),
        ("Valid from", f"{seen.not_before:%Y-%m-%d %H:%M:%S} UTC"),
        ("Valid until", f"{seen.not_after:%Y-%m-%d %H:%M:%S} UTC"),
        ("Subject", seen.subject),
        ("Public key", _key(seen)),
        *((e.name, e.text + (" (critical)" if e.critical else "")) for e in seen.extensions),
    ]
    return table("The fields of the certificate", ("Field", "Value"), rows)


def _key(seen: Description) -> str:
    bits = seen.key_bits
    return seen.key_type if bits is None or str(bits) in seen.key_type else f"{seen.key_type}, {bits} bits"
