"""Microsoft's unmodified clients against a real emulator process: what is the emulator's own.

What has to be so on Azure too is in tests/acceptance.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from azure.iot.device.exceptions import ClientError
from clients import cause, connected, enroll, register, responder, send, service
from connections import create, enrolled
from pki import make_device
from processes import RunningEmulator
from rest import ask, done


def test_an_initial_202_makes_the_sdk_wait_and_ask_again(start: Callable[..., RunningEmulator], tmp_path: Path) -> None:
    emulator = start("--assign", "polls=1")
    device = enrolled(emulator, tmp_path, "slow-01")
    assert register(emulator, device).status == "assigned"
    assert emulator.log().count("< poll slow-01") == 2
    assert emulator.log().count("> 202 assigning, retry-after 3 s") == 2


@pytest.mark.parametrize(("chosen", "status"), [((), 401), (("--not-enrolled", "404201"), 404)])
def test_a_never_enrolled_device_is_a_401_or_a_404_where_that_is_chosen(
    start: Callable[..., RunningEmulator], tmp_path: Path, chosen: tuple[str, ...], status: int
) -> None:
    with pytest.raises(ClientError) as failure:
        register(start(*chosen), make_device(tmp_path, "nobody"))
    assert cause(failure) == f"register request returned a service error status code {status}"


def test_without_a_linked_hub_the_registration_fails(start: Callable[..., RunningEmulator], tmp_path: Path) -> None:
    emulator = start("--hubs", "0")
    device = enrolled(emulator, tmp_path, "homeless")
    with pytest.raises(ClientError) as failure:
        register(emulator, device)
    assert "failed registration status with a status code of 200" in cause(failure)
    state = service(emulator).enrollment.get("homeless")["registrationState"]
    assert (state["status"], state["errorCode"]) == ("failed", 400208)


def test_devices_provision_and_send_at_the_same_time(emulator: RunningEmulator, tmp_path: Path) -> None:
    devices = [make_device(tmp_path, f"crowd-{number:02}") for number in range(8)]
    for device in devices:
        enroll(emulator, device)

    def live(number: int) -> int:
        assert register(emulator, devices[number]).status == "assigned"
        with connected(emulator, devices[number]) as client:
            send(client, *(f"{number}/{count}" for count in range(20)))
        return len(emulator.messages(devices[number].common_name))

    with ThreadPoolExecutor(len(devices)) as pool:
        assert list(pool.map(live, range(len(devices)))) == [20] * len(devices)


def test_the_sdk_that_connects_again_still_answers_methods_and_reports(
    emulator: RunningEmulator, tmp_path: Path
) -> None:
    """It subscribes once; that a hub keeps its subscriptions says https://github.com/Azure/iotedge/pull/5048."""
    device = create(emulator, tmp_path, "comes-again")
    with connected(emulator, device) as client:
        responder(client, lambda request: (200, request.name))
        client.patch_twin_reported_properties({"count": 1})
        client.disconnect()
        client.connect()
        called = ask(emulator, "POST", "/twins/comes-again/methods", {"methodName": "reboot"})
        assert done(called) == {"status": 200, "payload": "reboot"}
        client.patch_twin_reported_properties({"count": 2})
    assert done(ask(emulator, "GET", "/twins/comes-again"))["properties"]["reported"]["count"] == 2
