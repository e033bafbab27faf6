"""The data plane of a hub: identities, twins, queries, direct methods, statistics, and what it says to bad requests."""

import http.client
import json
import re
import ssl
from base64 import b64decode
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
import requests
from azure.iot.device import MethodRequest, MethodResponse
from clients import bodies, connected, responder, send
from connections import ANSWER_WITHIN, create, identity, on_the_wire
from pki import make_device
from processes import RunningEmulator, wait_for
from rest import API_VERSIONS, GUID, TIME, ask, hub_error, pages, token

from dpsx_helpers.emulator import data_plane

METHODS = "$iothub/methods/POST/#"
METHOD_ERRORS = {404103: "DeviceNotOnline", 504101: "GatewayTimeout", 413001: "MessageTooLarge", 500001: "ServerError"}


def method_error(response: requests.Response) -> tuple[int, int, str]:
    """(status, error code, message) of a direct method's error: a JSON document within the envelope."""
    envelope = response.json()
    assert list(envelope) == ["Message", "ExceptionMessage"]
    assert envelope["ExceptionMessage"] == ""
    inner = json.loads(envelope["Message"])
    assert list(inner) == ["errorCode", "trackingId", "message", "info", "timestampUtc"]
    assert inner["trackingId"] == response.headers["x-ms-request-id"].replace("-", "")
    assert inner["info"] == {}
    assert TIME.fullmatch(inner["timestampUtc"])
    assert response.headers["iothub-errorcode"] == METHOD_ERRORS[inner["errorCode"]]
    return response.status_code, inner["errorCode"], inner["message"]


# --- identities -------------------------------------------------------------------------------------------------------


def test_a_device_is_made_shown_changed_and_deleted(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = make_device(tmp_path, "life-01")
    made = ask(emulator, "PUT", "/devices/life-01", identity(device, statusReason="new"))
    assert (made.status_code, GUID.fullmatch(made.headers["x-ms-request-id"]) is not None) == (200, True)
    assert made.json() == ask(emulator, "GET", "/devices/life-01").json()
    assert made.json() | {"generationId": "", "etag": ""} == {
        "deviceId": "life-01",
        "generationId": "",
        "etag": "",
        "connectionState": "Disconnected",
        "status": "enabled",
        "statusReason": "new",
        "connectionStateUpdatedTime": "0001-01-01T00:00:00Z",
        "statusUpdatedTime": "0001-01-01T00:00:00Z",
        "lastActivityTime": "0001-01-01T00:00:00Z",
        "cloudToDeviceMessageCount": 0,
        "authentication": {
            "symmetricKey": {"primaryKey": None, "secondaryKey": None},
            "x509Thumbprint": {"primaryThumbprint": device.thumbprint, "secondaryThumbprint": None},
            "type": "selfSigned",
        },
        "capabilities": {"iotEdge": False},
    }
    changed = ask(
        emulator, "PUT", "/devices/life-01", made.json() | {"status": "disabled"}, If_Match=made.json()["etag"]
    ).json()
    assert (changed["status"], changed["generationId"]) == ("disabled", made.json()["generationId"])
    assert changed["etag"] != made.json()["etag"]
    assert TIME.fullmatch(changed["statusUpdatedTime"])
    deleted = ask(emulator, "DELETE", "/devices/life-01", If_Match=changed["etag"])
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert hub_error(ask(emulator, "GET", "/devices/life-01")) == (
        404,
        "DeviceNotFound",
        "The requested device 'life-01' was not found in the hub's identity registry",
    )


def test_a_device_without_authentication_gets_keys(emulator: RunningEmulator) -> None:
    shown = ask(emulator, "PUT", "/devices/keys-01", {"deviceId": "keys-01"}).json()
    keys = shown["authentication"]["symmetricKey"]
    assert shown["authentication"]["type"] == "sas"
    assert len(b64decode(keys["primaryKey"], validate=True)) == 32
    assert keys["primaryKey"] != keys["secondaryKey"]
    assert keys["primaryKey"] not in emulator.log()


def test_device_ids_are_case_sensitive(emulator: RunningEmulator, tmp_path: Path) -> None:
    create(emulator, tmp_path, "Case-01")
    assert hub_error(ask(emulator, "GET", "/devices/case-01"))[:2] == (404, "DeviceNotFound")
    create(emulator, tmp_path, "case-01")


@pytest.mark.parametrize("version", ["2021-04-12", "2024-03-31"])
def test_both_api_versions_of_todays_clients_are_known(emulator: RunningEmulator, version: str) -> None:
    for method, path, body in (
        ("PUT", f"/devices/version-{version}", {"deviceId": f"version-{version}"}),
        ("GET", f"/devices/version-{version}", None),
        ("GET", f"/twins/version-{version}", None),
        ("PATCH", f"/twins/version-{version}", {"tags": {"v": version}}),
        ("POST", "/devices/query", {"query": "SELECT * FROM devices"}),
        ("GET", "/statistics/devices", None),
    ):
        assert ask(emulator, method, path, body, api_version=version).status_code == 200, path


# --- etags of identities ----------------------------------------------------------------------------------------------


def test_a_device_that_is_there_is_not_made_again(emulator: RunningEmulator, tmp_path: Path) -> None:
    create(emulator, tmp_path, "taken-01")
    assert hub_error(ask(emulator, "PUT", "/devices/taken-01", {"deviceId": "taken-01", "status": "disabled"})) == (
        409,
        "DeviceAlreadyExists",
        "A device with ID 'taken-01' is already registered",
    )
    assert ask(emulator, "GET", "/devices/taken-01").json()["status"] == "enabled"


@pytest.mark.parametrize("form", ["{}", '"{}"'])
@pytest.mark.parametrize("star", [True, False])
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_an_etag_matches_quoted_or_not(
    emulator: RunningEmulator, tmp_path: Path, form: str, star: bool, method: str
) -> None:
    name = f"etag-{method}-{star}-{len(form)}"
    device = create(emulator, tmp_path, name)
    etag = "*" if star else ask(emulator, "GET", f"/devices/{name}").json()["etag"]
    body = identity(device, status="disabled") if method == "PUT" else None
    answer = ask(emulator, method, f"/devices/{name}", body, If_Match=form.format(etag))
    assert answer.status_code == (200 if method == "PUT" else 204)
    after = ask(emulator, "GET", f"/devices/{name}")
    assert after.json()["status"] == "disabled" if method == "PUT" else after.status_code == 404


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("PUT", {"If_Match": '"stale"'}),
        ("PUT", {"If_Match": "stale"}),
        ("DELETE", {"If_Match": '"stale"'}),
        ("DELETE", {}),
    ],
)
def test_a_stale_etag_changes_nothing(
    emulator: RunningEmulator, tmp_path: Path, method: str, headers: dict[str, Any]
) -> None:
    name = f"stale-{method}-{len(headers.get('If_Match', ''))}"
    device = create(emulator, tmp_path, name)
    before = ask(emulator, "GET", f"/devices/{name}").json()
    answer = ask(emulator, method, f"/devices/{name}", identity(device, status="disabled"), **headers)
    assert hub_error(answer)[:2] == (412, "PreconditionFailed")
    assert ask(emulator, "GET", f"/devices/{name}").json() == before


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/devices/nobody", {}),
        ("PUT", "/devices/nobody", {"If_Match": "*"}),
        ("DELETE", "/devices/nobody", {"If_Match": "*"}),
        ("DELETE", "/devices/nobody", {}),
        ("GET", "/twins/nobody", {}),
        ("PATCH", "/twins/nobody", {}),
        ("PUT", "/twins/nobody", {"If_Match": "*"}),
        ("POST", "/twins/nobody/methods", {}),
        ("DELETE", "/devices/nobody/commands", {}),
    ],
)
def test_a_device_that_is_not_there_is_a_404(
    emulator: RunningEmulator, method: str, path: str, headers: dict[str, Any]
) -> None:
    status, name, detail = hub_error(ask(emulator, method, path, {"methodName": "m"}, **headers))
    assert (status, name) == (404, "DeviceNotFound")
    assert "'nobody'" in detail


@pytest.mark.parametrize(
    ("fields", "status", "name"),
    [
        ({"deviceId": "other"}, 400, "ArgumentInvalid"),
        ({"status": "asleep"}, 400, "ArgumentInvalid"),
        ({"status": ["enabled"]}, 400, "ArgumentInvalid"),
        ({"statusReason": "x" * 129}, 400, "ArgumentInvalid"),
        ({"capabilities": {"iotEdge": "yes"}}, 400, "ArgumentInvalid"),
        ({"authentication": {"type": "selfSigned", "x509Thumbprint": {}}}, 400, "ArgumentInvalid"),
        ({"authentication": {"type": ["sas"]}}, 400, "ArgumentInvalid"),
        ({"authentication": {"symmetricKey": {"primaryKey": ["x"]}}}, 400, "ArgumentInvalid"),
        ({"authentication": {"symmetricKey": {"primaryKey": "x"}}}, 400, "ArgumentInvalid"),
        ({"authentication": {"x509Thumbprint": {"primaryThumbprint": "AB:CD"}}}, 400, "StringIsNotThumbprint"),
        ({"authentication": {"type": "certificateAuthority"}}, 501, "NotImplemented"),
    ],
)
def test_an_identity_that_cannot_be_is_refused(
    emulator: RunningEmulator, fields: dict[str, Any], status: int, name: str
) -> None:
    assert hub_error(ask(emulator, "PUT", "/devices/odd", {"deviceId": "odd", **fields}))[:2] == (status, name)
    assert ask(emulator, "GET", "/devices/odd").status_code == 404


@pytest.mark.parametrize("path", ["/devices/a%20b", "/devices/a%2Fb", "/devices/%C3%A4", "/devices/" + "x" * 129])
def test_a_device_id_that_cannot_be_is_refused(emulator: RunningEmulator, path: str) -> None:
    assert hub_error(ask(emulator, "PUT", path, {}))[:2] == (400, "ArgumentInvalid")


# --- lists and statistics ---------------------------------------------------------------------------------------------


def test_the_first_devices_are_listed(emulator: RunningEmulator, tmp_path: Path) -> None:
    for number in range(3):
        create(emulator, tmp_path, f"list-{number}")
    everything = ask(emulator, "GET", "/devices").json()
    assert {f"list-{number}" for number in range(3)} <= {row["deviceId"] for row in everything}
    assert ask(emulator, "GET", "/devices?top=2").json() == everything[:2]
    assert ask(emulator, "GET", "/devices?top=1000").json() == everything
    one = everything[0]
    assert one == ask(emulator, "GET", f"/devices/{one['deviceId']}").json()


def test_a_long_list_comes_whole_and_with_its_length(emulator: RunningEmulator, tmp_path: Path) -> None:
    document = identity(make_device(tmp_path, "long-00"))
    with requests.Session() as session:
        for number in range(20):
            name = f"long-{number:02}"
            ask(emulator, "PUT", f"/devices/{name}", document | {"deviceId": name}, session=session).raise_for_status()
        answer = ask(emulator, "GET", "/devices", session=session)
        assert {f"long-{number:02}" for number in range(20)} <= {row["deviceId"] for row in answer.json()}
        assert len(answer.content) > 3 * data_plane.PIECE
        assert answer.headers["Content-Length"] == str(len(answer.content))
        assert "Transfer-Encoding" not in answer.headers
        assert answer.content == json.dumps(answer.json()).encode()
        assert ask(emulator, "GET", "/devices", session=session).content == answer.content


@pytest.mark.parametrize(
    "document",
    [
        [],
        ["one"],
        [{"name": "ü", "values": [number, None]} for number in range(1000)],
        ["x" * 10_000] * 3,
        {"devices": []},
        None,
    ],
)
def test_a_document_in_pieces_is_that_document(document: Any) -> None:
    pieces = list(data_plane.in_pieces(document))
    assert b"".join(pieces) == json.dumps(document).encode()
    items = document if isinstance(document, list) else [document]
    longest = max((len(json.dumps(item)) for item in items), default=0)
    assert all(0 < len(piece) <= data_plane.PIECE + longest + 2 for piece in pieces)


@pytest.mark.parametrize("top", ["0", "-1", "1001", "two", "", "1.0", "9" * 5000])
def test_a_list_has_1_to_1000_devices(emulator: RunningEmulator, top: str) -> None:
    assert hub_error(ask(emulator, "GET", f"/devices?top={top}"))[:2] == (400, "ArgumentInvalid")


def test_statistics_count_devices_and_connections(emulator: RunningEmulator, tmp_path: Path) -> None:
    def counts() -> tuple[int, int, int, int]:
        devices = ask(emulator, "GET", "/statistics/devices").json()
        assert list(devices) == ["totalDeviceCount", "enabledDeviceCount", "disabledDeviceCount"]
        service = ask(emulator, "GET", "/statistics/service").json()
        assert list(service) == ["connectedDeviceCount"]
        return (*devices.values(), service["connectedDeviceCount"])

    total, enabled, disabled, online = counts()
    device = create(emulator, tmp_path, "count-1")
    create(emulator, tmp_path, "count-2", status="disabled")
    with on_the_wire(emulator, device):
        assert counts() == (total + 2, enabled + 1, disabled + 1, online + 1)
        assert ask(emulator, "GET", "/devices/count-1").json()["connectionState"] == "Connected"
        assert ask(emulator, "GET", "/twins/count-1").json()["connectionState"] == "Connected"
    wait_for(lambda: counts()[3] == online)


# --- what becomes of a connection -------------------------------------------------------------------------------------


def test_a_device_that_is_disabled_loses_its_connection(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = create(emulator, tmp_path, "lost-01")
    with on_the_wire(emulator, device) as wire:
        assert wire.code == 0
        body = identity(device, status="disabled")
        answer = ask(emulator, "PUT", "/devices/lost-01", body, If_Match="*").json()
        assert answer["connectionState"] == "Disconnected"
        wire.gone.get(timeout=ANSWER_WITHIN)
    assert re.search("'lost-01' was disabled.* while it was connected", emulator.log())
    with on_the_wire(emulator, device) as wire:
        assert wire.code == 5, "nor does it come in again"


def test_a_disabled_device_may_come_back_when_it_is_enabled(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = create(emulator, tmp_path, "back-01", status="disabled")
    with on_the_wire(emulator, device) as wire:
        assert wire.code == 5
    assert ask(emulator, "PUT", "/devices/back-01", identity(device), If_Match="*").status_code == 200
    with connected(emulator, device) as client:
        send(client, "here again")
    assert bodies(emulator, "back-01") == ["here again"]


def test_a_change_that_does_not_disable_leaves_the_connection(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = create(emulator, tmp_path, "stays-01")
    with on_the_wire(emulator, device) as wire:
        body = identity(device, statusReason="all is well")
        assert ask(emulator, "PUT", "/devices/stays-01", body, If_Match="*").status_code == 200
        wire.publish("devices/stays-01/messages/events/", "still here")
    assert bodies(emulator, "stays-01") == ["still here"]


# --- twins ------------------------------------------------------------------------------------------------------------


def test_a_twin_is_shown_whole(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = create(emulator, tmp_path, "twin-01")
    identity_etag = ask(emulator, "GET", "/devices/twin-01").json()["etag"]
    twin = ask(emulator, "GET", "/twins/twin-01").json()
    sections = {name: twin["properties"][name] for name in ("desired", "reported")}
    assert twin | {"etag": "", "version": 0, "properties": {}} == {
        "deviceId": "twin-01",
        "etag": "",
        "deviceEtag": identity_etag,
        "status": "enabled",
        "statusUpdateTime": "0001-01-01T00:00:00Z",
        "connectionState": "Disconnected",
        "lastActivityTime": "0001-01-01T00:00:00Z",
        "cloudToDeviceMessageCount": 0,
        "authenticationType": "selfSigned",
        "x509Thumbprint": {"primaryThumbprint": device.thumbprint, "secondaryThumbprint": None},
        "capabilities": {"iotEdge": False},
        "version": 0,
        "tags": {},
        "properties": {},
    }
    for section in sections.values():
        assert sorted(section) == ["$metadata", "$version"]
        assert section["$version"] == 1
        assert TIME.fullmatch(section["$metadata"]["$lastUpdated"])


def test_a_patch_merges_and_a_put_replaces(emulator: RunningEmulator, tmp_path: Path) -> None:
    create(emulator, tmp_path, "merge-01")
    first = {
        "tags": {"room": "lab", "floor": 2},
        "properties": {"desired": {"interval": 5, "colour": {"r": 1, "g": 2}}},
    }
    before = ask(emulator, "PATCH", "/twins/merge-01", first).json()
    patch = {"tags": {"floor": None}, "properties": {"desired": {"colour": {"g": 3}, "interval": None}}}
    after = ask(emulator, "PATCH", "/twins/merge-01", patch).json()
    desired = after["properties"]["desired"]
    assert after["tags"] == {"room": "lab"}
    assert (desired["colour"], "interval" in desired) == ({"r": 1, "g": 3}, False)
    assert desired["$version"] == before["properties"]["desired"]["$version"] + 1
    assert (after["etag"] != before["etag"], after["deviceEtag"]) == (True, before["deviceEtag"])
    whole = {"tags": {"only": True}, "properties": {"desired": {"one": 1}}}
    replaced = ask(emulator, "PUT", "/twins/merge-01", whole).json()
    assert replaced["tags"] == {"only": True}
    assert sorted(replaced["properties"]["desired"]) == ["$metadata", "$version", "one"]
    assert replaced == ask(emulator, "GET", "/twins/merge-01").json()


def test_what_was_read_may_be_written_back(emulator: RunningEmulator, tmp_path: Path) -> None:
    create(emulator, tmp_path, "written-01")
    ask(emulator, "PATCH", "/twins/written-01", {"tags": {"a": 1}, "properties": {"desired": {"b": [1, {"c": 2}]}}})
    read = ask(emulator, "GET", "/twins/written-01").json()
    written = ask(emulator, "PUT", "/twins/written-01", read, If_Match=read["etag"])
    assert written.status_code == 200, written.text
    assert written.json()["tags"] == {"a": 1}
    assert written.json()["properties"]["desired"]["b"] == [1, {"c": 2}]
    assert written.json()["properties"]["reported"] == read["properties"]["reported"]


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize("form", ["{}", '"{}"', 'W/"{}"'])
def test_a_twin_changes_from_the_etag_that_it_has(
    emulator: RunningEmulator, tmp_path: Path, method: str, form: str
) -> None:
    name = f"twin-etag-{method}-{len(form)}"
    create(emulator, tmp_path, name)
    etag = ask(emulator, "GET", f"/twins/{name}").json()["etag"]
    for if_match in (etag, "*"):
        answer = ask(emulator, method, f"/twins/{name}", {"tags": {"a": if_match}}, If_Match=form.format(if_match))
        assert answer.status_code == 200
    refused = ask(emulator, method, f"/twins/{name}", {"tags": {"a": "stale"}}, If_Match=form.format(etag))
    assert hub_error(refused)[:2] == (412, "PreconditionFailed")
    assert ask(emulator, "GET", f"/twins/{name}").json()["tags"] == {"a": "*"}


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ([], "JSON object"),
        ({"tags": []}, "tags"),
        ({"properties": 7}, "properties"),
        ({"properties": {"desired": "x"}}, "desired"),
        ({"properties": {"wanted": {}}}, "desired and reported"),
        ({"tags": {"a.b": 1}}, "a.b"),
        ({"tags": {"a": [None]}}, "null"),
        ({"tags": {"a": "x" * 4097}}, "4096"),
        ({"tags": {f"k{number}": "x" * 4000 for number in range(3)}}, "8192"),
        ({"properties": {"desired": {f"k{number}": "x" * 4000 for number in range(9)}}}, "32768"),
        ({"properties": {"desired": {"n": 2**52}}}, "2^52"),
        (b'{"tags": ' + b'{"a":' * 12 + b"1" + b"}" * 13, "levels"),
        (b'{"tags": {"a": NaN}}', "JSON"),
        (b'{"tags": {"a": 1e999}}', "JSON"),
        (b"\xff", "JSON"),
        (b"", "JSON object"),
    ],
)
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_what_a_twin_cannot_hold_is_refused_and_changes_nothing(
    emulator: RunningEmulator, method: str, body: Any, word: str
) -> None:
    ask(emulator, "PUT", "/devices/strict-01", {"deviceId": "strict-01"})
    before = ask(emulator, "GET", "/twins/strict-01").json()
    status, name, detail = hub_error(ask(emulator, method, "/twins/strict-01", body))
    assert (status, name) == (400, "ArgumentInvalid")
    assert word in detail
    assert ask(emulator, "GET", "/twins/strict-01").json() == before


def test_a_connected_device_learns_what_is_desired(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = create(emulator, tmp_path, "told-01")
    told: Queue[dict[str, Any]] = Queue()
    with connected(emulator, device) as client:
        client.on_twin_desired_properties_patch_received = told.put
        client.get_twin()  # its answer comes after the SUBACK of the patches
        ask(emulator, "PATCH", "/twins/told-01", {"tags": {"not": "for it"}})
        ask(emulator, "PATCH", "/twins/told-01", {"properties": {"desired": {"interval": 9, "old": None}}})
        assert told.get(timeout=ANSWER_WITHIN) == {"interval": 9, "old": None, "$version": 2}
        client.patch_twin_reported_properties({"interval": 9})
    reported = ask(emulator, "GET", "/twins/told-01").json()["properties"]["reported"]
    assert (reported["interval"], reported["$version"]) == (9, 2)


# --- queries ----------------------------------------------------------------------------------------------------------


def test_a_query_of_twins_pages_through_them(emulator: RunningEmulator, tmp_path: Path) -> None:
    for number in range(5):
        create(emulator, tmp_path, f"query-{number}")
        ask(emulator, "PATCH", f"/twins/query-{number}", {"tags": {"shelf": number % 2, "query": True}})
    query = "SELECT * FROM devices WHERE tags.query = true"
    answer = ask(emulator, "POST", "/devices/query", {"query": query})
    assert "x-ms-continuation" not in answer.headers
    assert [row["deviceId"] for row in answer.json()] == [f"query-{number}" for number in range(5)]
    assert answer.json()[0] == ask(emulator, "GET", "/twins/query-0").json()
    found = list(pages(emulator, "/devices/query", query, 2, "Twin"))
    assert [len(page) for page in found] == [2, 2, 1]
    assert [row for page in found for row in page] == answer.json()


def test_a_query_of_columns_has_rows_of_its_own(emulator: RunningEmulator, tmp_path: Path) -> None:
    for number in range(4):
        create(emulator, tmp_path, f"raw-{number}")
        ask(emulator, "PATCH", f"/twins/raw-{number}", {"tags": {"raw": number % 2}})
    query = "SELECT tags.raw AS raw, COUNT() AS many FROM devices WHERE IS_DEFINED(tags.raw) GROUP BY tags.raw"
    answer = ask(emulator, "POST", "/devices/query", {"query": query})
    assert answer.json() == [{"raw": 0, "many": 2}, {"raw": 1, "many": 2}]
    assert list(pages(emulator, "/devices/query", query, 1, "Raw")) == [
        [{"raw": 0, "many": 2}],
        [{"raw": 1, "many": 2}],
    ]


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        ({"query": "SELECT * FROM devices.modules"}, {}, (501, "NotImplemented")),
        ({"query": "SELECT * FROM devices WHERE"}, {}, (400, "ArgumentInvalid")),
        ({"query": "SELECT * FROM devices WHERE x = 'open"}, {}, (400, "ArgumentInvalid")),
        ({"query": "SELECT * FROM devices"}, {"x_ms_max_item_count": "0"}, (400, "ArgumentInvalid")),
        ({"query": "SELECT * FROM devices"}, {"x_ms_max_item_count": "many"}, (400, "ArgumentInvalid")),
        ({"query": "SELECT * FROM devices"}, {"x_ms_continuation": "?"}, (400, "ArgumentInvalid")),
    ],
)
def test_a_query_that_cannot_be_run_is_refused(
    emulator: RunningEmulator, body: Any, headers: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert hub_error(ask(emulator, "POST", "/devices/query", body, **headers))[:2] == expected


# --- direct methods ---------------------------------------------------------------------------------------------------

OFFLINE = (
    "The operation failed because the requested device isn't online or hasn't registered the direct method callback."
)


def call(emulator: RunningEmulator, device_id: str, method: str = "reboot", **fields: Any) -> requests.Response:
    return ask(emulator, "POST", f"/twins/{device_id}/methods", {"methodName": method, **fields}, within=40)


def test_a_device_answers_its_methods(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = create(emulator, tmp_path, "method-01")
    with connected(emulator, device) as client:
        responder(client, lambda request: (418, {"name": request.name, "asked": request.payload}))
        for name, payload in (
            ("reboot", {"in": [1, None, "ü"]}),
            ("with a blank/ü", "text"),
            ("nothing", None),
        ):
            answer = call(emulator, "method-01", name, payload=payload)
            assert answer.status_code == 200
            assert answer.json() == {"status": 418, "payload": {"name": name, "asked": payload}}


@pytest.mark.parametrize(
    "times",
    [
        {"responseTimeoutInSeconds": "30", "connectTimeoutInSeconds": "0"},
        {"responseTimeoutInSeconds": 300, "connectTimeoutInSeconds": 300},
        {"responseTimeoutInSeconds": None, "connectTimeoutInSeconds": None},
    ],
)
def test_times_are_numbers_or_text_or_left_out(
    emulator: RunningEmulator, tmp_path: Path, times: dict[str, Any]
) -> None:
    device = create(emulator, tmp_path, f"times-{times['responseTimeoutInSeconds']}")
    with connected(emulator, device) as client:
        responder(client, lambda request: (200, None))
        assert call(emulator, device.common_name, **times).json() == {"status": 200, "payload": None}


def test_a_device_that_does_not_answer_is_a_504(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = create(emulator, tmp_path, "mute-01")
    asked: Queue[MethodRequest] = Queue()
    with connected(emulator, device) as client:
        client.on_method_request_received = asked.put
        answer = call(emulator, "mute-01", responseTimeoutInSeconds="5")
        message = "Timed out waiting for the response from device."
        assert method_error(answer) == (504, 504101, message)
        assert "device 'mute-01' did not answer the method 'reboot' within 5 s" in emulator.log()
        late = MethodResponse.create_from_method_request(asked.get(timeout=ANSWER_WITHIN), 200, None)
        client.send_method_response(late)
        assert "which nobody waits for any more" in emulator.log()
        send(client, "no harm done")
    assert bodies(emulator, "mute-01") == ["no harm done"]


@pytest.mark.parametrize("case", ["not connected", "not listening"])
def test_a_device_that_is_not_there_to_answer_is_a_404(emulator: RunningEmulator, tmp_path: Path, case: str) -> None:
    name = case.replace(" ", "-")
    device = create(emulator, tmp_path, name)
    if case == "not connected":
        answer = call(emulator, name)
    else:
        with on_the_wire(emulator, device):
            answer = call(emulator, name)
    assert method_error(answer) == (404, 404103, OFFLINE)
    assert answer.headers["iothub-errorcode"] == "DeviceNotOnline"


@pytest.mark.parametrize("connected_before", [True, False])
def test_a_call_waits_for_a_device_that_comes(
    emulator: RunningEmulator, tmp_path: Path, connected_before: bool
) -> None:
    device = create(emulator, tmp_path, f"late-{connected_before}")
    overview = emulator.emulator.overview
    context = ssl.create_default_context(cafile=str(overview.ca_file))
    caller = http.client.HTTPSConnection(overview.host, overview.https_port, context=context, timeout=40)

    def begin() -> None:
        """Send the call. It has arrived when a later request is answered."""
        caller.request(
            "POST",
            f"/twins/{device.common_name}/methods?api-version={API_VERSIONS['hub']}",
            json.dumps({"methodName": "wake", "connectTimeoutInSeconds": 30}),
            {"Authorization": token(emulator, "hub")},
        )
        ask(emulator, "GET", f"/devices/{device.common_name}")

    try:
        if not connected_before:
            begin()
        with on_the_wire(emulator, device) as wire:
            if connected_before:
                begin()
            wire.subscribe(METHODS)
            topic, payload = wire.messages.get(timeout=ANSWER_WITHIN)
            request = re.fullmatch(r"\$iothub/methods/POST/wake/\?\$rid=(.+)", topic)
            assert request is not None
            assert payload == b"null"
            wire.say(f"$iothub/methods/res/200/?$rid={request[1]}", '{"awake": true}')
            response = caller.getresponse()
            assert (response.status, json.load(response)) == (200, {"status": 200, "payload": {"awake": True}})
    finally:
        caller.close()


def test_a_call_does_not_wait_for_ever(emulator: RunningEmulator, tmp_path: Path) -> None:
    create(emulator, tmp_path, "never-01")
    assert method_error(call(emulator, "never-01", connectTimeoutInSeconds=1)) == (404, 404103, OFFLINE)


@pytest.mark.parametrize("how", ["goes", "is deleted", "is disabled"])
def test_a_device_that_is_lost_while_it_is_asked_is_a_404(emulator: RunningEmulator, tmp_path: Path, how: str) -> None:
    name = how.replace(" ", "-")
    device = create(emulator, tmp_path, name)
    with on_the_wire(emulator, device) as wire:
        wire.subscribe(METHODS)
        wire.react = {
            "goes": lambda topic, payload: wire.close(),
            "is deleted": lambda topic, payload: ask(emulator, "DELETE", f"/devices/{name}", If_Match="*"),
            "is disabled": lambda topic, payload: ask(
                emulator, "PUT", f"/devices/{name}", identity(device, status="disabled"), If_Match="*"
            ),
        }[how]
        assert method_error(call(emulator, name, responseTimeoutInSeconds=30)) == (404, 404103, OFFLINE)


def test_an_answer_that_is_no_json_is_a_500(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = create(emulator, tmp_path, "babble-01")
    with on_the_wire(emulator, device) as wire:
        wire.subscribe(METHODS)
        wire.react = lambda topic, payload: wire.say(
            f"$iothub/methods/res/200/?$rid={topic.partition('$rid=')[2]}", "not JSON"
        )
        assert method_error(call(emulator, "babble-01"))[:2] == (500, 500001)


@pytest.mark.parametrize(
    "fields",
    [
        {"methodName": ""},
        {"methodName": None},
        {"methodName": 7},
        {"methodName": "x" * 101},
        {"methodName": "two\nlines"},
        {"responseTimeoutInSeconds": 4},
        {"responseTimeoutInSeconds": "301"},
        {"responseTimeoutInSeconds": 5.5},
        {"responseTimeoutInSeconds": True},
        {"responseTimeoutInSeconds": "soon"},
        {"responseTimeoutInSeconds": [30]},
        {"connectTimeoutInSeconds": -1},
        {"connectTimeoutInSeconds": 301},
        {"connectTimeoutInSeconds": "9" * 5000},
    ],
)
def test_a_call_that_cannot_be_is_a_400(emulator: RunningEmulator, fields: dict[str, Any]) -> None:
    ask(emulator, "PUT", "/devices/strict-02", {"deviceId": "strict-02"})
    answer = ask(emulator, "POST", "/twins/strict-02/methods", {"methodName": "m", **fields})
    assert hub_error(answer)[:2] == (400, "ArgumentInvalid")


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"methodName": "m", "payload": 1e999}', b"\xff"])
def test_a_call_that_is_no_json_is_a_400(emulator: RunningEmulator, body: bytes) -> None:
    ask(emulator, "PUT", "/devices/strict-03", {"deviceId": "strict-03"})
    answer = ask(emulator, "POST", "/twins/strict-03/methods", body)
    assert hub_error(answer)[:2] == (400, "ArgumentInvalid")


def test_a_payload_has_at_most_128_kb_either_way(emulator: RunningEmulator, tmp_path: Path) -> None:
    """https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-direct-methods"""
    most = "x" * (128 * 1024 - 2)  # and the two quotation marks
    device = create(emulator, tmp_path, "large-01")
    with connected(emulator, device) as client:
        responder(client, lambda request: (200, request.payload))
        assert call(emulator, "large-01", payload=most).json() == {"status": 200, "payload": most}
        refused = call(emulator, "large-01", payload=most + "x")
        assert method_error(refused)[:2] == (413, 413001)
        send(client, "still connected")
    assert bodies(emulator, "large-01") == ["still connected"]


# --- cloud-to-device messages -----------------------------------------------------------------------------------------


def test_what_waits_for_a_device_is_counted_and_purged(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = create(emulator, tmp_path, "purge-01")
    for number in range(3):
        emulator.emulator.send("purge-01", f"message {number}")
    assert ask(emulator, "GET", "/devices/purge-01").json()["cloudToDeviceMessageCount"] == 3
    assert ask(emulator, "GET", "/twins/purge-01").json()["cloudToDeviceMessageCount"] == 3
    purged = ask(emulator, "DELETE", "/devices/purge-01/commands")
    assert purged.status_code == 200
    assert purged.json() == {"deviceId": "purge-01", "moduleId": None, "totalMessagesPurged": 3}
    assert ask(emulator, "DELETE", "/devices/purge-01/commands").json()["totalMessagesPurged"] == 0
    emulator.emulator.send("purge-01", "after the purge")
    received: Queue[bytes] = Queue()
    with connected(emulator, device) as client:
        client.on_message_received = lambda message: received.put(message.data)
        assert received.get(timeout=ANSWER_WITHIN) == b"after the purge"


def test_a_purge_spares_the_other_devices(emulator: RunningEmulator, tmp_path: Path) -> None:
    for name in ("purge-02", "purge-03"):
        create(emulator, tmp_path, name)
        emulator.emulator.send(name, "wait")
    ask(emulator, "DELETE", "/devices/purge-02/commands")
    assert ask(emulator, "GET", "/devices/purge-03").json()["cloudToDeviceMessageCount"] == 1


# --- bad requests -----------------------------------------------------------------------------------------------------


def test_half_a_character_is_no_fault_of_the_emulator(emulator: RunningEmulator) -> None:
    ask(emulator, "PUT", "/devices/half-01", {"deviceId": "half-01"})
    for method, path, body in (
        ("PATCH", "/twins/half-01", rb'{"tags": {"a": "\ud800"}}'),
        ("PUT", "/devices/half-02", rb'{"statusReason": "\udfff"}'),
        ("POST", "/twins/half-01/methods", rb'{"methodName": "\ud800"}'),
        ("POST", "/devices/query", rb'{"query": "SELECT * FROM devices WHERE tags.a = \"\ud800\""}'),
    ):
        assert ask(emulator, method, path, body).status_code < 500, path
        assert ask(emulator, "GET", "/twins/half-01").status_code == 200


# --- headers ----------------------------------------------------------------------------------------------------------


def test_the_etag_of_the_header_is_that_of_the_document(emulator: RunningEmulator, tmp_path: Path) -> None:
    """The C# client takes the header for the etag of what it has read, and sends it back as If-Match."""
    create(emulator, tmp_path, "header-01")
    for path, method, change in (
        ("/devices/header-01", "PUT", {"status": "enabled"}),
        ("/twins/header-01", "PATCH", {"tags": {"room": "lab"}}),
    ):
        answer = ask(emulator, "GET", path)
        assert answer.headers["ETag"] == f'"{answer.json()["etag"]}"'
        assert ask(emulator, "GET", path, If_None_Match=answer.headers["ETag"]).status_code == 200
        assert ask(emulator, method, path, change, If_Match=answer.headers["ETag"]).status_code == 200
        assert hub_error(ask(emulator, method, path, change, If_Match=answer.headers["ETag"]))[0] == 412
    assert "ETag" not in ask(emulator, "GET", "/statistics/devices").headers


@pytest.mark.parametrize("field", ["deviceScope", "parentScopes"])
def test_devices_below_an_edge_device_are_refused_by_name(emulator: RunningEmulator, field: str) -> None:
    answer = ask(emulator, "PUT", "/devices/leaf-01", {"deviceId": "leaf-01", field: ["scope"]})
    assert hub_error(answer)[:2] == (501, "NotImplemented")
    assert f"{field} (devices below an edge device) is not emulated" in emulator.log()


def test_a_change_without_authentication_keeps_what_the_device_has(emulator: RunningEmulator, tmp_path: Path) -> None:
    create(emulator, tmp_path, "kept-01")
    before = ask(emulator, "GET", "/devices/kept-01").json()
    after = ask(emulator, "PUT", "/devices/kept-01", {"deviceId": "kept-01", "status": "disabled"}, If_Match="*").json()
    assert after["authentication"] == before["authentication"]
    assert after["status"] == "disabled"
