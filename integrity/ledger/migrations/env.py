"""Alembic environment: always runs on the connection that :mod:`integrity.ledger.migrate` hands over."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from integrity.ledger.tables import METADATA

connection = context.config.attributes.get("connection")
if not isinstance(connection, Connection):
    raise TypeError("run migrations through integrity.ledger.migrate")
context.configure(connection=connection, target_metadata=METADATA, render_as_batch=True, compare_type=True)
with context.begin_transaction():
    context.run_migrations()
