"""``CLIENT TRACKING ON BCAST``: the server pushes the name of every key that changes, expires or is evicted.

Works on Redis and Valkey from 6.0 on, without a change of configuration and without replication rights.  What was tried
and sets the rules here (Redis 6.2, 7.0, 8.2): names carry no database; FLUSHDB, FLUSHALL and a reload push null; the
state of consumer groups and SWAPDB push nothing (:mod:`integrity.sync.streams`, :mod:`integrity.sync.follower`); a
reader that stalls is not dropped, the server buffers for it without bound.  So the thread that reads does nothing but
read: it waits for its socket and nothing else, and takes a lock only for as long as two dictionaries change hands.

The server writes pushes at the end of each turn of its event loop, replies in the middle: what was changed before a
PING is certain to be pushed before the reply to the *next* PING.  :meth:`TrackingFeed.catch_up` waits for two.  A
server that is busy with a script answers by an error, and announces what the script changed when it ends.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from threading import Condition, Event, Lock, Thread
from time import monotonic
from typing import Final, Self

import hiredis

from integrity.endpoint import Endpoint
from integrity.errors import ServerError, ServerUnreachable
from integrity.replies import ErrorReply
from integrity.sync.feed import Loss, Taken
from integrity.wire import Connection, pack

_RECEIVE_BYTES: Final = 256 * 1024
_PING: Final = pack(b"PING")
_FLUSHED: Final = "the server announced that every key may have changed (FLUSHDB, FLUSHALL or a reload)"
_PING_SECONDS: Final = 1.0
"""How often the reader asks for a sign of life; also bounds how old :attr:`Loss.since` can be."""
_NOT_NOW: Final = ("BUSY", "LOADING")
_BUSY_SECONDS: Final = 0.05
"""How long a server that refuses to answer is left alone while somebody waits."""


class TrackingUnsupported(ServerError):
    """The server cannot announce every change this way; another feed has to do."""


class TrackingFeed:
    """A feed over one tracking connection; :meth:`open` makes it."""

    name = "tracking"
    settle_seconds = 0.0

    def __init__(
        self,
        endpoint: Endpoint,
        raw: socket.socket,
        client_id: int,
        silence_seconds: float,
        something: Event | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._socket = raw
        self._client_id = client_id
        self._silence = silence_seconds
        self._reader = hiredis.Reader(
            protocolError=ValueError, replyError=ErrorReply, notEnoughData=_NOT_ENOUGH
        )
        self._lock = Lock()
        self._names: dict[bytes, float] = {}
        self._everything: str | None = None
        self._loss: Loss | None = None
        self._something = something or Event()
        self._complete_until = datetime.now(UTC)
        self._pinged_before = self._complete_until
        self._pinging: datetime | None = None
        """When the ping was sent whose reply is on its way."""
        self._refused = False
        """Whether the last ping was answered by an error."""
        self._requests = 0
        """How often :meth:`catch_up` was called; the reading thread sees it change."""
        self._answered = 0
        """The newest request that is done."""
        self._caught_up = Condition()
        self._closing = False
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._control: Connection | None = None
        self._thread = Thread(target=self._run, name="greenfly:tracking", daemon=True)

    @classmethod
    def open(
        cls, endpoint: Endpoint, *, silence_seconds: float = 10.0, something: Event | None = None
    ) -> Self:
        """Begin to be told; every change after the return is announced.

        :param silence_seconds: a connection that answers nothing for so long is taken for lost.
        :param something: set when something was seen; for several feeds that are waited for together.
        :raises TrackingUnsupported: the server does not know it (Redis before 6.0, Dragonfly), or refuses.
        :raises ServerError: the server cannot be reached.
        """
        connection = endpoint.connect("tracking")
        try:
            identifier = connection.exchange([pack(b"CLIENT", b"ID")])[0]
            raw = connection.detach()
            number = identifier if isinstance(identifier, int) else 0
            feed = cls(endpoint, raw, number, silence_seconds, something)
        except BaseException:
            connection.close()
            raise
        try:
            feed._begin()
        except BaseException:
            feed.close()
            raise
        feed._thread.start()
        return feed

    def _begin(self) -> None:
        """Switch to RESP3 and tracking; pushes may follow the last reply in the same bytes."""
        self._socket.sendall(pack(b"HELLO", b"3") + pack(b"CLIENT", b"TRACKING", b"ON", b"BCAST"))
        deadline = monotonic() + self._endpoint.target.io_timeout
        for command in ("HELLO 3", "CLIENT TRACKING ON BCAST"):
            reply = self._reader.gets()
            while reply is _NOT_ENOUGH:
                if not select.select([self._socket], [], [], max(0.0, deadline - monotonic()))[0]:
                    raise self._unreachable(
                        f"no answer to {command} within {self._endpoint.target.io_timeout:g} s."
                    )
                self._reader.feed(self._received())
                reply = self._reader.gets()
            if isinstance(reply, ErrorReply):
                raise TrackingUnsupported(
                    self._endpoint.role,
                    str(self._endpoint),
                    f"does not announce changed keys ({command}: {reply}).",
                    "Changes are then found by MONITOR or by comparing in rounds.",
                )

    # -- the owner's side -------------------------------------------------------------------------------------------

    def take(self) -> Taken:
        """What was seen since the last call; never waits."""
        self._something.clear()
        with self._lock:
            names, self._names = self._names, {}
            everything, self._everything = self._everything, None
            return Taken(names, everything, self._loss)

    def wait(self, seconds: float) -> None:
        """Return when something was seen, or after so long."""
        self._something.wait(seconds)

    def catch_up(self, seconds: float) -> bool:
        """Two round trips: what was changed before this call has been seen."""
        with self._caught_up:
            self._requests += 1
            number = self._requests
        self._wake()
        with self._caught_up:
            self._caught_up.wait_for(lambda: self._answered >= number or self._loss is not None, seconds)
            return self._answered >= number and self._loss is None

    def backlog(self) -> int:
        """Bytes of pushes that wait on the server, from its client list.

        :raises ServerError: the server cannot be asked.
        """
        if self._control is None:
            self._control = self._endpoint.connect("backlog")
        try:
            reply = self._control.exchange([pack(b"CLIENT", b"LIST", b"ID", b"%d" % self._client_id)])[0]
            if isinstance(reply, ErrorReply):  # Before 6.2 there is only the whole list.
                reply = self._control.command(b"CLIENT", b"LIST")
        except ServerError:
            # Else whoever asks again would meet the same broken connection, whatever became of the server.
            self._control.close()
            self._control = None
            raise
        if not isinstance(reply, bytes):
            return 0
        mine = b"id=%d " % self._client_id
        for line in reply.splitlines():
            if line.startswith(mine):
                fields: Mapping[bytes, bytes] = {
                    name: value for name, _, value in (part.partition(b"=") for part in line.split(b" "))
                }
                return sum(int(fields.get(name, b"0")) for name in (b"omem", b"obl"))
        return 0

    def close(self) -> None:
        """Close the connection; the server forgets the feed."""
        self._closing = True
        self._wake()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)
        self._socket.close()
        if self._control is not None:
            self._control.close()
        for end in (self._wake_read, self._wake_write):
            try:
                os.close(end)
            except OSError:
                continue

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"!")
        except OSError:
            return  # The pipe is full, so the reader is about to wake; or it is closed.

    # -- the reading thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        reason = "the reading thread ended by a defect"
        try:
            self._read()
        except (OSError, ValueError) as error:
            reason = f"the connection broke ({error})"
        except ServerUnreachable as error:
            reason = error.problem
        finally:
            # Whatever ended it: a feed that is silently dead would be taken for a quiet server.
            if not self._closing:
                self._end(reason)

    def _read(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        heard = pinged = monotonic()
        requests = rounds = 0
        counts = False
        self._take_in()
        while not self._closing:
            events = dict(poll.poll((_BUSY_SECONDS if rounds and self._refused else _PING_SECONDS) * 1000))
            now = monotonic()
            if self._wake_read in events:
                os.read(self._wake_read, 4096)
            if self._socket.fileno() in events or self._pending():
                heard = now
                self._reader.feed(self._received())
                if self._take_in() and counts:
                    rounds -= 1
                    if not rounds:
                        with self._caught_up:
                            self._answered = requests
                            self._caught_up.notify_all()
            if now - heard > self._silence:
                raise self._unreachable(f"silent for {self._silence:g} s.")
            if requests != self._requests:
                requests, rounds = self._requests, 2
                counts = False  # A ping that is on its way was sent before the request.
            due = _PING_SECONDS if not rounds else _BUSY_SECONDS if self._refused else 0.0
            if self._pinging is None and now - pinged >= due:
                pinged, counts = now, bool(rounds)
                self._pinging = datetime.now(UTC)
                self._socket.sendall(_PING)

    def _pending(self) -> bool:
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def _received(self) -> bytes:
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            return b""
        if not data:
            raise self._unreachable("the server closed the connection.")
        return data

    def _take_in(self) -> bool:
        """Every whole push and reply that has arrived; whether the reply to a ping was among them."""
        names: set[bytes] = set()
        everything = answered = False
        while (reply := self._reader.gets()) is not _NOT_ENOUGH:
            if isinstance(reply, hiredis.PushNotification):
                if len(reply) == 2 and reply[0] == b"invalidate":
                    if reply[1] is None:
                        everything = True
                    else:
                        names.update(reply[1])
            elif isinstance(reply, ErrorReply) and str(reply).startswith(_NOT_NOW):
                # Busy with a script, whose changes it announces afterwards: this tells of life, and of no more.
                self._refused, self._pinging = True, None
            elif self._pinging is not None:
                answered, self._refused = True, False
                # Changes before a ping are pushed before the reply to the ping after it.
                self._complete_until, self._pinged_before = self._pinged_before, self._pinging
                self._pinging = None
        if names or everything:
            with self._lock:
                # What was announced first keeps its time: its age is the lag.
                self._names.update(dict.fromkeys(names - self._names.keys(), monotonic()))
                if everything:
                    self._everything = _FLUSHED
            self._something.set()
        return answered

    def _end(self, reason: str) -> None:
        with self._lock:
            self._loss = Loss(reason, self._complete_until)
        self._something.set()
        with self._caught_up:
            self._caught_up.notify_all()

    def _unreachable(self, problem: str) -> ServerUnreachable:
        return ServerUnreachable(
            self._endpoint.role, str(self._endpoint), f"the tracking connection is lost: {problem}"
        )


class _NotEnough:
    """The type of the marker that hiredis hands back for an incomplete reply."""


_NOT_ENOUGH: Final = _NotEnough()
