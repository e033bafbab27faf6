"""One suite, two targets: the emulator, and Azure when the environment has the credentials.

Without them each test is listed as documented, with the page, and as not verified live. `pytest tests/acceptance`
prints that list. How to run it on Azure is in docs/contributing.md.
"""

import ipaddress
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kit import end_refused_clients
from live import NEEDED, Live, on_azure, on_emulator
from processes import RunningEmulator

from dpsx_helpers.emulator import scope
from dpsx_helpers.targets import GLOBAL_ENDPOINT, Target

ROWS = {row.feature: row for row in scope.ROWS}
NOT_VERIFIED = "documented, not verified live: "


def missing() -> list[str]:
    return [name for name in NEEDED if not os.environ.get(name, "").strip()]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test runs on both targets. The feature that it names has its page in the scope table."""
    feature = metafunc.definition.get_closest_marker("feature")
    alone = metafunc.definition.get_closest_marker("emulator_only")
    if "live" not in metafunc.fixturenames or feature is None or feature.args[0] not in ROWS:
        raise pytest.UsageError(f"{metafunc.definition.nodeid} names no feature of the scope table, or no target")
    row = ROWS[feature.args[0]]
    more = [row.evidence.value] if row.evidence is not scope.Evidence.DOCUMENTED else []
    more += [str(why) for why in (alone.args if alone else ())]
    reason = f"{NOT_VERIFIED}{row.source}" + (f" ({'; '.join(more)})" if more else "")
    skipped = [pytest.mark.skip(reason=reason)] if alone or missing() else []
    targets = ["emulator", pytest.param("azure", marks=skipped)]
    metafunc.parametrize("target", targets, indirect=True, scope="session")


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    if request.param == "azure":
        yield on_azure(os.environ)
        return
    running = RunningEmulator(tmp_path_factory.mktemp("acceptance") / "state")
    yield on_emulator(running.emulator)
    running.close()


@pytest.fixture
def live(target: Target, tmp_path: Path) -> Iterator[Live]:
    made = Live(target, tmp_path)
    try:
        yield made
        end_refused_clients()
    finally:
        made.clean_up()


# --- the list ---------------------------------------------------------------------------------------------------------


def pytest_report_header() -> str:
    lacking = missing()
    return f"acceptance on Azure: not run, for want of {', '.join(lacking)}" if lacking else f"acceptance on {_where()}"


def _host() -> str:
    return os.environ.get("DPSX_PROVISIONING_HOST") or GLOBAL_ENDPOINT


def _stands_in() -> bool:
    """Whether an emulator stands in for Azure: that verifies nothing."""
    with suppress(ValueError):
        return ipaddress.ip_address(_host()).is_loopback
    return False


def _where() -> str:
    return f"a stand-in at {_host()}" if _stands_in() else f"Azure ({_host()})"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Test by test: what was verified where, and what is only documented."""
    live = "passed on the stand-in" if _stands_in() else f"verified live on {datetime.now(UTC):%Y-%m-%d}"
    rows: dict[str, dict[str, str]] = {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, ()):
            test, bracket, parameters = report.nodeid.rpartition("::")[2].partition("[")
            kind, _, case = parameters.rstrip("]").partition("-")
            if "acceptance/" not in report.nodeid or not bracket or (outcome == "passed" and report.when != "call"):
                continue
            said = outcome.upper()
            if outcome == "passed":
                said = "verified" if kind == "emulator" else live
            elif outcome == "skipped":
                said = str(report.longrepr[2]).removeprefix("Skipped: ")
            name = test.removeprefix("test_").replace("_", " ") + (f" ({case})" if case else "")
            rows.setdefault(name, {})[kind] = said
    if rows:
        width = max(map(len, rows))
        terminalreporter.section(f"emulator, and {_where()}")
        for name, said in sorted(rows.items()):
            terminalreporter.write_line(
                f"{name:<{width}}  {said.get('emulator', 'not run'):<9} {said.get('azure', 'not run')}"
            )
