"""All findings of a run, many at a time and column by column: what the writers of whole tables read.

A million findings are too many for an object each, and one key can be megabytes long: a batch is bounded in rows and in
bytes, so that memory grows with neither the number of findings nor the length of their keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Final, Self

from sqlalchemy import Executable, String, func, select, type_coerce

from integrity.ledger import Ledger
from integrity.ledger.database import reading
from integrity.ledger.models import Finding, FindingClass
from reports.display import key_text
from reports.facts import masked_text

BATCH_ROWS: Final = 5_000
_BATCH_BYTES: Final = 16 * 1024 * 1024
"""Of keys and details together, unless a single finding has more."""


@dataclass(frozen=True)
class FindingBatch:
    """Findings as columns of one length; see :class:`reports.findings.FindingView` for what they mean."""

    finding_class: Sequence[str]
    state: Sequence[str]
    rule: Sequence[str | None]
    database: Sequence[int]
    key: Sequence[bytes]
    source_kind: Sequence[str | None]
    source_digest: Sequence[bytes | None]
    source_expiry_ms: Sequence[int | None]
    source_size: Sequence[int | None]
    target_kind: Sequence[str | None]
    target_digest: Sequence[bytes | None]
    target_expiry_ms: Sequence[int | None]
    target_size: Sequence[int | None]
    detail: Sequence[str]
    first_seen_at: Sequence[datetime]
    last_seen_at: Sequence[datetime]
    times_seen: Sequence[int]

    @classmethod
    def of(cls, rows: Sequence[Sequence[object]]) -> Self:
        """From the ledger's rows, secrets masked."""
        columns = list(zip(*rows, strict=True))
        for index in _MASKED:
            columns[index] = tuple(_masked(columns[index]))
        return cls(*columns)

    def __len__(self) -> int:
        return len(self.key)

    @cached_property
    def key_text(self) -> list[str]:
        """The keys' texts, from which the bytes can be had back."""
        return list(map(key_text, self.key))

    @cached_property
    def key_hex(self) -> list[str]:
        """The keys as hexadecimal digits."""
        return [key.hex() for key in self.key]

    @cached_property
    def digests(self) -> tuple[list[str | None], list[str | None]]:
        """The digests of source and target as hexadecimal digits."""
        return _hex(self.source_digest), _hex(self.target_digest)

    @cached_property
    def age_seconds(self) -> list[float]:
        """From when each was first seen to when it was last seen, or changed its state."""
        return [
            0.0 if last <= first else (last - first).total_seconds()
            for first, last in zip(self.first_seen_at, self.last_seen_at, strict=True)
        ]


# In the order of the fields of a batch; words as the ledger stores them.
_COLUMNS: Final = (
    type_coerce(Finding.finding_class, String),
    type_coerce(Finding.state, String),
    Finding.rule,
    Finding.database,
    Finding.key,
    Finding.source_kind,
    Finding.source_digest,
    Finding.source_expiry_ms,
    Finding.source_size,
    Finding.target_kind,
    Finding.target_digest,
    Finding.target_expiry_ms,
    Finding.target_size,
    Finding.detail,
    Finding.first_seen_at,
    Finding.last_seen_at,
    Finding.times_seen,
)
_MASKED: Final = (2, 5, 9, 13)
"""Of them those that may hold what somebody wrote."""


def finding_batches(
    ledger: Ledger, run_id: str, rows: int = BATCH_ROWS, only: FindingClass | None = None
) -> Iterator[FindingBatch]:
    """All findings of a run, or those of one class, in the order in which they were recorded.

    :param rows: the most of one batch.
    :raises LedgerError: the ledger cannot be read.
    """
    chosen = [Finding.run_id == run_id, *([Finding.finding_class == only] if only is not None else [])]
    sizes = select(Finding.id, func.length(Finding.key) + func.length(Finding.detail)).where(*chosen)
    found = select(*_COLUMNS).where(*chosen).order_by(Finding.id)
    after = 0
    while True:
        with reading(ledger.engine) as connection:
            page = sizes.where(Finding.id > after).order_by(Finding.id).limit(rows)
            weights = [(row[0], row[1]) for row in connection.execute(page)]
        if not weights:
            return
        for last in _cuts(weights):
            batch = _read(ledger, found.where(Finding.id > after, Finding.id <= last))
            after = last
            if batch:
                yield FindingBatch.of(batch)


def _read(ledger: Ledger, query: Executable) -> Sequence[Sequence[object]]:
    with reading(ledger.engine) as connection:
        return connection.execute(query).all()


def _cuts(weights: Sequence[tuple[int, int]]) -> Iterator[int]:
    """The last id of each batch."""
    total, previous = 0, None
    for number, size in weights:
        if previous is not None and total + size > _BATCH_BYTES:
            yield previous
            total = 0
        total += size
        previous = number
    if previous is not None:
        yield previous


def _masked(column: Sequence[object]) -> Iterator[str | None]:
    for value in column:
        yield masked_text(value) if isinstance(value, str) else None


def _hex(column: Sequence[bytes | None]) -> list[str | None]:
    return [None if digest is None else digest.hex() for digest in column]
