"""The Parquet manifest: one row per key, with its canonical digest and where its body stands in the RDB file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from integrity.checksum import DEFINITION, DIGEST_BYTES
from integrity.errors import ArtifactError
from integrity.snapshot.files import Sink
from integrity.snapshot.header import MANIFEST_NAME

_ROWS_PER_GROUP: Final = 20_000
CHECKSUM_FIELD: Final = "greenfly.checksum"

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
        pa.field("body_xxh3", pa.uint64()),
    ],
    metadata={CHECKSUM_FIELD: DEFINITION, "greenfly.manifest": "2"},
)
"""``expiry_ms`` is absolute, null for none; ``digest`` is null where Greenfly has no canonical form for the type;
``body_xxh3`` is XXH3-64 of the key's bytes in the RDB file (version 1 of the manifest has no such column)."""


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
    body_xxh3: int | None = None


class ManifestWriter:
    """Writes rows in groups, so that memory stays bounded; use as a context manager.

    :param file: a path, or a file that is written front to back.
    """

    def __init__(self, file: Path | Sink) -> None:
        self._writer = pq.ParquetWriter(file, SCHEMA, compression="zstd")
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
        body_xxh3: int | None,
    ) -> None:
        """Add one row."""
        values = (database, key, kind, rdb_type, expiry_ms, digest, offset, length, body_xxh3)
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


class ManifestReader:
    """A manifest that was opened; use as a context manager.

    :param file: where to read it from.
    :param path: its name, for errors.
    :raises ArtifactError: it is damaged, or of another form.
    """

    def __init__(self, file: Path | BinaryIO, path: Path) -> None:
        self._path = path
        with self._told():
            self._parquet = pq.ParquetFile(file)
            schema = self._parquet.schema_arrow
            known = (SCHEMA, SCHEMA.remove(len(SCHEMA) - 1))
            if not any(schema.equals(form) for form in known):
                raise ValueError("its columns are not those of a manifest")
            self.definition = (schema.metadata or {}).get(CHECKSUM_FIELD.encode(), b"").decode()
            """How the digests were made (:data:`integrity.checksum.DEFINITION`)."""
            self.keys: int = self._parquet.metadata.num_rows
            """Rows."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parquet.close()

    def __iter__(self) -> Iterator[ManifestRow]:
        """The rows, in file order, a row group at a time."""
        for columns in self.columns(SCHEMA.names[: len(self._parquet.schema_arrow)]):
            for row in zip(*columns, strict=True):
                yield ManifestRow(*row)

    def columns(self, names: Sequence[str]) -> Iterator[list[list[Any]]]:
        """The columns *names*, a row group at a time, as lists of plain values."""
        with self._told():
            for batch in self._parquet.iter_batches(batch_size=_ROWS_PER_GROUP, columns=list(names)):
                yield [batch.column(name).to_pylist() for name in names]

    def columns_with_bodies(self) -> Iterator[list[list[Any]]]:
        """Database, key, kind, RDB type, expiry, digest and body hash; the last all None in version 1."""
        names = ["database", "key", "kind", "rdb_type", "expiry_ms", "digest"]
        if self._parquet.schema_arrow.get_field_index("body_xxh3") >= 0:
            yield from self.columns([*names, "body_xxh3"])
        else:
            for columns in self.columns(names):
                yield [*columns, [None] * len(columns[0])]

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the Parquet library by the file's name; a damaged file makes it raise any of these."""
        try:
            yield
        except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
            raise ArtifactError(
                f"{self._path} is damaged: {str(error).splitlines()[0] if str(error) else type(error).__name__}.",
                "Use another snapshot, or another copy of this one.",
            ) from error


def read_manifest(file: Path | BinaryIO) -> Iterator[ManifestRow]:
    """The rows of a manifest, in file order, a row group at a time."""
    path = file if isinstance(file, Path) else Path(MANIFEST_NAME)
    with ManifestReader(file, path) as reader:
        yield from reader
