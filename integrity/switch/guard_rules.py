"""Judging green by rules: since when each one is broken.  Pure; the clock is handed in.

A rule is *over* while its limit is passed, and *breached* once that has lasted ``for_seconds`` without a break: a
single good look starts the time anew, since what is looked at is a window of seconds already.  A breach is not over
with a single good look: the rule must hold for ``recover_seconds``, with a margin inside its limit.  A look that tells
nothing about a rule neither breaks nor mends it; and time in which nobody looked does not count as time in which it was
over.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from integrity.switch.guard_measures import MEANINGS, FallBack, Observation, RuleMeaning
from integrity.switch.health_values import Health
from integrity.switch.watch_settings import RuleLimit, WatchSettings

__all__ = ["FallBack", "Observation", "RuleBook", "RuleState", "Status"]

_UNSEEN_INTERVALS: Final = 5.0
_UNSEEN_SECONDS: Final = 5.0


class Status(StrEnum):
    """What a rule says."""

    OFF = "off"
    UNKNOWN = "unknown"
    """There is no number to judge, or no baseline to judge it by."""
    OK = "ok"
    OVER = "over"
    """The limit is passed, not for long enough."""
    BREACHED = "breached"


@dataclass(frozen=True, slots=True)
class RuleState:
    """One rule after one look."""

    name: str
    status: Status
    value: float | None
    limit: float
    baseline: float | None = None
    since: datetime | None = None
    """When the limit was first passed, without a break until now (or until the breach)."""
    breached_for: float = 0.0
    """Seconds since the breach; 0 without one."""
    over: bool = False
    """Whether the limit is passed at this look, whatever the status."""

    def worse_than(self, other: float) -> bool:
        """Whether this value is further on the wrong side than *other*."""
        return self.value is not None and MEANINGS[self.name].passed(self.value, other)

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "rule": self.name,
            "status": self.status.value,
            "value": None if self.value is None else round(self.value, 4),
            "limit": self.limit,
            "baseline": None if self.baseline is None else round(self.baseline, 4),
            "since": self.since.isoformat() if self.since else None,
            "text": self.text,
        }

    @property
    def text(self) -> str:
        """One sentence for people."""
        meaning = MEANINGS[self.name]
        if meaning.well:
            if self.value is None:
                return f"not known whether {meaning.well}."
            return f"{meaning.text if self.over else meaning.well}."
        if self.value is None:
            return f"{meaning.text}: not known."
        unit = f" {meaning.unit}" if meaning.unit else ""
        side = "at least" if meaning.below else "at most"
        on_blue = "" if self.baseline is None else f"; on blue {_short(self.baseline)}"
        return f"{meaning.text}: {_short(self.value)}{unit} (allowed {side} {_short(self.limit)}{on_blue})."


def _short(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 100 or number == int(number) else f"{number:.3g}"


@dataclass(slots=True)
class _Clock:
    """What is remembered of one rule between two looks; times are seconds of one steady clock."""

    over_since: float | None = None
    over_at: datetime | None = None
    breached_since: float | None = None
    good_since: float | None = None
    judged_at: float | None = None


class RuleBook:
    """Judges look after look.

    :param baseline: blue before the cutover; without it the rules that compare with it stay unknown.
    """

    def __init__(self, settings: WatchSettings, baseline: Health | None) -> None:
        self._settings = settings
        self._baseline = baseline
        self._limits = settings.rules.by_name()
        self._clocks = {name: _Clock() for name in self._limits}
        self._unseen = max(_UNSEEN_SECONDS, _UNSEEN_INTERVALS * settings.interval_seconds)

    def judge(self, seconds: float, seen: Observation) -> list[RuleState]:
        """The state of every rule after this look, in their order.

        :param seconds: of a steady clock, never less than at the look before.
        """
        return [
            self._judge(name, limit, self._clocks[name], seconds, seen)
            for name, limit in self._limits.items()
        ]

    def _judge(
        self, name: str, limit: RuleLimit, clock: _Clock, seconds: float, seen: Observation
    ) -> RuleState:
        if not limit.enabled:
            return RuleState(name, Status.OFF, None, limit.limit)
        meaning = MEANINGS[name]
        found = meaning.measure(seen, self._baseline, self._settings)
        over = found.value is not None and meaning.passed(found.value, limit.limit)
        if found.value is not None:
            if clock.judged_at is not None and seconds - clock.judged_at > self._unseen:
                clock.over_since = clock.good_since = None
            clock.judged_at = seconds
            if over:
                self._was_over(clock, limit, seconds, seen.health.at)
            else:
                self._was_good(clock, self._well_inside(meaning, limit, found.value), seconds)
        breached = clock.breached_since is not None
        if breached:
            status = Status.BREACHED
        elif found.value is None:
            status = Status.UNKNOWN
        else:
            status = Status.OVER if over else Status.OK
        return RuleState(
            name,
            status,
            found.value,
            limit.limit,
            found.baseline,
            clock.over_at if breached or over else None,
            seconds - clock.breached_since if clock.breached_since is not None else 0.0,
            over,
        )

    def _was_over(self, clock: _Clock, limit: RuleLimit, seconds: float, at: datetime) -> None:
        clock.good_since = None
        if clock.over_since is None:
            clock.over_since = seconds
            if clock.breached_since is None:
                clock.over_at = at
        if clock.breached_since is None and seconds - clock.over_since >= limit.for_seconds:
            clock.breached_since = seconds

    def _was_good(self, clock: _Clock, well_inside: bool, seconds: float) -> None:
        clock.over_since = None
        if clock.breached_since is None:
            clock.over_at = None
            return
        if not well_inside:
            clock.good_since = None
            return
        if clock.good_since is None:
            clock.good_since = seconds
        if seconds - clock.good_since >= self._settings.recover_seconds:
            clock.breached_since = clock.good_since = clock.over_at = None

    def _well_inside(self, meaning: RuleMeaning, limit: RuleLimit, value: float) -> bool:
        margin = abs(limit.limit) * self._settings.recover_margin
        return not meaning.passed(value, limit.limit + margin if meaning.below else limit.limit - margin)
