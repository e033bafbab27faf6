"""What a cell shows: every View carries HTML and plain text, both in the notebook file.

Text and borders take JupyterLab's own colour variables, so a view is readable in light and dark themes;
nothing is said by colour alone; tables have a caption and header cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

_BOX = (
    "border-left:4px solid var({colour});padding:0.3em 0.8em;margin:0.3em 0;"
    "color:var(--jp-ui-font-color1,inherit);background:var(--jp-layout-color1,transparent)"
)
_LEFT = "text-align:left;vertical-align:top"


@dataclass(frozen=True, repr=False)
class View:
    """Something to look at. `html` is complete and escaped, `text` says the same in plain text."""

    html: str
    text: str

    def __repr__(self) -> str:
        return self.text

    def __add__(self, other: "View") -> "View":
        return View(self.html + other.html, f"{self.text}\n\n{other.text}")

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.text}


def table(caption: str, headers: Sequence[str], rows: Sequence[Sequence[str]], empty: str = "nothing here yet") -> View:
    """A table whose first column heads its rows. With no rows, one line that says so."""
    if not rows:
        return note(f"{caption}: {empty}.")
    head = "".join(f'<th scope="col" style="{_LEFT}">{escape(name)}</th>' for name in headers)
    body = "".join(_html_row(row) for row in rows)
    html = (
        '<table style="color:var(--jp-ui-font-color1,inherit)"><caption '
        f'style="{_LEFT};font-weight:bold">{escape(caption)}'
        f"</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
    return View(html, f"{caption}\n{_columns([headers, *rows])}")


def _html_row(row: Sequence[str]) -> str:
    first, *rest = (escape(cell) for cell in row)
    cells = "".join(f'<td style="{_LEFT};overflow-wrap:anywhere">{cell}</td>' for cell in rest)
    return f'<tr><th scope="row" style="{_LEFT}">{first}</th>{cells}</tr>'


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(f"  {line}" for line in lines)


def note(text: str) -> View:
    """One paragraph."""
    return View(f'<p style="{_BOX.format(colour="--jp-info-color1,#0277bd")}">{escape(text)}</p>', text)


def passed(*lines: str) -> View:
    """The lines of a check that passed, each with its tick."""
    return _list([f"✔ {line}" for line in lines], "--jp-success-color1,#388e3c")


def ask(*lines: str) -> View:
    """What the learner has to look at where this notebook cannot: each line is a question."""
    return _list([f"☐ {line}" for line in lines], "--jp-warn-color1,#a04800")


def _list(lines: Sequence[str], colour: str) -> View:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    html = f'<ul style="{_BOX.format(colour=colour)};list-style:none">{items}</ul>'
    return View(html, "\n".join(lines))


def block(caption: str, text: str) -> View:
    """Preformatted text below a caption that also names it for a screen reader."""
    style = "white-space:pre-wrap;overflow-wrap:anywhere;color:var(--jp-ui-font-color1,inherit)"
    html = (
        f'<figure style="margin:0.3em 0"><figcaption style="font-weight:bold">{escape(caption)}</figcaption>'
        f'<pre style="{style}">{escape(text)}</pre></figure>'
    )
    return View(html, f"{caption}\n{text}")
