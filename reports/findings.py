"""One finding as a page shows it, and what each class of finding means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Row, func, select

from integrity.ledger import Ledger
from integrity.ledger.database import reading
from integrity.ledger.models import Finding, FindingClass, FindingState
from reports.facts import masked_text
from reports.finding_batches import BATCH_ROWS, FindingBatch, finding_batches
from reports.model import RunReport

KEY_BYTES_READ: Final = 1_024
"""Of a longer key a page reads only the beginning."""
_DETAIL_CHARACTERS: Final = 4_000
_PAGE: Final = 500

CLASS_MEANING: Final[dict[FindingClass, str]] = {
    FindingClass.MISSING: "The source has the key, the target has not.",
    FindingClass.EXTRA: "The target has the key, the source has not.",
    FindingClass.TYPE: "Both sides have the key, with different types.",
    FindingClass.VALUE: "Both sides have the key with the same type, but the values differ.",
    FindingClass.EXPIRY: "The value is the same, but the key expires at another time.",
    FindingClass.REFUSED: "The target did not accept the key during the copy.",
    FindingClass.SKIPPED: "The conflict policy kept the value that the target already had.",
    FindingClass.UNREADABLE: "One side could not be read, or the type is not known; the key was not compared.",
    FindingClass.NOT_CARRIED: "Copied by typed commands, which could not carry everything; the detail says what.",
    FindingClass.FIELD_EXPIRY: "A field of the hash expires at another time.",
    FindingClass.COLLISION: "Two keys of the source map to the same key of the target.",
    FindingClass.AT_RISK: "Changed on green, and not known to have reached blue when green was abandoned.",
}

STATE_MEANING: Final[dict[FindingState, str]] = {
    FindingState.OPEN: "counts against the verdict",
    FindingState.EXCEPTION: "expected under a rule of the run or let pass by a waiver, which is named",
    FindingState.SETTLED: "a later look found the key equal; kept for the record",
    FindingState.REPAIRED: "a repair run made both sides equal since",
}


@dataclass(frozen=True, slots=True)
class Side:
    """What one side had."""

    kind: str | None
    digest: str | None
    """Hexadecimal."""
    expiry_ms: int | None
    """Absolute; −1 for none."""
    size: int | None
    """Bytes of a string, elements of everything else."""

    @property
    def known(self) -> bool:
        """Whether the ledger holds anything about this side."""
        return (self.kind, self.digest, self.expiry_ms, self.size) != (None, None, None, None)


@dataclass(frozen=True, slots=True)
class FindingView:
    """One key that differs, and how."""

    finding_class: FindingClass
    state: FindingState
    rule: str | None
    """Under which it is an exception."""
    database: int
    key: bytes
    """Of a long one the beginning."""
    key_bytes: int
    """Length of the whole key."""
    source: Side
    target: Side
    detail: str
    first_seen_at: datetime
    last_seen_at: datetime
    times_seen: int

    @property
    def age_seconds(self) -> float:
        """From when it was first seen to when it was last seen, or changed its state."""
        return max(0.0, (self.last_seen_at - self.first_seen_at).total_seconds())

    @property
    def expiry_drift_ms(self) -> int | None:
        """Target minus source where both sides have an expiry."""
        source, target = self.source.expiry_ms, self.target.expiry_ms
        if source is None or target is None or source < 0 or target < 0:
            return None
        return target - source


_COLUMNS: Final = (
    Finding.id,
    Finding.finding_class,
    Finding.state,
    Finding.rule,
    Finding.database,
    func.substr(Finding.key, 1, KEY_BYTES_READ).label("key"),
    func.length(Finding.key).label("key_bytes"),
    Finding.source_kind,
    Finding.source_digest,
    Finding.source_expiry_ms,
    Finding.source_size,
    Finding.target_kind,
    Finding.target_digest,
    Finding.target_expiry_ms,
    Finding.target_size,
    func.substr(Finding.detail, 1, _DETAIL_CHARACTERS).label("detail"),
    Finding.first_seen_at,
    Finding.last_seen_at,
    Finding.times_seen,
)


def _view(row: Row[tuple[object, ...]]) -> FindingView:
    """The ledger's row as a value, secrets masked."""
    return FindingView(
        finding_class=row.finding_class,
        state=row.state,
        rule=masked_text(row.rule) if row.rule is not None else None,
        database=row.database,
        # SQLite makes NULL of the beginning of nothing.
        key=row.key or b"",
        key_bytes=row.key_bytes,
        source=_side(row.source_kind, row.source_digest, row.source_expiry_ms, row.source_size),
        target=_side(row.target_kind, row.target_digest, row.target_expiry_ms, row.target_size),
        detail=masked_text(row.detail),
        first_seen_at=row.first_seen_at,
        last_seen_at=row.last_seen_at,
        times_seen=row.times_seen,
    )


def _side(kind: str | None, digest: bytes | None, expiry_ms: int | None, size: int | None) -> Side:
    return Side(
        masked_text(kind) if kind is not None else None,
        None if digest is None else digest.hex(),
        expiry_ms,
        size,
    )


def holder_of(report: RunReport, finding_class: FindingClass) -> str:
    """The run that holds the findings of this class that *report* is about: nearly always its own."""
    at_risk = report.live.at_risk if report.live is not None else None
    if finding_class is FindingClass.AT_RISK and at_risk is not None:
        return at_risk.recorded_by
    return report.run.run_id


def reported_findings(ledger: Ledger, report: RunReport, rows: int = BATCH_ROWS) -> Iterator[FindingBatch]:
    """All findings that *report* counts, at most so many *rows* at a time."""
    yield from finding_batches(ledger, report.run.run_id, rows)
    holder = holder_of(report, FindingClass.AT_RISK)
    if holder != report.run.run_id:
        yield from finding_batches(ledger, holder, rows, FindingClass.AT_RISK)


def first_findings(
    ledger: Ledger, run_id: str, finding_class: FindingClass, limit: int
) -> Iterator[FindingView]:
    """The first *limit* findings of a class: those that count, then exceptions, settled and repaired ones."""
    left = limit
    for state in STATE_MEANING:
        after = 0
        while left:
            query = (
                select(*_COLUMNS)
                .where(
                    Finding.run_id == run_id,
                    Finding.state == state,
                    Finding.finding_class == finding_class,
                    Finding.id > after,
                )
                .order_by(Finding.id)
                .limit(min(left, _PAGE))
            )
            with reading(ledger.engine) as connection:
                rows = connection.execute(query).all()
            if not rows:
                break
            yield from map(_view, rows)
            after, left = rows[-1].id, left - len(rows)
