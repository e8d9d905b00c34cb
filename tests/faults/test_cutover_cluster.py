"""From a cluster to one server and back under load, while processes and nodes die: nothing is lost, nothing comes back.

The quick ones run always; ``GREENFLY_TEST_LIVE_DEEP=1`` adds a kill at every step and the other failovers.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster import RedisCluster
from tests.conftest import StartDragonfly
from tests.faults.moved_cluster import moved_cluster


@pytest.mark.dragonfly
def test_a_cluster_is_cut_over_and_back_under_load_without_a_loss(
    start_dragonfly: StartDragonfly, tmp_path: Path
) -> None:
    with (
        RedisCluster(tmp_path / "cluster", replicas=True) as cluster,
        moved_cluster(tmp_path, cluster, start_dragonfly()) as app,
    ):
        for _ in range(2):
            app.move("green")
            app.move("blue")
        app.assert_nothing_lost()
        app.assert_rights_are_back()
