"""What happened while applications wrote: a sync, a cutover, a rollback, or the watch over green."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from integrity.ledger import Ledger
from integrity.ledger.models import PhaseName, Run, RunKind
from integrity.ledger.samples import SampleRecord, read_samples
from integrity.ledger.steps import read_steps
from integrity.ledger.sync_board import read_status
from reports.approving import ApprovalView, build_approvals
from reports.at_risk import AtRiskView, build_at_risk, holder_of_risks, risks
from reports.client_pause import PauseView, build_pause
from reports.events import EventView
from reports.facts import Facts
from reports.fences import FenceView, build_fences
from reports.following import FollowingView, build_following
from reports.guarding import GuardView, build_guard
from reports.outcome import Outcome, gave_green_up, outcome_of
from reports.queries import story_runs
from reports.steps import GateView, StepView, build_gates, build_steps
from reports.story import LIVE_KINDS, OPERATIONS, StoryRow, build_story


@dataclass(frozen=True, slots=True)
class OperationView:
    """A cutover or a rollback."""

    outcome: Outcome
    gates: tuple[GateView, ...]
    approvals: tuple[ApprovalView, ...]
    steps: tuple[StepView, ...]
    fences: tuple[FenceView, ...]
    """Of steps that planned one; empty where none came to it."""
    pause: PauseView | None
    """None where no client measured it."""

    @property
    def seconds(self) -> float | None:
        """From the begin of the first step to the end of the last one; None where none ended."""
        ends = [
            step.start_seconds + step.seconds
            for step in self.steps
            if step.start_seconds is not None and step.seconds is not None
        ]
        return max(ends, default=None)


@dataclass(frozen=True, slots=True)
class LiveView:
    """What a report adds for a run of such a kind; what does not belong to the kind is None."""

    operation: OperationView | None
    at_risk: AtRiskView | None
    """None unless green was given up."""
    following: FollowingView | None
    guard: GuardView | None
    story: tuple[StoryRow, ...]


def build_live(
    ledger: Ledger,
    run: Run,
    details: Mapping[PhaseName, Facts],
    timeline: Sequence[EventView],
    now: datetime,
) -> LiveView | None:
    """None for a run that copies or compares and no more.

    :raises LedgerError: the ledger cannot be read.
    """
    if run.kind not in LIVE_KINDS:
        return None
    operation, at_risk = None, None
    if run.kind in OPERATIONS:
        operation, at_risk = _operation(ledger, run, details, timeline, now)
    return LiveView(
        operation=operation,
        at_risk=at_risk,
        following=build_following(
            run, read_status(ledger.engine, run.id), timeline, read_samples(ledger.engine, run.id, "sync")
        )
        if run.kind is RunKind.SYNC
        else None,
        guard=_guard(ledger, run, timeline, details.get(PhaseName.WATCH, {}))
        if run.kind is RunKind.WATCH
        else None,
        story=build_story(ledger, run, now),
    )


def _operation(
    ledger: Ledger,
    run: Run,
    details: Mapping[PhaseName, Facts],
    timeline: Sequence[EventView],
    now: datetime,
) -> tuple[OperationView, AtRiskView | None]:
    records = read_steps(ledger.engine, run.id)
    steps, detail = build_steps(records, timeline), details.get(PhaseName(run.kind.value), {})
    holder = holder_of_risks(ledger, run)
    abandoned = gave_green_up(run, detail, steps, timeline, risks(ledger, holder))
    operation = OperationView(
        outcome_of(run, steps, abandoned=abandoned, now=now),
        build_gates(records, timeline),
        build_approvals(ledger, run).decisions,
        steps,
        build_fences(records),
        build_pause(read_samples(ledger.engine, run.id, "client"), records, detail),
    )
    return operation, build_at_risk(ledger, run, holder, steps) if abandoned else None


def _guard(ledger: Ledger, run: Run, timeline: Sequence[EventView], detail: Facts) -> GuardView:
    baseline, baseline_of = _baseline(ledger, run)
    return build_guard(
        run, read_samples(ledger.engine, run.id, "green"), baseline, baseline_of, timeline, detail
    )


def _baseline(ledger: Ledger, run: Run) -> tuple[list[SampleRecord], str | None]:
    """The samples of blue of this run, else of the newest cutover before it."""
    own = read_samples(ledger.engine, run.id, "blue")
    if own or run.parent_id is None:
        return own, run.id if own else None
    earlier = [
        each
        for each in story_runs(ledger, run.parent_id)
        if each.kind is RunKind.CUTOVER and each.started_at <= run.started_at
    ]
    for cutover in reversed(earlier):
        if samples := read_samples(ledger.engine, cutover.id, "blue"):
            return samples, cutover.id
    return [], None
