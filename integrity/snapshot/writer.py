"""The folder of a snapshot while it is written.

It is named ``….partial`` and locked until it is whole; then the lock goes and the folder gets its name.  A lock ends
with its process, so a folder that is named so and not locked is a leftover.

Encrypted files are encrypted while they are written.  Keys that SCAN returned twice are found only at the end, when
both files must be read once more; as the machine that takes a snapshot cannot decrypt it, they are also encrypted to
a key that is made for this one snapshot and never leaves the memory.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
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
from integrity.snapshot.files import CHUNK_BYTES, Sink, open_seekable, open_stream, sync_folder
from integrity.snapshot.header import (
    CONSISTENCY,
    FORMAT,
    HEADER_NAME,
    MANIFEST_NAME,
    RDB_NAME,
    FileEntry,
    Header,
)
from integrity.snapshot.manifest import ManifestRow, ManifestWriter, read_manifest
from integrity.snapshot.rdb import OLDEST_RDB_VERSION, Placed, RdbWriter
from integrity.snapshot.sealing import SUFFIX, Keys, Recipient, seal, temporary_identity
from integrity.snapshot.spool import Spool
from integrity.snapshot.totals import SnapshotTotals
from integrity.snapshot.walk import RdbWalk
from integrity.transfer.payload import rdb_version
from integrity.version import __version__

PARTIAL: Final = ".partial"
LOCK_NAME: Final = "lock"
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


class SnapshotWriter:
    """Writes one snapshot's folder; use as a context manager.  Without :meth:`finish` it stays partial.

    :raises OSError: it cannot be written.
    """

    def __init__(self, directory: Path, identity: Identity, recipients: tuple[Recipient, ...]) -> None:
        self._directory = directory
        self._partial = directory.with_name(directory.name + PARTIAL)
        self._identity = identity
        self._recipients = recipients
        self._suffix = SUFFIX if recipients else ""
        self._keys = Keys()
        if recipients:
            own = temporary_identity()
            self._keys = Keys((own,))
            self._recipients = (*recipients, own.to_public())
        self._readers = recipients
        self._started = datetime.now(UTC)
        self._rdb: RdbWriter | None = None
        self._rdb_version = OLDEST_RDB_VERSION
        self._unfinished = ExitStack()
        self.totals = SnapshotTotals()

    def __enter__(self) -> Self:
        remove_partial(self._directory)
        self._partial.mkdir(mode=0o700, parents=True)
        # The lock outlives the other files: it goes when the folder has its name, or with the error.
        self._lock = (self._partial / LOCK_NAME).open("xb")
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with ExitStack() as files:
            files.push(self._close_lock_after_error)
            # A hash of a key lets one guess it; the salt does not.
            salt = secrets.randbits(64) if self._recipients else 0
            self._hashes = files.enter_context(KeyHashes(self._partial / HASHES_NAME, salt))
            self._rdb_sink = files.enter_context(self._sink(RDB_NAME))
            self._manifest_sink = files.enter_context(self._sink(MANIFEST_NAME))
            self._manifest = files.enter_context(ManifestWriter(self._manifest_sink))
            self._unfinished = files.pop_all()
        return self

    def _close_lock_after_error(self, *error: object) -> None:
        if any(error):
            self._lock.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._unfinished.__exit__(kind, error, trace)
        finally:
            self._lock.close()

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
        return Spool(self._partial / SPOOL_NAME, self._keys)

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
        partial = self._partial
        self.begin(OLDEST_RDB_VERSION).finish()
        self._unfinished.close()
        self._drop_duplicates()
        (partial / HASHES_NAME).unlink()
        contents = {
            RDB_NAME: FileEntry(bytes=self._rdb_sink.tell(), xxh3_128=self._rdb_sink.contents_xxh3),
            MANIFEST_NAME: FileEntry(
                bytes=self._manifest_sink.tell(), xxh3_128=self._manifest_sink.contents_xxh3
            ),
        }
        header = self._header(contents)
        seal_name = HEADER_NAME + SUFFIX if self._readers else None
        if seal_name is not None:
            self._write(seal_name, seal(header.to_bytes(), self._readers))
            header = header.public()
        self._write(HEADER_NAME, header.to_bytes())
        (partial / LOCK_NAME).unlink()
        sync_folder(partial)
        shutil.rmtree(self._directory, ignore_errors=True)
        os.replace(partial, self._directory)
        sync_folder(self._directory.parent)
        return Snapshot(
            self._directory,
            self._directory / (RDB_NAME + self._suffix),
            self._directory / (MANIFEST_NAME + self._suffix),
            self._directory / HEADER_NAME,
            self._directory / seal_name if seal_name else None,
            self._rdb_version,
            contents[RDB_NAME].bytes,
            self.totals,
        )

    def _sink(self, name: str) -> Sink:
        return Sink(self._partial / (name + self._suffix), self._recipients)

    def _drop_duplicates(self) -> None:
        """Write both files again without the earlier readings of keys that SCAN returned twice."""
        suspects = repeated_rows(self._partial / HASHES_NAME)
        if not suspects:
            return
        old_rdb, old_manifest = self._rdb_sink.path, self._manifest_sink.path
        with open_seekable(old_manifest, self._keys) as file:
            superseded = superseded_rows(suspects, read_manifest(file))
            if not superseded:
                return
            with (
                open_stream(old_rdb, self._keys) as stream,
                self._sink("new." + RDB_NAME) as rdb_sink,
                self._sink("new." + MANIFEST_NAME) as manifest_sink,
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
            files=sealed if self._readers else contents,
            encryption="age/v1 x25519" if self._readers else None,
            contents=contents if self._readers else None,
        )

    def _write(self, name: str, data: bytes) -> None:
        with (self._partial / name).open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def _add_again(writer: RdbWriter, rows: ManifestWriter, row: ManifestRow, walk: RdbWalk) -> None:
    writer.select(row.database)
    if row.length <= CHUNK_BYTES:
        placed = writer.add(row.key, row.rdb_type, walk.body(row), row.expiry_ms)
    else:
        placed = writer.add_chunks(row.key, row.rdb_type, walk.chunks(row), row.expiry_ms)
    rows.add(row.database, row.key, row.kind, row.rdb_type, row.expiry_ms, row.digest, *placed)


def _aux(identity: Identity) -> dict[str, str]:
    return {"redis-ver": identity.version, "redis-bits": "64", "greenfly-ver": __version__}


def remove_partial(directory: Path) -> None:
    """Remove what an unfinished snapshot of this name left behind."""
    shutil.rmtree(directory.with_name(directory.name + PARTIAL), ignore_errors=True)
