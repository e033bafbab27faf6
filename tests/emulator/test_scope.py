"""The scope table is whole, and the page that readers see is the table."""

from pathlib import Path

import pytest

from dpsx_helpers.emulator import refusals, scope

TESTS = Path(__file__).parents[1]


def test_the_page_is_the_table() -> None:
    page = TESTS.parent / "docs" / "scope.md"
    assert page.read_text(encoding="utf-8") == scope.page(), "run python -m dpsx_helpers.emulator.scope > docs/scope.md"


def test_every_refusal_belongs_to_one_feature() -> None:
    named = [name for row in scope.ROWS for name in row.refusals]
    assert sorted(named) == sorted(refusals.ALL)


@pytest.mark.parametrize("row", scope.ROWS, ids=lambda row: row.feature)
def test_what_is_emulated_has_a_test_and_a_source(row: scope.Row) -> None:
    assert row.source.startswith("https://")
    assert row.notice
    if row.ours in (scope.SAME, scope.SIMPLIFIED):
        assert row.tests, "what is emulated is tested"
    if row.tests:
        assert (TESTS / row.tests).is_file()


def test_features_are_listed_once() -> None:
    features = [row.feature for row in scope.ROWS]
    assert len(set(features)) == len(features) > 30
