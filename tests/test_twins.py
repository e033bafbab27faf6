"""Notebook 09 and what it stands on: twins, methods and messages over REST, the view of a twin, the checks."""

import dataclasses
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from azure.iot.device import IoTHubDeviceClient, MethodResponse
from beyond import azure, desk, open_verdict, runs_as_a_story, stops_without_values, verdicts
from devices import NAME, PASS_PHRASE
from executed import TRACEBACK, errors, files_with, read, said, tagged
from test_views import accessible

from dpsx_helpers import certificates, checks, progress, registry, twins, views
from dpsx_helpers.checks.twins import DEVICE
from dpsx_helpers.emulator import EmulatorError
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import NotReadable, Stop

pytest_plugins = ["kit"]
KEY = "c2VjcmV0IG9mIGEgZGV2aWNl"


@pytest.fixture
def thermostat(emulated: Target) -> Target:
    """The hub has the device of the notebook, which has never connected."""
    keys = {"type": "sas", "symmetricKey": {"primaryKey": KEY, "secondaryKey": KEY}}
    made = registry.request(emulated, "PUT", f"/devices/{DEVICE}", json={"deviceId": DEVICE, "authentication": keys})
    assert made.ok, made.text
    return emulated


@contextmanager
def connected(target: Target) -> Iterator[IoTHubDeviceClient]:
    """The device, by the unmodified SDK."""
    client = IoTHubDeviceClient.create_from_symmetric_key(KEY, target.hubs[0], DEVICE, connection_retry=False)
    client.connect()
    try:
        yield client
    finally:
        client.shutdown()


def report(target: Target, **properties: Any) -> None:
    with connected(target) as client:
        client.patch_twin_reported_properties(properties)


def desire(target: Target, **properties: Any) -> twins.Twin:
    return twins.change(target, DEVICE, {"properties": {"desired": properties}})


# --- twins over REST --------------------------------------------------------------------------------------------------


def test_a_twin_is_read_and_changed(thermostat: Target) -> None:
    before = twins.get(thermostat, DEVICE)
    assert before is not None
    assert (before.desired, before.reported, before.tags) == ({}, {}, {})
    assert (before.desired_version, before.reported_version, before.adopted) == (1, 1, None)
    changed = twins.change(thermostat, DEVICE, {"tags": {"room": "hall"}, "properties": {"desired": {"a": 1, "b": 2}}})
    assert (changed.desired, changed.tags, changed.desired_version) == ({"a": 1, "b": 2}, {"room": "hall"}, 2)
    assert desire(thermostat, a=None).desired == {"b": 2}, "null deletes"
    report(thermostat, b=2, desiredVersion=3)
    seen = twins.get(thermostat, DEVICE)
    assert seen is not None
    assert (seen.reported, seen.reported_version, seen.adopted, seen.followed) == (
        {"b": 2, "desiredVersion": 3},
        2,
        3,
        1,
    )
    assert seen.etag not in ("", before.etag)


def test_a_stale_etag_is_refused_and_nothing_is_changed(thermostat: Target) -> None:
    first = twins.get(thermostat, DEVICE)
    assert first is not None
    patch = {"properties": {"desired": {"a": 1}}}
    assert twins.change(thermostat, DEVICE, patch, if_match=first.etag).desired_version == 2
    with pytest.raises(twins.Refused, match=r"^The hub answered 412 PreconditionFailed: .*\.$") as refused:
        twins.change(thermostat, DEVICE, patch, if_match=first.etag)
    assert (refused.value.status, refused.value.code) == (412, "PreconditionFailed")
    now = twins.get(thermostat, DEVICE)
    assert now is not None
    assert now.desired_version == 2
    assert twins.change(thermostat, DEVICE, patch, if_match=now.etag).desired_version == 3


@pytest.mark.parametrize("name", ["a.b", "a$b", "a b"])
def test_a_name_that_a_twin_cannot_hold_is_refused(thermostat: Target, name: str) -> None:
    with pytest.raises(twins.Refused, match="The hub answered 400 ArgumentInvalid: the key"):
        desire(thermostat, **{name: 1})


def test_a_device_that_is_not_there_has_no_twin(emulated: Target) -> None:
    assert twins.get(emulated, DEVICE) is None
    assert twins.get(emulated, "a/b?c#d") is None
    for call in (desire, twins_waiting, lambda target: twins.invoke(target, DEVICE, "blink")):
        with pytest.raises(twins.Refused, match=f"404 DeviceNotFound: The requested device '{DEVICE}' was not found"):
            call(emulated)


def twins_waiting(target: Target) -> int:
    return twins.waiting(target, DEVICE)


def test_a_stale_key_is_one_sentence_without_the_key(emulated: Target) -> None:
    host = str(emulated.iothub_connection_string).split(";")[0]
    stale = f"{host};SharedAccessKeyName=iothubowner;SharedAccessKey=c3RhbGU="
    with pytest.raises(twins.Refused, match="The hub answered 401 IotHubUnauthorizedAccess") as refused:
        twins.get(dataclasses.replace(emulated, iothub_connection_string=stale), DEVICE)
    assert "c3RhbGU=" not in str(refused.value)


def test_without_the_connection_string_nothing_is_readable(emulated: Target) -> None:
    with pytest.raises(NotReadable, match="in the portal"):
        twins.get(dataclasses.replace(emulated, iothub_connection_string=None), DEVICE)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        # As Azure writes them: https://github.com/Azure/azure-iot-sdk-csharp, tests of its ExceptionHandlingHelper
        (
            json.dumps({"Message": json.dumps({"errorCode": 404103, "message": "It is not online."})}),
            ("", "It is not online."),
        ),
        (
            '{"Message":"ErrorCode:DeviceNotFound;dev1","ExceptionMessage":"Tracking ID:28"}',
            ("DeviceNotFound", "dev1"),
        ),
        ('{"errorCode":409301,"message":"It is there."}', ("", "It is there.")),
        ('{"Message":null}', ("", "")),
        ("[1]", ("", "[1]")),
        ("<html>502</html>", ("", "<html>502</html>")),
        ("", ("", "")),
    ],
)
def test_the_reason_is_found_in_each_of_the_envelopes(body: str, reason: tuple[str, str]) -> None:
    assert twins._reason(body) == reason


def test_a_method_comes_back_with_the_answer_of_the_device(thermostat: Target) -> None:
    with connected(thermostat) as client:

        def obey(request: Any) -> None:
            payload = {"heard": request.payload}
            client.send_method_response(MethodResponse.create_from_method_request(request, 207, payload))

        client.on_method_request_received = obey
        assert twins.invoke(thermostat, DEVICE, "blink", [3]) == {"status": 207, "payload": {"heard": [3]}}


def test_a_device_that_is_away_is_waited_for_as_long_as_is_asked(thermostat: Target) -> None:
    with pytest.raises(twins.Refused, match="404 DeviceNotOnline: The operation failed") as refused:
        twins.invoke(thermostat, DEVICE, "blink")
    assert (refused.value.status, refused.value.code) == (404, "DeviceNotOnline")
    answers: list[Any] = []
    call = threading.Thread(
        target=lambda: answers.append(twins.invoke(thermostat, DEVICE, "blink", connect_timeout=20))
    )
    call.start()
    with connected(thermostat) as client:
        client.on_method_request_received = lambda request: client.send_method_response(
            MethodResponse.create_from_method_request(request, 200, None)
        )
        call.join(timeout=20)
    assert answers == [{"status": 200, "payload": None}]


def test_a_device_that_does_not_answer_is_a_504(thermostat: Target) -> None:
    with connected(thermostat) as client:
        client.on_method_request_received = lambda request: None
        with pytest.raises(twins.Refused, match="504 GatewayTimeout: Timed out waiting"):
            twins.invoke(thermostat, DEVICE, "blink", response_timeout=5)


def test_messages_wait_and_are_counted(thermostat: Target) -> None:
    shown = twins.send(thermostat, DEVICE, "one", 'so-called "two"')
    assert shown.text == f'Sent to {DEVICE}: "one", "so-called \\"two\\"".'
    assert twins.waiting(thermostat, DEVICE) == 2
    with pytest.raises(EmulatorError):
        twins.send(thermostat, "nobody", "one")


def test_what_is_sent_to_a_device_that_is_on_does_not_wait_and_that_is_said(thermostat: Target) -> None:
    with connected(thermostat) as client:
        client.on_message_received = lambda message: None
        assert twins.send(thermostat, DEVICE, "one").text.endswith("so nothing waits for it: it reads them at once.")


@pytest.mark.parametrize("texts", [(), (["one", "two"],), ("one", 2), (None,)])
def test_what_are_no_texts_is_one_sentence(thermostat: Target, texts: tuple[Any, ...]) -> None:
    with pytest.raises(Stop, match=r"^twins\.send takes one text or more, each in quotes and no list: write [^\n]*\.$"):
        twins.send(thermostat, DEVICE, *texts)
    assert twins.waiting(thermostat, DEVICE) == 0


@pytest.mark.parametrize("call", [twins.get, twins.change, twins.invoke, twins.call_each, twins.waiting, twins.send])
def test_a_forgotten_target_is_one_sentence(call: Any) -> None:
    for given in ((), (DEVICE,), (DEVICE, "blink")):
        with pytest.raises(Stop, match=rf"^twins\.{call.__name__} wants to know the target first: write [^\n]*\.$"):
            call(*given)


def test_each_method_is_a_row_and_a_refusal_too(thermostat: Target) -> None:
    def obey(request: Any) -> None:
        if request.name == "blink":
            client.send_method_response(MethodResponse.create_from_method_request(request, 200, "Done"))

    with connected(thermostat) as client:
        client.on_method_request_received = obey
        shown = twins.call_each(thermostat, DEVICE, "blink", "makeCoffee")
    accessible(shown)
    rows = [re.split(r"  +", line.strip()) for line in shown.text.splitlines()[2:]]
    assert rows[0] == ["blink", "200", '"Done"']
    assert rows[1][:2] == ["makeCoffee", "no answer was sent"]
    assert rows[1][2].startswith("The hub answered 504 GatewayTimeout: ")


def test_on_azure_sending_is_a_line_for_the_terminal(thermostat: Target) -> None:
    on_azure = dataclasses.replace(thermostat, name="azure", emulator=None, hubs=("factory.azure-devices.net",))
    shown = twins.send(on_azure, DEVICE, "one", 'so-called "two"')
    accessible(shown)
    sentence, *lines = shown.text.splitlines()
    assert sentence.startswith("Run this in a terminal, after `az login`")
    assert [line for line in lines if line] == [
        f'az iot device c2d-message send -n factory -d {DEVICE} --data "one"',
        f'az iot device c2d-message send -n factory -d {DEVICE} --data "so-called \\"two\\""',
    ]
    assert twins.waiting(thermostat, DEVICE) == 0


# --- the view ---------------------------------------------------------------------------------------------------------


def test_the_view_holds_what_should_be_against_what_is(thermostat: Target) -> None:
    twins.change(thermostat, DEVICE, {"tags": {"room": "<hall>"}})
    desire(thermostat, interval=5, unit="°C", fan={"speed": 2})
    assert "The device has not reported yet." in views.twin(thermostat, DEVICE).text
    report(thermostat, interval=5, fan={"speed": 3}, firmware="1.0", desiredVersion=1)
    shown = views.twin(thermostat, DEVICE)
    accessible(shown)
    lines = [re.split(r"  +", line.strip()) for line in shown.text.splitlines()]
    assert lines[:8] == [
        [f"The twin of {DEVICE}"],
        ["PROPERTY", "DESIRED", "REPORTED", "IS IT SO?"],
        ["interval", "5", "5", "✔ yes"],
        ["unit", '"°C"', "(none)", "✘ not reported"],
        ["fan", '{"speed": 2}', '{"speed": 3}', "✘ no"],
        ["firmware", "(none)", '"1.0"', "the device's own"],
        ["desiredVersion", "(none)", "1", "the device's own"],
        ["$version", "2", "2", "each counts for itself"],
    ]
    assert "✘ The device does not follow: it has adopted version 1 of 2." in shown.text
    assert 'Tags, which the device never sees: {"room": "<hall>"}.' in shown.text
    report(thermostat, desiredVersion=2)
    assert "✔ The device follows: it has adopted version 2 of 2." in views.twin(thermostat, DEVICE).text


def test_a_long_value_is_cut_in_the_plain_text_alone(thermostat: Target) -> None:
    report(thermostat, messages={str(number): f"<message> {number}" for number in range(20)})
    shown = views.twin(thermostat, DEVICE)
    accessible(shown)
    (row,) = [line for line in shown.text.splitlines() if "messages" in line]
    assert "…" in row
    assert len(row) < 130
    assert "&lt;message&gt; 19" in shown.html


def test_the_view_of_nobody_says_so(emulated: Target) -> None:
    assert views.twin(emulated, DEVICE).text == f"The hub has no device {DEVICE}."


# --- checks and exercises ---------------------------------------------------------------------------------------------


def verdict(number: int) -> str:
    return open_verdict(checks.exercise(9, number).text)


def test_without_the_device_each_check_says_where_to_begin(emulated: Target) -> None:
    for number in (1, 2, 3):
        assert verdict(number).startswith(f"the hub has no device {DEVICE}, which the cells of this notebook make")
    with pytest.raises(Stop, match=f"The hub has no device {DEVICE}: run the cells of this notebook from the top"):
        checks.twins()


def test_the_check_asks_for_each_part_in_turn(thermostat: Target) -> None:
    def stops(why: str) -> None:
        with pytest.raises(Stop, match=why):
            checks.twins()

    stops("The desired properties were never changed")
    desire(thermostat, telemetryInterval=10)
    stops("has adopted version none of its desired properties, and 2 is the latest")
    report(thermostat, desiredVersion=1)
    stops("has adopted version 1 of its desired properties, and 2 is the latest")
    report(thermostat, desiredVersion=2)
    stops("has answered no direct method yet")
    for odd in ({}, [], "odd", [{"status": 200}], ["odd"]):
        report(thermostat, lastMethods=odd)
        stops("has answered no direct method yet")
    report(thermostat, lastMethods=[{"name": "blink", "status": 200, "answer": "3"}])
    stops("has got no message yet: run the two cells")
    twins.send(thermostat, DEVICE, "one")
    stops("1 message is still waiting")
    twins.send(thermostat, DEVICE, "two")
    stops("2 messages are still waiting")
    registry.request(thermostat, "DELETE", f"/devices/{DEVICE}/commands")
    report(thermostat, messages="odd")
    stops("has got no message yet")
    assert "09" not in progress.recall()
    report(thermostat, messages={"1": "one", "2": "two"})
    assert checks.twins().text.splitlines() == [
        f"✔ {DEVICE} follows: it has adopted version 2 of its desired properties, which is the latest",
        "✔ it has answered a direct method",
        "✔ it has reported 2 messages that waited for it, and none is left",
    ]
    assert "09" in progress.recall()


@pytest.mark.parametrize(
    ("desired", "reported", "found"),
    [
        ({"telemetryInterval": 40, "unit": "C"}, {}, "telemetryInterval is 40, and 60 is expected"),
        ({"telemetryInterval": "60"}, {}, 'telemetryInterval is "60", and 60 is expected'),
        ({"telemetryInterval": {"seconds": 60}}, {}, "telemetryInterval is {"),
        ({"unit": "C"}, {}, "telemetryInterval is null, and 60"),
        ({"telemetryInterval": 60, "unit": ""}, {}, 'still have unit (""), and it should be gone: null deletes it'),
        ({"telemetryInterval": 60, "unit": "null"}, {}, 'still have unit ("null")'),
        ({"telemetryInterval": 60}, {"telemetryInterval": 60}, "has adopted version none of its desired"),
        ({"telemetryInterval": 60}, {"telemetryInterval": 60, "desiredVersion": 1}, "has adopted version 1 of its"),
        ({"telemetryInterval": 60}, {"telemetryInterval": 60, "desiredVersion": "2"}, 'has adopted version "2" of its'),
        ({"telemetryInterval": 60}, {"telemetryInterval": 5, "desiredVersion": 2}, 'the device reports {"telemetryInt'),
        ({"telemetryInterval": 60}, {"telemetryInterval": 60, "unit": "C", "desiredVersion": 2}, "the device reports"),
    ],
)
def test_a_setting_that_is_not_as_asked(
    thermostat: Target, desired: dict[str, Any], reported: dict[str, Any], found: str
) -> None:
    desire(thermostat, **desired)
    if reported:
        report(thermostat, **reported)
    assert found in verdict(1)


BLINKED = {"name": "blink", "status": 200, "answer": "3"}
REFUSED = {"name": "makeCoffee", "status": 404, "answer": "I do not know it"}
NO_ANSWER = "the device has sent no answer to "


@pytest.mark.parametrize(
    ("last", "found"),
    [
        (None, f"{NO_ANSWER}a method that it does not know and one to each of the two"),
        ("odd", f"{NO_ANSWER}a method that it does not know and"),
        (["odd", {}, {"status": 404}], f"{NO_ANSWER}a method that it does not know and"),
        ([BLINKED], f"{NO_ANSWER}a method that it does not know and"),
        ([REFUSED], f"{NO_ANSWER}blink, which it knows, and"),
        ([REFUSED | {"name": "blink"}, REFUSED], "answered blink, which it knows, with 404, and 200 is expected: only"),
        ([BLINKED, REFUSED | {"name": "blink"}, REFUSED], "answered blink, which it knows, with 404"),
        ([BLINKED, {"name": "makeCoffee"}], "the device answered makeCoffee with null, and 404"),
        ([BLINKED, BLINKED | {"name": "makeCoffee"}], "answered makeCoffee with 200, and 404"),
        ([BLINKED, REFUSED | {"status": "404"}], 'to makeCoffee is the text "404": a number has no quotes around it'),
        ([BLINKED | {"status": "200"}, REFUSED], 'to blink is the text "200"'),
        ([BLINKED, REFUSED | {"answer": "None"}], 'answered 404 with "None", and a sentence'),
        ([BLINKED, REFUSED | {"answer": 3}], "answered 404 with 3, and a sentence"),
        ([BLINKED, REFUSED | {"name": "x" * 100, "answer": ["odd"] * 200}], 'answered 404 with ["odd"'),
    ],
)
def test_answers_that_are_not_as_asked(thermostat: Target, last: Any, found: str) -> None:
    report(thermostat, lastMethods=last)
    assert found in verdict(2)
    report(thermostat, lastMethods=[BLINKED, REFUSED])
    assert checks.exercise(9, 2).text == (
        '✔ the device answered blink with 200, and makeCoffee with 404 and a sentence: "I do not know it"'
    )


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        (None, "the last messages that the device reported are [], and"),
        ("odd", "the last messages that the device reported are [], and"),
        ({"odd": "red", "-1": "amber", "²": "green"}, "are [], and"),
        ({"1": "red", "2": "amber"}, 'are ["red", "amber"], and ["red", "amber", "green"] are expected'),
        ({"1": "green", "2": "amber", "3": "red"}, 'are ["green", "amber", "red"], and'),
        ({"1": "red", "2": "amber", "3": "green", "4": None, "5": {"odd": 1}}, 'are ["amber", "green", {"odd": 1}]'),
    ],
)
def test_messages_that_are_not_as_asked(thermostat: Target, messages: Any, found: str) -> None:
    report(thermostat, messages=messages)
    assert found in verdict(3)


def test_three_messages_count_when_none_is_left(thermostat: Target) -> None:
    report(thermostat, messages={"9": "red", "10": "amber", "11": "green"})
    twins.send(thermostat, DEVICE, "red")
    assert verdict(3).startswith("1 message is still waiting")
    registry.request(thermostat, "DELETE", f"/devices/{DEVICE}/commands")
    assert checks.exercise(9, 3).text.startswith('✔ the device got ["red", "amber", "green"] in this order')
    assert progress.recall().keys() == {"09.3"}


# --- the notebook -----------------------------------------------------------------------------------------------------


def test_the_notebook_tells_its_story_twice(tmp_path: Path) -> None:
    first, second = runs_as_a_story(9, tmp_path)
    for executed in (first, second):
        _look_at_the_twin(executed)
        _look_at_method_and_messages(executed)
        assert "stderr" not in [output.get("name") for cell in executed.cells for output in cell.get("outputs", ())]
    untouched = {number: open_verdict(text) for number, text in verdicts(first).items()}
    assert untouched == {
        1: "the desired telemetryInterval is 40, and 60 is expected.",
        2: "the device answered makeCoffee with 200, and 404 with a sentence is expected.",
        3: 'the last messages that the device reported are ["The window is open", "Somebody is at home"], and '
        '["red", "amber", "green"] are expected.',
    }
    solved = verdicts(second)
    assert "adopted version 7: {'unit': None, 'telemetryInterval': 60}" in solved[1]
    assert "as reported: the device has adopted version 7 of 7" in solved[1]
    assert re.search(r'makeCoffee +404 +"This thermostat has no method makeCoffee"\n', solved[2])
    assert re.search(r'blink +200 +"Done"\n', solved[2])
    assert "message 3: red\nmessage 4: amber\nmessage 5: green" in solved[3]
    key = (tmp_path / "work" / "notebook-09" / "python-device.key.pem").read_text()
    assert "ENCRYPTED" in key
    for executed in (first, second):
        assert "SharedAccessKey" not in str(executed)
        assert "PRIVATE KEY" not in str(executed)


def test_an_error_in_the_learners_handler_is_read_below_the_cell(tmp_path: Path) -> None:
    notebook = read(9)
    stub = tagged(notebook, "exercise-2")
    stub.source = stub.source.replace("    ...\n", '    if request.nam != "blink":\n        status = 404\n')
    with desk(tmp_path) as learner:
        executed = learner.run(notebook)
    assert errors(executed) == []
    text = said(tagged(executed, "exercise-2"))
    assert len(re.findall(r"(blink|makeCoffee) +no answer was sent +The hub answered 504", text)) == 2
    assert (
        text.count("the handler obey ended with an error: AttributeError: 'MethodRequest' object has no attribute") == 2
    )
    assert open_verdict(text).endswith("the diary tells of an error in the handler.")
    assert "stderr" not in [output.get("name") for output in tagged(executed, "exercise-2").outputs]


def _look_at_the_twin(executed: Any) -> None:
    registered = said(tagged(executed, "register"))
    assert re.search(r"telemetryInterval +5 +\(none\) +✘ not reported\n", registered)
    assert re.search(r"\$version +1 +1 ", registered)
    assert "The device has not reported yet." in registered
    assert '{"room": "kitchen"}' in registered
    arrived = said(tagged(executed, "switch-on"))
    assert "adopted version 1: {'telemetryInterval': 5, 'unit': 'celsius'}" in arrived
    assert "room" not in arrived.splitlines()[1], "tags do not go to the device"
    assert "it has adopted version 1 of 1" in arrived
    changed = said(tagged(executed, "change"))
    assert "adopted version 2: {'telemetryInterval': 10}" in changed
    assert "it has adopted version 2 of 2" in changed
    stale = said(tagged(executed, "stale"))
    assert "The hub answered 412 PreconditionFailed" in stale
    assert "adopted version 3: {'telemetryInterval': 15}" in stale
    asleep, _, awake = said(tagged(executed, "sleep")).partition("The diary of")
    assert "✘ The device does not follow: it has adopted version 3 of 6" in asleep
    assert awake.count("adopted version") == 2, "one line in the diary, and one below the table"
    assert "adopted version 6: {'telemetryInterval': 40, 'unit': 'celsius'}" in awake
    assert "✔ The device follows: it has adopted version 6 of 6" in awake


def _look_at_method_and_messages(executed: Any) -> None:
    assert "{'status': 200, 'payload': {'blinked': 3}}" in said(tagged(executed, "call"))
    assert said(tagged(executed, "offline")).startswith("The hub answered 404 DeviceNotOnline")
    assert "{'status': 200, 'payload': {'blinked': 2}}" in said(tagged(executed, "patient"))
    messages = said(tagged(executed, "read"))
    assert "message 1: The window is open\nmessage 2: Somebody is at home" in messages
    assert "cloudToDeviceMessageCount: 2 before, 0 after" in messages
    assert len(said(tagged(executed, "check")).split("✔")) == 4


def test_the_device_has_a_handler_before_it_connects() -> None:
    """The hub delivers what waits right behind its CONNACK. A client of the SDK without any handler puts it where no
    handler looks later, and acknowledges it: it is lost.
    """
    program = tagged(read(9), "device-code").source
    assert ".connect(" not in program
    assert program.index("create_from_x509_certificate(") < program.index(".on_twin_desired_properties_patch_received")
    assert program.index(".on_twin_desired_properties_patch_received") < program.index(".get_twin(")


def test_on_azure_it_runs_to_its_end_and_asks_for_the_line_in_a_terminal(tmp_path: Path) -> None:
    phrase = "a phrase for the canary"
    with azure(tmp_path) as names, desk(tmp_path / "desk", DPSX_PASS_PHRASE=phrase, **names) as learner:
        of_the_quickstart = _remains_of_the_quickstart(learner.work)
        executed = learner.run(read(9))
        assert errors(executed) == []
        assert {path: path.read_bytes() for path in of_the_quickstart} == of_the_quickstart
        assert not (learner.work / "emulator").exists()
        assert files_with(phrase, learner.folder) == []
    assert TRACEBACK not in "".join(map(said, executed.cells))
    _look_at_the_twin(executed)
    assert f'-d {DEVICE} --data "The window is open"' in said(tagged(executed, "send"))
    assert "cloudToDeviceMessageCount: 0 before, 0 after" in said(tagged(executed, "read"))
    check = said(tagged(executed, "check"))
    assert "✔ it has answered a direct method" in check
    assert "☐ Did you run the lines with `az`?" in check
    for text in verdicts(executed).values():
        assert open_verdict(text)


def _remains_of_the_quickstart(work: Path) -> dict[Path, bytes]:
    pair = certificates.create(NAME, PASS_PHRASE, work, key_type="ec-p256")
    facts = {"version": 1, "azure": {"enrollment": NAME, "device": NAME, "hub": "factory.azure-devices.net"}}
    (work / "tutorial.json").write_text(json.dumps(facts))
    return {path: path.read_bytes() for path in (pair.certificate_file, pair.key_file, work / "tutorial.json")}


def test_on_azure_without_values_it_stops_with_one_sentence(tmp_path: Path) -> None:
    assert "takes both connection strings" in stops_without_values(9, tmp_path)


@pytest.mark.parametrize(
    "patch", [{}, {"telemetryInterval": 60}, {"properties": {"telemetryInterval": 60}}, {"properties": 1}]
)
def test_a_patch_that_would_change_nothing_is_refused(emulated: Target, patch: dict[str, Any]) -> None:
    with pytest.raises(Stop, match="The patch would change nothing: write"):
        twins.change(emulated, "thermostat-09", patch)
