"""`greenfly sync --strategy native`: green is a replica for the copy, or until the cutover, and nothing is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from time import sleep

import pytest

from tests.cli import dig
from tests.faults.sync_move import (
    QUICK,
    assert_same,
    deep,
    gaps,
    short_lease,
    stopped,
    wait_until_gaps_are_closed,
)
from tests.live import Live
from tests.native import ask, stage, wait_for, write_some
from tests.servers import Store, connect

__all__ = ["short_lease"]

pytestmark = pytest.mark.dragonfly

ATTACHED = f'{QUICK}\n[native]\nfollow = "replication"\n[cutover]\nconfirm = "environment"\n'


@pytest.fixture
def native(blue: Store, green_dragonfly: Store, tmp_path: Path) -> Iterator[Callable[..., Live]]:
    """A move by the native road, with more of ``greenfly.toml``."""
    blue.client.config_set("repl-diskless-sync-delay", 0)
    blue.client.config_resetstat()  # which commands were used is assessed
    moves = []

    def make(settings: str = ATTACHED) -> Live:
        live = Live(tmp_path / "move", blue.url, green_dragonfly.url, settings)
        moves.append(live)
        return live

    yield make
    for live in moves:
        live.__exit__(None, None, None)
    ask(green_dragonfly, "REPLICAOF", "NO", "ONE")


@contextmanager
def writing(url: str) -> Iterator[list[int]]:
    """An application that counts in two keys and writes others; yields what was acknowledged last."""
    over, last = Event(), [0]

    def write() -> None:
        with connect(url) as client:
            while not over.is_set():
                number = last[0] + 1
                client.mset({"count": number, f"key:{number % 700}": number})
                last[0] = number
                sleep(0.001)

    thread = Thread(target=write, daemon=True)
    thread.start()
    try:
        yield last
    finally:
        over.set()
        thread.join()


def test_green_is_detached_once_it_has_everything_and_is_followed_by_tracking(
    native: Callable[..., Live], blue: Store, green_dragonfly: Store
) -> None:
    write_some(blue, 2_000)
    live = native(QUICK)
    with writing(blue.url):
        process = live.sync("--strategy", "native", "--json")
        live.wait_until_clean()
        assert stage(green_dragonfly.url) == "master"
    done = stopped(live, process)
    assert (done.code, done.verdict) == (0, "PASS"), done.log
    assert_same(blue.url, green_dragonfly.url)


def test_an_attached_green_is_detached_behind_the_fence_and_has_what_replication_dropped(
    native: Callable[..., Live], blue: Store, green_dragonfly: Store
) -> None:
    write_some(blue, 2_000)
    ask(blue, "GEOADD", "places", 13.36, 38.11, "Palermo")
    live = native()
    live.sync("--strategy", "native")
    live.wait_until_clean()
    assert stage(green_dragonfly.url) == "online"
    with writing(blue.url):
        sleep(0.3)
        ask(blue, "GEOSEARCHSTORE", "found", "places", "FROMLONLAT", 13, 38, "BYRADIUS", 500, "km")
        ask(blue, "COPY", "places", "copied", "DB", 2)
        ask(blue, "XADD", "log", "1-1", "f", "v")
        ask(blue, "XGROUP", "CREATE", "log", "workers", 0)
        sleep(0.3)
    assert not green_dragonfly.client.exists("found")
    wait_for(lambda: (live.board() or {})["dirty"] == 2)  # kept for the cutover
    ask(blue, "XREADGROUP", "GROUP", "workers", "anna", "STREAMS", "log", ">")
    cutover = live.run("cutover", "--yes", "--json")
    assert cutover.code == 0, cutover.err + live.log()
    assert stage(green_dragonfly.url) == "master"
    assert live.environment()["DRAGONFLY_URL"] == green_dragonfly.url
    assert_same(blue.url, green_dragonfly.url)
    # Behind blue's fence, they are written by a user of Greenfly's own.
    assert live.events("sync.detached")[0]["sentinels"] == [0, 2]

    green_dragonfly.client.set("new", "on green")
    back = live.run("rollback", "--yes", "--reason", "a test")
    assert back.code == 0, back.err
    assert blue.client.get("new") == b"on green"


def test_an_attached_green_that_loses_its_link_is_a_gap_that_closes(
    native: Callable[..., Live], blue: Store, green_dragonfly: Store
) -> None:
    write_some(blue, 2_000)
    live = native()
    process = live.sync("--strategy", "native", "--json")
    live.wait_until_clean()
    with writing(blue.url):
        ask(blue, "CLIENT", "KILL", "TYPE", "replica")
        live.wait_until(lambda: len(gaps(live)) >= 1, "a gap")
        wait_until_gaps_are_closed(live, 1)
        assert stage(green_dragonfly.url) == "online"
    done = stopped(live, process)
    assert (done.code, done.verdict) == (0, "PASS"), done.log
    assert stage(green_dragonfly.url) == "master"
    assert_same(blue.url, green_dragonfly.url)


def test_a_killed_process_leaves_green_attached_and_the_next_one_goes_on(
    native: Callable[..., Live], blue: Store, green_dragonfly: Store
) -> None:
    write_some(blue, 2_000)
    live = native()
    process = live.sync("--strategy", "native")
    live.wait_until_clean()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert stage(green_dragonfly.url) == "online"
    blue.client.set("meanwhile", 1)
    live.assess = True
    sleep(3.2)  # its lease ends
    process = live.sync("--resume", "--json")
    live.wait_until_clean()
    assert stage(green_dragonfly.url) == "online"
    planned = live.run("cutover", "--dry-run", "--json")
    gates = dig(planned.json(), "gates")
    assert isinstance(gates, list)
    assert [gate for gate in gates if not dig(gate, "passed")] == [], planned.err
    assert stage(green_dragonfly.url) == "online"
    done = stopped(live, process)
    assert (done.code, done.verdict) == (0, "PASS"), done.log
    assert stage(green_dragonfly.url) == "master"
    assert_same(blue.url, green_dragonfly.url)


@deep
def test_a_green_that_is_detached_by_somebody_is_followed_by_tracking(
    native: Callable[..., Live], blue: Store, green_dragonfly: Store
) -> None:
    write_some(blue, 500)
    live = native()
    process = live.sync("--strategy", "native", "--json")
    live.wait_until_clean()
    ask(green_dragonfly, "REPLICAOF", "NO", "ONE")
    blue.client.set("later", 1)
    live.wait_until(lambda: len(gaps(live)) >= 1, "a gap")
    wait_until_gaps_are_closed(live, 1)
    done = stopped(live, process)
    assert (done.code, done.verdict) == (0, "PASS"), done.log
    assert green_dragonfly.client.get("later") == b"1"
    assert_same(blue.url, green_dragonfly.url)
