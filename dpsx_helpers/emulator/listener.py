"""The MQTT ports: one `DeviceProtocol` for each TCP connection, and the `Listener` that commits for all of them.

What devices send in one turn of the event loop is stored in one commit; the answers go out after it.
"""

import asyncio
import contextlib
import gc
import logging
import socket
import sqlite3
import weakref
from collections.abc import Callable
from itertools import count

from OpenSSL import SSL

from dpsx_helpers.emulator import refusals
from dpsx_helpers.emulator.doors import Crowd, Door
from dpsx_helpers.emulator.options import CONNECT_WITHIN
from dpsx_helpers.emulator.places import MOST_DEVICES, Places
from dpsx_helpers.emulator.refusals import Refused
from dpsx_helpers.emulator.services import Services
from dpsx_helpers.emulator.sessions import Conversation
from dpsx_helpers.emulator.tls import Channel
from dpsx_helpers.emulator.websocket import WebSocket

LOG = logging.getLogger("dpsx_helpers.emulator.tls")
# https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-hub#default-keep-alive-timeout
MAX_SILENCE = 1767.0  # seconds, the most that a hub waits
# Bytes that may wait for a device to read them: more than its own answers and the 50 messages of 64 KB in its queue.
# Property changes and method calls come on top, as many as the service side makes.
MOST_UNREAD = 6 << 20
AT_ONCE = 32 << 10  # bytes of one connection before the others have their turn: 16,000 of the shortest packets
# Connections. asyncio's transports, and what `websockets` keeps of a WebSocket, refer to themselves: the collector has
# to come by for them, and by itself it seldom does.
COLLECT_AFTER = 500
LINGER = 1.0  # seconds to go on reading after our end of a connection is closed


class Listener:
    """Everything that the connections share.

    There are `most` of them. One that has not come to its CONNECT makes room for others, the oldest first.
    """

    def __init__(
        self,
        services: Services,
        context: SSL.Context,
        active: Callable[[], None],
        *,
        connect_within: float = CONNECT_WITHIN,
        most: int = MOST_DEVICES,
    ) -> None:
        self.services = services
        self.context = context
        self.active = active
        self.connect_within = connect_within
        self.places: Places[DeviceProtocol] = Places(most, lambda connection: connection.abort())
        self._crowd = Crowd(self.places, MOST_DEVICES, "devices", "had not come to their CONNECT")
        self.labels = (f"c{number}" for number in count(1))
        self.open: set[DeviceProtocol] = set()
        self.inbox = memoryview(bytearray(AT_ONCE))  # what a connection has just received, before anything else is done
        self._ended = 0
        self._empty = asyncio.Event()
        self._changed: dict[DeviceProtocol, None] = {}
        self._scheduled = False
        self._lost = services.store.lost

    def door(self, sock: socket.socket, *, websocket: bool = False) -> Door:
        """The door for who connects there, for MQTT itself or inside a WebSocket."""

        async def admit(device: socket.socket) -> None:
            made = DeviceProtocol(self, WebSocket() if websocket else None)
            await asyncio.get_running_loop().connect_accepted_socket(lambda: made, device)

        return Door(sock, self._crowd, admit)

    def changed(self, connection: "DeviceProtocol") -> None:
        """Have what the connection wants to say sent after the commit at the end of this turn."""
        self._changed[connection] = None
        self.commit_soon()

    def commit_soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._lost = self.services.store.lost
            asyncio.get_running_loop().call_soon(self._flush)

    def forget(self, connection: "DeviceProtocol") -> None:
        self.open.discard(connection)
        self.places.leave(connection)
        self._ended += 1
        if self._ended % COLLECT_AFTER == 0:
            asyncio.get_running_loop().call_soon(gc.collect)
        if not self.open:
            self._empty.set()

    def _flush(self) -> None:
        changed, self._changed = self._changed, {}
        self._scheduled = False
        try:
            self.services.commit()
        except sqlite3.Error as error:
            self.services.not_stored(error)
        if self._lost != self.services.store.lost:  # now, or since the first of them wrote: that takes what all wrote
            for connection in changed:
                connection.abort()
            return
        for connection in changed:
            connection.flush()

    async def close(self) -> None:
        """Part from every device: last words, close_notify, half-close, and read on for a moment.

        Anything ruder can leave a client hanging that is just sending.
        """
        self.services.stopping = True
        self._flush()
        for connection in list(self.open):
            connection.finish()
        self._empty.clear()
        if self.open:  # each of them aborts itself when its own time is up
            await self._empty.wait()


class DeviceProtocol(asyncio.BufferedProtocol):
    """TLS, perhaps a WebSocket, and time-outs around one conversation.

    All of them receive into one buffer: asyncio would take memory for the most that may come, each time.
    """

    def __init__(self, listener: Listener, websocket: WebSocket | None = None) -> None:
        self._listener = listener
        self._label = next(listener.labels)
        self._channel = Channel(listener.context)
        self._websocket = websocket
        channel, weakly = self._channel, weakref.ref(self)  # a cycle would outlive the connection until it is collected

        def changed() -> None:
            connection = weakly()
            if connection is not None:
                listener.changed(connection)

        self._conversation = Conversation(listener.services, self._label, lambda: channel.peer_certificates, changed)
        self._finished = False
        self._half_closed = False
        self._unread = False  # the device does not read what is sent to it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._began = self._heard = self._loop.time()
        self._timer = self._loop.call_later(self._listener.connect_within, self._check_silence)
        self._listener.open.add(self)
        self._listener.places.enter(self)
        self._listener.active()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._listener.inbox

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._listener.inbox[:nbytes]))

    def data_received(self, data: bytes) -> None:
        if self._finished:
            return
        handshaken = self._channel.handshaken
        try:
            plaintext = self._channel.receive(data)
        except SSL.Error as error:
            LOG.warning("%s ! TLS: %s", self._label, _explain(error, handshaken=handshaken))
            self._send_out()
            self.abort()
            return
        if not (handshaken and plaintext):  # then TLS itself has nothing to say, and the answer goes out soon
            self._send_out()
        if self._channel.handshaken and not handshaken:
            shown = len(self._channel.peer_certificates)
            LOG.info("%s = TLS is up, %d client certificate(s) shown", self._label, shown)
            self._listener.active()
        if plaintext and self._websocket:
            plaintext = self._unwrapped(self._websocket, plaintext)
        if plaintext:
            connected = self._conversation.connected
            if not self._taken(plaintext):
                return
            if self._conversation.connected and not connected:  # from now on its keep-alive counts
                self._listener.places.settle(self)
                self._timer.cancel()
                self._check_silence()
        self._mind_the_pace()
        self._mind_the_end()

    def _mind_the_pace(self) -> None:
        """Who does not read its answers is not read from either, until our end of the connection is closed."""
        if not self._finished and (self._unread or self._conversation.halted):
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _mind_the_end(self) -> None:
        """Who has said goodbye is parted from when all that came before that is handled."""
        if (self._channel.closed or (self._websocket and self._websocket.closed)) and not self._conversation.halted:
            self._conversation.close()

    def _unwrapped(self, websocket: WebSocket, plaintext: bytes) -> bytes:
        """The MQTT bytes inside the WebSocket. Its own answers need no commit."""
        opened = websocket.opened
        inside = websocket.receive(plaintext)
        if websocket.opened and not opened:
            LOG.info("%s = upgraded to a WebSocket", self._label)
        if websocket.closed and websocket.problem:
            self._conversation.warn(Refused(refusals.UPGRADE_REFUSED, why=websocket.problem))
        self._say(websocket.outgoing())
        return inside

    def _say(self, plaintext: bytes) -> None:
        if plaintext:
            self._channel.send(plaintext)
            self._send_out()

    def _taken(self, plaintext: bytes) -> bool:
        return self._guarded(lambda: self._conversation.receive(plaintext))

    def _guarded(self, act: Callable[[], None]) -> bool:
        """Whether the rules and the store could take it. A fault of ours drops this connection and no other."""
        before = self._conversation.packets
        try:
            act()
        except sqlite3.Error as error:
            self._listener.services.not_stored(error)
            self.abort()
            return False
        except Exception:
            LOG.exception("%s ! a fault of the emulator itself: the connection is dropped unanswered", self._label)
            self.abort()
            return False
        if self._conversation.packets > before:  # whole ones keep a connection alive, not bytes: MQTT-3.1.2-24
            self._heard = self._loop.time()
        return True

    def eof_received(self) -> bool:
        """The device closed its half. True keeps ours open until what is stored has been acknowledged."""
        self._half_closed = True
        if not self._finished:
            self._conversation.close()
        return not self._finished

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._listener.forget(self)
        if self._channel.handshaken and not self._conversation.connected and not self._finished:
            LOG.info("%s = closed before a CONNECT", self._label)
        self._guarded(self._conversation.ended)
        self._listener.commit_soon()  # a Will may be to be stored

    def pause_writing(self) -> None:
        self._unread = True
        self._mind_the_pace()

    def resume_writing(self) -> None:
        self._unread = False
        self._go_on()

    def _go_on(self) -> None:
        """Handle what has come meanwhile, as far as the device reads its answers."""
        if self._conversation.halted and not self._finished and not self._unread:
            self._guarded(self._conversation.resume)
            self._mind_the_end()
        self._mind_the_pace()

    def flush(self) -> None:
        """Send what waits, now that everything behind it is stored."""
        conversation = self._conversation
        conversation.committed()
        if self._unread and len(conversation.outbox) + self._transport.get_write_buffer_size() > MOST_UNREAD:
            conversation.refuse(Refused(refusals.NOT_READ, device=conversation.name, limit=MOST_UNREAD >> 20))
            conversation.outbox.clear()
            self.abort()
        if conversation.outbox and not self._finished:
            self._say(self._wrapped(bytes(conversation.outbox)))
        conversation.outbox.clear()
        if conversation.closing:
            self.finish()
        elif conversation.halted:
            self._loop.call_soon(self._go_on)  # the others first

    def finish(self) -> None:
        """Say close_notify, close our half, and let the device close the other."""
        if self._finished:
            return
        self._finished = True
        self._timer.cancel()
        self._mind_the_pace()
        if self._websocket:
            self._websocket.close()
            self._say(self._websocket.outgoing())
        self._channel.close()
        self._send_out()
        if self._half_closed or not self._channel.handshaken:
            self._transport.close()
        elif not self._transport.is_closing():
            with contextlib.suppress(OSError):  # the device may have reset the connection already
                self._transport.write_eof()
        self._timer = self._loop.call_later(LINGER, self.abort)

    def _wrapped(self, packets: bytes) -> bytes:
        if self._websocket is None:
            return packets
        self._websocket.send(packets)
        return self._websocket.outgoing()

    def abort(self) -> None:
        self._transport.abort()

    def _send_out(self) -> None:
        data = self._channel.outgoing()
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def _check_silence(self) -> None:
        """A device must speak within one and a half times its keep-alive, a stranger come to its CONNECT in time."""
        conversation, keep_alive = self._conversation, self._conversation.keep_alive
        if conversation.connected:
            allowed = min(keep_alive * 1.5, MAX_SILENCE) if keep_alive else MAX_SILENCE
            row, since = refusals.SILENT, self._heard
        else:
            allowed = self._listener.connect_within
            row, since = refusals.NO_CONNECT, self._began
        left = since + allowed - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check_silence)
            return
        refused = Refused(row, device=conversation.name, seconds=round(allowed))
        self._guarded(lambda: conversation.refuse(refused))


def _explain(error: SSL.Error, *, handshaken: bool) -> str:
    """OpenSSL's reason, and what it usually means here."""
    reasons = [entry[-1] for entry in error.args[0]] if error.args and isinstance(error.args[0], list) else []
    text = ", ".join(reasons) or type(error).__name__
    if "unknown ca" in text or "certificate unknown" in text or "bad certificate" in text:
        return f"the client does not trust the emulator's CA ({text}). Remedy: set SSL_CERT_FILE as `env` prints it."
    return f"{'the connection' if handshaken else 'the handshake'} broke ({text})"
