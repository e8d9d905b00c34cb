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
from pathlib import Path
from time import monotonic
from typing import Final

import pytest

from flows import sequence
from greenfly.demo.process import end_process
from greenfly.demo.servers import find_redis_server, start_redis
from integrity.progress import Silent
from integrity.settings import load_settings
from tests.cli import UNASSESSED
from tests.live import Live
from tests.prefect_server import PrefectServer, prefect_server, wait_for
from tests.servers import connect

pytestmark = pytest.mark.orchestrator

SETTINGS: Final = """
[cutover]
confirm = "environment"
canary_key = ""
approvals = 2
[scratch]
url = "{scratch}"
[watch]
rollback_after_seconds = 0
[watch.rules.latency_p99]
limit = 0
for_seconds = 0
[flows]
poll_seconds = 0.5
[flows.schedules]
rehearse = "* * * * * */20"
"""
BACK_WITHIN: Final = 20.0
"""The bar: from the event to the environment that says blue, in seconds."""
QUIET_START: Final = 2.0
"""How long a Python process with Prefect takes to start at most where the machine is not busy, in seconds."""
PATIENCE: Final = 240.0
"""How long anything may take on a machine that is very busy, in seconds."""


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
        connect(blue.url).mset({f"key:{number}": "x" for number in range(1_000)})
        live = stack.enter_context(
            Live(folder / "live", blue.url, green.url, SETTINGS.format(scratch=scratch.url))
        )
        live.sync()
        settings = load_settings(config_file=live.folder / "greenfly.toml", environ=UNASSESSED).settings
        sequence.rehearse(settings, Silent())
        connect(blue.url).mset({f"late:{number}": "x" for number in range(50)})
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
        wait_for(
            lambda: serve.poll() is not None or server.has_deployment("greenfly-maintain"),
            "all flows are deployed",
            PATIENCE,
        )
        yield World(server, live, scratch.url, log, serve, getpass.getuser())
        assert serve.poll() is None, "it serves to the end"


def test_a_scheduled_rehearsal_runs_by_itself_and_compares_with_the_one_before(world: World) -> None:
    upkeep = world.prefect.run_deployment("greenfly-maintain", {"try_backup": False})

    def rehearsed() -> bool:
        world.require_served()
        return len(world.live.events("rehearsal.compared")) >= 2

    wait_for(rehearsed, "a rehearsal by the clock", PATIENCE)
    world.prefect.pause_deployment("greenfly-rehearse")
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
    wait_for(
        lambda: world.prefect.state(second.flow_run) == "COMPLETED", "the flow run is completed", PATIENCE
    )
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
    # The report tells it too, and the scratch server was emptied.
    report = json.loads((world.live.state / "reports" / second.id / "report.json").read_text())
    assert first.id in json.dumps(report)
    assert [emptied["removed"] for emptied in world.live.events("scratch.emptied")[:2]] == [1_000, 1_050]
    # Meanwhile upkeep was done, and its record is intact.
    wait_for(lambda: world.prefect.state(upkeep) == "COMPLETED", "upkeep has ended", PATIENCE)
    (checked,) = world.live.events("upkeep.record-checked")
    assert checked["intact"] is True


def test_a_cutover_waits_for_an_approval_which_prefect_or_the_ledger_may_give(world: World) -> None:
    world.live.wait_until_clean(PATIENCE)
    flow_run = world.prefect.run_deployment("greenfly-cutover", {"run": "latest"})
    wait_for(lambda: world.prefect.state(flow_run) == "PAUSED", "it waits for an approval", PATIENCE)
    assert world.decisions() == [("requested", world.operator)]
    # Whoever asked cannot approve; it is asked again.
    world.prefect.resume(flow_run, {"answer": "approve", "by": world.operator})
    wait_for(lambda: world.pauses(flow_run) == 2, "it waits once more", PATIENCE)
    assert world.prefect.state(flow_run) == "PAUSED"
    assert world.decisions() == [("requested", world.operator)]
    assert world.says_blue()
    # Somebody else answers on the page, and the ledger has it.
    world.prefect.resume(flow_run, {"answer": "approve", "by": "ada", "comment": "go"})
    wait_for(lambda: world.pauses(flow_run) == 3, "it waits for the second approval", PATIENCE)
    assert world.decisions() == [("requested", world.operator), ("approved", "ada")]
    # The ledger answers, and the pause ends by itself.
    assert world.live.run("approve", "latest", "--as", "somebody else").code == 0
    wait_for(lambda: world.prefect.state(flow_run) == "COMPLETED", "it went on", PATIENCE)
    assert not world.says_blue()
    cutover = world.runs("cutover")[-1]
    assert (cutover.state, cutover.verdict, cutover.flow_run) == ("finished", "PASS", flow_run)


def test_an_event_brings_the_applications_back_to_blue_and_a_second_one_changes_nothing(
    world: World,
) -> None:
    """Needs the cutover of the test above."""
    assert not world.says_blue(), "the applications are on green"
    connect(world.live.green_url).set("written:on:green", "kept")
    guard = world.prefect.run_deployment("greenfly-watch", {"seconds": 300})
    # No server answers in no time, so that this rule is breached at once; the policy is to tell, not to go back.
    wait_for(lambda: bool(world.prefect.events("greenfly.guard.breached")), "a breach is told", PATIENCE)
    (breach,) = world.prefect.events("greenfly.guard.breached")
    assert {"greenfly.rollback": "not-wanted", "greenfly.rule": "latency_p99"}.items() <= as_dict(
        breach["resource"]
    ).items()
    assert as_dict(breach["payload"])["watch_run"] == world.runs("watch")[-1].id
    assert world.prefect.flow_runs("greenfly-rollback") == []
    sync_run = world.runs("sync")[-1].id

    def ask(reason: str) -> None:
        payload = {"run": sync_run, "reason": reason}
        resource = {"prefect.resource.id": f"greenfly.run.{sync_run}"}
        world.prefect.emit("greenfly.rollback.requested", resource, payload)

    # Nearly all of the time is one such start, so that a busy machine is measured by it.
    begun = monotonic()
    subprocess.run([sys.executable, "-c", "import prefect"], check=True)
    slowness = max(1.0, (monotonic() - begun) / QUIET_START)
    begun = monotonic()
    ask("the shop's cart is slow")
    wait_for(world.says_blue, "the environment says blue", PATIENCE)
    took = monotonic() - begun
    print(f"from the event to blue: {took:.1f} s, slowness {slowness:.1f}")
    assert took < BACK_WITHIN * slowness
    ask("it is slow here as well")

    def both_ended() -> bool:
        states = [run["state_type"] for run in world.prefect.flow_runs("greenfly-rollback")]
        assert "FAILED" not in states
        return states == ["COMPLETED"] * 2

    wait_for(both_ended, "both flow runs have ended", PATIENCE)
    (rollback,) = world.runs("rollback")
    assert (rollback.state, rollback.verdict) == ("finished", "PASS")
    assert connect(world.live.blue_url).get("written:on:green") == b"kept"
    # The ledger tells the story: who asked, why, which flow run did it, and that the other had nothing to do.
    first, second = world.live.events("rollback.triggered")
    assert (first["origin"], first["reason"]) == ("event", "the shop's cart is slow")
    assert (second["origin"], second["reason"]) == ("event", "it is slow here as well")
    assert rollback.flow_run == first["flow_run"]
    (other,) = world.live.events("rollback.joined") + world.live.events("rollback.not-needed")
    assert other["flow_run"] == second["flow_run"]
    (requested,) = world.live.events("rollback.requested")
    assert requested["reason"] == first["reason"]
    # The guard has seen it, and has nothing left to guard.
    wait_for(lambda: world.prefect.state(guard) == "COMPLETED", "the guard has ended", PATIENCE)
    (ended,) = world.live.events("guard.ended")
    assert ended["rolled_back_by"] == rollback.id
    assert world.runs("watch")[-1].flow_run == guard


def test_a_breach_that_may_start_a_rollback_starts_its_deployment(world: World) -> None:
    """Needs the rollback of the test above: there is nothing left to do, and nothing is done."""
    sync_run = world.runs("sync")[-1].id
    known = {run["id"] for run in world.prefect.flow_runs("greenfly-rollback")}
    resource = {"prefect.resource.id": f"greenfly.run.{sync_run}", "greenfly.rollback": "wanted"}
    payload = {"run": sync_run, "rule": "errors", "reason": "many errors", "watch_run": ""}
    world.prefect.emit("greenfly.guard.breached", resource, payload)

    def started() -> list[dict[str, object]]:
        return [run for run in world.prefect.flow_runs("greenfly-rollback") if run["id"] not in known]

    wait_for(lambda: bool(started()), "the deployment is started", PATIENCE)
    (flow_run,) = started()
    parameters = as_dict(as_dict(flow_run["parameters"])["parameters"])
    assert {"origin": "guard", "rule": "errors", "run": sync_run}.items() <= parameters.items()


def _text(value: object) -> str:
    return "" if value is None else str(value)


def as_list(value: object) -> list[object]:
    """A JSON list."""
    assert isinstance(value, list), value
    return value


def as_dict(value: object) -> dict[str, object]:
    """A JSON table."""
    assert isinstance(value, dict), value
    return value
