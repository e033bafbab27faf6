"""The soak: a small one to its end, on real clients; and that each of its verdicts can be a bad one."""

import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from processes import free_host

from benchmarks import soak_verdicts as verdicts
from benchmarks.soak import Observer, Plan, Soaked, judge, main, report, soak
from benchmarks.soak_verdicts import Ledger, Sample, TwinSeen, Verdict, body
from dpsx_helpers.emulator import Emulator

ROOT = Path(__file__).parents[2]
SMALL = Plan(5, 1, 2.0, pace=0.02, report=0.05, connection=0.3, per_device=0.5, sample=0.2, say=1.0)


# --- a small one ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """A soak that has ended, with its database."""

    soaked: Soaked
    found: list[Verdict]
    said: list[str]
    database: Path


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    folder, said = tmp_path_factory.mktemp("soak"), []
    with pytest.MonkeyPatch.context() as quiet:  # other tests listen to this logger
        quiet.setattr(logging.getLogger("azure"), "disabled", True)
        soaked, found = soak(SMALL, free_host(), folder, said.append)
    return Ended(soaked, found, said, folder / "emulator" / "emulator.db")


def of(found: list[Verdict], what: str) -> Verdict:
    return next(one for one in found if one.what == what)


def test_a_small_soak_finds_nothing_wrong(ended: Ended) -> None:
    text = report(ended.soaked, ended.found)
    assert [str(one) for one in ended.found if not one.good] == [str(of(ended.found, "memory"))], text
    assert of(ended.found, "memory").good is None, "two seconds say nothing about it"
    assert len(ended.found) == 11
    assert len(text.splitlines()) == 12
    assert ended.said[0] == "5 devices are connected."
    assert ended.soaked.queued.keys() >= {"m1"}
    assert all(ledger.acknowledged for ledger in ended.soaked.ledgers)


def lose_a_message(database: sqlite3.Connection) -> None:
    database.execute("DELETE FROM messages WHERE number = (SELECT min(number) FROM messages WHERE device = 'soak-005')")


def store_once_more(database: sqlite3.Connection) -> None:
    columns = "hub, device, enqueued, properties, system, body"
    database.execute(
        f"INSERT INTO messages ({columns}) SELECT {columns} FROM messages WHERE device = 'soak-001' LIMIT 1"
    )


def drop_what_waits(database: sqlite3.Connection) -> None:
    database.execute("DELETE FROM commands")


def change_a_twin(database: sqlite3.Connection) -> None:
    database.execute("UPDATE devices SET twin = replace(twin, '\"version\": ', '\"version\": 1') WHERE id = 'soak-003'")


@pytest.mark.parametrize(
    ("change", "what", "words"),
    [
        (lose_a_message, "messages", "message 1 of soak-005 was acknowledged and is lost"),
        (store_once_more, "messages", "and is stored 2 times"),
        (drop_what_waits, "cloud-to-device messages", "is neither received nor waiting"),
        (change_a_twin, "twins", "soak-003's reported properties have version"),
    ],
)
def test_what_an_emulator_would_have_lost_is_a_bad_verdict(
    change: Callable[[sqlite3.Connection], None], what: str, words: str, ended: Ended, tmp_path: Path
) -> None:
    database = tmp_path / "emulator.db"
    shutil.copy(ended.database, database)
    with closing(sqlite3.connect(database)) as open_one:
        change(open_one)
        open_one.commit()
    found = judge(ended.soaked, database, 0)
    assert [one.what for one in found if one.good is False] == [what]
    assert words in of(found, what).said


def test_an_emulator_that_dies_ends_the_soak_with_bad_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = Emulator.start

    def mortal(*given: Any, **named: Any) -> Emulator:
        started = start(*given, **named)
        threading.Timer(1.5, os.kill, (started.overview.pid, signal.SIGKILL)).start()
        return started

    monkeypatch.setattr(Emulator, "start", mortal)
    _, found = soak(replace(SMALL, sdk=0, devices=2, seconds=60.0), free_host(), tmp_path, lambda line: None)
    assert "the emulator's process ended" in of(found, "service side").said
    assert {one.what for one in found if one.good is False} >= {"service side", "descriptors and threads"}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
def test_ctrl_c_ends_it_with_a_report() -> None:
    command = [sys.executable, "benchmarks/soak.py", "--devices", "3", "--minutes", "5", "--host", free_host()]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "3 devices are connected.\n"
        running.send_signal(signal.SIGINT)
        said, errors = running.communicate(timeout=120)
    lines = said.splitlines()
    assert (running.returncode, errors) == (0, ""), said
    assert lines[0].startswith("3 devices (1 of them Microsoft's client) for 0.")
    assert ", interrupted, seed 0:" in lines[0]
    assert [line[0] for line in lines[1:]].count("✔") == 10


@pytest.mark.parametrize("argument", ["--devices=0", "--devices=x", "--minutes=0", "--minutes=nan", "--minutes=inf"])
def test_what_makes_no_sense_is_refused(
    argument: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["soak.py", argument])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().out == ""


# --- the verdicts -----------------------------------------------------------------------------------------------------


def bad(verdict: Verdict) -> str:
    assert verdict.good is False
    assert str(verdict).startswith(f"✘ {verdict.what}: ")
    return verdict.said


def good(verdict: Verdict) -> str:
    assert verdict.good is True, verdict.said
    assert str(verdict).startswith(f"✔ {verdict.what}: ")
    return verdict.said


def ledger(**changes: Any) -> Ledger:
    """A device that sent three messages, the second of them twice, and the fourth in vain."""
    tries, acknowledged = {1: 1, 2: 2, 3: 1, 4: 1}, {1, 2, 3}
    return Ledger("one", **{"tries": tries, "acknowledged": acknowledged, **changes})


def stored(*numbers: int) -> list[tuple[str, bytes]]:
    return [("one", body("one", number)) for number in numbers]


@pytest.mark.parametrize("numbers", [(1, 2, 3), (1, 2, 2, 3), (1, 2, 3, 4), (1, 2, 3, 2)])
def test_messages_are_there_once_or_as_often_as_they_were_sent(numbers: tuple[int, ...]) -> None:
    good(verdicts.messages([ledger()], stored(*numbers)))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (stored(1, 2), "message 3 of one was acknowledged and is lost"),
        (stored(1, 1, 2, 3), "message 1 of one was sent 1 times and is stored 2 times"),
        (stored(1, 2, 2, 2, 3), "message 2 of one was sent 2 times and is stored 3 times"),
        (stored(1, 2, 3, 5), "message 5 of one was sent 0 times and is stored 1 times"),
        ([*stored(1, 2, 3), ("one", b"one says 1 ")], "one never sent b'one says 1 '"),
        ([*stored(1, 2, 3), ("two", body("one", 1))], "two never sent"),
        ([*stored(1, 2, 3), ("two", body("two", 1))], "message 1 of two was sent 0 times"),
        ([*stored(1, 2, 3), ("one", b"\xff")], "one never sent b'\\xff'"),
    ],
)
def test_a_lost_a_strange_and_a_doubled_message_are_bad(rows: list[tuple[str, bytes]], words: str) -> None:
    assert words in bad(verdicts.messages([ledger()], rows))


def test_that_nothing_was_acknowledged_is_bad() -> None:
    assert "no message was acknowledged" in bad(verdicts.messages([ledger(acknowledged=set())], []))


def test_of_many_faults_the_first_are_shown() -> None:
    many = Ledger("one", dict.fromkeys(range(1, 101), 1), set(range(1, 101)))
    said = bad(verdicts.messages([many], []))
    assert "message 5 of one" in said
    assert "message 6 of one" not in said
    assert "and 95 more" in said


def test_commands_are_received_or_wait() -> None:
    one = ledger(commands=Counter(m1=2), unmarked=Counter(m1=1))
    good(verdicts.commands([one], {"m1": "one", "m2": "one"}, {"m2": "one"}))
    good(verdicts.commands([one], {"m1": "one", "m3": "one"}, {}, {"m3"}))


@pytest.mark.parametrize(
    ("changes", "queued", "words"),
    [
        ({}, {"m1": "one"}, "cloud-to-device message m1 for one is neither received nor waiting"),
        ({"commands": Counter(m9=1)}, {}, "one received m9, which was never sent to it"),
        ({"commands": Counter(m1=1)}, {"m1": "two"}, "one received m1, which was never sent to it"),
        (
            {"commands": Counter(m1=2), "unmarked": Counter(m1=2)},
            {"m1": "one"},
            "one received m1 again, and not",
        ),
    ],
)
def test_a_lost_and_a_strange_command_are_bad(changes: dict[str, Any], queued: dict[str, str], words: str) -> None:
    assert words in bad(verdicts.commands([ledger(**changes), Ledger("two")], queued, {}))


REPORTED: dict[str, Any] = {"reports": 3, "confirmed": {1, 3}, "versions": {1: 2, 3: 3}, "desired": [(1, 0), (3, 2)]}
KEPT = TwinSeen(reported=3, reported_version=3, desired=2, desired_version=3)


@pytest.mark.parametrize("kept", [KEPT, replace(KEPT, reported_version=4)])
def test_a_twin_has_what_was_confirmed(kept: TwinSeen) -> None:
    """The second report got no answer: it may have been stored, or not."""
    good(verdicts.twins([ledger(**REPORTED)], {"one": 2}, {"one": kept}))


@pytest.mark.parametrize(
    ("changes", "kept", "words"),
    [
        ({}, replace(KEPT, reported=2), "one reported 3, confirmed up to 3, and 2 is kept"),
        ({}, replace(KEPT, reported=4), "and 4 is kept"),
        ({}, replace(KEPT, reported_version=2), "have version 2 after 2 of 3 confirmed"),
        ({}, replace(KEPT, reported_version=5), "have version 5 after 2 of 3 confirmed"),
        ({}, replace(KEPT, desired=1), "one's desired value is 1 in version 3 after 2 changes"),
        ({}, replace(KEPT, desired_version=4), "one's desired value is 2 in version 4 after 2 changes"),
        ({"versions": {1: 3, 3: 2}}, KEPT, "one was told versions of its reports out of order"),
        ({"versions": {1: 2, 3: 2}}, KEPT, "one was told versions of its reports out of order"),
        ({"desired": [(3, 1)]}, KEPT, "one was told a desired value under the version of another"),
        ({"desired": [(3, 2), (2, 1)]}, KEPT, "one was told an older desired value after a newer one"),
    ],
)
def test_a_twin_that_lost_or_invented_something_is_bad(changes: dict[str, Any], kept: TwinSeen, words: str) -> None:
    assert words in bad(verdicts.twins([ledger(**REPORTED | changes)], {"one": 2}, {"one": kept}))


def test_a_device_without_a_twin_is_bad() -> None:
    assert "one has no twin" in bad(verdicts.twins([ledger()], {}, {}))


def test_methods_are_answered_or_the_device_is_away() -> None:
    good(verdicts.methods({200: 10, 404: 2}, []))
    assert "1 calls ended with 504" in bad(verdicts.methods({200: 10, 504: 1}, []))
    assert "no call was answered" in bad(verdicts.methods({404: 1}, []))
    assert "another's" in bad(verdicts.methods({200: 10}, ["call 1 was answered with another's"]))


def test_what_went_wrong_with_a_device_or_the_service_side_is_bad() -> None:
    good(verdicts.devices([ledger(ends=Counter(cut=2))]))
    assert "one: TimeoutError" in bad(verdicts.devices([ledger(trouble=["TimeoutError"])]))
    good(verdicts.service({"lists": 3}, []))
    assert "HTTP 500" in bad(verdicts.service({"lists": 3}, ["HTTP 500"]))


# --- the verdicts on the process --------------------------------------------------------------------------------------

QUIET = Sample(0.0, 60_000_000, 14, 1, 4_000_000, 1_000_000)


def samples(memory: Callable[[float], float], minutes: float = 20) -> list[Sample]:
    """One every two seconds; `memory` gives the bytes at a minute."""
    return [replace(QUIET, at=at, memory=int(memory(at / 60))) for at in range(0, int(minutes * 60), 2)]


def test_memory_that_stays_is_good() -> None:
    assert "+0.0 kB a minute" in good(verdicts.memory(samples(lambda minute: 60e6)))
    good(verdicts.memory(samples(lambda minute: 60e6 + 500_000 * (int(minute * 30) % 2))))
    good(verdicts.memory(samples(lambda minute: 60e6 - 200_000 * minute)))
    good(verdicts.memory(samples(lambda minute: 60e6 + 3_000_000 * min(minute, 9.5))))
    good(verdicts.memory(samples(lambda minute: 60e6 + 290_000 * (minute > 15))))


def test_memory_that_rises_is_bad() -> None:
    said = bad(verdicts.memory(samples(lambda minute: 60e6 + 250_000 * minute)))
    assert said.startswith("+250.0 kB a minute through the last 10.0 minutes (bound: 100); 60.0 MB before, 62.5 MB")
    bad(verdicts.memory(samples(lambda minute: 60e6 + 250_000 * minute + 500_000 * (int(minute * 30) % 2))))
    bad(verdicts.memory(samples(lambda minute: 60e6 + 400_000 * max(0, minute - 9))))
    bad(verdicts.memory(samples(lambda minute: 60e6 + 120_000 * minute)))


@pytest.mark.parametrize("few", [[], samples(lambda minute: 60e6 + 9e6 * minute, 3.9)])
def test_little_is_no_verdict_on_memory(few: list[Sample]) -> None:
    assert str(verdicts.memory(few)) == "– memory: not judged: that takes 4 minutes at least"


def test_whatever_remains_is_bad() -> None:
    good(verdicts.remains(QUIET, replace(QUIET, memory=1)))
    assert bad(verdicts.remains(QUIET, replace(QUIET, descriptors=16))).startswith("+2 descriptors (14 descriptors")
    assert bad(verdicts.remains(QUIET, replace(QUIET, threads=2))).startswith("+1 threads")


def test_a_log_or_wal_without_bounds_is_bad() -> None:
    good(verdicts.wal([QUIET], 0))
    assert "it grew to 9.0 MB" in bad(verdicts.wal([QUIET, replace(QUIET, wal=9_000_000), QUIET], 0))
    assert "4096 bytes are left" in bad(verdicts.wal([QUIET], 4096))
    good(verdicts.log_size([QUIET], 3))
    assert "it grew to 11.0 MB" in bad(verdicts.log_size([replace(QUIET, log=11_000_000)], 0))


EXPECTED = [
    "21:00:00.123 INFO    hub     c1 < soak-001: 1 message(s) stored and acknowledged",
    "21:00:00.123 WARNING hub     c1 > connection closed: a newer connection of soak-001 took this one's place. …",
    "21:00:00.123 WARNING service h1 > 404: device soak-001 is not connected, or has not subscribed to direct methods",
    "21:00:00.123 WARNING tls     c1 ! TLS: the connection broke (tlsv1 alert decode error)",
    "",
]
UNEXPECTED = [
    "21:00:00.123 ERROR   hub     c1 ! a fault of the emulator itself: the connection is dropped unanswered",
    "21:00:00.123 ERROR   asyncio Task exception was never retrieved",
    "21:00:00.123 WARNING hub     c1 > connection closed: soak-001 said nothing for 90 s. Remedy: …",
    "21:00:00.123 WARNING tls     c1 ! TLS: the handshake broke (tlsv1 alert decode error)",
    "Traceback (most recent call last):",
    '  File "server.py", line 1, in serve',
]


def test_only_what_a_soak_does_on_purpose_may_be_a_warning() -> None:
    assert [line for line in EXPECTED + UNEXPECTED if verdicts.unexpected(line)] == UNEXPECTED
    good(verdicts.warnings(9, []))
    assert "Traceback" in bad(verdicts.warnings(9, UNEXPECTED))
    assert "the log is empty" in bad(verdicts.warnings(0, []))


@pytest.fixture
def observed(tmp_path: Path) -> Iterator[tuple[Observer, Soaked, Path]]:
    log, soaked = tmp_path / "emulator.log", Soaked(SMALL)
    log.touch()
    emulator: Any = SimpleNamespace(overview=SimpleNamespace(pid=os.getpid()), state_dir=tmp_path, log_file=log)
    with closing(Observer(emulator, soaked)) as observer:
        yield observer, soaked, log


def test_the_log_is_read_to_its_last_line_when_it_begins_anew(observed: tuple[Observer, Soaked, Path]) -> None:
    observer, soaked, log = observed
    writing = log.open("a")
    print(EXPECTED[0], file=writing)
    writing.write(UNEXPECTED[0][:30])
    writing.flush()
    observer.read_log()
    assert (soaked.log_lines, soaked.log_faults) == (1, [])
    print(UNEXPECTED[0][30:], file=writing)
    writing.close()
    log.rename(log.with_name("emulator.log.1"))
    log.write_text(f"{UNEXPECTED[2]}\n")
    observer.read_log()
    assert (soaked.log_lines, soaked.log_faults, soaked.rotations) == (3, [UNEXPECTED[0], UNEXPECTED[2]], 1)


def test_a_sample_counts_both_logs_and_the_wal(observed: tuple[Observer, Soaked, Path]) -> None:
    observer, _, log = observed
    log.write_bytes(bytes(10))
    log.with_name("emulator.log.1").write_bytes(bytes(100))
    log.with_name("emulator.db-wal").write_bytes(bytes(1000))
    seen = observer.sample()
    assert (seen.log, seen.wal) == (110, 1000)
    assert seen.memory > 1_000_000
    assert seen.threads >= 1
    with open(os.devnull):
        assert observer.sample().descriptors == seen.descriptors + 1
