"""Whether this machine, and what the DPSX_* variables say, is fit for the tutorial. Each fault has a remedy."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from dpsx_helpers import access, certificates, joining, lab, machine, network, proxies, targets, tutorial
from dpsx_helpers.emulator import Emulator, EmulatorError
from dpsx_helpers.errors import LearnerError
from dpsx_helpers.machine import Finding

_MQTT_PORT = 8883
_ANY_TIME = ("127.0.0.1", "localhost")  # where the tutorial's own emulator starts when it is needed
_OF_OPERATOR = [
    (tutorial.INPUTS[names[owner]], owner) for names in (access.CONNECTION_STRINGS, access.HOSTS) for owner in names
]
_PATHS = ("DPSX_CERT_FILE", "DPSX_KEY_FILE")


@contextmanager
def settled() -> Iterator[None]:
    """What holds in any folder: DPSX_WORK_DIR is set if there is a tutorial, and paths are absolute.

    Afterwards the environment is as it was.
    """
    before = dict(os.environ)
    try:
        if not os.environ.get("DPSX_WORK_DIR", "").strip():
            with suppress(lab.LabError):
                os.environ["DPSX_WORK_DIR"] = str(lab.notebooks_folder() / "work")
        for name in (*_PATHS, joining.VARIABLE):
            if (given := os.environ.get(name, "").strip()) and not joining.is_code(given):
                os.environ[name] = str(Path(os.environ[name]).expanduser().absolute())
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def findings() -> list[Finding]:
    """The machine, the emulator of this work folder, and those inputs that are set."""
    return [*machine.findings(), _emulator(), *inputs()]


def on_the_way() -> tuple[list[Finding], str]:
    """What lies between this machine and the target's endpoint, and the sentence that says which transport to use."""
    try:
        if tutorial.target() == "azure":
            return network.azure(targets.endpoint())
        target = targets.attached()
        if target is None:
            return [], "mqtt, on port 8883 (the notebooks start the emulator when they need it)."
        return network.emulator(target.host)
    except LearnerError:  # what cannot be used is among the inputs already
        return [], "not known before what is marked with ✘ is mended."


def line(finding: Finding) -> str:
    """One finding as one line of text; what is only handy and missing is not marked as a fault."""
    mark = "✔" if finding.ok else "✘" if finding.required else "-"
    return f"{mark} {finding.name}: {finding.found}" + (f". {in_terminal(finding.remedy)}" if finding.remedy else "")


def in_terminal(sentence: str, command: str = "dpsx") -> str:
    """A sentence that speaks of cells, for somebody who started this command."""
    return re.sub("run this (?:cell|check) again|(?<=then )(?:run )?this check", f"start {command} again", sentence)


def _emulator() -> Finding:
    name = "emulator of this work folder"
    try:
        if (join := tutorial.joined()) is not None:
            return _class(join)
        seen = Emulator.attach(tutorial.work_dir() / "emulator").overview
    except EmulatorError:
        return Finding(name, True, "not running (the notebooks start it when they need it)")
    except LearnerError as error:
        return Finding(name, False, "not found", str(error))
    return Finding(name, True, f"runs at {seen.host}, ID scope {seen.id_scope}, process {seen.pid}")


def _class(join: joining.Join) -> Finding:
    """Whether the emulator of the class answers, on the port of its service side and on that of devices."""
    name, where = "emulator of your class", f"at {join.host}, where you are {join.registration_id}"
    for port in (join.https_port, join.mqtt_port):
        if fault := targets.listens(join.host, port):
            remedy = "ask your teacher whether it runs, or go back to your own with `dpsx leave`"
            return Finding(name, False, f"{fault} ({where})", remedy)
    return Finding(name, True, f"answers {where}")


def inputs() -> list[Finding]:
    """A finding for each input of the environment that can be judged before anything runs."""
    checks: list[tuple[tuple[str, ...], Callable[[], str]]] = [
        ((joining.VARIABLE,), _joined),
        (("DPSX_TRANSPORT",), tutorial.transport),
        (("DPSX_PROXY",), _proxy),
        (("DPSX_REGISTRATION_ID",), tutorial.registration_id),
        (("DPSX_ID_SCOPE",), _id_scope),
        (("DPSX_PROVISIONING_HOST",), _host),
        *(((name,), partial(_for_operator, name, owner)) for name, owner in _OF_OPERATOR),
        (("DPSX_PASS_PHRASE",), _pass_phrase),
        (_PATHS, _pair),
    ]
    return [_finding(given, check) for names, check in checks if (given := [name for name in names if _is_set(name)])]


def _finding(given: list[str], check: Callable[[], str]) -> Finding:
    name = ", ".join(given)
    try:
        return Finding(name, True, check())
    except LearnerError as error:
        return Finding(name, False, "cannot be used", in_terminal(str(error)))


def _is_set(name: str) -> bool:
    return name in os.environ


def _joined() -> str:
    join = tutorial.joined()
    return "not used" if join is None else f"joins a class as {join.registration_id}, at {join.host}"


def _id_scope() -> str:
    scope = targets.check_id_scope(os.environ["DPSX_ID_SCOPE"], "in DPSX_ID_SCOPE")
    return targets.id_scope_hint(scope) or scope


def _host() -> str:
    host = targets.check_host(os.environ["DPSX_PROVISIONING_HOST"], "in DPSX_PROVISIONING_HOST")
    if tutorial.target() == "emulator" and host not in _ANY_TIME and (fault := targets.listens(host, _MQTT_PORT)):
        raise LearnerError(
            f"{fault[0].upper()}{fault[1:]}: the emulator is not running there, so start it with "
            f"`python -m dpsx_helpers.emulator run --host {host}`, or unset DPSX_PROVISIONING_HOST."
        )
    return targets.host_hint(host) or host


def _proxy() -> str:
    proxy = proxies.parse(os.environ["DPSX_PROXY"], "in DPSX_PROXY")
    return str(proxy) if tutorial.target() == "azure" else f"{proxy}, of no use on the emulator"


def _for_operator(name: str, owner: str) -> str:
    """What lets the cells act on Azure, without the key that may be in it."""
    text = os.environ[name]
    if tutorial.target() == "emulator" or not text.strip():
        return "not used on the emulator" if text.strip() else "blank, and so not used"
    if name in targets.CONNECTION_STRINGS:
        return f"for {access.host_name(access.check_connection_string(text, owner, f'in {name}'))}"
    host = access.check_service_host(text, owner, f"in {name}")
    if access.connection_string(owner) is None:
        access.credential()  # says so when its package is missing; nobody signs in yet
    return host


def _pass_phrase() -> str:
    given = os.environ["DPSX_PASS_PHRASE"]
    if not given:
        raise LearnerError("The pass phrase in DPSX_PASS_PHRASE is empty: set it, or unset the variable.")
    if not any(map(_is_set, _PATHS)) and os.path.exists(tutorial.key_file()):
        certificates.open_key(tutorial.key_file(), given)
    return "set"


def _pair() -> str:
    """The learner's own files: whole, made for each other, opened by the pass phrase, named as registered."""
    missing = [name for name in _PATHS if not _is_set(name)]
    if missing:
        raise LearnerError(f"{missing[0]} is not set beside it: set both, to the two files that were made together.")
    default = tutorial.TEST_PASS_PHRASE if tutorial.target() == "emulator" else ""
    pass_phrase = os.environ.get("DPSX_PASS_PHRASE", default)
    found = certificates.check_pair(tutorial.certificate_file(), tutorial.key_file(), pass_phrase)
    name = tutorial.registration_id()
    # Compared without regard to case: https://learn.microsoft.com/azure/iot-dps/concepts-service#registration-id
    if (found.common_name or "").casefold() != name.casefold():
        raise LearnerError(
            f"The certificate says CN={found.common_name} but the registration ID is {name}, and DPS refuses such a "
            "device: set DPSX_REGISTRATION_ID to the certificate's name, or make a certificate for this one."
        )
    return f"the key opens and belongs to the certificate of {name}"
