"""Looking at findings again: a difference counts only when it survives."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final

from integrity.endpoint import Endpoint, Identity
from integrity.ledger.models import Finding, FindingClass, FindingState, PhaseName
from integrity.ledger.store import Ledger, RunHandle
from integrity.settings import VerifySettings
from integrity.verify.classify import classify
from integrity.verify.exceptions import ExceptionRules
from integrity.verify.look import look

COMPARED_CLASSES: Final = (
    FindingClass.MISSING,
    FindingClass.EXTRA,
    FindingClass.TYPE,
    FindingClass.VALUE,
    FindingClass.EXPIRY,
    FindingClass.UNREADABLE,
)
"""Classes that a comparison finds, and that another look can settle."""

_PAGE: Final = 200


class Rechecker:
    """Looks again at the open findings of a run."""

    def __init__(
        self,
        source: Endpoint,
        target: Endpoint,
        source_identity: Identity,
        target_identity: Identity,
        settings: VerifySettings,
        *,
        ledger: Ledger,
        run: RunHandle,
        rules: ExceptionRules,
    ) -> None:
        self._source = source
        self._target = target
        self._source_absolute = source_identity.has_pexpiretime
        self._target_absolute = target_identity.has_pexpiretime
        self._settings = settings
        self._ledger = ledger
        self._run = run
        self._rules = rules

    def recheck(self) -> tuple[int, int]:
        """One generation over all open findings; returns how many were looked at and how many settled."""
        looked = settled = after = 0
        with self._source.connect("verify") as source, self._target.connect("verify") as target:
            while page := self._ledger.findings(
                self._run.id, state=FindingState.OPEN, classes=COMPARED_CLASSES, limit=_PAGE, after_id=after
            ):
                after = page[-1].id
                looked += len(page)
                by_database = groupby(sorted(page, key=lambda f: f.database), key=lambda f: f.database)
                for database, findings in by_database:
                    source.select(database)
                    target.select(database)
                    group = list(findings)
                    keys = list(dict.fromkeys(finding.key for finding in group))
                    ours = look(source, keys, absolute=self._source_absolute)
                    theirs = look(target, keys, absolute=self._target_absolute)
                    now = {
                        key: classify(database, key, a, b, self._settings.expiry_tolerance_ms)
                        for key, a, b in zip(keys, ours, theirs, strict=True)
                    }
                    settled += self._settle(group, {k: {f.finding_class for f in v} for k, v in now.items()})
                    self._run.add_findings(
                        PhaseName.VERIFY, self._rules.apply([f for found in now.values() for f in found])
                    )
        return looked, settled

    def _settle(self, findings: Sequence[Finding], now: dict[bytes, set[FindingClass]]) -> int:
        gone = [finding.id for finding in findings if finding.finding_class not in now[finding.key]]
        self._run.settle_findings(gone)
        return len(gone)
