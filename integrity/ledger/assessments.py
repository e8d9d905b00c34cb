"""Assessments in the ledger: what was looked at, and what each check came to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Engine, delete, insert, select

from integrity.address import mask_url
from integrity.assess.model import Result
from integrity.ledger.assess_models import Assessment, AssessmentResult
from integrity.ledger.database import reading, repeated, writing
from integrity.strategy import Strategy


@dataclass(frozen=True, slots=True)
class AssessmentRecord:
    """One assessment; see :class:`~integrity.ledger.assess_models.Assessment`."""

    run_id: str
    source: str
    target: str
    strategy: Strategy
    mode: str
    at: datetime
    facts: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RecordedResult:
    """What a check came to, and which waivers let it pass."""

    result: Result
    waivers: tuple[int, ...] = ()
    """Ids; empty where none did."""

    @property
    def open(self) -> bool:
        """Whether it stops a run."""
        return self.result.blocks and not self.waivers


@repeated
def record_assessment(engine: Engine, record: AssessmentRecord, results: Sequence[RecordedResult]) -> None:
    """Record an assessment in place of what the same run recorded before."""
    rows = []
    for position, each in enumerate(results):
        result = fit(each.result)
        rows.append(
            {
                "run_id": record.run_id,
                "position": position,
                "check_id": result.check,
                "title": result.title,
                "outcome": result.outcome,
                "severity": result.severity,
                "summary": result.summary,
                "evidence": dict(result.evidence),
                "remedy": result.remedy,
                "items": list(result.items),
                "waivers": list(each.waivers),
            }
        )
    with writing(engine) as connection:
        connection.execute(delete(AssessmentResult).where(AssessmentResult.run_id == record.run_id))
        connection.execute(delete(Assessment).where(Assessment.run_id == record.run_id))
        connection.execute(
            insert(Assessment).values(
                run_id=record.run_id,
                source=record.source,
                target=record.target,
                strategy=record.strategy,
                mode=record.mode,
                at=record.at,
                facts=plain_table(record.facts),
            )
        )
        if rows:
            connection.execute(insert(AssessmentResult), rows)


def read_assessment(engine: Engine, run_id: str) -> AssessmentRecord | None:
    """The assessment that this run made, if it made one."""
    found = _read(engine, select(*_COLUMNS).where(Assessment.run_id == run_id))
    return found[0] if found else None


def newest_assessments(engine: Engine, source: str, target: str, limit: int = 20) -> list[AssessmentRecord]:
    """The newest assessments of these two servers, the newest first."""
    query = (
        select(*_COLUMNS)
        .where(Assessment.source == source, Assessment.target == target)
        .order_by(Assessment.at.desc())
        .limit(limit)
    )
    return _read(engine, query)


@repeated
def read_results(engine: Engine, run_id: str) -> list[RecordedResult]:
    """What the checks of this run came to, in the order in which they were made."""
    columns = AssessmentResult
    query = (
        select(
            columns.check_id,
            columns.title,
            columns.outcome,
            columns.severity,
            columns.summary,
            columns.evidence,
            columns.remedy,
            columns.items,
            columns.waivers,
        )
        .where(columns.run_id == run_id)
        .order_by(columns.position)
    )
    with reading(engine) as connection:
        return [
            RecordedResult(Result(*row[:7], items=tuple(row[7])), tuple(row[8]))
            for row in connection.execute(query)
        ]


_COLUMNS = (
    Assessment.run_id,
    Assessment.source,
    Assessment.target,
    Assessment.strategy,
    Assessment.mode,
    Assessment.at,
    Assessment.facts,
)


@repeated
def _read(engine: Engine, query: object) -> list[AssessmentRecord]:
    with reading(engine) as connection:
        return [
            AssessmentRecord(**row._mapping)
            for row in connection.execute(query)  # type: ignore[call-overload]
        ]


def fit(result: Result) -> Result:
    """*result* as the ledger can hold it: plain values, no password of a URL, no character that a database refuses."""
    return replace(
        result,
        title=plain_text(result.title),
        summary=plain_text(result.summary),
        evidence=plain_table(result.evidence),
        remedy=plain_text(result.remedy),
        items=tuple(plain_text(item) for item in result.items),
    )


def plain_text(text: str) -> str:
    """Text that every database takes, and without the password of a URL."""
    return mask_url(text).replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def plain_table(table: Mapping[str, object]) -> dict[str, object]:
    """A table of plain JSON values."""
    return {plain_text(str(name)): _plain(value) for name, value in table.items()}


def _plain(value: object) -> object:
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case StrEnum():
            return value.value
        case str():
            return plain_text(value)
        case bytes():
            return plain_text(value.decode("utf-8", "backslashreplace"))
        case datetime():
            return value.isoformat()
        case Mapping():
            return plain_table(value)
        case set() | frozenset():
            return sorted((_plain(item) for item in value), key=str)
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            raise TypeError(f"{type(value).__name__} is no plain value")
