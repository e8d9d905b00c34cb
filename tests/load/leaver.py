"""Clients that connect, write once, and leave without reading the answer.

They matter while writes are paused: a server may still do such a write when the pause is over.
"""

from __future__ import annotations

import socket
from random import Random
from time import monotonic_ns, time_ns
from typing import Final

from tests.load.author import PREFIX
from tests.load.environment import Target
from tests.load.journal import Command, Journal, Outcome, pack
from tests.load.lane import greeting

_SECONDS: Final = 0.25


def leave(journal: Journal, target: Target, name: str, number: int, rng: Random) -> bool:
    """One such client with a key of its own; False: nobody listens, and nothing was sent."""
    key = PREFIX + b"%s:left:%d" % (name.encode(), number)
    value = rng.randbytes(20)
    command: Command = rng.choice([(b"SET", key, value), (b"RPUSH", key, value, value), (b"INCR", key)])
    packed = pack((command,))
    try:
        with socket.create_connection((target.host, target.port), _SECONDS) as connection:
            journal.intend(number, target, 0, packed, (monotonic_ns(), time_ns()))
            journal.flush()
            sent = monotonic_ns(), time_ns()
            try:
                connection.sendall(pack(tuple(greeting(target, 0, name))) + packed)
            finally:
                journal.tell(number, sent, Outcome.UNKNOWN, [], (monotonic_ns(), time_ns()))
                journal.flush()
    except OSError:
        return False
    return True
