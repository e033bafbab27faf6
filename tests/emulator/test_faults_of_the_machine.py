"""What the machine can do to an emulator: a full or read-only disk, damaged and deleted files, a clock that jumps, two
starts at once. Each is one clear line that tells what to do, leaves nothing half-written, and loses nothing that was
acknowledged.
"""

import ast
import asyncio
import json
import os
import re
import shutil
import signal
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from azure.iot.device import IoTHubDeviceClient, Message
from azure.iot.device.exceptions import ClientError
from clients import bodies, connected, document, register, send
from connections import at_dps, on_the_wire, provisioned
from disks import Disk, disk
from in_memory import leaf
from OpenSSL import crypto
from processes import COMMAND, RunningEmulator, free_host, listens, run_command, status, unable, wait_for
from rest import ask, done, dps_error, hub_error, token
from users import START, User
from wire import (
    CONNECTED,
    RESPONSES,
    Connack,
    Desk,
    Published,
    commands_to,
    events,
    one,
    poll,
    publish,
    subscribe,
    to_dps,
    to_hub,
)
from wire import register as ask_for

from dpsx_helpers.emulator import Emulator, EmulatorError, identity, listener, running, trouble, twin, wal
from dpsx_helpers.emulator.dps import Progress
from dpsx_helpers.emulator.faults import Fault, Stage
from dpsx_helpers.emulator.limits import Limits
from dpsx_helpers.emulator.running import Running
from dpsx_helpers.emulator.store import SCHEMA_VERSION, Store, StoreError
from dpsx_helpers.emulator.students import Student
from dpsx_helpers.errors import LearnerError

Start = Callable[..., RunningEmulator]
AT_ONCE = 20.0  # seconds: not a measure, but the end of waiting
EVENTS = "devices/{}/messages/events/"


def failed_start(state_dir: Path, *arguments: str) -> str:
    """`run` that must not start: exit status 1 and one line."""
    done = run_command("run", "--state-dir", str(state_dir), *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    return line


# --- a full disk ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Disk]:
    with disk(tmp_path / "disk") as mounted:
        yield mounted


FULL = "The disk with {} is full: make room there"


def test_a_start_on_a_full_disk_is_one_line_and_the_next_one_works(
    small_disk: Disk, start: Start, tmp_path: Path
) -> None:
    """With more room it comes further: to the lock, the database, the keys, the bundle of certificates."""
    state, came_to = small_disk.folder / "state", []
    for room in (0, 170_000, 240_000):
        small_disk.fill(leave=room)
        line = failed_start(state, "--host", free_host())
        assert line.startswith(FULL.format(state)), line
        assert line.endswith(("or use another state directory.", "and start again, or name another --state-dir.")), line
        small_disk.make_room()
        there = {path.name for path in state.iterdir()}
        assert ("ca.pem" in there) <= ("ca.key.pem" in there)
        assert not [name for name in there if name.startswith(".") or name == "running.json"]
        came_to.append("server.pem" in there)
    assert (came_to[0], came_to[-1]) == (False, True)
    first = start(state_dir=state)
    device = provisioned(first, tmp_path, "after-all")
    scope, trusted = first.emulator.overview.id_scope, first.emulator.overview.ca_file.read_bytes()
    first.terminate()
    small_disk.fill()
    assert failed_start(state, "--host", first.host).startswith(FULL.format(state))
    with pytest.raises(EmulatorError) as failure:
        Emulator.start(state)
    sentence = str(failure.value)
    assert sentence.startswith(f"The emulator cannot be started: the disk with {state} is full: make room there")
    assert sentence.count("\n") == 0
    small_disk.make_room()
    again = start(host=first.host, state_dir=state)
    assert (again.emulator.overview.id_scope, again.emulator.overview.ca_file.read_bytes()) == (scope, trusted)
    with connected(again, device) as client:
        send(client, "the same device, with what it was given before")
    assert len(bodies(again)) == 1


class Quota:
    """No file of the process may grow beyond what its write-ahead log has now. Any user can do that to a process."""

    def __init__(self, emulator: RunningEmulator) -> None:
        self._resource = pytest.importorskip("resource")
        if not hasattr(self._resource, "prlimit"):
            unable("only Linux limits the files of another process: a full disk is tried on a disk alone")
        self._process = emulator.process.pid
        self._log = emulator.state_dir / "emulator.db-wal"

    def fill(self) -> None:
        self._limit(self._log.stat().st_size)

    def make_room(self) -> None:
        self._limit(self._resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        kind = self._resource.RLIMIT_FSIZE
        _, hard = self._resource.prlimit(self._process, kind)
        self._resource.prlimit(self._process, kind, (size, hard))


@pytest.mark.parametrize("how", ["full disk", "quota"])
def test_on_a_full_disk_nothing_is_acknowledged_that_is_not_stored(
    how: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    mounted = request.getfixturevalue("small_disk") if how == "full disk" else None
    state, errors = (mounted.folder if mounted else tmp_path) / "state", tmp_path / "errors"
    emulator = RunningEmulator(state, errors=errors)
    try:
        space = mounted or Quota(emulator)
        device, other = provisioned(emulator, tmp_path, "patient"), provisioned(emulator, tmp_path, "plain")
        with (
            connected(emulator, device, connection_retry_interval=1) as client,
            on_the_wire(emulator, other) as wire,
        ):
            send(client, "before")
            acknowledged: list[int] = []
            wire.acknowledged = acknowledged.append
            space.fill()

            wire.say(EVENTS.format("plain"), "x" * 20_000, qos=1)
            wire.gone.get(timeout=AT_ONCE)
            assert acknowledged == [], "what is not stored is not acknowledged"
            sending = threading.Thread(target=_send_until_it_is_there, args=(client, "during"))
            sending.start()
            for _ in range(30):  # many requests, and one line
                assert dps_error(ask(emulator, "PUT", "/enrollments/late", _enrollment()))[:2] == (500, 500000)
            status, name, why = hub_error(ask(emulator, "PATCH", "/twins/patient", {"tags": {"floor": 3}}))
            assert (status, name) == (500, "ServerError")
            assert (FULL.format(state).lower() if mounted else "cannot be used (disk i/o error)") in why.lower()
            with pytest.raises(EmulatorError) as failure:
                emulator.emulator.send("patient", "command")
            assert str(failure.value)[1:] == f"{why[1:]}."
            with at_dps(emulator, device) as registering:
                registering.ask_to_register()
                registering.gone.get(timeout=AT_ONCE)
                assert registering.messages.empty()
            shown = done(ask(emulator, "GET", "/devices/patient"))
            assert shown["deviceId"] == "patient", "what can be read is read"
            assert "before" in bodies(emulator)
            assert done(ask(emulator, "GET", "/twins/patient"))["tags"] == {}
            assert ask(emulator, "GET", "/enrollments/late").status_code == 404
            assert emulator.process.poll() is None

            space.make_room()
            sending.join(AT_ONCE * 3)
            assert not sending.is_alive(), "the SDK's client has come back by itself, and its message was taken"
            wait_for(lambda: "what comes is stored again" in emulator.log())
        assert bodies(emulator, "patient")[0] == "before"
        assert "during" in bodies(emulator, "patient")
        done(ask(emulator, "PATCH", "/twins/patient", {"tags": {"floor": 3}}))
        assert register(emulator, other).status == "assigned"
        said = errors.read_text()
        assert said.count("nothing can be stored: ") == said.count("what comes is stored again") == 1, said
        for text in (said, emulator.log()):
            assert "Traceback" not in text
        if mounted:
            assert "line(s) are missing here, for which there was no room" in emulator.log()
        assert all(line[2] == line[5] == ":" for line in emulator.log().splitlines()), "no line is cut in two"
        assert emulator.terminate() == 0
    finally:
        emulator.close()


def _send_until_it_is_there(client: IoTHubDeviceClient, body: str) -> None:
    """As a program does that must not lose its message."""
    while True:
        try:
            client.send_message(Message(body))
        except ClientError:
            time.sleep(0.2)
        else:
            return


def _enrollment() -> dict[str, object]:
    return document(leaf("late"))


def test_what_sqlite_rolls_back_in_the_middle_of_a_turn_is_not_acknowledged_to_anybody(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """When a transaction does not fit into its cache, SQLite may meet the full disk before the commit, and forgets all
    that was written. The commit at the end of the turn then has nothing to do, and succeeds.
    """
    desk.add("small")
    desk.add("large")
    database = desk.store._db
    database.execute("PRAGMA cache_size = 2")
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count = {pages + 20}")
    doors = listener.Listener(desk.services, None, lambda: None)  # type: ignore[arg-type]
    seen: list[str] = []

    class Door:
        def __init__(self, name: str) -> None:
            self.name, self.line = name, desk.online(name)

        def says(self, payload: bytes) -> None:
            try:
                self.line.conversation.receive(publish(events(self.name), payload))
            except sqlite3.Error as error:
                desk.services.not_stored(error)
                seen.append(f"{self.name} meets it")
            doors.changed(self)  # type: ignore[arg-type]

        def flush(self) -> None:
            seen.append(f"{self.name} is answered")

        def abort(self) -> None:
            seen.append(f"{self.name} is dropped")

    async def turns() -> None:
        small, large = Door("small"), Door("large")
        small.says(b"in the same turn")
        large.says(bytes(200_000))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert seen == ["large meets it", "small is dropped", "large is dropped"]
        assert desk.messages("small") == []
        small.says(b"in the next turn")
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(turns())
    assert seen[3:] == ["small is answered"]
    assert desk.messages("small") == [b"in the next turn"]
    assert caplog.text.count("nothing can be stored: the disk with ") == 1
    assert "what comes is stored again; 1 time(s) it was not" in caplog.text


def a_door(seen: list[str]) -> Any:
    """A connection that says whether its device is answered or dropped."""

    class Door:
        flush = staticmethod(lambda: seen.append("answered"))
        abort = staticmethod(lambda: seen.append("dropped"))

    return Door()


def test_a_request_whose_commit_fails_takes_with_it_what_devices_wrote_meanwhile(desk: Desk) -> None:
    desk.add("patient")
    line = desk.online("patient")
    doors = listener.Listener(desk.services, None, lambda: None)  # type: ignore[arg-type]
    seen: list[str] = []

    async def turn() -> None:
        line.conversation.receive(publish(events("patient"), b"hello"))
        doors.changed(a_door(seen))
        desk.services.not_stored(full())  # what a handler does with the error of its commit
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(turn())
    assert seen == ["dropped"]
    assert desk.messages("patient") == []


def test_a_request_that_was_not_stored_costs_no_device_of_a_later_turn_its_answer(desk: Desk) -> None:
    desk.add("patient")
    line = desk.online("patient")
    doors = listener.Listener(desk.services, None, lambda: None)  # type: ignore[arg-type]
    seen: list[str] = []

    async def turns() -> None:
        desk.store.put_fact("of a request", "x")
        desk.services.not_stored(full())
        await asyncio.sleep(0)
        line.conversation.receive(publish(events("patient"), b"hello"))
        doors.changed(a_door(seen))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(turns())
    assert seen == ["answered"]
    assert desk.messages("patient") == [b"hello"]


def full() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error


def test_what_cannot_be_stored_is_said_once_a_minute(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    met = trouble.Trouble(tmp_path / "emulator.db", lambda: now)
    for now in (0.0, 1.0, 59.0, 60.0, 61.0, 119.0, 121.0):  # noqa: B007 - the clock reads it
        assert met.met(full()) == f"the disk with {tmp_path} is full: make room there"
    assert caplog.text.count("nothing can be stored: ") == 3
    met.over()
    met.over()
    met.met(full())
    assert caplog.text.count("nothing can be stored: ") == 4


def test_a_fault_that_was_used_up_in_a_turn_that_was_lost_is_on_again(desk: Desk) -> None:
    desk.services.switch_on(Fault("drop", left=1))
    desk.services.commit()
    assert desk.services.fault(Stage.REGISTER, "anybody") is not None
    assert desk.services.faults() == []
    desk.services.not_stored(full())
    assert [fault.kind for fault in desk.services.faults()] == ["drop"]


# --- files that are deleted while it runs -----------------------------------------------------------------------------


def ended(emulator: RunningEmulator) -> str:
    """The one line with which it has ended by itself."""
    assert emulator.process.wait(timeout=AT_ONCE) == 1
    assert emulator.errors is not None
    text = emulator.errors.read_text()
    assert "Traceback" not in text, text
    return text.splitlines()[-1]


@pytest.fixture
def told(tmp_path: Path) -> Iterator[RunningEmulator]:
    """An emulator whose standard error is kept outside its state directory."""
    emulator = RunningEmulator(tmp_path / "work" / "emulator", errors=tmp_path / "errors")
    yield emulator
    emulator.close()


@pytest.mark.parametrize("what", ["state directory", "work folder", "database", "write-ahead log"])
def test_an_emulator_whose_files_are_deleted_acknowledges_nothing_more_and_ends(
    told: RunningEmulator, tmp_path: Path, what: str
) -> None:
    device = provisioned(told, tmp_path, "left-alone")
    state, acknowledged = told.state_dir, list[int]()
    with on_the_wire(told, device) as wire:
        wire.publish(EVENTS.format("left-alone"), "before")
        wire.acknowledged = acknowledged.append
        if what == "database":
            (state / "emulator.db").unlink()
        elif what == "write-ahead log":
            (state / "emulator.db-wal").unlink()
        else:
            shutil.rmtree(state if what == "state directory" else state.parent)
        wire.say(EVENTS.format("left-alone"), "after", qos=1)
        wire.gone.get(timeout=AT_ONCE)
    assert acknowledged == []
    line = ended(told)
    gone = "emulator.db-wal" if what == "write-ahead log" else "emulator.db"
    assert line.startswith(
        f"The emulator has ended: {state / gone} was deleted or moved while the emulator ran: start "
    )
    assert not listens(told.host, 8883)
    assert not (state / "running.json").exists()
    if what == "write-ahead log":
        assert bodies(told) == ["before"], "what was acknowledged is in the database now"


def test_an_emulator_on_a_quiet_day_notices_that_it_is_gone_too(told: RunningEmulator) -> None:
    shutil.move(told.state_dir, told.state_dir.with_name("elsewhere"))
    assert "was deleted or moved while the emulator ran: start it again" in ended(told)


def test_one_whose_lock_was_deleted_makes_way_for_the_next(told: RunningEmulator) -> None:
    (told.state_dir / "emulator.lock").unlink()
    assert "emulator.lock was deleted or moved while it ran: start it again" in ended(told)
    again = Emulator.start(told.state_dir)
    try:
        assert again.overview.id_scope == told.overview.partition("ID scope")[2].split()[0]
    finally:
        again.stop()


def test_the_file_by_which_it_is_found_comes_back(told: RunningEmulator) -> None:
    before = told.emulator.environment()
    (told.state_dir / "running.json").unlink()
    assert not told.emulator.running()
    found = Emulator.start(told.state_dir)  # which waits for it, instead of starting a second one
    assert (found.overview.pid, found.environment()) == (told.process.pid, before)


def test_the_next_cell_after_the_work_folder_is_gone_says_so_and_the_first_starts_anew(tmp_path: Path) -> None:
    """Of two emulators on one folder's name the older one ends, and takes nothing of the newer one with it."""
    state = tmp_path / "work" / "emulator"
    old = Emulator.start(state)
    process = psutil.Process(old.overview.pid)
    shutil.rmtree(state.parent)
    new = Emulator.start(state)
    try:
        assert new.overview.pid != process.pid
        assert new.overview.id_scope != old.overview.id_scope
        new.admit(["anna"])
        psutil.wait_procs([process], timeout=AT_ONCE)
        assert not process.is_running()
        assert new.running()
        assert not old.running()
        assert [student.registration_id for student in new.students()] == ["anna"]
        assert {"running.json", "emulator.db", "emulator.db-wal", "emulator.lock"} <= {
            path.name for path in state.iterdir()
        }
        with pytest.raises(EmulatorError) as failure:
            old.faults()
        assert str(failure.value) == (
            f"The emulator of {state} that this was made for has ended, and another one runs there now: "
            "start or attach to it anew, in a notebook by running its first cells again."
        )
    finally:
        new.stop()
    assert [student.registration_id for student in _students(state)] == ["anna"]
    shutil.rmtree(state.parent)
    for act in (old.faults, old.clear_faults, old.students, lambda: old.send("a", "b"), old.messages):
        with pytest.raises(EmulatorError) as failure:
            act()
        assert str(failure.value).startswith(("No emulator is running on ", "There is no emulator in "))
        assert str(failure.value).count("\n") == 0


def _students(state: Path) -> list[Student]:
    store = Store(state / "emulator.db")
    try:
        return store.students()
    finally:
        store.close()


# --- starts at once, and what earlier ones have left ------------------------------------------------------------------


def test_cells_that_start_at_once_come_to_one_emulator(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state).mkdir(mode=0o700)
    (state / "running.json").write_text(json.dumps({**asdict(FORMER), "pid": os.getpid()}))  # one was killed here
    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(lambda _: Emulator.start(state), range(5)))
    try:
        assert len({(one.overview.pid, one.overview.dps_connection_string) for one in found}) == 1
        assert found[0].overview.pid != os.getpid()
        for one in found:
            assert one.faults() == []
    finally:
        found[0].stop()


SLOW = """
import sys, time
from dpsx_helpers.emulator import server
from dpsx_helpers.emulator.__main__ import main

bind = server.bind
server.bind = lambda *given: time.sleep(2) or bind(*given)
sys.exit(main(sys.argv[1:]))
"""


def test_a_cell_waits_for_an_emulator_that_somebody_else_is_just_starting(tmp_path: Path) -> None:
    """It has the lock for a while before it can be found; what a killed one has left there is not taken for it."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / "running.json").write_text(json.dumps({**asdict(FORMER), "pid": os.getpid()}))
    command = [sys.executable, "-c", SLOW, "run", "--state-dir", str(state), "--host", free_host()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    slow = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: running.is_held(state))
        found = Emulator.start(state)
        assert found.overview.pid == slow.pid
        found.stop()
        assert slow.wait(AT_ONCE) == 0
    finally:
        slow.kill()
        slow.wait()


def test_of_ten_commands_that_start_at_once_one_runs_and_the_others_say_so_in_a_line(tmp_path: Path) -> None:
    state, host = tmp_path / "state", free_host()
    command = [*COMMAND, "run", "--state-dir", str(state), "--host", host]
    commands = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(10)]
    try:
        wait_for(lambda: sum(one.poll() is not None for one in commands) == 9, within=60)
        (winner,) = [one for one in commands if one.poll() is None]
        wait_for(lambda: running.read(state) is not None)
        emulator = Emulator.attach(state)
        assert emulator.overview.pid == winner.pid
        for one in commands:
            if one is not winner:
                text, errors = one.communicate(timeout=AT_ONCE)
                assert (one.returncode, text, errors.count("\n")) == (1, "", 1)
                assert errors.startswith(f"An emulator is already running on {state} (")
        emulator.stop()
        assert winner.wait(AT_ONCE) == 0
    finally:
        for one in commands:
            one.kill()
            one.communicate()


def test_of_commands_that_want_one_address_at_once_one_gets_it_and_the_others_change_nothing(tmp_path: Path) -> None:
    host = free_host()
    commands = [
        subprocess.Popen(
            [*COMMAND, "run", "--state-dir", str(tmp_path / str(number)), "--host", host],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    try:
        wait_for(lambda: sum(one.poll() is not None for one in commands) == 2, within=60)
        for number, one in enumerate(commands):
            if one.poll() is not None:
                text, errors = one.communicate(timeout=AT_ONCE)
                assert (one.returncode, text, errors.count("\n")) == (1, "", 1)
                assert host in errors
                assert "cannot be used (" in errors or "was taken just now" in errors
                assert not (tmp_path / str(number) / "running.json").exists()
            else:
                winner = tmp_path / str(number)
                wait_for(lambda state=winner: running.read(state) is not None)
                Emulator.attach(winner).stop()
    finally:
        for one in commands:
            one.kill()
            one.communicate()


FORMER = Running("0ne00111111", "127.0.0.1", 8883, 8443, None, {"hub-1": "127.0.0.1"}, 1, "run", "k1", "k2", "t")


def test_what_a_killed_emulator_has_left_keeps_nobody_from_starting(start: Start, tmp_path: Path) -> None:
    """A lock that nobody holds, perhaps since another boot, and a process ID that is somebody else's by now."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / "emulator.lock").write_text("4711\nanother machine\n")
    (state / "running.json").write_text(json.dumps({**asdict(FORMER), "pid": os.getpid(), "machine": "another boot"}))
    assert status(state)["running"] is False
    assert run_command("stop", "--state-dir", str(state)).returncode == 0, "and ends nobody"
    first = start(state_dir=state)
    first.process.kill()
    first.process.wait()
    assert start(state_dir=state, host=first.host).emulator.environment() == first.emulator.environment()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"news": ["of a later version"]}, None),
        ({"ws_port": ...}, "(process {}) was started by another version of this program: end that process, and run "),
        ({"hubs": ["hub-1"]}, "(process {}) was started by another version of this program"),
        ({"host": None}, "(process {}) was started by another version of this program"),
    ],
    ids=["more", "less", "other", "nothing"],
)
def test_an_emulator_of_another_version_is_used_or_named(
    emulator: RunningEmulator, change: dict[str, Any], sentence: str | None
) -> None:
    file = emulator.state_dir / "running.json"
    before = file.read_bytes()
    told = json.loads(before) | change
    try:
        file.write_text(json.dumps({name: value for name, value in told.items() if value is not ...}))
        if sentence is None:
            assert Emulator.start(emulator.state_dir).faults() == []
            return
        for act in (Emulator.start, Emulator.attach):
            with pytest.raises(LearnerError) as failure:
                act(emulator.state_dir)
            assert sentence.format(emulator.process.pid) in str(failure.value)
        done = run_command("status", "--state-dir", str(emulator.state_dir))
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{failure.value}\n")
    finally:
        file.write_bytes(before)


# --- a place that cannot be written to --------------------------------------------------------------------------------


def test_a_start_on_a_read_only_disk_is_one_line_and_changes_nothing(small_disk: Disk, start: Start) -> None:
    state, host = small_disk.folder / "state", free_host()
    small_disk.close_to_writers()
    assert failed_start(state, "--host", host) == (
        f"{small_disk.folder} cannot be written (Read-only file system): see to it that you may write there and "
        "start again, or name another --state-dir."
    )
    small_disk.close_to_writers(closed=False)
    first = start(state_dir=state, host=host)
    first.terminate()
    small_disk.close_to_writers()
    for act in (Emulator.start, Emulator.attach):
        with pytest.raises(LearnerError) as failure:
            act(state)
        assert str(failure.value) == (
            f"{state} cannot be written (Read-only file system): see to it that you may write there, or name another "
            "folder with DPSX_WORK_DIR or --state-dir."
        )
    small_disk.close_to_writers(closed=False)
    assert start(state_dir=state, host=host).emulator.environment() == first.emulator.environment()


@pytest.mark.parametrize("closed", ["work folder", "state directory", "database"])
def test_what_an_ordinary_user_may_not_write_to_is_one_sentence_in_a_cell(
    tmp_path: Path, closed: str, request: pytest.FixtureRequest
) -> None:
    """To root every place is open: then another user meets the closed one."""
    user = User(61001, 61000) if os.name == "posix" and os.geteuid() == 0 else None
    home = user.home(tmp_path) if user else tmp_path / "home"
    work = home / "work"
    state = work / "emulator"
    state.mkdir(parents=True, mode=0o700)
    place = {"work folder": work, "state directory": state, "database": state / "emulator.db"}[closed]
    if closed == "database":
        Store(place).close()
    else:
        state.rmdir() if closed == "work folder" else None
    for path in (work, *work.rglob("*")):
        os.chown(path, user.number, user.group) if user else None
    place.chmod(0o500 if place.is_dir() else 0o400)
    request.addfinalizer(lambda: place.chmod(0o700))  # so that it can be deleted
    said = user.starts(work) if user else started_in(work)
    assert "cannot be written (Permission denied): see to it that you may write there, or " in said
    assert str(place) in said
    assert said.count("\n") == 0
    assert not (state / "running.json").exists()
    place.chmod(0o700 if place.is_dir() else 0o600)
    again = user.starts(work) if user else started_in(work)
    assert again.isdigit(), again
    os.kill(int(again), signal.SIGTERM)
    wait_for(lambda: not running.is_held(state))


def started_in(work: Path) -> str:
    """What the first cell of this user says."""
    environment = {**os.environ, "DPSX_WORK_DIR": str(work)}
    command = [sys.executable, "-c", START]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return str(json.loads(done.stdout))


# --- damaged files ----------------------------------------------------------------------------------------------------


def filled(state: Path, devices: int = 400) -> None:
    """A state directory with some hundred pages in its database."""
    state.mkdir(mode=0o700)
    store = Store(state / "emulator.db")
    store.put_fact("id_scope", "0ne00000001")
    for number in range(devices):
        device = identity.Device("hub-1", f"device-{number:05}", "1", "then", primary_key="a2V5")
        store.add_device(device, twin.Twin(tags={"note": "x" * 1000}))
    store.close()


def flip(file: Path, start: int, size: int = 4096) -> None:
    """Turn every bit of a part of a file."""
    with open(file, "rb+") as opened:
        opened.seek(start)
        part = opened.read(size)
        opened.seek(start)
        opened.write(bytes(byte ^ 0xFF for byte in part))


def garbage_at_the_beginning(database: Path) -> None:
    flip(database, 0, 100)


def half_of_it(database: Path) -> None:
    os.truncate(database, database.stat().st_size // 2)


def a_page_in_the_middle(database: Path) -> None:
    flip(database, 40 * 4096)


def an_empty_file_beside_a_log(database: Path) -> None:
    crash(database)
    os.truncate(database, 0)


def a_page_in_the_middle_beside_a_log(database: Path) -> None:
    crash(database)
    flip(database, 40 * 4096)


def a_log_that_begins_with_garbage(database: Path) -> None:
    crash(database)
    flip(Path(f"{database}-wal"), 0, 32)


def a_log_with_a_bit_that_has_turned(database: Path) -> None:
    crash(database)
    flip(Path(f"{database}-wal"), 32 + 24 + 1000, 1)


def crash(database: Path) -> None:
    """Write, and end as kill -9 does: what was committed is in the write-ahead log."""
    command = [sys.executable, "-c", CRASH, str(database)]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False, timeout=60)
    assert Path(f"{database}-wal").stat().st_size > 10_000


CRASH = """
import os, signal, sys
from pathlib import Path
from dpsx_helpers.emulator.store import SCHEMA_VERSION, Store, StoreError

store = Store(Path(sys.argv[1]))
for number in range(20):
    store.put_fact(f"fact {number}", "x" * 500)
    store.commit()
os.kill(os.getpid(), signal.SIGKILL)
"""
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "damage",
    [
        garbage_at_the_beginning,
        half_of_it,
        a_page_in_the_middle,
        an_empty_file_beside_a_log,
        a_page_in_the_middle_beside_a_log,
        a_log_that_begins_with_garbage,
        a_log_with_a_bit_that_has_turned,
    ],
    ids=lambda damage: damage.__name__.replace("_", " "),
)
def test_a_damaged_database_is_one_line_that_names_what_to_delete_and_is_kept(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    state = tmp_path / "state"
    filled(state)
    database = state / "emulator.db"
    damage(database)
    before = {path: path.read_bytes() for path in (database, Path(f"{database}-wal")) if path.exists()}
    with pytest.raises(StoreError) as failure:
        Store(database)
    line = str(failure.value)
    assert line.count("\n") == 0
    if damage.__name__.startswith("a_log_"):
        assert line == (
            f"the write-ahead log {database}-wal of the emulator's database is damaged: put back a copy, or delete "
            "that file, and with it the last that was enrolled and sent, or use another state directory"
        )
        named = [Path(f"{database}-wal")]
    else:
        assert line.startswith(f"the emulator's database {database} cannot be used (it is damaged: "), line
        assert line.endswith(
            "): put back a copy, or delete emulator.db, emulator.db-wal and emulator.db-shm there, and with them all "
            "that was enrolled and sent, or use another state directory"
        )
        named = [database, Path(f"{database}-wal"), Path(f"{database}-shm")]
    assert {path: path.read_bytes() for path in before} == before
    for path in named:
        path.unlink(missing_ok=True)
    opened = Store(database)
    assert opened.fact("id_scope") == ("0ne00000001" if database not in named else None)
    opened.close()


def test_a_damaged_database_stops_a_start_and_its_remedy_works(start: Start, tmp_path: Path) -> None:
    state = tmp_path / "state"
    filled(state)
    a_page_in_the_middle(state / "emulator.db")
    line = failed_start(state, "--host", free_host())
    assert line.startswith(f"The emulator's database {state / 'emulator.db'} cannot be used (it is damaged: ")
    for name in re.findall(r"emulator\.db[-a-z]*", line.partition("delete ")[2].partition(" there")[0]):
        (state / name).unlink(missing_ok=True)
    assert start(state_dir=state).emulator.faults() == []


@pytest.mark.parametrize("left", ["nothing", "an empty file", "garbage in the index of the log"])
def test_what_is_left_of_no_database_is_a_new_one(tmp_path: Path, left: str) -> None:
    """The index of a log (-shm) is made anew by whoever comes first: nothing is lost with it."""
    database = tmp_path / "emulator.db"
    if left == "an empty file":
        database.touch()
    if left == "garbage in the index of the log":
        crash(database)
        Path(f"{database}-shm").write_bytes(os.urandom(40_000))
    store = Store(database)
    assert store.fact("fact 19") == (None if left != "garbage in the index of the log" else "x" * 500)
    store.put_fact("a", "b")
    store.close()


def test_a_folder_in_the_place_of_the_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "state" / "emulator.db").mkdir(parents=True)
    assert failed_start(tmp_path / "state", "--host", free_host()) == (
        f"{tmp_path / 'state' / 'emulator.db'} cannot be used (Is a directory): move away what is there, or use "
        "another state directory."
    )


def test_a_database_that_is_damaged_while_it_is_used_ends_the_emulator_with_one_line(tmp_path: Path) -> None:
    state = tmp_path / "state"
    filled(state, 5000)
    emulator = RunningEmulator(state, errors=tmp_path / "errors")
    try:
        database = state / "emulator.db"
        assert done(ask(emulator, "GET", "/devices/device-00000"))["deviceId"] == "device-00000"
        flip(database, 40 * 4096, database.stat().st_size - 80 * 4096)
        status, name, why = hub_error(ask(emulator, "POST", "/devices/query", {"query": "SELECT * FROM devices"}))
        assert (status, name) == (500, "ServerError")
        assert "cannot be used (it is damaged: " in why
        assert why.isprintable()
        line = ended(emulator)
        assert line == f"The emulator has ended: {why}, or name another --state-dir."
        assert emulator.log().count("it is damaged") == 1
        with pytest.raises(EmulatorError, match="it is damaged"):
            Emulator.start(state)
    finally:
        emulator.close()


# --- the write-ahead log, byte by byte --------------------------------------------------------------------------------


def test_every_damage_before_the_last_frame_of_a_log_is_found_and_no_crash_is_taken_for_one(tmp_path: Path) -> None:
    database = tmp_path / "emulator.db"
    crash(database)
    log = Path(f"{database}-wal").read_bytes()
    frame = 24 + 4096
    assert not wal.is_damaged(log)
    for position in (*range(32), *range(32, len(log) - frame, 4999)):
        damaged = bytearray(log)
        damaged[position] ^= 0x10
        assert wal.is_damaged(bytes(damaged)), position
    for size in (*range(0, 60), *range(60, len(log), 4999)):
        assert not wal.is_damaged(log[:size]), "as a crash may leave it"
    for position in range(len(log) - frame + 24, len(log), 997):
        damaged = bytearray(log)
        damaged[position] ^= 0x10
        assert not wal.is_damaged(bytes(damaged)), "the last frame may be half written"


def test_what_was_rolled_back_and_what_an_earlier_generation_left_is_no_damage(tmp_path: Path) -> None:
    database = tmp_path / "emulator.db"
    log = Path(f"{database}-wal")
    store = Store(database)
    store._db.execute("PRAGMA cache_size = 2")  # so that it writes before the commit
    store.put_fact("small", "x")
    store.commit()
    store.put_fact("large", "x" * 400_000)
    store.roll_back()
    size = log.stat().st_size
    assert size > 100_000
    store.put_fact("small", "y")
    store.commit()
    assert log.stat().st_size == size
    assert not wal.is_damaged(log.read_bytes())
    store._db.execute("PRAGMA wal_checkpoint(RESTART)")
    store.put_fact("small", "z")
    store.commit()
    assert log.stat().st_size == size
    assert not wal.is_damaged(log.read_bytes())
    store.close()


# --- state of an older version ----------------------------------------------------------------------------------------

OVERTAKEN = """
import os, signal, sqlite3, sys
from pathlib import Path
from dpsx_helpers.emulator import store

class Killed(sqlite3.Connection):
    def executescript(self, script):
        seen = 0
        def count(statement):
            nonlocal seen
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
        self.set_trace_callback(count)
        return super().executescript(script)

database, connect = Path(sys.argv[1]), sqlite3.connect
for number in range(1, 99):
    if (child := os.fork()) == 0:
        store.sqlite3.connect = lambda *given, **more: connect(*given, factory=Killed, **more)
        store.Store(database)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status, connect(database).execute("PRAGMA user_version").fetchone()[0])
    if status == 0:
        break
"""


def of_the_version_before(database: Path) -> None:
    """As the emulator left it that knew no classes."""
    store = Store(database)
    store.put_fact("id_scope", "0ne00000001")
    store.close()
    with closing(sqlite3.connect(database)) as opened:
        opened.executescript("DROP TABLE students; DROP TABLE mistakes; PRAGMA user_version=2")


@pytest.mark.parametrize("state", ["new", "of the version before"])
def test_who_is_killed_while_making_or_taking_over_a_database_leaves_the_old_one_whole(
    tmp_path: Path, state: str
) -> None:
    """Killed at each statement in turn, until there are none left."""
    if not hasattr(os, "fork"):
        pytest.skip("a process that ends like that takes POSIX")
    before = 0 if state == "new" else 2
    database = tmp_path / "emulator.db"
    if before:
        of_the_version_before(database)
    command = [sys.executable, "-c", OVERTAKEN, str(database)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    *killed, last = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(killed) > (10 if state == "new" else 3)
    assert set(killed) == {(-signal.SIGKILL, before)}
    assert last == (0, SCHEMA_VERSION)
    opened = Store(database)
    assert opened.fact("id_scope") == ("0ne00000001" if before else None)
    opened.put_student(Student("anna", "a2V5"))
    opened.close()


@pytest.mark.parametrize("written_by", [1, SCHEMA_VERSION + 1])
def test_state_of_a_version_too_old_or_too_new_is_one_line_and_stays_as_it_is(tmp_path: Path, written_by: int) -> None:
    state = tmp_path / "state"
    filled(state, 1)
    with closing(sqlite3.connect(state / "emulator.db")) as opened:
        opened.execute(f"PRAGMA user_version={written_by}")
    before = (state / "emulator.db").read_bytes()
    line = failed_start(state, "--host", free_host())
    assert f"was written by another version of the emulator (schema {written_by}, this one has " in line
    assert line.endswith("use another state directory, or delete this one.")
    assert (state / "emulator.db").read_bytes() == before
    assert not (state / "ca.pem").exists()


# --- a clock that jumps -----------------------------------------------------------------------------------------------

DAY = 86_400.0
JUMPS = pytest.mark.parametrize("jump", [DAY, -DAY], ids=["a day forwards", "a day backwards"])
SHIFTED = """
import datetime, sys, time
from pathlib import Path

offset, wall, Real = Path(sys.argv.pop(1)), time.time, datetime.datetime
time.time = lambda: wall() + float(offset.read_text())

class Shifted(Real):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)

datetime.datetime = Shifted

from dpsx_helpers.emulator.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@JUMPS
def test_a_clock_that_jumps_disconnects_nobody_and_loses_nothing(tmp_path: Path, jump: float) -> None:
    """A whole process whose wall clock jumps. The clock of its clients stays, as that of a device elsewhere does."""
    offset = tmp_path / "offset"

    def set_clock(seconds: float) -> None:
        (tmp_path / "next").write_text(str(seconds))
        (tmp_path / "next").replace(offset)

    set_clock(0)
    program = [sys.executable, "-c", SHIFTED, str(offset)]
    emulator = RunningEmulator(tmp_path / "state", None, "--rate-limit", "--idle-hours", "1", program=program)
    try:
        device = provisioned(emulator, tmp_path, "steady")
        with on_the_wire(emulator, device) as wire:
            wire.publish(EVENTS.format("steady"), "before")
            before = ask(emulator, "GET", "/enrollments/steady").json()
            set_clock(jump)
            wire.publish(EVENTS.format("steady"), "after")
            now = token(emulator, "dps", expires_in=int(jump) + 60)
            assert done(ask(emulator, "GET", "/enrollments/steady", authorization=now)) == before
            stale = ask(emulator, "GET", "/enrollments/steady", authorization=token(emulator, "dps", expires_in=60))
            assert stale.status_code == (401 if jump > 0 else 200), "a token is judged by the clock on the wall"
            changed = before | {"capabilities": {"iotEdge": True}}
            done(ask(emulator, "PUT", "/enrollments/steady", changed, authorization=now, If_Match=before["etag"]))
            after = done(ask(emulator, "GET", "/enrollments/steady", authorization=now))
            assert after["etag"] != before["etag"]
            assert after["createdDateTimeUtc"] == before["createdDateTimeUtc"]
            assert (after["lastUpdatedDateTimeUtc"] > before["lastUpdatedDateTimeUtc"]) is (jump > 0)
            set_clock(0)
            wire.publish(EVENTS.format("steady"), "in the end")
            assert wire.gone.empty()
        with at_dps(emulator, device) as at:
            assert at.provision()["status"] == "assigned"
        with connected(emulator, device) as client:
            send(client, "and anew")
        messages = emulator.messages("steady")
        assert [message["body"] for message in messages] == ["before", "after", "in the end", "and anew"]
        shifted = _unix(messages[1]) - _unix(messages[0])
        assert jump - 1 < shifted < jump + 60
        assert emulator.emulator.running(), "nor was it idle for an hour"
    finally:
        assert emulator.close() == 0


def _unix(message: dict[str, Any]) -> float:
    return datetime.fromisoformat(message["enqueuedTimeUtc"][:26] + "+00:00").timestamp()


def test_no_time_out_goes_by_the_clock_on_the_wall() -> None:
    """Who may look at it: the stamps of what is stored, the dates of certificates, and a board that shows it."""
    looks = {
        path.name
        for path in Path(listener.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("time", "now", "utcnow", "today", "time_ns", "localtime", "gmtime")
        and not ast.unparse(node.func.value).endswith(("loop", "loop()", "services"))
    }
    assert looks == {"services.py", "server.py", "board.py"}


@JUMPS
def test_a_client_whose_clock_jumps_still_trusts_the_emulator(emulator: RunningEmulator, jump: float) -> None:
    overview = emulator.emulator.overview
    store = crypto.X509Store()
    store.add_cert(crypto.load_certificate(crypto.FILETYPE_PEM, overview.ca_file.read_bytes()))
    store.set_time(datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=jump))
    served = ssl.get_server_certificate((emulator.host, overview.https_port)).encode()
    crypto.X509StoreContext(store, crypto.load_certificate(crypto.FILETYPE_PEM, served)).verify_certificate()


@JUMPS
def test_what_waits_for_a_time_does_not_wait_a_day_for_it(tmp_path: Path, jump: float) -> None:
    """A registration that is held, by the teacher's fault or by --assign seconds, and the limits of DPS."""
    desk = Desk(tmp_path, limits=Limits(), service={"progress": Progress(seconds=5)})
    desk.services.switch_on(Fault("slow", "held", seconds=30))
    lines = {}
    for name in ("slow", "held"):
        der = leaf(name, valid_from=-timedelta(days=2)).der
        desk.enroll(name, der)
        lines[name] = desk.meet(der=der)
        lines[name].say(to_dps(name) + subscribe(RESPONSES))
    operations = {name: one(line.say(ask_for())[1:]).json["operationId"] for name, line in lines.items()}
    for number in range(6):
        *_, last = lines["slow"].say(poll(operations["slow"], number))
    assert isinstance(last, Published)
    assert "/res/429/" in last.topic
    desk.clock.go_on(jump)
    for name, line in lines.items():
        *_, answer = line.say(poll(operations[name], 7))
        assert isinstance(answer, Published)
        assert "/res/200/" in answer.topic, answer
        assert answer.json["registrationState"]["status"] == "assigned"
    desk.store.close()


@JUMPS
def test_commands_twins_and_tokens_go_by_the_clock_on_the_wall(desk: Desk, jump: float) -> None:
    """As on Azure: https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-messages-c2d#message-expiration"""
    key = b64encode(b"k" * 32).decode()
    desk.add("keyed", primary_key=key)
    desk.send("keyed", b"for an hour")
    desk.change_twin("keyed", {"properties": {"desired": {"on": True}}})
    first = desk.twin("keyed").desired
    token = desk.token("keyed", key, 3600)
    desk.clock.go_on(jump)
    line = desk.meet()
    assert line.say(to_hub("keyed", password=token)) == ([Connack(5)] if jump > 0 else [CONNECTED])
    again = desk.meet()
    assert again.say(to_hub("keyed", password=desk.token("keyed", key), clean=False)) == [CONNECTED]
    sent = again.say(subscribe(commands_to("keyed")))
    assert [one.payload for one in sent if isinstance(one, Published)] == ([] if jump > 0 else [b"for an hour"])
    desk.change_twin("keyed", {"properties": {"desired": {"on": False}}})
    second = desk.twin("keyed").desired
    assert second.version == first.version + 1, "which of two is the newer is told by its version, not by its time"
    assert (second.metadata["on"]["$lastUpdated"] > first.metadata["on"]["$lastUpdated"]) is (jump > 0)
    again.say(publish(events("keyed"), b"then"))
    desk.clock.go_on(-jump)
    again.say(publish(events("keyed"), b"now"))
    assert desk.messages("keyed") == [b"then", b"now"], "in the order in which they came"
    assert not again.closing
