"""Encodings that pack the elements of a small collection into one string: listpack, ziplist, intset and zipmap.

Sources: Redis ``listpack.c``, ``ziplist.c``, ``intset.c``, ``zipmap.c``.
"""

from __future__ import annotations

from struct import Struct, unpack_from
from typing import Final

from integrity.rdb.errors import MalformedBody

_SMALL: Final = tuple(b"%d" % number for number in range(128))
_END: Final = 0xFF
_COUNT_UNKNOWN: Final = 0xFFFF
_LISTPACK_HEADER: Final = Struct("<IH")
_ZIPLIST_HEADER: Final = Struct("<IIH")
_LISTPACK_INTEGER_BYTES: Final = {0xF1: 2, 0xF2: 3, 0xF3: 4, 0xF4: 8}
_ZIPLIST_INTEGER_BYTES: Final = {0xC0: 2, 0xD0: 4, 0xE0: 8, 0xF0: 3, 0xFE: 1}
_INTSET_FORMATS: Final = {2: "h", 4: "i", 8: "q"}
_PLAIN_NODE, _PACKED_NODE = 1, 2
_as_text: Final = b"%d".__mod__


def listpack(data: bytes) -> list[bytes]:
    """The elements; numbers as text.

    :raises MalformedBody: it is none.
    :raises IndexError: it is cut off.
    """
    found: list[bytes] = []
    add = found.append
    small = _SMALL
    at = _LISTPACK_HEADER.size
    while True:
        head = data[at]
        if head < 0x80:
            add(small[head])
            at += 2
        elif head < 0xC0:
            # Behind each element stands its size, for reading backwards: of short ones in one byte.
            end = at + head - 0x7F
            add(data[at + 1 : end])
            at = end + 1
        elif head < 0xE0:
            number = (head & 0x1F) << 8 | data[at + 1]
            add(b"%d" % (number if number < 0x1000 else number - 0x2000))
            at += 3
        elif head < 0xF1:
            if head < 0xF0:
                begin = at + 2
                size = (head & 0x0F) << 8 | data[at + 1]
            else:
                begin = at + 5
                size = int.from_bytes(data[at + 1 : begin], "little")
            end = begin + size
            add(data[begin:end])
            at = end + _size_bytes(end - at)
        elif head in _LISTPACK_INTEGER_BYTES:
            end = at + 1 + _LISTPACK_INTEGER_BYTES[head]
            add(b"%d" % int.from_bytes(data[at + 1 : end], "little", signed=True))
            at = end + 1
        elif head == _END:
            break
        else:
            raise MalformedBody(f"listpack encoding {head:#x} is not known")
    size, count = _LISTPACK_HEADER.unpack_from(data)
    if size != len(data) or at + 1 != size or count not in (len(found), _COUNT_UNKNOWN):
        raise MalformedBody("a listpack's header does not fit its elements")
    return found


def node_elements(container: int, node: bytes) -> list[bytes]:
    """The elements of one node of a list of Redis 7.0: a listpack, or one that was too big for any.

    :raises MalformedBody: it is neither.
    :raises IndexError: it is cut off.
    """
    if container == _PACKED_NODE:
        return listpack(node)
    if container == _PLAIN_NODE:
        return [node]
    raise MalformedBody(f"a list's node is in the unknown form {container}")


def _size_bytes(size: int) -> int:
    """How many bytes the size of an element takes behind it."""
    if size <= 127:
        return 1
    if size < 16_383:
        return 2
    if size < 2_097_151:
        return 3
    return 4 if size < 268_435_455 else 5


def ziplist(data: bytes) -> list[bytes]:
    """The elements; numbers as text.

    :raises MalformedBody: it is none.
    :raises IndexError: it is cut off.
    """
    found: list[bytes] = []
    add = found.append
    at = _ZIPLIST_HEADER.size
    while (previous := data[at]) != _END:
        at += 5 if previous == 0xFE else 1
        head = data[at]
        if head < 0xC0:
            if head < 0x40:
                begin, size = at + 1, head
            elif head < 0x80:
                begin, size = at + 2, (head & 0x3F) << 8 | data[at + 1]
            else:
                begin, size = at + 5, int.from_bytes(data[at + 1 : at + 5], "big")
            at = begin + size
            add(data[begin:at])
        elif head in _ZIPLIST_INTEGER_BYTES:
            begin, at = at + 1, at + 1 + _ZIPLIST_INTEGER_BYTES[head]
            add(b"%d" % int.from_bytes(data[begin:at], "little", signed=True))
        elif 0xF1 <= head <= 0xFD:
            add(_SMALL[head - 0xF1])
            at += 1
        else:
            raise MalformedBody(f"ziplist encoding {head:#x} is not known")
    size, _tail, count = _ZIPLIST_HEADER.unpack_from(data)
    if size != len(data) or at + 1 != size or count not in (len(found), _COUNT_UNKNOWN):
        raise MalformedBody("a ziplist's header does not fit its elements")
    return found


def intset(data: bytes) -> list[bytes]:
    """The numbers as text.

    :raises MalformedBody: it is none.
    """
    if len(data) < 8:
        raise MalformedBody("an intset is cut off")
    width, count = unpack_from("<II", data)
    if width not in _INTSET_FORMATS or len(data) != 8 + width * count:
        raise MalformedBody("an intset's header does not fit its numbers")
    return list(map(_as_text, unpack_from(f"<{count}{_INTSET_FORMATS[width]}", data, 8)))


def zipmap(data: bytes) -> list[bytes]:
    """Fields and values in turn.

    :raises MalformedBody: it is none.
    :raises IndexError: it is cut off.
    """
    found: list[bytes] = []
    at = 1
    while data[at] != _END:
        free = 0
        for _ in range(2):
            size, at = data[at], at + 1
            if size >= 0xFE:
                if size == _END:
                    raise MalformedBody("a zipmap ends within a pair")
                size, at = int.from_bytes(data[at : at + 4], "little"), at + 4
            if len(found) % 2:
                # Behind a value may be room that it no longer uses.
                free, at = data[at], at + 1
            found.append(data[at : at + size])
            at += size
        at += free
    if at + 1 != len(data):
        raise MalformedBody("something follows a zipmap")
    return found
