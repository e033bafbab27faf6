"""Measure a class at one emulator: `python benchmarks/class_room.py [--students 100] [--processes 2]
[--host 127.50.0.5]`.

Every student has a certificate made beforehand and a join file of the emulator. On one signal all of them, spread over
the processes, enroll over HTTPS with their own keys, provision, and send ten messages, with Microsoft's own clients.
Then each asks for what they may see. A failure is a student for whom any of that did not come out as it should.

The loopback address stands in for the network: the wire costs nothing here, and the students' work is done by the same
processors as the emulator's.
"""

import argparse
import asyncio
import logging
import multiprocessing
import os
import statistics
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import requests
from azure.iot.device import X509, Message
from azure.iot.device.aio import IoTHubDeviceClient, ProvisioningDeviceClient
from azure.iot.deviceprovisioning import DeviceProvisioningClient

from dpsx_helpers import certificates, joining
from dpsx_helpers.emulator import Emulator, sas
from dpsx_helpers.errors import LearnerError
from dpsx_helpers.joining import Join

MESSAGES = 10
PASS_PHRASE = "1234"


@dataclass
class Outcome:
    """One student: seconds for each step, from the signal on for `total`, and what went wrong ("" when nothing)."""

    name: str
    steps: dict[str, float] = field(default_factory=dict)
    wrong: str = ""


@dataclass(frozen=True)
class Measured:
    """The whole class. `memory` is MB of the emulator (before, at the end).

    `cpu` is processor time in seconds: of the emulator, and of the students' clients together.
    """

    students: int
    seconds: float
    memory: tuple[float, float]
    cpu: tuple[float, float]
    outcomes: list[Outcome]

    @property
    def failed(self) -> list[Outcome]:
        return [one for one in self.outcomes if one.wrong]


def measure(students: int, processes: int, host: str, folder: Path) -> Measured:
    """Start an emulator, let the class do its work, and stop it again."""
    names = [f"student-{number:03}" for number in range(1, students + 1)]
    for name in names:
        key = folder / name
        key.mkdir(mode=0o700)
        certificates.create(name, PASS_PHRASE, key, key_type="ec-p256")
    emulator = Emulator.start(folder / "emulator", host=host)
    try:
        for join in emulator.admit(names):
            (folder / join.registration_id / "join.json").write_text(join.as_file())
        server = psutil.Process(emulator.overview.pid)
        before, cpu_before = server.memory_info().rss, sum(server.cpu_times()[:2])
        seconds, clients, outcomes = _all_at_once(names, processes, folder, emulator.overview.bundle_file)
        after, cpu_after = server.memory_info().rss, sum(server.cpu_times()[:2])
        _compare(outcomes, emulator)
    finally:
        emulator.stop()
    memory = (before / 1e6, after / 1e6)
    return Measured(students, seconds, memory, (cpu_after - cpu_before, clients), outcomes)


def _all_at_once(names: list[str], processes: int, folder: Path, bundle: Path) -> tuple[float, float, list[Outcome]]:
    """Let every process get ready, give the signal, and collect: seconds from the signal to the last answer, processor
    time of the processes, outcomes.
    """
    spawning = multiprocessing.get_context("spawn")
    workers = []
    for number in range(processes):
        ours, theirs = spawning.Pipe()
        share = names[number::processes]
        worker = spawning.Process(target=_work, args=(share, folder, bundle, theirs), daemon=True)
        worker.start()
        workers.append((worker, ours))
    for _, ours in workers:
        ours.recv()
    begin = time.monotonic()
    for _, ours in workers:
        ours.send("go")
    answers = [ours.recv() for _, ours in workers]
    seconds = time.monotonic() - begin
    for worker, _ in workers:
        worker.join()
    return seconds, sum(used for used, _ in answers), [Outcome(**one) for _, share in answers for one in share]


def _work(names: list[str], folder: Path, bundle: Path, boss: Connection) -> None:
    """One process with its share of the students."""
    os.environ["SSL_CERT_FILE"] = str(bundle)  # before the first client object exists
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    boss.send("ready")
    boss.recv()
    begin = time.process_time()
    outcomes = asyncio.run(_together(names, folder, bundle))
    boss.send((time.process_time() - begin, [asdict(one) for one in outcomes]))


async def _together(names: list[str], folder: Path, bundle: Path) -> list[Outcome]:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(len(names)))  # nobody waits for a thread
    return list(await asyncio.gather(*(_student(name, folder / name, bundle) for name in names)))


async def _student(name: str, folder: Path, bundle: Path) -> Outcome:
    outcome, begin = Outcome(name), time.monotonic()
    try:
        await _quickstart(outcome, folder, bundle)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a failure to be counted
        cause = f" ({error.__cause__!r})" if error.__cause__ else ""
        outcome.wrong = f"{type(error).__name__}: {error}{cause}"[:300]
    outcome.steps["total"] = time.monotonic() - begin
    return outcome


async def _quickstart(outcome: Outcome, folder: Path, bundle: Path) -> None:
    """What notebooks 03 and 04 do."""
    join, name = joining.read_file(folder / "join.json"), outcome.name
    begin = time.monotonic()
    pem = (folder / certificates.CERTIFICATE_FILE).read_text()
    await asyncio.to_thread(_enroll, join, bundle, pem)
    outcome.steps["enroll"], begin = time.monotonic() - begin, time.monotonic()
    files = (str(folder / certificates.CERTIFICATE_FILE), str(folder / certificates.KEY_FILE))
    identity = X509(*files, PASS_PHRASE)
    dps = ProvisioningDeviceClient.create_from_x509_certificate(join.host, name, join.id_scope, identity)
    registration = await dps.register()
    outcome.steps["provision"], begin = time.monotonic() - begin, time.monotonic()
    state = registration.registration_state
    if (registration.status, state.device_id) != ("assigned", name):
        raise ValueError(f"the registration ended {registration.status} as {state.device_id}")
    hub = IoTHubDeviceClient.create_from_x509_certificate(identity, state.assigned_hub, name)
    try:
        await hub.connect()
        messages = [Message(f"{name} says {number}") for number in range(MESSAGES)]
        for message in messages:
            message.message_id = str(uuid.uuid4())
        await asyncio.gather(*map(hub.send_message, messages))
    finally:
        await hub.shutdown()
    outcome.steps["send"], begin = time.monotonic() - begin, time.monotonic()
    await asyncio.to_thread(_look, join, bundle)
    outcome.steps["look"] = time.monotonic() - begin


def _enroll(join: Join, bundle: Path, pem: str) -> None:
    name = join.registration_id
    shown = {"type": "x509", "x509": {"clientCertificates": {"primary": {"certificate": pem}}}}
    with _service(join, bundle) as client:
        client.enrollment.create_or_update(name, {"registrationId": name, "attestation": shown})


def _look(join: Join, bundle: Path) -> None:
    """Raise ValueError unless the student sees what is their own, all of it, and nothing else."""
    name = join.registration_id
    with _service(join, bundle) as client:
        seen = [row["registrationId"] for row in client.enrollment.query({"query": "SELECT *"})]
    if seen != [name]:
        raise ValueError(f"{name} sees the enrollments {seen}")
    token = sas.sign(join.endpoint, join.policy, join.key, int(time.time()) + 300)
    for path, count in (("devices", 1), ("emulator/messages", MESSAGES)):
        answer = requests.get(
            f"https://{join.endpoint}/{path}",
            params={"api-version": "2021-04-12"},
            headers={"Authorization": token},
            verify=str(bundle),
            timeout=60,
        )
        shown = [one["deviceId"] for one in answer.json()] if answer.ok else answer.status_code
        if shown != [name] * count:
            raise ValueError(f"{name} sees in {path}: {shown}")


def _service(join: Join, bundle: Path) -> DeviceProvisioningClient:
    return DeviceProvisioningClient.from_connection_string(
        join.connection_string, connection_verify=str(bundle), use_env_settings=False, retry_total=0,
        connection_timeout=60, read_timeout=60,
    )  # fmt: skip


def _compare(outcomes: list[Outcome], emulator: Emulator) -> None:
    """Hold what the students say against what the emulator has kept: the board, and the very messages."""
    board = {one["registrationId"]: one for one in emulator.board()["students"]}
    for one in outcomes:
        kept, row = [message["body"] for message in emulator.messages(one.name)], board[one.name]
        sent = [f"{one.name} says {number}" for number in range(MESSAGES)]
        if not one.wrong and (sorted(kept) != sent or row["registration"]["status"] != "assigned" or row["mistakes"]):
            one.wrong = f"the emulator has kept {len(kept)} messages and {row}"


def report(measured: Measured) -> str:
    """The measures as a table of Markdown, and what failed."""
    lines = ["| step | median | slowest |", "|---|---|---|"]
    for step in ("enroll", "provision", "send", "look", "total"):
        taken = [one.steps[step] for one in measured.outcomes if step in one.steps]
        if taken:
            lines.append(f"| {step} | {statistics.median(taken):.2f} s | {max(taken):.2f} s |")
    before, after = measured.memory
    lines += [
        "",
        f"{measured.students} students, {measured.students * MESSAGES} messages: {measured.seconds:.1f} s from signal "
        f"to the last answer, {len(measured.failed)} failed.",
        f"Emulator: {measured.cpu[0]:.1f} s of processor time; {before:.0f} MB of memory before, {after:.0f} MB after.",
        f"Students' clients: {measured.cpu[1]:.1f} s of processor time.",
    ]
    return "\n".join(lines + [f"{one.name}: {one.wrong}" for one in measured.failed])


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure a class at one emulator.")
    parser.add_argument("--students", type=int, default=100)
    parser.add_argument("--processes", type=int, default=2, help="that the students are spread over (2)")
    parser.add_argument("--host", default="127.50.0.5", help="a loopback address (127.50.0.5)")
    options = parser.parse_args()
    try:
        with TemporaryDirectory() as folder:
            measured = measure(options.students, options.processes, options.host, Path(folder))
    except LearnerError as error:
        print(error, file=sys.stderr)
        return 1
    print(report(measured))
    return 1 if measured.failed else 0


if __name__ == "__main__":
    sys.exit(main())
