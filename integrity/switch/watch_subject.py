"""What is watched: the sync run, its cutover, and the fence that the cutover left on blue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from integrity.errors import ConfigurationError, Refused
from integrity.ledger import Ledger
from integrity.ledger.models import Run, RunKind, RunState
from integrity.ledger.steps import read_steps
from integrity.ledger.vocabulary import StepState
from integrity.switch.fence_plan import FencePlan
from integrity.switch.fence_record import extended_plan

_STORY: Final = frozenset({RunKind.SYNC, RunKind.CUTOVER, RunKind.ROLLBACK, RunKind.WATCH})
_NEWEST_RUNS: Final = 500


@dataclass(frozen=True, slots=True)
class Subject:
    """What is watched: green, as the cutover of this sync run left it."""

    sync: Run
    cutover: Run


def find_subject(ledger: Ledger, wanted: str) -> Subject:
    """The sync run and its cutover, by the id of either, of a watch of it, or ``latest``.

    :raises ConfigurationError: no such run, or one of another kind.
    :raises Refused: the applications are not on green, or somebody watches already.
    """
    run = _newest(ledger) if wanted == "latest" else ledger.find_run(wanted)
    if run.kind not in _STORY:
        raise ConfigurationError(
            f"Run {run.id} is a {run.kind.value} run.",
            "Name the sync run or the cutover run that is to be watched.",
        )
    sync = run if run.kind is RunKind.SYNC or run.parent_id is None else ledger.find_run(run.parent_id)
    others = ledger.child_runs(sync.id)
    cutovers = [other for other in others if other.kind is RunKind.CUTOVER]
    cutover = run if run.kind is RunKind.CUTOVER else (cutovers[-1] if cutovers else None)
    if cutover is None or not _went_through(ledger, cutover):
        raise Refused(
            f"Run {sync.id} has no cutover that holds, so no application is on green.",
            "Cut over first: `greenfly cutover`.",
        )
    subject = Subject(sync, cutover)
    back = rolled_back_by(ledger, subject)
    if back is not None:
        raise Refused(f"Run {back} rolled the cutover back.", "There is nothing on green to be watched.")
    for other in others:
        alive = other.state is RunState.RUNNING and other.lease_until > datetime.now(UTC)
        if other.kind is RunKind.WATCH and alive:
            raise Refused(
                f"Run {other.id} watches already ({other.lease_owner}).",
                "Leave it to that one, or stop it first: two of them could start two rollbacks.",
            )
    return subject


def rolled_back_by(ledger: Ledger, subject: Subject) -> str | None:
    """The id of the run that has sent the applications back to blue since the cutover; None where none has."""
    for run in reversed(ledger.child_runs(subject.sync.id)):
        later = run.kind is RunKind.ROLLBACK and run.started_at > subject.cutover.started_at
        if later and _went_through(ledger, run):
            return run.id
    return None


def _went_through(ledger: Ledger, run: Run) -> bool:
    """Whether a cutover or rollback has switched the environment, and not undone it.

    What fails after that, an application that does not come, say, leaves the environment as it is.
    """
    steps = {step.name: step.state for step in read_steps(ledger.engine, run.id)}
    if "switch" in steps:
        return steps["switch"] is StepState.DONE
    return run.state is RunState.FINISHED and StepState.UNDONE not in steps.values()


def _newest(ledger: Ledger) -> Run:
    run = next((run for run in ledger.runs(_NEWEST_RUNS) if run.kind in _STORY), None)
    if run is None:
        raise ConfigurationError("The ledger holds no sync run yet.", "Start `greenfly sync` first.")
    return run


def recorded_fence(ledger: Ledger, cutover_id: str) -> FencePlan | None:
    """The plan of the fence that a cutover put up on blue: the first one among its steps.

    A later step may hold another plan: of what it lifted on green.
    """
    for step in read_steps(ledger.engine, cutover_id):
        for facts in (step.detail, *step.detail.values()):
            if isinstance(facts, Mapping) and "method" in facts and "users" in facts:
                if step.state is StepState.UNDONE:
                    return None
                return extended_plan(ledger, cutover_id, FencePlan.from_dict(facts))
    return None
