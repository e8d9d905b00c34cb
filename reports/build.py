"""From the ledger's rows to the model of a report.  Only the ledger is read, never a server."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from integrity.ledger import Ledger
from integrity.ledger.models import (
    Artifact,
    FindingClass,
    FindingState,
    Measurement,
    Phase,
    PhaseName,
    Run,
    Tally,
)
from integrity.rehearsal import REHEARSED
from reports import facts
from reports.approving import build_approvals
from reports.assessing import build_assessment
from reports.at_risk import all_counts
from reports.comparing import build_comparison
from reports.course import build_copy, build_incidents, build_ranges
from reports.endpoints import endpoint_after, endpoint_of
from reports.events import EventView, event_moment, event_view
from reports.exceptions import build_waivers, group_exceptions
from reports.facts import Facts, masked_text
from reports.finding_shapes import build_shapes
from reports.findings import CLASS_MEANING
from reports.judgement import Evidence, judge
from reports.limits import limits_of
from reports.live import build_live
from reports.live_judgement import judge_live
from reports.model import (
    Amount,
    ArtifactView,
    CountRow,
    Coverage,
    ExpiryView,
    FindingCount,
    FingerprintRow,
    IntegrityView,
    PhaseView,
    RunIdentity,
    RunReport,
    Sample,
)
from reports.proof import Proof, build_proof
from reports.queries import exceptions_by_rule
from reports.repairs import build_repairs
from reports.replicating import build_replication
from reports.rules import RulesView, build_rules
from reports.throttle import build_throttle

_RESUMED: Final = "run.resumed"
REPORT_ARTIFACTS: Final = frozenset({"report-html", "report-json", "findings-csv", "findings-parquet"})
"""A report cannot hold its own hash, and one that is written again replaces these files: they are not listed."""


def build_report(ledger: Ledger, run_id: str) -> RunReport:
    """Everything the ledger tells about one run.

    :param run_id: an id, an unambiguous beginning or ending of one, or ``latest``.
    :raises ConfigurationError: no such run.
    :raises LedgerError: the ledger cannot be read.
    """
    now = datetime.now(UTC)
    run = ledger.find_run(run_id)
    phases = ledger.phases(run.id)
    details: dict[PhaseName, Facts] = {phase.name: phase.detail for phase in phases}
    proof = build_proof(ledger, run.id)
    timeline = tuple(map(event_view, ledger.events(run.id)))
    rehearsal = any(event.kind == REHEARSED for event in timeline)
    rules = build_rules(run.settings, details)
    stream = details.get(PhaseName.STREAM)
    assessment = build_assessment(ledger, run.id)
    evidence = Evidence(
        run=run,
        now=now,
        source=endpoint_of("source", run),
        target=endpoint_of("target", run),
        phases=tuple((phase.name, phase.state) for phase in phases),
        coverage=_coverage(phases, details, rules),
        fingerprints=_fingerprints(details),
        finding_counts=_finding_counts(all_counts(ledger, run)),
        proof=proof,
        repairs=build_repairs(ledger, run, details.get(PhaseName.REPAIR, {})),
        assessment=assessment,
    )
    verify = details.get(PhaseName.VERIFY, {})
    live = build_live(ledger, run, details, timeline, now)
    verdict = judge(evidence)
    return RunReport(
        verdict=verdict if live is None else judge_live(run, live, verdict, now),
        coverage=evidence.coverage,
        rules=rules,
        run=_identity(run, rehearsal=rehearsal),
        configuration=facts.masked_table(run.settings),
        source=evidence.source,
        target=evidence.target,
        source_after=endpoint_after("source", run, details),
        target_after=endpoint_after("target", run, details),
        assessment=assessment,
        approvals=build_approvals(ledger, run),
        phases=_phases(phases, ledger.measurements(run.id), timeline),
        incidents=build_incidents(timeline),
        throttle=build_throttle(tuple(details.items()), run.started_at),
        ranges=build_ranges(ledger.checkpoints(run.id)),
        timeline=timeline,
        copy=build_copy(stream, rules.stream_left_out),
        replication=build_replication(details),
        counts=_counts(ledger.tallies(run.id)),
        fingerprints=evidence.fingerprints,
        expiry=ExpiryView(
            facts.integer(verify, "expiry_tolerance_ms"), facts.integer(verify, "max_expiry_drift_ms")
        )
        if verify
        else None,
        finding_counts=evidence.finding_counts,
        finding_shapes=build_shapes(ledger, run.id),
        repairs=evidence.repairs,
        live=live,
        exceptions=group_exceptions(ledger, exceptions_by_rule(ledger, run.id), run),
        waivers=build_waivers(ledger, run, now),
        comparison=build_comparison(ledger, run, rehearsal=rehearsal),
        artifacts=tuple(
            _artifact(row) for row in ledger.artifacts(run.id) if row.kind not in REPORT_ARTIFACTS
        ),
        integrity=_integrity(proof, limits_of(run, evidence.coverage, rules, evidence.source)),
        generated_at=now,
    )


def _integrity(proof: Proof, limits: tuple[str, ...]) -> IntegrityView:
    chain = proof.chain
    return IntegrityView(
        chain.intact,
        chain.events,
        chain.head,
        chain.broken_at,
        chain.problem,
        proof.run_events,
        proof.checkpoints,
        proof.newest,
        proof.key_ids,
        tuple(map(masked_text, proof.problems)),
        proof.not_kept,
        proof.covered,
        limits,
    )


def _identity(run: Run, *, rehearsal: bool) -> RunIdentity:
    return RunIdentity(
        run_id=run.id,
        kind=run.kind,
        rehearsal=rehearsal,
        parent_id=run.parent_id,
        label=masked_text(run.label) if run.label is not None else None,
        version=run.version,
        operator=masked_text(run.operator),
        host=masked_text(run.host),
        flow_run_id=masked_text(run.flow_run_id) if run.flow_run_id is not None else None,
        checksum_definition=run.checksum_definition,
        workers=facts.integer(run.settings, "workers"),
        started_at=run.started_at,
        ended_at=run.ended_at,
        seconds=(run.ended_at - run.started_at).total_seconds() if run.ended_at else None,
    )


def _coverage(phases: Sequence[Phase], details: dict[PhaseName, Facts], rules: RulesView) -> Coverage | None:
    verify = next((phase for phase in phases if phase.name is PhaseName.VERIFY), None)
    if verify is None:
        return None
    compared, streamed = verify.detail, details.get(PhaseName.STREAM, {})
    return Coverage(
        phase_state=verify.state,
        source_keys=facts.integer(compared, "source_keys"),
        compared=facts.integer(compared, "compared"),
        equal=facts.integer(compared, "equal"),
        big=facts.integer(compared, "big"),
        left_out=rules.verify_left_out,
        vanished=facts.integer(compared, "vanished"),
        skipped=facts.integer(streamed, "skipped"),
        refused=facts.integer(streamed, "refused"),
        unreadable=facts.integer(compared, "unreadable"),
        target_keys=facts.integer(compared, "target_keys"),
        target_scanned=facts.integer(compared, "target_scanned"),
        extra=facts.integer(compared, "extra"),
        out_of_scope=rules.out_of_scope,
        rechecks=facts.integer(compared, "rechecks"),
        settled=facts.integer(compared, "settled"),
        last_recheck_at=event_moment(facts.text(compared, "rechecked_at") or ""),
        field_expiries=facts.truth(compared, "field_expiries"),
    )


def _phases(
    phases: Sequence[Phase], measurements: Sequence[Measurement], timeline: Sequence[EventView]
) -> tuple[PhaseView, ...]:
    resumed = [
        at for event in timeline if event.kind == _RESUMED and (at := event_moment(event.at)) is not None
    ]
    samples: dict[PhaseName, list[Measurement]] = defaultdict(list)
    for measurement in measurements:
        samples[measurement.phase].append(measurement)
    return tuple(_phase(phase, samples[phase.name], resumed) for phase in phases)


def _phase(phase: Phase, measurements: Sequence[Measurement], resumed: Sequence[datetime]) -> PhaseView:
    broken = any(phase.started_at < at < (phase.ended_at or at) for at in resumed)
    # The engine's own clock leaves out what the ledger's transactions around the phase cost.
    seconds = facts.number(phase.detail, "seconds")
    if phase.ended_at is not None and (seconds is None or broken):
        seconds = (phase.ended_at - phase.started_at).total_seconds()
    return PhaseView(
        name=phase.name,
        state=phase.state,
        started_at=phase.started_at,
        ended_at=phase.ended_at,
        seconds=seconds,
        resumed=broken,
        keys_expected=phase.keys_expected,
        keys=phase.keys,
        bytes=phase.bytes,
        keys_per_second=phase.keys / seconds if seconds and phase.keys and not broken else None,
        bytes_per_second=phase.bytes / seconds if seconds and phase.bytes and not broken else None,
        client_cpu_seconds=facts.number(phase.detail, "client_cpu_seconds"),
        detail=facts.masked_table(phase.detail),
        samples=tuple(
            Sample((row.at - phase.started_at).total_seconds(), row.keys, row.bytes) for row in measurements
        ),
    )


def _counts(tallies: Sequence[Tally]) -> tuple[CountRow, ...]:
    amounts: dict[tuple[int, str], dict[PhaseName, Amount]] = defaultdict(dict)
    for row in tallies:
        amounts[row.database, masked_text(row.kind)][row.phase] = Amount(row.keys, row.bytes)
    return tuple(
        CountRow(
            database,
            kind,
            snapshot=by_phase.get(PhaseName.SNAPSHOT),
            stream=by_phase.get(PhaseName.STREAM),
            verify=by_phase.get(PhaseName.VERIFY),
        )
        for (database, kind), by_phase in sorted(amounts.items())
    )


def _fingerprints(details: dict[PhaseName, Facts]) -> tuple[FingerprintRow, ...]:
    snapshot = facts.table(details.get(PhaseName.SNAPSHOT, {}), "fingerprints")
    both = facts.table(details.get(PhaseName.VERIFY, {}), "fingerprints")
    source, target = facts.table(both, "source"), facts.table(both, "target")
    rows = []
    for number in sorted({int(name) for name in (*snapshot, *source, *target) if name.isdecimal()}):
        ours, theirs = facts.text(source, str(number)), facts.text(target, str(number))
        agree = ours == theirs if ours is not None and theirs is not None else None
        rows.append(FingerprintRow(number, facts.text(snapshot, str(number)), ours, theirs, agree))
    return tuple(rows)


def _finding_counts(counts: dict[tuple[FindingClass, FindingState], int]) -> tuple[FindingCount, ...]:
    return tuple(
        FindingCount(
            finding_class,
            meaning,
            {
                state: counts[finding_class, state]
                for state in FindingState
                if (finding_class, state) in counts
            },
        )
        for finding_class, meaning in CLASS_MEANING.items()
        if any(found is finding_class for found, _ in counts)
    )


def _artifact(row: Artifact) -> ArtifactView:
    return ArtifactView(masked_text(row.kind), masked_text(row.path), row.size, row.sha256, row.created_at)
