"""Lag as the other side sees it: a key that holds the time, written to the followed server, read from the other one."""

from __future__ import annotations

from time import time

from integrity.standby import Standby
from integrity.wire import pack


class Heartbeat:
    """One key; only where writing to the followed server is allowed."""

    def __init__(self, key: bytes, source: Standby, target: Standby) -> None:
        self._key = key
        self._source = source
        self._target = target
        self.lag_seconds = 0.0
        """How old what the other side holds was, at the last beat; 0 before there is anything."""

    def beat(self) -> None:
        """Look at what has arrived, then write the next.

        :raises ServerError: a server is lost, or refuses.
        """
        arrived = self._target.connection().exchange([pack(b"GET", self._key)])[0]
        now = time()
        if isinstance(arrived, bytes):
            try:
                # Written a beat ago at best.
                self.lag_seconds = max(0.0, now - float(arrived) - 1.0)
            except ValueError:
                self.lag_seconds = 0.0  # Somebody else's key: of no use, and not ours to judge.
        self._source.connection().command(b"SET", self._key, b"%.6f" % now)
