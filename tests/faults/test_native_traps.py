"""The traps of Dragonfly's own replication: each ends blocked, repaired or in a FAIL, never in a PASS with a lost key.

Newer servers are looked for in ``GREENFLY_TEST_MORE_SERVERS``.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from time import sleep

import pytest

from greenfly.demo.dataset import fill
from tests.cli import ASSESS_VARIABLE, UNASSESSED, Greenfly
from tests.conftest import StartServer
from tests.faults.sync_move import StartRestartable, restartable
from tests.native import (
    Answering,
    ask,
    detail,
    native,
    newer_redis,
    released,
    stage,
    started,
    valkey,
    wait_for,
    window,
    write_some,
)
from tests.oracle import compare
from tests.raw import as_int
from tests.runs import findings, migrate
from tests.servers import Store

pytestmark = pytest.mark.dragonfly

__all__ = ["restartable"]

LIBRARY = "#!lua name=mine\nredis.register_function('f', function() return 1 end)"


@pytest.fixture(autouse=True)
def _at_once(blue: Store, green_dragonfly: Store) -> Iterator[None]:
    """A diskless source waits five seconds for further replicas before it sends."""
    blue.client.config_set("repl-diskless-sync-delay", 0)
    blue.client.config_resetstat()  # which commands were used is assessed
    yield
    released(green_dragonfly)


# -- what cannot be loaded -------------------------------------------------------------------------------------------


def test_a_function_library_is_refused_before_green_is_emptied(
    greenfly: Greenfly, blue: Store, green_dragonfly: Store
) -> None:
    blue.client.set("a", 1)
    blue.client.function_load(LIBRARY)
    green_dragonfly.client.set("precious", 1)
    try:
        done = native(greenfly, blue, green_dragonfly, "--conflict", "replace")
    finally:
        blue.client.function_flush()
    assert done.exit_code == 4
    assert "mine" in done.stderr
    assert green_dragonfly.client.get("precious") == b"1"


def test_a_function_library_that_comes_too_late_to_be_seen_ends_the_loop_by_name(
    greenfly: Greenfly, blue: Store, green_dragonfly: Store
) -> None:
    write_some(blue)
    blue.client.config_set("repl-diskless-sync-delay", 1)
    load = lambda: blue.client.function_load(LIBRARY)  # noqa: E731
    try:
        with window(blue, green_dragonfly, load, at="preparation") as env:
            done = native(greenfly, blue, green_dragonfly, env=env)
    finally:
        blue.client.function_flush()
    assert done.exit_code == 27
    assert "mine" in done.stderr
    assert stage(green_dragonfly.url) == "master"


def test_hashes_with_fields_that_expire_are_refused_before_green_is_emptied(
    greenfly: Greenfly, green_dragonfly: Store
) -> None:
    with started(newer_redis()) as blue:
        blue.client.hset("h", mapping={"a": "1", "b": "2"})
        ask(blue, "HPEXPIRE", "h", 10**7, "FIELDS", 1, "a")
        green_dragonfly.client.set("precious", 1)
        done = native(greenfly, blue, green_dragonfly, "--conflict", "replace")
        assert done.exit_code == 4
        assert green_dragonfly.client.get("precious") == b"1"
        carried = migrate(greenfly, blue.url, green_dragonfly.url, "--conflict", "replace", "--allow-extra")
        assert carried.exit_code == 0, carried.stderr


def test_a_hash_whose_fields_once_expired_ends_the_loop_by_name(
    greenfly: Greenfly, green_dragonfly: Store
) -> None:
    """The server counts it no more once it was renamed away and back, say; here the count is simply too late."""
    with started(newer_redis()) as blue:
        blue.client.config_set("repl-diskless-sync-delay", 1)
        blue.client.set("a", 1)

        def expire() -> None:
            blue.client.hset("once", mapping={"a": "1", "b": "2"})
            ask(blue, "HPEXPIRE", "once", 10**7, "FIELDS", 1, "a")
            ask(blue, "HPERSIST", "once", "FIELDS", 1, "a")

        with window(blue, green_dragonfly, expire, at="preparation") as env:
            done = native(greenfly, blue, green_dragonfly, env=env)
        assert done.exit_code == 27
        assert "fields" in done.stderr
        assert stage(green_dragonfly.url) == "master"


def test_a_file_version_that_is_too_new_ends_the_loop(
    greenfly: Greenfly, blue: Store, green_dragonfly: Store
) -> None:
    """As Redis 8.6 and later send it; made by changing the version on its way."""
    write_some(blue)
    with Answering(blue.url, answer=lambda data: data.replace(b"REDIS0010", b"REDIS0013")) as proxy:
        port = proxy.url.rpartition(":")[2]
        done = native(greenfly, blue, green_dragonfly, env={"GREENFLY_NATIVE__MASTER_PORT": port})
    assert done.exit_code == 27
    assert stage(green_dragonfly.url) == "master"


def test_a_valkey_sends_what_dragonfly_loads(greenfly: Greenfly, green_dragonfly: Store) -> None:
    """Its own payloads are of version 80, which Dragonfly refuses."""
    with started(valkey()) as blue:
        fill(blue.url, 2_000)
        done = native(greenfly, blue, green_dragonfly)
        assert done.exit_code == 0, done.stderr
        assert compare(blue.url, green_dragonfly.url) == []


def test_more_memory_than_green_may_use_is_refused(
    greenfly: Greenfly, blue: Store, green_dragonfly: Store
) -> None:
    blue.client.set("big", bytes(32 * 1024 * 1024))
    limit = str(green_dragonfly.client.config_get("maxmemory")["maxmemory"])
    green_dragonfly.client.config_set("maxmemory", "20mb")
    try:
        done = native(greenfly, blue, green_dragonfly)
    finally:
        green_dragonfly.client.config_set("maxmemory", limit)
    assert done.exit_code == 4
    assert green_dragonfly.client.dbsize() == 0


def test_a_type_that_dragonfly_skips_is_a_failure(greenfly: Greenfly, green_dragonfly: Store) -> None:
    with started(newer_redis()) as blue:
        blue.client.set("a", 1)
        ask(blue, "VADD", "vectors", "VALUES", 2, "0.1", "0.2", "one")
        done = native(greenfly, blue, green_dragonfly)
        assert done.exit_code == 1, done.stderr
        assert done.at("verdict") == "FAIL"
        assert {key for _, state, _, key in findings(done) if state == "open"} == {b"vectors"}


# -- what is dropped -------------------------------------------------------------------------------------------------


def test_what_a_newer_redis_writes_is_repaired(greenfly: Greenfly, green_dragonfly: Store) -> None:
    with started(newer_redis()) as blue:
        client = blue.client
        client.hset("h", mapping={"a": "1", "b": "2"})
        client.xadd("log", {"f": "v"}, id="1-1")
        client.xadd("log", {"f": "v"}, id="2-1")
        client.mset({"x": "abc", "y": "abd"})

        def write() -> None:
            ask(blue, "HPEXPIRE", "h", 10**7, "FIELDS", 1, "a")
            ask(blue, "XDELEX", "log", "IDS", 1, "1-1")
            ask(blue, "XADD", "kept", "KEEPREF", "MAXLEN", 10, "1-1", "f", "v")
            ask(blue, "BITOP", "DIFF", "differs", "x", "y")

        with window(blue, green_dragonfly, write) as env:
            done = native(greenfly, blue, green_dragonfly, env=env)
        assert done.exit_code == 0, done.stderr
        assert compare(blue.url, green_dragonfly.url) == []
        assert {"HPEXPIREAT", "XDELEX"} <= set(_names(detail(done, "replicate")["dropped"]))
        assert as_int(ask(green_dragonfly, "FIELDTTL", "h", "a")) > 0


# -- what breaks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["full_sync", "online"])
def test_a_link_that_is_lost_begins_from_nothing_and_is_counted(
    greenfly: Greenfly, blue: Store, green_dragonfly: Store, at: str
) -> None:
    write_some(blue, 60_000 if at == "full_sync" else 500)
    kill = lambda: ask(blue, "CLIENT", "KILL", "TYPE", "replica")  # noqa: E731
    with window(blue, green_dragonfly, kill, at=at) as env:
        done = native(greenfly, blue, green_dragonfly, env=env)
    assert done.exit_code == 0, done.stderr
    assert detail(done, "replicate")["full_syncs"] == 2
    assert compare(blue.url, green_dragonfly.url) == []


def test_a_link_that_is_lost_again_and_again_is_given_up(
    greenfly: Greenfly, blue: Store, green_dragonfly: Store
) -> None:
    write_some(blue)
    kill = lambda: ask(blue, "CLIENT", "KILL", "TYPE", "replica")  # noqa: E731
    with window(blue, green_dragonfly, kill) as env:
        done = native(greenfly, blue, green_dragonfly, env={**env, "GREENFLY_NATIVE__MAX_FULL_SYNCS": "1"})
    assert done.exit_code == 27
    assert stage(green_dragonfly.url) == "master"


@pytest.mark.parametrize("saved", [True, False])
def test_a_blue_that_restarts_is_followed_unless_it_lost_its_data(
    greenfly: Greenfly, restartable: StartRestartable, green_dragonfly: Store, saved: bool
) -> None:
    blue = restartable("redis", "--repl-diskless-sync-delay", "0")
    write_some(blue.store)

    def restart() -> None:
        wait_for(lambda: blue.store.client.info("persistence")["rdb_bgsave_in_progress"] == 0)
        blue.restart(save=saved)

    with window(blue.store, green_dragonfly, restart) as env:
        done = native(greenfly, blue.store, green_dragonfly, env=env)
    assert stage(green_dragonfly.url) == "master"
    if saved:
        assert done.exit_code == 0, done.stderr
        assert detail(done, "replicate")["restarts"] == 1
        assert compare(blue.url, green_dragonfly.url) == []
    else:
        assert done.exit_code == 27, done.stderr


def test_a_green_that_restarts_is_told_again(
    greenfly: Greenfly, blue: Store, restartable: StartRestartable
) -> None:
    write_some(blue)
    green = restartable("dragonfly")
    with window(blue, green.store, green.restart) as env:
        done = native(greenfly, blue, green.store, env=env)
    assert done.exit_code == 0, done.stderr
    assert detail(done, "replicate")["restarts"] == 1
    assert compare(blue.url, green.url) == []


@pytest.mark.parametrize("how", ["--resume", "new"])
def test_a_killed_run_leaves_green_attached_and_the_next_goes_on(
    greenfly: Greenfly, blue: Store, green_dragonfly: Store, how: str
) -> None:
    write_some(blue)
    ends = ("--source", blue.url, "--target", green_dragonfly.url)

    def kill() -> None:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    with window(blue, green_dragonfly, kill) as env:
        killed = {**env, **UNASSESSED, "GREENFLY_LEASE_SECONDS": "1"}
        process = greenfly.start("migrate", *ends, "--strategy", "native", "--no-snapshot", env=killed)
        process.wait()
        wait_for(lambda: stage(green_dragonfly.url) == "online")
        blue.client.set("written", "since")
        sleep(1.2)  # its lease ends
        flags = ["--resume"] if how == "--resume" else []
        done = native(greenfly, blue, green_dragonfly, *flags, env={**env, ASSESS_VARIABLE: "true"})
    assert done.exit_code == 0, done.stderr
    assert stage(green_dragonfly.url) == "master"
    assert green_dragonfly.client.get("written") == b"since"
    assert compare(blue.url, green_dragonfly.url) == []


def test_a_run_that_is_told_to_end_detaches_green_and_takes_the_password_back(
    greenfly: Greenfly, start_redis: StartServer, green_dragonfly: Store
) -> None:
    blue = start_redis("--repl-diskless-sync-delay", "0", password="tell-nobody-7")
    write_some(blue)
    ends = ("--source", blue.url, "--target", green_dragonfly.url)

    def end() -> None:
        assert green_dragonfly.client.config_get("masterauth") == {"masterauth": "tell-nobody-7"}
        process.send_signal(signal.SIGTERM)
        process.wait()

    with window(blue, green_dragonfly, end) as env:
        process = greenfly.start(
            "migrate", *ends, "--strategy", "native", "--no-snapshot", env={**env, **UNASSESSED}
        )
        process.wait()
    assert process.returncode == 143
    assert stage(green_dragonfly.url) == "master"
    assert green_dragonfly.client.config_get("masterauth") == {"masterauth": ""}
    ledger = (greenfly.state_dir / "ledger.sqlite3").read_bytes()
    assert b"tell-nobody-7" not in ledger


def _names(value: object) -> list[str]:
    assert isinstance(value, dict)
    return [str(name) for name in value]
