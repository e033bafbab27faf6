"""What one learner needs of a machine: `python benchmarks/learner.py [LAST]`, a Markdown table on standard output.

A real JupyterLab is started on this machine, and the notebooks from 00 to LAST (05 unless another is given) are run in
kernels of its own, one after the other and cell by cell, as a learner does who closes nothing. Memory is the
proportional set size (PSS) of JupyterLab, its kernels with all that they start, and the emulator; it is looked at five
times a second, and each line holds the most that was there at one time. CPU seconds are those of all these processes.
The browser is the learner's own and not counted. Linux only (PSS is read from /proc).

Kubernetes counts the working set of a container, which is about that:
https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/
"""

import argparse
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import psutil
from jupyter_client.blocking.client import BlockingKernelClient

from dpsx_helpers import lab
from dpsx_helpers.emulator import Emulator, EmulatorError

EVERY = 0.2  # seconds between two looks
CELL_WITHIN = 180  # seconds
READY_WITHIN = 60  # seconds
SETTLED = 3  # seconds after which a JupyterLab that has just begun to answer has done with starting
MB = 1_000_000


@dataclass(frozen=True)
class Row:
    """Until the end of one notebook. Memory in bytes of PSS; `cpu` and `wall` in seconds, those of this notebook."""

    name: str
    server: int
    kernels: int
    emulator: int
    total: int
    cpu: float
    wall: float

    def as_markdown(self) -> str:
        parts = (self.server, self.kernels, self.emulator, self.total)
        memory = " | ".join(f"{round(part / MB)}" for part in parts)
        return f"| {self.name} | {memory} | {self.cpu:.1f} | {self.wall:.1f} |"


HEAD = (
    "| after | JupyterLab, MB | kernels, MB | emulator, MB | at most together, MB | CPU, s | run time, s |\n"
    "|---|---|---|---|---|---|---|"
)


class Watch:
    """Looks at a JupyterLab and all that it has started, in a thread of its own, until it is left."""

    def __init__(self, server: psutil.Process) -> None:
        self._server = server
        self._most = [0, 0, 0, 0]
        self._cpu: dict[int, float] = {}  # also of processes that have ended since
        self._guard, self._end = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def take(self) -> tuple[list[int], float]:
        """The most of server, kernels, emulator and all together since the last time; CPU seconds since the start."""
        self._look()
        with self._guard:
            most, self._most = self._most, [0, 0, 0, 0]
            return most, sum(self._cpu.values())

    def _watch(self) -> None:
        while not self._end.wait(EVERY):
            self._look()

    def _look(self) -> None:
        with self._guard:
            now = [self._size(self._server), 0, 0]
            for process in self._server.children(recursive=True):
                now[2 if _is_emulator(process) else 1] += self._size(process)
            self._most = [max(pair) for pair in zip(self._most, [*now, sum(now)], strict=True)]

    def _size(self, process: psutil.Process) -> int:
        with suppress(psutil.Error):  # it has ended meanwhile
            times = process.cpu_times()
            self._cpu[process.pid] = times.user + times.system
            return int(process.memory_full_info().pss)
        return 0


def _is_emulator(process: psutil.Process) -> bool:
    """It stays a child of the kernel that started it for as long as that lives, and here all kernels stay open."""
    with suppress(psutil.Error):
        return "dpsx_helpers.emulator" in process.cmdline()
    return False


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: its address with the token, its process, where its kernels leave their connection files."""

    address: str
    token: str
    process: psutil.Process
    runtime: Path

    def request(self, path: str, document: Any = None) -> Any:
        data = None if document is None else json.dumps(document).encode()
        headers = {"Authorization": f"token {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.address}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=READY_WITHIN) as answer:
            return json.load(answer)

    def kernel(self, path: str) -> BlockingKernelClient:
        """A kernel for this notebook, as when it is opened in the browser."""
        session = self.request(
            "/api/sessions", {"path": path, "name": path, "type": "notebook", "kernel": {"name": "python3"}}
        )
        client = BlockingKernelClient(connection_file=str(self.runtime / f"kernel-{session['kernel']['id']}.json"))
        client.load_connection_file()
        client.start_channels(hb=False)  # on a busy machine a missed beat is not the end of a kernel
        client.wait_for_ready(timeout=READY_WITHIN)
        return client


@contextmanager
def jupyterlab(folder: Path) -> Iterator[Lab]:
    """JupyterLab as `dpsx lab` starts it, on a free port of this machine; all that it writes is in this folder."""
    token, port = secrets.token_hex(16), _free_port()
    own = {
        name: str(folder / name.lower())
        for name in (
            "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR",
            "IPYTHONDIR", "DPSX_WORK_DIR",
        )
    }  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DPSX_")}
    environment = {**kept, **own, "JUPYTER_TOKEN": token}
    line = lab.command(lab.notebooks_folder(), ["--no-browser", f"--ServerApp.port={port}"], environment)
    with (folder / "jupyterlab.log").open("wb") as log:
        server = subprocess.Popen(line, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            found = Lab(f"http://127.0.0.1:{port}", token, psutil.Process(server.pid), folder / "jupyter_runtime_dir")
            _wait_for(found, server, folder / "jupyterlab.log")
            yield found
        finally:
            with suppress(EmulatorError):
                Emulator.attach(folder / "dpsx_work_dir" / "emulator").stop()
            server.terminate()
            with suppress(subprocess.TimeoutExpired):
                server.wait(20)
            with suppress(ProcessLookupError):  # whatever of it is left
                os.killpg(server.pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(found: Lab, server: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + READY_WITHIN
    while time.monotonic() < until and server.poll() is None:
        with suppress(OSError):
            found.request("/api/status")
            return
        time.sleep(0.1)
    raise SystemExit(f"JupyterLab did not start:\n{log.read_text(errors='replace')}")


def run(client: BlockingKernelClient, notebook: Path) -> None:
    """All code cells in their order. Ends this program when one of them fails."""
    for place, cell in enumerate(nbformat.read(notebook, as_version=4).cells):  # type: ignore[no-untyped-call]
        if cell.cell_type == "code":
            reply = client.execute_interactive(
                cell.source, allow_stdin=False, timeout=CELL_WITHIN, output_hook=lambda _: None
            )
            if reply["content"]["status"] != "ok":
                said = "\n".join(reply["content"].get("traceback", ()))
                raise SystemExit(f"{notebook.name}, cell {place}, failed:\n{said}")


def measure(last: int) -> Iterator[Row]:
    """JupyterLab alone, then a row for each notebook, with all kernels left open."""
    notebooks = sorted(lab.notebooks_folder().glob("[0-9][0-9]-*.ipynb"))[: last + 1]
    clients = []
    with tempfile.TemporaryDirectory() as scratch, jupyterlab(Path(scratch)) as server:
        with Watch(server.process) as watch:
            time.sleep(SETTLED)
            watch.take()
            spent, since = 0.0, time.monotonic()
            for name, notebook in [("JupyterLab alone", None), *((path.stem[:2], path) for path in notebooks)]:
                if notebook is not None:
                    clients.append(server.kernel(f"notebooks/{notebook.name}"))
                    run(clients[-1], notebook)
                most, cpu = watch.take()
                yield Row(name, *most, cpu=cpu - spent, wall=time.monotonic() - since)
                spent, since = cpu, time.monotonic()
        for client in clients:
            client.stop_channels()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("last", nargs="?", type=int, default=5, choices=range(11), metavar="LAST")
    last = parser.parse_args().last
    if sys.platform != "linux":
        raise SystemExit("PSS is read from /proc, so this measures on Linux only.")
    print(HEAD)
    for row in measure(last):
        print(row.as_markdown(), flush=True)


if __name__ == "__main__":
    main()
