"""Stored values in the form of an older server.

Streams are the case that is met: Dragonfly and Redis 7.2 store them as type 21, which Redis 7.0 does not know; its
type 19 is the same but for each consumer's last active time, which no checksum holds.  Format: Redis ``rdb.c``.
"""

from __future__ import annotations

from typing import Final

STREAM_7_2: Final = 21
STREAM_7_0: Final = 19
_TIME_BYTES: Final = 8
_ID_BYTES: Final = 16


class _Body:
    """Walks along a body.

    :raises IndexError: it ends too early.
    :raises ValueError: an encoding that is not known.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def length(self) -> int:
        """The next number."""
        first = self._data[self.at]
        match first >> 6:
            case 0:
                size, value = 1, first & 0x3F
            case 1:
                size, value = 2, (first & 0x3F) << 8 | self._data[self.at + 1]
            case _ if first in (0x80, 0x81):
                size = 5 if first == 0x80 else 9
                value = int.from_bytes(self._data[self.at + 1 : self.at + size], "big")
            case _:
                raise ValueError(f"length encoding {first:#x}")
        self.skip(size)
        return value

    def string(self) -> None:
        """Pass over a string."""
        first = self._data[self.at]
        if first < 0xC0:
            self.skip(self.length())
        elif first < 0xC3:
            self.skip(1 + (1 << (first & 3)))
        elif first == 0xC3:
            self.skip(1)
            compressed = self.length()
            self.length()
            self.skip(compressed)
        else:
            raise ValueError(f"string encoding {first:#x}")

    def skip(self, size: int) -> None:
        """Pass over so many bytes."""
        self.at += size
        if self.at > len(self._data):
            raise IndexError("the body ends too early")


def stream_for_7_0(body: bytes) -> bytes | None:
    """A stream's body of type 21 as one of type 19; None where it is not one."""
    kept: list[bytes] = []
    start = 0
    walk = _Body(body)
    try:
        for _ in range(walk.length()):
            walk.string()
            walk.string()
        # Length, last id, first id, greatest deleted id, entries added.
        for _ in range(8):
            walk.length()
        for _ in range(walk.length()):
            walk.string()
            # Last delivered id, entries read.
            for _ in range(3):
                walk.length()
            for _ in range(walk.length()):
                walk.skip(_ID_BYTES + _TIME_BYTES)
                walk.length()
            for _ in range(walk.length()):
                walk.string()
                walk.skip(_TIME_BYTES)
                kept.append(body[start : walk.at])
                walk.skip(_TIME_BYTES)
                start = walk.at
                walk.skip(walk.length() * _ID_BYTES)
    except (IndexError, ValueError):
        return None
    kept.append(body[start:])
    return b"".join(kept) if walk.at == len(body) else None
