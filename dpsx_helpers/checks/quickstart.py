"""The checks of notebooks 00 to 05: each shows what it saw, or stops with one sentence."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dpsx_helpers import certificates, enrollments, machine, proxies, registry, targets, tutorial
from dpsx_helpers.checks.exercises import running
from dpsx_helpers.display import View, ask, passed
from dpsx_helpers.errors import shown
from dpsx_helpers.progress import recorded
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop

_MQTT_PORT, _WEBSOCKET_PORT = 8883, 443
#: Messages stored before this moment belong to an earlier run.
_since = datetime.now(UTC)


@recorded("00")
def start_here() -> View:
    """A target is chosen, the machine is fit, and the emulator (when it is the target) runs."""
    tutorial.target()  # a wrong DPSX_TARGET or a damaged tutorial.json says so itself
    faults = [finding for finding in machine.findings() if finding.required and not finding.ok]
    if faults:
        raise Stop(
            f"This machine is not ready: {faults[0].name} ({faults[0].found}); {faults[0].remedy}, and run "
            "this check again."
        )
    target = running()
    if target.is_emulator:
        whose = "the emulator of your class" if target.join else "the emulator"
        return passed(
            "this machine is fit",
            f"the target is {whose}, and it runs at {target.host} with ID scope {target.id_scope}",
        )
    return passed("this machine is fit", "the target is your Azure subscription") + ask(
        "Do you have a Device Provisioning Service and an IoT hub in the portal, and is the hub in the list "
        "Linked IoT hubs?"
    )


@recorded("01")
def environment() -> View:
    """The SDK imports and the port that the device needs answers."""
    missing = [finding for finding in machine.findings() if finding.name.startswith("azure-") and not finding.ok]
    if missing:
        raise Stop(
            f"{missing[0].name} {missing[0].found}: {missing[0].remedy}, restart the kernel and run this check again."
        )
    target = running()
    port = _reachable(target)
    return passed("the device SDK can be imported", f"{target.host} answers on port {port}")


@recorded("02")
def certificate() -> View:
    """The pair is on disk, the key opens and belongs to the certificate, which is a device's and names the
    registration ID.
    """
    file, key = tutorial.certificate_file(), tutorial.key_file()
    for path in (file, key):
        if not os.path.exists(path):
            raise Stop(
                f"{shown(path.name)} is not in {shown(path.parent)}: run the cell of notebook 02 that creates the "
                "certificate, then this check."
            )
    seen = certificates.check_pair(file, key, tutorial.pass_phrase())
    _device_certificate(seen)
    name = _same_name(seen, tutorial.registration_id(), "your registration ID")
    return passed(
        f"{file.name} and {key.name} are there",
        "the key opens with your pass phrase and belongs to the certificate",
        f"certificate and registration ID agree: {name}",
        f"it is a device's certificate (CA:FALSE), valid for {seen.days_left} more days",
    )


def _device_certificate(seen: certificates.Description) -> None:
    if seen.is_ca:
        raise Stop(
            "The certificate is marked as a CA (CA:TRUE), which DPS refuses for a device: create one in "
            "notebook 02 with CA:FALSE."
        )
    if seen.not_after < datetime.now(UTC):
        raise Stop(
            f"The certificate expired on {seen.not_after:%Y-%m-%d}: create a new pair in notebook 02 and "
            "enroll it again in 03."
        )
    if seen.not_before > datetime.now(UTC):
        raise Stop(
            f"The certificate is valid only from {seen.not_before:%Y-%m-%d %H:%M} UTC on: set this machine's "
            "clock, then run this check."
        )


def _same_name(seen: certificates.Description, registration_id: str, what: str) -> str:
    # Compared without regard to case:
    # https://learn.microsoft.com/azure/iot-dps/concepts-service#registration-id
    if seen.common_name is None or seen.common_name.casefold() != registration_id.casefold():
        raise Stop(
            f"The certificate says CN={seen.common_name} but {what} is {registration_id}, and DPS refuses "
            "such a device: create a "
            "certificate for that name in notebook 02, or enter the certificate's name as the registration "
            "ID."
        )
    return registration_id


@recorded("03")
def enrollment() -> View:
    """The device is enrolled with the very certificate that is on disk."""
    target, name = running(), tutorial.registration_id()
    seen = certificates.describe(tutorial.certificate_file())
    _same_name(seen, name, "your registration ID")
    if not target.service:
        return ask(
            f"In the portal, under Manage enrollments, Individual Enrollments: is there a row {name}?",
            f"In its details: is the SHA-1 thumbprint of the primary certificate {seen.thumbprint_sha1}?",
        )
    entry = enrollments.get(target, name)
    if entry is None:
        raise Stop(
            f"There is no enrollment for {name} yet: press Save in notebook 03 (run its cell with "
            "enrollments.save), then this check."
        )
    if entry.thumbprint_sha256 != seen.thumbprint_sha256:
        raise Stop(
            f"{name} is enrolled with another certificate than the one on disk: run the cell of notebook 03 "
            "that saves it again."
        )
    if entry.provisioning_status != "enabled":
        raise Stop(
            f"The enrollment of {name} is {entry.provisioning_status}: choose Enable in the form of notebook 03, save, "
            "then run this check."
        )
    return passed(
        f"{name} is enrolled and enabled",
        f"its thumbprint is that of the file on disk: {seen.thumbprint_sha256}",
    )


def before_connecting() -> View:
    """All that the device code is about to use: the variables, the pair, the names, and something that
    listens.
    """
    global _since
    _since = datetime.now(UTC)
    values = {name: os.environ.get(name, "") for name in tutorial.VARIABLES}
    for name, value in values.items():
        if not value and not name.endswith("PASS_PHRASE"):
            raise Stop(
                f"{name} is not set in this kernel: run the cell of notebook 04 that sets the variables, "
                "then this check."
            )
    host = values["PROVISIONING_HOST"]
    target = running()
    if target.is_emulator and host != target.host:
        raise Stop(
            f'PROVISIONING_HOST is "{host}", but the emulator is at {target.host}: run the cell of notebook 04 that '
            "sets the variables, then this check."
        )
    targets.check_host(host, "in PROVISIONING_HOST")
    scope = targets.check_id_scope(values["PROVISIONING_IDSCOPE"], "in PROVISIONING_IDSCOPE")
    _pass_phrases_agree(values)
    seen = certificates.check_pair(Path(values["X509_CERT_FILE"]), Path(values["X509_KEY_FILE"]), values["PASS_PHRASE"])
    _device_certificate(seen)
    name = _same_name(seen, values["DPS_X509_REGISTRATION_ID"], "DPS_X509_REGISTRATION_ID")
    port = _reachable(target)
    if target.join is not None:
        _since = _after_the_last(target)
    lines = [
        "all six variables are set",
        f"certificate and registration ID agree: {name}",
        "the key opens and belongs to the certificate",
    ]
    lines += [f"{host} answers on port {port}", f"the ID scope {scope} is well formed"]
    hints = [f"Hint: {hint}." for hint in (targets.id_scope_hint(scope), targets.host_hint(host)) if hint]
    return passed(*lines) + ask(*hints) if hints else passed(*lines)


def _pass_phrases_agree(values: dict[str, str]) -> None:
    if values["PASS_PHRASE"] != values["X509_PASS_PHRASE"]:
        raise Stop(
            "PASS_PHRASE and X509_PASS_PHRASE differ, and programs read one or the other: run the cell of "
            "notebook 04 that sets both, "
            "then this check."
        )


@recorded("04")
def simulate(acknowledged: int, expected: int = 10) -> View:
    """The device is in the hub with this certificate, and its messages were acknowledged (and stored, where
    that can be read).
    """
    if acknowledged < expected:
        raise Stop(
            f"{acknowledged} of {expected} messages were acknowledged: run the cell of notebook 04 that "
            "sends them, then this check."
        )
    target, device_id = running(), tutorial.device_id()
    lines, questions = _in_the_hub(target, device_id)
    lines.append(f"{acknowledged} messages were acknowledged by the hub")
    if target.is_emulator:
        stored = sum(_enqueued(message["enqueuedTimeUtc"]) >= _since for message in target.messages(device_id))
        if stored < acknowledged:
            raise Stop(
                f"The hub has stored {stored} messages of {device_id} since the last check before connecting, "
                f"fewer than the {acknowledged} "
                "acknowledged: run that check and the cells that connect and send once more, then this check."
            )
        lines.append(f"{stored} are stored there")
    return _seen(lines, questions)


@recorded("04")
def provisioned(expected: int = 10) -> View:
    """What of notebook 04 can be seen at any later time: the device is in the hub, and its messages are."""
    target, device_id = running(), tutorial.device_id()
    lines, questions = _in_the_hub(target, device_id)
    if target.is_emulator:
        stored = len(target.messages(device_id))
        if stored < expected:
            raise Stop(
                f"The hub has stored {stored} messages of {device_id}, and {expected} are expected: run the cells of "
                "notebook 04, then this check."
            )
        lines.append(f"{stored} messages of it are stored there")
    return _seen(lines, questions)


def _in_the_hub(target: Target, device_id: str) -> tuple[list[str], list[str]]:
    """What was seen of the device in its hub, and what the learner has to look at."""
    seen, questions = [], []
    if target.service:
        _enabled_with_our_certificate(target, device_id)
        seen = [f"{device_id} is in the hub, STATUS enabled", "its thumbprint is that of your certificate"]
    else:
        questions.append(
            f"In the portal, in your IoT hub, Devices (press Refresh): is {device_id} there with STATUS enabled?"
        )
    if not target.is_emulator:
        questions.append(
            f"Does `az iot hub monitor-events --hub-name <your hub> --device-id {device_id}` show messages "
            "while the device sends?"
        )
    return seen, questions


def _seen(lines: list[str], questions: list[str]) -> View:
    if not lines:
        return ask(*questions)
    return passed(*lines) + ask(*questions) if questions else passed(*lines)


def _enabled_with_our_certificate(target: Target, device_id: str) -> None:
    device = registry.get(target, device_id)
    if device is None:
        raise Stop(
            f"The hub has no device {device_id}: run the cell of notebook 04 that calls register(), then this check."
        )
    if device.status != "enabled":
        raise Stop(f"The device {device_id} is {device.status} in the hub: enable it there, then run this check.")
    if device.primary_thumbprint != certificates.describe(tutorial.certificate_file()).thumbprint_sha256:
        raise Stop(
            f"The hub knows {device_id} by another certificate than the one on disk: run register() in "
            "notebook 04 again, then this check."
        )


def _after_the_last(target: Target) -> datetime:
    """Just after the last message that is stored already, by the clock of the class's emulator and not by this one."""
    stored = target.messages(tutorial.device_id())
    latest = max(
        (_enqueued(message["enqueuedTimeUtc"]) for message in stored), default=datetime.min.replace(tzinfo=UTC)
    )
    return latest + timedelta(microseconds=1)


def _enqueued(stamp: str) -> datetime:
    """ISO 8601 with up to seven fractional digits, of which Python takes six."""
    head, _, fraction = stamp.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{head}.{(fraction + '000000')[:6]}+00:00")


def clean_up(kept: bool) -> View:
    """After "continue": the pair is still there. After "clean up": no record, no key, no emulator of this tutorial is
    left.
    """
    if kept:
        if not os.path.exists(tutorial.key_file()):
            raise Stop(
                f"{tutorial.key_file().name} is gone although you chose to continue: go back to notebook 02 "
                "and make a new pair."
            )
        return passed("everything is kept: certificate, key, enrollment and device; come back to 04 whenever you like")
    return _cleaned_up()


@recorded("05")
def _cleaned_up() -> View:
    _files_gone()
    target, name = targets.attached(), tutorial.registration_id()
    facts = tutorial.recall()
    if target is not None and not target.service:
        return passed("the key files are gone") + ask(
            f"In the portal, under Individual Enrollments: is {name} gone?",
            f"In your IoT hub, under Devices: is {facts.get('device', name)} gone?",
        )
    if target is not None:
        _records_gone(target, facts.get("enrollment", name), facts.get("device", name))
    if left := [facts[fact] for fact in ("enrollment", "device") if fact in facts]:
        raise Stop(
            f"This tutorial made a record of {left[0]} that was not deleted: run the cells of notebook 05 "
            "from the top, then this check."
        )
    return passed(f"the enrollment and the device {name} are gone", "the key files are gone", _emulator_gone(target))


def _files_gone() -> None:
    for name in (certificates.KEY_FILE, certificates.CERTIFICATE_FILE):
        if (tutorial.work_dir() / name).exists():
            raise Stop(
                f"{name} is still in {tutorial.work_dir()}: run the cell of notebook 05 that deletes the key "
                "files, then this check."
            )


def _records_gone(target: Target, registration_id: str, device_id: str) -> None:
    if enrollments.get(target, registration_id) is not None:
        raise Stop(
            f"The enrollment {registration_id} is still there: run the cell of notebook 05 that deletes it, "
            "then this check."
        )
    if registry.get(target, device_id) is not None:
        raise Stop(
            f"The device {device_id} is still in the hub: run the cell of notebook 05 that deletes it, then this check."
        )


def _emulator_gone(target: Target | None) -> str:
    if target is not None and target.join is not None:
        return "the emulator of your class runs on, for the others"
    if target is None or target.emulator is None:
        return "the emulator is stopped"
    if target.emulator.overview.started_by == "notebook":
        raise Stop(
            "The emulator of this tutorial still runs: run the cell of notebook 05 that stops it, then this check."
        )
    return "the emulator still runs because you started it in a terminal: Ctrl-C there stops it"


def _reachable(target: Target) -> int:
    port = _WEBSOCKET_PORT if tutorial.transport() == "websockets" else _MQTT_PORT
    fault = targets.listens(target.host, port, proxy=proxies.chosen())
    if fault is None:
        return port
    if target.join is not None:
        raise Stop(
            f"{fault[0].upper()}{fault[1:]}, where the emulator of your class should be: ask your teacher whether it "
            "runs, then run this check."
        )
    if target.is_emulator:
        raise Stop(
            f"{fault[0].upper()}{fault[1:]}: the emulator is not running there, so unset "
            "DPSX_PROVISIONING_HOST if you set it, run the "
            "first cell of this notebook and the one that sets the variables, then this check."
        )
    other = (
        "" if "looked up" in fault or port == _WEBSOCKET_PORT else ", or use the other port (DPSX_TRANSPORT=websockets)"
    )
    raise Stop(
        f"{fault[0].upper()}{fault[1:]}: check the host name and this machine's network{other}, then run this check."
    )
