"""The control row of a run: written from any terminal, read by the run while it works."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection, bindparam, insert, select, update

from integrity.ledger.database import Statements
from integrity.ledger.models import Control
from integrity.ledger.values import ControlState

# Made once: a live run reads its row again and again.
_READ: Final = select(
    Control.paused, Control.keys_per_second, Control.bytes_per_second, Control.updated_at, Control.updated_by
).where(Control.run_id == bindparam("run"))


def read_control(connection: Connection | Statements, run_id: str) -> ControlState:
    """What is asked of the run; the defaults where nobody has asked for anything."""
    row = connection.execute(_READ, {"run": run_id}).one_or_none()
    return ControlState(*row) if row is not None else ControlState()


def write_control(
    connection: Connection,
    run_id: str,
    by: str,
    *,
    paused: bool | None = None,
    keys_per_second: int | None = None,
    bytes_per_second: int | None = None,
) -> ControlState:
    """Change what is given, keep the rest, and return the row as it is now.

    The caller's transaction must already exclude other writers.
    """
    before = read_control(connection, run_id)
    after = ControlState(
        before.paused if paused is None else paused,
        before.keys_per_second if keys_per_second is None else keys_per_second,
        before.bytes_per_second if bytes_per_second is None else bytes_per_second,
        datetime.now(UTC),
        by,
    )
    values = {
        "paused": after.paused,
        "keys_per_second": after.keys_per_second,
        "bytes_per_second": after.bytes_per_second,
        "updated_at": after.updated_at,
        "updated_by": by,
    }
    changed = connection.execute(update(Control).where(Control.run_id == run_id).values(values))
    if not changed.rowcount:
        connection.execute(insert(Control).values(run_id=run_id, **values))
    return after
