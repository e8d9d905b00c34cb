"""Findings that somebody let pass: exceptions like those under a rule of the run, in the name of a waiver.

Only the very class that was waived passes: a key waived because its value differs fails when it is missing.  A
waiver that covers more findings of a run than it was given for lets none of them pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from integrity.ledger import Ledger, RunHandle
from integrity.ledger.finding_waivers import (
    FindingWaiverRecord,
    WaiverCover,
    read_finding_waivers,
)
from integrity.ledger.models import FindingState
from integrity.ledger.store import NewFinding
from integrity.ledger.waived_findings import Subject, count_put_aside, find_covered, put_aside
from integrity.settings import Settings


@dataclass(frozen=True, slots=True)
class Waived:
    """What waivers did to the findings of a run."""

    findings: int = 0
    """Put aside."""
    too_wide: tuple[FindingWaiverRecord, ...] = ()
    """Those that let none pass, because they cover too many."""
    own: tuple[FindingWaiverRecord, ...] = ()
    """Those that let none pass, because who gave them has started the run."""

    def notes(self) -> tuple[str, ...]:
        """What is to be said of those that let none pass."""
        wide = (
            f"Waiver {waiver.id} covers more than the {waiver.most:,} findings that it was given for, "
            "and lets none of them pass."
            for waiver in self.too_wide
        )
        own = (
            f"Waiver {waiver.id} was given by {waiver.by}, who started this run, and lets nothing of it pass."
            for waiver in self.own
        )
        return (*wide, *own)


def waivers_in_force(
    ledger: Ledger, run_id: str, settings: Settings, target_address: str | None = None
) -> list[FindingWaiverRecord]:
    """Those that count for a run; of one key first.

    Who started the run does not let its findings pass, unless ``review.separate_reviewer`` is off.

    :param target_address: of the server that is held against the source now; where a run looks the other way round,
        nothing passes.
    """
    return _held(ledger, run_id, settings, target_address)[0]


def _held(
    ledger: Ledger, run_id: str, settings: Settings, target_address: str | None
) -> tuple[list[FindingWaiverRecord], list[FindingWaiverRecord]]:
    """The waivers in force between the run's two servers that count, and those of who started it."""
    run = ledger.find_run(run_id)
    if not settings.review.honour_waivers or run.source_address is None or run.target_address is None:
        return [], []
    if target_address not in (None, run.target_address):
        return [], []
    now, separate = datetime.now(UTC), settings.review.separate_reviewer
    held = [
        waiver
        for waiver in read_finding_waivers(ledger.engine, run.source_address, run.target_address)
        if waiver.in_force(now)
    ]
    counting = [waiver for waiver in held if not (separate and waiver.by == run.operator)]
    return sorted(counting, key=lambda each: (each.key is None, each.id)), [
        waiver for waiver in held if waiver not in counting
    ]


def let_pass(ledger: Ledger, run: RunHandle, settings: Settings, target_address: str | None = None) -> Waived:
    """Put aside what waivers in force cover of a run's open findings.  To be called when nothing is looked at again.

    :param target_address: see :func:`waivers_in_force`.
    :raises LedgerError: the ledger cannot be read or written.
    """
    findings, applied, too_wide = 0, [], []
    counting, own = _held(ledger, run.id, settings, target_address)
    for waiver in counting:
        run.renew_lease()
        covered = find_covered(ledger.engine, run.id, _subject(waiver), waiver.most)
        if covered.more:
            too_wide.append(waiver)
        elif covered.ids:
            put_aside(ledger.engine, run.id, covered.ids, waiver.rule)
            findings += len(covered.ids)
            applied.append({"id": waiver.id, "by": waiver.by, "findings": len(covered.ids)})
    own = [waiver for waiver in own if find_covered(ledger.engine, run.id, _subject(waiver), 1).ids]
    if applied or too_wide or own:
        payload = {
            "applied": applied,
            "too_wide": [waiver.id for waiver in too_wide],
            "own": [waiver.id for waiver in own],
        }
        run.event("finding-waivers.applied", payload)
    return Waived(findings, tuple(too_wide), tuple(own))


def _subject(waiver: FindingWaiverRecord) -> Subject:
    return Subject(waiver.finding_class, waiver.database, waiver.key, waiver.pattern)


@dataclass(frozen=True, slots=True)
class ReliedOn:
    """How far a clean comparison rests on waivers."""

    passing: int
    """Findings that pass."""
    lapsed: int
    """Findings that passed, by waivers that do not hold any more."""


def rely_on_waivers(ledger: Ledger, run_id: str, settings: Settings, since: datetime) -> ReliedOn:
    """Count the findings of a run that waivers let pass, seen at *since* or later."""
    put_aside_by = count_put_aside(ledger.engine, run_id, since=since)
    if not put_aside_by:
        return ReliedOn(0, 0)
    holding = {waiver.id for waiver in waivers_in_force(ledger, run_id, settings)}
    passing = sum(number for waiver, number in put_aside_by.items() if waiver in holding)
    return ReliedOn(passing, put_aside_by.total() - passing)


class Waiving:
    """The same for findings that come a few at a time, while a run goes on."""

    def __init__(self, ledger: Ledger, run_id: str, settings: Settings) -> None:
        self._ledger = ledger
        self._run_id = run_id
        self._settings = settings

    def apply(self, findings: Sequence[NewFinding], target_address: str) -> list[NewFinding]:
        """The same findings of one key, those that a waiver covers marked as exceptions in its name."""
        waivers = waivers_in_force(self._ledger, self._run_id, self._settings, target_address)
        if not waivers:
            return list(findings)
        cover, used = WaiverCover(waivers), {key: self._used(key) for key in {f.key for f in findings}}
        return [self._apply(finding, cover, used[finding.key]) for finding in findings]

    def _used(self, key: bytes) -> dict[int, int]:
        return count_put_aside(self._ledger.engine, self._run_id, besides=key)

    def _apply(self, finding: NewFinding, cover: WaiverCover, used: dict[int, int]) -> NewFinding:
        waiver = cover.of(finding.finding_class, finding.database, finding.key)
        if finding.state is not FindingState.OPEN or waiver is None:
            return finding
        used[waiver.id] = used.get(waiver.id, 0) + 1
        if used[waiver.id] > waiver.most:
            return finding
        detail = f"{finding.detail} (rule {waiver.rule})"
        return replace(finding, state=FindingState.EXCEPTION, rule=waiver.rule, detail=detail)
