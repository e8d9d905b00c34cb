"""Taking a snapshot by SCAN: an RDB file, a Parquet manifest and a JSON header in one folder.

The keys of a batch are read inside MULTI/EXEC, so that a key's dump, expiry and canonical digest belong to the same
moment.  Keys of different batches do not: a snapshot of a source under writes is not a point in time, and the header
says so.  The folder appears under its name only when it is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import xxhash

from integrity.checksum import DEFINITION, Fingerprint
from integrity.endpoint import Endpoint, Identity
from integrity.errors import LedgerError
from integrity.expiry import NO_KEY, Commands, expiry_commands, take_expiries
from integrity.keyspace import KeyspaceReader, Page, memory_usage_known
from integrity.kinds import KINDS, MalformedReply
from integrity.kinds.groups import group_kinds
from integrity.replies import ErrorReply, Reply
from integrity.snapshot.duplicates import KeyHashes, superseded_rows
from integrity.snapshot.manifest import ManifestWriter, read_manifest
from integrity.snapshot.rdb import OLDEST_RDB_VERSION, RdbWriter
from integrity.transfer.payload import rdb_version
from integrity.version import __version__
from integrity.wire import Connection, argument, every

FORMAT: Final = "greenfly-snapshot/1"
RDB_NAME, MANIFEST_NAME, HEADER_NAME = "dump.rdb", "manifest.parquet", "header.json"
_PARTIAL: Final = ".partial"
_MULTI, _EXEC = b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n"
_BATCH_BYTES: Final = 4 * 1024 * 1024


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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A finished snapshot."""

    directory: Path
    rdb: Path
    manifest: Path
    header: Path
    rdb_version: int
    rdb_bytes: int
    totals: SnapshotTotals


class SnapshotTaker:
    """Takes one snapshot of one server.

    :param directory: the folder to create.
    :param on_progress: told keys and bytes as they are read.
    :raises LedgerError: the folder cannot be written.
    """

    def __init__(
        self,
        source: Endpoint,
        identity: Identity,
        directory: Path,
        *,
        batch_keys: int,
        on_progress: Callable[[int, int], None],
    ) -> None:
        self._source = source
        self._identity = identity
        self._directory = directory
        self._partial = directory.with_name(directory.name + _PARTIAL)
        self._batch_keys = batch_keys
        self._absolute = identity.has_pexpiretime
        self._on_progress = on_progress
        self._rdb: RdbWriter | None = None
        self._rdb_version = OLDEST_RDB_VERSION
        self.totals = SnapshotTotals()

    def take(self, databases: list[int]) -> Snapshot:
        """Read *databases* whole and write the artifact.

        :raises ServerError: the source is lost or refuses; nothing is left but a folder named ``….partial``.
        """
        started = datetime.now(UTC)
        try:
            remove_partial(self._directory)
            self._partial.mkdir(mode=0o700, parents=True)
            return self._take(databases, started)
        except OSError as error:
            raise LedgerError(
                f"The snapshot folder {self._partial} cannot be written ({error.strerror}).",
                "Free disk space or set snapshot.directory to another place.",
            ) from error

    def _take(self, databases: list[int], started: datetime) -> Snapshot:
        partial = self._partial
        hashes = KeyHashes(partial / "keys.hashes")
        with ExitStack() as files:
            files.enter_context(hashes)
            manifest = files.enter_context(ManifestWriter(partial / MANIFEST_NAME))
            files.callback(self._close_rdb)
            for database in databases:
                self._read_database(database, manifest, hashes)
            self._open_rdb(OLDEST_RDB_VERSION).finish()
        self._drop_duplicates(hashes.path)
        hashes.path.unlink()
        rdb_bytes = (partial / RDB_NAME).stat().st_size
        self._write_header(started, rdb_bytes)
        shutil.rmtree(self._directory, ignore_errors=True)
        os.replace(partial, self._directory)
        _sync_folder(self._directory.parent)
        return Snapshot(
            self._directory,
            self._directory / RDB_NAME,
            self._directory / MANIFEST_NAME,
            self._directory / HEADER_NAME,
            self._rdb_version,
            rdb_bytes,
            self.totals,
        )

    def _open_rdb(self, version: int) -> RdbWriter:
        """The RDB file; opened when the first payload has told the source's RDB version."""
        if self._rdb is None:
            self._rdb_version = version
            self._rdb = RdbWriter(self._partial / RDB_NAME, version, _aux(self._identity))
        return self._rdb

    def _close_rdb(self) -> None:
        if self._rdb is not None:
            self._rdb.close()

    # -- reading ------------------------------------------------------------------------------------------------

    def _read_database(self, database: int, manifest: ManifestWriter, hashes: KeyHashes) -> None:
        with (
            self._source.connect("snapshot", database) as connection,
            self._source.connect("snapshot", database) as single,
        ):
            reader = KeyspaceReader(
                connection,
                cursor=0,
                batch_keys=self._batch_keys,
                batch_bytes=_BATCH_BYTES,
                read=self._read_commands,
                with_types=True,
                with_sizes=memory_usage_known(connection),
            )
            for page, replies in reader:
                self._store(connection, single, page, replies, manifest, hashes)

    def _read_commands(self, page: Page) -> Commands:
        groups = group_kinds(page.types)
        expiries, count = expiry_commands(page.arguments, absolute=self._absolute)
        dumps = every(b"*2\r\n$4\r\nDUMP\r\n", page.arguments)
        commands = (_MULTI, dumps, expiries, groups.commands(page.arguments), _EXEC)
        return b"".join(commands), len(page.keys) + count + groups.count + 2

    def _store(
        self,
        connection: Connection,
        single: Connection,
        page: Page,
        replies: list[Reply],
        manifest: ManifestWriter,
        hashes: KeyHashes,
    ) -> None:
        results = replies[-1]
        if not isinstance(results, list):
            # The transaction was refused: the first error among the queued commands says why.
            first = next((reply for reply in replies if isinstance(reply, ErrorReply)), None)
            raise connection.error_for(first or ErrorReply("EXEC answered nothing"), "MULTI … EXEC")
        count = len(page.keys)
        values_at = 2 * count + (not self._absolute)
        expiries = take_expiries(results[count:values_at], absolute=self._absolute)
        values: list[Reply] = [None] * count
        for _, positions in group_kinds(page.types).groups:
            for position in positions:
                values[position] = results[values_at]
                values_at += 1
        read = 0
        for key, kind_name, payload, expiry, value in zip(
            page.keys, page.types, results, expiries, values, strict=False
        ):
            if isinstance(value, ErrorReply):
                # The key changed its type after it was probed: read it once more, alone.
                self._reread(single, key, manifest, hashes)
                continue
            read += self._keep(connection, key, kind_name, payload, expiry, value, manifest, hashes)
        self._on_progress(count, read)

    def _reread(self, single: Connection, key: bytes, manifest: ManifestWriter, hashes: KeyHashes) -> None:
        kind_name = single.command(b"TYPE", key)
        if not isinstance(kind_name, bytes):
            kind_name = b"none"
        page = Page([key], [argument(key)], [kind_name], [0], 0, 0, True, True)
        commands, count = self._read_commands(page)
        single.send(commands)
        self._store(single, single, page, single.receive_many(count), manifest, hashes)

    def _keep(
        self,
        connection: Connection,
        key: bytes,
        kind_name: bytes,
        payload: Reply,
        expiry: Reply,
        value: Reply,
        manifest: ManifestWriter,
        hashes: KeyHashes,
    ) -> int:
        """Write one key to both files; returns its body's size."""
        for reply, doing in ((payload, "DUMP"), (expiry, "PEXPIRETIME")):
            if isinstance(reply, ErrorReply):
                raise connection.error_for(reply, doing)
        if not isinstance(payload, bytes) or not isinstance(expiry, int) or expiry == NO_KEY:
            self.totals.vanished += 1
            return 0
        digest = None
        if kind := KINDS.get(kind_name):
            try:
                digest = kind.digest(value)
            except MalformedReply:
                digest = None
        database = connection.database
        expiry_ms = expiry if expiry >= 0 else None
        rdb = self._open_rdb(rdb_version(payload))
        rdb.select(database)
        offset, length = rdb.add_payload(key, payload, expiry_ms)
        name = kind_name.decode("utf-8", "replace")
        manifest.add(database, key, name, payload[0], expiry_ms, digest, offset, length)
        hashes.add(database, key)
        self._count(database, name, key, digest, length, +1)
        return length

    def _count(
        self, database: int, kind: str, key: bytes, digest: bytes | None, length: int, sign: int
    ) -> None:
        totals = self.totals
        totals.keys += sign
        totals.body_bytes += sign * length
        keys, size = totals.tallies.get((database, kind), (0, 0))
        totals.tallies[database, kind] = (keys + sign, size + sign * length)
        if digest is None:
            totals.uncompared += sign
        elif sign > 0:
            totals.fingerprints.setdefault(database, Fingerprint()).add(key, digest)
        else:
            totals.fingerprints[database].remove(key, digest)

    # -- finishing ----------------------------------------------------------------------------------------------

    def _drop_duplicates(self, hashes: Path) -> None:
        """Write both files again without the earlier readings of keys that SCAN returned twice."""
        manifest, rdb = self._partial / MANIFEST_NAME, self._partial / RDB_NAME
        superseded = superseded_rows(hashes, manifest)
        if not superseded:
            return
        new_manifest, new_rdb = manifest.with_suffix(".new"), rdb.with_suffix(".new")
        with (
            rdb.open("rb") as old,
            RdbWriter(new_rdb, self._rdb_version, _aux(self._identity)) as writer,
            ManifestWriter(new_manifest) as rows,
        ):
            for number, row in enumerate(read_manifest(manifest)):
                if number in superseded:
                    self._count(row.database, row.kind, row.key, row.digest, row.length, -1)
                    continue
                old.seek(row.offset)
                writer.select(row.database)
                offset, length = writer.add(row.key, row.rdb_type, old.read(row.length), row.expiry_ms)
                rows.add(
                    row.database, row.key, row.kind, row.rdb_type, row.expiry_ms, row.digest, offset, length
                )
            writer.finish()
        os.replace(new_rdb, rdb)
        os.replace(new_manifest, manifest)
        self.totals.duplicates = len(superseded)

    def _write_header(self, started: datetime, rdb_bytes: int) -> None:
        totals = self.totals
        header = {
            "format": FORMAT,
            "greenfly_version": __version__,
            "checksum_definition": DEFINITION,
            "consistency": "scan: each batch of keys is one moment, the whole is not a point in time under writes",
            "source": self._identity.to_dict(),
            "started_at": started.isoformat(),
            "ended_at": datetime.now(UTC).isoformat(),
            "keys": totals.keys,
            "vanished_while_reading": totals.vanished,
            "without_digest": totals.uncompared,
            "duplicates_dropped": totals.duplicates,
            "rdb_version": self._rdb_version,
            "databases": {
                str(database): {
                    "keys": sum(k for (db, _), (k, _) in totals.tallies.items() if db == database),
                    "kinds": {
                        kind: k for (db, kind), (k, _) in sorted(totals.tallies.items()) if db == database
                    },
                    "fingerprint": totals.fingerprints.get(database, Fingerprint()).hex(),
                }
                for database in sorted({db for db, _ in totals.tallies})
            },
            "files": {
                name: {
                    "bytes": (self._partial / name).stat().st_size,
                    "xxh3_128": _file_xxh3(self._partial / name),
                }
                for name in (RDB_NAME, MANIFEST_NAME)
            },
        }
        path = self._partial / HEADER_NAME
        with path.open("x", encoding="utf-8") as file:
            json.dump(header, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())


def _aux(identity: Identity) -> dict[str, str]:
    return {"redis-ver": identity.version, "redis-bits": "64", "greenfly-ver": __version__}


def _file_xxh3(path: Path) -> str:
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            state.update(chunk)
    return state.hexdigest()


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_partial(directory: Path) -> None:
    """Remove what an unfinished snapshot of this name left behind."""
    shutil.rmtree(directory.with_name(directory.name + _PARTIAL), ignore_errors=True)
