"""Runs, their phases, findings and throttles, as metrics.

What is told of one kind of run is told of its *current* runs: those whose processes live, else the newest one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, Engine, func, select

from integrity.ledger.control import read_control
from integrity.ledger.database import reading
from integrity.ledger.models import Measurement, Phase, Run
from integrity.ledger.vocabulary import (
    FindingClass,
    FindingState,
    PhaseName,
    PhaseState,
    RunKind,
    RunState,
    Verdict,
)
from reports import facts
from reports.metrics import catalogue as c
from reports.metrics.sheet import Sheet

LOST: Final = "lost"
_STATES: Final = (*(state.value for state in RunState), LOST)
_PASSED: Final = frozenset({Verdict.PASS, Verdict.PASS_WITH_EXCEPTIONS})
_REASONS: Final = frozenset({"paused", "cap on keys", "cap on bytes"})
_SIDES: Final = frozenset({"source", "target", "replica", "server"})
_OTHER: Final = "other"

FindingCounts = Mapping[tuple[FindingClass, FindingState], int]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The part of a run that metrics tell of."""

    id: str
    kind: RunKind
    state: RunState
    verdict: Verdict | None
    started_at: datetime
    ended_at: datetime | None
    lease_until: datetime

    def is_live(self, now: datetime) -> bool:
        """Whether its process still renews its lease."""
        return self.state is RunState.RUNNING and self.lease_until >= now

    def word(self, now: datetime) -> str:
        """Its state, or that its process is lost."""
        return LOST if self.state is RunState.RUNNING and not self.is_live(now) else self.state.value

    def seconds(self, now: datetime) -> float:
        """From its begin to its end; to the end of its lease where its process is lost."""
        end = self.ended_at or min(now, self.lease_until)
        return max(timedelta(), end - self.started_at).total_seconds()


def read_runs(engine: Engine) -> list[RunFacts]:
    """All runs of the ledger, newest first."""
    query = select(
        Run.id, Run.kind, Run.state, Run.verdict, Run.started_at, Run.ended_at, Run.lease_until
    ).order_by(Run.started_at.desc(), Run.id.desc())
    with reading(engine) as connection:
        return [RunFacts(**row._mapping) for row in connection.execute(query)]


def current_runs(runs: Sequence[RunFacts], now: datetime) -> list[RunFacts]:
    """Of each kind the live ones, else the newest.

    :param runs: newest first.
    """
    found: list[RunFacts] = []
    for kind in RunKind:
        own = [run for run in runs if run.kind is kind]
        found += [run for run in own if run.is_live(now)] or own[:1]
    return found


def put_runs(sheet: Sheet, runs: Sequence[RunFacts]) -> None:
    """How many there are, and how the newest ones ended.

    :param runs: newest first.
    """
    now, seen, passed = sheet.now, set[RunKind](), set[RunKind]()
    for run in runs:
        kind = run.kind.value
        sheet.put(c.RUNS, 1, kind, run.word(now))
        if run.verdict is not None:
            sheet.put(c.VERDICTS, 1, kind, run.verdict.value)
        sheet.put_time(c.RUN_START, run.started_at, kind)
        sheet.put_time(c.RUN_END, run.ended_at, kind)
        if run.ended_at is not None and run.kind not in seen:
            seen.add(run.kind)
            for verdict in Verdict:
                sheet.put(c.RUN_VERDICT, run.verdict is verdict, kind, verdict.value)
        if run.verdict in _PASSED and run.kind not in passed:
            passed.add(run.kind)
            sheet.put_time(c.LAST_PASS, run.ended_at, kind)
    for run in current_runs(runs, now):
        for state in _STATES:
            sheet.put(c.RUN_STATE, run.word(now) == state, run.kind.value, state)
        sheet.put(c.RUN_DURATION, run.seconds(now), run.kind.value)


def put_phases(sheet: Sheet, engine: Engine, current: Sequence[RunFacts]) -> None:
    """The phases of the current runs: keys, bytes, times, and what held them back."""
    if not current:
        return
    by_id = {run.id: run for run in current}
    with reading(engine) as connection:
        rows = connection.execute(select(*Phase.__table__.columns).where(Phase.run_id.in_(by_id))).all()
        phases = [Phase(**row._mapping) for row in rows]
        for phase in phases:
            _put_phase(sheet, connection, by_id[phase.run_id], phase)
        for run in current:
            if run.is_live(sheet.now):
                _put_control(sheet, connection, run)


def _put_phase(sheet: Sheet, connection: Connection, run: RunFacts, phase: Phase) -> None:
    labels = (run.kind.value, phase.name.value)
    for state in PhaseState:
        sheet.put(c.PHASE_STATE, phase.state is state, *labels, state.value)
    keys, size = phase.keys, phase.bytes
    if phase.state is not PhaseState.DONE:
        keys, size = _measured(connection, run.id, phase.name) or (keys, size)
    sheet.put(c.PHASE_KEYS, keys, *labels)
    sheet.put(c.PHASE_BYTES, size, *labels)
    sheet.put(c.PHASE_KEYS_EXPECTED, phase.keys_expected, *labels)
    end = phase.ended_at or (sheet.now if run.is_live(sheet.now) else min(sheet.now, run.lease_until))
    sheet.put(c.PHASE_DURATION, max(0.0, (end - phase.started_at).total_seconds()), *labels)
    sheet.put(c.PHASE_ATTEMPTS, phase.attempts, *labels)
    for throttle in _throttles(phase.detail.get("throttle")):
        for reason, seconds in facts.table(throttle, "waited_seconds").items():
            sheet.put_number(c.THROTTLE_WAIT, seconds, *labels, _reason(reason))
        for side, count in facts.table(throttle, "late").items():
            sheet.put_number(c.THROTTLE_LATE, count, *labels, side if side in _SIDES else _OTHER)


def _measured(connection: Connection, run_id: str, phase: PhaseName) -> tuple[int, int] | None:
    newest = select(func.max(Measurement.id)).where(Measurement.run_id == run_id, Measurement.phase == phase)
    query = select(Measurement.keys, Measurement.bytes).where(Measurement.id == newest.scalar_subquery())
    row = connection.execute(query).one_or_none()
    return (row.keys, row.bytes) if row is not None else None


def _throttles(recorded: object) -> Iterable[Mapping[str, object]]:
    """The throttle of the phase, or those of its worker processes."""
    if not isinstance(recorded, Mapping):
        return []
    workers = recorded.get("workers")
    return [w for w in workers if isinstance(w, Mapping)] if isinstance(workers, list) else [recorded]


def _reason(text: str) -> str:
    if text in _REASONS:
        return text
    side = text.removeprefix("latency of the ")
    return text if side != text and side in _SIDES else _OTHER


def _put_control(sheet: Sheet, connection: Connection, run: RunFacts) -> None:
    """What holds a live run back because somebody wants it to."""
    control = read_control(connection, run.id)
    sheet.put(c.RUN_PAUSED, control.paused, run.kind.value)
    recorded = connection.scalar(select(Run.settings).where(Run.id == run.id))
    throttle = facts.table(recorded or {}, "throttle")
    for metric, asked, name in (
        (c.KEYS_LIMIT, control.keys_per_second, "keys_per_second"),
        (c.BYTES_LIMIT, control.bytes_per_second, "bytes_per_second"),
    ):
        cap = throttle.get(name) if asked is None else asked
        if cap:
            sheet.put_number(metric, cap, run.kind.value)
