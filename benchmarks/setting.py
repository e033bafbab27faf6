"""What the rows have in common: an emulator of their own, devices with certificates, and the quickstart's program."""

import ast
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
import requests
from azure.iot.deviceprovisioning import DeviceProvisioningClient
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks.programs import ROOT, own_environment
from dpsx_helpers.certificate_making import KeyType, new_key, of_device
from dpsx_helpers.emulator import Emulator, EmulatorError, sas

FLOOR = 2.0  # seconds that the SDK waits before it asks DPS for the first time, whatever DPS proposes
_READY_WITHIN = 60.0  # seconds
_IN_BULK = 10  # enrollments in one request, the most that DPS takes
_NOTEBOOK = ROOT / "notebooks" / "04-simulate-the-device.ipynb"


@dataclass(frozen=True)
class Device:
    """A device with a self-signed certificate; the key is not encrypted."""

    name: str
    certificate_file: Path
    key_file: Path


@contextmanager
def folder() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="dpsx-benchmarks-") as name:
        yield Path(name)


@contextmanager
def emulator(state_dir: Path) -> Iterator[Emulator]:
    """An emulator, started as a notebook does, on the next free address; it has ended afterwards."""
    started = Emulator.start(state_dir)
    try:
        yield started
    finally:
        started.stop()


def run_arguments(state_dir: Path) -> list[str]:
    """What makes the emulator's command line start as a notebook starts it."""
    return ["run", "--state-dir", str(state_dir), "--next-free-host", "--started-by", "notebook"]


@contextmanager
def emulator_by(command: Sequence[str], state_dir: Path, root: Path = ROOT) -> Iterator[Emulator]:
    """An emulator that this command starts, with the modules of the clone `root`; it has ended afterwards."""
    with subprocess.Popen(command, env=own_environment(PYTHONPATH=str(root)), cwd=root) as process:
        try:
            running = _attached(state_dir, process)
            yield running
            running.stop()
        finally:
            if process.poll() is None:
                process.terminate()


def _attached(state_dir: Path, process: "subprocess.Popen[bytes]") -> Emulator:
    deadline = time.monotonic() + _READY_WITHIN
    while time.monotonic() < deadline and process.poll() is None:
        try:
            running = Emulator.attach(state_dir)
            socket.create_connection((running.overview.host, running.overview.mqtt_port), timeout=1).close()
        except (EmulatorError, OSError):
            time.sleep(0.1)
        else:
            return running
    raise RuntimeError("the emulator did not start")


def make_devices(count: int, directory: Path, key_type: KeyType = "ec-p256") -> list[Device]:
    """So many devices, `device-0001` on, each with a key of its own."""
    return [_made(f"device-{number:04}", directory, key_type) for number in range(1, count + 1)]


def _made(name: str, directory: Path, key_type: KeyType) -> Device:
    key = new_key(key_type)
    pem = of_device(name, key, datetime.now(UTC).replace(microsecond=0), 365, None, key).public_bytes(Encoding.PEM)
    device = Device(name, directory / f"{name}.pem", directory / f"{name}.key.pem")
    device.certificate_file.write_bytes(pem)
    device.key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return device


def enroll(running: Emulator, devices: Sequence[Device]) -> None:
    """An individual enrollment for each, by Microsoft's own client."""
    with service(running) as client:
        for start in range(0, len(devices), _IN_BULK):
            entries = [_enrollment(device) for device in devices[start : start + _IN_BULK]]
            answer = client.enrollment.run_bulk_operation({"mode": "create", "enrollments": entries})
            if not answer["isSuccessful"]:
                raise RuntimeError(f"enrolling failed: {answer['errors']}")


def in_hub(running: Emulator, devices: Sequence[Device]) -> None:
    """Make them in the hub by its own API, each with the thumbprint of its certificate."""
    seen = running.overview
    ca = str(seen.ca_file)  # for each request: the session's own setting gives way to REQUESTS_CA_BUNDLE
    key = dict(part.partition("=")[::2] for part in seen.iothub_connection_string.split(";"))["SharedAccessKey"]
    token = sas.sign(seen.service_endpoint, "iothubowner", key, int(time.time()) + 3600)
    with requests.Session() as session:
        session.headers["Authorization"] = token
        for device in devices:
            url = f"https://{seen.service_endpoint}/devices/{device.name}?api-version=2021-04-12"
            shown = {"primaryThumbprint": _thumbprint(device), "secondaryThumbprint": None}
            wanted = {"deviceId": device.name, "authentication": {"type": "selfSigned", "x509Thumbprint": shown}}
            session.put(url, json=wanted, verify=ca, timeout=30).raise_for_status()


def _thumbprint(device: Device) -> str:
    pem = device.certificate_file.read_bytes()
    return x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256()).hex().upper()


def named(device: Device, count: int) -> list[Device]:
    """So many devices, `sender-0001` on, that all show the certificate of this one."""
    return [replace(device, name=f"sender-{number:04}") for number in range(1, count + 1)]


def forget(running: Emulator, devices: Sequence[Device]) -> None:
    """Delete what DPS remembers of their registration, so that the next one is a first one."""
    with service(running) as client:
        for device in devices:
            client.device_registration_state.delete(device.name, if_match="*")


def service(running: Emulator) -> Any:
    seen = running.overview
    return DeviceProvisioningClient.from_connection_string(
        seen.dps_connection_string, connection_verify=str(seen.bundle_file), use_env_settings=False
    )


def _enrollment(device: Device) -> dict[str, Any]:
    slots = {"primary": {"certificate": device.certificate_file.read_text(encoding="ascii")}}
    return {"registrationId": device.name, "attestation": {"type": "x509", "x509": {"clientCertificates": slots}}}


def device_program() -> str:
    """The device's program as the quickstart has it in a file: the cell of notebook 04, and the line that starts it."""
    code = {
        tag: cell.source
        for cell in nbformat.read(_NOTEBOOK, as_version=4).cells  # type: ignore[no-untyped-call]
        for tag in cell.metadata.get("tags", ())
    }
    (last,) = [line for line in code["device-code-end"].splitlines() if "asyncio.run" in line]
    return f"{code['device-code']}\n\n\n{last}\n"


def imports_of(program: str) -> str:
    """Nothing of a program but what it imports."""
    return "\n".join(
        ast.unparse(node) for node in ast.parse(program).body if isinstance(node, ast.Import | ast.ImportFrom)
    )
