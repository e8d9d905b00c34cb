"""Round trips over time, in a bounded number of steps whatever the run takes."""

from __future__ import annotations

from datetime import datetime
from typing import Final

MOST_STEPS: Final = 80
_FIRST_STEP_SECONDS: Final = 1.0


class LatencyHistory:
    """Mean and worst of each step of time; where there would be too many steps, each becomes twice as long.

    Written by one thread, and read whole by another.
    """

    def __init__(self, began_at: datetime) -> None:
        self._began_at = began_at
        self._step = _FIRST_STEP_SECONDS
        self._steps: list[tuple[int, float, float]] = []
        """(samples, their sum, the worst)"""

    def add(self, seconds: float, milliseconds: float) -> None:
        """A round trip of *milliseconds* that ended *seconds* after the begin."""
        steps, step = self._steps, self._step
        while seconds // step >= MOST_STEPS:
            steps = [_together(steps[index : index + 2]) for index in range(0, len(steps), 2)]
            step *= 2
        index = int(seconds // step)
        steps = steps + [(0, 0.0, 0.0)] * (index + 1 - len(steps))
        samples, total, worst = steps[index]
        steps[index] = (samples + 1, total + milliseconds, max(worst, milliseconds))
        # Whoever reads meanwhile sees the old list or the new one; a step of the wrong length is its only risk.
        self._step, self._steps = step, steps

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values; a step in which nothing was measured has None."""
        steps = self._steps
        return {
            "began_at": self._began_at.isoformat(),
            "step_seconds": self._step,
            "mean": [round(total / samples, 2) if samples else None for samples, total, _ in steps],
            "worst": [round(worst, 2) if samples else None for samples, _, worst in steps],
        }


def _together(pair: list[tuple[int, float, float]]) -> tuple[int, float, float]:
    return (
        sum(samples for samples, _, _ in pair),
        sum(total for _, total, _ in pair),
        max(worst for _, _, worst in pair),
    )
