"""As `test_bad_input`, where something is there that could be changed: a running emulator, a clinic, JupyterLab.

What is refused is refused in one sentence, and nothing has changed: no row of the emulator's database, no file. What is
taken all the same a place says itself.
"""

import asyncio
import errno
import importlib.util
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from connections import create
from devices import PASS_PHRASE
from pki import Authority, issue, make_ca, make_device
from processes import RunningEmulator
from rest import ask
from test_bad_input import (
    ARGUMENTS,
    CONTENTS,
    HUNG,
    JSONS,
    PATHS,
    PEMS,
    TEXTS,
    VALUES,
    Hung,
    breath,
    left,
    met,
    none_of,
    not_even_root,
    one_sentence,
    put,
)

from dpsx_helpers import __main__, clinic, lab, tutorial
from dpsx_helpers.emulator import Emulator
from dpsx_helpers.emulator import __main__ as emulator_command
from dpsx_helpers.targets import Target

__all__ = ["not_even_root"]  # a fixture
pytest_plugins = ["kit"]
DEVICE, CLASSMATE, AUTHORITY, RIVAL = "thermo-01", "anna", "our-CA", "other-CA"

# --- a running emulator -----------------------------------------------------------------------------------------------

#: More that a command line can be given.
LINES = ARGUMENTS | {
    "dot": ".",
    "slash": "/",
    "JSON": '{"a": [1]}',
    "signed": "+5",
    "with underscores": "1_000",
    "129 characters": "x" * 129,
    "65 KB": "x" * 65_537,
    "tab": "a\tb",
    "name in another case": DEVICE.upper(),
}  # fmt: skip


#: Kinds that would lead out of the folder of the test.
OUTSIDE = {"path upwards", "absolute path", "slash"}


@dataclass
class Room:
    """A running emulator with a device, a student and two authorities, and how it stands now."""

    running: RunningEmulator
    folder: Path
    ca: Authority
    rival: Authority

    @property
    def state(self) -> dict[str, Any]:
        """All that is stored, by table."""
        path = f"{(self.running.state_dir / 'emulator.db').as_uri()}?mode=ro"
        with closing(sqlite3.connect(path, uri=True)) as database:
            tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return {name: database.execute(f"SELECT * FROM {name}").fetchall() for name in tables}

    def tidy(self) -> None:
        """As it was before anything was taken."""
        emulator = self.running.emulator
        emulator.clear_faults()
        if ask(self.running, "DELETE", f"/devices/{DEVICE}/commands").status_code == 404:
            create(self.running, self.folder, DEVICE)
        there = {one["name"] for one in emulator.ca_certificates()}
        for ca in (self.ca, self.rival):
            if ca.common_name not in there:
                emulator.add_ca_certificate(ca.common_name, ca.pem)
        for join in emulator.students():
            if join.registration_id != CLASSMATE:
                emulator.dismiss(join.registration_id)
        for one in emulator.ca_certificates():
            if one["name"] not in (AUTHORITY, RIVAL):
                emulator.delete_ca_certificate(one["name"])

    @property
    def files(self) -> dict[str, Any]:
        """The files beside the database and the log."""
        kept = left([self.running.state_dir])
        return {name: what for name, what in kept.items() if "emulator." not in Path(name).name}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    folder = tmp_path_factory.mktemp("room")
    running = RunningEmulator(folder / "state")
    running.emulator.admit([CLASSMATE])
    yield Room(running, folder, make_ca(folder, AUTHORITY), make_ca(folder, RIVAL))
    running.close()


def outcome(room: Room, kind: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[Any, str | None]:
    """The exit status of a command, and what is wrong with how it ended."""
    before = room.state, room.files
    try:
        with breath():
            status: Any = emulator_command.main(arguments)
    except SystemExit as ended:
        status = ended.code
    except Hung:
        return "hangs", f"{kind}: hangs after {HUNG} s"
    except BaseException as error:  # noqa: BLE001 - that is what is looked for
        return type(error), f"{kind}: {type(error).__name__}: {str(error)[:200]!a}"
    said = capsys.readouterr()
    if status == 0:
        return 0, f"{kind}: {said.err[:200]!a}" if said.err else None
    if (room.state, room.files) != before:
        return status, f"{kind}: refused, and changed something"
    lines = said.err.removesuffix("\n").split("\n")
    if status == 2 and lines[0].startswith("usage: "):
        return 2, f"{kind}: {said.err[-200:]!a}" if "Traceback" in said.err else None
    if status not in (1, 2) or said.out not in ("", "false\n"):
        return status, f"{kind}: {status} {said.out[:200]!a}"
    fault = one_sentence(lines[0]) if len(lines) == 1 else f"is {len(lines)} lines: {said.err[:300]!a}"
    return status, fault and f"{kind}: {fault}"


#: What DPS takes for a name, a device can have for its ID, goes into a message, and can be the ID of one.
NAMES = frozenset(
    {
        "host and port", "-1", "0", "NaN", "infinity", "2.5", "1e999", "65536", "with underscores",
        "name in another case",
    }
)  # fmt: skip
IDS = frozenset(kind for kind, text in LINES.items() if text.strip() and text.isprintable() and len(text) <= 128)
ANY = frozenset(LINES) - {"1 MB", "65 KB", "latin-1 byte"}
MESSAGE_IDS = frozenset(kind for kind in IDS if LINES[kind].isascii() and " " not in LINES[kind]) | {"empty"}
SECONDS = frozenset({"2.5", "65536", "signed", "with underscores"})
FOLDERS = frozenset(LINES) - {"empty", "blank", "1 MB", "65 KB", "number of 5,000 digits", *OUTSIDE}
NONE: frozenset[str] = frozenset()
#: place: (the words of the command, {} where the input goes; the kinds that are taken)
PLACES: dict[str, tuple[tuple[str, ...], frozenset[str]]] = {
    " ".join(words): (words, taken)
    for *words, taken in (
        ("send", "--", "{}", "text", NONE),
        ("send", "--", DEVICE, "{}", ANY),
        ("send", "--property={}", DEVICE, "text", frozenset({"URL"})),
        ("send", "--property=name={}", DEVICE, "text", ANY),
        ("send", "--message-id={}", DEVICE, "text", MESSAGE_IDS),
        ("send", "--expires-in={}", DEVICE, "text", SECONDS),
        ("messages", "--", "{}", frozenset(LINES) - {"latin-1 byte"}),
        ("registrations", "{}", NONE),
        ("env", "--shell={}", NONE),
        ("status", "{}", NONE),
        ("reset", "--device={}", IDS),
        ("fault", "--", "{}", NONE),
        ("fault", "429", "--device={}", IDS),
        ("fault", "429", "--times={}", frozenset({"65536"})),
        ("fault", "429", "--retry-after={}", frozenset({"65536"})),
        ("fault", "slow", "--seconds={}", SECONDS),
        ("certificate", "{}", NONE),
        ("certificate", "add", "--", "{}", "CA.PEM", NAMES),
        ("certificate", "code", "--", "{}", NONE),
        ("certificate", "verify", "--", "{}", "CA.PEM", NONE),
        ("certificate", "delete", "--", "{}", NONE),
        ("students", "add", "--", "{}", NAMES),
        ("students", "add", "--count={}", NONE),
        ("students", "add", "--count=2", "--prefix={}", NAMES | {"empty", "dot"}),
        ("students", "add", CLASSMATE, "--out={}", FOLDERS),
        ("students", "code", "--", "{}", NONE),
        ("students", "remove", "--", "{}", NONE),
        ("board", "{}", NONE),
    )
}  # type: ignore[misc]


def test_there_are_enough_kinds_for_a_running_emulator() -> None:
    assert len(LINES) >= 40


@pytest.mark.parametrize("place", PLACES)
def test_a_command_takes_an_odd_argument_or_says_why_not_and_changes_nothing(
    place: str, room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(emulator_command, "_parser", cache(emulator_command._parser))  # to make it takes the longest
    words, taken = PLACES[place]
    room.tidy()
    state = ["--state-dir", str(room.running.state_dir)]

    def faults() -> Iterator[str | None]:
        for kind, text in LINES.items():
            if kind in OUTSIDE and "--out={}" in words:
                continue
            given = [one.replace("{}", text).replace("CA.PEM", str(room.ca.certificate_file)) for one in words]
            status, fault = outcome(room, kind, [given[0], *state, *given[1:]], capsys)
            if fault is None and (status == 0) is not (kind in taken):
                fault = f"{kind}: {'taken' if status == 0 else 'refused'}"
            yield fault

    none_of(faults())


# --- files for it -----------------------------------------------------------------------------------------------------


#: A root proves its key by what it signs; what is no authority's DPS does not take.
ADDED = frozenset({"certificate of an authority", "the authority itself"})


def proof(room: Room, code: str, by: Authority) -> str:
    return issue(room.folder, code, by, chain=()).pem


@pytest.mark.parametrize("action", ["add", "verify"])
def test_a_certificate_file_is_taken_or_refused_and_changes_nothing(
    action: str, room: Room, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    room.tidy()
    emulator = room.running.emulator
    old = emulator.verification_code(AUTHORITY)
    code = emulator.verification_code(AUTHORITY)
    others = {
        "proof by another authority": proof(room, code, room.rival),
        "proof of another code": proof(room, "0" * len(code), room.ca),
        "proof of an old code": proof(room, old, room.ca),
        "proof of a code in lower case": proof(room, code.lower(), room.ca),
        "proof that certifies itself": make_device(room.folder, code).pem,
        "the authority itself": room.ca.pem,
    }
    name, taken = {"add": ("new-CA", ADDED), "verify": (AUTHORITY, NONE)}[action]

    def faults() -> Iterator[str | None]:
        for number, kind in enumerate((*CONTENTS, *PEMS, *PATHS, *others)):
            folder = tmp_path / str(number)
            folder.mkdir()
            file = folder / "given.pem"
            file.write_text(others[kind]) if kind in others else put(kind, file)
            arguments = ["certificate", "--state-dir", str(room.running.state_dir), action, name, str(file)]
            status, fault = outcome(room, kind, arguments, capsys)
            if fault is None and (status == 0) is not (kind in taken):
                fault = f"{kind}: {'taken' if status == 0 else 'refused'}"
            yield fault

    none_of(faults())
    if action == "verify":
        emulator.verify_ca_certificate(AUTHORITY, proof(room, code, room.ca))


# --- what a program asks of it ----------------------------------------------------------------------------------------

#: What no command line can carry, and some texts of other kinds.
GIVEN = VALUES | {
    kind: TEXTS[kind]
    for kind in ("NUL", "lone surrogate", "latin-1 byte", "1 MB", "empty", "blank", "escape sequence", "host and port")
}
OF_IDS = frozenset(
    kind
    for kind, given in GIVEN.items()
    if isinstance(given, str) and given.strip() and given.isprintable() and len(given) <= 128
)
BODIES = frozenset(kind for kind, given in GIVEN.items() if isinstance(given, str | bytes)) - {
    "1 MB", "latin-1 byte", "lone surrogate",
}  # fmt: skip
OF_MESSAGES = frozenset(kind for kind in OF_IDS if GIVEN[kind].isascii() and " " not in GIVEN[kind])
#: place: (what takes the input, the kinds that are taken)
CALLS: dict[str, tuple[Callable[[Emulator, Any], Any], frozenset[str]]] = {
    "send, device": (lambda emulator, given: emulator.send(given, "text"), NONE),
    "send, body": (lambda emulator, given: emulator.send(DEVICE, given), BODIES),
    "send, properties": (
        lambda emulator, given: emulator.send(DEVICE, "text", properties=given),
        frozenset({"None", "empty", "0"}),  # as good as none
    ),
    "send, property": (
        lambda emulator, given: emulator.send(DEVICE, "text", properties={"name": given}),
        BODIES - {"bytes"},
    ),
    "send, message_id": (
        lambda emulator, given: emulator.send(DEVICE, "text", message_id=given),
        OF_MESSAGES | {"None", "empty", "0"},
    ),
    "send, expires_in": (
        lambda emulator, given: emulator.send(DEVICE, "text", expires_in=given),
        frozenset({"None", "2.5"}),
    ),
    "fault": (lambda emulator, given: emulator.fault(given), NONE),
    "fault, device": (lambda emulator, given: emulator.fault("429", given), OF_IDS | {"None"}),
    "fault, times": (lambda emulator, given: emulator.fault("429", times=given), frozenset({"None"})),
    "fault, retry_after": (lambda emulator, given: emulator.fault("429", retry_after=given), NONE),
    "fault, seconds": (lambda emulator, given: emulator.fault("slow", seconds=given), frozenset({"2.5"})),
    "messages": (
        lambda emulator, given: emulator.messages(given),
        BODIES - {"bytes"} | {"None", "1 MB"},
    ),
    "reset": (lambda emulator, given: emulator.reset(given), OF_IDS | {"None"}),
    "add_ca_certificate, name": (lambda emulator, given: emulator.add_ca_certificate(given, "x"), NONE),
    "add_ca_certificate, pem": (lambda emulator, given: emulator.add_ca_certificate("new-CA", given), NONE),
    "verification_code": (lambda emulator, given: emulator.verification_code(given), NONE),
    "verify_ca_certificate, pem": (lambda emulator, given: emulator.verify_ca_certificate(AUTHORITY, given), NONE),
    "admit": (lambda emulator, given: emulator.admit(given), NONE),
    "admit, one of them": (lambda emulator, given: emulator.admit([given]), frozenset({"host and port", "text"})),
    "dismiss": (lambda emulator, given: emulator.dismiss(given), NONE),
}


@pytest.mark.parametrize("place", CALLS)
def test_a_call_is_answered_or_refused_in_one_sentence_and_changes_nothing(place: str, room: Room) -> None:
    room.tidy()
    call, taken = CALLS[place]

    def faults() -> Iterator[str | None]:
        for kind, given in GIVEN.items():
            before = room.state
            fault = met(kind, partial(call, room.running.emulator, given), kind in taken)
            if fault is None and kind not in taken and room.state != before:
                fault = f"{kind}: refused, and changed something"
            yield fault

    none_of(faults())


# --- the clinic -------------------------------------------------------------------------------------------------------

TEXTS_AND_VALUES = TEXTS | VALUES | {"1.0": 1.0, "False": False, "24": 24, "dictionary": {"a": 1}, "class": int}
NUMBERS = frozenset({"0", "-1", "number of 5,000 digits", "24"})


@pytest.fixture
def patient(emulated: Target, work: Path) -> Target:
    """A second patient who has been admitted."""
    tutorial.enter("pass_phrase", PASS_PHRASE)
    clinic.admit(seed=1)
    return emulated


def examined(given: Any) -> None:
    asyncio.run(clinic.examine(given))


#: place: (what takes the input, the kinds that are taken)
ONE_LINE = frozenset(
    kind
    for kind, given in TEXTS_AND_VALUES.items()
    if isinstance(given, str) and given.isprintable() and len(given) <= 1000
)
CLINIC: dict[str, tuple[Callable[[Target, Any], Any], frozenset[str]]] = {
    "admit": (lambda target, given: clinic.admit(seed=given), frozenset({"None", "0", "24"})),
    "prescribe, host": (lambda target, given: clinic.prescribe(host=given), ONE_LINE),
    "prescribe, id_scope": (lambda target, given: clinic.prescribe(id_scope=given), ONE_LINE),
    "prescribe, registration_id": (lambda target, given: clinic.prescribe(registration_id=given), ONE_LINE),
    "name": (lambda target, given: clinic.name(given), NONE),
    "examine": (lambda target, given: examined(given), NONE),
    "folder": (lambda target, given: clinic.folder(given), frozenset({"text", "name"})),
    "files": (lambda target, given: clinic.files(given), NONE),
    "enroll": (clinic.enroll, NONE),
}


@pytest.mark.parametrize("place", CLINIC)
def test_the_clinic_takes_what_it_is_given_or_says_why_not(place: str, patient: Target, work: Path) -> None:
    take, taken = CLINIC[place]
    papers = [work / "notebook-08"]  # what the diary of the emulator's targets keeps beside them is its own
    assert papers[0].is_dir()
    none_of(
        met(kind, partial(take, patient, given), kind in taken, *papers) for kind, given in TEXTS_AND_VALUES.items()
    )


def test_a_seed_in_the_environment_is_taken_or_one_sentence(
    emulated: Target, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = {kind: text for kind, text in TEXTS.items() if kind not in ("NUL", "lone surrogate", "1 MB")}

    def faults() -> Iterator[str | None]:
        for kind, text in (seeds | {"5,000 digits": "9" * 5_000, "other digits": "\u0663", "sign": "-1"}).items():
            monkeypatch.setenv(clinic.SEED, text)
            yield met(kind, clinic.admit, kind in ("empty", "blank"), work / "notebook-08")
            shutil.rmtree(work / "notebook-08", ignore_errors=True)

    none_of(faults())


def nothing_named(target: Target) -> None:
    assert clinic.named() is None


#: What is damaged there is as if nothing was named yet, and there is no patient where there is no case.
ACCEPTED = {"named": frozenset((*CONTENTS, *JSONS, *PATHS)), "case": frozenset({"missing", "link to nowhere"})}
PAPERS: dict[str, Callable[[Target], Any]] = {
    "settings": lambda target: clinic.settings(),
    "settings, to be changed": lambda target: clinic.prescribe(host="x"),
    "settings, looked at": clinic.why_ill,
    "case": lambda target: clinic.fault(),
    "case, before a patient is named": lambda target: clinic.name(3),
    "named": nothing_named,
}


@pytest.mark.parametrize("place", PAPERS)
def test_damaged_papers_of_a_patient_are_one_sentence(place: str, patient: Target, work: Path) -> None:
    folder = work / "notebook-08" / clinic.SECOND
    paper = folder / f"{place.partition(',')[0]}.json"
    good = paper.read_bytes() if paper.exists() else None

    def faults() -> Iterator[str | None]:
        for kind in (*CONTENTS, *JSONS, *PATHS):
            paper.unlink(missing_ok=True)
            put(kind, paper)
            yield met(kind, partial(PAPERS[place], patient), kind in ACCEPTED.get(place, NONE), folder)
            for made in (paper, folder / "file", folder / "papers"):
                shutil.rmtree(made) if not made.is_symlink() and made.is_dir() else made.unlink(missing_ok=True)
        if good is not None:
            paper.write_bytes(good)

    none_of(faults())


# --- JupyterLab -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="there this process stays, and waits for JupyterLab")
def test_dpsx_lab_hands_odd_arguments_on_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], work: Path
) -> None:
    """They are JupyterLab's to judge; with each of them it is started from the tutorial's folder, on loopback."""
    started: list[list[str]] = []

    def execve(program: str, line: list[str], environment: dict[str, str]) -> None:
        assert program == line[0] == sys.executable
        started.append(line)
        raise BecomesJupyterLab

    monkeypatch.setattr(os, "execve", execve)
    for kind, text in LINES.items():
        for given in ([text], [f"--port={text}"]):
            before = left([work])
            with breath(), pytest.raises(BecomesJupyterLab):
                __main__.main(["lab", *given])
            line = started.pop()
            assert line[1:3] == ["-m", "jupyterlab"], kind
            assert line[-len(given) :] == given, kind
            assert "--ServerApp.ip=127.0.0.1" in line, kind
            assert all(os.fsencode(one) for one in line if one), kind
            assert left([work]) == before, kind
    assert capsys.readouterr() == ("", "")


class BecomesJupyterLab(BaseException):
    """What would happen instead of a return."""


def test_dpsx_lab_in_the_wrong_place_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """No notebooks, no JupyterLab, an argument that the system does not take: nothing is started."""
    too_long = OSError(errno.E2BIG, "Argument list too long", sys.executable)
    for spoil in (
        lambda: monkeypatch.setattr(lab, "FIRST", "no-such.ipynb"),
        lambda: monkeypatch.setattr(importlib.util, "find_spec", lambda name: None),
        lambda: monkeypatch.setattr(os, "execve", partial(raising, too_long)),
    ):
        spoil()
        assert __main__.main(["lab", "x" * 1_000_000]) == 1
        monkeypatch.undo()
        said = capsys.readouterr()
        assert said.out == ""
        assert not (fault := one_sentence(said.err.removesuffix("\n"))), fault


def raising(error: OSError, *_: object) -> None:
    raise error
