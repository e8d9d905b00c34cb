"""Comparing the source's keys with the target's, key by key.

Each batch of source keys is read from both servers at the same time.  Where the two answers are equal to the letter
their digests are equal too, and one is computed; where they are not (a set in another order, a stream with its idle
times) both are.  Only keys that still differ, and those that are too large for a batch, get a careful look
(:mod:`integrity.verify.look`) and may become findings.  What only the target has is found by
:mod:`integrity.verify.extra`; findings are looked at again by :mod:`integrity.verify.recheck`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from integrity.checksum import Fingerprint
from integrity.endpoint import Endpoint, Identity
from integrity.expiry import NO_EXPIRY, NO_KEY, Commands, expiry_commands, take_expiries
from integrity.keyspace import KeyspaceReader, Page, memory_usage_known
from integrity.kinds import HASH, STREAM, Kind, MalformedReply
from integrity.kinds.field_expiry import expiry_command, taken_expiries
from integrity.kinds.groups import KindGroups, group_kinds
from integrity.kinds.pieces import ValueChanged
from integrity.ledger.store import CheckpointState, NewFinding
from integrity.pace import Pace
from integrity.partition import CursorRange
from integrity.replies import Reply
from integrity.rules import Rules
from integrity.settings import BigValueSettings, VerifySettings
from integrity.sizes import asks_lengths_first, find_large_keys
from integrity.standby import Standby
from integrity.verify.classify import classify, expiries_agree
from integrity.verify.look import BigValues, look
from integrity.verify.totals import CompareTotals
from integrity.wire import arguments_of

_CAREFUL_KEYS: Final = 100
"""Keys per careful look; each may be read twice."""
_FIELD_EXPIRY_KEYS: Final = 200
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Sides:
    """A connection to each side for what the pipelines cannot do."""

    source: Standby
    target: Standby


@dataclass(frozen=True, slots=True)
class _Odd:
    """Positions in a page whose expiries do not simply agree."""

    careful: set[int]
    vanished: set[int]
    """Gone from both sides."""


class Comparer:
    """Compares the keys of the source with those of the target, range by range.

    :param field_expiries: also compare the expiries of single hash fields.
    :param on_findings: told of differing keys, as they are found.
    :param on_checkpoint: told after every page.
    :param on_progress: told keys and bytes of memory as they are compared.
    """

    def __init__(
        self,
        source: Endpoint,
        target: Endpoint,
        source_identity: Identity,
        target_identity: Identity,
        settings: VerifySettings,
        big_values: BigValueSettings,
        *,
        rules: Rules,
        pace: Pace,
        field_expiries: bool,
        on_findings: Callable[[list[NewFinding]], None],
        on_checkpoint: Callable[[CheckpointState], None],
        on_progress: Callable[[int, int], None],
    ) -> None:
        self._source = source
        self._target = target
        self._source_absolute = source_identity.has_pexpiretime
        self._target_absolute = target_identity.has_pexpiretime
        self._source_lengths = asks_lengths_first(source_identity.engine)
        self._target_lengths = asks_lengths_first(target_identity.engine)
        self._settings = settings
        self._big = BigValues.of(big_values)
        self._rules = rules
        self._pace = pace
        self._field_expiries = field_expiries
        self._on_findings = on_findings
        self._on_checkpoint = on_checkpoint
        self._on_progress = on_progress
        self.totals = CompareTotals()

    def compare_range(self, database: int, keys: CursorRange) -> None:
        """Compare one range of one database of the source with where its keys went.

        :raises ServerError: a server is lost or refuses; the comparison is incomplete.
        """
        state = CheckpointState(
            database, keys.start, 0, 0, 0, done=False, range_index=keys.index, range_count=keys.count
        )
        onto = self._rules.target_database(database)
        with (
            self._source.connect("verify", database) as source,
            self._target.connect("verify", onto) as target,
            Standby(self._source, "verify", database) as source_again,
            Standby(self._target, "verify", onto) as target_again,
        ):
            asked: deque[KindGroups] = deque()

            def ask_both(page: Page) -> Commands:
                groups = group_kinds(page.types)
                asked.append(groups)
                arguments = page.arguments
                if not self._rules.maps_nothing:
                    arguments = arguments_of(self._rules.rename_all(page.keys))
                expiries, _ = expiry_commands(arguments, absolute=self._target_absolute)
                target.send(expiries + groups.commands(arguments))
                expiries, count = expiry_commands(page.arguments, absolute=self._source_absolute)
                return expiries + groups.commands(page.arguments), count + groups.count

            sizes = memory_usage_known(source)
            reader = KeyspaceReader(
                source,
                keys=keys,
                cursor=None,
                pace=self._pace,
                batch_bytes=self._settings.batch_bytes,
                big_bytes=self._big.threshold if sizes else 0,
                rules=self._rules,
                read=ask_both,
                with_types=True,
                with_sizes=sizes,
                known_sizes=find_large_keys(source, self._big.threshold)
                if sizes and self._source_lengths
                else None,
            )
            for page, source_replies in reader:
                groups = asked.popleft()
                target_replies = target.receive_many(
                    len(page.keys) + (not self._target_absolute) + groups.count
                )
                pair = Sides(source_again, target_again)
                unequal = self._compare_page(database, page, groups, source_replies, target_replies, pair)
                for part in batches(unequal, _CAREFUL_KEYS):
                    self._look_again(database, part, pair)
                for big in page.big:
                    self._look_again(database, [big.key], pair)
                self._count(page)
                state = replace(
                    state,
                    cursor=page.cursor if page.completes else state.cursor,
                    batches=state.batches + 1,
                    keys=state.keys + page.count,
                    bytes=state.bytes + page.size,
                    done=page.last,
                )
                if page.completes:
                    self._on_checkpoint(state)
                self._on_progress(page.count, page.size + sum(big.size for big in page.big))

    def _count(self, page: Page) -> None:
        totals = self.totals
        totals.scanned += len(page.keys) + len(page.big)
        totals.big += len(page.big)
        for rule, count in page.excluded.items():
            totals.excluded[rule] = totals.excluded.get(rule, 0) + count

    def _compare_page(
        self,
        database: int,
        page: Page,
        groups: KindGroups,
        source_replies: list[Reply],
        target_replies: list[Reply],
        sides: Sides,
    ) -> list[bytes]:
        """Count the keys in that are equal; return those that want a careful look."""
        totals = self.totals
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
            if self._field_expiries and kind is HASH and same:
                names = [page.keys[positions[n]] for n in same]
                apart = self._fields_apart(names, [ours[n] for n in same], sides)
                if apart:
                    kept = [n for n in range(len(same)) if n not in apart]
                    same, digests = [same[n] for n in kept], [digests[n] for n in kept]
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

    def _fields_apart(self, keys: Sequence[bytes], values: Sequence[Reply], sides: Sides) -> set[int]:
        """Positions of equal hashes whose fields expire at other times on the two sides."""
        fields = [value[::2] for value in values if isinstance(value, list)]
        if len(fields) != len(keys):
            return set(range(len(keys)))
        names = self._rules.rename_all(keys)
        source, target = sides.source.connection(), sides.target.connection()
        apart: set[int] = set()
        for part in batches(range(len(keys)), _FIELD_EXPIRY_KEYS):
            asked = [[name for name in fields[n] if isinstance(name, bytes)] for n in part]
            target.send(b"".join(expiry_command(names[n], f) for n, f in zip(part, asked, strict=True)))
            source.send(b"".join(expiry_command(keys[n], f) for n, f in zip(part, asked, strict=True)))
            theirs = target.receive_many(len(part))
            for n, names_of, left, right in zip(
                part, asked, source.receive_many(len(part)), theirs, strict=True
            ):
                count = len(names_of)
                try:
                    a = taken_expiries(source, left, count) or (NO_EXPIRY,) * count
                    b = taken_expiries(target, right, count) or (NO_EXPIRY,) * count
                except (MalformedReply, ValueChanged):
                    apart.add(n)
                    continue
                tolerance = self._settings.expiry_tolerance_ms
                if a != b and not all(expiries_agree(x, y, tolerance) for x, y in zip(a, b, strict=True)):
                    apart.add(n)
        return apart

    def _admit(self, size: int) -> None:
        self._pace.admit(0, size)

    def _look_again(self, database: int, keys: Sequence[bytes], sides: Sides) -> None:
        """A careful look at keys the fast pass could not call equal; what differs becomes findings."""
        totals = self.totals
        names = self._rules.rename_all(keys)
        source, target = sides.source.connection(), sides.target.connection()
        ours_all = look(
            source,
            keys,
            absolute=self._source_absolute,
            lengths_first=self._source_lengths,
            big=self._big,
            on_piece=self._admit,
        )
        theirs_all = look(
            target,
            names,
            absolute=self._target_absolute,
            lengths_first=self._target_lengths,
            big=self._big,
            on_piece=self._admit,
        )
        findings: list[NewFinding] = []
        for key, ours, theirs in zip(keys, ours_all, theirs_all, strict=True):
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


def _same_counters(ours: Reply, theirs: Reply) -> bool:
    left, right = STREAM.counters(ours), STREAM.counters(theirs)
    return left is None or right is None or left == right


def batches(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """*items* in parts of at most *size*."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
