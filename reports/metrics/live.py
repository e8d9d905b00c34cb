"""Following, cutovers, rollbacks and the guard, as metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy import Connection, Engine, func, select

from integrity.ledger.assess_models import AssessmentResult
from integrity.ledger.database import reading
from integrity.ledger.live_models import Approval, Sample, Step, Sync
from integrity.ledger.operations import OPERATIONS
from integrity.ledger.vocabulary import RunKind, StepState, SyncState
from reports import facts
from reports.metrics import catalogue as c
from reports.metrics.runs import RunFacts
from reports.metrics.sheet import Sheet

_MILLISECONDS: Final = 1000.0
_HEALTH: Final = {
    "used_memory": c.HEALTH_MEMORY,
    "max_memory": c.HEALTH_MAX_MEMORY,
    "clients": c.HEALTH_CLIENTS,
    "ops_per_second": c.HEALTH_COMMANDS,
    "errors_per_second": c.HEALTH_ERRORS,
    "evicted_per_second": c.HEALTH_EVICTED,
}
_QUANTILES: Final = {"latency_p50_ms": "0.5", "latency_p90_ms": "0.9", "latency_p99_ms": "0.99"}
_GUARDED: Final = "green"


def put_live(sheet: Sheet, engine: Engine, current: Sequence[RunFacts]) -> None:
    """What the current runs of these kinds tell.

    What lives is told only while it does: a lag of yesterday is no lag.
    """
    with reading(engine) as connection:
        live = [run for run in current if run.is_live(sheet.now)]
        _put_syncs(sheet, connection, [run.id for run in live if run.kind is RunKind.SYNC])
        for run in current:
            if run.kind in OPERATIONS:
                _put_steps(sheet, connection, run)
        for run in live:
            if run.kind is RunKind.WATCH:
                _put_health(sheet, connection, run.id)
        decided = select(Approval.decision, func.count()).group_by(Approval.decision)
        for decision, count in connection.execute(decided):
            sheet.put(c.DECISIONS, count, decision.value)
        _put_assessment(sheet, connection, [run.id for run in current])


def _put_syncs(sheet: Sheet, connection: Connection, run_ids: Sequence[str]) -> None:
    if not run_ids:
        return
    query = select(*Sync.__table__.columns).where(Sync.run_id.in_(run_ids))
    for row in connection.execute(query):
        sync = Sync(**row._mapping)
        direction = sync.direction.value
        for state in SyncState:
            sheet.put(c.SYNC_STATE, sync.state is state, direction, state.value)
        sheet.put(c.SYNC_LAG, sync.lag_ms / _MILLISECONDS, direction)
        sheet.put(c.SYNC_DIRTY, sync.dirty, direction)
        sheet.put(c.SYNC_UNPROVEN, sync.unproven, direction)
        sheet.put(c.SYNC_STUCK, sync.stuck, direction)
        sheet.put(c.SYNC_BACKLOG, sync.backlog_bytes, direction)
        sheet.put(c.SYNC_GAP, sync.gap is not None, direction)
        sheet.put(c.SYNC_CARRIED, sync.carried, direction)
        sheet.put(c.SYNC_REMOVED, sync.removed, direction)
        sheet.put_time(c.SYNC_CLEAN, sync.clean_since, direction)
        sheet.put_time(c.SYNC_TOLD, sync.updated_at, direction)


def _put_steps(sheet: Sheet, connection: Connection, run: RunFacts) -> None:
    kind = run.kind.value
    query = select(*Step.__table__.columns).where(Step.run_id == run.id)
    for row in connection.execute(query):
        step = Step(**row._mapping)
        for state in StepState:
            sheet.put(c.STEP_STATE, step.state is state, kind, step.name, state.value)
        sheet.put(c.STEP_BUDGET, step.budget_ms / _MILLISECONDS, kind, step.name)
        if step.started_at is not None:
            end = step.ended_at or (sheet.now if run.is_live(sheet.now) else run.lease_until)
            sheet.put(c.STEP_DURATION, max(0.0, (end - step.started_at).total_seconds()), kind, step.name)
        sheet.put_number(c.WRITE_PAUSE, step.detail.get("write_pause_ms"), kind, per=_MILLISECONDS)
        canary = facts.table(step.detail, "canary")
        sheet.put_number(c.LONGEST_GAP, canary.get("longest_gap_ms"), kind, per=_MILLISECONDS)


def _put_health(sheet: Sheet, connection: Connection, run_id: str) -> None:
    newest = (
        select(Sample.at, Sample.numbers)
        .where(Sample.run_id == run_id, Sample.side == _GUARDED)
        .order_by(Sample.id.desc())
        .limit(1)
    )
    row = connection.execute(newest).one_or_none()
    if row is None:
        return
    numbers: Mapping[str, object] = row.numbers
    sheet.put_time(c.HEALTH_AT, row.at, _GUARDED)
    sheet.put(c.HEALTH_REACHABLE, facts.truth(numbers, "reachable") is True, _GUARDED)
    for name, quantile in _QUANTILES.items():
        sheet.put_number(c.HEALTH_LATENCY, numbers.get(name), _GUARDED, quantile, per=_MILLISECONDS)
    for name, metric in _HEALTH.items():
        sheet.put_number(metric, numbers.get(name), _GUARDED)


def _put_assessment(sheet: Sheet, connection: Connection, run_ids: Sequence[str]) -> None:
    """Of the current runs the one that assessed last: an assessment is a run of its own, or a phase of another."""
    newest = (
        select(func.max(AssessmentResult.id)).where(AssessmentResult.run_id.in_(run_ids)).scalar_subquery()
    )
    run_id = connection.scalar(select(AssessmentResult.run_id).where(AssessmentResult.id == newest))
    if run_id is None:
        return
    query = (
        select(AssessmentResult.outcome, AssessmentResult.severity, func.count())
        .where(AssessmentResult.run_id == run_id)
        .group_by(AssessmentResult.outcome, AssessmentResult.severity)
    )
    for outcome, severity, count in connection.execute(query):
        sheet.put(c.ASSESSMENT, count, outcome.value, severity.value)
