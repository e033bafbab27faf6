"""Certificates made here hold before openssl and in TLS; certificates made elsewhere are described."""

import os
import re
import shutil
import ssl
import stat
import subprocess
import sys
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpsx_helpers import certificates
from dpsx_helpers.certificates import CertificateError, Pair, check_pair, create, describe, open_key

ROOT = Path(__file__).parents[1]
NAME, PHRASE = "Python-device-01", "1234"
ODD_PHRASE = "correct horse ☂ staple"
QUICKSTART = (
    "req -outform PEM -x509 -sha256 -newkey rsa:4096 -keyout k.pem -out c.pem -days 365 -extensions usr_cert "
    f"-subj /CN={NAME} -passout pass:{PHRASE}"
)
needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="the openssl program is not installed")


def openssl(*arguments: str | Path, cwd: Path | None = None, check: bool = True) -> str:
    done = subprocess.run(["openssl", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout + ("" if check else done.stderr)


def make(folder: Path, **options: Any) -> Pair:
    folder.mkdir(exist_ok=True)
    return create(
        options.pop("name", NAME), options.pop("phrase", PHRASE), folder, **{"key_type": "ec-p256", **options}
    )


def sentence(error: BaseException) -> str:
    """The error's text, after asserting that it is one sentence and that nothing behind it says more."""
    text = str(error)
    assert re.fullmatch(r".*: .*\.", text), text
    assert error.__cause__ is None
    return text


def refusal(call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(CertificateError) as caught:
        call(*arguments, **options)
    return sentence(caught.value)


@pytest.fixture(scope="session")
def rsa_pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return create(NAME, PHRASE, tmp_path_factory.mktemp("rsa"))


@pytest.fixture(scope="session")
def ec_pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make(tmp_path_factory.mktemp("ec"), phrase=ODD_PHRASE)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return make(tmp_path / "pair")


# --- the certificate that create() makes -------------------------------------------------------------------


def assert_is_device_certificate(file: Path, name: str = NAME, *, days: int = 365) -> x509.Certificate:
    """The profile of the quickstart's openssl line (usr_cert) plus clientAuth, and nothing more."""
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    assert certificate.version is x509.Version.v3
    assert certificate.subject == certificate.issuer == x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    assert b"\x0c" + bytes([len(name)]) + name.encode() in certificate.subject.public_bytes()  # UTF8String
    assert 0 < certificate.serial_number < 1 << 159
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == timedelta(days=days)
    key_id = x509.SubjectKeyIdentifier.from_public_key(certificate.public_key())
    assert [(one.value, one.critical) for one in certificate.extensions] == [
        (x509.BasicConstraints(ca=False, path_length=None), False),
        (key_id, False),
        (x509.AuthorityKeyIdentifier(key_id.digest, None, None), False),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),
    ]
    certificate.verify_directly_issued_by(certificate)
    return certificate


def test_create_makes_an_rsa_4096_device_certificate(rsa_pair: Pair) -> None:
    key = assert_is_device_certificate(rsa_pair.certificate_file).public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    assert (key.key_size, key.public_numbers().e) == (4096, 65537)
    assert rsa_pair.created
    assert (rsa_pair.certificate_file.name, rsa_pair.key_file.name) == (
        "python-device.pem",
        "python-device.key.pem",
    )


def test_create_makes_an_ec_device_certificate_on_request(ec_pair: Pair) -> None:
    key = assert_is_device_certificate(ec_pair.certificate_file).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)


def test_create_starts_at_the_moment_given_and_now_otherwise(tmp_path: Path) -> None:
    start = datetime(2031, 5, 6, 7, 8, 9, 987654, tzinfo=UTC)
    found = describe(make(tmp_path / "given", now=start, days=30).certificate_file)
    assert found.not_before == start.replace(microsecond=0)
    assert found.not_after == start.replace(microsecond=0) + timedelta(days=30)
    found = describe(make(tmp_path / "now").certificate_file)
    assert abs(datetime.now(UTC) - found.not_before) < timedelta(seconds=30)


def test_serial_numbers_differ(tmp_path: Path) -> None:
    made = {describe(make(tmp_path, existing="replace").certificate_file).serial_number for _ in range(5)}
    assert len(made) == 5


def test_the_key_is_encrypted_pkcs8_for_its_owner_only(rsa_pair: Pair, ec_pair: Pair) -> None:
    for made, phrase in ((rsa_pair, PHRASE), (ec_pair, ODD_PHRASE)):
        assert made.key_file.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
        assert phrase.encode() not in made.key_file.read_bytes() + made.certificate_file.read_bytes()
        if os.name == "posix":
            assert stat.S_IMODE(made.key_file.stat().st_mode) == 0o600


@pytest.mark.skipif(os.name != "posix", reason="file modes are a matter of POSIX")
def test_the_key_is_never_readable_for_others_not_even_while_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    real_open, before = os.open, os.umask(0)

    def watching_open(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        descriptor = real_open(path, flags, mode, **more)
        if flags & os.O_CREAT and "key" in Path(path).name:
            modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return descriptor

    monkeypatch.setattr(os, "open", watching_open)
    try:
        make(tmp_path)
    finally:
        os.umask(before)
    assert modes == [0o600]


@needs_openssl
def test_openssl_verifies_the_certificate_as_its_own_trust_anchor(
    rsa_pair: Pair, ec_pair: Pair, tmp_path: Path
) -> None:
    for made in (rsa_pair, ec_pair):
        own = made.certificate_file
        assert "OK" in openssl("verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", own, own)
    other = make(tmp_path / "other").certificate_file
    assert "OK" not in openssl("verify", "-CAfile", other, rsa_pair.certificate_file, check=False)


@needs_openssl
def test_openssl_opens_the_key_with_the_pass_phrase_and_no_other(rsa_pair: Pair, ec_pair: Pair) -> None:
    for made, phrase in ((rsa_pair, PHRASE), (ec_pair, ODD_PHRASE)):
        public = openssl("pkey", "-in", made.key_file, "-passin", f"pass:{phrase}", "-pubout")
        assert public == openssl("x509", "-in", made.certificate_file, "-noout", "-pubkey")
        assert "PUBLIC KEY" not in openssl(
            "pkey", "-in", made.key_file, "-passin", "pass:12345", "-pubout", check=False
        )


@needs_openssl
def test_the_quickstarts_own_line_makes_the_like_and_its_pair_is_accepted(tmp_path: Path, rsa_pair: Pair) -> None:
    openssl(*QUICKSTART.split(), cwd=tmp_path)
    theirs, ours = (
        check_pair(tmp_path / "c.pem", tmp_path / "k.pem", PHRASE),
        describe(rsa_pair.certificate_file),
    )
    for field in ("version", "subject", "issuer", "key_type", "key_bits", "signature_algorithm", "is_ca"):
        assert getattr(theirs, field) == getattr(ours, field)
    assert theirs.not_after - theirs.not_before == ours.not_after - ours.not_before
    more = {one.name for one in ours.extensions} - {one.name for one in theirs.extensions}
    # OpenSSL from 3.2 on leaves the authority key identifier out of a self-signed certificate.
    assert more - {"Authority Key Identifier"} == {"Extended Key Usage"}


# --- TLS ---------------------------------------------------------------------------------------------------


class Server:
    """A server certificate of its own, made for the test, and what a client trusts it by."""

    def __init__(self, folder: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        now, key_id = datetime.now(UTC), x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .add_extension(key_id, critical=False)
            .add_extension(x509.AuthorityKeyIdentifier(key_id.digest, None, None), critical=False)
            .sign(key, hashes.SHA256())
        )
        self.trust = certificate.public_bytes(Encoding.PEM).decode()
        self.file = folder / "server.pem"
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.file.write_bytes(private + self.trust.encode())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    return Server(tmp_path_factory.mktemp("server"))


def handshake(
    server: Server, certificate: Path, key: Path, phrase: str = PHRASE, *, trusting: Path | None
) -> bytes | None:
    """A TLS handshake in memory, each side checking strictly; the client certificate that the server saw."""
    here, there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    here.load_cert_chain(server.file)
    here.verify_mode, here.verify_flags = ssl.CERT_REQUIRED, here.verify_flags | ssl.VERIFY_X509_STRICT
    if trusting:
        here.load_verify_locations(trusting)
    there.verify_flags |= ssl.VERIFY_X509_STRICT
    there.load_verify_locations(cadata=server.trust)
    there.load_cert_chain(certificate, key, phrase)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [there.wrap_bio(down, up, server_hostname="localhost"), here.wrap_bio(up, down, server_side=True)]
    for _ in range(10):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return sides[1].getpeercert(binary_form=True)


def test_the_pair_is_a_client_certificate_and_its_own_trust_anchor(
    server: Server, rsa_pair: Pair, ec_pair: Pair
) -> None:
    for made, phrase in ((rsa_pair, PHRASE), (ec_pair, ODD_PHRASE)):
        seen = handshake(server, made.certificate_file, made.key_file, phrase, trusting=made.certificate_file)
        assert seen == describe(made.certificate_file).der


def test_the_handshake_fails_without_the_trust_anchor(server: Server, pair: Pair, ec_pair: Pair) -> None:
    for trusting in (None, ec_pair.certificate_file):
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(server, pair.certificate_file, pair.key_file, trusting=trusting)


def test_the_handshake_fails_with_an_expired_or_a_future_certificate(server: Server, tmp_path: Path) -> None:
    for number, start in enumerate((timedelta(days=-366), timedelta(days=1))):
        made = make(tmp_path / str(number), now=datetime.now(UTC) + start)
        with pytest.raises(ssl.SSLCertVerificationError, match=r"expired|not yet valid"):
            handshake(server, made.certificate_file, made.key_file, trusting=made.certificate_file)


def test_the_handshake_fails_with_another_key_or_pass_phrase(server: Server, pair: Pair, tmp_path: Path) -> None:
    other = make(tmp_path / "other")
    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        handshake(server, pair.certificate_file, other.key_file, trusting=pair.certificate_file)
    with pytest.raises(ssl.SSLError):
        handshake(server, pair.certificate_file, pair.key_file, "12345", trusting=pair.certificate_file)


# --- what create() refuses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phrase", "says"),
    [
        ("", "empty"),
        ("123", "at least 4"),
        ("x" * 1024, "longer than 1023"),
        ("☂" * 342, "longer than 1023"),
        ("tail\udc80", "cannot be stored"),
        ("nul\0nul", "cannot be stored"),
    ],
)
def test_a_pass_phrase_that_cannot_serve_is_refused(tmp_path: Path, phrase: str, says: str) -> None:
    text = refusal(make, tmp_path, phrase=phrase)
    assert says in text
    assert not phrase or phrase not in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("phrase", ["1234", "żółw", "☂☂", " \t'\"\\$ ", "x" * 1023, "line\nbreak"])
def test_any_other_pass_phrase_opens_what_it_closed(tmp_path: Path, phrase: str) -> None:
    made = make(tmp_path, phrase=phrase)
    assert check_pair(made.certificate_file, made.key_file, phrase).common_name == NAME
    refusal(check_pair, made.certificate_file, made.key_file, phrase[:-1] + "-")


def test_a_folder_that_cannot_serve_is_refused(tmp_path: Path) -> None:
    assert "no folder" in refusal(create, NAME, PHRASE, tmp_path / "missing", key_type="ec-p256")
    (tmp_path / "file").write_text("x")
    assert "is a file" in refusal(create, NAME, PHRASE, tmp_path / "file", key_type="ec-p256")
    if sys.platform == "linux":
        assert "cannot be written" in refusal(create, NAME, PHRASE, Path("/proc/self"), key_type="ec-p256")


@pytest.mark.parametrize("days", [0, -1, 10**7, 10**12])
def test_an_impossible_validity_is_refused(tmp_path: Path, days: int) -> None:
    assert "days" in refusal(make, tmp_path, days=days)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_key_type_is_refused(tmp_path: Path) -> None:
    assert "key type" in refusal(make, tmp_path, key_type="rsa-1024")


# --- registration IDs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("good", [NAME, "a", "-", "a-", "A.b_c:d-9", ".a", "x" * 64, "0"])
def test_a_registration_id_that_dps_takes(good: str) -> None:
    assert certificates.check_registration_id(good) == good


@pytest.mark.parametrize(
    "bad",
    ["", " ", "a b", "a.", "a_", "a:", "x" * 65, "x" * 129, "gerät", "a/b", "a\n", "٣", "a,b", "a\udc80"],
)
def test_a_registration_id_that_dps_does_not_take(bad: str, tmp_path: Path) -> None:
    refusal(certificates.check_registration_id, bad)
    refusal(make, tmp_path, name=bad)
    assert list(tmp_path.iterdir()) == []


@given(st.text(max_size=70) | st.from_regex(r"[A-Za-z0-9._:-]{1,66}", fullmatch=True))
def test_a_registration_id_is_taken_exactly_when_the_rules_of_dps_say_so(text: str) -> None:
    legal = re.fullmatch(r"[A-Za-z0-9._:-]{0,63}[A-Za-z0-9-]", text) is not None
    if legal:
        assert certificates.check_registration_id(text) == text
    else:
        refusal(certificates.check_registration_id, text)


# --- an existing pair --------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_an_existing_pair_is_kept_unless_told_otherwise(pair: Pair) -> None:
    folder = pair.key_file.parent
    before = contents(folder)
    assert "reuse" in refusal(make, folder)
    assert contents(folder) == before
    for missing in (pair.key_file, pair.certificate_file):
        missing.rename(folder / "aside")
        left = contents(folder)
        assert "already" in refusal(make, folder)
        assert "missing" in refusal(make, folder, existing="reuse")
        assert contents(folder) == left
        (folder / "aside").rename(missing)


def test_a_dangling_link_counts_as_an_existing_file(tmp_path: Path) -> None:
    (tmp_path / certificates.KEY_FILE).symlink_to(tmp_path / "elsewhere")
    assert "already" in refusal(make, tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_reuse_keeps_a_whole_pair_and_makes_one_where_there_is_none(tmp_path: Path) -> None:
    first = make(tmp_path, existing="reuse")
    before = contents(tmp_path)
    second = make(tmp_path, existing="reuse")
    assert (first.created, second.created) == (True, False)
    assert contents(tmp_path) == before


def test_reuse_refuses_a_pair_that_would_not_serve(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    folder = make(tmp_path / "a").key_file.parent
    assert "pass phrase" in refusal(make, folder, existing="reuse", phrase="12345")
    assert "names" in refusal(make, folder, existing="reuse", name="python-device-02")
    assert "expired" in refusal(make, folder, existing="reuse", now=now + timedelta(days=366))
    assert "clock" in refusal(make, folder, existing="reuse", now=now - timedelta(days=2))
    (folder / certificates.KEY_FILE).write_bytes(make(tmp_path / "b").key_file.read_bytes())
    assert "does not belong" in refusal(make, folder, existing="reuse")


def test_replace_makes_a_new_pair(pair: Pair) -> None:
    before = contents(pair.key_file.parent)
    again = make(pair.key_file.parent, existing="replace", name="other", phrase="another phrase")
    assert again.created
    assert check_pair(again.certificate_file, again.key_file, "another phrase").common_name == "other"
    assert contents(pair.key_file.parent).keys() == before.keys()


@pytest.mark.parametrize("call", ["replace", "fsync", "open", "unlink"])
@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_after_a_failure_everything_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, lasting: bool, there: bool
) -> None:
    """Each call of the operating system fails once, or from then on (disk full, folder locked …)."""
    if there:
        make(tmp_path)
    failed = 0
    for number in range(1, 40):
        before = contents(tmp_path)
        outcome = fails_at(call, number, tmp_path, monkeypatch, lasting=lasting and call == "replace")
        if outcome == "never called":
            break
        if outcome == "failed":
            assert contents(tmp_path) == before
            failed += 1
        elif not there:
            for file in tmp_path.iterdir():
                file.unlink()
    assert outcome == "never called"
    assert failed > 0


def fails_at(call: str, number: int, folder: Path, monkeypatch: pytest.MonkeyPatch, *, lasting: bool) -> str:
    real, calls = getattr(os, call), 0

    def failing(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number or (lasting and calls > number):
            raise OSError(28, "No space left on device")
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        try:
            make(folder, existing="replace")
        except CertificateError as error:
            return "failed" if "No space left" in sentence(error) else str(error)
    return "made" if calls >= number else "never called"


CRASHING = """
import os, sys
from pathlib import Path
from dpsx_helpers import certificates
calls, at = 0, int(sys.argv[2])
def dying(name):
    real = getattr(os, name)
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == at:
            os._exit(9)
        return real(*arguments, **options)
    setattr(os, name, call)
for name in ("replace", "unlink", "fsync"):
    dying(name)
certificates.create("new", "new phrase", Path(sys.argv[1]), key_type="ec-p256", existing="replace")
"""


def test_a_crash_never_leaves_a_certificate_beside_the_key_of_another(tmp_path: Path) -> None:
    original = contents(make(tmp_path / "original").key_file.parent)
    outcomes = set()
    for at in range(1, 30):
        folder = tmp_path / str(at)
        shutil.copytree(tmp_path / "original", folder)
        done = subprocess.run([sys.executable, "-c", CRASHING, str(folder), str(at)], cwd=ROOT, check=False)
        certificate, key = folder / certificates.CERTIFICATE_FILE, folder / certificates.KEY_FILE
        if certificate.exists():
            old = certificate.read_bytes() == original[certificate.name]
            check_pair(certificate, key, PHRASE if old else "new phrase")
        outcomes.add((certificate.exists(), key.read_bytes() == original[key.name]))
        if done.returncode == 0:
            break
        make(folder, existing="replace")
        assert contents(folder).keys() == original.keys()  # what the crash left behind is gone
    assert done.returncode == 0
    assert outcomes == {(True, True), (False, True), (False, False), (True, False)}


MAKING = """
import sys
from pathlib import Path
from dpsx_helpers import certificates
certificates.create("one", "1234", Path(sys.argv[1]), key_type="ec-p256", existing="reuse")
"""


@pytest.mark.skipif(os.name != "posix", reason="the lock on the folder is a matter of POSIX")
def test_several_at_once_end_with_one_whole_pair(tmp_path: Path) -> None:
    running = [subprocess.Popen([sys.executable, "-c", MAKING, str(tmp_path)], cwd=ROOT) for _ in range(4)]
    assert [one.wait() for one in running] == [0] * 4
    check_pair(tmp_path / certificates.CERTIFICATE_FILE, tmp_path / certificates.KEY_FILE, PHRASE)


# --- keys and pairs made elsewhere -------------------------------------------------------------------------


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what openssl makes: keys and certificates of many kinds."""
    folder = tmp_path_factory.mktemp("elsewhere")

    def self_signed(name: str, *more: str) -> None:
        arguments = ("-key", "rsa.key", "-out", f"{name}.pem", *more)
        openssl("req", "-x509", *arguments, *(() if "-subj" in more else ("-subj", f"/CN={name}")), cwd=folder)

    openssl("genrsa", "-out", "rsa.key", "2048", cwd=folder)
    self_signed("ca")
    self_signed("negative", "-set_serial", "-5")
    self_signed("zero", "-set_serial", "0")
    self_signed("long", "-set_serial", "0x" + "ab" * 30)
    self_signed("longnegative", "-set_serial", "-0x" + "7b" * 22)
    self_signed(
        "many",
        "-subj",
        '/C=US/ST=Ö/L=Red, mond/O=Foo+"<>;\\\\/OU= x /CN=v1/emailAddress=a@b.c/DC=x/UID=u',
        "-utf8",
    )
    self_signed("multi", "-subj", "/C=US/CN=a+OU=b/O=#x", "-multivalue-rdn")
    self_signed("unicode", "-subj", "/CN=gerät-日本", "-utf8")
    self_signed("sha512", "-sha512")
    self_signed("pss", "-sha384", "-sigopt", "rsa_padding_mode:pss")
    (folder / "odd.cnf").write_text(ODD_CONFIG)
    self_signed("odd", "-subj", "/", "-config", "odd.cnf")
    (folder / "latin.cnf").write_text("[req]\ndistinguished_name=d\nstring_mask=MASK:0x4\n[d]\n")
    self_signed("latin", "-subj", "/CN=gerät", "-utf8", "-config", "latin.cnf")
    for name, *options in OTHER_KEYS:
        openssl("genpkey", *options, "-out", f"{name}.key", cwd=folder)
        openssl("req", "-x509", "-key", f"{name}.key", "-subj", f"/CN={name}", "-out", f"{name}.pem", cwd=folder)
    openssl("req", "-new", "-key", "rsa.key", "-subj", "/CN=v1", "-out", "request.csr", cwd=folder)
    openssl(
        "x509",
        "-req",
        "-in",
        "request.csr",
        "-signkey",
        "rsa.key",
        "-out",
        "v1.pem",
        "-days",
        "3",
        cwd=folder,
    )
    openssl("x509", "-in", "v1.pem", "-out", "trusted.pem", "-trustout", "-addtrust", "clientAuth", cwd=folder)
    return folder


ODD_CONFIG = """[req]
distinguished_name=d
x509_extensions=e
[d]
[e]
basicConstraints=critical,CA:TRUE,pathlen:2
keyUsage=critical,digitalSignature,keyCertSign,cRLSign
extendedKeyUsage=serverAuth,clientAuth,1.2.3.9
subjectKeyIdentifier=hash
subjectAltName=critical,DNS:a.example,IP:10.0.0.1,URI:urn:x,email:a@b
1.2.3.4.5=ASN1:UTF8String:hello
1.2.3.4.6=DER:01:02:FF
"""
OTHER_KEYS = (
    ("p256", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
    ("p521", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"),
    ("k1", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"),
    ("ed25519", "-algorithm", "ED25519"),
    ("ed448", "-algorithm", "ED448"),
    ("rsapss", "-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"),
)
OF_MANY_KINDS = (
    [
        "ca",
        "negative",
        "zero",
        "long",
        "longnegative",
        "many",
        "multi",
        "unicode",
        "sha512",
        "pss",
        "odd",
        "latin",
    ]
    + [name for name, *_ in OTHER_KEYS]
    + ["v1", "trusted"]
)


@needs_openssl
def test_openssls_own_keys_open(elsewhere: Path, tmp_path: Path) -> None:
    certificate, plain = elsewhere / "ca.pem", elsewhere / "rsa.key"
    for number, cipher in enumerate(("-aes256", "-des3", "-aes128")):
        old, new = tmp_path / f"old{number}", tmp_path / f"new{number}"
        openssl("rsa", "-traditional", cipher, "-passout", "pass:1234", "-in", plain, "-out", old)
        openssl("pkcs8", "-topk8", "-passout", "pass:1234", "-in", plain, "-out", new)
        assert b"DEK-Info" in old.read_bytes()
        for key in (old, new):
            assert check_pair(certificate, key, "1234").common_name == "ca"
            assert "pass phrase" in refusal(open_key, key, "12345")
            assert "pass phrase is empty" in refusal(open_key, key, "")


@needs_openssl
def test_a_key_that_is_not_encrypted_opens_with_any_pass_phrase(elsewhere: Path) -> None:
    for phrase in ("", "anything"):
        assert check_pair(elsewhere / "p256.pem", elsewhere / "p256.key", phrase).common_name == "p256"


@needs_openssl
def test_certificate_and_key_may_stand_in_one_file_with_other_text(elsewhere: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    text = openssl("x509", "-in", elsewhere / "p256.pem", "-text")
    both.write_text((elsewhere / "p256.key").read_text() + text + (elsewhere / "ca.pem").read_text())
    assert check_pair(both, both, "").common_name == "p256"


def test_a_pair_of_two_halves_is_refused(pair: Pair, ec_pair: Pair) -> None:
    assert "does not belong" in refusal(check_pair, ec_pair.certificate_file, pair.key_file, PHRASE)


def test_what_the_sdk_cannot_read_is_refused_with_the_way_out(pair: Pair, tmp_path: Path) -> None:
    der, key, indented = tmp_path / "c.der", tmp_path / "k.der", tmp_path / "indented.pem"
    der.write_bytes(describe(pair.certificate_file).der)
    key.write_bytes(open_key(pair.key_file, PHRASE).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
    indented.write_bytes(pair.certificate_file.read_bytes().replace(b"-----BEGIN", b"  -----BEGIN"))
    assert "openssl x509 -inform DER" in refusal(check_pair, der, pair.key_file, PHRASE)
    assert "openssl pkey -inform DER" in refusal(check_pair, pair.certificate_file, key, PHRASE)
    assert describe(indented) == describe(pair.certificate_file)
    assert "OpenSSL does not take" in refusal(check_pair, indented, pair.key_file, PHRASE)


def test_a_key_file_that_is_none_is_refused(pair: Pair, tmp_path: Path) -> None:
    made = pair.key_file.read_bytes()
    cases = {
        b"": "empty",
        b"hello": "no private key",
        pair.certificate_file.read_bytes(): "holds a certificate",
        made[:300]: "cut short",
        made.replace(b"\nMI", b"\nM!", 1): "damaged",
        made.decode().encode("utf-16"): "UTF-16",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n": "damaged",
    }
    for content, says in cases.items():
        (tmp_path / "key").write_bytes(content)
        assert says in refusal(open_key, tmp_path / "key", PHRASE)
    assert "no key file" in refusal(open_key, tmp_path / "missing", PHRASE)
    assert "is a folder" in refusal(open_key, tmp_path, PHRASE)


def test_no_secret_shows_anywhere(tmp_path: Path) -> None:
    secret = "canary-☂-phrase"
    made = make(tmp_path / "a", phrase=secret)
    private = open_key(made.key_file, secret)
    other = make(tmp_path / "b", phrase="other phrase")
    shown = [repr(made), str(made), repr(private), repr(describe(made.certificate_file))]
    (tmp_path / "broken").write_bytes(made.key_file.read_bytes()[:400] + b"\n-----END ENCRYPTED PRIVATE KEY-----\n")
    for call in (
        lambda: open_key(other.key_file, secret),
        lambda: open_key(tmp_path / "broken", secret),
        lambda: check_pair(other.certificate_file, made.key_file, secret),
        lambda: create(NAME, secret, tmp_path / "b", existing="reuse"),
        lambda: create(NAME, secret + "\udc80", tmp_path / "b"),
    ):
        with pytest.raises(CertificateError) as caught:
            call()
        error: BaseException | None = caught.value
        shown.append("".join(traceback.format_exception_only(caught.value)))
        while error is not None:
            shown += [repr(error), str(error.args), str(error.__dict__)]
            error = error.__cause__ or error.__context__
    body = made.key_file.read_text().splitlines()[2]
    assert not [text for text in shown if "canary" in text or body in text]


# --- describe() --------------------------------------------------------------------------------------------


def openssl_says(file: Path) -> dict[str, str]:
    """What openssl prints, under the names of Description's fields."""
    lines = openssl(
        "x509",
        "-in",
        file,
        "-noout",
        "-serial",
        "-subject",
        "-issuer",
        "-dates",
        "-nameopt",
        "RFC2253,utf8,-esc_msb",
    )
    said = dict(line.split("=", 1) for line in lines.splitlines())
    text = openssl("x509", "-in", file, "-noout", "-text")
    said["text"] = text
    said["version"] = re.search(r"Version: (\d)", text)[1]  # type: ignore[index]
    said["signature"] = re.search(r"Signature Algorithm: (\S+)", text)[1]  # type: ignore[index]
    for digest in ("sha1", "sha256"):
        printed = openssl("x509", "-in", file, "-noout", "-fingerprint", f"-{digest}")
        said[digest] = printed.strip().split("=")[1].replace(":", "")
    return said


def extensions_in(text: str) -> dict[str, tuple[bool, str]]:
    """Name → (critical, what is said) as `openssl x509 -text` prints extensions, on one line each."""
    found = re.findall(r"^ {12}(?:X509v3 )?(\S.*?): ?(critical)?\n((?:^ {16}.*\n)+)", text, re.MULTILINE)
    return {name: (bool(critical), " ".join(body.split())) for name, critical, body in found}


def assert_agrees_with_openssl(file: Path) -> None:
    found, said = describe(file), openssl_says(file)
    sign, digits = re.fullmatch(r"(-?)([0-9A-F]+)", said["serial"]).groups()  # type: ignore[union-attr]
    assert int(found.serial_number, 16) == int(sign + digits, 16)
    assert (str(found.version), found.signature_algorithm) == (said["version"], said["signature"])
    for ours, theirs in ((found.subject, said["subject"]), (found.issuer, said["issuer"])):
        # RFC 4514 leaves the order within a part of several values open, and OpenSSL turns it round.
        assert sorted(re.split(r"[+,]", ours)) == sorted(re.split(r"[+,]", theirs))
        assert ours.count("+") == theirs.count("+")
        assert "+" in ours or ours == theirs
    for moment, key in ((found.not_before, "notBefore"), (found.not_after, "notAfter")):
        assert moment == datetime.strptime(said[key], "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC)
    assert (found.thumbprint_sha1, found.thumbprint_sha256) == (said["sha1"], said["sha256"])
    bits = re.search(r"Public-Key: \((\d+) bit", said["text"])
    assert bits is None or found.key_bits == int(bits[1])
    assert_extensions_agree(found, extensions_in(said["text"]))


def assert_extensions_agree(found: certificates.Description, theirs: dict[str, tuple[bool, str]]) -> None:
    assert {one.name: (one.critical, one.text) for one in found.extensions} == theirs
    assert found.is_ca == ("CA:TRUE" in theirs.get("Basic Constraints", (False, ""))[1])


@pytest.mark.parametrize(
    ("extensions", "is_ca"),
    [
        pytest.param({"2.5.29.19": "30030101ff"}, True, id="a CA"),
        pytest.param({"2.5.29.19": "3000"}, False, id="no CA"),
        pytest.param({}, False, id="nothing is said"),
        pytest.param({"2.5.29.19": "3003010101"}, True, id="a CA in BER"),
        pytest.param({"2.5.29.19": "30030101ff", "2.5.29.17": "ffff"}, True, id="a CA with another extension broken"),
        pytest.param({"2.5.29.19": "3000", "2.5.29.17": "ffff"}, False, id="no CA with another extension broken"),
    ],
)
def test_a_ca_is_known_as_openssl_knows_it_also_where_extensions_cannot_be_decoded(
    extensions: dict[str, str], is_ca: bool
) -> None:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(hours=1))
    for oid, value in extensions.items():
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), bytes.fromhex(value))
        builder = builder.add_extension(unknown, critical=True)
    found = describe(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER))
    assert found.is_ca is is_ca
    assert any(one.text.startswith("CA:TRUE") for one in found.extensions) is is_ca
    assert len(found.extensions) == len(extensions)


@needs_openssl
def test_describe_agrees_with_openssl_field_by_field(rsa_pair: Pair, ec_pair: Pair) -> None:
    for made in (rsa_pair, ec_pair):
        assert_agrees_with_openssl(made.certificate_file)
        assert len(describe(made.certificate_file).extensions) == 4


@needs_openssl
@pytest.mark.parametrize("kind", OF_MANY_KINDS)
@pytest.mark.filterwarnings("error")
def test_describe_agrees_with_openssl_on_certificates_made_elsewhere(elsewhere: Path, kind: str) -> None:
    file = elsewhere / f"{kind}.pem"
    assert_agrees_with_openssl(file)
    found = describe(file)
    assert describe(found.der) == found
    assert found.thumbprint_sha256 in found.as_text()


@needs_openssl
def test_describe_names_keys_and_common_names_as_people_do(elsewhere: Path) -> None:
    def kind(name: str) -> tuple[str, int | None]:
        found = describe(elsewhere / f"{name}.pem")
        return found.key_type, found.key_bits

    assert [kind(name) for name in ("ca", "p256", "p521", "ed25519", "rsapss")] == [
        ("RSA", 2048), ("EC P-256", 256), ("EC P-521", 521), ("Ed25519", 256), ("RSA-PSS", 2048),
    ]  # fmt: skip
    names = [describe(elsewhere / f"{name}.pem").common_name for name in ("many", "multi", "unicode", "latin", "odd")]
    assert names == ["v1", "a", "gerät-日本", "gerät", None]


def test_describe_counts_whole_days_and_goes_below_zero(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    for days, expected in ((365, 364), (1, 0), (-1, -2)):
        made = make(tmp_path, existing="replace", now=now - timedelta(days=10), days=10 + days)
        assert describe(made.certificate_file).days_left in (expected, expected + 1)
    assert "expired" in describe(made.certificate_file).as_text()


def test_as_text_picks_out_the_subject_as_certutil_does(rsa_pair: Pair) -> None:
    found = describe(rsa_pair.certificate_file)
    text = found.as_text()
    for expected in (
        "Version: 3",
        f"Serial number: {found.serial_number}",
        "sha256WithRSAEncryption (1.2.840.113549.1.1.11)",
        f"Subject:\n    ===> CN={NAME} <===\n",
        f"NotAfter:  {found.not_after:%Y-%m-%d %H:%M:%S} UTC",
        "RSA, 4096 bits",
        "Basic Constraints: CA:FALSE",
        "Extended Key Usage: TLS Web Client Authentication",
        found.thumbprint_sha1,
        found.thumbprint_sha256,
    ):
        assert expected in text
    assert text.count("===>") == 1


@needs_openssl
def test_as_text_marks_the_common_name_only(elsewhere: Path) -> None:
    text = describe(elsewhere / "many.pem").as_text()
    assert re.findall("===> (.*) <===", text) == ["CN=v1"]
    assert "\n    L=Red\\, mond\n" in text
    assert "===>" not in describe(elsewhere / "odd.pem").as_text()


def test_describe_takes_pem_as_people_save_it(pair: Pair, ec_pair: Pair) -> None:
    pem, expected = pair.certificate_file.read_bytes(), describe(pair.certificate_file)
    for variant in (
        pem.replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + pem,
        b"Bag Attributes: x\n -----BEGIN nothing\n" + pem,
        pem + ec_pair.certificate_file.read_bytes(),
        pair.key_file.read_bytes() + pem,
        pem.replace(b"CERTIFICATE", b"X509 CERTIFICATE"),
        pem.rstrip(),
        expected.der,
        expected.der + b"\n",
    ):
        assert describe(variant) == expected


@needs_openssl
def test_describe_says_what_it_was_given_instead(pair: Pair, elsewhere: Path, tmp_path: Path) -> None:
    openssl(
        "pkcs12",
        "-export",
        "-in",
        "p256.pem",
        "-inkey",
        "p256.key",
        "-out",
        "x.pfx",
        "-passout",
        "pass:1234",
        cwd=elsewhere,
    )
    openssl("crl2pkcs7", "-nocrl", "-certfile", "p256.pem", "-out", "x.p7b", cwd=elsewhere)
    openssl("req", "-in", "request.csr", "-outform", "DER", "-out", "csr.der", cwd=elsewhere)
    openssl("pkey", "-in", "p256.key", "-outform", "DER", "-out", "key.der", cwd=elsewhere)
    openssl("pkey", "-in", "p256.key", "-pubout", "-out", "x.pub", cwd=elsewhere)
    for name, says in {
        "rsa.key": "a private key", "key.der": "a private key", "request.csr": "a certificate request",
        "csr.der": "a certificate request", "x.pfx": "PKCS #12", "x.p7b": "PKCS #7", "x.pub": "a public key",
    }.items():  # fmt: skip
        assert f"holds {says}" in refusal(describe, elsewhere / name).replace("a PKCS", "PKCS")
    assert "holds a private key" in refusal(describe, pair.key_file)


def test_describe_refuses_what_is_no_certificate(pair: Pair, tmp_path: Path) -> None:
    pem, der = pair.certificate_file.read_bytes(), describe(pair.certificate_file).der
    file = tmp_path / "c"
    for content, says in {
        b"": "empty",
        b" \n": "empty",
        b"hello": "no certificate",
        b"0": "no certificate",
        pem[:200]: "cut short",
        pem.replace(b"\nMI", b"\nM!", 1): "damaged",
        pem.replace(b"\nMI", b"\nMA", 1): "damaged",
        der[:-1]: "damaged",
        pem.decode().encode("utf-16"): "UTF-16",
        pem.decode().encode("utf-16-le"): "UTF-16",
        b"x" * (1 << 20) + b"x": "larger",
    }.items():
        file.write_bytes(content)
        assert says in refusal(describe, file)
    assert "no certificate file" in refusal(describe, tmp_path / "missing")
    assert "is a folder" in refusal(describe, tmp_path)
    refusal(describe, tmp_path / "new\nline")
    refusal(describe, tmp_path / "nul\0")
    refusal(describe, b"")


@given(st.binary(max_size=300) | st.binary(max_size=200).map(lambda tail: b"\x30\x82" + tail))
def test_garbage_never_raises_anything_but_a_certificate_error(data: bytes) -> None:
    refusal(describe, data)


@needs_openssl
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(data=st.data())
def test_a_damaged_certificate_is_described_or_refused(elsewhere: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["odd", "many", "p256"]))
    der = bytearray(describe(elsewhere / f"{kind}.pem").der)
    for _ in range(data.draw(st.integers(1, 3))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    try:
        describe(bytes(der)).as_text()
    except CertificateError as error:
        sentence(error)
