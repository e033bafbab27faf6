"""MQTT over WebSocket on a real emulator process: Microsoft's unmodified client on 443, paho on a port of its own."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from azure.iot.device import IoTHubDeviceClient, Message, ProvisioningDeviceClient
from clients import bodies, credentials, register, trusting
from connections import ANSWER_WITHIN, WEBSOCKET, create, enrolled, on_the_wire
from paho.mqtt.client import WebsocketConnectionError
from pki import make_device
from processes import RunningEmulator, free_host, run_command


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
    device = enrolled(on_443, tmp_path, "websocket-01", initialTwin={"properties": {"desired": {"interval": 5}}})
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


def test_where_443_cannot_be_bound_the_rest_is_served_and_an_explicit_443_is_one_line(
    start: Callable[..., RunningEmulator], tmp_path: Path
) -> None:
    host = free_host()
    why = "needs rights that this user does not have"
    with ExitStack() as stack:
        with suppress(PermissionError):  # to a user who may not take the port it is denied already
            stack.enter_context(socket.create_server((host, 443)))
            why = "cannot be used (taken by"
        ended = run_command("run", "--state-dir", str(tmp_path / "other"), "--host", host, "--ws-port", "443")
        emulator = start(host=host)
    assert emulator.emulator.overview.ws_port is None
    assert "MQTT over WebSocket     not served" in emulator.overview
    register(emulator, enrolled(emulator, tmp_path, "without-websocket"))
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"Port 443 on {host} {why}")


# --- on a port of its own ---------------------------------------------------------------------------------------------


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
    device = create(anywhere, tmp_path, f"paho-{protocol == protocol.upper()}-{len(query)}")
    with on_the_wire(anywhere, device, websocket=WEBSOCKET + query, subprotocol=protocol) as wire:
        assert wire.code == 0
        wire.publish(f"devices/{device.common_name}/messages/events/", "over a WebSocket")
    assert bodies(anywhere, device.common_name) == ["over a WebSocket"]


@pytest.mark.parametrize(("path", "protocol"), [("/mqtt", "mqtt"), (WEBSOCKET, "amqp")])
def test_anything_else_is_a_400_and_in_the_log(
    anywhere: RunningEmulator, tmp_path: Path, path: str, protocol: str
) -> None:
    device = make_device(tmp_path, "nobody")
    with pytest.raises(WebsocketConnectionError), on_the_wire(anywhere, device, websocket=path, subprotocol=protocol):
        pass
    assert "WebSocket refused: " in anywhere.log()
    assert "speak MQTT in binary frames on a WebSocket at /$iothub/websocket" in anywhere.log()


def test_stopping_says_goodbye_to_a_websocket_too(start: Callable[..., RunningEmulator], tmp_path: Path) -> None:
    emulator = start("--ws-port", "0")
    device = create(emulator, tmp_path, "farewell")
    with on_the_wire(emulator, device, websocket=WEBSOCKET) as wire:
        assert wire.code == 0
        assert emulator.terminate() == 0
        wire.gone.get(timeout=ANSWER_WITHIN)


def test_none_means_none(start: Callable[..., RunningEmulator]) -> None:
    emulator = start("--ws-port", "none")
    assert emulator.emulator.overview.ws_port is None
    assert "MQTT over WebSocket     not served" in emulator.overview
