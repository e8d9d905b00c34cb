"""An application that is moved to and fro while processes are killed, and what must hold of it whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, monotonic_ns, sleep
from typing import Final, Literal

import pytest
from redis.exceptions import RedisError

from greenfly.demo.dataset import fill
from tests.faults.conductor_process import ConductorProcess, Ended, Order
from tests.live import Live
from tests.load.judge import check
from tests.load.load import Load
from tests.load.replay import replay
from tests.load.timing import gaps, overlaps
from tests.servers import Store

Side = Literal["blue", "green"]

SETTINGS: Final = """
[cutover]
drain_seconds = 5
fence_seconds = 3
confirm_seconds = 15
switch_seconds = 5
[sync]
reconnect_seconds = 60
[rollback]
drain_seconds = 10
fence_seconds = 3
confirm_seconds = 15
switch_seconds = 5
"""
_MARK: Final = "moved:probe"


@dataclass(slots=True)
class MovedApplication:
    """Servers, `greenfly sync`, a load, and a process that conducts."""

    live: Live
    blue: Store
    green: Store
    logs: Path
    load: Load
    conductor: ConductorProcess
    sync: subprocess.Popen[bytes]
    rights: Mapping[Side, list[str]]
    """Each server's ACL before anything was done."""
    marks: list[tuple[str, int, int]] = field(default_factory=list)
    """What was done between which moments (monotonic, nanoseconds)."""

    # -- doing ------------------------------------------------------------------------------------------------------

    def do(self, order: Order, name: str) -> Ended:
        """Let the conductor do something, under a name for the figures."""
        began = monotonic_ns()
        ended = self.conductor.do(order)
        self.marks.append((name, began, monotonic_ns()))
        return ended

    def move(self, to: Side) -> None:
        """A cutover or a rollback that nothing disturbs, unless the application is there already."""
        if self.says() == to:
            return
        ended = self.do(Order("cutover" if to == "green" else "rollback"), f"undisturbed to {to}")
        assert ended.returncode == 0, self.what_was_said()
        self.assert_legal()
        assert self.says() == to

    def kill_sync(self) -> None:
        """Kill `greenfly sync`."""
        self.sync.kill()
        self.sync.wait()

    def resume_sync(self) -> None:
        """Start it anew, for the same run."""
        self.live.wait_until(self.lease_is_over, "the lease of the sync run is over", 30.0)
        before = self._published()
        self.sync = self.live.sync("--resume")
        self.live.wait_until(lambda: self._published() > before, "the resumed sync follows", 30.0)

    def _published(self) -> str:
        return str(self.live.rows("SELECT max(updated_at) FROM sync")[0][0])

    def lease_is_over(self) -> bool:
        """Whether the sync run can be taken over."""
        return bool(
            self.live.rows(
                "SELECT 1 FROM run WHERE kind = 'sync' AND (state <> 'running' OR lease_until < ?)",
                datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f"),
            )
        )

    def wait_until_ended(self, seconds: float = 15.0) -> float:
        """Until no operation is under way; how many seconds that took."""
        began = monotonic()

        def ended() -> bool:
            return not self.live.rows(
                "SELECT 1 FROM run WHERE kind IN ('cutover', 'rollback') AND state = 'running'"
            )

        self.live.wait_until(ended, "the operation has ended", seconds)
        if self.marks:
            name, start, _ = self.marks[-1]
            self.marks[-1] = name, start, monotonic_ns()
        return monotonic() - began

    # -- looking ----------------------------------------------------------------------------------------------------

    def says(self) -> Side:
        """Where the environment sends the application."""
        return "green" if "DRAGONFLY_URL" in self.live.environment() else "blue"

    def writable(self) -> set[Side]:
        """The sides that take a write from an application now."""
        found: set[Side] = set()
        for side in ("blue", "green"):
            if self.takes_a_write(side):
                found.add(side)
        return found

    def takes_a_write(self, side: Side) -> bool:
        """Whether this side does, on a connection as applications make them."""
        store = self.blue if side == "blue" else self.green
        try:
            store.client.set(f"{_MARK}:{side}", monotonic_ns())
        except RedisError:
            return False
        return True

    def assert_legal(self) -> None:
        """The application is on one side, that side alone takes writes, and the sync process follows it."""
        side = self.says()
        assert self.writable() == {side}, self.what_was_said()
        self.assert_followed()

    def assert_followed(self) -> None:
        """The sync process follows the side that serves."""
        direction = "forward" if self.says() == "blue" else "backward"
        self.live.wait_until(
            lambda: (self.live.board() or {}).get("direction") == direction, f"followed {direction}", 10.0
        )

    def assert_nothing_lost(self) -> None:
        """Stop the load, and let the oracle judge the side that serves, and the clock both."""
        self.load.stop()
        serving = self.blue if self.says() == "blue" else self.green
        wrong = check(replay(self.logs), serving.url)
        assert wrong == [], f"{len(wrong)} {wrong[:5]}{self.what_was_said()}"
        twice = overlaps(self.logs)
        assert twice == [], f"{len(twice)} {twice[:3]}{self.what_was_said()}"

    def assert_rights_are_back(self) -> None:
        """The side that serves has the rules that it had, and no user of Greenfly's."""
        side = self.says()
        store = self.blue if side == "blue" else self.green
        assert rules(store) == self.rights[side]

    def longest_gaps(self) -> dict[str, float]:
        """What was done → the longest time (seconds) in which the application's probe could not write."""
        found = gaps(self.logs, at_least_s=0.05)
        return {
            f"{number:>3} {name}": max(
                (gap.seconds for gap in found if gap.end_ns > start and gap.start_ns < end), default=0.0
            )
            for number, (name, start, end) in enumerate(self.marks)
        }

    def what_was_said(self) -> str:
        """The ends of the logs, for a test that failed."""
        return (
            f"\nconductor: {self.conductor.log()[-2500:]}\nsync: {self.live.log()[-2500:]}\n"
            f"board: {self.live.board()} cutover: {self.live.steps('cutover')} rollback: {self.live.steps('rollback')}"
        )


@contextmanager
def moved_application(
    folder: Path,
    blue: Store,
    green: Store,
    *,
    keys: int = 300,
    rate: float = 150.0,
    settings: str = SETTINGS,
) -> Iterator[MovedApplication]:
    """An application on blue, followed and compared."""
    fill(blue.url, keys, seed=3)
    logs = folder / "logs"
    with ExitStack() as stack:
        environ = stack.enter_context(pytest.MonkeyPatch.context())
        environ.setenv("GREENFLY_LEASE_SECONDS", "2")
        live = stack.enter_context(Live(folder / "live", blue.url, green.url, settings))
        rights: dict[Side, list[str]] = {"blue": rules(blue), "green": rules(green)}
        load = stack.enter_context(
            Load(
                live.env_file,
                logs,
                rate=rate,
                workers=1,
                connections=6,
                probe_hz=200.0,
                leavers_hz=5.0,
                big=0.0005,
            )
        )
        sync = live.sync()
        conductor = stack.enter_context(ConductorProcess(live.folder))
        live.wait_until_clean()
        yield MovedApplication(live, blue, green, logs, load, conductor, sync, rights)


def kill_server(store: Store) -> None:
    """SIGKILL a server that this test started."""
    assert store.server is not None
    assert store.server.pid is not None
    os.kill(store.server.pid, signal.SIGKILL)


def rules(store: Store) -> list[str]:
    """The rules of every user, but for what Dragonfly never forgets to show."""
    users = [user.decode() if isinstance(user, bytes) else str(user) for user in store.client.acl_list()]
    if store.engine == "dragonfly":
        return sorted(user.split(" ")[1] for user in users)
    return sorted(users)


def settle(seconds: float = 0.3) -> None:
    """Let the application write for a while."""
    sleep(seconds)
