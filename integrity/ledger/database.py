"""Opening the ledger's database: address, engine, pragmas."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from integrity.address import mask_url
from integrity.errors import LedgerError
from integrity.ledger import postgres
from integrity.ledger.endurance import endurance_of
from integrity.ledger.stored import json_text
from integrity.ledger.transactions import (
    READ_ONLY,
    SINGLE_STATEMENTS,
    Statements,
    adding,
    guarded,
    reading,
    repeated,
    shown,
    writing,
)
from integrity.settings import Settings

__all__ = [
    "SCHEMA_HEAD",
    "Statements",
    "adding",
    "connect",
    "guarded",
    "ledger_url",
    "open_engine",
    "prepare_state_dir",
    "reading",
    "repeated",
    "shown",
    "writing",
]

SCHEMA_HEAD: Final = "0007"
"""The newest Alembic revision; a test keeps it equal to the migration folder's."""

_DRIVERS: Final = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}


def ledger_url(settings: Settings) -> str:
    """The SQLAlchemy URL in force."""
    if settings.ledger_url is not None:
        return settings.ledger_url.get_secret_value()
    return f"sqlite:///{settings.state_dir / 'ledger.sqlite3'}"


def prepare_state_dir(path: Path) -> None:
    """Create the state folder, readable by its owner only, and try to write in it.

    :raises LedgerError: it cannot be created or written.
    """
    probe = path / ".write-probe"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)  # another process may try at the same moment
    except OSError as error:
        raise LedgerError(
            f"The state folder {path} cannot be written ({error.strerror}).",
            "Give a writable folder with --state-dir or GREENFLY_STATE_DIR.",
        ) from error


def open_engine(settings: Settings) -> Engine:
    """Open the ledger's database; make its schema where there is none, and on SQLite bring it up to date.

    :raises LedgerError: folder not writable, database not reachable, a schema newer than this version knows, or one
        that has to be upgraded first.
    """
    from integrity.ledger.schema import prepare

    engine = connect(settings)
    try:
        prepare(engine)
    except BaseException:
        engine.dispose()
        raise
    endurance_of(engine).seconds = settings.reconnect_seconds
    return engine


def connect(settings: Settings) -> Engine:
    """Open the ledger's database, whatever schema it has.

    :raises LedgerError: folder not writable, database not reachable, or not fit for a ledger.
    """
    prepare_state_dir(settings.state_dir)
    parsed = _parsed(ledger_url(settings))
    address = mask_url(parsed.render_as_string())
    try:
        engine = create_engine(parsed, json_serializer=json_text, **_arguments(parsed))
    except (ImportError, SQLAlchemyError) as error:
        raise LedgerError(
            f"The ledger {address} cannot be opened ({type(error).__name__}).",
            "For PostgreSQL install greenfly[postgres].",
        ) from error
    if not postgres.is_postgres(engine):
        _prepare_sqlite(engine)
        return engine
    try:
        with reading(engine) as connection:
            postgres.require_usable(connection, address, settings.lease_seconds)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise LedgerError(
            "ledger_url is not an SQLAlchemy URL.",
            "Write sqlite:////path/to/ledger.sqlite3 or postgresql://user:password@host/database.",
        ) from None
    driver = _DRIVERS.get(parsed.drivername)
    if driver is None:
        raise LedgerError(
            f"The ledger cannot be kept in {parsed.drivername}.",
            "Use SQLite (sqlite:////path) or PostgreSQL (postgresql://user:password@host/database).",
        )
    return parsed.set(drivername=driver)


def _arguments(url: URL) -> dict[str, object]:
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": 30}}
    return {"connect_args": postgres.connect_arguments(url), "isolation_level": "READ COMMITTED"}


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _on_connect(connection: object, _record: object) -> None:
        # The driver's own transaction handling is switched off; BEGIN is ours, below.
        connection.isolation_level = None  # type: ignore[attr-defined]
        cursor = connection.cursor()  # type: ignore[attr-defined]
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=30000"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if not options.get(SINGLE_STATEMENTS, False):
            connection.exec_driver_sql("BEGIN" if options.get(READ_ONLY, False) else "BEGIN IMMEDIATE")
