"""Two linked hubs: which one a device goes to, and what becomes of it when it is provisioned again."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from clients import bodies, connected, document, enroll, register, service
from connections import ANSWER_WITHIN, at_dps, enrolled, on_the_wire
from pki import Device, make_device
from processes import RunningEmulator
from rest import ask, dps_error

from dpsx_helpers.emulator import EmulatorError

Start = Callable[..., RunningEmulator]
SECOND = "localhost"

# https://learn.microsoft.com/azure/iot-dps/concepts-device-reprovision
MIGRATE = {"updateHubAssignment": True, "migrateDeviceData": True}
RESET = {"updateHubAssignment": True, "migrateDeviceData": False}
NEVER = {"updateHubAssignment": False, "migrateDeviceData": False}


@pytest.fixture(scope="module")
def hubs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEmulator]:
    """One emulator with two hubs for the whole module."""
    running = RunningEmulator(tmp_path_factory.mktemp("hubs") / "state", None, "--hubs", "2")
    yield running
    running.close()


def at_hub(emulator: RunningEmulator, hub: str, method: str, path: str, body: Any = None, **more: Any) -> Any:
    """What a hub answers: each has a host name of its own, and one port serves all. None for a 404."""
    answer: requests.Response = ask(
        emulator, method, path, body, Host=f"{hub}:{emulator.emulator.overview.https_port}", **more
    )
    assert answer.status_code in (200, 204, 404), answer.text
    return answer.json() if answer.status_code == 200 else None


def lives_at(emulator: RunningEmulator, device_id: str) -> list[str]:
    """The hubs that have the device in their registries."""
    linked = emulator.emulator.overview.hubs
    return [hub for hub in linked if at_hub(emulator, hub, "GET", f"/devices/{device_id}") is not None]


def twin_at(emulator: RunningEmulator, hub: str, device_id: str) -> dict[str, Any]:
    """Tags, desired and reported properties, without versions and metadata."""
    twin = at_hub(emulator, hub, "GET", f"/twins/{device_id}")
    assert twin is not None
    sections = {
        name: {key: value for key, value in twin["properties"][name].items() if not key.startswith("$")}
        for name in ("desired", "reported")
    }
    return {"tags": twin["tags"], **sections}


def send_to(emulator: RunningEmulator, device: Device, *addresses: str, **fields: Any) -> None:
    """Enroll a device for these hubs, or change its enrollment to them."""
    body = document(device, allocationPolicy="static", iotHubs=list(addresses), **fields)
    service(emulator).enrollment.create_or_update(device.common_name, body, if_match="*")


INITIAL = {"tags": {"room": "lab"}, "properties": {"desired": {"interval": 5}}}
AT_FIRST = {"tags": {"room": "lab"}, "desired": {"interval": 5}, "reported": {}}
LIVED_IN = {"tags": {"room": "hall"}, "desired": {"interval": 9}, "reported": {"version": "1.2"}}


def live(emulator: RunningEmulator, device: Device) -> None:
    """Service and device change the twin at the first hub."""
    patch = {"tags": {"room": "hall"}, "properties": {"desired": {"interval": 9}}}
    assert at_hub(emulator, emulator.host, "PATCH", f"/twins/{device.common_name}", patch) is not None
    with connected(emulator, device) as client:
        client.patch_twin_reported_properties({"version": "1.2"})
    assert twin_at(emulator, emulator.host, device.common_name) == LIVED_IN


# --- what is linked ---------------------------------------------------------------------------------------------------


def test_two_hubs_are_linked(hubs: RunningEmulator) -> None:
    assert hubs.emulator.overview.hubs == (hubs.host, SECOND)
    assert f"Linked IoT hubs         {hubs.host}, {SECOND}" in hubs.overview


@pytest.mark.parametrize("field", ["iotHubHostName", "iotHubs"])
def test_an_enrollment_names_linked_hubs_only(hubs: RunningEmulator, tmp_path: Path, field: str) -> None:
    name = "hub.azure-devices.net"
    body = document(make_device(tmp_path, "elsewhere"), **{field: name if field == "iotHubHostName" else [name]})
    assert dps_error(ask(hubs, "PUT", "/enrollments/elsewhere", body))[0] == 400
    assert f"hub {name} is not linked to this DPS; linked: {hubs.host}, {SECOND}" in hubs.log()


def test_each_hub_has_devices_and_statistics_of_its_own(hubs: RunningEmulator, tmp_path: Path) -> None:
    device = make_device(tmp_path, "apart")
    thumbprints = {"primaryThumbprint": device.thumbprint}
    body = {"authentication": {"type": "selfSigned", "x509Thumbprint": thumbprints}}
    query = {"query": "SELECT * FROM devices WHERE deviceId = 'apart'"}
    before = [at_hub(hubs, hub, "GET", "/statistics/devices")["totalDeviceCount"] for hub in (hubs.host, SECOND)]
    assert at_hub(hubs, SECOND, "PUT", "/devices/apart", body)["deviceId"] == "apart"
    after = [at_hub(hubs, hub, "GET", "/statistics/devices")["totalDeviceCount"] for hub in (hubs.host, SECOND)]
    assert after == [before[0], before[1] + 1]
    assert lives_at(hubs, "apart") == [SECOND]
    assert [len(at_hub(hubs, hub, "POST", "/devices/query", query)) for hub in (hubs.host, SECOND)] == [0, 1]
    with on_the_wire(hubs, device) as wire:
        assert wire.code == 5, "the first hub does not know it"
    with on_the_wire(hubs, device, SECOND) as wire:
        assert wire.code == 0
        wire.publish("devices/apart/messages/events/", "from the second hub")
        assert at_hub(hubs, SECOND, "GET", "/statistics/service") == {"connectedDeviceCount": 1}
        assert at_hub(hubs, hubs.host, "GET", "/statistics/service") == {"connectedDeviceCount": 0}
    assert bodies(hubs, "apart") == ["from the second hub"]


def test_a_message_finds_the_device_at_the_second_hub(hubs: RunningEmulator, tmp_path: Path) -> None:
    assert at_hub(hubs, SECOND, "PUT", "/devices/mailbox", {"deviceId": "mailbox"}) is not None
    hubs.emulator.send("mailbox", "hello")
    assert at_hub(hubs, SECOND, "GET", "/devices/mailbox")["cloudToDeviceMessageCount"] == 1


# --- which hub a device goes to ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["static", "geoLatency"])
@pytest.mark.parametrize("order", ["only the first", "only the second", "the second before the first"])
def test_static_allocation_takes_the_first_that_is_named(
    hubs: RunningEmulator, tmp_path: Path, policy: str, order: str
) -> None:
    named = {
        "only the first": [hubs.host],
        "only the second": [SECOND],
        "the second before the first": [SECOND, hubs.host],
    }[order]
    device = enrolled(hubs, tmp_path, f"{policy}-{order}".replace(" ", "-"), allocationPolicy=policy, iotHubs=named)
    with at_dps(hubs, device) as wire:
        state = wire.provision()
    assert (state["assignedHub"], state["substatus"]) == (named[0], "initialAssignment")
    assert lives_at(hubs, device.common_name) == [named[0]]


def test_static_allocation_without_a_name_takes_the_first_that_is_linked(hubs: RunningEmulator, tmp_path: Path) -> None:
    device = enrolled(hubs, tmp_path, "static-any", allocationPolicy="static")
    with at_dps(hubs, device) as wire:
        assert wire.provision()["assignedHub"] == hubs.host


def test_hashed_allocation_uses_both_hubs_and_stays(hubs: RunningEmulator, tmp_path: Path) -> None:
    devices = [make_device(tmp_path, f"hashed-{number:02}") for number in range(16)]
    assigned = []
    for device in devices:
        enroll(hubs, device, initialTwin=INITIAL)
        with at_dps(hubs, device) as wire:
            first, again = wire.provision(), wire.provision()
        assert again["assignedHub"] == first["assignedHub"]
        assert lives_at(hubs, device.common_name) == [first["assignedHub"]]
        assigned.append(first["assignedHub"])
    assert 3 <= assigned.count(SECOND) <= 13
    for device, hub in zip(devices, assigned, strict=True):
        ask(hubs, "DELETE", f"/registrations/{device.common_name}")
        with at_dps(hubs, device) as wire:
            assert wire.provision()["assignedHub"] == hub, "even when nothing is remembered"


def test_hashed_allocation_keeps_to_the_hubs_that_are_named(hubs: RunningEmulator, tmp_path: Path) -> None:
    for number in range(6):
        device = make_device(tmp_path, f"hashed-there-{number}")
        enroll(hubs, device, iotHubs=[SECOND])
        with at_dps(hubs, device) as wire:
            assert wire.provision()["assignedHub"] == SECOND


# --- provisioned again ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "moves", "substatus", "twin"),
    [
        pytest.param(MIGRATE, True, "deviceDataMigrated", LIVED_IN, id="move and migrate"),
        pytest.param(RESET, True, "deviceDataReset", AT_FIRST, id="move and reset"),
        pytest.param(NEVER, False, "initialAssignment", LIVED_IN, id="never"),
        pytest.param(None, True, "deviceDataMigrated", LIVED_IN, id="left out"),
    ],
)
def test_a_device_that_is_sent_to_another_hub(
    hubs: RunningEmulator,
    tmp_path: Path,
    policy: dict[str, bool] | None,
    moves: bool,
    substatus: str,
    twin: dict[str, Any],
) -> None:
    name = f"moves-{substatus}-{policy is None}"
    device = make_device(tmp_path, name)
    fields = {"initialTwin": INITIAL, **({"reprovisionPolicy": policy} if policy else {})}
    send_to(hubs, device, hubs.host, **fields)
    with at_dps(hubs, device) as wire:
        first = wire.provision()
        assert (first["assignedHub"], first["substatus"]) == (hubs.host, "initialAssignment")
        live(hubs, device)
        send_to(hubs, device, SECOND, **fields)
        again = wire.provision()
    hub = SECOND if moves else hubs.host
    assert (again["assignedHub"], again["deviceId"], again["substatus"]) == (hub, name, substatus)
    assert lives_at(hubs, name) == [hub]
    assert twin_at(hubs, hub, name) == twin
    assert ask(hubs, "GET", f"/registrations/{name}").json()["assignedHub"] == hub
    assert f"= {name} is assigned to hub {hub} as device {name}" in hubs.log()


@pytest.mark.parametrize(
    ("policy", "twin"),
    [
        pytest.param(MIGRATE, LIVED_IN, id="move and migrate"),
        pytest.param(RESET, AT_FIRST, id="move and reset"),
        pytest.param(NEVER, LIVED_IN, id="never"),
    ],
)
@pytest.mark.parametrize(
    ("api_version", "substatus"),
    [("2019-03-31", "initialAssignment"), ("2021-06-01", "reprovisionedToInitialAssignment")],
)
def test_a_device_that_comes_back_to_its_hub(
    hubs: RunningEmulator,
    tmp_path: Path,
    policy: dict[str, bool],
    twin: dict[str, Any],
    api_version: str,
    substatus: str,
) -> None:
    """Which api-versions know the longer name: https://github.com/Azure/azure-iot-sdk-csharp/pull/2397"""
    name = f"stays-{sum(policy.values())}-{api_version}"
    device = make_device(tmp_path, name)
    send_to(hubs, device, hubs.host, initialTwin=INITIAL, reprovisionPolicy=policy)
    with at_dps(hubs, device, api_version=api_version) as wire:
        assert wire.provision()["substatus"] == "initialAssignment"
        before = at_hub(hubs, hubs.host, "GET", f"/devices/{name}")
        live(hubs, device)
        again = wire.provision()
    assert (again["assignedHub"], again["substatus"]) == (hubs.host, substatus)
    assert twin_at(hubs, hubs.host, name) == twin
    assert at_hub(hubs, hubs.host, "GET", f"/devices/{name}")["generationId"] == before["generationId"]


def test_what_a_device_has_lived_through_goes_with_it_there_and_back(hubs: RunningEmulator, tmp_path: Path) -> None:
    device = make_device(tmp_path, "commuter")
    send_to(hubs, device, hubs.host, initialTwin=INITIAL)
    with at_dps(hubs, device) as wire:
        wire.provision()
        live(hubs, device)
        for hub in (SECOND, hubs.host):
            send_to(hubs, device, hub, initialTwin={"tags": {"room": "elsewhere"}})
            assert wire.provision()["substatus"] == "deviceDataMigrated"
            assert lives_at(hubs, "commuter") == [hub]
            assert twin_at(hubs, hub, "commuter") == LIVED_IN


def test_a_device_that_moves_under_another_name_leaves_nothing_behind(hubs: RunningEmulator, tmp_path: Path) -> None:
    device = make_device(tmp_path, "renamed")
    send_to(hubs, device, hubs.host, deviceId="old-name", initialTwin=INITIAL)
    with at_dps(hubs, device) as wire:
        wire.provision()
    send_to(hubs, device, SECOND, deviceId="new-name")
    state = register(hubs, device).registration_state
    assert (state.device_id, state.assigned_hub, state.sub_status) == ("new-name", SECOND, "deviceDataMigrated")
    assert (lives_at(hubs, "old-name"), lives_at(hubs, "new-name")) == ([], [SECOND])
    assert twin_at(hubs, SECOND, "new-name") == AT_FIRST


def test_a_device_that_is_moved_loses_its_old_connection_and_messages(hubs: RunningEmulator, tmp_path: Path) -> None:
    device = make_device(tmp_path, "moved-online")
    send_to(hubs, device, hubs.host)
    with at_dps(hubs, device) as dps:
        dps.provision()
        hubs.emulator.send("moved-online", "still at the old hub")
        with on_the_wire(hubs, device) as wire:
            assert wire.code == 0
            send_to(hubs, device, SECOND)
            assert dps.provision()["assignedHub"] == SECOND
            wire.gone.get(timeout=ANSWER_WITHIN)
    with on_the_wire(hubs, device) as wire:
        assert wire.code == 5
    with on_the_wire(hubs, device, SECOND) as wire:
        assert wire.code == 0
        wire.publish("devices/moved-online/messages/events/", "arrived")
    assert bodies(hubs, "moved-online") == ["arrived"]
    assert at_hub(hubs, SECOND, "GET", "/devices/moved-online")["cloudToDeviceMessageCount"] == 0


def test_a_disabled_enrollment_moves_nobody(hubs: RunningEmulator, tmp_path: Path) -> None:
    device = make_device(tmp_path, "disabled-mover")
    send_to(hubs, device, hubs.host)
    with at_dps(hubs, device) as wire:
        wire.provision()
        send_to(hubs, device, SECOND, provisioningStatus="disabled")
        assert wire.register()[2]["registrationState"]["status"] == "disabled"
        assert lives_at(hubs, "disabled-mover") == [hubs.host]
        send_to(hubs, device, SECOND)
        assert wire.provision()["substatus"] == "deviceDataMigrated"
    assert lives_at(hubs, "disabled-mover") == [SECOND]


@pytest.mark.parametrize("kind", ["disabled", "failed-400208"])
def test_a_fault_moves_nobody(hubs: RunningEmulator, tmp_path: Path, kind: str) -> None:
    device = make_device(tmp_path, f"faulty-{kind}")
    send_to(hubs, device, hubs.host, initialTwin=INITIAL)
    with at_dps(hubs, device) as wire:
        wire.provision()
        live(hubs, device)
        send_to(hubs, device, SECOND, initialTwin=INITIAL)
        hubs.emulator.fault(kind, device.common_name, times=1)
        assert wire.outcome()[1]["status"] == kind.partition("-")[0]
        assert lives_at(hubs, device.common_name) == [hubs.host]
        assert wire.provision()["substatus"] == "deviceDataMigrated"
    assert lives_at(hubs, device.common_name) == [SECOND]
    assert twin_at(hubs, SECOND, device.common_name) == LIVED_IN


# --- hubs that are unlinked and linked again --------------------------------------------------------------------------


def test_a_hub_that_is_unlinked_cannot_keep_its_devices(start: Start, tmp_path: Path) -> None:
    before = start("--hubs", "2")
    anywhere, only_there = make_device(tmp_path, "anywhere"), make_device(tmp_path, "only-there")
    send_to(before, anywhere, SECOND, reprovisionPolicy=NEVER)
    send_to(before, only_there, SECOND)
    for device in (anywhere, only_there):
        with at_dps(before, device) as wire:
            assert wire.provision()["assignedHub"] == SECOND
    service(before).enrollment.create_or_update("anywhere", document(anywhere, reprovisionPolicy=NEVER), if_match="*")
    before.terminate()
    after = start("--hubs", "1", host=before.host)
    with at_dps(after, anywhere) as wire:
        assert wire.provision()["assignedHub"] == after.host
    with at_dps(after, only_there) as wire:
        state = wire.provision()
        assert (state["status"], state["errorCode"]) == ("failed", 400208)
    after.terminate()
    again = start("--hubs", "2", host=before.host)
    assert lives_at(again, "only-there") == [SECOND], "a registration that failed moves nobody"
    with at_dps(again, only_there) as wire:
        assert wire.provision()["assignedHub"] == SECOND


def test_without_a_hub_there_is_nothing_to_be_assigned_to(start: Start, tmp_path: Path) -> None:
    emulator = start("--hubs", "0")
    assert emulator.emulator.overview.hubs == ()
    assert "Linked IoT hubs         none" in emulator.overview
    device = enrolled(emulator, tmp_path, "homeless")
    with at_dps(emulator, device) as wire:
        assert wire.provision()["status"] == "failed"
    record = ask(emulator, "GET", "/registrations/homeless").json()
    assert (record["status"], record["errorCode"], record["errorMessage"]) == ("failed", 400208, "IoT Hub not found.")
    assert "no IoT hub that 'homeless' may go to is linked to this DPS" in emulator.log()
    with pytest.raises(EmulatorError, match="'homeless' was not found"):
        emulator.emulator.send("homeless", "hello")
    with on_the_wire(emulator, device) as wire:
        assert wire.code == 5
    emulator.terminate()
    linked = start("--hubs", "1", host=emulator.host)
    with at_dps(linked, device) as wire:
        state = wire.provision()
    assert (state["assignedHub"], state["substatus"]) == (linked.host, "initialAssignment")
