"""Opening a ledger as it is: for those who read and decide, and leave its schema to whoever runs migrations."""

from __future__ import annotations

from integrity.errors import LedgerError
from integrity.ledger.database import SCHEMA_HEAD, connect
from integrity.ledger.schema import require_not_newer, version_of
from integrity.ledger.store import Ledger
from integrity.ledger.transactions import reading, shown
from integrity.settings import Settings


def open_as_it_is(settings: Settings) -> Ledger:
    """Open the ledger that *settings* name; nothing is made or changed.

    :raises LedgerError: there is none, it has another schema than this version knows, or it cannot be reached.
    """
    engine = connect(settings)
    try:
        with reading(engine) as connection:
            version = version_of(connection)
        if version is None:
            raise LedgerError(
                f"There is no ledger at {shown(engine)}.",
                "Name one with --state-dir or GREENFLY_LEDGER_URL; the first run makes it.",
            )
        if version != SCHEMA_HEAD:
            require_not_newer(engine, version)
            raise LedgerError(
                f"The schema of the ledger {shown(engine)} is {version}, and this version needs {SCHEMA_HEAD}.",
                "Run `greenfly db upgrade` when no run is under way; on SQLite the next run does it too.",
            )
    except BaseException:
        engine.dispose()
        raise
    return Ledger(engine, settings.audit)
