"""Numbers over time: health of a side, lag of a sync, what a client saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Engine, insert, select

from integrity.ledger.database import adding, reading, repeated
from integrity.ledger.live_models import Sample


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """What was measured at one moment."""

    side: str
    at: datetime
    numbers: Mapping[str, object]


@repeated
def add_samples(engine: Engine, run_id: str, samples: Sequence[SampleRecord]) -> None:
    """Record samples, in one transaction."""
    if samples:
        with adding(engine) as connection:
            connection.execute(
                insert(Sample),
                [{"run_id": run_id, "side": s.side, "at": s.at, "numbers": dict(s.numbers)} for s in samples],
            )


def add_sample(engine: Engine, run_id: str, side: str, numbers: Mapping[str, object]) -> None:
    """Record numbers as of now."""
    add_samples(engine, run_id, [SampleRecord(side, datetime.now(UTC), numbers)])


@repeated
def read_samples(engine: Engine, run_id: str, side: str | None = None) -> list[SampleRecord]:
    """Oldest first."""
    query = select(Sample.side, Sample.at, Sample.numbers).where(Sample.run_id == run_id)
    if side is not None:
        query = query.where(Sample.side == side)
    with reading(engine) as connection:
        return [SampleRecord(**row._mapping) for row in connection.execute(query.order_by(Sample.id))]
