"""What is known about a failure: the exceptions, what was said on the wire, the files on disk, the emulator's side.

Everything is gathered without changing anything, and what cannot be read is None: a diagnosis never fails itself.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from azure.core.exceptions import AzureError, HttpResponseError

from dpsx_helpers import certificates, conversation, given_files, targets, tutorial
from dpsx_helpers.errors import LearnerError

if TYPE_CHECKING:
    from dpsx_helpers.conversation import Conversation
    from dpsx_helpers.enrollments import Enrollment
    from dpsx_helpers.registry import Device

_LIBRARIES = ("azure.", "requests.", "paho.")
_OF_THE_SDK = ("/azure/iot/device/", "/paho/mqtt/")  # where an exception of a general class was raised
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_TRUNCATED = 0.002  # seconds: the log's times end with the millisecond
_FAULT = re.compile(r"the fault (\S+) is switched on")
_SECRETS = (
    re.compile(r"(?<=SharedAccessKey=)[^;\s'\"]+"),
    re.compile(r"(?<=sig=)[^&\s'\"]+"),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
)


@dataclass(frozen=True)
class Evidence:
    """One failure, or (with `error` None) one conversation that raised nothing.

    `log` holds the emulator's own lines about what it refused meanwhile.
    """

    error: BaseException | None = None
    talk: "Conversation | None" = None
    log: Sequence[str] = ()

    @cached_property
    def chain(self) -> tuple[BaseException, ...]:
        """The exception and its causes, the last one deepest."""
        links: list[BaseException] = []
        link = self.error
        while link is not None and not any(link is known for known in links):
            links.append(link)
            link = link.__cause__ or (None if link.__suppress_context__ else link.__context__) or _first_of(link)
        return tuple(links)

    @property
    def text(self) -> str:
        """All that the exceptions say."""
        return " | ".join(str(link) for link in self.chain)

    @property
    def foreign(self) -> bool:
        """Whether any of the exceptions is of a library that the device code calls, or was raised below one: a file
        that the learner's own code did not find is none.
        """
        return any(_of_library(link) or _passes(link, *_OF_THE_SDK) for link in self.chain)

    def says(self, *words: str) -> bool:
        """One of the words is in the texts."""
        return any(word in self.text for word in words)

    def named(self, *names: str) -> bool:
        return any(type(link).__name__ in names for link in self.chain)

    def has(self, *kinds: type[BaseException]) -> bool:
        return any(isinstance(link, kinds) for link in self.chain)

    def first(self, kind: type[BaseException]) -> Any:
        """The first exception of this kind, or None."""
        return next((link for link in self.chain if isinstance(link, kind)), None)

    @property
    def at_hub(self) -> bool:
        """Whether the hub's client failed: the traceback passes through it, or the last CONNACK was the hub's."""
        if self.error is None:
            return self.talk is not None and self.talk.connack_party == conversation.HUB
        return _passes(self.error, "/azure/iot/device/iothub/")

    # --- what the service answered --------------------------------------------------------------------------------

    @property
    def recorded(self) -> bool:
        return self.talk is not None

    @property
    def connack(self) -> int | None:
        """The code of the last CONNACK that was received."""
        return self.talk.connack if self.talk else None

    @property
    def status(self) -> int | None:
        """The status of the last answer of DPS: recorded, else as the SDK's text has it; of a service its HTTP "
        "status."""
        if self.talk and self.talk.last_answer:
            return self.talk.last_answer.status
        if isinstance(self.service_error, HttpResponseError):
            return int(self.service_error.status_code or 0) or None
        found = re.search(r"error status code (\d{3})", self.text)
        return int(found[1]) if found else None

    @cached_property
    def answer(self) -> dict[str, Any]:
        """The JSON of that answer; {} when it is not known."""
        try:
            document = json.loads(self.body)
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}

    @property
    def body(self) -> str:
        """The text of that answer; "" when it is not known."""
        if self.talk and self.talk.last_answer:
            return self.talk.last_answer.body or self._said_to_another(self.talk, self.talk.last_answer.status)
        response = getattr(self.service_error, "response", None)
        try:
            return str(response.text()) if response is not None else ""
        except Exception:  # noqa: BLE001 - a body that cannot be read any more is no body
            return ""

    @staticmethod
    def _said_to_another(talk: "Conversation", status: int | None) -> str:
        """Of several devices at once the first fails while the answers to the others come in, and the log tells the
        text of an answer a moment after its status.
        """
        texts = [
            e.body for e in talk.events if e.party == conversation.DPS and e.status == status and e.kind == "PUBLISH"
        ]
        return next((text for text in reversed(texts) if text), "")

    @property
    def state(self) -> dict[str, Any]:
        """The state of the registration in that answer."""
        found = self.answer.get("registrationState")
        return found if isinstance(found, dict) else {}

    @property
    def code(self) -> int | None:
        """Azure's error code, such as 401002."""
        found = self.answer.get("errorCode", self.state.get("errorCode"))
        return found if isinstance(found, int) else None

    @property
    def message(self) -> str:
        """Azure's words for it, such as "Invalid certificate."; "" when they are not known."""
        found = self.answer.get("message") or self.answer.get("Message") or self.state.get("errorMessage")
        return str(found or "")

    @property
    def service_error(self) -> AzureError | None:
        """The exception of a service client (enrollments)."""
        found: AzureError | None = self.first(AzureError)
        return found

    @property
    def request_host(self) -> str:
        """The host that a service client asked; "" when it is not known."""
        request = getattr(getattr(self.service_error, "response", None), "request", None)
        found = re.match(r"https://([^/:?]+)", getattr(request, "url", "") or "")
        return found[1] if found else ""

    @property
    def request_policy(self) -> str:
        """The policy whose key signed the request of a service client; "" when it is not known."""
        request = getattr(getattr(self.service_error, "response", None), "request", None)
        found = re.search(r"skn=([^&\s]+)", (getattr(request, "headers", None) or {}).get("Authorization", ""))
        return found[1] if found else ""

    # --- what is set and on disk here ------------------------------------------------------------------------------

    @property
    def on_azure(self) -> bool:
        try:
            return tutorial.target() == "azure"
        except LearnerError:
            return False

    @property
    def host(self) -> str:
        return os.environ.get("PROVISIONING_HOST", "")

    @property
    def registration_id(self) -> str:
        return os.environ.get("DPS_X509_REGISTRATION_ID", "")

    @property
    def certificate_file(self) -> Path | None:
        try:
            named = os.environ.get("X509_CERT_FILE")
            return Path(named) if named else tutorial.certificate_file()
        except LearnerError:
            return None

    @cached_property
    def certificate(self) -> certificates.Description | None:
        """The device's certificate as it is on disk now."""
        try:
            return certificates.describe(self.certificate_file) if self.certificate_file else None
        except (LearnerError, OSError):
            return None

    @cached_property
    def issuers(self) -> tuple[certificates.Description, ...]:
        """The certificates behind the first one in the file: the SDK sends them too."""
        try:
            data = given_files.read(self.certificate_file) if self.certificate_file else b""
            return tuple(map(certificates.describe, _PEM.findall(data)[1:]))
        except (LearnerError, OSError):
            return ()

    # --- the other side, on the emulator ----------------------------------------------------------------------------

    @cached_property
    def service(self) -> targets.Target | None:
        """The target when its other side can be read from here, as far as the emulator's can."""
        trusted = {name: os.environ.get(name) for name in targets.TRUST}
        try:
            target = targets.attached()
        except (LearnerError, OSError):
            return None
        finally:  # attaching sets what is trusted, and that may be the very thing that is wrong
            for name, value in trusted.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
        return target if target is not None and target.is_emulator else None

    @cached_property
    def enrollment(self) -> "Enrollment | None":
        """The entry of this registration ID. None also where it cannot be read (see `service`)."""
        from dpsx_helpers import enrollments

        try:
            return enrollments.get(self.service, self.registration_id) if self._readable() and self.service else None
        except LearnerError:
            return None

    @cached_property
    def device(self) -> "Device | None":
        """The device in the hub's list, likewise."""
        from dpsx_helpers import registry

        try:
            return registry.get(self.service, self.registration_id) if self._readable() and self.service else None
        except LearnerError:
            return None

    def _readable(self) -> bool:
        return self.service is not None and bool(self.registration_id.strip())

    @property
    def fault(self) -> str | None:
        """The fault that the emulator says it has played last of all."""
        found = _FAULT.search(self.log[-1]) if self.log else None
        return found[1] if found else None

    @property
    def faults_on(self) -> list[str]:
        """The faults that are switched on now and may act on this device."""
        emulator = self.service.emulator if self.service else None
        try:
            found = emulator.faults() if emulator else []
        except LearnerError:
            return []
        name = self.registration_id.casefold()
        return [str(fault["kind"]) for fault in found if str(fault["device"] or name).casefold() == name]


def refusals(seconds: float) -> list[str]:
    """The lines with which the emulator refused something in the last `seconds`, at most five, without their time."""
    file, now, found = _log_file(), datetime.now(), []
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file else []
    except OSError:
        return []
    for line in reversed(lines):
        age = _age(line, now)
        if age is not None and age > seconds + _TRUNCATED:
            break
        if _is_refusal(line):
            found.append(line.split("WARNING", 1)[1].strip())
    return found[4::-1]


def _age(line: str, now: datetime) -> float | None:
    """How many seconds ago the line was written; None when it does not begin with a time. The log tells no date."""
    try:
        then = datetime.strptime(line[:12], "%H:%M:%S.%f")
    except ValueError:
        return None
    return (now.replace(year=1900, month=1, day=1) - then).total_seconds() % 86_400


def _is_refusal(line: str) -> bool:
    return " WARNING " in line and "service = fault " not in line


def _log_file() -> Path | None:
    try:
        own = tutorial.target() == "emulator" and tutorial.joined() is None
        return tutorial.work_dir() / "emulator" / "emulator.log" if own else None
    except LearnerError:
        return None


def without_secrets(text: str) -> str:
    """The text with pass phrases, service keys, signatures and private keys replaced by dots."""
    for pattern in _SECRETS:
        text = pattern.sub(tutorial.MASK, text)
    for secret in _pass_phrases():
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", tutorial.MASK, text)
    return text


def _pass_phrases() -> set[str]:
    names = ("X509_PASS_PHRASE", "PASS_PHRASE", tutorial.INPUTS["pass_phrase"])
    known = {os.environ.get(name, "") for name in names}
    found = tutorial.known("pass_phrase")
    return {secret for secret in (*known, found[0] if found else "") if secret}


def _first_of(error: BaseException) -> BaseException | None:
    """Of several that failed at once (asyncio.TaskGroup) the first."""
    return error.exceptions[0] if isinstance(error, BaseExceptionGroup) else None


def _of_library(error: BaseException) -> bool:
    return type(error).__module__.startswith(_LIBRARIES)


def _passes(error: BaseException, *parts: str) -> bool:
    """Whether the exception came through code whose path has one of these parts."""
    trace = error.__traceback__
    while trace is not None:
        if any(part in trace.tb_frame.f_code.co_filename.replace(os.sep, "/") for part in parts):
            return True
        trace = trace.tb_next
    return False
