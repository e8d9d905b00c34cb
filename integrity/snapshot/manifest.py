"""The Parquet manifest: one row per key, with its canonical digest and where its body stands in the RDB file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from integrity.checksum import DEFINITION, DIGEST_BYTES

_ROWS_PER_GROUP: Final = 20_000

SCHEMA: Final = pa.schema(
    [
        pa.field("database", pa.int32(), nullable=False),
        pa.field("key", pa.binary(), nullable=False),
        pa.field("kind", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("rdb_type", pa.uint8(), nullable=False),
        pa.field("expiry_ms", pa.int64()),
        pa.field("digest", pa.binary(DIGEST_BYTES)),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
    ],
    metadata={"greenfly.checksum": DEFINITION, "greenfly.manifest": "1"},
)
"""``expiry_ms`` is absolute, null for none; ``digest`` is null where Greenfly has no canonical form for the type."""


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One key."""

    database: int
    key: bytes
    kind: str
    rdb_type: int
    expiry_ms: int | None
    digest: bytes | None
    offset: int
    length: int


class ManifestWriter:
    """Writes rows in groups, so that memory stays bounded; use as a context manager."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        self._columns: list[list[object]] = [[] for _ in SCHEMA]
        self.rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._flush()
        self._writer.close()

    def add(
        self,
        database: int,
        key: bytes,
        kind: str,
        rdb_type: int,
        expiry_ms: int | None,
        digest: bytes | None,
        offset: int,
        length: int,
    ) -> None:
        """Add one row."""
        values = (database, key, kind, rdb_type, expiry_ms, digest, offset, length)
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)
        self.rows += 1
        if len(self._columns[0]) >= _ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._columns[0]:
            arrays = [
                pa.array(column, type=field.type) for column, field in zip(self._columns, SCHEMA, strict=True)
            ]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA))
            for column in self._columns:
                column.clear()


def read_manifest(path: Path) -> Iterator[ManifestRow]:
    """The rows of a manifest, in file order, a row group at a time."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_ROWS_PER_GROUP):
            for row in batch.to_pylist():
                yield ManifestRow(**row)
