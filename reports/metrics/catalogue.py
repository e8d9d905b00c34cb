"""Every metric there is, with what it means; the exporter can tell nothing that is not here.

Labels hold words of fixed vocabularies only: never a key, an address, a run's id or anything else that grows with use.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

Merge = Literal["sum", "max", "min"]
"""What two runs that are told under the same labels come to."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric."""

    name: str
    """With prefix, unit, and ``_total`` for what only counts up."""
    help: str
    labels: tuple[str, ...] = ()
    merge: Merge = "sum"

    @property
    def is_counter(self) -> bool:
        """Whether it only counts up, until it begins anew."""
        return self.name.endswith("_total")


_METRICS: Final[dict[str, Metric]] = {}


def _metric(name: str, text: str, *labels: str, merge: Merge = "sum") -> Metric:
    metric = Metric(f"greenfly_{name}", text, labels, merge)
    if metric.name in _METRICS:
        raise ValueError(f"{metric.name} is there twice")
    _METRICS[metric.name] = metric
    return metric


def all_metrics() -> Iterator[Metric]:
    """Every metric, in the order in which they are told."""
    return iter(_METRICS.values())


# -- the exporter itself -----------------------------------------------------------------------------------------------

BUILD_INFO = _metric("build_info", "Always 1; the version that exports.", "version", merge="max")
LEDGER_UP = _metric("ledger_up", "1 if the ledger could be read, else 0 and nothing else is told.")
LEDGER_READ_SECONDS = _metric("ledger_read_seconds", "How long the last reading of the ledger took.")
LEDGER_READ_AT = _metric("ledger_read_timestamp_seconds", "When the ledger was read; Unix time.")

# -- runs --------------------------------------------------------------------------------------------------------------

RUNS = _metric("runs", "Runs in the ledger; lost is running without a process that lives.", "kind", "state")
VERDICTS = _metric("verdicts", "Runs in the ledger that ended with this verdict.", "kind", "verdict")
RUN_START = _metric(
    "run_start_timestamp_seconds", "When the newest run began; Unix time.", "kind", merge="max"
)
RUN_END = _metric(
    "run_end_timestamp_seconds", "When the newest run that has ended did so; Unix time.", "kind", merge="max"
)
RUN_DURATION = _metric(
    "run_duration_seconds", "How long the current run took, or goes on by now.", "kind", merge="max"
)
RUN_VERDICT = _metric(
    "run_verdict",
    "1 at the verdict of the newest run that has ended, else 0.",
    "kind",
    "verdict",
    merge="max",
)
RUN_STATE = _metric("run_state", "How many of the current runs are in this state.", "kind", "state")
LAST_PASS = _metric(
    "last_pass_timestamp_seconds",
    "When the newest run ended that passed, with or without exceptions; Unix time.",
    "kind",
    merge="max",
)
RUN_PAUSED = _metric("run_paused", "Live runs that an operator has paused.", "kind")
KEYS_LIMIT = _metric(
    "run_keys_per_second_limit", "Cap of a live run on keys a second; not there where there is none.", "kind"
)
BYTES_LIMIT = _metric(
    "run_bytes_per_second_limit",
    "Cap of a live run on bytes a second; not there where there is none.",
    "kind",
)

# -- phases of the current runs ----------------------------------------------------------------------------------------

PHASE_STATE = _metric("phase_state", "Current runs whose phase is in this state.", "kind", "phase", "state")
PHASE_KEYS = _metric(
    "phase_keys_total", "Keys that the phase has done; begins anew with each run.", "kind", "phase"
)
PHASE_BYTES = _metric(
    "phase_bytes_total", "Bytes that the phase has done; begins anew with each run.", "kind", "phase"
)
PHASE_KEYS_EXPECTED = _metric(
    "phase_keys_expected", "Keys that the phase expects to do; 0 where it does not know.", "kind", "phase"
)
PHASE_DURATION = _metric(
    "phase_duration_seconds", "How long the phase took, or goes on by now.", "kind", "phase", merge="max"
)
PHASE_ATTEMPTS = _metric(
    "phase_attempts",
    "How often the phase was begun; more than once after a resume.",
    "kind",
    "phase",
    merge="max",
)
THROTTLE_WAIT = _metric(
    "throttle_wait_seconds", "How long the phase was held back so far.", "kind", "phase", "reason"
)
THROTTLE_LATE = _metric(
    "throttle_late_answers",
    "How often a server answered too late so far.",
    "kind",
    "phase",
    "side",
)
RANGES = _metric("ranges", "Ranges that workers share, by where they are.", "kind", "phase", "state")
RANGE_WORKERS = _metric("range_workers", "Workers that hold a shared range.", "kind", "phase")
RANGE_ATTEMPTS = _metric(
    "range_takeovers",
    "How often a shared range was begun anew, by whoever holds it or held it.",
    "kind",
    "phase",
)
FINDINGS = _metric("findings", "Findings of the current runs.", "kind", "class", "state")
ASSESSMENT = _metric(
    "assessment_checks", "Checks of the newest assessment by what they came to.", "outcome", "severity"
)

# -- following ---------------------------------------------------------------------------------------------------------

SYNC_STATE = _metric("sync_state", "Live sync runs in this state.", "direction", "state")
SYNC_LAG = _metric(
    "sync_lag_seconds", "Age of the oldest change that is not carried over.", "direction", merge="max"
)
SYNC_DIRTY = _metric("sync_dirty_keys", "Keys that changed and are not carried over yet.", "direction")
SYNC_UNPROVEN = _metric(
    "sync_unproven_keys", "Keys that were carried over and not compared since.", "direction"
)
SYNC_STUCK = _metric("sync_stuck_keys", "Keys that cannot be made equal; each is a finding.", "direction")
SYNC_BACKLOG = _metric(
    "sync_backlog_bytes", "What waits on the followed server for the feed's reader.", "direction"
)
SYNC_GAP = _metric(
    "sync_gap", "1 while changes may have gone unseen since the last clean pass.", "direction", merge="max"
)
SYNC_CARRIED = _metric(
    "sync_carried_keys_total", "Keys written to the other side since the direction was taken.", "direction"
)
SYNC_REMOVED = _metric(
    "sync_removed_keys_total", "Keys deleted on the other side since the direction was taken.", "direction"
)
SYNC_CLEAN = _metric(
    "sync_clean_timestamp_seconds",
    "When the newest pass began that left nothing unequal; Unix time, not there where there is none.",
    "direction",
    merge="min",
)
SYNC_TOLD = _metric(
    "sync_told_timestamp_seconds",
    "When the sync process last told how it is; Unix time.",
    "direction",
    merge="min",
)

# -- cutover and rollback ----------------------------------------------------------------------------------------------

STEP_STATE = _metric("step_state", "Current operations whose step is in this state.", "kind", "step", "state")
STEP_DURATION = _metric(
    "step_duration_seconds",
    "How long the step's last attempt took, or goes on by now.",
    "kind",
    "step",
    merge="max",
)
STEP_BUDGET = _metric("step_budget_seconds", "How long the step may take.", "kind", "step", merge="max")
WRITE_PAUSE = _metric(
    "write_pause_seconds",
    "How long a client could not write during the newest operation, as that client saw it.",
    "kind",
    merge="max",
)
LONGEST_GAP = _metric(
    "client_longest_gap_seconds",
    "The longest time between two acknowledged writes of that client.",
    "kind",
    merge="max",
)
ROLLBACK_REQUESTS = _metric("rollback_requests_total", "Rollbacks that were asked for.")
DECISIONS = _metric("decisions_total", "What was decided about gates.", "decision")

# -- the guard ---------------------------------------------------------------------------------------------------------

GUARD_BREACHED = _metric("guard_breached", "Live guards under which this rule is breached now.", "rule")
GUARD_BREACHES = _metric("guard_breaches_total", "Breaches of this rule.", "rule")
HEALTH_REACHABLE = _metric("health_reachable", "1 if the guarded server answers.", "side", merge="min")
HEALTH_AT = _metric(
    "health_timestamp_seconds", "When the guarded server was looked at; Unix time.", "side", merge="min"
)
HEALTH_LATENCY = _metric(
    "health_latency_seconds",
    "Latency of the guarded server over the guard's window.",
    "side",
    "quantile",
    merge="max",
)
HEALTH_MEMORY = _metric("health_used_memory_bytes", "Memory that its data uses.", "side")
HEALTH_MAX_MEMORY = _metric("health_max_memory_bytes", "Memory that it may use; 0 is no limit.", "side")
HEALTH_CLIENTS = _metric("health_clients", "Its connections, without the guard's own.", "side")
HEALTH_COMMANDS = _metric("health_commands_per_second", "Its commands, without the guard's own.", "side")
HEALTH_ERRORS = _metric("health_errors_per_second", "Its error replies to anybody.", "side")
HEALTH_EVICTED = _metric("health_evicted_keys_per_second", "Keys that it evicts.", "side")

# -- what happened -----------------------------------------------------------------------------------------------------

SERVER_LOSSES = _metric("server_losses_total", "How often a run lost a server.")
SYNC_GAPS = _metric("sync_gaps_total", "How often changes may have gone unseen.")
RESUMES = _metric("run_resumes_total", "How often a run that broke off was taken over.")

# -- the record --------------------------------------------------------------------------------------------------------

AUDIT_EVENTS = _metric("audit_events_total", "Audit events in the ledger.")
AUDIT_INTACT = _metric(
    "audit_chain_intact", "1 if every event that was walked fits the one before it, else 0.", merge="min"
)
AUDIT_WALKED = _metric("audit_chain_walked_events", "Events of the chain that were walked so far.")
AUDIT_WALK_BEGUN = _metric(
    "audit_chain_walk_timestamp_seconds", "When the present walk along the chain began; Unix time."
)
AUDIT_SIGNED = _metric("audit_signed_timestamp_seconds", "When a checkpoint was last signed; Unix time.")
AUDIT_UNSIGNED = _metric(
    "audit_not_kept_total", "Ends of runs whose checkpoint could not be signed, or not be kept elsewhere."
)

# -- snapshots ---------------------------------------------------------------------------------------------------------

SNAPSHOTS_READABLE = _metric("snapshots_readable", "1 if the folder of the snapshots could be read, else 0.")
SNAPSHOTS = _metric("snapshots", "Snapshots by what there is of them on the exporter's disk.", "state")
SNAPSHOT_TAKEN = _metric(
    "snapshot_newest_timestamp_seconds", "When the newest whole snapshot was taken; Unix time.", merge="max"
)
SNAPSHOT_KEYS = _metric("snapshot_newest_keys", "Keys of the newest whole snapshot.", merge="max")
SNAPSHOT_BYTES = _metric("snapshot_newest_bytes", "Bytes of the newest whole snapshot.", merge="max")
