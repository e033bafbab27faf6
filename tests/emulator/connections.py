"""Devices on plain connections to DPS and hub: unlike those of an SDK, they do nothing by themselves."""

import json
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Queue
from socket import create_connection
from typing import Any, TypeVar

import wire
from clients import enroll
from paho.mqtt import client as paho
from pki import Device, make_device
from processes import RunningEmulator
from rest import ask, done

ANSWER_WITHIN = 20.0  # seconds for what another process has to send
WEBSOCKET = "/$iothub/websocket"
_Kind = TypeVar("_Kind", bound=wire.Sent)


# --- what the service side makes for them -----------------------------------------------------------------------------


def identity(device: Device, **fields: Any) -> dict[str, Any]:
    """The body that makes a device with the thumbprint of its certificate."""
    thumbprints = {"primaryThumbprint": device.thumbprint, "secondaryThumbprint": None}
    return {
        "deviceId": device.common_name,
        "authentication": {"type": "selfSigned", "x509Thumbprint": thumbprints},
        **fields,
    }


def create(emulator: RunningEmulator, directory: Path, device_id: str, **fields: Any) -> Device:
    """A device in the hub, made by the service."""
    device = make_device(directory, device_id)
    done(ask(emulator, "PUT", f"/devices/{device_id}", identity(device, **fields)))
    return device


def enrolled(emulator: RunningEmulator, directory: Path, name: str, **fields: Any) -> Device:
    """A device that may register."""
    device = make_device(directory, name)
    enroll(emulator, device, **fields)
    return device


def provisioned(emulator: RunningEmulator, directory: Path, name: str, **fields: Any) -> Device:
    """A device that has registered."""
    device = enrolled(emulator, directory, name, **fields)
    with at_dps(emulator, device) as wire:
        assert wire.provision()["status"] == "assigned"
    return device


# --- connections ------------------------------------------------------------------------------------------------------


def hub_user(emulator: RunningEmulator, device: Device, hub: str | None = None) -> str:
    """The user name for a hub, the first one unless another is named."""
    return f"{hub or emulator.host}/{device.common_name}/?api-version=2021-04-12"


def paho_client(emulator: RunningEmulator, device: Device, user_name: str, **more: Any) -> Any:
    """A client of paho with the certificate of the device, not connected yet."""
    client = paho.Client(device.common_name, protocol=paho.MQTTv311, reconnect_on_failure=False, **more)
    client.username_pw_set(user_name)
    context = ssl.create_default_context(cafile=str(emulator.emulator.overview.ca_file))
    context.load_cert_chain(device.certificate_file, device.key_file)
    client.tls_set_context(context)
    return client


class Wire:
    """A connection over MQTT that does nothing by itself: what comes waits in `messages`, as (topic, payload).

    `code` is that of the CONNACK. `react` and `acknowledged` may be replaced; they run in the thread that reads.
    """

    def __init__(
        self,
        emulator: RunningEmulator,
        device: Device,
        user_name: str,
        *,
        websocket: str | None = None,
        subprotocol: str = "mqtt",
    ) -> None:
        self.messages: Queue[tuple[str, bytes]] = Queue()
        self.gone: Queue[int] = Queue()
        self.react: Callable[[str, bytes], object] = lambda topic, payload: self.messages.put((topic, payload))
        self.acknowledged: Callable[[int], object] = lambda number: self._answered.put(number)
        self._answered: Queue[int] = Queue()
        overview = emulator.emulator.overview
        transport, port = ("tcp", overview.mqtt_port) if websocket is None else ("websockets", overview.ws_port)
        self._client = paho_client(emulator, device, user_name, transport=transport)
        if websocket is not None:
            self._client.ws_set_options(websocket, lambda head: head | {"Sec-Websocket-Protocol": subprotocol})
        self._client.on_connect = lambda client, userdata, flags, code: self._answered.put(code)
        self._client.on_subscribe = lambda client, userdata, number, granted: self._answered.put(number)
        self._client.on_publish = lambda client, userdata, number: self.acknowledged(number)
        self._client.on_message = lambda client, userdata, message: self.react(message.topic, message.payload)
        self._client.on_disconnect = lambda client, userdata, code: self.gone.put(code)
        self._client.connect(emulator.host, port)
        self._client.loop_start()
        self.code = self._answered.get(timeout=ANSWER_WITHIN)

    def subscribe(self, topic: str) -> None:
        self._wait_for(self._client.subscribe(topic, 1)[1])

    def say(self, topic: str, payload: str = "", *, qos: int = 0) -> int:
        """Send, and do not wait for anything. The number of the packet."""
        return int(self._client.publish(topic, payload, qos).mid)

    def publish(self, topic: str, payload: str = "") -> None:
        """Send at QoS 1, and wait until it is acknowledged."""
        self._wait_for(self.say(topic, payload, qos=1))

    def _wait_for(self, number: int) -> None:
        while self._answered.get(timeout=ANSWER_WITHIN) != number:
            pass

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextmanager
def on_the_wire(emulator: RunningEmulator, device: Device, hub: str | None = None, **more: Any) -> Iterator[Wire]:
    """A device on its connection to the hub, the first one unless another is named."""
    wire = Wire(emulator, device, hub_user(emulator, device, hub), **more)
    try:
        yield wire
    finally:
        wire.close()


class Sender:
    """A plain MQTT client that keeps sending numbered messages and remembers which were acknowledged."""

    def __init__(self, emulator: RunningEmulator, device: Device) -> None:
        self.acknowledged: set[str] = set()
        self._sent: dict[int, str] = {}
        self._client = paho_client(emulator, device, hub_user(emulator, device))
        self._client.on_publish = self._on_publish
        self._client.connect(emulator.host, 8883)
        self._topic = f"devices/{device.common_name}/messages/events/"

    def _on_publish(self, client: object, userdata: object, number: int) -> None:
        self.acknowledged.add(self._sent[number])

    def send_until(self, gone: Callable[[], bool], at_once: int = 20) -> None:
        count = 0
        while not gone():
            for _ in range(at_once):
                body = f"message {count}"
                number = self._client.publish(self._topic, body, qos=1).mid
                self._sent[number] = body
                count += 1
            if self._client.loop(timeout=0.01) != paho.MQTT_ERR_SUCCESS:
                break


Answer = tuple[int, int | None, dict[str, Any]]  # status, retry-after, document


class DpsWire(Wire):
    """A connection to DPS. It registers when it is told to."""

    def __init__(self, emulator: RunningEmulator, device: Device, api_version: str = "2019-03-31") -> None:
        scope, name = emulator.emulator.overview.id_scope, device.common_name
        super().__init__(emulator, device, f"{scope}/registrations/{name}/api-version={api_version}")
        if self.code == 0:
            self.subscribe("$dps/registrations/res/#")

    def ask_to_register(self, number: int = 1, payload: str = "") -> int:
        """Send, and do not wait for anything. The number of the packet."""
        return self.say(f"$dps/registrations/PUT/iotdps-register/?$rid={number}", payload, qos=1)

    def register(self, number: int = 1, payload: str = "") -> Answer:
        self.ask_to_register(number, payload)
        return self.answer(number)

    def poll(self, operation: str, number: int = 2) -> Answer:
        self.say(f"$dps/registrations/GET/iotdps-get-operationstatus/?$rid={number}&operationId={operation}", qos=1)
        return self.answer(number)

    def answer(self, number: int) -> Answer:
        topic, payload = self.messages.get(timeout=ANSWER_WITHIN)
        match = re.fullmatch(rf"\$dps/registrations/res/(\d+)/\?\$rid={number}(?:&retry-after=(\d+))?", topic)
        assert match is not None, topic
        return int(match[1]), int(match[2]) if match[2] else None, json.loads(payload)

    def outcome(self, payload: str = "") -> tuple[int, dict[str, Any]]:
        """Register, and poll once where that is asked for; status and document of the last answer."""
        status, _, document = self.register(payload=payload)
        if status == 202:
            status, _, document = self.poll(document["operationId"])
        return status, document

    def provision(self) -> dict[str, Any]:
        """Register to the end; the state of the registration."""
        status, _, document = self.register()
        assert status == 202, document
        status, _, document = self.poll(document["operationId"])
        assert status == 200, document
        return dict(document["registrationState"])


@contextmanager
def at_dps(emulator: RunningEmulator, device: Device, **more: Any) -> Iterator[DpsWire]:
    wire = DpsWire(emulator, device, **more)
    try:
        yield wire
    finally:
        wire.close()


class PacketLine:
    """A connection over MQTT that sends what it is told, and reads one packet at a time. OSError and EOFError when it
    is gone.
    """

    def __init__(self, emulator: RunningEmulator, device: Device, connect: bytes, *filters: str) -> None:
        context = ssl.create_default_context(cafile=str(emulator.state_dir / "ca.pem"))
        context.load_cert_chain(device.certificate_file, device.key_file)
        plain = create_connection((emulator.host, 8883), timeout=ANSWER_WITHIN)
        try:
            self._socket = context.wrap_socket(plain, server_hostname=emulator.host)
        except BaseException:
            plain.close()
            raise
        self._read = self._socket.makefile("rb")
        self.send(connect)
        if not self.expect(wire.Connack).session_present and filters:
            self.send(wire.subscribe(*filters))
            self.expect(wire.Suback)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def next(self) -> wire.Sent:
        first, length, shift = self._exactly(1), 0, 0
        head = first
        while not shift or head[-1] & 0x80:
            head += self._exactly(1)
            length |= (head[-1] & 0x7F) << shift
            shift += 7
        (packet,) = wire.read(head + self._exactly(length))
        return packet

    def expect(self, kind: type[_Kind]) -> _Kind:
        packet = self.next()
        assert isinstance(packet, kind), packet
        return packet

    def _exactly(self, size: int) -> bytes:
        data = self._read.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def close(self) -> None:
        with suppress(OSError):
            self._read.close()
            self._socket.close()
