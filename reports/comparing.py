"""A run beside the one before it: the newest earlier one of its kind between the same two servers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from integrity.ledger import Ledger
from integrity.ledger.database import reading
from integrity.ledger.models import Run, RunKind, RunState, Verdict
from integrity.rehearsal import changes_between, previous_rehearsal, read_facts
from reports.facts import masked_text

COMPARED_KINDS: Final = frozenset(
    {RunKind.MIGRATE, RunKind.VERIFY, RunKind.SNAPSHOT, RunKind.SYNC, RunKind.ASSESS}
)
"""Repairs, cutovers, rollbacks and watches belong to another run: one of them is no repetition of the last."""


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """One thing that is not as it was."""

    what: str
    before: str
    after: str
    notable: bool
    """Whether somebody should look at it."""


@dataclass(frozen=True, slots=True)
class ComparisonView:
    """What differs from the run before."""

    previous_id: str | None
    """None for the first one."""
    previous_verdict: Verdict | None
    previous_started_at: datetime | None
    rehearsals: bool
    """Whether rehearsals are compared: from the same source, in whatever scratch server."""
    changes: tuple[ChangeRow, ...]

    @property
    def notable(self) -> int:
        """How many of the changes somebody should look at."""
        return sum(change.notable for change in self.changes)


def build_comparison(ledger: Ledger, run: Run, *, rehearsal: bool) -> ComparisonView | None:
    """None for a kind of run that is not compared.

    :raises LedgerError: the ledger cannot be read.
    """
    if run.kind not in COMPARED_KINDS:
        return None
    before = previous_rehearsal(ledger, run) if rehearsal else _previous(ledger, run)
    if before is None:
        return ComparisonView(None, None, None, rehearsal, ())
    found = changes_between(read_facts(ledger, before), read_facts(ledger, run))
    return ComparisonView(
        before.id,
        before.verdict,
        before.started_at,
        rehearsal,
        tuple(
            ChangeRow(masked_text(each.what), masked_text(each.before), masked_text(each.after), each.notable)
            for each in found
        ),
    )


def _previous(ledger: Ledger, run: Run) -> Run | None:
    if run.source_address is None:
        return None
    query = (
        select(Run)
        .where(
            Run.kind == run.kind,
            Run.state == RunState.FINISHED,
            Run.source_address == run.source_address,
            Run.target_address == run.target_address
            if run.target_address is not None
            else Run.target_address.is_(None),
            Run.started_at < run.started_at,
        )
        .order_by(Run.started_at.desc(), Run.id.desc())
        .limit(1)
    )
    with reading(ledger.engine) as connection, Session(connection, expire_on_commit=False) as session:
        rows = list(session.scalars(query))
        session.expunge_all()
    return rows[0] if rows else None
