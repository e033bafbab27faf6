"""Which ways through the code an input took: pairs of lines that ran one after the other.

By `sys.settrace`, which is the same on every Python that the tests run on. The coverage-guided fuzzers there are do not
fit: atheris has wheels for Linux alone and libFuzzer never returns to its caller, hypofuzz is a web server beside
Hypothesis and does not know bytes in an order.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import websockets

import dpsx_helpers.emulator

_WATCHED = tuple(
    str(Path(module.__path__[0])) for module in (dpsx_helpers.emulator, websockets)
)  # the emulator, and whose codec it uses
_LINES = 1 << 20  # more than any file has


class Arcs:
    """A recorder. `seen` are all arcs so far, as numbers; `fresh` says how many of them the last `recording` added."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.fresh = 0
        self._numbers: dict[int, int] = {}  # of code objects by their ids, 0 = not watched
        self._codes: list[CodeType] = []  # kept, so that no other gets the id of one

    @contextmanager
    def recording(self) -> Iterator[None]:
        before, known = sys.gettrace(), len(self.seen)
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(before)
            self.fresh = len(self.seen) - known

    def _called(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        number = self._numbers.get(id(code))
        if number is None:
            self._codes.append(code)
            watched = code.co_filename.startswith(_WATCHED)
            number = self._numbers[id(code)] = len(self._codes) * _LINES if watched else 0
        if not number:
            return None
        last, add = 0, self.seen.add

        def ran(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal last
            if event == "line":
                here = number + frame.f_lineno
                add(last << 44 | here)
                last = here
            return ran

        return ran
