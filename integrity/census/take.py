"""Taking a census: who is asked, for how long, and what it comes to."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from random import Random, SystemRandom
from time import monotonic
from typing import Final

from integrity.census.closer import Closer
from integrity.census.model import Census, KeyFact, Seen
from integrity.census.plan import Stretch, in_turn, quotas, stretches
from integrity.census.questions import Columns, Questions, only
from integrity.census.tally import Tally, Top
from integrity.census.walk import Walker
from integrity.census.wording import Course, hot_method_of, method_of
from integrity.cluster.connection import ClusterConnection
from integrity.endpoint import Endpoint, Identity, read_info
from integrity.progress import Progress
from integrity.replies import ErrorReply
from integrity.rules import Rules
from integrity.settings import Settings
from integrity.sizes import asks_lengths_first
from integrity.transfer.throttle import Throttle
from integrity.wire import Connection, pack

_FAR_AWAY: Final = float("inf")
_NAME: Final = "census"


@dataclass(frozen=True, slots=True)
class _Before:
    """What the server tells about itself when the census begins."""

    present: dict[int, int]
    """Keys by database, of those that the census is about and that hold any."""
    field_expiries: int | None
    policy: str
    """``maxmemory-policy``; empty where it is not told."""


def take_census(
    source: Endpoint,
    identity: Identity,
    databases: tuple[int, ...],
    settings: Settings,
    progress: Progress,
    *,
    chance: Random | None = None,
) -> Census:
    """Look at the keys of *source*, all or a sample, as ``assess.mode`` says.

    :param chance: where the random places come from.
    :raises ServerError: it is lost or refuses.
    """
    return _Taking(source, identity, databases, settings, progress, chance or SystemRandom()).take()


class _Taking:
    """One census."""

    def __init__(
        self,
        source: Endpoint,
        identity: Identity,
        databases: tuple[int, ...],
        settings: Settings,
        progress: Progress,
        chance: Random,
    ) -> None:
        self._source = source
        self._identity = identity
        self._databases = databases
        self._settings = settings
        self._progress = progress
        self._chance = chance
        self._rules = Rules.of(settings.rules)
        self._sampled = settings.assess.mode == "sampled"
        self._listed = settings.assess.listed_keys
        self._tally = Tally(self._listed)
        self._expected = 0
        self._began = monotonic()
        self._course = Course(
            anywhere=identity.engine in {"redis", "valkey"},
            masters=len(identity.shards),
            seconds=settings.assess.sample_seconds,
        )

    def take(self) -> Census:
        settings = self._settings
        with ExitStack() as stack:
            connection = stack.enter_context(self._source.connect(_NAME))
            before = self._ask_before(connection)
            counts_uses = "lfu" in before.policy
            lengths_first = asks_lengths_first(self._identity.engine)
            self._questions = Questions.of(connection, sizes=not lengths_first, heat=counts_uses)
            self._closer = stack.enter_context(Closer(self._source, self._listed))
            total = sum(before.present.values())
            plan = quotas(before.present, settings.assess.sample_keys if self._sampled else total)
            self._expected = sum(before.present[n] if quota is None else quota for n, quota in plan.items())
            pace = stack.enter_context(
                Throttle(
                    settings.throttle,
                    settings.verify.batch_keys,
                    endpoints=[self._source],
                    run=None,
                    progress=self._progress,
                )
            )
            self._began = monotonic()
            deadline = self._began + settings.assess.sample_seconds if self._sampled else _FAR_AWAY
            walker = Walker(
                connection,
                self._questions,
                pace,
                self._take_page,
                remember=self._sampled,
                by_slots=bool(self._course.masters),
            )
            self._walk(walker, plan, deadline)
            return self._result(before)

    # -- before -------------------------------------------------------------------------------------------------

    def _ask_before(self, connection: Connection) -> _Before:
        info = read_info(connection)
        knows_field_expiries = not isinstance(
            connection.exchange([pack(b"HPEXPIRETIME", b"greenfly:probe", b"FIELDS", b"1", b"f")])[0],
            ErrorReply,
        )
        lines = {
            int(name.removeprefix("db")): _numbers(value)
            for name, value in info.items()
            if name.removeprefix("db").isdecimal() and value.startswith("keys=")
        }
        lines = {n: facts for n, facts in lines.items() if n in self._databases and facts.get("keys")}
        told = [facts.get("subexpiry", facts.get("keys_with_volatile_items")) for facts in lines.values()]
        known = [count for count in told if count is not None]
        return _Before(
            present={n: facts["keys"] for n, facts in sorted(lines.items())},
            field_expiries=0 if not knows_field_expiries else None if len(known) < len(told) else sum(known),
            policy=_policy(connection, info),
        )

    # -- walking ------------------------------------------------------------------------------------------------

    def _walk(self, walker: Walker, plan: dict[int, int | None], deadline: float) -> None:
        parts: list[Stretch] = []
        course = self._course
        for database, quota in plan.items():
            parts += stretches(
                database, quota, self._chance, anywhere=course.anywhere, masters=course.masters
            )
        walker.walk(in_turn(parts), deadline)
        missing: list[Stretch] = []
        for database, quota in plan.items():
            mine = [part for part in parts if part.database == database]
            if quota is None:
                if mine[0].ended:
                    self._course.whole.add(database)
                continue
            self._course.refused |= any(part.refused for part in mine)
            short = quota - sum(part.taken for part in mine)
            if short > 0 and not walker.out_of_time:
                # Keys were deleted meanwhile, or the server's cursors are of another kind.
                missing.append(Stretch(database, quota=short))
        if missing:
            walker.walk(missing, deadline)
            self._course.whole |= {part.database for part in missing if part.ended}
        self._course.out_of_time = walker.out_of_time

    def _take_page(self, database: int, keys: list[bytes], columns: Columns) -> None:
        count = len(keys)
        if not self._questions.sizes:
            columns = replace(columns, sizes=self._closer.sizes(database, keys, columns))
        if not self._rules.selects_all:
            selection = self._rules.select(keys, columns.types, columns.sizes)
            self._tally.exclude(database, selection.excluded)
            if len(selection.kept) < count:
                keys, columns = [keys[i] for i in selection.kept], only(columns, selection.kept)
        if keys:
            streams, made_for_expiries = self._tally.add(database, keys, columns)
            if streams:
                self._closer.look_at_streams(database, streams)
            if made_for_expiries:
                self._closer.look_at_hashes(database, made_for_expiries)
        self._show()

    def _show(self) -> None:
        done, expected = self._tally.looked_at.total(), self._expected
        rate = done / max(monotonic() - self._began, 1e-3)
        left = max(0, expected - done) / rate if rate else 0.0
        self._progress.show(
            f"{_NAME:<9} {done:,} of {expected:,} keys ({min(1.0, done / max(1, expected)):.0%}), {rate:,.0f} keys/s, "
            f"{left:,.0f} s left"
        )

    # -- after --------------------------------------------------------------------------------------------------

    def _result(self, before: _Before) -> Census:
        tally, closer = self._tally, self._closer
        seen = {
            database: Seen(present, tally.looked_at[database], database in self._course.whole)
            for database, present in before.present.items()
        }
        full = all(each.whole for each in seen.values())
        big = closer.lengths(self._facts(tally.big))
        longest = closer.lengths(self._facts(tally.strings))
        hot = closer.lengths(
            closer.with_memory(
                [
                    KeyFact(database, key, kind, 0, 0, heat=number)
                    for number, database, key, kind in tally.hot.first()
                ]
            )
        )
        census = Census(
            full=full,
            keys_present=sum(before.present.values()),
            keys_looked_at=tally.looked_at.total(),
            seconds=monotonic() - self._began,
            method="",
            databases=seen,
            excluded=dict(tally.excluded),
            types=tally.types,
            encodings=tally.encodings,
            sizes=tally.sizes,
            expiries=tally.expiries,
            bytes_by_type=tally.bytes_by_type,
            sizes_told=self._questions.sizes,
            longest_name=tally.longest_name,
            big=tuple(big),
            longest=tuple(sorted(longest, key=lambda fact: -fact.elements)),
            hot=tuple(hot),
            hot_method=hot_method_of(
                before.policy, self._identity.engine, counted=self._questions.heat, full=full
            ),
            field_expiry_hashes=closer.made_for_expiries,
            field_expiry_live=closer.live,
            field_expiry_former=closer.former,
            field_expiry_told=before.field_expiries,
            field_expiry_examples=tuple(closer.live_examples),
            field_expiry_former_examples=tuple(closer.former_examples),
            beyond_expiry=tally.beyond,
            beyond_expiry_examples=tuple(closer.lengths(tally.beyond_examples)),
            stream_groups=closer.streams_with_groups,
            stream_entries_read=closer.streams_that_count,
        )
        method = method_of(
            self._course,
            sampled=self._sampled,
            full=full,
            looked_at=census.keys_looked_at,
            present=census.keys_present,
            unseen=census.unseen_at_most,
        )
        return replace(census, method=method)

    @staticmethod
    def _facts(top: Top) -> list[KeyFact]:
        return [KeyFact(database, key, kind, number, 0) for number, database, key, kind in top.first()]


def _policy(connection: Connection, info: dict[str, str]) -> str:
    """Of a cluster, what all masters tell; empty where they differ, or do not tell."""
    if not isinstance(connection, ClusterConnection):
        return info.get("maxmemory_policy", "")
    told = {master.info.get("maxmemory_policy", "") for master in connection.cluster().masters}
    return told.pop() if len(told) == 1 else ""


def _numbers(line: str) -> dict[str, int]:
    pairs = (part.partition("=") for part in line.split(","))
    return {name: int(value) for name, _, value in pairs if value.isdecimal()}
