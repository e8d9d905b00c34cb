"""What is PostgreSQL's own about the ledger: how it is connected, what its errors mean, what it must be."""

from __future__ import annotations

from datetime import UTC, datetime
from time import monotonic, sleep
from typing import Final

from sqlalchemy import URL, Connection, Engine, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from integrity.address import mask_url
from integrity.errors import LedgerError

LOCK_SECONDS: Final = 30
"""How long a statement waits for another transaction, as on SQLite."""
_IDLE_SECONDS: Final = 15
"""How long a transaction that keeps others waiting may do nothing; its process has stopped or its network is gone."""
_OLDEST: Final = 13
"""The first version that tells whether a transaction was committed (``pg_xact_status``)."""
_CHAIN_LOCK: Final = 0x67726E66
"""Key of the advisory lock under which there is one writer at a time; locks are the database's own."""

ALONE: Final = text(
    f"SELECT set_config('idle_in_transaction_session_timeout', '{_IDLE_SECONDS}s', true), "
    f"pg_advisory_xact_lock({_CHAIN_LOCK}), CAST(pg_current_xact_id() AS text)"
)
"""Begins a transaction that excludes other writers; gives its number last."""
BESIDE: Final = text(
    f"SELECT set_config('idle_in_transaction_session_timeout', '{_IDLE_SECONDS}s', true), "
    "CAST(pg_current_xact_id() AS text)"
)
"""Begins one that does not."""
_STATUS: Final = text("SELECT pg_xact_status(CAST(:mark AS xid8))")

_LOST: Final = frozenset({"57P01", "57P02", "57P03", "25P03", "53300"})
"""Shut down, crashed, still starting, ended because it was idle, too many connections: all may be over soon."""
_COLLIDED: Final = frozenset({"40001", "40P01"})
_WAITED_IN_VAIN: Final = "55P03"
_CONNECT: Final = {
    "connect_timeout": "5",
    "application_name": "greenfly",
    "client_encoding": "UTF8",
    # A network that loses every packet shows within 15 s, not after hours.
    "keepalives_idle": "5",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}


def is_postgres(engine: Engine) -> bool:
    """Whether this ledger is on PostgreSQL."""
    return engine.dialect.name == "postgresql"


def connect_arguments(url: URL) -> dict[str, str]:
    """What a connection is opened with, beside what the URL says itself."""
    own = url.query.get("options", ())
    options = [own] if isinstance(own, str) else list(own)
    options += [f"-c lock_timeout={LOCK_SECONDS}s", "-c timezone=UTC"]
    given = {name: value for name, value in _CONNECT.items() if name not in url.query}
    return given | {"options": " ".join(options)}


def is_lost(error: SQLAlchemyError) -> bool:
    """Whether the connection is gone, or none could be made; never on SQLite."""
    if not isinstance(error, DBAPIError):
        return False
    state = _state(error)
    if state is not None:
        return state in _LOST or state.startswith("08") or error.connection_invalidated
    # No answer of the server has a state only where there was none.
    return error.connection_invalidated or (
        isinstance(error, OperationalError | InterfaceError) and _is_psycopg(error)
    )


def is_collision(error: SQLAlchemyError) -> bool:
    """Whether the database gave the transaction up for another one's sake."""
    return isinstance(error, DBAPIError) and _state(error) in _COLLIDED


def is_waiting_in_vain(error: SQLAlchemyError) -> bool:
    """Whether another transaction held a lock for longer than :data:`LOCK_SECONDS`."""
    return isinstance(error, DBAPIError) and _state(error) == _WAITED_IN_VAIN


def _state(error: DBAPIError) -> str | None:
    state = getattr(error.orig, "sqlstate", None)
    return state if isinstance(state, str) else None


def _is_psycopg(error: DBAPIError) -> bool:
    return type(error.orig).__module__.startswith("psycopg")


def was_committed(engine: Engine, mark: str) -> bool:
    """Whether the transaction of this number was committed; waits while the database still works at it."""
    until = monotonic() + _IDLE_SECONDS + 1
    while True:
        with engine.connect() as connection:
            status = connection.execute(_STATUS, {"mark": mark}).scalar_one()
        if status in {"committed", "aborted"}:
            return bool(status == "committed")
        if status is None or monotonic() > until:
            raise LedgerError(
                f"Whether the ledger {mask_url(engine.url.render_as_string())} committed transaction {mark} "
                "is not known.",
                "Run `greenfly db check`, and look at what the run recorded last.",
            )
        sleep(0.1)


def require_usable(connection: Connection, address: str, lease_seconds: float) -> None:
    """Refuse a PostgreSQL that cannot keep a ledger.

    :param lease_seconds: of the runs that this process will hold; leases rest on what clocks say.
    :raises LedgerError: too old, not in UTF-8, a standby, or another time of day than this machine's.
    """
    before = datetime.now(UTC)
    row = connection.execute(
        text(
            "SELECT CAST(current_setting('server_version_num') AS integer) AS version, "
            "current_setting('server_encoding') AS encoding, pg_is_in_recovery() AS standby, "
            "clock_timestamp() AS now"
        )
    ).one()
    after = datetime.now(UTC)
    if row.version < _OLDEST * 10_000:
        raise LedgerError(
            f"The ledger {address} is on PostgreSQL {row.version // 10_000}.",
            f"Greenfly needs {_OLDEST} or newer.",
        )
    if row.encoding != "UTF8":
        raise LedgerError(
            f"The ledger {address} is a database in {row.encoding}.",
            "Create one with ENCODING 'UTF8'.",
        )
    if row.standby:
        raise LedgerError(
            f"The ledger {address} is on a standby, which cannot be written.",
            "Name the primary, or add ?target_session_attrs=read-write to an URL with several hosts.",
        )
    off = max((before - row.now).total_seconds(), (row.now - after).total_seconds())
    if off > lease_seconds / 8:
        raise LedgerError(
            f"The clock of this machine and that of the ledger {address} differ by {off:.1f} s.",
            "Leases rest on them: have both set by NTP.",
        )
