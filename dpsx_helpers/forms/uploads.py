"""What a file for a form has to hold, which files of a folder hold it, and how an uploaded one is kept there."""

import os
import re
import ssl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dpsx_helpers import certificates
from dpsx_helpers.certificate_files import CERTIFICATE_LABELS, CertificateError, first_block, read_file
from dpsx_helpers.errors import shown

_LARGEST = 1 << 20
_OWN = (certificates.CERTIFICATE_FILE, certificates.KEY_FILE)  # notebook 02 writes and notebook 05 deletes these


@dataclass(frozen=True)
class Kind:
    """`describe` says in a few words what a file holds, or raises CertificateError when it is not of this kind."""

    name: str
    example: str
    suffixes: tuple[str, ...]
    describe: Callable[[Path], str]
    uploaded: bool = True

    @property
    def accept(self) -> str:
        """The endings, as a browser's file dialog takes them."""
        return ",".join(self.suffixes)

    def found(self, folder: Path) -> Iterator[tuple[Path, str]]:
        """The files of this kind in `folder`, each with what it holds, by name."""
        try:
            files = sorted(folder.iterdir())
        except OSError:  # no rights: a path can still be typed
            return
        for path in files:
            if path.suffix.lower() in self.suffixes and not path.name.startswith("."):
                with suppress(CertificateError):
                    yield path, self.describe(path)


def _certificate(path: Path) -> str:
    seen = certificates.describe(path)
    when = "expired" if seen.days_left < 0 else "expires"
    return f"certificate {seen.subject or 'without a subject'}, {when} {seen.not_after:%Y-%m-%d}"


def _pem_certificate(path: Path) -> str:
    said = _certificate(path)
    if first_block(read_file(path, "certificate file"), CERTIFICATE_LABELS, shown(path)) is None:
        raise CertificateError(
            f"{shown(path)} is DER (binary), but the device's SDK reads PEM: upload it here, and it is saved as PEM."
        )
    return said


def _key(path: Path) -> str:
    try:
        certificates.open_key(path, "")
    except CertificateError as error:
        if "pass phrase" not in str(error):
            raise
        return "private key, encrypted"
    return "private key, not encrypted"


DEVICE_CERTIFICATE = Kind("certificate", "device.pem", (".pem", ".cer", ".crt"), _pem_certificate)
#: DPS is sent the certificate as PEM whatever the file is, so that DER will do.
ENROLLED_CERTIFICATE = Kind("certificate", "device.pem", (".pem", ".cer", ".crt"), _certificate)
#: A key stays where it is: what a browser uploads passes through the state of a widget.
DEVICE_KEY = Kind("key", "device.key.pem", (".pem", ".key"), _key, uploaded=False)


def keep(name: str, content: bytes, kind: Kind, folder: Path) -> Path:
    """Write an uploaded file into `folder`, for its owner only, under a safe form of its name; no file is overwritten.

    The same content uploaded again is the file that is there. DER becomes PEM. Raises CertificateError, and nothing
    is kept, when it is not of this kind, a key comes with it, it is too large, or it cannot be written.
    """
    safe = _safe(name, kind)
    if len(content) > _LARGEST:
        raise CertificateError(f"{safe} is larger than 1 MiB, so it is no {kind.name} file: upload the right file.")
    if b"PRIVATE KEY-----" in content:
        raise CertificateError(
            f"{safe} holds a private key, which must stay with the device: upload the certificate alone."
        )
    try:
        with tempfile.TemporaryDirectory(prefix=".upload-", dir=folder) as place:
            _check(Path(place) / safe, content, kind)
        return _write(folder, safe, _pem(content))
    except OSError as error:
        raise CertificateError(
            f"{safe} cannot be written to {shown(folder)} ({error.strerror or 'no reason given'}): "
            "give the path of a file instead."
        ) from None


def _safe(name: str, kind: Kind) -> str:
    """The name without folders and without signs that some system does not take, at most 64 characters."""
    stem, dot, suffix = re.split(r"[/\\]", name)[-1].rpartition(".")
    ending = f".{suffix.lower()}" if dot and f".{suffix.lower()}" in kind.suffixes else kind.suffixes[0]
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", stem if dot else suffix).strip("-")[:56]
    return (plain or f"uploaded-{kind.name}") + ending


def _check(file: Path, content: bytes, kind: Kind) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(_pem(content))
    try:
        kind.describe(file)
    except CertificateError as error:
        sentence = str(error).replace(f"{shown(file.parent)}{os.sep}", "")
        raise CertificateError(sentence) from None


def _pem(content: bytes) -> bytes:
    if b"-----BEGIN" in content:
        return content
    with suppress(CertificateError):
        return ssl.DER_cert_to_PEM_cert(certificates.describe(content).der).encode()
    return content


def _write(folder: Path, name: str, content: bytes) -> Path:
    stem, suffix = os.path.splitext(name)
    for number in range(1, 1000):
        file = folder / (name if number == 1 else f"{stem}-{number}{suffix}")
        if file.name in _OWN:
            continue
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        except FileExistsError:
            if file.is_file() and file.stat().st_size == len(content) and file.read_bytes() == content:
                return file
            continue
        try:
            with os.fdopen(descriptor, "wb") as out:
                out.write(content)
        except OSError:
            file.unlink(missing_ok=True)
            raise
        return file
    raise CertificateError(f"{shown(folder)} has a thousand files named like {name} already: give it another name.")
