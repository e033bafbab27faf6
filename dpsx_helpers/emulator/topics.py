"""The names that devices use: CONNECT user names and topics of DPS and of a hub. Parse and build, nothing else.

DPS: https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-dps
IoT Hub: https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-hub
"""

import re
from dataclasses import dataclass
from enum import Enum
from urllib.parse import parse_qsl, quote, unquote

_LONGEST_REQUEST_ID = 1024  # characters
DPS_RESPONSES = "$dps/registrations/res/#"

_DPS_USER = re.compile(r"(?P<scope>[^/]*)/registrations/(?P<registration_id>[^/]*)/(?P<parameters>.*)", re.DOTALL)
_HUB_USER = re.compile(
    r"(?P<host>[^/]+)/(?P<device_id>[^/]+)(?:/(?P<module_id>[^/?]+))?/\??(?P<parameters>[^/]*=.*|)", re.DOTALL
)
_REGISTER = re.compile(r"\$dps/registrations/PUT/iotdps-register/\?(?P<query>.*)", re.DOTALL)
_POLL = re.compile(r"\$dps/registrations/GET/iotdps-get-operationstatus/\?(?P<query>.*)", re.DOTALL)
_EVENTS = re.compile(r"devices/(?P<device_id>[^/]+)/messages/events(?:/(?P<bag>.*))?", re.DOTALL)
_TWIN_GET = re.compile(r"\$iothub/twin/GET/\?(?P<query>.*)", re.DOTALL)
_TWIN_PATCH = re.compile(r"\$iothub/twin/PATCH/properties/reported/\?(?P<query>.*)", re.DOTALL)
_METHOD_ANSWER = re.compile(r"\$iothub/methods/res/(?P<status>-?[0-9]{1,10})/\?(?P<query>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class DpsLogin:
    """`{idScope}/registrations/{registrationId}/api-version=…[&ClientVersion=…]`."""

    id_scope: str
    registration_id: str
    api_version: str


@dataclass(frozen=True, slots=True)
class HubLogin:
    """`{hub}/{deviceId}[/{moduleId}]/?api-version=…[&DeviceClientType=…]`."""

    host: str
    device_id: str
    api_version: str
    module_id: str | None = None


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


@dataclass(frozen=True, slots=True)
class TwinGet:
    """Ask for the twin."""

    request_id: str


@dataclass(frozen=True, slots=True)
class TwinPatch:
    """Report properties."""

    request_id: str


@dataclass(frozen=True, slots=True)
class MethodAnswer:
    """What a device says to a direct method. `status` is its own number."""

    request_id: str
    status: int


class Subscription(Enum):
    """The filters that a device may subscribe to on a hub."""

    COMMANDS = "devices/{}/messages/devicebound/#"
    TWIN = "$iothub/twin/res/#"
    DESIRED = "$iothub/twin/PATCH/properties/desired/#"
    METHODS = "$iothub/methods/POST/#"


HubRequest = Telemetry | TwinGet | TwinPatch | MethodAnswer


def parse_login(username: str | None) -> DpsLogin | HubLogin | None:
    """Tell by its user name whether a device wants DPS or a hub; None when it is neither."""
    if username is None:
        return None
    if match := _DPS_USER.fullmatch(username):
        return DpsLogin(match["scope"], match["registration_id"], _api_version(match["parameters"]))
    if match := _HUB_USER.fullmatch(username):
        return HubLogin(match["host"], match["device_id"], _api_version(match["parameters"]), match["module_id"])
    return None


def _api_version(parameters: str) -> str:
    return dict(parse_qsl(parameters)).get("api-version", "")


def parse_dps(topic: str) -> Register | Poll | None:
    """The request that a device publishes to DPS; None for any other topic."""
    if match := _REGISTER.fullmatch(topic):
        request_id = _request_id(match["query"])
        return Register(request_id) if request_id else None
    if match := _POLL.fullmatch(topic):
        request_id, operation_id = _request_id(match["query"]), _raw_item(match["query"], "operationId")
        return Poll(request_id, unquote(operation_id)) if request_id and operation_id else None
    return None


def _request_id(query: str) -> str:
    """`$rid`, which comes back in the topic of the answer, where there is an end; "" when it is missing or too long."""
    value = _raw_item(query, "$rid")
    return value if len(value) <= _LONGEST_REQUEST_ID else ""


def _raw_item(query: str, name: str) -> str:
    """The value of one query item exactly as it was sent; "" when it is missing."""
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


def parse_hub(topic: str) -> HubRequest | None:
    """What a device publishes to its hub; None for any other topic."""
    if not topic.startswith("$iothub/"):  # telemetry above all
        return parse_telemetry(topic)
    for pattern, kind in ((_TWIN_GET, TwinGet), (_TWIN_PATCH, TwinPatch)):
        if match := pattern.fullmatch(topic):
            request_id = _request_id(match["query"])
            return kind(request_id) if request_id else None
    if match := _METHOD_ANSWER.fullmatch(topic):
        request_id = _request_id(match["query"])
        return MethodAnswer(request_id, int(match["status"])) if request_id else None
    return None


def parse_subscription(topic: str, device_id: str) -> Subscription | None:
    """Which filter of its hub a device means; None for any other, and for those of another device."""
    return next((one for one in Subscription if one.value.replace("{}", device_id) == topic), None)


def twin_answer(status: int, request_id: str, version: int | None = None) -> str:
    """Topic of an answer about the twin; `version` is that of the reported properties after a change."""
    suffix = "" if version is None else f"&$version={version}"
    return f"$iothub/twin/res/{status}/?$rid={request_id}{suffix}"


def desired_changed(version: int) -> str:
    """Topic that tells a device of a change of its desired properties."""
    return f"$iothub/twin/PATCH/properties/desired/?$version={version}"


def method(name: str, request_id: str) -> str:
    """Topic of a direct method's call."""
    return f"$iothub/methods/POST/{quote(name, safe='')}/?$rid={request_id}"


def command(device_id: str, properties: dict[str, str | None]) -> str:
    """Topic of a cloud-to-device message with its property bag."""
    return f"devices/{device_id}/messages/devicebound/{build_bag(properties)}"


def build_bag(properties: dict[str, str | None]) -> str:
    """The reverse of `parse_bag`."""
    pairs = ((quote(name, safe=""), value) for name, value in properties.items())
    return "&".join(name if value is None else f"{name}={quote(value, safe='')}" for name, value in pairs)
