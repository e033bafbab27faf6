"""The rules of an IoT hub's device side: who may connect, subscriptions, telemetry. No I/O, no clock.

https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-hub
Twins, cloud-to-device messages and direct methods have their rules in `twin`, `commands` and `methods`.
"""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dpsx_helpers.certificates import Description
from dpsx_helpers.emulator import mqtt, refusals, sas
from dpsx_helpers.emulator.identity import Device
from dpsx_helpers.emulator.refusals import Refused
from dpsx_helpers.emulator.topics import (
    HubLogin,
    HubRequest,
    Subscription,
    Telemetry,
    parse_subscription,
    parse_telemetry,
)

MAX_MESSAGE = 256 * 1024  # bytes, of body and properties together
# https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-quotas-throttling#other-limits
API_VERSIONS = frozenset(
    {
        "2016-02-03", "2016-11-14", "2017-06-30", "2017-11-08-preview", "2018-04-01", "2018-06-30",
        "2018-08-30-preview", "2019-03-30", "2019-07-01-preview", "2019-10-01", "2020-03-01", "2020-03-13",
        "2020-05-31-preview", "2020-06-30-preview", "2020-09-30", "2021-04-12", "2024-03-31",
    }
)  # fmt: skip

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


_AUTH_METHODS = {
    "selfSigned": '{"scope":"device","type":"x509Certificate","issuer":"external"}',
    "sas": '{"scope":"device","type":"sas","issuer":"iothub"}',
}


@dataclass(frozen=True, slots=True)
class Session:
    """A device that the hub let in."""

    hub: str
    device_id: str
    generation_id: str
    authentication_type: str = "selfSigned"


@dataclass(frozen=True, slots=True)
class Message:
    """A device-to-cloud message as the hub keeps it. Application properties may have no value (None)."""

    hub: str
    device_id: str
    enqueued: str
    properties: dict[str, str | None]
    system_properties: dict[str, str | None]
    body: bytes = field(repr=False)


def message_document(message: Message) -> dict[str, Any]:
    """A message as it is shown: `body` is text, or base64 where it is not UTF-8."""
    try:
        body = message.body.decode()
    except UnicodeDecodeError:
        body = b64encode(message.body).decode()
    return {
        "deviceId": message.device_id,
        "enqueuedTimeUtc": message.enqueued,
        "properties": message.properties,
        "systemProperties": message.system_properties,
        "body": body,
    }


def admit(
    connect: mqtt.Connect,
    login: HubLogin,
    certificate: Description | None,
    device: Device | None,
    hubs: Mapping[str, str],
    now: float,
) -> Session:
    """Let a device in by the thumbprint of its certificate or by a token signed with its key, or raise Refused.

    `now` is unix seconds.
    """
    name = login.device_id
    if login.api_version not in API_VERSIONS:
        raise Refused(refusals.UNKNOWN_API_VERSION, api_version=login.api_version)
    if login.host.lower() not in {address.lower() for address in hubs.values()}:
        raise Refused(refusals.UNKNOWN_HUB, host=login.host, hubs=", ".join(hubs.values()) or "no hub at all")
    if login.module_id is not None:
        raise Refused(refusals.NOT_EMULATED, feature="a module identity", device=name)
    if connect.client_id != name:
        raise Refused(refusals.HUB_CLIENT_ID_DIFFERS, client_id=connect.client_id, device_id=name)
    if device is None:
        raise Refused(refusals.UNKNOWN_DEVICE, host=login.host, device_id=name)
    session = Session(device.hub, device.device_id, device.generation_id, device.authentication_type)
    if connect.will is not None:
        _will_topic(session, connect.will)
    if device.primary_key:
        _check_token(device, login.host, connect.password or "", now)
    elif certificate is None:
        raise Refused(refusals.NO_CERTIFICATE, device=name)
    else:
        known = {device.primary_thumbprint.upper(), device.secondary_thumbprint.upper()}
        if known.isdisjoint({certificate.thumbprint_sha1, certificate.thumbprint_sha256}):
            raise Refused(refusals.THUMBPRINT_DIFFERS, device_id=name, thumbprint=certificate.thumbprint_sha256)
    if device.status != "enabled":
        raise Refused(refusals.DEVICE_DISABLED, device_id=name)
    return session


def _check_token(device: Device, host: str, token: str, now: float) -> None:
    """https://learn.microsoft.com/azure/iot-hub/authenticate-authorize-sas"""
    resource = f"{host}/devices/{device.device_id}"
    for key in (device.primary_key, device.secondary_key):
        why = sas.verify_device(token, resource, key, now)
        if why is None:
            return
    raise Refused(refusals.TOKEN_NOT_VALID, device_id=device.device_id, why=why)


def _will_topic(session: Session, will: mqtt.Will) -> Telemetry:
    """A Will is a message of telemetry that the hub sends to itself when the device is lost. Raises Refused."""
    telemetry = parse_telemetry(will.topic)
    if telemetry is None or telemetry.device_id != session.device_id or will.qos == 2:
        raise Refused(refusals.BAD_WILL, device=session.device_id, topic=will.topic)
    return telemetry


def subscribe(session: Session, packet: mqtt.Subscribe) -> list[tuple[Subscription, int]]:
    """What is subscribed to, with the QoS granted; QoS 2 is granted as 1. Raises Refused for any other filter."""
    granted = []
    for topic, qos in packet.filters:
        subscription = parse_subscription(topic, session.device_id)
        if subscription is None:
            row = refusals.FOREIGN_TOPIC if topic.startswith("devices/") else refusals.HUB_UNKNOWN_FILTER
            raise Refused(row, device=session.device_id, topic=topic)
        granted.append((subscription, min(qos, 1)))
    return granted


def receive(session: Session, packet: mqtt.Publish, telemetry: Telemetry, enqueued: str) -> Message:
    """The message in a PUBLISH of telemetry that came at `enqueued`, or Refused."""
    check_size(session, _size(telemetry, packet.payload), MAX_MESSAGE)
    return _message(session, telemetry, packet.payload, retain=packet.retain, dup=packet.dup, enqueued=enqueued)


def check_publish(session: Session, packet: mqtt.Publish, request: HubRequest | None) -> HubRequest:
    """The request that a PUBLISH makes (`request`, as its topic says), or Refused."""
    if packet.qos == 2:
        raise Refused(refusals.QOS_2, device=session.device_id)
    if request is None:
        raise Refused(refusals.UNKNOWN_TOPIC, device=session.device_id, topic=packet.topic)
    if isinstance(request, Telemetry) and request.device_id != session.device_id:
        raise Refused(refusals.FOREIGN_TOPIC, device=session.device_id, topic=packet.topic)
    return request


def _size(telemetry: Telemetry, payload: bytes) -> int:
    """Body, values of system properties, names and values of application properties:
    https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-messages-construct
    """
    texts = [value for value in telemetry.properties.values() if value]
    texts += [name for name in telemetry.properties if not name.startswith("$.")]
    return len(payload) + sum(len(text.encode(errors="surrogatepass")) for text in texts)


def check_size(session: Session, size: int, limit: int) -> None:
    if size > limit:
        raise Refused(refusals.TOO_LARGE, device=session.device_id, size=size, limit=limit)


def last_words(session: Session, will: mqtt.Will, enqueued: str) -> Message:
    """The message that a hub makes of the Will of a device that went without a DISCONNECT."""
    topic = _will_topic(session, will)
    message = _message(session, topic, will.payload, retain=will.retain, dup=False, enqueued=enqueued)
    message.properties["iothub-MessageType"] = "Will"
    return message


def _message(
    session: Session, telemetry: Telemetry, payload: bytes, *, retain: bool, dup: bool, enqueued: str
) -> Message:
    """Sort the bag into system and application properties; what the hub itself vouches for comes last and wins."""
    system: dict[str, str | None] = {}
    properties: dict[str, str | None] = {}
    for name, value in telemetry.properties.items():
        if name.startswith("$."):
            system[SYSTEM_PROPERTIES.get(name, name)] = value
        else:
            properties[name] = value
    # https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-hub#sending-device-to-cloud-messages
    properties |= {name: "true" for name, flag in (("mqtt-retain", retain), ("mqtt-dup", dup)) if flag}
    system |= {
        "connectionDeviceId": session.device_id,
        "connectionDeviceGenerationId": session.generation_id,
        "connectionAuthMethod": _AUTH_METHODS[session.authentication_type],
        "enqueuedTime": enqueued,
    }
    return Message(session.hub, session.device_id, enqueued, properties, system, payload)
