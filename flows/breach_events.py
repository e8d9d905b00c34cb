"""The guard's breaches as events for Prefect, where an automation can start the rollback.

They go out in a thread of their own: the guard looks on, and what Prefect does not take is said and dropped, because
the ledger and the guard's own notifications have it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Final, Self

from integrity.errors import OrchestratorFailed
from integrity.settings import Settings
from integrity.switch.guard_rules import RuleState
from integrity.switch.lookout import Look
from integrity.switch.watch_settings import OnBreach
from integrity.switch.watch_subject import Subject

BREACHED: Final = "greenfly.guard.breached"
REQUESTED: Final = "greenfly.rollback.requested"
WANTED: Final = "greenfly.rollback"
"""Label of the resource: ``wanted`` where the breach may start the rollback by the settings, else ``not-wanted``."""
_SECONDS: Final = 10.0

_logger = logging.getLogger(__name__)


class BreachEvents:
    """Sends one event for each time that a rule is breached; a context manager."""

    def __init__(self, settings: Settings, subject: Subject) -> None:
        self.watch_run_id = ""
        self._settings = settings.watch
        self._subject = subject
        self._breached: frozenset[str] = frozenset()
        self._waiting: SimpleQueue[tuple[dict[str, str], Mapping[str, object]] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="greenfly-events", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.put(None)
        self._thread.join(2 * _SECONDS)

    def see(self, look: Look) -> None:
        """Hand over what was not breached at the look before."""
        breached = {state.name: state for state in look.breached}
        for name in breached.keys() - self._breached:
            self._waiting.put((self._resource(breached[name]), self._payload(breached[name])))
        self._breached = frozenset(breached)

    def _resource(self, state: RuleState) -> dict[str, str]:
        may = self._settings.rules.by_name()[state.name].rollback
        wanted = may and self._settings.on_breach is OnBreach.ROLLBACK
        return {
            "prefect.resource.id": f"greenfly.run.{self._subject.sync.id}",
            "prefect.resource.name": f"sync {self._subject.sync.id}",
            "greenfly.rule": state.name,
            WANTED: "wanted" if wanted else "not-wanted",
        }

    def _payload(self, state: RuleState) -> Mapping[str, object]:
        return {
            "run": self._subject.sync.id,
            "cutover_run": self._subject.cutover.id,
            "watch_run": self.watch_run_id,
            "rule": state.name,
            "reason": state.text,
        }

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            try:
                send_event(BREACHED, *item)
            except OrchestratorFailed as error:
                _logger.warning("%s", error)


def send_event(event: str, resource: Mapping[str, str], payload: Mapping[str, object]) -> None:
    """Send one event to the server that ``PREFECT_API_URL`` names.

    :raises OrchestratorFailed: no server is named, or it does not take the event.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.events import Event
    from prefect.exceptions import PrefectException
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        raise OrchestratorFailed(
            f"{event} was not sent: no Prefect server is named.",
            "Set PREFECT_API_URL, or flows.events to false.",
        )
    told = Event(event=event, resource=dict(resource), payload=dict(payload))
    try:
        with get_client(sync_client=True) as client:
            client.request("POST", "/events", json=[told.model_dump(mode="json")]).raise_for_status()
    except (httpx.HTTPError, PrefectException, RuntimeError) as error:
        raise OrchestratorFailed(
            f"Prefect did not take {event} ({type(error).__name__}).",
            "Look at PREFECT_API_URL and its server.",
        ) from error
