"""An emulator that is killed before its Nth step: a change of a file, a bound socket, a statement to its database.

`python mortal.py PHASE FOLDER HOST` tries N = 1, 2, … until the phase is over before its Nth step, and prints one JSON
object for each: `step`, before what it was (`before`), whether the phase was acknowledged (`acknowledged`), the files
that were left (`left`), the facts that could be read then (`known`), and what an ordinary start after it has (`after`).
PHASE is start, stop or reset. What is in FOLDER/state is there before each try.

The processes are forked, which spares each of them the half second of its imports.
"""

import json
import os
import shutil
import signal
import sqlite3
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from dpsx_helpers.emulator import Emulator, EmulatorError, running
from dpsx_helpers.emulator.__main__ import main

TABLES = ("enrollments", "registrations", "devices", "messages")
_CHANGES = {"os.rename", "os.remove", "os.chmod", "os.mkdir"}


class Steps:
    """Counts the steps of this process in a directory, and kills it before one of them. `say` gets what that was."""

    def __init__(self, directory: Path, last: int, say: int) -> None:
        self.armed = False
        self._directory, self._left, self._say = str(directory), last, say
        self._kind, self._in_a_row = "", 0

    def watch(self) -> None:
        sys.addaudithook(self._hear)
        self._connect_as_ever, sqlite3.connect = sqlite3.connect, self._connect

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE
        if event == "socket.bind":
            self._count(f"bind {arguments[1]}")
        elif (writes or event in _CHANGES) and str(arguments[0]).startswith(self._directory):
            self._count(f"{event} {str(arguments[0]).removeprefix(self._directory)}")

    def _connect(self, *arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = self._connect_as_ever(*arguments, **options)
        connection.set_trace_callback(self._hear_statement)
        return connection

    def _hear_statement(self, statement: str) -> None:
        """Nothing is changed by a SELECT, and between the first two of a kind is as good as between the next two."""
        kind = statement.partition(" ")[0]
        self._in_a_row = self._in_a_row + 1 if kind == self._kind else 1
        self._kind = kind
        if kind != "SELECT" and self._in_a_row <= 2:
            self._count(statement)

    def _count(self, what: str) -> None:
        if not self.armed:
            return
        self._left -= 1
        if self._left == 0:
            os.write(self._say, f"before {' '.join(what.split())}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)


class Child:
    """A forked emulator. It is killed before its step `last` of what follows `arm`, or never."""

    def __init__(self, directory: Path, host: str, last: int = 0, *, armed: bool = True) -> None:
        reading, writing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(reading)
            steps = Steps(directory, last, writing)
            steps.armed = armed
            signal.signal(signal.SIGUSR1, lambda *_: (setattr(steps, "armed", True), os.write(writing, b"armed\n")))
            if last:
                steps.watch()
            sys.stdout = os.fdopen(writing, "w")
            os._exit(main(["run", "--state-dir", str(directory), "--host", host, "--ws-port", "none"]))
        os.close(writing)
        self._said = os.fdopen(reading, "r")

    def arm(self) -> None:
        os.kill(self._pid, signal.SIGUSR1)
        while self._said.readline().strip() != "armed":
            pass

    def becomes_ready(self) -> str | None:
        """None when it is, else before which step it was killed."""
        for line in self._said:
            if line.startswith("CA certificate"):
                return None
            if line.startswith("before "):
                return line.removeprefix("before ").strip()
        raise EmulatorError("it ended by itself")

    def end(self, number: signal.Signals) -> str | None:
        """Before which step it was killed, if it was."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, number)
        return self.wait()

    def wait(self) -> str | None:
        before = [line.removeprefix("before ").strip() for line in self._said if line.startswith("before ")]
        self._said.close()
        os.waitpid(self._pid, 0)
        return before[0] if before else None


def once(phase: str, directory: Path, host: str, step: int) -> tuple[str | None, bool]:
    """One phase up to its step: before what it was killed (None: it was over before), whether it was acknowledged."""
    child = Child(directory, host, step, armed=phase == "start")
    before = child.becomes_ready()
    if phase == "start":
        if before is None:
            child.end(signal.SIGKILL)
        else:
            child.wait()
        return before, before is None
    child.arm()
    acknowledged = True
    try:
        emulator = Emulator.attach(directory)
        emulator.stop() if phase == "stop" else emulator.reset()
    except EmulatorError:
        acknowledged = False
    before = child.wait() if phase == "stop" or not acknowledged else child.end(signal.SIGKILL)
    return before, acknowledged


def facts(directory: Path) -> dict[str, str] | None:
    """What a client may have read there, whether the emulator lives or not."""
    with suppress(OSError):
        shown = running.Running(**json.loads((directory / "running.json").read_bytes()))
        return shown.environment(running.Files(directory)) | {"ca": (directory / "ca.pem").read_text()}
    return None


def rows(database: Path) -> dict[str, int]:
    """How many there are of each."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as opened:
        integrity = opened.execute("PRAGMA integrity_check").fetchall()
        assert integrity == [("ok",)], integrity
        return {table: opened.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES}


def try_all(phase: str, folder: Path, host: str) -> None:
    step, before = 0, "something"
    while before:
        step += 1
        directory = folder / f"{phase}-{step}"
        if (folder / "state").exists():  # what every try finds there
            shutil.copytree(folder / "state", directory)
        before, acknowledged = once(phase, directory, host, step)  # type: ignore[assignment]
        left, known = sorted(path.name for path in directory.glob("*")), facts(directory)
        child = Child(directory, host)
        child.becomes_ready()
        after = {
            "files": sorted(path.name for path in directory.iterdir()),
            "facts": facts(directory),
            "rows": rows(directory / "emulator.db"),
        }
        child.end(signal.SIGKILL)
        print(json.dumps({"step": step, "before": before, "acknowledged": acknowledged, "left": left, "known": known,
                          "after": after}), flush=True)  # fmt: skip


if __name__ == "__main__":
    try_all(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
