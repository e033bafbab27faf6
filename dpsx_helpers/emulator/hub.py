"""The rules of an IoT hub: identities, who may connect, telemetry, and the documents of its data plane. No I/O.

Device side: https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-hub
Identity registry: https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-identity-registry
"""

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dpsx_helpers.certificates import Description
from dpsx_helpers.emulator import mqtt, refusals
from dpsx_helpers.emulator.dps import Assignment
from dpsx_helpers.emulator.refusals import Refused
from dpsx_helpers.emulator.stamps import Stamp
from dpsx_helpers.emulator.topics import HubLogin, Telemetry, hub_feature, parse_telemetry

MAX_MESSAGE = 256 * 1024  # bytes, of body and properties together
# https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-quotas-throttling#other-limits
API_VERSIONS = frozenset(
    {
        "2016-02-03", "2016-11-14", "2017-06-30", "2017-11-08-preview", "2018-04-01", "2018-06-30",
        "2018-08-30-preview", "2019-03-30", "2019-07-01-preview", "2019-10-01", "2020-03-01", "2020-03-13",
        "2020-05-31-preview", "2020-06-30-preview", "2020-09-30", "2021-04-12", "2024-03-31",
    }
)  # fmt: skip
_NEVER = "0001-01-01T00:00:00Z"

# Names in a topic's property bag and in a message as a hub routes it:
# https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-messages-construct
SYSTEM_PROPERTIES = {
    "$.mid": "messageId",
    "$.cid": "correlationId",
    "$.uid": "userId",
    "$.to": "to",
    "$.ct": "contentType",
    "$.ce": "contentEncoding",
    "$.exp": "absoluteExpiryTime",
    "$.on": "outputName",
    "$.ifid": "interfaceId",
    "$.sub": "componentName",
    "$.schema": "messageSchema",
    "$.ctime": "creationTimeUtc",
}


@dataclass(frozen=True, slots=True)
class Device:
    """A device identity and its twin in the hub `hub`. Thumbprints are SHA-256, upper-case hex, no separators.

    `version` counts the changes of the identity and `twin_version` those of the twin: both are etags.
    """

    hub: str
    device_id: str
    generation_id: str
    primary_thumbprint: str
    secondary_thumbprint: str
    created: str
    status: str = "enabled"
    version: int = 1
    twin_version: int = 1
    last_activity: str = _NEVER
    edge: bool = False
    tags: dict[str, Any] = field(default_factory=dict)
    desired: dict[str, Any] = field(default_factory=dict)

    @property
    def etag(self) -> str:
        return b64encode(str(self.version).encode()).decode()

    @property
    def twin_etag(self) -> str:
        return b64encode(self.twin_version.to_bytes(8, "big")).decode()


@dataclass(frozen=True, slots=True)
class Session:
    """A device that the hub let in."""

    hub: str
    device_id: str
    generation_id: str


@dataclass(frozen=True, slots=True)
class Message:
    """A device-to-cloud message as the hub keeps it. Application properties may have no value (None)."""

    hub: str
    device_id: str
    enqueued: str
    properties: dict[str, str | None]
    system_properties: dict[str, str | None]
    body: bytes = field(repr=False)


def provision(existing: Device | None, assignment: Assignment, stamp: Stamp) -> Device:
    """The identity that DPS wants. A new one gets the initial twin; an existing one keeps its twin and its status."""
    wanted = (assignment.primary_thumbprint, assignment.secondary_thumbprint)
    if existing is None:
        twin = assignment.initial_twin
        return Device(
            hub=assignment.hub,
            device_id=assignment.device_id,
            generation_id=str(int(stamp.now.timestamp() * 10_000_000) + 621_355_968_000_000_000),
            primary_thumbprint=wanted[0],
            secondary_thumbprint=wanted[1],
            created=stamp.text,
            edge=assignment.edge,
            tags=twin.get("tags", {}),
            desired=twin.get("properties", {}).get("desired", {}),
        )
    if (existing.primary_thumbprint, existing.secondary_thumbprint) == wanted:
        return existing
    return replace(existing, primary_thumbprint=wanted[0], secondary_thumbprint=wanted[1], version=existing.version + 1)


def admit(
    connect: mqtt.Connect,
    login: HubLogin,
    certificate: Description | None,
    device: Device | None,
    hubs: Mapping[str, str],
) -> Session:
    """Let a device in by the thumbprint of its certificate (SHA-1 or SHA-256), or raise Refused."""
    name = login.device_id
    if login.api_version not in API_VERSIONS:
        raise Refused(refusals.UNKNOWN_API_VERSION, api_version=login.api_version)
    if login.host.lower() not in {address.lower() for address in hubs.values()}:
        raise Refused(refusals.UNKNOWN_HUB, host=login.host, hubs=", ".join(hubs.values()) or "no hub at all")
    if connect.client_id != name:
        raise Refused(refusals.HUB_CLIENT_ID_DIFFERS, client_id=connect.client_id, device_id=name)
    if connect.has_will:
        raise Refused(refusals.NOT_EMULATED, feature="a Will", device=name)
    if certificate is None:
        raise Refused(refusals.NO_CERTIFICATE, device=name)
    if device is None:
        raise Refused(refusals.UNKNOWN_DEVICE, host=login.host, device_id=name)
    known = {device.primary_thumbprint.upper(), device.secondary_thumbprint.upper()}
    if known.isdisjoint({certificate.thumbprint_sha1, certificate.thumbprint_sha256}):
        raise Refused(refusals.THUMBPRINT_DIFFERS, device_id=name, thumbprint=certificate.thumbprint_sha256)
    if device.status != "enabled":
        raise Refused(refusals.DEVICE_DISABLED, device_id=name)
    return Session(device.hub, device.device_id, device.generation_id)


def touched(device: Device, stamp: Stamp) -> Device:
    """The device was active just now. No etag moves."""
    return replace(device, last_activity=stamp.text)


def subscribe(session: Session, packet: mqtt.Subscribe) -> list[int]:
    """What a device subscribes to on a hub is not emulated in this version, or does not exist: Refused either way."""
    topic = packet.filters[0][0]
    raise _no_such_topic(session, topic, refusals.UNKNOWN_FILTER)


def receive(session: Session, packet: mqtt.Publish, stamp: Stamp) -> Message:
    """The message in a PUBLISH of telemetry. Raises Refused for everything else."""
    if packet.qos == 2:
        raise Refused(refusals.QOS_2, device=session.device_id)
    telemetry = parse_telemetry(packet.topic)
    if telemetry is None:
        raise _no_such_topic(session, packet.topic, refusals.UNKNOWN_TOPIC)
    if telemetry.device_id != session.device_id:
        raise Refused(refusals.FOREIGN_TOPIC, device=session.device_id, topic=packet.topic)
    size = len(packet.payload) + len(packet.topic.partition("/events")[2].encode())
    if size > MAX_MESSAGE:
        raise Refused(refusals.TOO_LARGE, device=session.device_id, size=size, limit=MAX_MESSAGE)
    return _message(session, packet, telemetry, stamp)


def device_document(device: Device, *, connected: bool) -> dict[str, Any]:
    """The identity as `GET /devices/{id}` shows it."""
    return {
        "deviceId": device.device_id,
        "generationId": device.generation_id,
        "etag": device.etag,
        "connectionState": "Connected" if connected else "Disconnected",
        "status": device.status,
        "statusReason": None,
        "connectionStateUpdatedTime": device.last_activity,
        "statusUpdatedTime": _NEVER,
        "lastActivityTime": device.last_activity,
        "cloudToDeviceMessageCount": 0,
        "authentication": {
            "symmetricKey": {"primaryKey": None, "secondaryKey": None},
            "x509Thumbprint": {
                "primaryThumbprint": device.primary_thumbprint,
                "secondaryThumbprint": device.secondary_thumbprint,
            },
            "type": "selfSigned",
        },
        "capabilities": {"iotEdge": device.edge},
    }


def twin_document(device: Device, *, connected: bool) -> dict[str, Any]:
    """The twin as a query of devices returns it:
    https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-device-twins
    """
    return {
        "deviceId": device.device_id,
        "etag": device.twin_etag,
        "deviceEtag": device.etag,
        "status": device.status,
        "statusUpdateTime": _NEVER,
        "connectionState": "Connected" if connected else "Disconnected",
        "lastActivityTime": device.last_activity,
        "cloudToDeviceMessageCount": 0,
        "authenticationType": "selfSigned",
        "x509Thumbprint": {
            "primaryThumbprint": device.primary_thumbprint,
            "secondaryThumbprint": device.secondary_thumbprint,
        },
        "capabilities": {"iotEdge": device.edge},
        "version": device.version + device.twin_version,
        "tags": device.tags,
        "properties": {"desired": _section(device.desired, device.created), "reported": _section({}, device.created)},
    }


def check_query(text: Any) -> None:
    """The one query of devices that this version answers; any other is refused by name."""
    if not isinstance(text, str) or not text.strip():
        raise Refused(refusals.HUB_BAD_REQUEST, why="the body has no query")
    if not re.fullmatch(r"\s*select\s+\*\s+from\s+devices\s*;?\s*", text, re.IGNORECASE):
        raise Refused(refusals.HUB_NOT_EMULATED, feature=f"the query {text[:60]}")


def check_etag(device: Device | None, device_id: str, if_match: str | None) -> Device:
    """The device, when a DELETE may go ahead: `If-Match` is required, quoted or not, and `*` matches anything."""
    if device is None:
        raise Refused(refusals.DEVICE_NOT_FOUND, device_id=device_id)
    if if_match is None:
        raise Refused(refusals.DEVICE_CHANGED, why="Etag missing: the request has no If-Match")
    if if_match.strip().strip('"') not in ("*", device.etag):
        raise Refused(refusals.DEVICE_CHANGED, why="the If-Match of the request is not the etag of the device")
    return device


def _no_such_topic(session: Session, topic: str, unknown: refusals.Refusal) -> Refused:
    feature = hub_feature(topic)
    if feature:
        return Refused(refusals.NOT_EMULATED, feature=feature, device=session.device_id)
    return Refused(unknown, device=session.device_id, topic=topic)


def _message(session: Session, packet: mqtt.Publish, telemetry: Telemetry, stamp: Stamp) -> Message:
    """Sort the bag into system and application properties; what the hub itself vouches for comes last and wins."""
    system: dict[str, str | None] = {}
    properties: dict[str, str | None] = {}
    for name, value in telemetry.properties.items():
        if name.startswith("$."):
            system[SYSTEM_PROPERTIES.get(name, name)] = value
        else:
            properties[name] = value
    # https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-hub#sending-device-to-cloud-messages
    properties |= {name: "true" for name, flag in (("mqtt-retain", packet.retain), ("mqtt-dup", packet.dup)) if flag}
    system |= {
        "connectionDeviceId": session.device_id,
        "connectionDeviceGenerationId": session.generation_id,
        "connectionAuthMethod": '{"scope":"device","type":"x509Certificate","issuer":"external"}',
        "enqueuedTime": stamp.text,
    }
    return Message(session.hub, session.device_id, stamp.text, properties, system, packet.payload)


def _section(values: dict[str, Any], updated: str) -> dict[str, Any]:
    """A section of the twin with its metadata: when each value was last set, and the version of the whole."""
    return values | {"$metadata": _metadata(values, updated), "$version": 1}


def _metadata(values: dict[str, Any], updated: str) -> dict[str, Any]:
    nested = {name: _metadata(value if isinstance(value, dict) else {}, updated) for name, value in values.items()}
    return {"$lastUpdated": updated} | nested
