"""What a device and an operator do, with Microsoft's unmodified clients."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from azure.iot.device import (
    X509,
    IoTHubDeviceClient,
    Message,
    MethodRequest,
    MethodResponse,
    ProvisioningDeviceClient,
)
from azure.iot.deviceprovisioning import DeviceProvisioningClient
from pki import Authority, Device
from processes import RunningEmulator

from dpsx_helpers.targets import Target


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


def group_document(primary: Authority | str, secondary: Authority | None = None, **fields: Any) -> dict[str, Any]:
    """The body that makes a group with certificates of its own, or with the name of a CA certificate."""
    if isinstance(primary, str):
        return {"attestation": {"type": "x509", "x509": {"caReferences": {"primary": primary}}}, **fields}
    slots = {"primary": {"certificate": primary.pem}}
    if secondary is not None:
        slots["secondary"] = {"certificate": secondary.pem}
    return {"attestation": {"type": "x509", "x509": {"signingCertificates": slots}}, **fields}


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
def connected(
    emulator: RunningEmulator, device: Device, device_id: str | None = None, **more: Any
) -> Iterator[IoTHubDeviceClient]:
    """A device client that is connected to its hub. `more`: arguments of the SDK's own."""
    with trusting(emulator):
        client = IoTHubDeviceClient.create_from_x509_certificate(
            x509=credentials(device), hostname=emulator.host, device_id=device_id or device.common_name, **more
        )
        try:
            client.connect()
            yield client
        finally:
            client.shutdown()


def send(client: IoTHubDeviceClient, *bodies: str) -> None:
    for body in bodies:
        client.send_message(Message(body))


def bodies(emulator: RunningEmulator, device_id: str | None = None) -> list[str]:
    """What was sent, by one device or by all."""
    return [message["body"] for message in emulator.messages(device_id)]


def bodies_of(target: Target, device_id: str) -> list[str] | None:
    """What a device has sent, where that can be read: on the emulator alone."""
    return [message["body"] for message in target.messages(device_id)] if target.emulator else None


def responder(client: Any, answer: Callable[[MethodRequest], tuple[int, Any]]) -> None:
    """Let a device answer every direct method."""

    def respond(request: MethodRequest) -> None:
        status, payload = answer(request)
        client.send_method_response(MethodResponse.create_from_method_request(request, status, payload))

    client.on_method_request_received = respond


def cause(failure: pytest.ExceptionInfo[BaseException]) -> str:
    """What the SDK says of the cause of its exception."""
    return str(failure.value.__cause__)


def credentials(device: Device) -> X509:
    return X509(cert_file=str(device.certificate_file), key_file=str(device.key_file))
