"""Alembic, driven from code: the migrations travel inside the package."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

from integrity.ledger.transactions import writing


def alembic_config() -> Config:
    """The configuration that names the migration folder."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def known_revisions() -> list[str]:
    """Every revision that this version can migrate from and to, the oldest first."""
    scripts = ScriptDirectory.from_config(alembic_config())
    return [script.revision for script in scripts.walk_revisions()][::-1]


def migrate_on(connection: Connection, revision: str) -> None:
    """Bring the schema to *revision* in the caller's transaction, which excludes other writers."""
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the schema to *revision*, whoever uses it."""
    with writing(engine) as connection:
        migrate_on(connection, revision)


def migrate_back_on(connection: Connection, revision: str) -> None:
    """Take the schema back to *revision* in the caller's transaction, whatever is lost by it."""
    config = alembic_config()
    config.attributes["connection"] = connection
    command.downgrade(config, revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Take the schema back to *revision*, whoever uses it, and whatever is lost by it."""
    with writing(engine) as connection:
        migrate_back_on(connection, revision)
