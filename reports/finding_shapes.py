"""Where findings are: by type, and by how their keys begin.

Both are counted by the database.  A beginning is what stands before a ``:``; one that holds many findings is looked
into, down to three parts, so that a few rows tell where to look whatever the keys are called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import ColumnElement, LargeBinary, case, func, literal, select

from integrity.ledger import Ledger
from integrity.ledger.database import reading
from integrity.ledger.models import Finding, FindingState
from reports.display import key_text
from reports.facts import masked_text

ROWS: Final = 12
"""Types, and beginnings of keys, that are told one by one; the rest is told together."""
_DEEPEST: Final = 3
_MUCH: Final = 0.3
"""A beginning with this share of all findings is looked into …"""
_TELLING: Final = 0.15
"""… and shown part by part if the largest part has this share of it."""
_COUNTED: Final = (FindingState.OPEN, FindingState.EXCEPTION)


@dataclass(frozen=True, slots=True)
class ShapeRow:
    """Findings that have something in common."""

    name: str
    """The type; or how the keys begin, as text that leads back to the bytes."""
    open: int
    exceptions: int

    @property
    def total(self) -> int:
        """Of both states."""
        return self.open + self.exceptions


@dataclass(frozen=True, slots=True)
class FindingShapes:
    """Open and expected findings; those that a later look or a repair settled are not counted."""

    by_type: tuple[ShapeRow, ...]
    by_prefix: tuple[ShapeRow, ...]
    """``user:`` holds every key that begins so and is not in another row; an empty name, keys without a part."""
    other_types: int
    other_prefixes: int
    """Findings whose types, or beginnings, are not told one by one."""


@dataclass(frozen=True, slots=True)
class _Part:
    begin: bytes
    open: int
    exceptions: int
    depth: int
    leaf: bool = False
    """Whether there is nothing to look into."""

    @property
    def total(self) -> int:
        return self.open + self.exceptions


def build_shapes(ledger: Ledger, run_id: str) -> FindingShapes | None:
    """None where the run has no finding that counts.

    :raises LedgerError: the ledger cannot be read.
    """
    types = _by_type(ledger, run_id)
    total = sum(row.total for row in types)
    if not total:
        return None
    parts = _parts(ledger, run_id, b"", 0)
    while (next_ := _worth_a_look(parts, total)) is not None:
        inner = [
            part for part in _parts(ledger, run_id, next_.begin, next_.depth) if part.begin != next_.begin
        ]
        whole = next_.total
        if inner and max(part.total for part in inner) >= _TELLING * whole:
            rest = _Part(
                next_.begin,
                next_.open - sum(part.open for part in inner),
                next_.exceptions - sum(part.exceptions for part in inner),
                next_.depth,
                leaf=True,
            )
            parts = [part for part in parts if part is not next_]
            parts += [part for part in (*inner, rest) if part.total > 0]
        else:
            parts = [replace(part, leaf=True) if part is next_ else part for part in parts]
    shown = sorted(parts, key=lambda part: (-part.total, part.begin))[:ROWS]
    return FindingShapes(
        tuple(types[:ROWS]),
        tuple(ShapeRow(key_text(part.begin), part.open, part.exceptions) for part in shown),
        sum(row.total for row in types[ROWS:]),
        max(0, total - sum(part.total for part in shown)),
    )


def _by_type(ledger: Ledger, run_id: str) -> list[ShapeRow]:
    query = (
        select(Finding.source_kind, Finding.target_kind, Finding.state, func.count())
        .where(Finding.run_id == run_id, Finding.state.in_(_COUNTED))
        .group_by(Finding.source_kind, Finding.target_kind, Finding.state)
    )
    opened: Counter[str] = Counter()
    excepted: Counter[str] = Counter()
    with reading(ledger.engine) as connection:
        for source, target, state, number in connection.execute(query):
            both = source is not None and target is not None and source != target
            kind = f"{source} and {target}" if both else source or target or "not known"
            (opened if state is FindingState.OPEN else excepted)[masked_text(kind)] += number
    rows = [ShapeRow(name, opened[name], excepted[name]) for name in opened | excepted]
    return sorted(rows, key=lambda row: (-row.total, row.name))


def _worth_a_look(parts: Sequence[_Part], total: int) -> _Part | None:
    candidates = [
        part for part in parts if not part.leaf and part.depth < _DEEPEST and part.total >= _MUCH * total
    ]
    return max(candidates, key=lambda part: part.total, default=None)


def _parts(ledger: Ledger, run_id: str, begin: bytes, depth: int) -> list[_Part]:
    """The parts that come after *begin*, those with most findings first; ``begin`` itself where no other ends."""
    length = len(begin)
    with reading(ledger.engine) as connection:
        behind: ColumnElement[bytes] = func.substr(Finding.key_head, length + 1, type_=LargeBinary)
        at = (
            func.position(literal(b":").op("IN")(behind))
            if connection.dialect.name == "postgresql"
            else func.instr(behind, literal(b":"))
        )
        part = case((at > 0, func.substr(Finding.key_head, 1, length + at)), else_=literal(begin))
        opened = func.sum(case((Finding.state == FindingState.OPEN, 1), else_=0))
        number = func.count()
        query = (
            select(part.label("part"), opened, number)
            .where(Finding.run_id == run_id, Finding.state.in_(_COUNTED))
            .group_by("part")
            .order_by(number.desc())
            .limit(ROWS)
        )
        if begin:
            query = query.where(Finding.key_head >= begin, Finding.key_head < begin + b"\xff" * 64)
        rows = [(bytes(row[0] or b""), int(row[1]), int(row[2])) for row in connection.execute(query)]
    return [
        _Part(found, counted, every - counted, depth + 1, leaf=found == begin or not found.endswith(b":"))
        for found, counted, every in rows
    ]
