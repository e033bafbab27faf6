"""The service side: etags, keys, and what is remembered of a registration."""

from dataclasses import replace

import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from live import Live

from dpsx_helpers.tutorial import Secret


@pytest.mark.feature("individual enrollments")
def test_the_service_client_sees_conflict_change_and_absence(live: Live) -> None:
    device = live.device()
    etag = live.enroll(device)["etag"]
    with pytest.raises(ResourceExistsError):
        live.enroll(device)
    changed = live.enroll(device, if_match=etag, deviceId=live.name("d"))
    with pytest.raises(HttpResponseError, match="Precondition failed") as refused:
        live.enroll(device, if_match=etag)
    assert refused.value.status_code == 412
    assert changed["etag"] != etag
    with live.service() as service:
        assert service.enrollment.get(device.common_name)["deviceId"] == live.name("d")
        service.enrollment.delete(device.common_name, if_match=changed["etag"])
        with pytest.raises(ResourceNotFoundError):
            service.enrollment.get(device.common_name)


@pytest.mark.feature("registration records")
def test_a_registration_is_remembered_and_goes_with_its_enrollment(live: Live) -> None:
    device = live.device()
    live.enroll(device)
    live.register(device)
    with live.service() as service:
        record = service.device_registration_state.get(device.common_name)
        assert (record["status"], record["assignedHub"], record["deviceId"]) == (
            "assigned",
            live.hub_host,
            device.common_name,
        )
        service.enrollment.delete(device.common_name)
        with pytest.raises(ResourceNotFoundError):
            service.device_registration_state.get(device.common_name)
    assert live.hub("GET", f"/devices/{device.common_name}").status_code == 200, "the hub keeps the device"


@pytest.mark.feature("device identities")
def test_an_identity_is_created_once_and_changed_by_who_has_seen_it(live: Live) -> None:
    device = live.device()
    path, thumbprints = f"/devices/{device.common_name}", {"primaryThumbprint": device.thumbprint}
    body = {
        "deviceId": device.common_name,
        "authentication": {"type": "selfSigned", "x509Thumbprint": thumbprints},
    }
    made = live.hub("PUT", path, body)
    assert made.status_code == 200, made.text
    assert live.hub("PUT", path, body).status_code == 409
    assert live.hub("PUT", path, body | {"status": "disabled"}, If_Match=f'"{made.json()["etag"]}"').status_code == 200
    assert live.hub("PUT", path, body, If_Match=f'"{made.json()["etag"]}"').status_code == 412
    assert live.hub("DELETE", path, If_Match="*").status_code == 204
    assert live.hub("GET", path).status_code == 404


@pytest.mark.feature("shared access signatures")
def test_a_wrong_key_opens_neither_service(live: Live) -> None:
    wrong = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
    strings = (live.target.dps_connection_string, live.target.iothub_connection_string)
    dps, hub = (Secret(str(text).partition("SharedAccessKey=")[0] + f"SharedAccessKey={wrong}") for text in strings)
    stranger = Live(replace(live.target, dps_connection_string=dps, iothub_connection_string=hub), live.folder)
    with stranger.service() as service, pytest.raises(ClientAuthenticationError) as refused:
        service.enrollment.get(live.name("device"))
    assert refused.value.status_code == 401
    assert stranger.hub("GET", f"/devices/{stranger.name('device')}").status_code == 401
