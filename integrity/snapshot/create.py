"""Taking a snapshot by SCAN: the keys of a batch are read inside MULTI/EXEC, big ones in pieces under WATCH.

So a key's dump, expiry and canonical digest belong to the same moment.  Keys of different batches do not: a snapshot
of a source under writes is not a point in time, and the header says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from integrity.endpoint import Endpoint, Identity
from integrity.errors import LedgerError
from integrity.expiry import NO_KEY, Commands, expiry_commands, take_expiries
from integrity.keyspace import BigKey, KeyspaceReader, Page, memory_usage_known
from integrity.kinds import KINDS, MalformedReply
from integrity.kinds.groups import group_kinds
from integrity.kinds.pieces import PieceSize
from integrity.pace import FullSpeed, Pace
from integrity.partition import WHOLE
from integrity.replies import ErrorReply, Reply
from integrity.rules import Rules
from integrity.settings import BigValueSettings, RuleSettings
from integrity.snapshot.big import BigValueTaker, MustBeReadWhole
from integrity.snapshot.folder import remove_partial
from integrity.snapshot.sealing import read_recipients
from integrity.snapshot.totals import SnapshotTotals
from integrity.snapshot.writer import Snapshot, SnapshotWriter
from integrity.standby import Standby
from integrity.wire import Connection, argument, every

__all__ = ["Snapshot", "SnapshotTaker", "SnapshotTotals", "remove_partial"]

_MULTI, _EXEC = b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n"
_BATCH_BYTES: Final = 4 * 1024 * 1024


class SnapshotTaker:
    """Takes one snapshot of one server: every key of the databases that it is asked for.

    :param directory: the folder to create.
    :param encrypt_to: age recipients; plain files where there is none.
    :param big_values: from which size on a value is read in pieces, and in which.
    :param pace: asked before every page and every piece; never slow by default.
    :param on_progress: told keys and bytes as they are read.
    :raises ConfigurationError: one of *encrypt_to* is no recipient.
    """

    def __init__(
        self,
        source: Endpoint,
        identity: Identity,
        directory: Path,
        *,
        batch_keys: int,
        encrypt_to: Sequence[str] = (),
        big_values: BigValueSettings | None = None,
        pace: Pace | None = None,
        on_progress: Callable[[int, int], None],
    ) -> None:
        self._source = source
        self._directory = directory
        self._identity = identity
        big_values = big_values or BigValueSettings()
        self._big_bytes = big_values.threshold_bytes
        self._piece = PieceSize(big_values.piece_bytes, big_values.piece_elements)
        self._pace = pace or FullSpeed(batch_keys)
        self._absolute = identity.has_pexpiretime
        self._on_progress = on_progress
        self._writer = SnapshotWriter(directory, identity, read_recipients(encrypt_to))

    @property
    def totals(self) -> SnapshotTotals:
        """What the snapshot holds so far."""
        return self._writer.totals

    def take(self, databases: list[int]) -> Snapshot:
        """Read *databases* whole and write the artifact.

        :raises LedgerError: the folder cannot be written.
        :raises ServerError: the source is lost or refuses; nothing is left but a folder named ``….partial``.
        """
        try:
            with self._writer:
                for database in databases:
                    self._read_database(database)
                return self._writer.finish()
        except OSError as error:
            raise LedgerError(
                f"The snapshot folder {self._directory} cannot be written ({error.strerror or error}).",
                "Free disk space or set snapshot.directory to another place.",
            ) from error

    def _read_database(self, database: int) -> None:
        with (
            self._source.connect("snapshot", database) as connection,
            Standby(self._source, "snapshot", database) as single,
        ):
            big = BigValueTaker(
                single, self._writer, identity=self._identity, limit=self._piece, pace=self._pace
            )
            reader = KeyspaceReader(
                connection,
                keys=WHOLE,
                cursor=None,
                pace=self._pace,
                batch_bytes=_BATCH_BYTES,
                big_bytes=self._big_bytes,
                rules=Rules.of(RuleSettings()),
                read=self._read_commands,
                with_types=True,
                with_sizes=memory_usage_known(connection),
            )
            for page, replies in reader:
                self._store(connection, single, page, replies)
                for key in page.big:
                    self._take_big(big, single, key)

    def _take_big(self, big: BigValueTaker, single: Standby, key: BigKey) -> None:
        try:
            size = big.take(key.key, key.size)
        except MustBeReadWhole:
            # A value that never holds still is read whole too: that stops the source and fills the memory, but a
            # snapshot without its busiest key is no way back.
            self._pace.admit(0, key.size)
            self._reread(single, key.key)
        else:
            self._on_progress(1, size)

    def _read_commands(self, page: Page) -> Commands:
        groups = group_kinds(page.types)
        expiries, count = expiry_commands(page.arguments, absolute=self._absolute)
        dumps = every(b"*2\r\n$4\r\nDUMP\r\n", page.arguments)
        commands = (_MULTI, dumps, expiries, groups.commands(page.arguments), _EXEC)
        return b"".join(commands), len(page.keys) + count + groups.count + 2

    def _store(
        self,
        connection: Connection,
        single: Standby,
        page: Page,
        replies: list[Reply],
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
                self._reread(single, key)
                continue
            read += self._keep(connection, key, kind_name, payload, expiry, value)
        self._on_progress(count, read)

    def _reread(self, single: Standby, key: bytes) -> None:
        connection = single.connection()
        kind_name = connection.command(b"TYPE", key)
        if not isinstance(kind_name, bytes):
            kind_name = b"none"
        page = Page([key], [argument(key)], [kind_name], [0], 0, 0, True, True)
        commands, count = self._read_commands(page)
        connection.send(commands)
        self._store(connection, single, page, connection.receive_many(count))

    def _keep(
        self,
        connection: Connection,
        key: bytes,
        kind_name: bytes,
        payload: Reply,
        expiry: Reply,
        value: Reply,
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
        expiry_ms = expiry if expiry >= 0 else None
        name = kind_name.decode("utf-8", "replace")
        return self._writer.add(connection.database, key, name, payload, expiry_ms, digest)
