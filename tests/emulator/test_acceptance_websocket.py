"""MQTT over WebSocket on a real emulator process: Microsoft's unmodified client on 443, paho on a port of its own."""

import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from azure.iot.device import IoTHubDeviceClient, Message, ProvisioningDeviceClient
from clients import credentials, enroll, register, trusting
from paho.mqtt import client as mqtt
from pki import Device, make_device
from processes import RunningEmulator

PATH = "/$iothub/websocket"


@pytest.fixture(scope="module")
def on_443(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEmulator]:
    """An emulator with a WebSocket where the SDK looks for it."""
    running = RunningEmulator(tmp_path_factory.mktemp("websocket") / "state")
    if running.emulator.overview.ws_port is None and not os.environ.get("CI"):
        running.close()
        pytest.skip("port 443, which the SDK's websockets need, takes rights that this user does not have")
    assert running.emulator.overview.ws_port == 443
    yield running
    running.close()


def test_the_sdk_goes_by_websocket(on_443: RunningEmulator, tmp_path: Path) -> None:
    device = make_device(tmp_path, "websocket-01")
    enroll(on_443, device, initialTwin={"properties": {"desired": {"interval": 5}}})
    with trusting(on_443):
        result = ProvisioningDeviceClient.create_from_x509_certificate(
            provisioning_host=on_443.host,
            registration_id="websocket-01",
            id_scope=on_443.emulator.overview.id_scope,
            x509=credentials(device),
            websockets=True,
        ).register()
        hub: Any = IoTHubDeviceClient.create_from_x509_certificate(
            x509=credentials(device),
            hostname=result.registration_state.assigned_hub,
            device_id=result.registration_state.device_id,
            websockets=True,
        )
        received: Queue[bytes] = Queue()
        hub.on_message_received = lambda message: received.put(message.data)
        hub.connect()
        assert hub.get_twin()["desired"]["interval"] == 5
        sizes = (0, 1, 125, 126, 65_535, 65_536, 250_000)
        for size in sizes:
            hub.send_message(Message("x" * size))
        on_443.emulator.send("websocket-01", "y" * 60_000)
        assert received.get(timeout=10) == b"y" * 60_000
        hub.shutdown()
    assert [len(message["body"]) for message in on_443.messages("websocket-01")] == list(sizes)
    assert on_443.log().count("upgraded to a WebSocket") == 2


def test_the_overview_names_the_port_and_status_does_too(on_443: RunningEmulator) -> None:
    assert "MQTT over WebSocket     port 443, path /$iothub/websocket" in on_443.overview


# --- on a port of its own ---------------------------------------------------------------------------------------------


class Paho:
    """paho-mqtt over WebSocket, connected as the device to its hub."""

    def __init__(self, emulator: RunningEmulator, device: Device, path: str = PATH, protocol: str = "mqtt") -> None:
        overview = emulator.emulator.overview
        self.results: Queue[int] = Queue()
        self.acknowledged: Queue[int] = Queue()
        self.ended: Queue[int] = Queue()
        self.client = mqtt.Client(device.common_name, clean_session=True, transport="websockets")
        self.client.username_pw_set(f"{emulator.host}/{device.common_name}/?api-version=2021-04-12")
        self.client.ws_set_options(path, headers=lambda head: {**head, "Sec-Websocket-Protocol": protocol})
        self.client.tls_set(
            str(overview.ca_file),
            str(device.certificate_file),
            str(device.key_file),
            tls_version=ssl.PROTOCOL_TLSv1_2,
        )
        self.client.on_connect = lambda _, __, ___, code: self.results.put(code)
        self.client.on_publish = lambda _, __, number: self.acknowledged.put(number)
        self.client.on_disconnect = lambda _, __, code: self.ended.put(code)
        assert overview.ws_port is not None
        self.client.connect(emulator.host, overview.ws_port)
        self.client.loop_start()

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture(scope="module")
def anywhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEmulator]:
    """An emulator with a WebSocket on any port."""
    running = RunningEmulator(tmp_path_factory.mktemp("anywhere") / "state", None, "--ws-port", "0")
    yield running
    running.close()


@pytest.mark.parametrize("protocol", ["mqtt", "MQTT"])
@pytest.mark.parametrize("query", ["", "?iothub-no-client-cert=true"])
def test_a_client_comes_in_by_any_spelling(
    anywhere: RunningEmulator, tmp_path: Path, protocol: str, query: str
) -> None:
    device = make_device(tmp_path, f"paho-{protocol == protocol.upper()}-{len(query)}")
    enroll(anywhere, device)
    register(anywhere, device)
    client = Paho(anywhere, device, PATH + query, protocol)
    assert client.results.get(timeout=10) == 0
    client.client.publish(f"devices/{device.common_name}/messages/events/", "over a WebSocket", qos=1)
    client.acknowledged.get(timeout=10)
    client.close()
    assert [message["body"] for message in anywhere.messages(device.common_name)] == ["over a WebSocket"]


@pytest.mark.parametrize(("path", "protocol"), [("/mqtt", "mqtt"), (PATH, "amqp")])
def test_anything_else_is_a_400_and_in_the_log(
    anywhere: RunningEmulator, tmp_path: Path, path: str, protocol: str
) -> None:
    with pytest.raises(mqtt.WebsocketConnectionError):
        Paho(anywhere, make_device(tmp_path, "nobody"), path, protocol)
    assert "WebSocket refused: " in anywhere.log()
    assert "speak MQTT in binary frames on a WebSocket at /$iothub/websocket" in anywhere.log()


def test_stopping_says_goodbye_to_a_websocket_too(start: Callable[..., RunningEmulator], tmp_path: Path) -> None:
    emulator = start("--ws-port", "0")
    device = make_device(tmp_path, "farewell")
    enroll(emulator, device)
    register(emulator, device)
    client = Paho(emulator, device)
    assert client.results.get(timeout=10) == 0
    assert emulator.terminate() == 0
    client.ended.get(timeout=10)
    client.close()


def test_none_means_none(start: Callable[..., RunningEmulator]) -> None:
    emulator = start("--ws-port", "none")
    assert emulator.emulator.overview.ws_port is None
    assert "MQTT over WebSocket     not served" in emulator.overview
