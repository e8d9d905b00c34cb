"""The migrate flow through a real Prefect server on loopback."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from greenfly.demo.dataset import fill
from tests.cli import Greenfly
from tests.conftest import StartServer
from tests.oracle import compare
from tests.servers import Store

pytestmark = pytest.mark.orchestrator

PASSWORD = "orchestrated-secret"


def test_the_flow_does_the_same_job(blue: Store, green: Store, greenfly: Greenfly) -> None:
    fill(blue.url, 2_000, seed=5)
    run = greenfly("flow", "migrate", "--source", blue.url, "--target", green.url, "--json", timeout=240)
    assert run.exit_code == 0, run.stderr
    assert run.at("verdict") == "PASS"
    assert compare(blue.url, green.url) == []
    with closing(sqlite3.connect(greenfly.state_dir / "ledger.sqlite3")) as ledger:
        (flow_run_id,) = ledger.execute("SELECT flow_run_id FROM run").fetchone()
    assert flow_run_id, "the ledger names the flow run"
    names = [phase["name"] for phase in _phases(run.json())]
    assert names == ["check", "snapshot", "stream", "verify"]


def test_a_refused_flow_ends_with_the_code_of_its_cause_and_leaks_no_password(
    start_redis: StartServer, green_redis: Store, greenfly: Greenfly
) -> None:
    blue = start_redis(password=PASSWORD)
    assert PASSWORD in blue.url
    green_redis.client.set("in the way", 1)
    prefect = greenfly.state_dir / "prefect"
    prefect.mkdir(parents=True)
    run = greenfly(
        *("flow", "migrate", "--source", blue.url, "--target", green_redis.url, "--json"),
        env={"PREFECT_HOME": str(prefect)},
        timeout=240,
    )
    assert run.exit_code == 4, run.stderr
    assert run.at("error", "kind") == "Refused"
    assert PASSWORD not in run.stdout + run.stderr
    # The state folder holds the ledger, the report, and Prefect's own database and log.
    files = [path for path in greenfly.state_dir.rglob("*") if path.is_file()]
    assert any(path.is_relative_to(prefect) for path in files)
    for path in files:
        assert PASSWORD.encode() not in path.read_bytes(), path


def _phases(outcome: dict[str, object]) -> list[dict[str, object]]:
    phases = outcome["phases"]
    assert isinstance(phases, list)
    return phases
