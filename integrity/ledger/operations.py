"""Which cutovers and rollbacks rest on a sync run, and whether their processes live."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Engine

from integrity.ledger.models import Run, RunKind, RunState
from integrity.ledger.queries import LedgerReader

OPERATIONS: Final = (RunKind.CUTOVER, RunKind.ROLLBACK)


def operations(ledger: LedgerReader, sync_run_id: str) -> list[Run]:
    """The cutovers and rollbacks that rest on a sync run, oldest first."""
    return [run for run in ledger.child_runs(sync_run_id) if run.kind in OPERATIONS]


def under_way(ledger: LedgerReader, sync_run_id: str) -> Run | None:
    """The operation that has begun and not ended, whether or not its process still lives."""
    return next((run for run in operations(ledger, sync_run_id) if run.state is RunState.RUNNING), None)


def is_alive(run: Run) -> bool:
    """Whether a process still renews the run's lease."""
    return run.state is RunState.RUNNING and run.lease_until >= datetime.now(UTC)


def abandoned_operation(ledger: LedgerReader, sync_run_id: str) -> Run | None:
    """The operation that began, did not end, and whose process no longer renews its lease."""
    run = under_way(ledger, sync_run_id)
    return run if run is not None and not is_alive(run) else None


def is_running(engine: Engine, run_id: str) -> bool:
    """Whether this operation has not ended yet."""
    return LedgerReader(engine).find_run(run_id).state is RunState.RUNNING


def is_newest(engine: Engine, run_id: str) -> bool:
    """Whether no other operation was begun on the same sync run since."""
    ledger = LedgerReader(engine)
    parent = ledger.find_run(run_id).parent_id
    if parent is None:
        return True
    return operations(ledger, parent)[-1].id == run_id
