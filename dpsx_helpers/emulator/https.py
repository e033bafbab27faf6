"""The HTTPS port of the service side: a limited number of connections, and a time for each thing that a client does.

tornado closes who does not come to the end of a request in time. It waits for ever for who does not read the answer, so
`data_plane` sees to that.
"""

import socket
import ssl

from tornado.http1connection import HTTP1Connection
from tornado.httpserver import HTTPServer
from tornado.iostream import SSLIOStream
from tornado.netutil import ssl_wrap_socket
from tornado.web import Application, RequestHandler

from dpsx_helpers.emulator.doors import Crowd, Door
from dpsx_helpers.emulator.options import Deadlines
from dpsx_helpers.emulator.places import MOST_CLIENTS, Places
from dpsx_helpers.emulator.tls import Files

LARGEST_BODY = 1 << 20  # bytes of a request
READ_AT_ONCE = 4096  # bytes: tornado takes memory for as many, however few there are


class Clients:
    """The connections of the service side's clients, `most` at once.

    One without a request under way makes room for others: clients open another connection for their next request.
    """

    def __init__(self, most: int = MOST_CLIENTS) -> None:
        self.places: Places[SSLIOStream] = Places(most, lambda stream: stream.close())
        self._crowd = Crowd(self.places, MOST_CLIENTS, "clients of the service side", "had no request under way")

    def busy(self, handler: RequestHandler, working: bool) -> None:
        """A request that came to its end, and was let in, is being worked on, or is answered."""
        connection = handler.request.connection
        stream = connection.stream if isinstance(connection, HTTP1Connection) else None
        if isinstance(stream, SSLIOStream):
            (self.places.settle if working else self.places.wait)(stream)

    def door(self, sock: socket.socket, server: HTTPServer, context: ssl.SSLContext) -> Door:
        """The door for who connects there."""

        async def admit(client: socket.socket) -> None:
            address = client.getpeername()
            wrapped = ssl_wrap_socket(client, context, server_side=True, do_handshake_on_connect=False)
            assert isinstance(wrapped, ssl.SSLSocket)
            stream = _Stream(wrapped, self.places)
            self.places.enter(stream)
            server.handle_stream(stream, address)

        return Door(sock, self._crowd, admit)


class _Stream(SSLIOStream):
    """One of those connections; its place is free when its descriptor is."""

    def __init__(self, sock: ssl.SSLSocket, places: Places[SSLIOStream]) -> None:
        super().__init__(sock, read_chunk_size=READ_AT_ONCE)
        self._places = places

    def close_fd(self) -> None:
        super().close_fd()
        self._places.leave(self)


def server_of(application: Application, deadlines: Deadlines) -> HTTPServer:
    """The HTTP server behind the door."""
    return HTTPServer(
        application,
        protocol="https",
        max_body_size=LARGEST_BODY,
        idle_connection_timeout=deadlines.head,
        body_timeout=deadlines.body,
    )


def server_context(files: Files) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(files.server, files.server_key)
    return context
