from html.parser import HTMLParser
from typing import Any

import pytest
from IPython.core.formatters import DisplayFormatter

from dpsx_helpers import display
from dpsx_helpers.display import View

NASTY = "<script>alert(1)</script> & \"double\" 'single'"
VOID = {"br", "hr", "img", "input"}


class Reading(HTMLParser):
    """What a browser would make of a view: the tags, and the text within each kind of them."""

    def __init__(self, view: View) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(view.html)
        self.close()
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts[self._open[-1]][-1] += data

    def scopes(self) -> list[str | None]:
        return [attributes.get("scope") for tag, attributes in self.tags if tag == "th"]


def every_view(text: str) -> dict[str, View]:
    return {
        "table": display.table(text, [text, text], [[text, text]]),
        "empty table": display.table(text, [text], [], text),
        "note": display.note(text),
        "passed": display.passed(text, text),
        "ask": display.ask(text, text),
        "block": display.block(text, text),
        "prose": display.prose(text),
        "fold": display.fold(text, display.note(text)),
        "copyable": display.copyable(text, text),
        "copyable block": display.copyable_block(text, text),
        "digits": display.digits(text),
    }


@pytest.mark.parametrize("kind", every_view(""))
def test_what_is_shown_is_escaped_and_readable_again(kind: str) -> None:
    view = every_view(NASTY)[kind]
    read = Reading(view)
    assert not {tag for tag, _ in read.tags} & {"script"}
    scripts = [attributes.get("onclick") or "" for _, attributes in read.tags]
    assert not any("alert" in script for script in scripts), "a value is data, never part of the script"
    assert any(NASTY in text for texts in read.texts.values() for text in texts)
    assert NASTY in view.text


@pytest.mark.parametrize("kind", every_view(""))
def test_colours_are_those_of_the_theme(kind: str) -> None:
    for _, attributes in Reading(every_view("x")[kind]).tags:
        for rule in (attributes.get("style") or "").split(";"):
            name, _, value = rule.partition(":")
            if name in ("color", "background"):
                assert value.startswith("var(--jp-") or value == "transparent", rule


def test_a_table_has_a_caption_and_heads_for_columns_and_rows() -> None:
    read = Reading(display.table("Devices", ["Device ID", "Status"], [["one", "enabled"], ["two", "disabled"]]))
    assert read.texts["caption"] == ["Devices"]
    assert read.texts["th"] == ["Device ID", "Status", "one", "two"]
    assert read.scopes() == ["col", "col", "row", "row"]
    assert read.texts["td"] == ["enabled", "disabled"]


def test_a_view_in_a_cell_is_shown_as_it_is() -> None:
    view = display.table("Devices", ["ID", "Thumbprint"], [["one", display.digits("A1B2")]])
    assert Reading(view).texts["code"] == ["A1B2"]
    assert view.text.splitlines()[2] == "  one  A1B2"


def test_a_table_that_may_have_to_scroll_can_be_reached_with_the_keyboard_and_has_a_name() -> None:
    def regions(columns: int) -> list[dict[str, str | None]]:
        view = display.table("Devices & <more>", ["x"] * columns, [["y"] * columns])
        return [attributes for _, attributes in Reading(view).tags if attributes.get("role") == "region"]

    assert regions(3) == []
    (region,) = regions(4)
    assert region["tabindex"] == "0"
    assert region["aria-label"] == "Devices & <more>"


def test_a_copy_button_has_a_name_carries_its_value_as_data_and_says_the_outcome() -> None:
    for view in (display.copyable("SHA-1 thumbprint", NASTY), display.copyable_block("SHA-1 thumbprint", NASTY)):
        read = Reading(view)
        (button,) = [attributes for tag, attributes in read.tags if tag == "button"]
        assert button["aria-label"] == "Copy SHA-1 thumbprint"
        assert button["data-value"] == NASTY
        assert button["type"] == "button"
        assert [attributes.get("role") for tag, attributes in read.tags if tag == "span"][-1] == "status"
        assert view.text == NASTY


@pytest.mark.parametrize(
    ("given", "seconds", "milliseconds"),
    [
        ("2022-08-27T17:53:19.5143497Z", "2022-08-27 17:53:19", "2022-08-27 17:53:19.514"),
        ("2022-08-27T17:53:19Z", "2022-08-27 17:53:19", "2022-08-27 17:53:19.000"),
        ("2022-08-27T17:53:19.5+00:00", "2022-08-27 17:53:19", "2022-08-27 17:53:19.5"),
        ("2022-08-27T17:53:19+02:00", "2022-08-27T17:53:19+02:00", "2022-08-27T17:53:19+02:00"),
        ("soon", "soon", "soon"),
        (None, "None", "None"),
    ],
)
def test_a_time_is_written_for_people_where_it_is_one(given: object, seconds: str, milliseconds: str) -> None:
    assert display.moment(given) == seconds
    assert display.moment(given, "milliseconds") == milliseconds


def test_a_table_in_plain_text_has_columns_below_each_other() -> None:
    view = display.table("Devices", ["ID", "Status"], [["long-device", "on"], ["x", "disabled"]])
    assert view.text.splitlines() == [
        "Devices",
        "  ID           Status",
        "  long-device  on",
        "  x            disabled",
    ]


def test_a_row_that_is_too_short_or_too_long_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        display.table("Devices", ["ID", "Status"], [["only one"]])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        display.table("Devices", ["ID"], [["one", "two"]])


def test_a_table_without_rows_says_so_in_one_line() -> None:
    assert display.table("Devices", ["ID"], []).text == "Devices: nothing here yet."
    other = display.table("Devices", ["ID"], [], "the hub is empty")
    assert other.text == "Devices: the hub is empty."
    assert Reading(other).texts == {"p": ["Devices: the hub is empty."]}


def test_what_passed_has_a_tick_and_what_is_asked_an_empty_box() -> None:
    """Nothing is said by colour alone."""
    assert Reading(display.passed("one", "two")).texts["li"] == ["✔ one", "✔ two"]
    assert display.passed("one", "two").text == "✔ one\n✔ two"
    assert Reading(display.ask("is it there?")).texts["li"] == ["☐ is it there?"]
    assert display.ask("is it there?").text == "☐ is it there?"


def test_a_block_keeps_its_lines_below_a_caption() -> None:
    view = display.block("The log", "  first\n\n  <second>")
    read = Reading(view)
    assert read.texts["figcaption"] == ["The log"]
    assert read.texts["pre"] == ["  first\n\n  <second>"]
    assert view.text == "The log\n  first\n\n  <second>"


def test_views_are_put_one_below_the_other() -> None:
    both = display.note("one") + display.passed("two")
    assert Reading(both).texts == {"p": ["one"], "ul": [""], "li": ["✔ two"]}
    assert both.text == "one\n\n✔ two"


def test_a_notebook_gets_html_and_plain_text_and_they_are_the_view() -> None:
    view = display.note("a & b")
    formatter: Any = DisplayFormatter()
    data, metadata = formatter.format(view)
    assert data == {"text/html": view.html, "text/plain": "a & b"}
    assert metadata == {}
    assert repr(view) == "a & b"
