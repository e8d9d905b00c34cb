"""Masters of the target die, and its slots move, while it is written to: nothing counts as written that was lost."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from threading import Event

import pytest
from redis.crc import key_slot

from integrity.address import parse_address
from integrity.cluster.changed import require_same_masters
from integrity.endpoint import Endpoint
from integrity.errors import ServerRestarted
from integrity.wire import Target
from tests.cli import Greenfly
from tests.cluster import RedisCluster, deep, differences, fill_server, meanwhile, wait_until
from tests.faults.test_cluster_failover import has_replica
from tests.inprocess import between, run_here
from tests.raw import Raw
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
def green(whole: RedisCluster) -> Iterator[RedisCluster]:
    """The same, empty; whoever was killed is back afterwards."""
    whole.flush()
    yield whole
    for node in whole.nodes:
        if not node.runs:
            node.start()
    whole.wait_until_whole()
    wait_until(lambda: all(has_replica(node) for node in whole.masters()))


def reshard(cluster: RedisCluster) -> None:
    """Move every 197th slot, from whichever master has it."""
    first, second, _ = cluster.masters()
    for slot in range(0, 16384, 197):
        owner = cluster.owner(slot)
        cluster.move_slot(slot, second if owner is first else first)


def test_slots_of_the_target_that_move_while_it_is_written_to_cost_nothing(
    greenfly: Greenfly, blue: Store, green: RedisCluster
) -> None:
    fill_server(blue.url, KEYS)

    run = meanwhile(
        green, KEYS // 4, lambda: reshard(green), lambda: migrate(greenfly, blue.url, green.url, *PACE)
    )

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert detail(run, "stream", "written") == KEYS
    assert differences(blue.url, green) == []


def test_a_master_of_the_target_that_dies_has_what_it_had_acknowledged_written_again(
    greenfly: Greenfly, blue: Store, green: RedisCluster
) -> None:
    fill_server(blue.url, KEYS)
    victim = green.masters()[1]

    run = meanwhile(
        green,
        KEYS // 2,
        lambda: green.fail_over(victim),
        lambda: migrate(greenfly, blue.url, green.url, *PACE, "--conflict", "replace"),
    )

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert "from the beginning" in run.stderr
    assert differences(blue.url, green) == []


@deep
def test_between_clusters_only_the_dead_masters_slots_are_written_again(
    greenfly: Greenfly, green: RedisCluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with RedisCluster(tmp_path_factory.mktemp("blue")) as blue:
        blue.fill(KEYS)
        victim = green.masters()[0]

        run = meanwhile(
            green,
            KEYS // 2,
            lambda: green.fail_over(victim),
            lambda: migrate(greenfly, blue.url, green.url, *PACE, "--conflict", "replace"),
        )

        assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
        written = detail(run, "stream", "written")
        assert isinstance(written, int)
        assert KEYS < written < 2 * KEYS, "some ranges, and not all, are written again"
        assert differences(blue, green) == []


@deep
def test_a_master_of_the_target_that_dies_while_changes_are_followed_leaves_nothing_behind(
    greenfly: Greenfly, blue: Store, green: RedisCluster
) -> None:
    fill_server(blue.url, KEYS)
    victim = green.masters()[2]

    def change_and_fail_over() -> None:
        wait_until(lambda: green.keys() >= KEYS // 2)
        with Raw(blue.url) as raw:
            for number in range(200):
                raw("SET", b"late:%d" % number, b"1")
        green.fail_over(victim)

    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(change_and_fail_over)
        run = run_here(
            greenfly,
            "sync",
            *between(blue.url, green.url),
            *("--until-equal", "--no-snapshot", "--conflict", "replace", "--json"),
            env={"GREENFLY_THROTTLE__KEYS_PER_SECOND": "1000"},
        )
        done.result()

    assert run.at("verdict") == "PASS", run.stderr
    assert differences(blue.url, green) == []


def test_one_full_master_breaks_the_copy_off_and_it_goes_on_when_there_is_room(
    greenfly: Greenfly, blue: Store, green: RedisCluster
) -> None:
    fill_server(blue.url, KEYS)
    full = green.masters()[1]
    full("CONFIG", "SET", "maxmemory", "1mb")
    try:
        broken = migrate(greenfly, blue.url, green.url)
    finally:
        full("CONFIG", "SET", "maxmemory", "0")
    assert broken.exit_code == 25, broken.stderr
    assert str(full.port) in str(broken.at("error", "problem")), "it is said which one is full"

    run = migrate(greenfly, blue.url, green.url, "--resume")

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert differences(blue.url, green) == []


def test_nothing_is_concluded_about_a_cluster_that_lost_a_master_meanwhile(green: RedisCluster) -> None:
    endpoint = Endpoint(Target("target", parse_address(green.url, "target.url")))
    before = endpoint.identify()
    owner = green.owner(7)
    green.move_slot(7, next(node for node in green.masters() if node is not owner))

    require_same_masters(endpoint, before)  # Its keys went along.
    green.fail_over(owner)
    with pytest.raises(ServerRestarted):
        require_same_masters(endpoint, before)


@deep
def test_values_in_pieces_arrive_whole_while_their_slots_go_round_all_the_time(
    greenfly: Greenfly, blue: Store, green: RedisCluster
) -> None:
    names = [b"k%d" % number for number in range(120)]
    with Raw(blue.url) as raw:
        for number, name in enumerate(names):
            items = [b"%030d" % item for item in range(1500)]
            if number % 3 == 0:
                raw("RPUSH", name, *items)
            elif number % 3 == 1:
                raw("ZADD", name, *(part for n, item in enumerate(items) for part in (n * 1.1, item)))
            else:
                raw("HSET", name, *(part for item in items for part in (item, b"x")))
            if number % 4 == 0:
                raw("PEXPIRE", name, 3_600_000)
    green.send([("SET", name, "old") for name in names])
    slots = [int(key_slot(name)) for name in names]
    stop, rng = Event(), Random(3)
    moved = 0

    def go_round() -> None:
        nonlocal moved
        while not stop.is_set():
            slot = rng.choice(slots)
            green.move_slot(slot, rng.choice([n for n in green.masters() if n is not green.owner(slot)]))
            moved += 1

    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(go_round)
        try:
            run = migrate(
                greenfly,
                blue.url,
                green.url,
                *("--conflict", "replace"),
                env={
                    "GREENFLY_BIG_VALUES__THRESHOLD_BYTES": "16384",
                    "GREENFLY_BIG_VALUES__PIECE_ELEMENTS": "200",
                },
            )
        finally:
            stop.set()
        done.result()

    green.wait_until_whole()
    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert detail(run, "stream", "rewritten") == len(names)
    assert moved > 20
    assert differences(blue.url, green) == []
