"""Clients that work on the registries of an emulator until it is gone: operators, and newcomers at the gate."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import wire
from clients import document, group_document
from connections import PacketLine, identity
from ledger import GONE, Record, State
from load_clients import Client
from pki import Authority, Device, make_device
from rest import ask, done

if TYPE_CHECKING:
    from load import Load

_NOW = frozenset(  # what a document tells of this moment
    {"connectionState", "connectionStateUpdatedTime", "lastActivityTime", "cloudToDeviceMessageCount"}
)


@dataclass(frozen=True)
class Kind:
    """How a thing is written in one of the registries, and how its step is read again."""

    what: str
    path: str
    body: Callable[[int], dict[str, Any]]
    read: Callable[[dict[str, Any]], State]


def enrollment(name: str, device: Device) -> Kind:
    """`device` has the certificate that it is enrolled with."""
    return Kind(
        "enrollments",
        f"/enrollments/{name}",
        lambda step: document(device, initialTwin={"tags": {"step": step}}),
        _dps_state,
    )


def group(name: str, authority: Authority) -> Kind:
    return Kind(
        "groups",
        f"/enrollmentGroups/{name}",
        lambda step: group_document(authority, initialTwin={"tags": {"step": step}}),
        _dps_state,
    )


def device_identity(device: Device) -> Kind:
    def read(shown: dict[str, Any]) -> State:
        step = int(shown["statusReason"])
        return State(step, step, shown["etag"], shown["generationId"], _lasting(shown))

    name = device.common_name
    return Kind("devices", f"/devices/{name}", lambda step: identity(device, statusReason=str(step)), read)


def _dps_state(shown: dict[str, Any]) -> State:
    shown.pop("registrationState", None)
    version, born = shown["lastUpdatedDateTimeUtc"], shown["createdDateTimeUtc"]
    return State(shown["initialTwin"]["tags"]["step"], version, shown["etag"], born, shown)


def _lasting(shown: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in shown.items() if name not in _NOW}


class Operator(Client):
    """Makes things in a registry, changes each twice by the etag it knows, and deletes three of four."""

    def __init__(self, load: "Load", name: str, make: Callable[[str], Kind]) -> None:
        super().__init__(load, name)
        self._make = make
        self._numbers = count()
        self.records: dict[str, Record] = {}
        self._kinds: dict[str, Kind] = {}
        self._touched: set[str] = set()

    @property
    def in_flight(self) -> int:
        return sum(record.asked is not None for record in self.records.values())

    def work(self, line: PacketLine | None) -> None:
        for name, record in list(self.records.items()):
            if record.known is not None and record.known.step == 2:  # the last kill came before its last change
                self._put(name, 3)  # by its etag of then
        while True:
            number = next(self._numbers)
            name = f"{self.name}-{number}"
            self._kinds[name] = self._make(name)
            self.records[name] = Record(name)
            for step in (1, 2, 3):
                self._put(name, step)
            if number % 4:
                record = self._about(name, GONE)
                assert record.known is not None
                done(self.ask("DELETE", self._kinds[name].path, If_Match=record.known.etag))
                self._acknowledged(name, None)

    def _about(self, name: str, step: int) -> Record:
        record = self.records[name]
        record.asked = step
        self._touched.add(name)
        return record

    def _put(self, name: str, step: int) -> None:
        record, kind = self._about(name, step), self._kinds[name]
        match = {"If_Match": record.known.etag} if record.known else {}
        self._acknowledged(name, kind.read(done(self.ask("PUT", kind.path, kind.body(step), **match))))

    def _acknowledged(self, name: str, state: State | None) -> None:
        self.records[name].acknowledged(state)
        self.done[self._kinds[name].what] += 1

    def settle(self) -> list[str]:
        problems = []
        for name in sorted(self._touched):
            answer = ask(self.load.emulator, "GET", self._kinds[name].path)
            seen = None if answer.status_code == 404 else self._kinds[name].read(done(answer))
            problems += self.records[name].problems(seen)
        self._touched.clear()
        return problems


class TwinOwner(Client):
    """The service side of one device, which changes a desired property by the etag it knows."""

    def __init__(self, load: "Load", device: Device) -> None:
        super().__init__(load, f"desired of {device.common_name}")
        self._path = f"/twins/{device.common_name}"
        self._record = Record(self.name, self._read(done(ask(load.emulator, "GET", self._path))))

    @property
    def in_flight(self) -> int:
        return int(self._record.asked is not None)

    @staticmethod
    def _read(shown: dict[str, Any]) -> State:
        step = shown["properties"]["desired"].get("step", 0)
        return State(step, shown["version"], shown["etag"], "", _lasting(shown))

    def work(self, line: PacketLine | None) -> None:
        while True:
            assert self._record.known is not None
            step = self._record.asked = self._record.known.step + 1
            patch = {"properties": {"desired": {"step": step}}}
            answer = done(self.ask("PATCH", self._path, patch, If_Match=self._record.known.etag))
            self._record.acknowledged(self._read(answer))
            self.done["twin versions"] += 1
            assert answer["properties"]["desired"]["$version"] == step + 1, answer

    def settle(self) -> list[str]:
        return self._record.problems(self._read(done(ask(self.load.emulator, "GET", self._path))))


@dataclass
class _Newcomer:
    """A device that is enrolled and registers. `operation` and `state` are as DPS has told the device."""

    device: Device
    enrolled: Record
    asked: bool = False
    operation: str | None = None
    state: dict[str, Any] | None = None
    generation: str | None = None


class Gate(Client):
    """Lets one device after the other enroll and register."""

    def __init__(self, load: "Load", name: str) -> None:
        super().__init__(load, name)
        self._numbers = count()
        self.newcomers: dict[str, _Newcomer] = {}
        self._fresh: list[_Newcomer] = []  # since the last kill

    @property
    def in_flight(self) -> int:
        return sum((one.enrolled.asked is not None) + (one.asked and one.state is None) for one in self._fresh)

    def work(self, line: PacketLine | None) -> None:
        while True:
            name = f"{self.name}-{next(self._numbers)}"
            device = make_device(self.load.folder, name)
            one = self.newcomers[name] = _Newcomer(device, Record(name))
            self._fresh.append(one)
            kind = enrollment(name, device)
            one.enrolled.asked = 1
            one.enrolled.acknowledged(kind.read(done(self.ask("PUT", kind.path, kind.body(1)))))
            self.done["enrollments"] += 1
            with contextlib.closing(self._at_dps(one)) as at_dps:
                self._register(one, at_dps)

    def _at_dps(self, one: _Newcomer) -> PacketLine:
        name, scope = one.device.common_name, self.load.environment["PROVISIONING_IDSCOPE"]
        return PacketLine(self.load.emulator, one.device, wire.to_dps(name, scope=scope), wire.RESPONSES)

    def _register(self, one: _Newcomer, line: PacketLine) -> None:
        one.asked = True
        line.send(wire.register())
        one.operation = self._answer(line)["operationId"]
        self.done["registrations"] += 1
        one.state = self._poll(one, line)
        self.done["registrations"] += 1

    def _poll(self, one: _Newcomer, line: PacketLine) -> dict[str, Any]:
        line.send(wire.poll(one.operation, rid=2))
        answer = self._answer(line)
        assert answer["status"] == "assigned", answer
        return dict(answer["registrationState"])

    @staticmethod
    def _answer(line: PacketLine) -> Any:
        line.expect(wire.Puback)
        return line.expect(wire.Published).json

    def settle(self) -> list[str]:
        found: list[str] = []
        for one in self._fresh:
            found += self._settled(one)
        self._fresh.clear()
        return found

    def _settled(self, one: _Newcomer) -> list[str]:
        """What was acknowledged is there; what was not can be begun anew, and ends the same."""
        name, emulator = one.device.common_name, self.load.emulator
        kind = enrollment(name, one.device)
        shown = ask(emulator, "GET", kind.path)
        problems = one.enrolled.problems(kind.read(shown.json()) if shown.status_code == 200 else None)
        if one.enrolled.known is None:
            return problems
        before = self._registered(name)
        if before is None and one.operation is not None:
            return [*problems, f"{name} had begun to register, and DPS knows nothing of it"]
        with contextlib.closing(self._at_dps(one)) as line:
            if one.operation is not None:  # which goes on where it was
                went_on = self._poll(one, line)
                if one.state not in (None, went_on):
                    problems.append(f"{name} was told {one.state}, and now {went_on}")
            one.state = one.operation = None
            self._register(one, line)
        assert one.state is not None
        after = self._registered(name)
        same = ("registrationId", "createdDateTimeUtc", "assignedHub", "deviceId")
        if before is not None and after is not None:
            problems += [
                f"{name}: {what} was {before[what]} and is {after[what]}"
                for what in same
                if before[what] != after[what]
            ]
        return problems

    def _registered(self, name: str) -> dict[str, Any] | None:
        """Its registration as the service side shows it, with the generation of its device."""
        answer = ask(self.load.emulator, "GET", f"/registrations/{name}")
        if answer.status_code == 404:
            return None
        device = done(ask(self.load.emulator, "GET", f"/devices/{name}"))
        return dict(done(answer)) | {"generation": device["generationId"]}
