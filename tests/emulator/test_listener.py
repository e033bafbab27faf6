"""What a connection leaves behind in the emulator's memory: nothing, also before the garbage collector comes by."""

import asyncio
import gc
import ssl
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pki import Device, make_device
from wire import HOST, SCOPE, Desk, commands_to, events

from benchmarks.light_device import Connection
from dpsx_helpers.emulator import listener as listener_module
from dpsx_helpers.emulator import tls
from dpsx_helpers.emulator.listener import DeviceProtocol, Listener

NAME = "thermo-01"
HUB_USER, DPS_USER = f"{HOST}/{NAME}/?api-version=2021-04-12", f"{SCOPE}/registrations/{NAME}/api-version=2019-03-31"


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def ignore(*_: Any) -> None:
    return


async def live(listener: Listener, device: Device, user: str, end: str) -> list["weakref.ref[DeviceProtocol]"]:
    """One connection from its beginning to its end, and references to what served it."""
    served: list[weakref.ref[DeviceProtocol]] = []

    def made() -> DeviceProtocol:
        protocol = DeviceProtocol(listener)
        served.append(weakref.ref(protocol))
        return protocol

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(device.certificate_file, device.key_file)
    server = await asyncio.get_running_loop().create_server(made, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    if end == "refused":
        with pytest.raises(Exception, match="CONNECT"):
            await Connection.open(HOST, port, context, "another", user, ignore)
    else:
        connection = await Connection.open(HOST, port, context, NAME, user, ignore)
        if user is HUB_USER:
            await connection.subscribe(commands_to(NAME), "$iothub/twin/res/#")
            await connection.answered(connection.publish(events(NAME), b"x", 1))
        else:
            await connection.subscribe("$dps/registrations/res/#")
        if end == "in order":
            await connection.leave()
        elif end == "cut":
            connection.cut()
        else:
            second = await Connection.open(HOST, port, context, NAME, user, ignore)
            await connection.gone.wait()
            await second.leave()
    while listener.open:
        await asyncio.sleep(0.01)
    server.close()
    await asyncio.sleep(0.01)  # what was called for later has been called
    return served


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(
    ("user", "end"),
    [
        *((HUB_USER, end) for end in ("in order", "cut", "evicted", "refused")),
        *((DPS_USER, end) for end in ("in order", "cut", "refused")),
    ],
)
def test_a_connection_that_has_ended_takes_no_memory(user: str, end: str, desk: Desk, tmp_path: Path) -> None:
    """Ten thousand that wait for the collector would be 300 MB."""
    device = make_device(tmp_path, NAME)
    desk.add(NAME, primary_thumbprint=device.thumbprint)
    files = tls.Files(tmp_path)
    tls.prepare(files, HOST, datetime.now(UTC))
    listener = Listener(desk.services, tls.server_context(files), ignore)
    served = asyncio.run(live(listener, device, user, end))
    assert len(served) == (2 if end == "evicted" else 1)
    assert [one() for one in served] == [None] * len(served)


@pytest.mark.usefixtures("no_collector")
def test_what_asyncio_leaves_of_connections_is_collected_after_some_of_them(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its transports refer to themselves, those of Python 3.11 at least."""
    monkeypatch.setattr(listener_module, "COLLECT_AFTER", 1)
    device = make_device(tmp_path, NAME)
    desk.add(NAME, primary_thumbprint=device.thumbprint)
    files = tls.Files(tmp_path)
    tls.prepare(files, HOST, datetime.now(UTC))
    listener = Listener(desk.services, tls.server_context(files), ignore)
    asyncio.run(live(listener, device, HUB_USER, "in order"))
    left = transports()
    gc.collect()
    assert left == transports()


def test_connections_receive_into_one_buffer(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio would take 32 KB for each piece that comes, however small, and the process would grow among them."""
    buffers: list[memoryview] = []
    get = DeviceProtocol.get_buffer

    def watched(connection: DeviceProtocol, sizehint: int) -> memoryview:
        buffers.append(get(connection, sizehint))
        return buffers[-1]

    monkeypatch.setattr(DeviceProtocol, "get_buffer", watched)
    device = make_device(tmp_path, NAME)
    desk.add(NAME, primary_thumbprint=device.thumbprint)
    files = tls.Files(tmp_path)
    tls.prepare(files, HOST, datetime.now(UTC))
    listener = Listener(desk.services, tls.server_context(files), ignore)
    assert len(asyncio.run(live(listener, device, HUB_USER, "evicted"))) == 2
    assert len(buffers) > 4
    assert {id(one.obj) for one in buffers} == {id(listener.inbox.obj)}


def transports() -> int:
    return sum(type(one).__name__ == "_SelectorSocketTransport" for one in gc.get_objects())
