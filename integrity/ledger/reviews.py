"""Signing off what a run did, and letting a cutover pass: who may decide, and where a gate stands.

Two gates: ``review``, which every run has, says whether somebody else than who started it stands by its record;
``cutover``, of sync runs, is one that a cutover waits for.  Who asked, or started the run, cannot approve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, Engine, select

from integrity.errors import ConfigurationError, Refused
from integrity.ledger.approvals import ApprovalRecord, Standing, append_decision, read_decisions, standing
from integrity.ledger.database import reading, repeated, writing
from integrity.ledger.live_models import Approval, Step
from integrity.ledger.models import Run, RunKind
from integrity.ledger.vocabulary import Decision, StepState

REVIEW_GATE: Final = "review"
CUTOVER_GATE: Final = "cutover"
MAX_COMMENT: Final = 4_000
"""Characters."""
_NEED_REASONS: Final[Mapping[Decision, str]] = {
    Decision.REJECTED: "A rejection",
    Decision.REPEAT: "Asking for a repeat",
    Decision.BREAK_GLASS: "Passing a gate alone",
}


@dataclass(frozen=True, slots=True)
class Separate:
    """Of which gates the requester cannot be the approver."""

    review: bool = True
    cutover: bool = True

    def at(self, gate: str) -> bool:
        """Whether it holds for this gate."""
        return self.cutover if gate == CUTOVER_GATE else self.review


@dataclass(frozen=True, slots=True)
class GateView:
    """One gate of a run, with all that was decided about it."""

    gate: str
    decisions: tuple[ApprovalRecord, ...]
    """Oldest first, also those that do not count any more."""
    standing: Standing
    barred: tuple[str, ...]
    """Who cannot approve it: who asked, or started the run."""

    @property
    def repeat_asked(self) -> bool:
        """Whether the newest refusal asks for it to be done again, and nobody has approved since."""
        refused = [d for d in self.decisions if d.decision in (Decision.REJECTED, Decision.REPEAT)]
        return self.standing.rejected_by is not None and refused[-1].decision is Decision.REPEAT

    @property
    def word(self) -> str:
        """``approved``, ``rejected``, ``repeat asked for``, ``broken``, ``requested`` or ``open``."""
        if self.standing.broken_by is not None:  # Also after a rejection, unless that came later.
            return "broken"
        if self.standing.rejected_by is not None:
            return "repeat asked for" if self.repeat_asked else "rejected"
        if self.standing.approvers:
            return "approved"
        return "requested" if any(d.decision is Decision.REQUESTED for d in self.decisions) else "open"


def gates_of(kind: RunKind) -> tuple[str, ...]:
    """The gates that somebody can decide about in a run of this kind."""
    return (CUTOVER_GATE, REVIEW_GATE) if kind is RunKind.SYNC else (REVIEW_GATE,)


@repeated
def read_gates(engine: Engine, run_id: str, separate: Separate) -> list[GateView]:
    """Every gate of a run.

    :raises ConfigurationError: no such run.
    """
    with reading(engine) as connection:
        run = _run(connection, run_id)
        return [
            _gate(connection, run_id, gate, run.operator, separate.at(gate)) for gate in gates_of(run.kind)
        ]


@repeated
def decide(
    engine: Engine, run_id: str, gate: str, decision: Decision, by: str, comment: str, separate: Separate
) -> GateView:
    """Record a decision with its audit event; where the gate stands then.

    Looked at and recorded in one transaction: nobody can come between.

    :raises ConfigurationError: no such run or gate, or a comment is missing or too long.
    :raises Refused: whoever requested may not approve.
    """
    comment = comment.strip()
    if len(comment) > MAX_COMMENT:
        raise ConfigurationError(f"A comment holds at most {MAX_COMMENT:,} characters.", "Write less.")
    if not comment and decision in _NEED_REASONS:
        raise ConfigurationError(f"{_NEED_REASONS[decision]} needs a reason.", "Give a comment.")
    with writing(engine) as connection:
        run = _run(connection, run_id)
        if gate not in gates_of(run.kind):
            raise ConfigurationError(
                f"Run {run_id} has no gate {gate!r}.", f"It has: {', '.join(gates_of(run.kind))}."
            )
        before = _gate(connection, run_id, gate, run.operator, separate.at(gate))
        if decision is Decision.APPROVED and by in before.barred:
            raise Refused(f"{by} requested this and cannot approve it.", "Somebody else has to.")
        append_decision(connection, run_id, gate, decision, by, comment)
        return _gate(connection, run_id, gate, run.operator, separate.at(gate))


@dataclass(frozen=True, slots=True)
class _Started:
    kind: RunKind
    operator: str


def _run(connection: Connection, run_id: str) -> _Started:
    row = connection.execute(select(Run.kind, Run.operator).where(Run.id == run_id)).one_or_none()
    if row is None:
        raise ConfigurationError(f"The ledger holds no run {run_id!r}.", "`greenfly review list` shows all.")
    return _Started(row.kind, row.operator)


def _gate(connection: Connection, run_id: str, gate: str, starter: str, separate: bool) -> GateView:
    query = select(Approval.gate, Approval.decision, Approval.by, Approval.at, Approval.comment)
    rows = connection.execute(
        query.where(Approval.run_id == run_id, Approval.gate == gate).order_by(Approval.id)
    )
    decisions = tuple(ApprovalRecord(**row._mapping) for row in rows)
    counting = _in_force(connection, run_id, gate, decisions)
    barred = _barred(counting, starter, by_start=gate == REVIEW_GATE) if separate else ()
    stands = standing(counting, separate=separate, requester=starter if gate == REVIEW_GATE else None)
    return GateView(gate, decisions, _without(stands, barred), barred)


@repeated
def decisions_in_force(engine: Engine, sync_run_id: str) -> list[ApprovalRecord]:
    """The decisions about the cutover gate, oldest first; those before the newest switch are used up."""
    decisions = read_decisions(engine, sync_run_id, CUTOVER_GATE)
    with reading(engine) as connection:
        return _in_force(connection, sync_run_id, CUTOVER_GATE, decisions)


def _in_force(
    connection: Connection, run_id: str, gate: str, decisions: Sequence[ApprovalRecord]
) -> list[ApprovalRecord]:
    since = _last_switch(connection, run_id) if gate == CUTOVER_GATE else None
    return [each for each in decisions if since is None or each.at > since]


def _barred(decisions: Sequence[ApprovalRecord], starter: str, *, by_start: bool) -> tuple[str, ...]:
    names = [starter] if by_start else []
    names += [each.by for each in decisions if each.decision is Decision.REQUESTED]
    return tuple(dict.fromkeys(names))


def _without(stands: Standing, barred: Sequence[str]) -> Standing:
    approvers = tuple(name for name in stands.approvers if name not in barred)
    return Standing(approvers, stands.rejected_by, stands.broken_by)


def _last_switch(connection: Connection, sync_run_id: str) -> datetime | None:
    """When a cutover of this sync run last moved the applications: what was decided before is used up."""
    query = (
        select(Step.ended_at)
        .join(Run, Run.id == Step.run_id)
        .where(
            Run.parent_id == sync_run_id,
            Run.kind == RunKind.CUTOVER,
            Step.name == "switch",
            Step.state == StepState.DONE,
            Step.ended_at.is_not(None),
        )
    )
    return max((moment for moment in connection.scalars(query) if moment is not None), default=None)
