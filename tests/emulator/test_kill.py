"""`kill -9` at random moments, in the middle of everything at once: what was acknowledged is there afterwards.

The seed is printed, and DPSX_TEST_SEED repeats it; DPSX_TEST_KILLS=100 kills so often.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import wire
from connections import on_the_wire, provisioned
from ledger import GONE, Post, Record, State, membership
from load import Load
from mortal import TABLES
from processes import COMMAND, RunningEmulator, free_host, wait_for

Start = Callable[..., RunningEmulator]
KILLS = int(os.environ.get("DPSX_TEST_KILLS", "8"))
SEED = int(os.environ.get("DPSX_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
ON_POSIX = pytest.mark.skipif(not hasattr(os, "fork"), reason="the emulators of this test are forked")
WORK = {"messages", "enrollments", "groups", "devices", "registrations", "twin versions", "commands"}
MOMENTS = ("work", "work", "work", "start", "stop")


class Trial:
    """One emulator that is killed again and again."""

    def __init__(self, start: Start, folder: Path, chance: random.Random) -> None:
        self._start, self._chance = start, chance
        began = time.monotonic()
        self.emulator = start()
        self._takes = time.monotonic() - began
        self.load = Load(self.emulator, folder / "devices")
        self.kills: Counter[str] = Counter()
        self.in_flight = 0

    def kill(self, moment: str) -> None:
        """Kill it at a random time of that kind, start it again, and hold it against what the clients know."""
        getattr(self, f"_while_it_{moment}s")()
        self.in_flight += self.load.end()
        self.kills[moment] += 1
        if self._chance.random() < 0.5:  # otherwise the emulator is the first to see what was left
            _expect_none(self.load.problems_on_disk())
        began = time.monotonic()
        self.emulator = self._start(host=self.emulator.host)
        self._takes = time.monotonic() - began
        _expect_none(self.load.problems(self.emulator))

    def _begin(self) -> None:
        """All work: the first time, each of them has got somewhere before it goes on."""
        self.load.begin()
        wait_for(lambda: self.load.everybody_is_in() and set(self.load.acknowledged) == WORK, 60)

    def _while_it_works(self) -> None:
        self._begin()
        time.sleep(self._chance.uniform(0, 0.3))
        self.emulator.kill()

    def _while_it_stops(self) -> None:
        self._begin()
        time.sleep(self._chance.uniform(0, 0.1))
        self.emulator.process.send_signal(signal.SIGTERM)
        time.sleep(self._chance.uniform(0, 0.05))
        self.emulator.kill()

    def _while_it_starts(self) -> None:
        """With clients at the door."""
        self.emulator.kill()
        command = [*COMMAND, "run", "--state-dir", str(self.emulator.state_dir), "--host", self.emulator.host]
        self.load.begin(only_new=True)
        half = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(self._takes * self._chance.uniform(0.4, 1.2))
        half.kill()
        half.wait()


def _expect_none(problems: list[str]) -> None:
    assert not problems, "\n".join(problems)


def test_kill_9_at_random_moments_loses_nothing_that_was_acknowledged(start: Start, tmp_path: Path) -> None:
    """Messages, enrollments, groups, registrations, devices, twins, cloud-to-device messages, and the CA."""
    print(f"\nDPSX_TEST_SEED={SEED}")
    chance = random.Random(SEED)
    trial = Trial(start, tmp_path, chance)
    moments = [MOMENTS[number % len(MOMENTS)] for number in range(KILLS)]
    chance.shuffle(moments)
    for number, moment in enumerate(moments):
        try:
            trial.kill(moment)
        except BaseException:
            print(f"kill {number + 1} of {KILLS}, while it {moment}s")
            raise
    done = trial.load.acknowledged
    print(f"{dict(trial.kills)}; in flight at the kills: {trial.in_flight}; acknowledged: {dict(done)}")
    assert trial.in_flight > 0, "the kills hit the middle of work"
    assert set(done) == WORK


# --- the book that all of this is held against ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "problem"),
    [
        (["a", "b"], None),
        (["a", "b", "c"], None),
        (["b", "b", "a"], None),
        (["b"], "'a' was acknowledged and is lost"),
        (["a", "a", "b"], "'a' was sent 1 times and is stored 2 times"),
        (["a", "b", "d"], "'d' was sent 0 times and is stored 1 times"),
    ],
)
def test_a_message_may_be_stored_as_often_as_it_was_sent(stored: list[str], problem: str | None) -> None:
    post = Post("sender", Counter({"a": 1, "b": 2, "c": 1}), {"a", "b"})
    assert post.problems(stored) == ([f"sender: {problem}"] if problem else [])


FIRST, SECOND = State(1, 10, "e1", "then"), State(2, 11, "e2", "then")


@pytest.mark.parametrize(
    ("known", "asked", "seen", "right"),
    [
        (None, None, None, True),
        (FIRST, None, FIRST, True),
        (FIRST, None, None, False),
        (FIRST, None, replace(FIRST, etag="e0"), False),
        (FIRST, None, SECOND, False),
        (SECOND, None, FIRST, False),
        (FIRST, 2, FIRST, True),
        (FIRST, 2, SECOND, True),
        (FIRST, 2, None, False),
        (FIRST, 2, replace(SECOND, version=10), False),
        (FIRST, 2, replace(SECOND, etag="e1"), False),
        (FIRST, 2, replace(SECOND, born="later"), False),
        (FIRST, GONE, None, True),
        (FIRST, GONE, FIRST, True),
        (FIRST, GONE, SECOND, False),
        (None, 1, None, True),
        (None, 1, FIRST, True),
        (None, 1, SECOND, False),
    ],
)
def test_a_thing_is_as_acknowledged_or_as_asked_for_last(
    known: State | None, asked: int | None, seen: State | None, right: bool
) -> None:
    record = Record("thing", known, asked)
    assert (record.problems(seen) == []) is right
    assert record == Record("thing", seen)


def test_a_list_holds_each_thing_once_and_nothing_else() -> None:
    records = [Record("a", FIRST), Record("b", FIRST), Record("c")]
    assert membership("device", ["a", "b"], records) == []
    assert membership("device", ["a", "B", "b", "c"], records) == [
        "device b is there twice",
        "device B is in the list of all, and should not be",
        "device c is in the list of all, and should not be",
    ]
    assert membership("device", ["b"], records) == ["device a is not in the list of all"]


# --- every step of a start, a stop and a reset ------------------------------------------------------------------------


@dataclass(frozen=True)
class Killed:
    """One try: an emulator was killed before a step of a phase (None: it was over before), and then another started."""

    step: int
    before: str | None
    acknowledged: bool
    left: list[str]
    known: dict[str, str] | None
    after: dict[str, Any]


def killed_at_every_step(phase: str, folder: Path, host: str) -> list[Killed]:
    command = [sys.executable, str(Path(__file__).with_name("mortal.py")), phase, str(folder), host]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    tries = [Killed(**json.loads(line)) for line in done.stdout.splitlines()]
    assert [one.step for one in tries] == list(range(1, len(tries) + 1))
    assert [one.before is None for one in tries] == [False] * (len(tries) - 1) + [True]
    for one in tries:
        assert not [name for name in one.after["files"] if name.startswith(".")], f"half a file is left: {one}"
        assert one.known in (None, one.after["facts"]), f"what was known is not true any more: {one}"
    return tries


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of an emulator that was killed in the middle of its life, and its address."""
    folder = tmp_path_factory.mktemp("lived")
    emulator = RunningEmulator(folder / "state")
    device = provisioned(emulator, folder, "lived")
    with on_the_wire(emulator, device) as line:
        line.publish(wire.events("lived"), "hello")
    emulator.kill()
    return folder, emulator.host


ALL, NONE = dict.fromkeys(TABLES, 1), dict.fromkeys(TABLES, 0)


@ON_POSIX
def test_a_first_start_that_is_killed_at_any_step_is_made_good_by_the_next(tmp_path: Path) -> None:
    """No half CA, half database or half `running.json`."""
    tries = killed_at_every_step("start", tmp_path, free_host())
    steps = " ".join(one.before or "" for one in tries)
    for word in ("os.mkdir", "emulator.lock", "bind", "CREATE TABLE facts", "COMMIT", "/.ca.pem", "/.running.json"):
        assert word in steps, f"{word} is a step of a start"
    assert all(one.after["rows"] == NONE for one in tries)


@ON_POSIX
def test_a_start_that_is_killed_at_any_step_loses_nothing_and_stays_who_it_is(lived: tuple[Path, str]) -> None:
    tries = killed_at_every_step("start", *lived)
    assert "/running.json" in " ".join(one.before or "" for one in tries), "that of before was there"
    assert all(one.after["rows"] == ALL for one in tries)
    assert len({json.dumps(one.after["facts"], sort_keys=True) for one in tries}) == len(tries), "folders differ"
    assert len({one.after["facts"]["ca"] + one.after["facts"]["IOTHUB_CONNECTION_STRING"] for one in tries}) == 1


@ON_POSIX
def test_a_stop_that_is_killed_at_any_step_loses_nothing(lived: tuple[Path, str]) -> None:
    tries = killed_at_every_step("stop", *lived)
    assert len(tries) > 1
    assert all(one.after["rows"] == ALL for one in tries)


@ON_POSIX
def test_a_reset_that_is_killed_at_any_step_has_deleted_everything_or_nothing(lived: tuple[Path, str]) -> None:
    tries = killed_at_every_step("reset", *lived)
    assert {one.before for one in tries} > {"DELETE FROM enrollments", "DELETE FROM groups", "COMMIT", None}
    for one in tries:
        assert one.after["rows"] == (NONE if one.acknowledged else ALL), one
