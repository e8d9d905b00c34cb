"""All findings as a Parquet table: keys and digests as bytes, times as times, nothing escaped."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from reports.findings import FindingView, Side

_ROWS_PER_GROUP: Final = 20_000
_KEY_BYTES_PER_GROUP: Final = 64 * 1024 * 1024
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


def write_parquet(findings: Iterable[FindingView], path: Path) -> int:
    """Write the table, a group of rows at a time, and return the number of rows."""
    columns: list[list[object]] = [[] for _ in SCHEMA]
    rows, key_bytes = 0, 0
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:

        def flush() -> None:
            arrays = [
                pa.array(column, type=field.type) for column, field in zip(columns, SCHEMA, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA))
            for column in columns:
                column.clear()

        for finding in findings:
            for column, value in zip(columns, _row(finding), strict=True):
                column.append(value)
            rows += 1
            key_bytes += len(finding.key)
            if len(columns[0]) >= _ROWS_PER_GROUP or key_bytes >= _KEY_BYTES_PER_GROUP:
                flush()
                key_bytes = 0
        if columns[0]:
            flush()
    return rows


def _row(finding: FindingView) -> tuple[object, ...]:
    return (
        finding.finding_class.value,
        finding.state.value,
        finding.rule,
        finding.database,
        finding.key,
        *_side(finding.source),
        *_side(finding.target),
        finding.detail,
        finding.first_seen_at,
        finding.last_seen_at,
        finding.times_seen,
    )


def _side(side: Side) -> tuple[object, ...]:
    digest = None if side.digest is None else bytes.fromhex(side.digest)
    return side.kind, digest, side.expiry_ms, side.size
