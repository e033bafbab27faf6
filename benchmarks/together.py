"""Client processes that begin at one signal."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.peers import Server

WITHIN = 300.0  # seconds, after which a client process is taken to hang
Work = tuple[Callable[..., None], tuple[Any, ...]]


@dataclass(frozen=True)
class Run:
    """Seconds from the signal until the last client was done, and processor seconds of the server meanwhile."""

    seconds: float
    cpu: float


def run(server: Server, works: Sequence[Work]) -> Run:
    """Run each function in a process of its own. Beside its arguments it gets a `Signal`, last.

    Raises RuntimeError when one ends before it is done, or hangs.
    """
    spawning = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for target, arguments in works:
        ours, theirs = spawning.Pipe()
        process = spawning.Process(target=target, args=(*arguments, Signal(theirs)), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    try:
        for pipe in pipes:
            _heard(pipe)
        cpu, begin = server.cpu(), time.monotonic()
        for pipe in pipes:
            pipe.send(None)
        seconds = max(_heard(pipe) for pipe in pipes) - begin
        return Run(seconds, server.cpu() - cpu)
    finally:
        for pipe, process in zip(pipes, processes, strict=True):
            pipe.close()
            process.join(10)
            process.kill()


class Signal:
    """The client process's side."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def wait(self) -> None:
        """Say that this process is ready, and wait for the others."""
        self._pipe.send(None)
        self._pipe.recv()

    def done(self) -> None:
        self._pipe.send(time.monotonic())  # one clock for all processes of the machine


def _heard(pipe: Connection) -> Any:
    try:
        if pipe.poll(WITHIN):
            return pipe.recv()
    except EOFError:
        raise RuntimeError("a client process has ended before it was done: see its message above") from None
    raise RuntimeError(f"a client process has said nothing for {WITHIN:g} s")
