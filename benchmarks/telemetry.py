"""Telemetry at QoS 1 over TLS, by paho: the emulator stores each message before its PUBACK, mosquitto none."""

import contextlib
import selectors
import ssl
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from paho.mqtt import client as paho

from benchmarks import machine, setting, together
from benchmarks.figures import Aim, Figure, Line, Samples, alternate
from benchmarks.peers import Server, mosquitto
from benchmarks.setting import Device
from benchmarks.together import Run, Signal
from dpsx_helpers.emulator import Emulator

NAME = "telemetry"
TITLE = "Telemetry at QoS 1"
ROUNDS = 7
NEEDS = ("mosquitto",)

MESSAGES, IN_FLIGHT = 20_000, 100  # in one round; of one connection
_CONNECTIONS = {1: 0.85, 10: 0.5, 100: 0.5}  # with the least part of mosquitto's pace that is aimed at
_CPU = 25.0  # microseconds for one message, the aim
_LET_IN_WITHIN = 30.0  # seconds


def measure(rounds: int) -> list[Line]:
    """One connection from one process, ten and a hundred from two."""
    lines: list[Line] = []
    with setting.folder() as folder, setting.emulator(folder / "emulator") as running, contextlib.ExitStack() as stack:
        (one,) = setting.make_devices(1, folder)
        devices = setting.named(one, max(_CONNECTIONS))
        setting.in_hub(running, devices)
        server, peer = Server.of(running), None
        if machine.program("mosquitto"):
            peer = stack.enter_context(mosquitto(folder / "mosquitto", running, [one.certificate_file]))
        for connections, part in _CONNECTIONS.items():
            lines += _measured(running, [server, peer] if peer else [server], devices[:connections], rounds, part)
    return lines


def _measured(running: Emulator, servers: list[Server], devices: list[Device], rounds: int, part: float) -> list[Line]:
    before = _stored(running)
    works = [partial(send, running, server, devices) for server in servers]
    results = alternate(rounds, *works)
    if (stored := _stored(running) - before) != (rounds + 1) * MESSAGES:
        raise RuntimeError(f"{(rounds + 1) * MESSAGES} messages were acknowledged, and {stored} are stored")
    return figures(len(devices), part, *results)


def figures(connections: int, part: float, ours: Sequence[Run], peer: Sequence[Run] = ()) -> list[Line]:
    """From the runs of MESSAGES messages over so many connections."""
    over = "one connection" if connections == 1 else f"{connections} connections"
    rates, costs = (_rates(peer), _costs(peer)) if peer else (None, None)
    least, most = Aim(part, of="comparison", at_least=True), Aim(_CPU)
    beside = "mosquitto, which stores nothing"
    return [
        Figure(f"messages stored before their PUBACK, {over}", "/s", _rates(ours), beside, rates, aim=least),
        Figure(f"server's processor time for one, {over}", "µs", _costs(ours), beside, costs, aim=most),
    ]


def _rates(runs: Sequence[Run]) -> Samples:
    return Samples.of(MESSAGES / run.seconds for run in runs)


def _costs(runs: Sequence[Run]) -> Samples:
    return Samples.of(run.cpu / MESSAGES * 1e6 for run in runs)


def send(running: Emulator, server: Server, devices: Sequence[Device]) -> Run:
    """Connect all, then let them send MESSAGES messages between them."""
    host, each = running.overview.host, MESSAGES // len(devices)
    shares = [devices] if len(devices) == 1 else [devices[0::2], devices[1::2]]
    return together.run(server, [(_send_all, (server, host, share, each)) for share in shares])


def _stored(running: Emulator) -> int:
    return len(running.messages())


# --- one client process -----------------------------------------------------------------------------------------------


def _send_all(server: Server, hub: str, devices: Sequence[Device], messages: int, signal: Signal) -> None:
    with contextlib.ExitStack() as clients, selectors.DefaultSelector() as selector:
        senders = [_Sender(server, hub, device, messages) for device in devices]
        for sender in senders:
            clients.callback(sender.client.disconnect)
            selector.register(sender.client.socket(), selectors.EVENT_READ, sender)
        signal.wait()
        for sender in senders:
            sender.begin()
        while selector.get_map():
            for key, _ in selector.select():
                if key.data.read():
                    selector.unregister(key.fileobj)
        signal.done()


class _Sender:
    """One client of paho: so many messages in flight, the next with each acknowledgement."""

    def __init__(self, server: Server, hub: str, device: Device, messages: int) -> None:
        self.client: Any = paho.Client(device.name, protocol=paho.MQTTv311, reconnect_on_failure=False)
        self.client.max_inflight_messages_set(IN_FLIGHT)
        self.client.username_pw_set(f"{hub}/{device.name}/?api-version=2021-04-12")
        context = ssl.create_default_context(cafile=str(server.ca))
        context.load_cert_chain(device.certificate_file, device.key_file)
        self.client.tls_set_context(context)
        self._topic = f"devices/{device.name}/messages/events/"
        self._to_send = self._to_hear = messages
        connected: list[int] = []
        self.client.on_connect = lambda *said: connected.append(said[-1])
        self.client.connect(server.host, server.port)
        deadline = time.monotonic() + _LET_IN_WITHIN
        while not connected and time.monotonic() < deadline:
            self.client.loop(0.1)
        if connected != [0]:
            raise RuntimeError(f"{device.name} was not let in: {connected}")
        self.client.on_publish = self._acknowledged

    def begin(self) -> None:
        for _ in range(min(IN_FLIGHT, self._to_send)):
            self._send()

    def _send(self) -> None:
        self._to_send -= 1
        self.client.publish(self._topic, b"Message in a bottle, number %06d" % self._to_send, qos=1)

    def _acknowledged(self, *_: object) -> None:
        self._to_hear -= 1
        if self._to_send:
            self._send()

    def read(self) -> bool:
        """Read what has come; whether everything is acknowledged."""
        sock = self.client.socket()
        while True:
            if self.client.loop_read() != paho.MQTT_ERR_SUCCESS:
                raise RuntimeError("the connection was lost")
            if self.client.want_write():
                self.client.loop_write()
            if not sock.pending():
                return not self._to_hear
