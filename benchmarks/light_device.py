"""A device's connection over plain MQTT 3.1.1, for benchmarks: hundreds of them fit into one event loop.

Unlike the connection of an SDK it does nothing by itself: it neither connects again nor sends anything twice, so that
whoever uses it knows how often each byte went out. Packets are put together after
https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/mqtt-v3.1.1.html; nothing here is of the emulator's own codec.
"""

import asyncio
import json
import ssl
from collections.abc import Callable
from itertools import count
from pathlib import Path

from benchmarks.setting import Device

WITHIN = 60.0  # seconds in which every answer has to come; the machine may be busy
_CONNACK, _PUBLISH, _PUBACK, _SUBACK, _PINGRESP = 0x20, 0x30, 0x40, 0x90, 0xD0
_SUBSCRIPTION = 65_535  # the packet identifier of every SUBSCRIBE, which no PUBLISH may have

Heard = Callable[["Connection", str, bytes, bool], None]  # topic, payload, whether it is marked as sent before


class Gone(RuntimeError):
    """The connection has ended."""


class NotLetIn(RuntimeError):
    """The server refused the CONNECT or a SUBSCRIBE."""


class Connection:
    """One connection that was let in. `gone` is set when it has ended.

    What the server publishes goes to `heard`, and is acknowledged when that has returned.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: Heard) -> None:
        self._reader, self._writer, self._heard = reader, writer, heard
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self.gone = asyncio.Event()

    @classmethod
    async def open(
        cls, host: str, port: int, context: ssl.SSLContext, client_id: str, user_name: str, heard: Heard
    ) -> "Connection":
        """Connect, with CleanSession 0. Raises NotLetIn, OSError, TimeoutError."""
        async with asyncio.timeout(WITHIN):
            made = cls(*await asyncio.open_connection(host, port, ssl=context, server_hostname=host), heard)
            try:
                level, flags, keep_alive = b"\x04", b"\x80", (240).to_bytes(2)
                fields = _text("MQTT") + level + flags + keep_alive + _text(client_id) + _text(user_name)
                made._writer.write(_packet(0x10, fields))
                first, body = await made._next()
                if (first, body[1:]) != (_CONNACK, b"\0"):
                    raise NotLetIn(f"the CONNECT of {client_id} was answered with {first:02x} {body.hex()}")
            except BaseException as error:
                made.cut()
                if isinstance(error, asyncio.IncompleteReadError):
                    raise NotLetIn(f"the CONNECT of {client_id} was not answered") from None
                raise
        made._reading = asyncio.create_task(made._read())
        return made

    async def subscribe(self, *filters: str) -> None:
        """Raises Gone, NotLetIn or TimeoutError."""
        body = _SUBSCRIPTION.to_bytes(2) + b"".join(_text(topic) + b"\x01" for topic in filters)
        await self.answered(self._send(_packet(0x82, body), _SUBSCRIPTION))

    def publish(self, topic: str, payload: bytes, number: int = 0, *, again: bool = False) -> asyncio.Future[None]:
        """Send at QoS 1 under this packet identifier, or at QoS 0 (0). Raises Gone when that is impossible already.

        The future is done when the PUBACK has come (at QoS 0: now), and fails with Gone when the connection ends first.
        """
        return self._send(_publish(topic, payload, number, again=again), number)

    def ping(self) -> None:
        """Send a PINGREQ; its answer is not waited for. Raises Gone."""
        self._send(b"\xc0\x00")

    def break_off(self, topic: str, payload: bytes, number: int) -> None:
        """Send half of a message, and reset the connection."""
        packet = _publish(topic, payload, number)
        self._send(packet[: len(packet) // 2])
        self.cut()

    @staticmethod
    async def answered(future: asyncio.Future[None]) -> None:
        """Wait for an answer. Raises Gone, or TimeoutError when none comes in time."""
        async with asyncio.timeout(WITHIN):
            await future

    def cut(self) -> None:
        """Reset the connection, without a word."""
        self._writer.transport.abort()

    async def leave(self) -> None:
        """Say DISCONNECT, and wait until the server has closed the connection. Raises TimeoutError."""
        if not self.gone.is_set():
            self._writer.write(b"\xe0\x00")
        async with asyncio.timeout(WITHIN):
            await self.gone.wait()

    def _send(self, packet: bytes, number: int = 0) -> asyncio.Future[None]:
        if self.gone.is_set() or self._writer.is_closing():
            raise Gone
        future = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())  # who waits for it may have left
        self._writer.write(packet)
        if number:
            self._waiting[number] = future
        else:
            future.set_result(None)
        return future

    async def _next(self) -> tuple[int, bytes]:
        """The first byte of the next packet, and its body."""
        first, length, shift = (await self._reader.readexactly(1))[0], 0, 0
        while True:
            digit = (await self._reader.readexactly(1))[0]
            length |= (digit & 0x7F) << shift
            shift += 7
            if not digit & 0x80:
                return first, await self._reader.readexactly(length)

    async def _read(self) -> None:
        try:
            while True:
                self._take(*await self._next())
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self.gone.set()
            self._writer.transport.abort()
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(Gone())

    def _take(self, first: int, body: bytes) -> None:
        if first & 0xF0 == _PUBLISH:
            end = 2 + int.from_bytes(body[:2])
            quality = first >> 1 & 3
            self._heard(self, body[2:end].decode(), body[end + 2 * bool(quality) :], bool(first & 8))
            if quality and not self._writer.is_closing():
                self._writer.write(_packet(_PUBACK, body[end : end + 2]))
            return
        future = self._waiting.pop(int.from_bytes(body[:2]), None) if first in (_PUBACK, _SUBACK) else None
        if future is None or future.done():
            return
        if first == _SUBACK and any(code > 1 for code in body[2:]):
            future.set_exception(NotLetIn(f"SUBACK {body[2:].hex()}"))
        else:
            future.set_result(None)


def context(device: Device, ca: Path) -> ssl.SSLContext:
    """Trusts this CA alone, and shows the device's certificate. Costs more than a connection: make it beforehand."""
    made = ssl.create_default_context(cafile=str(ca))
    made.load_cert_chain(device.certificate_file, device.key_file)
    return made


async def register(
    host: str, port: int, context: ssl.SSLContext, id_scope: str, name: str, *, wait: float = 0.0
) -> Connection:
    """Register with DPS as Microsoft's client does, waiting so many seconds before each poll, until the device is
    assigned. The connection is still open. Raises NotLetIn when it is not, and as `Connection.open` does.

    https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-dps
    """
    answers: asyncio.Queue[tuple[str, dict[str, str]]] = asyncio.Queue()

    def heard(_: Connection, topic: str, payload: bytes, again: bool) -> None:
        answers.put_nowait((topic.split("/")[3], json.loads(payload)))

    user_name = f"{id_scope}/registrations/{name}/api-version=2019-03-31"
    connection = await Connection.open(host, port, context, name, user_name, heard)
    try:
        await connection.subscribe("$dps/registrations/res/#")
        connection.publish("$dps/registrations/PUT/iotdps-register/?$rid=1", b"", 1)
        for number in count(2):
            async with asyncio.timeout(WITHIN):
                status, answer = await answers.get()
            if status == "200" and answer["status"] == "assigned":
                return connection
            if status != "202":
                raise NotLetIn(f"{name}: {status} {answer}")
            await asyncio.sleep(wait)
            query = f"$rid={number}&operationId={answer['operationId']}"
            connection.publish(f"$dps/registrations/GET/iotdps-get-operationstatus/?{query}", b" ", number)
    except BaseException:
        connection.cut()
        raise
    raise AssertionError("there is no last number")


def _text(value: str) -> bytes:
    return len(value.encode()).to_bytes(2) + value.encode()


def _publish(topic: str, payload: bytes, number: int, *, again: bool = False) -> bytes:
    first = _PUBLISH | (0x02 if number else 0) | (0x08 if again else 0)
    return _packet(first, _text(topic) + (number.to_bytes(2) if number else b"") + payload)


def _packet(first: int, body: bytes) -> bytes:
    length, size = bytearray(), len(body)
    while True:
        size, digit = divmod(size, 128)
        length.append(digit | (0x80 if size else 0))
        if not size:
            return bytes([first]) + bytes(length) + body
