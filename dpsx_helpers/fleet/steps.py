"""When each of many devices was connected and answered, read from the device SDK's own log while they register.

A line of that log names no device. But what arrives is told by the thread of its connection, with the number of the
request; and the last answer of DPS, told with the same number, names the device. So every line finds its device.
https://github.com/Azure/azure-iot-sdk-python/tree/v2/azure-iot-device/azure/iot/device
"""

import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dpsx_helpers.conversation import sdk_log

_TRANSPORT = "azure.iot.device.common.mqtt_transport"
_PAYLOAD = "azure.iot.device.provisioning.pipeline.pipeline_stages_provisioning_mqtt"
_ANSWER = re.compile(r"\$dps/registrations/res/(?P<status>\d+)/\?\$rid=(?P<request>[^&]+)")
_DEVICE = re.compile(r'"registrationId"\s*:\s*"(?P<name>[^"]+)"')


@dataclass(frozen=True)
class Answer:
    """DPS answered with this status, `at` seconds after the start."""

    at: float
    status: int


@dataclass
class Connection:
    """One connection to DPS, accepted `at` seconds after the start."""

    at: float
    answers: list[Answer] = field(default_factory=list)


class Steps:
    """What was heard so far. Times are seconds since `start` (of time.perf_counter)."""

    def __init__(self, start: float) -> None:
        self._start = start
        self._lock = threading.Lock()
        self._open: dict[int, Connection] = {}
        self._asked: dict[str, Connection] = {}
        self._devices: dict[str, Connection] = {}

    def of(self, registration_id: str) -> Connection | None:
        """The connection of a device that DPS has named in an answer."""
        return self._devices.get(registration_id.lower())

    def hear(self, record: logging.LogRecord) -> None:
        """Take one record of the SDK's log. Called in the SDK's threads; never raises."""
        if record.name not in (_TRANSPORT, _PAYLOAD):
            return
        line, now = record.getMessage(), time.perf_counter() - self._start
        with self._lock:
            if record.name == _PAYLOAD:
                self._name(line)
            elif line == "connected with result code: 0":
                self._open[record.thread or 0] = Connection(now)
            elif line.startswith("message received on "):
                self._answer(line, record.thread or 0, now)

    def _answer(self, line: str, thread: int, now: float) -> None:
        found, connection = _ANSWER.search(line), self._open.get(thread)
        if found and connection:
            connection.answers.append(Answer(now, int(found["status"])))
            self._asked[found["request"]] = connection

    def _name(self, line: str) -> None:
        payload, _, topic = line.rpartition(" on topic:")
        found, device = _ANSWER.search(topic), _DEVICE.search(payload)
        if found and device and found["request"] in self._asked:
            self._devices[device["name"].lower()] = self._asked[found["request"]]


@contextmanager
def listening(start: float) -> Iterator[Steps]:
    """Follow the SDK's log while the block runs; what it complains of is not printed meanwhile."""
    steps = Steps(start)
    with sdk_log.listening(steps.hear, quiet=True):
        yield steps
