"""Listening sockets that let in no more connections than there are places for, and outlive a lack of descriptors.

The servers of asyncio and of tornado do neither. When no descriptor is left they try again without end and log each
time, and nothing else of the process can open a file or take a connection.
"""

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from dpsx_helpers.emulator.places import DESCRIPTORS, Places, Seldom

LOG = logging.getLogger("dpsx_helpers.emulator")
BACKLOG = 1024  # connections that the system keeps until they are let in
_AT_ONCE = 32  # are let in before the event loop turns to all others
_PAUSE = 1.0  # seconds before the next try when the system can open no more


def descriptors() -> int:
    """How many this process may have, after raising that as far as the emulator needs and the system lets it."""
    if sys.platform == "win32":  # which has no such limit
        return DESCRIPTORS
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return DESCRIPTORS
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS has another limit, below what it calls the hard one
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], DESCRIPTORS)


class Crowd:
    """The connections of one kind, `places`, behind one door or several. It tells when they are too many.

    For the log: `whose` connections these are, and what those that have to make room `lack`. `cap`: how many there may
    be wherever there are enough descriptors.
    """

    def __init__(self, places: Places[Any], cap: int, whose: str, lack: str) -> None:
        self.places = places
        self._whose, self._lack = whose, lack
        more = f"let the emulator have more descriptors when it starts (`ulimit -n {DESCRIPTORS}`)"
        self._remedy = more if places.most < cap else "divide them among several emulators"
        self._told = Seldom()

    def let_in(self, now: float) -> bool:
        """Whether who comes at `now` (seconds) has a place."""
        places = self.places
        free = len(places) < places.most
        taken = places.take()
        if not free and self._told.due(now):
            LOG.warning(
                "= all %d connections for %s are taken. Since the start %d that %s had to make room, and %d "
                "newcomer(s) were turned away. Remedy: end some, or %s.",
                places.most, self._whose, places.dismissed, self._lack, places.turned_away, self._remedy,
            )  # fmt: skip
        return taken


class Door:
    """One listening socket. `admit` makes a connection of each socket that has a place, and has it `enter` there."""

    def __init__(self, sock: socket.socket, crowd: Crowd, admit: Callable[[socket.socket], Awaitable[None]]) -> None:
        self._sock = sock
        self._crowd = crowd
        self._admit = admit
        self._admitting: set[asyncio.Task[None]] = set()
        self._told = Seldom()
        sock.setblocking(False)

    def open(self) -> None:
        """Let them in from now on."""
        self._loop = asyncio.get_running_loop()
        self._serving = self._loop.create_task(self._serve())

    async def close(self) -> None:
        """Let nobody in any more. Who is just coming is there when this returns."""
        with contextlib.suppress(NotImplementedError):  # Windows does without
            # asyncio would still accept in this turn, and find nobody who waits for it.
            self._loop.remove_reader(self._sock)
        self._serving.cancel()
        await asyncio.gather(self._serving, *self._admitting, return_exceptions=True)
        self._sock.close()

    async def _serve(self) -> None:
        while True:
            for _ in range(_AT_ONCE):
                try:
                    sock, _address = await self._loop.sock_accept(self._sock)
                except ConnectionError:  # it has gone again
                    continue
                except OSError as error:
                    await self._pause(error)
                    continue
                dismissed = self._crowd.places.dismissed
                if not self._crowd.let_in(self._loop.time()):
                    sock.close()
                    continue
                task = self._loop.create_task(self._make(sock))
                self._admitting.add(task)
                task.add_done_callback(self._admitting.discard)
                if self._crowd.places.dismissed > dismissed:
                    break  # its descriptor is free after this turn
            await asyncio.sleep(0)

    async def _pause(self, error: OSError) -> None:
        if self._told.due(self._loop.time()):
            LOG.warning(
                "= nobody can be let in at the moment (%s); another try each second. Remedy: close programs, or allow "
                "more descriptors (`ulimit -n`).",
                error.strerror,
            )
        await asyncio.sleep(_PAUSE)

    async def _make(self, sock: socket.socket) -> None:
        try:
            await self._admit(sock)
        except OSError:  # it has gone again
            sock.close()
            self._crowd.places.give_up()
