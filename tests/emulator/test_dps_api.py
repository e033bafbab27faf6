"""The data plane of DPS beyond single enrollments: bulk, mechanisms, registrations, pages, tokens, versions, limits."""

import json
import re
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from clients import document, enroll, register
from pki import Device, make_ca, make_device
from processes import RunningEmulator

from dpsx_helpers.emulator import sas

Start = Callable[..., RunningEmulator]
POLICIES = {"dps": "provisioningserviceowner", "hub": "iothubowner"}
API_VERSIONS = {"dps": "2021-10-01", "hub": "2021-04-12"}
_OF_DPS = re.compile(r"/(enrollments|enrollmentGroups|registrations|certificates)([/?].*)?")
GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z")


# --- how a client asks, and how it reads what comes back --------------------------------------------------------------


def plane_of(path: str) -> str:
    return "dps" if _OF_DPS.fullmatch(path) else "hub"


def token(emulator: RunningEmulator, plane: str, *, key: str | None = None, expires_in: int = 60) -> str:
    """A token of the one policy of a service, signed with its key or another."""
    overview = emulator.emulator.overview
    connection = overview.dps_connection_string if plane == "dps" else overview.iothub_connection_string
    own = connection.partition("SharedAccessKey=")[2]
    return sas.sign(overview.service_endpoint, POLICIES[plane], key or own, int(time.time()) + expires_in)


def ask(
    emulator: RunningEmulator,
    method: str,
    path: str,
    body: Any = None,
    *,
    authorization: str | None = None,
    api_version: str | None = None,
    session: requests.Session | None = None,
    within: float = 20.0,
    **headers: str,
) -> requests.Response:
    """One request with a fresh token of the service that the path belongs to, unless another is given.

    A body of bytes goes out as it is, any other as JSON. In the names of headers `_` stands for `-`.
    """
    overview, plane = emulator.emulator.overview, plane_of(path)
    return (session or requests).request(
        method,
        f"https://{overview.service_endpoint}{path}",
        params={"api-version": API_VERSIONS[plane] if api_version is None else api_version},
        headers={
            "Authorization": token(emulator, plane) if authorization is None else authorization,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        },
        data=None if body is None else body if isinstance(body, bytes) else json.dumps(body),
        verify=str(overview.ca_file),
        timeout=within,
    )


def error(response: requests.Response) -> tuple[int, int, str]:
    """(status, error code, message) of an error of DPS, whose document and headers must be whole."""
    shown = response.json()
    assert list(shown) == ["errorCode", "trackingId", "message", "timestampUtc"]
    assert GUID.fullmatch(shown["trackingId"])
    assert TIME.fullmatch(shown["timestampUtc"])
    assert response.headers["x-ms-request-id"] == shown["trackingId"]
    assert response.headers["x-ms-error-code"] == str(shown["errorCode"])
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    return response.status_code, shown["errorCode"], shown["message"]


def pages(emulator: RunningEmulator, path: str, query: str, size: int) -> Iterator[list[Any]]:
    """All pages of a query, by following the continuation."""
    more: dict[str, Any] = {}
    while True:
        answer = ask(emulator, "POST", path, {"query": query}, x_ms_max_item_count=str(size), **more)
        assert answer.status_code == 200, answer.text
        yield answer.json()
        if "x-ms-continuation" not in answer.headers:
            return
        more = {"x_ms_continuation": answer.headers["x-ms-continuation"]}


# --- enrollments for many at once -------------------------------------------------------------------------------------


def bulk(emulator: RunningEmulator, mode: Any, items: Any, path: str = "/enrollments") -> requests.Response:
    return ask(emulator, "POST", path, {"mode": mode, path.removeprefix("/"): items})


def item(device: Device, registration_id: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"registrationId": registration_id or device.common_name, **document(device, **fields)}


def signed_by(ca: Device) -> dict[str, Any]:
    """The document of a group with a certificate of its own."""
    return {"attestation": {"type": "x509", "x509": {"signingCertificates": {"primary": {"certificate": ca.pem}}}}}


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
    assert register(emulator, device).status == "assigned"


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
    assert error(ask(emulator, "POST", "/enrollments", body)) == (400, *BAD)


def test_groups_in_bulk_are_named_by_their_own_ids(emulator: RunningEmulator, tmp_path: Path) -> None:
    names = ("bulk-group", "no group", "BULK-group")
    items = [{"enrollmentGroupId": name, **signed_by(make_ca(tmp_path, f"{name} CA"))} for name in names]
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
    assert error(ask(emulator, "GET", "/enrollmentGroups/bulk-group"))[:2] == (404, 404202)


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
    assert ask(emulator, "PUT", "/enrollmentGroups/proof", signed_by(ca)).status_code == 200
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
    assert error(ask(emulator, "POST", f"{path}/attestationmechanism")) == expected


def test_a_mechanism_is_asked_for_with_post(emulator: RunningEmulator) -> None:
    assert error(ask(emulator, "GET", "/enrollments/x/attestationmechanism"))[0] == 501
    assert "GET /enrollments/x/attestationmechanism is not emulated" in emulator.log()


# --- registrations ----------------------------------------------------------------------------------------------------


def test_a_registration_is_shown_and_deleted(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = make_device(tmp_path, "record-01")
    enroll(emulator, device, deviceId="record-device")
    assert error(ask(emulator, "GET", "/registrations/record-01")) == (404, 404201, "Registration not found.")
    register(emulator, device)
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
    assert error(stale) == (412, 412203, "Precondition failed.")
    assert ask(emulator, "GET", "/registrations/record-01").json() == record, "a refusal deletes nothing"
    deleted = ask(emulator, "DELETE", "/registrations/Record-01", If_Match=record["etag"])
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert error(ask(emulator, "GET", "/registrations/record-01"))[:2] == (404, 404201)
    assert error(ask(emulator, "DELETE", "/registrations/record-01"))[:2] == (404, 404201)
    assert ask(emulator, "GET", "/devices/record-device").status_code == 200, "the device stays in its hub"
    assert "registrationState" not in (shown(emulator, "record-01") or {"registrationState": None})


def test_a_deleted_registration_begins_again(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = make_device(tmp_path, "again-01")
    enroll(emulator, device)
    register(emulator, device)
    assert ask(emulator, "DELETE", "/registrations/again-01").status_code == 204, "no If-Match is needed"
    assert register(emulator, device).registration_state.sub_status == "initialAssignment"
    assert ask(emulator, "GET", "/registrations/again-01").json()["substatus"] == "initialAssignment"


@pytest.mark.parametrize("case", ["star", "star-in-quotes", "quoted", "bare"])
def test_the_etag_of_a_registration_matches_quoted_or_not(emulator: RunningEmulator, tmp_path: Path, case: str) -> None:
    device = make_device(tmp_path, f"match-{case}")
    enroll(emulator, device)
    register(emulator, device)
    path = f"/registrations/{device.common_name}"
    etag = ask(emulator, "GET", path).json()["etag"].strip('"')
    value = {"star": "*", "star-in-quotes": '"*"', "quoted": f'"{etag}"', "bare": etag}[case]
    assert ask(emulator, "DELETE", path, If_Match=value).status_code == 204


# --- pages ------------------------------------------------------------------------------------------------------------


def test_groups_come_page_by_page(emulator: RunningEmulator, tmp_path: Path) -> None:
    for number in range(3):
        ca = make_ca(tmp_path, f"Page {number} CA")
        assert ask(emulator, "PUT", f"/enrollmentGroups/paged-{number}", signed_by(ca)).status_code == 200
    everything = ask(emulator, "POST", "/enrollmentGroups/query", {"query": "SELECT * FROM enrollmentGroups"})
    assert everything.headers["x-ms-item-type"] == "enrollmentGroup"
    assert {f"paged-{number}" for number in range(3)} <= {row["enrollmentGroupId"] for row in everything.json()}
    found = list(pages(emulator, "/enrollmentGroups/query", "SELECT *", 1))
    assert [len(page) for page in found] == [1] * len(everything.json())
    assert [page[0] for page in found] == everything.json()


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
    assert error(ask(emulator, "POST", f"/{kind}/query", {"query": "SELECT *"}, **headers)) == (400, *BAD)


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
    assert error(ask(emulator, "POST", f"/{kind}/query", {"query": query}))[0] == 501
    line = next(line for line in emulator.log()[before:].splitlines() if "WARNING" in line)
    assert f"limit of this emulator, not of Azure: the query {query[:60]}" in line


@pytest.mark.parametrize("query", ["select *", " SELECT  *\nFROM enrollments ; ", "Select * From anything"])
def test_the_one_query_in_other_spellings(emulator: RunningEmulator, query: str) -> None:
    assert ask(emulator, "POST", "/enrollments/query", {"query": query}).status_code == 200


def test_a_query_of_blanks_is_refused_in_no_time(start: Start) -> None:
    query = {"query": "SELECT *" + " " * 30_000 + "x"}
    assert ask(start(), "POST", "/enrollments/query", query, within=3).status_code == 501


# --- who may ask ------------------------------------------------------------------------------------------------------

EVERY_PATH = [
    ("GET", "/enrollments/x"),
    ("POST", "/enrollments"),
    ("POST", "/enrollments/query"),
    ("POST", "/enrollments/x/attestationmechanism"),
    ("PUT", "/enrollmentGroups/x"),
    ("POST", "/enrollmentGroups/query"),
    ("GET", "/registrations/x"),
    ("DELETE", "/registrations/x"),
    ("POST", "/registrations/x/query"),
    ("GET", "/certificates"),
    ("PUT", "/certificates/x"),
    ("POST", "/certificates/x/generateVerificationCode"),
    ("POST", "/certificates/x/verify"),
]


@pytest.mark.parametrize(("method", "path"), EVERY_PATH)
@pytest.mark.parametrize("case", ["no token", "wrong key", "expired"])
def test_every_path_asks_for_a_good_token(emulator: RunningEmulator, method: str, path: str, case: str) -> None:
    signed = {
        "no token": "",
        "wrong key": token(emulator, "dps", key=b64encode(b"x" * 32).decode()),
        "expired": token(emulator, "dps", expires_in=-1),
    }[case]
    assert error(ask(emulator, method, path, {}, authorization=signed)) == (401, 401000, "Unauthorized")


@pytest.mark.parametrize(("method", "path"), EVERY_PATH)
def test_the_token_of_a_hub_gets_the_answer_of_a_hub(emulator: RunningEmulator, method: str, path: str) -> None:
    """https://github.com/Azure/azure-iot-sdk-csharp/issues/3479"""
    answer = ask(emulator, method, path, {}, authorization=token(emulator, "hub"))
    envelope = answer.json()
    assert (answer.status_code, answer.headers["iothub-errorcode"]) == (400, "ArgumentInvalid")
    assert list(envelope) == ["Message", "ExceptionMessage"]
    uri = f"{path}?api-version={API_VERSIONS['dps']}"
    assert envelope["Message"] == f"ErrorCode:ArgumentInvalid;Unknown api version; uri: {uri}"
    assert re.fullmatch(r"Tracking ID:[0-9A-F]{32}-TimeStamp:.*Z", envelope["ExceptionMessage"])
    assert "x-ms-error-code" not in answer.headers


def test_only_a_good_token_of_a_hub_is_told_so(emulator: RunningEmulator) -> None:
    for signed in (
        token(emulator, "hub", expires_in=-1),
        token(emulator, "hub", key=b64encode(b"x" * 32).decode()),
    ):
        assert error(ask(emulator, "GET", "/enrollments/x", authorization=signed)) == (401, 401000, "Unauthorized")


@pytest.mark.parametrize("version", ["2018-11-01", "2019-03-31", "2021-06-01", "2021-10-01", "2025-07-01-preview"])
@pytest.mark.parametrize("path", ["/enrollments/nobody", "/enrollmentGroups/nobody", "/registrations/nobody"])
def test_every_api_version_of_the_clients_is_known(emulator: RunningEmulator, path: str, version: str) -> None:
    assert error(ask(emulator, "GET", path, api_version=version))[0] == 404


@pytest.mark.parametrize("version", ["", "2021-04-12", "1999-01-01", "2021-10-01x", "latest"])
@pytest.mark.parametrize("path", ["/enrollments/nobody", "/registrations/nobody", "/certificates"])
def test_any_other_api_version_is_refused(emulator: RunningEmulator, path: str, version: str) -> None:
    assert error(ask(emulator, "GET", path, api_version=version)) == (400, *BAD)
    assert f"Unknown api version; uri: {path}?api-version={version}" in emulator.log()


def test_a_request_without_an_api_version_is_refused(emulator: RunningEmulator) -> None:
    overview = emulator.emulator.overview
    answer = requests.get(
        f"https://{overview.service_endpoint}/enrollments/nobody",
        headers={"Authorization": token(emulator, "dps")},
        verify=str(overview.ca_file),
        timeout=10,
    )
    assert error(answer) == (400, *BAD)


@pytest.mark.parametrize("path", ["/enrollments/%ff", "/registrations/%c3%28", "/certificates/%80"])
def test_a_path_that_is_not_utf_8_is_a_400(emulator: RunningEmulator, path: str) -> None:
    assert error(ask(emulator, "GET", path)) == (400, *BAD)


@pytest.mark.parametrize("path", ["/enrollments/a/b", "/registrations", "/certificates/a/b/c"])
def test_a_path_that_dps_does_not_have_is_501(emulator: RunningEmulator, path: str) -> None:
    assert error(ask(emulator, "GET", path)) == (501, 501000, "Not emulated.")


# --- limits -----------------------------------------------------------------------------------------------------------


def test_beyond_a_thousand_operations_a_minute_dps_asks_to_wait(start: Start, tmp_path: Path) -> None:
    """https://learn.microsoft.com/azure/iot-dps/about-iot-dps#quotas-and-limits"""
    emulator = start("--rate-limit")
    device = make_device(tmp_path, "limited")
    enroll(emulator, device)
    with requests.Session() as session:

        def operation(authorization: str | None = None) -> requests.Response:
            return ask(emulator, "GET", "/enrollments/limited", authorization=authorization, session=session)

        assert error(operation("nobody"))[0] == 401
        signed = token(emulator, "dps")
        statuses = [operation(signed).status_code for _ in range(999)]
        assert set(statuses) == {200}, "who is not let in does not count"
        throttled = operation(signed)
    assert error(throttled) == (429, 429001, "Throttled.")
    assert 1 <= int(throttled.headers["Retry-After"]) <= 60
    assert error(ask(emulator, "POST", "/enrollments/query", {"query": "SELECT *"}))[0] == 429
    assert "1000 in 60 s" in emulator.log()
    assert ask(emulator, "GET", "/devices").status_code == 200, "the hub has limits of its own"
    assert register(emulator, device).status == "assigned", "registrations have a limit of their own"


def test_without_the_option_nothing_is_limited(emulator: RunningEmulator) -> None:
    signed = token(emulator, "dps")
    with requests.Session() as session:
        for _ in range(1001):
            answer = ask(emulator, "GET", "/enrollments/nobody", authorization=signed, session=session)
            assert answer.status_code == 404
