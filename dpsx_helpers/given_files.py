"""Read a file that somebody has given, or may have changed: an ordinary one, and no more of it than it may hold.

Whatever else has a path could block a reader for ever (a pipe, /proc/kmsg), never end (/dev/zero), or change by being
read. Every way in which such a file fails is an OSError whose `strerror` is half a sentence.
"""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from dpsx_helpers.errors import LearnerError, shown

#: Bytes of a file with settings or notes: some hundred times what any of them has.
LARGEST = 1 << 20
_HOW = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class TooLargeError(OSError):
    """There is more in the file than it may hold."""


def path_of(text: str) -> Path:
    """The path that somebody has written, whole. LearnerError when there is no such home folder."""
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise LearnerError(f"There is no home folder for {shown(text)}: give the whole path.") from None


def read(path: Path, most: int = LARGEST) -> bytes:
    """The bytes of an ordinary file, at most so many; nothing of one that says it is empty, as those of /proc do.

    Raises FileNotFoundError, IsADirectoryError, TooLargeError or another OSError.
    """
    try:
        _refuse(os.stat(path), path, most)  # before it is opened: to open a device may do something
        descriptor = os.open(path, _HOW)
    except ValueError:  # NUL, or half a surrogate pair
        raise OSError(errno.EINVAL, "not a usable path") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _refuse(status, path, most)  # another one may have come into its place
        data = file.read(most + 1) if status.st_size else b""
    if len(data) > most:
        raise _too_large(path, most)
    return data


def read_json(path: Path, most: int = LARGEST) -> Any:
    """What the JSON in it says, in UTF-8 or, as an older PowerShell writes it, UTF-16. OSError, or ValueError for what
    is no JSON.
    """
    try:
        return json.loads(read(path, most))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(status: os.stat_result, path: Path, most: int) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not an ordinary file", str(path))
    if status.st_size > most:
        raise _too_large(path, most)


def _too_large(path: Path, most: int) -> TooLargeError:
    return TooLargeError(errno.EFBIG, f"it is larger than {most:,} bytes", str(path))
