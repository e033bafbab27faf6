"""The work folder to take along, without a key in it: from Binder, or another machine that forgets it."""

import os
import re
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote

from dpsx_helpers import given_files, tutorial
from dpsx_helpers.certificate_files import what_else
from dpsx_helpers.display import View, download, fold, note, stacked, table
from dpsx_helpers.tutorial import Stop

ARCHIVE = "dpsx-work.zip"
_LARGEST = 20_000_000  # bytes of one file; nothing that the tutorial makes comes near
_SECRET_KINDS = ("a private key", "a PKCS #12 bundle (.pfx)")
_SERVICE_KEY = re.compile(rb"SharedAccessKey=[A-Za-z0-9+/]{8}")


@dataclass(frozen=True)
class Packed:
    """What was packed: `taken` names files of the work folder, `left` those that stay, each with the reason."""

    archive: Path
    taken: tuple[str, ...]
    left: tuple[tuple[str, str], ...]


def pack() -> Packed:
    """Write ARCHIVE into the work folder, anew each time. Stop when that is not possible.

    Left out is whatever is a key or holds one, and the whole state of the emulator, which is full of them.
    """
    work = tutorial.work_dir()
    archive = work / ARCHIVE
    taken, left = [], []
    try:
        with _replaced(archive) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in _files(work):
                name = path.relative_to(work).as_posix()
                if reason := _add(packed, path, name):
                    left.append((name, reason))
                else:
                    taken.append(name)
    except OSError as error:
        raise Stop(
            f"{archive} cannot be written ({error.strerror}): see to it that you may write to that folder and that its "
            "disk has space, and run this cell again."
        ) from error
    return Packed(archive, tuple(taken), tuple(left))


def shown(packed: Packed) -> View:
    """What was packed, with a button that downloads it where the notebook can reach it."""
    if not packed.taken:
        return note("There is nothing to take along yet: your work folder holds no file, or keys alone.")
    count, kilobytes = len(packed.taken), packed.archive.stat().st_size / 1000
    files = "1 file" if count == 1 else f"{count} files"
    said = note(f"{ARCHIVE} holds {files} of your work folder, {kilobytes:.0f} kB. No key is among them.")
    rows = [(name, "packed") for name in packed.taken]
    rows += [(name, f"stays here: {reason}") for name, reason in packed.left]
    listed = fold("What is in it, and what is not", table("The work folder", ("File", "What became of it"), rows))
    href, place = _link(packed.archive), packed.archive.parent
    way = download(f"Download {ARCHIVE}", href, ARCHIVE) if href else note(f"You find it in {place}.")
    return stacked(said, way, listed)


@contextmanager
def _replaced(archive: Path) -> Iterator[IO[bytes]]:
    """A file that only its owner may read, which takes the place of the archive when it is whole."""
    handle, name = tempfile.mkstemp(dir=archive.parent, prefix=f".{archive.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.replace(name, archive)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _files(work: Path) -> Iterator[Path]:
    """The files in question. Links may lead out of the folder, and hidden files are some program's own."""
    for place, folders, names in os.walk(work):
        folders[:] = sorted(name for name in folders if not _is_apart(Path(place, name)))
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and not path.is_symlink() and path != work / ARCHIVE:
                yield path


def _is_apart(folder: Path) -> bool:
    return folder.name == "emulator" or folder.name.startswith(".") or (folder / "emulator.lock").exists()


def _add(packed: zipfile.ZipFile, path: Path, name: str) -> str | None:
    """Pack one file, or say why not."""
    try:
        data = given_files.read(path, _LARGEST)
    except given_files.TooLargeError:
        return f"it is larger than {_LARGEST // 1_000_000} MB"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    if reason := secret_in(data):
        return reason
    packed.writestr(f"{Path(ARCHIVE).stem}/{name}", data)
    return None


def secret_in(data: bytes) -> str | None:
    """What the bytes of a file hold that must stay, None when nothing; also in UTF-16, as PowerShell writes."""
    text = data.replace(b"\0", b"")
    if b"PRIVATE KEY" in text or what_else(data) in _SECRET_KINDS:
        return "it is or shows a private key"
    if data.startswith(b"SQLite format 3\0"):
        return "it is a database"
    return "it holds a connection string with a key" if _SERVICE_KEY.search(text) else None


def _link(archive: Path) -> str | None:
    """The address of the archive as seen from the notebook (a kernel's current folder); None when it is not below."""
    try:
        return quote(archive.relative_to(Path.cwd()).as_posix())
    except ValueError:
        return None
