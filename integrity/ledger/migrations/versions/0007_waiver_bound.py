"""how many findings a waiver may cover"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("finding_waiver", sa.Column("most_findings", sa.Integer(), nullable=True))


def downgrade() -> None:
    """Undo."""
    op.drop_column("finding_waiver", "most_findings")
