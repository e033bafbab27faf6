"""What many learners on one machine cost: memory and start time of each one's emulator, and how long a device takes.

`python benchmarks/many_learners.py --learners 30` begins a class: all emulators start at the same moment, then the
devices of all of them, with one and the same registration ID, register and send ten messages at the same moment. It
prints a table, listens on loopback only, and leaves nothing behind. A few seconds of a processor for each learner.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from azure.iot.device import X509, IoTHubDeviceClient, ProvisioningDeviceClient
from azure.iot.deviceprovisioning import DeviceProvisioningClient

from dpsx_helpers import certificates
from dpsx_helpers.emulator import Emulator, EmulatorError

REGISTRATION_ID = "Python-device-01"  # everybody's, as in the tutorial
PASS_PHRASE = "1234"
MESSAGES = 10
MEGABYTE = 1024 * 1024


class Learner:
    """One work folder, with an emulator and a device of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state_dir = folder / "emulator"

    def start(self) -> None:
        """As the first cell of a notebook does: no address, no port, no option."""
        self.emulator = Emulator.start(self.state_dir)

    def enroll(self) -> None:
        """A certificate, and an individual enrollment for it."""
        self.pair = certificates.create(REGISTRATION_ID, PASS_PHRASE, self.folder, key_type="ec-p256")
        slots = {"primary": {"certificate": self.pair.certificate_file.read_text()}}
        document = {"attestation": {"type": "x509", "x509": {"clientCertificates": slots}}}
        seen = self.emulator.overview
        with DeviceProvisioningClient.from_connection_string(
            seen.dps_connection_string, connection_verify=str(seen.bundle_file)
        ) as service:
            service.enrollment.create_or_update(REGISTRATION_ID, document)

    def provision(self) -> None:
        """Register, connect to the hub that was assigned, send. Microsoft's client, one thread."""
        seen = self.emulator.overview
        x509 = X509(str(self.pair.certificate_file), str(self.pair.key_file), PASS_PHRASE)  # type: ignore[no-untyped-call]
        trusted: dict[str, Any] = {"server_verification_cert": seen.ca_file.read_text()}
        device = ProvisioningDeviceClient.create_from_x509_certificate(
            seen.host, REGISTRATION_ID, seen.id_scope, x509, **trusted
        )
        self.state: Any = device.register().registration_state
        hub = IoTHubDeviceClient.create_from_x509_certificate(
            x509, self.state.assigned_hub, self.state.device_id, **trusted
        )
        try:
            hub.connect()
            for number in range(MESSAGES):
                hub.send_message(f"{self.folder.name} {number}")
        finally:
            hub.shutdown()

    def memory(self) -> "Memory":
        seen = psutil.Process(self.emulator.overview.pid).memory_full_info()
        return Memory(seen.rss, seen.uss, getattr(seen, "pss", seen.rss))  # only Linux tells PSS

    def stop(self) -> None:
        with suppress(EmulatorError):  # also one whose start was given up
            Emulator.attach(self.state_dir).stop()


@dataclass(frozen=True)
class Memory:
    """Of one process, in bytes: all that it has in memory, its own alone, and its own with its part of the rest."""

    rss: int
    uss: int
    pss: int


def learners(folder: Path, count: int) -> list[Learner]:
    made = [Learner(folder / f"learner-{number:03}") for number in range(1, count + 1)]
    for learner in made:
        learner.folder.mkdir()
    return made


def at_once(them: list[Learner], act: Callable[[Learner], None]) -> list[float]:
    """Let all act from the same moment on; the seconds until each was done. The first exception is raised."""
    together = threading.Barrier(len(them))

    def timed(learner: Learner) -> float:
        together.wait()
        began = time.perf_counter()
        act(learner)
        return time.perf_counter() - began

    with ThreadPoolExecutor(len(them)) as pool:
        return list(pool.map(timed, them))


def stop(them: list[Learner]) -> None:
    with ThreadPoolExecutor(len(them)) as pool:
        list(pool.map(Learner.stop, them))


def measure(folder: Path, count: int) -> list[tuple[str, str, str]]:
    """(what, alone, all at once), for a table."""
    alone, class_room = learners(folder, 1), learners(folder / "class", count)
    rows: list[tuple[str, str, str]] = []
    for them in (alone, class_room):
        try:
            started = at_once(them, Learner.start)
            idle = [learner.memory() for learner in them]
            for learner in them:
                learner.enroll()
            provisioned = at_once(them, Learner.provision)
            used = [learner.memory() for learner in them]
        finally:
            stop(them)
        column = [
            ("emulator ready: median", _seconds(statistics.median(started))),
            ("emulator ready: the slowest", _seconds(max(started))),
            (f"register and {MESSAGES} messages: median", _seconds(statistics.median(provisioned))),
            (f"register and {MESSAGES} messages: the slowest", _seconds(max(provisioned))),
            ("memory of an emulator alone (USS): median", _megabytes(statistics.median(one.uss for one in used))),
            ("with its part of what is shared (PSS): median", _megabytes(statistics.median(one.pss for one in used))),
            ("shared with other processes (RSS - USS)", _megabytes(statistics.median(m.rss - m.uss for m in used))),
            ("PSS right after the start: median", _megabytes(statistics.median(one.pss for one in idle))),
            ("PSS of all emulators together", _megabytes(sum(one.pss for one in used))),
        ]
        rows = [(what, value, "") for what, value in column] if not rows else [
            (what, before, value) for (what, before, _), (_, value) in zip(rows, column, strict=True)
        ]  # fmt: skip
    return rows


def _seconds(value: float) -> str:
    return f"{value:.2f} s"


def _megabytes(value: float) -> str:
    return f"{value / MEGABYTE:.1f} MB"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--learners", type=int, default=30, metavar="N", help="how many begin at once (30)")
    count = parser.parse_args(arguments).learners
    if count < 1:
        parser.error(f"--learners {count}: give a whole number above 0")
    with tempfile.TemporaryDirectory(prefix="dpsx-many-learners-") as name:
        (Path(name) / "class").mkdir()
        rows = measure(Path(name), count)
    print(f"| {psutil.cpu_count()} processors, Python {sys.version.split()[0]} | alone | {count} at once |")
    print("|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
