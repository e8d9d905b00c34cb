"""The steps of a cutover or rollback, and the gates before them, as a report shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from integrity.ledger.steps import StepRecord
from integrity.ledger.vocabulary import StepState
from reports import facts
from reports.events import EventView, event_moment
from reports.facts import Facts, masked_text

GATES_STEP: Final = "gates"
"""The step whose detail holds the gates."""
LOOKING_STEPS: Final = frozenset({GATES_STEP, "check", "baseline"})
"""Steps that only look: where no other one was begun, nothing was done."""
CONFIRM_STEP: Final = "confirm"
"""The step after which the applications are known to have moved."""

_BEGAN: Final = f"step.{StepState.RUNNING.value}"
_ENDED: Final = (f"step.{StepState.DONE.value}", f"step.{StepState.FAILED.value}")


@dataclass(frozen=True, slots=True)
class StepView:
    """One step."""

    name: str
    state: StepState
    attempts: int
    start_seconds: float | None
    """Since the first step began; None where this one never did."""
    seconds: float | None
    """How long its last attempt took, undoing left out; None where it did not end."""
    undone_seconds: float | None
    """Since the first step began: when it had been undone; None where it never was."""
    budget_seconds: float
    detail: Mapping[str, object]

    @property
    def budget_share(self) -> float | None:
        """Of its budget it used this part; above 1 it went beyond."""
        return (
            self.seconds / self.budget_seconds if self.seconds is not None and self.budget_seconds else None
        )

    @property
    def over_budget(self) -> bool:
        """Whether it took longer than it was allowed to."""
        share = self.budget_share
        return share is not None and share > 1

    @property
    def begun(self) -> bool:
        """Whether it was ever begun."""
        return self.attempts > 0


@dataclass(frozen=True, slots=True)
class GateView:
    """One condition under which the operation may begin.  Values are shown as they were recorded."""

    name: str
    passed: bool | None
    """None where the ledger does not tell."""
    value: object
    limit: object
    text: str | None


def build_steps(records: Sequence[StepRecord], timeline: Sequence[EventView]) -> tuple[StepView, ...]:
    """In their order, with times since the first of them began.

    :param timeline: the run's audit events; a step that was undone has its own times only there.
    """
    times = {record.name: _times(record, timeline) for record in records}
    first = min((each.began for each in times.values() if each.began is not None), default=None)

    def since_first(at: datetime | None) -> float | None:
        return (at - first).total_seconds() if at is not None and first is not None else None

    views = []
    for record in records:
        began, ended, undone = times[record.name]
        views.append(
            StepView(
                masked_text(record.name),
                record.state,
                record.attempts,
                since_first(began),
                (ended - began).total_seconds() if began is not None and ended is not None else None,
                since_first(undone),
                record.budget_ms / 1000,
                facts.masked_table(record.detail),
            )
        )
    return tuple(views)


class _Times(NamedTuple):
    began: datetime | None
    ended: datetime | None
    undone: datetime | None


def _times(record: StepRecord, timeline: Sequence[EventView]) -> _Times:
    """When a step began, ended and was undone.  The record keeps one end, which is that of the undoing."""
    if record.state is not StepState.UNDONE:
        return _Times(record.started_at, record.ended_at, None)
    running: datetime | None = None
    began, ended = record.started_at, None
    for event in timeline:
        if event.payload.get("step") != record.name:
            continue
        at = event_moment(event.at)
        if event.kind == _BEGAN:
            running = at
        elif event.kind in _ENDED and running is not None:
            began, ended, running = running, at, None
    return _Times(began, ended, record.ended_at)


def build_gates(records: Sequence[StepRecord], timeline: Sequence[EventView]) -> tuple[GateView, ...]:
    """The gates as the step that looked at them recorded them, in its order.

    :param timeline: the run's audit events, which hold them where the step failed because of them.
    """
    listed: list[object] = []
    told = [event.payload for event in timeline if event.kind.endswith(f".{GATES_STEP}")]
    for table in (*told, *(record.detail for record in records if record.name == GATES_STEP)):
        found = table.get("gates")
        if isinstance(found, list):
            listed = found
    return tuple(_gate(entry) for entry in listed if isinstance(entry, dict))


def _gate(entry: Facts) -> GateView:
    return GateView(
        facts.text(entry, "name") or "without a name",
        facts.truth(entry, "passed"),
        facts.masked(entry.get("value")),
        facts.masked(entry.get("limit")),
        facts.text(entry, "text"),
    )
