"""Where a value's body ends: one function per type of the format, which walks along it without decoding.

A body of Redis has no length of its own; only who knows its type finds the next key.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from integrity.rdb import types
from integrity.rdb.body import Body
from integrity.rdb.errors import MalformedBody, UnsupportedBody

Walk = Callable[[Body], None]
"""Leaves the body behind the value.

:raises MalformedBody: it is not the type's.
"""

_ID_BYTES: Final = 16
_TIME_BYTES: Final = 8


def _strings(each: int, body: Body) -> None:
    body.pass_strings(each * body.length())


def _text_scores(body: Body) -> None:
    for _ in range(body.length()):
        body.pass_strings(1)
        size = body.take(1)[0]
        # 253 to 255 are not-a-number and the infinities.
        body.pass_over(size if size < 253 else 0)


def _before_bytes(strings: int, size: int, body: Body) -> None:
    """Elements of *strings* strings and then *size* bytes."""
    for _ in range(body.length()):
        body.pass_strings(strings)
        body.pass_over(size)


def _quicklist_2(body: Body) -> None:
    for _ in range(body.length()):
        body.length()
        body.pass_strings(1)


def _expiring(has_earliest: bool, body: Body) -> None:
    body.pass_over(_TIME_BYTES if has_earliest else 0)
    for _ in range(body.length()):
        body.length()
        body.pass_strings(2)


def _expiring_listpack(body: Body) -> None:
    body.pass_over(_TIME_BYTES)
    body.pass_strings(1)


def _stream(form: int, body: Body) -> None:
    body.pass_strings(2 * body.length())
    # Length and last id; from the second form on first id, largest deleted id and entries added.
    _lengths(body, 8 if form > 1 else 3)
    for _ in range(body.length()):
        body.pass_strings(1)
        # Last delivered id; from the second form on entries read.
        _lengths(body, 3 if form > 1 else 2)
        for _ in range(body.length()):
            body.pass_over(_ID_BYTES + _TIME_BYTES)
            body.length()
        for _ in range(body.length()):
            body.pass_strings(1)
            # Seen; from the third form on active.
            body.pass_over(2 * _TIME_BYTES if form > 2 else _TIME_BYTES)
            body.pass_over(body.length() * _ID_BYTES)


def _lengths(body: Body, count: int) -> None:
    for _ in range(count):
        body.length()


def _module(body: Body) -> None:
    body.length()
    pass_module_values(body)


def pass_module_values(body: Body) -> None:
    """Pass over what a module wrote, each value of it behind a number that says what it is, to its end mark."""
    while (opcode := body.length()) != 0:
        if opcode in (1, 2):
            body.length()
        elif opcode in (3, 4):
            body.pass_over(4 if opcode == 3 else 8)
        elif opcode == 5:
            body.pass_strings(1)
        else:
            raise MalformedBody(f"a module's value is of the unknown kind {opcode}")


def _module_old(body: Body) -> None:
    raise UnsupportedBody("a module's value in a form that only the module can read (RDB type 6)")


def _chunked_blob(body: Body) -> None:
    left = body.length()
    while left > 0:
        size = body.length()
        if not size:
            raise MalformedBody("a part of a filter is empty")
        body.pass_over(size)
        left -= size


def _bloom(chunked: bool, body: Body) -> None:
    body.length()
    body.pass_over(2 * 8)
    _lengths(body, 3)
    for _ in range(body.length()):
        body.length()
        if chunked:
            _chunked_blob(body)
        else:
            body.pass_strings(1)


def _count_min(body: Body) -> None:
    width, depth = body.length(), body.length()
    body.length()
    body.pass_over(width * depth * 8)


def _top_k(body: Body) -> None:
    _lengths(body, 4)
    body.pass_over(8)
    for _ in range(body.length()):
        body.pass_strings(1)
        body.length()
    body.pass_over(body.length())


def _cuckoo(body: Body) -> None:
    _lengths(body, 6)
    for _ in range(body.length()):
        _chunked_blob(body)


def _one_string(body: Body) -> None:
    body.pass_strings(1)


ONE_STRING: Final = frozenset(
    {
        types.STRING,
        types.HASH_ZIPMAP,
        types.LIST_ZIPLIST,
        types.SET_INTSET,
        types.SORTED_SET_ZIPLIST,
        types.HASH_ZIPLIST,
        types.HASH_LISTPACK,
        types.SORTED_SET_LISTPACK,
        types.SET_LISTPACK,
        types.HASH_LISTPACK_EXPIRING_OLD,
        types.JSON,
    }
)
"""Types whose body is one string."""

_WALKS: Final[dict[int, Walk]] = {
    **dict.fromkeys(ONE_STRING, _one_string),
    types.LIST: partial(_strings, 1),
    types.SET: partial(_strings, 1),
    types.SORTED_SET_TEXT: _text_scores,
    types.HASH: partial(_strings, 2),
    types.SORTED_SET: partial(_before_bytes, 1, 8),
    types.MODULE_OLD: _module_old,
    types.MODULE: _module,
    types.LIST_QUICKLIST: partial(_strings, 1),
    types.STREAM: partial(_stream, 1),
    types.LIST_QUICKLIST_2: _quicklist_2,
    types.STREAM_2: partial(_stream, 2),
    types.STREAM_3: partial(_stream, 3),
    types.HASH_EXPIRING: partial(_expiring, True),
    types.HASH_LISTPACK_EXPIRING: _expiring_listpack,
    types.HASH_DRAGONFLY: partial(_strings, 3),
    types.SET_DRAGONFLY: partial(_strings, 2),
    types.BLOOM: partial(_bloom, False),
    types.BLOOM_CHUNKED: partial(_bloom, True),
    types.COUNT_MIN: _count_min,
    types.TOP_K: _top_k,
    types.CUCKOO: _cuckoo,
}
_HASH_2_VALKEY: Final = partial(_before_bytes, 2, _TIME_BYTES)
_HASH_2_REDIS: Final = partial(_expiring, False)


def walk_for(rdb_type: int, rdb_version: int) -> Walk:
    """How to pass over a value of this type in a file of this version.

    :raises UnsupportedBody: the type is not known.
    """
    if rdb_type == types.HASH_2:
        return _HASH_2_VALKEY if rdb_version >= types.FIRST_VALKEY_VERSION else _HASH_2_REDIS
    walk = _WALKS.get(rdb_type)
    if walk is None or (rdb_type in types.OF_DRAGONFLY and rdb_version > types.NEWEST_DRAGONFLY_VERSION):
        raise UnsupportedBody(f"RDB type {rdb_type} is not known")
    return walk
