"""How the cloud tells a device what to do: twin, direct methods and messages, through the hub's REST API.

https://learn.microsoft.com/rest/api/iothub/service/devices
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote

from requests import Response

from dpsx_helpers import registry, tutorial
from dpsx_helpers.display import View, copyable_block, note, prose, stacked, table
from dpsx_helpers.errors import LearnerError
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop

#: Where a device of this tutorial reports which version of its desired properties it has adopted.
ADOPTED = "desiredVersion"
_A_DAY = 86_400  # seconds: whatever is less the hub judges
_MARGIN = 10.0  # seconds that the hub may take beyond the times that a method is given
P = ParamSpec("P")
R = TypeVar("R")


class Refused(LearnerError):
    """The hub said no. `status` is that of HTTP, `code` the hub's name for it (DeviceNotOnline, PreconditionFailed)."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"The hub answered {' '.join(filter(None, (str(status), code)))}: {message.rstrip('.')}.")
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True)
class Twin:
    """The twin of one device; `desired` and `reported` are without what the hub adds ($version, $metadata)."""

    device_id: str
    etag: str
    tags: dict[str, Any]
    desired: dict[str, Any]
    reported: dict[str, Any]
    desired_version: int
    reported_version: int

    @property
    def adopted(self) -> Any:
        """The version of the desired properties that the device says it has adopted; None before it says so."""
        return self.reported.get(ADOPTED)

    @property
    def followed(self) -> bool:
        """Whether that is the latest version."""
        return bool(self.adopted == self.desired_version)


def _begins_with_target(call: Callable[P, R]) -> Callable[P, R]:
    """A forgotten `target` is one sentence, whatever else was given."""

    @wraps(call)
    def checked(*given: P.args, **named: P.kwargs) -> R:
        if not isinstance(given[0] if given else named.get("target"), Target):
            raise Stop(
                f"twins.{call.__name__} wants to know the target first: write twins.{call.__name__}(target, …), and "
                "run this cell again."
            )
        return call(*given, **named)

    return checked


@_begins_with_target
def get(target: Target, device_id: str) -> Twin | None:
    """The twin of the device of this (case-sensitive) ID, or None."""
    try:
        return _twin(_answered(registry.request(target, "GET", _path(device_id))))
    except Refused as refused:
        if refused.status == 404:
            return None
        raise


@_begins_with_target
def change(target: Target, device_id: str, patch: dict[str, Any], *, if_match: str | None = None) -> Twin:
    """The twin after a patch of its tags and desired properties ({"properties": {"desired": …}}); null deletes.

    `if_match`: the etag of the twin that the patch starts from. Raises Refused: 412 when that is no longer the one;
    Stop for a patch with neither tags nor desired properties, which a hub takes without a word, changing nothing.
    https://learn.microsoft.com/rest/api/iothub/service/devices/update-twin
    """
    properties = patch.get("properties") if isinstance(patch, dict) else None
    if (not isinstance(patch, dict) or "tags" not in patch) and not (
        isinstance(properties, dict) and "desired" in properties
    ):
        raise Stop(
            'The patch would change nothing: write {"properties": {"desired": { your settings }}} (or tags), and run '
            "this cell again."
        )
    headers = {} if if_match is None else {"If-Match": f'"{if_match}"'}
    return _twin(_answered(registry.request(target, "PATCH", _path(device_id), headers=headers, json=_sendable(patch))))


@_begins_with_target
def invoke(
    target: Target,
    device_id: str,
    method: str,
    payload: Any = None,
    *,
    response_timeout: int = 30,
    connect_timeout: int = 0,
) -> dict[str, Any]:
    """Call a direct method: {"status": …, "payload": …}, both as the device answers them.

    The hub waits `connect_timeout` seconds (0 to 300) for the device to be there, and `response_timeout` (5 to 300) for
    its answer. Raises Refused: 404 when it is not there, 504 when it does not answer.
    https://learn.microsoft.com/rest/api/iothub/service/devices/invoke-method
    """
    if not all(type(seconds) is int and abs(seconds) <= _A_DAY for seconds in (response_timeout, connect_timeout)):
        raise Stop(
            "Both times of a direct method are whole seconds: give response_timeout from 5 to 300, connect_timeout "
            "from 0 to 300, and run this cell again."
        )
    call = {
        "methodName": method,
        "payload": payload,
        "responseTimeoutInSeconds": response_timeout,
        "connectTimeoutInSeconds": connect_timeout,
    }
    within = response_timeout + connect_timeout + _MARGIN
    answer = registry.request(target, "POST", f"{_path(device_id)}/methods", json=_sendable(call), within=within)
    return dict(_answered(answer))


@_begins_with_target
def call_each(target: Target, device_id: str, *methods: str, response_timeout: int = 5) -> View:
    """Call these methods without payload, one after the other, and show what comes back, refusals too."""
    rows = []
    for method in methods:
        try:
            answer = invoke(target, device_id, method, response_timeout=response_timeout)
            rows.append((method, str(answer["status"]), json.dumps(answer["payload"], ensure_ascii=False)))
        except Refused as refused:
            rows.append((method, "no answer was sent", str(refused)))
    return table(f"Direct methods of {device_id}", ("METHOD", "STATUS", "PAYLOAD"), rows)


@_begins_with_target
def waiting(target: Target, device_id: str) -> int:
    """How many cloud-to-device messages wait for the device: its cloudToDeviceMessageCount. Raises Refused."""
    identity = _answered(registry.request(target, "GET", f"/devices/{quote(tutorial.identifier(device_id), safe='')}"))
    return int(identity["cloudToDeviceMessageCount"])


@_begins_with_target
def send(target: Target, device_id: str, *texts: str) -> View:
    """Send messages to the device. On Azure this side speaks AMQP, which these helpers do not: the lines that do it.

    Stop for what are no texts. https://learn.microsoft.com/cli/azure/iot/device/c2d-message
    """
    if not texts or not all(isinstance(text, str) for text in texts):
        raise Stop(
            'twins.send takes one text or more, each in quotes and no list: write twins.send(target, DEVICE, "first", '
            '"second"), and run this cell again.'
        )
    if not target.is_emulator:
        hub = target.hubs[0].split(".")[0]
        lines = [f"az iot device c2d-message send -n {hub} -d {device_id} --data {_quoted(text)}" for text in texts]
        what_to_do = "Run this in a terminal, after `az login`. The hub keeps the messages until the device comes."
        return stacked(prose(what_to_do), copyable_block("the commands", "\n".join(lines)))
    device = registry.get(target, device_id)
    awake = device is not None and device.connection_state == "Connected"
    for text in texts:
        target.send(device_id, text)
    sent = f"Sent to {device_id}: {', '.join(map(_quoted, texts))}."
    return note(f"{sent} It is connected, so nothing waits for it: it reads them at once." if awake else sent)


def _sendable(document: dict[str, Any]) -> dict[str, Any]:
    """What JSON can say; Stop for anything else, bytes for one, which is met before a request is made."""
    try:
        json.dumps(document, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise Stop(
            "What is to be sent has something in it that JSON cannot say: use texts, finite numbers, True, False, "
            "None, lists and dictionaries, and run this cell again."
        ) from None
    return document


def _quoted(text: str) -> str:
    """In double quotes, which bash, PowerShell and cmd all take."""
    return '"{}"'.format(text.replace('"', r"\""))


def _path(device_id: str) -> str:
    return f"/twins/{quote(tutorial.identifier(device_id), safe='')}"


def _twin(document: dict[str, Any]) -> Twin:
    sections = document.get("properties") or {}
    desired, reported = sections.get("desired") or {}, sections.get("reported") or {}
    return Twin(
        device_id=document["deviceId"],
        etag=str(document.get("etag", "")).strip('"'),
        tags=document.get("tags") or {},
        desired=_properties(desired),
        reported=_properties(reported),
        desired_version=desired.get("$version", 0),
        reported_version=reported.get("$version", 0),
    )


def _properties(section: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in section.items() if not name.startswith("$")}


def _answered(answer: Response) -> Any:
    """The JSON of an answer. Raises Refused."""
    if answer.ok:
        return answer.json()
    code, message = _reason(answer.text)
    raise Refused(answer.status_code, answer.headers.get("iothub-errorcode", code), message or answer.reason)


def _reason(body: str) -> tuple[str, str]:
    """(name, text) of an error. The hub wraps its text, sometimes as JSON within JSON:
    https://learn.microsoft.com/azure/iot-hub/troubleshoot-error-codes
    """
    try:
        document = json.loads(body)
    except ValueError:
        return "", body.strip()[:300]
    if not isinstance(document, dict):
        return "", str(document)[:300]
    inner = document.get("Message") or document.get("message") or ""
    if isinstance(inner, str) and inner.startswith("{"):
        return _reason(inner)
    found = re.fullmatch(r"ErrorCode:(\w+);(.*)", str(inner), re.DOTALL)
    return (found[1], found[2]) if found else ("", str(inner))
