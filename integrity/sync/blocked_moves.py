"""BLMOVE and BRPOPLPUSH that wait: MONITOR shows them when they are called, and nothing when they are served.

What serves them names the list that they take from, so whoever names that list names the one they give to as well.
Those that waited before MONITOR began were never shown.  When one of them has stopped waiting, it may have given to any
list; it is known to have stopped when its client runs something else, or is no longer said to be blocked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf
from threading import Lock
from time import monotonic
from typing import Final

_MOST: Final = 100_000
_CROWDED: Final = 1_000
_MARGIN_SECONDS: Final = 60.0
"""A server may be late to time its clients out, when it is paused, say."""
_MOVES: Final = frozenset({b"blmove", b"brpoplpush"})
_EARLY: Final = "A client that waited with BLMOVE or BRPOPLPUSH before the feed began was served, or gave up."


class TooManyMoves(Exception):
    """More pairs of lists than can be followed."""


class BlockedMoves:
    """Which lists may be given to when another changes.  For one thread."""

    __slots__ = ("_given", "_look_at", "_pairs")

    def __init__(self) -> None:
        self._given: dict[bytes, dict[bytes, float]] = {}
        """List → lists that may get from it → until when, by :func:`time.monotonic`."""
        self._pairs = 0
        self._look_at = _CROWDED

    def note(self, source: bytes, target: bytes, seconds: bytes) -> None:
        """Someone may wait this long to move from *source* to *target*.

        :raises TooManyMoves: there are too many to remember.
        """
        try:
            wait = float(seconds) or inf
        except ValueError:
            wait = inf
        given = self._given.setdefault(source, {})
        self._pairs += target not in given
        given[target] = max(given.get(target, 0.0), monotonic() + wait + _MARGIN_SECONDS)
        if self._pairs > self._look_at:
            self._forget()

    def also_changed(self, names: Mapping[bytes, object]) -> list[bytes]:
        """Lists that may change because *names* do, and because of each other."""
        if not self._given:
            return []
        found: dict[bytes, None] = {}
        new = self._given.keys() & names.keys()
        while new:
            targets = {target for name in new for target in self._given.get(name, ())}
            new = targets - found.keys()
            found |= dict.fromkeys(new)
        return list(found)

    def _forget(self) -> None:
        """Leave out those that can no longer wait."""
        now = monotonic()
        live = {
            source: {target: until for target, until in given.items() if until > now}
            for source, given in self._given.items()
        }
        self._given = {source: given for source, given in live.items() if given}
        self._pairs = sum(map(len, self._given.values()))
        if self._pairs > _MOST:
            raise TooManyMoves
        self._look_at = min(_MOST, max(_CROWDED, 2 * self._pairs))


def waiting_clients(client_list: bytes) -> dict[bytes, bytes]:
    """Id → address of the clients in a reply to CLIENT LIST that may wait to move something."""
    found = {}
    for line in client_list.splitlines():
        fields = dict(part.partition(b"=")[::2] for part in line.split(b" "))
        # Dragonfly does not tell with which command.
        if b"b" in fields.get(b"flags", b"") and fields.get(b"cmd", b"blmove").lower() in _MOVES:
            found[fields.get(b"id", b"")] = fields.get(b"addr", b"")
    return found


class EarlyWaiters:
    """The clients that waited before MONITOR began.  True while any of them still does.

    What they did is told when all have stopped, or when it is asked for: each of them would make everything suspect.
    """

    def __init__(self, client_list: bytes) -> None:
        self._lock = Lock()
        self._waiting = {number: _client(address) for number, address in waiting_clients(client_list).items()}
        self._stopped = False

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def ids(self) -> list[bytes]:
        """Who still waits, as far as is known."""
        return list(self._waiting)

    def heard(self, addresses: Iterable[bytes]) -> str | None:
        """These clients ran something, so they do not wait; tells why everything may have changed, when all stopped."""
        ran = set(map(_client, addresses))
        return self._keep(lambda number, address: address not in ran)

    def listed(self, client_list: bytes) -> str | None:
        """Only clients in this list that are blocked may wait still."""
        still = waiting_clients(client_list)
        return self._keep(lambda number, address: number in still)

    def told(self) -> str | None:
        """Why everything may have changed by now, if it may; once."""
        with self._lock:
            stopped, self._stopped = self._stopped, False
        return _EARLY if stopped else None

    def _keep(self, waits: Callable[[bytes, bytes], bool]) -> str | None:
        with self._lock:
            before = len(self._waiting)
            self._waiting = {number: at for number, at in self._waiting.items() if waits(number, at)}
            self._stopped = self._stopped or len(self._waiting) < before
            if self._waiting:
                return None
        return self.told()


def _client(address: bytes) -> bytes:
    """What a client is called both in CLIENT LIST and by MONITOR; those of a unix socket cannot be told apart."""
    return b"unix" if address.startswith((b"/", b"unix:")) else address
