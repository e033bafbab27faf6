from pathlib import Path
from typing import Any

import pytest
from devices import NAME, PASS_PHRASE, odd_pair

from dpsx_helpers import certificates, enrollments, targets, tutorial
from dpsx_helpers.certificates import Pair
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
    hub = emulated.hubs[0]
    first = enrollments.save(emulated, pair.certificate_file, iot_hub=hub, initial_twin=twin)
    assert "is enrolled." in capsys.readouterr().out
    second = enrollments.save(emulated, pair.certificate_file, iot_hub=hub, initial_twin=twin)
    assert "already enrolled" in capsys.readouterr().out
    assert second == first
    assert (second.initial_twin, second.iot_hub) == ({"interval": 5}, hub)


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
    saved = enrollments.save(emulated, pair.certificate_file, initial_twin={"properties": {"desired": {"a": 1}}})
    assert saved.initial_twin == {"a": 1}


def test_delete_says_whether_there_was_one(emulated: Target, pair: Pair) -> None:
    enrollments.save(emulated, pair.certificate_file)
    assert enrollments.delete(emulated, NAME)
    assert "enrollment" not in tutorial.recall()
    assert not enrollments.delete(emulated, NAME)


def test_a_key_in_the_certificate_file_is_not_sent(emulated: Target, pair: Pair, work: Path) -> None:
    both = work / "both.pem"
    both.write_bytes(pair.key_file.read_bytes() + pair.certificate_file.read_bytes())
    document = enrollments._document(NAME, certificates.describe(both).der, None, enrollments.check_twin(None))
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
