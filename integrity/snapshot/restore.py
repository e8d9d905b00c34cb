"""Writing a snapshot into a server: bodies from the RDB file, each made into a DUMP payload again, by RESTORE.

Big ones in plain encodings go in pieces (:mod:`integrity.snapshot.restore_big`).  One batch is on its way while the
next is read from the disk; no more than two are ever in flight (:mod:`integrity.snapshot.restore_batch`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from integrity.endpoint import Endpoint, Identity
from integrity.errors import Refused
from integrity.kinds.base import plural
from integrity.kinds.pieces import PieceSize
from integrity.pace import FullSpeed, Pace
from integrity.rdb.pieces import can_be_written, comes_in_pieces
from integrity.rdb.types import JSON
from integrity.replies import ErrorReply
from integrity.rules import Rules
from integrity.settings import BigValueSettings, ConflictPolicy, RuleSettings
from integrity.snapshot.artifact import Artifact
from integrity.snapshot.header import Header
from integrity.snapshot.manifest import ManifestRow
from integrity.snapshot.restore_batch import Batch, BatchSender
from integrity.snapshot.totals import OddKey, RestoreTotals
from integrity.transfer.temporary import TemporaryNames, places_of
from integrity.wire import pack

_BATCH_BYTES: Final = 4 * 1024 * 1024
NO_RULES: Final = Rules.of(RuleSettings())


def check_target(
    target: Endpoint, header: Header, conflict: ConflictPolicy, databases: Collection[int] | None
) -> Identity:
    """Ask the target who it is and whether the snapshot can go there; nothing is written.

    :raises Refused: it holds keys and the policy is ``fail``, or it lacks a database.
    :raises ServerError: it is not reachable, not writable or refuses.
    """
    identity = target.identify()
    target.require_writable()
    if conflict is ConflictPolicy.FAIL:
        require_empty(target, identity)
    require_databases(target, [n for n in header.databases if databases is None or n in databases])
    return identity


def require_empty(target: Endpoint, identity: Identity, remedy: str | None = None) -> None:
    """Refuse a target that holds keys.

    :raises Refused: it does.
    """
    if identity.keys:
        held = ", ".join(f"{plural(keys, 'key')} in database {n}" for n, keys in identity.databases.items())
        raise Refused(
            f"Target {target} is not empty: it holds {held}.",
            remedy
            or "Empty it, or choose --conflict replace (overwrite) or --conflict skip (keep the target's).",
        )


def require_databases(target: Endpoint, databases: Iterable[int]) -> None:
    """Refuse a target that lacks one of *databases* (its own numbers).

    :raises Refused: it does.
    """
    with target.connect("check") as connection:
        for number in sorted(databases):
            reply = connection.exchange([pack(b"SELECT", b"%d" % number)])[0]
            if isinstance(reply, ErrorReply):
                raise Refused(
                    f"Target {target} has no database {number}, which the snapshot holds ({reply}).",
                    "Raise its number of databases, or leave this one out with --databases.",
                )


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows of a manifest are written, and where to."""

    databases: Collection[int] | None = None
    """Of the snapshot; None for all."""
    rules: Rules = NO_RULES
    without: Collection[int] = ()
    """Numbers of rows that are left out whatever the rules say."""

    def wants(self, number: int, row: ManifestRow) -> bool:
        """Whether a row is written."""
        if self.databases is not None and row.database not in self.databases:
            return False
        if not self.rules.selects_all and self.rules.selects(row.key, row.kind.encode()) is not None:
            return False
        return number not in self.without


class Restorer:
    """Writes one snapshot into one server.

    :param big_values: from which length of its body on a value is written in pieces, and in which.
    :param owner: begins the names of temporary keys; nobody else may use it.
    :param start: the first row that is not on the target yet.
    :param incomplete: write a value also where the target cannot hold its fields' expiries, and tell.
    :param pace: asked before every batch.
    :param on_progress: told keys and bytes as they are acknowledged.
    :param on_acknowledged: told the first row whose fate is not known yet, after every batch.
    :param on_odd: told of each key that was not written, or not all of it, before that.
    :param on_temporary: told before temporary keys are written.
    """

    def __init__(
        self,
        artifact: Artifact,
        target: Endpoint,
        identity: Identity,
        *,
        conflict: ConflictPolicy,
        databases: Collection[int] | None = None,
        selection: Selection | None = None,
        batch_keys: int,
        big_values: BigValueSettings,
        owner: str | None = None,
        start: int = 0,
        incomplete: bool = False,
        pace: Pace | None = None,
        on_progress: Callable[[int, int], None],
        on_acknowledged: Callable[[int], None] = lambda row: None,
        on_odd: Callable[[OddKey], None] = lambda odd: None,
        on_temporary: Callable[[], None] = lambda: None,
    ) -> None:
        self._artifact = artifact
        self._target = target
        self._identity = identity
        self._conflict = conflict
        self._selection = selection or Selection(databases)
        self._big_bytes = big_values.threshold_bytes
        self._piece = PieceSize(big_values.piece_bytes, big_values.piece_elements)
        # No two restores share a name: one would rename the other's value onto its own key.
        self._owner = owner or f"restore-{secrets.token_hex(6)}"
        self._start = start
        self._incomplete = incomplete
        self._pace = pace or FullSpeed(batch_keys)
        self._on_progress = on_progress
        self._on_acknowledged = on_acknowledged
        self._on_odd = on_odd
        self._on_temporary = on_temporary
        self.totals = RestoreTotals()

    def restore(self) -> RestoreTotals:
        """Write every key.

        :raises ArtifactError: the snapshot was changed since it was checked.
        :raises ServerError: the target is lost, full, read-only or refuses; what was acknowledged stays there.
        """
        version, rules = self._artifact.header.rdb_version, self._selection.rules
        batch, sent_to = Batch(), self._start
        with (
            self._artifact.open_manifest() as manifest,
            self._artifact.open_rdb() as walk,
            self._target.connect("restore") as target,
        ):
            sender = BatchSender(
                target,
                self._identity,
                version,
                self.totals,
                names=TemporaryNames(self._owner, places_of(target, self._identity)),
                conflict=self._conflict,
                incomplete=self._incomplete,
                on_odd=self._on_odd,
                on_temporary=self._on_temporary,
                on_progress=self._on_progress,
            )

            def send(upto: int) -> None:
                nonlocal batch, sent_to
                if batch.rows:
                    self._pace.admit(len(batch.rows), batch.size)
                    if sender.send(batch):
                        self._on_acknowledged(sent_to)
                    batch, sent_to = Batch(), upto

            for number, row in enumerate(manifest):
                walk.enter(row)
                if number < self._start or not self._selection.wants(number, row):
                    walk.skim(row)
                    self.totals.left_out += number >= self._start
                    continue
                database = rules.target_database(row.database)
                if batch.rows and (
                    database != batch.database
                    or len(batch.rows) >= self._pace.batch_keys
                    or batch.size + row.length > _BATCH_BYTES
                ):
                    send(number)
                batch.database = database
                name = rules.rename(row.key)
                if row.length > self._big_bytes and _goes_in_pieces(row.rdb_type, version):
                    send(number)
                    sender.settle()
                    self._pace.admit(1, row.length)
                    sender.write_big(number, row, database, name, walk.pieces(row, self._piece))
                    sent_to = number + 1
                    self._on_acknowledged(sent_to)
                else:
                    sender.add(batch, number, row, name, walk.body(row))
            send(manifest.keys)
            sender.settle()
            walk.finish()
            self._on_acknowledged(manifest.keys)
        return self.totals


def _goes_in_pieces(rdb_type: int, rdb_version: int) -> bool:
    """Whether a value is written piece by piece; streams and documents keep more by RESTORE."""
    return rdb_type != JSON and can_be_written(rdb_type) and comes_in_pieces(rdb_type, rdb_version)
