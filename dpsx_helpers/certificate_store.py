"""Put a certificate and its key on the disk together, or not at all."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dpsx_helpers.certificate_files import CertificateError
from dpsx_helpers.errors import shown

if sys.platform != "win32":
    import fcntl

_KEY_MODE, _CERTIFICATE_MODE = 0o600, 0o644


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep two notebooks from making a pair in `folder` at once, one's key beside the other's certificate.

    The lock is on the folder itself, so no file stays behind; Windows cannot lock one and goes without.
    """
    descriptor = None
    if sys.platform != "win32":
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def put_pair(key_file: Path, key_pem: bytes, certificate_file: Path, certificate_pem: bytes) -> None:
    """Write both files, the key for its owner only, or leave what was there and raise CertificateError.

    The old certificate goes first and the new one comes last: whenever the machine stops, a certificate that
    is there belongs to the key beside it.
    """
    new_key, new_certificate = _temporary(key_file), _temporary(certificate_file)
    try:
        old_key, old_certificate = _content(key_file), _content(certificate_file)
        try:
            _write(new_key, key_pem, _KEY_MODE)
            _write(new_certificate, certificate_pem, _CERTIFICATE_MODE)
            try:
                _remove(certificate_file)
                _move(new_key, key_file)
                _move(new_certificate, certificate_file)
            except BaseException:
                _put_back(key_file, old_key, certificate_file, old_certificate)
                raise
        finally:
            with suppress(OSError):
                new_key.unlink(missing_ok=True)
                new_certificate.unlink(missing_ok=True)
    except OSError as error:
        raise CertificateError(
            f"The certificate and its key cannot be written to {shown(key_file.parent)} "
            f"({error.strerror or 'no reason given'}): use a folder you may write to, with space left on its "
            "disk."
        ) from None


def _put_back(key_file: Path, old_key: bytes | None, certificate_file: Path, old_certificate: bytes | None) -> None:
    with suppress(OSError):  # at the first thing that fails, stop: no certificate is better than the wrong one
        if _content(key_file) != old_key:
            _remove(certificate_file)
            _remove(key_file)
            if old_key is not None:
                _write(key_file, old_key, _KEY_MODE)
        if old_certificate is not None and not certificate_file.exists():
            _write(certificate_file, old_certificate, _CERTIFICATE_MODE)


def _temporary(file: Path) -> Path:
    """Where `file` is written before it takes its place: one fixed name, so a crash leaves one at most."""
    return file.with_name(f".{file.name}.new")


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


def _write(file: Path, content: bytes, mode: int) -> None:
    """Write a file that has `mode` from its first moment, down to the disk."""
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def _remove(file: Path) -> None:
    file.unlink(missing_ok=True)
    _settle(file.parent)


def _move(file: Path, to: Path) -> None:
    os.replace(file, to)
    _settle(to.parent)


def _settle(folder: Path) -> None:
    """Make the changes in `folder` reach the disk before the next one, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
