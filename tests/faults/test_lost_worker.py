"""Workers of a Dask cluster are killed in the middle: others take their ranges over, and nothing is missing."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from time import monotonic, sleep
from typing import Final

import pytest

from tests.cli import Greenfly, dig
from tests.dask_cluster import DaskCluster, dask_cluster
from tests.faults.midway import ended, events
from tests.faults.test_workers import make_keys
from tests.oracle import compare
from tests.prefect_server import PrefectServer, prefect_server
from tests.runs import detail
from tests.servers import Store

pytest.importorskip("prefect_dask", reason="prefect-dask is not installed (the extra greenfly[dask])")
pytestmark = pytest.mark.orchestrator

KEYS: Final = 45_000
"""Two ranges of a copy."""
WORKERS: Final = 3
SETTINGS: Final = """
workers = 2
lease_seconds = 2
state_dir = "{state}"
[source]
url = "{source}"
[target]
url = "{target}"
[snapshot]
enabled = false
[throttle]
enabled = false
keys_per_second = 15000
[flows]
runner = "dask"
dask_scheduler = "{scheduler}"
"""


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    with prefect_server(tmp_path_factory.mktemp("prefect")) as server:
        yield server


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    with ExitStack() as stack:
        yield stack.enter_context(dask_cluster(tmp_path_factory.mktemp("dask"), WORKERS, {}))


def kill_a_holder(greenfly: Greenfly, kind: str, keys: int) -> int:
    """Kill the first worker that has done so many keys of a range; its process id."""
    deadline = monotonic() + 90
    query = "SELECT worker FROM range_lease WHERE kind = ? AND state = 'held' AND keys >= ?"
    path = greenfly.state_dir / "ledger.sqlite3"
    while monotonic() < deadline:
        if path.exists():
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as ledger:
                try:
                    row = ledger.execute(query, (kind, keys)).fetchone()
                except sqlite3.OperationalError:
                    row = None
            if row is not None:
                pid = int(row[0].split(":")[1])
                os.kill(pid, signal.SIGKILL)
                return pid
        sleep(0.02)
    raise AssertionError(f"no worker was met in the middle of a {kind}")


def test_killed_workers_lose_nothing_and_their_ranges_are_taken_over(
    blue: Store, green_redis: Store, greenfly: Greenfly, cluster: DaskCluster, prefect: PrefectServer
) -> None:
    make_keys(blue, KEYS)
    text = SETTINGS.format(
        state=greenfly.state_dir, source=blue.url, target=green_redis.url, scheduler=cluster.scheduler
    )
    cluster.config.write_text(text)
    environment = {"GREENFLY_CONFIG": str(cluster.config), **prefect.environment}
    process = greenfly.start("flow", "migrate", "--json", env=environment)

    killed = {kill_a_holder(greenfly, "copy", 2_000), kill_a_holder(greenfly, "compare", 2_000)}
    run = ended(process)

    assert killed < {worker.pid for worker in cluster.workers}
    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert events(greenfly, str(run.at("run")), "worker.lost") == 2
    assert detail(run, "stream", "written") == KEYS
    assert (detail(run, "verify", "compared"), detail(run, "verify", "equal")) == (KEYS, KEYS)
    assert compare(blue.url, green_redis.url) == []
    # Each range is a task on Prefect's page, in a flow run of its phase; what it was told holds no address.
    flow_runs = prefect.flow_runs("greenfly-ranges")
    assert [dig(one, "parameters", "phase") for one in flow_runs] == ["stream", "verify"]
    tasks = prefect.rows(
        "/task_runs/filter", {"flow_runs": {"id": {"any_": [one["id"] for one in flow_runs]}}, "limit": 50}
    )
    assert len(tasks) >= 2 + 4
    assert "redis://" not in str(tasks) + str(flow_runs)
