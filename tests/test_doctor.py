import os
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from devices import NAME, PASS_PHRASE
from pki import issue, make_ca
from processes import RunningEmulator
from test_run import MISTAKES, good_pair, own
from wires import TlsServer

from dpsx_helpers import access, doctor, lab, machine, network, tutorial
from dpsx_helpers.__main__ import main
from dpsx_helpers.certificates import Pair
from dpsx_helpers.machine import Finding
from dpsx_helpers.targets import Target

pytest_plugins = ["kit"]
ROOT = Path(__file__).parents[1]
Doctor = Callable[[int], list[str]]


@pytest.fixture
def said(work: Path, capfd: pytest.CaptureFixture[str]) -> Doctor:
    """Start `dpsx doctor` in this process; its lines, after a look at its status."""

    def lines(status: int) -> list[str]:
        assert main(["doctor"]) == status
        seen = capfd.readouterr()
        assert seen.err == ""
        *found, last, transport = seen.out.splitlines()
        assert transport.startswith("Transport: ")
        assert transport.endswith(".")
        assert all(line[:2] in ("✔ ", "✘ ", "- ") for line in found), seen.out
        assert any(line.startswith("✘") for line in found) == (status == 1)
        assert last == (
            "Mend what is marked with ✘, and start `dpsx doctor` again."
            if status
            else "This machine is fit for the tutorial."
        )
        return found

    return lines


def starting(lines: list[str], start: str) -> str:
    (line,) = [line for line in lines if line[2:].startswith(start)]
    return line


def test_a_fit_machine_is_told_line_by_line(said: Doctor, work: Path) -> None:
    lines = said(0)
    assert starting(lines, "work folder") == f"✔ work folder: {work}"
    assert starting(lines, "target") == "✔ target: emulator"
    assert starting(lines, "emulator") == (
        "✔ emulator of this work folder: not running (the notebooks start it when they need it)"
    )
    names = ["Python", *(name for name, _ in machine.PACKAGES), "work folder", "target", "port", "clock", "git"]
    assert all(starting(lines, f"{name}") for name in names if name != "azure-iot-device")
    assert not [line for line in lines if "DPSX_" in line and "work folder" not in line]
    assert list(work.iterdir()) == [], "looking leaves nothing behind"


def transport(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    main(["doctor", *arguments])
    return capfd.readouterr().out.splitlines()[-1]


def test_the_last_line_is_the_transport_for_the_emulator(
    work: Path, emulated: Target, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert transport(capfd) == "Transport: mqtt, on port 8883."
    monkeypatch.setenv("DPSX_TARGET", "azure")
    assert transport(capfd, "--target", "emulator") == "Transport: mqtt, on port 8883."
    assert os.environ["DPSX_TARGET"] == "azure", "for this one time only"


def test_where_no_emulator_runs_the_transport_is_known_all_the_same(
    work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert transport(capfd) == "Transport: mqtt, on port 8883 (the notebooks start the emulator when they need it)."


def test_the_port_that_an_emulator_does_not_serve_is_only_needed_by_who_asks_for_it(
    said: Doctor, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = RunningEmulator(tmp_path / "emulator", None, "--ws-port", "none", "--https-port", "0")
    try:
        (work / "emulator").symlink_to(tmp_path / "emulator")
        assert starting(said(0), "port 443") == "✔ port 443, MQTT over WebSockets: not served, and not needed"
        monkeypatch.setenv("DPSX_TRANSPORT", "websockets")
        assert starting(said(1), "port 443") == (
            "✘ port 443, MQTT over WebSockets: not served. unset DPSX_TRANSPORT, as port 8883 is there"
        )
    finally:
        running.close()


def test_the_way_to_azure_is_looked_at_and_the_transport_named(
    said: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = make_ca(tmp_path, "Everybody's Root")
    monkeypatch.setenv("SSL_CERT_FILE", str(root.certificate_file))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("DPSX_TARGET", "azure")
    monkeypatch.setenv("DPSX_PROVISIONING_HOST", "127.0.0.1")
    certificate = issue(tmp_path, "an endpoint", root, address="127.0.0.1")
    with TlsServer("127.0.0.1", certificate, datetime.now(UTC)) as web:
        ports = {"mqtt": 9, "websockets": web.port, "public": str(root.certificate_file)}
        monkeypatch.setattr(network, "look", partial(network.look, **ports))
        lines = said(0)
        assert starting(lines, "port 8883, ").startswith("- port 8883, MQTT over TLS: refused. ask who runs")
        assert starting(lines, "certificate on port 443") == (
            "✔ certificate on port 443: good, issued by Everybody's Root"
        )
        assert starting(lines, "clock against").endswith(" s apart")
        assert starting(lines, "proxies") == "✔ proxies: none set up for this host"
        assert transport(capfd, "--target", "azure") == (
            "Transport: websockets, on port 443, as 8883 is of no use here: set DPSX_TRANSPORT=websockets."
        )
    assert transport(capfd).startswith("Transport: none: ")


def test_the_way_is_not_looked_at_before_the_inputs_are_good(
    said: Doctor, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", None)
    monkeypatch.setenv("DPSX_TARGET", "azure")
    monkeypatch.setenv("DPSX_PROXY", "me:s3cret@proxy")
    fault = starting(said(1), "DPSX_PROXY")
    assert fault.startswith("✘ DPSX_PROXY: cannot be used. The proxy (in DPSX_PROXY) is not of the form")
    assert "s3cret" not in fault
    monkeypatch.setenv("DPSX_PROXY", "http://me:s3cret@proxy.example")
    monkeypatch.setenv("DPSX_PROVISIONING_HOST", "https://global.example.net")
    assert starting(said(1), "DPSX_PROXY") == "✔ DPSX_PROXY: http://proxy.example:8080"
    assert transport(capfd) == "Transport: not known before what is marked with ✘ is mended."


_KEY = "SharedAccessKeyName=o;SharedAccessKey=czNjcmV0"
OPERATORS = {
    "DPS_CONNECTION_STRING": f"HostName=my-dps.azure-devices-provisioning.net;{_KEY}",
    "IOTHUB_CONNECTION_STRING": f"HostName=my-hub.azure-devices.net;{_KEY}",
    "DPSX_SERVICE_ENDPOINT": "my-dps.azure-devices-provisioning.net",
    "DPSX_IOTHUB_HOST": "my-hub.azure-devices.net",
}


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Azure, where the way to it is not looked at."""
    monkeypatch.setenv("DPSX_TARGET", "azure")
    monkeypatch.setattr(network, "azure", lambda host: ([], f"none of {host}."))


def test_what_lets_the_cells_act_is_told_without_its_key(
    said: Doctor, nowhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "credential", lambda: pytest.fail("connection strings win"))
    for name, value in OPERATORS.items():
        monkeypatch.setenv(name, value)
    lines = said(0)
    assert starting(lines, "DPS_CONNECTION_STRING") == (
        "✔ DPS_CONNECTION_STRING: for my-dps.azure-devices-provisioning.net"
    )
    assert starting(lines, "DPSX_IOTHUB_HOST") == "✔ DPSX_IOTHUB_HOST: my-hub.azure-devices.net"
    assert "czNjcmV0" not in "\n".join(lines)
    monkeypatch.setenv("DPSX_TARGET", "emulator")
    assert starting(said(0), "IOTHUB_CONNECTION_STRING").endswith(": not used on the emulator")


@pytest.mark.parametrize("name", OPERATORS)
def test_what_cannot_let_them_act_is_a_fault(
    name: str, said: Doctor, nowhere: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "SharedAccessKey=czNjcmV0")
    fault = starting(said(1), name)
    assert fault.startswith(f"✘ {name}: cannot be used. ")
    assert fault.endswith("start dpsx again.")
    assert "czNjcmV0" not in fault
    assert transport(capfd) == "Transport: none of global.azure-devices-provisioning.net."


def test_signing_in_without_its_package_is_a_fault(
    said: Doctor, nowhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    access.credential.cache_clear()
    monkeypatch.setenv("DPSX_IOTHUB_HOST", "my-hub.azure-devices.net")
    assert "requirements-azure.txt" in starting(said(1), "DPSX_IOTHUB_HOST")


def test_an_unknown_target_is_argparses_own(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--target", "mars"])
    assert ended.value.code == 2
    assert "choose from" in capfd.readouterr().err


def test_in_a_process_of_its_own_it_says_the_same(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DPSX_")}
    done = subprocess.run(
        [sys.executable, "-m", "dpsx_helpers", "doctor"],
        env={**kept, "PYTHONPATH": str(ROOT), "DPSX_WORK_DIR": str(tmp_path), "DPSX_ID_SCOPE": "0ne-1"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    (fault,) = [line for line in done.stdout.splitlines() if line.startswith("✘")]
    assert fault.startswith('✘ DPSX_ID_SCOPE: cannot be used. The ID scope "0ne-1" (in DPSX_ID_SCOPE) has something')
    assert fault.endswith("and start dpsx again.")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_of_a_learner_is_a_finding_with_its_remedy(
    mistake: str, said: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, words = MISTAKES[mistake]
    for name, value in make(tmp_path).items():
        monkeypatch.setenv(name, value)
    faults = [line for line in said(1) if line.startswith("✘")]
    assert any(words in line for line in faults), faults
    for line in faults:
        assert line.endswith("."), line
        assert "this cell" not in line
        assert "this check" not in line


# --- the variables that are set -------------------------------------------------------------------


def test_good_variables_are_told_and_the_pass_phrase_is_not(
    said: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPSX_REGISTRATION_ID", NAME.upper())  # DPS does not mind
    monkeypatch.setenv("DPSX_TRANSPORT", "websockets")
    monkeypatch.setenv("DPSX_PROVISIONING_HOST", "127.0.0.1")
    monkeypatch.setenv("DPSX_ID_SCOPE", "0ne00ABC123")
    pair = good_pair(tmp_path / "own")
    for name, value in own(pair).items():
        monkeypatch.setenv(name, value)
    lines = said(0)
    assert starting(lines, "DPSX_TRANSPORT") == "✔ DPSX_TRANSPORT: websockets"
    assert starting(lines, "DPSX_REGISTRATION_ID") == f"✔ DPSX_REGISTRATION_ID: {NAME.upper()}"
    assert starting(lines, "DPSX_PROVISIONING_HOST") == "✔ DPSX_PROVISIONING_HOST: 127.0.0.1"
    assert starting(lines, "DPSX_ID_SCOPE") == "✔ DPSX_ID_SCOPE: 0ne00ABC123"
    assert starting(lines, "DPSX_PASS_PHRASE") == "✔ DPSX_PASS_PHRASE: set"
    assert starting(lines, "DPSX_CERT_FILE") == (
        f"✔ DPSX_CERT_FILE, DPSX_KEY_FILE: the key opens and belongs to the certificate of {NAME.upper()}"
    )


def test_an_unusual_id_scope_is_fit_and_gets_a_hint(said: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSX_ID_SCOPE", "002409020C00089D")
    assert starting(said(0), "DPSX_ID_SCOPE").startswith("✔ DPSX_ID_SCOPE: an ID scope is usually 0ne and 8 more")


def test_the_pass_phrase_is_tried_on_the_tutorials_own_key(
    said: Doctor, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPSX_PASS_PHRASE", "canary-4711")
    fault = starting(said(1), "DPSX_PASS_PHRASE")
    assert fault.startswith("✘ DPSX_PASS_PHRASE: cannot be used. ")
    assert "canary" not in fault
    monkeypatch.setenv("DPSX_PASS_PHRASE", PASS_PHRASE)
    assert starting(said(0), "DPSX_PASS_PHRASE") == "✔ DPSX_PASS_PHRASE: set"


def test_the_host_of_a_running_emulator_is_good(
    said: Doctor, emulated: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPSX_PROVISIONING_HOST", emulated.host)
    assert starting(said(0), "DPSX_PROVISIONING_HOST") == f"✔ DPSX_PROVISIONING_HOST: {emulated.host}"


# --- the machine ----------------------------------------------------------------------------------


def test_a_missing_package_is_a_fault_with_the_command(said: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nest_asyncio", None)
    assert starting(said(1), "nest-asyncio") == (
        "✘ nest-asyncio: cannot be imported (ModuleNotFoundError). run `python -m pip install -r requirements.txt` "
        "in the tutorial's folder"
    )


def test_a_tool_that_is_only_handy_is_no_fault(said: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert starting(said(0), "git").startswith("- git: not found. not needed here; install git if ")


def test_a_running_emulator_is_told(said: Doctor, emulated: Target) -> None:
    assert emulated.emulator is not None
    assert starting(said(0), "emulator of this work folder") == (
        f"✔ emulator of this work folder: runs at {emulated.host}, ID scope {emulated.id_scope}, "
        f"process {emulated.emulator.overview.pid}"
    )


def test_a_damaged_memory_is_a_fault_and_says_start_dpsx_again(said: Doctor, work: Path) -> None:
    (work / "tutorial.json").write_text("{")
    fault = starting(said(1), "target")
    assert fault.startswith("✘ target: ")
    assert "delete that file and start dpsx again; your certificate" in fault


# --- words and folders ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("in_a_notebook", "in_a_terminal"),
    [
        ("Mend it and run this cell again.", "Mend it and start dpsx again."),
        ("Mend it, then this check.", "Mend it, then start dpsx again."),
        ("Mend it, and run this check again.", "Mend it, and start dpsx again."),
        ("Enable it there, then run this check.", "Enable it there, then start dpsx again."),
        ("Nothing to say of cells.", "Nothing to say of cells."),
    ],
)
def test_sentences_for_a_notebook_are_told_for_a_terminal(in_a_notebook: str, in_a_terminal: str) -> None:
    assert doctor.in_terminal(in_a_notebook) == in_a_terminal


@pytest.mark.parametrize(
    ("finding", "line"),
    [
        (Finding("clock", True, "12:00"), "✔ clock: 12:00"),
        (Finding("clock", False, "12:00", "Set it."), "✘ clock: 12:00. Set it."),
        (Finding("git", False, "not found", "Install it.", required=False), "- git: not found. Install it."),
    ],
)
def test_a_finding_is_one_line(finding: Finding, line: str) -> None:
    assert doctor.line(finding) == line


def test_the_work_folder_is_the_tutorials_from_any_folder_and_paths_are_absolute(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPSX_WORK_DIR", " ")
    monkeypatch.setenv("DPSX_CERT_FILE", "own.pem")
    monkeypatch.setenv("DPSX_KEY_FILE", "~/own.key")
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    with doctor.settled():
        assert tutorial.work_dir() == lab.notebooks_folder() / "work"
        assert os.environ["DPSX_CERT_FILE"] == str(tmp_path / "own.pem")
        assert os.environ["DPSX_KEY_FILE"] == str(Path.home() / "own.key")
        os.environ["DPSX_NEW"] = "x"
    assert dict(os.environ) == before


def test_a_work_folder_of_ones_own_stays_and_blank_paths_too(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSX_CERT_FILE", " ")
    with doctor.settled():
        assert tutorial.work_dir() == work
        assert os.environ["DPSX_CERT_FILE"] == " "
