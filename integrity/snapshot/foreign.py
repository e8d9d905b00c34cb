"""The manifest and the header for an RDB file that a server wrote.

The file is read once, front to back: every key's canonical digest is made from its body alone, and the file's end and
its CRC-64 are proved.  A file that is cut off or damaged is refused with the place, before anything is made of it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from integrity.checksum import DEFINITION
from integrity.kinds.pieces import PieceSize
from integrity.rdb.errors import RdbDamaged
from integrity.rdb.index import index
from integrity.rdb.reader import RdbReader
from integrity.snapshot.duplicates import KeyHashes, repeated_rows, superseded_rows
from integrity.snapshot.files import open_seekable, open_stream
from integrity.snapshot.folder import PartialFolder
from integrity.snapshot.foreign_walk import CountedStream
from integrity.snapshot.header import (
    FORMAT_OF_FOREIGN,
    HEADER_NAME,
    MANIFEST_NAME,
    RDB_NAME,
    FileEntry,
    ForeignRdb,
    Header,
)
from integrity.snapshot.manifest import ManifestWriter, read_manifest
from integrity.snapshot.totals import SnapshotTotals
from integrity.snapshot.writer import HASHES_NAME, Snapshot
from integrity.version import __version__

_PIECE: Final = PieceSize(1 << 20, 4096)
_LIBRARY_NAME: Final = b"name="


@dataclass(frozen=True, slots=True)
class Indexed:
    """What one pass over an RDB file found."""

    totals: SnapshotTotals
    rdb_version: int
    facts: ForeignRdb
    rdb: FileEntry
    """The plain file."""
    manifest: FileEntry
    """The plain file."""
    sealed_manifest: FileEntry


class ForeignIndexer:
    """Writes the manifest of one RDB file into a snapshot's folder.

    :param folder: entered.
    :param rdb: the file; encrypted by the folder's own key where its name says so.
    :param as_of_ms: digests are those of the values at that time, which servers answer without fields that had expired.
    :param on_progress: told keys and bytes as they are indexed.
    """

    def __init__(
        self,
        folder: PartialFolder,
        rdb: Path,
        *,
        as_of_ms: int | None = None,
        on_progress: Callable[[int, int], None] = lambda keys, size: None,
    ) -> None:
        self._folder = folder
        self._as_of_ms = as_of_ms
        self._rdb = rdb
        self._on_progress = on_progress
        self.totals = SnapshotTotals()

    def index(self) -> Indexed:
        """Read the whole file.

        :raises RdbDamaged: it is cut off, changed, or holds a key twice.
        :raises RdbUnsupported: its version, or a type in it, is not known.
        :raises ArtifactError: it cannot be read.
        :raises OSError: the manifest cannot be written.
        """
        hashes_path = self._folder.path / HASHES_NAME
        # A hash of a key lets one guess it; the salt does not.
        salt = secrets.randbits(64) if self._folder.readers else 0
        with (
            open_stream(self._rdb, self._folder.keys) as stream,
            self._folder.sink(MANIFEST_NAME) as sink,
            ManifestWriter(sink) as manifest,
            KeyHashes(hashes_path, salt) as hashes,
        ):
            counted = CountedStream(stream)
            reader = RdbReader(counted, self._rdb)
            self._rows(reader, manifest, hashes)
            counted.drain()
        self._refuse_repeated(hashes_path, sink.path)
        hashes_path.unlink()
        return Indexed(
            self.totals,
            reader.version,
            ForeignRdb(
                aux=reader.aux,
                checksum=reader.checksum == "fits",
                functions=tuple(_library_name(library.code) for library in reader.libraries),
                module_data=tuple(dict.fromkeys(aux.module for aux in reader.module_aux)),
                masked=reader.masked,
            ),
            FileEntry(bytes=counted.size, xxh3_128=counted.xxh3),
            FileEntry(bytes=sink.tell(), xxh3_128=sink.contents_xxh3),
            FileEntry(bytes=sink.file.bytes, xxh3_128=sink.file.xxh3_128, sha256=sink.file.sha256),
        )

    def _rows(self, reader: RdbReader, manifest: ManifestWriter, hashes: KeyHashes) -> None:
        count = self.totals.count
        for batch in index(reader, self._rdb, _PIECE, as_of_ms=self._as_of_ms):
            for row in batch.rows():
                database, key, kind, _, _, digest, _, length, _ = row
                manifest.add(*row)
                hashes.add(database, key)
                count(database, kind, key, digest, length, +1)
            self._on_progress(len(batch), sum(batch.lengths))

    def _refuse_repeated(self, hashes: Path, manifest: Path) -> None:
        """Refuse a file that holds a key twice, as servers do: which of the two is meant cannot be known."""
        suspects = repeated_rows(hashes)
        if not suspects:
            return
        with open_seekable(manifest, self._folder.keys) as file:
            repeated = superseded_rows(suspects, read_manifest(file))
            if repeated:
                first = min(repeated)
                row = next(row for number, row in enumerate(read_manifest(file)) if number == first)
                raise RdbDamaged(self._rdb, "it holds a key twice, the first time here", row.offset)


def header_of(
    folder: PartialFolder,
    indexed: Indexed,
    *,
    facts: ForeignRdb,
    source: Mapping[str, object],
    consistency: str,
    started_at: datetime,
    sealed_rdb: FileEntry | None,
) -> Header:
    """The header of a snapshot whose files are all there.

    :param facts: of the RDB file, with what whoever received it knows.
    :param sealed_rdb: as it lies in the folder, where that is not the plain file.
    """
    totals = indexed.totals
    plain = {RDB_NAME: indexed.rdb, MANIFEST_NAME: indexed.manifest}
    files = {
        _rdb_name(folder, facts): sealed_rdb or indexed.rdb,
        MANIFEST_NAME + folder.suffix: indexed.sealed_manifest,
    }
    return Header.model_validate(
        {
            "format": FORMAT_OF_FOREIGN,
            "greenfly_version": __version__,
            "checksum_definition": DEFINITION,
            "consistency": consistency,
            "source": dict(source),
            "started_at": started_at,
            "ended_at": datetime.now(UTC),
            "keys": totals.keys,
            "vanished_while_reading": 0,
            "without_digest": totals.uncompared,
            "duplicates_dropped": 0,
            "rdb_version": indexed.rdb_version,
            "databases": totals.databases(),
            "files": files if folder.readers else plain,
            "encryption": "age/v1 x25519" if folder.readers else None,
            "contents": plain if folder.readers else None,
            "foreign": facts,
        }
    )


def publish(folder: PartialFolder, header: Header, indexed: Indexed) -> Snapshot:
    """Write the header and give the folder its name."""
    facts = header.foreign or indexed.facts
    seal = folder.publish(header)
    directory = folder.directory
    return Snapshot(
        directory,
        Path(facts.path) if facts.path else directory / _rdb_name(folder, facts),
        directory / (MANIFEST_NAME + folder.suffix),
        directory / HEADER_NAME,
        seal,
        indexed.rdb_version,
        indexed.rdb.bytes,
        indexed.totals,
        facts,
    )


def _rdb_name(folder: PartialFolder, facts: ForeignRdb) -> str:
    return RDB_NAME if facts.path else RDB_NAME + folder.suffix


def _library_name(code: bytes) -> str:
    """The name in the first line of a library's text, ``#!lua name=…``."""
    for word in code.split(b"\n", 1)[0].split():
        if word.startswith(_LIBRARY_NAME):
            return word.removeprefix(_LIBRARY_NAME).decode("utf-8", "replace")
    return "?"
