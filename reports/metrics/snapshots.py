"""Snapshots as metrics: how many there are, and how old the newest one is."""

from __future__ import annotations

from pathlib import Path

from integrity.errors import ArtifactError
from integrity.ledger import Ledger
from integrity.snapshot.catalog import Entry, SnapshotState, list_snapshots
from reports.metrics import catalogue as c
from reports.metrics.counting import Sparing
from reports.metrics.sheet import Sheet


class SnapshotLister:
    """Looks at the folder of the snapshots, and at what the ledger recorded; an old answer stands for a while."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._entries: Sparing[list[Entry]] = Sparing()

    def put(self, sheet: Sheet, ledger: Ledger) -> None:
        """Look where that is due, and tell."""
        try:
            entries = self._entries.get(lambda: list_snapshots(self._folder, ledger))
        except ArtifactError:
            sheet.put(c.SNAPSHOTS_READABLE, 0)
            return
        sheet.put(c.SNAPSHOTS_READABLE, 1)
        for state in SnapshotState:
            sheet.put(c.SNAPSHOTS, sum(entry.state is state for entry in entries), state.value)
        newest = next((entry for entry in entries if entry.state is SnapshotState.WHOLE), None)
        if newest is not None:
            sheet.put_time(c.SNAPSHOT_TAKEN, newest.taken_at)
            sheet.put_number(c.SNAPSHOT_KEYS, newest.keys)
            sheet.put_number(c.SNAPSHOT_BYTES, newest.size)
