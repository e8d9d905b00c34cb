"""following, steps of a cutover, approvals, samples"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TABLES = ("sample", "approval", "step", "sync")


def _row_id() -> sa.Column[int]:
    return sa.Column(
        "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
    )


def _of_run(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["run_id"], ["run.id"], name=op.f(f"fk_{table}_run_id_run"), ondelete="CASCADE"
    )


def _moment(name: str, *, nullable: bool) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "sync",
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("direction", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("feed", sa.String(length=20), nullable=False),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False)
            for name in ("dirty", "unproven", "stuck", "lag_ms", "backlog_bytes")
        ),
        sa.Column("gap", sa.Text(), nullable=True),
        _moment("clean_since", nullable=True),
        sa.Column("carried", sa.BigInteger(), nullable=False),
        sa.Column("removed", sa.BigInteger(), nullable=False),
        _moment("updated_at", nullable=False),
        sa.Column("asked_id", sa.Integer(), nullable=False),
        sa.Column("asked", sa.String(length=32), nullable=True),
        _moment("asked_until", nullable=True),
        sa.Column("answered_id", sa.Integer(), nullable=False),
        sa.Column("answer", sa.JSON(), nullable=True),
        _of_run("sync"),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_sync")),
    )
    op.create_table(
        "step",
        _row_id(),
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("budget_ms", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        _moment("started_at", nullable=True),
        _moment("ended_at", nullable=True),
        sa.Column("detail", sa.JSON(), nullable=False),
        _of_run("step"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_step")),
        sa.UniqueConstraint("run_id", "name", name=op.f("uq_step_run_id")),
    )
    op.create_table(
        "approval",
        _row_id(),
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("gate", sa.String(length=40), nullable=False),
        sa.Column("decision", sa.String(length=32), nullable=False),
        sa.Column("by", sa.String(length=200), nullable=False),
        _moment("at", nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        _of_run("approval"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_approval")),
    )
    op.create_index(op.f("ix_approval_run_id"), "approval", ["run_id", "gate"], unique=False)
    op.create_table(
        "sample",
        _row_id(),
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("side", sa.String(length=20), nullable=False),
        _moment("at", nullable=False),
        sa.Column("numbers", sa.JSON(), nullable=False),
        _of_run("sample"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sample")),
    )
    op.create_index(op.f("ix_sample_run_id"), "sample", ["run_id", "side", "id"], unique=False)


def downgrade() -> None:
    """Undo."""
    for table in _TABLES:
        op.drop_table(table)
