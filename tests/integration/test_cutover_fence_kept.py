"""Blue stays refused to applications after a cutover, also when it has forgotten its fence."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.exceptions import NoPermissionError

from tests.conftest import StartServer
from tests.live import Live
from tests.raw import Raw
from tests.servers import Store


def test_a_fence_that_blue_has_forgotten_is_put_up_again(
    start_redis: StartServer, green_redis: Store, tmp_path: Path
) -> None:
    blue = start_redis()
    blue.client.set("k", 1)
    settings = '[cutover]\nconfirm = "environment"\ncanary_key = ""\n'
    with Live(tmp_path / "live", blue.url, green_redis.url, settings=settings) as live:
        live.sync()
        live.wait_until_clean()
        done = live.run("cutover", "--yes")
        assert done.code == 0, done.err
        with pytest.raises(NoPermissionError):
            blue.client.set("k", 2)

        # What a restart does, as seen from outside.
        with Raw(blue.url) as raw:
            raw("ACL", "SETUSER", "default", "+@all")
        assert blue.client.set("k", 3)

        def refused() -> bool:
            try:
                blue.client.set("other", 1)
            except NoPermissionError:
                return True
            return False

        live.wait_until(refused, "the fence is up again", 15)
        live.wait_until(lambda: bool(live.events("fence.renewed")), "it is recorded", 15)
        assert [event["side"] for event in live.events("fence.renewed")] == ["blue"]
        done = live.run("rollback", "--yes")
        assert done.code == 0, done.err
        assert blue.client.set("k", 4), "a rollback lifts it for good"
