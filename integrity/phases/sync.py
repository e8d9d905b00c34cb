"""The sync phase: following one side, answering what a cutover or rollback asks, turning round when it says so.

One process does all of it, from before the copy until somebody stops it.  What it is asked comes over the
:class:`~integrity.ledger.sync_board.SyncBoard`, so whoever asks may be anywhere that reaches the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Final

from integrity.cluster.shrunk import expected_keys
from integrity.endpoint import Endpoint
from integrity.errors import (
    AuthenticationFailed,
    GreenflyError,
    PermissionRefused,
    Refused,
    ServerError,
    ServerReadOnly,
)
from integrity.kinds.base import plural
from integrity.ledger import Ledger, RunHandle
from integrity.ledger.models import FindingClass, FindingState, PhaseName, Verdict
from integrity.ledger.operations import abandoned_operation
from integrity.ledger.samples import add_sample
from integrity.ledger.store import NewFinding
from integrity.ledger.sync_board import STANDING, Question, SyncBoard, SyncStatus
from integrity.ledger.vocabulary import Ask, Direction, SyncState
from integrity.native.attachment import Attachment
from integrity.phases.attached import AttachedGreen
from integrity.phases.servers import Servers
from integrity.progress import Progress
from integrity.rules import Rules
from integrity.settings import ExtraPolicy, Settings
from integrity.switch.own_user import elevated
from integrity.sync.comparison import Compared, compare_everything
from integrity.sync.follower import Drained, Follower, is_about_the_server
from integrity.sync.link import Link, in_role
from integrity.sync.spool import Spool, read_spool
from integrity.verify.verdict import Conclusion
from integrity.verify.waiving import let_pass

_PUBLISH_SECONDS: Final = 0.1
_SAMPLE_SECONDS: Final = 2.0
_IDLE_SECONDS: Final = 0.02
_BOUND_SECONDS: Final = 1.0
_LISTEN_AGAIN_SECONDS: Final = 2.0
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 2.0
_STAND_BY_SECONDS: Final = 0.5
_LONGEST_STAND_BY_SECONDS: Final = 15.0
_FENCE_SECONDS: Final = 2.0
_JUST_NOW_SECONDS: Final = 5.0
_SHRUNK_FROM: Final = 1000
_AT_A_TIME: Final = 1000
_PAUSED_SECONDS: Final = 0.1
_ENDS_REPLICATION: Final = frozenset({Ask.DRAIN, Ask.PROVE, Ask.BACKWARD})


class _Abandoned(Exception):
    """A comparison has to stop, because something was asked that cannot wait for it."""


def spool_path(state_dir: Path, run_id: str, direction: Direction) -> Path:
    """Where a sync run keeps the names of keys that are not known to be carried over."""
    return state_dir / "sync" / run_id / f"{direction.value}.names"


def fits_both_ways(settings: Settings) -> bool:
    """Whether green's changes can be carried back: rules that leave keys out or rename them have no way back."""
    rules = Rules.of(settings.rules)
    return rules.selects_all and rules.maps_nothing


class SyncPhase:
    """Follows until it is told to stop.

    :param servers: blue as the source, green as the target, as the check phase saw them.
    :param direction: in which an earlier process of this run followed; forward for a new run.
    :param until_equal: end as soon as both sides were proven equal.
    :param stand_by: called about once a second; ends cutovers and rollbacks whose process is gone.
    :param replicates: green is about to be a replica, or is one, and need not be writable yet.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        handle: RunHandle,
        progress: Progress,
        servers: Servers,
        *,
        direction: Direction = Direction.FORWARD,
        until_equal: bool = False,
        stand_by: Callable[[SyncPhase], None] = lambda phase: None,
        replicates: bool = False,
    ) -> None:
        self._stand_by = stand_by
        self._stood_by = 0.0
        self._fence_looked = 0.0
        self._stand_by_pause = _STAND_BY_SECONDS
        self._drained_at = -_JUST_NOW_SECONDS
        self._settings = settings
        self._ledger = ledger
        self._handle = handle
        self._progress = progress
        self._servers = servers
        self._until_equal = until_equal
        self._board = SyncBoard(ledger.engine, handle.id)
        self._state = SyncState.STARTING
        self._published = self._sampled = 0.0
        self._conclusion: Conclusion | None = None
        self._passes: list[Compared] = []
        self._bounded = self._listens_from = 0.0
        self._trouble_since: float | None = None
        self._trouble_pause = _FIRST_PAUSE_SECONDS
        self._compared_at = monotonic()
        self._attached: AttachedGreen | None = None
        path = spool_path(settings.state_dir, handle.id, direction)
        left = read_spool(path)
        self._spool = Spool(path)
        self._follower = self._follower_of(self._link(direction, writable=not replicates))
        # What an earlier process had not carried over; everything is compared anyway, but these are at risk until then.
        self._follower.dirty.suspected(left)

    # -- beginning --------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Begin to be told of changes.

        :raises Refused: the followed server holds far less than the other one, whose keys would be deleted.
        :raises ServerError: a server cannot be reached, or refuses.
        """
        if self._settings.verify.extra_keys is not ExtraPolicy.ALLOW:
            self._require_not_lesser(self._follower.link)
        self._follower.open()
        self._progress.say(f"Following {self._follower.link.source} by {_FEEDS[self._follower.feed_name]}.")
        self._publish(force=True)

    @property
    def has_feed(self) -> bool:
        """Whether blue announces what changes, so that replication can be watched."""
        return self._follower.feed_name == "tracking"

    def replicated_by(self, attachment: Attachment) -> None:
        """Green is a replica, and stays one until :meth:`run` ends that: at a cutover, or where it is of no use.

        :raises ServerError: green is lost.
        """
        self._attached = AttachedGreen(
            attachment,
            self._follower,
            self._settings,
            self._handle,
            self._progress,
            writable=self._writable,
            keep=self._keep,
        )

    def replicated_by_nobody(self) -> None:
        """Green was a replica, perhaps when it was looked at first, and is none any more.

        :raises ServerError: green is lost.
        """
        self._follower.carry_again(self._follower.link.target.identify(), caught_up=False)

    def close(self) -> None:
        """Stop being told of changes."""
        if self._attached is not None and not self._attached.ended:
            try:
                self._attached.drop()
            except ServerError as error:
                self._progress.say(f"Green could not be released, and replicates still: {error}")
        self._follower.close()
        self._state = SyncState.STOPPED
        self._publish(force=True)
        self._spool.close()
        with self._board:
            pass

    def while_copying(self) -> None:
        """To be called while everything is copied: takes in what is announced, and tells how it is."""
        self._state = SyncState.COPYING
        if monotonic() >= self._listens_from:
            try:
                self._follower.listen()
            except ServerError:
                # The copy meets it as well, and knows how long to wait.  Asking at every page would hold it up.
                self._listens_from = monotonic() + _LISTEN_AGAIN_SECONDS
        self._publish()
        if monotonic() - self._bounded >= _BOUND_SECONDS:
            self._bounded = monotonic()
            with suppress(ServerError):
                self._follower.keep_within_bounds()

    def _link(self, direction: Direction, *, writable: bool = True) -> Link:
        """The two servers in that direction.

        :param writable: see to it that the followed-to side can be written.
        :raises ServerError: it cannot be written, or not be reached.
        """
        servers = self._servers
        make_writable = self._writable if writable else (lambda endpoint: endpoint)
        if direction is Direction.FORWARD:
            return Link(
                direction,
                servers.source,
                make_writable(servers.target),
                servers.source_identity,
                servers.target_identity,
            )
        return Link(
            direction,
            in_role(servers.target, "source"),
            make_writable(in_role(servers.source, "target")),
            servers.target_identity,
            servers.source_identity,
        )

    def _writable(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint as it is, or as a user of our own where its own may not write (behind the fence).

        :raises ServerReadOnly: nobody may write there.
        """
        try:
            endpoint.require_writable()
        except PermissionRefused:
            return elevated(endpoint)
        return endpoint

    def _follower_of(self, link: Link) -> Follower:
        return Follower(link, self._settings, self._ledger, self._handle, self._progress, self._spool)

    # -- following --------------------------------------------------------------------------------------------------

    def run(self, detail: dict[str, object]) -> Conclusion:
        """Follow until told to stop.

        :raises ServerError: a server stayed away longer than the budget, or refuses; what was not carried over is in
            the spool.
        """
        began = monotonic()
        try:
            while self._conclusion is None:
                try:
                    self._follow()
                    self._trouble_over()
                except _Abandoned:
                    self._stand_by(self)
                    self._answer_question()
                    # What it was abandoned for may have turned round, and then both sides are known to be equal.
                except ServerError as error:
                    self._recover(error)
        finally:
            follower = self._follower
            detail.update(
                {
                    "keys": follower.carried,
                    "removed": follower.removed,
                    "direction": follower.link.direction.value,
                    "feed": follower.feed_name,
                    "passes": len(self._passes),
                    "gap": follower.gap,
                    "gaps": follower.gaps,
                    "stuck": len(follower.dirty.stuck),
                    "dirty": len(follower.dirty),
                    "unproven": follower.dirty.unproven,
                    "clean_since": follower.clean_since.isoformat() if follower.clean_since else None,
                    "seconds": round(monotonic() - began, 3),
                }
            )
        return self._conclusion

    def _follow(self) -> None:
        """One turn, or one comparison of everything with turns in between."""
        if self._begins_anew():
            self._state = SyncState.COPYING
        elif self._comparison_due():
            self._compare()
            return
        else:
            self._state = SyncState.FOLLOWING
        if self._stand_by_due():
            self._stood_by = monotonic()
            self._stand_by(self)
        if not self._turn() and self._conclusion is None:
            self._follower.wait(_IDLE_SECONDS)

    def _stand_by_due(self) -> bool:
        return monotonic() - self._stood_by >= self._stand_by_pause

    def stand_by_later(self, *, again: bool = True) -> None:
        """What could be neither ended nor undone is tried again after a while, and then after a longer one."""
        self._stand_by_pause = (
            min(2 * self._stand_by_pause, _LONGEST_STAND_BY_SECONDS) if again else _STAND_BY_SECONDS
        )

    def fence_look_due(self) -> bool:
        """Whether it is time to see that the fence of the side that is not served from still stands."""
        now = monotonic()
        if now - self._fence_looked < _FENCE_SECONDS:
            return False
        self._fence_looked = now
        return True

    def _comparison_due(self) -> bool:
        follower, sync = self._follower, self._settings.sync
        if follower.compare_due:
            return True
        age = monotonic() - self._compared_at
        if not follower.has_feed:
            return age >= sync.round_seconds
        return bool(sync.compare_seconds) and age >= sync.compare_seconds

    def _compare(self) -> Compared:
        self._state = SyncState.COMPARING
        compared = compare_everything(
            self._follower, self._ledger, self._handle, self._progress, self._turn_of_comparison
        )
        self._compared_at = monotonic()
        self._passes.append(compared)
        self._state = SyncState.FOLLOWING
        agreed = f"{compared.differed:,} differed and were carried over" if compared.differed else "all agree"
        self._progress.say(
            f"Compared {plural(compared.compared, 'key')} in {compared.seconds:.1f} s: {agreed}"
            f"{'' if compared.clean else f'; not clean: {self._follower.gap or self._stuck_text()}'}."
        )
        if self._until_equal and compared.clean and (self._follower.has_feed or not compared.differed):
            self._conclude(self._settings.cutover.drain_seconds)
        return compared

    def _begins_anew(self) -> bool:
        """Whether green is a replica that has not everything: then there is nothing to compare."""
        return self._attached is not None and self._attached.begins_anew

    def _stuck_text(self) -> str:
        return f"{plural(len(self._follower.dirty.stuck), 'key')} cannot be made equal"

    def _turn(self) -> bool:
        if self._attached is not None:
            self._attached.watch()
        paused = self._handle.control().paused or self._begins_anew()
        did = False
        if paused:
            self._follower.listen()
        else:
            did = self._follower.cycle()
        self._answer_question()
        self._keep()
        return did

    def _turn_of_comparison(self) -> None:
        while True:
            question = self._board.question()
            if question is not None and question.ask not in {Ask.DRAIN, Ask.SETTLE}:
                raise _Abandoned
            if self._stand_by_due():
                self._stood_by = monotonic()
                if abandoned_operation(self._ledger, self._handle.id) is not None:
                    # Nobody can write while it waits; everything can be compared later.
                    self._stood_by = 0.0
                    raise _Abandoned
            self._turn()
            if self._begins_anew():
                raise _Abandoned
            if not self._handle.control().paused:
                return
            # Reading is what whoever pauses wants to end: the next page waits, and what is announced does not.
            self._handle.wait(_PAUSED_SECONDS)

    def _keep(self) -> None:
        """What must not lapse: the lease, and what others see."""
        self._handle.renew_lease()
        self._publish()

    def _publish(self, *, force: bool = False) -> None:
        now = monotonic()
        if not force and now - self._published < _PUBLISH_SECONDS:
            return
        self._published = now
        status = self._follower.status(self._state)
        self._board.publish(status)
        if now - self._sampled >= _SAMPLE_SECONDS:
            self._sampled = now
            add_sample(
                self._ledger.engine,
                self._handle.id,
                "sync",
                {
                    "dirty": status.dirty,
                    "unproven": status.unproven,
                    "lag_ms": status.lag_ms,
                    "backlog_bytes": status.backlog_bytes,
                    "direction": status.direction.value,
                },
            )
        if self._state is not SyncState.COPYING:
            doing = "replicating" if self._follower.replicated else _DIRECTIONS[status.direction]
            self._progress.show(
                f"{doing:<9} {status.carried:,} carried, {status.removed:,} removed; "
                f"{status.dirty:,} dirty, {status.unproven:,} to compare, lag {status.lag_ms / 1000:.1f} s"
                f"{f'; gap: {status.gap}' if status.gap else ''}"
            )

    # -- for whoever stands in for a cutover's process --------------------------------------------------------------

    def do(self, ask: Ask, seconds: float) -> Mapping[str, object]:
        """What :class:`~integrity.ledger.sync_board.SyncBoard` asks for, asked by this process itself.

        :raises ServerError: a server is lost or refuses.
        """
        return self._do(Question(0, ask, datetime.now(UTC)), seconds)

    def wait(self, seconds: float) -> None:
        """Go on following for so long."""
        until = monotonic() + seconds
        while (left := until - monotonic()) > 0:
            if not self._follower.cycle():
                self._follower.wait(min(left, _IDLE_SECONDS))
            self._keep()

    def status(self) -> SyncStatus:
        """How it is now."""
        return replace(self._follower.status(self._state), updated_at=datetime.now(UTC))

    # -- questions --------------------------------------------------------------------------------------------------

    def _answer_question(self) -> None:
        question = self._board.question()
        if question is None:
            return
        seconds = (question.until - datetime.now(UTC)).total_seconds()
        if seconds <= 0:
            self._board.answer(question, {"ok": False, "reason": "it was asked too late to be answered"})
            return
        try:
            payload = self._do(question, seconds)
        except ServerError as error:
            self._board.answer(question, {"ok": False, "reason": error.problem})
            raise
        except GreenflyError as error:
            payload = {"ok": False, "reason": str(error)}
        self._board.answer(question, payload)
        self._publish(force=True)

    def _do(self, question: Question, seconds: float) -> Mapping[str, object]:
        began, follower = monotonic(), self._follower
        if self._attached is not None and not self._attached.ended:
            if question.ask is Ask.SETTLE:
                return self._attached.settle(seconds)
            if question.ask in _ENDS_REPLICATION:
                failed = self._attached.detach(seconds)
                if failed:
                    return {"ok": False, "reason": failed}
                seconds = max(0.1, seconds - (monotonic() - began))
            elif question.ask in {Ask.BACKWARD_ANEW, Ask.AT_RISK}:
                self._attached.drop()
        match question.ask:
            case Ask.SETTLE if follower.has_feed:
                return follower.drain(seconds, self._keep, groups=False).to_dict()
            case Ask.DRAIN | Ask.SETTLE:
                if not follower.has_feed:
                    return self._prove(seconds)
                drained = follower.drain(seconds, self._keep)
                if drained.ok:
                    self._drained_at = monotonic()
                return drained.to_dict()
            case Ask.PROVE:
                return self._prove(seconds)
            case Ask.BACKWARD:
                return self._turn_round(Direction.BACKWARD, seconds)
            case Ask.FORWARD:
                return self._turn_round(Direction.FORWARD, seconds)
            case Ask.BACKWARD_ANEW:
                return self._follow_anew(Direction.BACKWARD)
            case Ask.FORWARD_ANEW:
                return self._follow_anew(Direction.FORWARD)
            case Ask.AT_RISK:
                return self._record_at_risk()
            case Ask.STOP:
                return self._stop(seconds)

    def _prove(self, seconds: float) -> Mapping[str, object]:
        """Compare everything, then drain; nobody should be writing meanwhile."""
        began = monotonic()
        compared = compare_everything(
            self._follower,
            self._ledger,
            self._handle,
            self._progress,
            lambda: self._keep_until(began + seconds),
            fenced=True,
        )
        self._compared_at = monotonic()
        self._passes.append(compared)
        drained = self._follower.drain(max(0.1, seconds - (monotonic() - began)), self._keep)
        return drained.to_dict() | {"compared": compared.compared, "differed": compared.differed}

    def _keep_until(self, until: float) -> None:
        # Nothing is taken in: what is announced behind the fence was refused.
        if monotonic() > until:
            raise Refused("Comparing everything takes longer than the budget allows.", "Raise the budget.")
        self._keep()

    def _turn_round(self, direction: Direction, seconds: float) -> Mapping[str, object]:
        """Follow the other side from now on; both must be equal, and nobody may write to either."""
        old = self._follower
        if old.link.direction is direction:
            return {"ok": True, "reason": "", "feed": old.feed_name, "already": True}
        if direction is Direction.BACKWARD and not fits_both_ways(self._settings):
            raise Refused(
                "Rules that leave keys out or rename them have no way back.", "Set cutover.fallback to false."
            )
        # Whoever turns round has drained right before, behind the fence; then the groups were compared as well.
        drained = old.drain(seconds, self._keep, groups=monotonic() - self._drained_at > _JUST_NOW_SECONDS)
        if not drained.ok:
            return drained.to_dict()
        spool = Spool(spool_path(self._settings.state_dir, self._handle.id, direction))
        try:
            # Who the two are was last looked at by the follower; either may have restarted since the check.
            link = replace(
                self._link(direction),
                source_identity=old.link.target_identity,
                target_identity=old.link.source_identity,
            )
        except (ServerReadOnly, AuthenticationFailed) as error:
            spool.close()
            return {"ok": False, "reason": f"cannot write there: {error.problem}"}
        self._spool, closing = spool, self._spool
        new = self._follower_of(link)
        new.open()
        new.streams = old.streams
        new.assume_equal()
        old.close()
        closing.close()
        self._follower = new
        self._progress.say(f"Following {link.source} by {_FEEDS[new.feed_name]} from now on.")
        return {"ok": True, "reason": "", "feed": new.feed_name, "already": False}

    def _follow_anew(self, direction: Direction) -> Mapping[str, object]:
        """Follow that side from now on: it may have been written to since, and what the other side holds is old."""
        old = self._follower
        if old.link.direction is direction:
            return {"ok": True, "reason": "", "feed": old.feed_name, "already": True}
        spool = Spool(spool_path(self._settings.state_dir, self._handle.id, direction))
        try:
            link = self._link(direction)
        except ServerError:
            link = self._link(
                direction, writable=False
            )  # Away; found out again when there is something to write.
        link = replace(
            link, source_identity=old.link.target_identity, target_identity=old.link.source_identity
        )
        self._spool, closing = spool, self._spool
        self._follower = self._follower_of(link)
        old.close()
        closing.close()
        self._publish(force=True)
        try:
            self._follower.open()
        except ServerError:
            self._follower.open_later()
            raise
        self._progress.say(f"Following {link.source} anew from now on; everything will be compared.")
        return {"ok": True, "reason": "", "feed": self._follower.feed_name, "already": False}

    def _record_at_risk(self) -> Mapping[str, object]:
        """Record what is not known to have been carried over, and stop."""
        follower = self._follower
        lag = follower.dirty.oldest_age()
        complete_until = follower.take_the_rest()
        names = sorted(follower.at_risk())
        databases = follower.known_databases()
        for start in range(0, len(names), _AT_A_TIME):
            self._handle.add_findings(
                PhaseName.SYNC,
                at_risk(names[start : start + _AT_A_TIME], databases, complete_until),
            )
        self._conclusion = Conclusion(
            Verdict.INCONCLUSIVE,
            f"{follower.link.source} was abandoned; {len(names):,} keys were not known to be carried over.",
        )
        return {
            "ok": True,
            "reason": "",
            "keys": len(names),
            "databases": list(databases),
            "oldest_seconds": round(lag, 3),
            "complete_until": complete_until.isoformat(),
        }

    def _stop(self, seconds: float) -> Mapping[str, object]:
        try:
            if not self._follower.has_feed:
                self._compare_until_equal(seconds)
            drained = self._conclude(min(seconds, self._settings.cutover.drain_seconds))
        except ServerError as error:
            self._conclusion = Conclusion(Verdict.INCONCLUSIVE, f"It was stopped while {error.problem}")
            return {"ok": True, "reason": error.problem}
        return drained.to_dict() | {"ok": True}

    def _compare_until_equal(self, seconds: float) -> None:
        """Without a feed: until a comparison finds nothing that differs, or for so long."""
        until = monotonic() + seconds
        with suppress(Refused):
            while True:
                self._prove(until - monotonic())
                if not self._passes[-1].differed:
                    break

    def _conclude(self, seconds: float) -> Drained:
        """Carry over what had changed by now, applications may be writing, and conclude."""
        if self._attached is not None and not self._attached.ended:
            self._attached.end()
        covered = datetime.now(UTC)
        drained = self._follower.drain(seconds, self._keep, fenced=False)
        self._end(drained, covered)
        return drained

    def _end(self, drained: Drained, covered: datetime) -> None:
        """Conclude from the state in which following ends; later changes than *covered* are no part of it."""
        follower = self._follower
        if follower.dirty.stuck:
            self._conclusion = Conclusion(Verdict.FAIL, f"{self._stuck_text()}; each is a finding.")
        elif follower.clean_since is None or follower.gap is not None:
            self._conclusion = Conclusion(
                Verdict.INCONCLUSIVE,
                f"Not everything was compared: {follower.gap or 'no comparison was clean'}.",
            )
        elif not drained.ok:
            self._conclusion = Conclusion(
                Verdict.INCONCLUSIVE, f"Not everything was carried over: {drained.reason}."
            )
        elif not follower.has_feed and self._passes and self._passes[-1].differed:
            self._conclusion = Conclusion(
                Verdict.INCONCLUSIVE,
                f"{plural(self._passes[-1].differed, 'key')} differed when everything was last compared, and no change "
                "since is announced.",
            )
        elif open_findings := self._open_findings():
            self._conclusion = Conclusion(Verdict.FAIL, f"{plural(open_findings, 'finding')} still open.")
        else:
            counts = self._ledger.finding_counts(self._handle.id)
            expected = sum(n for (_, state), n in counts.items() if state is FindingState.EXCEPTION)
            compared = self._passes[-1].compared if self._passes else 0
            text = f"{compared:,} keys were compared at {follower.clean_since:%H:%M:%S} UTC, "
            if follower.has_feed:
                text += (
                    f"and every key that changed since then until {covered:%H:%M:%S} UTC was carried over "
                    "and compared."
                )
            else:
                text += "and all agreed; changes are not announced, so later ones are not covered."
            if not compared:
                self._conclusion = Conclusion(Verdict.INCONCLUSIVE, "Nothing was compared.")
            elif expected:
                self._conclusion = Conclusion(
                    Verdict.PASS_WITH_EXCEPTIONS,
                    f"{text} {expected:,} differences are expected by a rule, or were let pass.",
                )
            else:
                self._conclusion = Conclusion(Verdict.PASS, text)

    def _open_findings(self) -> int:
        let_pass(self._ledger, self._handle, self._settings, self._follower.link.target_identity.address)
        counts = self._ledger.finding_counts(self._handle.id)
        return sum(number for (_, state), number in counts.items() if state is FindingState.OPEN)

    # -- lost servers -----------------------------------------------------------------------------------------------

    def _recover(self, error: ServerError) -> None:
        """Return when it may be tried again: both servers answer, after a pause that grows with each attempt.

        :raises ServerError: the budget is over, or *error* is nothing that waiting helps against.
        """
        backward = self._follower.link.direction is Direction.BACKWARD
        renewed = backward and isinstance(error, AuthenticationFailed | PermissionRefused)
        if not is_about_the_server(error) and not renewed:
            raise error
        budget = self._settings.sync.reconnect_seconds
        if self._trouble_since is None:
            self._trouble_since = monotonic()
            self._progress.say(f"{error.problem} Trying again for {budget:.0f} s.")
            self._handle.event("server.lost", {"problem": error.problem})
        self._follower.close_connections()
        while True:
            if monotonic() - self._trouble_since > budget:
                raise error
            if self._wait_in_trouble(error):
                return
            try:
                self._identified_again(renewed=renewed)
            except ServerError as again:
                lapsed = backward and isinstance(again, AuthenticationFailed | PermissionRefused)
                if not is_about_the_server(again) and (renewed or not lapsed):
                    raise
                error, renewed = again, renewed or lapsed
                continue
            return

    def _wait_in_trouble(self, error: ServerError) -> bool:
        """Pause, and go on taking in what is announced; whether a question was answered that ends following."""
        until = monotonic() + self._trouble_pause
        self._trouble_pause = min(2 * self._trouble_pause, _LONGEST_PAUSE_SECONDS)
        while (left := until - monotonic()) > 0:
            self._handle.wait(min(left, _PUBLISH_SECONDS))
            if self._follower.has_feed:
                self._follower.listen()
            self._publish(force=True)
            question = self._board.question()
            if question is not None and question.ask in STANDING | {Ask.STOP}:
                self._answer_question()
                return True
            if question is not None:
                self._board.answer(question, {"ok": False, "reason": error.problem})
        return False

    def _trouble_over(self) -> None:
        if self._trouble_since is not None:
            self._trouble_since, self._trouble_pause = None, _FIRST_PAUSE_SECONDS
            self._handle.event("server.back", {})
            self._progress.say("Both servers answer again; going on.")

    def _identified_again(self, *, renewed: bool) -> None:
        follower = self._follower
        before = follower.link
        # Behind the fence we write as a user that a restart forgets.
        link = (self._link(before.direction) if renewed else before).identified_again()
        if link.source_identity.run_id != before.source_identity.run_id:
            self._require_not_shrunk(before, link)
            follower.found_gap(f"{link.source} restarted", None)
        if link.target_identity.run_id != before.target_identity.run_id:
            follower.found_gap(f"{link.target} restarted, and may have lost what it had taken", None)
        follower.link = link
        follower.forget_counts()

    def _require_not_shrunk(self, before: Link, now: Link) -> None:
        """A server that lost its data must not have the other side emptied.

        :raises Refused: it came back with less than half of its keys.
        """
        has, held = self._follower.keys_of(now)
        had = max(held, self._follower.keys_of(before)[0])
        if _is_far_less(has, had) and not self._settings.sync.accept_shrunk_source:
            raise Refused(
                f"{now.source} came back with {has:,} keys, and there were {had:,}; following it would delete the rest "
                f"from {now.target}.",
                "Restore its data; or, if that is what it should hold, set sync.accept_shrunk_source and go on with "
                "--resume.",
            )
        self._require_no_master_emptied(now)

    def _require_no_master_emptied(self, link: Link) -> None:
        """The same of each master of a cluster, as the others may make up for it in the sum.

        :raises Refused: one holds less than half of what the other side has of its slots.
        """
        if self._settings.sync.accept_shrunk_source or not fits_both_ways(self._settings):
            return  # Where keys have other names, or are left out, there is nothing to compare with.
        for shard, had in expected_keys(link.source_identity, link.target):
            if _is_far_less(shard.keys, had):
                raise Refused(
                    f"{shard.address}, a master of {link.source}, holds {shard.keys:,} keys, and about {had:,} of its "
                    f"slots are on {link.target}; following would delete the rest there.",
                    "Restore its data; or, if that is what it should hold, set sync.accept_shrunk_source and go on "
                    "with --resume.",
                )

    def _require_not_lesser(self, link: Link) -> None:
        """The same before anything is followed: it may have lost its data while nobody looked.

        :raises Refused: the followed server holds less than half of what the other one does.
        """
        has, held = self._follower.keys_of(link)
        if _is_far_less(has, held) and not self._settings.sync.accept_shrunk_source:
            raise Refused(
                f"{link.source} holds {has:,} keys, and {link.target} holds {held:,}; following would delete the rest "
                "there.",
                "See that the two are not mixed up and that none has lost its data; or, if that is what they should "
                "hold, set sync.accept_shrunk_source.",
            )
        self._require_no_master_emptied(link)


def _is_far_less(has: int, had: int) -> bool:
    return has < had / 2 and (had >= _SHRUNK_FROM or not has)


def at_risk(names: list[bytes], databases: tuple[int, ...], complete_until: datetime) -> list[NewFinding]:
    """A finding for each name, in each database that it can be in."""
    where = "" if len(databases) == 1 else "; which database is not known"
    return [
        NewFinding(
            FindingClass.AT_RISK,
            database,
            name,
            detail=f"changed, and not known to have been carried over; changes are known up to "
            f"{complete_until.isoformat(timespec='milliseconds')}{where}",
        )
        for name in names
        for database in databases
    ]


_FEEDS: Final = {
    "tracking": "client tracking",
    "monitor": "MONITOR",
    "rounds": "comparing in rounds",
}
_DIRECTIONS: Final = {Direction.FORWARD: "following", Direction.BACKWARD: "fall-back"}
