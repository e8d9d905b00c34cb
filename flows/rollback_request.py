"""One rollback, whoever asks for it and however often: an event on Prefect, the webhook, a flow.

All of them end here, and here in the state machine that ``greenfly rollback`` drives.  Of several that ask at once one
rolls back; the others wait for it, and say so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from random import uniform
from time import monotonic, sleep
from typing import Final

from flows import operations
from flows.sequence import Outcome, read_outcome
from integrity.errors import Refused
from integrity.ledger import Ledger, models, open_ledger
from integrity.ledger.models import RunKind, RunState
from integrity.ledger.operations import is_alive, under_way
from integrity.ledger.operations import operations as operations_of
from integrity.progress import Progress
from integrity.settings import Settings
from integrity.switch.conductor import find_sync_run

TRIGGERED: Final = "rollback.triggered"
JOINED: Final = "rollback.joined"
IDLE: Final = "rollback.not-needed"
_LOOK_SECONDS: Final = 0.2


class Origin(StrEnum):
    """Who asked."""

    FLOW = "flow"
    """A person, on Prefect's page or command line."""
    EVENT = "event"
    """``greenfly.rollback.requested``"""
    GUARD = "guard"
    """``greenfly.guard.breached``"""
    WEBHOOK = "webhook"


class Answer(StrEnum):
    """What became of a request."""

    DONE = "done"
    """It rolled back."""
    JOINED = "joined"
    """Another rollback did, while this one waited for it."""
    ON_BLUE = "on-blue"
    """The applications were on blue already."""


@dataclass(frozen=True, slots=True)
class RollbackAnswer:
    """What became of a request, and of the applications."""

    answer: Answer
    sync_run_id: str
    outcome: Outcome | None
    """Of the rollback, whoever did it; None where there was none to do."""

    @property
    def text(self) -> str:
        """For people."""
        match self.answer:
            case Answer.DONE:
                return "The applications are back on blue."
            case Answer.JOINED:
                run = self.outcome.run_id if self.outcome else "unknown"
                return (
                    f"The applications are back on blue: run {run} did it, which somebody else had asked for."
                )
            case Answer.ON_BLUE:
                return operations.ON_BLUE

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "answer": self.answer.value,
            "sync_run": self.sync_run_id,
            "run": self.outcome.run_id if self.outcome else None,
            "text": self.text,
        }


def bring_back(
    settings: Settings,
    wanted: str,
    progress: Progress,
    *,
    origin: Origin,
    reason: str,
    abandon: bool = False,
    flow_run_id: str | None = None,
    patience_seconds: float = 600.0,
) -> RollbackAnswer:
    """Roll back, or wait for whoever does already; recorded with who asked and why.

    :param wanted: the sync run, an operation that rests on it, or ``latest``.
    :param patience_seconds: how long to wait for an operation of somebody else.
    :raises Refused: there is nothing to go back from, or another operation does not come to its end.
    :raises GreenflyError: it did not go through; recorded, with a report.
    """
    ledger = open_ledger(settings)
    try:
        sync_run = find_sync_run(ledger, wanted)
        asked_at = datetime.now(UTC)
        facts: Mapping[str, object] = {
            "origin": origin.value,
            "reason": reason,
            "abandon": abandon,
            "flow_run": flow_run_id,
        }
        ledger.record_event(TRIGGERED, facts, sync_run.id)
        until = monotonic() + patience_seconds
        while True:
            tried_at = datetime.now(UTC)
            try:
                outcome = operations.roll_back(
                    settings, sync_run.id, progress, abandon=abandon, reason=reason, flow_run_id=flow_run_id
                )
            except Refused:
                if not _wait_for_others(ledger, sync_run, tried_at, until, progress):
                    raise
                continue
            if outcome is not None:
                return RollbackAnswer(Answer.DONE, sync_run.id, outcome)
            other = _done_by_another(ledger, sync_run, asked_at)
            answer = Answer.ON_BLUE if other is None else Answer.JOINED
            ledger.record_event(
                IDLE if other is None else JOINED,
                {"origin": origin.value, "flow_run": flow_run_id, "run": other},
                sync_run.id,
            )
            return RollbackAnswer(
                answer, sync_run.id, read_outcome(ledger, other) if other is not None else None
            )
    finally:
        ledger.close()


def _wait_for_others(
    ledger: Ledger, sync_run: models.Run, tried_at: datetime, until: float, progress: Progress
) -> bool:
    """Wait until no operation of a living process is under way; whether trying again may help."""
    met = len([run for run in operations_of(ledger, sync_run.id) if run.started_at >= tried_at]) > 1
    while (other := under_way(ledger, sync_run.id)) is not None and is_alive(other):
        if not met:
            progress.say(f"A {other.kind.value} is under way (run {other.id}): waiting for its end.")
        met = True
        if monotonic() >= until:
            return False
        sleep(_LOOK_SECONDS)
    if not met:
        # It was refused for another reason, which stays.
        return False
    # Of two that begin at the same moment both give way; the next time they do not begin at the same moment.
    sleep(uniform(0.0, 1.0))  # noqa: S311  (no secret)
    return monotonic() < until


def _done_by_another(ledger: Ledger, sync_run: models.Run, asked_at: datetime) -> str | None:
    """The rollback that ended after this one was asked for."""
    for run in reversed(operations_of(ledger, sync_run.id)):
        through = run.kind is RunKind.ROLLBACK and run.state is RunState.FINISHED
        if through and run.ended_at is not None and run.ended_at >= asked_at:
            return run.id
    return None


def recovered(settings: Settings, watch_run: str | None, rule: str | None) -> str | None:
    """In one sentence, that the breach which asks for a rollback is over by now; None where it is not, or none asks."""
    if not watch_run or not rule:
        return None
    ledger = open_ledger(settings)
    try:
        events = ledger.events(ledger.find_run(watch_run).id)
    finally:
        ledger.close()
    told = [
        event.kind
        for event in events
        if event.kind in {"guard.breached", "guard.recovered"} and json.loads(event.payload)["rule"] == rule
    ]
    if told and told[-1] == "guard.recovered":
        return f"The breach of {rule} that run {watch_run} saw has recovered."
    return None
