"""`python -m benchmarks`: measure what dpsx costs and how fast it is, each figure beside its peer in the same run."""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import drawing, figures, machine, page
from benchmarks.figures import Row
from benchmarks.page import PageError
from dpsx_helpers.errors import LearnerError

#: The modules that measure, in the order of the table. Each has
#: NAME: its name here; TITLE: a heading; ROUNDS: how many rounds are enough; NEEDS: peers of `machine.PEERS`;
#: measure(rounds) -> list[Line]; and perhaps PICTURE: the name of a drawing of its curves.
ROWS = (
    "device", "registrations", "telemetry", "connects", "idle", "start", "certificate", "notebooks", "growth",
)  # fmt: skip

_INTERRUPTED = 130  # as shells count Ctrl-C
_QUIET = 0.5  # of one processor, on average in the last minute

_ABOUT = """\
Measure what dpsx costs and how fast it is, each figure beside its peer in the same run, in alternation: the median of
the rounds, and in brackets the least and the most. Nothing but loopback is used. Leave the machine alone meanwhile.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when everything was measured, whatever came of it: a figure that misses its aim is a finding, no failure."""
    options = _parser().parse_args(arguments)
    modules = [module(name) for name in ROWS if name in (options.only or ROWS)]
    needed = tuple(dict.fromkeys(peer for one in modules for peer in one.NEEDS))
    for sentence in machine.missing(needed):
        print(sentence, flush=True)
    if (busy := machine.load()) is not None and busy > _QUIET:
        print(f"This machine is busy (load {busy:g}), and what else runs is measured too.", file=sys.stderr, flush=True)
    rows, status = _rows(modules, options.rounds)
    if rows:
        print(as_text(rows), flush=True)
    try:
        if options.json and rows:
            options.json.write_text(as_json(rows), encoding="utf-8")
        if options.page and rows:
            _write(options.page, rows)
    except (PageError, OSError) as error:
        print(f"{error}", file=sys.stderr)
        return 1
    return status


def _rows(modules: Sequence[Any], rounds: int | None) -> tuple[list[Row], int]:
    """What could be measured, and the exit status. After Ctrl-C that is what was whole by then."""
    rows: list[Row] = []
    try:
        for one in modules:
            if (row := _measured(one, rounds)) is not None:
                rows.append(row)
    except KeyboardInterrupt:
        print(f"\nStopped; measured until then: {', '.join(row.name for row in rows) or 'nothing'}.", file=sys.stderr)
        return rows, _INTERRUPTED
    return rows, 0 if len(rows) == len(modules) else 1


def module(name: str) -> Any:
    """The module of a row."""
    return import_module(f"benchmarks.{name}")


def _measured(one: Any, rounds: int | None) -> Row | None:
    """None when it failed, which is said."""
    count = rounds or one.ROUNDS
    print(f"{one.NAME}: {count} round{'s' if count > 1 else ''} …", file=sys.stderr, flush=True)
    load, date = machine.load(), f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    try:
        lines = tuple(one.measure(count))
    except (LearnerError, RuntimeError, OSError) as error:
        print(f"{one.NAME} could not be measured: {error}", file=sys.stderr, flush=True)
        return None
    return Row(one.NAME, one.TITLE, lines, count, date, machine.commit(), load, machine.describe())


def as_text(rows: Sequence[Row]) -> str:
    """One table of all figures, and what it was measured on."""
    facts = "\n".join(f"{name}: {value}" for name, value in rows[0].machine.items())
    return f"{figures.table([line for row in rows for line in row.lines])}\n\n{facts}"


def as_json(rows: Sequence[Row]) -> str:
    return json.dumps(figures.document(rows), indent=1, ensure_ascii=False) + "\n"


def samples_of(path: Path) -> Path:
    """Where the samples behind a page are kept: beside it."""
    return path.with_suffix(".json")


def _write(path: Path, measured: Sequence[Row]) -> None:
    """The page, the samples behind it, its drawings; what was not measured now stays. Raises PageError, OSError."""
    kept = samples_of(path)
    try:
        earlier = figures.read(json.loads(kept.read_text(encoding="utf-8"))) if kept.exists() else []
    except (ValueError, KeyError, TypeError):
        raise PageError(f"{kept} is damaged: delete it, and measure everything, without --only.") from None
    named = {row.name: row for row in [*earlier, *measured]}
    rows = [named[name] for name in ROWS if name in named]
    text = page.fill(path.read_text(encoding="utf-8"), rows)
    pictures = {name: row for row in measured if (name := getattr(module(row.name), "PICTURE", ""))}
    try:
        drawn = {name: drawing.png(row.lines) for name, row in pictures.items()}
    except ImportError:
        print("Nothing is drawn without matplotlib: pip install -r requirements-fleet.txt", file=sys.stderr)
        drawn = {}
    path.write_text(text, encoding="utf-8")
    kept.write_text(as_json(rows), encoding="utf-8")
    for name, picture in drawn.items():
        (path.parent / "images" / f"{name}.png").write_bytes(picture)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=_ABOUT, allow_abbrev=False)
    parser.add_argument("--only", nargs="+", choices=ROWS, metavar="NAME", help=f"of {', '.join(ROWS)} (all)")
    parser.add_argument("--rounds", type=_count, metavar="N", help="how often (each row knows how often is enough)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there, too")
    parser.add_argument("--page", type=Path, metavar="FILE",
                        help="put the tables between the markers of this page, the samples beside it, the drawings "
                        "into images/")  # fmt: skip
    return parser


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rounds: give 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
