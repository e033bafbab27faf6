"""What is wrong with the place where the emulator keeps things, in words; and that it is said once, not with every
message.
"""

import errno
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

LOG = logging.getLogger("dpsx_helpers.emulator")
AGAIN_AFTER = 60.0  # seconds until what has been said already is said again
_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_ROOM = 1 << 16  # bytes; with less than that left, an error of input or output is that of a full disk
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class GoneError(sqlite3.OperationalError):
    """A file of the database was deleted or moved, or another one has come into its place. Its argument is the path."""


def why(path: Path, error: OSError | sqlite3.Error) -> str:
    """Why the file or folder cannot be used, and what to do: `what is wrong: remedy`, without a full stop."""
    if isinstance(error, OSError):
        return _of_the_system(path, error)
    code = _primary(error)
    if isinstance(error, GoneError):
        return f"{error} was deleted or moved while the emulator ran: start it again"
    if lasts(error):
        reason = str(error) if code else "a text in it is none"  # which Python's own error would quote
        return (
            f"the emulator's database {path} cannot be used (it is damaged: {reason}): put back a copy, or delete "
            f"{path.name}, {path.name}-wal and {path.name}-shm there, and with them all that was enrolled and sent"
        )
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(path)):
        return _full(path)
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
        return f"the emulator's database {path} cannot be written ({error}): see to it that you may write there"
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"the emulator's database {path} cannot be used ({error}): end the program that holds it"
    return f"the emulator's database {path} cannot be used ({error}): see whether its disk is sound"


def _of_the_system(path: Path, error: OSError) -> str:
    if error.errno in _FULL:
        return _full(path)
    if error.errno in _FORBIDDEN:
        place = path if path.exists() else path.parent  # a file that could not even be made has a name of the moment
        return f"{place} cannot be written ({error.strerror}): see to it that you may write there"
    return f"{path} cannot be used ({error.strerror}): move away what is there"


def _full(path: Path) -> str:
    return f"the disk with {path if path.is_dir() else path.parent} is full: make room there"


def _is_full(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < _NO_ROOM
    except OSError:
        return False


def lasts(error: sqlite3.Error) -> bool:
    """Whether nothing will ever be stored again: the file is damaged, or not there any more."""
    return _primary(error) in _DAMAGED or (isinstance(error, sqlite3.OperationalError) and not _primary(error))


def _primary(error: sqlite3.Error) -> int:
    """The result code without what extends it (https://www.sqlite.org/rescode.html); 0 of an error that is not
    SQLite's: ours, or Python's for a text that is not UTF-8.
    """
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def identity(path: Path | str) -> tuple[int, int] | None:
    """What tells a file from another one that comes into its place; None when there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class Trouble:
    """Whether what comes can be stored. `give_up` is called with the reason when it never will be again."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.give_up: Callable[[str], None] = lambda reason: None
        self._path = path
        self._clock = clock
        self._times = 0
        self._said = 0.0

    def met(self, error: sqlite3.Error) -> str:
        """Something could not be stored, or read. Why, and what to do, for whoever asked."""
        reason = why(self._path, error)
        self._times += 1
        if lasts(error):
            self.give_up(reason)
        elif self._times == 1 or self._clock() - self._said >= AGAIN_AFTER:
            self._said = self._clock()
            LOG.error(
                "! nothing can be stored: %s. Until then devices are dropped unanswered, and requests that change "
                "something get a 500; what was acknowledged before stays",
                reason,
            )
        return reason

    def over(self) -> None:
        """Something was stored."""
        if self._times:
            LOG.info("= what comes is stored again; %d time(s) it was not", self._times)
            self._times = 0
