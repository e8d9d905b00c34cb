"""MONITOR as a feed: every command that a server runs, and from that the keys it may have changed.

Unlike tracking it works on Dragonfly, and it shows what happens to consumer groups.  It does not show keys that expire
(whoever copies a key copies its expiry), nor what administrators do: CONFIG, DEBUG and the like are hidden.  Evictions
are not shown either, but they are counted, so everything is suspect when there were any.

Dragonfly tells the commands of different connections in loose order, before they have run, and closes the connection
without a word when too many lines wait to be sent (:mod:`integrity.sync.monitor_queue`).  So a key is to be read again
when ``settle_seconds`` have passed, and an end of the connection is a loss.

A thread of its own reads (:mod:`integrity.sync.monitor_reader`).  A second one, the pulse, sends a marker once a second
over another connection, which dates what is known.  It is a thread because :meth:`MonitorFeed.take` must never wait for
the server, and because an owner who is busy must not make the date old.
"""

from __future__ import annotations

import secrets
import select
import socket
import ssl
from contextlib import ExitStack
from dataclasses import replace
from threading import Event
from time import monotonic
from typing import Final

from integrity.endpoint import Endpoint
from integrity.errors import ProtocolError, ServerError, ServerUnreachable
from integrity.replies import ErrorReply
from integrity.standby import Standby
from integrity.sync.blocked_moves import EarlyWaiters
from integrity.sync.feed import Taken
from integrity.sync.key_positions import KeyTable
from integrity.sync.monitor_pulse import Check, Pulse, client_list
from integrity.sync.monitor_reader import MonitorReader
from integrity.sync.sightings import Sightings
from integrity.wire import Connection, pack

_PATIENCE_SECONDS: Final = 5.0
"""The longest that the pulse waits for the server, and closing for the pulse."""
_MARKERS: Final = 2
"""Seen one after the other before the feed is said to have caught up, because lines may come in loose order."""


class MonitorFeed:
    """A :class:`~integrity.sync.feed.Feed`; made by :meth:`open`."""

    name = "monitor"

    def __init__(
        self,
        endpoint: Endpoint,
        client_id: int,
        sightings: Sightings,
        early: EarlyWaiters,
        check: Check,
        reader: MonitorReader,
        settle_seconds: float,
    ) -> None:
        self.settle_seconds = settle_seconds
        self._endpoint = endpoint
        self._client_id = client_id
        self._sightings = sightings
        self._early = early
        self._check = check
        self._reader = reader
        self._pulse = Pulse(
            _hasty(endpoint, _PATIENCE_SECONDS), check, sightings, reader, endpoint.target.io_timeout
        )
        self._asking = ExitStack()
        self._standby = self._asking.enter_context(Standby(endpoint, "monitor-check", 0))

    @classmethod
    def open(
        cls, endpoint: Endpoint, *, settle_seconds: float = 0.5, something: Event | None = None
    ) -> MonitorFeed:
        """Begin; every change made after this returns is named.

        :param something: set when something was seen; for several feeds that are waited for together.
        :raises ServerError: MONITOR, COMMAND, CLIENT LIST or INFO is not allowed, or the server cannot be reached.
        """
        marker = b"greenfly:%b:" % secrets.token_hex(8).encode()
        with endpoint.connect("monitor-check") as asking, ExitStack() as undo:
            table = KeyTable.ask(asking)
            sightings = Sightings(settle_seconds, something)
            connection = endpoint.connect("monitor")
            undo.callback(connection.close)
            client_id = connection.command(b"CLIENT", b"ID")
            if not isinstance(client_id, int):
                raise _odd(connection, "CLIENT ID is no number.")
            opened, received = _begin(connection)
            early = EarlyWaiters(client_list(asking))
            check = Check(marker, sightings, early, asking)
            reader = MonitorReader(opened, received, table, marker, sightings, early)
            feed = cls(endpoint, client_id, sightings, early, check, reader, settle_seconds)
            feed._reader.start()
            feed._pulse.start()
            undo.pop_all()
        return feed

    def take(self) -> Taken:
        """What was seen since the last call; never waits."""
        return self._sightings.take()

    def wait(self, seconds: float) -> None:
        """Return when something was seen, or after so long."""
        self._sightings.wait(seconds)

    def catch_up(self, seconds: float) -> bool:
        """Wait until every change that was made before this call has been seen, and can be taken.

        False where that could not be known within *seconds*.
        """
        deadline = monotonic() + seconds
        for _ in range(_MARKERS):
            left = deadline - monotonic()
            if left <= 0:
                return False
            try:
                # A connection of its own for each: Dragonfly serves them by different threads.
                with _hasty(self._endpoint, left).connect("monitor-check") as connection:
                    number = self._check.run(connection)
            except ServerError:
                return False
            if not self._sightings.wait_for_marker(number, deadline - monotonic()):
                return False
        why = self._early.told()
        if why is not None:
            self._sightings.add({}, why)
        return not self._sightings.lost

    def backlog(self) -> int:
        """Bytes that wait on the server for the reader; 0 where the server does not tell, as Dragonfly.

        :raises ServerError: the server cannot be asked.
        """
        for line in client_list(self._standby.connection(), b"ID", b"%d" % self._client_id).splitlines():
            fields = dict(part.partition(b"=")[::2] for part in line.split(b" "))
            if fields.get(b"id") == b"%d" % self._client_id and fields.get(b"omem", b"").isdigit():
                return int(fields[b"omem"])
        return 0

    def close(self) -> None:
        """Close the connection; the server forgets the feed."""
        self._reader.stop()
        self._pulse.stop()
        self._asking.close()


def _hasty(endpoint: Endpoint, seconds: float) -> Endpoint:
    """The same server, which is not waited for longer than this."""
    target = endpoint.target
    return Endpoint(
        replace(
            target,
            connect_timeout=min(target.connect_timeout, seconds),
            io_timeout=min(target.io_timeout, seconds),
        )
    )


def _begin(connection: Connection) -> tuple[socket.socket, bytes]:
    """Send MONITOR; returns the socket, and what came after the server's OK."""
    opened = connection.detach()
    timeout = connection.target.io_timeout
    deadline = monotonic() + timeout
    poll = select.poll()
    unsent, received = pack(b"MONITOR"), b""
    while b"\r\n" not in received:
        poll.register(opened, select.POLLIN | (select.POLLOUT if unsent else 0))
        if not poll.poll(max(0.0, deadline - monotonic()) * 1000):
            raise ServerUnreachable(
                connection.role, connection.where, f"no answer to MONITOR within {timeout:g} s.", "Try again."
            )
        try:
            if unsent:
                unsent = unsent[opened.send(unsent) :]
                continue
            chunk = opened.recv(65_536)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            continue
        except OSError as error:
            raise _closed(connection, f" ({error.strerror or error})") from error
        if not chunk:
            raise _closed(connection, "")
        received += chunk
    reply, _, rest = received.partition(b"\r\n")
    if reply.startswith(b"-"):
        raise connection.error_for(ErrorReply(reply[1:].decode("utf-8", "replace")), "MONITOR")
    if reply != b"+OK":
        raise _odd(connection, "the answer to MONITOR is not understood.")
    return opened, rest


def _closed(connection: Connection, detail: str) -> ServerUnreachable:
    return ServerUnreachable(
        connection.role, connection.where, f"closed the connection at MONITOR{detail}.", "See its log."
    )


def _odd(connection: Connection, problem: str) -> ProtocolError:
    return ProtocolError(
        connection.role, connection.where, problem, "Check that this is a Redis or Dragonfly server."
    )
