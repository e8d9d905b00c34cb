"""The pipeline as a team runs it: served flows on a real Prefect server, a clock, events and approvals.

One Prefect server, one ``greenfly serve`` and one live move for all tests here: each takes seconds to start.
"""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Final
from uuid import uuid4

import pytest

from greenfly.demo.dataset import fill
from greenfly.demo.process import end_process
from greenfly.demo.servers import find_redis_server, start_redis
from tests.cli import UNASSESSED
from tests.live import Live
from tests.prefect_server import PrefectServer, prefect_server, wait_for
from tests.servers import connect

pytestmark = pytest.mark.orchestrator

SETTINGS: Final = """
[cutover]
confirm = "environment"
canary_key = ""
approvals = 1
[scratch]
url = "{scratch}"
[flows]
poll_seconds = 0.5
[flows.schedules]
rehearse = "* * * * * */10"
"""
BACK_WITHIN: Final = 20.0
"""The bar: from the event to the environment that says blue, in seconds."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as the ledger's file holds it."""

    id: str
    state: str
    verdict: str
    flow_run: str
    target: str


@dataclass(frozen=True, slots=True)
class World:
    """Everything that runs."""

    prefect: PrefectServer
    live: Live
    scratch_url: str
    serve_log: Path

    serve: subprocess.Popen[bytes]
    operator: str

    def runs(self, kind: str) -> list[RunRow]:
        """The runs of a kind, oldest first."""
        rows = self.live.rows(
            "SELECT id, state, verdict, flow_run_id, target_address FROM run WHERE kind = ? "
            "ORDER BY started_at",
            kind,
        )
        return [RunRow(*map(_text, row)) for row in rows]

    def ended(self, kind: str) -> list[RunRow]:
        """Those that are not running."""
        return [run for run in self.runs(kind) if run.state != "running"]

    def decisions(self) -> list[tuple[object, ...]]:
        """Decision and who made it, oldest first."""
        return self.live.rows('SELECT decision, "by" FROM approval ORDER BY id')

    def pauses(self, flow_run_id: str) -> int:
        """How often a flow run was paused."""
        states = self.prefect.states(flow_run_id)
        return sum(state == "PAUSED" for state in states)

    def says_blue(self) -> bool:
        """What applications read."""
        return "DRAGONFLY_URL" not in self.live.environment()

    def require_served(self) -> None:
        """Fails at once where the process that serves has ended."""
        assert self.serve.poll() is None, self.log()

    def log(self) -> str:
        return self.serve_log.read_text("utf-8", "replace")[-4000:]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    program = find_redis_server()
    if program is None:
        pytest.skip("no redis-server on PATH")
    folder = tmp_path_factory.mktemp("scheduled")
    with ExitStack() as stack:
        blue, green, scratch = (stack.enter_context(start_redis(program)) for _ in range(3))
        fill(blue.url, 1_000, seed=11)
        live = stack.enter_context(
            Live(folder / "live", blue.url, green.url, SETTINGS.format(scratch=scratch.url))
        )
        live.sync()
        server = stack.enter_context(prefect_server(folder / "prefect"))
        log = folder / "serve.err"
        with log.open("wb") as output:
            serve = subprocess.Popen(
                [sys.executable, "-m", "greenfly", "serve"],
                cwd=live.folder,
                env={**os.environ, **UNASSESSED, **server.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        stack.callback(end_process, serve)
        yield World(server, live, scratch.url, log, serve, getpass.getuser())
        assert serve.poll() is None, "it serves to the end"


def test_a_scheduled_rehearsal_runs_by_itself_and_compares_with_the_one_before(world: World) -> None:
    def rehearsed(count: int) -> bool:
        world.require_served()
        return len(world.live.events("rehearsal.compared")) >= count

    wait_for(lambda: rehearsed(1), "a rehearsal", 120)
    blue = connect(world.live.blue_url)
    blue.mset({f"late:{number}": "x" for number in range(50)})
    wait_for(lambda: rehearsed(2), "a second rehearsal", 120)
    # On a busy machine one may still fill the scratch server when the next is due, which is refused.
    first, second = [run for run in world.runs("migrate") if run.state == "finished"][:2]
    assert (first.verdict, second.verdict) == ("PASS", "PASS")
    assert first.target == second.target == world.scratch_url
    told = world.live.events("rehearsal.compared")
    assert (told[0]["run"], told[0]["previous"], told[0]["changes"]) == (first.id, None, [])
    assert (told[1]["run"], told[1]["previous"]) == (second.id, first.id)
    assert {"what": "keys", "before": "1,000", "after": "1,050 (+5%)", "notable": False} in as_list(
        told[1]["changes"]
    )
    wait_for(lambda: world.prefect.state(second.flow_run) == "COMPLETED", "the flow run is completed", 30)
    world.prefect.pause_deployment("greenfly-rehearse")
    # Both ways of the link: the ledger names the flow run, whose tags and artifacts name the ledger's run.
    (flow_run,) = (
        run for run in world.prefect.flow_runs("greenfly-rehearse") if run["id"] == second.flow_run
    )
    assert {second.id, "pass", "auto-scheduled"} <= set(map(str, as_list(flow_run["tags"])))
    artifacts = world.prefect.artifacts(second.flow_run)
    assert second.id in str(artifacts["greenfly-verdict"]["data"])
    assert first.id in str(artifacts["greenfly-rehearsal"]["data"])
    assert artifacts.keys() >= {"greenfly-report", "greenfly-rehearsal-changes"}
    assert "redis://" not in json.dumps(flow_run["parameters"])
    # The report tells it too, and the scratch server is empty again.
    report = json.loads((world.live.state / "reports" / second.id / "report.json").read_text())
    assert first.id in json.dumps(report)
    assert connect(world.scratch_url).dbsize() == 0


def test_a_cutover_waits_for_an_approval_which_prefect_or_the_ledger_may_give(world: World) -> None:
    world.live.wait_until_clean()
    flow_run = world.prefect.run_deployment("greenfly-cutover", {"run": "latest"})
    wait_for(lambda: world.prefect.state(flow_run) == "PAUSED", "it waits for an approval", 60)
    assert world.decisions() == [("requested", world.operator)]
    # Whoever asked cannot approve; it is asked again.
    world.prefect.post(
        f"/flow_runs/{flow_run}/resume", {"run_input": {"answer": "approve", "by": world.operator}}
    )
    wait_for(lambda: world.pauses(flow_run) == 2, "it waits once more", 30)
    assert world.prefect.state(flow_run) == "PAUSED"
    assert world.decisions() == [("requested", world.operator)]
    assert world.says_blue()
    # The ledger answers, and the pause ends by itself.
    assert world.live.run("approve", "latest", "--as", "somebody else").code == 0
    wait_for(lambda: world.prefect.state(flow_run) == "COMPLETED", "it went on", 60)
    assert not world.says_blue()
    cutover = world.runs("cutover")[-1]
    assert (cutover.state, cutover.verdict, cutover.flow_run) == ("finished", "PASS", flow_run)


def test_an_event_brings_the_applications_back_to_blue(world: World) -> None:
    """Needs the cutover of the test above."""
    assert not world.says_blue(), "the applications are on green"
    connect(world.live.green_url).set("written:on:green", "kept")
    sync_run = world.runs("sync")[-1].id
    before = monotonic()
    world.prefect.post(
        "/events",
        [
            {
                "id": str(uuid4()),
                "event": "greenfly.rollback.requested",
                "occurred": datetime.now(UTC).isoformat(),
                "resource": {"prefect.resource.id": f"greenfly.run.{sync_run}"},
                "payload": {"run": sync_run, "reason": "the shop's cart is slow"},
            }
        ],
    )
    wait_for(world.says_blue, "the environment says blue", 60)
    took = monotonic() - before
    print(f"from the event to blue: {took:.1f} s")
    wait_for(lambda: len(world.ended("rollback")) == 1, "the rollback has ended", 30)
    assert took < BACK_WITHIN
    assert connect(world.live.blue_url).get("written:on:green") == b"kept"
    rollback = world.runs("rollback")[-1]
    (triggered,) = world.live.events("rollback.triggered")
    assert (triggered["origin"], triggered["reason"]) == ("event", "the shop's cart is slow")
    assert triggered["flow_run"] == rollback.flow_run != ""
    (requested,) = world.live.events("rollback.requested")
    assert requested["reason"] == "the shop's cart is slow"
    assert rollback.verdict == "PASS"


def test_a_second_event_finds_the_applications_on_blue_and_says_so(world: World) -> None:
    """Needs the rollback of the test above."""
    flow_run = world.prefect.run_deployment("greenfly-rollback", {"run": "latest", "reason": "again"})
    wait_for(lambda: world.prefect.state(flow_run) in {"COMPLETED", "FAILED"}, "it has ended", 60)
    assert world.prefect.state(flow_run) == "COMPLETED"
    (idle,) = world.live.events("rollback.not-needed")
    assert idle["flow_run"] == flow_run
    assert len(world.runs("rollback")) == 1


def _text(value: object) -> str:
    return "" if value is None else str(value)


def as_list(value: object) -> list[object]:
    """A JSON list."""
    assert isinstance(value, list), value
    return value
