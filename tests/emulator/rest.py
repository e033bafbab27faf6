"""The data planes of an emulator as REST clients ask them, and what its errors have to look like."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import requests
from processes import RunningEmulator

from dpsx_helpers.emulator import sas

POLICIES = {"dps": "provisioningserviceowner", "hub": "iothubowner"}
API_VERSIONS = {"dps": "2021-10-01", "hub": "2021-04-12"}
GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z")
#: What the owner of an emulator alone may ask, below /emulator/.
CONTROLS = [
    ("POST", "ping"), ("POST", "stop"), ("POST", "reset"), ("POST", "send"),
    ("GET", "faults"), ("POST", "faults"), ("DELETE", "faults"),
    ("GET", "students"), ("POST", "students"), ("DELETE", "students/anna"), ("DELETE", "students/bob"),
    ("GET", "board"),
]  # fmt: skip
_OF_DPS = re.compile(r"/(enrollments|enrollmentGroups|registrations|certificates)([/?].*)?")


# --- requests ---------------------------------------------------------------------------------------------------------


def plane_of(path: str) -> str:
    return "dps" if _OF_DPS.fullmatch(path) else "hub"


def key_of(emulator: RunningEmulator, plane: str) -> str:
    overview = emulator.emulator.overview
    connection = overview.dps_connection_string if plane == "dps" else overview.iothub_connection_string
    return connection.partition("SharedAccessKey=")[2]


def token(
    emulator: RunningEmulator,
    plane: str,
    *,
    key: str | None = None,
    policy: str | None = None,
    host: str | None = None,
    expires_in: int = 60,
) -> str:
    """A token of the one policy of a service, signed with its key, unless something else is named."""
    uri = host or emulator.emulator.overview.service_endpoint
    signed_with = key or key_of(emulator, plane)
    return sas.sign(uri, policy or POLICIES[plane], signed_with, int(time.time()) + expires_in)


def ask(
    emulator: RunningEmulator,
    method: str,
    path: str,
    body: Any = None,
    *,
    authorization: str | None = None,
    api_version: str | None = None,
    within: float = 20.0,
    session: requests.Session | None = None,
    **headers: str,
) -> requests.Response:
    """One request with a fresh token of the service that the path belongs to, unless another is given.

    A body of bytes goes out as it is, any other as JSON. In the names of headers `_` stands for `-`. `session`: on a
    connection that stays open.
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


def pages(
    emulator: RunningEmulator, path: str, query: str | None, size: int, item_type: str
) -> Iterator[list[dict[str, Any]]]:
    """All pages of a query, by following the continuation. Each says what its rows are."""
    body = None if query is None else {"query": query}
    more: dict[str, Any] = {}
    while True:
        answer = ask(emulator, "POST", path, body, x_ms_max_item_count=str(size), **more)
        assert answer.headers["x-ms-item-type"] == item_type
        yield list(done(answer))
        if "x-ms-continuation" not in answer.headers:
            return
        more = {"x_ms_continuation": answer.headers["x-ms-continuation"]}


# --- answers ----------------------------------------------------------------------------------------------------------


def done(response: requests.Response) -> Any:
    """The answer to a request that must have worked."""
    assert response.status_code in (200, 204), response.text
    return response.json() if response.content else None


def dps_error(response: requests.Response) -> tuple[int, int, str]:
    """(status, error code, message) of an error of DPS, whose document and headers must be whole."""
    shown = response.json()
    assert list(shown) == ["errorCode", "trackingId", "message", "timestampUtc"]
    assert GUID.fullmatch(shown["trackingId"])
    assert TIME.fullmatch(shown["timestampUtc"])
    assert response.headers["x-ms-request-id"] == shown["trackingId"]
    assert response.headers["x-ms-error-code"] == str(shown["errorCode"])
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    return response.status_code, shown["errorCode"], shown["message"]


def hub_error(response: requests.Response) -> tuple[int, str, str]:
    """(status, name, detail) of an error of a hub, whose envelope and headers must be whole."""
    envelope = response.json()
    assert list(envelope) == ["Message", "ExceptionMessage"]
    name, separator, detail = envelope["Message"].removeprefix("ErrorCode:").partition(";")
    assert envelope["Message"].startswith("ErrorCode:")
    assert separator == ";"
    assert response.headers["iothub-errorcode"] == name
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    tracking = re.fullmatch(r"Tracking ID:([0-9A-F]{32})-TimeStamp:(.*)", envelope["ExceptionMessage"])
    assert tracking is not None
    assert tracking[1].lower() == response.headers["x-ms-request-id"].replace("-", "")
    assert TIME.fullmatch(tracking[2])
    assert "x-ms-error-code" not in response.headers
    return response.status_code, name, detail
