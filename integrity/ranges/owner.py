"""The owner's side of shared ranges: lays them out, counts what workers tell, takes over what a lost one held.

A worker is lost when its range has shown no life for as long as a lease lasts, by this process's own clock.  Its range
is given to another one: a copy goes on behind its checkpoint, a comparison begins again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Final

from integrity.errors import (
    ConfigurationError,
    GreenflyError,
    LedgerUnreachable,
    OrchestratorFailed,
    ServerRestarted,
)
from integrity.ledger import Ledger, RunHandle
from integrity.ledger.models import PhaseName
from integrity.ledger.range_models import RangeState
from integrity.phases.work import Part, RangeJob, WorkContext, require_same
from integrity.progress import Progress
from integrity.ranges import board
from integrity.ranges.board import RangeView
from integrity.ranges.context import SharedContext
from integrity.ranges.crew import Crew, Tasks
from integrity.ranges.plain import error_from_dict, part_from_dict, throttle_of_worker

_LOOK_SECONDS: Final = 0.25
_TELL_SECONDS: Final = 1.0
_HELD_SECONDS: Final = 1.5
_DEATHS: Final = 3
"""How many workers one range may cost before the run breaks off: it may be the range that kills them."""
_STOP_SECONDS: Final = 5.0
_COUNTED_SECONDS: Final = 1.0
"""The most that one look adds to the time without life: when nobody could look, nobody could show any."""


@dataclass(slots=True)
class _Watched:
    """What the owner knows of one range."""

    attempt: int = 0
    beat: int = -1
    silent: float = 0.0
    """Seconds without a sign of life."""
    keys: int = 0
    bytes: int = 0
    """Told to the progress so far; a comparison that begins again is not told twice."""
    tasks: int = 1
    """Attempts that are on their way."""
    deaths: int = 0
    done: bool = False


def phase_of(jobs: Sequence[RangeJob]) -> PhaseName:
    """The phase that these jobs are of; there may be none, where there are no keys."""
    return PhaseName.STREAM if any(job.kind == "copy" for job in jobs) else PhaseName.VERIFY


class SharedRanges:
    """Has the jobs of one phase done by a crew.

    :param whole: what all jobs together come to is counted in here.
    :param advance: told keys, bytes, and the parts of the jobs in hand.
    """

    def __init__(
        self,
        context: WorkContext,
        ledger: Ledger,
        handle: RunHandle,
        progress: Progress,
        jobs: Sequence[RangeJob],
        *,
        whole: Part,
        advance: Callable[[int, int, Sequence[Part]], None],
    ) -> None:
        self._context = context
        self._engine = ledger.engine
        self._handle = handle
        self._progress = progress
        self._jobs = jobs
        self._whole = whole
        self._advance = advance
        self._phase = phase_of(jobs)
        self._tell = handle.telling_of(self._phase)
        self._watched = [_Watched() for _ in jobs]
        self._looked = monotonic()
        self._told = 0.0
        self._life = monotonic()
        """When a worker last did anything."""
        self._set = 0
        self.lost = 0
        """How many workers were taken a range away from."""
        self._throttles: dict[str, list[dict[str, object]]] = {}
        """By worker process, of its ranges that are done."""
        self._held: dict[int, tuple[str, Mapping[str, object]]] = {}
        """By range in hand: the worker process, and what held it back there by now."""
        self._held_told = monotonic()

    @property
    def throttle(self) -> dict[str, object]:
        """What held the workers back, one by one."""
        told: dict[str, list[Mapping[str, object]]] = {
            name: [*all_] for name, all_ in self._throttles.items()
        }
        for process, throttle in self._held.values():
            told.setdefault(process, []).append(throttle)
        return {"workers": [throttle_of_worker(summaries) for _, summaries in sorted(told.items())]}

    def run(self, crew: Crew) -> None:
        """Return when all ranges are done.

        :raises GreenflyError: what one of the workers met, or that there are none.
        """
        context = SharedContext.of(self._context).to_dict()
        self._set = board.lay_out(
            self._engine, self._handle.id, self._phase, self._handle.owner, context, self._jobs
        )
        try:
            crew.work(self._handle.id, self._phase.value, range(len(self._jobs)), self._watch)
        except BaseException:
            self._stop()
            raise
        finally:
            board.remove(self._engine, self._set)
        workers = {name: len(told) for name, told in sorted(self._throttles.items())}
        self._handle.event("ranges.shared", {"phase": self._phase.value, "ranges_by_worker": workers})

    # -- while they work ----------------------------------------------------------------------------------------

    def _watch(self, tasks: Tasks) -> None:
        while True:
            views = board.look(self._engine, self._set)
            now = monotonic()
            passed, self._looked = min(now - self._looked, _COUNTED_SECONDS), now
            self._count(views)
            for view in views:
                if view.state is RangeState.FAILED:
                    raise self._error(view)
            if all(watched.done for watched in self._watched):
                return
            self._take_over(views, passed, tasks)
            self._begin_again(views, tasks)
            self._require_workers(views)
            self._handle.renew_lease()
            sleep(_LOOK_SECONDS)

    def _count(self, views: Sequence[RangeView]) -> None:
        """Count in what was done since the last look."""
        keys = size = 0
        finished: list[RangeView] = []
        for view in views:
            watched = self._watched[view.number]
            keys += max(0, view.keys - watched.keys)
            size += max(0, view.bytes - watched.bytes)
            watched.keys, watched.bytes = max(view.keys, watched.keys), max(view.bytes, watched.bytes)
            if view.state is RangeState.DONE and not watched.done:
                watched.done = True
                finished.append(view)
        told = board.parts(self._engine, [view.id for view in finished]) if finished else {}
        for view in finished:
            part = dict(told[view.id])
            throttle = part.pop("throttle", None)
            self._held.pop(view.number, None)
            self._whole.merge(part_from_dict(part))
            mine = self._throttles.setdefault(view.process, [])
            mine.append(throttle if isinstance(throttle, dict) else {})
        if keys or size or monotonic() - self._told >= _TELL_SECONDS:
            self._told = monotonic()
            self._advance(keys, size, self._in_hand(views))

    def _in_hand(self, views: Sequence[RangeView]) -> list[Part]:
        """What the ranges that are not done have come to, as far as it is told."""
        undone = [view.id for view in views if not self._watched[view.number].done and view.attempt]
        told = board.parts(self._engine, undone) if undone else {}
        parts: list[Part] = []
        for view in views:
            part = dict(told.get(view.id, {}))
            throttle = part.pop("throttle", None)
            if isinstance(throttle, dict) and throttle:
                self._held[view.number] = (view.process, throttle)
            if part:
                parts.append(part_from_dict(part))
        if self._held and monotonic() - self._held_told >= _HELD_SECONDS:
            self._held_told = monotonic()
            self._tell(self.throttle)
        return parts

    def _take_over(self, views: Sequence[RangeView], passed: float, tasks: Tasks) -> None:
        """Take ranges away from workers that show no life any longer."""
        lease = self._context.settings.lease_seconds
        for view in views:
            watched = self._watched[view.number]
            if (view.attempt, view.beat) != (watched.attempt, watched.beat):
                watched.attempt, watched.beat, watched.silent = view.attempt, view.beat, 0.0
                self._life = monotonic()
                continue
            if view.state is not RangeState.HELD:
                continue
            watched.silent += passed
            if watched.silent <= lease:
                continue
            job = self._jobs[view.number]
            if not board.free(self._engine, view, keeps_part=job.kind == "copy"):
                continue
            if job.kind == "copy":
                # The next attempt counts from its checkpoint on.
                watched.keys = watched.bytes = 0
            self._progress.say(
                f"Worker {view.process} shows no life; its range {job.keys.index} of database {job.database} "
                "is taken over."
            )
            self._handle.event(
                "worker.lost",
                {
                    "worker": view.process,
                    "kind": job.kind,
                    "database": job.database,
                    "range": job.keys.index,
                    "attempt": view.attempt,
                },
            )
            self.lost += 1
            self._died(watched, job, None)
            watched.tasks += 1
            tasks.submit(view.number)

    def _begin_again(self, views: Sequence[RangeView], tasks: Tasks) -> None:
        """Submit what nobody tries any longer."""
        for number, came in tasks.ended():
            watched = self._watched[number]
            watched.tasks -= 1
            if isinstance(came, GreenflyError) and not isinstance(came, LedgerUnreachable):
                raise came
            if isinstance(came, BaseException):
                self._died(watched, self._jobs[number], came)
        for view in views:
            watched = self._watched[view.number]
            if view.state is RangeState.OPEN and watched.tasks <= 0:
                watched.tasks = 1
                tasks.submit(view.number)

    def _died(self, watched: _Watched, job: RangeJob, error: BaseException | None) -> None:
        watched.deaths += 1
        if watched.deaths > _DEATHS:
            why = f" ({type(error).__name__}: {error})" if error is not None else ""
            raise OrchestratorFailed(
                f"Range {job.keys.index} of database {job.database} cost {watched.deaths} workers{why}.",
                "Look at the workers' logs (out of memory?), then --resume.",
            )

    def _require_workers(self, views: Sequence[RangeView]) -> None:
        wait = self._context.settings.flows.worker_seconds
        if any(view.state is RangeState.HELD for view in views):
            self._life = monotonic()
        elif monotonic() - self._life > wait:
            raise OrchestratorFailed(
                f"No worker has taken a range for {wait:.0f} s.",
                "Start workers (`dask worker`), and look at their logs; then --resume.",
            )

    def _error(self, view: RangeView) -> GreenflyError:
        """Why a worker gave up; a server that only it cannot find is its own matter."""
        error = error_from_dict(board.error_of(self._engine, view.id))
        if isinstance(error, ServerRestarted):
            try:
                require_same(self._context.source, self._context.source_identity)
                require_same(self._context.target, self._context.target_identity)
            except ServerRestarted as again:
                return again
            return ConfigurationError(
                f"Worker {view.process} reaches another {error.role} than this run's: {error.address}.",
                "Give every worker the servers of the run in its greenfly.toml or GREENFLY_*, then --resume.",
            )
        return error

    # -- when it ends badly -------------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Have the workers stop, wait for them for a while, and count what they told."""
        board.close(self._engine, self._set)
        until = monotonic() + _STOP_SECONDS
        while True:
            views = board.look(self._engine, self._set)
            if not any(view.state is RangeState.HELD for view in views) or monotonic() > until:
                break
            sleep(_LOOK_SECONDS)
        self._count(views)
        for part in self._in_hand(views):
            self._whole.merge(part)
