"""Let many devices come and go at one emulator for long, and see that nothing is lost and nothing grows:
`python benchmarks/soak.py [--devices 200] [--minutes 20] [--seed N] [--host 127.50.0.6]`.

A tenth of the devices are Microsoft's own clients, half of those over WebSockets where port 443 can be bound; the
others are plain MQTT connections. Each registers through DPS, then sends numbered messages at QoS 1 at a steady pace,
reports a property, answers methods, takes cloud-to-device messages, and is gone again and again: it leaves in order,
its socket is cut in the middle of sending, it is thrown out by its own second connection, or it registers anew.
Meanwhile the service side lists devices, changes twins, calls methods and sends messages.

Then all leave, and what was recorded is held against what is stored (`soak_verdicts`). The exit status is 0 when every
verdict is good. Ctrl+C ends it early, with a report on what there was until then.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import math
import os
import random
import re
import signal
import socket
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import requests
from azure.iot.device import X509, Message, MethodResponse
from azure.iot.device.aio import IoTHubDeviceClient, ProvisioningDeviceClient
from azure.iot.device.exceptions import ClientError
from azure.iot.deviceprovisioning import DeviceProvisioningClient

from benchmarks import soak_verdicts as verdicts
from benchmarks.light_device import WITHIN, Connection, Gone, NotLetIn
from benchmarks.soak_verdicts import Ledger, Sample, TwinSeen, Verdict
from dpsx_helpers import certificates
from dpsx_helpers.emulator import Emulator, sas
from dpsx_helpers.emulator.store import Store, read_messages
from dpsx_helpers.errors import LearnerError

PASS_PHRASE = "1234"
HUB_API, DPS_API = "2021-04-12", "2019-03-31"
IN_FLIGHT = 3  # messages that are on their way when a socket is cut
LEFT_WAITING = 10  # cloud-to-device messages for devices that have gone
QUIET = 0.5  # seconds in which a message that was sent already reaches its device
SETTLED_WITHIN = 60.0  # seconds
_HUB = "hub-1"  # the only one


@dataclass(frozen=True)
class Plan:
    """What is to be done. Seconds: between two messages of a device, between two reports, the length of a connection
    (half as long to one and a half times as long), between two samples; `per_device` between two things that the
    service side does with one device, of each kind.
    """

    devices: int = 200
    sdk: int = 20
    seconds: float = 1200.0
    seed: int = 0
    pace: float = 2.0
    report: float = 15.0
    connection: float = 60.0
    per_device: float = 60.0
    sample: float = 2.0
    say: float = 60.0


@dataclass
class Soaked:
    """What was recorded. `patched`: how often each device's desired value was set. `queued`: message ID to device,
    `unsure`: those whose sending was not answered.
    """

    plan: Plan
    seconds: float = 0.0
    interrupted: bool = False
    ledgers: list[Ledger] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    before: Sample | None = None
    after: Sample | None = None
    patched: Counter[str] = field(default_factory=Counter)
    queued: dict[str, str] = field(default_factory=dict)
    unsure: set[str] = field(default_factory=set)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong_answers: list[str] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    service_trouble: list[str] = field(default_factory=list)
    log_lines: int = 0
    log_faults: list[str] = field(default_factory=list)
    rotations: int = 0


# --- the emulator, looked at from outside -----------------------------------------------------------------------------


class Observer:
    """Samples of the emulator's process and files, and every line of its log."""

    def __init__(self, emulator: Emulator, soaked: Soaked) -> None:
        self._process = psutil.Process(emulator.overview.pid)
        self._folder, self._soaked = emulator.state_dir, soaked
        self._log = open(emulator.log_file, encoding="utf-8", errors="replace")  # noqa: SIM115 - until `close`
        self._rest = ""
        self._began = time.monotonic()

    def close(self) -> None:
        self._log.close()

    def begin(self) -> None:
        self._began = time.monotonic()

    def sample(self) -> Sample:
        """Raises psutil.NoSuchProcess when the emulator has ended."""
        with self._process.oneshot():
            if self._process.status() == psutil.STATUS_ZOMBIE:
                raise psutil.NoSuchProcess(self._process.pid)
            count = "num_fds" if os.name == "posix" else "num_handles"
            descriptors = int(getattr(self._process, count)())
            return Sample(
                at=time.monotonic() - self._began,
                memory=self._process.memory_info().rss,
                descriptors=descriptors,
                threads=self._process.num_threads(),
                wal=self.wal_left(),
                log=sum(_size(self._folder / name) for name in ("emulator.log", "emulator.log.1")),
            )

    def wal_left(self) -> int:
        return _size(self._folder / "emulator.db-wal")

    def read_log(self) -> None:
        """What has been written since the last look, beyond the moment at which the log was begun anew."""
        self._take(self._log.read())
        with contextlib.suppress(FileNotFoundError):
            path = self._folder / "emulator.log"
            if path.stat().st_ino != os.fstat(self._log.fileno()).st_ino:
                self._take(self._log.read())  # the last lines before the turn
                self._log.close()
                self._log = open(path, encoding="utf-8", errors="replace")  # noqa: SIM115
                self._soaked.rotations += 1
                self._take(self._log.read())

    def _take(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).split("\n")
        self._soaked.log_lines += len(lines)
        self._soaked.log_faults += [line for line in lines if verdicts.unexpected(line)]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


# --- devices ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where the devices go, and when they are to stop. `quiet`: to whom the service side sends nothing just now."""

    host: str
    mqtt_port: int
    id_scope: str
    ca_file: Path
    websockets: bool
    stop: asyncio.Event
    quiet: set[str] = field(default_factory=set)


class Device:
    """What both kinds have in common: a certificate, a ledger, and a life of connections."""

    def __init__(self, name: str, folder: Path, place: Place, plan: Plan) -> None:
        self.ledger = Ledger(name)
        self.connected = False
        self._pair = (folder / certificates.CERTIFICATE_FILE, folder / certificates.KEY_FILE)
        self._place, self._plan = place, plan
        self._random = random.Random(f"{plan.seed} {name}")
        self._context = ssl.create_default_context(cafile=str(place.ca_file))
        self._context.load_cert_chain(*self._pair, password=PASS_PHRASE)
        self._rids = 0
        self._answers: dict[str, asyncio.Future[tuple[int, bytes]]] = {}
        self._newest: Connection | None = None

    @property
    def name(self) -> str:
        return self.ledger.name

    async def live(self) -> None:
        """Until told to stop. What goes wrong is in the ledger's `trouble`, and the device tries again."""
        while not self._place.stop.is_set():
            try:
                await self._life()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is to be reported
                self.connected = False
                cause = f" ({error.__cause__!r})" if error.__cause__ else ""
                self.ledger.trouble.append(f"{type(error).__name__}: {error}{cause}"[:300])
                await self._pause(1)

    async def _life(self) -> None:
        raise NotImplementedError

    async def register(self) -> None:
        """Through DPS, on a plain connection. Raises NotLetIn when it does not end assigned to this device."""
        topic, scope, name = "$dps/registrations", self._place.id_scope, self.name
        user = f"{scope}/registrations/{name}/api-version={DPS_API}"
        connection = await self._open(user)
        try:
            await connection.subscribe(f"{topic}/res/#")
            status, answer = await self._ask(connection, f"{topic}/PUT/iotdps-register/?$rid={{}}", 1)
            operation = json.loads(answer)["operationId"]
            while status == 202:
                polled = f"{topic}/GET/iotdps-get-operationstatus/?$rid={{}}&operationId={operation}"
                status, answer = await self._ask(connection, polled, 1)
            state = json.loads(answer)["registrationState"]
            if (status, state["assignedHub"], state["deviceId"]) != (200, self._place.host, name):
                raise NotLetIn(f"the registration ended with {status} {answer[:200]!r}")
        finally:
            await connection.leave()

    async def _open(self, user_name: str) -> Connection:
        place = self._place
        return await Connection.open(place.host, place.mqtt_port, self._context, self.name, user_name, self._heard)

    async def _to_hub(self) -> Connection:
        """A plain connection to the hub, with CleanSession 0."""
        return await self._open(f"{self._place.host}/{self.name}/?api-version={HUB_API}")

    async def _ask(
        self, connection: Connection, topic: str, quality: int = 0, payload: bytes = b""
    ) -> tuple[int, bytes]:
        """Publish a request ({} stands for its number), and wait for the answer: status and body."""
        self._rids += 1
        rid = str(self._rids)
        future: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._answers[rid] = future
        try:
            connection.publish(topic.format(rid), payload, self._rids % 60_000 + 1 if quality else 0)
            gone = asyncio.ensure_future(connection.gone.wait())
            either: set[asyncio.Future[Any]] = {future, gone}
            done, _ = await asyncio.wait(either, timeout=WITHIN, return_when=asyncio.FIRST_COMPLETED)
            gone.cancel()
            if not done:
                raise TimeoutError(f"no answer to {topic}")
            if future not in done:
                raise Gone
            return future.result()
        finally:
            del self._answers[rid]

    def _heard(self, connection: Connection, topic: str, payload: bytes, again: bool) -> None:
        """What a plain connection gets."""
        try:
            self._take(connection, topic, payload, again)
        except (ValueError, KeyError, TypeError) as error:
            self.ledger.trouble.append(f"{topic[:200]} came with {payload[:200]!r}, which is none ({error})")

    def _take(self, connection: Connection, topic: str, payload: bytes, again: bool) -> None:
        if match := re.fullmatch(r"\$(?:dps/registrations|iothub/twin)/res/(\d+)/\?\$rid=(\d+)(?:&.*)?", topic):
            future = self._answers.get(match[2])
            version = re.search(r"&\$version=(\d+)", topic)
            if future is not None and not future.done():
                future.set_result((int(match[1]), version[1].encode() if version else payload))
            if match[1] == "200" and topic.startswith("$iothub") and connection is self._newest:
                self._told(json.loads(payload)["desired"])
        elif topic.startswith("$iothub/twin/PATCH/properties/desired/"):
            if connection is self._newest:
                self._told(json.loads(payload))
        elif match := re.fullmatch(r"\$iothub/methods/POST/soak/\?\$rid=(.+)", topic):
            with contextlib.suppress(Gone):
                connection.publish(f"$iothub/methods/res/200/?$rid={match[1]}", self._answer(json.loads(payload)))
        elif match := re.match(rf"devices/{self.name}/messages/devicebound/.*?%24\.mid=([^&]+)", topic):
            self.ledger.commands[match[1]] += 1
            self.ledger.unmarked[match[1]] += not again
        else:
            self.ledger.trouble.append(f"{topic[:200]} was not expected")

    def _told(self, desired: dict[str, Any]) -> None:
        self.ledger.desired.append((desired["$version"], desired.get("wanted", 0)))

    def _answer(self, payload: Any) -> bytes:
        return json.dumps([self.name, payload]).encode()

    async def _pause(self, seconds: float) -> None:
        """Until then, or until it is time to stop."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._place.stop.wait(), seconds)

    def _length(self) -> float:
        return self._plan.connection * self._random.uniform(0.5, 1.5)


class Light(Device):
    """A plain connection, which knows exactly how often it has sent what."""

    async def _life(self) -> None:
        stop = self._place.stop
        await self.register()
        connection = await self._connect()
        try:
            while not stop.is_set():
                try:
                    await self._talk(connection)
                    if not stop.is_set():
                        connection = await self._part(connection)
                except Gone:  # not by us: `_part` waits for that itself
                    self.ledger.trouble.append("the connection ended by itself")
                    connection = await self._connect()
            await self._settle(connection)
        finally:
            await connection.leave()
            self.connected = False
        self.ledger.ends["in order"] += 1

    async def _connect(self) -> Connection:
        """Connect, subscribe, and send once more what was never acknowledged: in order, with its old number."""
        connection = await self._to_hub()
        self._newest = connection
        await connection.subscribe(
            f"devices/{self.name}/messages/devicebound/#", "$iothub/twin/res/#", "$iothub/methods/POST/#",
            "$iothub/twin/PATCH/properties/desired/#",
        )  # fmt: skip
        self.connected = True
        ledger = self.ledger
        for number in sorted(set(ledger.tries) - ledger.acknowledged):
            await connection.answered(self._send(connection, number))
        await self._ask(connection, "$iothub/twin/GET/?$rid={}")
        return connection

    def _send(self, connection: Connection, number: int) -> "asyncio.Future[None]":
        ledger = self.ledger
        sent = connection.publish(*self._message(number), again=number in ledger.tries)
        ledger.tries[number] = ledger.tries.get(number, 0) + 1
        sent.add_done_callback(partial(self._sent, number))
        return sent

    def _message(self, number: int) -> tuple[str, bytes, int]:
        """Topic, payload and packet identifier."""
        return f"devices/{self.name}/messages/events/", verdicts.body(self.name, number), number % 60_000 + 1

    def _sent(self, number: int, sent: "asyncio.Future[None]") -> None:
        if not sent.cancelled() and sent.exception() is None:
            self.ledger.acknowledged.add(number)

    async def _talk(self, connection: Connection) -> None:
        """For the length of a connection."""
        loop = asyncio.get_running_loop()
        end, report = loop.time() + self._length(), loop.time() + self._plan.report * self._random.random()
        while not self._place.stop.is_set() and loop.time() < end:
            await connection.answered(self._send(connection, len(self.ledger.tries) + 1))
            if loop.time() >= report:
                report += self._plan.report
                await self._report(connection)
            await self._pause(self._plan.pace * self._random.uniform(0.8, 1.2))

    async def _report(self, connection: Connection) -> None:
        ledger = self.ledger
        ledger.reports += 1
        number, topic = ledger.reports, "$iothub/twin/PATCH/properties/reported/?$rid={}"
        status, version = await self._ask(connection, topic, payload=json.dumps({"count": number}).encode())
        if status != 204:
            raise NotLetIn(f"a report was answered with {status}")
        ledger.confirmed.add(number)
        ledger.versions[number] = int(version)

    async def _part(self, connection: Connection) -> Connection:
        """End the connection in one of four ways, and come back."""
        how = self._random.choice(("in order", "cut", "evicted", "registered anew"))
        if how in ("cut", "evicted"):
            for _ in range(IN_FLIGHT):
                self._send(connection, len(self.ledger.tries) + 1)
            await asyncio.sleep(self._random.choice((0, 0.001, 0.01)))  # until some are stored, or even acknowledged
        self.connected = how == "evicted"
        if how == "evicted":
            following = await self._connect_anew(connection)
        else:
            if how == "cut":
                self._break_off(connection)
                async with asyncio.timeout(WITHIN):
                    await connection.gone.wait()
            else:
                await connection.leave()
            if how == "registered anew":
                await self.register()
            following = await self._connect()
        self.ledger.ends[how] += 1
        return following

    def _break_off(self, connection: Connection) -> None:
        """In the middle of a message, which cannot have arrived."""
        number = len(self.ledger.tries) + 1
        self.ledger.tries[number] = 0
        connection.break_off(*self._message(number))

    async def _connect_anew(self, connection: Connection) -> Connection:
        following = await self._connect()
        async with asyncio.timeout(WITHIN):  # the hub has to end the older one
            await connection.gone.wait()
        return following

    async def _settle(self, connection: Connection) -> None:
        """All that is open gets an answer: messages in flight, and a last look at the twin."""
        ledger = self.ledger
        for number in sorted(set(ledger.tries) - ledger.acknowledged):
            await connection.answered(self._send(connection, number))
        await self._report(connection)
        await self._ask(connection, "$iothub/twin/GET/?$rid={}")


class Sdk(Device):
    """Microsoft's client. When it loses its connection it comes back by itself, and may send twice what was on its way:
    that often a message may be stored.
    """

    def __init__(self, name: str, folder: Path, place: Place, plan: Plan, *, websockets: bool) -> None:
        super().__init__(name, folder, place, plan)
        self._websockets = websockets
        self._disruptions = 0

    async def _life(self) -> None:
        stop = self._place.stop
        await self.register()
        while not stop.is_set():
            client = self._client()
            try:
                await self._persist(partial(asyncio.to_thread, self._listen, client))
                self.connected = True
                self._place.quiet.discard(self.name)
                while not stop.is_set():
                    await self._talk(client)
                    if not stop.is_set() and await self._part(client):
                        break
            finally:
                self.connected = False
                self._place.quiet.add(self.name)  # the client acknowledges what comes now, and tells nobody of it
                await asyncio.sleep(QUIET)
                await self._within(client.shutdown())
        self.ledger.ends["in order"] += 1

    def _listen(self, client: Any) -> None:
        """Set the handlers, which connects and subscribes: the client would drop what comes before there are any."""
        client.on_message_received = self._on_message
        client.on_method_request_received = partial(self._on_method, client)
        client.on_twin_desired_properties_patch_received = self._told

    def _client(self) -> Any:
        identity = X509(str(self._pair[0]), str(self._pair[1]), PASS_PHRASE)  # type: ignore[no-untyped-call]
        return IoTHubDeviceClient.create_from_x509_certificate(
            identity, self._place.host, self.name, websockets=self._websockets, connection_retry_interval=1,
            server_verification_cert=self._place.ca_file.read_text(),
        )  # fmt: skip

    @staticmethod
    async def _within(asked: Coroutine[Any, Any, Any]) -> Any:
        try:
            async with asyncio.timeout(WITHIN):
                return await asked
        except TimeoutError:
            raise TimeoutError(f"{getattr(asked, '__qualname__', asked)} did not end within {WITHIN:g} s") from None

    async def _persist(self, ask: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Ask until it works, as a program has to whose connection may be lost. `ask` is called for each attempt."""
        end = asyncio.get_running_loop().time() + WITHIN
        while True:
            try:
                await self._within(ask())
                return
            except ClientError:
                if asyncio.get_running_loop().time() > end:
                    raise
                await asyncio.sleep(0.2)

    async def _talk(self, client: Any) -> None:
        loop = asyncio.get_running_loop()
        end, report = loop.time() + self._length(), loop.time() + self._plan.report * self._random.random()
        while not self._place.stop.is_set() and loop.time() < end:
            await self._send(client)
            if loop.time() >= report:
                report += self._plan.report
                await self._persist(partial(self._report, client))
            await self._pause(self._plan.pace * self._random.uniform(0.8, 1.2))

    async def _report(self, client: Any) -> None:
        self.ledger.reports += 1
        number = self.ledger.reports
        await client.patch_twin_reported_properties({"count": number})
        self.ledger.confirmed.add(number)

    async def _send(self, client: Any) -> None:
        ledger, before = self.ledger, self._disruptions
        number = len(ledger.tries) + 1
        ledger.tries[number] = 0
        try:
            await self._persist(partial(self._send_once, client, number))
            ledger.acknowledged.add(number)
        finally:
            ledger.tries[number] += self._disruptions - before

    async def _send_once(self, client: Any, number: int) -> None:
        self.ledger.tries[number] += 1
        message = Message(verdicts.body(self.name, number))  # type: ignore[no-untyped-call]
        await client.send_message(message)

    async def _part(self, client: Any) -> bool:
        """Lose the connection in one of four ways; whether another client is to take over."""
        how = self._random.choice(("in order", "cut", "evicted", "registered anew"))
        if how == "in order":
            await self._within(client.disconnect())
            await self._persist(client.connect)
        elif how == "registered anew":
            await self._within(self._register_with_sdk())
        else:
            self._disruptions += 1
            sending = asyncio.ensure_future(self._send(client))
            await asyncio.sleep(self._random.choice((0, 0.001, 0.01)))
            self._disruptions += 1
            if how == "cut":
                _cut(client)
            else:
                second = await self._to_hub()
                await second.leave()
            await sending
        self.ledger.ends[how] += 1
        return how == "registered anew"

    async def _register_with_sdk(self) -> None:
        identity = X509(str(self._pair[0]), str(self._pair[1]), PASS_PHRASE)  # type: ignore[no-untyped-call]
        client = ProvisioningDeviceClient.create_from_x509_certificate(
            self._place.host, self.name, self._place.id_scope, identity, websockets=self._websockets,
            server_verification_cert=self._place.ca_file.read_text(),
        )  # fmt: skip
        state = (await client.register()).registration_state
        if state is None or (state.assigned_hub, state.device_id) != (self._place.host, self.name):
            raise NotLetIn(f"the registration ended as {state}")

    def _on_message(self, message: Any) -> None:
        self.ledger.commands[message.message_id] += 1

    async def _on_method(self, client: Any, request: Any) -> None:
        answer = json.loads(self._answer(request.payload))
        with contextlib.suppress(Exception):  # it may just have lost its connection: then nobody waits for this
            await client.send_method_response(MethodResponse.create_from_method_request(request, 200, answer))


def _cut(client: Any) -> None:
    """Let Microsoft's client, which has no method for that, find its connection closed by the other side.

    Shut for writing too, it might write into it before it reads: a thread of its own dies of that, and it hangs.
    """
    stage = client._mqtt_pipeline._pipeline
    while not hasattr(stage, "transport"):
        stage = stage.next
    found = stage.transport._mqtt_client.socket()
    if found is not None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(getattr(found, "_socket", found), socket.SHUT_RD)


# --- the service side -------------------------------------------------------------------------------------------------


class Service:
    """What an operator does over HTTPS, one thing of each kind after the other."""

    def __init__(
        self, emulator: Emulator, names: list[str], soaked: Soaked, stop: asyncio.Event, quiet: set[str]
    ) -> None:
        self._emulator, self._names, self._soaked, self._stop, self._quiet = emulator, names, soaked, stop, quiet
        self._random = random.Random(f"{soaked.plan.seed} service")
        self._connection = dict(part.split("=", 1) for part in emulator.overview.iothub_connection_string.split(";"))
        self._calls = 0

    async def work(self) -> None:
        each = self._soaked.plan.per_device / len(self._names)
        jobs = ((self._list, 20 * each), (self._patch, each), (self._call, each), (self._command, each))
        await asyncio.gather(*(self._again(job, seconds) for job, seconds in jobs))

    async def _again(self, job: Callable[[requests.Session], None], seconds: float) -> None:
        with requests.Session() as session:
            session.trust_env = False
            session.verify = str(self._emulator.overview.ca_file)
            while not self._stop.is_set():
                try:
                    await asyncio.to_thread(job, session)
                except (requests.RequestException, LearnerError, ValueError, KeyError) as error:
                    self._soaked.service_trouble.append(f"{type(error).__name__}: {error}"[:300])
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), seconds)

    def _ask(self, session: requests.Session, method: str, path: str, document: Any = None) -> requests.Response:
        endpoint = self._connection["HostName"]
        policy, key = self._connection["SharedAccessKeyName"], self._connection["SharedAccessKey"]
        return session.request(
            method,
            f"https://{endpoint}/{path}",
            params={"api-version": HUB_API},
            headers={"Authorization": sas.sign(endpoint, policy, key, int(time.time()) + 300)},
            json=document,
            timeout=WITHIN,
        )

    def _list(self, session: requests.Session) -> None:
        answer = self._ask(session, "GET", "devices")
        answer.raise_for_status()
        missing = set(self._names) - {one["deviceId"] for one in answer.json()}
        if missing:
            raise ValueError(f"{len(missing)} devices are not in the list, {min(missing)} among them")
        self._soaked.asked["lists"] += 1

    def _patch(self, session: requests.Session) -> None:
        name = self._random.choice(self._names)
        value = self._soaked.patched[name] + 1
        answer = self._ask(session, "PATCH", f"twins/{name}", {"properties": {"desired": {"wanted": value}}})
        answer.raise_for_status()
        self._soaked.patched[name] = value

    def _call(self, session: requests.Session) -> None:
        name = self._random.choice(self._names)
        self._calls += 1
        asked = {
            "methodName": "soak", "payload": self._calls, "responseTimeoutInSeconds": 30, "connectTimeoutInSeconds": 5,
        }  # fmt: skip
        answer = self._ask(session, "POST", f"twins/{name}/methods", asked)
        self._soaked.statuses[answer.status_code] += 1
        expected = {"status": 200, "payload": [name, self._calls]}
        if answer.ok and answer.json() != expected:
            self._soaked.wrong_answers.append(f"call {self._calls} of {name} was answered with {answer.text[:100]}")

    def _command(self, _: requests.Session) -> None:
        name = self._random.choice(self._names)
        if name not in self._quiet:
            self.command(name)

    def command(self, name: str) -> None:
        number = f"m{len(self._soaked.queued) + 1}"
        self._soaked.queued[number] = name  # before it is sent: a device may have it before we have the answer
        self._soaked.unsure.add(number)
        self._emulator.send(name, f"cloud-to-device {number}", message_id=number)
        self._soaked.unsure.discard(number)


# --- all together -----------------------------------------------------------------------------------------------------


def soak(plan: Plan, host: str, folder: Path, say: Callable[[str], None] = print) -> tuple[Soaked, list[Verdict]]:
    """Start an emulator, soak it, stop it, and judge. Raises LearnerError when it does not start."""
    names = [f"soak-{number:03}" for number in range(1, plan.devices + 1)]
    for name in names:
        (folder / name).mkdir(mode=0o700)
        certificates.create(name, PASS_PHRASE, folder / name, key_type="ec-p256")
    emulator = Emulator.start(folder / "emulator", host=host)
    soaked = Soaked(plan)
    try:
        _enroll(emulator, folder, names)
        with closing(Observer(emulator, soaked)) as observer:
            asyncio.run(_run(emulator, observer, soaked, folder, names, say))
            emulator.stop()
            observer.read_log()
            left = observer.wal_left()
    finally:
        emulator.stop()
    return soaked, judge(soaked, emulator.state_dir / "emulator.db", left)


def _enroll(emulator: Emulator, folder: Path, names: list[str]) -> None:
    seen = emulator.overview
    with DeviceProvisioningClient.from_connection_string(
        seen.dps_connection_string, connection_verify=str(seen.bundle_file), use_env_settings=False
    ) as client:
        for name in names:
            pem = (folder / name / certificates.CERTIFICATE_FILE).read_text()
            mechanism = {"type": "x509", "x509": {"clientCertificates": {"primary": {"certificate": pem}}}}
            client.enrollment.create_or_update(name, {"registrationId": name, "attestation": mechanism})


async def _run(
    emulator: Emulator, observer: Observer, soaked: Soaked, folder: Path, names: list[str], say: Callable[[str], None]
) -> None:
    plan, seen, enough = soaked.plan, emulator.overview, asyncio.Event()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(2 * plan.sdk + 8))  # nobody waits for a thread
    soaked.before = await _settled(observer, None)
    place = Place(seen.host, seen.mqtt_port, seen.id_scope, seen.ca_file, seen.ws_port == 443, stop)
    devices: list[Device] = [
        Sdk(name, folder / name, place, plan, websockets=place.websockets and number % 2 == 1)
        for number, name in enumerate(names[: plan.sdk])
    ]
    devices += [Light(name, folder / name, place, plan) for name in names[plan.sdk :]]
    soaked.ledgers = [device.ledger for device in devices]
    service = Service(emulator, names, soaked, enough, place.quiet)
    with _interruptible(loop, soaked, enough):
        observer.begin()
        begin = time.monotonic()
        lives = [asyncio.create_task(device.live()) for device in devices]
        await _all_there(devices, enough)
        say(f"{sum(device.connected for device in devices)} devices are connected.")
        working = asyncio.create_task(service.work())
        await _watch(observer, soaked, devices, enough, say)
        await working  # what the service side has begun is done before the devices leave
        stop.set()
        soaked.seconds = time.monotonic() - begin
        await asyncio.gather(*lives)
        soaked.after = await _settled(observer, soaked.before)
        if soaked.after:
            for name in names[:: max(1, len(names) // LEFT_WAITING)]:
                await asyncio.to_thread(service.command, name)


async def _all_there(devices: list[Device], enough: asyncio.Event) -> None:
    """Until each has been connected once: the service side would not find it in the hub before."""
    waiting = set(devices)
    while waiting and not enough.is_set():
        waiting = {device for device in waiting if not device.connected}
        if any(device.ledger.trouble for device in waiting):
            return  # some cannot come: the report will say why
        await asyncio.sleep(0.05)


@contextlib.contextmanager
def _interruptible(loop: asyncio.AbstractEventLoop, soaked: Soaked, enough: asyncio.Event) -> Iterator[None]:
    """The first Ctrl+C ends the soak in order, a second one does what it always does."""

    def end() -> None:
        soaked.interrupted = True
        enough.set()

    def interrupted(number: int, _: object) -> None:
        signal.signal(number, before[signal.Signals(number)])
        loop.call_soon_threadsafe(end)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, interrupted) for number in numbers}
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, before[number])


async def _watch(
    observer: Observer, soaked: Soaked, devices: list[Device], enough: asyncio.Event, say: Callable[[str], None]
) -> None:
    """Take samples until the time is over, or until there is nothing any more to take them of."""
    plan, said = soaked.plan, 0.0
    while not enough.is_set():
        try:
            sample = observer.sample()
        except psutil.NoSuchProcess:
            soaked.service_trouble.append("the emulator's process ended")
            enough.set()
            return
        soaked.samples.append(sample)
        observer.read_log()
        if sample.at - said >= plan.say:
            said = sample.at
            say(_progress(soaked, devices, sample))
        if sample.at >= plan.seconds:
            enough.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(enough.wait(), min(plan.sample, max(0.0, plan.seconds - sample.at)))


def _progress(soaked: Soaked, devices: list[Device], sample: Sample) -> str:
    ledgers = soaked.ledgers
    acknowledged, ends = sum(len(one.acknowledged) for one in ledgers), sum(one.ends.total() for one in ledgers)
    there, trouble = sum(device.connected for device in devices), sum(len(one.trouble) for one in ledgers)
    trouble += len(soaked.service_trouble) + len(soaked.log_faults)
    return (
        f"{sample.at / 60:4.1f} min: {there} connected, {acknowledged:,} messages, {ends:,} connections ended, "
        f"{soaked.statuses[200]:,} methods, memory {sample.memory / 1e6:.1f} MB, {sample.descriptors} descriptors, "
        f"WAL {sample.wal / 1e6:.1f} MB, log {sample.log / 1e6:.1f} MB, {trouble} faults"
    )


async def _settled(observer: Observer, wanted: Sample | None) -> Sample | None:
    """A sample when the process has come to rest: as it was once, or unchanged for a moment. None: it has ended."""
    deadline = time.monotonic() + SETTLED_WITHIN
    try:
        sample = observer.sample()
        while time.monotonic() < deadline:
            last = sample
            await asyncio.sleep(0.5)
            sample = observer.sample()
            compared = wanted or last
            if (sample.descriptors, sample.threads) == (compared.descriptors, compared.threads):
                break
    except psutil.NoSuchProcess:
        return None
    return sample


# --- what came of it --------------------------------------------------------------------------------------------------


def judge(soaked: Soaked, database: Path, wal_left: int) -> list[Verdict]:
    """All verdicts, from what was recorded and from the database of the emulator, which has ended."""
    kept, waiting = _kept(database)
    found = [
        verdicts.messages(soaked.ledgers, ((one.device_id, one.body) for one in read_messages(database))),
        verdicts.commands(soaked.ledgers, soaked.queued, waiting, soaked.unsure),
        verdicts.twins(soaked.ledgers, soaked.patched, kept),
        verdicts.methods(soaked.statuses, soaked.wrong_answers),
        verdicts.service(soaked.asked, soaked.service_trouble),
        verdicts.devices(soaked.ledgers),
        verdicts.memory(soaked.samples),
        verdicts.wal(soaked.samples, wal_left),
        verdicts.log_size(soaked.samples, soaked.rotations),
        verdicts.warnings(soaked.log_lines, soaked.log_faults),
    ]
    if soaked.before and soaked.after:
        found.append(verdicts.remains(soaked.before, soaked.after))
    else:
        found.append(Verdict("descriptors and threads", False, "the emulator had ended before they could be counted"))
    return found


def _kept(database: Path) -> tuple[dict[str, TwinSeen], dict[str, str]]:
    """The twins of all devices by name, and the cloud-to-device messages that wait: message ID to device."""
    with closing(Store(database)) as store:
        rows = store.devices(_HUB)
        names = [device.device_id for device, _ in rows]
        waiting = {one.message_id: name for name in names for one in store.commands(_HUB, name)}
    twins = {
        device.device_id: TwinSeen(
            twin.reported.values.get("count", 0), twin.reported.version,
            twin.desired.values.get("wanted", 0), twin.desired.version,
        )
        for device, twin in rows
    }  # fmt: skip
    return twins, waiting


def report(soaked: Soaked, found: list[Verdict]) -> str:
    plan = soaked.plan
    early = ", interrupted" if soaked.interrupted else ""
    head = (
        f"{plan.devices} devices ({plan.sdk} of them Microsoft's client) for {soaked.seconds / 60:.1f} minutes{early}, "
        f"seed {plan.seed}:"
    )
    return "\n".join([head, *map(str, found)])


def main() -> int:
    parser = argparse.ArgumentParser(description="Let many devices come and go at one emulator for long.")
    parser.add_argument("--devices", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0, help="who does what next hangs on it (0)")
    parser.add_argument("--host", default="127.50.0.6", help="a loopback address (127.50.0.6)")
    options = parser.parse_args()
    if options.devices < 1 or not 0 < options.minutes < math.inf:
        parser.error("give at least one device, and a number of minutes")
    for talkative in ("azure", "asyncio"):  # Microsoft's client tells of every connection that it loses
        logging.getLogger(talkative).setLevel(logging.CRITICAL)
    plan = Plan(options.devices, max(1, options.devices // 10), options.minutes * 60, options.seed)
    try:
        with TemporaryDirectory() as folder:
            soaked, found = soak(plan, options.host, Path(folder), partial(print, flush=True))
    except LearnerError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped before there was anything to report.", file=sys.stderr)
        return 130
    print(report(soaked, found))
    return 1 if any(verdict.good is False for verdict in found) else 0


if __name__ == "__main__":
    sys.exit(main())
