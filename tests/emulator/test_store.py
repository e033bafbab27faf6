"""The database: what comes back, what others see and when, and what becomes of files that are none of ours."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dpsx_helpers.emulator.commands import Command
from dpsx_helpers.emulator.faults import Fault
from dpsx_helpers.emulator.hub import Message
from dpsx_helpers.emulator.identity import Device
from dpsx_helpers.emulator.records import CaCertificate, Enrollment, Group, Registration, Status, Substatus
from dpsx_helpers.emulator.store import SCHEMA_VERSION, Store, StoreError, read_messages, read_registrations
from dpsx_helpers.emulator.students import Mistakes, Student
from dpsx_helpers.emulator.twin import Section, Twin

ENROLLMENT = Enrollment(
    registration_id="Dev-1",
    primary=b"\x30\x82\x00\xff",
    secondary=b"\x30\x00",
    device_id="device é",
    enabled=False,
    hubs=("hub-1", "hub-2"),
    initial_twin={"tags": {"floor": 3}, "properties": {"desired": {"on": True, "x": None}}},
    settings={"capabilities": {"iotEdge": True}},
    etag="IjEi",
    created="2022-08-27T17:53:19.5143490Z",
    updated="2022-08-27T17:53:20.0000000Z",
)
REGISTRATION = Registration(
    registration_id="Dev-1",
    status=Status.FAILED,
    operation_id="5.506603669bd3e2bf.b3602f8f",
    requested=1_661_622_799.25,
    created="2022-08-27T17:53:19.5143490Z",
    updated="2022-08-27T17:53:20.0000000Z",
    etag="IjEi",
    polls=2,
    hub="hub-1",
    device_id="device é",
    error_code=400208,
    error_message="IoT Hub not found.",
)
DEVICE = Device(
    hub="hub-1",
    device_id="Dev-1",
    generation_id="637",
    primary_thumbprint="AA" * 32,
    secondary_thumbprint="BB" * 32,
    created="2022-08-27T17:53:19.5143490Z",
    status="disabled",
    version=3,
    last_activity="2022-08-27T17:53:20.0000000Z",
    edge=True,
)
TWIN = Twin(
    tags={"floor": 3},
    desired=Section({"on": {"deep": [1, "é"]}}, {"$lastUpdated": "then", "on": {"$lastUpdated": "now"}}, 4),
    reported=Section({"temperature": 21.5}, {"$lastUpdated": "then"}, 7),
    version=9,
)
GROUP = Group(
    group_id="Group-1",
    primary=b"\x30\x01",
    secondary=None,
    primary_ca=None,
    secondary_ca=None,
    enabled=True,
    hubs=("hub-1",),
    initial_twin={"tags": {"floor": 3}},
    settings={"allocationPolicy": "static"},
    etag="IjEi",
    created="2022-08-27T17:53:19.5143490Z",
    updated="2022-08-27T17:53:20.0000000Z",
)
CA = CaCertificate("Root", b"\x30\x02", True, "", "IjEi", "then", "now")
COMMAND = Command("hub-1", "Dev-1", "m-1", {"é": "ü"}, b"\xff\x00", "then", 1_661_622_799.25)
STUDENT = Student("Anna", "a2V5")
MISTAKES = Mistakes({"not-enrolled": 2}, "2022-08-27T17:53:19.5143490Z", "not-enrolled", "there is none", "enroll")
MESSAGE = Message(
    hub="hub-1",
    device_id="Dev-1",
    enqueued="2022-08-27T17:53:19.5143490Z",
    properties={"a": "1", "none": None, "é": ""},
    system_properties={"contentType": "application/json"},
    body=b"\x00\xff{}",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "emulator.db"


CLEARED = (
    "enrollments", "groups", "ca_certificates", "registrations", "devices", "commands", "messages", "faults",
)  # fmt: skip


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store(path)
    yield opened
    opened.close()


def fill(store: Store, *names: str) -> None:
    """One record of each kind under every name."""
    for name in names:
        store.put_enrollment(replace(ENROLLMENT, registration_id=name))
        store.put_registration(replace(REGISTRATION, registration_id=name))
        store.put_group(replace(GROUP, group_id=name))
        store.put_ca_certificate(replace(CA, name=name))
        store.put_fault(Fault("429", name))
        store.add_device(replace(DEVICE, device_id=name), TWIN)
        store.put_command(replace(COMMAND, device_id=name))
        store.add_message(replace(MESSAGE, device_id=name))


def seen(path: Path) -> dict[str, int]:
    """How many rows of each kind a second reader sees."""
    database = sqlite3.connect(path)
    tables = ("facts", *CLEARED)
    found = {table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}
    database.close()
    return found


def reason(path: Path) -> str:
    """Why a file cannot be opened: one sentence that names it."""
    with pytest.raises(StoreError) as caught:
        Store(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    return text


# --- round trips ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "enrollment",
    [
        ENROLLMENT,
        replace(ENROLLMENT, secondary=None, device_id=None, hubs=(), enabled=True, initial_twin={}, settings={}),
    ],
    ids=["full", "bare"],
)
def test_an_enrollment_comes_back_as_it_was(store: Store, path: Path, enrollment: Enrollment) -> None:
    store.put_enrollment(enrollment)
    assert store.enrollment("Dev-1") == enrollment
    store.commit()
    other = Store(path)
    assert other.enrollment("Dev-1") == enrollment
    assert other.enrollments() == [enrollment]
    other.close()


@pytest.mark.parametrize("status", Status)
def test_a_registration_comes_back_as_it_was(store: Store, status: Status) -> None:
    registration = replace(REGISTRATION, status=status)
    store.put_registration(registration)
    found = store.registration("Dev-1")
    assert found == registration
    assert found is not None
    assert found.status is status


def test_a_bare_registration_comes_back_as_it_was(store: Store) -> None:
    bare = Registration("r", Status.ASSIGNING, "5.1.a", 1.0, "c", "u", "e")
    store.put_registration(bare)
    assert store.registration("r") == bare


@pytest.mark.parametrize(
    "device",
    [DEVICE, Device("hub-1", "Dev-1", "637", "c", primary_key="a2V5")],
    ids=["full", "bare"],
)
def test_a_device_comes_back_as_it_was(store: Store, device: Device) -> None:
    store.add_device(device, TWIN)
    assert store.device("hub-1", "Dev-1") == device
    assert store.devices("hub-1") == [(device, TWIN)]


def test_a_message_comes_back_as_it_was(store: Store, path: Path) -> None:
    store.add_message(MESSAGE)
    store.add_message(replace(MESSAGE, body=b"", properties={}, system_properties={}))
    store.commit()
    assert list(read_messages(path)) == [MESSAGE, replace(MESSAGE, body=b"", properties={}, system_properties={})]


def test_a_fact_is_kept_and_replaced(path: Path) -> None:
    store = Store(path)
    assert store.fact("id scope") is None
    store.put_fact("id scope", "0ne1")
    store.put_fact("id scope", "0ne2")
    store.put_fact("key", "é")
    store.close()
    again = Store(path)
    assert (again.fact("id scope"), again.fact("key"), again.fact("ID scope")) == ("0ne2", "é", None)
    again.close()


def test_what_is_not_there_is_none(store: Store) -> None:
    fill(store, "other")
    assert store.enrollment("Dev-1") is None
    assert store.registration("Dev-1") is None
    assert store.device("hub-1", "Dev-1") is None
    assert store.devices("hub-2") == []


# --- names ------------------------------------------------------------------------------------------------------------


def test_enrollments_and_registrations_are_found_whatever_the_case(store: Store) -> None:
    fill(store, "Dev-1")
    for spelling in ("Dev-1", "DEV-1", "dev-1"):
        assert store.enrollment(spelling) == ENROLLMENT
        assert store.registration(spelling) == REGISTRATION


def test_another_spelling_replaces_an_enrollment_and_a_registration(store: Store, path: Path) -> None:
    fill(store, "Dev-1")
    store.put_enrollment(replace(ENROLLMENT, registration_id="DEV-1"))
    store.put_registration(replace(REGISTRATION, registration_id="DEV-1"))
    assert [found.registration_id for found in store.enrollments()] == ["DEV-1"]
    registration = store.registration("dev-1")
    assert registration is not None
    assert registration.registration_id == "DEV-1"
    store.commit()
    assert seen(path)["registrations"] == 1


def test_devices_are_told_apart_by_case_and_by_hub(store: Store) -> None:
    devices = [
        replace(DEVICE, hub=hub, device_id=name, created=f"{hub}/{name}")
        for hub in ("hub-1", "hub-2")
        for name in ("DEV", "Dev", "dev")
    ]
    for device in devices:
        store.add_device(device, TWIN)
    for device in devices:
        assert store.device(device.hub, device.device_id) == device
    assert store.device("hub-1", "dEV") is None
    assert store.devices("hub-2") == [(device, TWIN) for device in devices[3:]]


def test_device_and_twin_change_each_for_itself(store: Store) -> None:
    store.add_device(DEVICE, TWIN)
    store.put_device(replace(DEVICE, version=9))
    assert store.devices("hub-1") == [(replace(DEVICE, version=9), TWIN)]
    store.put_twin(DEVICE, Twin(version=8))
    assert store.devices("hub-1") == [(replace(DEVICE, version=9), Twin(version=8))]
    assert store.twin("hub-1", "Dev-1") == Twin(version=8)
    store.add_device(DEVICE, TWIN)
    assert store.devices("hub-1") == [(DEVICE, TWIN)]


def test_what_is_not_there_is_not_changed(store: Store) -> None:
    store.put_device(DEVICE)
    store.put_twin(DEVICE, TWIN)
    assert (store.device("hub-1", "Dev-1"), store.twin("hub-1", "Dev-1")) == (None, None)


# --- deleting and paging ----------------------------------------------------------------------------------------------


def test_a_registration_goes_with_its_enrollment_and_the_device_stays(store: Store) -> None:
    fill(store, "Dev-1", "Dev-2")
    store.delete_enrollment("DEV-1")
    assert (store.enrollment("Dev-1"), store.registration("Dev-1")) == (None, None)
    assert store.device("hub-1", "Dev-1") == DEVICE
    assert store.enrollment("Dev-2") is not None
    assert store.registration("Dev-2") is not None


def test_deleting_a_device_takes_that_one_alone(store: Store) -> None:
    for device in (DEVICE, replace(DEVICE, device_id="dev-1"), replace(DEVICE, hub="hub-2")):
        store.add_device(device, TWIN)
    store.delete_device("hub-1", "Dev-1")
    assert store.device("hub-1", "Dev-1") is None
    assert store.devices("hub-1") == [(replace(DEVICE, device_id="dev-1"), TWIN)]
    assert store.devices("hub-2") == [(replace(DEVICE, hub="hub-2"), TWIN)]


def test_deleting_what_is_not_there_changes_nothing(store: Store, path: Path) -> None:
    fill(store, "Dev-1")
    store.delete_enrollment("nobody")
    store.delete_device("hub-1", "nobody")
    store.commit()
    assert seen(path) == {"facts": 0, **dict.fromkeys(CLEARED, 1)}


def test_clearing_keeps_the_facts(store: Store, path: Path) -> None:
    fill(store, "Dev-1", "Dev-2")
    store.put_fact("id scope", "0ne1")
    store.commit()
    store.clear()
    store.commit()
    assert seen(path) == {"facts": 1, **dict.fromkeys(CLEARED, 0)}
    assert store.fact("id scope") == "0ne1"


@pytest.mark.parametrize(
    ("limit", "offset", "names"),
    [
        (-1, 0, ["a", "B", "c", "D", "e"]),
        (2, 0, ["a", "B"]),
        (2, 2, ["c", "D"]),
        (2, 4, ["e"]),
        (2, 5, []),
        (0, 0, []),
        (-1, 3, ["D", "e"]),
    ],
)
def test_enrollments_and_devices_come_in_pages(store: Store, limit: int, offset: int, names: list[str]) -> None:
    fill(store, "e", "c", "a", "D", "B")
    assert [found.registration_id for found in store.enrollments(limit, offset)] == names
    devices = sorted(["a", "B", "c", "D", "e"])[offset:][: None if limit < 0 else limit]
    assert [found.device_id for found, _ in store.devices("hub-1", limit, offset)] == devices


# --- transactions -----------------------------------------------------------------------------------------------------


def test_nobody_sees_a_write_before_it_is_committed(store: Store, path: Path) -> None:
    fill(store, "Dev-1")
    store.put_fact("id scope", "0ne1")
    assert set(seen(path).values()) == {0}
    assert list(read_messages(path)) == []
    store.commit()
    assert set(seen(path).values()) == {1}
    assert list(read_messages(path)) == [MESSAGE]
    store.clear()
    assert set(seen(path).values()) == {1}


def test_what_was_not_committed_is_gone_with_the_process(store: Store, path: Path) -> None:
    store.add_device(DEVICE, TWIN)
    store.commit()
    store.add_device(replace(DEVICE, version=9), TWIN)
    store.add_message(MESSAGE)
    # What the end of a process does to a connection, without the commit of `close`.
    store._db.close()
    store._db = sqlite3.connect(path, isolation_level=None)
    store.roll_back()
    assert store.device("hub-1", "Dev-1") == DEVICE
    assert list(read_messages(path)) == []


def test_closing_commits(path: Path) -> None:
    store = Store(path)
    store.add_device(DEVICE, TWIN)
    store.close()
    assert seen(path)["devices"] == 1
    with pytest.raises(sqlite3.ProgrammingError):
        store.device("hub-1", "Dev-1")


def test_committing_nothing_does_nothing(store: Store) -> None:
    store.commit()
    store.commit()
    assert store.devices("hub-1") == []


def test_a_commit_that_fails_leaves_nothing_of_what_was_written(store: Store, path: Path) -> None:
    """A file that may not grow is what a full disk is to SQLite."""
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    store.add_device(DEVICE, TWIN)
    store.commit()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store.add_device(replace(DEVICE, version=9), TWIN)
    store.add_message(replace(MESSAGE, body=bytes(100_000)))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.with_name("emulator.db-wal").stat().st_size, hard))
        with pytest.raises(sqlite3.Error):
            store.commit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert store.device("hub-1", "Dev-1") == DEVICE
    store.commit()
    assert seen(path)["messages"] == 0
    store.add_device(replace(DEVICE, version=10), TWIN)
    store.commit()
    other = Store(path)
    assert other.device("hub-1", "Dev-1") == replace(DEVICE, version=10)
    other.close()


def test_a_commit_that_is_refused_is_rolled_back(store: Store, path: Path) -> None:
    """Not every failure ends the transaction by itself, as that of a full disk may: a broken constraint does not."""
    store._db.executescript(
        "PRAGMA foreign_keys = ON;CREATE TABLE late (fact TEXT REFERENCES facts (name) DEFERRABLE INITIALLY DEFERRED);"
    )
    store.add_device(DEVICE, TWIN)
    store._write("INSERT INTO late VALUES ('nothing')")
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        store.commit()
    assert store.device("hub-1", "Dev-1") is None
    store.add_device(replace(DEVICE, version=9), TWIN)
    store.commit()
    assert seen(path)["devices"] == 1


def test_writes_wait_for_nobody_who_only_reads(store: Store, path: Path) -> None:
    fill(store, "a", "b")
    store.commit()
    reader = read_messages(path)
    assert next(reader).device_id == "a"
    fill(store, "c")
    store.commit()
    assert [message.device_id for message in reader] == ["b"]
    assert [message.device_id for message in read_messages(path)] == ["a", "b", "c"]


# --- messages ---------------------------------------------------------------------------------------------------------


def test_messages_come_in_the_order_of_their_storing(store: Store, path: Path) -> None:
    messages = [
        replace(MESSAGE, device_id=name, enqueued=enqueued, body=bytes([number]))
        for number, (name, enqueued) in enumerate([("b", "3"), ("a", "2"), ("b", "1"), ("B", "0")])
    ]
    for message in messages:
        store.add_message(message)
    store.commit()
    assert list(read_messages(path)) == messages
    assert list(read_messages(path, "b")) == [messages[0], messages[2]]
    assert list(read_messages(path, "nobody")) == []


def test_messages_can_be_read_when_the_emulator_has_ended(path: Path) -> None:
    store = Store(path)
    store.add_message(MESSAGE)
    store.close()
    assert list(read_messages(path)) == [MESSAGE]


def test_messages_are_read_from_a_path_with_odd_signs(tmp_path: Path) -> None:
    path = tmp_path / "a ?#%41 é.db"
    store = Store(path)
    store.add_message(MESSAGE)
    store.close()
    assert list(read_messages(path)) == [MESSAGE]


@pytest.mark.parametrize("content", [None, b"", b"no database" * 100], ids=["missing", "empty", "other"])
def test_no_messages_can_be_read_where_there_is_no_database(path: Path, content: bytes | None) -> None:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError, match="cannot be read") as caught:
        list(read_messages(path))
    assert str(path) in str(caught.value)
    assert path.exists() == (content is not None)


# --- files ------------------------------------------------------------------------------------------------------------


def test_all_files_are_private_to_their_owner(store: Store, path: Path) -> None:
    store.add_device(DEVICE, TWIN)
    store.commit()
    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert modes == dict.fromkeys(("emulator.db", "emulator.db-wal", "emulator.db-shm"), 0o600)


def test_a_store_is_opened_again_as_it_was_left(path: Path) -> None:
    for number in range(3):
        store = Store(path)
        assert [device.device_id for device, _ in store.devices("hub-1")] == [str(each) for each in range(number)]
        store.add_device(replace(DEVICE, device_id=str(number)), TWIN)
        store.close()
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def test_commits_outlive_the_process(store: Store) -> None:
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (1,)


def test_a_database_of_the_version_before_classes_keeps_all_and_takes_students(path: Path) -> None:
    store = Store(path)
    store.put_fact("id_scope", "0ne00000001")
    store.add_message(MESSAGE)
    store.close()
    database = sqlite3.connect(path)
    database.executescript("DROP TABLE students; DROP TABLE mistakes; PRAGMA user_version=2")
    database.close()
    older = Store(path)
    older.put_student(STUDENT)
    older.close()
    opened = Store(path)
    assert (opened.fact("id_scope"), opened.students()) == ("0ne00000001", [STUDENT])
    assert list(read_messages(path)) == [MESSAGE]
    opened.close()
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, -1, 1])
def test_a_database_of_another_version_is_left_alone(path: Path, version: int) -> None:
    Store(path).close()
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version={version}")
    database.close()
    before = path.read_bytes()
    text = reason(path)
    assert f"schema {version}, this one has {SCHEMA_VERSION}" in text
    assert "another state directory" in text
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"no database at all\n" * 100, b"SQLite format 3\x00" + bytes(200)])
def test_a_file_that_is_no_database_is_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert "cannot be used" in reason(path)
    assert path.read_bytes() == content


def test_a_directory_is_no_database(path: Path) -> None:
    path.mkdir()
    assert "cannot be used" in reason(path)


def test_a_place_that_does_not_exist_is_no_database(path: Path) -> None:
    assert "cannot be used" in reason(path / "below")


def test_the_database_of_another_program_is_left_alone(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE theirs (x)")
    database.close()
    before = path.read_bytes()
    assert "another program's" in reason(path)
    assert path.read_bytes() == before


# --- groups, CA certificates, cloud-to-device messages, faults --------------------------------------------------------


@pytest.mark.parametrize(
    "group", [GROUP, replace(GROUP, primary=None, primary_ca="Root", secondary_ca="other", hubs=(), enabled=False)]
)
def test_a_group_comes_back_as_it_was(store: Store, group: Group) -> None:
    store.put_group(group)
    assert store.group("GROUP-1") == group
    assert store.groups() == [group]
    store.put_group(replace(group, group_id="group-1", enabled=not group.enabled))
    assert [found.group_id for found in store.groups()] == ["group-1"]
    store.delete_group("Group-1")
    assert store.groups() == []


def test_groups_are_found_by_the_certificate_that_they_hold_or_name(store: Store) -> None:
    store.put_ca_certificate(CA)
    own = replace(GROUP, group_id="own", primary=b"A", secondary=b"B")
    named = replace(GROUP, group_id="named", primary=None, primary_ca="ROOT")
    second = replace(GROUP, group_id="second", primary=None, primary_ca="other", secondary_ca="root")
    for group in (own, named, second):
        store.put_group(group)
    assert store.groups_of(b"A") == store.groups_of(b"B") == [own]
    assert store.groups_of(CA.der) == [named, second]
    assert store.groups_of(b"C") == []


def test_registrations_outlive_their_group(store: Store) -> None:
    for name, group in (("a", "Group-1"), ("b", "GROUP-1"), ("c", "Group-2"), ("d", None)):
        store.put_registration(replace(REGISTRATION, registration_id=name, group_id=group))
    assert [found.registration_id for found in store.registrations("group-1")] == ["a", "b"]
    assert [found.registration_id for found in store.registrations("group-1", 1, 1)] == ["b"]
    store.put_group(GROUP)
    store.delete_group("group-1")
    assert store.groups() == []
    assert [found.registration_id for found in store.registrations("group-1")] == ["a", "b"]


def test_a_registration_keeps_payload_and_substatus(store: Store, path: Path) -> None:
    kept = replace(REGISTRATION, payload={"a": [1]}, substatus=Substatus.MIGRATED, group_id="Group-1", held_until=2.5)
    store.put_registration(kept)
    assert store.registration("dev-1") == kept
    store.commit()
    assert read_registrations(path) == [kept]


def test_a_ca_certificate_comes_back_as_it_was(store: Store) -> None:
    store.put_ca_certificate(CA)
    store.put_ca_certificate(replace(CA, name="ROOT", verified=False, code="C0DE"))
    assert store.ca_certificates() == [replace(CA, name="ROOT", verified=False, code="C0DE")]
    assert store.ca_certificate("root") == store.ca_certificates()[0]
    store.delete_ca_certificate("Root")
    assert store.ca_certificate("root") is None


def test_commands_keep_their_order_and_numbers_are_never_used_again(store: Store) -> None:
    for _ in range(3):
        store.put_command(COMMAND)
    numbers = [found.number for found in store.commands("hub-1", "Dev-1")]
    assert numbers == sorted(set(numbers))
    first = store.commands("hub-1", "Dev-1")[0]
    assert first == replace(COMMAND, number=numbers[0])
    store.put_command(replace(first, deliveries=1))
    assert [found.deliveries for found in store.commands("hub-1", "Dev-1")] == [1, 0, 0]
    store.delete_command(numbers[2])
    store.put_command(COMMAND)
    assert store.commands("hub-1", "Dev-1")[-1].number > numbers[2]
    assert store.commands("hub-2", "Dev-1") == store.commands("hub-1", "dev-1") == []


def test_what_waits_for_a_device_goes_with_it(store: Store) -> None:
    fill(store, "Dev-1", "Dev-2")
    store.delete_device("hub-1", "Dev-1")
    assert store.commands("hub-1", "Dev-1") == []
    assert len(store.commands("hub-1", "Dev-2")) == 1


def test_faults_keep_their_order_and_change_by_number(store: Store) -> None:
    for kind in ("429", "slow", "drop"):
        store.put_fault(Fault(kind, left=2))
    numbers = [number for number, _ in store.faults()]
    store.put_fault(Fault("slow", left=1), numbers[1])
    assert [fault for _, fault in store.faults()] == [
        Fault("429", left=2),
        Fault("slow", left=1),
        Fault("drop", left=2),
    ]
    store.delete_faults(numbers[0])
    assert [number for number, _ in store.faults()] == numbers[1:]
    store.delete_faults()
    assert store.faults() == []


def test_students_and_mistakes_are_found_whatever_the_case_and_outlive_what_they_should(store: Store) -> None:
    store.put_student(STUDENT)
    store.put_student(Student("bob", "Ym9i"))
    store.put_mistakes("anna", MISTAKES)
    assert (store.student("ANNA"), store.mistakes("ANNA"), store.mistakes("bob")) == (STUDENT, MISTAKES, None)
    assert [student.registration_id for student in store.students()] == ["Anna", "bob"]
    store.clear()
    assert store.mistakes("Anna") is None
    assert len(store.students()) == 2
    store.delete_student("aNNa")
    assert store.student("Anna") is None


def test_the_last_messages_of_a_device_and_how_many_there_are_of_each(store: Store) -> None:
    sent = [replace(MESSAGE, device_id=name, body=body) for name, body in (("a", b"1"), ("b", b"2"), ("A", b"3"))]
    for message in sent:
        store.add_message(message)
    assert store.messages("a", 9, 1 << 20) == [sent[0], sent[2]]
    assert store.messages("A", 1, 1 << 20) == [sent[2]]
    assert store.message_counts() == {"A": 1, "a": 1, "b": 1}
    store.delete_messages("a")
    assert store.message_counts() == {"b": 1}


def test_the_last_messages_of_a_device_have_no_more_bytes_than_asked_for(store: Store) -> None:
    sent = [replace(MESSAGE, device_id="a", body=b"x" * 10, properties={}) for _ in range(3)]
    sent.append(replace(sent[0], properties={"room": "y" * 100}))
    for message in sent:
        store.add_message(message)
    assert store.messages("a", 9, 200) == sent
    assert store.messages("a", 9, 145) == sent[2:], "their properties count, too"
    assert store.messages("a", 9, 1) == sent[3:], "the last one however long it is"


def test_the_faults_of_one_device_go_and_those_of_others_and_all_stay(store: Store) -> None:
    for device in ("Anna", "anna", "bob", None):
        store.put_fault(Fault("429", device))
    store.delete_faults_of("ANNA")
    assert [fault.device for _, fault in store.faults()] == ["bob", None]
