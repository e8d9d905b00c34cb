"""Repairing what replication dropped, as a phase of the same run: written by the copy's road, and looked at again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from integrity.kinds.base import plural
from integrity.ledger import Ledger, RunHandle
from integrity.ledger.models import FindingState, PhaseName
from integrity.native.causes import cause_of
from integrity.phases.repair import RepairPhase
from integrity.phases.servers import Servers
from integrity.progress import Progress
from integrity.repair_plan import REPAIRABLE
from integrity.settings import Settings
from integrity.verify.verdict import Conclusion, Coverage, conclude

_AT_A_TIME: Final = 1000


class DroppedRepair:
    """Repairs the open findings of the very run that made them.

    What only green has is deleted: green was empty, so it is what a deletion that was dropped has left.
    """

    def __init__(self, settings: Settings, ledger: Ledger, handle: RunHandle, progress: Progress) -> None:
        self._settings = settings
        self._ledger = ledger
        self._handle = handle
        self._progress = progress

    def run(self, servers: Servers, coverage: Coverage, detail: dict[str, object]) -> Conclusion:
        """Repair, and conclude over everything that was compared.

        :param coverage: of the comparison that found them.
        :raises ServerError: a server is lost, full, read-only or refuses; every page that was done is recorded.
        """
        detail["causes"] = dict(self._causes().most_common())
        run = self._ledger.find_run(self._handle.id)
        phase = RepairPhase(
            self._settings, self._ledger, self._handle, self._progress, run, delete_extra=True
        )
        phase.run(servers, detail)
        counts = self._ledger.finding_counts(run.id)
        concluded = conclude(coverage, counts)
        repaired = sum(n for (_, state), n in counts.items() if state is FindingState.REPAIRED)
        if not repaired:
            return concluded
        return replace(
            concluded,
            reason=f"{concluded.reason} {plural(repaired, 'difference')} that replication had left "
            f"{'was' if repaired == 1 else 'were'} repaired first.",
        )

    def _causes(self) -> Counter[str]:
        dropped = self._dropped()
        causes: Counter[str] = Counter()
        after = 0
        while page := self._ledger.findings(
            self._handle.id,
            state=FindingState.OPEN,
            classes=REPAIRABLE,
            limit=_AT_A_TIME,
            after_id=after,
        ):
            causes.update(cause_of(finding, dropped) for finding in page)
            after = page[-1].id
        return causes

    def _dropped(self) -> Mapping[str, int]:
        phases = self._ledger.phases(self._handle.id)
        detail = next((phase.detail for phase in phases if phase.name is PhaseName.REPLICATE), {})
        dropped = detail.get("dropped")
        return dropped if isinstance(dropped, dict) else {}
