"""The teacher's board: what the service sees of every student, as a table in the terminal that follows the class."""

import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

REFRESH = 2.0  # seconds
_PAGE_FOR = 3  # refreshes that a page of a large class stays
_AROUND = 8  # lines of the terminal that are none of the rows: title, head, rules, totals in up to three lines
_HEAD = ("Student", "Cert", "Enrolled", "Registered", "Hub", "Messages", "Mistakes, and the last one")
_WIDE = 120  # columns from which the last mistake is told in a sentence, not only named


def show(seen: dict[str, Any]) -> None:
    """Print it once, whole."""
    console = Console()
    console.print(_table(seen["students"], console.width), Text(totals(seen)))


def watch(look: Callable[[], dict[str, Any]], every: float = REFRESH) -> None:
    """Follow the class until Ctrl-C. A class that is higher than the terminal is shown page by page."""
    console = Console()
    if not console.is_terminal:
        while True:
            show(look())
            time.sleep(every)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        tick = 0
        while True:
            seen = look()
            first, last = page(len(seen["students"]), console.height - _AROUND, tick // _PAGE_FOR)
            table = _table(seen["students"][first:last], console.width)
            table.title = f"{first + 1}-{last} of {len(seen['students'])}, {datetime.now():%H:%M:%S} (Ctrl-C ends)"
            table.caption, table.caption_justify = Text(totals(seen)), "left"
            live.update(table, refresh=True)
            time.sleep(every)
            tick += 1


def page(count: int, room: int, turn: int) -> tuple[int, int]:
    """From which to which of `count` rows are shown, when `room` fit: one page after the other."""
    room = max(room, 1)
    first = turn % max(1, -(-count // room)) * room
    return first, min(count, first + room)


def totals(seen: dict[str, Any]) -> str:
    """How far the class is, in one line."""
    students = seen["students"]
    registered = sum((one["registration"] or {}).get("status") == "assigned" for one in students)
    mistakes: Counter[str] = Counter()
    for one in students:
        mistakes.update((one["mistakes"] or {}).get("counts", {}))
    parts = [
        f"{len(students)} students",
        f"{sum(one['enrollment'] is not None for one in students)} enrolled",
        f"{registered} registered",
        f"{sum(one['connected'] for one in students)} at the hub now",
        f"{sum(one['messages'] for one in students)} messages",
        "mistakes: " + (", ".join(f"{name} {count}" for name, count in mistakes.most_common()) or "none"),
        "faults on: " + (", ".join(f"{kind} for {device or 'all'}" for kind, device in seen["faults"]) or "none"),
    ]
    return " · ".join(parts)


def cells(one: dict[str, Any], *, wide: bool) -> tuple[str, ...]:
    """One student's row, by `_HEAD`. A missing step is a dash; of the certificate the thumbprint begins."""
    return (
        one["registrationId"],
        (one["certificate"] or "-")[:8],
        {"enabled": "yes", None: "-"}.get(one["enrollment"], "disabled"),
        _registered(one["registration"]),
        "yes" if one["connected"] else "-",
        str(one["messages"] or "-"),
        _mistakes(one["mistakes"], wide),
    )


def _registered(registration: dict[str, str] | None) -> str:
    if registration is None:
        return "-"
    when = _clock(registration["updated"])
    return when if registration["status"] == "assigned" else f"{when} {registration['status']}"


def _mistakes(mistakes: dict[str, Any] | None, wide: bool) -> str:
    if mistakes is None:
        return "-"
    last = mistakes["last"]
    total = sum(mistakes["counts"].values())
    return f"{total}: {last}" + (f" {_clock(mistakes['at'])}, {mistakes['reason']}" if wide else "")


def _clock(stamp: str) -> str:
    """The time of day here, of a time as Azure writes it."""
    return f"{datetime.fromisoformat(f'{stamp[:19]}+00:00').astimezone():%H:%M:%S}"


def _table(students: list[dict[str, Any]], width: int) -> Table:
    table = Table(expand=True, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in _HEAD:
        justify: Literal["left", "right"] = "right" if head == "Messages" else "left"
        table.add_column(head, justify=justify, no_wrap=True, ratio=1 if head == _HEAD[-1] else None)
    for one in students:
        table.add_row(*map(Text, cells(one, wide=width >= _WIDE)))
    return table
