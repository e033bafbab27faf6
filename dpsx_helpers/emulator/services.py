"""DPS and its linked hubs as one: their records, who is connected right now, and which faults are on. No sockets."""

import logging
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import uuid4

from dpsx_helpers.emulator import commands, dps, faults, identity, refusals, students
from dpsx_helpers.emulator.attestation import Known
from dpsx_helpers.emulator.commands import Command
from dpsx_helpers.emulator.faults import Fault, Stage
from dpsx_helpers.emulator.identity import Device
from dpsx_helpers.emulator.limits import Limits
from dpsx_helpers.emulator.methods import Call
from dpsx_helpers.emulator.refusals import Refused
from dpsx_helpers.emulator.stamps import Stamp, written
from dpsx_helpers.emulator.store import Store
from dpsx_helpers.emulator.trouble import Trouble
from dpsx_helpers.emulator.twin import Twin

HUB_LOG = logging.getLogger("dpsx_helpers.emulator.hub")
_KEYS = re.compile(rb'(?<=[kK]ey")\s*:\s*"[^"]*"|SharedAccess\w*[= ][^\s"]*')


class Connected(Protocol):
    """A connection, as far as others may act on it."""

    def refuse(self, refused: Refused) -> None: ...


class Online(Protocol):
    """A device that is connected to its hub, as far as the hub's service side may act on it."""

    def deliver(self) -> None: ...
    def tell_desired(self, patch: dict[str, Any]) -> None: ...
    def call(self, call: Call, answered: Callable[[int, bytes], None], lost: Callable[[], None]) -> str | None: ...
    def forget_call(self, request_id: str) -> None: ...
    def forget_commands(self) -> None: ...


class Services:
    """What all connections and requests share. `bodies`: payloads go to the log, too."""

    def __init__(
        self,
        store: Store,
        service: dps.Service,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        new_guid: Callable[[], str] = lambda: str(uuid4()),
        *,
        limits: Limits | None = None,
        bodies: bool = False,
    ) -> None:
        self.store = store
        self.dps = service
        self.limits = limits
        self.bodies = bodies
        self.stopping = False
        self.trouble = Trouble(store.path)
        self._clock = clock
        self._new_guid = new_guid
        self._connected: dict[tuple[str, ...], Connected] = {}
        self._online: dict[tuple[str, str], Online] = {}
        self._waiting: set[Callable[[], None]] = set()
        self._faults = store.faults()

    def time(self) -> str:
        """Now, as Azure writes it: for what needs no stamp of its own."""
        return written(self._clock())

    def stamp(self) -> Stamp:
        return Stamp(self._clock(), self._new_guid())

    def commit(self) -> None:
        """Make permanent what was written. Raises sqlite3.Error, after which none of it is."""
        if self.store.commit():
            self.trouble.over()

    def not_stored(self, error: sqlite3.Error) -> str:
        """Forget what was written since the last commit, since something of it could not be stored; why, in words."""
        reason = self.trouble.met(error)
        try:
            self.store.roll_back()
            self._faults = self.store.faults()  # one may have been used up
        except sqlite3.Error:
            HUB_LOG.debug("nor could it be rolled back", exc_info=True)
        return reason

    def hub_at(self, host: str) -> str | None:
        """The identity of the linked hub that has this address now."""
        return next((key for key, address in self.dps.hubs.items() if address.lower() == host.lower()), None)

    def known(self, registration_id: str) -> Known:
        """What DPS knows of a device that asks for a registration."""
        enrollment = self.store.enrollment(registration_id)
        return Known(enrollment, self.store.ca_certificates, self.store.groups_of)

    def body(self, payload: bytes) -> str:
        """A payload as it goes to the log: not at all, unless that was asked for, and then without the keys in it."""
        return f" with body {_KEYS.sub(b'***', payload)[:1000]!r}" if self.bodies else ""

    # --- who is connected ---

    def is_connected(self, device: Device) -> bool:
        return (device.hub, device.device_id) in self._online

    def is_anywhere(self, name: str) -> bool:
        """Whether a device of this ID, in whatever case, is connected to any hub."""
        return any(device.lower() == name.lower() for _, device in self._online)

    def connected_devices(self, hub: str) -> int:
        return sum(1 for key in self._online if key[0] == hub)

    def join(self, key: tuple[str, ...], conversation: Connected) -> None:
        """Note a connection under its device; an older one of the same device has to go."""
        older = self._connected.pop(key, None)
        if older is not None:
            older.refuse(Refused(refusals.EVICTED, device=key[-1]))
        self._connected[key] = conversation

    def leave(self, key: tuple[str, ...], conversation: Connected) -> None:
        if self._connected.get(key) is conversation:
            del self._connected[key]

    def come_online(self, hub: str, device_id: str, peer: Online) -> None:
        self._online[hub, device_id] = peer

    def go_offline(self, hub: str, device_id: str, peer: Online) -> None:
        if self._online.get((hub, device_id)) is peer:
            del self._online[hub, device_id]

    def drop(self, device: Device, refusal: refusals.Refusal = refusals.REMOVED) -> None:
        """Close the connection of a device whose identity is gone or disabled."""
        self._drop(("hub", device.hub, device.device_id), refusal)

    def _drop(self, key: tuple[str, ...], refusal: refusals.Refusal) -> None:
        conversation = self._connected.pop(key, None)
        if key[0] == "hub":  # from now on, not only when its socket is gone
            self._online.pop((key[1], key[2]), None)
        if conversation is not None:
            conversation.refuse(Refused(refusal, device=key[-1], device_id=key[-1]))

    def reset(self) -> None:
        """Forget all that DPS and hub keep, and the faults; keep ID scope, CA and keys."""
        self.store.clear()
        self._faults = []
        for key in list(self._connected):
            self._drop(key, refusals.REMOVED)

    def forget(self, device: str) -> None:
        """Forget all that DPS and the hubs keep of one registration ID, and its faults; its connection is closed."""
        self.store.delete_enrollment(device)
        self.store.delete_messages(device)
        self.store.delete_mistakes(device)
        self.store.delete_faults_of(device)
        self._faults = self.store.faults()
        for hub in self.dps.hubs:
            for found, _ in self.store.devices(hub):
                if found.device_id.lower() == device.lower():
                    self.remove(found)

    def note_mistake(self, name: str, refused: Refused) -> None:
        """Remember what was refused to a student's device or key, for the board. Of others nothing is kept."""
        student = self.store.student(name) if name.isprintable() else None
        if student is not None and students.counts_as_mistake(refused):
            before = self.store.mistakes(name)
            mistakes = students.with_one_more(before, refused, self.stamp().text)
            self.store.put_mistakes(student.registration_id, mistakes)

    # --- faults ---

    def faults(self) -> list[Fault]:
        return [fault for _, fault in self._faults]

    def switch_on(self, fault: Fault) -> None:
        self.store.put_fault(fault)
        self._faults = self.store.faults()

    def clear_faults(self) -> None:
        self.store.delete_faults()
        self._faults = []

    def fault(self, stage: Stage, device: str) -> Fault | None:
        """The fault that acts on a device now. It has then acted once."""
        if not self._faults:
            return None
        found = faults.pick(self.faults(), stage, device)
        if found is None:
            return None
        number = next(number for number, fault in self._faults if fault is found)
        left = found.used()
        if left is None:
            self.store.delete_faults(number)
        elif left is not found:
            self.store.put_fault(left, number)
        if left is not found:
            self._faults = self.store.faults()
        return found

    @staticmethod
    def injected(fault: Fault) -> Refused | None:
        """How a fault refuses, if that is what it does."""
        refusal = faults.KINDS[fault.kind].refusal
        return None if refusal is None else refusals.injected(refusal, fault.kind)

    # --- the hub's service side ---

    def provision(self, assignment: dps.Assignment, stamp: Stamp) -> None:
        """Do in the hubs what DPS has decided: make or change the device, and take it from the hub that it leaves."""
        hub, name = assignment.hub, assignment.device_id
        left = None
        if assignment.leaves is not None:
            left = self.store.twin(*assignment.leaves)
            former = self.store.device(*assignment.leaves)
            self.store.delete_device(*assignment.leaves)
            if former is not None:
                self.drop(former)
        device, twin = self.store.device(hub, name), self.store.twin(hub, name)
        wanted = identity.provision(device, assignment, stamp)
        wanted_twin = identity.provision_twin(twin, left, assignment, stamp)
        if (wanted, wanted_twin) != (device, twin):
            self.store.add_device(wanted, wanted_twin)

    def remove(self, device: Device) -> None:
        self.store.delete_device(device.hub, device.device_id)
        self.drop(device)

    def change_twin(self, device: Device, twin: Twin, told: dict[str, Any] | None) -> None:
        """Store a twin that the service has changed, and tell the device what of it concerns it."""
        self.store.put_twin(device, twin)
        online = self._online.get((device.hub, device.device_id))
        if online is not None and told is not None:
            online.tell_desired(told)

    def pending(self, hub: str, device_id: str) -> list[Command]:
        """The cloud-to-device messages that wait, oldest first. Those whose time is over are dropped now."""
        waiting = self.store.commands(hub, device_id)
        over = commands.expired(waiting, self._clock().timestamp()) if waiting else []
        for command in over:
            HUB_LOG.info("= message %s for %s has expired", command.message_id, device_id)
            self.store.delete_command(command.number)
        return [command for command in waiting if command not in over]

    def send_command(self, device: Device, body: bytes, settings: dict[str, Any]) -> Command:
        """Queue a cloud-to-device message, and deliver it if the device listens. Raises Refused."""
        hub, name = device.hub, device.device_id
        command = commands.enqueue(hub, name, len(self.pending(hub, name)), body, settings, self.stamp())
        self.store.put_command(command)
        online = self._online.get((hub, name))
        HUB_LOG.info("= message %s is queued for %s%s", command.message_id, name, self.body(body))
        if online is not None:
            online.deliver()
        return command

    def purge_commands(self, device: Device) -> int:
        """Delete what waits for a device; how many there were."""
        waiting = self.pending(device.hub, device.device_id)
        online = self._online.get((device.hub, device.device_id))
        if online is not None:
            online.forget_commands()
        for command in waiting:
            self.store.delete_command(command.number)
        return len(waiting)

    def call_method(
        self, device: Device, call: Call, answered: Callable[[int, bytes], None], lost: Callable[[], None]
    ) -> Callable[[], None] | None:
        """Send a direct method to a device; None when it is not there to take it, else how to forget the call.

        `answered` gets the device's status and payload, `lost` is called when the device goes before it answers.
        """
        online = self._online.get((device.hub, device.device_id))
        request_id = online.call(call, answered, lost) if online else None
        if online is None or request_id is None:
            return None
        return lambda: online.forget_call(request_id)

    @contextmanager
    def watching(self, ready: Callable[[], None]) -> Iterator[None]:
        """While inside, `ready` is called each time a device has subscribed to direct methods."""
        self._waiting.add(ready)
        try:
            yield
        finally:
            self._waiting.discard(ready)

    def takes_methods(self) -> None:
        """A device has subscribed to direct methods."""
        for ready in list(self._waiting):
            ready()

    def keep_subscriptions(self, device: Device, c2d_qos: int | None, others: list[str]) -> None:
        """Keep these subscriptions of a device beyond its connection, and no others."""
        if (device.c2d_qos, device.kept) != (c2d_qos, others):
            self.store.put_device(replace(device, c2d_qos=c2d_qos, kept=others))
