"""Individual enrollments, through Microsoft's own service client."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from azure.core.exceptions import ResourceNotFoundError
from azure.iot.deviceprovisioning import DeviceProvisioningClient

from dpsx_helpers import certificates, diagnosis, tutorial
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import NotReadable, Stop

Allocation = Literal["hashed", "geoLatency", "static"]
Reprovisioning = Literal["migrate", "reset", "never"]
#: What becomes of a device that comes again, as DPS writes it:
#: https://learn.microsoft.com/azure/iot-dps/concepts-device-reprovision
_REPROVISIONING: dict[Reprovisioning, dict[str, bool]] = {
    "migrate": {"updateHubAssignment": True, "migrateDeviceData": True},
    "reset": {"updateHubAssignment": True, "migrateDeviceData": False},
    "never": {"updateHubAssignment": False, "migrateDeviceData": False},
}


@dataclass(frozen=True)
class EnrollmentRequest:
    """What the portal's *Add Enrollment* panel asks for; the defaults are the portal's.

    `device_id` None: the registration ID. No `iot_hubs`: any that is linked. `initial_twin` is the portal's document,
    {"tags": …, "properties": {"desired": …}}.
    """

    certificate_file: Path
    secondary_file: Path | None = None
    device_id: str | None = None
    iot_edge: bool = False
    allocation: Allocation = "hashed"
    iot_hubs: tuple[str, ...] = ()
    reprovisioning: Reprovisioning = "migrate"
    initial_twin: dict[str, Any] = field(default_factory=dict)
    enabled: bool = True


@dataclass(frozen=True)
class Enrollment:
    """One entry of the Individual Enrollments list. `initial_twin` holds the desired properties.

    Two are equal when the same certificates and settings are enrolled, whenever that was done.
    """

    registration_id: str
    thumbprint_sha256: str | None
    secondary_sha256: str | None
    provisioning_status: str
    device_id: str | None
    iot_edge: bool
    allocation: str
    iot_hubs: tuple[str, ...]
    reprovisioning: str
    tags: dict[str, Any]
    initial_twin: dict[str, Any]
    etag: str = field(repr=False, compare=False)
    created: str = field(compare=False)

    @property
    def iot_hub(self) -> str | None:
        """The hubs that the entry names, in one text; None: any hub linked to the service."""
        return ", ".join(self.iot_hubs) or None


def save(target: Target, request: EnrollmentRequest | Path) -> Enrollment:
    """Enroll the device of this certificate (a path alone: with the portal's defaults); prints what was done.

    The registration ID is the certificate's common name. The same certificates and settings a second time change
    nothing; others replace the entry, and that is said.
    """
    asked = EnrollmentRequest(request) if isinstance(request, Path) else request
    certificate = certificates.describe(asked.certificate_file)
    secondary = certificates.describe(asked.secondary_file) if asked.secondary_file else None
    registration_id = _registration_id(certificate, asked.certificate_file)
    document = _document(registration_id, certificate, secondary, asked)
    existing = get(target, registration_id)
    wanted = replace(
        _enrollment(document),
        thumbprint_sha256=certificate.thumbprint_sha256,
        secondary_sha256=secondary.thumbprint_sha256 if secondary else None,
    )
    if existing == wanted:
        print(f"{registration_id} is already enrolled with this certificate and these settings.")  # noqa: T201
        tutorial.remember(enrollment=registration_id)
        return existing
    with service(target) as client:
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
    with service(target) as client:
        try:
            return _enrollment(client.enrollment.get(tutorial.identifier(registration_id)))
        except ResourceNotFoundError:
            return None


def list_all(target: Target) -> list[Enrollment]:
    """Every individual enrollment."""
    with service(target) as client:
        return [_enrollment(document) for document in client.enrollment.query({"query": "SELECT *"})]


def delete(target: Target, registration_id: str) -> bool:
    """Delete the entry; False when there was none. The device in the hub stays."""
    with service(target) as client:
        try:
            client.enrollment.delete(registration_id, if_match="*")
            found = True
        except ResourceNotFoundError:
            found = False
    if tutorial.recall().get("enrollment") == registration_id:
        tutorial.forget("enrollment")
    return found


def group(target: Target, group_id: str) -> Any:
    """The enrollment group as DPS shows it, or None."""
    with service(target) as client:
        try:
            return client.enrollment_group.get(group_id)
        except ResourceNotFoundError:
            return None


def delete_group(target: Target, group_id: str) -> bool:
    """Delete the enrollment group; False when there was none. Its devices stay in the hub."""
    with service(target) as client:
        try:
            client.enrollment_group.delete(group_id, if_match="*")
        except ResourceNotFoundError:
            return False
    return True


def members(target: Target, group_id: str) -> list[Any]:
    """The registration records of a group, as DPS shows them; none when there is no such group."""
    with service(target) as client:
        try:
            return list(client.device_registration_state.query(group_id))
        except ResourceNotFoundError:
            return []


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


def _document(
    registration_id: str,
    primary: certificates.Description,
    secondary: certificates.Description | None,
    asked: EnrollmentRequest,
) -> dict[str, Any]:
    """https://learn.microsoft.com/rest/api/iot-dps/service/individual-enrollment/create-or-update"""
    slots = {"primary": _slot(primary)} | ({"secondary": _slot(secondary)} if secondary else {})
    document: dict[str, Any] = {
        "registrationId": registration_id,
        "attestation": {"type": "x509", "x509": {"clientCertificates": slots}},
        "capabilities": {"iotEdge": asked.iot_edge},
        "allocationPolicy": asked.allocation,
        "reprovisionPolicy": _REPROVISIONING[asked.reprovisioning],
        "initialTwin": check_twin(asked.initial_twin),
        "provisioningStatus": "enabled" if asked.enabled else "disabled",
    }
    optional = {"deviceId": asked.device_id, "iotHubs": list(asked.iot_hubs)}
    return document | {name: value for name, value in optional.items() if value}


def _slot(certificate: certificates.Description) -> dict[str, str]:
    # The certificate is written anew from its bytes: whatever else is in that file (a key, perhaps) stays here.
    return {"certificate": ssl.DER_cert_to_PEM_cert(certificate.der)}


def _enrollment(document: Any) -> Enrollment:
    x509 = document.get("attestation", {}).get("x509") or {}
    slots = x509.get("clientCertificates") or {}
    twin = document.get("initialTwin") or {}
    hubs = document.get("iotHubs") or [document.get("iotHubHostName")]
    return Enrollment(
        registration_id=document["registrationId"],
        thumbprint_sha256=_thumbprint(slots.get("primary")),
        secondary_sha256=_thumbprint(slots.get("secondary")),
        provisioning_status=document.get("provisioningStatus", "enabled"),
        device_id=document.get("deviceId"),
        iot_edge=bool((document.get("capabilities") or {}).get("iotEdge")),
        allocation=document.get("allocationPolicy") or "hashed",
        iot_hubs=tuple(sorted(hub for hub in hubs if hub)),
        reprovisioning=_reprovisioning(document.get("reprovisionPolicy")),
        tags=twin.get("tags") or {},
        initial_twin=(twin.get("properties") or {}).get("desired") or {},
        etag=document.get("etag", "*"),
        created=document.get("createdDateTimeUtc", ""),
    )


def _thumbprint(slot: Any) -> str | None:
    thumbprint = ((slot or {}).get("info") or {}).get("sha256Thumbprint")
    return str(thumbprint).upper() if thumbprint else None


def _reprovisioning(policy: Any) -> Reprovisioning:
    flags = _REPROVISIONING["migrate"] | (policy or {})
    if not flags["updateHubAssignment"]:
        return "never"
    return "migrate" if flags["migrateDeviceData"] else "reset"


@contextmanager
def service(target: Target) -> Iterator[DeviceProvisioningClient]:
    """Microsoft's client for the service side of DPS; each of its failures is a Stop. NotReadable without access."""
    with diagnosis.explain_service("provisioning service"):
        opened = client(target)
        with opened:
            yield opened


def client(target: Target) -> DeviceProvisioningClient:
    """Microsoft's client for the service side of DPS: by the connection string, else as whoever is signed in.

    NotReadable without access.
    """
    # No proxy, no retries: the emulator is on this machine and answers at once or not at all. That of a class is near,
    # and may have a whole class to answer.
    near: dict[str, Any] = {
        "connection_verify": str(target.bundle_file),
        "use_env_settings": False,
        "connection_timeout": 15 if target.join else 3,
        "read_timeout": 30 if target.join else 10,
        "retry_total": 0,
    }
    if target.dps_connection_string is not None:
        options = near if target.is_emulator else {}
        return DeviceProvisioningClient.from_connection_string(target.dps_connection_string, **options)
    if target.credential is not None and target.service_endpoint is not None:
        return DeviceProvisioningClient(target.service_endpoint, target.credential)
    raise NotReadable(
        "Without DPS_CONNECTION_STRING this tutorial does not read or change enrollments on Azure: open your "
        "provisioning service in the portal, then Manage "
        "enrollments, then Individual Enrollments (or run `az iot dps enrollment list --dps-name <name> "
        "--resource-group <group>`)."
    )
