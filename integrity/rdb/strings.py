"""Strings in bytes that are all there: the same as :mod:`integrity.rdb.body`, without a method call for each."""

from __future__ import annotations

from typing import Final

from integrity.rdb.errors import MalformedBody
from integrity.rdb.lzf import decompress

_INTEGER_BYTES: Final = {0xC0: 1, 0xC1: 2, 0xC2: 4}
_COMPRESSED: Final = 0xC3


def length_at(data: bytes, at: int) -> tuple[int, int]:
    """The number at *at*, and where it ends.

    :raises MalformedBody: its encoding is not known.
    :raises IndexError: it is cut off.
    """
    first = data[at]
    if first < 0x40:
        return first, at + 1
    if first < 0x80:
        return (first & 0x3F) << 8 | data[at + 1], at + 2
    if first in (0x80, 0x81):
        end = at + (5 if first == 0x80 else 9)
        return int.from_bytes(data[at + 1 : end], "big"), end
    raise MalformedBody(f"length encoding {first:#x} is not known", at)


def string_at(data: bytes, at: int) -> tuple[bytes, int]:
    """The string at *at*, and where it ends; where that lies beyond the data, the string is cut off.

    :raises MalformedBody: its encoding is not known, or it is damaged.
    :raises IndexError: it is cut off.
    """
    first = data[at]
    if first < 0x40:
        end = at + 1 + first
        return data[at + 1 : end], end
    if first < 0xC0:
        size, at = length_at(data, at)
        return data[at : at + size], at + size
    if first in _INTEGER_BYTES:
        end = at + 1 + _INTEGER_BYTES[first]
        return b"%d" % int.from_bytes(data[at + 1 : end], "little", signed=True), end
    if first == _COMPRESSED:
        compressed, at = length_at(data, at + 1)
        size, at = length_at(data, at)
        end = at + compressed
        return decompress(data[at:end], size), end
    raise MalformedBody(f"string encoding {first:#x} is not known")


def string_end(data: bytes, at: int) -> int:
    """Where the string at *at* ends; beyond the data where it is cut off.  See :func:`string_at`."""
    first = data[at]
    if first < 0x40:
        return at + 1 + first
    if first < 0xC0:
        size, at = length_at(data, at)
        return at + size
    if first == _COMPRESSED:
        size, at = length_at(data, at + 1)
        return length_at(data, at)[1] + size
    if first in _INTEGER_BYTES:
        return at + 1 + _INTEGER_BYTES[first]
    raise MalformedBody(f"string encoding {first:#x} is not known", at)


def strings_at(data: bytes, at: int, count: int) -> tuple[list[bytes], int]:
    """*count* strings from *at* on, and where they end; see :func:`string_at`."""
    found: list[bytes] = []
    add = found.append
    for _ in range(count):
        first = data[at]
        if first < 0x40:
            end = at + 1 + first
            add(data[at + 1 : end])
            at = end
        else:
            string, at = string_at(data, at)
            add(string)
    return found, at


def only_string(data: bytes) -> bytes:
    """The string that *data* is.

    :raises MalformedBody: it is something else.
    """
    string, end = string_at(data, 0)
    if end != len(data):
        raise MalformedBody("a string is of another length")
    return string


def counted_strings(data: bytes, each: int) -> list[bytes]:
    """The strings of a body that is a count and then *each* strings for one.

    :raises MalformedBody: it is something else.
    :raises IndexError: it is cut off.
    """
    count, at = length_at(data, 0)
    found, at = strings_at(data, at, each * count)
    expect_end(data, at)
    return found


def expect_end(data: bytes, at: int) -> None:
    """Make sure that *data* ends at *at*.

    :raises MalformedBody: it does not.
    """
    if at != len(data):
        raise MalformedBody("a value is of another length")
