"""A small disk of its own for a test, which can be full or read-only."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from processes import unable

SIZE = 8 << 20  # bytes; an emulator that has just started has written one eighth of that
_PART = 4096


class Disk:
    """What is mounted on `folder`. `fill` leaves so many bytes, `make_room` takes away what has filled it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self, leave: int = 0) -> None:
        with open(self._filler, "ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(_PART))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
            file.truncate(max(0, file.tell() - leave))

    def make_room(self) -> None:
        self._filler.unlink()

    def close_to_writers(self, *, closed: bool = True) -> None:
        _run("mount", "-o", f"remount,{'ro' if closed else 'rw'}", str(self.folder))


@contextmanager
def disk(folder: Path) -> Iterator[Disk]:
    """A disk of SIZE in memory, mounted on a folder that is made for it."""
    if sys.platform != "linux" or os.geteuid() != 0:
        unable("only root can mount a small disk: what a full or read-only one does is not tested")
    folder.mkdir()
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "none", str(folder))
    except subprocess.CalledProcessError as error:
        unable(f"no disk can be mounted here ({error.stderr.strip()}): what a full or read-only one does is not tested")
    try:
        yield Disk(folder)
    finally:
        _run("umount", "--lazy", str(folder))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
