"""Green dies under load and is given up: applications are on blue within seconds, and what may be lost is named."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Final

import pytest

from tests.conftest import StartDragonfly, StartServer
from tests.faults.moved_application import MovedApplication, kill_server, moved_application
from tests.live import deep
from tests.load.judge import at_risk_missing
from tests.load.replay import replay

FIGURES: Final = os.environ.get("GREENFLY_TEST_LIVE_FIGURES")
RUNS: Final = int(os.environ.get("GREENFLY_TEST_ABANDONED", "1"))
"""How often green is killed by each of the tests."""
MOST_SECONDS: Final = 5.0
"""From the moment at which the operation is recorded until the environment says blue."""
MOST_SECONDS_SHARED: Final = 15.0
"""With the start of the command, on a machine whose cores other tests use as well; alone it takes two to four."""
RATE: Final = 1000.0
UNSEEN_SECONDS: Final = 0.05
"""So long is a change known to the sync process only, before its name is in the file that outlives it."""


@pytest.fixture(params=["redis", pytest.param("dragonfly", marks=pytest.mark.dragonfly)])
def engine(request: pytest.FixtureRequest) -> str:
    """What green is."""
    return str(request.param)


@pytest.fixture(params=range(RUNS))
def app(
    request: pytest.FixtureRequest,
    engine: str,
    start_redis: StartServer,
    start_dragonfly: StartDragonfly,
    tmp_path: Path,
) -> Iterator[MovedApplication]:
    """An application on green that writes a thousand times a second."""
    green = start_redis() if engine == "redis" else start_dragonfly()
    with moved_application(tmp_path, start_redis(), green, keys=2000, rate=RATE) as moved:
        moved.move("green")
        sleep(2.0)
        yield moved


def named(app: MovedApplication) -> set[tuple[int, bytes]]:
    """Database and key of every finding of the rollback."""
    rows = app.live.rows(
        "SELECT f.database, f.key FROM finding f JOIN run r ON r.id = f.run_id WHERE r.kind = 'rollback' "
        "AND f.finding_class = 'at-risk'"
    )
    return {(int(str(database)), bytes(key)) for database, key in rows if isinstance(key, bytes)}


def seconds_until_written(app: MovedApplication, began: float) -> float:
    """How long after *began* the environment sends an application somewhere else, where it can write."""
    while monotonic() - began < 60:
        if app.says() == "blue" and app.takes_a_write("blue"):
            return monotonic() - began
        sleep(0.01)
    raise AssertionError(f"nobody could write{app.what_was_said()}")


def operation_seconds(app: MovedApplication) -> float:
    """From the start of the rollback's run until the environment was switched."""
    ((started, switched),) = app.live.rows(
        "SELECT r.started_at, s.ended_at FROM run r JOIN step s ON s.run_id = r.id "
        "WHERE r.kind = 'rollback' AND s.name = 'switch'"
    )
    return (datetime.fromisoformat(str(switched)) - datetime.fromisoformat(str(started))).total_seconds()


@pytest.mark.parametrize("with_sync", [True, False], ids=["sync alive", "sync killed"])
def test_an_abandoned_green_leaves_a_list_of_what_is_missing(
    app: MovedApplication, engine: str, with_sync: bool
) -> None:
    app.load.stay()
    kill_server(app.green)
    if not with_sync:
        app.kill_sync()
    began = monotonic()
    command = app.live.start(
        "rollback", "--abandon-green", "--yes", "--json", "--reason", "green is dead", name="abandon"
    )
    seconds = seconds_until_written(app, began)
    code = command.wait(timeout=60)
    ended = monotonic() - began
    app.load.stop()
    assert app.says() == "blue"
    missing, told = at_risk_missing(replay(app.logs), app.blue.url), named(app)
    if FIGURES:
        figures = {
            "test": f"abandon {engine} {'with' if with_sync else 'without'} sync",
            "seconds_until_written": round(seconds, 3),
            "command_seconds": round(ended, 3),
            "missing": len(missing),
            "named": len(told),
            "not_named": len(missing - told),
        }
        with Path(FIGURES).open("a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")
    assert code == 3, app.live.log("abandon")
    unnamed = missing - told
    most = 0 if with_sync else RATE * UNSEEN_SECONDS
    assert len(unnamed) <= most, f"{len(unnamed)} of {len(missing)} are not named: {sorted(unnamed)[:12]}"
    assert len(told) > len(unnamed)
    assert operation_seconds(app) < MOST_SECONDS
    assert seconds < MOST_SECONDS_SHARED


@deep
def test_a_green_that_stands_still_is_abandoned_in_seconds(app: MovedApplication, engine: str) -> None:
    """It answers nothing, and takes what was sent when it goes on: then it must refuse, or nobody reads it."""
    assert app.green.server is not None
    assert app.green.server.pid is not None
    app.load.stay()
    os.kill(app.green.server.pid, signal.SIGSTOP)
    try:
        began = monotonic()
        command = app.live.start("rollback", "--abandon-green", "--yes", "--json", name="abandon")
        seconds = seconds_until_written(app, began)
        assert command.wait(timeout=60) == 3, app.live.log("abandon")
    finally:
        os.kill(app.green.server.pid, signal.SIGCONT)
    app.load.stop()
    assert app.says() == "blue"
    assert seconds < MOST_SECONDS_SHARED
    assert operation_seconds(app) < MOST_SECONDS
    if FIGURES:
        with Path(FIGURES).open("a", encoding="utf-8") as file:
            file.write(
                json.dumps({"test": f"abandon, stopped {engine}", "seconds_until_written": round(seconds, 3)})
                + "\n"
            )


@deep
def test_a_sync_that_is_resumed_after_green_was_abandoned_leaves_blue_alone(
    start_redis: StartServer, tmp_path: Path
) -> None:
    """Green's data is older than what applications wrote to blue since: nothing of it may be carried back."""
    blue, green = start_redis(), start_redis()
    with moved_application(tmp_path, blue, green) as app:
        app.move("green")
        assert app.green.server is not None
        assert app.green.server.pid is not None
        app.load.stop()
        app.live.wait_until_drained()
        app.kill_sync()
        os.kill(app.green.server.pid, signal.SIGSTOP)
        done = app.live.run("rollback", "--abandon-green", "--yes", "--json")
        assert done.code == 3, done.err
        os.kill(app.green.server.pid, signal.SIGCONT)
        blue.client.set("written on blue", "new")
        green.client.set("written on blue", "old")
        app.live.wait_until(app.lease_is_over, "the lease of the sync run is over", 30.0)
        resumed = app.live.sync("--resume")
        assert resumed.wait(timeout=60) != 0
        assert blue.client.get("written on blue") == b"new"
        app.green.client.acl_list()
