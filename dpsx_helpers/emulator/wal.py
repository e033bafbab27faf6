"""Whether SQLite would leave out a part of a write-ahead log that it once had committed.

It reads a log up to the first frame whose checksum is wrong, and says nothing: after a crash the last frame may be half
written, and those of a transaction that was rolled back stay behind the others. But the last frame of a transaction,
which names the size of the database, is written last of all: where one of the same generation comes behind a wrong one,
that was whole once, and has been damaged since. No I/O. https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

from collections.abc import Iterator
from struct import unpack, unpack_from

_HEADER, _FRAME_HEADER = 32, 24
_MAGIC = 0x377F0682  # and 1 more where the checksums are computed over big-endian words
_MASK = 0xFFFFFFFF


def is_damaged(log: bytes) -> bool:
    """Whether something is left out that was committed. What was cut off at the end cannot be told from a crash."""
    if len(log) <= _HEADER:  # nothing was ever written behind it
        return False
    magic, _, page, _, *salts, first, second = unpack_from(">8I", log)
    big_endian = bool(magic & 1)
    sums = _checksum(log[: _HEADER - 8], (0, 0), big_endian=big_endian)
    if magic & ~1 != _MAGIC or sums != (first, second):
        return True
    unread = False
    for start in range(_HEADER, len(log) - _FRAME_HEADER + 1, _FRAME_HEADER + page):
        header = unpack_from(">6I", log, start)
        ours = list(header[2:4]) == salts  # else of an earlier generation, whose place was not needed yet
        if unread:
            if ours and header[1]:
                return True
            continue
        body = log[start : start + 8] + log[start + _FRAME_HEADER : start + _FRAME_HEADER + page]
        if len(body) < 8 + page:
            return False
        sums = _checksum(body, sums, big_endian=big_endian)
        unread = not ours or sums != header[4:]
    return False


def _checksum(data: bytes, sums: tuple[int, int], *, big_endian: bool) -> tuple[int, int]:
    first, second = sums
    for one, other in _pairs(data, ">" if big_endian else "<"):
        first = (first + one + second) & _MASK
        second = (second + other + first) & _MASK
    return first, second


def _pairs(data: bytes, order: str) -> Iterator[tuple[int, int]]:
    words = iter(unpack(f"{order}{len(data) // 4}I", data))
    return zip(words, words, strict=True)
