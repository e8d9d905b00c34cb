"""How long a server makes its other clients wait: the round trip of a PING over a connection of its own.

A server that works through a batch of ours answers the PING after it, so the round trip is what an application would
see.  The number is taken in a thread of the process that also moves the data, so it carries some noise of that process;
``docs/throttle.md`` says how much.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import median
from threading import Event, Thread
from time import perf_counter, sleep
from typing import Final

from integrity.endpoint import Endpoint
from integrity.errors import Role, ServerError
from integrity.replies import ErrorReply
from integrity.transfer.latency_history import LatencyHistory
from integrity.wire import Connection, pack

_EVERY_SECONDS: Final = 0.1
_QUIET_EVERY_SECONDS: Final = 0.005
_QUIET_SAMPLES: Final = 5
_WINDOW: Final = 5
_ENOUGH: Final = 3
"""Samples that make a reading; the second largest of them counts, so that one hiccup of ours alone does not."""
_RETRY_SECONDS: Final = 1.0
_TIMEOUT_SECONDS: Final = 2.0
_PING: Final = pack(b"PING")


@dataclass(frozen=True, slots=True)
class LatencyFacts:
    """What one probe measured, in milliseconds."""

    quiet: float | None
    """Before the load; None where it was never known."""
    mean: float | None
    worst: float | None
    samples: int
    lost: int
    """How often the probe's connection was lost or could not be made."""
    over_time: Mapping[str, object]
    """See :class:`~integrity.transfer.latency_history.LatencyHistory`."""


class LatencyProbe:
    """Measures one server in a thread of its own, about ten times a second, between ``start`` and ``stop``.

    Nothing that happens to its connection is an error: the latency is unknown then, and it connects again.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.role: Role = endpoint.role
        target = endpoint.target
        # An answer that takes longer than this is slow enough to be called an answer; and a run must not wait for its
        # probe when it ends.
        self._endpoint = Endpoint(
            replace(
                target,
                connect_timeout=min(target.connect_timeout, _TIMEOUT_SECONDS),
                io_timeout=min(target.io_timeout, _TIMEOUT_SECONDS),
            )
        )
        self._patience = min(self._endpoint.target.connect_timeout, self._endpoint.target.io_timeout)
        self._stop = Event()
        self._quiet_known = Event()
        self._thread = Thread(target=self._run, name=f"greenfly-throttle-{self.role}", daemon=True)
        # The lists and numbers below are written by the thread alone, and read whole by the other one.
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._asked_at: float | None = None
        self._quiet: float | None = None
        self._sum = self._worst = 0.0
        self._samples = self._lost = 0
        self._began, self._history = perf_counter(), LatencyHistory(datetime.now(UTC))
        self.connected = False
        """Whether a reading will be there soon, where there is none."""

    def start(self) -> None:
        """Begin to measure."""
        self._began, self._history = perf_counter(), LatencyHistory(datetime.now(UTC))
        self._thread.start()

    def wait_until_quiet_known(self, seconds: float) -> None:
        """Wait for the first measurements, which are taken before the load begins."""
        self._quiet_known.wait(seconds)

    def stop(self) -> None:
        """Ask the thread to end."""
        self._stop.set()

    def join(self) -> None:
        """Wait until it has."""
        self._thread.join(2 * _TIMEOUT_SECONDS)

    def excess(self) -> float | None:
        """Milliseconds by which the server now answers later than when it was quiet; None where that is unknown."""
        recent, quiet = sorted(self._recent.copy()), self._quiet
        stuck = self._stuck()
        if stuck:
            # It may be this process that was busy; the thread then takes the answer in as soon as it is let.
            sleep(_EVERY_SECONDS / 50)
            stuck = self._stuck()
        if quiet is None or (len(recent) < _ENOUGH and not stuck):
            return None
        late = recent[-2] if len(recent) >= _ENOUGH else 0.0
        return max(0.0, max(late, stuck) - quiet)

    def _stuck(self) -> float:
        """Milliseconds since a PING that is yet to be answered; 0 where that is not long."""
        waited = self._waited()
        return waited * 1000 if waited > _EVERY_SECONDS else 0.0

    def _waited(self) -> float:
        """Seconds since what is yet to be answered."""
        asked_at = self._asked_at
        return 0.0 if asked_at is None else perf_counter() - asked_at

    def forget(self) -> None:
        """Leave out what was measured so far: the pace has changed, and the next reading shall tell what that did."""
        self._recent = deque(maxlen=_WINDOW)

    def facts(self) -> LatencyFacts:
        """What was measured in all."""
        known = self._samples > 0
        return LatencyFacts(
            None if self._quiet is None else round(self._quiet, 2),
            round(self._sum / self._samples, 2) if known else None,
            round(self._worst, 2) if known else None,
            self._samples,
            self._lost,
            self._history.to_dict(),
        )

    # -- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            # A server that does not even take a connection in time is late too; one that refuses it is not there.
            self._asked_at = perf_counter()
            try:
                with self._endpoint.connect("throttle") as connection:
                    self.connected = True
                    self._measure(connection)
                    break
            except ServerError:
                self._lost += 1
                self.connected = False
                waited = self._waited()
                self._asked_at = None
                if waited >= self._patience:
                    self._took(waited * 1000)
                else:
                    self.forget()
            self._quiet_known.set()
            self._stop.wait(_RETRY_SECONDS)
        self.connected = False
        self._quiet_known.set()

    def _measure(self, connection: Connection) -> None:
        """Ask until told to stop, or told not to ask."""
        first: list[float] = []
        while not self._stop.is_set():
            self._asked_at = begun = perf_counter()
            reply = connection.exchange([_PING])[0]
            took = (perf_counter() - begun) * 1000
            self._asked_at = None
            if isinstance(reply, ErrorReply) and str(reply).startswith("NOPERM"):
                # Asking on would fill the server's ACL log.
                return
            if self._quiet is None:
                first.append(took)
                if len(first) == _QUIET_SAMPLES:
                    self._quiet = median(first)
                    self._quiet_known.set()
                self._stop.wait(_QUIET_EVERY_SECONDS)
                continue
            self._took(took)
            self._stop.wait(_EVERY_SECONDS)

    def _took(self, milliseconds: float) -> None:
        self._recent.append(milliseconds)
        self._history.add(perf_counter() - self._began, milliseconds)
        self._samples += 1
        self._sum += milliseconds
        self._worst = max(self._worst, milliseconds)
        # Where others loaded the server when we began, it may be quieter later.
        if self._quiet is not None and len(self._recent) == _WINDOW:
            self._quiet = min(self._quiet, median(self._recent))
