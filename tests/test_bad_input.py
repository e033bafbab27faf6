"""Whatever a learner puts into a field, a file, a variable or a command line: it is taken, or it is one sentence.

KINDS of bad input meet PLACES that take input of that sort. A place says which kinds it takes all the same (DER is good
enough for DPS); every other kind is refused with one line that ends in a period, within the time of a breath, without a
traceback and without a trace: no file and no memory changes, and no secret shows.
"""

import errno
import json
import os
import signal
import socket
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import ipywidgets as widgets
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, pkcs7, pkcs12
from cryptography.x509.oid import NameOID
from devices import NAME, PASS_PHRASE
from pki import make_ca, make_device
from test_forms import beside, choose, fields, labelled, press_enter, type_in, upload

from dpsx_helpers import (
    __main__,
    access,
    authorities,
    certificates,
    chains,
    collect,
    doctor,
    enrollments,
    fleet,
    forms,
    joining,
    membership,
    progress,
    proxies,
    rollover,
    takeaway,
    targets,
    tutorial,
    twins,
    views,
)
from dpsx_helpers.checks.groups import _answers
from dpsx_helpers.diagnosis.evidence import Evidence
from dpsx_helpers.emulator import __main__ as emulator_command
from dpsx_helpers.emulator.tls import Files, prepare, write_bundle
from dpsx_helpers.errors import LearnerError
from dpsx_helpers.fleet import logbook
from dpsx_helpers.forms import form_memory
from dpsx_helpers.targets import Target

pytest_plugins = ["kit"]
CANARY = "canary-4711"
HUNG = 20  # seconds after which a call is said to hang; the machine may be busy

# --- kinds of text ----------------------------------------------------------------------------------------------------

TEXTS = {
    "empty": "",
    "blank": " \t ",
    "1 MB": "x" * 1_000_000,
    "NUL": "a\0b",
    "newline": "first\nsecond",
    "carriage return": "first\rsecond",
    "escape sequence": "\x1b[31mred\x1b[0m",
    "delete": "a\x7fb",
    "emoji": "\N{GRINNING FACE}\N{SKULL}",
    "right-to-left": "abc\u202egpj.exe",
    "zero width": "a\u200bb",
    "byte order mark": "\ufeffabc",
    "lone surrogate": "a\ud800b",
    "latin-1 byte": os.fsdecode(b"gr\xfc\xdf"),
    "full width": "\uff11\uff12\uff13",
    "markup": "<b>bold</b>",
    "quotes": "a\"b'c`d",
    "percent and braces": "%s%n{0}{x}",
    "statement": "'; DROP TABLE devices; --",
    "shell": "$(id);`id`",
    "URL": "https://example.com:443/a?b=c#d",
    "host and port": "example.com:8883",
    "path upwards": "../../../../etc/passwd",
    "nobody's home": "~nobody-of-this-name/x",
    "absolute path": "/nowhere/at/all",
    "list of one": "['abc']",
    "open bracket": "http://[::1",
}

# --- kinds of files ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Papers:
    """What certificates and keys there are to be mixed up."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)

    def of(self, name: str = "somebody", **how: Any) -> Any:
        return make_device(self.folder, name, **how)


def request(papers: Papers) -> bytes:
    key = serialization.load_pem_private_key(papers.of().key_file.read_bytes(), None)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())  # type: ignore[arg-type]
    return made.public_bytes(Encoding.PEM)


def revocations(papers: Papers) -> bytes:
    ca, now = make_ca(papers.folder, "some-CA"), datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.subject).last_update(now)
    return builder.next_update(now + timedelta(1)).sign(ca.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def bundle(papers: Papers, encoding: Encoding) -> bytes:
    return pkcs7.serialize_certificates([x509.load_der_x509_certificate(papers.of().der)], encoding)


def pfx(papers: Papers) -> bytes:
    one = papers.of()
    key, certificate = serialization.load_pem_private_key(one.key_file.read_bytes(), None), one.der
    return pkcs12.serialize_key_and_certificates(
        b"x",
        key,  # type: ignore[arg-type]
        x509.load_der_x509_certificate(certificate),
        None,
        serialization.BestAvailableEncryption(b"1234"),
    )


def key(papers: Papers, encoding: Encoding = Encoding.PEM) -> bytes:
    loaded = serialization.load_pem_private_key(papers.of().key_file.read_bytes(), None)
    return loaded.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def public(papers: Papers, encoding: Encoding, how: PublicFormat) -> bytes:
    loaded = serialization.load_pem_private_key(papers.of().key_file.read_bytes(), None)
    return loaded.public_key().public_bytes(encoding, how)


def pem(papers: Papers) -> str:
    return str(papers.of().pem)


#: Any file at all: what is in it is no certificate, no key and no JSON document of ours.
CONTENTS: dict[str, Callable[[Papers], bytes]] = {
    "empty": lambda papers: b"",
    "blank": lambda papers: b" \n\t\n",
    "2 MB of zeros": lambda papers: bytes(2_000_000),
    "2 MB of text": lambda papers: b"x" * 2_000_000,
    "a gigabyte": lambda papers: b"",  # see `put`: a file with a hole, which takes no room
    "noise": lambda papers: bytes(range(256)) * 8,
    "NULs": lambda papers: b"\0" * 64,
    "control characters": lambda papers: bytes(range(1, 32)),
    "latin-1 text": lambda papers: "Grüße".encode("latin-1"),
    "a web page": lambda papers: b"<!doctype html><title>Sign in</title>",
    "a database": lambda papers: b"SQLite format 3\0" + bytes(84),
}
PEMS: dict[str, Callable[[Papers], bytes]] = {
    "certificate": lambda papers: pem(papers).encode(),
    "certificate in DER": lambda papers: bytes(papers.of().der),
    "somebody else's certificate": lambda papers: papers.of("eve").pem.encode(),
    "certificate of an authority": lambda papers: make_ca(papers.folder, "some-CA").pem.encode(),
    "expired certificate": lambda papers: papers.of(valid_from=timedelta(-60), valid_for=timedelta(30)).pem.encode(),
    "certificate in UTF-16": lambda papers: pem(papers).encode("utf-16"),
    "certificate with a byte order mark": lambda papers: pem(papers).encode("utf-8-sig"),
    "certificate with Windows lines": lambda papers: pem(papers).replace("\n", "\r\n").encode(),
    "certificate with bag attributes": lambda papers: b"Bag Attributes\n    localKeyID: 01\n" + pem(papers).encode(),
    "two certificates": lambda papers: (pem(papers) + pem(papers)).encode(),
    "certificate and key": lambda papers: pem(papers).encode() + key(papers),
    "certificate cut short": lambda papers: pem(papers).encode()[:200],
    "certificate without its end line": lambda papers: pem(papers).encode().partition(b"-----END")[0],
    "certificate of noise": lambda papers: b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
    "certificate of other bytes": lambda papers: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    "certificate in DER cut short": lambda papers: bytes(papers.of().der)[:100],
    "key": key,
    "key in DER": lambda papers: key(papers, Encoding.DER),
    "key in UTF-16": lambda papers: key(papers).decode().encode("utf-16"),
    "key cut short": lambda papers: key(papers)[:100],
    "two keys": lambda papers: key(papers) + key(papers),
    "encrypted key of another pass phrase": lambda papers: papers.of(pass_phrase="open sesame").key_file.read_bytes(),
    "public key": lambda papers: public(papers, Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    "public key for SSH": lambda papers: public(papers, Encoding.OpenSSH, PublicFormat.OpenSSH),
    "certificate request": request,
    "revocation list": revocations,
    "PKCS #7": lambda papers: bundle(papers, Encoding.PEM),
    "PKCS #7 in DER": lambda papers: bundle(papers, Encoding.DER),
    "PKCS #12": pfx,
}
#: No file with something in it, but a path that leads to none.
PATHS = (
    "missing", "folder", "pipe", "socket", "/dev/zero", "/dev/null", "/proc/kmsg", "loop of links", "link to nowhere",
    "name too long", "path through a file", "no rights",
)  # fmt: skip
JSONS = {
    "no JSON": "key = value",
    "cut short": '{"version": 1, "emulator": {"host":',
    "two documents": "{} {}",
    "a comma too many": '{"version": 1,}',
    "single quotes": "{'version': 1}",
    "null": "null",
    "true": "true",
    "number": "7",
    "NaN": "NaN",
    "number of 5,000 digits": "9" * 5_000,
    "text": '"text"',
    "list": "[1, 2]",
    "100,000 brackets": "[" * 100_000,
    "100,000 nested objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "another version": '{"version": 99, "dpsx": 99}',
    "a version that is text": '{"version": "1", "dpsx": "1"}',
    "members of wrong types": '{"version": 1, "emulator": [], "passed": 7, "estimates": 7, "steps": 7, "dpsx": 1}',
    "members that are null": '{"version": 1, "emulator": null, "passed": null, "estimates": null, "steps": null}',
    "entries of wrong types": '{"version": 1, "emulator": {"host": 1}, "passed": {"02": 1}, "estimates": [7], '
    '"steps": [7]}',
    "numbers out of range": '{"version": 1, "azure": 1e999, "passed": [NaN], "estimates": [{"devices": NaN, '
    '"seconds": -1, "at": 1e999}], "steps": [{"step": 1e999, "state": -1}]}',
}
VALUES: dict[str, Any] = {
    "None": None,
    "True": True,
    "0": 0,
    "-1": -1,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "2.5": 2.5,
    "number of 5,000 digits": 10**5_000,
    "text": "5",
    "bytes": b"5",
    "list": [5],
    "deep list": json.loads("[" * 500 + "]" * 500),
    "function": print,
}
KINDS = (*TEXTS, *CONTENTS, *PEMS, *PATHS, *JSONS, *VALUES)


def put(kind: str, place: Path) -> None:
    """Make what the kind says at `place`, or a link to it. A kind that this machine does not have stays missing."""
    if kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "socket":
        home = os.getcwd()
        os.chdir(place.parent)  # the name of a socket may have 107 bytes
        try:
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(place.name)
        finally:
            os.chdir(home)
    elif kind == "loop of links":
        place.symlink_to(place)
    elif kind == "link to nowhere":
        place.symlink_to(place.with_name("nowhere"))
    elif kind == "name too long":
        place.symlink_to("x" * 300)
    elif kind == "path through a file":
        place.with_name("file").write_text("x")
        place.symlink_to(place.with_name("file") / "x")
    elif kind == "a gigabyte":
        place.touch()
        os.truncate(place, 1 << 30)
    elif kind.startswith("/"):
        place.symlink_to(kind)
    elif kind == "no rights":
        place.write_text("secret")
        place.chmod(0)
    elif kind in JSONS:
        place.write_text(JSONS[kind])
    elif kind != "missing":
        place.write_bytes((CONTENTS | PEMS)[kind](Papers(place.parent / "papers")))


# --- what is asserted -------------------------------------------------------------------------------------------------


class Hung(BaseException):
    """No `except Exception` on the way is to catch it."""


@contextmanager
def breath() -> Iterator[None]:
    def end(number: int, frame: FrameType | None) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(HUNG)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def not_even_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files without rights cannot be opened by root either."""
    really = os.open

    def opened(path: Any, *how: Any, **more: Any) -> int:
        if os.path.isfile(path) and not os.stat(path).st_mode & 0o777:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return really(path, *how, **more)

    monkeypatch.setattr(os, "open", opened)


def one_sentence(text: str) -> str | None:
    """What is wrong with a sentence; None when nothing is."""
    if not text.isprintable():
        return f"is not one printable line: {text[:300]!a}"
    if not text.endswith(".") or " " not in text or len(text) > 1500:
        return f"is no sentence: {text[:300]!a} ({len(text)})"
    if CANARY in text or "Traceback" in text or "Errno" in text:
        return f"shows what it should not: {text[:300]!a}"
    return None


def left(folders: Iterable[Path]) -> dict[str, Any]:
    """Everything below some folders, with its content where that can be read for comparison."""
    found: dict[str, Any] = {}
    for path in (path for folder in folders for path in folder.rglob("*")):
        status = path.lstat()
        small = stat.S_ISREG(status.st_mode) and status.st_size < 100_000
        found[str(path)] = (status.st_mode, path.read_bytes() if small and status.st_mode & 0o400 else status.st_size)
    return found


def met(kind: str, take: Callable[[], Any], taken: bool, *folders: Path) -> str | None:
    """What goes wrong when this input is taken, or refused against expectation; None when all is as it should be."""
    before, entered = left(folders), dict(tutorial._entered)
    try:
        with breath():
            take()
    except LearnerError as error:
        if fault := one_sentence(str(error)):
            return f"{kind}: {fault}"
        if taken:
            return f"{kind}: refused: {error}"
        return None if (left(folders), tutorial._entered) == (before, entered) else f"{kind}: refused, and left a trace"
    except Hung:
        return f"{kind}: hangs"
    except BaseException as error:  # noqa: BLE001 - that is what is looked for
        return f"{kind}: {type(error).__name__}: {str(error)[:200]!a}"
    return None if taken else f"{kind}: taken"


def none_of(faults: Iterator[str | None]) -> None:
    found = [fault for fault in faults if fault]
    assert not found, "\n".join(found)


def test_there_are_enough_kinds_of_bad_input() -> None:
    assert len(set(KINDS)) >= 100


# --- texts ------------------------------------------------------------------------------------------------------------

TEXT_PLACES: dict[str, tuple[Callable[[str], Any], tuple[str, ...]]] = {
    # place: (what takes the text, the kinds that it takes)
    "certificates.check_registration_id": (certificates.check_registration_id, ("host and port",)),
    "tutorial.check_registration_id": (tutorial.check_registration_id, ("host and port",)),
    "targets.check_id_scope": (targets.check_id_scope, ("1 MB",)),
    "targets.check_host": (targets.check_host, ("1 MB",)),
    "access.check_connection_string, DPS": (partial(access.check_connection_string, owner="dps"), ()),
    "access.check_connection_string, hub": (partial(access.check_connection_string, owner="hub"), ()),
    "access.check_service_host": (partial(access.check_service_host, owner="dps"), ("1 MB", "host and port")),
    "proxies.parse": (partial(proxies.parse, where="entered"), ()),
    "joining.read": (partial(joining.read, what="The code"), ()),
    "joining.read, with the beginning of a code": (lambda text: joining.read(f"dpsx1.{text}", "The code"), ()),
    "chains.links": (chains.links, ()),
    "target": (partial(tutorial.enter, "target"), ()),
}


@pytest.mark.parametrize("place", TEXT_PLACES)
def test_a_text_is_taken_or_refused_in_one_sentence(place: str, work: Path) -> None:
    take, taken = TEXT_PLACES[place]
    none_of(met(kind, partial(take, text), kind in taken, work) for kind, text in TEXTS.items())


def test_a_pass_phrase_that_cannot_be_one_is_not_shown(work: Path) -> None:
    # openssl counts bytes: three are too few, two emoji are eight
    refused = ("empty", "blank", "delete", "1 MB", "NUL", "lone surrogate", "latin-1 byte")
    taken = {kind for kind in TEXTS if kind not in refused}
    for kind, text in TEXTS.items():
        folder = work / "pairs"
        folder.mkdir(exist_ok=True)
        phrase = f"{CANARY}{text}" if kind in ("1 MB", "NUL", "lone surrogate", "latin-1 byte") else text
        make = partial(certificates.create, NAME, phrase, folder, key_type="ec-p256", existing="replace")
        none_of(iter([met(kind, make, kind in taken, folder)]))


@pytest.mark.parametrize("name", [*tutorial.INPUTS.values(), joining.VARIABLE])
def test_a_variable_is_good_or_one_sentence(name: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the commands make of it before anything runs; the emulator's network is not asked."""
    monkeypatch.setattr(targets, "listens", lambda *given, **named: None)
    for kind, text in TEXTS.items():
        if kind in ("NUL", "lone surrogate", "1 MB"):
            continue  # the system has no such variables
        monkeypatch.setenv(name, text)
        for target in ("emulator", "azure"):
            if name != "DPSX_TARGET":
                monkeypatch.setenv("DPSX_TARGET", target)

            before = left([work])
            with breath():
                refused = [finding.remedy for finding in doctor.inputs() if not finding.ok]
            assert [fault for remedy in refused if (fault := one_sentence(remedy))] == [], kind
            assert left([work]) == before


# No process can have the first three in its environment; the other two are as if nothing was set.
_NO_VALUES = ("NUL", "lone surrogate", "1 MB", "empty", "blank")


@pytest.mark.parametrize("kind", [kind for kind in TEXTS if kind not in _NO_VALUES])
def test_a_work_folder_that_cannot_be_is_one_sentence(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DPSX_WORK_DIR", TEXTS[kind])
    assert __main__.main(["check"]) == 1
    assert not (fault := one_sentence(capsys.readouterr().err.removesuffix("\n"))), fault
    assert list(tmp_path.iterdir()) == []


# --- files with certificates and keys ---------------------------------------------------------------------------------

CERTIFICATES = (
    "certificate", "certificate in DER", "somebody else's certificate", "certificate of an authority",
    "expired certificate", "certificate with a byte order mark", "certificate with Windows lines",
    "certificate with bag attributes", "two certificates", "certificate and key",
)  # fmt: skip
OF_CHAIN = tuple(kind for kind in CERTIFICATES if "byte order" not in kind)  # each line counts there
KEYS = ("key", "two keys", "certificate and key")


def with_pair(file: Path, which: str) -> Any:
    """The file in the place of one half of a good pair."""
    files = {"certificate": tutorial.certificate_file(), "key": tutorial.key_file(), which: file}
    return certificates.check_pair(files["certificate"], files["key"], PASS_PHRASE)


def in_form(file: Path, label: str) -> None:
    """What the form says of the path, as the LearnerError that it is made of."""
    form_memory._kept.clear()
    form = forms.certificate_files()
    what = "certificate" if label.startswith("Certificate") else "private key"
    choose(labelled(form, label), "by its path")
    entered = dict(tutorial._entered)
    type_in(labelled(form, f"Path of the {what}"), str(file))
    choice = form._choices["certificate_file" if what == "certificate" else "key_file"]
    if choice.fault:
        assert tutorial._entered == entered
        raise LearnerError(choice.fault)


def uploaded(file: Path) -> None:
    """What an upload of the content does."""
    form_memory._kept.clear()
    form = forms.certificate_files()
    (button,) = [one for one in fields(form) if one.description == "Upload the certificate …"]
    upload(button, "device.pem", file.read_bytes())
    said = form._choices["certificate_file"].field.sentence
    assert button.value == ()
    if "✘" in said:
        raise LearnerError("The form says it with a cross.")


def ca_certificate(file: Path) -> None:
    emulator_command._text_of(file)


FILE_PLACES: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "certificates.describe": (certificates.describe, CERTIFICATES),
    "certificates.open_key": (lambda file: certificates.open_key(file, PASS_PHRASE), KEYS),
    "certificates.check_pair, certificate": (lambda file: with_pair(file, "certificate"), ()),
    "certificates.check_pair, key": (lambda file: with_pair(file, "key"), ()),
    "chains.links": (chains.links, OF_CHAIN),
    "chains.links, trusted": (lambda file: chains.links(CHAIN, trusted=file), OF_CHAIN),
    "authorities.leaf": (authorities.leaf, CERTIFICATES),
    "views.certificate": (views.certificate, CERTIFICATES),
    "views.chain": (views.chain, OF_CHAIN),
    "forms.certificate_files, certificate": (
        partial(in_form, label="Certificate file"),
        tuple(kind for kind in CERTIFICATES if kind != "certificate in DER"),
    ),
    "forms.certificate_files, key": (
        partial(in_form, label="Private key file"),
        (*KEYS, "encrypted key of another pass phrase"),
    ),
    "joining.read_file": (joining.read_file, ()),
    "dpsx join FILE": (lambda file: membership.join(str(file)), ()),
}
CHAIN = ""


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "CHAIN", pem(Papers(tmp_path / "chain")))


@pytest.mark.usefixtures("chain")
@pytest.mark.parametrize("place", FILE_PLACES)
def test_a_file_is_taken_or_refused_in_one_sentence(place: str, work: Path, tmp_path: Path) -> None:
    take, taken = FILE_PLACES[place]
    if "check_pair" in place:  # the other half of the pair
        certificates.create(NAME, PASS_PHRASE, work, key_type="ec-p256")

    def faults() -> Iterator[str | None]:
        for number, kind in enumerate((*CONTENTS, *PEMS, *PATHS)):
            folder = tmp_path / str(number)
            folder.mkdir()
            put(kind, folder / "given.pem")
            yield met(kind, partial(take, folder / "given.pem"), kind in taken, folder, work)

    none_of(faults())


def test_an_upload_is_kept_or_leaves_nothing(work: Path, tmp_path: Path) -> None:
    taken = tuple(kind for kind in CERTIFICATES if kind != "certificate and key")

    def faults() -> Iterator[str | None]:
        for number, kind in enumerate((*CONTENTS, *PEMS)):
            if kind == "a gigabyte":
                continue  # the browser's side, and Jupyter's limit
            folder = tmp_path / str(number)
            folder.mkdir()
            put(kind, folder / "given.pem")
            yield met(kind, partial(uploaded, folder / "given.pem"), kind in taken, work)
            tutorial._entered.clear()

    none_of(faults())


@pytest.mark.parametrize("kind", [*CONTENTS, *PEMS, *PATHS])
def test_who_only_looks_at_a_file_shows_it_or_says_why_not(kind: str, work: Path, pair: certificates.Pair) -> None:
    """The view of both files, the evidence of a diagnosis, the archive to take along, and the bundle of roots."""
    for file in (pair.certificate_file, pair.key_file):
        file.unlink()
    put(kind, pair.certificate_file)
    with breath():
        assert pair.certificate_file.name in views.files(pair).text
        evidence = type("Seen", (Evidence,), {"certificate_file": pair.certificate_file})
        assert isinstance(evidence.__new__(evidence).issuers, tuple)
        takeaway.pack()
        files = Files(work / "trust")
        files.directory.mkdir()
        prepare(files, "127.0.0.1", datetime.now(UTC))
        write_bundle(files, [str(pair.certificate_file)], str(files.ca))
    assert files.bundle.stat().st_size < 2_000_000


@pytest.mark.parametrize("name", ["PATH", *TEXTS])
def test_a_typed_path_is_taken_or_one_sentence(name: str, work: Path, pair: certificates.Pair) -> None:
    text = TEXTS.get(name, str(work))
    form = forms.certificate_files()
    for label, what in (("Certificate file", "certificate"), ("Private key file", "private key")):
        choose(labelled(form, label), "by its path")
        type_in(labelled(form, f"Path of the {what}"), text)
        press_enter(labelled(form, f"Path of the {what}"))
    for choice in form._choices.values():
        assert choice.fault
        assert not one_sentence(choice.fault), choice.fault
    assert form.value == (pair.certificate_file, pair.key_file)
    assert tutorial._entered == {}


def alone(form: Any, kind: str, field: Any, text: str) -> str | None:
    """What goes wrong when the text comes into the field: refused, it must not be in use; a secret must not show."""
    before = {name: tutorial.known(name) for name in tutorial.INPUTS}
    secret = isinstance(field, widgets.Password)
    with breath():
        type_in(field, f"{CANARY}{text}" if secret and text else text)
        press_enter(field)
    said = [note.value for note in fields(form, widgets.HTML)]
    if any(CANARY in one or "Traceback" in one or "\n" in one or len(one) > 10_000 for one in said):
        return f"{kind}: {said[-1][:300]!a}"
    if secret:
        return f"{kind}: stays in the field" if field.value else None
    refused = "dpsx-bad" in beside(form, field.description)
    after = {name: tutorial.known(name) for name in tutorial.INPUTS}
    return f"{kind}: refused, and in use" if refused and after != before else None


FORMS: dict[str, Callable[[Target], Any]] = {
    "connection": forms.connection,
    "registration_id": lambda target: forms.registration_id(),
    "sign_in": lambda target: forms.sign_in(replace(target, name="azure")),
    "service_access": lambda target: forms.service_access(replace(target, name="azure")),
    "enrollment": forms.enrollment,
}


@pytest.mark.parametrize("name", FORMS)
def test_a_field_takes_a_text_or_says_why_not(
    name: str, emulated: Target, work: Path, pair: certificates.Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(form_memory, "_kept", {})
    labels = [one.description for one in fields(FORMS[name](emulated), (widgets.Text, widgets.Textarea))]
    assert labels

    def faults() -> Iterator[str | None]:
        for label in labels:
            for kind, text in TEXTS.items():
                form_memory._kept.clear()
                form = FORMS[name](emulated)  # each field alone, the others as they come
                yield alone(form, kind, labelled(form, label), text)
                tutorial._entered.clear()
                (work / "tutorial.json").unlink(missing_ok=True)

    none_of(faults())


@pytest.mark.parametrize("kind", [*TEXTS, *JSONS])
def test_an_initial_twin_is_taken_or_the_form_has_no_value(
    kind: str, work: Path, pair: certificates.Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(form_memory, "_kept", {})
    form = forms.enrollment(Target("azure", "global.azure-devices-provisioning.net", "0ne00ABC123"))
    type_in(labelled(form, "Initial device twin state (optional)"), (TEXTS | JSONS)[kind])
    none_of(iter([met(kind, lambda: form.value, kind in ("empty", "blank", "null"), work)]))


# --- files with JSON --------------------------------------------------------------------------------------------------


def report(file: Path) -> None:
    """`dpsx collect` takes a folder of reports, and names those that are none."""
    target = file.parent / "reports"
    target.mkdir(exist_ok=True)
    file.rename(target / "anna.json") if os.path.lexists(file) else None
    try:
        found = collect.read(target)
        if found.problems:
            raise LearnerError(found.problems[0])
    finally:
        if os.path.lexists(target / "anna.json"):
            (target / "anna.json").rename(file)
        target.rmdir()


#: Documents that are objects, for whom any object will do.
MEMBERS = (
    "another version", "a version that is text", "members of wrong types", "members that are null",
    "entries of wrong types", "numbers out of range",
)  # fmt: skip
#: place: (name in the work folder, what reads it, kinds that are good enough for it)
NOTHING_YET = ("missing", "link to nowhere")
JSON_PLACES: dict[str, tuple[str, Callable[[Path], Any], tuple[str, ...]]] = {
    "tutorial.json, read": ("tutorial.json", lambda file: tutorial.recall(), NOTHING_YET),
    "tutorial.json, written": (
        "tutorial.json",
        lambda file: tutorial.remember(registration_id="other"),
        NOTHING_YET,
    ),
    "progress.json, read": ("progress.json", lambda file: progress.recall(), NOTHING_YET),
    "progress.json, written": ("progress.json", lambda file: progress.record("02"), NOTHING_YET),
    "logbook": (
        "notebook-10/logbook-emulator.json",
        lambda file: logbook.read(),
        (*NOTHING_YET, "another version", "a version that is text"),
    ),
    "logbook, written": (
        "notebook-10/logbook-emulator.json",
        lambda file: fleet.estimate(10, 3.5),
        (*NOTHING_YET, "another version", "a version that is text"),
    ),
    "join file": ("class/join.json", lambda file: joining.current(tutorial.work_dir()), ("missing",)),
    "answers": (
        "notebook-07/answers.json",
        _answers,
        (*NOTHING_YET, *MEMBERS),
    ),
    "report of a class": ("anna.json", report, ()),
}


@pytest.mark.parametrize("place", JSON_PLACES)
def test_a_document_is_taken_or_refused_in_one_sentence(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Path
) -> None:
    name, take, taken = JSON_PLACES[place]

    def faults() -> Iterator[str | None]:
        for number, kind in enumerate((*CONTENTS, *JSONS, *PATHS)):
            folder = tmp_path / str(number)
            (folder / name).parent.mkdir(parents=True)
            monkeypatch.setenv("DPSX_WORK_DIR", str(folder))
            put(kind, folder / name)
            yield met(kind, partial(take, folder / name), kind in taken, folder)

    none_of(faults())


@pytest.mark.parametrize("text", ['"\\ud800"', '"a\\u0000b"', '"~nobody-of-this-name/x"', f'"{"x" * 5000}"', '"\\n"'])
@pytest.mark.parametrize("fact", ["certificate_file", "key_file"])
def test_a_path_that_tutorial_json_remembers_is_one_sentence(fact: str, text: str, work: Path) -> None:
    (work / "tutorial.json").write_text(f'{{"version": 1, "emulator": {{"{fact}": {text}}}}}')

    def use() -> None:
        tutorial.pass_phrase()
        certificates.check_pair(tutorial.certificate_file(), tutorial.key_file(), PASS_PHRASE)

    none_of(iter([met(text[:20], use, False, work)]))


# --- values that a cell gives -----------------------------------------------------------------------------------------

VALUE_PLACES: dict[str, tuple[Callable[[Any], Any], tuple[str, ...]]] = {
    "fleet.estimate, devices": (lambda value: fleet.estimate(value, 3.5), ()),
    "fleet.estimate, seconds": (lambda value: fleet.estimate(10, value), ("2.5",)),
    "fleet.stagger, devices": (lambda value: fleet.stagger(value, 3.5), ()),
    "fleet.stagger, minutes": (lambda value: fleet.stagger(10, value), ("2.5", "0")),
    "fleet.make": (fleet.make, ()),
    "fleet.launch_day": (fleet.launch_day, ()),
    "enrollments.check_twin": (enrollments.check_twin, ("None",)),
    "certificates.create, days": (
        lambda value: certificates.create(NAME, "1234", tutorial.work_dir(), key_type="ec-p256", days=value),
        (),
    ),
    "certificates.create, key_type": (
        lambda value: certificates.create(NAME, "1234", tutorial.work_dir(), key_type=value),
        (),
    ),
    "certificates.create, existing": (
        lambda value: certificates.create(NAME, "1234", tutorial.work_dir(), key_type="ec-p256", existing=value),
        (),
    ),
    "certificates.create, registration_id": (
        lambda value: certificates.create(value, "1234", tutorial.work_dir(), key_type="ec-p256"),
        ("text",),
    ),
    "authorities.create, path_length": (
        lambda value: authorities.create("CA", "1234", tutorial.work_dir(), path_length=value),
        ("None", "0"),
    ),
    "authorities.create, days": (lambda value: authorities.create("CA", "1234", tutorial.work_dir(), days=value), ()),
    "rollover.pair, folder": (lambda value: rollover.pair(NAME, value, "1234"), ("text",)),
}


@pytest.mark.parametrize("place", VALUE_PLACES)
def test_a_value_is_taken_or_refused_in_one_sentence(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Path
) -> None:
    take, taken = VALUE_PLACES[place]

    def faults() -> Iterator[str | None]:
        for number, (kind, value) in enumerate(VALUES.items()):
            folder = tmp_path / str(number)
            folder.mkdir()
            monkeypatch.setenv("DPSX_WORK_DIR", str(folder))
            yield met(kind, partial(take, value), kind in taken, folder)

    none_of(faults())


# --- what the service is asked ----------------------------------------------------------------------------------------


def test_a_certificate_that_cannot_be_enrolled_is_one_sentence(
    emulated: Target, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """DPS takes what it can read; what it cannot take, or the emulator refuses, changes no entry."""
    taken = CERTIFICATES  # that an authority's is no device's, DPS says when it registers

    good = enrollments.EnrollmentRequest(Papers(tmp_path / "papers").of("somebody").certificate_file)

    def faults(kinds: Iterable[str]) -> Iterator[str | None]:
        for kind in kinds:
            for slot in ("certificate_file", "secondary_file"):
                folder = tmp_path / f"{slot} {kind}".replace("/", " ")
                folder.mkdir()
                put(kind, folder / "given.pem")
                wanted = replace(good, **{slot: folder / "given.pem"})
                yield met(kind, partial(enrollments.save, emulated, wanted), kind in taken, folder, work)
                if kind in taken:
                    break  # in either slot it is the same

    none_of(faults(kind for kind in (*CONTENTS, *PEMS, *PATHS) if kind not in taken))
    assert enrollments.list_all(emulated) == []
    none_of(faults(taken))


SERVICE_PLACES: dict[str, Callable[[Target, Any], Any]] = {
    "twins.get": twins.get,
    "twins.change, device": lambda target, given: twins.change(target, given, {"tags": {}}),
    "twins.change, patch": lambda target, given: twins.change(target, NAME, given),
    "twins.change, tags": lambda target, given: twins.change(target, NAME, {"tags": given}),
    "twins.invoke, device": lambda target, given: twins.invoke(target, given, "reboot"),
    "twins.invoke, method": lambda target, given: twins.invoke(target, NAME, given),
    "twins.invoke, response_timeout": lambda target, given: twins.invoke(target, NAME, "x", response_timeout=given),
    "twins.invoke, connect_timeout": lambda target, given: twins.invoke(target, NAME, "x", connect_timeout=given),
    "twins.send, device": lambda target, given: twins.send(target, given, "text"),
    "twins.send, text": lambda target, given: twins.send(target, "no-such-device", given),
    "twins.waiting": twins.waiting,
    "enrollments.get": enrollments.get,
}


@pytest.mark.parametrize("place", SERVICE_PLACES)
def test_what_the_service_is_asked_is_answered_or_one_sentence(place: str, emulated: Target, work: Path) -> None:
    def faults() -> Iterator[str | None]:
        for kind, given in (TEXTS | VALUES).items():
            before = left([work])
            try:
                with breath():
                    SERVICE_PLACES[place](emulated, given)
            except LearnerError as error:
                fault = one_sentence(str(error))
                yield fault and f"{kind}: {fault}"
            except Hung:
                yield f"{kind}: hangs"
            except Exception as error:  # noqa: BLE001 - that is what is looked for
                yield f"{kind}: {type(error).__name__}: {str(error)[:200]!a}"
            assert left([work]) == before

    none_of(faults())


# --- commands ---------------------------------------------------------------------------------------------------------

ARGUMENTS = {kind: text for kind, text in TEXTS.items() if kind not in ("NUL", "lone surrogate")} | {
    "-1": "-1", "0": "0", "NaN": "nan", "infinity": "inf", "2.5": "2.5", "1e999": "1e999", "65536": "65536",
    "number of 5,000 digits": "9" * 5_000, "other digits": "\u0663",
}  # fmt: skip
COMMANDS: dict[str, tuple[Callable[[list[str]], int], list[str]]] = {
    # {} is where the argument goes, STATE a folder in which no emulator runs
    "dpsx": (__main__.main, ["{}"]),
    "dpsx run": (__main__.main, ["run", "{}"]),
    "dpsx check": (__main__.main, ["check", "{}"]),
    "dpsx doctor --target": (__main__.main, ["doctor", "--target={}"]),
    "dpsx collect": (__main__.main, ["collect", "--", "{}"]),
    "dpsx join": (__main__.main, ["join", "--", "{}"]),
    "dpsx links --hub": (__main__.main, ["links", "--hub={}"]),
    **{
        f"emulator {' '.join(command)}": (emulator_command.main, [*command[:1], "--state-dir", "STATE", *command[1:]])
        for command in (
            ["run", "--host={}", "--mqtt-port=0", "--ws-port=none"], ["run", "--mqtt-port={}"], ["run", "--ws-port={}"],
            ["run", "--https-port={}"], ["run", "--id-scope={}"], ["run", "--hubs={}"], ["run", "--assign={}"],
            ["run", "--assign=polls={}"], ["run", "--assign=seconds={}"], ["run", "--not-enrolled={}"],
            ["run", "--idle-hours={}"], ["env", "--shell={}"], ["status", "{}"], ["stop", "{}"],
            ["reset", "--device={}"],
            ["messages", "--", "{}"], ["send", "--", "{}", "text"], ["send", "--expires-in={}", "device", "text"],
            ["send", "--property={}", "device", "text"], ["fault", "--", "{}"], ["fault", "--device={}", "throttle"],
            ["fault", "--times={}", "throttle"], ["fault", "--seconds={}", "slow"], ["certificate", "--", "{}"],
            ["certificate", "add", "name", "{}"], ["students", "add", "--", "{}"], ["students", "add", "--count={}"],
            ["students", "remove", "--", "{}"], ["board", "{}"],
        )
    },
}  # fmt: skip
#: Good values among them, which would start an emulator.
GOOD = {
    "emulator run --mqtt-port={}": {"0"}, "emulator run --ws-port={}": {"0"}, "emulator run --https-port={}": {"0"},
    "emulator run --hubs={}": {"0"}, "emulator run --idle-hours={}": {"0", "2.5"},
    "emulator run --id-scope={}": {"0", "NaN", "infinity", "65536", "1e999"},
    "emulator run --assign=polls={}": {"0"}, "emulator run --assign=seconds={}": {"0", "2.5", "65536"},
}  # fmt: skip


@pytest.mark.parametrize("place", COMMANDS)
def test_an_odd_argument_ends_a_command_in_one_line(
    place: str, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1 or 2 (3: no emulator runs), and one line; argparse puts the usage before it."""
    monkeypatch.chdir(Path(__file__).parents[1])
    main, arguments = COMMANDS[place]

    def faults() -> Iterator[str | None]:
        for kind, text in ARGUMENTS.items():
            if kind in GOOD.get(place, ()):
                continue
            given = [one.replace("{}", text).replace("STATE", str(tmp_path / "state")) for one in arguments]
            before = left([work])
            try:
                with breath():
                    status: Any = main(given)
            except SystemExit as ended:
                status = ended.code
            except Hung:
                status = "hangs"
            except BaseException as error:  # noqa: BLE001 - that is what is looked for
                status = f"{type(error).__name__}: {str(error)[:200]!a}"
            said = capsys.readouterr()
            lines = said.err.removesuffix("\n").split("\n")
            if lines[0].startswith("usage: "):
                if status != 2 or "Traceback" in said.err:
                    yield f"{kind}: {status} {said.err[-200:]!a}"
            elif status not in (1, 2, 3) or said.out not in ("", "false\n"):
                yield f"{kind}: {status} {said.out[-200:]!a} {said.err[-200:]!a}"
            elif len(lines) != 1 or one_sentence(lines[0]):
                yield f"{kind}: {said.err[:300]!a}"
            if left([work]) != before:
                yield f"{kind}: refused, and left a trace"
            if {path.name for path in tmp_path.glob("state/*")} - {"emulator.lock"}:
                yield f"{kind}: refused, and left a trace"

    none_of(faults())
