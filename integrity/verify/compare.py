"""Comparing two servers key by key, in both directions.

Forward, each batch of source keys is read from both servers at the same time.  Where the two answers are equal to the
letter their digests are equal too, and one is computed; where they are not (a set in another order, a stream with its
idle times) both are.  Only keys that still differ get a careful look and become findings.  Backward, the target is
scanned and each page's keys are asked for on the source.  Then findings are looked at again, after a pause, as often
as the settings say: a key that was being written, or was expiring, settles; what remains is a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from integrity.checksum import Fingerprint
from integrity.endpoint import Endpoint, Identity
from integrity.expiry import NO_KEY, TIME_COMMAND, clock_ms, expiry_prefix
from integrity.keyspace import Commands, KeyspaceReader, Page, memory_usage_known, scan_command, scan_reply
from integrity.kinds import KINDS, STREAM, MalformedReply
from integrity.ledger.models import FindingClass
from integrity.ledger.store import CheckpointState, NewFinding
from integrity.settings import VerifySettings
from integrity.verify.classify import classify, expiries_agree
from integrity.verify.look import look
from integrity.wire import Connection, Reply, pack

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

            def ask_both(page: Page) -> Commands:
                target.send(self._read_commands(page, absolute=self._target_absolute))
                commands = self._read_commands(page, absolute=self._source_absolute)
                return commands, _reply_count(page, absolute=self._source_absolute)

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
                target_replies = target.receive_many(_reply_count(page, absolute=self._target_absolute))
                unequal = self._compare_page(database, page, source_replies, target_replies)
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

    def _read_commands(self, page: Page, *, absolute: bool) -> bytes:
        prefix = expiry_prefix(absolute=absolute)
        parts = [] if absolute else [TIME_COMMAND]
        for key, kind_name in zip(page.keys, page.types, strict=True):
            parts.append(b"%b$%d\r\n%b\r\n" % (prefix, len(key), key))
            kind = KINDS.get(kind_name)
            if kind is not None:
                parts.append(kind.read(key))
        return b"".join(parts)

    def _compare_page(
        self, database: int, page: Page, source_replies: list[Reply], target_replies: list[Reply]
    ) -> list[bytes]:
        """Count the keys in that are equal; return those that want a careful look."""
        totals, tolerance, kinds = self.totals, self._settings.expiry_tolerance_ms, KINDS
        totals.scanned += len(page.keys)
        equal = totals.equal.setdefault(database, Fingerprint())
        sources, targets = iter(source_replies), iter(target_replies)
        source_now = 0 if self._source_absolute else clock_ms(next(sources))
        target_now = 0 if self._target_absolute else clock_ms(next(targets))
        unequal: list[bytes] = []
        for key, kind_name in zip(page.keys, page.types, strict=True):
            source_expiry, target_expiry = next(sources), next(targets)
            kind = kinds.get(kind_name)
            if kind is None:
                unequal.append(key)
                continue
            ours, theirs = next(sources), next(targets)
            if not isinstance(source_expiry, int) or not isinstance(target_expiry, int):
                unequal.append(key)
                continue
            if source_expiry == NO_KEY or target_expiry == NO_KEY:
                if source_expiry == target_expiry:
                    totals.vanished += 1
                else:
                    unequal.append(key)
                continue
            if source_expiry >= 0:
                source_expiry += source_now
            if target_expiry >= 0:
                target_expiry += target_now
            try:
                digest = kind.digest(ours)
                same = ours == theirs or (
                    digest == kind.digest(theirs) and (kind is not STREAM or _same_counters(ours, theirs))
                )
            except MalformedReply:
                unequal.append(key)
                continue
            if not same or not (
                source_expiry == target_expiry or expiries_agree(source_expiry, target_expiry, tolerance)
            ):
                unequal.append(key)
                continue
            if source_expiry != target_expiry:
                totals.max_expiry_drift_ms = max(
                    totals.max_expiry_drift_ms, abs(source_expiry - target_expiry)
                )
            equal.add(key, digest)
            place = (database, kind.name)
            totals.tallies[place] = totals.tallies.get(place, 0) + 1
        return unequal

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


def _reply_count(page: Page, *, absolute: bool) -> int:
    return len(page.keys) + sum(kind in KINDS for kind in page.types) + (not absolute)


def _same_counters(ours: Reply, theirs: Reply) -> bool:
    left, right = STREAM.counters(ours), STREAM.counters(theirs)
    return left is None or right is None or left == right
