"""Cutover, rollback and approvals, for every way to run them; a report is written at the end of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from flows.observing import observed_operation
from flows.sequence import Outcome, read_outcome
from integrity.errors import ConfigurationError, GreenflyError, LedgerError
from integrity.flow_links import link_flow_run
from integrity.ledger import Ledger, open_ledger, reviews
from integrity.ledger.naming import operator_name
from integrity.ledger.operations import under_way
from integrity.ledger.reviews import CUTOVER_GATE, Separate
from integrity.ledger.store import RunHandle
from integrity.ledger.sync_board import SyncBoard
from integrity.ledger.vocabulary import Ask, Decision, RunKind
from integrity.progress import Progress, Silent
from integrity.settings import Settings
from integrity.switch import operate
from integrity.switch.asker import BoardAsker
from integrity.switch.conductor import Conductor, find_sync_run
from integrity.switch.cutover import Cutover
from integrity.switch.gates import Gate, refused
from integrity.switch.operate import Operated
from integrity.switch.rollback import Rollback
from reports import write_report

ON_BLUE: Final = "The applications are on blue already: there is nothing to roll back."
_STOP_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class OperationPlan:
    """What an operation would do."""

    sync_run_id: str
    steps: tuple[tuple[str, float, str], ...]
    """Name, budget in seconds, what it does."""
    gates: tuple[Gate, ...]

    @property
    def passes(self) -> bool:
        """Whether every gate is open now."""
        return not refused(self.gates)

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "sync_run": self.sync_run_id,
            "dry_run": True,
            "steps": [{"name": n, "budget_seconds": s, "does": t} for n, s, t in self.steps],
            "gates": [gate.to_dict() for gate in self.gates],
            "passes": self.passes,
        }


def plan_cutover(settings: Settings, wanted: str) -> OperationPlan:
    """The steps of a cutover and what its gates say now; nothing is recorded or done.

    :raises GreenflyError: a server or the environment cannot be asked.
    """
    ledger = open_ledger(settings)
    try:
        sync_run = find_sync_run(ledger, wanted)
        with SyncBoard(ledger.engine, sync_run.id) as board:
            handle = RunHandle(ledger.engine, sync_run.id, settings.lease_seconds)
            cutover = Cutover(settings, ledger, handle, sync_run, BoardAsker(board), Silent())
            return OperationPlan(sync_run.id, tuple(cutover.plan()), tuple(cutover.gates()))
    finally:
        ledger.close()


def plan_rollback(settings: Settings, wanted: str, *, abandon: bool) -> OperationPlan:
    """The steps of a rollback; nothing is recorded or done.

    :raises GreenflyError: the sync run or the environment is not there.
    """
    ledger = open_ledger(settings)
    try:
        sync_run = find_sync_run(ledger, wanted)
        with SyncBoard(ledger.engine, sync_run.id) as board:
            handle = RunHandle(ledger.engine, sync_run.id, settings.lease_seconds)
            rollback = Rollback(
                settings,
                ledger,
                handle,
                sync_run,
                BoardAsker(board),
                Silent(),
                abandon=abandon,
                reason="",
            )
            return OperationPlan(sync_run.id, tuple(rollback.plan()), ())
    finally:
        ledger.close()


@observed_operation(RunKind.CUTOVER)
def cut_over(
    settings: Settings, wanted: str, progress: Progress, *, flow_run_id: str | None = None
) -> Outcome:
    """Cut over, and report.

    :param flow_run_id: the flow run that this belongs to.
    :raises GreenflyError: it did not go through; recorded, with a report.
    """
    return _operated(
        settings,
        lambda ledger, started: operate.cut_over(settings, ledger, wanted, progress, on_started=started),
        flow_run_id,
    )


@observed_operation(RunKind.ROLLBACK)
def roll_back(
    settings: Settings,
    wanted: str,
    progress: Progress,
    *,
    abandon: bool,
    reason: str,
    flow_run_id: str | None = None,
) -> Outcome | None:
    """Roll back, and report; None where the applications are on blue already.

    :param flow_run_id: the flow run that this belongs to.
    :raises GreenflyError: it did not go through; recorded, with a report.
    """
    ledger = open_ledger(settings)
    try:
        sync_run = find_sync_run(ledger, wanted)
        with SyncBoard(ledger.engine, sync_run.id) as board:
            conductor = Conductor(settings, ledger, sync_run, BoardAsker(board), progress)
            on_blue = not conductor.environment_says_green()
        if on_blue and under_way(ledger, sync_run.id) is None:
            return None
    finally:
        ledger.close()
    return _operated(
        settings,
        lambda ledger, started: operate.roll_back(
            settings, ledger, wanted, progress, abandon=abandon, reason=reason, on_started=started
        ),
        flow_run_id,
    )


def _operated(
    settings: Settings,
    operation: Callable[[Ledger, Callable[[str], None]], Operated],
    flow_run_id: str | None,
) -> Outcome:
    ledger = open_ledger(settings)
    runs: list[str] = []

    def started(run_id: str) -> None:
        runs.append(run_id)
        if flow_run_id is not None:
            link_flow_run(ledger, run_id, flow_run_id)

    try:
        try:
            done = operation(ledger, started)
        except GreenflyError as error:
            if runs:
                error.add_note(f"run {runs[0]}")
                if not isinstance(error, LedgerError):
                    report = write_report(ledger, runs[0], settings.report_dir / runs[0])
                    error.add_note(f"report {report.html}")
            raise
        report = write_report(ledger, done.run_id, settings.report_dir / done.run_id)
        return read_outcome(ledger, done.run_id, report)
    finally:
        ledger.close()


def stop_sync(settings: Settings, wanted: str) -> Mapping[str, object]:
    """Tell the sync process to carry over what is left, and end.

    :raises NotDone: it does not answer.
    """
    ledger = open_ledger(settings)
    try:
        sync_run = find_sync_run(ledger, wanted)
        with SyncBoard(ledger.engine, sync_run.id) as board:
            return {"run": sync_run.id} | dict(BoardAsker(board).ask(Ask.STOP, _STOP_SECONDS))
    finally:
        ledger.close()


# -- approvals ------------------------------------------------------------------------------------------------------


def one_decision(*, request: bool, reject: bool, break_glass: bool) -> Decision:
    """The decision that the flags mean.

    :raises ConfigurationError: they contradict each other.
    """
    chosen = [
        decision
        for decision, wanted in (
            (Decision.REQUESTED, request),
            (Decision.REJECTED, reject),
            (Decision.BREAK_GLASS, break_glass),
        )
        if wanted
    ]
    if len(chosen) > 1:
        raise ConfigurationError("Only one decision can be recorded at a time.", "Give one flag.")
    return chosen[0] if chosen else Decision.APPROVED


def decide(
    settings: Settings, wanted: str, gate: str, decision: Decision, by: str | None, comment: str
) -> Mapping[str, object]:
    """Record a decision about a cutover, as the review page does; where the gate stands then.

    :raises ConfigurationError: no such gate, or a reason is missing: of a rejection, and of an emergency.
    :raises Refused: whoever requested may not approve.
    """
    if gate != CUTOVER_GATE:
        raise ConfigurationError(f"There is no gate {gate!r} to approve.", f"Say --gate {CUTOVER_GATE}.")
    name = by or operator_name()
    ledger = open_ledger(settings)
    try:
        sync_run = find_sync_run(ledger, wanted)
        separate = Separate(settings.review.separate_reviewer, settings.cutover.separate_approver)
        at = reviews.decide(ledger.engine, sync_run.id, gate, decision, name, comment, separate).standing
        return {
            "run": sync_run.id,
            "gate": gate,
            "decision": decision.value,
            "by": name,
            "approvals": len(at.approvers),
            "approvers": list(at.approvers),
            "needed": settings.cutover.approvals,
            "rejected_by": at.rejected_by,
            "broken_by": at.broken_by,
        }
    finally:
        ledger.close()
