"""The audit chain as metrics: whether it is intact, and what its events tell of.

Each reading walks on from where the one before it stopped, a bounded number of events at a time.  Once an hour the walk
begins anew, since an event that was walked may be changed later.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Final

from sqlalchemy import Engine, func, select

from integrity.audit.checkpoint import EVENT_KIND
from integrity.audit.seal import NOT_KEPT_KIND, NOT_SIGNED_KIND
from integrity.ledger.audit import ChainWalk
from integrity.ledger.database import reading
from integrity.ledger.models import Event
from integrity.ledger.vocabulary import RunKind
from integrity.switch.watch_settings import GuardRules
from reports.metrics import catalogue as c
from reports.metrics.runs import RunFacts
from reports.metrics.sheet import Sheet

EVENTS_AT_A_TIME: Final = 5_000
"""Some 0.2 s of work."""
ANEW_SECONDS: Final = 3600.0
_COUNTED: Final = {
    "server.lost": c.SERVER_LOSSES,
    "sync.gap": c.SYNC_GAPS,
    "run.resumed": c.RESUMES,
    "rollback.requested": c.ROLLBACK_REQUESTS,
    NOT_KEPT_KIND: c.AUDIT_UNSIGNED,
    NOT_SIGNED_KIND: c.AUDIT_UNSIGNED,
}
_RULES: Final = frozenset(GuardRules.model_fields)
_OTHER_RULE: Final = "other"


class _Walk:
    """One walk along the chain, and what the events on it tell."""

    def __init__(self) -> None:
        self.begun = datetime.now(UTC)
        self.begun_at = monotonic()
        self.chain = ChainWalk()
        self.intact = True
        self.counts: Counter[str] = Counter()
        self.breaches: Counter[str] = Counter()
        self.breached: set[tuple[str, str]] = set()
        """Run and rule of the breaches that are not over."""
        self.signed_at: datetime | None = None

    def go_on(self, events: Sequence[Event]) -> None:
        """Walk these events, which come next; where the chain is broken they still tell what they tell."""
        for event in events:
            if self.intact and self.chain.problem_of(event) is not None:
                self.intact = False
            self._hear(event)

    def _hear(self, event: Event) -> None:
        if event.kind in _COUNTED:
            self.counts[event.kind] += 1
        elif event.kind == EVENT_KIND:
            self.signed_at = _moment(event.at)
        elif event.kind in {"guard.breached", "guard.recovered"} and event.run_id is not None:
            rule = _rule_of(event.payload)
            if event.kind == "guard.breached":
                self.breaches[rule] += 1
                self.breached.add((event.run_id, rule))
            else:
                self.breached.discard((event.run_id, rule))


class ChainReader:
    """Walks the chain of one ledger, a part of it each time."""

    def __init__(self, events_at_a_time: int = EVENTS_AT_A_TIME, anew_seconds: float = ANEW_SECONDS) -> None:
        self._at_a_time = events_at_a_time
        self._anew_seconds = anew_seconds
        self._walk = _Walk()
        self._position = 0
        self._told: _Walk | None = None
        """The newest walk that has come to the end of the chain; what it counted stands until the next has, too."""

    def put(self, sheet: Sheet, engine: Engine, current: Sequence[RunFacts]) -> None:
        """Walk on, and tell."""
        if self._told is self._walk and monotonic() - self._walk.begun_at >= self._anew_seconds:
            self._walk, self._position = _Walk(), 0
        columns = (
            select(*Event.__table__.columns)
            .where(Event.sequence > self._position)
            .order_by(Event.sequence)
            .limit(self._at_a_time)
        )
        with reading(engine) as connection:
            events = [Event(**row._mapping) for row in connection.execute(columns)]
            newest = connection.scalar(select(func.max(Event.sequence))) or 0
        self._walk.go_on(events)
        if events:
            self._position = events[-1].sequence
        elif newest < self._position:
            # What was walked is there no longer: the tail was cut off.
            self._walk.intact = False
        if self._position >= newest:
            self._told = self._walk
        self._put(sheet, newest, current)

    def _put(self, sheet: Sheet, newest: int, current: Sequence[RunFacts]) -> None:
        walk = self._walk
        sheet.put(c.AUDIT_EVENTS, newest)
        sheet.put(c.AUDIT_INTACT, walk.intact and (self._told is None or self._told.intact))
        sheet.put(c.AUDIT_WALKED, walk.chain.events)
        sheet.put_time(c.AUDIT_WALK_BEGUN, walk.begun)
        told = self._told
        if told is None:
            return
        sheet.put_time(c.AUDIT_SIGNED, told.signed_at)
        for kind, metric in _COUNTED.items():
            sheet.put(metric, told.counts[kind])
        for rule, count in told.breaches.items():
            sheet.put(c.GUARD_BREACHES, count, rule)
        guards = {run.id for run in current if run.kind is RunKind.WATCH and run.is_live(sheet.now)}
        if guards:
            for rule in sorted(_RULES):
                sheet.put(c.GUARD_BREACHED, 0, rule)
        for run_id, rule in told.breached:
            if run_id in guards:
                sheet.put(c.GUARD_BREACHED, 1, rule)


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _rule_of(payload: str) -> str:
    """The rule that an event of the guard is about; one that was changed may hold anything."""
    try:
        facts = json.loads(payload)
    except ValueError:
        return _OTHER_RULE
    rule = facts.get("rule") if isinstance(facts, dict) else None
    return rule if isinstance(rule, str) and rule in _RULES else _OTHER_RULE
