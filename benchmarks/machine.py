"""What was measured on, in a few words: nothing that names the machine, its user or a folder on it."""

import importlib.metadata
import os
import platform
import re
import shutil
import sqlite3
import ssl
import subprocess
from pathlib import Path

import psutil
from cryptography.hazmat.backends.openssl.backend import backend

#: Programs that rows measure beside ours, each with the Debian package that brings it.
PEERS = {"openssl": "openssl", "mosquitto": "mosquitto"}
_SYSTEM = ("/usr/sbin", "/sbin")  # Debian's mosquitto is there, which an ordinary user's PATH leaves out
_PACKAGES = ("azure-iot-device", "pyOpenSSL", "cryptography")


def program(name: str) -> str | None:
    """The path of a peer, or None when it is not installed."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(_SYSTEM))


def missing(names: tuple[str, ...]) -> list[str]:
    """For each of these peers that is not installed, one sentence that says how to get it."""
    return [
        f"{name} is not installed, so what is measured beside it is left out: on Debian, apt install {PEERS[name]}."
        for name in names
        if program(name) is None
    ]


def describe() -> dict[str, str]:
    """Processor, memory, system and versions."""
    memory = psutil.virtual_memory().total / 2**30
    return {
        "processor": f"{_processor()}, {psutil.cpu_count()} cores",
        "memory": f"{memory:.0f} GiB",
        "system": _system(),
        "Python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        "OpenSSL of cryptography": backend.openssl_version_text(),
        "OpenSSL of Python": ssl.OPENSSL_VERSION,
        "OpenSSL program": _first_line("openssl", "version"),
        "mosquitto": _first_line("mosquitto", "-h").removeprefix("mosquitto version "),
        "SQLite": sqlite3.sqlite_version,
    }


def commit() -> str:
    """The commit that was measured, "+" behind it when tracked files were changed since; "" outside a clone."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        made = subprocess.run([*git, "rev-parse", "--short=9", "HEAD"], capture_output=True, text=True, check=True)
        code = ["dpsx_helpers", "notebooks", "benchmarks"]
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *(f":/{name}" for name in code)], check=False)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return made.stdout.strip() + ("+" if changed.returncode else "")


def load() -> float | None:
    """How many processes were busy on average in the last minute; None where the system does not tell."""
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):
        return None


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return " ".join(found[1].split()) if found else platform.processor() or platform.machine()


def _system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    release = re.match(r"\d+(\.\d+)?", platform.release())  # what follows may be whoever built the kernel
    return f"{name}, {platform.system()} {release[0]}" if release else name


def _first_line(name: str, option: str) -> str:
    path = program(name)
    if path is None:
        return "not installed"
    said = subprocess.run([path, option], capture_output=True, text=True, check=False).stdout
    return said.partition("\n")[0].strip()
