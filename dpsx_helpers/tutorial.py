"""What the learner has chosen and made so far.

Every value is looked up in one order: entered in this kernel, else the DPSX_* environment variable, else
`tutorial.json` in the work folder, else (on the emulator only) the test values of the quickstart. Secrets
live in this kernel's memory and nowhere else.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

from dpsx_helpers import binder, certificates, given_files, joining
from dpsx_helpers.errors import LearnerError, shown, shown_value

TargetName = Literal["emulator", "azure"]
#: (file, title) of the notebooks, in their order. The first six are the quickstart.
STEPS = (
    ("00-start-here", "Start here"),
    ("01-prepare-the-environment", "Prepare the environment"),
    ("02-create-a-device-certificate", "Create a device certificate"),
    ("03-create-an-individual-enrollment", "Create an individual enrollment"),
    ("04-simulate-the-device", "Simulate the device"),
    ("05-clean-up-resources", "Clean up resources"),
    ("06-enroll-programmatically", "Enroll programmatically"),
    ("07-enrollment-groups", "Enrollment groups"),
    ("08-when-it-fails", "When it fails"),
    ("09-device-twins-and-methods", "Device twins and methods"),
    ("10-a-fleet-of-devices", "A fleet of devices"),
)
TEST_PASS_PHRASE = "1234"  # noqa: S105 - the quickstart's own, for testing only
TEST_REGISTRATION_ID = "Python-device-01"
INPUTS = {
    "target": "DPSX_TARGET",
    "host": "DPSX_PROVISIONING_HOST",
    "id_scope": "DPSX_ID_SCOPE",
    "registration_id": "DPSX_REGISTRATION_ID",
    "pass_phrase": "DPSX_PASS_PHRASE",
    "certificate_file": "DPSX_CERT_FILE",
    "key_file": "DPSX_KEY_FILE",
    "transport": "DPSX_TRANSPORT",
    "proxy": "DPSX_PROXY",
    # What lets the cells do the operator's work on Azure: two connection strings (they hold keys), or whoever is signed
    # in, at these two hosts.
    "dps_connection_string": "DPS_CONNECTION_STRING",
    "iothub_connection_string": "IOTHUB_CONNECTION_STRING",
    "service_endpoint": "DPSX_SERVICE_ENDPOINT",
    "iothub_host": "DPSX_IOTHUB_HOST",
}
SECRETS = ("pass_phrase", "dps_connection_string", "iothub_connection_string")
FACTS = (
    "host", "id_scope", "service_endpoint", "iothub_host",
    "registration_id", "certificate_file", "key_file", "enrollment", "device", "hub",
)  # fmt: skip
# The first six are the quickstart's. The SDK's sample has read X509_PASS_PHRASE since 2020 while its README
# still says PASS_PHRASE (https://github.com/MicrosoftDocs/azure-docs/issues/119463), so both are set.
VARIABLES = (
    "PROVISIONING_HOST",
    "PROVISIONING_IDSCOPE",
    "DPS_X509_REGISTRATION_ID",
    "X509_CERT_FILE",
    "X509_KEY_FILE",
    "PASS_PHRASE",
    "X509_PASS_PHRASE",
)
MASK = "••••"


class Stop(LearnerError):
    """Stops Run All with one sentence that says what is missing or wrong and what to do now."""


class NotReadable(Stop):
    """The cloud cannot be read from here; the sentence names the place where the learner can look."""


class Secret(str):
    """A text that a cell can use but that never shows itself when displayed or logged by its repr."""

    __slots__ = ()

    def __repr__(self) -> str:
        return MASK


def masked(name: str, value: str) -> str:
    """The value of an environment variable as it may be shown: a pass phrase always as the same four dots."""
    return MASK if name.endswith("PASS_PHRASE") else value


_entered: dict[str, str] = {}
_chosen_transport: str | None = None
#: What the shell that started Jupyter had exported; 04 overwrites these in its own process only, and says so.
exported_before = {name: masked(name, os.environ[name]) for name in VARIABLES if name in os.environ}


def work_dir() -> Path:
    """The folder for what the tutorial makes (created when missing): DPSX_WORK_DIR, else `notebooks/work`."""
    folder = os.environ.get("DPSX_WORK_DIR", "").strip()
    work = given_files.path_of(folder) if folder else _tutorial_folder() / "work"
    try:
        work.mkdir(mode=0o700, parents=True, exist_ok=True)  # keys live here: nobody else is to put files beside them
    except OSError as error:
        raise Stop(
            f"The work folder {shown(work)} cannot be made ({error.strerror}): set DPSX_WORK_DIR to a folder that "
            "you may write to."
        ) from error
    return work


def made(fact: str) -> str | None:
    """The name of the "enrollment" or "device" that this tutorial made, so that it may delete it again.

    On the emulator, where nothing else is, the registration ID when nothing is remembered.
    """
    return recall().get(fact) or (registration_id() if target() == "emulator" else None)


def place_of(notebook: int) -> Path:
    """Where `own_folder` is, or would be: a check only looks."""
    return work_dir() / f"notebook-{notebook:02}"


def own_folder(notebook: int) -> Path:
    """The folder in the work folder (created when missing) for what one of the notebooks 06 to 10 makes."""
    return made_folder(place_of(notebook))


def made_folder(folder: Path) -> Path:
    """That folder, created when missing, with those above it. Stop when it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Stop(
            f"The folder {shown(folder)} cannot be made ({error.strerror}): move away what is there, or set "
            "DPSX_WORK_DIR to another folder."
        ) from error
    return folder


def _tutorial_folder() -> Path:
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks" / "00-start-here.ipynb").is_file():
            return folder / "notebooks"
    raise Stop(
        f"No tutorial was found at or above {here}: change to its folder, or set DPSX_WORK_DIR to the folder "
        "for your files."
    )


def enter(name: str, value: str) -> None:
    """Take what a form collected.

    A secret stays in this kernel's memory; the rest is also remembered for the next notebook.
    """
    if name not in INPUTS:
        raise TypeError(f"unknown input: {name}")
    if name == "target":
        _enter_target(value)
        return
    _entered[name] = Secret(value) if name in SECRETS else value
    # The emulator tells its own address and ID scope: remembering them would only let them go stale.
    if name in FACTS and not (name in ("host", "id_scope") and target() == "emulator"):
        remember(**{name: value})


def held(name: str) -> tuple[str | None, str | None]:
    """What this kernel's memory and tutorial.json hold of an input, for `put_back`."""
    return _entered.get(name), _remembered(name)


def put_back(name: str, before: tuple[str | None, str | None]) -> None:
    """Undo what `enter` did to this input since `held`."""
    entered, remembered = before
    if entered is None:
        _entered.pop(name, None)
    else:
        _entered[name] = entered
    if name in FACTS and _remembered(name) != remembered:
        remember(**{name: remembered})


def _enter_target(value: str) -> None:
    name = _check_target(value, "entered")
    # The other inputs belong to the target that they were entered for; tutorial.json keeps them apart.
    for other in set(_entered) - {"pass_phrase"}:
        del _entered[other]
    _entered["target"] = name
    remember(target=name)


def known(name: str) -> tuple[str, str] | None:
    """(value, where it comes from) of one input, or None when neither entered, exported nor remembered."""
    if name in _entered:
        return _entered[name], "entered in this notebook"
    if (value := os.environ.get(INPUTS[name])) is not None:
        return value, f"from the environment variable {INPUTS[name]}"
    if (value := _remembered(name)) is not None:
        return value, "remembered in tutorial.json"
    return None


def _remembered(name: str) -> str | None:
    if name == "target":
        return _load().get("target")
    return _section(_load()).get(name) if name in FACTS else None


def target() -> TargetName:
    """Which service the cells talk to: "emulator" (the default) or "azure"."""
    found = known("target")
    return _check_target(*found) if found else "emulator"


def _check_target(value: str, where: str) -> TargetName:
    if value == "emulator" or value == "azure":
        return "azure" if value == "azure" else "emulator"
    raise Stop(
        f'The target "{shown(value)}" ({where}) is neither "emulator" nor "azure": set DPSX_TARGET to one of the '
        "two, or unset it."
    )


def joined() -> joining.Join | None:
    """The class whose emulator is used instead of one on this machine; None on Azure, and for who learns alone."""
    return joining.current(work_dir()) if target() == "emulator" else None


def transport() -> Literal["mqtt", "websockets"]:
    """How the device talks: MQTT on port 8883, or MQTT over WebSockets on port 443.

    Where nobody has said, it is 8883, except from Binder to Azure: nothing leads there but 443.
    """
    usual = "websockets" if binder.here() and target() == "azure" else "mqtt"
    value, where = known("transport") or (usual, "")
    if value == "mqtt" or value == "websockets":
        return "websockets" if value == "websockets" else "mqtt"
    raise Stop(
        f'The transport "{shown(value)}" ({where}) is neither "mqtt" nor "websockets": set DPSX_TRANSPORT to one of '
        "the two."
    )


def choose_transport() -> None:
    """Set DPSX_TRANSPORT, which the device's program reads, where `transport` chooses by itself, and take that back
    when the target in use has changed since.
    """
    global _chosen_transport
    name = INPUTS["transport"]
    if os.environ.get(name) == _chosen_transport:
        os.environ.pop(name, None)
    _chosen_transport = None
    if known("transport") is None and transport() == "websockets":
        os.environ[name] = _chosen_transport = "websockets"


def registration_id() -> str:
    """The registration ID, checked against the rules of DPS; CertificateError or Stop says what is wrong with
    it.
    """
    found = known("registration_id")
    if found:
        return check_registration_id(*found)
    if (join := joined()) is not None:
        return join.registration_id
    if target() == "emulator":
        return TEST_REGISTRATION_ID
    raise Stop(
        "No registration ID is known yet: enter it in the registration ID form of notebook 02 "
        "(or set DPSX_REGISTRATION_ID) and run this cell again."
    )


def check_registration_id(text: str, where: str = "entered") -> str:
    """The registration ID, if DPS takes it, and if it is the learner's own where they have joined a class."""
    name, join = certificates.check_registration_id(text), joined()
    if join is not None and name.casefold() != join.registration_id.casefold():
        raise Stop(
            f"In your class you are {join.registration_id}, and your key opens nothing for {name} ({where}): leave the "
            "registration ID as your teacher gave it, or go back to your own emulator with `dpsx leave`."
        )
    return name


def identifier(given: Any) -> str:
    """The ID of a device or an entry, as a cell gives it. Stop when it is no text that a request can hold."""
    if not isinstance(given, str) or not given.strip() or not _encodable(given):
        raise Stop(
            f"{shown_value(given)} is no ID of a device: give a text in quotes, for example '{TEST_REGISTRATION_ID}', "
            "and run this cell again."
        )
    return given


def _encodable(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


def device_for(name: str) -> str:
    """The ID of a device that a notebook makes beside the quickstart's: `name`, in a class the student's own ID."""
    join = joined()
    return name if join is None else join.registration_id


def device_id() -> str:
    """The device's name in its hub: what DPS answered, else the registration ID (the enrollment may name another)."""
    return recall().get("device") or registration_id()


def certificate_file() -> Path:
    """The device certificate: the learner's own, else the one that this tutorial makes (it may not exist
    yet).
    """
    return _file("certificate_file", certificates.CERTIFICATE_FILE)


def key_file() -> Path:
    """The private key of that certificate, likewise."""
    return _file("key_file", certificates.KEY_FILE)


def _file(name: str, default: str) -> Path:
    found = known(name)
    if found is None:
        return work_dir() / default
    if not found[0].strip():
        raise Stop(f"The {name.replace('_', ' ')} ({found[1]}) is blank: enter a path, or unset {INPUTS[name]}.")
    return given_files.path_of(found[0])


def pass_phrase(*, new_key: bool = False) -> str:
    """The pass phrase of the private key (its repr is masked).

    `new_key` skips the trial on the key that is on disk, for a cell that replaces it. Stop when no pass
    phrase is known or when the key on disk does not open with it.
    """
    found = known("pass_phrase") or (_default_pass_phrase(new_key), "the test value")
    if not found[0] and new_key:
        raise Stop(f"The pass phrase ({found[1]}) is empty: enter one in the pass phrase form and run this cell again.")
    if not new_key and os.path.exists(key_file()):
        _try_key(*found)
    return Secret(found[0])


def _default_pass_phrase(new_key: bool) -> str:
    if target() == "emulator":
        return TEST_PASS_PHRASE
    if not new_key and opens(""):  # a key of the learner's own that is not encrypted needs none
        return ""
    raise Stop(
        "No pass phrase is known in this kernel: enter it in the pass phrase form (or set DPSX_PASS_PHRASE) "
        "and run this cell again."
    )


def opens(pass_phrase: str) -> bool:
    """Whether the key on disk opens with this pass phrase."""
    try:
        certificates.open_key(key_file(), pass_phrase)
    except certificates.CertificateError:
        return False
    return True


def _try_key(pass_phrase: str, where: str) -> None:
    try:
        certificates.open_key(key_file(), pass_phrase)
    except certificates.CertificateError as error:
        if "pass phrase" not in str(error):
            raise
        raise Stop(
            f"The key in {shown(key_file())} does not open with the pass phrase known here ({where}): enter the one "
            "it was made with in the "
            "pass phrase form and run this cell again."
        ) from error


def delete_pair() -> list[str]:
    """Delete the certificate and key that this tutorial made in the work folder (never files from elsewhere);
    names of those deleted.
    """
    gone = []
    for name in (certificates.KEY_FILE, certificates.CERTIFICATE_FILE):
        file = work_dir() / name
        if file.exists():
            file.unlink()
            gone.append(name)
    return gone


def recall() -> dict[str, str]:
    """What is remembered about the target in use: `target` and those of FACTS that are known."""
    return {"target": target(), **_section(_load())}


def remember(**facts: str | None) -> None:
    """Keep facts for the next notebook in tutorial.json (None forgets one).

    Facts are kept apart for the own emulator, a class's, and Azure.
    """
    document = _load()
    if "target" in facts:
        document["target"] = facts.pop("target")
    section: dict[str, str | None] = dict(_section(document))
    for name, value in facts.items():
        if name not in FACTS:
            raise TypeError(f"not a fact that may be remembered: {name}")
        section[name] = value
    document[_section_of(document)] = {name: value for name, value in section.items() if value is not None}
    write_json(work_dir() / "tutorial.json", document)


def forget(*names: str) -> None:
    """Forget these facts about the target in use."""
    remember(**dict.fromkeys(names))


def forget_class() -> None:
    """Forget the facts about a class, which were of another emulator than the next one."""
    document = _load()
    if document.pop("class", None):
        write_json(work_dir() / "tutorial.json", document)


def _section(document: dict[str, Any]) -> dict[str, str]:
    section: dict[str, str] = document.get(_section_of(document), {})
    return section


def _section_of(document: dict[str, Any]) -> str:
    """The target in use, without reading tutorial.json again; a class's emulator is not the learner's own."""
    given = _entered.get("target") or os.environ.get(INPUTS["target"]) or document.get("target") or "emulator"
    return "class" if given == "emulator" and joining.current(work_dir()) else given


def _load() -> dict[str, Any]:
    path = work_dir() / "tutorial.json"
    try:
        document = given_files.read_json(path)
    except FileNotFoundError:
        return {"version": 1}
    except (OSError, ValueError) as error:
        raise _damaged(path, "it cannot be read as JSON") from error
    if fault := _fault(document):
        raise _damaged(path, fault)
    checked: dict[str, Any] = document
    return checked


def _fault(document: Any) -> str | None:
    if not isinstance(document, dict) or document.get("version") != 1:
        return "it is not a version 1 document"
    if document.get("target", "emulator") not in ("emulator", "azure"):
        return "its target is unknown"
    for section in ("emulator", "azure", "class"):
        facts = document.get(section, {})
        if not isinstance(facts, dict):
            return f"its part {section} is not an object"
        if odd := [name for name, value in facts.items() if name not in FACTS or not isinstance(value, str)]:
            return f"its part {section} has an unknown or wrong entry {shown(odd[0])}"
    return None


def _damaged(path: Path, why: str) -> Stop:
    return Stop(
        f"{shown(path)} is damaged ({why}): delete that file and run this cell again; your certificate, key and "
        "enrollment stay as they are."
    )


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a file of the work folder whole or not at all. Stop when it cannot be written."""
    try:
        _replace(path, document)
    except OSError as error:
        raise Stop(
            f"{shown(path)} cannot be written ({error.strerror}): see to it that you may write to that folder and that "
            "its disk has space, and run this cell again."
        ) from error


def _replace(path: Path, document: dict[str, Any]) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".json")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=2)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
