"""Notebooks 06 to 10 run on work folders of their own, with their exercises untouched and with the solutions in them.

An exercise is two cells. The text cell has its task, a hint and a solution, both folded. The code cell is the stub: the
solution with `...` where something is left out, and behind it the check.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from executed import BY_NUMBER, Kernel, cells, errors, only_sentence, read, said, tagged
from processes import RunningEmulator

from dpsx_helpers.emulator import Emulator, EmulatorError

_FENCE = re.compile(r"```python\n(.*?)\n```", re.DOTALL)
NOT_YET = "☐ Not yet: "


@dataclass(frozen=True)
class Stub:
    """One exercise as it stands in its notebook. `place` is the index of the code cell."""

    notebook: int
    number: int
    place: int
    text: str
    code: str

    @property
    def check(self) -> str:
        """The last line of the stub."""
        return self.code.splitlines()[-1]

    @property
    def given(self) -> str:
        """The stub without its check."""
        return self.code.rpartition("\n")[0].rstrip("\n")

    @property
    def solution(self) -> str:
        """What the learner would write above the check."""
        (found,) = _FENCE.findall(self.text.split("<summary>A solution</summary>")[1])
        return str(found)

    @property
    def agrees(self) -> bool:
        """Whether the solution is the stub with something in place of each line of dots, and nothing else changed."""
        pieces = re.split(r"^ *\.\.\.$", self.given, flags=re.MULTILINE)
        pattern = ".+?".join(re.escape(piece) for piece in pieces)
        return len(pieces) > 1 and re.fullmatch(pattern, self.solution, re.DOTALL) is not None


def stubs(notebook: int) -> list[Stub]:
    """The exercises of a notebook, in order."""
    document = read(notebook)
    found = []
    for place, cell in enumerate(document.cells):
        for tag in cell.metadata.get("tags", ()):
            if tag.startswith("exercise-"):
                text = document.cells[place - 1].source
                found.append(Stub(notebook, int(tag.removeprefix("exercise-")), place, text, cell.source))
    return found


def solved(notebook: int) -> Any:
    """The notebook with its solutions in place of the dots."""
    document = read(notebook)
    for stub in stubs(notebook):
        document.cells[stub.place].source = f"{stub.solution}\n{stub.check}"
    return document


def verdicts(executed: Any) -> dict[int, str]:
    """What was read below the stub of each exercise."""
    found = {}
    for cell in cells(executed, "code"):
        for tag in cell.metadata.get("tags", ()):
            if tag.startswith("exercise-"):
                found[int(tag.removeprefix("exercise-"))] = said(cell)
    return found


def open_verdict(text: str) -> str:
    """The one sentence that says what is still to be done."""
    (line,) = [line for line in text.splitlines() if line.startswith(NOT_YET)]
    assert line.endswith("."), line
    return line.removeprefix(NOT_YET)


@contextmanager
def desk(folder: Path, **environment: str) -> Iterator["Desk"]:
    """A work folder in `folder`, kernels that start on demand, and an end for the emulator that they start."""
    work = folder / "work"
    work.mkdir(parents=True)
    try:
        yield Desk(folder, {"DPSX_WORK_DIR": str(work), **environment})
    finally:
        with suppress(EmulatorError):
            Emulator.attach(work / "emulator").stop()


class Desk:
    """Where one learner works."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.work = folder / "work"
        self._environment = environment
        self._kernels = 0

    def run(self, notebook: Any) -> Any:
        """Restart & Run All in a fresh kernel; the notebook with its outputs, also saved in the folder."""
        self._kernels += 1
        kernel = Kernel(self.folder / f"kernel-{self._kernels}", **self._environment)
        try:
            executed = kernel.execute(notebook)
        finally:
            kernel.end()
        nbformat.write(executed, self.folder / f"executed-{self._kernels}.ipynb")
        return executed


@contextmanager
def azure(folder: Path, *arguments: str) -> Iterator[dict[str, str]]:
    """The environment of a learner who works on Azure with both connection strings. An emulator in a process of its
    own stands in for Azure: nothing in the notebooks can tell.
    """
    stand_in = RunningEmulator(folder / "stand-in", None, *arguments)
    try:
        known = stand_in.emulator.environment()
        yield {
            **{name: value for name, value in known.items() if not name.startswith("PROVISIONING_")},
            "DPSX_TARGET": "azure",
            "DPSX_PROVISIONING_HOST": known["PROVISIONING_HOST"],
            "DPSX_ID_SCOPE": known["PROVISIONING_IDSCOPE"],
            "NO_PROXY": stand_in.host,
        }
    finally:
        stand_in.close()


def runs_as_a_story(number: int, folder: Path) -> tuple[Any, Any]:
    """Run the notebook on a fresh folder with its exercises untouched, then once more there with the solutions.

    Both run to their end and pass the check at the end; each exercise says in one sentence that it is not done, then
    that it is. The two executed notebooks, for a closer look.
    """
    with desk(folder) as learner:
        first = learner.run(read(number))
        second = learner.run(solved(number))
    name = BY_NUMBER[number].stem
    for executed in (first, second):
        assert errors(executed) == [], name
        assert "Traceback (most recent call last)" not in "".join(map(said, executed.cells)), name
        assert said(tagged(executed, "check")).startswith("✔"), name
    untouched, done = verdicts(first), verdicts(second)
    assert untouched.keys() == done.keys() == set(range(1, len(done) + 1))
    for place in untouched:
        assert open_verdict(untouched[place])
        assert "✔" in done[place], f"{name}, exercise {place}: {done[place]}"
        assert NOT_YET not in done[place], f"{name}, exercise {place}: {done[place]}"
    return first, second


def stops_without_values(number: int, folder: Path) -> str:
    """Run the notebook on Azure with nothing entered: the one sentence that it stops with. Nothing is started."""
    with desk(folder, DPSX_TARGET="azure") as learner:
        stopped = learner.run(read(number))
        assert not (learner.work / "emulator").exists()
    return only_sentence(stopped)
