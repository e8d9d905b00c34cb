"""Transactions on the ledger: who excludes whom, what is done again, and how errors are named.

On SQLite a write transaction excludes every other writer from its start (``BEGIN IMMEDIATE``).  On PostgreSQL
:func:`writing` does the same by an advisory lock, so that whatever is read in it is still so when it is committed, the
audit chain has one writer at a time, and two of them cannot deadlock; :func:`adding` takes no such lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import wraps
from random import uniform
from time import sleep
from typing import Any, Final, ParamSpec, TypeVar

from sqlalchemy import Connection, CursorResult, Engine, Executable, text
from sqlalchemy.exc import SQLAlchemyError

from integrity.address import mask_url
from integrity.errors import LedgerCollision, LedgerError, LedgerUnreachable
from integrity.ledger import postgres
from integrity.ledger.endurance import endurance_of

READ_ONLY: Final = "greenfly_read_only"
SINGLE_STATEMENTS: Final = "greenfly_single_statements"

_REPEATS: Final = 8
_PAUSE_SECONDS: Final = 0.1

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A read transaction: all that is read in it is of one moment."""
    if not postgres.is_postgres(engine):
        with guarded(engine), engine.connect().execution_options(**{READ_ONLY: True}) as connection:
            yield connection
        return
    options: Mapping[str, object] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with guarded(engine):
        connection, _ = enduring(engine, lambda: _begun(engine, text("SELECT 1"), options))
        with connection:
            yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A write transaction, committed at the end, that excludes other writers from its start."""
    with _transaction(engine, postgres.ALONE) as connection:
        yield connection


@contextmanager
def adding(engine: Engine) -> Iterator[Connection]:
    """A write transaction beside others, committed at the end.

    For rows of one run that rest on nothing that was read before, without an audit event: findings, measurements, the
    lease.  On SQLite no different from :func:`writing`.
    """
    with _transaction(engine, postgres.BESIDE) as connection:
        yield connection


@contextmanager
def _transaction(engine: Engine, beginning: Executable) -> Iterator[Connection]:
    with guarded(engine):
        if not postgres.is_postgres(engine):
            with engine.begin() as connection:
                yield connection
            return
        connection, mark = enduring(engine, lambda: _begun(engine, beginning, {}))
        with connection:
            yield connection
            _commit(engine, connection, str(mark))


def _begun(engine: Engine, beginning: Executable, options: Mapping[str, object]) -> tuple[Connection, object]:
    """A connection whose transaction has begun on the server too, and what its first statement gave last."""
    connection = engine.connect()
    try:
        connection = connection.execution_options(**options)
        return connection, connection.execute(beginning).one()[-1]
    except BaseException:
        connection.close()
        raise


def _commit(engine: Engine, connection: Connection, mark: str) -> None:
    """Commit; where the connection is lost meanwhile, ask the database whether it did.

    :param mark: the transaction's number.
    """
    try:
        connection.commit()
    except SQLAlchemyError as error:
        if not postgres.is_lost(error):
            raise
        endurance_of(engine).lost()
        if not enduring(engine, lambda: postgres.was_committed(engine, mark)):
            raise


def enduring(engine: Engine, attempt: Callable[[], T]) -> T:
    """What *attempt* gives, tried again while the database is away, within the engine's patience.

    *attempt* must be harmless to repeat.
    """
    endurance, pause = endurance_of(engine), _PAUSE_SECONDS
    while True:
        try:
            result = attempt()
        except SQLAlchemyError as error:
            if not postgres.is_lost(error):
                raise
            endurance.lost()
            if endurance.exhausted:
                raise
            sleep(uniform(0.5, 1.0) * pause)  # noqa: S311  (no secret)
            pause = min(1.0, pause * 2)
        else:
            endurance.found()
            return result


def repeated(transaction: Callable[P, T]) -> Callable[P, T]:
    """Have *transaction* done again where the database gave it up, or was lost before it was committed.

    It must be one transaction and change nothing else.
    """

    @wraps(transaction)
    def repeat(*args: P.args, **kwargs: P.kwargs) -> T:
        for count in range(_REPEATS):
            try:
                return transaction(*args, **kwargs)
            except LedgerCollision:
                # Two that met once meet again, unless one of them waits for longer.
                sleep(uniform(0, 0.01 * 2**count))  # noqa: S311  (no secret)
            except LedgerUnreachable as error:
                if error.lasting:
                    raise
        return transaction(*args, **kwargs)

    return repeat


@contextmanager
def guarded(engine: Engine) -> Iterator[None]:
    """Turn the database library's errors into :class:`LedgerError`."""
    try:
        yield
    except SQLAlchemyError as error:
        raise _named(engine, error) from error


def _named(engine: Engine, error: SQLAlchemyError) -> LedgerError:
    address = shown(engine)
    cause = getattr(error, "orig", None) or error
    lines = str(cause).strip().splitlines()
    why = mask_url(lines[0] if lines else type(cause).__name__)
    if not postgres.is_postgres(engine):
        return LedgerError(
            f"The ledger {address} failed ({why}).",
            "Check free disk space, rights, and that the database is reachable.",
        )
    if postgres.is_lost(error):
        endurance = endurance_of(engine)
        endurance.lost()
        return LedgerUnreachable(
            f"The ledger {address} cannot be reached ({why}).",
            "See to it that PostgreSQL runs and lets this machine in; then the same command goes on "
            "(--resume, where it has that). What was written to the servers is there.",
            lasting=endurance.exhausted,
        )
    if postgres.is_collision(error):
        return LedgerCollision(
            f"The ledger {address} gave up a transaction ({why}).", "Run the same command again."
        )
    if postgres.is_waiting_in_vain(error):
        return LedgerError(
            f"The ledger {address} is held by another process for more than {postgres.LOCK_SECONDS} s.",
            "Look in pg_stat_activity for a transaction that does not end.",
        )
    return LedgerError(
        f"The ledger {address} failed ({why}).",
        "Check free disk space, the user's rights, and that `greenfly db check` finds the schema as it should be.",
    )


def shown(engine: Engine) -> str:
    """The address of a ledger, for people: without any secret."""
    return mask_url(engine.url.render_as_string(hide_password=True))


class Statements:
    """Runs statements that are each a transaction of its own, over one connection that it keeps.  Not thread-safe.

    For what is written or asked after every batch: opening a connection and a transaction for it costs four times what
    the statement does.  Nothing is held between two statements.  One whose answer was lost is sent again, so it must be
    harmless to repeat.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None

    def execute(self, statement: Executable, values: Mapping[str, object] | None = None) -> CursorResult[Any]:
        """Run one statement.

        :raises LedgerError: it cannot be run.
        """
        with guarded(self._engine):
            return enduring(self._engine, lambda: self._attempt(statement, values))

    def close(self) -> None:
        """Give the connection back; it is opened again where needed."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with suppress(SQLAlchemyError):
                connection.close()

    def _attempt(self, statement: Executable, values: Mapping[str, object] | None) -> CursorResult[Any]:
        if self._connection is None:
            self._connection = self._engine.connect().execution_options(
                isolation_level="AUTOCOMMIT", **{SINGLE_STATEMENTS: True}
            )
        try:
            return self._connection.execute(statement, dict(values) if values is not None else None)
        except SQLAlchemyError:
            self.close()
            raise
