"""A class at one emulator: the commands of the teacher, the board, and a class that works all at once."""

import json
import re
import shlex
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from connections import at_dps, enrolled
from pki import make_device
from processes import COMMAND, RunningEmulator, free_host, run_command
from rest import ask
from test_run import hearing_ctrl_c

from benchmarks.class_room import MESSAGES, measure, report
from dpsx_helpers import joining
from dpsx_helpers.emulator import board, class_commands, refusals
from dpsx_helpers.emulator.__main__ import _parser
from dpsx_helpers.emulator.addresses import bind
from dpsx_helpers.emulator.options import Options, StartError


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEmulator]:
    running = RunningEmulator(tmp_path_factory.mktemp("school") / "state", None, "--allow-network")
    yield running
    running.close()


@pytest.fixture
def room(school: RunningEmulator) -> Iterator[RunningEmulator]:
    """The emulator of a class that has no students."""
    for join in school.emulator.students():
        school.emulator.dismiss(join.registration_id)
    yield school
    school.emulator.clear_faults()


def said(school: RunningEmulator, *arguments: str) -> str:
    finished = run_command(*arguments, "--state-dir", str(school.state_dir))
    assert (finished.returncode, finished.stderr) == (0, "")
    return finished.stdout


def refused(school: RunningEmulator, *arguments: str) -> str:
    finished = run_command(*arguments, "--state-dir", str(school.state_dir))
    assert (finished.returncode, finished.stdout) == (1, "")
    (line,) = finished.stderr.splitlines()
    return line


# --- the network ------------------------------------------------------------------------------------------------------


def test_the_switch_for_the_network_is_answered_with_a_warning(school: RunningEmulator) -> None:
    (line,) = [line for line in school.log().splitlines() if "is open to everybody" in line]
    assert f"WARNING emulator = {school.host} is open to everybody who can reach that address" in line
    assert "never a public one" in line


def test_without_the_switch_nothing_is_warned_of(emulator: RunningEmulator) -> None:
    assert "is open to everybody" not in emulator.log()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_every_address_is_refused_naming_those_there_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str
) -> None:
    import socket
    from types import SimpleNamespace

    found = [SimpleNamespace(family=socket.AF_INET, address=one) for one in ("127.0.0.1", "192.168.7.20", "10.1.2.3")]
    six = [SimpleNamespace(family=socket.AF_INET6, address="fe80::1")]
    monkeypatch.setattr("psutil.net_if_addrs", lambda: {"lo": found[:1], "eth0": found[1:] + six})
    with pytest.raises(
        StartError, match=r"means every address, .* name the one to listen on \(192.168.7.20, 10.1.2.3\)"
    ):
        bind(Options(tmp_path, host=host, allow_network=True))


# --- students ---------------------------------------------------------------------------------------------------------


def test_students_are_added_with_a_file_each_that_its_owner_alone_reads(room: RunningEmulator, tmp_path: Path) -> None:
    out = tmp_path / "handed out"
    text = said(room, "students", "add", "anna", "b:ob", "--count", "3", "--prefix", "class-7b-", "--out", str(out))
    names = ["anna", "b:ob", "class-7b-01", "class-7b-02", "class-7b-03"]
    files = [out / f"{name.replace(':', '%3A')}.dpsx.json" for name in names]
    for name, file, line in zip(names, files, text.splitlines(), strict=False):
        assert line.split(maxsplit=1) == [name, str(file)]
        assert joining.read_file(file).registration_id == name
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(out.iterdir()) == sorted(files)
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert "5 may join. " in text
    assert "dpsx join FILE" in text
    assert text.splitlines()[-1].startswith(f"{room.host} leads nowhere but to this machine: ")
    assert class_commands._near("192.168.7.20") == class_commands._near("teacher.local") == []
    keys = [joining.read_file(file).key for file in files]
    assert len(set(keys)) == 5
    assert not any(key in text + room.log() for key in keys)
    assert said(room, "students", "list").split() == names
    assert joining.read(said(room, "students", "code", "ANNA"), "x") == joining.read_file(files[0])
    assert [join.key for join in room.emulator.students()] == keys


def test_adding_once_more_writes_the_file_anew_with_the_same_key(room: RunningEmulator) -> None:
    said(room, "students", "add", "anna")
    file = room.state_dir / "students" / "anna.dpsx.json"
    before = file.read_text()
    file.unlink()
    said(room, "students", "add", "anna")
    assert file.read_text() == before


def test_a_join_file_leads_to_where_the_emulator_is(room: RunningEmulator) -> None:
    said(room, "students", "add", "anna")
    join, overview = joining.read_file(room.state_dir / "students" / "anna.dpsx.json"), room.emulator.overview
    assert (join.host, join.id_scope, join.hubs) == (room.host, overview.id_scope, (room.host,))
    assert (join.mqtt_port, join.https_port, join.ws_port) == (8883, overview.https_port, overview.ws_port)
    assert join.ca == overview.ca_file.read_text()
    assert join.endpoint == overview.service_endpoint


def test_who_is_removed_is_gone(room: RunningEmulator, tmp_path: Path) -> None:
    said(room, "students", "add", "anna", "bob")
    enrolled(room, tmp_path, "anna")
    assert said(room, "students", "remove", "Anna").startswith("Anna is removed: the key opens nothing any more")
    assert said(room, "students", "list").split() == ["bob"]
    assert ask(room, "GET", "/enrollments/anna").status_code == 404


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add"], "Name the students to add, for example: students add anna bob."),
        (["remove"], "Name the students to remove, for example: students remove anna bob."),
        (["add", "two words"], "The registration ID 'two words' has characters that DPS does not take"),
        (["add", "x" * 65], "The registration ID has 65 characters: "),
        (["add", "--count", "2", "--prefix", "a b-"], "The registration ID 'a b-01' has characters"),
        (["list", "anna"], "list takes no names."),
        (["code"], "code takes one name: "),
        (["code", "anna", "bob"], "code takes one name: "),
        (["code", "nobody"], "There is no student nobody in this class: "),
        (["remove", "nobody"], "There is no student 'nobody' in this class: "),
        (["list", "--count", "2"], "--count and --out go with add."),
        (["remove", "anna", "--out", "x"], "--count and --out go with add."),
    ],
)
def test_what_makes_no_sense_is_one_line(room: RunningEmulator, arguments: list[str], words: str) -> None:
    assert refused(room, "students", *arguments).startswith(words)
    assert room.emulator.students() == []


@pytest.mark.parametrize("count", ["0", "-1", "1001", "many", "1.5", "٣"])
def test_a_count_that_is_none_is_refused_with_2(tmp_path: Path, count: str) -> None:
    finished = run_command("students", "add", f"--count={count}", "--state-dir", str(tmp_path))
    assert finished.returncode == 2
    assert "is no number of students: give 1 to 1000" in finished.stderr


@pytest.mark.parametrize(
    "arguments", [["students", "list"], ["board"], ["board", "--json"], ["reset", "--device", "x"]]
)
def test_a_command_of_a_class_needs_a_running_emulator(tmp_path: Path, arguments: list[str]) -> None:
    finished = run_command(*arguments, "--state-dir", str(tmp_path / "state"))
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr.startswith(f"No emulator is running on {tmp_path / 'state'}: ")


# --- the board --------------------------------------------------------------------------------------------------------


def test_the_board_shows_every_student_by_name_and_the_totals(room: RunningEmulator, tmp_path: Path) -> None:
    said(room, "students", "add", "zoe", "anna", "mia")
    device = enrolled(room, tmp_path, "anna")
    with at_dps(room, device) as wire:
        wire.provision()
    with at_dps(room, make_device(tmp_path, "mia")) as wire:
        wire.outcome("")
    room.emulator.fault("429", "zoe")
    seen = json.loads(said(room, "board", "--json"))
    assert seen == room.emulator.board()
    assert [one["registrationId"] for one in seen["students"]] == ["anna", "mia", "zoe"]
    text = said(room, "board")
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert [name for name in lines if name in ("anna", "mia", "zoe")] == ["anna", "mia", "zoe"]
    assert device.thumbprint[:8] in lines["anna"]
    assert "1: not-enrolled" in lines["mia"]
    assert lines["zoe"].split()[1:] == ["-"] * 6
    flat = " ".join(text.split())
    assert "3 students · 1 enrolled · 1 registered · 0 at the hub now · 0 messages" in flat
    assert "mistakes: not-enrolled 1 · faults on: 429 for zoe" in flat


def test_a_reset_of_one_student_and_of_all_from_the_command_line(room: RunningEmulator, tmp_path: Path) -> None:
    said(room, "students", "add", "anna", "bob")
    for name in ("anna", "bob"):
        enrolled(room, tmp_path, name)
    said(room, "reset", "--device", "anna")
    rows = {one["registrationId"]: one["enrollment"] for one in room.emulator.board()["students"]}
    assert rows == {"anna": None, "bob": "enabled"}
    said(room, "reset")
    rows = {one["registrationId"]: one["enrollment"] for one in room.emulator.board()["students"]}
    assert rows == {"anna": None, "bob": None}, "the students stay"


ROW: dict[str, Any] = {
    "registrationId": "anna", "certificate": "ABCDEF0123456789", "enrollment": "disabled", "connected": True,
    "registration": {"status": "assigning", "updated": "2026-11-27T21:00:00.1234560Z"}, "messages": 1234,
    "mistakes": {
        "counts": {"other-certificate": 2, "not-enrolled": 1}, "at": "2026-11-27T21:01:02.1234560Z",
        "last": "other-certificate", "reason": "the device [bold]anna[/bold] presented another", "hint": "enroll it",
    },
}  # fmt: skip


@pytest.fixture
def in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("in_utc")
def test_the_cells_of_a_row() -> None:
    assert board.cells(ROW, wide=False) == (
        "anna", "ABCDEF01", "disabled", "21:00:00 assigning", "yes", "1234", "3: other-certificate",
    )  # fmt: skip
    told = "3: other-certificate 21:01:02, the device [bold]anna[/bold] presented another"
    assert board.cells(ROW, wide=True)[-1] == told
    nothing = dict.fromkeys(("certificate", "enrollment", "registration", "mistakes"))
    empty = {"registrationId": "bob", "connected": False, "messages": 0, **nothing}
    assert board.cells(empty, wide=True) == ("bob", *["-"] * 6)


def test_what_devices_say_is_shown_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    board.show({"students": [ROW], "faults": [["429", None]]})
    shown = capsys.readouterr().out
    assert "[bold]anna[/bold]" in shown, "no markup of theirs is obeyed"
    assert "mistakes: other-certificate 2, not-enrolled 1 · faults on: 429 for all" in shown


@pytest.mark.parametrize(
    ("count", "room_for", "turn", "shown"),
    [
        (10, 30, 0, (0, 10)),
        (10, 30, 7, (0, 10)),
        (100, 30, 0, (0, 30)),
        (100, 30, 3, (90, 100)),
        (100, 30, 4, (0, 30)),
        (60, 30, 2, (0, 30)),
        (0, 30, 5, (0, 0)),
        (3, -4, 4, (1, 2)),
    ],
)
def test_a_large_class_is_shown_page_by_page(count: int, room_for: int, turn: int, shown: tuple[int, int]) -> None:
    assert board.page(count, room_for, turn) == shown


def test_watching_follows_the_class_until_it_is_interrupted_or_the_emulator_ends(tmp_path: Path) -> None:
    running = RunningEmulator(tmp_path / "state")
    try:
        running.emulator.admit(["anna"])
        command = [*COMMAND, "board", "--watch", "--state-dir", str(running.state_dir)]
        with hearing_ctrl_c():
            watching = [
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "12"
            ]
        for process in watching:
            assert process.stdout
            while "1 students" not in process.stdout.readline():
                pass
        running.emulator.admit(["bob"])
        for process in watching:
            assert process.stdout
            while "2 students" not in process.stdout.readline():
                pass
        watching[0].send_signal(signal.SIGINT)
        assert watching[0].wait(timeout=20) == 0
    finally:
        running.close()
    said_last = watching[1].communicate(timeout=20)[1]
    assert (watching[1].returncode, said_last.count("\n")) == (1, 1)
    assert "does not answer" in said_last or "No emulator is running" in said_last
    watching[0].communicate()


# --- the teacher's page -----------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "teaching" / "class.md").read_text(encoding="utf-8")


def test_every_command_of_the_page_is_one() -> None:
    typed = re.findall(r"^\.venv/bin/python -m dpsx_helpers\.emulator (.+)$", PAGE, re.MULTILINE)
    in_table = re.findall(r"^\| [a-z].*? \| `((?:reset|fault|messages|send|students) ?[^`]*)`", PAGE, re.MULTILINE)
    assert len(typed) >= 5
    assert len(in_table) >= 7
    for line in [*typed, *in_table]:
        words = shlex.split(re.sub(r"\$\(.*\) ", "anna ", line))
        assert _parser().parse_args(words).command


def test_every_mistake_of_the_page_is_a_refusal() -> None:
    named = set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", PAGE))
    assert {"not-enrolled", "other-certificate", "dps-not-yours", "evicted"} <= set(refusals.ALL)
    assert {name for name in named if name not in refusals.ALL} == set()


# --- all at once ------------------------------------------------------------------------------------------------------


def test_a_class_enrolls_provisions_and_sends_at_once_and_nobody_fails(tmp_path: Path) -> None:
    """Real clients in two processes, each with the key of its own student; each sees what is its own, all of it."""
    measured = measure(20, 2, free_host(), tmp_path)
    assert measured.failed == [], report(measured)
    assert len(measured.outcomes) == 20
    assert "20 students, 200 messages: " in report(measured)
    assert MESSAGES == 10


def test_the_measurement_sees_a_student_who_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure counts: here the emulator has kept nothing of what the students say they sent."""
    monkeypatch.setattr("dpsx_helpers.emulator.Emulator.messages", lambda self, device: [])
    measured = measure(2, 1, free_host(), tmp_path)
    assert [one.wrong[:31] for one in measured.failed] == ["the emulator has kept 0 messages"[:31]] * 2
    assert "2 failed" in report(measured)
