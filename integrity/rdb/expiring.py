"""Bodies of hashes whose fields expire, and of Dragonfly's sets whose members do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from struct import Struct
from typing import Final

from integrity.kinds.field_expiry import NONE
from integrity.rdb import types
from integrity.rdb.errors import MalformedBody
from integrity.rdb.packed import listpack
from integrity.rdb.strings import counted_strings, expect_end, length_at, only_string, strings_at

Expiring = Callable[[bytes], tuple[list[bytes], list[int]]]
"""Flat elements, and the expiry of each field or member in milliseconds, −1 for none.

:raises MalformedBody: the body is not the type's.
:raises IndexError: it is cut off.
:raises struct.error: it is cut off.
:raises ValueError: it is something else.
"""

_milliseconds: Final = Struct("<q").unpack_from


def _expiring_redis(has_earliest: bool, body: bytes) -> tuple[list[bytes], list[int]]:
    earliest = at = 0
    if has_earliest:
        (earliest,), at = _milliseconds(body), 8
    count, at = length_at(body, at)
    pairs: list[bytes] = []
    times: list[int] = []
    for _ in range(count):
        time, at = length_at(body, at)
        found, at = strings_at(body, at, 2)
        pairs += found
        # Stored relative to the earliest, and one more, because nought is none.
        times.append(NONE if not time else earliest + time - 1 if has_earliest else time)
    expect_end(body, at)
    return pairs, times


def _expiring_listpack(has_earliest: bool, body: bytes) -> tuple[list[bytes], list[int]]:
    found = listpack(only_string(body[8:] if has_earliest else body))
    if len(found) % 3:
        raise MalformedBody("a hash lacks a part of its last field")
    pairs: list[bytes] = [b""] * (len(found) // 3 * 2)
    pairs[::2], pairs[1::2] = found[::3], found[1::3]
    return pairs, [time or NONE for time in map(int, found[2::3])]


def _expiring_valkey(body: bytes) -> tuple[list[bytes], list[int]]:
    count, at = length_at(body, 0)
    pairs: list[bytes] = []
    times: list[int] = []
    for _ in range(count):
        found, at = strings_at(body, at, 2)
        pairs += found
        times.append(_milliseconds(body, at)[0])
        at += 8
    expect_end(body, at)
    return pairs, times


def _expiring_dragonfly(width: int, body: bytes) -> tuple[list[bytes], list[int]]:
    found = counted_strings(body, width)
    elements = [b""] * (len(found) // width * (width - 1))
    for place in range(width - 1):
        elements[place :: width - 1] = found[place::width]
    seconds = map(int, found[width - 1 :: width])
    return elements, [NONE if time < 0 else time * 1000 for time in seconds]


_EXPIRING: Final[dict[int, Expiring]] = {
    types.HASH_LISTPACK_EXPIRING_OLD: partial(_expiring_listpack, False),
    types.HASH_EXPIRING: partial(_expiring_redis, True),
    types.HASH_LISTPACK_EXPIRING: partial(_expiring_listpack, True),
    types.HASH_DRAGONFLY: partial(_expiring_dragonfly, 3),
    types.SET_DRAGONFLY: partial(_expiring_dragonfly, 2),
}
_HASH_2_REDIS: Final[Expiring] = partial(_expiring_redis, False)


def expiring_decoder(rdb_type: int, rdb_version: int) -> Expiring | None:
    """What decodes a body of this type; None where its elements do not expire."""
    if rdb_type == types.HASH_2:
        return _expiring_valkey if rdb_version >= types.FIRST_VALKEY_VERSION else _HASH_2_REDIS
    return _EXPIRING.get(rdb_type)
