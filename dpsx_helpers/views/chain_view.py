"""A chain of certificates as boxes, from the device's own to the root, with every fault written at its link."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape

from dpsx_helpers import chains
from dpsx_helpers.authorities import Authority
from dpsx_helpers.chains import Link, Role, Source
from dpsx_helpers.display import (
    GREEN,
    INK,
    LINE,
    MONOSPACE,
    RED,
    SURFACE,
    View,
    copyable_block,
    prose,
    stacked,
    table,
)
from dpsx_helpers.targets import Target

_ROLES: dict[Role, str] = {
    "device": "device",
    "intermediate": "intermediate authority",
    "root": "root authority",
    "extra": "not part of the chain",
}
_BOX = (
    f"padding:0.5em 0.9em;border:1px solid {LINE};border-left:5px {{edge}};border-radius:4px;background:{SURFACE};"
    "overflow-wrap:anywhere"
)
_GAP = f"padding:0.4em 0.9em;border:2px dashed {RED};border-radius:4px"
_LIST = "list-style:none;margin:0.3em 0;padding:0"


def chain(source: Source, trusted: Iterable[Source] | Source | None = None) -> View:
    """The chain in a file (or PEM text), verified link by link up to one of the certificates `trusted`, which are
    those that DPS has verified. Raises CertificateError.
    """
    return draw(chains.links(source, trusted=trusted))


def draw(links: Sequence[Link]) -> View:
    """The same for links that were looked at already."""
    steps = [_step(place, links) for place in range(len(links))]
    verdict = _verdict(links)
    items = "".join(f'<li style="margin:0">{step.html}</li>' for step in steps)
    html = (
        f'<section aria-label="Certificate chain of {escape(links[0].subject)}" style="color:{INK};max-width:62em">'
        f'<p style="margin:0.3em 0"><strong>{escape(verdict)}</strong></p>'
        f'<ol style="{_LIST}">{items}</ol></section>'
    )
    return View(html, "\n".join([verdict, *(step.text for step in steps)]))


def _verdict(links: Sequence[Link]) -> str:
    names = list(dict.fromkeys(fault.name for fault in chains.faults(links)))
    if names:
        count = len(chains.faults(links))
        return f"✘ The chain of {links[0].subject} has {count} fault{'s' if count > 1 else ''}: {', '.join(names)}."
    sent = sum(link.place is not None for link in links)
    held = f"✔ The chain of {links[0].subject} holds: {sent} certificate{'s' if sent > 1 else ''} in the file"
    end = next((link for link in links if link.known), None)
    return f"{held}." if end is None else f"{held}, and DPS knows {end.subject}."


def _step(place: int, links: Sequence[Link]) -> View:
    """One link, and what leads from it to the next."""
    link = links[place]
    edge = f"dashed {RED}" if link.faults else f"solid {GREEN}"
    title, facts = _title(link), _facts(link)
    faults = "".join(
        f'<li style="margin:0.2em 0">✘ <strong>{fault.name}</strong>: {escape(fault.sentence)}</li>'
        for fault in link.faults
    )
    listed = f'<ul style="{_LIST}">{faults}</ul>' if faults else ""
    body = (
        f'<div style="{_BOX.format(edge=edge)}"><strong>{escape(title)}</strong>'
        f"{''.join(f'<div>{escape(fact)}</div>' for fact in facts)}"
        f"{listed}</div>"
    )
    lines = [title, *(f"    {fact}" for fact in facts)]
    lines += [f"    ✘ {fault.name}: {fault.sentence}" for fault in link.faults]
    upwards = _upwards(place, links)
    return View(body + upwards.html, "\n".join([*lines, *([upwards.text] if upwards.text else [])]))


def _title(link: Link) -> str:
    where = f"certificate {link.place} of the file" if link.place else "not in the file: DPS has it"
    if link.place and link.known:
        where += ", and DPS has it too"
    return f"{'✘' if link.faults else '✔'} {link.subject} ({_ROLES[link.role]}, {where})"


def _facts(link: Link) -> tuple[str, ...]:
    left = (link.not_after - datetime.now(UTC)).days
    until = f"{link.not_after:%Y-%m-%d}" + (f" ({left} days left)" if left > 0 else "")
    below = "" if link.path_length is None else f", {_authorities(link.path_length)}"
    by = "itself" if link.issuer == link.subject else link.issuer
    signs = f"yes (CA:TRUE){below}" if link.is_ca else "no (CA:FALSE)"
    return (f"issued by {by} · valid {link.not_before:%Y-%m-%d} to {until}", f"may sign certificates: {signs}")


def _authorities(most: int) -> str:
    if most == 0:
        return "of devices only"
    return f"with at most {most} {'authority' if most == 1 else 'authorities'} between it and a device"


def _upwards(place: int, links: Sequence[Link]) -> View:
    """The step to the next link of the chain: an arrow, or a box for what is missing."""
    link, above = links[place], links[place + 1] if place + 1 < len(links) else None
    if any(fault.name == "link missing" for fault in link.faults):
        words = f"✘ missing: {link.issuer}"
        return View(f'<div style="margin:0.3em 0 0.3em 1.2em"><div style="{_GAP}">{escape(words)}</div></div>', words)
    if above is None or "extra" in (link.role, above.role):
        return View('<div style="height:0.4em"></div>', "")
    broken = any(fault.name in ("signature", "issuer name") for fault in link.faults)
    words = "✘ is not signed by" if broken else "↓ is signed by"
    style = f"margin:0.1em 0 0.1em 1.4em;{MONOSPACE}"
    return View(f'<div style="{style}">{words}</div>', f"  {words}")


def ca_certificates(target: Target, authority: Authority) -> View:
    """The CA certificates that DPS has, and whether they are verified. On Azure, where the data plane does not tell:
    what adds this one, for a terminal (https://learn.microsoft.com/cli/azure/iot/dps/certificate).
    """
    if target.emulator is None:
        return stacked(
            prose(
                f"On Azure, add {authority.name} in the portal, or run this line in a terminal with the names of your "
                "provisioning service and its resource group in it. It says that the certificate is yours "
                "(--verified true):"
            ),
            copyable_block(
                "az line",
                f"az iot dps certificate create --dps-name <your DPS> --resource-group <its group> "
                f'--certificate-name {authority.name} --path "{authority.certificate_file}" --verified true',
            ),
        )
    rows = []
    for known in target.emulator.ca_certificates():
        facts = known["properties"]
        status = "✔ verified" if facts["isVerified"] else "✘ not verified"
        rows.append((known["name"], status, facts["subject"], facts["expiry"]))
    return table("CA certificates of DPS", ("NAME", "STATUS", "SUBJECT", "EXPIRES"), rows)
