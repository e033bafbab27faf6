"""A launch on more than this kernel: Dask's workers, on this machine or wherever a scheduler has them.

https://distributed.dask.org/
"""

import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

from dpsx_helpers.display import View
from dpsx_helpers.fleet import delivery, extra
from dpsx_helpers.fleet.bar import Bar
from dpsx_helpers.fleet.delivery import Device
from dpsx_helpers.fleet.launching import Launch, Provision, Registration, conclude, names_of, one_root
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop

SCHEDULER = "DASK_SCHEDULER_ADDRESS"
#: What travels to a worker: devices in; of each its name, when it began and ended, and why it was not assigned.
Task = Callable[[Any], Awaitable[list[tuple[str, float, float, str | None]]]]
_WORKERS = 2
_MOST_THREADS = 200  # of one worker, which so has as many devices in hand
_REACHED_IN = 5  # seconds
#: What the device's program reads. The pass phrase is among it.
_SETTINGS = ("PROVISIONING_HOST", "PROVISIONING_IDSCOPE", "PASS_PHRASE", "DPSX_TRANSPORT", "SSL_CERT_FILE", "NO_PROXY")


def launch_on_workers(
    target: Target,
    provision: Provision,
    devices: Sequence[Device],
    *,
    scheduler: str | None = None,
    kill_one: bool = False,
) -> Launch | View:
    """Switch on all these devices at once, on Dask's workers: those of the `scheduler` (an address, else the
    environment variable DASK_SCHEDULER_ADDRESS), or two processes on this machine.

    `kill_one`: when half of the devices have their hub, one of the two processes is killed; so that there is a half,
    each has only half of its devices in hand at a time. `provision` and the devices travel to the workers, with the
    variables that the program reads. Without Dask, what to do about it.
    """
    absent = extra.missing("distributed", "A launch on workers")
    if absent is not None:
        return absent
    address = scheduler or os.environ.get(SCHEDULER) or None
    if address and kill_one:
        raise Stop(
            f"The workers of {address} are not this notebook's to kill: leave out kill_one, and kill one yourself."
        )
    names = names_of(devices)
    delivery.forget(target, names)
    with one_root(target), _client(address, len(names) // 2 if kill_one else len(names)) as (client, cluster):
        bar = Bar(len(names))
        count = len(client.nthreads())
        client.run(_made_ready())
        at = time.time()
        work = _Work(client, cluster, bar, at, _kill if kill_one else None)
        task = _task(provision, {name: os.environ[name] for name in _SETTINGS if name in os.environ})
        registrations = work.run(task, devices)
    return conclude(target, registrations, at, bar, count, work.held)


class _Work:
    """The devices on their way. `kill` is called once, when half of them are done."""

    def __init__(self, client: Any, cluster: Any, bar: Bar, at: float, kill: Callable[[Any, Any], int] | None) -> None:
        self._client, self._cluster, self._bar, self._at, self._kill = client, cluster, bar, at, kill
        self.held: int | None = None

    def run(self, task: Task, devices: Sequence[Device]) -> list[Registration]:
        """Each device's outcome, in the order of the devices.

        A task is one device on the local cluster. Workers of a scheduler have a few threads, as a rule, and Dask gives
        each so many tasks at a time: there a task is as many devices as it takes to have all under way at once.
        """
        distributed = extra.load("distributed")
        threads = sum(self._client.nthreads().values())
        size = 1 if self._cluster is not None else -(-len(devices) // threads)
        parts = [devices[start : start + size] for start in range(0, len(devices), size)]
        keys = [f"{part[0].registration_id}-{self._at:.6f}" for part in parts]
        goods = [[_goods(device) for device in part] for part in parts]
        part_of = dict(zip(keys, parts, strict=True))
        done: dict[str, Registration] = {}
        futures = self._client.map(task, goods, key=keys, pure=False)
        for future, outcome in distributed.as_completed(futures, with_results=True, raise_errors=False):
            for registration in self._registrations(part_of[future.key], outcome):
                done[registration.device] = registration
                self._bar.advance(assigned=registration.error is None)
            if self._kill is not None and self.held is None and len(done) >= len(devices) / 2:
                self.held = self._kill(self._client, self._cluster)
        return [done[device.registration_id] for device in devices]

    def _registrations(self, part: Sequence[Device], outcome: Any) -> list[Registration]:
        """What a worker has told. The moments are of this machine's clock, the durations of the worker's."""
        now = time.time() - self._at
        if not isinstance(outcome, list):  # Dask's own account of a task that failed: (type, exception, traceback)
            error = f"the task was lost: {_lost(outcome)}"
            return [Registration(device.registration_id, 0.0, now, error=error) for device in part]
        last = max(ended for _, _, ended, _ in outcome)
        return [
            Registration(name, max(0.0, now - (last - begun)), now - (last - ended), error=error)
            for name, begun, ended, error in outcome
        ]


def _lost(outcome: Any) -> str:
    error = outcome[1] if isinstance(outcome, tuple) and len(outcome) > 1 else outcome
    return f"{type(error).__name__}: {str(error)[:200]}"


def _goods(device: Device) -> SimpleNamespace:
    """The device as it travels: with its certificate and its encrypted key, for a worker that has not those files."""
    return SimpleNamespace(
        **vars(device),
        certificate_pem=Path(device.certificate_file).read_bytes(),
        key_pem=Path(device.key_file).read_bytes(),
    )


def _task(provision: Provision, settings: Mapping[str, str]) -> Task:
    """What a worker does for some devices, in its event loop: (name, begun, ended, why it was not assigned) of each.

    It travels by value, so that a worker needs the device SDK and nothing of this tutorial. The settings are inside
    it, not among its arguments: those Dask may write into its log.
    """
    known = dict(settings)

    async def register(devices: Any) -> list[tuple[str, float, float, str | None]]:
        import asyncio
        import os
        import pathlib
        import tempfile
        import time

        for name, value in known.items():
            if name != "SSL_CERT_FILE" or pathlib.Path(value).exists():
                os.environ[name] = value

        async def one(device: Any) -> tuple[str, float, float, str | None]:
            begun = time.time()
            try:
                status = getattr(await provision(device), "status", None)
                error = None if status == "assigned" else f"register() returned {str(status)[:80]}"
            except Exception as raised:  # noqa: BLE001 - it belongs to this device alone
                error, cause = f"{type(raised).__name__}: {raised}", raised.__cause__
                while cause is not None:
                    error, cause = f"{error} <- {type(cause).__name__}: {cause}", cause.__cause__
            return device.registration_id, begun, time.time(), error

        with tempfile.TemporaryDirectory() as folder:
            for device in devices:
                if not pathlib.Path(device.key_file).exists():
                    here = pathlib.Path(folder) / device.registration_id
                    device.certificate_file, device.key_file = f"{here}.pem", f"{here}.key.pem"
                    pathlib.Path(device.certificate_file).write_bytes(device.certificate_pem)
                    pathlib.Path(device.key_file).write_bytes(device.key_pem)
            return list(await asyncio.gather(*(one(device) for device in devices)))

    return register


def _made_ready() -> Callable[[], None]:
    """Each worker loads the device SDK before the clock starts: a device in the field has it loaded, too."""

    def load() -> None:
        import azure.iot.device.aio  # noqa: F401

    return load


@contextmanager
def _client(address: str | None, at_once: int) -> Iterator[tuple[Any, Any]]:
    """A client of Dask, and the local cluster when it has one of its own, with so many devices at once."""
    distributed = extra.load("distributed")
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        if address:
            try:
                client = stack.enter_context(distributed.Client(address, timeout=_REACHED_IN))
            except (OSError, TimeoutError, ValueError):
                raise Stop(
                    f"No Dask scheduler answers at {address}: start one with `dask scheduler`, or leave {SCHEDULER} "
                    "unset for two processes on this machine."
                ) from None
            if not client.nthreads():
                raise Stop(f"The scheduler at {address} has no workers: start some with `dask worker {address}`.")
            yield client, None
            return
        # Its dashboard on any free port: the usual one may be taken, which Dask would tell in a warning. Its own
        # connections with certificates made for this launch: who may connect runs code as this user, and loopback is
        # everybody's on a shared machine (https://distributed.dask.org/en/stable/tls.html).
        cluster = stack.enter_context(
            distributed.LocalCluster(
                n_workers=_WORKERS,
                threads_per_worker=max(1, min(_MOST_THREADS, -(-at_once // _WORKERS))),
                processes=True,
                security=True,
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            )
        )
        yield stack.enter_context(distributed.Client(cluster)), cluster


@contextmanager
def _quiet() -> Iterator[None]:
    """What Dask complains of when a worker is killed is what this notebook is about; the table tells it better."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _kill(client: Any, cluster: Any) -> int:
    """Kill (SIGKILL) the worker that has most devices in hand; how many those are."""
    busy = {address: len(keys) for address, keys in client.processing().items()}
    victim = max(cluster.workers.values(), key=lambda nanny: busy.get(nanny.worker_address, 0))
    with suppress(psutil.NoSuchProcess):
        psutil.Process(victim.pid).kill()
    return busy.get(victim.worker_address, 0)
