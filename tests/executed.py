"""Notebooks for tests: read, executed in a kernel of their own, and what a learner then reads below the cells."""

import asyncio
import math
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from dpsx_helpers import targets, tutorial

FOLDER = Path(__file__).parents[1] / "notebooks"
BY_NUMBER = {int(path.name[:2]): path for path in sorted(FOLDER.glob("[0-9][0-9]-*.ipynb"))}
QUICKSTART, BEYOND = range(6), [number for number in BY_NUMBER if number > 5]
TRACEBACK = "Traceback (most recent call last)"


def read(number: int) -> Any:
    return nbformat.read(BY_NUMBER[number], as_version=4)


def cells(notebook: Any, kind: str) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def tagged(notebook: Any, tag: str) -> Any:
    (cell,) = [cell for cell in notebook.cells if tag in cell.metadata.get("tags", ())]
    return cell


class Kernel:
    """A Python process of this interpreter for notebooks. It knows none of this machine's DPSX_* variables."""

    def __init__(self, folder: Path, **environment: str) -> None:
        folder.mkdir(parents=True)
        self._runner = asyncio.Runner()
        # Sockets in files with short paths: a free port may be taken by the time that the kernel binds it.
        self._sockets = TemporaryDirectory()
        self._manager = AsyncKernelManager(
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
            connection_file=str(folder / "connection.json"),
            transport="ipc",
            ip=os.path.join(self._sockets.name, "kernel"),
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DPSX_")}
        for name in (*tutorial.VARIABLES, *targets.TRUST, *targets.CONNECTION_STRINGS):
            kept.pop(name, None)
        environment |= {"IPYTHONDIR": str(folder / "ipython")}
        with (folder / "kernel.log").open("wb") as log:
            start = self._manager.start_kernel(env=kept | environment, cwd=str(FOLDER), stdout=log, stderr=log)
            self._runner.run(start)  # the process is there, and gets ready while others work

    def execute(self, notebook: Any) -> Any:
        """Run All, to the end or to the first error; the notebook with its outputs, as JupyterLab would save it."""
        client = NotebookClient(notebook, km=self._manager, timeout=180, store_widget_state=True, coalesce_streams=True)
        with suppress(CellExecutionError):
            self._runner.run(client.async_execute())
        client.kc.stop_channels()
        return notebook

    def end(self) -> None:
        self._runner.run(self._manager.shutdown_kernel(now=True))
        self._runner.close()
        self._sockets.cleanup()


def said(cell: Any) -> str:
    """All that is to be read below a cell."""
    texts = []
    for output in cell.get("outputs", ()):
        data = output.get("data", {}).get("text/plain", "")
        texts.append(output.get("text", "") + data + "\n".join(output.get("traceback", ())))
    return "\n".join(texts)


def errors(notebook: Any) -> list[list[str]]:
    """The tracebacks that a learner sees; none when the notebook ran to its end."""
    outputs = [output for cell in cells(notebook, "code") for output in cell.outputs]
    return [list(output.traceback) for output in outputs if output.output_type == "error"]


def only_sentence(notebook: Any) -> str:
    """What stopped the notebook: one sentence, one line, no traceback; and nothing ran after it."""
    (shown,) = errors(notebook)
    assert len(shown) == 1, "\n".join(shown)
    (sentence,) = shown
    assert sentence.endswith(".")
    assert not re.search(r"\n|\x1b|[.!?] +[A-Z]", sentence), sentence
    assert TRACEBACK not in (text := "\n".join(map(said, notebook.cells))), text
    ran = [cell for cell in cells(notebook, "code") if cell.execution_count]
    assert "error" in [output.output_type for output in ran[-1].outputs]
    return sentence


def files_with(secret: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def words(source: str) -> int:
    """Words that are read: not addresses, tags and signs, and not what stands between fences."""
    text = re.sub(r"^```.*?^```$", "", source, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\]\([^)]*\)|<[^>]*>", " ", text)
    return sum(bool(re.search(r"\w", word)) for word in text.split())


def lines(source: str) -> int:
    """Lines of code: not blank, and more than a comment."""
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in source.splitlines())


def nine_tenths(counts: Sequence[int]) -> int:
    """The count that nine tenths of them do not exceed."""
    return sorted(counts)[math.ceil(0.9 * len(counts)) - 1]
