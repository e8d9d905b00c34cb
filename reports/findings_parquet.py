"""All findings as a Parquet table: keys and digests as bytes, times as times, nothing escaped."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from reports.finding_batches import FindingBatch

_ROWS_PER_GROUP: Final = 20_000
_BYTES_PER_GROUP: Final = 64 * 1024 * 1024
_TIME: Final = pa.timestamp("us", tz="UTC")


def _side_fields(side: str) -> list[pa.Field]:
    return [
        pa.field(f"{side}_kind", pa.string()),
        pa.field(f"{side}_digest", pa.binary()),
        pa.field(f"{side}_expiry_ms", pa.int64()),
        pa.field(f"{side}_size", pa.int64()),
    ]


SCHEMA: Final = pa.schema(
    [
        pa.field("class", pa.string(), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        pa.field("rule", pa.string()),
        pa.field("database", pa.int32(), nullable=False),
        pa.field("key", pa.binary(), nullable=False),
        *_side_fields("source"),
        *_side_fields("target"),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("first_seen_at", _TIME, nullable=False),
        pa.field("last_seen_at", _TIME, nullable=False),
        pa.field("times_seen", pa.int32(), nullable=False),
    ],
    metadata={"greenfly.findings": "1"},
)
"""``…_expiry_ms`` is absolute, −1 for none; null where the ledger holds nothing about that side."""


class ParquetTable:
    """A table that takes findings as they come."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_bytes = 0

    def take(self, batch: FindingBatch) -> None:
        """More rows."""
        columns = (
            batch.finding_class,
            batch.state,
            batch.rule,
            batch.database,
            batch.key,
            batch.source_kind,
            batch.source_digest,
            batch.source_expiry_ms,
            batch.source_size,
            batch.target_kind,
            batch.target_digest,
            batch.target_expiry_ms,
            batch.target_size,
            batch.detail,
            batch.first_seen_at,
            batch.last_seen_at,
            batch.times_seen,
        )
        arrays = [pa.array(column, type=field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        self._waiting.append(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))
        self._waiting_bytes += self._waiting[-1].nbytes
        if sum(waiting.num_rows for waiting in self._waiting) >= _ROWS_PER_GROUP or (
            self._waiting_bytes >= _BYTES_PER_GROUP
        ):
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.Table.from_batches(self._waiting, schema=SCHEMA))
        self._waiting, self._waiting_bytes = [], 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._flush()
        self._writer.close()
