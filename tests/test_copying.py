"""The copy buttons, clicked in a real browser, with a clipboard and without."""

from collections.abc import Iterator

import pytest
from browser import browser
from learner import need_chromium
from playwright.sync_api import Browser, Page

from dpsx_helpers import display

ADDRESS = "http://localhost/copying"  # answered by the test itself; browsers give a page of this machine the clipboard
VALUE = "A1B2 'quoted' \"twice\" <b>&amp;\n  second line"


@pytest.fixture(scope="module")
def launched() -> Iterator[Browser]:
    need_chromium()
    with browser() as found:
        yield found


@pytest.fixture
def page(launched: Browser) -> Iterator[Page]:
    """Two buttons, as two views of a notebook would have them."""
    views = display.copyable("first value", "other"), display.copyable_block("second value", VALUE)
    body = "<!DOCTYPE html><meta charset=utf-8>" + "".join(view.html for view in views)
    with launched.new_context(permissions=["clipboard-read", "clipboard-write"]) as context:
        found = context.new_page()
        found.route(ADDRESS, lambda route: route.fulfill(body=body, content_type="text/html"))
        found.goto(ADDRESS)
        yield found


def pressed(page: Page) -> list[str]:
    """Press the second button with the keyboard; what the two status lines say then."""
    page.get_by_role("button", name="Copy second value").press("Enter")
    page.wait_for_function("() => document.querySelectorAll('[role=status]')[1].textContent")
    return page.get_by_role("status").all_inner_texts()


def test_the_value_is_in_the_clipboard_and_the_button_says_so(page: Page) -> None:
    assert pressed(page) == ["", "copied"]
    assert page.evaluate("() => navigator.clipboard.readText()") == VALUE


def test_where_the_page_has_no_clipboard_the_old_way_is_taken(page: Page) -> None:
    """A JupyterLab on another machine, without https."""
    page.evaluate("() => { window.kept = navigator.clipboard; }")
    page.evaluate("() => Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    assert pressed(page) == ["", "copied"]
    assert page.evaluate("() => window.kept.readText()") == VALUE


def test_where_nothing_copies_the_text_is_left_selected(page: Page) -> None:
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')); }")
    page.evaluate("() => { document.execCommand = () => false; }")
    assert pressed(page) == ["", "selected: press Ctrl+C (on a Mac ⌘C)"]
    assert page.evaluate("() => getSelection().toString()") == VALUE
