"""A device that costs little: MQTT 3.1.1 over TLS on asyncio's streams, just enough of it to register with DPS.

On the wire it does what Microsoft's client does, the two seconds of waiting too, but without threads of its own: with a
thousand of those in one process, they would be measured and not the emulator.

https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-dps,
https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/mqtt-v3.1.1.html
"""

import asyncio
import json
import re
import ssl
from asyncio import StreamReader, StreamWriter
from dataclasses import dataclass

from benchmarks.setting import FLOOR, Device
from dpsx_helpers.emulator import Overview

_KEEP_ALIVE = 60  # seconds
_CONNACK, _PUBLISH, _PUBACK, _SUBACK = 0x20, 0x30, 0x40, 0x90


class Refused(RuntimeError):
    """The service has answered something else than a device hopes for."""


@dataclass(frozen=True)
class Line:
    """A connection that stands."""

    reader: StreamReader
    writer: StreamWriter

    def close(self) -> None:
        self.writer.transport.abort()


def context(device: Device, ca_file: str) -> ssl.SSLContext:
    """Trusts this CA alone, and shows the device's certificate. Costs more than a connection: make it beforehand."""
    made = ssl.create_default_context(cafile=ca_file)
    made.load_cert_chain(device.certificate_file, device.key_file)
    return made


async def register(seen: Overview, name: str, tls: ssl.SSLContext) -> Line:
    """Connect to DPS, register, wait as the SDK waits, and ask once. The connection, still open. Raises Refused."""
    line = await connect(
        seen.host, seen.mqtt_port, tls, name, f"{seen.id_scope}/registrations/{name}/api-version=2019-03-31"
    )
    try:
        line.writer.write(_packet(0x82, b"\0\1" + _text("$dps/registrations/res/#") + b"\1"))
        await _expect(line, _SUBACK)
        status, answer = await _ask(line, 2, "PUT/iotdps-register/?$rid=1", b"")
        if status != 202:
            raise Refused(f"{name}: {status} {answer}")
        await asyncio.sleep(FLOOR)
        operation = answer["operationId"]
        status, answer = await _ask(line, 3, f"GET/iotdps-get-operationstatus/?$rid=2&operationId={operation}", b" ")
        if status != 200 or answer["status"] != "assigned":
            raise Refused(f"{name}: {status} {answer}")
    except BaseException:
        line.close()
        raise
    return line


async def connect(host: str, port: int, tls: ssl.SSLContext, client_id: str, user_name: str) -> Line:
    """TLS, CONNECT and CONNACK, to DPS, to a hub or to any other server. Raises Refused."""
    line = Line(*await asyncio.open_connection(host, port, ssl=tls))
    head = b"\0\4MQTT\4\x82" + _KEEP_ALIVE.to_bytes(2)
    line.writer.write(_packet(0x10, head + _text(client_id) + _text(user_name)))
    answer = await _expect(line, _CONNACK)
    if answer[1]:
        line.close()
        raise Refused(f"{client_id}: CONNACK {answer[1]}")
    return line


async def _ask(line: Line, number: int, what: str, payload: bytes) -> tuple[int, dict[str, str]]:
    """Publish at QoS 1 and wait for the acknowledgement and the answer: its status and document."""
    line.writer.write(_packet(0x32, _text(f"$dps/registrations/{what}") + number.to_bytes(2) + payload))
    answer: tuple[int, dict[str, str]] | None = None
    acknowledged = False
    while answer is None or not acknowledged:
        first, body = await _read(line)
        if first & 0xF0 == _PUBACK:
            acknowledged = True
        elif first & 0xF0 == _PUBLISH:
            answer = _answer(line, first, body)
    return answer


def _answer(line: Line, first: int, body: bytes) -> tuple[int, dict[str, str]]:
    end = 2 + int.from_bytes(body[:2])
    if first & 0x06:  # QoS 1
        line.writer.write(_packet(_PUBACK, body[end : end + 2]))
    found = re.match(rb"\$dps/registrations/res/(\d+)/", body[2:end])
    if found is None:
        raise Refused(f"a message on {body[2:end]!r}")
    return int(found[1]), json.loads(body[end + 2 if first & 0x06 else end :])


async def _expect(line: Line, kind: int) -> bytes:
    first, body = await _read(line)
    if first & 0xF0 != kind:
        raise Refused(f"packet {first:#x} instead of {kind:#x}")
    return body


async def _read(line: Line) -> tuple[int, bytes]:
    """The first octet of the next packet, and what follows its length."""
    first, length, shift = (await line.reader.readexactly(1))[0], 0, 0
    while True:
        (octet,) = await line.reader.readexactly(1)
        length |= (octet & 0x7F) << shift
        shift += 7
        if not octet & 0x80:
            return first, await line.reader.readexactly(length)


def _packet(first: int, body: bytes) -> bytes:
    length, size = bytearray(), len(body)
    while True:
        size, digit = divmod(size, 128)
        length.append(digit | (0x80 if size else 0))
        if not size:
            return bytes([first, *length]) + body


def _text(value: str) -> bytes:
    return len(value.encode()).to_bytes(2) + value.encode()
