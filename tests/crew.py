"""A crew of threads: the engine's shared ranges with real servers and a real ledger, and no Dask around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

from integrity.ledger import open_ledger
from integrity.ledger.models import PhaseName
from integrity.progress import Silent
from integrity.ranges import board
from integrity.ranges.context import SharedContext
from integrity.ranges.crew import Came, Crew, Tasks
from integrity.ranges.worker import work_range
from integrity.settings import Settings

Attempt = Callable[[str, PhaseName, int, int], Came]
"""Run, phase, number, how often that number was tried before → what it came to."""


class ThreadCrew(Crew):
    """Workers with settings of their own.

    :param workers: how many there are.
    :param attempt: what is done instead of the worker's own work.
    """

    def __init__(self, settings: Settings, *, workers: int = 2, attempt: Attempt | None = None) -> None:
        self._settings = settings
        self._workers = workers
        self._attempt = attempt or self.honest
        self.handed: list[tuple[str, str, int]] = []
        """All that workers were told."""

    def honest(self, run_id: str, phase: PhaseName, number: int, tried: int) -> Came:
        """What a worker does."""
        return work_range(self._settings, run_id, phase, number, Silent())

    def work(self, run_id: str, phase: str, numbers: Sequence[int], watch: Callable[[Tasks], None]) -> None:
        """See :class:`~integrity.ranges.crew.Crew`."""
        with ThreadPoolExecutor(max(1, self._workers)) as pool:
            tasks = _ThreadTasks(self, pool, run_id, PhaseName(phase))
            if self._workers:
                for number in numbers:
                    tasks.submit(number)
            watch(tasks)


class _ThreadTasks(Tasks):
    def __init__(self, crew: ThreadCrew, pool: ThreadPoolExecutor, run_id: str, phase: PhaseName) -> None:
        self._crew = crew
        self._pool = pool
        self._place = run_id, phase
        self._tried: dict[int, int] = {}
        self._running: list[tuple[int, Future[Came]]] = []

    def submit(self, number: int) -> None:
        tried = self._tried[number] = self._tried.get(number, -1) + 1
        run_id, phase = self._place
        self._crew.handed.append((run_id, phase.value, number))
        self._running.append((number, self._pool.submit(self._crew._attempt, run_id, phase, number, tried)))

    def ended(self) -> Sequence[tuple[int, Came | BaseException]]:
        over = [(number, future) for number, future in self._running if future.done()]
        self._running = [pair for pair in self._running if pair not in over]
        return [(number, future.exception() or future.result()) for number, future in over]


def take_and_vanish(settings: Settings, run_id: str, phase: PhaseName, number: int) -> Came:
    """What is left of a worker that was killed just after it took a range: nothing but the claim."""
    with closing(open_ledger(settings)) as ledger:
        shared = board.find_set(ledger.engine, run_id, phase)
        assert shared is not None
        source = SharedContext.read(shared.context).source_run_id
        assert board.claim(ledger.engine, shared, number, "gone:1", source) is not None
    return Came.LOST


def told(outcome: Mapping[str, object], phase: str) -> Mapping[str, object]:
    """The detail of one phase of an outcome."""
    phases = outcome["phases"]
    assert isinstance(phases, list)
    return next(dict(one["detail"]) for one in phases if one["name"] == phase)
