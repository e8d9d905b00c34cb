"""The schema of a ledger: made where there is none, brought up to date with care, checked, taken back."""

from __future__ import annotations

from datetime import UTC, datetime
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Engine, inspect, select, text

from integrity.errors import LedgerError, Refused
from integrity.ledger.database import SCHEMA_HEAD
from integrity.ledger.models import Run, RunState
from integrity.ledger.postgres import is_postgres
from integrity.ledger.transactions import reading, shown, writing

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOOK_SECONDS: Final = 0.5


def version_of(connection: Connection) -> str | None:
    """The schema's revision; None where there is no schema."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def prepare(engine: Engine) -> None:
    """Make the schema of an empty database; on SQLite, bring an older one up to date.

    A database that many share is upgraded when somebody says so: every older version is shut out from then on.

    :raises LedgerError: it is newer than this version knows, or has to be upgraded first.
    """
    with reading(engine) as connection:
        version = version_of(connection)
    if version == SCHEMA_HEAD:
        return
    if version is not None:
        require_not_newer(engine, version)
        if is_postgres(engine):
            raise LedgerError(
                f"The schema of the ledger {shown(engine)} is {version}, and this version needs {SCHEMA_HEAD}.",
                "Run `greenfly db upgrade` when no run is under way; every older Greenfly is shut out by it.",
            )
    bring_up(engine)


def bring_up(engine: Engine) -> str | None:
    """Bring the schema up to date while nobody else writes; the revision that was there before.

    :raises LedgerError: it is newer than this version knows.
    :raises Refused: a run is under way.
    """
    from integrity.ledger.migrate import migrate_on

    with writing(engine) as connection:
        # Asked anew: whoever came first may have done it.
        version = version_of(connection)
        if version == SCHEMA_HEAD:
            return version
        if version is not None:
            require_not_newer(engine, version)
            require_quiet(connection)
        migrate_on(connection, SCHEMA_HEAD)
    return version


def require_known(connection: Connection, engine: Engine) -> None:
    """Refuse to begin a run where the schema was changed since this process opened the ledger.

    :raises LedgerError: it was.
    """
    version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if version != SCHEMA_HEAD:
        raise LedgerError(
            f"The schema of the ledger {shown(engine)} is {version} by now, and this process knows {SCHEMA_HEAD}.",
            "Start it again, with the version of Greenfly that the others use.",
        )


def require_not_newer(engine: Engine, version: str) -> None:
    """Refuse a schema of which this version knows nothing.

    :raises LedgerError: it is one.
    """
    from integrity.ledger.migrate import known_revisions

    if version not in known_revisions():
        raise LedgerError(
            f"The schema of the ledger {shown(engine)} is {version}, newer than {SCHEMA_HEAD}, which this version "
            "knows.",
            "Use the version of Greenfly that wrote it, or a newer one.",
        )


def require_quiet(connection: Connection) -> None:
    """Refuse to change the schema under a run that is under way.

    :raises Refused: its process still renews its lease.
    """
    live = live_runs(connection)
    if live:
        raise Refused(
            f"The schema cannot be changed: {', '.join(live)} {'is' if len(live) == 1 else 'are'} under way.",
            "Wait until they have ended, or stop them; `greenfly db upgrade --wait SECONDS` waits.",
        )


def live_runs(connection: Connection) -> Sequence[str]:
    """Ids of the runs whose processes renew their leases; these columns are in every schema."""
    query = select(Run.id).where(Run.state == RunState.RUNNING, Run.lease_until >= datetime.now(UTC))
    return list(connection.scalars(query.order_by(Run.id)))


def bring_up_when_quiet(engine: Engine, seconds: float) -> str | None:
    """The same as :func:`bring_up`, waiting so long for runs that are under way.

    :raises LedgerError: the schema is newer than this version knows.
    :raises Refused: a run is still under way.
    """
    until = monotonic() + seconds
    while True:
        try:
            return bring_up(engine)
        except Refused:
            left = until - monotonic()
            if left <= 0:
                raise
            sleep(min(left, _LOOK_SECONDS))
