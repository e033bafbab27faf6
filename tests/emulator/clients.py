"""What a device and an operator do, with Microsoft's unmodified clients."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from azure.iot.device import X509, IoTHubDeviceClient, Message, ProvisioningDeviceClient
from azure.iot.deviceprovisioning import DeviceProvisioningClient
from pki import Device
from processes import RunningEmulator


@contextmanager
def trusting(emulator: RunningEmulator) -> Iterator[None]:
    """Trust the emulator as a learner's machine does: by SSL_CERT_FILE, set before any client object exists."""
    before = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = emulator.environment["SSL_CERT_FILE"]
    try:
        yield
    finally:
        if before is None:
            del os.environ["SSL_CERT_FILE"]
        else:
            os.environ["SSL_CERT_FILE"] = before


def service(emulator: RunningEmulator) -> DeviceProvisioningClient:
    overview = emulator.emulator.overview
    return DeviceProvisioningClient.from_connection_string(
        overview.dps_connection_string, connection_verify=str(overview.bundle_file)
    )


def document(device: Device, **fields: Any) -> dict[str, Any]:
    """The body that enrolls a device by its certificate."""
    certificates = {"primary": {"certificate": device.pem}}
    if "secondary" in fields:
        certificates["secondary"] = {"certificate": fields.pop("secondary").pem}
    return {"attestation": {"type": "x509", "x509": {"clientCertificates": certificates}}, **fields}


def enroll(emulator: RunningEmulator, device: Device, registration_id: str | None = None, **fields: Any) -> Any:
    name = registration_id or device.common_name
    return service(emulator).enrollment.create_or_update(name, document(device, **fields))


def register(
    emulator: RunningEmulator, device: Device, *, registration_id: str | None = None, id_scope: str | None = None
) -> Any:
    """`register()` of the SDK; its result, or its exception."""
    overview = emulator.emulator.overview
    with trusting(emulator):
        client = ProvisioningDeviceClient.create_from_x509_certificate(
            provisioning_host=overview.host,
            registration_id=registration_id or device.common_name,
            id_scope=id_scope or overview.id_scope,
            x509=credentials(device),
        )
        return client.register()


@contextmanager
def connected(emulator: RunningEmulator, device: Device, device_id: str | None = None) -> Iterator[IoTHubDeviceClient]:
    """A device client that is connected to its hub."""
    with trusting(emulator):
        client = IoTHubDeviceClient.create_from_x509_certificate(
            x509=credentials(device), hostname=emulator.host, device_id=device_id or device.common_name
        )
        try:
            client.connect()
            yield client
        finally:
            client.shutdown()


def send(client: IoTHubDeviceClient, *bodies: str) -> None:
    for body in bodies:
        client.send_message(Message(body))


def credentials(device: Device) -> X509:
    return X509(cert_file=str(device.certificate_file), key_file=str(device.key_file))
