"""A cutover that is killed while green is a replica, or has just been one, is undone and can be done again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import StartDragonfly, StartServer
from tests.faults.conductor_process import Order
from tests.faults.moved_application import SETTINGS, moved_application
from tests.live import deep
from tests.native import stage

pytestmark = pytest.mark.dragonfly

STEPS = (
    "gates",
    "baseline",
    "pause",
    "drain",
    "refuse",
    "prove",
    "arm",
    "open",
    "switch",
    "close",
    "confirm",
)
ATTACHED = f'{SETTINGS}\n[native]\nfollow = "replication"\n'


@pytest.mark.parametrize("step", [pytest.param("drain", marks=deep), "prove"])
def test_a_conductor_that_is_killed_is_undone_and_followed_on(
    start_redis: StartServer,
    start_dragonfly: StartDragonfly,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    monkeypatch.setenv("GREENFLY_STRATEGY", "native")
    blue, green = start_redis("--repl-diskless-sync-delay", "0"), start_dragonfly()
    with moved_application(tmp_path, blue, green, settings=ATTACHED) as app:
        assert stage(green.url) == "online"
        # Of each step, four moments are recorded; this is the one when what it does has been done.
        ended = app.do(Order("cutover", kill_at=4 * STEPS.index(step) + 2), f"killed at {step}")
        assert ended.records[-1] == f"{step} done before", ended.records
        app.wait_until_ended()
        assert app.says() == "blue"
        assert app.takes_a_write("blue"), app.what_was_said()
        app.assert_followed()
        assert stage(green.url) == ("online" if step == "drain" else "master")
        app.move("green")
        assert stage(green.url) == "master"
        app.assert_nothing_lost()
