"""The ledger's tables for what was assessed, what each check came to, and what somebody let pass for a while."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, Index, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from integrity.assess.model import Outcome, Severity
from integrity.ledger.models import Base, RowId, RunId, stored_word
from integrity.ledger.stored import Line, Words
from integrity.strategy import Strategy


class Assessment(Base):
    """One assessment of two servers, by a run of its own or as a phase of a migrate or sync run."""

    __tablename__ = "assessment"
    __table_args__ = (Index(None, "source", "target"),)

    run_id: Mapped[RunId] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(Line(500))
    """Masked address without a user, as in ``waiver``: what holds for two servers holds whoever looks at them."""
    target: Mapped[str] = mapped_column(Line(500))
    strategy: Mapped[Strategy] = mapped_column(stored_word(Strategy))
    """The road that was assessed, or that ``auto`` chose."""
    mode: Mapped[str] = mapped_column(Line(20))
    """``sampled`` or ``full``."""
    at: Mapped[datetime]
    facts: Mapped[dict[str, object]]
    """Why this road, what was left out, the grade, the census; see ``docs/assess.md``."""


class AssessmentResult(Base):
    """What one check came to."""

    __tablename__ = "assessment_result"
    __table_args__ = (UniqueConstraint("run_id", "check_id"),)

    id: Mapped[RowId]
    run_id: Mapped[RunId]
    position: Mapped[int] = mapped_column(Integer)
    check_id: Mapped[str] = mapped_column(Line(80))
    title: Mapped[str] = mapped_column(Words)
    outcome: Mapped[Outcome] = mapped_column(stored_word(Outcome))
    severity: Mapped[Severity] = mapped_column(stored_word(Severity))
    summary: Mapped[str] = mapped_column(Words)
    evidence: Mapped[dict[str, object]]
    remedy: Mapped[str] = mapped_column(Words)
    items: Mapped[list[str]] = mapped_column(JSON)
    waivers: Mapped[list[int]] = mapped_column(JSON)
    """Ids of the waivers that let it pass at that time; empty where none did."""


class Waiver(Base):
    """What somebody let pass, for two servers, until a day.  Rows are never removed; withdrawing is recorded."""

    __tablename__ = "waiver"
    __table_args__ = (Index(None, "source", "target"),)

    id: Mapped[RowId]
    source: Mapped[str] = mapped_column(Line(500))
    target: Mapped[str] = mapped_column(Line(500))
    check_id: Mapped[str] = mapped_column(Line(80))
    outcome: Mapped[Outcome] = mapped_column(stored_word(Outcome))
    """``found`` or ``unknown``: letting one pass is not letting the other pass."""
    items: Mapped[list[str]] = mapped_column(JSON)
    """What it covers; empty where the finding is one thing."""
    why: Mapped[str] = mapped_column(Words)
    by: Mapped[str] = mapped_column(Line(200))
    at: Mapped[datetime]
    until: Mapped[datetime]
    run_id: Mapped[str] = mapped_column(String(32))
    """The assessment that it was given for."""
    withdrawn_at: Mapped[datetime | None]
    withdrawn_by: Mapped[str | None] = mapped_column(Line(200))
