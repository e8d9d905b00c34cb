"""Walking along an RDB file that a server wrote, guided by the manifest's rows in file order.

What such a file holds between two bodies is the server's affair (opcodes of many kinds, sizes in advance), so it is
parsed, and what was found is held against the row: a file that was walked to its end without damage holds exactly the
manifest's keys, types and expiries, each body where its row says and with its hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import xxhash
from xxhash import xxh3_64_intdigest

from integrity.kinds.pieces import Piece, PieceSize
from integrity.rdb.big_entry import BigEntry
from integrity.rdb.body import Body
from integrity.rdb.entry import Entry
from integrity.rdb.errors import RdbError
from integrity.rdb.pieces import pieces_of
from integrity.rdb.reader import RdbReader
from integrity.snapshot.files import CHUNK_BYTES, Stream
from integrity.snapshot.manifest import ManifestRow
from integrity.snapshot.walk import Damage


class CountedStream:
    """A stream that knows the size and hash of what was read from it."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._xxh3 = xxhash.xxh3_128()
        self.size = 0
        self.at_end = False

    @property
    def xxh3(self) -> str:
        """XXH3-128 of what was read."""
        return self._xxh3.hexdigest()

    def read(self, size: int, /) -> bytes:
        """At most *size* bytes; none at the end."""
        data = self._stream.read(size)
        self._xxh3.update(data)
        self.size += len(data)
        self.at_end = self.at_end or not data
        return data

    def drain(self) -> None:
        """Read to the end."""
        while self.read(CHUNK_BYTES):
            pass


class ForeignWalk:
    """A :class:`~integrity.snapshot.walk.Walk` along a file of which only the format is known."""

    def __init__(self, stream: Stream, path: Path, rdb_version: int) -> None:
        self._stream = CountedStream(stream)
        self._path = path
        self._rdb_version = rdb_version
        self._reader: RdbReader | None = None
        self._entries: Iterator[Entry | BigEntry] = iter(())
        self._ahead: Entry | BigEntry | None = None
        """An entry that no row has claimed yet."""
        self._broken = False

    @property
    def at_end(self) -> bool:
        """Whether the file has been read to its end, or cannot be read on."""
        return self._broken or self._stream.at_end

    @property
    def size(self) -> int:
        """Bytes of the whole file, after :meth:`drain`."""
        return self._stream.size

    @property
    def xxh3(self) -> str:
        """XXH3-128 of the plain bytes, after :meth:`drain`."""
        return self._stream.xxh3

    @property
    def checksum_fits(self) -> bool:
        """Whether the file's end was reached and its CRC-64 is right, or the server left it out."""
        return self._reader is not None and self._reader.checksum in {"fits", "not computed", "none"}

    def enter(self, row: ManifestRow) -> None:
        """Go to the beginning of a row's body, and check all that stands before it.

        :raises Damage: something else stands there.  The next row can still be entered.
        """
        entry = self._next(row)
        if entry is None:
            raise Damage(self._path, "the file ends before this key", self._stream.size, row)
        strange = entry.offset
        skipped = 0
        while entry is not None and entry.offset < row.offset:
            skipped += 1
            entry = self._following(row)
        self._ahead = entry
        if entry is None or entry.offset != row.offset:
            raise Damage(self._path, "the manifest's offsets do not follow the file", row.offset, row)
        if skipped:
            raise Damage(
                self._path, "before this key stands one that the manifest does not have", strange, row
            )
        found = (entry.database, entry.key, entry.rdb_type, entry.expiry_ms)
        if found != (row.database, row.key, row.rdb_type, row.expiry_ms):
            raise Damage(self._path, "here stands another type, expiry, database or name", row.offset, row)

    def body(self, row: ManifestRow) -> bytes:
        """The row's body, and check its length and hash.

        :raises Damage: the file ends within it, or it was changed.
        """
        entry = self._claimed(row)
        if isinstance(entry, Entry):
            self._check(row, entry.length, xxh3_64_intdigest(entry.body))
            return entry.body
        parts: list[bytes] = []
        self._skim(row, entry, parts.append)
        return b"".join(parts)

    def skim(self, row: ManifestRow) -> None:
        """Check the row's body without holding it.

        :raises Damage: as in :meth:`body`.
        """
        entry = self._claimed(row)
        if isinstance(entry, Entry):
            self._check(row, entry.length, xxh3_64_intdigest(entry.body))
        else:
            self._skim(row, entry, None)

    def pieces(self, row: ManifestRow, limit: PieceSize) -> Iterator[Piece]:
        """The row's value in pieces, which are proved only when the last one has been taken.

        :raises MalformedBody: it is not what its type says.
        :raises Damage: as in :meth:`body`.
        """
        entry = self._claimed(row)
        if isinstance(entry, Entry):
            self._check(row, entry.length, xxh3_64_intdigest(entry.body))
            yield from pieces_of(row.rdb_type, Body((), entry.body), limit, self._rdb_version)
            return
        with self._told(row):
            yield from entry.pieces(limit)
        self._check(row, entry.length, entry.body_xxh3)

    def pass_over(self, row: ManifestRow) -> None:
        """Go to where a row's body ends, after damage in it or before it."""
        if self._ahead is not None and self._ahead.offset <= row.offset:
            self._ahead = None

    def finish(self) -> None:
        """Read to the end.

        :raises Damage: what follows the last key is not the file's end, or its CRC-64 does not fit.
        """
        entry = self._next(None)
        if entry is not None:
            raise Damage(self._path, "after the last key of the manifest stands something else", entry.offset)

    def drain(self) -> None:
        """Read to the end, whatever it is."""
        self._stream.drain()

    def _next(self, row: ManifestRow | None) -> Entry | BigEntry | None:
        if self._ahead is not None:
            return self._ahead
        return self._following(row)

    def _following(self, row: ManifestRow | None) -> Entry | BigEntry | None:
        self._ahead = None
        if self._broken:
            raise Damage(
                self._path, "the file cannot be read beyond the damage before", self._stream.size, row
            )
        with self._told(row):
            if self._reader is None:
                self._reader = RdbReader(self._stream, self._path)
                if self._reader.version != self._rdb_version:
                    raise Damage(self._path, "its RDB version is not the one that the header knows", 0, row)
                self._entries = iter(self._reader)
            return next(self._entries, None)

    def _claimed(self, row: ManifestRow) -> Entry | BigEntry:
        entry, self._ahead = self._ahead, None
        if entry is None or entry.offset != row.offset:
            raise ValueError("the row was not entered")
        return entry

    def _skim(self, row: ManifestRow, entry: BigEntry, tap: Callable[[bytes], object] | None) -> None:
        with self._told(row):
            entry.skim(tap)
        self._check(row, entry.length, entry.body_xxh3)

    def _check(self, row: ManifestRow, length: int | None, body_xxh3: int | None) -> None:
        if length != row.length or (row.body_xxh3 is not None and body_xxh3 != row.body_xxh3):
            raise Damage(self._path, "this key's value was changed", row.offset, row)

    @contextmanager
    def _told(self, row: ManifestRow | None) -> Iterator[None]:
        try:
            yield
        except RdbError as error:
            self._broken = True
            raise Damage(self._path, error.what, error.offset, row) from error
        except Damage:
            self._broken = True
            raise
