"""Whether this machine can do the tutorial: a list of findings, each with a remedy.

Nothing beyond loopback is contacted.
"""

import importlib
import importlib.metadata
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dpsx_helpers import targets, tutorial
from dpsx_helpers.errors import LearnerError

#: (distribution, module) of what the cells use.
PACKAGES = (
    ("azure-iot-device", "azure.iot.device"),
    ("azure-iot-deviceprovisioning", "azure.iot.deviceprovisioning"),
    ("cryptography", "cryptography"),
    ("ipywidgets", "ipywidgets"),
    ("jupyterlab", "jupyterlab"),
    ("nest-asyncio", "nest_asyncio"),
    ("pyOpenSSL", "OpenSSL"),
    ("websockets", "websockets"),
)
INSTALL = "run `python -m pip install -r requirements.txt` in the tutorial's folder"
_MQTT_PORT = 8883  # fixed in the device SDK


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    `found` is what was seen, `remedy` what to do when it is not ok (empty when it is).
    """

    name: str
    ok: bool
    found: str
    remedy: str = ""
    required: bool = True


def findings() -> list[Finding]:
    """Everything the tutorial needs, then what is only handy (`required` False)."""
    needed = [_python(), *map(_package, PACKAGES), _work_folder(), _target(), _port(), _clock()]
    return [*needed, *map(tool, ("git", "openssl"))]


def fit(found: list[Finding]) -> bool:
    """Whether nothing that is required is missing."""
    return all(finding.ok for finding in found if finding.required)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = (3, 11) <= sys.version_info[:2] <= (3, 14)
    return Finding(
        "Python 3.11 to 3.14",
        ok,
        version,
        "" if ok else "make the virtual environment with Python 3.11, 3.12, 3.13 or 3.14",
    )


def _package(package: tuple[str, str]) -> Finding:
    distribution, module = package
    try:
        importlib.import_module(module)
        return Finding(distribution, True, importlib.metadata.version(distribution))
    except Exception as error:  # noqa: BLE001 - an import may fail in any way, and each is a finding
        return Finding(distribution, False, f"cannot be imported ({type(error).__name__})", INSTALL)


def _work_folder() -> Finding:
    try:
        work = tutorial.work_dir()
        with tempfile.TemporaryFile(dir=work):
            return Finding("work folder", True, str(work))
    except LearnerError as error:
        return Finding("work folder", False, "none", str(error))
    except OSError as error:
        return Finding(
            "work folder",
            False,
            f"{work}: {error.strerror}",
            "set DPSX_WORK_DIR to a folder that you may write to",
        )


def _target() -> Finding:
    try:
        return Finding("target", True, tutorial.target())
    except LearnerError as error:
        return Finding("target", False, "unknown", str(error))


def _port() -> Finding:
    name = f"port {_MQTT_PORT} on this machine"
    if _free("127.0.0.1"):
        return Finding(name, True, "free")
    if _in_class():
        return Finding(name, True, "taken, and not needed: the emulator of your class is elsewhere")
    if _on_azure():
        return Finding(name, True, "taken, and not needed for Azure")
    if (ours := _own_emulator()) is not None:
        return Finding(name, True, f"in use by this tutorial's emulator at {ours}")
    if sys.platform == "linux" and any(_free(f"127.0.0.{last}") for last in range(2, 65)):
        return Finding(name, True, "taken by another program at 127.0.0.1; the emulator takes the next free address")
    return Finding(
        name,
        False,
        "taken by another program",
        f"stop the program that listens on port {_MQTT_PORT} (another emulator?)",
    )


def _free(host: str) -> bool:
    with socket.socket() as probe:
        if sys.platform != "win32":  # there the option would let two programs share the port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, _MQTT_PORT))
        except OSError:
            return False
    return True


def _on_azure() -> bool:
    try:
        return tutorial.target() == "azure"
    except LearnerError:
        return False


def _in_class() -> bool:
    try:
        return tutorial.joined() is not None
    except LearnerError:
        return False


def _own_emulator() -> str | None:
    try:
        target = targets.attached()
    except LearnerError:
        return None
    return target.host if target is not None and target.is_emulator else None


def _clock() -> Finding:
    """A certificate is valid from the clock's now: files of this very package cannot be from the future."""
    now = datetime.now(UTC)
    written = datetime.fromtimestamp(Path(__file__).stat().st_mtime, UTC)
    ok = 2026 <= now.year < 2050 and (written - now).total_seconds() < 86_400
    return Finding("clock", ok, f"{now:%Y-%m-%d %H:%M} UTC", "" if ok else "set the machine's date and time")


def tool(name: str) -> Finding:
    """A program that the quickstart uses and this tutorial can do without."""
    handy = f"not needed here; install {name} if you want to type the quickstart's own commands"
    path = shutil.which(name)
    if path is None:
        return Finding(name, False, "not found", handy, required=False)
    try:
        option = "version" if name == "openssl" else "--version"
        done = subprocess.run([path, option], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(name, False, f"does not run ({type(error).__name__})", handy, required=False)
    return Finding(
        name, True, done.stdout.strip().splitlines()[0] if done.stdout.strip() else "present", required=False
    )
