"""The rules of registration: who may connect, what a registration answers, what is assigned. No I/O, no clock.

Records come in, records and answers go out; the caller stores them before it sends anything. A rule that says no
raises `Refused` with a row of `refusals`. The shapes of the answers are those of
https://learn.microsoft.com/azure/iot-dps/iot-dps-https-x509-support, sent over MQTT as
https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-dps says.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import sha256
from typing import Any

from dpsx_helpers.certificates import Description
from dpsx_helpers.emulator import documents, mqtt, refusals
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
# https://learn.microsoft.com/azure/iot-dps/concepts-service#registration-id
REGISTRATION_ID = re.compile(r"[A-Za-z0-9\-._:]{0,127}[A-Za-z0-9\-]")


class Status(StrEnum):
    """States of a registration (`enrollmentStatus` of the REST API)."""

    UNASSIGNED = "unassigned"
    ASSIGNING = "assigning"
    ASSIGNED = "assigned"
    FAILED = "failed"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class Enrollment:
    """An individual enrollment. Certificates are DER; `hub` is the identity of a linked hub, not its address.

    `settings` are the documented fields that are kept and shown but change nothing here.
    """

    registration_id: str
    primary: bytes
    secondary: bytes | None
    device_id: str | None
    enabled: bool
    hub: str | None
    initial_twin: dict[str, Any]
    settings: dict[str, Any]
    etag: str
    created: str
    updated: str


@dataclass(frozen=True, slots=True)
class Registration:
    """What DPS remembers of a registration. `requested` is unix seconds, `polls` how often it was asked for since."""

    registration_id: str
    status: Status
    operation_id: str
    requested: float
    created: str
    updated: str
    etag: str
    polls: int = 0
    hub: str | None = None
    device_id: str | None = None
    error_code: int = 0
    error_message: str = ""


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
        if match := re.fullmatch(r"polls=(\d{1,4})", text):
            return cls(polls=int(match[1]))
        if match := re.fullmatch(r"seconds=(\d{1,5}(?:\.\d{1,3})?)", text):
            return cls(seconds=float(match[1]))
        raise ValueError(f"{text!r} is no assignment policy: give immediately, polls=N or seconds=S")

    def done(self, registration: Registration, now: float) -> bool:
        return registration.polls > self.polls and now - registration.requested >= self.seconds


@dataclass(frozen=True, slots=True)
class Service:
    """This DPS: its ID scope, the linked hubs (identity -> address), and how it behaves where Azure is not settled."""

    id_scope: str
    hubs: Mapping[str, str]
    progress: Progress = field(default_factory=Progress)
    not_enrolled: Refusal = refusals.NOT_ENROLLED


@dataclass(frozen=True, slots=True)
class Session:
    """A device that DPS let in. `registration_id` is spelled as the device spelled it."""

    registration_id: str
    certificate: Description


@dataclass(frozen=True, slots=True)
class Assignment:
    """The identity that the assigned hub must hold. Thumbprints are SHA-256 in upper-case hex."""

    hub: str
    device_id: str
    primary_thumbprint: str
    secondary_thumbprint: str
    initial_twin: dict[str, Any]
    edge: bool


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


def admit(connect: mqtt.Connect, login: DpsLogin, certificate: Description | None, id_scope: str) -> Session:
    """Let a device in, or raise Refused. Whether it is enrolled is only looked at when it registers.

    The registration ID must equal the certificate's common name, whatever the case of the letters.
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
    if connect.has_will:
        raise Refused(refusals.NOT_EMULATED, feature="a Will", device=rid)
    if certificate is None:
        raise Refused(refusals.NO_CERTIFICATE, device=rid)
    common_name = certificate.common_name or ""
    if common_name.lower() != rid.lower():
        raise Refused(refusals.COMMON_NAME_DIFFERS, registration_id=rid, common_name=common_name)
    return Session(rid, certificate)


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
    enrollment: Enrollment | None,
    earlier: Registration | None,
    service: Service,
    stamp: Stamp,
) -> Outcome:
    """Start a registration. The answer is 202 with an operation to ask for, or at once 200 when disabled."""
    _check_body(session, body)
    enrolled = _authenticate(session, enrollment, service, stamp)
    registration = Registration(
        registration_id=enrolled.registration_id,
        status=Status.ASSIGNING,
        operation_id=_operation_id(enrolled.registration_id, service.id_scope, stamp),
        requested=stamp.now.timestamp(),
        created=earlier.created if earlier else stamp.text,
        updated=stamp.text,
        etag=stamp.etag,
    )
    if not enrolled.enabled:
        disabled = replace(registration, status=Status.DISABLED, operation_id="")
        refused = Refused(refusals.ENROLLMENT_DISABLED, registration_id=enrolled.registration_id)
        return Outcome(answer(disabled, service), disabled, refused=refused)
    accepted = Answer(202, _operation(registration), RETRY_AFTER)
    if service.progress == Progress():  # settled behind the 202: the first poll will say so
        return Outcome(accepted, *_settle(registration, session, enrolled, service, stamp))
    return Outcome(accepted, registration)


def poll(
    session: Session,
    operation_id: str,
    enrollment: Enrollment | None,
    registration: Registration | None,
    service: Service,
    stamp: Stamp,
) -> Outcome:
    """Say how the operation stands: 202 while assigning, then 200 with the state of the registration."""
    enrolled = _authenticate(session, enrollment, service, stamp)
    if registration is None or registration.operation_id != operation_id:
        raise Refused(refusals.UNKNOWN_OPERATION, registration_id=session.registration_id, operation_id=operation_id)
    if registration.status is not Status.ASSIGNING:
        return Outcome(answer(registration, service), registration)
    asked = replace(registration, polls=registration.polls + 1)
    if not service.progress.done(asked, stamp.now.timestamp()):
        return Outcome(answer(asked, service), asked)
    settled, assignment, refused = _settle(asked, session, enrolled, service, stamp)
    return Outcome(answer(settled, service), settled, assignment, refused)


def answer(registration: Registration, service: Service) -> Answer:
    """The answer to a poll: 202 with retry-after while assigning, else 200."""
    body = _operation(registration) | {"registrationState": state(registration, service.hubs)}
    if registration.status is Status.ASSIGNING:
        return Answer(202, body, RETRY_AFTER)
    return Answer(200, body)


def state(registration: Registration, hubs: Mapping[str, str]) -> dict[str, Any]:
    """`registrationState` as DPS shows it, names and order to the letter. A hub is named by its present address."""
    rid, status = registration.registration_id, str(registration.status)
    if registration.status in (Status.ASSIGNING, Status.DISABLED):
        return {"registrationId": rid, "status": status}
    dated = {"registrationId": rid, "createdDateTimeUtc": registration.created}
    ending = {"lastUpdatedDateTimeUtc": registration.updated, "etag": registration.etag}
    if registration.status is Status.FAILED:
        error = {"errorCode": registration.error_code, "errorMessage": registration.error_message}
        return dated | {"status": status} | error | ending
    assigned = {
        "assignedHub": hubs.get(registration.hub or "", ""),
        "deviceId": registration.device_id,
        "status": status,
        "substatus": "initialAssignment",
    }
    return {"x509": {}} | dated | assigned | ending


def _operation(registration: Registration) -> dict[str, Any]:
    return {"operationId": registration.operation_id, "status": str(registration.status)}


def _check_body(session: Session, body: bytes) -> None:
    """Clients send nothing, a blank, or an object that may name the registration again."""
    rid = session.registration_id
    if not body.strip():
        return
    try:
        document = documents.load(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise Refused(refusals.BAD_BODY, registration_id=rid)
    asked = document.get("registrationId", rid)
    if not isinstance(asked, str) or asked.lower() != rid.lower():
        raise Refused(refusals.OTHER_REGISTRATION_ID, registration_id=rid, asked=asked)


def _authenticate(session: Session, enrollment: Enrollment | None, service: Service, stamp: Stamp) -> Enrollment:
    """The certificate on the connection must be one of the enrollment's two, an end-entity one, and in date.

    https://learn.microsoft.com/azure/iot-dps/concepts-x509-attestation
    """
    rid, certificate = session.registration_id, session.certificate
    if enrollment is None:
        raise Refused(service.not_enrolled, registration_id=rid)
    if certificate.der not in (enrollment.primary, enrollment.secondary):
        raise Refused(refusals.OTHER_CERTIFICATE, registration_id=rid, thumbprint=certificate.thumbprint_sha256)
    if certificate.is_ca:
        raise Refused(refusals.CA_CERTIFICATE, registration_id=rid)
    if stamp.now > certificate.not_after:
        raise Refused(refusals.EXPIRED_CERTIFICATE, registration_id=rid, not_after=certificate.not_after)
    if stamp.now < certificate.not_before:
        raise Refused(refusals.FUTURE_CERTIFICATE, registration_id=rid, not_before=certificate.not_before)
    return enrollment


def _settle(
    registration: Registration, session: Session, enrollment: Enrollment, service: Service, stamp: Stamp
) -> tuple[Registration, Assignment | None, Refused | None]:
    """Bring a registration that is assigning to its end: assigned to a hub, or failed when there is none."""
    hub = enrollment.hub or next(iter(service.hubs), None)
    if hub is None or hub not in service.hubs:
        refused = Refused(refusals.NO_LINKED_HUB, registration_id=enrollment.registration_id)
        failed = replace(
            registration,
            status=Status.FAILED,
            error_code=refused.refusal.code,
            error_message=refused.refusal.text,
            updated=stamp.text,
        )
        return failed, None, refused
    device_id = enrollment.device_id or enrollment.registration_id
    assigned = replace(
        registration, status=Status.ASSIGNED, hub=hub, device_id=device_id, updated=stamp.text, etag=stamp.etag
    )
    primary, secondary = _thumbprints(session.certificate, enrollment)
    edge = bool(enrollment.settings.get("capabilities", {}).get("iotEdge", False))
    return assigned, Assignment(hub, device_id, primary, secondary, enrollment.initial_twin, edge), None


def _thumbprints(presented: Description, enrollment: Enrollment) -> tuple[str, str]:
    """The presented certificate comes first in the hub; the other enrolled one second, or the same again."""
    others = [der for der in (enrollment.primary, enrollment.secondary) if der and der != presented.der]
    second = sha256(others[0]).hexdigest().upper() if others else presented.thumbprint_sha256
    return presented.thumbprint_sha256, second


def _operation_id(registration_id: str, id_scope: str, stamp: Stamp) -> str:
    """`5.{16 hex digits that stay with the registration}.{guid}`, as seen in Azure's own examples."""
    digest = sha256(f"{id_scope}/{registration_id.lower()}".encode()).hexdigest()
    return f"5.{digest[:16]}.{stamp.guid}"
