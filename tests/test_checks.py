import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from devices import NAME, PASS_PHRASE, odd_pair, provision, set_variables

from dpsx_helpers import certificates, checks, enrollments, registry, targets, tutorial
from dpsx_helpers.certificates import CertificateError, Pair
from dpsx_helpers.display import View
from dpsx_helpers.errors import LearnerError
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop

pytest_plugins = ["kit"]


def stopped(check: Callable[[], View], words: str) -> None:
    """The check stops with one sentence of these words."""
    with pytest.raises(LearnerError, match=words) as stop:
        check()
    assert "\n" not in str(stop.value)
    assert str(stop.value).endswith(".")


def ticked(view: View) -> None:
    assert view.text
    assert all(line.startswith("✔ ") for line in view.text.splitlines())


def test_start_here_and_environment_want_a_running_emulator(work: Path) -> None:
    stopped(checks.start_here, "not running: run the cell that sets `target`")
    stopped(checks.environment, "not running")
    targets.current()
    ticked(checks.start_here())
    ticked(checks.environment())
    targets.stop()


def test_start_here_on_azure_ticks_the_machine_and_asks_for_the_rest(work: Path) -> None:
    tutorial.enter("target", "azure")
    text = checks.start_here().text
    assert "✔ the target is your Azure subscription" in text
    assert "☐ " in text


def test_environment_wants_the_port_to_answer(emulated: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSX_PROVISIONING_HOST", "127.46.0.1")
    stopped(checks.environment, "Nothing listens at 127.46.0.1 on port 8883")


def test_certificate_wants_both_files(work: Path) -> None:
    stopped(checks.certificate, r"python-device.pem is not in .* notebook 02")
    pair = certificates.create(NAME, PASS_PHRASE, work, key_type="ec-p256")
    ticked(checks.certificate())
    assert "certificate and registration ID agree: Python-device-01" in checks.certificate().text
    pair.key_file.unlink()
    stopped(checks.certificate, r"python-device.key.pem is not in")


def test_certificate_wants_the_right_key(work: Path, pair: Pair) -> None:
    other = odd_pair(work)
    other.key_file.replace(pair.key_file)
    stopped(checks.certificate, "does not belong to the certificate")


def test_certificate_wants_the_registration_id_as_its_name(pair: Pair) -> None:
    tutorial.enter("registration_id", "PYTHON-device-01")
    ticked(checks.certificate())
    tutorial.enter("registration_id", "another-device")
    stopped(checks.certificate, "CN=Python-device-01 but your registration ID is another-device")


@pytest.mark.parametrize(
    ("odd", "words"), [({"is_ca": True}, "CA:TRUE"), ({"days": -1}, "expired on"), ({"days": 90}, "clock")]
)
def test_certificate_wants_a_valid_one_of_a_device(work: Path, odd: dict[str, int], words: str) -> None:
    made = odd_pair(work, **odd)  # type: ignore[arg-type]
    tutorial.enter("certificate_file", str(made.certificate_file))
    tutorial.enter("key_file", str(made.key_file))
    stopped(checks.certificate, words)


def test_enrollment_wants_the_certificate_on_disk(emulated: Target, pair: Pair, work: Path) -> None:
    stopped(checks.enrollment, "no enrollment for Python-device-01 yet")
    enrollments.save(emulated, pair.certificate_file)
    ticked(checks.enrollment())
    certificates.create(NAME, PASS_PHRASE, work, key_type="ec-p256", existing="replace")
    stopped(checks.enrollment, "enrolled with another certificate")
    enrollments.save(emulated, pair.certificate_file)
    ticked(checks.enrollment())


def test_enrollment_on_azure_asks_with_the_thumbprint_that_the_portal_shows(pair: Pair) -> None:
    tutorial.enter("target", "azure")
    tutorial.enter("registration_id", NAME)
    text = checks.enrollment().text
    assert certificates.describe(pair.certificate_file).thumbprint_sha1 in text
    assert all(line.startswith("☐ ") for line in text.splitlines())


def test_before_connecting_wants_every_variable(emulated: Target, pair: Pair) -> None:
    for name in tutorial.VARIABLES[:5]:
        set_variables(emulated)
        ticked(checks.before_connecting())
        del os.environ[name]
        stopped(checks.before_connecting, f"{name} is not set")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"PROVISIONING_HOST": "https://global.azure-devices-provisioning.net"},
            "but the emulator is at .* sets the variables",
        ),
        ({"PROVISIONING_HOST": "127.47.0.1"}, 'is "127.47.0.1", but the emulator is at .* sets the variables'),
        ({"PROVISIONING_IDSCOPE": "0ne 1"}, "letters and digits"),
        ({"DPS_X509_REGISTRATION_ID": "another"}, "CN=Python-device-01 but DPS_X509_REGISTRATION_ID is another"),
        ({"X509_CERT_FILE": "/nowhere/python-device.pem"}, "/nowhere/python-device.pem"),
        ({"X509_KEY_FILE": "/nowhere/python-device.key.pem"}, "/nowhere/python-device.key.pem"),
        ({"PASS_PHRASE": "other"}, "PASS_PHRASE and X509_PASS_PHRASE differ"),
        ({"PASS_PHRASE": "wrong", "X509_PASS_PHRASE": "wrong"}, "does not open"),
        ({"PASS_PHRASE": "", "X509_PASS_PHRASE": ""}, "pass phrase"),
    ],
)
def test_before_connecting_explains_each_mistake(
    emulated: Target, pair: Pair, changed: dict[str, str], words: str
) -> None:
    set_variables(emulated, **changed)
    stopped(checks.before_connecting, words)


def test_before_connecting_refuses_a_garbled_certificate(emulated: Target, pair: Pair) -> None:
    set_variables(emulated)
    pair.certificate_file.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    stopped(checks.before_connecting, "python-device.pem")


def test_before_connecting_hints_at_an_unusual_id_scope(emulated: Target, pair: Pair) -> None:
    set_variables(emulated, PROVISIONING_IDSCOPE="002409020C00089D")
    assert "Hint: " in checks.before_connecting().text


def test_simulate_wants_device_thumbprint_and_messages(emulated: Target, pair: Pair, work: Path) -> None:
    stopped(lambda: checks.simulate(9), "9 of 10 messages")
    stopped(lambda: checks.simulate(10), "no device Python-device-01")
    enrollments.save(emulated, pair.certificate_file)
    set_variables(emulated)
    checks.before_connecting()
    provision(9)
    stopped(lambda: checks.simulate(10), "has stored 9 messages")
    provision(1)
    ticked(checks.simulate(10))
    # A second run has to send its own ten.
    checks.before_connecting()
    stopped(lambda: checks.simulate(10), "has stored 0 messages")
    certificates.create(NAME, PASS_PHRASE, work, key_type="ec-p256", existing="replace")
    stopped(lambda: checks.simulate(10), "by another certificate")


def test_simulate_on_azure_counts_what_the_device_saw_and_asks(work: Path) -> None:
    tutorial.enter("target", "azure")
    tutorial.enter("registration_id", NAME)
    stopped(lambda: checks.simulate(3), "3 of 10")
    text = checks.simulate(10).text
    assert text.startswith("✔ 10 messages")
    assert "az iot hub monitor-events" in text


def test_clean_up_wants_everything_gone(work: Path, pair: Pair) -> None:
    target = targets.current()
    ticked(checks.clean_up(kept=True))
    enrollments.save(target, pair.certificate_file)
    set_variables(target)
    state = provision().registration_state
    tutorial.remember(device=state.device_id, hub=state.assigned_hub)
    stopped(lambda: checks.clean_up(kept=False), "python-device.key.pem is still in")
    tutorial.delete_pair()
    stopped(lambda: checks.clean_up(kept=True), "is gone although")
    stopped(lambda: checks.clean_up(kept=False), "enrollment Python-device-01 is still there")
    enrollments.delete(target, NAME)
    stopped(lambda: checks.clean_up(kept=False), "device Python-device-01 is still in the hub")
    registry.delete(target, NAME)
    stopped(lambda: checks.clean_up(kept=False), "emulator of this tutorial still runs")
    targets.stop()
    ticked(checks.clean_up(kept=False))


def test_clean_up_remembers_records_of_a_stopped_emulator(work: Path, pair: Pair) -> None:
    target = targets.current()
    enrollments.save(target, pair.certificate_file)
    targets.stop()
    tutorial.delete_pair()
    stopped(lambda: checks.clean_up(kept=False), "record of Python-device-01 that was not deleted")


def test_clean_up_on_azure_asks(work: Path) -> None:
    tutorial.enter("target", "azure")
    tutorial.enter("registration_id", NAME)
    assert "☐ " in checks.clean_up(kept=False).text


def test_a_check_with_a_damaged_file_is_one_sentence(work: Path) -> None:
    (work / "tutorial.json").write_text(json.dumps({"version": 7}))
    stopped(checks.start_here, "damaged")


def test_certificate_errors_are_learner_errors() -> None:
    assert issubclass(CertificateError, LearnerError)
    assert issubclass(Stop, LearnerError)
