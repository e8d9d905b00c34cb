"""Opening the ledger's database: engine, pragmas, schema version."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from integrity.address import mask_url
from integrity.errors import LedgerError
from integrity.settings import Settings

SCHEMA_HEAD: Final = "0004"
"""The newest Alembic revision; a test keeps it equal to the migration folder's."""

_READ_ONLY: Final = "greenfly_read_only"
_SINGLE_STATEMENTS: Final = "greenfly_single_statements"


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
        probe.unlink()
    except OSError as error:
        raise LedgerError(
            f"The state folder {path} cannot be written ({error.strerror}).",
            "Give a writable folder with --state-dir or GREENFLY_STATE_DIR.",
        ) from error


def open_engine(settings: Settings) -> Engine:
    """Open the ledger's database and bring its schema up to date.

    :raises LedgerError: folder not writable, database not reachable, or a schema newer than this version knows.
    """
    prepare_state_dir(settings.state_dir)
    url = ledger_url(settings)
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise LedgerError(
            "ledger_url is not an SQLAlchemy URL.",
            "Write sqlite:////path/to/ledger.sqlite3 or postgresql://user:password@host/database.",
        ) from None
    try:
        engine = create_engine(
            parsed, connect_args={"timeout": 30} if parsed.get_backend_name() == "sqlite" else {}
        )
    except (ImportError, SQLAlchemyError) as error:
        raise LedgerError(
            f"The ledger {mask_url(url)} cannot be opened ({type(error).__name__}).",
            "For PostgreSQL install greenfly[postgres].",
        ) from error
    if parsed.get_backend_name() == "sqlite":
        _prepare_sqlite(engine)
    with guarded(engine):
        _upgrade(engine)
    return engine


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
        if not options.get(_SINGLE_STATEMENTS, False):
            connection.exec_driver_sql("BEGIN" if options.get(_READ_ONLY, False) else "BEGIN IMMEDIATE")


def _upgrade(engine: Engine) -> None:
    with reading(engine) as connection:
        known = inspect(connection).has_table("alembic_version")
        version = (
            connection.execute(text("SELECT version_num FROM alembic_version")).scalar() if known else None
        )
    if version == SCHEMA_HEAD:
        return
    if version is not None and version > SCHEMA_HEAD:
        raise LedgerError(
            f"The ledger's schema is {version}, newer than {SCHEMA_HEAD}, which this version knows.",
            "Use the version of Greenfly that wrote it, or a newer one.",
        )
    from integrity.ledger.migrate import upgrade

    upgrade(engine)


@contextmanager
def guarded(engine: Engine) -> Iterator[None]:
    """Turn the database library's errors into :class:`LedgerError`."""
    try:
        yield
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise LedgerError(
            f"The ledger {engine.url.render_as_string(hide_password=True)} failed "
            f"({mask_url(str(cause).splitlines()[0])}).",
            "Check free disk space, rights, and that the database is reachable.",
        ) from error


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A read transaction."""
    with guarded(engine), engine.connect().execution_options(**{_READ_ONLY: True}) as connection:
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A write transaction, committed at the end; on SQLite it excludes other writers from its start."""
    with guarded(engine), engine.begin() as connection:
        yield connection


def single_statements(engine: Engine) -> Connection:
    """A connection on which each statement is a transaction of its own; the caller closes it.

    For the one statement that runs after every batch: opening a connection and a transaction for it costs four times
    what the statement does.  Nothing is held between two statements.
    """
    with guarded(engine):
        return engine.connect().execution_options(isolation_level="AUTOCOMMIT", **{_SINGLE_STATEMENTS: True})
