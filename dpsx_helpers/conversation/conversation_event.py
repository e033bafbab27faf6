"""One step of a conversation between a device and a service, and what may be shown of it."""

import json
import re
from dataclasses import dataclass
from typing import Any

DPS = "DPS"
HUB = "IoT hub"
HIDDEN = "(hidden)"
# https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/os/mqtt-v3.1.1-os.html#_Toc398718035
CONNACK = {
    0: "accepted",
    1: "refused: unacceptable protocol version",
    2: "refused: client identifier rejected",
    3: "refused: server unavailable",
    4: "refused: bad user name or password",
    5: "refused: not authorized",
}
_LONGEST_BODY = 8_000
_LONGEST_TOPIC = 1_000
_SECRET_NAME = re.compile(r"key$|signature|password|passphrase|secret|token", re.IGNORECASE)
_SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|SharedAccessSignature[ +%][^\"';,\s]*"
    r"|(?P<name>(?:(?<![\w.$%-])[\w.$%-]*(?:key|signature|password|passphrase|secret|token)|\bsig|(?<=%3D|%26)sig)"
    r"[\"']?(?:\s*[=:]\s*|%3[ad])[\"']?)"
    r"[^\"'&;,}\s]+",
    re.IGNORECASE | re.DOTALL,
)


def without_secrets(text: str) -> str:
    """`text` with everything hidden that looks like a key, a signature or a pass phrase."""
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if isinstance(document, dict | list):
        return json.dumps(_hidden(document), ensure_ascii=False)
    return _SECRETS.sub(lambda found: (found["name"] or "") + HIDDEN, text)


def _hidden(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: HIDDEN if _SECRET_NAME.search(name) else _hidden(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_hidden(inner) for inner in value]
    return _SECRETS.sub(lambda found: (found["name"] or "") + HIDDEN, value) if isinstance(value, str) else value


def body(text: str) -> str:
    """The part of a body that is kept: without secrets, 8000 characters at most."""
    shown = without_secrets(text)
    return shown if len(shown) <= _LONGEST_BODY else shown[:_LONGEST_BODY] + " … (shortened)"


def topic(text: str) -> str:
    """The part of a topic that is kept: without secrets, 1000 characters at most."""
    shown = without_secrets(text)
    return shown if len(shown) <= _LONGEST_TOPIC else shown[:_LONGEST_TOPIC] + "…"


@dataclass(frozen=True)
class Event:
    """One step, as the SDK's log tells it.

    `kind` is OPEN (the device opens a connection), UNREACHABLE (it could not; `body` is the error), an MQTT packet
    (CONNECT, CONNACK, SUBSCRIBE, PUBLISH …) or CLOSED (a connection ended that the device had not ended).
    `status`: of an answer the status in its topic, of a CONNACK its return code, of CLOSED paho's error number.
    `retry_after` in seconds, `size` in bytes. `body` is None where the log does not hold it.
    """

    seconds: float
    party: str
    host: str
    sent: bool
    kind: str
    topic: str | None = None
    status: int | None = None
    retry_after: int | None = None
    size: int | None = None
    body: str | None = None
    message_id: int | None = None
    client_id: str | None = None
    connection: int = 0
    again: bool = False

    @property
    def json(self) -> Any:
        """The body parsed, or None where there is none or it is no JSON."""
        try:
            return json.loads(self.body) if self.body is not None else None
        except ValueError:
            return None

    @property
    def refused(self) -> bool:
        """Whether this step says no."""
        if self.kind == "CONNACK":
            return self.status != 0
        if self.kind in ("UNREACHABLE", "CLOSED"):
            return True
        return (self.status is not None and self.status >= 400) or self.registration in ("failed", "disabled")

    @property
    def registration(self) -> str | None:
        """`assigning`, `assigned`, `failed` … in an answer of DPS."""
        document = self.json if self.party == DPS and self.status is not None else None
        return str(document["status"]) if isinstance(document, dict) and "status" in document else None

    def in_words(self) -> str:
        """One sentence."""
        return _sentence(self)


def _sentence(event: Event) -> str:
    who = _name(event)
    match event.kind, event.sent:
        case "OPEN", _:
            return f"The device opens a connection to {_at(event)} {event.body or ''}".rstrip() + "."
        case "UNREACHABLE", _:
            return f"✘ The connection to {_at(event)} does not come about: {event.body or 'the log does not say why'}."
        case "CONNECT", True:
            name = f" as {event.client_id}" if event.client_id else ""
            return f"The device introduces itself to {_at(event)}{name}."
        case "CONNACK", False:
            meaning = CONNACK.get(event.status if event.status is not None else -1, "refused")
            mark = "✘ " if event.refused else ""
            return f"{mark}{_start(who)} answers the introduction: {meaning} (CONNACK {event.status})."
        case "SUBSCRIBE", True:
            return f"The device asks {who} for all messages on {event.topic}."
        case "UNSUBSCRIBE", True:
            return f"The device wants no more messages of {who} on {event.topic}."
        case "SUBACK" | "UNSUBACK", False:
            return f"{_start(who)} confirms that."
        case "PUBLISH", True:
            again = " once more" if event.again else ""
            return f"The device {_purpose(event)}{again}: {_size(event)}."
        case "PUBLISH", False:
            return _answer(event)
        case "PUBACK", False:
            return f"{_start(who)} confirms that it has received message {event.message_id} of this connection."
        case "PUBACK", True:
            return f"The device confirms message {event.message_id} of {who}."
        case "PINGREQ" | "PINGRESP", _:
            return f"{'The device' if event.sent else _start(who)} says that it is still there."
        case "DISCONNECT", True:
            return f"The device says goodbye to {who}."
        case "CLOSED", _:
            return f"✘ The connection to {who} ended, and the device had not ended it (error {event.status} of paho)."
    return f"{'The device' if event.sent else _start(who)} sends {event.kind}."


def _name(event: Event) -> str:
    return DPS if event.party == DPS else "the IoT hub"


def _start(name: str) -> str:
    return name[:1].upper() + name[1:]


def _at(event: Event) -> str:
    return f"{_name(event)} ({event.host})" if event.host else _name(event)


def _size(event: Event) -> str:
    if event.body is not None:
        return _bytes(event.size)
    return "nothing in it" if event.size == 0 else f"{_bytes(event.size)}, which the log does not show"


def _bytes(size: int | None) -> str:
    return "1 byte" if size == 1 else f"{size} bytes"


def _purpose(event: Event) -> str:
    path = event.topic or ""
    for part, purpose in (
        ("/iotdps-register/", "asks DPS which hub it belongs to"),
        ("/iotdps-get-operationstatus/", "asks DPS whether that is decided"),
        ("/messages/events", "sends a message to the IoT hub"),
        ("$iothub/twin/GET", "asks the IoT hub for its twin"),
        ("$iothub/twin/PATCH/properties/reported", "reports properties to the IoT hub"),
        ("$iothub/methods/res", "answers a direct method"),
    ):
        if part in path:
            return purpose
    return f"publishes on {path}"


def _answer(event: Event) -> str:
    path, mark = event.topic or "", "✘ " if event.refused else ""
    size = "" if event.body is not None else f" ({_size(event)})"
    if event.party == DPS and event.status is not None:
        return f"{mark}DPS answers {event.status}: {_meaning(event)}."
    if "/methods/POST/" in path:
        return f"The IoT hub calls the direct method {path.split('/POST/')[1].split('/')[0]}{size}."
    if "/messages/devicebound" in path:
        return f"The IoT hub delivers a message to the device{size}."
    if "/twin/PATCH/properties/desired" in path:
        return f"The IoT hub tells the device of new desired properties{size}."
    if event.status is not None:
        return f"{mark}The IoT hub answers {event.status}{size}."
    return f"{_start(_name(event))} publishes on {path}{size}."


def _meaning(event: Event) -> str:
    wait = f" and asks to come back in {event.retry_after} seconds" if event.retry_after is not None else ""
    document = event.json if isinstance(event.json, dict) else {}
    if event.status == 429:
        return f"it has too much to do{wait}"
    if event.status is not None and event.status >= 400:
        error = f", error {document['errorCode']}" if "errorCode" in document else ""
        said = document.get("message")
        return (f"{said}{error}" if said else f"no{error}") + wait
    if event.registration == "assigned":
        state = document.get("registrationState")
        hub = state.get("assignedHub") if isinstance(state, dict) else None
        return f"the device is assigned to {hub}" if hub else "the device is assigned to a hub"
    if event.registration in ("failed", "disabled", "unassigned"):
        state = document.get("registrationState")
        why = state.get("errorMessage") if isinstance(state, dict) else None
        return f"the registration is {event.registration}" + (f": {why}" if why else "")
    return f"it is working on it{wait}" if event.status == 202 else f"fine{wait}"
