from pathlib import Path
from typing import Any

import pytest
from devices import NAME, PASS_PHRASE, odd_pair

from dpsx_helpers import certificates, enrollments, targets, tutorial
from dpsx_helpers.certificates import Pair
from dpsx_helpers.enrollments import EnrollmentRequest
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import NotReadable, Stop

pytest_plugins = ["kit"]


def test_the_registration_id_is_the_common_name_of_the_certificate(emulated: Target, pair: Pair) -> None:
    assert enrollments.get(emulated, NAME) is None
    saved = enrollments.save(emulated, pair.certificate_file)
    assert saved.registration_id == NAME
    assert saved.thumbprint_sha256 == certificates.describe(pair.certificate_file).thumbprint_sha256
    assert saved.provisioning_status == "enabled"
    assert [entry.registration_id for entry in enrollments.list_all(emulated)] == [NAME]
    assert enrollments.get(emulated, NAME) == saved
    assert tutorial.recall()["enrollment"] == NAME


def test_saving_twice_changes_nothing_and_says_so(
    emulated: Target, pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    twin: dict[str, Any] = {"tags": {}, "properties": {"desired": {"interval": 5}}}
    request = EnrollmentRequest(pair.certificate_file, iot_hubs=emulated.hubs, initial_twin=twin)
    first = enrollments.save(emulated, request)
    assert "is enrolled." in capsys.readouterr().out
    second = enrollments.save(emulated, request)
    assert "already enrolled" in capsys.readouterr().out
    assert (second, second.etag) == (first, first.etag)
    assert (second.initial_twin, second.iot_hub) == ({"interval": 5}, emulated.hubs[0])


def test_everything_of_the_panel_reaches_the_service(emulated: Target, pair: Pair, tmp_path: Path) -> None:
    other = odd_pair(tmp_path).certificate_file
    request = EnrollmentRequest(
        pair.certificate_file, other, "pump-7", True, "static", emulated.hubs, "reset", {"tags": {"hall": 3}}, False
    )
    saved = enrollments.save(emulated, request)
    with enrollments.service(emulated) as client:
        document = client.enrollment.get(NAME)
    assert document["deviceId"] == saved.device_id == "pump-7"
    assert document["capabilities"] == {"iotEdge": True}
    assert document["allocationPolicy"] == saved.allocation == "static"
    assert document["iotHubs"] == list(saved.iot_hubs) == list(emulated.hubs)
    assert document["reprovisionPolicy"] == {"updateHubAssignment": True, "migrateDeviceData": False}
    assert document["provisioningStatus"] == saved.provisioning_status == "disabled"
    assert document["initialTwin"]["tags"] == saved.tags == {"hall": 3}
    assert saved.secondary_sha256 == certificates.describe(other).thumbprint_sha256
    assert saved.iot_edge


@pytest.mark.parametrize(
    "other",
    [
        {"device_id": "pump-7"},
        {"iot_edge": True},
        {"allocation": "geoLatency"},
        {"iot_hubs": ("the hub",)},
        {"reprovisioning": "reset"},
        {"reprovisioning": "never"},
        {"initial_twin": {"tags": {"hall": 3}}},
        {"enabled": False},
        {"secondary_file": Path("odd.pem")},
    ],
    ids=lambda other: str(*other),
)
def test_every_setting_replaces_the_entry_and_stays_when_saved_again(
    emulated: Target, pair: Pair, work: Path, other: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    if "iot_hubs" in other:
        other = {"iot_hubs": emulated.hubs}
    if "secondary_file" in other:
        other = {"secondary_file": odd_pair(work).certificate_file}
    enrollments.save(emulated, pair.certificate_file)
    capsys.readouterr()
    changed = enrollments.save(emulated, EnrollmentRequest(pair.certificate_file, **other))
    assert "other settings; the entry is replaced" in capsys.readouterr().out
    again = enrollments.save(emulated, EnrollmentRequest(pair.certificate_file, **other))
    assert "already enrolled" in capsys.readouterr().out
    assert again.etag == changed.etag
    back = enrollments.save(emulated, pair.certificate_file)
    assert "the entry is replaced" in capsys.readouterr().out
    assert back != changed


def test_another_certificate_replaces_the_entry_and_says_so(
    emulated: Target, pair: Pair, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = enrollments.save(emulated, pair.certificate_file)
    certificates.create(NAME, PASS_PHRASE, work, key_type="ec-p256", existing="replace")
    second = enrollments.save(emulated, pair.certificate_file)
    assert "another certificate" in capsys.readouterr().out
    assert second.thumbprint_sha256 != first.thumbprint_sha256
    assert second.etag != first.etag
    assert len(enrollments.list_all(emulated)) == 1


def test_other_settings_replace_the_entry(emulated: Target, pair: Pair) -> None:
    enrollments.save(emulated, pair.certificate_file)
    twin = {"properties": {"desired": {"a": 1}}}
    saved = enrollments.save(emulated, EnrollmentRequest(pair.certificate_file, initial_twin=twin))
    assert saved.initial_twin == {"a": 1}


def test_delete_says_whether_there_was_one(emulated: Target, pair: Pair) -> None:
    enrollments.save(emulated, pair.certificate_file)
    assert enrollments.delete(emulated, NAME)
    assert "enrollment" not in tutorial.recall()
    assert not enrollments.delete(emulated, NAME)


def test_a_key_in_the_certificate_file_is_not_sent(emulated: Target, pair: Pair, work: Path) -> None:
    both = work / "both.pem"
    both.write_bytes(pair.key_file.read_bytes() + pair.certificate_file.read_bytes())
    document = enrollments._document(NAME, certificates.describe(both), None, EnrollmentRequest(both))
    assert "PRIVATE KEY" not in str(document)
    assert enrollments.save(emulated, both).registration_id == NAME


def test_a_der_certificate_can_be_enrolled(emulated: Target, pair: Pair, work: Path) -> None:
    (work / "device.cer").write_bytes(certificates.describe(pair.certificate_file).der)
    assert enrollments.save(emulated, work / "device.cer").registration_id == NAME


def test_a_missing_or_garbled_certificate_is_one_sentence(emulated: Target, work: Path) -> None:
    with pytest.raises(certificates.CertificateError):
        enrollments.save(emulated, work / "missing.pem")
    (work / "garbled.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(certificates.CertificateError):
        enrollments.save(emulated, work / "garbled.pem")


def test_a_common_name_that_is_no_registration_id_is_refused(emulated: Target, work: Path) -> None:
    with pytest.raises(certificates.CertificateError):
        enrollments.save(emulated, odd_pair(work, common_name="not one").certificate_file)


@pytest.mark.parametrize(
    "twin", [{"interval": 5}, {"properties": {"interval": 5}}, {"tags": 1}, {"properties": {"desired": 5}}, [1]]
)
def test_a_twin_of_another_form_is_refused(twin: Any) -> None:
    with pytest.raises(Stop, match="save again"):
        enrollments.check_twin(twin)


def test_on_azure_the_sentence_names_the_portal_page(work: Path, pair: Pair) -> None:
    tutorial.enter("target", "azure")
    for call in (enrollments.list_all, lambda t: enrollments.get(t, NAME), lambda t: enrollments.delete(t, NAME)):
        with pytest.raises(NotReadable, match="Manage enrollments"):
            call(targets.current())


def test_a_proxy_for_the_internet_is_not_in_the_way(emulated: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert enrollments.list_all(emulated) == []


def test_an_emulator_that_does_not_run_is_one_sentence(work: Path) -> None:
    target = targets.current()
    targets.stop()
    with pytest.raises(Stop, match=r"does not answer .* first cell"):
        enrollments.list_all(target)
