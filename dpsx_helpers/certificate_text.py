"""Describe any X.509 certificate: `describe()` reads PEM or DER, `Description.as_text()` lays it out.

Names are decoded by `cryptography`; algorithms, key and extensions are worded as `openssl x509 -text` prints them,
by the OpenSSL inside pyOpenSSL, which also reads what `cryptography` refuses to decode.
"""

import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from OpenSSL import crypto

from dpsx_helpers.certificate_files import (
    CERTIFICATE_LABELS,
    CertificateError,
    first_block,
    load_certificate,
    no_warnings,
    read_file,
    refuse_utf16,
    what_else,
)
from dpsx_helpers.errors import shown

_KEYS = {
    "rsaEncryption": "RSA",
    "rsassaPss": "RSA-PSS",
    "id-ecPublicKey": "EC",
    "dsaEncryption": "DSA",
    "ED25519": "Ed25519",
    "ED448": "Ed448",
}
_EDWARDS_BITS = {"Ed25519": 256, "Ed448": 456}  # OpenSSL does not print them
_ATTRIBUTES = {  # beyond those of RFC 4514: OpenSSL's short names
    NameOID.BUSINESS_CATEGORY: "businessCategory",
    NameOID.EMAIL_ADDRESS: "emailAddress",
    NameOID.GIVEN_NAME: "GN",
    NameOID.POSTAL_CODE: "postalCode",
    NameOID.PSEUDONYM: "pseudonym",
    NameOID.SERIAL_NUMBER: "serialNumber",
    NameOID.STREET_ADDRESS: "street",
    NameOID.SURNAME: "SN",
    NameOID.TITLE: "title",
}


class Extension(NamedTuple):
    """One extension: `name` is OpenSSL's without its "X509v3", or the dotted OID of one that it does not know."""

    name: str
    critical: bool
    text: str


class _Words(NamedTuple):
    """What OpenSSL has words for. To let it print a certificate takes ten times as long as all the rest."""

    version: int
    signature_algorithm: str
    key_type: str
    key_bits: int | None
    extensions: tuple[Extension, ...]


@dataclass(frozen=True)
class Description:
    """What one certificate says. Nothing in it is secret.

    A server looks at each that is shown to it: what it need not know is looked up when somebody asks.
    """

    der: bytes = field(repr=False)
    common_name: str | None  # the first CN of the subject, unescaped
    not_before: datetime  # aware, UTC
    not_after: datetime  # aware, UTC
    is_ca: bool  # basic constraints say CA:TRUE

    @cached_property
    def issuer(self) -> str:
        """RFC 4514: `CN=…,O=…`."""
        return _name("issuer", self._decoded)

    @cached_property
    def subject(self) -> str:
        """RFC 4514; "" when the certificate names none."""
        return _name("subject", self._decoded)

    @property
    def serial_number(self) -> str:
        """Lower-case hex, whole octets, "-" in front when negative."""
        with no_warnings():
            return _serial(self._decoded.serial_number)

    @property
    def signature_algorithm_oid(self) -> str:
        return self._decoded.signature_algorithm_oid.dotted_string

    @cached_property
    def _decoded(self) -> x509.Certificate:
        return load_certificate(self.der)

    @cached_property
    def thumbprint_sha1(self) -> str:
        """Upper-case hex of the DER's digest, no separators."""
        return hashlib.sha1(self.der, usedforsecurity=False).hexdigest().upper()

    @cached_property
    def thumbprint_sha256(self) -> str:
        """Upper-case hex of the DER's digest, no separators."""
        return hashlib.sha256(self.der).hexdigest().upper()

    @cached_property
    def _words(self) -> _Words:
        return _words(_printed(self.der))

    @property
    def version(self) -> int:
        """1 or 3, as people count."""
        return self._words.version

    @property
    def signature_algorithm(self) -> str:
        """OpenSSL's name, else the dotted OID."""
        return self._words.signature_algorithm

    @property
    def key_type(self) -> str:
        """RSA, EC P-256, Ed25519 …; OpenSSL's name of any other kind."""
        return self._words.key_type

    @property
    def key_bits(self) -> int | None:
        """None when the key is of an unknown kind."""
        return self._words.key_bits

    @property
    def extensions(self) -> tuple[Extension, ...]:
        return self._words.extensions

    @property
    def days_left(self) -> int:
        """Whole days from now until not_after, negative once expired."""
        return (self.not_after - datetime.now(UTC)).days

    def as_text(self) -> str:
        """The certificate in plain text, laid out like `certutil` of Windows, the common name in arrows."""
        lines = [
            "X.509 certificate",
            f"Version: {self.version}",
            f"Serial number: {self.serial_number}",
            f"Signature algorithm: {_with_oid(self.signature_algorithm, self.signature_algorithm_oid)}",
            "Issuer:",
            *(f"    {part}" for part in _parts(self.issuer)),
            "Valid:",
            f"    NotBefore: {self.not_before:%Y-%m-%d %H:%M:%S} UTC",
            f"    NotAfter:  {self.not_after:%Y-%m-%d %H:%M:%S} UTC ({_days(self.days_left)})",
            "Subject:",
            *(f"    {part}" for part in self._marked_subject()),
            f"Public key: {self.key_type}" + (f", {self.key_bits} bits" if self.key_bits else ""),
            f"Extensions: {len(self.extensions) or 'none'}",
            *(f"    {name}{' (critical)' if critical else ''}: {text}" for name, critical, text in self.extensions),
            f"Thumbprint (SHA-1):   {self.thumbprint_sha1}",
            f"Thumbprint (SHA-256): {self.thumbprint_sha256}",
        ]
        return "\n".join(lines)

    def _marked_subject(self) -> list[str]:
        parts = _parts(self.subject)
        named = [part for part in parts if any(value.startswith("CN=") for value in _split(part, "+"))]
        return [f"===> {part} <===" if part in named[-1:] else part for part in parts]


def describe(source: Path | bytes) -> Description:
    """Describe the certificate in a file or in bytes, PEM or DER; of several in PEM the first is meant.

    Raises CertificateError (one sentence) when there is none to be read, saying what is there instead.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return _described(bytes(source), "The certificate")
    path = Path(source)
    return _described(read_file(path, "certificate file"), shown(path))


def _described(data: bytes, name: str) -> Description:
    if not data.strip():
        raise CertificateError(f"{name} is empty: make it again, or give the right file.")
    refuse_utf16(data, name)
    block = first_block(data, CERTIFICATE_LABELS, name)
    try:
        # Whatever follows is left alone, as OpenSSL does; a TRUSTED CERTIFICATE keeps its settings there.
        loaded = crypto.load_certificate(crypto.FILETYPE_ASN1, block.der if block else data)
        with no_warnings():
            return _description(loaded)
    except (ValueError, crypto.Error, x509.InvalidVersion):
        raise CertificateError(_not_a_certificate(data, name, in_pem=block is not None)) from None


def _not_a_certificate(data: bytes, name: str, *, in_pem: bool) -> str:
    other = what_else(data)
    if in_pem or (other in (None, "a certificate") and re.match(rb"\x30[\x80-\xff]", data)):
        return f"{name} is damaged (it does not decode as an X.509 certificate): copy or make it again."
    if other:
        return f"{name} holds {other}, not a certificate: give the certificate file (often .pem, .cer or .crt)."
    return f"{name} holds no certificate (neither PEM nor DER): give the certificate file (.pem, .cer or .crt)."


def _description(loaded: crypto.X509) -> Description:
    certificate = loaded.to_cryptography()
    return Description(
        der=certificate.public_bytes(Encoding.DER),
        common_name=_common_name(certificate),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        is_ca=_is_ca(certificate),
    )


def _printed(der: bytes) -> str:
    """The certificate in OpenSSL's words. What `cryptography` refuses to decode is in there, too."""
    loaded = crypto.load_certificate(crypto.FILETYPE_ASN1, der)
    return crypto.dump_certificate(crypto.FILETYPE_TEXT, loaded).decode("utf-8", "replace")


def _words(printed: str) -> _Words:
    key_type = _key_type(printed)
    bits = re.search(r"Public-Key: \((\d+) bit", printed)
    return _Words(
        version=int(_field("Version", printed)[0]),
        signature_algorithm=_field("Signature Algorithm", printed),
        key_type=key_type,
        key_bits=int(bits[1]) if bits else _EDWARDS_BITS.get(key_type),
        extensions=_extensions(printed),
    )


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):  # which OpenSSL takes
        return any(
            one.name == "Basic Constraints" and one.text.startswith("CA:TRUE")
            for one in _extensions(_printed(certificate.public_bytes(Encoding.DER)))
        )


def _field(name: str, printed: str) -> str:
    """What OpenSSL prints after the first `name:`; nothing when it prints none."""
    found = re.search(rf"^ *{name}: *(.*)$", printed, re.MULTILINE)
    return found[1].strip() if found else ""


def _name(part: str, certificate: x509.Certificate) -> str:
    """Subject or issuer in RFC 4514 form, `CN=Python-device-01,O=Contoso`, on one line."""
    try:
        name: x509.Name = getattr(certificate, part)
        text = name.rfc4514_string(_ATTRIBUTES)
    except ValueError:  # an encoding that `cryptography` refuses, Latin-1 for one
        printed = _field(part.capitalize(), _printed(certificate.public_bytes(Encoding.DER)))
        text = ",".join(reversed(_unescaped(printed).split(", ")))
    return "".join(sign if sign.isprintable() else _hex_pairs(sign) for sign in text)


def _common_name(certificate: x509.Certificate) -> str | None:
    try:
        names = [str(one.value) for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    except ValueError:
        printed = _field("Subject", _printed(certificate.public_bytes(Encoding.DER)))
        names = re.findall(r"\bCN ?= ?([^,+]*)", _unescaped(printed))
    return next(iter(names), None)


def _unescaped(text: str) -> str:
    """OpenSSL prints an octet that is not ASCII as `\\xE4`; the encodings in question are Latin-1."""
    return re.sub(r"\\x([0-9A-F]{2})", lambda pair: chr(int(pair[1], 16)), text)


def _hex_pairs(sign: str) -> str:
    return "".join(f"\\{byte:02X}" for byte in sign.encode("utf-8", "surrogatepass"))


def _serial(number: int) -> str:
    digits = f"{abs(number):x}"
    return ("-" if number < 0 else "") + digits.zfill(len(digits) + len(digits) % 2)


def _key_type(printed: str) -> str:
    algorithm = _field("Public Key Algorithm", printed)
    kind = _KEYS.get(algorithm, algorithm)
    curve = _field("NIST CURVE", printed) or _field("ASN1 OID", printed)
    return f"EC {curve}".strip() if kind == "EC" else kind


def _extensions(printed: str) -> tuple[Extension, ...]:
    found = re.findall(r"^ {12}(?:X509v3 )?(\S.*?): ?(critical)?\n((?:^ {16}.*\n)*)", printed, re.MULTILINE)
    return tuple(Extension(name, bool(critical), _one_line(text)) for name, critical, text in found)


def _one_line(text: str) -> str:
    """In the spelling of OpenSSL 3: OpenSSL 4 prints the serial number of an issuer as 0x0A1B instead of 0A:1B."""
    return re.sub(r"\bserial:0x((?:[0-9A-F]{2})+)", lambda one: f"serial:{_colons(one[1])}", " ".join(text.split()))


def _colons(digits: str) -> str:
    return bytes.fromhex(digits).hex(":").upper()


def _parts(name: str) -> list[str]:
    """The parts of a name in RFC 4514 form, split at the commas that are not escaped."""
    return _split(name, ",") or ["(empty)"]


def _split(name: str, sign: str) -> list[str]:
    return re.findall(rf"(?:\\.|[^{sign}\\])+", name)


def _with_oid(name: str, oid: str) -> str:
    return name if name == oid else f"{name} ({oid})"


def _days(left: int) -> str:
    if left < 0:
        return "expired"
    return "1 day left" if left == 1 else f"{left} days left"
