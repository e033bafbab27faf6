"""Make, save and check what a simulated X.509 device needs: a self-signed certificate and its encrypted key.

`create()` makes the equal of this line, which the Azure quickstart uses, plus extended key usage clientAuth:

    openssl req -outform PEM -x509 -sha256 -newkey rsa:4096 -keyout python-device.key.pem -out
    python-device.pem
                -days 365 -extensions usr_cert -subj "/CN=Python-device-01"

https://learn.microsoft.com/azure/iot-dps/quick-create-simulated-device-x509
"""

import os
import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import (
    PrivateKeyTypes,
    PublicKeyTypes,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from dpsx_helpers.certificate_files import (
    CERTIFICATE_LABELS,
    CertificateError,
    PemBlock,
    first_block,
    load_certificate,
    read_file,
    refuse_utf16,
    what_else,
)
from dpsx_helpers.certificate_files import is_private_key as _is_private_key
from dpsx_helpers.certificate_making import KeyType, encrypted, new_key, octets, of_device, refuse_short
from dpsx_helpers.certificate_store import alone_in, put_pair
from dpsx_helpers.certificate_text import Description, Extension, describe
from dpsx_helpers.errors import shown, shown_value

__all__ = [
    "CERTIFICATE_FILE",
    "KEY_FILE",
    "CertificateError",
    "Description",
    "Extension",
    "Pair",
    "check_existing",
    "check_pair",
    "check_registration_id",
    "create",
    "describe",
    "open_key",
]

CERTIFICATE_FILE = "python-device.pem"
KEY_FILE = "python-device.key.pem"

Existing = Literal["refuse", "reuse", "replace"]

_KEY_LABELS = frozenset(
    {"ENCRYPTED PRIVATE KEY", "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "DSA PRIVATE KEY"}
)


@dataclass(frozen=True)
class Pair:
    """A certificate file and its key file; `created` is False when an existing pair was reused."""

    certificate_file: Path
    key_file: Path
    created: bool


def create(
    registration_id: str,
    pass_phrase: str,
    directory: Path,
    *,
    key_type: KeyType = "rsa-4096",
    days: int = 365,
    existing: Existing = "refuse",
    now: datetime | None = None,
) -> Pair:
    """Make KEY_FILE and CERTIFICATE_FILE in `directory`: a key and a self-signed device certificate for it.

    When either file is there already, `existing` decides: "refuse" raises; "reuse" checks that the pair is
    whole, opens with the pass phrase, is valid and names this registration ID; "replace" makes a new pair in
    its place. `now` (aware) is the moment from which the certificate is valid, for `days` times 24 hours, as
    `openssl -days` counts. After a failure the files are as they were; after a crash there may be no
    certificate, but never one beside another's key. Raises CertificateError.
    """
    check_registration_id(registration_id)
    octets(pass_phrase)
    check_existing(existing)
    start = (now or datetime.now(UTC)).astimezone(UTC).replace(microsecond=0)
    folder = _folder(directory)
    certificate_file, key_file = folder / CERTIFICATE_FILE, folder / KEY_FILE
    with alone_in(folder):
        if existing != "replace" and _any_exists(certificate_file, key_file):
            if existing != "reuse":
                raise CertificateError(_refusal(certificate_file, key_file))
            _check_reusable(registration_id, pass_phrase, certificate_file, key_file, start)
            return Pair(certificate_file, key_file, created=False)
        refuse_short(pass_phrase)
        key = new_key(key_type)
        certificate = of_device(registration_id, key, start, days, None, key)
        put_pair(key_file, encrypted(key, pass_phrase), certificate_file, certificate.public_bytes(Encoding.PEM))
    return Pair(certificate_file, key_file, created=True)


def check_existing(existing: str) -> None:
    """CertificateError for a choice that there is not."""
    if existing not in get_args(Existing):
        raise CertificateError(
            f"There is no choice existing={shown_value(existing)}: use 'refuse', 'reuse' or 'replace'."
        )


def check_registration_id(registration_id: str) -> str:
    """Return `registration_id` when DPS takes it with an X.509 certificate, else raise CertificateError.

    Letters, digits and - . _ : with a letter, digit or - at the end, at most 128 characters
    (https://learn.microsoft.com/azure/iot-dps/concepts-service#registration-id); it is the certificate's
    common name, which holds at most 64 (RFC 5280, ub-common-name).
    """
    if not isinstance(registration_id, str):
        raise CertificateError(
            f"{shown_value(registration_id)} is no registration ID: give a text in quotes, for example "
            "'Python-device-01'."
        )
    if not registration_id.strip():
        raise CertificateError("The registration ID is empty: enter one, for example Python-device-01.")
    if len(registration_id) > 64:
        raise CertificateError(
            f"The registration ID has {len(registration_id)} characters: use at most 64, "
            "as it becomes the common name of the certificate."
        )
    wrong = sorted(set(re.findall(r"[^A-Za-z0-9._:-]", registration_id)))
    if wrong:
        listed = " ".join("space" if sign == " " else sign if sign.isprintable() else ascii(sign) for sign in wrong)
        raise CertificateError(
            f"The registration ID {registration_id!a} has characters that DPS does not take ({listed}): "
            "use letters A-Z, digits and - . _ : only."
        )
    if registration_id[-1] in "._:":
        raise CertificateError(
            f"The registration ID {registration_id} ends in {registration_id[-1]!r}: "
            "end it in a letter, a digit or a hyphen."
        )
    return registration_id


# --- the pass phrase and the key ------------------------------------------------------------------


def open_key(key_file: Path, pass_phrase: str) -> PrivateKeyTypes:
    """The private key in a PEM file: PKCS #8 or OpenSSL's older form, encrypted or not.

    A key that is not encrypted opens with any pass phrase, the empty one too, as it does for Python's `ssl`
    and so for the SDK. Raises CertificateError: no such file, no key in it, damaged, wrong pass phrase, or
    none for an encrypted key.
    """
    path = Path(key_file)
    block = _key_block(path)
    encrypted = block.label == "ENCRYPTED PRIVATE KEY" or "ENCRYPTED" in block.headers
    secret = octets(pass_phrase) if encrypted else None
    try:
        return load_pem_private_key(block.text, secret)
    except UnsupportedAlgorithm:
        problem = "is of a kind that cannot be opened here: save it again with 'openssl pkcs8 -topk8'."
    except (ValueError, TypeError):
        problem = "is damaged (it does not decode as a private key): copy or make it again."
        if encrypted:
            problem = "does not open with this pass phrase: enter the one it was made with, or make a new pair."
    # Raised out here so that the lower error, which might quote what it was given, is not even its context.
    raise CertificateError(f"The key in {shown(path)} {problem}")


def check_pair(certificate_file: Path, key_file: Path, pass_phrase: str) -> Description:
    """Check that a device can use this certificate with this key, and describe the certificate.

    Both files are PEM (the SDK hands their paths to OpenSSL, which reads no DER there), the key opens and
    belongs to the certificate, and Python's `ssl` loads both. Whether the certificate is still valid is for
    the caller to judge. Raises CertificateError saying which of these is not so.
    """
    certificate_path, key_path = Path(certificate_file), Path(key_file)
    description = describe(certificate_path)
    _refuse_der_certificate(certificate_path)
    key = open_key(key_path, pass_phrase)
    if _public_octets(key.public_key()) != _certificate_key(certificate_path, description):
        raise CertificateError(
            f"The key in {shown(key_path)} does not belong to the certificate in {shown(certificate_path)}: "
            "give the two files that were made together, or make a new pair."
        )
    _load_as_the_sdk_does(certificate_path, key_path, pass_phrase)
    return description


def _key_block(path: Path) -> PemBlock:
    data = read_file(path, "key file")
    refuse_utf16(data, shown(path))
    block = first_block(data, _KEY_LABELS, shown(path))
    if block is not None:
        return block
    if _is_private_key(data):
        raise CertificateError(
            f"The key in {shown(path)} is DER (binary), but the SDK reads PEM: "
            "convert it with 'openssl pkey -inform DER' and give the new file."
        )
    other = what_else(data) or "no private key"
    raise CertificateError(
        f"{shown(path)} holds {other}, not a private key in PEM: give the key file of the certificate."
    )


def _refuse_der_certificate(path: Path) -> None:
    if first_block(read_file(path, "certificate file"), CERTIFICATE_LABELS, shown(path)) is None:
        raise CertificateError(
            f"The certificate in {shown(path)} is DER (binary), but the SDK reads PEM: "
            "convert it with 'openssl x509 -inform DER' and give the new file."
        )


def _public_octets(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _certificate_key(path: Path, description: Description) -> bytes:
    try:
        return _public_octets(load_certificate(description.der).public_key())
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(
            f"The certificate in {shown(path)} has a kind of key "
            f"({description.key_type}) that cannot be used here: "
            "use RSA or EC P-256."
        ) from None


def _load_as_the_sdk_does(certificate_file: Path, key_file: Path, pass_phrase: str) -> None:
    """The last word is OpenSSL's: it also minds byte order marks, indentation and keys too weak for TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    reason = None
    try:
        context.load_cert_chain(certificate_file, key_file, lambda: pass_phrase)
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "unreadable"
    if reason:
        raise CertificateError(
            f"OpenSSL does not take {shown(certificate_file)} with {shown(key_file)} ({reason}): "
            "save both as plain ASCII PEM, or make a new pair."
        )


# --- what is there already ------------------------------------------------------------------------


def _folder(directory: Path) -> Path:
    folder = Path(directory)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CertificateError(f"{shown(folder)} is a file: give the folder for the certificate and its key.")
    raise CertificateError(f"There is no folder {shown(folder)}: make it, or give another one.")


def _any_exists(*files: Path) -> bool:
    return any(os.path.lexists(file) for file in files)


def _refusal(certificate_file: Path, key_file: Path) -> str:
    there = " and ".join(file.name for file in (certificate_file, key_file) if os.path.lexists(file))
    return (
        f"{there} already in {shown(certificate_file.parent)} may be enrolled: "
        "choose existing='reuse' to keep it or existing='replace' to make a new pair in its place."
    )


def _check_reusable(
    registration_id: str, pass_phrase: str, certificate_file: Path, key_file: Path, now: datetime
) -> None:
    for file in (certificate_file, key_file):
        if not file.exists():
            raise CertificateError(
                f"{file.name} is missing in {shown(file.parent)} beside its other half: "
                "bring it back, or choose existing='replace' to make a new pair."
            )
    found = check_pair(certificate_file, key_file, pass_phrase)
    where, remedy = shown(certificate_file), "choose existing='replace' to make a new pair"
    if found.common_name != registration_id:
        raise CertificateError(
            f"The certificate in {where} names {found.common_name!a}, not {registration_id}: "
            "use that name as registration ID, "
            f"or {remedy}."
        )
    if now > found.not_after:
        raise CertificateError(f"The certificate in {where} expired on {found.not_after:%Y-%m-%d %H:%M} UTC: {remedy}.")
    if now < found.not_before:
        raise CertificateError(
            f"The certificate in {where} is valid only from {found.not_before:%Y-%m-%d %H:%M} UTC: "
            f"check this machine's clock, or {remedy}."
        )
