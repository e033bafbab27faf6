"""The devices of a fleet: their certificates and keys, their enrollments, and what DPS has registered of them."""

import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azure.core.exceptions import ResourceNotFoundError
from azure.iot.deviceprovisioning import DeviceProvisioningClient

from dpsx_helpers import certificates, registry, tutorial
from dpsx_helpers.enrollments import service
from dpsx_helpers.errors import shown_value
from dpsx_helpers.fleet import logbook
from dpsx_helpers.fleet.arithmetic import IN_BULK
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop

_MOST = 999  # devices; the names have three digits
_AT_ONCE = 4  # pairs in the making: what takes its time is the disk


@dataclass(frozen=True)
class Device:
    """One device as it leaves the factory: its name, and the files of its certificate and (encrypted) key."""

    registration_id: str
    certificate_file: str
    key_file: str

    @property
    def enrollment(self) -> dict[str, Any]:
        """Its individual enrollment, as DPS takes it.

        https://learn.microsoft.com/rest/api/iot-dps/service/individual-enrollment/create-or-update
        """
        pem = Path(self.certificate_file).read_text(encoding="ascii")
        mechanism = {"type": "x509", "x509": {"clientCertificates": {"primary": {"certificate": pem}}}}
        return {"registrationId": self.registration_id, "attestation": mechanism}


def make(count: int, *, first: int = 1) -> list[Device]:
    """So many devices, from `fleet-001` on (`first` 1), each with a self-signed certificate and a key of its own.

    What is there already is kept. Raises CertificateError, and Stop when there can be no such number.
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= _MOST - first + 1:
        raise Stop(
            f"{shown_value(count)} is no number of devices for this notebook: give a whole number from 1 to {_MOST}."
        )
    pass_phrase, folder = tutorial.pass_phrase(new_key=True), _folder()

    def device(name: str) -> Device:
        home = tutorial.made_folder(folder / name)
        pair = certificates.create(name, pass_phrase, home, key_type="ec-p256", existing="reuse")
        return Device(name, str(pair.certificate_file), str(pair.key_file))

    with ThreadPoolExecutor(_AT_ONCE) as factory:
        return list(factory.map(device, (name_of(number) for number in range(first, first + count))))


def name_of(number: int) -> str:
    """`fleet-007`."""
    return f"fleet-{number:03}"


def in_tens(devices: Sequence[Device]) -> Iterator[Sequence[Device]]:
    """Ten at a time, the most that one bulk request takes."""
    for start in range(0, len(devices), IN_BULK):
        yield devices[start : start + IN_BULK]


def not_enrolled(target: Target, devices: Sequence[Device]) -> list[Device]:
    """Those that DPS does not expect yet. An entry with another certificate is deleted: it is of an older fleet."""
    missing = []
    with service(target) as client:
        for device in devices:
            if _current(client, device) is None:
                missing.append(device)
    return missing


def _current(client: DeviceProvisioningClient, device: Device) -> Any:
    """The entry of this very device; one with another certificate is deleted, and None."""
    entry = _found(client.enrollment, device.registration_id)
    own = certificates.describe(Path(device.certificate_file)).thumbprint_sha256
    if entry is not None and _thumbprint(entry) != own:
        client.enrollment.delete(device.registration_id, if_match="*")
        return None
    return entry


def second_delivery(target: Target) -> list[Device]:
    """More devices, a tenth of the fleet, enrolled. One of them, chosen at random, is shut out by a disabled entry.

    It arrives once: called again, this gives the same devices, and shuts nobody out.
    """
    size, first = _second()
    devices = make(size, first=first)
    arrived = logbook.read().second == tuple(device.registration_id for device in devices)
    with service(target) as client:
        for device in devices:
            if _current(client, device) is None:
                client.enrollment.create_or_update(device.registration_id, device.enrollment)
        entries = {device.registration_id: client.enrollment.get(device.registration_id) for device in devices}
        if not arrived:
            name = secrets.choice(list(entries))
            shut = {**entries[name], "provisioningStatus": "disabled"}
            client.enrollment.create_or_update(name, shut, if_match=shut["etag"])
            _forget(client, [name])
    logbook.second(tuple(entries))
    return devices


def _second() -> tuple[int, int]:
    """How many devices, and the number of the first."""
    launches = logbook.read().launches
    largest = max((launch.devices for launch in launches), default=200)
    return max(3, largest // 10), largest + 1


def forget(target: Target, names: Iterable[str]) -> None:
    """Delete the registration records of these devices, so that what DPS shows afterwards is of now.

    Enrollments, and devices in the hub, stay.
    """
    with service(target) as client:
        _forget(client, names)


def _forget(client: DeviceProvisioningClient, names: Iterable[str]) -> None:
    for name in names:
        with suppress(ResourceNotFoundError):
            client.device_registration_state.delete(name, if_match="*")


def states(target: Target, names: Sequence[str]) -> dict[str, str]:
    """The state of each registration as DPS has it: `assigned`, `disabled` …; "none" where there is no record."""
    with service(target) as client:
        found = {name: _found(client.device_registration_state, name) for name in names}
    return {name: str(record["status"]) if record else "none" for name, record in found.items()}


def entries(target: Target, names: Sequence[str]) -> dict[str, str]:
    """The status of each enrollment, `enabled` or `disabled`; "none" where there is none."""
    with service(target) as client:
        found = {name: _found(client.enrollment, name) for name in names}
    return {name: str(entry["provisioningStatus"]) if entry else "none" for name, entry in found.items()}


def delete(target: Target, devices: Iterable[Device]) -> int:
    """Delete what this notebook made of these devices: enrollments, registrations, devices in the hub, and the files.

    How many enrollments there were.
    """
    names = [device.registration_id for device in devices]
    names += [name for name in logbook.read().second if name not in names]
    gone = 0
    with service(target) as client:
        _forget(client, names)
        for name in names:
            with suppress(ResourceNotFoundError):
                client.enrollment.delete(name, if_match="*")
                gone += 1
    for name in names:
        registry.delete(target, name)
    shutil.rmtree(_folder(), ignore_errors=True)
    logbook.forget()
    return gone


def _found(operations: Any, name: str) -> Any:
    try:
        return operations.get(name)
    except ResourceNotFoundError:
        return None


def _thumbprint(entry: Any) -> str:
    """The SHA-256 thumbprint in an enrollment; "" for one that has no certificate."""
    slots = ((entry.get("attestation") or {}).get("x509") or {}).get("clientCertificates") or {}
    info = (slots.get("primary") or {}).get("info") or {}
    return str(info.get("sha256Thumbprint", "")).upper()


def _folder() -> Path:
    return tutorial.own_folder(logbook.NOTEBOOK) / "devices"
