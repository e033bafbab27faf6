"""Fixtures of the helper package: a fresh work folder, and a real emulator that all tests of a worker share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from devices import NAME, PASS_PHRASE

from dpsx_helpers import certificates, targets, tutorial
from dpsx_helpers.emulator import Emulator
from dpsx_helpers.targets import Target


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty work folder, and no input from the environment or from an earlier test."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name in (*tutorial.INPUTS.values(), *tutorial.VARIABLES, *targets.TRUST):
        monkeypatch.setenv(name, "")  # so that what a test sets is taken back too
        monkeypatch.delenv(name)
    monkeypatch.setenv("DPSX_WORK_DIR", str(folder))
    monkeypatch.setattr(tutorial, "_entered", {})
    return folder


@pytest.fixture(scope="session")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    emulator = Emulator.start(tmp_path_factory.mktemp("kit") / "emulator", idle_hours=0.2)
    yield emulator
    emulator.stop()


@pytest.fixture
def emulated(work: Path, _shared: Emulator) -> Target:
    """The target in an empty work folder on the shared emulator, which holds no records."""
    _shared.reset()
    (work / "emulator").symlink_to(_shared.state_dir)
    return targets.current()


@pytest.fixture
def pair(work: Path) -> certificates.Pair:
    """The device's certificate and key in the work folder."""
    return certificates.create(NAME, PASS_PHRASE, work, key_type="ec-p256")
