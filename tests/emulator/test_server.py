"""The life of the process: starting, being found, being ended in every way, and what survives."""

import asyncio
import json
import logging
import os
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import certifi
import psutil
import pytest
import wire
from azure.iot.device.exceptions import ConnectionDroppedError, CredentialError
from clients import bodies, connected, register, send, service
from connections import Sender, at_dps, hub_user, on_the_wire, paho_client, provisioned
from pki import make_device
from processes import COMMAND, RunningEmulator, free_host, listens, run_command, status, wait_for
from rest import ask, done

from dpsx_helpers.emulator import (
    Emulator,
    EmulatorError,
    addresses,
    control,
    doors,
    dps,
    listener,
    process,
    running,
    server,
    stop,
    tls,
)
from dpsx_helpers.emulator.options import Options
from dpsx_helpers.emulator.running import Running
from dpsx_helpers.emulator.services import Services
from dpsx_helpers.emulator.store import Store

Start = Callable[..., RunningEmulator]


def failed_start(state_dir: Path, *arguments: str) -> str:
    """`run` that must not start: exit status 1 and one line."""
    done = run_command("run", "--state-dir", str(state_dir), *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    return line


# --- starting ---------------------------------------------------------------------------------------------------------


def test_the_overview_comes_when_clients_can_connect(start: Start) -> None:
    emulator = start()
    overview = emulator.emulator.overview
    assert overview.id_scope in emulator.overview
    assert f"{emulator.host}:{overview.https_port}" in emulator.overview
    assert str(overview.ca_file) in emulator.overview
    assert listens(emulator.host, 8883)
    assert listens(emulator.host, overview.https_port)


@pytest.mark.parametrize(
    ("host", "port", "endpoint"),
    [("127.0.0.1", 8443, "127.0.0.1:8443"), ("127.0.0.1", 443, "127.0.0.1"), ("::1", 443, "[::1]")],
)
def test_the_service_endpoint_names_a_port_that_clients_would_not_guess(host: str, port: int, endpoint: str) -> None:
    running = Running("0ne00111111", host, 8883, port, None, {}, 1, "pytest", "k1", "k2", "t")
    assert running.endpoint == endpoint
    assert running.dps_connection_string.startswith(f"HostName={endpoint};")


def test_everything_is_private_to_its_owner(start: Start) -> None:
    emulator = start()
    assert emulator.state_dir.stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.stat().st_mode & 0o777 for path in emulator.state_dir.iterdir()}
    assert len(modes) >= 8
    assert set(modes.values()) == {0o600}, modes


def test_a_taken_port_is_one_line_that_names_the_holder(start: Start, tmp_path: Path) -> None:
    first = start()
    line = failed_start(tmp_path / "other", "--host", first.host)
    assert line.startswith(f"Port 8883 on {first.host} cannot be used (taken by python")
    assert f"process {first.process.pid})" in line
    assert not (tmp_path / "other" / "ca.pem").exists(), "a start that fails leaves nothing behind"
    assert status(tmp_path / "other")["running"] is False


def test_an_explicit_https_port_does_not_move_but_the_default_does(start: Start, tmp_path: Path) -> None:
    host = free_host()
    with socket.create_server((host, 8443)):
        assert f"Port 8443 on {host}" in failed_start(tmp_path / "other", "--host", host, "--https-port", "8443")
        moved = start(host=host).emulator.overview.https_port
        assert moved != 8443


def test_a_second_start_on_the_same_state_names_the_process_and_changes_nothing(start: Start) -> None:
    first = start()
    before = {path.name: path.read_bytes() for path in first.state_dir.glob("*.pem")}
    line = failed_start(first.state_dir, "--host", free_host())
    assert f"already running on {first.state_dir} (process {first.process.pid} at {first.host})" in line
    assert {path.name: path.read_bytes() for path in first.state_dir.glob("*.pem")} == before
    assert first.emulator.running()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "means every address"),
        (["--host", "::"], "means every address"),
        (["--host", "https://127.0.0.1"], "is no address of this machine"),
        (["--host", "no-such-host.invalid"], "is no address of this machine"),
        (["--host", "127.0.0.1", "--state-dir", "/dev/null/x"], "cannot be used"),
    ],
)
def test_impossible_places_are_one_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    assert words in failed_start(tmp_path / "state", *arguments)


@pytest.mark.parametrize("switch", [[], ["--allow-network"]], ids=["without the switch", "with it"])
def test_nothing_listens_but_the_ports_of_the_overview(start: Start, tmp_path: Path, switch: list[str]) -> None:
    """Every socket of the process and of all that it has started, with a device and a notebook connected."""
    emulator = start("--ws-port", "0", "--hubs", "2", *switch)
    overview = emulator.emulator.overview
    device = provisioned(emulator, tmp_path, "listened-to")
    with connected(emulator, device) as client:
        send(client, "hello")
        own = psutil.Process(emulator.process.pid)
        sockets = [one for each in (own, *own.children(recursive=True)) for one in each.net_connections("all")]
    seen = {(one.laddr.ip, one.laddr.port) for one in sockets if one.status == psutil.CONN_LISTEN}
    assert seen == {(emulator.host, port) for port in (overview.mqtt_port, overview.https_port, overview.ws_port)}
    inet = [one for one in sockets if one.family in (socket.AF_INET, socket.AF_INET6)]
    assert {one.laddr.ip for one in inet} == {emulator.host}, "none is bound to anything else, for UDP or outwards"
    assert len(inet) > len(seen), "the device's connection is among them"


def test_an_address_of_the_network_needs_the_switch(tmp_path: Path) -> None:
    addresses = [a.address for group in psutil.net_if_addrs().values() for a in group if a.family == socket.AF_INET]
    outside = next((address for address in addresses if not address.startswith("127.")), None)
    if outside is None:
        pytest.skip("this machine has no address but loopback")
    assert "add --allow-network" in failed_start(tmp_path / "state", "--host", outside)


def test_another_id_scope_on_existing_state_is_refused(start: Start) -> None:
    first = start("--id-scope", "0ne0SCOPE01")
    assert first.emulator.overview.id_scope == "0ne0SCOPE01"
    first.terminate()
    line = failed_start(first.state_dir, "--host", free_host(), "--id-scope", "0ne0OTHER02")
    assert "belongs to ID scope 0ne0SCOPE01, not 0ne0OTHER02" in line
    assert start(host=first.host).emulator.overview.id_scope == "0ne0SCOPE01"


def test_a_damaged_or_foreign_database_is_one_line(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "emulator.db").write_bytes(b"this is no database" * 100)
    assert "emulator.db cannot be used" in failed_start(state, "--host", free_host())
    assert (state / "emulator.db").read_bytes() == b"this is no database" * 100


def test_starting_from_python_attaches_to_what_runs(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        emulators = list(pool.map(lambda _: Emulator.start(tmp_path / "state"), range(3)))
    try:
        assert len({emulator.overview.pid for emulator in emulators}) == 1
        assert {emulator.overview.started_by for emulator in emulators} == {"notebook"}
        with pytest.raises(EmulatorError, match="stop it, or leave the host out"):
            Emulator.start(tmp_path / "state", host="127.9.9.9")
    finally:
        emulators[0].stop()
    assert not any(emulator.running() for emulator in emulators)
    with pytest.raises(EmulatorError, match="No emulator is running"):
        Emulator.attach(tmp_path / "state")


@pytest.mark.skipif(os.name != "posix" or os.uname().sysname != "Linux", reason="only Linux has all of 127.0.0.0/8")
def test_starting_from_python_takes_the_next_free_address(tmp_path: Path) -> None:
    emulators = [Emulator.start(tmp_path / name) for name in ("one", "two")]
    try:
        assert emulators[0].overview.host != emulators[1].overview.host
    finally:
        for emulator in emulators:
            emulator.stop()


def test_the_process_gets_no_secret_of_its_starter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSX_PASS_PHRASE", "canary-pass-phrase")
    emulator = Emulator.start(tmp_path / "state")
    try:
        process = psutil.Process(emulator.overview.pid)
        assert "canary-pass-phrase" not in json.dumps([process.environ(), process.cmdline()])
        text = repr(emulator) + repr(emulator.overview) + json.dumps(process.cmdline())
        keys = [value.partition("SharedAccessKey=")[2] for value in emulator.environment().values()]
        assert not any(key in text for key in keys if key)
        assert os.getsid(process.pid) != os.getsid(0)
    finally:
        emulator.stop()


def test_the_bundle_keeps_what_was_trusted_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    company = make_device(tmp_path, "company proxy CA", ca=True).pem
    (tmp_path / "company.pem").write_text(company)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "company.pem"))
    emulator = Emulator.start(tmp_path / "state")
    monkeypatch.setenv("SSL_CERT_FILE", str(emulator.overview.bundle_file))  # as a notebook does
    emulator.stop()
    emulator = Emulator.start(tmp_path / "state")
    emulator.stop()
    bundle = emulator.overview.bundle_file.read_text()
    ours = emulator.overview.ca_file.read_text().strip()
    assert bundle.count(ours) == 1
    roots = Path(certifi.where()).read_text()
    assert bundle.index(company.strip()) < bundle.index(ours) < bundle.index(roots.strip()[-200:])


def test_a_directory_that_was_there_before_keeps_its_mode(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o755)
    assert run_command("run", "--state-dir", str(state), "--host", "10.0.0.1").returncode == 1
    assert state.stat().st_mode & 0o7777 == 0o755


def test_an_address_of_another_machine_is_one_line(tmp_path: Path) -> None:
    done = run_command("run", "--state-dir", str(tmp_path / "state"), "--host", "192.0.2.1", "--allow-network")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "192.0.2.1 is no address of this machine" in done.stderr


def test_a_damaged_ca_is_one_line_that_says_what_to_delete(start: Start) -> None:
    emulator = start()
    emulator.terminate()
    (emulator.state_dir / "ca.pem").write_text("garbage")
    done = run_command("run", "--state-dir", str(emulator.state_dir), "--host", emulator.host)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "delete ca.pem and ca.key.pem" in done.stderr


def test_a_ca_with_the_key_of_another_is_one_line(start: Start, tmp_path: Path) -> None:
    emulators = [start(state_dir=tmp_path / name) for name in ("one", "two")]
    for emulator in emulators:
        emulator.terminate()
    shutil.copy(emulators[0].state_dir / "ca.key.pem", emulators[1].state_dir)
    assert "delete ca.pem and ca.key.pem" in failed_start(emulators[1].state_dir, "--host", emulators[1].host)


@pytest.mark.parametrize("command", ["env", "status", "stop", "reset"])
def test_a_state_directory_that_cannot_be_looked_into_is_one_line(tmp_path: Path, command: str) -> None:
    (tmp_path / "emulator.lock").mkdir()
    done = run_command(command, "--state-dir", str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "cannot be read" in done.stderr
    assert done.stdout == ("false\n" if command == "env" else "")


# --- ending -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_and_frees_the_ports(start: Start, number: signal.Signals) -> None:
    emulator = start()
    port = emulator.emulator.overview.https_port
    emulator.process.send_signal(number)
    assert emulator.close() == 0, "though that sends a SIGTERM on top"
    assert not listens(emulator.host, 8883)
    assert not listens(emulator.host, port)
    assert status(emulator.state_dir)["running"] is False
    assert not (emulator.state_dir / "running.json").exists()


def test_stop_returns_when_the_ports_are_free(start: Start) -> None:
    emulator = start()
    assert run_command("stop", "--state-dir", str(emulator.state_dir)).returncode == 0
    assert not listens(emulator.host, 8883)
    assert emulator.close() == 0
    assert run_command("stop", "--state-dir", str(emulator.state_dir)).returncode == 0, "also when nothing runs"


def test_after_kill_9_status_and_stop_tell_the_truth(start: Start) -> None:
    emulator = start()
    emulator.kill()
    assert (emulator.state_dir / "running.json").exists(), "nobody tidied up"
    done = run_command("status", "--state-dir", str(emulator.state_dir))
    assert (done.returncode, done.stdout) == (3, "")
    assert "No emulator is running" in done.stderr
    assert run_command("stop", "--state-dir", str(emulator.state_dir)).returncode == 0
    assert not emulator.emulator.running()


def test_a_zombie_is_not_taken_for_a_running_emulator(tmp_path: Path) -> None:
    command = [*COMMAND, "run", "--state-dir", str(tmp_path / "state"), "--host", free_host()]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: status(tmp_path / "state")["running"])
    child.kill()
    wait_for(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
    assert status(tmp_path / "state")["running"] is False
    child.wait()


def test_stopping_one_that_never_becomes_ready_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STOP_WITHIN", 0.2)
    with running.lock_of(tmp_path), pytest.raises(EmulatorError) as failure:
        stop(tmp_path)
    assert str(failure.value) == f"The emulator of {tmp_path} neither becomes ready nor ends: end its process."


def test_it_ends_by_itself_when_nobody_comes(start: Start) -> None:
    emulator = start("--idle-hours", "0.0003")
    assert emulator.process.wait(timeout=20) == 0
    assert "nobody has connected for 0.0003 hours" in emulator.log()


def test_fifty_starts_and_stops_leave_nothing(tmp_path: Path) -> None:
    me, hosts = psutil.Process(), [free_host() for _ in range(5)]
    children, threads = set(me.children()), threading.active_count()
    descriptors = me.num_fds() if os.name == "posix" else 0

    def ten_times(host: str) -> None:
        for _ in range(10):
            Emulator.start(tmp_path / host, host=host).stop()

    with ThreadPoolExecutor(len(hosts)) as pool:
        list(pool.map(ten_times, hosts))
    assert set(me.children()) == children
    assert threading.active_count() == threads
    assert (me.num_fds() if os.name == "posix" else 0) <= descriptors  # those of earlier tests may go meanwhile
    assert not any(listens(host, 8883) for host in hosts)
    assert not any(status(tmp_path / host)["running"] for host in hosts)
    for host in hosts:
        left = {path.name for path in (tmp_path / host).iterdir()}
        assert "running.json" not in left
        assert not any(name.endswith(("-wal", "-shm")) or name.startswith(".") for name in left)


def under_way(state_dir: Path, pid: int) -> bool:
    """Whether there is an emulator. It has to be that process, at every moment."""
    facts = running.read(state_dir)
    assert facts is None or facts.pid == pid, "these are the facts of another one"
    return facts is not None


def test_a_start_that_is_under_way_is_not_taken_for_the_one_that_was_killed(start: Start) -> None:
    emulator = start()
    emulator.kill()
    command = [*COMMAND, "run", "--state-dir", str(emulator.state_dir), "--host", emulator.host]
    again = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: under_way(emulator.state_dir, again.pid))
    finally:
        again.terminate()
        again.wait()


def test_two_who_look_at_the_same_moment_do_not_take_each_other_for_an_emulator(start: Start) -> None:
    emulator = start()
    emulator.kill()
    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(lambda _: running.read(emulator.state_dir), range(2000)))
    assert seen == [None] * 2000


def test_starting_and_stopping_while_it_stops_wait_for_its_end(tmp_path: Path) -> None:
    """It takes a second to part from a device that does not close its half."""
    emulators = [Emulator.start(tmp_path / "state", host=free_host())]
    first = emulators[0].overview
    context = ssl.create_default_context(cafile=str(first.ca_file))
    try:
        with (
            socket.create_connection((first.host, first.mqtt_port)) as plain,
            context.wrap_socket(plain, server_hostname=first.host) as device,
            ThreadPoolExecutor(3) as pool,
        ):
            stops = [pool.submit(emulators[0].stop) for _ in range(2)]
            assert device.recv(1) == b"", "it says goodbye"
            emulators.append(Emulator.start(tmp_path / "state", host=first.host))
            for each in stops:
                each.result(timeout=20)
        assert emulators[1].running()
        assert emulators[1].overview.pid != first.pid
        emulators[0].stop()
        assert emulators[1].running(), "that was somebody else's"
    finally:
        for emulator in emulators:
            emulator.stop()


def test_stopping_one_that_has_gone_leaves_another_alone_that_is_only_just_starting(start: Start) -> None:
    emulator = start()
    emulator.kill()
    command = [*COMMAND, "run", "--state-dir", str(emulator.state_dir), "--host", emulator.host]
    other = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: running.is_held(emulator.state_dir))
        emulator.emulator.stop()
        assert status(emulator.state_dir)["pid"] == other.pid
    finally:
        other.terminate()
        other.wait()


def test_stopping_returns_though_somebody_has_started_another_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two looks at the lock one process may give it back and another take it."""
    request, others = control.request, list[Emulator]()

    def tell(state_dir: Path, facts: Running, path: str, *more: Any) -> Any:
        answer = request(state_dir, facts, path, *more)
        if path == "emulator/stop":
            wait_for(lambda: not running.is_held(state_dir))
            others.append(Emulator.start(state_dir))
        return answer

    first = Emulator.start(tmp_path / "state")
    with monkeypatch.context() as patched:
        patched.setattr(control, "request", tell)
        first.stop()
    assert others[0].running()
    others[0].stop()


@pytest.mark.skipif(os.name != "posix" or os.uname().sysname != "Linux", reason="only Linux has all of 127.0.0.0/8")
def test_starting_again_takes_the_address_of_before_where_devices_look_for_it(start: Start, tmp_path: Path) -> None:
    neighbour = start(state_dir=tmp_path / "neighbour")
    mine = start("--next-free-host", host=neighbour.host, state_dir=tmp_path / "mine")
    neighbour.terminate()
    mine.kill()
    again = start("--next-free-host", host=neighbour.host, state_dir=tmp_path / "mine")
    assert mine.emulator.overview.host != neighbour.host
    assert again.emulator.overview.host == mine.emulator.overview.host


# --- what survives ----------------------------------------------------------------------------------------------------


def test_a_restart_at_once_gets_the_same_ports_though_connections_linger(start: Start, tmp_path: Path) -> None:
    first = start()
    device = provisioned(first, tmp_path, "lingering")
    client = service(first)
    client.enrollment.get("lingering")  # its connection stays open
    with connected(first, device) as hub_client:
        send(hub_client, "hello")
        first.terminate()
    second = start(host=first.host)
    assert second.emulator.environment() == first.emulator.environment()
    client.close()


def test_the_first_at_the_door_do_not_keep_the_port_from_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices whose emulator was stopped knock all the time: some of them in the moment when it begins to listen."""
    options, files = Options(tmp_path, free_host(), websocket=False, started_by="notebook"), tls.Files(tmp_path)
    bound, store = addresses.bind(options), Store(tmp_path / "emulator.db")
    tls.prepare(files, bound.host, datetime.now(UTC))
    emulator = server._Emulator(options, server._facts(store, options, bound), files, store)
    door_of, at_the_door = listener.Listener.door, []

    def come_at_once(devices: listener.Listener, sock: socket.socket, **more: Any) -> doors.Door:
        made = door_of(devices, sock, **more)
        at_the_door.append(socket.create_connection(sock.getsockname()))
        asyncio.get_running_loop().call_later(0.1, emulator._stop.set)
        return made

    monkeypatch.setattr(listener.Listener, "door", come_at_once)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        asyncio.run(emulator.run(bound))
        bound.close()
        addresses.bind(options).close()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        at_the_door.pop().close()
        store.close()


def test_a_restart_elsewhere_strands_no_device(start: Start, tmp_path: Path) -> None:
    first = start()
    device = provisioned(first, tmp_path, "moved", iotHubHostName=first.host)
    first.terminate()
    second = start(host=free_host())
    shown = service(second).enrollment.get("moved")
    assert shown["iotHubs"] == [second.host]
    assert shown["registrationState"]["assignedHub"] == second.host
    with connected(second, device) as client:
        send(client, "from the new address")
    with at_dps(second, device) as wire:
        assert wire.provision()["assignedHub"] == second.host


def test_reset_deletes_what_was_made_and_keeps_what_the_emulator_is(start: Start, tmp_path: Path) -> None:
    emulator = start()
    before = emulator.emulator.environment()
    for runs in (True, False):
        device = provisioned(emulator, tmp_path, "reset-01")
        with connected(emulator, device) as client:
            send(client, "hello")
        assert len(emulator.messages()) == 1
        if not runs:
            emulator.terminate()
        assert run_command("reset", "--state-dir", str(emulator.state_dir)).returncode == 0
        assert emulator.messages() == []
    again = start(host=emulator.host, state_dir=emulator.state_dir)
    assert service(again).enrollment.query({"query": "SELECT *"}).next
    assert list(service(again).enrollment.query({"query": "SELECT *"})) == []
    assert again.emulator.environment() == before


# --- side by side, and rude clients -----------------------------------------------------------------------------------


def test_two_emulators_side_by_side_do_not_see_each_other(start: Start, tmp_path: Path) -> None:
    emulators = [start(state_dir=tmp_path / name) for name in ("left", "right")]
    for emulator in emulators:
        device = provisioned(emulator, tmp_path, "twin-device")
        with connected(emulator, device) as client:
            send(client, f"to {emulator.host}")
    for emulator in emulators:
        assert bodies(emulator) == [f"to {emulator.host}"]
    left, right = (emulator.emulator.environment() for emulator in emulators)
    assert left["PROVISIONING_IDSCOPE"] != right["PROVISIONING_IDSCOPE"]
    context = ssl.create_default_context(cafile=right["NODE_EXTRA_CA_CERTS"])
    with (
        pytest.raises(ssl.SSLCertVerificationError),
        socket.create_connection((emulators[0].host, 8883)) as plain,
        context.wrap_socket(plain, server_hostname=emulators[0].host),
    ):
        pass


def test_a_silent_device_is_closed_after_one_and_a_half_keep_alives(start: Start, tmp_path: Path) -> None:
    emulator = start()
    device = provisioned(emulator, tmp_path, "silent-01")
    client = paho_client(emulator, device, hub_user(emulator, device))
    client.connect(emulator.host, 8883, keepalive=1)
    client.loop(timeout=1)  # read the CONNACK and then say nothing more
    sock = client.socket()
    sock.settimeout(20)
    assert sock.recv(1) == b"", "the emulator closed the connection"
    assert "'silent-01' said nothing for 2 s" in emulator.log()


def test_a_client_that_does_not_trust_the_emulator_is_explained_in_the_log(start: Start) -> None:
    emulator = start()
    with (
        socket.create_connection((emulator.host, 8883)) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        ssl.create_default_context(cafile=certifi.where()).wrap_socket(plain, server_hostname=emulator.host)
    wait_for(lambda: "does not trust the emulator's CA" in emulator.log())


def test_a_certificate_that_only_openssl_reads_is_refused_in_mqtt_and_not_in_tls(start: Start, tmp_path: Path) -> None:
    emulator = start()
    device = make_device(tmp_path, "version-4")
    later = device.der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x03", 1)  # X.509 has no version 4
    device.certificate_file.write_text(ssl.DER_cert_to_PEM_cert(later))
    with pytest.raises(CredentialError):
        register(emulator, device)
    assert "cannot be read as X.509" in emulator.log()


def test_another_program_that_locks_the_database_costs_one_connection_and_is_one_line(
    start: Start, tmp_path: Path
) -> None:
    emulator = start()
    device = provisioned(emulator, tmp_path, "unlucky")
    other = sqlite3.connect(emulator.state_dir / "emulator.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # as no program should, beside a running emulator
    with pytest.raises(ConnectionDroppedError), connected(emulator, device):
        pass
    other.execute("ROLLBACK")
    other.close()
    assert emulator.log().count("nothing can be stored: ") == 1
    assert "cannot be used (database is locked): end the program that holds it" in emulator.log()
    with connected(emulator, device) as client:
        send(client, "all is well")
    assert "what comes is stored again" in emulator.log()


FAULTY = """
import sys
from dpsx_helpers.emulator.__main__ import main
from dpsx_helpers.emulator.hub_peer import HubPeer

HubPeer.subscribe = lambda self, packet: 1 / 0
sys.exit(main(sys.argv[1:]))
"""


def test_a_fault_of_the_emulator_drops_one_connection_and_is_in_the_log(tmp_path: Path) -> None:
    emulator = RunningEmulator(tmp_path / "state", program=[sys.executable, "-c", FAULTY])
    try:
        device = provisioned(emulator, tmp_path, "unlucky")
        with on_the_wire(emulator, device) as wire:
            wire.say(f"devices/{device.common_name}/messages/events/", "hello", qos=1)
            wire._client.subscribe("$iothub/twin/res/#")
            wire.gone.get(timeout=20)
        assert "a fault of the emulator itself" in emulator.log()
        assert "ZeroDivisionError" in emulator.log()
        with connected(emulator, device) as client:
            send(client, "all is well")
    finally:
        emulator.close()


def test_a_device_that_does_not_read_costs_little_memory_and_gets_every_answer_in_the_end(
    start: Start, tmp_path: Path
) -> None:
    """2,000 twins of 28 KB are 56 MB that the emulator must not hold."""
    emulator = start()
    device = provisioned(emulator, tmp_path, "slow-reader")
    patch = {"properties": {"desired": {f"part{number}": "x" * 4000 for number in range(7)}}}
    done(ask(emulator, "PATCH", f"/twins/{device.common_name}", patch))
    process, asked = psutil.Process(emulator.process.pid), 2000
    before, most = process.memory_info().rss, 0
    context = ssl.create_default_context(cafile=str(emulator.emulator.overview.ca_file))
    context.load_cert_chain(device.certificate_file, device.key_file)
    with (
        socket.create_connection((emulator.host, 8883), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=emulator.host) as connection,
    ):
        connection.sendall(
            wire.to_hub(device.common_name, host=emulator.host) + wire.subscribe("$iothub/twin/res/#", qos=0)
        )
        asking = b"".join(wire.get_twin(number, qos=0) for number in range(asked))
        connection.sendall(asking + wire.publish(wire.events(device.common_name), b"done"))
        for _ in range(20):
            time.sleep(0.1)
            most = max(most, process.memory_info().rss)
        assert not bodies(emulator), "what came last is not handled before the answers to the first are read"
        answers = iter(lambda: connection.recv(65536), b"")
        data = bytearray()
        while not data.endswith(wire.puback(7)):
            data += next(answers)
        most = max(most, process.memory_info().rss)
    assert most - before < 15_000_000
    twins = [sent for sent in wire.read(bytes(data)) if isinstance(sent, wire.Published)]
    assert len(twins) == asked
    assert all(len(twin.payload) > 28_000 for twin in twins)
    assert bodies(emulator) == ["done"]


def test_what_is_no_tls_is_dropped_and_hurts_nobody(start: Start) -> None:
    emulator = start()
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"\x10\x00", os.urandom(5000)):
        with socket.create_connection((emulator.host, 8883), timeout=10) as plain:
            plain.sendall(data)
            plain.shutdown(socket.SHUT_WR)
            while plain.recv(1000):
                pass
    assert emulator.emulator.running()


def test_stopping_while_a_device_sends_closes_the_connection_cleanly(start: Start, tmp_path: Path) -> None:
    emulator = start()
    device = provisioned(emulator, tmp_path, "cut-off")
    sender = Sender(emulator, device)
    thread = threading.Thread(target=sender.send_until, args=(lambda: False,))
    thread.start()
    wait_for(lambda: len(sender.acknowledged) > 100)
    assert emulator.terminate() == 0
    thread.join(timeout=20)
    assert not thread.is_alive(), "the client noticed"
    assert set(bodies(emulator)) >= sender.acknowledged


def test_the_log_stays_private_when_it_begins_anew(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        handler = server._PrivateLog(tmp_path / "emulator.log", maxBytes=100, backupCount=1)
        for _ in range(5):
            handler.emit(logging.LogRecord("x", logging.INFO, "x", 1, "y" * 60, None, None))
        handler.close()
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_line_of_the_log_is_what_logging_itself_makes_of_its_format() -> None:
    theirs = logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)-7s %(service)-7s %(message)s", "%H:%M:%S")
    ours = server._Lines()
    try:
        raise ValueError("why")
    except ValueError:
        failure = sys.exc_info()
    moments = [0.0, 1_700_000_000.25, 1_700_000_000.999, 1_700_000_001.0, 1_700_003_599.5, 1_700_000_000.0]
    for created, part, error in product(moments, ("dps", "service"), (None, failure)):
        record = logging.LogRecord(
            f"dpsx_helpers.emulator.{part}", logging.WARNING, "x", 1, "%s < %d", ("c1", 7), error
        )
        record.created, record.msecs, record.service = created, created % 1 * 1000, part
        assert ours.format(record) == theirs.format(record)
        assert ("ValueError: why" in ours.format(record)) == (error is not None)


def test_a_client_that_never_comes_to_its_connect_is_closed_however_it_drips(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a second instead of a minute; a byte every tenth of it."""
    caplog.set_level("INFO")
    files = tls.Files(tmp_path)
    tls.prepare(files, "127.0.0.1", datetime.now(UTC))
    store = Store(tmp_path / "emulator.db")
    services = Services(store, dps.Service("0ne00111111", {}))

    async def drip() -> float:
        devices = listener.Listener(services, tls.server_context(files), lambda: None, connect_within=0.5)
        loop, sock = asyncio.get_running_loop(), socket.create_server(("127.0.0.1", 0))
        door = devices.door(sock)
        door.open()
        context = ssl.create_default_context(cafile=str(files.ca))
        reader, writer = await asyncio.open_connection(*sock.getsockname(), ssl=context)
        began = loop.time()
        for byte in b"\x10\x40\x00\x04MQTT\x04" + bytes(60):
            if reader.at_eof():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.05)
        writer.close()
        await door.close()
        await devices.close()
        return loop.time() - began

    assert 0.4 < asyncio.run(drip()) < 2.5
    store.close()
    assert "no CONNECT came within 0 s" in caplog.text
