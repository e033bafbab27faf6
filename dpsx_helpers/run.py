"""Run the notebooks from the first to the last without hands, in a folder and on an emulator of their own.

The folder is `<work>/run`. Left there: `executed/*.ipynb`, and `index.html` with all of them on one page.
"""

import ast
import asyncio
import contextlib
import importlib
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import nbformat
from filelock import FileLock, Timeout
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from dpsx_helpers import certificates, doctor, lab, takeaway, targets, tutorial
from dpsx_helpers.emulator import Emulator, EmulatorError
from dpsx_helpers.errors import LearnerError

QUICKSTART = 6  # notebooks
CELL_WITHIN = 180  # seconds; the longest is register() on Azure, which gives up by itself before that
KERNEL_WITHIN = 60  # seconds
# The SDK's own object, whatever the notebook calls it. Evaluated in the kernel of 04 after its last cell.
_RESULT = (
    "next(([r.registration_state.device_id, r.registration_state.assigned_hub, r.registration_state.sub_status] "
    "for r in list(globals().values()) if type(r).__name__ == 'RegistrationResult'), None)"
)
# What the first cells of a notebook import anyway, done while the notebook before it runs. Setting nothing up, it
# changes nothing but the time that they take.
_AHEAD = (
    "import azure.iot.device.aio, dpsx_helpers.checks, dpsx_helpers.forms, dpsx_helpers.views, dpsx_helpers.emulator"
)


class RunError(LearnerError):
    """The run cannot begin, or a notebook stopped. One sentence."""


@dataclass(frozen=True)
class Registered:
    """How the run ended: what DPS answered, and how many messages the hub stored (None where it cannot be read)."""

    device_id: str
    hub: str
    substatus: str
    stored: int | None

    def __str__(self) -> str:
        heard = "" if self.stored is None else f", messages stored {self.stored}"
        return f"Registered: device ID {self.device_id}, hub {self.hub}, substatus {self.substatus}{heard}"


def run(out: TextIO, everything: bool = False) -> None:
    """Run 00–05, or 00–10, telling `out` how far it is. Raises LearnerError with what stopped it, and where.

    Expects the environment of `doctor.settled()`, and leaves it changed.
    """
    notebooks = _notebooks(lab.notebooks_folder(), len(tutorial.STEPS) if everything else QUICKSTART)
    folder = tutorial.work_dir() / "run"
    with _alone_in(folder):
        os.environ["DPSX_WORK_DIR"] = str(folder)
        _check_inputs()
        _clear(folder)
        with tempfile.TemporaryDirectory() as scratch, _no_emulator_left(folder) as apart:
            registered = _ended(_Run(notebooks, folder, Path(scratch), apart, _Progress(out)))
    print(registered, file=out)
    print(f"The notebooks as they ran: {(folder / 'index.html').as_uri()}", file=out)


def _notebooks(folder: Path, count: int) -> list[Path]:
    numbers = [f"{number:02}" for number in range(count)]
    found = sorted(path for path in folder.glob("[0-9][0-9]-*.ipynb") if path.name[:2] in numbers)
    if [path.name[:2] for path in found] != numbers:
        raise RunError(
            f"The notebooks 00 to {numbers[-1]} are not all in {folder}, once each: bring them back with "
            "`git checkout notebooks`."
        )
    return found


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the run folder, so that no second run works in it."""
    lock = FileLock(folder / "run.lock", mode=0o600)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(
            f"Another `dpsx run` is at work in {folder}: wait until it has ended, or set DPSX_WORK_DIR to another "
            "folder."
        ) from None
    except OSError as error:
        raise RunError(
            f"The folder {folder} cannot be used ({error.strerror}): set DPSX_WORK_DIR to a folder that you may write "
            "to."
        ) from None
    try:
        yield
    finally:
        lock.release()


def _check_inputs() -> None:
    tutorial.target()
    for finding in doctor.inputs():
        if not finding.ok:
            raise RunError(f"{finding.name}: {finding.remedy}")


def _clear(folder: Path) -> None:
    """Delete what the last run left (and nothing else); on Azure its pair stays, as it may be enrolled there."""
    _stop_emulator(folder)
    ours = ["executed", "emulator", "class", "index.html", "kernels.log", "progress.json", takeaway.ARCHIVE]
    if tutorial.target() == "emulator":
        ours += ["tutorial.json", certificates.CERTIFICATE_FILE, certificates.KEY_FILE]
        ours += [f"notebook-{number:02}" for number in range(QUICKSTART, len(tutorial.STEPS))]
    for path in (folder / name for name in ours):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _no_emulator_left(folder: Path) -> Iterator[ThreadPoolExecutor]:
    """A thread that the emulator may be started in. However the body ends, the emulator ends too.

    The start itself cannot be interrupted: a process that is only just starting could not be found and stopped.
    """
    thread = ThreadPoolExecutor(1)
    try:
        yield thread
    finally:
        with _undisturbed():
            thread.shutdown()
            _stop_emulator(folder)


def _stop_emulator(folder: Path) -> None:
    with contextlib.suppress(EmulatorError):
        Emulator.attach(folder / "emulator").stop()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore Ctrl-C and requests to end for the moment that tidying up takes."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ended(work: "_Run") -> Registered:
    try:
        return asyncio.run(work.to_the_end())
    except asyncio.CancelledError:  # a request to end, other than Ctrl-C
        raise KeyboardInterrupt from None


class _Run:
    def __init__(
        self, notebooks: list[Path], folder: Path, scratch: Path, apart: ThreadPoolExecutor, progress: "_Progress"
    ) -> None:
        self._notebooks = notebooks
        self._folder = folder
        self._scratch = scratch
        self._apart = apart
        self._progress = progress
        self._kernels: list[_Kernel] = []
        self._executed: list[Any] = []
        self._registered: Registered | None = None

    async def to_the_end(self) -> Registered:
        _end_on_request()
        loop = asyncio.get_running_loop()
        emulator = None
        if tutorial.target() == "emulator" and tutorial.joined() is None:
            emulator = loop.run_in_executor(self._apart, Emulator.start, self._folder / "emulator")
        self._start_kernel()
        try:
            if emulator is not None:
                await emulator
            loop.run_in_executor(self._apart, importlib.import_module, "dpsx_helpers.page")  # takes a second
            for number, path in enumerate(self._notebooks):
                if number + 1 < len(self._notebooks):
                    self._start_kernel()  # ready when its turn comes
                await self._notebook(path, self._kernels[number])
        except LearnerError:
            self._write_page()
            raise
        finally:
            with _undisturbed():
                await asyncio.gather(*(kernel.end() for kernel in self._kernels))
        self._write_page()
        if self._registered is None:
            raise RunError(
                f"{self._notebooks[4].stem} ended without a registration result: bring it back with `git checkout`."
            )
        return self._registered

    def _start_kernel(self) -> None:
        self._kernels.append(_Kernel(self._folder, self._scratch, len(self._kernels)))

    async def _notebook(self, path: Path, kernel: "_Kernel") -> None:
        notebook = _read(path)
        self._executed.append((path, notebook))
        self._progress.begins(path.stem)
        try:
            await self._cells(path, notebook, kernel)
        finally:
            copy = self._folder / "executed" / path.name
            copy.parent.mkdir(exist_ok=True)
            nbformat.write(notebook, copy)  # type: ignore[no-untyped-call]
        if path.name.startswith("04"):
            self._registered = await self._result(kernel)
        self._progress.ended()
        await kernel.end()

    async def _cells(self, path: Path, notebook: Any, kernel: "_Kernel") -> None:
        section = path.stem
        try:
            client = await kernel.client(notebook)
            for index, cell in enumerate(notebook.cells):
                section = _heading(cell) or section
                self._progress.is_in(section)
                _heed_cancellation()
                await client.async_execute_cell(cell, index, execution_count=client.code_cells_executed + 1)
        except CellExecutionError as error:
            raise RunError(f"{path.stem}, section “{section}”: {self._told(error, path)}") from None
        except CellTimeoutError:
            raise RunError(
                f"{path.stem}, section “{section}”: a cell took more than {CELL_WITHIN} seconds; run that notebook in "
                "`dpsx lab` to see where it waits."
            ) from None
        except (DeadKernelError, RuntimeError):
            _heed_cancellation()  # nbclient takes that for a dead kernel
            raise RunError(
                f"{path.stem}, section “{section}”: the Python process of this notebook ended or never answered; see "
                f"{self._folder / 'kernels.log'}, and start again."
            ) from None

    def _told(self, error: CellExecutionError, path: Path) -> str:
        if error.ename in _names(LearnerError):
            return doctor.in_terminal(error.evalue)
        said = (error.evalue.strip().splitlines() or [""])[0][:300]
        return f"{error.ename}: {said} (the whole traceback is in {self._folder / 'executed' / path.name})."

    async def _result(self, kernel: "_Kernel") -> Registered | None:
        found = await kernel.evaluate(_RESULT)
        if found is None:
            return None
        stored = None
        if tutorial.target() == "emulator":
            in_class = tutorial.joined() is not None
            there = targets.current() if in_class else Emulator.attach(self._folder / "emulator")
            stored = len(there.messages(found[0]))
        device_id, hub, substatus = found
        return Registered(device_id, hub, substatus, stored)

    def _write_page(self) -> None:
        """Imported here because it takes a second, which the notebooks before it have to spare."""
        from dpsx_helpers.page import page

        named = [(path.stem, notebook) for path, notebook in self._executed]
        (self._folder / "index.html").write_text(page(named), encoding="utf-8")


def _names(kind: type) -> set[str]:
    """The names of this class of exceptions and all below it, which is what a kernel tells of an exception."""
    return {kind.__name__}.union(*map(_names, kind.__subclasses__()))


def _heed_cancellation() -> None:
    """Raise CancelledError when this task is to end, and what it awaited has swallowed that."""
    if (task := asyncio.current_task()) and task.cancelling():
        raise asyncio.CancelledError


def _end_on_request() -> None:
    """SIGTERM, and the end of the terminal, end the run as tidily as Ctrl-C does."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if task and number and signal.getsignal(number) is signal.SIG_DFL:
            with contextlib.suppress(RuntimeError):  # Windows has no such signals
                loop.add_signal_handler(number, task.cancel)


def _read(path: Path) -> Any:
    """The notebook without what an earlier run of it, perhaps the learner's, left in the file."""
    try:
        notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TypeError, AttributeError, nbformat.ValidationError):
        raise RunError(f"{path} is not a notebook that can be read: bring it back with `git checkout`.") from None
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def _heading(cell: Any) -> str | None:
    found = re.match(r"#{1,3} +(.+)", cell.source) if cell.cell_type == "markdown" else None
    return re.sub(r"[*`]", "", found[1]).strip() if found else None


class _Kernel:
    """One Python process for one notebook, started ahead of it, with this very interpreter."""

    def __init__(self, folder: Path, scratch: Path, number: int) -> None:
        self._folder = folder
        self._scratch = scratch
        self._manager = AsyncKernelManager(
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),  # none but ipykernel's own
            connection_file=str(scratch / f"kernel-{number}.json"),
        )
        self._channels: Any = None
        self._started = asyncio.ensure_future(self._start())

    async def _start(self) -> None:
        with (self._folder / "kernels.log").open("ab") as log:
            await self._manager.start_kernel(
                extra_arguments=["--HistoryManager.enabled=False", "--IPKernelApp.log_level=ERROR"],
                env=self._environment(),
                cwd=str(self._folder),
                stdout=log,
                stderr=log,
            )
        self._channels = self._manager.client()
        self._channels.start_channels()
        await self._channels.wait_for_ready(timeout=KERNEL_WITHIN)
        self._channels.allow_stdin = False
        self._channels.execute(_AHEAD, silent=True, store_history=False)  # its reply belongs to no cell

    def _environment(self) -> dict[str, str]:
        """The learner's environment, as the inputs are in it; without what changes how the kernel itself behaves."""
        given = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
        package = str(Path(__file__).resolve().parents[1])
        given["PYTHONPATH"] = os.pathsep.join(filter(None, [package, given.get("PYTHONPATH")]))
        given["IPYTHONDIR"] = str(self._scratch)  # no start-up files, no history
        return given

    async def client(self, notebook: Any) -> NotebookClient:
        """What executes the notebook's cells in this kernel, once that is ready."""
        await self._started
        client = NotebookClient(
            notebook, km=self._manager, timeout=CELL_WITHIN, store_widget_state=False, coalesce_streams=True,
            record_timing=False,
        )  # fmt: skip
        client.kc = self._channels
        return client

    async def evaluate(self, expression: str) -> Any:
        """The value (of plain types) of an expression in the kernel."""
        reply = await self._channels.execute(
            "", silent=True, user_expressions={"value": expression}, reply=True, timeout=KERNEL_WITHIN
        )
        value = reply["content"]["user_expressions"]["value"]
        return ast.literal_eval(value["data"]["text/plain"]) if value["status"] == "ok" else None

    async def end(self) -> None:
        """End the process, however far it has got. Nothing happens the second time."""
        self._started.cancel()
        await asyncio.gather(self._started, return_exceptions=True)
        if self._channels is not None:
            self._channels.stop_channels()
            self._channels = None
        if self._manager.has_kernel:
            self._spare_our_group()
            await self._manager.shutdown_kernel(now=True)

    def _spare_our_group(self) -> None:
        """A process that Ctrl-C ends just as it starts is still in our process group: jupyter_client notes that group,
        and kills it whole, us too.
        """
        provisioner: Any = self._manager.provisioner
        if hasattr(os, "getpgrp") and provisioner.pgid == os.getpgrp():
            provisioner.pgid = None  # the process alone is ended then


class _Progress:
    """One line for each notebook, with its seconds; at a terminal also the section that is running."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._live = out.isatty()
        self._name = ""
        self._since = 0.0
        self._width = 0

    def begins(self, name: str) -> None:
        self._name, self._since = name, time.monotonic()

    def is_in(self, section: str) -> None:
        if self._live:
            self._show(f"  {self._name}: {section}"[: shutil.get_terminal_size().columns - 1])

    def ended(self) -> None:
        self._show(f"✔ {self._name:<36}{time.monotonic() - self._since:5.1f} s")
        self._width = 0
        print(file=self._out, flush=True)

    def _show(self, text: str) -> None:
        start = "\r" if self._live else ""
        self._out.write(start + text.ljust(self._width))
        self._width = len(text) if self._live else 0
        self._out.flush()
