"""A cutover that is to have no way back: nothing writes to green beside the applications."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.cli import dig
from tests.conftest import StartServer
from tests.live import Live

SETTINGS = """
[cutover]
fallback = false
confirm = "environment"
"""


def test_what_expires_on_blue_afterwards_leaves_the_applications_values_on_green_alone(
    start_redis: StartServer, tmp_path: Path
) -> None:
    blue, green = start_redis(), start_redis()
    with Live(tmp_path / "live", blue.url, green.url, SETTINGS) as live:
        blue.client.set("before", 1)
        sync = live.sync()
        live.wait_until_clean()
        blue.client.set("session", "old", px=20_000)
        blue.client.xadd("events", {"n": "1"})
        blue.client.xgroup_create("events", "readers", id="0")
        live.wait_until_drained()
        done = live.run("cutover", "--yes", "--json")
        assert done.code == 0, done.err + live.log()
        assert live.environment()["DRAGONFLY_URL"] == green.url
        (told,) = [
            report
            for path in live.state.glob("reports/*/report.json")
            if dig(report := json.loads(path.read_text("utf-8")), "run", "kind") == "cutover"
        ]
        for side, store in (("source", blue), ("target", green)):
            first, last = dig(told, side), dig(told, f"{side}_after")
            assert dig(first, "server_run_id") == store.client.info("server")["run_id"]
            assert dig(first, "seen_earlier") is False
            assert dig(last, "unknown") is None
            # Besides the three the canary has left its own.
            assert dig(last, "keys") in (3, 4)
            assert str(dig(first, "observed_at")) < str(dig(last, "observed_at"))
        assert sync.wait(timeout=30) == 0, live.log()
        green.client.set("session", "new")
        green.client.xadd("events", {"n": "2"})
        while blue.client.exists("session"):
            time.sleep(0.1)
        time.sleep(1.0)
        assert green.client.get("session") == b"new"
        assert green.client.xlen("events") == 2
        assert live.steps("cutover")["end"] == "done"
        assert live.run("rollback", "--yes").code == 4
