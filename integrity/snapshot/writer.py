"""Writing a snapshot key by key into both files.

Encrypted files are encrypted while they are written.  Keys that SCAN returned twice are found only at the end, when
both files must be read once more (:mod:`integrity.snapshot.folder` says how).
"""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from integrity.checksum import DEFINITION
from integrity.endpoint import Identity
from integrity.snapshot.duplicates import KeyHashes, repeated_rows, superseded_rows
from integrity.snapshot.files import CHUNK_BYTES, open_seekable, open_stream
from integrity.snapshot.folder import PartialFolder
from integrity.snapshot.header import (
    CONSISTENCY,
    FORMAT,
    HEADER_NAME,
    MANIFEST_NAME,
    RDB_NAME,
    FileEntry,
    ForeignRdb,
    Header,
)
from integrity.snapshot.manifest import ManifestRow, ManifestWriter, read_manifest
from integrity.snapshot.rdb import OLDEST_RDB_VERSION, Placed, RdbWriter
from integrity.snapshot.sealing import SUFFIX, Recipient
from integrity.snapshot.spool import Spool
from integrity.snapshot.totals import SnapshotTotals
from integrity.snapshot.walk import RdbWalk
from integrity.transfer.payload import rdb_version
from integrity.version import __version__

HASHES_NAME: Final = "keys.hashes"
SPOOL_NAME: Final = "value"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A finished snapshot."""

    directory: Path
    rdb: Path
    manifest: Path
    header: Path
    seal: Path | None
    """The encrypted header of an encrypted snapshot."""
    rdb_version: int
    rdb_bytes: int
    """Before encryption."""
    totals: SnapshotTotals
    foreign: ForeignRdb | None = None
    """Of an RDB file that a server wrote."""


class SnapshotWriter:
    """Writes one snapshot's folder; use as a context manager.  Without :meth:`finish` it stays partial.

    :raises OSError: it cannot be written.
    """

    def __init__(self, directory: Path, identity: Identity, recipients: tuple[Recipient, ...]) -> None:
        self._folder = PartialFolder(directory, recipients)
        self._partial = self._folder.path
        self._identity = identity
        self._started = datetime.now(UTC)
        self._rdb: RdbWriter | None = None
        self._rdb_version = OLDEST_RDB_VERSION
        self._unfinished = ExitStack()
        self.totals = SnapshotTotals()

    def __enter__(self) -> Self:
        with ExitStack() as files:
            files.enter_context(self._folder)
            # A hash of a key lets one guess it; the salt does not.
            salt = secrets.randbits(64) if self._folder.readers else 0
            written = files.enter_context(ExitStack())
            self._hashes = written.enter_context(KeyHashes(self._partial / HASHES_NAME, salt))
            self._rdb_sink = written.enter_context(self._folder.sink(RDB_NAME))
            self._manifest_sink = written.enter_context(self._folder.sink(MANIFEST_NAME))
            self._manifest = written.enter_context(ManifestWriter(self._manifest_sink))
            self._unfinished, self._files = written, files.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.__exit__(kind, error, trace)

    def add(
        self,
        database: int,
        key: bytes,
        kind: str,
        payload: bytes,
        expiry_ms: int | None,
        digest: bytes | None,
    ) -> int:
        """Write one key to both files; returns its body's size."""
        rdb = self.begin(rdb_version(payload))
        rdb.select(database)
        placed = rdb.add_payload(key, payload, expiry_ms)
        return self._note(database, key, kind, payload[0], expiry_ms, digest, placed)

    def spool(self) -> Spool:
        """Where a big value's body waits until it is whole; one at a time."""
        return Spool(self._partial / SPOOL_NAME, self._folder.keys)

    def add_big(
        self,
        database: int,
        key: bytes,
        kind: str,
        rdb_type: int,
        head: bytes,
        spool: Spool,
        expiry_ms: int | None,
        digest: bytes,
    ) -> int:
        """Write one key whose body is *head* and what *spool* holds; returns its body's size.

        :meth:`begin` comes first: nothing here tells the RDB version.
        """
        rdb = self.begin(OLDEST_RDB_VERSION)
        rdb.select(database)
        placed = rdb.add_chunks(key, rdb_type, chain((head,), spool.chunks()), expiry_ms)
        self.totals.in_pieces += 1
        return self._note(database, key, kind, rdb_type, expiry_ms, digest, placed)

    @property
    def begun(self) -> bool:
        """Whether the RDB version is settled."""
        return self._rdb is not None

    def begin(self, version: int) -> RdbWriter:
        """The RDB file; its first bytes, which tell the RDB version, are written at the first call."""
        if self._rdb is None:
            self._rdb_version = version
            self._rdb = RdbWriter(self._rdb_sink, version, _aux(self._identity))
        return self._rdb

    def _note(
        self,
        database: int,
        key: bytes,
        kind: str,
        rdb_type: int,
        expiry_ms: int | None,
        digest: bytes | None,
        placed: Placed,
    ) -> int:
        """Write the row of a key that is in the RDB file; returns its body's size."""
        self._manifest.add(database, key, kind, rdb_type, expiry_ms, digest, *placed)
        self._hashes.add(database, key)
        _, length, _ = placed
        self.totals.count(database, kind, key, digest, length, +1)
        return length

    def finish(self) -> Snapshot:
        """Close the files, write the header, and give the folder its name."""
        self.begin(OLDEST_RDB_VERSION).finish()
        self._unfinished.close()
        self._drop_duplicates()
        (self._partial / HASHES_NAME).unlink()
        contents = {
            RDB_NAME: FileEntry(bytes=self._rdb_sink.tell(), xxh3_128=self._rdb_sink.contents_xxh3),
            MANIFEST_NAME: FileEntry(
                bytes=self._manifest_sink.tell(), xxh3_128=self._manifest_sink.contents_xxh3
            ),
        }
        seal = self._folder.publish(self._header(contents))
        directory, suffix = self._folder.directory, self._folder.suffix
        return Snapshot(
            directory,
            directory / (RDB_NAME + suffix),
            directory / (MANIFEST_NAME + suffix),
            directory / HEADER_NAME,
            seal,
            self._rdb_version,
            contents[RDB_NAME].bytes,
            self.totals,
        )

    def _drop_duplicates(self) -> None:
        """Write both files again without the earlier readings of keys that SCAN returned twice."""
        suspects = repeated_rows(self._partial / HASHES_NAME)
        if not suspects:
            return
        old_rdb, old_manifest = self._rdb_sink.path, self._manifest_sink.path
        with open_seekable(old_manifest, self._folder.keys) as file:
            superseded = superseded_rows(suspects, read_manifest(file))
            if not superseded:
                return
            with (
                open_stream(old_rdb, self._folder.keys) as stream,
                self._folder.sink("new." + RDB_NAME) as rdb_sink,
                self._folder.sink("new." + MANIFEST_NAME) as manifest_sink,
                ManifestWriter(manifest_sink) as rows,
            ):
                writer = RdbWriter(rdb_sink, self._rdb_version, _aux(self._identity))
                walk = RdbWalk(stream, old_rdb, self._rdb_version)
                for number, row in enumerate(read_manifest(file)):
                    walk.enter(row)
                    if number in superseded:
                        walk.skim(row)
                        self.totals.count(row.database, row.kind, row.key, row.digest, row.length, -1)
                    else:
                        _add_again(writer, rows, row, walk)
                writer.finish()
        os.replace(rdb_sink.path, old_rdb)
        os.replace(manifest_sink.path, old_manifest)
        self._rdb_sink, self._manifest_sink = rdb_sink, manifest_sink
        self.totals.duplicates = len(superseded)

    def _header(self, contents: dict[str, FileEntry]) -> Header:
        totals = self.totals
        sealed = {
            name + SUFFIX: FileEntry(
                bytes=sink.file.bytes, xxh3_128=sink.file.xxh3_128, sha256=sink.file.sha256
            )
            for name, sink in ((RDB_NAME, self._rdb_sink), (MANIFEST_NAME, self._manifest_sink))
        }
        return Header(
            format=FORMAT,
            greenfly_version=__version__,
            checksum_definition=DEFINITION,
            consistency=CONSISTENCY,
            source=self._identity.to_dict(),
            started_at=self._started,
            ended_at=datetime.now(UTC),
            keys=totals.keys,
            vanished_while_reading=totals.vanished,
            without_digest=totals.uncompared,
            duplicates_dropped=totals.duplicates,
            rdb_version=self._rdb_version,
            databases=totals.databases(),
            files=sealed if self._folder.readers else contents,
            encryption="age/v1 x25519" if self._folder.readers else None,
            contents=contents if self._folder.readers else None,
        )


def _add_again(writer: RdbWriter, rows: ManifestWriter, row: ManifestRow, walk: RdbWalk) -> None:
    writer.select(row.database)
    if row.length <= CHUNK_BYTES:
        placed = writer.add(row.key, row.rdb_type, walk.body(row), row.expiry_ms)
    else:
        placed = writer.add_chunks(row.key, row.rdb_type, walk.chunks(row), row.expiry_ms)
    rows.add(row.database, row.key, row.kind, row.rdb_type, row.expiry_ms, row.digest, *placed)


def _aux(identity: Identity) -> dict[str, str]:
    return {"redis-ver": identity.version, "redis-bits": "64", "greenfly-ver": __version__}
