"""`pytest -m browser` looks for its tests where they are: collecting the six thousand others takes seconds."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
MARK = "mark.browser"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if config.getoption("markexpr") != "browser" or not collection_path.is_relative_to(HERE):
        return None
    if collection_path.is_dir():
        return True if collection_path.name == "emulator" else None
    is_test = collection_path.name.startswith("test_")
    return True if is_test and MARK not in collection_path.read_text(encoding="utf-8") else None
