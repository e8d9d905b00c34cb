"""The fence of a whole cluster, and of what Sentinels know of: a plan for each node, replicas too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import monotonic

import pytest
from pydantic import SecretStr

from greenfly.demo.servers import find_redis_server
from integrity.cluster.members import read_members
from integrity.endpoint import Endpoint
from integrity.errors import AuthenticationFailed, Refused
from integrity.settings import EndpointSettings
from integrity.switch.clients import software_of
from integrity.switch.confirm import applications, close_applications
from integrity.switch.fence import Fence
from integrity.switch.fence_nodes import NodesFence, fence_of
from integrity.switch.fence_plan import FencePlan
from integrity.switch.health import HealthProbe
from integrity.switch.own_user import elevated, leftovers
from tests.cluster import Node, RedisCluster, wait_until
from tests.faults.moved_cluster import application, rules, takes_a_write
from tests.raw import UnexpectedReply, as_bytes, as_list

TIMEOUT_MS = 1000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three masters and their replicas."""
    with RedisCluster(
        tmp_path_factory.mktemp("cluster"), replicas=True, node_timeout_ms=TIMEOUT_MS
    ) as cluster:
        yield cluster


@pytest.fixture
def cluster(whole: RedisCluster) -> Iterator[RedisCluster]:
    """The same, without a fence before and after."""
    yield whole
    for node in whole.nodes:
        if not node.runs:
            node.start()
    whole.wait_until_whole()
    wait_until(lambda: not any(member.failed for member in read_members(endpoint_of(whole))))
    for member in read_members(endpoint_of(whole)):
        Fence(member.endpoint, software_of(member.endpoint)).lift(FencePlan("acl"))
    for node in whole.nodes:
        node("ACL", "SETUSER", "default", "+@all")


def endpoint_of(cluster: RedisCluster) -> Endpoint:
    return Endpoint.from_settings("source", EndpointSettings(url=SecretStr(cluster.url)))


def fence_on(cluster: RedisCluster) -> NodesFence:
    endpoint = endpoint_of(cluster)
    fence = fence_of(endpoint, endpoint.identify)
    assert isinstance(fence, NodesFence)
    return fence


def through_the_ledger(plan: FencePlan) -> FencePlan:
    facts = json.loads(json.dumps(plan.to_dict()))
    again = FencePlan.from_dict(facts)
    assert again == plan
    return again


def refuses(node: Node) -> bool:
    """Whether a node would refuse a write if it were a master: its user has no right to one."""
    try:
        node("ACL", "DRYRUN", "default", "SET", "k", "v")
    except UnexpectedReply:
        return True
    return b"no permission" in as_bytes(node("ACL", "DRYRUN", "default", "SET", "k", "v"))


def test_every_node_refuses_and_gets_back_what_it_had_for_itself(cluster: RedisCluster) -> None:
    cluster.nodes[1]("ACL", "SETUSER", "shop", "on", ">secret", "~*", "+@all", "-flushall")
    before = rules(cluster.nodes)
    fence = fence_on(cluster)

    plan = through_the_ledger(fence.plan())
    fence.pause(5.0)
    fence.refuse(plan)
    fence.unpause()

    assert {node.name for node in plan.nodes} == {node.node_id for node in cluster.nodes}
    assert plan.user_names == ("default", "shop")
    assert all(map(refuses, cluster.nodes))
    assert not any(map(takes_a_write, cluster.masters()))
    assert fence.holds(plan)
    with pytest.raises(Refused):
        fence.plan()
    own = elevated(endpoint_of(cluster))
    with own.connect("test") as connection:
        for number in range(20):
            connection.command(b"SET", b"own:%d" % number, b"1")
    assert leftovers(endpoint_of(cluster))

    assert fence.lift(plan) == ()
    assert rules(cluster.nodes) == before
    assert len([node for node in cluster.masters() if takes_a_write(node)]) == 3
    with pytest.raises(AuthenticationFailed):
        own.connect("test").command(b"PING")
    cluster.nodes[1]("ACL", "DELUSER", "shop")


def test_a_replica_that_takes_over_refuses_by_itself(cluster: RedisCluster) -> None:
    fence = fence_on(cluster)
    plan = fence.plan()
    fence.refuse(plan)
    replica = cluster.nodes[3]

    before = cluster.masters()
    replica("CLUSTER", "FAILOVER")
    wait_until(lambda: replica in cluster.masters() and len(cluster.masters()) == 3)
    cluster.wait_until_whole()

    assert cluster.masters() != before
    assert not any(map(takes_a_write, cluster.masters()))
    assert fence.holds(plan)
    fence.lift(plan)
    assert len([node for node in cluster.masters() if takes_a_write(node)]) == 3


def test_a_dead_node_is_passed_over_and_the_fence_does_not_hold_when_it_is_back_without_it(
    cluster: RedisCluster,
) -> None:
    fence = fence_on(cluster)
    plan = fence.plan()
    fence.refuse(plan)
    replica = next(node for node in cluster.nodes if node not in cluster.masters())

    replica.kill()
    wait_until(lambda: any(member.failed for member in read_members(endpoint_of(cluster))))
    assert fence.holds(plan)
    left = fence.lift(plan)
    assert [member.name for member in left] == [replica.node_id]
    with pytest.raises(Refused):
        fence.plan()
    fence.refuse(plan)

    replica.start()
    wait_until(lambda: not any(member.failed for member in read_members(endpoint_of(cluster))))
    assert fence.breaches(plan) == (f"default on 127.0.0.1:{replica.port}",)
    fence.refuse(plan)
    assert fence.holds(plan)
    assert fence.lift_left(plan, [replica.node_id]) == ()
    assert not refuses(replica)
    assert all(refuses(node) for node in cluster.nodes if node is not replica)


def test_while_a_node_is_there_that_the_plan_does_not_know_the_fence_does_not_hold(
    cluster: RedisCluster, tmp_path: Path
) -> None:
    fence = fence_on(cluster)
    plan = fence.plan()
    program = find_redis_server()
    assert program is not None
    joined = Node(program, tmp_path / "joined", TIMEOUT_MS, (), None)
    try:
        joined("CLUSTER", "MEET", "127.0.0.1", cluster.nodes[0].port, cluster.nodes[0].bus)
        wait_until(lambda: len(read_members(endpoint_of(cluster))) == 7)

        with pytest.raises(Refused):
            fence.refuse(plan)
        assert all(map(refuses, cluster.nodes))
        assert not refuses(joined)
        assert not fence.holds(plan)

        whole = through_the_ledger(fence.extend(plan))
        fence.refuse(whole)
        assert refuses(joined)
        assert fence.holds(whole)
        fence.lift(whole)
        assert not any(map(refuses, [*cluster.nodes, joined]))
    finally:
        joined.kill()
        wait_until(partial(forgotten, cluster, joined), 20.0)


def forgotten(cluster: RedisCluster, gone: Node) -> bool:
    """Have every node forget one, and tell whether all have."""
    for node in cluster.nodes:
        if gone.node_id in as_bytes(node("CLUSTER", "NODES")).decode():
            node("CLUSTER", "FORGET", gone.node_id)
    return len(read_members(endpoint_of(cluster))) == len(cluster.nodes)


def test_applications_are_counted_and_closed_on_every_node(cluster: RedisCluster) -> None:
    endpoint = endpoint_of(cluster)
    identity = endpoint.identify()
    close_applications(endpoint, identity)
    client = application(cluster)
    for number in range(50):
        client.set(f"k:{number}", "1")

    there = applications(endpoint, identity)
    ports = {int(info.entrance) for info in there}

    assert ports >= {node.port for node in cluster.masters()}
    assert close_applications(endpoint, identity) == len(there)
    assert applications(endpoint, identity) == []
    client.close()


def test_the_health_of_a_cluster_is_that_of_its_masters_together(cluster: RedisCluster) -> None:
    endpoint = endpoint_of(cluster)
    close_applications(endpoint, endpoint.identify())
    client = application(cluster)
    commands = 0
    with HealthProbe(endpoint, endpoint.identify(), window_seconds=2.0) as probe:
        probe.sample()
        until = monotonic() + 0.6
        while monotonic() < until:
            client.get(f"k:{commands}")
            commands += 1
        health = probe.sample()
    client.close()

    assert (health.reachable, health.restarts, health.role) == (True, 0, "master")
    assert health.ops_per_second is not None
    assert health.ops_per_second >= 0.8 * commands / 0.7
    assert health.clients is not None
    assert 1 <= health.clients <= 5
    used = [float(node_info(node, "used_memory")) for node in cluster.masters()]
    assert health.used_memory is not None
    assert health.used_memory > max(used) * 1.5


def node_info(node: Node, name: str) -> str:
    """One value of INFO."""
    lines = as_bytes(node("INFO")).decode().splitlines()
    return next(line.partition(":")[2] for line in lines if line.startswith(f"{name}:"))


def test_where_no_access_rules_may_be_changed_on_one_node_none_are_on_any(cluster: RedisCluster) -> None:
    cluster.nodes[4]("ACL", "SETUSER", "mover", "on", ">secret", "~*", "&*", "+@all", "-acl")
    for node in cluster.nodes:
        if node is not cluster.nodes[4]:
            node("ACL", "SETUSER", "mover", "on", ">secret", "~*", "&*", "+@all")
    url = cluster.url.replace("redis+cluster://", "redis+cluster://mover:secret@")
    endpoint = Endpoint.from_settings("source", EndpointSettings(url=SecretStr(url)))
    fence = fence_of(endpoint, endpoint.identify)
    before = rules(cluster.nodes)

    plan = fence.plan()
    fence.refuse(plan)

    assert plan.method == "min-replicas"
    assert {node.plan.method for node in plan.nodes} == {"min-replicas"}
    assert not any(map(takes_a_write, cluster.masters()))
    assert fence.holds(plan)
    fence.lift(plan)
    assert rules(cluster.nodes) == before
    assert len([node for node in cluster.masters() if takes_a_write(node)]) == 3
    for node in cluster.nodes:
        assert as_list(node("CONFIG", "GET", "min-replicas-to-write"))[1] == b"0"
        node("ACL", "DELUSER", "mover")
