"""Assessing a cluster: every node is looked at, on either side, and the worst of them counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from integrity.assess.model import Finding, Outcome, Reach, Severity
from integrity.assess.registry import all_checks, find_check
from integrity.assess.runner import look, make_checks
from integrity.assess.subject import Subject
from tests.assessing import subject_of
from tests.cli import ASSESS_VARIABLE, Greenfly
from tests.cluster import Node, RedisCluster, deep, fill_server
from tests.conftest import StartDragonfly
from tests.dragonfly_cluster import DragonflyCluster
from tests.inprocess import between, run_here
from tests.runs import migrate
from tests.servers import Store

KEYS = 900
ASSESSED = {ASSESS_VARIABLE: "true", "GREENFLY_ASSESS__WATCH_SECONDS": "0"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three masters with data of every type."""
    with RedisCluster(tmp_path_factory.mktemp("cluster")) as started:
        started.fill(KEYS)
        yield started


@pytest.fixture
def cluster(whole: RedisCluster) -> Iterator[RedisCluster]:
    """The same, with nothing counted so far; what a test sets on a node is put back."""
    for node in whole.masters():
        node("CONFIG", "RESETSTAT")
    yield whole
    for node in whole.masters():
        node("ACL", "DELUSER", "app", "greenfly")
        node("FUNCTION", "FLUSH")
        node("CONFIG", "SET", "notify-keyspace-events", "", "maxclients", "10000", "maxmemory", "0")


def found_by(subject: Subject, name: str) -> Finding:
    """What a check finds."""
    return look(subject, find_check(name))


def place(node: Node) -> str:
    return f"127.0.0.1:{node.port}"


def test_every_check_says_how_it_looks_at_a_cluster() -> None:
    assert [check.id for check in all_checks() if Reach.ONE in {check.source, check.target}] == []


def test_a_check_that_is_about_one_server_counts_as_not_known(
    cluster: RedisCluster, green_redis: Store
) -> None:
    check = replace(find_check("commands.unknown"), source=Reach.ONE)

    finding = look(subject_of(cluster.url, green_redis.url), check)

    assert (finding.outcome, finding.severity) == (Outcome.UNKNOWN, Severity.BLOCKING)


@pytest.mark.dragonfly
def test_commands_are_counted_over_all_nodes(cluster: RedisCluster, green_dragonfly: Store) -> None:
    first, _, last = cluster.masters()
    for node, times in ((first, 2), (last, 3)):
        for _ in range(times):
            node("LOLWUT")

    finding = found_by(subject_of(cluster.url, green_dragonfly.url), "commands.unknown")

    assert "lolwut" in finding.items
    commands = finding.evidence["commands"]
    assert isinstance(commands, dict)
    assert commands["lolwut"]["calls"] == 5


def test_what_one_node_alone_is_like_is_found(cluster: RedisCluster, green_redis: Store) -> None:
    one = cluster.masters()[1]
    one("ACL", "SETUSER", "app", "on", ">secret", "~app:*", "+@read")
    one("FUNCTION", "LOAD", "#!lua name=mine\nredis.register_function('f', function() return 1 end)")
    one("CONFIG", "SET", "notify-keyspace-events", "KEA", "maxclients", "6")
    subject = subject_of(cluster.url, green_redis.url)

    users, library, announced, room = (
        found_by(subject, name)
        for name in ("users.alike", "functions.libraries", "clients.notifications", "capacity.connections")
    )

    assert (users.severity, users.items) == (Severity.WARNING, ("app",))
    assert "secret" not in str(users)
    assert library.items == ("mine",)
    assert announced.outcome is Outcome.FOUND
    assert room.severity is Severity.BLOCKING
    assert place(one) in room.summary


def test_rights_are_tried_on_every_node(cluster: RedisCluster, green_redis: Store) -> None:
    one = cluster.masters()[2]
    for node in cluster.masters():
        rules = ("+@all", "-dump") if node is one else ("+@all",)
        node("ACL", "SETUSER", "greenfly", "on", ">secret", "~*", "&*", *rules)
    url = cluster.url.replace("//", "//greenfly:secret@")

    finding = found_by(subject_of(url, green_redis.url), "rights.source")

    assert finding.severity is Severity.BLOCKING
    assert place(one) in finding.summary
    assert "copy: dump" in finding.items
    # As every other node of it would say: the line is for a node of a cluster.
    assert "cluster|getkeysinslot" in finding.remedy


def test_a_full_census_counts_the_keys_of_all_masters(cluster: RedisCluster, green_redis: Store) -> None:
    subject = subject_of(cluster.url, green_redis.url, assess={"mode": "full"})

    census = subject.census

    assert (census.full, census.keys_looked_at) == (True, KEYS)
    assert sum(census.types.values()) == KEYS
    assert census.stream_groups == census.types["stream"]


def test_a_sample_is_taken_from_all_masters(cluster: RedisCluster, green_redis: Store) -> None:
    subject = subject_of(cluster.url, green_redis.url, assess={"mode": "sampled", "sample_keys": 200})

    census = subject.census

    assert not census.full
    assert 200 <= census.keys_looked_at < KEYS
    holding = {cluster.owner(_slot(fact.key)).node_id for fact in (*census.big, *census.longest)}
    assert len(holding) == 3


def _slot(name: bytes) -> int:
    from redis.crc import key_slot

    return int(key_slot(name))


def test_what_was_asked_of_a_node_is_asked_once(cluster: RedisCluster, green_redis: Store) -> None:
    subject = subject_of(cluster.url, green_redis.url)
    cheap = [check for check in all_checks() if not check.needs_census]

    results = make_checks(subject, cheap)

    assert not [result for result in results if result.outcome is Outcome.UNKNOWN]
    # One connection for what is only asked, and those in which rights are tried.
    assert max(_calls(node, "command") for node in cluster.masters()) == 1


def _calls(node: Node, name: str) -> int:
    from integrity.info import parse_info

    told = node("INFO", "commandstats")
    assert isinstance(told, bytes)
    return int(parse_info(told)[f"cmdstat_{name}"].split(",")[0].removeprefix("calls="))


# -- as the target --------------------------------------------------------------------------------------------------


def test_a_cluster_as_the_target_is_looked_at_node_by_node(cluster: RedisCluster, blue: Store) -> None:
    blue.client.mset({"a": "1", "b": "2"})
    with blue.database(3) as other:
        other.set("c", "3")
    blue.client.config_resetstat()
    blue.client.mset({"a": "1", "b": "2"})
    tight = cluster.masters()[0]
    tight("CONFIG", "SET", "maxmemory", str(int(used(tight)) + 1024))
    subject = subject_of(blue.url, cluster.url)

    memory, databases, several = (
        found_by(subject, name) for name in ("capacity.memory", "data.databases", "cluster.cross-slot")
    )

    assert memory.outcome is Outcome.FOUND
    assert place(tight) in memory.summary
    assert (databases.severity, databases.items) == (Severity.BLOCKING, ("database 3",))
    assert several.severity is Severity.WARNING
    assert "mset" in several.items


def used(node: Node) -> str:
    from integrity.info import parse_info

    told = node("INFO", "memory")
    assert isinstance(told, bytes)
    return parse_info(told)["used_memory"]


@deep
@pytest.mark.dragonfly
def test_a_cluster_of_dragonflies_is_looked_at_node_by_node(blue: Store) -> None:
    with DragonflyCluster() as several:
        fill_server(blue.url, 300)
        blue.client.config_resetstat()
        onto = make_checks(subject_of(blue.url, several.url), all_checks())
        back = make_checks(subject_of(several.url, blue.url), all_checks())

    for results in (onto, back):
        unknown = [result.check for result in results if result.outcome is Outcome.UNKNOWN]
        assert set(unknown) <= {"commands.options", "commands.unknown", "clients.notifications"}
    rights = next(result for result in back if result.check == "rights.source")
    assert rights.outcome is Outcome.PASSED
    used = next(result for result in back if result.check == "commands.unknown")
    assert used.items == ()


# -- commands -------------------------------------------------------------------------------------------------------


@pytest.mark.dragonfly
def test_a_cluster_is_assessed_and_then_moved(
    greenfly: Greenfly, cluster: RedisCluster, start_dragonfly: StartDragonfly
) -> None:
    with start_dragonfly("--cluster_mode=emulated") as green:
        assessed = run_here(greenfly, "assess", *between(cluster.url, green.url), "--json", env=ASSESSED)
        moved = migrate(greenfly, cluster.url, green.url, "--strategy", "copy", env=ASSESSED)

    assert assessed.exit_code == 0, assessed.stderr
    assert assessed.at("verdict") == "PASS"
    assert (moved.exit_code, moved.at("verdict")) == (0, "PASS"), moved.stderr


@pytest.mark.dragonfly
def test_what_blocks_stops_a_move_of_a_cluster(
    greenfly: Greenfly, cluster: RedisCluster, green_dragonfly: Store
) -> None:
    run = migrate(greenfly, cluster.url, green_dragonfly.url, env=ASSESSED)

    assert run.exit_code == 4, run.stderr
    assert "clients.cluster" in run.stderr
    assert green_dragonfly.client.dbsize() == 0
