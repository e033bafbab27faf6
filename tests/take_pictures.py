"""Take the README's pictures from the real thing: `python tests/take_pictures.py`."""

import tempfile
from pathlib import Path

from browser import ROOT, browser, jupyterlab, open_notebook, run_all, tutorial_copy

IMAGES = ROOT / "docs" / "images"
BEFORE = ("00-start-here.ipynb", "02-create-a-device-certificate.ipynb", "03-create-an-individual-enrollment.ipynb")


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        tutorial_copy(Path(folder)) as (notebooks, environment),
        jupyterlab(notebooks, environment) as address,
        browser() as chromium,
    ):
        page = chromium.new_page(viewport={"width": 1280, "height": 1460})
        for name in BEFORE:
            open_notebook(page, address, name)
            run_all(page)
            page.get_by_text("✔").last.wait_for(timeout=60_000)
        open_notebook(page, address, "04-simulate-the-device.ipynb")
        page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")
        run_all(page)
        page.get_by_text("are stored there").wait_for(timeout=60_000)
        look = page.get_by_role("paragraph").filter(has_text="Look at the four lines")
        look.evaluate("paragraph => paragraph.scrollIntoView()")
        page.wait_for_timeout(1500)  # until the smooth scrolling and the last outputs have settled
        page.screenshot(path=IMAGES / "simulate.png")


if __name__ == "__main__":
    main()
