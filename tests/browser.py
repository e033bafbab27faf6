"""A real JupyterLab in a real Chromium, for the browser tests and for the pictures in the README."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright
from processes import wait_for

from dpsx_helpers.emulator import Emulator, EmulatorError

ROOT = Path(__file__).parents[1]
# Chromium's own services stay off: the tests send traffic to this machine only.
_ARGUMENTS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)
_READY = (
    "async () => { const widget = window.jupyterapp.shell.currentWidget;"
    " const session = widget && widget.sessionContext; if (!session) return false; await session.ready;"
    " return session.kernelDisplayStatus === 'idle'; }"
)
_SERVER = """
from jupyterlab.galata import configure_jupyter_server
configure_jupyter_server(c)
c.ServerApp.ip = "127.0.0.1"
c.ServerApp.port = 0
c.ServerApp.port_retries = 0
c.ServerApp.allow_root = True
c.ServerApp.root_dir = {root!r}
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
        server.wait(timeout=30)
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
    page.wait_for_function("() => window.jupyterapp && window.jupyterapp.shell.currentWidget", timeout=60_000)
    page.wait_for_function(_READY, timeout=60_000)


def run_all(page: Page) -> None:
    """Run every cell, and wait for the end."""
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")


def save(page: Page) -> None:
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
