"""The rows of a manifest, made of an RDB file alone: where each key's body stands, its hash and its canonical digest.

Keys are decoded and hashed in batches, kind by kind, because a call of ours for each would cost more than the hashing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from xxhash import xxh3_64_intdigest

from integrity.kinds import KINDS, MalformedReply
from integrity.kinds.base import elements_of
from integrity.kinds.pieces import Piece, PieceSize
from integrity.rdb import types
from integrity.rdb.big_entry import BigEntry
from integrity.rdb.entry import Entry
from integrity.rdb.errors import MALFORMED, MalformedBody, RdbDamaged, UnsupportedBody
from integrity.rdb.expiring import without_expired
from integrity.rdb.reader import RdbReader
from integrity.rdb.values import decoder_for, kind_of, value_of
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


@dataclass(frozen=True, slots=True)
class _Making:
    """What digests are made with."""

    path: Path
    version: int
    digests: bool
    as_of_ms: int | None


def index(
    reader: RdbReader, path: Path, limit: PieceSize, *, digests: bool = True, as_of_ms: int | None = None
) -> Iterator[IndexBatch]:
    """Every key of the file that *reader* has begun, in file order.  Its end is proved when the iteration ends.

    :param path: the file's name, for errors.
    :param limit: the pieces in which big values are decoded.
    :param digests: whether values are decoded; without, bodies are hashed all the same.
    :param as_of_ms: digests leave out fields whose expiry had passed then; see :func:`~integrity.rdb.values.value_of`.
    :raises RdbDamaged: the file is cut off or was changed, or a value is not what its type says.
    :raises RdbUnsupported: it holds something unknown.
    """
    making = _Making(path, reader.version, digests, as_of_ms)
    waiting: list[Entry] = []
    size = 0
    for entry in reader:
        if isinstance(entry, Entry):
            waiting.append(entry)
            size += entry.length
            if len(waiting) < _BATCH_KEYS and size < _BATCH_BYTES:
                continue
        if waiting:
            yield _batch(waiting, making)
            waiting, size = [], 0
        if isinstance(entry, BigEntry):
            yield _big(entry, limit, making)
    if waiting:
        yield _batch(waiting, making)


def _batch(entries: list[Entry], making: _Making) -> IndexBatch:
    kinds = [KIND_BY_RDB_TYPE[entry.rdb_type] for entry in entries]
    by_type: dict[int, list[int]] = {}
    for position, entry in enumerate(entries):
        by_type.setdefault(entry.rdb_type, []).append(position)
    made: list[bytes | None] = [None] * len(entries)
    for position in by_type.pop(types.MODULE, ()):
        entry = entries[position]
        kinds[position] = _kind(entry, making.path)
        if making.digests:
            made[position] = _digest(entry, kinds[position], making)
    if making.digests:
        for rdb_type, positions in by_type.items():
            those = [entries[i] for i in positions]
            for position, digest in zip(positions, _digests(rdb_type, those, making), strict=True):
                made[position] = digest
    return IndexBatch(
        [entry.database for entry in entries],
        [entry.key for entry in entries],
        kinds,
        [entry.rdb_type for entry in entries],
        [entry.expiry_ms for entry in entries],
        made,
        [entry.offset for entry in entries],
        [entry.length for entry in entries],
        [xxh3_64_intdigest(entry.body) for entry in entries],
    )


def _digests(rdb_type: int, entries: list[Entry], making: _Making) -> Sequence[bytes | None]:
    """The digests of values of one type."""
    kind = KINDS.get(KIND_BY_RDB_TYPE[rdb_type].encode())
    decode = decoder_for(rdb_type, making.version, making.as_of_ms)
    if kind is None or decode is None:
        return [None] * len(entries)
    try:
        return kind.digests([decode(entry.body) for entry in entries])
    except MALFORMED:
        # Which one it was is found by looking at each by itself.
        return [_digest(entry, kind.name, making) for entry in entries]


def _digest(entry: Entry, kind_name: str, making: _Making) -> bytes | None:
    kind = KINDS.get(kind_name.encode())
    if kind is None:
        return None
    try:
        return kind.digest(value_of(entry.rdb_type, entry.body, making.version, making.as_of_ms))
    except UnsupportedBody:
        return None
    except (MalformedBody, MalformedReply) as error:
        raise RdbDamaged(making.path, f"the value of a key is malformed: {error}", entry.offset) from error


def _kind(entry: Entry, path: Path) -> str:
    try:
        return kind_of(entry.rdb_type, entry.body)
    except MalformedBody as error:
        raise RdbDamaged(path, f"the value of a key is malformed: {error}", entry.offset) from error


def _big(entry: BigEntry, limit: PieceSize, making: _Making) -> IndexBatch:
    kind_name = KIND_BY_RDB_TYPE[entry.rdb_type]
    kind = KINDS.get(kind_name.encode())
    digest = None
    if making.digests and kind is not None and entry.comes_in_pieces:
        hasher = kind.hasher()
        try:
            for piece in entry.pieces(limit):
                hasher.add(_shown(piece, making.as_of_ms))
            digest = hasher.digest()
        except MalformedReply as error:
            raise RdbDamaged(
                making.path, f"the value of a key is malformed: {error}", entry.offset
            ) from error
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
