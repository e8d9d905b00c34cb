"""A worker anywhere: takes one shared range, does it, and tells the ledger what came of it.

It knows a run's id, a phase and a number.  Its servers, their passwords and the ledger are its own settings'; what is
done with a key is what the owner of the run decided (:mod:`integrity.ranges.context`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from time import monotonic
from typing import Final

from integrity.endpoint import Endpoint, Identity
from integrity.errors import (
    GreenflyError,
    LedgerUnreachable,
    RunTakenOver,
    ServerNotReady,
    ServerRestarted,
    ServerUnreachable,
)
from integrity.ledger import Ledger, RunHandle, open_ledger
from integrity.ledger.models import PhaseName
from integrity.ledger.naming import process_name
from integrity.phases.work import Part, RangeWorker, WorkContext
from integrity.progress import Progress
from integrity.ranges import board
from integrity.ranges.board import Claim, SharedSet
from integrity.ranges.context import SharedContext
from integrity.ranges.crew import Came
from integrity.ranges.handle import RangeLost, WorkerHandle
from integrity.ranges.plain import error_to_dict
from integrity.settings import Settings
from integrity.transfer.throttle import Throttle

_PAUSE: Final = 0.5


def work_range(settings: Settings, run_id: str, phase: PhaseName, number: int, progress: Progress) -> Came:
    """Do the range of this number, unless somebody else does.

    :param settings: this worker's own.
    :raises ConfigurationError: they name no server, or a ledger that does not know the run.
    :raises Refused: the owner of the run is another version of Greenfly.
    :raises LedgerError: the ledger cannot be used.
    """
    with closing(open_ledger(settings)) as ledger:
        ledger.find_run(run_id)
        shared = board.find_set(ledger.engine, run_id, phase)
        if shared is None:
            return Came.OVER
        decided = SharedContext.read(shared.context)
        settings = decided.over(settings)
        # A worker without servers must not take a range first.
        Endpoint.from_settings("source", settings.reads_from)
        Endpoint.from_settings("target", settings.target)
        claim = board.claim(ledger.engine, shared, number, process_name(), decided.source_run_id)
        if claim is None:
            return Came.HELD
        with closing(_Holder(settings, ledger, shared, decided, claim, progress)) as holder:
            return holder.work()


class _Holder:
    """Works on the range that it holds."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        shared: SharedSet,
        decided: SharedContext,
        claim: Claim,
        progress: Progress,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._shared = shared
        self._decided = decided
        self._claim = claim
        self._progress = progress
        self._worker: RangeWorker | None = None
        self._throttle: Throttle | None = None
        self._handle = WorkerHandle(
            ledger.engine,
            shared.run_id,
            shared.owner,
            decided.lease_seconds,
            claim,
            part=lambda: self._worker.part if self._worker is not None else Part(),
            on_sharers=self._share,
        )

    def close(self) -> None:
        """Give the ledger's connection back."""
        self._handle.close()

    def work(self) -> Came:
        """Do it, and tell the ledger how that ended.

        :raises LedgerError: the ledger cannot be used.
        """
        engine = self._ledger.engine
        try:
            throttle = self._do()
        except (RangeLost, RunTakenOver):
            board.give_back(engine, self._claim)
            return Came.LOST
        except LedgerUnreachable:
            # Whoever takes the range over has to wait until this one counts as lost.
            return Came.LOST
        except GreenflyError as error:
            return Came.FAILED if board.fail(engine, self._claim, error_to_dict(error)) else Came.LOST
        except BaseException:
            board.give_back(engine, self._claim)
            raise
        told = self._handle.so_far() | {"throttle": throttle}
        done = self._handle.done
        ended = board.finish(engine, self._claim, told, done.keys, done.bytes)
        return Came.DONE if ended else Came.LOST

    def _do(self) -> dict[str, object]:
        start = self._claim.job.start
        if start is not None and start.done:
            return {}
        context = self._context()
        with Throttle(
            context.settings.throttle,
            context.batch_keys,
            endpoints=[context.source, context.target],
            run=self._handle,
            progress=self._progress,
            workers=self._claim.sharers,
            on_held=self._handle.held_back,
        ) as self._throttle:
            self._worker = RangeWorker(
                context,
                self._ledger,
                self._handle,
                self._throttle,
                self._progress,
                number=self._claim.number_of_worker,
                on_progress=self._handle.advance,
            )
            self._worker.run(self._claim.job)
            return self._throttle.summary()

    def _share(self, workers: int) -> None:
        if self._throttle is not None:
            self._throttle.share_among(max(1, workers))

    def _context(self) -> WorkContext:
        decided, settings = self._decided, self._settings
        source = Endpoint.from_settings("source", settings.reads_from)
        target = Endpoint.from_settings("target", settings.target)
        return WorkContext(
            settings=settings,
            source_identity=self._identified(source, decided.source_run_id),
            target_identity=self._identified(target, decided.target_run_id),
            databases=decided.databases,
            field_expiries=decided.field_expiries,
            run_id=self._shared.run_id,
            owner=self._shared.owner,
            workers=1,
            batch_keys=decided.batch_keys,
        )

    def _identified(self, endpoint: Endpoint, run_id: str) -> Identity:
        """Who a server is, which must be who it was when the ranges were laid out.

        :raises ServerRestarted: it is another one.
        :raises ServerError: it does not answer within the budget of the run.
        """
        identity = _patiently(endpoint.identify, self._handle, self._settings.reconnect_seconds)
        if identity.run_id != run_id:
            raise ServerRestarted(
                endpoint.role,
                str(endpoint),
                f"was restarted, or is another server than the one of the run (as {process_name()} sees it).",
                "Cursors do not survive that; the ranges are read from the beginning.",
            )
        return identity


def _patiently(identify: Callable[[], Identity], handle: RunHandle, seconds: float) -> Identity:
    until = monotonic() + seconds
    while True:
        try:
            return identify()
        except (ServerUnreachable, ServerNotReady):
            if monotonic() > until:
                raise
        handle.wait(_PAUSE)
