"""Rules under which a difference is an exception: listed by name, with the rule's id, but not a failure.

* ``verify.extra_keys=allow``: a key that only the target has.
* ``copy.conflict=skip``: a key whose target value the copy kept, and recorded as skipped.
* ``expiry-limit``: Dragonfly keeps no expiry further away than 268,435,455 seconds (8.5 years) and takes that instead,
  of a key or of a hash field.
* ``typed-rewrite``: a stream that had to be written with typed commands, whose counters the target cannot be told;
  the copy recorded it as ``not-carried``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import time
from typing import Final

from integrity.endpoint import Identity
from integrity.ledger.models import FindingClass, FindingState
from integrity.ledger.store import Ledger, NewFinding
from integrity.settings import ConflictPolicy, ExtraPolicy, Settings
from integrity.transfer.copy import TYPED_REWRITE

EXPIRY_LIMIT: Final = "expiry-limit"
DRAGONFLY_LIMIT_MS: Final = 268_435_455_000
_WRITTEN_WITHIN_MS: Final = 90 * 24 * 3600 * 1000
"""How long ago a clamped expiry may have been written: it lies that much before the limit by now."""
_EXPIRIES: Final = frozenset({FindingClass.EXPIRY, FindingClass.FIELD_EXPIRY})
_CLOCKS_MS: Final = 60_000
"""How far the servers' clocks may be from this machine's."""


class FindingRules:
    """The rules that hold for one run.

    :param now_ms: milliseconds since 1970.
    """

    def __init__(
        self,
        ledger: Ledger,
        run_id: str,
        settings: Settings,
        target: Identity,
        *,
        now_ms: Callable[[], float] = lambda: time() * 1000,
    ) -> None:
        self._ledger = ledger
        self._run_id = run_id
        self._allow_extra = settings.verify.extra_keys is ExtraPolicy.ALLOW
        self._skips = settings.copying.conflict is ConflictPolicy.SKIP
        self._target = target
        self._now_ms = now_ms

    def apply(self, findings: Sequence[NewFinding]) -> list[NewFinding]:
        """The same findings, those under a rule marked as exceptions with the rule's id."""
        if not findings:
            return []
        places = [(f.database, f.key) for f in findings]
        skipped = self._ledger.skipped_keys(self._run_id, places) if self._skips else set()
        counters = [(f.database, f.key) for f in findings if _only_counters(f)]
        not_carried = self._ledger.not_carried_keys(self._target.address, counters) if counters else set()
        return [self._apply(finding, skipped, not_carried) for finding in findings]

    def _apply(
        self, finding: NewFinding, skipped: set[tuple[int, bytes]], not_carried: set[tuple[int, bytes]]
    ) -> NewFinding:
        place = (finding.database, finding.key)
        rule = None
        if finding.state is not FindingState.OPEN:
            return finding
        if self._allow_extra and finding.finding_class is FindingClass.EXTRA:
            rule = "verify.extra_keys=allow"
        elif place in skipped:
            rule = "copy.conflict=skip"
        elif finding.finding_class in _EXPIRIES and self._beyond_limit(finding):
            rule = EXPIRY_LIMIT
        elif _only_counters(finding) and place in not_carried:
            rule = TYPED_REWRITE
        if rule is None:
            return finding
        detail = f"{finding.detail} (rule {rule})"
        return replace(finding, state=FindingState.EXCEPTION, rule=rule, detail=detail)

    def _beyond_limit(self, finding: NewFinding) -> bool:
        """Whether the target's expiry is what Dragonfly makes of one beyond its limit."""
        ours, theirs = finding.source_expiry_ms, finding.target_expiry_ms
        if self._target.engine != "dragonfly" or not ours or not theirs or theirs < 0 or ours <= theirs:
            return False
        away = theirs - self._now_ms()
        return DRAGONFLY_LIMIT_MS - _WRITTEN_WITHIN_MS <= away <= DRAGONFLY_LIMIT_MS + _CLOCKS_MS


def _only_counters(finding: NewFinding) -> bool:
    return (
        finding.finding_class is FindingClass.VALUE
        and finding.source_kind == "stream"
        and finding.source_digest is not None
        and finding.source_digest == finding.target_digest
    )
