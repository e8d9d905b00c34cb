"""Bodies as pieces, taken apart while their chunks come, so that neither a body nor a value is held whole.

One element is held whole, and one node of those encodings that pack many elements into a string: servers keep nodes
small.  Format: Redis ``rdb.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import repeat
from struct import Struct
from typing import Final, TypeAlias

from integrity.kinds.hyperloglog import LONGEST
from integrity.kinds.pieces import Piece, PieceSize
from integrity.rdb import types
from integrity.rdb.body import Body
from integrity.rdb.errors import MALFORMED, MalformedBody, UnsupportedBody
from integrity.rdb.expiring import expiring_listpack, relative_time, seconds_time
from integrity.rdb.packed import intset, listpack, node_elements, ziplist, zipmap
from integrity.rdb.scores import spelled, text_score
from integrity.rdb.stream_pieces import stream_pieces_of

Portion: TypeAlias = tuple[list[bytes], list[int]]
"""Flat elements, and the expiry of each where the encoding has room for one."""
_Portions: TypeAlias = Callable[[Body], Iterator[Portion]]

_PORTION_STRINGS: Final = 512
_PORTION_BYTES: Final = 64 * 1024
"""Of strings that are taken from a body at once; short ones have less in any case."""

_double: Final = Struct("<d").unpack
_milliseconds: Final = Struct("<q").unpack


def comes_in_pieces(rdb_type: int, rdb_version: int) -> bool:
    """Whether :func:`pieces_of` knows the encoding in a file of this version."""
    whole = (types.STRING, types.JSON, *types.STREAM_FORMS)
    return rdb_type in whole or _portions_of(rdb_type, rdb_version) is not None


def can_be_written(rdb_type: int) -> bool:
    """Whether pieces come in the order in which a value is written; those of streams come as the file has them."""
    return rdb_type not in types.STREAM_FORMS


def pieces_of(rdb_type: int, body: Body, limit: PieceSize, rdb_version: int) -> Iterator[Piece]:
    """The pieces of a body, as :meth:`~integrity.kinds.base.Kind.hasher` takes them; leaves *body* behind it.

    :raises MalformedBody: it is not what *rdb_type* says.
    """
    try:
        yield from _pieces(rdb_type, body, limit, rdb_version)
    except MalformedBody:
        raise
    except MALFORMED as error:
        raise MalformedBody(f"a value of RDB type {rdb_type} is malformed") from error


def _pieces(rdb_type: int, body: Body, limit: PieceSize, rdb_version: int) -> Iterator[Piece]:
    if rdb_type == types.STRING:
        # Whether it is a HyperLogLog shows only on the whole of it.
        for part in body.string_parts(max(limit.bytes, LONGEST + 1)):
            yield Piece(part)
    elif rdb_type == types.JSON:
        yield Piece(body.string())
    elif rdb_type in types.STREAM_FORMS:
        yield from stream_pieces_of(types.STREAM_FORMS[rdb_type], body, limit)
    else:
        portions = _portions_of(rdb_type, rdb_version)
        if portions is None:
            raise UnsupportedBody(f"values of RDB type {rdb_type} do not come in pieces")
        yield from _joined(portions(body), _width(rdb_type), limit)


def _width(rdb_type: int) -> int:
    return 2 if rdb_type in types.PAIRS else 1


def _joined(portions: Iterable[Portion], width: int, limit: PieceSize) -> Iterator[Piece]:
    """Pieces of about *limit*, whatever the portions; *width* elements stay together."""
    content: list[bytes] = []
    times: list[int] = []
    size = 0
    most = limit.elements * width
    for elements, beside in portions:
        content += elements
        times += beside
        size += sum(map(len, elements))
        while len(content) >= most or (size >= limit.bytes and content):
            yield _piece(content[:most], times[: limit.elements])
            content, times = content[most:], times[limit.elements :]
            size = sum(map(len, content))
    if content:
        yield _piece(content, times)


def _piece(content: list[bytes], times: list[int]) -> Piece:
    return Piece([*content], expiries=tuple(times))


# -- encodings -------------------------------------------------------------------------------------------------------


def _strings(each: int, body: Body) -> Iterator[Portion]:
    left = each * body.length()
    while left:
        found = body.strings(min(left, _PORTION_STRINGS), _PORTION_BYTES)
        if len(found) % each:
            found.append(body.string())
        left -= len(found)
        yield found, []


def _scored(body: Body) -> Iterator[Portion]:
    for _ in repeat(None, body.length()):
        member = body.string()
        yield [member, spelled(_double(body.take(8))[0])], []


def _scored_text(body: Body) -> Iterator[Portion]:
    for _ in repeat(None, body.length()):
        member, size = body.string(), body.take(1)[0]
        yield [member, text_score(size, body.take(size) if size < 253 else b"")], []


def _packed(unpack: Callable[[bytes], list[bytes]], body: Body) -> Iterator[Portion]:
    yield unpack(body.string()), []


def _ziplists(body: Body) -> Iterator[Portion]:
    for _ in repeat(None, body.length()):
        yield ziplist(body.string()), []


def _listpacks(body: Body) -> Iterator[Portion]:
    for _ in repeat(None, body.length()):
        container, node = body.length(), body.string()
        yield node_elements(container, node), []


def _expiring_packed(has_earliest: bool, body: Body) -> Iterator[Portion]:
    body.take(8 if has_earliest else 0)
    yield expiring_listpack(body.string())


def _expiring_redis(has_earliest: bool, body: Body) -> Iterator[Portion]:
    earliest = _milliseconds(body.take(8))[0] if has_earliest else None
    for _ in repeat(None, body.length()):
        time = relative_time(earliest, body.length())
        yield [body.string(), body.string()], [time]


def _expiring_valkey(body: Body) -> Iterator[Portion]:
    for _ in repeat(None, body.length()):
        pair = [body.string(), body.string()]
        yield pair, [_milliseconds(body.take(8))[0]]


def _expiring_dragonfly(each: int, body: Body) -> Iterator[Portion]:
    for _ in repeat(None, body.length()):
        elements = [body.string() for _ in range(each)]
        yield elements, [seconds_time(body.string())]


_PORTIONS: Final[dict[int, _Portions]] = {
    types.LIST: partial(_strings, 1),
    types.SET: partial(_strings, 1),
    types.SORTED_SET_TEXT: _scored_text,
    types.HASH: partial(_strings, 2),
    types.SORTED_SET: _scored,
    types.HASH_ZIPMAP: partial(_packed, zipmap),
    types.LIST_ZIPLIST: partial(_packed, ziplist),
    types.SET_INTSET: partial(_packed, intset),
    types.SORTED_SET_ZIPLIST: partial(_packed, ziplist),
    types.HASH_ZIPLIST: partial(_packed, ziplist),
    types.LIST_QUICKLIST: _ziplists,
    types.HASH_LISTPACK: partial(_packed, listpack),
    types.SORTED_SET_LISTPACK: partial(_packed, listpack),
    types.LIST_QUICKLIST_2: _listpacks,
    types.SET_LISTPACK: partial(_packed, listpack),
    types.HASH_LISTPACK_EXPIRING_OLD: partial(_expiring_packed, False),
    types.HASH_EXPIRING: partial(_expiring_redis, True),
    types.HASH_LISTPACK_EXPIRING: partial(_expiring_packed, True),
    types.HASH_DRAGONFLY: partial(_expiring_dragonfly, 2),
    types.SET_DRAGONFLY: partial(_expiring_dragonfly, 1),
}
_HASH_2_REDIS: Final[_Portions] = partial(_expiring_redis, False)


def _portions_of(rdb_type: int, rdb_version: int) -> _Portions | None:
    if rdb_type == types.HASH_2:
        return _expiring_valkey if rdb_version >= types.FIRST_VALKEY_VERSION else _HASH_2_REDIS
    return _PORTIONS.get(rdb_type)
