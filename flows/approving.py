"""Approvals of a cutover while its flow waits: Prefect's pause is one more way into the ledger's book of decisions.

The ledger decides.  What is answered on Prefect's page is recorded there like ``greenfly approve`` would; what is
recorded there by anybody else ends the pause.  Prefect does not say who answered, so the form asks for a name.
"""

from __future__ import annotations

from contextlib import closing, suppress
from enum import StrEnum
from threading import Event, Thread
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import FlowPauseTimeout, PrefectException
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from pydantic import Field

from flows import operations
from flows.approval_desk import LOOK_SECONDS, Desk
from integrity.errors import ConfigurationError, LedgerError, Refused
from integrity.ledger import open_ledger
from integrity.ledger.reviews import CUTOVER_GATE
from integrity.ledger.vocabulary import Decision
from integrity.progress import Progress
from integrity.settings import Settings


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
    with closing(open_ledger(settings)) as ledger:
        desk = Desk(settings, ledger, sync_run_id)
        if desk.passed():
            return
        desk.request(f"by flow run {flow_run.get_id()}")
        asks_here = on_prefect and settings.flows.approval_on_prefect
        progress.say(
            f"Waiting for approvals: `greenfly approve {sync_run_id}`"
            + (", or resume this flow run on Prefect's page." if asks_here else ".")
        )
        desk.wait(_PrefectPage(settings, desk, progress).listen if asks_here else None)


class _PrefectPage:
    """Where answers can be given while the flow run is paused."""

    def __init__(self, settings: Settings, desk: Desk, progress: Progress) -> None:
        self._settings = settings
        self._desk = desk
        self._progress = progress
        self._pauses = 0
        self._problem = ""

    def listen(self, seconds: float) -> None:
        """Pause until somebody answers here, or decides in the ledger."""
        self._pauses += 1
        answer = _pause(self._desk, seconds, self._pauses, self._problem)
        self._problem = _take(self._settings, self._desk.sync_run_id, answer) if answer is not None else ""
        if self._problem:
            self._progress.say(self._problem)


def _pause(desk: Desk, seconds: float, number: int, problem: str) -> CutoverDecision | None:
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
        watcher.join(5 * LOOK_SECONDS)


def _resume_when_decided(desk: Desk, known: int, flow_run_id: str, ended: Event) -> None:
    """What is decided in the ledger ends the pause."""
    with get_client(sync_client=True) as client:
        while not ended.wait(LOOK_SECONDS):
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
