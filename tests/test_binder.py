"""Binder: its image replayed, and what the notebooks say and do differently there."""

import json
import os
import re
import secrets
import stat
import subprocess
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import beyond
import nbformat
import pytest
from binder_image import Image, replayed, versions
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs12
from devices import NAME, PASS_PHRASE
from executed import BY_NUMBER, QUICKSTART, errors, read, said, tagged
from leaks import leaks, traces
from packaging.specifiers import SpecifierSet
from processes import free_host, listens, unable, wait_for
from test_project import pins
from test_views import accessible, structure

from dpsx_helpers import binder, certificates, links, takeaway, targets, tutorial, views
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop

pytest_plugins = ["kit"]
ROOT = Path(__file__).parents[1]
ADDRESS = "203.0.113.77"  # of a block that no machine has: https://www.rfc-editor.org/rfc/rfc5737
SESSION = {
    "BINDER_LAUNCH_HOST": "https://mybinder.org/",
    "BINDER_REPO_URL": "https://github.com/owner/dpsx",
    "BINDER_REQUEST": "v2/gh/owner/dpsx/main",
    "BINDER_CLIENT_IP": ADDRESS,
}
AZURE = {"DPSX_TARGET": "azure"}


@pytest.fixture
def session(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty work folder in a session of Binder."""
    set_all(monkeypatch, SESSION)
    return work


def set_all(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


# --- what is said -----------------------------------------------------------------------------------------------------


def test_outside_binder_nothing_of_it_is_said(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {"BINDER_CLIENT_IP": ADDRESS, "BINDER_LAUNCH_HOST": " ", "JUPYTERHUB_USER": "somebody"})
    assert not binder.here()
    for step in BY_NUMBER:
        assert binder.note_for(step) is None
        assert "Binder" not in views.tutorial_map(step).html


@pytest.mark.parametrize("sign", binder.SIGNS)
def test_each_of_its_variables_tells_binder(sign: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sign, "something")
    assert binder.here()


SAID = {
    0: ("10 minutes", "Nothing is kept", "Secrets", "80 and 443", "notebook 05 packs your work folder"),
    1: ("port 8883", "WebSockets, port 443", "chosen by itself"),
    2: ("bring no key of a real device",),
    4: ("port 8883", "websockets=True", "chosen by itself"),
    5: ("keeps nothing", "stays there until you delete it"),
    6: ("the connection strings that this notebook needs on Azure are secrets",),
}


@pytest.mark.parametrize("step", SAID)
def test_in_a_session_the_first_cell_says_what_is_different(step: int, session: Path) -> None:
    shown = views.tutorial_map(step)
    accessible(shown)
    for text in SAID[step]:
        assert text in shown.text
    assert ADDRESS not in shown.html


# --- the way to Azure -------------------------------------------------------------------------------------------------


def test_from_binder_to_azure_websockets_are_chosen(session: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tutorial.transport() == "mqtt"
    set_all(monkeypatch, AZURE)
    assert tutorial.transport() == "websockets"
    monkeypatch.setenv("DPSX_TRANSPORT", "mqtt")
    assert tutorial.transport() == "mqtt"


def test_elsewhere_nothing_is_chosen(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, AZURE)
    targets.current()
    assert tutorial.transport() == "mqtt"
    assert "DPSX_TRANSPORT" not in os.environ


def test_the_devices_program_learns_of_the_choice_and_of_its_end(
    session: Path, emulated: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "DPSX_TRANSPORT" not in os.environ
    for _ in range(2):
        set_all(monkeypatch, AZURE)
        for _ in range(2):
            targets.current()
            assert os.environ["DPSX_TRANSPORT"] == "websockets"
        monkeypatch.setenv("DPSX_TARGET", "emulator")
        targets.current()
        assert "DPSX_TRANSPORT" not in os.environ
        assert tutorial.transport() == "mqtt"


@pytest.mark.parametrize("choice", ["mqtt", "websockets"])
def test_what_the_learner_chose_is_left_alone(choice: str, session: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, AZURE | {"DPSX_TRANSPORT": choice})
    targets.current()
    assert os.environ["DPSX_TRANSPORT"] == choice


def test_a_terminal_gets_the_choice_too(session: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, AZURE | {"PROVISIONING_HOST": "dps.example.org"})
    assert "DPSX_TRANSPORT" not in views.environment().html
    targets.current()
    assert "export DPSX_TRANSPORT=websockets" in views.environment().text


def test_in_a_session_the_device_of_notebook_04_reaches_azure_on_port_443(tmp_path: Path) -> None:
    with beyond.azure(tmp_path) as known:
        if targets.listens(known["DPSX_PROVISIONING_HOST"], 443):
            unable("port 443, which the SDK's websockets need, takes rights that this user does not have")
        inputs = {"DPSX_REGISTRATION_ID": NAME, "DPSX_PASS_PHRASE": PASS_PHRASE}
        with beyond.desk(tmp_path, **known, **inputs, **SESSION) as learner:
            executed = {number: learner.run(read(number)) for number in (1, 2, 3, 4)}
        assert [errors(notebook) for notebook in executed.values()] == [[], [], [], []]
        assert "answers on port 443" in said(tagged(executed[1], "check"))
        assert "initialAssignment" in said(tagged(executed[4], "run"))
        assert "port 443 (MQTT over WebSockets)" in said(tagged(executed[4], "conversation"))
        assert "port 8883 (MQTT)" not in said(tagged(executed[4], "conversation"))
        assert leaks(learner.folder, [ADDRESS]) == []


# --- the work folder to take along ------------------------------------------------------------------------------------


@pytest.fixture
def at_work(emulated: Target, pair: certificates.Pair, work: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    """A work folder below the current one, with what the tutorial leaves in it; a second emulator's state as well."""
    monkeypatch.chdir(work.parent)
    assert emulated.emulator is not None
    state = emulated.emulator.state_dir
    for number, name in (("07", "root.key.pem"), ("07", "root.pem"), ("10", "devices/one.key.pem")):
        place = work / f"notebook-{number}" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((pair.key_file if "key" in name else pair.certificate_file).read_bytes())
    (work / "run" / "state").mkdir(parents=True)
    for file in filter(Path.is_file, state.iterdir()):
        (work / "run" / "state" / file.name).write_bytes(file.read_bytes())
    (work / "kept.sqlite").write_bytes(b"SQLite format 3\0and so on")
    (work / "notes.txt").write_text("read chapter two")
    (work / ".hidden").write_text("x")
    (work / "elsewhere").symlink_to("/etc/hostname")
    tutorial.remember(registration_id=NAME)
    return emulated


def packed(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        return {name: opened.read(name) for name in opened.namelist()}


def test_the_work_folder_is_packed_without_a_key(at_work: Target, work: Path) -> None:
    made = takeaway.pack()
    inside = packed(made.archive)
    names = {name.removeprefix("dpsx-work/") for name in inside}
    assert names == set(made.taken) == {"notebook-07/root.pem", "notes.txt", "python-device.pem", "tutorial.json"}
    assert {name for name, _ in made.left} == {
        "kept.sqlite", "notebook-07/root.key.pem", "notebook-10/devices/one.key.pem", "python-device.key.pem"
    }  # fmt: skip
    assert stat.S_IMODE(made.archive.stat().st_mode) == 0o600
    everything = b"\n".join(inside.values())
    assert b"PRIVATE KEY" not in everything
    strings = [at_work.dps_connection_string, at_work.iothub_connection_string]
    keys = [re.findall("SharedAccessKey=(.+)", str(string))[0] for string in strings]
    assert len(keys) == 2
    assert traces(everything, *keys) == []
    assert takeaway.pack().taken == made.taken, "packed again, the archive is not in itself"


def test_a_button_downloads_it(at_work: Target, work: Path) -> None:
    shown = views.take_along()
    accessible(shown)
    ((_, attributes),) = [(tag, found) for tag, found in structure(shown).seen if tag == "a"]
    assert attributes["download"] == "dpsx-work.zip"
    assert attributes["href"] == "work/dpsx-work.zip"
    assert "holds 4 files of your work folder" in shown.text
    assert re.search(r"python-device\.key\.pem +stays here: it is or shows a private key", shown.text)


def test_with_nothing_to_take_along_there_is_no_button(work: Path, pair: certificates.Pair) -> None:
    pair.certificate_file.unlink()
    assert views.take_along().text.startswith("There is nothing to take along yet")
    (work / "notes.txt").write_text("read chapter two")
    assert "holds 1 file of your work folder" in views.take_along().text


def test_a_work_folder_that_is_elsewhere_is_named(
    at_work: Target, work: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    shown = views.take_along()
    assert "<a " not in shown.html
    assert f"You find it in {work}." in shown.text


def test_where_it_cannot_be_written_one_sentence_says_so(work: Path) -> None:
    (work / takeaway.ARCHIVE).mkdir()
    with pytest.raises(Stop, match=r"dpsx-work\.zip cannot be written \(.*\): see to it that you may write") as stopped:
        takeaway.pack()
    assert "\n" not in str(stopped.value)


def test_what_holds_a_secret_is_known_in_every_form(pair: certificates.Pair) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate = pair.certificate_file.read_bytes()
    for held in (
        plain,
        pair.key_file.read_bytes(),
        certificate + plain,
        key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
        key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        plain.decode().encode("utf-16"),
        json.dumps({"key": plain.decode()}).encode(),
        pkcs12.serialize_key_and_certificates(b"x", key, None, None, NoEncryption()),
    ):
        assert takeaway.secret_in(held) == "it is or shows a private key"
    string = "HostName=h.example.org;SharedAccessKeyName=iothubowner;SharedAccessKey=c2VjcmV0IGtleQ=="
    for text in (string.encode(), string.encode("utf-16"), json.dumps([string]).encode()):
        assert takeaway.secret_in(text) == "it holds a connection string with a key"
    for harmless in (certificate, b"", b"SharedAccessKey=", b'{"target": "emulator"}', os.urandom(64) + b"\0"):
        assert takeaway.secret_in(harmless) is None


# --- the image --------------------------------------------------------------------------------------------------------

# They were 63 MB when this was written, on a base of six times as much. What goes beyond is a package too many, or one
# that the base has already: JupyterLab and Notebook alone are 86 MB.
LARGEST_LAYERS = 80_000_000  # bytes
_INSTALLED = (
    "import importlib.metadata as m, json; "
    "print(json.dumps({d.name: [d.version, d.metadata.get('Requires-Python') or ''] for d in m.distributions()}))"
)


@pytest.mark.timeout(900)  # 95 seconds of processor time, most of it for installing; other tests run beside it
def test_binder_builds_its_image_and_the_quickstart_runs_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    with replayed(ROOT) as image:
        tell(image, capsys)
        look_at_the_steps(image)
        look_at_the_packages(image)
        look_at_the_run(image)
        look_at_the_landing(image)


def tell(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"{size / 1e6:7.1f} MB  {step[:90]}" for step, size in image.layers]
    head = f"Binder's image, replayed with Python {image.python} on a base of {image.base / 1e6:.0f} MB:"
    with capsys.disabled():
        print("", head, *lines, sep="\n")


def look_at_the_steps(image: Image) -> None:
    """Packages first, the repository after them, so that a new commit keeps the layer of the packages."""
    requirements, install, source, *rest = (step for step, _ in image.layers)
    assert requirements.endswith(" src/binder/requirements.txt ${REPO_DIR}/binder/requirements.txt")
    assert 'pip install --no-cache-dir -r "binder/requirements.txt"' in install
    assert source.endswith(" src/ ${REPO_DIR}/")
    assert rest == ["RUN chmod +x binder/postBuild", "RUN ./binder/postBuild"]
    assert sum(size for _, size in image.layers) < LARGEST_LAYERS


def look_at_the_packages(image: Image) -> None:
    """Everything has the version that it is pinned to, the base's own as well, and suits the Python of runtime.txt."""
    python = (ROOT / "binder" / "runtime.txt").read_text().strip().removeprefix("python-")
    assert image.lock.name.startswith(f"environment.py-{python}-")
    installed = json.loads(image.run("python", "-c", _INSTALLED).stdout)
    ours, base = pins("binder/requirements.txt"), versions(image.lock)
    found = {re.sub(r"[-_.]+", "-", name).lower(): both for name, both in installed.items()}
    assert {name: found[name][0] for name in ours} == {name: version for name, (version,) in ours.items()}
    for name in ("jupyterlab", "notebook", "ipykernel", "ipywidgets", "jupyterlab-widgets", "jupyter-server"):
        assert found[name][0] == base[name], name
    for name in (*ours, "dpsx"):
        assert SpecifierSet(found[name][1]).contains(python), name
    checked = image.run("python", "-m", "pip", "check")
    assert checked.returncode == 0, checked.stdout


def look_at_the_run(image: Image) -> None:
    """The quickstart from the first cell to the last; what it leaves says what is different, and no secret."""
    done = image.run("dpsx", "run", **SESSION)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert f"Registered: device ID {NAME}, hub 127." in done.stdout
    folder = image.workdir / "notebooks" / "work" / "run"
    for number in QUICKSTART:
        executed = nbformat.read(folder / "executed" / BY_NUMBER[number].name, as_version=4)
        assert errors(executed) == []
        for text in SAID.get(number, ()):
            assert text in said(tagged(executed, "map"))
    inside = packed(folder / takeaway.ARCHIVE)
    assert {"dpsx-work/python-device.pem", "dpsx-work/tutorial.json"} <= inside.keys()
    assert b"PRIVATE KEY" not in b"\n".join(inside.values())
    assert leaks(image.workdir, [ADDRESS], but_not_in=[image.workdir / "tests"]) == []


def look_at_the_landing(image: Image) -> None:
    """The image's JupyterLab answers where the link of `dpsx links` leads."""
    address = urlsplit(links.binder(links.repository("git@github.com:owner/dpsx.git"), "main"))
    (place,) = parse_qs(address.query)["urlpath"]
    with server(image) as ask:
        assert "<title>JupyterLab</title>" in ask(place)
        document = json.loads(ask(f"api/contents/{place.removeprefix('lab/tree/')}"))
    assert document["content"]["cells"][0]["source"].startswith("# Start here")


@contextmanager
def server(image: Image) -> Iterator[Callable[[str], str]]:
    """JupyterLab as the image starts it, but on this machine alone; a function that reads one of its addresses."""
    token, host = secrets.token_hex(16), free_host()  # a free port cannot be left to this server: it then tells 0
    options = (f"--ServerApp.ip={host}", "--ServerApp.port=8888", "--ServerApp.port_retries=0", "--no-browser")
    process = image.start("jupyter", "lab", *options, JUPYTER_TOKEN=token)

    def ask(place: str) -> str:
        request = urllib.request.Request(f"http://{host}:8888/{place}", headers={"Authorization": f"token {token}"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return str(answer.read().decode())

    try:
        wait_for(lambda: listens(host, 8888) or process.poll() is not None, within=120)
        yield ask
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
