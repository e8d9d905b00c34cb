"""The manifest and the header for an RDB file that a server wrote.

The file is read once, front to back: every key's canonical digest is made from its body alone, and the file's end and
its CRC-64 are proved.  A file that is cut off or damaged is refused with the place, before anything is made of it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from xxhash import xxh3_64_intdigest

from integrity.checksum import DEFINITION
from integrity.kinds import KINDS, MalformedReply
from integrity.kinds.pieces import PieceSize
from integrity.rdb.big_entry import BigEntry
from integrity.rdb.entry import Entry
from integrity.rdb.errors import MalformedBody, RdbDamaged, UnsupportedBody
from integrity.rdb.reader import RdbReader
from integrity.rdb.values import kind_of, value_of
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
_PROGRESS_KEYS: Final = 5_000
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
    :param on_progress: told keys and bytes as they are indexed.
    """

    def __init__(
        self,
        folder: PartialFolder,
        rdb: Path,
        *,
        on_progress: Callable[[int, int], None] = lambda keys, size: None,
    ) -> None:
        self._folder = folder
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
            ),
            FileEntry(bytes=counted.size, xxh3_128=counted.xxh3),
            FileEntry(bytes=sink.tell(), xxh3_128=sink.contents_xxh3),
            FileEntry(bytes=sink.file.bytes, xxh3_128=sink.file.xxh3_128, sha256=sink.file.sha256),
        )

    def _rows(self, reader: RdbReader, manifest: ManifestWriter, hashes: KeyHashes) -> None:
        done = size = 0
        totals, version, count = self.totals, reader.version, self.totals.count
        for entry in reader:
            database, key = entry.database, entry.key
            if isinstance(entry, Entry):
                kind, digest = self._digest(entry, entry.body, version)
                length, body_xxh3 = entry.length, xxh3_64_intdigest(entry.body)
            else:
                kind, digest = self._digest_of_big(entry)
                length, body_xxh3 = entry.length or 0, entry.body_xxh3 or 0
                totals.in_pieces += entry.comes_in_pieces
            manifest.add(
                database, key, kind, entry.rdb_type, entry.expiry_ms, digest, entry.offset, length, body_xxh3
            )
            hashes.add(database, key)
            count(database, kind, key, digest, length, +1)
            done += 1
            size += length
            if done == _PROGRESS_KEYS or size > _PIECE.bytes:
                self._on_progress(done, size)
                done = size = 0
        self._on_progress(done, size)

    def _digest(self, entry: Entry | BigEntry, body: bytes, version: int) -> tuple[str, bytes | None]:
        """The type's name and the digest; None where there is no canonical form."""
        try:
            name = kind_of(entry.rdb_type, body)
            kind = KINDS.get(name.encode())
            return name, kind.digest(value_of(entry.rdb_type, body, version)) if kind is not None else None
        except UnsupportedBody:
            return name, None
        except (MalformedBody, MalformedReply) as error:
            raise self._malformed(entry, error) from error

    def _digest_of_big(self, entry: BigEntry) -> tuple[str, bytes | None]:
        if not entry.comes_in_pieces:
            parts: list[bytes] = []
            entry.skim(parts.append)
            return self._digest(entry, b"".join(parts), entry.rdb_version)
        name = kind_of(entry.rdb_type, b"")
        hasher = KINDS[name.encode()].hasher()
        try:
            for piece in entry.pieces(_PIECE):
                hasher.add(piece)
                self._on_progress(0, 0)
        except MalformedReply as error:
            raise self._malformed(entry, error) from error
        return name, hasher.digest()

    def _malformed(self, entry: Entry | BigEntry, error: ValueError) -> RdbDamaged:
        return RdbDamaged(self._rdb, f"the value of a key is malformed: {error}", entry.offset)

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


def publish(
    folder: PartialFolder,
    indexed: Indexed,
    *,
    facts: ForeignRdb,
    source: dict[str, object],
    consistency: str,
    started_at: datetime,
    sealed_rdb: FileEntry | None,
) -> Snapshot:
    """Write the header of a snapshot whose files are all there, and give the folder its name.

    :param facts: of the RDB file, with what whoever received it knows.
    :param sealed_rdb: as it lies in the folder, where that is not the plain file.
    """
    totals = indexed.totals
    rdb_name = RDB_NAME if facts.path else RDB_NAME + folder.suffix
    manifest_name = MANIFEST_NAME + folder.suffix
    plain = {RDB_NAME: indexed.rdb, MANIFEST_NAME: indexed.manifest}
    files = {rdb_name: sealed_rdb or indexed.rdb, manifest_name: indexed.sealed_manifest}
    header = Header.model_validate(
        {
            "format": FORMAT_OF_FOREIGN,
            "greenfly_version": __version__,
            "checksum_definition": DEFINITION,
            "consistency": consistency,
            "source": source,
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
    seal = folder.publish(header)
    directory = folder.directory
    return Snapshot(
        directory,
        Path(facts.path) if facts.path else directory / rdb_name,
        directory / manifest_name,
        directory / HEADER_NAME,
        seal,
        indexed.rdb_version,
        indexed.rdb.bytes,
        totals,
        facts,
    )


def _library_name(code: bytes) -> str:
    """The name in the first line of a library's text, ``#!lua name=…``."""
    for word in code.split(b"\n", 1)[0].split():
        if word.startswith(_LIBRARY_NAME):
            return word.removeprefix(_LIBRARY_NAME).decode("utf-8", "replace")
    return "?"
