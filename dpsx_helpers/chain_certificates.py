"""What the links of a chain are made of: certificates as they stand in a file, and who has signed which."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa

from dpsx_helpers.certificate_files import (
    CERTIFICATE_LABELS,
    CertificateError,
    all_blocks,
    load_certificate,
    no_warnings,
    read_file,
    refuse_utf16,
)
from dpsx_helpers.certificate_text import Description, describe
from dpsx_helpers.errors import shown

#: A file, PEM text, or bytes in PEM or DER.
Source = Path | str | bytes

_MOST = 100  # certificates in one file: where all have one name, each is tried as the issuer of each
_UNFIT = (ValueError, TypeError, AttributeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.ExtensionNotFound)
_Kind = TypeVar("_Kind", bound=x509.ExtensionType)


@dataclass(frozen=True)
class Certificate:
    """A certificate, with what the links are made of. Two are the same when they have the same bytes (`der`)."""

    facts: Description
    x509: x509.Certificate
    place: int | None = None
    known: bool = False

    @property
    def der(self) -> bytes:
        return self.facts.der

    @property
    def subject(self) -> str:
        return self.facts.subject

    @property
    def issuer(self) -> str:
        return self.facts.issuer

    @property
    def is_root(self) -> bool:
        """It names itself as its issuer."""
        return self.facts.subject == self.facts.issuer

    @property
    def path_length(self) -> int | None:
        basic = self.extension(x509.BasicConstraints)
        return basic.path_length if basic else None

    def extension(self, kind: type[_Kind]) -> _Kind | None:
        """None when it is not there, or cannot be read."""
        try:
            with no_warnings():
                return self.x509.extensions.get_extension_for_class(kind).value
        except _UNFIT:
            return None

    def signed_by(self, issuer: "Certificate") -> bool:
        """Whether the issuer's key has made the signature, whatever the names say."""
        try:
            self.x509.verify_directly_issued_by(issuer.x509)
            return True
        except InvalidSignature:
            return False
        except _UNFIT:  # the names differ, be it in their encoding only; or the kinds of key do
            return _verifies(self.x509, issuer.x509)


def _verifies(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    signature, signed = certificate.signature, certificate.tbs_certificate_bytes
    try:
        key, parameters = issuer.public_key(), certificate.signature_algorithm_parameters
        if isinstance(key, rsa.RSAPublicKey) and isinstance(parameters, padding.PKCS1v15 | padding.PSS):
            hashed = certificate.signature_hash_algorithm
            if hashed is None:
                return False
            key.verify(signature, signed, parameters, hashed)
        elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(parameters, ec.ECDSA):
            key.verify(signature, signed, parameters)
        elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
            key.verify(signature, signed)
        else:
            return False
    except (InvalidSignature, *_UNFIT):
        return False
    return True


def read(source: Source) -> tuple[list[Certificate], bool]:
    """The certificates, and whether a private key stands beside them."""
    if isinstance(source, str) and not ("-----BEGIN" in source or "\n" in source or not source.strip()):
        source = Path(source)
    name = shown(source) if isinstance(source, Path) else "The text"
    data = _data(source)
    refuse_utf16(data, name)
    blocks = all_blocks(data, CERTIFICATE_LABELS, name)
    if not blocks:
        return [_alone(data, source, name)], False
    if len(blocks) > _MOST:
        raise CertificateError(f"{name} holds {len(blocks)} certificates: a chain has a handful, so give another file.")
    found = []
    for number, block in enumerate(blocks, 1):
        try:
            found.append(_certificate(describe(block.text)))
        except (CertificateError, *_UNFIT):
            raise CertificateError(
                f"Certificate {number} of {len(blocks)} in {name} is damaged (it does not decode as an X.509 "
                "certificate): copy or make it again."
            ) from None
    return found, b"PRIVATE KEY-----" in data


def _certificate(facts: Description) -> Certificate:
    return Certificate(facts, load_certificate(facts.der))


def _alone(data: bytes, source: Source, name: str) -> Certificate:
    """One certificate in DER; where there is none, CertificateError says what is there instead."""
    if isinstance(source, Path):
        return _certificate(describe(source))
    try:
        return _certificate(describe(data))
    except CertificateError as error:
        raise CertificateError(str(error).replace("The certificate", name, 1)) from None


def _data(source: Source) -> bytes:
    if isinstance(source, Path):
        return read_file(source, "certificate file")
    data = source.encode("utf-8", "surrogateescape") if isinstance(source, str) else bytes(source)
    if not data.strip():
        raise CertificateError("The text is empty: give the certificates in PEM.")
    return data
