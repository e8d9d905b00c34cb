"""A server at a distance: a TCP relay that hands everything on after a fixed delay, as a long line does."""

from __future__ import annotations

import multiprocessing
import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from integrity.address import parse_address

_CHUNK = 1 << 18


@contextmanager
def at_distance(url: str, one_way_ms: float) -> Iterator[str]:
    """The URL under which the server at *url* answers *one_way_ms* milliseconds away in each direction."""
    address = parse_address(url, "benchmark")
    listener = socket.create_server(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    process = multiprocessing.get_context("fork").Process(
        target=_serve, args=(listener, address.port, one_way_ms / 1000), daemon=True
    )
    process.start()
    listener.close()
    try:
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.join()


def _serve(listener: socket.socket, port: int, delay: float) -> None:
    while True:
        near, _ = listener.accept()
        far = socket.create_connection(("127.0.0.1", port))
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for reader, writer in ((near, far), (far, near)):
            line: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
            threading.Thread(target=_read, args=(reader, line, delay), daemon=True).start()
            threading.Thread(target=_write, args=(writer, line), daemon=True).start()


def _read(reader: socket.socket, line: queue.SimpleQueue[tuple[float, bytes]], delay: float) -> None:
    while True:
        try:
            data = reader.recv(_CHUNK)
        except OSError:
            data = b""
        line.put((time.monotonic() + delay, data))
        if not data:
            return


def _write(writer: socket.socket, line: queue.SimpleQueue[tuple[float, bytes]]) -> None:
    while True:
        due, data = line.get()
        time.sleep(max(0.0, due - time.monotonic()))
        try:
            if not data:
                writer.shutdown(socket.SHUT_WR)
                return
            writer.sendall(data)
        except OSError:
            return
