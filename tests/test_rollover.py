"""The helpers of notebook 06: they touch nothing but what the notebook has made."""

from pathlib import Path
from typing import Any

import pytest
from azure.iot.deviceprovisioning import DeviceProvisioningClient
from devices import PASS_PHRASE, odd_pair
from registry_writing import put_device

from dpsx_helpers import certificates, enrollments, rollover, tutorial
from dpsx_helpers.certificates import CertificateError, Pair
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop

pytest_plugins = ["kit"]

NAME = "Python-device-02"


@pytest.fixture
def client(emulated: Target) -> DeviceProvisioningClient:
    return DeviceProvisioningClient.from_connection_string(str(emulated.dps_connection_string))


def enroll(client: DeviceProvisioningClient, name: str, made: Pair, second: Pair | None = None, **others: Any) -> None:
    pairs = {"primary": made} | ({"secondary": second} if second else {})
    slots = {slot: {"certificate": one.certificate_file.read_text()} for slot, one in pairs.items()}
    attestation = {"type": "x509", "x509": {"clientCertificates": slots}}
    document = {"registrationId": name, "attestation": attestation, **others}
    client.enrollment.create_or_update(name, document, if_match="*")


def thumbprint(made: Pair) -> str:
    return certificates.describe(made.certificate_file).thumbprint_sha256


def test_a_pair_is_made_once_in_a_folder_of_the_notebook(work: Path) -> None:
    first = rollover.pair(NAME, "old", PASS_PHRASE)
    assert first.certificate_file.parent == work / "notebook-06" / "old"
    assert first.created
    again = rollover.pair(NAME, "old", PASS_PHRASE)
    assert (again.created, thumbprint(again)) == (False, thumbprint(first))
    assert rollover.certificate("old").common_name == NAME
    assert rollover.own_certificates() == {thumbprint(first): NAME}
    with pytest.raises(CertificateError, match="names 'Python-device-02', not other"):
        rollover.pair("other", "old", PASS_PHRASE)


def test_a_folder_that_cannot_be_made_is_one_sentence(work: Path) -> None:
    (tutorial.own_folder(6) / "old").write_text("a file")
    with pytest.raises(Stop, match=r"^The folder .*old cannot be made \(File exists\): [^.]*\.$"):
        rollover.pair(NAME, "old", PASS_PHRASE)


def test_what_is_no_certificate_is_not_among_the_own_ones(work: Path) -> None:
    made = rollover.pair(NAME, "old", PASS_PHRASE)
    odd = tutorial.own_folder(6) / "odd"
    odd.mkdir()
    (odd / certificates.CERTIFICATE_FILE).write_text("nothing of the kind")
    assert rollover.own_certificates() == {thumbprint(made): NAME}


def test_starting_over_deletes_what_the_notebook_has_enrolled_and_nothing_else(
    client: DeviceProvisioningClient, emulated: Target, tmp_path: Path
) -> None:
    assert rollover.start_over(emulated, NAME).text == "Nothing of an earlier run is enrolled."
    old, new = rollover.pair(NAME, "old", PASS_PHRASE), rollover.pair(NAME, "new", PASS_PHRASE)
    third, stranger = rollover.pair("Python-device-03", "third", PASS_PHRASE), odd_pair(tmp_path, common_name="other")
    enroll(client, NAME, stranger, second=new)
    enroll(client, "Python-device-03", third)
    enroll(client, "other", stranger)
    said = rollover.start_over(emulated, NAME).text
    assert said.endswith(f"{NAME}, Python-device-03.")
    assert [entry.registration_id for entry in enrollments.list_all(emulated)] == ["other"]
    enroll(client, NAME, old)
    assert NAME in rollover.start_over(emulated, NAME).text


def test_an_entry_under_a_wrong_name_goes_too(
    client: DeviceProvisioningClient, emulated: Target, tmp_path: Path
) -> None:
    third = rollover.pair("Python-device-03", "third", PASS_PHRASE)
    stranger = odd_pair(tmp_path, common_name="other")

    def left() -> list[str]:
        return sorted(entry.registration_id for entry in enrollments.list_all(emulated))

    enroll(client, "other", stranger)
    enroll(client, NAME, rollover.pair(NAME, "old", PASS_PHRASE))
    enroll(client, "Python-device-3", third)
    enroll(client, "Python-devic-03", stranger, second=third)
    assert sorted(rollover.enrolled_as(emulated, thumbprint(third))) == ["Python-devic-03", "Python-device-3"]
    rollover.make_room(emulated, "Python-device-03")
    assert left() == sorted([NAME, "other"]), "of one device alone"
    rollover.make_room(emulated, "Python-device-03")
    enroll(client, "Python-device-03", third)
    rollover.make_room(emulated, "Python-device-03")
    assert left() == sorted([NAME, "other"])
    enroll(client, "Python-device-3", third)
    assert rollover.start_over(emulated, NAME).text.endswith(f"{NAME}, Python-device-3.")
    assert left() == ["other"]
    enroll(client, "Python-device-03", stranger)
    with pytest.raises(Stop, match="Python-device-03 is enrolled already, and not with a certificate from"):
        rollover.make_room(emulated, "Python-device-03")


@pytest.mark.parametrize("name", [NAME, "Python-device-03"])
def test_an_entry_of_somebody_else_stops_the_fresh_start(
    client: DeviceProvisioningClient, emulated: Target, tmp_path: Path, name: str
) -> None:
    rollover.pair("Python-device-03", "third", PASS_PHRASE)
    enroll(client, name, odd_pair(tmp_path, common_name=name))
    with pytest.raises(Stop, match=rf"^{name} is enrolled already, and not with a certificate from .*\.$"):
        rollover.start_over(emulated, NAME)
    assert enrollments.get(emulated, name) is not None


def test_the_table_says_who_knows_which_certificate(
    client: DeviceProvisioningClient, emulated: Target, tmp_path: Path
) -> None:
    old, new = rollover.pair(NAME, "old", PASS_PHRASE), rollover.pair(NAME, "new", PASS_PHRASE)

    def which() -> list[str]:
        rows = rollover.standing(emulated, NAME, old=old, new=new).text.splitlines()[2:]
        return [row[29:].split()[0] for row in rows]

    assert which() == ["none", "none", "none"]
    enroll(client, NAME, old, second=new)
    assert which() == ["old", "new", "none"]
    put_device(emulated, NAME, thumbprint(new))
    assert which() == ["old", "new", "new"]
    enroll(client, NAME, odd_pair(tmp_path, common_name=NAME), deviceId="meter")
    assert which() == ["another", "none", "none"]
    put_device(emulated, "meter", thumbprint(old))
    assert which() == ["another", "none", "old"]
    assert thumbprint(old) in rollover.standing(emulated, NAME, old=old, new=new).text


@pytest.mark.parametrize("twin", [None, {}, {"tags": {"owner": "operations", "product": 2}}])
def test_a_colleague_changes_one_tag_and_leaves_a_note(
    client: DeviceProvisioningClient, emulated: Target, capsys: pytest.CaptureFixture[str], twin: dict[str, Any] | None
) -> None:
    assert rollover.told_by_colleague() is None
    enroll(client, NAME, rollover.pair(NAME, "old", PASS_PHRASE), initialTwin=twin)
    sites = []
    for _ in range(2):
        before = client.enrollment.get(NAME)["etag"]
        rollover.colleague(emulated, NAME)
        entry = enrollments.get(emulated, NAME)
        assert entry is not None
        assert entry.etag != before
        assert entry.tags.keys() - {"product"} == {"site"}
        assert rollover.told_by_colleague() == (NAME, entry.tags["site"])
        assert entry.tags["site"] in capsys.readouterr().out
        sites.append(entry.tags["site"])
    assert sites[0] != sites[1]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"registrationId": 1}', "\0"])
def test_a_note_that_cannot_be_read_is_none(work: Path, content: str) -> None:
    (tutorial.own_folder(6) / "colleague.json").write_text(content)
    assert rollover.told_by_colleague() is None


def test_the_batch_begins_anew_each_time(
    client: DeviceProvisioningClient, emulated: Target, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        rollover.batch(emulated, PASS_PHRASE)
        assert "Python-device-12 (south)" in capsys.readouterr().out
        found = {entry.registration_id: entry for entry in enrollments.list_all(emulated)}
        assert {name: entry.tags for name, entry in found.items()} == {
            name: {"supplier": supplier} for name, supplier in rollover.BATCH.items()
        }
        assert {entry.provisioning_status for entry in found.values()} == {"enabled"}
        enroll(client, "Python-device-11", rollover.pair("Python-device-11", "Python-device-11", PASS_PHRASE),
               provisioningStatus="disabled")  # fmt: skip
    enroll(client, "Python-device-12", odd_pair(tmp_path, common_name="Python-device-12"))
    with pytest.raises(Stop, match="Python-device-12 is enrolled already, and not with a certificate from"):
        rollover.batch(emulated, PASS_PHRASE)


def test_the_batch_enables_what_an_earlier_try_has_disabled(emulated: Target) -> None:
    phrase = tutorial.pass_phrase(new_key=True)
    enroll_again = rollover.pair("Python-device-02", "new", phrase)
    with DeviceProvisioningClient.from_connection_string(emulated.dps_connection_string) as client:
        document = rollover._document("Python-device-02", enroll_again, {})
        client.enrollment.create_or_update("Python-device-02", document | {"provisioningStatus": "disabled"})
    rollover.batch(emulated, phrase)
    found = {entry.registration_id: entry.provisioning_status for entry in enrollments.list_all(emulated)}
    assert found == dict.fromkeys([*rollover.BATCH, "Python-device-02"], "enabled")


def test_what_was_lost_beside_the_tag_of_the_exercise_is_named(emulated: Target) -> None:
    name, phrase = "Python-device-02", tutorial.pass_phrase(new_key=True)
    made = rollover.pair(name, "new", phrase)
    with DeviceProvisioningClient.from_connection_string(emulated.dps_connection_string) as client:
        document = rollover._document(name, made, {"product": 2})
        document["initialTwin"]["properties"] = {"desired": {"telemetryInterval": 10}}
        client.enrollment.create_or_update(name, document)
        rollover.colleague(emulated, name)
        for spoil, lost in (
            (lambda twin: twin, None),
            (lambda twin: twin | {"tags": {"site": twin["tags"]["site"]}}, "another tag"),
            (lambda twin: twin | {"properties": {"desired": {}}}, "a desired property"),
        ):
            entry = dict(client.enrollment.get(name))
            changed = entry | {"initialTwin": spoil(entry["initialTwin"])}
            client.enrollment.create_or_update(name, changed, if_match=entry["etag"])
            assert rollover.lost_since_colleague(enrollments.get(emulated, name)) == lost  # type: ignore[arg-type]
            client.enrollment.create_or_update(name, entry, if_match="*")
