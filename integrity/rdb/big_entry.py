"""A value that is too big to be held: walked along, or decoded piece by piece, while the file is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from xxhash import xxh3_64

from integrity.kinds.pieces import Piece, PieceSize
from integrity.rdb.body import Body, TooShort
from integrity.rdb.errors import MalformedBody, RdbDamaged, RdbUnsupported, UnsupportedBody
from integrity.rdb.pieces import comes_in_pieces, pieces_of
from integrity.rdb.walk import walk_for

Tap = Callable[[bytes], object]
"""Is given a body's raw bytes, chunk by chunk."""


class Source(Protocol):
    """The file that a big value is read from; its next byte is the body's first."""

    @property
    def position(self) -> int:
        """Where in the file."""

    def take_chunk(self) -> bytes:
        """The next bytes; none at the file's end."""

    def consumed(self, data: bytes | memoryview) -> None:
        """Count bytes that belonged to the value."""

    def give_back(self, data: bytes) -> None:
        """Take back what was not consumed."""


class BigEntry:
    """One key whose body is longer than the reader's bound.

    Once, and before the reader goes on: :meth:`pieces` to its end, or :meth:`skim`.
    """

    __slots__ = (
        "_begun",
        "_hash",
        "_path",
        "_source",
        "body_xxh3",
        "database",
        "expiry_ms",
        "key",
        "length",
        "offset",
        "rdb_type",
        "rdb_version",
    )

    def __init__(
        self,
        source: Source,
        path: Path,
        rdb_version: int,
        database: int,
        key: bytes,
        rdb_type: int,
        expiry_ms: int | None,
    ) -> None:
        self._source = source
        self._path = path
        self._hash = xxh3_64()
        self._begun = False
        self.rdb_version = rdb_version
        self.database = database
        self.key = key
        self.rdb_type = rdb_type
        self.expiry_ms = expiry_ms
        """As in :class:`~integrity.rdb.entry.Entry`."""
        self.offset = source.position
        """Of the body, in bytes from the file's beginning."""
        self.length: int | None = None
        """Of the body; known when it has been read."""
        self.body_xxh3: int | None = None
        """XXH3-64 of the body; known when it has been read."""

    @property
    def comes_in_pieces(self) -> bool:
        """Whether :meth:`pieces` knows the encoding."""
        return comes_in_pieces(self.rdb_type, self.rdb_version)

    def pieces(self, limit: PieceSize, tap: Tap | None = None) -> Iterator[Piece]:
        """The value in pieces, as :meth:`~integrity.kinds.base.Kind.hasher` takes them.

        :param tap: is given the raw body meanwhile.
        :raises RdbDamaged: the file ends within the value, or it is not what its type says.
        """
        feed, body = self._begin(tap)
        try:
            yield from pieces_of(self.rdb_type, body, limit, self.rdb_version)
        except MalformedBody as error:
            raise self._damage(error, feed, body) from error
        self._end(feed, body)

    def skim(self, tap: Tap | None = None) -> None:
        """Pass over the value; see :meth:`pieces`."""
        if self.length is not None:
            return
        feed, body = self._begin(tap)
        try:
            walk_for(self.rdb_type, self.rdb_version)(body)
        except MalformedBody as error:
            raise self._damage(error, feed, body) from error
        self._end(feed, body)

    def _begin(self, tap: Tap | None) -> tuple[_Feed, Body]:
        if self._begun:
            raise RuntimeError("a big value is read once, and to its end")
        self._begun = True
        feed = _Feed(self._source, self._hash, tap)
        return feed, Body(feed)

    def _end(self, feed: _Feed, body: Body) -> None:
        feed.end(body.left)
        self.length = self._source.position - self.offset
        self.body_xxh3 = self._hash.intdigest()

    def _damage(self, error: MalformedBody, feed: _Feed, body: Body) -> RdbDamaged | RdbUnsupported:
        if isinstance(error, TooShort):
            return RdbDamaged(self._path, "the file ends within the value of a key", self._source.position)
        at = feed.handed_out(body.left)
        kind = RdbUnsupported if isinstance(error, UnsupportedBody) else RdbDamaged
        return kind(self._path, f"the value of a key is malformed: {error}", at)


class _Feed:
    """Chunks of the file for one value; each counts as consumed when the next is asked for."""

    def __init__(self, source: Source, state: xxh3_64, tap: Tap | None) -> None:
        self._source = source
        self._state = state
        self._tap = tap
        self._chunk = b""

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._count(self._chunk)
        self._chunk = self._source.take_chunk()
        return self._chunk

    def handed_out(self, left: int) -> int:
        """Place in the file of the first byte that was not taken; *left* bytes of the newest chunk were not."""
        return self._source.position + len(self._chunk) - left

    def end(self, left: int) -> None:
        """Give back the last *left* bytes."""
        end = len(self._chunk) - left
        self._count(self._chunk[:end])
        self._source.give_back(self._chunk[end:])

    def _count(self, data: bytes) -> None:
        self._state.update(data)
        self._source.consumed(data)
        if self._tap is not None and data:
            self._tap(data)
