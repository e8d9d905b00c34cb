"""control of a live run, and repair

Columns are added in place: rebuilding ``run`` on SQLite would drop it, and with it every row that belongs to a run.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "control",
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("keys_per_second", sa.BigInteger(), nullable=True),
        sa.Column("bytes_per_second", sa.BigInteger(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_by", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["run.id"], name=op.f("fk_control_run_id_run"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_control")),
    )
    op.create_table(
        "repair",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("finding_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("database", sa.Integer(), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("key_digest", sa.LargeBinary(length=16), nullable=False),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("before_source_digest", sa.LargeBinary(), nullable=True),
        sa.Column("before_target_digest", sa.LargeBinary(), nullable=True),
        sa.Column("after_source_digest", sa.LargeBinary(), nullable=True),
        sa.Column("after_target_digest", sa.LargeBinary(), nullable=True),
        sa.Column("before_detail", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["run.id"], name=op.f("fk_repair_run_id_run"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["finding_id"], ["finding.id"], name=op.f("fk_repair_finding_id_finding"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_repair")),
    )
    op.create_index("ix_repair_page", "repair", ["run_id", "id"], unique=False)
    op.add_column("run", sa.Column("parent_id", sa.String(length=32), nullable=True))
    op.add_column("finding", sa.Column("rule", sa.String(length=80), nullable=True))


def downgrade() -> None:
    """Undo."""
    op.drop_column("finding", "rule")
    op.drop_column("run", "parent_id")
    op.drop_index("ix_repair_page", table_name="repair")
    op.drop_table("repair")
    op.drop_table("control")
