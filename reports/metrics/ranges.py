"""Ranges that several machines share, as metrics; they are there as long as a phase works on them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Engine, select

from integrity.ledger.database import reading
from integrity.ledger.range_models import RangeLease, RangeSet, RangeState
from reports.metrics import catalogue as c
from reports.metrics.runs import RunFacts
from reports.metrics.sheet import Sheet


def put_ranges(sheet: Sheet, engine: Engine, current: Sequence[RunFacts]) -> None:
    """Where the ranges of the live runs are, and who works on them."""
    kinds = {run.id: run.kind.value for run in current if run.is_live(sheet.now)}
    if not kinds:
        return
    query = (
        select(RangeSet.run_id, RangeSet.phase, RangeLease.state, RangeLease.attempt, RangeLease.worker)
        .join(RangeLease, RangeLease.set_id == RangeSet.id)
        .where(RangeSet.run_id.in_(kinds))
    )
    workers: set[tuple[str, str, str]] = set()
    """By process: each claim adds a token of its own to the name."""
    with reading(engine) as connection:
        for run_id, phase, found, attempt, worker in connection.execute(query):
            labels = (kinds[run_id], phase.value)
            for state in RangeState:
                sheet.put(c.RANGES, found is state, *labels, state.value)
            sheet.put(c.RANGE_ATTEMPTS, max(0, attempt - 1), *labels)
            if found is RangeState.HELD and worker is not None:
                workers.add((*labels, worker.rpartition(":")[0]))
    for kind, name, _ in workers:
        sheet.put(c.RANGE_WORKERS, 1, kind, name)
