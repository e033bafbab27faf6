import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from devices import NAME, PASS_PHRASE, credentials, odd_pair, provision, send, set_variables

from dpsx_helpers import certificates, diagnosis, enrollments, registry, targets, tutorial
from dpsx_helpers.certificates import Pair
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop

pytest_plugins = ["kit"]


def explained(action: Callable[[], Any], words: str) -> None:
    """The action fails inside `explain`, and the learner gets one sentence of these words and no secret."""
    with pytest.raises(Stop, match=words) as stop, diagnosis.explain():
        action()
    assert "\n" not in str(stop.value)
    assert str(stop.value).endswith(".")
    assert PASS_PHRASE not in str(stop.value).replace(str(tutorial.work_dir()), "").split()


@pytest.fixture
def enrolled(emulated: Target, pair: Pair) -> Target:
    """Everything right: each test spoils one thing."""
    enrollments.save(emulated, pair.certificate_file)
    set_variables(emulated)
    return emulated


def test_nothing_is_in_the_way_of_success(enrolled: Target) -> None:
    with diagnosis.explain():
        assert provision().status == "assigned"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"PROVISIONING_IDSCOPE": "0ne00000000"}, r'knows no ID scope "0ne00000000" .*CONNACK 3.* Overview page'),
        ({"DPS_X509_REGISTRATION_ID": "another"}, r'CONNACK 5.* "another" .*CN=Python-device-01'),
        ({"PROVISIONING_HOST": "https://127.0.0.1/"}, r"not a bare host name.* use 127\.0\.0\.1 instead and run"),
        ({"PROVISIONING_HOST": "no-such-host.invalid"}, r"no-such-host\.invalid.* could not be looked up"),
        ({"PROVISIONING_HOST": "127.49.0.1"}, r"Nothing listens at 127\.49\.0\.1.* first cell"),
        ({"PROVISIONING_HOST": "a..b"}, r"a\.\.b"),
        ({"DPS_X509_REGISTRATION_ID": " "}, "registration ID is blank: set DPS_X509_REGISTRATION_ID"),
        ({"X509_PASS_PHRASE": "wrong"}, "does not open with this pass phrase"),
        ({"X509_CERT_FILE": "/nowhere/device.pem"}, r"/nowhere/device\.pem"),
        ({"X509_KEY_FILE": "/nowhere/device.key.pem"}, r"/nowhere/device\.key\.pem"),
        ({"SSL_CERT_FILE": "/nonexistent.pem", "SSL_CERT_DIR": "/nonexistent"}, "does not trust the certificate"),
    ],
)
def test_each_mistake_of_the_variables(
    enrolled: Target, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], words: str
) -> None:
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    explained(provision, words)


def test_a_garbled_certificate(enrolled: Target, pair: Pair) -> None:
    pair.certificate_file.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    explained(provision, r"python-device\.pem")


def test_a_key_of_another_certificate(enrolled: Target, work: Path, pair: Pair) -> None:
    odd_pair(work).key_file.replace(pair.key_file)
    explained(provision, "does not belong to the certificate")


def test_not_enrolled(enrolled: Target) -> None:
    enrollments.delete(enrolled, NAME)
    explained(provision, "401: Python-device-01 is not enrolled: enroll it in notebook 03")


def test_a_certificate_made_anew_after_enrolling(enrolled: Target, work: Path) -> None:
    certificates.create(NAME, PASS_PHRASE, work, key_type="ec-p256", existing="replace")
    explained(provision, "401: Python-device-01 is enrolled with another certificate than the one on disk")


@pytest.mark.parametrize(("odd", "words"), [({"is_ca": True}, "CA:TRUE"), ({"days": -1}, "expired on")])
def test_a_certificate_that_no_device_may_show(emulated: Target, work: Path, odd: Any, words: str) -> None:
    made = odd_pair(work, **odd)
    enrollments.save(emulated, made.certificate_file)
    files = {"X509_CERT_FILE": str(made.certificate_file), "X509_KEY_FILE": str(made.key_file)}
    set_variables(emulated, **files)
    explained(provision, f"401: the certificate .*{words}")


def test_on_azure_a_401_names_the_usual_causes(enrolled: Target) -> None:
    enrollments.delete(enrolled, NAME)
    tutorial.enter("target", "azure")
    explained(provision, "401: no enrollment matches .* made anew")


def test_a_disabled_enrollment(enrolled: Target) -> None:
    with enrollments._client(enrolled) as client:
        document = client.enrollment.get(NAME)
        document["provisioningStatus"] = "disabled"
        client.enrollment.create_or_update(NAME, document, if_match="*")
    explained(provision, "is disabled: enable it")


def test_no_hub_linked(work: Path, pair: Pair) -> None:
    command = [sys.executable, "-m", "dpsx_helpers.emulator", "run", "--state-dir", str(work / "emulator")]
    command += ["--hubs", "0", "--host", "127.0.0.1", "--next-free-host"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout
            assert process.stdout.readline()
            target = targets.current()
            enrollments.save(target, pair.certificate_file)
            set_variables(target)
            explained(provision, "could not assign it to a hub: link an IoT hub")
        finally:
            process.terminate()


def test_a_device_deleted_from_its_hub(enrolled: Target) -> None:
    state = provision().registration_state
    registry.delete(enrolled, NAME)
    explained(lambda: asyncio.run(send(1, state)), "The hub refused the device .*CONNACK 5.* register")


def test_a_client_that_was_shut_down(enrolled: Target) -> None:
    from azure.iot.device.aio import IoTHubDeviceClient

    async def use_again() -> None:
        client = IoTHubDeviceClient.create_from_x509_certificate(
            x509=credentials(), hostname=enrolled.hubs[0], device_id=NAME
        )
        await client.shutdown()
        await client.connect()

    explained(lambda: asyncio.run(use_again()), "shut down for good")


@pytest.mark.parametrize("mistake", [NameError("x"), KeyError("y"), ValueError("status code 401"), AssertionError()])
def test_programming_errors_pass_unchanged(mistake: Exception) -> None:
    with pytest.raises(type(mistake)) as raised, diagnosis.explain():
        raise mistake
    assert raised.value is mistake


def test_a_stop_passes_unchanged() -> None:
    stop = Stop("Enter the ID scope.")
    with pytest.raises(Stop) as raised, diagnosis.explain():
        raise stop
    assert raised.value is stop


def test_an_unknown_failure_of_the_sdk_names_the_classes_of_its_chain(work: Path) -> None:
    from azure.iot.device.exceptions import ClientError, ServiceError

    def fail() -> None:
        raise ClientError("Unexpected failure") from ServiceError("something new")

    explained(fail, "ClientError caused by ServiceError")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError("timed out"), "DPSX_TRANSPORT=websockets"),
        (ConnectionResetError(104, "reset"), "connection was lost"),
        (OSError(101, "Network is unreachable"), "OSError"),
    ],
)
def test_what_the_network_does(work: Path, error: OSError, words: str) -> None:
    def fail() -> None:
        raise error

    explained(fail, words)


def test_the_pass_phrase_is_missing_altogether(enrolled: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("X509_PASS_PHRASE")

    def fail() -> None:
        # What OpenSSL raises where it has no terminal to prompt for the pass phrase.
        raise OSError(22, "Invalid argument")

    explained(fail, "pass phrase is empty")
    assert "X509_PASS_PHRASE" not in os.environ


@pytest.mark.parametrize("name", tutorial.VARIABLES)
def test_a_variable_that_is_not_set_is_named(name: str) -> None:
    assert (
        diagnosis.diagnose(KeyError(name))
        == f"{name} is not set: run the cell that sets the variables and run this cell again."
    )
    assert diagnosis.diagnose(KeyError("another")) is None
