"""What a file that should hold a certificate or a key really holds: bytes in, PEM blocks or one clear
sentence out.

Everything here is read only. PEM is RFC 7468, with the older labels and headers that OpenSSL still accepts.
"""

import base64
import binascii
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    load_der_private_key,
    load_der_public_key,
)
from cryptography.utils import CryptographyDeprecationWarning

from dpsx_helpers import given_files
from dpsx_helpers.errors import LearnerError, shown


class CertificateError(LearnerError, ValueError):
    """A certificate, key, pass phrase or registration ID cannot be used; the text is one sentence with the
    remedy.

    It never contains a secret, and no secret hides in the exceptions it is chained to.
    """


@dataclass(frozen=True)
class PemBlock:
    """One `-----BEGIN label-----` … `-----END label-----`; `text` holds these two lines too."""

    label: str
    headers: str
    der: bytes
    text: bytes

    def __repr__(self) -> str:
        """The label only: the block may be a private key."""
        return f"<PemBlock {self.label}>"


CERTIFICATE_LABELS = frozenset({"CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"})
_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 #]{1,60})-----")
_HEADERS = re.compile(rb"\s*((?:[A-Za-z0-9-]+:[^\r\n]*\r?\n(?:[ \t]+[^\r\n]*\r?\n)*)*)")
_OLD_PKCS12 = re.compile(rb"\x30[\x80-\x84].{0,4}?\x02\x01\x03\x30", re.DOTALL)
_PKCS7_OID = bytes.fromhex("06092a864886f70d0107")


def read_file(path: Path, what: str) -> bytes:
    """The bytes of `path`; `what` is what it should hold, for the sentence ("certificate file", "key file").

    Raises CertificateError when there is no such file, it is a folder, cannot be read, is empty or far too
    large.
    """
    name = shown(path)
    try:
        data = given_files.read(path)
    except IsADirectoryError:
        raise CertificateError(f"{name} is a folder: give the path of the {what} in it.") from None
    except FileNotFoundError:
        raise CertificateError(f"There is no {what} {name}: check its path, or make the pair in notebook 02.") from None
    except given_files.TooLargeError:
        raise CertificateError(f"{name} is larger than 1 MiB, so it is no {what}: give the right file.") from None
    except OSError as error:
        raise CertificateError(
            f"The {what} {name} cannot be read ({error.strerror}): check its path and its permissions."
        ) from None
    if not data.strip():
        raise CertificateError(f"The {what} {name} is empty: make it again, or give the right file.")
    return data


def refuse_utf16(data: bytes, name: str) -> None:
    """Raise CertificateError for text in UTF-16, which Windows PowerShell's `>` writes and nothing reads."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"-\0-\0-" in data:
        raise CertificateError(
            f"{name} is saved as UTF-16 text: save it again as plain ASCII (UTF-8 without a byte order mark)."
        )


def first_block(data: bytes, labels: frozenset[str], name: str) -> PemBlock | None:
    """The first PEM block in `data` with one of `labels`, whatever text stands around it; None when there is
    none.

    Raises CertificateError when that block is cut short or is not base64.
    """
    for match in _BEGIN.finditer(data):
        label = match[1].decode("ascii")
        if label in labels:
            return _block(data, match, label, name)
    return None


def all_blocks(data: bytes, labels: frozenset[str], name: str) -> list[PemBlock]:
    """Every PEM block in `data` with one of `labels`, whatever text stands around them.

    Raises CertificateError when one is cut short or not base64, or when the line before or behind one is damaged.
    """
    found = []
    for match in _BEGIN.finditer(data):
        label = match[1].decode("ascii")
        if label in labels:
            found.append(_block(data, match, label, name))
    names = "|".join(sorted(labels)).encode("ascii")
    marks = re.findall(rb"(?im)^[ \t]*-*(?:BEGIN|END) (?:" + names + rb")-*\s*$", data)
    if len(marks) != 2 * len(found):
        raise CertificateError(
            f"{name} is damaged (a line BEGIN or END {min(labels, key=len)} is not whole, or shares its line with "
            "another): copy or make it again."
        )
    return found


def _block(data: bytes, begin: re.Match[bytes], label: str, name: str) -> PemBlock:
    end_line = b"-----END " + begin[1] + b"-----"
    end = data.find(end_line, begin.end())
    if end < 0:
        raise CertificateError(f"{name} is cut short (its line END {label} is missing): copy the whole file again.")
    inside = data[begin.end() : end]
    headers = _HEADERS.match(inside)
    header_text = headers[1] if headers else b""
    body = inside[headers.end() :] if headers else inside
    try:
        der = base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error:
        raise CertificateError(
            f"{name} is damaged (what stands between BEGIN and END {label} is not base64): copy or make it again."
        ) from None
    return PemBlock(label, header_text.decode("latin-1"), der, data[begin.start() : end + len(end_line)] + b"\n")


def what_else(data: bytes) -> str | None:
    """What `data` holds, with an article ("a private key"); None when nobody knows."""
    labels = [match[1].decode("ascii") for match in _BEGIN.finditer(data)]
    kinds = sorted((_named(label) for label in labels), key=lambda kind: kind.startswith("a PEM block"))
    return kinds[0] if kinds else _der_kind(data)


def _named(label: str) -> str:
    if label.endswith("PRIVATE KEY"):
        return "a private key"
    if label in CERTIFICATE_LABELS:
        return "a certificate"
    return {
        "CERTIFICATE REQUEST": "a certificate request",
        "NEW CERTIFICATE REQUEST": "a certificate request",
        "PUBLIC KEY": "a public key",
        "RSA PUBLIC KEY": "a public key",
        "X509 CRL": "a certificate revocation list",
        "PKCS7": "a PKCS #7 bundle",
        "CMS": "a PKCS #7 bundle",
    }.get(label, f"a PEM block named {label}")


def _der_kind(data: bytes) -> str | None:
    if data.startswith((b"ssh-", b"ecdsa-sha2-")):
        return "a public key for SSH"
    if not data.startswith(b"\x30"):
        return None
    if _OLD_PKCS12.match(data):
        return "a PKCS #12 bundle (.pfx)"
    if _PKCS7_OID in data[:24]:
        return "a PKCS #7 bundle"
    if is_certificate(data):
        return "a certificate"
    if is_private_key(data):
        return "a private key"
    return _other_der_kind(data)


def _other_der_kind(data: bytes) -> str | None:
    for load, name in (
        (x509.load_der_x509_csr, "a certificate request"),
        (x509.load_der_x509_crl, "a certificate revocation list"),
        (load_der_public_key, "a public key"),
    ):
        try:
            load(data)
        except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
            continue
        return name
    return None


def load_certificate(der: bytes) -> x509.Certificate:
    """Decode `der`, also with a serial number that RFC 5280 forbids; ValueError or x509.InvalidVersion."""
    with no_warnings():
        return x509.load_der_x509_certificate(der)


@contextmanager
def no_warnings() -> Iterator[None]:
    """Silence what `cryptography` says about odd but existing certificates: their reader cannot change them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        yield


def is_certificate(der: bytes) -> bool:
    """Whether `der` is one X.509 certificate in DER."""
    try:
        load_certificate(der)
    except (ValueError, x509.InvalidVersion):
        return False
    return True


def is_private_key(der: bytes) -> bool:
    """Whether `der` is a private key in DER, encrypted or not."""
    try:
        load_der_private_key(der, None)
    except TypeError:  # it asks for a pass phrase
        return True
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True
