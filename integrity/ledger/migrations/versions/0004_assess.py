"""assessments, what their checks came to, waivers"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TABLES = ("waiver", "assessment_result", "assessment")


def _row_id() -> sa.Column[int]:
    return sa.Column(
        "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
    )


def _of_run(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["run_id"], ["run.id"], name=op.f(f"fk_{table}_run_id_run"), ondelete="CASCADE"
    )


def _word(name: str, length: int = 32, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(length=length), nullable=nullable)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)


def _json(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.JSON(), nullable=False)


def _moment(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "assessment",
        _word("run_id"),
        _word("source", 500),
        _word("target", 500),
        _word("strategy"),
        _word("mode", 20),
        _moment("at"),
        _json("facts"),
        _of_run("assessment"),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_assessment")),
    )
    op.create_index(op.f("ix_assessment_source"), "assessment", ["source", "target"], unique=False)
    op.create_table(
        "assessment_result",
        _row_id(),
        _word("run_id"),
        sa.Column("position", sa.Integer(), nullable=False),
        _word("check_id", 80),
        _text("title"),
        _word("outcome"),
        _word("severity"),
        _text("summary"),
        _json("evidence"),
        _text("remedy"),
        _json("items"),
        _json("waivers"),
        _of_run("assessment_result"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_assessment_result")),
        sa.UniqueConstraint("run_id", "check_id", name=op.f("uq_assessment_result_run_id")),
    )
    op.create_table(
        "waiver",
        _row_id(),
        _word("source", 500),
        _word("target", 500),
        _word("check_id", 80),
        _word("outcome"),
        _json("items"),
        _text("why"),
        _word("by", 200),
        _moment("at"),
        _moment("until"),
        _word("run_id"),
        _moment("withdrawn_at", nullable=True),
        _word("withdrawn_by", 200, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_waiver")),
    )
    op.create_index(op.f("ix_waiver_source"), "waiver", ["source", "target"], unique=False)


def downgrade() -> None:
    """Undo."""
    for table in _TABLES:
        op.drop_table(table)
