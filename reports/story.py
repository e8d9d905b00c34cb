"""The story that a run is a part of: the sync run and every operation that rests on it, oldest first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from integrity.ledger import Ledger
from integrity.ledger.models import PhaseName, Run, RunKind, RunState, Verdict
from integrity.ledger.steps import read_steps
from reports.at_risk import holder_of_risks, risks
from reports.events import event_view
from reports.facts import masked_text
from reports.outcome import gave_green_up, outcome_of
from reports.queries import story_runs
from reports.steps import build_steps

LIVE_KINDS = frozenset({RunKind.SYNC, RunKind.CUTOVER, RunKind.ROLLBACK, RunKind.WATCH})
"""The kinds of run that happen while applications write."""
OPERATIONS = frozenset({RunKind.CUTOVER, RunKind.ROLLBACK})
"""Those of them that move applications, in steps."""


@dataclass(frozen=True, slots=True)
class StoryRow:
    """One run of the story."""

    run_id: str
    kind: RunKind
    state: RunState
    outcome: str
    """What it came to: an outcome, a verdict, or its state."""
    reason: str | None
    verdict: Verdict | None
    operator: str
    started_at: datetime
    ended_at: datetime | None
    this: bool
    """Whether the report is about this one."""


def build_story(ledger: Ledger, run: Run, now: datetime) -> tuple[StoryRow, ...]:
    """Empty where the run stands alone."""
    root = run.id if run.kind is RunKind.SYNC or run.parent_id is None else run.parent_id
    runs = story_runs(ledger, root)
    if len(runs) < 2:
        return ()
    return tuple(
        StoryRow(
            each.id,
            each.kind,
            each.state,
            _outcome(ledger, each, now),
            masked_text(each.reason) if each.reason else None,
            each.verdict,
            masked_text(each.operator),
            each.started_at,
            each.ended_at,
            each.id == run.id,
        )
        for each in runs
    )


def _outcome(ledger: Ledger, run: Run, now: datetime) -> str:
    if run.kind in OPERATIONS:
        phase = PhaseName(run.kind.value)
        detail = next((row.detail for row in ledger.phases(run.id) if row.name is phase), {})
        timeline = tuple(map(event_view, ledger.events(run.id)))
        steps = build_steps(read_steps(ledger.engine, run.id), timeline)
        at_risk = risks(ledger, holder_of_risks(ledger, run))
        abandoned = gave_green_up(run, detail, steps, timeline, at_risk)
        return outcome_of(run, steps, abandoned=abandoned, now=now).value
    if run.verdict is not None:
        return run.verdict.value
    if run.state is RunState.RUNNING and run.lease_until < now:
        return "lost"
    return run.state.value
