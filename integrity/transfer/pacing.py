"""The arithmetic of a pace: how large a batch may be, and how long a capped one waits.  No servers, no sleeping."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final

_LEAST_KEYS: Final = 16
_STEPS: Final = 16
_FIRST_PAUSE: Final = 0.002
_LONGEST_PAUSE: Final = 1.0
_BURST_SECONDS: Final = 0.1


class BatchSize:
    """Additive increase, multiplicative decrease; below the least batch there are pauses between batches.

    :param most: keys of a batch at full speed.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._least = min(_LEAST_KEYS, most)
        self.keys = self.smallest = most
        self.pause = self.longest_pause = 0.0
        """Seconds to wait before each batch."""

    @property
    def at_full_speed(self) -> bool:
        """Whether nothing is held back."""
        return self.keys == self._most

    def slower(self) -> None:
        """Halve the batch; where it is the least one, double the pause."""
        if self.keys > self._least:
            self.keys = max(self._least, self.keys // 2)
            self.smallest = min(self.smallest, self.keys)
        else:
            self.pause = min(_LONGEST_PAUSE, self.pause * 2) or _FIRST_PAUSE
            self.longest_pause = max(self.longest_pause, self.pause)

    def faster(self) -> None:
        """Halve the pause; where there is none, add a sixteenth of the full batch."""
        if self.pause > _FIRST_PAUSE:
            self.pause /= 2
        elif self.pause:
            self.pause = 0.0
        else:
            self.keys = min(self._most, self.keys + max(1, self._most // _STEPS))


class TokenBucket:
    """A cap on a rate.  What is taken is paid for beforehand, so the rate is kept from the first batch on.

    Whoever was slower than the cap may catch up a tenth of a second of it, not more.
    """

    def __init__(self, rate: float | None = None, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._rate = rate
        self._balance = 0.0
        self._counted_at = clock()

    @property
    def rate(self) -> float | None:
        """Tokens per second; None is no cap."""
        return self._rate

    @rate.setter
    def rate(self, rate: float | None) -> None:
        if rate != self._rate:
            self._refill()
            # Without a cap nothing is owed; and what was saved up under a higher one is not spent under a lower.
            self._balance = 0.0 if rate is None else min(self._balance, rate * _BURST_SECONDS)
            self._rate = rate

    def take(self, tokens: float) -> None:
        """Owe *tokens*."""
        self._refill()
        if self._rate is not None:
            self._balance -= tokens

    def wait(self) -> float:
        """Seconds until everything that was taken is paid for."""
        self._refill()
        return 0.0 if self._rate is None else max(0.0, -self._balance / self._rate)

    def _refill(self) -> None:
        now = self._clock()
        if self._rate is not None:
            self._balance = min(
                self._rate * _BURST_SECONDS, self._balance + (now - self._counted_at) * self._rate
            )
        self._counted_at = now
