"""Certificate authorities of your own, and devices whose certificates they sign.

For learning and testing: a product's authority keeps its root key offline, often with a provider. A chain as DPS
wants it is the device's certificate with its intermediates behind it, in one PEM file:
https://learn.microsoft.com/azure/iot-dps/concepts-x509-attestation
"""

import random
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from dpsx_helpers import certificates, chains
from dpsx_helpers.certificate_files import CertificateError, load_certificate
from dpsx_helpers.certificate_making import (
    KeyType,
    PrivateKey,
    encrypted,
    new_key,
    of_authority,
    of_device,
    refuse_short,
)
from dpsx_helpers.certificate_store import alone_in, put_pair
from dpsx_helpers.errors import shown, shown_value

_LONGEST_PATH = 100
_A_DAY = 1  # the certificate of a proof is looked at once


@dataclass(frozen=True)
class Authority:
    """A certificate that signs others, with its key; `issuer` is None for a root, which has signed itself."""

    name: str
    certificate_file: Path
    key_file: Path
    issuer: "Authority | None" = None

    @property
    def chain(self) -> tuple["Authority", ...]:
        """Itself and its issuers up to the root."""
        return (self, *(self.issuer.chain if self.issuer else ()))

    @property
    def certificate(self) -> x509.Certificate:
        return load_certificate(certificates.describe(self.certificate_file).der)

    @property
    def pem(self) -> str:
        """The certificate as it is handed to others."""
        return self.certificate.public_bytes(Encoding.PEM).decode("ascii")


def create(
    name: str,
    pass_phrase: str,
    folder: Path,
    *,
    issuer: Authority | None = None,
    path_length: int | None = None,
    days: int = 3650,
    key_type: KeyType = "ec-p256",
) -> Authority:
    """The authority of this (common) name in `folder`: `<name>.pem` and `<name>.key.pem`, made when not there.

    `issuer` signs it, else it signs itself; the pass phrase encrypts its key, and opens its issuer's. `path_length`:
    how many authorities may follow below it. Raises CertificateError, also when what is there is another authority.
    """
    certificates.check_registration_id(name)  # the same signs make a good file name
    refuse_short(pass_phrase)
    if path_length is not None and not (type(path_length) is int and 0 <= path_length <= _LONGEST_PATH):
        raise CertificateError(
            f"{shown_value(path_length)} is no path length: give None, or how many authorities may follow, for example "
            "0."
        )
    certificate_file, key_file = folder / f"{name}.pem", folder / f"{name}.key.pem"
    made = Authority(name, certificate_file, key_file, issuer)
    with _held(folder):
        if _is_there(certificate_file, key_file):
            _check_reusable(made, pass_phrase, path_length)
            return made
        key = new_key(key_type)
        by, signer = (issuer.certificate, _key(issuer, pass_phrase)) if issuer else (None, key)
        certificate = of_authority(name, key, _now(), days, by, signer, path_length)
        put_pair(key_file, encrypted(key, pass_phrase), certificate_file, certificate.public_bytes(Encoding.PEM))
    return made


def issue(
    registration_id: str,
    authority: Authority,
    pass_phrase: str,
    folder: Path,
    *,
    days: int = 365,
    key_type: KeyType = "ec-p256",
    existing: certificates.Existing = "reuse",
) -> certificates.Pair:
    """A device's pair in `folder`, signed by the authority; the certificate file has the intermediates behind it.

    The root is not in it: DPS has that. What is there already is kept with "reuse" (it has to open and to name this
    device), made anew with "replace", refused with "refuse". Raises CertificateError.
    """
    certificates.check_registration_id(registration_id)
    refuse_short(pass_phrase)
    certificates.check_existing(existing)
    pair = certificates.Pair(folder / certificates.CERTIFICATE_FILE, folder / certificates.KEY_FILE, created=True)
    with _held(folder):
        if existing != "replace" and _is_there(pair.certificate_file, pair.key_file, halves=existing == "refuse"):
            if existing == "refuse":
                raise CertificateError(
                    f"There is a pair in {shown(folder)} already: choose existing='reuse' to keep it or 'replace' to "
                    "make a new one."
                )
            _check_device(pair, registration_id, authority, pass_phrase)
            return certificates.Pair(pair.certificate_file, pair.key_file, created=False)
        key = new_key(key_type)
        signer = _key(authority, pass_phrase)
        leaf = of_device(registration_id, key, _now(), days, authority.certificate, signer)
        chain = leaf.public_bytes(Encoding.PEM) + "".join(_behind(authority)).encode("ascii")
        put_pair(pair.key_file, encrypted(key, pass_phrase), pair.certificate_file, chain)
    return pair


def leaf(certificate_file: Path) -> str:
    """The device's own certificate in PEM, without what stands behind it in the file."""
    return ssl.DER_cert_to_PEM_cert(certificates.describe(certificate_file).der)


def proof_of_possession(authority: Authority, verification_code: str, pass_phrase: str) -> str:
    """The PEM certificate that proves to DPS that the authority's key is yours: its common name is the code.

    https://learn.microsoft.com/azure/iot-dps/how-to-verify-certificates
    """
    signer = _key(authority, pass_phrase)
    proof = of_device(verification_code, new_key("ec-p256"), _now(), _A_DAY, authority.certificate, signer)
    return proof.public_bytes(Encoding.PEM).decode("ascii")


def broken_chains(authority: Authority, pass_phrase: str, folder: Path) -> list[Path]:
    """Three chains of devices of this authority, `chain-a.pem` to `chain-c.pem`, each with another fault.

    They are made once, in an order left to chance. There are no keys: nobody connects with them.
    """
    files = [folder / f"chain-{letter}.pem" for letter in "abc"]
    with _held(folder):
        if not all(file.exists() for file in files):
            broken = _broken(authority, pass_phrase)
            random.SystemRandom().shuffle(broken)
            try:
                for file, chain in zip(files, broken, strict=True):
                    file.write_text("".join(chain), encoding="ascii")
            except OSError as error:
                for file in files:
                    file.unlink(missing_ok=True)
                raise CertificateError(
                    f"The chains cannot be written to {shown(folder)} ({error.strerror}): use a folder you may write "
                    "to, with space left on its disk."
                ) from None
    return files


def _broken(authority: Authority, pass_phrase: str) -> list[list[str]]:
    """One that has expired, one whose issuers stand in the wrong order, one of a device that is an authority."""
    signer, key, by, now = _key(authority, pass_phrase), new_key("ec-p256"), authority.certificate, _now()
    behind = _behind(authority)
    expired = of_device("press-11", key, now - timedelta(days=60), 30, by, signer)
    reversed_ = of_device("press-12", key, now, 365, by, signer)
    powerful = of_authority("press-13", key, now, 365, by, signer, None)
    return [
        [_pem(expired), *behind],
        [_pem(reversed_), *(one.pem for one in reversed(authority.chain))],
        [_pem(powerful), *behind],
    ]


def _behind(authority: Authority) -> list[str]:
    """What a device of this authority sends behind its own certificate: all up to the root, without it."""
    return [one.pem for one in authority.chain if one.issuer is not None]


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode("ascii")


def _is_there(certificate_file: Path, key_file: Path, *, halves: bool = False) -> bool:
    """Whether both files are there. CertificateError for one without the other, unless `halves` count too."""
    found = [file for file in (certificate_file, key_file) if file.exists()]
    if len(found) == 1 and not halves:
        raise CertificateError(
            f"{shown(found[0])} is there without its other half: delete it, or bring the other back, and run this "
            "again."
        )
    return bool(found)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CertificateError(
            f"The folder {shown(folder)} cannot be made ({error.strerror}): choose one that you may write to."
        ) from None
    with alone_in(folder):
        yield


def _key(authority: Authority, pass_phrase: str) -> PrivateKey:
    return cast(PrivateKey, certificates.open_key(authority.key_file, pass_phrase))


def _check_reusable(authority: Authority, pass_phrase: str, path_length: int | None) -> None:
    found = certificates.check_pair(authority.certificate_file, authority.key_file, pass_phrase)
    where = shown(authority.certificate_file)
    if not found.is_ca or found.common_name != authority.name:
        raise CertificateError(
            f"{where} is not the authority {authority.name}: move that file away and run this again."
        )
    _check_issuer(where, authority.certificate, authority.issuer or authority)
    _check_dates(where, found)
    basic = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    if basic.path_length != path_length:
        raise CertificateError(
            f"{where} has the path length {basic.path_length}, not {path_length}: delete it and its key, and run this "
            "again."
        )


def _check_device(pair: certificates.Pair, registration_id: str, authority: Authority, pass_phrase: str) -> None:
    found = certificates.check_pair(pair.certificate_file, pair.key_file, pass_phrase)
    where = shown(pair.certificate_file)
    if found.common_name != registration_id:
        raise CertificateError(
            f"The certificate in {where} names {found.common_name!a}, not {registration_id}: choose existing='replace' "
            "to make a new one."
        )
    _check_issuer(where, load_certificate(found.der), authority)
    _check_dates(where, found)
    root = authority.chain[-1].pem
    if broken := chains.faults(chains.links(pair.certificate_file, trusted=root)):
        raise CertificateError(
            f"The chain in {where} does not hold ({broken[0].name}): choose existing='replace' to make a new one."
        )


def _check_issuer(where: str, certificate: x509.Certificate, issuer: Authority) -> None:
    try:
        certificate.verify_directly_issued_by(issuer.certificate)
    except Exception:  # noqa: BLE001 - another name, another key, another kind of key: not by this issuer
        raise CertificateError(
            f"{where} was not signed by the authority {issuer.name} that is here now: delete it and run this again."
        ) from None


def _check_dates(where: str, found: certificates.Description) -> None:
    if not found.not_before <= _now() <= found.not_after:
        raise CertificateError(
            f"The certificate in {where} is valid from {found.not_before:%Y-%m-%d} to {found.not_after:%Y-%m-%d} only: "
            "delete it and its key, and run this again."
        )
