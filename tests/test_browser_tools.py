"""The tools of the browser tests find what they are there to find, in a real JupyterLab."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from browser import axe, browser, jupyterlab, open_notebook, run_all, theme, tutorial_copy
from learner import need_chromium
from playwright.sync_api import Error, Page

pytestmark = pytest.mark.browser
ROWS = 60  # lines of output between a cell and the next, so that the last one is far below what is seen
FAULTS = {
    "color-contrast": '<p style="background:{paper};color:{ink}">words that hardly differ from their paper</p>',
    "label": '<input type="text">',
    "aria-roles": '<div role="knob">a role that does not exist</div>',
}
LIGHT, DARK = "JupyterLab Light", "JupyterLab Dark"
PAPER = {LIGHT: ("#fff", "#bbb"), DARK: ("#111", "#444")}
GOOD = '<p>Plain words</p><label>Name <input type="text"></label><div role="status">well</div>'


def html(text: str) -> str:
    return f"from IPython.display import HTML\nHTML({text!r})"


def planted(name: str) -> str:
    return "".join(FAULTS.values()).format(paper=PAPER[name][0], ink=PAPER[name][1])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Four notebooks are there to open: nothing wrong, the faults on light and on dark paper, and no output at all."""
    need_chromium()
    folder = tmp_path_factory.mktemp("tools")
    with tutorial_copy(folder) as (notebooks, environment):
        write(notebooks / "good.ipynb", html(GOOD))
        for name in PAPER:
            write(notebooks / f"{name}.ipynb", f"print('row\\n' * {ROWS})", html(planted(name)))
        write(notebooks / "empty.ipynb", "")
        with jupyterlab(notebooks, environment) as address, browser() as launched:
            page = launched.new_page(viewport={"width": 1280, "height": 800})
            page.address = address  # type: ignore[attr-defined]
            yield page


def write(file: Path, *sources: str) -> None:
    new: Any = nbformat.v4
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}  # or JupyterLab asks which
    notebook = new.new_notebook(metadata=metadata, cells=[new.new_code_cell(source) for source in sources])
    nbformat.write(notebook, file)


def opened(page: Page, name: str) -> None:
    open_notebook(page, page.address, f"{name}.ipynb")  # type: ignore[attr-defined]
    run_all(page)


@pytest.mark.parametrize("name", PAPER)
def test_axe_finds_planted_faults_in_either_theme_also_far_below_the_view(page: Page, name: str) -> None:
    opened(page, name)
    theme(page, name)
    found = axe(page)
    assert sorted(line.split()[0] for line in found) == sorted(FAULTS), found
    (contrast,) = [line for line in found if line.startswith("color-contrast")]
    assert "(serious)" in contrast
    assert "words that hardly differ" in contrast


@pytest.mark.parametrize("name", PAPER)
def test_axe_finds_nothing_where_nothing_is_wrong(page: Page, name: str) -> None:
    opened(page, "good")
    theme(page, name)
    assert page.locator(".jp-OutputArea").get_by_text("Plain words").is_visible()
    assert axe(page) == []


def test_axe_leaves_the_page_as_it_was(page: Page) -> None:
    opened(page, "good")
    before = page.evaluate("() => getComputedStyle(document.body).overflow")
    axe(page)
    assert page.evaluate("() => getComputedStyle(document.body).overflow") == before == "hidden"


def test_axe_does_not_pass_when_there_is_nothing_to_look_at(page: Page) -> None:
    opened(page, "good")
    with pytest.raises(Error, match="No elements found"):
        axe(page, ".no-such-place")
