import json
from pathlib import Path

import pytest

from dpsx_helpers import certificates, tutorial
from dpsx_helpers.tutorial import Stop

pytest_plugins = ["kit"]


def test_stop_renders_as_exactly_its_one_sentence() -> None:
    stop = Stop("Enter the ID scope.")
    assert stop._render_traceback_() == ["Enter the ID scope."]
    assert str(stop) == "Enter the ID scope."


def test_what_was_entered_wins_over_environment_over_file_over_test_value(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tutorial.registration_id() == "Python-device-01"
    tutorial.remember(registration_id="remembered")
    assert tutorial.registration_id() == "remembered"
    monkeypatch.setenv("DPSX_REGISTRATION_ID", "exported")
    assert tutorial.registration_id() == "exported"
    tutorial.enter("registration_id", "entered")
    assert tutorial.registration_id() == "entered"


def test_azure_has_no_test_values(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSX_TARGET", "azure")
    with pytest.raises(Stop, match="registration ID form"):
        tutorial.registration_id()
    with pytest.raises(Stop, match="pass phrase form"):
        tutorial.pass_phrase()


@pytest.mark.parametrize("value", ["", "amazon", "Azure"])
def test_another_target_is_one_sentence(work: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("DPSX_TARGET", value)
    with pytest.raises(Stop, match=r"neither .* set DPSX_TARGET"):
        tutorial.target()


def test_transport_is_mqtt_unless_told(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tutorial.transport() == "mqtt"
    monkeypatch.setenv("DPSX_TRANSPORT", "websockets")
    assert tutorial.transport() == "websockets"
    monkeypatch.setenv("DPSX_TRANSPORT", "amqp")
    with pytest.raises(Stop, match="DPSX_TRANSPORT"):
        tutorial.transport()


def test_a_wrong_registration_id_is_refused(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSX_REGISTRATION_ID", "not/one")
    with pytest.raises(certificates.CertificateError, match="not/one"):
        tutorial.registration_id()


def test_work_folder_is_that_of_the_tutorial_at_or_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DPSX_WORK_DIR", raising=False)
    notebooks = tmp_path / "tutorial" / "notebooks"
    (notebooks / "deep").mkdir(parents=True)
    monkeypatch.chdir(notebooks / "deep")
    with pytest.raises(Stop, match="DPSX_WORK_DIR"):
        tutorial.work_dir()
    (notebooks / "00-start-here.ipynb").touch()
    for folder in (notebooks / "deep", notebooks, notebooks.parent):
        monkeypatch.chdir(folder)
        assert tutorial.work_dir() == notebooks / "work"
    assert (notebooks / "work").is_dir()


def test_a_work_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DPSX_WORK_DIR", str(tmp_path / "file" / "work"))
    with pytest.raises(Stop, match="set DPSX_WORK_DIR"):
        tutorial.work_dir()


def test_facts_of_emulator_and_azure_are_kept_apart(work: Path) -> None:
    tutorial.remember(enrollment="on-emulator")
    tutorial.enter("target", "azure")
    assert "enrollment" not in tutorial.recall()
    tutorial.remember(enrollment="on-azure")
    tutorial.enter("target", "emulator")
    assert tutorial.recall()["enrollment"] == "on-emulator"
    tutorial.forget("enrollment")
    assert "enrollment" not in tutorial.recall()


def test_the_target_chosen_is_known_to_the_next_kernel(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tutorial.enter("target", "azure")
    tutorial.enter("id_scope", "0ne00ABC123")
    monkeypatch.setattr(tutorial, "_entered", {})
    assert tutorial.target() == "azure"
    assert tutorial.known("id_scope") == ("0ne00ABC123", "remembered in tutorial.json")


def test_inputs_of_one_target_do_not_reach_the_other(work: Path) -> None:
    tutorial.enter("id_scope", "0neEMULATOR")
    tutorial.enter("target", "azure")
    assert tutorial.known("id_scope") is None


def test_the_address_of_an_emulator_is_not_remembered(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tutorial.enter("host", "127.0.0.9")
    assert tutorial.known("host") == ("127.0.0.9", "entered in this notebook")
    monkeypatch.setattr(tutorial, "_entered", {})
    assert tutorial.known("host") is None


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"version": 2}',
        '{"version": 1, "target": "x"}',
        '{"version": 1, "azure": []}',
        '{"version": 1, "emulator": {"pass_phrase": "1234"}}',
        '{"version": 1, "emulator": {"host": 1}}',
        "\xff\xfe",
    ],
)
def test_a_damaged_file_is_one_sentence_with_the_remedy(work: Path, content: str) -> None:
    (work / "tutorial.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(Stop, match=r"is damaged .*: delete that file and run this cell again") as stop:
        tutorial.target()
    assert "\n" not in str(stop.value)
    (work / "tutorial.json").unlink()
    assert tutorial.target() == "emulator"


def test_the_file_is_written_whole_or_not_at_all(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tutorial.remember(device="one")
    before = (work / "tutorial.json").read_text()

    def fail(*args: object, **others: object) -> None:
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(json, "dump", fail)
    with pytest.raises(RuntimeError):
        tutorial.remember(device="two")
    assert (work / "tutorial.json").read_text() == before
    assert [file.name for file in work.iterdir()] == ["tutorial.json"]


def test_no_secret_and_nothing_unknown_can_be_remembered(work: Path) -> None:
    with pytest.raises(TypeError):
        tutorial.remember(pass_phrase="canary-7")
    with pytest.raises(TypeError):
        tutorial.enter("colour", "blue")
    tutorial.enter("pass_phrase", "canary-7")
    tutorial.enter("registration_id", "device-7")
    assert all(b"canary-7" not in file.read_bytes() for file in work.rglob("*") if file.is_file())
    assert "canary-7" not in repr(tutorial._entered)


def test_a_pass_phrase_never_shows_itself(work: Path) -> None:
    tutorial.enter("pass_phrase", "canary-7")
    found = tutorial.pass_phrase()
    assert found == "canary-7"
    assert "canary-7" not in repr(found)
    assert "canary-7" not in repr({"PASS_PHRASE": found})


def test_a_pass_phrase_that_does_not_open_the_key_on_disk_stops(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificates.create("Python-device-01", "another one", work, key_type="ec-p256")
    with pytest.raises(Stop, match=r"does not open with the pass phrase known here .*pass phrase form") as stop:
        tutorial.pass_phrase()
    assert "1234" not in str(stop.value)
    assert tutorial.pass_phrase(new_key=True) == "1234"
    monkeypatch.setenv("DPSX_PASS_PHRASE", "another one")
    assert tutorial.pass_phrase() == "another one"


def test_a_garbled_key_is_not_called_a_wrong_pass_phrase(work: Path) -> None:
    (work / certificates.KEY_FILE).write_text("not a key")
    with pytest.raises(certificates.CertificateError, match="not a private key"):
        tutorial.pass_phrase()


def test_an_empty_pass_phrase_is_refused_for_a_new_key(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSX_PASS_PHRASE", "")
    with pytest.raises(Stop, match="empty"):
        tutorial.pass_phrase(new_key=True)


def test_a_key_of_ones_own_that_is_not_encrypted_needs_no_pass_phrase(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cryptography.hazmat.primitives import serialization as to
    from cryptography.hazmat.primitives.asymmetric import ec

    bare = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        to.Encoding.PEM, to.PrivateFormat.PKCS8, to.NoEncryption()
    )
    (work / "own.key").write_bytes(bare)
    monkeypatch.setenv("DPSX_TARGET", "azure")
    monkeypatch.setenv("DPSX_KEY_FILE", str(work / "own.key"))
    assert tutorial.pass_phrase() == ""


def test_blank_paths_are_refused(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSX_CERT_FILE", " ")
    with pytest.raises(Stop, match="DPSX_CERT_FILE"):
        tutorial.certificate_file()


def test_only_the_tutorials_own_pair_is_deleted(work: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.key.pem"
    own.touch()
    tutorial.enter("key_file", str(own))
    certificates.create("Python-device-01", "1234", work, key_type="ec-p256")
    assert tutorial.delete_pair() == ["python-device.key.pem", "python-device.pem"]
    assert tutorial.delete_pair() == []
    assert own.exists()
