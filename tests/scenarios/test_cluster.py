"""A six-node cluster moves into Dragonfly while applications write, a master dies and slots go elsewhere.

``GREENFLY_TEST_CLUSTER_KEYS`` and ``GREENFLY_TEST_CLUSTER_ROUNDS`` make it as long as is wanted: that many keys, and
that often a move of slots and a failover.
"""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from time import sleep
from typing import Final

import pytest

from tests.cluster import RedisCluster, Writer, differences, wait_until
from tests.live import Live
from tests.servers import Store

KEYS: Final = int(os.environ.get("GREENFLY_TEST_CLUSTER_KEYS", "3000"))
ROUNDS: Final = int(os.environ.get("GREENFLY_TEST_CLUSTER_ROUNDS", "1"))
SLOTS_MOVED: Final = 60
SETTINGS: Final = f"""
[throttle]
keys_per_second = {max(1000, KEYS // 20)}
max_latency_ms = 5000
[sync]
silence_seconds = 2.0
"""


@pytest.mark.dragonfly
def test_a_cluster_moves_under_load_while_a_master_dies_and_slots_move(
    green_dragonfly: Store, tmp_path: Path
) -> None:
    with (
        RedisCluster(tmp_path / "cluster", replicas=True) as cluster,
        Live(tmp_path / "live", cluster.url, green_dragonfly.url, SETTINGS) as live,
    ):
        cluster.fill(KEYS)
        with Writer(cluster) as writer:
            sync = live.sync()
            live.wait_until(lambda: green_dragonfly.client.dbsize() >= KEYS // 3, "a third is copied")
            for number in range(ROUNDS):
                reshard(cluster, number)
                fail_over(cluster, number)
                reshard(cluster, number + 1000)
            live.wait_until(lambda: bool(live.events("sync.gap")), "a gap is on record")
            live.wait_until_clean(90 + KEYS / 200)
            sleep(1.0)
            written, refused = writer.written, writer.refused
            writer.stop()
        live.wait_until_drained(90)
        assert live.run("runs", "stop", "latest").code == 0
        assert sync.wait(60) == 0, live.log()

        assert "PASS" in (live.folder / "sync.out").read_text()
        assert differences(cluster, green_dragonfly.url) == []
        assert written > 500
        assert refused < written


def reshard(cluster: RedisCluster, seed: int) -> None:
    """Some slots of every master go to the next one."""
    masters = cluster.masters()
    for number, giver in enumerate(masters):
        onto = masters[(number + 1) % len(masters)]
        owned = (slot for slot in range(seed % 89, 16384, 89) if cluster.owner(slot) is giver)
        for slot in islice(owned, SLOTS_MOVED // len(masters)):
            cluster.move_slot(slot, onto)


def fail_over(cluster: RedisCluster, number: int) -> None:
    """A master dies, its replica takes its place, and it comes back as a replica."""
    masters = cluster.masters()
    victim = masters[number % len(masters)]
    cluster.fail_over(victim)
    victim.start()
    wait_until(lambda: victim not in cluster.masters())
    cluster.wait_until_whole()
