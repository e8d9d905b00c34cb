"""`greenfly sync` follows whatever an application can do, between all servers that it may meet.

The oracle that judges knows nothing of the engine: it reads both servers by itself once the sync has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Event, Thread
from time import sleep, time
from typing import Final

import pytest
from redis.exceptions import ResponseError

from greenfly.demo.dataset import fill
from tests import oracle
from tests.conftest import StartServer
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
from tests.raw import Raw
from tests.servers import Store, connect

__all__ = ["short_lease"]

Command = tuple[bytes | int | str | float, ...]
LUA: Final = (
    "redis.call('SET', KEYS[1], 'lua'); redis.call('DEL', KEYS[2]); return redis.call('RPUSH', KEYS[3], '1')"
)
BIG: Final = 1_500_000


def before() -> list[Command]:
    """What the copy meets."""
    return [
        ("SET", "str", "v"), ("SET", "gone", "v"), ("SET", "renamed", "v"), ("SET", "moved", "v"),
        ("SET", "expires", "v", "PX", 600), ("SET", "persisted", "v", "EX", 1000), ("SET", "counter", 0),
        ("RPUSH", "list", "a", "b", "c"), ("SADD", "set", "a", "b"), ("HSET", "hash", "f", "v", "g", "w"),
        ("ZADD", "zset", 1, "a", 2, "b"), ("SETBIT", "bits", 1000, 1), ("PFADD", "hll", "a", "b"),
        ("GEOADD", "geo", 13.4, 52.5, "Berlin"), ("SET", "retyped", "v"), ("SET", "lua:gone", "v"),
        ("SET", "big", "x" * BIG), ("HSET", "big:hash", *(part for n in range(20_000) for part in (f"f{n}", "v" * 40))),
        ("XADD", "stream", "1-1", "f", "v"), ("XADD", "stream", "2-1", "f", "v"), ("XADD", "stream", "3-1", "f", "v"),
        ("XGROUP", "CREATE", "stream", "workers", 0), ("XGROUP", "CREATE", "stream", "doomed", 0),
        ("XREADGROUP", "GROUP", "workers", "anna", "COUNT", 1, "STREAMS", "stream", ">"),
        ("XGROUP", "CREATECONSUMER", "stream", "workers", "leaves"),
        ("XADD", "quiet", "1-1", "f", "v"), ("XADD", "quiet", "2-1", "f", "v"), ("XGROUP", "CREATE", "quiet", "g", 0),
    ]  # fmt: skip


def changes() -> list[Command]:
    """What an application does meanwhile, all of it in database 0 unless it says otherwise."""
    return [
        ("SET", "str", "w"), ("DEL", "gone"), ("UNLINK", "none"), ("RENAME", "renamed", "new name"),
        ("MOVE", "moved", 3),
        ("PERSIST", "persisted"), ("PEXPIREAT", "str", int(time() * 1000) + 3_600_000), ("SET", "soon", "v", "PX", 300),
        ("COPY", "list", "list:copy"), ("LPUSH", "list", "z"), ("LTRIM", "list", 0, 1), ("SREM", "set", "a"),
        ("SADD", "set", b"\x00\r\n\xff"), ("HDEL", "hash", "f"), ("HSET", "hash", "h", "x"),
        ("ZADD", "zset", "-0.0", "a"),
        ("ZADD", "zset", "inf", "c"), ("SETBIT", "bits", 7, 1), ("PFADD", "hll", "c", "d"), ("PFCOUNT", "hll"),
        ("GEOADD", "geo", 2.3, 48.9, "Paris"), ("DEL", "retyped"), ("RPUSH", "retyped", "now a list"),
        ("EVAL", LUA, 3, "lua:new", "lua:gone", "lua:list"),
        ("MULTI",), ("SET", "tx:1", "v"), ("INCR", "counter"), ("DEL", "tx:none"), ("EXEC",),
        ("APPEND", "big", "tail"), ("SETRANGE", "big", 700_000, "in the middle"), ("HSET", "big:hash", "f7", "changed"),
        ("HDEL", "big:hash", "f19999"), ("SET", "big:new", "y" * BIG), ("SORT", "list", "ALPHA", "STORE", "sorted"),
        ("BITOP", "NOT", "bits:not", "bits"), ("SUNIONSTORE", "set:union", "set"), ("SPOP", "set:union"),
        ("ZRANGESTORE", "zset:range", "zset", 0, -1), ("LMOVE", "list", "list:to", "LEFT", "RIGHT"), ("GETDEL", "none"),
        ("XADD", "stream", "4-1", "f", "v"), ("XDEL", "stream", "2-1"), ("XTRIM", "stream", "MAXLEN", 3),
        ("SELECT", 7), ("SET", "late", "v"), ("HSET", "late:hash", "f", "v"), ("SELECT", 0),
        *(("INCR", "hot") for _ in range(3000)),
    ]  # fmt: skip


def of_groups() -> list[Command]:
    """What no tracker is told of."""
    return [
        ("XREADGROUP", "GROUP", "workers", "bert", "COUNT", 1, "STREAMS", "stream", ">"),
        ("XACK", "stream", "workers", "1-1"),
        ("XGROUP", "CREATE", "stream", "late", "$"), ("XGROUP", "DESTROY", "stream", "doomed"),
        ("XGROUP", "DELCONSUMER", "stream", "workers", "leaves"),
        ("XGROUP", "CREATECONSUMER", "stream", "workers", "new"),
        ("XREADGROUP", "GROUP", "g", "one", "STREAMS", "quiet", ">"), ("XCLAIM", "quiet", "g", "two", 0, "1-1"),
        ("XGROUP", "SETID", "quiet", "g", "1-1"), ("XSETID", "quiet", "9-9"),
    ]  # fmt: skip


def run(store: Store, commands: Sequence[Command], *, may_fail: bool = False) -> None:
    with Raw(store.url) as server:
        replies = server.many(commands)
    failed = [(c[:2], r) for c, r in zip(commands, replies, strict=True) if isinstance(r, ResponseError)]
    assert may_fail or not failed, failed


@pytest.fixture(params=["redis to redis", "redis to dragonfly", "dragonfly to redis"])
def pair(request: pytest.FixtureRequest) -> tuple[Store, Store]:
    """Source and target; the last pair is what the fall-back after a cutover follows."""
    if "dragonfly" not in request.param:
        return request.getfixturevalue("blue"), request.getfixturevalue("green_redis")
    dragonfly, redis = request.getfixturevalue("green_dragonfly"), request.getfixturevalue("blue")
    return (dragonfly, redis) if request.param.startswith("dragonfly") else (redis, dragonfly)


def test_whatever_changes_is_on_the_other_side(pair: tuple[Store, Store], tmp_path: Path) -> None:
    source, target = pair
    foreign = source.engine == "dragonfly"
    fill(source.url, 2000, seed=8)
    run(source, before(), may_fail=foreign)
    with Live(tmp_path, source.url, target.url, QUICK) as live:
        sync = live.sync()
        live.wait_until_clean()
        run(source, changes(), may_fail=foreign)
        sleep(0.5)
        run(source, of_groups(), may_fail=foreign)
        run(
            source, [("SELECT", 7), ("DEL", "late"), ("SELECT", 1), ("SET", "another", "v")], may_fail=foreign
        )
        done = stopped(live, sync)
        assert (done.code, done.verdict) in {(0, "PASS"), (0, "PASS_WITH_EXCEPTIONS")}, done
        assert_same(source.url, target.url)
        assert oracle.read(target.url, 0, b"big") == oracle.read(source.url, 0, b"big")
        assert gaps(live) == []


def test_state_of_groups_alone_is_carried_while_it_follows(blue: Store, green: Store, tmp_path: Path) -> None:
    run(blue, before())
    with Live(tmp_path, blue.url, green.url, QUICK + "[sync]\ngroup_seconds = 0.3\n") as live:
        sync = live.sync()
        live.wait_until_clean()
        run(blue, of_groups())
        live.wait_until(lambda: oracle.compare(blue.url, green.url) == [], "equal groups", 20)
        assert stopped(live, sync).code == 0


@pytest.mark.parametrize("command", [("FLUSHDB",), pytest.param(("FLUSHALL", "ASYNC"), marks=deep)])
def test_emptying_is_a_gap_and_empties_the_other_side(
    command: tuple[str, ...], blue: Store, green_redis: Store, tmp_path: Path
) -> None:
    blue.client.mset({f"k{n}": "v" for n in range(2000)})
    blue.database(4).mset({f"k{n}": "v" for n in range(10)})
    with Live(tmp_path, blue.url, green_redis.url, QUICK) as live:
        sync = live.sync()
        live.wait_until_clean()
        run(blue, [command, ("SET", "after", "v")])
        wait_until_gaps_are_closed(live, 1)
        assert stopped(live, sync).verdict == "PASS"
        assert_same(blue.url, green_redis.url)
        assert green_redis.client.dbsize() == 1
        assert len(live.events("sync.gap")) == len(live.events("sync.gap-closed")) - 1 == 1


def test_swapped_databases_are_a_gap_by_name(blue: Store, green_redis: Store, tmp_path: Path) -> None:
    blue.client.mset({f"k{n}": "in 0" for n in range(200)})
    blue.database(2).mset({f"k{n}": "in 2" for n in range(100)})
    with Live(tmp_path, blue.url, green_redis.url, QUICK) as live:
        sync = live.sync()
        live.wait_until_clean()
        run(blue, [("SWAPDB", 0, 2)])
        wait_until_gaps_are_closed(live, 1)
        assert "SWAPDB" in gaps(live)[0]
        assert stopped(live, sync).verdict == "PASS"
        assert_same(blue.url, green_redis.url)


@deep
def test_a_swap_right_before_the_end_is_no_pass(blue: Store, green_redis: Store, tmp_path: Path) -> None:
    blue.client.mset({f"k{n}": "in 0" for n in range(200)})
    with Live(tmp_path, blue.url, green_redis.url, QUICK) as live:
        sync = live.sync()
        live.wait_until_clean()
        asking = live.start("runs", "stop", "latest", name="stop")
        run(blue, [("SWAPDB", 0, 2)])
        assert asking.wait(timeout=60) == 0, live.log("stop")
        sync.wait(timeout=60)
        rows = live.rows("SELECT verdict FROM run WHERE kind = 'sync'")
        if rows == [("PASS",)]:
            assert_same(blue.url, green_redis.url)
        else:
            assert rows == [("INCONCLUSIVE",)]


def test_evictions_and_expiries_of_the_source_are_followed(
    start_redis: StartServer, green_redis: Store, tmp_path: Path
) -> None:
    blue = start_redis("--maxmemory", "6mb", "--maxmemory-policy", "allkeys-lru")
    with Live(tmp_path, blue.url, green_redis.url, QUICK) as live:
        blue.client.set("first", "v")
        sync = live.sync()
        live.wait_until_clean()
        for start in range(0, 8000, 500):
            names = range(start, start + 500)
            run(blue, [("SET", f"k{n}", "v" * 1000, *(("PX", 300) if n % 3 else ())) for n in names])
        sleep(0.5)
        assert int(blue.client.info("stats")["evicted_keys"]) > 1000
        # Else whoever looks at it afterwards makes it evict more.
        blue.client.config_set("maxmemory", 0)
        assert stopped(live, sync).code == 0
        assert_same(blue.url, green_redis.url)


def test_rules_hold_for_what_changes(blue: Store, green: Store, tmp_path: Path) -> None:
    run(blue, [("SET", "a:1", "v"), ("SET", "tmp:1", "v"), ("SET", "c:1", "v"), ("SADD", "a:set", "m")])
    arguments = ("--rename", "a:=b:", "--exclude", "tmp:*", "--map-db", "0=3", "--exclude-type", "set")
    with Live(tmp_path, blue.url, green.url, QUICK) as live:
        sync = live.sync(*arguments)
        live.wait_until_clean()
        run(blue, [
            ("SET", "a:2", "w"), ("DEL", "a:1"), ("SET", "tmp:2", "v"), ("SET", "c:2", "v"), ("SADD", "a:new", "m"),
            ("DEL", "c:1"), ("SADD", "c:1", "turned into a set"),
        ])  # fmt: skip
        assert stopped(live, sync).code == 0
        with Raw(green.url, 3) as server:
            # What became of the key that changed to a type which the rules leave out is not theirs to say.
            assert server.keys() - {b"c:1"} == {b"b:2", b"c:2"}
        assert green.client.dbsize() == 0


def test_a_pause_holds_back_what_changes_and_a_resume_carries_it(
    blue: Store, green_redis: Store, tmp_path: Path
) -> None:
    blue.client.set("k", "v")
    settings = QUICK + "[sync]\nheartbeat_key = 'greenfly:heartbeat'\ncompare_seconds = 0.5\n"
    with Live(tmp_path, blue.url, green_redis.url, settings) as live:
        sync = live.sync()
        live.wait_until_clean()
        live.wait_until(lambda: bool(green_redis.client.exists("greenfly:heartbeat")), "a heartbeat")
        assert live.run("runs", "pause", "latest").code == 0
        sleep(0.5)
        blue.client.set("k", "paused")
        sleep(1.5)
        assert green_redis.client.get("k") == b"v"
        board = live.board()
        assert board is not None
        assert board["dirty"]
        assert live.run("runs", "resume", "latest").code == 0
        live.wait_until(lambda: green_redis.client.get("k") == b"paused", "the change")
        live.wait_until(lambda: len(live.events("sync.pass")) > 2, "comparisons now and then")
        assert stopped(live, sync).verdict == "PASS"


def test_writes_that_the_source_holds_back_do_not_stop_the_heartbeat_s_process(
    blue: Store, green_redis: Store, tmp_path: Path
) -> None:
    """As behind a fence: its own write waits, and what had changed before is carried over all the same."""
    blue.client.set("k", "v")
    settings = QUICK + "[sync]\nheartbeat_key = 'greenfly:heartbeat'\n"
    with Live(tmp_path, blue.url, green_redis.url, settings) as live:
        sync = live.sync()
        live.wait_until_clean()
        blue.client.set("last", "v")
        run(blue, [("CLIENT", "PAUSE", 20_000, "WRITE")])
        try:
            sleep(2.5)
            assert green_redis.client.exists("last")
            assert stopped(live, sync, 10).verdict == "PASS"
        finally:
            run(blue, [("CLIENT", "UNPAUSE")])


@deep
def test_until_equal_ends_under_writes(blue: Store, green: Store, tmp_path: Path) -> None:
    fill(blue.url, 2000, seed=9)
    with Live(tmp_path, blue.url, green.url, QUICK) as live:
        sync = live.sync("--until-equal")
        number = 0
        while sync.poll() is None:
            blue.client.set(f"new:{number % 50}", number)
            number += 1
        assert sync.returncode == 0, (live.log(), live.rows("SELECT * FROM finding WHERE state = 'open'"))
        assert [d for d in oracle.compare(blue.url, green.url) if not d.key.startswith(b"new:")] == []


def test_a_stop_while_an_application_writes_covers_what_had_changed(
    blue: Store, green_redis: Store, tmp_path: Path
) -> None:
    """One key changes all the time: whenever it is looked at, both sides differ, and that is no fault of anybody."""
    done = Event()

    def write() -> None:
        with connect(blue.url) as client:
            while not done.is_set():
                client.incr("hot")

    with Live(tmp_path, blue.url, green_redis.url, QUICK) as live:
        blue.client.set("k", "v")
        sync = live.sync()
        live.wait_until_clean()
        writer = Thread(target=write)
        writer.start()
        try:
            blue.client.set("before", "v")
            assert stopped(live, sync).verdict == "PASS"
            assert green_redis.client.get("before") == b"v"
        finally:
            done.set()
            writer.join()
