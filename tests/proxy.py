"""A TCP proxy before one server, to change or cut what a client sends, and to stall or part the two."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event, Thread
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

Change = Callable[[bytes], tuple[bytes, bool]]
"""What to send instead of a piece of the client's bytes, and whether to cut the connection after it."""


def _set() -> Event:
    event = Event()
    event.set()
    return event


def unchanged(data: bytes) -> tuple[bytes, bool]:
    """Pass everything on."""
    return data, False


@dataclass(slots=True)
class Proxy:
    """Listens on loopback; :attr:`change` can be exchanged while it runs."""

    server_url: str
    change: Change = unchanged
    settle: Callable[[], None] = lambda: None
    """Called between the last bytes and the cut."""
    cuts: int = 0
    parted: bool = False
    """Whether new connections are closed at once; :meth:`part` closes those that are there."""
    to_server: Event = field(default_factory=_set)
    """Cleared: what clients send goes no further, and nobody is told."""
    to_client: Event = field(default_factory=_set)
    _listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    _open: list[socket.socket] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flow()
        for connection in (self._listener, *self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def stall(self) -> None:
        """Let nothing through, in either direction, as a network that loses every packet."""
        self.to_server.clear()
        self.to_client.clear()

    def flow(self) -> None:
        """Let everything through that was held up."""
        self.to_server.set()
        self.to_client.set()

    def part(self) -> None:
        """Close every connection, and every new one, until :attr:`parted` is False."""
        self.parted = True
        self.cut()

    def cut(self) -> None:
        """Close every connection; new ones are welcome."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.cuts += 1

    def _accept(self) -> None:
        parts = urlsplit(self.server_url)
        while True:
            try:
                client, _ = self._listener.accept()
                if self.parted:
                    client.close()
                    continue
                server = socket.create_connection((parts.hostname or "", parts.port or 6379))
            except ConnectionRefusedError:
                client.close()  # The server is down, and may come back.
                continue
            except OSError:
                return
            self._open += [client, server]
            Thread(target=self._forward, args=(client, server), daemon=True).start()
            Thread(target=self._backward, args=(server, client), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 20):
                self.to_server.wait()
                sent, cut = self.change(data)
                server.sendall(sent)
                if cut:
                    self.cuts += 1
                    self.settle()
                    break
            server.shutdown(socket.SHUT_WR)

    def _backward(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 20):
                self.to_client.wait()
                client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
