"""Bodies as pieces, taken apart while their chunks come, so that neither a body nor a value is held whole.

One element is held whole, and one node of those encodings that pack many elements into a string (a server keeps nodes
small).  Format: Redis ``rdb.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct
from typing import Final

from integrity.kinds.field_expiry import NONE
from integrity.kinds.hyperloglog import LONGEST
from integrity.kinds.pieces import Piece, PieceSize
from integrity.rdb import types
from integrity.rdb.body import Body
from integrity.rdb.errors import UnsupportedBody
from integrity.replies import Reply

_PLAIN: Final = frozenset(
    {types.STRING, types.LIST, types.SET, types.HASH, types.SORTED_SET, types.HASH_EXPIRING}
)
_double: Final = Struct("<d").unpack
_milliseconds: Final = Struct("<q").unpack


def comes_in_pieces(rdb_type: int, rdb_version: int) -> bool:
    """Whether :func:`pieces_of` knows the encoding in a file of this version."""
    # Redis used the number of Valkey's hashes for something else before 7.4 was released.
    return rdb_type in _PLAIN or (rdb_type == types.HASH_2 and rdb_version >= types.FIRST_VALKEY_VERSION)


def pieces_of(rdb_type: int, body: Body, limit: PieceSize, rdb_version: int) -> Iterator[Piece]:
    """The pieces of a body, as :meth:`~integrity.kinds.base.Kind.write` takes them; leaves *body* behind it.

    :raises MalformedBody: it is not what *rdb_type* says.
    """
    if not comes_in_pieces(rdb_type, rdb_version):
        raise UnsupportedBody(f"RDB type {rdb_type} does not come in pieces")
    if rdb_type == types.STRING:
        # Whether it is a HyperLogLog shows only on the whole of it.
        for part in body.string_parts(max(limit.bytes, LONGEST + 1)):
            yield Piece(part)
    else:
        earliest = _milliseconds(body.take(8))[0] if rdb_type == types.HASH_EXPIRING else 0
        yield from _elements(_ELEMENTS[rdb_type], earliest, body, limit)


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
    types.LIST: _member,
    types.SET: _member,
    types.HASH: _field,
    types.SORTED_SET: _scored,
    types.HASH_EXPIRING: _field_of_redis,
    types.HASH_2: _field_of_valkey,
}
