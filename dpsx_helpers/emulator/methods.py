"""The rules of direct methods: what a service may ask for, and what it gets back. No I/O, no clock.

https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-direct-methods
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from dpsx_helpers.emulator import documents, refusals
from dpsx_helpers.emulator.refusals import Refused, bad_at_hub

MAX_PAYLOAD = 128 * 1024  # bytes
_RESPONSE, _CONNECT = (5, 300, 30), (0, 300, 0)  # seconds: least, most, default
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,100}")


@dataclass(frozen=True, slots=True)
class Call:
    """A direct method to call. `payload` is JSON as it goes to the device; times are in seconds."""

    name: str
    payload: bytes
    response_within: float
    connect_within: float


def parse(document: Any) -> Call:
    """The call that a request asks for. Raises Refused. The Azure CLI sends its times as text."""
    if not isinstance(document, dict):
        raise bad_at_hub("the body is not a JSON object")
    name = document.get("methodName")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise bad_at_hub("methodName is not a text of 1 to 100 characters")
    try:
        payload = json.dumps(document.get("payload"), ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise bad_at_hub("payload holds half a surrogate pair, which is no text") from None
    if len(payload) > MAX_PAYLOAD:
        raise Refused(refusals.METHOD_TOO_LARGE, size=len(payload), limit=MAX_PAYLOAD)
    response = _seconds(document, "responseTimeoutInSeconds", *_RESPONSE)
    connect = _seconds(document, "connectTimeoutInSeconds", *_CONNECT)
    return Call(name, payload, response, connect)


def answer(device_id: str, status: int, payload: bytes) -> dict[str, Any]:
    """The document of a device's answer. Raises Refused when what it sent is not JSON."""
    try:
        return {"status": status, "payload": documents.load(payload) if payload.strip() else None}
    except ValueError:
        raise Refused(refusals.BAD_METHOD_ANSWER, device_id=device_id) from None


def _seconds(document: dict[str, Any], name: str, least: int, most: int, default: int) -> float:
    value = document.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,4}", str(value)) or not least <= int(value) <= most:
        raise bad_at_hub(f"{name} is not a whole number of seconds from {least} to {most}")
    return int(value)
