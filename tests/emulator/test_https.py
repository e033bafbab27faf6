"""How the HTTPS port of the service side reads."""

import asyncio
import http.client
import socket
import ssl
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dpsx_helpers.emulator import dps, https, service_api, tls
from dpsx_helpers.emulator.data_plane import Access, Control
from dpsx_helpers.emulator.options import Deadlines
from dpsx_helpers.emulator.services import Services
from dpsx_helpers.emulator.store import Store


def test_a_request_is_read_in_small_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tornado takes memory for as many bytes as it may read at once, each time: 64 KB by itself."""
    room: list[int] = []
    read = https._Stream.read_from_fd

    def watched(stream: https._Stream, buffer: bytearray | memoryview) -> int | None:
        room.append(len(buffer))
        return read(stream, buffer)

    monkeypatch.setattr(https._Stream, "read_from_fd", watched)
    files = tls.Files(tmp_path)
    tls.prepare(files, "127.0.0.1", datetime.now(UTC))
    context = ssl.create_default_context(cafile=str(files.ca))

    def ask(port: int) -> int:
        with closing(http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=60)) as connection:
            connection.request("PUT", "/devices/x?api-version=2021-04-12", bytes(50_000))
            return connection.getresponse().status

    async def serve(store: Store) -> int:
        sock, clients = socket.create_server(("127.0.0.1", 0)), https.Clients()
        services = Services(store, dps.Service("0ne00111111", {}))
        access = Access(frozenset({"127.0.0.1"}), {}, {}, "t0ken")
        application = service_api.application(services, access, Control(lambda: None, lambda: None, clients.busy))
        door = clients.door(sock, https.server_of(application, Deadlines()), https.server_context(files))
        door.open()
        status = await asyncio.to_thread(ask, sock.getsockname()[1])
        await door.close()
        return status

    with closing(Store(tmp_path / "emulator.db")) as store:
        assert asyncio.run(serve(store)) == 401
    assert len(room) > 50_000 / https.READ_AT_ONCE
    assert max(room) <= https.READ_AT_ONCE
