"""The emulator's own requests: `send`, `fault`, `registrations` from Python and from a terminal, and its token."""

import json
from collections.abc import Callable
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
import requests
from azure.iot.device import Message
from clients import connected, responder, send
from connections import ANSWER_WITHIN, at_dps, create, enrolled
from pki import make_device
from processes import RunningEmulator, run_command
from rest import CONTROLS, GUID, TIME, ask, token

from dpsx_helpers import emulator as package
from dpsx_helpers.emulator import Emulator, EmulatorError
from dpsx_helpers.emulator.faults import KINDS
from dpsx_helpers.emulator.running import Running

Start = Callable[..., RunningEmulator]
pytestmark = pytest.mark.usefixtures("no_faults")


def waiting(emulator: RunningEmulator, device_id: str) -> int:
    """How many messages wait for a device."""
    return int(ask(emulator, "GET", f"/devices/{device_id}").json()["cloudToDeviceMessageCount"])


def sentence(call: Callable[[], object]) -> str:
    """What EmulatorError says, which must be one sentence."""
    with pytest.raises(EmulatorError) as caught:
        call()
    text = str(caught.value)
    assert text.endswith(".")
    assert text[:1].isupper() or text[:1].isdigit()
    assert text.isprintable()
    assert "HTTP 500" not in text, "a fault of the emulator itself"
    return text


def command(emulator: RunningEmulator, *arguments: str) -> str:
    """The output of a command that must work."""
    done = run_command(*arguments, "--state-dir", str(emulator.state_dir))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def refused_command(emulator: RunningEmulator, *arguments: str) -> str:
    """The one line of a command that cannot be done."""
    done = run_command(*arguments, "--state-dir", str(emulator.state_dir))
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    (line,) = done.stderr.splitlines()
    return line


def senseless_command(*arguments: str) -> str:
    """The last line of a command whose arguments make no sense; none of them is even looked at."""
    done = run_command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr.splitlines()[-1]


# --- the token --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), CONTROLS)
@pytest.mark.parametrize("case", ["none", "empty", "wrong", "no bearer", "token of DPS", "token of the hub"])
def test_every_request_needs_the_token(emulator: RunningEmulator, method: str, path: str, case: str) -> None:
    emulator.emulator.fault("drop", "witness")
    own = json.loads((emulator.state_dir / "running.json").read_text())["token"]
    shown = {
        "none": "",
        "empty": "Bearer ",
        "wrong": f"Bearer {own[:-1]}",
        "no bearer": own,
        "token of DPS": token(emulator, "dps"),
        "token of the hub": token(emulator, "hub"),
    }[case]
    answer = ask(emulator, method, f"/emulator/{path}", {"kind": "drop"}, authorization=shown)
    assert answer.status_code == 401
    assert own not in answer.text
    assert [fault["device"] for fault in emulator.emulator.faults()] == ["witness"]
    assert own not in emulator.log()


def test_a_wrong_token_is_one_line_that_says_so(emulator: RunningEmulator) -> None:
    facts = json.loads((emulator.state_dir / "running.json").read_text())
    wrong = Emulator(emulator.state_dir, Running(**facts | {"token": "wrong"}))
    calls = (wrong.faults, wrong.clear_faults, lambda: wrong.fault("drop"), lambda: wrong.send("x", "y"))
    for line in map(sentence, calls):
        assert "lacks the control token of this emulator" in line
        assert "ask with python -m dpsx_helpers.emulator, as the user whose emulator it is" in line


def test_the_owners_token_opens_the_services_too_and_is_answered_in_one_sentence(emulator: RunningEmulator) -> None:
    own = json.loads((emulator.state_dir / "running.json").read_text())["token"]
    for path, words in (
        ("/enrollments/nobody", "There is no enrollment 'nobody': "),
        ("/devices/nobody", "The requested device 'nobody' was not found in the hub's identity registry: "),
    ):
        answer = ask(emulator, "GET", path, authorization=f"Bearer {own}", api_version="")
        assert (answer.status_code, list(answer.json())) == (404, ["message"])
        assert answer.json()["message"].startswith(words)
        assert ask(emulator, "GET", path, authorization=f"Bearer {own}x").status_code == 401


# --- send -------------------------------------------------------------------------------------------------------------


def test_a_message_reaches_an_sdk_device_with_its_properties(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = create(emulator, tmp_path, "receiver")
    received: Queue[Message] = Queue()
    with connected(emulator, device) as client:
        client.on_message_received = received.put
        properties = {"colour": "blue & green", "empty": "", "percent%": "50 %", "sun": "\N{WHITE SUN WITH RAYS}"}
        text = emulator.emulator.send("receiver", "wind \N{WHITE SUN WITH RAYS}", properties=properties)
        message = received.get(timeout=ANSWER_WITHIN)
        assert message.data.decode() == "wind \N{WHITE SUN WITH RAYS}"
        assert dict(message.custom_properties) == properties
        assert message.message_id == text
        assert GUID.fullmatch(text)
        own = emulator.emulator.send("receiver", b"\x00\xff", message_id="my-own/id=7")
        message = received.get(timeout=ANSWER_WITHIN)
        assert (message.data, message.message_id, own) == (b"\x00\xff", "my-own/id=7", "my-own/id=7")
        assert emulator.emulator.send("receiver", "")
        assert received.get(timeout=ANSWER_WITHIN).data == b""


def test_the_command_sends_too(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = create(emulator, tmp_path, "terminal")
    said = command(
        emulator, "send", "terminal", "first", "--property", "a=1", "--property", "b=x=y", "--property", "c="
    )
    assert said.startswith("Queued for terminal as message ")
    assert GUID.fullmatch(said.removeprefix("Queued for terminal as message ").rstrip("\n").removesuffix("."))
    said = command(emulator, "send", "terminal", "", "--message-id", "mine", "--expires-in", "60")
    assert said == "Queued for terminal as message mine.\n"
    assert waiting(emulator, "terminal") == 2
    received: Queue[Message] = Queue()
    with connected(emulator, device) as client:
        client.on_message_received = received.put
        first, second = (received.get(timeout=ANSWER_WITHIN) for _ in range(2))
    assert (first.data, dict(first.custom_properties)) == (b"first", {"a": "1", "b": "x=y", "c": ""})
    assert (second.data, second.message_id) == (b"", "mine")


def test_a_message_that_expires_is_not_delivered(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = create(emulator, tmp_path, "too-late")
    emulator.emulator.send("too-late", "stale", expires_in=0.001)
    emulator.emulator.send("too-late", "fresh", expires_in=172_800)
    received: Queue[bytes] = Queue()
    with connected(emulator, device) as client:
        client.on_message_received = lambda message: received.put(message.data)
        assert received.get(timeout=ANSWER_WITHIN) == b"fresh"
    assert "has expired" in emulator.log()


def test_a_queue_takes_fifty(emulator: RunningEmulator, tmp_path: Path) -> None:
    """https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-messages-c2d"""
    create(emulator, tmp_path, "full")
    for number in range(50):
        emulator.emulator.send("full", str(number))
    text = sentence(lambda: emulator.emulator.send("full", "one too many"))
    assert text.startswith("50 cloud-to-device messages wait for device 'full', which is the limit: ")
    assert refused_command(emulator, "send", "full", "one too many") == text
    assert waiting(emulator, "full") == 50
    ask(emulator, "DELETE", "/devices/full/commands")
    emulator.emulator.send("full", "there is room again")


def test_a_message_has_at_most_64_kb(emulator: RunningEmulator, tmp_path: Path) -> None:
    create(emulator, tmp_path, "large")
    most = 64 * 1024
    emulator.emulator.send("large", b"x" * most)
    emulator.emulator.send("large", b"x" * (most - 3), properties={"a": "bc"})
    for body, properties in (
        (b"x" * (most + 1), None),
        (b"x" * (most - 2), {"a": "bc"}),
        (b"x" * 500_000, None),
        (b"x" * 2_000_000, None),
    ):
        text = sentence(lambda: emulator.emulator.send("large", body, properties=properties))  # noqa: B023
        assert "the limit is 65536" in text
    assert waiting(emulator, "large") == 2


@pytest.mark.parametrize("name", ["nobody", "LARGE", "", "a/b", "x" * 300])
def test_a_message_to_nobody_is_refused(emulator: RunningEmulator, name: str) -> None:
    assert "was not found in the hub's identity registry" in sentence(lambda: emulator.emulator.send(name, "hello"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"properties": {"a b": "c"}}, "Properties are texts"),
        ({"properties": {"": "c"}}, "Properties are texts"),
        ({"properties": {"ü": "c"}}, "Properties are texts"),
        ({"properties": {"x" * 129: "c"}}, "Properties are texts"),
        ({"properties": {"a": 7}}, "Properties are texts"),
        ({"properties": {"a": None}}, "Properties are texts"),
        ({"properties": ["a"]}, "Properties are texts"),
        ({"message_id": "two words"}, "MessageId is not"),
        ({"message_id": "x" * 129}, "MessageId is not"),
        ({"message_id": 7}, "MessageId is not"),
        ({"expires_in": 0}, "ExpiresIn is not a number of seconds"),
        ({"expires_in": -1}, "ExpiresIn is not a number of seconds"),
        ({"expires_in": 172_801}, "ExpiresIn is not a number of seconds"),
        ({"expires_in": float("inf")}, "ExpiresIn is not a number of seconds"),
        ({"expires_in": float("nan")}, "ExpiresIn is not a number of seconds"),
        ({"expires_in": "soon"}, "ExpiresIn is not a number of seconds"),
        ({"expires_in": True}, "ExpiresIn is not a number of seconds"),
    ],
)
def test_a_message_that_cannot_be_is_refused(
    emulator: RunningEmulator, tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    ask(emulator, "PUT", "/devices/strict", {"deviceId": "strict"})
    assert sentence(lambda: emulator.emulator.send("strict", "hello", **settings)).startswith(words)
    assert waiting(emulator, "strict") == 0


def test_half_a_character_is_no_text(emulator: RunningEmulator) -> None:
    ask(emulator, "PUT", "/devices/strict", {"deviceId": "strict"})
    sentence(lambda: emulator.emulator.send("strict", "half: \ud800"))
    sentence(lambda: emulator.emulator.send("strict", "text", properties={"half": "\ud800"}))
    sentence(lambda: emulator.emulator.send("half: \ud800", "text"))
    assert waiting(emulator, "strict") == 0


def test_bytes_on_the_command_line_that_are_no_text_are_one_line(emulator: RunningEmulator) -> None:
    ask(emulator, "PUT", "/devices/strict", {"deviceId": "strict"})
    refused_command(emulator, "send", "strict", "\udcff")
    refused_command(emulator, "send", "\udcff", "text")
    refused_command(emulator, "send", "strict", "text", "--property", "a=\udcff")
    assert waiting(emulator, "strict") == 0


# --- faults -----------------------------------------------------------------------------------------------------------


def test_a_fault_is_one_of_those_that_there_are(emulator: RunningEmulator) -> None:
    text = sentence(lambda: emulator.emulator.fault("earthquake"))
    assert text.startswith("There is no fault 'earthquake'; there are connack-3, ")
    assert emulator.emulator.faults() == []


@pytest.mark.parametrize(
    "settings",
    [
        {"times": 0},
        {"times": -1},
        {"times": 1.5},
        {"times": "twice"},
        {"retry_after": -1},
        {"retry_after": "soon"},
        {"retry_after": 2.5},
        {"seconds": -1},
        {"seconds": float("nan")},
        {"seconds": float("inf")},
        {"seconds": "long"},
        {"device": 7},
        {"device": ""},
    ],
)
def test_a_fault_that_cannot_be_is_refused(emulator: RunningEmulator, settings: dict[str, Any]) -> None:
    (name,) = settings
    said = sentence(lambda: emulator.emulator.fault("429", **settings)).lower()
    assert name.replace("_", "") in said.replace("_", "").replace("-", "")
    assert emulator.emulator.faults() == []


def test_the_command_switches_faults_on_lists_and_clears_them(emulator: RunningEmulator, tmp_path: Path) -> None:
    assert command(emulator, "fault") == ""
    assert command(emulator, "fault", "connack-5", "--device", "one", "--times", "2") == ""
    assert command(emulator, "fault", "429", "--retry-after", "7") == ""
    assert command(emulator, "fault", "slow", "--seconds", "1.5") == ""
    listed = [json.loads(line) for line in command(emulator, "fault").splitlines()]
    assert listed == emulator.emulator.faults()
    assert listed == [
        {"kind": "connack-5", "device": "one", "left": 2, "retry_after": 3, "seconds": 10.0},
        {"kind": "429", "device": None, "left": None, "retry_after": 7, "seconds": 10.0},
        {"kind": "slow", "device": None, "left": None, "retry_after": 3, "seconds": 1.5},
    ]
    device = make_device(tmp_path, "one")
    with at_dps(emulator, device) as wire:
        assert wire.code == 5
    assert command(emulator, "fault", "--clear") == ""
    assert (command(emulator, "fault"), emulator.emulator.faults()) == ("", [])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fault", "earthquake"], "invalid choice: 'earthquake'"),
        (["fault", "429", "--times", "0"], "'0' is no whole number above 0"),
        (["fault", "429", "--times", "-1"], "--times"),
        (["fault", "429", "--times", "twice"], "'twice' is no whole number above 0"),
        (["fault", "429", "--retry-after", "1.5"], "'1.5' is no whole number above 0"),
        (["fault", "slow", "--seconds", "nan"], "'nan' is no number of seconds"),
        (["fault", "slow", "--seconds", "0"], "'0' is no number of seconds"),
        (["fault", "slow", "--seconds", "1e9"], "'1e9' is no number of seconds"),
        (["fault", "drop", "--device", ""], "--device"),
        (["fault", "drop", "--clear"], "--clear"),
        (["fault", "--clear", "--device", "one"], "--clear"),
        (["fault", "--times", "2"], "FAULT"),
        (["fault", "drop", "silence"], "unrecognized arguments: silence"),
        (["send", "device"], "TEXT"),
        (["send"], "DEVICE, TEXT"),
        (["send", "device", "two", "texts"], "unrecognized arguments: texts"),
        (["send", "device", "text", "--property", "colour"], "'colour' is no property: give NAME=VALUE"),
        (["send", "device", "text", "--property", "=blue"], "'=blue' is no property: give NAME=VALUE"),
        (["send", "device", "text", "--expires-in", "0"], "'0' is no number of seconds"),
        (["send", "device", "text", "--expires-in", "soon"], "'soon' is no number of seconds"),
        (["registrations", "device"], "unrecognized arguments: device"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_with_2(tmp_path: Path, arguments: list[str], words: str) -> None:
    assert words in senseless_command(*arguments, "--state-dir", str(tmp_path / "state"))
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("arguments", [["fault", "drop"], ["fault"], ["fault", "--clear"], ["send", "device", "text"]])
def test_a_command_that_needs_a_running_emulator_says_so(tmp_path: Path, arguments: list[str]) -> None:
    done = run_command(*arguments, "--state-dir", str(tmp_path / "state"))
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"No emulator is running on {tmp_path / 'state'}: start it with ")
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["send", "nobody", "text"], "The requested device 'nobody' was not found in the hub's identity registry: "),
        (["send", "strict", "text", "--property", "a b=c"], "Properties are texts "),
        (["send", "strict", "text", "--message-id", "two words"], "MessageId is not "),
        (
            ["send", "strict", "x" * 70_000],
            "The cloud-to-device message has 70000 bytes; the limit is 65536: send less.",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line_and_1(emulator: RunningEmulator, arguments: list[str], words: str) -> None:
    ask(emulator, "PUT", "/devices/strict", {"deviceId": "strict"})
    assert refused_command(emulator, *arguments).startswith(words)


def test_the_help_names_every_fault_with_what_it_does() -> None:
    shown = run_command("fault", "--help").stdout
    assert all(f"  {name:<25}{kind.what}" in shown for name, kind in KINDS.items())


# --- registrations ----------------------------------------------------------------------------------------------------


def test_registrations_are_shown_with_the_payload_of_the_device(start: Start, tmp_path: Path) -> None:
    emulator = start()
    assert emulator.emulator.registrations() == []
    assert command(emulator, "registrations") == ""
    payload = {"modelId": "dtmi:example:Thermostat;1", "list": [1, None, "ü"]}
    for name, body in (
        ("plain", ""),
        ("with-payload", json.dumps({"registrationId": "with-payload", "payload": payload})),
    ):
        with at_dps(emulator, enrolled(emulator, tmp_path, name)) as wire:
            wire.outcome(body)
    refused = enrolled(emulator, tmp_path, "refused")
    emulator.emulator.fault("failed-400208")
    with at_dps(emulator, refused) as wire:
        wire.provision()
    plain, failed, rich = emulator.emulator.registrations()
    assert [one["registrationId"] for one in (plain, failed, rich)] == ["plain", "refused", "with-payload"]
    assert (plain["status"], plain["assignedHub"], plain["payload"]) == ("assigned", emulator.host, None)
    assert rich["payload"] == payload
    assert (failed["status"], failed["errorCode"]) == ("failed", 400208)
    assert TIME.fullmatch(plain["createdDateTimeUtc"])
    for one in (plain, failed, rich):
        name = one["registrationId"]
        assert {**ask(emulator, "GET", f"/registrations/{name}").json(), "payload": one["payload"]} == one
    assert [json.loads(line) for line in command(emulator, "registrations", "--json").splitlines()] == [
        plain,
        failed,
        rich,
    ]
    lines = command(emulator, "registrations").splitlines()
    assert lines == [
        f"plain assigned {emulator.host}",
        "refused failed IoT Hub not found.",
        f"with-payload assigned {emulator.host}",
    ]
    emulator.terminate()
    assert [one["payload"] for one in emulator.emulator.registrations()] == [None, None, payload], "also afterwards"
    assert len(command(emulator, "registrations").splitlines()) == 3


def test_registrations_where_there_is_no_emulator_is_one_line(tmp_path: Path) -> None:
    done = run_command("registrations", "--state-dir", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"There is no emulator in {tmp_path}: ")
    assert sentence(lambda: package.registrations(tmp_path)) == line


# --- bodies in the log ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked_for", [True, False])
def test_bodies_are_in_the_log_when_that_is_asked_for(start: Start, tmp_path: Path, asked_for: bool) -> None:
    emulator = start(*(["--log-bodies"] if asked_for else []))
    device = enrolled(emulator, tmp_path, "talker")
    secrets = [
        f"secret-{name}" for name in ("payload", "telemetry", "desired", "reported", "command", "call", "answer")
    ]
    payload, telemetry, desired, reported, body, call, answer = secrets
    with at_dps(emulator, device) as wire:
        wire.outcome(json.dumps({"payload": payload}))
    received: Queue[object] = Queue()
    with connected(emulator, device) as client:
        responder(client, lambda request: (200, answer))
        client.on_message_received = received.put
        client.on_twin_desired_properties_patch_received = received.put
        send(client, telemetry)
        client.patch_twin_reported_properties({"is": reported})
        emulator.emulator.send("talker", body)
        received.get(timeout=ANSWER_WITHIN)
        ask(emulator, "PATCH", "/twins/talker", {"properties": {"desired": {"is": desired}}})
        received.get(timeout=ANSWER_WITHIN)
        asked = ask(emulator, "POST", "/twins/talker/methods", {"methodName": "m", "payload": call})
        assert asked.json()["payload"] == answer
    log = emulator.log()
    assert [secret in log for secret in secrets] == [asked_for] * len(secrets)


# --- senseless requests of who has the token --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("send", None),
        ("send", []),
        ("send", {"deviceId": "strict"}),
        ("send", {"deviceId": ["strict"], "body": ""}),
        ("faults", None),
        ("faults", {"kind": "earthquake"}),
        ("faults", {"kind": "drop", "unknown": 1}),
        ("faults", {"kind": ["drop"]}),
        ("faults", b"{"),
    ],
)
def test_a_request_that_cannot_be_is_a_400_and_changes_nothing(emulator: RunningEmulator, path: str, body: Any) -> None:
    own = json.loads((emulator.state_dir / "running.json").read_text())["token"]
    answer: requests.Response = ask(emulator, "POST", f"/emulator/{path}", body, authorization=f"Bearer {own}")
    assert answer.status_code in (400, 404), answer.text
    assert list(answer.json()) == ["message"]
    assert emulator.emulator.faults() == []
