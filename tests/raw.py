"""Raw replies: redis-py's connection without its command layer, and checks that give replies a type.

Used by what must not depend on the engine's own way of reading (:mod:`tests.oracle`, :mod:`tests.damage`).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self, TypeAlias

from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.retry import Retry

Argument: TypeAlias = bytes | str | int | float
Reply: TypeAlias = "bytes | int | list[Reply] | ResponseError | None"


class UnexpectedReply(AssertionError):
    """A reply that is not what was asked for; never passed over."""


class Raw:
    """One connection to one database of one server."""

    def __init__(self, url: str, database: int = 0) -> None:
        self._pool = ConnectionPool.from_url(
            url, protocol=2, driver_info=None, retry=Retry(NoBackoff(), 0), socket_timeout=60.0
        )
        self._pool.connection_kwargs["db"] = database
        self._connection = self._pool.get_connection()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.disconnect()  # type: ignore[no-untyped-call]
        self._pool.disconnect()

    def many(self, commands: Sequence[tuple[Argument, ...]]) -> list[Reply]:
        """Send all, then read all; redis-py's own pipelines take three times as long.  Errors are replies."""
        packed = self._connection.pack_commands(commands)  # type: ignore[no-untyped-call]
        self._connection.send_packed_command(packed, check_health=False)  # type: ignore[no-untyped-call]
        return [self._read() for _ in commands]

    def __call__(self, *command: Argument) -> Reply:
        """One command.

        :raises UnexpectedReply: the server answered with an error.
        """
        reply = self.many([command])[0]
        if isinstance(reply, ResponseError):
            raise UnexpectedReply(f"{command!r}: {reply}")
        return reply

    def keys(self) -> set[bytes]:
        """Every key, by SCAN."""
        found: set[bytes] = set()
        cursor = b"0"
        while True:
            next_cursor, page = as_list(self(b"SCAN", cursor, b"COUNT", b"2000"))
            found.update(as_bytes(key) for key in as_list(page))
            cursor = as_bytes(next_cursor)
            if cursor == b"0":
                return found

    def _read(self) -> Reply:
        try:
            reply: Reply = self._connection.read_response(disable_decoding=True)
        except ResponseError as error:
            return error
        return reply


def as_bytes(value: Reply) -> bytes:
    """A string."""
    if not isinstance(value, bytes):
        raise UnexpectedReply(f"expected a string, got {value!r}")
    return value


def as_int(value: Reply) -> int:
    """A number."""
    if not isinstance(value, int):
        raise UnexpectedReply(f"expected a number, got {value!r}")
    return value


def as_scalar(value: Reply) -> bytes | int:
    """A string or a number."""
    if not isinstance(value, bytes | int):
        raise UnexpectedReply(f"expected a string or number, got {value!r}")
    return value


def as_list(value: Reply) -> list[Reply]:
    """A list."""
    if not isinstance(value, list):
        raise UnexpectedReply(f"expected a list, got {value!r}")
    return value


def as_strings(value: Reply) -> list[bytes]:
    """A list of strings."""
    return [as_bytes(item) for item in as_list(value)]


def as_table(value: Reply) -> dict[bytes, Reply]:
    """A flat list of names and values."""
    flat = as_list(value)
    return {as_bytes(name): item for name, item in zip(flat[::2], flat[1::2], strict=True)}


def as_entries(value: Reply) -> list[tuple[bytes, list[bytes]]]:
    """The entries of a stream: id, and fields and values in turn."""
    pairs = (as_list(entry) for entry in as_list(value))
    return [(as_bytes(identifier), as_strings(fields)) for identifier, fields in pairs]


def as_pending(value: Reply) -> list[tuple[bytes, bytes, int]]:
    """XPENDING's list: id, consumer, delivery count; the idle time is left out."""
    items = (as_list(item) for item in as_list(value))
    return [(as_bytes(id_), as_bytes(consumer), as_int(count)) for id_, consumer, _idle, count in items]
