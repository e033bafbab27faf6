"""One table out of the reports of a class: `dpsx collect FOLDER` reads what `dpsx check --json` printed for each.

The reports come from other people's machines and perhaps from other versions: what is missing in one is taken as not
seen, what is no report is named, and nothing in a name can move the table or become a formula in a spreadsheet.
"""

import csv
import io
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpsx_helpers import given_files
from dpsx_helpers.display import table
from dpsx_helpers.errors import LearnerError, shown
from dpsx_helpers.report import MARKS

LARGEST = 1_000_000  # bytes; a report has some thousand
_LONGEST_NAME = 60  # characters
_STEP = re.compile(r"\d\d(\.\d+)?")
_UNSEEN = MARKS["unseen"]
_LEGEND = (
    f"{MARKS['done']} done or passed · {MARKS['look']} only the learner can see it (on Azure) · "
    f"{MARKS['open']} open · {_UNSEEN} not seen. After it: exercises done, of how many."
)


@dataclass(frozen=True)
class HandIn:
    """One learner's report. `made` is ISO 8601 in UTC, `states` the state of each step by its name."""

    learner: str
    made: str
    target: str
    states: dict[str, str]

    def done(self, step: str) -> bool:
        return self.states.get(step) in ("done", "passed")

    def mark(self, notebook: str) -> str:
        """The check of a notebook and, where it has exercises, how many of them are done."""
        exercises = [step for step in self.states if step.startswith(f"{notebook}.")]
        count = f" {sum(map(self.done, exercises))}/{len(exercises)}" if exercises else ""
        return MARKS.get(self.states.get(notebook, ""), _UNSEEN) + count


@dataclass(frozen=True)
class Class:
    """The newest report of each learner, in the order of their names, and one sentence for each file that is none."""

    reports: tuple[HandIn, ...]
    problems: tuple[str, ...]

    @property
    def steps(self) -> list[str]:
        """Every notebook ("06") and exercise ("06.1") that any report has, in their order."""
        found = {step for report in self.reports for step in report.states}
        return sorted(found, key=lambda step: [int(part) for part in step.split(".")])

    def as_text(self) -> str:
        """A line for each learner and a column for each notebook; the last line counts who has it."""
        notebooks = [step for step in self.steps if "." not in step]
        rows = [
            [report.learner, *map(report.mark, notebooks), self._count(report), _minute(report.made)]
            for report in self.reports
        ]
        have = [str(sum(report.done(notebook) for report in self.reports)) for notebook in notebooks]
        caption = f"Reports: {len(self.reports)}"
        shown = table(caption, ["Learner", *notebooks, "Done", "Made (UTC)"], [*rows, ["How many", *have, "", ""]])
        return f"{shown.text}\n\n{_LEGEND}"

    def as_csv(self) -> str:
        """The same for a spreadsheet: a column for each step, with the states as they are in the reports."""
        out = io.StringIO()
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(["learner", "made", "target", "done", *self.steps])
        for report in self.reports:
            states = [report.states.get(step, "") for step in self.steps]
            done = sum(map(report.done, report.states))
            rows.writerow([*map(_no_formula, (report.learner, report.made, report.target)), done, *states])
        return out.getvalue()

    @staticmethod
    def _count(report: HandIn) -> str:
        return f"{sum(map(report.done, report.states))} of {len(report.states)}"


def read(folder: Path) -> Class:
    """All reports in this folder and those below it. Raises LearnerError when there is none."""
    if not os.path.isdir(folder):
        raise LearnerError(f"There is no folder {shown(folder)}: give the one with the reports, and start again.")
    files = sorted(folder.rglob("*.json"))
    if not files:
        raise LearnerError(
            f"There is no report in {shown(folder)}: put one file for each learner there, as `dpsx check --json > "
            "ann.json` makes them, and start again."
        )
    newest: dict[str, HandIn] = {}
    handed_in: Counter[str] = Counter()
    problems = []
    for file in files:
        name = str(file.relative_to(folder))
        try:
            report = _read(file, name.removesuffix(".json"))
        except LearnerError as problem:
            problems.append(f"{_plain(name)} {problem}")
            continue
        key = report.learner.casefold()
        handed_in[key] += 1
        newest[key] = max(newest.get(key, report), report, key=lambda one: one.made)
    problems += [
        f"{newest[key].learner} has {count} reports: the one of {_minute(newest[key].made)} UTC counts."
        for key, count in handed_in.items()
        if count > 1
    ]
    return Class(tuple(newest[key] for key in sorted(newest)), tuple(problems))


def _read(file: Path, name: str) -> HandIn:
    try:
        document = given_files.read_json(file, LARGEST)
        if not (states := dict(map(_state, document["steps"]))):
            raise ValueError("no steps")
    except given_files.TooLargeError:
        raise LearnerError(f"has more than {LARGEST:,} bytes, which no report has: ask for it again.") from None
    except OSError as error:
        raise LearnerError(f"cannot be read ({error.strerror}): ask for it again.") from None
    except (ValueError, TypeError, KeyError):
        raise LearnerError("is no report: ask for what `dpsx check --json` prints, and nothing before it.") from None
    given = document.get("learner")
    return HandIn(
        _plain(given if isinstance(given, str) and given.strip() else name),
        _plain(str(document.get("made", ""))),
        _plain(str(document.get("target", ""))),
        states,
    )


def _state(step: Any) -> tuple[str, str]:
    name, state = step["step"], step["state"]
    if not _STEP.fullmatch(name) or not isinstance(state, str):
        raise ValueError(name)
    return name, _plain(state)


def _minute(stamp: str) -> str:
    return stamp[:16].replace("T", " ")


def _plain(text: str) -> str:
    """One line of printable characters."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return line if len(line) <= _LONGEST_NAME else line[: _LONGEST_NAME - 1] + "…"


def _no_formula(text: str) -> str:
    """What a spreadsheet would take for a formula begins with an apostrophe:
    https://owasp.org/www-community/attacks/CSV_Injection
    """
    return f"'{text}" if text[:1] in "=+-@" and text else text
