"""Find the tutorial's notebooks, and open JupyterLab on the first of them."""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dpsx_helpers.errors import LearnerError

FIRST = "00-start-here.ipynb"


class LabError(LearnerError):
    """JupyterLab cannot be opened. One sentence."""


def notebooks_folder() -> Path:
    """The folder `notebooks` at or above the current one, else the one beside this package (a clone)."""
    here = Path.cwd()
    for place in (here, *here.parents, Path(__file__).resolve().parents[1]):
        if (place / "notebooks" / FIRST).is_file():
            return place / "notebooks"
    raise LabError(
        f"The tutorial's notebooks were not found at or above {here}: change to the folder that you cloned "
        f"(the one with notebooks/{FIRST} in it) and start again."
    )


def start(arguments: Sequence[str]) -> int:
    """Open JupyterLab at the first notebook and stay until it ends; `arguments` go to `jupyter lab`.

    On Linux and macOS this process becomes JupyterLab, so that every signal reaches it, and this returns only
    where that is not possible. Raises LabError when there are no notebooks or there is no JupyterLab.
    """
    folder = notebooks_folder()
    if importlib.util.find_spec("jupyterlab") is None:
        raise LabError(
            f"JupyterLab is not installed for {sys.executable}: run `python -m pip install -r requirements.txt` "
            "in the tutorial's folder."
        )
    line = command(folder, arguments, os.environ)
    environment = {**os.environ, "JUPYTER_PATH": _own_kernel_first()}
    if sys.platform != "win32":
        os.execve(line[0], line, environment)  # noqa: S606 - no shell is what is wanted
    return _wait_for(subprocess.Popen(line, env=environment))


def command(folder: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The command line: what the learner gave comes last, and replaces ours where it says the same thing."""
    given = {argument.split("=")[0] for argument in arguments}
    line = [sys.executable, "-m", "jupyterlab"]
    for names, option in _options(folder, environment):
        if not given.intersection(names):
            line.append(option)
    return [*line, *arguments]


def _options(folder: Path, environment: Mapping[str, str]) -> list[tuple[tuple[str, ...], str]]:
    """(other names of the option, the option) for each of ours."""
    root = folder.parent
    options = [
        (("--ip", "--ServerApp.ip"), "--ServerApp.ip=127.0.0.1"),
        (("--notebook-dir", "--ServerApp.root_dir"), f"--ServerApp.root_dir={root}"),
        (("--LabApp.default_url",), f"--LabApp.default_url=/lab/tree/{folder.name}/{FIRST}"),
        # One Ctrl-C is enough: no question, which could be answered at a terminal only.
        (("-y", "--ServerApp.answer_yes"), "--ServerApp.answer_yes=True"),
        # Neither is fetched, and no question about them lies over the first notebook.
        (("--LabApp.news_url",), "--LabApp.news_url=None"),
        (("--LabApp.check_for_updates_class",), "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"),
    ]
    if _is_root():
        options.append((("--allow-root", "--ServerApp.allow_root"), "--ServerApp.allow_root=True"))
    if not _can_show_a_browser(environment):
        options.append((("--no-browser", "--ServerApp.open_browser"), "--ServerApp.open_browser=False"))
    if "JUPYTER_TOKEN" not in environment:  # with a token of the learner's own the link is told at INFO only
        levels = ("--log-level", "--Application.log_level", "--ServerApp.log_level", "--LabApp.log_level", "--debug")
        options.append(((*levels, "--IdentityProvider.token", "--ServerApp.token"), "--log-level=WARN"))
    return options


def _is_root() -> bool:
    """JupyterLab refuses to start as root unless it is told that this is meant."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _can_show_a_browser(environment: Mapping[str, str]) -> bool:
    """Without a display Python would fall back to a browser inside the terminal, over the link."""
    if not sys.platform.startswith("linux"):
        return True
    return any(environment.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


def _own_kernel_first() -> str:
    """JUPYTER_PATH with this interpreter's `python3` kernel ahead of one that the learner has elsewhere."""
    return os.pathsep.join(filter(None, [str(Path(sys.prefix, "share", "jupyter")), os.environ.get("JUPYTER_PATH")]))


def _wait_for(process: "subprocess.Popen[bytes]") -> int:
    """Ctrl-C goes to every process of a console, so here it is left to JupyterLab."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
