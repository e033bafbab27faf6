"""How far a launch is: a progress bar, and the same in words below it."""

import sys
import time
from typing import Any

import ipywidgets as widgets

from dpsx_helpers.display import INK, View

_EVERY = 0.1  # seconds between two changes of the line


class _Progress(widgets.IntProgress):  # type: ignore[misc]
    """A progress bar that says in plain text what it is."""

    def __repr__(self, **_: Any) -> str:
        return f"Progress bar: {self.description}"


class Bar:
    """A bar and a line below the running cell; outside IPython nothing is shown.

    It is moved by whoever runs the devices, in the cell's own thread.
    """

    def __init__(self, devices: int) -> None:
        self._devices = devices
        self._ended = self._assigned = 0
        self._start = self._shown = time.monotonic()
        self._bar: Any = None
        self._line: Any = None
        ipython = sys.modules.get("IPython")
        if ipython is not None and ipython.get_ipython() is not None:
            self._show()

    def _show(self) -> None:
        from IPython.display import display

        label = "1 device" if self._devices == 1 else f"{self._devices} devices"
        self._bar = _Progress(min=0, max=self._devices, description=label, layout=widgets.Layout(width="auto"))
        self._bar.style.description_width = "8em"
        display(self._bar)  # type: ignore[no-untyped-call]
        self._line = display(self._words(), display_id=True)  # type: ignore[no-untyped-call]

    def advance(self, *, assigned: bool) -> None:
        """One more device has ended."""
        self._ended += 1
        self._assigned += assigned
        if self._bar is None:
            return
        self._bar.value = self._ended
        if time.monotonic() - self._shown >= _EVERY:
            self._shown = time.monotonic()
            self._line.update(self._words())

    def end(self, summary: str) -> None:
        """It is over: this is what it came to."""
        if self._bar is not None:
            self._bar.value = self._devices
            self._line.update(_line(summary))

    def _words(self) -> View:
        seconds = time.monotonic() - self._start
        return _line(f"{self._assigned} of {self._devices} devices have their hub after {seconds:.1f} s.")


def _line(text: str) -> View:
    return View(f'<p role="status" style="margin:0.2em 0;color:{INK}">{text}</p>', text)
