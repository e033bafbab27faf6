"""A student joins a class and leaves it: file and code, `dpsx join`, and the notebooks at the class's emulator."""

import io
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from devices import provision, set_variables
from executed import Kernel, cells, errors, files_with, only_sentence, read, said
from processes import RunningEmulator
from test_run import ROOT, environment

from dpsx_helpers import (
    checks,
    doctor,
    enrollments,
    forms,
    joining,
    machine,
    membership,
    registry,
    report,
    targets,
    tutorial,
    twins,
    views,
)
from dpsx_helpers.certificates import create
from dpsx_helpers.checks import quickstart
from dpsx_helpers.diagnosis.evidence import refusals
from dpsx_helpers.emulator.tls import Files, prepare
from dpsx_helpers.errors import LearnerError
from dpsx_helpers.joining import Join, JoinError
from dpsx_helpers.tutorial import NotReadable, Stop

pytest_plugins = ["kit"]


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> str:
    files = Files(tmp_path_factory.mktemp("ca"))
    prepare(files, "192.168.100.101", datetime.now(UTC))
    return files.ca.read_text()


@pytest.fixture(scope="module")
def anna(ca: str) -> Join:
    hubs = ("192.168.100.101", "localhost")
    return Join("192.168.100.101", 8883, 8443, None, hubs, "0ne00A1B2C3", "class-7b-anneliese-m", "c2VjcmV0" * 5, ca)


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEmulator]:
    """The emulator of a class."""
    running = RunningEmulator(tmp_path_factory.mktemp("school") / "state", None, "--allow-network")
    yield running
    running.close()


@pytest.fixture
def invited(school: RunningEmulator, tmp_path: Path) -> Path:
    """The join file of a student who has done nothing yet."""
    (join,) = school.emulator.admit(["anna"])
    school.emulator.reset("anna")
    file = tmp_path / "anna.dpsx.json"
    file.write_text(join.as_file())
    return file


@pytest.fixture
def joined(work: Path, invited: Path) -> Join:
    membership.join(str(invited))
    found = tutorial.joined()
    assert found is not None
    return found


def inside(widget: Any) -> Iterator[Any]:
    """A widget and all within it."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from inside(child)


def choices(form: Any) -> list[tuple[str, str]]:
    (found,) = [widget.options for widget in inside(form._box) if hasattr(widget, "options")]
    return list(found)


# --- the document -----------------------------------------------------------------------------------------------------


def test_file_and_code_hold_the_same(anna: Join) -> None:
    assert joining.read(anna.as_file(), "x") == joining.read(anna.as_code(), "x") == anna
    assert joining.read(f"  {anna.as_code()}\n", "x") == anna
    folded = re.sub("(.{60})", r"\1\n  ", anna.as_code())
    assert joining.read(folded, "x") == anna, "mail programs fold long lines"


def test_a_code_is_one_line_that_every_terminal_takes(anna: Join) -> None:
    """1024 is the longest line that the terminal of macOS takes (_POSIX limits: MAX_CANON)."""
    assert re.fullmatch(r"[A-Za-z0-9._-]+", anna.as_code())
    assert len(anna.as_code()) < 1000


def test_the_file_has_connection_strings_for_programs_of_ones_own(anna: Join) -> None:
    document = json.loads(anna.as_file())
    string = "HostName=192.168.100.101:8443;SharedAccessKeyName=student-class-7b-anneliese-m;SharedAccessKey="
    assert document["dps_connection_string"] == document["iothub_connection_string"] == string + anna.key
    assert replace(anna, https_port=443).endpoint == "192.168.100.101"
    assert replace(anna, host="fd00::5").endpoint == "[fd00::5]:8443"


def test_the_key_shows_in_no_representation(anna: Join) -> None:
    assert anna.key not in repr(anna)


DAMAGED: dict[str, Callable[[str], str]] = {
    "the end is missing": lambda code: code[:-2],
    "half is missing": lambda code: code[: len(code) // 2],
    "the checksum is missing": lambda code: code.rpartition(".")[0],
    "one character is another": lambda code: code[:300] + ("A" if code[300] != "A" else "B") + code[301:],
    "a character too many": lambda code: f"{code[:300]}A{code[300:]}",
    "nothing after the version": lambda code: "dpsx1.",
    "no base64": lambda code: "dpsx1.!!!!.00000000",
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_code_is_one_clear_line(anna: Join, damage: Callable[[str], str]) -> None:
    code = damage(anna.as_code())
    with pytest.raises(JoinError) as caught:
        joining.read(code, "The code")
    said = str(caught.value)
    assert said.startswith("The code is damaged, a part is missing or has changed: copy the whole line again, or ask")
    assert said.count(".") == 1
    assert anna.key not in said
    assert code[7:40] not in said or len(code) < 40


@pytest.mark.parametrize("version", ["2", "99", "0"])
def test_a_code_or_file_of_another_version_names_both(anna: Join, version: str) -> None:
    said = f"is of version {version}, this dpsx knows 1: use the same dpsx as your teacher."
    with pytest.raises(JoinError, match=said):
        joining.read(f"dpsx{version}.abc.def", "The code")
    with pytest.raises(JoinError, match=said):
        joining.read(json.dumps({**json.loads(anna.as_file()), "dpsx": int(version)}), "The file")


@pytest.mark.parametrize("text", ["", "  \n", "hello", "{}", "[]", "null", "[" * 5000, "dpsx", "dpsx1"])
def test_what_is_no_document_is_said_so(text: str) -> None:
    with pytest.raises(JoinError, match=r"^The file is (empty|no join file or code): ask your teacher "):
        joining.read(text, "The file")


@pytest.mark.parametrize(
    "changes",
    [
        {"host": ""},
        {"host": "https://evil.example"},
        {"host": "a b"},
        {"host": 7},
        {"https_port": 0},
        {"https_port": 65536},
        {"https_port": "8443"},
        {"https_port": True},
        {"mqtt_port": None},
        {"ws_port": -1},
        {"hubs": "localhost:;"},
        {"hubs": None},
        {"id_scope": "a;b"},
        {"registration_id": "anna;SharedAccessKey=x"},
        {"key": "not base64!"},
        {"key": ""},
        {"ca": "no certificate"},
        {"ca": None},
    ],
)
def test_a_document_with_a_field_that_cannot_be_is_damaged(anna: Join, changes: dict[str, Any]) -> None:
    document = {**json.loads(anna.as_file()), **changes}
    with pytest.raises(JoinError, match=r"^The file is damaged, "):
        joining.read(json.dumps(document), "The file")


def test_a_document_without_one_of_its_fields_is_damaged(anna: Join) -> None:
    for name in json.loads(json.dumps(anna.document())):
        document = json.loads(anna.as_file())
        del document[name]
        with pytest.raises(JoinError):
            joining.read(json.dumps(document), "The file")


def test_the_certificate_of_a_device_is_no_ca(anna: Join, tmp_path: Path) -> None:
    pair = create("anna", "1234", tmp_path, key_type="ec-p256")
    with pytest.raises(JoinError, match=r"damaged"):
        joining.read(replace(anna, ca=pair.certificate_file.read_text()).as_file(), "The file")


def test_a_code_that_would_unpack_to_gigabytes_is_not_unpacked() -> None:
    import zlib
    from base64 import urlsafe_b64encode

    bomb = urlsafe_b64encode(zlib.compress(b" " * 100_000_000)).decode().rstrip("=")
    with pytest.raises(JoinError, match=r"damaged"):
        joining.read(f"dpsx1.{bomb}.00000000", "The code")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"x" * 70_000])
def test_a_file_that_cannot_be_one_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "anna.dpsx.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(JoinError) as caught:
        joining.read_file(file)
    assert str(caught.value).startswith(str(file))
    assert str(caught.value).endswith(".")


# --- join and leave ---------------------------------------------------------------------------------------------------


def test_who_joins_is_told_who_they_are_and_that_the_key_is_taken(work: Path, invited: Path) -> None:
    said = membership.join(str(invited))
    assert said.startswith("You are anna in the class at 127.")
    assert "answers and takes your key" in said
    for file in (work / "class").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert stat.S_IMODE((work / "class").stat().st_mode) == 0o700


def test_a_code_is_pasted_and_never_taken_from_the_command_line(
    work: Path, invited: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = joining.read_file(invited).as_code()
    with pytest.raises(JoinError, match=r"^A code holds a key, and what stands on a command line others may see: "):
        membership.join(code)
    assert tutorial.joined() is None
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{code}\n"))
    assert membership.join(None).startswith("You are anna ")


def test_from_then_on_everything_is_the_classs_until_one_leaves(joined: Join, work: Path) -> None:
    target = targets.current()
    assert (target.host, target.id_scope, target.hubs) == (joined.host, joined.id_scope, (joined.host,))
    assert (target.is_emulator, target.service, target.emulator) == (True, True, None)
    assert joined.key not in repr(target)
    assert os.environ["SSL_CERT_FILE"] == os.environ["REQUESTS_CA_BUNDLE"] == str(work / "class" / "ca-bundle.pem")
    assert os.environ["NODE_EXTRA_CA_CERTS"] == str(work / "class" / "ca.pem")
    assert joined.host in os.environ["NO_PROXY"].split(",")
    assert tutorial.registration_id() == "anna"
    assert "the emulator of your class" in views.overview(target).text
    assert "anna" in views.overview(target).text
    assert not (work / "emulator").exists(), "none of one's own is started"
    assert targets.stop().text.startswith("The emulator of your class runs on")
    assert membership.leave().startswith("You have left the class")
    assert list((work / "class").iterdir()) == []
    assert tutorial.registration_id() == tutorial.TEST_REGISTRATION_ID
    assert membership.leave().startswith("You are in no class")


def test_what_is_remembered_of_the_own_emulator_and_of_the_class_is_kept_apart(work: Path, invited: Path) -> None:
    tutorial.enter("registration_id", "my-own")
    tutorial.remember(device="my-own", hub="here")
    tutorial._entered.clear()  # another kernel
    membership.join(str(invited))
    assert tutorial.registration_id() == "anna"
    assert tutorial.recall() == {"target": "emulator"}
    tutorial.remember(device="anna")
    membership.leave()
    assert tutorial.recall()["device"] == "my-own"
    assert tutorial.registration_id() == "my-own"
    membership.join(str(invited))
    assert "device" not in tutorial.recall(), "another class, or the same one anew"


def test_the_variable_joins_too_by_path_or_by_code(work: Path, invited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for given in (str(invited), joining.read_file(invited).as_code()):
        monkeypatch.setenv("DPSX_JOIN", given)
        assert tutorial.registration_id() == "anna"
        assert targets.current().join is not None
        (finding,) = [one for one in doctor.inputs() if one.name == "DPSX_JOIN"]
        assert (finding.ok, finding.found.split(", ")[0]) == (True, "joins a class as anna")
        for act in (membership.leave, lambda: membership.join(str(invited))):
            with pytest.raises(JoinError, match=r"^DPSX_JOIN is set, and it decides: unset it"):
                act()
    monkeypatch.setenv("DPSX_JOIN", "dpsx1.damaged")
    for act in (tutorial.registration_id, targets.current, targets.attached):
        with pytest.raises(JoinError, match=r"^The code in DPSX_JOIN is damaged, "):
            act()
    assert [one.ok for one in doctor.inputs() if one.name == "DPSX_JOIN"] == [False]


def test_who_has_chosen_azure_by_hand_joins_and_by_the_environment_does_not(
    work: Path, invited: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPSX_TARGET", "azure")
    with pytest.raises(JoinError, match=r"^DPSX_TARGET names another target, and it decides: unset it, then join"):
        membership.join(str(invited))
    monkeypatch.delenv("DPSX_TARGET")
    tutorial.remember(target="azure")
    assert membership.join(str(invited)).startswith("You are anna ")
    assert tutorial.target() == "emulator"


def test_on_azure_a_class_does_not_count(joined: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSX_TARGET", "azure")
    assert tutorial.joined() is None
    assert not targets.current().is_emulator


def test_a_damaged_file_in_the_work_folder_is_one_line_and_one_can_leave(joined: Join, work: Path) -> None:
    (work / "class" / "join.json").write_text("{")
    with pytest.raises(JoinError) as caught:
        targets.current()
    said = str(caught.value)
    assert said.startswith(
        f"{work / 'class' / 'join.json'} is no join file or code: ask your teacher for it once more, or"
    )
    assert said.endswith("with `dpsx leave`.")
    assert membership.leave().startswith("You have left the class")
    assert tutorial.registration_id() == tutorial.TEST_REGISTRATION_ID


def test_another_registration_id_is_refused_with_the_way_out(joined: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tutorial.check_registration_id("ANNA") == "ANNA"
    monkeypatch.setenv("DPSX_REGISTRATION_ID", "bob")
    with pytest.raises(
        Stop, match=r"^In your class you are anna, and your key opens nothing for bob .from the environ"
    ):
        tutorial.registration_id()
    monkeypatch.delenv("DPSX_REGISTRATION_ID")
    assert "anna" in [getattr(widget, "value", None) for widget in inside(forms.registration_id()._box)]
    assert "the emulator of my class" in [label for label, _ in choices(forms.target())]


def test_the_one_device_of_a_notebook_is_ones_own(joined: Join, work: Path) -> None:
    """Notebook 09 makes one device, and sends to it."""
    assert tutorial.device_for("thermostat-09") == "anna"
    target = targets.for_operator("anna")
    with pytest.raises(Stop, match=r"^The hub of your class does not know your device"):
        target.send("anna", "too early")
    pair = create("anna", "1234", work, key_type="ec-p256")
    enrollments.save(target, pair.certificate_file)
    set_variables(target)
    provision()
    assert twins.send(target, "anna", "one", "two").text == 'Sent to anna: "one", "two".'
    assert twins.waiting(target, "anna") == 2
    with pytest.raises(Stop, match=r"^The emulator of your class answered 401 "):
        target.send("bob", "not mine")
    assert twins.change(target, "anna", {"properties": {"desired": {"interval": 7}}}).desired["interval"] == 7
    membership.leave()
    assert tutorial.device_for("thermostat-09") == "thermostat-09"


def test_what_only_the_teacher_can_do_is_said_in_one_sentence(joined: Join) -> None:
    with pytest.raises(Stop, match=r"in your class your key opens anna alone: run `dpsx leave` in a terminal"):
        targets.for_operator()
    target = targets.current()
    with pytest.raises(NotReadable, match=r"^The log of your class's emulator is your teacher's"):
        target.log()
    assert views.log(target).text.startswith("The log of your class's emulator is your teacher's")
    assert refusals(60) == []
    for call in (lambda: enrollments.get(target, "bob"), lambda: enrollments.delete(target, "bob")):
        with pytest.raises(Stop, match=r"^In your class your key opens what carries your own registration ID, anna"):
            call()


def test_the_doctor_and_the_machine_look_at_the_class(joined: Join) -> None:
    (finding,) = [one for one in doctor.findings() if one.name == "emulator of your class"]
    assert (finding.ok, finding.found) == (True, f"answers at {joined.host}, where you are anna")
    assert all(one.ok for one in machine.findings() if one.name.startswith("port "))


def test_an_emulator_that_does_not_run_is_said_so(work: Path, anna: Join, tmp_path: Path) -> None:
    file = tmp_path / "join.json"
    file.write_text(replace(anna, host="127.200.200.201", hubs=("127.200.200.201",)).as_file())
    said = membership.join(str(file))
    assert said.endswith("Its emulator does not answer at present: ask your teacher whether it runs.")
    with pytest.raises(Stop, match=r"^Nothing listens at 127.200.200.201 on port 8443, where the emulator of "):
        targets.current()
    create("class-7b-anneliese-m", "1234", work, key_type="ec-p256")
    with pytest.raises(Stop, match=r"^The emulator of your class does not answer at 127.200.200.201:8443 "):
        checks.enrollment()
    (finding,) = [one for one in doctor.findings() if one.name == "emulator of your class"]
    assert not finding.ok
    assert "ask your teacher whether it runs" in finding.remedy


def test_a_key_that_was_taken_back_does_not_join(school: RunningEmulator, work: Path, tmp_path: Path) -> None:
    (join,) = school.emulator.admit(["gone"])
    school.emulator.dismiss("gone")
    file = tmp_path / "gone.json"
    file.write_text(join.as_file())
    with pytest.raises(JoinError, match=r"does not take the key of gone: ask your teacher for a new file"):
        membership.join(str(file))
    assert tutorial.joined() is None


def test_an_emulator_with_another_ca_is_not_trusted(
    school: RunningEmulator, invited: Path, work: Path, ca: str
) -> None:
    """Whoever takes the emulator's address cannot take its place."""
    invited.write_text(replace(joining.read_file(invited), ca=ca).as_file())
    with pytest.raises(LearnerError):
        membership.join(str(invited))
    assert tutorial.joined() is None


# --- the quickstart, as a student -------------------------------------------------------------------------------------


def dpsx(work: Path, *arguments: str, given: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """The learner's command line in a process of its own."""
    command = [sys.executable, "-m", "dpsx_helpers", *arguments]
    more: dict[str, Any] = {"input": given} if given is not None else {"stdin": subprocess.DEVNULL}
    return subprocess.run(
        command, cwd=ROOT, env=environment(work, **variables), capture_output=True, text=True, timeout=280, check=False,
        **more,
    )  # fmt: skip


def test_a_student_runs_the_quickstart_at_the_class(school: RunningEmulator, invited: Path, tmp_path: Path) -> None:
    """All six notebooks, with no cell changed, and the teacher sees what became of it."""
    work = tmp_path / "student" / "work"
    work.mkdir(parents=True)
    key = joining.read_file(invited).key
    done = dpsx(work, "run", DPSX_JOIN=str(invited))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Registered: device ID anna, hub {school.host}, " in done.stdout
    assert "messages stored 20" in done.stdout
    assert files_with(key, work) == [], "not even in the notebooks as they ran"
    (row,) = [one for one in school.emulator.board()["students"] if one["registrationId"] == "anna"]
    assert (row["enrollment"], row["registration"], row["messages"]) == (None, None, 21), "05 has cleaned up"
    assert row["mistakes"]["counts"] == {"unknown-id-scope": 1, "unknown-device": 1}, "the two that 04 and 05 make"


def test_a_student_runs_notebook_09_with_a_device_of_their_own_id(invited: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    kernel = Kernel(tmp_path / "kernel", DPSX_WORK_DIR=str(work), DPSX_JOIN=str(invited), PYTHONPATH=str(ROOT))
    try:
        ran = kernel.execute(read(9))
    finally:
        kernel.end()
    assert errors(ran) == []
    shown = "\n".join(map(said, cells(ran, "code")))
    assert "✔ anna follows: it has adopted version " in shown
    assert "cloudToDeviceMessageCount: 2 before, 0 after" in shown


@pytest.mark.parametrize("number", [6, 7, 8, 10])
def test_the_other_notebooks_say_in_one_sentence_where_they_run(number: int, invited: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    kernel = Kernel(tmp_path / "kernel", DPSX_WORK_DIR=str(work), DPSX_JOIN=str(invited), PYTHONPATH=str(ROOT))
    try:
        sentence = only_sentence(kernel.execute(read(number)))
    finally:
        kernel.end()
    assert "in your class your key opens anna alone: run `dpsx leave` in a terminal" in sentence
    assert not (work / "emulator").exists()


def test_messages_of_an_earlier_run_are_told_apart_by_the_clock_of_the_class(
    joined: Join, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student's own clock may be wrong: here by an hour."""
    target = targets.current()
    pair = create("anna", "1234", work, key_type="ec-p256")
    enrollments.save(target, pair.certificate_file)
    set_variables(target)
    provision(3)
    tutorial.remember(device="anna")
    ahead = quickstart.datetime(2999, 1, 1, tzinfo=UTC)
    monkeypatch.setattr(quickstart, "_since", ahead)
    checks.before_connecting()
    with pytest.raises(Stop, match=r"^The hub has stored 0 messages of anna since the last check before connecting"):
        checks.simulate(2, expected=2)
    provision(2)
    assert "2 are stored there" in checks.simulate(2, expected=2).text


def test_the_report_of_a_student_asks_for_nothing_that_is_not_theirs(
    school: RunningEmulator, joined: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    made = report.make()
    elsewhere = [step.step for step in made.steps if step.found.startswith("In a class this is done on an emulator of")]
    assert {step[:2] for step in elsewhere} == {"06", "07", "08", "10"}
    assert {step.step for step in made.steps if step.step[:2] in ("06", "07", "08", "10")} == set(elsewhere)
    assert {step.step: step.state for step in made.steps}["00"] == "done"
    (row,) = [one for one in school.emulator.board()["students"] if one["registrationId"] == "anna"]
    assert row["mistakes"] is None, "to look is no mistake"


def test_join_and_leave_on_the_command_line(school: RunningEmulator, invited: Path, tmp_path: Path) -> None:
    work = tmp_path / "student" / "work"
    work.mkdir(parents=True)
    done = dpsx(work, "join", given=joining.read_file(invited).as_code())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("You are anna in the class at 127.")
    assert "emulator of your class: answers" in dpsx(work, "doctor").stdout
    for arguments, given, words in (
        (("join",), "", "The code is empty: "),
        (("join", "/no/such/file"), None, "/no/such/file cannot be read (No such file or directory): "),
        (("join", "dpsx1.x.y"), None, "A code holds a key, "),
    ):
        refused = dpsx(work, *arguments, given=given)
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
        assert refused.stderr.startswith(words)
    assert dpsx(work, "leave").stdout.startswith("You have left the class")


def test_what_is_seen_of_ones_own_device_in_a_class(joined: Join, work: Path) -> None:
    target = targets.current()
    pair = create("anna", "1234", work, key_type="ec-p256")
    enrollments.save(target, pair.certificate_file)
    assert [one.registration_id for one in enrollments.list_all(target)] == ["anna"]
    assert registry.list_all(target) == []
    assert target.messages("anna") == target.messages(None) == []
    assert "✔" in checks.enrollment().text
    assert "anna" in views.enrollments(target).text
