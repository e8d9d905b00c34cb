"""The RDB file that stands in for a source."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Self

from integrity.errors import ArtifactError
from integrity.rdb.reader import RdbReader
from integrity.rdb.types import FIRST_VALKEY_VERSION


@dataclass(frozen=True, slots=True)
class SourceFile:
    """An RDB file, as its first bytes tell."""

    path: Path
    """Absolute."""
    size: int
    """Bytes."""
    rdb_version: int
    aux: dict[str, str]
    """What the file tells about the server that wrote it."""

    @classmethod
    def look_at(cls, path: Path) -> Self:
        """Read a file's beginning.

        :raises ArtifactError: it is missing or cannot be read.
        :raises RdbDamaged: it is no RDB file, or is cut off at once.
        :raises RdbUnsupported: its version, or something at its beginning, is not known.
        """
        path = path.resolve()
        with opened(path) as file:
            reader = RdbReader(file, path)
            # What the file tells about itself stands before its first key.
            next(iter(reader), None)
            size = os.fstat(file.fileno()).st_size
        return cls(path, size, reader.version, dict(reader.aux))

    @property
    def name(self) -> str:
        """As an address: ``file:backup.rdb``."""
        return f"file:{self.path.name}"

    @property
    def engine(self) -> str:
        """``redis``, ``valkey`` or ``dragonfly``, as far as the file tells."""
        if "df-ver" in self.aux:
            return "dragonfly"
        return "valkey" if self.rdb_version >= FIRST_VALKEY_VERSION or "valkey-ver" in self.aux else "redis"

    @property
    def server_version(self) -> str:
        """Of the server that wrote it."""
        return self.aux.get("valkey-ver") or self.aux.get("redis-ver") or f"of RDB version {self.rdb_version}"

    @property
    def written_at(self) -> datetime | None:
        """When, by the clock of the server that wrote it."""
        text = self.aux.get("ctime", "")
        return datetime.fromtimestamp(int(text), UTC) if text.isdecimal() else None

    @property
    def used_memory(self) -> int:
        """Bytes that the server used when it wrote the file; 0 where it does not tell."""
        text = self.aux.get("used-mem", "")
        return int(text) if text.isdecimal() else 0

    def to_dict(self, databases: dict[int, int] | None = None, xxh3: str = "") -> dict[str, object]:
        """Who the source is, as plain JSON values, in the words that servers are described with.

        :param databases: database → keys, once that is known.
        :param xxh3: of the whole file, once that is known; takes the place of a server's run id.
        """
        written = self.written_at
        facts: dict[str, object] = {
            "address": self.name,
            "engine": self.engine,
            "version": self.server_version,
            "run_id": xxh3,
            "role": "file",
            "mode": "file",
            "used_memory": self.used_memory,
            "max_memory": 0,
            "observed_at": (written or datetime.now(UTC)).isoformat(),
            "path": str(self.path),
            "bytes": self.size,
            "rdb_version": self.rdb_version,
        }
        if databases is not None:
            facts["databases"] = {str(number): keys for number, keys in databases.items()}
        return facts


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file *path* for reading.

    :raises ArtifactError: it is missing, no file, or cannot be read.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise ArtifactError(
            f"The RDB file {path} cannot be read ({error.strerror}).", "Check its path and rights."
        ) from error
    with file:
        yield file
