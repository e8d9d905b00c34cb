"""Bodies of hashes whose fields expire, and of Dragonfly's sets whose members do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
_DRAGONFLY_EPOCH_SECONDS: Final = 1_675_209_600
"""Dragonfly counts the expiries of members from 2023-02-01."""


def without_expired(
    elements: list[bytes], times: Sequence[int], as_of_ms: int
) -> tuple[list[bytes], list[int]]:
    """Those whose expiry had not passed at *as_of_ms*, as a server shows them; files also hold the others."""
    if not times or not any(NONE < time <= as_of_ms for time in times):
        return elements, [*times]
    width = len(elements) // len(times)
    kept = [number for number, time in enumerate(times) if not NONE < time <= as_of_ms]
    parts = [elements[number * width : (number + 1) * width] for number in kept]
    return [element for part in parts for element in part], [times[number] for number in kept]


def relative_time(earliest: int | None, time: int) -> int:
    """A field's expiry: relative to *earliest* and one more, because nought is none; or absolute where that is None."""
    if not time:
        return NONE
    return time if earliest is None else earliest + time - 1


def seconds_time(text: bytes) -> int:
    """An expiry of Dragonfly.

    :raises ValueError: it is no number.
    """
    seconds = int(text)
    return NONE if seconds < 0 else (seconds + _DRAGONFLY_EPOCH_SECONDS) * 1000


def expiring_listpack(packed: bytes) -> tuple[list[bytes], list[int]]:
    """Fields, values and times in turn.

    :raises MalformedBody: it is something else.
    :raises IndexError: it is cut off.
    :raises ValueError: a time is no number.
    """
    found = listpack(packed)
    if len(found) % 3:
        raise MalformedBody("a hash lacks a part of its last field")
    pairs: list[bytes] = [b""] * (len(found) // 3 * 2)
    pairs[::2], pairs[1::2] = found[::3], found[1::3]
    return pairs, [time or NONE for time in map(int, found[2::3])]


def _expiring_redis(has_earliest: bool, body: bytes) -> tuple[list[bytes], list[int]]:
    earliest = _milliseconds(body)[0] if has_earliest else None
    count, at = length_at(body, 8 if has_earliest else 0)
    pairs: list[bytes] = []
    times: list[int] = []
    for _ in range(count):
        time, at = length_at(body, at)
        found, at = strings_at(body, at, 2)
        pairs += found
        times.append(relative_time(earliest, time))
    expect_end(body, at)
    return pairs, times


def _expiring_packed(has_earliest: bool, body: bytes) -> tuple[list[bytes], list[int]]:
    return expiring_listpack(only_string(body[8:] if has_earliest else body))


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
    return elements, [*map(seconds_time, found[width - 1 :: width])]


_EXPIRING: Final[dict[int, Expiring]] = {
    types.HASH_LISTPACK_EXPIRING_OLD: partial(_expiring_packed, False),
    types.HASH_EXPIRING: partial(_expiring_redis, True),
    types.HASH_LISTPACK_EXPIRING: partial(_expiring_packed, True),
    types.HASH_DRAGONFLY: partial(_expiring_dragonfly, 3),
    types.SET_DRAGONFLY: partial(_expiring_dragonfly, 2),
}
_HASH_2_REDIS: Final[Expiring] = partial(_expiring_redis, False)


def expiring_decoder(rdb_type: int, rdb_version: int) -> Expiring | None:
    """What decodes a body of this type; None where its elements do not expire."""
    if rdb_type == types.HASH_2:
        return _expiring_valkey if rdb_version >= types.FIRST_VALKEY_VERSION else _HASH_2_REDIS
    return _EXPIRING.get(rdb_type)
