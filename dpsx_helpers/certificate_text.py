"""Describe any X.509 certificate: `describe()` reads PEM or DER, `Description.as_text()` lays it out."""

import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa

from dpsx_helpers.certificate_fields import (
    Element,
    Extension,
    common_name,
    elements,
    extensions_of,
    first_element,
    name_text,
    octets_of,
    oid_text,
    raw_is_ca,
)
from dpsx_helpers.certificate_files import (
    CERTIFICATE_LABELS,
    CertificateError,
    first_block,
    load_certificate,
    no_warnings,
    read_file,
    refuse_utf16,
    shown,
    what_else,
)

_SIGNATURES = {  # as OpenSSL names them
    "1.2.840.113549.1.1.4": "md5WithRSAEncryption", "1.2.840.113549.1.1.5": "sha1WithRSAEncryption",
    "1.2.840.113549.1.1.10": "rsassaPss", "1.2.840.113549.1.1.11": "sha256WithRSAEncryption",
    "1.2.840.113549.1.1.12": "sha384WithRSAEncryption", "1.2.840.113549.1.1.13": "sha512WithRSAEncryption",
    "1.2.840.113549.1.1.14": "sha224WithRSAEncryption", "1.2.840.10045.4.1": "ecdsa-with-SHA1",
    "1.2.840.10045.4.3.1": "ecdsa-with-SHA224", "1.2.840.10045.4.3.2": "ecdsa-with-SHA256",
    "1.2.840.10045.4.3.3": "ecdsa-with-SHA384", "1.2.840.10045.4.3.4": "ecdsa-with-SHA512",
    "1.2.840.10040.4.3": "dsaWithSHA1", "2.16.840.1.101.3.4.3.1": "dsa_with_SHA224",
    "2.16.840.1.101.3.4.3.2": "dsa_with_SHA256", "2.16.840.1.101.3.4.3.3": "dsa_with_SHA384",
    "2.16.840.1.101.3.4.3.4": "dsa_with_SHA512", "1.3.101.112": "ED25519", "1.3.101.113": "ED448",
    "1.2.156.10197.1.501": "SM2-with-SM3",
}  # fmt: skip
_KEYS = {
    "1.2.840.113549.1.1.1": "RSA", "1.2.840.113549.1.1.10": "RSA-PSS", "1.2.840.10045.2.1": "EC",
    "1.2.840.10040.4.1": "DSA", "1.3.101.112": "Ed25519", "1.3.101.113": "Ed448",
}  # fmt: skip
_CURVES = {
    "secp256r1": "P-256",
    "secp384r1": "P-384",
    "secp521r1": "P-521",
    "secp224r1": "P-224",
    "secp192r1": "P-192",
}


@dataclass(frozen=True)
class Description:
    """What one certificate says. Nothing in it is secret."""

    version: int  # 1 or 3, as people count
    serial_number: str  # lower-case hex, whole octets, "-" in front when negative
    signature_algorithm: str  # OpenSSL's name, else the dotted OID
    signature_algorithm_oid: str
    issuer: str  # RFC 4514: "CN=…,O=…"
    subject: str  # RFC 4514; "" when the certificate names none
    common_name: str | None  # the first CN of the subject, unescaped
    not_before: datetime  # aware, UTC
    not_after: datetime  # aware, UTC
    days_left: int  # whole days until not_after, negative once expired
    key_type: str  # "RSA", "EC P-256", "Ed25519" …; the dotted OID of an unknown one
    key_bits: int | None  # None when the key is of an unknown kind
    extensions: tuple[Extension, ...]  # (name, critical, text)
    is_ca: bool  # basic constraints say CA:TRUE
    thumbprint_sha1: str  # upper-case hex of the DER's digest, no separators
    thumbprint_sha256: str
    der: bytes = field(repr=False)

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
        return _described(certificate_der(bytes(source), "The certificate"), "The certificate")
    path = Path(source)
    return _described(certificate_der(read_file(path, "certificate file"), shown(path)), shown(path))


def certificate_der(data: bytes, name: str) -> bytes:
    """The DER of the first certificate in `data`, PEM or DER; errors call the data `name`."""
    if not data.strip():
        raise CertificateError(f"{name} is empty: make it again, or give the right file.")
    refuse_utf16(data, name)
    block = first_block(data, CERTIFICATE_LABELS, name)
    try:
        # Whatever follows is left alone, as OpenSSL does; a TRUSTED CERTIFICATE keeps its settings there.
        der = first_element(block.der if block else data).whole
        load_certificate(der)
    except (ValueError, x509.InvalidVersion):
        raise CertificateError(_not_a_certificate(data, name, in_pem=block is not None)) from None
    return der


def _not_a_certificate(data: bytes, name: str, *, in_pem: bool) -> str:
    other = what_else(data)
    if in_pem or (other is None and re.match(rb"\x30[\x80-\xff]", data)):
        return _damaged(name)
    if other:
        return f"{name} holds {other}, not a certificate: give the certificate file (often .pem, .cer or .crt)."
    return f"{name} holds no certificate (neither PEM nor DER): give the certificate file (.pem, .cer or .crt)."


def _damaged(name: str) -> str:
    return f"{name} is damaged (it does not decode as an X.509 certificate): copy or make it again."


def _described(der: bytes, name: str) -> Description:
    try:
        return _description(der, load_certificate(der))
    except (ValueError, x509.InvalidVersion):  # a name or an extension that is no DER
        raise CertificateError(_damaged(name)) from None


def _description(der: bytes, certificate: x509.Certificate) -> Description:
    fields = list(elements(first_element(certificate.tbs_certificate_bytes).content))
    version = fields.pop(0).content[-1] + 1 if fields[0].tag == 0xA0 else 1
    serial, signature, issuer, _, subject, key, *rest = fields
    raw = next((first_element(one.content).content for one in rest if one.tag == 0xA3), b"")
    algorithm = oid_text(first_element(signature.content).content)
    not_after = certificate.not_valid_after_utc
    return Description(
        version=version,
        serial_number=_serial(serial),
        signature_algorithm=_SIGNATURES.get(algorithm, algorithm),
        signature_algorithm_oid=algorithm,
        issuer=name_text(issuer.whole),
        subject=name_text(subject.whole),
        common_name=common_name(subject.whole),
        not_before=certificate.not_valid_before_utc,
        not_after=not_after,
        days_left=(not_after - datetime.now(UTC)).days,
        key_type=_key_type(certificate, key),
        key_bits=_key_bits(certificate),
        extensions=extensions_of(raw, _decoded_extensions(certificate)),
        is_ca=raw_is_ca(raw),
        thumbprint_sha1=hashlib.sha1(der, usedforsecurity=False).hexdigest().upper(),
        thumbprint_sha256=hashlib.sha256(der).hexdigest().upper(),
        der=der,
    )


def _serial(serial: Element) -> str:
    number = int.from_bytes(serial.content, "big", signed=True)
    return ("-" if number < 0 else "") + octets_of(number).hex()


def _decoded_extensions(certificate: x509.Certificate) -> x509.Extensions | None:
    try:
        with no_warnings():
            return certificate.extensions
    except (ValueError, TypeError, LookupError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return None  # KeyError, for one, is what it raises on the bits of a key usage or reason out of range


def _public_key(certificate: x509.Certificate) -> object:
    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None


def _key_type(certificate: x509.Certificate, key: Element) -> str:
    algorithm, *parameters = elements(first_element(key.content).content)
    oid = oid_text(algorithm.content)
    if oid != "1.2.840.10045.2.1":
        return _KEYS.get(oid, oid)
    decoded = _public_key(certificate)
    if isinstance(decoded, ec.EllipticCurvePublicKey):
        return f"EC {_CURVES.get(decoded.curve.name, decoded.curve.name)}"
    named = parameters and parameters[0].tag == 6
    return f"EC {oid_text(parameters[0].content)}" if named else "EC"


def _key_bits(certificate: x509.Certificate) -> int | None:
    key = _public_key(certificate)
    if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | dsa.DSAPublicKey):
        return key.key_size
    if isinstance(key, ed25519.Ed25519PublicKey):
        return 256
    return 456 if isinstance(key, ed448.Ed448PublicKey) else None


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
