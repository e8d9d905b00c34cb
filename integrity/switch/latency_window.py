"""What an application would wait for an answer: a thread that asks one server many times a second.

A server that stops for two seconds answers one probe late and takes the place of forty that were never sent; counted as
one among hundreds, it would vanish from every percentile.  So each answer that took longer than the time between two
probes also stands for those that it kept from being sent, and a probe that is yet to be answered counts as it waits.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from math import ceil
from threading import Event, Lock, Thread
from time import monotonic
from typing import Final

from integrity.endpoint import Endpoint
from integrity.errors import ServerError, ServerUnreachable
from integrity.replies import ErrorReply
from integrity.wire import Connection, pack

_PATIENCE_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 0.25
_REFUSED_RETRY_SECONDS: Final = 5.0
_PING: Final = pack(b"PING")
# Dragonfly answers PING in the connection's thread; only a key leads to the thread that holds it.  Sixteen names reach
# all threads of most servers.
_GETS: Final = tuple(pack(b"GET", b"greenfly:probe:%d" % number) for number in range(16))
_NOT_SERVING: Final = ("LOADING", "MASTERDOWN", "BUSY ")


@dataclass(frozen=True, slots=True)
class Latencies:
    """Percentiles in milliseconds; None where there is no answer in the window."""

    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    longest: float | None = None
    probes: int = 0


def summarise(taken: list[float], every: float) -> Latencies:
    """Percentiles (nearest rank) of round trips in seconds.

    :param every: seconds between two probes, if the server answers in time.
    """
    waits = []
    for took in taken:
        waits.append(took)
        missed = took - every
        while missed > every:
            waits.append(missed)
            missed -= every
    if not waits:
        return Latencies()
    waits.sort()

    def at(share: float) -> float:
        return round(waits[max(0, ceil(share * len(waits)) - 1)] * 1000, 3)

    return Latencies(at(0.5), at(0.9), at(0.99), at(1.0), len(taken))


class LatencyWindow:
    """Asks one server over a connection of its own, between ``start`` and ``stop``.

    Nothing that happens to its connection is an error: there are no answers then, and it connects again.
    """

    def __init__(self, endpoint: Endpoint, *, window_seconds: float, per_second: float) -> None:
        target = endpoint.target
        self._endpoint = Endpoint(
            replace(
                target,
                connect_timeout=min(target.connect_timeout, _PATIENCE_SECONDS),
                io_timeout=min(target.io_timeout, _PATIENCE_SECONDS),
            )
        )
        self._window_seconds = window_seconds
        self._every = 1 / per_second
        self._stop = Event()
        self._thread = Thread(target=self._run, name=f"greenfly-latency-{endpoint.role}", daemon=True)
        self._lock = Lock()
        # Below: written by the thread, read by the other one, both under the lock.
        self._taken: deque[tuple[float, float]] = deque()
        self._asked_at: float | None = None
        self._answered_at: float | None = None
        self._commands = self._gets = 0

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more.  A probe that is not answered yet is left to end by itself."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2 * self._every + 0.1)

    @property
    def answered_at(self) -> float | None:
        """When it last answered (:func:`time.monotonic`); None where it never has."""
        with self._lock:
            return self._answered_at

    @property
    def sent(self) -> tuple[int, int]:
        """Commands sent so far, and how many of them looked up a key that is not there."""
        with self._lock:
            return self._commands, self._gets

    def latencies(self) -> Latencies:
        """Of the window that ends now."""
        now = monotonic()
        with self._lock:
            taken = [took for ended, took in self._taken if ended >= now - self._window_seconds]
            pending = 0.0 if self._asked_at is None else now - self._asked_at
        if pending > self._every:
            taken.append(pending)
        return summarise(taken, self._every)

    # -- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            retry = _RETRY_SECONDS
            self._ask()
            try:
                with self._endpoint.connect("watch-latency") as connection:
                    self._forget_question()
                    self._measure(connection)
                    break
            except ServerUnreachable:
                self._gave_up()
            except ServerError:
                # The server answers, only not to us: asking on at this pace would fill its ACL log.
                self._forget_question()
                retry = _REFUSED_RETRY_SECONDS
            self._stop.wait(retry)
        self._forget_question()

    def _measure(self, connection: Connection) -> None:
        """Ask until told to stop, or told not to ask."""
        with_key, number = True, 0
        while not self._stop.is_set():
            number += 1
            questions = [_PING, _GETS[number % len(_GETS)]] if with_key else [_PING]
            begun = self._ask(len(questions), with_key=with_key)
            replies = connection.exchange(questions)
            if with_key and isinstance(replies[1], ErrorReply) and str(replies[1]).startswith("NOPERM"):
                with_key = False
            if isinstance(replies[0], ErrorReply):
                if str(replies[0]).startswith(_NOT_SERVING):
                    # Nothing that an application could use; the question goes on waiting.
                    self._stop.wait(self._every)
                    continue
                raise connection.error_for(replies[0], "PING")
            took = self._answered(begun)
            self._stop.wait(max(0.0, self._every - took))

    def _ask(self, commands: int = 0, *, with_key: bool = False) -> float:
        now = monotonic()
        with self._lock:
            self._commands += commands
            self._gets += with_key
            if self._asked_at is None:
                self._asked_at = now
        return now

    def _answered(self, begun: float) -> float:
        now = monotonic()
        with self._lock:
            begun = self._asked_at if self._asked_at is not None else begun
            self._asked_at, self._answered_at = None, now
            self._take(now, now - begun)
        return now - begun

    def _gave_up(self) -> None:
        """A wait that led nowhere was a wait; a refusal that comes at once is none."""
        now = monotonic()
        with self._lock:
            if self._asked_at is not None and now - self._asked_at >= self._every:
                self._take(now, now - self._asked_at)
            self._asked_at = None

    def _forget_question(self) -> None:
        with self._lock:
            self._asked_at = None

    def _take(self, ended: float, took: float) -> None:
        self._taken.append((ended, took))
        while self._taken and self._taken[0][0] < ended - self._window_seconds:
            self._taken.popleft()
