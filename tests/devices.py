"""A device for the tests of the helper package: odd certificates, and what the device code of notebook 04 does."""

import asyncio
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from azure.iot.device import X509
from azure.iot.device.aio import IoTHubDeviceClient, ProvisioningDeviceClient
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dpsx_helpers import certificates, targets, tutorial
from dpsx_helpers.targets import Target

NAME = tutorial.TEST_REGISTRATION_ID
PASS_PHRASE = tutorial.TEST_PASS_PHRASE


def odd_pair(folder: Path, *, common_name: str = NAME, is_ca: bool = False, days: int = 30) -> certificates.Pair:
    """A pair of the kind that certificates.create never makes; negative `days`: expired so long ago."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    end = datetime.now(UTC) + timedelta(days=days)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(end - timedelta(days=60)).not_valid_after(end)
    builder = builder.add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    made = certificates.Pair(folder / "odd.pem", folder / "odd.key.pem", created=True)
    made.certificate_file.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    protection = serialization.BestAvailableEncryption(PASS_PHRASE.encode())
    made.key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    )
    return made


def set_variables(target: Target, **others: str) -> None:
    """The cell of notebook 04: the variables of the device code, some of them changed by the test."""
    os.environ.update({**targets.environment(target), **others})


def credentials() -> X509:
    return X509(os.environ["X509_CERT_FILE"], os.environ["X509_KEY_FILE"], os.environ["X509_PASS_PHRASE"])  # type: ignore[no-untyped-call]


async def register() -> Any:
    """What the device code does, with the unmodified SDK."""
    client = ProvisioningDeviceClient.create_from_x509_certificate(
        provisioning_host=os.environ["PROVISIONING_HOST"],
        registration_id=os.environ["DPS_X509_REGISTRATION_ID"],
        id_scope=os.environ["PROVISIONING_IDSCOPE"],
        x509=credentials(),
    )
    return await client.register()


async def send(count: int, state: Any) -> None:
    client = IoTHubDeviceClient.create_from_x509_certificate(
        x509=credentials(), hostname=state.assigned_hub, device_id=state.device_id, connection_retry=False
    )
    try:
        await client.connect()
        await asyncio.gather(*(client.send_message(f"message {number}") for number in range(count)))
    finally:
        await client.shutdown()


def provision(count: int = 0) -> Any:
    """Register, and send so many messages; the registration result."""

    async def both() -> Any:
        result = await register()
        if count:
            await send(count, result.registration_state)
        return result

    return asyncio.run(both())
