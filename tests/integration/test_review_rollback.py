"""A rollback that was asked for on the review page: by the same state machine, under the name of who asked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx

from tests.conftest import StartServer
from tests.live import Live, deep
from tests.load.load import Load


@deep
def test_the_applications_come_back_to_blue(start_redis: StartServer, tmp_path: Path) -> None:
    blue, green = start_redis(), start_redis()
    blue.client.set("before", "1")
    with (
        Live(tmp_path / "live", blue.url, green.url) as live,
        Load(live.env_file, tmp_path / "logs", rate=100) as load,
    ):
        live.sync()
        live.wait_until_clean()
        cutover = live.run("cutover", "--yes", "--json")
        assert cutover.code == 0, cutover.err + live.log()
        green.client.set("after", "2")

        token = live.run("review", "token", "add", "--name", "otto", "--role", "operator").out.strip()
        live.start("review", "--json", "--port", "0", name="review")
        told = live.folder / "review.out"
        live.wait_until(lambda: told.read_bytes().endswith(b"\n"), "the page is there")
        run = str(live.rows("SELECT id FROM run WHERE kind = 'sync'")[0][0])
        with httpx.Client(base_url=json.loads(told.read_text())["url"], trust_env=False) as client:
            client.post("/sign-in", data={"token": token})
            form = client.get(f"/runs/{run}/rollback").text
            csrf = re.findall(r'name="csrf" value="([^"]+)"', form)[0]
            fields = {"csrf": csrf, "reason": "orders are slow", "confirmation": run}
            assert client.post(f"/runs/{run}/rollback", data=fields).status_code == 303
            live.wait_until(lambda: "DRAGONFLY_URL" not in live.environment(), "the applications are on blue")
            ended = "SELECT operator FROM run WHERE kind = 'rollback' AND state = 'finished'"
            live.wait_until(lambda: bool(live.rows(ended)), "the rollback has ended")
            assert "rollback" in client.get(f"/runs/{run}").text
        load.stop()

    assert live.rows(ended) == [("otto",)]
    assert blue.client.mget("before", "after") == [b"1", b"2"]
    assert [event["reason"] for event in live.events("rollback.requested")] == ["orders are slow"]
