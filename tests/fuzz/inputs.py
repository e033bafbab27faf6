"""What the fuzzer feeds in: some pieces of bytes, one after the other, and how they are written down."""

import re
from collections.abc import Iterator

Input = tuple[bytes, ...]
LARGEST = 256 * 1024 + 64 * 1024 + 6  # bytes of an MQTT packet's body that a hub could ever take
_LINE = re.compile(r"(?P<target>[a-z]+):(?P<pieces>[0-9a-f.]*)")


def write(target: str, given: Input) -> str:
    """One line from which `read` gets the same again."""
    return f"{target}:{'.'.join(piece.hex() for piece in given)}"


def read(line: str) -> tuple[str, Input]:
    """Target and input. Raises ValueError for what `write` does not write."""
    match = _LINE.fullmatch(line.strip())
    if match is None:
        raise ValueError("a finding is one line, TARGET:HEX.HEX.…")
    return match["target"], tuple(bytes.fromhex(piece) for piece in match["pieces"].split("."))


def remaining_length(data: bytes, at: int = 1) -> tuple[int, int] | None:
    """Value and end of the remaining length that begins at `at`; None when it has no end within four bytes.

    https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/mqtt-v3.1.1.html#_Toc398718023
    """
    value = 0
    for place, byte in enumerate(data[at : at + 4]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    return None


def length(size: int) -> bytes:
    """A remaining length, as short as it can be."""
    digits = bytearray()
    while True:
        size, digit = divmod(size, 128)
        digits.append(digit | (0x80 if size else 0))
        if not size:
            return bytes(digits)


def packets(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """First byte and body of each whole packet in a stream, up to where it can no longer be told apart."""
    at = 0
    while at < len(stream):
        found = remaining_length(stream, at + 1)
        if found is None or found[0] > LARGEST or found[1] + found[0] > len(stream):
            return
        length, start = found
        yield stream[at], stream[start : start + length]
        at = start + length


def count(stream: bytes) -> int:
    """How many packets, up to and with the first that is none of MQTT's or is not whole."""
    found, at = 0, 0
    for first, body in packets(stream):
        found += 1
        at += 1 + len(length(len(body))) + len(body)
        if first >> 4 in (0, 15):
            return found
    return found + (at < len(stream))


def missing(stream: bytes) -> bytes | None:
    """What completes the last packet of a stream; None when nothing can, and the connection has to be closed."""
    at = 0
    while at < len(stream):
        found = remaining_length(stream, at + 1)
        if found is None:
            if len(stream) - at >= 5:
                return None
            return b"\0" + (missing(stream[at:] + b"\0") or b"")  # or it is refused then
        length, start = found
        if length > LARGEST:
            return None
        if start + length > len(stream):
            return bytes(start + length - len(stream))
        at = start + length
    return b""
