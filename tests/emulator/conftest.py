"""Emulators for the tests in this folder, all ended with the test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import RunningEmulator


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningEmulator]]:
    """Start an emulator in `tmp_path/state` (or the directory named) with more arguments for `run`."""
    started: list[RunningEmulator] = []

    def start_one(*arguments: str, host: str | None = None, state_dir: Path | None = None) -> RunningEmulator:
        emulator = RunningEmulator(state_dir or tmp_path / "state", host, *arguments)
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
