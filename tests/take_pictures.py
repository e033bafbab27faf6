"""Take the pictures of README and docs from the real thing: `python tests/take_pictures.py`."""

import tempfile
from pathlib import Path

from browser import NOTEBOOKS, ROOT, browser, jupyterlab, theme, tutorial_copy
from learner import Learner
from playwright.sync_api import Locator, Page, ViewportSize

IMAGES = ROOT / "docs" / "images"
#: The picture's name: the notebook, and the tag of the cell whose output it shows.
PICTURES = {
    "certificate": (NOTEBOOKS[2], "certificate"),
    "enrollment": (NOTEBOOKS[3], "form"),
    "conversation": (NOTEBOOKS[4], "conversation"),
    "messages": (NOTEBOOKS[4], "messages"),
    "diagnosis": (NOTEBOOKS[4], "break"),
}
# The enrollment form is higher than a window, and what is below the window's edge would be missing.
_TALL: ViewportSize = {"width": 1280, "height": 1700}
_WINDOW: ViewportSize = {"width": 1280, "height": 1200}
PAGE, DARK = "simulate", "simulate-dark"  # the whole window at the conversation, in both themes


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        tutorial_copy(Path(folder)) as (notebooks, environment),
        jupyterlab(notebooks, environment) as address,
        browser() as chromium,
    ):
        page = chromium.new_page(viewport=_TALL)
        learner = Learner(page, address, notebooks)
        for name in NOTEBOOKS[:5]:
            page.evaluate("() => window.jupyterapp && window.jupyterapp.shell.expandLeft()")  # it has the list of files
            learner.open(name)
            page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
            learner.run_on()
            for picture, (where, tag) in PICTURES.items():
                if where == name:
                    _output(learner, tag).screenshot(path=IMAGES / f"{picture}.png", animations="disabled")
        page.set_viewport_size(_WINDOW)
        _window(learner, page, PAGE)
        theme(page, "JupyterLab Dark")
        _window(learner, page, DARK)


def _output(learner: Learner, tag: str) -> Locator:
    learner.back_to(tag)
    output = learner.page.locator(".jp-Cell.jp-mod-active .jp-OutputArea").first
    output.scroll_into_view_if_needed()
    learner.page.wait_for_timeout(1000)  # until the smooth scrolling has settled
    return output


def _window(learner: Learner, page: Page, name: str) -> None:
    _output(learner, "conversation").evaluate("output => output.scrollIntoView({block: 'start'})")
    page.wait_for_timeout(1000)
    page.screenshot(path=IMAGES / f"{name}.png", animations="disabled")


if __name__ == "__main__":
    main()
