"""200 devices that register at once, with Microsoft's unmodified client in one process, beside one that does."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from benchmarks import programs, setting
from benchmarks.figures import Aim, Figure, Line, Samples, alternate
from benchmarks.sdk_fleet import Outcome, Task
from benchmarks.setting import FLOOR, Device
from dpsx_helpers.emulator import Emulator

NAME = "registrations"
TITLE = "200 registrations at once"
ROUNDS = 5
NEEDS: tuple[str, ...] = ()

_DEVICES = 200
_AIM = 1.2  # seconds beyond the floor


@dataclass(frozen=True)
class Launch:
    """Seconds until the last was assigned; processor time of the client's process meanwhile, and of the emulator's."""

    seconds: float
    client: float
    emulator: float


def measure(rounds: int, count: int = _DEVICES) -> list[Line]:
    """Each launch in a process of its own; every registration is a first one."""
    with setting.folder() as folder, setting.emulator(folder / "emulator") as running:
        devices = setting.make_devices(count, folder)
        setting.enroll(running, devices)
        all_, one = alternate(rounds, lambda: launch(running, devices), lambda: launch(running, devices[:1]))
    return figures(all_, one, count)


def launch(running: Emulator, devices: Sequence[Device]) -> Launch:
    """Let them register, and DPS forget them again. Raises RuntimeError unless all were assigned."""
    seen = running.overview
    named = [(one.name, str(one.certificate_file), str(one.key_file)) for one in devices]
    task = Task(seen.host, seen.id_scope, named)
    # As in notebook 10: a device has a few roots on board, a computer hundreds, and the SDK reads them for each client.
    environment = programs.own_environment(SSL_CERT_FILE=str(seen.ca_file))
    before = programs.cpu_seconds(seen.pid)
    ran = programs.run([sys.executable, "-m", "benchmarks.sdk_fleet"], environment, given=json.dumps(asdict(task)))
    used = programs.cpu_seconds(seen.pid) - before
    outcome = Outcome(**json.loads(ran.printed))
    registered = {record["registrationId"] for record in running.registrations() if record["status"] == "assigned"}
    if outcome.failed or not registered.issuperset(one.name for one in devices):
        raise RuntimeError(f"{len(registered)} of {len(devices)} were assigned: {outcome.failed[:3]}")
    setting.forget(running, devices)
    return Launch(outcome.seconds, outcome.cpu, used)


def figures(launches: Sequence[Launch], single: Sequence[Launch], count: int) -> list[Line]:
    seconds, alone = (Samples.of(one.seconds for one in them) for them in (launches, single))
    client, emulator = (Samples.of(getattr(one, part) for one in launches) for part in ("client", "emulator"))
    words = f"{FLOOR} s + {_AIM} s"
    return [
        Figure(f"{count} registrations at once by the SDK in one process", "s", seconds, "one alone", alone,
               "difference", Aim(FLOOR + _AIM, words=words)),
        Figure(f"processor time of the emulator for {count}", "s", emulator, "of the SDK", client),
    ]  # fmt: skip
