"""The half of the acceptance suite that goes to Azure: it runs, against an emulator that stands in through the
environment, and it deletes nothing that it did not make. Without credentials it lists what is only documented.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from beyond import azure
from live import NEEDED, PREFIX, Live, on_emulator

from dpsx_helpers import registry, targets
from dpsx_helpers.emulator import Emulator

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^(?P<test>\S.*?)  +(?P<emulator>not run|\S+) +(?P<azure>\S.*)$")
NOT_VERIFIED = re.compile(r"documented, not verified live: https://\S+\.\S+( \(.+\))?")


def run(environment: dict[str, str], *arguments: str) -> tuple[str, dict[str, str]]:
    """What the Azure half prints, and from its list each test with what became of it there."""
    dropped = (*NEEDED, *targets.TRUST, "CI")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DPSX_", "PYTEST_"))}
    kept = {name: value for name, value in kept.items() if name not in dropped}
    command = [sys.executable, "-m", "pytest", "tests/acceptance", "-k", "azure", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=kept | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    listed = done.stdout.partition("emulator, and ")[2].partition("\n")[2]
    return done.stdout, {row["test"]: row["azure"] for row in map(ROW.match, listed.splitlines()) if row}


def kept_by(live: Live) -> tuple[set[str], set[str], set[str]]:
    """The names of enrollments, groups and devices."""
    with live.service() as service:
        enrollments = {str(one["registrationId"]) for one in service.enrollment.query({"query": "SELECT *"})}
        groups = {str(one["enrollmentGroupId"]) for one in service.enrollment_group.query({"query": "SELECT *"})}
    return enrollments, groups, {device.device_id for device in registry.list_all(live.target)}


def test_the_azure_half_runs_and_deletes_nothing_that_it_did_not_make(tmp_path: Path) -> None:
    with azure(tmp_path) as environment:
        another_run = Live(on_emulator(Emulator.attach(tmp_path / "stand-in")), tmp_path)
        device = another_run.device()
        another_run.enroll(device)
        another_run.register(device)
        before = kept_by(another_run)
        text, listed = run(environment, "-n", "4")
        assert kept_by(another_run) == before
        assert device.common_name.startswith(PREFIX)
        another_run.clean_up()
        assert kept_by(another_run) == (set(), set(), set())
    assert f"emulator, and a stand-in at {environment['DPSX_PROVISIONING_HOST']}" in text, "which verifies nothing"
    refused = {test for test, azures in listed.items() if azures != "passed on the stand-in"}
    assert refused == {"a group lets in a device with its chain"}
    assert all(NOT_VERIFIED.fullmatch(listed[test]) for test in refused)
    assert f"{len(listed) - len(refused)} passed, {len(refused)} skipped" in text
    assert len(listed) > 25
    key = environment["DPS_CONNECTION_STRING"].partition("SharedAccessKey=")[2]
    assert key not in text


def test_without_credentials_every_test_is_listed_with_its_page(tmp_path: Path) -> None:
    text, listed = run({"DPSX_ID_SCOPE": "0ne00123456"}, "-n", "0")
    assert f"{len(listed)} skipped" in text
    assert len(listed) > 25
    assert [azures for azures in listed.values() if not NOT_VERIFIED.fullmatch(azures)] == []
    assert "acceptance on Azure: not run, for want of DPS_CONNECTION_STRING, IOTHUB_CONNECTION_STRING" in text
