"""A client that writes all the time, as an application would, so that the write pause is measured from a client's side.

It writes one key to blue until it is told that the environment was switched, then to green.  A write that is delayed
takes as long as it takes; one that is refused is tried again.  The pause is the time between the last write that was
acknowledged before the switch and the first one after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from threading import Event, Lock, Thread
from time import monotonic
from typing import Final

from integrity.endpoint import Endpoint
from integrity.errors import GreenflyError
from integrity.ledger.samples import SampleRecord
from integrity.replies import ErrorReply
from integrity.wire import Connection, pack

_EVERY_SECONDS: Final = 0.002
_AFTER_ERROR_SECONDS: Final = 0.002
_MOST: Final = 200_000
_SECONDS_BEFORE: Final = 2.0
"""How much of the time before the pause is kept for the chart."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One write."""

    at: float
    """When it was sent, in seconds since the canary began."""
    side: str
    """``blue`` or ``green``."""
    ok: bool
    seconds: float
    error: str | None


@dataclass(frozen=True, slots=True)
class Pause:
    """What the canary saw."""

    seconds: float | None
    """Between the last acknowledged write on the one side and the first on the other; None where there is none yet."""
    longest_gap_seconds: float
    attempts: int
    refused: int

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values, milliseconds."""
        return {
            "write_pause_ms": round(self.seconds * 1000, 1) if self.seconds is not None else None,
            "canary": {
                "attempts": self.attempts,
                "refused": self.refused,
                "longest_gap_ms": round(self.longest_gap_seconds * 1000, 1),
            },
        }


class Canary:
    """Writes from a thread of its own between :meth:`start` and :meth:`stop`.

    :param first: the server it begins with, reached as an application would; *second* the one after the switch.
    """

    def __init__(self, key: bytes, first: Endpoint, second: Endpoint, sides: tuple[str, str]) -> None:
        self._key = key
        self._ends = (first, second)
        self._sides = sides
        self._switched = Event()
        self._stop = Event()
        self._lock = Lock()
        self._attempts: list[Attempt] = []
        self._told = False
        self._began = monotonic()
        self._began_at = datetime.now(UTC)
        self._thread = Thread(target=self._run, name="greenfly:canary", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._began = monotonic()
        self._began_at = datetime.now(UTC)
        self._thread.start()

    def switched(self) -> None:
        """The environment says the other side from now on."""
        self._switched.set()

    def back(self) -> None:
        """The switch was undone."""
        self._switched.clear()

    def stop(self) -> None:
        """End, and remove the key from the side that it wrote to last."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10.0)

    def pause(self) -> Pause:
        """What was seen so far."""
        with self._lock:
            attempts = list(self._attempts)
        done = [a for a in attempts if a.ok]
        before = [a.at + a.seconds for a in done if a.side == self._sides[0]]
        after = [a.at + a.seconds for a in done if a.side == self._sides[1]]
        times = sorted(a.at + a.seconds for a in done)
        gaps = [b - a for a, b in pairwise(times)]
        seconds = min(after) - max(before) if before and after else None
        return Pause(seconds, max(gaps, default=0.0), len(attempts), len(attempts) - len(done))

    def samples(self) -> list[SampleRecord]:
        """What the report draws: every attempt around the pause, thinned where there are many; handed over once."""
        with self._lock:
            attempts = list(self._attempts)
        if not attempts or self._told:
            return []
        self._told = True
        slow = max(attempts, key=lambda a: a.seconds)
        first = max(0.0, slow.at - _SECONDS_BEFORE)
        near = [a for a in attempts if first <= a.at <= slow.at + slow.seconds + _SECONDS_BEFORE]
        step = max(1, len(near) // 2000)
        kept = [a for n, a in enumerate(near) if n % step == 0 or not a.ok or a.seconds > 0.02]
        return [
            SampleRecord("client", self._began_at + timedelta(seconds=a.at), self._numbers(a))
            for a in kept[:5000]
        ]

    @staticmethod
    def _numbers(attempt: Attempt) -> Mapping[str, object]:
        return {
            "at_ms": round(attempt.at * 1000, 2),
            "side": attempt.side,
            "ok": attempt.ok,
            "latency_ms": round(attempt.seconds * 1000, 2),
            "error": attempt.error,
        }

    # -- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        connections: list[Connection | None] = [None, None]
        side = 0
        count = 0
        try:
            while not self._stop.is_set():
                side = 1 if self._switched.is_set() else 0
                count += 1
                ok = self._write(connections, side, count)
                self._stop.wait(_EVERY_SECONDS if ok else _AFTER_ERROR_SECONDS)
            self._remove(connections, side)
        finally:
            for connection in connections:
                if connection is not None:
                    connection.close()

    def _write(self, connections: list[Connection | None], side: int, count: int) -> bool:
        began = monotonic()
        error: str | None = None
        try:
            connection = connections[side]
            if connection is None:
                connection = connections[side] = self._ends[side].connect("canary")
            reply = connection.exchange([pack(b"SET", self._key, b"%d" % count)])[0]
            if isinstance(reply, ErrorReply):
                error = str(reply).split(" ", 1)[0]
        except GreenflyError as problem:
            error = type(problem).__name__
            lost = connections[side]
            if lost is not None:
                lost.close()
                connections[side] = None
        now = monotonic()
        with self._lock:
            if len(self._attempts) < _MOST:
                self._attempts.append(
                    Attempt(began - self._began, self._sides[side], error is None, now - began, error)
                )
        return error is None

    def _remove(self, connections: list[Connection | None], side: int) -> None:
        connection = connections[side]
        if connection is None:
            return
        try:
            connection.exchange([pack(b"UNLINK", self._key)])
        except GreenflyError:
            return  # It stays, a key of a few bytes that says what it is.
