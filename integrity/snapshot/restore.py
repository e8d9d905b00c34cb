"""Writing a snapshot into a server: bodies from the RDB file, each made into a DUMP payload again, by RESTORE.

Big ones in plain encodings go in pieces (:mod:`integrity.snapshot.restore_big`).

One batch is on its way while the next is read from the disk; no more than two are ever in flight.  How a key is
written depends on what a failure would destroy, as in :mod:`integrity.transfer.copy`: Redis and Valkey parse before
they replace; any other engine (Dragonfly) destroys the old value before it parses the new one, so there a key that is
in the way goes through a temporary key and RENAME.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Final

from integrity.endpoint import Endpoint, Identity
from integrity.errors import Refused, ServerError
from integrity.kinds.base import plural
from integrity.kinds.pieces import Piece, PieceSize
from integrity.rdb.payload import payload_of
from integrity.rdb.pieces import comes_in_pieces
from integrity.replies import ErrorReply, Reply
from integrity.settings import BigValueSettings, ConflictPolicy
from integrity.snapshot.artifact import Artifact
from integrity.snapshot.header import Header
from integrity.snapshot.manifest import ManifestRow
from integrity.snapshot.restore_big import BigRestorer
from integrity.snapshot.totals import RefusedKey, RestoreTotals
from integrity.transfer.payload import downgraded, lowest_rdb_version, relabelled
from integrity.transfer.place import Busy, busy_positions, replace_busy
from integrity.transfer.rewrite import ENDS_THE_RUN
from integrity.transfer.temporary import TemporaryNames, shard_count
from integrity.wire import Connection, argument, pack

_MEANWHILE: Final = "the target was empty, and has got this key meanwhile"
_BATCH_BYTES: Final = 4 * 1024 * 1024


@dataclass(slots=True)
class _Batch:
    """Keys of one database on their way to the target."""

    numbers: list[int] = field(default_factory=list)
    rows: list[ManifestRow] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    size: int = 0
    """Bytes of the bodies."""

    def add(self, number: int, row: ManifestRow, payload: bytes) -> None:
        """Take one key in."""
        self.numbers.append(number)
        self.rows.append(row)
        self.payloads.append(payload)
        self.size += row.length


def check_target(
    target: Endpoint, header: Header, conflict: ConflictPolicy, databases: Collection[int] | None
) -> Identity:
    """Ask the target who it is and whether the snapshot can go there; nothing is written.

    :raises Refused: it holds keys and the policy is ``fail``, or it lacks a database.
    :raises ServerError: it is not reachable, not writable or refuses.
    """
    identity = target.identify()
    target.require_writable()
    if conflict is ConflictPolicy.FAIL and identity.keys:
        held = ", ".join(f"{plural(keys, 'key')} in database {n}" for n, keys in identity.databases.items())
        raise Refused(
            f"Target {target} is not empty: it holds {held}.",
            "Empty it, or choose --conflict replace (overwrite) or --conflict skip (keep the target's).",
        )
    with target.connect("check") as connection:
        for number in sorted(header.databases):
            if databases is not None and number not in databases:
                continue
            reply = connection.exchange([pack(b"SELECT", b"%d" % number)])[0]
            if isinstance(reply, ErrorReply):
                raise Refused(
                    f"Target {target} has no database {number}, which the snapshot holds ({reply}).",
                    "Raise its number of databases, or leave this one out with --databases.",
                )
    return identity


class Restorer:
    """Writes one snapshot into one server.

    :param databases: only these; None for all.
    :param big_values: from which length of its body on a value is written in pieces, and in which.
    :param on_progress: told keys and bytes as they are acknowledged.
    """

    def __init__(
        self,
        artifact: Artifact,
        target: Endpoint,
        identity: Identity,
        *,
        conflict: ConflictPolicy,
        databases: Collection[int] | None,
        batch_keys: int,
        big_values: BigValueSettings,
        on_progress: Callable[[int, int], None],
    ) -> None:
        self._artifact = artifact
        self._target = target
        self._databases = databases
        self._batch_keys = batch_keys
        self._big_bytes = big_values.threshold_bytes
        self._piece = PieceSize(big_values.piece_bytes, big_values.piece_elements)
        self._on_progress = on_progress
        self._conflict = conflict
        parses_first = identity.parses_before_replacing
        self._via_temporary = conflict is ConflictPolicy.REPLACE and not parses_first
        self._options: tuple[bytes, ...] = (b"ABSTTL",)
        if conflict is ConflictPolicy.REPLACE and parses_first:
            self._options = (b"REPLACE", b"ABSTTL")
        self._identity = identity
        self._temporary = TemporaryNames("restore")
        self._older: set[int] = set()
        """RDB types that the target took only under an older version; they are sent under it at once."""
        self._outstanding: _Batch | None = None
        self.totals = RestoreTotals()

    def restore(self) -> RestoreTotals:
        """Write every key.

        :raises ArtifactError: the snapshot was changed since it was checked.
        :raises ServerError: the target is lost, full, read-only or refuses; what was acknowledged stays there.
        """
        batch, version = _Batch(), self._artifact.header.rdb_version
        with (
            self._artifact.open_manifest() as manifest,
            self._artifact.open_rdb() as walk,
            self._target.connect("restore") as target,
        ):
            # No two restores share a name: one would rename the other's value onto its own key.
            owner = f"restore-{secrets.token_hex(6)}"
            self._temporary = TemporaryNames(owner, shard_count(target, self._identity))
            for number, row in enumerate(manifest):
                walk.enter(row)
                if self._databases is not None and row.database not in self._databases:
                    walk.skim(row)
                    self.totals.left_out += 1
                    continue
                if batch.rows and (
                    row.database != batch.rows[0].database
                    or len(batch.rows) >= self._batch_keys
                    or batch.size + row.length > _BATCH_BYTES
                ):
                    self._send(target, batch)
                    batch = _Batch()
                if row.length > self._big_bytes and comes_in_pieces(row.rdb_type, version):
                    if batch.rows:
                        self._send(target, batch)
                        batch = _Batch()
                    self._acknowledge(target)
                    self._restore_big(target, number, row, walk.pieces(row, self._piece))
                else:
                    batch.add(number, row, self._payload(row, walk.body(row)))
            if batch.rows:
                self._send(target, batch)
            self._acknowledge(target)
            walk.finish()
        return self.totals

    def _restore_big(
        self, target: Connection, number: int, row: ManifestRow, pieces: Iterator[Piece]
    ) -> None:
        """Write one big key; no batch is under way."""
        target.select(row.database)
        big = BigRestorer(target, self._identity, names=self._temporary, conflict=self._conflict)
        outcome = big.write(row, pieces)
        written = outcome.what == "written"
        self.totals.written += written
        self.totals.in_pieces += written
        self.totals.size += row.length if written else 0
        if not written:
            self.totals.not_written.append(number)
            if outcome.what == "kept" and self._conflict is ConflictPolicy.SKIP:
                self.totals.skipped += 1
            else:
                detail = outcome.detail or _MEANWHILE
                self.totals.refused.append(RefusedKey(row.database, row.key, row.kind, detail))
        self._on_progress(1, row.length if written else 0)

    def _payload(self, row: ManifestRow, body: bytes) -> bytes:
        return payload_of(row.rdb_type, body, self._version_for(row.rdb_type))

    def _version_for(self, rdb_type: int) -> int:
        version = self._artifact.header.rdb_version
        return (lowest_rdb_version(rdb_type) or version) if rdb_type in self._older else version

    def _send(self, target: Connection, batch: _Batch) -> None:
        """Take in the answers to the batch before, which arrived while this one was read, and send this one."""
        self._acknowledge(target)
        target.select(batch.rows[0].database)
        target.send(self._commands(batch.rows, batch.payloads))
        self._outstanding = batch

    def _commands(self, rows: list[ManifestRow], payloads: list[bytes]) -> bytes:
        head = b"*%d\r\n$7\r\nRESTORE\r\n" % (4 + len(self._options))
        tail = b"".join(map(argument, self._options))
        parts: list[bytes] = []
        for row, payload in zip(rows, payloads, strict=True):
            parts += (head, argument(row.key), _when(row), argument(payload), tail)
        return b"".join(parts)

    def _acknowledge(self, target: Connection) -> None:
        batch, self._outstanding = self._outstanding, None
        if batch is None:
            return
        replies = target.receive_many(len(batch.rows))
        size = sum(map(len, batch.payloads))
        if replies.count(b"OK") != len(replies):
            self._relabel_refused(target, batch, replies)
            self._downgrade_refused(target, batch, replies)
            if self._via_temporary:
                self._replace_busy(target, batch, replies)
        for number, row, payload, reply in zip(
            batch.numbers, batch.rows, batch.payloads, replies, strict=True
        ):
            if isinstance(reply, ErrorReply):
                self._note(target, number, row, reply)
                size -= len(payload)
            else:
                self.totals.written += 1
                self.totals.relabelled += row.rdb_type in self._older
        self.totals.size += size
        self._on_progress(len(batch.rows), size)

    def _note(self, target: Connection, number: int, row: ManifestRow, reply: ErrorReply) -> None:
        """Count a key that was not written.

        :raises ServerError: the refusal is about the server, not the key, and every further key would meet it.
        """
        self.totals.not_written.append(number)
        if str(reply).startswith("BUSYKEY") and self._conflict is ConflictPolicy.SKIP:
            self.totals.skipped += 1
            return
        error: ServerError = target.error_for(reply, "RESTORE")
        if isinstance(error, ENDS_THE_RUN):
            raise error
        detail = f"the target refused the payload (RDB type {row.rdb_type}): {reply}"
        if str(reply).startswith("BUSYKEY"):
            detail = _MEANWHILE
        self.totals.refused.append(RefusedKey(row.database, row.key, row.kind, detail))

    def _relabel_refused(self, target: Connection, batch: _Batch, replies: list[Reply]) -> None:
        """Try payloads once more that the target refused for their RDB version alone; see :mod:`~.transfer.copy`."""
        again: list[int] = []
        for position, reply in enumerate(replies):
            payload = relabelled(batch.payloads[position], reply)
            if payload is not None:
                again.append(position)
                batch.payloads[position] = payload
        if not again:
            return
        rows = [batch.rows[i] for i in again]
        target.send(self._commands(rows, [batch.payloads[i] for i in again]))
        for position, reply in zip(again, target.receive_many(len(again)), strict=True):
            replies[position] = reply
            if reply == b"OK":
                self._older.add(batch.rows[position].rdb_type)

    def _downgrade_refused(self, target: Connection, batch: _Batch, replies: list[Reply]) -> None:
        """Try streams once more, in an older form, that the target refused for their type."""
        again: list[int] = []
        for position, reply in enumerate(replies):
            payload = downgraded(batch.payloads[position], reply)
            if payload is not None:
                again.append(position)
                batch.payloads[position] = payload
        if not again:
            return
        rows = [batch.rows[i] for i in again]
        target.send(self._commands(rows, [batch.payloads[i] for i in again]))
        for position, reply in zip(again, target.receive_many(len(again)), strict=True):
            replies[position] = reply
            self.totals.downgraded += reply == b"OK"

    def _replace_busy(self, target: Connection, batch: _Batch, replies: list[Reply]) -> None:
        """Replace the keys that were there already, through temporary ones; puts the outcome into *replies*."""
        busy = [
            Busy(n, batch.rows[n].key, batch.payloads[n], _when(batch.rows[n]))
            for n in busy_positions(replies)
        ]
        if busy:
            replace_busy(target, self._temporary, busy, replies)


def _when(row: ManifestRow) -> bytes:
    """The expiry as RESTORE takes it; 0 is never."""
    return argument(b"%d" % max(1, row.expiry_ms) if row.expiry_ms is not None else b"0")
