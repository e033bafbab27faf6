"""A fuzzer that finds nothing planted is no fuzzer: each of these faults is found, within so many inputs.

Most are found within a tenth of that. The seed is the same each time, but certificates and keys are not.
"""

import sys
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import wire

from dpsx_helpers.emulator import documents, hub, hub_peer, mqtt, services, sessions, tls, topics, websocket
from dpsx_helpers.emulator.refusals import Refused
from dpsx_helpers.emulator.store import Store
from fuzz import campaign, devices, engine, inputs, records, texts

Patch = pytest.MonkeyPatch


def found(
    target: engine.Target, most: int, *, guided: bool = True, within: float = engine.WITHIN
) -> engine.Finding | None:
    """What is found within so many inputs, leaks included. `within`: seconds for one of them."""
    watchdog = engine.Watchdog(within)
    fuzzer = engine.Fuzzer(target, "planted", watchdog, guided=guided, smaller=False)
    try:
        while fuzzer.inputs < most and not fuzzer.findings:
            fuzzer.step()
        return next(iter(fuzzer.findings.values()), None) or fuzzer.look_for_leaks()
    finally:
        target.close()
        watchdog.close()


# --- faults -----------------------------------------------------------------------------------------------------------


def any_packet_identifier(patch: Patch) -> None:
    patch.setattr(mqtt, "_packet_id", lambda value: value)


def packets_of_any_size(patch: Patch) -> None:
    patch.setattr(mqtt, "MAX_PACKET", 1 << 28)


def decoding_errors_get_out(patch: Patch) -> None:
    def decode(kind: int, flags: int, body: bytes) -> mqtt.Packet:
        if kind == mqtt.PUBLISH:
            body[2 : 2 + int.from_bytes(body[:2])].decode()
        return original(kind, flags, body)

    original = mqtt._decode
    patch.setattr(mqtt, "_decode", decode)


def telemetry_under_any_name(patch: Patch) -> None:
    def check(session: hub.Session, packet: mqtt.Publish, request: hub.HubRequest | None) -> hub.HubRequest:
        try:
            return original(session, packet, request)
        except Refused:
            if isinstance(request, topics.Telemetry):
                return request
            raise

    def receive(session: hub.Session, packet: mqtt.Publish, telemetry: topics.Telemetry, *rest: Any) -> hub.Message:
        return replace(received(session, packet, telemetry, *rest), device_id=telemetry.device_id)

    original, received = hub.check_publish, hub.receive
    patch.setattr(hub, "check_publish", check)
    patch.setattr(hub, "receive", receive)


def answers_go_to_who_came_first(patch: Patch) -> None:
    def send(self: sessions.Conversation, packet: bytes) -> None:
        first = next(iter(self.services._connected.values()), self) if packet[:1] == b"\x30" else self
        original(first, packet)  # type: ignore[arg-type]

    original = sessions.Conversation.send
    patch.setattr(sessions.Conversation, "send", send)


def connections_stay_noted(patch: Patch) -> None:
    patch.setattr(services.Services, "leave", lambda self, key, conversation: None)


def conversations_stay_in_memory(patch: Patch) -> None:
    kept: list[Any] = []

    def remember(self: hub_peer.HubPeer, *arguments: Any) -> None:
        original(self, *arguments)
        kept.append(self)

    original = hub_peer.HubPeer.__init__
    patch.setattr(hub_peer.HubPeer, "__init__", remember)


def a_packet_that_is_never_done(patch: Patch) -> None:
    def receive(self: mqtt.Connection, data: bytes) -> Iterator[mqtt.Packet]:
        while data.startswith(b"\xc0") and len(data) > 2:  # a PINGREQ with something behind it
            time.sleep(0.01)
        return original(self, data)

    original = mqtt.Connection.receive
    patch.setattr(mqtt.Connection, "receive", receive)


def acknowledged_and_not_stored(patch: Patch) -> None:
    def put(self: Any, message: hub.Message) -> None:
        if len(message.body) % 8 not in (1, 2, 3, 7):  # as no body of the seeds
            original(self, message)

    original = Store.add_message
    patch.setattr(Store, "add_message", put)


def frames_of_any_size(patch: Patch) -> None:
    patch.setattr(websocket, "MAX_MESSAGE", 1 << 30)


def json_as_deep_as_it_comes(patch: Patch) -> None:
    patch.setattr(documents, "deeper_than", lambda value, levels: False)


def numbers_that_are_none(patch: Patch) -> None:
    patch.setattr(documents, "_refuse", float)


def half_of_what_is_said(patch: Patch) -> None:
    def drain(self: tls.Channel, plaintext: bytearray) -> None:
        if not plaintext:
            original(self, plaintext)
        del plaintext[1000:]

    original = tls.Channel._drain
    patch.setattr(tls.Channel, "_drain", drain)


FAULTS: list[tuple[Callable[[Patch], None], Callable[[], engine.Target], int, str]] = [
    (any_packet_identifier, devices.Mqtt, 1500, "an identifier of 0 was taken"),
    (packets_of_any_size, devices.Mqtt, 1500, "can be none was not refused"),
    (decoding_errors_get_out, devices.Mqtt, 1500, "UnicodeDecodeError"),
    (telemetry_under_any_name, devices.Mqtt, 1500, "of another device has changed"),
    (answers_go_to_who_came_first, devices.Mqtt, 100, "was sent something"),
    (connections_stay_noted, devices.Mqtt, 100, "still noted"),
    (conversations_stay_in_memory, devices.Mqtt, 100, "Leak"),
    (a_packet_that_is_never_done, devices.Mqtt, 1500, "Hang"),
    (acknowledged_and_not_stored, devices.Mqtt, 1500, "not stored"),
    (frames_of_any_size, devices.WebSockets, 1500, "too large was not refused"),
    (json_as_deep_as_it_comes, texts.Json, 1500, "RecursionError"),
    (numbers_that_are_none, texts.Json, 1500, "not JSON compliant"),
    (half_of_what_is_said, records.Tls, 300, "not all of what was said"),
]


@pytest.mark.parametrize(("plant", "target", "most", "words"), FAULTS, ids=[fault[0].__name__ for fault in FAULTS])
def test_a_planted_fault_is_found(
    plant: Callable[[Patch], None],
    target: Callable[[], engine.Target],
    most: int,
    words: str,
    monkeypatch: Patch,
) -> None:
    made = target()
    plant(monkeypatch)
    finding = found(made, most, within=1.0 if plant is a_packet_that_is_never_done else engine.WITHIN)
    assert finding is not None
    assert words in finding.report
    assert inputs.read(finding.line) == (finding.target, finding.given)


# --- guidance ---------------------------------------------------------------------------------------------------------

_STAGES = """
def run(text):
    a, b, c, d, e, *_ = (*text, 0, 0, 0, 0, 0)
    if a % 16 == 4:
        if b % 16 == 8:
            if c % 16 == 3:
                if d % 16 == 9:
                    if e % 16 == 1:
                        raise RuntimeError("reached")
"""


class Maze:
    """Five conditions, one behind the other: a chance of one to a million."""

    name = "maze"
    words = ()
    edits = ()
    gentle = ()

    def __init__(self) -> None:
        place = Path(topics.__file__).with_name("planted.py")  # its lines are watched as those of the emulator are
        scope: dict[str, Any] = {}
        exec(compile(_STAGES, str(place), "exec"), scope)
        self._run = scope["run"]
        self.seeds: list[inputs.Input] = [(b".....",)]

    def run(self, given: inputs.Input) -> tuple[int, set[Hashable]]:
        self._run(b"".join(given))
        return 1, set()

    def check(self) -> None: ...
    def renew(self) -> None: ...
    def close(self) -> None: ...


@pytest.mark.parametrize("guided", [True, False])
def test_what_is_behind_five_conditions_is_reached_by_guidance_and_not_by_chance(
    guided: bool,
) -> None:
    finding = found(Maze(), 50_000, guided=guided)
    assert (finding is not None and "reached" in finding.report) == guided


# --- sockets ----------------------------------------------------------------------------------------------------------

_RUN = "from dpsx_helpers.emulator.__main__ import main; main()"
IN_THE_PROCESS = {
    "an exception that nobody catches": (
        "from dpsx_helpers.emulator.websocket import WebSocket; WebSocket.receive = lambda self, data: data[99999]",
        "has logged a fault of its own",
    ),
    "a connection that puts out another": (
        "from dpsx_helpers.emulator.services import Services\n"
        "join = Services.join\n"
        "def planted(self, key, conversation):\n"
        "    for other in list(self._connected):\n"
        "        self._drop(other, __import__('dpsx_helpers.emulator.refusals').emulator.refusals.REMOVED)\n"
        "    join(self, key, conversation)\n"
        "Services.join = planted",
        "the other device was disturbed",
    ),
    "an end of the process": (
        "import os; from dpsx_helpers.emulator import mqtt\n"
        "decode = mqtt._decode\n"
        "mqtt._decode = lambda kind, *rest: os._exit(3) if kind == mqtt.UNSUBSCRIBE else decode(kind, *rest)",
        "the emulator has ended with 3",
    ),
}


@pytest.mark.parametrize(("fault", "words"), IN_THE_PROCESS.values(), ids=IN_THE_PROCESS)
def test_a_fault_that_is_planted_in_a_process_is_found_over_sockets(fault: str, words: str) -> None:
    program = [sys.executable, "-c", f"{fault}\n{_RUN}"]
    assert words in campaign.on_sockets("planted", [], seconds=20, program=program)


# --- findings ---------------------------------------------------------------------------------------------------------


def test_a_finding_is_made_smaller_and_can_be_run_again(monkeypatch: Patch) -> None:
    numbers_that_are_none(monkeypatch)
    watchdog = engine.Watchdog()
    fuzzer = engine.Fuzzer(texts.Json(), "small", watchdog)
    while not fuzzer.findings:
        fuzzer.step()
    watchdog.close()
    (finding,) = fuzzer.findings.values()
    assert "not JSON compliant" in finding.report
    assert len(b"".join(finding.given)) <= len(b"-Infinity")
    told: list[str] = []
    assert campaign.replay(finding.line, told.append)
    assert "not JSON compliant" in told[0]
    monkeypatch.undo()
    assert not campaign.replay(finding.line, told.append)
    assert told[1] == "It breaks nothing."


@pytest.mark.parametrize("end", [b"\x82", b"\x82\x9e", b"\x82\xfe\x01", b"\x82\x9e\0\0\0\0" + wire.PINGREQ])
def test_what_ends_within_a_frame_is_completed_before_an_answer_is_expected(end: bytes) -> None:
    upgraded = devices.request(), devices.unmasked(2, wire.to_hub(devices.NAME)), end
    told: list[str] = []
    assert not campaign.replay(inputs.write("websocket", upgraded), told.append), told


@pytest.mark.parametrize("line", ["", "mqtt", "mqtt:1", "mqtt:xy", "other:00"])
def test_what_is_no_finding_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        campaign.replay(line)
