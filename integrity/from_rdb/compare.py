"""Comparing a target with the file that it was loaded from, in both directions.

Forward every row of the manifest is looked at on the target: type, value, expiry.  Where more is to be compared than a
digest tells, and where something differs, the value is taken out of the file.  Backward every key of the target is
looked for among the places that the file's keys go to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from integrity.checksum import Fingerprint
from integrity.endpoint import Endpoint, Identity
from integrity.expiry import TIME_COMMAND, clock_ms
from integrity.from_rdb.bodies import Bodies
from integrity.from_rdb.places import Places
from integrity.from_rdb.quick import QuickLook
from integrity.keyspace import scan_command, scan_reply
from integrity.ledger.models import FindingClass
from integrity.ledger.store import NewFinding
from integrity.pace import Pace
from integrity.replies import ErrorReply
from integrity.rules import Rules
from integrity.snapshot.manifest import ManifestRow
from integrity.snapshot.restore import Selection
from integrity.verify.classify import classify
from integrity.verify.look import ABSENT, BigValues, Look, look
from integrity.verify.totals import CompareTotals
from integrity.wire import Connection

_BATCH_KEYS: Final = 500
_BATCH_BYTES: Final = 4 * 1024 * 1024
_SCAN_KEYS: Final = 1000


class FileComparer:
    """Compares; counts into :attr:`totals`.

    :param databases: of the file; those that the run is about.
    :param on_findings: told of what differs.
    :param on_progress: told keys and bytes as they are compared.
    """

    def __init__(
        self,
        target: Endpoint,
        identity: Identity,
        bodies: Bodies,
        *,
        selection: Selection,
        big: BigValues,
        tolerance_ms: int,
        pace: Pace,
        on_findings: Callable[[list[NewFinding]], None],
        on_progress: Callable[[int, int], None],
    ) -> None:
        self._target = target
        self._absolute = identity.has_pexpiretime
        self._bodies = bodies
        self._selection = selection
        self._big = big
        self._tolerance = tolerance_ms
        self._quick = QuickLook(
            absolute=identity.has_pexpiretime, longest=big.threshold, tolerance_ms=tolerance_ms
        )
        self._pace = pace
        self._on_findings = on_findings
        self._on_progress = on_progress
        self.totals = CompareTotals()

    # -- forward ------------------------------------------------------------------------------------------------

    def compare(self, rows: Iterable[ManifestRow]) -> None:
        """Look at every key of the file that the run is about.

        :raises ServerError: the target is lost or refuses.
        :raises ArtifactError: the file cannot be read any more.
        """
        with self._target.connect("verify") as connection:
            for database, batch in self._batches(rows):
                size = sum(row.length for row in batch)
                self._pace.admit(len(batch), size)
                connection.select(database)
                findings = self._compare(connection, batch)
                if findings:
                    self._on_findings(findings)
                self._on_progress(len(batch), size)

    def _batches(self, rows: Iterable[ManifestRow]) -> Iterator[tuple[int, list[ManifestRow]]]:
        """The rows of the run, in batches of one database of the target."""
        rules, selection = self._selection.rules, self._selection
        batch: list[ManifestRow] = []
        size = onto = 0
        for number, row in enumerate(rows):
            if selection.databases is not None and row.database not in selection.databases:
                continue
            rule = None if rules.selects_all else rules.selects(row.key, row.kind.encode())
            if rule is not None:
                self.totals.excluded[rule] = self.totals.excluded.get(rule, 0) + 1
                continue
            if number in selection.without:
                self._collide(row)
                continue
            database = rules.target_database(row.database)
            if batch and (
                database != onto
                or len(batch) >= min(_BATCH_KEYS, self._pace.batch_keys)
                or size + row.length > _BATCH_BYTES
            ):
                yield onto, batch
                batch, size = [], 0
            batch.append(row)
            onto, size = database, size + row.length
        if batch:
            yield onto, batch

    def _collide(self, row: ManifestRow) -> None:
        self.totals.scanned += 1
        detail = "another key of the file goes to the same place of the target; this one was not written"
        self._on_findings(
            [
                NewFinding(
                    FindingClass.COLLISION,
                    row.database,
                    row.key,
                    source_kind=row.kind,
                    source_digest=row.digest,
                    detail=detail,
                )
            ]
        )

    def _compare(self, connection: Connection, batch: Sequence[ManifestRow]) -> list[NewFinding]:
        names = self._selection.rules.rename_all([row.key for row in batch])
        totals = self.totals
        careful: list[int] = []
        for n, (row, equal) in enumerate(
            zip(batch, self._quick.equal(connection, batch, names), strict=True)
        ):
            if equal and row.digest is not None:
                totals.scanned += 1
                self._tally(row)
                totals.equal.setdefault(row.database, Fingerprint()).add(row.key, row.digest)
            else:
                careful.append(n)
        totals.max_expiry_drift_ms = self._quick.max_drift_ms
        if not careful:
            return []
        looks = look(
            connection,
            [names[n] for n in careful],
            absolute=self._absolute,
            big=self._big,
            on_piece=lambda size: self._pace.admit(0, size),
        )
        # The clock is asked last: whatever was gone when its key was looked at is due now.
        connection.send(TIME_COMMAND)
        reply = connection.receive()
        if isinstance(reply, ErrorReply):
            raise connection.error_for(reply, "TIME")
        now_ms = clock_ms(reply)
        findings: list[NewFinding] = []
        for n, seen in zip(careful, looks, strict=True):
            findings += self._compare_one(batch[n], seen, now_ms)
        return findings

    def _compare_one(self, row: ManifestRow, seen: Look, now_ms: int) -> list[NewFinding]:
        totals = self.totals
        totals.scanned += 1
        totals.big += row.length > self._big.threshold
        if not seen.present and row.expiry_ms is not None and row.expiry_ms <= now_ms + self._tolerance:
            totals.vanished += 1
            return []
        ours = self._bodies.look(row, now_ms)
        if not ours.present and not seen.present:
            # All its fields have expired.
            totals.vanished += 1
            return []
        self._tally(row)
        found = classify(row.database, row.key, ours, seen, self._tolerance)
        if not found and ours.digest is not None:
            totals.equal.setdefault(row.database, Fingerprint()).add(row.key, ours.digest)
            return []
        for digest, prints in ((ours.digest, totals.only_source), (seen.digest, totals.only_target)):
            if digest is not None:
                prints.setdefault(row.database, Fingerprint()).add(row.key, digest)
        return found

    def _tally(self, row: ManifestRow) -> None:
        place = (row.database, row.kind)
        self.totals.tallies[place] = self.totals.tallies.get(place, 0) + 1

    # -- backward -----------------------------------------------------------------------------------------------

    def search(self, places: Places, onto: Iterable[int], databases: Sequence[int]) -> None:
        """Look for keys of the target that the file does not have.

        :param onto: the databases of the target to search.
        :param databases: of the file; those that the run is about.
        :raises ServerError: the target is lost or refuses.
        """
        with self._target.connect("verify") as connection:
            for database in onto:
                connection.select(database)
                cursor = 0
                while True:
                    self._pace.admit(0, 0)
                    connection.send(scan_command(cursor, _SCAN_KEYS))
                    cursor, keys = scan_reply(connection, connection.receive())
                    self.totals.target_scanned += len(keys)
                    unknown = places.unknown(database, keys)
                    for start in range(0, len(unknown), _BATCH_KEYS):
                        self._report(connection, database, unknown[start : start + _BATCH_KEYS], databases)
                    self._on_progress(0, 0)
                    if not cursor:
                        break

    def _report(
        self, connection: Connection, database: int, keys: Sequence[bytes], databases: Sequence[int]
    ) -> None:
        rules = self._selection.rules
        findings: list[NewFinding] = []
        for key, seen in zip(
            keys, look(connection, keys, absolute=self._absolute, big=self._big), strict=True
        ):
            if not _in_scope(rules, database, key, seen, databases):
                self.totals.out_of_scope += 1
                continue
            found = classify(database, key, ABSENT, seen, 0)
            findings += found
            if found and seen.digest is not None:
                self.totals.only_target.setdefault(database, Fingerprint()).add(key, seen.digest)
        if findings:
            self._on_findings(findings)


def _in_scope(rules: Rules, database: int, key: bytes, seen: Look, databases: Sequence[int]) -> bool:
    """Whether a key of the target is one that the run would have written, had the file had it."""
    if rules.selects_all and rules.maps_nothing:
        return True
    places = rules.sources(database, key, databases)
    kind = (seen.kind_name or "").encode()
    # A key that nothing can have become is extra all the same.
    return not places or any(rules.selects(name, kind) is None for _, name in places)
