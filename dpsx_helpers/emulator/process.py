"""The background process of an emulator: start it so that it outlives its starter, and wait until it is ready."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dpsx_helpers.emulator import running, trouble
from dpsx_helpers.emulator.running import Running
from dpsx_helpers.errors import LearnerError

START_WITHIN = 120.0  # seconds: one start takes one, but a hundred learners of a class begin at the same moment
STOP_WITHIN = 10.0  # seconds
# What the process gets of our environment. No more: a pass phrase may be among the rest.
_PASSED_ON = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "LD_LIBRARY_PATH", "PYTHONPATH",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
)  # fmt: skip
_children: dict[int, subprocess.Popen[bytes]] = {}  # kept so that a process that has ended is also reaped


class EmulatorError(LearnerError):
    """The emulator cannot do what was asked. One sentence."""


def spawn(state_dir: Path, host: str | None, idle_hours: float) -> Running:
    """Start the process and wait until it is ready, or until another is, which somebody starts at the same moment."""
    command = [sys.executable, "-m", "dpsx_helpers.emulator", "run", "--state-dir", str(state_dir)]
    command += ["--idle-hours", str(idle_hours), "--started-by", "notebook"]
    command += ["--host", host] if host else ["--next-free-host"]
    return _wait_until_ready(state_dir, _started(state_dir, command))


def _started(state_dir: Path, command: list[str]) -> subprocess.Popen[bytes]:
    """The process. All three descriptors are redirected and the session is its own: otherwise it would die with the
    kernel that started it, or keep that kernel's output open.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        running.keep_others_out(state_dir)
        with open(state_dir / "start.log", "wb", opener=_private) as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=state_dir,
                env=_environment(),
                start_new_session=True,
            )
    except OSError as error:
        raise EmulatorError(_cannot(state_dir, error)) from None


def _private(path: str, flags: int) -> int:
    """To append, because two that start at once share the file."""
    return os.open(path, flags | os.O_APPEND, 0o600)


def _environment() -> dict[str, str]:
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    package = str(Path(__file__).parents[2])
    passed["PYTHONPATH"] = os.pathsep.join(filter(None, [package, passed.get("PYTHONPATH", "")]))
    return passed


def _wait_until_ready(state_dir: Path, child: subprocess.Popen[bytes]) -> Running:
    began = time.monotonic()
    while (waited := time.monotonic() - began) < START_WITHIN:
        ended = child.poll() is not None  # first, so that what is read next is not older
        facts = running.read(state_dir)
        if facts is not None and listens(facts):
            if facts.pid != child.pid:  # somebody else started one at the same moment
                child.terminate()
                child.wait()
                return facts
            if _answers(state_dir, facts):
                _children[child.pid] = child
                return facts
        if ended and not running.is_held(state_dir):
            raise EmulatorError(_why_ended(state_dir, child.returncode))
        time.sleep(0.02 + waited / 20)  # less and less often: a hundred who wait must not slow what they wait for
    child.kill()
    child.wait()
    log = state_dir / "emulator.log"
    raise EmulatorError(f"The emulator was not ready within {START_WITHIN:g} seconds: see {log}.")


def _why_ended(state_dir: Path, status: int) -> str:
    """The last line that it said, for which there may have been no room."""
    try:
        lines = (state_dir / "start.log").read_text(errors="replace").strip().splitlines()
        with tempfile.TemporaryFile(dir=state_dir) as probe:
            probe.write(bytes(1 << 16))
    except OSError as error:
        return _cannot(state_dir, error)
    return lines[-1] if lines else f"The emulator ended at once (exit status {status}): see {state_dir}/emulator.log."


def _cannot(state_dir: Path, error: OSError) -> str:
    reason = trouble.why(state_dir, error)
    return (
        f"The emulator cannot be started: {reason}, or set DPSX_WORK_DIR to another folder (or give another "
        "--state-dir), and run this again."
    )


def listens(facts: Running) -> bool:
    """Whether somebody does at its ports: not yet while it starts, and no longer while it stops."""
    try:
        for port in (facts.mqtt_port, facts.https_port):
            socket.create_connection((facts.host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _answers(state_dir: Path, facts: Running) -> bool:
    """Whether it is ours that listens there: a process that has just lost the race for an address moves to another."""
    from dpsx_helpers.emulator import control  # which knows this module

    try:
        control.request(state_dir, facts, "emulator/ping", {})
    except EmulatorError:
        return False
    return True


def stop(state_dir: Path, whose: str | None = None) -> None:
    """End the process, if there is one, and wait until its ports are free.

    One that is only just starting is ended when it is ready. `whose` is the token of the one that is meant: any other
    is left alone, and so is one that somebody starts while this one ends. Raises EmulatorError when it does not end.
    """
    from dpsx_helpers.emulator import control  # which knows this module

    told, deadline = None, time.monotonic() + STOP_WITHIN
    while running.is_held(state_dir):
        facts = running.read(state_dir)
        if facts is not None and whose not in (None, facts.token):
            break
        if facts is not None and told is None:
            control.request(state_dir, facts, "emulator/stop")
            told, whose, deadline = facts, facts.token, time.monotonic() + STOP_WITHIN
        elif time.monotonic() > deadline:
            if told is None:
                raise EmulatorError(f"The emulator of {state_dir} neither becomes ready nor ends: end its process.")
            raise EmulatorError(f"The emulator (process {told.pid}) was told to stop and has not: end that process.")
        time.sleep(0.02)
    child = _children.pop(told.pid, None) if told else None
    if child is not None:
        child.wait(STOP_WITHIN)
    for pid in [pid for pid, other in list(_children.items()) if other.poll() is not None]:
        _children.pop(pid, None)
