"""Reading from a replica of the source: the source itself is not read, and what is no such replica is refused."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, sleep
from typing import Final
from urllib.parse import urlsplit

import pytest

from greenfly.demo.dataset import fill
from tests.cli import Greenfly
from tests.conftest import StartServer
from tests.faults.midway import at_most, ended, events, start_in_the_middle
from tests.inprocess import between, run_here
from tests.oracle import compare
from tests.runs import migrate, verify
from tests.servers import Store

READS: Final = {
    *("scan", "dump", "mget", "get", "hgetall", "lrange", "smembers", "zrange", "xrange", "type", "exists"),
    *("memory|usage", "pttl", "pexpiretime", "sscan", "hscan", "getrange", "xinfo|stream", "multi"),
}
"""Commands that read keys."""


def wait_until_equal(source: Store, replica: Store) -> None:
    deadline = monotonic() + 20
    while True:
        ours, theirs = source.client.info("replication"), replica.client.info("replication")
        if (
            theirs.get("master_link_status") == "up"
            and theirs["slave_repl_offset"] == ours["master_repl_offset"]
        ):
            return
        assert monotonic() < deadline, theirs
        sleep(0.02)


@pytest.fixture
def start_replica(start_redis: StartServer) -> Callable[[Store], Store]:
    def start(source: Store) -> Store:
        at = urlsplit(source.url)
        replica = start_redis(
            "--replicaof", str(at.hostname), str(at.port), "--repl-diskless-sync-delay", "0"
        )
        wait_until_equal(source, replica)
        return replica

    return start


@pytest.fixture
def source(start_redis: StartServer) -> Store:
    """A source of its own, because its replica would follow whatever other tests do."""
    store = start_redis("--repl-diskless-sync-delay", "0")
    fill(store.url, keys=2_000, seed=61)
    return store


def used(store: Store) -> set[str]:
    """The commands that were called since the last CONFIG RESETSTAT."""
    return {name.removeprefix("cmdstat_") for name in store.client.info("commandstats")}


def test_keys_are_read_from_the_replica_alone(
    source: Store, start_replica: Callable[[Store], Store], green: Store, greenfly: Greenfly
) -> None:
    replica = start_replica(source)
    source.client.config_resetstat()
    replica.client.config_resetstat()

    run = migrate(greenfly, source.url, green.url, "--replica", replica.url)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert used(source) & READS == set()
    assert {"scan", "dump"} <= used(replica)
    assert compare(source.url, green.url) == []
    source.client.config_resetstat()
    again = verify(greenfly, source.url, green.url, "--replica", replica.url)
    assert again.exit_code == 0
    assert used(source) & READS == set()


def test_what_was_written_right_before_the_run_is_there(
    source: Store, start_replica: Callable[[Store], Store], green_redis: Store, greenfly: Greenfly
) -> None:
    replica = start_replica(source)
    pipeline = source.client.pipeline(transaction=False)
    for number in range(20_000):
        pipeline.set(f"late:{number}", "x" * 100)
    pipeline.execute()

    run = migrate(greenfly, source.url, green_redis.url, "--replica", replica.url)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert compare(source.url, green_redis.url) == []


def test_workers_read_from_the_replica_too(
    source: Store, start_replica: Callable[[Store], Store], green_redis: Store, greenfly: Greenfly
) -> None:
    replica = start_replica(source)
    source.client.config_resetstat()

    run = greenfly(
        *("migrate", *between(source.url, green_redis.url), "--replica", replica.url, "--workers", "2"),
        *("--no-snapshot", "--json"),
    )

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert used(source) & READS == set()
    assert compare(source.url, green_redis.url) == []


def test_a_snapshot_is_taken_from_the_replica(
    source: Store, start_replica: Callable[[Store], Store], green_redis: Store, greenfly: Greenfly
) -> None:
    replica = start_replica(source)
    source.client.config_resetstat()

    run = run_here(
        greenfly, "migrate", *between(source.url, green_redis.url), "--replica", replica.url, "--json"
    )

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert used(source) & READS == set()


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_server_that_is_no_replica_is_refused(
    source: Store, blue: Store, green_redis: Store, greenfly: Greenfly
) -> None:
    run = migrate(greenfly, source.url, green_redis.url, "--replica", blue.url)

    assert (run.exit_code, run.at("error", "kind")) == (4, "Refused")
    assert blue.url in str(run.at("error", "problem"))
    assert green_redis.client.dbsize() == 0


def test_a_replica_of_another_server_is_refused(
    source: Store,
    start_redis: StartServer,
    start_replica: Callable[[Store], Store],
    green_redis: Store,
    greenfly: Greenfly,
) -> None:
    other = start_redis("--repl-diskless-sync-delay", "0")
    replica = start_replica(other)

    run = migrate(greenfly, source.url, green_redis.url, "--replica", replica.url)

    assert (run.exit_code, run.at("error", "kind")) == (4, "Refused")
    assert "another server" in str(run.at("error", "problem"))
    assert green_redis.client.dbsize() == 0


def test_a_replica_without_its_link_is_not_read(
    source: Store, start_replica: Callable[[Store], Store], green_redis: Store, greenfly: Greenfly
) -> None:
    replica = start_replica(source)
    # It keeps trying, and is refused.
    source.client.execute_command("ACL", "SETUSER", "default", "-psync", "-sync")  # type: ignore[no-untyped-call]
    source.client.client_kill_filter(_type="replica")
    deadline = monotonic() + 10
    while replica.client.info("replication")["master_link_status"] != "down":
        assert monotonic() < deadline
        sleep(0.02)

    run = migrate(greenfly, source.url, green_redis.url, "--replica", replica.url, "--reconnect", "0.5")

    assert (run.exit_code, run.at("error", "kind")) == (13, "ServerNotReady"), run.stderr
    assert replica.url in str(run.at("error", "problem"))
    assert green_redis.client.dbsize() == 0


def test_a_replica_that_is_lost_in_the_middle_is_waited_for(
    source: Store, start_replica: Callable[[Store], Store], green_redis: Store, greenfly: Greenfly
) -> None:
    replica = start_replica(source)
    env = at_most(1_500) | {"GREENFLY_COPY__BATCH_KEYS": "50"}
    process = start_in_the_middle(
        greenfly,
        *("migrate", *between(source.url, green_redis.url), "--no-snapshot", "--replica", replica.url),
        env=env,
        keys=300,
    )

    for client in replica.client.client_list():
        if client["name"].startswith("greenfly:") and client["name"] != "greenfly:test":
            replica.client.client_kill_filter(_id=client["id"])
    run = ended(process)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert events(greenfly, str(run.at("run")), "server.lost") == 1
    assert compare(source.url, green_redis.url) == []
