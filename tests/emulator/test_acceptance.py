"""Microsoft's unmodified clients against a real emulator process: what provisions, and how a refusal shows."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.iot.device.exceptions import ClientError, ConnectionFailedError, CredentialError
from clients import bodies, cause, connected, document, enroll, register, send, service
from connections import at_dps, enrolled, provisioned
from pki import make_device
from processes import RunningEmulator


def test_a_device_is_enrolled_provisioned_and_heard(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = enrolled(emulator, tmp_path, "accept-01", initialTwin={"properties": {"desired": {"interval": 5}}})
    result = register(emulator, device)
    state = result.registration_state
    assert (result.status, state.device_id, state.assigned_hub) == ("assigned", "accept-01", emulator.host)
    assert state.sub_status == "initialAssignment"
    assert str(state).splitlines() == ["accept-01", emulator.host, "initialAssignment", "null"]
    with connected(emulator, device) as client:
        send(client, *(f"test wind speed {number}" for number in range(1, 11)))
    assert bodies(emulator, "accept-01") == [f"test wind speed {number}" for number in range(1, 11)]


def test_an_initial_202_makes_the_sdk_wait_and_ask_again(start: Callable[..., RunningEmulator], tmp_path: Path) -> None:
    emulator = start("--assign", "polls=1")
    device = enrolled(emulator, tmp_path, "slow-01")
    assert register(emulator, device).status == "assigned"
    assert emulator.log().count("< poll slow-01") == 2
    assert emulator.log().count("> 202 assigning, retry-after 3 s") == 2


def test_a_wrong_id_scope_is_an_unavailable_broker(emulator: RunningEmulator, tmp_path: Path) -> None:
    with pytest.raises(ConnectionFailedError) as failure:
        register(emulator, make_device(tmp_path, "scope-01"), id_scope="0ne00000000")
    assert "broker unavailable" in cause(failure)


def test_a_common_name_that_differs_is_not_authorised(emulator: RunningEmulator, tmp_path: Path) -> None:
    with pytest.raises(CredentialError) as failure:
        register(emulator, make_device(tmp_path, "name-01"), registration_id="name-02")
    assert "not authorised" in cause(failure)


@pytest.mark.parametrize("case", ["never enrolled", "other certificate", "CA:TRUE", "expired", "not yet valid"])
def test_a_certificate_that_is_not_wanted_is_a_401(emulator: RunningEmulator, tmp_path: Path, case: str) -> None:
    name = "refused-" + case.replace(" ", "-").replace(":", "-")
    device = make_device(
        tmp_path,
        name,
        ca=case == "CA:TRUE",
        valid_from=timedelta(days=1 if case == "not yet valid" else -60),
        valid_for=timedelta(days=30 if case == "expired" else 365),
    )
    if case == "other certificate":
        enroll(emulator, make_device(tmp_path, name))
    elif case != "never enrolled":
        enroll(emulator, device)
    with pytest.raises(ClientError) as failure:
        register(emulator, device)
    assert cause(failure) == "register request returned a service error status code 401"


def test_a_never_enrolled_device_is_a_404_where_that_is_chosen(
    start: Callable[..., RunningEmulator], tmp_path: Path
) -> None:
    with pytest.raises(ClientError) as failure:
        register(start("--not-enrolled", "404201"), make_device(tmp_path, "nobody"))
    assert cause(failure) == "register request returned a service error status code 404"


def test_a_disabled_enrollment_is_an_invalid_registration_status(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = enrolled(emulator, tmp_path, "disabled-01", provisioningStatus="disabled")
    with pytest.raises(ClientError) as failure:
        register(emulator, device)
    assert "invalid registration status disabled with a status code of 200" in cause(failure)


def test_without_a_linked_hub_the_registration_fails(start: Callable[..., RunningEmulator], tmp_path: Path) -> None:
    emulator = start("--hubs", "0")
    device = enrolled(emulator, tmp_path, "homeless")
    with pytest.raises(ClientError) as failure:
        register(emulator, device)
    assert "failed registration status with a status code of 200" in cause(failure)
    state = service(emulator).enrollment.get("homeless")["registrationState"]
    assert (state["status"], state["errorCode"]) == ("failed", 400208)


def test_the_secondary_certificate_provisions_too(emulator: RunningEmulator, tmp_path: Path) -> None:
    old, new = make_device(tmp_path, "rollover-01"), make_device(tmp_path, "rollover-01")
    enroll(emulator, old, secondary=new)
    with at_dps(emulator, new) as wire:
        assert wire.provision()["status"] == "assigned"
    with connected(emulator, new) as client:
        send(client, "with the new one")
    with connected(emulator, old) as client:
        send(client, "with the old one")
    assert bodies(emulator, "rollover-01") == ["with the new one", "with the old one"]


def test_registration_ids_compare_without_regard_to_case(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = enrolled(emulator, tmp_path, "MiXed-01")
    state = register(emulator, device, registration_id="mixed-01").registration_state
    assert state.device_id == "MiXed-01"


def test_a_device_id_of_its_own_is_assigned(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = enrolled(emulator, tmp_path, "alias-01", deviceId="thermostat:7")
    assert register(emulator, device).registration_state.device_id == "thermostat:7"
    with connected(emulator, device, "thermostat:7") as client:
        send(client, "hello")
    assert len(emulator.messages("thermostat:7")) == 1


def test_deleting_the_enrollment_leaves_the_device_its_hub(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = provisioned(emulator, tmp_path, "unenrolled-01")
    service(emulator).enrollment.delete("unenrolled-01")
    with connected(emulator, device) as client:
        send(client, "still here")
    with pytest.raises(ClientError):
        register(emulator, device)


def test_a_device_with_another_certificate_cannot_enter_the_hub(emulator: RunningEmulator, tmp_path: Path) -> None:
    provisioned(emulator, tmp_path, "guarded-01")
    with pytest.raises(CredentialError), connected(emulator, make_device(tmp_path, "guarded-01")):
        pass


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


def test_the_service_client_sees_conflict_change_and_absence(emulator: RunningEmulator, tmp_path: Path) -> None:
    enrollments = service(emulator).enrollment
    device = make_device(tmp_path, "service-01")
    etag = enroll(emulator, device)["etag"]
    with pytest.raises(ResourceExistsError):
        enroll(emulator, device)
    changed = enrollments.create_or_update("service-01", document(device, deviceId="d"), if_match=etag)
    with pytest.raises(HttpResponseError, match="Precondition failed"):
        enrollments.create_or_update("service-01", document(device), if_match=etag)
    assert enrollments.get("service-01")["deviceId"] == "d"
    assert changed["etag"] != etag
    enrollments.delete("service-01", if_match=changed["etag"])
    with pytest.raises(ResourceNotFoundError):
        enrollments.get("service-01")


def test_a_device_provisions_with_a_secondary_certificate_alone(emulator: RunningEmulator, tmp_path: Path) -> None:
    """What is left after the primary one was removed, as `az iot dps enrollment update --remove-certificate` does."""
    old, new = make_device(tmp_path, "second-01"), make_device(tmp_path, "second-01")
    shown = enroll(emulator, old, secondary=new)
    shown["attestation"]["x509"]["clientCertificates"]["primary"] = None
    service(emulator).enrollment.create_or_update("second-01", shown, if_match="*")
    assert register(emulator, new).status == "assigned"
    with pytest.raises(ClientError):
        register(emulator, old)
