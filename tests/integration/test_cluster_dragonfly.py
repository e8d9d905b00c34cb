"""A cluster of several Dragonflies: filled, compared, repaired, read, and listed while its slots move."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from redis.crc import key_slot

from integrity.cluster.shrunk import expected_keys
from integrity.endpoint import Endpoint
from integrity.settings import EndpointSettings
from tests.cli import Greenfly
from tests.cluster import RedisCluster, deep, differences, fill_server, meanwhile
from tests.dragonfly_cluster import DragonflyCluster
from tests.inprocess import between, run_here
from tests.raw import Raw, as_int
from tests.runs import detail, findings, migrate, verify
from tests.servers import Store

pytestmark = pytest.mark.dragonfly
KEYS = 600
PASSED = {"PASS", "PASS WITH EXCEPTIONS"}
PACE = ("--keys-per-second", "500")


@pytest.fixture(scope="module")
def both() -> Iterator[DragonflyCluster]:
    """Two nodes."""
    with DragonflyCluster() as started:
        yield started


@pytest.fixture
def green(both: DragonflyCluster) -> DragonflyCluster:
    """The same, empty."""
    both.flush()
    return both


def test_a_server_is_moved_onto_both_nodes_and_back(
    greenfly: Greenfly, blue: Store, green: DragonflyCluster, green_redis: Store
) -> None:
    fill_server(blue.url, KEYS)

    run = migrate(greenfly, blue.url, green.url)

    assert run.at("verdict") in PASSED, run.stderr
    assert detail(run, "stream", "written") == detail(run, "verify", "target_scanned") == KEYS
    assert all(as_int(node("DBSIZE")) for node in green.nodes)
    assert differences(blue.url, green) == []
    assert migrate(greenfly, green.url, green_redis.url).at("verdict") in PASSED
    assert differences(green, green_redis.url) == []


@deep
def test_what_differs_on_either_node_is_found_and_repaired_through_temporary_keys(
    greenfly: Greenfly, blue: Store, green: DragonflyCluster
) -> None:
    fill_server(blue.url, KEYS)
    assert migrate(greenfly, blue.url, green.url).at("verdict") in PASSED
    with Raw(blue.url) as raw:
        for number in range(20):
            raw("SADD", b"changed:%d" % number, b"1")
            raw("SET", b"missing:{%d}" % number, b"2")
    green.send([("SADD", b"changed:%d" % number, b"2") for number in range(20)])
    green.send([("SET", b"extra:%d" % number, b"3") for number in range(20)])

    run = verify(greenfly, blue.url, green.url)
    repaired = run_here(
        greenfly, "repair", str(run.at("run")), *between(blue.url, green.url), "--json", "--delete-extra"
    )

    assert run.at("verdict") == "FAIL"
    assert repaired.at("verdict") in PASSED, repaired.stderr
    assert differences(blue.url, green) == []


def test_a_cluster_is_moved_onto_a_cluster_that_holds_older_values(
    greenfly: Greenfly, green: DragonflyCluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    names = [b"big{%d}" % number for number in range(10)] + [b"{}", b"a}b", b"{a}b}"]
    with RedisCluster(tmp_path_factory.mktemp("blue")) as blue:
        blue.fill(KEYS)
        blue.send([("RPUSH", name, *(b"%030d" % n for n in range(3000))) for name in names])
        with Raw(blue.masters()[0].url) as raw:
            taken = sorted(raw.keys())[::5]
        green.send([("SET", name, b"old") for name in {*taken, *names}])

        run = migrate(
            greenfly,
            blue.url,
            green.url,
            "--conflict",
            "replace",
            env={"GREENFLY_BIG_VALUES__THRESHOLD_BYTES": "65536"},
        )

        assert run.at("verdict") in PASSED, run.stderr
        rewritten = detail(run, "stream", "rewritten")
        assert isinstance(rewritten, int)
        assert rewritten >= len(names)
        assert differences(blue, green) == []


def test_slots_that_move_between_dragonflies_void_what_was_listed(
    greenfly: Greenfly, green: DragonflyCluster, green_redis: Store
) -> None:
    green.fill(KEYS)
    first = min(slot for slot, node in green.table().items() if node is green.nodes[0])

    run = meanwhile(
        green_redis,
        KEYS // 4,
        lambda: green.move_slots(first, first + 500),
        lambda: migrate(greenfly, green.url, green_redis.url, *PACE, "--conflict", "replace"),
    )

    assert run.at("verdict") in PASSED, run.stderr
    assert "from the beginning" in run.stderr
    assert differences(green, green_redis.url) == []


@deep
def test_slots_that_move_while_a_copy_writes_to_them_lose_nothing(
    greenfly: Greenfly, blue: Store, green: DragonflyCluster
) -> None:
    with Raw(blue.url) as raw:
        for number in range(KEYS):
            raw("SET", b"s:%d" % number, b"%d" % number, "PX", 3_600_000)
            raw("HSET", b"h:%d" % number, "f", number, "g", "x")
    last = max(slot for slot, node in green.table().items() if node is green.nodes[1])

    run = meanwhile(
        green,
        KEYS // 2,
        lambda: green.move_slots(last - 3000, last),
        lambda: migrate(greenfly, blue.url, green.url, "--keys-per-second", "600"),
    )

    assert run.at("verdict") == "PASS", run.stderr
    assert detail(run, "stream", "written") == 2 * KEYS
    assert differences(blue.url, green) == []


@deep
def test_scores_that_dragonfly_rounds_where_a_slot_moves_are_found_and_repaired(
    greenfly: Greenfly, blue: Store, green: DragonflyCluster
) -> None:
    with Raw(blue.url) as raw:
        raw("ZADD", "ranking", 12345.678901, "a")
    assert migrate(greenfly, blue.url, green.url).exit_code == 0
    slot = int(key_slot(b"ranking"))
    green.move_slots(slot, slot)

    run = verify(greenfly, blue.url, green.url)
    repaired = run_here(greenfly, "repair", str(run.at("run")), *between(blue.url, green.url), "--json")

    assert findings(run) == [("value", "open", 0, b"ranking")]
    assert repaired.at("verdict") == "PASS", repaired.stderr


def test_what_each_master_should_hold_is_reckoned_from_the_other_side(
    blue: Store, green: DragonflyCluster
) -> None:
    """From a part of the names where there are many, and from all where there are few."""
    followed, other = endpoint(green.url), endpoint(blue.url)
    for keys in (200, 6000):
        names = [b"k:%d" % number for number in range(keys)]
        with Raw(blue.url) as raw:
            raw.many([("SET", name, b"v") for name in names])
        expected = {shard.address: count for shard, count in expected_keys(followed.identify(), other)}
        assert len(expected) == 2
        assert sum(expected.values()) == pytest.approx(keys, abs=2)
        green.send([("SET", name, b"v") for name in names])
        for node in green.nodes:
            assert expected[node.url] == pytest.approx(as_int(node("DBSIZE")), rel=0.2)


def endpoint(url: str) -> Endpoint:
    return Endpoint.from_settings("source", EndpointSettings(url=SecretStr(url)))


@deep
def test_a_dragonfly_cluster_is_followed_until_both_sides_are_equal(
    greenfly: Greenfly, green: DragonflyCluster, green_redis: Store
) -> None:
    green.fill(KEYS)
    green_redis.client.set("extra", "x")

    run = run_here(
        greenfly,
        "sync",
        *between(green.url, green_redis.url),
        *("--until-equal", "--no-snapshot", "--conflict", "replace", "--json"),
    )

    assert run.at("verdict") in PASSED, run.stderr
    assert differences(green, green_redis.url) == []
