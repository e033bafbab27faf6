"""`pytest -m browser` looks for its tests where they can be: none of the emulator's five thousand drives a browser."""

from pathlib import Path

import pytest

EMULATOR = Path(__file__).parent / "emulator"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if collection_path == EMULATOR and config.getoption("markexpr") == "browser" else None
