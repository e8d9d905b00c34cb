"""What is asked of a server while its MONITOR is read: a marker, and what MONITOR does not show."""

from __future__ import annotations

from threading import Event, Lock, Thread
from time import monotonic
from typing import Final

from integrity.endpoint import Endpoint, read_info
from integrity.errors import ProtocolError, ServerError
from integrity.sync.blocked_moves import EarlyWaiters
from integrity.sync.monitor_reader import MonitorReader
from integrity.sync.sightings import Sightings
from integrity.wire import Connection

_EVERY_SECONDS: Final = 1.0


class Check:
    """Sends a marker and looks for what MONITOR does not show; for more than one thread.

    :param marker: how the argument of ECHO begins; a number follows.
    :param connection: asked how things stand at the beginning.
    """

    def __init__(
        self, marker: bytes, sightings: Sightings, early: EarlyWaiters, connection: Connection
    ) -> None:
        self._marker = marker
        self._sightings = sightings
        self._early = early
        self._lock = Lock()
        self._evicted, self._role = _standing(connection)

    def run(self, connection: Connection) -> int:
        """Returns the number of the marker, which the server has run by then.

        :raises ServerError: the server cannot be asked.
        """
        number = self._sightings.new_marker()
        connection.command(b"ECHO", b"%b%d" % (self._marker, number))
        evicted, role = _standing(connection)
        with self._lock:
            more, self._evicted = evicted - self._evicted, max(evicted, self._evicted)
        if more > 0:
            self._sightings.add({}, f"{more} keys were evicted, and MONITOR does not show which.")
        if role != self._role:
            self._sightings.lose(f"The server's role changed from {self._role} to {role}.")
        if self._early:
            why = self._early.listed(client_list(connection))
            if why is not None:
                self._sightings.add({}, why)
        return number


def client_list(connection: Connection, *options: bytes) -> bytes:
    """CLIENT LIST.

    :raises ServerError: it is not allowed.
    """
    reply = connection.command(b"CLIENT", b"LIST", *options)
    if isinstance(reply, bytes):
        return reply
    raise ProtocolError(
        connection.role, connection.where, "CLIENT LIST is no text.", "Check that this is a Redis server."
    )


def _standing(connection: Connection) -> tuple[int, str]:
    """Keys evicted since the server started, and its role."""
    evicted = read_info(connection, b"stats").get("evicted_keys", "0")
    return int(evicted), read_info(connection, b"replication").get("role", "master")


class Pulse(Thread):
    """Runs the check once a second, and says when nothing is heard of the server any more.

    :param silence_seconds: how long nothing at all may come.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        check: Check,
        sightings: Sightings,
        reader: MonitorReader,
        silence_seconds: float,
    ) -> None:
        super().__init__(name="greenfly-monitor-pulse", daemon=True)
        self._endpoint = endpoint
        self._check = check
        self._sightings = sightings
        self._reader = reader
        self._silence_seconds = silence_seconds
        self._end = Event()

    def stop(self) -> None:
        """Make the thread end, and wait until it has: no longer than the server may take to answer."""
        self._end.set()
        self.join()

    def run(self) -> None:
        """Check until told to stop, or until the feed has ended."""
        while not self._ends():
            try:
                with self._endpoint.connect("monitor-check") as connection:
                    while not self._ends():
                        self._check.run(connection)
                        self._judge()
                        self._end.wait(_EVERY_SECONDS)
            except ServerError:
                # Whether that is a loss is for the reader to find out; without markers it only dates further back.
                self._judge()
                self._end.wait(_EVERY_SECONDS)

    def _ends(self) -> bool:
        return self._end.is_set() or self._sightings.lost

    def _judge(self) -> None:
        """A connection that has fallen silent is lost: the next marker would be late by now."""
        latest = max(self._sightings.marked_at, self._reader.received_at)
        if monotonic() - latest > self._silence_seconds:
            self._sightings.lose(f"Nothing was heard of the server for {self._silence_seconds:g} s.")
