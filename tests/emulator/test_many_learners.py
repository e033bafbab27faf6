"""Many learners on one machine: each has an emulator without configuration, and nobody can get at another's."""

import errno
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests
from azure.iot.device.exceptions import ClientError
from clients import bodies, connected, enroll, register, send
from connections import at_dps, on_the_wire, provisioned
from pki import make_device
from processes import RunningEmulator, free_host, wait_for
from rest import ask, key_of, token
from users import User

from benchmarks.many_learners import MESSAGES, REGISTRATION_ID, Learner, at_once, learners, stop
from dpsx_helpers.emulator import Emulator, EmulatorError, process, running
from dpsx_helpers.errors import LearnerError

Start = Callable[..., RunningEmulator]
OF_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")


# --- a class begins ---------------------------------------------------------------------------------------------------


@OF_LINUX
def test_thirty_learners_begin_at_the_same_moment(tmp_path: Path) -> None:
    """All with the same registration ID, which the device list of each shows once."""
    them = learners(tmp_path, 30)
    try:
        at_once(them, Learner.start)
        seen = [learner.emulator.overview for learner in them]
        for facts in (
            [one.host for one in seen],
            [one.pid for one in seen],
            [one.id_scope for one in seen],
            [one.dps_connection_string for one in seen],
            [one.ca_file.read_bytes() for one in seen],
        ):
            assert len(set(facts)) == len(them)
        for learner in them:
            learner.enroll()
        at_once(them, Learner.provision)
        for learner, one in zip(them, seen, strict=True):
            assert (learner.state.device_id, learner.state.assigned_hub) == (REGISTRATION_ID, one.host)
            sent = [f"{learner.folder.name} {number}" for number in range(MESSAGES)]
            assert [message["body"] for message in learner.emulator.messages()] == sent
            assert [record["registrationId"] for record in learner.emulator.registrations()] == [REGISTRATION_ID]
    finally:
        stop(them)
    assert not any(psutil.pid_exists(one.pid) for one in seen)


@OF_LINUX
def test_the_benchmark_prints_its_table() -> None:
    command = [sys.executable, "benchmarks/many_learners.py", "--learners", "2"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    head, _, *rows = [row.strip("| ").split(" | ") for row in done.stdout.splitlines()]
    assert head[1:] == ["alone", "2 at once"]
    values = {what: [float(value.split()[0]) for value in them] for what, *them in rows}
    assert len(values) == len(rows) == 9
    for alone, together in values.values():
        assert 0 < alone < 1000
        assert 0 < together < 1000
    uss, pss = (values[next(what for what in values if kind in what)] for kind in ("USS", "(PSS)"))
    assert all(own <= with_its_part for own, with_its_part in zip(uss, pss, strict=True))


RIVAL = """
import socket, sys
from dpsx_helpers.emulator import server
from dpsx_helpers.emulator.__main__ import main

bind, rivals = server.bind, []

def overtaken(options, before=None):
    bound = bind(options, before)
    if not rivals:
        rival = socket.socket()
        rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
        rival.bind((bound.host, 8883))
        rival.listen()
        rivals.append(rival)
    return bound

server.bind = overtaken
sys.exit(main(sys.argv[1:]))
"""


def lingering(host: str, port: int) -> None:
    """Leave a connection behind that has ended and lingers, so that the port cannot be taken exclusively."""
    with socket.create_server((host, port)) as listening:
        client = socket.create_connection((host, port))
        accepted, _ = listening.accept()
        accepted.close()  # who closes first lingers
        client.close()


@OF_LINUX
@pytest.mark.parametrize("moves", [True, False])
def test_who_is_overtaken_in_the_last_moment_takes_the_next_address(tmp_path: Path, moves: bool) -> None:
    """Both bind while connections of an earlier emulator linger on the port; only one of them can listen."""
    host = free_host().rpartition(".")[0] + ".1"
    lingering(host, 8883)
    state = tmp_path / "state"
    command = [sys.executable, "-c", RIVAL, "run", "--state-dir", str(state), "--host", host]
    racer = subprocess.Popen(
        [*command, *(["--next-free-host"] if moves else [])], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        if moves:
            wait_for(lambda: running.read(state) is not None and "= ready" in (state / "emulator.log").read_text())
            emulator = Emulator.attach(state)
            assert emulator.overview.host == host.removesuffix("1") + "2"
            assert emulator.faults() == [], "it answers there, with a certificate for that address"
            emulator.stop()
        text, errors = racer.communicate(timeout=30)
    finally:
        racer.kill()
        racer.wait()
    assert racer.returncode == (0 if moves else 1)
    assert ("ID scope" in text) is moves
    assert f"A port on {host} was taken just now (Address already in use): try again." in errors


@OF_LINUX
def test_nobody_can_bind_what_an_emulator_listens_on(start: Start) -> None:
    emulator = start("--ws-port", "0")
    seen = emulator.emulator.overview
    for host in (emulator.host, "0.0.0.0"):
        for port in (seen.mqtt_port, seen.https_port, seen.ws_port):
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                with socket.socket() as thief:
                    thief.setsockopt(socket.SOL_SOCKET, option, True)
                    with pytest.raises(OSError, match="Address already in use"):
                        thief.bind((host, port))


# --- a neighbour, over loopback ---------------------------------------------------------------------------------------


def test_a_neighbour_can_knock_and_no_more(emulator: RunningEmulator, start: Start, tmp_path: Path) -> None:
    """Whoever is on this machine reaches the ports. Here the neighbour even knows ID scope and registration ID."""
    device = provisioned(emulator, tmp_path, "knocked-at")
    neighbour, own = make_device(tmp_path, "knocked-at"), start(state_dir=tmp_path / "neighbour")
    enroll(own, neighbour)
    with connected(emulator, device) as client:
        send(client, "before")
        with at_dps(emulator, neighbour) as wire:
            status, answer = wire.outcome()
        assert (status, answer["errorCode"]) == (401, 401002)
        with on_the_wire(emulator, neighbour) as wire:
            assert wire.code == 5
        send(client, "after")
        assert client.connected, "nobody was thrown out"
    assert bodies(emulator, "knocked-at") == ["before", "after"]
    for plane, path in (("dps", "/enrollments/knocked-at"), ("hub", "/devices/knocked-at")):
        for authorization in ("", token(emulator, plane, key=key_of(own, plane))):
            assert ask(emulator, "GET", path, authorization=authorization).status_code == 401
    bearer = f"Bearer {running.read(own.state_dir).token}"  # type: ignore[union-attr]
    for path in ("/emulator/stop", "/emulator/reset", "/emulator/faults"):
        assert ask(emulator, "POST", path, {}, authorization=bearer).status_code == 401
    assert emulator.emulator.running()


def test_a_neighbour_who_takes_the_address_of_one_that_stopped_deceives_nobody(start: Start, tmp_path: Path) -> None:
    """Between stop and start an address is anybody's. The neighbour's CA is not trusted, so nothing is said to it."""
    mine = start(state_dir=tmp_path / "mine")
    device = provisioned(mine, tmp_path, "deceived")
    facts = running.read(mine.state_dir)
    assert facts is not None
    mine.terminate()
    thief = start(host=mine.host, state_dir=tmp_path / "thief")
    enroll(thief, device)
    with pytest.raises(ClientError) as failure:
        register(mine, device)
    causes = [failure.value.__cause__, failure.value.__cause__.__cause__]  # type: ignore[union-attr]
    assert any("CERTIFICATE_VERIFY_FAILED" in str(cause) for cause in causes)
    with pytest.raises(requests.exceptions.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        ask(mine, "GET", "/enrollments/deceived")
    facts.write(mine.state_dir)
    with running.lock_of(mine.state_dir), pytest.raises(EmulatorError, match="CERTIFICATE_VERIFY_FAILED"):
        mine.emulator.faults()  # with the token of its owner
    assert process.listens(facts), "the ports are those of before"
    assert not process._answers(mine.state_dir, facts), "a start would not take the thief for its own"
    log = thief.log()
    assert "deceived" not in log.partition("PUT /enrollments/deceived")[2], "not even the name of the device was said"
    assert facts.token not in log
    again = Emulator.start(mine.state_dir)
    try:
        assert again.overview.host != mine.host
        assert [record["registrationId"] for record in again.registrations()] == ["deceived"]
    finally:
        again.stop()


# --- a neighbour, on the disk -----------------------------------------------------------------------------------------


@pytest.fixture
def street() -> Iterator[Path]:
    """A folder that every user may look into."""
    folder = Path(tempfile.mkdtemp(prefix="dpsx-street-"))
    folder.chmod(0o755)
    yield folder
    here = [one for one in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(one.info["cmdline"] or ())]
    for emulator in here:
        emulator.terminate()
    psutil.wait_procs(here, timeout=20)
    shutil.rmtree(folder)


def test_another_user_can_neither_read_nor_change_nor_take_the_place_of_an_emulator(street: Path) -> None:
    """Both are in one group and have the umask 0002, so that the group may write wherever nothing forbids it."""
    alice, bob = User(61001, 61000), User(61002, 61000)
    work = alice.home(street) / "work"
    state, pid = work / "emulator", alice.starts(work)
    assert pid.isdigit(), pid
    assert psutil.Process(int(pid)).uids().effective == alice.number
    assert [path.stat().st_uid for path in (work, state, *state.iterdir())].count(alice.number) >= 11
    secret = ["ca.key.pem", "server.key.pem", "emulator.db", "running.json", "emulator.log", "start.log"]
    assert {name: (state / name).stat().st_mode & 0o777 for name in secret} == dict.fromkeys(secret, 0o600)
    assert [folder.stat().st_mode & 0o777 for folder in (work, state)] == [0o700, 0o700]
    attempts = [
        *(("cat", str(state / name)) for name in secret),
        *(("cp", "/dev/null", str(state / name)) for name in secret),
        ("cat", f"/proc/{pid}/environ"),
        ("ls", f"/proc/{pid}/fd/"),
        ("ls", str(work)),
        ("touch", str(state / "new")),
        ("mv", str(state), str(work / "away")),
        ("rm", "-rf", str(state)),
        ("kill", pid),
    ]
    for attempt in attempts:
        done = bob.does(*attempt)
        assert done.returncode != 0, attempt
        assert "Permission denied" in done.stderr or "not permitted" in done.stderr, done.stderr
    assert bob.does("ls", str(street / "home-61001")).returncode == 0, "bob was there, and met the closed door"
    shown = bob.does("cat", f"/proc/{pid}/cmdline").stdout  # which everybody may read
    overview = Emulator.attach(state).overview
    for key in (overview.dps_connection_string, overview.iothub_connection_string):
        assert key.partition("SharedAccessKey=")[2] not in shown


def test_an_emulator_that_a_neighbour_has_put_there_is_refused(street: Path) -> None:
    """In a folder that others may write to, where not even the names can be trusted."""
    alice, bob = User(61001, 61000), User(61002, 61000)
    work = alice.home(street) / "work"
    assert alice.does("mkdir", "-m", "0775", str(work)).returncode == 0
    theirs = work / "emulator"
    process = psutil.Process(int(bob.starts(work)))
    assert bob.does("chmod", "0777", str(theirs)).returncode == 0
    assert "belongs to another user of this machine" in alice.starts(work)
    assert bob.does("mv", str(theirs / "emulator.lock"), str(theirs / "away")).returncode == 0
    _, alive = psutil.wait_procs([process], timeout=20)
    assert not alive, "without its lock it ends"
    before = sorted(theirs.iterdir())
    assert "belongs to another user of this machine" in alice.starts(work)
    assert sorted(theirs.iterdir()) == before, "and nothing was started in it"
    assert bob.does("mv", str(theirs / "away"), str(theirs / "emulator.lock")).returncode == 0


def test_what_the_group_may_change_is_taken_back_from_it(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o777)
    emulator = Emulator.start(state)
    emulator.stop()
    assert state.stat().st_mode & 0o7777 == 0o755
    assert (state / "start.log").stat().st_mode & 0o777 == 0o600


@OF_LINUX
def test_a_home_that_two_machines_share_is_one_line(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its 127.x.y.z is another one here, perhaps a neighbour's."""
    emulator = start()
    (tmp_path / "boot_id").write_text("another machine\n")
    monkeypatch.setattr(running, "_BOOT_ID", tmp_path / "boot_id")
    for attempt in (Emulator.start, Emulator.attach):
        with pytest.raises(LearnerError, match="runs on another machine, which shares this folder: stop it there"):
            attempt(emulator.state_dir)


def test_a_home_that_cannot_be_locked_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that is mounted over NFS from a server without locks."""
    fcntl = pytest.importorskip("fcntl")

    def no_locks(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    (tmp_path / "emulator.lock").touch()
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(LearnerError) as failure:
        running.read(tmp_path)
    assert f"The state directory {tmp_path} cannot be read (No locks available)" in str(failure.value)
