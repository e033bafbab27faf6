"""Real emulator processes for tests: each on a loopback address and in a state directory of its own."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dpsx_helpers.emulator import Emulator, EmulatorError

COMMAND = [sys.executable, "-m", "dpsx_helpers.emulator"]
READY_WITHIN = 20.0


def free_host() -> str:
    """A loopback address on which nothing listens. 127.0.x.y is left to whoever works on this machine."""
    while True:
        host = f"127.{random.randint(16, 254)}.{random.randint(0, 255)}.{random.randint(1, 254)}"
        if not listens(host, 8883):
            return host


def listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((host, port)) == 0


def run_command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """One command of the emulator, to its end."""
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False, **options)


class RunningEmulator:
    """`python -m dpsx_helpers.emulator run` in a process of its own, or another `program` with the same commands.

    `errors`: the file for what it says on standard error.
    """

    def __init__(
        self,
        state_dir: Path,
        host: str | None = None,
        *arguments: str,
        program: Sequence[str] = COMMAND,
        errors: Path | None = None,
    ) -> None:
        self.state_dir = state_dir
        self.errors = errors
        self.host = host or free_host()
        command = [*program, "run", "--state-dir", str(state_dir), "--host", self.host, *arguments]
        with open(errors or os.devnull, "ab") as said:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
        self.overview = self._read_overview()
        self.emulator = Emulator.attach(state_dir)

    def _read_overview(self) -> str:
        assert self.process.stdout is not None
        lines: list[str] = []
        for line in self.process.stdout:
            lines.append(line)
            if line.startswith("CA certificate"):
                return "".join(lines)
        raise EmulatorError(f"the emulator ended with {self.process.wait()}")

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.emulator.environment()}

    def log(self) -> str:
        return (self.state_dir / "emulator.log").read_text()

    def messages(self, device: str | None = None) -> list[dict[str, Any]]:
        return self.emulator.messages(device)

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=20)
        return self.close()

    def close(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        status = self.process.wait(timeout=20)
        if self.process.stdout:
            self.process.stdout.close()
        return status


def status(state_dir: Path) -> dict[str, Any]:
    """What `status --json` says."""
    return dict(json.loads(run_command("status", "--json", "--state-dir", str(state_dir)).stdout))


def wait_for(condition: Any, within: float = READY_WITHIN) -> None:
    """Wait until a condition of another process holds, which cannot be awaited in this one."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.01)


def unable(why: str) -> None:
    """Skip the test on a machine that lacks what it needs; continuous integration may not skip it."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
