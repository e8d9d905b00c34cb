"""Waiting for the approvals of a cutover, wherever they are given: the ledger's book of decisions tells."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from time import monotonic, sleep
from typing import Final

from flows import operations
from integrity.errors import Refused
from integrity.ledger import Ledger, open_ledger
from integrity.ledger.approvals import Standing, standing
from integrity.ledger.naming import operator_name
from integrity.ledger.reviews import CUTOVER_GATE, decisions_in_force
from integrity.ledger.vocabulary import Decision
from integrity.progress import Progress
from integrity.settings import Settings
from integrity.switch.conductor import find_sync_run

LOOK_SECONDS: Final = 1.0
"""How often the ledger is asked."""


def wait_in_ledger(settings: Settings, wanted: str, progress: Progress) -> None:
    """Ask for the approvals of a cutover that are missing, and return when they are there.

    :raises Refused: somebody rejected it, or nobody answered within ``flows.approval_seconds``.
    :raises ConfigurationError: there is no such sync run.
    """
    if not settings.cutover.approvals:
        return
    with closing(open_ledger(settings)) as ledger:
        desk = Desk(settings, ledger, find_sync_run(ledger, wanted).id)
        if not desk.passed():
            desk.request("the cutover waits")
            progress.say(f"Waiting for approvals: `greenfly approve {desk.sync_run_id}`, or the review page.")
            desk.wait()


class Desk:
    """Where the gate stands by the ledger."""

    def __init__(self, settings: Settings, ledger: Ledger, sync_run_id: str) -> None:
        self._settings = settings
        self._ledger = ledger
        self.sync_run_id = sync_run_id

    @property
    def decisions(self) -> int:
        """How many were made."""
        return len(decisions_in_force(self._ledger.engine, self.sync_run_id))

    def request(self, comment: str) -> None:
        """Record that this process asks, unless somebody has asked since the last decision."""
        decisions = decisions_in_force(self._ledger.engine, self.sync_run_id)
        if not decisions or decisions[-1].decision is not Decision.REQUESTED:
            operations.decide(
                self._settings, self.sync_run_id, CUTOVER_GATE, Decision.REQUESTED, None, comment
            )

    def standing(self) -> Standing:
        """What the decisions amount to."""
        return standing(
            decisions_in_force(self._ledger.engine, self.sync_run_id),
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
        for decision in reversed(decisions_in_force(self._ledger.engine, self.sync_run_id)):
            if decision.decision is Decision.REQUESTED:
                return
            if decision.decision in (Decision.REJECTED, Decision.REPEAT):
                raise Refused(f"{decision.by} rejected the cutover.", "Nothing was done.")

    def wait(self, listen: Callable[[float], None] | None = None) -> None:
        """Return when the gate is open.

        :param listen: waits for an answer given elsewhere than in the ledger, at most for so many seconds.
        :raises Refused: somebody rejected it, or nobody answered within ``flows.approval_seconds``.
        """
        until = monotonic() + self._settings.flows.approval_seconds
        while not self.passed():
            self.require_no_rejection()
            left = until - monotonic()
            if left <= 0:
                raise Refused(
                    f"Nobody approved the cutover within {self._settings.flows.approval_seconds:,.0f} s.",
                    "Nothing was done; start it again when somebody is there.",
                )
            if listen is not None:
                listen(left)
            else:
                sleep(min(LOOK_SECONDS, left))

    @property
    def text(self) -> str:
        """For the form."""
        at = self.standing()
        names = ", ".join(at.approvers) or "nobody"
        return (
            f"Cut over sync run {self.sync_run_id} to green? {self._settings.cutover.approvals} approvals are needed; "
            f"so far: {names}. `greenfly approve {self.sync_run_id}` answers as well."
        )
