"""Lines and bytes from a socket that has left the request-and-reply protocol."""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Final, Self

_BUFFER_BYTES: Final = 1 << 20
_LONGEST_LINE: Final = 64 * 1024
_LOOK_SECONDS: Final = 1.0


class SocketClosed(Exception):
    """The server closed the connection, or it broke."""


class SocketSilent(Exception):
    """Nothing came for as long as was to be waited."""


class SocketReader:
    """Reads and writes one socket that does not block; use as a context manager, which closes it.

    :param silence_seconds: how long nothing may come.
    :param while_waiting: called about once a second while nothing comes.
    """

    def __init__(
        self, raw: socket.socket, silence_seconds: float, while_waiting: Callable[[], None] = lambda: None
    ) -> None:
        self._socket = raw
        self._silence = silence_seconds
        self._while_waiting = while_waiting
        self._poll = select.poll()
        self._poll.register(raw, select.POLLIN)
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._held = b""
        """What was received behind a line."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Write a few bytes.

        :raises SocketClosed: the connection broke.
        """
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                self._wait(select.POLLIN | select.POLLOUT)
            except OSError as error:
                raise SocketClosed(error.strerror or str(error)) from error

    def line(self) -> bytes:
        """The next line that is not empty, without its end; servers send empty ones to show that they live.

        :raises SocketClosed: the connection broke, or this is no line.
        :raises SocketSilent: nothing came.
        """
        while True:
            end = self._held.find(b"\n")
            if end < 0:
                if len(self._held) > _LONGEST_LINE:
                    raise SocketClosed("what came is not the replication protocol")
                self._held += self._receive()
                continue
            line, self._held = self._held[:end].rstrip(b"\r"), self._held[end + 1 :]
            if line:
                return line

    def unread(self, data: bytes) -> None:
        """Make *data* what comes next."""
        self._held = data + self._held

    def some(self) -> bytes:
        """Whatever has come, at least one byte; up to a mebibyte at a time.

        :raises SocketClosed: the connection broke.
        :raises SocketSilent: nothing came.
        """
        if self._held:
            held, self._held = self._held, b""
            return held
        return self._receive()

    def _receive(self) -> bytes:
        while True:
            try:
                count = self._socket.recv_into(self._buffer)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                self._wait(select.POLLIN)
                continue
            except OSError as error:
                raise SocketClosed(error.strerror or str(error)) from error
            if not count:
                raise SocketClosed("the server closed the connection")
            return bytes(self._view[:count])

    def _wait(self, events: int) -> None:
        self._poll.modify(self._socket, events)
        deadline = monotonic() + self._silence
        while not self._poll.poll(min(_LOOK_SECONDS, max(0.0, deadline - monotonic())) * 1000):
            self._while_waiting()
            if monotonic() >= deadline:
                raise SocketSilent(f"nothing came for {self._silence:g} s")
