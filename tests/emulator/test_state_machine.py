"""Any sequence of packets, of several devices, cut and joined anywhere, with the acts of the service side in between.

A model of each device says after every step what is stored of it and what it was sent. With DPSX_TEST_EXAMPLES=2000 in
the environment (and pytest's --timeout=0) it tries that many sequences, other ones each time, longer ones, and shrinks
one that fails.
"""

import json
import os
import random
import sqlite3
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import wire
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from dpsx_helpers.emulator import refusals, scope
from dpsx_helpers.emulator.commands import MAX_DELIVERIES, MAX_PENDING
from dpsx_helpers.emulator.faults import KINDS, Fault, Stage
from dpsx_helpers.emulator.refusals import Answer, Refused

EXAMPLES = int(os.environ.get("DPSX_TEST_EXAMPLES", "0"))
SETTINGS = settings(
    max_examples=EXAMPLES or 100,
    stateful_step_count=90 if EXAMPLES else 40,
    derandomize=not EXAMPLES,
    phases=[Phase.generate, Phase.shrink] if EXAMPLES else [Phase.generate],  # to shrink takes minutes
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)
NAMES = ("north", "south", "east")
KEYED = "east"  # has keys, unless DPS has provisioned it
KEY = b64encode(bytes(range(32))).decode()
COMMANDS = "commands"  # the filter of a device's own messages, whatever its name is
FILTERS = (COMMANDS, wire.TWIN, wire.DESIRED, wire.METHODS)
CLOSES = (Answer.CONNACK, Answer.CLOSE)


# --- the model --------------------------------------------------------------------------------------------------------


@dataclass
class Waiting:
    """A cloud-to-device message in the queue."""

    number: int
    body: bytes
    expires: float
    deliveries: int = 0

    def live(self, now: float) -> bool:
        return now < self.expires and self.deliveries < MAX_DELIVERIES


@dataclass
class Enrolled:
    own: bool  # its certificate is the one that the device has
    enabled: bool
    resets: bool  # a device that registers again starts with a new twin
    desired: dict[str, Any]


@dataclass
class Registered:
    status: str
    hub: str | None
    number: int  # which of the device's registrations this is
    held_until: float


@dataclass
class Identity:
    """The device in the hub, with its twin."""

    born: int
    keyed: bool
    desired: dict[str, Any]
    status: str = "enabled"
    kept: dict[str, int] = field(default_factory=dict)  # subscriptions
    reported: dict[str, Any] = field(default_factory=dict)
    desired_version: int = 1
    reported_version: int = 1


def kept_of(identity: Identity) -> tuple[int | None, list[str]]:
    """The quality of service of the one, the names of the others."""
    names = {wire.TWIN: "TWIN", wire.DESIRED: "DESIRED", wire.METHODS: "METHODS"}
    return identity.kept.get(COMMANDS), sorted(names[topic] for topic in identity.kept if topic != COMMANDS)


@dataclass
class Known:
    """All that is stored of one device."""

    name: str
    enrolled: Enrolled | None = None
    registered: Registered | None = None
    identity: Identity | None = None
    queue: list[Waiting] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)

    def live(self, now: float) -> list[Waiting]:
        return [one for one in self.queue if one.live(now)]

    def record(self, now: float) -> tuple[Any, ...]:
        """The same that `stored` reads from the database."""
        enrolled, registered, identity = self.enrolled, self.registered, self.identity
        return (
            enrolled and (enrolled.own, enrolled.enabled),
            registered and (registered.status, registered.hub),
            identity and (identity.status, identity.keyed, *kept_of(identity)),
            identity and (identity.desired, identity.desired_version, identity.reported, identity.reported_version),
            [(one.body, one.deliveries) for one in self.live(now)],
            self.messages,
        )


@dataclass
class Step:
    """A packet as bytes, and what it means."""

    kind: str
    data: bytes
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(repr=False, eq=False)
class Side:
    """One connection: as the emulator has it, and as the model sees it."""

    line: wire.Line
    owner: str
    shown: bool  # the certificate of its owner
    label: str
    at: str = ""  # "", "dps" or "hub"
    name: str = ""  # who it was let in as
    closed: bool = False
    in_order: bool = False
    subscribed: bool = False  # to the answers of DPS
    filters: dict[str, int] = field(default_factory=dict)
    clean: bool = True
    born: int = 0
    will: bytes | None = None
    begins_after: int = 0
    in_flight: dict[int, int] = field(default_factory=dict)
    packet_ids: int = 0
    calls: dict[str, "Asked"] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    sent: list[tuple[Any, ...]] = field(default_factory=list)
    # what was composed, and how much of it the emulator has got
    stream: bytes = b""
    steps: list[tuple[int, Step]] = field(default_factory=list)
    given: int = 0

    def __repr__(self) -> str:
        return f"{self.label} of {self.owner}"


@dataclass(repr=False, eq=False)
class Asked:
    """A direct method that was called."""

    called: wire.Called
    expected: list[Any] = field(default_factory=list)
    forgotten: bool = False


class Model:
    """What must become of it all. It knows rows by their names and no code of the emulator."""

    def __init__(self) -> None:
        self.known = {name: Known(name) for name in NAMES}
        self.faults: list[Fault] = []
        self.connected: dict[str, Side] = {}  # whom a newer connection throws out
        self.there: dict[str, Side] = {}
        self.now = 0.0
        self.births = self.registrations = self.sent_commands = 0
        self.undecided: set[bytes] = set()  # last words of devices that are gone

    # --- what is common ---

    def refuse(self, side: Side, row: str) -> None:
        if side.closed:
            return
        side.refused.append(row)
        refusal = refusals.ALL[row]
        if refusal.answer is Answer.CONNACK:
            side.sent.append(("connack", refusal.status, 0))
        side.closed = refusal.answer in CLOSES

    def fault(self, stage: Stage, name: str) -> Fault | None:
        """The fault that acts: one of the device's own before one for all."""
        acting = [one for one in self.faults if KINDS[one.kind].stage is stage]
        own = [one for one in acting if one.device == name]
        found = next(iter(own or [one for one in acting if one.device is None]), None)
        if found is not None and found.left is not None:
            self.faults.remove(found)
        return found

    def take(self, side: Side, step: Step) -> None:
        """A packet is complete."""
        if side.closed:
            return
        if step.kind == "mqtt 5" and not side.at:
            self.refuse(side, "other-protocol-version")
        elif step.kind == "mqtt 5" or step.kind == "garbage" or ("login" in step.facts) == bool(side.at):
            # Of another version it is no CONNECT at all, wherever it comes: its own answer goes before the state.
            self.refuse(side, "other-protocol-version" if step.kind == "mqtt 5" else "protocol-violation")
        elif not side.at:
            self.connect(side, step)
        else:
            (self.at_dps if side.at == "dps" else self.at_hub)(side, step)

    def also(self, side: Side, step: Step) -> bool:
        """What means the same at DPS and at the hub."""
        match step.kind:
            case "ping":
                side.sent.append(("pong",))
            case "disconnect":
                side.in_order = side.closed = True
            case "qos 2":
                self.refuse(side, "qos-2")
            case _:
                return False
        return True

    # --- CONNECT ---

    def connect(self, side: Side, step: Step) -> None:
        facts = step.facts
        if facts["login"] == "bad":
            self.refuse(side, "bad-login")
            return
        stage = Stage.DPS_CONNECT if facts["login"] == "dps" else Stage.HUB_CONNECT
        fault = self.fault(stage, facts["name"])
        row = KINDS[fault.kind].refusal.name if fault else facts.get("wrong", "")  # type: ignore[union-attr]
        row = row or (self.may_dps(side, facts) if facts["login"] == "dps" else self.may_hub(side, facts))
        if row:
            self.refuse(side, row)
            return
        side.at, side.name = facts["login"], facts["name"]
        if side.at == "hub":  # at DPS, both stay
            older = self.connected.pop(side.name, None)
            if older is not None:
                self.refuse(older, "evicted")
            self.connected[side.name] = side
        kept = self.known[side.name].identity if side.at == "hub" and not facts["clean"] else None
        side.sent.append(("connack", 0, int(kept is not None and bool(kept.kept))))
        if side.at == "hub":
            self.join(side, facts)

    def may_dps(self, side: Side, facts: dict[str, Any]) -> str:
        if facts["will"]:
            return "not-emulated"
        if not side.shown:
            return "" if facts["password"] else "no-certificate"
        return "" if facts["name"] == side.owner else "common-name-differs"

    def may_hub(self, side: Side, facts: dict[str, Any]) -> str:
        identity = self.known[facts["name"]].identity
        if identity is None:
            return "unknown-device"
        if facts["will"] == "bad":
            return "bad-will"
        if identity.keyed and facts["password"] != "good":
            return "token-not-valid"
        if not identity.keyed and not side.shown:
            return "no-certificate"
        if not identity.keyed and facts["name"] != side.owner:
            return "thumbprint-differs"
        return "" if identity.status == "enabled" else "device-disabled"

    def join(self, side: Side, facts: dict[str, Any]) -> None:
        identity = self.known[side.name].identity
        assert identity is not None
        self.there[side.name] = side
        side.clean, side.will, side.born = facts["clean"], facts["will"], identity.born
        if side.clean:
            identity.kept = {}
        else:
            side.filters |= identity.kept
            self.deliver(side)

    # --- DPS ---

    def at_dps(self, side: Side, step: Step) -> None:
        facts = step.facts
        if self.also(side, step) or step.kind == "puback":
            return
        match step.kind:
            case "subscribe" if facts["filters"] == [wire.RESPONSES]:
                side.subscribed = True
                side.sent.append(("suback", 1))
            case "subscribe":
                self.refuse(side, "unknown-filter")
            case "unsubscribe":
                side.subscribed = side.subscribed and wire.RESPONSES not in facts["filters"]
                side.sent.append(("unsuback",))
            case "large":
                self.refuse(side, "too-large")
            case _ if not side.subscribed:
                self.refuse(side, "not-subscribed")
            case "register":
                self.register(side, facts)
            case "poll":
                self.answer_dps(side, facts, self.poll(side, facts))
            case _:
                self.refuse(side, "unknown-topic")

    def answer_dps(self, side: Side, facts: dict[str, Any], row: str | int) -> None:
        """Acknowledge and answer: with a status, or with the row that refuses."""
        if facts["number"]:
            side.sent.append(("puback", facts["number"]))
        if isinstance(row, str):
            self.refuse(side, row)
            row = refusals.ALL[row].status
        if not side.closed:
            side.sent.append(("response", row))

    def proven(self, side: Side) -> str:
        """Why the certificate is not one that is enrolled."""
        enrolled = self.known[side.name].enrolled
        if not side.shown:
            return "token-refused"
        if enrolled is None:
            return "not-enrolled"
        return "" if enrolled.own else "other-certificate"

    def register(self, side: Side, facts: dict[str, Any]) -> None:
        fault = self.fault(Stage.REGISTER, side.name)
        kind = fault.kind if fault else ""
        if kind == "silence":
            return
        row = KINDS[kind].refusal if kind else None
        if row is not None and kind != "disabled":
            self.answer_dps(side, facts, row.name)
            return
        why = facts["wrong"] or self.proven(side)
        if why:
            self.answer_dps(side, facts, why)
            return
        known = self.known[side.name]
        assert known.enrolled is not None
        self.registrations += 1
        before = known.registered.hub if known.registered else None
        ends = self.now + fault.seconds if fault and kind == "slow" else 0.0
        known.registered = Registered("assigning", before, self.registrations, ends)
        if kind == "disabled" or not known.enrolled.enabled:
            known.registered.status, known.registered.number = "disabled", 0
            side.refused.append("enrollment-disabled")
            self.answer_dps(side, facts, 200)
            return
        if kind != "slow":
            self.settle(side)
        self.answer_dps(side, facts, 202)

    def poll(self, side: Side, facts: dict[str, Any]) -> str | int:
        known = self.known[side.name]
        why = self.proven(side)
        if why:
            return why
        if known.registered is None or known.registered.number != facts["registration"]:
            return "unknown-operation"
        if known.registered.status == "assigning":
            if self.now < known.registered.held_until:
                return 202
            self.settle(side)
        return 200

    def settle(self, side: Side) -> None:
        known = self.known[side.name]
        assert known.registered is not None
        assert known.enrolled is not None
        fault = self.fault(Stage.SETTLE, side.name)
        if fault is not None:
            known.registered.status = "failed"
            side.refused.append(KINDS[fault.kind].refusal.name)  # type: ignore[union-attr]
            return
        again = known.registered.hub is not None and known.enrolled.resets
        known.registered.status, known.registered.hub = "assigned", wire.HUB
        if known.identity is None:
            self.create(known.name, keyed=False, desired=known.enrolled.desired)
        elif again:
            fresh = Identity(known.identity.born, False, dict(known.enrolled.desired))
            known.identity = replace(fresh, status=known.identity.status, kept=known.identity.kept)
        else:
            known.identity.keyed = False

    # --- the hub ---

    def at_hub(self, side: Side, step: Step) -> None:
        fault = self.fault(Stage.HUB_PACKET, side.name)
        if fault is not None:
            self.refuse(side, KINDS[fault.kind].refusal.name)  # type: ignore[union-attr]
            return
        if self.also(side, step):
            return
        known, facts = self.known[side.name], step.facts
        assert known.identity is not None, "who is connected is known"
        match step.kind:
            case "subscribe":
                self.subscribe(side, facts["filters"], facts["qos"])
            case "unsubscribe":
                for topic in facts["filters"]:
                    side.filters.pop(topic, None)
                if not side.clean:
                    known.identity.kept = dict(side.filters)
                side.sent.append(("unsuback",))
            case "puback":
                number = side.in_flight.pop(facts["number"], None)
                known.queue = [one for one in known.queue if one.number != number]
            case "telemetry" if facts["name"] != side.name:
                self.refuse(side, "foreign-topic")
            case "telemetry":
                known.messages.append(facts["body"])
                self.acknowledge(side, facts)
            case "large":
                self.refuse(side, facts["hub row"])
            case "get twin":
                self.acknowledge(side, facts)
                self.answer_twin(side, 200)
            case "report":
                self.acknowledge(side, facts)
                self.report(side, known.identity, facts["patch"])
            case "method answer":
                self.acknowledge(side, facts)
                asked = side.calls.pop(facts["rid"], None)
                if asked and not asked.forgotten:
                    asked.expected.append((facts["status"], facts["body"]))
            case _:
                self.refuse(side, "unknown-topic")

    def acknowledge(self, side: Side, facts: dict[str, Any]) -> None:
        if facts["number"]:
            side.sent.append(("puback", facts["number"]))

    def subscribe(self, side: Side, filters: list[str], qos: int) -> None:
        known = self.known[side.name]
        assert known.identity is not None
        wrong = next((topic for topic in filters if topic not in FILTERS), None)
        if wrong is not None:
            self.refuse(side, "foreign-topic" if wrong.startswith("devices/") else "hub-unknown-filter")
            return
        if side.clean and COMMANDS in filters and COMMANDS not in side.filters:
            side.begins_after = max((one.number for one in known.live(self.now)), default=0)
        side.filters |= dict.fromkeys(filters, qos)
        if not side.clean:
            known.identity.kept = dict(side.filters)
        side.sent.append(("suback", len(filters)))
        self.deliver(side)

    def deliver(self, side: Side) -> None:
        known, qos = self.known[side.name], side.filters.get(COMMANDS)
        if qos is None or side.closed:
            return
        for one in known.live(self.now):
            if one.number in side.in_flight.values() or one.number <= side.begins_after:
                continue
            if qos:
                side.packet_ids += 1
                side.in_flight[side.packet_ids] = one.number
                side.sent.append(("command", one.body, side.packet_ids, one.deliveries > 0))
                one.deliveries += 1
            else:
                side.sent.append(("command", one.body, None, False))
                known.queue.remove(one)

    def answer_twin(self, side: Side, status: int) -> None:
        if wire.TWIN in side.filters:
            side.sent.append(("twin", status))

    def report(self, side: Side, identity: Identity, patch: dict[str, Any] | None) -> None:
        if patch is None:
            side.refused.append("bad-twin-patch")
            self.answer_twin(side, 400)
            return
        merged = identity.reported | patch
        identity.reported = {name: value for name, value in merged.items() if value is not None}
        identity.reported_version += 1
        self.answer_twin(side, 204)

    # --- what the service side does ---

    def create(self, name: str, *, keyed: bool, desired: dict[str, Any]) -> None:
        self.births += 1
        self.known[name].identity = Identity(self.births, keyed, dict(desired))

    def put_out(self, name: str, row: str) -> None:
        side = self.connected.pop(name, None)
        if side is not None:
            self.refuse(side, row)

    def online(self, name: str) -> Side | None:
        side = self.there.get(name)
        return None if side is None or side.closed else side

    def end(self, side: Side, *, stopping: bool = False) -> None:
        side.closed = True
        for places in (self.connected, self.there):
            if places.get(side.name) is side:
                del places[side.name]
        for asked in side.calls.values():
            if not asked.forgotten:
                asked.expected.append("lost")
        side.calls.clear()
        if side.will is None or side.in_order or stopping:
            return
        identity = self.known[side.name].identity
        if identity is not None and identity.born == side.born:
            self.known[side.name].messages.append(side.will)
        else:
            self.undecided.add(side.will)


# --- what the emulator has done ---------------------------------------------------------------------------------------


def stored(look: Callable[..., list[Any]], name: str, now: float, undecided: set[bytes]) -> tuple[Any, ...]:
    """All that is stored of a device for good, in the words of the model."""
    enrollments = look("SELECT primary_der, record FROM enrollments WHERE id = ?", name)
    registrations = look("SELECT record FROM registrations WHERE id = ?", name)
    devices = look("SELECT record, twin FROM devices WHERE hub = ? AND id = ?", wire.HUB, name)
    commands = look("SELECT record, body FROM commands WHERE device = ? ORDER BY number", name)
    messages = look("SELECT body FROM messages WHERE device = ? ORDER BY number", name)
    enrolled = next(
        ((der == wire.certificate(name), json.loads(record)["enabled"]) for der, record in enrollments), None
    )
    states = [json.loads(record) for (record,) in registrations]
    identity = twin = None
    for device, twin_record in devices:
        record, document = json.loads(device), json.loads(twin_record)
        identity = (record["status"], bool(record["primary_key"]), record["c2d_qos"], record["kept"])
        desired, reported = document["desired"], document["reported"]
        twin = (desired["values"], desired["version"], reported["values"], reported["version"])
    queue = [(body, json.loads(record)) for record, body in commands]
    return (
        enrolled,
        next(((state["status"], state["hub"]) for state in states), None),
        identity,
        twin,
        [(b, r["deliveries"]) for b, r in queue if now < r["expires"] and r["deliveries"] < MAX_DELIVERIES],
        [body for (body,) in messages if body not in undecided],
    )


# --- the machine ------------------------------------------------------------------------------------------------------

VIOLATIONS = [
    b"\xf0\x00",
    b"\x00\x00",
    b"\xc1\x00",
    b"\xc0\x01x",
    b"\x30\xff\xff\xff\xff",
    b"\x30\xff\xff\xff\x7f",
    b"\x82\x02\x00\x01",
    b"\x20\x02\x00\x00",
    wire.packet(0x40, b"\x00\x00"),
    wire.packet(0x32, wire.text(wire.events(NAMES[0])) + b"\x00\x00"),
    wire.packet(0x36, wire.text(wire.events(NAMES[0])) + b"\x00\x01"),
    wire.packet(0x30, b"\x00\x00"),
]
PATCHES = [b"", b"{", b"[1]", b"null", b'{"a": NaN}', b'{"a.b": 1}', b'{"a":' * 12 + b"1" + b"}" * 12]
REGISTER_BODIES = [
    (b"", ""),
    (b" ", ""),
    (b'{"payload": {"model": "m"}}', ""),
    (b"[]", "bad-body"),
    (b"{", "bad-body"),
    (b'{"registrationId": "somebody"}', "other-registration-id"),
    (b'{"csr": "x"}', "csr-refused"),
]
LARGE = bytes(256 * 1024 + 1)
seen: set[str] = set()  # the names of all refusals that the machines have met


HAPPENS: dict[str, dict[str, st.SearchStrategy[Any]]] = {}  # what may happen, with the arguments that it takes
WEIGHTED: list[str] = []


def happens(weight: int, **arguments: st.SearchStrategy[Any]) -> Callable[[Any], Any]:
    """Mark what may happen in a step, and how often. (Rules of their own would be switched off in most sequences.)"""

    def mark(method: Any) -> Any:
        HAPPENS[method.__name__] = arguments
        WEIGHTED.extend([method.__name__] * weight)
        return method

    return mark


class Machine(RuleBasedStateMachine):
    """Devices and the service side do what they like."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.desk = wire.Desk(Path(self.folder.name))
        self.model = Model()
        self.model.now = self.desk.clock.seconds
        self.sides: list[Side] = []
        self.gone: list[Side] = []
        self.asked: list[Asked] = []
        self.counter = 0
        self.reader = sqlite3.connect(f"{self.desk.path.as_uri()}?mode=ro", uri=True)
        for name in NAMES:
            self.enroll(name, own=True, enabled=True, resets=False)
            self.add(name)

    def number(self) -> int:
        self.counter += 1
        return self.counter

    def look(self, query: str, *values: Any) -> list[Any]:
        return self.reader.execute(query, values).fetchall()

    # --- packets ---

    def login(self, data: st.DataObject, side: Side, at: str, wrong: str = "") -> Step:
        name = data.draw(st.sampled_from([side.owner] * 15 + list(NAMES)), "as")
        password, clean = None, data.draw(st.booleans(), "clean")
        will: bytes | str | None = None
        how: dict[str, Any] = {"clean": clean}
        if name == KEYED or not side.shown:
            password = data.draw(st.sampled_from(["good"] * 8 + ["bad", None]) if name == side.owner else st.none())
        if password:
            key = KEY if password == "good" else b64encode(b"?" * 32).decode()
            how["password"] = self.desk.token(name, key, seconds=20 * 86_400)
        if data.draw(st.integers(0, 9), "will") < (3 if at == "hub" else 1) or wrong == "bad-will":
            will = f"last words {self.number()} of {name}".encode()
            how["will"] = wire.Will(wire.events(name), will)
        facts = {"login": at, "name": name, "password": password, "clean": clean, "will": will}
        if wrong == "bad-will":
            facts["will"] = "bad"
            how["will"] = data.draw(
                st.sampled_from(
                    [wire.Will("elsewhere"), wire.Will(wire.events(name), qos=2), wire.Will(wire.events("x"))]
                )
            )
            wrong = ""
        if wrong:
            facts["wrong"] = wrong
        spelled = name.upper() if at == "dps" and data.draw(st.integers(0, 4)) == 0 else name
        build: dict[str, Callable[[], bytes]] = {
            "": lambda: wire.to_dps(spelled, **how) if at == "dps" else wire.to_hub(name, **how),
            "unknown-id-scope": lambda: wire.to_dps(name, scope="0ne00000000", **how),
            "unknown-api-version": lambda: wire.to_dps(name, version="1999-12-31", **how),
            "client-id-differs": lambda: wire.connect(
                "x", f"0ne00111111/registrations/{name}/api-version=2019-03-31", **how
            ),
            "unknown-hub": lambda: wire.to_hub(name, host="elsewhere", **how),
            "not-emulated": lambda: wire.to_hub(name, module="module/", **how),
            "hub-client-id-differs": lambda: wire.connect("x", f"{wire.HOST}/{name}/?api-version=2021-04-12", **how),
        }
        return Step(f"CONNECT to {at}", build[wrong](), facts)

    def first(self, data: st.DataObject, side: Side) -> Step:
        """A packet for a connection that has not been let in."""
        kind = data.draw(st.sampled_from(["dps"] * 6 + ["hub"] * 9 + ["odd"]), "first")
        if kind in ("dps", "hub"):
            rows = {
                "dps": ["unknown-id-scope", "unknown-api-version", "client-id-differs"],
                "hub": ["unknown-hub", "not-emulated", "hub-client-id-differs", "bad-will"],
            }[kind]
            wrong = data.draw(st.sampled_from([""] * 20 + rows), "wrong")
            return self.login(data, side, kind, wrong)
        odd = data.draw(st.sampled_from(["bad login", "mqtt 5", "later"]), "odd")
        if odd == "later":
            return self.later(data, side, data.draw(st.sampled_from(["dps", "hub"])))
        if odd == "mqtt 5":
            return Step(odd, wire.connect(side.owner, None, level=5))
        username = data.draw(st.sampled_from([None, "", "nonsense", "a/b/c/d"]))
        return Step(odd, wire.connect(side.owner, username), {"login": "bad"})

    def later(self, data: st.DataObject, side: Side, at: str) -> Step:
        """A packet for a connection that was let in."""
        name = side.name or side.owner
        wanted = {
            "dps": ["subscribe"] * 4 + ["register"] * 6 + ["poll"] * 4 + ["unsubscribe"],
            "hub": ["subscribe"] * 6
            + ["telemetry"] * 4
            + ["puback"] * 4
            + ["report"] * 3
            + ["get twin", "unsubscribe"]
            + ["method answer"] * 2,
        }[at]
        odd = ["ping", "disconnect", "garbage", "again", "qos 2", "unknown topic", "large", "mqtt 5", *wanted]
        kind = data.draw(st.sampled_from(wanted * 6 + odd * 2), "kind")
        number = data.draw(st.sampled_from([0, 1]), "QoS") and self.number()
        facts: dict[str, Any] = {"number": number}
        quality: dict[str, Any] = {"qos": 1, "number": number} if number else {"qos": 0}
        match kind:
            case "ping":
                return Step(kind, wire.PINGREQ)
            case "disconnect":
                return Step(kind, wire.DISCONNECT)
            case "garbage":
                return Step(kind, data.draw(st.sampled_from(VIOLATIONS)))
            case "mqtt 5":
                return Step(kind, wire.connect(side.owner, None, level=5))
            case "again":
                return self.login(data, side, at)
            case "qos 2":
                return Step(kind, wire.publish(wire.events(name), qos=2))
            case "unknown topic":
                topics = [
                    "nonsense",
                    "$iothub/twin/GET/",
                    f"devices/{name}/messages/devicebound/",
                    "$dps/registrations/",
                ]
                return Step(kind, wire.publish(data.draw(st.sampled_from(topics)), **quality))
            case "large" if at == "dps":
                body = LARGE[: 96 * 1024 + 1]
                return Step(kind, wire.register(body=body, **quality), {**facts, "hub row": "unknown-topic"})
            case "large":
                return Step(kind, wire.publish(wire.events(name), LARGE, **quality), {**facts, "hub row": "too-large"})
            case "subscribe" | "unsubscribe":
                return self.filters(data, kind, name, at)
            case "register":
                body, wrong = data.draw(st.sampled_from([*REGISTER_BODIES[:3] * 5, *REGISTER_BODIES]), "body")
                return Step(kind, wire.register(number, body, **quality), {**facts, "wrong": wrong})
            case "poll":
                kept, registered = self.desk.store.registration(name), self.model.known[name].registered
                operation, which = "5.0000000000000000.unknown", -1
                if kept and registered and kept.operation_id and data.draw(st.integers(0, 5)):
                    operation, which = kept.operation_id, registered.number
                return Step(kind, wire.poll(operation, **quality), {**facts, "registration": which})
            case "telemetry":
                whose = data.draw(st.sampled_from([name] * 9 + list(NAMES)), "whose")
                body = f"message {self.number()} of {name}".encode()
                topic = wire.events(whose, data.draw(st.sampled_from(["", "$.mid=1&a=b", "%"])))
                return Step(kind, wire.publish(topic, body, **quality), {**facts, "name": whose, "body": body})
            case "puback":
                which = data.draw(st.sampled_from([*side.in_flight, 1, 2, 65_535]), "packet identifier")
                return Step(kind, wire.puback(which), {"number": which})
            case "get twin":
                return Step(kind, wire.get_twin(self.number(), **quality), facts)
            case "report":
                bad = data.draw(st.integers(0, 3), "bad") == 0
                value = data.draw(st.sampled_from([None, self.number()]))
                patch = None if bad else {f"{name} {value}".split()[0] + data.draw(st.sampled_from("ab")): value}
                body = data.draw(st.sampled_from(PATCHES)) if patch is None else json.dumps(patch).encode()
                return Step(kind, wire.report(body, self.number(), **quality), {**facts, "patch": patch})
        rid = data.draw(st.sampled_from([*side.calls, *(r for s in self.sides for r in s.calls), "none"]), "rid")
        status, body = data.draw(st.integers(-1, 500)), f"answer {self.number()}".encode()
        facts |= {"rid": rid, "status": status, "body": body}
        return Step("method answer", wire.method_answer(rid, body, status, **quality), facts)

    def filters(self, data: st.DataObject, kind: str, name: str, at: str) -> Step:
        good = [wire.RESPONSES] if at == "dps" else list(FILTERS)
        more = [wire.RESPONSES, wire.TWIN, "#", "nonsense", wire.commands_to("nobody")]
        wanted = data.draw(st.lists(st.sampled_from(good * 8 + more), min_size=1, max_size=len(good)), "filters")
        topics, qos = (
            [wire.commands_to(name) if one == COMMANDS else one for one in wanted],
            data.draw(st.integers(0, 1)),
        )
        if kind == "unsubscribe":
            return Step(kind, wire.unsubscribe(*topics), {"filters": wanted})
        # At QoS 2, which is granted as 1, too.
        asked = data.draw(st.sampled_from([1, 2])) if qos else 0
        return Step(kind, wire.subscribe(*topics, qos=asked), {"filters": wanted, "qos": qos})

    def compose(self, data: st.DataObject, side: Side) -> None:
        """Some more packets at the end of what a device has to say."""
        for _ in range(data.draw(st.integers(1, 3), "packets")):
            logged_in = side.at or next((s.facts["login"] for _, s in side.steps if "login" in s.facts), "")
            step = self.later(data, side, logged_in) if logged_in in ("dps", "hub") else self.first(data, side)
            note(f"{side.label}: {step.kind} {step.facts}")
            side.stream += step.data
            side.steps.append((len(side.stream), step))

    def give(self, side: Side, end: int) -> None:
        """The emulator gets what a device says, up to a byte; the model learns of the packets in it."""
        side.line.conversation.receive(side.stream[side.given : end])
        side.given = end
        while side.steps and side.steps[0][0] <= end:
            self.model.take(side, side.steps.pop(0)[1])

    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        what = data.draw(st.sampled_from(WEIGHTED), "what")
        arguments = {
            name: strategy if name == "data" else data.draw(strategy, name) for name, strategy in HAPPENS[what].items()
        }
        if "data" in arguments:
            arguments["data"] = data
        getattr(self, what)(**arguments)

    # --- what devices do ---

    @happens(16, owner=st.sampled_from(NAMES), shown=st.sampled_from([True] * 7 + [False]), data=st.data())
    def come(self, owner: str, shown: bool, data: st.DataObject) -> None:
        """A device opens a connection, and perhaps logs in and subscribes as it should."""
        line = self.desk.meet(owner if shown else None)
        side = Side(line, owner, shown, line.conversation.label)
        self.sides.append(side)
        at = data.draw(st.sampled_from(["", "dps", "hub", "hub"]), "at")
        if at:
            step = self.login(data, side, at)
            topics, wanted = [wire.commands_to(owner), wire.TWIN, wire.DESIRED, wire.METHODS], list(FILTERS)
            if at == "dps":
                topics = wanted = [wire.RESPONSES]
            subscribing = Step("subscribe", wire.subscribe(*topics), {"filters": wanted, "qos": 1})
            if step.facts["name"] != owner:
                subscribing = Step("ping", wire.PINGREQ)
            side.stream = step.data + subscribing.data
            side.steps = [(len(step.data), step), (len(side.stream), subscribing)]
            self.give(side, len(side.stream))

    @happens(40, data=st.data(), turns=st.integers(1, 3))
    def say(self, data: st.DataObject, turns: int) -> None:
        """In each turn one device or two speak, in as many pieces as it happens."""
        if not self.sides:
            return
        for _ in range(turns):
            likely = [side for side in self.sides if not side.closed] * 9 + self.sides
            sides = data.draw(st.lists(st.sampled_from(likely), min_size=1, max_size=2, unique=True), "who")
            for side in sides:
                self.compose(data, side)
            for side in [*sides, sides[0]]:
                end = len(side.stream)
                if data.draw(st.integers(0, 2), "cut") == 0:
                    end = data.draw(st.integers(side.given, end), "up to")
                self.give(side, end)
            self.everything_is_as_the_model_says()

    @happens(10, data=st.data())
    def go(self, data: st.DataObject) -> None:
        """A connection ends, wherever it is."""
        if not self.sides:
            return
        likely = [side for side in self.sides if side.closed] * 3 + self.sides
        side = data.draw(st.sampled_from(likely), "who")
        self.sides.remove(side)
        self.gone.append(side)
        side.line.end()
        self.model.end(side)

    # --- what the service side does ---

    @happens(4, name=st.sampled_from(NAMES), own=st.booleans(), enabled=st.booleans(), resets=st.booleans())
    def enroll(self, name: str, own: bool, enabled: bool, resets: bool) -> None:
        desired = {name: self.number()} if resets else {}
        self.desk.enroll(
            name,
            wire.certificate(name, 0 if own else 1),
            enabled=enabled,
            initial_twin={"properties": {"desired": desired}},
            settings={"reprovisionPolicy": {"updateHubAssignment": True, "migrateDeviceData": not resets}},
        )
        self.model.known[name].enrolled = Enrolled(own, enabled, resets, desired)

    @happens(1, name=st.sampled_from(NAMES))
    def unenroll(self, name: str) -> None:
        self.desk.store.delete_enrollment(name)
        self.model.known[name].enrolled = self.model.known[name].registered = None

    @happens(5, name=st.sampled_from(NAMES))
    def add(self, name: str) -> None:
        if self.model.known[name].identity is None:
            keyed = name == KEYED
            self.desk.add(name, **({"primary_key": KEY, "secondary_key": KEY} if keyed else {}))
            self.model.create(name, keyed=keyed, desired={})

    @happens(2, name=st.sampled_from(NAMES))
    def remove(self, name: str) -> None:
        known = self.model.known[name]
        if known.identity is not None:
            self.desk.services.remove(self.desk.device(name))
            known.identity, known.queue = None, []
            self.model.put_out(name, "removed")

    @happens(3, name=st.sampled_from(NAMES), status=st.sampled_from(["enabled", "disabled"]))
    def set_status(self, name: str, status: str) -> None:
        identity = self.model.known[name].identity
        if identity is not None:
            device = replace(self.desk.device(name), status=status)
            self.desk.store.put_device(device)
            identity.status = status
            if status == "disabled":
                self.desk.services.drop(device, refusals.DISABLED_MEANWHILE)
                self.model.put_out(name, "disabled-meanwhile")

    @happens(
        8, name=st.sampled_from(NAMES), seconds=st.sampled_from([1, 60, None]), count=st.sampled_from([1, 1, 1, 3, 51])
    )
    def send(self, name: str, seconds: int | None, count: int) -> None:
        known = self.model.known[name]
        for _ in range(count if known.identity else 0):
            body, now = f"command {self.number()} for {name}".encode(), self.model.now
            if len(known.live(now)) >= MAX_PENDING:
                with pytest.raises(Refused) as refused:
                    self.desk.send(name, body, expiresIn=seconds)
                assert refused.value.refusal.name == "queue-full"
                return
            self.desk.send(name, body, expiresIn=seconds)
            self.model.sent_commands += 1
            known.queue.append(Waiting(self.model.sent_commands, body, now + (seconds or 3600)))
            side = self.model.online(name)
            if side is not None:
                self.model.deliver(side)

    @happens(1, name=st.sampled_from(NAMES))
    def purge(self, name: str) -> None:
        known = self.model.known[name]
        if known.identity is not None:
            assert self.desk.services.purge_commands(self.desk.device(name)) == len(known.live(self.model.now))
            known.queue = []
            if name in self.model.there:
                self.model.there[name].in_flight.clear()

    @happens(3, name=st.sampled_from(NAMES), removes=st.booleans(), tags=st.booleans())
    def change_twin(self, name: str, removes: bool, tags: bool) -> None:
        identity, value = self.model.known[name].identity, self.number()
        if identity is None:
            return
        if tags:
            self.desk.change_twin(name, {"tags": {name: value}})
            return
        self.desk.change_twin(name, {"properties": {"desired": {name: None if removes else value}}})
        identity.desired = {key: old for key, old in identity.desired.items() if key != name}
        identity.desired |= {} if removes else {name: value}
        identity.desired_version += 1
        side = self.model.online(name)
        if side is not None and wire.DESIRED in side.filters:
            side.sent.append(("desired", identity.desired_version))

    @happens(6, name=st.sampled_from(NAMES))
    def call(self, name: str) -> None:
        if self.model.known[name].identity is None:
            return
        called = self.desk.call(name, f"method of {name}")
        side = self.model.online(name)
        if side is None or wire.METHODS not in side.filters:
            assert called.forget is None
            return
        assert called.forget is not None
        asked = Asked(called)
        self.asked.append(asked)
        sent = side.line.hear()
        assert isinstance(sent[-1], wire.Published)
        rid = sent[-1].topic.partition("$rid=")[2]
        assert rid not in side.calls
        side.calls[rid] = asked
        side.sent.append(("method", rid))
        self.compare(side, sent)

    @happens(1, data=st.data())
    def forget(self, data: st.DataObject) -> None:
        if not self.asked:
            return
        asked = data.draw(st.sampled_from(self.asked))
        assert asked.called.forget is not None
        asked.called.forget()
        asked.forgotten = True

    @happens(
        4,
        kind=st.sampled_from(sorted(KINDS)),
        name=st.sampled_from([*NAMES, *NAMES, None]),
        once=st.sampled_from("yyyn"),
    )
    def switch_on(self, kind: str, name: str | None, once: str) -> None:
        fault = Fault(kind, name, left=1 if once == "y" else None)
        self.desk.services.switch_on(fault)
        self.model.faults.append(fault)

    @happens(3)
    def clear_faults(self) -> None:
        self.desk.services.clear_faults()
        self.model.faults.clear()

    @happens(4, seconds=st.sampled_from([0.5, 1, 9, 59, 3600]))
    def wait(self, seconds: float) -> None:
        self.desk.clock.go_on(seconds)
        self.model.now = self.desk.clock.seconds

    @happens(1)
    def restart(self) -> None:
        for side in self.sides:
            self.model.end(side, stopping=True)
        self.gone += self.sides
        self.sides = []
        self.desk.restart()

    # --- what must hold ---

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        for side in self.sides:
            self.compare(side, side.line.hear())
            assert side.line.refused == side.refused, side.label
            assert side.line.closing == side.closed, side.label
            seen.update(side.refused)
        for side in self.gone:
            conversation = side.line.conversation
            assert (conversation.closing, bytes(conversation.outbox)) == (True, b""), side.label
        self.desk.store.commit()
        for name, known in self.model.known.items():
            assert stored(self.look, name, self.model.now, self.model.undecided) == known.record(self.model.now)
        for asked in self.asked:
            assert asked.called.heard == asked.expected
        assert self.desk.services.faults() == self.model.faults

    def compare(self, side: Side, sent: list[wire.Sent]) -> None:
        """What was sent is what had to be. Nothing is, on a connection that was closed before."""
        expected, side.sent = side.sent, []
        assert [wire.worded(one, side.name, NAMES) for one in sent] == expected, side.label

    def teardown(self) -> None:
        try:
            for side in list(self.sides):
                side.line.end()
                self.model.end(side)
                self.gone.append(side)
            self.sides = []
            self.everything_is_as_the_model_says()
        finally:
            self.reader.close()
            self.desk.store.close()
            self.folder.cleanup()


def test_whatever_devices_and_services_do_each_device_is_as_its_model_says() -> None:
    seen.clear()
    with wire.listening(KEY):
        run_state_machine_as_test(Machine, settings=SETTINGS)
    assert seen <= set(refusals.ALL)
    assert len(seen) > 25, "the machine comes about"
    named = {name for row in scope.ROWS for name in row.refusals}
    assert seen - named == set(), "the scope table tells of each of them"


# --- bytes ------------------------------------------------------------------------------------------------------------


def conversation_of(name: str) -> list[list[bytes]]:
    """What a device says to DPS and to its hub, packet by packet."""
    return [
        [
            wire.to_dps(name),
            wire.subscribe(wire.RESPONSES),
            wire.register(1, b'{"payload": 1}'),
            wire.poll("5.0.0", qos=0),
            wire.DISCONNECT,
        ],
        [
            wire.to_hub(name, clean=False, will=wire.Will(wire.events(name), b"gone")),
            wire.subscribe(wire.commands_to(name), wire.TWIN, wire.DESIRED, wire.METHODS),
            wire.puback(1),
            wire.publish(wire.events(name, "a=b&$.mid=1"), b"body"),
            wire.get_twin(qos=0),
            wire.report({"a": {"b": None, "c": [1]}}),
            wire.method_answer("none"),
            wire.PINGREQ,
            wire.unsubscribe(wire.TWIN),
            wire.publish(wire.events(name), b"quiet", qos=0),
            wire.DISCONNECT,
        ],
    ]


@contextmanager
def desk_with(*names: str) -> Iterator[wire.Desk]:
    """A desk on which each device is enrolled, in the hub, and has a message that waits."""
    with TemporaryDirectory() as folder:
        desk = wire.Desk(Path(folder))
        for name in names:
            desk.enroll(name)
            desk.add(name)
            desk.send(name, f"for {name}".encode())
        yield desk
        desk.store.close()


def everything(desk: wire.Desk, name: str | None = None) -> list[list[Any]]:
    """All rows, or all of one device."""
    tables = {"enrollments": "id", "registrations": "id", "devices": "id", "commands": "device", "messages": "device"}
    with desk.second_reader() as look:
        return [
            look(f"SELECT * FROM {table} WHERE {column} = coalesce(?, {column})", name)
            for table, column in tables.items()
        ]


def spoiled(data: bytes, chance: random.Random) -> bytes:
    """The same bytes with some of them changed, left out or doubled."""
    found = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5])):
        start = chance.randrange(len(found))
        end = min(len(found), start + chance.choice([1, 1, 1, 2, 20]))
        new = chance.choice([chance.randbytes(end - start), b"", found[start:end] * 2, bytes([found[start] ^ 0x80])])
        found[start:end] = new
        if not found:
            return b"\x00"
    return bytes(found)


@settings(SETTINGS, max_examples=(EXAMPLES or 50) * 3)
@given(at=st.integers(0, 1), begun=st.integers(0, 4), seed=st.integers(0, 2**32), sizes=st.lists(st.integers(1, 40)))
def test_spoiled_bytes_raise_nothing_and_reach_nobody_else(at: int, begun: int, seed: int, sizes: list[int]) -> None:
    chance = random.Random(seed)
    packets = conversation_of("north")[at]
    with desk_with("north", "south") as desk, wire.listening(KEY):
        witness = desk.online("south", wire.commands_to("south"), wire.TWIN, wire.DESIRED, wire.METHODS)
        before = everything(desk, "south")
        line = desk.meet("north")
        line.say(*packets[:begun])
        data = spoiled(b"".join(packets[begun:]), chance)
        for size in [*sizes, len(data)]:
            for one in line.say(data[:size]):
                wire.worded(one, "north", NAMES)
            data = data[size:]
        if line.closing:
            assert line.say(wire.PINGREQ) == []
            assert set(line.refused) <= set(refusals.ALL)
            assert line.refused or line.conversation._in_order  # who did not say goodbye was told why, in the log
        line.end()
        assert witness.hear() == []
        assert not witness.closing
        assert everything(desk, "south") == before
        if not line.closing:
            assert desk.meet("north").say(wire.to_hub("north"))[0] == wire.Connack(0)


def heard(packets: list[bytes], sizes: list[int]) -> tuple[list[wire.Sent], list[list[Any]]]:
    """What a device is answered, and all records after it, when its bytes come in pieces of these sizes."""
    with desk_with("north") as desk:
        line, data, sent = desk.meet("north"), b"".join(packets), []
        for size in [*sizes, len(data)]:
            sent += line.say(data[:size])
            data = data[size:]
        line.end()
        return sent, everything(desk)


@settings(SETTINGS, max_examples=EXAMPLES or 20)
@given(at=st.integers(0, 1), sizes=st.lists(st.integers(1, 200), max_size=40), last=st.sampled_from([b"", b"\xf0\x00"]))
def test_wherever_the_bytes_are_cut_the_answers_are_the_same(at: int, sizes: list[int], last: bytes) -> None:
    packets = [*conversation_of("north")[at][:-1], last]
    assert heard(packets, sizes) == heard(packets, [])


@pytest.mark.parametrize("at", [0, 1], ids=["DPS", "hub"])
def test_byte_by_byte_is_as_good_as_all_at_once(at: int) -> None:
    packets = conversation_of("north")[at]
    sent, records = heard(packets, [1] * len(b"".join(packets)))
    assert (sent, records) == heard(packets, [])
    assert len(sent) > 4


@pytest.mark.parametrize("at", [0, 1], ids=["DPS", "hub"])
def test_a_conversation_may_be_cut_off_after_any_byte(at: int) -> None:
    data = b"".join(conversation_of("north")[at])
    with desk_with("north", "south") as desk, wire.listening(KEY):
        witness = desk.online("south", wire.commands_to("south"))
        before = everything(desk, "south")
        for end in range(len(data)):
            line = desk.meet("north")
            line.say(data[:end])
            line.end()
            assert bytes(line.conversation.outbox) == b""
            assert set(line.refused) <= {"unknown-operation"}
        assert everything(desk, "south") == before
        assert witness.hear() == []
        assert desk.online("north").say(wire.PINGREQ) == [wire.Pingresp()]
