"""Dealing jobs out: to this process, to several on this machine, or to a crew anywhere (:mod:`integrity.ranges`).

A worker process is told everything through a pipe; nothing secret stands on its command line.  It ends when the pipe
does, so that it never writes longer than the process that owns the run's lease.  A worker that dies is replaced, and
its range is read again: a copy from its checkpoint, a comparison from its start.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from time import monotonic
from typing import Final

from integrity.errors import GreenflyError, OrchestratorFailed
from integrity.ledger import Ledger, RunHandle, open_ledger
from integrity.ledger.models import PhaseName
from integrity.ledger.store import CheckpointState
from integrity.phases.work import Part, RangeJob, RangeWorker, WorkContext
from integrity.progress import Progress
from integrity.ranges.crew import Crew, present_crew
from integrity.ranges.owner import SharedRanges, phase_of
from integrity.transfer.throttle import Throttle

_DEATHS: Final = 3
"""How many workers may die before the run breaks off."""
_PART_SECONDS: Final = 1.0
_HELD_SECONDS: Final = 1.5
_STOP_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Tick:
    """Keys and bytes done since the last one."""

    keys: int
    size: int


@dataclass(frozen=True, slots=True)
class Say:
    """A line worth keeping."""

    text: str


@dataclass(frozen=True, slots=True)
class SoFar:
    """What the job in hand has come to."""

    part: Part


@dataclass(frozen=True, slots=True)
class Held:
    """What held the worker back by now."""

    throttle: dict[str, object]


@dataclass(frozen=True, slots=True)
class Done:
    """The job in hand is done."""

    part: Part


@dataclass(frozen=True, slots=True)
class Failed:
    """The worker gives up."""

    error: GreenflyError


@dataclass(frozen=True, slots=True)
class Ended:
    """The worker has no more jobs."""

    throttle: dict[str, object]


class JobRunner:
    """Runs the jobs of one phase.

    :param on_progress: told keys and bytes as they are done.
    :param on_part: told about once a second what all jobs together have come to.
    """

    def __init__(
        self,
        context: WorkContext,
        ledger: Ledger,
        handle: RunHandle,
        progress: Progress,
        *,
        on_progress: Callable[[int, int], None],
        on_part: Callable[[Part], None],
    ) -> None:
        self._context = context
        self._ledger = ledger
        self._handle = handle
        self._progress = progress
        self._on_progress = on_progress
        self._on_part = on_part
        self._told = 0.0
        self._whole = Part()
        self.throttle: dict[str, object] = {}
        """What held the run back."""
        self.lost = 0
        """How many workers died; what they wrote beside the keys is still there."""

    def run(self, jobs: Sequence[RangeJob]) -> Part:
        """Do all *jobs* and return what they came to together.

        :raises GreenflyError: what one of the workers met.
        """
        crew = present_crew()
        if crew is not None and len(jobs) > 1:
            self._run_anywhere(crew, jobs)
        elif self._context.workers > 1 and len(jobs) > 1:
            _Pool(self, jobs).run()
        else:
            self._run_here(jobs)
        self._on_part(self._whole)
        return self._whole

    def _run_here(self, jobs: Sequence[RangeJob]) -> None:
        context = replace(self._context, workers=1)
        tell = self._handle.telling_of(phase_of(jobs))
        with _throttle(context, self._handle, self._progress, on_held=tell) as pace:
            worker = RangeWorker(
                context,
                self._ledger,
                self._handle,
                pace,
                self._progress,
                number=0,
                on_progress=lambda keys, size: self._advance(keys, size, [worker.part]),
            )
            try:
                for job in jobs:
                    self._whole.merge(worker.run(job))
                    worker.part = Part()
            except BaseException:
                self._whole.merge(worker.part)
                self._on_part(self._whole)
                raise
            finally:
                self.throttle = pace.summary()

    def _run_anywhere(self, crew: Crew, jobs: Sequence[RangeJob]) -> None:
        shared = SharedRanges(
            self._context,
            self._ledger,
            self._handle,
            self._progress,
            jobs,
            whole=self._whole,
            advance=self._advance,
        )
        try:
            shared.run(crew)
        except BaseException:
            self._on_part(self._whole)
            raise
        finally:
            self.throttle = shared.throttle
            self.lost = shared.lost

    def _advance(self, keys: int, size: int, parts: Sequence[Part]) -> None:
        self._on_progress(keys, size)
        now = monotonic()
        if now - self._told >= _PART_SECONDS:
            self._told = now
            self._on_part(_sum([self._whole, *parts]))


def _throttle(
    context: WorkContext,
    handle: RunHandle,
    progress: Progress,
    *,
    on_held: Callable[[dict[str, object]], None],
    on_wait: Callable[[], None] = lambda: None,
) -> Throttle:
    return Throttle(
        context.settings.throttle,
        context.batch_keys,
        endpoints=[context.source, context.target],
        run=handle,
        progress=progress,
        workers=context.workers,
        on_wait=on_wait,
        on_held=on_held,
    )


def _sum(parts: Sequence[Part]) -> Part:
    whole = Part()
    for part in parts:
        whole.merge(part)
    return whole


# -- several processes -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Worker:
    number: int
    process: SpawnProcess
    pipe: Pipe
    job: RangeJob | None = None
    part: Part | None = None


class _Pool:
    """The parent's side: deals jobs out as workers ask for them."""

    def __init__(self, runner: JobRunner, jobs: Sequence[RangeJob]) -> None:
        self._runner = runner
        self._tell = runner._handle.telling_of(phase_of(jobs))
        self._jobs = deque(jobs)
        self._workers: dict[int, _Worker] = {}
        self._next_number = 0
        self._deaths = 0
        self._summaries: dict[int, dict[str, object]] = {}
        """By worker; of those that are at work, what they told last."""
        self._held_told = monotonic()
        self._said = ""

    def run(self) -> None:
        runner = self._runner
        try:
            for _ in range(min(runner._context.workers, len(self._jobs))):
                self._start()
            while self._workers:
                for ready in wait([w.pipe for w in self._workers.values()], timeout=0.5):
                    worker = next(w for w in self._workers.values() if w.pipe is ready)
                    self._take(worker)
                runner._handle.renew_lease()
        except BaseException:
            for worker in self._workers.values():
                if worker.part is not None:
                    runner._whole.merge(worker.part)
            runner._on_part(runner._whole)
            raise
        finally:
            self._stop()
            runner.throttle = self._throttle()

    def _throttle(self) -> dict[str, object]:
        return {"workers": [summary for _, summary in sorted(self._summaries.items())]}

    def _start(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        number, self._next_number = self._next_number, self._next_number + 1
        process = multiprocessing.get_context("spawn").Process(
            target=work_for, args=(self._runner._context, number, theirs), name=f"greenfly-worker-{number}"
        )
        process.start()
        theirs.close()
        worker = _Worker(number, process, ours)
        self._workers[number] = worker
        self._deal(worker)

    def _deal(self, worker: _Worker) -> None:
        worker.job = self._jobs.popleft() if self._jobs else None
        worker.part = None
        # One that died cannot be told; the end of its pipe is read next, and the job goes to another.
        with suppress(BrokenPipeError, ConnectionResetError):
            worker.pipe.send(worker.job)

    def _take(self, worker: _Worker) -> None:
        runner = self._runner
        try:
            message = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._replace(worker)
            return
        match message:
            case Tick(keys, size):
                runner._advance(keys, size, [w.part for w in self._workers.values() if w.part is not None])
            case Say(text):
                # What concerns the run, such as a pause, every worker says.
                if text != self._said:
                    runner._progress.say(text)
                self._said = text
            case SoFar(part):
                worker.part = part
            case Held(throttle):
                self._summaries[worker.number] = throttle
                if monotonic() - self._held_told >= _HELD_SECONDS:
                    self._held_told = monotonic()
                    self._tell(self._throttle())
            case Done(part):
                runner._whole.merge(part)
                self._deal(worker)
            case Ended(throttle):
                self._summaries[worker.number] = throttle
                worker.process.join(_STOP_SECONDS)
                worker.pipe.close()
                del self._workers[worker.number]
            case Failed(error):
                raise error

    def _replace(self, worker: _Worker) -> None:
        """A worker died: put its job back, and start another one."""
        runner = self._runner
        worker.process.join(_STOP_SECONDS)
        del self._workers[worker.number]
        worker.pipe.close()
        self._deaths += 1
        runner.lost += 1
        text = f"Worker {worker.number} died (exit code {worker.process.exitcode}); its range is taken over."
        runner._progress.say(text)
        runner._handle.event("worker.lost", {"number": worker.number, "exit_code": worker.process.exitcode})
        if self._deaths > _DEATHS:
            raise OrchestratorFailed(
                f"{self._deaths} worker processes died.",
                "Look at the system's log (out of memory?), then --resume.",
            )
        if worker.job is not None:
            job = worker.job
            if job.kind == "copy":
                if worker.part is not None:
                    runner._whole.merge(worker.part)
                job = replace(job, start=self._checkpoint(job) or job.start)
            self._jobs.appendleft(job)
            self._start()

    def _checkpoint(self, job: RangeJob) -> CheckpointState | None:
        rows = self._runner._ledger.checkpoints(self._runner._handle.id, PhaseName.STREAM)
        return next(
            (row.state for row in rows if row.database == job.database and row.range_index == job.keys.index),
            None,
        )

    def _stop(self) -> None:
        for worker in self._workers.values():
            worker.pipe.close()
            worker.process.terminate()
        for worker in self._workers.values():
            worker.process.join(_STOP_SECONDS)
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()
        self._workers.clear()


class _ToParent:
    """A worker's progress, told to the parent."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def phase(self, name: str, keys_expected: int) -> None:
        """Nothing; phases are the parent's."""

    def advance(self, keys: int, size: int) -> None:
        """Nothing; see :class:`Tick`."""

    def say(self, text: str) -> None:
        """One line worth keeping."""
        self._pipe.send(Say(text))

    def show(self, text: str) -> None:
        """Nothing; the parent shows how the whole run is."""

    def phase_ended(self) -> None:
        """Nothing."""


def work_for(context: WorkContext, number: int, pipe: Pipe) -> None:
    """A worker process: do jobs until there is none, or until the parent is gone."""
    # Ctrl-C reaches the whole group; the parent decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ledger = open_ledger(context.settings)
    try:
        _work(context, number, pipe, ledger)
    except GreenflyError as error:
        pipe.send(Failed(error))
    except (BrokenPipeError, EOFError, ConnectionResetError):
        pass  # The parent is gone, and with it the reason to go on.
    finally:
        ledger.close()


def _work(context: WorkContext, number: int, pipe: Pipe, ledger: Ledger) -> None:
    handle = ledger.join(context.run_id, context.owner, context.settings.lease_seconds)
    progress = _ToParent(pipe)
    told = monotonic()

    def advance(keys: int, size: int) -> None:
        nonlocal told
        pipe.send(Tick(keys, size))
        if monotonic() - told >= _PART_SECONDS:
            told = monotonic()
            pipe.send(SoFar(worker.part))

    # A worker that is paused must see that its parent is gone, too.
    with _throttle(
        context,
        handle,
        progress,
        on_held=lambda throttle: pipe.send(Held(throttle)),
        on_wait=lambda: pipe.send(Tick(0, 0)),
    ) as pace:
        worker = RangeWorker(context, ledger, handle, pace, progress, number=number, on_progress=advance)
        while True:
            job: RangeJob | None = pipe.recv()
            if job is None:
                break
            pipe.send(Done(worker.run(job)))
        handle.close()
        pipe.send(Ended(pace.summary()))
