"""Clients of every kind that work on an emulator all at once, and what an emulator owes them that starts after it."""

import contextlib
import json
import sqlite3
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import in_memory
import ledger
from connections import create
from ledger import Record, State
from load_clients import Client, Postbox, Reporter, Telemetry
from load_operators import Gate, Operator, TwinOwner, device_identity, enrollment, group
from processes import RunningEmulator
from rest import ask, done

from dpsx_helpers.emulator import EmulatorError, running
from dpsx_helpers.emulator.store import read_messages, read_registrations


class Load:
    """All clients of one emulator, which comes again and again in the same place. `folder` keeps their certificates."""

    def __init__(self, emulator: RunningEmulator, folder: Path) -> None:
        self.emulator = emulator
        self.environment = emulator.emulator.environment()
        self.over = threading.Event()
        self.stored: dict[str, list[str]] = {}
        self.waiting: dict[str, dict[str, int]] = {}  # how often each message was delivered
        self.folder = folder
        self._ca = self._ca_files()
        folder.mkdir()
        enrolled = in_memory.leaf("enrolled")
        devices = {name: create(emulator, folder, name) for name in ("sender", "repeater", "reporter", "owned", "box")}
        self._gate = Gate(self, "newcomer")
        self._telemetry = [Telemetry(self, devices["sender"]), Telemetry(self, devices["repeater"], again=True)]
        self._operators = [
            Operator(self, "enrollment", lambda name: enrollment(name, enrolled)),
            Operator(self, "group", lambda name: group(name, in_memory.ca(name))),  # each in one group alone
            Operator(self, "device", lambda name: device_identity(replace(enrolled, common_name=name))),
        ]
        self._others = [
            TwinOwner(self, devices["owned"]),
            Reporter(self, devices["reporter"]),
            Postbox(self, devices["box"]),
        ]
        self._devices = set(devices)
        self._threads: list[threading.Thread] = []

    @property
    def clients(self) -> list[Client]:
        return [*self._telemetry, self._gate, *self._operators, *self._others]

    def begin(self, *, only_new: bool = False) -> None:
        """Start all, or those alone that change nothing which is there already."""
        self.over.clear()
        for client in self.clients:
            client.was_in = False
        clients = [*self._telemetry, self._gate] if only_new else self.clients
        self._threads = [threading.Thread(target=client.run, daemon=True) for client in clients]
        for thread in self._threads:
            thread.start()

    def end(self) -> int:
        """The emulator is gone: wait until all have noticed. How much was in flight."""
        self.over.set()
        for thread in self._threads:
            thread.join(timeout=60)
            assert not thread.is_alive(), "a client has not noticed that the emulator is gone"
        return sum(client.in_flight for client in self.clients if client.was_in)

    def everybody_is_in(self) -> bool:
        """Whether all are connected, or have been since the last kill. Raises AssertionError for what is wrong."""
        assert not [client.wrong for client in self.clients if client.wrong]
        return all(client.was_in for client in self.clients)

    @property
    def acknowledged(self) -> Counter[str]:
        return sum((client.done for client in self.clients), Counter())

    def token(self) -> str:
        """What opens the emulator's own requests, another one each time it starts."""
        facts = running.read(self.emulator.state_dir)
        if facts is None:
            raise EmulatorError("the emulator is only just starting, or has gone")
        return facts.token

    # --- what is there afterwards ---

    def problems_on_disk(self) -> list[str]:
        """What is wrong with the files as they are, whether the emulator runs or not."""
        path = self.emulator.state_dir / "emulator.db"
        self.stored = {}
        for message in read_messages(path):
            self.stored.setdefault(message.device_id, []).append(message.body.decode())
        registered = [registration.registration_id for registration in read_registrations(path)]
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            integrity = [row[0] for row in database.execute("PRAGMA integrity_check")]
            commands = database.execute("SELECT device, record FROM commands ORDER BY number").fetchall()
        self.waiting, twice = {}, list[str]()
        for device, record in commands:
            message = json.loads(record)
            queue = self.waiting.setdefault(device, {})
            twice += [message["message_id"]] if message["message_id"] in queue else []
            queue[message["message_id"]] = message["deliveries"]
        return [
            *([] if integrity == ["ok"] else integrity),
            *(f"{name} waits twice" for name in twice),
            *(f"{name} is registered twice" for name in ledger.twice(registered)),
            *(problem for client in self._telemetry for problem in client.settle()),
            *([] if self._ca_files() == self._ca else ["the CA of the emulator is another one"]),
        ]

    def problems(self, emulator: RunningEmulator) -> list[str]:
        """What is wrong with an emulator that has just started again. From now on it is the one to work on."""
        self.emulator = emulator
        problems = self.problems_on_disk()
        if emulator.emulator.environment() != self.environment:
            problems.append("ID scope, keys or addresses are others")
        for client in self.clients:
            problems += client.wrong + client.settle()
            client.wrong.clear()
        enrolled = [one.enrolled for one in self._gate.newcomers.values()]
        listed = {
            "enrollment": self._listed("/enrollments/query", "registrationId"),
            "group": self._listed("/enrollmentGroups/query", "enrollmentGroupId"),
            "device": self._listed("/devices/query", "deviceId"),
        }
        for operator in self._operators:
            records = list(operator.records.values())
            found = listed[operator.name]
            if operator.name == "enrollment":
                records += enrolled
            if operator.name == "device":
                own = self._devices | {record.name for record in enrolled if record.known is not None}
                records += [Record(name, State(0, 0, "")) for name in sorted(own)]
            problems += ledger.membership(operator.name, found, records)
        log = "".join(path.read_text() for path in emulator.state_dir.glob("emulator.log*"))
        if "a fault of the emulator itself" in log or "Traceback" in log:
            problems.append("the log tells of a fault of the emulator itself")
        return problems

    def _listed(self, path: str, field: str) -> list[str]:
        query = "SELECT * FROM devices" if path == "/devices/query" else "SELECT *"
        return [row[field] for row in done(ask(self.emulator, "POST", path, {"query": query}))]

    def _ca_files(self) -> list[bytes]:
        return [(self.emulator.state_dir / name).read_bytes() for name in ("ca.pem", "ca.key.pem")]
