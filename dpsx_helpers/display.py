"""What a cell shows: every View carries HTML and plain text, both in the notebook file.

Text, lines and surfaces take JupyterLab's own colour variables, so a view is readable in light and dark themes;
nothing is said by colour alone; tables have a caption and header cells. Styles stand at the elements: what a page
strips of them (GitHub does) costs looks, not content.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

INK = "var(--jp-ui-font-color1,inherit)"
LINE = "var(--jp-border-color1,#bdbdbd)"
_FAINT = "var(--jp-border-color2,#e0e0e0)"
SURFACE = "var(--jp-layout-color1,transparent)"
#: Accents that are told from the surface in both themes; none of them carries text.
BLUE, GREEN, ORANGE, RED = (
    "var(--jp-brand-color1,#1976d2)",
    "var(--jp-success-color1,#388e3c)",
    "var(--jp-warn-color1,#a04800)",
    "var(--jp-error-color1,#d32f2f)",
)
MONOSPACE = "font-family:var(--jp-code-font-family,monospace)"
_CODE = f"{MONOSPACE};overflow-wrap:anywhere;white-space:normal;background:transparent;padding:0;color:{INK}"
_BOX = f"border-left:4px solid {{colour}};padding:0.3em 0.8em;margin:0.3em 0;color:{INK};background:{SURFACE}"
_TABLE = f"color:{INK};margin:0;border-collapse:collapse;min-width:min(26em,100%);max-width:100%"
_CAPTION = "text-align:left;font-weight:bold;padding:0.35em 0.7em 0.35em 0;caption-side:top"
_CELL = f"text-align:left;vertical-align:top;padding:0.35em 0.7em;border-bottom:1px solid {_FAINT}"
_HEAD = f"{_CELL};border-bottom:2px solid {LINE};vertical-align:bottom;white-space:normal"
_WORD, _PART = 28, 17  # characters: words up to the first stay whole where there is room, of longer ones so much
_WIDE = 4  # columns; so many may not fit beside each other in a narrow window
_LEAST = 12  # characters of a column of theirs: scrolling is better than single letters below each other


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


def table(
    caption: str, headers: Sequence[str], rows: Sequence[Sequence[str | View]], empty: str = "nothing here yet"
) -> View:
    """A table whose first column heads its rows. With no rows, one line that says so. A View in a cell is one line."""
    if not rows:
        return note(f"{caption}: {empty}.")
    head = "".join(f'<th scope="col" style="{_HEAD}">{escape(name)}</th>' for name in headers)
    body = "".join(_html_row(row) for row in rows)
    html = (
        f'<table style="{_TABLE}"><caption style="{_CAPTION}">{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
    if len(headers) >= _WIDE:
        # With many columns the last way out of a narrow window is to scroll, which a keyboard must be able to.
        name = escape(caption)
        html = (
            f'<div role="region" tabindex="0" aria-label="{name}" style="overflow-x:auto;max-width:100%">{html}</div>'
        )
    html = f'<div style="container-type:inline-size">{html}</div>'  # so that 100cqw is the width that there is
    texts = [[cell.text if isinstance(cell, View) else cell for cell in row] for row in rows]
    return View(html, f"{caption}\n{_columns([headers, *texts])}")


def _html_row(row: Sequence[str | View]) -> str:
    first, *rest = ((_html(cell), _cell_style(cell, len(row))) for cell in row)
    cells = "".join(f'<td style="{style}">{html}</td>' for html, style in rest)
    return f'<tr><th scope="row" style="{first[1]}">{first[0]}</th>{cells}</tr>'


def _html(cell: str | View) -> str:
    return cell.html if isinstance(cell, View) else escape(cell)


def _cell_style(cell: str | View, columns: int) -> str:
    """Long words may be broken anywhere, so that no table is wider than its page; but a column is not to be squeezed
    to single letters: it keeps the width of a whole word, or its share of a narrow window.
    """
    text = cell.text if isinstance(cell, View) else cell
    longest = max((len(word) for word in text.split()), default=0)
    room = longest if longest <= _WORD else _PART
    least = _LEAST if columns >= _WIDE else 0
    share = f"max({least}ch,calc(100cqw / {columns} - 1.4em))"
    return f"{_CELL};overflow-wrap:anywhere;min-width:min({1.15 * room:.0f}ch,{share})"


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(f"  {line}" for line in lines)


def note(text: str) -> View:
    """One paragraph."""
    return View(f'<p style="{_BOX.format(colour="var(--jp-info-color1,#0277bd)")}">{escape(text)}</p>', text)


def prose(text: str) -> View:
    """A sentence or two that belong to what stands above or below, without a box."""
    return View(f'<p style="margin:0.5em 0;color:{INK};max-width:60em">{escape(text)}</p>', text)


def stacked(*views: View) -> View:
    """Views one below the other."""
    return View("".join(view.html for view in views), "\n\n".join(view.text for view in views))


def passed(*lines: str) -> View:
    """The lines of a check that passed, each with its tick."""
    return _list([f"✔ {line}" for line in lines], GREEN)


def ask(*lines: str) -> View:
    """What the learner has to look at where this notebook cannot: each line is a question."""
    return _list([f"☐ {line}" for line in lines], ORANGE)


def open_questions(view: View) -> list[str]:
    """The lines of `ask` in a view."""
    return [line.removeprefix("☐ ") for line in view.text.splitlines() if line.startswith("☐ ")]


def _list(lines: Sequence[str], colour: str) -> View:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    html = f'<ul style="{_BOX.format(colour=colour)};list-style:none;overflow-wrap:anywhere">{items}</ul>'
    return View(html, "\n".join(lines))


def block(caption: str, text: str) -> View:
    """Preformatted text below a caption that also names it for a screen reader."""
    style = f"{MONOSPACE};white-space:pre-wrap;overflow-wrap:anywhere;color:{INK}"
    html = (
        f'<figure style="margin:0.3em 0"><figcaption style="font-weight:bold">{escape(caption)}</figcaption>'
        f'<pre style="{style}">{escape(text)}</pre></figure>'
    )
    return View(html, f"{caption}\n{text}")


def moment(text: Any, precision: str = "seconds") -> str:
    """`2026-11-25T12:01:33.1234567Z`, as Azure writes it, for people; what has another form stays as it is."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(\.\d+)?(?:Z|\+00:00)", str(text))
    if not found:
        return str(text)
    return f"{found[1]} {found[2]}{(found[3] or '.000')[:4] if precision == 'milliseconds' else ''}"


def fold(summary: str, inside: View) -> View:
    """Something that opens on a click or with Enter; in plain text it is open."""
    html = (
        f'<details style="margin:0.3em 0;color:{INK}"><summary {_KEYS} style="cursor:pointer;padding:0.2em 0">'
        f'{escape(summary)}</summary><div style="padding:0.2em 0 0.2em 1.1em">{inside.html}</div></details>'
    )
    return View(html, f"{summary}\n{inside.text}")


# --- copying and downloading ------------------------------------------------------------------------------------------

# JupyterLab would take Enter and Space for keys of its own.
_KEYS = 'data-lm-suppress-shortcuts="true"'
# The clipboard is there on https and on this machine only. Elsewhere the old way is tried, and if that fails too the
# text is left selected for the learner's own Ctrl+C. Nothing is looked up by an id: a page may hold a view twice.
_COPY = """
const box = this.parentNode, said = box.querySelector('[role=status]');
const say = text => { said.textContent = text; };
const select = () => {
  getSelection().selectAllChildren(box.querySelector('code, pre'));
  let done = false;
  try { done = document.execCommand('copy'); } catch (error) { done = false; }
  say(done ? 'copied' : 'selected: press Ctrl+C (on a Mac \\u2318C)');
};
say('');
if (navigator.clipboard) navigator.clipboard.writeText(this.dataset.value).then(() => say('copied'), select);
else select();
"""
_BUTTON = (
    f"font:inherit;font-size:0.9em;line-height:1.5;cursor:pointer;padding:0 0.7em;border-radius:3px;"
    f"color:{INK};background:var(--jp-layout-color2,transparent);border:1px solid {LINE}"
)


def _copy_button(name: str, value: str) -> str:
    script = escape(" ".join(_COPY.split()))
    return (
        f'<button type="button" {_KEYS} aria-label="Copy {escape(name)}" data-value="{escape(value)}" '
        f'style="{_BUTTON}" onclick="{script}">Copy</button> <span role="status" style="color:{INK}"></span>'
    )


def download(name: str, href: str, file: str) -> View:
    """A link that looks like the other buttons and saves what is at `href` as `file`.

    JupyterLab opens a link to a file below the notebook in a tab of its own, unless it says `download`.
    """
    style = f"{_BUTTON};display:inline-block;margin:0.3em 0;padding:0.2em 1em;text-decoration:none"
    html = f'<p><a {_KEYS} href="{escape(href)}" download="{escape(file)}" style="{style}">{escape(name)}</a></p>'
    return View(html, f"{name}: {href}")


def digits(value: str, across: int | None = None) -> View:
    """A long value as code, in lines of at most `across` characters (by the room there is)."""
    width = f"display:inline-block;max-width:{across}ch;" if across else ""
    return View(f'<code style="{width}{_CODE}">{escape(value)}</code>', value)


def copyable(name: str, value: str) -> View:
    """A short value, with a button that copies it; `name` says to a screen reader what is copied."""
    return View(f"<span>{digits(value).html} {_copy_button(name, value)}</span>", value)


def copyable_block(name: str, text: str) -> View:
    """Lines of text as they are, with a button that copies them; `name` says what they are."""
    style = (
        f"{MONOSPACE};white-space:pre-wrap;overflow-wrap:anywhere;color:{INK};background:{SURFACE};"
        f"border:1px solid {LINE};padding:0.6em 0.8em;margin:0.3em 0"
    )
    html = f'<div>{_copy_button(name, text)}<pre style="{style}">{escape(text)}</pre></div>'
    return View(html, text)
