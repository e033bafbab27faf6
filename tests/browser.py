"""A real JupyterLab in a real Chromium, for the browser tests and for the pictures in the README."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright
from processes import wait_for

from dpsx_helpers.emulator import Emulator, EmulatorError

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("0[0-5]-*.ipynb"))
# Chromium's own services stay off: the tests send traffic to this machine only.
_ARGUMENTS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)
POLLING = 50  # milliseconds; by itself playwright asks at every frame, and has the page painted sixty times a second
_READY = (
    "async () => { const widget = window.jupyterapp.shell.currentWidget;"
    " const session = widget && widget.sessionContext; if (!session) return false; await session.ready;"
    " return session.kernelDisplayStatus === 'idle'; }"
)
_GRAVE = ("serious", "critical")  # the upper two of axe's four impacts
# JupyterLab's body hides what overflows and is 0 high: axe takes all of it for invisible, and skips colour contrast.
_VISIBLE = "html,body{overflow:visible!important}"
# How many pixels of the notebook's cells do not fit into its pane (in which one can scroll past the last cell).
# Scrolls to the first cell.
_EXCESS = (
    "() => { const notebook = window.jupyterapp.shell.currentWidget.content.node;"
    " const cells = Array.from(notebook.querySelectorAll('.jp-Cell'), cell => cell.getBoundingClientRect());"
    " const pane = notebook.querySelector('.jp-WindowedPanel-outer') || notebook; pane.scrollTop = 0;"
    " return Math.ceil(cells.at(-1).bottom - cells[0].top + 40 - pane.clientHeight); }"
)
_PAINTED = "() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 100)))"
_SERVER = """
from jupyterlab.galata import configure_jupyter_server
configure_jupyter_server(c)
c.ServerApp.ip = "127.0.0.1"
c.ServerApp.port = 0
c.ServerApp.port_retries = 0
c.ServerApp.allow_root = True
c.ServerApp.root_dir = {root!r}
c.ServerApp.tornado_settings = {{"page_config_data": {{"buildCheck": False, "buildAvailable": False}}}}
"""


def chromium() -> str | None:
    """The Chromium to drive: the one that CHROMIUM names, else the system's; None when there is none."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def tutorial_copy(folder: Path, **environment: str) -> Iterator[tuple[Path, dict[str, str]]]:
    """A copy of the notebooks in `folder`, and the environment for a JupyterLab on it. Its emulator ends with it."""
    notebooks = folder / "notebooks"
    shutil.copytree(ROOT / "notebooks", notebooks, ignore=shutil.ignore_patterns("work", ".ipynb_checkpoints"))
    homes = {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython"}
    own = {name: str(folder / place) for name, place in homes.items()}
    news = folder / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false", "checkForUpdates": false}')  # as `dpsx lab` has it
    own |= {"JUPYTER_CONFIG_DIR": str(folder / "config"), "JUPYTER_RUNTIME_DIR": str(folder / "runtime")}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DPSX_")}
    try:
        yield notebooks, {**inherited, **own, "JUPYTERLAB_GALATA_ROOT_DIR": str(notebooks), **environment}
    finally:
        with suppress(EmulatorError):
            Emulator.attach(notebooks / "work" / "emulator").stop()


@contextmanager
def jupyterlab(notebooks: Path, environment: dict[str, str]) -> Iterator[str]:
    """JupyterLab on this machine's loopback, with no token; its address."""
    config = notebooks.parent / "server_config.py"
    config.write_text(_SERVER.format(root=str(notebooks)))
    log = (notebooks.parent / "jupyter.log").open("wb")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", f"--config={config}", "--no-browser"],
        env=environment,
        stdout=log,
        stderr=log,
        cwd=notebooks.parent,
    )
    try:
        found: list[Path] = []
        wait_for(lambda: _address(notebooks.parent / "runtime", found) or server.poll() is not None, within=60)
        yield json.loads(found[0].read_text())["url"]
    finally:
        server.terminate()
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:  # it may hang, its kernels ended, if a page was closed the moment before
            server.kill()
            server.wait()
        log.close()


def _address(runtime: Path, found: list[Path]) -> bool:
    found[:] = [path for path in runtime.glob("jpserver-*.json") if path.stat().st_size]
    return bool(found)


@contextmanager
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        root = hasattr(os, "geteuid") and os.geteuid() == 0
        launched = playwright.chromium.launch(
            executable_path=chromium(), args=list(_ARGUMENTS), chromium_sandbox=False if root else None
        )
        try:
            yield launched
        finally:
            launched.close()


def open_notebook(page: Page, address: str, name: str) -> None:
    """Open a notebook and wait until its kernel is ready."""
    page.goto(f"{address}lab/tree/{name}?reset", wait_until="domcontentloaded")
    wait_until_ready(page)


def wait_until_ready(page: Page) -> None:
    """Wait until a notebook is in front, and its kernel ready."""
    page.wait_for_function(
        "() => window.jupyterapp && window.jupyterapp.shell.currentWidget", timeout=60_000, polling=POLLING
    )
    page.wait_for_function(_READY, timeout=60_000, polling=POLLING)


def run_all(page: Page) -> None:
    """Run every cell, and wait for the end."""
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")


def save(page: Page) -> None:
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")


def theme(page: Page, name: str) -> None:
    """Change to "JupyterLab Light", "JupyterLab Dark" or "JupyterLab Dark High Contrast"."""
    page.evaluate("name => window.jupyterapp.commands.execute('apputils:change-theme', { theme: name })", name)
    page.wait_for_function("name => document.body.dataset.jpThemeName === name", arg=name)


def axe(page: Page, selector: str = ".jp-OutputArea") -> list[str]:
    """What axe-core (https://github.com/dequelabs/axe-core) finds serious or critical within `selector`, a line each.

    Raises playwright's Error when nothing on the page matches. What is only scrolled out of view is looked at too.
    """
    style = page.add_style_tag(content=_VISIBLE)
    try:
        with all_in_view(page):
            found = Axe().run(page, selector).response["violations"]
    finally:
        style.evaluate("style => style.remove()")
    return [_line(rule, node) for rule in found if rule["impact"] in _GRAVE for node in rule["nodes"]]


@contextmanager
def all_in_view(page: Page) -> Iterator[None]:
    """A window so high that the whole notebook is seen at once: axe skips the contrast of what is scrolled away."""
    seen = page.viewport_size
    assert seen is not None
    try:
        # What was never in view has no height yet, so the notebook grows as it comes into view, and not at once.
        quiet = 0
        while quiet < 3:
            if (excess := page.evaluate(_EXCESS)) > 0:
                quiet = 0
                higher = page.evaluate("() => innerHeight") + excess
                page.set_viewport_size({"width": seen["width"], "height": higher})
                page.wait_for_function("height => innerHeight === height", arg=higher)
            else:
                quiet += 1
            page.evaluate(_PAINTED)
        yield
    finally:
        page.set_viewport_size(seen)


def _line(rule: dict[str, Any], node: dict[str, Any]) -> str:
    reasons = "; ".join(check["message"] for check in (*node["any"], *node["all"], *node["none"]))
    return f"{rule['id']} ({rule['impact']}): {node['html'][:200]} ({reasons})"
