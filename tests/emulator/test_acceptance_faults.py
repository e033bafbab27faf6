"""Faults that a teacher switches on: each has the symptom that Azure's own fault has, for whom, how often, how long."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from azure.iot.device import IoTHubDeviceClient
from azure.iot.device.exceptions import ClientError, ConnectionFailedError, CredentialError
from clients import bodies, cause, connected, credentials, register, send, trusting
from connections import ANSWER_WITHIN, at_dps, create, enrolled, on_the_wire
from pki import Device, make_device
from processes import RunningEmulator, run_command, wait_for
from rest import ask

from dpsx_helpers.emulator.faults import KINDS

Start = Callable[..., RunningEmulator]
pytestmark = pytest.mark.usefixtures("no_faults")

# Kind -> what the SDK raises from `register`, and what it says of the cause.
REGISTERING: dict[str, tuple[type[Exception], str]] = {
    "connack-3": (ConnectionFailedError, "broker unavailable"),
    "connack-5": (CredentialError, "not authorised"),
    "401-unauthorized": (ClientError, "register request returned a service error status code 401"),
    "401-invalid-certificate": (ClientError, "register request returned a service error status code 401"),
    "401-ca-not-found": (ClientError, "register request returned a service error status code 401"),
    "401-bad-token": (ClientError, "register request returned a service error status code 401"),
    "401-hub-not-found": (ClientError, "register request returned a service error status code 401"),
    "404-not-enrolled": (ClientError, "register request returned a service error status code 404"),
    "409": (ClientError, "register request returned a service error status code 409"),
    "disabled": (ClientError, "invalid registration status disabled with a status code of 200"),
    "failed-400208": (ClientError, "failed registration status with a status code of 200"),
}
CONNECTING: dict[str, tuple[type[Exception], str]] = {
    "hub-connack-3": (ConnectionFailedError, "broker unavailable"),
    "hub-connack-5": (CredentialError, "not authorised"),
}
# Kind -> the status in the topic, and of the document the error code and message.
ANSWERS: dict[str, tuple[int, int, str]] = {
    "401-unauthorized": (401, 401002, "Unauthorized"),
    "401-invalid-certificate": (401, 401002, "Invalid certificate."),
    "401-ca-not-found": (401, 401002, "CA certificate not found."),
    "401-bad-token": (401, 401000, "Unauthorized"),
    "401-hub-not-found": (401, 401001, "IotHub not found."),
    "404-not-enrolled": (404, 404201, "Enrollment not found."),
    "409": (409, 409203, "Precondition failed."),
    "429": (429, 429001, "Throttled."),
    "500": (500, 500000, "Internal server error."),
}
# Each is in a test of its own below. What the SDK says of a registration that failed does not depend on the code.
BY_HAND = {"failed-400207", "failed-400209", "silence", "drop", "slow", "hub-eviction"}


def test_every_fault_is_tested_here() -> None:
    assert set(KINDS) == {*REGISTERING, *CONNECTING, *ANSWERS, *BY_HAND}


def code_at_dps(emulator: RunningEmulator, device: Device) -> int:
    """The code of the CONNACK."""
    with at_dps(emulator, device) as wire:
        return wire.code


# --- symptoms at DPS --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", REGISTERING)
def test_the_sdk_meets_the_fault_when_it_registers(emulator: RunningEmulator, tmp_path: Path, kind: str) -> None:
    device = enrolled(emulator, tmp_path, f"sdk-{kind}")
    emulator.emulator.fault(kind, device.common_name)
    raised, words = REGISTERING[kind]
    with pytest.raises(raised) as failure:
        register(emulator, device)
    assert type(failure.value) is raised
    assert words in cause(failure)
    assert f"the fault {kind} is switched on. Remedy: switch it off with " in emulator.log()
    assert ask(emulator, "GET", f"/devices/{device.common_name}").status_code == 404, "nothing was provisioned"


@pytest.mark.parametrize("kind", ANSWERS)
def test_the_document_of_a_fault_is_azures(emulator: RunningEmulator, tmp_path: Path, kind: str) -> None:
    device = enrolled(emulator, tmp_path, f"wire-{kind}")
    emulator.emulator.fault(kind, device.common_name)
    with at_dps(emulator, device) as wire:
        status, retry_after, document = wire.register()
    assert list(document) == ["errorCode", "trackingId", "message", "timestampUtc"]
    assert (status, document["errorCode"], document["message"]) == ANSWERS[kind]
    assert retry_after == (3 if status in (429, 500) else None)


def test_the_sdk_waits_as_it_is_told_and_arrives_in_the_end(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = enrolled(emulator, tmp_path, "patient")
    for kind in ("429", "500"):  # one after the other
        emulator.emulator.fault(kind, "patient", times=1, retry_after=1)
    before = len(emulator.log())
    assert register(emulator, device).status == "assigned"
    log = emulator.log()[before:]
    assert log.count("< register patient") == 3
    assert [log.count(f"the fault {kind} is switched on") for kind in ("429", "500")] == [1, 1]
    assert emulator.emulator.faults() == []


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        ("failed-400207", 400207, "Custom allocation failed with status code: 400"),
        ("failed-400208", 400208, "IoT Hub not found."),
        ("failed-400209", 400209, "IotHubUnauthorizedAccess"),
    ],
)
def test_a_registration_that_fails_says_why_where_it_is_kept(
    emulator: RunningEmulator, tmp_path: Path, kind: str, code: int, words: str
) -> None:
    device = enrolled(emulator, tmp_path, f"kept-{kind}")
    emulator.emulator.fault(kind, device.common_name, times=1)
    with at_dps(emulator, device) as wire:
        state = wire.provision()
        assert (state["status"], state["errorCode"]) == ("failed", code)
        assert words in state["errorMessage"]
        record = ask(emulator, "GET", f"/registrations/{device.common_name}").json()
        assert (record["status"], record["errorCode"], "assignedHub" in record) == ("failed", code, False)
        assert wire.provision()["status"] == "assigned", "the next time it works"


@pytest.mark.parametrize("kind", ["failed-400208", "disabled", "401-unauthorized", "silence", "drop"])
def test_a_fault_leaves_a_provisioned_device_where_it_is(emulator: RunningEmulator, tmp_path: Path, kind: str) -> None:
    device = enrolled(emulator, tmp_path, f"there-{kind}")
    with at_dps(emulator, device) as wire:
        assert wire.provision()["status"] == "assigned"
        before = ask(emulator, "GET", f"/devices/{device.common_name}").json()
        emulator.emulator.fault(kind, device.common_name, times=1)
        wire.ask_to_register()
        wait_for(lambda: emulator.emulator.faults() == [])
    after = ask(emulator, "GET", f"/devices/{device.common_name}").json()
    assert (after["generationId"], after["etag"]) == (before["generationId"], before["etag"])
    with connected(emulator, device) as client:
        send(client, "still welcome")


def test_a_device_that_was_only_called_disabled_is_new_afterwards(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = enrolled(emulator, tmp_path, "called-disabled")
    emulator.emulator.fault("disabled", "called-disabled", times=1)
    with at_dps(emulator, device) as wire:
        status, _, document = wire.register()
        assert (status, document["registrationState"]["status"]) == (200, "disabled")
        wire.provision()
    assert ask(emulator, "GET", "/registrations/called-disabled").json()["substatus"] == "initialAssignment"


def test_silence_is_not_even_an_acknowledgement(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = enrolled(emulator, tmp_path, "silence")
    emulator.emulator.fault("silence", "silence", times=1)
    acknowledged: list[int] = []
    with at_dps(emulator, device) as wire:
        wire.acknowledged = acknowledged.append
        wire.ask_to_register(1)
        wait_for(lambda: "nothing is answered: the fault silence is switched on" in emulator.log())
        assert ask(emulator, "GET", "/registrations/silence").status_code == 404
        second = wire.ask_to_register(2)
        assert wire.answer(2)[0] == 202, "the first answer is that to the second request"
        wait_for(lambda: acknowledged == [second])


def test_a_drop_is_the_end_of_the_connection_without_an_answer(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = enrolled(emulator, tmp_path, "drop")
    emulator.emulator.fault("drop", "drop", times=1)
    with at_dps(emulator, device) as wire:
        wire.ask_to_register()
        wire.gone.get(timeout=ANSWER_WITHIN)
        assert wire.messages.empty()
    assert ask(emulator, "GET", "/registrations/drop").status_code == 404
    with at_dps(emulator, device) as wire:
        assert wire.provision()["status"] == "assigned"


def test_slow_is_assigning_for_so_many_seconds(emulator: RunningEmulator, tmp_path: Path) -> None:
    quick, slow = enrolled(emulator, tmp_path, "slow-quick"), enrolled(emulator, tmp_path, "slow-hour")
    emulator.emulator.fault("slow", "slow-quick", times=1, seconds=0.5)
    emulator.emulator.fault("slow", "slow-hour", times=1, seconds=3600)
    with at_dps(emulator, slow) as wire:
        operation = wire.register()[2]["operationId"]
        for _ in range(10):
            status, retry_after, document = wire.poll(operation)
            assert (status, retry_after) == (202, 3)
            assert document["registrationState"] == {"registrationId": "slow-hour", "status": "assigning"}
        assert ask(emulator, "GET", "/registrations/slow-hour").json()["status"] == "assigning"
        assert ask(emulator, "GET", "/devices/slow-hour").status_code == 404
    with at_dps(emulator, quick) as wire:
        operation = wire.register()[2]["operationId"]
        wait_for(lambda: wire.poll(operation)[0] == 200)
        assert wire.poll(operation)[2]["registrationState"]["assignedHub"] == emulator.host


# --- symptoms at a hub ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONNECTING)
def test_the_sdk_meets_the_fault_when_it_connects(emulator: RunningEmulator, tmp_path: Path, kind: str) -> None:
    device = create(emulator, tmp_path, f"device-{kind}")
    emulator.emulator.fault(kind, device.common_name, times=1)
    raised, words = CONNECTING[kind]
    with pytest.raises(raised) as failure, connected(emulator, device):
        pass
    assert type(failure.value) is raised
    assert words in cause(failure)
    with connected(emulator, device) as client:
        send(client, "now I am in")
    assert bodies(emulator, device.common_name) == ["now I am in"]


def test_the_sdk_reconnects_after_an_eviction_and_delivers(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = create(emulator, tmp_path, "evicted")
    with trusting(emulator):
        client = IoTHubDeviceClient.create_from_x509_certificate(
            x509=credentials(device),
            hostname=emulator.host,
            device_id="evicted",
            connection_retry_interval=1,
        )
        try:
            client.connect()
            send(client, "before")
            emulator.emulator.fault("hub-eviction", "evicted", times=1)
            try:
                send(client, "through the eviction")
            except ClientError:  # it says so when it meets the end of the connection in the middle of sending
                wait_for(lambda: client.connected)
                send(client, "through the eviction")
            send(client, "after")
        finally:
            client.shutdown()
    assert list(dict.fromkeys(bodies(emulator, "evicted"))) == ["before", "through the eviction", "after"]
    assert emulator.log().count("< CONNECT evicted ") == 2
    assert emulator.log().count("the fault hub-eviction is switched on") == 1


def test_an_eviction_waits_for_the_next_packet(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = create(emulator, tmp_path, "evicted-later")
    emulator.emulator.fault("hub-eviction", "evicted-later", times=1)
    with on_the_wire(emulator, device) as wire:
        assert wire.code == 0
        wire.say("devices/evicted-later/messages/events/", "lost", qos=1)
        wire.gone.get(timeout=ANSWER_WITHIN)
    assert emulator.messages("evicted-later") == []


# --- for whom, and how often ------------------------------------------------------------------------------------------


def test_a_fault_is_for_one_device_or_for_all(emulator: RunningEmulator, tmp_path: Path) -> None:
    one, other = enrolled(emulator, tmp_path, "one"), enrolled(emulator, tmp_path, "other")
    emulator.emulator.fault("connack-5", "ONE")
    assert (code_at_dps(emulator, one), code_at_dps(emulator, other)) == (5, 0), "IDs compare without regard to case"
    emulator.emulator.fault("connack-3")
    assert (code_at_dps(emulator, one), code_at_dps(emulator, other)) == (5, 3), "its own goes before that for all"
    emulator.emulator.clear_faults()
    assert (code_at_dps(emulator, one), code_at_dps(emulator, other)) == (0, 0)


def test_a_hub_knows_a_device_by_its_device_id(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = enrolled(emulator, tmp_path, "two-names", deviceId="its-device-id")
    with at_dps(emulator, device) as wire:
        wire.provision()
    emulator.emulator.fault("hub-connack-3", "two-names")
    with connected(emulator, device, "its-device-id") as client:
        send(client, "that name is of DPS")
    emulator.emulator.fault("hub-connack-3", "its-device-id")
    with pytest.raises(ConnectionFailedError), connected(emulator, device, "its-device-id"):
        pass


def test_faults_are_listed_used_up_and_cleared(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = enrolled(emulator, tmp_path, "listed")
    emulator.emulator.fault("connack-3", "listed", times=2)
    emulator.emulator.fault("429", retry_after=7)
    emulator.emulator.fault("slow", "somebody", seconds=1.5)

    def left() -> list[Any]:
        return [(fault["kind"], fault["left"]) for fault in emulator.emulator.faults()]

    assert emulator.emulator.faults() == [
        {"kind": "connack-3", "device": "listed", "left": 2, "retry_after": 3, "seconds": 10.0},
        {"kind": "429", "device": None, "left": None, "retry_after": 7, "seconds": 10.0},
        {"kind": "slow", "device": "somebody", "left": None, "retry_after": 3, "seconds": 1.5},
    ]
    assert code_at_dps(emulator, device) == 3
    assert left() == [("connack-3", 1), ("429", None), ("slow", None)]
    assert code_at_dps(emulator, device) == 3
    assert left() == [("429", None), ("slow", None)]
    with at_dps(emulator, device) as wire:
        for number in (1, 2, 3):
            assert wire.register(number)[:2] == (429, 7), "until it is cleared"
        emulator.emulator.clear_faults()
        assert left() == []
        assert wire.provision()["status"] == "assigned"
    emulator.emulator.clear_faults()


def test_the_log_says_which_fault_is_on_for_whom(emulator: RunningEmulator) -> None:
    emulator.emulator.fault("drop", "logged")
    emulator.emulator.fault("connack-5")
    emulator.emulator.clear_faults()
    assert f"= fault drop is on for logged: {KINDS['drop'].what}" in emulator.log()
    assert f"= fault connack-5 is on for every device: {KINDS['connack-5'].what}" in emulator.log()
    assert "= all faults are off" in emulator.log()


# --- how long ---------------------------------------------------------------------------------------------------------


def test_a_fault_survives_kill_9_with_what_is_left_of_it(start: Start, tmp_path: Path) -> None:
    emulator = start()
    device = enrolled(emulator, tmp_path, "killed")
    emulator.emulator.fault("connack-3", "killed", times=2)
    emulator.emulator.fault("hub-connack-5")
    assert code_at_dps(emulator, device) == 3
    emulator.kill()
    again = start(host=emulator.host)
    assert [(fault["kind"], fault["left"]) for fault in again.emulator.faults()] == [
        ("connack-3", 1),
        ("hub-connack-5", None),
    ]
    assert [code_at_dps(again, device) for _ in range(2)] == [3, 0]


@pytest.mark.parametrize("running", [True, False])
def test_a_reset_switches_faults_off(start: Start, tmp_path: Path, running: bool) -> None:
    emulator = start()
    device = make_device(tmp_path, "reset")
    emulator.emulator.fault("connack-3")
    if not running:
        emulator.terminate()
    done = run_command("reset", "--state-dir", str(emulator.state_dir))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    again = emulator if running else start(host=emulator.host)
    assert again.emulator.faults() == []
    assert code_at_dps(again, device) == 0
