"""The documents of enrollment groups and CA certificates: what is read, refused and shown, and the proof of a key.

https://learn.microsoft.com/azure/iot-dps/how-to-verify-certificates
"""

from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

import pytest
from in_memory import ca, leaf
from pki import Authority
from refused import bad_at_dps, refusal

from dpsx_helpers.certificates import describe
from dpsx_helpers.emulator import attestation, group, refusals
from dpsx_helpers.emulator.records import CaCertificate, Group
from dpsx_helpers.emulator.stamps import Stamp

GID = "fleet-01"
NOW = datetime(2022, 8, 27, 17, 53, 19, 514349, tzinfo=UTC)
TEXT = "2022-08-27T17:53:19.5143490Z"
STAMP = Stamp(NOW, "120086f2-76fe-4341-9214-bb6cfb891b8a")
ETAG = '"120086f2-0000-0300-0000-630a5a0f0000"'
HUBS = {"first": "First.example", "second": "second.example"}
DEFAULTS = {
    "capabilities": {"iotEdge": False},
    "reprovisionPolicy": {"updateHubAssignment": True, "migrateDeviceData": True},
    "allocationPolicy": "hashed",
}
OLD = "2020-01-01T00:00:00.0000000Z"


def authority(number: int = 1) -> Authority:
    """One whose certificate is valid from 27 August 2022, 16:53:19, for 30 days; another number, another one."""
    return _authority(number)


@cache
def _authority(number: int) -> Authority:
    return ca(f"Authority {number}", valid_from=NOW - datetime.now(UTC) - timedelta(hours=1))


def signed_by(*, primary: Any = None, **slots: Any) -> dict[str, Any]:
    """`attestation` with certificates of the group's own; the primary one is there unless told otherwise."""
    certificates = {"primary": primary or {"certificate": authority().pem}, **slots}
    return {"type": "x509", "x509": {"signingCertificates": certificates}}


def refers_to(primary: Any, **slots: Any) -> dict[str, Any]:
    return {"type": "x509", "x509": {"caReferences": {"primary": primary, **slots}}}


def ca_certificate(name: str = "Root", number: int = 1, **changes: Any) -> CaCertificate:
    plain = CaCertificate(name, authority(number).der, verified=True, code="", etag="e", created=OLD, updated=OLD)
    return replace(plain, **changes)


def known_ca(name: str) -> CaCertificate | None:
    """This DPS has the verified `Root` and `Spare`, and `Unproved`, by whatever case of the letters."""
    there = [ca_certificate(), ca_certificate("Spare", 2), ca_certificate("Unproved", 3, verified=False)]
    return next((one for one in there if one.name.lower() == name.lower()), None)


def parse(group_id: str = GID, existing: Group | None = None, **fields: Any) -> Group:
    """Parse a document with the fields given, by default with an attestation too."""
    document = {"attestation": signed_by(), **fields}
    return group.parse(group_id, document, existing, HUBS, known_ca, STAMP)


def stored(**changes: Any) -> Group:
    """A group from some time ago."""
    plain = Group(
        group_id="Fleet-01",
        primary=authority(1).der,
        secondary=authority(2).der,
        primary_ca=None,
        secondary_ca=None,
        enabled=False,
        hubs=("second",),
        initial_twin={"tags": {"room": "lab"}},
        settings=DEFAULTS,
        etag='"old"',
        created=OLD,
        updated="2021-01-01T00:00:00.0000000Z",
    )
    return replace(plain, **changes)


def referring(**changes: Any) -> Group:
    """A group from some time ago that names CA certificates."""
    names: dict[str, Any] = {"primary": None, "secondary": None, "primary_ca": "Root", "secondary_ca": "Spare"}
    return stored(**names | changes)


# --- parse ------------------------------------------------------------------------------------------------------------


def test_the_shortest_document_gets_what_the_service_fills_in() -> None:
    assert asdict(parse()) == {
        "group_id": GID,
        "primary": authority().der,
        "secondary": None,
        "primary_ca": None,
        "secondary_ca": None,
        "enabled": True,
        "hubs": (),
        "initial_twin": {},
        "settings": DEFAULTS,
        "etag": ETAG,
        "created": TEXT,
        "updated": TEXT,
    }


def test_the_longest_document_is_kept_field_by_field() -> None:
    twin = {"tags": {"room": "lab"}, "properties": {"desired": {"interval": 5}}}
    settings: dict[str, Any] = {
        "optionalDeviceInformation": {"batch": 7},
        "capabilities": {"iotEdge": True},
        "reprovisionPolicy": {"updateHubAssignment": False, "migrateDeviceData": False},
        "allocationPolicy": "static",
    }
    parsed = parse(
        enrollmentGroupId=GID.upper(),
        attestation=signed_by(secondary={"certificate": authority(2).pem}),
        iotHubs=["second.example", "first.example"],
        initialTwin=twin,
        provisioningStatus="disabled",
        etag='"whatever"',
        createdDateTimeUtc="2000-01-01T00:00:00Z",
        lastUpdatedDateTimeUtc="2000-01-01T00:00:00Z",
        **settings,
    )
    assert asdict(parsed) == {
        "group_id": GID,
        "primary": authority().der,
        "secondary": authority(2).der,
        "primary_ca": None,
        "secondary_ca": None,
        "enabled": False,
        "hubs": ("second", "first"),
        "initial_twin": twin,
        "settings": settings,
        "etag": ETAG,
        "created": TEXT,
        "updated": TEXT,
    }


def test_replacing_keeps_the_spelling_and_the_day_of_the_first_and_nothing_else() -> None:
    assert parse("FLEET-01", existing=stored()) == replace(parse(), group_id="Fleet-01", created=OLD)


def test_a_null_is_as_good_as_nothing() -> None:
    names = ["enrollmentGroupId", "iotHubHostName", "iotHubs", "initialTwin", "provisioningStatus", "etag", "deviceId"]
    x509 = {
        "signingCertificates": {"primary": {"certificate": authority().pem, "info": None}, "secondary": None},
        "caReferences": None,
        "clientCertificates": None,
    }
    nulls: dict[str, Any] = dict.fromkeys(names)
    attested = {"type": "x509", "x509": x509, "tpm": None, "symmetricKey": None}
    assert parse(**nulls, attestation=attested) == parse()


@pytest.mark.parametrize("document", [None, [], "text", 7])
def test_a_body_that_is_no_object_is_refused(document: Any) -> None:
    found = refusal(lambda: group.parse(GID, document, None, HUBS, known_ca, STAMP))
    assert found == bad_at_dps("the body is not a JSON object")


@pytest.mark.parametrize("name", ["registrationId", "deviceId", "registrationState", "groupId"])
def test_a_field_that_a_group_does_not_have_is_refused_by_name(name: str) -> None:
    field: dict[str, Any] = {name: "x"}
    row, reason = refusal(lambda: parse(**field))
    assert row is refusals.DPS_BAD_REQUEST
    assert reason.endswith(f"has no field {name}")


@pytest.mark.parametrize("group_id", ["", "a b", "dot.", "a" * 129, "ä"])
def test_a_path_that_holds_no_group_id_is_refused(group_id: str) -> None:
    assert refusal(lambda: parse(group_id)) == bad_at_dps("the enrollment group ID in the path is none")


@pytest.mark.parametrize("named", ["fleet-02", "", 7, {}])
def test_another_group_id_in_the_document_is_refused(named: Any) -> None:
    found = refusal(lambda: parse(enrollmentGroupId=named))
    assert found == bad_at_dps("enrollmentGroupId differs from the group ID in the path")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"provisioningStatus": "off"}, "provisioningStatus is neither enabled nor disabled"),
        ({"allocationPolicy": "random"}, "allocationPolicy is none of hashed, geoLatency, static, custom"),
        ({"iotHubs": ["third.example"]}, "hub third.example is not linked to this DPS"),
        ({"initialTwin": {"more": {}}}, "initialTwin is not"),
        ({"reprovisionPolicy": {"updateHubAssignment": 1}}, "reprovisionPolicy takes"),
    ],
)
def test_the_terms_are_judged_as_those_of_an_individual_enrollment(fields: dict[str, Any], why: str) -> None:
    row, reason = refusal(lambda: parse(**fields))
    assert row is refusals.DPS_BAD_REQUEST
    assert reason.startswith(why)


# --- which attestation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tpm", "symmetricKey"])
def test_other_attestation_is_not_emulated(kind: str) -> None:
    row, reason = refusal(lambda: parse(attestation={"type": kind, kind: {}}))
    assert row is refusals.DPS_NOT_EMULATED
    assert f"attestation of type {kind}" in reason


@pytest.mark.parametrize("kind", ["X509", "", 7, None])
def test_an_attestation_of_no_known_type_is_refused(kind: Any) -> None:
    assert refusal(lambda: parse(attestation={**signed_by(), "type": kind})) == bad_at_dps(
        "attestation.type is not x509"
    )


@pytest.mark.parametrize(
    "x509",
    [
        {},
        {"signingCertificates": None, "caReferences": None},
        {"signingCertificates": {"primary": {}}, "caReferences": {"primary": "Root"}},
        signed_by()["x509"] | refers_to("Root")["x509"],
    ],
)
def test_a_group_has_certificates_or_references_exactly_one_of_the_two(x509: dict[str, Any]) -> None:
    found = refusal(lambda: parse(attestation={"type": "x509", "x509": x509}))
    assert found == bad_at_dps("attestation.x509 needs signingCertificates or caReferences, one of the two")


@pytest.mark.parametrize("beside", [{}, signed_by()["x509"], refers_to("Root")["x509"]])
def test_the_certificate_of_a_device_is_none_of_a_group(beside: dict[str, Any]) -> None:
    x509 = {"clientCertificates": {"primary": {"certificate": authority().pem}}, **beside}
    found = refusal(lambda: parse(attestation={"type": "x509", "x509": x509}))
    assert found == bad_at_dps("x509.clientCertificates belong to an individual enrollment, not to an enrollment group")


@pytest.mark.parametrize("value", [[], "x509", 7])
@pytest.mark.parametrize("name", ["signingCertificates", "caReferences"])
def test_a_part_that_is_no_object_is_named(name: str, value: Any) -> None:
    found = refusal(lambda: parse(attestation={"type": "x509", "x509": {name: value}}))
    assert found == bad_at_dps(f"{name} is missing or is not an object")


# --- certificates of its own ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PEM", "base64 of PEM", "base64 of DER"])
@pytest.mark.parametrize("slot", ["primary", "secondary"])
def test_a_certificate_comes_in_three_forms(form: str, slot: str) -> None:
    made = authority(2)
    text = {
        "PEM": made.pem,
        "base64 of PEM": b64encode(made.pem.encode()).decode(),
        "base64 of DER": b64encode(made.der).decode(),
    }[form]
    assert getattr(parse(attestation=signed_by(**{slot: {"certificate": text}})), slot) == made.der


@pytest.mark.parametrize("slot", ["primary", "secondary"])
@pytest.mark.parametrize("options", [{"ca": False}, {"ca": None}])
def test_a_certificate_that_can_sign_nothing_is_taken_with_a_word_of_doubt(slot: str, options: dict[str, Any]) -> None:
    """Microsoft's own tests of the Azure CLI make groups of such certificates."""
    text = ca("Nobody", **options).pem
    parsed = parse(attestation=signed_by(**{slot: {"certificate": text}}))
    doubts = list(group.doubts(parsed, known_ca))
    assert doubts == ["CN=Nobody is no CA certificate and cannot sign those of devices"]
    assert list(group.doubts(stored(), known_ca)) == []


@pytest.mark.parametrize("slot", ["primary", "secondary"])
def test_what_is_no_certificate_is_refused(slot: str) -> None:
    found = refusal(lambda: parse(attestation=signed_by(**{slot: {"certificate": "bm90IG9uZQ=="}})))
    assert found == bad_at_dps(f"{slot}.certificate is no X.509 certificate in PEM or base64")


@pytest.mark.parametrize("slots", [{}, {"primary": None}, {"primary": {}}, {"primary": {"info": {"version": 3}}}])
def test_one_certificate_will_do_and_none_will_not(slots: dict[str, Any]) -> None:
    attested = {"type": "x509", "x509": {"signingCertificates": slots}}
    why = bad_at_dps("attestation.x509.signingCertificates has no certificate")
    assert refusal(lambda: parse(attestation=attested)) == why
    assert refusal(lambda: parse(attestation=attested, existing=stored())) == why
    attested = {
        "type": "x509",
        "x509": {"signingCertificates": {"secondary": {"certificate": authority().pem}, **slots}},
    }
    parsed = parse(attestation=attested)
    assert (parsed.primary, parsed.secondary) == (None, authority().der)
    assert group.mechanism(parsed)["x509"]["signingCertificates"]["primary"] is None


def info(number: int) -> dict[str, Any]:
    return {"info": {"sha256Thumbprint": authority(number).thumbprint}}


def test_a_certificate_of_which_only_the_facts_come_back_is_kept() -> None:
    parsed = parse(attestation=signed_by(primary=info(1), secondary=info(2)), existing=stored())
    assert (parsed.primary, parsed.secondary) == (authority(1).der, authority(2).der)


@pytest.mark.parametrize("slot", ["primary", "secondary"])
def test_one_certificate_can_be_replaced_and_the_other_kept(slot: str) -> None:
    slots = {"primary": info(1), "secondary": info(2), slot: {"certificate": authority(3).pem}}
    parsed = parse(attestation=signed_by(**slots), existing=stored())
    expected = {"primary": authority(1).der, "secondary": authority(2).der, slot: authority(3).der}
    assert {"primary": parsed.primary, "secondary": parsed.secondary} == expected


@pytest.mark.parametrize("slot", ["primary", "secondary"])
@pytest.mark.parametrize("existing", [None, "another", "referring"])
def test_facts_of_a_certificate_that_the_group_does_not_hold_are_refused(slot: str, existing: str | None) -> None:
    before = {None: None, "another": stored(), "referring": referring()}[existing]
    found = refusal(lambda: parse(attestation=signed_by(**{slot: info(3)}), existing=before))
    assert found == bad_at_dps(
        f"{slot}.info names a certificate that this enrollment does not hold; send the certificate itself"
    )


@pytest.mark.parametrize("gone", [{}, {"secondary": None}, {"secondary": {}}, {"secondary": {"certificate": None}}])
def test_a_removed_certificate_reads_back_null(gone: dict[str, Any]) -> None:
    parsed = parse(attestation=signed_by(primary=info(1), **gone), existing=stored())
    assert parsed.secondary is None
    shown = group.render(parsed, HUBS)["attestation"]["x509"]["signingCertificates"]
    assert (list(shown["primary"]), shown["secondary"]) == (["info"], None)


# --- references to CA certificates ------------------------------------------------------------------------------------


def test_a_reference_is_to_a_verified_ca_certificate_whatever_the_case_of_the_letters() -> None:
    parsed = parse(attestation=refers_to("ROOT", secondary="spare"))
    assert (parsed.primary_ca, parsed.secondary_ca) == ("Root", "Spare")
    assert (parsed.primary, parsed.secondary) == (None, None)


@pytest.mark.parametrize("nothing", [None, ""])
def test_a_secondary_reference_may_be_missing(nothing: str | None) -> None:
    parsed = parse(attestation=refers_to("Root", secondary=nothing))
    assert (parsed.primary_ca, parsed.secondary_ca) == ("Root", None)
    assert parsed == parse(attestation=refers_to("Root"))


@pytest.mark.parametrize("nothing", [None, ""])
def test_one_reference_will_do_and_none_will_not(nothing: str | None) -> None:
    parsed = parse(attestation=refers_to(nothing, secondary="Root"))
    assert (parsed.primary_ca, parsed.secondary_ca) == (None, "Root")
    assert group.mechanism(parsed)["x509"] == {"caReferences": {"primary": None, "secondary": "Root"}}
    found = refusal(lambda: parse(attestation=refers_to(nothing, secondary=nothing)))
    assert found == bad_at_dps("attestation.x509.caReferences names no CA certificate")


@pytest.mark.parametrize("slot", ["primary", "secondary"])
@pytest.mark.parametrize("name", ["Nobody", 7, ["Root"], {"name": "Root"}, True])
def test_a_name_that_this_dps_does_not_have_is_refused(slot: str, name: Any) -> None:
    references = {"primary": "Root", "secondary": "Spare", slot: name}
    found = refusal(lambda: parse(attestation=refers_to(**references)))
    assert found == bad_at_dps(f"this DPS has no CA certificate {name!r}: add it before the group")


@pytest.mark.parametrize("slot", ["primary", "secondary"])
def test_a_ca_certificate_that_is_not_verified_can_be_named_with_a_word_of_doubt(slot: str) -> None:
    references: dict[str, Any] = {"primary": "Root", "secondary": "Spare", slot: "Unproved"}
    parsed = parse(attestation=refers_to(**references))
    doubts = list(group.doubts(parsed, known_ca))
    assert doubts == ["the CA certificate 'Unproved' is not verified: prove that you hold its key"]


def test_a_group_can_change_from_certificates_to_references_and_back() -> None:
    first = parse(attestation=refers_to("Root"), existing=stored())
    assert (first.primary, first.secondary, first.primary_ca) == (None, None, "Root")
    second = parse(existing=first)
    assert (second.primary, second.primary_ca, second.secondary_ca) == (authority().der, None, None)


# --- render -----------------------------------------------------------------------------------------------------------


def facts(number: int) -> dict[str, Any]:
    described = describe(authority(number).der)
    return {
        "info": {
            "subjectName": f"CN=Authority {number}",
            "sha1Thumbprint": described.thumbprint_sha1,
            "sha256Thumbprint": authority(number).thumbprint,
            "issuerName": f"CN=Authority {number}",
            "notBeforeUtc": f"{described.not_before:%Y-%m-%dT%H:%M:%S}Z",
            "notAfterUtc": f"{described.not_after:%Y-%m-%dT%H:%M:%S}Z",
            "serialNumber": described.serial_number,
            "version": 3,
        }
    }


def test_a_short_group_is_shown_without_what_it_does_not_have() -> None:
    assert group.render(parse(), HUBS) == {
        "enrollmentGroupId": GID,
        "attestation": {"type": "x509", "x509": {"signingCertificates": {"primary": facts(1), "secondary": None}}},
        "capabilities": {"iotEdge": False},
        "reprovisionPolicy": {"updateHubAssignment": True, "migrateDeviceData": True},
        "allocationPolicy": "hashed",
        "provisioningStatus": "enabled",
        "etag": ETAG,
        "createdDateTimeUtc": TEXT,
        "lastUpdatedDateTimeUtc": TEXT,
    }


def test_a_long_group_is_shown_whole_but_for_its_certificates() -> None:
    settings = {**DEFAULTS, "optionalDeviceInformation": {"batch": 7}}
    assert group.render(stored(settings=settings, hubs=("second", "first")), HUBS) == {
        "enrollmentGroupId": "Fleet-01",
        "attestation": {"type": "x509", "x509": {"signingCertificates": {"primary": facts(1), "secondary": facts(2)}}},
        "optionalDeviceInformation": {"batch": 7},
        "capabilities": {"iotEdge": False},
        "reprovisionPolicy": {"updateHubAssignment": True, "migrateDeviceData": True},
        "allocationPolicy": "hashed",
        "iotHubs": ["second.example", "First.example"],
        "initialTwin": {"tags": {"room": "lab"}},
        "provisioningStatus": "disabled",
        "etag": '"old"',
        "createdDateTimeUtc": OLD,
        "lastUpdatedDateTimeUtc": "2021-01-01T00:00:00.0000000Z",
    }


@pytest.mark.parametrize(
    ("record", "x509"),
    [
        (stored, {"signingCertificates": {"primary": facts(1), "secondary": facts(2)}}),
        (referring, {"caReferences": {"primary": "Root", "secondary": "Spare"}}),
        (lambda: referring(secondary_ca=None), {"caReferences": {"primary": "Root", "secondary": None}}),
    ],
    ids=["certificates", "references", "one reference"],
)
def test_the_attestation_is_shown_alone_and_in_the_group(record: Callable[[], Group], x509: dict[str, Any]) -> None:
    shown = {"type": "x509", "x509": x509}
    assert group.mechanism(record()) == shown
    assert group.render(record(), HUBS)["attestation"] == shown


@pytest.mark.parametrize("record", [stored, referring, lambda: stored(secondary=None)], ids=["own", "named", "one"])
def test_what_is_shown_can_be_written_back(record: Callable[[], Group]) -> None:
    shown = group.render(record(), HUBS)
    again = group.parse("fleet-01", shown, record(), HUBS, known_ca, STAMP)
    assert again == replace(record(), etag=ETAG, updated=TEXT)


def test_what_is_shown_can_be_changed_and_written_back() -> None:
    shown = group.render(stored(), HUBS) | {"provisioningStatus": "enabled", "iotHubs": ["first.example"]}
    shown["attestation"]["x509"]["signingCertificates"]["secondary"] = None
    again = group.parse(GID, shown, stored(), HUBS, known_ca, STAMP)
    assert (again.enabled, again.hubs, again.primary, again.secondary) == (True, ("first",), authority(1).der, None)


# --- CA certificates --------------------------------------------------------------------------------------------------


def ca_document(number: int = 1, **properties: Any) -> dict[str, Any]:
    return {"properties": {"certificate": b64encode(authority(number).der).decode(), **properties}}


def test_an_uploaded_certificate_is_not_verified() -> None:
    parsed = group.parse_ca("Root", ca_document(), None, STAMP)
    assert asdict(parsed) == {
        "name": "Root",
        "der": authority().der,
        "verified": False,
        "code": "",
        "etag": STAMP.etag,
        "created": TEXT,
        "updated": TEXT,
    }


@pytest.mark.parametrize("given", [True, False])
def test_an_uploaded_certificate_can_be_verified_by_word_alone(given: bool) -> None:
    assert group.parse_ca("Root", ca_document(isVerified=given), None, STAMP).verified is given


@pytest.mark.parametrize("given", [1, "true", []])
def test_the_word_is_true_or_false(given: Any) -> None:
    found = refusal(lambda: group.parse_ca("Root", ca_document(isVerified=given), None, STAMP))
    assert found == bad_at_dps("properties.isVerified is neither true nor false")


def test_another_upload_keeps_the_spelling_and_the_day_of_the_first_and_is_unproved() -> None:
    before = ca_certificate(code="CODE")
    parsed = group.parse_ca("ROOT", ca_document(2), before, STAMP)
    expected = CaCertificate(
        "Root", authority(2).der, verified=False, code="", etag=STAMP.etag, created=OLD, updated=TEXT
    )
    assert parsed == expected


@pytest.mark.parametrize("name", ["", "a b", "dot.", "a" * 65, "ä"])
def test_a_path_that_holds_no_name_of_a_certificate_is_refused(name: str) -> None:
    row, reason = refusal(lambda: group.parse_ca(name, ca_document(), None, STAMP))
    assert row is refusals.DPS_BAD_REQUEST
    assert reason.startswith("the name in the path is no name of a certificate")
    assert group.parse_ca("a" * 64, ca_document(), None, STAMP).name == "a" * 64


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (None, "the body is not a JSON object"),
        ([], "the body is not a JSON object"),
        ({}, "properties is missing or is not an object"),
        ({"properties": []}, "properties is missing or is not an object"),
        ({"properties": {}}, "properties.certificate is not a string"),
        ({"properties": {"certificate": 7}}, "properties.certificate is not a string"),
        ({"properties": {"certificate": "AAAA"}}, "properties.certificate is no X.509 certificate in PEM or base64"),
        ({"certificate": "AAAA"}, "properties is missing or is not an object"),
    ],
)
def test_an_upload_without_a_certificate_is_refused(document: Any, why: str) -> None:
    assert refusal(lambda: group.parse_ca("Root", document, None, STAMP)) == bad_at_dps(why)


def test_the_certificate_of_a_device_cannot_be_uploaded() -> None:
    document = {"properties": {"certificate": leaf("thermo-01").pem}}
    found = refusal(lambda: group.parse_ca("Root", document, None, STAMP))
    assert found == bad_at_dps("CN=thermo-01 is no CA certificate (basic constraints CA:TRUE)")


def test_a_certificate_is_shown_as_azure_shows_it() -> None:
    """https://learn.microsoft.com/rest/api/iot-dps/dps-certificate/get"""
    shown = group.render_ca(ca_certificate(verified=False))
    described = describe(authority().der)
    assert (shown["name"], shown["etag"]) == ("Root", "e")
    properties = shown["properties"]
    assert properties["isVerified"] is False
    assert properties["thumbprint"] == described.thumbprint_sha1
    assert b64decode(properties["certificate"]) == authority().der
    assert "Authority 1" in properties["subject"]
    assert "verificationCode" not in properties
    assert properties["expiry"] == f"{described.not_after:%a, %d %b %Y %H:%M:%S} GMT"


def test_all_dates_of_a_certificate_are_those_of_http() -> None:
    """`Thu, 12 Oct 2017 19:26:56 GMT`, in the examples of the same page."""
    properties = group.render_ca(group.parse_ca("Root", ca_document(), None, STAMP))["properties"]
    for name in ("created", "updated"):
        assert parsedate_to_datetime(properties[name]) == NOW.replace(microsecond=0), name


def test_what_is_shown_of_a_certificate_can_be_uploaded_again() -> None:
    shown = group.render_ca(ca_certificate())
    parsed = group.parse_ca("Root", shown, ca_certificate(), STAMP)
    assert (parsed.der, parsed.verified, parsed.created) == (authority().der, True, OLD)


# --- the proof of possession ------------------------------------------------------------------------------------------


def coded(number: int = 1) -> CaCertificate:
    return group.with_code(ca_certificate(number=number, verified=False), STAMP)


def proof(common_name: str, issuer: Authority | None = None, **options: Any) -> dict[str, Any]:
    return {"certificate": leaf(common_name, issuer, **options).pem}


def test_a_fresh_code_is_shown_and_makes_the_certificate_unverified() -> None:
    made = group.with_code(ca_certificate(), STAMP)
    code = attestation.verification_code(STAMP.guid)
    assert made == ca_certificate(verified=False, code=code, etag=STAMP.etag, updated=TEXT)
    properties = group.render_ca(made)["properties"]
    assert (properties["verificationCode"], properties["isVerified"]) == (code, False)


def test_each_code_is_another_one() -> None:
    later = Stamp(NOW, "220086f2-76fe-4341-9214-bb6cfb891b8a")
    assert group.with_code(coded(), later).code not in ("", coded().code)


def test_a_certificate_with_the_code_signed_by_the_key_proves_its_possession() -> None:
    proved = group.prove(coded(), proof(coded().code, authority()), Stamp(NOW, "320086f2-76fe-4341-9214-bb6cfb891b8a"))
    assert (proved.verified, proved.code, proved.der) == (True, "", authority().der)
    assert proved.etag != coded().etag
    assert "verificationCode" not in group.render_ca(proved)["properties"]


def test_the_proof_may_come_as_base64() -> None:
    made = leaf(coded().code, authority())
    for text in (b64encode(made.der).decode(), b64encode(made.pem.encode()).decode()):
        assert group.prove(coded(), {"certificate": text}, STAMP).verified


def test_an_authority_for_devices_alone_can_prove_its_key_too() -> None:
    narrow = ca("Narrow", path_length=0)
    uploaded = group.with_code(ca_certificate(der=narrow.der, verified=False), STAMP)
    assert group.prove(uploaded, proof(uploaded.code, narrow), STAMP).verified


@pytest.mark.parametrize("wrong", ["", "A" * 48, "one sign less", "lower case", "one sign more"])
def test_a_proof_with_another_name_is_none(wrong: str) -> None:
    code = coded().code
    name = {"one sign less": code[:-1], "lower case": code.lower(), "one sign more": code + "A"}.get(
        wrong, wrong or "x"
    )
    found = refusal(lambda: group.prove(coded(), proof(name, authority()), STAMP))
    assert found == bad_at_dps(f"the verification certificate says CN={name}, the verification code is {code}")


def wrong_signers() -> dict[str, Authority | None]:
    return {
        "itself": None,
        "another": authority(2),
        "a namesake": ca("Authority 1"),
        "one that the right one has issued": ca("Below", authority()),
        "the right key under another name": ca("Other name", key=authority().key),
    }


@pytest.mark.parametrize("signer", [*wrong_signers()])
def test_a_proof_with_another_signature_is_none(signer: str) -> None:
    document = proof(coded().code, wrong_signers()[signer])
    found = refusal(lambda: group.prove(coded(), document, STAMP))
    assert found == bad_at_dps("the verification certificate is not signed by CN=Authority 1")


def test_the_ca_certificate_itself_is_no_proof() -> None:
    assert refusal(lambda: group.prove(coded(), {"certificate": authority().pem}, STAMP))[0] is refusals.DPS_BAD_REQUEST


@pytest.mark.parametrize("verified", [True, False])
def test_without_a_code_there_is_nothing_to_prove(verified: bool) -> None:
    found = refusal(lambda: group.prove(ca_certificate(verified=verified), proof("x", authority()), STAMP))
    assert found == bad_at_dps("the CA certificate Root has no verification code now: generate one first")


def test_a_code_proves_once_and_only_its_own_certificate() -> None:
    document = proof(coded().code, authority())
    proved = group.prove(coded(), document, STAMP)
    assert refusal(lambda: group.prove(proved, document, STAMP))[0] is refusals.DPS_BAD_REQUEST
    assert refusal(lambda: group.prove(coded(2), document, STAMP))[0] is refusals.DPS_BAD_REQUEST


def test_the_proof_of_the_code_before_proves_nothing() -> None:
    later = group.with_code(coded(), Stamp(NOW, "220086f2-76fe-4341-9214-bb6cfb891b8a"))
    assert refusal(lambda: group.prove(later, proof(coded().code, authority()), STAMP))[0] is refusals.DPS_BAD_REQUEST


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (None, "the body is not a JSON object"),
        ([], "the body is not a JSON object"),
        ({}, "verification.certificate is not a string"),
        ({"certificate": 7}, "verification.certificate is not a string"),
        ({"certificate": "AAAA"}, "verification.certificate is no X.509 certificate in PEM or base64"),
    ],
)
def test_a_proof_without_a_certificate_is_refused(document: Any, why: str) -> None:
    assert refusal(lambda: group.prove(coded(), document, STAMP)) == bad_at_dps(why)
