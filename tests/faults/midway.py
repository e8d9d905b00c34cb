"""Commands that run in a process of their own and are met in the middle."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Mapping
from contextlib import closing
from time import monotonic, sleep
from typing import Final

from tests.cli import CompletedRun, Greenfly

LEASE: Final = {"GREENFLY_LEASE_SECONDS": "2", "GREENFLY_THROTTLE__ENABLED": "false"}
"""A lease that ends soon, and no measuring of the servers' latency."""


def at_most(keys_per_second: int) -> dict[str, str]:
    """Settings that make a run of few keys last."""
    return LEASE | {
        "GREENFLY_THROTTLE__ENABLED": "true",
        "GREENFLY_THROTTLE__KEYS_PER_SECOND": str(keys_per_second),
    }


def checkpointed(greenfly: Greenfly, phase: str = "stream", *, besides: str | None = None) -> int:
    """Keys behind the checkpoints of all runs but one, straight from the ledger's file."""
    path = greenfly.state_dir / "ledger.sqlite3"
    if not path.exists():
        return 0
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as database:
        try:
            row = database.execute(
                "SELECT sum(keys) FROM checkpoint WHERE phase = ? AND run_id <> ?", (phase, besides or "")
            ).fetchone()
        except sqlite3.OperationalError:
            return 0
    return int(row[0] or 0)


def start_in_the_middle(
    greenfly: Greenfly,
    *arguments: str,
    env: Mapping[str, str] = LEASE,
    keys: int = 5_000,
    phase: str = "stream",
    besides: str | None = None,
) -> subprocess.Popen[str]:
    """Start a command and come back when that many keys are behind its checkpoints."""
    process = greenfly.start(*arguments, "--json", env=env)
    deadline = monotonic() + 60
    while checkpointed(greenfly, phase, besides=besides) < keys:
        assert process.poll() is None, process.communicate()
        assert monotonic() < deadline, "it did not begin"
        sleep(0.005)
    return process


def ended(process: subprocess.Popen[str]) -> CompletedRun:
    out, err = process.communicate(timeout=120)
    return CompletedRun((), process.returncode, out, err)


def events(greenfly: Greenfly, run: str, kind: str) -> int:
    """How many events of that kind the run's history holds."""
    with closing(sqlite3.connect(greenfly.state_dir / "ledger.sqlite3")) as database:
        row = database.execute(
            "SELECT count(*) FROM event WHERE run_id = ? AND kind = ?", (run, kind)
        ).fetchone()
    return int(row[0])
