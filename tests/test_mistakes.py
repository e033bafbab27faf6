"""Each of the 23 mistakes, made for real: Microsoft's unmodified clients against a real emulator or real sockets."""

import asyncio
import ipaddress
import os
import re
import select
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nbformat
import pytest
from azure.iot.device import X509
from azure.iot.device.aio import IoTHubDeviceClient, ProvisioningDeviceClient
from azure.iot.device.exceptions import ConnectionDroppedError, NoConnectionError
from azure.iot.deviceprovisioning import DeviceProvisioningClient
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from devices import NAME, PASS_PHRASE, odd_pair, send, set_variables
from kit import fault
from nbclient import NotebookClient
from pki import Authority, issue, make_ca
from processes import RunningEmulator, free_host

from dpsx_helpers import certificates, conversation, diagnosis, enrollments, registry, targets, tutorial
from dpsx_helpers.certificates import Pair
from dpsx_helpers.diagnosis import Explained, failures, mistakes
from dpsx_helpers.display import View
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop

pytest_plugins = ["kit"]

SAMPLE = """
import asyncio, os
from azure.iot.device import X509
from azure.iot.device.aio import ProvisioningDeviceClient
from dpsx_helpers import diagnosis

async def main():
    return await ProvisioningDeviceClient.create_from_x509_certificate(
        provisioning_host=os.getenv("PROVISIONING_HOST"),
        registration_id=os.getenv("DPS_X509_REGISTRATION_ID"),
        id_scope=os.getenv("PROVISIONING_IDSCOPE"),
        x509=X509(os.getenv("X509_CERT_FILE"), os.getenv("X509_KEY_FILE"), os.getenv("X509_PASS_PHRASE")),
    ).register()
"""


def identity() -> X509:
    return X509(os.getenv("X509_CERT_FILE"), os.getenv("X509_KEY_FILE"), os.getenv("X509_PASS_PHRASE"))  # type: ignore[no-untyped-call]


async def register() -> Any:
    """What the SDK's own sample does: a variable that is not set is None."""
    return await ProvisioningDeviceClient.create_from_x509_certificate(
        provisioning_host=os.getenv("PROVISIONING_HOST"),
        registration_id=os.getenv("DPS_X509_REGISTRATION_ID"),
        id_scope=os.getenv("PROVISIONING_IDSCOPE"),
        x509=identity(),
    ).register()


def provision() -> Any:
    return asyncio.run(register())


def hub_client(hub: str | None, device_id: str | None, **options: Any) -> IoTHubDeviceClient:
    return IoTHubDeviceClient.create_from_x509_certificate(
        x509=identity(), hostname=hub, device_id=device_id, **options
    )


def connect(hub: str | None, device_id: str | None = NAME) -> None:
    async def once() -> None:
        client = hub_client(hub, device_id, connection_retry=False)
        try:
            await client.connect()
        finally:
            await client.shutdown()

    asyncio.run(once())


def told(number: int | None, action: Callable[[], Any], words: str = "") -> Explained:
    """The action fails inside `explain` with this mistake (None: one without a number); the sentence is one line, and
    no secret is in it.
    """
    with pytest.raises(Explained) as stop, diagnosis.explain():
        action()
    sentence = str(stop.value)
    title = stop.value.card.text.splitlines()[0]
    assert f"(mistake {number} of 23)" in title if number else "of 23" not in title
    assert re.search(words, sentence), sentence
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return stop.value


@pytest.fixture
def as_azure(enrolled: Target) -> Target:
    """The same services, but the notebooks believe that they are Azure's: the other side cannot be read."""
    tutorial.enter("target", "azure")
    return enrolled


def use(made: Any) -> None:
    os.environ.update(X509_CERT_FILE=str(made.certificate_file), X509_KEY_FILE=str(made.key_file))


# --- 1 to 6: the variables --------------------------------------------------------------------------------------------


def test_01_pass_phrase_under_the_wrong_name(enrolled: Target) -> None:
    """As in a notebook: a process without a terminal."""
    environment = {**os.environ, "PASS_PHRASE": "quite secret"}
    del environment["X509_PASS_PHRASE"]
    code = f"{SAMPLE}\nwith diagnosis.explain():\n    asyncio.run(main())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=60, start_new_session=True, check=False,
    )  # fmt: skip
    assert "pass phrase is empty: run the cell that sets PASS_PHRASE and X509_PASS_PHRASE" in done.stderr
    assert "quite secret" not in done.stderr + done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_01_pass_phrase_under_the_wrong_name_in_a_terminal(enrolled: Target) -> None:
    """OpenSSL asks, and nothing goes on."""
    del os.environ["X509_PASS_PHRASE"]
    spawn = "import pty, sys; pty.spawn(sys.argv[1:])"
    command = [sys.executable, "-c", spawn, sys.executable, "-c", f"{SAMPLE}\nasyncio.run(main())"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as terminal:
        try:
            assert terminal.stdout is not None
            shown = b""
            while b"Enter PEM pass phrase:" not in shown:
                assert select.select([terminal.stdout], [], [], 30)[0], "it never asked"
                shown += terminal.stdout.read(1000) or b""
            assert not select.select([terminal.stdout], [], [], 1.0)[0]
            assert terminal.poll() is None
        finally:
            terminal.kill()


def test_02_registration_id_not_set(enrolled: Target) -> None:
    del os.environ["DPS_X509_REGISTRATION_ID"]
    told(2, provision, "registration ID is blank: set DPS_X509_REGISTRATION_ID")
    told(2, lambda: os.environ["DPS_X509_REGISTRATION_ID"], "DPS_X509_REGISTRATION_ID is not set")


@pytest.mark.parametrize("host", ["https://127.0.0.1", "127.0.0.1/", "no-such-host.invalid", "a..b"])
def test_03_host_with_https(enrolled: Target, host: str) -> None:
    os.environ["PROVISIONING_HOST"] = host
    told(3, provision, "bare host name|could not be looked up")


def test_04_host_or_device_id_missing(enrolled: Target) -> None:
    del os.environ["PROVISIONING_HOST"]
    told(4, provision, "PROVISIONING_HOST is not set")
    told(4, lambda: connect(None), "hub's host name or the device ID is empty")
    told(4, lambda: connect(enrolled.hubs[0], None), "run the cell that")


def test_05_wrong_or_unset_id_scope(enrolled: Target) -> None:
    os.environ["PROVISIONING_IDSCOPE"] = "0ne00000000"
    stop = told(5, provision, 'knows no ID scope "0ne00000000"')
    assert "CONNACK 3" in stop.card.text
    del os.environ["PROVISIONING_IDSCOPE"]
    told(5, provision, "PROVISIONING_IDSCOPE is not set, so DPS was asked for the ID scope None")


def test_06_another_common_name(enrolled: Target) -> None:
    os.environ["DPS_X509_REGISTRATION_ID"] = "another"
    told(6, provision, f'registration ID is "another" but the certificate says CN={NAME}')


# --- 7 to 11: the certificate -----------------------------------------------------------------------------------------


def test_07_a_ca_certificate(enrolled: Target, work: Path) -> None:
    made = odd_pair(work, is_ca=True)
    enrollments.save(enrolled, made.certificate_file)
    use(made)
    stop = told(7, provision, "marked as a CA")
    assert '"message": "Invalid certificate."' in stop.card.text
    assert '"errorCode": 401002' in stop.card.text


@pytest.fixture
def root(enrolled: Target, tmp_path: Path) -> Iterator[Authority]:
    """A verified CA of an enrollment group."""
    authority = make_ca(tmp_path, "mistaken-root")
    emulator = enrolled.emulator
    assert emulator is not None
    enrollments.delete(enrolled, NAME)
    emulator.add_ca_certificate("mistaken", authority.pem)
    emulator.verify_ca_certificate("mistaken", issue(tmp_path, emulator.verification_code("mistaken"), authority).pem)
    with enrollments.service(enrolled) as client:
        references = {"x509": {"caReferences": {"primary": "mistaken"}}, "type": "x509"}
        client.enrollment_group.create_or_update("mistaken", {"attestation": references})
    return authority


def test_08_chain_not_sent(enrolled: Target, root: Authority, tmp_path: Path) -> None:
    intermediate = make_ca(tmp_path, "between", root)
    use(issue(tmp_path, NAME, intermediate))
    assert provision().status == "assigned"
    use(issue(tmp_path, NAME, intermediate, chain=()))
    stop = told(8, provision, "issued by CN=between, and the file holds no certificate of that issuer")
    assert "CA certificate not found." in stop.card.text


def test_08_root_not_verified(enrolled: Target, root: Authority, tmp_path: Path) -> None:
    use(issue(tmp_path, NAME, make_ca(tmp_path, "nobody-knows")))
    told(8, provision, "no verified CA certificate")


def test_09_certificate_made_anew(enrolled: Target, work: Path) -> None:
    certificates.create(NAME, PASS_PHRASE, work, key_type="ec-p256", existing="replace")
    stop = told(9, provision, "enrolled with another certificate than the one on disk")
    entry = enrollments.get(enrolled, NAME)
    assert entry is not None
    assert entry.thumbprint_sha256 in stop.card.text


def test_09_certificate_made_anew_on_azure(as_azure: Target, work: Path) -> None:
    certificates.create(NAME, PASS_PHRASE, work, key_type="ec-p256", existing="replace")
    stop = told(9, provision, "most likely because another certificate of Python-device-01 is enrolled")
    assert "the likeliest first" in stop.card.text
    assert "On Azure: In the portal" in stop.card.text


def _foreign_key(pair: Pair, work: Path) -> None:
    odd_pair(work).key_file.replace(pair.key_file)


def _wrong_pass_phrase(pair: Pair, work: Path) -> None:
    os.environ["X509_PASS_PHRASE"] = "not-the-pass-phrase"


def _missing_certificate(pair: Pair, work: Path) -> None:
    os.environ["X509_CERT_FILE"] = str(work / "nowhere.pem")


def _missing_key(pair: Pair, work: Path) -> None:
    pair.key_file.unlink()


def _relative_path(pair: Pair, work: Path) -> None:
    os.environ["X509_CERT_FILE"] = "python-device.pem"


def _der(pair: Pair, work: Path) -> None:
    loaded = x509.load_pem_x509_certificate(pair.certificate_file.read_bytes())
    pair.certificate_file.write_bytes(loaded.public_bytes(Encoding.DER))


def _garbled(pair: Pair, work: Path) -> None:
    pair.certificate_file.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")


def _no_pem(pair: Pair, work: Path) -> None:
    pair.key_file.write_text("this is not a key\n")


def _exchanged(pair: Pair, work: Path) -> None:
    os.environ.update(X509_CERT_FILE=str(pair.key_file), X509_KEY_FILE=str(pair.certificate_file))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_foreign_key, "does not belong to the certificate"),
        (_wrong_pass_phrase, "does not open with this pass phrase"),
        (_missing_certificate, "There is no certificate file .*nowhere.pem"),
        (_missing_key, "There is no key file"),
        (_relative_path, "There is no certificate file python-device.pem"),
        (_der, "is DER"),
        (_garbled, "python-device.pem"),
        (_no_pem, "holds no private key"),
        (_exchanged, "holds a private key"),
    ],
)
def test_10_files_that_do_not_go_together(
    enrolled: Target, pair: Pair, work: Path, spoil: Callable[[Pair, Path], None], words: str
) -> None:
    spoil(pair, work)
    stop = told(10, provision, words)
    assert "not-the-pass-phrase" not in stop.card.text + stop.card.html + str(stop)


def test_11_expired(enrolled: Target, work: Path) -> None:
    made = odd_pair(work, days=-1)
    enrollments.save(enrolled, made.certificate_file)
    use(made)
    told(11, provision, r"the certificate expired on 20\d\d-\d\d-\d\d: make a new one")


def test_11_an_issuer_has_expired(enrolled: Target, root: Authority, tmp_path: Path) -> None:
    """DPS says the same as of the device's own certificate; the file tells which it is."""
    use(
        issue(
            tmp_path, NAME, make_ca(tmp_path, "old", root, valid_from=timedelta(days=-9), valid_for=timedelta(days=2))
        )
    )
    stop = told(11, provision, "401: the issuer CN=old in the certificate file expired on .*: renew it")
    assert "Invalid certificate." in stop.card.text


# --- 12 to 14, 22: DPS and its hub ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["failed-400209", "401-hub-not-found"])
def test_12_dps_may_not_enter_the_hub(enrolled: Target, kind: str) -> None:
    with fault(enrolled, kind):
        stop = told(12, provision, f"played the fault {kind}, so this is no mistake of yours")
        assert "400209" in stop.card.text or "401001" in stop.card.text
        tutorial.enter("target", "azure")
        told(12, provision, "linked hub refuses DPS or is gone .* Linked IoT hubs")


def test_13_no_hub_linked(work: Path, pair: Pair) -> None:
    emulator = RunningEmulator(work / "emulator", None, "--hubs", "0")
    try:
        target = targets.current()
        enrollments.save(target, pair.certificate_file)
        set_variables(target)
        assert "400208" in told(13, provision, "could not assign it to a hub: link an IoT hub").card.text
        tutorial.enter("target", "azure")
        told(13, provision, "link an IoT hub")
    finally:
        emulator.close()


def test_14_device_deleted_in_the_hub(enrolled: Target) -> None:
    state = provision().registration_state
    registry.delete(enrolled, NAME)
    told(14, lambda: asyncio.run(send(1, state)), r"CONNACK 5\): Python-device-01 is not in its list .* register\(\)")


def test_14_device_disabled_in_the_hub(enrolled: Target) -> None:
    provision()
    identity_now = registry._request(enrolled, "GET", f"/devices/{NAME}")
    changed = identity_now | {"status": "disabled"}
    registry._request(enrolled, "PUT", f"/devices/{NAME}", headers={"If-Match": "*"}, json=changed)
    told(14, lambda: connect(enrolled.hubs[0]), "is disabled there: delete it there")


def test_14_another_certificate_in_the_hub(enrolled: Target, work: Path) -> None:
    provision()
    certificates.create(NAME, PASS_PHRASE, work, key_type="ec-p256", existing="replace")
    told(14, lambda: connect(enrolled.hubs[0]), "known there with another certificate")
    tutorial.enter("target", "azure")
    stop = told(14, lambda: connect(enrolled.hubs[0]), "is deleted or disabled there, or has another certificate")
    assert "  3. the hub has the thumbprint of another certificate" in stop.card.text


def test_22_enrollment_deleted_and_the_device_still_sends(enrolled: Target) -> None:
    state = provision().registration_state
    enrollments.delete(enrolled, NAME)
    with conversation.recording() as talk:
        asyncio.run(send(3, state))
    shown = diagnosis.why(talk)
    assert "(mistake 22 of 23)" in shown.text
    assert "clean-up cell of notebook 05" in shown.text


# --- 15, 16, 19: the operator -----------------------------------------------------------------------------------------


def test_15_two_thumbprints(enrolled: Target, pair: Pair, work: Path) -> None:
    """As the services show them: DPS the SHA-1 of its entry, the hub the SHA-256 of its device."""
    provision()
    with enrollments.service(enrolled) as client:
        info = client.enrollment.get(NAME)["attestation"]["x509"]["clientCertificates"]["primary"]["info"]
    device = registry.get(enrolled, NAME)
    assert device is not None
    portal, hub = str(info["sha1Thumbprint"]), str(device.primary_thumbprint)
    colons = ":".join(re.findall("..", portal.lower()))
    assert "✔ This is the SHA-1 thumbprint of python-device.pem" in diagnosis.thumbprint(colons).text
    assert hub in diagnosis.thumbprint(portal).text
    assert "✔ This is the SHA-256 thumbprint of python-device.pem" in diagnosis.thumbprint(f" {hub}\n").text
    certificates.create(NAME, PASS_PHRASE, work, key_type="ec-p256", existing="replace")
    assert "✘ This is a SHA-1 thumbprint" in diagnosis.thumbprint(portal).text
    with pytest.raises(Stop, match="no thumbprint"):
        diagnosis.thumbprint(portal[:-1])
    with pytest.raises(Stop, match="no thumbprint"):
        diagnosis.thumbprint("g" * 40)


def service(target: Target, connection_string: str | None, **options: Any) -> DeviceProvisioningClient:
    return DeviceProvisioningClient.from_connection_string(
        connection_string, connection_verify=str(target.bundle_file), retry_total=0, **options
    )


def test_16_connection_string_of_a_hub(enrolled: Target) -> None:
    stop = told(
        16,
        lambda: service(enrolled, enrolled.iothub_connection_string).enrollment.get(NAME),
        r"connection string of an IoT hub, and a hub knows no enrollments \(400\): take target.dps_connection_string",
    )
    assert "Unknown api version; uri: /enrollments" in stop.card.text
    assert "What the service really answered" in stop.card.text


def test_16_key_of_a_hub(enrolled: Target) -> None:
    key = str(enrolled.iothub_connection_string).partition("SharedAccessKey=")[2]
    mixed = str(enrolled.dps_connection_string).partition("SharedAccessKey=")[0] + f"SharedAccessKey={key}"
    stop = told(16, lambda: service(enrolled, mixed).enrollment.get(NAME), r"refused the access key \(401\)")
    assert key not in stop.card.text + stop.card.html
    policy = mixed.replace("provisioningserviceowner", "iothubowner")
    told(16, lambda: service(enrolled, policy).enrollment.get(NAME), "connection string of an IoT hub")


def test_19_enrollment_saved_twice(enrolled: Target, pair: Pair) -> None:
    slots = {"primary": {"certificate": pair.certificate_file.read_text()}}
    document = {"attestation": {"type": "x509", "x509": {"clientCertificates": slots}}}
    client = service(enrolled, enrolled.dps_connection_string)
    stop = told(19, lambda: client.enrollment.create_or_update(NAME, document), r"\(409\).* if_match='\*'")
    assert "Enrollment already exists." in stop.card.text
    told(19, lambda: client.enrollment.create_or_update(NAME, document, if_match="AAAA"), r"someone else .*\(412\)")


def test_a_document_that_is_not_taken(enrolled: Target, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    slots = {"primary": {"certificate": pair.certificate_file.read_text()}}
    document = {"attestation": {"type": "x509", "x509": {"clientCertificates": slots}}, "devceId": "x"}
    client = service(enrolled, enrolled.dps_connection_string)

    def save() -> None:
        client.enrollment.create_or_update("another", document)

    stop = told(
        None, save, r"\(400, an enrollment of this kind has no field devceId\): mend it and run this cell again"
    )
    assert '"message": "Bad Request."' in stop.card.text
    monkeypatch.setattr(diagnosis, "refusals", lambda seconds: [])  # as on Azure, which shows no log
    told(None, save, r"does not take the document \(400, Bad Request\): mend it")


# --- 17, 18: the network ----------------------------------------------------------------------------------------------


def test_17_untrusted_service(enrolled: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent.pem")
    monkeypatch.setenv("SSL_CERT_DIR", "/nonexistent")
    stop = told(17, provision, "does not trust the certificate")
    assert "SSLCertVerificationError" in stop.card.text


def server_certificate(folder: Path, address: str, days: int) -> tuple[Path, Path]:
    """A certificate for that address which is valid `days` from now, and its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
    start = datetime.now(UTC) + timedelta(days=days)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(start).not_valid_after(start + timedelta(days=30))
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    made = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    files = folder / "server.pem", folder / "server.key"
    files[0].write_bytes(made.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


@pytest.mark.parametrize(
    ("other_name", "days", "words"),
    [
        (False, 9, "not yet valid.*set this machine's clock"),
        (False, -90, "expired.*set this machine's clock"),
        (True, -1, "mismatch.*use the name of the Overview page"),
    ],
)
def test_17_server_that_is_not_right(
    enrolled: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_name: bool, days: int, words: str
) -> None:
    """A certificate from the future looks exactly like a clock that is slow."""
    host = free_host()
    certificate, key = server_certificate(tmp_path, "127.0.0.1" if other_name else host, days)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server((host, 8883)) as server:
        os.environ["PROVISIONING_HOST"] = host

        def serve() -> None:
            try:
                context.wrap_socket(server.accept()[0], server_side=True).close()
            except OSError:
                return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        told(17, provision, words)
        thread.join(10)


def test_18_blocked_port(enrolled: Target) -> None:
    """A queue that is full answers nothing, as a firewall does that swallows packets. The SDK waits five seconds."""
    with socket.socket() as server:
        server.bind((free_host(), 8883))
        server.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(server.getsockname())
        try:
            os.environ["PROVISIONING_HOST"] = server.getsockname()[0]
            told(18, provision, "blocks port 8883: set DPSX_TRANSPORT=websockets")
        finally:
            for one in waiting:
                one.close()


# --- 20, 21, 23 -------------------------------------------------------------------------------------------------------


async def _quarrel(hub: str) -> None:
    first = hub_client(hub, NAME, connection_retry_interval=1)
    second = hub_client(hub, NAME, connection_retry_interval=1)
    try:
        for _ in range(3):
            for client in (first, second):
                # The other one's own attempt to come back may end this one at once.
                with suppress(NoConnectionError, ConnectionDroppedError):
                    await client.connect()
            await asyncio.sleep(0.3)
    finally:
        for client in (first, second):
            try:
                await client.shutdown()
            except NoConnectionError:  # the other one's connect came between: what is left to do is done now
                await client.shutdown()


def test_20_two_programs_as_one_device(enrolled: Target) -> None:
    """Nothing is raised: the SDK connects again and again."""
    provision()
    with conversation.recording() as talk:
        asyncio.run(_quarrel(enrolled.hubs[0]))
    assert talk.drops >= 2
    shown = diagnosis.why(talk)
    assert "(mistake 20 of 23)" in shown.text
    assert "a newer one of the same device took its place" in shown.text
    tutorial.enter("target", "azure")
    shown = diagnosis.why(talk)
    assert "accepted and then lost, more than once" in shown.text
    assert "the likeliest first:\n  1. a second program" in shown.text


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")


@needs_openssl
@pytest.mark.parametrize("subject", [f"//CN={NAME}", f"/C:/Program Files/Git/CN={NAME}", f"/CN=CN={NAME}"])
def test_21_mangled_subject(enrolled: Target, work: Path, subject: str) -> None:
    made = Pair(work / "mangled.pem", work / "mangled.key.pem", created=True)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-passout",
         f"pass:{PASS_PHRASE}", "-keyout", str(made.key_file), "-out", str(made.certificate_file), "-subj", subject],
        check=True, capture_output=True,
    )  # fmt: skip
    use(made)
    told(21, provision, "subject is .* and names no device|subject is .*CN=CN=")


@needs_openssl
def test_21_subject_that_openssl_refuses(tmp_path: Path) -> None:
    """What Git Bash makes of /CN=… reaches openssl as no subject at all, and no certificate comes out."""
    target = tmp_path / "never.pem"
    done = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", str(tmp_path / "never.key"), "-out", str(target), "-subj", f"C:/Program Files/Git/CN={NAME}"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    assert "not in that format" in done.stderr
    assert not target.exists()


def notebook(*cells: str) -> list[Any]:
    """The outputs of cells in a real kernel, each a list."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(book, timeout=60, allow_errors=True, kernel_name="python3").execute()
    return [cell.outputs for cell in book.cells]


def test_23_unexpected_failure(as_azure: Target, work: Path) -> None:
    enrollments.delete(as_azure, NAME)
    outputs = notebook(
        f"{SAMPLE}\nawait main()",
        "diagnosis.why()",
        "with diagnosis.explain():\n    await main()",
        "diagnosis.why()",
    )
    assert "ClientError: Unexpected failure" in re.sub(r"\x1b\[[0-9;]*m", "", "".join(outputs[0][-1]["traceback"]))
    assert "Invalid" not in str(outputs[0])
    assert "Unauthorized" not in str(outputs[0])
    first = outputs[1][0]["data"]
    assert "(mistake 23 of 23)" in first["text/plain"]
    assert "with diagnosis.explain():" in first["text/plain"]
    card, error = outputs[2][-2:]
    assert error["traceback"] == [error["evalue"]]
    assert "\n" not in error["evalue"]
    assert "The device is not enrolled" in card["data"]["text/plain"]
    assert '"message": "Unauthorized"' in card["data"]["text/plain"]
    assert "<details><summary>What DPS really answered" in card["data"]["text/html"]
    assert outputs[3][0]["data"] == card["data"]


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(1, 24))
def test_every_number_is_made_here_or_the_table_says_why_not(number: int) -> None:
    made = [name for name in globals() if name.startswith(f"test_{number:02}_")]
    assert made or mistakes.BY_NUMBER[number].limits


def _texts() -> list[Any]:
    return [*mistakes.BY_NUMBER.items(), *failures.OTHERS.items()]


@pytest.mark.parametrize(("key", "mistake"), _texts())
def test_every_remedy_names_a_place_in_the_notebooks_and_one_in_the_portal(
    key: int | str, mistake: mistakes.Mistake
) -> None:
    assert re.search(r"notebook 0[0-5]|\bform\b|\bcell\b", mistake.remedy)
    assert "portal" in mistake.portal
    for part in (mistake.name, mistake.happened, mistake.why, mistake.remedy, mistake.portal, mistake.evidence):
        assert part.strip() == part != ""
        assert "\n" not in part
    assert mistake.more
    for url in mistake.more:
        assert re.fullmatch(r"https://(github\.com|learn\.microsoft\.com)/[\w./#-]+", url)


def test_the_23_are_numbered_from_1() -> None:
    assert list(mistakes.BY_NUMBER) == list(range(1, 24))
    assert [mistakes.number_of(mistake) for mistake in mistakes.BY_NUMBER.values()] == list(range(1, 24))
    assert mistakes.number_of(failures.OTHERS["busy"]) is None


@pytest.mark.parametrize("number", range(1, 24))
def test_every_card_can_be_read_by_its_number(number: int) -> None:
    shown, mistake = diagnosis.card(number), mistakes.BY_NUMBER[number]
    for part in (mistake.name, mistake.happened, mistake.why, mistake.remedy, mistake.portal, *mistake.more):
        assert part in shown.text
    assert isinstance(shown, View)
    assert shown.html.startswith('<section aria-label="Diagnosis: ')
    assert all(f'href="{url}"' in shown.html for url in mistake.more)


def test_no_card_of_another_number() -> None:
    with pytest.raises(Stop, match="from 1 to 23"):
        diagnosis.card(24)
