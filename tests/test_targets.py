import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from azure.iot.deviceprovisioning import DeviceProvisioningClient

from dpsx_helpers import targets, tutorial
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import NotReadable, Stop

pytest_plugins = ["kit"]


def test_importing_the_package_brings_neither_widgets_nor_sdk() -> None:
    code = "import sys, dpsx_helpers; sys.exit(any(m.startswith(('ipywidgets', 'azure')) for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ}).returncode == 0


@pytest.mark.parametrize("scope", ["0ne00ABC123", "002409020C00089D", "x"])
def test_letters_and_digits_are_taken_as_an_id_scope(scope: str) -> None:
    assert targets.check_id_scope(scope) == scope


@pytest.mark.parametrize(
    "scope", ["", " ", "0ne 00ABC12", "0ne00ABC12\n", "<ID scope>", "0ne-1", "None/x", "0né00ABC123"]
)
def test_anything_else_is_refused_with_the_remedy(scope: str) -> None:
    with pytest.raises(Stop, match="Overview page"):
        targets.check_id_scope(scope)


def test_an_unusual_id_scope_gets_a_hint() -> None:
    assert targets.id_scope_hint("0ne00ABC123") is None
    assert "002409020C00089D" in str(targets.id_scope_hint("002409020C00089D"))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "global.azure-devices-provisioning.net", "localhost", "my-DPS.example.org"]
)
def test_bare_names_and_addresses_are_taken_as_a_host(host: str) -> None:
    assert targets.check_host(host) == host


@pytest.mark.parametrize(
    "text",
    [
        "https://global.example.net",
        "https://global.example.net/",
        "global.example.net/",
        "global.example.net/path?x",
        " global.example.net",
        "global.example.net ",
        "global.example.net:8883",
        "https://user@global.example.net:8883/x",
        "https:// global.example.net",
    ],
)
def test_a_host_with_more_than_a_name_is_refused_naming_the_bare_name(text: str) -> None:
    with pytest.raises(Stop, match=r"use global\.example\.net instead and run"):
        targets.check_host(text)


@pytest.mark.parametrize("text", ["", "  ", "https://", "[::1", "//"])
def test_a_host_without_a_name_is_refused_naming_the_global_endpoint(text: str) -> None:
    with pytest.raises(Stop, match=r"(enter|use) global\.azure-devices-provisioning\.net"):
        targets.check_host(text)


def test_the_emulator_is_started_trusted_and_attached_to(emulated: Target) -> None:
    assert emulated.is_emulator
    assert emulated.service
    assert emulated.id_scope.startswith("0ne")
    assert os.environ["SSL_CERT_FILE"] == os.environ["REQUESTS_CA_BUNDLE"] == str(emulated.bundle_file)
    assert Path(os.environ["NODE_EXTRA_CA_CERTS"]).is_file()
    assert ssl.create_default_context().cert_store_stats()["x509_ca"] > 1
    again = targets.current()
    assert again.emulator
    assert emulated.emulator
    assert again.emulator.overview.pid == emulated.emulator.overview.pid


def test_no_key_is_in_the_representation(emulated: Target) -> None:
    assert emulated.dps_connection_string
    assert "SharedAccessKey" not in repr(emulated)


def test_what_the_learner_says_wins_over_the_emulator(emulated: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSX_PROVISIONING_HOST", "127.0.0.99")
    tutorial.enter("id_scope", "0neWRONG000")
    target = targets.current()
    assert (target.host, target.id_scope) == ("127.0.0.99", "0neWRONG000")


@pytest.mark.parametrize(("name", "value"), [("DPSX_ID_SCOPE", ""), ("DPSX_PROVISIONING_HOST", "https://x.net")])
def test_wrong_inputs_name_where_they_come_from(
    emulated: Target, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Stop, match=name):
        targets.current()


def test_azure_starts_nothing_and_asks_for_the_id_scope_when_it_is_needed(work: Path) -> None:
    tutorial.enter("target", "azure")
    target = targets.current()
    assert not (work / "emulator").exists()
    assert (target.host, target.service) == (targets.GLOBAL_ENDPOINT, False)
    assert ("ID Scope", "not entered yet") in target.overview()
    with pytest.raises(Stop, match=r"Overview page .* run this cell again"):
        _ = target.id_scope
    tutorial.enter("id_scope", "0ne00ABC123")
    assert targets.current().id_scope == "0ne00ABC123"
    with pytest.raises(NotReadable, match="az iot hub monitor-events"):
        target.messages("device")


def test_on_azure_two_connection_strings_let_the_notebooks_act_for_the_operator(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tutorial.enter("target", "azure")
    with pytest.raises(Stop, match=r"DPS_CONNECTION_STRING and IOTHUB_CONNECTION_STRING .* run this cell again"):
        targets.for_operator()
    for name, host in zip(targets.CONNECTION_STRINGS, ("my.azure-devices-provisioning.net", "my-hub.net"), strict=True):
        monkeypatch.setenv(name, f"HostName={host};SharedAccessKeyName=owner;SharedAccessKey=c2VjcmV0LWtleQ==")
    target = targets.for_operator()
    assert target.service
    assert target.hubs == ("my-hub.net",)
    assert repr(target.dps_connection_string) == repr(target.iothub_connection_string) == tutorial.MASK
    assert str(target.dps_connection_string).endswith("c2VjcmV0LWtleQ==")
    assert "c2VjcmV0" not in repr(target)


@pytest.mark.parametrize("text", ["x", "HostName=h", "HostName=h;SharedAccessKeyName=n;SharedAccessKey=", "a=b=c;;"])
def test_what_is_no_connection_string_is_named_by_its_variable_and_not_shown(
    work: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    tutorial.enter("target", "azure")
    monkeypatch.setenv("IOTHUB_CONNECTION_STRING", text)
    with pytest.raises(Stop, match=r"IOTHUB_CONNECTION_STRING\) is not one with .*: copy it again") as stopped:
        targets.current()
    assert text == "x" or text not in str(stopped.value)


def test_a_proxy_for_the_internet_is_passed_by(emulated: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "one.example,two.example")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    for _ in range(2):
        target = targets.current()
    assert os.environ["NO_PROXY"] == f"one.example,two.example,{target.host}"
    client = DeviceProvisioningClient.from_connection_string(target.dps_connection_string)
    assert list(client.enrollment.query({"query": "SELECT *"})) == []


def test_the_variables_are_the_six_and_the_second_name_of_the_pass_phrase(emulated: Target) -> None:
    values = targets.environment(emulated)
    assert tuple(values) == tutorial.VARIABLES
    assert values["PASS_PHRASE"] == values["X509_PASS_PHRASE"] == "1234"
    assert "1234" not in repr(values)


def test_stop_ends_the_emulator_and_current_starts_it_again(work: Path) -> None:
    assert "not running" in targets.stop().text
    first = targets.current()
    assert targets.listens(first.host, 8883) is None
    assert "stopped" in targets.stop().text
    assert targets.attached() is None
    assert targets.listens(first.host, 8883) is not None
    second = targets.current()
    assert second.id_scope == first.id_scope
    targets.stop()


def test_an_emulator_started_in_a_terminal_is_left_running(work: Path) -> None:
    command = [sys.executable, "-m", "dpsx_helpers.emulator", "run", "--state-dir", str(work / "emulator")]
    command += ["--host", "127.44.0.1", "--https-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        assert process.stdout.readline()
        try:
            assert "in a terminal" in targets.stop().text
            assert targets.attached() is not None
        finally:
            process.terminate()


def test_listening_is_told_from_not_listening() -> None:
    assert targets.listens("127.45.0.1", 9) == "nothing listens at 127.45.0.1 on port 9"
    assert "cannot be looked up" in str(targets.listens("no-such-name.invalid", 8883))
