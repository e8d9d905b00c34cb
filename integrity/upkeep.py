"""Upkeep of what runs leave behind: old snapshots, the record of what was done, and whether a backup can be used."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from integrity.audit.keys import load_trust
from integrity.audit.ledger_check import LedgerExamination, examine_ledger
from integrity.errors import Refused
from integrity.ledger import Ledger
from integrity.progress import Progress
from integrity.scratch import claim_scratch, empty_scratch, on_scratch
from integrity.settings import ConflictPolicy, Settings
from integrity.snapshot.catalog import Entry, SnapshotState, list_snapshots
from integrity.snapshot.restored import RestoreOutcome, restore_snapshot
from integrity.snapshot.retention import Decision, decide, remove

CHECKED: Final = "upkeep.record-checked"


@dataclass(frozen=True, slots=True)
class Pruned:
    """What became of the snapshots of the snapshot folder."""

    decisions: tuple[Decision, ...]
    by_rule: bool
    """Whether a rule says what may go; without one nothing goes but what processes left behind."""

    @property
    def removed(self) -> tuple[Entry, ...]:
        """Those that went."""
        return tuple(decision.entry for decision in self.decisions if decision.removed)

    @property
    def freed(self) -> int:
        """Bytes."""
        return sum(entry.size or 0 for entry in self.removed)


def prune_snapshots(settings: Settings, ledger: Ledger) -> Pruned:
    """Remove the snapshots that ``snapshot.keep`` and ``snapshot.max_age_days`` let go.

    :raises LedgerError: it cannot be recorded, or a folder not be removed.
    """
    rules, folder = settings.snapshot, settings.snapshot_dir
    decisions = decide(
        [entry for entry in list_snapshots(folder, ledger) if entry.directory.parent == folder],
        keep=rules.keep,
        max_age=timedelta(days=rules.max_age_days) if rules.max_age_days is not None else None,
        now=datetime.now(UTC),
    )
    for decision in decisions:
        if decision.removed:
            remove(decision, ledger)
    return Pruned(tuple(decisions), rules.keep is not None or rules.max_age_days is not None)


def check_record(settings: Settings, ledger: Ledger) -> LedgerExamination:
    """Walk the ledger's audit chain, and lay its checkpoints beside it; the result is recorded.

    :raises ConfigurationError: a trusted key cannot be used, or the file of kept checkpoints is missing.
    """
    found = examine_ledger(ledger, load_trust(settings.audit, ()), settings.audit.checkpoint_file, None)
    ledger.record_event(
        CHECKED,
        {
            "intact": found.intact,
            "events": found.chain.events,
            "head": found.chain.head,
            "signed": found.signed,
            "problem": found.problem,
        },
    )
    return found


def try_backup(settings: Settings, ledger: Ledger, progress: Progress) -> RestoreOutcome:
    """Restore the newest whole snapshot into the scratch server, prove every key there, and empty it again.

    :raises ConfigurationError: no scratch server is set.
    :raises Refused: there is no whole snapshot, or the scratch server may not be used.
    :raises ArtifactError: the snapshot is damaged or cannot be opened.
    """
    directory = newest_backup(settings, ledger)
    claim_scratch(settings, ledger)
    copying = settings.copying.model_copy(update={"conflict": ConflictPolicy.FAIL})
    restored = on_scratch(settings).model_copy(update={"copying": copying, "databases": None})
    outcome = restore_snapshot(restored, directory, ledger, progress)
    if not settings.flows.keep_scratch:
        empty_scratch(settings, ledger)
    return outcome


def newest_backup(settings: Settings, ledger: Ledger) -> Path:
    """The folder of the newest whole snapshot.

    :raises Refused: there is none.
    """
    for entry in list_snapshots(settings.snapshot_dir, ledger):
        if entry.state is SnapshotState.WHOLE:
            return entry.directory
    raise Refused(
        f"There is no whole snapshot in {settings.snapshot_dir}, so no backup to try.",
        "Take one: `greenfly snapshot take`.",
    )
