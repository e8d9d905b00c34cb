"""The rows of a manifest, made of an RDB file alone: where a key's body stands, its hash and its canonical digest."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from xxhash import xxh3_64_intdigest

from integrity.kinds import KINDS, MalformedReply
from integrity.kinds.base import elements_of
from integrity.kinds.pieces import Piece, PieceSize
from integrity.rdb.big_entry import BigEntry
from integrity.rdb.digests import Made, MalformedAt, Work, kinds_of
from integrity.rdb.entry import Entry
from integrity.rdb.errors import RdbDamaged
from integrity.rdb.expiring import without_expired
from integrity.rdb.reader import RdbReader
from integrity.rdb.values import kind_of
from integrity.rdb.workers import DigestWorkers
from integrity.transfer.payload import KIND_BY_RDB_TYPE

_BATCH_KEYS: Final = 1000
_BATCH_BYTES: Final = 4 * 1024 * 1024
_BEGINNING_BYTES: Final = 16
"""Enough of a module's value to tell the module."""

Row: TypeAlias = tuple[int, bytes, str, int, int | None, bytes | None, int, int, int]
"""Database, key, kind, RDB type, expiry, digest, offset, length and XXH3-64 of the body: a manifest's columns."""


@dataclass(frozen=True, slots=True)
class IndexBatch:
    """Some keys in file order, column by column."""

    databases: list[int]
    keys: list[bytes]
    kinds: list[str]
    rdb_types: list[int]
    expiries_ms: list[int | None]
    digests: list[bytes | None]
    """None for types without canonical form, and for all where none were asked for."""
    offsets: list[int]
    lengths: list[int]
    body_hashes: list[int]

    def __len__(self) -> int:
        return len(self.keys)

    def rows(self) -> Iterator[Row]:
        """Row by row, as :meth:`~integrity.snapshot.manifest.ManifestWriter.add` takes them."""
        return zip(
            self.databases,
            self.keys,
            self.kinds,
            self.rdb_types,
            self.expiries_ms,
            self.digests,
            self.offsets,
            self.lengths,
            self.body_hashes,
            strict=True,
        )


def index(
    reader: RdbReader,
    path: Path,
    limit: PieceSize,
    *,
    digests: bool = True,
    as_of_ms: int | None = None,
    workers: int = 0,
) -> Iterator[IndexBatch]:
    """Every key of the file that *reader* has begun, in file order.  Its end is proved when the iteration ends.

    :param path: the file's name, for errors.
    :param limit: the pieces in which big values are decoded.
    :param digests: whether values are decoded; without, bodies are hashed all the same.
    :param as_of_ms: digests leave out fields whose expiry had passed then; see :func:`~integrity.rdb.values.value_of`.
    :param workers: processes that make digests while this one reads; worth their start from some 100 MB on.
    :raises RdbDamaged: the file is cut off or was changed, or a value is not what its type says.
    :raises RdbUnsupported: it holds something unknown.
    :raises OrchestratorFailed: one of the processes ended.
    """
    with DigestWorkers(workers if digests else 0) as makers:
        indexer = _Indexer(makers, reader.version, path, limit, digests, as_of_ms)
        yield from indexer.batches(reader)


class _Indexer:
    def __init__(
        self,
        makers: DigestWorkers,
        version: int,
        path: Path,
        limit: PieceSize,
        digests: bool,
        as_of_ms: int | None,
    ) -> None:
        self._makers = makers
        self._version = version
        self._path = path
        self._limit = limit
        self._digests = digests
        self._as_of_ms = as_of_ms
        self._making: deque[list[Entry]] = deque()
        """Keys whose digests are on their way, oldest first."""

    def batches(self, entries: Iterable[Entry | BigEntry]) -> Iterator[IndexBatch]:
        """Everything, in order."""
        waiting: list[Entry] = []
        size = 0
        for entry in entries:
            if isinstance(entry, Entry):
                waiting.append(entry)
                size += entry.length
                if len(waiting) < _BATCH_KEYS and size < _BATCH_BYTES:
                    continue
                self._put(waiting)
            else:
                # Rows stand in the order of the file.
                if waiting:
                    self._put(waiting)
                yield from self._rest()
                yield self._big(entry)
            waiting, size = [], 0
            while len(self._making) >= self._makers.most:
                yield self._take()
        if waiting:
            self._put(waiting)
        yield from self._rest()

    def _put(self, entries: list[Entry]) -> None:
        self._making.append(entries)
        if self._digests:
            self._makers.put(
                Work(
                    self._version,
                    self._as_of_ms,
                    [entry.rdb_type for entry in entries],
                    [entry.body for entry in entries],
                )
            )

    def _rest(self) -> Iterator[IndexBatch]:
        while self._making:
            yield self._take()

    def _take(self) -> IndexBatch:
        entries = self._making.popleft()
        rdb_types = [entry.rdb_type for entry in entries]
        try:
            if self._digests:
                made = self._makers.take()
            else:
                kinds = kinds_of(rdb_types, [entry.body for entry in entries])
                made = Made(kinds, [None] * len(entries))
        except MalformedAt as error:
            raise self._damage(error, entries[error.position].offset) from error
        return IndexBatch(
            [entry.database for entry in entries],
            [entry.key for entry in entries],
            made.kinds,
            rdb_types,
            [entry.expiry_ms for entry in entries],
            made.digests,
            [entry.offset for entry in entries],
            [entry.length for entry in entries],
            [xxh3_64_intdigest(entry.body) for entry in entries],
        )

    def _damage(self, error: ValueError, offset: int) -> RdbDamaged:
        return RdbDamaged(self._path, f"the value of a key is malformed: {error}", offset)

    def _big(self, entry: BigEntry) -> IndexBatch:
        kind_name = KIND_BY_RDB_TYPE[entry.rdb_type]
        kind = KINDS.get(kind_name.encode())
        digest = None
        if self._digests and kind is not None and entry.comes_in_pieces:
            hasher = kind.hasher()
            try:
                for piece in entry.pieces(self._limit):
                    hasher.add(_shown(piece, self._as_of_ms))
                digest = hasher.digest()
            except MalformedReply as error:
                raise self._damage(error, entry.offset) from error
        else:
            beginning = bytearray()
            entry.skim(lambda data: beginning.extend(data[: _BEGINNING_BYTES - len(beginning)]))
            kind_name = kind_of(entry.rdb_type, bytes(beginning))
        if entry.length is None or entry.body_xxh3 is None:
            raise RuntimeError("a big value was not read to its end")
        return IndexBatch(
            [entry.database],
            [entry.key],
            [kind_name],
            [entry.rdb_type],
            [entry.expiry_ms],
            [digest],
            [entry.offset],
            [entry.length],
            [entry.body_xxh3],
        )


def _shown(piece: Piece, as_of_ms: int | None) -> Piece:
    if as_of_ms is None or not piece.expiries:
        return piece
    elements, times = without_expired(elements_of(piece.content), piece.expiries, as_of_ms)
    return Piece([*elements], expiries=tuple(times))
