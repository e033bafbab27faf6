"""A learner's way through the notebooks: a real JupyterLab in a real Chromium, with a keyboard."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from browser import browser, chromium, jupyterlab, open_notebook, run_all, save, tutorial_copy
from devices import NAME, PASS_PHRASE
from playwright.sync_api import Page, expect

from dpsx_helpers import certificates

CANARY = "canary-4d0c72be91a6"
WITHIN = 60_000  # milliseconds, for what a kernel has to do
_OUTPUTS = (
    "() => window.jupyterapp.shell.currentWidget.content.model.toJSON().cells"
    ".filter(cell => cell.cell_type === 'code').flatMap(cell => cell.outputs)"
)
_TAGGED = (
    "tag => { const notebook = window.jupyterapp.shell.currentWidget.content;"
    " notebook.activeCellIndex = notebook.model.toJSON().cells"
    ".findIndex(cell => (cell.metadata.tags || []).includes(tag)); notebook.activate(); }"
)


def keep_widget_state(folder: Path) -> None:
    """The setting 'Save Jupyter widget state in notebooks', as the settings editor would leave it."""
    file = folder / "settings" / "@jupyter-widgets" / "jupyterlab-manager" / "plugin.jupyterlab-settings"
    file.parent.mkdir(parents=True)
    file.write_text('{"saveState": true}')


def run_down_to(page: Page, tag: str) -> None:
    """Run the cells above the tagged one, and it."""
    page.evaluate(_TAGGED, tag)
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-above')")
    page.evaluate(_TAGGED, tag)
    page.keyboard.press("Shift+Enter")


def outputs(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.evaluate(_OUTPUTS)
    return found


def errors(page: Page) -> list[str]:
    return [output["evalue"] for output in outputs(page) if output["output_type"] == "error"]


def run_to_the_end(page: Page, seen: str) -> None:
    """Run All; it ends without an error, and this is to be read then."""
    run_all(page)
    assert errors(page) == []
    page.get_by_text(seen).last.wait_for()


def saved(page: Page, file: Path) -> dict[str, Any]:
    """Save the notebook, after looking that nothing in it went wrong; the state of the widgets in the file."""
    assert errors(page) == []
    assert "Traceback" not in json.dumps(outputs(page))
    assert "Traceback" not in page.locator("body").inner_text()
    save(page)
    state: dict[str, Any] = json.loads(file.read_text())["metadata"]["widgets"]
    return dict(state["application/vnd.jupyter.widget-state+json"]["state"])


def type_pass_phrase(page: Page, label: str) -> None:
    """Type it on the keyboard into this field, with Enter; the field empties itself."""
    field = page.get_by_label(label, exact=True)
    field.click()
    page.keyboard.type(CANARY)
    page.keyboard.press("Enter")
    expect(field).to_have_value("", timeout=WITHIN)


def test_a_learner_goes_from_the_start_to_the_end_and_the_pass_phrase_is_in_no_file(tmp_path: Path) -> None:
    if chromium() is None:
        unable = pytest.fail if os.environ.get("CI") else pytest.skip
        unable("there is no Chromium on this machine: install it, or name it in the variable CHROMIUM")
    keep_widget_state(tmp_path)
    with (
        tutorial_copy(tmp_path) as (notebooks, environment),
        jupyterlab(notebooks, environment) as address,
        browser() as launched,
    ):
        page = launched.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(WITHIN)

        name = "00-start-here.ipynb"
        open_notebook(page, address, name)
        run_down_to(page, "choose-form")
        for choice in ("my Azure subscription", "the emulator on this machine"):
            page.get_by_label(choice).check()
            page.get_by_text(f"From now on every notebook works with {choice}").wait_for()
        run_to_the_end(page, "the target is the emulator, and it runs at 127.")
        assert saved(page, notebooks / name)

        name = "02-create-a-device-certificate.ipynb"
        open_notebook(page, address, name)
        run_down_to(page, "pass-phrase")
        type_pass_phrase(page, "Enter PEM pass phrase")
        page.get_by_text("now type it again in the second field").wait_for()
        type_pass_phrase(page, "Verifying - Enter PEM pass phrase")
        page.get_by_text("Both entries agree").wait_for()
        assert saved(page, notebooks / name)
        run_to_the_end(page, "the key opens with your pass phrase")
        assert saved(page, notebooks / name)
        key_file = notebooks / "work" / certificates.KEY_FILE
        assert certificates.open_key(key_file, CANARY)
        with pytest.raises(certificates.CertificateError):
            certificates.open_key(key_file, PASS_PHRASE)

        name = "03-create-an-individual-enrollment.ipynb"
        open_notebook(page, address, name)
        run_to_the_end(page, f"{NAME} is enrolled and enabled")
        expect(page.get_by_role("rowheader", name=NAME)).to_be_visible()
        assert saved(page, notebooks / name)

        name = "04-simulate-the-device.ipynb"
        open_notebook(page, address, name)
        run_down_to(page, "pass-phrase")
        type_pass_phrase(page, "Enter PEM pass phrase")
        page.get_by_text("kept in this kernel's memory only").wait_for()
        run_to_the_end(page, "10 are stored there")
        assert saved(page, notebooks / name)

        name = "05-clean-up-resources.ipynb"
        open_notebook(page, address, name)
        run_down_to(page, "pass-phrase")
        type_pass_phrase(page, "Enter PEM pass phrase")
        page.get_by_text("kept in this kernel's memory only").wait_for()
        run_to_the_end(page, "the emulator is stopped")
        assert saved(page, notebooks / name)
    assert not key_file.exists()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []
