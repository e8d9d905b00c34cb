"""A sync that runs as a process of its own, and what it has to come to, whatever breaks under it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Final

import pytest
from redis.exceptions import RedisError

from greenfly.demo.process import dragonfly_options
from greenfly.demo.servers import find_dragonfly, find_redis_server, free_port
from tests import oracle
from tests.live import Live
from tests.load.judge import check
from tests.load.load import Load
from tests.load.replay import replay
from tests.servers import Store, connect

QUICK: Final = """[throttle]
enabled = false
"""
"""No measuring of the servers' latency."""
RATE: Final = float(os.environ.get("GREENFLY_TEST_SYNC_RATE", "600"))


@pytest.fixture(autouse=True)
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose process was killed can be taken over soon."""
    monkeypatch.setenv("GREENFLY_LEASE_SECONDS", "3")


class Restartable:
    """A server on a port that it keeps, with its data where it was saved."""

    def __init__(self, engine: str, folder: Path, *extra: str) -> None:
        folder.mkdir()
        program = find_redis_server() if engine == "redis" else find_dragonfly()
        if program is None:
            pytest.skip(f"no {engine} on PATH")
        port = free_port()
        self._command = [str(program), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
        self._command += [*(["--save", ""] if engine == "redis" else dragonfly_options()), *extra]
        self.url = f"redis://127.0.0.1:{port}"
        self.store = Store(self.url, engine, "")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
        deadline = monotonic() + 20
        while True:
            assert self._process.poll() is None, "the server did not start"
            try:
                with connect(self.url) as client:
                    if client.ping():
                        return
            except RedisError:
                assert monotonic() < deadline, "the server does not answer"
                sleep(0.02)

    def restart(self, *, save: bool = False, away: float = 0.0) -> None:
        """Kill it, leave it dead for so many seconds, and start it again."""
        if save:
            self.store.client.save()
        self.store.close()
        self.kill()
        sleep(away)
        self.start()

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stand_still(self) -> None:
        """SIGSTOP: connections stay, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill it for good."""
        self.store.close()
        self.kill()


deep = pytest.mark.skipif(
    os.environ.get("GREENFLY_TEST_SYNC_DEEP") != "1", reason="GREENFLY_TEST_SYNC_DEEP=1 runs it"
)
StartRestartable = Callable[..., Restartable]


@pytest.fixture
def restartable(tmp_path: Path) -> Iterator[StartRestartable]:
    """Start servers that can be stopped and started again: ``restartable("redis", "--maxmemory", "9mb")``."""
    with ExitStack() as stack:

        def start(engine: str = "redis", *extra: str) -> Restartable:
            server = Restartable(engine, tmp_path / f"server {free_port()}", *extra)
            stack.callback(server.close)
            return server

        yield start


@dataclass(frozen=True, slots=True)
class Ended:
    """What a sync came to."""

    code: int
    verdict: str | None
    reason: str
    log: str


def ended(live: Live, process: subprocess.Popen[bytes], seconds: float = 60.0) -> Ended:
    """Wait for the end of a sync that was started with ``--json``."""
    code = process.wait(timeout=seconds)
    rows = live.rows("SELECT verdict, reason FROM run WHERE kind = 'sync' ORDER BY started_at DESC LIMIT 1")
    verdict, reason = rows[0] if rows else (None, "")
    return Ended(code, str(verdict) if verdict else None, str(reason or ""), live.log())


def stopped(live: Live, process: subprocess.Popen[bytes], seconds: float = 60.0) -> Ended:
    """Ask a sync to end, and wait for it."""
    done = live.run("runs", "stop", "latest")
    assert done.code == 0, done.err + live.log()
    return ended(live, process, seconds)


def gaps(live: Live) -> list[str]:
    """Why changes may have gone unseen, as recorded."""
    return [str(payload["reason"]) for payload in live.events("sync.gap")]


def wait_until_gaps_are_closed(live: Live, opened: int, seconds: float = 60.0) -> None:
    """Until so many gaps were recorded, and the last one is closed."""

    def closed() -> bool:
        # Counted first: a gap that is recorded between two looks must not pass for closed.
        found = len(gaps(live))
        # The board is written now and then; what is recorded last tells whether a gap is open.
        newest = live.rows(
            "SELECT kind FROM event WHERE kind IN ('sync.gap', 'sync.gap-closed') ORDER BY sequence DESC LIMIT 1"
        )
        board = live.board()
        return (
            board is not None
            and found >= opened
            and newest == [("sync.gap-closed",)]
            and board["gap"] is None
        )

    live.wait_until(closed, f"{opened} gaps closed", seconds)


def assert_same(blue_url: str, green_url: str) -> None:
    """Both servers hold the same, says somebody who knows nothing of the engine.

    It reads one after the other, so a key that expires in between differs once; what differs twice is not that.
    """
    once = oracle.compare(blue_url, green_url)
    if once:
        sleep(1.5)
        again = {(found.database, found.key) for found in oracle.compare(blue_url, green_url)}
        once = [found for found in once if (found.database, found.key) in again]
    assert once == [], once[:5]


@contextmanager
def under_load(live: Live, folder: Path, *, url: str | None = None) -> Iterator[Load]:
    """An application that writes to blue meanwhile, or to *url*; :func:`nothing_is_lost` looks at what became of it."""
    env_file = live.env_file
    if url is not None:
        env_file = folder / "application.env"
        env_file.write_text(f"REDIS_URL={url}\n")
    with Load(env_file, folder / "logs", rate=RATE, connections=4, probe_hz=0, leavers_hz=0) as load:
        yield load


def nothing_is_lost(folder: Path, green_url: str) -> None:
    """Every write that was acknowledged is on green, and nothing else."""
    assert check(replay(folder / "logs"), green_url) == []


def facts(live: Live) -> dict[str, object]:
    """The sync phase's detail."""
    rows = live.rows("SELECT detail FROM phase WHERE name = 'sync' ORDER BY started_at DESC LIMIT 1")
    found = json.loads(str(rows[0][0])) if rows else {}
    assert isinstance(found, dict)
    return found
