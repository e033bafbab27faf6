"""What reached the hub: a table of messages with small charts, after the fact or while they arrive."""

import contextvars
import math
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from dpsx_helpers import tutorial
from dpsx_helpers.conversation import Conversation
from dpsx_helpers.display import View, ask, moment, note, prose, stacked, table
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import NotReadable
from dpsx_helpers.views.chart import Panel, panels

_REFRESH, _REFRESH_IN_CLASS = 0.3, 2.0  # seconds; one emulator answers the whole class
_LATENCY = "Acknowledged after (ms)"
_DRAWN = 1e-6, 1e9  # other numbers would have axes that nobody can read
_MESSAGE_ID = "messageId"  # in the hub's system properties


def messages(target: Target, device_id: str | None = None, talk: Conversation | None = None, *, last: int = 20) -> View:
    """The newest messages that the hub has stored from this device (the tutorial's when None), with charts of what they
    say and, from the recorded conversation, of how long each acknowledgement took.
    """
    device_id = device_id or tutorial.device_id()
    try:
        stored = target.messages(device_id)
    except NotReadable as where:
        asked = ask(f"{where} Do your messages appear?")
        return stacked(_acknowledged(talk, last), asked) if talk and talk.acknowledgements() else asked
    shown = f"the last {last} of {len(stored)}" if len(stored) > last else str(len(stored))
    return _stored(f"Messages from {device_id} ({shown})", stored, last, _milliseconds(talk))


def _milliseconds(talk: Conversation | None) -> dict[str, float]:
    """How long the acknowledgement of each message took, by message ID."""
    sent = talk.acknowledgements() if talk else ()
    return {name: (heard - at) * 1000 for name, _, at, heard in sent if name is not None and heard is not None}


def _stored(caption: str, stored: Sequence[Mapping[str, Any]], last: int, took: Mapping[str, float]) -> View:
    numbered = list(enumerate(stored, 1))[-last:]
    several = len({message["deviceId"] for _, message in numbered}) > 1
    late = {number: took[_id(message)] for number, message in numbered if _id(message) in took}
    described = any(message.get("properties") for _, message in numbered)
    optional = {"Device": several, "Body": True, "Properties": described, _LATENCY: bool(late)}
    headers = ("#", "Enqueued (UTC)", *(name for name, wanted in optional.items() if wanted))
    rows = [
        (
            str(number),
            moment(message["enqueuedTimeUtc"], "milliseconds"),
            *((message["deviceId"],) if several else ()),
            str(message["body"]),
            *((_properties(message),) if described else ()),
            *((f"{late[number]:.1f}" if number in late else "not recorded",) if late else ()),
        )
        for number, message in numbered
    ]
    return _with_charts(table(caption, headers, rows), numbered, late)


def _with_charts(shown: View, numbered: Sequence[tuple[int, Mapping[str, Any]]], late: Mapping[int, float]) -> View:
    speeds = [(number, value) for number, message in numbered if (value := _number(message["body"])) is not None]
    wind = all("wind speed" in str(message["body"]).lower() for _, message in numbered)
    title = "Wind speed" if wind else "Number at the end of the body"
    charts = panels(
        Panel(title, "", speeds, "dots"),
        Panel("Acknowledged after", "ms", sorted(late.items()), "bars"),
    )
    if charts is None:
        return shown
    without = len(numbered) - len(speeds)
    verb = "is" if without == 1 else "are"
    left_out = f"{without} of {len(numbered)} messages {verb} not in the chart: no number at the end of the body."
    return stacked(shown, charts, *((prose(left_out),) if speeds and without else ()))


def _acknowledged(talk: Conversation, last: int) -> View:
    """What the device itself knows, where the hub cannot be read."""
    sent = list(enumerate(talk.acknowledgements(), 1))[-last:]
    late = [(number, (heard - at) * 1000) for number, (_, _, at, heard) in sent if heard is not None]
    times = dict(late)
    rows = [
        (str(number), name or "no message ID", f"{times[number]:.1f}" if number in times else "no acknowledgement")
        for number, (name, _, _, _) in sent
    ]
    shown = table(f"Messages that this device sent ({len(sent)})", ("#", "Message ID", _LATENCY), rows)
    charts = panels(Panel("Acknowledged after", "ms", late, "bars"))
    return stacked(shown, charts) if charts else shown


def _id(message: Mapping[str, Any]) -> str:
    return message.get("systemProperties", {}).get(_MESSAGE_ID) or ""


def _properties(message: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in message.get("properties", {}).items()) or "none"


def _number(body: Any) -> float | None:
    """The number at the end of `test wind speed 7`."""
    found = re.search(r"(?<![\w.])-?\d+(?:\.\d+)?$", str(body).strip(), re.ASCII)
    value = float(found[0]) if found else math.inf
    return value if value == 0 or _DRAWN[0] <= abs(value) <= _DRAWN[1] else None


# --- while they arrive ------------------------------------------------------------------------------------------------


@contextmanager
def arriving(target: Target, device_id: str | None = None, *, last: int = 10) -> Iterator[None]:
    """Around SDK calls: a table and a chart, below the cell, of what the hub stores meanwhile (from every device when
    `device_id` is None).

    A thread keeps it fresh, so that the loop of the device code is not held up. Without IPython nothing is shown, and
    nothing that goes wrong with the display reaches the cell.
    """
    live: _Live | None = None
    with suppress(Exception):
        live = _Live(target, device_id, last)
        live.begin()
    try:
        yield
    finally:
        with suppress(Exception):
            if live is not None:
                live.end()


class _Live:
    """One output that is rewritten as messages arrive."""

    def __init__(self, target: Target, device_id: str | None, last: int) -> None:
        self._target, self._device_id, self._last = target, device_id, last
        self._over = threading.Event()
        self._one_at_a_time = threading.Lock()
        self._thread: threading.Thread | None = None
        self._handle: Any = None
        self._last_before: dict[str, Any] | None = None
        self._count = -1

    def begin(self) -> None:
        from IPython.core.getipython import get_ipython
        from IPython.display import display

        if get_ipython() is None:
            return
        if not self._target.is_emulator:
            display(note(_elsewhere(self._device_id)))  # type: ignore[no-untyped-call]
            return
        stored = self._target.messages(self._device_id)
        self._last_before = stored[-1] if stored else None
        self._handle = display(self._waiting(), display_id=True)  # type: ignore[no-untyped-call]
        # The kernel finds the cell that an output belongs to by the context.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._refresh,), name="arriving", daemon=True)
        self._thread.start()

    def end(self) -> None:
        if self._thread is None:
            return
        self._over.set()
        self._thread.join(timeout=2)
        with self._one_at_a_time:
            self._show(final=True)

    def _refresh(self) -> None:
        while not self._over.wait(_REFRESH_IN_CLASS if self._target.join else _REFRESH):
            with self._one_at_a_time, suppress(Exception):
                if not self._over.is_set():
                    self._show(final=False)

    def _show(self, *, final: bool) -> None:
        stored = self._target.messages(self._device_id)
        last = self._last_before
        new = stored[stored.index(last) + 1 :] if last in stored else stored  # else it was reset meanwhile
        if final or len(new) != self._count:
            self._count = len(new)
            self._handle.update(self._view(new, final=final))

    def _view(self, new: Sequence[Mapping[str, Any]], *, final: bool) -> View:
        if not new:
            return note(f"{self._whose()}: none reached the hub while this cell ran.") if final else self._waiting()
        shown = f"{len(new)} {'in all' if final else 'so far'}"
        shown += f", here the last {self._last}" if len(new) > self._last else ""
        return _stored(f"{self._whose()} while this cell {'ran' if final else 'runs'} ({shown})", new, self._last, {})

    def _waiting(self) -> View:
        return note(f"{self._whose()}: none has arrived yet.")

    def _whose(self) -> str:
        return f"Messages from {self._device_id}" if self._device_id else "Messages to the hub"


def _elsewhere(device_id: str | None) -> str:
    of = f" --device-id {device_id}" if device_id else ""
    return (
        "To watch your messages reach the hub on Azure, run "
        f"`az iot hub monitor-events --hub-name <your hub>{of}` in a terminal while this cell runs."
    )
