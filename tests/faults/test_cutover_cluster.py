"""From a cluster to one server and back under load, while processes and nodes die: nothing is lost, nothing comes back.

One story runs always; ``GREENFLY_TEST_LIVE_DEEP=1`` adds a kill at every step, and nodes that die, join and return.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from pydantic import SecretStr

from greenfly.demo.servers import find_redis_server
from integrity.cluster.members import read_members
from integrity.endpoint import Endpoint
from integrity.settings import EndpointSettings
from tests.cli import dig
from tests.cluster import Node, RedisCluster, wait_until
from tests.conftest import StartDragonfly, StartServer
from tests.faults.conductor_process import Ended, Order
from tests.faults.killed_conductor import kill
from tests.faults.moved_application import kill_server, settle
from tests.faults.moved_cluster import MovedCluster, application, moved_cluster
from tests.faults.test_live_kills import CUTOVER, ROLLBACK, Kind, is_stopped, number_of, points
from tests.live import deep

UNDONE: Final = 8
LONG: Final = 60.0
"""A lease that nobody takes over."""


@pytest.fixture
def app(start_redis: StartServer, tmp_path: Path) -> Iterator[MovedCluster]:
    """An application on a cluster with replicas."""
    with (
        RedisCluster(tmp_path / "cluster", replicas=True) as cluster,
        moved_cluster(tmp_path, cluster, start_redis()) as moved,
    ):
        yield moved


def disturbed(app: MovedCluster, call: str, disturb: Callable[[], None]) -> Ended:
    """A cutover that something happens to while it stands still at a record."""
    order = Order("cutover", kill_at=number_of("cutover", call), how="SIGSTOP", lease_seconds=LONG)
    pid = app.conductor.begin(order)
    app.live.wait_until(partial(is_stopped, pid), "it stands still")
    disturb()
    os.kill(pid, signal.SIGCONT)
    return app.conductor.end()


def assert_undone(app: MovedCluster, ended: Ended, step: str) -> None:
    """The cutover was, at that step, and the application is on all masters of the cluster."""
    assert (ended.returncode, ended.error) == (UNDONE, "Undone"), app.what_was_said()
    assert app.live.steps("cutover")[step] in {"failed", "undone"}, app.what_was_said()
    assert app.says() == "blue"
    app.assert_legal()


@pytest.mark.dragonfly
def test_a_cluster_is_cut_over_and_back_under_load_although_conductors_are_killed(
    start_dragonfly: StartDragonfly, tmp_path: Path
) -> None:
    with (
        RedisCluster(tmp_path / "cluster", replicas=True) as cluster,
        moved_cluster(tmp_path, cluster, start_dragonfly()) as app,
    ):
        kill(app, "cutover", "refuse done before")
        app.move("green")
        kill(app, "rollback", "open done before")
        app.assert_nothing_lost()
        app.assert_rights_are_back()


@deep
def test_a_kill_at_every_step_is_ended_by_the_sync_process(app: MovedCluster) -> None:
    left: dict[Kind, list[str]] = {
        "cutover": [call for _, call in points(CUTOVER, (1, 2))],
        "rollback": [call for _, call in points(ROLLBACK, (1, 2))],
    }
    app.move("green")
    app.move("blue")
    while any(left.values()):
        kind: Kind = "cutover" if app.says() == "blue" else "rollback"
        if left[kind]:
            kill(app, kind, left[kind].pop(0))
        else:
            app.move("green" if kind == "cutover" else "blue")
    app.move("green")
    app.move("blue")
    app.assert_nothing_lost()
    app.assert_rights_are_back()


# -- nodes that die, come back, and join ---------------------------------------------------------------------------


@deep
def test_a_master_that_dies_while_the_fence_stands_leaves_a_replica_that_refuses_and_a_way_back(
    app: MovedCluster,
) -> None:
    app.move("green")
    dead = app.cluster.nodes[0]
    app.cluster.fail_over(dead)
    app.assert_legal()
    app.wait_until_proven_again()
    app.move("blue")
    (left,) = app.live.events("fence.left")
    assert left["names"] == [dead.node_id]
    dead.start()
    app.live.wait_until(lambda: bool(app.live.events("fence.lifted")), "the dead node is looked at")
    app.assert_nothing_lost()
    app.assert_rights_are_back()


@deep
@pytest.mark.parametrize("call", ["pause done after", "refuse done after"])
def test_a_master_that_fails_over_before_everything_is_proven_undoes_the_cutover(
    app: MovedCluster, call: str
) -> None:
    dead = app.cluster.nodes[1]

    ended = disturbed(app, call, partial(app.cluster.fail_over, dead))

    assert_undone(app, ended, "drain" if call.startswith("pause") else "prove")
    dead.start()
    app.cluster.wait_until_whole()
    app.live.wait_until_clean()
    app.move("green")
    app.move("blue")
    app.assert_nothing_lost()
    app.assert_rights_are_back()


@deep
def test_a_replica_that_takes_over_right_before_the_switch_refuses_and_the_cutover_goes_through(
    app: MovedCluster,
) -> None:
    replica = app.cluster.nodes[3]

    def hand_over() -> None:
        replica("CLUSTER", "FAILOVER")
        wait_until(lambda: replica in app.cluster.masters() and len(app.cluster.masters()) == 3)
        app.cluster.wait_until_whole()

    ended = disturbed(app, "open done after", hand_over)

    assert ended.returncode == 0, app.what_was_said()
    app.moves += 1
    app.assert_legal()
    app.wait_until_proven_again()
    app.move("blue")
    app.assert_nothing_lost()
    app.assert_rights_are_back()


@deep
def test_a_node_that_comes_back_without_its_fence_undoes_the_cutover_before_the_switch(
    app: MovedCluster,
) -> None:
    replica = app.cluster.nodes[4]

    def restart() -> None:
        replica.kill()
        replica.start()

    ended = disturbed(app, "open done after", restart)

    assert_undone(app, ended, "switch")
    assert f"default on 127.0.0.1:{replica.port}" in app.conductor.log()
    app.assert_nothing_lost()


@deep
@pytest.mark.parametrize("call", ["pause done after", "open done after"])
def test_a_node_that_joins_during_a_cutover_undoes_it(app: MovedCluster, tmp_path: Path, call: str) -> None:
    joined = new_node(tmp_path)
    try:
        ended = disturbed(app, call, partial(join, app.cluster, joined))

        assert_undone(app, ended, "refuse" if call.startswith("pause") else "switch")
        assert f"127.0.0.1:{joined.port}" in app.conductor.log()
        app.assert_nothing_lost()
    finally:
        joined.kill()


@deep
def test_a_node_that_joins_while_green_serves_is_fenced_as_well_and_opened_with_the_others(
    app: MovedCluster, tmp_path: Path
) -> None:
    app.move("green")
    joined = new_node(tmp_path)
    rights = joined("ACL", "LIST")
    try:
        join(app.cluster, joined)
        app.live.wait_until(lambda: bool(app.live.events("fence.extended")), "it is fenced")
        app.live.wait_until(lambda: bool(app.live.events("fence.renewed")), "it is fenced")
        assert joined("ACL", "LIST") != rights
        app.move("blue")
        assert joined("ACL", "LIST") == rights
        app.assert_nothing_lost()
        app.assert_rights_are_back()
    finally:
        joined.kill()


@deep
def test_while_slots_move_no_cutover_is_begun(app: MovedCluster) -> None:
    onto = app.cluster.nodes[1]
    app.cluster.begin_to_move(7, onto)

    done = app.live.run("cutover", "--yes", "--json")

    assert done.code == 4, done.err
    app.assert_legal()
    app.assert_nothing_lost()


def new_node(folder: Path) -> Node:
    """One that is in no cluster yet."""
    program = find_redis_server()
    assert program is not None
    return Node(program, folder / "joined", 1500, (), None)


def join(cluster: RedisCluster, joined: Node) -> None:
    """Have it join, and wait until it has."""
    joined("CLUSTER", "MEET", "127.0.0.1", cluster.nodes[0].port, cluster.nodes[0].bus)
    wait_until(lambda: len(read_members(endpoint_of(cluster))) == len(cluster.nodes) + 1)


def endpoint_of(cluster: RedisCluster) -> Endpoint:
    """The cluster as Greenfly is given it."""
    return Endpoint.from_settings("source", EndpointSettings(url=SecretStr(cluster.url)))


@deep
def test_a_green_that_is_dead_is_abandoned_and_every_master_takes_writes_again(app: MovedCluster) -> None:
    app.move("green")
    looked = app.live.run("watch", "latest", "--once", "--json")
    assert dig(looked.json(), "fence_holds") is True, looked.out + looked.err
    app.load.stop()
    settle(0.5)
    kill_server(app.green)

    done = app.live.run("rollback", "--abandon-green", "--yes", "--json")

    assert done.code == 3, done.err
    assert app.says() == "blue"
    assert len(app.takes_a_write()) == 3
    client = application(app.cluster)
    missing = {text.partition(" ")[0] for text in app.load.wrong(client)}
    client.close()
    rows = app.live.rows("SELECT key FROM finding WHERE finding_class = 'at-risk'")
    assert missing <= {key.decode() for (key,) in rows if isinstance(key, bytes)}
    app.assert_rights_are_back()
