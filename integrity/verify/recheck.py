"""Looking at findings again: a difference counts only when it survives."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final

from integrity.ledger.models import Finding, FindingClass, FindingState, PhaseName
from integrity.ledger.store import Ledger, RunHandle
from integrity.verify.exceptions import FindingRules
from integrity.verify.present import Present

COMPARED_CLASSES: Final = (
    FindingClass.MISSING,
    FindingClass.EXTRA,
    FindingClass.TYPE,
    FindingClass.VALUE,
    FindingClass.EXPIRY,
    FindingClass.FIELD_EXPIRY,
    FindingClass.COLLISION,
    FindingClass.UNREADABLE,
)
"""Classes that a comparison finds, and that another look can settle."""

_PAGE: Final = 200


class Rechecker:
    """Looks again at the open findings of a run."""

    def __init__(self, present: Present, *, ledger: Ledger, run: RunHandle, rules: FindingRules) -> None:
        self._present = present
        self._ledger = ledger
        self._run = run
        self._rules = rules

    def recheck(self) -> tuple[int, int]:
        """One generation over all open findings; returns how many were looked at and how many settled."""
        looked = settled = after = 0
        while page := self._ledger.findings(
            self._run.id, state=FindingState.OPEN, classes=COMPARED_CLASSES, limit=_PAGE, after_id=after
        ):
            after = page[-1].id
            looked += len(page)
            self._run.renew_lease()
            for group in by_place(page):
                pairs = self._present.now(
                    group[0].finding_class, group[0].database, list(dict.fromkeys(f.key for f in group))
                )
                now = {key: {f.finding_class for f in pair.findings} for key, pair in pairs.items()}
                gone = [finding.id for finding in group if finding.finding_class not in now[finding.key]]
                self._run.settle_findings(gone)
                settled += len(gone)
                still = [finding for pair in pairs.values() for finding in pair.findings]
                self._run.add_findings(PhaseName.VERIFY, self._rules.apply(still))
        return looked, settled


def by_place(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Findings in groups that one look serves: of one database, and all or none of class ``extra``."""

    def place(finding: Finding) -> tuple[int, bool]:
        return finding.database, finding.finding_class is FindingClass.EXTRA

    return [list(group) for _, group in groupby(sorted(findings, key=place), key=place)]
