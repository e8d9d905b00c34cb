"""What is asked about every key: four or five commands that read no value, and count as no use of the key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from integrity.census.classes import FARTHEST_MS
from integrity.keyspace import memory_usage_known
from integrity.replies import ErrorReply, Reply
from integrity.sizes import MEMORY_USAGE
from integrity.wire import Connection, every

_TYPE: Final = b"*2\r\n$4\r\nTYPE\r\n"
_PTTL: Final = b"*2\r\n$4\r\nPTTL\r\n"
_ENCODING: Final = b"*3\r\n$6\r\nOBJECT\r\n$8\r\nENCODING\r\n"
_FREQUENCY: Final = b"*3\r\n$6\r\nOBJECT\r\n$4\r\nFREQ\r\n"
_PROBE: Final = b"$14\r\ngreenfly:probe\r\n"
_GONE: Final = -2
NO_TYPE: Final = b"none"


@dataclass(frozen=True, slots=True)
class Columns:
    """The answers about some keys, one per key in each list."""

    types: list[bytes]
    """``none`` where the key is gone."""
    left: list[int]
    """Milliseconds until it expires; −1 where it does not."""
    sizes: list[int]
    """Bytes of memory; 0 where the server does not tell, empty where it was not asked."""
    encodings: list[bytes]
    """Empty where the server does not tell."""
    heat: list[int]
    """The server's own count of uses, on its scale of 0 to 255; empty where it does not count."""


@dataclass(frozen=True, slots=True)
class Questions:
    """Which of the questions this server answers."""

    sizes: bool
    encodings: bool
    heat: bool

    @classmethod
    def of(cls, connection: Connection, *, sizes: bool, heat: bool) -> Self:
        """Try each of them on a key that is not there.

        :param sizes: MEMORY USAGE may be asked for each key.
        :param heat: the server says that it counts uses.
        :raises ServerError: the connection is lost.
        """
        encodings = not isinstance(connection.exchange([_ENCODING + _PROBE])[0], ErrorReply)
        return cls(sizes and memory_usage_known(connection), encodings, heat and encodings)

    @property
    def per_key(self) -> int:
        """How many replies a key brings."""
        return 2 + self.sizes + self.encodings + self.heat

    def commands(self, arguments: Sequence[bytes]) -> bytes:
        """The packed commands about these keys (as RESP arguments)."""
        parts = [every(_TYPE, arguments), every(_PTTL, arguments)]
        if self.sizes:
            parts.append(every(MEMORY_USAGE, arguments))
        if self.encodings:
            parts.append(every(_ENCODING, arguments))
        if self.heat:
            parts.append(every(_FREQUENCY, arguments))
        return b"".join(parts)

    def columns(self, connection: Connection, replies: Sequence[Reply], count: int) -> Columns:
        """The replies to :meth:`commands`, sorted.

        :raises ServerError: the server refused TYPE or PTTL, without which nothing can be told.
        """
        parts = [list(replies[start : start + count]) for start in range(0, len(replies), count)]
        types = [_text(connection, reply, "TYPE") for reply in parts[0]]
        left = _numbers(connection, parts[1], "PTTL")
        rest = iter(parts[2:])
        sizes = _numbers(connection, next(rest), None) if self.sizes else []
        encodings = (
            [reply if isinstance(reply, bytes) else b"" for reply in next(rest)] if self.encodings else []
        )
        heat = _numbers(connection, next(rest), None) if self.heat else []
        return Columns(types, left, sizes, encodings, heat)


def _text(connection: Connection, reply: Reply, doing: str) -> bytes:
    if reply.__class__ is bytes:
        return reply
    if isinstance(reply, ErrorReply):
        raise connection.error_for(reply, doing)
    return NO_TYPE


def _numbers(connection: Connection, replies: Sequence[Reply], required: str | None) -> list[int]:
    """Whole numbers; what is none becomes 0, or is an error where the answer is required."""
    numbers = [reply for reply in replies if reply.__class__ is int]
    if len(numbers) == len(replies):
        return numbers
    if required is not None:
        for reply in replies:
            if isinstance(reply, ErrorReply):
                raise connection.error_for(reply, required)
    return [reply if isinstance(reply, int) else 0 for reply in replies]


def only(columns: Columns, kept: Sequence[int]) -> Columns:
    """The same columns with the positions *kept* alone."""
    return Columns(
        [columns.types[i] for i in kept],
        [columns.left[i] for i in kept],
        [columns.sizes[i] for i in kept] if columns.sizes else [],
        [columns.encodings[i] for i in kept] if columns.encodings else [],
        [columns.heat[i] for i in kept] if columns.heat else [],
    )


def beyond(left: Sequence[int]) -> list[int]:
    """Positions of keys that expire later than Dragonfly keeps."""
    return [i for i, milliseconds in enumerate(left) if milliseconds > FARTHEST_MS]
