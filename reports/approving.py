"""Approvals: who asked, who said yes or no, and what the run needed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from integrity.ledger import Ledger
from integrity.ledger.approvals import ApprovalRecord, read_decisions
from integrity.ledger.models import Run, RunKind
from integrity.ledger.steps import read_steps
from integrity.ledger.vocabulary import Decision, StepState
from reports import facts
from reports.facts import masked_text


@dataclass(frozen=True, slots=True)
class ApprovalView:
    """What somebody decided about a gate."""

    at: datetime
    gate: str
    decision: Decision
    by: str
    comment: str | None
    run_id: str
    """The run whose gate it is."""


@dataclass(frozen=True, slots=True)
class ApprovalsView:
    """Every decision about the gates of a run."""

    decisions: tuple[ApprovalView, ...]
    """Oldest first, also those that a later one voided."""
    needed: int | None
    """Approvals that a cutover needs by the run's settings; None where the run moves no applications."""
    gates_of: str | None
    """The sync run whose gates an operation passes; None where they are the run's own."""


def build_approvals(ledger: Ledger, run: Run) -> ApprovalsView:
    """Of the run's own gates and, for a cutover, of its sync run: those that counted for it."""
    rows = [(run.id, row) for row in read_decisions(ledger.engine, run.id)]
    parent = run.parent_id if run.kind is RunKind.CUTOVER else None
    if parent is not None:
        since = _used_up_until(ledger, run, parent)
        rows += [
            (parent, row)
            for row in read_decisions(ledger.engine, parent)
            if (run.ended_at is None or row.at <= run.ended_at) and (since is None or row.at > since)
        ]
    moves = run.kind in (RunKind.SYNC, RunKind.CUTOVER)
    return ApprovalsView(
        tuple(approval_view(row, of) for of, row in sorted(rows, key=lambda each: each[1].at)),
        facts.integer(facts.table(run.settings, "cutover"), "approvals") if moves else None,
        parent,
    )


def _used_up_until(ledger: Ledger, run: Run, sync_run_id: str) -> datetime | None:
    """When an earlier cutover of the sync run last moved the applications: what was decided before is used up."""
    ended = [
        step.ended_at
        for other in ledger.child_runs(sync_run_id)
        if other.kind is RunKind.CUTOVER and other.started_at < run.started_at
        for step in read_steps(ledger.engine, other.id)
        if step.name == "switch" and step.state is StepState.DONE and step.ended_at is not None
    ]
    return max(ended, default=None)


def approval_view(row: ApprovalRecord, run_id: str) -> ApprovalView:
    """A decision fit to be shown."""
    return ApprovalView(
        row.at,
        masked_text(row.gate),
        row.decision,
        masked_text(row.by),
        masked_text(row.comment) or None,
        run_id,
    )
