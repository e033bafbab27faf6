"""The tables of a page of Markdown, between markers; the prose around them is written by hand.

`<!-- figures NAME -->` … `<!-- end -->` holds the table of one row, `<!-- machine -->` … `<!-- end -->` what it was
measured on.
"""

import re
from collections.abc import Sequence

from benchmarks import figures
from benchmarks.figures import Row

_END = "<!-- end -->"


class PageError(Exception):
    """The page cannot be written. One sentence."""


def fill(text: str, rows: Sequence[Row]) -> str:
    """The page with these rows in it, and nothing else changed. Raises PageError."""
    if len({tuple(sorted(row.machine.items())) for row in rows}) != 1:
        raise PageError(
            "The rows were measured on different machines or versions: measure all of them, without --only."
        )
    text = _between(text, "<!-- machine -->", facts(rows[0].machine))
    for row in rows:
        text = _between(text, f"<!-- figures {row.name} -->", block(row))
    return text


def names(text: str) -> list[str]:
    """The rows that a page has a place for."""
    return re.findall(r"<!-- figures (\S+) -->", text)


def block(row: Row) -> str:
    """The table of a row, and when it was measured."""
    when = f"{row.date}, commit {row.commit or 'unknown'}, {row.rounds} round{'s' if row.rounds > 1 else ''}"
    busy = "" if row.load is None else f"; load {row.load:g} in the minute before"
    return f"{figures.table(row.lines)}\n\n*{when}{busy}.*"


def facts(machine: dict[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in machine.items())])


def _between(text: str, begin: str, content: str) -> str:
    head, found, tail = text.partition(begin)
    _, ended, rest = tail.partition(_END)
    if not found or not ended:
        raise PageError(f"The page has no place for this: put {begin} and, on a later line, {_END} where it belongs.")
    return f"{head}{begin}\n\n{content}\n\n{_END}{rest}"
