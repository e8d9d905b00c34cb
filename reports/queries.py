"""Sums and pages of the ledger that only a reader of reports asks for."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Row, func, select

from integrity.ledger import Ledger
from integrity.ledger.database import reading
from integrity.ledger.models import Finding, FindingClass, FindingState, Repair, RepairAction


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
