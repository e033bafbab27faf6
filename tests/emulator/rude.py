"""Clients that stop in the middle, say everything slowly or never read; and the emulators that they come to."""

import asyncio
import os
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pki import Device
from processes import RunningEmulator, unable
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.typing import Subprotocol
from websockets.uri import parse_uri
from wire import Desk

from dpsx_helpers.emulator import tls
from dpsx_helpers.emulator.listener import Listener

PORTS = ("mqtt", "websocket", "https")
PING = b"\x89\x80\0\0\0\0"  # of a WebSocket
WITHIN = 20.0  # seconds: not a measure, but the end of waiting for what never comes


# --- emulators --------------------------------------------------------------------------------------------------------

_IMPATIENT = """
import sys
from pathlib import Path
from dpsx_helpers.emulator import server
from dpsx_helpers.emulator.options import Deadlines, Options

deadlines = Deadlines(connect=1.0, head=1.0, body=1.0, answer=1.0)
server.serve(Options(Path(sys.argv[3]), sys.argv[5], ws_port=0, deadlines=deadlines))
"""
_WITH_FEW_DESCRIPTORS = """
import os, resource, sys
from dpsx_helpers.emulator.__main__ import main

resource.setrlimit(resource.RLIMIT_NOFILE, ({most}, {most}))
lost = [os.dup(0) for _ in range({lost})]
sys.exit(main(sys.argv[1:]))
"""


def impatient() -> list[str]:
    """The program of an emulator that waits for a second where others wait for a minute or two."""
    return [sys.executable, "-c", _IMPATIENT]


def with_descriptors(most: int, *, lost: int = 0) -> list[str]:
    """The program of an emulator that may have so many descriptors, of which so many are already taken by others."""
    return [sys.executable, "-c", _WITH_FEW_DESCRIPTORS.format(most=most, lost=lost)]


def may_open(count: int) -> None:
    """Let this process have so many descriptors, or skip the test."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        if hard != resource.RLIM_INFINITY and hard < count:
            unable(f"this process may have {hard} descriptors, and the test needs {count}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


@asynccontextmanager
async def listening(
    desk: Desk, folder: Path, *, websocket: bool = False, most: int = 100, connect_within: float = 60.0
) -> AsyncIterator[tuple[Listener, tuple[str, int], ssl.SSLContext]]:
    """The device side of a desk at a port in this process: the listener, its address, and what clients trust."""
    files = tls.Files(folder)
    tls.prepare(files, "127.0.0.1", datetime.now(UTC))
    listener = Listener(
        desk.services, tls.server_context(files), lambda: None, connect_within=connect_within, most=most
    )
    sock = socket.create_server(("127.0.0.1", 0))
    door = listener.door(sock, websocket=websocket)
    door.open()
    try:
        yield listener, sock.getsockname(), ssl.create_default_context(cafile=str(files.ca))
    finally:
        await door.close()
        await listener.close()


# --- clients that have not come to TLS --------------------------------------------------------------------------------


def port_of(emulator: RunningEmulator, port: str) -> int:
    overview = emulator.emulator.overview
    found = {"mqtt": overview.mqtt_port, "websocket": overview.ws_port, "https": overview.https_port}[port]
    assert found is not None
    return found


def trusting(emulator: RunningEmulator, device: Device | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(emulator.emulator.overview.ca_file))
    if device:
        context.load_cert_chain(device.certificate_file, device.key_file)
    return context


def client_hello(emulator: RunningEmulator) -> bytes:
    """The first flight of a TLS client."""
    client_in, client_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        trusting(emulator).wrap_bio(client_in, client_out, server_hostname=emulator.host).do_handshake()
    return client_out.read()


#: How far a client comes in its handshake, as a part of its ClientHello.
HALF_OPEN: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda hello: b"",
    "half a ClientHello": lambda hello: hello[: len(hello) // 2],
    "a ClientHello": lambda hello: hello,
}


@contextmanager
def half_open(emulator: RunningEmulator, count: int, *ports: str) -> Iterator[list[socket.socket]]:
    """So many connections to each port, by turns with each of HALF_OPEN."""
    hello, sockets = client_hello(emulator), list[socket.socket]()
    try:
        for number in range(count):
            said = list(HALF_OPEN.values())[number % len(HALF_OPEN)](hello)
            for port in ports:
                sock = socket.create_connection((emulator.host, port_of(emulator, port)), timeout=WITHIN)
                sockets.append(sock)
                try:
                    sock.sendall(said)
                except ConnectionError:  # it had to make room already
                    continue
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def is_closed(sock: socket.socket) -> bool:
    """Whether the other side closes it in time, whatever it says before."""
    sock.settimeout(WITHIN)
    try:
        while sock.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def is_open(sock: socket.socket) -> bool:
    """Whether the other side has not closed it yet. What it has said is lost."""
    sock.setblocking(False)
    try:
        while sock.recv(65536):
            pass
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        return False
    return False


# --- and some that have -----------------------------------------------------------------------------------------------


class Raw:
    """An MQTT stream over TLS, inside a WebSocket where that is the port. It says and reads what it is told to."""

    def __init__(self, emulator: RunningEmulator, port: str, device: Device | None = None) -> None:
        plain = socket.create_connection((emulator.host, port_of(emulator, port)), timeout=WITHIN)
        self.socket = trusting(emulator, device).wrap_socket(plain, server_hostname=emulator.host)
        self._frames: ClientProtocol | None = None
        if port == "websocket":
            uri = parse_uri(f"wss://{emulator.host}/$iothub/websocket")
            self._frames = ClientProtocol(uri, subprotocols=[Subprotocol("mqtt")])
            self._frames.send_request(self._frames.connect())
            self.socket.sendall(b"".join(self._frames.data_to_send()))
            assert self.receive() == b""

    def framed(self, data: bytes) -> bytes:
        """The bytes that say this."""
        if self._frames is None:
            return data
        self._frames.send_binary(data)
        return b"".join(self._frames.data_to_send())

    def say(self, data: bytes) -> None:
        self.socket.sendall(self.framed(data))

    def receive(self) -> bytes:
        """MQTT bytes that have come, when there are any."""
        data = self.socket.recv(65536)
        if self._frames is None:
            return data
        self._frames.receive_data(data)
        return b"".join(one.data for one in self._frames.events_received() if isinstance(one, Frame))

    def ask(self, data: bytes, *, size: int) -> bytes:
        """Say this, and read the answer, which has so many bytes."""
        self.say(data)
        answer = b""
        while len(answer) < size:
            answer += self.receive()
        return answer

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def framed(data: bytes) -> bytes:
    """A frame of a WebSocket from a client."""
    return Frame(Opcode.BINARY, data).serialize(mask=True)


def upgraded(data: bytes) -> bytes:
    """A request for a WebSocket, and MQTT in its first frame."""
    frames = ClientProtocol(parse_uri("wss://127.0.0.1/$iothub/websocket"), subprotocols=[Subprotocol("mqtt")])
    frames.send_request(frames.connect())
    return b"".join(frames.data_to_send()) + framed(data)


async def connection(
    address: tuple[str, int], context: ssl.SSLContext, device: Device
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A device's connection over TLS that reads 64 KiB and no more until somebody wants to, nor does the system."""
    context.load_cert_chain(device.certificate_file, device.key_file)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, address)
    return await asyncio.open_connection(sock=sock, ssl=context, server_hostname=address[0], limit=32 << 10)


def prepared(state_dir: Path, device: Device, count: int) -> list[str]:
    """Devices in the hub of an emulator that has yet to start, all with the same certificate; their IDs."""
    state_dir.mkdir(mode=0o700, parents=True)
    desk = Desk(state_dir)
    names = [f"{device.common_name}-{number}" for number in range(count)]
    for name in names:
        desk.add(name, primary_thumbprint=device.thumbprint)
    desk.store.close()
    os.chmod(state_dir / "emulator.db", 0o600)
    return names
