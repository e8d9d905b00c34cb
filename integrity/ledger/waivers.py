"""Waivers in the ledger: what somebody let pass, for two servers, until a day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Engine, insert, select, update

from integrity.assess.model import Outcome
from integrity.ledger import audit
from integrity.ledger.assess_models import Waiver
from integrity.ledger.database import reading, repeated, writing


@dataclass(frozen=True, slots=True)
class WaiverRecord:
    """One waiver; see :class:`~integrity.ledger.assess_models.Waiver`."""

    id: int
    source: str
    target: str
    check_id: str
    outcome: Outcome
    items: tuple[str, ...]
    why: str
    by: str
    at: datetime
    until: datetime
    run_id: str
    withdrawn_at: datetime | None = None
    withdrawn_by: str | None = None

    def in_force(self, now: datetime) -> bool:
        """Whether it still lets anything pass."""
        return self.withdrawn_at is None and self.at <= now < self.until

    def state(self, now: datetime) -> str:
        """``in force``, ``expired`` or ``withdrawn``."""
        if self.withdrawn_at is not None:
            return "withdrawn"
        return "in force" if self.in_force(now) else "expired"

    def to_dict(self, now: datetime) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "id": self.id,
            "check": self.check_id,
            "source": self.source,
            "target": self.target,
            "outcome": self.outcome.value,
            "items": list(self.items),
            "why": self.why,
            "by": self.by,
            "at": self.at.isoformat(),
            "until": self.until.isoformat(),
            "assessment": self.run_id,
            "state": self.state(now),
            "withdrawn_at": self.withdrawn_at.isoformat() if self.withdrawn_at else None,
            "withdrawn_by": self.withdrawn_by,
        }


@repeated
def add_waiver(
    engine: Engine,
    *,
    source: str,
    target: str,
    check_id: str,
    outcome: Outcome,
    items: Sequence[str],
    why: str,
    by: str,
    until: datetime,
    run_id: str,
) -> WaiverRecord:
    """Record a waiver and its audit event, in one transaction."""
    now = datetime.now(UTC)
    with writing(engine) as connection:
        made = connection.execute(
            insert(Waiver).values(
                source=source,
                target=target,
                check_id=check_id,
                outcome=outcome,
                items=list(items),
                why=why,
                by=by,
                at=now,
                until=until,
                run_id=run_id,
            )
        )
        primary = made.inserted_primary_key
        if primary is None:
            raise TypeError("the database told no number of the new row")
        waiver = WaiverRecord(
            int(primary[0]), source, target, check_id, outcome, tuple(items), why, by, now, until, run_id
        )
        audit.append(connection, run_id, by, "waiver.granted", waiver.to_dict(now))
    return waiver


@repeated
def read_waivers(engine: Engine, source: str | None = None, target: str | None = None) -> list[WaiverRecord]:
    """Oldest first; of every pair of servers unless one is named."""
    query = select(
        Waiver.id,
        Waiver.source,
        Waiver.target,
        Waiver.check_id,
        Waiver.outcome,
        Waiver.items,
        Waiver.why,
        Waiver.by,
        Waiver.at,
        Waiver.until,
        Waiver.run_id,
        Waiver.withdrawn_at,
        Waiver.withdrawn_by,
    ).order_by(Waiver.id)
    if source is not None:
        query = query.where(Waiver.source == source)
    if target is not None:
        query = query.where(Waiver.target == target)
    with reading(engine) as connection:
        return [
            WaiverRecord(**{**row._mapping, "items": tuple(row.items)}) for row in connection.execute(query)
        ]


@repeated
def withdraw_waivers(engine: Engine, waivers: Sequence[WaiverRecord], by: str) -> None:
    """Record that these let nothing pass any more, and an audit event for each, in one transaction."""
    now = datetime.now(UTC)
    with writing(engine) as connection:
        for waiver in waivers:
            changed = connection.execute(
                update(Waiver)
                .where(Waiver.id == waiver.id, Waiver.withdrawn_at.is_(None))
                .values(withdrawn_at=now, withdrawn_by=by)
            )
            if changed.rowcount:
                audit.append(
                    connection,
                    waiver.run_id,
                    by,
                    "waiver.withdrawn",
                    {"id": waiver.id, "check": waiver.check_id, "items": list(waiver.items)},
                )
