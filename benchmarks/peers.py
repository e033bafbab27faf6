"""Servers that devices connect to, with what their processes use: the emulator, and mosquitto with its certificate."""

import contextlib
import getpass
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine, programs
from dpsx_helpers.emulator import Emulator, tls

_CONFIGURATION = """\
user {user}
listener {port} {host}
certfile {files.server}
keyfile {files.server_key}
cafile {trusted}
tls_version tlsv1.2
ciphers {ciphers}
require_certificate true
allow_anonymous true
persistence false
max_queued_messages 0
max_inflight_messages 0
set_tcp_nodelay true
log_type error
log_dest stderr
"""
_READY_WITHIN = 10.0  # seconds


@dataclass(frozen=True)
class Server:
    """Where a process listens for MQTT over TLS, and the CA that its certificate is of."""

    host: str
    port: int
    pid: int
    ca: Path

    @classmethod
    def of(cls, running: Emulator) -> "Server":
        seen = running.overview
        return cls(seen.host, seen.mqtt_port, seen.pid, seen.ca_file)

    def cpu(self) -> float:
        """Seconds of processor time that it has used."""
        return programs.cpu_seconds(self.pid)

    def memory(self) -> float:
        """MB that it has in memory and shares with nobody."""
        return programs.memory(self.pid).uss


@contextlib.contextmanager
def mosquitto(folder: Path, running: Emulator, certificates: Sequence[Path]) -> Iterator[Server]:
    """Run it with the emulator's server certificate. It asks for a client certificate, as the emulator does, and takes
    these; it stores nothing. Raises RuntimeError when it does not start.
    """
    folder.mkdir()
    trusted, settings = folder / "clients.pem", folder / "mosquitto.conf"
    trusted.write_text("".join(path.read_text(encoding="ascii") for path in certificates), encoding="ascii")
    host, files = running.overview.host, tls.Files(running.state_dir)  # the certificate names that host
    port = _free_port(host)
    ciphers, user = tls.CIPHERS.decode(), getpass.getuser()
    settings.write_text(
        _CONFIGURATION.format(user=user, port=port, host=host, files=files, trusted=trusted, ciphers=ciphers)
    )
    command = [machine.program("mosquitto") or "mosquitto", "-c", str(settings)]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            _wait_until_ready(host, port, process)
            yield Server(host, port, process.pid, files.ca)
        finally:
            process.terminate()


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(host: str, port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _READY_WITHIN
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection((host, port), timeout=1).close()
            return
        time.sleep(0.02)
    raise RuntimeError("mosquitto did not start")
