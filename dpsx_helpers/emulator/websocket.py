"""The server's end of MQTT over WebSocket, as IoT Hub and DPS have it on port 443. No sockets, no clock.

Between TLS and MQTT: plaintext in, the MQTT bytes in it out, and the reverse. Path and sub-protocol are those of
https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-hub#using-the-mqtt-protocol-directly-as-a-device, what
frames mean to MQTT is section 6 of https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/mqtt-v3.1.1.html, and frames
themselves are left to the `websockets` library.
"""

import logging
from collections.abc import Sequence
from http import HTTPStatus

from websockets.exceptions import NegotiationError
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

PATH = "/$iothub/websocket"
MAX_HEAD = 16 * 1024  # bytes of an HTTP request before its end; the library alone would take up to 1 MiB
MAX_MESSAGE = 512 * 1024  # bytes; any MQTT packet that Azure takes fits in one

_METHOD, _HEAD_END = b"GET ", b"\r\n\r\n"
_SHOWN = 200  # characters of what a client sent that may get into a log
# The library logs headers and payloads, and tracebacks for bytes that are no text: `problem` says what matters.
_NOWHERE = logging.Logger("websockets", logging.CRITICAL + 1)


class WebSocket:
    """One WebSocket connection over memory. After each call send what `outgoing` returns.

    `opened` turns True once, when the handshake is done. `closed` turns True when nothing more will be received: once
    `outgoing` is sent the connection has to end. `problem` says why the handshake or the stream was refused, for the
    log; it stays empty when a client just ends, with or without a close frame.
    """

    def __init__(self) -> None:
        # No extensions: permessage-deflate, which clients offer, must not be agreed to. No pings ever: the pongs of
        # paho-mqtt 1.6.1 (https://github.com/eclipse-paho/paho.mqtt.python) have no mask, which breaks RFC 6455.
        self._protocol = ServerProtocol(
            extensions=None, select_subprotocol=_mqtt_in_any_case, max_size=MAX_MESSAGE, logger=_NOWHERE
        )
        self._head = bytearray()
        self._out = bytearray()
        self.opened = False
        self.closed = False
        self.problem = ""

    def receive(self, data: bytes) -> bytes:
        """The MQTT bytes in `data`: a part of one stream, wherever frames begin and end. Never raises."""
        if self.closed:
            return b""
        frames = data if self.opened else self._shake_hands(data)
        return self._unframe(frames) if self.opened else b""

    def send(self, data: bytes) -> None:
        """Put MQTT bytes in one binary message; the result waits in `outgoing`. Nothing happens when not open."""
        if data and self._protocol.state is State.OPEN:
            self._protocol.send_binary(data)
            self._collect()

    def close(self) -> None:
        """Say goodbye, and take the client's as the end; without a handshake there is nobody to say it to."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(CloseCode.NORMAL_CLOSURE)
            self._collect()
        elif not self.opened:
            self.closed = True

    def outgoing(self) -> bytes:
        """The bytes to send now."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def _shake_hands(self, data: bytes) -> bytes:
        """Answer the request once it is complete, and return what came behind it.

        The library must not see that earlier: it would read frames before the request is answered.
        """
        self._head += data
        end = self._head.find(_HEAD_END, 0, MAX_HEAD) + len(_HEAD_END)
        if not _METHOD.startswith(self._head[: len(_METHOD)]):
            self._refuse("what came does not begin as an HTTP GET request; perhaps it is MQTT without a WebSocket")
        elif end >= len(_HEAD_END):
            head, rest = bytes(self._head[:end]), bytes(self._head[end:])
            self._head.clear()
            self._answer(head)
            return rest
        elif len(self._head) >= MAX_HEAD:
            self._refuse(f"the HTTP request has no end within {MAX_HEAD} bytes")
        return b""

    def _answer(self, head: bytes) -> None:
        self._protocol.receive_data(head)
        for request in self._protocol.events_received():  # one, or none when the library cannot read it
            assert isinstance(request, Request)
            path = request.path.partition("?")[0]  # SDKs add ?iothub-no-client-cert=true
            if path != PATH:
                return self._refuse(f"the path is not {PATH} but {path}")
            try:
                response = self._protocol.accept(request)
            except UnicodeError:  # it wants to say what is wrong, and repeats a field that is no text
                break
            if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
                self._protocol.send_response(response)
                self.opened = True
                return self._collect()
        error = self._protocol.handshake_exc
        cause = error and error.__cause__
        return self._refuse(f"{error}: {cause}" if cause else f"{error}")

    def _refuse(self, problem: str) -> None:
        """Azure has one answer for whatever it does not like: https://github.com/MicrosoftDocs/azure-docs/issues/21306.

        The library would have others (426, 500), or none when it cannot read the request.
        """
        self.problem = ascii(problem)[1:-1][:_SHOWN]
        self._out += self._protocol.reject(HTTPStatus.BAD_REQUEST, "Bad Request\n").serialize()
        self.closed = True

    def _unframe(self, data: bytes) -> bytes:
        ending = self._protocol.state is not State.OPEN
        self._protocol.receive_data(data)
        stream, problem = bytearray(), ""
        for frame in self._protocol.events_received():
            assert isinstance(frame, Frame)
            if frame.opcode is Opcode.TEXT:  # MQTT-6.0.0-1
                problem = "a text frame came, and MQTT takes binary ones only"
                self._protocol.fail(CloseCode.UNSUPPORTED_DATA)
                break
            if frame.opcode in (Opcode.BINARY, Opcode.CONT):
                stream += frame.data
        if self._protocol.parser_exc and not problem:
            problem = f"the frames cannot be taken: {self._protocol.parser_exc}"
        if not ending:  # paho's reply to our close frame has no mask either, and means the end all the same
            self.problem = problem
        self._collect()
        return bytes(stream)

    def _collect(self) -> None:
        """Take over what the library wants sent. Its empty bytes stand for the end of the connection."""
        for part in self._protocol.data_to_send():
            self._out += part
            self.closed = self.closed or not part


def _mqtt_in_any_case(protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol:
    """The sub-protocol as the client spells it (the C SDK says MQTT), for the answer has to repeat it."""
    for name in offered:
        if name.lower() == "mqtt":
            return name
    raise NegotiationError(f"the sub-protocol is not mqtt but {', '.join(offered) or 'missing'}")
