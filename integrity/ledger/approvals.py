"""Approvals: who asked for a gate to be passed, who said yes or no, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, insert, select

from integrity.ledger import audit
from integrity.ledger.database import reading, repeated
from integrity.ledger.live_models import Approval
from integrity.ledger.vocabulary import Decision


@dataclass(frozen=True, slots=True)
class ApprovalRecord:
    """One decision."""

    gate: str
    decision: Decision
    by: str
    at: datetime
    comment: str


def append_decision(
    connection: Connection, run_id: str, gate: str, decision: Decision, by: str, comment: str = ""
) -> None:
    """Record a decision and its audit event; who may decide is looked at in :mod:`integrity.ledger.reviews`."""
    connection.execute(
        insert(Approval).values(
            run_id=run_id, gate=gate, decision=decision, by=by, at=datetime.now(UTC), comment=comment
        )
    )
    payload = {"gate": gate, "by": by, "comment": comment}
    audit.append(connection, run_id, by, f"approval.{decision.value}", payload)


@repeated
def read_decisions(engine: Engine, run_id: str, gate: str | None = None) -> list[ApprovalRecord]:
    """Oldest first."""
    query = select(Approval.gate, Approval.decision, Approval.by, Approval.at, Approval.comment).where(
        Approval.run_id == run_id
    )
    if gate is not None:
        query = query.where(Approval.gate == gate)
    with reading(engine) as connection:
        return [ApprovalRecord(**row._mapping) for row in connection.execute(query.order_by(Approval.id))]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a gate stands by the decisions so far."""

    approvers: tuple[str, ...]
    """Everybody who approved since the last rejection, each once."""
    rejected_by: str | None
    broken_by: str | None
    """Who passed it alone, in an emergency."""


def standing(
    decisions: Sequence[ApprovalRecord], *, separate: bool, requester: str | None = None
) -> Standing:
    """What the decisions amount to; a rejection voids what was approved before it.

    :param separate: whoever requested cannot approve.
    :param requester: who counts as having requested where nobody did: whoever passes the gate.
    """
    requesters: set[str] = set()
    approvers: list[str] = []
    rejected_by = broken_by = None
    for each in decisions:
        match each.decision:
            case Decision.REQUESTED:
                requesters.add(each.by)
            case Decision.APPROVED:
                rejected_by = None
                if each.by not in approvers:
                    approvers.append(each.by)
            case Decision.REJECTED | Decision.REPEAT:
                approvers, rejected_by, broken_by = [], each.by, None
            case Decision.BREAK_GLASS:
                broken_by = each.by
    if separate:
        if not requesters and requester is not None:
            requesters.add(requester)
        approvers = [name for name in approvers if name not in requesters]
    return Standing(tuple(approvers), rejected_by, broken_by)
