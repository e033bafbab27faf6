"""`dpsx collect`: one table out of the reports of a class."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dpsx_helpers import collect, report
from dpsx_helpers.errors import LearnerError
from dpsx_helpers.targets import Target

pytest_plugins = ["kit"]


def steps(**states: str) -> list[dict[str, Any]]:
    return [{"step": name[1:].replace("_", "."), "title": "x", "state": state} for name, state in states.items()]


def hand_in(folder: Path, name: str, made: str = "2026-11-27T21:00:00+00:00", **more: Any) -> Path:
    document = {"version": 1, "made": made, "target": "emulator", "steps": steps(_00="done", _04="open"), **more}
    file = folder / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document), encoding="utf-8")
    return file


def dpsx_collect(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dpsx_helpers", "collect", *map(str, arguments)],
        env={**os.environ, "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def test_what_check_prints_is_what_collect_reads(
    emulated: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(report.LEARNER, "Ann Smith")
    made = report.make()
    (tmp_path / "ann.json").write_text(made.as_json(), encoding="utf-8")
    found = collect.read(tmp_path)
    assert found.problems == ()
    (ann,) = found.reports
    assert ann.states == {step.step: step.state for step in made.steps}
    assert (ann.learner, ann.made, ann.target) == ("Ann Smith", made.made, "emulator")
    assert found.steps == [step.step for step in made.steps]
    line = next(line for line in found.as_text().splitlines() if line.lstrip().startswith("Ann Smith "))
    assert f"{made.done} of {len(made.steps)}" in line
    assert "☐ 0/3" in line


def test_the_table_has_a_line_for_each_learner_and_counts_who_has_it(tmp_path: Path) -> None:
    hand_in(tmp_path, "cem", steps=steps(_00="done", _04="passed", _06="look", _06_1="done", _06_2="open"))
    hand_in(tmp_path, "Ann", steps=steps(_00="passed", _04="unseen"))
    hand_in(tmp_path, "bea", steps=steps(_00="done", _04="open", _10="something new"))
    lines = collect.read(tmp_path).as_text().splitlines()
    assert lines[0] == "Reports: 3"
    cells = [line.split() for line in lines[1:6]]
    assert cells[0] == ["Learner", "00", "04", "06", "10", "Done", "Made", "(UTC)"]
    assert cells[1] == ["Ann", "✔", "–", "–", "–", "1", "of", "2", "2026-11-27", "21:00"]
    assert cells[2] == ["bea", "✔", "☐", "–", "–", "1", "of", "3", "2026-11-27", "21:00"]
    assert cells[3] == ["cem", "✔", "✔", "?", "1/2", "–", "3", "of", "5", "2026-11-27", "21:00"]
    assert cells[4] == ["How", "many", "3", "1", "0", "0"]
    columns = {line.index("✔") for line in lines[2:5]}
    assert len(columns) == 1, "the marks stand below each other"


def test_a_name_in_the_report_wins_over_the_files_and_the_newest_report_counts(tmp_path: Path) -> None:
    hand_in(tmp_path, "Smith_123/report", learner="Ann Smith", made="2026-11-27T21:00:07+00:00")
    hand_in(
        tmp_path, "late", learner="ann smith", made="2026-11-27T21:00:09+00:00", steps=steps(_00="done", _04="done")
    )
    hand_in(tmp_path, "Jones_124/report", learner=" ")
    found = collect.read(tmp_path)
    assert [one.learner for one in found.reports] == ["ann smith", "Jones_124/report"]
    assert found.reports[0].done("04")
    assert found.problems == ("ann smith has 2 reports: the one of 2026-11-27 21:00 UTC counts.",)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\xff",
        "✔ 00 Start here".encode(),
        b"[]",
        b'"steps"',
        b'{"steps": []}',
        b'{"steps": [{"step": "00"}]}',
        b'{"steps": [{"step": "first", "state": "done"}]}',
        b'{"steps": [{"step": 0, "state": "done"}]}',
        b'{"steps": [{"step": "00", "state": 1}]}',
        b"[" * 100_000,
        b" " * (collect.LARGEST + 1),
    ],
    ids=lambda content: str(content[:12]),
)
def test_what_is_no_report_is_named_in_one_line_and_the_others_count(content: bytes, tmp_path: Path) -> None:
    hand_in(tmp_path, "ann")
    (tmp_path / "notes.json").write_bytes(content)
    found = collect.read(tmp_path)
    assert [one.learner for one in found.reports] == ["ann"]
    (problem,) = found.problems
    assert problem.startswith("notes.json ")
    assert problem.endswith(".")
    assert "\n" not in problem


def test_utf_16_as_an_older_powershell_writes_it_is_read(tmp_path: Path) -> None:
    file = hand_in(tmp_path, "ann", learner="Ånn")
    file.write_bytes(file.read_text(encoding="utf-8").encode("utf-16"))
    assert [one.learner for one in collect.read(tmp_path).reports] == ["Ånn"]


def test_a_name_can_neither_move_the_table_nor_become_a_formula(tmp_path: Path) -> None:
    hand_in(tmp_path, "a", learner="=HYPERLINK(1)\r\nbob,✔\x1b[31m\ud800" + "x" * 100)
    found = collect.read(tmp_path)
    assert len(found.as_text().splitlines()) == len(["caption", "head", "learner", "how many", "", "legend"])
    assert "\x1b" not in found.as_text()
    head, row = csv.reader(io.StringIO(found.as_csv()))
    assert head == ["learner", "made", "target", "done", "00", "04"]
    assert row[0].startswith("'=HYPERLINK(1) bob,✔ [31m")
    assert len(row[0]) <= 61
    assert row[1:] == ["2026-11-27T21:00:00+00:00", "emulator", "1", "done", "open"]


def test_the_command_prints_a_table_or_csv_and_says_what_is_wrong_with_the_rest(tmp_path: Path) -> None:
    hand_in(tmp_path, "ann")
    text = dpsx_collect(tmp_path)
    assert (text.returncode, text.stderr) == (0, "")
    assert text.stdout.startswith("Reports: 1\n  Learner ")
    (tmp_path / "b.json").write_text("no")
    as_csv = dpsx_collect(tmp_path, "--csv")
    assert as_csv.returncode == 1
    assert as_csv.stdout == "learner,made,target,done,00,04\nann,2026-11-27T21:00:00+00:00,emulator,1,done,open\n"
    assert as_csv.stderr.startswith("b.json is no report: ")
    assert len(as_csv.stderr.splitlines()) == 1


def test_a_folder_without_reports_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LearnerError, match=r"^There is no report in .*: put one file for each learner there"):
        collect.read(tmp_path)
    with pytest.raises(LearnerError, match=r"^There is no folder .*nowhere: give the one with the reports"):
        collect.read(tmp_path / "nowhere")
    done = dpsx_collect(tmp_path)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
