"""What a device and a service said to each other, read from the device SDK's own log.

The log names topics, sizes, message numbers, and the bodies of the answers of DPS; it holds no user name and, but for
reported properties, no body of a request. Nothing else is invented here, and no line of the log is kept.

Its lines do not name the client they belong to. They are attributed by paho's thread of each connection, by the topic,
and by which client spoke last. That is exact for one device at a time; several at once may be mixed up, and a client
that was refused before (the SDK lets it go on trying to connect, for ever) is heard too.
What is written where: https://github.com/Azure/azure-iot-sdk-python/tree/v2/azure-iot-device/azure/iot/device
"""

import ast
import json
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from dpsx_helpers.conversation import conversation_event, sdk_log
from dpsx_helpers.conversation.conversation_event import DPS, HUB, Event
from dpsx_helpers.display import View

__all__ = ["DPS", "HUB", "Acknowledgement", "Conversation", "Event", "live", "recording"]

MOST_EVENTS = 4_000
_PACKET = re.compile(r"(Sending|Received) ([A-Z]+)\b")
_MESSAGE = re.compile(
    r"\(d(?P<dup>\d), q\d, r\d, m(?P<mid>\d+)\), '(?P<topic>.*)'"
    r"(?:, \.\.\.\s+\((?P<size>\d+) bytes\)| \(NULL payload\))",
    re.DOTALL,
)
_ANSWER = re.compile(r"\$(?:dps/registrations|iothub/twin)/res/(\d+)/")
_INTERVAL = re.compile(r"transition into polling after interval (\d+)|needs retry with interval (\d+)")


class Acknowledgement(NamedTuple):
    """A message to the hub: its own message ID if it has one, its bytes, and the seconds since the start at which it
    was sent and acknowledged (None: not yet).
    """

    message_id: str | None
    size: int
    sent_at: float
    acknowledged_at: float | None


class Wait(NamedTuple):
    """The SDK's pause before it asks DPS again: `seconds` long, until `until` seconds since the start."""

    until: float
    seconds: int


@dataclass
class _Connection:
    number: int
    party: str
    host: str
    thread: int | None = None
    accepted: bool = False
    leaving: bool = False
    open: bool = True


class Conversation:
    """The steps of a conversation so far; `recording()` fills it. The newest 4000 steps are kept.

    `last_answer` is the last answer of DPS, `connack` the last CONNACK code and `connack_party` who sent it. `drops`
    counts the connections which the IoT hub had accepted and which ended although the device had not ended them: the
    hub does so when a second program connects under the same device ID; a broken network looks the same.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._start = time.monotonic()
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._connections: dict[int, _Connection] = {}
        self._hosts = {DPS: "", HUB: ""}
        self._speaking = DPS
        self._http_host: str | None = None
        self._failed = False
        self._reported: str | None = None
        self._number = 0
        self._forgotten = 0
        self._unread = 0
        self.last_answer: Event | None = None
        self.connack: int | None = None
        self.connack_party: str | None = None
        self.drops = 0
        self.wait: Wait | None = None

    def __repr__(self) -> str:
        return f"<Conversation of {len(self._events)} steps>"

    @property
    def events(self) -> tuple[Event, ...]:
        with self._lock:
            return tuple(self._events)

    @property
    def forgotten(self) -> int:
        """How many of the oldest steps are no longer kept."""
        return self._forgotten

    @property
    def unread(self) -> int:
        """How many lines of the log could not be read."""
        return self._unread

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def acknowledgements(self) -> list[Acknowledgement]:
        """The messages sent to the hub, each with its confirmation, in the order in which they were sent."""
        found: list[Acknowledgement] = []
        pending: dict[tuple[int, int | None], int] = {}
        for event in self.events:
            key = event.connection, event.message_id
            if event.kind == "PUBLISH" and event.sent and "/messages/events" in (event.topic or ""):
                earlier = [old for old in pending if event.again and old[1] == event.message_id]
                if earlier:  # sent once more over a new connection: still the same message
                    pending[key] = pending.pop(earlier[-1])
                    continue
                pending[key] = len(found)
                found.append(Acknowledgement(_own_id(event.topic or ""), event.size or 0, event.seconds, None))
            elif event.kind == "PUBACK" and not event.sent and key in pending:
                place = pending.pop(key)
                found[place] = found[place]._replace(acknowledged_at=event.seconds)
        return found

    def view(self) -> View:
        """The conversation as a sequence diagram, and in words."""
        from dpsx_helpers.conversation import sequence_view  # the drawing knows this module

        return sequence_view.draw(self)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return self.view()._repr_mimebundle_()

    def hear(self, record: logging.LogRecord) -> None:
        """Take one record of the SDK's log. Called in the SDK's threads; never raises."""
        try:
            line = record.getMessage()
            with self._lock:
                self._read(record.name.removeprefix("azure.iot.device."), line, record.thread or 0)
        except Exception:  # noqa: BLE001 - a line that a new version writes otherwise must not break the device
            self._unread += 1

    def _read(self, logger: str, line: str, thread: int) -> None:
        if logger == "paho":
            self._packet(line, thread)
        elif logger == "common.mqtt_transport":
            self._transport(line, thread)
        elif logger in ("common.pipeline.pipeline_stages_mqtt", "common.pipeline.pipeline_stages_http"):
            self._stage(logger, line)
        elif logger == "provisioning.pipeline.pipeline_stages_provisioning_mqtt":
            self._payload(line)
        elif logger == "provisioning.pipeline.pipeline_stages_provisioning":
            if interval := _INTERVAL.search(line):
                seconds = int(interval[1] or interval[2])
                self.wait = Wait(self.seconds + seconds, seconds)
        elif logger == "iothub.pipeline.pipeline_stages_iothub":
            self._twin(line)
        elif logger in ("common.async_adapter", "common.evented_callback"):
            self._result(line)
        if logger.startswith(("provisioning.", "iothub.")):
            self._speaking = DPS if logger.startswith("provisioning.") else HUB

    def _add(self, connection: _Connection, kind: str, *, sent: bool, **more: Any) -> Event:
        event = Event(self.seconds, connection.party, connection.host, sent, kind, connection=connection.number, **more)
        self._forgotten += len(self._events) == MOST_EVENTS
        self._events.append(event)
        return event

    def _change(self, wanted: str, party: str, body: str) -> None:
        """Give the newest event of that topic its body, which the log tells later."""
        for place in range(len(self._events) - 1, -1, -1):
            event = self._events[place]
            if event.party == party and event.topic is not None and event.topic.startswith(wanted):
                if event.body is None:
                    self._events[place] = replace(event, body=conversation_event.body(body))
                    if event is self.last_answer:
                        self._answered(self._events[place])
                return

    def _answered(self, event: Event) -> None:
        self.last_answer = event
        document = event.json
        state = document.get("registrationState") if isinstance(document, dict) else None
        if isinstance(state, dict) and isinstance(state.get("assignedHub"), str):
            self._hosts[HUB] = state["assignedHub"]

    def _stage(self, logger: str, line: str) -> None:
        _, found, host = line.partition("Setting Hostname to: ")
        if found and logger.endswith("_http"):
            self._http_host = host  # only a hub's client has an HTTP side, and makes it first
        elif found:
            party = HUB if host == self._http_host else DPS
            self._http_host, self._speaking = None, party
            self._hosts[party] = host
        elif line == "transport.connect raised error":
            self._failed = True
        elif self._failed and line.startswith("Traceback"):
            self._failed = False
            connection = self._latest(self._speaking)
            connection.open = False
            self._add(connection, "UNREACHABLE", sent=False, body=conversation_event.body(_cause(line)))

    def _transport(self, line: str, thread: int) -> None:
        if line.startswith("Connect using port"):
            way = "port 443 (MQTT over WebSockets)" if "websockets" in line else "port 8883 (MQTT)"
            self._add(self._new(self._speaking), "OPEN", sent=True, body=f"on {way}")
        elif code := re.fullmatch(r"disconnected with result code: (\d+)", line):
            connection = self._of(thread)
            if connection.accepted and connection.open and not connection.leaving:
                self._add(connection, "CLOSED", sent=False, status=int(code[1]))
                self.drops += connection.party == HUB
            connection.open = False

    def _packet(self, line: str, thread: int) -> None:
        packet = _PACKET.match(line)
        if packet is None:
            return
        sent, kind, rest = packet[1] == "Sending", packet[2], line[packet.end() :]
        number = re.search(r"Mid: (\d+)", rest)
        mid = int(number[1]) if number else None
        if kind == "CONNECT":
            name = re.search(r"client_id=b['\"](.*)['\"]$", rest)
            client_id = conversation_event.topic(name[1]) if name else None
            self._add(self._latest(self._speaking), kind, sent=True, client_id=client_id)
        elif kind == "CONNACK":
            connection = self._welcomed(thread)
            self.connack, self.connack_party = int(rest.rpartition(",")[2].strip(" )")), connection.party
            connection.accepted = self.connack == 0
            self._add(connection, kind, sent=False, status=self.connack)
        elif kind == "PUBLISH":
            self._publish(rest, thread, sent)
        elif kind in ("SUBSCRIBE", "UNSUBSCRIBE"):
            path = ", ".join(re.findall(r"b['\"](.*?)['\"]", rest))
            where = self._by_topic(path, thread)
            self._add(where, kind, sent=True, topic=conversation_event.topic(path))
        elif kind == "DISCONNECT":
            connection = self._latest(self._speaking, only_open=True)
            connection.leaving = True
            self._add(connection, kind, sent=True)
        else:
            self._add(self._of(thread), kind, sent=sent, message_id=mid)

    def _publish(self, rest: str, thread: int, sent: bool) -> None:
        message = _MESSAGE.search(rest)
        if message is None:
            self._unread += 1
            return
        path = message["topic"].removeprefix("b'").removesuffix("'") if sent else message["topic"]
        status, query = _ANSWER.search(path), dict(parse_qsl(path.partition("?")[2]))
        after = query.get("retry-after", "")
        event = self._add(
            self._by_topic(path, thread),
            "PUBLISH",
            sent=sent,
            topic=conversation_event.topic(path),
            status=int(status[1]) if status else None,
            retry_after=int(after) if after.isdecimal() else None,
            size=int(message["size"] or 0),
            message_id=int(message["mid"]) or None,
            again=message["dup"] == "1",
            body=self._patch(path) if sent else None,
        )
        if sent:
            self.wait = None
        elif event.party == DPS and event.status is not None:
            self._answered(event)

    def _patch(self, path: str) -> str | None:
        """The reported properties, the one body of a request that the log holds, just before it is sent."""
        if not path.startswith("$iothub/twin/PATCH/properties/reported/") or self._reported is None:
            return None
        body, self._reported = conversation_event.body(self._reported), None
        return body

    def _payload(self, line: str) -> None:
        payload, found, path = line.removeprefix("Received payload:").rpartition(" on topic:")
        if found:
            said = ast.literal_eval(payload)
            text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
            self._change(conversation_event.topic(path), DPS, text)

    def _twin(self, line: str) -> None:
        _, reported, patch = line.partition("Sending reported properties patch: ")
        if reported:
            self._reported = json.dumps(ast.literal_eval(patch), ensure_ascii=False)
        elif line.startswith("response body: "):
            said = ast.literal_eval(line.removeprefix("response body: "))
            self._change("$iothub/twin/res/", HUB, said.decode("utf-8", "replace") if isinstance(said, bytes) else said)

    def _result(self, line: str) -> None:
        _, found, result = line.partition("Callback completed with result {")
        if found:
            twin = ast.literal_eval("{" + result)
            if "desired" in twin and "reported" in twin:
                self._change("$iothub/twin/res/200/", HUB, json.dumps(twin, ensure_ascii=False))

    def _new(self, party: str) -> _Connection:
        self._number += 1
        made = _Connection(self._number, party, self._hosts[party])
        self._connections[self._number] = made
        for number in [n for n, one in self._connections.items() if not one.open][:-20]:
            del self._connections[number]
        return made

    def _latest(self, party: str, *, only_open: bool = False) -> _Connection:
        """The newest connection with that party; of any party, or a new one, where there is none."""
        fitting = [one for one in self._connections.values() if one.open and not (only_open and one.leaving)]
        for connection in reversed(fitting):
            if connection.party == party:
                return connection
        return fitting[-1] if fitting and only_open else self._new(party)

    def _by_topic(self, path: str, thread: int) -> _Connection:
        for connection in self._connections.values():
            if connection.thread == thread and connection.open:
                return connection
        return self._latest(DPS if path.startswith("$dps/") else HUB)

    def _welcomed(self, thread: int) -> _Connection:
        """The oldest connection that waits for its CONNACK; from now on its thread is known."""
        waiting = [one for one in self._connections.values() if one.open and one.thread is None]
        connection = waiting[0] if waiting else self._new(self._speaking)
        self._bind(connection, thread)
        return connection

    def _of(self, thread: int) -> _Connection:
        """The connection that paho's thread serves."""
        for connection in reversed(self._connections.values()):
            if connection.thread == thread:
                return connection
        unbound = [one for one in self._connections.values() if one.open and one.thread is None]
        connection = unbound[-1] if unbound else self._new(self._speaking)
        self._bind(connection, thread)
        return connection

    def _bind(self, connection: _Connection, thread: int) -> None:
        for other in self._connections.values():
            if other.thread == thread:  # the system gives numbers of ended threads to new ones
                other.thread, other.open = None, False
        connection.thread = thread


def _own_id(path: str) -> str | None:
    """The message ID in the properties at the end of a telemetry topic."""
    return dict(parse_qsl(path.rpartition("/")[2])).get("$.mid")


def _cause(trace: str) -> str:
    """The first error in a traceback of chained ones, which is the cause of the others."""
    lines = [line for line in trace.splitlines() if line and not line.startswith((" ", "Traceback", "During", "The "))]
    return lines[0] if lines else "unknown"


@contextmanager
def recording(*, quiet: bool = False) -> Iterator[Conversation]:
    """What device and services say to each other while the block runs.

    Works for all clients of the SDK, and does not change what handlers and levels of your own show of its log. `quiet`:
    what the SDK complains of without such a handler, tracebacks among it, is not printed.
    """
    talk = Conversation()
    with sdk_log.listening(talk.hear, quiet=quiet):
        yield talk


def live() -> AbstractContextManager[Conversation]:
    """A recording that tells in one line of the cell's output what is going on. Outside IPython: only a recording."""
    from dpsx_helpers.conversation import conversation_live  # the line knows this module

    return conversation_live.showing()
