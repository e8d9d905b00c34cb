"""The steps of a cutover or rollback, and the gates before them, as a report shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from integrity.ledger.steps import StepRecord
from integrity.ledger.vocabulary import StepState
from reports import facts
from reports.facts import Facts, masked_text

GATES_STEP: Final = "gates"
"""The step whose detail holds the gates."""
CONFIRM_STEP: Final = "confirm"
"""The step after which the applications are known to have moved."""


@dataclass(frozen=True, slots=True)
class StepView:
    """One step."""

    name: str
    state: StepState
    attempts: int
    start_seconds: float | None
    """Since the first step began; None where this one never did."""
    seconds: float | None
    """How long its last attempt took; None where it did not end."""
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


def build_steps(records: Sequence[StepRecord]) -> tuple[StepView, ...]:
    """In their order, with times since the first of them began."""
    first = first_start(records)
    return tuple(
        StepView(
            masked_text(record.name),
            record.state,
            record.attempts,
            (record.started_at - first).total_seconds()
            if record.started_at is not None and first is not None
            else None,
            record.seconds,
            record.budget_ms / 1000,
            facts.masked_table(record.detail),
        )
        for record in records
    )


def first_start(records: Sequence[StepRecord]) -> datetime | None:
    """When the first step began; a step that was begun again counts from its last attempt."""
    return min((record.started_at for record in records if record.started_at is not None), default=None)


def build_gates(records: Sequence[StepRecord]) -> tuple[GateView, ...]:
    """The gates as the step that looked at them recorded them, in its order."""
    listed: list[object] = []
    for record in records:
        found = record.detail.get("gates")
        if record.name == GATES_STEP and isinstance(found, list):
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
