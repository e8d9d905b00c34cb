"""Fences put up and lifted again and again in a storm of writers: the state at the refusal is the state that stays."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from time import sleep

import pytest

from integrity.wire import pack
from tests.fencing import Fenced, fingerprint, server, until

__all__ = ["server"]

ROUNDS = 4
WRITERS_OF_EACH_KIND = 3

Storm = Callable[[socket.socket, bytes], int]
"""Sends one round of writes of the writer with this name, and says how many lines of answer belong to it."""


def pipeline(link: socket.socket, name: bytes) -> int:
    link.sendall(b"".join(pack(b"INCR", b"%b:%d" % (name, number)) for number in range(100)))
    return 100


def transaction(link: socket.socket, name: bytes) -> int:
    writes = pack(b"INCR", name) + pack(b"RPUSH", b"list:" + name, b"x")
    link.sendall(pack(b"MULTI") + writes + pack(b"EXEC"))
    return 4


def slow_transaction(link: socket.socket, name: bytes) -> int:
    link.sendall(pack(b"MULTI") + pack(b"INCR", name))
    sleep(0.03)
    link.sendall(pack(b"EXEC"))
    return 3


def script(link: socket.socket, name: bytes) -> int:
    link.sendall(pack(b"EVAL", b"return redis.call('INCR', KEYS[1])", b"1", name))
    return 1


def leaving(link: socket.socket, name: bytes) -> int:
    link.sendall(pack(b"INCR", name))
    sleep(0.001)
    raise ConnectionAbortedError


STORMS: tuple[Storm, ...] = (pipeline, transaction, slow_transaction, script, leaving)


def blow(storm: Storm, name: bytes, port: int, over: Event) -> None:
    """Write until it is over, on a new connection whenever the old one is gone."""
    while not over.is_set():
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 10) as link:
            while not over.is_set():
                lines = storm(link, name)
                while lines > 0:
                    data = link.recv(1 << 16)
                    if not data:
                        raise ConnectionResetError
                    lines -= data.count(b"\r\n")


@pytest.mark.parametrize("paused", [True, False], ids=["paused", "at once"])
def test_nothing_changes_between_the_refusal_and_the_lifting(server: Fenced, paused: bool) -> None:
    over = Event()
    port = server.endpoint.address.port
    writers = [
        Thread(
            target=blow, args=(storm, b"%s:%d" % (storm.__name__.encode(), number), port, over), daemon=True
        )
        for storm in STORMS
        for number in range(WRITERS_OF_EACH_KIND)
    ]
    for writer in writers:
        writer.start()
    try:
        for _ in range(ROUNDS):
            _wait_for_changes(server.url)
            fence = server.fence()
            plan = fence.plan()
            if paused:
                fence.pause(10)
                sleep(0.02)
            fence.refuse(plan)
            refused = fingerprint(server.url)
            if paused:
                fence.unpause()
            sleep(0.2)
            assert fingerprint(server.url) == refused
            fence.lift(plan)
    finally:
        over.set()
        for writer in writers:
            writer.join(20)


def _wait_for_changes(url: str) -> None:
    """Return when each kind of writer has written since the call."""
    before = fingerprint(url)

    def all_wrote() -> bool:
        changed = {key for key, value in fingerprint(url).items() if before.get(key) != value}
        return all(any(key.startswith(storm.__name__.encode()) for key in changed) for storm in STORMS)

    until(all_wrote)
