"""Device certificates for tests, of every kind that a service has to judge. EC keys, for speed."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
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


def make_device(
    directory: Path,
    common_name: str,
    *,
    ca: bool = False,
    valid_from: timedelta = timedelta(hours=-1),
    valid_for: timedelta = timedelta(days=30),
    pass_phrase: str | None = None,
) -> Device:
    """A self-signed certificate `{common_name}` in files of its own in `directory`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    start = datetime.now(UTC) + valid_from
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + valid_for)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=False)
        .sign(key, hashes.SHA256())
    )
    number = sum(1 for _ in directory.glob("*.cert.pem"))
    certificate_file, key_file = directory / f"{number}.cert.pem", directory / f"{number}.key.pem"
    encryption = BestAvailableEncryption(pass_phrase.encode()) if pass_phrase else NoEncryption()
    certificate_file.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    pem = certificate.public_bytes(Encoding.PEM).decode()
    return Device(common_name, certificate.public_bytes(Encoding.DER), pem, certificate_file, key_file)
