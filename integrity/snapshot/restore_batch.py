"""One connection to the target of a restore: batches of RESTOREs, and what becomes of payloads that are refused.

A payload that is refused for its RDB version goes again under the oldest version that has its type; a stream goes
again in the form of Redis 7.0; whatever is refused then, any type that the target does not know, is decoded here and
written with typed commands.  How a key is written depends on what a failure would destroy, as in
:mod:`integrity.transfer.copy`: Redis and Valkey parse before they replace; any other engine (Dragonfly) destroys the
old value before it parses the new one, so there a key that is in the way goes through a temporary key and RENAME.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from integrity.endpoint import Identity
from integrity.errors import ServerError
from integrity.kinds.pieces import Piece
from integrity.rdb.errors import MalformedBody
from integrity.rdb.payload import payload_of
from integrity.rdb.values import whole_pieces
from integrity.replies import ErrorReply, Reply
from integrity.settings import ConflictPolicy
from integrity.snapshot.manifest import ManifestRow
from integrity.snapshot.restore_big import BigRestorer, Outcome
from integrity.snapshot.totals import OddKey, RefusedKey, RestoreTotals
from integrity.transfer.payload import downgraded, lowest_rdb_version, relabelled
from integrity.transfer.place import Busy, busy_positions, replace_busy
from integrity.transfer.rewrite import ENDS_THE_RUN
from integrity.transfer.temporary import TemporaryNames
from integrity.wire import Connection, argument

_MEANWHILE: Final = "the target was empty, and has got this key meanwhile"
_KEPT: Final = "the target had this key already; its value was kept by the rule conflict=skip"


@dataclass(slots=True)
class Batch:
    """Keys on their way to one database of the target."""

    database: int = 0
    """Of the target."""
    numbers: list[int] = field(default_factory=list)
    rows: list[ManifestRow] = field(default_factory=list)
    names: list[bytes] = field(default_factory=list)
    """On the target."""
    bodies: list[bytes] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    size: int = 0
    """Bytes of the bodies."""


class BatchSender:
    """Writes keys; no more than one batch is under way.

    :param names: temporary names that nobody else uses.
    :param incomplete: see :class:`~integrity.snapshot.restore_big.BigRestorer`.
    :param on_odd: told of each key that was not written, or not all of it.
    :param on_temporary: told before temporary keys are written.
    """

    def __init__(
        self,
        target: Connection,
        identity: Identity,
        rdb_version: int,
        totals: RestoreTotals,
        *,
        names: TemporaryNames,
        conflict: ConflictPolicy,
        incomplete: bool,
        on_odd: Callable[[OddKey], None],
        on_temporary: Callable[[], None],
        on_progress: Callable[[int, int], None],
    ) -> None:
        self._target = target
        self._rdb_version = rdb_version
        self._totals = totals
        self._names = names
        self._conflict = conflict
        self._on_odd = on_odd
        self._on_temporary = on_temporary
        self._on_progress = on_progress
        parses_first = identity.parses_before_replacing
        self._via_temporary = conflict is ConflictPolicy.REPLACE and not parses_first
        self._options: tuple[bytes, ...] = (b"ABSTTL",)
        if conflict is ConflictPolicy.REPLACE and parses_first:
            self._options = (b"REPLACE", b"ABSTTL")
        self._big = BigRestorer(target, identity, names=names, conflict=conflict, incomplete=incomplete)
        self._older: set[int] = set()
        """RDB types that the target took only under an older version; they are sent under it at once."""
        self._outstanding: Batch | None = None

    def add(self, batch: Batch, number: int, row: ManifestRow, name: bytes, body: bytes) -> None:
        """Put one key into a batch."""
        batch.numbers.append(number)
        batch.rows.append(row)
        batch.names.append(name)
        batch.bodies.append(body)
        batch.payloads.append(payload_of(row.rdb_type, body, self._version_for(row.rdb_type)))
        batch.size += row.length

    def send(self, batch: Batch) -> int:
        """Take in the answers to the batch before, which arrived while this one was read, and send this one.

        Returns how many keys those were.

        :raises ServerError: the target is lost, full, read-only or refuses.
        """
        acknowledged = self.settle()
        self._target.select(batch.database)
        self._target.send(self._commands(batch, range(len(batch.rows))))
        self._outstanding = batch
        return acknowledged

    def settle(self) -> int:
        """Take in the answers to the batch that is under way; returns how many keys it had.

        :raises ServerError: see :meth:`send`.
        """
        batch, self._outstanding = self._outstanding, None
        if batch is None:
            return 0
        target, totals = self._target, self._totals
        replies = target.receive_many(len(batch.rows))
        if replies.count(b"OK") != len(replies):
            self._relabel_refused(batch, replies)
            self._downgrade_refused(batch, replies)
            if self._via_temporary:
                self._replace_busy(batch, replies)
        size = 0
        for position, reply in enumerate(replies):
            row = batch.rows[position]
            if isinstance(reply, ErrorReply):
                size += self._not_restored(batch, position, reply)
            else:
                totals.written += 1
                totals.relabelled += row.rdb_type in self._older
                totals.tally(row)
                size += len(batch.payloads[position])
        totals.size += size
        self._on_progress(len(batch.rows), size)
        return len(batch.rows)

    def write_big(
        self, number: int, row: ManifestRow, database: int, name: bytes, pieces: Iterator[Piece]
    ) -> None:
        """Write one big key; no batch may be under way.

        :raises Damage: the body is not the one of the manifest; nothing is left of it.
        :raises ServerError: see :meth:`send`.
        """
        self._target.select(database)
        self._on_temporary()
        outcome = self._big.write(row, name, pieces)
        size = self._count(number, row, outcome)
        self._totals.in_pieces += outcome.what == "written"
        self._totals.size += size
        self._on_progress(1, size)

    # -- what is refused ----------------------------------------------------------------------------------------

    def _not_restored(self, batch: Batch, position: int, reply: ErrorReply) -> int:
        """What becomes of a key whose payload the target did not take; returns the bytes that were written.

        :raises ServerError: the refusal is about the server, not the key, and every further key would meet it.
        """
        number, row = batch.numbers[position], batch.rows[position]
        if str(reply).startswith("BUSYKEY"):
            return self._count(number, row, Outcome("kept"))
        error: ServerError = self._target.error_for(reply, "RESTORE")
        if isinstance(error, ENDS_THE_RUN):
            raise error
        refusal = f"the target refused the payload (RDB type {row.rdb_type}): {reply}"
        try:
            pieces = whole_pieces(row.rdb_type, batch.bodies[position], self._rdb_version)
        except MalformedBody as unreadable:
            return self._count(number, row, Outcome("refused", f"{refusal}; {unreadable}"))
        self._on_temporary()
        outcome = self._big.write(row, batch.names[position], iter(pieces))
        if outcome.what == "refused":
            outcome = Outcome("refused", f"{refusal}; {outcome.detail}")
        self._totals.rewritten += outcome.what == "written"
        return self._count(number, row, outcome)

    def _count(self, number: int, row: ManifestRow, outcome: Outcome) -> int:
        """Count what became of a key that was written with typed commands, or not at all; returns bytes written."""
        totals = self._totals
        if outcome.what == "written":
            totals.written += 1
            totals.tally(row)
            if outcome.lost:
                detail = f"written with typed commands, which do not carry {', '.join(outcome.lost)}"
                totals.not_carried += 1
                self._on_odd(OddKey("not carried", row.database, row.key, row.kind, detail))
            return row.length
        totals.not_written.append(number)
        if outcome.what == "kept" and self._conflict is ConflictPolicy.SKIP:
            totals.skipped += 1
            self._on_odd(OddKey("kept", row.database, row.key, row.kind, _KEPT))
        else:
            detail = outcome.detail or _MEANWHILE
            totals.refused.append(RefusedKey(row.database, row.key, row.kind, detail))
            self._on_odd(OddKey("refused", row.database, row.key, row.kind, detail))
        return 0

    def _relabel_refused(self, batch: Batch, replies: list[Reply]) -> None:
        """Try payloads once more that the target refused for their RDB version alone; see :mod:`~.transfer.copy`."""
        for position in self._again(batch, replies, relabelled):
            if replies[position] == b"OK":
                self._older.add(batch.rows[position].rdb_type)

    def _downgrade_refused(self, batch: Batch, replies: list[Reply]) -> None:
        """Try streams once more, in an older form, that the target refused for their type."""
        for position in self._again(batch, replies, downgraded):
            self._totals.downgraded += replies[position] == b"OK"

    def _again(
        self, batch: Batch, replies: list[Reply], changed: Callable[[bytes, Reply], bytes | None]
    ) -> list[int]:
        """Send those payloads once more that can be *changed* for the target; returns their positions."""
        again: list[int] = []
        for position, reply in enumerate(replies):
            payload = changed(batch.payloads[position], reply)
            if payload is not None:
                again.append(position)
                batch.payloads[position] = payload
        if again:
            self._target.send(self._commands(batch, again))
            for position, reply in zip(again, self._target.receive_many(len(again)), strict=True):
                replies[position] = reply
        return again

    def _replace_busy(self, batch: Batch, replies: list[Reply]) -> None:
        """Replace the keys that were there already, through temporary ones; puts the outcome into *replies*."""
        busy = [
            Busy(n, batch.names[n], batch.payloads[n], _when(batch.rows[n])) for n in busy_positions(replies)
        ]
        if busy:
            self._on_temporary()
            replace_busy(self._target, self._names, busy, replies)

    def _version_for(self, rdb_type: int) -> int:
        version = self._rdb_version
        return (lowest_rdb_version(rdb_type) or version) if rdb_type in self._older else version

    def _commands(self, batch: Batch, positions: Sequence[int]) -> bytes:
        head = b"*%d\r\n$7\r\nRESTORE\r\n" % (4 + len(self._options))
        tail = b"".join(map(argument, self._options))
        parts: list[bytes] = []
        for n in positions:
            parts += (head, argument(batch.names[n]), _when(batch.rows[n]), argument(batch.payloads[n]), tail)
        return b"".join(parts)


def _when(row: ManifestRow) -> bytes:
    """The expiry as RESTORE takes it; 0 is never."""
    return argument(b"%d" % max(1, row.expiry_ms) if row.expiry_ms is not None else b"0")
