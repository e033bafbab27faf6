"""What must survive: one SQLite file with all that DPS and its hubs keep, and the emulator's own facts.

Writes wait in one open transaction until `commit`; nothing may be acknowledged before that. WAL with
`synchronous=NORMAL` keeps every committed row through the death of the process; a power failure may cost the last
commits (https://www.sqlite.org/pragma.html#pragma_synchronous).
"""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from dpsx_helpers.emulator import wal
from dpsx_helpers.emulator.commands import Command
from dpsx_helpers.emulator.faults import Fault
from dpsx_helpers.emulator.hub import Message
from dpsx_helpers.emulator.identity import Device
from dpsx_helpers.emulator.records import CaCertificate, Enrollment, Group, Registration, Status, Substatus
from dpsx_helpers.emulator.students import Mistakes, Student
from dpsx_helpers.emulator.trouble import GoneError, identity, why
from dpsx_helpers.emulator.twin import Twin

DATABASE = "emulator.db"
_LARGEST_LOG = 1 << 25  # bytes that are looked through at a start after a crash; SQLite keeps a log to 4 MB
SCHEMA_VERSION = 3
_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE enrollments (id TEXT PRIMARY KEY COLLATE NOCASE, primary_der BLOB, secondary_der BLOB,
                          record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE groups (id TEXT PRIMARY KEY COLLATE NOCASE, primary_der BLOB, secondary_der BLOB,
                     record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE ca_certificates (name TEXT PRIMARY KEY COLLATE NOCASE, der BLOB NOT NULL, record TEXT NOT NULL)
             WITHOUT ROWID;
CREATE TABLE registrations (id TEXT PRIMARY KEY COLLATE NOCASE, group_id TEXT COLLATE NOCASE, record TEXT NOT NULL)
             WITHOUT ROWID;
CREATE INDEX registrations_of_a_group ON registrations (group_id);
CREATE TABLE devices (hub TEXT, id TEXT, record TEXT NOT NULL, twin TEXT NOT NULL, PRIMARY KEY (hub, id))
             WITHOUT ROWID;
CREATE TABLE commands (number INTEGER PRIMARY KEY AUTOINCREMENT, hub TEXT NOT NULL, device TEXT NOT NULL,
                       record TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX commands_of_a_device ON commands (hub, device);
CREATE TABLE faults (number INTEGER PRIMARY KEY, record TEXT NOT NULL);
CREATE TABLE messages (number INTEGER PRIMARY KEY, hub TEXT NOT NULL, device TEXT NOT NULL, enqueued TEXT NOT NULL,
                       properties TEXT NOT NULL, system TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX messages_of_a_device ON messages (device);
"""
# What each version added. A database of the version before it gets that, and keeps all that it has.
_ADDED = {
    3: """
CREATE TABLE students (id TEXT PRIMARY KEY COLLATE NOCASE, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE mistakes (id TEXT PRIMARY KEY COLLATE NOCASE, record TEXT NOT NULL) WITHOUT ROWID;
""",
}
_CLEARED = (
    "enrollments", "groups", "ca_certificates", "registrations", "devices", "commands", "messages", "faults",
    "mistakes",
)  # fmt: skip


class StoreError(Exception):
    """The file cannot be used. One sentence."""


class Store:
    """The open database. Used from one thread.

    `lost` counts how often something was written and then not kept: by whoever rolled it back, or by SQLite.
    """

    def __init__(self, path: Path) -> None:
        """Open or create `path` (readable by its owner alone). Raises StoreError when it is no database of ours."""
        self.path = path
        self.lost = 0
        self._open = False
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            for beside in filter(Path.exists, (_wal(path), path.with_name(f"{path.name}-shm"))):
                os.close(os.open(beside, os.O_RDWR))
            _check(path)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=1.0)
            try:
                self._prepare(path)
            except BaseException:
                self._db.close()
                raise
        except OSError as error:
            raise StoreError(f"{why(Path(error.filename or path), error)}, or use another state directory") from None
        except sqlite3.Error as error:
            raise StoreError(f"{why(path, error)}, or use another state directory") from None
        self._files = [(str(each), identity(each)) for each in (path, _wal(path))]

    def _prepare(self, path: Path) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        new = version == 0 and not self._db.execute("SELECT 1 FROM sqlite_master").fetchone()
        if version not in (SCHEMA_VERSION, *(later - 1 for later in _ADDED)) and not new:
            raise StoreError(
                f"{path} is another program's, or was written by another version of the emulator (schema {version}, "
                f"this one has {SCHEMA_VERSION}): use another state directory, or delete this one"
            )
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        missing = [statements for later, statements in _ADDED.items() if version < later]
        if missing:
            statements = "".join([_SCHEMA, *missing] if new else missing)
            self._db.executescript(f"BEGIN; {statements} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")

    def _write(self, statement: str, values: tuple[Any, ...] | dict[str, Any] = ()) -> int:
        if not self._open:
            self._db.execute("BEGIN IMMEDIATE")
            self._open = True
        try:
            return self._db.execute(statement, values).rowcount
        except sqlite3.Error:
            # SQLite may have rolled back already (https://www.sqlite.org/lang_transaction.html), or only this statement
            self.roll_back()
            raise

    def commit(self) -> bool:
        """Make everything written so far permanent; whether there was anything.

        Raises sqlite3.Error, after which none of it is: GoneError where nobody would ever find it.
        """
        if not self._open:
            return False
        try:
            if gone := self.gone():
                raise GoneError(gone)
            self._db.execute("COMMIT")
        except sqlite3.Error:
            self.roll_back()
            raise
        self._open = False
        return True

    def roll_back(self) -> None:
        """Forget what was written since the last commit."""
        if self._open:
            self._open = False
            self.lost += 1
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def gone(self) -> str | None:
        """A file that is not the one that was opened: what is written to a deleted file is written for nobody."""
        for path, known in self._files:
            if identity(path) != known:
                return path
        return None

    def close(self) -> None:
        """Commit where that is possible, and close."""
        try:
            self.commit()
        finally:
            self._db.close()

    # --- the emulator's own facts ---

    def fact(self, name: str) -> str | None:
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def put_fact(self, name: str, value: str) -> None:
        self._write("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    # --- enrollments, groups, CA certificates and registrations: IDs compare without regard to case ---

    def enrollment(self, registration_id: str) -> Enrollment | None:
        return next(self._enrollments("WHERE id = ?", (registration_id,)), None)

    def enrollments(self, limit: int = -1, offset: int = 0) -> list[Enrollment]:
        return list(self._enrollments("ORDER BY id LIMIT ? OFFSET ?", (limit, offset)))

    def _enrollments(self, clause: str, values: tuple[Any, ...]) -> Iterator[Enrollment]:
        for primary, secondary, record in self._db.execute(
            f"SELECT primary_der, secondary_der, record FROM enrollments {clause}",  # noqa: S608 - clauses are ours
            values,
        ):
            yield Enrollment(primary=primary, secondary=secondary, **_loaded(record))

    def put_enrollment(self, enrollment: Enrollment) -> None:
        record = _fields(enrollment)
        primary, secondary = record.pop("primary"), record.pop("secondary")
        self._write(
            "INSERT OR REPLACE INTO enrollments VALUES (?, ?, ?, ?)",
            (enrollment.registration_id, primary, secondary, _dumped(record)),
        )

    def delete_enrollment(self, registration_id: str) -> None:
        """The registration record goes with its enrollment; the device in the hub stays."""
        self._write("DELETE FROM enrollments WHERE id = ?", (registration_id,))
        self.delete_registration(registration_id)

    def group(self, group_id: str) -> Group | None:
        return next(self._groups("WHERE id = ?", (group_id,)), None)

    def groups(self, limit: int = -1, offset: int = 0) -> list[Group]:
        return list(self._groups("ORDER BY id LIMIT ? OFFSET ?", (limit, offset)))

    def groups_of(self, certificate: bytes) -> list[Group]:
        """The groups that hold this certificate, or name it."""
        names = self._db.execute("SELECT name FROM ca_certificates WHERE der = ?", (certificate,)).fetchall()
        named = {name.lower() for (name,) in names}
        return [
            group
            for group in self._groups("ORDER BY id", ())
            if certificate in (group.primary, group.secondary)
            or named & {(name or "").lower() for name in (group.primary_ca, group.secondary_ca)}
        ]

    def _groups(self, clause: str, values: tuple[Any, ...]) -> Iterator[Group]:
        for primary, secondary, record in self._db.execute(
            f"SELECT primary_der, secondary_der, record FROM groups {clause}",  # noqa: S608 - clauses are ours
            values,
        ):
            yield Group(primary=primary, secondary=secondary, **_loaded(record))

    def put_group(self, group: Group) -> None:
        record = _fields(group)
        primary, secondary = record.pop("primary"), record.pop("secondary")
        self._write(
            "INSERT OR REPLACE INTO groups VALUES (?, ?, ?, ?)",
            (group.group_id, primary, secondary, _dumped(record)),
        )

    def delete_group(self, group_id: str) -> None:
        """The registration records stay, as the devices in the hub do.

        https://learn.microsoft.com/azure/iot-dps/how-to-unprovision-devices#enrollment-groups
        """
        self._write("DELETE FROM groups WHERE id = ?", (group_id,))

    def ca_certificate(self, name: str) -> CaCertificate | None:
        return next((ca for ca in self.ca_certificates() if ca.name.lower() == name.lower()), None)

    def ca_certificates(self) -> list[CaCertificate]:
        rows = self._db.execute("SELECT der, record FROM ca_certificates ORDER BY name")
        return [CaCertificate(der=der, **_read(record)) for der, record in rows]

    def put_ca_certificate(self, certificate: CaCertificate) -> None:
        record = _fields(certificate)
        der = record.pop("der")
        self._write("INSERT OR REPLACE INTO ca_certificates VALUES (?, ?, ?)", (certificate.name, der, _dumped(record)))

    def delete_ca_certificate(self, name: str) -> None:
        self._write("DELETE FROM ca_certificates WHERE name = ?", (name,))

    def registration(self, registration_id: str) -> Registration | None:
        return next(_registrations(self._db, "WHERE id = ?", (registration_id,)), None)

    def registrations(self, group_id: str, limit: int = -1, offset: int = 0) -> list[Registration]:
        """Those of one group."""
        clause = "WHERE group_id = ? ORDER BY id LIMIT ? OFFSET ?"
        return list(_registrations(self._db, clause, (group_id, limit, offset)))

    def put_registration(self, registration: Registration) -> None:
        self._write(
            "INSERT OR REPLACE INTO registrations VALUES (?, ?, ?)",
            (registration.registration_id, registration.group_id, _dumped(registration)),
        )

    def delete_registration(self, registration_id: str) -> None:
        self._write("DELETE FROM registrations WHERE id = ?", (registration_id,))

    # --- devices with their twins: IDs are case-sensitive ---

    def device(self, hub: str, device_id: str) -> Device | None:
        row = self._db.execute("SELECT record FROM devices WHERE hub = ? AND id = ?", (hub, device_id)).fetchone()
        return None if row is None else Device(**_read(row[0]))

    def twin(self, hub: str, device_id: str) -> Twin | None:
        row = self._db.execute("SELECT twin FROM devices WHERE hub = ? AND id = ?", (hub, device_id)).fetchone()
        return None if row is None else Twin.load(_read(row[0]))

    def devices(self, hub: str, limit: int = -1, offset: int = 0) -> list[tuple[Device, Twin]]:
        rows = self._db.execute(
            "SELECT record, twin FROM devices WHERE hub = ? ORDER BY id LIMIT ? OFFSET ?", (hub, limit, offset)
        )
        return [(Device(**_read(record)), Twin.load(_read(twin))) for record, twin in rows]

    def add_device(self, device: Device, twin: Twin) -> None:
        """Write both, whatever was there."""
        self._write(
            "INSERT OR REPLACE INTO devices VALUES (?, ?, ?, ?)",
            (device.hub, device.device_id, _dumped(device), _dumped(twin)),
        )

    def put_device(self, device: Device) -> None:
        """Change a device that is there; its twin stays."""
        self._write(
            "UPDATE devices SET record = ? WHERE hub = ? AND id = ?",
            (_dumped(device), device.hub, device.device_id),
        )

    def put_twin(self, device: Device, twin: Twin) -> None:
        self._write(
            "UPDATE devices SET twin = ? WHERE hub = ? AND id = ?",
            (_dumped(twin), device.hub, device.device_id),
        )

    def delete_device(self, hub: str, device_id: str) -> None:
        """Its twin and what waits for it go, too; what it has sent stays."""
        self._write("DELETE FROM devices WHERE hub = ? AND id = ?", (hub, device_id))
        self._write("DELETE FROM commands WHERE hub = ? AND device = ?", (hub, device_id))

    # --- cloud-to-device messages that wait ---

    def commands(self, hub: str, device_id: str) -> list[Command]:
        rows = self._db.execute(
            "SELECT number, record, body FROM commands WHERE hub = ? AND device = ? ORDER BY number", (hub, device_id)
        )
        return [Command(number=number, body=body, **_read(record)) for number, record, body in rows]

    def put_command(self, command: Command) -> None:
        """Add one (number 0), or change the one with its number."""
        record = _fields(command)
        number, body = record.pop("number"), record.pop("body")
        self._write(
            "INSERT OR REPLACE INTO commands VALUES (?, ?, ?, ?, ?)",
            (number or None, command.hub, command.device_id, _dumped(record), body),
        )

    def delete_command(self, number: int) -> None:
        self._write("DELETE FROM commands WHERE number = ?", (number,))

    # --- faults that are switched on ---

    def faults(self) -> list[tuple[int, Fault]]:
        """Number and fault, in the order they were switched on."""
        rows = self._db.execute("SELECT number, record FROM faults ORDER BY number")
        return [(number, Fault(**_read(record))) for number, record in rows]

    def put_fault(self, fault: Fault, number: int | None = None) -> None:
        self._write("INSERT OR REPLACE INTO faults VALUES (?, ?)", (number, _dumped(fault)))

    def delete_faults(self, number: int | None = None) -> None:
        """One, or all."""
        self._write("DELETE FROM faults WHERE number = coalesce(?, number)", (number,))

    def delete_faults_of(self, device: str) -> None:
        """Those that are on for this device alone, whatever the case of its ID."""
        for number, fault in self.faults():
            if fault.device is not None and fault.device.lower() == device.lower():
                self.delete_faults(number)

    # --- the students of a class, and what was refused to them: by registration ID, without regard to case ---

    def student(self, registration_id: str) -> Student | None:
        row = self._db.execute("SELECT record FROM students WHERE id = ?", (registration_id,)).fetchone()
        return None if row is None else Student(**_read(row[0]))

    def students(self) -> list[Student]:
        rows = self._db.execute("SELECT record FROM students ORDER BY id")
        return [Student(**_read(record)) for (record,) in rows]

    def put_student(self, student: Student) -> None:
        self._write("INSERT OR REPLACE INTO students VALUES (?, ?)", (student.registration_id, _dumped(student)))

    def delete_student(self, registration_id: str) -> None:
        self._write("DELETE FROM students WHERE id = ?", (registration_id,))

    def mistakes(self, registration_id: str) -> Mistakes | None:
        row = self._db.execute("SELECT record FROM mistakes WHERE id = ?", (registration_id,)).fetchone()
        return None if row is None else Mistakes(**_read(row[0]))

    def put_mistakes(self, registration_id: str, mistakes: Mistakes) -> None:
        self._write("INSERT OR REPLACE INTO mistakes VALUES (?, ?)", (registration_id, _dumped(mistakes)))

    def delete_mistakes(self, registration_id: str) -> None:
        self._write("DELETE FROM mistakes WHERE id = ?", (registration_id,))

    # --- messages ---

    def messages(self, device_id: str, most: int, most_bytes: int) -> list[Message]:
        """The last messages of a device, whatever the case of its ID, oldest first: so many, with so many bytes in all.

        The last one is there however long it is.
        """
        clause = "WHERE device = ? COLLATE NOCASE ORDER BY number DESC LIMIT ?"
        found: list[Message] = []
        for message in _messages(self._db, clause, (device_id, most)):
            most_bytes -= len(message.body) + len(str(message.properties))
            if found and most_bytes < 0:
                break
            found.append(message)
        return found[::-1]

    def message_counts(self) -> dict[str, int]:
        """How many messages are stored of each device."""
        return dict(self._db.execute("SELECT device, count(*) FROM messages GROUP BY device"))

    def delete_messages(self, device_id: str) -> None:
        self._write("DELETE FROM messages WHERE device = ? COLLATE NOCASE", (device_id,))

    def add_message(self, message: Message) -> None:
        self._write(
            "INSERT INTO messages (hub, device, enqueued, properties, system, body) VALUES (?, ?, ?, ?, ?, ?)",
            (
                message.hub,
                message.device_id,
                message.enqueued,
                json.dumps(message.properties) if message.properties else "{}",
                json.dumps(message.system_properties),
                message.body,
            ),
        )

    def clear(self) -> None:
        """Delete all but the facts and the students."""
        for table in _CLEARED:
            self._write(f"DELETE FROM {table}")  # noqa: S608 - the names are ours


def _fields(record: Any) -> dict[str, Any]:
    """The fields of a dataclass, as they are: `asdict` copies all that is in them, and takes ten times as long."""
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


_encoder = json.JSONEncoder(default=_fields)


def _dumped(record: Any) -> str:
    """A dataclass, or what `_fields` made of one, as JSON."""
    return _encoder.encode(record)


def _wal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _check(path: Path) -> None:
    """Refuse a database that is damaged, and leave its files as they are. 75 MB take a twentieth of a second.

    Whoever opens it to write would let SQLite carry the write-ahead log over, or delete it.
    """
    log = _wal(path)
    if path.stat().st_size == 0:
        if log.exists() and log.stat().st_size:
            raise _damaged("it is empty, and its write-ahead log is not")
        return
    if log.exists() and log.stat().st_size <= _LARGEST_LOG and wal.is_damaged(log.read_bytes()):
        raise StoreError(
            f"the write-ahead log {log} of the emulator's database is damaged: put back a copy, or delete that file, "
            "and with it the last that was enrolled and sent, or use another state directory"
        )
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)) as database:
        (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise _damaged(" ".join(str(found).split()))


def _damaged(what: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(what)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _read(record: str) -> Any:
    try:
        return json.loads(record)
    except ValueError:
        raise _damaged("a record in it is no JSON") from None


def _loaded(record: str) -> dict[str, Any]:
    """The fields of an enrollment or group, in which JSON has made a list of a tuple."""
    fields: dict[str, Any] = _read(record)
    return fields | {"hubs": tuple(fields["hubs"])}


def _registrations(database: sqlite3.Connection, clause: str, values: tuple[Any, ...] = ()) -> Iterator[Registration]:
    query = f"SELECT record FROM registrations {clause}"  # noqa: S608 - clauses are ours
    for (text,) in database.execute(query, values):
        record = _read(text)
        yield Registration(**record | {"status": Status(record["status"]), "substatus": Substatus(record["substatus"])})


def _messages(database: sqlite3.Connection, clause: str, values: tuple[Any, ...]) -> Iterator[Message]:
    query = f"SELECT hub, device, enqueued, properties, system, body FROM messages {clause}"  # noqa: S608 - clauses are ours
    for hub, device, enqueued, properties, system, body in database.execute(query, values):
        yield Message(hub, device, enqueued, _read(properties), _read(system), body)


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """The database, beside a running emulator or after it. Raises StoreError when it cannot be read."""
    if path.exists() and not path.stat().st_size:  # where SQLite would delete a write-ahead log beside it
        raise StoreError(f"the emulator's database {path} cannot be read: it is empty")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)) as database:
            yield database
    except sqlite3.Error as error:
        raise StoreError(f"the emulator's database {path} cannot be read: {error}") from None


def read_fact(path: Path, name: str) -> str | None:
    """One of the emulator's own facts; None also when there is no database that could be read.

    Beside one that may not be written to SQLite would leave files that nobody may write to, either.
    """
    if not os.access(path, os.W_OK):
        return None
    try:
        with _reading(path) as database:
            row = database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
    except StoreError:
        return None
    return None if row is None else str(row[0])


def read_registrations(path: Path) -> list[Registration]:
    """All registrations, by their IDs. Raises StoreError."""
    with _reading(path) as database:
        return list(_registrations(database, "ORDER BY id"))


def read_messages(path: Path, device_id: str | None = None) -> Iterator[Message]:
    """The messages in the order they were stored. Raises StoreError."""
    with _reading(path) as database:
        yield from _messages(database, "WHERE device = coalesce(?, device) ORDER BY number", (device_id,))
