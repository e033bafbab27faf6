"""What a diagnosis looks like in a cell: a section with a title, four paragraphs, and the raw material folded away."""

import json
from collections.abc import Iterable, Sequence
from html import escape

from dpsx_helpers import conversation
from dpsx_helpers.diagnosis.evidence import Evidence, without_secrets
from dpsx_helpers.diagnosis.mistakes import Mistake
from dpsx_helpers.diagnosis.verdict import Verdict
from dpsx_helpers.display import INK, LINE, RED, SURFACE, View

_BOX = (
    f"border:1px solid {LINE};border-left:6px solid {RED};padding:0.5em 1em;margin:0.3em 0;max-width:100%;"
    f"box-sizing:border-box;overflow-wrap:anywhere;color:{INK};background:{SURFACE}"
)
_TITLE = "margin:0 0 0.5em;font-weight:bold;font-size:1.15em"
_TEXT = "margin:0 0 0.6em"
_LINK = "color:var(--jp-content-link-color,#0b57d0);text-decoration:underline"
_PRE = f"white-space:pre-wrap;overflow-wrap:anywhere;margin:0.3em 0 0.6em;color:{INK}"

#: ("paragraph", heading, text), ("list", heading, lines), ("links", heading, URLs) or ("fold", heading, text)
_Part = tuple[str, str, str | Sequence[str]]


def card(verdict: Verdict, seen: Evidence) -> View:
    """The card of one failure."""
    known = verdict.mistake
    parts: list[_Part] = [("paragraph", "What happened", verdict.seen), ("paragraph", "Why", known.why)]
    if verdict.causes:
        parts.append(("list", "What it can be, the likeliest first", verdict.causes))
    if not (seen.on_azure and known.emulator_only):
        parts.append(("paragraph", "What to do now", verdict.remedy or known.remedy))
    if seen.on_azure:
        parts.append(("paragraph", "What to do now" if known.emulator_only else "On Azure", known.portal))
    parts += [("links", "Where to read more", known.more), *_raw(seen)]
    return _view(_title(verdict.number, known), parts)


def page(number: int, known: Mistake) -> View:
    """One of the 23, for reading, whatever the target."""
    parts: list[_Part] = [
        ("paragraph", "What happens", known.happened),
        ("paragraph", "Why", known.why),
        ("paragraph", "What to do, in these notebooks", known.remedy),
        ("paragraph", "What to do, on Azure", known.portal),
        ("paragraph", "How it is recognised", f"By {known.evidence}."),
        ("links", "Where to read more", known.more),
    ]
    return _view(_title(number, known), parts)


def _title(number: int | None, known: Mistake) -> str:
    return f"✘ {known.name}" + (f" (mistake {number} of 23)" if number else "")


def _raw(seen: Evidence) -> Iterable[_Part]:
    if seen.chain:
        lines = [f"{type(link).__name__}: {link}" if str(link) else type(link).__name__ for link in seen.chain]
        yield "fold", "What the SDK raised", "\n  caused by ".join(lines)
    who = "the service" if seen.service_error else "DPS"
    if seen.talk and seen.connack:
        yield (
            "fold",
            f"What {'DPS' if seen.talk.connack_party == conversation.DPS else 'the hub'} really answered",
            f"CONNACK {seen.connack}",
        )
    elif answer := _answer(seen):
        yield "fold", f"What {who} really answered", answer
    elif not seen.recorded and seen.status and not seen.service_error:
        yield (
            "paragraph",
            "What DPS really answered",
            "It was not recorded, because the call was not inside `with diagnosis.explain():`. Run the cell again "
            "inside it to see DPS's own words.",
        )
    if not seen.recorded and (faults := seen.faults_on):
        yield (
            "paragraph",
            "Mind",
            f"In the emulator the fault {' and '.join(faults)} is switched on; it may be the cause, and then there is "
            "no mistake of yours: run target.emulator.clear_faults() in a cell, then this cell again.",
        )
    if seen.log:
        yield "fold", "What the emulator's log says (Azure keeps this to itself)", "\n".join(seen.log)


def _answer(seen: Evidence) -> str:
    if not seen.body and not seen.answer:
        return ""
    text = json.dumps(seen.answer, indent=2, ensure_ascii=False) if seen.answer else seen.body
    return f"status {seen.status}\n{text}"


def _view(title: str, parts: Iterable[_Part]) -> View:
    html, text = [f'<p role="heading" aria-level="4" style="{_TITLE}">{escape(title)}</p>'], [title]
    for kind, heading, content in parts:
        lines = [content] if isinstance(content, str) else list(content)
        if kind == "fold" or heading == "What happened":  # the rest are words of ours, which a mask would only garble
            lines = [without_secrets(line) for line in lines]
        html.append(_html(kind, escape(heading), lines))
        text.append(_plain(kind, heading, lines))
    label = escape(f"Diagnosis: {title.removeprefix('✘ ')}", quote=True)
    section = f'<section aria-label="{label}" style="{_BOX}">{"".join(html)}</section>'
    return View(section, "\n".join(text))


def _html(kind: str, heading: str, lines: Sequence[str]) -> str:
    if kind == "fold":
        return f'<details><summary>{heading}</summary><pre style="{_PRE}">{escape(lines[0])}</pre></details>'
    if kind == "links":
        links = ", ".join(
            f'<a href="{escape(url, quote=True)}" target="_blank" rel="noopener" style="{_LINK}">{escape(url)}</a>'
            for url in lines
        )
        return f'<p style="{_TEXT}"><strong>{heading}:</strong> {links}</p>'
    if kind == "list":
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        return f'<p style="margin:0"><strong>{heading}:</strong></p><ol style="{_TEXT}">{items}</ol>'
    return f'<p style="{_TEXT}"><strong>{heading}:</strong> {escape(lines[0])}</p>'


def _plain(kind: str, heading: str, lines: Sequence[str]) -> str:
    if kind == "list":
        return "\n".join([f"{heading}:", *(f"  {number}. {line}" for number, line in enumerate(lines, 1))])
    if kind == "fold":
        return "\n".join([f"{heading}:", *(f"  {line}" for line in lines[0].splitlines())])
    return f"{heading}: {', '.join(lines)}"
