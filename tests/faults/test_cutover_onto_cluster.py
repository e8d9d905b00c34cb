"""From a server or a cluster to a cluster and back under load, although conductors are killed: nothing is lost.

One story runs always; ``GREENFLY_TEST_LIVE_DEEP=1`` adds a Redis Cluster as either side, and what happens to green's
nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.cli import dig
from tests.cluster import RedisCluster, fill_server
from tests.dragonfly_cluster import Dragonfly, DragonflyCluster
from tests.faults.killed_conductor import kill
from tests.faults.moved_application import settle
from tests.faults.moved_cluster import Ground, ManyNodes, Moved, OneServer, Side, moved, takes_a_write
from tests.faults.test_live_kills import Kind
from tests.integration.test_cutover_gates import gate
from tests.live import deep
from tests.raw import as_bytes
from tests.servers import Store

KEYS: Final = 300
KILLS: Final[tuple[tuple[Kind, str], ...]] = (
    ("cutover", "refuse done before"),
    ("cutover", "switch done before"),
    ("rollback", "refuse done before"),
    ("rollback", "open done before"),
)


def written_to_green(app: Moved) -> int:
    """How many writes green has acknowledged."""
    return sum(ack.side == "green" for ack in list(app.load.acknowledged))


@contextmanager
def onto_dragonflies(folder: Path, blue: Store) -> Iterator[tuple[Moved, DragonflyCluster]]:
    """An application on one server, which two Dragonflies follow."""
    fill_server(blue.url, KEYS)
    with DragonflyCluster() as green:
        sides: dict[Side, Ground] = {"blue": OneServer(blue), "green": ManyNodes(green)}
        with moved(folder, (blue.url, green.url), sides) as app:
            yield app, green


@pytest.mark.dragonfly
def test_a_server_is_cut_over_to_two_dragonflies_and_back_under_load(blue: Store, tmp_path: Path) -> None:
    with onto_dragonflies(tmp_path, blue) as (app, green):
        app.move("green")
        assert app.live.environment()["DRAGONFLY_URL"] == f"redis://127.0.0.1:{green.nodes[0].port}"
        board = app.live.board()
        assert board is not None
        assert board["feed"] == "monitor"
        app.live.wait_until(lambda: written_to_green(app) > 100, "green is written to")
        app.move("blue")
        app.assert_nothing_lost()
        assert_one_full_node_closes_the_gate(app, green.nodes[1])


def assert_one_full_node_closes_the_gate(app: Moved, node: Dragonfly) -> None:
    """The others have room enough."""
    info = as_bytes(node("INFO", "memory")).decode().splitlines()
    used = next(int(line.partition(":")[2]) for line in info if line.startswith("used_memory:"))
    node("CONFIG", "SET", "maxmemory", used + used // 20)
    shown = gate(app.live.run("cutover", "--dry-run", "--json").json(), "headroom")
    assert shown["passed"] is False
    assert str(node.port) in str(shown["text"])


@deep
@pytest.mark.dragonfly
def test_a_cluster_is_cut_over_to_two_dragonflies_and_back_although_conductors_are_killed(
    tmp_path: Path,
) -> None:
    with RedisCluster(tmp_path / "blue") as blue, DragonflyCluster() as green:
        blue.fill(KEYS)
        sides: dict[Side, Ground] = {"blue": ManyNodes(blue), "green": ManyNodes(green)}
        with moved(tmp_path, (blue.url, green.url), sides) as app:
            killed_in_both(app)


@deep
@pytest.mark.dragonfly
def test_a_server_is_cut_over_to_two_dragonflies_and_back_although_conductors_are_killed(
    blue: Store, tmp_path: Path
) -> None:
    with onto_dragonflies(tmp_path, blue) as (app, _):
        killed_in_both(app)


@deep
def test_a_server_is_cut_over_to_a_redis_cluster_and_back_although_conductors_are_killed(
    blue: Store, tmp_path: Path
) -> None:
    fill_server(blue.url, KEYS)
    with RedisCluster(tmp_path / "green", replicas=True) as green:
        sides: dict[Side, Ground] = {"blue": OneServer(blue), "green": ManyNodes(green)}
        with moved(tmp_path, (blue.url, green.url), sides) as app:
            killed_in_both(app)


def killed_in_both(app: Moved) -> None:
    """Cutovers and rollbacks in turn; in each of them one conductor that is undone, and one that is gone on for."""
    for kind, call in KILLS:
        kill(app, kind, call)
    app.move("green")
    app.live.wait_until(lambda: written_to_green(app) > 100, "green is written to")
    app.move("blue")
    app.assert_nothing_lost()


@deep
@pytest.mark.dragonfly
def test_two_dragonflies_are_cut_over_to_one_server_and_back_although_conductors_are_killed(
    green_redis: Store, tmp_path: Path
) -> None:
    with DragonflyCluster() as blue:
        blue.fill(KEYS)
        sides: dict[Side, Ground] = {"blue": ManyNodes(blue), "green": OneServer(green_redis)}
        with moved(tmp_path, (blue.url, green_redis.url), sides) as app:
            killed_in_both(app)


# -- what happens to green's nodes while it serves ------------------------------------------------------------------


@deep
@pytest.mark.dragonfly
def test_slots_that_move_while_green_serves_are_a_gap_and_are_carried_back_once_that_is_closed(
    blue: Store, tmp_path: Path
) -> None:
    with onto_dragonflies(tmp_path, blue) as (app, green):
        app.move("green")
        green.move_slots(0, 400)
        app.live.wait_until(lambda: bool(app.live.events("sync.gap")), "it is noticed")
        settle(2.0)  # The feed looks once a second, and may lose itself after another had noticed.
        app.wait_until_proven_again()
        app.assert_legal()
        app.move("blue")
        app.assert_nothing_lost()


@deep
def test_a_replica_that_takes_over_in_a_green_redis_cluster_is_a_gap_and_leaves_a_way_back(
    blue: Store, tmp_path: Path
) -> None:
    fill_server(blue.url, KEYS)
    with RedisCluster(tmp_path / "green", replicas=True) as green:
        sides: dict[Side, Ground] = {"blue": OneServer(blue), "green": ManyNodes(green)}
        with moved(tmp_path, (blue.url, green.url), sides) as app:
            app.move("green")
            green.nodes[3]("CLUSTER", "FAILOVER")
            app.live.wait_until(lambda: bool(app.live.events("sync.gap")), "it is noticed")
            app.wait_until_proven_again()
            app.move("blue")
            app.assert_nothing_lost()


@deep
@pytest.mark.dragonfly
def test_a_node_of_green_that_comes_back_empty_empties_nothing_on_blue(blue: Store, tmp_path: Path) -> None:
    with onto_dragonflies(tmp_path, blue) as (app, green):
        app.move("green")
        app.load.stop()
        app.live.wait_until_drained()
        before = set(blue.client.scan_iter(count=1000))
        dead = green.nodes[1]
        green.kill(dead)
        green.replace(dead)

        assert app.sync.wait(60) == 4, app.what_was_said()

        assert set(blue.client.scan_iter(count=1000)) == before
        assert len(before) > KEYS


@deep
@pytest.mark.dragonfly
def test_of_a_green_that_is_given_up_because_a_node_is_dead_the_others_refuse_writes(
    blue: Store, tmp_path: Path
) -> None:
    with onto_dragonflies(tmp_path, blue) as (app, green):
        app.move("green")
        looked = app.live.run("watch", "latest", "--once", "--json")
        assert dig(looked.json(), "fence_holds") is True, looked.out + looked.err
        app.load.stop()
        settle(0.5)
        green.kill(green.nodes[1])

        done = app.live.run("rollback", "--abandon-green", "--yes", "--json")

        assert done.code == 3, done.err
        assert app.says() == "blue"
        assert app.sides["blue"].closed_and_open() == (0, 1)
        assert not takes_a_write(green.nodes[0])
        client = app.sides["blue"].client()
        missing = {text.partition(" ")[0] for text in app.load.wrong(client)}
        client.close()
        rows = app.live.rows("SELECT key FROM finding WHERE finding_class = 'at-risk'")
        assert missing <= {key.decode() for (key,) in rows if isinstance(key, bytes)}
