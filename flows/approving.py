"""Approvals of a cutover while its flow waits: Prefect's pause is one more way into the ledger's book of decisions.

The ledger decides.  What is answered on Prefect's page is recorded there like ``greenfly approve`` would; what is
recorded there by anybody else ends the pause.  Prefect does not say who answered, so the form asks for a name.
"""

from __future__ import annotations

from contextlib import suppress
from enum import StrEnum
from threading import Event, Thread
from time import monotonic
from typing import Final
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import FlowPauseTimeout, PrefectException
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from pydantic import Field

from flows import operations
from integrity.errors import ConfigurationError, LedgerError, Refused
from integrity.ledger import Ledger, open_ledger
from integrity.ledger.approvals import Standing, standing
from integrity.ledger.naming import operator_name
from integrity.ledger.reviews import CUTOVER_GATE, decisions_in_force
from integrity.ledger.vocabulary import Decision
from integrity.progress import Progress
from integrity.settings import Settings

_LOOK_SECONDS: Final = 1.0


class Answer(StrEnum):
    """What can be said on Prefect's page."""

    APPROVE = "approve"
    REJECT = "reject"
    LOOK_AGAIN = "look-again"
    """Somebody decided elsewhere: read the ledger again."""


class CutoverDecision(RunInput):
    """The form on Prefect's page."""

    answer: Answer = Field(Answer.LOOK_AGAIN, title="Answer", description="what you decide")
    by: str = Field("", title="Your name", description="kept with the decision", max_length=200)
    comment: str = Field("", title="Comment", description="why; kept with the decision", max_length=2000)


def wait_for_approvals(settings: Settings, sync_run_id: str, progress: Progress, *, on_prefect: bool) -> None:
    """Ask for the approvals that are missing, and return when they are there.

    :param on_prefect: whether somebody can answer on Prefect's page; else only the ledger is looked at.
    :raises Refused: somebody rejected it, or nobody answered within ``flows.approval_seconds``.
    """
    if not settings.cutover.approvals:
        return
    ledger = open_ledger(settings)
    try:
        desk = _Desk(settings, ledger, sync_run_id)
        if desk.passed():
            return
        desk.request()
        progress.say(
            f"Waiting for approvals: `greenfly approve {sync_run_id}`"
            + (", or resume this flow run on Prefect's page." if on_prefect else ".")
        )
        until = monotonic() + settings.flows.approval_seconds
        pauses, problem = 0, ""
        while not desk.passed():
            desk.require_no_rejection()
            left = until - monotonic()
            if left <= 0:
                raise Refused(
                    f"Nobody approved the cutover within {settings.flows.approval_seconds:,.0f} s.",
                    "Nothing was done; start it again when somebody is there.",
                )
            if not (on_prefect and settings.flows.approval_on_prefect):
                Event().wait(min(_LOOK_SECONDS, left))
                continue
            pauses += 1
            answer = _pause(desk, left, pauses, problem)
            problem = _take(settings, sync_run_id, answer) if answer is not None else ""
            if problem:
                progress.say(problem)
    finally:
        ledger.close()


class _Desk:
    """Where the gate stands by the ledger."""

    def __init__(self, settings: Settings, ledger: Ledger, sync_run_id: str) -> None:
        self._settings = settings
        self._ledger = ledger
        self._run = sync_run_id

    @property
    def decisions(self) -> int:
        """How many were made."""
        return len(decisions_in_force(self._ledger.engine, self._run))

    def request(self) -> None:
        """Record that this flow asks, unless somebody has asked since the last decision."""
        decisions = decisions_in_force(self._ledger.engine, self._run)
        if not decisions or decisions[-1].decision is not Decision.REQUESTED:
            comment = f"by flow run {flow_run.get_id()}"
            operations.decide(self._settings, self._run, CUTOVER_GATE, Decision.REQUESTED, None, comment)

    def standing(self) -> Standing:
        """What the decisions amount to."""
        return standing(
            decisions_in_force(self._ledger.engine, self._run),
            separate=self._settings.cutover.separate_approver,
            requester=operator_name(),
        )

    def passed(self) -> bool:
        """Whether the gate is open."""
        at = self.standing()
        return at.broken_by is not None or len(at.approvers) >= self._settings.cutover.approvals

    def require_no_rejection(self) -> None:
        """
        :raises Refused: somebody rejected it after it was asked for.
        """
        for decision in reversed(decisions_in_force(self._ledger.engine, self._run)):
            if decision.decision is Decision.REQUESTED:
                return
            if decision.decision in (Decision.REJECTED, Decision.REPEAT):
                raise Refused(f"{decision.by} rejected the cutover.", "Nothing was done.")

    @property
    def text(self) -> str:
        """For the form."""
        at = self.standing()
        names = ", ".join(at.approvers) or "nobody"
        return (
            f"Cut over sync run {self._run} to green? {self._settings.cutover.approvals} approvals are needed; "
            f"so far: {names}. `greenfly approve {self._run}` answers as well."
        )


def _pause(desk: _Desk, seconds: float, number: int, problem: str) -> CutoverDecision | None:
    """Pause the flow run until somebody answers here, or decides in the ledger; None where nobody did."""
    form = CutoverDecision.with_initial_data(description=f"{problem} {desk.text}".strip())
    ended = Event()
    watcher = Thread(
        target=_resume_when_decided,
        args=(desk, desk.decisions, flow_run.get_id(), ended),
        name="greenfly-approvals",
        daemon=True,
    )
    watcher.start()
    try:
        return pause_flow_run(
            wait_for_input=form,
            timeout=max(1, int(seconds)),
            poll_interval=1,
            key=f"approval-{number}",
        )
    except FlowPauseTimeout:
        return None
    finally:
        ended.set()
        watcher.join(5 * _LOOK_SECONDS)


def _resume_when_decided(desk: _Desk, known: int, flow_run_id: str, ended: Event) -> None:
    """What is decided in the ledger ends the pause."""
    with get_client(sync_client=True) as client:
        while not ended.wait(_LOOK_SECONDS):
            # A ledger or a Prefect that is away at this moment is asked again.
            with suppress(LedgerError, PrefectException, httpx.HTTPError):
                if desk.decisions != known:
                    client.resume_flow_run(UUID(flow_run_id), run_input={"answer": Answer.LOOK_AGAIN.value})


def _take(settings: Settings, sync_run_id: str, given: CutoverDecision) -> str:
    """Record what was said on Prefect's page; what is wrong with it, else nothing."""
    if given.answer is Answer.LOOK_AGAIN:
        return ""
    if not given.by.strip():
        return "The answer had no name, so it does not count."
    decision = Decision.APPROVED if given.answer is Answer.APPROVE else Decision.REJECTED
    comment = given.comment.strip()
    if comment or decision is Decision.APPROVED:
        comment = f"{comment} (on Prefect)".strip()
    try:
        operations.decide(settings, sync_run_id, CUTOVER_GATE, decision, given.by.strip(), comment)
    except (Refused, ConfigurationError) as error:
        return str(error)
    return ""
