"""TLS records, in memory: a real client says them, and some are changed on their way.

An input is a script, one act for each piece, because each handshake has keys of its own: the same script meets other
bytes at the same places. After each act: nothing but `SSL.Error` is raised, what comes out is what the client has said
and no byte of it changed, the certificates are the client's or none, and another connection goes on undisturbed.
"""

import random
import shutil
import ssl
import tempfile
from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from OpenSSL import SSL
from pki import make_device

from dpsx_helpers.emulator import tls

from .devices import NAME, WORDS
from .inputs import Input
from .mutation import Edit, changed

ACTS = ("next", "change", "cut", "drop", "again", "hold", "raw", "say", "lie", "foreign", "type", "close", "join")
NEXT, CHANGE, CUT, DROP, AGAIN, HOLD, RAW, SAY, LIE, FOREIGN, TYPE, CLOSE, JOIN = range(len(ACTS))
_HEAD = 5  # bytes before what is in a record: https://www.rfc-editor.org/rfc/rfc5246#section-6.2.1
_SLICE = 1 << 14


class Script:
    """A client's records on their way: which come next, and what becomes of them."""

    def __init__(self, client: ssl.SSLObject, out: ssl.MemoryBIO, foreign: bytes) -> None:
        self._client = client
        self._out = out
        self._foreign = foreign
        self._waiting: deque[bytes] = deque()
        self._last = b""
        self.true = True  # nothing was changed so far
        self.said = b""
        self.told = 0  # of what was said, what had been said while everything was true

    def collect(self) -> None:
        """What the client wants to send, record by record."""
        data = self._out.read()
        while data:
            end = _HEAD + int.from_bytes(data[3:5])
            self._waiting.append(data[:end])
            data = data[end:]

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)

    def act(self, piece: bytes, *, shaken: bool) -> bytes:
        """What comes to the server. `shaken`: it has got to the end of the handshake.

        In a handshake some changes are allowed, as another version in the head of a record; behind it none is.
        """
        which, rest = (piece[0] % len(ACTS), piece[1:]) if piece else (NEXT, b"")
        if which == SAY:
            return self._say(rest)
        if which == CLOSE:
            return self._close()
        if which == JOIN and len(self._waiting) > 1:
            self._waiting.appendleft(self._waiting.popleft() + self._waiting.popleft())
            return b""
        record = self._waiting.popleft() if self._waiting and which not in (RAW, FOREIGN, AGAIN) else b""
        sent = self._changed(which, record, rest)
        if sent != record and shaken:
            self.true = False
        self._last = record or self._last
        return sent

    def _changed(self, which: int, record: bytes, rest: bytes) -> bytes:
        number = int.from_bytes(rest[:2])
        match which:
            case 1:  # change
                found = bytearray(record)
                for at in range(0, min(len(rest) - 2, 60), 3) if found else ():
                    found[int.from_bytes(rest[at : at + 2]) % len(found)] ^= rest[at + 2] or 1
                return bytes(found)
            case 2:  # cut
                return record[: number % len(record)] if record else b""
            case 3:  # drop
                return b""
            case 4:  # again
                return self._last
            case 5 if self._waiting:  # hold
                following = self._waiting.popleft()
                return following + record
            case 6:  # raw
                return rest
            case 8:  # lie
                return record[:3] + number.to_bytes(2) + record[5:]
            case 9:  # foreign
                return self._foreign
            case 10:  # type
                return rest[:1] + record[1:]
        return record

    def _say(self, text: bytes) -> bytes:
        try:
            self._client.write(text or b"x")
        except ssl.SSLError:
            return b""
        self.said += text or b"x"
        if self.true:
            self.told = len(self.said)
        self.collect()
        return b""

    def _close(self) -> bytes:
        with suppress(ssl.SSLError, ValueError):
            self._client.unwrap()
        self.collect()
        return b""


class Pair:
    """A client and a channel, joined in memory."""

    def __init__(self, contexts: "Contexts") -> None:
        self.channel = tls.Channel(contexts.server)
        self.into, self.out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = contexts.client.wrap_bio(self.into, self.out, server_hostname="127.0.0.1")

    def shake_hands(self) -> "Pair":
        for _ in range(6):
            with suppress(ssl.SSLWantReadError):
                self.client.do_handshake()
            self.channel.receive(self.out.read())
            self.into.write(self.channel.outgoing())
        assert self.channel.handshaken
        return self

    def echo(self, text: bytes) -> None:
        """What the client says comes out, and the other way round."""
        self.client.write(text)
        assert self.channel.receive(self.out.read()) == text
        self.channel.send(text)
        self.into.write(self.channel.outgoing())
        assert self.client.read(len(text) + 1) == text


class Contexts:
    """The emulator's context, and that of a client with a certificate."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dpsx-fuzz-"))
        files = tls.Files(self.folder)
        tls.prepare(files, "127.0.0.1", datetime.now(UTC))
        self.server = tls.server_context(files)
        self.device = make_device(self.folder, NAME)
        self.client = ssl.create_default_context(cafile=str(files.ca))
        self.client.load_cert_chain(self.device.certificate_file, self.device.key_file)

    def close(self) -> None:
        shutil.rmtree(self.folder)


class Tls:
    """Records to `Channel`."""

    name = "tls"
    words = WORDS
    gentle = ()

    def __init__(self) -> None:
        self._contexts = Contexts()
        self.seeds: list[Input] = list(scripts())
        self.edits: list[Edit] = [edited]
        self._times = 0
        self.renew()

    def renew(self) -> None:
        self._other = Pair(self._contexts).shake_hands()
        foreign = Pair(self._contexts).shake_hands()
        foreign.client.write(b"said on another connection")
        self._foreign = foreign.out.read()

    def close(self) -> None:
        self._contexts.close()

    def run(self, given: Input) -> tuple[int, set[Hashable]]:
        pair = Pair(self._contexts)
        script = Script(pair.client, pair.out, self._foreign)
        features: set[Hashable] = set()
        plaintext, records = b"", 0
        for piece in given:
            _advance(pair, script)
            sent = script.act(piece, shaken=pair.channel.handshaken)
            if not sent:
                continue
            records += 1
            try:
                heard = pair.channel.receive(sent)
            except SSL.Error as error:
                features.add(repr(error))
                break
            plaintext += heard
            true = script.true
            assert script.said.startswith(plaintext), "what comes out is not what was said"
            assert true or len(plaintext) <= script.told, "records are taken from behind one that was changed"
            if heard:
                pair.channel.send(heard)
            answer = pair.channel.outgoing()
            assert len(answer) <= len(sent) + 2 * _SLICE
            features.add((pair.channel.handshaken, pair.channel.closed, true))
            pair.into.write(answer)
        else:
            all_came = script.true and pair.channel.handshaken and not script.waiting
            assert plaintext == script.said or not all_came, "not all of what was said comes out"
        certificates = pair.channel.peer_certificates
        assert certificates in ((), (self._contexts.device.der,)), "these certificates are of somebody else"
        assert not certificates or pair.channel.handshaken
        pair.channel.close()
        pair.channel.outgoing()
        return max(1, records), features

    def check(self) -> None:
        self._times += 1
        self._other.echo(b"healthy")
        if self._times % 32 == 0:
            Pair(self._contexts).shake_hands().echo(b"a newcomer")


def _advance(pair: Pair, script: Script) -> None:
    """Let the client go on with what it has got."""
    try:
        pair.client.do_handshake()
        while pair.client.read(_SLICE):
            pass
    except (ssl.SSLError, ValueError):
        pass
    script.collect()


def scripts() -> Iterator[Input]:
    """Handshakes, as they should be and as they should not."""
    go, say = bytes([NEXT]), bytes([SAY])
    shaken = (go,) * 6  # ClientHello; then certificate, key exchange, proof, change of cipher and the end
    yield (*shaken, say + b"hello", go, say + b"again", go, bytes([CLOSE]), go)
    yield (*shaken, say + b"x" * 20_000, go, go)
    yield (*shaken, say + b"x" * 20_000, bytes([JOIN]), go)
    yield (*shaken, bytes([FOREIGN]))
    yield (*shaken, say + b"hello", go, bytes([AGAIN]))
    yield (*shaken, say + b"hello", say + b"again", bytes([HOLD]), go)
    yield (go, go, bytes([HOLD]), go, go)
    yield (bytes([RAW]) + b"\x15\x03\x03\x00\x02\x01\x00", *shaken, bytes([RAW]) + b"\x15\x03\x03\x00\x02\x01\x00")
    yield (bytes([RAW]) + b"\x16\x03\x01\x00\x05hello",)
    yield (bytes([RAW]) + b"GET / HTTP/1.1\r\n\r\n",)
    for which in (CHANGE, CUT, DROP, LIE, TYPE, AGAIN, JOIN):
        for at in range(7):
            yield (*shaken[:at], bytes([which, 0, 9, 1]), *shaken[at:], say + b"hello", go)


def edited(chance: random.Random, piece: bytes) -> bytes:
    """Another act, or the same at another place; a record put together by hand."""
    match chance.randrange(5):
        case 0:
            return bytes([chance.randrange(len(ACTS))]) + piece[1:]
        case 1:
            return bytes([CHANGE]) + chance.randbytes(3 * chance.choice((1, 1, 2, 8)))
        case 2:
            return bytes([CHANGE, 0, chance.randrange(12), 1 << chance.randrange(8)])  # where types and lengths are
        case 3:
            body = chance.randbytes(chance.choice((0, 1, 2, 4, 40)))
            kind = chance.choice((20, 21, 22, 23, 24, 255))
            said = len(body) if chance.random() < 0.6 else chance.choice((0, 1, 16384, 18432, 18433, 65535))
            return bytes([RAW, kind, 3, chance.choice((0, 1, 3, 3, 3, 4))]) + said.to_bytes(2) + body
    return piece[:1] + changed(chance, piece[1:], WORDS)
