"""A run that is killed again and again, wherever it happens to be, ends as if nothing had happened.

The suite kills a small run a few times.  The whole thing, as the documentation quotes it::

    GREENFLY_TEST_KILLS=20 GREENFLY_TEST_KILL_KEYS=1000000 pytest tests/scenarios/test_many_kills.py -s
"""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from greenfly.demo.dataset import fill
from tests.cli import UNASSESSED, Greenfly
from tests.oracle import compare
from tests.servers import Store

KILLS: Final = int(os.environ.get("GREENFLY_TEST_KILLS", "4"))
KEYS: Final = int(os.environ.get("GREENFLY_TEST_KILL_KEYS", "60000"))
IN_VERIFY: Final = max(1, KILLS // 10)
"""Of the kills, those that come after the copy."""
BATCH: Final = 1000 if KEYS >= 500_000 else 100
MOST_IN_A_PAGE: Final = BATCH * 3 // 2
"""A SCAN page holds somewhat more keys than it was asked for, where slots of the hash table hold several."""
LEASE_SECONDS: Final = 1.0


def test_every_kill_repeats_at_most_one_batch(
    blue: Store, green: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    chance = random.Random(2026)
    fill(blue.url, KEYS, seed=20)
    ledger = greenfly.state_dir / "ledger.sqlite3"
    thresholds = sorted(chance.randrange(KEYS // 50, KEYS) for _ in range(KILLS - IN_VERIFY))
    excess: list[int] = []
    kills = 0
    for threshold in thresholds:
        process = _start(greenfly, tmp_path, blue, green, resume=kills > 0)
        reached = _wait_for_keys(process, green, threshold)
        if not reached:
            continue  # It was past the threshold and ended; the loop below finishes the story.
        time.sleep(chance.uniform(0, 0.05))
        _kill(process)
        kills += 1
        excess.append(_settled_size(green) - _checkpointed(ledger))
    while kills < KILLS:
        process = _start(greenfly, tmp_path, blue, green, resume=kills > 0)
        _wait_for_phase(process, ledger, "verify")
        time.sleep(chance.uniform(0, 0.3))
        assert process.poll() is None, (
            "the run ended before it could be killed; raise GREENFLY_TEST_KILL_KEYS"
        )
        _kill(process)
        kills += 1
    time.sleep(LEASE_SECONDS)
    final = greenfly(
        "migrate", "--source", blue.url, "--target", green.url, "--resume", "--json", timeout=900
    )
    assert (final.exit_code, final.at("verdict")) == (0, "PASS"), final.stderr
    assert compare(blue.url, green.url) == []
    print(
        f"\n{kills} kills of a run of {KEYS:,} keys into {green.engine}: {sum(excess):,} keys were written but not "
        f"behind a checkpoint, so were copied again ({max(excess):,} at most; a batch is {BATCH:,})"
    )
    assert max(excess) <= MOST_IN_A_PAGE
    assert _checkpointed(ledger) == KEYS


def _start(
    greenfly: Greenfly, folder: Path, blue: Store, green: Store, *, resume: bool
) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "GREENFLY_STATE_DIR": str(greenfly.state_dir),
        "GREENFLY_LEASE_SECONDS": str(LEASE_SECONDS),
        "GREENFLY_COPY__BATCH_KEYS": str(BATCH),
        **UNASSESSED,
    }
    if resume:
        time.sleep(LEASE_SECONDS + 0.1)
    command = [sys.executable, "-m", "greenfly", "migrate", "--no-snapshot", "--quiet"]
    command += ["--source", blue.url, "--target", green.url, *(["--resume"] if resume else [])]
    return subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _size(store: Store) -> int:
    return sum(int(facts["keys"]) for facts in store.client.info("keyspace").values())


def _wait_for_keys(process: subprocess.Popen[bytes], green: Store, keys: int) -> bool:
    """Whether the target holds that many keys while the process still runs."""
    while process.poll() is None:
        if _size(green) >= keys:
            return True
        time.sleep(0.002)
    return False


def _wait_for_phase(process: subprocess.Popen[bytes], ledger: Path, phase: str) -> None:
    while process.poll() is None:
        with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=10)) as database:
            found = database.execute(
                "SELECT 1 FROM phase WHERE name = ? AND state = 'running'", (phase,)
            ).fetchone()
        if found:
            return
        time.sleep(0.005)


def _settled_size(store: Store) -> int:
    """How many keys the target holds when it has dealt with what the dead process had sent."""
    before = -1
    while (now := _size(store)) != before:
        before = now
        time.sleep(0.05)
    return now


def _checkpointed(ledger: Path) -> int:
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=10)) as database:
        row = database.execute("SELECT sum(keys) FROM checkpoint WHERE phase = 'stream'").fetchone()
    return int(row[0] or 0)
