import socket
import sys
from pathlib import Path

import pytest

from dpsx_helpers import machine, targets, tutorial
from dpsx_helpers.machine import Finding

pytest_plugins = ["kit"]


def by_name(found: list[Finding], start: str) -> Finding:
    return next(finding for finding in found if finding.name.startswith(start))


def test_this_machine_is_fit_and_every_fault_has_a_remedy(work: Path) -> None:
    found = machine.findings()
    assert machine.fit(found)
    assert all(finding.ok or finding.remedy for finding in found)
    assert by_name(found, "azure-iot-device").found == "2.14.0"


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "websockets", None)
    finding = machine._package(("websockets", "websockets"))
    assert not finding.ok
    assert "pip install -r requirements.txt" in finding.remedy
    assert not machine.fit([finding])


@pytest.mark.parametrize("version", [(3, 10, 9), (3, 15, 0), (4, 0, 0)])
def test_another_python_is_a_fault(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int]) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    assert not machine._python().ok


def test_a_missing_tool_is_only_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    finding = machine.tool("git")
    assert not finding.ok
    assert machine.fit([finding])


def test_a_work_folder_that_cannot_be_made_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DPSX_WORK_DIR", str(tmp_path / "file"))
    finding = machine._work_folder()
    assert not finding.ok
    assert "DPSX_WORK_DIR" in finding.remedy


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the whole of 127/8 is loopback on Linux only")
def test_port_in_use_is_told_from_our_own_emulator(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_free", lambda host: host == "127.0.0.9")
    assert machine._port().ok
    assert "another program" in machine._port().found
    monkeypatch.setattr(machine, "_free", lambda host: False)
    assert not machine._port().ok
    tutorial.enter("target", "azure")
    assert machine._port().ok
    tutorial.enter("target", "emulator")
    host = targets.current().host
    assert host in machine._port().found
    assert machine._port().ok
    targets.stop()


def test_a_wrong_target_is_a_fault_with_its_sentence(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSX_TARGET", "amazon")
    finding = by_name(machine.findings(), "target")
    assert not finding.ok
    assert "set DPSX_TARGET" in finding.remedy


def test_a_free_port_is_told_from_a_taken_one() -> None:
    with socket.socket() as taken:
        try:
            taken.bind(("127.48.0.1", 8883))
        except OSError:
            pytest.skip("port 8883 is taken on every address of this machine")
        taken.listen()
        assert not machine._free("127.48.0.1")
    assert machine._free("127.48.0.1")
