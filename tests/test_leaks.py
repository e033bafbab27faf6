"""Nothing leaks: secrets are in no notebook, log, history, representation, exception, process list or environment.

Every search is for fresh secrets, and each searcher has a control that it finds a planted one.
"""

import asyncio
import base64
import json
import logging
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from pprint import pformat
from typing import Any

import ipywidgets
import nbformat
import psutil
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from devices import NAME, PASS_PHRASE, odd_pair, provision, register, send, set_variables
from leaks import body, canary, disguises, files, leaks, traces
from processes import free_host

from dpsx_helpers import certificates, checks, diagnosis, enrollments, forms, registry, targets, tutorial, views
from dpsx_helpers.emulator import Emulator, EmulatorError, running
from dpsx_helpers.errors import LearnerError
from dpsx_helpers.targets import Target

pytest_plugins = ["kit"]

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("0[2-5]-*.ipynb"))
CONTROL = "99-control.ipynb"
PHRASES = ("DPSX_PASS_PHRASE", "PASS_PHRASE", "X509_PASS_PHRASE")
# What a front end sends when somebody types: into every pass phrase field that is on the page.
HANDS = """
import os as _os
import ipywidgets as _widgets
_fields = [w for w in list(_widgets.widget._instances.values()) if isinstance(w, _widgets.Password)]
assert _fields
for _field in _fields:
    _field.set_state({"value": _os.environ["HANDS"]})
"""
LEAK = 'import os, ipywidgets\nipywidgets.Password(value=os.environ["HANDS"])'


# --- the searchers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("disguise", disguises("x"))
def test_the_search_finds_a_planted_secret(disguise: str, place: int, tmp_path: Path) -> None:
    secret = canary()
    (tmp_path / "deep" / "down").mkdir(parents=True)
    planted = b"#" * place + disguises(secret)[disguise] + b"#" * place
    (tmp_path / "deep" / "down" / "a.bin").write_bytes(planted)
    assert any(f"({disguise})" in line for line in leaks(tmp_path, [secret]))
    assert leaks(tmp_path, [canary()]) == []


@pytest.mark.parametrize("before", range(6))
def test_the_search_finds_a_secret_within_what_was_encoded_as_a_whole(before: int, tmp_path: Path) -> None:
    secret, text = canary(), "é"
    whole = b"x" * before + secret.encode() + b"yz"
    assert any("base64" in line for line in traces(base64.b64encode(whole), secret))
    assert any("base64" in line for line in traces(base64.urlsafe_b64encode(whole), secret))
    assert any("JSON" in line for line in traces(json.dumps({"a": text + secret + text}).encode(), secret))
    assert any("JSON in JSON" in line for line in traces(json.dumps(json.dumps([secret + text])).encode(), secret))
    assert any("Python" in line for line in traces(ascii([text, secret]).encode(), secret))
    (tmp_path / f"{whole.decode()}.txt").write_text("")
    assert leaks(tmp_path, [secret]), "a name of a file tells as much"


# --- every notebook, with every program that runs notebooks and saves what widgets hold -------------------------------


def _jupyter(notebooks: Path, *names: str) -> list[list[str]]:
    """nbclient, by its own command."""
    command = [sys.executable, "-m", "jupyter", "execute", "--inplace", "--timeout=120"]
    return [[*command, *(str(notebooks / name) for name in names)]]


def _nbconvert(notebooks: Path, *names: str) -> list[list[str]]:
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace"]
    return [[*command, *(str(notebooks / name) for name in names)]]


def _papermill(notebooks: Path, *names: str) -> list[list[str]]:
    command = [sys.executable, "-m", "papermill", "--log-output", "--cwd", str(notebooks)]
    return [[*command, str(notebooks / name), str(notebooks / name)] for name in names]


TOOLS = {"nbclient": _jupyter, "nbconvert": _nbconvert, "papermill": _papermill}


class Room:
    """A home folder of its own, with the notebooks, a key that the pass phrase opens, and an emulator.

    The tools write their usual log: at DEBUG it has every message of a kernel in it, and so what is typed.
    """

    def __init__(self, folder: Path, phrase: str, by_hand: bool) -> None:
        self.folder, self._phrase = folder, phrase
        self.notebooks, self.work = folder / "notebooks", folder / "notebooks" / "work"
        self.work.mkdir(parents=True)
        for place in ("tmp", "home"):
            (folder / place).mkdir()
        pair = certificates.create(NAME, phrase, self.work, key_type="ec-p256")
        self.service = _service_keys(Emulator.start(self.work / "emulator", idle_hours=0.2))
        self.keys = [*_bodies(pair.key_file, phrase), *body((self.work / "emulator" / "ca.key.pem").read_text())]
        for path in NOTEBOOKS:
            _copy(path, self.notebooks / path.name, by_hand)
        new: Any = nbformat.v4
        control = new.new_notebook(cells=[new.new_code_cell(LEAK)], metadata=nbformat.read(path, 4).metadata)
        nbformat.write(control, self.notebooks / CONTROL)
        self._given = {"HANDS": phrase} if by_hand else {"HANDS": phrase, **dict.fromkeys(PHRASES, phrase)}

    def run(self, tool: str) -> None:
        with (self.folder / "tool.log").open("wb") as log:
            options: dict[str, Any] = {"env": self._environment(), "cwd": self.notebooks, "stdout": log, "stderr": log}
            for command in TOOLS[tool](self.notebooks, *(path.name for path in NOTEBOOKS), CONTROL):
                subprocess.run(command, timeout=200, check=True, **options)

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DPSX_")}
        for name in (*tutorial.VARIABLES, *targets.TRUST):
            kept.pop(name, None)
        places = {"HOME": "home", "TMPDIR": "tmp", "IPYTHONDIR": "ipython", "JUPYTER_RUNTIME_DIR": "runtime"}
        places |= {"JUPYTER_DATA_DIR": "data", "JUPYTER_CONFIG_DIR": "config", "DPSX_WORK_DIR": "notebooks/work"}
        return kept | {name: str(self.folder / place) for name, place in places.items()} | self._given

    def end(self) -> None:
        with suppress(EmulatorError):
            Emulator.attach(self.work / "emulator").stop()


def _copy(path: Path, to: Path, by_hand: bool) -> None:
    """The notebook; `by_hand`: with a cell after each pass phrase form that types into it."""
    notebook = nbformat.read(path, as_version=4)
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        if by_hand and "pass-phrase" in cell.metadata.get("tags", ()):
            cells.append(nbformat.v4.new_code_cell(HANDS))  # type: ignore[no-untyped-call]
    notebook.cells = cells
    nbformat.write(notebook, to)


def _service_keys(emulator: Emulator) -> list[str]:
    seen = emulator.overview
    return [text.split("SharedAccessKey=")[1] for text in (seen.dps_connection_string, seen.iothub_connection_string)]


def _bodies(key_file: Path, phrase: str) -> list[str]:
    """The lines of a private key, as they are on disk and as they would be without its pass phrase."""
    key = certificates.open_key(key_file, phrase)
    plain = [
        key.private_bytes(Encoding.PEM, form, NoEncryption()).decode()
        for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL)
    ]
    return [line for text in (key_file.read_text(), *plain) for line in body(text)]


@dataclass(frozen=True)
class Ran:
    """A room after the tool has been in it."""

    room: Room
    phrase: str


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Ran]]:
    """Each tool in a room of its own, all at the same time. Where hands are missing, the environment tells."""
    phrases = {tool: canary() for tool in TOOLS}
    made: dict[str, Room] = {}
    try:
        for tool, phrase in phrases.items():
            made[tool] = Room(tmp_path_factory.mktemp(tool), phrase, by_hand=tool != "nbconvert")
        with ThreadPoolExecutor() as threads:
            list(threads.map(lambda tool: made[tool].run(tool), TOOLS))
        yield {tool: Ran(made[tool], phrases[tool]) for tool in TOOLS}
    finally:
        for room in made.values():
            room.end()


def test_no_file_holds_the_pass_phrase_a_service_key_or_a_private_key(rooms: dict[str, Ran]) -> None:
    """One test, so that no two workers run all the notebooks for it."""
    for ran in rooms.values():
        _look_for_all_of_it(ran.room)
        _look_for_secrets(ran.room, ran.phrase)


def _look_for_secrets(room: Room, phrase: str) -> None:
    control = room.notebooks / CONTROL
    assert traces(control.read_bytes(), phrase), "the tool saves what widgets hold, and the search sees it"
    assert leaks(room.folder, [phrase], but_not_in=[control]) == []
    assert leaks(room.folder, [*room.service, *room.keys], but_not_in=[room.work / "emulator"]) == []
    assert leaks(room.work / "emulator", room.service), "the emulator itself has to keep its keys"
    for log in ("emulator.log", "start.log"):
        assert traces((room.work / "emulator" / log).read_bytes(), *room.service, *room.keys) == []


def _look_for_all_of_it(room: Room) -> None:
    """A search of files that do not exist, or of notebooks that stopped early, would find nothing either."""
    assert (room.folder / "ipython" / "profile_default").is_dir()
    for path in NOTEBOOKS:
        notebook = nbformat.read(room.notebooks / path.name, as_version=4)
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in cells), path.name
        assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"], path.name
        state = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
        assert any("model_name" in model for model in state.values()), path.name
    assert (room.folder / "tool.log").stat().st_size
    assert len(list(files(room.folder))) > 10
    assert not (room.work / certificates.KEY_FILE).exists(), "notebook 05 has run to its end"


# --- the emulator's process -------------------------------------------------------------------------------------------


def _command_lines() -> bytes:
    return subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, check=True).stdout


def _of_process(pid: int) -> bytes:
    """What Linux shows of the process and of all that it has started: their environment and command lines."""
    family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return b"\0".join(Path(f"/proc/{one}/{name}").read_bytes() for one in family for name in ("environ", "cmdline"))


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("ps") is None, reason="reads Linux's /proc, and ps")
def test_the_emulators_process_and_the_process_list_show_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phrase, planted = canary(), canary()
    for name in PHRASES:
        monkeypatch.setenv(name, phrase)
    emulator = Emulator.start(tmp_path / "emulator", idle_hours=0.2)
    code = "import sys; sys.stdin.read()"
    control = subprocess.Popen([sys.executable, "-c", code, planted], stdin=subprocess.PIPE)
    try:
        assert b"dpsx_helpers.emulator" in _of_process(emulator.overview.pid)
        assert traces(_of_process(emulator.overview.pid), phrase, *_service_keys(emulator)) == []
        assert traces(_command_lines(), phrase, *_service_keys(emulator)) == []
        assert traces(_of_process(control.pid), phrase), "the environment is seen"
        assert traces(_of_process(control.pid), planted), "the command line is seen"
        assert traces(_command_lines(), planted)
    finally:
        control.communicate()
        emulator.stop()


# --- representations --------------------------------------------------------------------------------------------------


@dataclass
class Enrolled:
    """A target with the device enrolled, whose key opens with `phrase`; and every secret there is."""

    target: Target
    pair: certificates.Pair
    phrase: str
    secrets: list[str]

    @property
    def emulator(self) -> Emulator:
        assert self.target.emulator is not None
        return self.target.emulator


@pytest.fixture
def enrolled(emulated: Target, work: Path, monkeypatch: pytest.MonkeyPatch) -> Enrolled:
    phrase = canary()
    for name in PHRASES:
        monkeypatch.setenv(name, phrase)
    pair = certificates.create(NAME, phrase, work, key_type="ec-p256")
    assert emulated.emulator is not None
    enrollments.save(emulated, pair.certificate_file)
    facts = running.read(emulated.emulator.state_dir)
    assert facts is not None
    kept = [phrase, *_service_keys(emulated.emulator), facts.token, *_bodies(pair.key_file, phrase)]
    kept += [line for key in emulated.emulator.state_dir.glob("*.key.pem") for line in body(key.read_text())]
    return Enrolled(emulated, pair, phrase, kept)


def shown(thing: Any) -> bytes:
    """All that a cell, a log line or a debugger may show of a thing without being asked for more."""
    bundle = getattr(thing, "_repr_mimebundle_", dict)()
    texts = [repr(thing), pformat(thing), repr([thing]), str(bundle)]
    if not isinstance(thing, tutorial.Secret):  # it is the text itself, for those who ask for the text
        texts += [str(thing), f"{thing}"]
    return "\n".join(texts).encode()


def test_nothing_that_a_cell_displays_shows_a_secret(enrolled: Enrolled, caplog: pytest.LogCaptureFixture) -> None:
    target, pair, phrase = enrolled.target, enrolled.pair, enrolled.phrase
    with caplog.at_level(logging.DEBUG):  # everything, the SDK's own log too
        set_variables(target)
        result = provision(1)
        known = tutorial.Secret(phrase)
        tutorial.enter("pass_phrase", phrase)
        facts = running.read(enrolled.emulator.state_dir)
        form = forms.enrollment(target)
        things = {
            "the target": target,
            "the emulator": enrolled.emulator,
            "its overview": enrolled.emulator.overview,
            "its facts": facts,
            "what targets.current() gives": targets.current(),
            "the pair": pair,
            "the opened key": certificates.open_key(pair.key_file, phrase),
            "the certificate": certificates.describe(pair.certificate_file),
            "the pass phrase": known,
            "the known input": tutorial.pass_phrase(),
            "all that was entered": tutorial._entered,
            "what is remembered": tutorial.recall(),
            "what was exported": tutorial.exported_before,
            "the enrollment form": form,
            "the enrollment request": form.value,
            "the enrollment": enrollments.get(target, NAME),
            "the devices": registry.list_devices(target) if hasattr(registry, "list_devices") else None,
            "the overview page": target.overview(),
            "the registration result": result,
            "the messages": enrolled.emulator.messages(),
            "the registrations": enrolled.emulator.registrations(),
            "the emulator's log": target.log(),
            "the forms": [
                forms.target(),
                forms.connection(target),
                forms.pass_phrase(),
                forms.pass_phrase(twice=False),
            ],
            "the views": [
                views.files(pair),
                views.certificate(pair.certificate_file),
                views.environment(),
                views.enrollments(target),
                views.devices(target),
                views.messages(target, NAME),
                views.desired(target, NAME),
                views.registration(result),
                views.log(target),
                checks.certificate(),
                checks.enrollment(),
                checks.before_connecting(),
            ],
        }
        for name, thing in things.items():
            parts = thing if isinstance(thing, list) else [thing]
            assert traces(b"\n".join(map(shown, [thing, *parts])), *enrolled.secrets) == [], name
    assert any(record.name.startswith("azure.iot.device") for record in caplog.records)
    assert traces(caplog.text.encode(), *enrolled.secrets) == []
    state = json.dumps(ipywidgets.Widget.get_manager_state(), default=repr)
    assert traces(state.encode(), *enrolled.secrets) == []


def test_a_shown_secret_would_be_seen() -> None:
    secret = canary()
    for thing in ({"pass": secret}, [secret], ipywidgets.Text(value=secret), tutorial.NotReadable(secret)):
        assert traces(shown(thing), secret)
    ipywidgets.Password(value=secret)
    assert traces(json.dumps(ipywidgets.Widget.get_manager_state(), default=repr).encode(), secret)


# --- exceptions -------------------------------------------------------------------------------------------------------


def told(error: BaseException) -> bytes:
    """All texts of an exception and of its causes: as a traceback, as IPython shows it, and what it carries."""
    texts = ["".join(traceback.format_exception(error, chain=True))]
    link: BaseException | None = error
    while link is not None:
        texts += [str(link), repr(link), repr(link.args), repr(vars(link)), repr(getattr(link, "__notes__", ""))]
        texts += getattr(link, "_render_traceback_", list)()
        link = link.__cause__ or link.__context__
    return "\n".join(texts).encode()


def _wrong_inputs(it: Enrolled, work: Path) -> dict[str, Callable[[], object]]:
    target, pair, phrase = it.target, it.pair, it.phrase
    (work / "other").mkdir()
    other = odd_pair(work / "other")
    cut = work / "cut.key.pem"
    cut.write_text("\n".join([*pair.key_file.read_text().splitlines()[:-3], "-----END ENCRYPTED PRIVATE KEY-----"]))
    text = work / "key as text.txt"
    text.write_bytes(pair.key_file.read_bytes())

    def with_variables(call: Callable[[], object], **variables: str) -> Callable[[], object]:
        def changed() -> object:
            before = {name: os.environ.get(name) for name in variables}
            os.environ.update(variables)
            try:
                return call()
            finally:
                for name, value in before.items():
                    os.environ.pop(name) if value is None else os.environ.update({name: value})

        return changed

    return {
        "the phrase of another key": lambda: certificates.open_key(other.key_file, phrase),
        "a key cut short": lambda: certificates.open_key(cut, phrase),
        "a certificate instead of a key": lambda: certificates.open_key(pair.certificate_file, phrase),
        "a key instead of a certificate": lambda: certificates.describe(pair.key_file),
        "a key instead of a certificate to enroll": lambda: enrollments.save(target, pair.key_file),
        "two that do not belong together": lambda: certificates.check_pair(
            other.certificate_file, pair.key_file, phrase
        ),
        "a pair with another phrase": lambda: certificates.create(NAME, canary(), work, existing="reuse"),
        "a pair that exists": lambda: certificates.create(NAME, phrase, work),
        "a phrase that is no text": lambda: certificates.create(NAME, phrase + "\udc80", work / "new"),
        "a folder that is a file": lambda: certificates.create(NAME, phrase, text),
        "a name that cannot be": lambda: certificates.create("a b", phrase, work / "new"),
        "another key file": with_variables(tutorial.pass_phrase, DPSX_KEY_FILE=str(other.key_file)),
        "another key file, checked": with_variables(checks.certificate, DPSX_KEY_FILE=str(other.key_file)),
        "another key file, to connect": with_variables(checks.before_connecting, X509_KEY_FILE=str(other.key_file)),
        "another certificate": with_variables(checks.before_connecting, X509_CERT_FILE=str(other.certificate_file)),
        "another name": with_variables(checks.before_connecting, DPS_X509_REGISTRATION_ID="somebody-else"),
        "a scope with other signs": with_variables(targets.current, DPSX_ID_SCOPE="<scope>"),
        "a URL for a host": with_variables(targets.current, DPSX_PROVISIONING_HOST="https://example.net/"),
        "an unknown input": with_variables(tutorial.target, DPSX_TARGET="cloud"),
        "a message to nobody": lambda: it.emulator.send("nobody", "text"),
        "a fault that does not exist": lambda: it.emulator.fault("headache"),
        "an unreadable CA": lambda: it.emulator.add_ca_certificate("name", pair.key_file.read_text()),
        "an emulator that is not there": lambda: Emulator.attach(work / "nowhere"),
    }


def test_no_exception_tells_a_secret(enrolled: Enrolled, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_variables(enrolled.target)
    kinds = set()
    for name, call in _wrong_inputs(enrolled, work).items():
        with pytest.raises(LearnerError) as caught:
            call()
        kinds.add(type(caught.value).__name__)
        assert traces(told(caught.value), *enrolled.secrets) == [], name
        assert "Traceback" not in "".join(caught.value._render_traceback_()), name
    assert {"CertificateError", "Stop", "EmulatorError"} <= kinds
    printed = capsys.readouterr()
    assert traces((printed.out + printed.err).encode(), *enrolled.secrets) == []


def test_no_diagnosis_tells_a_secret(
    enrolled: Enrolled, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the SDK raises for wrong variables, and what diagnosis.explain() makes of it."""
    set_variables(enrolled.target)
    wrong = {"PROVISIONING_IDSCOPE": "0ne00000000", "PROVISIONING_HOST": free_host(), "X509_PASS_PHRASE": PASS_PHRASE}
    with caplog.at_level(logging.DEBUG):
        for name, value in wrong.items():
            with pytest.MonkeyPatch.context() as changed:
                changed.setenv(name, value)
                assert traces(_raised(register), *enrolled.secrets) == [], name
        state = provision().registration_state
        registry.delete(enrolled.target, NAME)
        assert traces(_raised(lambda: send(1, state)), *enrolled.secrets) == []
    printed = capsys.readouterr()
    assert "azure.iot.device" in " ".join(record.name for record in caplog.records)
    assert traces((caplog.text + printed.out + printed.err).encode(), *enrolled.secrets) == []


def _raised(call: Callable[[], Any]) -> bytes:
    """All texts of what the device code raises, first without and then within diagnosis.explain()."""
    texts = b""
    for within in (nullcontext(), diagnosis.explain()):
        raised = False
        try:
            with within:
                asyncio.run(call())
        except Exception as error:  # noqa: BLE001 - whatever it is, it may not tell a secret
            texts, raised = texts + told(error), True
        assert raised
    return texts


def test_a_secret_anywhere_in_a_chain_of_exceptions_would_be_seen() -> None:
    secret = canary()
    for plant in (
        lambda: tutorial.Stop(f"no: {secret}"),
        lambda: _with(tutorial.Stop("no."), cause=ValueError(secret)),
        lambda: _with(tutorial.Stop("no."), context=KeyError(secret)),
        lambda: _with(tutorial.Stop("no."), note=secret),
    ):
        assert traces(told(plant()), secret)


def _with(
    error: Exception, cause: Exception | None = None, context: Exception | None = None, note: str = ""
) -> Exception:
    error.__cause__, error.__context__ = cause, context
    error.add_note(note)
    return error
