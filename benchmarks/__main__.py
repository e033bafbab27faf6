"""`python -m benchmarks`: measure what dpsx costs and how fast it is, each figure beside its peer in the same run."""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import figures, machine
from benchmarks.figures import Row

#: The modules that measure, in the order of the table. Each has
#: NAME: its name here; TITLE: a heading; ROUNDS: how many rounds are enough; NEEDS: peers of `machine.PEERS`;
#: measure(rounds) -> list[Figure | NotMeasured].
ROWS = ("device",)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when everything was measured, whatever came of it: a figure that misses its aim is a finding, no failure."""
    options = _parser().parse_args(arguments)
    modules = [import_module(f"benchmarks.{name}") for name in ROWS if name in (options.only or ROWS)]
    needed = tuple(dict.fromkeys(peer for module in modules for peer in module.NEEDS))
    for sentence in machine.missing(needed):
        print(sentence, flush=True)
    try:
        rows = [_measured(module, options.rounds) for module in modules]
    except KeyboardInterrupt:
        print("\nStopped; nothing is written.", file=sys.stderr)
        return 130
    print(as_text(rows))
    if options.json:
        options.json.write_text(json.dumps(figures.document(rows), indent=1) + "\n", encoding="utf-8")
    return 0


def _measured(module: Any, rounds: int | None) -> Row:
    count = rounds or module.ROUNDS
    print(f"{module.NAME}: {count} rounds …", file=sys.stderr, flush=True)
    load, date = machine.load(), f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    lines = tuple(module.measure(count))
    return Row(module.NAME, module.TITLE, lines, count, date, machine.commit(), load, machine.describe())


def as_text(rows: Sequence[Row]) -> str:
    """One table of all figures, and what it was measured on."""
    facts = "\n".join(f"{name}: {value}" for name, value in rows[0].machine.items())
    return f"{figures.table([line for row in rows for line in row.lines])}\n\n{facts}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("--only", nargs="+", choices=ROWS, metavar="NAME", help=f"of {', '.join(ROWS)} (all)")
    parser.add_argument("--rounds", type=_count, metavar="N", help="how often (each row knows how often is enough)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there, too")
    return parser


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rounds: give 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
