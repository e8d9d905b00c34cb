"""Values of single keys, taken out of the file once more, as a :class:`~integrity.verify.look.Look` at the source.

Most keys never come here: their digest is in the manifest.  Here come those that have more to compare (counters of
streams, expiries of single hash fields), and those that differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from integrity.expiry import NO_EXPIRY
from integrity.from_rdb.source_file import opened
from integrity.kinds import KINDS, STREAM, MalformedReply
from integrity.kinds.hash import HashHasher
from integrity.kinds.pieces import Piece, PieceSize
from integrity.kinds.stream import StreamHasher
from integrity.rdb.body import Body
from integrity.rdb.errors import MalformedBody
from integrity.rdb.pieces import comes_in_pieces, pieces_of
from integrity.rdb.values import whole_pieces
from integrity.snapshot.manifest import ManifestRow
from integrity.snapshot.restore_big import without_due
from integrity.verify.look import ABSENT, Look

_CHUNK_BYTES: Final = 1 << 20


class Bodies:
    """Reads single values; a context manager.

    :param piece: in which pieces values beyond its size are read.
    """

    def __init__(self, path: Path, rdb_version: int, piece: PieceSize) -> None:
        self._path = path
        self._version = rdb_version
        self._piece = piece
        self._opening = opened(path)
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        self._file = self._opening.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opening.__exit__(kind, error, trace)

    def look(self, row: ManifestRow, now_ms: int) -> Look:
        """The key as the file has it, without those fields of a hash whose expiry has passed.

        :param now_ms: by the target's clock.
        """
        expiry_ms = row.expiry_ms if row.expiry_ms is not None else NO_EXPIRY
        kind = KINDS.get(row.kind.encode())
        if kind is None or row.digest is None:
            return Look(
                row.kind, expiry_ms, problem="values of this type have no form that could be compared"
            )
        hasher = kind.hasher()
        whole: Piece | None = None
        pieces = 0
        try:
            for piece in self._pieces(row):
                live = without_due(piece, now_ms)
                hasher.add(live)
                whole = live
                pieces += 1
        except (MalformedBody, MalformedReply) as error:
            return Look(row.kind, expiry_ms, problem=str(error))
        if pieces and not hasher.size and row.kind in {"hash", "set"}:
            return ABSENT
        return Look(
            row.kind,
            expiry_ms,
            hasher.digest(),
            hasher.size,
            hasher.counters if isinstance(hasher, StreamHasher) else None,
            hasher.expiries if isinstance(hasher, HashHasher) else None,
            whole.content if whole is not None and pieces == 1 and kind is not STREAM else None,
        )

    def _pieces(self, row: ManifestRow) -> Iterator[Piece]:
        if row.length > self._piece.bytes and comes_in_pieces(row.rdb_type, self._version):
            yield from pieces_of(row.rdb_type, Body(self._chunks(row)), self._piece, self._version)
        else:
            yield from whole_pieces(row.rdb_type, b"".join(self._chunks(row)), self._version)

    def _chunks(self, row: ManifestRow) -> Iterator[bytes]:
        if self._file is None:
            raise ValueError("the file was not opened")
        offset, left = row.offset, row.length
        while left:
            self._file.seek(offset)
            chunk = self._file.read(min(left, _CHUNK_BYTES))
            if not chunk:
                return
            offset += len(chunk)
            left -= len(chunk)
            yield chunk
