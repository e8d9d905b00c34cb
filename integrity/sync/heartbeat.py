"""Lag as the other side sees it: a key that holds the time, written to the followed server, read from the other one."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from time import time

from integrity.errors import ServerError, ServerUnreachable
from integrity.sync.link import Link
from integrity.wire import Connection, pack


class Heartbeat:
    """One key; only where writing to the followed server is allowed.

    The write is not waited for: under a fence the server holds it back, or refuses it, and following goes on.

    :param key: in database 0 of the followed server.
    :param renamed: what it is called on the other side, in database *onto*.
    :param link: the two servers now.
    """

    def __init__(self, key: bytes, renamed: bytes, link: Callable[[], Link], onto: int) -> None:
        self._key = key
        self._renamed = renamed
        self._link = link
        self._onto = onto
        self._source: socket.socket | None = None
        self._target: Connection | None = None
        self._waiting = False
        """Whether the answer to a write is still to come."""
        self.lag_seconds = 0.0
        """How old what the other side holds was, at the last beat; 0 before there is anything, and while the followed
        server refuses the write."""

    def beat(self) -> None:
        """Look at what has arrived, then write the next.

        :raises ServerError: a server is lost, or the other side refuses to be read.
        """
        try:
            if self._source is None:
                self._source = self._link().source.connect("heartbeat").detach()
            if self._target is None:
                self._target = self._link().target.connect("heartbeat", self._onto)
            arrived = self._target.exchange([pack(b"GET", self._renamed)])[0]
            refused = self._waiting and not self._was_written(self._source)
            now = time()
            if not self._waiting:
                self._send(self._source, pack(b"SET", self._key, b"%.6f" % now))
        except ServerError:
            self.close()
            raise
        self.lag_seconds = 0.0
        if isinstance(arrived, bytes) and not refused:
            try:
                # Written a beat ago at best.
                self.lag_seconds = max(0.0, now - float(arrived) - 1.0)
            except ValueError:
                return  # Somebody else's key: of no use, and not ours to judge.

    def close(self) -> None:
        """Close the connections; they are opened again with the next beat."""
        for connection in (self._source, self._target):
            if connection is not None:
                connection.close()
        self._source = self._target = None
        self._waiting = False

    def _was_written(self, source: socket.socket) -> bool:
        """Whether the last write was answered, and by an OK."""
        try:
            answer = source.recv(4096)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError as error:
            raise self._lost() from error
        if not answer:
            raise self._lost()
        self._waiting = False
        return answer.startswith(b"+")

    def _send(self, source: socket.socket, command: bytes) -> None:
        try:
            # Nothing else is on its way, so it fits into the socket's buffer.
            source.sendall(command)
        except OSError as error:
            raise self._lost() from error
        self._waiting = True

    def _lost(self) -> ServerUnreachable:
        link = self._link()
        return ServerUnreachable("source", str(link.source), "the heartbeat's connection was closed.")
