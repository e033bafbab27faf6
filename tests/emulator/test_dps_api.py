"""The data plane of DPS: single enrollments, bulk, mechanisms, registrations, pages, queries, versions, limits."""

import http.client
import ssl
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests
from clients import document, enroll, group_document
from connections import at_dps, enrolled, provisioned
from pki import Device, make_ca, make_device
from processes import RunningEmulator
from rest import API_VERSIONS, TIME, ask, done, dps_error, pages, token

Start = Callable[..., RunningEmulator]


# --- single enrollments -----------------------------------------------------------------------------------------------


def test_an_enrollment_is_shown_with_the_facts_of_its_certificate(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = make_device(tmp_path, "shown-01")
    assert ask(emulator, "PUT", "/enrollments/shown-01", document(device)).status_code == 200
    shown = ask(emulator, "GET", "/enrollments/SHOWN-01").json()
    primary = shown["attestation"]["x509"]["clientCertificates"]["primary"]
    assert list(primary) == ["info"]
    assert primary["info"]["subjectName"] == "CN=shown-01"
    assert primary["info"]["sha256Thumbprint"] == device.thumbprint
    assert (shown["registrationId"], shown["provisioningStatus"]) == ("shown-01", "enabled")
    assert shown["reprovisionPolicy"] == {"updateHubAssignment": True, "migrateDeviceData": True}


def test_what_was_read_can_be_changed_and_written_back(emulator: RunningEmulator, tmp_path: Path) -> None:
    enrolled(emulator, tmp_path, "back-01")
    shown = ask(emulator, "GET", "/enrollments/back-01").json() | {"provisioningStatus": "disabled"}
    answer = ask(emulator, "PUT", "/enrollments/back-01", shown, If_Match=shown["etag"])
    assert answer.status_code == 200
    again = ask(emulator, "GET", "/enrollments/back-01").json()
    assert again["provisioningStatus"] == "disabled"
    assert again["attestation"] == shown["attestation"]
    assert again["createdDateTimeUtc"] == shown["createdDateTimeUtc"]


@pytest.mark.parametrize("form", ["pem", "base64 of pem", "base64 of der"])
def test_a_certificate_comes_in_three_forms(emulator: RunningEmulator, tmp_path: Path, form: str) -> None:
    device = make_device(tmp_path, "form-" + form.replace(" ", "-"))
    text = {
        "pem": device.pem,
        "base64 of pem": b64encode(device.pem.encode()).decode(),
        "base64 of der": b64encode(device.der).decode(),
    }[form]
    body = {"attestation": {"type": "x509", "x509": {"clientCertificates": {"primary": {"certificate": text}}}}}
    answer = ask(emulator, "PUT", f"/enrollments/{device.common_name}", body).json()
    assert (
        answer["attestation"]["x509"]["clientCertificates"]["primary"]["info"]["sha256Thumbprint"] == device.thumbprint
    )


@pytest.mark.parametrize("if_match", [None, '"stale"', "stale"])
def test_replacing_needs_the_etag(emulator: RunningEmulator, tmp_path: Path, if_match: str | None) -> None:
    device = enrolled(emulator, tmp_path, f"etag-{'none' if if_match is None else len(if_match)}")
    headers: dict[str, Any] = {} if if_match is None else {"If_Match": if_match}
    answer = ask(emulator, "PUT", f"/enrollments/{device.common_name}", document(device), **headers)
    assert dps_error(answer)[0] == (409 if if_match is None else 412)


@pytest.mark.parametrize("quoted", [True, False])
@pytest.mark.parametrize("star", [True, False])
def test_an_etag_matches_quoted_or_not(emulator: RunningEmulator, tmp_path: Path, quoted: bool, star: bool) -> None:
    device = make_device(tmp_path, f"match-{quoted}-{star}")
    etag = "*" if star else str(enroll(emulator, device)["etag"]).strip('"')
    if star:
        enroll(emulator, device)
    value = f'"{etag}"' if quoted else etag
    path = f"/enrollments/{device.common_name}"
    assert ask(emulator, "PUT", path, document(device, deviceId="x"), If_Match=value).status_code == 200
    assert ask(emulator, "DELETE", path, If_Match="*").status_code == 204
    assert dps_error(ask(emulator, "GET", path)) == (404, 404201, "Enrollment not found.")
    assert dps_error(ask(emulator, "DELETE", path)) == (404, 404201, "Enrollment not found.")


# --- enrollments for many at once -------------------------------------------------------------------------------------


def bulk(emulator: RunningEmulator, mode: Any, items: Any, path: str = "/enrollments") -> requests.Response:
    return ask(emulator, "POST", path, {"mode": mode, path.removeprefix("/"): items})


def item(device: Device, registration_id: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"registrationId": registration_id or device.common_name, **document(device, **fields)}


def failures(response: requests.Response) -> list[tuple[str, int, str]]:
    """(registration ID, error code, status) of those that were refused; the answer must be whole."""
    assert response.status_code == 200, response.text
    result = response.json()
    assert list(result) == ["isSuccessful", "errors"]
    assert result["isSuccessful"] is not bool(result["errors"])
    assert all(list(one) == ["registrationId", "errorCode", "errorStatus"] for one in result["errors"])
    return [(one["registrationId"], one["errorCode"], one["errorStatus"]) for one in result["errors"]]


def shown(emulator: RunningEmulator, registration_id: str) -> dict[str, Any] | None:
    """An enrollment, None when there is none."""
    answer = ask(emulator, "GET", f"/enrollments/{registration_id}")
    assert answer.status_code in (200, 404)
    return dict(answer.json()) if answer.status_code == 200 else None


MISSING, EXISTS = (404201, "Enrollment not found."), (409201, "Enrollment already exists.")
CHANGED, BAD = (412201, "Precondition failed."), (400004, "Bad Request.")


def test_ten_are_created_in_one_request(emulator: RunningEmulator, tmp_path: Path) -> None:
    devices = [make_device(tmp_path, f"ten-{number}") for number in range(10)]
    answer = bulk(emulator, "create", [item(device, deviceId=f"of-{device.common_name}") for device in devices])
    assert failures(answer) == []
    for device in devices:
        enrollment = shown(emulator, device.common_name)
        assert enrollment is not None
        assert enrollment["deviceId"] == f"of-{device.common_name}"
        primary = enrollment["attestation"]["x509"]["clientCertificates"]["primary"]
        assert primary["info"]["sha256Thumbprint"] == device.thumbprint


def test_what_was_created_in_bulk_provisions(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = make_device(tmp_path, "bulk-lives")
    assert failures(bulk(emulator, "create", [item(device)])) == []
    with at_dps(emulator, device) as wire:
        assert wire.provision()["status"] == "assigned"


def test_each_is_created_or_refused_for_itself(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = make_device(tmp_path, "mixed")
    enroll(emulator, device, "mixed-there", deviceId="before")
    items = [
        item(device, "mixed-1"),
        item(device, "mixed-there", deviceId="after"),
        {"registrationId": "mixed-bare"},
        item(device, "mixed-1"),
        item(device, "no ID"),
        {**item(device), "registrationId": 7},
        document(device),
        "mixed-text",
        item(device, "mixed-2"),
    ]
    assert failures(bulk(emulator, "create", items)) == [
        ("mixed-there", *EXISTS),
        ("mixed-bare", *BAD),
        ("mixed-1", *EXISTS),
        ("no ID", *BAD),
        ("7", *BAD),
        ("", *BAD),
        ("", *BAD),
    ]
    there = shown(emulator, "mixed-there")
    assert there is not None
    assert there["deviceId"] == "before"
    assert shown(emulator, "mixed-1") is not None
    assert shown(emulator, "mixed-2") is not None
    assert shown(emulator, "mixed-bare") is None


def test_update_changes_whatever_is_there_and_creates_nothing(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = make_device(tmp_path, "update")
    before = enroll(emulator, device, "update-1")
    items = [
        item(device, "UPDATE-1", provisioningStatus="disabled", etag='"stale"'),
        item(device, "update-2"),
        item(device, "update-1", allocationPolicy="sometimes"),
    ]
    assert failures(bulk(emulator, "update", items)) == [("update-2", *MISSING), ("update-1", *BAD)]
    after = shown(emulator, "update-1")
    assert after is not None
    assert (after["registrationId"], after["provisioningStatus"]) == ("update-1", "disabled")
    assert after["createdDateTimeUtc"] == before["createdDateTimeUtc"]
    assert after["etag"] != before["etag"]
    assert shown(emulator, "update-2") is None


def test_what_was_read_can_be_changed_and_written_back_in_bulk(emulator: RunningEmulator, tmp_path: Path) -> None:
    enroll(emulator, make_device(tmp_path, "round"), initialTwin={"tags": {"room": "lab"}})
    before = shown(emulator, "round")
    assert before is not None
    assert failures(bulk(emulator, "updateIfMatchETag", [before | {"deviceId": "new"}])) == []
    after = shown(emulator, "round")
    assert after is not None
    assert after["deviceId"] == "new"
    assert {name: after[name] for name in ("attestation", "initialTwin")} == {
        name: before[name] for name in ("attestation", "initialTwin")
    }


@pytest.mark.parametrize("quoted", [True, False])
def test_update_if_the_etag_matches(emulator: RunningEmulator, tmp_path: Path, quoted: bool) -> None:
    device = make_device(tmp_path, f"etags-{quoted}")
    names = [f"etags-{quoted}-{number}" for number in range(3)]
    etag = str(enroll(emulator, device, names[0])["etag"])
    for name in names[1:]:
        enroll(emulator, device, name)
    items = [
        item(device, names[0], deviceId="new", etag=etag if quoted else etag.strip('"')),
        item(device, names[1], deviceId="new", etag='"stale"'),
        item(device, names[2], deviceId="new"),
        item(device, "etags-nobody", etag=etag),
    ]
    answer = bulk(emulator, "updateIfMatchETag", items)
    assert failures(answer) == [(names[1], *CHANGED), (names[2], *CHANGED), ("etags-nobody", *MISSING)]
    assert ["deviceId" in (shown(emulator, name) or {}) for name in names] == [True, False, False]


def test_delete_in_bulk(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = make_device(tmp_path, "gone")
    etag = enroll(emulator, device, "gone-1")["etag"]
    for number in (2, 3):
        enroll(emulator, device, f"gone-{number}")
    items = [
        {"registrationId": "gone-1", "etag": etag},
        {"registrationId": "GONE-2"},
        {"registrationId": "gone-3", "etag": '"stale"'},
        {"registrationId": "gone-4"},
        {},
    ]
    answer = bulk(emulator, "delete", items)
    assert failures(answer) == [("gone-3", *CHANGED), ("gone-4", *MISSING), ("", *MISSING)]
    assert [shown(emulator, f"gone-{number}") is None for number in (1, 2, 3)] == [True, True, False]


@pytest.mark.parametrize("etag", [7, True, ["x"], {"x": 1}])
@pytest.mark.parametrize("mode", ["updateIfMatchETag", "delete"])
def test_an_etag_that_is_no_text_is_refused_for_itself(
    emulator: RunningEmulator, tmp_path: Path, mode: str, etag: Any
) -> None:
    device = make_device(tmp_path, "odd")
    name = f"odd-{mode}-{type(etag).__name__}"
    enroll(emulator, device, name)
    answer = bulk(emulator, mode, [item(device, name, etag=etag), {"registrationId": "nobody"}])
    assert [(who, code) for who, code, _ in failures(answer)] == [(name, 400004), ("nobody", 404201)]
    assert shown(emulator, name) is not None


def test_half_a_character_in_a_registration_id_is_no_fault_of_the_emulator(emulator: RunningEmulator) -> None:
    body = rb'{"mode": "delete", "enrollments": [{"registrationId": "\ud800"}, {"registrationId": "nobody"}]}'
    half, nobody = failures(ask(emulator, "POST", "/enrollments", body))
    assert half in [("\ud800", *MISSING), ("\ud800", *BAD)]
    assert nobody == ("nobody", *MISSING)


@pytest.mark.parametrize(
    "body",
    [
        {"mode": "create", "enrollments": []},
        {"mode": "create", "enrollments": [{"registrationId": f"many-{number}"} for number in range(11)]},
        {"mode": "create", "enrollments": {"registrationId": "many-1"}},
        {"mode": "create", "enrollmentGroups": [{"registrationId": "many-1"}]},
        {"mode": "create"},
        {"mode": "replace", "enrollments": [{"registrationId": "many-1"}]},
        {"mode": ["create"], "enrollments": [{"registrationId": "many-1"}]},
        {"enrollments": [{"registrationId": "many-1"}]},
        [],
        None,
        b"{",
    ],
)
def test_a_bulk_request_that_is_none_is_a_400(emulator: RunningEmulator, body: Any) -> None:
    assert dps_error(ask(emulator, "POST", "/enrollments", body)) == (400, *BAD)


def test_groups_in_bulk_are_named_by_their_own_ids(emulator: RunningEmulator, tmp_path: Path) -> None:
    names = ("bulk-group", "no group", "BULK-group")
    items = [{"enrollmentGroupId": name, **group_document(make_ca(tmp_path, f"{name} CA"))} for name in names]
    result = bulk(emulator, "create", items, "/enrollmentGroups").json()
    assert result == {
        "isSuccessful": False,
        "errors": [
            {"enrollmentGroupId": "no group", "errorCode": 400004, "errorStatus": "Bad Request."},
            {
                "enrollmentGroupId": "BULK-group",
                "errorCode": 409202,
                "errorStatus": "Enrollment group already exists.",
            },
        ],
    }
    assert ask(emulator, "GET", "/enrollmentGroups/bulk-group").status_code == 200
    deleted = bulk(emulator, "delete", [{"enrollmentGroupId": "bulk-group"}], "/enrollmentGroups")
    assert deleted.json() == {"isSuccessful": True, "errors": []}
    assert dps_error(ask(emulator, "GET", "/enrollmentGroups/bulk-group"))[:2] == (404, 404202)


# --- attestation mechanisms -------------------------------------------------------------------------------------------


def test_the_mechanism_of_an_enrollment(emulator: RunningEmulator, tmp_path: Path) -> None:
    first, second = make_device(tmp_path, "proof-1"), make_device(tmp_path, "proof-1")
    enroll(emulator, first, secondary=second)
    answer = ask(emulator, "POST", "/enrollments/PROOF-1/attestationmechanism")
    assert answer.status_code == 200
    assert answer.json() == (shown(emulator, "proof-1") or {})["attestation"]
    certificates = answer.json()["x509"]["clientCertificates"]
    thumbprints = [certificates[slot]["info"]["sha256Thumbprint"] for slot in ("primary", "secondary")]
    assert (answer.json()["type"], thumbprints) == ("x509", [first.thumbprint, second.thumbprint])
    assert "BEGIN" not in answer.text, "facts only"


def test_the_mechanism_of_a_group(emulator: RunningEmulator, tmp_path: Path) -> None:
    ca = make_ca(tmp_path, "Proof CA")
    assert ask(emulator, "PUT", "/enrollmentGroups/proof", group_document(ca)).status_code == 200
    mechanism = ask(emulator, "POST", "/enrollmentGroups/proof/attestationmechanism").json()
    certificates = mechanism["x509"]["signingCertificates"]
    assert (certificates["primary"]["info"]["sha256Thumbprint"], certificates["secondary"]) == (ca.thumbprint, None)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/enrollments/nobody", (404, 404201, "Enrollment not found.")),
        ("/enrollmentGroups/nobody", (404, 404202, "Enrollment group not found.")),
    ],
)
def test_what_is_not_there_has_no_mechanism(
    emulator: RunningEmulator, path: str, expected: tuple[int, int, str]
) -> None:
    assert dps_error(ask(emulator, "POST", f"{path}/attestationmechanism")) == expected


# --- registrations ----------------------------------------------------------------------------------------------------


def test_a_registration_is_shown_and_deleted(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = enrolled(emulator, tmp_path, "record-01", deviceId="record-device")
    assert dps_error(ask(emulator, "GET", "/registrations/record-01")) == (404, 404201, "Registration not found.")
    with at_dps(emulator, device) as wire:
        wire.provision()
    record = ask(emulator, "GET", "/registrations/RECORD-01").json()
    assert sorted(record) == [
        "assignedHub",
        "createdDateTimeUtc",
        "deviceId",
        "etag",
        "lastUpdatedDateTimeUtc",
        "registrationId",
        "status",
        "substatus",
    ]
    assert (record["registrationId"], record["deviceId"]) == ("record-01", "record-device")
    assert (record["status"], record["substatus"]) == ("assigned", "initialAssignment")
    assert record["assignedHub"] == emulator.host
    assert TIME.fullmatch(record["createdDateTimeUtc"])
    assert TIME.fullmatch(record["lastUpdatedDateTimeUtc"])
    stale = ask(emulator, "DELETE", "/registrations/record-01", If_Match='"stale"')
    assert dps_error(stale) == (412, 412203, "Precondition failed.")
    assert ask(emulator, "GET", "/registrations/record-01").json() == record, "a refusal deletes nothing"
    deleted = ask(emulator, "DELETE", "/registrations/Record-01", If_Match=record["etag"])
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert dps_error(ask(emulator, "GET", "/registrations/record-01"))[:2] == (404, 404201)
    assert dps_error(ask(emulator, "DELETE", "/registrations/record-01"))[:2] == (404, 404201)
    assert ask(emulator, "GET", "/devices/record-device").status_code == 200, "the device stays in its hub"
    assert "registrationState" not in (shown(emulator, "record-01") or {"registrationState": None})


def test_a_deleted_registration_begins_again(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = provisioned(emulator, tmp_path, "again-01")
    assert ask(emulator, "DELETE", "/registrations/again-01").status_code == 204, "no If-Match is needed"
    with at_dps(emulator, device, api_version="2021-06-01") as wire:
        assert wire.provision()["substatus"] == "initialAssignment"
    assert ask(emulator, "GET", "/registrations/again-01").json()["substatus"] == "initialAssignment"


@pytest.mark.parametrize("case", ["star", "star-in-quotes", "quoted", "bare"])
def test_the_etag_of_a_registration_matches_quoted_or_not(emulator: RunningEmulator, tmp_path: Path, case: str) -> None:
    device = provisioned(emulator, tmp_path, f"match-{case}")
    path = f"/registrations/{device.common_name}"
    etag = ask(emulator, "GET", path).json()["etag"].strip('"')
    value = {"star": "*", "star-in-quotes": '"*"', "quoted": f'"{etag}"', "bare": etag}[case]
    assert ask(emulator, "DELETE", path, If_Match=value).status_code == 204


# --- pages ------------------------------------------------------------------------------------------------------------


def test_enrollments_come_page_by_page(emulator: RunningEmulator, tmp_path: Path) -> None:
    for number in range(5):
        enrolled(emulator, tmp_path, f"page-{number}")
    everything = done(ask(emulator, "POST", "/enrollments/query", {"query": "select *"}))
    assert {f"page-{number}" for number in range(5)} <= {row["registrationId"] for row in everything}
    assert not any("registrationState" in row for row in everything)
    found = list(pages(emulator, "/enrollments/query", "SELECT * FROM enrollments", 2, "enrollment"))
    assert all(len(page) == 2 for page in found[:-1])
    assert [row for page in found for row in page] == everything


def test_groups_come_page_by_page(emulator: RunningEmulator, tmp_path: Path) -> None:
    for number in range(3):
        ca = make_ca(tmp_path, f"Page {number} CA")
        assert ask(emulator, "PUT", f"/enrollmentGroups/paged-{number}", group_document(ca)).status_code == 200
    everything = done(ask(emulator, "POST", "/enrollmentGroups/query", {"query": "SELECT * FROM enrollmentGroups"}))
    assert {f"paged-{number}" for number in range(3)} <= {row["enrollmentGroupId"] for row in everything}
    found = list(pages(emulator, "/enrollmentGroups/query", "SELECT *", 1, "enrollmentGroup"))
    assert [len(page) for page in found] == [1] * len(everything)
    assert [page[0] for page in found] == everything


@pytest.mark.parametrize(
    "headers",
    [
        {"x_ms_max_item_count": "0"},
        {"x_ms_max_item_count": "-2"},
        {"x_ms_max_item_count": "two"},
        {"x_ms_max_item_count": "9" * 5000},
        {"x_ms_continuation": "!"},
        {"x_ms_continuation": b64encode(b"-1").decode()},
        {"x_ms_continuation": b64encode(b"two").decode()},
        {"x_ms_continuation": b64encode(b"9" * 20).decode()},
    ],
)
@pytest.mark.parametrize("kind", ["enrollments", "enrollmentGroups"])
def test_a_page_that_cannot_be_is_a_400(emulator: RunningEmulator, kind: str, headers: dict[str, Any]) -> None:
    assert dps_error(ask(emulator, "POST", f"/{kind}/query", {"query": "SELECT *"}, **headers)) == (400, *BAD)


def test_a_page_past_the_end_is_empty_and_the_last(emulator: RunningEmulator) -> None:
    past = b64encode(b"1000").decode()
    answer = ask(emulator, "POST", "/enrollments/query", {"query": "SELECT *"}, x_ms_continuation=past)
    assert (answer.status_code, answer.json()) == (200, [])
    assert "x-ms-continuation" not in answer.headers


# --- queries ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["enrollments", "enrollmentGroups"])
@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM enrollments WHERE registrationId = 'x'",
        "SELECT registrationId FROM enrollments",
        "SELECT TOP 1 * FROM enrollments",
        "DELETE * FROM enrollments",
        "",
    ],
)
def test_a_query_that_is_not_emulated_is_named_in_the_log(emulator: RunningEmulator, kind: str, query: str) -> None:
    before = len(emulator.log())
    assert dps_error(ask(emulator, "POST", f"/{kind}/query", {"query": query}))[0] == 501
    line = next(line for line in emulator.log()[before:].splitlines() if "WARNING" in line)
    assert f"limit of this emulator, not of Azure: the query {query[:60]}" in line


@pytest.mark.parametrize(
    "query",
    [
        "select *",
        " SELECT  *\nFROM enrollments ; ",
        "Select * From anything",
        "{'additional_properties': {}, 'query': 'SELECT *'}",  # as the Azure CLI wraps it
    ],
)
def test_the_one_query_in_other_spellings(emulator: RunningEmulator, query: str) -> None:
    assert ask(emulator, "POST", "/enrollments/query", {"query": query}).status_code == 200


def test_a_query_of_blanks_is_refused_in_no_time(start: Start) -> None:
    query = {"query": "SELECT *" + " " * 30_000 + "x"}
    assert ask(start(), "POST", "/enrollments/query", query, within=3).status_code == 501


# --- versions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["2018-11-01", "2019-03-31", "2021-06-01", "2021-10-01", "2025-07-01-preview"])
@pytest.mark.parametrize("path", ["/enrollments/nobody", "/enrollmentGroups/nobody", "/registrations/nobody"])
def test_every_api_version_of_the_clients_is_known(emulator: RunningEmulator, path: str, version: str) -> None:
    assert dps_error(ask(emulator, "GET", path, api_version=version))[0] == 404


# --- limits -----------------------------------------------------------------------------------------------------------


def statuses(emulator: RunningEmulator, path: str, count: int) -> list[int]:
    """What so many requests are answered that come as quickly as one client can ask."""
    overview, found = emulator.emulator.overview, []
    context = ssl.create_default_context(cafile=str(overview.ca_file))
    headers = {"Authorization": token(emulator, "dps")}
    with closing(http.client.HTTPSConnection(overview.host, overview.https_port, context=context)) as client:
        for _ in range(count):
            client.request("GET", f"{path}?api-version={API_VERSIONS['dps']}", headers=headers)
            answer = client.getresponse()
            answer.read()
            found.append(answer.status)
    return found


def test_beyond_a_thousand_operations_a_minute_dps_asks_to_wait(start: Start, tmp_path: Path) -> None:
    """https://learn.microsoft.com/azure/iot-dps/about-iot-dps#quotas-and-limits"""
    emulator = start("--rate-limit")
    device = enrolled(emulator, tmp_path, "limited")
    path = "/enrollments/limited"
    assert dps_error(ask(emulator, "GET", path, authorization="nobody"))[0] == 401
    assert set(statuses(emulator, path, 999)) == {200}, "who is not let in does not count"
    throttled = ask(emulator, "GET", path)
    assert dps_error(throttled) == (429, 429001, "Throttled.")
    assert 1 <= int(throttled.headers["Retry-After"]) <= 60
    assert dps_error(ask(emulator, "POST", "/enrollments/query", {"query": "SELECT *"}))[0] == 429
    assert "1000 in 60 s" in emulator.log()
    assert ask(emulator, "GET", "/devices").status_code == 200, "the hub has limits of its own"
    with at_dps(emulator, device) as wire:
        assert wire.provision()["status"] == "assigned", "registrations have a limit of their own"


def test_without_the_option_nothing_is_limited(emulator: RunningEmulator) -> None:
    assert set(statuses(emulator, "/enrollments/nobody", 1001)) == {404}


def test_the_etag_of_the_header_is_that_of_the_enrollment(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = make_device(tmp_path, "header-01")
    made = ask(emulator, "PUT", "/enrollments/header-01", document(device))
    assert made.headers["ETag"] == made.json()["etag"]
    again = ask(emulator, "PUT", "/enrollments/header-01", document(device), If_Match=made.headers["ETag"])
    assert again.status_code == 200


def test_hubs_read_back_as_the_list_that_they_are(emulator: RunningEmulator, tmp_path: Path) -> None:
    shown = done(ask(emulator, "PUT", "/enrollments/listed-01", document(make_device(tmp_path, "listed-01"))))
    assert "iotHubs" not in shown
    changed = shown | {"iotHubs": [emulator.host], "allocationPolicy": "static"}
    again = done(ask(emulator, "PUT", "/enrollments/listed-01", changed, If_Match="*"))
    assert again["iotHubs"] == [emulator.host]
    contradicting = again | {"iotHubHostName": "elsewhere"}
    assert dps_error(ask(emulator, "PUT", "/enrollments/listed-01", contradicting, If_Match="*"))[0] == 400


def test_registering_over_https_is_refused_by_dps(emulator: RunningEmulator) -> None:
    answer = ask(emulator, "PUT", "/0ne00000000/registrations/x/register", {})
    assert dps_error(answer) == (501, 501000, "Not emulated.")


def test_a_token_may_be_for_a_part_of_the_paths(emulator: RunningEmulator, tmp_path: Path) -> None:
    ask(emulator, "PUT", "/enrollments/part-01", document(make_device(tmp_path, "part-01")))
    endpoint = emulator.emulator.overview.service_endpoint
    part = token(emulator, "dps", host=f"{endpoint}/enrollments")
    assert ask(emulator, "GET", "/enrollments/part-01", authorization=part).status_code == 200
    other = token(emulator, "dps", host=f"{endpoint}/enrollments/part-0")
    assert dps_error(ask(emulator, "GET", "/enrollments/part-01", authorization=other))[0] == 401
    assert "and nothing else" in emulator.log()
