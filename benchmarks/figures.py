"""What a row of `python -m benchmarks` measures, and how it is put down: as a table of Markdown, and as JSON.

Pure: nothing is measured here, no clock is read and nothing is written.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Compared = Literal["ratio", "difference"]


@dataclass(frozen=True)
class Samples:
    """One measurement, once for each round, in the order of the rounds. Raises ValueError without any.

    Six digits count: no clock here tells more.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values or not all(map(math.isfinite, self.values)):
            raise ValueError(f"measured nothing that is a number: {self.values}")

    @classmethod
    def of(cls, values: Iterable[float]) -> "Samples":
        return cls(tuple(float(f"{value:.6g}") for value in values))

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        return min(self.values), max(self.values)


@dataclass(frozen=True)
class Aim:
    """What the median is meant to be: at most `limit` (or at least, with `at_least`).

    `of`: the median of our own samples, or that of the comparison with the peer. `words`: how the table says it, when
    the bare limit does not tell.
    """

    limit: float
    of: Literal["ours", "comparison"] = "ours"
    at_least: bool = False
    words: str = ""

    def holds(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    `unit` is that of both samples ("s", "MB", "messages/s"). With a peer, the samples of one round belong together, and
    `comparison` is the median of what the rounds say: ours / peer ("ratio") or ours - peer ("difference"). A figure
    with `peer_name` and no `peer` says that the peer was not measured. Figures of one `curve` are points of a drawing,
    each at its `size`.
    """

    work: str
    unit: str
    ours: Samples
    peer_name: str = ""
    peer: Samples | None = None
    compared: Compared = "ratio"
    aim: Aim | None = None
    note: str = ""
    curve: str = ""
    size: int = 0

    def __post_init__(self) -> None:
        if self.peer is not None and len(self.peer.values) != len(self.ours.values):
            raise ValueError(f"{self.work}: {len(self.ours.values)} rounds, {len(self.peer.values)} of the peer")

    @property
    def comparison(self) -> Samples | None:
        """Ours beside the peer's, round by round; None without a peer."""
        if self.peer is None:
            return None
        pairs = zip(self.ours.values, self.peer.values, strict=True)
        if self.compared == "ratio":
            return Samples.of(ours / peer for ours, peer in pairs)
        return Samples.of(ours - peer for ours, peer in pairs)

    @property
    def met(self) -> bool | None:
        """Whether the aim is met; None when there is none, or when its peer was not measured."""
        judged = self.ours if self.aim is not None and self.aim.of == "ours" else self.comparison
        return None if self.aim is None or judged is None else self.aim.holds(judged.median)


@dataclass(frozen=True)
class NotMeasured:
    """A line of the table for what could not be measured here. `why` is "mosquitto is not installed" and the like."""

    work: str
    why: str


Line = Figure | NotMeasured


@dataclass(frozen=True)
class Row:
    """All that one module has measured, and under which circumstances.

    `machine` describes it (see `machine.describe`), `load` is the mean number of busy processes in the minute before
    (None where the system does not tell), `date` is in UTC.
    """

    name: str
    title: str
    lines: tuple[Line, ...]
    rounds: int
    date: str
    commit: str
    load: float | None
    machine: dict[str, str] = field(default_factory=dict)

    @property
    def missed(self) -> list[Figure]:
        return [line for line in self.lines if isinstance(line, Figure) and line.met is False]


def alternate(rounds: int, *works: Callable[[], T], warm_up: bool = True) -> list[list[T]]:
    """Do the works in turn, `rounds` times: ours, peer, ours, peer, …; for each work what its rounds returned.

    With `warm_up` each is done once before, and not counted: files are in memory then, and modules compiled.
    """
    if warm_up:
        for work in works:
            work()
    done = [[work() for work in works] for _ in range(rounds)]
    return [list(results) for results in zip(*done, strict=True)]


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The k with which costs grow as sizes to the power of k: the slope of the line through their logarithms."""
    slope, _ = statistics.linear_regression([math.log(size) for size in sizes], [math.log(cost) for cost in costs])
    return slope


# --- as a table -------------------------------------------------------------------------------------------------------

_HEAD = ("what", "here", "beside it", "compared", "aim", "met")
_MARK = {True: "✔", False: "✘", None: "–"}


def table(lines: Sequence[Line]) -> str:
    """Markdown, padded so that it can be read in a terminal too; the notes below it."""
    rows = [_HEAD, *(_cells(line) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    padded = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    notes = [f"{line.work}: {line.note}." for line in lines if isinstance(line, Figure) and line.note]
    return "\n".join([padded[0], rule, *padded[1:], *(f"\n{note}" for note in notes)])


def _cells(line: Line) -> tuple[str, ...]:
    if isinstance(line, NotMeasured):
        return line.work, f"not measured: {line.why}", "", "", "", _MARK[None]
    peer = f"{line.peer_name}: {_said(line.peer, line.unit)}" if line.peer_name else ""
    return line.work, _said(line.ours, line.unit), peer, _compared(line), _aim(line), _MARK[line.met]


def _said(samples: Samples | None, unit: str) -> str:
    if samples is None:
        return "not measured"
    unit = unit if unit.startswith(("%", "/")) else f" {unit}".rstrip()
    least, most = samples.spread
    spread = f" ({number(least)} to {number(most)})" if len(samples.values) > 1 else ""
    return f"{number(samples.median)}{unit}{spread}"


def _compared(figure: Figure) -> str:
    found = figure.comparison
    if found is None:
        return ""
    if figure.compared == "ratio":
        return f"× {_said(found, '')}"
    return _said(found, figure.unit) if found.median < 0 else f"+{_said(found, figure.unit)}"


def _aim(figure: Figure) -> str:
    if (aim := figure.aim) is None:
        return ""
    bound = "at least" if aim.at_least else "at most"
    if aim.words:
        return f"{bound} {aim.words}"
    if aim.of == "ours":
        return f"{bound} {number(aim.limit)} {figure.unit}".rstrip()
    return f"{bound} × {number(aim.limit)}" if figure.compared == "ratio" else (
        f"{bound} +{number(aim.limit)} {figure.unit}".rstrip()
    )  # fmt: skip


def number(value: float) -> str:
    """Three digits that count, or all of the whole part."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    places = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(places, 4)}f}"


# --- as JSON ----------------------------------------------------------------------------------------------------------


def document(rows: Iterable[Row]) -> dict[str, Any]:
    """What `json.dumps` takes: every sample, and beside it what the table says of it."""
    return {"format": 1, "rows": [_row(row) for row in rows]}


def _row(row: Row) -> dict[str, Any]:
    lines = []
    for line in row.lines:
        said = asdict(line)
        if isinstance(line, Figure):
            said |= {"median": line.ours.median, "met": line.met}
            if (found := line.comparison) is not None:
                said |= {"peer_median": line.peer.median if line.peer else None, "comparison": found.median}
        lines.append(said)
    return {**asdict(row), "lines": lines}


def read(found: dict[str, Any]) -> list[Row]:
    """The rows of a document. Raises ValueError for any other format, KeyError and TypeError for what is none."""
    if found["format"] != 1:
        raise ValueError(f"format {found['format']} is not known here")
    return [Row(**{**row, "lines": tuple(_line(line) for line in row["lines"])}) for row in found["rows"]]


def _line(said: dict[str, Any]) -> Line:
    if "why" in said:
        return NotMeasured(said["work"], said["why"])
    derived = ("median", "met", "peer_median", "comparison")
    given = {name: value for name, value in said.items() if name not in derived}
    for name in ("ours", "peer"):
        given[name] = Samples.of(given[name]["values"]) if given[name] else None
    given["aim"] = Aim(**given["aim"]) if given["aim"] else None
    return Figure(**given)
