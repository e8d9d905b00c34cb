"""review: tokens, waivers of findings, findings by key"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_STATES = "ix_finding_run_id"
_HEADS = "ix_finding_head"


def _moment(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _word(name: str, length: int = 32, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(length=length), nullable=nullable)


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "review_token",
        _word("id", 16),
        _word("name", 200),
        _word("role"),
        _word("secret_hash", 64),
        _moment("created_at"),
        _word("created_by", 200),
        _moment("expires_at"),
        _moment("revoked_at", nullable=True),
        _word("revoked_by", 200, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_review_token")),
    )
    op.create_table(
        "finding_waiver",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        _word("source", 500),
        _word("target", 500),
        _word("finding_class"),
        sa.Column("database", sa.Integer(), nullable=True),
        sa.Column("key", sa.LargeBinary(), nullable=True),
        sa.Column("pattern", sa.Text(), nullable=True),
        sa.Column("why", sa.Text(), nullable=False),
        _word("by", 200),
        _moment("at"),
        _moment("until"),
        _word("run_id"),
        _moment("withdrawn_at", nullable=True),
        _word("withdrawn_by", 200, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_finding_waiver")),
    )
    op.create_index(op.f("ix_finding_waiver_source"), "finding_waiver", ["source", "target"], unique=False)
    op.add_column("finding", sa.Column("key_head", sa.LargeBinary(64), nullable=True))
    op.execute('UPDATE finding SET key_head = substr("key", 1, 64)')
    # SQLite makes NULL of the beginning of nothing.
    finding = sa.table("finding", sa.column("key_head", sa.LargeBinary()))
    op.execute(finding.update().where(finding.c.key_head.is_(None)).values(key_head=b""))
    op.create_index(_HEADS, "finding", ["run_id", "key_head", "id"], unique=False)
    # With the id at its end, findings of one state and class come in order without being sorted.
    op.drop_index(op.f(_STATES), "finding")
    op.create_index(op.f(_STATES), "finding", ["run_id", "state", "finding_class", "id"], unique=False)


def downgrade() -> None:
    """Undo."""
    op.drop_index(op.f(_STATES), "finding")
    op.create_index(op.f(_STATES), "finding", ["run_id", "state", "finding_class"], unique=False)
    op.drop_index(_HEADS, "finding")
    op.drop_column("finding", "key_head")
    op.drop_table("finding_waiver")
    op.drop_table("review_token")
