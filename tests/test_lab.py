import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.cookiejar import CookieJar
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from processes import listens, wait_for
from test_run import hearing_ctrl_c

from dpsx_helpers import lab
from dpsx_helpers.__main__ import main
from dpsx_helpers.lab import LabError

ROOT = Path(__file__).parents[1]
DISPLAY = {"DISPLAY": ":0"}


@pytest.fixture(autouse=True)
def ordinary(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who is not root, on Linux; tests of anything else say so."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")


def clone(folder: Path) -> Path:
    """The notebooks folder of a clone that has no more than the first notebook."""
    notebooks = folder / "notebooks"
    notebooks.mkdir(parents=True)
    (notebooks / lab.FIRST).touch()
    return notebooks


def options(*arguments: str, **environment: str) -> list[str]:
    """What follows `python -m jupyterlab`."""
    line = lab.command(Path("/clone/notebooks"), arguments, environment)
    assert line[:3] == [sys.executable, "-m", "jupyterlab"]
    return line[3:]


# --- the notebooks --------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [".", "notebooks", "notebooks/work/run", "docs"])
def test_the_notebooks_are_found_from_anywhere_in_the_clone(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebooks = clone(tmp_path / "clone")
    (tmp_path / "clone" / place).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path / "clone" / place)
    assert lab.notebooks_folder() == notebooks


def test_from_elsewhere_the_notebooks_beside_the_package_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert lab.notebooks_folder() == ROOT / "notebooks"


def test_a_folder_of_that_name_without_the_first_notebook_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lab, "__file__", str(tmp_path / "site" / "dpsx_helpers" / "lab.py"))
    with pytest.raises(LabError, match=f"not found at or above {re.escape(str(tmp_path))}: change to "):
        lab.notebooks_folder()


def test_a_missing_jupyterlab_is_one_line_with_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "jupyterlab", None)
    assert main(["lab", "--no-browser"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        f"JupyterLab is not installed for {sys.executable}: run `python -m pip install -r requirements.txt` in the "
        "tutorial's folder.\n"
    )


# --- the command line -----------------------------------------------------------------------------


def test_jupyterlab_opens_the_first_notebook_on_this_computer_only() -> None:
    assert options(**DISPLAY) == [
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.root_dir={Path('/clone')}",
        f"--LabApp.default_url=/lab/tree/notebooks/{lab.FIRST}",
        "--ServerApp.answer_yes=True",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--log-level=WARN",
    ]


def test_root_is_allowed_only_to_root(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--ServerApp.allow_root=True" not in options()
    monkeypatch.setattr(os, "geteuid", lambda: 0, raising=False)
    assert "--ServerApp.allow_root=True" in options()
    monkeypatch.delattr(os, "geteuid")  # Windows
    assert "--ServerApp.allow_root=True" not in options()


@pytest.mark.parametrize("name", ["DISPLAY", "WAYLAND_DISPLAY", "BROWSER"])
def test_a_browser_is_opened_where_one_can_be_shown(name: str) -> None:
    no_browser = "--ServerApp.open_browser=False"
    assert no_browser in options()
    assert no_browser in options(**{name: ""})
    assert no_browser not in options(**{name: "x"})


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_windows_and_macos_always_have_a_browser(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert "--ServerApp.open_browser=False" not in options()


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        (["--ip", "127.0.0.2"], "--ServerApp.ip"),
        (["--ip=127.0.0.2"], "--ServerApp.ip"),
        (["--ServerApp.ip=127.0.0.2"], "--ServerApp.ip"),
        (["--notebook-dir=/tmp"], "--ServerApp.root_dir"),
        (["--ServerApp.root_dir=/tmp"], "--ServerApp.root_dir"),
        (["--LabApp.default_url=/tree"], "--LabApp.default_url"),
        (["-y"], "--ServerApp.answer_yes"),
        (["--ServerApp.answer_yes=False"], "--ServerApp.answer_yes"),
        (["--LabApp.news_url=https://example.org"], "--LabApp.news_url"),
        (["--LabApp.check_for_updates_class=jupyterlab.CheckForUpdate"], "--LabApp.check_for_updates_class"),
        (["--allow-root"], "--ServerApp.allow_root"),
        (["--no-browser"], "--ServerApp.open_browser"),
        (["--ServerApp.open_browser=True"], "--ServerApp.open_browser"),
        (["--log-level", "INFO"], "--log-level"),
        (["--debug"], "--log-level"),
        (["--ServerApp.log_level=INFO"], "--log-level"),
        (["--IdentityProvider.token=mine"], "--log-level"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_the_learner_says_replaces_what_we_would_say(
    given: list[str], ours: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0, raising=False)
    usual = options()
    (replaced,) = [option for option in usual if option.split("=")[0] == ours]
    usual.remove(replaced)
    assert options(*given) == usual + given


def test_other_arguments_come_last_and_replace_nothing() -> None:
    assert options("--port", "9999") == [*options(), "--port", "9999"]


def test_with_a_token_of_the_learners_own_the_log_still_tells_the_link() -> None:
    assert "--log-level=WARN" in options()
    assert "--log-level=WARN" not in options(JUPYTER_TOKEN="mine")


# --- where this process cannot become JupyterLab --------------------------------------------------


def test_on_windows_the_status_is_jupyterlabs_and_ctrl_c_is_left_to_it() -> None:
    code = """
import signal, subprocess, sys
from dpsx_helpers import lab
child = "import os, signal; os.kill(os.getppid(), signal.SIGINT); raise SystemExit(7)"
status = lab._wait_for(subprocess.Popen([sys.executable, "-c", child]))
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
sys.exit(status)
"""
    with hearing_ctrl_c():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (7, "")


# --- for real -------------------------------------------------------------------------------------


@dataclass
class Lab:
    """A JupyterLab that `dpsx lab` has started, at a terminal that would let it ask a question."""

    process: "subprocess.Popen[bytes]"
    output: Path
    token: str

    @property
    def link(self) -> str:
        found = re.search(r"http://127\.0\.0\.1:\d+/\S+", self.said())
        return found[0] if found else ""

    def said(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    def listens(self) -> bool:
        """JupyterLab tells the link a moment before it listens."""
        address = urlsplit(self.link)
        return address.port is not None and listens(str(address.hostname), address.port)

    def get(self, path: str, token: str | None = None) -> bytes:
        """GET over loopback, past any proxy; with the token of the link unless another one is given."""
        address = urlsplit(self.link)._replace(path=path, query=f"token={self.token if token is None else token}")
        cookies = urllib.request.HTTPCookieProcessor(CookieJar())
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), cookies)
        with opener.open(address.geturl(), timeout=20) as response:
            return bytes(response.read())


@pytest.fixture(params=["", "a-token-of-my-own"], ids=["token of JupyterLab's", "token of one's own"])
def opened(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.undo()  # the real platform and user
    pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
    data = tmp_path / "data"
    decoy = data / "kernels" / "python3"
    decoy.mkdir(parents=True)
    spec = {"argv": ["/nonexistent", "{connection_file}"], "display_name": "Another Python", "language": "python"}
    (decoy / "kernel.json").write_text(json.dumps(spec))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER")}
    environment |= {"JUPYTER_DATA_DIR": str(data), "JUPYTER_CONFIG_DIR": str(tmp_path), "HOME": str(tmp_path)}
    if request.param:
        environment["JUPYTER_TOKEN"] = request.param
    output = tmp_path / "output"
    terminal, end = pty.openpty()
    try:
        with output.open("wb") as log, hearing_ctrl_c():
            process = subprocess.Popen(
                [sys.executable, "-m", "dpsx_helpers", "lab", "--no-browser", "--port", "0"],
                cwd=ROOT,
                env=environment,
                stdin=end,
                stdout=log,
                stderr=log,
            )
        started = Lab(process, output, request.param)
        try:
            wait_for(lambda: started.listens() or process.poll() is not None, within=60)
            yield started
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(terminal)
        os.close(end)


def test_dpsx_lab_serves_the_first_notebook_and_one_ctrl_c_ends_it(opened: Lab) -> None:
    address = urlsplit(opened.link)
    assert address.path == f"/lab/tree/notebooks/{lab.FIRST}", opened.said()
    if not opened.token:
        opened.token = address.query.removeprefix("token=")
    assert len(opened.token) > 10

    assert b"<title>JupyterLab</title>" in opened.get(address.path)
    notebook = json.loads(opened.get(f"/api/contents/notebooks/{lab.FIRST}"))
    assert notebook["type"] == "notebook"
    assert "# Start here" in notebook["content"]["cells"][0]["source"]
    with pytest.raises(urllib.error.HTTPError, match="403"):
        opened.get(f"/api/contents/notebooks/{lab.FIRST}", token="wrong")
    kernels = json.loads(opened.get("/api/kernelspecs"))
    assert kernels["kernelspecs"]["python3"]["spec"]["display_name"] != "Another Python"

    opened.process.send_signal(signal.SIGINT)
    assert opened.process.wait(timeout=30) == 0
    said = opened.said()
    assert "Traceback" not in said
    assert "(y/[n])" not in said.lower()


def test_jupyterlab_and_its_kernels_listen_on_loopback_only(opened: Lab) -> None:
    """Every socket of the server, and of a kernel that a notebook has started."""
    if not opened.token:
        opened.token = urlsplit(opened.link).query.removeprefix("token=")
    address = urlsplit(opened.link)
    root = f"{address.scheme}://{address.netloc}"
    headers = {"Authorization": f"token {opened.token}"}
    asked = urllib.request.Request(f"{root}/api/kernels", b'{"name": "python3"}', headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=30) as answer:
        assert answer.status == 201
    own = psutil.Process(opened.process.pid)

    def listening() -> dict[int, set[str]]:
        family = [own, *own.children(recursive=True)]
        sockets = {}
        for one in family:
            with suppress(psutil.NoSuchProcess):  # JupyterLab also starts what ends at once
                sockets[one.pid] = one.net_connections("inet")
        assert all(ip_address(each.laddr.ip).is_loopback for them in sockets.values() for each in them if each.laddr)
        return {
            pid: {each.laddr.ip for each in them if each.status == psutil.CONN_LISTEN} for pid, them in sockets.items()
        }

    wait_for(lambda: any(ips for pid, ips in listening().items() if pid != own.pid), within=60)
    seen = listening()
    assert seen[own.pid] == {"127.0.0.1"}
    assert len([ips for ips in seen.values() if ips == {"127.0.0.1"}]) >= 2, "the kernel too"
