"""Following one server: what its feed names is carried over by state, compared, and so kept proven.

Everything but reading the feed happens in one thread, in turns (:meth:`Follower.cycle`): take in what was announced,
carry some of it over, compare some of what was carried.  A comparison of everything runs in the same thread and takes
such a turn before each page, so changes do not wait for it.

Where changes may have gone unseen (the feed broke, everything was flushed, databases were swapped, too much was
dirty), that is a *gap*.  It is recorded, and only a comparison that began after it closes it.

While the other side is a replica (``native.follow = "replication"``), replication carries.  Nothing is written here
then: what was announced is compared a little later, and names that go on differing are kept until the replica is none
any more, when they are carried over like any others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import monotonic
from typing import Final

from integrity.endpoint import Identity, read_info
from integrity.errors import ServerError
from integrity.kinds.base import plural
from integrity.ledger import Ledger, RunHandle
from integrity.ledger.models import FindingClass, FindingState, PhaseName
from integrity.ledger.store import NewFinding
from integrity.ledger.sync_board import SyncStatus
from integrity.ledger.vocabulary import SyncState
from integrity.phases.leftovers import TEMPORARY_KEYS
from integrity.progress import Progress
from integrity.rules import Rules
from integrity.settings import Settings
from integrity.standby import Standby
from integrity.sync.carrier import Carrier
from integrity.sync.dirty import DirtyKeys
from integrity.sync.feed import Feed
from integrity.sync.heartbeat import Heartbeat
from integrity.sync.link import Link, require_not_restarted
from integrity.sync.monitor_queue import WidenedQueues
from integrity.sync.opening import open_feed
from integrity.sync.prover import Prover
from integrity.sync.spool import Spool
from integrity.sync.streams import KnownStreams
from integrity.verify.waiving import Waiving
from integrity.wire import pack

_WATCH_SECONDS: Final = 1.0
_REPLICATED_SECONDS: Final = 0.5
"""How long after it was announced a change is looked for on a replica."""
_REST_OF_GROUPS: Final = 5
"""Comparing groups may take one part in so many of the time."""
_CLASSES: Final = tuple(FindingClass)


@dataclass(frozen=True, slots=True)
class Drained:
    """What carrying over and comparing everything that had changed came to."""

    ok: bool
    """Every change up to the call is on the other side, and compared."""
    reason: str
    """Why not; empty where it is."""
    carried: int
    dirty: int
    unproven: int
    stuck: int
    seconds: float

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "ok": self.ok,
            "reason": self.reason,
            "carried": self.carried,
            "dirty": self.dirty,
            "unproven": self.unproven,
            "stuck": self.stuck,
            "seconds": round(self.seconds, 4),
        }


class Follower:
    """Follows one direction; opened by :meth:`open`, closed by :meth:`close`.

    :param spool: where the names of dirty keys are kept, so that they survive this process.
    """

    def __init__(
        self,
        link: Link,
        settings: Settings,
        ledger: Ledger,
        handle: RunHandle,
        progress: Progress,
        spool: Spool,
    ) -> None:
        self.link = link
        self.settings = settings
        self.rules = Rules.of(settings.rules)
        self.dirty = DirtyKeys()
        self.suspects: set[bytes] = set()
        """What the comparison under way found to differ, and is not settled yet."""
        self.streams = KnownStreams()
        self.gap: str | None = "nothing has been compared yet"
        self.gaps = 0
        """How often a gap was found; a comparison is clean only where this did not grow meanwhile."""
        self.clean_since: datetime | None = None
        self.compare_due = True
        self.replicated = False
        """Whether the other side is a replica now, which replication writes to."""
        self.kept: set[bytes] = set()
        """What replication was found not to have carried."""
        self.carried = 0
        self.removed = 0
        self._ledger = ledger
        self._handle = handle
        self._progress = progress
        self._spool = spool
        self._feed: Feed | None = None
        self._lost_feed = False
        self._lost_at: datetime | None = None
        self._stack = ExitStack()
        self._carrier: Carrier | None = None
        self._prover: Prover | None = None
        self._proves: tuple[int, ...] = ()
        self._standbys: dict[tuple[str, int], Standby] = {}
        self._databases: set[int] = set()
        self._swaps: int | None = None
        self._watched = self._group_from = 0.0
        self._backlog = 0
        self._reported: set[bytes] = set()
        """Names that have findings which a later comparison may settle."""
        self._excepted: set[tuple[int, bytes, FindingClass]] = set()
        self._waiving = Waiving(ledger, handle.id, settings)
        self._heartbeat: Heartbeat | None = None
        self._queues = WidenedQueues()
        self._all_applied = False
        """Whether a replica is known to have applied everything, because nobody writes."""

    # -- opening ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Begin to be told of changes; everything that changes from now on is known, until a gap is recorded.

        :raises ServerError: a server cannot be reached, or refuses.
        """
        link, settings = self.link, self.settings
        self._feed = open_feed(link.source, link.source_identity, settings.sync, self._progress.say)
        self._widen_queue()
        self._databases.update(self._given_databases() or ())
        self._swaps = self._swap_count()
        if settings.sync.heartbeat_key is not None:
            key = settings.sync.heartbeat_key.encode()
            onto = self.rules.target_database(0)
            self._heartbeat = Heartbeat(key, self.rules.rename(key), lambda: self.link, onto)
        self._handle.event(
            "sync.following",
            {
                "direction": link.direction.value,
                "feed": self.feed_name,
                "source": str(link.source),
                "target": str(link.target),
            },
        )

    def open_later(self) -> None:
        """The followed server is away: begin as soon as it answers, and compare everything then."""
        self._lost_feed = True

    def close(self) -> None:
        """Stop following."""
        self.close_connections()
        if self._feed is not None:
            self._feed.close()
            self._feed = None
        self._queues.restore(self.link.source)

    def _widen_queue(self) -> None:
        """Dragonfly closes a MONITOR without a word where too many of its lines wait: let more wait."""
        wanted = self.feed_name == "monitor" and self.settings.sync.widen_monitor_queue
        if not wanted or self.link.source_identity.engine != "dragonfly":
            return
        for server, before in self._queues.widen(self.link.source).items():
            self._handle.event("sync.queue-widened", {"server": server, "pipeline_queue_limit": before})

    def close_connections(self) -> None:
        """Close what is open to both servers, but for the feed; it is opened again where it is needed."""
        self._stack.close()
        self._carrier = self._prover = None
        self._standbys = {}
        if self._heartbeat is not None:
            self._heartbeat.close()

    @property
    def feed_name(self) -> str:
        """``tracking``, ``monitor`` or ``rounds``."""
        return self._feed.name if self._feed is not None else "rounds"

    @property
    def has_feed(self) -> bool:
        """Whether changes are announced, now."""
        return self._feed is not None

    def recall(self, names: Collection[bytes]) -> None:
        """There are findings about these from before: look at them again, and settle what no longer differs."""
        self._reported.update(names)
        self.dirty.suspected(names)
        self.suspects.update(names)

    def assume_equal(self) -> None:
        """Both sides were proven equal by whoever followed before, and nobody may have written since."""
        self.gap = None
        self.clean_since = datetime.now(UTC)
        self.compare_due = False

    def replicate(self, target_identity: Identity) -> None:
        """The other side is a replica from now on: replication carries, and what is announced is compared only.

        :param target_identity: of the other side as a replica, which tells its master's id.
        """
        self._now_is(target_identity, replicated=True)

    def carry_again(self, target_identity: Identity, *, caught_up: bool) -> None:
        """It is a replica no more: what is announced is carried from now on, and what replication left out.

        :param caught_up: it had everything, so what was announced before is compared only.
        """
        self._now_is(target_identity, replicated=False)
        if caught_up:
            self.dirty.carried(self.dirty.take(len(self.dirty)), monotonic())
        kept, self.kept = self.kept, set()
        self.dirty.suspected(kept)

    def _now_is(self, target_identity: Identity, *, replicated: bool) -> None:
        self.close_connections()
        self.link = replace(self.link, target_identity=target_identity)
        self.replicated = replicated

    def status(self, state: SyncState) -> SyncStatus:
        """How it is now."""
        lag = self.dirty.oldest_age()
        if self._heartbeat is not None:
            lag = max(lag, self._heartbeat.lag_seconds)
        return SyncStatus(
            direction=self.link.direction,
            state=state,
            feed=self.feed_name,
            dirty=len(self.dirty) + len(self.kept),
            unproven=self.dirty.unproven,
            stuck=len(self.dirty.stuck),
            lag_ms=round(lag * 1000),
            backlog_bytes=self._backlog,
            gap=self.gap,
            clean_since=self.clean_since,
            carried=self.carried,
            removed=self.removed,
        )

    # -- one turn ---------------------------------------------------------------------------------------------------

    def cycle(self) -> bool:
        """Take in, carry some over, compare some; whether there was anything to do.

        :raises ServerError: a server is lost, full or refuses; nothing that was announced is forgotten.
        """
        self.listen()
        self._watch()
        return self._carry_some() + self._prove_some() > 0

    def wait(self, seconds: float) -> None:
        """Until something is announced, or something carried may be compared, or so long."""
        due = self.dirty.next_due()
        seconds = seconds if due is None else min(seconds, due)
        if self._feed is not None:
            self._feed.wait(seconds)
        else:
            self._handle.wait(seconds)

    def listen(self) -> None:
        """Take in what was announced.

        :raises ServerError: the feed is lost, and the server cannot be reached.
        """
        if self._feed is None:
            if self._lost_feed:
                self._reopen_feed()
            return
        taken = self._feed.take()
        if taken.names:
            self.dirty.announced(taken.names)
            self._spool.add(taken.names)
            if self.suspects:
                # From here on the feed answers for them.
                self.suspects.difference_update(taken.names)
            if len(self.dirty) > self.settings.sync.max_dirty_keys:
                count = self.dirty.clear()
                self.suspects.clear()
                self.found_gap(f"{count:,} keys were dirty, more than sync.max_dirty_keys", None)
        if taken.everything is not None:
            self.found_gap(taken.everything, None)
        if taken.loss is not None:
            self._feed.close()
            self._feed = None
            self._lost_feed = True
            self._lost_at = taken.loss.since
            self.found_gap(taken.loss.reason, taken.loss.since)

    def reopen_where_lost(self) -> None:
        """Be told of changes again before anything is read that they could make untrue.

        :raises ServerError: the followed server cannot be reached.
        """
        self.listen()
        if self._feed is None and self._lost_feed:
            self._reopen_feed()

    def found_gap(self, reason: str, since: datetime | None) -> None:
        """Changes may have gone unseen: say so, record it, and see to it that everything is compared."""
        self.gap = reason
        self.gaps += 1
        self.clean_since = None
        self.compare_due = True
        # What a replica is found not to have counts from now on only.
        self.dirty.suspected(self.kept)
        self.kept = set()
        payload = {
            "reason": reason,
            "since": (since or datetime.now(UTC)).isoformat(),
            "direction": self.link.direction.value,
        }
        self._handle.event("sync.gap", payload)
        self._progress.say(
            f"Changes may have gone unseen: {reason.rstrip('.')}. Everything will be compared."
        )

    def take_the_rest(self) -> datetime:
        """Take in what is left of a feed whose server is dead; the moment (UTC) up to which changes are known."""
        known = datetime.now(UTC)
        if self._feed is not None:
            self._feed.catch_up(0.2)
            taken = self._feed.take()
            self.dirty.announced(taken.names)
            self._spool.add(taken.names)
            if taken.loss is not None:
                self._lost_at = taken.loss.since
        return self._lost_at or known

    def at_risk(self) -> set[bytes]:
        """Names of keys whose newest values may be missing on the other side, were the followed one lost now.

        Where groups of streams are not announced, every stream may have changed since they were last compared.
        """
        names = self.dirty.not_known_to_be_carried() | self.kept
        return names if self.feed_name == "monitor" else names | self.streams.names()

    def known_databases(self) -> tuple[int, ...]:
        """The databases that have been looked at so far; asks nobody."""
        return self._given_databases() or tuple(sorted(self._databases)) or (0,)

    def forget_counts(self) -> None:
        """Another process answers on a side: what it counts begins again."""
        self._swaps = None

    def _reopen_feed(self) -> None:
        # While it loads its dataset, it would answer a feed and nothing else.
        if self.link.source.identify().run_id != self.link.source_identity.run_id:
            # It may have come back empty: nothing may be deleted before that was looked at.
            require_not_restarted(self._standby("source", 0).connection(), self.link.source_identity)
        self._feed = open_feed(
            self.link.source, self.link.source_identity, self.settings.sync, self._progress.say
        )
        self._widen_queue()
        self._lost_feed = False
        self._lost_at = None
        self._progress.say(f"Following again ({self.feed_name}).")

    # -- carrying and proving ---------------------------------------------------------------------------------------

    def _carry_some(self) -> int:
        names = self.dirty.take(self.settings.sync.batch_keys)
        if not names:
            return 0
        try:
            if self.replicated:
                self._learn_streams(list(names))
            else:
                self._carry(list(names))
        except BaseException:
            self.dirty.put_back(names)
            raise
        settle = self._feed.settle_seconds if self._feed is not None else 0.0
        if self.replicated and not self._all_applied:
            settle = max(settle, _REPLICATED_SECONDS)
        self.dirty.carried(names, monotonic() + settle)
        return len(names)

    def _learn_streams(self, names: list[bytes]) -> None:
        for database in self.databases():
            kinds = self._standby("source", database).connection().exchange([pack(b"TYPE", n) for n in names])
            self.streams.learn(
                database, [name for name, kind in zip(names, kinds, strict=True) if kind == b"stream"]
            )

    def _carry(self, names: list[bytes]) -> None:
        if self._carrier is None:
            self._carrier = self._stack.enter_context(
                Carrier(
                    self.link,
                    self.settings,
                    owner=f"{self._handle.id}:{self.link.direction.value}",
                    on_findings=self._found,
                    on_temporary=lambda: self._handle.event(TEMPORARY_KEYS, {"sync": True}),
                )
            )
        # Asked after the names were taken in: the database of a key that was announced is there by now.
        databases = self.databases()
        for database in databases:
            carried = self._carrier.carry(database, names, databases)
            self.carried += carried.written
            self.removed += carried.removed
            self.streams.learn(database, carried.streams)
            self.dirty.suspected(carried.again)

    def _prove_some(self, *, listens: bool = True) -> int:
        names = self.dirty.take_unproven(self.settings.sync.prove_keys)
        if not names:
            return 0
        # Those that were looked at when these were carried over; a change in another one was announced since.
        databases = self.known_databases()
        if self._prover is None or self._proves != databases:
            self._proves = databases
            self._prover = self._stack.enter_context(
                Prover(self.link, self.settings, self._ledger, self._handle.id, databases)
            )
        proof = self._prover.prove(names, databases)
        if listens:
            # What was announced while it was compared differs for a reason, and is dirty again.
            self.listen()
        self._expect(proof.expected)
        self.dirty.proven(proof.equal)
        self.suspects.difference_update(proof.equal)
        self._settle(proof.equal)
        given_up = self.dirty.differed(proof.different, self.settings.sync.attempts)
        self.kept.difference_update(proof.equal)
        if self.replicated:
            self.kept.update(given_up)
            self.dirty.stuck.difference_update(given_up)
            self.suspects.difference_update(given_up)
            return len(names)
        for name in given_up:
            found = self._waiving.apply(proof.different[name], self.link.target_identity.address)
            self._found(found)
            self.suspects.discard(name)
            if all(finding.state is FindingState.EXCEPTION for finding in found):
                self.dirty.stuck.discard(name)
        return len(names)

    def _found(self, findings: Sequence[NewFinding]) -> None:
        self._reported.update(finding.key for finding in findings)
        self._handle.add_findings(PhaseName.SYNC, findings)

    def _expect(self, findings: Sequence[NewFinding]) -> None:
        """Record differences under a rule, each once."""
        places = [(finding.database, finding.key, finding.finding_class) for finding in findings]
        new = [
            finding for finding, place in zip(findings, places, strict=True) if place not in self._excepted
        ]
        if new:
            self._excepted.update(places)
            self._handle.add_findings(PhaseName.SYNC, new)

    def _settle(self, names: Sequence[bytes]) -> None:
        settled = self._reported.intersection(names)
        if not settled:
            return
        self._reported -= settled
        places = [(database, name) for database in self._databases for name in settled]
        found = self._ledger.open_findings_of(self._handle.id, places, _CLASSES)
        self._handle.set_finding_state([finding.id for finding in found], FindingState.SETTLED)

    # -- draining ---------------------------------------------------------------------------------------------------

    def drain(
        self,
        seconds: float,
        keep: Callable[[], None] = lambda: None,
        *,
        groups: bool = True,
        fenced: bool = True,
    ) -> Drained:
        """Carry over and compare everything that had changed before this call.

        :param keep: called now and then, to keep what must not lapse.
        :param groups: also compare the groups of every stream.
        :param fenced: nobody can write meanwhile; else a key that changes again in the meantime counts as drained,
            because its newest change came after the call.
        :raises ServerError: a server is lost or refuses.
        """
        began = monotonic()
        until = began + seconds
        carried, gaps = self.carried + self.removed, self.gaps
        self.dirty.retry_stuck()
        reason = ""
        if self._feed is not None and not self._feed.catch_up(seconds):
            reason = "the feed did not catch up"
        self.listen()
        if groups:
            self._compare_groups()
        # Under a fence nothing is taken in from here on: what is announced now was refused (Dragonfly's MONITOR shows
        # that too), and applications that try again and again would keep this from ever ending.  Without one, what is
        # announced has to be told from what cannot be made equal.
        self.suspects = set() if fenced else self.dirty.not_known_to_be_carried()
        self._all_applied = fenced
        while not reason and (not self.dirty.is_settled() if fenced else self.suspects):
            if monotonic() > until:
                reason = f"not drained within {seconds:g} s"
                break
            keep()
            if not fenced:
                self.listen()
            if self._carry_some() + self._prove_some(listens=not fenced) == 0:
                self._handle.wait(min(0.05, self.dirty.next_due() or 0.0))
            self.suspects.difference_update(self.dirty.stuck)
        self._all_applied = False
        self._watch_swaps()
        self._watch_restarts()
        if not reason and self.gaps != gaps:
            reason = self.gap or "a gap"
        if not reason and self.gap is not None:
            reason = f"a gap is open: {self.gap}"
        if not reason and self.dirty.stuck:
            reason = f"{plural(len(self.dirty.stuck), 'key')} cannot be made equal; each is a finding"
        return Drained(
            not reason,
            reason,
            self.carried + self.removed - carried,
            len(self.dirty),
            self.dirty.unproven,
            len(self.dirty.stuck),
            monotonic() - began,
        )

    def _compare_groups(self) -> None:
        """Streams whose groups differ are dirty now."""
        began = monotonic()
        self._group_from = began + self.settings.sync.group_seconds
        if self.feed_name == "monitor":
            return  # It shows every command about groups.
        for database in self.databases():
            names = self.streams.differing(
                database,
                self._standby("source", database),
                self._standby("target", self.rules.target_database(database)),
                self.rules,
            )
            self.dirty.suspected(names)
        # Where there are very many streams, changes of keys must not wait for them.
        self._group_from = max(self._group_from, began + _REST_OF_GROUPS * (monotonic() - began))

    # -- what has to be watched -------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Now and then: the groups of streams, swapped databases, the backlog on the followed server."""
        now = monotonic()
        if now >= self._group_from and self._feed is not None:
            self._compare_groups()
        if now - self._watched < _WATCH_SECONDS:
            return
        self._watched = now
        self._watch_restarts()
        self._watch_swaps()
        self.keep_within_bounds()
        if self._heartbeat is not None:
            self._heartbeat.beat()

    def keep_within_bounds(self) -> None:
        """The file of names, and what waits on the followed server.

        :raises ServerError: the followed server cannot be asked.
        """
        self._spool.keep(self.at_risk)
        if self._feed is not None:
            self._backlog = self._feed.backlog()
            if self._backlog > self.settings.sync.max_backlog_bytes:
                # Before the reader's slowness costs the followed server its memory.
                self._feed.close()
                self._feed = None
                self._lost_feed = True
                self.found_gap(
                    f"{self._backlog:,} bytes of announcements waited on the server, so the feed was closed",
                    None,
                )

    def _watch_restarts(self) -> None:
        """A server that came back between two commands may have lost what it held, and no connection told of it."""
        for side, identity in (("source", self.link.source_identity), ("target", self.link.target_identity)):
            require_not_restarted(self._standby(side, 0).connection(sure=True), identity)

    def _watch_swaps(self) -> None:
        """SWAPDB is announced by nothing, but counted."""
        swaps = self._swap_count()
        if self._swaps is not None and swaps > self._swaps:
            self.found_gap("SWAPDB was called, which no feed announces", None)
        self._swaps = swaps

    def _swap_count(self) -> int:
        stats = read_info(self._standby("source", 0).connection(), b"commandstats")
        calls = stats.get("cmdstat_swapdb", "").partition("calls=")[2].partition(",")[0]
        return int(calls) if calls.isdecimal() else 0

    # -- places -----------------------------------------------------------------------------------------------------

    def _given_databases(self) -> tuple[int, ...] | None:
        if self.settings.databases is not None:
            return tuple(sorted(set(self.settings.databases)))
        database = self.link.source.address.database
        return (database,) if database is not None else None

    def keys_of(self, link: Link) -> tuple[int, int]:
        """Keys on both sides in the databases that the run is about, as the two servers were last identified."""
        ours, theirs = link.source_identity, link.target_identity
        given = self._given_databases()
        if given is None:
            return ours.keys, theirs.keys
        onto = {*self.rules.target_databases(given)}
        return sum(ours.databases.get(n, 0) for n in given), sum(theirs.databases.get(n, 0) for n in onto)

    def databases(self) -> tuple[int, ...]:
        """The databases of the followed side that may hold a key by now, or may have held one since the beginning.

        :raises ServerError: a server is lost or refuses.
        """
        given = self._given_databases()
        if given is not None:
            return given
        if not self._databases:
            # What the other side holds may have to be deleted there.
            candidates = range(max(self.link.target_identity.databases, default=0) + 1)
            for onto in self.link.target_identity.databases:
                self._databases.update(self.rules.source_databases(onto, candidates) or ())
        keyspace = read_info(self._standby("source", 0).connection(), b"keyspace")
        self._databases.update(
            int(name[2:]) for name in keyspace if name[:2] == "db" and name[2:].isdecimal()
        )
        return tuple(sorted(self._databases))

    def _standby(self, side: str, database: int) -> Standby:
        place = (side, database)
        if place not in self._standbys:
            endpoint = self.link.source if side == "source" else self.link.target
            self._standbys[place] = self._stack.enter_context(Standby(endpoint, "sync", database))
        return self._standbys[place]


def is_about_the_server(error: ServerError) -> bool:
    """Whether waiting may help: the server is away, loads, is full, or refuses writes for now."""
    from integrity.errors import ServerFull, ServerNotReady, ServerReadOnly, ServerUnreachable

    return isinstance(error, ServerUnreachable | ServerNotReady | ServerFull | ServerReadOnly)
