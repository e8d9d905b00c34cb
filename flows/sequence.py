"""The order of the phases, once, for every way to run them.

The command line calls these functions directly; a Prefect flow calls the same ones and hands over a *step* that makes
each phase a task.  A report is written at the end of every run, also of one that failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from flows.observing import observed
from integrity.endpoint import Endpoint
from integrity.errors import GreenflyError, LedgerError
from integrity.from_rdb.job import FileJob
from integrity.ledger import Ledger, models, open_ledger
from integrity.ledger.models import FindingState, RunKind, Verdict
from integrity.migration import Run, settings_as_started
from integrity.phases.sync import SyncPhase
from integrity.progress import Progress
from integrity.rehearsal import REHEARSED, Comparison, compare_with_previous
from integrity.repair import open_findings, repairable_run, servers_now
from integrity.repair_plan import KeyPlan, RepairPlanner
from integrity.scratch import claim_scratch, empty_scratch, on_scratch
from integrity.settings import ConflictPolicy, Settings
from integrity.strategy import Strategy
from integrity.switch.operate import stand_by
from reports import ReportFiles, write_report
from reports.queries import exceptions_by_rule

T = TypeVar("T")
OPERATES = frozenset({RunKind.CUTOVER, RunKind.ROLLBACK, RunKind.WATCH})
"""Kinds of run that rest on a sync run."""


class Step(Protocol):
    """Runs one phase."""

    def __call__(self, name: str, function: Callable[[], T]) -> T:
        """Run *function* under *name* and return what it returns."""


def directly(name: str, function: Callable[[], T]) -> T:
    """The step without an orchestrator."""
    return function()


@dataclass(frozen=True, slots=True)
class PhaseOutcome:
    """One phase as the ledger holds it."""

    name: str
    state: str
    keys: int
    bytes: int
    seconds: float
    detail: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to, for terminals, flows and scripts."""

    run_id: str
    kind: RunKind
    state: str
    verdict: Verdict | None
    reason: str | None
    source: str | None
    target: str | None
    target_engine: str | None
    phases: tuple[PhaseOutcome, ...]
    findings: Mapping[str, Mapping[str, int]]
    """State → class → count."""
    report: ReportFiles | None
    snapshot: str | None
    """Folder of the snapshot, where one was taken."""
    repairs: str | None = None
    """The run that this one repaired."""
    exceptions: Mapping[str, int] = field(default_factory=dict)
    """Rule id → findings that it excepts."""
    source_engine: str | None = None
    """``Redis 7.0.15``; None where it was not asked, or is a file."""

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        report = self.report
        return {
            "run": self.run_id,
            "kind": self.kind.value,
            "state": self.state,
            "verdict": self.verdict.value if self.verdict else None,
            "reason": self.reason,
            "source": self.source,
            "source_engine": self.source_engine,
            "target": self.target,
            "target_engine": self.target_engine,
            "phases": [
                {
                    "name": phase.name,
                    "state": phase.state,
                    "keys": phase.keys,
                    "bytes": phase.bytes,
                    "seconds": phase.seconds,
                    "detail": dict(phase.detail),
                }
                for phase in self.phases
            ],
            "exceptions": dict(self.exceptions),
            "findings": {state: dict(classes) for state, classes in self.findings.items()},
            "snapshot": self.snapshot,
            "repairs": self.repairs if self.kind is RunKind.REPAIR else None,
            "sync_run": self.repairs if self.kind in OPERATES else None,
            "report": {"html": str(report.html), "json": str(report.json), "csv": str(report.csv)}
            if report
            else None,
        }


@dataclass(frozen=True, slots=True)
class NothingToRepair:
    """A repair that was not begun: the run has no open finding.  Nothing was compared, so there is no verdict."""

    run_id: str
    verdict: Verdict | None
    """Of that run."""

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {"run": None, "repairs": self.run_id, "verdict": None, "reason": self.text}

    @property
    def text(self) -> str:
        """For people."""
        verdict = self.verdict.value if self.verdict else "no verdict"
        return f"Run {self.run_id} ({verdict}) has no open finding: there is nothing to repair. Nothing was compared."


def read_outcome(ledger: Ledger, run_id: str, report: ReportFiles | None = None) -> Outcome:
    """The outcome of any run, from the ledger."""
    run = ledger.find_run(run_id)
    findings: dict[str, dict[str, int]] = {FindingState.OPEN.value: {}}
    for (finding_class, state), count in ledger.finding_counts(run.id).items():
        findings.setdefault(state.value, {})[finding_class.value] = count
    phases = tuple(
        PhaseOutcome(
            phase.name.value,
            phase.state.value,
            phase.keys,
            phase.bytes,
            round((phase.ended_at - phase.started_at).total_seconds(), 3) if phase.ended_at else 0.0,
            phase.detail,
        )
        for phase in ledger.phases(run.id)
    )
    exceptions: dict[str, int] = {}
    for (rule, _), count in exceptions_by_rule(ledger, run.id).items():
        name = rule or "not recorded"
        exceptions[name] = exceptions.get(name, 0) + count
    snapshot = next((a for a in ledger.artifacts(run.id) if a.kind == "header"), None)
    return Outcome(
        run_id=run.id,
        kind=run.kind,
        state=run.state.value,
        verdict=run.verdict,
        reason=run.reason,
        source=run.source_address,
        target=run.target_address,
        target_engine=_title(run.target),
        phases=phases,
        findings=findings,
        report=report,
        snapshot=str(Path(snapshot.path).parent) if snapshot else None,
        repairs=run.parent_id,
        exceptions=exceptions,
        source_engine=_title(run.source),
    )


def _title(server: Mapping[str, object] | None) -> str | None:
    if not server or "engine" not in server or "version" not in server:
        return None
    return f"{str(server['engine']).capitalize()} {server['version']}"


def migrate(
    settings: Settings,
    progress: Progress,
    step: Step = directly,
    flow_run_id: str | None = None,
    *,
    resume: bool = False,
    resume_if_any: bool = False,
) -> Outcome:
    """Check, assess, snapshot, stream or replicate, verify, report.

    :param resume: go on with the newest run between the two servers that broke off while it copied.
    :param resume_if_any: the same where there is one, else a new run; for schedules.

    :raises GreenflyError: the run broke off; it is recorded, and has a report where the ledger can be used.
    """

    def phases(run: Run) -> None:
        _copy_and_prove(settings, run, step)

    return _run(
        settings,
        RunKind.MIGRATE,
        progress,
        step,
        flow_run_id,
        phases,
        resume=resume,
        resume_if_any=resume_if_any,
    )


def _copy_and_prove(settings: Settings, run: Run, step: Step) -> None:
    servers = step("check", run.check)
    choice = step("assess", lambda: run.assess(servers))
    if settings.snapshot.enabled and not run.has_snapshot:
        step("snapshot", lambda: run.snapshot(servers.source, servers.source_identity, servers.databases))
    if choice.strategy is Strategy.NATIVE:
        servers = step("replicate", lambda: run.replicate(servers))
    else:
        step("stream", lambda: run.stream(servers))
    step("verify", lambda: run.verify(servers))
    if choice.strategy is Strategy.NATIVE:
        step("repair", lambda: run.repair_dropped(servers))


def rehearse(
    settings: Settings,
    progress: Progress,
    step: Step = directly,
    flow_run_id: str | None = None,
    *,
    compared: Callable[[Comparison], None] = lambda _: None,
) -> Outcome:
    """Empty the scratch server, migrate into it, compare with the last rehearsal, report.

    :param compared: told how it compares with the one before.
    :raises Refused: the scratch server is none, or somebody else's.
    :raises GreenflyError: the run broke off; it is recorded, and has a report where the ledger can be used.
    """
    rehearsed = on_scratch(settings).model_copy(
        update={"copying": settings.copying.model_copy(update={"conflict": ConflictPolicy.FAIL})}
    )

    def phases(run: Run) -> None:
        scratch = Endpoint.from_settings("target", rehearsed.target)
        # Recorded before anything is emptied: of two that begin at the same moment, each sees the other.
        run.handle.identify(source=None, target=None, source_address=None, target_address=str(scratch))
        run.handle.event(REHEARSED, {"scratch": str(scratch)})
        step("scratch", lambda: claim_scratch(settings, run.ledger, run.id))
        _copy_and_prove(rehearsed, run, step)
        if not settings.flows.keep_scratch:
            step("empty", lambda: empty_scratch(settings, run.ledger, run.id))

    def afterwards(ledger: Ledger, run_id: str) -> None:
        compared(step("compare", lambda: compare_with_previous(ledger, run_id)))

    return _run(rehearsed, RunKind.MIGRATE, progress, step, flow_run_id, phases, afterwards=afterwards)


def migrate_file(
    settings: Settings,
    path: Path,
    progress: Progress,
    step: Step = directly,
    flow_run_id: str | None = None,
    *,
    resume: bool = False,
    resume_if_any: bool = False,
) -> Outcome:
    """Check, index an RDB file, load it into the target, verify, report; there is no source server.

    :param resume: go on with the newest run from this file to this target that broke off while it loaded.
    :param resume_if_any: the same where there is one, else a new run.
    :raises GreenflyError: the run broke off; it is recorded, and has a report where the ledger can be used.
    """

    def phases(run: Run) -> None:
        job = FileJob(run, path, progress)
        step("check", job.check)
        step("index", job.index)
        step("load", job.load)
        step("verify", job.verify)

    return _run(
        settings,
        RunKind.MIGRATE,
        progress,
        step,
        flow_run_id,
        phases,
        resume=resume,
        resume_if_any=resume_if_any,
        source_name=f"file:{path.name}",
    )


def sync(
    settings: Settings,
    progress: Progress,
    step: Step = directly,
    flow_run_id: str | None = None,
    *,
    resume: bool = False,
    resume_if_any: bool = False,
    until_equal: bool = False,
) -> Outcome:
    """Check, assess, snapshot, then copy and follow until somebody stops it, report.

    :param resume: go on with the newest sync between the two servers that broke off.
    :param resume_if_any: the same where there is one, else a new run.
    :param until_equal: end as soon as both sides were proven equal.
    :raises GreenflyError: the run broke off; it is recorded.
    """

    def phases(run: Run) -> None:
        servers = step("check", run.check)
        choice = step("assess", lambda: run.assess(servers))
        if settings.snapshot.enabled and not run.has_snapshot:
            step("snapshot", lambda: run.snapshot(servers.source, servers.source_identity, servers.databases))

        def stand_in(phase: SyncPhase) -> None:
            stand_by(settings, run.ledger, run.id, phase, progress)

        step(
            "sync",
            lambda: run.sync(servers, strategy=choice.strategy, until_equal=until_equal, stand_by=stand_in),
        )

    return _run(
        settings,
        RunKind.SYNC,
        progress,
        step,
        flow_run_id,
        phases,
        resume=resume,
        resume_if_any=resume_if_any,
    )


def verify(
    settings: Settings, progress: Progress, step: Step = directly, flow_run_id: str | None = None
) -> Outcome:
    """Check, verify, report.

    :raises GreenflyError: the run broke off; it is recorded.
    """

    def phases(run: Run) -> None:
        servers = step("check", run.check)
        step("verify", lambda: run.verify(servers))

    return _run(settings, RunKind.VERIFY, progress, step, flow_run_id, phases)


def assess(
    settings: Settings, progress: Progress, step: Step = directly, flow_run_id: str | None = None
) -> Outcome:
    """Check, assess, report; nothing is written to a server.

    :raises GreenflyError: the run broke off; it is recorded.
    """

    def phases(run: Run) -> None:
        servers = step("check", run.check)
        step("assess", lambda: run.assess(servers))

    return _run(settings, RunKind.ASSESS, progress, step, flow_run_id, phases)


def repair(
    settings: Settings,
    wanted: str,
    progress: Progress,
    step: Step = directly,
    flow_run_id: str | None = None,
    *,
    delete_extra: bool = False,
) -> Outcome | NothingToRepair:
    """Write what an earlier run found to differ once more, look at exactly those keys again, report.

    :param wanted: that run; the rules, the conflict policy and the databases that it was started with hold.
    :param delete_extra: delete keys that only the target has.
    :raises Refused: that run is still running, is about other servers, or found nothing out.
    :raises GreenflyError: the repair broke off; it is recorded, and the same call goes on with the rest.
    """
    ledger = open_ledger(settings)
    try:
        parent = repairable_run(ledger, wanted, settings)
        if not open_findings(ledger, parent.id):
            return NothingToRepair(parent.id, parent.verdict)
    finally:
        ledger.close()

    def phases(run: Run) -> None:
        servers = step("check", run.check)
        step("repair", lambda: run.repair(servers, parent, delete_extra=delete_extra))

    settings = settings_as_started(settings, parent)
    return _run(settings, RunKind.REPAIR, progress, step, flow_run_id, phases, parent=parent)


def plan_repair(
    settings: Settings, wanted: str, each: Callable[[KeyPlan], None], *, delete_extra: bool = False
) -> str:
    """Tell *each* key that :func:`repair` would deal with, and how; returns the id of the run that it would repair.

    Nothing is written to a server or to the ledger.

    :raises Refused: as :func:`repair`.
    :raises ServerError: a server is lost or refuses.
    """
    ledger = open_ledger(settings)
    try:
        parent = repairable_run(ledger, wanted, settings)
        settings = settings_as_started(settings, parent)
        servers = servers_now(settings)
        with RepairPlanner(settings, ledger, parent, servers, delete_extra=delete_extra) as planner:
            for groups in planner.pages():
                for plan in planner.plan(groups):
                    each(plan)
        return parent.id
    finally:
        ledger.close()


def snapshot(
    settings: Settings, progress: Progress, step: Step = directly, flow_run_id: str | None = None
) -> Outcome:
    """Check the source, take a snapshot of it, report.

    :raises GreenflyError: the run broke off; it is recorded.
    """

    def phases(run: Run) -> None:
        source, identity, databases = step("check", run.check_source)
        step("snapshot", lambda: run.snapshot(source, identity, databases))

    return _run(settings, RunKind.SNAPSHOT, progress, step, flow_run_id, phases)


@observed
def _run(
    settings: Settings,
    kind: RunKind,
    progress: Progress,
    step: Step,
    flow_run_id: str | None,
    phases: Callable[[Run], None],
    *,
    resume: bool = False,
    resume_if_any: bool = False,
    parent: models.Run | None = None,
    source_name: str | None = None,
    afterwards: Callable[[Ledger, str], None] | None = None,
) -> Outcome:
    """
    :param afterwards: told of the run when it has ended well, before its report is written.
    """
    ledger = open_ledger(settings)
    try:
        if resume or (resume_if_any and Run.broken_off(settings, ledger, kind, source_name) is not None):
            run = Run.resume(settings, ledger, progress, kind, source_name)
        else:
            run = Run.start(settings, ledger, kind, progress, flow_run_id, parent=parent)
        directory = settings.report_dir / run.id
        try:
            with run.recorded():
                phases(run)
        except GreenflyError as error:
            error.add_note(f"run {run.id}")
            if not isinstance(error, LedgerError):
                report = write_report(ledger, run.id, directory)
                error.add_note(f"report {report.html}")
            raise
        if afterwards is not None:
            afterwards(ledger, run.id)
        report = step("report", lambda: write_report(ledger, run.id, directory))
        return read_outcome(ledger, run.id, report)
    finally:
        ledger.close()
