"""Holding the window open in which Dragonfly replicates what is written, and server programs of other versions."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from time import monotonic, sleep
from urllib.parse import urlsplit

import pytest

from greenfly.demo.servers import RunningServer, start_redis
from tests.cli import CompletedRun, Greenfly, dig
from tests.fencing import programs
from tests.proxy import Proxy
from tests.raw import Argument, Raw, Reply, as_bytes, as_list
from tests.runs import migrate
from tests.servers import Store

_SECONDS = 30.0


@contextmanager
def window(
    blue: Store, green: Store, act: Callable[[], object], *, at: str = "online"
) -> Iterator[Mapping[str, str]]:
    """Do *act* while green is in this state, and keep it from being known to have caught up until then.

    What green acknowledges is held on its way to blue.  Yields the environment that sends green that way.
    """
    asked, over, ended = Event(), Event(), Event()

    def change(data: bytes) -> tuple[bytes, bool]:
        if asked.is_set():
            over.wait(_SECONDS)
        if b"PSYNC" in data:
            asked.set()
        return data, False

    def run() -> None:
        try:
            wait_for(lambda: ended.is_set() or stage(green.url) == at)
            if not ended.is_set():
                act()
        finally:
            over.set()

    with Proxy(blue.url, change=change) as proxy, ThreadPoolExecutor(1) as threads:
        done = threads.submit(run)
        port = str(urlsplit(proxy.url).port)
        try:
            yield {"GREENFLY_NATIVE__MASTER_HOST": "127.0.0.1", "GREENFLY_NATIVE__MASTER_PORT": port}
        finally:
            ended.set()
        done.result()


@dataclass(slots=True)
class Answering(Proxy):
    """Changes what the server sends."""

    answer: Callable[[bytes], bytes] = bytes

    def _backward(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 20):
                client.sendall(self.answer(data))
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


def released(green: Store) -> None:
    """Whatever a test came to, the next one finds a master that knows no password."""
    ask(green, "REPLICAOF", "NO", "ONE")
    ask(green, "CONFIG", "SET", "masterauth", "")


def stage(url: str) -> str:
    """What green's ROLE says: ``master``, or how far a replica is."""
    with Raw(url) as raw:
        role = as_list(raw("ROLE"))
    return as_bytes(role[0] if role[0] == b"master" else role[3]).decode()


def write_some(store: Store, count: int = 500) -> None:
    """So many keys, in one command."""
    store.client.mset({f"key:{number}": f"value {number}" for number in range(count)})


def ask(store: Store, *command: Argument, database: int = 0) -> Reply:
    """One command, whatever version knows it."""
    with Raw(store.url, database) as raw:
        return raw(*command)


def wait_for(true: Callable[[], bool], seconds: float = _SECONDS) -> None:
    """Return when it is true."""
    until = monotonic() + seconds
    while not true():
        assert monotonic() < until, "it did not come to that"
        sleep(0.01)


def native(
    greenfly: Greenfly, blue: Store, green: Store, *arguments: str, env: Mapping[str, str] | None = None
) -> CompletedRun:
    """A migration by Dragonfly's own replication, in this process."""
    return migrate(greenfly, blue.url, green.url, "--strategy", "native", *arguments, env=env)


def detail(run: CompletedRun, name: str) -> Mapping[str, object]:
    """What a phase had to tell."""
    phases = run.at("phases")
    assert isinstance(phases, list)
    found = next((phase for phase in phases if dig(phase, "name") == name), None)
    assert found is not None, f"no phase {name}"
    told = dig(found, "detail")
    assert isinstance(told, dict)
    return told


def newer_redis() -> Path:
    """A Redis of version 8, of those that the environment names; else the test is skipped."""
    return _program("redis", 8)


def valkey() -> Path:
    """A Valkey of version 9, likewise."""
    return _program("valkey", 9)


def _program(engine: str, major: int) -> Path:
    found = next((p for p in programs() if p.engine == engine and p.version[0] == major), None)
    if found is None:
        pytest.skip(f"no {engine} {major} in GREENFLY_TEST_MORE_SERVERS")
    return found.path


@contextmanager
def started(program: Path) -> Iterator[Store]:
    """A server of that program that sends its replicas what they need at once."""
    with start_redis(program, "--repl-diskless-sync-delay", "0") as server, _store(server) as store:
        yield store


def _store(server: RunningServer) -> Store:
    return Store(server.url, server.engine, server.version, None, server)
