"""Comparing two servers key by key, in both directions.

Forward, each batch of source keys is read from both servers at the same time.  Where the two answers are equal to the
letter their digests are equal too, and one is computed; where they are not (a set in another order, a stream with its
idle times) both are.  Only keys that still differ get a careful look and become findings.  Backward, the target is
scanned and each page's keys are asked for on the source.  Then findings are looked at again, after a pause, as often
as the settings say: a key that was being written, or was expiring, settles; what remains is a difference.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from integrity.checksum import Fingerprint
from integrity.endpoint import Endpoint, Identity
from integrity.expiry import NO_KEY, Commands, expiry_commands, take_expiries
from integrity.keyspace import KeyspaceReader, Page, memory_usage_known, scan_command, scan_reply
from integrity.kinds import STREAM, Kind, MalformedReply
from integrity.kinds.groups import KindGroups, group_kinds
from integrity.ledger.models import FindingClass
from integrity.ledger.store import CheckpointState, NewFinding
from integrity.replies import Reply
from integrity.settings import VerifySettings
from integrity.verify.classify import classify, expiries_agree
from integrity.verify.look import look
from integrity.wire import Connection, pack

_CAREFUL_KEYS: Final = 100
"""Keys per careful look; each may be read twice."""


@dataclass(slots=True)
class CompareTotals:
    """What one comparison covered, growing while it runs."""

    scanned: int = 0
    """Keys the source's SCAN returned."""
    vanished: int = 0
    """Gone from both sides before they were compared (expired or deleted)."""
    target_scanned: int = 0
    max_expiry_drift_ms: int = 0
    """Largest distance between two expiries that were within the tolerance."""
    tallies: dict[tuple[int, str], int] = field(default_factory=dict)
    equal: dict[int, Fingerprint] = field(default_factory=dict)
    """By database: keys whose value and expiry are equal on both sides."""
    only_source: dict[int, Fingerprint] = field(default_factory=dict)
    """By database: the source's digest of keys that are not equal."""
    only_target: dict[int, Fingerprint] = field(default_factory=dict)

    @property
    def equal_keys(self) -> int:
        """Keys that were equal at first sight or at the careful look."""
        return sum(fingerprint.keys for fingerprint in self.equal.values())

    def fingerprints(self) -> dict[str, dict[str, str]]:
        """Side → database → fingerprint of the whole database as it was compared, in hexadecimal digits."""
        sides = {"source": self.only_source, "target": self.only_target}
        databases = sorted({*self.equal, *self.only_source, *self.only_target})
        result: dict[str, dict[str, str]] = {}
        for side, rest in sides.items():
            result[side] = {}
            for database in databases:
                whole = Fingerprint()
                for part in (self.equal.get(database), rest.get(database)):
                    if part is not None:
                        whole.merge(part)
                result[side][str(database)] = whole.hex()
        return result


@dataclass(frozen=True, slots=True)
class _Odd:
    """Positions in a page whose expiries do not simply agree."""

    careful: set[int]
    vanished: set[int]
    """Gone from both sides."""


class Comparer:
    """Compares two servers, database by database.

    :param on_findings: told of differing keys, as they are found.
    :param on_checkpoint: told after every page of the forward direction.
    :param on_progress: told keys and bytes of memory as they are compared.
    """

    def __init__(
        self,
        source: Endpoint,
        target: Endpoint,
        source_identity: Identity,
        target_identity: Identity,
        settings: VerifySettings,
        *,
        on_findings: Callable[[list[NewFinding]], None],
        on_checkpoint: Callable[[CheckpointState], None],
        on_progress: Callable[[int, int], None],
    ) -> None:
        self._source = source
        self._target = target
        self._source_absolute = source_identity.has_pexpiretime
        self._target_absolute = target_identity.has_pexpiretime
        self._settings = settings
        self._on_findings = on_findings
        self._on_checkpoint = on_checkpoint
        self._on_progress = on_progress
        self.totals = CompareTotals()

    def compare_database(self, database: int) -> None:
        """Compare one database in both directions.

        :raises ServerError: a server is lost or refuses; the comparison is incomplete.
        """
        self._forward(database)
        self._backward(database)

    # -- forward ------------------------------------------------------------------------------------------------

    def _forward(self, database: int) -> None:
        state = CheckpointState(database, 0, 0, 0, 0, done=False)
        with (
            self._source.connect("verify", database) as source,
            self._target.connect("verify", database) as target,
            self._source.connect("verify", database) as source_again,
            self._target.connect("verify", database) as target_again,
        ):
            asked: deque[KindGroups] = deque()

            def ask_both(page: Page) -> Commands:
                groups = group_kinds(page.types)
                asked.append(groups)
                values = groups.commands(page.arguments)
                expiries, _ = expiry_commands(page.arguments, absolute=self._target_absolute)
                target.send(expiries + values)
                expiries, count = expiry_commands(page.arguments, absolute=self._source_absolute)
                return expiries + values, count + groups.count

            reader = KeyspaceReader(
                source,
                cursor=0,
                batch_keys=self._settings.batch_keys,
                batch_bytes=self._settings.batch_bytes,
                read=ask_both,
                with_types=True,
                with_sizes=memory_usage_known(source),
            )
            for page, source_replies in reader:
                groups = asked.popleft()
                target_replies = target.receive_many(
                    len(page.keys) + (not self._target_absolute) + groups.count
                )
                unequal = self._compare_page(database, page, groups, source_replies, target_replies)
                if unequal:
                    self._look_again(database, unequal, source_again, target_again)
                state = CheckpointState(
                    database,
                    page.cursor if page.completes else state.cursor,
                    state.batches + 1,
                    state.keys + len(page.keys),
                    state.bytes + page.size,
                    done=page.last,
                )
                if page.completes:
                    self._on_checkpoint(state)
                self._on_progress(len(page.keys), page.size)

    def _compare_page(
        self,
        database: int,
        page: Page,
        groups: KindGroups,
        source_replies: list[Reply],
        target_replies: list[Reply],
    ) -> list[bytes]:
        """Count the keys in that are equal; return those that want a careful look."""
        totals = self.totals
        totals.scanned += len(page.keys)
        source_at = len(page.keys) + (not self._source_absolute)
        target_at = len(page.keys) + (not self._target_absolute)
        odd = self._odd_expiries(
            take_expiries(source_replies[:source_at], absolute=self._source_absolute),
            take_expiries(target_replies[:target_at], absolute=self._target_absolute),
        )
        careful = {*groups.unknown, *odd.careful}
        settled = careful | odd.vanished
        totals.vanished += len(odd.vanished)
        equal = totals.equal.setdefault(database, Fingerprint())
        for kind, positions in groups.groups:
            ours = source_replies[source_at : source_at + len(positions)]
            theirs = target_replies[target_at : target_at + len(positions)]
            source_at += len(positions)
            target_at += len(positions)
            if settled:
                rest = [n for n, i in enumerate(positions) if i not in settled]
                positions = [positions[n] for n in rest]  # noqa: PLW2901  (the shorter list from here on)
                ours, theirs = [ours[n] for n in rest], [theirs[n] for n in rest]
            same, digests = self._compare_values(kind, ours, theirs)
            if len(same) != len(positions):
                careful.update(positions[n] for n in set(range(len(positions))).difference(same))
            equal.add_many([page.keys[positions[n]] for n in same], digests)
            place = (database, kind.name)
            totals.tallies[place] = totals.tallies.get(place, 0) + len(same)
        return [page.keys[i] for i in sorted(careful)]

    def _odd_expiries(self, ours: list[Reply], theirs: list[Reply]) -> _Odd:
        """Positions whose expiries do not simply agree."""
        careful: set[int] = set()
        vanished: set[int] = set()
        if ours == theirs and NO_KEY not in ours:
            return _Odd(careful, vanished)
        tolerance = self._settings.expiry_tolerance_ms
        for position, (left, right) in enumerate(zip(ours, theirs, strict=True)):
            if left == right and left != NO_KEY:
                continue
            if not isinstance(left, int) or not isinstance(right, int):
                careful.add(position)
            elif left == right:
                vanished.add(position)
            elif NO_KEY in (left, right) or not expiries_agree(left, right, tolerance):
                careful.add(position)
            else:
                drift = abs(left - right)
                self.totals.max_expiry_drift_ms = max(self.totals.max_expiry_drift_ms, drift)
        return _Odd(careful, vanished)

    @staticmethod
    def _compare_values(
        kind: Kind, ours: list[Reply], theirs: list[Reply]
    ) -> tuple[Sequence[int], list[bytes]]:
        """Positions of equal values, and their digests."""
        if ours == theirs and kind is not STREAM:
            try:
                return range(len(ours)), kind.digests(ours)
            except MalformedReply:
                return [], []
        same: list[int] = []
        digests: list[bytes] = []
        for position, (left, right) in enumerate(zip(ours, theirs, strict=True)):
            try:
                digest = kind.digest(left)
                if left == right or (
                    digest == kind.digest(right) and (kind is not STREAM or _same_counters(left, right))
                ):
                    same.append(position)
                    digests.append(digest)
            except MalformedReply:
                continue
        return same, digests

    def _look_again(
        self, database: int, keys: Sequence[bytes], source: Connection, target: Connection
    ) -> None:
        """A careful look at keys the fast pass could not call equal; what differs becomes findings."""
        totals = self.totals
        for start in range(0, len(keys), _CAREFUL_KEYS):
            part = keys[start : start + _CAREFUL_KEYS]
            ours_all = look(source, part, absolute=self._source_absolute)
            theirs_all = look(target, part, absolute=self._target_absolute)
            findings: list[NewFinding] = []
            for key, ours, theirs in zip(part, ours_all, theirs_all, strict=True):
                if not ours.present and not theirs.present:
                    totals.vanished += 1
                    continue
                found = classify(database, key, ours, theirs, self._settings.expiry_tolerance_ms)
                findings += found
                if ours.present:
                    place = (database, ours.kind_name or "")
                    totals.tallies[place] = totals.tallies.get(place, 0) + 1
                if not found and ours.digest is not None:
                    totals.equal.setdefault(database, Fingerprint()).add(key, ours.digest)
                    continue
                for digest, prints in (
                    (ours.digest, totals.only_source),
                    (theirs.digest, totals.only_target),
                ):
                    if digest is not None:
                        prints.setdefault(database, Fingerprint()).add(key, digest)
            self._on_findings(findings)

    # -- backward -----------------------------------------------------------------------------------------------

    def _backward(self, database: int) -> None:
        """Find keys that only the target has: one EXISTS over a whole page tells whether all of them are there."""
        with (
            self._target.connect("verify", database) as target,
            self._source.connect("verify", database) as source,
            self._target.connect("verify", database) as target_again,
            self._source.connect("verify", database) as source_again,
        ):
            count = self._settings.batch_keys
            target.send(scan_command(0, count))
            while True:
                cursor, keys = scan_reply(target, target.receive())
                if cursor:
                    target.send(scan_command(cursor, count))
                self.totals.target_scanned += len(keys)
                if keys and source.command(b"EXISTS", *keys) != len(keys):
                    replies = source.exchange([pack(b"EXISTS", key) for key in keys])
                    extra = [key for key, reply in zip(keys, replies, strict=True) if reply != 1]
                    self._extra(database, extra, source_again, target_again)
                if not cursor:
                    return

    def _extra(self, database: int, keys: Sequence[bytes], source: Connection, target: Connection) -> None:
        for start in range(0, len(keys), _CAREFUL_KEYS):
            part = keys[start : start + _CAREFUL_KEYS]
            ours_all = look(source, part, absolute=self._source_absolute)
            theirs_all = look(target, part, absolute=self._target_absolute)
            findings: list[NewFinding] = []
            for key, ours, theirs in zip(part, ours_all, theirs_all, strict=True):
                # A key that the source has by now was compared, or will be seen, in the other direction.
                found = [] if ours.present else classify(database, key, ours, theirs, 0)
                findings += [f for f in found if f.finding_class is FindingClass.EXTRA]
                if found and theirs.digest is not None:
                    self.totals.only_target.setdefault(database, Fingerprint()).add(key, theirs.digest)
            self._on_findings(findings)


def _same_counters(ours: Reply, theirs: Reply) -> bool:
    left, right = STREAM.counters(ours), STREAM.counters(theirs)
    return left is None or right is None or left == right
