"""Notebook 06: what the learner reads, its check, and its exercises with right and wrong answers."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import beyond
import pytest
from azure.core.exceptions import HttpResponseError
from azure.iot.deviceprovisioning import DeviceProvisioningClient
from devices import PASS_PHRASE, odd_pair
from executed import errors, files_with, only_sentence, read, said, tagged
from registry_writing import put_device

from dpsx_helpers import certificates, checks, enrollments, registry, rollover, targets, tutorial
from dpsx_helpers.certificates import Pair
from dpsx_helpers.errors import LearnerError
from dpsx_helpers.targets import Target

pytest_plugins = ["kit"]

NAME, THIRD = "Python-device-02", "Python-device-03"
CANARY = "canary-06-b7d1e4"


def cell(executed: Any, tag: str) -> str:
    return said(tagged(executed, tag))


# --- the notebook -----------------------------------------------------------------------------------------------------


def test_it_runs_as_a_story(tmp_path: Path) -> None:
    for executed in beyond.runs_as_a_story(6, tmp_path):
        _look_at_the_versions(executed)
        _look_at_the_rollover(executed)
        assert cell(executed, "client").strip() == "••••"
        listed = re.findall(r"Python-device-\d\d", cell(executed, "query"))
        assert listed == [NAME, "Python-device-99", NAME]


def _look_at_the_versions(executed: Any) -> None:
    assert "'sha256Thumbprint': '" in cell(executed, "create")
    assert cell(executed, "again").strip() == "409 Conflict"
    (before,) = re.findall(r"'etag': '(\"[^\"]+\")'", cell(executed, "create"))
    after = cell(executed, "update").strip(" '\n")
    assert re.fullmatch(r'"[0-9a-f-]{36}"', after)
    assert before != after
    assert cell(executed, "stale").strip() == "412 Precondition Failed"


def _look_at_the_rollover(executed: Any) -> None:
    assert cell(executed, "device-code").startswith("old pair: assigned to the hub 127.")
    assert re.fullmatch(r"old pair: refused, .*\bdisabled\b.*", cell(executed, "disable").strip())
    assert cell(executed, "enable").startswith("old pair: assigned")
    assert _which(executed, "secondary") == ["old", "new", "old"]
    assert re.findall(r"^(\w+) pair: (\w+)", cell(executed, "both"), re.MULTILINE) == [
        ("old", "assigned"),
        ("new", "assigned"),
    ]
    assert _which(executed, "both") == ["old", "new", "new"]
    finish = cell(executed, "finish")
    assert re.findall(r"^(\w+) pair: (\w+)", finish, re.MULTILINE) == [("new", "assigned"), ("old", "refused")]
    assert re.search(r"old pair: refused, .*\b401$", finish, re.MULTILINE)
    assert _which(executed, "finish") == ["new", "none", "new"]


def _which(executed: Any, tag: str) -> list[str]:
    """The column "Which" of the table below a cell."""
    rows = re.findall(r"^  (?:DPS|hub): (?:primary|secondary) \w+ +(\w+)", cell(executed, tag), re.MULTILINE)
    return [str(row) for row in rows]


def test_it_stops_with_one_sentence_without_connection_strings(tmp_path: Path) -> None:
    sentence = beyond.stops_without_values(6, tmp_path)
    assert "set DPS_CONNECTION_STRING and IOTHUB_CONNECTION_STRING" in sentence


def test_a_field_misspelt_in_an_exercise_is_one_sentence_with_a_card(tmp_path: Path) -> None:
    notebook = beyond.solved(6)
    stub = tagged(notebook, "exercise-1")
    stub.source = stub.source.replace("deviceId=", "devceId=")
    with beyond.desk(tmp_path) as learner:
        executed = learner.run(notebook)
    sentence = only_sentence(executed)
    assert "does not take the document (400, an enrollment of this kind has no field devceId): mend it" in sentence
    assert '"message": "Bad Request."' in cell(executed, "exercise-1"), "the card has DPS's own words"


def test_on_azure_it_leaves_the_first_device_alone_and_shows_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        beyond.azure(tmp_path) as environment,
        beyond.desk(tmp_path / "desk", **environment, DPSX_PASS_PHRASE=CANARY) as learner,
    ):
        for name, value in {**environment, "DPSX_WORK_DIR": str(learner.work)}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(tutorial, "_entered", {})
        target = targets.for_operator()
        first = certificates.create("Python-device-01", CANARY, learner.work, key_type="ec-p256")
        entry = enrollments.save(target, first.certificate_file)
        remembered = (learner.work / "tutorial.json").read_bytes()
        executed = learner.run(read(6))
        assert errors(executed) == []
        assert cell(executed, "check").startswith("✔")
        assert re.findall(r"Python-device-\d\d", cell(executed, "query"))[0] == "Python-device-01"
        assert (learner.work / "tutorial.json").read_bytes() == remembered
        after = enrollments.get(target, "Python-device-01")
        assert after is not None
        assert (after, after.etag) == (entry, entry.etag)
        for connection_string in targets.CONNECTION_STRINGS:
            key = environment[connection_string].partition("SharedAccessKey=")[2]
            assert len(key) > 10
            assert files_with(key, learner.folder) == []
        assert files_with(CANARY, learner.folder) == []


# --- the check --------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(emulated: Target) -> DeviceProvisioningClient:
    return DeviceProvisioningClient.from_connection_string(str(emulated.dps_connection_string))


@pytest.fixture
def rolled(emulated: Target, client: DeviceProvisioningClient) -> tuple[Pair, Pair]:
    """The world after the rollover, all as it should be: (old, new)."""
    old, new = rollover.pair(NAME, "old", PASS_PHRASE), rollover.pair(NAME, "new", PASS_PHRASE)
    put(client, NAME, primary=new)
    put_device(emulated, NAME, thumbprint(new))
    return old, new


def put(
    client: DeviceProvisioningClient, name: str, *, primary: Pair, secondary: Pair | None = None, **others: Any
) -> None:
    slots = {"primary": primary, **({"secondary": secondary} if secondary else {})}
    x509 = {slot: {"certificate": one.certificate_file.read_text()} for slot, one in slots.items()}
    attestation = {"type": "x509", "x509": {"clientCertificates": x509}}
    client.enrollment.create_or_update(
        name, {"registrationId": name, "attestation": attestation, **others}, if_match="*"
    )


def thumbprint(made: Pair) -> str:
    return certificates.describe(made.certificate_file).thumbprint_sha256


def stopped(words: str) -> None:
    with pytest.raises(LearnerError, match=words) as stop:
        checks.programmatically()
    assert re.fullmatch(r"[^\n]+: [^\n]+\.", str(stop.value))


def test_the_check_ticks_what_the_rollover_leaves(rolled: tuple[Pair, Pair]) -> None:
    text = checks.programmatically().text
    assert [line[0] for line in text.splitlines()] == ["✔"] * 3
    assert thumbprint(rolled[0]) in text.splitlines()[2]
    assert thumbprint(rolled[1]) in text.splitlines()[1]


def test_the_check_wants_a_running_emulator(work: Path) -> None:
    stopped("The emulator is not running")


def test_the_check_wants_both_pairs(emulated: Target) -> None:
    stopped("old and the new certificate are not both in the folder")
    rollover.pair(NAME, "old", PASS_PHRASE)
    stopped("old and the new certificate are not both in the folder")


def test_the_check_wants_two_different_pairs(rolled: tuple[Pair, Pair]) -> None:
    old, new = rolled
    new.certificate_file.write_bytes(old.certificate_file.read_bytes())
    stopped("are the same")


def test_the_check_looks_at_the_entry(
    client: DeviceProvisioningClient, rolled: tuple[Pair, Pair], tmp_path: Path
) -> None:
    old, new = rolled
    stranger = odd_pair(tmp_path, common_name=NAME)
    put(client, NAME, primary=old, secondary=new)
    stopped("still enrolled with its old certificate too")
    put(client, NAME, primary=old)
    stopped("not enrolled with its new certificate")
    put(client, NAME, primary=new, secondary=stranger)
    stopped("neither the old nor the new one")
    put(client, NAME, primary=new, provisioningStatus="disabled")
    stopped("is disabled")
    client.enrollment.delete(NAME)
    stopped("There is no enrollment for Python-device-02")


def test_the_check_takes_the_new_certificate_in_the_second_place(
    client: DeviceProvisioningClient, rolled: tuple[Pair, Pair]
) -> None:
    """As the portal's own procedure leaves it: the expired primary one is deleted, the secondary one stays."""
    slots = {"secondary": {"certificate": rolled[1].certificate_file.read_text()}}
    attestation = {"type": "x509", "x509": {"clientCertificates": slots}}
    client.enrollment.create_or_update(NAME, {"registrationId": NAME, "attestation": attestation}, if_match="*")
    assert checks.programmatically().text.startswith("✔ the new certificate provisions")


def test_the_check_looks_at_the_hub(
    client: DeviceProvisioningClient, emulated: Target, rolled: tuple[Pair, Pair]
) -> None:
    old, new = map(thumbprint, rolled)
    for primary, secondary in ((old, old), (old, new), (new, old)):
        put_device(emulated, NAME, primary, secondary)
        stopped("does not know Python-device-02 by its new certificate alone")
    registry.delete(emulated, NAME)
    stopped("The hub has no device Python-device-02")
    put(client, NAME, primary=rolled[1], deviceId="meter")
    stopped("The hub has no device meter")
    put_device(emulated, "meter", new)
    checks.programmatically()


# --- exercises --------------------------------------------------------------------------------------------------------


def not_yet(number: int, words: str) -> None:
    """The exercise says in one sentence, with these words, that it is not done."""
    text = checks.exercise(6, number).text
    assert re.search(words, text), text
    assert re.fullmatch(r"☐ Not yet: [^\n]+\.", text), text


def test_the_third_device_right_and_wrong(client: DeviceProvisioningClient, emulated: Target, tmp_path: Path) -> None:
    twin = {"properties": {"desired": {"telemetryInterval": 30}}}
    right: dict[str, Any] = {"deviceId": "wind-meter-03", "initialTwin": twin}
    not_yet(1, "there is no enrollment Python-device-03")
    stranger = odd_pair(tmp_path, common_name=THIRD)
    put(client, THIRD, primary=stranger, **right)
    not_yet(1, r"python-device\.pem")
    third = rollover.pair(THIRD, "third", PASS_PHRASE)
    not_yet(1, "is not the one in the folder third")
    client.enrollment.delete(THIRD)
    put(client, "Python-device-3", primary=third, **right)
    not_yet(1, f"the certificate of {THIRD} is enrolled as Python-device-3, and {THIRD} is expected")
    put(client, THIRD, primary=stranger, secondary=third, **right)
    not_yet(1, "is not the one in the folder third")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"deviceId": None}, "has no deviceId"),
        ({"deviceId": "Wind-meter-03"}, "has deviceId Wind-meter-03, and wind-meter-03 is expected"),
        ({"initialTwin": None}, r"are \{\}, and"),
        ({"initialTwin": {"tags": {"telemetryInterval": 30}}}, r"are \{\}, and"),
        ({"initialTwin": {"properties": {"desired": {"telemetryInterval": "30"}}}}, 'are {"telemetryInterval": "30"}'),
        ({"initialTwin": {"properties": {"desired": {"telemetryInterval": 30, "x": "y" * 90}}}}, "…, and"),
        ({"provisioningStatus": "disabled"}, "is disabled, and enabled is expected"),
    ]
    for change, words in wrong:
        put(client, THIRD, primary=third, **(right | change))
        not_yet(1, words)
    put(client, THIRD, primary=third, **right)
    assert checks.exercise(6, 1).text.startswith("✔ Python-device-03 is enrolled")


Change = Callable[[DeviceProvisioningClient, dict[str, Any]], None]


def _nothing(client: DeviceProvisioningClient, mine: dict[str, Any]) -> None:
    """The untouched stub."""


def _overwrite(client: DeviceProvisioningClient, mine: dict[str, Any]) -> None:
    mine["initialTwin"] = {"tags": {"owner": "operations"}}
    client.enrollment.create_or_update(NAME, mine, if_match="*")


def _write_what_was_read(client: DeviceProvisioningClient, mine: dict[str, Any]) -> None:
    mine["initialTwin"]["tags"]["owner"] = "operations"
    client.enrollment.create_or_update(NAME, mine, if_match="*")


def _another_owner(client: DeviceProvisioningClient, mine: dict[str, Any]) -> None:
    entry = client.enrollment.get(NAME)
    entry["initialTwin"]["tags"]["owner"] = {"name": "me"}
    client.enrollment.create_or_update(NAME, entry, if_match=entry["etag"])


def _no_tags_at_all(client: DeviceProvisioningClient, mine: dict[str, Any]) -> None:
    mine["initialTwin"] = None
    client.enrollment.create_or_update(NAME, mine, if_match="*")


def _delete(client: DeviceProvisioningClient, mine: dict[str, Any]) -> None:
    client.enrollment.delete(NAME)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_nothing, "the tag owner of Python-device-02 is not there: operations is expected beside the site roof-"),
        (_overwrite, "your colleague's tag site is gone instead of roof-"),
        (_write_what_was_read, r'tag site is "roof-\w+" instead of roof-'),
        (_another_owner, r'is {"name": "me"}: operations is expected beside'),
        (_no_tags_at_all, "is not there, and your colleague's site roof-.* is lost"),
        (_delete, "there is no enrollment Python-device-02 any more"),
    ],
)
def test_a_change_that_loses_something(
    client: DeviceProvisioningClient, emulated: Target, rolled: tuple[Pair, Pair], change: Change, words: str
) -> None:
    not_yet(2, "your colleague has changed nothing yet")
    rollover.colleague(emulated, NAME)  # an earlier try, which leaves an older site
    mine = dict(client.enrollment.get(NAME))
    rollover.colleague(emulated, NAME)
    change(client, mine)
    not_yet(2, words)


def test_a_change_that_loses_nothing(
    client: DeviceProvisioningClient, emulated: Target, rolled: tuple[Pair, Pair]
) -> None:
    mine = client.enrollment.get(NAME)
    rollover.colleague(emulated, NAME)
    with pytest.raises(HttpResponseError) as refused:
        client.enrollment.create_or_update(NAME, mine, if_match=mine["etag"])
    assert refused.value.status_code == 412
    entry = client.enrollment.get(NAME)
    entry["initialTwin"]["tags"]["owner"] = "operations"
    client.enrollment.create_or_update(NAME, entry, if_match=entry["etag"])
    assert "nobody's change was lost" in checks.exercise(6, 2).text


def test_disabling_too_few_too_many_and_just_right(
    client: DeviceProvisioningClient, emulated: Target, rolled: tuple[Pair, Pair]
) -> None:
    def disable(*names: str) -> None:
        rollover.batch(emulated, PASS_PHRASE)
        for name in names:
            entry = client.enrollment.get(name)
            entry["provisioningStatus"] = "disabled"
            client.enrollment.create_or_update(name, entry, if_match=entry["etag"])

    one, two, three = rollover.BATCH
    not_yet(3, f"there is no enrollment {one}")
    disable()
    not_yet(3, f"{one} is from the supplier north and enabled")
    disable(one)
    not_yet(3, f"{three} is from the supplier north and enabled")
    disable(one, two, three)
    not_yet(3, f"{two} is not from the supplier north and disabled")
    disable(one, three)
    assert checks.exercise(6, 3).text.startswith(f"✔ of what this notebook enrolled, exactly {one} and {three}")
    disable(one, three, NAME)
    not_yet(3, f"{NAME} is not from the supplier north and disabled")


@pytest.mark.parametrize("twin", [None, {}, {"tags": {"supplier": ["north"]}}])
def test_a_disabled_entry_that_has_lost_its_tag(
    client: DeviceProvisioningClient, emulated: Target, twin: dict[str, Any] | None
) -> None:
    rollover.batch(emulated, PASS_PHRASE)
    first = next(iter(rollover.BATCH))
    made = rollover.pair(first, first, PASS_PHRASE)
    put(client, first, primary=made, initialTwin=twin, provisioningStatus="disabled")
    not_yet(3, f"{first} has lost its tag supplier north")
