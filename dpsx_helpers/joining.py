"""How a student joins a class: one document, as a file or as one line to paste, and where it is kept when they have.

The teacher's emulator writes it, for each student one. It holds what a device needs to find and trust that emulator,
and a key that opens what carries the student's own registration ID, and nothing else. Whoever has it can act as that
student: it is kept in the work folder for its owner alone, and `repr` does not show the key.
"""

import binascii
import json
import os
import re
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from dpsx_helpers import certificates, given_files
from dpsx_helpers.errors import LearnerError, shown

#: A path or a code, for those who cannot run `dpsx join`.
VARIABLE = "DPSX_JOIN"
POLICY = "student-"  # begins the name of a student's shared access policy
SUFFIX = ".dpsx.json"
VERSION = 1
_PREFIX = f"dpsx{VERSION}."
_ANY_CODE = re.compile(r"dpsx([0-9]+)\.")
_MOST = 64 * 1024  # characters of a document: a code cannot unpack to more
_ASK = "ask your teacher for it once more"


class JoinError(LearnerError):
    """A file or code does not let anybody join. One sentence."""


@dataclass(frozen=True, slots=True)
class Join:
    """Where the class's emulator is, and what opens it for one student. `key` is base64, `ca` PEM.

    `ws_port` is None where no WebSocket is served.
    """

    host: str
    mqtt_port: int
    https_port: int
    ws_port: int | None
    hubs: tuple[str, ...]
    id_scope: str
    registration_id: str
    key: str = field(repr=False)
    ca: str = field(repr=False)

    @property
    def endpoint(self) -> str:
        """`host:port` of the service side, an IPv6 host in brackets; 443 goes without saying."""
        return endpoint(self.host, self.https_port)

    @property
    def policy(self) -> str:
        """The shared access policy that the key is of."""
        return f"{POLICY}{self.registration_id}"

    @property
    def connection_string(self) -> str:
        """For DPS and for the hub alike: one emulator is both."""
        return f"HostName={self.endpoint};SharedAccessKeyName={self.policy};SharedAccessKey={self.key}"

    def document(self) -> dict[str, Any]:
        return {"dpsx": VERSION, **asdict(self)}

    def as_file(self) -> str:
        """The text of the file. The connection strings are there for programs of the student's own."""
        strings = dict.fromkeys(("dps_connection_string", "iothub_connection_string"), self.connection_string)
        return json.dumps(self.document() | strings, indent=1) + "\n"

    def as_code(self) -> str:
        """The same in one line: version, the document in base64url of zlib, the first digits of its SHA-256.

        Below 1,000 characters for an address and an ID of usual length: some terminals take no longer line.
        """
        text = json.dumps(self.document(), separators=(",", ":"))
        packed = urlsafe_b64encode(zlib.compress(text.encode(), 9)).decode().rstrip("=")
        return f"{_PREFIX}{packed}.{_digest(text)}"


def endpoint(host: str, https_port: int) -> str:
    bracketed = f"[{host}]" if ":" in host else host
    return bracketed if https_port == 443 else f"{bracketed}:{https_port}"


def is_code(text: str) -> bool:
    return bool(_ANY_CODE.match(text.strip()))


def read(text: str, what: str) -> Join:
    """The document in the text of a file, or in a code. `what` names it in the sentence of a JoinError."""
    text = text.strip()
    if not text:
        raise JoinError(f"{what} is empty: {_ASK}.")
    return _checked(_unpacked(text, what) if is_code(text) else text, what)


def read_file(path: Path) -> Join:
    """The document in a file. Raises JoinError."""
    name = shown(path)
    try:
        return read(given_files.read(path, _MOST).decode("utf-8-sig"), name)
    except given_files.TooLargeError:
        raise JoinError(f"{name} is too large for a join file: look whether it is the right one.") from None
    except UnicodeDecodeError:
        raise JoinError(f"{name} is no join file, it is not text: look whether it is the right one.") from None
    except OSError as error:
        raise JoinError(
            f"{name} cannot be read ({error.strerror}): give the file that your teacher gave you."
        ) from None


def _unpacked(code: str, what: str) -> str:
    given = _ANY_CODE.match(code)
    if given and int(given[1]) != VERSION:
        raise JoinError(
            f"{what} is of version {given[1][:9]}, this dpsx knows {VERSION}: use the same dpsx as your teacher."
        )
    damaged = JoinError(f"{what} is damaged, a part is missing or has changed: copy the whole line again, or {_ASK}.")
    packed, _, digest = "".join(code.split()).removeprefix(_PREFIX).rpartition(".")
    try:
        raw = urlsafe_b64decode(packed + "=" * (-len(packed) % 4))
        text = zlib.decompressobj().decompress(raw, _MOST).decode()
    except (binascii.Error, ValueError, zlib.error):
        raise damaged from None
    if _digest(text) != digest:
        raise damaged
    return text


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:8]


def _checked(text: str, what: str) -> Join:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise JoinError(f"{what} is no join file or code: {_ASK}.") from None
    version = document.get("dpsx") if isinstance(document, dict) else None
    if not isinstance(version, int):
        raise JoinError(f"{what} is no join file or code: {_ASK}.")
    if version != VERSION:
        raise JoinError(
            f"{what} is of version {version}, this dpsx knows {VERSION}: use the same dpsx as your teacher."
        )
    try:
        join = Join(**{name: document[name] for name in Join.__dataclass_fields__} | {"hubs": tuple(document["hubs"])})
        if not _sound(join):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise JoinError(f"{what} is damaged, a part is missing or has changed: {_ASK}.") from None
    return join


def _sound(join: Join) -> bool:
    """Whether each field has its form. What is in them goes into URLs, headers and files."""
    texts = (join.host, join.id_scope, join.registration_id, *join.hubs)
    ports = (join.mqtt_port, join.https_port, *(() if join.ws_port is None else (join.ws_port,)))
    return (
        all(isinstance(text, str) and re.fullmatch(r"[\w.:%-]{1,255}", text) for text in texts)
        and all(type(port) is int and 0 < port < 65536 for port in ports)
        and isinstance(join.key, str)
        and bool(re.fullmatch(r"[A-Za-z0-9+/]{16,128}={0,2}", join.key))
        and isinstance(join.ca, str)
        and _is_ca(join.ca)
    )


def _is_ca(pem: str) -> bool:
    try:
        return bool(certificates.describe(pem.encode()).is_ca)
    except (certificates.CertificateError, ValueError):
        return False


# --- where it is kept -------------------------------------------------------------------------------------------------


def folder(work: Path) -> Path:
    """For the join document and the CA certificates that go with it."""
    return work / "class"


def current(work: Path) -> Join | None:
    """The class that was joined: by the environment variable DPSX_JOIN, else by `dpsx join`; None when none was."""
    given = os.environ.get(VARIABLE, "").strip()
    if given:
        if is_code(given):
            return read(given, f"The code in {VARIABLE}")
        return read_file(given_files.path_of(given))
    kept = _kept(work)
    try:
        return read_file(kept) if os.path.lexists(kept) else None
    except JoinError as error:
        raise JoinError(f"{str(error).removesuffix('.')}, or go back to your own emulator with `dpsx leave`.") from None


def keep(work: Path, join: Join) -> None:
    """Keep it for the notebooks of this work folder, readable by its owner alone."""
    from dpsx_helpers.emulator.tls import write_private

    with _writing(work):
        folder(work).mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(_kept(work), join.as_file().encode())


def trust(work: Path, join: Join) -> tuple[Path, Path]:
    """(bundle, CA): files for the variables that name what is trusted, written when they are not there yet.

    The bundle is what this machine trusts otherwise, and the class's CA.
    """
    from certifi import where

    from dpsx_helpers.emulator import tls

    files = tls.Files(folder(work))
    with _writing(work):
        if not (files.bundle.exists() and files.ca.exists() and files.ca.read_text(encoding="ascii") == join.ca):
            files.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            tls.write_private(files.ca, join.ca.encode())
            given = [os.environ.get(name, "") for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")]
            others = [path for path in given if path and not Path(path).is_relative_to(work)]
            tls.write_bundle(files, list(dict.fromkeys(others)), where())
    return files.bundle, files.ca


@contextmanager
def _writing(work: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise JoinError(
            f"What a class takes cannot be kept in {shown(folder(work))} ({error.strerror}): see to it that you may "
            "write to that folder and that its disk has space, and try again."
        ) from None


def forget(work: Path) -> bool:
    """Forget the class; False when none was kept."""
    was_there = os.path.lexists(_kept(work))
    for file in folder(work).glob("*") if folder(work).is_dir() else ():
        file.unlink()
    return was_there


def _kept(work: Path) -> Path:
    return folder(work) / "join.json"
