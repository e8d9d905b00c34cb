"""How long a process puts up with a ledger that is away."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from time import monotonic
from typing import Final
from weakref import WeakKeyDictionary

from sqlalchemy import Engine

_LEASE_SHARE: Final = 0.5
"""A lease is renewed when a quarter of it has passed.  Who waits for half of it, and then stops, has stopped before the
lease ends: a process that takes over never works beside one that cannot reach the ledger."""


@dataclass(slots=True)
class Endurance:
    """The patience of one engine: one budget for a whole outage, however many statements meet it.

    Else every step of an undoing would wait anew, and the fence would stand meanwhile.
    """

    seconds: float = 0.0
    """At most, for one outage; 0 where the ledger is only being opened."""
    _leases: dict[str, float] = field(default_factory=dict)
    _away_since: float | None = None
    _lock: Lock = field(default_factory=Lock)

    def hold(self, owner: str, lease_seconds: float) -> None:
        """A run is held under this lease from now on."""
        with self._lock:
            self._leases[owner] = lease_seconds

    def release(self, owner: str) -> None:
        """It is held no longer."""
        with self._lock:
            self._leases.pop(owner, None)

    @property
    def patience(self) -> float:
        """Seconds that an outage may last."""
        with self._lock:
            return min([self.seconds, *(lease * _LEASE_SHARE for lease in self._leases.values())])

    def lost(self) -> None:
        """The database did not answer."""
        with self._lock:
            if self._away_since is None:
                self._away_since = monotonic()

    def found(self) -> None:
        """It answers."""
        with self._lock:
            self._away_since = None

    @property
    def exhausted(self) -> bool:
        """Whether the present outage has lasted for too long."""
        since = self._away_since
        return since is not None and monotonic() - since >= self.patience


_OF_ENGINE: Final[WeakKeyDictionary[Engine, Endurance]] = WeakKeyDictionary()


def endurance_of(engine: Engine) -> Endurance:
    """The patience of this engine."""
    return _OF_ENGINE.setdefault(engine, Endurance())
