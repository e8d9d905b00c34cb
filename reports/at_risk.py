"""What a rollback left behind: keys that changed on a green that was given up, as far as they can be named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from integrity.ledger import Ledger
from integrity.ledger.models import FindingClass, FindingState, Run, RunKind
from integrity.ledger.sync_board import read_status
from integrity.ledger.vocabulary import Ask
from reports import facts
from reports.events import EventView, event_moment, event_view
from reports.following import build_gaps
from reports.queries import risk_times
from reports.steps import StepView

_COMPLETE_UNTIL: Final = "complete_until"
"""Under this name the answer to what is at risk, and the step that asked, tell the moment."""


@dataclass(frozen=True, slots=True)
class AtRiskView:
    """The keys at risk, and up to when they can be named at all."""

    keys: int
    """Names of keys; a name whose database is not known is a finding in each that it can be in."""
    findings: int
    recorded_by: str
    """The run that holds them as findings: this one, or the sync run."""
    complete_until: datetime | None
    """The last moment at which the feed of green's changes is known to have been complete; None if not recorded."""
    gap: str | None
    """Why it was not complete after that; None where no gap is recorded."""


def holder_of_risks(ledger: Ledger, run: Run) -> str:
    """The run whose findings of class at-risk belong to *run*.

    The sync process names them, so that they are usually its; those that it named while a rollback ran are that
    rollback's.
    """
    if run.kind is not RunKind.ROLLBACK or run.parent_id is None or risks(ledger, run.id):
        return run.id
    times = risk_times(ledger, run.parent_id)
    if times is None or times[1] < run.started_at or (run.ended_at is not None and times[0] > run.ended_at):
        return run.id
    return run.parent_id


def risks(ledger: Ledger, run_id: str) -> int:
    """Findings of class at-risk of one run, in all states."""
    counts = ledger.finding_counts(run_id)
    return sum(number for (found, _), number in counts.items() if found is FindingClass.AT_RISK)


def build_at_risk(ledger: Ledger, run: Run, holder: str, steps: Sequence[StepView]) -> AtRiskView:
    """What is known of the risk that *run* took.

    :param holder: see :func:`holder_of_risks`.
    """
    followed = run.parent_id or run.id
    timeline = tuple(map(event_view, ledger.events(followed)))
    status = read_status(ledger.engine, followed)
    gaps = [gap for gap in build_gaps(timeline) if gap.closed_at is None]
    reason = gaps[0].reason if gaps else facts.masked_text(status.gap) if status and status.gap else None
    if gaps:
        until = event_moment(gaps[0].since)
    elif reason is None and status is not None:
        until = status.updated_at
    else:
        until = None
    answer = next((step.detail for step in steps if _COMPLETE_UNTIL in step.detail), None) or _answer(
        timeline
    )
    told = facts.text(answer, _COMPLETE_UNTIL)
    found = risks(ledger, holder)
    keys = facts.integer(answer, "keys")
    return AtRiskView(
        found if keys is None else keys,
        found,
        holder,
        (event_moment(told) if told is not None else None) or until,
        reason,
    )


def _answer(timeline: Sequence[EventView]) -> facts.Facts:
    """What the sync process answered when it was asked what is at risk; empty where it never was."""
    answers = (
        event.payload
        for event in reversed(timeline)
        if event.kind == "sync.answered" and facts.text(event.payload, "ask") == Ask.AT_RISK.value
    )
    return next(answers, {})


def all_counts(ledger: Ledger, run: Run) -> dict[tuple[FindingClass, FindingState], int]:
    """Findings of the run by class and state, with those of class at-risk that the sync run holds for it."""
    counts = ledger.finding_counts(run.id)
    if (holder := holder_of_risks(ledger, run)) != run.id:
        theirs = ledger.finding_counts(holder)
        counts |= {key: number for key, number in theirs.items() if key[0] is FindingClass.AT_RISK}
    return counts
