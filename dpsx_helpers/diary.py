"""What a device's program notes while a notebook runs it, for the cells to show.

The SDK calls handlers in threads of its own. What they print may end up below any cell, so they note it here instead.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from inspect import isawaitable
from typing import Any

from dpsx_helpers.display import View, block, note
from dpsx_helpers.tutorial import Stop

_WITHIN = 15.0  # seconds


class Diary:
    """Lines in the order in which they were noted. Made and read in a cell, written in any thread."""

    def __init__(self, name: str) -> None:
        self.lines: list[str] = []
        self._name = name
        self._shown = 0
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def note(self, line: str) -> None:
        """Add a line."""
        self.lines.append(line)
        self._loop.call_soon_threadsafe(self._news.set)

    def watch(self, handler: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, None]]:
        """The handler, with a line for the error that ends it: the SDK keeps the reason of such an error to itself."""

        @wraps(handler)
        async def watched(*given: Any) -> None:
            try:
                outcome = handler(*given)
                if isawaitable(outcome):
                    await outcome
            except Exception as error:  # noqa: BLE001 - whatever it is, the learner is to read it
                reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")
                self.note(f"the handler {handler.__name__} ended with an error: {reason}")

        return watched

    def new_page(self) -> None:
        """What is there already is no news any more: from now on, `wait` counts what comes."""
        self._shown = len(self.lines)

    def news(self) -> View:
        """The lines that no cell has shown yet."""
        new = self.lines[self._shown :]
        self._shown += len(new)  # not to the end: another thread may have added a line
        caption = f"The diary of {self._name}"
        return block(caption, "\n".join(new)) if new else note(f"{caption}: nothing new.")

    async def wait(self, lines: int = 1, within: float = _WITHIN) -> View:
        """The new lines, as soon as there are so many. Stop when they do not come within so many seconds."""
        try:
            async with asyncio.timeout(within):
                while len(self.lines) < self._shown + lines:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            found = len(self.lines) - self._shown
            raise Stop(
                f"{self._name} has noted {found} of {lines} lines within {within:g} seconds: see that it is on, and "
                "that nothing which this cell waits for came before (it would be in `lines`), and run this cell again."
            ) from None
        return self.news()
