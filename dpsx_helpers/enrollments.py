"""Individual enrollments, through Microsoft's own service client."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from azure.core.exceptions import ResourceNotFoundError
from azure.iot.deviceprovisioning import DeviceProvisioningClient

from dpsx_helpers import certificates, diagnosis, tutorial
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import NotReadable, Stop


@dataclass(frozen=True)
class Enrollment:
    """One entry of the Individual Enrollments list. `initial_twin` holds the desired properties."""

    registration_id: str
    thumbprint_sha256: str | None
    provisioning_status: str
    iot_hub: str | None
    initial_twin: dict[str, Any]
    etag: str = field(repr=False)
    created: str


def save(
    target: Target,
    certificate_file: Path,
    *,
    iot_hub: str | None = None,
    initial_twin: dict[str, Any] | None = None,
) -> Enrollment:
    """Enroll the device of this certificate; prints what was done.

    The registration ID is the certificate's common name. The same certificate and settings a second time
    change nothing; others replace the entry, and that is said. `initial_twin` is the portal's document,
    {"tags": …, "properties": {"desired": …}}.
    """
    described = certificates.describe(certificate_file)
    registration_id = _registration_id(described, certificate_file)
    document = _document(registration_id, described.der, iot_hub, check_twin(initial_twin))
    existing = get(target, registration_id)
    if existing and _same(existing, described.thumbprint_sha256, document):
        print(f"{registration_id} is already enrolled with this certificate and these settings.")  # noqa: T201
        tutorial.remember(enrollment=registration_id)
        return existing
    with _client(target) as client:
        # Without If-Match a PUT on an existing entry is answered 409; with it, nothing newer is overwritten
        # unseen: https://github.com/Azure/azure-iot-sdk-csharp/issues/3076
        saved = client.enrollment.create_or_update(
            registration_id, document, if_match=existing.etag if existing else None
        )
    tutorial.remember(enrollment=registration_id)
    how = (
        "was enrolled with another certificate or other settings; the entry is replaced" if existing else "is enrolled"
    )
    print(f"{registration_id} {how}.")  # noqa: T201
    return _enrollment(saved)


def get(target: Target, registration_id: str) -> Enrollment | None:
    """The entry of this registration ID, or None."""
    with _client(target) as client:
        try:
            return _enrollment(client.enrollment.get(registration_id))
        except ResourceNotFoundError:
            return None


def list_all(target: Target) -> list[Enrollment]:
    """Every individual enrollment."""
    with _client(target) as client:
        return [_enrollment(document) for document in client.enrollment.query({"query": "SELECT *"})]


def delete(target: Target, registration_id: str) -> bool:
    """Delete the entry; False when there was none. The device in the hub stays."""
    with _client(target) as client:
        try:
            client.enrollment.delete(registration_id, if_match="*")
            found = True
        except ResourceNotFoundError:
            found = False
    if tutorial.recall().get("enrollment") == registration_id:
        tutorial.forget("enrollment")
    return found


def check_twin(twin: dict[str, Any] | None) -> dict[str, Any]:
    """The initial device twin state as the portal takes it: tags, and properties.desired."""
    document: Any = {} if twin is None else twin
    properties = document.get("properties", {}) if isinstance(document, dict) else None
    if not isinstance(properties, dict) or set(document) - {"tags", "properties"} or set(properties) - {"desired"}:
        raise Stop(
            "The initial device twin state is not of the portal's form: write "
            '{"tags": {}, "properties": {"desired": { your settings }}} and save again.'
        )
    tags, desired = document.get("tags", {}), properties.get("desired", {})
    if not isinstance(tags, dict) or not isinstance(desired, dict):
        raise Stop(
            "In the initial device twin state, tags and properties.desired each hold an object in braces: "
            "mend it and save again."
        )
    return {"tags": tags, "properties": {"desired": desired}}


def _registration_id(described: certificates.Description, file: Path) -> str:
    if not described.common_name:
        raise Stop(
            f"The certificate {file} has no common name in its subject, and DPS takes the registration ID "
            "from there: "
            "make one in notebook 02 and save again."
        )
    return certificates.check_registration_id(described.common_name)


def _document(registration_id: str, der: bytes, iot_hub: str | None, twin: dict[str, Any]) -> dict[str, Any]:
    # The certificate is written anew from its bytes: whatever else is in that file (a key, perhaps) stays
    # here.
    primary = {"certificate": ssl.DER_cert_to_PEM_cert(der)}
    document: dict[str, Any] = {
        "registrationId": registration_id,
        "attestation": {"type": "x509", "x509": {"clientCertificates": {"primary": primary}}},
        "capabilities": {"iotEdge": False},
        "initialTwin": twin,
        "provisioningStatus": "enabled",
    }
    return document | ({"iotHubHostName": iot_hub} if iot_hub else {})


def _same(existing: Enrollment, thumbprint: str, document: dict[str, Any]) -> bool:
    return (
        existing.thumbprint_sha256 == thumbprint
        and existing.provisioning_status == "enabled"
        and existing.iot_hub == document.get("iotHubHostName")
        and existing.initial_twin == document["initialTwin"]["properties"]["desired"]
    )


def _enrollment(document: Any) -> Enrollment:
    x509 = document.get("attestation", {}).get("x509") or {}
    primary = (x509.get("clientCertificates") or {}).get("primary") or {}
    twin = document.get("initialTwin") or {}
    thumbprint = (primary.get("info") or {}).get("sha256Thumbprint")
    return Enrollment(
        registration_id=document["registrationId"],
        thumbprint_sha256=thumbprint.upper() if thumbprint else None,
        provisioning_status=document.get("provisioningStatus", "enabled"),
        iot_hub=next(iter(document.get("iotHubs") or [document.get("iotHubHostName")])),
        initial_twin=(twin.get("properties") or {}).get("desired") or {},
        etag=document.get("etag", "*"),
        created=document.get("createdDateTimeUtc", ""),
    )


@contextmanager
def _client(target: Target) -> Iterator[DeviceProvisioningClient]:
    if target.dps_connection_string is None:
        raise NotReadable(
            "This tutorial does not read or change enrollments on Azure: open your provisioning service in "
            "the portal, then Manage "
            "enrollments, then Individual Enrollments (or run `az iot dps enrollment list --dps-name <name> "
            "--resource-group <group>`)."
        )
    # No proxy, no retries: the emulator is on this machine and answers at once or not at all.
    client = DeviceProvisioningClient.from_connection_string(
        target.dps_connection_string,
        connection_verify=str(target.bundle_file),
        use_env_settings=False,
        connection_timeout=3,
        read_timeout=10,
        retry_total=0,
    )
    with diagnosis.explain_service("provisioning service"), client:
        yield client
