"""SECURITY.md claims nothing that no test shows, and every dependency says what it is for."""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PAGE, DEPENDENCIES = ROOT / "SECURITY.md", ROOT / "docs" / "dependencies.md"
TEST = re.compile(r"\[`(test_\w+)`\]\(([^)]+)\)")


def rows(page: Path) -> list[list[str]]:
    """The cells of every row of every table, without the heads and the lines below them."""
    lines = page.read_text(encoding="utf-8").splitlines()
    table = [number for number, line in enumerate(lines) if line.startswith("|")]
    heads = {number - 1 for number in table if set(lines[number]) <= set("|-: ")}
    body = [lines[number] for number in table if number not in heads and number - 1 not in heads]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body]


@cache
def functions(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("row", rows(PAGE), ids=lambda row: row[0][:40])
def test_a_row_names_tests_that_are_there(row: list[str]) -> None:
    named = TEST.findall(row[-1])
    assert named, "the last cell names what shows it"
    assert re.sub(TEST, "", row[-1]).strip(", ") == "", "and nothing else"
    assert all(row)
    for name, file in named:
        assert Path(file).name.startswith("test_"), "pytest collects it"
        assert name in functions(file), f"{file} has no {name}"


def test_each_of_the_three_places_has_its_threats_and_what_is_left() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(rows(PAGE)) > 40
    for head in ("## Everywhere", "## A shared machine", "## A class on the network", "## Binder"):
        section = text.partition(head)[2].partition("\n## ")[0]
        assert section.count("\n|---|") == 2, head
        assert "What does not stop them:" in section, head


@pytest.mark.parametrize("page", [PAGE, DEPENDENCIES], ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(((?!https?://)[^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_leads_to_the_page_and_the_page_to_the_dependencies() -> None:
    assert "](SECURITY.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "](docs/dependencies.md)" in PAGE.read_text(encoding="utf-8")


def test_every_direct_dependency_says_what_it_is_for_and_nothing_else_does() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    direct = [*project["dependencies"], *(text for extra in extras.values() for text in extra)]
    told = [canonicalize_name(row[0]) for row in rows(DEPENDENCIES)]
    assert sorted(told) == sorted(canonicalize_name(Requirement(text).name) for text in direct)
    assert all(len(row) == 3 and all(row) for row in rows(DEPENDENCIES))
    by_name = {canonicalize_name(row[0]): row[1] for row in rows(DEPENDENCIES)}
    for extra, texts in extras.items():
        for text in texts:
            assert f"(extra `{extra}`)" in by_name[canonicalize_name(Requirement(text).name)]
