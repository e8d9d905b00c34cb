"""An application writes through copy, sync, cutover and rollback: nothing is lost, and nothing comes back.

The load generator keeps its own log of acknowledged writes, and an oracle that knows nothing of the engine replays it
against whichever side serves.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from greenfly.demo.dataset import fill
from tests.conftest import StartServer
from tests.live import Live
from tests.load.judge import check
from tests.load.load import Load
from tests.load.replay import replay
from tests.load.timing import overlaps, switch_gaps
from tests.servers import Store

KEYS: Final = int(os.environ.get("GREENFLY_TEST_LIVE_KEYS", "10000"))
RATE: Final = float(os.environ.get("GREENFLY_TEST_LIVE_RATE", "1500"))
SECONDS: Final = float(os.environ.get("GREENFLY_TEST_LIVE_SECONDS", "4"))
"""How long the application writes before the cutover, after it, and after the rollback."""


def test_nothing_is_lost_between_copy_and_rollback(
    start_redis: StartServer, green: Store, tmp_path: Path
) -> None:
    blue = start_redis()
    fill(blue.url, KEYS, seed=5)
    logs = tmp_path / "logs"
    with Live(tmp_path / "live", blue.url, green.url, assess=True) as live:
        with Load(live.env_file, logs, rate=RATE) as load:
            sync = live.sync()
            live.wait_until_clean()
            time.sleep(SECONDS)
            cutover = live.run("cutover", "--yes", "--json")
            assert cutover.code == 0, cutover.err + live.log()
            assert live.environment()["DRAGONFLY_URL"] == green.url
            time.sleep(SECONDS)
            load.stop()
            after_cutover = check(replay(logs), green.url)
            assert after_cutover == []
        with Load(live.env_file, logs, rate=RATE, name="later") as load:
            time.sleep(SECONDS)
            rollback = live.run("rollback", "--yes", "--json")
            assert rollback.code == 0, rollback.err + live.log()
            assert "DRAGONFLY_URL" not in live.environment()
            time.sleep(SECONDS)
            load.stop()
        assert check(replay(logs), blue.url) == []
        assert overlaps(logs) == []
        pauses = switch_gaps(logs)
        assert len(pauses) >= 2, "the application has seen both switches"
        assert live.run("runs", "stop", "latest").code == 0
        assert sync.wait(timeout=60) == 0, live.log()
