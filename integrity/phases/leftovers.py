"""Temporary keys that killed runs left on a target: known by an audit event, removed by the next run into it.

Looking for them means walking the whole target, so only runs that said that they use any are looked for, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from integrity.ledger import Ledger
from integrity.phases.servers import Servers
from integrity.transfer.temporary import remove_leftovers

TEMPORARY_KEYS: Final = "temporary.keys"
"""The audit event of a run that begins to use temporary keys."""
_REMOVED: Final = "temporary.removed"


def remove_leftovers_of_killed_runs(ledger: Ledger, servers: Servers, also: Sequence[str] = ()) -> None:
    """Delete what runs into this target left behind that no process owns, and what the runs *also* left.

    :raises ServerError: the target is lost or refuses.
    """
    suspects = [
        run_id
        for run_id in [*ledger.broken_runs(str(servers.target)), *also]
        if _may_have_left(ledger, run_id)
    ]
    if not suspects:
        return
    removed = 0
    for database in servers.target_databases:
        if servers.target_identity.databases.get(database):
            with servers.target.connect("copy", database) as connection:
                removed += remove_leftovers(connection, suspects)
    for run_id in suspects:
        ledger.record_event(_REMOVED, {"keys": removed}, run_id)


def _may_have_left(ledger: Ledger, run_id: str) -> bool:
    kinds = [event.kind for event in ledger.events(run_id) if event.kind in {TEMPORARY_KEYS, _REMOVED}]
    return bool(kinds) and kinds[-1] == TEMPORARY_KEYS
