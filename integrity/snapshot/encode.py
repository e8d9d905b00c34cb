"""Pieces of big values as bodies of an RDB file, in the plainest encoding that each type has.

A body is the number of elements (bytes, for a string) and then the elements one after the other, so pieces are encoded
one at a time.  Every Redis since 4.0 loads these; only for hashes whose fields expire there is one form of Redis and
another of Valkey.  Format: ``rdb.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from struct import Struct
from typing import Final

from integrity.kinds.base import MalformedReply, elements_of
from integrity.kinds.field_expiry import NONE
from integrity.kinds.pieces import Piece
from integrity.snapshot.rdb import OLDEST_RDB_VERSION, encode_length

STRING: Final = 0
LIST: Final = 1
SET: Final = 2
HASH: Final = 4
SORTED_SET: Final = 5
HASH_EXPIRING_VALKEY: Final = 22
HASH_EXPIRING_REDIS: Final = 24

EARLIEST_EXPIRY_MS: Final = 1
"""Redis stores expiries of fields relative to the earliest one; any time that is not later does, and this one is
known before the fields are."""

_LENGTHS: Final = tuple(encode_length(length) for length in range(1024))
_double: Final = Struct("<d").pack
_milliseconds: Final = Struct("<q").pack
_MEMBERS_NEVER_EXPIRE: Final = frozenset({"redis", "valkey"})


@dataclass(frozen=True, slots=True)
class Form:
    """How one type is stored."""

    rdb_type: int
    encode: Callable[[Piece], bytes]
    """Elements of one piece.

    :raises MalformedReply: it is not this type's.
    """
    prelude: bytes = b""
    """What stands before the count."""
    oldest_version: int = OLDEST_RDB_VERSION
    """The oldest RDB version that has it."""

    def head(self, size: int) -> bytes:
        """What stands before the elements: *size* counts them, or a string's bytes."""
        return self.prelude + encode_length(size)


def lengths_of(elements: Sequence[bytes]) -> list[bytes]:
    """The encoded length of each element."""
    try:
        return list(map(_LENGTHS.__getitem__, map(len, elements)))
    except IndexError:
        return [encode_length(len(element)) for element in elements]


def _string(piece: Piece) -> bytes:
    if not isinstance(piece.content, bytes):
        raise MalformedReply("a piece of a string is no string")
    return piece.content


def _strings(piece: Piece) -> bytes:
    elements = elements_of(piece.content)
    return b"".join(chain.from_iterable(zip(lengths_of(elements), elements, strict=True)))


def _scored(piece: Piece) -> bytes:
    pairs = elements_of(piece.content)
    members = pairs[::2]
    try:
        scores = list(map(_double, map(float, pairs[1::2])))
    except ValueError as error:
        raise MalformedReply("a score is no number") from error
    return b"".join(chain.from_iterable(zip(lengths_of(members), members, scores, strict=True)))


def _expiring_redis(piece: Piece) -> bytes:
    times = [encode_length(0 if time == NONE else time - EARLIEST_EXPIRY_MS + 1) for time in piece.expiries]
    return _expiring(piece, times, 0)


def _expiring_valkey(piece: Piece) -> bytes:
    return _expiring(piece, list(map(_milliseconds, piece.expiries)), 2)


def _expiring(piece: Piece, times: list[bytes], place: int) -> bytes:
    """Field and value of each pair with its time before (0) or behind (2) them."""
    pairs = elements_of(piece.content)
    fields, values = pairs[::2], pairs[1::2]
    columns = [
        list(map(bytes.__add__, lengths_of(fields), fields)),
        list(map(bytes.__add__, lengths_of(values), values)),
    ]
    columns.insert(place, times or [encode_length(0) if place == 0 else _milliseconds(NONE)] * len(fields))
    return b"".join(chain.from_iterable(zip(*columns, strict=True)))


_FORMS: Final = {
    b"string": Form(STRING, _string),
    b"list": Form(LIST, _strings),
    b"set": Form(SET, _strings),
    b"hash": Form(HASH, _strings),
    b"zset": Form(SORTED_SET, _scored),
}
_EXPIRING_HASHES: Final = {
    "redis": Form(HASH_EXPIRING_REDIS, _expiring_redis, _milliseconds(EARLIEST_EXPIRY_MS), 12),
    "valkey": Form(HASH_EXPIRING_VALKEY, _expiring_valkey, oldest_version=80),
}


def form_for(kind_name: bytes, engine: str) -> Form | None:
    """How a value of this type is written when it is read in pieces; None where it must be read whole.

    :param kind_name: as TYPE answers.
    :param engine: of the server that it comes from.
    """
    if kind_name == b"set" and engine not in _MEMBERS_NEVER_EXPIRE:
        return None  # Dragonfly's members can expire, and only DUMP tells which do.
    return _FORMS.get(kind_name)


def expiring_form(engine: str) -> Form | None:
    """How a hash is written whose fields expire; None where it must be read whole."""
    return _EXPIRING_HASHES.get(engine)
