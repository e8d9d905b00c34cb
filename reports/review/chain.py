"""Whether the audit chain holds, looked at a little with every page: a page must not wait for millions of events."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from time import monotonic
from typing import Final

from sqlalchemy import Engine, select

from integrity.ledger.audit import ChainState, ChainWalk
from integrity.ledger.database import reading, repeated
from integrity.ledger.models import Event

_AT_A_TIME: Final = 500
_SECONDS: Final = 0.02
_AGAIN_AFTER: Final = 60.0
"""Seconds after the end of one walk until the next begins at the first event."""


class ChainWatch:
    """Walks the chain from its first event to its last, again and again.  Safe for threads.

    :param clock: seconds, never going back.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._lock = Lock()
        self._walk = ChainWalk()
        self._broken: ChainState | None = None
        self._ended_at: float | None = None

    def broken(self, seconds: float = _SECONDS) -> ChainState | None:
        """Go on for so long; what is wrong, as far as was looked by now.

        What is cut off at the end cannot be seen here; signed checkpoints tell it.

        :raises LedgerError: the ledger cannot be read.
        """
        if self._lock.acquire(blocking=False):
            try:
                self._go_on(self._clock() + seconds)
            finally:
                self._lock.release()
        return self._broken

    def _go_on(self, until: float) -> None:
        if self._ended_at is not None:
            if self._clock() - self._ended_at < _AGAIN_AFTER:
                return
            self._walk, self._ended_at = ChainWalk(), None
        while True:
            events = _events_after(self._engine, self._walk.events)
            for event in events:
                problem = self._walk.problem_of(event)
                if problem is not None:
                    self._broken, self._ended_at = self._walk.state(problem), self._clock()
                    return
            if len(events) < _AT_A_TIME:
                self._broken, self._ended_at = None, self._clock()
                return
            if self._clock() > until:
                return


@repeated
def _events_after(engine: Engine, sequence: int) -> list[Event]:
    columns = select(*Event.__table__.columns).where(Event.sequence > sequence).order_by(Event.sequence)
    with reading(engine) as connection:
        return [Event(**row._mapping) for row in connection.execute(columns.limit(_AT_A_TIME))]
