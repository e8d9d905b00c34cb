"""Sums and pages of the ledger that only a reader of reports asks for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import Row, func, select
from sqlalchemy.orm import Session

from integrity.ledger import Ledger
from integrity.ledger.database import reading
from integrity.ledger.models import Finding, FindingClass, FindingState, Repair, RepairAction, Run


def exceptions_by_rule(ledger: Ledger, run_id: str) -> dict[tuple[str | None, FindingClass], int]:
    """How many findings each rule of a run excepts, by class; a rule of None was not recorded."""
    query = (
        select(Finding.rule, Finding.finding_class, func.count())
        .where(Finding.run_id == run_id, Finding.state == FindingState.EXCEPTION)
        .group_by(Finding.rule, Finding.finding_class)
    )
    with reading(ledger.engine) as connection:
        return {(row[0], row[1]): row[2] for row in connection.execute(query)}


def repair_counts(ledger: Ledger, run_id: str) -> dict[RepairAction, int]:
    """How often a repair run did what."""
    query = select(Repair.action, func.count()).where(Repair.run_id == run_id).group_by(Repair.action)
    with reading(ledger.engine) as connection:
        return {row[0]: row[1] for row in connection.execute(query)}


def repair_rows(
    ledger: Ledger, run_id: str, *, limit: int | None = None, page: int = 1_000
) -> Iterator[Row[tuple[Repair]]]:
    """What a repair run did, in the order in which it did it, a page at a time."""
    columns = select(*Repair.__table__.columns).where(Repair.run_id == run_id).order_by(Repair.id)
    after, left = 0, limit
    while left is None or left > 0:
        size = page if left is None else min(page, left)
        with reading(ledger.engine) as connection:
            rows = connection.execute(columns.where(Repair.id > after).limit(size)).all()
        if not rows:
            return
        yield from rows
        after = rows[-1].id
        left = None if left is None else left - len(rows)


def story_runs(ledger: Ledger, root: str) -> list[Run]:
    """A run and those that name it as their parent, oldest first."""
    query = select(Run).where((Run.id == root) | (Run.parent_id == root)).order_by(Run.started_at, Run.id)
    with reading(ledger.engine) as connection, Session(connection, expire_on_commit=False) as session:
        rows = list(session.scalars(query))
        session.expunge_all()
        return rows


def risk_times(ledger: Ledger, run_id: str) -> tuple[datetime, datetime] | None:
    """When the first finding of class at-risk came and the last one was seen; None where there is none."""
    query = select(func.min(Finding.first_seen_at), func.max(Finding.last_seen_at)).where(
        Finding.run_id == run_id, Finding.finding_class == FindingClass.AT_RISK
    )
    with reading(ledger.engine) as connection:
        row = connection.execute(query).one()
    first: datetime | None = row[0]
    last: datetime | None = row[1]
    return None if first is None or last is None else (first, last)
