"""ranges that workers on several machines share"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def _id() -> sa.Column[int]:
    return sa.Column(
        "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
    )


def _word(name: str, length: int = 32, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(length=length), nullable=nullable)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=False)


def _big(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "range_set",
        _id(),
        _word("run_id"),
        _word("phase"),
        _word("owner", 300),
        sa.Column("open", sa.Boolean(), nullable=False),
        sa.Column("context", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["run.id"], name=op.f("fk_range_set_run_id_run"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_range_set")),
        sa.UniqueConstraint("run_id", "phase", name=op.f("uq_range_set_run_id")),
    )
    op.create_table(
        "range_lease",
        _id(),
        sa.Column("set_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        _number("number"),
        _word("kind", 16),
        _number("database"),
        _number("range_index"),
        _number("range_count"),
        _word("style", 16),
        _word("state"),
        _number("attempt"),
        _big("beat"),
        _word("worker", 300, nullable=True),
        _big("keys"),
        _big("bytes"),
        sa.Column("part", sa.JSON(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(
            ["set_id"], ["range_set.id"], name=op.f("fk_range_lease_set_id_range_set"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_range_lease")),
        sa.UniqueConstraint("set_id", "number", name=op.f("uq_range_lease_set_id")),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("range_lease")
    op.drop_table("range_set")
