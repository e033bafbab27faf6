"""Emulators for the tests in this folder, all ended with the test."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from processes import COMMAND, RunningEmulator
from wire import Desk


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningEmulator]]:
    """Start an emulator in `tmp_path/state` (or the directory named) with more arguments for `run`."""
    started: list[RunningEmulator] = []

    def start_one(
        *arguments: str, host: str | None = None, state_dir: Path | None = None, program: Sequence[str] = COMMAND
    ) -> RunningEmulator:
        emulator = RunningEmulator(state_dir or tmp_path / "state", host, *arguments, program=program)
        started.append(emulator)
        return emulator

    yield start_one
    for emulator in started:
        emulator.close()


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEmulator]:
    """One emulator for the whole module. Tests keep to registration IDs of their own."""
    running = RunningEmulator(tmp_path_factory.mktemp("module") / "state")
    yield running
    running.close()


@pytest.fixture
def no_faults(emulator: RunningEmulator) -> Iterator[None]:
    """The faults of the test are switched off at its end."""
    yield
    emulator.emulator.clear_faults()


@pytest.fixture
def desk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Desk]:
    """DPS and a hub in this process, and their log in `caplog`."""
    caplog.set_level(logging.INFO, "dpsx_helpers.emulator")
    made = Desk(tmp_path)
    yield made
    made.store.close()
