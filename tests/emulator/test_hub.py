"""The rules of a hub's device side: who may connect, what it subscribes to, telemetry and last words."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest
from in_memory import leaf
from refused import refusal

from dpsx_helpers.certificates import Description, describe
from dpsx_helpers.emulator import hub, mqtt, refusals, sas
from dpsx_helpers.emulator.hub import Message, Session
from dpsx_helpers.emulator.identity import Device
from dpsx_helpers.emulator.refusals import Refusal
from dpsx_helpers.emulator.stamps import Stamp
from dpsx_helpers.emulator.topics import HubLogin, Subscription, Telemetry, parse_hub

DEVICE_ID = "my-x509-device"
HUBS = {"first": "First.example", "second": "second.example"}
NOW = datetime(2022, 8, 27, 17, 53, 19, 514349, tzinfo=UTC)
STAMP = Stamp(NOW, "120086f2-76fe-4341-9214-bb6cfb891b8a")
SESSION = Session("first", DEVICE_ID, "637000000000000000")
EVENTS = f"devices/{DEVICE_ID}/messages/events/"


@cache
def certificate(number: int = 1) -> Description:
    """A certificate of the device; another number, another certificate."""
    return describe(leaf(DEVICE_ID).der)


def device(**changes: Any) -> Device:
    """The device that DPS made for the first certificate."""
    own = certificate().thumbprint_sha256
    made = Device("first", DEVICE_ID, "637000000000000000", STAMP.text, own, own)
    return replace(made, **changes)


def admit(
    *,
    device_id: str = DEVICE_ID,
    client_id: str = DEVICE_ID,
    host: str = "first.EXAMPLE",
    api_version: str = "2021-04-12",
    module_id: str | None = None,
    will: mqtt.Will | None = None,
    password: str | None = None,
    presented: Description | None = None,
    known: Device | None = None,
) -> Session:
    connect = mqtt.Connect(client_id, f"{host}/{device_id}", 60, False, will, password)
    login = HubLogin(host, device_id, api_version, module_id)
    return hub.admit(connect, login, presented, known, HUBS, NOW.timestamp())


def publish(topic: str = EVENTS, payload: bytes = b"22.5", qos: int = 1, **flags: bool) -> mqtt.Publish:
    return mqtt.Publish(topic, payload, qos, 7 if qos else None, **flags)


def receive(packet: mqtt.Publish) -> Message:
    telemetry = hub.check_publish(SESSION, packet, parse_hub(packet.topic))
    assert isinstance(telemetry, Telemetry)
    return hub.receive(SESSION, packet, telemetry, STAMP.text)


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
    (refusals.NOT_EMULATED, {"module_id": "camera"}, "a module identity"),
    (refusals.BAD_WILL, {"will": mqtt.Will("elsewhere", b"", 0, False)}, "'elsewhere'"),
    (refusals.BAD_WILL, {"will": mqtt.Will("devices/other/messages/events/", b"", 0, False)}, "other"),
    (refusals.BAD_WILL, {"will": mqtt.Will(EVENTS, b"", 2, False)}, "or QoS 2"),
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


# --- devices with keys ------------------------------------------------------------------------------------------------

KEYS = {"primary": "cHJpbWFyeSBrZXkgb2YgdGhlIGRldmljZQ==", "secondary": "c2Vjb25kYXJ5IGtleSBvZiB0aGUgZGV2aWNl"}


def keyed(**changes: Any) -> Device:
    """A device that signs its tokens."""
    made = device(primary_thumbprint="", secondary_thumbprint="", primary_key=KEYS["primary"])
    return replace(made, secondary_key=KEYS["secondary"], **changes)


def token(key: str, *, resource: str = f"first.EXAMPLE/devices/{DEVICE_ID}", seconds: int = 60) -> str:
    """What a device SDK puts into the password: no policy name."""
    signed = sas.sign(resource, "", key, int(NOW.timestamp()) + seconds)
    return signed.removesuffix("&skn=")


@pytest.mark.parametrize("slot", KEYS)
def test_either_key_opens(slot: str) -> None:
    session = admit(password=token(KEYS[slot]), known=keyed())
    assert (session.device_id, session.authentication_type) == (DEVICE_ID, "sas")


@pytest.mark.parametrize(
    ("password", "why"),
    [
        (None, "there is no SharedAccessSignature in the password"),
        ("secret", "there is no SharedAccessSignature in the password"),
        (token("YW5vdGhlciBrZXkgYWx0b2dldGhlcg=="), "does not match a key of the device"),
        (token(KEYS["primary"], seconds=0), "has expired"),
        (token(KEYS["primary"], resource="first.EXAMPLE/devices/other"), "'first.EXAMPLE/devices/other', not for"),
        (token(KEYS["primary"], resource="first.EXAMPLE"), "'first.EXAMPLE', not for"),
    ],
)
def test_a_wrong_token_is_refused_and_kept_to_itself(password: str | None, why: str) -> None:
    row, reason = refusal(lambda: admit(password=password, presented=certificate(), known=keyed()))
    assert row is refusals.TOKEN_NOT_VALID
    assert why in reason
    assert "sig=" not in reason
    assert "secret" not in reason


def test_a_key_is_no_way_around_a_disabled_identity() -> None:
    found = refusal(lambda: admit(password=token(KEYS["primary"]), known=keyed(status="disabled")))
    assert found[0] is refusals.DEVICE_DISABLED


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
    bag = "k=%20&%24.mid=%c3%a4"  # a name and a value of one byte, and two bytes of a system property's value
    room = 256 * 1024 - 4
    assert len(receive(publish(EVENTS + bag, bytes(room))).body) == room
    found, told = refusal(lambda: receive(publish(EVENTS + bag, bytes(room + 1))))
    assert found is refusals.TOO_LARGE
    assert "a message of 262145 bytes; the limit is 262144" in told


@pytest.mark.parametrize("topic", [EVENTS, EVENTS.rstrip("/")])
def test_a_body_of_256_kilobytes_passes_and_one_byte_more_does_not(topic: str) -> None:
    assert receive(publish(topic, bytes(256 * 1024)))
    assert refusal(lambda: receive(publish(topic, bytes(256 * 1024 + 1))))[0] is refusals.TOO_LARGE


@pytest.mark.parametrize(
    ("row", "packet"),
    [
        (refusals.QOS_2, publish(qos=2)),
        (refusals.FOREIGN_TOPIC, publish("devices/other/messages/events/")),
        (refusals.FOREIGN_TOPIC, publish(f"devices/{DEVICE_ID.upper()}/messages/events/")),
        (refusals.UNKNOWN_TOPIC, publish("devices")),
        (refusals.UNKNOWN_TOPIC, publish(f"devices/{DEVICE_ID}/messages/devicebound/")),
        (refusals.UNKNOWN_TOPIC, publish("$iothub/twin/res/200/?$rid=1")),
        (refusals.UNKNOWN_TOPIC, publish("$dps/registrations/PUT/iotdps-register/?$rid=1")),
    ],
    ids=lambda value: getattr(value, "topic", ""),
)
def test_what_is_published_wrongly_is_refused(row: Refusal, packet: mqtt.Publish) -> None:
    found, told = refusal(lambda: receive(packet))
    assert found is row
    assert DEVICE_ID in told


# --- last words -------------------------------------------------------------------------------------------------------


def test_a_will_becomes_a_message_that_says_so() -> None:
    bag = f"{EVENTS}%24.mid=1&room=lab"
    message = hub.last_words(SESSION, mqtt.Will(bag, b"gone", 1, True), STAMP.text)
    assert message.body == b"gone"
    assert message.properties == {"room": "lab", "mqtt-retain": "true", "iothub-MessageType": "Will"}
    assert message.system_properties["messageId"] == "1"


@pytest.mark.parametrize("qos", [0, 1])
def test_a_device_may_leave_a_will_on_its_own_topic(qos: int) -> None:
    will = mqtt.Will(EVENTS, b"gone", qos, False)
    assert admit(presented=certificate(), known=device(), will=will).device_id == DEVICE_ID


# --- subscriptions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "granted"), [(0, 0), (1, 1), (2, 1)])
@pytest.mark.parametrize(
    ("topic", "subscription"),
    [
        ("$iothub/methods/POST/#", Subscription.METHODS),
        ("$iothub/twin/res/#", Subscription.TWIN),
        ("$iothub/twin/PATCH/properties/desired/#", Subscription.DESIRED),
        (f"devices/{DEVICE_ID}/messages/devicebound/#", Subscription.COMMANDS),
    ],
)
def test_the_documented_filters_are_granted(topic: str, subscription: Subscription, asked: int, granted: int) -> None:
    assert hub.subscribe(SESSION, mqtt.Subscribe(1, ((topic, asked),))) == [(subscription, granted)]


@pytest.mark.parametrize(
    ("row", "topic"),
    [
        (refusals.HUB_UNKNOWN_FILTER, "#"),
        (refusals.HUB_UNKNOWN_FILTER, "$dps/registrations/res/#"),
        (refusals.HUB_UNKNOWN_FILTER, "$iothub/methods/POST/reboot/#"),
        (refusals.FOREIGN_TOPIC, "devices/other/messages/devicebound/#"),
        (refusals.FOREIGN_TOPIC, f"devices/{DEVICE_ID}/messages/events/#"),
    ],
)
def test_any_other_filter_is_refused_whatever_stands_beside_it(row: Refusal, topic: str) -> None:
    found, told = refusal(lambda: hub.subscribe(SESSION, mqtt.Subscribe(1, (("$iothub/twin/res/#", 1), (topic, 1)))))
    assert found is row
    assert DEVICE_ID in told
