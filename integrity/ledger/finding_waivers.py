"""Waivers of findings: differences between two servers that somebody let pass, until a day.

What they do to the findings of later runs is in :mod:`integrity.verify.waiving`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import Engine, insert, select, update
from xxhash import xxh3_128_digest

from integrity.errors import ConfigurationError, Refused
from integrity.glob import PatternError, compile_patterns
from integrity.ledger import audit
from integrity.ledger.database import reading, repeated, writing
from integrity.ledger.models import Run
from integrity.ledger.review_models import FindingWaiver
from integrity.ledger.vocabulary import FindingClass
from integrity.ledger.waived_findings import RULE, Subject, find_covered
from integrity.rule_text import read_pattern

UNWAIVABLE: Final = frozenset({FindingClass.UNREADABLE, FindingClass.AT_RISK, FindingClass.SKIPPED})
"""Classes that say that nothing is known about a key, and the one that a rule of the run excepts already."""
MAX_REASON: Final = 4_000
"""Characters."""
_KEY_BYTES_TOLD: Final = 4_096
"""Of a longer key; the ledger itself holds all of it."""
_MOST_BEFORE: Final = 1_000
"""What holds for waivers of a version that named no number."""


@dataclass(frozen=True, slots=True)
class FindingWaiverRecord:
    """One waiver; see :class:`~integrity.ledger.review_models.FindingWaiver`."""

    id: int
    source: str
    target: str
    finding_class: FindingClass
    database: int | None
    key: bytes | None
    pattern: str | None
    why: str
    by: str
    at: datetime
    until: datetime
    run_id: str
    withdrawn_at: datetime | None = None
    withdrawn_by: str | None = None
    most_findings: int | None = None
    """Of one run."""

    @property
    def rule(self) -> str:
        """What the findings name that it covers."""
        return f"{RULE}{self.id}"

    @property
    def most(self) -> int:
        """It lets no finding of a run pass where it covers more."""
        return self.most_findings if self.most_findings is not None else _MOST_BEFORE

    def in_force(self, now: datetime) -> bool:
        """Whether it still lets anything pass."""
        return self.withdrawn_at is None and self.at <= now < self.until

    def state(self, now: datetime) -> str:
        """``in force``, ``expired`` or ``withdrawn``."""
        if self.withdrawn_at is not None:
            return "withdrawn"
        return "in force" if self.in_force(now) else "expired"

    def to_dict(self, now: datetime) -> dict[str, object]:
        """Plain JSON values; a key as hexadecimal digits, of a long one its beginning and the digest."""
        return {
            "id": self.id,
            "source": self.source,
            "target": self.target,
            "class": self.finding_class.value,
            "database": self.database,
            "key_hex": self.key[:_KEY_BYTES_TOLD].hex() if self.key is not None else None,
            "key_bytes": len(self.key) if self.key is not None else None,
            "key_digest": xxh3_128_digest(self.key).hex() if self.key is not None else None,
            "pattern": self.pattern,
            "at_most": self.most,
            "why": self.why,
            "by": self.by,
            "at": self.at.isoformat(),
            "until": self.until.isoformat(),
            "run": self.run_id,
            "state": self.state(now),
            "withdrawn_at": self.withdrawn_at.isoformat() if self.withdrawn_at else None,
            "withdrawn_by": self.withdrawn_by,
        }


class WaiverCover:
    """Which findings a list of waivers covers; patterns are compiled once."""

    def __init__(self, waivers: Sequence[FindingWaiverRecord]) -> None:
        self._keys: dict[tuple[FindingClass, bytes], list[FindingWaiverRecord]] = {}
        self._patterns: list[tuple[re.Pattern[bytes], FindingWaiverRecord]] = []
        for waiver in waivers:
            if waiver.key is not None:
                self._keys.setdefault((waiver.finding_class, waiver.key), []).append(waiver)
            elif waiver.pattern is not None:
                self._patterns.append((compile_patterns([read_pattern(waiver.pattern)]), waiver))

    def of(self, finding_class: FindingClass, database: int, key: bytes) -> FindingWaiverRecord | None:
        """The waiver that lets this finding pass."""
        exact = self._keys.get((finding_class, key), [])
        matching = [
            waiver
            for pattern, waiver in self._patterns
            if waiver.finding_class is finding_class and pattern.match(key)
        ]
        return next((w for w in (*exact, *matching) if w.database in (None, database)), None)


@dataclass(frozen=True, slots=True)
class Granted:
    """A new waiver."""

    waiver: FindingWaiverRecord
    covers: int
    """Open findings of the run on which it was given."""


def waive_findings(
    engine: Engine,
    run_id: str,
    subject: Subject,
    *,
    by: str,
    why: str,
    days: float,
    most_days: float,
    most_findings: int,
    separate: bool,
) -> Granted:
    """Let findings between a run's two servers pass for so many days; recorded with its audit event.

    :param most_findings: it lets no finding of a run pass where it covers more.
    :raises ConfigurationError: no such run, no reason, a class, a time or a pattern that cannot be used.
    :raises Refused: who started the run cannot let its findings pass, or too many of them are covered.
    """
    _check(subject, why, days, most_days)
    covered = find_covered(engine, run_id, subject, most_findings)
    if covered.more:
        raise Refused(
            f"That covers more than {most_findings:,} open findings of run {run_id}.",
            "Name a narrower pattern, one database, or single keys; review.max_waived_findings is the most.",
        )
    now = datetime.now(UTC)
    record = FindingWaiverRecord(
        id=0,
        source="",
        target="",
        finding_class=subject.finding_class,
        database=subject.database,
        key=subject.key,
        pattern=subject.pattern,
        why=why.strip(),
        by=by,
        at=now,
        until=now + timedelta(days=days),
        run_id=run_id,
        most_findings=most_findings,
    )
    return Granted(_record(engine, record, len(covered.ids), separate=separate), len(covered.ids))


@repeated
def _record(
    engine: Engine, wanted: FindingWaiverRecord, covers: int, *, separate: bool
) -> FindingWaiverRecord:
    run_id, by = wanted.run_id, wanted.by
    with writing(engine) as connection:
        run = connection.execute(
            select(Run.operator, Run.source_address, Run.target_address).where(Run.id == run_id)
        ).one_or_none()
        if run is None or run.source_address is None or run.target_address is None:
            raise ConfigurationError(
                f"The ledger holds no run {run_id!r} that met two servers.", "`greenfly runs list` shows all."
            )
        if separate and run.operator == by:
            raise Refused(
                f"{by} started run {run_id} and cannot let its findings pass.", "Somebody else has to."
            )
        placed = replace(wanted, source=run.source_address, target=run.target_address)
        values = {
            column.name: getattr(placed, column.name)
            for column in FindingWaiver.__table__.columns
            if column.name != "id"
        }
        made = connection.execute(insert(FindingWaiver).values(values))
        primary = made.inserted_primary_key
        if primary is None:
            raise TypeError("the database told no number of the new row")
        waiver = replace(placed, id=int(primary[0]))
        payload = waiver.to_dict(wanted.at) | {"covers": covers}
        audit.append(connection, run_id, by, "finding-waiver.granted", payload)
    return waiver


def _check(subject: Subject, why: str, days: float, most_days: float) -> None:
    if not why.strip():
        raise ConfigurationError("Letting a finding pass needs a reason.", "Give one.")
    if not 0 < days <= most_days:
        raise ConfigurationError(
            f"A finding is let pass for more than 0 and at most {most_days:g} days.", "Name a nearer end."
        )
    if subject.finding_class in UNWAIVABLE:
        raise ConfigurationError(
            f"Findings of class {subject.finding_class.value} cannot be let pass.",
            "Waive how the key differs; what was skipped, could not be read or is at risk says nothing about that.",
        )
    if len(why) > MAX_REASON:
        raise ConfigurationError(f"A reason holds at most {MAX_REASON:,} characters.", "Write less.")
    if (subject.key is None) is (subject.pattern is None):
        raise ConfigurationError(
            "A waiver is about one key, or about a pattern of keys.", "Give one of them."
        )
    if subject.pattern is not None:
        try:
            read_pattern(subject.pattern)
        except PatternError as error:
            raise ConfigurationError(f"The pattern cannot be used: {error}.", "Correct it.") from error


@repeated
def read_finding_waivers(
    engine: Engine, source: str | None = None, target: str | None = None
) -> list[FindingWaiverRecord]:
    """Oldest first; of every pair of servers unless one is named."""
    query = select(*FindingWaiver.__table__.columns).order_by(FindingWaiver.id)
    if source is not None:
        query = query.where(FindingWaiver.source == source)
    if target is not None:
        query = query.where(FindingWaiver.target == target)
    with reading(engine) as connection:
        return [FindingWaiverRecord(**row._mapping) for row in connection.execute(query)]


@repeated
def withdraw_finding_waiver(engine: Engine, number: int, by: str) -> FindingWaiverRecord:
    """Record that it lets nothing pass any more.

    :raises ConfigurationError: there is none with this number.
    :raises Refused: it was withdrawn before.
    """
    now = datetime.now(UTC)
    columns = FindingWaiver.__table__.columns
    with writing(engine) as connection:
        # A number beyond what a database can hold is no number of a row.
        query = select(*columns).where(FindingWaiver.id == number)
        row = connection.execute(query).one_or_none() if 0 < number < 2**63 else None
        if row is None:
            raise ConfigurationError(f"There is no waiver {number}.", "`greenfly review waivers` shows all.")
        if row.withdrawn_at is not None:
            raise Refused(f"Waiver {number} was withdrawn before, by {row.withdrawn_by}.", "")
        connection.execute(
            update(FindingWaiver).where(FindingWaiver.id == number).values(withdrawn_at=now, withdrawn_by=by)
        )
        audit.append(connection, row.run_id, by, "finding-waiver.withdrawn", {"id": number})
    return FindingWaiverRecord(**{**row._mapping, "withdrawn_at": now, "withdrawn_by": by})
