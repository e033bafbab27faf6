"""User names and topics: every documented form, the odd ones that clients send, and those that are none."""

from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpsx_helpers.emulator import topics
from dpsx_helpers.emulator.topics import (
    DpsLogin,
    HubLogin,
    MethodAnswer,
    Poll,
    Register,
    Subscription,
    Telemetry,
    TwinGet,
    TwinPatch,
    build_bag,
    command,
    desired_changed,
    dps_response,
    method,
    parse_bag,
    parse_dps,
    parse_hub,
    parse_login,
    parse_subscription,
    parse_telemetry,
    twin_answer,
)

REGISTER = "$dps/registrations/PUT/iotdps-register/?"
POLL = "$dps/registrations/GET/iotdps-get-operationstatus/?"

# --- logins -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("username", "expected"),
    [
        ("0ne1/registrations/dev-1/api-version=2019-03-31", DpsLogin("0ne1", "dev-1", "2019-03-31")),
        (
            "0ne1/registrations/dev-1/api-version=2019-03-31&ClientVersion=azure-iot%2F2.14.0%283.11%3BLinux%29",
            DpsLogin("0ne1", "dev-1", "2019-03-31"),
        ),
        ("0ne1/registrations/d/ClientVersion=x&api-version=2021-06-01", DpsLogin("0ne1", "d", "2021-06-01")),
        ("0ne1/registrations/d/ClientVersion=%26api-version%3D9", DpsLogin("0ne1", "d", "")),
        ("0ne1/registrations/d/api-version=", DpsLogin("0ne1", "d", "")),
        ("0ne1/registrations/d/", DpsLogin("0ne1", "d", "")),
        ("None/registrations/d/api-version=2019-03-31", DpsLogin("None", "d", "2019-03-31")),
        ("/registrations//api-version=1", DpsLogin("", "", "1")),
        ("0ne1/registrations/a\nb/api-version=1", DpsLogin("0ne1", "a\nb", "1")),
        ("0ne1/registrations/d/api-version=1\n", DpsLogin("0ne1", "d", "1\n")),
    ],
)
def test_a_login_to_dps(username: str, expected: DpsLogin) -> None:
    assert parse_login(username) == expected


@pytest.mark.parametrize(
    ("username", "expected"),
    [
        ("127.0.0.1/dev-1/?api-version=2021-04-12", HubLogin("127.0.0.1", "dev-1", "2021-04-12")),
        (
            "hub.lab/dev-1/?api-version=2019-10-01&DeviceClientType=py-azure-iot-device%2F2.14.0%3B",
            HubLogin("hub.lab", "dev-1", "2019-10-01"),
        ),
        ("h/d/api-version=2016-11-14", HubLogin("h", "d", "2016-11-14")),
        ("h/d/?DeviceClientType=x&api-version=2018-06-30", HubLogin("h", "d", "2018-06-30")),
        ("h/d/", HubLogin("h", "d", "")),
        ("h/d/??api-version=1", HubLogin("h", "d", "")),
        ("h/d/module/?api-version=1", HubLogin("h", "d", "1", "module")),
        ("h/d/module/", HubLogin("h", "d", "", "module")),
        ("H/D%2d.é/?api-version=1", HubLogin("H", "D%2d.é", "1")),
        # The word is in the wrong place for DPS.
        ("registrations/d/api-version=1", HubLogin("registrations", "d", "1")),
        ("h/registrations/?api-version=1", HubLogin("h", "registrations", "1")),
    ],
)
def test_a_login_to_a_hub(username: str, expected: HubLogin) -> None:
    assert parse_login(username) == expected


@pytest.mark.parametrize(
    "username",
    [
        None, "", "d", "h/d", "/d/?api-version=1", "h//?api-version=1", "///", "//", "h/d/m/x/?api-version=1",
        "h/0ne1/registrations/d/api-version=1",
    ],
)  # fmt: skip
def test_a_user_name_that_is_no_login(username: str | None) -> None:
    assert parse_login(username) is None


# --- requests to DPS --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "request_id"),
    [
        ("$rid=1", "1"),
        ("$rid=7b2a0d6e-5b1c-4a0c-9b0b-4f6b7e0f5a11", "7b2a0d6e-5b1c-4a0c-9b0b-4f6b7e0f5a11"),
        ("$rid=a%2Fb%20c+d", "a%2Fb%20c+d"),
        ("$rid=a=b==", "a=b=="),
        ("$rid=é", "é"),
        ("x=y&$rid=1", "1"),
        ("$rid=1&$rid=2", "1"),
        ("$rid=1&x", "1"),
    ],
)
def test_the_request_id_of_a_registration_is_taken_to_the_letter(query: str, request_id: str) -> None:
    assert parse_dps(REGISTER + query) == Register(request_id)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("$rid=1&operationId=5.506603669bd3e2bf.b36", Poll("1", "5.506603669bd3e2bf.b36")),
        ("operationId=5.1.a&$rid=1", Poll("1", "5.1.a")),
        ("$rid=%41&operationId=5%2E1%2ea%2Fb%26c", Poll("%41", "5.1.a/b&c")),
        ("$rid=1&operationId=a+b=", Poll("1", "a+b=")),
    ],
)
def test_a_poll_names_its_operation_url_encoded(query: str, expected: Poll) -> None:
    assert parse_dps(POLL + query) == expected


@given(st.text(min_size=1))
@settings(deadline=None)
def test_every_operation_comes_back_from_its_quoted_form(operation_id: str) -> None:
    assert parse_dps(f"{POLL}$rid=1&operationId={quote(operation_id, safe='')}") == Poll("1", operation_id)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        REGISTER,
        REGISTER + "$rid=",
        REGISTER + "rid=1",
        REGISTER + "$RID=1",
        REGISTER.replace("/?", "?") + "$rid=1",
        REGISTER.replace("PUT", "put") + "$rid=1",
        REGISTER.replace("PUT", "GET") + "$rid=1",
        REGISTER.replace("$dps", "xdps") + "$rid=1",
        REGISTER.rstrip("?"),
        "/" + REGISTER + "$rid=1",
        POLL + "$rid=1",
        POLL + "operationId=5.1.a",
        POLL + "$rid=1&operationId=",
        POLL + "$rid=&operationId=5.1.a",
        POLL + "$rid=1&operationid=5.1.a",
        POLL.replace("GET", "PUT") + "$rid=1&operationId=5.1.a",
        "$dps/registrations/res/200/?$rid=1",
        topics.DPS_RESPONSES,
    ],
)
def test_no_other_topic_is_a_request_to_dps(topic: str) -> None:
    assert parse_dps(topic) is None


@pytest.mark.parametrize(
    ("status", "request_id", "retry_after", "expected"),
    [
        (200, "1", None, "$dps/registrations/res/200/?$rid=1"),
        (202, "1", 3, "$dps/registrations/res/202/?$rid=1&retry-after=3"),
        (202, "1", 0, "$dps/registrations/res/202/?$rid=1&retry-after=0"),
        (401, "a%2Fb=c", None, "$dps/registrations/res/401/?$rid=a%2Fb=c"),
    ],
)
def test_the_topic_of_an_answer(status: int, request_id: str, retry_after: int | None, expected: str) -> None:
    assert dps_response(status, request_id, retry_after) == expected


def test_an_answer_goes_where_the_documented_filter_listens() -> None:
    assert topics.DPS_RESPONSES == "$dps/registrations/res/#"
    assert dps_response(200, "1").startswith(topics.DPS_RESPONSES.rstrip("#"))


# --- telemetry --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("devices/d/messages/events/", Telemetry("d", {})),
        ("devices/d/messages/events", Telemetry("d", {})),
        ("devices/D.-%20é/messages/events/", Telemetry("D.-%20é", {})),
        ("devices/d/messages/events/a=1&b", Telemetry("d", {"a": "1", "b": None})),
        ("devices/d/messages/events/%24.ct=application%2Fjson", Telemetry("d", {"$.ct": "application/json"})),
        ("devices/d/messages/events/$.ct=application/json", Telemetry("d", {"$.ct": "application/json"})),
        ("devices/d/messages/events/a=1\n2", Telemetry("d", {"a": "1\n2"})),
    ],
)
def test_a_topic_of_telemetry(topic: str, expected: Telemetry) -> None:
    assert parse_telemetry(topic) == expected


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "devices//messages/events/",
        "devices/d/messages/eventsx",
        "devices/d/messages/Events/",
        "devices/d/messages/",
        "devices/d/messages/devicebound/a=1",
        "devices/d/modules/m/messages/events/",
        "/devices/d/messages/events/",
        "xdevices/d/messages/events/",
        REGISTER + "$rid=1",
    ],
)
def test_no_other_topic_is_telemetry(topic: str) -> None:
    assert parse_telemetry(topic) is None


@pytest.mark.parametrize(
    ("bag", "expected"),
    [
        ("", {}),
        ("&&", {}),
        ("key", {"key": None}),
        ("key=", {"key": ""}),
        ("key=value", {"key": "value"}),
        ("key=a=b", {"key": "a=b"}),
        ("a=1&b=2&c", {"a": "1", "b": "2", "c": None}),
        ("a=1&&b=2&", {"a": "1", "b": "2"}),
        ("a=1&a=2", {"a": "2"}),
        ("k%3D%26%2F=v%3D%26%2f%25", {"k=&/": "v=&/%"}),
        ("a+b=c+d%20e", {"a+b": "c+d e"}),
        ("%C3%A9=%E2%98%83", {"é": "☃"}),
        ("a=%zz%", {"a": "%zz%"}),
        ("a=%FF", {"a": "\ufffd"}),
        ("Key=1&key=2", {"Key": "1", "key": "2"}),
    ],
)
def test_a_property_bag(bag: str, expected: dict[str, str | None]) -> None:
    assert parse_bag(bag) == expected


@given(st.dictionaries(st.text(min_size=1), st.none() | st.text()))
@settings(deadline=None)
def test_every_bag_comes_back_from_its_encoded_form(properties: dict[str, str | None]) -> None:
    items = [
        quote(name, safe="") + ("" if value is None else "=" + quote(value, safe=""))
        for name, value in properties.items()
    ]
    found = parse_bag("&".join(items))
    assert found == properties
    assert list(found) == list(properties)


# --- what a device sends to its hub, and what it hears ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("devices/d/messages/events/a=1", Telemetry("d", {"a": "1"})),
        ("$iothub/twin/GET/?$rid=1", TwinGet("1")),
        ("$iothub/twin/GET/?$rid=a%20b&more", TwinGet("a%20b")),
        ("$iothub/twin/PATCH/properties/reported/?$rid=7", TwinPatch("7")),
        ("$iothub/twin/PATCH/properties/reported/?$rid=7&$version=3", TwinPatch("7")),
        ("$iothub/methods/res/200/?$rid=4f", MethodAnswer("4f", 200)),
        ("$iothub/methods/res/-1/?$rid=4f", MethodAnswer("4f", -1)),
        ("$iothub/methods/res/ok/?$rid=4f", None),
        ("$iothub/methods/res/200/", None),
        ("$iothub/methods/POST/reboot/?$rid=1", None),
        ("$iothub/twin/GET/", None),
        ("$iothub/twin/GET/?rid=1", None),
        ("$iothub/twin/GET/?$rid=", None),
        ("$iothub/twin/PATCH/properties/desired/?$rid=1", None),
        ("$iothub/twin/res/200/?$rid=1", None),
        ("devices/d/messages/devicebound/", None),
        ("x$iothub/twin/GET/?$rid=1", None),
        ("", None),
    ],
)
def test_a_topic_is_a_request_to_a_hub_or_nothing(topic: str, expected: object) -> None:
    assert parse_hub(topic) == expected


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("devices/d/messages/devicebound/#", Subscription.COMMANDS),
        ("$iothub/twin/res/#", Subscription.TWIN),
        ("$iothub/twin/PATCH/properties/desired/#", Subscription.DESIRED),
        ("$iothub/methods/POST/#", Subscription.METHODS),
        ("devices/D/messages/devicebound/#", None),
        ("devices/{}/messages/devicebound/#", None),
        ("devices/+/messages/devicebound/#", None),
        ("devices/d/messages/devicebound/", None),
        ("$iothub/twin/#", None),
        ("#", None),
    ],
)
def test_a_filter_is_one_of_four_or_nothing(topic: str, expected: Subscription | None) -> None:
    assert parse_subscription(topic, "d") == expected


def test_what_a_hub_sends_has_the_documented_topics() -> None:
    assert twin_answer(200, "a b") == "$iothub/twin/res/200/?$rid=a b"
    assert twin_answer(204, "1", 7) == "$iothub/twin/res/204/?$rid=1&$version=7"
    assert desired_changed(3) == "$iothub/twin/PATCH/properties/desired/?$version=3"
    assert method("re boot", "1f") == "$iothub/methods/POST/re%20boot/?$rid=1f"
    bag: dict[str, str | None] = {"$.mid": "m/1", "a b": "", "none": None}
    assert command("d", bag) == "devices/d/messages/devicebound/%24.mid=m%2F1&a%20b=&none"


@given(st.dictionaries(st.text(min_size=1), st.none() | st.text()))
@settings(deadline=None)
def test_a_bag_that_is_built_is_parsed_as_it_was(properties: dict[str, str | None]) -> None:
    assert parse_bag(build_bag(properties)) == properties


@given(st.text())
@settings(deadline=None)
def test_no_text_at_all_makes_a_parser_raise(text: str) -> None:
    for parse in (parse_login, parse_dps, parse_telemetry, parse_bag, parse_hub):
        parse(text)
    assert parse_dps(REGISTER + text) in (None, Register(text.partition("$rid=")[2].partition("&")[0]))
