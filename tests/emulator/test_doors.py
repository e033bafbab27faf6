"""A listening socket when the system gives no descriptor or when it closes, and how many a process gives itself."""

import asyncio
import contextlib
import errno
import os
import socket
import subprocess
import sys
from typing import Any

import pytest

from dpsx_helpers.emulator import doors
from dpsx_helpers.emulator.doors import Crowd, Door
from dpsx_helpers.emulator.places import DESCRIPTORS, Places


class Exhausted(socket.socket):
    """A listening socket of a process that may open nothing more, for the first tries."""

    def __init__(self, failures: int, number: int) -> None:
        super().__init__()
        self.tries, self._failures, self._number = 0, failures, number

    def accept(self) -> Any:
        self.tries += 1
        if self.tries <= self._failures:
            raise OSError(self._number, os.strerror(self._number))
        return super().accept()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_a_door_tries_again_after_a_pause_and_tells_it_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    monkeypatch.setattr(doors, "_PAUSE", 0.2)
    let_in: list[socket.socket] = []

    async def admit(sock: socket.socket) -> None:
        let_in.append(sock)

    async def knock() -> tuple[int, float]:
        sock, loop = Exhausted(3, number), asyncio.get_running_loop()
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        door = Door(sock, Crowd(Places(9, lambda _: None), 9, "anybody", "did nothing"), admit)
        began = loop.time()
        with socket.create_connection(sock.getsockname()):
            door.open()
            while not let_in:
                await asyncio.sleep(0.01)
            took = loop.time() - began
            await door.close()
        return sock.tries, took

    tries, took = asyncio.run(asyncio.wait_for(knock(), 30))
    let_in[0].close()
    assert tries in (4, 5), "the last one is the wait for the next who comes"
    assert took > 0.5, "three pauses"
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"= nobody can be let in at the moment ({os.strerror(number)})")


def test_who_cannot_be_admitted_leaves_a_free_place() -> None:
    places: Places[Any] = Places(1, lambda _: None)

    async def refuse(sock: socket.socket) -> None:
        raise ConnectionResetError

    async def knock() -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        door = Door(sock, Crowd(places, 1, "anybody", "did nothing"), refuse)
        door.open()
        for _ in range(3):
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            assert await reader.read() == b""
            writer.close()
        await door.close()

    asyncio.run(asyncio.wait_for(knock(), 30))
    assert (len(places), places.turned_away) == (0, 0)


def test_who_knocks_in_the_turn_in_which_a_door_closes_finds_it_closed() -> None:
    faults: list[dict[str, Any]] = []

    async def refuse(sock: socket.socket) -> None:
        raise AssertionError("somebody was let in")

    async def knock() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        sock = socket.create_server(("127.0.0.1", 0))
        door = Door(sock, Crowd(Places(1, lambda _: None), 1, "anybody", "did nothing"), refuse)
        door.open()
        await asyncio.sleep(0.01)
        with socket.create_connection(sock.getsockname()) as client:
            await asyncio.create_task(door.close())  # has its turn in the one in which the loop sees the client
            client.settimeout(10)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""

    asyncio.run(asyncio.wait_for(knock(), 30))
    assert faults == []


@pytest.mark.skipif(os.name != "posix", reason="the limit is that of POSIX systems")
@pytest.mark.parametrize(("soft", "hard", "given"), [(100, 100, 100), (100, 300, 300), (300, 300, 300)])
def test_as_many_descriptors_are_taken_as_the_system_allows(soft: int, hard: int, given: int) -> None:
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}));"
        "from dpsx_helpers.emulator.doors import descriptors;"
        "print(descriptors(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(given), str(given), str(hard)]


@pytest.mark.skipif(os.name != "posix", reason="the limit is that of POSIX systems")
@pytest.mark.parametrize("refuses", [False, True])
def test_no_more_descriptors_are_asked_for_than_needed(monkeypatch: pytest.MonkeyPatch, refuses: bool) -> None:
    """Where the system calls its limit infinite; macOS refuses what is beyond another one."""
    import resource

    limits = {resource.RLIMIT_NOFILE: (256, resource.RLIM_INFINITY)}

    def set_limits(which: int, wanted: tuple[int, int]) -> None:
        if refuses:
            raise ValueError("current limit exceeds maximum limit")
        limits[which] = wanted

    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    monkeypatch.setattr(resource, "setrlimit", set_limits)
    assert doors.descriptors() == (256 if refuses else DESCRIPTORS)
    assert limits[resource.RLIMIT_NOFILE] == (256 if refuses else DESCRIPTORS, resource.RLIM_INFINITY)
