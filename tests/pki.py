"""Certificates for tests, of every kind that a service has to judge: of devices and of their issuers.

EC keys, for speed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

_AN_HOUR_AGO, _A_MONTH = timedelta(hours=-1), timedelta(days=30)


@dataclass(frozen=True)
class Device:
    """A certificate with its key, in memory and on disk."""

    common_name: str
    der: bytes
    pem: str
    certificate_file: Path
    key_file: Path

    @property
    def thumbprint(self) -> str:
        """SHA-256, upper-case hex."""
        return x509.load_der_x509_certificate(self.der).fingerprint(hashes.SHA256()).hex().upper()


@dataclass(frozen=True)
class Authority(Device):
    """A certificate that issues others; `issuers` are its own, closest first."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    issuers: tuple["Authority", ...] = ()

    @property
    def chain(self) -> tuple["Authority", ...]:
        """Itself and its issuers: what a device of it has to send behind its own certificate."""
        return (self, *self.issuers)

    @property
    def subject(self) -> x509.Name:
        return x509.load_der_x509_certificate(self.der).subject


def make_device(
    directory: Path,
    common_name: str,
    *,
    ca: bool = False,
    valid_from: timedelta = _AN_HOUR_AGO,
    valid_for: timedelta = _A_MONTH,
    pass_phrase: str | None = None,
) -> Device:
    """A self-signed certificate `{common_name}` in files of its own in `directory`."""
    key, basic = _new_key(), _basic_constraints(ca, None)
    certificate = _sign(_named(common_name), _named(common_name), key, key, [basic], valid_from, valid_for)
    return Device(common_name, *_saved(directory, certificate, key, pass_phrase=pass_phrase))


def make_ca(
    directory: Path,
    common_name: str,
    issuer: Authority | None = None,
    *,
    ca: bool | None = True,
    path_length: int | None = None,
    key_cert_sign: bool | None = True,
    valid_from: timedelta = _AN_HOUR_AGO,
    valid_for: timedelta = _A_MONTH,
    key: ec.EllipticCurvePrivateKey | None = None,
) -> Authority:
    """A certificate that issues others, itself issued by `issuer` or self-signed.

    `ca` and `key_cert_sign` None: without that extension. `key`: that of another one, to renew or cross-sign it.
    """
    own = key or _new_key()
    extensions = [] if ca is None else [_basic_constraints(ca, path_length)]
    if key_cert_sign is not None:
        extensions.append((_key_usage(key_cert_sign), True))
    name = _named(common_name)
    by, by_key = (issuer.subject, issuer.key) if issuer else (name, own)
    certificate = _sign(name, by, own, by_key, extensions, valid_from, valid_for)
    issuers = issuer.chain if issuer else ()
    return Authority(common_name, *_saved(directory, certificate, own, issuers), key=own, issuers=issuers)


def issue(
    directory: Path,
    common_name: str,
    issuer: Authority,
    *,
    chain: Iterable[Device] | None = None,
    ca: bool = False,
    address: str | None = None,
    valid_from: timedelta = _AN_HOUR_AGO,
    valid_for: timedelta = _A_MONTH,
) -> Device:
    """A device's certificate; its file has those of `chain` behind it, by default all issuers up to the root.

    `address`: that of a server, for which it is good then.
    """
    key, extensions = _new_key(), [_basic_constraints(ca, None)]
    if address is not None:
        extensions.append((x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), False))
    certificate = _sign(_named(common_name), issuer.subject, key, issuer.key, extensions, valid_from, valid_for)
    behind = issuer.chain if chain is None else chain
    return Device(common_name, *_saved(directory, certificate, key, behind))


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _named(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _basic_constraints(ca: bool, path_length: int | None) -> tuple[x509.ExtensionType, bool]:
    return x509.BasicConstraints(ca=ca, path_length=path_length), False


def _key_usage(key_cert_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=key_cert_sign, crl_sign=key_cert_sign, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _sign(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    extensions: Iterable[tuple[x509.ExtensionType, bool]],
    valid_from: timedelta,
    valid_for: timedelta,
) -> x509.Certificate:
    start = datetime.now(UTC) + valid_from
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + valid_for)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(issuer_key, hashes.SHA256())


def _saved(
    directory: Path,
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    behind: Iterable[Device] = (),
    *,
    pass_phrase: str | None = None,
) -> tuple[bytes, str, Path, Path]:
    """DER and PEM of a certificate, and its files: the certificate with those `behind` it, and the key."""
    number = sum(1 for _ in directory.glob("*.cert.pem"))
    certificate_file, key_file = directory / f"{number}.cert.pem", directory / f"{number}.key.pem"
    encryption = BestAvailableEncryption(pass_phrase.encode()) if pass_phrase else NoEncryption()
    pem = certificate.public_bytes(Encoding.PEM).decode()
    certificate_file.write_text(pem + "".join(one.pem for one in behind))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return certificate.public_bytes(Encoding.DER), pem, certificate_file, key_file
