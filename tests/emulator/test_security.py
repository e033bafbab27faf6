"""What SECURITY.md says of the emulator and no other test shows: one comparison of secrets, limits, files."""

import asyncio
import hmac
import json
import os
import re
import socket
import ssl
import stat
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
import wire
from clients import connected, send
from connections import at_dps, provisioned
from pki import make_ca, make_device
from processes import RunningEmulator, free_host, run_command
from rest import API_VERSIONS, ask, plane_of
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.web import RequestHandler
from wire import Desk

from dpsx_helpers import authorities, certificates, joining, takeaway, tutorial
from dpsx_helpers.certificate_files import CertificateError
from dpsx_helpers.emulator import EmulatorError, control_api, dps, dps_api, https, hub_api, sas, service_api, tls
from dpsx_helpers.emulator.data_plane import Access, Control
from dpsx_helpers.emulator.options import Deadlines
from dpsx_helpers.emulator.services import Services
from dpsx_helpers.emulator.store import Store
from dpsx_helpers.emulator.students import Student
from dpsx_helpers.forms import uploads

Start = Callable[..., RunningEmulator]
ANSWER_WITHIN = 15.0  # seconds: not a measure, but the end of waiting for an answer that never comes
KEYS = {name: b64encode(name.encode() * 8).decode() for name in ("dps", "hub", "student", "device", "wrong")}


# --- one comparison ---------------------------------------------------------------------------------------------------


def let_in(desk: Desk, wrong: bool) -> dict[str, bool]:
    """Who is let in when all that is secret of what they show is right, or wrong."""
    host, soon = "service.example", int(desk.clock.seconds) + 60
    access = Access(frozenset({host}), {"dps-policy": KEYS["dps"]}, {"hub-policy": KEYS["hub"]}, "t0ken")
    application = service_api.application(desk.services, access, Control(lambda: None, lambda: None))

    def signed(policy: str, key: str) -> str:
        return sas.sign(host, policy, KEYS["wrong" if wrong else key], soon)

    requests = {
        "key of DPS": ("/enrollments/anna", "2021-10-01", signed("dps-policy", "dps")),
        "key of the hub": ("/devices/keyed", "2021-04-12", signed("hub-policy", "hub")),
        "key of a student": ("/enrollments/anna", "2021-10-01", signed("student-anna", "student")),
        "key of a student, for messages": ("/emulator/messages", "2021-04-12", signed("student-anna", "student")),
        "control token": ("/emulator/faults", "", f"Bearer {'t0kex' if wrong else 't0ken'}"),
        "control token, at DPS": ("/enrollments/anna", "", f"Bearer {'t0kex' if wrong else 't0ken'}"),
    }

    async def answers() -> dict[str, bool]:
        service = HTTPServer(application)
        with socket.create_server(("127.0.0.1", 0)) as door:
            door.setblocking(False)
            service.add_socket(door)
            address = "http://{}:{}".format(*door.getsockname())
            codes = {}
            for name, (path, version, authorization) in requests.items():
                url = f"{address}{path}?api-version={version}"
                answer = await AsyncHTTPClient().fetch(url, headers={"Authorization": authorization}, raise_error=False)
                codes[name] = answer.code
            service.stop()
            await service.close_all_connections()
        assert set(codes.values()) <= {200, 401}, codes
        return {name: code == 200 for name, code in codes.items()}

    password = desk.token("keyed", KEYS["wrong" if wrong else "device"])
    answer = desk.meet().say(wire.to_hub("keyed", password=password))[0]
    return {**asyncio.run(answers()), "key of a device": answer in (wire.CONNECTED, wire.RESUMED)}


@pytest.fixture
def filled(desk: Desk) -> Desk:
    desk.enroll("anna")
    desk.add("keyed", primary_key=KEYS["device"], secondary_key=KEYS["device"])
    desk.store.put_student(Student("anna", KEYS["student"]))
    desk.store.commit()
    return desk


def test_every_key_and_token_is_compared_in_one_place(filled: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """With that place saying no, nobody comes in who should; with it saying yes, everybody who should not."""
    right, wrong = let_in(filled, wrong=False), let_in(filled, wrong=True)
    assert (set(right.values()), set(wrong.values())) == ({True}, {False})
    monkeypatch.setattr(sas, "same", lambda one, other: False)
    assert let_in(filled, wrong=False) == wrong
    monkeypatch.setattr(sas, "same", lambda one, other: True)
    assert let_in(filled, wrong=True) == right


def test_that_place_compares_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def watched(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return False

    assert sas.same("sécret", "sécret")
    assert not sas.same("sécret", "secret")
    monkeypatch.setattr(hmac, "compare_digest", watched)
    assert not sas.same("sécret", "sécret"), "the answer is that of hmac.compare_digest, whatever it is"
    assert compared == [("sécret".encode(), "sécret".encode())]


# --- limits -----------------------------------------------------------------------------------------------------------

ROUTES = [*dps_api.ROUTES, *hub_api.ROUTES, *control_api.ROUTES]
PATHS = [*(re.sub(r"\(.*?\)", "x", pattern) for pattern, _, _ in ROUTES), "/not/emulated"]
LARGEST_BODY, LARGEST_HEAD = 1 << 20, 64 << 10


def answered(emulator: RunningEmulator, head: str, *body: bytes) -> int | None:
    """The status of the answer; None when the connection was closed without one. Time-outs fail the test."""
    overview = emulator.emulator.overview
    context = ssl.create_default_context(cafile=str(overview.ca_file))
    name, port = overview.host, overview.https_port
    deadline, answer = time.monotonic() + ANSWER_WITHIN, b""
    with (
        socket.create_connection((name, port), ANSWER_WITHIN) as plain,
        context.wrap_socket(plain, server_hostname=name) as connection,
    ):
        try:
            connection.sendall(head.encode())
            for piece in body:
                connection.sendall(piece)
            while b"\r\n" not in answer and (piece := connection.recv(1000)):
                answer += piece
        except TimeoutError:
            raise
        except OSError:  # closed before all of it was sent
            return None
    assert time.monotonic() < deadline
    return int(answer.split()[1]) if answer else None


def bearer(emulator: RunningEmulator) -> str:
    """The control token, which only the owner of the state directory can read."""
    return str(json.loads((emulator.state_dir / "running.json").read_text())["token"])


def head(emulator: RunningEmulator, method: str, path: str, *lines: str, query: str = "") -> str:
    """The head of a request of the emulator's owner, to whom every path is open."""
    authorization = f"Authorization: Bearer {bearer(emulator)}"
    version = API_VERSIONS[plane_of(path)]
    first = f"{method} {path}?api-version={version}{query} HTTP/1.1"
    return "\r\n".join([first, f"Host: {emulator.emulator.overview.service_endpoint}", authorization, *lines, "", ""])


def methods(path: str) -> list[str]:
    """What a client may send there; `stop` would end the emulator of these tests, and has no body to look at."""
    return ["GET", "PUT", "PATCH", "POST", "DELETE"] if path != "/emulator/stop" else ["GET", "PUT", "DELETE"]


CHUNK = b"10000\r\n" + b"x" * (64 << 10) + b"\r\n"
BEYOND: dict[str, Callable[[RunningEmulator, str, str], int | None]] = {
    "a body that is announced": lambda it, method, path: answered(
        it, head(it, method, path, f"Content-Length: {LARGEST_BODY + 1}"), b"{"
    ),
    "a body without an end": lambda it, method, path: answered(
        it, head(it, method, path, "Transfer-Encoding: chunked"), *[CHUNK] * 64
    ),
    "one header": lambda it, method, path: answered(it, head(it, method, path, f"X-Long: {'x' * LARGEST_HEAD}")),
    "many headers": lambda it, method, path: answered(it, head(it, method, path, *["X-Many: x"] * 8000)),
    "a query": lambda it, method, path: answered(it, head(it, method, path, query=f"&x={'x' * LARGEST_HEAD}")),
    "a path": lambda it, method, path: answered(it, head(it, method, f"{path}{'x' * LARGEST_HEAD}")),
}


def kept(emulator: RunningEmulator) -> list[Any]:
    """All that a request could have left behind."""
    return [
        ask(emulator, "POST", "/enrollments/query", {"query": "SELECT * FROM enrollments"}).json(),
        ask(emulator, "POST", "/enrollmentGroups/query", {"query": "SELECT * FROM enrollmentGroups"}).json(),
        ask(emulator, "GET", "/certificates").json(),
        ask(emulator, "GET", "/devices").json(),
        emulator.emulator.faults(),
        emulator.emulator.students(),
    ]


@pytest.mark.parametrize("attack", BEYOND)
def test_what_is_beyond_a_limit_is_refused_on_every_path(emulator: RunningEmulator, attack: str) -> None:
    """With the owner's own token: 1 MiB for a body, 64 KiB for the request line and all headers together."""
    assert len(PATHS) > 30
    seen = {(method, path): BEYOND[attack](emulator, method, path) for path in PATHS for method in methods(path)}
    assert {case: status for case, status in seen.items() if status not in (None, 400, 413, 431)} == {}
    assert kept(emulator) == [[], [], {"value": []}, [], [], []]


NESTED = "(" * 1000 + "deviceId = 'x'" + ")" * 1000
LARGE: dict[str, Any] = {
    "a text": {"query": "x" * 500_000, "deviceId": "x" * 500_000},
    "blanks": {"query": "SELECT * FROM devices" + " " * 1_000_000},
    "brackets": {"query": f"SELECT * FROM devices WHERE {NESTED * 400}"},
    "NOT": {"query": "SELECT * FROM devices WHERE " + "NOT " * 200_000 + "deviceId = 'x'"},
    "AND": {"query": "SELECT * FROM devices WHERE " + " AND ".join(["deviceId = 'x'"] * 50_000)},
    "a list": {"registrationIds": ["x y"] * 70_000, "enrollments": [{}] * 100_000, "mode": "create"},
    "many fields": {f"field{number}": number for number in range(40_000)},
    "a path of names": {"tags": {"a": {"b": {"c": "x" * 900_000}}}, "body": "=" * 90_000},
}


@pytest.mark.parametrize("kind", LARGE)
def test_the_largest_body_is_answered_on_every_path(emulator: RunningEmulator, kind: str) -> None:
    """What passes the limit costs no more than a moment either, and no fault of the emulator's own."""
    body = json.dumps(LARGE[kind]).encode()
    assert 200_000 < len(body) <= LARGEST_BODY
    lines = (f"Content-Length: {len(body)}", "Content-Type: application/json", "If-Match: *")
    for path in PATHS:
        for method in methods(path):
            status = answered(emulator, head(emulator, method, path, *lines), body)
            assert status is not None, (method, path)
            assert status < 500 or status == 501, (method, path, status)
    emulator.emulator.reset()


@pytest.mark.parametrize("begun", ["tcp", "tls", "head", "body"])
def test_a_request_that_never_ends_is_closed(tmp_path: Path, begun: str) -> None:
    """Half a second instead of a minute or two, for who says nothing in TLS and for who drips a request."""
    files = tls.Files(tmp_path)
    tls.prepare(files, "127.0.0.1", datetime.now(UTC))
    start = b"PUT /devices/x?api-version=2021-04-12 HTTP/1.1\r\n"
    if begun == "body":
        start += b"Host: 127.0.0.1\r\nAuthorization: Bearer t0ken\r\nContent-Length: 1000\r\n\r\n"

    async def drip(store: Store) -> float:
        sock, clients = socket.create_server(("127.0.0.1", 0)), https.Clients()
        services = Services(store, dps.Service("0ne00111111", {}))
        access = Access(frozenset({"127.0.0.1"}), {}, {}, "t0ken")
        application = service_api.application(services, access, Control(lambda: None, lambda: None, clients.busy))
        service = https.server_of(application, Deadlines(head=0.5, body=0.5))
        door = clients.door(sock, service, https.server_context(files))
        door.open()
        context = None if begun == "tcp" else ssl.create_default_context(cafile=str(files.ca))
        reader, writer = await asyncio.open_connection(*sock.getsockname(), ssl=context)
        began, loop = asyncio.get_running_loop().time(), asyncio.get_running_loop()
        for byte in start if begun in ("head", "body") else b"":
            writer.write(bytes([byte]))
        # A connection that is reset has an exception, and no end.
        while not (reader.at_eof() or reader.exception()) and loop.time() < began + ANSWER_WITHIN:
            if begun in ("head", "body"):
                writer.write(b"x")
            await asyncio.sleep(0.05)
        writer.close()
        await door.close()
        return loop.time() - began

    with closing(Store(tmp_path / "emulator.db")) as store:
        assert 0.4 < asyncio.run(drip(store)) < ANSWER_WITHIN


# --- files ------------------------------------------------------------------------------------------------------------

MARK = "c4n4ry"
NAMES = [
    f"../{MARK}", f"../../../../tmp/{MARK}", f"/tmp/{MARK}", f"{MARK}/../../x", f"..\\{MARK}", f"C:\\{MARK}",
    f"~/{MARK}", f"{MARK}\0", f"{MARK}\0.pem", f"file:///{MARK}", f"{MARK}|id", f"$({MARK})", f"{MARK}%2e%2e%2f",
    f".{MARK}", "..",
]  # fmt: skip
WATCHED = """
import sys
from dpsx_helpers.emulator.__main__ import main

trace = open(sys.argv[1], "a", buffering=1, errors="backslashreplace")

def watch(event, given):
    if event.split(".")[0] in ("open", "os", "shutil", "sqlite3", "subprocess", "tempfile", "glob", "pathlib"):
        trace.write(f"{event} {given!r}\\n")

sys.addaudithook(watch)
sys.exit(main(sys.argv[2:]))
"""


def below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_no_name_that_comes_over_the_network_becomes_a_path(tmp_path: Path) -> None:
    """Python tells each file that the process opens, makes, moves or lists, and each program that it starts."""
    folder, trace = tmp_path / "here" / "state", tmp_path / "trace"
    folder.parent.mkdir()
    program = [sys.executable, "-c", WATCHED, str(trace)]
    emulator = RunningEmulator(folder, free_host(), "--log-bodies", program=program)
    try:
        device, root = make_device(tmp_path, "named"), make_ca(tmp_path, "root")
        ready, there = len(trace.read_text()), below(tmp_path)
        for name in NAMES:
            send_everywhere(emulator, name, device.pem, root.pem)
            if "\0" not in name:  # which ends a connection without a word
                with at_dps(emulator, replace(device, common_name=name)) as line:
                    assert line.code == 5, name
        assert MARK in emulator.log(), "they came in"
        stored = {row["registrationId"] for row in kept(emulator)[0]}
        assert not stored & set(NAMES)
        before, after = trace.read_text()[:ready], trace.read_text()[ready:]
        assert "sqlite3.connect" in before, "the files of the emulator itself are seen"
        assert str(folder / "running.json") in before
        assert MARK not in after
        opened = [line for line in after.splitlines() if line.startswith("open") and str(folder) not in line]
        assert [line for line in opened if not line.partition("'")[2].startswith((sys.prefix, sys.base_prefix))] == []
        assert below(tmp_path) == there
    finally:
        emulator.close()


def send_everywhere(emulator: RunningEmulator, name: str, pem: str, ca: str) -> None:
    """The name in every place of every path and body that takes one, by whoever may do everything."""
    attestation = {"type": "x509", "x509": {"clientCertificates": {"primary": {"certificate": pem}}}}
    of_group = {"type": "x509", "x509": {"caReferences": {"primary": name}}}
    named = dict.fromkeys(
        ("registrationId", "enrollmentGroupId", "deviceId", "device", "kind", "name", "methodName"), name
    )
    bodies: list[Any] = [
        {**named, "attestation": attestation, "iotHubHostName": name, "iotHubs": [name], "registrationIds": [name]},
        {**named, "attestation": of_group, "body": "", "query": f"SELECT * FROM devices WHERE deviceId = '{name}'"},
        {"mode": "create", "enrollments": [{"registrationId": name, "attestation": attestation}]},
        {"mode": "create", "enrollmentGroups": [{"enrollmentGroupId": name, "attestation": of_group}]},
        {"name": name, "certificate": b64encode(ca.encode()).decode()},
    ]
    overview = emulator.emulator.overview
    with requests.Session() as session:
        for pattern, handler, _ in ROUTES:
            path = re.sub(r"\(.*?\)", lambda _: quote(name, safe="").replace("..", "%2E%2E"), pattern)
            for method in ("GET", "PUT", "PATCH", "POST", "DELETE"):
                there = getattr(handler, method.lower()) is not RequestHandler._unimplemented_method
                for body in (bodies if method in ("PUT", "PATCH", "POST") else [None]) if there else []:
                    if path not in ("/emulator/stop", "/emulator/reset"):
                        status = session.request(
                            method,
                            f"https://{overview.service_endpoint}{path}?api-version={API_VERSIONS[plane_of(path)]}",
                            headers={"Authorization": f"Bearer {bearer(emulator)}"},
                            json=body,
                            verify=str(overview.ca_file),
                            timeout=ANSWER_WITHIN,
                        ).status_code
                        assert status < 500 or status == 501, (method, path, body)


BAD_NAMES = ["../x", "..", "/tmp/x", "a/b", "a\\b", "a\0b", "a\nb", ".", "", "x" * 200, "~", "CON:", "a b", "a|b"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_no_name_of_a_device_authority_or_student_becomes_a_path(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "a" / "work"
    folder.mkdir(parents=True)
    root = authorities.create("root", "1234", folder)
    there = below(tmp_path)
    for call in (
        lambda: certificates.create(name, "1234", folder, key_type="ec-p256"),
        lambda: authorities.create(name, "1234", folder),
        lambda: authorities.issue(name, root, "1234", folder),
    ):
        with pytest.raises(CertificateError):
            call()
    assert below(tmp_path) == there


def test_names_of_students_stay_in_the_folder_of_join_files(emulator: RunningEmulator, tmp_path: Path) -> None:
    """Those that could lead elsewhere are no names of students, for the command as for the emulator itself."""
    for name in BAD_NAMES:
        with pytest.raises(EmulatorError):
            emulator.emulator.admit([name])
        if name in ("../x", "..", "/tmp/x"):
            done = run_command("students", "add", name, "--state-dir", str(emulator.state_dir))
            assert done.returncode == 1, name
            assert len(done.stderr.splitlines()) == 1, name
    assert not (emulator.state_dir / "students").exists()
    assert emulator.emulator.students() == []
    out, precious = tmp_path / "out", tmp_path / "precious"
    out.mkdir()
    precious.write_text("mine")
    (out / "a%3Ab.dpsx.json").symlink_to(precious)
    add = ("students", "add", "a:b", "--out", str(out / ".." / "out"), "--state-dir", str(emulator.state_dir))
    assert run_command(*add).returncode == 0
    assert precious.read_text() == "mine", "a link that lies there is replaced, not followed"
    assert joining.read_file(out / "a%3Ab.dpsx.json").registration_id == "a:b"
    assert below(out) == {"a%3Ab.dpsx.json"}
    emulator.emulator.dismiss("a:b")


def test_what_a_join_file_says_leads_to_no_path(emulator: RunningEmulator, tmp_path: Path) -> None:
    (good,) = emulator.emulator.admit(["anna"])
    work = tmp_path / "a" / "work"
    work.mkdir(parents=True)
    for field in ("host", "id_scope", "registration_id"):
        for value in ("../x", "/tmp/x", "a/b", "a\0b", "a\\b", "a\nb"):
            with pytest.raises(joining.JoinError):
                joining.read(json.dumps(good.document() | {field: value}), "The file")
        joining.keep(work, joining.read(json.dumps(good.document() | {field: ".."}), "The file"))
        joining.trust(work, good)
        assert below(tmp_path / "a") == {"work", *(f"work/class{one}" for one in KEPT)}
    emulator.emulator.dismiss("anna")


KEPT = ("", "/join.json", "/ca.pem", "/ca-bundle.pem")


# --- other users of the machine ---------------------------------------------------------------------------------------


@contextmanager
def open_to_all() -> Iterator[None]:
    """The umask 0, which takes nothing away: what is private then is so by itself."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def open_files(folder: Path) -> dict[str, str]:
    """Which files below a folder anybody but their owner may do something with, and what."""
    files = {path.relative_to(folder).as_posix(): path.stat().st_mode for path in folder.rglob("*") if path.is_file()}
    return {name: stat.filemode(mode) for name, mode in files.items() if mode & 0o077}


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
def test_with_the_umask_0_every_file_of_the_emulator_and_of_its_class_is_its_owners(
    start: Start, tmp_path: Path
) -> None:
    """Keys, database with its journal, log, what is running, join files; while it runs and when it has ended."""
    with open_to_all():
        emulator = start()
        device = provisioned(emulator, tmp_path, "private")
        assert run_command("students", "add", "anna", "--state-dir", str(emulator.state_dir)).returncode == 0
        with connected(emulator, device) as client:
            send(client, "hello")
            assert below(emulator.state_dir) >= {
                "ca.key.pem", "server.key.pem", "emulator.db", "emulator.db-wal", "emulator.db-shm", "emulator.log",
                "running.json", "emulator.lock", "students/anna.dpsx.json",
            }  # fmt: skip
            assert open_files(emulator.state_dir) == {}
        emulator.terminate()
    assert open_files(emulator.state_dir) == {}
    assert stat.filemode(emulator.state_dir.stat().st_mode) == "drwx------"
    assert stat.filemode((emulator.state_dir / "students").stat().st_mode) == "drwx------"


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
def test_with_the_umask_0_what_a_learner_makes_is_open_only_where_it_is_public(
    emulator: RunningEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPSX_WORK_DIR", str(tmp_path / "work"))
    with open_to_all():
        work = tutorial.work_dir()
        certificates.create("private", "1234", work, key_type="ec-p256")
        root = authorities.create("root", "1234", work)
        authorities.issue("below", root, "1234", tutorial.own_folder(7))
        content = (work / "python-device.pem").read_bytes()
        uploaded = uploads.keep("mine.pem", content, uploads.DEVICE_CERTIFICATE, work)
        tutorial.remember(target="emulator")
        (join,) = emulator.emulator.admit(["bob"])
        joining.keep(work, join)
        joining.trust(work, join)
        takeaway.pack()
    emulator.emulator.dismiss("bob")
    assert stat.filemode(work.stat().st_mode) == "drwx------"
    assert below(work) >= {"python-device.key.pem", "root.key.pem", uploaded.name, "class/join.json", takeaway.ARCHIVE}
    public = {name for name in open_files(work) if "key" not in name}
    assert set(open_files(work)) == public == {"python-device.pem", "root.pem", "notebook-07/python-device.pem"}
    assert all(mode == "-rw-r--r--" for mode in open_files(work).values())
    for name in public:
        assert b"PRIVATE" not in (work / name).read_bytes()
