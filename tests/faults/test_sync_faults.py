"""Connections, servers and the process itself break under a sync while an application writes: nothing is lost.

After each fault the gap is on record and closed again; the application's own log, replayed, and a comparison of both
servers by somebody who knows nothing of the engine have the last word.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from time import sleep
from typing import Final

import pytest

from greenfly.demo.dataset import fill
from tests.faults.sync_move import (
    QUICK,
    Restartable,
    StartRestartable,
    assert_same,
    deep,
    ended,
    gaps,
    nothing_is_lost,
    restartable,
    short_lease,
    stopped,
    under_load,
    wait_until_gaps_are_closed,
)
from tests.live import Live
from tests.proxy import Proxy
from tests.raw import Raw
from tests.servers import Store

__all__ = ["restartable", "short_lease"]

KEYS: Final = int(os.environ.get("GREENFLY_TEST_SYNC_KEYS", "3000"))
KILLS: Final = int(os.environ.get("GREENFLY_TEST_SYNC_KILLS", "3"))


def settings(**sync: object) -> str:
    """Settings of a sync that does not wait long for an answer."""
    chosen = {"silence_seconds": 2.0, "reconnect_seconds": 60} | sync
    return "\n".join([QUICK, "[sync]", *(f"{name} = {value}" for name, value in chosen.items())]) + "\n"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that does not come within two seconds does not come."""
    for side in ("SOURCE", "TARGET"):
        monkeypatch.setenv(f"GREENFLY_{side}__IO_TIMEOUT", "2")
        monkeypatch.setenv(f"GREENFLY_{side}__CONNECT_TIMEOUT", "2")


def kill_feed(store: Store) -> None:
    (number,) = [c["id"] for c in store.client.client_list() if c["name"] == "greenfly:tracking"]
    with Raw(store.url) as server:
        server("CLIENT", "KILL", "ID", number)


def feed_is_open(store: Store) -> bool:
    return any(c["name"] == "greenfly:tracking" for c in store.client.client_list())


def test_a_feed_that_is_lost_again_and_again_costs_comparisons_and_no_write(
    blue: Store, green_redis: Store, tmp_path: Path
) -> None:
    fill(blue.url, KEYS, seed=1)
    with (
        Proxy(blue.url) as proxy,
        Live(tmp_path, proxy.url, green_redis.url, settings()) as live,
        under_load(live, tmp_path, url=blue.url) as load,
    ):
        sync = live.sync()
        live.wait_until_clean()
        kill_feed(blue)
        wait_until_gaps_are_closed(live, 1)
        proxy.cut()
        wait_until_gaps_are_closed(live, 2)
        proxy.part()
        sleep(1.0)
        proxy.parted = False
        wait_until_gaps_are_closed(live, 3)
        proxy.stall()
        sleep(4.0)
        proxy.flow()
        wait_until_gaps_are_closed(live, 4)
        load.stop()
        done = stopped(live, sync)
        assert (done.code, done.verdict) == (0, "PASS"), done.log
        assert_same(blue.url, green_redis.url)
        nothing_is_lost(tmp_path, green_redis.url)
        assert len(live.events("server.lost")) == len(live.events("server.back"))


@deep
def test_a_source_that_drops_its_slow_reader_is_a_gap(
    blue: Store, green_redis: Store, tmp_path: Path
) -> None:
    fill(blue.url, KEYS, seed=2)
    before = str(blue.client.config_get("client-output-buffer-limit")["client-output-buffer-limit"])
    with (
        Proxy(blue.url) as proxy,
        Live(tmp_path, proxy.url, green_redis.url, settings(silence_seconds=30)) as live,
    ):
        sync = live.sync()
        live.wait_until_clean()
        proxy.to_client.clear()
        blue.client.config_set("client-output-buffer-limit", "normal 1mb 0 0")
        try:
            with Raw(blue.url) as server:
                for start in range(0, 15_000, 500):
                    server.many([(b"SET", b"%d" % n + b"k" * 500, b"v") for n in range(start, start + 500)])
            assert not feed_is_open(blue)
        finally:
            blue.client.config_set("client-output-buffer-limit", before)
        proxy.to_client.set()
        wait_until_gaps_are_closed(live, 1)
        assert stopped(live, sync).verdict == "PASS"
        assert_same(blue.url, green_redis.url)


@deep
def test_a_process_that_stands_still_catches_up_or_names_the_gap(
    blue: Store, green_redis: Store, tmp_path: Path
) -> None:
    """What waits on the source meanwhile is bounded by the source alone; afterwards the limit of the settings holds."""
    with Live(tmp_path, blue.url, green_redis.url, settings(max_backlog_bytes='"256KB"')) as live:
        blue.client.set("k", "v")
        sync = live.sync()
        live.wait_until_clean()
        sync.send_signal(signal.SIGSTOP)
        try:
            with Raw(blue.url) as server:
                for start in range(0, 60_000, 500):
                    server.many([(b"SET", b"%d" % n + b"k" * 200, b"v") for n in range(start, start + 500)])
            sleep(3.0)
        finally:
            sync.send_signal(signal.SIGCONT)
        blue.client.set("last", "v")
        live.wait_until(lambda: bool(green_redis.client.exists("last")), "the newest change")
        if gaps(live):
            wait_until_gaps_are_closed(live, 1)
        done = stopped(live, sync)
        assert done.verdict == "PASS", done
        assert_same(blue.url, green_redis.url)
        assert len(gaps(live)) <= 1


def test_a_source_that_restarts_with_its_data_is_a_gap(
    restartable: StartRestartable, green_redis: Store, tmp_path: Path
) -> None:
    blue = restartable("redis", "--appendonly", "yes", "--appendfsync", "always")
    fill(blue.url, KEYS, seed=3)
    with Live(tmp_path, blue.url, green_redis.url, settings()) as live:
        sync = live.sync()
        live.wait_until_clean()
        blue.kill()
        sleep(0.5)
        blue.start()
        blue.store.client.mset({f"new:{n}": "v" for n in range(300)})
        blue.store.client.delete("user:1", "session:1")
        wait_until_gaps_are_closed(live, 1)
        assert stopped(live, sync).verdict == "PASS"
        assert_same(blue.url, green_redis.url)


@pytest.mark.parametrize("engine", ["redis", pytest.param("dragonfly", marks=pytest.mark.dragonfly)])
def test_a_target_that_breaks_in_every_way_is_waited_for(
    engine: str, blue: Store, restartable: StartRestartable, tmp_path: Path
) -> None:
    green = restartable(engine)
    fill(blue.url, KEYS, seed=4)
    with (
        Proxy(green.url) as proxy,
        Live(tmp_path, blue.url, proxy.url, settings()) as live,
        under_load(live, tmp_path) as load,
    ):
        sync = live.sync()
        live.wait_until_clean()
        proxy.cut()
        load.wait_for(300)
        proxy.part()
        load.wait_for(300)
        proxy.parted = False
        proxy.stall()
        sleep(3.0)
        proxy.flow()
        load.wait_for(300)
        assert gaps(live) == [], "the other side's connections tell nothing about changes"
        full(green)
        load.wait_for(600)
        roomy(green)
        if engine == "redis":
            green.store.client.config_set("min-replicas-to-write", 1)
            load.wait_for(300)
            green.store.client.config_set("min-replicas-to-write", 0)
        green.restart(away=0.5)
        wait_until_gaps_are_closed(live, 1)
        load.stop()
        done = stopped(live, sync)
        assert (done.code, done.verdict) == (0, "PASS"), done.log
        assert_same(blue.url, green.url)
        nothing_is_lost(tmp_path, green.url)
        lost, back = live.events("server.lost"), live.events("server.back")
        assert 1 <= len(lost) == len(back) <= 8, "each trouble is recorded once"


def full(green: Restartable) -> None:
    """No write fits any more."""
    green.store.client.config_set("maxmemory", 1024 if green.store.engine == "redis" else "1mb")


def roomy(green: Restartable) -> None:
    green.store.client.config_set("maxmemory", 0 if green.store.engine == "redis" else "1gb")


def test_a_target_that_stays_full_ends_the_run_and_keeps_what_is_dirty(
    blue: Store, restartable: StartRestartable, tmp_path: Path
) -> None:
    green = restartable("redis")
    blue.client.mset({f"k{n}": "v" * 100 for n in range(300)})
    with Live(tmp_path, blue.url, green.url, settings(reconnect_seconds=2)) as live:
        sync = live.sync()
        live.wait_until_clean()
        full(green)
        blue.client.mset({f"new{n}": "v" * 100 for n in range(300)})
        done = ended(live, sync)
        assert (done.code, done.verdict) == (25, "INCONCLUSIVE")
        roomy(green)
        again = live.run("sync", "--resume", "--until-equal")
        assert again.code == 0, again.err
        assert_same(blue.url, green.url)


@deep
def test_a_ledger_that_is_locked_for_seconds_is_waited_for(
    blue: Store, green_redis: Store, tmp_path: Path
) -> None:
    blue.client.mset({f"k{n}": "v" for n in range(300)})
    with Live(tmp_path, blue.url, green_redis.url, settings()) as live:
        sync = live.sync()
        live.wait_until_clean()
        with closing(sqlite3.connect(live.state / "ledger.sqlite3", timeout=10)) as database:
            database.execute("BEGIN EXCLUSIVE")
            blue.client.mset({f"new{n}": "v" for n in range(300)})
            sleep(4.0)
            database.rollback()
        assert stopped(live, sync).verdict == "PASS"
        assert_same(blue.url, green_redis.url)


def test_a_file_of_names_that_cannot_be_written_ends_the_run_and_the_next_one_goes_on(
    blue: Store, green_redis: Store, tmp_path: Path
) -> None:
    blue.client.mset({f"k{n}": "v" for n in range(300)})
    with Live(tmp_path, blue.url, green_redis.url, settings()) as live:
        sync = live.sync()
        live.wait_until_clean()
        (folder,) = (live.state / "sync").iterdir()
        in_the_way = folder / "forward.new"
        while True:
            try:
                in_the_way.mkdir()
                break
            except FileExistsError:
                in_the_way.unlink(missing_ok=True)
        blue.client.mset({f"new{n}": "v" for n in range(300)})
        done = ended(live, sync)
        assert (done.code, done.verdict) == (5, "INCONCLUSIVE")
        in_the_way.rmdir()
        again = live.run("sync", "--resume", "--until-equal")
        assert again.code == 0, again.err
        assert_same(blue.url, green_redis.url)


def test_killed_at_any_moment_and_resumed(
    blue: Store, green: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it copies, while it compares, while it follows; each time the next process goes on."""
    monkeypatch.setenv("GREENFLY_LEASE_SECONDS", "1")
    draw = random.Random(11)
    fill(blue.url, 4 * KEYS, seed=6)
    with (
        Live(tmp_path, blue.url, green.url, settings()) as live,
        under_load(live, tmp_path) as load,
    ):
        for kill in range(KILLS):
            sync = live.sync("--resume-if-any")
            live.wait_until(lambda: bool(live.rows("SELECT 1 FROM phase WHERE name = 'stream'")), "the copy")
            sleep(draw.random() * (0.3 if kill == 0 else 2.0))
            assert sync.poll() is None, live.log()
            sync.kill()
            sync.wait()
            sleep(1.2)
        sync = live.sync("--resume-if-any")
        live.wait_until_clean()
        load.stop()
        done = stopped(live, sync)
        assert done.verdict == "PASS", done.log
        assert_same(blue.url, green.url)
        nothing_is_lost(tmp_path, green.url)
        assert len(live.rows("SELECT id FROM run WHERE kind = 'sync'")) == 1


@deep
def test_more_dirty_keys_than_are_kept_by_name_are_a_gap_that_closes(
    blue: Store, green_redis: Store, tmp_path: Path
) -> None:
    """Also where it happens in the middle of a comparison that found differences."""
    blue.client.mset({f"k{n}": "v" for n in range(3000)})
    with Live(
        tmp_path, blue.url, green_redis.url, settings(max_dirty_keys=1000, compare_seconds=0.3)
    ) as live:
        sync = live.sync()
        live.wait_until_clean()
        for turn in range(8):
            green_redis.client.delete(*(f"k{n}" for n in range(1500)))
            pipeline = blue.client.pipeline(transaction=False)
            for n in range(4000):
                pipeline.set(f"k{n}", f"{turn}")
            pipeline.execute()
        live.wait_until(lambda: len(gaps(live)) > 0, "a gap")
        wait_until_gaps_are_closed(live, 1)
        assert stopped(live, sync).verdict == "PASS"
        assert_same(blue.url, green_redis.url)
