"""What each rule of the guard measures: one number out of one look, and on which side of its limit trouble is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from integrity.ledger.sync_board import SyncStatus
from integrity.ledger.vocabulary import Direction, SyncState
from integrity.switch.health_values import Health
from integrity.switch.watch_settings import WatchSettings

_FEWEST_LOOKUPS_PER_SECOND: Final = 5.0
_FEWEST_OPS_PER_SECOND: Final = 1.0


@dataclass(frozen=True, slots=True)
class FallBack:
    """How the way back to blue is doing."""

    follows: bool
    """Whether the sync process last said that it follows green; what it said else tells nothing about the way back."""
    dirty: int
    """Keys that a rollback now would still have to carry."""
    lag_seconds: float
    stuck: int
    gap: str | None
    silent_seconds: float
    """Since the sync process last said that it follows green."""

    @classmethod
    def of(cls, status: SyncStatus | None, now: datetime, watching_since: datetime) -> FallBack | None:
        """Out of the board; None where nothing is known yet.

        :param watching_since: from then on silence counts, where the sync process never said that it follows green.
        """
        follows = (
            status is not None
            and status.direction is Direction.BACKWARD
            and status.state is not SyncState.STOPPED
        )
        if status is None or not follows or status.updated_at is None:
            return cls(False, 0, 0.0, 0, None, (now - watching_since).total_seconds())
        silent = max(0.0, (now - status.updated_at).total_seconds())
        return cls(True, status.dirty, status.lag_ms / 1000 + silent, status.stuck, status.gap, silent)


@dataclass(frozen=True, slots=True)
class Observation:
    """All that is known at one look."""

    health: Health
    fall_back: FallBack | None = None
    fence_holds: bool | None = None
    """Whether blue still refuses the applications; None where that was not asked, or is not known."""
    blind_seconds: float = 0.0
    """Since a look last brought numbers, while green answers."""
    blue_silent_seconds: float | None = None
    """Since blue last answered; None where it was not asked."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one rule measured at one look."""

    value: float | None
    baseline: float | None = None


Measure = Callable[[Observation, Health | None, WatchSettings], Measured]


@dataclass(frozen=True, slots=True)
class RuleMeaning:
    """What a rule measures, and on which side of its limit trouble is."""

    measure: Measure
    text: str
    """For people: what the number is; for a rule of yes and no, the trouble."""
    unit: str = ""
    well: str = ""
    """For a rule of yes and no: how it is when it is well."""
    below: bool = False
    """Trouble is below the limit."""

    def passed(self, value: float, limit: float) -> bool:
        """Whether *value* is beyond *limit*."""
        return value < limit if self.below else value > limit


def _ratio(now: float | None, before: float | None, floor: float) -> Measured:
    """How many times the baseline; below the floor it is no trouble, however small the baseline."""
    if now is None or not before:
        return Measured(None, before)
    return Measured(now / before if now > floor else min(1.0, now / before), before)


def _p50_ratio(seen: Observation, baseline: Health | None, settings: WatchSettings) -> Measured:
    before = baseline.latency_p50_ms if baseline else None
    return _ratio(seen.health.latency_p50_ms, before, settings.latency_floor_ms)


def _p99_ratio(seen: Observation, baseline: Health | None, settings: WatchSettings) -> Measured:
    before = baseline.latency_p99_ms if baseline else None
    return _ratio(seen.health.latency_p99_ms, before, settings.latency_floor_ms)


def _more_than_before(now: float | None, before: float | None) -> Measured:
    return Measured(None if now is None else max(0.0, now - (before or 0.0)), before)


def _errors(seen: Observation, baseline: Health | None, _: WatchSettings) -> Measured:
    return _more_than_before(seen.health.errors_per_second, baseline.errors_per_second if baseline else None)


def _evictions(seen: Observation, baseline: Health | None, _: WatchSettings) -> Measured:
    return _more_than_before(
        seen.health.evicted_per_second, baseline.evicted_per_second if baseline else None
    )


def _rss(seen: Observation, _baseline: Health | None, _: WatchSettings) -> Measured:
    held, most = seen.health.rss_memory, seen.health.max_memory
    return Measured(held / most if held is not None and most else None)


def _share(now: float | None, before: float | None, fewest: float) -> Measured:
    """The share of what it was; of next to nothing there is no share."""
    if now is None or before is None or before < fewest:
        return Measured(None, before)
    return Measured(now / before, before)


def _clients(seen: Observation, baseline: Health | None, _: WatchSettings) -> Measured:
    return _share(seen.health.clients, baseline.clients if baseline else None, 1)


def _ops(seen: Observation, baseline: Health | None, _: WatchSettings) -> Measured:
    before = baseline.ops_per_second if baseline else None
    return _share(seen.health.ops_per_second, before, _FEWEST_OPS_PER_SECOND)


def _hit_ratio(seen: Observation, baseline: Health | None, _: WatchSettings) -> Measured:
    before, now = baseline.hit_ratio if baseline else None, seen.health.hit_ratio
    if now is None or before is None or (seen.health.lookups_per_second or 0.0) < _FEWEST_LOOKUPS_PER_SECOND:
        return Measured(None, before)
    return Measured(before - now, before)


def _replica(seen: Observation, _baseline: Health | None, _: WatchSettings) -> Measured:
    role = seen.health.role
    return Measured(None if role is None else float(role != "master"))


def _fence(seen: Observation, _baseline: Health | None, _: WatchSettings) -> Measured:
    holds = seen.fence_holds
    return Measured(None if holds is None else float(not holds))


def _of_health(pick: Callable[[Health], float | None]) -> Measure:
    return lambda seen, _baseline, _settings: Measured(pick(seen.health))


def _of_fall_back(pick: Callable[[FallBack], float]) -> Measure:
    def measure(seen: Observation, _baseline: Health | None, _: WatchSettings) -> Measured:
        return Measured(pick(seen.fall_back) if seen.fall_back and seen.fall_back.follows else None)

    return measure


def _silence(seen: Observation, _baseline: Health | None, _: WatchSettings) -> Measured:
    return Measured(seen.fall_back.silent_seconds if seen.fall_back else None)


MEANINGS: Final[dict[str, RuleMeaning]] = {
    "latency_p50_ratio": RuleMeaning(_p50_ratio, "median latency against blue's", "times"),
    "latency_p99_ratio": RuleMeaning(_p99_ratio, "99th percentile of latency against blue's", "times"),
    "latency_p99": RuleMeaning(_of_health(lambda h: h.latency_p99_ms), "99th percentile of latency", "ms"),
    "errors": RuleMeaning(_errors, "error replies beyond blue's", "per second"),
    "rejected_connections": RuleMeaning(
        _of_health(lambda h: h.rejected_per_second), "refused connections", "per second"
    ),
    "refused_writes": RuleMeaning(
        _of_health(lambda h: h.refused_writes_per_second), "writes refused for lack of memory", "per second"
    ),
    "evictions": RuleMeaning(_evictions, "evicted keys beyond blue's", "per second"),
    "headroom": RuleMeaning(_of_health(lambda h: h.headroom), "free share of the memory limit", below=True),
    "rss": RuleMeaning(_rss, "memory that the process holds, as a share of the limit"),
    "clients": RuleMeaning(_clients, "connected clients as a share of blue's", below=True),
    "ops": RuleMeaning(_ops, "commands per second as a share of blue's", below=True),
    "hit_ratio": RuleMeaning(_hit_ratio, "share of found keys, less than on blue by"),
    "unreachable": RuleMeaning(_of_health(lambda h: h.unreachable_seconds), "no answer for", "s"),
    "blind": RuleMeaning(
        lambda seen, _baseline, _settings: Measured(seen.blind_seconds),
        "it answers, but tells nothing, for",
        "s",
    ),
    "restarted": RuleMeaning(_of_health(lambda h: float(h.restarts)), "restarts"),
    "replica": RuleMeaning(_replica, "green is a replica of another server", well="green is a master"),
    "lag_keys": RuleMeaning(
        _of_fall_back(lambda f: float(f.dirty)), "what a rollback would have to carry", "keys"
    ),
    "lag_seconds": RuleMeaning(
        _of_fall_back(lambda f: f.lag_seconds), "age of the oldest change not carried back", "s"
    ),
    "fall_back_silent": RuleMeaning(_silence, "nobody follows green, for", "s"),
    "fall_back_gap": RuleMeaning(
        _of_fall_back(lambda f: float(f.gap is not None)),
        "changes may have gone unseen by the way back",
        well="no change has gone unseen by the way back",
    ),
    "fall_back_stuck": RuleMeaning(
        _of_fall_back(lambda f: float(f.stuck)), "what cannot be carried back", "keys"
    ),
    "blue_unreachable": RuleMeaning(
        lambda seen, _baseline, _settings: Measured(seen.blue_silent_seconds), "no answer from blue for", "s"
    ),
    "fence": RuleMeaning(
        _fence, "blue does not refuse the applications any more", well="blue refuses the applications"
    ),
}
"""Every rule of :class:`~integrity.switch.watch_settings.GuardRules`, by its name."""
