"""The rules keep clear of sockets, clocks and chance: those come in as arguments. And how a stamp is written."""

import ast
import base64
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from dpsx_helpers import emulator
from dpsx_helpers.emulator.stamps import Stamp

PURE = (
    "attestation", "commands", "documents", "dps", "enrollment", "faults", "group", "hub", "identity", "limits",
    "methods", "mqtt", "places", "query", "records", "refusals", "sas", "scope", "stamps", "students", "topics",
    "twin", "wal", "websocket",
)  # fmt: skip
FORBIDDEN_MODULES = {
    "asyncio", "concurrent", "multiprocessing", "OpenSSL", "os", "pathlib", "random", "requests", "secrets", "select",
    "selectors", "socket", "sqlite3", "ssl", "subprocess", "threading", "time", "tornado", "uuid",
}  # fmt: skip
FORBIDDEN_CALLS = {"now", "utcnow", "today", "uuid1", "uuid4", "open", "input", "__import__", "import_module"}


def impurities(source: str) -> list[str]:
    """What a module takes from outside that should have come as an argument."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in FORBIDDEN_MODULES:
            found.append(node.module or "")
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            found += [name] if name in FORBIDDEN_CALLS else []
    return found


@pytest.mark.parametrize("name", PURE)
def test_a_module_of_rules_has_no_io_no_clock_and_no_chance(name: str) -> None:
    source = Path(emulator.__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    assert impurities(source) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import socket", "socket"),
        ("import json, ssl as tls", "ssl"),
        ("from time import monotonic", "time"),
        ("import concurrent.futures", "concurrent.futures"),
        ("def late():\n    from random import choice", "random"),
        ("datetime.now(UTC)", "now"),
        ("datetime.datetime.utcnow()", "utcnow"),
        ("uuid4()", "uuid4"),
        ("open('x')", "open"),
    ],
)
def test_the_check_sees_what_it_is_for(source: str, found: str) -> None:
    assert impurities(source) == [found]


def test_the_check_lets_argument_and_type_pass() -> None:
    assert impurities("from datetime import datetime\ndef f(now: datetime) -> str: return now.isoformat()") == []


# --- stamps -----------------------------------------------------------------------------------------------------------

# The example at https://learn.microsoft.com/azure/iot-dps/iot-dps-https-x509-support
GUID = "120086f2-1111-4222-8333-444444444444"
EXAMPLE = Stamp(datetime(2022, 8, 27, 17, 53, 19, 514349, UTC), GUID)


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (EXAMPLE.now, "2022-08-27T17:53:19.5143490Z"),
        (datetime(2022, 1, 2, 3, 4, 5, tzinfo=UTC), "2022-01-02T03:04:05.0000000Z"),
        (datetime(2022, 1, 2, 3, 4, 5, 7, UTC), "2022-01-02T03:04:05.0000070Z"),
        (datetime(2022, 1, 1, 1, 0, 0, 0, timezone(timedelta(hours=2))), "2021-12-31T23:00:00.0000000Z"),
    ],
)
def test_a_time_has_seven_digits_and_is_in_utc(moment: datetime, expected: str) -> None:
    assert Stamp(moment, GUID).text == expected


def test_the_etag_of_the_documented_example() -> None:
    assert EXAMPLE.version == "120086f2-0000-0300-0000-630a5a0f0000"
    assert EXAMPLE.etag == "IjEyMDA4NmYyLTAwMDAtMDMwMC0wMDAwLTYzMGE1YTBmMDAwMCI="


def test_a_version_tells_its_guid_and_its_second() -> None:
    early = Stamp(datetime(1970, 1, 1, 0, 0, 1, 999_999, UTC), "abcdef01-2345-6789-abcd-ef0123456789")
    assert early.version == "abcdef01-0000-0300-0000-000000010000"
    assert base64.b64decode(early.etag) == b'"abcdef01-0000-0300-0000-000000010000"'


def test_stamps_of_one_moment_differ_by_their_guid() -> None:
    assert EXAMPLE.etag != Stamp(EXAMPLE.now, "220086f2-1111-4222-8333-444444444444").etag
