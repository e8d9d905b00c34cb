"""The guard after a cutover: looks at green, records, tells somebody, and starts the rollback where that is wanted.

The rollback is started once.  Only if it failed, and green then dies, green may still be abandoned.  Neither is started
while blue does not answer: there would be nowhere to go, and a guard that reaches neither side is probably cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from threading import Event, Thread
from time import monotonic
from typing import Final, Literal, Protocol

from integrity.errors import GreenflyError, LedgerError
from integrity.ledger import RunHandle
from integrity.ledger.samples import SampleRecord, add_samples
from integrity.switch.guard_rules import RuleState
from integrity.switch.lookout import Look, Lookout
from integrity.switch.notify import Notifier
from integrity.switch.watch_settings import OnBreach, OnDead, WatchSettings

_DENSE_SECONDS: Final = 3600.0
_SPARSE_SECONDS: Final = 10.0
_LEASE_LOOK_SECONDS: Final = 0.5

RollbackState = Literal["none", "done", "failed"]


class StartRollback(Protocol):
    """Rolls back, and returns when the applications are on blue again.

    :raises GreenflyError: it did not come to that.
    """

    def __call__(self, reason: str, *, abandon: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class Breach:
    """One time that a rule was breached."""

    rule: str
    since: datetime
    """When its limit was first passed."""
    recovered_at: datetime | None
    worst: float | None
    limit: float

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "rule": self.rule,
            "since": self.since.isoformat(),
            "recovered_at": self.recovered_at.isoformat() if self.recovered_at else None,
            "worst": None if self.worst is None else round(self.worst, 4),
            "limit": self.limit,
        }


@dataclass(frozen=True, slots=True)
class GuardOutcome:
    """What the guard saw from its begin to its end."""

    seconds: float
    looks: int
    breaches: tuple[Breach, ...]
    rollback: RollbackState
    reason: str | None
    """Why the rollback was started."""
    last: Look | None

    @property
    def clean(self) -> bool:
        """Whether no rule was breached at any time."""
        return not self.breaches

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "seconds": round(self.seconds, 1),
            "looks": self.looks,
            "breaches": [breach.to_dict() for breach in self.breaches],
            "rollback": self.rollback,
            "reason": self.reason,
            "last": self.last.to_dict() if self.last else None,
        }


class Guard:
    """Guards green until told to stop, or until the applications are back on blue.

    :param handle: of the watch run; its lease is kept.
    :param context: goes into every notification: run ids, the server's masked address, a label.
    :param on_look: is told of each look, for a terminal.
    """

    def __init__(
        self,
        settings: WatchSettings,
        handle: RunHandle,
        lookout: Lookout,
        notifier: Notifier,
        start_rollback: StartRollback,
        *,
        context: Mapping[str, object],
        on_look: Callable[[Look], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._handle = handle
        self._lookout = lookout
        self._notifier = notifier
        self._start_rollback = start_rollback
        self._context = dict(context)
        self._on_look = on_look
        self._open: dict[str, int] = {}
        """Rule → place of its breach in the list."""
        self._breaches: list[Breach] = []
        self._looks = 0
        self._begun = monotonic()
        self._recorded_at = float("-inf")
        self._tried: set[bool] = set()
        """Of abandoning (True) and rolling back (False), what was started."""
        self._withheld = False
        self._rollback: RollbackState = "none"
        self._reason: str | None = None
        self._last: Look | None = None

    def run(self, stop: Callable[[], bool]) -> GuardOutcome:
        """Look every ``interval_seconds`` until *stop* says so.

        :raises LedgerError: the ledger failed, or another process took the run over.
        """
        self._begun = monotonic()
        try:
            while not stop():
                next_look = monotonic() + self._settings.interval_seconds
                look = self._last = self._lookout.look()
                self._looks += 1
                self._record(look)
                self._note_changes(look)
                self._on_look(look)
                self._act(look)
                if self._rollback == "done":
                    break
                self._note_deliveries()
                self._handle.renew_lease()
                self._handle.wait(max(0.0, next_look - monotonic()))
        finally:
            with self._run_kept():
                self._notifier.finish()
            self._note_deliveries()
        return self.outcome

    @property
    def outcome(self) -> GuardOutcome:
        """What was seen so far."""
        return GuardOutcome(
            monotonic() - self._begun,
            self._looks,
            tuple(self._breaches),
            self._rollback,
            self._reason,
            self._last,
        )

    # -- what is kept -------------------------------------------------------------------------------------------

    def _record(self, look: Look) -> None:
        """A row a second at most; after the first hour one in ten seconds, unless something is wrong."""
        now = monotonic()
        calm = not look.over and not look.breached and now - self._begun > _DENSE_SECONDS
        if now - self._recorded_at >= (_SPARSE_SECONDS if calm else 1.0):
            self._recorded_at = now
            add_samples(
                self._handle.engine,
                self._handle.id,
                [SampleRecord("green", look.health.at, look.health.to_dict())],
            )

    def _note_changes(self, look: Look) -> None:
        breached = {state.name: state for state in look.breached}
        states = {state.name: state for state in look.states}
        for name, state in breached.items():
            if name not in self._open:
                self._open[name] = len(self._breaches)
                since = state.since or look.health.at
                self._breaches.append(Breach(name, since, None, state.value, state.limit))
                self._tell("guard.breached", look, state.to_dict())
            else:
                self._note_worst(self._open[name], state)
        for name in [name for name in self._open if name not in breached]:
            place = self._open.pop(name)
            self._breaches[place] = replace(self._breaches[place], recovered_at=look.health.at)
            began = {"breached_since": self._breaches[place].since.isoformat()}
            self._tell("guard.recovered", look, states[name].to_dict() | began)

    def _note_worst(self, place: int, state: RuleState) -> None:
        worst = self._breaches[place].worst
        if state.value is not None and (worst is None or state.worse_than(worst)):
            self._breaches[place] = replace(self._breaches[place], worst=state.value)

    def _tell(self, event: str, look: Look | None, payload: Mapping[str, object]) -> None:
        """Record first, then tell: what was told is always found in the ledger."""
        self._handle.event(event, payload)
        health = {"health": look.health.to_dict()} if look else {}
        policy = {"on_breach": self._settings.on_breach.value, "on_dead": self._settings.on_dead.value}
        now = {"told_at": datetime.now(UTC).isoformat()}
        self._notifier.send(event, self._context | dict(payload) | policy | health | now)

    def _note_deliveries(self) -> None:
        for delivery in self._notifier.deliveries():
            self._handle.event("guard.notified", delivery.to_dict())

    # -- what is done -------------------------------------------------------------------------------------------

    def _act(self, look: Look) -> None:
        breached = {state.name: state for state in look.breached}
        dead = breached.get("unreachable")
        if dead is not None and dead.over:
            if self._settings.on_dead is OnDead.ABANDON:
                self._go_back(look, [dead], abandon=True)
            return
        if self._settings.on_breach is not OnBreach.ROLLBACK or not look.health.reachable:
            # A green that does not answer cannot be drained: that is for on_dead to decide.
            return
        limits = self._settings.rules.by_name()
        due = [
            state
            for state in breached.values()
            if limits[state.name].rollback and state.breached_for >= self._settings.rollback_after_seconds
        ]
        if due:
            self._go_back(look, due, abandon=False)

    def _go_back(self, look: Look, causes: list[RuleState], *, abandon: bool) -> None:
        if abandon in self._tried or (self._tried and not abandon):
            return
        reason = " ".join(cause.text for cause in causes)
        facts: dict[str, object] = {
            "abandon": abandon,
            "reason": reason,
            "rules": [cause.name for cause in causes],
        }
        if not self._lookout.blue_answers_now():
            if not self._withheld:
                self._withheld = True
                self._tell("guard.rollback-withheld", look, facts | {"because": "blue does not answer"})
            return
        self._withheld = False
        self._tried.add(abandon)
        self._reason = reason
        self._tell("guard.rollback-started", look, facts)
        try:
            with self._run_kept():
                self._start_rollback(reason, abandon=abandon)
        except GreenflyError as error:
            self._rollback = "failed"
            failure = {"error_kind": type(error).__name__, "error": str(error)}
            self._tell("guard.rollback-failed", look, facts | failure)
        else:
            self._rollback = "done"
            self._tell("guard.rollback-done", look, facts)

    @contextmanager
    def _run_kept(self) -> Iterator[None]:
        """Keep the run's lease while this thread is busy with something else, and does not use the handle."""
        ended = Event()

        def keep() -> None:
            while not ended.wait(_LEASE_LOOK_SECONDS):
                try:
                    self._handle.renew_lease()
                except LedgerError:
                    return  # This thread's own next write says so, with all that follows from it.

        keeper = Thread(target=keep, name="greenfly-lease", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            ended.set()
            keeper.join()
