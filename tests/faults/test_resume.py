"""A run whose process was killed goes on from its checkpoints, and ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from greenfly.demo.dataset import fill
from tests.cli import UNASSESSED, Greenfly
from tests.inprocess import run_here
from tests.oracle import compare
from tests.servers import Store

KEYS = 40_000
LEASE_SECONDS = "2"


def _streamed(ledger: Path) -> int:
    """Keys behind the stream's checkpoints, straight from the database file."""
    if not ledger.exists():
        return 0
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=10)) as database:
        try:
            row = database.execute("SELECT sum(keys) FROM checkpoint WHERE phase = 'stream'").fetchone()
        except sqlite3.OperationalError:
            return 0
    return int(row[0] or 0)


def _set_lease(ledger: Path, until: str) -> None:
    """Move the end of the run's lease, so that the test does not depend on how fast a process starts."""
    with closing(sqlite3.connect(ledger, timeout=10)) as database:
        database.execute("UPDATE run SET lease_until = ?", (until,))
        database.commit()


def _start(state_dir: Path, folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "GREENFLY_STATE_DIR": str(state_dir),
        "GREENFLY_LEASE_SECONDS": LEASE_SECONDS,
        "GREENFLY_COPY__BATCH_KEYS": "25",
        **UNASSESSED,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "greenfly", "migrate", "--no-snapshot", "--quiet", *arguments],
        env=environment,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _kill_when_streamed(process: subprocess.Popen[bytes], ledger: Path, keys: int) -> int:
    """SIGKILL the process once that many keys are checkpointed; returns how many were."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if (done := _streamed(ledger)) >= keys:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return done
        time.sleep(0.005)
    pytest.fail(f"the run ended ({process.poll()}) before {keys:,} keys were copied")


def test_a_killed_run_resumes_from_its_checkpoints(
    blue: Store, green: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    fill(blue.url, KEYS, seed=3)
    ledger = greenfly.state_dir / "ledger.sqlite3"
    servers = ("--source", blue.url, "--target", green.url)
    reached = _kill_when_streamed(_start(greenfly.state_dir, tmp_path, *servers), ledger, 3_000)
    for more in (2_000, 3_000):
        time.sleep(float(LEASE_SECONDS))
        again = _start(greenfly.state_dir, tmp_path, *servers, "--resume")
        before, reached = reached, _kill_when_streamed(again, ledger, reached + more)
        assert reached >= before, "a resume goes on; it does not begin again"
    _set_lease(ledger, "2999-01-01 00:00:00.000000")
    early = run_here(greenfly, "migrate", *servers, "--resume", "--json")
    assert early.exit_code == 4, "the lease of the killed process still runs"
    _set_lease(ledger, "2000-01-01 00:00:00.000000")
    final = run_here(greenfly, "migrate", *servers, "--resume", "--json")
    assert final.exit_code == 0, final.stderr
    assert final.at("verdict") == "PASS"
    assert compare(blue.url, green.url) == []
    runs = run_here(greenfly, "runs", "list", "--json").json()["runs"]
    assert isinstance(runs, list)
    assert len(runs) == 1, "a resumed run is the same run"
    stream = next(phase for phase in _phases(final.json()) if phase["name"] == "stream")
    assert stream["state"] == "done"


def test_a_restarted_target_is_copied_from_the_beginning(
    blue: Store, green_redis: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    fill(blue.url, 20_000, seed=4)
    ledger = greenfly.state_dir / "ledger.sqlite3"
    servers = ("--source", blue.url, "--target", green_redis.url)
    _kill_when_streamed(_start(greenfly.state_dir, tmp_path, *servers), ledger, 5_000)
    # What a restart without persistence does, as seen from outside: another run id, and no data.
    green_redis.client.flushall()
    with closing(sqlite3.connect(ledger)) as database:
        database.execute("UPDATE run SET target = json_set(target, '$.run_id', 'another')")
        database.commit()
    time.sleep(float(LEASE_SECONDS))
    final = run_here(greenfly, "migrate", *servers, "--resume", "--json")
    assert final.exit_code == 0, final.stderr
    assert "restarted" in final.stderr
    assert compare(blue.url, green_redis.url) == []


def test_nothing_to_resume_is_refused(blue: Store, green_redis: Store, greenfly: Greenfly) -> None:
    run = run_here(
        greenfly, "migrate", "--source", blue.url, "--target", green_redis.url, "--resume", "--json"
    )
    assert run.exit_code == 4
    assert run.at("error", "kind") == "Refused"


def _phases(outcome: dict[str, object]) -> list[dict[str, object]]:
    phases = outcome["phases"]
    assert isinstance(phases, list)
    return phases
