"""Who may register, what a registration answers to the letter, and what it assigns."""

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, fields, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import combinations
from typing import Any

import pytest
from in_memory import leaf
from refused import refusal

from dpsx_helpers.certificates import Description, describe
from dpsx_helpers.emulator import dps, mqtt, refusals
from dpsx_helpers.emulator.attestation import Known, Session
from dpsx_helpers.emulator.dps import Assignment, Outcome, Progress, Service
from dpsx_helpers.emulator.records import Enrollment, Registration, Status
from dpsx_helpers.emulator.refusals import Refusal
from dpsx_helpers.emulator.stamps import Stamp
from dpsx_helpers.emulator.topics import DPS_RESPONSES, DpsLogin

# The device, the moment and the etag of https://learn.microsoft.com/azure/iot-dps/iot-dps-https-x509-support
RID = "my-x509-device"
NOW = datetime(2022, 8, 27, 17, 53, 19, 514349, tzinfo=UTC)
GUID = "120086f2-76fe-4341-9214-bb6cfb891b8a"
ETAG = "IjEyMDA4NmYyLTAwMDAtMDMwMC0wMDAwLTYzMGE1YTBmMDAwMCI="  # "120086f2-0000-0300-0000-630a5a0f0000"
ETAG_3_S_LATER = "IjEyMDA4NmYyLTAwMDAtMDMwMC0wMDAwLTYzMGE1YTEyMDAwMCI="  # "120086f2-0000-0300-0000-630a5a120000"
OPERATION = f"5.451004bdecb03f93.{GUID}"
SERVICE = Service("0ne00111111", {"first": "first.example", "second": "second.example"})
SLOW = replace(SERVICE, progress=Progress(polls=1))
SECOND = timedelta(seconds=1)


def certificate(common_name: str = RID, number: int = 1, *, ca: bool = False) -> Description:
    """A certificate that is in date at NOW; another number, another certificate."""
    return _certificate(common_name, number, ca)


@cache
def _certificate(common_name: str, number: int, ca: bool) -> Description:
    return describe(leaf(common_name, ca=ca, valid_from=NOW - datetime.now(UTC) - timedelta(hours=1)).der)


def enrollment(**changes: Any) -> Enrollment:
    plain = Enrollment(
        registration_id=RID,
        primary=certificate().der,
        secondary=None,
        device_id=None,
        enabled=True,
        hubs=("first",),
        initial_twin={},
        settings={},
        etag='"e"',
        created="then",
        updated="then",
    )
    return replace(plain, **changes)


def stamp(seconds: float = 0.0, guid: str = GUID) -> Stamp:
    return Stamp(NOW + timedelta(seconds=seconds), guid)


def begin(
    enrolled: Enrollment | None = None,
    *,
    presented: Description | None = None,
    body: bytes = b"",
    service: Service = SERVICE,
    earlier: Registration | None = None,
    at: Stamp | None = None,
    registration_id: str = RID,
) -> Outcome:
    """Register, by default the plain enrollment with its own certificate."""
    session = Session(registration_id, presented or certificate())
    return dps.register(session, body, Known(enrolled or enrollment()), earlier, service, at or stamp())


def ask(
    begun: Outcome,
    enrolled: Enrollment | None = None,
    *,
    presented: Description | None = None,
    service: Service = SERVICE,
    at: Stamp | None = None,
) -> Outcome:
    """Poll the operation of an earlier outcome."""
    registration = begun.registration
    session = Session(RID, presented or certificate())
    operation_id = registration.operation_id
    return dps.poll(session, operation_id, Known(enrolled or enrollment()), registration, service, at or stamp())


def assignment(outcome: Outcome) -> Assignment:
    assert outcome.assignment is not None
    return outcome.assignment


def as_sent(outcome: Outcome) -> str:
    """The body of an answer, in which the order of names counts too."""
    return json.dumps(outcome.answer.body, separators=(",", ":"))


# --- records ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        enrollment,
        lambda: begin().registration,
        Progress,
        lambda: SERVICE,
        lambda: Session(RID, certificate()),
        lambda: assignment(begin()),
        lambda: begin().answer,
        begin,
    ],
)
def test_a_record_cannot_be_changed_nor_get_more_fields(make: Callable[[], Any]) -> None:
    record = make()
    with pytest.raises(FrozenInstanceError):
        setattr(record, fields(record)[0].name, None)
    assert not hasattr(record, "__dict__")


def test_a_registration_has_the_documented_states() -> None:
    """But for unassigned, in which none ever is here."""
    assert [*Status] == ["assigning", "assigned", "failed", "disabled"]


def test_a_service_settles_at_once_and_answers_401_unless_told_otherwise() -> None:
    service = Service("0ne00111111", {})
    assert (service.progress, service.not_enrolled) == (Progress(0, 0.0), refusals.NOT_ENROLLED)


# --- CONNECT ----------------------------------------------------------------------------------------------------------


def admit(
    *,
    api_version: str = "2019-03-31",
    id_scope: str = "0ne00111111",
    registration_id: str = RID,
    client_id: str = RID,
    will: mqtt.Will | None = None,
    password: str | None = None,
    presented: Description | None,
) -> Session:
    connect = mqtt.Connect(client_id, "user", 60, clean_session=False, will=will, password=password)
    return dps.admit(connect, DpsLogin(id_scope, registration_id, api_version), presented, "0ne00111111")


# What can be wrong with a CONNECT, in the order in which it is looked for.
WRONG_CONNECTS: list[tuple[Refusal, dict[str, Any], str]] = [
    (
        refusals.UNKNOWN_API_VERSION,
        {"api_version": "2019-03-32"},
        "the user name asks for api-version '2019-03-32', which is none that the service has had",
    ),
    (
        refusals.UNKNOWN_ID_SCOPE,
        {"id_scope": "None"},
        "the device asked for ID scope 'None'; this DPS has '0ne00111111'",
    ),
    (refusals.BAD_REGISTRATION_ID, {"registration_id": "dot."}, "'dot.' is no registration ID"),
    (
        refusals.CLIENT_ID_DIFFERS,
        {"client_id": "other"},
        "the MQTT ClientId is 'other', the registration ID in the user name is 'my-x509-device'",
    ),
    (
        refusals.NOT_EMULATED,
        {"will": mqtt.Will("topic", b"gone", 0, False)},
        "limit of this emulator, not of Azure: a Will on a connection to DPS (asked for by 'my-x509-device') is not "
        "emulated in this version",
    ),
    (refusals.NO_CERTIFICATE, {"presented": None}, "the device 'my-x509-device' sent no client certificate"),
    (
        refusals.COMMON_NAME_DIFFERS,
        {"presented": certificate("someone-else")},
        "the registration ID is 'my-x509-device', the certificate's subject says CN='someone-else'",
    ),
]


def test_a_device_with_its_own_certificate_is_let_in() -> None:
    assert admit(presented=certificate()) == Session(RID, certificate())


@pytest.mark.parametrize(("row", "wrong", "reason"), WRONG_CONNECTS, ids=lambda value: getattr(value, "name", ""))
def test_a_wrong_connect_is_refused_with_its_reason(row: Refusal, wrong: dict[str, Any], reason: str) -> None:
    assert refusal(lambda: admit(**{"presented": certificate(), **wrong})) == (row, reason)


@pytest.mark.parametrize(("first", "second"), [*combinations(WRONG_CONNECTS, 2)], ids=lambda case: case[0].name)
def test_of_two_wrongs_in_a_connect_the_first_counts(
    first: tuple[Refusal, dict[str, Any], str], second: tuple[Refusal, dict[str, Any], str]
) -> None:
    both = {"presented": certificate(), **second[1], **first[1]}
    assert refusal(lambda: admit(**both))[0] is first[0]


@pytest.mark.parametrize(
    "version",
    [
        "2017-08-31-preview",
        "2017-11-15",
        "2018-04-01",
        "2018-09-01-preview",
        "2018-11-01",
        "2019-01-15-preview",
        "2019-03-31",
        "2019-04-15",
        "2020-09-01-preview",
        "2021-06-01",
        "2021-10-01",
        "2021-11-01-preview",
        "2023-02-01-preview",
        "2025-07-01-preview",
    ],
)
def test_every_api_version_that_was_public_is_accepted(version: str) -> None:
    assert admit(api_version=version, presented=certificate()).registration_id == RID


@pytest.mark.parametrize("version", ["", "2021-04-12", "2019-03-31-preview", "2019-03-31 "])
def test_another_api_version_is_not(version: str) -> None:
    assert refusal(lambda: admit(api_version=version, presented=certificate()))[0] is refusals.UNKNOWN_API_VERSION


@pytest.mark.parametrize("id_scope", ["", "0NE00111111", "0ne0011111", "0ne001111111"])
def test_an_id_scope_compares_to_the_letter(id_scope: str) -> None:
    assert refusal(lambda: admit(id_scope=id_scope, presented=certificate()))[0] is refusals.UNKNOWN_ID_SCOPE


@pytest.mark.parametrize("registration_id", [RID, RID.upper(), "My-X509-Device"])
@pytest.mark.parametrize("client_id", [RID, RID.upper()])
@pytest.mark.parametrize("common_name", [RID, RID.upper()])
def test_names_compare_without_regard_to_case_and_stay_as_the_device_spelled_them(
    registration_id: str, client_id: str, common_name: str
) -> None:
    presented = certificate(common_name)
    session = admit(registration_id=registration_id, client_id=client_id, presented=presented)
    assert session == Session(registration_id, presented)


@pytest.mark.parametrize(
    "registration_id",
    ["a", "Z", "0", "-", "a-", ".a", "_a", ":a", "-a", "AZaz09-._:x", "a" * 128, "." * 127 + "9"],
)
def test_a_registration_id_may_have_128_letters_digits_and_four_signs(registration_id: str) -> None:
    presented = replace(certificate(), common_name=registration_id)  # longer than a certificate could have it
    session = admit(registration_id=registration_id, client_id=registration_id, presented=presented)
    assert session.registration_id == registration_id


@pytest.mark.parametrize(
    "registration_id",
    [
        "",
        "a" * 129,
        "a.",
        "a_",
        "a:",
        ".",
        "a b",
        "a/b",
        "a+b",
        "a@b",
        "a\n",
        "\na",
        "ä",
        "aä",
        "٣",
        "a,b",
        "a[b",
        "a`b",
    ],
)
def test_anything_else_is_no_registration_id(registration_id: str) -> None:
    presented = replace(certificate(), common_name=registration_id)
    found = refusal(lambda: admit(registration_id=registration_id, client_id=registration_id, presented=presented))
    assert found[0] is refusals.BAD_REGISTRATION_ID


def test_a_certificate_without_a_common_name_names_nobody() -> None:
    row, reason = refusal(lambda: admit(presented=replace(certificate(), common_name=None)))
    assert row is refusals.COMMON_NAME_DIFFERS
    assert reason.endswith("says CN=''")


# --- SUBSCRIBE and PUBLISH --------------------------------------------------------------------------------------------


def test_qos_2_is_granted_as_1() -> None:
    packet = mqtt.Subscribe(1, tuple((DPS_RESPONSES, qos) for qos in (0, 1, 2)))
    assert dps.subscribe(Session(RID, certificate()), packet, DPS_RESPONSES) == [0, 1, 1]


@pytest.mark.parametrize("topic", ["#", "$dps/#", "$dps/registrations/res/+", "$dps/registrations/res/200/#", ""])
@pytest.mark.parametrize("position", [0, 1])
def test_no_filter_but_the_documented_one_is_granted(topic: str, position: int) -> None:
    filters = [(DPS_RESPONSES, 1)]
    filters.insert(position, (topic, 1))
    packet = mqtt.Subscribe(1, tuple(filters))
    assert refusal(lambda: dps.subscribe(Session(RID, certificate()), packet, DPS_RESPONSES)) == (
        refusals.UNKNOWN_FILTER,
        f"'my-x509-device' asked for the topic filter {topic!r}, which the service does not have",
    )


def check_publish(size: int = 0, *, qos: int = 1, subscribed: bool = True) -> None:
    packet = mqtt.Publish("topic", b"x" * size, qos, None)
    dps.check_publish(Session(RID, certificate()), packet, subscribed=subscribed)


@pytest.mark.parametrize("qos", [0, 1])
def test_a_request_may_have_96_kb(qos: int) -> None:
    check_publish(98_304, qos=qos)
    assert refusal(lambda: check_publish(98_305, qos=qos)) == (
        refusals.TOO_LARGE,
        "'my-x509-device' sent a message of 98305 bytes; the limit is 98304",
    )


def test_a_request_at_qos_2_is_refused() -> None:
    assert refusal(lambda: check_publish(qos=2)) == (refusals.QOS_2, "'my-x509-device' published at QoS 2")


def test_a_request_before_the_subscription_is_refused() -> None:
    assert refusal(lambda: check_publish(subscribed=False)) == (
        refusals.NOT_SUBSCRIBED,
        "'my-x509-device' published a request before it subscribed to the answers",
    )


def test_of_several_wrongs_in_a_request_the_first_counts() -> None:
    assert refusal(lambda: check_publish(98_305, qos=2, subscribed=False))[0] is refusals.QOS_2
    assert refusal(lambda: check_publish(98_305, subscribed=False))[0] is refusals.TOO_LARGE


# --- the body of a register -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"\r\n\t ",
        b"{}",
        b'{"payload": null, "registrationId": "my-x509-device"}',
        b'{"registrationId":"MY-X509-DEVICE"}',
        b'{"payload":{"deep":[1]},"csr":null}',
        b' {"registrationId":"my-x509-device"}\n',
    ],
)
@pytest.mark.parametrize("registration_id", [RID, RID.upper()])
def test_a_body_may_be_missing_blank_or_name_the_registration(body: bytes, registration_id: str) -> None:
    assert begin(body=body, registration_id=registration_id).answer.status == 202


@pytest.mark.parametrize(
    "body", [b"[]", b"null", b"7", b'"my-x509-device"', b"{", b"{}{}", b"\xff\xfe", b"\x00", b"[" * 90_000]
)
def test_a_body_that_is_no_json_object_is_a_bad_request(body: bytes) -> None:
    assert refusal(lambda: begin(body=body)) == (
        refusals.BAD_BODY,
        "the body of the registration request of 'my-x509-device' is not a JSON object",
    )


@pytest.mark.parametrize(
    ("named", "shown"), [("other", "'other'"), ("", "''"), (7, "7"), (None, "None"), ([RID], f"['{RID}']")]
)
def test_a_body_that_names_another_registration_is_a_bad_request(named: Any, shown: str) -> None:
    assert refusal(lambda: begin(body=json.dumps({"registrationId": named}).encode())) == (
        refusals.OTHER_REGISTRATION_ID,
        f"the connection belongs to 'my-x509-device', the body asks to register {shown}",
    )


@pytest.mark.parametrize(
    ("sent", "kept"), [("null", None), ("0", 0), ('{"deep":[1]}', {"deep": [1]}), ('"text"', "text")]
)
def test_what_the_device_sends_along_is_kept(sent: str, kept: Any) -> None:
    assert begin(body=f'{{"payload":{sent}}}'.encode()).registration.payload == kept


def test_a_request_for_a_certificate_is_refused_as_a_limit_of_the_emulator() -> None:
    row, reason = refusal(lambda: begin(body=b'{"csr":"MIIB"}'))
    assert (row, row.status) == (refusals.CSR_REFUSED, 400)
    assert reason.startswith("limit of this emulator, not of Azure: 'my-x509-device' asks for a certificate")


def test_a_bad_body_counts_before_the_certificate() -> None:
    session = Session(RID, certificate())
    assert refusal(lambda: dps.register(session, b"[]", Known(), None, SERVICE, stamp()))[0] is refusals.BAD_BODY


# --- the certificate --------------------------------------------------------------------------------------------------


def attempt(verb: str, enrolled: Enrollment | None, presented: Description, service: Service = SERVICE) -> Outcome:
    """Register, or poll an operation that is under way."""
    session = Session(RID, presented)
    if verb == "register":
        return dps.register(session, b"", Known(enrolled), None, service, stamp())
    return dps.poll(session, OPERATION, Known(enrolled), begin(service=SLOW).registration, service, stamp())


# What can be wrong with a certificate, in the order in which it is looked for: row, change of the enrollment (None
# takes it away), change of the certificate, reason.
WRONG_CERTIFICATES: list[tuple[Refusal, dict[str, Any] | None, dict[str, Any], str]] = [
    (refusals.NOT_ENROLLED, None, {}, "there is no enrollment for registration ID 'my-x509-device'"),
    (
        refusals.OTHER_CERTIFICATE,
        {"primary": certificate(number=2).der, "secondary": certificate(number=3).der},
        {},
        f"the device 'my-x509-device' presented the certificate '{certificate().thumbprint_sha256}', which is neither "
        "the primary nor the secondary one of its enrollment",
    ),
    (
        refusals.CA_CERTIFICATE,
        {},
        {"is_ca": True},
        "the certificate of 'my-x509-device' is a CA certificate (basic constraints CA:TRUE)",
    ),
    (
        refusals.EXPIRED_CERTIFICATE,
        {},
        {"not_after": NOW - SECOND},
        "the certificate of 'my-x509-device' expired at 2022-08-27 17:53:18.514349+00:00",
    ),
    (
        refusals.FUTURE_CERTIFICATE,
        {},
        {"not_before": NOW + SECOND},
        "the certificate of 'my-x509-device' is not valid before 2022-08-27 17:53:20.514349+00:00",
    ),
]


def wrong_attempt(verb: str, changes: list[dict[str, Any] | None], presented: dict[str, Any]) -> Outcome:
    enrolled: Enrollment | None = enrollment()
    for change in changes:
        enrolled = None if change is None or enrolled is None else replace(enrolled, **change)
    return attempt(verb, enrolled, replace(certificate(), **presented))


@pytest.mark.parametrize("verb", ["register", "poll"])
@pytest.mark.parametrize(
    ("row", "change", "presented", "reason"), WRONG_CERTIFICATES, ids=lambda value: getattr(value, "name", "")
)
def test_a_certificate_that_is_not_wanted_is_refused_with_its_reason(
    verb: str, row: Refusal, change: dict[str, Any] | None, presented: dict[str, Any], reason: str
) -> None:
    assert refusal(lambda: wrong_attempt(verb, [change], presented)) == (row, reason)


@pytest.mark.parametrize("verb", ["register", "poll"])
@pytest.mark.parametrize(("first", "second"), [*combinations(WRONG_CERTIFICATES, 2)], ids=lambda case: case[0].name)
def test_of_two_wrongs_of_a_certificate_the_first_counts(verb: str, first: Any, second: Any) -> None:
    found = refusal(lambda: wrong_attempt(verb, [second[1], first[1]], {**second[2], **first[2]}))
    assert found[0] is first[0]


@pytest.mark.parametrize("verb", ["register", "poll"])
def test_who_is_not_enrolled_may_get_404_instead(verb: str) -> None:
    service = replace(SERVICE, not_enrolled=refusals.NOT_ENROLLED_404)
    assert refusal(lambda: attempt(verb, None, certificate(), service)) == (
        refusals.NOT_ENROLLED_404,
        "there is no enrollment for registration ID 'my-x509-device'",
    )


@pytest.mark.parametrize("verb", ["register", "poll"])
def test_a_ca_certificate_is_refused_though_it_is_enrolled(verb: str) -> None:
    authority = certificate(ca=True)
    assert refusal(lambda: attempt(verb, enrollment(primary=authority.der), authority))[0] is refusals.CA_CERTIFICATE


@pytest.mark.parametrize("verb", ["register", "poll"])
@pytest.mark.parametrize("edge", ["not_before", "not_after"])
def test_a_certificate_is_good_from_its_first_to_its_last_moment(verb: str, edge: str) -> None:
    presented = replace(certificate(), **{edge: NOW})  # type: ignore[arg-type]
    assert attempt(verb, enrollment(), presented).answer.status in (200, 202)


@pytest.mark.parametrize("verb", ["register", "poll"])
@pytest.mark.parametrize("number", [1, 2])
def test_either_certificate_of_an_enrollment_opens(verb: str, number: int) -> None:
    enrolled = enrollment(secondary=certificate(number=2).der)
    outcome = attempt(verb, enrolled, certificate(number=number))
    assert outcome.registration.status is Status.ASSIGNED


# --- register ---------------------------------------------------------------------------------------------------------


def test_a_register_is_answered_with_an_operation_to_ask_for() -> None:
    outcome = begin()
    assert (outcome.answer.status, outcome.answer.retry_after) == (202, 3)
    assert as_sent(outcome) == f'{{"operationId":"{OPERATION}","status":"assigning"}}'
    assert outcome.refused is None


def test_a_new_registration_is_remembered_as_assigning() -> None:
    outcome = begin(service=SLOW)
    assert asdict(outcome.registration) == {
        "registration_id": RID,
        "status": "assigning",
        "operation_id": OPERATION,
        "requested": 1661622799.514349,
        "created": "2022-08-27T17:53:19.5143490Z",
        "updated": "2022-08-27T17:53:19.5143490Z",
        "etag": ETAG,
        "polls": 0,
        "hub": None,
        "device_id": None,
        "substatus": "initialAssignment",
        "group_id": None,
        "payload": None,
        "held_until": 0.0,
        "error_code": 0,
        "error_message": "",
    }
    assert (outcome.assignment, outcome.refused) == (None, None)


def test_a_registration_is_spelled_as_its_enrollment() -> None:
    outcome = begin(enrollment(registration_id="My-X509-Device"), registration_id=RID.upper())
    assert outcome.registration.registration_id == "My-X509-Device"
    assert assignment(outcome).device_id == "My-X509-Device"


def test_the_first_part_of_an_operation_stays_with_the_registration() -> None:
    def first_part(rid: str, service: Service = SERVICE, guid: str = GUID) -> str:
        outcome = begin(enrollment(registration_id=rid), service=service, at=stamp(guid=guid))
        return outcome.registration.operation_id.removesuffix(f".{guid}")

    usual = first_part(RID)
    assert first_part(RID.upper(), guid="00000000-1111-2222-3333-444444444444") == usual
    assert first_part("another") != usual
    assert first_part(RID, replace(SERVICE, id_scope="0ne00222222")) != usual


def test_a_second_register_starts_anew_but_keeps_the_day_of_the_first() -> None:
    earlier = ask(ask(begin(service=SLOW), service=SLOW), service=SLOW).registration
    assert (earlier.status, earlier.polls) == (Status.ASSIGNED, 2)
    guid = "99999999-76fe-4341-9214-bb6cfb891b8a"
    again = begin(service=SLOW, earlier=earlier, at=stamp(3, guid)).registration
    assert again == replace(
        begin(service=SLOW).registration,
        operation_id=f"5.451004bdecb03f93.{guid}",
        requested=1661622802.514349,
        created="2022-08-27T17:53:19.5143490Z",
        updated="2022-08-27T17:53:22.5143490Z",
        etag=stamp(3, guid).etag,
        hub=earlier.hub,
        device_id=RID,
    )


def test_a_disabled_enrollment_is_answered_at_once() -> None:
    outcome = begin(enrollment(enabled=False))
    assert (outcome.answer.status, outcome.answer.retry_after) == (200, None)
    assert as_sent(outcome) == (
        '{"operationId":"","status":"disabled",'
        '"registrationState":{"registrationId":"my-x509-device","status":"disabled"}}'
    )
    assert outcome.registration == replace(begin(service=SLOW).registration, status=Status.DISABLED, operation_id="")
    assert outcome.assignment is None
    assert outcome.refused is not None
    assert outcome.refused.refusal is refusals.ENROLLMENT_DISABLED
    assert outcome.refused.reason == "the enrollment 'my-x509-device' of 'my-x509-device' is disabled"


@pytest.mark.parametrize("service", [SERVICE, SLOW])
def test_a_disabled_enrollment_is_disabled_whatever_the_policy(service: Service) -> None:
    assert begin(enrollment(enabled=False), service=service).registration.status is Status.DISABLED


def test_a_certificate_counts_before_a_disabled_enrollment() -> None:
    other = certificate(number=2)
    assert refusal(lambda: begin(enrollment(enabled=False), presented=other))[0] is refusals.OTHER_CERTIFICATE


# --- how long it takes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "progress"),
    [
        ("immediately", Progress(0, 0.0)),
        ("polls=0", Progress(0, 0.0)),
        ("polls=1", Progress(1, 0.0)),
        ("polls=9999", Progress(9999, 0.0)),
        ("seconds=0", Progress(0, 0.0)),
        ("seconds=7", Progress(0, 7.0)),
        ("seconds=2.5", Progress(0, 2.5)),
        ("seconds=99999.999", Progress(0, 99999.999)),
    ],
)
def test_an_assignment_policy_is_read(text: str, progress: Progress) -> None:
    assert Progress.parse(text) == progress


@pytest.mark.parametrize(
    "text",
    [
        "polls=",
        "polls=-1",
        "polls=10000",
        "polls=1.5",
        "polls=x",
        "seconds=",
        "seconds=-1",
        "seconds=100000",
        "seconds=1.",
        "seconds=1.2345",
        "seconds=.5",
        "seconds=1e3",
        "seconds=nan",
        "Immediately",
        "immediately,",
        "polls=1,seconds=1",
        "1",
        "",
        " polls=1",
        "polls=1\n",
        "seconds=1\n",
    ],
)
def test_anything_else_is_no_assignment_policy(text: str) -> None:
    with pytest.raises(ValueError, match="assignment policy") as caught:
        Progress.parse(text)
    assert str(caught.value) == f"{text!r} is no assignment policy: give immediately, polls=N or seconds=S"


@pytest.mark.parametrize("polls", [0, 1, 3])
def test_so_many_polls_are_told_to_wait_before_one_is_answered(polls: int) -> None:
    service = replace(SERVICE, progress=Progress(polls=polls))
    outcome, answers = begin(service=service), []
    for _ in range(polls + 1):
        outcome = ask(outcome, service=service)
        answers.append((outcome.answer.status, outcome.answer.retry_after))
    assert answers == [(202, 3)] * polls + [(200, None)]


@pytest.mark.parametrize(("seconds", "status"), [(0, 202), (4.999, 202), (5, 200), (6, 200)])
def test_seconds_count_from_the_register(seconds: float, status: int) -> None:
    service = replace(SERVICE, progress=Progress(seconds=5))
    waiting = ask(begin(service=service), service=service, at=stamp(1))
    assert waiting.answer.status == 202
    assert ask(waiting, service=service, at=stamp(seconds)).answer.status == status


def test_polls_and_seconds_must_both_be_over() -> None:
    service = replace(SERVICE, progress=Progress(polls=1, seconds=5))
    begun = begin(service=service)
    assert ask(begun, service=service, at=stamp(9)).answer.status == 202
    asked = ask(begun, service=service, at=stamp(1))
    assert ask(asked, service=service, at=stamp(4)).answer.status == 202
    assert ask(asked, service=service, at=stamp(5)).answer.status == 200


# --- poll -------------------------------------------------------------------------------------------------------------


def test_a_poll_while_assigning_says_so() -> None:
    begun = begin(service=SLOW)
    outcome = ask(begun, service=SLOW, at=stamp(3))
    assert (outcome.answer.status, outcome.answer.retry_after) == (202, 3)
    assert as_sent(outcome) == (
        f'{{"operationId":"{OPERATION}","status":"assigning",'
        '"registrationState":{"registrationId":"my-x509-device","status":"assigning"}}'
    )
    assert outcome.registration == replace(begun.registration, polls=1)
    assert (outcome.assignment, outcome.refused) == (None, None)


def test_a_poll_of_an_assigned_registration_shows_the_documented_result() -> None:
    outcome = ask(begin(), at=stamp(3))
    assert (outcome.answer.status, outcome.answer.retry_after) == (200, None)
    assert as_sent(outcome) == (
        f'{{"operationId":"{OPERATION}","status":"assigned",'
        '"registrationState":{"x509":{},"registrationId":"my-x509-device",'
        '"createdDateTimeUtc":"2022-08-27T17:53:19.5143490Z","assignedHub":"first.example",'
        '"deviceId":"my-x509-device","status":"assigned","substatus":"initialAssignment",'
        f'"lastUpdatedDateTimeUtc":"2022-08-27T17:53:19.5143490Z","etag":"{ETAG}"}}}}'
    )


def test_a_registration_that_took_a_while_shows_when_it_was_assigned() -> None:
    begun = begin(service=SLOW)
    outcome = ask(ask(begun, service=SLOW, at=stamp(2)), service=SLOW, at=stamp(3))
    assert outcome.registration == replace(
        begun.registration,
        status=Status.ASSIGNED,
        polls=2,
        hub="first",
        device_id=RID,
        updated="2022-08-27T17:53:22.5143490Z",
        etag=ETAG_3_S_LATER,
    )
    shown = outcome.answer.body["registrationState"]
    assert shown["createdDateTimeUtc"] == "2022-08-27T17:53:19.5143490Z"
    assert shown["lastUpdatedDateTimeUtc"] == "2022-08-27T17:53:22.5143490Z"
    assert shown["etag"] == ETAG_3_S_LATER
    assert outcome.assignment is not None
    assert outcome.refused is None


def test_asking_again_changes_nothing() -> None:
    settled = begin().registration
    outcome = ask(begin(), at=stamp(60))
    assert (outcome.registration, outcome.assignment, outcome.refused) == (settled, None, None)


@pytest.mark.parametrize("operation_id", ["", "5.451004bdecb03f93.other", OPERATION.upper(), f"{OPERATION} "])
@pytest.mark.parametrize("service", [SERVICE, SLOW])
def test_an_operation_that_is_not_the_latest_is_not_found(operation_id: str, service: Service) -> None:
    session, registration = Session(RID, certificate()), begin(service=service).registration
    assert refusal(lambda: dps.poll(session, operation_id, Known(enrollment()), registration, service, stamp())) == (
        refusals.UNKNOWN_OPERATION,
        f"'my-x509-device' asked for operation {operation_id!r}, which is not its latest one",
    )


def test_an_operation_of_a_registration_that_is_gone_is_not_found() -> None:
    session = Session(RID, certificate())
    found = refusal(lambda: dps.poll(session, OPERATION, Known(enrollment()), None, SERVICE, stamp()))
    assert found[0] is refusals.UNKNOWN_OPERATION


def test_the_operation_of_another_registration_is_not_found() -> None:
    session, other = Session(RID, certificate()), begin(enrollment(registration_id="another"))
    operation_id, mine = other.registration.operation_id, begin().registration
    found = refusal(lambda: dps.poll(session, operation_id, Known(enrollment()), mine, SERVICE, stamp()))
    assert found[0] is refusals.UNKNOWN_OPERATION


def test_the_operation_before_the_latest_is_not_found() -> None:
    first = begin(service=SLOW)
    second = begin(service=SLOW, earlier=first.registration, at=stamp(1, "99999999-76fe-4341-9214-bb6cfb891b8a"))
    session, operation_id = Session(RID, certificate()), first.registration.operation_id
    found = refusal(lambda: dps.poll(session, operation_id, Known(enrollment()), second.registration, SLOW, stamp(2)))
    assert found[0] is refusals.UNKNOWN_OPERATION


def test_the_certificate_counts_before_the_operation() -> None:
    session = Session(RID, certificate())
    assert refusal(lambda: dps.poll(session, "x", Known(), None, SERVICE, stamp()))[0] is refusals.NOT_ENROLLED


def test_an_enrollment_that_is_disabled_meanwhile_decides_until_the_device_is_assigned() -> None:
    off = enrollment(enabled=False)
    asked = ask(begin(service=SLOW), off, service=SLOW)
    assert (asked.answer.status, asked.answer.body["status"]) == (200, "disabled")
    assert (asked.registration.status, asked.assignment) == (Status.DISABLED, None)
    assert ask(begin(), off).registration.status is Status.ASSIGNED


def test_a_device_whose_certificate_left_the_enrollment_cannot_ask() -> None:
    rolled = enrollment(primary=certificate(number=2).der)
    assert refusal(lambda: ask(begin(), rolled))[0] is refusals.OTHER_CERTIFICATE
    assert ask(begin(), rolled, presented=certificate(number=2)).answer.status == 200


# --- what is assigned -------------------------------------------------------------------------------------------------


def test_an_assignment_carries_all_that_the_hub_must_hold() -> None:
    twin = {"tags": {"room": "lab"}, "properties": {"desired": {"interval": 5}}}
    enrolled = enrollment(
        secondary=certificate(number=2).der,
        device_id="thermostat:7",
        hubs=("second",),
        initial_twin=twin,
        settings={"capabilities": {"iotEdge": True}},
    )
    outcome = begin(enrolled)
    assert outcome.assignment == Assignment(
        hub="second",
        device_id="thermostat:7",
        primary_thumbprint=certificate().thumbprint_sha256,
        secondary_thumbprint=certificate(number=2).thumbprint_sha256,
        initial_twin=twin,
        edge=True,
    )
    assert outcome.registration == replace(
        begin(service=SLOW).registration, status=Status.ASSIGNED, hub="second", device_id="thermostat:7"
    )


def test_a_poll_assigns_the_same_as_a_register() -> None:
    enrolled = enrollment(secondary=certificate(number=2).der, device_id="thermostat:7", hubs=("second",))
    polled = ask(ask(begin(enrolled, service=SLOW), enrolled, service=SLOW), enrolled, service=SLOW)
    assert polled.assignment == begin(enrolled).assignment
    assert polled.answer.body["registrationState"]["assignedHub"] == "second.example"
    assert polled.answer.body["registrationState"]["deviceId"] == "thermostat:7"


@pytest.mark.parametrize(
    ("settings", "edge"),
    [({}, False), ({"capabilities": {}}, False), ({"capabilities": {"iotEdge": False}}, False),
     ({"capabilities": {"iotEdge": True}}, True)],
)  # fmt: skip
def test_an_edge_device_is_marked(settings: dict[str, Any], edge: bool) -> None:
    assert assignment(begin(enrollment(settings=settings))).edge is edge


@pytest.mark.parametrize(
    ("secondary", "presented", "thumbprints"),
    [(None, 1, (1, 1)), (1, 1, (1, 1)), (2, 1, (1, 2)), (2, 2, (2, 1))],
)
def test_the_presented_certificate_comes_first_in_the_hub(
    secondary: int | None, presented: int, thumbprints: tuple[int, int]
) -> None:
    enrolled = enrollment(secondary=certificate(number=secondary).der if secondary else None)
    assigned = assignment(begin(enrolled, presented=certificate(number=presented)))
    expected = tuple(certificate(number=number).thumbprint_sha256 for number in thumbprints)
    assert (assigned.primary_thumbprint, assigned.secondary_thumbprint) == expected
    assert all(len(text) == 64 and text == text.upper() for text in expected)


def test_the_certificate_that_asks_last_is_the_one_that_comes_first() -> None:
    enrolled = enrollment(secondary=certificate(number=2).der)
    waiting = ask(begin(enrolled, service=SLOW), enrolled, service=SLOW)
    assigned = assignment(ask(waiting, enrolled, presented=certificate(number=2), service=SLOW))
    assert assigned.primary_thumbprint == certificate(number=2).thumbprint_sha256
    assert assigned.secondary_thumbprint == certificate().thumbprint_sha256


@pytest.mark.parametrize("policy", ["static", "geoLatency"])
@pytest.mark.parametrize(
    ("named", "hub"), [((), "first"), (("second", "first"), "second"), (("third", "second"), "second")]
)
def test_these_policies_take_the_first_linked_hub_that_the_enrollment_allows(
    policy: str, named: tuple[str, ...], hub: str
) -> None:
    assert assignment(begin(enrollment(hubs=named, settings={"allocationPolicy": policy}))).hub == hub


@pytest.mark.parametrize("settings", [{}, {"allocationPolicy": "hashed"}])
def test_hashed_spreads_devices_evenly_and_always_the_same_way(settings: dict[str, Any]) -> None:
    def hub_of(number: int, hubs: dict[str, str]) -> str:
        name = f"device-{number}"
        session, enrolled = Session(name, certificate(name)), enrollment(hubs=(), settings=settings)
        enrolled = replace(enrolled, registration_id=name, primary=certificate(name).der)
        service = replace(SERVICE, hubs=hubs)
        return assignment(dps.register(session, b"", Known(enrolled), None, service, stamp())).hub

    forwards = [hub_of(number, dict(SERVICE.hubs)) for number in range(60)]
    backwards = [hub_of(number, dict(reversed(SERVICE.hubs.items()))) for number in range(60)]
    assert forwards == backwards
    assert 15 < forwards.count("first") < 45
    only = [hub_of(number, {"second": "second.example"}) for number in range(3)]
    assert only == ["second"] * 3


def test_a_hub_is_shown_by_the_address_that_it_has_now() -> None:
    begun = begin()
    moved = replace(SERVICE, hubs={"first": "moved.example"})
    assert ask(begun, service=moved).answer.body["registrationState"]["assignedHub"] == "moved.example"
    gone = replace(SERVICE, hubs={"second": "second.example"})
    assert ask(begun, service=gone).answer.body["registrationState"]["assignedHub"] == ""


# --- no hub -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("named", "hubs"), [((), {}), (("third",), {"first": "first.example"}), (("first",), {})])
@pytest.mark.parametrize("polls", [0, 1])
def test_without_its_hub_a_registration_fails(named: tuple[str, ...], hubs: dict[str, str], polls: int) -> None:
    service, enrolled = Service("0ne00111111", hubs, Progress(polls=polls)), enrollment(hubs=named)
    outcome = begin(enrolled, service=service)
    assert (outcome.answer.status, outcome.answer.body["status"]) == (202, "assigning")
    for _ in range(polls * 2):
        outcome = ask(outcome, enrolled, service=service)
    assert outcome.assignment is None
    assert outcome.refused is not None
    assert outcome.refused.refusal is refusals.NO_LINKED_HUB
    assert outcome.refused.reason == "no IoT hub that 'my-x509-device' may go to is linked to this DPS"
    assert outcome.registration == replace(
        begin(service=SLOW).registration,
        status=Status.FAILED,
        polls=polls * 2,
        error_code=400208,
        error_message="IoT Hub not found.",
    )


def test_a_poll_of_a_failed_registration_shows_the_documented_result() -> None:
    service = replace(SERVICE, hubs={})
    outcome = ask(begin(service=service), service=service, at=stamp(3))
    assert (outcome.answer.status, outcome.answer.retry_after) == (200, None)
    assert as_sent(outcome) == (
        f'{{"operationId":"{OPERATION}","status":"failed",'
        '"registrationState":{"registrationId":"my-x509-device",'
        '"createdDateTimeUtc":"2022-08-27T17:53:19.5143490Z","status":"failed","errorCode":400208,'
        '"errorMessage":"IoT Hub not found.","lastUpdatedDateTimeUtc":"2022-08-27T17:53:19.5143490Z",'
        f'"etag":"{ETAG}"}}}}'
    )


def test_a_registration_that_took_a_while_shows_when_it_failed() -> None:
    service = replace(SLOW, hubs={})
    outcome = ask(ask(begin(service=service), service=service, at=stamp(2)), service=service, at=stamp(3))
    shown = outcome.answer.body["registrationState"]
    assert shown["createdDateTimeUtc"] == "2022-08-27T17:53:19.5143490Z"
    assert shown["lastUpdatedDateTimeUtc"] == "2022-08-27T17:53:22.5143490Z"


def test_a_failed_registration_stays_failed_until_the_device_registers_again() -> None:
    failed = begin(service=replace(SERVICE, hubs={}))
    assert ask(failed).registration == failed.registration
    assert begin(earlier=failed.registration).registration.status is Status.ASSIGNED


# --- a device that registers again ------------------------------------------------------------------------------------

MOVE_AND_MIGRATE = {"reprovisionPolicy": {"updateHubAssignment": True, "migrateDeviceData": True}}
MOVE_AND_RESET = {"reprovisionPolicy": {"updateHubAssignment": True, "migrateDeviceData": False}}
NEVER = {"reprovisionPolicy": {"updateHubAssignment": False, "migrateDeviceData": False}}


def again(settings: dict[str, Any], *, hub: str, service: Service = SERVICE, **changes: Any) -> Outcome:
    """A device that was assigned to the first hub registers again, and its enrollment names `hub` now."""
    first = begin(service=service)
    while first.registration.status is Status.ASSIGNING:
        first = ask(first, service=service)
    enrolled = enrollment(hubs=(hub,), settings=settings, **changes)
    outcome = begin(enrolled, earlier=first.registration, service=service, at=stamp(9))
    while outcome.registration.status is Status.ASSIGNING:
        outcome = ask(outcome, enrolled, service=service, at=stamp(9))
    return outcome


@pytest.mark.parametrize("service", [SERVICE, SLOW])
@pytest.mark.parametrize(
    ("settings", "hub", "expected"),
    [
        ({}, "second", ("second", "deviceDataMigrated", ("first", RID), False)),
        (MOVE_AND_MIGRATE, "second", ("second", "deviceDataMigrated", ("first", RID), False)),
        (MOVE_AND_RESET, "second", ("second", "deviceDataReset", ("first", RID), True)),
        (NEVER, "second", ("first", "reprovisionedToInitialAssignment", None, False)),
        (MOVE_AND_MIGRATE, "first", ("first", "reprovisionedToInitialAssignment", None, False)),
        (MOVE_AND_RESET, "first", ("first", "reprovisionedToInitialAssignment", None, True)),
        (NEVER, "first", ("first", "reprovisionedToInitialAssignment", None, False)),
    ],
)
def test_the_policy_says_whether_it_moves_and_what_becomes_of_its_twin(
    settings: dict[str, Any], hub: str, expected: tuple[str, str, tuple[str, str] | None, bool], service: Service
) -> None:
    outcome = again(settings, hub=hub, service=service)
    found = assignment(outcome)
    assert (found.hub, outcome.registration.substatus, found.leaves, found.reset) == expected
    assert outcome.registration.hub == expected[0]


def test_a_device_moves_after_all_when_the_hub_it_must_not_leave_is_gone() -> None:
    first = begin()
    service = replace(SERVICE, hubs={"second": "second.example"})
    outcome = begin(enrollment(hubs=(), settings=NEVER), earlier=first.registration, service=service)
    assert assignment(outcome).hub == "second"


@pytest.mark.parametrize(
    ("api_version", "shown"),
    [
        ("2019-03-31", "initialAssignment"),
        ("2018-11-01", "initialAssignment"),
        ("2019-04-15", "reprovisionedToInitialAssignment"),
        ("2021-06-01", "reprovisionedToInitialAssignment"),
        ("2025-07-01-preview", "reprovisionedToInitialAssignment"),
    ],
)
def test_only_newer_clients_are_told_that_they_come_again(api_version: str, shown: str) -> None:
    outcome = again({}, hub="first")
    session = Session(RID, certificate(), api_version=api_version)
    known = Known(enrollment())
    polled = dps.poll(session, outcome.registration.operation_id, known, outcome.registration, SERVICE, stamp(9))
    assert polled.answer.body["registrationState"]["substatus"] == shown


def test_a_device_whose_registration_fails_stays_where_it_was() -> None:
    first = begin()
    failed = begin(enrollment(hubs=("third",)), earlier=first.registration)
    assert failed.registration.status is Status.FAILED
    back = begin(earlier=failed.registration)
    assert (assignment(back).leaves, back.registration.substatus) == (None, "reprovisionedToInitialAssignment")


def test_a_registration_can_be_held_longer_than_the_service_would() -> None:
    session, known = Session(RID, certificate()), Known(enrollment())
    held = dps.register(session, b"", known, None, SERVICE, stamp(), hold=10)
    assert held.registration.status is Status.ASSIGNING
    early = ask(held, at=stamp(9.9))
    assert early.answer.status == 202
    assert ask(early, at=stamp(10)).registration.status is Status.ASSIGNED


# --- a token instead of a certificate ---------------------------------------------------------------------------------


def test_a_device_with_a_token_is_let_in_and_refused_when_it_registers() -> None:
    session = admit(presented=None, password="SharedAccessSignature sr=x&sig=y&se=1")
    assert session == Session(RID, None)
    assert refusal(lambda: dps.register(session, b"", Known(), None, SERVICE, stamp()))[0] is refusals.TOKEN_REFUSED
    known = Known(enrollment())
    assert refusal(lambda: dps.register(session, b"", known, None, SERVICE, stamp()))[0] is refusals.TOKEN_REFUSED
    assert refusals.TOKEN_REFUSED.code == 401000
