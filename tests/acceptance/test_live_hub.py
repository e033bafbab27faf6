"""The hub: who may connect, twins, and direct methods."""

import time
from queue import Queue
from typing import Any

import pytest
from azure.iot.device import Message
from azure.iot.device.exceptions import ConnectionFailedError, CredentialError
from clients import responder, send
from live import Live
from pki import Device

WITHIN = 20.0  # seconds for what the service tells a device


@pytest.fixture
def provisioned(live: Live) -> Device:
    """A device that has registered, with an initial twin."""
    device = live.device()
    live.enroll(device, initialTwin={"tags": {"room": "lab"}, "properties": {"desired": {"interval": 5}}})
    live.register(device)
    return device


def told(queue: "Queue[Any]") -> Any:
    return queue.get(timeout=WITHIN)


@pytest.mark.feature("CONNECT by thumbprint")
def test_a_device_with_another_certificate_cannot_enter_the_hub(live: Live, provisioned: Device) -> None:
    with pytest.raises(CredentialError), live.connected(live.device()):
        pass
    with live.connected(provisioned) as client:
        assert client.connected


@pytest.mark.feature("identity made by DPS")
def test_the_identity_has_the_thumbprint_of_the_certificate(live: Live, provisioned: Device) -> None:
    shown = live.hub("GET", f"/devices/{provisioned.common_name}").json()
    assert (shown["status"], shown["authentication"]["type"]) == ("enabled", "selfSigned")
    assert shown["authentication"]["x509Thumbprint"]["primaryThumbprint"].upper() == provisioned.thumbprint


@pytest.mark.feature("disabled device")
def test_a_disabled_device_is_refused_until_it_is_enabled(live: Live, provisioned: Device) -> None:
    """Whether as not authorised or as unavailable is not public."""
    path = f"/devices/{provisioned.common_name}"
    for status in ("disabled", "enabled"):
        shown = live.hub("GET", path).json()
        assert live.hub("PUT", path, shown | {"status": status}, If_Match="*").status_code == 200
        if status == "disabled":
            with pytest.raises((CredentialError, ConnectionFailedError)), live.connected(provisioned):
                pass
    with live.connected(provisioned) as client:
        send(client, "back again")


@pytest.mark.feature("CONNECT by thumbprint")
def test_a_deleted_device_is_refused_until_it_registers_again(live: Live, provisioned: Device) -> None:
    assert live.hub("DELETE", f"/devices/{provisioned.common_name}", If_Match="*").status_code == 204
    with pytest.raises(CredentialError), live.connected(provisioned):
        pass
    live.register(provisioned)
    with live.connected(provisioned) as client:
        send(client, "new here")


@pytest.mark.feature("telemetry")
def test_telemetry_with_properties_is_acknowledged(live: Live, provisioned: Device) -> None:
    message = Message('{"wind": 7}', message_id="a b", content_type="application/json", content_encoding="utf-8")
    message.custom_properties["key & value"] = "a/b=c"
    with live.connected(provisioned) as client:
        client.send_message(message)  # returns when the hub has acknowledged it
    if live.target.emulator:
        (heard,) = live.target.messages(provisioned.common_name)
        assert (heard["body"], heard["properties"]) == ('{"wind": 7}', {"key & value": "a/b=c"})


@pytest.mark.feature("initial twin")
def test_the_initial_twin_arrives(live: Live, provisioned: Device) -> None:
    with live.connected(provisioned) as client:
        twin = client.get_twin()
    assert (twin["desired"]["interval"], twin["desired"]["$version"]) == (5, 1)
    assert "tags" not in twin
    assert live.twin(provisioned.common_name)["tags"] == {"room": "lab"}


@pytest.mark.feature("reported properties")
def test_reported_properties_merge_and_count_up(live: Live, provisioned: Device) -> None:
    with live.connected(provisioned) as client:
        before = client.get_twin()["reported"]["$version"]
        client.patch_twin_reported_properties({"version": "1.2", "battery": 90})
        client.patch_twin_reported_properties({"battery": None})
    reported = live.twin(provisioned.common_name)["properties"]["reported"]
    assert (reported["version"], "battery" in reported, reported["$version"]) == ("1.2", False, before + 2)


@pytest.mark.feature("desired properties")
def test_a_change_of_desired_properties_is_told_to_a_device_that_listens(live: Live, provisioned: Device) -> None:
    patches: Queue[dict[str, Any]] = Queue()
    with live.connected(provisioned) as client:
        client.on_twin_desired_properties_patch_received = patches.put
        before = client.get_twin()["desired"]["$version"]
        patch = {"properties": {"desired": {"interval": 9}}}
        assert live.hub("PATCH", f"/twins/{provisioned.common_name}", patch).status_code == 200
        assert told(patches) == {"interval": 9, "$version": before + 1}


@pytest.mark.feature("twins over HTTPS")
def test_a_twin_that_has_changed_is_not_overwritten(live: Live, provisioned: Device) -> None:
    path, patch = f"/twins/{provisioned.common_name}", {"tags": {"room": "hall"}}
    etag = live.twin(provisioned.common_name)["etag"]
    assert live.hub("PATCH", path, patch, If_Match=f'"{etag}"').status_code == 200
    assert live.hub("PATCH", path, patch, If_Match=f'"{etag}"').status_code == 412
    assert live.twin(provisioned.common_name)["etag"] != etag


@pytest.mark.feature("direct methods")
def test_a_device_answers_a_method_and_is_not_found_when_it_has_gone(live: Live, provisioned: Device) -> None:
    path = f"/twins/{provisioned.common_name}/methods"
    call = {"methodName": "blink", "payload": {"times": 3}, "responseTimeoutInSeconds": 10}
    with live.connected(provisioned) as client:
        responder(client, lambda request: (200, {"done": request.payload["times"]}))
        answer = live.hub("POST", path, call)
        assert (answer.status_code, answer.json()) == (200, {"status": 200, "payload": {"done": 3}})
    time.sleep(1)  # a service may be a moment behind
    assert live.hub("POST", path, call).status_code == 404
