"""Retention: which snapshots may go, and removing them.

A snapshot is kept when any rule keeps it: it is one of the newest *keep* whole ones, or it is not older than
*max_age*.  The newest whole one is always kept.  Removed are only folders that carry a Greenfly header and hold
nothing but a snapshot's files, and leftovers of processes that are gone.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from integrity.errors import LedgerError
from integrity.ledger import Ledger
from integrity.snapshot.catalog import PRUNED_EVENT, Entry, SnapshotState
from integrity.snapshot.files import sync_folder
from integrity.snapshot.folder import LOCK_NAME, PARTIAL
from integrity.snapshot.header import HEADER_NAME, MANIFEST_NAME, RDB_NAME
from integrity.snapshot.sealing import SUFFIX
from integrity.snapshot.writer import HASHES_NAME

_OWN: Final = frozenset(
    prefix + name + suffix
    for prefix in ("", "new.")
    for name in (RDB_NAME, MANIFEST_NAME, HEADER_NAME)
    for suffix in ("", SUFFIX)
) | {LOCK_NAME, HASHES_NAME}


_RUN_ID_LENGTH: Final = 32


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one snapshot."""

    entry: Entry
    removed: bool
    reason: str


def decide(
    entries: Sequence[Entry], *, keep: int | None, max_age: timedelta | None, now: datetime
) -> list[Decision]:
    """What the rules say about *entries*, newest first.

    :param keep: how many whole snapshots stay at least; None for no such rule.
    :param max_age: snapshots that are not older stay; None for no such rule.
    """
    decisions: list[Decision] = []
    whole = 0
    for entry in entries:
        match entry.state:
            case SnapshotState.WHOLE | SnapshotState.DAMAGED:
                decisions.append(_by_rules(entry, whole, keep, max_age, now))
                whole += entry.state is SnapshotState.WHOLE
            case SnapshotState.PARTIAL:
                strange = _strange_files(entry.directory)
                reason = _strange(strange) if strange else "left behind by a process that is gone"
                decisions.append(Decision(entry, not strange, reason))
            case SnapshotState.BEING_TAKEN:
                decisions.append(Decision(entry, False, "it is being taken"))
            case _:
                pass
    return decisions


def _by_rules(
    entry: Entry, newer_whole: int, keep: int | None, max_age: timedelta | None, now: datetime
) -> Decision:
    if entry.state is SnapshotState.WHOLE and newer_whole == 0:
        return Decision(entry, False, "the newest whole one")
    if keep is not None and newer_whole < keep:
        return Decision(entry, False, f"one of the newest {keep}")
    if max_age is not None and (entry.taken_at is None or now - entry.taken_at <= max_age):
        return Decision(entry, False, f"not older than {_days(max_age)}")
    if keep is None and max_age is None:
        return Decision(entry, False, "there is no rule")
    if strange := _strange_files(entry.directory):
        return Decision(entry, False, _strange(strange))
    reasons = []
    if keep is not None:
        reasons.append(f"{newer_whole:,} newer")
    if max_age is not None:
        reasons.append(f"older than {_days(max_age)}")
    return Decision(entry, True, " and ".join(reasons))


def remove(decision: Decision, ledger: Ledger) -> None:
    """Remove what a decision says, after it was recorded in the ledger.

    The folder is renamed first: a process that is killed meanwhile leaves a partial folder, never a half snapshot
    under a whole one's name.

    :raises LedgerError: it cannot be recorded or removed.
    """
    entry = decision.entry
    payload = {
        "snapshot": entry.id,
        "directory": str(entry.directory),
        "state": entry.state.value,
        "bytes": entry.size,
        "taken_at": entry.taken_at.isoformat() if entry.taken_at else None,
        "reason": decision.reason,
    }
    ledger.record_event(PRUNED_EVENT, payload, run_id=entry.id if len(entry.id) <= _RUN_ID_LENGTH else None)
    doomed = entry.directory
    try:
        if entry.state is not SnapshotState.PARTIAL:
            doomed = doomed.with_name(f"{doomed.name}.pruned{PARTIAL}")
            shutil.rmtree(doomed, ignore_errors=True)
            os.replace(entry.directory, doomed)
            sync_folder(doomed.parent)
        shutil.rmtree(doomed)
    except OSError as error:
        raise LedgerError(
            f"The snapshot {entry.directory} cannot be removed ({error.strerror}).",
            "Check the folder's rights.",
        ) from error


def _strange_files(directory: Path) -> list[str]:
    """Names in a folder that are not a snapshot's."""
    if directory.is_symlink():
        return ["(it is a link to another place)"]
    try:
        return sorted(
            path.name for path in directory.iterdir() if path.name not in _OWN or not path.is_file()
        )
    except OSError:
        return ["(it cannot be read)"]


def _strange(names: Sequence[str]) -> str:
    return f"holds other files than a snapshot's: {', '.join(names[:3])}"


def _days(age: timedelta) -> str:
    days = age / timedelta(days=1)
    return f"{days:g} day{'' if days == 1 else 's'}"
