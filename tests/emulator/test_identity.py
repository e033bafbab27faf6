"""Device identities: made by DPS and by the service, guarded by etags, and the documents that show them.

https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-identity-registry
"""

import json
from base64 import b64decode, b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refused import bad_at_hub, refusal

from dpsx_helpers.emulator import identity, refusals, twin
from dpsx_helpers.emulator.dps import Assignment
from dpsx_helpers.emulator.identity import Device
from dpsx_helpers.emulator.refusals import Refusal, Refused
from dpsx_helpers.emulator.stamps import Stamp
from dpsx_helpers.emulator.twin import Twin

HUB, NAME = "hub-1", "thermo-01"
NOW = datetime(2022, 8, 27, 17, 53, 19, 514349, tzinfo=UTC)
TIME = "2022-08-27T17:53:19.5143490Z"
NEVER = "0001-01-01T00:00:00Z"
GUID, OTHER_GUID = "120086f2-76fe-4341-9214-bb6cfb891b8a", "6a1e1e5a-0d5f-4d35-8a3e-3f0d1f6f2d11"
STAMP = Stamp(NOW, GUID)
SHA1, SHA256 = "A0" * 20, "B1" * 32
KEY, OTHER_KEY = b64encode(bytes(32)).decode(), b64encode(b"k" * 64).decode()


def parse(
    document: Any, *, existing: Device | None = None, device_id: str = NAME, stamp: Stamp = STAMP, **fields: Any
) -> Device:
    return identity.parse(HUB, device_id, {**document, **fields} if fields else document, existing, stamp)


def put(*, existing: Device | None = None, stamp: Stamp = STAMP, **fields: Any) -> Device:
    """What a PUT of a document with these members makes."""
    return parse(fields, existing=existing, stamp=stamp)


def stored(**changes: Any) -> Device:
    """A device that DPS made some time ago."""
    plain = Device(
        hub=HUB,
        device_id=NAME,
        generation_id="637971619995143490",
        created="2020-01-01T00:00:00.0000000Z",
        primary_thumbprint=SHA256,
        status_reason="in repair",
        version=7,
        last_activity="2021-01-01T00:00:00.0000000Z",
    )
    return replace(plain, **changes)


def assignment(**changes: Any) -> Assignment:
    plain = Assignment(
        hub=HUB,
        device_id=NAME,
        primary_thumbprint=SHA256,
        secondary_thumbprint="",
        initial_twin={"tags": {"room": "lab"}, "properties": {"desired": {"interval": 5}}},
        edge=False,
    )
    return replace(plain, **changes)


def x509(primary: Any, secondary: Any = None) -> dict[str, Any]:
    thumbprints = {"primaryThumbprint": primary, "secondaryThumbprint": secondary}
    return {"type": "selfSigned", "x509Thumbprint": thumbprints}


def sas(primary: Any, secondary: Any) -> dict[str, Any]:
    return {"type": "sas", "symmetricKey": {"primaryKey": primary, "secondaryKey": secondary}}


# --- made by DPS ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edge", [False, True])
def test_dps_makes_a_device_with_the_thumbprints_of_its_enrollment(edge: bool) -> None:
    made = identity.provision(None, assignment(secondary_thumbprint=SHA1, edge=edge), STAMP)
    assert made == Device(
        hub=HUB,
        device_id=NAME,
        generation_id=made.generation_id,
        created=TIME,
        primary_thumbprint=SHA256,
        secondary_thumbprint=SHA1,
        primary_key="",
        secondary_key="",
        status="enabled",
        status_reason=None,
        status_updated=NEVER,
        version=1,
        last_activity=NEVER,
        edge=edge,
        c2d_qos=None,
        kept=[],
    )
    assert made.authentication_type == "selfSigned"


def test_a_generation_is_the_moment_of_its_making_in_ticks() -> None:
    """100 nanoseconds since the year 1, as https://learn.microsoft.com/dotnet/api/system.datetime.ticks counts."""
    ticks = (NOW - datetime(1, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 10
    made = identity.provision(None, assignment(), STAMP)
    assert made.generation_id.isdecimal()
    assert abs(int(made.generation_id) - ticks) < 10_000, "to the millisecond"
    later = identity.provision(None, assignment(), Stamp(NOW + timedelta(milliseconds=5), GUID))
    assert int(later.generation_id) > int(made.generation_id)


def test_a_device_that_comes_again_unchanged_keeps_its_identity_and_etag() -> None:
    existing = stored(c2d_qos=1, kept=["TWIN"], status="disabled", edge=True)
    assert identity.provision(existing, assignment(), STAMP) is existing


@pytest.mark.parametrize(
    ("existing", "wanted"),
    [
        (stored(), {"primary_thumbprint": SHA1}),
        (stored(), {"secondary_thumbprint": SHA1}),
        (stored(secondary_thumbprint=SHA1), {}),
        (stored(primary_thumbprint="", primary_key=KEY, secondary_key=KEY), {}),
        (stored(primary_key=KEY), {}),
    ],
)
def test_dps_sets_the_thumbprints_of_today_and_takes_keys_away(existing: Device, wanted: dict[str, str]) -> None:
    existing = replace(existing, status="disabled", status_updated=TIME, c2d_qos=0, kept=["METHODS"])
    changed = identity.provision(existing, assignment(**wanted), Stamp(NOW + timedelta(days=1), OTHER_GUID))
    thumbprints: dict[str, Any] = {"primary_thumbprint": SHA256, "secondary_thumbprint": ""} | wanted
    assert changed == replace(existing, primary_key="", secondary_key="", version=8, **thumbprints)
    assert changed.etag != existing.etag


# --- the twin when DPS provisions (https://learn.microsoft.com/azure/iot-dps/concepts-device-reprovision) -------------


def lived() -> Twin:
    """A twin that has been changed from both sides."""
    changed, _ = twin.change(twin.new({}, STAMP), {"tags": {"t": 1}}, STAMP, whole=False)
    return twin.report(changed, b'{"r": {"s": 2}}', STAMP)


def test_a_first_twin_is_that_of_the_enrollment() -> None:
    made = identity.provision_twin(None, None, assignment(), STAMP)
    assert made == twin.new({"tags": {"room": "lab"}, "properties": {"desired": {"interval": 5}}}, STAMP)
    assert identity.provision_twin(None, None, assignment(reset=True), STAMP) == made


def test_a_twin_is_kept_where_the_device_stays() -> None:
    existing = lived()
    assert identity.provision_twin(existing, None, assignment(), STAMP) is existing


def test_a_twin_is_brought_along_from_the_hub_that_is_left() -> None:
    left, later = lived(), Stamp(NOW + timedelta(days=1), OTHER_GUID)
    moved = identity.provision_twin(None, left, assignment(leaves=("hub-2", NAME)), later)
    assert moved == twin.migrated(left, later)
    assert (moved.tags, moved.reported.values) == ({"t": 1}, {"r": {"s": 2}})
    assert (moved.version, moved.reported.version) == (1, 1)


@pytest.mark.parametrize("existing", [None, lived()])
@pytest.mark.parametrize("left", [None, lived()])
def test_a_reset_starts_again_whatever_there_was(existing: Twin | None, left: Twin | None) -> None:
    again = identity.provision_twin(existing, left, assignment(reset=True), STAMP)
    assert again == twin.new(assignment().initial_twin, STAMP)


def test_activity_is_noted_and_no_etag_moves() -> None:
    touched = identity.touched(stored(), STAMP)
    assert touched == replace(stored(), last_activity=TIME)
    assert touched.etag == stored().etag


# --- the request of the service ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "document", [{}, {"authentication": None}, {"authentication": {}}, {"authentication": {"type": None}}]
)
def test_without_authentication_a_device_gets_keys(document: dict[str, Any]) -> None:
    made = parse(document)
    keys = made.primary_key, made.secondary_key
    assert [len(b64decode(key, validate=True)) for key in keys] == [32, 32]
    assert made == Device(HUB, NAME, made.generation_id, TIME, primary_key=keys[0], secondary_key=keys[1], version=1)
    assert made.authentication_type == "sas"


def test_every_key_is_another_one() -> None:
    made, other = put(), put(stamp=Stamp(NOW, OTHER_GUID))
    assert len({made.primary_key, made.secondary_key, other.primary_key, other.secondary_key}) == 4


def test_one_key_may_be_given_and_the_other_made() -> None:
    made = put(authentication=sas(KEY, None))
    assert made.primary_key == KEY
    assert len(b64decode(made.secondary_key)) == 32
    made = put(authentication=sas(None, KEY))
    assert made.secondary_key == KEY
    assert len(b64decode(made.primary_key)) == 32


def test_keys_are_not_shown_by_accident() -> None:
    made = put(authentication=sas(KEY, OTHER_KEY))
    assert KEY not in repr(made)
    assert OTHER_KEY not in repr(made)


@pytest.mark.parametrize("size", [16, 17, 32, 63, 64])
@pytest.mark.parametrize("slot", [0, 1])
def test_a_key_may_have_16_to_64_bytes(size: int, slot: int) -> None:
    keys = [KEY, KEY]
    keys[slot] = b64encode(b"k" * size).decode()
    made = put(authentication=sas(*keys))
    assert [made.primary_key, made.secondary_key] == keys


@pytest.mark.parametrize(
    "key",
    [
        "",
        b64encode(b"k" * 15).decode(),
        b64encode(b"k" * 65).decode(),
        "not base64 at all, but long",
        KEY + "\n",
        KEY[:-1],
        "é" * 32,
        "\ud800" * 32,
        7,
        True,
        [KEY],
        {"key": KEY},
    ],
)
@pytest.mark.parametrize("slot", [0, 1])
def test_any_other_key_is_refused_and_not_repeated(key: Any, slot: int) -> None:
    keys = [KEY, KEY]
    keys[slot] = key
    assert refusal(lambda: put(authentication=sas(*keys))) == bad_at_hub("a symmetric key is base64 of 16 to 64 bytes")


@pytest.mark.parametrize("primary", [SHA1, SHA256, SHA1.lower(), SHA256.lower(), "aB" * 20])
@pytest.mark.parametrize("secondary", [None, "", SHA1, SHA256])
def test_a_thumbprint_has_40_or_64_hex_digits(primary: str, secondary: str | None) -> None:
    made = put(authentication=x509(primary, secondary))
    assert (made.primary_thumbprint.upper(), made.secondary_thumbprint) == (primary.upper(), secondary or "")
    assert (made.primary_key, made.secondary_key, made.authentication_type) == ("", "", "selfSigned")


@pytest.mark.parametrize(
    "thumbprint",
    [
        "A" * 39,
        "A" * 41,
        "A" * 63,
        "A" * 65,
        "G" * 40,
        ":".join(["A0"] * 20),
        f" {SHA1}",
        f"{SHA1}\n",
        "٣" * 40,
        "A" * 50,
        7,
        True,
        [SHA1],
        {"t": SHA1},
    ],
)
@pytest.mark.parametrize("slot", [0, 1])
def test_any_other_thumbprint_is_refused(thumbprint: Any, slot: int) -> None:
    thumbprints = [SHA256, SHA256]
    thumbprints[slot] = thumbprint
    row, reason = refusal(lambda: put(authentication=x509(*thumbprints)))
    assert row is refusals.BAD_THUMBPRINT
    assert reason == f"{thumbprint!r} is no thumbprint"
    assert "40 (SHA-1) or 64 (SHA-256) hex digits" in row.hint


@pytest.mark.parametrize(
    "authentication",
    [x509(None), x509(""), x509(None, SHA1), {"type": "selfSigned"}, {"type": "selfSigned", "x509Thumbprint": None}],
)
def test_without_a_primary_thumbprint_there_is_no_x509(authentication: dict[str, Any]) -> None:
    why = bad_at_hub("x509Thumbprint.primaryThumbprint is missing")
    assert refusal(lambda: put(authentication=authentication)) == why


def test_the_type_is_told_from_what_is_there() -> None:
    only = {name: value for name, value in x509(SHA1).items() if name != "type"}
    assert put(authentication=only).authentication_type == "selfSigned"
    only = {name: value for name, value in sas(KEY, KEY).items() if name != "type"}
    assert put(authentication=only).authentication_type == "sas"
    assert put(authentication=only | {"x509Thumbprint": None}).primary_key == KEY


@pytest.mark.parametrize("kind", ["certificateAuthority", "none"])
def test_other_authentication_is_not_emulated(kind: str) -> None:
    row, reason = refusal(lambda: put(authentication={"type": kind}))
    assert row is refusals.HUB_NOT_EMULATED
    assert f"authentication of type {kind}" in reason


@pytest.mark.parametrize("kind", ["SAS", "selfsigned", "x509", 7, True, ["sas"], {"a": 1}])
def test_authentication_of_no_known_type_is_refused(kind: Any) -> None:
    why = bad_at_hub("authentication.type is none of sas, selfSigned, certificateAuthority, none")
    assert refusal(lambda: put(authentication={"type": kind})) == why


@pytest.mark.parametrize("authentication", [[], "sas", 7, True, False])
def test_authentication_is_an_object(authentication: Any) -> None:
    assert refusal(lambda: put(authentication=authentication)) == bad_at_hub("authentication is not an object")


@pytest.mark.parametrize("member", ["symmetricKey", "x509Thumbprint"])
@pytest.mark.parametrize("value", [[1], "text", 7, True])
def test_the_parts_of_authentication_are_objects(member: str, value: Any) -> None:
    found = refusal(lambda: put(authentication={"type": "sas", member: value}))
    assert found == bad_at_hub("symmetricKey and x509Thumbprint are objects")


@pytest.mark.parametrize("document", [None, [], "text", 7, True])
def test_a_body_that_is_no_object_is_refused(document: Any) -> None:
    assert refusal(lambda: parse(document)) == bad_at_hub("the body is not a JSON object")


SPECIAL = "-:.+%_#*?!(),=@;$'"


@pytest.mark.parametrize("device_id", ["d", "d" * 128, "Thermo-01", "0", SPECIAL, *SPECIAL])
def test_a_device_id_has_the_characters_of_the_documentation(device_id: str) -> None:
    """https://learn.microsoft.com/rest/api/iothub/service/devices/create-or-update-identity"""
    assert parse({}, device_id=device_id).device_id == device_id
    assert parse({"deviceId": device_id}, device_id=device_id).device_id == device_id


@pytest.mark.parametrize("device_id", ["", "d" * 129, "a b", "a/b", "ä", "a\n", "a\\b", "a&b", 'a"b', "a~b", "\x00"])
def test_any_other_device_id_is_refused(device_id: str) -> None:
    why = "the device ID in the path is not 1 to 128 of the characters that a device ID may have"
    assert refusal(lambda: parse({}, device_id=device_id)) == bad_at_hub(why)


@pytest.mark.parametrize("named", ["THERMO-01", "thermo-02", "", 7, [NAME]])
def test_another_device_id_in_the_document_is_refused(named: Any) -> None:
    assert refusal(lambda: put(deviceId=named)) == bad_at_hub("deviceId differs from the device ID in the path")
    assert put(deviceId=None).device_id == NAME


@pytest.mark.parametrize("status", [None, "enabled", "disabled"])
def test_a_device_is_enabled_unless_told_otherwise(status: str | None) -> None:
    made = put(status=status)
    assert (made.status, made.status_updated) == (("disabled", TIME) if status == "disabled" else ("enabled", NEVER))


@pytest.mark.parametrize("status", ["Enabled", "on", 7, True, ["enabled"]])
def test_any_other_status_is_refused(status: Any) -> None:
    assert refusal(lambda: put(status=status)) == bad_at_hub("status is neither enabled nor disabled")


@pytest.mark.parametrize("reason", [None, "", "r" * 128, "é" * 128])
def test_a_reason_may_have_128_characters(reason: str | None) -> None:
    assert put(statusReason=reason).status_reason == reason


@pytest.mark.parametrize("reason", ["r" * 129, 7, True, ["reason"], {}])
def test_any_other_reason_is_refused(reason: Any) -> None:
    why = bad_at_hub("statusReason is not a text of at most 128 characters")
    assert refusal(lambda: put(statusReason=reason)) == why


@pytest.mark.parametrize(
    ("capabilities", "edge"), [(None, False), ({}, False), ({"iotEdge": False}, False), ({"iotEdge": True}, True)]
)
def test_a_device_may_be_of_iot_edge(capabilities: Any, edge: bool) -> None:
    assert put(capabilities=capabilities).edge is edge


@pytest.mark.parametrize("capabilities", [[1], "iotEdge", 7, True, {"iotEdge": "true"}, {"iotEdge": 1}])
def test_any_other_capabilities_are_refused(capabilities: Any) -> None:
    found = refusal(lambda: put(capabilities=capabilities))
    assert found == bad_at_hub("capabilities.iotEdge is neither true nor false")


def test_a_change_keeps_what_is_the_hubs_and_replaces_the_rest() -> None:
    never = "2021-06-01T00:00:00.0000000Z"
    existing = stored(c2d_qos=1, kept=["TWIN"], edge=True, status="disabled", status_updated=never)
    changed = put(existing=existing, authentication=x509(SHA1, SHA256))
    assert changed == Device(
        hub=HUB,
        device_id=NAME,
        generation_id=existing.generation_id,
        created=existing.created,
        primary_thumbprint=SHA1,
        secondary_thumbprint=SHA256,
        status="enabled",
        status_reason=None,
        status_updated=TIME,
        version=8,
        last_activity=existing.last_activity,
        edge=False,
        c2d_qos=1,
        kept=["TWIN"],
    )
    assert changed.etag != existing.etag


def test_a_change_from_certificate_to_keys_and_back_leaves_nothing_of_the_other() -> None:
    keyed = put(existing=stored(), authentication=sas(KEY, OTHER_KEY))
    assert (keyed.primary_thumbprint, keyed.secondary_thumbprint, keyed.primary_key) == ("", "", KEY)
    again = put(existing=keyed, authentication=x509(SHA1))
    assert (again.primary_thumbprint, again.primary_key, again.secondary_key) == (SHA1, "", "")


@pytest.mark.parametrize("status", ["enabled", "disabled"])
def test_a_status_that_stays_keeps_its_time(status: str) -> None:
    existing = stored(status=status, status_updated="2021-06-01T00:00:00.0000000Z")
    assert put(existing=existing, status=status).status_updated == existing.status_updated


@pytest.mark.parametrize("existing", [stored(), put(authentication=sas(KEY, OTHER_KEY), status="disabled")])
def test_what_is_shown_can_be_written_back(existing: Device) -> None:
    shown = identity.document(existing, connected=True, pending=3)
    assert parse(shown, existing=existing) == replace(existing, version=existing.version + 1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["sas", "selfSigned", KEY, SHA1, "\ud800"]) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
AUTHENTICATION = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["sas", "selfSigned"]) | JSON,
        "symmetricKey": st.fixed_dictionaries({}, optional={"primaryKey": JSON, "secondaryKey": JSON}) | JSON,
        "x509Thumbprint": st.fixed_dictionaries({}, optional={"primaryThumbprint": JSON, "secondaryThumbprint": JSON})
        | JSON,
    },
)
MEMBERS = dict.fromkeys(("deviceId", "status", "statusReason", "capabilities"), JSON)


@given(JSON | st.fixed_dictionaries({}, optional={"authentication": AUTHENTICATION | JSON} | MEMBERS))
def test_any_json_is_a_device_or_refused(document: Any) -> None:
    try:
        made: Any = parse(document)
    except Refused as refused:
        made = refused.refusal
    rows = (refusals.HUB_BAD_REQUEST, refusals.BAD_THUMBPRINT, refusals.HUB_NOT_EMULATED)
    assert (
        made in rows if isinstance(made, Refusal) else json.dumps(identity.document(made, connected=False, pending=0))
    )


# --- If-Match ---------------------------------------------------------------------------------------------------------


def spellings(etag: str) -> list[str]:
    return ["*", '"*"', etag, f'"{etag}"', f' "{etag}" ', f'W/"{etag}"']


@pytest.mark.parametrize("deleting", [False, True])
@pytest.mark.parametrize("if_match", spellings(stored().etag))
def test_the_etag_of_a_device_or_a_star_opens_it(if_match: str, deleting: bool) -> None:
    assert identity.check_etag(stored(), NAME, if_match, deleting=deleting) is None  # type: ignore[func-returns-value]


@pytest.mark.parametrize("deleting", [False, True])
@pytest.mark.parametrize(
    "if_match", ["", '""', stored(version=6).etag, stored().etag.lower(), "**", f"x{stored().etag}"]
)
def test_another_etag_does_not(if_match: str, deleting: bool) -> None:
    found = refusal(lambda: identity.check_etag(stored(), NAME, if_match, deleting=deleting))
    assert found == (refusals.DEVICE_CHANGED, "the If-Match of the request is not the etag of the device")


def test_without_if_match_a_put_only_creates() -> None:
    identity.check_etag(None, NAME, None, deleting=False)
    found = refusal(lambda: identity.check_etag(stored(), NAME, None, deleting=False))
    assert found == (refusals.DEVICE_EXISTS, "A device with ID 'thermo-01' is already registered")


@pytest.mark.parametrize("if_match", spellings("MQ=="))
def test_with_if_match_a_put_only_changes(if_match: str) -> None:
    row, reason = refusal(lambda: identity.check_etag(None, NAME, if_match, deleting=False))
    assert row is refusals.DEVICE_NOT_FOUND
    assert "'thermo-01'" in reason


def test_a_delete_needs_if_match() -> None:
    row, reason = refusal(lambda: identity.check_etag(stored(), NAME, None, deleting=True))
    assert row is refusals.DEVICE_CHANGED
    assert "no If-Match" in reason


@pytest.mark.parametrize("if_match", [None, *spellings("MQ==")])
def test_what_is_not_there_cannot_be_deleted(if_match: str | None) -> None:
    assert refusal(lambda: identity.check_etag(None, NAME, if_match, deleting=True))[0] is refusals.DEVICE_NOT_FOUND


@pytest.mark.parametrize("if_match", [None, *spellings(Twin(version=3).etag)])
def test_a_change_of_a_twin_may_name_its_etag(if_match: str | None) -> None:
    assert identity.check_twin_etag(Twin(version=3), if_match) is None  # type: ignore[func-returns-value]


@pytest.mark.parametrize("if_match", ["", Twin(version=2).etag, stored(version=3).etag])
def test_another_etag_of_a_twin_is_refused(if_match: str) -> None:
    found = refusal(lambda: identity.check_twin_etag(Twin(version=3), if_match))
    assert found == (refusals.DEVICE_CHANGED, "the If-Match of the request is not the etag of the device twin")


def test_every_version_has_an_etag_of_its_own() -> None:
    assert len({stored(version=version).etag for version in range(1, 200)}) == 199
    assert b64decode(stored(version=12).etag) == b"12"


# --- documents --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("connected", "state"), [(True, "Connected"), (False, "Disconnected")])
def test_an_identity_with_a_certificate_is_shown_as_the_reference_has_it(connected: bool, state: str) -> None:
    """https://learn.microsoft.com/rest/api/iothub/service/devices/get-identity"""
    device = stored(secondary_thumbprint=SHA1, status="disabled", status_updated=TIME, edge=True)
    assert identity.document(device, connected=connected, pending=3) == {
        "deviceId": NAME,
        "generationId": "637971619995143490",
        "etag": device.etag,
        "connectionState": state,
        "status": "disabled",
        "statusReason": "in repair",
        "connectionStateUpdatedTime": "2021-01-01T00:00:00.0000000Z",
        "statusUpdatedTime": TIME,
        "lastActivityTime": "2021-01-01T00:00:00.0000000Z",
        "cloudToDeviceMessageCount": 3,
        "authentication": {
            "symmetricKey": {"primaryKey": None, "secondaryKey": None},
            "x509Thumbprint": {"primaryThumbprint": SHA256, "secondaryThumbprint": SHA1},
            "type": "selfSigned",
        },
        "capabilities": {"iotEdge": True},
    }


def test_an_identity_with_keys_shows_them_to_the_service() -> None:
    shown = identity.document(put(authentication=sas(KEY, OTHER_KEY)), connected=False, pending=0)
    assert shown["authentication"] == {
        "symmetricKey": {"primaryKey": KEY, "secondaryKey": OTHER_KEY},
        "x509Thumbprint": {"primaryThumbprint": None, "secondaryThumbprint": None},
        "type": "sas",
    }
    assert (shown["statusReason"], shown["lastActivityTime"], shown["statusUpdatedTime"]) == (None, NEVER, NEVER)


@pytest.mark.parametrize(("connected", "state"), [(True, "Connected"), (False, "Disconnected")])
def test_a_twin_is_shown_as_the_reference_has_it(connected: bool, state: str) -> None:
    """https://learn.microsoft.com/rest/api/iothub/service/devices/get-twin"""
    device, current = stored(status_reason=None), lived()
    shown = identity.twin_document(device, current, connected=connected, pending=2)
    assert {name: value for name, value in shown.items() if name != "statusReason"} == {
        "deviceId": NAME,
        "etag": current.etag,
        "deviceEtag": device.etag,
        "status": "enabled",
        "statusUpdateTime": NEVER,
        "connectionState": state,
        "lastActivityTime": "2021-01-01T00:00:00.0000000Z",
        "cloudToDeviceMessageCount": 2,
        "authenticationType": "selfSigned",
        "x509Thumbprint": {"primaryThumbprint": SHA256, "secondaryThumbprint": None},
        "capabilities": {"iotEdge": False},
        "version": shown["version"],
        "tags": {"t": 1},
        "properties": {"desired": current.desired.document(), "reported": current.reported.document()},
    }
    assert shown.get("statusReason") is None


def test_a_twin_shows_why_its_device_has_its_status() -> None:
    """As the example in https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-device-twins has it."""
    shown = identity.twin_document(stored(), Twin(), connected=False, pending=0)
    assert shown["statusReason"] == "in repair"


def test_a_twin_of_a_device_with_keys_shows_none_of_them() -> None:
    device = put(authentication=sas(KEY, OTHER_KEY))
    shown = identity.twin_document(device, Twin(), connected=False, pending=0)
    assert shown["authenticationType"] == "sas"
    assert shown["x509Thumbprint"] == {"primaryThumbprint": None, "secondaryThumbprint": None}
    assert KEY not in json.dumps(shown)
    assert OTHER_KEY not in json.dumps(shown)


def test_the_version_of_a_twin_grows_with_every_change_of_twin_or_identity() -> None:
    def version(device: Device, current: Twin) -> int:
        return int(identity.twin_document(device, current, connected=False, pending=0)["version"])

    first, second = twin.new({}, STAMP), lived()
    versions = [version(stored(), first), version(stored(version=8), first), version(stored(version=8), second)]
    assert versions == sorted(set(versions))
