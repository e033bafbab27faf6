"""Many devices of Microsoft's unmodified client that register at once, in this one process, as in notebook 10.

`python -m benchmarks.sdk_fleet` reads what `Task` holds from standard input as JSON, and prints an `Outcome` as JSON.
Imports, and the loading of modules, are over before the clock begins.
"""

import asyncio
import json
import logging
import sys
import time
from dataclasses import asdict, dataclass

from azure.iot.device import X509
from azure.iot.device.aio import ProvisioningDeviceClient


@dataclass(frozen=True)
class Task:
    """Where to register, and who: (name, certificate file, key file)."""

    host: str
    id_scope: str
    devices: list[tuple[str, str, str]]


@dataclass(frozen=True)
class Outcome:
    """Seconds from the first beginning to the last assignment, processor time meanwhile, and what went wrong."""

    seconds: float
    cpu: float
    failed: list[str]


async def provision(task: Task) -> Outcome:
    """All of them at once."""
    began, used = time.perf_counter(), time.process_time()
    ended = await asyncio.gather(*(_one(task, *device) for device in task.devices), return_exceptions=True)
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    return Outcome(seconds, cpu, [repr(one) for one in ended if one != "assigned"])


async def _one(task: Task, name: str, certificate_file: str, key_file: str) -> str:
    identity = X509(certificate_file, key_file)  # type: ignore[no-untyped-call]
    client = ProvisioningDeviceClient.create_from_x509_certificate(task.host, name, task.id_scope, identity)
    return str((await client.register()).status)


def main() -> None:
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    print(json.dumps(asdict(asyncio.run(provision(Task(**json.load(sys.stdin)))))))


if __name__ == "__main__":
    main()
