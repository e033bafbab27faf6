"""The devices in the hub, through its REST API (https://learn.microsoft.com/rest/api/iothub/service/devices)."""

import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import requests

from dpsx_helpers import diagnosis, tutorial
from dpsx_helpers.emulator.sas import sign
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import NotReadable, Stop

_API_VERSION = "2021-04-12"
_AUDIENCE = "https://iothubs.azure.net/.default"
_SLOTS = ("primary", "secondary")


@dataclass(frozen=True)
class Device:
    """One device identity with the desired properties of its twin (with their $metadata and $version)."""

    device_id: str
    status: str
    primary_thumbprint: str | None
    connection_state: str
    desired: dict[str, Any]
    secondary_thumbprint: str | None = None


def get(target: Target, device_id: str) -> Device | None:
    """The device of this (case-sensitive) ID, or None."""
    answer = _request(target, "GET", f"/devices/{quote(tutorial.identifier(device_id), safe='')}")
    if answer is None:
        return None
    twins = [twin for twin in _twins(target) if twin["deviceId"] == device_id]
    return _device({**answer, **(twins[0] if twins else {})}, answer)


def list_all(target: Target) -> list[Device]:
    """Every device of the hub."""
    return [_device(twin, {}) for twin in _twins(target)]


def set_status(target: Target, device_id: str, status: str) -> None:
    """Set the device "enabled", or "disabled": then the hub takes no connection of it. Stop when it is not there.

    https://learn.microsoft.com/rest/api/iothub/service/devices/create-or-update-identity
    """
    path = f"/devices/{quote(tutorial.identifier(device_id), safe='')}"
    identity = _request(target, "GET", path)
    if identity is None:
        raise Stop(f"The hub has no device {device_id}: let it register first, and run this cell again.")
    _request(target, "PUT", path, headers={"If-Match": "*"}, json=identity | {"status": status})


def delete(target: Target, device_id: str) -> bool:
    """Delete the device from the hub; False when it was not there."""
    found = (
        _request(
            target, "DELETE", f"/devices/{quote(tutorial.identifier(device_id), safe='')}", headers={"If-Match": "*"}
        )
        is not None
    )
    if tutorial.recall().get("device") == device_id:
        tutorial.forget("device", "hub")
    return found


def _twins(target: Target) -> list[dict[str, Any]]:
    return list(_request(target, "POST", "/devices/query", json={"query": "SELECT * FROM devices"}) or [])


def _device(twin: dict[str, Any], identity: dict[str, Any]) -> Device:
    x509 = identity.get("authentication", {}).get("x509Thumbprint") or twin.get("x509Thumbprint") or {}
    # The twin's spelling varies.
    primary, secondary = (x509.get(f"{slot}Thumbprint") or x509.get(f"{slot.title()}Thumbprint") for slot in _SLOTS)
    return Device(
        device_id=twin["deviceId"],
        status=twin.get("status", "enabled"),
        primary_thumbprint=primary.upper() if primary else None,
        connection_state=twin.get("connectionState", "Disconnected"),
        desired=(twin.get("properties") or {}).get("desired") or {},
        secondary_thumbprint=secondary.upper() if secondary else None,
    )


def request(
    target: Target,
    method: str,
    path: str,
    *,
    headers: dict[str, str] | None = None,
    json: Any = None,
    within: float = 10,
) -> requests.Response:
    """The hub's answer to one request of the service side, whatever its status, within so many seconds.

    Stop when the hub does not answer, NotReadable without access to it.
    """
    with diagnosis.explain_service("hub"), requests.Session() as session:
        host, authorization = _access(target)
        session.trust_env = not target.is_emulator  # a proxy set up for the internet does not lead to this machine
        return session.request(
            method,
            f"https://{host}{path}",
            params={"api-version": _API_VERSION},
            headers={"Authorization": authorization, **(headers or {})},
            json=json,
            verify=str(target.bundle_file) if target.is_emulator else True,
            timeout=(15, within + 20) if target.join else (3, within),  # a whole class may wait for its answers
        )


def _access(target: Target) -> tuple[str, str]:
    """The hub's host, and what to send as `Authorization`: a signature by the connection string's key, else a token of
    whoever is signed in (https://learn.microsoft.com/azure/iot-hub/authenticate-authorize-azure-ad).
    """
    if target.iothub_connection_string is not None:
        parts = dict(part.split("=", 1) for part in target.iothub_connection_string.split(";"))
        host, in_five_minutes = parts["HostName"], int(time.time()) + 300
        return host, sign(host, parts["SharedAccessKeyName"], parts["SharedAccessKey"], in_five_minutes)
    if target.credential is not None and target.hubs:
        return target.hubs[0], f"Bearer {target.credential.get_token(_AUDIENCE).token}"
    raise NotReadable(
        "Without IOTHUB_CONNECTION_STRING this tutorial does not read or change the devices of your hub on Azure: "
        "open your IoT hub in the portal, then Devices "
        "(or run `az iot hub device-identity list --hub-name <your hub>`)."
    )


def _request(target: Target, method: str, path: str, headers: dict[str, str] | None = None, json: Any = None) -> Any:
    """The JSON answer ({} when empty), or None for 404."""
    answer = request(target, method, path, headers=headers, json=json)
    if answer.status_code == 404:
        return None
    if answer.status_code in (401, 403) and not target.is_emulator:
        raise Stop(
            f"Your hub refused the request ({answer.status_code}): the connection string is not one of today's, or the "
            "account that is signed in lacks the role IoT Hub Data Contributor; mend that and run this cell again."
        )
    # The emulator's reason, for which its log may have had no room.
    reason = answer.text.partition(";")[2].partition('"')[0] if answer.status_code == 500 and target.is_emulator else ""
    if reason:
        raise Stop(f"The hub answered 500 ({reason}): mend that and run this cell again.")
    if not answer.ok:
        raise Stop(
            f"The hub answered {answer.status_code} ({answer.reason}) to {method} {path}: look at "
            "views.log(target) for the reason."
        )
    return answer.json() if answer.content else {}
