"""The enrollment document: what is read, what is refused and why, what is shown, and when an If-Match matches."""

from base64 import b64encode
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
from in_memory import leaf
from pki import Device
from refused import bad_at_dps, not_emulated, refusal

from dpsx_helpers.certificates import describe
from dpsx_helpers.emulator import enrollment, refusals
from dpsx_helpers.emulator.records import Enrollment, Registration, Status
from dpsx_helpers.emulator.stamps import Stamp

RID = "thermo-01"
NOW = datetime(2022, 8, 27, 17, 53, 19, 514349, tzinfo=UTC)
STAMP = Stamp(NOW, "120086f2-76fe-4341-9214-bb6cfb891b8a")
ETAG = '"120086f2-0000-0300-0000-630a5a0f0000"'
HUBS = {"first": "First.example", "second": "second.example"}
DEFAULTS = {
    "capabilities": {"iotEdge": False},
    "reprovisionPolicy": {"updateHubAssignment": True, "migrateDeviceData": True},
    "allocationPolicy": "hashed",
}


def device(number: int = 1) -> Device:
    """A device whose certificate is valid from 27 August 2022, 16:53:19, for 30 days; another number, another one."""
    return _device(number)


@cache
def _device(number: int) -> Device:
    return leaf(RID, valid_from=NOW - datetime.now(UTC) - timedelta(hours=1))


def attested(*, primary: Any = None, **slots: Any) -> dict[str, Any]:
    """`attestation` with the slots given; the primary one holds a certificate unless told otherwise."""
    certificates = {"primary": primary or {"certificate": device().pem}, **slots}
    return {"type": "x509", "x509": {"clientCertificates": certificates}}


def parse(
    *,
    registration_id: str = RID,
    existing: Enrollment | None = None,
    hubs: dict[str, str] | None = None,
    **fields: Any,
) -> Enrollment:
    """Parse a document with the fields given, by default with an attestation too."""
    document = {"attestation": attested(), **fields}
    return enrollment.parse(registration_id, document, existing, HUBS if hubs is None else hubs, STAMP)


def stored(**changes: Any) -> Enrollment:
    """An enrollment from some time ago."""
    plain = Enrollment(
        registration_id="Thermo-01",
        primary=device(1).der,
        secondary=device(2).der,
        device_id="thermostat:7",
        enabled=False,
        hubs=("second",),
        initial_twin={"tags": {"room": "lab"}},
        settings=DEFAULTS,
        etag='"old"',
        created="2020-01-01T00:00:00.0000000Z",
        updated="2021-01-01T00:00:00.0000000Z",
    )
    return replace(plain, **changes)


# --- parse ------------------------------------------------------------------------------------------------------------


def test_the_shortest_document_gets_what_the_service_fills_in() -> None:
    assert asdict(parse()) == {
        "registration_id": RID,
        "primary": device().der,
        "secondary": None,
        "device_id": None,
        "enabled": True,
        "hubs": (),
        "initial_twin": {},
        "settings": DEFAULTS,
        "etag": ETAG,
        "created": "2022-08-27T17:53:19.5143490Z",
        "updated": "2022-08-27T17:53:19.5143490Z",
    }


def test_the_longest_document_is_kept_field_by_field() -> None:
    twin = {"tags": {"room": "lab"}, "properties": {"desired": {"interval": 5}}}
    settings = {
        "optionalDeviceInformation": {"batch": 7},
        "capabilities": {"iotEdge": True},
        "reprovisionPolicy": {"updateHubAssignment": False, "migrateDeviceData": False},
        "allocationPolicy": "static",
    }
    parsed = parse(
        registrationId=RID,
        deviceId="thermostat:7",
        attestation=attested(secondary={"certificate": device(2).pem}),
        iotHubHostName="second.example",
        iotHubs=["second.example"],
        initialTwin=twin,
        provisioningStatus="disabled",
        etag='"whatever"',
        registrationState={"status": "assigned"},
        createdDateTimeUtc="2000-01-01T00:00:00Z",
        lastUpdatedDateTimeUtc="2000-01-01T00:00:00Z",
        **settings,
    )
    assert asdict(parsed) == {
        "registration_id": RID,
        "primary": device().der,
        "secondary": device(2).der,
        "device_id": "thermostat:7",
        "enabled": False,
        "hubs": ("second",),
        "initial_twin": twin,
        "settings": settings,
        "etag": ETAG,
        "created": "2022-08-27T17:53:19.5143490Z",
        "updated": "2022-08-27T17:53:19.5143490Z",
    }


def test_replacing_keeps_the_spelling_and_the_day_of_the_first_and_nothing_else() -> None:
    parsed = parse(registration_id="THERMO-01", existing=stored())
    assert parsed == replace(parse(), registration_id="Thermo-01", created="2020-01-01T00:00:00.0000000Z")


@pytest.mark.parametrize("document", [None, [], "text", 7, True])
def test_a_body_that_is_no_object_is_refused(document: Any) -> None:
    found = refusal(lambda: enrollment.parse(RID, document, None, HUBS, STAMP))
    assert found == bad_at_dps("the body is not a JSON object")


def test_a_null_is_as_good_as_nothing() -> None:
    nulls = dict.fromkeys(
        [
            "registrationId",
            "deviceId",
            "iotHubHostName",
            "iotHubs",
            "initialTwin",
            "provisioningStatus",
            "customAllocationDefinition",
            "optionalDeviceInformation",
            "capabilities",
            "reprovisionPolicy",
            "allocationPolicy",
            "etag",
            "fieldThatDoesNotExist",
        ]
    )
    slots = {"primary": {"certificate": device().pem, "info": None}, "secondary": None}
    x509 = {"clientCertificates": slots, "signingCertificates": None, "caReferences": None}
    assert parse(**nulls, attestation={"type": "x509", "x509": x509, "tpm": None}) == parse()


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["DeviceId", "enrollmentGroupId", "credentialPolicyName", ""])
def test_an_unknown_field_is_refused_by_name(name: str) -> None:
    assert refusal(lambda: parse(**{name: "x"})) == bad_at_dps(f"an enrollment of this kind has no field {name}")


def test_of_several_unknown_fields_the_first_in_the_alphabet_is_named() -> None:
    assert refusal(lambda: parse(zebra=1, ape=1)) == bad_at_dps("an enrollment of this kind has no field ape")


@pytest.mark.parametrize("registration_id", ["", "a b", "dot.", "a" * 129, "ä"])
def test_a_path_that_holds_no_registration_id_is_refused(registration_id: str) -> None:
    assert refusal(lambda: parse(registration_id=registration_id)) == bad_at_dps(
        "the registration ID in the path is none"
    )


@pytest.mark.parametrize("path", [RID, RID.upper()])
@pytest.mark.parametrize("named", [RID, RID.upper()])
def test_the_registration_id_in_the_document_is_that_of_the_path_whatever_its_case(path: str, named: str) -> None:
    assert parse(registration_id=path, registrationId=named).registration_id == path


@pytest.mark.parametrize("named", ["thermo-02", "", 7, [RID], {}])
def test_another_registration_id_in_the_document_is_refused(named: Any) -> None:
    found = refusal(lambda: parse(registrationId=named))
    assert found == bad_at_dps("registrationId differs from the registration ID in the path")


# --- attestation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tpm", "symmetricKey"])
def test_other_attestation_is_not_emulated(kind: str) -> None:
    found = refusal(lambda: parse(attestation={"type": kind, kind: {}}))
    assert found == not_emulated(refusals.DPS_NOT_EMULATED, f"attestation of type {kind}")


@pytest.mark.parametrize("kind", ["none", "X509", "", 7, None, ["x509"]])
def test_an_attestation_of_no_known_type_is_refused(kind: Any) -> None:
    found = refusal(lambda: parse(attestation={**attested(), "type": kind}))
    assert found == bad_at_dps("attestation.type is not x509")


@pytest.mark.parametrize("value", [None, [], "x509", 7])
def test_a_part_that_is_missing_or_no_object_is_named(value: Any) -> None:
    missing = "{} is missing or is not an object"
    assert refusal(lambda: parse(attestation=value)) == bad_at_dps(missing.format("attestation"))
    assert refusal(lambda: parse(attestation={"type": "x509", "x509": value})) == bad_at_dps(missing.format("x509"))
    found = refusal(lambda: parse(attestation={"type": "x509", "x509": {"clientCertificates": value}}))
    assert found == bad_at_dps(missing.format("clientCertificates"))


@pytest.mark.parametrize("slot", ["primary", "secondary"])
@pytest.mark.parametrize("value", [[], "pem", 7])
def test_a_slot_or_its_info_that_is_no_object_is_named(slot: str, value: Any) -> None:
    missing = "{} is missing or is not an object"
    assert refusal(lambda: parse(attestation=attested(**{slot: value or [1]}))) == bad_at_dps(missing.format(slot))
    found = refusal(lambda: parse(attestation=attested(**{slot: {"info": value}})))
    assert found == bad_at_dps(missing.format("info"))


@pytest.mark.parametrize("name", ["signingCertificates", "caReferences"])
def test_certificates_of_an_issuer_belong_to_a_group(name: str) -> None:
    attestation = attested()
    attestation["x509"][name] = {"primary": {"certificate": device().pem}}
    found = refusal(lambda: parse(attestation=attestation))
    assert found == bad_at_dps(f"x509.{name} belong to an enrollment group, not to an individual enrollment")


# --- certificates -----------------------------------------------------------------------------------------------------


def _lines(text: str, end: str) -> str:
    return "".join(text[at : at + 64] + end for at in range(0, len(text), 64))


def forms(made: Device) -> dict[str, str]:
    of_pem, of_der = b64encode(made.pem.encode()).decode(), b64encode(made.der).decode()
    return {
        "PEM": made.pem,
        "PEM with Windows line ends": made.pem.replace("\n", "\r\n"),
        "PEM after other text": f"subject=CN = {RID}\n{made.pem}",
        "two of them in PEM": made.pem + device(3).pem,
        "base64 of PEM": of_pem,
        "base64 of PEM in lines": _lines(of_pem, "\r\n"),
        "base64 of DER": of_der,
        "base64 of DER in lines": f" {_lines(of_der, chr(10))}\t",
    }


@pytest.mark.parametrize("form", [*forms(device())])
@pytest.mark.parametrize("slot", ["primary", "secondary"])
def test_a_certificate_comes_in_many_forms(form: str, slot: str) -> None:
    parsed = parse(attestation=attested(**{slot: {"certificate": forms(device(2))[form]}}))
    assert getattr(parsed, slot) == device(2).der


@pytest.mark.parametrize("slot", ["primary", "secondary"])
@pytest.mark.parametrize(
    "garbage",
    [
        "",
        "   ",
        "not base64!",
        "bm90IGEgY2VydGlmaWNhdGU=",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        "-----BEGIN ä",
        "ä",
        "AAA",
    ],
)
def test_what_is_no_certificate_is_refused(slot: str, garbage: str) -> None:
    found = refusal(lambda: parse(attestation=attested(**{slot: {"certificate": garbage}})))
    assert found == bad_at_dps(f"{slot}.certificate is no X.509 certificate in PEM or base64")


def test_base64_with_a_sign_too_many_is_refused() -> None:
    text = f"*{b64encode(device().der).decode()}"
    found = refusal(lambda: parse(attestation=attested(primary={"certificate": text})))
    assert found == bad_at_dps("primary.certificate is no X.509 certificate in PEM or base64")


@pytest.mark.parametrize("slot", ["primary", "secondary"])
@pytest.mark.parametrize("value", [7, ["pem"], {"pem": "x"}, True])
def test_a_certificate_that_is_no_text_is_refused(slot: str, value: Any) -> None:
    found = refusal(lambda: parse(attestation=attested(**{slot: {"certificate": value}})))
    assert found == bad_at_dps(f"{slot}.certificate is not a string")


@pytest.mark.parametrize("primary", [{"certificate": None}, {"info": {}}, {"info": None}, {"info": {"version": 3}}])
def test_without_any_certificate_there_is_no_enrollment(primary: dict[str, Any]) -> None:
    why = bad_at_dps("attestation.x509.clientCertificates has no certificate")
    assert refusal(lambda: parse(attestation=attested(primary=primary))) == why
    assert refusal(lambda: parse(attestation=attested(primary=primary), existing=stored())) == why


@pytest.mark.parametrize("primary", [{}, {"primary": None}, {"primary": {"certificate": None}}])
def test_the_secondary_certificate_alone_will_do(primary: dict[str, Any]) -> None:
    """A primary certificate that was removed reads back as null."""
    slots = {"secondary": {"certificate": device().pem}, **primary}
    parsed = parse(attestation={"type": "x509", "x509": {"clientCertificates": slots}})
    assert (parsed.primary, parsed.secondary) == (None, device().der)
    shown = enrollment.render(parsed, None, HUBS)["attestation"]["x509"]["clientCertificates"]
    assert shown == {"primary": None, "secondary": facts(1)}
    assert enrollment.parse(RID, enrollment.render(parsed, None, HUBS), parsed, HUBS, STAMP) == parsed


def info(number: int) -> dict[str, Any]:
    return {"info": {"sha256Thumbprint": describe(device(number).der).thumbprint_sha256}}


def test_a_certificate_of_which_only_the_facts_come_back_is_kept() -> None:
    parsed = parse(attestation=attested(primary=info(1), secondary=info(2)), existing=stored())
    assert (parsed.primary, parsed.secondary) == (device(1).der, device(2).der)


def test_what_is_shown_can_be_written_back() -> None:
    shown = enrollment.render(stored(), None, HUBS)
    again = enrollment.parse("thermo-01", shown, stored(), HUBS, STAMP)
    assert again == stored(etag=ETAG, updated="2022-08-27T17:53:19.5143490Z")


def test_one_certificate_can_be_replaced_and_the_other_kept() -> None:
    fresh = {"certificate": device(3).pem}
    first = parse(attestation=attested(primary=fresh, secondary=info(2)), existing=stored())
    assert (first.primary, first.secondary) == (device(3).der, device(2).der)
    second = parse(attestation=attested(primary=info(1), secondary=fresh), existing=stored())
    assert (second.primary, second.secondary) == (device(1).der, device(3).der)


def test_a_certificate_counts_more_than_the_facts_beside_it() -> None:
    assert parse(attestation=attested(primary={"certificate": device(3).pem, **info(1)})).primary == device(3).der


def test_a_secondary_certificate_that_does_not_come_back_is_gone() -> None:
    assert parse(attestation=attested(primary=info(1)), existing=stored()).secondary is None


@pytest.mark.parametrize("slot", ["primary", "secondary"])
@pytest.mark.parametrize("existing", [None, stored(), stored(secondary=None)])
def test_the_facts_of_another_certificate_are_refused(slot: str, existing: Enrollment | None) -> None:
    found = refusal(lambda: parse(attestation=attested(**{slot: info(3)}), existing=existing))
    assert found == bad_at_dps(
        f"{slot}.info names a certificate that this enrollment does not hold; send the certificate itself"
    )


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["hashed", "geoLatency", "static"])
def test_an_allocation_policy_is_kept(policy: str) -> None:
    assert parse(allocationPolicy=policy).settings == {**DEFAULTS, "allocationPolicy": policy}


@pytest.mark.parametrize("policy", ["", "Hashed", "random", 7, []])
def test_an_unknown_allocation_policy_is_refused(policy: Any) -> None:
    found = refusal(lambda: parse(allocationPolicy=policy))
    assert found == bad_at_dps("allocationPolicy is none of hashed, geoLatency, static, custom")


def test_custom_allocation_is_not_emulated() -> None:
    assert refusal(lambda: parse(allocationPolicy="custom")) == not_emulated(
        refusals.DPS_NOT_EMULATED, "allocationPolicy custom"
    )
    found = refusal(lambda: parse(customAllocationDefinition={"webhookUrl": "https://example", "apiVersion": "1"}))
    assert found == not_emulated(refusals.DPS_NOT_EMULATED, "customAllocationDefinition")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("capabilities", {"iotEdge": True}),
        ("capabilities", {}),
        ("reprovisionPolicy", {"updateHubAssignment": False, "migrateDeviceData": True}),
        ("reprovisionPolicy", {"migrateDeviceData": False}),
        ("optionalDeviceInformation", {}),
    ],
)
def test_a_setting_is_kept_as_it_came(name: str, value: Any) -> None:
    assert parse(**{name: value}).settings == {**DEFAULTS, name: value}


@pytest.mark.parametrize("value", [[], "yes", True, {"iotEdge": 1}, {"iotedge": True}])
def test_capabilities_take_one_switch(value: Any) -> None:
    assert refusal(lambda: parse(capabilities=value)) == bad_at_dps("capabilities takes iotEdge, each true or false")


@pytest.mark.parametrize(
    "value",
    [
        [],
        True,
        {"updateHubAssignment": True, "migrateDeviceData": "false"},
        {"updateHubAssignment": 0},
        {"iotEdge": True},
        {"updateHubAssignment": True, "migrateDeviceData": True, "more": True},
    ],
)
def test_a_reprovision_policy_takes_two_switches(value: Any) -> None:
    found = refusal(lambda: parse(reprovisionPolicy=value))
    assert found == bad_at_dps("reprovisionPolicy takes migrateDeviceData, updateHubAssignment, each true or false")


@pytest.mark.parametrize(("value", "enabled"), [("enabled", True), ("disabled", False)])
def test_the_provisioning_status_is_read(value: str, enabled: bool) -> None:
    assert parse(provisioningStatus=value).enabled is enabled


@pytest.mark.parametrize("value", ["", "Enabled", "none", True, 7, []])
def test_another_provisioning_status_is_refused(value: Any) -> None:
    found = refusal(lambda: parse(provisioningStatus=value))
    assert found == bad_at_dps("provisioningStatus is neither enabled nor disabled")


# --- device ID --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [*"azAZ09-:.+%_#*?!(),=@;$'"])
def test_a_device_id_may_have_each_documented_sign(sign: str) -> None:
    assert parse(deviceId=sign).device_id == sign


@pytest.mark.parametrize("sign", [*' "/\\&<>[]{}|^~`ä\n\0٣'])
def test_a_device_id_may_have_no_other_sign(sign: str) -> None:
    why = bad_at_dps("deviceId is not 1 to 128 of the characters that a device ID may have")
    assert refusal(lambda: parse(deviceId=sign)) == why
    assert refusal(lambda: parse(deviceId=f"a{sign}")) == why
    assert refusal(lambda: parse(deviceId=f"{sign}a")) == why


def test_a_device_id_has_at_most_128_characters() -> None:
    assert parse(deviceId="d" * 128).device_id == "d" * 128
    found = refusal(lambda: parse(deviceId="d" * 129))
    assert found == bad_at_dps("deviceId is not 1 to 128 of the characters that a device ID may have")


@pytest.mark.parametrize("value", [7, ["a"], {"a": 1}, True])
def test_a_device_id_that_is_no_text_is_refused(value: Any) -> None:
    found = refusal(lambda: parse(deviceId=value))
    assert found == bad_at_dps("deviceId is not 1 to 128 of the characters that a device ID may have")


def test_an_empty_device_id_is_none() -> None:
    assert parse(deviceId="").device_id is None


# --- hubs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "hubs"),
    [
        ({}, ()),
        ({"iotHubHostName": ""}, ()),
        ({"iotHubs": []}, ()),
        ({"iotHubHostName": "First.example"}, ("first",)),
        ({"iotHubHostName": "FIRST.EXAMPLE"}, ("first",)),
        ({"iotHubHostName": "second.example"}, ("second",)),
        ({"iotHubs": ["second.example"]}, ("second",)),
        ({"iotHubs": ["second.example", "first.example"]}, ("second", "first")),
        ({"iotHubs": ["second.example", "Second.Example"]}, ("second",)),
        ({"iotHubHostName": "First.example", "iotHubs": ["second.example", "first.example"]}, ("second", "first")),
        ({"iotHubHostName": "", "iotHubs": ["Second.Example"]}, ("second",)),
    ],
)
def test_hubs_are_named_by_address_and_kept_by_identity(fields: dict[str, Any], hubs: tuple[str, ...]) -> None:
    assert parse(**fields).hubs == hubs


@pytest.mark.parametrize(
    "fields",
    [
        {"iotHubHostName": "Third.example"},
        {"iotHubs": ["Third.example"]},
        {"iotHubs": ["first.example", "Third.example"]},
    ],
)
def test_a_hub_that_is_not_linked_is_refused_by_name(fields: dict[str, Any]) -> None:
    found = refusal(lambda: parse(**fields))
    assert found == bad_at_dps("hub Third.example is not linked to this DPS; linked: First.example, second.example")


def test_the_identity_of_a_hub_is_not_its_address() -> None:
    found = refusal(lambda: parse(iotHubHostName="first"))
    assert found == bad_at_dps("hub first is not linked to this DPS; linked: First.example, second.example")


def test_where_no_hub_is_linked_the_refusal_says_so() -> None:
    found = refusal(lambda: parse(iotHubHostName="first.example", hubs={}))
    assert found == bad_at_dps("hub first.example is not linked to this DPS; linked: none")


@pytest.mark.parametrize(
    "fields", [{"iotHubs": "first.example"}, {"iotHubs": {"a": 1}}, {"iotHubs": [7]}, {"iotHubs": 7}]
)
def test_hubs_that_are_no_list_of_names_are_refused(fields: dict[str, Any]) -> None:
    assert refusal(lambda: parse(**fields)) == bad_at_dps("iotHubs is not a list of host names")


def test_a_host_name_that_contradicts_the_list_is_refused() -> None:
    """As it comes from who reads the list and changes the name: one of the two would have been ignored."""
    found = refusal(lambda: parse(iotHubHostName="first.example", iotHubs=["second.example"]))
    assert found == bad_at_dps("iotHubHostName first.example is not among iotHubs")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"capabilities": {"iotEdge": None}}, {"capabilities": {}}),
        (
            {"reprovisionPolicy": {"updateHubAssignment": None, "migrateDeviceData": False}},
            {"reprovisionPolicy": {"migrateDeviceData": False}},
        ),
    ],
)
def test_a_null_within_a_setting_is_as_good_as_nothing(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert parse(**fields).settings == DEFAULTS | expected


def test_a_null_within_an_initial_twin_is_as_good_as_nothing() -> None:
    assert parse(initialTwin={"tags": None, "properties": None}).initial_twin == {}
    assert parse(initialTwin={"properties": {"desired": None}}).initial_twin == {"properties": {}}


@pytest.mark.parametrize("value", [7, ["first.example"], {"name": "first.example"}])
def test_a_hub_name_that_is_no_text_is_refused(value: Any) -> None:
    assert refusal(lambda: parse(iotHubHostName=value))[0] is refusals.DPS_BAD_REQUEST


# --- initial twin -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "twin",
    [
        {},
        {"tags": {}},
        {"tags": {"room": "lab", "floor": None}},
        {"properties": {}},
        {"properties": {"desired": {}}},
        {"tags": {}, "properties": {"desired": {"deep": {"list": [1, "two"]}}}},
    ],
)
def test_an_initial_twin_is_kept_as_it_came(twin: dict[str, Any]) -> None:
    assert parse(initialTwin=twin).initial_twin == twin


@pytest.mark.parametrize(
    "twin",
    [
        [],
        "twin",
        7,
        {"desired": {}},
        {"tags": {}, "properties": {}, "more": {}},
        {"tags": []},
        {"properties": []},
        {"properties": {"desired": 7}},
        {"properties": {"reported": {}}},
        {"properties": {"desired": {}, "reported": {}}},
        {"tags": {}, "properties": "none"},
    ],
)
def test_an_initial_twin_of_another_shape_is_refused(twin: Any) -> None:
    found = refusal(lambda: parse(initialTwin=twin))
    assert found == bad_at_dps('initialTwin is not {"tags": {…}, "properties": {"desired": {…}}}')


# --- render -----------------------------------------------------------------------------------------------------------


def facts(number: int) -> dict[str, Any]:
    described = describe(device(number).der)
    return {
        "info": {
            "subjectName": "CN=thermo-01",
            "sha1Thumbprint": described.thumbprint_sha1,
            "sha256Thumbprint": device(number).thumbprint,
            "issuerName": "CN=thermo-01",
            "notBeforeUtc": f"{described.not_before:%Y-%m-%d}T{described.not_before:%H:%M:%S}Z",
            "notAfterUtc": f"{described.not_after:%Y-%m-%d}T{described.not_after:%H:%M:%S}Z",
            "serialNumber": described.serial_number,
            "version": 3,
        }
    }


def test_a_short_enrollment_is_shown_without_what_it_does_not_have() -> None:
    assert enrollment.render(parse(), None, HUBS) == {
        "registrationId": RID,
        "attestation": {"type": "x509", "x509": {"clientCertificates": {"primary": facts(1), "secondary": None}}},
        "capabilities": {"iotEdge": False},
        "reprovisionPolicy": {"updateHubAssignment": True, "migrateDeviceData": True},
        "allocationPolicy": "hashed",
        "provisioningStatus": "enabled",
        "etag": ETAG,
        "createdDateTimeUtc": "2022-08-27T17:53:19.5143490Z",
        "lastUpdatedDateTimeUtc": "2022-08-27T17:53:19.5143490Z",
    }


def test_a_long_enrollment_is_shown_whole_but_for_its_certificates() -> None:
    settings = {**DEFAULTS, "optionalDeviceInformation": {"batch": 7}}
    registration = Registration("Thermo-01", Status.ASSIGNING, "op", 0.0, "then", "then", "e")
    assert enrollment.render(stored(settings=settings), registration, HUBS) == {
        "registrationId": "Thermo-01",
        "deviceId": "thermostat:7",
        "registrationState": {
            "registrationId": "Thermo-01",
            "status": "assigning",
            "createdDateTimeUtc": "then",
            "lastUpdatedDateTimeUtc": "then",
            "etag": "e",
        },
        "optionalDeviceInformation": {"batch": 7},
        "attestation": {
            "type": "x509",
            "x509": {"clientCertificates": {"primary": facts(1), "secondary": facts(2)}},
        },
        "capabilities": {"iotEdge": False},
        "iotHubs": ["second.example"],
        "initialTwin": {"tags": {"room": "lab"}},
        "etag": '"old"',
        "provisioningStatus": "disabled",
        "reprovisionPolicy": {"updateHubAssignment": True, "migrateDeviceData": True},
        "createdDateTimeUtc": "2020-01-01T00:00:00.0000000Z",
        "lastUpdatedDateTimeUtc": "2021-01-01T00:00:00.0000000Z",
        "allocationPolicy": "hashed",
    }


def test_the_dates_of_a_certificate_are_shown_to_the_second() -> None:
    shown = enrollment.render(parse(), None, HUBS)["attestation"]["x509"]["clientCertificates"]["primary"]["info"]
    assert shown["notBeforeUtc"].startswith("2022-08-27T16:53:")
    assert shown["notAfterUtc"].startswith("2022-09-26T16:53:")
    assert len(shown["notBeforeUtc"]) == len(shown["notAfterUtc"]) == len("2022-08-27T16:53:19Z")


def test_a_hub_is_shown_by_the_address_that_it_has_now() -> None:
    assert enrollment.render(stored(), None, {"second": "moved.example"})["iotHubs"] == ["moved.example"]
    assert "iotHubs" not in enrollment.render(stored(), None, {"first": "first.example"})


def test_the_state_of_the_registration_names_the_hub_by_its_address_too() -> None:
    registration = Registration(
        "Thermo-01", Status.ASSIGNED, "op", 0.0, "then", "then", "e", hub="second", device_id="thermostat:7"
    )
    shown = enrollment.render(stored(), registration, HUBS)
    assert shown["registrationState"]["assignedHub"] == "second.example"


# --- If-Match ---------------------------------------------------------------------------------------------------------


def check(existing: Enrollment | None, if_match: str | None, *, deleting: bool) -> None:
    enrollment.check_etag(existing, if_match, RID, deleting=deleting)


@pytest.mark.parametrize("if_match", ['"old"', "old", "*", '"*"', ' "old" ', " * "])
@pytest.mark.parametrize("deleting", [True, False])
def test_an_etag_matches_quoted_or_not_and_a_star_always(if_match: str, deleting: bool) -> None:
    check(stored(), if_match, deleting=deleting)


@pytest.mark.parametrize("if_match", ['"new"', "new", "", '""', "**", "OLD"])
@pytest.mark.parametrize("deleting", [True, False])
def test_another_etag_means_that_the_enrollment_has_changed(if_match: str, deleting: bool) -> None:
    assert refusal(lambda: check(stored(), if_match, deleting=deleting)) == (
        refusals.ENROLLMENT_CHANGED,
        "the If-Match of the request is not the etag of enrollment 'thermo-01'",
    )


def test_replacing_needs_an_if_match_and_deleting_does_not() -> None:
    assert refusal(lambda: check(stored(), None, deleting=False)) == (
        refusals.ENROLLMENT_EXISTS,
        "an enrollment 'thermo-01' exists already and the request has no If-Match",
    )
    check(stored(), None, deleting=True)


@pytest.mark.parametrize("if_match", [None, "", "*", '"*"', " * "])
def test_what_does_not_exist_can_be_made_and_not_deleted(if_match: str | None) -> None:
    check(None, if_match, deleting=False)
    assert refusal(lambda: check(None, if_match, deleting=True)) == (
        refusals.ENROLLMENT_NOT_FOUND,
        "there is no enrollment 'thermo-01'",
    )


@pytest.mark.parametrize("if_match", ['"old"', "old"])
def test_an_etag_of_what_does_not_exist_matches_nothing(if_match: str) -> None:
    assert refusal(lambda: check(None, if_match, deleting=False))[0] is refusals.ENROLLMENT_NOT_FOUND


def nested(levels: int) -> dict[str, Any]:
    return {"a": nested(levels - 1)} if levels > 1 else {"a": 1}


SECTIONS: list[tuple[str, Callable[[Any], Any]]] = [
    ("tags", lambda section: {"tags": section}),
    ("properties.desired", lambda section: {"properties": {"desired": section}}),
]


@pytest.mark.parametrize(("name", "twin"), SECTIONS)
def test_an_initial_twin_is_at_most_ten_levels_deep(name: str, twin: Callable[[Any], Any]) -> None:
    assert parse(initialTwin=twin(nested(11))).initial_twin
    found = refusal(lambda: parse(initialTwin=twin(nested(12))))
    assert found == bad_at_dps(f"initialTwin: {name} is nested more than 10 levels deep")


@pytest.mark.parametrize(("name", "twin"), SECTIONS)
@pytest.mark.parametrize("section", [{"a.b": 1}, {"list": [None]}, {"text": "x" * 4097}, {"number": 2**53}])
def test_an_initial_twin_holds_what_a_twin_may_hold(name: str, twin: Callable[[Any], Any], section: Any) -> None:
    row, reason = refusal(lambda: parse(initialTwin=twin(section)))
    assert row is refusals.DPS_BAD_REQUEST
    assert f"initialTwin: {name}" in reason or f"in {name}" in reason
