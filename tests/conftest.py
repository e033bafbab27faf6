"""`pytest -m browser` looks for its tests where they are, since collecting the six thousand others takes seconds, and
leaves those together that share a JupyterLab, since that takes longer to start than most of them.
"""

from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

HERE = Path(__file__).parent
MARK = "mark.browser"


class _Scheduling(LoadScopeScheduling):
    """A learner's story has a JupyterLab of its own; the tests of another file share one.

    https://pytest-xdist.readthedocs.io/en/stable/how-to.html
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return nodeid if file.endswith("test_in_the_browser.py") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Scheduling | None:
    return _Scheduling(config, log) if _browser_alone(config) else None


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not _browser_alone(config) or not collection_path.is_relative_to(HERE):
        return None
    if collection_path.is_dir():
        return True if collection_path.name == "emulator" else None
    is_test = collection_path.name.startswith("test_")
    return True if is_test and MARK not in collection_path.read_text(encoding="utf-8") else None


def _browser_alone(config: pytest.Config) -> bool:
    return bool(config.getoption("markexpr") == "browser")
