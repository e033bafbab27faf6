"""The HTTPS data planes of a real emulator process, asked as REST clients ask them."""

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from clients import connected, document, enroll, register, send
from pki import make_device
from processes import RunningEmulator, wait_for

from dpsx_helpers.emulator import sas

DPS, HUB = "provisioningserviceowner", "iothubowner"


def ask(
    emulator: RunningEmulator,
    method: str,
    path: str,
    body: Any = None,
    *,
    policy: str | None = None,
    token: str | None = None,
    api_version: str | None = None,
    **headers: str,
) -> requests.Response:
    """One request with a fresh token of the policy that the path belongs to."""
    overview = emulator.emulator.overview
    of_dps = path.startswith("/enrollment")
    connection = overview.dps_connection_string if of_dps else overview.iothub_connection_string
    key = connection.partition("SharedAccessKey=")[2]
    if token is None:
        expires = int(time.time()) + 60
        token = sas.sign(overview.service_endpoint, policy or (DPS if of_dps else HUB), key, expires)
    return requests.request(
        method,
        f"https://{overview.service_endpoint}{path}",
        params={"api-version": api_version or "2021-10-01" if of_dps else api_version or "2021-04-12"},
        headers={"Authorization": token, **{name.replace("_", "-"): value for name, value in headers.items()}},
        data=None if body is None else body if isinstance(body, bytes) else json.dumps(body),
        verify=str(overview.ca_file),
        timeout=10,
    )


def error(response: requests.Response) -> tuple[int, int, str]:
    """(status, error code, message) of an error of DPS, whose document must be whole."""
    document = response.json()
    assert set(document) == {"errorCode", "trackingId", "message", "timestampUtc"}
    assert response.headers["x-ms-request-id"] == document["trackingId"]
    assert response.headers["x-ms-error-code"] == str(document["errorCode"])
    return response.status_code, document["errorCode"], document["message"]


def hub_error(response: requests.Response) -> tuple[int, str]:
    """(status, name) of an error of a hub, whose envelope must be whole."""
    envelope = response.json()
    name = response.headers["iothub-errorcode"]
    assert set(envelope) == {"Message", "ExceptionMessage"}
    assert envelope["Message"].startswith(f"ErrorCode:{name};")
    assert envelope["ExceptionMessage"].startswith("Tracking ID:")
    return response.status_code, name


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
    device = make_device(tmp_path, "back-01")
    enroll(emulator, device)
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
        "base64 of pem": base64.b64encode(device.pem.encode()).decode(),
        "base64 of der": base64.b64encode(device.der).decode(),
    }[form]
    body = {"attestation": {"type": "x509", "x509": {"clientCertificates": {"primary": {"certificate": text}}}}}
    answer = ask(emulator, "PUT", f"/enrollments/{device.common_name}", body).json()
    assert (
        answer["attestation"]["x509"]["clientCertificates"]["primary"]["info"]["sha256Thumbprint"] == device.thumbprint
    )


@pytest.mark.parametrize("if_match", [None, '"stale"', "stale"])
def test_replacing_needs_the_etag(emulator: RunningEmulator, tmp_path: Path, if_match: str | None) -> None:
    device = make_device(tmp_path, f"etag-{'none' if if_match is None else len(if_match)}")
    enroll(emulator, device)
    headers = {} if if_match is None else {"If_Match": if_match}
    answer = ask(emulator, "PUT", f"/enrollments/{device.common_name}", document(device), **headers)
    assert error(answer)[0] == (409 if if_match is None else 412)


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
    assert error(ask(emulator, "GET", path)) == (404, 404201, "Enrollment not found.")
    assert error(ask(emulator, "DELETE", path)) == (404, 404201, "Enrollment not found.")


def test_the_query_pages_through_all_enrollments(emulator: RunningEmulator, tmp_path: Path) -> None:
    for number in range(5):
        enroll(emulator, make_device(tmp_path, f"page-{number}"))
    found: list[str] = []
    continuation = ""
    while True:
        headers = {"x_ms_max_item_count": "2", **({"x_ms_continuation": continuation} if continuation else {})}
        answer = ask(emulator, "POST", "/enrollments/query", {"query": "SELECT * FROM enrollments"}, **headers)
        assert answer.headers["x-ms-item-type"] == "enrollment"
        assert len(answer.json()) <= 2
        assert all("registrationState" not in row for row in answer.json())
        found += [row["registrationId"] for row in answer.json()]
        continuation = answer.headers.get("x-ms-continuation", "")
        if not continuation:
            break
    everything = ask(emulator, "POST", "/enrollments/query", {"query": "select *"}).json()
    assert found == [row["registrationId"] for row in everything]
    assert {f"page-{number}" for number in range(5)} <= set(found)


def test_the_query_as_the_azure_cli_wraps_it(emulator: RunningEmulator) -> None:
    wrapped = {"query": "{'additional_properties': {}, 'query': 'SELECT *'}"}
    assert ask(emulator, "POST", "/enrollments/query", wrapped).status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"query": "SELECT * FROM enrollments WHERE x = 1"}, 501),
        ({"query": 7}, 400),
        ({}, 400),
        (b"not json", 400),
        ([], 400),
    ],
)
def test_other_queries_are_refused(emulator: RunningEmulator, body: Any, status: int) -> None:
    assert error(ask(emulator, "POST", "/enrollments/query", body))[0] == status
    assert hub_error(ask(emulator, "POST", "/devices/query", body))[0] == 400


@pytest.mark.parametrize("path", ["/enrollments/x", "/devices/x"])
@pytest.mark.parametrize("case", ["no token", "wrong key", "expired", "other host", "unknown policy", "bearer"])
def test_a_bad_signature_is_unauthorized(emulator: RunningEmulator, path: str, case: str) -> None:
    overview = emulator.emulator.overview
    of_dps = path.startswith("/enrollment")
    connection = overview.dps_connection_string if of_dps else overview.iothub_connection_string
    key, name, soon = connection.partition("SharedAccessKey=")[2], DPS if of_dps else HUB, int(time.time()) + 60
    other = base64.b64encode(b"x" * 32).decode()
    token = {
        "no token": "",
        "wrong key": sas.sign(overview.service_endpoint, name, other, soon),
        "expired": sas.sign(overview.service_endpoint, name, key, soon - 120),
        "other host": sas.sign("example.azure-devices-provisioning.net", name, key, soon),
        "unknown policy": sas.sign(overview.service_endpoint, "enrollmentread", key, soon),
        "bearer": "Bearer abc",
    }[case]
    answer = ask(emulator, "GET", path, token=token)
    assert answer.status_code == 401
    assert key not in answer.text + emulator.log()
    if of_dps:
        assert error(answer) == (401, 401000, "Unauthorized")
    else:
        assert hub_error(answer) == (401, "IotHubUnauthorizedAccess")


def test_who_asks_for_enrollments_with_the_connection_string_of_the_hub_is_answered_as_by_a_hub(
    emulator: RunningEmulator,
) -> None:
    """https://github.com/Azure/azure-iot-sdk-csharp/issues/3479"""
    overview = emulator.emulator.overview
    key = overview.iothub_connection_string.partition("SharedAccessKey=")[2]
    token = sas.sign(overview.service_endpoint, HUB, key, int(time.time()) + 60)
    answer = ask(emulator, "GET", "/enrollments/x", token=token)
    assert hub_error(answer) == (400, "ArgumentInvalid")
    assert answer.json()["Message"].startswith("ErrorCode:ArgumentInvalid;Unknown api version; uri: /enrollments/x?")
    assert "need that of DPS" in emulator.log()


def test_an_unknown_api_version_is_refused_by_name(emulator: RunningEmulator) -> None:
    assert error(ask(emulator, "GET", "/enrollments/x", api_version="1999-01-01"))[0] == 400
    answer = ask(emulator, "GET", "/devices/x", api_version="1999-01-01")
    assert hub_error(answer) == (400, "ArgumentInvalid")
    assert "Unknown api version; uri: /devices/x" in answer.json()["Message"]


@pytest.mark.parametrize(
    "path", ["/enrollments", "/enrollments/x/y", "/jobs/v2", "/configurations/x", "/devices/x/modules"]
)
def test_what_is_not_emulated_is_501_and_in_the_log(emulator: RunningEmulator, path: str) -> None:
    answer = ask(emulator, "GET", path)
    assert answer.status_code == 501
    assert f"GET {path}" in emulator.log()
    assert "limit of this emulator, not of Azure" in emulator.log()


def test_a_method_that_is_not_emulated_is_501(emulator: RunningEmulator) -> None:
    assert hub_error(ask(emulator, "POST", "/devices", {})) == (501, "NotImplemented")
    assert error(ask(emulator, "PATCH", "/enrollments/x", {}))[0] == 501


def test_a_provisioned_device_is_in_the_hub_and_can_be_deleted(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = make_device(tmp_path, "hub-01")
    enroll(emulator, device, initialTwin={"tags": {"room": "lab"}, "properties": {"desired": {"interval": 5}}})
    assert hub_error(ask(emulator, "GET", "/devices/hub-01")) == (404, "DeviceNotFound")
    register(emulator, device)
    shown = ask(emulator, "GET", "/devices/hub-01").json()
    assert (shown["status"], shown["connectionState"]) == ("enabled", "Disconnected")
    assert shown["authentication"]["type"] == "selfSigned"
    thumbprints = shown["authentication"]["x509Thumbprint"]
    assert thumbprints == {"primaryThumbprint": device.thumbprint, "secondaryThumbprint": device.thumbprint}
    twins = ask(emulator, "POST", "/devices/query", {"query": "SELECT * FROM devices"})
    assert twins.headers["x-ms-item-type"] == "Twin"
    twin = next(row for row in twins.json() if row["deviceId"] == "hub-01")
    assert twin["tags"] == {"room": "lab"}
    assert twin["properties"]["desired"]["interval"] == 5
    assert twin["properties"]["desired"]["$version"] == 1
    assert hub_error(ask(emulator, "DELETE", "/devices/hub-01")) == (412, "PreconditionFailed")
    assert hub_error(ask(emulator, "DELETE", "/devices/hub-01", If_Match='"x"')) == (412, "PreconditionFailed")
    assert ask(emulator, "DELETE", "/devices/hub-01", If_Match='"*"').status_code == 204
    assert hub_error(ask(emulator, "DELETE", "/devices/hub-01", If_Match="*")) == (404, "DeviceNotFound")


def test_deleting_a_connected_device_ends_its_connection(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = make_device(tmp_path, "dropped-01")
    enroll(emulator, device)
    register(emulator, device)
    with connected(emulator, device) as client:
        send(client, "hello")
        assert ask(emulator, "GET", "/devices/dropped-01").json()["connectionState"] == "Connected"
        assert ask(emulator, "DELETE", "/devices/dropped-01", If_Match="*").status_code == 204
        wait_for(lambda: not client.connected)
    assert "dropped-01' was deleted while it was connected" in emulator.log()


def test_control_requests_need_the_token(emulator: RunningEmulator) -> None:
    for token in ("", "Bearer wrong"):
        answer = ask(emulator, "POST", "/emulator/stop", token=token)
        assert answer.status_code == 401
        assert "lacks the control token" in answer.json()["message"]
    assert emulator.emulator.running()


def test_a_body_beyond_the_limit_is_not_read(emulator: RunningEmulator) -> None:
    # Whether the client still gets to read the 400 depends on how far it is with sending.
    with pytest.raises((requests.ConnectionError, requests.HTTPError)):
        ask(emulator, "PUT", "/enrollments/big", b"x" * (3 << 20)).raise_for_status()
    assert emulator.emulator.running()


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"attestation": NaN}', b"\xff"])
def test_a_body_that_is_no_json_is_a_400(emulator: RunningEmulator, body: bytes) -> None:
    answer = ask(emulator, "PUT", "/enrollments/odd", body)
    assert (answer.status_code, answer.json()["message"]) == (400, "Bad Request.")


def test_a_percent_sign_in_a_device_id_is_a_percent_sign(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = make_device(tmp_path, "percent")
    enroll(emulator, device, deviceId="dev%41")
    register(emulator, device)
    assert ask(emulator, "GET", "/devices/dev%2541").json()["deviceId"] == "dev%41"
    assert ask(emulator, "GET", "/devices/dev%41").status_code == 404
