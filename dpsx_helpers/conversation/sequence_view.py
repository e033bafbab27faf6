"""The drawing of a conversation: a sequence diagram of device, DPS and hub, and the same steps in words."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from dpsx_helpers.conversation import Conversation
from dpsx_helpers.conversation.conversation_event import CONNACK, DPS, Event
from dpsx_helpers.display import INK, LINE, RED, View, note

_MOST_STEPS = 200
_PAUSE = 0.5  # seconds between two steps from which on the diagram shows the time
_GROUND = "background:var(--jp-layout-color0,Canvas)"
_NOTE = (
    "The SDK's log, which this comes from, holds neither the user name of a connection nor the bodies of requests "
    "(but for reported properties)."
)
_CONFIRMED = ({"PUBLISH", "PUBACK"}, {"PINGREQ", "PINGRESP"})
_Key = tuple[int, str, bool, str, int | None]


@dataclass(frozen=True)
class _Step:
    """Equal events in a row; `overlapping`: those of the step beside it came in between."""

    events: tuple[Event, ...]
    overlapping: bool = False

    @property
    def first(self) -> Event:
        return self.events[0]


def draw(talk: Conversation) -> View:
    """The steps of a conversation so far. Long ones keep their beginning and their end."""
    events = talk.events
    if not events:
        said = "Nothing was said: no client of the device SDK has connected or sent anything."
        return note(" ".join([said, *_missing(talk, 0)]))
    steps = _steps(events)
    left_out = max(0, len(steps) - _MOST_STEPS)
    if left_out:
        steps = [*steps[: _MOST_STEPS // 2], *steps[-_MOST_STEPS // 2 :]]
    remarks = [_NOTE, *_missing(talk, left_out)]
    html = f'<div style="max-width:100%;color:{INK}">{_diagram(steps)}{_words(steps)}{_small(remarks)}</div>'
    lines = [f"{number}. {_in_words(step)}" for number, step in enumerate(steps, 1)]
    return View(html, "\n".join(["The conversation, step by step", *lines, *remarks]))


def _missing(talk: Conversation, left_out: int) -> list[str]:
    remarks = []
    if left_out:
        remarks.append(f"{left_out} steps in the middle are not shown.")
    if talk.forgotten:
        remarks.append(f"The oldest {talk.forgotten} steps are no longer kept.")
    if talk.unread:
        remarks.append(f"{talk.unread} lines of the log could not be read.")
    return remarks


def _steps(events: Sequence[Event]) -> list[_Step]:
    steps: list[_Step] = []
    place = 0
    while place < len(events):
        kinds = [_key(events[place])]
        end = place
        while end < len(events):
            key = _key(events[end])
            if key not in kinds:
                if len(kinds) > 1 or not _alternate(kinds[0], key):
                    break
                kinds.append(key)
            end += 1
        run = events[place:end]
        order = [kinds.index(_key(event)) for event in run]
        for number, _ in enumerate(kinds):
            equal = tuple(event for event, kind in zip(run, order, strict=True) if kind == number)
            steps.append(_Step(equal, overlapping=order != sorted(order)))
        place = end
    return steps


def _key(event: Event) -> _Key:
    if event.kind == "PUBLISH" and event.sent and "/messages/events" in (event.topic or ""):
        path = "telemetry"  # the topic ends with the properties of each message
    else:
        path = "" if event.kind in ("PUBACK", "PINGREQ", "PINGRESP") else event.topic or ""
    return event.connection, event.kind, event.sent, path, event.status


def _alternate(one: _Key, other: _Key) -> bool:
    """Whether one is the confirmation of the other: only of telemetry and of pings there are many."""
    if one[0] != other[0] or one[2] == other[2] or {one[1], other[1]} not in _CONFIRMED:
        return False
    return one[1].startswith("PING") or one[3] == "telemetry" or other[3] == "telemetry"


def _diagram(steps: Sequence[_Step]) -> str:
    lines = ",".join(f"linear-gradient({LINE},{LINE}) {at} 0/1px 100% no-repeat" for at in ("16.6%", "50%", "83.4%"))
    heads = "".join(
        f'<div style="grid-column:{place};text-align:center;padding:0.2em"><strong style="{_GROUND};border:1px solid '
        f'{LINE};padding:0.2em 0.5em">{name}</strong></div>'
        for place, name in (("1/3", "device"), ("3/5", "DPS"), ("5/7", "IoT hub"))
    )
    rows, before = [], steps[0].first.seconds
    for step in steps:
        if step.first.seconds - before >= _PAUSE:
            rows.append(_row(step.first, f"<em>{step.first.seconds - before:.1f} s later</em>", arrow=False))
        rows.append(_row(step.first, escape(_label(step)), arrow=True))
        before = max(before, step.events[-1].seconds)
    label = (
        f"Sequence diagram of {len(steps)} steps between the device, DPS and the IoT hub. The same in words is below."
    )
    return (
        f'<div role="img" aria-label="{label}" style="display:grid;grid-template-columns:repeat(6,minmax(0,1fr));'
        f'row-gap:0.25em;font-size:0.9em;line-height:1.3;max-width:60em;background:{lines}">{heads}{"".join(rows)}</div>'
    )


def _row(event: Event, label: str, *, arrow: bool) -> str:
    column = "2/4" if event.party == DPS else "2/6"
    text = f'<span style="{_GROUND};padding:0 0.2em">{label}</span>'
    if not arrow:
        return f'<div style="grid-column:{column};text-align:center;padding:0.3em">{text}</div>'
    style = "dashed" if event.refused else "solid"
    colour = RED if event.refused else "currentColor"
    line = f'<span style="flex:1;border-top:2px {style} {colour}"></span>'
    ends = f"{line}<span>▶</span>" if event.sent else f"<span>◀</span>{line}"
    return (
        f'<div style="grid-column:{column};text-align:center;overflow-wrap:anywhere">{text}'
        f'<div style="display:flex;align-items:center;line-height:0.8">{ends}</div></div>'
    )


def _label(step: _Step) -> str:
    event, count = step.first, len(step.events)
    many = f"{count} × " if count > 1 else ""
    spent = f" within {max(0.1, step.events[-1].seconds - event.seconds):.1f} s" if count > 1 else ""
    spent += ", overlapping" if step.overlapping else ""
    return f"{'✘ ' if event.refused else ''}{many}{_what(event)}{spent}"


def _what(event: Event) -> str:
    match event.kind:
        case "OPEN":
            return f"opens a connection {event.body}" if event.body else "opens a connection"
        case "UNREACHABLE":
            return f"no connection: {event.body}"
        case "CLOSED":
            return "the connection is closed"
        case "CONNACK":
            return f"CONNACK {event.status}: {CONNACK.get(event.status if event.status is not None else -1, 'refused')}"
        case "PUBLISH" if event.status is not None:
            wait = f", retry after {event.retry_after} s" if event.retry_after is not None else ""
            said = event.registration or ("refused" if event.refused else "")
            return f"{event.status} {said}".strip() + wait
        case "PUBLISH" | "SUBSCRIBE" | "UNSUBSCRIBE":
            return f"{event.kind} {_short(event.topic or '')}"
    return event.kind


def _short(path: str) -> str:
    """A topic without its query and properties, and without what comes before the telling part."""
    path = path.partition("?")[0]
    for part in ("/iotdps-register/", "/iotdps-get-operationstatus/", "/messages/events/", "/messages/devicebound/"):
        if part in path:
            return f"…{part}"
    return path


def _words(steps: Sequence[_Step]) -> str:
    items = "".join(f'<li style="margin:0.2em 0">{_item(step)}</li>' for step in steps)
    return (
        '<details style="margin:0.5em 0"><summary>In words, with the bodies of the answers</summary>'
        f'<ol style="overflow-wrap:anywhere">{items}</ol></details>'
    )


def _item(step: _Step) -> str:
    event = step.first
    topic = f"<br><small>Topic: <code>{escape(event.topic)}</code></small>" if event.topic else ""
    body = ""
    if event.kind == "PUBLISH" and event.body is not None:
        style = f"white-space:pre-wrap;overflow-wrap:anywhere;color:{INK}"
        shown = escape(_pretty(event))
        body = f'<details><summary>Body, {event.size} bytes</summary><pre style="{style}">{shown}</pre></details>'
    return f"{escape(_in_words(step))}{topic}{body}"


def _pretty(event: Event) -> str:
    document = event.json
    return (event.body or "") if document is None else json.dumps(document, indent=2, ensure_ascii=False)


def _in_words(step: _Step) -> str:
    event, count = step.first, len(step.events)
    if count == 1:
        return f"After {event.seconds:.1f} s: {event.in_words()}"
    mixed = ", overlapping with the other direction" if step.overlapping else ""
    what = "PUBACK" if event.kind == "PUBACK" else _what(event)
    who = "the device sends" if event.sent else f"{'DPS' if event.party == DPS else 'the IoT hub'} sends"
    sizes = sorted({one.size for one in step.events if one.size is not None})
    each = ""
    if sizes:
        each = f" ({sizes[0]} bytes each" if len(sizes) == 1 else f" ({sizes[0]} to {sizes[-1]} bytes each"
        each += ", which the log does not show)"
    mark = "✘ " if event.refused else ""
    return f"From {event.seconds:.1f} to {step.events[-1].seconds:.1f} s: {mark}{who} {count} × {what}{each}{mixed}."


def _small(remarks: Sequence[str]) -> str:
    return "".join(f'<p style="margin:0.2em 0"><small>{escape(remark)}</small></p>' for remark in remarks)
