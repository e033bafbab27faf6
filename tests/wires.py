"""Stand-ins on loopback for what lies between a machine and Azure: a TLS server, and a proxy. Each serves in threads of
this process, and ends with its `with`.
"""

import select
import socket
import ssl
import threading
from base64 import b64decode
from contextlib import ExitStack, suppress
from datetime import datetime
from email.utils import format_datetime
from typing import Any

from pki import Device

_WITHIN = 10.0


class _Server:
    """Listens on `host` (any port), and calls `serve` for each connection."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._listener = socket.create_server((host, 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = [self._listener]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Any:
        self._threads[0].start()
        return self

    def __exit__(self, *reason: object) -> None:
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(_WITHIN)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(_WITHIN)
            self._open.append(connection)
            thread = threading.Thread(target=self._served, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _served(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            self.serve(connection)

    def serve(self, connection: socket.socket) -> None:
        raise NotImplementedError


class TlsServer(_Server):
    """A web server with this certificate, whose clock says `now` (None: it does not tell). It answers every request
    with 404, as an endpoint that is asked for / does.
    """

    def __init__(self, host: str, certificate: Device, now: datetime | None = None) -> None:
        super().__init__(host)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate.certificate_file, certificate.key_file)
        self._date = f"Date: {format_datetime(now, usegmt=True)}\r\n" if now else ""
        self.requests: list[str] = []

    def serve(self, connection: socket.socket) -> None:
        with self._context.wrap_socket(connection, server_side=True) as tls:
            asked = tls.recv(4096).decode("latin-1")
            if asked:
                self.requests.append(asked.splitlines()[0])
                tls.sendall(f"HTTP/1.1 404 Not Found\r\n{self._date}Content-Length: 0\r\n\r\n".encode())


class Silent(_Server):
    """Takes connections and says nothing."""

    def serve(self, connection: socket.socket) -> None:
        connection.recv(65_536)
        threading.Event().wait(0.01)
        connection.recv(65_536)


class Slammed(_Server):
    """Closes each connection once something is said, as a firewall does that looks inside."""

    def serve(self, connection: socket.socket) -> None:
        connection.recv(1)


class ConnectProxy(_Server):
    """An HTTP proxy that makes tunnels (CONNECT, RFC 9110). `targets`: where to; `login`: what it insists on, as
    "user:password"; `bytes_passed`: through all tunnels, both ways.
    """

    def __init__(self, host: str, login: str | None = None) -> None:
        super().__init__(host)
        self._login = login
        self.targets: list[str] = []
        self.bytes_passed = 0

    def serve(self, connection: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            if not (more := connection.recv(1)):
                return
            head += more
        first, *lines = head.decode("latin-1").splitlines()
        method, target, _ = first.split()
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        given = b64decode(headers.get("proxy-authorization", "x").partition(" ")[2]).decode()
        if method != "CONNECT" or (self._login is not None and given != self._login):
            connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        self.targets.append(target)
        host, _, port = target.rpartition(":")
        with ExitStack() as stack:
            try:
                other = stack.enter_context(socket.create_connection((host, int(port)), timeout=_WITHIN))
            except OSError:
                connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                return
            self._open.append(other)
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            self._tunnel(connection, other)

    def _tunnel(self, one: socket.socket, other: socket.socket) -> None:
        while True:
            ready, _, _ = select.select([one, other], [], [], 60)
            if not ready:
                return
            for source in ready:
                if not (piece := source.recv(65_536)):
                    return
                (other if source is one else one).sendall(piece)
                self.bytes_passed += len(piece)
