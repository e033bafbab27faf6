"""An emulator of the Device Provisioning Service and IoT Hub: one background process for each state directory.

`Emulator.start` starts it or attaches to it, from a notebook or a test; `python -m dpsx_helpers.emulator` does the
same from a terminal. What it answers, and what it does not, is in `scope`.
"""

import base64
import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dpsx_helpers.emulator import dps, hub, process, running
from dpsx_helpers.emulator.commands import MAX_MESSAGE
from dpsx_helpers.emulator.control import request
from dpsx_helpers.emulator.faults import RETRY_AFTER, SECONDS, Fault, unfit
from dpsx_helpers.emulator.process import EmulatorError
from dpsx_helpers.emulator.running import Running
from dpsx_helpers.emulator.store import DATABASE, Store, StoreError, read_messages, read_registrations
from dpsx_helpers.emulator.students import Student
from dpsx_helpers.emulator.tls import Files
from dpsx_helpers.errors import shown_value
from dpsx_helpers.joining import Join

__all__ = ["Emulator", "EmulatorError", "Overview"]


@dataclass(frozen=True, slots=True)
class Overview:
    """What the portal's Overview shows, and the connection strings. The keys are kept out of the representation."""

    id_scope: str
    host: str
    mqtt_port: int
    https_port: int
    ws_port: int | None
    service_endpoint: str
    hubs: tuple[str, ...]
    ca_file: Path
    bundle_file: Path
    started_by: str
    pid: int
    dps_connection_string: str = field(repr=False)
    iothub_connection_string: str = field(repr=False)


class Emulator:
    """A running emulator, found by its state directory. Any number of these may stand for one process."""

    def __init__(self, state_dir: Path, facts: Running) -> None:
        self.state_dir = state_dir
        self._facts = facts

    def __repr__(self) -> str:
        return f"<Emulator at {self._facts.host}, ID scope {self._facts.id_scope}>"

    @classmethod
    def start(cls, state_dir: Path, *, host: str | None = None, idle_hours: float = 8.0) -> "Emulator":
        """Attach to the emulator of `state_dir`, or start one and wait until it is ready.

        With no `host` it takes 127.0.0.1 or, on Linux, the next free 127.x.y.z. It ends by itself after `idle_hours`
        without a connection or request (0 = never). Raises EmulatorError with what keeps it from starting.
        """
        state_dir = state_dir.absolute()
        facts = running.read(state_dir)
        if facts is None or not process.listens(facts):
            facts = process.spawn(state_dir, host, idle_hours)
        if host is not None and host != facts.host:
            raise EmulatorError(
                f"The emulator of {state_dir} runs at {facts.host}, not at {host}: stop it, or leave the host out."
            )
        return cls(state_dir, facts)

    @classmethod
    def attach(cls, state_dir: Path) -> "Emulator":
        """The emulator that runs on `state_dir`. Raises EmulatorError when none does."""
        facts = running.read(state_dir.absolute())
        if facts is None:
            raise EmulatorError(running.none_there(state_dir))
        return cls(state_dir.absolute(), facts)

    @property
    def overview(self) -> Overview:
        facts, files = self._facts, Files(self.state_dir)
        return Overview(
            id_scope=facts.id_scope,
            host=facts.host,
            mqtt_port=facts.mqtt_port,
            https_port=facts.https_port,
            ws_port=facts.ws_port,
            service_endpoint=facts.endpoint,
            hubs=tuple(facts.hubs.values()),
            ca_file=files.ca,
            bundle_file=files.bundle,
            started_by=facts.started_by,
            pid=facts.pid,
            dps_connection_string=facts.dps_connection_string,
            iothub_connection_string=facts.iothub_connection_string,
        )

    @property
    def log_file(self) -> Path:
        return self.state_dir / "emulator.log"

    def environment(self) -> dict[str, str]:
        """The variables that point unmodified clients at this emulator. Two of them hold keys."""
        return self._facts.environment(Files(self.state_dir))

    def running(self) -> bool:
        """Whether the process lives."""
        facts = running.read(self.state_dir)
        return facts is not None and facts.token == self._facts.token

    def messages(self, device_id: str | None = None) -> list[dict[str, Any]]:
        """The device-to-cloud messages that the hub has stored, oldest first, also after the process has ended."""
        return messages(self.state_dir, device_id)

    def registrations(self) -> list[dict[str, Any]]:
        """The registrations as DPS remembers them, each with the `payload` that the device sent."""
        return registrations(self.state_dir)

    def send(
        self,
        device_id: str,
        body: str | bytes,
        *,
        properties: dict[str, str] | None = None,
        message_id: str | None = None,
        expires_in: float | None = None,
    ) -> str:
        """Queue a cloud-to-device message; its message ID. It is delivered when the device listens.

        `expires_in` is in seconds, one hour when it is not given. Raises EmulatorError when the hub refuses: an
        unknown device, more than 64 KB, 50 messages waiting already.
        """
        if not isinstance(body, str | bytes):
            raise EmulatorError(f"The message {shown_value(body)} is neither text nor bytes: send one of these.")
        try:
            raw = body.encode() if isinstance(body, str) else body
        except UnicodeEncodeError:
            raise EmulatorError(
                "The message holds half a surrogate pair, which is no text: send text or bytes."
            ) from None
        if len(raw) > MAX_MESSAGE:  # the emulator would not even read it
            raise EmulatorError(
                f"The cloud-to-device message has {len(raw)} bytes; the limit is {MAX_MESSAGE}: send less."
            )
        if isinstance(expires_in, float) and not math.isfinite(expires_in):  # there is no JSON for it
            raise EmulatorError(f"ExpiresIn is not a number of seconds: {expires_in} is none.")
        answer = request(
            self.state_dir,
            self._facts,
            "emulator/send",
            {
                "deviceId": device_id,
                "body": base64.b64encode(raw).decode(),
                "properties": properties or {},
                "messageId": message_id,
                "expiresIn": expires_in,
            },
        )
        return str(answer["messageId"])

    def fault(
        self,
        kind: str,
        device: str | None = None,
        *,
        times: int | None = None,
        retry_after: int = RETRY_AFTER,
        seconds: float = SECONDS,
    ) -> None:
        """Let devices meet a fault: one of `dpsx_helpers.emulator.faults.KINDS`.

        `device` is a registration ID or device ID (None: every one), `times` how often (None: until `clear_faults`),
        `retry_after` the seconds that 429 and 500 ask to wait, `seconds` how long `slow` takes. Raises EmulatorError.
        """
        fault = Fault(kind, device, times, retry_after, seconds)
        if why := unfit(fault):
            raise EmulatorError(f"{why[:1].upper()}{why[1:]}.")
        request(self.state_dir, self._facts, "emulator/faults", asdict(fault))

    def faults(self) -> list[dict[str, Any]]:
        """The faults that are on: `kind`, `device`, `left` (how often still), `retry_after`, `seconds`."""
        return list(request(self.state_dir, self._facts, "emulator/faults", method="GET"))

    def clear_faults(self) -> None:
        """Switch all faults off."""
        request(self.state_dir, self._facts, "emulator/faults", method="DELETE")

    def ca_certificates(self) -> list[dict[str, Any]]:
        """The CA certificates of this DPS, as Azure's Resource Manager shows them."""
        return list(self._dps("GET", "certificates")["value"])

    def add_ca_certificate(self, name: str, pem: str) -> None:
        """Upload a CA certificate, which does not count before it is verified. Raises EmulatorError."""
        self._dps("PUT", f"certificates/{_in_path(name)}", {"properties": {"certificate": pem}})

    def verification_code(self, name: str) -> str:
        """A fresh code for the proof of possession: the common name of a certificate to sign with the CA's key."""
        path = f"certificates/{_in_path(name)}/generateVerificationCode"
        return str(self._dps("POST", path)["properties"]["verificationCode"])

    def verify_ca_certificate(self, name: str, pem: str) -> None:
        """Prove with that certificate that the CA's key is yours. Raises EmulatorError when it proves nothing."""
        self._dps("POST", f"certificates/{_in_path(name)}/verify", {"certificate": pem})

    def delete_ca_certificate(self, name: str) -> None:
        """Delete a CA certificate that no enrollment group names. Raises EmulatorError."""
        self._dps("DELETE", f"certificates/{_in_path(name)}")

    def _dps(self, method: str, path: str, document: dict[str, Any] | None = None) -> Any:
        """A request to the data plane of DPS."""
        return request(self.state_dir, self._facts, path, document, method=method)

    def admit(self, registration_ids: list[str]) -> list[Join]:
        """Let students join, each with a key for their own registration ID alone; what to hand to each.

        Who is in the class already keeps their key. Raises EmulatorError for what is no registration ID.
        """
        document = {"registrationIds": registration_ids}
        return self._joins(request(self.state_dir, self._facts, "emulator/students", document))

    def students(self) -> list[Join]:
        """What each student joins with, by name."""
        return self._joins(request(self.state_dir, self._facts, "emulator/students", method="GET"))

    def dismiss(self, registration_id: str) -> None:
        """Forget a student, their key, and all that they have made. Raises EmulatorError when there is none."""
        path = f"emulator/students/{_in_path(registration_id)}"
        request(self.state_dir, self._facts, path, method="DELETE")

    def board(self) -> dict[str, Any]:
        """How far every student is: see `classroom.board`."""
        return dict(request(self.state_dir, self._facts, "emulator/board", method="GET"))

    def _joins(self, records: list[dict[str, str]]) -> list[Join]:
        facts, ca = self._facts, Files(self.state_dir).ca.read_text(encoding="ascii")
        return [
            Join(
                host=facts.host,
                mqtt_port=facts.mqtt_port,
                https_port=facts.https_port,
                ws_port=facts.ws_port,
                hubs=tuple(facts.hubs.values()),
                id_scope=facts.id_scope,
                registration_id=student.registration_id,
                key=student.key,
                ca=ca,
            )
            for student in (Student(**record) for record in records)
        ]

    def reset(self, device: str | None = None) -> None:
        """Delete all that DPS and its hubs keep, and the faults; keep ID scope, the emulator's CA, keys and students.

        With `device` all that carries that registration ID, and nothing else.
        """
        reset(self.state_dir, device)

    def stop(self) -> None:
        """End the process and wait until its ports are free. Nothing happens when it has ended already."""
        process.stop(self.state_dir, self._facts.token)


def _nothing_in(state_dir: Path) -> str:
    return (
        f"There is no emulator in {state_dir}: name the directory that `run` was given, or, in a notebook, run its "
        "first cells, which start one."
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _in_path(name: str) -> str:
    """A name as one part of a path. Raises EmulatorError for what no path can hold."""
    if not _is_text(name):
        raise EmulatorError(f"The name {shown_value(name)} is no text: give the name that it was made with.")
    return quote(name, safe="")


def messages(state_dir: Path, device_id: str | None = None) -> list[dict[str, Any]]:
    """Stored messages as `messages --json` prints them: `body` is text, or base64 where it is not UTF-8.

    Raises EmulatorError when there is no readable database.
    """
    path = state_dir / DATABASE
    if not path.exists():
        raise EmulatorError(_nothing_in(state_dir))
    if device_id is not None and not _is_text(device_id):
        raise EmulatorError(f"The device ID {shown_value(device_id)} is no text: give one that `registrations` shows.")
    try:
        return [hub.message_document(message) for message in read_messages(path, device_id)]
    except StoreError as error:
        raise EmulatorError(f"{error}.") from None


def registrations(state_dir: Path) -> list[dict[str, Any]]:
    """The registrations as `registrations --json` prints them: what DPS shows, and the `payload` of the device.

    Raises EmulatorError when there is no readable database.
    """
    path = state_dir / DATABASE
    if not path.exists():
        raise EmulatorError(_nothing_in(state_dir))
    facts = running.read(state_dir)
    hubs = facts.hubs if facts else {}
    try:
        return [dps.record(row, hubs) | {"payload": row.payload} for row in read_registrations(path)]
    except StoreError as error:
        raise EmulatorError(f"{error}.") from None


def reset(state_dir: Path, device: str | None = None) -> None:
    """Reset the emulator of a state directory, whether it runs or not; or one device of a running one.

    Raises EmulatorError.
    """
    facts = Emulator.attach(state_dir)._facts if device is not None else running.read(state_dir)
    if facts is not None:
        request(state_dir, facts, "emulator/reset", {"device": device})
        return
    path = state_dir / DATABASE
    if path.exists():
        try:
            store = Store(path)
            store.clear()
            store.close()
        except StoreError as error:
            raise EmulatorError(f"{error}.") from None


def stop(state_dir: Path) -> None:
    """End the emulator of a state directory, if there is one, and wait until its ports are free."""
    process.stop(state_dir)
