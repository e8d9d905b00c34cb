"""The ledger's tables for ranges that several machines share; rows live as long as a phase works on them."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from sqlalchemy import BigInteger, ForeignKey, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from integrity.ledger.models import Base, Big, PhaseName, RowId, RunId, stored_word
from integrity.ledger.stored import Line


class RangeState(StrEnum):
    """Where one range is."""

    OPEN = "open"
    """Nobody works on it."""
    HELD = "held"
    """A worker does, and says so again and again (``beat``)."""
    DONE = "done"
    FAILED = "failed"
    """A worker gave up for a reason that ends the phase; ``error`` tells it."""


class RangeSet(Base):
    """The ranges of one phase, as the owner of the run shares them out."""

    __tablename__ = "range_set"
    __table_args__ = (UniqueConstraint("run_id", "phase"),)

    id: Mapped[RowId]
    run_id: Mapped[RunId]
    phase: Mapped[PhaseName]
    owner: Mapped[str] = mapped_column(Line(300))
    """Of the run's lease; under another one nobody may work on these ranges any longer."""
    open: Mapped[bool]
    """Whether they are still to be worked on."""
    context: Mapped[dict[str, object]]
    """What every worker has to know and no worker may decide; never a secret."""
    created_at: Mapped[datetime]


_SetId = Annotated[
    int,
    mapped_column(
        BigInteger().with_variant(Integer(), "sqlite"), ForeignKey("range_set.id", ondelete="CASCADE")
    ),
]


class RangeLease(Base):
    """One range, and who works on it."""

    __tablename__ = "range_lease"
    __table_args__ = (UniqueConstraint("set_id", "number"),)

    id: Mapped[RowId]
    set_id: Mapped[_SetId]
    number: Mapped[int]
    kind: Mapped[str] = mapped_column(String(16))
    """``copy``, ``compare`` or ``extra``."""
    database: Mapped[int]
    range_index: Mapped[int]
    range_count: Mapped[int]
    style: Mapped[str] = mapped_column(String(16))
    """How the keyspace is cut: ``whole``, ``bits``, ``shards``, ``slots`` or ``nodes``."""
    state: Mapped[RangeState] = mapped_column(stored_word(RangeState))
    attempt: Mapped[int]
    """Counts the workers that have held it; what an earlier one writes is void."""
    beat: Mapped[Big]
    """Counts the signs of life of the one that holds it."""
    worker: Mapped[str | None] = mapped_column(Line(300))
    keys: Mapped[Big]
    """Done in this attempt."""
    bytes: Mapped[Big]
    part: Mapped[dict[str, object] | None]
    """What it has come to as of its last checkpoint, those of earlier attempts included where they count."""
    error: Mapped[dict[str, object] | None]
