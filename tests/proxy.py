"""A TCP proxy before one server, to change or cut what a client sends."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Thread
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

Change = Callable[[bytes], tuple[bytes, bool]]
"""What to send instead of a piece of the client's bytes, and whether to cut the connection after it."""


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
        for connection in (self._listener, *self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        parts = urlsplit(self.server_url)
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection((parts.hostname or "", parts.port or 6379))
            except OSError:
                return
            self._open += [client, server]
            Thread(target=self._forward, args=(client, server), daemon=True).start()
            Thread(target=self._backward, args=(server, client), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 20):
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
                client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
