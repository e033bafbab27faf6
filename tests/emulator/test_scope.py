"""The scope table is whole, and the page that readers see is the table."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from dpsx_helpers.emulator import control_api, dps_api, hub_api, refusals, scope, topics

TESTS = Path(__file__).parents[1]


@cache
def functions(file: Path) -> set[str]:
    return {
        node.name for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)
    }


def handlers() -> set[str]:
    """Every path of the data planes, and everything that a device may publish or subscribe to."""
    routes = [*dps_api.ROUTES, *hub_api.ROUTES, *control_api.ROUTES]
    paths = {re.sub(r"\(.*?\)", "{}", pattern) for pattern, _, _ in routes} | {"/.*"}
    requests = {kind.__name__ for kind in (topics.Register, topics.Poll, *topics.HubRequest.__args__)}
    return paths | requests | {f"Subscription.{one.name}" for one in topics.Subscription}


def test_the_page_is_the_table() -> None:
    page = TESTS.parent / "docs" / "scope.md"
    assert page.read_text(encoding="utf-8") == scope.page(), "run python -m dpsx_helpers.emulator.scope > docs/scope.md"


def test_every_refusal_belongs_to_one_feature() -> None:
    named = [name for row in scope.ROWS for name in row.refusals]
    assert sorted(named) == sorted(refusals.ALL)


def test_every_handler_belongs_to_one_feature() -> None:
    named = [name for row in scope.ROWS for name in row.handlers]
    assert sorted(named) == sorted(handlers())


@pytest.mark.parametrize("row", scope.ROWS, ids=lambda row: row.feature)
def test_a_feature_has_a_source_and_a_test_that_is_there(row: scope.Row) -> None:
    assert row.source.startswith("https://")
    assert row.notice
    file, _, name = row.test.partition("::")
    assert name in functions(TESTS / file)


def test_features_are_listed_once() -> None:
    features = [row.feature for row in scope.ROWS]
    assert len(set(features)) == len(features) > 60
