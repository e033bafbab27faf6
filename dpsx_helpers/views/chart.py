"""Small charts as inline SVG: one panel for one quantity, drawn in the colours of the theme, and the same in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from statistics import median
from typing import Literal

from dpsx_helpers.display import BLUE, INK, LINE, ORANGE, View

_WIDTH, _HEIGHT = 340, 170  # of the whole panel, in the units of its viewBox
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 38  # what the labels of the axes take of it
_MANY = 60  # values; beyond them marks would touch one another


@dataclass(frozen=True)
class Panel:
    """One quantity of one message after the other. `values` are (number of the message, value); dots are joined by a
    line, bars are hatched.
    """

    title: str
    unit: str  # "" where the message names none
    values: Sequence[tuple[int, float]]
    marks: Literal["dots", "bars"]


def panels(*wanted: Panel) -> View | None:
    """The panels that have something to draw, beside each other where there is room; None when there are none."""
    drawn = [panel for panel in wanted if panel.values]
    if not drawn:
        return None
    html = "".join(_panel(panel) for panel in drawn)
    style = "display:flex;flex-wrap:wrap;gap:0.5em 1.5em;margin:0.5em 0"
    return View(f'<div style="{style}">{html}</div>', "\n".join(_summary(panel) for panel in drawn))


def _summary(panel: Panel) -> str:
    values = [value for _, value in panel.values]
    unit = f" {panel.unit}" if panel.unit else ""
    if len(values) == 1:
        return f"{panel.title}, one message: {_number(values[0])}{unit}."
    return (
        f"{panel.title}, {len(values)} messages: from {_number(min(values))} to {_number(max(values))}{unit}, "
        f"median {_number(median(values))}{unit}, last {_number(values[-1])}{unit}."
    )


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _panel(panel: Panel) -> str:
    label = f"{panel.title} ({panel.unit or 'no unit'})"
    svg = (
        f'<svg role="img" viewBox="0 0 {_WIDTH} {_HEIGHT}" style="display:block;width:100%;height:auto;color:{INK}">'
        f"<title>{escape(label)}, message by message</title> "
        f"<desc>{escape(_summary(panel))}</desc> "
        f"{_scales(panel)}{_marks(panel)}</svg>"
    )
    caption = f'<figcaption style="font-weight:bold;color:{INK}">{escape(label)}</figcaption>'
    return f'<figure style="margin:0;flex:1 1 17em;max-width:26em;min-width:0">{caption}{svg}</figure>'


def _ticks(panel: Panel) -> list[float]:
    """Round values from zero (or below) to the largest, three to five of them."""
    top = max(0.0, *(value for _, value in panel.values))
    low = min(0.0, *(value for _, value in panel.values))
    rough = (top - low or 1.0) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.floor(low / step)
    return [number * step for number in range(first, math.ceil((top or 1.0) / step - 1e-9) + 1)]


def _y(value: float, ticks: Sequence[float]) -> float:
    return _HEIGHT - _BOTTOM - (value - ticks[0]) / (ticks[-1] - ticks[0]) * (_HEIGHT - _TOP - _BOTTOM)


def _x(place: int, count: int) -> float:
    """The middle of one of `count` slots of the same width."""
    return _LEFT + (place + 0.5) / count * (_WIDTH - _LEFT - _RIGHT)


def _scales(panel: Panel) -> str:
    ticks, count = _ticks(panel), len(panel.values)
    parts = []
    for tick in ticks:
        y = _y(tick, ticks)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" style="stroke:{LINE}"/>')
        parts.append(_text(_LEFT - 6, y + 4, _number(tick), "end"))
    every = max(1, math.ceil(count / 10))
    for place in range(0, count, every):
        parts.append(_text(_x(place, count), _HEIGHT - _BOTTOM + 15, str(panel.values[place][0]), "middle"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, "# in the table", "middle"))
    return "".join(parts)


def _text(x: float, y: float, words: str, anchor: str) -> str:
    style = f"fill:{INK};font-size:11px;font-family:var(--jp-ui-font-family,sans-serif)"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{style}">{escape(words)}</text> '


def _marks(panel: Panel) -> str:
    ticks, count = _ticks(panel), len(panel.values)
    points = [(_x(place, count), _y(value, ticks)) for place, (_, value) in enumerate(panel.values)]
    if panel.marks == "bars":
        return _bars(points, _y(0, ticks), 0.7 * (_WIDTH - _LEFT - _RIGHT) / count)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    line = f'<polyline points="{path}" style="fill:none;stroke:{BLUE};stroke-width:1.5"/>'
    if count > _MANY:
        return line
    return line + "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" style="fill:{BLUE}"/>' for x, y in points)


def _bars(points: Sequence[tuple[float, float]], floor: float, width: float) -> str:
    """Outlined bars with a stripe every few units: told from the dots without their colour."""
    outlines, stripes = [], []
    width = min(width, 24)
    for x, y in points:
        left, right, top, bottom = x - width / 2, x + width / 2, min(y, floor), max(y, floor)
        outlines.append(f"M{left:.1f} {bottom:.1f}V{top:.1f}H{right:.1f}V{bottom:.1f}Z")
        steps = range(int((bottom - top) // 5))
        stripes += [f"M{left:.1f} {bottom - 5 * step:.1f}L{right:.1f} {bottom - 5 * step - 5:.1f}" for step in steps]
    return (
        f'<path d="{"".join(outlines)}" style="fill:none;stroke:{ORANGE};stroke-width:1.5"/>'
        f'<path d="{"".join(stripes)}" style="fill:none;stroke:{ORANGE};stroke-width:0.8"/>'
    )
