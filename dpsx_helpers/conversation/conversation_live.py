"""The line in a cell's output that tells, while a conversation runs, what is going on."""

import contextvars
import math
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

from dpsx_helpers.conversation import Conversation, recording
from dpsx_helpers.conversation.conversation_event import CONNACK, DPS, Event
from dpsx_helpers.display import BLUE, INK, View

_TICK = 0.2  # seconds; the count down changes every second


def progress(talk: Conversation, *, over: bool = False, failed: bool = False) -> str:
    """What is going on, in one sentence; `over`: where it ended, `failed`: with an error."""
    events = talk.events
    if not events:
        return "The device has not said anything." if over else "waiting for the device …"
    end = _end_of(talk, events)
    refused = end.startswith("✘")
    if not over:
        return end if refused or talk.wait is None else f"{end}{_countdown(talk)}"
    if refused:
        return end
    return f"✘ ended with an error at: {end}" if failed else f"✔ {end}"


def _end_of(talk: Conversation, events: tuple[Event, ...]) -> str:
    done = _assigned(talk)
    last = events[-1]
    if done and last.party == DPS:
        # DPS has no more to say to this one; an older client, once refused, may still be trying to come back.
        last = next((event for event in reversed(events) if event.party != DPS), last)
        if last.party == DPS:
            return done.removesuffix("; ")
    talking = [event for event in events if event.party == last.party]
    steps = {event.kind for event in talking if event.connection == last.connection}
    where = f"{'DPS' if last.party == DPS else 'the hub'}{f' ({last.host})' if last.host else ''}"
    if last.kind == "UNREACHABLE":
        return f"✘ no connection to {where}: {last.body}"
    if last.kind == "CONNACK" and last.refused:
        code = last.status if last.status is not None else -1
        why = CONNACK.get(code, "no reason told").removeprefix("refused: ")
        return f"✘ {where} refuses the connection: {why} (CONNACK {code})"
    if last.party == DPS:
        return _at_dps(talk, steps, where)
    if last.kind == "CLOSED":
        return f"✘ {done}the connection to {where} was closed"
    if ("CONNECT" in steps and "CONNACK" not in steps) or steps == {"OPEN"}:
        return f"{done}connecting to {where} …"
    if "DISCONNECT" in steps:
        return f"{done}{_telemetry(talk)}disconnected from {where}"
    return f"{done}{_telemetry(talk)}connected to {where}"


def _at_dps(talk: Conversation, steps: set[str], where: str) -> str:
    answer = talk.last_answer
    if not steps & {"CONNACK", "SUBSCRIBE", "PUBLISH"}:
        return f"connecting to {where} …"
    if answer is None:
        return f"connected to {where}, asking which hub …"
    if answer.status == 429 or (answer.status is not None and answer.status >= 500):
        return f"{answer.status}, DPS is too busy"
    if answer.refused:
        return answer.in_words()
    return "assigning"


def _assigned(talk: Conversation) -> str:
    answer = talk.last_answer
    if answer is None or answer.registration != "assigned":
        return ""
    state = answer.json.get("registrationState")
    hub = state.get("assignedHub") if isinstance(state, dict) else None
    return f"assigned to {hub}; " if hub else "assigned; "


def _telemetry(talk: Conversation) -> str:
    messages = talk.acknowledgements()
    if not messages:
        return ""
    known = sum(message.acknowledged_at is not None for message in messages)
    return f"{len(messages)} message{'s' if len(messages) > 1 else ''} sent, {known} acknowledged; "


def _countdown(talk: Conversation) -> str:
    wait = talk.wait
    left = math.ceil(wait.until - talk.seconds) if wait is not None else 0
    return f": asking again in {left} s" if left > 0 else ": asking again …"


def line(text: str) -> View:
    """The progress line as something to look at; a screen reader speaks it when it changes."""
    style = f"border-left:4px solid {BLUE};padding:0.3em 0.8em;margin:0.3em 0;overflow-wrap:anywhere;color:{INK}"
    return View(f'<p role="status" style="{style}">{escape(text)}</p>', text)


@contextmanager
def showing() -> Iterator[Conversation]:
    """A recording with its progress line in the cell; only a recording outside IPython."""
    handle = _handle()
    with recording() as talk:
        if handle is None:
            yield talk
            return
        ended = threading.Event()
        ticker = threading.Thread(
            target=contextvars.copy_context().run, args=(_tick, talk, handle, ended), name="dpsx progress", daemon=True
        )
        ticker.start()
        failed = True
        try:
            yield talk
            failed = False
        finally:
            ended.set()
            ticker.join()
            handle.update(line(progress(talk, over=True, failed=failed)))


def _handle() -> Any:
    """The output to update, or None where nobody looks. IPython is asked only where it is loaded already."""
    ipython = sys.modules.get("IPython")
    if ipython is None or ipython.get_ipython() is None:
        return None
    from IPython.display import display

    return display(line("waiting for the device …"), display_id=True)  # type: ignore[no-untyped-call]


def _tick(talk: Conversation, handle: Any, ended: threading.Event) -> None:
    shown = ""
    while not ended.wait(_TICK):
        text = progress(talk)
        if text != shown:
            handle.update(line(text))
            shown = text
