"""Ranges mapped over Prefect tasks on the Dask task runner.

A task's parameters are a run's id, a phase and a range's number.  Where it runs, it reads its own settings: servers,
passwords and the ledger are never handed over.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final, Self, cast

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from integrity.errors import ConfigurationError, OrchestratorFailed
from integrity.flow_settings import Runner
from integrity.ledger.models import PhaseName
from integrity.progress import Silent
from integrity.ranges.crew import Came, Crew, Tasks, lent
from integrity.ranges.worker import work_range
from integrity.settings import Settings, load_settings

if TYPE_CHECKING:
    from prefect import State
    from prefect.futures import PrefectFuture
    from prefect.task_runners import TaskRunner
    from prefect_dask.task_runners import PrefectDaskFuture

SHARED_PHASES: Final = frozenset({"stream", "verify"})
"""Phases that work range by range."""
_CLEAN_SECONDS: Final = 10.0
"""How long tasks that have nothing left to do are waited for."""


@contextmanager
def sharing(settings: Settings) -> Iterator[None]:
    """Runs inside share their ranges as ``flows.runner`` says.

    :raises ConfigurationError: it says dask, which is not installed.
    """
    if settings.flows.runner is Runner.THREADS:
        yield
        return
    with DaskCrew(settings) as crew, lent(crew):
        yield


class _Logged(Silent):
    """A worker's lines go to its task's log."""

    def __init__(self) -> None:
        self._logger = get_run_logger()

    def say(self, text: str) -> None:
        """Log it."""
        self._logger.info(text)


@task(
    name="greenfly-range",
    task_run_name="{phase} range {number}",
    cache_policy=NO_CACHE,
    retries=0,
    persist_result=False,
)
def work_range_task(run_id: str, phase: str, number: int) -> str:
    """Do one range, with the settings of the machine that this runs on."""
    return work_range(load_settings().settings, run_id, PhaseName(phase), number, _Logged()).value


_at_work: Final[dict[str, tuple[Sequence[int], Callable[[Tasks], None]]]] = {}
"""By run: what a flow run works on.  Dask sends the flow along with each task, so this must not hang on it."""


def share_ranges(run_id: str, phase: str, ranges: int) -> None:
    """The ranges of one phase of a run, each a task."""
    numbers, watch = _at_work[run_id]
    tasks = _DaskTasks(run_id, phase)
    for number in numbers:
        tasks.submit(number)
    watch(tasks)
    tasks.wait()


ranges_flow: Final = flow(name="greenfly-ranges", retries=0, persist_result=False)(share_ranges)


class DaskCrew(Crew):
    """Workers of a Dask cluster.  A context manager: one that it starts itself ends with it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._address = settings.flows.dask_scheduler
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            import prefect_dask  # noqa: F401
        except ImportError as error:
            raise ConfigurationError(
                "flows.runner is dask, and prefect-dask is not installed.",
                "Install greenfly[dask], or set flows.runner = threads.",
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def work(self, run_id: str, phase: str, numbers: Sequence[int], watch: Callable[[Tasks], None]) -> None:
        """Map the ranges over tasks in a flow run of their own.

        :raises OrchestratorFailed: Dask's scheduler cannot be reached.
        """
        _at_work[run_id] = (numbers, watch)
        try:
            ranges_flow.with_options(task_runner=self._runner(), flow_run_name=f"{phase} of {run_id}")(
                run_id, phase, len(numbers)
            )
        finally:
            del _at_work[run_id]

    def _runner(self) -> TaskRunner[PrefectFuture[str]]:
        from prefect_dask.task_runners import DaskTaskRunner

        if self._address is None:
            self._address = self._stack.enter_context(_cluster_here(self._settings.workers))
        runner = DaskTaskRunner(address=self._address, client_kwargs={"timeout": "10s"})
        return cast("TaskRunner[PrefectFuture[str]]", runner)


@contextmanager
def _cluster_here(workers: int) -> Iterator[str]:
    """A cluster of this machine's processes, on loopback; gives the scheduler's address."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=None,
        worker_dashboard_address=None,
        env=dict(os.environ),
    ) as cluster:
        yield str(cluster.scheduler_address)


class _DaskTasks(Tasks):
    """Attempts as Prefect tasks on Dask."""

    def __init__(self, run_id: str, phase: str) -> None:
        self._run_id = run_id
        self._phase = phase
        self._running: list[tuple[int, PrefectDaskFuture[str]]] = []

    def submit(self, number: int) -> None:
        """Have some worker try this range."""
        try:
            future = work_range_task.submit(self._run_id, self._phase, number)
        except OSError as error:
            raise OrchestratorFailed(
                f"Dask's scheduler cannot be reached ({error}).",
                "Check flows.dask_scheduler and that `dask scheduler` runs; then --resume.",
            ) from error
        self._running.append((number, cast("PrefectDaskFuture[str]", future)))

    def ended(self) -> Sequence[tuple[int, Came | BaseException]]:
        """What ended since."""
        over = [(number, future) for number, future in self._running if future.wrapped_future.done()]
        self._running = [
            (number, future) for number, future in self._running if not future.wrapped_future.done()
        ]
        return [(number, _came(future)) for number, future in over]

    def wait(self) -> None:
        """Wait for those that find nothing left to do."""
        until = monotonic() + _CLEAN_SECONDS
        while self._running and monotonic() < until:
            self.ended()
            sleep(0.05)


def _came(future: PrefectDaskFuture[str]) -> Came | BaseException:
    """What an attempt came to: its answer, its error, or that of the worker that ran it."""
    on_dask = future.wrapped_future
    if on_dask.cancelled():
        return CancelledError("Dask cancelled it")
    killed: BaseException | None = on_dask.exception()
    if killed is not None:
        return killed
    state: State[object] = on_dask.result()
    told: object = state.result(raise_on_failure=False)
    return told if isinstance(told, BaseException) else Came(str(told))
