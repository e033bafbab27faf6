"""The rules of a hub: the identity that DPS makes, who may connect, telemetry, and the documents of the data plane."""

from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from pki import make_device

from dpsx_helpers.certificates import Description, describe
from dpsx_helpers.emulator import hub, mqtt, refusals
from dpsx_helpers.emulator.dps import Assignment
from dpsx_helpers.emulator.hub import Device, Message, Session
from dpsx_helpers.emulator.refusals import Refusal, Refused
from dpsx_helpers.emulator.stamps import Stamp
from dpsx_helpers.emulator.topics import HubLogin

DEVICE_ID = "my-x509-device"
HUBS = {"first": "First.example", "second": "second.example"}
NOW = datetime(2022, 8, 27, 17, 53, 19, 514349, tzinfo=UTC)
STAMP = Stamp(NOW, "120086f2-76fe-4341-9214-bb6cfb891b8a")
LATER = Stamp(NOW + timedelta(hours=1), "220086f2-76fe-4341-9214-bb6cfb891b8a")
ASSIGNMENT = Assignment(
    hub="first",
    device_id=DEVICE_ID,
    primary_thumbprint="A" * 64,
    secondary_thumbprint="B" * 64,
    initial_twin={"tags": {"room": "lab"}, "properties": {"desired": {"interval": 5}}},
    edge=False,
)
SESSION = Session("first", DEVICE_ID, "637000000000000000")
EVENTS = f"devices/{DEVICE_ID}/messages/events/"


@cache
def certificate(number: int = 1) -> Description:
    """A certificate of the device; another number, another certificate."""
    with TemporaryDirectory() as folder:
        return describe(make_device(Path(folder), DEVICE_ID).der)


def device(**changes: Any) -> Device:
    """The device that DPS made for the first certificate."""
    own = certificate().thumbprint_sha256
    made = hub.provision(None, replace(ASSIGNMENT, primary_thumbprint=own, secondary_thumbprint=own), STAMP)
    return replace(made, **changes)


def admit(
    *,
    device_id: str = DEVICE_ID,
    client_id: str = DEVICE_ID,
    host: str = "first.EXAMPLE",
    api_version: str = "2021-04-12",
    will: bool = False,
    presented: Description | None = None,
    known: Device | None = None,
) -> Session:
    connect = mqtt.Connect(client_id, f"{host}/{device_id}", 60, False, has_will=will)
    login = HubLogin(host, device_id, api_version)
    return hub.admit(connect, login, presented, known, HUBS)


def publish(topic: str = EVENTS, payload: bytes = b"22.5", qos: int = 1, **flags: bool) -> mqtt.Publish:
    return mqtt.Publish(topic, payload, qos, 7 if qos else None, **flags)


def receive(packet: mqtt.Publish) -> Message:
    return hub.receive(SESSION, packet, STAMP)


def refusal(call: Callable[[], object]) -> tuple[Refusal, str]:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value.refusal, caught.value.reason


# --- the identity that DPS makes --------------------------------------------------------------------------------------


def test_a_new_device_gets_thumbprints_and_initial_twin() -> None:
    made = hub.provision(None, ASSIGNMENT, STAMP)
    assert made == Device(
        hub="first",
        device_id=DEVICE_ID,
        generation_id="637972195995143490",
        primary_thumbprint="A" * 64,
        secondary_thumbprint="B" * 64,
        created=STAMP.text,
        tags={"room": "lab"},
        desired={"interval": 5},
    )
    assert (made.status, made.version, made.twin_version, made.edge) == ("enabled", 1, 1, False)
    assert hub.provision(None, replace(ASSIGNMENT, edge=True), STAMP).edge


@pytest.mark.parametrize("twin", [{}, {"tags": {}}, {"properties": {}}])
def test_an_initial_twin_may_lack_any_part(twin: dict[str, Any]) -> None:
    made = hub.provision(None, replace(ASSIGNMENT, initial_twin=twin), STAMP)
    assert (made.tags, made.desired) == ({}, {})


def test_the_same_device_again_is_left_as_it_is() -> None:
    made = replace(hub.provision(None, ASSIGNMENT, STAMP), status="disabled", desired={"interval": 60})
    assert hub.provision(made, ASSIGNMENT, LATER) is made


@pytest.mark.parametrize("slot", ["primary_thumbprint", "secondary_thumbprint"])
def test_another_thumbprint_replaces_the_old_one_and_nothing_else(slot: str) -> None:
    made = replace(hub.provision(None, ASSIGNMENT, STAMP), status="disabled", desired={"interval": 60})
    changed = hub.provision(made, replace(ASSIGNMENT, initial_twin={}, **{slot: "C" * 64}), LATER)  # type: ignore[arg-type]
    assert changed == replace(made, version=2, **{slot: "C" * 64})  # type: ignore[arg-type]


def test_etags_count_the_changes_of_identity_and_twin() -> None:
    assert b64decode(device(version=12).etag) == b"12"
    assert device(twin_version=1).twin_etag == "AAAAAAAAAAE="


# --- who may connect --------------------------------------------------------------------------------------------------


def test_a_device_enters_by_its_certificate() -> None:
    assert admit(presented=certificate(), known=device()) == Session("first", DEVICE_ID, device().generation_id)


@pytest.mark.parametrize("digest", ["thumbprint_sha1", "thumbprint_sha256"])
@pytest.mark.parametrize("slot", ["primary_thumbprint", "secondary_thumbprint"])
@pytest.mark.parametrize("spelling", [str.upper, str.lower])
def test_either_thumbprint_in_either_digest_and_case_opens(
    digest: str, slot: str, spelling: Callable[[str], str]
) -> None:
    other = {"primary_thumbprint": "C" * 64, "secondary_thumbprint": "C" * 64}
    known = device(**other | {slot: spelling(getattr(certificate(), digest))})
    assert admit(presented=certificate(), known=known).device_id == DEVICE_ID


@pytest.mark.parametrize("api_version", sorted(hub.API_VERSIONS))
def test_every_api_version_that_was_public_is_taken(api_version: str) -> None:
    assert admit(presented=certificate(), known=device(), api_version=api_version)


WRONG: list[tuple[Refusal, dict[str, Any], str]] = [
    (refusals.UNKNOWN_API_VERSION, {"api_version": "2021-04-13"}, "'2021-04-13'"),
    (refusals.UNKNOWN_HUB, {"host": "third.example"}, "'third.example'; this is 'First.example, second.example'"),
    (refusals.HUB_CLIENT_ID_DIFFERS, {"client_id": DEVICE_ID.upper()}, f"'{DEVICE_ID.upper()}'"),
    (refusals.NOT_EMULATED, {"will": True}, "a Will"),
    (refusals.NO_CERTIFICATE, {"presented": None}, f"'{DEVICE_ID}' sent no client certificate"),
    (refusals.UNKNOWN_DEVICE, {"known": None}, f"hub 'first.EXAMPLE' has no device '{DEVICE_ID}'"),
    (refusals.THUMBPRINT_DIFFERS, {"presented": 2}, f"device '{DEVICE_ID}' presented the certificate '"),
    (refusals.DEVICE_DISABLED, {"known": "disabled"}, "is disabled in the hub's identity registry"),
]


@pytest.mark.parametrize(("row", "wrong", "reason"), WRONG, ids=lambda value: getattr(value, "name", ""))
def test_a_wrong_connect_is_refused_with_its_reason(row: Refusal, wrong: dict[str, Any], reason: str) -> None:
    wrong = {"presented": certificate(), "known": device(), **wrong}
    if wrong["presented"] == 2:
        wrong["presented"] = certificate(2)
    if wrong["known"] == "disabled":
        wrong["known"] = device(status="disabled")
    found, told = refusal(lambda: admit(**wrong))
    assert found is row
    assert reason in told


def test_a_strangers_certificate_does_not_learn_that_the_device_is_disabled() -> None:
    assert refusal(lambda: admit(presented=certificate(2), known=device(status="disabled")))[0] is (
        refusals.THUMBPRINT_DIFFERS
    )


def test_being_active_moves_no_etag() -> None:
    touched = hub.touched(device(), LATER)
    assert touched == device(last_activity=LATER.text)
    assert (touched.etag, touched.twin_etag) == (device().etag, device().twin_etag)


# --- telemetry --------------------------------------------------------------------------------------------------------


def test_a_message_is_sorted_into_system_and_application_properties() -> None:
    bag = "%24.mid=a%20b&%24.ct=application%2Fjson&%24.ce=utf-8&%24.new=1&ke%20y=v%2F1%262&empty=&none"
    assert receive(publish(EVENTS + bag)) == Message(
        hub="first",
        device_id=DEVICE_ID,
        enqueued=STAMP.text,
        properties={"ke y": "v/1&2", "empty": "", "none": None},
        system_properties={
            "messageId": "a b",
            "contentType": "application/json",
            "contentEncoding": "utf-8",
            "$.new": "1",
            "connectionDeviceId": DEVICE_ID,
            "connectionDeviceGenerationId": SESSION.generation_id,
            "connectionAuthMethod": '{"scope":"device","type":"x509Certificate","issuer":"external"}',
            "enqueuedTime": STAMP.text,
        },
        body=b"22.5",
    )


@pytest.mark.parametrize(("short", "name"), hub.SYSTEM_PROPERTIES.items())
def test_each_system_property_gets_its_name(short: str, name: str) -> None:
    assert receive(publish(f"{EVENTS}{short}=x")).system_properties[name] == "x"


def test_a_device_cannot_forge_what_the_hub_vouches_for() -> None:
    forged = receive(publish(f"{EVENTS}connectionDeviceId=other&%24.connectionDeviceId=other&enqueuedTime=never"))
    assert forged.system_properties["connectionDeviceId"] == DEVICE_ID
    assert forged.system_properties["enqueuedTime"] == STAMP.text
    assert forged.properties["connectionDeviceId"] == "other", "an application property of that name is just one"


def test_retained_and_repeated_messages_are_marked() -> None:
    assert receive(publish(retain=True)).properties == {"mqtt-retain": "true"}
    assert receive(publish(dup=True)).properties == {"mqtt-dup": "true"}
    assert receive(publish()).properties == {}


@pytest.mark.parametrize("topic", [EVENTS, EVENTS.rstrip("/")])
@pytest.mark.parametrize("qos", [0, 1])
def test_an_empty_message_is_a_message(topic: str, qos: int) -> None:
    assert receive(publish(topic, b"", qos)).body == b""


def test_256_kilobytes_of_body_and_properties_are_the_limit() -> None:
    bag = "k=v"
    room = 256 * 1024 - len("/" + bag)
    assert len(receive(publish(EVENTS + bag, bytes(room))).body) == room
    found, told = refusal(lambda: receive(publish(EVENTS + bag, bytes(room + 1))))
    assert found is refusals.TOO_LARGE
    assert "a message of 262145 bytes; the limit is 262144" in told


@pytest.mark.parametrize(
    ("row", "packet"),
    [
        (refusals.QOS_2, publish(qos=2)),
        (refusals.FOREIGN_TOPIC, publish("devices/other/messages/events/")),
        (refusals.FOREIGN_TOPIC, publish(f"devices/{DEVICE_ID.upper()}/messages/events/")),
        (refusals.UNKNOWN_TOPIC, publish("devices")),
        (refusals.UNKNOWN_TOPIC, publish(f"devices/{DEVICE_ID}/messages/devicebound/")),
        (refusals.UNKNOWN_TOPIC, publish("$dps/registrations/PUT/iotdps-register/?$rid=1")),
        (refusals.NOT_EMULATED, publish("$iothub/twin/GET/?$rid=1")),
        (refusals.NOT_EMULATED, publish("$iothub/twin/PATCH/properties/reported/?$rid=1")),
        (refusals.NOT_EMULATED, publish("$iothub/methods/res/200/?$rid=1")),
    ],
    ids=lambda value: getattr(value, "topic", ""),
)
def test_anything_else_that_is_published_is_refused(row: Refusal, packet: mqtt.Publish) -> None:
    found, told = refusal(lambda: receive(packet))
    assert found is row
    assert DEVICE_ID in told


@pytest.mark.parametrize(
    ("row", "topic"),
    [
        (refusals.NOT_EMULATED, "$iothub/methods/POST/#"),
        (refusals.NOT_EMULATED, "$iothub/twin/res/#"),
        (refusals.NOT_EMULATED, "$iothub/twin/PATCH/properties/desired/#"),
        (refusals.NOT_EMULATED, f"devices/{DEVICE_ID}/messages/devicebound/#"),
        (refusals.UNKNOWN_FILTER, "#"),
        (refusals.UNKNOWN_FILTER, "$dps/registrations/res/#"),
    ],
)
def test_whatever_a_device_subscribes_to_is_refused_by_name(row: Refusal, topic: str) -> None:
    found, told = refusal(lambda: hub.subscribe(SESSION, mqtt.Subscribe(1, ((topic, 1),))))
    assert found is row
    assert DEVICE_ID in told


# --- the data plane ---------------------------------------------------------------------------------------------------


def test_the_identity_as_the_data_plane_shows_it() -> None:
    made = hub.provision(None, ASSIGNMENT, STAMP)
    expected = {
        "deviceId": DEVICE_ID,
        "generationId": made.generation_id,
        "etag": "MQ==",
        "connectionState": "Disconnected",
        "status": "enabled",
        "statusReason": None,
        "connectionStateUpdatedTime": "0001-01-01T00:00:00Z",
        "statusUpdatedTime": "0001-01-01T00:00:00Z",
        "lastActivityTime": "0001-01-01T00:00:00Z",
        "cloudToDeviceMessageCount": 0,
        "authentication": {
            "symmetricKey": {"primaryKey": None, "secondaryKey": None},
            "x509Thumbprint": {"primaryThumbprint": "A" * 64, "secondaryThumbprint": "B" * 64},
            "type": "selfSigned",
        },
        "capabilities": {"iotEdge": False},
    }
    assert hub.device_document(made, connected=False) == expected
    assert hub.device_document(made, connected=True) == expected | {"connectionState": "Connected"}
    assert hub.device_document(replace(made, last_activity="now"), connected=False)["lastActivityTime"] == "now"


def test_the_twin_as_a_query_shows_it() -> None:
    made = hub.provision(None, replace(ASSIGNMENT, initial_twin={"properties": {"desired": {"a": {"b": 1}}}}), STAMP)
    when = {"$lastUpdated": STAMP.text}
    assert hub.twin_document(made, connected=True) == {
        "deviceId": DEVICE_ID,
        "etag": "AAAAAAAAAAE=",
        "deviceEtag": "MQ==",
        "status": "enabled",
        "statusUpdateTime": "0001-01-01T00:00:00Z",
        "connectionState": "Connected",
        "lastActivityTime": "0001-01-01T00:00:00Z",
        "cloudToDeviceMessageCount": 0,
        "authenticationType": "selfSigned",
        "x509Thumbprint": {"primaryThumbprint": "A" * 64, "secondaryThumbprint": "B" * 64},
        "capabilities": {"iotEdge": False},
        "version": 2,
        "tags": {},
        "properties": {
            "desired": {"a": {"b": 1}, "$metadata": {**when, "a": {**when, "b": when}}, "$version": 1},
            "reported": {"$metadata": when, "$version": 1},
        },
    }


@pytest.mark.parametrize("query", ["SELECT * FROM devices", "  select  *  from  DEVICES ; "])
def test_the_query_of_all_devices_is_taken(query: str) -> None:
    hub.check_query(query)


@pytest.mark.parametrize(
    ("row", "query"),
    [
        (refusals.HUB_BAD_REQUEST, None),
        (refusals.HUB_BAD_REQUEST, 7),
        (refusals.HUB_BAD_REQUEST, " "),
        (refusals.HUB_NOT_EMULATED, "SELECT deviceId FROM devices"),
        (refusals.HUB_NOT_EMULATED, "SELECT * FROM devices WHERE deviceId = 'a'"),
    ],
)
def test_any_other_query_is_refused(row: Refusal, query: Any) -> None:
    assert refusal(lambda: hub.check_query(query))[0] is row


@pytest.mark.parametrize("if_match", ["*", '"*"', "MQ==", '"MQ=="', " * "])
def test_an_if_match_may_be_quoted_or_a_star(if_match: str) -> None:
    assert hub.check_etag(device(), DEVICE_ID, if_match) == device()


@pytest.mark.parametrize(
    ("row", "known", "if_match", "reason"),
    [
        (refusals.DEVICE_NOT_FOUND, None, "*", f"'{DEVICE_ID}' was not found"),
        (refusals.DEVICE_CHANGED, 1, None, "Etag missing"),
        (refusals.DEVICE_CHANGED, 1, "Mg==", "is not the etag of the device"),
        (refusals.DEVICE_CHANGED, 1, "", "is not the etag of the device"),
    ],
)
def test_a_wrong_if_match_is_refused(row: Refusal, known: int | None, if_match: str | None, reason: str) -> None:
    found, told = refusal(lambda: hub.check_etag(device() if known else None, DEVICE_ID, if_match))
    assert found is row
    assert reason in told
