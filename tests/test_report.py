"""`dpsx check`: what of the tutorial is done, for learners and teachers."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from devices import NAME, provision
from executed import BY_NUMBER, files_with

from dpsx_helpers import checks, enrollments, progress, registry, report, tutorial
from dpsx_helpers.certificates import Pair
from dpsx_helpers.checks import quickstart
from dpsx_helpers.checks.exercises import of_notebook
from dpsx_helpers.targets import Target

pytest_plugins = ["kit"]


def states(found: report.Report) -> dict[str, str]:
    return {step.step: step.state for step in found.steps}


def test_every_notebook_and_every_exercise_has_a_line(emulated: Target) -> None:
    found = report.make()
    expected = []
    for number in BY_NUMBER:
        expected += [f"{number:02}", *(f"{number:02}.{place + 1}" for place in range(len(of_notebook(number))))]
    assert [step.step for step in found.steps] == expected
    progress.record("07.2")
    lines = report.make().as_text().splitlines()
    for step in found.steps:
        mark = any(line.lstrip().startswith(("✔ ", "☐ ")) and f"{step.step} {step.title}" in line for line in lines)
        assert mark == ("." not in step.step or step.step.startswith("07.")), step
    assert "☐ 09 Device twins and methods (3 exercises)" in lines, "what is not begun is told shortly"


def test_on_a_fresh_folder_nothing_is_done_but_what_the_machine_itself_is(emulated: Target, work: Path) -> None:
    before = sorted(path.name for path in work.iterdir())
    found = report.make()
    done = [step for step, state in states(found).items() if state == "done"]
    assert done == ["00", "01"]
    assert found.done == 2
    assert found.as_text().endswith(f"\n2 of {len(found.steps)} done.")
    for step in found.steps:
        if step.state == "open":
            assert "dpsx again" not in step.found
            assert step.found.endswith("."), step
            assert "run the cell with targets.current" not in step.found
            assert step.passed is None
    assert sorted(path.name for path in work.iterdir()) == before, "to look is not to pass: nothing is noted"


def test_what_was_passed_and_is_gone_again_stays_on_record(enrolled: Target, pair: Pair) -> None:
    provision(10)
    first = states(report.make())
    assert [first[step] for step in ("02", "03", "04")] == ["done"] * 3
    assert first["05"] == "open"
    assert progress.recall() == {}, "the teacher's look is not the learner's pass"
    for check in (checks.certificate, checks.enrollment, quickstart.provisioned):
        check()
    enrollments.delete(enrolled, NAME)
    registry.delete(enrolled, NAME)
    tutorial.delete_pair()
    found = report.make()
    assert [states(found)[step] for step in ("02", "03", "04")] == ["passed"] * 3
    (line,) = [line for line in found.as_text().splitlines() if " 02 " in line]
    assert re.fullmatch(r"✔ 02 Create a device certificate \(passed 20..-..-.. ..:.. UTC\)", line)


def test_clean_up_is_known_by_its_check_alone(emulated: Target) -> None:
    assert states(report.make())["05"] == "open"
    assert emulated.emulator is not None
    # The shared emulator was started as by a notebook: the check wants it stopped, and says so.
    with pytest.raises(tutorial.Stop, match="still runs"):
        checks.clean_up(kept=False)
    assert states(report.make())["05"] == "open"


def test_the_json_says_the_same(emulated: Target) -> None:
    found = report.make()
    document = json.loads(found.as_json())
    assert (document["version"], document["target"]) == (1, "emulator")
    assert (document["done"], document["of"]) == (found.done, len(found.steps))
    assert [step["step"] for step in document["steps"]] == [step.step for step in found.steps]
    assert set(document["steps"][0]) == {"step", "title", "state", "found", "passed"}


def test_one_check_that_breaks_leaves_the_others_in_the_report(
    emulated: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Any:
        raise ZeroDivisionError

    monkeypatch.setitem(report._CHECKS, 0, broken)
    found = report.make()
    assert found.steps[0].found == "This could not be looked at (ZeroDivisionError)."
    assert found.steps[1].state == "done"


def test_a_report_names_the_folder_and_the_learner_who_wants_it(
    emulated: Target, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert json.loads(report.make().as_json())["learner"] is None
    monkeypatch.setenv("DPSX_LEARNER", " Ada ")
    found = report.make()
    assert json.loads(found.as_json())["learner"] == "Ada"
    head = found.as_text().splitlines()[0]
    assert head.startswith(f"dpsx check · Ada · emulator · {work} · 20")
    assert head.endswith(" UTC")
    assert re.fullmatch(r"20..-..-..T..:..:..\+00:00", found.made), "as the times in it"


def run_check(work: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dpsx_helpers", "check", *arguments],
        env={**os.environ, "DPSX_WORK_DIR": str(work), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_prints_text_or_json_and_starts_nothing(work: Path) -> None:
    text = run_check(work)
    assert (text.returncode, text.stderr) == (0, "")
    assert text.stdout.count("The emulator is not running, so what is in it cannot be looked at: run the first") == 1
    assert text.stdout.count("not running") == 1
    assert "– 00 Start here\n" in text.stdout
    assert re.search(r"\n\d+ of \d+ done, (?!0)\d+ not seen\.\n$", text.stdout)
    assert not (work / "emulator").exists()
    as_json = run_check(work, "--json")
    assert json.loads(as_json.stdout)["done"] == 0


def test_a_work_folder_that_is_not_there_is_told_and_not_made(tmp_path: Path) -> None:
    done = run_check(tmp_path / "wrok")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"There is no work folder {tmp_path / 'wrok'} (from the environment variable DPSX_WORK_DIR)")
    assert list(tmp_path.iterdir()) == []


def test_a_tutorial_that_was_never_begun_has_a_report_too(tmp_path: Path) -> None:
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    (notebooks / f"{tutorial.STEPS[0][0]}.ipynb").write_text("{}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DPSX_")}
    done = subprocess.run(
        [sys.executable, "-m", "dpsx_helpers", "check"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"dpsx check · emulator · {notebooks / 'work'} · ")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes end otherwise there")
def test_a_reader_that_goes_early_is_no_mistake(work: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m dpsx_helpers check | head -n 1"
    environment = {**os.environ, "DPSX_WORK_DIR": str(work)}
    done = subprocess.run(
        ["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("dpsx check · emulator · ")
    assert done.stderr == ""


def test_damaged_records_are_one_line_and_nothing_secret_is_printed(enrolled: Target, pair: Pair, work: Path) -> None:
    secret = "canary-check-51c2"
    done = run_check(work, "--json", DPSX_PASS_PHRASE=secret)
    assert done.returncode == 0
    assert secret not in done.stdout + done.stderr
    assert "does not open" in done.stdout
    assert files_with(secret, work) == []
    (work / "progress.json").write_text("[")
    damaged = run_check(work)
    assert damaged.returncode == 1
    assert damaged.stdout == ""
    assert len(damaged.stderr.splitlines()) == 1
    assert "progress.json is damaged" in damaged.stderr
