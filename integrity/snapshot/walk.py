"""Reading an RDB file that Greenfly wrote, guided by the manifest's rows in file order.

What stands between two bodies is known to the byte from the rows, so it is compared, not parsed: a file in which every
gap is as expected holds exactly the manifest's keys, types and expiries.  Only where one is not is it taken apart, to
say what is there instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

import anycrc
import xxhash
from xxhash import xxh3_64_intdigest

from integrity.errors import ArtifactError
from integrity.kinds.pieces import Piece, PieceSize
from integrity.rdb.body import Body
from integrity.rdb.errors import MalformedBody
from integrity.rdb.pieces import pieces_of
from integrity.snapshot.files import CHUNK_BYTES, Stream
from integrity.snapshot.manifest import ManifestRow
from integrity.snapshot.rdb import AUX, EOF, encode_entry_head, encode_select, magic

_TRAILER_BYTES: Final = 8
_MOST_GAP_BYTES: Final = 1 << 30
"""A key of 512 MiB, the longest that Redis takes, and then some."""
_REMEDY: Final = "Use another snapshot, or another copy of this one."


class Damage(ArtifactError):
    """An RDB file is not what the manifest says.

    :param offset: where, in plain bytes from the file's beginning.
    """

    def __init__(self, path: Path, problem: str, offset: int, row: ManifestRow | None = None) -> None:
        super().__init__(f"{path} is damaged: {problem} (at byte {offset:,}).", _REMEDY)
        self.path = path
        self.what = problem
        self.offset = offset
        self.row = row


class Walk(Protocol):
    """Walks along one RDB file, for each row :meth:`enter` and one of :meth:`body`, :meth:`pieces` and :meth:`skim`.

    Then :meth:`finish`.
    """

    @property
    def at_end(self) -> bool:
        """Whether the file has been read to its end."""

    @property
    def size(self) -> int:
        """Bytes of the whole file, after :meth:`finish` or :meth:`drain`."""

    @property
    def xxh3(self) -> str:
        """XXH3-128 of the plain bytes, after :meth:`finish` or :meth:`drain`."""

    @property
    def checksum_fits(self) -> bool:
        """Whether the CRC-64 at the end is that of what stands before it; after :meth:`finish` or :meth:`drain`."""

    def enter(self, row: ManifestRow) -> None:
        """Go to the beginning of a row's body, and check all that stands before it.

        :raises Damage: something else stands there.  The next row can still be entered.
        """

    def body(self, row: ManifestRow) -> bytes:
        """The row's body, and check its hash.

        :raises Damage: the file ends within it, or it was changed.
        """

    def skim(self, row: ManifestRow) -> None:
        """Check the row's body without holding it.

        :raises Damage: as in :meth:`body`.
        """

    def pieces(self, row: ManifestRow, limit: PieceSize) -> Iterator[Piece]:
        """The row's value in pieces, which are proved only when the last one has been taken.

        :raises MalformedBody: it is not what its type says.
        :raises Damage: as in :meth:`body`.
        """

    def pass_over(self, row: ManifestRow) -> None:
        """Go to where a row's body ends, after damage in it or before it."""

    def finish(self) -> None:
        """Read to the end.

        :raises Damage: what follows the last key is not the file's end, or its CRC-64 does not fit.
        """

    def drain(self) -> None:
        """Read to the end, whatever it is."""


class RdbWalk:
    """A :class:`Walk` along a file that Greenfly wrote."""

    def __init__(self, stream: Stream, path: Path, rdb_version: int) -> None:
        self._stream = stream
        self._path = path
        self._rdb_version = rdb_version
        self._magic = magic(rdb_version)
        self._model = anycrc.Model("CRC64-REDIS")
        self._crc: int = 0
        self._held = b""
        """The newest bytes that the checksum does not hold yet: the last eight are the checksum itself."""
        self._buffer = b""
        self._at = 0
        """Place in the buffer."""
        self._xxh3 = xxhash.xxh3_128()
        self._database: int | None = None
        self._first = True
        self.at_end = False
        """Whether the file has been read to its end."""
        self.position = 0
        """Bytes taken from the file."""

    @property
    def size(self) -> int:
        """Bytes of the whole file, after :meth:`finish` or :meth:`drain`."""
        return self.position

    @property
    def xxh3(self) -> str:
        """XXH3-128 of the plain bytes, after :meth:`finish` or :meth:`drain`."""
        return self._xxh3.hexdigest()

    @property
    def checksum_fits(self) -> bool:
        """Whether the CRC-64 at the end is that of what stands before it; after :meth:`finish` or :meth:`drain`."""
        return self._held == self._crc.to_bytes(_TRAILER_BYTES, "little")

    def enter(self, row: ManifestRow) -> None:
        """Go to the beginning of a row's body, and check all that stands before it.

        :raises Damage: something else stands there.  The next row can still be entered.
        """
        start = self.position
        length = row.offset - start
        if length < 0 or length > _MOST_GAP_BYTES or row.length < 0:
            raise Damage(self._path, "the manifest's offsets do not follow the file", start, row)
        gap = self._take(length)
        if len(gap) < length:
            raise Damage(self._path, "the file ends before this key", start + len(gap), row)
        expected = encode_entry_head(row.key, row.rdb_type, row.expiry_ms)
        if row.database != self._database:
            expected = encode_select(row.database) + expected
        self._database = row.database
        if self._first:
            self._first = False
            prelude = gap[: -len(expected)]
            if not gap.endswith(expected) or not self._prelude_fits(prelude):
                raise Damage(self._path, "the file's beginning is not an RDB file's", start, row)
        elif gap != expected:
            raise Damage(self._path, f"before this key stands {_difference(gap, expected)}", start, row)

    def body(self, row: ManifestRow) -> bytes:
        """The row's body, and check its hash.

        :raises Damage: the file ends within it, or it was changed.
        """
        start = self.position
        data = self._take(row.length)
        if len(data) < row.length:
            raise Damage(self._path, "the file ends within this key's value", start + len(data), row)
        if row.body_xxh3 is not None and xxh3_64_intdigest(data) != row.body_xxh3:
            raise Damage(self._path, "this key's value was changed", start, row)
        return data

    def skim(self, row: ManifestRow) -> None:
        """Check the row's body without holding it.

        :raises Damage: as in :meth:`body`.
        """
        if row.length <= CHUNK_BYTES:
            self.body(row)
            return
        for _ in self.chunks(row):
            pass

    def chunks(self, row: ManifestRow) -> Iterator[bytes]:
        """The row's body in parts, which are proved only when the last one has been taken.

        :raises Damage: as in :meth:`body`.
        """
        start, state, left = self.position, xxhash.xxh3_64(), row.length
        while left:
            piece = self._take(min(left, CHUNK_BYTES))
            if not piece:
                raise Damage(self._path, "the file ends within this key's value", self.position, row)
            state.update(piece)
            left -= len(piece)
            yield piece
        if row.body_xxh3 is not None and state.intdigest() != row.body_xxh3:
            raise Damage(self._path, "this key's value was changed", start, row)

    def pieces(self, row: ManifestRow, limit: PieceSize) -> Iterator[Piece]:
        """The row's value in pieces, which are proved only when the last one has been taken.

        :raises MalformedBody: it is not what its type says.
        :raises Damage: as in :meth:`body`.
        """
        body = Body(self.chunks(row))
        try:
            yield from pieces_of(row.rdb_type, body, limit, self._rdb_version)
            body.finish()
        except MalformedBody:
            self.pass_over(row)
            raise

    def pass_over(self, row: ManifestRow) -> None:
        """Go to where a row's body ends, after damage in it or before it."""
        while (left := row.offset + row.length - self.position) > 0 and self._take(min(left, CHUNK_BYTES)):
            pass

    def finish(self) -> None:
        """Read to the end.

        :raises Damage: what follows the last key is not the file's end, or its CRC-64 does not fit.
        """
        start = self.position
        rest = self._take(CHUNK_BYTES)
        self.drain()
        end = rest[:-_TRAILER_BYTES]
        prelude = end[:-1]
        fits = end.endswith(EOF) and (self._prelude_fits(prelude) if self._first else not prelude)
        if not fits or self.position != start + len(rest):
            raise Damage(self._path, "after the last key of the manifest stands something else", start)
        if not self.checksum_fits:
            raise Damage(self._path, "its CRC-64 does not fit", self.position - _TRAILER_BYTES)

    def drain(self) -> None:
        """Read to the end, whatever it is."""
        while self._take(CHUNK_BYTES):
            pass

    def _prelude_fits(self, prelude: bytes) -> bool:
        """Whether the file begins with its magic number and auxiliary fields, and nothing else."""
        if not prelude.startswith(self._magic):
            return False
        place = len(self._magic)
        while place < len(prelude):
            if prelude[place : place + 1] != AUX:
                return False
            place += 1
            for _ in range(2):
                # Auxiliary fields are short: a length of one byte.
                if place >= len(prelude) or prelude[place] >= 1 << 6:
                    return False
                place += 1 + prelude[place]
        return place == len(prelude)

    def _take(self, size: int) -> bytes:
        """The next *size* bytes; fewer at the file's end."""
        end = self._at + size
        if end <= len(self._buffer):
            data = self._buffer[self._at : end]
            self._at = end
        else:
            parts = [self._buffer[self._at :]]
            missing = size - len(parts[0])
            while missing > 0 and (chunk := self._read(max(CHUNK_BYTES, min(missing, 64 * CHUNK_BYTES)))):
                parts.append(chunk[:missing])
                self._buffer, self._at = chunk, min(missing, len(chunk))
                missing -= len(parts[-1])
            if missing > 0:
                self._buffer, self._at = b"", 0
            data = b"".join(parts)
        self.position += len(data)
        return data

    def _read(self, size: int) -> bytes:
        chunk = self._stream.read(size)
        if chunk:
            self._xxh3.update(chunk)
            data = self._held + chunk
            self._held = data[-_TRAILER_BYTES:]
            self._crc = self._model.calc(data[:-_TRAILER_BYTES], self._crc)
        else:
            self.at_end = True
        return chunk


def _difference(gap: bytes, expected: bytes) -> str:
    """What stands in a gap instead of what should, in a few words; no content."""
    at = next((i for i, (a, b) in enumerate(zip(gap, expected, strict=False)) if a != b), None)
    if at is None:
        return f"{len(gap):,} bytes instead of {len(expected):,}"
    return f"another type, expiry or name, from the {at + 1}. byte on"
