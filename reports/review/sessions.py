"""Who is signed in, and how often somebody may try.  Kept in memory: when the page is stopped, nobody is."""

from __future__ import annotations

import secrets
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from time import monotonic
from typing import Final

from integrity.ledger.tokens import TokenRecord

_MOST_SESSIONS: Final = 1_000
_MOST_ADDRESSES: Final = 10_000
_MINUTE: Final = 60.0


@dataclass(slots=True)
class Session:
    """One browser in which somebody signed in."""

    token_id: str
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    used_at: float = 0.0
    said: str | None = None
    """What the next page tells once."""
    problem: str | None = None
    """Why what was asked for was not done; told once too."""


class Sessions:
    """All sessions.  Safe for threads.

    :param seconds: an unused session ends after so long.
    :param clock: seconds, never going back.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = Lock()
        self._by_id: OrderedDict[str, Session] = OrderedDict()

    def open(self, token: TokenRecord) -> str:
        """Begin one; the id that the browser keeps."""
        number = secrets.token_urlsafe(32)
        with self._lock:
            self._by_id[number] = Session(token.id, used_at=self._clock())
            while len(self._by_id) > _MOST_SESSIONS:
                self._by_id.popitem(last=False)
        return number

    def find(self, number: str, *, use: bool = True) -> Session | None:
        """The session with this id; None where there is none any more.

        :param use: it counts as used now.
        """
        with self._lock:
            session = self._by_id.get(number)
            if session is None:
                return None
            now = self._clock()
            if now - session.used_at > self._seconds:
                del self._by_id[number]
                return None
            if use:
                session.used_at = now
                self._by_id.move_to_end(number)
            return session

    def end(self, number: str) -> None:
        """Forget it."""
        with self._lock:
            self._by_id.pop(number, None)


class Attempts:
    """Wrong tokens by address.  Safe for threads.

    :param most: so many within a minute, and the address has to wait.
    """

    def __init__(self, most: int, clock: Callable[[], float] = monotonic) -> None:
        self._most = most
        self._clock = clock
        self._lock = Lock()
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def wait_seconds(self, address: str) -> float:
        """How long this address has to wait; 0 where it need not."""
        with self._lock:
            times = self._times.get(address)
            if times is None or len(times) < self._most:
                return 0.0
            return max(0.0, times[0] + _MINUTE - self._clock())

    def failed(self, address: str) -> None:
        """Count one."""
        with self._lock:
            times = self._times.setdefault(address, deque(maxlen=self._most))
            times.append(self._clock())
            self._times.move_to_end(address)
            while len(self._times) > _MOST_ADDRESSES:
                self._times.popitem(last=False)
