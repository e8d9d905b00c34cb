"""Rules under which a difference is an exception: listed by name, but not a failure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from integrity.ledger.models import FindingClass, FindingState
from integrity.ledger.store import Ledger, NewFinding
from integrity.settings import ConflictPolicy, ExtraPolicy, Settings


class ExceptionRules:
    """The rules that the operator set for one run.

    * ``verify.extra_keys=allow``: a key that only the target has.
    * ``copy.conflict=skip``: a key whose target value the copy kept, and recorded as skipped.
    """

    def __init__(self, ledger: Ledger, run_id: str, settings: Settings) -> None:
        self._ledger = ledger
        self._run_id = run_id
        self._allow_extra = settings.verify.extra_keys is ExtraPolicy.ALLOW
        self._skips = settings.copying.conflict is ConflictPolicy.SKIP

    def apply(self, findings: Sequence[NewFinding]) -> list[NewFinding]:
        """The same findings, those under a rule marked as exceptions with the rule in their detail."""
        skipped: set[tuple[int, bytes]] = set()
        if self._skips and findings:
            skipped = self._ledger.skipped_keys(self._run_id, [(f.database, f.key) for f in findings])
        return [self._apply(finding, skipped) for finding in findings]

    def _apply(self, finding: NewFinding, skipped: set[tuple[int, bytes]]) -> NewFinding:
        rule = None
        if self._allow_extra and finding.finding_class is FindingClass.EXTRA:
            rule = "verify.extra_keys=allow"
        elif (finding.database, finding.key) in skipped:
            rule = "copy.conflict=skip"
        if rule is None:
            return finding
        return replace(finding, state=FindingState.EXCEPTION, detail=f"{finding.detail} (rule {rule})")
