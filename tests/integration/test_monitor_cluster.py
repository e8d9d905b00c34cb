"""MONITOR of several Dragonflies as one feed: what any of them shows, and when it is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress

import pytest
from pydantic import SecretStr

from integrity.endpoint import Endpoint
from integrity.errors import ServerError
from integrity.settings import EndpointSettings
from integrity.sync.cluster_feed import ClusterFeed
from integrity.sync.feed import Taken
from integrity.sync.monitor_queue import WidenedQueues
from integrity.sync.opening import open_feed
from integrity.sync.settings import SyncSettings
from tests.cluster import wait_until
from tests.dragonfly_cluster import DragonflyCluster
from tests.raw import as_list

pytestmark = pytest.mark.dragonfly


@pytest.fixture
def cluster() -> Iterator[DragonflyCluster]:
    """Two nodes."""
    with DragonflyCluster() as started:
        yield started


def endpoint(cluster: DragonflyCluster, user: str = "") -> Endpoint:
    url = cluster.url.replace("://", f"://{user}") if user else cluster.url
    return Endpoint.from_settings("source", EndpointSettings(url=SecretStr(url)))


def limits(cluster: DragonflyCluster) -> list[object]:
    return [as_list(node("CONFIG", "GET", "pipeline_queue_limit"))[1] for node in cluster.nodes]


def lost(feed: ClusterFeed) -> Taken:
    """What is taken once the feed has ended."""
    taken: list[Taken] = []

    def is_lost() -> bool:
        with suppress(ServerError):
            feed.backlog()
        taken.append(feed.take())
        return taken[-1].loss is not None

    wait_until(is_lost)
    return taken[-1]


def test_what_is_written_to_either_node_is_named_and_their_queues_are_widened_meanwhile(
    cluster: DragonflyCluster,
) -> None:
    before = limits(cluster)
    queues = WidenedQueues()
    with closing(ClusterFeed.open_monitors(endpoint(cluster), settle_seconds=0.1)) as feed:
        assert queues.widen(endpoint(cluster)).keys() == {
            f"redis://127.0.0.1:{n.port}" for n in cluster.nodes
        }
        assert b"1000000" in limits(cluster)
        names = [b"k:%d" % number for number in range(200)]
        cluster.send([("SET", name, b"v") for name in names])

        assert feed.catch_up(10)
        taken = feed.take()

        assert set(names) <= taken.names.keys()
        assert (taken.everything, taken.loss) == (None, None)
        assert (feed.name, feed.settle_seconds, feed.backlog()) == ("monitor", 0.1, 0)
        cluster.nodes[1]("FLUSHALL")
        assert feed.catch_up(10)
        assert feed.take().everything is not None
    queues.restore(endpoint(cluster))
    assert limits(cluster) == before


def test_slots_that_move_and_a_node_that_dies_end_the_feed(cluster: DragonflyCluster) -> None:
    with closing(ClusterFeed.open_monitors(endpoint(cluster))) as feed:
        cluster.move_slots(0, 10)
        assert not feed.catch_up(10)
        assert lost(feed).loss is not None
    with closing(ClusterFeed.open_monitors(endpoint(cluster))) as feed:
        assert feed.catch_up(10)
        cluster.kill(cluster.nodes[1])
        assert lost(feed).loss is not None
        assert not feed.catch_up(1)


def test_where_a_node_does_not_allow_monitor_everything_is_compared_in_rounds(
    cluster: DragonflyCluster,
) -> None:
    said: list[str] = []
    for number, node in enumerate(cluster.nodes):
        node("ACL", "SETUSER", "mover", "on", ">secret", "~*", "+@all", *(["-monitor"] if number else []))
    mover = endpoint(cluster, "mover:secret@")

    assert open_feed(mover, mover.identify(), SyncSettings(), said.append) is None

    assert len(said) == 1
