"""Taking a ledger's schema back to an older revision, and what would be lost by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, Engine, column, create_engine, func, inspect, select, table
from sqlalchemy.pool import StaticPool

from integrity.errors import ConfigurationError, Refused
from integrity.ledger.migrate import known_revisions, migrate_back_on, migrate_on
from integrity.ledger.schema import require_not_newer, require_quiet, version_of
from integrity.ledger.transactions import shown, writing

_DERIVED: Final = frozenset({"finding.key_head"})
"""Columns that a migration fills from others: what they hold is not lost with them."""


def take_back(engine: Engine, revision: str, *, lose_rows: bool = False) -> str:
    """Take the schema back while nobody else writes; the revision that was there before.

    :param lose_rows: also where rows, or columns that hold something, are lost by it.
    :raises ConfigurationError: there is no such revision, or it is not an older one.
    :raises LedgerError: the schema is newer than this version knows.
    :raises Refused: a run is under way, or something would be lost.
    """
    known = known_revisions()
    if revision not in known:
        raise ConfigurationError(
            f"There is no schema {revision!r}.", f"This version knows {', '.join(known)}."
        )
    with writing(engine) as connection:
        version = version_of(connection)
        if version is not None:
            require_not_newer(engine, version)
        if version is None or known.index(version) < known.index(revision):
            raise ConfigurationError(
                f"The schema of the ledger {shown(engine)} is {version or 'not there'}, and not newer than "
                f"{revision}.",
                "Run `greenfly db upgrade`.",
            )
        require_quiet(connection)
        lost = losses(connection, revision)
        if lost and not lose_rows:
            raise Refused(
                f"Schema {revision} knows nothing of what is in {', '.join(lost)}.",
                "Keep a copy of the database (pg_dump, or SQLite's .backup), and say --lose-rows.",
            )
        migrate_back_on(connection, revision)
    return version


def losses(connection: Connection, revision: str) -> Sequence[str]:
    """What holds something that *revision* has no place for: ``table (rows)`` or ``table.column (rows)``."""
    then = _tables_of(revision)
    now = inspect(connection)
    found = []
    for name in sorted(set(now.get_table_names()) - {"alembic_version"}):
        columns = {each["name"] for each in now.get_columns(name)}
        if name not in then:
            found.append((name, _count(connection, name)))
            continue
        found += [
            (f"{name}.{added}", _count(connection, name, added))
            for added in sorted(columns - then[name])
            if f"{name}.{added}" not in _DERIVED
        ]
    return [f"{name} ({number} rows)" for name, number in found if number]


def _count(connection: Connection, name: str, filled: str | None = None) -> int:
    query = select(func.count()).select_from(table(name))
    if filled is not None:
        query = query.where(column(filled).is_not(None))
    return int(connection.execute(query).scalar_one())


def _tables_of(revision: str) -> dict[str, set[str]]:
    """Tables and columns of a revision, asked of a database that is made for that."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    try:
        with engine.begin() as connection:
            migrate_on(connection, revision)
            seen = inspect(connection)
            return {
                name: {each["name"] for each in seen.get_columns(name)} for name in seen.get_table_names()
            }
    finally:
        engine.dispose()
