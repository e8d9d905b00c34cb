"""What every flow does around its work: settings, tasks, signals, progress, and the link to the ledger's run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TypeVar

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows.parameters import FlowParameters
from flows.runners import SHARED_PHASES, sharing
from flows.sequence import Outcome
from flows.shown_progress import FlowProgress
from integrity.errors import StopSignal
from integrity.progress import Progress
from integrity.ranges.crew import present_crew
from integrity.settings import Settings

T = TypeVar("T")


@dataclass(slots=True)
class _Local:
    """What a process that starts a flow itself hands over in memory."""

    settings: Settings
    progress: Progress
    outcomes: list[Outcome]


_local: _Local | None = None


@contextmanager
def in_this_process(settings: Settings, progress: Progress) -> Iterator[list[Outcome]]:
    """Flows called inside use these settings and show progress here; their outcomes are in the list.

    A flow that a worker runs reads ``greenfly.toml`` and ``GREENFLY_*`` instead.
    """
    global _local  # noqa: PLW0603  (flow parameters are shown on Prefect's page; this is not)
    _local = _Local(settings, progress, [])
    try:
        yield _local.outcomes
    finally:
        _local = None


@dataclass(frozen=True, slots=True)
class Work:
    """What one flow works with."""

    settings: Settings
    progress: Progress
    flow_run_id: str | None
    served: bool
    """Whether it was started from a deployment, so that somebody can find it on Prefect's page."""

    def hand_over(self, outcome: Outcome) -> None:
        """Give the outcome to the process that started the flow itself."""
        if _local is not None:
            _local.outcomes.append(outcome)


@contextmanager
def at_work(parameters: FlowParameters) -> Iterator[Work]:
    """Read the settings, and let signals end the run in the ledger as on the command line.

    :raises ConfigurationError: something in the settings cannot be used.
    """
    settings = _local.settings if _local else parameters.settings()
    shown = FlowProgress(get_run_logger(), _local.progress if _local else None)
    with shown as progress, _stoppable(), sharing(settings):
        yield Work(settings, progress, flow_run.get_id(), _local is None)


def as_task(name: str, function: Callable[[], T]) -> T:
    """Run one phase as a Prefect task: never from a cache, never again by itself.

    A phase whose ranges are tasks on Dask is a flow run instead; Dask would send an outer task along with each of them.
    """
    if name in SHARED_PHASES and present_crew() is not None:
        return function()
    return task(name=name, cache_policy=NO_CACHE, retries=0, persist_result=False)(function)()


@contextmanager
def _stoppable() -> Iterator[None]:
    """Prefect ends a flow run by SIGTERM; the run's end is recorded before the process goes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        raise StopSignal(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
