"""`dpsx run` for real, each time in processes of its own that know nothing of this machine's user."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from devices import NAME, PASS_PHRASE, odd_pair
from filelock import FileLock
from processes import free_host, wait_for

from dpsx_helpers import certificates, run, targets, tutorial
from dpsx_helpers.__main__ import main
from dpsx_helpers.certificates import Pair
from dpsx_helpers.emulator import Emulator
from dpsx_helpers.lab import notebooks_folder
from dpsx_helpers.run import RunError

pytest_plugins = ["kit"]
notebook_files: Any = nbformat
ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("0[0-5]-*.ipynb"))
CANARY = "canary-4711-pass-phrase"
ENDS_WITHIN = 280  # seconds; on an idle machine the quickstart takes 15, all eleven notebooks three minutes
OF_LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has /proc")
OF_POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
# A network that consists of loopback, and at the end what was tried beyond it: connections with no route to them.
LOOPBACK_ONLY = """
import fcntl, json, pathlib, socket, struct, subprocess, sys
with socket.socket() as control:
    fcntl.ioctl(control, 0x8914, struct.pack("16sh22x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
status = subprocess.run(sys.argv[2:]).returncode
names, values = [line.split() for line in open("/proc/net/snmp") if line.startswith("Ip:")]
six = dict(line.split() for line in open("/proc/net/snmp6")) if pathlib.Path("/proc/net/snmp6").exists() else {}
tried = int(dict(zip(names, values))["OutNoRoutes"]) + int(six.get("Ip6OutNoRoutes", 0))
pathlib.Path(sys.argv[1]).write_text(json.dumps(tried))
sys.exit(status)
"""
UNSHARED = ["unshare", "--map-root-user", "--net", sys.executable, "-c", LOOPBACK_ONLY]


def environment(work: Path, **variables: str) -> dict[str, str]:
    """This environment without what a test or its emulator has set, with a home and scratch folder beside `work`."""
    ours = (*tutorial.VARIABLES, *targets.TRUST, *targets.CONNECTION_STRINGS)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DPSX_") and name not in ours}
    for name, folder in (("HOME", "home"), ("TMPDIR", "scratch")):
        kept[name] = str(work.parent / folder)
        (work.parent / folder).mkdir(parents=True, exist_ok=True)
    return {**kept, "PYTHONPATH": str(ROOT), "DPSX_WORK_DIR": str(work), **variables}


@dataclass
class Ended:
    """What a run left: its status, its words, the command lines of all processes below it, and what else was seen."""

    status: int
    out: str
    err: str
    commands: list[list[str]]
    others: dict[str, Any]

    def one_line(self) -> str:
        """How the run says what was wrong: in one line, without a traceback."""
        assert self.status == 1, self.out + self.err
        (line,) = self.err.splitlines()
        assert "Traceback" not in self.out
        assert line.endswith("."), line
        return line


@contextmanager
def hearing_ctrl_c() -> Iterator[None]:
    """What starts here hears Ctrl-C, even if pytest was started in the background, where shells ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Running:
    """`dpsx run` at work, in a process group of its own as a terminal would have it."""

    def __init__(
        self, work: Path, variables: dict[str, str], *prefix: str, cwd: Path = ROOT, options: Sequence[str] = ()
    ) -> None:
        self.folder = work / "run"
        command = [*prefix, sys.executable, "-m", "dpsx_helpers", "run", *options]
        with hearing_ctrl_c():
            self.process = subprocess.Popen(
                command,
                cwd=cwd,
                env=environment(work, **variables),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                encoding="utf-8",
            )
        self.commands: set[tuple[str, ...]] = set()
        self.emulator_environments: list[str] = []
        self._texts = {"out": "", "err": ""}
        self._readers = [threading.Thread(target=self._read, args=(name,), daemon=True) for name in self._texts]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str) -> None:
        stream = self.process.stdout if name == "out" else self.process.stderr
        assert stream is not None
        with stream:
            for line in stream:
                self._texts[name] += line

    @property
    def out(self) -> str:
        return self._texts["out"]

    def lives(self) -> bool:
        return self.process.poll() is None

    def look(self) -> None:
        """Note the command line of each process below the run, and what the emulator has in its environment."""
        for child in [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]:
            with suppress(psutil.Error):
                command = child.cmdline()
                if command and tuple(command) not in self.commands:
                    self.commands.add(tuple(command))
                    if "dpsx_helpers.emulator" in command:
                        self.emulator_environments.append(repr(child.environ()))

    def watched_to_the_end(self) -> Ended:
        def over() -> bool:
            with suppress(psutil.Error):
                self.look()
            return not self.lives()

        wait_for(over, within=ENDS_WITHIN)
        return self.ended()

    def ended(self) -> Ended:
        status = self.process.wait(timeout=ENDS_WITHIN)
        for reader in self._readers:
            reader.join()
        commands = [list(command) for command in self.commands]
        others = {"environments": self.emulator_environments}
        return Ended(status, self._texts["out"], self._texts["err"], commands, others)


def dpsx_run(work: Path, **variables: str) -> Ended:
    return Running(work, variables).ended()


def processes_of(work: Path) -> list[list[str]]:
    """The command lines of the kernels and emulators that work below this folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = process.cmdline()
            if process.status() != psutil.STATUS_ZOMBIE and any(
                f"{work}{os.sep}" in text + os.sep for text in (*command, process.environ().get("DPSX_WORK_DIR", ""))
            ):
                found.append(command)
    return found


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Each file below the folder: what is in it, and when it was written."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def holds(folder: Path, secret: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def code_outputs(path: Path) -> list[Any]:
    notebook = notebook_files.read(path, as_version=4)
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


# --- the run that goes well, shared by all workers of pytest ---------------------------------------


@cache
def can_be_cut_off() -> bool:
    """Whether this machine lets a test have a network of its own."""
    if not sys.platform.startswith("linux") or shutil.which("unshare") is None:
        return False
    probe = subprocess.run([*UNSHARED, os.devnull, "true"], capture_output=True, check=False)
    return probe.returncode == 0


@dataclass
class Learner:
    """A learner who has come as far as notebook 03, and runs `dpsx run` twice beside it."""

    work: Path
    first: Ended
    second: Ended
    index: str
    executed: dict[str, Any]


@pytest.fixture(scope="session")
def learner(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Learner:
    """Made once, by the first worker that needs it; the folder above is shared by all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "learner"
    with FileLock(f"{folder}.lock"):
        told = folder / "learner.json"
        if not told.exists():
            folder.mkdir()
            told.write_text(json.dumps(_made(folder / "work")))
    facts = json.loads(told.read_text())
    executed = {stem: notebook_files.from_dict(notebook) for stem, notebook in facts["executed"].items()}
    return Learner(folder / "work", Ended(**facts["first"]), Ended(**facts["second"]), facts["index"], executed)


def _made(work: Path) -> dict[str, Any]:
    pair, tried = _own_files(work), work.parent / "tried.json"
    own = Emulator.start(work / "emulator", idle_hours=0.2)
    try:
        wait_for(lambda: "ready at" in own.log_file.read_text())
        before = contents(work)
        prefix = [*UNSHARED, str(tried)] if can_be_cut_off() else []
        first = Running(work, {"DPSX_PASS_PHRASE": CANARY}, *prefix).watched_to_the_end()
        first.others["left"] = processes_of(work / "run")
        first.others["tried"] = json.loads(tried.read_text()) if tried.exists() else None
        index = (work / "run" / "index.html").read_text(encoding="utf-8")
        executed = {path.stem: json.loads(path.read_text()) for path in (work / "run" / "executed").iterdir()}
        second = _second(work, pair)
        second.others["left"] = processes_of(work / "run")
        changed = {name for name, fact in contents(work).items() if before.get(name) != fact}
        changed -= {os.path.join("emulator", "emulator.log")}  # other tests may knock at its port
        second.others["changed"] = sorted(name for name in changed if not name.startswith("run" + os.sep))
        second.others["gone"] = sorted(before.keys() - contents(work).keys())
        second.others["own emulator lives"] = own.running()
    finally:
        own.stop()
    return {"first": asdict(first), "second": asdict(second), "index": index, "executed": executed}


def _own_files(work: Path) -> Pair:
    work.mkdir()
    (work / "tutorial.json").write_text('{"version": 1, "emulator": {"registration_id": "class-7"}}')
    return certificates.create("class-7", CANARY, work, key_type="ec-p256")


def _second(work: Path, pair: Pair) -> Ended:
    """The learner's own pair, and meanwhile somebody who starts a third run in the same folder."""
    variables = own(pair, DPSX_PASS_PHRASE=CANARY, DPSX_REGISTRATION_ID="class-7")
    variables["DPSX_CERT_FILE"] = os.path.relpath(pair.certificate_file, ROOT)
    running = Running(work, variables)
    wait_for(lambda: "✔ 00" in running.out or not running.lives(), within=ENDS_WITHIN)
    third = dpsx_run(work)
    ended = running.watched_to_the_end()
    ended.others["third"] = asdict(third)
    return ended


def test_a_run_ends_with_one_line_for_each_notebook_and_two_that_sum_up(learner: Learner) -> None:
    assert (learner.first.status, learner.first.err) == (0, "")
    *progress, registered, page = learner.first.out.splitlines()
    assert len(NOTEBOOKS) == run.QUICKSTART
    assert len(progress) == len(NOTEBOOKS)
    for line, name in zip(progress, NOTEBOOKS, strict=True):
        assert re.fullmatch(rf"✔ {name} +\d+\.\d s", line)
    assert re.fullmatch(
        rf"Registered: device ID {NAME}, hub [\w.-]+, substatus initialAssignment, messages stored 2\d", registered
    )
    assert page == f"The notebooks as they ran: {(learner.work / 'run' / 'index.html').as_uri()}"


def test_with_all_it_goes_on_to_the_last_notebook(tmp_path: Path) -> None:
    (work := tmp_path / "work").mkdir()
    ended = Running(work, {}, options=["--all"]).ended()
    assert (ended.status, ended.err) == (0, "")
    *progress, registered, _ = ended.out.splitlines()
    assert [line.split()[1] for line in progress] == [name for name, _ in tutorial.STEPS]
    assert registered.startswith(f"Registered: device ID {NAME}, ")
    executed = sorted(path.stem for path in (work / "run" / "executed").iterdir())
    assert executed == [name for name, _ in tutorial.STEPS]
    for name in executed:
        text = (work / "run" / "executed" / f"{name}.ipynb").read_text()
        assert '"output_type": "error"' not in text
    page = (work / "run" / "index.html").read_text()
    assert not re.findall(r'href="[^"#]*\.ipynb', page)
    assert processes_of(work) == []


def test_the_executed_notebooks_hold_every_output_and_no_error(learner: Learner) -> None:
    assert sorted(learner.executed) == NOTEBOOKS
    for notebook in learner.executed.values():
        notebook_files.validate(notebook)
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
        assert "widgets" not in notebook.metadata
        assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert "initialAssignment" in json.dumps(learner.executed["04-simulate-the-device"])


def test_the_page_has_all_notebooks_and_fetches_nothing(learner: Learner) -> None:
    for name in NOTEBOOKS:
        assert f'id="{name}"' in learner.index
        assert f'href="#{name}"' in learner.index
        assert f'href="{name}.ipynb' not in learner.index
    assert "initialAssignment" in learner.index
    assert re.findall(r"<(?:script|link|img|iframe|object|embed|source|video|audio)\b[^>]*https?:", learner.index) == []
    assert "<script" not in learner.index
    assert re.findall(r"@import|url\([\"']?https?:", learner.index) == []


def test_a_run_leaves_neither_a_process_nor_anything_in_the_folder_for_scratch(learner: Learner) -> None:
    assert learner.first.others["left"] == []
    assert learner.second.others["left"] == []
    assert list((learner.work.parent / "scratch").iterdir()) == []


def test_the_learners_own_work_and_emulator_are_not_touched(learner: Learner) -> None:
    assert learner.second.others["changed"] == []
    assert learner.second.others["gone"] == []
    assert learner.second.others["own emulator lives"]


def test_a_second_run_works_with_files_of_ones_own_and_keeps_them(learner: Learner) -> None:
    assert (learner.second.status, learner.second.err) == (0, "")
    assert "Registered: device ID class-7, " in learner.second.out
    assert "class-7" in (learner.work / "run" / "index.html").read_text(encoding="utf-8")
    assert {"python-device.pem", "python-device.key.pem"} <= {path.name for path in learner.work.iterdir()}


def test_a_run_beside_another_in_the_same_folder_is_refused(learner: Learner) -> None:
    line = Ended(**learner.second.others["third"]).one_line()
    assert line.startswith(f"Another `dpsx run` is at work in {learner.work / 'run'}: wait until it has ended, or set ")


def test_a_run_talks_to_nobody_beyond_this_computer(learner: Learner) -> None:
    if learner.first.others["tried"] is None:
        pytest.skip("this system lets no ordinary user have a network of his own (unshare --net)")
    assert learner.first.others["tried"] == 0


def test_the_pass_phrase_stays_out_of_every_file_and_every_word(learner: Learner) -> None:
    assert holds(learner.work.parent, CANARY) == [], "not even in what pytest keeps of the run"
    for ended in (learner.first, learner.second):
        assert CANARY not in ended.out + ended.err


@OF_LINUX
def test_the_pass_phrase_is_in_no_command_line_and_not_in_the_emulators_environment(learner: Learner) -> None:
    assert sum("ipykernel_launcher" in command for command in learner.first.commands) == len(NOTEBOOKS)
    for ended in (learner.first, learner.second):
        assert CANARY not in json.dumps(ended.commands)
        (emulator,) = ended.others["environments"]
        assert "PYTHONPATH" in emulator
        assert CANARY not in emulator


# --- a learner's mistakes, found before anything runs ---------------------------------------------


def own(pair: Pair, **others: str) -> dict[str, str]:
    """The variables for files of one's own."""
    files = {"DPSX_CERT_FILE": str(pair.certificate_file), "DPSX_KEY_FILE": str(pair.key_file)}
    return {**files, "DPSX_PASS_PHRASE": PASS_PHRASE, **others}


def good_pair(folder: Path) -> Pair:
    folder.mkdir(exist_ok=True)
    return certificates.create(NAME, PASS_PHRASE, folder, key_type="ec-p256")


def missing_certificate(folder: Path) -> dict[str, str]:
    pair = good_pair(folder)
    pair.certificate_file.unlink()
    return own(pair)


def garbled_certificate(folder: Path) -> dict[str, str]:
    pair = good_pair(folder)
    lines = pair.certificate_file.read_text().splitlines()
    pair.certificate_file.write_text("\n".join([lines[0], "nonsense", *lines[3:]]))
    return own(pair)


def key_of_another_certificate(folder: Path) -> dict[str, str]:
    other = good_pair(folder / "other")
    return own(good_pair(folder), DPSX_KEY_FILE=str(other.key_file))


def folder_that_cannot_be_made(folder: Path) -> dict[str, str]:
    (folder / "file").touch()
    return {"DPSX_WORK_DIR": str(folder / "file" / "work")}


#: What the learner did -> the variables, made in an empty folder, and what the one line has to say.
MISTAKES: dict[str, tuple[Callable[[Path], dict[str, str]], str]] = {
    "wrong pass phrase": (lambda folder: own(good_pair(folder), DPSX_PASS_PHRASE="not-it"), "pass phrase"),
    "empty pass phrase": (lambda folder: {"DPSX_PASS_PHRASE": ""}, "The pass phrase in DPSX_PASS_PHRASE is empty: set"),
    "missing certificate": (missing_certificate, "There is no certificate file"),
    "garbled certificate": (garbled_certificate, "python-device.pem"),
    "key of another certificate": (key_of_another_certificate, "does not belong to"),
    "certificate without key": (
        lambda folder: {"DPSX_CERT_FILE": str(good_pair(folder).certificate_file)},
        "DPSX_KEY_FILE is not set beside it: set both",
    ),
    "blank path": (lambda folder: own(good_pair(folder), DPSX_CERT_FILE=" "), "is blank: enter a path, or unset"),
    "certificate of another name": (
        lambda folder: own(odd_pair(folder, common_name="another")),
        f"The certificate says CN=another but the registration ID is {NAME}",
    ),
    "registration ID with a slash": (lambda folder: {"DPSX_REGISTRATION_ID": "bad/name"}, "bad/name"),
    "blank ID scope": (lambda folder: {"DPSX_ID_SCOPE": " "}, "The ID scope (in DPSX_ID_SCOPE) is blank: copy it"),
    "ID scope with a dash": (lambda folder: {"DPSX_ID_SCOPE": "0ne-00ABC12"}, '"0ne-00ABC12"'),
    "ID scope with a space": (lambda folder: {"DPSX_ID_SCOPE": "0ne00ABC123 "}, '"0ne00ABC123 "'),
    "host as a URL": (
        lambda folder: {"DPSX_PROVISIONING_HOST": "https://global.azure-devices-provisioning.net/"},
        "use global.azure-devices-provisioning.net instead",
    ),
    "no emulator there": (
        lambda folder: {"DPSX_PROVISIONING_HOST": free_host()},
        "the emulator is not running there, so start it with",
    ),
    "unknown target": (lambda folder: {"DPSX_TARGET": "mars"}, 'The target "mars"'),
    "unknown transport": (lambda folder: {"DPSX_TRANSPORT": "pigeon"}, 'The transport "pigeon"'),
    "work folder that cannot be made": (folder_that_cannot_be_made, "cannot be made"),
}


def told(capfd: pytest.CaptureFixture[str]) -> str:
    """The one line with which `dpsx run`, in this very process, ends before anything has run."""
    assert main(["run"]) == 1
    said = capfd.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.endswith(".")
    return line


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line_before_anything_runs(
    mistake: str, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    make, words = MISTAKES[mistake]
    for name, value in make(tmp_path).items():
        monkeypatch.setenv(name, value)
    line = told(capfd)
    assert words in line
    assert "this cell" not in line
    assert "this check" not in line
    assert {path.name for path in work.glob("run/*")} <= {"run.lock"}


@pytest.mark.parametrize("mistake", ["wrong pass phrase", "no emulator there"])
def test_in_a_process_of_its_own_a_mistake_is_one_line_too(mistake: str, tmp_path: Path) -> None:
    make, words = MISTAKES[mistake]
    ended = dpsx_run(tmp_path / "work", **make(tmp_path))
    assert words in ended.one_line()
    assert ended.out == ""


def test_a_well_formed_id_scope_that_looks_unusual_is_no_mistake_of_form(
    work: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The host is looked at after the ID scope, and is what stops this run."""
    monkeypatch.setenv("DPSX_ID_SCOPE", "002409020C00089D")
    monkeypatch.setenv("DPSX_PROVISIONING_HOST", "http://x")
    assert told(capfd).startswith("DPSX_PROVISIONING_HOST: ")


def test_a_run_folder_that_is_a_file_is_told_in_one_line(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (work / "run").touch()
    line = told(capfd)
    assert line.startswith(f"The folder {work / 'run'} cannot be used (")
    assert "set DPSX_WORK_DIR to a folder that you may write to" in line


# --- the notebooks --------------------------------------------------------------------------------


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the tutorial's notebooks, for a test to break."""
    folder = tmp_path / "clone" / "notebooks"
    folder.mkdir(parents=True)
    for name in NOTEBOOKS:
        shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", folder)
    return folder.parent


def replace_cell(notebook: Path, before: str, after: str) -> None:
    document = notebook_files.read(notebook, as_version=4)
    (cell,) = [cell for cell in document.cells if cell.source == before]
    cell.source = after
    notebook_files.write(document, notebook)


def test_a_broken_cell_is_named_in_one_line_and_shown_on_the_page(clone: Path) -> None:
    """Its own work folder is taken where DPSX_WORK_DIR is blank."""
    first = NOTEBOOKS[0]
    replace_cell(clone / "notebooks" / f"{first}.ipynb", "forms.target()", "def broken():\n    1 / 0\nbroken()")
    ended = Running(clone / "notebooks" / "work", {"DPSX_WORK_DIR": " "}, cwd=clone / "notebooks").ended()
    copy = clone / "notebooks" / "work" / "run" / "executed" / f"{first}.ipynb"
    assert ended.one_line() == (
        f"{first}, section “Choose where to work”: ZeroDivisionError: division by zero "
        f"(the whole traceback is in {copy})."
    )
    assert ended.out == ""
    (error,) = [output for output in code_outputs(copy) if output.output_type == "error"]
    assert "1 / 0" in re.sub(r"\x1b\[\d*m", "", "\n".join(error.traceback))
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
    assert "ZeroDivisionError" in (copy.parents[1] / "index.html").read_text(encoding="utf-8")
    assert processes_of(clone) == []


def test_a_python_that_ends_in_the_middle_of_a_notebook_is_told_in_one_line(clone: Path, tmp_path: Path) -> None:
    replace_cell(clone / "notebooks" / f"{NOTEBOOKS[0]}.ipynb", "forms.target()", "import os; os._exit(3)")
    line = Running(tmp_path / "work", {}, cwd=clone).ended().one_line()
    assert "section “Choose where to work”: the Python process of this notebook ended or never answered; see " in line
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"cells": 1, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}', "\xff"]
)
def test_a_notebook_that_cannot_be_read_is_told_in_one_line(text: str, tmp_path: Path) -> None:
    notebook = tmp_path / "00-start-here.ipynb"
    notebook.write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match="is not a notebook that can be read: bring it back with"):
        run._read(notebook)


def test_a_notebook_that_is_missing_or_there_twice_is_told_in_one_line(
    clone: Path, work: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(clone)
    second = clone / "notebooks" / f"{NOTEBOOKS[1]}.ipynb"
    shutil.copy(second, second.with_stem("01-copy"))
    expected = f"The notebooks 00 to 05 are not all in {clone / 'notebooks'}, once each"
    assert told(capfd).startswith(expected)
    second.unlink()
    second.with_stem("01-copy").unlink()
    assert told(capfd).startswith(expected)


def test_what_an_earlier_run_left_in_a_notebook_is_not_taken_over(tmp_path: Path) -> None:
    new = notebook_files.v4
    cell = new.new_code_cell("1", execution_count=9, outputs=[new.new_output("stream", text="old")])
    old = new.new_notebook(cells=[new.new_markdown_cell("# Old"), cell], metadata={"widgets": {"state": {}}})
    notebook_files.write(old, tmp_path / "old.ipynb")
    notebook = run._read(tmp_path / "old.ipynb")
    assert (notebook.cells[1].outputs, notebook.cells[1].execution_count) == ([], None)
    assert notebook.cells[0].source == "# Old"
    assert "widgets" not in notebook.metadata


def test_azure_without_values_stops_at_the_first_that_is_needed(tmp_path: Path) -> None:
    """An emulator's address stands in for Azure's, so that nobody beyond this computer is asked."""
    emulator = Emulator.start(tmp_path / "emulator", idle_hours=0.2)
    try:
        ended = dpsx_run(tmp_path / "work", DPSX_TARGET="azure", DPSX_PROVISIONING_HOST=emulator.overview.host)
    finally:
        emulator.stop()
    line = ended.one_line()
    assert line.startswith(f"{NOTEBOOKS[2]}, section “")
    assert "(or set DPSX_" in line
    assert "start dpsx again" in line
    assert len(ended.out.splitlines()) == 2
    assert not (tmp_path / "work" / "run" / "emulator").exists()


# --- Ctrl-C and its kin ---------------------------------------------------------------------------


@contextmanager
def at_work(work: Path) -> Iterator[Running]:
    running = Running(work, {})
    try:
        yield running
    finally:
        if running.lives():
            os.killpg(running.process.pid, signal.SIGKILL)
        running.process.wait()


def starting(running: Running) -> bool:
    """The emulator's process has begun, and is not ready yet."""
    return (running.folder / "emulator" / "start.log").exists()


def in_the_middle(running: Running) -> bool:
    return f"✔ {NOTEBOOKS[0]}" in running.out


@OF_POSIX
@pytest.mark.parametrize(
    ("number", "moment"),
    [("SIGINT", starting), ("SIGINT", in_the_middle), ("SIGTERM", in_the_middle)],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_run_that_is_stopped_tidies_up(number: str, moment: Callable[[Running], bool], tmp_path: Path) -> None:
    """Ctrl-C reaches every process of the terminal's group, SIGTERM the one that it was sent to."""
    with at_work(tmp_path / "work") as running:
        # There is something to tidy up: start.log is there a moment before the emulator's process.
        wait_for(
            lambda: (moment(running) and len(processes_of(tmp_path)) > 1) or not running.lives(), within=ENDS_WITHIN
        )
        assert running.lives()
        if number == "SIGINT":
            os.killpg(running.process.pid, signal.SIGINT)
        else:
            running.process.send_signal(signal.SIGTERM)
        ended = running.ended()
    assert ended.status == 130
    assert ended.err.split() == ["Stopped."]
    assert "Registered" not in ended.out
    assert processes_of(tmp_path) == []
    assert list((tmp_path / "scratch").iterdir()) == []


#: `dpsx run`, whose kernels meet what Ctrl-C does to a child that has not yet left the group of its parent.
_HIT_BEFORE_ITS_OWN_GROUP = """
import os, subprocess, sys
from jupyter_client import launcher

def hit(command, start_new_session, **kwargs):
    assert start_new_session
    child = subprocess.Popen([sys.executable, "-c", "import os; os._exit(1)"], **kwargs)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    return child

launcher.Popen = hit
from dpsx_helpers.__main__ import main
raise SystemExit(main(["run"]))
"""


@OF_POSIX
def test_a_kernel_that_ctrl_c_hits_as_it_starts_does_not_take_the_run_with_it(tmp_path: Path) -> None:
    (script := tmp_path / "hit.py").write_text(_HIT_BEFORE_ITS_OWN_GROUP)
    line = Running(tmp_path / "work", {}, sys.executable, str(script)).ended().one_line()
    assert "the Python process of this notebook ended or never answered; see " in line
    assert processes_of(tmp_path) == []


def test_the_notebooks_that_are_run_are_those_of_this_checkout() -> None:
    assert notebooks_folder() == ROOT / "notebooks"
