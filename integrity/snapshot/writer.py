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
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from integrity.checksum import DEFINITION, Fingerprint
from integrity.endpoint import Identity
from integrity.snapshot.duplicates import KeyHashes, repeated_rows, superseded_rows
from integrity.snapshot.files import Sink, open_seekable, open_stream, sync_folder
from integrity.snapshot.header import (
    CONSISTENCY,
    FORMAT,
    HEADER_NAME,
    MANIFEST_NAME,
    RDB_NAME,
    DatabaseEntry,
    FileEntry,
    Header,
)
from integrity.snapshot.manifest import ManifestRow, ManifestWriter, read_manifest
from integrity.snapshot.rdb import OLDEST_RDB_VERSION, RdbWriter
from integrity.snapshot.sealing import SUFFIX, Keys, Recipient, seal, temporary_identity
from integrity.snapshot.walk import RdbWalk
from integrity.transfer.payload import rdb_version
from integrity.version import __version__

PARTIAL: Final = ".partial"
LOCK_NAME: Final = "lock"
HASHES_NAME: Final = "keys.hashes"


@dataclass(slots=True)
class SnapshotTotals:
    """What one snapshot holds, growing while it is taken."""

    keys: int = 0
    vanished: int = 0
    uncompared: int = 0
    """Keys without a canonical digest (a type that Greenfly does not know)."""
    body_bytes: int = 0
    duplicates: int = 0
    tallies: dict[tuple[int, str], tuple[int, int]] = field(default_factory=dict)
    fingerprints: dict[int, Fingerprint] = field(default_factory=dict)

    def count(
        self, database: int, kind: str, key: bytes, digest: bytes | None, length: int, sign: int
    ) -> None:
        """Count one key in (*sign* +1) or out again (−1)."""
        self.keys += sign
        self.body_bytes += sign * length
        keys, size = self.tallies.get((database, kind), (0, 0))
        self.tallies[database, kind] = (keys + sign, size + sign * length)
        if digest is None:
            self.uncompared += sign
        elif sign > 0:
            self.fingerprints.setdefault(database, Fingerprint()).add(key, digest)
        else:
            self.fingerprints[database].remove(key, digest)

    def databases(self) -> dict[int, DatabaseEntry]:
        """The header's table."""
        return {
            number: DatabaseEntry(
                keys=sum(keys for (database, _), (keys, _) in self.tallies.items() if database == number),
                kinds={
                    kind: keys
                    for (database, kind), (keys, _) in sorted(self.tallies.items())
                    if database == number
                },
                fingerprint=self.fingerprints.get(number, Fingerprint()).hex(),
            )
            for number in sorted({database for database, _ in self.tallies})
        }


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
        rdb = self._open_rdb(rdb_version(payload))
        rdb.select(database)
        offset, length, body_xxh3 = rdb.add_payload(key, payload, expiry_ms)
        self._manifest.add(database, key, kind, payload[0], expiry_ms, digest, offset, length, body_xxh3)
        self._hashes.add(database, key)
        self.totals.count(database, kind, key, digest, length, +1)
        return length

    def finish(self) -> Snapshot:
        """Close the files, write the header, and give the folder its name."""
        partial = self._partial
        self._open_rdb(OLDEST_RDB_VERSION).finish()
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

    def _open_rdb(self, version: int) -> RdbWriter:
        """The RDB file; its first bytes are written when the first payload has told the source's RDB version."""
        if self._rdb is None:
            self._rdb_version = version
            self._rdb = RdbWriter(self._rdb_sink, version, _aux(self._identity))
        return self._rdb

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
                    body = walk.body(row)
                    if number in superseded:
                        self.totals.count(row.database, row.kind, row.key, row.digest, row.length, -1)
                    else:
                        _add_again(writer, rows, row, body)
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


def _add_again(writer: RdbWriter, rows: ManifestWriter, row: ManifestRow, body: bytes) -> None:
    writer.select(row.database)
    offset, length, body_xxh3 = writer.add(row.key, row.rdb_type, body, row.expiry_ms)
    rows.add(
        row.database, row.key, row.kind, row.rdb_type, row.expiry_ms, row.digest, offset, length, body_xxh3
    )


def _aux(identity: Identity) -> dict[str, str]:
    return {"redis-ver": identity.version, "redis-bits": "64", "greenfly-ver": __version__}


def remove_partial(directory: Path) -> None:
    """Remove what an unfinished snapshot of this name left behind."""
    shutil.rmtree(directory.with_name(directory.name + PARTIAL), ignore_errors=True)
