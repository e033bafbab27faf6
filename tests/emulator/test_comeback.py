"""An emulator goes and comes back while Microsoft's unmodified clients are connected and send.

After a clean stop they reconnect by themselves; after `kill -9` a fresh client connects, since one that was in the
middle of sending may hang. DPSX_TEST_RESTARTS=10 stops and kills so often, and leaves the clients their own ten seconds
between two attempts.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from azure.iot.device import Message
from azure.iot.device.aio import IoTHubDeviceClient
from azure.iot.device.exceptions import ClientError
from clients import bodies, credentials, document, trusting
from connections import provisioned
from pki import Device, make_device
from processes import RunningEmulator, free_host, run_command, wait_for

from dpsx_helpers.emulator import Emulator, control, running

Start = Callable[..., RunningEmulator]
RESTARTS = int(os.environ.get("DPSX_TEST_RESTARTS", "0"))
#: The SDK's own is ten seconds: https://learn.microsoft.com/python/api/azure-iot-device/azure.iot.device.iothubdeviceclient
PATIENCE: dict[str, Any] = {} if RESTARTS else {"connection_retry_interval": 1}
KILLS = RESTARTS or 1
BACK_WITHIN = 60.0


class Program:
    """A learner's device program, which connects once and then sends numbered messages, so many at a time.

    What raises is not sent again: the next message has another number.
    """

    def __init__(self, emulator: RunningEmulator, device: Device, at_a_time: int) -> None:
        self.name = device.common_name
        self.acknowledged: list[str] = []
        self.raised: Counter[str] = Counter()
        self.connected: Callable[[], bool] = lambda: False
        self._at_a_time = at_a_time
        self._where = {"x509": credentials(device), "hostname": emulator.host, "device_id": self.name}
        self._numbers = count()
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        wait_for(lambda: self.connected())

    async def _run(self) -> None:
        client = IoTHubDeviceClient.create_from_x509_certificate(**self._where, **PATIENCE)
        await client.connect()
        self.connected = lambda: bool(client.connected)
        while not self._over.is_set():
            await asyncio.gather(*(self._send(client) for _ in range(self._at_a_time)))
            await asyncio.sleep(0.01)
        await client.shutdown()

    async def _send(self, client: IoTHubDeviceClient) -> None:
        body = f"{self.name} {next(self._numbers)}"
        try:
            await client.send_message(Message(body))
            self.acknowledged.append(body)
        except ClientError as error:
            self.raised[type(error).__name__] += 1
            await asyncio.sleep(0.1)

    def is_back(self, since: int) -> bool:
        """Whether it is connected, and a message of every place was acknowledged since."""
        return self.connected() and len(self.acknowledged) >= since + 2 * self._at_a_time

    def end(self) -> None:
        self._over.set()
        self._thread.join(timeout=BACK_WITHIN)
        assert not self._thread.is_alive(), "send_message never ends"


@contextmanager
def programs(emulator: RunningEmulator, folder: Path) -> Iterator[list[Program]]:
    """One that only waits, one that sends, and three that send as much as they can: these are the ones that may hang
    when an emulator goes without a word.
    """
    at_a_time = {"waits": 0, "sends": 1, "floods-1": 100, "floods-2": 100, "floods-3": 100}
    devices = {provisioned(emulator, folder, name): wide for name, wide in at_a_time.items()}
    with trusting(emulator):
        started = [Program(emulator, device, wide) for device, wide in devices.items()]
        yield started
        for program in started:
            program.end()


def _by_command(emulator: RunningEmulator) -> None:
    assert run_command("stop", "--state-dir", str(emulator.state_dir)).returncode == 0
    assert emulator.close() == 0


def _by_signal(emulator: RunningEmulator) -> None:
    emulator.process.send_signal(signal.SIGTERM)
    assert emulator.process.wait(timeout=20) == 0
    emulator.close()


def test_after_every_clean_stop_the_sdk_reconnects_by_itself_and_goes_on_sending(start: Start, tmp_path: Path) -> None:
    emulator = start()
    with programs(emulator, tmp_path) as all_of_them:

        def all_are_back(since: list[int]) -> bool:
            return all(program.is_back(number) for program, number in zip(all_of_them, since, strict=True))

        for number in range(RESTARTS or 2):
            before = [len(program.acknowledged) for program in all_of_them]
            wait_for(partial(all_are_back, before), BACK_WITHIN)
            (_by_command, _by_signal)[number % 2](emulator)
            before, began = [len(program.acknowledged) for program in all_of_them], time.monotonic()
            emulator = start(host=emulator.host)
            wait_for(partial(all_are_back, before), BACK_WITHIN)
            print(f"restart {number + 1}: all are back {time.monotonic() - began:.1f} s after the start began")
    for program in all_of_them:
        stored = bodies(emulator, program.name)
        print(f"{program.name}: acknowledged {len(program.acknowledged)}, stored {len(stored)}, {dict(program.raised)}")
        assert set(program.acknowledged) <= set(stored)
        assert len(program.acknowledged) == len(set(program.acknowledged))


KERNEL = """
import asyncio, json, os, sys
from functools import partial
from itertools import count
from pathlib import Path
from azure.iot.device import X509
from azure.iot.device.aio import IoTHubDeviceClient, ProvisioningDeviceClient
from dpsx_helpers.emulator import Emulator

state, host, name, certificate, key = sys.argv[1:]
x509 = X509(certificate, key)

async def cell(run):
    emulator = Emulator.start(Path(state), host=host, idle_hours=0.2)
    os.environ.update(emulator.environment())
    scope = os.environ["PROVISIONING_IDSCOPE"]
    result = await ProvisioningDeviceClient.create_from_x509_certificate(host, name, scope, x509).register()
    where = result.registration_state
    client = IoTHubDeviceClient.create_from_x509_certificate(
        x509, where.assigned_hub, where.device_id, connection_retry=False
    )
    await client.connect()
    await asyncio.gather(*(client.send_message(f"run {run}, message {number}") for number in range(10)))
    found = [result.status, where.assigned_hub, where.device_id, str(where.created_date_time)]
    print(json.dumps({"pid": emulator.overview.pid, "found": found}), flush=True)
    return client

async def go_on(client):
    for number in count():
        await client.send_message(f"more {number}")

async def kernel():
    left = []  # clients of before, and what they were doing
    for run in count():
        await asyncio.to_thread(sys.stdin.readline)
        client = await cell(run)
        left.append((client, asyncio.gather(go_on(client), return_exceptions=True)))

asyncio.run(kernel())
"""


@contextmanager
def kernel(*arguments: str) -> Iterator[Callable[[], dict[str, Any]]]:
    """A function that runs the cell once more, in the same process, and returns what it prints. A client of the SDK
    that hangs would keep the process, so that it is killed at the end.
    """
    command = [sys.executable, "-c", KERNEL, *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    assert process.stdout is not None
    readable, writable = process.stdout, process.stdin

    def run() -> dict[str, Any]:
        writable.write(b"\n")
        writable.flush()
        return dict(json.loads(readable.readline()))

    try:
        yield run
    finally:
        process.kill()
        process.communicate()


def test_a_learner_whose_emulator_was_killed_runs_the_cells_again_in_the_same_kernel(tmp_path: Path) -> None:
    """A client that was in the middle of sending may hang. A fresh one does not.

    They do not try to come back by themselves here: two of one device would throw each other out.
    """
    emulator = Emulator.start(tmp_path / "state", host=free_host(), idle_hours=0.2)
    device = make_device(tmp_path, "learner")
    enrollment = f"enrollments/{device.common_name}?api-version=2021-10-01"
    control.request(emulator.state_dir, emulator._facts, enrollment, document(device), method="PUT")
    files = (str(device.certificate_file), str(device.key_file))
    try:
        with kernel(str(emulator.state_dir), emulator.overview.host, device.common_name, *files) as run_cell:
            told = [run_cell()]
            for _ in range(KILLS):
                sent = len(emulator.messages())
                wait_for(lambda sent=sent: len(emulator.messages()) > sent + 10)  # the kill hits the middle of it
                os.kill(told[-1]["pid"], signal.SIGKILL)
                wait_for(lambda: not running.is_held(emulator.state_dir))
                told.append(run_cell())
        stored = [message["body"] for message in emulator.messages()]
    finally:
        Emulator.start(emulator.state_dir).stop()
    assert len({each["pid"] for each in told}) == KILLS + 1, "another process each time"
    assert {tuple(each["found"]) for each in told} == {tuple(told[0]["found"])}, "and the same device"
    assert told[0]["found"][0] == "assigned"
    assert {f"run {run}, message {number}" for run in range(KILLS + 1) for number in range(10)} <= set(stored)
