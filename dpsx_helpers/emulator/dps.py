"""The rules of registration: who may connect, what a registration answers, what is assigned. No I/O, no clock.

Records come in, records and answers go out; the caller stores them before it sends anything. A rule that says no
raises `Refused` with a row of `refusals`. The shapes of the answers are those of
https://learn.microsoft.com/azure/iot-dps/iot-dps-https-x509-support, sent over MQTT as
https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-dps says.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from dpsx_helpers.certificates import Description
from dpsx_helpers.emulator import attestation, documents, mqtt, refusals
from dpsx_helpers.emulator.attestation import Known, Session
from dpsx_helpers.emulator.records import Enrollment, Group, Registration, Status, Substatus
from dpsx_helpers.emulator.refusals import Refusal, Refused
from dpsx_helpers.emulator.stamps import Stamp
from dpsx_helpers.emulator.topics import DpsLogin

RETRY_AFTER = 3  # seconds, what Azure is seen to send
MAX_MESSAGE = 96 * 1024  # bytes: https://learn.microsoft.com/azure/iot-dps/about-iot-dps#quotas-and-limits
API_VERSIONS = frozenset(
    {
        "2017-08-31-preview", "2017-11-15", "2018-04-01", "2018-09-01-preview", "2018-11-01", "2019-01-15-preview",
        "2019-03-31", "2019-04-15", "2020-09-01-preview", "2021-06-01", "2021-10-01", "2021-11-01-preview",
        "2023-02-01-preview", "2025-07-01-preview",
    }
)  # fmt: skip
# Clients of older versions do not know it: https://github.com/Azure/azure-iot-sdk-csharp/pull/2397
_KNOWS_REPROVISIONED = "2019-04-15"
# https://learn.microsoft.com/azure/iot-dps/concepts-service#registration-id
REGISTRATION_ID = re.compile(r"[A-Za-z0-9\-._:]{0,127}[A-Za-z0-9\-]")


@dataclass(frozen=True, slots=True)
class Progress:
    """How long a registration stays `assigning`: for some polls, for some seconds, or not at all."""

    polls: int = 0
    seconds: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Progress":
        """`immediately`, `polls=N` (N further 202s before the 200) or `seconds=S` (counted from the register).

        Raises ValueError with one sentence for anything else.
        """
        if text == "immediately":
            return cls()
        if match := re.fullmatch(r"polls=([0-9]{1,4})", text):
            return cls(polls=int(match[1]))
        if match := re.fullmatch(r"seconds=([0-9]{1,5}(?:\.[0-9]{1,3})?)", text):
            return cls(seconds=float(match[1]))
        raise ValueError(f"{text!r} is no assignment policy: give immediately, polls=N or seconds=S")

    def done(self, registration: Registration, now: float) -> bool:
        waited = now - registration.requested
        # Below 0 the clock was set back, and nobody can tell any more: better too soon than a day too late.
        over = waited < 0 or (waited >= self.seconds and now >= registration.held_until)
        return over and registration.polls > self.polls


@dataclass(frozen=True, slots=True)
class Service:
    """This DPS: its ID scope, the linked hubs (identity -> address), and how it behaves where Azure is not settled."""

    id_scope: str
    hubs: Mapping[str, str]
    progress: Progress = field(default_factory=Progress)
    not_enrolled: Refusal = refusals.NOT_ENROLLED


@dataclass(frozen=True, slots=True)
class Assignment:
    """The identity that the assigned hub must hold. Thumbprints are SHA-256 in upper-case hex.

    `leaves` is the hub (and the device ID there) that it has to be removed from; `reset`: its twin starts again.
    """

    hub: str
    device_id: str
    primary_thumbprint: str
    secondary_thumbprint: str
    initial_twin: dict[str, Any]
    edge: bool
    leaves: tuple[str, str] | None = None
    reset: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """One message on the response topic. `retry_after` is in seconds, None when there is nothing to wait for."""

    status: int
    body: dict[str, Any]
    retry_after: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a request changes and answers. Store the records first; the answer may say that they exist.

    `refused` is why a registration that was answered with 200 or 202 does not end assigned, for the log.
    """

    answer: Answer
    registration: Registration
    assignment: Assignment | None = None
    refused: Refused | None = None


def admit(
    connect: mqtt.Connect,
    login: DpsLogin,
    certificate: Description | None,
    id_scope: str,
    sent: tuple[bytes, ...] = (),
) -> Session:
    """Let a device in, or raise Refused. Whether it is enrolled is only looked at when it registers.

    The registration ID must equal the certificate's common name, whatever the case of the letters. `sent`: the
    certificates that came behind that of the device. A token instead of a certificate is judged at registration, too.
    """
    rid = login.registration_id
    if login.api_version not in API_VERSIONS:
        raise Refused(refusals.UNKNOWN_API_VERSION, api_version=login.api_version)
    if login.id_scope != id_scope:
        raise Refused(refusals.UNKNOWN_ID_SCOPE, asked=login.id_scope, id_scope=id_scope)
    if not REGISTRATION_ID.fullmatch(rid):
        raise Refused(refusals.BAD_REGISTRATION_ID, registration_id=rid)
    if connect.client_id.lower() != rid.lower():
        raise Refused(refusals.CLIENT_ID_DIFFERS, client_id=connect.client_id, registration_id=rid)
    if connect.will is not None:
        raise Refused(refusals.NOT_EMULATED, feature="a Will on a connection to DPS", device=rid)
    if certificate is None and not (connect.password or "").startswith("SharedAccessSignature "):
        raise Refused(refusals.NO_CERTIFICATE, device=rid)
    common_name = rid if certificate is None else certificate.common_name or ""
    if common_name.lower() != rid.lower():
        raise Refused(refusals.COMMON_NAME_DIFFERS, registration_id=rid, common_name=common_name)
    return Session(rid, certificate, sent, login.api_version)


def subscribe(session: Session, packet: mqtt.Subscribe, documented: str) -> list[int]:
    """QoS granted for each filter; QoS 2 is granted as 1. Raises Refused for any filter but the documented one."""
    for topic, _ in packet.filters:
        if topic != documented:
            raise Refused(refusals.UNKNOWN_FILTER, device=session.registration_id, topic=topic)
    return [min(qos, 1) for _, qos in packet.filters]


def check_publish(session: Session, packet: mqtt.Publish, *, subscribed: bool) -> None:
    """What every request must keep to before its topic is even read."""
    rid = session.registration_id
    if packet.qos == 2:
        raise Refused(refusals.QOS_2, device=rid)
    if len(packet.payload) > MAX_MESSAGE:
        raise Refused(refusals.TOO_LARGE, device=rid, size=len(packet.payload), limit=MAX_MESSAGE)
    if not subscribed:
        raise Refused(refusals.NOT_SUBSCRIBED, device=rid)


def register(
    session: Session,
    body: bytes,
    known: Known,
    earlier: Registration | None,
    service: Service,
    stamp: Stamp,
    hold: float = 0.0,
) -> Outcome:
    """Start a registration. The answer is 202 with an operation to ask for, or at once 200 when disabled.

    `hold`: seconds for which it stays assigning beyond what the service's own progress asks for.
    """
    payload = _payload(session, body)
    enrollment, certificate = attestation.prove(session, known, service.not_enrolled, stamp.now)
    rid = enrollment.registration_id if isinstance(enrollment, Enrollment) else certificate.common_name or ""
    registration = Registration(
        registration_id=rid,
        status=Status.ASSIGNING,
        operation_id=_operation_id(rid, service.id_scope, stamp),
        requested=stamp.now.timestamp(),
        created=earlier.created if earlier else stamp.text,
        updated=stamp.text,
        etag=stamp.etag,
        hub=earlier.hub if earlier else None,
        device_id=earlier.device_id if earlier else None,
        group_id=enrollment.group_id if isinstance(enrollment, Group) else None,
        payload=payload,
        held_until=stamp.now.timestamp() + hold if hold else 0.0,
    )
    if not enrollment.enabled:
        refused = Refused(refusals.ENROLLMENT_DISABLED, registration_id=rid, enrollment=enrollment.name)
        return disabled(registration, earlier, service, refused)
    accepted = Answer(202, _operation(registration), RETRY_AFTER)
    if service.progress == Progress() and not hold:  # settled behind the 202: the first poll will say so
        return Outcome(accepted, *_settle(registration, session, certificate, enrollment, service, stamp))
    return Outcome(accepted, registration)


def disabled(registration: Registration, before: Registration | None, service: Service, refused: Refused) -> Outcome:
    """The end of a registration whose enrollment is disabled. There is no operation to ask for.

    `before` is the record that was there: a device that was assigned stays where it was.
    """
    hub, device_id = (before.hub, before.device_id) if before else (None, None)
    ended = replace(registration, status=Status.DISABLED, operation_id="", hub=hub, device_id=device_id)
    return Outcome(answer(ended, service), ended, refused=refused)


def failed(outcome: Outcome, before: Registration | None, refused: Refused, service: Service, stamp: Stamp) -> Outcome:
    """The same outcome, but the registration fails for the reason given. What answers a register stays as it is.

    `before` is the record that was there: a device that was assigned stays where it was.
    """
    row = refused.refusal
    ended = replace(
        outcome.registration,
        status=Status.FAILED,
        hub=before.hub if before else None,
        device_id=before.device_id if before else None,
        error_code=row.code,
        error_message=row.text,
        updated=stamp.text,
    )
    answered = outcome.answer if outcome.answer.status == 202 else answer(ended, service)
    return Outcome(answered, ended, refused=refused)


def poll(
    session: Session,
    operation_id: str,
    known: Known,
    registration: Registration | None,
    service: Service,
    stamp: Stamp,
) -> Outcome:
    """Say how the operation stands: 202 while assigning, then 200 with the state of the registration."""
    enrollment, certificate = attestation.prove(session, known, service.not_enrolled, stamp.now)
    if registration is None or registration.operation_id != operation_id:
        raise Refused(refusals.UNKNOWN_OPERATION, registration_id=session.registration_id, operation_id=operation_id)
    if registration.status is not Status.ASSIGNING:
        return Outcome(answer(registration, service, session.api_version), registration)
    if not enrollment.enabled:  # by now: what is disabled decides until the device is assigned
        why = Refused(refusals.ENROLLMENT_DISABLED, registration_id=session.registration_id, enrollment=enrollment.name)
        return disabled(registration, registration, service, why)
    asked = replace(registration, polls=registration.polls + 1)
    if not service.progress.done(asked, stamp.now.timestamp()):
        return Outcome(answer(asked, service), asked)
    settled, assignment, refused = _settle(asked, session, certificate, enrollment, service, stamp)
    return Outcome(answer(settled, service, session.api_version), settled, assignment, refused)


def answer(registration: Registration, service: Service, api_version: str = "2019-03-31") -> Answer:
    """The answer to a poll: 202 with retry-after while assigning, else 200."""
    body = _operation(registration) | {"registrationState": state(registration, service.hubs, api_version)}
    if registration.status is Status.ASSIGNING:
        return Answer(202, body, RETRY_AFTER)
    return Answer(200, body)


def state(registration: Registration, hubs: Mapping[str, str], api_version: str = "2021-10-01") -> dict[str, Any]:
    """`registrationState` as DPS shows it, names and order to the letter. A hub is named by its present address."""
    rid, status = registration.registration_id, str(registration.status)
    if registration.status in (Status.ASSIGNING, Status.DISABLED):
        return {"registrationId": rid, "status": status}
    dated = {"registrationId": rid, "createdDateTimeUtc": registration.created}
    ending = {"lastUpdatedDateTimeUtc": registration.updated, "etag": registration.etag}
    if registration.status is Status.FAILED:
        error = {"errorCode": registration.error_code, "errorMessage": registration.error_message}
        return dated | {"status": status} | error | ending
    substatus = registration.substatus
    if substatus is Substatus.REPROVISIONED and api_version < _KNOWS_REPROVISIONED:
        substatus = Substatus.INITIAL
    assigned = {
        "assignedHub": hubs.get(registration.hub or "", ""),
        "deviceId": registration.device_id,
        "status": status,
        "substatus": str(substatus),
    }
    x509 = {} if registration.group_id is None else {"enrollmentGroupId": registration.group_id}
    return {"x509": x509} | dated | assigned | ending


def record(registration: Registration, hubs: Mapping[str, str]) -> dict[str, Any]:
    """The registration as the service side of DPS shows it (DeviceRegistrationState), whatever its state."""
    shown = state(registration, hubs) | {
        "createdDateTimeUtc": registration.created,
        "lastUpdatedDateTimeUtc": registration.updated,
        "etag": registration.etag,
    }
    shown.pop("x509", None)
    return shown


def _operation(registration: Registration) -> dict[str, Any]:
    return {"operationId": registration.operation_id, "status": str(registration.status)}


def _payload(session: Session, body: bytes) -> Any:
    """The device's own payload. Clients send nothing, a blank, or an object that may name the registration again."""
    rid = session.registration_id
    if not body.strip():
        return None
    try:
        document = documents.load(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise Refused(refusals.BAD_BODY, registration_id=rid)
    asked = document.get("registrationId", rid)
    if not isinstance(asked, str) or asked.lower() != rid.lower():
        raise Refused(refusals.OTHER_REGISTRATION_ID, registration_id=rid, asked=asked)
    if document.get("csr") is not None:
        raise Refused(refusals.CSR_REFUSED, registration_id=rid)
    return document.get("payload")


def _settle(
    registration: Registration,
    session: Session,
    certificate: Description,
    enrollment: Enrollment | Group,
    service: Service,
    stamp: Stamp,
) -> tuple[Registration, Assignment | None, Refused | None]:
    """Bring a registration that is assigning to its end: assigned to a hub, or failed when there is none.

    Whether a device that was assigned before moves, and what becomes of its twin, is its enrollment's policy:
    https://learn.microsoft.com/azure/iot-dps/concepts-device-reprovision
    """
    rid = registration.registration_id
    policy = enrollment.settings.get("reprovisionPolicy", {})
    moves, migrates = policy.get("updateHubAssignment", True), policy.get("migrateDeviceData", True)
    before = registration.hub
    hub = before if before in service.hubs and not moves else _allocate(rid, enrollment, service.hubs)
    if hub is None:
        refused = Refused(refusals.NO_LINKED_HUB, registration_id=rid)
        lost = failed(Outcome(answer(registration, service), registration), registration, refused, service, stamp)
        return lost.registration, None, refused
    own = enrollment.device_id if isinstance(enrollment, Enrollment) else None
    leaves = (before, registration.device_id or rid) if before not in (None, hub) else None
    substatus = Substatus.INITIAL if before is None else Substatus.REPROVISIONED
    if leaves is not None:
        substatus = Substatus.MIGRATED if migrates else Substatus.RESET
    assigned = replace(
        registration,
        status=Status.ASSIGNED,
        hub=hub,
        device_id=own or rid,
        substatus=substatus,
        updated=stamp.text,
        etag=stamp.etag,
    )
    primary, secondary = _thumbprints(certificate, enrollment)
    edge = bool(enrollment.settings.get("capabilities", {}).get("iotEdge", False))
    reset = before is not None and moves and not migrates
    assignment = Assignment(hub, own or rid, primary, secondary, enrollment.initial_twin, edge, leaves, reset)
    return assigned, assignment, None


def _allocate(registration_id: str, enrollment: Enrollment | Group, hubs: Mapping[str, str]) -> str | None:
    """The linked hub that the allocation policy chooses; None when there is none that the device may go to.

    `hashed` spreads devices evenly, always the same way for the same hubs; `static` takes the first that is named;
    all hubs here are equally near, so that `geoLatency` takes the first, too.
    https://learn.microsoft.com/azure/iot-dps/concepts-service#allocation-policy
    """
    allowed = [hub for hub in enrollment.hubs or tuple(hubs) if hub in hubs]
    if not allowed or enrollment.settings.get("allocationPolicy", "hashed") != "hashed":
        return next(iter(allowed), None)
    return max(allowed, key=lambda hub: sha256(f"{hub}/{registration_id.lower()}".encode()).digest())


def _thumbprints(presented: Description, enrollment: Enrollment | Group) -> tuple[str, str]:
    """The presented certificate comes first in the hub; the other enrolled one second, or the same again."""
    enrolled = (enrollment.primary, enrollment.secondary) if isinstance(enrollment, Enrollment) else ()
    others = [der for der in enrolled if der and der != presented.der]
    second = sha256(others[0]).hexdigest().upper() if others else presented.thumbprint_sha256
    return presented.thumbprint_sha256, second


def _operation_id(registration_id: str, id_scope: str, stamp: Stamp) -> str:
    """`5.{16 hex digits that stay with the registration}.{guid}`, as seen in Azure's own examples."""
    digest = sha256(f"{id_scope}/{registration_id.lower()}".encode()).hexdigest()
    return f"5.{digest[:16]}.{stamp.guid}"
