"""What a cell shows of the tutorial's things: each function returns a View (HTML and plain text)."""

import importlib.metadata
import json
import os
import platform
import stat
import sys
from pathlib import Path
from typing import Any

from dpsx_helpers import certificates, registry, targets, tutorial
from dpsx_helpers import enrollments as enrolled
from dpsx_helpers import machine as this_machine
from dpsx_helpers.display import View, ask, block, note, table
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import NotReadable

STEPS = (
    ("00-start-here", "Start here"),
    ("01-prepare-the-environment", "Prepare the environment"),
    ("02-create-a-device-certificate", "Create a device certificate"),
    ("03-create-an-individual-enrollment", "Create an individual enrollment"),
    ("04-simulate-the-device", "Simulate the device"),
    ("05-clean-up-resources", "Clean up resources"),
)


def tutorial_map(step: int) -> View:
    """The six notebooks in order, with this one marked (`step` 0 to 5)."""
    items, lines = [], []
    for number, (name, title) in enumerate(STEPS):
        here = number == step
        label = f"{number:02} {title}"
        mark = ' aria-current="step"' if here else ""
        inner = f"<strong>▶ {label} (you are here)</strong>" if here else f'<a href="{name}.ipynb">{label}</a>'
        items.append(f"<li{mark}>{inner}</li>")
        lines.append(f"▶ {label} (you are here)" if here else f"  {label}")
    steps = f'<ol style="list-style:none;padding-left:0.5em">{"".join(items)}</ol>'
    html = f'<nav aria-label="Map of the tutorial">{steps}</nav>'
    return View(html, "\n".join(lines))


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
    return "the emulator on this machine" if target.is_emulator else "your Azure subscription"


def ports(target: Target) -> View:
    """The network ports that this target needs, and whether they answer."""
    needed = [(8883, "MQTT over TLS: the device talks to DPS and to its hub")]
    needed.append((443, "MQTT over WebSockets: the way out where a firewall blocks 8883"))
    rows = [(str(port), use, _answers(target.host, port)) for port, use in needed]
    if target.emulator is not None:
        address, _, port = target.emulator.overview.service_endpoint.rpartition(":")
        rows.append((port, "HTTPS: enrollments and devices, what the portal does", _answers(address, int(port))))
    return table(f"Ports of {target.host}", ("Port", "For", "Now"), rows)


def _answers(host: str, port: int) -> str:
    fault = targets.listens(host, port)
    return f"- {fault}" if fault else "✔ answers"


def certificate(source: Path | bytes) -> View:
    """A certificate field by field, with its subject picked out."""
    seen = certificates.describe(source)
    rows = [
        ("Version", str(seen.version)),
        ("Serial number", seen.serial_number),
        ("Signature algorithm", f"{seen.signature_algorithm} ({seen.signature_algorithm_oid})"),
        ("Issuer", seen.issuer),
        ("Valid from", f"{seen.not_before:%Y-%m-%d %H:%M:%S} UTC"),
        ("Valid until", f"{seen.not_after:%Y-%m-%d %H:%M:%S} UTC ({_days(seen.days_left)})"),
        ("Subject", f"===> {seen.subject} <==="),
        ("Public key", _key(seen)),
        *((e.name, e.text + (" (critical)" if e.critical else "")) for e in seen.extensions),
        ("SHA-1 thumbprint", seen.thumbprint_sha1),
        ("SHA-256 thumbprint", seen.thumbprint_sha256),
    ]
    return View(table("X.509 certificate", ("Field", "Value"), rows).html, seen.as_text())


def _key(seen: certificates.Description) -> str:
    return seen.key_type if str(seen.key_bits) in seen.key_type else f"{seen.key_type}, {seen.key_bits} bits"


def _days(left: int) -> str:
    return f"{left} days left" if left >= 0 else f"expired {-left} days ago"


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
        with file.open("rb") as stream:
            first = stream.readline(80).decode("ascii", "replace").strip()
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
            e.thumbprint_sha256 or "",
            e.created,
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
    rows = [(d.device_id, d.status, d.connection_state, d.primary_thumbprint or "") for d in found]
    return table("IoT devices", ("DEVICE ID", "STATUS", "CONNECTION", "SHA-256 THUMBPRINT"), rows)


def messages(target: Target, device_id: str, last: int = 20) -> View:
    """The newest messages that the hub has stored from this device."""
    try:
        stored = target.messages(device_id)
    except NotReadable as where:
        return ask(f"{where} Do your messages appear?")
    rows = [(m["enqueuedTimeUtc"], str(m["body"]), _properties(m)) for m in stored[-last:]]
    shown = f"the last {last} of {len(stored)}" if len(stored) > last else str(len(stored))
    return table(f"Messages from {device_id} ({shown})", ("Enqueued (UTC)", "Body", "Properties"), rows)


def _properties(message: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in message.get("properties", {}).items())


def desired(target: Target, device_id: str) -> View:
    """The desired properties of the device's twin, as the hub stores them."""
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


def environment() -> View:
    """The six variables that the device code reads (and the second name of the pass phrase) as they are set
    in this kernel.
    """
    rows = [
        (name, tutorial.masked(name, os.environ[name]) if name in os.environ else "not set", _before(name))
        for name in tutorial.VARIABLES
    ]
    return table("Environment variables of this kernel", ("Variable", "Value", "Before this notebook"), rows)


def _before(name: str) -> str:
    before = tutorial.exported_before.get(name)
    if before is None:
        return "not set"
    if before == tutorial.MASK or before == os.environ.get(name):
        return "was set already; this kernel uses the value shown" if before == tutorial.MASK else "the same"
    return f"{before} (overwritten in this kernel, your shell keeps it)"


def registration(result: Any) -> View:
    """Every field of the SDK's RegistrationResult, with what it means."""
    state = result.registration_state
    rows = [
        ("status", str(result.status), "what became of the request"),
        ("device_id", str(state.device_id), "the device's name in the hub"),
        ("assigned_hub", str(state.assigned_hub), "the hub to talk to from now on"),
        ("sub_status", str(state.sub_status), "how the hub was chosen"),
        ("created_date_time", str(state.created_date_time), "when DPS first registered this device"),
        ("last_update_date_time", str(state.last_update_date_time), "when this record last changed"),
        ("etag", str(state.etag), "the version of this record"),
        ("response_payload", str(state.response_payload), "data from a custom allocation; null without one"),
        ("operation_id", str(result.operation_id), "the request that the SDK asked about while waiting"),
    ]
    return table("The complete registration result", ("Field", "Value", "Meaning"), rows)


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
