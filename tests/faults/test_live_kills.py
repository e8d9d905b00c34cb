"""SIGKILL at every recorded step of a cutover and of a rollback: somebody else ends or undoes it.

The steps are enumerated: each is met when it was recorded as begun and has done nothing, and when it has done
everything and is not recorded as done.  ``GREENFLY_TEST_LIVE_KILLS=all`` adds the moments right before and after those,
the same on Dragonfly, and at each the sync process killed as well.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final, Literal

import pytest

from greenfly.demo.servers import find_dragonfly
from tests.conftest import StartDragonfly, StartServer
from tests.faults.conductor_process import Order
from tests.faults.moved_application import MovedApplication, Side, moved_application, settle
from tests.servers import Store

ALL: Final = os.environ.get("GREENFLY_TEST_LIVE_KILLS") == "all"
FIGURES: Final = os.environ.get("GREENFLY_TEST_LIVE_FIGURES")
"""A file to which the longest times without a writable side are appended, as JSON lines."""
LEASE: Final = 1.0
"""Of the conductor's process, in seconds; three in real life."""

CUTOVER: Final = (
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
ROLLBACK: Final = (
    "check",
    "pause",
    "drain",
    "refuse",
    "prove",
    "turn",
    "open",
    "switch",
    "close",
    "confirm",
)
_CALLS: Final = ("running before", "running after", "done before", "done after")
_IN_SHORT: Final = (1, 2)
Kind = Literal["cutover", "rollback"]
STEPS: Final[Mapping[Kind, tuple[str, ...]]] = {"cutover": CUTOVER, "rollback": ROLLBACK}


def points(steps: tuple[str, ...], calls: tuple[int, ...]) -> list[tuple[int, str]]:
    """The numbers and names of the calls of the recorder at which a process is killed."""
    return [
        (4 * place + call, f"{step} {_CALLS[call]}") for place, step in enumerate(steps) for call in calls
    ]


def number_of(kind: Kind, call: str) -> int:
    """The number of one call."""
    return {name: number for number, name in points(STEPS[kind], (0, 1, 2, 3))}[call]


def goes_forward(kind: Kind, call: str) -> bool:
    """Whether whoever takes over after a kill there has to go on, and must not undo."""
    step, _, moment = call.partition(" ")
    steps, last = (CUTOVER, "switch") if kind == "cutover" else (ROLLBACK, "open")
    begun = "done before" if kind == "cutover" else "running after"
    place, decided = steps.index(step), steps.index(last)
    return place > decided or (place == decided and _CALLS.index(moment) >= _CALLS.index(begun))


class _Kills:
    """Kills one conductor after the other, each at the next point, and looks at what is left."""

    def __init__(self, app: MovedApplication, calls: tuple[int, ...], *, both: bool = False) -> None:
        self.app = app
        self._both = both
        self._left: dict[Kind, list[tuple[int, str]]] = {
            "cutover": points(CUTOVER, calls),
            "rollback": points(ROLLBACK, calls),
        }

    def run(self) -> None:
        """Both tables in turn: what ends on green begins the next rollback, what ends on blue the next cutover."""
        # Nobody keeps applications from a green that they were never told of; from its first rollback on it is fenced.
        self.app.move("green")
        self.app.move("blue")
        while any(self._left.values()):
            kind: Kind = "cutover" if self.app.says() == "blue" else "rollback"
            if not self._left[kind]:
                self.app.move("green" if kind == "cutover" else "blue")
                continue
            self._kill(kind, *self._left[kind].pop(0))

    def _kill(self, kind: Kind, number: int, call: str) -> None:
        app = self.app
        ended = app.do(Order(kind, kill_at=number, lease_seconds=LEASE), f"{kind} {call}")
        assert (ended.returncode, ended.records[-1]) == (-9, call), app.what_was_said()
        if self._both:
            self._kill_sync_too(
                kind, by_resuming=call.startswith(("gates", "pause", "refuse", "arm", "switch"))
            )
        app.wait_until_ended()
        app.assert_legal()
        old, new = sides(kind)
        assert app.says() == (new if goes_forward(kind, call) else old), f"{kind} {call}{app.what_was_said()}"
        if self._both:
            app.live.wait_until_clean()

    def _kill_sync_too(self, kind: Kind, *, by_resuming: bool) -> None:
        """What was begun is ended by the resumed sync process, or by the same command without one."""
        app = self.app
        app.kill_sync()
        if not by_resuming:
            settle(1.5 * LEASE)
            app.live.run(kind, "--yes", "--json")
        app.resume_sync()


def sides(kind: Kind) -> tuple[Side, Side]:
    """From where to where."""
    return ("blue", "green") if kind == "cutover" else ("green", "blue")


def finish(app: MovedApplication, name: str, most_seconds: float) -> None:
    """Nothing is lost, a further round works, and nobody had to wait for longer than a budget and a lease."""
    app.move("green")
    app.move("blue")
    app.assert_nothing_lost()
    app.assert_rights_are_back()
    longest = app.longest_gaps()
    if FIGURES:
        with Path(FIGURES).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"test": name, "gaps": longest}) + "\n")
    assert {what: gap for what, gap in longest.items() if gap > most_seconds} == {}
    events = app.live.rows("SELECT count(*) FROM event WHERE kind = 'run.resumed'")
    assert int(str(events[0][0])) > 0


@pytest.fixture
def pair(start_redis: StartServer) -> tuple[Store, Store]:
    """Blue and green, both Redis."""
    return start_redis(), start_redis()


@pytest.fixture
def dragonfly_pair(start_redis: StartServer, start_dragonfly: StartDragonfly) -> tuple[Store, Store]:
    """Blue on Redis, green on Dragonfly."""
    return start_redis(), start_dragonfly()


@pytest.fixture
def app(pair: tuple[Store, Store], tmp_path: Path) -> Iterator[MovedApplication]:
    """On two Redis."""
    with moved_application(tmp_path, *pair) as moved:
        yield moved


MOST_SECONDS: Final = 8.0
"""Budget of the drain (5 s), and the lease with what taking over costs."""
MOST_SECONDS_DRAGONFLY: Final = 13.0
"""The same with the rollback's budget (10 s): what MONITOR named is compared as a whole."""


@pytest.mark.skipif(
    find_dragonfly() is not None and not ALL,
    reason="it runs on Dragonfly; GREENFLY_TEST_LIVE_KILLS=all runs it with a Redis as green too",
)
def test_a_kill_at_every_step_is_ended_by_the_sync_process(app: MovedApplication) -> None:
    _Kills(app, (0, 1, 2, 3) if ALL else _IN_SHORT).run()
    finish(app, "redis", MOST_SECONDS)


@pytest.mark.dragonfly
def test_a_kill_at_every_step_is_ended_by_the_sync_process_on_dragonfly(
    dragonfly_pair: tuple[Store, Store], tmp_path: Path
) -> None:
    with moved_application(tmp_path, *dragonfly_pair) as app:
        _Kills(app, (0, 1, 2, 3) if ALL else (2,)).run()
        finish(app, "dragonfly", MOST_SECONDS_DRAGONFLY)


@pytest.mark.skipif(not ALL, reason="GREENFLY_TEST_LIVE_KILLS=all")
def test_a_kill_of_both_processes_is_ended_by_a_resumed_sync_or_the_same_command(
    app: MovedApplication,
) -> None:
    _Kills(app, _IN_SHORT, both=True).run()
    finish(app, "both", 30.0)


@pytest.mark.parametrize(
    ("kind", "call"),
    [("cutover", "refuse done before"), ("cutover", "switch done before"), ("rollback", "turn done before")],
)
def test_when_the_sync_process_is_killed_too_the_same_command_ends_it(
    app: MovedApplication, kind: Kind, call: str
) -> None:
    if kind == "rollback":
        app.move("green")
    number = number_of(kind, call)
    app.do(Order(kind, kill_at=number, lease_seconds=LEASE), call)
    app.kill_sync()
    settle(2 * LEASE)
    done = app.live.run(kind, "--yes", "--json")
    forward = goes_forward(kind, call)
    # What was undone is begun again by the same command, and does not go through without a sync process.
    assert done.code in ({0} if forward else {4, 8}), done.err
    app.wait_until_ended()
    old, new = sides(kind)
    assert app.says() == (new if forward else old)
    app.resume_sync()
    app.assert_followed()
    app.live.wait_until_clean()
    finish(app, f"{kind} {call}, both killed", 25.0)


STOPPED: Final[tuple[tuple[Kind, str], ...]] = (
    ("cutover", "pause running after"),
    ("cutover", "drain running after"),
    ("cutover", "refuse running after"),
    ("cutover", "refuse done before"),
    ("cutover", "arm running after"),
    ("cutover", "switch running after"),
    ("cutover", "switch done before"),
    ("rollback", "refuse running after"),
    ("rollback", "turn running after"),
    ("rollback", "open running after"),
    ("rollback", "switch done before"),
)


def test_a_conductor_that_stood_still_for_longer_than_its_lease_acts_no_more(app: MovedApplication) -> None:
    app.move("green")
    app.move("blue")
    for kind, call in STOPPED:
        old, new = sides(kind)
        app.move(old)
        number = number_of(kind, call)
        pid = app.conductor.begin(Order(kind, kill_at=number, how="SIGSTOP", lease_seconds=LEASE))
        app.live.wait_until(partial(is_stopped, pid), "it stands still")
        app.wait_until_ended()
        before = app.says()
        assert before == (new if goes_forward(kind, call) else old), call
        app.assert_legal()
        os.kill(pid, signal.SIGCONT)
        ended = app.conductor.end()
        assert ended.error == "RunTakenOver", f"{call} {ended}{app.what_was_said()}"
        assert app.says() == before
        app.assert_legal()
    finish(app, "stopped", MOST_SECONDS)


def is_stopped(pid: int) -> bool:
    """Whether a process stands still."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
