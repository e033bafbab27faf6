"""What a cell shows of the tutorial's things: each function returns a View (HTML and plain text)."""

import importlib.metadata
import json
import platform
import stat
import sys
from pathlib import Path
from urllib.parse import urlsplit

from dpsx_helpers import binder, certificates, given_files, proxies, registry, takeaway, targets, tutorial
from dpsx_helpers import enrollments as enrolled
from dpsx_helpers import machine as this_machine
from dpsx_helpers.conversation import Conversation
from dpsx_helpers.display import BLUE, INK, LINE, View, ask, block, digits, moment, note, table
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import NotReadable
from dpsx_helpers.views.azure_view import azure_setup
from dpsx_helpers.views.certificate_view import certificate
from dpsx_helpers.views.chain_view import ca_certificates, chain
from dpsx_helpers.views.environment_view import environment
from dpsx_helpers.views.registration_view import registration
from dpsx_helpers.views.telemetry_view import arriving, messages
from dpsx_helpers.views.twin_view import twin

__all__ = [
    "arriving",
    "azure_setup",
    "ca_certificates",
    "certificate",
    "chain",
    "conversation",
    "desired",
    "devices",
    "enrollments",
    "environment",
    "files",
    "log",
    "machine",
    "messages",
    "overview",
    "ports",
    "registration",
    "take_along",
    "tutorial_map",
    "twin",
    "versions",
]

_MAP = (
    "display:grid;grid-template-columns:repeat(auto-fit,minmax(min(8.5em,100%),1fr));gap:0.4em 0.6em;list-style:none;"
    f"margin:0.3em 0;padding:0;color:{INK}"
)
_STEP = "margin:0;padding:0.35em 0.2em"


def tutorial_map(step: int) -> View:
    """The notebooks in order, with this one marked (`step` 0 to 10); on Binder also what is different there."""
    items, lines = [], []
    for number, (name, title) in enumerate(tutorial.STEPS):
        here = number == step
        label = f"{number:02} {title}"
        inner = f"<strong>▶ {label}</strong> (you are here)" if here else f'<a href="{name}.ipynb">{label}</a>'
        mark, edge = (' aria-current="step"', BLUE) if here else ("", LINE)
        items.append(f'<li{mark} style="{_STEP};border-top:3px solid {edge}">{inner}</li>')
        lines.append(f"▶ {label} (you are here)" if here else f"  {label}")
    steps = f'<ol style="{_MAP}">{"".join(items)}</ol>'
    html = f'<nav aria-label="Map of the tutorial">{steps}</nav>'
    shown = View(html, "\n".join(lines))
    return shown if (different := binder.note_for(step)) is None else shown + different


def machine() -> View:
    """What the check of this machine found, with the remedy for each fault."""
    rows = [(f.name, _verdict(f), f.found, f.remedy) for f in this_machine.findings()]
    return table("This machine", ("What", "Result", "Found", "What to do"), rows)


def _verdict(finding: this_machine.Finding) -> str:
    if finding.ok:
        return "✔ ok"
    return "✘ to mend" if finding.required else "- not found (optional)"


def versions() -> View:
    """What runs where: Python, the SDK and the tools, with their versions and places."""
    rows = [("Python", platform.python_version(), sys.executable)]
    for distribution, _ in this_machine.PACKAGES[:5]:
        rows.append((distribution, *_installed(distribution)))
    for name in ("git", "openssl"):
        found = this_machine.tool(name)
        rows.append((name, found.found, "the quickstart uses it; this tutorial does not need it"))
    return table("What is installed", ("What", "Version", "Where"), rows)


def _installed(distribution: str) -> tuple[str, str]:
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed", this_machine.INSTALL
    return found.version, str(found.locate_file(""))


def overview(target: Target) -> View:
    """What the portal's Overview page of a provisioning service shows."""
    return table(f"Overview: {_named(target)}", ("Property", "Value"), target.overview())


def _named(target: Target) -> str:
    if target.join is not None:
        return "the emulator of your class"
    return "the emulator on this machine" if target.is_emulator else "your Azure subscription"


def ports(target: Target) -> View:
    """The network ports that this target needs, and whether they answer."""
    needed = [(8883, "MQTT over TLS: the device talks to DPS and to its hub")]
    needed.append((443, "MQTT over WebSockets: the way out where a firewall blocks 8883"))
    rows = [(str(port), use, _answers(target.host, port)) for port, use in needed]
    if target.is_emulator and target.service_endpoint is not None:
        service = urlsplit(f"https://{target.service_endpoint}")
        address, port = service.hostname or "", service.port or 443
        rows.append((str(port), "HTTPS: enrollments and devices, what the portal does", _answers(address, port)))
    return table(f"Ports of {target.host}", ("Port", "For", "Now"), rows)


def _answers(host: str, port: int) -> str:
    fault = targets.listens(host, port, proxy=proxies.chosen())
    return f"- {fault}" if fault else "✔ answers"


def files(pair: certificates.Pair | Path | None = None) -> View:
    """Certificate and key file: whether they are there, their first line, permissions, and which of them is
    secret.
    """
    if isinstance(pair, certificates.Pair):
        certificate_file, key_file = pair.certificate_file, pair.key_file
    elif pair is not None:
        certificate_file, key_file = pair / certificates.CERTIFICATE_FILE, pair / certificates.KEY_FILE
    else:
        certificate_file, key_file = tutorial.certificate_file(), tutorial.key_file()
    rows = [
        _file_row(certificate_file, "no: this is what you show to others"),
        _file_row(key_file, "yes: it never leaves this machine"),
    ]
    return table("The two files", ("File", "First line", "Permissions", "Secret?"), rows)


def _file_row(file: Path, secret: str) -> tuple[str, str, str, str]:
    try:
        first = given_files.read(file).partition(b"\n")[0][:80].decode("ascii", "replace").strip()
        return (
            file.name,
            first if first.startswith("-----") else "(not PEM)",
            stat.filemode(file.stat().st_mode),
            secret,
        )
    except FileNotFoundError:
        return (file.name, "(not there)", "", secret)
    except OSError as error:
        return (file.name, f"(cannot be read: {error.strerror})", "", secret)


def enrollments(target: Target) -> View:
    """The Individual Enrollments list."""
    try:
        entries = enrolled.list_all(target)
    except NotReadable as where:
        return ask(f"{where} Is {_registration_id()} in the list?")
    headers = ("REGISTRATION ID", "STATUS", "IOT HUB", "SHA-256 THUMBPRINT", "CREATED (UTC)")
    rows = [
        (
            e.registration_id,
            e.provisioning_status,
            e.iot_hub or "any linked hub",
            _thumbprint(e.thumbprint_sha256),
            moment(e.created),
        )
        for e in entries
    ]
    return table("Individual Enrollments", headers, rows)


def devices(target: Target) -> View:
    """The hub's IoT devices list."""
    try:
        found = registry.list_all(target)
    except NotReadable as where:
        return ask(f"{where} Is {_registration_id()} in the list, with STATUS enabled?")
    rows = [(d.device_id, d.status, d.connection_state, _thumbprint(d.primary_thumbprint)) for d in found]
    return table("IoT devices", ("DEVICE ID", "STATUS", "CONNECTION", "SHA-256 THUMBPRINT"), rows)


def _thumbprint(thumbprint: str | None) -> str | View:
    """All 64 digits, in two lines of 32 where there is room: a list must not become wider than the page."""
    return digits(thumbprint, across=32) if thumbprint else "none"


def conversation(talk: Conversation) -> View:
    """What was said between device, DPS and hub: `with conversation.recording() as talk:` around the SDK calls."""
    return talk.view()


def take_along() -> View:
    """Pack the work folder without its keys, and offer it for download."""
    return takeaway.shown(takeaway.pack())


def desired(target: Target, device_id: str | None = None) -> View:
    """The desired properties of the device's twin (the tutorial's device when None), as the hub stores them."""
    device_id = device_id or tutorial.device_id()
    caption = f"Desired properties of {device_id}"
    try:
        device = registry.get(target, device_id)
    except NotReadable:
        return ask(
            f"Open {device_id} in your IoT hub in the portal, then Device twin: are your desired properties there?"
        )
    if device is None:
        return note(f"{caption}: the hub has no device of this name.")
    return block(caption, json.dumps(device.desired, indent=2))


def log(target: Target, last: int = 20, service: bool = False) -> View:
    """The emulator's own account of what was said to devices: `<` came in, `>` went out; `service` also shows
    the portal's side.
    """
    try:
        lines = target.log()
    except NotReadable as where:
        return note(str(where))
    shown = [line for line in lines if service or " service " not in line][-last:]
    return block(f"The emulator's log, last {len(shown)} lines", "\n".join(shown) or "(empty)")


def _registration_id() -> str:
    try:
        return tutorial.registration_id()
    except tutorial.Stop:
        return "your device"
