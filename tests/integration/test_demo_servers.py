"""Servers of the demonstration, started for real, and the data that it fills them with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from greenfly.demo.dataset import fill
from greenfly.demo.process import RunningServer, TlsPair, start_redis
from greenfly.demo.servers import dragonfly_from_docker, find_redis_server, start_green
from tests.conftest import StartServer
from tests.oracle import compare
from tests.raw import Raw, as_bytes, as_int, as_list, as_table
from tests.servers import Store


@pytest.fixture
def program() -> Path:
    found = find_redis_server()
    if found is None:
        pytest.skip("no redis-server on PATH")
    return found


def test_a_server_is_alone_on_loopback_and_ends_with_its_block(program: Path) -> None:
    with start_redis(program) as server:
        with Raw(server.url) as raw:
            assert as_list(raw("CONFIG", "GET", "bind")) == [b"bind", b"127.0.0.1"]
            folder = Path(as_bytes(as_list(raw("CONFIG", "GET", "dir"))[1]).decode())
        assert folder.is_dir()
        assert server.pid is not None
        # A session of its own: Ctrl-C in our terminal does not reach it.
        assert os.getsid(server.pid) == server.pid != os.getsid(0)
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)
    assert not folder.exists()
    server.stop()  # a second time does nothing


def test_servers_with_options_of_their_own(start_redis: StartServer, tls_pair: TlsPair) -> None:
    locked = start_redis(password="pass word")
    assert locked.client.ping()
    assert "pass" in locked.url
    secure = start_redis(tls=tls_pair)
    assert secure.url.startswith("rediss://")
    assert secure.client.ping()
    small = start_redis("--maxmemory", "50mb")
    with Raw(small.url) as raw:
        assert as_list(raw("CONFIG", "GET", "maxmemory"))[1] == b"52428800"


def test_a_second_redis_stands_in_and_says_so(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "redis-server").symlink_to(program)
    monkeypatch.setenv("PATH", str(tmp_path))
    green = start_green(tmp_path)
    with green.server:
        assert green.stand_in
        assert "standing in" in green.server.name
        assert "no dragonfly on PATH" in green.found
        assert "docker is not installed" in green.found


def test_a_container_is_used_and_stopped(
    redis_blue: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = redis_blue.url.rpartition(":")[2]
    docker = tmp_path / "docker"
    docker.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/said\n'
        f'case "$1" in port) echo 127.0.0.1:{port};; inspect) echo true;; *) echo ok;; esac\n'
    )
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    server = dragonfly_from_docker()
    assert isinstance(server, RunningServer)
    server.stop()
    said = (tmp_path / "said").read_text().splitlines()
    run = next(line for line in said if line.startswith("run "))
    assert "127.0.0.1::6379" in run
    name = run.split("--name ")[1].split()[0]
    assert said[-1] == f"stop --time 5 {name}"


def test_the_data_is_what_it_says_it_is(blue: Store) -> None:
    # The server is shared by the whole run; only errors of this fill count.
    with Raw(blue.url) as raw:
        raw("CONFIG", "RESETSTAT")
    seen: list[int] = []
    written = fill(blue.url, keys=6_000, seed=2, progress=seen.append)

    assert sorted(written) == [0, 1, 2]
    assert seen == sorted(seen)
    assert seen[-1] == 6_000
    types: dict[bytes, int] = {}
    encodings: set[tuple[bytes, bytes]] = set()
    for database, families in written.items():
        with Raw(blue.url, database) as raw:
            assert as_int(raw("DBSIZE")) == sum(families.values())
            names = sorted(raw.keys())
            replies = raw.many(
                [part for name in names for part in (("TYPE", name), ("OBJECT", "ENCODING", name))]
            )
            for kind, encoding in zip(replies[::2], replies[1::2], strict=True):
                types[as_bytes(kind)] = types.get(as_bytes(kind), 0) + 1
                encodings.add((as_bytes(kind), as_bytes(encoding)))
    assert set(types) == {b"string", b"hash", b"list", b"set", b"zset", b"stream"}
    assert min(types.values()) >= 80
    for kind in (b"hash", b"set", b"zset"):
        assert len({encoding for name, encoding in encodings if name == kind}) >= 2, kind
    assert b"errorstat" not in as_bytes(_info(blue, "errorstats"))


def _info(store: Store, section: str) -> bytes:
    with Raw(store.url) as raw:
        return as_bytes(raw("INFO", section))


def test_streams_have_groups_deliveries_and_deleted_entries(blue: Store) -> None:
    fill(blue.url, keys=6_000)
    with Raw(blue.url, 1) as raw:
        counts: list[int] = []
        deleted = empty_groups = idle_consumers = 0
        names = sorted(raw.keys())
        kinds = raw.many([("TYPE", name) for name in names])
        for name in (name for name, kind in zip(names, kinds, strict=True) if kind == b"stream"):
            facts = as_table(raw("XINFO", "STREAM", name))
            deleted += facts.get(b"max-deleted-entry-id") not in {None, b"0-0"}
            for group in map(as_table, as_list(raw("XINFO", "GROUPS", name))):
                group_name = as_bytes(group[b"name"])
                empty_groups += group[b"consumers"] == 0
                consumers = map(as_table, as_list(raw("XINFO", "CONSUMERS", name, group_name)))
                idle_consumers += sum(consumer[b"pending"] == 0 for consumer in consumers)
                pending = as_list(raw("XPENDING", name, group_name, "-", "+", 100))
                counts += [as_int(as_list(item)[3]) for item in pending]
    assert max(counts) >= 5
    assert min(counts) == 1
    assert min(deleted, empty_groups, idle_consumers) >= 10


def test_the_same_seed_fills_two_servers_alike(blue: Store, green_redis: Store) -> None:
    fill(blue.url, keys=1_000, seed=7)
    fill(green_redis.url, keys=1_000, seed=7)
    # Expiries are relative to the moment of filling.
    assert compare(blue.url, green_redis.url, tolerance_ms=60_000) == []

    green_redis.client.flushall()
    fill(green_redis.url, keys=1_000, seed=8)
    assert compare(blue.url, green_redis.url, tolerance_ms=60_000) != []
