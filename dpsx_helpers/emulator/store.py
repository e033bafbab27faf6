"""What must survive: one SQLite file with enrollments, registrations, devices, messages and the emulator's own facts.

Writes wait in one open transaction until `commit`; nothing may be acknowledged before that. WAL with
`synchronous=NORMAL` keeps every committed row through the death of the process; a power failure may cost the last
commits (https://www.sqlite.org/pragma.html#pragma_synchronous).
"""

import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpsx_helpers.emulator.dps import Enrollment, Registration, Status
from dpsx_helpers.emulator.hub import Device, Message

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE enrollments (id TEXT PRIMARY KEY COLLATE NOCASE, primary_der BLOB NOT NULL, secondary_der BLOB,
                          record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE registrations (id TEXT PRIMARY KEY COLLATE NOCASE, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE devices (hub TEXT, id TEXT, record TEXT NOT NULL, PRIMARY KEY (hub, id)) WITHOUT ROWID;
CREATE TABLE messages (number INTEGER PRIMARY KEY, hub TEXT NOT NULL, device TEXT NOT NULL, enqueued TEXT NOT NULL,
                       properties TEXT NOT NULL, system TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX messages_of_a_device ON messages (device);
"""


class StoreError(Exception):
    """The file cannot be used. One sentence."""


class Store:
    """The open database. Used from one thread."""

    def __init__(self, path: Path) -> None:
        """Open or create `path` (readable by its owner alone). Raises StoreError when it is no database of ours."""
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None, timeout=1.0)
            self._prepare(path)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"the emulator's database {path} cannot be used: {error}") from None

    def _prepare(self, path: Path) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        new = version == 0 and not self._db.execute("SELECT 1 FROM sqlite_master").fetchone()
        if version != SCHEMA_VERSION and not new:
            self._db.close()
            raise StoreError(
                f"{path} is another program's, or was written by another version of the emulator (schema {version}, "
                f"this one has {SCHEMA_VERSION}): use another state directory, or delete this one"
            )
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        if new:
            self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")

    def _write(self, statement: str, values: tuple[Any, ...] | dict[str, Any] = ()) -> int:
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")
        return self._db.execute(statement, values).rowcount

    def commit(self) -> None:
        """Make everything written so far permanent. Raises sqlite3.Error, after which none of it is."""
        if self._db.in_transaction:
            try:
                self._db.execute("COMMIT")
            except sqlite3.Error:
                self._db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        self.commit()
        self._db.close()

    # --- the emulator's own facts ---

    def fact(self, name: str) -> str | None:
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def put_fact(self, name: str, value: str) -> None:
        self._write("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    # --- enrollments and registrations: IDs compare without regard to case ---

    def enrollment(self, registration_id: str) -> Enrollment | None:
        return next(self._enrollments("WHERE id = ?", (registration_id,)), None)

    def enrollments(self, limit: int = -1, offset: int = 0) -> list[Enrollment]:
        return list(self._enrollments("ORDER BY id LIMIT ? OFFSET ?", (limit, offset)))

    def _enrollments(self, clause: str, values: tuple[Any, ...]) -> Iterator[Enrollment]:
        for primary, secondary, record in self._db.execute(
            f"SELECT primary_der, secondary_der, record FROM enrollments {clause}",  # noqa: S608 - clauses are ours
            values,
        ):
            yield Enrollment(primary=primary, secondary=secondary, **json.loads(record))

    def put_enrollment(self, enrollment: Enrollment) -> None:
        record = asdict(enrollment)
        primary, secondary = record.pop("primary"), record.pop("secondary")
        self._write(
            "INSERT OR REPLACE INTO enrollments VALUES (?, ?, ?, ?)",
            (enrollment.registration_id, primary, secondary, json.dumps(record)),
        )

    def delete_enrollment(self, registration_id: str) -> None:
        """The registration record goes with its enrollment; the device in the hub stays."""
        self._write("DELETE FROM enrollments WHERE id = ?", (registration_id,))
        self._write("DELETE FROM registrations WHERE id = ?", (registration_id,))

    def registration(self, registration_id: str) -> Registration | None:
        row = self._db.execute("SELECT record FROM registrations WHERE id = ?", (registration_id,)).fetchone()
        if row is None:
            return None
        record = json.loads(row[0])
        return Registration(**record | {"status": Status(record["status"])})

    def put_registration(self, registration: Registration) -> None:
        self._write(
            "INSERT OR REPLACE INTO registrations VALUES (?, ?)",
            (registration.registration_id, json.dumps(asdict(registration))),
        )

    # --- devices: IDs are case-sensitive ---

    def device(self, hub: str, device_id: str) -> Device | None:
        row = self._db.execute("SELECT record FROM devices WHERE hub = ? AND id = ?", (hub, device_id)).fetchone()
        return None if row is None else Device(**json.loads(row[0]))

    def devices(self, hub: str, limit: int = -1, offset: int = 0) -> list[Device]:
        rows = self._db.execute(
            "SELECT record FROM devices WHERE hub = ? ORDER BY id LIMIT ? OFFSET ?", (hub, limit, offset)
        )
        return [Device(**json.loads(record)) for (record,) in rows]

    def put_device(self, device: Device) -> None:
        self._write(
            "INSERT OR REPLACE INTO devices VALUES (?, ?, ?)",
            (device.hub, device.device_id, json.dumps(asdict(device))),
        )

    def delete_device(self, hub: str, device_id: str) -> None:
        self._write("DELETE FROM devices WHERE hub = ? AND id = ?", (hub, device_id))

    # --- messages ---

    def add_message(self, message: Message) -> None:
        self._write(
            "INSERT INTO messages (hub, device, enqueued, properties, system, body) VALUES (?, ?, ?, ?, ?, ?)",
            (
                message.hub,
                message.device_id,
                message.enqueued,
                json.dumps(message.properties),
                json.dumps(message.system_properties),
                message.body,
            ),
        )

    def clear(self) -> None:
        """Delete enrollments, registrations, devices and messages; keep the facts."""
        for table in ("enrollments", "registrations", "devices", "messages"):
            self._write(f"DELETE FROM {table}")  # noqa: S608 - the names are the line above


def read_messages(path: Path, device_id: str | None = None) -> Iterator[Message]:
    """The messages in the order they were stored, read beside a running emulator or after it.

    Raises StoreError when there is no readable database at `path`.
    """
    try:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)
        rows = database.execute(
            "SELECT hub, device, enqueued, properties, system, body FROM messages "
            "WHERE device = coalesce(?, device) ORDER BY number",
            (device_id,),
        )
        for hub, device, enqueued, properties, system, body in rows:
            yield Message(hub, device, enqueued, json.loads(properties), json.loads(system), body)
        database.close()
    except sqlite3.Error as error:
        raise StoreError(f"the emulator's database {path} cannot be read: {error}") from None
