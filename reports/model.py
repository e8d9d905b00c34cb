"""What a report says, as values: one model from which both the HTML and the JSON are made.

Findings are not in it, only their counts: a run can have a million of them, and both writers read them from the
ledger a page at a time (:mod:`reports.findings`).  The order of the fields is the order of the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from integrity.ledger.models import (
    FindingClass,
    FindingState,
    PhaseName,
    PhaseState,
    RunKind,
    RunState,
    Verdict,
)
from reports.approving import ApprovalsView
from reports.assessing import AssessmentView
from reports.comparing import ComparisonView
from reports.course import CopyView, IncidentsView, RangesRow
from reports.events import EventView
from reports.exceptions import ExceptionGroup, FindingWaiverView
from reports.finding_shapes import FindingShapes
from reports.live import LiveView
from reports.proof import CheckpointView
from reports.repairs import RepairsView
from reports.replicating import ReplicationView
from reports.rules import RulesView
from reports.throttle import ThrottleView

Tone = Literal["pass", "exceptions", "fail", "inconclusive", "undone", "none"]
"""Six looks that differ in word, symbol and frame, not only in colour."""


@dataclass(frozen=True, slots=True)
class VerdictView:
    """The verdict and why."""

    verdict: Verdict | None
    tone: Tone
    word: str
    """The verdict in capitals, or NO VERDICT."""
    meaning: str
    reason: str | None
    state: RunState
    error_kind: str | None
    error: str | None
    contradictions: tuple[str, ...]
    """Facts of the ledger that do not fit the verdict; normally none."""
    notes: tuple[str, ...]
    """What a reader must know before relying on the verdict."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """What the verification looked at.  None is a count that the ledger does not hold."""

    phase_state: PhaseState
    source_keys: int | None
    compared: int | None
    equal: int | None
    big: int | None
    """Compared in pieces."""
    left_out: int | None
    """Keys of the source that the run's rules left out of the comparison."""
    vanished: int | None
    skipped: int | None
    refused: int | None
    unreadable: int | None
    target_keys: int | None
    target_scanned: int | None
    extra: int | None
    out_of_scope: int | None
    """Keys of the target that only keys outside the run's rules could have become."""
    rechecks: int | None
    settled: int | None
    last_recheck_at: datetime | None
    """When the last look at differences ended; None where there was none to look at, or the phase did not tell."""
    field_expiries: bool | None
    """Whether the expiries of single hash fields were compared."""


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """Which run this is."""

    run_id: str
    kind: RunKind
    rehearsal: bool
    """Whether it copied into a scratch server that is no application's."""
    parent_id: str | None
    """The run that this one repairs, or the sync run that it rests on."""
    label: str | None
    version: str
    operator: str
    host: str
    flow_run_id: str | None
    checksum_definition: str
    workers: int | None
    """Processes that shared copy and verify."""
    started_at: datetime
    ended_at: datetime | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class ShardView:
    """One master of a cluster."""

    node_id: str | None
    address: str | None
    server_run_id: str | None
    version: str | None
    slots: str | None
    """``0-5460, 7000``."""
    slots_moving: int | None
    """On their way to or from it."""
    keys: int | None


@dataclass(frozen=True, slots=True)
class EndpointView:
    """One server, or cluster, at one moment of a run."""

    role: Literal["source", "target"]
    address: str | None
    read_from: str | None
    """The replica that was read instead, where there was one; everything below is about that one."""
    engine: str | None
    version: str | None
    title: str | None
    """``Redis 7.0.15``."""
    server_run_id: str | None
    server_role: str | None
    mode: str | None
    used_memory: int | None
    max_memory: int | None
    databases: Mapping[int, int] | None
    """Database → keys, only those that hold any."""
    keys: int | None
    observed_at: str | None
    seen_earlier: bool
    """Whether this is how the sync run saw it, on which this run rests."""
    shards: tuple[ShardView, ...]
    """The masters of a cluster."""
    unknown: str | None
    """Why nothing of this is known."""
    note: str | None


@dataclass(frozen=True, slots=True)
class Sample:
    """Progress at one moment of a phase."""

    seconds: float
    """Since the phase began."""
    keys: int
    bytes: int


@dataclass(frozen=True, slots=True)
class PhaseView:
    """One phase."""

    name: PhaseName
    state: PhaseState
    started_at: datetime
    ended_at: datetime | None
    seconds: float | None
    resumed: bool
    """Whether the run broke off in it and went on later; *seconds* holds the time in between, and no rate is told."""
    keys_expected: int
    keys: int
    bytes: int
    keys_per_second: float | None
    bytes_per_second: float | None
    client_cpu_seconds: float | None
    detail: Mapping[str, object]
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Amount:
    """Keys and bytes."""

    keys: int
    bytes: int


@dataclass(frozen=True, slots=True)
class CountRow:
    """One type in one database, phase by phase.  None where the phase counted nothing."""

    database: int
    kind: str
    snapshot: Amount | None
    stream: Amount | None
    verify: Amount | None


@dataclass(frozen=True, slots=True)
class FingerprintRow:
    """The fingerprints of one database."""

    database: int
    snapshot: str | None
    source: str | None
    target: str | None
    agree: bool | None
    """Source and target; None where one of them is not known."""


@dataclass(frozen=True, slots=True)
class ExpiryView:
    """How expiries were compared."""

    tolerance_ms: int | None
    largest_drift_ms: int | None


@dataclass(frozen=True, slots=True)
class FindingCount:
    """How many findings of one class are in each state."""

    finding_class: FindingClass
    meaning: str
    by_state: Mapping[FindingState, int]

    @property
    def total(self) -> int:
        """In all states."""
        return sum(self.by_state.values())


@dataclass(frozen=True, slots=True)
class ArtifactView:
    """A file that the run wrote."""

    kind: str
    path: str
    size: int
    sha256: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class IntegrityView:
    """How far the record itself can be trusted."""

    chain_intact: bool
    events: int
    """In the whole ledger, not only of this run."""
    head: str
    broken_at: int | None
    problem: str | None
    run_events: int
    """Of this run."""
    checkpoints: int
    """Signed heads in the chain."""
    newest: CheckpointView | None
    """The newest checkpoint that fits the chain."""
    key_ids: tuple[str, ...]
    """Keys that signed."""
    checkpoint_problems: tuple[str, ...]
    """Checkpoints that contradict the chain."""
    not_kept: int
    """Checkpoints that could not be made, or not be kept elsewhere."""
    covered: bool | None
    """Whether a checkpoint signs the end of this run; None where there is none at all."""
    limits: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunReport:
    """All that a report says about one run, apart from the findings one by one."""

    verdict: VerdictView
    coverage: Coverage | None
    """None where no verification began."""
    rules: RulesView
    run: RunIdentity
    configuration: Mapping[str, object]
    source: EndpointView | None
    target: EndpointView | None
    source_after: EndpointView | None
    """As the run saw it last, or why it did not; None where it looked at neither server again."""
    target_after: EndpointView | None
    assessment: AssessmentView | None
    """None where this run assessed nothing."""
    approvals: ApprovalsView
    phases: tuple[PhaseView, ...]
    incidents: IncidentsView
    throttle: tuple[ThrottleView, ...]
    ranges: tuple[RangesRow, ...]
    timeline: tuple[EventView, ...]
    copy: CopyView | None
    """None where nothing was to be copied."""
    replication: ReplicationView | None
    """None where the run did not take the native road."""
    counts: tuple[CountRow, ...]
    fingerprints: tuple[FingerprintRow, ...]
    expiry: ExpiryView | None
    finding_counts: tuple[FindingCount, ...]
    finding_shapes: FindingShapes | None
    """None where no finding counts."""
    repairs: RepairsView | None
    """None where the run neither repairs another nor was repaired."""
    live: LiveView | None
    """What happened while applications wrote; None for a run of another kind."""
    exceptions: tuple[ExceptionGroup, ...]
    waivers: tuple[FindingWaiverView, ...]
    """Differences that somebody let pass, for these two servers, while the run went on or since."""
    comparison: ComparisonView | None
    """None for a kind of run that is not compared with the one before."""
    artifacts: tuple[ArtifactView, ...]
    integrity: IntegrityView
    generated_at: datetime

    @property
    def findings(self) -> int:
        """Findings of all classes in all states."""
        return sum(row.total for row in self.finding_counts)
