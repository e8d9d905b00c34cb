"""The ledger's tables for who may look and decide, and for differences that somebody let pass for a while."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from integrity.ledger.models import Base, RowId, stored_word
from integrity.ledger.stored import Line, Words
from integrity.ledger.vocabulary import FindingClass


class Role(StrEnum):
    """What somebody may do on the review page; each may do what those before it may."""

    VIEWER = "viewer"
    """Look at everything but the values of keys."""
    REVIEWER = "reviewer"
    """Decide, let findings pass for a while, and see values."""
    OPERATOR = "operator"
    """Ask for a rollback."""

    def includes(self, other: Role) -> bool:
        """Whether this role may do what *other* may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


class ReviewToken(Base):
    """One token with which somebody signs in.  Rows are never removed; revoking is recorded."""

    __tablename__ = "review_token"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    """The part of the token that is no secret."""
    name: Mapped[str] = mapped_column(Line(200))
    """Whose it is: who has decided what is decided with it."""
    role: Mapped[Role] = mapped_column(stored_word(Role))
    secret_hash: Mapped[str] = mapped_column(String(64))
    """SHA-256 of the secret part, as hexadecimal digits."""
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(Line(200))
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    revoked_by: Mapped[str | None] = mapped_column(Line(200))


class FindingWaiver(Base):
    """Findings between two servers that somebody let pass, until a day.  Rows are never removed."""

    __tablename__ = "finding_waiver"
    __table_args__ = (Index(None, "source", "target"),)

    id: Mapped[RowId]
    source: Mapped[str] = mapped_column(Line(500))
    """Masked address, as the run has it."""
    target: Mapped[str] = mapped_column(Line(500))
    finding_class: Mapped[FindingClass] = mapped_column(stored_word(FindingClass))
    database: Mapped[int | None]
    """Null: in every database."""
    key: Mapped[bytes | None]
    """The one key; null where a pattern says which."""
    pattern: Mapped[str | None] = mapped_column(Words)
    """A pattern of keys, as in a run's rules."""
    why: Mapped[str] = mapped_column(Words)
    by: Mapped[str] = mapped_column(Line(200))
    at: Mapped[datetime]
    until: Mapped[datetime]
    run_id: Mapped[str] = mapped_column(String(32))
    """The run on whose findings it was given."""
    withdrawn_at: Mapped[datetime | None]
    withdrawn_by: Mapped[str | None] = mapped_column(Line(200))
    most_findings: Mapped[int | None]
    """It lets no finding of a run pass where it covers more; null in what earlier versions wrote."""
