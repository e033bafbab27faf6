"""TLS over memory against Python's own client, which verifies as strictly as it can, and the emulator's CA."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import certifi
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL
from pki import Device, make_device

from dpsx_helpers.emulator import tls
from dpsx_helpers.emulator.tls import Channel, Files, prepare, server_context, write_bundle, write_private


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """A CA and a server certificate for 127.0.0.1."""
    found = Files(tmp_path)
    prepare(found, "127.0.0.1", datetime.now(UTC))
    return found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The same for all tests that only connect."""
    found = Files(tmp_path_factory.mktemp("shared"))
    prepare(found, "127.0.0.1", datetime.now(UTC))
    return found


def trust(files: Files) -> ssl.SSLContext:
    """A client context that trusts the emulator's CA alone, with every check that Python has."""
    context = ssl.create_default_context(cafile=str(files.ca))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    assert context.check_hostname
    return context


class Client:
    """A stdlib client joined to a channel: what one side has to send reaches the other, until both are silent."""

    def __init__(self, files: Files, context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.channel = Channel(server_context(files))
        self.received = b""
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = (context or trust(files)).wrap_bio(self._in, self._out, server_hostname=host)

    def pump(self) -> None:
        while True:
            to_client = self.channel.outgoing()
            self._in.write(to_client)
            to_server = self._out.read()
            self.received += self.channel.receive(to_server)
            if not to_client and not to_server:
                return

    def handshake(self) -> "Client":
        for _ in range(10):
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.pump()
            else:
                self.pump()
                return self
        raise AssertionError("the handshake does not end")


def presenting(files: Files, device: Device) -> ssl.SSLContext:
    context = trust(files)
    context.load_cert_chain(device.certificate_file, device.key_file)
    return context


def certificates(path: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(path.read_bytes())


# --- files ------------------------------------------------------------------------------------------------------------


def test_every_file_is_private_to_its_owner(files: Files) -> None:
    write_bundle(files, [], certifi.where())
    modes = {path.name: path.stat().st_mode & 0o777 for path in files.directory.iterdir()}
    assert modes == dict.fromkeys(("ca.pem", "ca.key.pem", "server.pem", "server.key.pem", "ca-bundle.pem"), 0o600)


def test_a_private_file_is_private_whatever_was_there(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(b"old and longer")
    path.chmod(0o644)
    write_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_private_file_that_cannot_be_put_in_place_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken" / "full").mkdir(parents=True)
    with pytest.raises(OSError, match="taken"):
        write_private(tmp_path / "taken", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_keys_and_certificates_belong_together(files: Files) -> None:
    for key_file, certificate_file in ((files.ca_key, files.ca), (files.server_key, files.server)):
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
        assert key.public_key() == certificates(certificate_file)[0].public_key()


def test_the_ca_stays_and_the_server_certificate_is_new_at_every_start(files: Files) -> None:
    ca, ca_key = files.ca.read_bytes(), files.ca_key.read_bytes()
    first, first_key = certificates(files.server)[0], files.server_key.read_bytes()
    prepare(files, "127.0.0.1", datetime.now(UTC))
    assert (files.ca.read_bytes(), files.ca_key.read_bytes()) == (ca, ca_key)
    second = certificates(files.server)[0]
    assert second.serial_number != first.serial_number
    assert files.server_key.read_bytes() != first_key
    second.verify_directly_issued_by(certificates(files.ca)[0])


@pytest.mark.parametrize("missing", ["ca", "ca_key"])
def test_half_a_ca_is_made_anew(files: Files, missing: str) -> None:
    before = certificates(files.ca)[0]
    getattr(files, missing).unlink()
    prepare(files, "127.0.0.1", datetime.now(UTC))
    assert certificates(files.ca)[0] != before
    Client(files).handshake()


@pytest.mark.parametrize(
    ("host", "names"),
    [
        ("127.0.0.1", ["127.0.0.1", "localhost"]),
        ("127.4.5.6", ["127.4.5.6", "localhost"]),
        ("::1", ["::1", "localhost"]),
        ("dps.lab.localhost", ["dps.lab.localhost", "localhost"]),
        ("localhost", ["localhost"]),
    ],
)
def test_the_server_certificate_names_its_host(tmp_path: Path, host: str, names: list[str]) -> None:
    files = Files(tmp_path)
    prepare(files, "127.0.0.9", datetime.now(UTC))
    prepare(files, host, datetime.now(UTC))
    alternative = certificates(files.server)[0].extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert [str(name.value) for name in alternative.value] == names
    for name in names:
        assert Client(files, host=name).handshake().channel.handshaken
    with pytest.raises(ssl.SSLCertVerificationError, match=r"127\.0\.0\.9"):
        Client(files, host="127.0.0.9").handshake()


def test_the_server_certificate_comes_with_its_ca_and_is_for_servers(files: Files) -> None:
    server, ca = certificates(files.server)
    assert [ca] == certificates(files.ca)
    usage = server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_the_ca_signs_servers_and_no_further_ca(files: Files) -> None:
    (ca,) = certificates(files.ca)
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)


def test_each_ca_has_a_name_and_a_key_identifier_of_its_own(files: Files, shared: Files) -> None:
    one, other = (certificates(each.ca)[0] for each in (files, shared))
    assert one.subject != other.subject
    assert one.subject.rfc4514_string().startswith("CN=dpsx emulator CA ")
    identifiers = [
        each.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest for each in (one, other)
    ]
    assert identifiers[0] != identifiers[1]
    for own, identifier in zip((one, other), identifiers, strict=True):
        issuer = own.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        assert issuer.key_identifier == identifier


def test_two_emulators_in_one_bundle_are_told_apart(files: Files, shared: Files) -> None:
    context = trust(files)
    context.load_verify_locations(shared.ca)
    for each in (files, shared):
        Client(each, context).handshake()
    with pytest.raises(ssl.SSLCertVerificationError):
        Client(files, trust(shared)).handshake()


def test_validity_is_counted_from_the_moment_given(tmp_path: Path) -> None:
    now = datetime(2030, 5, 6, 7, 8, 9, 999_999, UTC)
    files = Files(tmp_path)
    prepare(files, "127.0.0.1", now)
    start = datetime(2030, 5, 6, 7, 8, 9, tzinfo=UTC) - tls.BACKDATED
    # Some clients take no server certificate that is valid for longer than 398 days.
    assert tls.SERVER_DAYS < 398 < tls.CA_DAYS
    for path, days in ((files.ca, tls.CA_DAYS), (files.server, tls.SERVER_DAYS)):
        certificate = certificates(path)[0]
        assert certificate.not_valid_before_utc == start
        assert certificate.not_valid_after_utc == start + timedelta(days=days)
    with pytest.raises(ssl.SSLCertVerificationError, match="not yet valid"):
        Client(files).handshake()


# --- the bundle -------------------------------------------------------------------------------------------------------


def pem_file(directory: Path, name: str) -> tuple[str, str]:
    """A file with one certificate: its path and its text."""
    device = make_device(directory, name)
    return str(device.certificate_file), device.pem


def test_a_bundle_has_what_was_trusted_then_the_emulator_then_certifi(files: Files, tmp_path: Path) -> None:
    (one, one_pem), (two, two_pem), (last, last_pem) = (pem_file(tmp_path, name) for name in ("one", "two", "last"))
    write_bundle(files, [one, two], last)
    pems = [one_pem, two_pem, files.ca.read_text(), last_pem]
    assert files.bundle.read_text() == "".join(pems)
    assert [each.public_bytes(serialization.Encoding.PEM).decode() for each in certificates(files.bundle)] == pems


def test_a_bundle_does_without_what_is_missing_or_no_certificate(files: Files, tmp_path: Path) -> None:
    good, good_pem = pem_file(tmp_path, "good")
    (tmp_path / "text").write_text("no certificate")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    named = [str(tmp_path / name) for name in ("text", "nowhere", "binary", ".")] + [good]
    write_bundle(files, named, str(tmp_path / "no-certifi"))
    assert files.bundle.read_text() == good_pem + files.ca.read_text()


def test_a_bundle_has_each_certificate_once(files: Files, tmp_path: Path) -> None:
    one, pem = pem_file(tmp_path, "one")
    (tmp_path / "again").write_bytes(pem.replace("\n", "\r\n").encode())
    write_bundle(files, [one, str(tmp_path / "again")], one)
    assert files.bundle.read_text() == pem + files.ca.read_text()


def test_a_bundle_takes_certificates_beside_bytes_that_are_no_text(files: Files, tmp_path: Path) -> None:
    good, good_pem = pem_file(tmp_path, "good")
    Path(good).write_bytes(b"# caf\xe9\n" + good_pem.encode())
    write_bundle(files, [good], str(tmp_path / "no-certifi"))
    assert files.bundle.read_text() == good_pem + files.ca.read_text()


@pytest.mark.parametrize("named", [[], ["/nowhere/at/all.pem"]])
def test_a_bundle_starts_with_the_roots_of_the_machine_when_no_file_is_named(files: Files, named: list[str]) -> None:
    defaults = ssl.get_default_verify_paths()
    machine = Path(defaults.cafile or defaults.openssl_cafile)
    before = blocks(machine.read_text(errors="ignore")) if machine.is_file() else []
    write_bundle(files, named, certifi.where())
    wanted = [*before, *blocks(files.ca.read_text()), *blocks(Path(certifi.where()).read_text())]
    assert blocks(files.bundle.read_text()) == list(dict.fromkeys(wanted))
    assert blocks(files.ca.read_text())[0] not in before


def blocks(text: str) -> list[str]:
    """The certificates in it, without the texts between them."""
    return ["-----BEGIN CERT" + part.partition("-----END CERT")[0] for part in text.split("-----BEGIN CERT")[1:]]


def test_a_client_that_trusts_the_bundle_connects(files: Files) -> None:
    write_bundle(files, [], certifi.where())
    context = ssl.create_default_context(cafile=str(files.bundle))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    assert Client(files, context).handshake().channel.handshaken


# --- handshakes -------------------------------------------------------------------------------------------------------


def test_a_client_without_a_certificate_is_let_in(shared: Files) -> None:
    client = Client(shared)
    assert not client.channel.handshaken
    assert client.handshake().channel.handshaken
    assert client.channel.peer_certificates == ()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unknown", {}),
        ("expired", {"valid_from": timedelta(days=-40)}),
        ("future", {"valid_from": timedelta(days=40)}),
        ("ca", {"ca": True}),
    ],
)
def test_any_client_certificate_is_taken_and_handed_on(
    shared: Files, tmp_path: Path, name: str, options: dict[str, timedelta | bool]
) -> None:
    device = make_device(tmp_path, name, **options)  # type: ignore[arg-type]
    client = Client(shared, presenting(shared, device)).handshake()
    assert client.channel.handshaken
    assert client.channel.peer_certificates == (device.der,)


def test_a_chain_is_handed_on_whole_and_in_its_order(shared: Files, tmp_path: Path) -> None:
    device, *others = (make_device(tmp_path, name, ca=name != "leaf") for name in ("leaf", "above", "top"))
    device.certificate_file.write_text("".join(one.pem for one in (device, *others, others[0])))
    channel = Client(shared, presenting(shared, device)).handshake().channel
    assert channel.peer_certificates == (device.der, *(one.der for one in others)), "each once, the device's own first"


def test_a_client_cannot_pass_for_the_owner_of_a_certificate(shared: Files, tmp_path: Path) -> None:
    """Whatever is presented, its key must have signed the handshake: the last byte of that signature is turned here."""
    client = Client(shared, presenting(shared, make_device(tmp_path, "stolen")))
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.do_handshake()
    client.pump()
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.do_handshake()
    flight = bytearray(client._out.read())
    records, at = [], 0
    while at < len(flight):
        records.append((at, at + 5 + int.from_bytes(flight[at + 3 : at + 5], "big")))
        at = records[-1][1]
    # The flight is Certificate, ClientKeyExchange, CertificateVerify, ChangeCipherSpec, Finished.
    start, end = records[-3]
    assert (flight[start], flight[start + 5]) == (22, 15)
    flight[end - 1] ^= 1
    with pytest.raises(SSL.Error):
        client.channel.receive(bytes(flight))
    assert not client.channel.handshaken


def test_a_client_that_offers_more_gets_tls_1_2(shared: Files) -> None:
    context = trust(shared)
    assert ssl.HAS_TLSv1_3
    assert context.maximum_version is ssl.TLSVersion.MAXIMUM_SUPPORTED
    client = Client(shared, context).handshake()
    assert client.tls.version() == "TLSv1.2"


def test_a_client_that_wants_tls_1_3_alone_is_refused(shared: Files) -> None:
    context = trust(shared)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with pytest.raises(SSL.Error, match="unsupported protocol"):
        Client(shared, context).handshake()


@pytest.mark.parametrize("size", [256, 128])
@pytest.mark.parametrize("mode", ["GCM-SHA", "SHA"])
def test_the_ciphers_that_azure_documents_are_taken(shared: Files, size: int, mode: str) -> None:
    name = f"ECDHE-ECDSA-AES{size}-{mode}{384 if size == 256 else 256}"
    context = trust(shared)
    context.set_ciphers(name)
    found = Client(shared, context).handshake().tls.cipher()
    assert found is not None
    assert found[0] == name


def test_another_cipher_is_not_taken(shared: Files) -> None:
    context = trust(shared)
    context.set_ciphers("ECDHE-ECDSA-CHACHA20-POLY1305")
    with pytest.raises(SSL.Error, match="no shared cipher"):
        Client(shared, context).handshake()


def test_a_client_that_offers_tls_1_1_at_most_is_refused(shared: Files) -> None:
    """Today's libraries offer it no more, so this ClientHello is written by hand."""
    hello = b"\x03\x02" + bytes(32) + b"\x00" + b"\x00\x02\xc0\x0a" + b"\x01\x00"
    message = b"\x01" + len(hello).to_bytes(3, "big") + hello
    channel = Channel(server_context(shared))
    with pytest.raises(SSL.Error, match="unsupported protocol"):
        channel.receive(b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message)


def test_no_session_is_kept(shared: Files) -> None:
    session = Client(shared).handshake().tls.session
    assert session is not None
    assert (session.has_ticket, session.id) == (False, b"")


class OtherClient:
    """A pyOpenSSL client, for what the stdlib's cannot do."""

    def __init__(self, files: Files) -> None:
        self.channel = Channel(server_context(files))
        self.tls = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
        self.tls.set_connect_state()
        self.handshake()
        assert self.channel.handshaken

    def handshake(self) -> None:
        for _ in range(10):
            try:
                return self.tls.do_handshake()
            except SSL.WantReadError:
                self.channel.receive(self.tls.bio_read(65_536))
                self.tls.bio_write(self.channel.outgoing())
        raise AssertionError("the handshake does not end")


def test_the_chain_is_sent_with_the_ca(shared: Files) -> None:
    chain = OtherClient(shared).tls.get_peer_cert_chain(as_cryptography=True)
    assert chain == certificates(shared.server)
    assert len(chain) == 2


def test_nobody_renegotiates(shared: Files) -> None:
    client = OtherClient(shared)
    client.tls.renegotiate()
    with pytest.raises(SSL.Error, match="no renegotiation"):
        client.handshake()


# --- data -------------------------------------------------------------------------------------------------------------


def test_nothing_is_said_before_the_client_speaks(shared: Files) -> None:
    channel = Channel(server_context(shared))
    assert channel.outgoing() == b""
    assert channel.receive(b"") == b""
    assert not channel.handshaken


@pytest.mark.parametrize("size", [1, 16_384, 16_385, 300_000])
def test_data_goes_both_ways_whatever_its_size(shared: Files, size: int) -> None:
    client = Client(shared).handshake()
    data = bytes(at % 251 for at in range(size))
    client.tls.write(data)
    client.pump()
    assert client.received == data
    client.channel.send(data)
    assert client.channel.receive(b"") == b""
    client.pump()
    answered = b""
    while len(answered) < size:
        answered += client.tls.read(65_536)
    assert answered == data
    assert client.channel.outgoing() == b""


def test_what_is_sent_is_fetched_in_small_pieces(shared: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyOpenSSL takes memory for as many bytes as it is asked for, each time."""
    asked: list[int] = []
    read = SSL.Connection.bio_read

    def watched(connection: SSL.Connection, most: int) -> bytes:
        asked.append(most)
        return read(connection, most)

    monkeypatch.setattr(SSL.Connection, "bio_read", watched)
    client = Client(shared).handshake()
    asked.clear()
    client.channel.send(bytes(100))
    assert len(client.channel.outgoing()) > 100
    assert len(asked) == 1  # nothing is asked for once more when there is less than there might have been
    client.channel.send(bytes(100_000))
    assert len(client.channel.outgoing()) > 100_000
    assert max(asked) <= 4096


def test_bytes_may_come_one_by_one(shared: Files) -> None:
    client = Client(shared).handshake()
    client.tls.write(b"hello")
    record = client._out.read()
    pieces = [client.channel.receive(record[at : at + 1]) for at in range(len(record))]
    assert pieces == [b""] * (len(record) - 1) + [b"hello"]


def test_several_records_come_in_one_chunk(shared: Files) -> None:
    client = Client(shared).handshake()
    for word in (b"one", b"two"):
        client.tls.write(word)
    assert client.channel.receive(client._out.read()) == b"onetwo"


# --- ends -------------------------------------------------------------------------------------------------------------


def test_a_client_that_says_close_notify_is_noticed(shared: Files) -> None:
    client = Client(shared).handshake()
    client.tls.write(b"last words")
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.unwrap()
    assert not client.channel.closed
    client.pump()
    assert client.received == b"last words"
    assert client.channel.closed
    client.channel.close()
    client.pump()
    client.tls.unwrap()


def test_the_server_says_close_notify_after_its_last_data(shared: Files) -> None:
    client = Client(shared).handshake()
    client.channel.send(b"last words")
    client.channel.close()
    client.pump()
    assert client.tls.read() == b"last words"
    assert client.tls.read() == b""  # the end; a connection that is merely silent raises SSLWantReadError
    assert not client.channel.closed


def test_closing_before_the_handshake_is_over_says_nothing(shared: Files) -> None:
    channel = Channel(server_context(shared))
    channel.close()
    assert channel.outgoing() == b""


def test_closing_twice_does_no_harm(shared: Files) -> None:
    client = Client(shared).handshake()
    client.channel.close()
    client.channel.close()
    client.pump()
    assert client.tls.read() == b""


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03dev", bytes(100), b"\xff" * 10_000],
    ids=["HTTP", "MQTT without TLS", "zeros", "ones"],
)
def test_garbage_instead_of_a_handshake_is_an_error_of_tls(shared: Files, garbage: bytes) -> None:
    channel = Channel(server_context(shared))
    with pytest.raises(SSL.Error):
        channel.receive(garbage)
    assert not channel.handshaken


@pytest.mark.parametrize("place", [0, 5, -1], ids=["header", "first byte", "last byte"])
def test_a_record_that_was_tampered_with_is_an_error_of_tls(shared: Files, place: int) -> None:
    client = Client(shared).handshake()
    client.tls.write(b"hello")
    record = bytearray(client._out.read())
    record[place] ^= 0x80
    with pytest.raises(SSL.Error):
        client.channel.receive(bytes(record))


def test_a_client_that_does_not_trust_the_server_is_an_error_of_tls(shared: Files) -> None:
    client = Client(shared, ssl.create_default_context(cafile=certifi.where()))
    with pytest.raises(ssl.SSLCertVerificationError):
        client.handshake()
    with pytest.raises(SSL.Error, match="unknown ca"):
        client.pump()
