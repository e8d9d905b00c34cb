"""Counting one phase: keys, bytes, time and the process's CPU; progress for people, measurements for the ledger."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, process_time
from typing import Final

from integrity.ledger.models import PhaseName
from integrity.ledger.store import RunHandle
from integrity.progress import Progress

_EVERY_SECONDS: Final = 1.0


class Meter:
    """Counts one phase of one run."""

    def __init__(
        self, run: RunHandle, phase: PhaseName, progress: Progress, *, every: Callable[[], None] | None = None
    ) -> None:
        self._run = run
        self._phase = phase
        self._progress = progress
        self._every = every
        """Called about once a second, to record what a killed process must not lose."""
        self._started = monotonic()
        self._cpu = process_time()
        self._measured = self._started
        self.keys = 0
        self.size = 0
        run.measure(phase, 0, 0)

    def advance(self, keys: int, size: int) -> None:
        """Keys and bytes done since the last call."""
        self.keys += keys
        self.size += size
        self._progress.advance(keys, size)
        now = monotonic()
        if now - self._measured >= _EVERY_SECONDS:
            self._measured = now
            self._run.measure(self._phase, self.keys, self.size)
            if self._every is not None:
                self._every()

    def finish(self) -> dict[str, object]:
        """Record the last measurement; what the phase took, for its detail."""
        self._run.measure(self._phase, self.keys, self.size)
        return {
            "seconds": round(monotonic() - self._started, 3),
            "client_cpu_seconds": round(process_time() - self._cpu, 3),
        }
