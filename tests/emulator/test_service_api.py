"""What both HTTPS data planes of a real emulator process have in common, and a device on its way through both."""

from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
import requests
from clients import connected, send
from connections import create, on_the_wire, provisioned
from processes import RunningEmulator, wait_for
from rest import API_VERSIONS, GUID, ask, dps_error, hub_error, key_of, plane_of, token

BAD_AT_DPS = (400, 400004, "Bad Request.")
ANY_KEY = b64encode(b"x" * 32).decode()
OF_DPS = [
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
    ("DELETE", "/certificates/x"),
    ("POST", "/certificates/x/generateVerificationCode"),
    ("POST", "/certificates/x/verify"),
]
OF_HUB = [
    ("GET", "/devices/x"),
    ("PUT", "/devices/x"),
    ("GET", "/devices"),
    ("POST", "/devices/query"),
    ("PATCH", "/twins/x"),
    ("POST", "/twins/x/methods"),
    ("DELETE", "/devices/x/commands"),
    ("GET", "/statistics/devices"),
    ("GET", "/statistics/service"),
]


# --- who may ask ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), [*OF_DPS, *OF_HUB])
def test_a_bad_signature_is_unauthorized(emulator: RunningEmulator, method: str, path: str) -> None:
    plane = plane_of(path)
    own = key_of(emulator, plane)
    cases = {
        "no token": "",
        "wrong key": token(emulator, plane, key=ANY_KEY),
        "expired": token(emulator, plane, expires_in=-1),
        "other host": token(emulator, plane, host="example.azure-devices-provisioning.net"),
        "unknown policy": token(emulator, plane, policy="enrollmentread"),
        "bearer": "Bearer abc",
    }
    if plane == "hub":
        cases["token of DPS"] = token(emulator, "dps")
    for case, signed in cases.items():
        answer = ask(emulator, method, path, {}, authorization=signed)
        if plane == "dps":
            assert dps_error(answer) == (401, 401000, "Unauthorized"), case
        else:
            assert hub_error(answer) == (401, "IotHubUnauthorizedAccess", "Unauthorized"), case
        assert own not in answer.text, case
    assert own not in emulator.log()


@pytest.mark.parametrize(("method", "path"), OF_DPS)
def test_who_asks_for_enrollments_with_the_connection_string_of_the_hub_is_answered_as_by_a_hub(
    emulator: RunningEmulator, method: str, path: str
) -> None:
    """https://github.com/Azure/azure-iot-sdk-csharp/issues/3479"""
    answer = ask(emulator, method, path, {}, authorization=token(emulator, "hub"))
    uri = f"{path}?api-version={API_VERSIONS['dps']}"
    assert hub_error(answer) == (400, "ArgumentInvalid", f"Unknown api version; uri: {uri}")
    assert "need that of DPS" in emulator.log()


def test_only_a_good_token_of_a_hub_is_told_so(emulator: RunningEmulator) -> None:
    for signed in (token(emulator, "hub", expires_in=-1), token(emulator, "hub", key=ANY_KEY)):
        assert dps_error(ask(emulator, "GET", "/enrollments/x", authorization=signed)) == (401, 401000, "Unauthorized")


# --- versions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "version"),
    [
        *((path, version) for path in ("/enrollments/x", "/registrations/x", "/certificates")
          for version in ("", "2021-04-12", "1999-01-01", "2021-10-01x", "latest")),
        *(("/devices/x", version) for version in ("", "2021-10-01", "1999-01-01", "2021-04-12x", "latest")),
    ],
)  # fmt: skip
def test_an_unknown_api_version_is_refused_by_name(emulator: RunningEmulator, path: str, version: str) -> None:
    answer = ask(emulator, "GET", path, api_version=version)
    told = f"Unknown api version; uri: {path}?api-version={version}. Known: "
    if plane_of(path) == "dps":
        assert dps_error(answer) == BAD_AT_DPS
    else:
        status, name, detail = hub_error(answer)
        assert (status, name) == (400, "ArgumentInvalid")
        assert detail.startswith(told)
    assert told in emulator.log()


@pytest.mark.parametrize("path", ["/enrollments/x", "/devices/x"])
def test_a_request_without_an_api_version_is_refused(emulator: RunningEmulator, path: str) -> None:
    overview, plane = emulator.emulator.overview, plane_of(path)
    answer = requests.get(
        f"https://{overview.service_endpoint}{path}",
        headers={"Authorization": token(emulator, plane)},
        verify=str(overview.ca_file),
        timeout=10,
    )
    if plane == "dps":
        assert dps_error(answer) == BAD_AT_DPS
    else:
        assert hub_error(answer)[:2] == (400, "ArgumentInvalid")


# --- what is not there ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/enrollments"),
        ("GET", "/enrollments/x/y"),
        ("PATCH", "/enrollments/x"),
        ("GET", "/enrollments/x/attestationmechanism"),
        ("GET", "/registrations"),
        ("GET", "/certificates/x/y/z"),
        ("POST", "/devices"),
        ("DELETE", "/devices"),
        ("POST", "/devices/x"),
        ("GET", "/devices/x/commands"),
        ("GET", "/devices/x/modules"),
        ("POST", "/devices/x/files"),
        ("GET", "/twins/x/methods"),
        ("POST", "/digitaltwins/x/commands/y"),
        ("GET", "/jobs/v2"),
        ("GET", "/configurations"),
        ("GET", "/configurations/x"),
    ],
)
def test_what_is_not_emulated_is_501_and_in_the_log(emulator: RunningEmulator, method: str, path: str) -> None:
    answer = ask(emulator, method, path)
    told = f"limit of this emulator, not of Azure: {method} {path} is not emulated in this version"
    if plane_of(path) == "dps":
        assert dps_error(answer) == (501, 501000, "Not emulated.")
    else:
        assert hub_error(answer) == (501, "NotImplemented", told)
    assert told in emulator.log()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"query": "SELECT * FROM enrollments WHERE x = 1"}, 501),
        ({"query": 7}, 400),
        ({"query": ["SELECT * FROM devices"]}, 400),
        ({}, 400),
        (b"not json", 400),
        ([], 400),
    ],
)
def test_other_queries_are_refused(emulator: RunningEmulator, body: Any, status: int) -> None:
    assert dps_error(ask(emulator, "POST", "/enrollments/query", body))[0] == status
    assert hub_error(ask(emulator, "POST", "/devices/query", body))[:2] == (400, "ArgumentInvalid")


# --- hostile requests -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"not JSON",
        b"\xff\xfe",
        b'{"deviceId": NaN}',
        b'{"deviceId": -Infinity}',
        b'{"deviceId": 1e999}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[]",
        b"7",
        b'"hostile-01"',
        b"",
    ],
)
@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/enrollments/hostile-01"), ("PUT", "/devices/hostile-01"), ("POST", "/devices/query")]
)
def test_a_hostile_body_is_a_400(emulator: RunningEmulator, method: str, path: str, body: bytes) -> None:
    answer = ask(emulator, method, path, body)
    if plane_of(path) == "dps":
        assert dps_error(answer) == BAD_AT_DPS
    else:
        assert hub_error(answer)[:2] == (400, "ArgumentInvalid")
    for there in ("/enrollments/hostile-01", "/devices/hostile-01"):
        assert ask(emulator, "GET", there).status_code == 404


@pytest.mark.parametrize("path", ["/enrollments/big", "/devices/big"])
def test_a_body_beyond_the_limit_is_not_read(emulator: RunningEmulator, path: str) -> None:
    # Whether the client still gets to read the 400 depends on how far it is with sending.
    with pytest.raises((requests.ConnectionError, requests.HTTPError)):
        ask(emulator, "PUT", path, b"x" * (2 << 20)).raise_for_status()
    assert ask(emulator, "GET", path).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/enrollments/%ff",
        "/registrations/%c3%28",
        "/certificates/%80",
        "/devices/%ff",
        "/twins/%C3%28",
        "/twins/%80/methods",
        "/devices/%ff/commands",
    ],
)
def test_a_path_that_is_not_utf_8_is_a_400(emulator: RunningEmulator, path: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        answer = ask(emulator, method, path)
        if plane_of(path) == "dps":
            assert dps_error(answer) == BAD_AT_DPS
        else:
            assert hub_error(answer)[:2] == (400, "ArgumentInvalid")


def test_every_answer_has_a_request_id_of_its_own(emulator: RunningEmulator) -> None:
    paths = ("/devices", "/devices", "/devices/nobody", "/jobs/v2", "/enrollments/nobody", "/certificates")
    found = [ask(emulator, "GET", path).headers["x-ms-request-id"] for path in paths]
    assert all(map(GUID.fullmatch, found))
    assert len(set(found)) == len(found)


# --- a device on its way through both ---------------------------------------------------------------------------------


def test_a_provisioned_device_is_in_the_hub_and_can_be_deleted(emulator: RunningEmulator, tmp_path: Path) -> None:
    assert hub_error(ask(emulator, "GET", "/devices/hub-01"))[:2] == (404, "DeviceNotFound")
    initial = {"tags": {"room": "lab"}, "properties": {"desired": {"interval": 5}}}
    device = provisioned(emulator, tmp_path, "hub-01", initialTwin=initial)
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
    assert hub_error(ask(emulator, "DELETE", "/devices/hub-01"))[:2] == (412, "PreconditionFailed")
    assert hub_error(ask(emulator, "DELETE", "/devices/hub-01", If_Match='"x"'))[:2] == (412, "PreconditionFailed")
    assert ask(emulator, "DELETE", "/devices/hub-01", If_Match='"*"').status_code == 204
    assert hub_error(ask(emulator, "DELETE", "/devices/hub-01", If_Match="*"))[:2] == (404, "DeviceNotFound")


def test_deleting_a_connected_device_ends_its_connection(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = create(emulator, tmp_path, "dropped-01")
    with connected(emulator, device) as client:
        send(client, "hello")
        assert ask(emulator, "GET", "/devices/dropped-01").json()["connectionState"] == "Connected"
        assert ask(emulator, "DELETE", "/devices/dropped-01", If_Match="*").status_code == 204
        wait_for(lambda: not client.connected)
    assert "dropped-01' was deleted while it was connected" in emulator.log()
    with on_the_wire(emulator, device) as wire:
        assert wire.code == 5, "nor does it come in again"


def test_a_percent_sign_in_a_device_id_is_a_percent_sign(emulator: RunningEmulator, tmp_path: Path) -> None:
    provisioned(emulator, tmp_path, "percent", deviceId="dev%41")
    assert ask(emulator, "GET", "/devices/dev%2541").json()["deviceId"] == "dev%41"
    assert ask(emulator, "GET", "/devices/dev%41").status_code == 404
