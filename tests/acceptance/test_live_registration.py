"""Registration: what a device is answered, with Microsoft's unmodified clients."""

import asyncio
from datetime import timedelta

import pytest
from azure.iot.device import Message
from azure.iot.device import aio as azure_aio
from azure.iot.device.exceptions import ClientError, ConnectionFailedError, CredentialError
from clients import bodies_of, cause, send
from live import Live
from pki import make_device

DISABLED = "invalid registration status disabled with a status code of 200"


@pytest.mark.feature("register and poll")
def test_a_device_is_enrolled_provisioned_and_heard(live: Live) -> None:
    device = live.device()
    live.enroll(device)
    state = live.register(device)
    assert (state.device_id, state.assigned_hub) == (device.common_name, live.hub_host)
    assert state.sub_status == "initialAssignment"
    assert str(state).splitlines() == [device.common_name, live.hub_host, "initialAssignment", "null"]
    said = [f"test wind speed {number}" for number in range(1, 11)]
    with live.connected(device) as client:
        send(client, *said)  # each returns when the hub has acknowledged it
    assert bodies_of(live.target, device.common_name) in (said, None)


@pytest.mark.feature("register and poll")
def test_the_same_with_the_asynchronous_client(live: Live) -> None:
    """As the quickstart's own program does, ten messages in parallel."""
    device = live.device()
    live.enroll(device)

    async def both() -> str:
        result = await live.at_dps(device, azure_aio.ProvisioningDeviceClient).register()
        hub = live.at_hub(device, kind=azure_aio.IoTHubDeviceClient)
        try:
            await hub.connect()
            await asyncio.gather(*(hub.send_message(Message(f"message {number}")) for number in range(10)))
        finally:
            await hub.shutdown()
        return str(result.status)

    assert asyncio.run(both()) == "assigned"
    heard = bodies_of(live.target, device.common_name)
    assert heard is None or sorted(heard) == [f"message {number}" for number in range(10)]


@pytest.mark.feature("substatus of a device that comes again")
def test_a_device_that_comes_again_is_where_it_was(live: Live) -> None:
    device = live.device()
    live.enroll(device, initialTwin={"properties": {"desired": {"interval": 5}}})
    first = live.register(device)
    identity = live.hub("GET", f"/devices/{first.device_id}").json()
    again = live.register(device)
    assert (again.device_id, again.assigned_hub) == (first.device_id, first.assigned_hub)
    assert again.sub_status == "initialAssignment", "which is what clients before 2019-04-15 are told"
    assert live.hub("GET", f"/devices/{again.device_id}").json()["generationId"] == identity["generationId"]


@pytest.mark.feature("wrong ID scope")
def test_a_wrong_id_scope_is_an_unavailable_broker(live: Live) -> None:
    with pytest.raises(ConnectionFailedError) as failure:
        live.register(live.device(), id_scope="0ne00000000")
    assert "broker unavailable" in cause(failure)


@pytest.mark.feature("registration ID and common name differ")
def test_a_common_name_that_differs_is_not_authorised(live: Live) -> None:
    with pytest.raises(CredentialError) as failure:
        live.register(live.device(), registration_id=live.name("other"))
    assert "not authorised" in cause(failure)


@pytest.mark.feature("not enrolled")
def test_a_device_that_was_never_enrolled_is_refused(live: Live) -> None:
    """With 401 or 404: public sources have both, and the emulator is told which (`--not-enrolled`)."""
    assert live.refused(live.device()) in ((401, 401002), (404, 404201))


@pytest.mark.feature("another certificate, CA:TRUE, expired")
@pytest.mark.parametrize("case", ["other certificate", "CA:TRUE", "expired", "not yet valid"])
def test_a_certificate_that_is_not_wanted_is_401002(live: Live, case: str) -> None:
    device = live.device(
        ca=case == "CA:TRUE",
        valid_from=timedelta(days=1 if case == "not yet valid" else -60),
        valid_for=timedelta(days=30 if case == "expired" else 365),
    )
    live.enroll(live.device() if case == "other certificate" else device)
    assert live.refused(device) == (401, 401002)


@pytest.mark.feature("enrollment disabled")
def test_a_disabled_enrollment_is_an_invalid_registration_status(live: Live) -> None:
    device = live.device()
    live.enroll(device, provisioningStatus="disabled")
    with pytest.raises(ClientError) as failure:
        live.register(device)
    assert DISABLED in cause(failure)
    assert live.hub("GET", f"/devices/{device.common_name}").status_code == 404


@pytest.mark.feature("primary and secondary certificate")
def test_the_secondary_certificate_provisions_too(live: Live) -> None:
    old, new = live.device(), live.device()
    live.enroll(old, secondary=new)
    live.register(new)
    for either in (new, old):
        with live.connected(either) as client:
            send(client, "hello")


@pytest.mark.feature("primary and secondary certificate")
def test_a_device_provisions_with_a_secondary_certificate_alone(live: Live) -> None:
    """What is left after the primary one was removed, as `az iot dps enrollment update --remove-certificate` does."""
    old, new = live.device(), live.device()
    shown = live.enroll(old, secondary=new)
    shown["attestation"]["x509"]["clientCertificates"]["primary"] = None
    with live.service() as service:
        service.enrollment.create_or_update(old.common_name, shown, if_match="*")
    assert live.register(new).device_id == new.common_name
    assert live.refused(old) == (401, 401002)


@pytest.mark.feature("registration ID")
def test_registration_ids_compare_without_regard_to_case(live: Live) -> None:
    device = live.device("MiXed")
    live.enroll(device)
    state = live.register(device, registration_id=device.common_name.lower())
    assert state.device_id == device.common_name


@pytest.mark.feature("device ID of its own")
def test_a_device_id_of_its_own_is_assigned(live: Live) -> None:
    device, device_id = live.device(), live.name("thermostat:7")
    live.enroll(device, deviceId=device_id)
    assert live.register(device).device_id == device_id
    with live.connected(device, device_id) as client:
        send(client, "hello")
    assert bodies_of(live.target, device_id) in (["hello"], None)


@pytest.mark.feature("deleting an enrollment")
def test_deleting_the_enrollment_leaves_the_device_its_hub(live: Live) -> None:
    device = live.device()
    live.enroll(device)
    live.register(device)
    with live.service() as service:
        service.enrollment.delete(device.common_name)
    with live.connected(device) as client:
        send(client, "still here")
    assert live.refused(device) in ((401, 401002), (404, 404201))


@pytest.mark.feature("enrollment groups")
@pytest.mark.emulator_only("a CA certificate is verified in Azure Resource Manager, which takes more than these keys")
def test_a_group_lets_in_a_device_with_its_chain(live: Live) -> None:
    device, other = live.group_of_a_factory()
    state = live.register(device)
    assert (state.device_id, state.assigned_hub) == (device.common_name, live.hub_host)
    with live.connected(device) as client:
        send(client, "from the factory")
    assert live.refused(other) == (401, 401002)
    assert live.refused(make_device(live.folder, device.common_name)) == (401, 401002)
