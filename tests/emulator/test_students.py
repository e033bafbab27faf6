"""What the key of a student opens at a running emulator, and all that it does not: they are thought of as attackers."""

import json
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
from clients import connected, document, register, send
from connections import at_dps
from pki import Device, make_device
from processes import RunningEmulator, wait_for
from rest import CONTROLS, ask, done, dps_error, hub_error, pages, plane_of

from dpsx_helpers.emulator import EmulatorError, refusals, sas
from dpsx_helpers.emulator.refusals import Refused
from dpsx_helpers.emulator.students import Student, counts_as_mistake, with_one_more

NO_DPS, NO_HUB = (401, 401000, "Unauthorized"), (401, "IotHubUnauthorizedAccess", "Unauthorized")
ANY = {"If_Match": "*"}


class Class:
    """Two students, and the device of each, provisioned through their own keys. `ask` is one request of a student."""

    def __init__(self, emulator: RunningEmulator, folder: Path) -> None:
        self.emulator = emulator
        self.joins = {join.registration_id: join for join in emulator.emulator.admit(["anna", "bob"])}
        self.devices: dict[str, Device] = {}
        for name in self.joins:
            (folder / name).mkdir()
            self.devices[name] = make_device(folder / name, name)

    def token(self, name: str, key: str | None = None, policy: str | None = None) -> str:
        join = self.joins[name]
        return sas.sign(join.endpoint, policy or join.policy, key or join.key, int(time.time()) + 60)

    def ask(self, name: str, method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
        return ask(self.emulator, method, path, body, authorization=self.token(name), **headers)

    def enroll(self, name: str, **fields: Any) -> requests.Response:
        return self.ask(name, "PUT", f"/enrollments/{name}", document(self.devices[name], **fields), **ANY)

    def provision(self, name: str) -> None:
        done(self.enroll(name))
        with at_dps(self.emulator, self.devices[name]) as wire:
            assert wire.provision()["status"] == "assigned"

    def refused(self, name: str, method: str, path: str, body: Any = None, **headers: str) -> None:
        """Refused as Azure refuses a token that does not apply to the request, and the log says why."""
        answer = self.ask(name, method, path, body, **headers)
        if plane_of(path) == "dps":
            assert dps_error(answer) == NO_DPS, path
        else:
            assert hub_error(answer) == NO_HUB, path
        said = f"the key of 'student-{name}' opens what carries its own registration ID"
        assert said in self.emulator.log().splitlines()[-1]


@pytest.fixture(scope="module")
def room(emulator: RunningEmulator, tmp_path_factory: pytest.TempPathFactory) -> Class:
    return Class(emulator, tmp_path_factory.mktemp("class"))


@pytest.fixture
def both(room: Class) -> Iterator[Class]:
    """Both students have enrolled, registered, and are in the hub."""
    for name in room.joins:
        room.provision(name)
    yield room
    for name in room.joins:
        room.emulator.emulator.reset(name)


# --- their own --------------------------------------------------------------------------------------------------------


def test_a_student_does_all_of_the_quickstart_with_their_own_key(room: Class) -> None:
    emulator, device = room.emulator, room.devices["anna"]
    assert done(room.enroll("anna", initialTwin={"tags": {"desk": 3}}))["registrationId"] == "anna"
    assert register(emulator, device).status == "assigned"
    with connected(emulator, device) as client:
        send(client, "one", "two")
    assert done(room.ask("anna", "GET", "/registrations/anna"))["deviceId"] == "anna"
    assert done(room.ask("anna", "POST", "/enrollments/anna/attestationmechanism"))["type"] == "x509"
    assert done(room.ask("anna", "GET", "/devices/anna"))["status"] == "enabled"
    assert done(room.ask("anna", "GET", "/twins/anna"))["tags"] == {"desk": 3}
    assert done(room.ask("anna", "PATCH", "/twins/anna", {"tags": {"desk": 4}}))["tags"] == {"desk": 4}
    assert [message["body"] for message in done(room.ask("anna", "GET", "/emulator/messages"))] == ["one", "two"]
    assert done(room.ask("anna", "DELETE", "/devices/anna/commands"))["totalMessagesPurged"] == 0
    assert room.ask("anna", "POST", "/twins/anna/methods", {"methodName": "m"}).status_code == 404, "nobody listens"
    assert room.ask("anna", "DELETE", "/registrations/anna").status_code == 204
    assert room.ask("anna", "DELETE", "/enrollments/anna", **ANY).status_code == 204
    assert room.ask("anna", "DELETE", "/devices/anna", **ANY).status_code == 204
    assert room.ask("anna", "GET", "/devices/anna").status_code == 404


def test_lists_show_a_student_their_own(both: Class) -> None:
    emulator = both.emulator
    done(ask(emulator, "PUT", "/devices/anna2", {"deviceId": "anna2"}))
    every = {row["registrationId"] for row in done(ask(emulator, "POST", "/enrollments/query", {"query": "SELECT *"}))}
    assert every == {"anna", "bob"}, "the teacher sees all"
    for name in ("anna", "bob"):
        own = done(both.ask(name, "POST", "/enrollments/query", {"query": "SELECT *"}))
        assert [row["registrationId"] for row in own] == [name]
        twins = done(both.ask(name, "POST", "/devices/query", {"query": "SELECT * FROM devices"}))
        assert [row["deviceId"] for row in twins] == [name]
        count = {"query": "SELECT COUNT() AS n FROM devices"}
        assert done(both.ask(name, "POST", "/devices/query", count)) == [{"n": 1}]
        assert [row["deviceId"] for row in done(both.ask(name, "GET", "/devices"))] == [name]
    page = both.ask("bob", "POST", "/enrollments/query", {"query": "SELECT *"}, x_ms_max_item_count="1")
    assert [row["registrationId"] for row in done(page)] == ["bob"]
    assert "x-ms-continuation" not in page.headers
    (rows,) = pages(emulator, "/enrollments/query", "SELECT *", 10, "enrollment")
    assert len(rows) == 2
    done(ask(emulator, "DELETE", "/devices/anna2", **ANY))


def test_an_id_is_the_students_in_whatever_case(room: Class) -> None:
    done(room.ask("anna", "PUT", "/enrollments/ANNA", document(room.devices["anna"]), **ANY))
    assert done(room.ask("anna", "GET", "/enrollments/anna"))["registrationId"] == "ANNA"
    room.emulator.emulator.reset("anna")
    assert room.ask("anna", "GET", "/enrollments/anna").status_code == 404


# --- what is not theirs -----------------------------------------------------------------------------------------------

OTHERS = [
    ("GET", "/enrollments/bob"),
    ("PUT", "/enrollments/bob"),
    ("DELETE", "/enrollments/bob"),
    ("POST", "/enrollments/bob/attestationmechanism"),
    ("GET", "/registrations/bob"),
    ("DELETE", "/registrations/bob"),
    ("GET", "/devices/bob"),
    ("PUT", "/devices/bob"),
    ("DELETE", "/devices/bob"),
    ("DELETE", "/devices/bob/commands"),
    ("GET", "/twins/bob"),
    ("PATCH", "/twins/bob"),
    ("PUT", "/twins/bob"),
    ("POST", "/twins/bob/methods"),
]


@pytest.mark.parametrize(("method", "path"), OTHERS)
def test_what_is_anothers_is_refused_whatever_the_etag(both: Class, method: str, path: str) -> None:
    before = everything(both.emulator)
    for headers in ({}, ANY):
        both.refused("anna", method, path, {"deviceId": "bob", "methodName": "m"}, **headers)
    assert everything(both.emulator) == before


@pytest.mark.parametrize(("method", "path"), OTHERS)
@pytest.mark.parametrize("spelling", ["BOB", "%62ob", "b%6Fb", "bob/", "anna%2F..%2Fbob", "bob%00", "bob%20"])
def test_no_other_spelling_leads_to_anothers(both: Class, method: str, path: str, spelling: str) -> None:
    before = everything(both.emulator)
    parts = path.split("/")
    parts[2] = spelling
    answer = both.ask("anna", method, "/".join(parts), {"deviceId": "bob", "methodName": "m"}, **ANY)
    assert answer.status_code in (401, 501), answer.text
    assert answer.status_code == 501 or "bob" not in answer.text.lower()
    assert everything(both.emulator) == before


@pytest.mark.parametrize(
    "name", ["Anna\u212a", "\u212aanna", "ann", "annaa", "anna ", "anna\n", "*", "", "%", "student-anna"]
)
def test_only_the_very_id_is_ones_own(name: str) -> None:
    assert not Student("anna", "").owns(name)
    assert Student("ken", "").owns("KEN")
    assert not Student("ken", "").owns("\u212aen"), "the Kelvin sign in lower case is a k"


TEACHERS = [
    ("POST", "/enrollments", {"mode": "create", "enrollments": [{"registrationId": "anna"}]}),
    ("POST", "/enrollments", {"mode": "delete", "enrollments": [{"registrationId": "bob"}]}),
    ("GET", "/enrollmentGroups/anna", None),
    ("PUT", "/enrollmentGroups/anna", {}),
    ("DELETE", "/enrollmentGroups/anna", None),
    ("POST", "/enrollmentGroups", {"mode": "create", "enrollmentGroups": []}),
    ("POST", "/enrollmentGroups/query", {"query": "SELECT *"}),
    ("POST", "/enrollmentGroups/anna/attestationmechanism", None),
    ("POST", "/registrations/anna/query", {"query": "SELECT *"}),
    ("GET", "/certificates", None),
    ("GET", "/certificates/anna", None),
    ("PUT", "/certificates/anna", {}),
    ("DELETE", "/certificates/anna", None),
    ("POST", "/certificates/anna/generateVerificationCode", None),
    ("POST", "/certificates/anna/verify", {}),
    ("PUT", "/devices/anna", {"deviceId": "anna"}),
    ("GET", "/statistics/devices", None),
    ("GET", "/statistics/service", None),
    ("HEAD", "/devices/anna", None),
]


@pytest.mark.parametrize(("method", "path", "body"), TEACHERS)
def test_what_is_the_teachers_is_refused_even_under_ones_own_id(both: Class, method: str, path: str, body: Any) -> None:
    before = everything(both.emulator)
    if method == "HEAD":
        assert both.ask("anna", method, path).status_code == 401
    else:
        both.refused("anna", method, path, body, **ANY)
    assert everything(both.emulator) == before


@pytest.mark.parametrize(("method", "path"), CONTROLS)
def test_the_controls_are_the_teachers(both: Class, method: str, path: str) -> None:
    both.emulator.emulator.fault("drop", "witness")
    body = {"device": "bob", "deviceId": "bob", "body": "", "kind": "drop", "registrationIds": ["mallory"]}
    for shown in (both.token("anna"), f"Bearer {both.joins['anna'].key}"):
        answer = ask(both.emulator, method, f"/emulator/{path}", body, authorization=shown)
        assert answer.status_code == 401
        assert both.joins["bob"].key not in answer.text
    assert [fault["device"] for fault in both.emulator.emulator.faults()] == ["witness"]
    both.emulator.emulator.clear_faults()
    assert [join.registration_id for join in both.emulator.emulator.students()] == ["anna", "bob"]


def test_messages_are_ones_own_whatever_is_asked_for(both: Class) -> None:
    for name in both.joins:
        with connected(both.emulator, both.devices[name]) as client:
            send(client, f"of {name}")
    for path in ("/emulator/messages", "/emulator/messages?device=bob", "/emulator/messages/?device=bob&device=anna"):
        assert [message["deviceId"] for message in done(both.ask("anna", "GET", path))] == ["anna"]
    assert ask(both.emulator, "GET", "/emulator/messages", authorization="").status_code == 401


def test_messages_go_to_ones_own_device_alone(both: Class) -> None:
    def waits(name: str) -> int:
        return int(done(ask(both.emulator, "GET", f"/devices/{name}"))["cloudToDeviceMessageCount"])

    assert done(both.ask("anna", "POST", "/emulator/send", {"deviceId": "anna", "body": "aGk="}))["deviceId"] == "anna"
    for device in ("bob", "BOB", "bob ", "", "*"):
        both.refused("anna", "POST", "/emulator/send", {"deviceId": device, "body": "aGk="})
    for body in (None, [], {"deviceId": ["bob"], "body": "aGk="}, {"body": "aGk="}):
        assert both.ask("anna", "POST", "/emulator/send", body).status_code == 400
    assert (waits("anna"), waits("bob")) == (1, 0)


@pytest.mark.parametrize("device_id", ["bob", "BOB", "teacher", "anna2", "Anna\u00e4"])
def test_nobody_becomes_another_by_the_device_id_of_their_enrollment(room: Class, device_id: str) -> None:
    answer = room.enroll("anna", deviceId=device_id)
    assert answer.status_code in (400, 401)
    assert room.ask("anna", "GET", "/enrollments/anna").status_code == 404, "nothing of it was stored"
    assert done(room.enroll("anna", deviceId="anna"))["deviceId"] == "anna"
    room.emulator.emulator.reset("anna")


def test_nobody_enrolls_another_by_the_registration_id_in_the_body(room: Class) -> None:
    body = {"registrationId": "bob", **document(room.devices["bob"])}
    assert dps_error(room.ask("anna", "PUT", "/enrollments/anna", body)) == (400, 400004, "Bad Request.")
    assert room.ask("bob", "GET", "/enrollments/bob").status_code == 404


def test_the_certificate_of_another_lets_nobody_in(both: Class, tmp_path: Path) -> None:
    """A student's device cannot be anybody else's: neither with their name, nor with their certificate enrolled."""
    forged = make_device(tmp_path, "bob")
    with at_dps(both.emulator, forged) as wire:
        assert wire.outcome("")[0] == 401
    done(both.ask("anna", "PUT", "/enrollments/anna", document(forged), **ANY))
    with at_dps(both.emulator, forged) as wire:
        assert wire.outcome("")[0] == 401, "it still asks for bob"


# --- keys and tokens --------------------------------------------------------------------------------------------------


def test_a_key_opens_for_its_own_policy_only(room: Class) -> None:
    anna, bob = room.joins["anna"], room.joins["bob"]
    assert anna.key != bob.key
    for key, policy in (
        (anna.key, bob.policy),
        (anna.key, "provisioningserviceowner"),
        (anna.key, "iothubowner"),
        (anna.key, "student-"),
        (anna.key, "student-ANNA"),
        (anna.key, "student-nobody"),
        (anna.key, "anna"),
        (bob.key, anna.policy),
        (b64encode(b"x" * 32).decode(), anna.policy),
        ("", anna.policy),
    ):
        token = room.token("anna", key=key or "AA==", policy=policy)
        for path in ("/enrollments/anna", "/enrollments/bob", "/devices/anna", "/devices/bob"):
            assert ask(room.emulator, "GET", path, authorization=token).status_code == 401, (policy, path)


@pytest.mark.parametrize(
    "policy", ["student-\x00", "student-\udcff", "student-anna\n", "student-%", "student-" + "x" * 5000]
)
def test_an_odd_policy_is_one_that_there_is_not(room: Class, policy: str) -> None:
    token = "SharedAccessSignature sr=x&sig=x&se=99999999999&skn=" + quote(policy, errors="surrogatepass")
    assert ask(room.emulator, "GET", "/enrollments/anna", authorization=token).status_code == 401


def test_a_token_that_is_over_or_for_elsewhere_opens_nothing(room: Class) -> None:
    join = room.joins["anna"]
    for host, expires in ((join.endpoint, -1), ("elsewhere", 60), (f"{join.endpoint}/enrollments/bob", 60)):
        token = sas.sign(host, join.policy, join.key, int(time.time()) + expires)
        assert ask(room.emulator, "GET", "/enrollments/anna", authorization=token).status_code == 401
    token = sas.sign(f"{join.endpoint}/enrollments/anna", join.policy, join.key, int(time.time()) + 60)
    assert ask(room.emulator, "GET", "/enrollments/anna", authorization=token).status_code == 404


def test_keys_are_in_no_log_and_no_representation(room: Class) -> None:
    done(room.ask("anna", "POST", "/enrollments/query", {"query": "SELECT *"}))
    log = room.emulator.log()
    for join in room.joins.values():
        assert join.key not in log
        assert join.key not in repr(join) + repr(Student(join.registration_id, join.key))


def test_who_is_dismissed_is_shut_out_and_a_new_key_is_another(room: Class, tmp_path: Path) -> None:
    emulator = room.emulator.emulator
    (carl,) = emulator.admit(["carl"])
    assert emulator.admit(["carl"]) == [carl], "twice is once"
    assert emulator.admit(["CARL"]) == [carl]
    token = sas.sign(carl.endpoint, carl.policy, carl.key, int(time.time()) + 60)
    body = document(make_device(tmp_path, "carl"))
    done(ask(room.emulator, "PUT", "/enrollments/carl", body, authorization=token))
    emulator.dismiss("carl")
    assert ask(room.emulator, "GET", "/enrollments/carl", authorization=token).status_code == 401
    assert ask(room.emulator, "GET", "/enrollments/carl").status_code == 404, "what they made is gone"
    (again,) = emulator.admit(["carl"])
    assert again.key != carl.key
    emulator.dismiss("carl")
    with pytest.raises(EmulatorError, match="There is no student 'carl' in this class: "):
        emulator.dismiss("carl")
    with pytest.raises(EmulatorError, match="'two words' is no registration ID"):
        emulator.admit(["dora", "two words"])
    assert [join.registration_id for join in emulator.students()] == ["anna", "bob"], "none of them, not half"


def test_students_and_their_keys_outlive_a_reset_and_a_restart(tmp_path: Path) -> None:
    first = RunningEmulator(tmp_path / "state")
    joins = first.emulator.admit(["anna", "bob"])
    first.emulator.reset()
    assert first.emulator.students() == joins
    first.terminate()
    second = RunningEmulator(tmp_path / "state")
    keys = [(join.registration_id, join.key) for join in second.emulator.students()]
    second.close()
    assert keys == [(join.registration_id, join.key) for join in joins]


# --- one student is forgotten -----------------------------------------------------------------------------------------


def test_a_reset_of_one_student_takes_theirs_and_leaves_the_rest(both: Class) -> None:
    emulator = both.emulator.emulator
    for name in both.joins:
        with connected(both.emulator, both.devices[name]) as client:
            send(client, "hello")
        emulator.fault("429", name)
    emulator.fault("slow")
    with connected(both.emulator, both.devices["bob"]) as client:
        emulator.reset("Anna")
        assert client.connected
        wait_for(lambda: row(both.emulator, "bob")["connected"])
    assert row(both.emulator, "anna") == {
        "registrationId": "anna", "certificate": None, "enrollment": None, "registration": None, "connected": False,
        "messages": 0, "mistakes": None,
    }  # fmt: skip
    bobs = row(both.emulator, "bob")
    assert (bobs["enrollment"], bobs["registration"]["status"], bobs["messages"]) == ("enabled", "assigned", 1)
    assert both.ask("anna", "GET", "/devices/anna").status_code == 404
    assert [fault["device"] for fault in emulator.faults()] == ["bob", None]
    emulator.clear_faults()
    done(both.enroll("anna"))


# --- what the teacher sees --------------------------------------------------------------------------------------------


def test_the_board_follows_a_student_from_nothing_to_messages(room: Class, tmp_path: Path) -> None:
    emulator, device = room.emulator, room.devices["anna"]
    emulator.emulator.reset("anna")
    seen = row(emulator, "anna")
    assert (seen["certificate"], seen["enrollment"], seen["registration"], seen["messages"]) == (None, None, None, 0)
    with at_dps(emulator, device) as wire:
        assert wire.outcome("")[0] == 401
    mistakes = row(emulator, "anna")["mistakes"]
    assert (mistakes["counts"], mistakes["last"]) == ({"not-enrolled": 1}, "not-enrolled")
    assert mistakes["reason"] == "there is no enrollment for registration ID 'anna'"
    done(room.enroll("anna"))
    seen = row(emulator, "anna")
    assert (seen["certificate"], seen["enrollment"], seen["registration"]) == (device.thumbprint, "enabled", None)
    with at_dps(emulator, make_device(tmp_path, "anna")) as wire:
        assert wire.outcome("")[0] == 401
    register(emulator, device)
    with connected(emulator, device) as client:
        send(client, "one", "two", "three")
        seen = row(emulator, "anna")
    assert (seen["registration"]["status"], seen["connected"], seen["messages"]) == ("assigned", True, 3)
    assert seen["mistakes"]["counts"] == {"not-enrolled": 1, "other-certificate": 1}
    wait_for(lambda: not row(emulator, "anna")["connected"])
    emulator.emulator.reset("anna")


def test_what_a_key_was_refused_is_a_mistake_and_to_look_for_nothing_is_none(room: Class) -> None:
    room.emulator.emulator.reset("anna")
    room.ask("anna", "GET", "/enrollments/anna")
    room.ask("anna", "GET", "/devices/anna")
    assert row(room.emulator, "anna")["mistakes"] is None
    room.refused("anna", "GET", "/enrollments/bob")
    room.ask("anna", "PUT", "/enrollments/anna", b"{")
    mistakes = row(room.emulator, "anna")["mistakes"]
    assert mistakes["counts"] == {"dps-not-yours": 1, "dps-bad-request": 1}
    assert row(room.emulator, "bob")["mistakes"] is None
    room.emulator.emulator.reset("anna")


def test_of_those_who_are_no_students_nothing_is_kept(room: Class, tmp_path: Path) -> None:
    with at_dps(room.emulator, make_device(tmp_path, "stranger")) as wire:
        wire.outcome("")
    assert [one["registrationId"] for one in room.emulator.emulator.board()["students"]] == ["anna", "bob"]


def test_a_fault_for_one_student_is_theirs_alone_and_one_for_all_is_everybodys(both: Class) -> None:
    emulator = both.emulator.emulator
    try:
        emulator.fault("401-unauthorized", "ANNA", times=1)
        assert emulator.board()["faults"] == [["401-unauthorized", "ANNA"]]
        with at_dps(both.emulator, both.devices["bob"]) as wire:
            assert wire.provision()["status"] == "assigned"
        with at_dps(both.emulator, both.devices["anna"]) as wire:
            assert wire.outcome("")[0] == 401
            assert wire.provision()["status"] == "assigned", "once is over"
        emulator.fault("500")
        for name in both.joins:
            with at_dps(both.emulator, both.devices[name]) as wire:
                assert wire.outcome("")[0] == 500
            assert row(both.emulator, name)["mistakes"]["reason"] == "the fault 500 is switched on"
    finally:
        emulator.clear_faults()


@pytest.mark.parametrize(
    ("refusal", "counts"),
    [
        (refusals.NOT_ENROLLED, True),
        (refusals.NOT_ENROLLED_404, True),
        (refusals.DPS_NOT_YOURS, True),
        (refusals.EVICTED, True),
        (refusals.ENROLLMENT_NOT_FOUND, False),
        (refusals.DEVICE_NOT_FOUND, False),
        (refusals.DEVICE_NOT_ONLINE, False),
        (refusals.REMOVED, False),
        (refusals.DISABLED_MEANWHILE, False),
    ],
)
def test_what_counts_as_a_mistake(refusal: refusals.Refusal, counts: bool) -> None:
    facts = dict.fromkeys(("registration_id", "device_id", "device", "policy", "feature"), "x")
    refused = Refused(refusal, **facts)
    assert counts_as_mistake(refused) is counts
    twice = with_one_more(with_one_more(None, refused, "then"), refused, "now")
    assert (twice.counts, twice.total, twice.at, twice.hint) == ({refusal.name: 2}, 2, "now", refusal.hint)


# --- helpers ----------------------------------------------------------------------------------------------------------


def row(emulator: RunningEmulator, name: str) -> dict[str, Any]:
    (found,) = [one for one in emulator.emulator.board()["students"] if one["registrationId"] == name]
    return dict(found)


def everything(emulator: RunningEmulator) -> str:
    """All that the services keep of both students, as the teacher sees it, but for what counts their mistakes."""
    asked = [
        ask(emulator, "POST", "/enrollments/query", {"query": "SELECT *"}),
        ask(emulator, "POST", "/enrollmentGroups/query", {"query": "SELECT *"}),
        ask(emulator, "GET", "/registrations/bob"),
        ask(emulator, "POST", "/devices/query", {"query": "SELECT * FROM devices"}),
        ask(emulator, "GET", "/certificates"),
    ]
    return json.dumps([done(answer) for answer in asked])
