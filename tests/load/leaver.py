"""Clients that connect, write once, and leave without reading the answer, some of them at once.

They matter while writes are paused: a server may still do such a write when the pause is over.
"""

from __future__ import annotations

import socket
from collections import deque
from contextlib import suppress
from random import Random
from time import monotonic_ns, time_ns
from typing import Final

from tests.load.author import PREFIX
from tests.load.environment import Target
from tests.load.journal import Command, Journal, Outcome, pack
from tests.load.lane import authentication

_SECONDS: Final = 0.25
_STAY_NS: Final = 30_000_000
"""How long half of them stay: a server that hears of their leaving too soon drops what they sent."""


class Leavers:
    """Such clients, each with a key of its own; call :meth:`let_go` often."""

    def __init__(self, journal: Journal, name: str, rng: Random) -> None:
        self._journal = journal
        self._name = name
        self._rng = rng
        self._number = 0
        self._staying: deque[tuple[int, socket.socket]] = deque()

    def come(self, target: Target) -> bool:
        """One more; False: nobody listens, and nothing was sent."""
        self._number += 1
        number, rng = self._number, self._rng
        key = PREFIX + b"%s:left:%d" % (self._name.encode(), number)
        value = rng.randbytes(20)
        command: Command = rng.choice([(b"SET", key, value), (b"RPUSH", key, value, value), (b"INCR", key)])
        packed = pack((command,))
        try:
            connection = socket.create_connection((target.host, target.port), _SECONDS)
        except OSError:
            return False
        self._journal.intend(number, target, 0, packed, (monotonic_ns(), time_ns()))
        self._journal.flush()
        sent = monotonic_ns(), time_ns()
        # How much of it arrives is not known, here as with the others.
        with suppress(OSError):
            connection.sendall(pack(tuple(authentication(target))) + packed)
        self._journal.tell(number, sent, Outcome.UNKNOWN, [], (monotonic_ns(), time_ns()))
        if rng.random() < 0.5:
            connection.close()
        else:
            self._staying.append((monotonic_ns() + _STAY_NS, connection))
        return True

    def let_go(self, now_ns: int) -> None:
        """Close the connections whose time has come."""
        while self._staying and self._staying[0][0] <= now_ns:
            self._staying.popleft()[1].close()
