"""Whole processes, timed from exec to exit, and what a process that runs has used."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
_WITHIN = 300.0  # seconds, after which a process is taken to hang


@dataclass(frozen=True)
class Ran:
    """A process that has ended well: seconds from exec to exit, and what it printed on standard output."""

    seconds: float
    printed: str


def run(
    command: Sequence[str], environment: Mapping[str, str] | None = None, cwd: Path | None = None, given: str = ""
) -> Ran:
    """Run it to its end, `given` on standard input. Raises RuntimeError, with the end of what it said, when it fails or
    hangs.

    Output goes to a file: a reader of pipes would take part in what is measured. The end is waited for without a
    timeout, because `subprocess` looks for it at intervals when there is one.
    """
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        stdin.write(given.encode())
        stdin.seek(0)
        began = time.perf_counter()
        process = subprocess.Popen(
            command, env=dict(environment) if environment is not None else None, cwd=cwd,
            stdin=stdin, stdout=out, stderr=err,
        )  # fmt: skip
        hung = threading.Timer(_WITHIN, process.kill)
        hung.start()
        try:
            status = process.wait()
            seconds = time.perf_counter() - began
        finally:
            hung.cancel()
            if process.poll() is None:
                process.kill()
                process.wait()
        printed, said = ((file.seek(0), file.read().decode(errors="replace"))[1] for file in (out, err))
    if status != 0:
        what = " ".join(map(os.path.basename, command[:3]))
        raise RuntimeError(f"`{what} …` ended with {status}: {said[-500:].strip()}")
    return Ran(seconds, printed)


def own_environment(**more: str) -> dict[str, str]:
    """What a program of this clone gets: the way to its modules, and nothing of what this shell has set for dpsx."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def python(code: str, **more: str) -> Ran:
    """A fresh interpreter that does this and ends."""
    return run([sys.executable, "-c", code], own_environment(**more))


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used, by all its threads. Linux tells it to the nanosecond; elsewhere psutil
    does, often in steps of 10 ms. Raises psutil.NoSuchProcess.
    """
    if sys.platform == "linux":
        with suppress(OSError, OverflowError):
            # What clock_getcpuclockid(3) gives for a process; Python has that for threads alone. The bits are in
            # https://github.com/torvalds/linux/blob/master/include/linux/posix-timers_types.h
            return time.clock_gettime(~pid << 3 | 2)
    used = psutil.Process(pid).cpu_times()
    return float(used.user + used.system)


@dataclass(frozen=True)
class Memory:
    """Of one process, in MB of 1,000,000 bytes: all that it has in memory; its own with its part of what it shares;
    its own alone. Only Linux tells the second (elsewhere it is the first).
    """

    rss: float
    pss: float
    uss: float


def memory(pid: int) -> Memory:
    seen = psutil.Process(pid).memory_full_info()
    return Memory(seen.rss / 1e6, getattr(seen, "pss", seen.rss) / 1e6, seen.uss / 1e6)


def allow_sockets(count: int) -> None:
    """Let this process, and those that it starts from now on, have so many open at once. Nothing happens on Windows.

    Raises RuntimeError when the system does not allow it.
    """
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        if hard != resource.RLIM_INFINITY and hard < count:
            raise RuntimeError(f"{count} open files are needed, and this system allows {hard}: see `ulimit -Hn`.")
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
