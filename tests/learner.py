"""A learner at a real JupyterLab: eyes, a mouse and a keyboard. What goes into a form is typed and clicked."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import POLLING, browser, chromium, jupyterlab, open_notebook, save, tutorial_copy, wait_until_ready
from playwright.sync_api import Locator, Page, expect
from processes import unable

WITHIN = 30_000  # milliseconds, for what a kernel has to do
_NOTEBOOK = "window.jupyterapp.shell.currentWidget.content"
_PLACE = f"tag => {_NOTEBOOK}.model.toJSON().cells.findIndex(cell => (cell.metadata.tags || []).includes(tag))"
_ACTIVE = f"() => {_NOTEBOOK}.activeCellIndex"
_COUNT = f"() => {_NOTEBOOK}.model.cells.length"
_DONE = f"""() => {{
    const cells = Array.from({_NOTEBOOK}.model.cells);
    return cells.every(cell => (cell.executionState || 'idle') === 'idle')
        && window.jupyterapp.shell.currentWidget.sessionContext.kernelDisplayStatus === 'idle';
}}"""
_OUTPUTS = (
    f"() => {_NOTEBOOK}.model.toJSON().cells.filter(cell => cell.cell_type === 'code').flatMap(cell => cell.outputs)"
)


class Learner:
    """One browser window on one copy of the tutorial. `complaints`: what the page wrote to its console as errors."""

    def __init__(self, page: Page, address: str, notebooks: Path) -> None:
        self.page = page
        self.address = address
        self.notebooks = notebooks
        self.complaints: list[str] = []
        page.set_default_timeout(WITHIN)
        page.on("pageerror", lambda error: self.complaints.append(f"page error: {error}"))
        page.on("console", lambda message: self._hear(message.type, message.text))

    def _hear(self, kind: str, text: str) -> None:
        # JupyterLab's own debugger panel writes this when a kernel is restarted while it asks for its state.
        if kind == "error" and "Could not restore the debugger state" not in text:
            self.complaints.append(f"console: {text}")

    def open(self, name: str) -> None:
        """The notebook alone: whatever was open is saved and closed, and its kernel left running."""
        if self.page.url.startswith(self.address):
            self.save_page()
            self.page.locator(".lm-DockPanel-tabBar .lm-mod-current .lm-TabBar-tabCloseIcon").click()
            self.page.locator(".jp-DirListing-item").filter(has_text=name).dblclick()
            wait_until_ready(self.page)
        else:
            open_notebook(self.page, self.address, f"{name}.ipynb")
        self.page.locator(".jp-Cell").first.click()

    def load_again(self, name: str) -> None:
        """The whole page, from the address of this notebook."""
        before = list(self.complaints)
        self.page.goto("about:blank")  # requests that are cut off by leaving a page are nobody's error
        self.complaints[:] = before
        self.open(name)

    def place(self, tag: str) -> int:
        """The index of the cell with this tag."""
        found = int(self.page.evaluate(_PLACE, tag))
        assert found >= 0, tag
        return found

    @property
    def at(self) -> int:
        """The index of the selected cell."""
        return int(self.page.evaluate(_ACTIVE))

    def step(self) -> None:
        """Shift+Enter, and wait until the cell has run."""
        before = self.at
        self.page.keyboard.press("Shift+Enter")
        self.page.wait_for_function(_DONE, timeout=WITHIN, polling=POLLING)
        assert self.at == before + 1, f"Shift+Enter in cell {before} did not lead to the next one"

    def go_to(self, tag: str) -> None:
        """Step down to the tagged cell, which is selected and has not run."""
        while self.at < self.place(tag):
            self.step()

    def run(self, tag: str) -> None:
        """Step down to the tagged cell, and through it."""
        self.go_to(tag)
        self.step()

    def run_on(self) -> None:
        """Step to the end of the notebook."""
        last = int(self.page.evaluate(_COUNT)) - 1
        while self.at <= last:
            self.step()

    def back_to(self, tag: str) -> None:
        """Select the tagged cell with the arrow keys."""
        self.page.keyboard.press("Escape")
        key = "ArrowUp" if self.at > self.place(tag) else "ArrowDown"
        while self.at != self.place(tag):
            self.page.keyboard.press(key)

    def return_to_cells(self) -> None:
        """After a form: click beside the next cell, so that Shift+Enter runs that one."""
        place = self.at + 1
        self.page.locator(".jp-Cell.jp-mod-active + .jp-Cell").click(position={"x": 60, "y": 8})
        assert self.at == place

    def field(self, label: str) -> Locator:
        return self.page.locator(".jp-OutputArea").get_by_label(label, exact=True)

    def type(self, label: str, text: str, key: str = "Enter") -> None:
        """Type into a field in place of what it holds, and press Enter (or Tab)."""
        self.field(label).click()
        self.page.keyboard.press("ControlOrMeta+A")
        self.page.keyboard.press("Delete")
        self.page.keyboard.type(text)
        self.page.keyboard.press(key)

    def type_secret(self, label: str, text: str, key: str = "Enter") -> None:
        """Type a pass phrase; its field empties itself."""
        self.field(label).click()
        self.page.keyboard.type(text)
        self.page.keyboard.press(key)
        expect(self.field(label)).to_have_value("", timeout=WITHIN)

    def choose(self, label: str) -> None:
        self.page.locator(".jp-OutputArea").get_by_label(label).check()

    def press(self, name: str) -> None:
        self.page.locator(".jp-OutputArea").get_by_role("button", name=name, exact=True).click()

    def reads(self, text: str) -> None:
        """The learner comes to see this text, in an output."""
        self.page.locator(".jp-OutputArea").get_by_text(text).last.wait_for(timeout=WITHIN)

    def restart_kernel(self) -> None:
        """Kernel → Restart Kernel…, and yes."""
        self.page.get_by_role("menuitem", name="Kernel", exact=True).click()
        self.page.locator(".lm-Menu-item").filter(has_text=re.compile("^Restart Kernel…")).click()
        with self.page.expect_response(lambda response: "/restart" in response.url):
            self.page.get_by_role("button", name="Confirm Kernel Restart").click()
        self.page.wait_for_function(_DONE, timeout=WITHIN, polling=POLLING)

    def outputs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.page.evaluate(_OUTPUTS)
        return found

    def stops(self) -> list[str]:
        """What the failed cells of the notebook say."""
        return [output["evalue"] for output in self.outputs() if output["output_type"] == "error"]

    def save_page(self) -> None:
        save(self.page)

    def in_another_window(self) -> "Learner":
        """The same learner, with a second browser window beside this one."""
        other = Learner(self.page.context.new_page(), self.address, self.notebooks)
        other.complaints = self.complaints
        return other

    def save(self, name: str) -> dict[str, Any]:
        """Save the notebook, in which nothing went wrong; the state of the widgets in the file."""
        assert self.stops() == []
        assert "Traceback" not in json.dumps(self.outputs())
        save(self.page)
        state: dict[str, Any] = json.loads((self.notebooks / f"{name}.ipynb").read_text())["metadata"]["widgets"]
        return dict(state["application/vnd.jupyter.widget-state+json"]["state"])


def keep_widget_state(folder: Path) -> None:
    """The setting 'Save Jupyter widget state in notebooks', as the settings editor would leave it."""
    file = folder / "settings" / "@jupyter-widgets" / "jupyterlab-manager" / "plugin.jupyterlab-settings"
    file.parent.mkdir(parents=True)
    file.write_text('{"saveState": true}')


def need_chromium() -> None:
    """Skip without Chromium; in continuous integration, fail."""
    if chromium() is None:
        unable("there is no Chromium on this machine: install it, or name it in the variable CHROMIUM")


@pytest.fixture
def learner(tmp_path: Path) -> Iterator[Learner]:
    """A learner before a fresh copy of the tutorial, whose page has written no error to its console in the end."""
    need_chromium()
    keep_widget_state(tmp_path)
    with (
        tutorial_copy(tmp_path) as (notebooks, environment),
        jupyterlab(notebooks, environment) as address,
        browser() as launched,
    ):
        page = launched.new_context(viewport={"width": 1280, "height": 1000}).new_page()
        learner = Learner(page, address, notebooks)
        yield learner
        assert learner.complaints == [], learner.complaints
