"""Whole commands with a cluster as the source: moved, compared, repaired; what is not done is refused by name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli import Greenfly, dig
from tests.cluster import RedisCluster, deep, differences, meanwhile
from tests.conftest import StartDragonfly
from tests.inprocess import between, run_here
from tests.oracle import compare
from tests.runs import detail, findings, migrate, report, verify
from tests.servers import Store

KEYS = 1500


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three masters."""
    with RedisCluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture
def cluster(whole: RedisCluster) -> RedisCluster:
    """The same, with data of every type."""
    for node in whole.masters():
        node("FLUSHALL")
    whole.fill(KEYS)
    return whole


def tag(cluster: RedisCluster, number: int) -> bytes:
    """A name in a slot of this master."""
    node = cluster.masters()[number]
    return next(b"{%d}" % n for n in range(1000) if cluster.owner(_slot(b"%d" % n)) is node)


def _slot(name: bytes) -> int:
    from redis.crc import key_slot

    return int(key_slot(name))


@pytest.mark.parametrize(
    ("engine", "workers"),
    [("redis", "1"), pytest.param("dragonfly", "2", marks=pytest.mark.dragonfly)],
)
def test_every_key_of_every_master_is_moved_and_proven(
    greenfly: Greenfly, cluster: RedisCluster, request: pytest.FixtureRequest, engine: str, workers: str
) -> None:
    green = request.getfixturevalue(f"green_{engine}")
    assert isinstance(green, Store)

    run = migrate(greenfly, cluster.url, green.url, "--workers", workers)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert detail(run, "stream", "written") == detail(run, "verify", "compared") == KEYS
    assert detail(run, "verify", "target_scanned") == KEYS
    assert differences(cluster, green.url) == []


def test_the_report_names_the_masters_and_their_slots(
    greenfly: Greenfly, cluster: RedisCluster, green_redis: Store
) -> None:
    run = migrate(greenfly, cluster.url, green_redis.url, "--include", "session:*")

    source = next(facts for facts in walk(report(run)) if isinstance(facts, dict) and facts.get("shards"))
    assert source["mode"] == "cluster"
    assert {dig(shard, "node_id") for shard in source["shards"]} == {n.node_id for n in cluster.masters()}


def walk(value: object) -> Iterator[object]:
    """Every part of a JSON value."""
    yield value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        yield from walk(part)


@deep
@pytest.mark.dragonfly
def test_a_move_onto_an_older_copy_replaces_it(
    greenfly: Greenfly, cluster: RedisCluster, green_dragonfly: Store
) -> None:
    green = green_dragonfly
    assert migrate(greenfly, cluster.url, green.url).exit_code == 0
    names = [b"new:%d" % number for number in range(300)]
    cluster.send([(b"SET", name, b"x") for name in names])

    run = migrate(greenfly, cluster.url, green.url, "--conflict", "replace")

    assert run.at("verdict") == "PASS", run.stderr
    assert differences(cluster, green.url) == []


@pytest.mark.dragonfly
def test_what_differs_on_any_master_is_found_and_repaired(
    greenfly: Greenfly, cluster: RedisCluster, green_dragonfly: Store
) -> None:
    green = green_dragonfly.client
    assert migrate(greenfly, cluster.url, green_dragonfly.url).exit_code == 0
    expected = []
    for number in range(3):
        name = tag(cluster, number)
        cluster.send([(b"SET", b"changed" + name, b"1"), (b"SET", b"missing" + name, b"2")])
        green.set(b"changed" + name, b"another")
        green.set(b"extra" + name, b"3")
        expected += [
            ("value", "open", 0, b"changed" + name),
            ("missing", "open", 0, b"missing" + name),
            ("extra", "open", 0, b"extra" + name),
        ]

    run = verify(greenfly, cluster.url, green_dragonfly.url)

    assert (run.exit_code, run.at("verdict")) == (1, "FAIL"), run.stderr
    assert findings(run) == sorted(expected)
    ids = between(cluster.url, green_dragonfly.url)
    repaired = run_here(greenfly, "repair", str(run.at("run")), *ids, "--json", "--delete-extra")
    assert repaired.at("verdict") == "PASS", repaired.stderr
    assert differences(cluster, green_dragonfly.url) == []


def test_a_key_on_its_way_is_neither_missing_nor_extra(
    greenfly: Greenfly, cluster: RedisCluster, green_redis: Store
) -> None:
    name = tag(cluster, 0)
    names = [name + b"%d" % number for number in range(40)]
    cluster.send([(b"SET", key, key) for key in names])
    slot = _slot(name[1:-1])
    giver, onto = cluster.owner(slot), cluster.masters()[1]
    cluster.begin_to_move(slot, onto)
    cluster.move_keys(slot, giver, onto, 15)

    run = migrate(greenfly, cluster.url, green_redis.url)

    assert run.at("verdict") == "PASS", run.stderr
    assert detail(run, "verify", "compared") == KEYS + len(names)
    cluster.move_keys(slot, giver, onto)
    cluster.end_move(slot, onto)
    assert verify(greenfly, cluster.url, green_redis.url).at("verdict") == "PASS"
    assert differences(cluster, green_redis.url) == []


def test_slots_that_move_during_the_copy_cost_nothing_to_be_read_again(
    greenfly: Greenfly, cluster: RedisCluster, green_redis: Store
) -> None:
    def reshard() -> None:
        first, second, _ = cluster.masters()
        for slot in range(0, 16384, 197):
            owner = cluster.owner(slot)
            cluster.move_slot(slot, second if owner is first else first)

    run = meanwhile(
        green_redis,
        KEYS // 4,
        reshard,
        lambda: migrate(greenfly, cluster.url, green_redis.url, "--keys-per-second", "1000"),
    )

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert detail(run, "stream", "written") == KEYS
    assert differences(cluster, green_redis.url) == []


def test_a_snapshot_holds_every_master_and_can_be_restored(
    greenfly: Greenfly, cluster: RedisCluster, green_redis: Store
) -> None:
    taken = run_here(greenfly, "snapshot", "take", "--source", cluster.url, "--json")
    assert taken.exit_code == 0, taken.stderr

    folder = str(taken.at("snapshot"))
    done = run_here(greenfly, "snapshot", "restore", folder, "--target", green_redis.url, "--json")

    assert done.exit_code == 0, done.stderr
    assert differences(cluster, green_redis.url) == []


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--strategy", "native"), "--strategy copy"),
        (("--snapshot-method", "replication"), "snapshot.method"),
        (("--replica", "redis://127.0.0.1:1"), "replica.url"),
    ],
)
def test_what_is_not_done_with_a_cluster_is_refused_before_anything_is_written(
    greenfly: Greenfly,
    whole: RedisCluster,
    green_redis: Store,
    flags: tuple[str, ...],
    word: str,
) -> None:
    run = run_here(greenfly, "migrate", *between(whole.url, green_redis.url), *flags)

    assert run.exit_code == 2, run.stderr
    assert word in run.stderr
    assert green_redis.client.dbsize() == 0


@pytest.mark.parametrize("variable", ["GREENFLY_SYNC__HEARTBEAT_KEY=beat", "GREENFLY_SYNC__FEED=monitor"])
def test_following_a_cluster_by_what_one_server_does_is_refused(
    greenfly: Greenfly, whole: RedisCluster, green_redis: Store, variable: str
) -> None:
    name, _, value = variable.partition("=")

    run = run_here(
        greenfly,
        "sync",
        *between(whole.url, green_redis.url),
        "--until-equal",
        "--no-snapshot",
        env={name: value},
    )

    assert run.exit_code == 2, run.stderr


# -- Dragonfly that emulates a cluster ---------------------------------------------------------------------------------


@pytest.mark.dragonfly
def test_a_dragonfly_that_emulates_a_cluster_is_written_and_read_like_a_server(
    greenfly: Greenfly, cluster: RedisCluster, start_dragonfly: StartDragonfly, green_redis: Store
) -> None:
    emulated = start_dragonfly("--cluster_mode=emulated")

    assert migrate(greenfly, cluster.url, emulated.url).at("verdict") == "PASS"
    assert differences(cluster, emulated.url) == []
    assert migrate(greenfly, emulated.url, green_redis.url).at("verdict") in {"PASS", "PASS WITH EXCEPTIONS"}
    assert compare(emulated.url, green_redis.url) == []


@pytest.mark.dragonfly
def test_a_dragonfly_that_is_addressed_as_a_cluster_is_refused(
    greenfly: Greenfly, start_dragonfly: StartDragonfly, green_redis: Store
) -> None:
    emulated = start_dragonfly("--cluster_mode=emulated")

    run = migrate(greenfly, emulated.url.replace("redis://", "redis+cluster://"), green_redis.url)

    assert run.exit_code == 4, run.stderr
    assert "redis://" in run.stderr
