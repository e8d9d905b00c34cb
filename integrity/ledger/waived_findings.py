"""The findings of a run that waivers cover: looking for them, putting them aside, and counting what was put aside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final

from sqlalchemy import Engine, func, select, update
from xxhash import xxh3_128_digest

from integrity.ledger.database import adding, reading, repeated
from integrity.ledger.finding_search import FindingQuery, search_findings
from integrity.ledger.key_search import KeyForm, KeyWanted, read_wanted
from integrity.ledger.models import Finding
from integrity.ledger.vocabulary import FindingClass, FindingState

RULE: Final = "waiver:"
"""What the rule of a finding begins with that a waiver covers; its number follows."""
_PAGE: Final = 1_000
_LOOK_SECONDS: Final = 1.0
"""How long one question may hold the ledger."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a waiver is about: one key, or the keys of a pattern."""

    finding_class: FindingClass
    database: int | None = None
    """None: every database."""
    key: bytes | None = None
    pattern: str | None = None
    """As in a run's rules; exactly one of key and pattern is given."""


@dataclass(frozen=True, slots=True)
class Covered:
    """What a waiver covers of a run's open findings."""

    ids: tuple[int, ...]
    more: bool
    """Whether there are still others."""


def find_covered(engine: Engine, run_id: str, subject: Subject, most: int) -> Covered:
    """The open findings of a run that *subject* covers, no more than *most*.

    :raises ConfigurationError: its pattern cannot be used.
    """
    found = list(islice(_covered(engine, run_id, subject), most + 1))
    return Covered(tuple(found[:most]), len(found) > most)


def _covered(engine: Engine, run_id: str, subject: Subject) -> Iterator[int]:
    wanted = (
        KeyWanted(exact=subject.key)
        if subject.key is not None
        else read_wanted(subject.pattern or "", KeyForm.PATTERN)
    )
    query = FindingQuery(run_id, (subject.finding_class,), (FindingState.OPEN,), subject.database, key=wanted)
    cursor: str | None = None
    while True:
        page = search_findings(engine, query, cursor=cursor, limit=_PAGE, seconds=_LOOK_SECONDS)
        yield from (row.id for row in page.rows)
        cursor = page.next
        if cursor is None:
            return


@repeated
def put_aside(engine: Engine, run_id: str, ids: Sequence[int], rule: str) -> None:
    """Make exceptions of open findings, by this rule; their facts stay as they are."""
    with adding(engine) as connection:
        for start in range(0, len(ids), _PAGE):
            connection.execute(
                update(Finding)
                .where(
                    Finding.id.in_(ids[start : start + _PAGE]),
                    Finding.run_id == run_id,
                    Finding.state == FindingState.OPEN,
                )
                .values(
                    state=FindingState.EXCEPTION,
                    rule=rule,
                    detail=func.coalesce(Finding.detail, "").concat(f" (rule {rule})"),
                )
            )


@repeated
def count_put_aside(
    engine: Engine, run_id: str, *, since: datetime | None = None, besides: bytes | None = None
) -> Counter[int]:
    """How many findings of a run were put aside, by the waiver's number.

    :param since: only those seen to differ at this moment or later.
    :param besides: a key that is not counted.
    """
    query = (
        select(Finding.rule, func.count())
        .where(
            Finding.run_id == run_id,
            Finding.state == FindingState.EXCEPTION,
            Finding.rule.startswith(RULE, autoescape=True),
        )
        .group_by(Finding.rule)
    )
    if since is not None:
        query = query.where(Finding.last_seen_at >= since)
    if besides is not None:
        query = query.where(Finding.key_digest != xxh3_128_digest(besides))
    with reading(engine) as connection:
        return Counter(
            {int(str(rule).removeprefix(RULE)): int(number) for rule, number in connection.execute(query)}
        )
