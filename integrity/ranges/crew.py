"""Who works on shared ranges: whoever starts a run may lend it workers, and the engine does not know which kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import Final, Protocol


class Came(StrEnum):
    """What one attempt at one range came to."""

    DONE = "done"
    HELD = "held"
    """Another worker holds it."""
    LOST = "lost"
    """It was taken away, or the ledger was."""
    FAILED = "failed"
    """The ledger tells why."""
    OVER = "over"
    """The phase works on no ranges any longer."""


class Tasks(Protocol):
    """Attempts under way."""

    def submit(self, number: int) -> None:
        """Have somebody try the range of this number."""

    def ended(self) -> Sequence[tuple[int, Came | BaseException]]:
        """The attempts that ended since this was asked last, and what they came to."""


class Crew(Protocol):
    """Workers somewhere.  What is handed to them is a run's id, a phase and a number; never a secret."""

    def work(self, run_id: str, phase: str, numbers: Sequence[int], watch: Callable[[Tasks], None]) -> None:
        """Submit every range, then call *watch*, which returns when all are done.

        :raises OrchestratorFailed: the workers cannot be reached.
        """


_LENT: Final[ContextVar[Crew | None]] = ContextVar("greenfly_crew", default=None)


@contextmanager
def lent(crew: Crew | None) -> Iterator[None]:
    """Runs inside share their ranges among this crew."""
    token = _LENT.set(crew)
    try:
        yield
    finally:
        _LENT.reset(token)


def present_crew() -> Crew | None:
    """The crew that was lent, if any."""
    return _LENT.get()
