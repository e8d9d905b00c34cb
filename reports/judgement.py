"""The verdict in words, whether the rest of the ledger bears it out, and what no verdict of this kind can prove.

The verdict itself is the engine's; a report never makes one.  But it lays the verdict beside the other facts and says
where they contradict it, so that a defect or a changed ledger does not hide behind the word PASS.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from integrity.ledger.models import (
    FindingClass,
    FindingState,
    PhaseName,
    PhaseState,
    RepairAction,
    Run,
    RunKind,
    RunState,
    Verdict,
)
from reports.assessing import AssessmentView
from reports.display import counted, ended, moment
from reports.facts import masked_text
from reports.model import Coverage, EndpointView, FindingCount, FingerprintRow, Tone, VerdictView
from reports.proof import Proof
from reports.repairs import RepairsView
from reports.story import LIVE_KINDS

_TONES: Final[dict[Verdict, Tone]] = {
    Verdict.PASS: "pass",
    Verdict.PASS_WITH_EXCEPTIONS: "exceptions",
    Verdict.FAIL: "fail",
    Verdict.INCONCLUSIVE: "inconclusive",
}
_MEANINGS: Final[dict[Verdict, str]] = {
    Verdict.PASS: "Every key that was compared is the same on both sides.",
    Verdict.PASS_WITH_EXCEPTIONS: "The only differences are those that a rule expects, or that somebody let pass.",
    Verdict.FAIL: "The two sides differ.",
    Verdict.INCONCLUSIVE: "Nothing is proven either way. This is not a pass, and it is not proof of a loss.",
}
_ASSESSED: Final[dict[Verdict, str]] = {
    Verdict.PASS: "Nothing that was looked at stands in the way.",
    Verdict.PASS_WITH_EXCEPTIONS: "What stands in the way was waived by somebody, for a while.",
    Verdict.FAIL: "Something stands in the way.",
    Verdict.INCONCLUSIVE: "Something that could stand in the way could not be looked at. This is not a pass.",
}
_OF_THE_COPY: Final = (FindingClass.REFUSED, FindingClass.SKIPPED, FindingClass.NOT_CARRIED)
"""What happened while copying.  Whether the key is equal in the end is the comparison's business."""
_PASSES: Final = (Verdict.PASS, Verdict.PASS_WITH_EXCEPTIONS)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a verdict is laid beside."""

    run: Run
    now: datetime
    source: EndpointView | None
    target: EndpointView | None
    phases: tuple[tuple[PhaseName, PhaseState], ...]
    coverage: Coverage | None
    fingerprints: tuple[FingerprintRow, ...]
    finding_counts: tuple[FindingCount, ...]
    proof: Proof
    repairs: RepairsView | None = None
    assessment: AssessmentView | None = None

    def found(self, state: FindingState, *, of_the_copy: bool = False) -> int:
        """Findings in one state: those of the comparison, or those of the copy."""
        return sum(
            row.by_state.get(state, 0)
            for row in self.finding_counts
            if (row.finding_class in _OF_THE_COPY) is of_the_copy
        )


def judge(evidence: Evidence) -> VerdictView:
    """The verdict and why, with what contradicts it and what must be known beside it."""
    run = evidence.run
    verdict = run.verdict
    meanings = _ASSESSED if run.kind is RunKind.ASSESS else _MEANINGS
    return VerdictView(
        verdict=verdict,
        tone="none" if verdict is None else _TONES[verdict],
        word="NO VERDICT" if verdict is None else verdict.value,
        meaning=_without_verdict(evidence) if verdict is None else meanings[verdict],
        reason=masked_text(run.reason) if run.reason else None,
        state=run.state,
        error_kind=masked_text(run.error_kind) if run.error_kind else None,
        error=masked_text(run.error) if run.error else None,
        contradictions=tuple(_contradictions(evidence)),
        notes=tuple(_notes(evidence)),
    )


def _without_verdict(evidence: Evidence) -> str:
    run = evidence.run
    if run.state is RunState.RUNNING:
        if run.lease_until < evidence.now:
            return (
                f"The run did not end. Its process stopped reporting; its hold on the run lapsed at "
                f"{moment(run.lease_until)}. Nothing is proven."
            )
        return "The run has not ended yet. Nothing is proven so far."
    if run.state is RunState.INTERRUPTED:
        return "The run was stopped before it reached a verdict. Nothing is proven."
    if run.state is RunState.FAILED:
        return "The run ended with an error before it reached a verdict. Nothing is proven."
    if run.kind is RunKind.SNAPSHOT:
        return "A snapshot run compares nothing, so it has no verdict."
    return "The run ended, but no verdict was recorded. Nothing is proven."


def _contradictions(evidence: Evidence) -> Iterator[str]:
    run, coverage = evidence.run, evidence.coverage
    opened, repairs = evidence.found(FindingState.OPEN), evidence.repairs
    chain = evidence.proof.chain
    if not chain.intact:
        yield (
            f"The audit chain is broken at event {chain.broken_at}: {ended(chain.problem or 'it does not fit')} "
            "The ledger was changed outside Greenfly or is damaged; do not rely on this report."
        )
    for problem in evidence.proof.problems if chain.intact else ():
        yield f"A signed checkpoint contradicts the audit chain: {ended(masked_text(problem))}"
    # A repair does not change the verdict of the run that it repairs; and what it could not repair is its own FAIL.
    explained = repairs is not None and (repairs.runs or RepairAction.NOT_REPAIRED in repairs.actions)
    assessed = run.kind is RunKind.ASSESS
    if run.verdict is Verdict.FAIL and not opened and not explained and not assessed:
        yield "The verdict is FAIL, but no open finding is recorded."
    blocking = evidence.assessment.of("blocking") if evidence.assessment is not None else ()
    if assessed and run.verdict is Verdict.FAIL and not blocking:
        yield "The verdict is FAIL, but no blocking result is recorded."
    if run.verdict not in _PASSES:
        return
    said = f"The verdict is {run.verdict.value}, but"
    if run.state is not RunState.FINISHED:
        yield f"{said} the run is {run.state.value}, not finished."
    for result in blocking:
        yield f"{said} the check {result.check} blocks, and no waiver lets it pass."
    if run.kind is RunKind.REPAIR:
        yield from _repair_contradictions(run.verdict, repairs)
    elif not assessed and run.kind not in LIVE_KINDS and (coverage is None or not coverage.compared):
        yield f"{said} no key was compared."
    for name, state in evidence.phases:
        if state is PhaseState.FAILED:
            yield f"{said} the phase {name.value} failed."
    if opened:
        yield f"{said} {counted(opened, 'finding')} {'is' if opened == 1 else 'are'} open."
    allowed = evidence.found(FindingState.EXCEPTION)
    if run.verdict is Verdict.PASS and allowed:
        yield f"{said} {counted(allowed, 'finding')} {'is an exception' if allowed == 1 else 'are exceptions'}."
    moved = coverage is not None and bool(coverage.settled or coverage.vanished)
    if run.verdict is Verdict.PASS and not moved:
        for row in evidence.fingerprints:
            if row.agree is False:
                yield f"{said} the fingerprints of database {row.database} differ, and no key changed meanwhile."


def _repair_contradictions(verdict: Verdict, repairs: RepairsView | None) -> Iterator[str]:
    said = f"The verdict is {verdict.value}, but"
    if repairs is None or not repairs.total:
        yield f"{said} the ledger holds nothing that this repair did."
    elif verdict is Verdict.PASS and (left := repairs.actions.get(RepairAction.NOT_REPAIRED, 0)):
        # Under PASS WITH EXCEPTIONS these can be findings that a rule expects.
        yield f"{said} {counted(left, 'finding')} {'was' if left == 1 else 'were'} not repaired."


def _notes(evidence: Evidence) -> Iterator[str]:
    source, target, coverage = evidence.source, evidence.target, evidence.coverage
    if target is not None and target.note is not None:
        yield target.note
    if source is not None and source.note is not None:
        yield source.note
    if source is not None and source.read_from is not None:
        yield f"The keys were read from {source.read_from}, a replica of the source."
    yield from _assess_notes(evidence)
    yield from _repair_notes(evidence.repairs)
    if (
        source is not None
        and target is not None
        and source.server_run_id
        and source.server_run_id == target.server_run_id
    ):
        yield "Source and target are the same server process: the run compared a server with itself."
    if coverage is not None and coverage.phase_state is PhaseState.FAILED:
        yield "The verify phase did not complete: counts below may cover a part of the keys only."
    copied = evidence.found(FindingState.OPEN, of_the_copy=True)
    if copied and evidence.run.verdict in _PASSES:
        yield (
            f"{counted(copied, 'finding')} of the copy (refused or skipped keys) {'is' if copied == 1 else 'are'} "
            "listed below. The comparison came later and found no open difference in these keys."
        )
    if coverage is not None and coverage.source_keys and coverage.compared is not None:
        met = coverage.compared + sum(
            number or 0 for number in (coverage.vanished, coverage.unreadable, coverage.left_out)
        )
        if met < coverage.source_keys:
            yield (
                f"The source counted {counted(coverage.source_keys, 'key')} when the comparison began; "
                f"{coverage.source_keys - met:,} of them were not met. The count includes expired keys that linger and "
                "keys that were deleted before they were read."
            )


def _assess_notes(evidence: Evidence) -> Iterator[str]:
    if (PhaseName.ASSESS, PhaseState.SKIPPED) in evidence.phases:
        yield "Nothing was assessed beforehand: the assessment was switched off (assess.enabled = false)."
    made = evidence.assessment
    if made is None:
        return
    if made.left_out:
        yield f"Checks of the assessment that were not made, because somebody said so: {', '.join(made.left_out)}."
    for result in made.of("waived"):
        for waiver in result.waivers:
            yield f"{result.check} was waived by {waiver.by} until {moment(waiver.until)}: {waiver.why}"
    if made.census is not None and made.census.full is False:
        yield (
            "The assessment looked at a sample of the keys: that something was not found among them does not prove "
            "that it is not there."
        )


def _repair_notes(repairs: RepairsView | None) -> Iterator[str]:
    if repairs is None:
        return
    if repairs.of is not None:
        yield (
            f"This run repairs run {repairs.of}. Its verdict is about the keys that run found to differ, and about no "
            "others."
        )
    for repair in repairs.runs:
        came_to = repair.verdict.value if repair.verdict is not None else f"{repair.state.value}, no verdict"
        yield (
            f"Run {repair.run_id} has repaired this run since, or tried to; its verdict: {came_to}. The verdict above "
            "is what this run itself found."
        )
