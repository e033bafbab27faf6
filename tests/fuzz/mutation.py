"""How inputs are changed: bytes, lengths, whole pieces and their order, and the values in JSON."""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from .inputs import Input, length, remaining_length

MOST_PIECES, MOST_BYTES = 48, 1 << 16  # of one input
_TELLING = (0, 1, 0x10, 0x1F, 0x20, 0x24, 0x2B, 0x2F, 0x30, 0x7F, 0x80, 0x82, 0xC0, 0xE0, 0xED, 0xF4, 0xFE, 0xFF)
_LENGTHS = (0, 1, 2, 3, 125, 126, 127, 128, 255, 16383, 16384, 65535, 65536, 327_686, 327_687, 2_097_151, 268_435_455)
_NUMBERS = (0, -1, 1, 2**31, 2**52, -(2**52), -(2**52) - 1, 2**63, 10**400, 1e308, -0.0, 5e-324, 0.1)

Edit = Callable[[random.Random, bytes], bytes]


class Mutator:
    """Changes inputs by chance. `words` are bytes that mean something; `edits` know how a piece is built.

    What is broken early leads nowhere: some inputs get nothing but `gentle` edits, which leave every length true.
    """

    def __init__(
        self, chance: random.Random, words: Sequence[bytes], edits: Sequence[Edit], gentle: Sequence[Edit] = ()
    ) -> None:
        self._chance = chance
        self._words = words
        self._edits = edits
        self._gentle = gentle

    def __call__(self, given: Input, other: Input) -> Input:
        """Another input: a few changes to `given`, some of them with parts of `other`."""
        chance, pieces = self._chance, list(given)
        if self._gentle and pieces and chance.random() < 0.4:
            for _ in range(chance.choice((1, 2, 4, 8, 16))):
                self._change_gently(pieces)
            return _bounded(pieces)
        for _ in range(chance.choice((1, 1, 1, 1, 2, 2, 3, 5, 8))):
            what = chance.random()
            if what < 0.35 or not pieces:
                self._arrange(pieces, other)
            else:
                at = chance.randrange(len(pieces))
                edit = chance.choice(self._edits) if self._edits and what < 0.75 else self._change
                pieces[at] = edit(chance, pieces[at])
        return _bounded(pieces)

    def _change_gently(self, pieces: list[bytes]) -> None:
        """Change a piece, or put a changed copy behind it."""
        chance = self._chance
        for _ in range(8):  # not every piece has what an edit looks for
            at = chance.randrange(len(pieces))
            new = chance.choice(self._gentle)(chance, pieces[at])
            if new != pieces[at]:
                pieces[at + 1 : at + 1] = [new]
                del pieces[at : at + chance.randrange(2)]
                return

    def _arrange(self, pieces: list[bytes], other: Input) -> None:
        """Leave out, repeat, exchange, cut and join pieces, and take some of another input."""
        chance = self._chance
        at = chance.randrange(len(pieces) + 1)
        there = pieces[at : at + 1]
        match chance.randrange(9):
            case 0:
                del pieces[at : at + 1]
            case 1:
                pieces[at:at] = there * chance.choice((1, 1, 2, 4, 40))
            case 2 if len(pieces) > 1:
                one, two = chance.sample(range(len(pieces)), 2)
                pieces[one], pieces[two] = pieces[two], pieces[one]
            case 3:
                start = chance.randrange(len(other) + 1)
                pieces[at:at] = other[start : start + chance.choice((1, 1, 2, 3))]
            case 4:
                pieces[at:] = other[chance.randrange(len(other) + 1) :]
            case 5 if there and len(there[0]) > 1:
                cut = chance.randrange(1, len(there[0]))
                pieces[at : at + 1] = [there[0][:cut], there[0][cut:]]
            case 6:
                pieces[at : at + 2] = [b"".join(pieces[at : at + 2])]
            case 7:
                whole, cuts = b"".join(pieces), []
                cuts = sorted(chance.randrange(len(whole) + 1) for _ in range(chance.randrange(12)))
                pieces[:] = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
            case _:
                chance.shuffle(pieces) if chance.random() < 0.2 else pieces.reverse()

    def _change(self, chance: random.Random, piece: bytes) -> bytes:
        return changed(chance, piece, self._words)


def _bounded(pieces: list[bytes]) -> Input:
    kept, left = [], MOST_BYTES
    for piece in pieces[:MOST_PIECES]:
        kept.append(piece[:left])
        left -= len(kept[-1])
    return tuple(kept)


def changed(chance: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    """The same bytes with some changed, left out, doubled or put in."""
    found = bytearray(data)
    at = chance.randrange(len(found) + 1)
    end = min(len(found), at + chance.choice((1, 1, 2, 4, 16, 200)))
    match chance.randrange(10):
        case 0 | 1 if at < len(found):
            found[at] ^= 1 << chance.randrange(8)
        case 2 if at < len(found):
            found[at] = chance.choice(_TELLING)
        case 3:
            found[at:end] = chance.randbytes(end - at)
        case 4:
            del found[at:end]
        case 5:
            del found[at:]
        case 6:
            found[at:at] = found[at:end] * chance.choice((1, 1, 3, 50))
        case 7:
            found[at:at] = chance.choice(words) if words else chance.randbytes(2)
        case 8 if words:
            word = chance.choice(words)
            found[at : at + len(word)] = word
        case _:
            size = chance.choice((1, 2, 2, 4))
            number = chance.choice(_LENGTHS) & (1 << 8 * size) - 1
            found[at : at + size] = number.to_bytes(size)
    return bytes(found)


# --- MQTT -------------------------------------------------------------------------------------------------------------


def packet_edits(words: Sequence[bytes]) -> list[Edit]:
    """Edits of a piece that is one MQTT packet; of any other they change the bytes."""

    def inside(edit: Edit) -> Edit:
        """Change the body, and keep the length that the packet says."""

        def edited(chance: random.Random, piece: bytes) -> bytes:
            found = remaining_length(piece)
            if found is None:
                return changed(chance, piece, words)
            body = edit(chance, piece[found[1] :])
            return piece[:1] + length(len(body)) + body

        return edited

    def bytes_of(chance: random.Random, body: bytes) -> bytes:
        return changed(chance, body, words)

    def text(chance: random.Random, body: bytes) -> bytes:
        """Change one text and keep its own length true, too."""
        places = list(_texts(body))
        if not places:
            return body
        start, end = chance.choice(places)
        old = body[start + 2 : end]
        new = (chance.choice(words) if words and chance.random() < 0.3 else changed(chance, old, words))[:65535]
        return body[:start] + len(new).to_bytes(2) + new + body[end:]

    def payload(chance: random.Random, body: bytes) -> bytes:
        """Other JSON behind the topic of a PUBLISH, or the same with something changed in it."""
        first = next(_texts(body), None)
        start = first[1] + 2 if first else 0
        return body[:start] + json_edit(chance, body[start:])

    def lie(chance: random.Random, piece: bytes) -> bytes:
        """Say another length than there is, at times in more bytes than it takes."""
        found = remaining_length(piece)
        said = chance.choice((*_LENGTHS, len(piece), max(0, len(piece) - 3)))
        digits = bytearray(length(min(said, 268_435_455)))
        if chance.random() < 0.3:
            digits[-1] |= 0x80
            digits += chance.choice((b"\x00", b"\x80\x00", b"\x80\x80\x00", b"\x80\x80\x80\x80\x00"))
        return piece[:1] + bytes(digits) + piece[found[1] if found else 1 :]

    def lie_of_a_text(chance: random.Random, body: bytes) -> bytes:
        places = list(_texts(body))
        if not places:
            return body
        start, _ = chance.choice(places)
        return body[:start] + (chance.choice(_LENGTHS) & 0xFFFF).to_bytes(2) + body[start + 2 :]

    def numbered(chance: random.Random, body: bytes) -> bytes:
        """Another packet identifier: at the start, or behind the topic of a PUBLISH."""
        text = next(_texts(body), None)
        at = chance.choice((0, text[1] if text else 0))
        return body[:at] + chance.choice((0, 0, 1, 2, 7, 65535)).to_bytes(2) + body[at + 2 :]

    def first(chance: random.Random, piece: bytes) -> bytes:
        """Another type, or other flags."""
        return bytes([chance.choice((*range(0, 256, 16), 0x30, 0x32, 0x34, 0x36, 0x3B, 0x82, 0xA2))]) + piece[1:]

    return [
        inside(bytes_of),
        inside(text),
        inside(text),
        inside(payload),
        inside(payload),
        lie,
        inside(lie_of_a_text),
        inside(numbered),
        first,
    ]


def _texts(body: bytes) -> Any:
    """Where there may be texts with a length before them, one behind the other from where packets have the first."""
    for begin in (0, 2, 10):  # PUBLISH and CONNECT, SUBSCRIBE and UNSUBSCRIBE, the fields of a CONNECT
        at = begin
        while at + 2 <= len(body):
            end = at + 2 + int.from_bytes(body[at : at + 2])
            if end > len(body):
                break
            yield at, end
            at = end


def gentle_packet_edits(words: Sequence[bytes]) -> list[Edit]:
    """Edits of a PUBLISH after which it is one. Other pieces stay as they are."""

    def inside(edit: Callable[[random.Random, bytes, bytes], tuple[bytes, bytes]]) -> Edit:
        def edited(chance: random.Random, piece: bytes) -> bytes:
            found = remaining_length(piece)
            if piece[:1] not in (b"\x30", b"\x32") or found is None or found[0] != len(piece) - found[1]:
                return piece
            body = piece[found[1] :]
            end = 2 + int.from_bytes(body[:2])
            number = body[end : end + 2] if piece[0] & 2 else b""
            topic, payload = edit(chance, body[2:end], body[end + len(number) :])
            if topic == body[2:end] and chance.random() < 0.1 and number:
                number = chance.randbytes(2)
            topic = topic[:65535]
            new = len(topic).to_bytes(2) + topic + number + payload
            return piece[:1] + length(len(new)) + new

        return edited

    def payload(chance: random.Random, topic: bytes, payload: bytes) -> tuple[bytes, bytes]:
        return topic, changed(chance, payload, words)

    def document(chance: random.Random, topic: bytes, payload: bytes) -> tuple[bytes, bytes]:
        return topic, json_edit(chance, payload)

    def end_of_topic(chance: random.Random, topic: bytes, payload: bytes) -> tuple[bytes, bytes]:
        """Its property bag or query."""
        start = max(topic.rfind(b"/"), topic.rfind(b"?")) + 1
        return topic[:start] + changed(chance, topic[start:], words), payload

    return [inside(payload), inside(document), inside(end_of_topic)]


def moved(piece: bytes, old: bytes, new: bytes) -> bytes:
    """A packet with `new` for `old` in its texts, and the lengths that go with it; any other piece as it is."""
    found = remaining_length(piece)
    if old not in piece or found is None or found[0] != len(piece) - found[1]:
        return piece
    body = piece[found[1] :]
    for start, end in _texts(body):
        text = body[start + 2 : end].replace(old, new)
        if old in body[start + 2 : end]:
            body = body[:start] + len(text).to_bytes(2) + text + body[end:]
            return piece[:1] + length(len(body)) + body
    return piece


# --- JSON -------------------------------------------------------------------------------------------------------------

NAMES = (
    "a", "b", "$version", "$metadata", "$rid", "registrationId", "payload", "csr", "north", "desired", "", "\u0000",
    "a.b", "k" * 1025, "ü", "\ud800", "__proto__",
)  # fmt: skip
TEXTS = ("", "x", "north", "south", "\u0000", "\ud800", "ü" * 3000, "y" * 4097, "1e999", "é́")


def value(chance: random.Random, levels: int = 4) -> Any:
    """Any JSON, beyond what may be stored as well."""
    kind = chance.randrange(9 if levels else 6)
    match kind:
        case 0 | 1:
            return chance.choice(_NUMBERS)
        case 2:
            return chance.choice(TEXTS)
        case 3:
            return chance.choice((None, True, False))
        case 6:
            return [value(chance, levels - 1) for _ in range(chance.randrange(4))]
        case 7 | 8:
            return {chance.choice(NAMES): value(chance, levels - 1) for _ in range(chance.randrange(5))}
    return chance.randrange(100)


def json_edit(chance: random.Random, data: bytes) -> bytes:
    """Other JSON: made anew, deeper, larger, or with a part exchanged. Not always JSON in the end."""
    match chance.randrange(8):
        case 0:
            depth = chance.choice((9, 10, 11, 12, 99, 101, 600, 2000))
            return b'{"a":' * depth + b"1" + b"}" * depth
        case 1:
            depth = chance.choice((9, 11, 100, 5000))
            return b"[" * depth + b"]" * depth
        case 2:
            return json.dumps({f"k{number}": "z" * 4000 for number in range(chance.choice((1, 7, 8, 9)))}).encode()
        case 3:
            return data.replace(b":", b": ", 1) if chance.random() < 0.5 else b"\xef\xbb\xbf" + data
        case 4:
            return chance.choice(
                (b"NaN", b"-Infinity", b"1e400", b"", b" ", b"null", b"[]", b"9" * 5000, b'{"a":1,"a":2}')
            )
        case 5:
            return changed(chance, data, (b'"', b"\\u0000", b"\\ud800", b"{", b"}", b"[", b",", b"null", b"1e9"))
        case _:
            return json.dumps(value(chance), ensure_ascii=chance.random() < 0.5).encode(errors="surrogatepass")
