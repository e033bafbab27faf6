"""Device identities of a hub: made by DPS or by the service, and the documents that show them. No I/O.

https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-identity-registry
https://learn.microsoft.com/rest/api/iothub/service/devices
"""

import re
from base64 import b64decode, b64encode
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from dpsx_helpers.emulator import documents, refusals, twin
from dpsx_helpers.emulator.dps import Assignment
from dpsx_helpers.emulator.refusals import Refused, bad_at_hub
from dpsx_helpers.emulator.stamps import Stamp
from dpsx_helpers.emulator.twin import Twin

# https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-identity-registry#device-identity-properties
DEVICE_ID = re.compile(r"[A-Za-z0-9\-:.+%_#*?!(),=@;$']{1,128}")
_THUMBPRINT = re.compile(r"[0-9A-Fa-f]{40}|[0-9A-Fa-f]{64}")
_NEVER = "0001-01-01T00:00:00Z"
_DOTNET_EPOCH = 621_355_968_000_000_000  # ticks of 100 ns from year 1 to 1970


@dataclass(frozen=True, slots=True)
class Device:
    """A device identity in the hub `hub`. It has thumbprints (upper-case hex, SHA-1 or SHA-256) or keys (base64).

    `version` counts the changes of the identity and is its etag. `c2d_qos` is the quality of service of a subscription
    to cloud-to-device messages that outlives its connection (CleanSession 0), None when there is none; `kept` are the
    other subscriptions that do, by their names in `topics.Subscription`.
    """

    hub: str
    device_id: str
    generation_id: str
    created: str
    primary_thumbprint: str = ""
    secondary_thumbprint: str = ""
    primary_key: str = field(default="", repr=False)
    secondary_key: str = field(default="", repr=False)
    status: str = "enabled"
    status_reason: str | None = None
    status_updated: str = _NEVER
    version: int = 1
    last_activity: str = _NEVER
    edge: bool = False
    c2d_qos: int | None = None
    kept: list[str] = field(default_factory=list)

    @property
    def etag(self) -> str:
        return b64encode(str(self.version).encode()).decode()

    @property
    def authentication_type(self) -> str:
        return "sas" if self.primary_key else "selfSigned"


def provision(existing: Device | None, assignment: Assignment, stamp: Stamp) -> Device:
    """The identity that DPS wants: a new one, or the existing one with the thumbprints of today and its own status."""
    wanted: dict[str, Any] = {
        "primary_thumbprint": assignment.primary_thumbprint,
        "secondary_thumbprint": assignment.secondary_thumbprint,
    }
    if existing is None:
        return Device(
            hub=assignment.hub,
            device_id=assignment.device_id,
            generation_id=_generation_id(stamp),
            created=stamp.text,
            edge=assignment.edge,
            **wanted,
        )
    changed = replace(existing, primary_key="", secondary_key="", **wanted)
    return existing if changed == existing else replace(changed, version=existing.version + 1)


def provision_twin(existing: Twin | None, left: Twin | None, assignment: Assignment, stamp: Stamp) -> Twin:
    """Its twin: kept as it is, or started again, or brought along from the hub that it leaves (`left`).

    https://learn.microsoft.com/azure/iot-dps/concepts-device-reprovision
    """
    if assignment.reset:
        return twin.new(assignment.initial_twin, stamp)
    if left is not None:
        return twin.migrated(left, stamp)
    return existing or twin.new(assignment.initial_twin, stamp)


def touched(device: Device, stamp: Stamp) -> Device:
    """The device was active just now. No etag moves."""
    return replace(device, last_activity=stamp.text)


def parse(hub: str, device_id: str, document: Any, existing: Device | None, stamp: Stamp) -> Device:
    """The record for a PUT of `document`. Without `authentication` a new device gets keys, an old one keeps what it
    has. Raises Refused.
    """
    if not isinstance(document, dict):
        raise bad_at_hub("the body is not a JSON object")
    if not DEVICE_ID.fullmatch(device_id):
        raise bad_at_hub("the device ID in the path is not 1 to 128 of the characters that a device ID may have")
    if document.get("deviceId") not in (None, device_id):
        raise bad_at_hub("deviceId differs from the device ID in the path")
    status = document.get("status") or "enabled"
    if status not in ("enabled", "disabled"):
        raise bad_at_hub("status is neither enabled nor disabled")
    reason = document.get("statusReason")
    if reason is not None and (not isinstance(reason, str) or len(reason) > 128):
        raise bad_at_hub("statusReason is not a text of at most 128 characters")
    capabilities = document.get("capabilities") or {}
    edge = capabilities.get("iotEdge") if isinstance(capabilities, dict) else 0
    if not isinstance(edge, bool | None):
        raise bad_at_hub("capabilities.iotEdge is neither true nor false")
    for name in ("deviceScope", "parentScopes"):
        if document.get(name):
            raise Refused(refusals.HUB_NOT_EMULATED, feature=f"{name} (devices below an edge device)")
    base = existing or Device(hub, device_id, _generation_id(stamp), stamp.text, version=0)
    given = document.get("authentication")
    return replace(
        base,
        **({} if existing and given is None else _authentication(given, stamp)),
        status=status,
        status_reason=reason,
        status_updated=stamp.text if status != base.status else base.status_updated,
        version=base.version + 1,
        edge=bool(edge),
    )


def _authentication(document: Any, stamp: Stamp) -> dict[str, Any]:
    if document is not None and not isinstance(document, dict):
        raise bad_at_hub("authentication is not an object")
    document = document or {}
    kind = document.get("type") or ("selfSigned" if document.get("x509Thumbprint") else "sas")
    keys, thumbprints = (document.get(name) or {} for name in ("symmetricKey", "x509Thumbprint"))
    if not isinstance(keys, dict) or not isinstance(thumbprints, dict):
        raise bad_at_hub("symmetricKey and x509Thumbprint are objects")
    nothing = dict.fromkeys(("primary_thumbprint", "secondary_thumbprint", "primary_key", "secondary_key"), "")
    if kind == "sas":
        primary, secondary = (_key(keys.get(f"{slot}Key"), f"{slot} {stamp.guid}") for slot in ("primary", "secondary"))
        return nothing | {"primary_key": primary, "secondary_key": secondary}
    if kind == "selfSigned":
        first, second = (_thumbprint(thumbprints.get(f"{slot}Thumbprint")) for slot in ("primary", "secondary"))
        if not first:
            raise bad_at_hub("x509Thumbprint.primaryThumbprint is missing")
        return nothing | {"primary_thumbprint": first, "secondary_thumbprint": second}
    if kind in ("certificateAuthority", "none"):
        raise Refused(refusals.HUB_NOT_EMULATED, feature=f"authentication of type {kind}")
    raise bad_at_hub("authentication.type is none of sas, selfSigned, certificateAuthority, none")


def _key(given: Any, seed: str) -> str:
    """The key in base64; where none is given, one made from the GUID of the request."""
    if given is None:
        return b64encode(sha256(seed.encode()).digest()).decode()
    try:
        size = len(b64decode(given, validate=True))
    except (ValueError, TypeError):
        size = 0
    if not 16 <= size <= 64:
        raise bad_at_hub("a symmetric key is base64 of 16 to 64 bytes")
    return str(given)


def _thumbprint(given: Any) -> str:
    if given in (None, ""):
        return ""
    if not isinstance(given, str) or not _THUMBPRINT.fullmatch(given):
        raise Refused(refusals.BAD_THUMBPRINT, given=given)
    return given


def _generation_id(stamp: Stamp) -> str:
    return str(int(stamp.now.timestamp() * 10_000_000) + _DOTNET_EPOCH)


def check_etag(device: Device | None, device_id: str, if_match: str | None, *, deleting: bool) -> None:
    """`If-Match` as a hub reads it, quoted or not: a PUT without it only creates, with it only updates; a DELETE
    needs it; `*` matches anything.
    """
    if device is None:
        if deleting or if_match is not None:
            raise Refused(refusals.DEVICE_NOT_FOUND, device_id=device_id)
        return
    if if_match is None and deleting:
        raise Refused(refusals.DEVICE_CHANGED, why="Etag missing: the request has no If-Match")
    if if_match is None:
        raise Refused(refusals.DEVICE_EXISTS, device_id=device_id)
    _check_match(if_match, device.etag, "device")


def check_twin_etag(current: Twin, if_match: str | None) -> None:
    """A change of the twin may name the etag that it starts from."""
    if if_match is not None:
        _check_match(if_match, current.etag, "device twin")


def _check_match(if_match: str, etag: str, what: str) -> None:
    if not documents.matches(if_match, etag):
        raise Refused(refusals.DEVICE_CHANGED, why=f"the If-Match of the request is not the etag of the {what}")


# --- documents --------------------------------------------------------------------------------------------------------


def document(device: Device, *, connected: bool, pending: int) -> dict[str, Any]:
    """The identity as `GET /devices/{id}` shows it. `pending`: cloud-to-device messages that wait."""
    return {
        "deviceId": device.device_id,
        "generationId": device.generation_id,
        "etag": device.etag,
        "connectionState": "Connected" if connected else "Disconnected",
        "status": device.status,
        "statusReason": device.status_reason,
        "connectionStateUpdatedTime": device.last_activity,
        "statusUpdatedTime": device.status_updated,
        "lastActivityTime": device.last_activity,
        "cloudToDeviceMessageCount": pending,
        "authentication": {
            "symmetricKey": {
                "primaryKey": device.primary_key or None,
                "secondaryKey": device.secondary_key or None,
            },
            "x509Thumbprint": _thumbprints(device),
            "type": device.authentication_type,
        },
        "capabilities": {"iotEdge": device.edge},
    }


def twin_document(device: Device, current: Twin, *, connected: bool, pending: int) -> dict[str, Any]:
    """The twin as `GET /twins/{id}` and a query of devices return it."""
    return {
        "deviceId": device.device_id,
        "etag": current.etag,
        "deviceEtag": device.etag,
        "status": device.status,
        **({} if device.status_reason is None else {"statusReason": device.status_reason}),
        "statusUpdateTime": device.status_updated,
        "connectionState": "Connected" if connected else "Disconnected",
        "lastActivityTime": device.last_activity,
        "cloudToDeviceMessageCount": pending,
        "authenticationType": device.authentication_type,
        "x509Thumbprint": _thumbprints(device),
        "capabilities": {"iotEdge": device.edge},
        "version": device.version + current.version,
        "tags": current.tags,
        "properties": {"desired": current.desired.document(), "reported": current.reported.document()},
    }


def _thumbprints(device: Device) -> dict[str, str | None]:
    return {
        "primaryThumbprint": device.primary_thumbprint or None,
        "secondaryThumbprint": device.secondary_thumbprint or None,
    }
