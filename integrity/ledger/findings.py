"""Writing findings, and what a repair did about them, many at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection, Table, insert, update
from sqlalchemy.dialects import postgresql, sqlite
from xxhash import xxh3_128_digest

from integrity.ledger.models import Base, Finding, FindingState, PhaseName, Repair
from integrity.ledger.values import NewFinding, NewRepair

_AT_A_TIME: Final = 1000
"""Rows of one statement: databases bound how many values one may carry, and memory stays small."""
_REFRESHED: Final = (
    "state",
    "source_kind",
    "target_kind",
    "source_digest",
    "target_digest",
    "source_expiry_ms",
    "target_expiry_ms",
    "source_size",
    "target_size",
    "detail",
    "rule",
    "last_seen_at",
)
"""What a finding takes over from its newest sighting."""


def write_findings(
    connection: Connection, run_id: str, phase: PhaseName, findings: Sequence[NewFinding]
) -> None:
    """Insert findings; one that is there already is seen once more, with its newest facts."""
    now = datetime.now(UTC)
    statement = _upsert(connection)
    for start in range(0, len(findings), _AT_A_TIME):
        connection.execute(statement, _rows(run_id, phase, findings[start : start + _AT_A_TIME], now))


def _rows(
    run_id: str, phase: PhaseName, findings: Sequence[NewFinding], now: datetime
) -> list[dict[str, object]]:
    return [
        {
            "run_id": run_id,
            "phase": phase,
            "finding_class": f.finding_class,
            "state": f.state,
            "database": f.database,
            "key": f.key,
            "key_digest": xxh3_128_digest(f.key),
            "source_kind": f.source_kind,
            "target_kind": f.target_kind,
            "source_digest": f.source_digest,
            "target_digest": f.target_digest,
            "source_expiry_ms": f.source_expiry_ms,
            "target_expiry_ms": f.target_expiry_ms,
            "source_size": f.source_size,
            "target_size": f.target_size,
            "detail": f.detail,
            "rule": f.rule,
            "first_seen_at": now,
            "last_seen_at": now,
            "times_seen": 1,
        }
        for f in findings
    ]


def write_state(connection: Connection, finding_ids: Sequence[int], state: FindingState) -> None:
    """Put findings into another state, now."""
    now = datetime.now(UTC)
    for start in range(0, len(finding_ids), _AT_A_TIME):
        connection.execute(
            update(Finding)
            .where(Finding.id.in_(finding_ids[start : start + _AT_A_TIME]))
            .values(state=state, last_seen_at=now)
        )


def write_repairs(connection: Connection, run_id: str, repairs: Iterable[NewRepair]) -> None:
    """Insert what a repair run did."""
    now = datetime.now(UTC)
    rows = [
        {
            "run_id": run_id,
            "finding_id": r.finding_id,
            "database": r.database,
            "key": r.key,
            "key_digest": xxh3_128_digest(r.key),
            "action": r.action,
            "at": now,
            "before_source_digest": r.before_source_digest,
            "before_target_digest": r.before_target_digest,
            "after_source_digest": r.after_source_digest,
            "after_target_digest": r.after_target_digest,
            "before_detail": r.before_detail,
            "detail": r.detail,
        }
        for r in repairs
    ]
    if rows:
        connection.execute(insert(Repair), rows)


def _upsert(connection: Connection) -> sqlite.Insert | postgresql.Insert:
    table: Table = Base.metadata.tables[Finding.__tablename__]
    statement: sqlite.Insert | postgresql.Insert = (
        postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)
    )
    return statement.on_conflict_do_update(
        index_elements=["run_id", "database", "key_digest", "finding_class"],
        set_={name: statement.excluded[name] for name in _REFRESHED} | {"times_seen": table.c.times_seen + 1},
    )
