"""Masters die and slots move while a cluster is copied, compared and followed: nothing is lost, and nothing is skipped.

The fault happens in the middle, which the copy's own pace makes long enough to be met.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep

import pytest

from tests.cli import Greenfly
from tests.cluster import Node, RedisCluster, deep, differences, meanwhile, wait_until
from tests.inprocess import between, run_here
from tests.runs import detail, migrate
from tests.servers import Store

KEYS = 1500
PACE = ("--keys-per-second", "1000")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three masters, each with a replica."""
    with RedisCluster(tmp_path_factory.mktemp("cluster"), replicas=True) as started:
        yield started


@pytest.fixture
def cluster(whole: RedisCluster) -> Iterator[RedisCluster]:
    """The same, with data of every type; whoever was killed is back afterwards."""
    for node in whole.masters():
        node("FLUSHALL")
    whole.fill(KEYS)
    for node in whole.masters():
        node("WAIT", 1, 5000)
    yield whole
    for node in whole.nodes:
        if not node.runs:
            node.start()
    whole.wait_until_whole()
    wait_until(lambda: all(has_replica(node) for node in whole.masters()))


def has_replica(node: Node) -> bool:
    reply = node("INFO", "replication")
    assert isinstance(reply, bytes)
    return b"state=online" in reply


@pytest.mark.dragonfly
def test_a_master_that_dies_during_the_copy_has_its_slots_copied_again(
    greenfly: Greenfly, cluster: RedisCluster, green_dragonfly: Store
) -> None:
    victim = cluster.masters()[1]

    run = meanwhile(
        green_dragonfly,
        KEYS // 2,
        lambda: cluster.fail_over(victim),
        lambda: migrate(greenfly, cluster.url, green_dragonfly.url, *PACE),
    )

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    written = detail(run, "stream", "written")
    assert isinstance(written, int)
    assert KEYS < written < 2 * KEYS, "some ranges, and not all, are read again"
    assert differences(cluster, green_dragonfly.url) == []


@deep
def test_a_master_that_hands_over_in_good_order_is_noticed(
    greenfly: Greenfly, cluster: RedisCluster, green_redis: Store
) -> None:
    def hand_over() -> None:
        before = {node.node_id for node in cluster.masters()}
        replica = next(node for node in cluster.nodes if node.node_id not in before)
        replica("CLUSTER", "FAILOVER")
        wait_until(lambda: replica in cluster.masters())

    run = meanwhile(
        green_redis, KEYS // 2, hand_over, lambda: migrate(greenfly, cluster.url, green_redis.url, *PACE)
    )

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert "copied again" in run.stderr
    assert differences(cluster, green_redis.url) == []


@deep
def test_a_master_that_dies_while_all_is_compared_has_everything_compared_again(
    greenfly: Greenfly, cluster: RedisCluster, green_redis: Store
) -> None:
    assert migrate(greenfly, cluster.url, green_redis.url).exit_code == 0
    victim = cluster.masters()[0]

    def fail_over() -> None:
        sleep(0.7)
        cluster.fail_over(victim)

    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(fail_over)
        run = run_here(greenfly, "verify", *between(cluster.url, green_redis.url), *PACE, "--json")
        done.result()

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert "comparing from the beginning" in run.stderr
    assert detail(run, "verify", "compared") == KEYS


def test_a_copy_that_was_broken_off_goes_on_and_reads_again_what_failed_over_meanwhile(
    greenfly: Greenfly, cluster: RedisCluster, green_redis: Store
) -> None:
    url = cluster.url
    green_redis.client.config_set("maxmemory", "2mb")
    try:
        broken = migrate(greenfly, url, green_redis.url, *PACE)
    finally:
        green_redis.client.config_set("maxmemory", "0")
    assert broken.exit_code == 25, broken.stderr
    cluster.fail_over(cluster.masters()[0])

    run = migrate(greenfly, url, green_redis.url, "--resume")

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert "copied again" in run.stderr
    assert differences(cluster, green_redis.url) == []


@deep
def test_a_cluster_that_stays_broken_ends_the_run_without_a_verdict(
    greenfly: Greenfly, tmp_path: Path, green_redis: Store
) -> None:
    with RedisCluster(tmp_path / "lone") as lone:
        lone.fill(500)
        assert migrate(greenfly, lone.url, green_redis.url).exit_code == 0
        lone.masters()[2].kill()

        run = run_here(greenfly, "verify", *between(lone.url, green_redis.url), "--reconnect", "1", "--json")

    assert run.exit_code in {10, 13}, run.stderr
