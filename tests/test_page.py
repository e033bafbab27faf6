import copy
import re
from html.parser import HTMLParser
from typing import Any

import nbformat
import pytest

from dpsx_helpers.page import TITLE, page

new: Any = nbformat.v4
WIDGET = "application/vnd.jupyter.widget-view+json"


class Reading(HTMLParser):
    """Where the page links to, what it would fetch, and the names that it gives to places."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.scripts = 0
        self.ids: list[str] = []
        self.text = ""
        self._style = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._style = tag == "style"
        self.scripts += tag == "script"
        for name in ("src", "srcset", "data", "poster", "action"):
            if given.get(name):
                self.fetched.append(str(given[name]))
        if tag == "a" and "href" in given:
            self.links.append(str(given["href"]))
        elif given.get("href"):
            self.fetched.append(str(given["href"]))
        if given.get("id"):
            self.ids.append(str(given["id"]))

    def handle_data(self, data: str) -> None:
        self.text += "" if self._style else data


def shown(data: dict[str, Any]) -> Any:
    return new.new_code_cell("form", outputs=[new.new_output("display_data", data)])


def two_notebooks() -> list[tuple[str, Any]]:
    first = [
        new.new_markdown_cell(
            "# Start\n\n[next](01-second.ipynb), [its end](./01-second.ipynb#the-end), "
            "[Azure](https://learn.microsoft.com/azure/), [another](99-other.ipynb), "
            "[a later one](10-a-fleet-of-devices.ipynb)"
        ),
        new.new_code_cell(
            "1 + 1", execution_count=7, outputs=[new.new_output("execute_result", {"text/plain": "two"})]
        ),
    ]
    second = [
        new.new_markdown_cell("# Second\n\n[back](00-first.ipynb)"),
        shown({WIDGET: {"model_id": "f00d", "version_major": 2}, "text/plain": "[form: Choose a target]"}),
        new.new_code_cell("print('é <b>')", outputs=[new.new_output("stream", text="é <b> \x1b[31mred\x1b[0m\n")]),
    ]
    names = ("00-first", "01-second")
    return [(name, new.new_notebook(cells=cells)) for name, cells in zip(names, (first, second), strict=True)]


@pytest.fixture(scope="module")
def html() -> str:
    return page(two_notebooks())


def test_links_between_the_notebooks_lead_to_places_on_the_page(html: str) -> None:
    read = Reading(html)
    places = [link for link in read.links if link in ("#00-first", "#01-second")]
    assert places == ["#00-first", "#01-second", "#01-second", "#01-second", "#00-first"]
    assert {"00-first", "01-second"} <= set(read.ids)


def test_other_links_stay_as_they_are(html: str) -> None:
    links = Reading(html).links
    assert "https://learn.microsoft.com/azure/" in links
    assert "99-other.ipynb" in links


def test_a_notebook_of_the_tutorial_that_is_not_on_the_page_is_named_without_a_link(html: str) -> None:
    assert "a later one" in Reading(html).text
    assert "10-a-fleet-of-devices" not in html


def test_each_place_is_named_once(html: str) -> None:
    ids = Reading(html).ids
    assert len(ids) == len(set(ids))
    assert len(ids) > 6


def test_the_notebooks_follow_one_another_with_their_outputs_and_numbers(html: str) -> None:
    text = Reading(html).text
    parts = (TITLE, "00-first", "01-second", "Start", "[7]:", "two", "Second", "é <b> red")
    positions = [text.index(part) for part in parts]
    assert positions == sorted(positions)


def test_a_form_is_shown_by_its_plain_text(html: str) -> None:
    assert "[form: Choose a target]" in Reading(html).text
    assert "f00d" not in html
    assert "widget-view" not in html


def test_nothing_is_fetched_and_nothing_is_run(html: str) -> None:
    read = Reading(html)
    assert [source for source in read.fetched if not source.startswith(("data:", "#"))] == []
    assert read.scripts == 0
    assert "@import" not in html
    assert re.findall(r"url\((?![\"']?(?:data:|#))[^)]*", html) == []


def test_the_page_is_whole_and_says_its_language_and_name(html: str) -> None:
    assert html.startswith("<!DOCTYPE html>")
    assert '<html lang="en">' in html
    assert f"<title>{TITLE}</title>" in html
    assert html.rstrip().endswith("</html>")


def test_the_notebooks_are_not_changed() -> None:
    given = two_notebooks()
    before = copy.deepcopy(given)
    page(given)
    assert given == before


def test_a_page_of_the_first_notebook_alone_can_be_made() -> None:
    """What a run that stopped early leaves."""
    read = Reading(page(two_notebooks()[:1]))
    assert read.links.count("#00-first") == 1
    assert "01-second.ipynb" in read.links
