"""What takes long in a large ledger, asked no more often than the ledger can bear."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Final, Generic, TypeVar

from integrity.ledger.queries import LedgerReader
from integrity.ledger.vocabulary import FindingClass, FindingState
from reports.metrics import catalogue as c
from reports.metrics.runs import RunFacts
from reports.metrics.sheet import Sheet

T = TypeVar("T")

SHARE: Final = 0.05
"""How much of the time one question may take."""


class Sparing(Generic[T]):
    """An answer that is kept for twenty times as long as it took to find."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._due_at = float("-inf")
        self._kept: list[T] = []

    def get(self, find: Callable[[], T]) -> T:
        """The kept answer, or a new one."""
        begun = self._clock()
        if not self._kept or begun >= self._due_at:
            self._kept = [find()]
            ended = self._clock()
            self._due_at = ended + (ended - begun) / SHARE
        return self._kept[0]


class FindingCounter:
    """Counts the findings of the current runs by class and state."""

    def __init__(self) -> None:
        self._known: dict[str, Sparing[Mapping[tuple[FindingClass, FindingState], int]]] = {}

    def put(self, sheet: Sheet, ledger: LedgerReader, current: Sequence[RunFacts]) -> None:
        """Count what is due, and tell."""
        before = self._known
        self._known = {run.id: before.get(run.id) or Sparing() for run in current}
        for run in current:
            counts = self._known[run.id].get(partial(ledger.finding_counts, run.id))
            for (finding_class, state), count in counts.items():
                sheet.put(c.FINDINGS, count, run.kind.value, finding_class.value, state.value)
