"""Keys, and the certificates that are signed with them: by themselves, or by an authority's key."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dpsx_helpers.certificate_files import CertificateError
from dpsx_helpers.errors import shown_value

KeyType = Literal["rsa-4096", "ec-p256"]
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
# OpenSSL's prompt takes 4 to 1023 octets; Python's ssl and cryptography stop at the same upper end.
_SHORTEST_PASS_PHRASE, _LONGEST_PASS_PHRASE = 4, 1023


def new_key(key_type: str) -> PrivateKey:
    """A fresh private key. Raises CertificateError when there is no such type."""
    if key_type == "rsa-4096":
        return rsa.generate_private_key(public_exponent=65537, key_size=4096)
    if key_type == "ec-p256":
        return ec.generate_private_key(ec.SECP256R1())
    raise CertificateError(f"There is no key type {shown_value(key_type)}: use 'rsa-4096' or 'ec-p256'.")


def of_device(
    common_name: str, key: PrivateKey, start: datetime, days: int, issuer: x509.Certificate | None, by: PrivateKey
) -> x509.Certificate:
    """The certificate that openssl's usr_cert profile gives, with key identifiers, for TLS clients.

    Signed with the key `by`: that of `issuer`, or (None) the device's own.
    """
    use = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False
    basic = x509.BasicConstraints(ca=False, path_length=None), False
    return _signed(common_name, key, start, days, issuer, by, [basic, *_identifiers(key, by), use])


def of_authority(
    common_name: str,
    key: PrivateKey,
    start: datetime,
    days: int,
    issuer: x509.Certificate | None,
    by: PrivateKey,
    path_length: int | None,
) -> x509.Certificate:
    """A certificate that may sign others (RFC 5280: CA:TRUE, keyCertSign), and `path_length` authorities below it."""
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    basic = x509.BasicConstraints(ca=True, path_length=path_length)
    extensions = [(basic, True), *_identifiers(key, by), (usage, True)]
    return _signed(common_name, key, start, days, issuer, by, extensions)


def _identifiers(key: PrivateKey, by: PrivateKey) -> list[tuple[x509.ExtensionType, bool]]:
    """Whose key this is and whose signed it: by these a verifier finds the next link of a chain."""
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return [(own, False), (x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), False)]


def _signed(
    common_name: str,
    key: PrivateKey,
    start: datetime,
    days: int,
    issuer: x509.Certificate | None,
    by: PrivateKey,
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(_end(start, days))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(by, hashes.SHA256())


def _end(start: datetime, days: int) -> datetime:
    if type(days) is int and days > 0:
        with suppress(OverflowError):
            return start + timedelta(days=days)
    raise CertificateError(
        f"A certificate cannot be valid for {shown_value(days)} days: use a whole number from 1 on, for example 365."
    )


def encrypted(key: PrivateKey, pass_phrase: str) -> bytes:
    """The key as PKCS #8 in PEM, encrypted with the pass phrase."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(octets(pass_phrase)))


def octets(pass_phrase: str) -> bytes:
    """The pass phrase as octets (UTF-8); CertificateError when it is empty or cannot be typed or exported."""
    if not pass_phrase:
        raise CertificateError("The pass phrase is empty: enter the one that encrypts the private key.")
    if any(sign == "\0" or "\ud800" <= sign <= "\udfff" for sign in pass_phrase):
        raise CertificateError("The pass phrase has a character that cannot be stored: enter one without it.")
    encoded = pass_phrase.encode("utf-8")
    if len(encoded) > _LONGEST_PASS_PHRASE:
        raise CertificateError(
            f"The pass phrase is longer than {_LONGEST_PASS_PHRASE} bytes, the most that OpenSSL takes: "
            "enter a shorter one."
        )
    return encoded


def refuse_short(pass_phrase: str) -> None:
    """CertificateError for a pass phrase that openssl would not take for a new key either."""
    if len(octets(pass_phrase)) < _SHORTEST_PASS_PHRASE:
        raise CertificateError(
            f"The pass phrase is too short: enter at least {_SHORTEST_PASS_PHRASE} characters, as openssl demands too."
        )
