"""MQTT over WebSocket: the client of `websockets` and paho as peers, and frames that are put together here by hand.

The frames follow https://www.rfc-editor.org/rfc/rfc6455.html.
"""

import logging
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.client import WebsocketWrapper
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from dpsx_helpers.emulator.websocket import MAX_HEAD, MAX_MESSAGE, PATH, WebSocket

CONNECT, PINGREQ, DISCONNECT = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01d", b"\xc0\x00", b"\xe0\x00"
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
NORMAL = (1000).to_bytes(2, "big")

# The key is the example of section 1.3, and so is the answer to it.
FIELDS = {
    "Host": "localhost",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": "mqtt",
    "Sec-WebSocket-Version": "13",
}
ACCEPTED = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def request(first: str = f"GET {PATH} HTTP/1.1", /, **changed: str | None) -> bytes:
    """The head of a good request, but for what is changed; None leaves a field out."""
    fields = FIELDS | {name.replace("_", "-"): value for name, value in changed.items()}
    lines = [first, *(f"{name}: {value}" for name, value in fields.items() if value is not None)]
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1")


def frame(opcode: int, payload: bytes = b"", *, end: bool = True, mask: bytes = b"\x01\xfe\x7a\x3c") -> bytes:
    """One frame; an empty `mask` leaves it unmasked."""
    size, length = len(payload), len(payload).to_bytes(8, "big")
    lengths = bytes([size]) if size < 126 else b"\x7e" + length[-2:] if size < 65536 else b"\x7f" + length
    first = bytes([end << 7 | opcode, lengths[0] | bool(mask) << 7])
    return first + lengths[1:] + mask + bytes(byte ^ mask[at % 4] if mask else byte for at, byte in enumerate(payload))


def opened() -> WebSocket:
    """A server that has just answered a good request."""
    server = WebSocket()
    assert server.receive(request()) == b""
    assert server.opened
    assert server.outgoing().startswith(b"HTTP/1.1 101 ")
    return server


def fed(server: WebSocket, chunks: Iterable[bytes]) -> bytes:
    return b"".join(server.receive(chunk) for chunk in chunks)


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


class Client:
    """The client of `websockets`, joined to a server: what one side sends reaches the other until both are silent."""

    def __init__(self, path: str = PATH + "?iothub-no-client-cert=true", protocol: str = "mqtt") -> None:
        self.server = WebSocket()
        self.mqtt = b""  # what the server has taken for MQTT
        self.frames: list[Frame] = []  # what the client has got
        self.protocol = ClientProtocol(
            parse_uri(f"wss://localhost{path}"),
            subprotocols=[protocol],  # type: ignore[list-item]
            extensions=[ClientPerMessageDeflateFactory()],
        )
        self.protocol.send_request(self.protocol.connect())
        self.pump()

    def pump(self) -> None:
        while True:
            to_server = b"".join(self.protocol.data_to_send())
            self.mqtt += self.server.receive(to_server)
            to_client = self.server.outgoing()
            if not to_server and not to_client:
                return
            self.protocol.receive_data(to_client)
            self.frames += [event for event in self.protocol.events_received() if isinstance(event, Frame)]


# --- the handshake ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["", "?", "?iothub-no-client-cert=true", "?a=/other?b"])
@pytest.mark.parametrize("spelling", ["mqtt", "MQTT", "Mqtt"])
def test_a_client_is_let_in_with_any_query_and_spelling(query: str, spelling: str) -> None:
    client = Client(PATH + query, spelling)
    assert client.protocol.state is State.OPEN
    assert (client.protocol.subprotocol, client.protocol.extensions) == (spelling, [])
    assert (client.server.opened, client.server.closed, client.server.problem) == (True, False, "")


def test_the_answer_is_that_of_the_standard_and_nothing_follows_it() -> None:
    server = WebSocket()
    server.receive(request(Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits"))
    status, *fields = server.outgoing().split(b"\r\n")
    assert status == b"HTTP/1.1 101 Switching Protocols"
    assert sorted(field for field in fields if not field.startswith(b"Date: ")) == [
        b"",
        b"",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + ACCEPTED,
        b"Sec-WebSocket-Protocol: mqtt",
        b"Upgrade: websocket",
    ]
    assert server.outgoing() == b""


@pytest.mark.parametrize(
    "fields",
    [
        {"Upgrade": "WebSocket", "Connection": "keep-alive, upgrade"},
        {"Sec_WebSocket_Protocol": "other, MQTT, mqtt"},
        {"Origin": "https://anywhere.example", "Host": None},
        {"User_Agent": "caf\xe9"},
    ],
)
def test_other_ways_to_say_it_are_taken(fields: dict[str, str | None]) -> None:
    server = WebSocket()
    assert server.receive(request(**fields) + frame(BINARY, CONNECT)) == CONNECT
    assert server.opened


REFUSED = {
    "another path": (request("GET / HTTP/1.1"), "the path is not /$iothub/websocket but /"),
    "a path below": (request(f"GET {PATH}/ HTTP/1.1"), f"but {PATH}/"),
    "a path that would write its own log line": (request("GET /a\x1b[2J\xff HTTP/1.1"), ""),
    "a long path": (request(f"GET /{'x' * 5000} HTTP/1.1"), f"the path is not {PATH} but /x"),
    "a browser": (request("GET / HTTP/1.1", Upgrade=None, Connection=None), "path"),
    "a browser with the right path": (request(Upgrade=None, Connection="keep-alive"), "Connection"),
    "another upgrade": (request(Upgrade="h2c"), "Upgrade"),
    "no sub-protocol": (request(Sec_WebSocket_Protocol=None), "the sub-protocol is not mqtt but missing"),
    "another sub-protocol": (request(Sec_WebSocket_Protocol="AMQPWSB10"), "not mqtt but AMQPWSB10"),
    "a sub-protocol that is no token": (request(Sec_WebSocket_Protocol="@"), "Sec-WebSocket-Protocol"),
    "no key": (request(Sec_WebSocket_Key=None), "Sec-WebSocket-Key"),
    "a short key": (request(Sec_WebSocket_Key="c2hvcnQ="), "Sec-WebSocket-Key"),
    "a key that is no text": (request(Sec_WebSocket_Key="\xff"), ""),
    "two keys": (request(sec_websocket_key=FIELDS["Sec-WebSocket-Key"]), "Sec-WebSocket-Key"),
    "another version": (request(Sec_WebSocket_Version="8"), "Sec-WebSocket-Version"),
    "a version that is no text": (request(Sec_WebSocket_Version="\xff"), "Sec-WebSocket-Version"),
    "an upgrade that is no text": (request(Upgrade="\xff"), "Upgrade"),
    "POST": (request(f"POST {PATH} HTTP/1.1"), "HTTP GET"),
    "old HTTP": (request(f"GET {PATH} HTTP/1.0"), "HTTP/1.0"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP GET"),
    "a body": (request(Content_Length="5"), "body"),
    "a body in parts": (request(Transfer_Encoding="chunked"), "transfer codings"),
    "a request of one word": (b"GET \r\n\r\n", "request"),
    "a field without a name": (request(**{"": "x"}), "header name"),
    "a line with half an end": (request("GET / HTTP/1.1\nHost: b"), "request"),
    "a long line": (request(Cookie="x" * 9000), ""),
    "too many fields": (request(**{f"X-{number}": "" for number in range(130)}), "headers"),
    "MQTT without WebSocket": (CONNECT, "perhaps it is MQTT without a WebSocket"),
    "text": (b"hello", "HTTP GET"),
}


@pytest.mark.parametrize("cut", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize(("data", "problem"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_good_request_is_answered_with_400(data: bytes, problem: str, cut: bool) -> None:
    server = WebSocket()
    behind = frame(BINARY, CONNECT)
    assert fed(server, bytewise(data) if cut else [data + behind]) == b""
    assert (server.opened, server.closed) == (False, True)
    assert problem in server.problem
    assert server.problem.isascii()
    assert server.problem.isprintable()
    assert 0 < len(server.problem) <= 200
    answer = server.outgoing()
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"\r\n\r\nBad Request\n")
    server.send(CONNECT)
    server.close()
    assert server.receive(request() + behind) == b""
    assert server.outgoing() == b""


@pytest.mark.parametrize(("path", "protocol"), [("/", "mqtt"), (PATH, "amqp")])
def test_a_client_reads_the_refusal_as_status_400(path: str, protocol: str) -> None:
    refused = Client(path, protocol).protocol.handshake_exc
    assert isinstance(refused, InvalidStatus)
    assert refused.response.status_code == 400


def padded(size: int) -> bytes:
    """A good request of just this many bytes."""
    fields = {f"X-{number}": "x" * 4000 for number in range(3)}
    return request(**fields, Cookie="x" * (size - len(request(**fields, Cookie=""))))


@pytest.mark.parametrize("step", [1, 1000, 10**6])
def test_the_whole_request_is_bounded_however_it_is_cut(step: int) -> None:
    for size, taken in ((MAX_HEAD, True), (MAX_HEAD + 1, False)):
        server, head = WebSocket(), padded(size)
        assert len(head) == size
        fed(server, (head[at : at + step] for at in range(0, size, step)))
        assert (server.opened, server.closed) == (taken, not taken)
        assert ("no end within" in server.problem) is not taken


@pytest.mark.parametrize("line", [b"x", b"X: y\r\n"])
def test_a_request_without_an_end_is_not_waited_for(line: bytes) -> None:
    server, sent = WebSocket(), len(b"GET ")
    server.receive(b"GET ")
    while not server.closed:
        server.receive(line)
        sent += len(line)
    assert sent - len(line) < MAX_HEAD <= sent


def test_an_unfinished_request_is_waited_for() -> None:
    server = WebSocket()
    assert fed(server, bytewise(request()[:-1])) == b""
    assert (server.opened, server.closed, server.problem, server.outgoing()) == (False, False, "", b"")


# --- MQTT in frames ---------------------------------------------------------------------------------------------------

LONG = bytes(range(256)) * 300
STREAM = CONNECT + PINGREQ + DISCONNECT

FRAMINGS = {
    "a packet in each": frame(BINARY, CONNECT) + frame(BINARY, PINGREQ) + frame(BINARY, DISCONNECT),
    "all in one": frame(BINARY, STREAM),
    "a byte in each": b"".join(frame(BINARY, byte) for byte in bytewise(STREAM)),
    "cut across the packets": frame(BINARY, STREAM[:5]) + frame(BINARY, STREAM[5:16]) + frame(BINARY, STREAM[16:]),
    "one message in parts": frame(BINARY, STREAM[:5], end=False)
    + frame(CONT, STREAM[5:16], end=False)
    + frame(CONT, STREAM[16:]),
    "empty ones between": frame(BINARY)
    + frame(BINARY, STREAM[:5], end=False)
    + frame(CONT)
    + frame(BINARY, STREAM[5:]),
    "pings and pongs between": frame(PING, b"?")
    + frame(BINARY, STREAM[:5], end=False)
    + frame(PING)
    + frame(PONG, b"!")
    + frame(CONT, STREAM[5:]),
}


@pytest.mark.parametrize("frames", FRAMINGS.values(), ids=FRAMINGS)
def test_the_stream_is_the_same_however_it_is_framed(frames: bytes) -> None:
    assert opened().receive(frames) == STREAM
    assert fed(opened(), bytewise(frames)) == STREAM
    assert WebSocket().receive(request() + frames) == STREAM


@pytest.mark.parametrize("frames", FRAMINGS.values(), ids=FRAMINGS)
def test_the_stream_is_the_same_wherever_it_is_cut(frames: bytes) -> None:
    data = request() + frames + frame(CLOSE, NORMAL)
    for cut in range(len(data) + 1):
        server = WebSocket()
        assert fed(server, [data[:cut], data[cut:]]) == STREAM
        assert (server.opened, server.closed, server.problem) == (True, True, "")


@given(st.data())
@settings(deadline=None)
def test_the_stream_is_the_same_in_any_number_of_pieces(data: st.DataObject) -> None:
    sent = request() + data.draw(st.sampled_from(sorted(FRAMINGS.values())))
    cuts = data.draw(st.lists(st.integers(1, len(sent) - 1), unique=True).map(sorted))
    assert fed(WebSocket(), [sent[start:end] for start, end in pairwise([0, *cuts, len(sent)])]) == STREAM


@pytest.mark.parametrize("size", [1, 125, 126, 65_535, 65_536, MAX_MESSAGE])
def test_messages_of_every_size_pass_in_both_directions(size: int) -> None:
    client, payload = Client(), (LONG * 7)[:size]
    assert len(payload) == size
    client.protocol.send_binary(payload)
    client.server.send(payload)
    client.pump()
    assert client.mqtt == payload
    assert [(sent.opcode, bytes(sent.data), sent.fin) for sent in client.frames] == [(Opcode.BINARY, payload, True)]


def test_what_is_sent_is_one_unmasked_binary_message_each() -> None:
    server = opened()
    server.send(b"\x20\x02\x00\x00")
    server.send(b"")
    server.send(b"\xd0\x00")
    assert server.outgoing() == b"\x82\x04\x20\x02\x00\x00\x82\x02\xd0\x00"
    assert server.outgoing() == b""


def test_nothing_is_sent_before_the_handshake() -> None:
    server = WebSocket()
    server.send(b"\xd0\x00")
    assert server.outgoing() == b""
    server.receive(request())
    assert b"\xd0\x00" not in server.outgoing()


def test_a_ping_is_answered_with_its_own_words() -> None:
    client = Client()
    client.protocol.send_ping(b"are you there?")
    client.pump()
    assert [(sent.opcode, bytes(sent.data)) for sent in client.frames] == [(Opcode.PONG, b"are you there?")]
    assert client.mqtt == b""


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload", [b"", NORMAL, NORMAL + b"bye", (1001).to_bytes(2, "big"), (4000).to_bytes(2, "big")]
)
def test_a_goodbye_is_answered_and_ends_the_connection(payload: bytes) -> None:
    server = opened()
    assert server.receive(frame(BINARY, DISCONNECT) + frame(CLOSE, payload) + frame(BINARY, CONNECT)) == DISCONNECT
    assert (server.closed, server.problem) == (True, "")
    assert server.outgoing() == frame(CLOSE, payload, mask=b"")
    server.send(b"\xd0\x00")
    server.close()
    assert server.receive(frame(BINARY, CONNECT)) == b""
    assert server.outgoing() == b""


def test_a_client_that_says_goodbye_is_satisfied() -> None:
    client = Client()
    client.protocol.send_close(1000)
    client.pump()
    client.protocol.receive_eof()
    assert (client.protocol.state, client.protocol.close_code) == (State.CLOSED, 1000)


def test_our_goodbye_waits_for_that_of_the_client() -> None:
    client = Client()
    client.server.send(b"\x20\x02\x00\x05")
    client.server.close()
    client.server.close()
    client.server.send(b"\xd0\x00")
    assert (client.server.opened, client.server.closed) == (True, False)
    client.pump()
    assert [sent.opcode for sent in client.frames] == [Opcode.BINARY, Opcode.CLOSE]
    assert (client.server.closed, client.server.problem) == (True, "")
    client.protocol.receive_eof()
    assert (client.protocol.state, client.protocol.close_code) == (State.CLOSED, 1000)


def test_what_a_client_was_still_sending_at_our_goodbye_is_read() -> None:
    server = opened()
    server.close()
    assert server.receive(frame(BINARY, PINGREQ)) == PINGREQ
    assert not server.closed


@pytest.mark.parametrize(
    "reply", [frame(CLOSE, NORMAL, mask=b""), frame(CLOSE, mask=b""), frame(TEXT, b"bye"), frame(3)], ids=repr
)
def test_after_our_goodbye_no_bad_frame_is_a_fault_any_more(reply: bytes) -> None:
    for chunks in ([reply], bytewise(reply)):
        server = opened()
        server.close()
        assert server.outgoing() == frame(CLOSE, NORMAL, mask=b"")
        assert fed(server, chunks) == b""
        assert (server.closed, server.problem, server.outgoing()) == (True, "", b"")


def test_a_client_that_falls_silent_is_no_fault() -> None:
    server = opened()
    assert server.receive(frame(BINARY, CONNECT) + frame(BINARY, PINGREQ)[:-1]) == CONNECT
    assert (server.closed, server.problem, server.outgoing()) == (False, "", b"")


@pytest.mark.parametrize("begun", [b"", b"GET /"])
def test_a_connection_that_we_end_before_its_handshake_is_just_closed(begun: bytes) -> None:
    server = WebSocket()
    server.receive(begun)
    server.close()
    assert server.receive(request()) == b""
    assert (server.opened, server.closed, server.problem, server.outgoing()) == (False, True, "", b"")


# --- faults -----------------------------------------------------------------------------------------------------------

FAULTS = {
    "text": (frame(TEXT, b"hello"), 1003, "text frame"),
    "text in parts": (frame(TEXT, b"hel", end=False) + frame(CONT, b"lo"), 1003, "text frame"),
    "text that is none": (frame(TEXT, b"\xff"), 1003, "text frame"),
    "no mask": (frame(BINARY, CONNECT, mask=b""), 1002, "masking"),
    "a ping without mask": (frame(PING, mask=b""), 1002, "masking"),
    "a reserved bit": (frame(BINARY | 0x40, CONNECT), 1002, "reserved bits"),
    "a kind that is none": (frame(3), 1002, "opcode"),
    "the middle of nothing": (frame(CONT, CONNECT), 1002, "continuation"),
    "a ping in parts": (frame(PING, end=False), 1002, "control frame"),
    "a long ping": (frame(PING, bytes(126)), 1002, "control frame"),
    "a goodbye of one byte": (frame(CLOSE, b"\x03"), 1002, "close frame"),
    "a goodbye with a code that is none": (frame(CLOSE, b"\x03\xed"), 1002, "status code"),
    "a goodbye that is no text": (frame(CLOSE, NORMAL + b"\xff"), 1007, "decode"),
    "a message that is too long": (frame(BINARY, bytes(MAX_MESSAGE + 1))[:10], 1009, str(MAX_MESSAGE)),
    "the longest there is": (b"\x82\xff" + b"\xff" * 8, 1009, str(MAX_MESSAGE)),
}


@pytest.mark.parametrize("cut", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize(("bad", "code", "problem"), FAULTS.values(), ids=FAULTS)
def test_a_bad_frame_ends_the_stream_where_it_begins(bad: bytes, code: int, problem: str, cut: bool) -> None:
    server, data = opened(), frame(BINARY, CONNECT) + bad + frame(BINARY, PINGREQ)
    assert fed(server, bytewise(data) if cut else [data]) == CONNECT
    assert (server.opened, server.closed) == (True, True)
    assert problem in server.problem
    goodbye = server.outgoing()
    assert (goodbye[0], goodbye[1], goodbye[2:4]) == (0x88, len(goodbye) - 2, code.to_bytes(2, "big"))
    server.send(b"\xd0\x00")
    server.close()
    assert server.receive(frame(BINARY, PINGREQ)) == b""
    assert server.outgoing() == b""


def test_a_message_in_parts_is_bounded_too() -> None:
    server, part = opened(), frame(BINARY, bytes(MAX_MESSAGE // 2), end=False)
    rest = frame(CONT, bytes(MAX_MESSAGE // 2), end=False)
    assert fed(server, [part, rest]) == bytes(MAX_MESSAGE)
    assert not server.closed
    assert server.receive(frame(CONT, b"x")) == b""
    assert server.closed
    assert server.outgoing()[2:4] == (1009).to_bytes(2, "big")


@pytest.mark.parametrize("follows", [frame(CLOSE, NORMAL), frame(3), frame(PING), frame(TEXT, b"more")], ids=repr)
def test_text_is_the_fault_whatever_follows_in_the_same_bytes(follows: bytes) -> None:
    server = opened()
    assert server.receive(frame(TEXT, b"hello") + follows) == b""
    assert server.closed
    assert "text frame" in server.problem


def test_nothing_of_a_device_gets_into_a_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for data in (request() + frame(BINARY, CONNECT) + frame(TEXT, b"\xff"), REFUSED["a key that is no text"][0]):
        assert WebSocket().receive(data) in (b"", CONNECT)
    assert caplog.records == []


# --- paho -------------------------------------------------------------------------------------------------------------


class Memory:
    """The bit of a socket that paho needs, with a server at its other end."""

    def __init__(self) -> None:
        self.server = WebSocket()
        self.mqtt = b""
        self._waiting = b""

    def send(self, data: bytes) -> int:
        self.mqtt += self.server.receive(bytes(data))
        return len(data)

    def recv(self, size: int) -> bytes:
        self._waiting += self.server.outgoing()
        data, self._waiting = self._waiting[:size], self._waiting[size:]
        if not data:
            raise BlockingIOError
        return data


def test_paho_speaks_to_it_and_its_goodbye_without_mask_is_the_end() -> None:
    memory = Memory()
    client = WebsocketWrapper(memory, "localhost", 443, True, PATH + "?iothub-no-client-cert=true", None)
    assert client.send(bytearray(CONNECT)) == len(CONNECT)
    assert memory.mqtt == CONNECT
    memory.server.send(b"\x20\x02\x00\x00")
    assert b"".join(bytes(client.recv(1)) for _ in range(4)) == b"\x20\x02\x00\x00"
    memory.server.close()
    with pytest.raises(BlockingIOError):
        client.recv(len(CONNECT))
    assert (memory.server.closed, memory.server.problem) == (True, "")


# --- any bytes at all -------------------------------------------------------------------------------------------------

KINDS = st.sampled_from([CONT, TEXT, BINARY, BINARY, CLOSE, PING, PONG]) | st.integers(0, 127)
MASKS = st.binary(min_size=4, max_size=4) | st.just(b"")
FRAMES = st.builds(frame, KINDS, st.binary(max_size=140), end=st.booleans(), mask=MASKS)
HEADS = st.just(request()) | st.sampled_from([data for data, _ in REFUSED.values()]) | st.binary(max_size=40)
FIELD_BYTES = st.binary(max_size=30).map(lambda value: b"GET " + value + b"\r\n\r\n")


@given(HEADS | FIELD_BYTES, st.lists(FRAMES | st.binary(max_size=20), max_size=8), st.data())
@settings(deadline=None, max_examples=300)
def test_whatever_comes_is_refused_or_waited_for_and_the_same_however_cut(
    head: bytes, frames: list[bytes], data: st.DataObject
) -> None:
    sent = b"".join([head, *frames])
    cuts = data.draw(st.lists(st.integers(0, len(sent)), max_size=10).map(sorted))
    whole, cut = WebSocket(), WebSocket()
    stream = whole.receive(sent)
    assert fed(cut, [sent[start:end] for start, end in pairwise([0, *cuts, len(sent)])]) == stream
    assert (cut.opened, cut.closed, cut.problem) == (whole.opened, whole.closed, whole.problem)
    assert whole.closed or not whole.problem
    assert whole.opened or not stream
    assert bool(whole.outgoing()) >= whole.closed
    # No client can be waited for without end: zeros complete what was begun, and are nothing valid themselves.
    whole.receive(bytes(MAX_MESSAGE + MAX_HEAD))
    assert whole.closed
    whole.send(PINGREQ)
    whole.outgoing()
    assert (whole.receive(sent), whole.outgoing()) == (b"", b"")


@given(st.lists(st.sampled_from(["send", "close", "outgoing"]) | FRAMES | st.just(request()), max_size=12))
@settings(deadline=None)
def test_no_order_of_calls_raises(calls: list[str | bytes]) -> None:
    server = WebSocket()
    for call in calls:
        closed = server.closed
        if isinstance(call, bytes):
            server.receive(call)
        elif call == "send":
            server.send(PINGREQ)
        else:
            getattr(server, call)()
        assert server.closed >= closed
