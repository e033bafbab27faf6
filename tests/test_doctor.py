import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from devices import NAME, PASS_PHRASE
from test_run import MISTAKES, good_pair, own

from dpsx_helpers import doctor, lab, machine, tutorial
from dpsx_helpers.__main__ import main
from dpsx_helpers.certificates import Pair
from dpsx_helpers.machine import Finding
from dpsx_helpers.targets import Target

pytest_plugins = ["kit"]
ROOT = Path(__file__).parents[1]
Doctor = Callable[[int], list[str]]


@pytest.fixture
def said(work: Path, capfd: pytest.CaptureFixture[str]) -> Doctor:
    """Start `dpsx doctor` in this process; its lines, after a look at its status."""

    def lines(status: int) -> list[str]:
        assert main(["doctor"]) == status
        seen = capfd.readouterr()
        assert seen.err == ""
        *found, last = seen.out.splitlines()
        assert all(line[:2] in ("✔ ", "✘ ", "- ") for line in found), seen.out
        assert any(line.startswith("✘") for line in found) == (status == 1)
        assert last == (
            "Mend what is marked with ✘, and start `dpsx doctor` again."
            if status
            else "This machine is fit for the tutorial."
        )
        return found

    return lines


def starting(lines: list[str], start: str) -> str:
    (line,) = [line for line in lines if line[2:].startswith(start)]
    return line


def test_a_fit_machine_is_told_line_by_line(said: Doctor, work: Path) -> None:
    lines = said(0)
    assert starting(lines, "work folder") == f"✔ work folder: {work}"
    assert starting(lines, "target") == "✔ target: emulator"
    assert starting(lines, "emulator") == (
        "✔ emulator of this work folder: not running (the notebooks start it when they need it)"
    )
    names = ["Python", *(name for name, _ in machine.PACKAGES), "work folder", "target", "port", "clock", "git"]
    assert all(starting(lines, f"{name}") for name in names if name != "azure-iot-device")
    assert not [line for line in lines if "DPSX_" in line and "work folder" not in line]
    assert list(work.iterdir()) == [], "looking leaves nothing behind"


def test_in_a_process_of_its_own_it_says_the_same(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DPSX_")}
    done = subprocess.run(
        [sys.executable, "-m", "dpsx_helpers", "doctor"],
        env={**kept, "PYTHONPATH": str(ROOT), "DPSX_WORK_DIR": str(tmp_path), "DPSX_ID_SCOPE": "0ne-1"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    (fault,) = [line for line in done.stdout.splitlines() if line.startswith("✘")]
    assert fault.startswith('✘ DPSX_ID_SCOPE: cannot be used. The ID scope "0ne-1" (in DPSX_ID_SCOPE) has something')
    assert fault.endswith("and start dpsx again.")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_of_a_learner_is_a_finding_with_its_remedy(
    mistake: str, said: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, words = MISTAKES[mistake]
    for name, value in make(tmp_path).items():
        monkeypatch.setenv(name, value)
    faults = [line for line in said(1) if line.startswith("✘")]
    assert any(words in line for line in faults), faults
    for line in faults:
        assert line.endswith("."), line
        assert "this cell" not in line
        assert "this check" not in line


# --- the variables that are set -------------------------------------------------------------------


def test_good_variables_are_told_and_the_pass_phrase_is_not(
    said: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPSX_REGISTRATION_ID", NAME.upper())  # DPS does not mind
    monkeypatch.setenv("DPSX_TRANSPORT", "websockets")
    monkeypatch.setenv("DPSX_PROVISIONING_HOST", "127.0.0.1")
    monkeypatch.setenv("DPSX_ID_SCOPE", "0ne00ABC123")
    pair = good_pair(tmp_path / "own")
    for name, value in own(pair).items():
        monkeypatch.setenv(name, value)
    lines = said(0)
    assert starting(lines, "DPSX_TRANSPORT") == "✔ DPSX_TRANSPORT: websockets"
    assert starting(lines, "DPSX_REGISTRATION_ID") == f"✔ DPSX_REGISTRATION_ID: {NAME.upper()}"
    assert starting(lines, "DPSX_PROVISIONING_HOST") == "✔ DPSX_PROVISIONING_HOST: 127.0.0.1"
    assert starting(lines, "DPSX_ID_SCOPE") == "✔ DPSX_ID_SCOPE: 0ne00ABC123"
    assert starting(lines, "DPSX_PASS_PHRASE") == "✔ DPSX_PASS_PHRASE: set"
    assert starting(lines, "DPSX_CERT_FILE") == (
        f"✔ DPSX_CERT_FILE, DPSX_KEY_FILE: the key opens and belongs to the certificate of {NAME.upper()}"
    )


def test_an_unusual_id_scope_is_fit_and_gets_a_hint(said: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSX_ID_SCOPE", "002409020C00089D")
    assert starting(said(0), "DPSX_ID_SCOPE").startswith("✔ DPSX_ID_SCOPE: an ID scope is usually 0ne and 8 more")


def test_the_pass_phrase_is_tried_on_the_tutorials_own_key(
    said: Doctor, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPSX_PASS_PHRASE", "canary-4711")
    fault = starting(said(1), "DPSX_PASS_PHRASE")
    assert fault.startswith("✘ DPSX_PASS_PHRASE: cannot be used. ")
    assert "canary" not in fault
    monkeypatch.setenv("DPSX_PASS_PHRASE", PASS_PHRASE)
    assert starting(said(0), "DPSX_PASS_PHRASE") == "✔ DPSX_PASS_PHRASE: set"


def test_the_host_of_a_running_emulator_is_good(
    said: Doctor, emulated: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPSX_PROVISIONING_HOST", emulated.host)
    assert starting(said(0), "DPSX_PROVISIONING_HOST") == f"✔ DPSX_PROVISIONING_HOST: {emulated.host}"


def test_on_azure_nobody_is_asked_whether_the_host_answers(said: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSX_TARGET", "azure")
    monkeypatch.setenv("DPSX_PROVISIONING_HOST", "global.azure-devices-provisioning.net")
    monkeypatch.setattr(socket, "create_connection", None)
    lines = said(0)
    assert starting(lines, "target") == "✔ target: azure"
    assert "global.azure" in starting(lines, "DPSX_PROVISIONING_HOST")


# --- the machine ----------------------------------------------------------------------------------


def test_a_missing_package_is_a_fault_with_the_command(said: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nest_asyncio", None)
    assert starting(said(1), "nest-asyncio") == (
        "✘ nest-asyncio: cannot be imported (ModuleNotFoundError). run `python -m pip install -r requirements.txt` "
        "in the tutorial's folder"
    )


def test_a_tool_that_is_only_handy_is_no_fault(said: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert starting(said(0), "git").startswith("- git: not found. not needed here; install git if ")


def test_a_running_emulator_is_told(said: Doctor, emulated: Target) -> None:
    assert emulated.emulator is not None
    assert starting(said(0), "emulator of this work folder") == (
        f"✔ emulator of this work folder: runs at {emulated.host}, ID scope {emulated.id_scope}, "
        f"process {emulated.emulator.overview.pid}"
    )


def test_a_damaged_memory_is_a_fault_and_says_start_dpsx_again(said: Doctor, work: Path) -> None:
    (work / "tutorial.json").write_text("{")
    fault = starting(said(1), "target")
    assert fault.startswith("✘ target: ")
    assert "delete that file and start dpsx again; your certificate" in fault


# --- words and folders ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("in_a_notebook", "in_a_terminal"),
    [
        ("Mend it and run this cell again.", "Mend it and start dpsx again."),
        ("Mend it, then this check.", "Mend it, then start dpsx again."),
        ("Mend it, and run this check again.", "Mend it, and start dpsx again."),
        ("Enable it there, then run this check.", "Enable it there, then start dpsx again."),
        ("Nothing to say of cells.", "Nothing to say of cells."),
    ],
)
def test_sentences_for_a_notebook_are_told_for_a_terminal(in_a_notebook: str, in_a_terminal: str) -> None:
    assert doctor.in_terminal(in_a_notebook) == in_a_terminal


@pytest.mark.parametrize(
    ("finding", "line"),
    [
        (Finding("clock", True, "12:00"), "✔ clock: 12:00"),
        (Finding("clock", False, "12:00", "Set it."), "✘ clock: 12:00. Set it."),
        (Finding("git", False, "not found", "Install it.", required=False), "- git: not found. Install it."),
    ],
)
def test_a_finding_is_one_line(finding: Finding, line: str) -> None:
    assert doctor.line(finding) == line


def test_the_work_folder_is_the_tutorials_from_any_folder_and_paths_are_absolute(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPSX_WORK_DIR", " ")
    monkeypatch.setenv("DPSX_CERT_FILE", "own.pem")
    monkeypatch.setenv("DPSX_KEY_FILE", "~/own.key")
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    with doctor.settled():
        assert tutorial.work_dir() == lab.notebooks_folder() / "work"
        assert os.environ["DPSX_CERT_FILE"] == str(tmp_path / "own.pem")
        assert os.environ["DPSX_KEY_FILE"] == str(Path.home() / "own.key")
        os.environ["DPSX_NEW"] = "x"
    assert dict(os.environ) == before


def test_a_work_folder_of_ones_own_stays_and_blank_paths_too(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSX_CERT_FILE", " ")
    with doctor.settled():
        assert tutorial.work_dir() == work
        assert os.environ["DPSX_CERT_FILE"] == " "
