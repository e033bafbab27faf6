"""The rules of cloud-to-device messages: the queue of a device, expiry, and how one looks on the wire. No I/O.

https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-messages-c2d
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from dpsx_helpers.emulator import refusals, topics
from dpsx_helpers.emulator.refusals import Refused, bad_at_hub
from dpsx_helpers.emulator.stamps import Stamp

MAX_MESSAGE = 64 * 1024  # bytes, of body and properties together
MAX_PENDING = 50
MAX_DELIVERIES = 10
TIME_TO_LIVE, LONGEST_TIME_TO_LIVE = 3600.0, 172_800.0  # seconds
_NAME = re.compile(r"[\x21-\x7e]{1,128}")
_HALF_PAIR = re.compile("[\ud800-\udfff]")  # no UTF-8 for these
_LONGEST_TOPIC = 65_535  # bytes


@dataclass(frozen=True, slots=True)
class Command:
    """A message on its way to a device. `expires` is unix seconds; `number` orders the queue, 0 = not stored yet."""

    hub: str
    device_id: str
    message_id: str
    properties: dict[str, str]
    body: bytes = field(repr=False)
    enqueued: str
    expires: float
    deliveries: int = 0
    number: int = 0


def enqueue(hub: str, device_id: str, pending: int, body: bytes, settings: dict[str, Any], stamp: Stamp) -> Command:
    """The message to store. `pending`: how many wait for the device already. Raises Refused.

    `settings`: `properties` (text to text), `messageId` (default: a new GUID), `expiresIn` (seconds, default one hour).
    """
    properties = settings.get("properties") or {}
    if not isinstance(properties, dict) or not all(
        _NAME.fullmatch(name) and not name.startswith("$.") and isinstance(value, str) and not _HALF_PAIR.search(value)
        for name, value in properties.items()
    ):
        raise bad_at_hub(
            "properties are texts under names of 1 to 128 printable ASCII characters that do not begin with $."
        )
    message_id = settings.get("messageId") or stamp.guid
    if not isinstance(message_id, str) or not _NAME.fullmatch(message_id):
        raise bad_at_hub("messageId is not 1 to 128 printable ASCII characters")
    seconds = TIME_TO_LIVE if settings.get("expiresIn") is None else settings["expiresIn"]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= LONGEST_TIME_TO_LIVE:
        raise bad_at_hub(f"expiresIn is not a number of seconds up to {LONGEST_TIME_TO_LIVE:.0f}")
    size = len(body) + sum(len(name) + len(value.encode()) for name, value in properties.items())
    if size > MAX_MESSAGE:
        raise Refused(refusals.COMMAND_TOO_LARGE, size=size, limit=MAX_MESSAGE)
    if pending >= MAX_PENDING:
        raise Refused(refusals.QUEUE_FULL, device_id=device_id, limit=MAX_PENDING)
    expires = (stamp.now + timedelta(seconds=seconds)).timestamp()
    command = Command(hub, device_id, message_id, properties, body, stamp.text, expires)
    if len(topic(command)) > _LONGEST_TOPIC:
        raise bad_at_hub(f"the properties make a topic of more than {_LONGEST_TOPIC} bytes, which MQTT cannot carry")
    return command


def expired(commands: Iterable[Command], now: float) -> list[Command]:
    """Those whose time is over at `now` (unix seconds)."""
    return [command for command in commands if command.expires <= now]


def given_up(command: Command) -> bool:
    """Whether it was delivered so often without an acknowledgement that it is not to be delivered again."""
    return command.deliveries >= MAX_DELIVERIES


def topic(command: Command) -> str:
    """Its topic, with system and application properties in the bag."""
    bag: dict[str, str | None] = {
        "$.mid": command.message_id,
        "$.to": f"/devices/{command.device_id}/messages/deviceBound",
        **command.properties,
    }
    return topics.command(command.device_id, bag)
