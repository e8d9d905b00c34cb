"""The ledger's tables for what happens live: following, the steps of a cutover, approvals, samples over time."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, Integer, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from integrity.ledger.models import Base, Big, RowId, RunId, stored_word
from integrity.ledger.stored import Line, Words
from integrity.ledger.vocabulary import Ask, Decision, Direction, StepState, SyncState


class Sync(Base):
    """How a sync run is doing, renewed several times a second; and what a cutover or rollback asks of it.

    Whoever wants something counts :attr:`asked_id` up; the sync process answers under the same number.
    """

    __tablename__ = "sync"

    run_id: Mapped[RunId] = mapped_column(primary_key=True)
    direction: Mapped[Direction] = mapped_column(stored_word(Direction))
    state: Mapped[SyncState] = mapped_column(stored_word(SyncState))
    feed: Mapped[str] = mapped_column(Line(20))
    """``tracking``, ``monitor`` or ``rounds``."""
    dirty: Mapped[Big]
    """Keys that changed and are not carried over yet."""
    unproven: Mapped[Big]
    """Keys that were carried over and not compared since."""
    stuck: Mapped[Big]
    """Keys that cannot be made equal; each is a finding."""
    lag_ms: Mapped[Big]
    """Age of the oldest change that is not carried over."""
    backlog_bytes: Mapped[Big]
    """What waits on the followed server for the feed's reader."""
    gap: Mapped[str | None] = mapped_column(Words)
    """Why changes may have gone unseen since the last clean pass; null where none can have."""
    clean_since: Mapped[datetime | None]
    """When the newest pass began that left nothing unequal; null where there is none, or a gap since."""
    carried: Mapped[Big]
    """Keys written to the other side since the direction was taken."""
    removed: Mapped[Big]
    """Keys deleted there since then."""
    updated_at: Mapped[datetime]
    asked_id: Mapped[int] = mapped_column(Integer)
    asked: Mapped[Ask | None] = mapped_column(stored_word(Ask))
    asked_until: Mapped[datetime | None]
    """After this, nobody waits for the answer any more."""
    answered_id: Mapped[int] = mapped_column(Integer)
    answer: Mapped[dict[str, object] | None]


class Step(Base):
    """One step of a cutover or rollback; recorded before it begins and after it has ended."""

    __tablename__ = "step"
    __table_args__ = (UniqueConstraint("run_id", "name"),)

    id: Mapped[RowId]
    run_id: Mapped[RunId]
    position: Mapped[int] = mapped_column(Integer)
    name: Mapped[str] = mapped_column(Line(40))
    state: Mapped[StepState] = mapped_column(stored_word(StepState))
    budget_ms: Mapped[Big]
    attempts: Mapped[int] = mapped_column(Integer)
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    detail: Mapped[dict[str, object]]


class Approval(Base):
    """What somebody decided about a gate of a run."""

    __tablename__ = "approval"
    __table_args__ = (Index(None, "run_id", "gate"),)

    id: Mapped[RowId]
    run_id: Mapped[RunId]
    gate: Mapped[str] = mapped_column(Line(40))
    decision: Mapped[Decision] = mapped_column(stored_word(Decision))
    by: Mapped[str] = mapped_column(Line(200))
    at: Mapped[datetime]
    comment: Mapped[str] = mapped_column(Words)


class Sample(Base):
    """Numbers about one side at one moment: health while green is guarded, lag, what a client saw."""

    __tablename__ = "sample"
    __table_args__ = (Index(None, "run_id", "side", "id"),)

    id: Mapped[RowId]
    run_id: Mapped[RunId]
    side: Mapped[str] = mapped_column(Line(20))
    """``blue``, ``green``, ``sync`` or ``client``."""
    at: Mapped[datetime]
    numbers: Mapped[dict[str, object]]
