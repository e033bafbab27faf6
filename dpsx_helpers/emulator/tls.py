"""TLS that takes any client certificate and hands it on, and the emulator's own CA. No sockets.

Azure completes the handshake with an unknown, expired or CA client certificate and says 401 later, in MQTT. Python's
own `ssl` cannot do that (a certificate it asks for must verify), pyOpenSSL can. TLS is 1.2, as on Azure:
https://learn.microsoft.com/azure/iot-dps/tls-support
"""

import ipaddress
import os
import re
import ssl
import tempfile
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL, crypto

from dpsx_helpers import given_files

CA_DAYS, SERVER_DAYS = 3650, 397
# For clocks that are behind, and for one that is set back while the emulator runs: nobody could connect until the time
# has come round again.
BACKDATED = timedelta(days=30)
_LARGEST_BUNDLE = 1 << 24  # bytes; the roots of a machine have some hundred thousand
CIPHERS = (
    b"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-SHA384:ECDHE-ECDSA-AES128-SHA256"
)
_CERTIFICATE = re.compile("-----BEGIN ((?:X509 |TRUSTED )?CERTIFICATE)-----.*?-----END \\1-----", re.DOTALL)
# Bytes handed to OpenSSL at once, whose buffers grow to what they are given and stay, and fetched from it: pyOpenSSL
# takes memory for as many as are asked for, however few there are. A large piece for each packet of a device, among the
# small ones that connections keep, has the C library ask the system for more and more.
_SLICE = 4096


@dataclass(frozen=True, slots=True)
class Files:
    """Where the emulator's CA and server certificate live. Keys are readable by their owner alone."""

    directory: Path

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def ca_key(self) -> Path:
        return self.directory / "ca.key.pem"

    @property
    def server(self) -> Path:
        return self.directory / "server.pem"

    @property
    def server_key(self) -> Path:
        return self.directory / "server.key.pem"

    @property
    def bundle(self) -> Path:
        return self.directory / "ca-bundle.pem"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(path.name for path in (self.ca, self.ca_key, self.server, self.server_key, self.bundle))


def write_private(path: Path, data: bytes) -> None:
    """Replace a file at once, readable by its owner alone from its first byte on."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def tidy(directory: Path, *names: str) -> None:
    """Delete what a process that was killed while it wrote one of these files has left: keys may be in it."""
    for name in names:
        for left in directory.glob(f".{name}.????????"):
            left.unlink(missing_ok=True)


def prepare(files: Files, host: str, now: datetime) -> None:
    """Make what is missing: the CA once, the server certificate for `host` and localhost at every start.

    Raises ValueError or TypeError when the CA that is there cannot be used, OSError.
    """
    if not (files.ca.exists() and files.ca_key.exists()):
        key = ec.generate_private_key(ec.SECP256R1())
        files.ca.unlink(missing_ok=True)  # whoever is killed between the two leaves no CA with another's key
        write_private(files.ca_key, _key_pem(key))
        write_private(files.ca, _ca_certificate(key, now).public_bytes(Encoding.PEM))
    ca = x509.load_pem_x509_certificate(files.ca.read_bytes())
    ca_key = serialization.load_pem_private_key(files.ca_key.read_bytes(), None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey) or ca_key.public_key() != ca.public_key():
        raise ValueError("the key is that of another CA")
    server_key = ec.generate_private_key(ec.SECP256R1())
    certificate = _server_certificate(server_key, host, ca, ca_key, now)
    write_private(files.server_key, _key_pem(server_key))
    write_private(files.server, certificate.public_bytes(Encoding.PEM) + ca.public_bytes(Encoding.PEM))


def write_bundle(files: Files, named: list[str], certifi: str) -> None:
    """All that a client should trust: what the machine trusted before, the emulator's CA, certifi last.

    `named`: the files that SSL_CERT_FILE and REQUESTS_CA_BUNDLE named, which stand for the machine's own roots.
    """
    defaults = ssl.get_default_verify_paths()
    machine = [path for path in named if os.path.isfile(path)] or [defaults.cafile or defaults.openssl_cafile]
    parts = [_text(Path(path)) for path in machine if path] + [files.ca.read_text(), _text(Path(certifi))]
    # Each once: a client decodes them all for each connection, and the two lists of roots are nearly the same.
    once = {"".join(one[0].split()): one[0] for part in parts for one in _CERTIFICATE.finditer(part)}
    write_private(files.bundle, "\n".join([*once.values(), ""]).encode())


def _text(path: Path) -> str:
    """What is in a file; nothing when it is missing."""
    try:
        return given_files.read(path, _LARGEST_BUNDLE).decode("utf-8", "ignore")
    except OSError:
        return ""


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _ca_certificate(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    """A CA with a name and key identifiers of its own: two emulators in one bundle must not be mistaken."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"dpsx emulator CA {uuid.uuid4()}")])
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    return (
        _builder(name, name, key.public_key(), now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _server_certificate(
    key: ec.EllipticCurvePrivateKey, host: str, ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey, now: datetime
) -> x509.Certificate:
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    try:
        names.insert(0, x509.IPAddress(ipaddress.ip_address(host)))
    except ValueError:
        if host != "localhost":
            names.insert(0, x509.DNSName(host.encode("idna").decode()))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])  # clients look at the names above
    return (
        _builder(subject, ca.subject, key.public_key(), now, SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    start = now.astimezone(UTC).replace(microsecond=0) - BACKDATED
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def server_context(files: Files) -> SSL.Context:
    """A context that asks for a client certificate and accepts whichever comes, or none."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(CIPHERS)
    context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.use_certificate_chain_file(str(files.server))
    context.use_privatekey_file(str(files.server_key))
    context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    return context


class Channel:
    """The server's end of one TLS connection over memory: ciphertext in, plaintext out, and the reverse.

    After each call send what `outgoing` returns. `handshaken` turns True once; from then on `peer_certificates` are
    those that the client sent, its own first, as DER. `closed` turns True when the peer said close_notify.
    """

    def __init__(self, context: SSL.Context) -> None:
        self._tls = SSL.Connection(context, None)
        self._tls.set_accept_state()
        self.handshaken = False
        self.closed = False
        self.peer_certificates: tuple[bytes, ...] = ()

    def receive(self, ciphertext: bytes) -> bytes:
        """The plaintext in `ciphertext`, empty while the handshake runs. Raises SSL.Error when TLS breaks."""
        plaintext = bytearray()
        for start in range(0, len(ciphertext), _SLICE):
            self._tls.bio_write(ciphertext[start : start + _SLICE])
            if self.handshaken or self._handshake():
                self._drain(plaintext)
        return bytes(plaintext)

    def _handshake(self) -> bool:
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            return False
        own = self._tls.get_peer_certificate()
        if own is not None:
            # As they came: OpenSSL takes some that `cryptography` does not decode. Its chain lacks the client's own.
            sent = [own, *(self._tls.get_peer_cert_chain() or ())]
            ders = [crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate) for certificate in sent]
            self.peer_certificates = tuple(dict.fromkeys(ders))
        self.handshaken = True
        return True

    def _drain(self, plaintext: bytearray) -> None:
        try:
            while True:
                plaintext += self._tls.recv(_SLICE)
        except SSL.WantReadError:
            return
        except SSL.ZeroReturnError:
            self.closed = True

    def send(self, plaintext: bytes) -> None:
        """Encrypt; the result waits in `outgoing`."""
        view = memoryview(plaintext)
        while view:
            view = view[self._tls.send(view[:16384]) :]

    def close(self) -> None:
        """Say close_notify, as far as the connection has come."""
        if self.handshaken:
            try:
                self._tls.shutdown()
            except SSL.Error:
                return

    def outgoing(self) -> bytes:
        """The ciphertext to send now."""
        parts = [b""]
        try:
            while len(parts) == 1 or len(parts[-1]) == _SLICE:
                parts.append(self._tls.bio_read(_SLICE))
        except SSL.WantReadError:
            pass
        return b"".join(parts)
