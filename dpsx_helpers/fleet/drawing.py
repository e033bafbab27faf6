"""The drawings of notebook 10, made with matplotlib: each is a picture on a white ground, and the same in words.

Without matplotlib the words are there, and what to do about it.
"""

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

from dpsx_helpers.display import INK, View, note
from dpsx_helpers.fleet import extra
from dpsx_helpers.fleet.arithmetic import REGISTRATIONS, Course, shares, simulate
from dpsx_helpers.fleet.launching import Launch, Registration
from dpsx_helpers.tutorial import Stop

# Told apart by their lightness too: https://jfly.uni-koeln.de/color/
_PALE, _MIDDLE, _DARK, _GREEN, _RED = "#d9d9d9", "#56b4e9", "#0b4f7a", "#8fc9a8", "#b3261e"
_WIDTH = 9.0  # inches
_BINS = 30
_FEW = 50  # lines; more are drawn without a gap
_PARTS = (
    (_PALE, "its program waits for its turn"),
    (_MIDDLE, "connects: TLS and MQTT"),
    (_DARK, "asks, until DPS is working on it (202)"),
    (_GREEN, "waits, and asks whether it is assigned"),
)


def timeline(launch: Launch) -> View:
    """One line for each registration, in the order in which they ended: waiting, connecting, asking; and each 429."""
    ordered = sorted(launch.registrations, key=lambda one: one.ended)
    caption = f"Timeline of {launch.devices} registrations ({launch.where})"
    words = _timeline_in_words(launch, ordered)
    if (absent := extra.missing("matplotlib", "The timeline")) is not None:
        return absent + note(words)
    figure, (axes,) = _figure(1, 1.6 + min(4.4, 0.09 * launch.devices + 0.6))
    places = [place + 1 for place in range(len(ordered))]
    moments = [_moments(one) for one in ordered]
    for number, (colour, what) in enumerate(_PARTS):  # one part after the other: each is one entry of the legend
        left, right = [one[number] for one in moments], [one[number + 1] for one in moments]
        _bars(axes, places, left, right, colour, what)
    axes.plot([one.ended for one in ordered], places, ".", color="black", markersize=3, label="register() is back")
    refused = [
        (answer.at, place)
        for place, one in zip(places, ordered, strict=True)
        for answer in one.answers
        if answer.status == 429
    ]
    if refused:
        axes.scatter(*zip(*refused, strict=True), marker="x", s=18, color=_RED, label="DPS answers 429", zorder=3)
    axes.set(
        xlabel="seconds after switching on", ylabel="registrations", xlim=(0, None), ylim=(0.4, len(ordered) + 0.6)
    )
    axes.yaxis.get_major_locator().set_params(integer=True)
    marks, names = axes.get_legend_handles_labels()
    entries = dict(zip(names, marks, strict=True))
    last = [name for name in entries if name not in dict(_PARTS).values()]
    order = [what for _, what in _PARTS] + last
    handles = [entries[name] for name in order]
    figure.legend(handles, order, loc="outside upper center", ncols=3, frameon=False, fontsize="small")
    return _view(figure, caption, words)


def _moments(one: Registration) -> tuple[float, float, float, float, float]:
    """Switched on, begun, connected, working on it, ended; what was not followed is as late as what came before."""
    connected = one.connected if one.connected is not None else one.begun
    working = next((answer.at for answer in one.answers if answer.status == 202), connected)
    return 0.0, one.begun, connected, working, one.ended


def _timeline_in_words(launch: Launch, ordered: Sequence[Registration]) -> str:
    if not ordered:
        return "Nothing was launched."
    first, last = ordered[0], ordered[-1]
    words = (
        f"In words: {launch.devices} registrations, {launch.where}. The first had begun after {first.begun:.1f} s"
        f"{_connected(first)} and ended after {first.ended:.1f} s; the last had begun after {last.begun:.1f} s"
        f"{_connected(last)} and ended after {last.ended:.1f} s."
    )
    refused = [one for one in ordered if one.throttled]
    if refused:
        others = [one.ended for one in ordered if not one.throttled]
        words += (
            f" DPS answered 429 to {len(refused)} of them, and the first of those ended after {refused[0].ended:.1f} s"
        )
        words += f"; the others ended by {max(others):.1f} s." if others else "."
    return words


def _connected(one: Registration) -> str:
    return f", was connected after {one.connected:.1f} s" if one.connected is not None else ""


def latency(*launches: Launch) -> View:
    """How long the devices took, as a histogram for each launch, with the median and the 95 % mark."""
    shown = [launch for launch in launches if launch.latencies]
    caption = "Latency: from switching on to the assignment"
    words = (
        "In words: " + "; ".join(_latency_in_words(launch) for launch in shown) + "." if shown else "Nothing to show."
    )
    if (absent := extra.missing("matplotlib", "The distribution")) is not None:
        return absent + note(words)
    if not shown:
        return note(words)
    figure, panels = _figure(len(shown), 0.7 + 1.2 * len(shown))
    longest = max(max(launch.latencies) for launch in shown)
    for axes, launch in zip(panels, shown, strict=True):
        middle, most = shares(launch.latencies, 0.5, 0.95)
        axes.hist(launch.latencies, bins=_BINS, range=(0, longest), color=_MIDDLE, edgecolor=_DARK, linewidth=0.5)
        axes.axvline(middle, color="black", label=f"half: {middle:.1f} s")
        axes.axvline(most, color="black", linestyle="--", label=f"95 %: {most:.1f} s")
        axes.set(ylabel="devices", xlim=(0, longest * 1.02))
        axes.set_title(f"{launch.devices} devices, {launch.where}", loc="left", fontsize="medium")
        axes.legend(loc="upper left", frameon=False, fontsize="small")
        axes.yaxis.get_major_locator().set_params(integer=True)
    panels[-1].set_xlabel("seconds after switching on")
    return _view(figure, caption, words)


def _latency_in_words(launch: Launch) -> str:
    middle, most = shares(launch.latencies, 0.5, 0.95)
    least, longest = min(launch.latencies), max(launch.latencies)
    return (
        f"{launch.devices} devices ({launch.where}) took from {least:.1f} s to {longest:.1f} s, half of them at most "
        f"{middle:.1f} s, 95 % at most {most:.1f} s"
    )


def herd(devices: int, *, spread_minutes: float) -> View:
    """So many devices meet the limit of one DPS: all at once with short waits, with longer ones and with jitter in
    them, and spread over so many minutes. A simulation, not a measurement.
    """
    if devices < 1 or devices > 100_000 or not 0 <= spread_minutes <= 600:
        raise Stop(
            f"{devices:,} devices over {spread_minutes:g} minutes cannot be drawn here: take 1 to 100,000 devices "
            "and 0 to 600 minutes."
        )
    courses = (
        ("all at once; each refused device asks again after 3 s", simulate(devices)),
        ("all at once; each refused device asks again after 33 s", simulate(devices, retry_after=33)),
        ("all at once; each refused device asks again after 3 to 63 s, at random", simulate(devices, jitter=60)),
        (
            f"each begins at a random moment within {spread_minutes:g} minutes",
            simulate(devices, spread=spread_minutes * 60),
        ),
    )
    words = f"In words: {devices:,} devices at one DPS, simulated. " + " ".join(
        f"{name[:1].upper()}{name[1:]}: {_course_in_words(course)}." for name, course in courses
    )
    if (absent := extra.missing("matplotlib", "The drawing of the simulation")) is not None:
        return absent + note(words)
    figure, panels = _figure(len(courses), 8.0)
    ending = max(-(-course.seconds // 60) for _, course in courses)
    for axes, (name, course) in zip(panels, courses, strict=True):
        asked, refused = _by_minute(course.asked), _by_minute(course.refused)
        accepted = [came - went for came, went in zip(asked, refused, strict=True)]
        where = [minute + 0.5 for minute in range(len(asked))]
        axes.bar(where, accepted, width=0.9, color=_DARK, label="accepted")
        if any(refused):
            axes.bar(where, refused, width=0.9, bottom=accepted, color=_PALE, edgecolor=_RED, hatch="//", label="429")
        axes.axhline(REGISTRATIONS, color="black", linestyle="--", label="limit")
        axes.set(ylabel="requests", xlim=(0, ending))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_title(f"{name}: {course.requests:,} requests", loc="left", fontsize="medium")
    panels[0].legend(loc="upper right", frameon=False, fontsize="small")
    panels[-1].set_xlabel("minutes after switching on")
    return _view(figure, f"A launch of {devices:,} devices at one DPS, minute by minute (simulated)", words)


def _course_in_words(course: Course) -> str:
    refused = f"{course.refusals:,} of them refused with 429" if course.refusals else "none of them refused"
    words = f"{course.requests:,} requests, {refused}, the last device let in after {course.seconds / 60:.1f} minutes"
    if later := course.asked[60:]:
        words += f"; after the first minute at most {max(later):,} requests in one second"
    return words


def _by_minute(seconds: Sequence[int]) -> list[int]:
    return [sum(seconds[start : start + 60]) for start in range(0, len(seconds), 60)]


def _bars(
    axes: Any, places: Sequence[int], left: Sequence[float], right: Sequence[float], colour: str, what: str
) -> None:
    widths = [max(0.0, end - start) for start, end in zip(left, right, strict=True)]
    axes.barh(places, widths, left=list(left), height=0.8 if len(places) <= _FEW else 1.0, color=colour, label=what)


def _figure(rows: int, height: float) -> tuple[Any, list[Any]]:
    """A figure (without pyplot, which would keep it) with so many panels below each other."""
    figure = extra.load("matplotlib.figure").Figure(figsize=(_WIDTH, height), layout="constrained", facecolor="white")
    panels = figure.subplots(rows, squeeze=False)[:, 0]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, list(panels)


def _view(figure: Any, caption: str, words: str) -> View:
    """The picture, which brings its own white ground, with its words as alternative text."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    data = base64.b64encode(picture.getvalue()).decode("ascii")
    html = (
        f'<figure style="margin:0.5em 0;color:{INK}">'
        f'<figcaption style="font-weight:bold">{escape(caption)}</figcaption>'
        f'<img src="data:image/png;base64,{data}" alt="{escape(words)}" '
        'style="max-width:100%;height:auto;background:white"/></figure>'
    )
    return View(html, f"{caption}\n{words}")
