"""The names that devices use: CONNECT user names and topics of DPS and of a hub. Parse and build, nothing else.

DPS: https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-dps
IoT Hub: https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-hub
"""

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

DPS_RESPONSES = "$dps/registrations/res/#"

# What a device may publish to or subscribe to on a hub beside telemetry. Documented, not emulated in this version.
HUB_FEATURES = {
    "cloud-to-device messages": re.compile(r"devices/[^/]+/messages/devicebound/#"),
    "device twin": re.compile(r"\$iothub/twin/(res/#|GET/.*|PATCH/properties/.*)"),
    "direct methods": re.compile(r"\$iothub/methods/(POST/#|res/.*)"),
}

_DPS_USER = re.compile(r"(?P<scope>[^/]*)/registrations/(?P<registration_id>[^/]*)/(?P<parameters>.*)", re.DOTALL)
_HUB_USER = re.compile(r"(?P<host>[^/]+)/(?P<device_id>[^/]+)/\??(?P<parameters>.*)", re.DOTALL)
_REGISTER = re.compile(r"\$dps/registrations/PUT/iotdps-register/\?(?P<query>.*)", re.DOTALL)
_POLL = re.compile(r"\$dps/registrations/GET/iotdps-get-operationstatus/\?(?P<query>.*)", re.DOTALL)
_EVENTS = re.compile(r"devices/(?P<device_id>[^/]+)/messages/events(?:/(?P<bag>.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class DpsLogin:
    """`{idScope}/registrations/{registrationId}/api-version=…[&ClientVersion=…]`."""

    id_scope: str
    registration_id: str
    api_version: str


@dataclass(frozen=True, slots=True)
class HubLogin:
    """`{hub}/{deviceId}/?api-version=…[&DeviceClientType=…]`."""

    host: str
    device_id: str
    api_version: str


@dataclass(frozen=True, slots=True)
class Register:
    """Ask for registration. `request_id` (`$rid`) is echoed to the letter."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Poll:
    """Ask how the operation stands."""

    request_id: str
    operation_id: str


@dataclass(frozen=True, slots=True)
class Telemetry:
    """A device-to-cloud message. `properties` are the pairs of the bag, decoded; None = a key with no value."""

    device_id: str
    properties: dict[str, str | None]


def parse_login(username: str | None) -> DpsLogin | HubLogin | None:
    """Tell by its user name whether a device wants DPS or a hub; None when it is neither."""
    if username is None:
        return None
    if match := _DPS_USER.fullmatch(username):
        return DpsLogin(match["scope"], match["registration_id"], _api_version(match["parameters"]))
    if match := _HUB_USER.fullmatch(username):
        return HubLogin(match["host"], match["device_id"], _api_version(match["parameters"]))
    return None


def _api_version(parameters: str) -> str:
    return dict(parse_qsl(parameters)).get("api-version", "")


def parse_dps(topic: str) -> Register | Poll | None:
    """The request that a device publishes to DPS; None for any other topic."""
    if match := _REGISTER.fullmatch(topic):
        request_id = _raw_item(match["query"], "$rid")
        return Register(request_id) if request_id else None
    if match := _POLL.fullmatch(topic):
        request_id, operation_id = (_raw_item(match["query"], name) for name in ("$rid", "operationId"))
        return Poll(request_id, unquote(operation_id)) if request_id and operation_id else None
    return None


def _raw_item(query: str, name: str) -> str:
    """The value of one query item exactly as it was sent."""
    for item in query.split("&"):
        key, _, value = item.partition("=")
        if key == name:
            return value
    return ""


def dps_response(status: int, request_id: str, retry_after: int | None = None) -> str:
    """Topic of an answer. `$rid` comes first and the slash before `?` stays: clients match on both."""
    suffix = "" if retry_after is None else f"&retry-after={retry_after}"
    return f"$dps/registrations/res/{status}/?$rid={request_id}{suffix}"


def parse_telemetry(topic: str) -> Telemetry | None:
    """The message a device publishes to its hub; None for any other topic. The device ID is not encoded."""
    match = _EVENTS.fullmatch(topic)
    if match is None:
        return None
    return Telemetry(match["device_id"], parse_bag(match["bag"] or ""))


def parse_bag(bag: str) -> dict[str, str | None]:
    """A property bag: url-encoded pairs joined by `&`. `key=` is an empty value, a bare `key` is no value."""
    pairs = {}
    for item in filter(None, bag.split("&")):
        key, equals, value = item.partition("=")
        pairs[unquote(key)] = unquote(value) if equals else None
    return pairs


def hub_feature(topic: str) -> str | None:
    """Which documented feature of a hub a topic or filter belongs to, telemetry aside; None when it is none."""
    return next((name for name, pattern in HUB_FEATURES.items() if pattern.fullmatch(topic)), None)
