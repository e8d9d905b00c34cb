"""What a cutover or rollback came to, told from its run and its steps; nothing else is believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Final

from integrity.ledger.models import Run, RunKind, RunState
from integrity.ledger.vocabulary import StepState
from reports import facts
from reports.events import EventView
from reports.facts import Facts
from reports.steps import CONFIRM_STEP, LOOKING_STEPS, StepView

_ABANDONING: Final = ("abandon", "abandoned", "abandon_green", "abandoned_green")


class Outcome(StrEnum):
    """How an operation ended."""

    FINISHED = "finished"
    ABANDONED = "abandoned"
    """Finished without green, which was given up."""
    UNCONFIRMED = "not confirmed"
    """Everything was done, but no application was seen on the other side."""
    UNDONE = "undone"
    """Some step failed, and those before it were undone."""
    REFUSED = "refused"
    """A gate said no, and nothing was done."""
    RUNNING = "running"
    BROKEN_OFF = "broken off"
    """Its process is gone; another one can finish or undo it."""
    INTERRUPTED = "interrupted"
    FAILED = "failed"


def outcome_of(run: Run, steps: Sequence[StepView], *, abandoned: bool, now: datetime) -> Outcome:
    """What *run* came to.

    :param abandoned: whether it gave green up, see :func:`gave_green_up`.
    """
    if run.state is RunState.RUNNING:
        return Outcome.BROKEN_OFF if run.lease_until < now else Outcome.RUNNING
    if any(step.state is StepState.UNDONE for step in steps):
        return Outcome.UNDONE
    failed = [step.name for step in steps if step.state is StepState.FAILED]
    if failed == [CONFIRM_STEP]:
        return Outcome.UNCONFIRMED
    if run.state is RunState.FINISHED and not failed:
        return Outcome.ABANDONED if abandoned else Outcome.FINISHED
    if not any(step.begun and step.name not in LOOKING_STEPS for step in steps):
        return Outcome.REFUSED
    return Outcome.INTERRUPTED if run.state is RunState.INTERRUPTED else Outcome.FAILED


def gave_green_up(
    run: Run, detail: Facts, steps: Sequence[StepView], timeline: Sequence[EventView], at_risk: int
) -> bool:
    """Whether a rollback went back without green: it says so itself, or it left keys at risk."""
    if run.kind is not RunKind.ROLLBACK:
        return False
    told: list[Mapping[str, object]] = [detail, run.settings, *(step.detail for step in steps)]
    told += [event.payload for event in timeline if event.kind.startswith(("rollback.", "run.", "step."))]
    return (
        at_risk > 0
        or facts.text(detail, "outcome") == Outcome.ABANDONED.value
        or any(table.get(name) is True for table in told for name in _ABANDONING)
        or any(event.kind.endswith("abandoned") for event in timeline)
    )
