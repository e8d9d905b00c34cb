"""Bodies of an RDB file as pieces again, for those encodings that are a count and then one element after the other.

A body is taken apart while its chunks come, so neither is ever held whole.  Other encodings are one string to the
file, which only a server takes apart.  Format: Redis ``rdb.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from struct import Struct
from typing import Final

from integrity.kinds.field_expiry import NONE
from integrity.kinds.pieces import Piece, PieceSize
from integrity.replies import Reply
from integrity.snapshot.encode import (
    HASH,
    HASH_EXPIRING_REDIS,
    HASH_EXPIRING_VALKEY,
    LIST,
    SET,
    SORTED_SET,
    STRING,
)

_INTEGER_BYTES: Final = {0xC0: 1, 0xC1: 2, 0xC2: 4}
_COMPRESSED: Final = 0xC3
_FIRST_VALKEY_VERSION: Final = 80
_PLAIN: Final = frozenset({STRING, LIST, SET, HASH, SORTED_SET, HASH_EXPIRING_REDIS})
_double: Final = Struct("<d").unpack
_milliseconds: Final = Struct("<q").unpack


class MalformedBody(ValueError):
    """A body is not what its type byte says."""


def comes_in_pieces(rdb_type: int, rdb_version: int) -> bool:
    """Whether :func:`pieces_of` knows the encoding in a file of this version."""
    # Redis used the number of Valkey's hashes for something else before 7.4 was released.
    return rdb_type in _PLAIN or (rdb_type == HASH_EXPIRING_VALKEY and rdb_version >= _FIRST_VALKEY_VERSION)


class Body:
    """Walks along one body.

    :param chunks: the body's bytes.
    :raises MalformedBody: in every method: the body ends too early, or an encoding is not known.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._buffer = b""
        self._at = 0

    def is_compressed(self) -> bool:
        """Whether the next string is compressed; it stays the next one."""
        self._need(1)
        return self._buffer[self._at] == _COMPRESSED

    def length(self) -> int:
        """The next number."""
        first = self.take(1)[0]
        if first < 0x40:
            return first
        if first < 0x80:
            return (first & 0x3F) << 8 | self.take(1)[0]
        if first in (0x80, 0x81):
            return int.from_bytes(self.take(4 if first == 0x80 else 8), "big")
        raise MalformedBody(f"length encoding {first:#x}")

    def string(self) -> bytes:
        """The next string."""
        at = self._at
        if at < len(self._buffer) and (end := at + 1 + self._buffer[at]) <= min(len(self._buffer), at + 0x40):
            # Nearly all elements are short and lie in the buffer.
            self._at = end
            return self._buffer[at + 1 : end]
        self._need(1)
        first = self._buffer[self._at]
        if first < 0xC0:
            return self.take(self.length())
        self._at += 1
        if first in _INTEGER_BYTES:
            return b"%d" % int.from_bytes(self.take(_INTEGER_BYTES[first]), "little", signed=True)
        if first == _COMPRESSED:
            compressed, size = self.length(), self.length()
            return decompress(self.take(compressed), size)
        raise MalformedBody(f"string encoding {first:#x}")

    def take(self, size: int) -> bytes:
        """The next *size* bytes."""
        end = self._at + size
        if end > len(self._buffer):
            self._need(size)
            end = self._at + size
        data = self._buffer[self._at : end]
        self._at = end
        return data

    def rest(self) -> Iterator[bytes]:
        """What is left, in parts."""
        left, self._buffer, self._at = self._buffer[self._at :], b"", 0
        yield left
        yield from self._chunks

    def finish(self) -> None:
        """Make sure that nothing is left; whoever hands out the chunks proves them at their end."""
        if any(map(len, self.rest())):
            raise MalformedBody("something follows the last element")

    def _need(self, size: int) -> None:
        """Make *size* bytes lie in the buffer."""
        parts = [self._buffer[self._at :]]
        missing = size - len(parts[0])
        while missing > 0:
            chunk = next(self._chunks, b"")
            if not chunk:
                raise MalformedBody("it ends too early")
            parts.append(chunk)
            missing -= len(chunk)
        if len(parts) > 1:
            self._buffer, self._at = b"".join(parts), 0


def pieces_of(rdb_type: int, body: Body, limit: PieceSize) -> Iterator[Piece]:
    """The pieces of a body, as :meth:`~integrity.kinds.base.Kind.write` takes them.

    :raises MalformedBody: it is not what *rdb_type* says.
    """
    if rdb_type == STRING:
        yield from _string(body, limit.bytes)
    else:
        earliest = _milliseconds(body.take(8))[0] if rdb_type == HASH_EXPIRING_REDIS else 0
        yield from _elements(_ELEMENTS[rdb_type], earliest, body, limit)
    body.finish()


def _string(body: Body, most: int) -> Iterator[Piece]:
    left = body.length()
    while left:
        content = body.take(min(left, most))
        left -= len(content)
        yield Piece(content)


_Element = Callable[[Body, list[bytes]], int]
"""Reads one element into a list; returns what stands beside it: an encoded expiry, or 0."""


def _elements(read: _Element, earliest: int, body: Body, limit: PieceSize) -> Iterator[Piece]:
    content: list[bytes] = []
    beside: list[int] = []
    size = 0
    for _ in range(body.length()):
        done = len(content)
        beside.append(read(body, content))
        size += sum(map(len, content[done:]))
        if len(beside) >= limit.elements or size >= limit.bytes:
            yield _piece(read, content, beside, earliest)
            content, beside, size = [], [], 0
    if content:
        yield _piece(read, content, beside, earliest)


def _piece(read: _Element, content: list[bytes], beside: list[int], earliest: int) -> Piece:
    reply: list[Reply] = [*content]
    if read is _field_of_redis:
        return Piece(reply, expiries=tuple(earliest + time - 1 if time else NONE for time in beside))
    return Piece(reply, expiries=tuple(beside) if read is _field_of_valkey else ())


def _member(body: Body, into: list[bytes]) -> int:
    into.append(body.string())
    return 0


def _field(body: Body, into: list[bytes]) -> int:
    into.append(body.string())
    into.append(body.string())
    return 0


def _scored(body: Body, into: list[bytes]) -> int:
    into.append(body.string())
    into.append(repr(_double(body.take(8))[0]).encode())
    return 0


def _field_of_redis(body: Body, into: list[bytes]) -> int:
    time = body.length()
    _field(body, into)
    return time


def _field_of_valkey(body: Body, into: list[bytes]) -> int:
    _field(body, into)
    time: int = _milliseconds(body.take(8))[0]
    return time


_ELEMENTS: Final[dict[int, _Element]] = {
    LIST: _member,
    SET: _member,
    HASH: _field,
    SORTED_SET: _scored,
    HASH_EXPIRING_REDIS: _field_of_redis,
    HASH_EXPIRING_VALKEY: _field_of_valkey,
}


def decompress(data: bytes, size: int) -> bytes:
    """A string that the server compressed with LZF.

    :param size: of the plain string.
    :raises MalformedBody: it is damaged.
    """
    out = bytearray()
    at = 0
    try:
        while at < len(data):
            control = data[at]
            at += 1
            if control < 32:
                out += data[at : at + control + 1]
                at += control + 1
                continue
            count = control >> 5
            if count == 7:
                count += data[at]
                at += 1
            start = len(out) - ((control & 0x1F) << 8 | data[at]) - 1
            at += 1
            count += 2
            if start < 0:
                raise MalformedBody("a compressed string is damaged")
            run = bytes(out[start : start + count])
            # A run may go on into what it writes itself.
            out += (run * (count // len(run) + 1))[:count]
    except IndexError as error:
        raise MalformedBody("a compressed string ends too early") from error
    if len(out) != size:
        raise MalformedBody("a compressed string has another length")
    return bytes(out)
