"""Cutovers and rollbacks that do not go through: everything is undone, and whoever served serves on."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Final

import pytest

from tests.conftest import StartServer
from tests.faults.conductor_process import Ended, Order
from tests.faults.moved_application import SETTINGS, MovedApplication, kill_server, moved_application, settle
from tests.faults.test_live_kills import Kind, goes_forward, is_stopped, number_of, sides
from tests.live import deep
from tests.servers import Store, connect

UNDONE: Final = 8
UNFINISHED: Final = 9
LONG: Final = 60.0
"""A lease that nobody takes over."""


@pytest.fixture
def pair(start_redis: StartServer) -> tuple[Store, Store]:
    """Blue and green."""
    return start_redis(), start_redis()


@pytest.fixture
def app(pair: tuple[Store, Store], tmp_path: Path) -> Iterator[MovedApplication]:
    """An application on blue, and a green that was fenced once."""
    with moved_application(tmp_path, *pair) as moved:
        moved.move("green")
        moved.move("blue")
        yield moved


def disturbed(app: MovedApplication, kind: Kind, call: str, disturb: Callable[[], None]) -> Ended:
    """An operation that something happens to while it stands still at a record."""
    pid = app.conductor.begin(Order(kind, kill_at=number_of(kind, call), how="SIGSTOP", lease_seconds=LONG))
    app.live.wait_until(partial(is_stopped, pid), "it stands still")
    disturb()
    os.kill(pid, signal.SIGCONT)
    return app.conductor.end()


def assert_undone(app: MovedApplication, ended: Ended, kind: Kind, step: str) -> None:
    """By its exit code, its steps and its audit events; and the application is where it was."""
    assert (ended.returncode, ended.error) == (UNDONE, "Undone"), app.what_was_said()
    assert app.says() == sides(kind)[0]
    assert app.writable() == {app.says()}
    states = app.live.steps(kind)
    assert not {"done", "running"} & {states[name] for name in ("pause", "refuse", "open", "switch")}
    assert step in [event["step"] for event in app.live.events("step.failed")]
    assert "pause" in [event["step"] for event in app.live.events("step.undone")]


def assert_clean_again(app: MovedApplication) -> None:
    """The sync process follows whoever serves, has compared everything, and nothing is lost."""
    app.assert_followed()
    app.live.wait_until_clean()
    app.move("green" if app.says() == "blue" else "blue")
    app.assert_nothing_lost()
    app.assert_rights_are_back()


# -- a sync process that is not there ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        pytest.param("cutover", "drain", marks=deep),
        pytest.param("cutover", "prove", marks=deep),
        ("cutover", "arm"),
        ("rollback", "turn"),
    ],
)
def test_without_an_answer_of_the_sync_process_it_is_undone(
    app: MovedApplication, kind: Kind, step: str
) -> None:
    app.move(sides(kind)[0])
    stop = partial(os.kill, app.sync.pid, signal.SIGSTOP)
    ended = disturbed(app, kind, f"{step} running after", stop)
    assert_undone(app, ended, kind, step)
    os.kill(app.sync.pid, signal.SIGCONT)
    settle(1.0)
    assert_clean_again(app)


@deep
@pytest.mark.parametrize(("kind", "step"), [("cutover", "arm"), ("cutover", "open"), ("rollback", "open")])
def test_a_sync_process_that_is_killed_follows_the_side_that_serves_when_it_is_resumed(
    app: MovedApplication, kind: Kind, step: str
) -> None:
    """It had turned round, and would carry the other side's old values over what was written since."""
    old, _ = sides(kind)
    app.move(old)

    pid = app.conductor.begin(
        Order(kind, kill_at=number_of(kind, f"{step} running after"), how="SIGSTOP", lease_seconds=LONG)
    )
    app.live.wait_until(partial(is_stopped, pid), "it stands still")
    app.kill_sync()
    if step == "arm":
        os.kill(pid, signal.SIGCONT)
    else:
        # It had turned round; then the conductor is told to end.
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGCONT)
    ended = app.conductor.end()
    assert ended.returncode == (UNDONE if step == "arm" else 130), app.what_was_said()
    assert app.says() == old
    assert app.writable() == {old}, app.what_was_said()
    settle(1.0)
    app.resume_sync()
    assert_clean_again(app)


# -- a server that is not there ----------------------------------------------------------------------------------------


@deep
@pytest.mark.parametrize("step", ["arm", "open"])
def test_with_green_dead_blue_goes_on_serving(app: MovedApplication, step: str) -> None:
    ended = disturbed(app, "cutover", f"{step} running after", partial(kill_server, app.green))
    assert ended.returncode == UNDONE, app.what_was_said()
    assert app.says() == "blue"
    assert app.takes_a_write("blue")
    app.assert_followed()
    app.assert_nothing_lost()


@deep
def test_with_blue_dead_green_goes_on_serving(app: MovedApplication) -> None:
    app.move("green")
    ended = disturbed(app, "rollback", "open running after", partial(kill_server, app.blue))
    assert ended.returncode in {UNDONE, UNFINISHED}, app.what_was_said()
    assert app.says() == "green"
    for _ in range(30):
        assert app.takes_a_write("green"), app.what_was_said()
        settle(0.1)
    app.assert_followed()
    app.assert_nothing_lost()


@deep
def test_with_blue_refusing_its_acl_to_be_changed_writers_go_on_and_the_rest_is_undone_when_it_can_be(
    app: MovedApplication,
) -> None:
    app.blue.client.acl_setuser(
        "admin",
        enabled=True,
        passwords=["+secret"],
        categories=["-@all"],
        commands=["+acl", "+client"],
    )

    def refuse_setuser() -> None:
        app.blue.client.acl_setuser("default", enabled=True, commands=["-acl|setuser"])

    ended = disturbed(app, "cutover", "refuse running after", refuse_setuser)
    assert (ended.returncode, ended.error) == (UNFINISHED, "UndoFailed"), app.what_was_said()
    assert app.says() == "blue"
    began = monotonic()
    assert app.takes_a_write("blue")
    assert monotonic() - began < 2.0, "the pause was ended"
    with connect(app.blue.url.replace("redis://", "redis://admin:secret@")) as admin:
        admin.acl_setuser("default", enabled=True, commands=["+acl|setuser"])
    app.wait_until_ended()
    assert app.live.steps("cutover")["pause"] == "undone"
    app.assert_legal()
    app.assert_nothing_lost()


# -- an environment that cannot be written -----------------------------------------------------------------------------


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock that whoever writes an environment file takes."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@deep
@pytest.mark.parametrize("kind", ["cutover", "rollback"])
def test_an_environment_that_cannot_be_written_undoes_it(
    pair: tuple[Store, Store], tmp_path: Path, kind: Kind
) -> None:
    with moved_application(tmp_path, *pair, settings="lock_timeout = 0.2\n" + SETTINGS) as app:
        app.move("green")
        app.move(sides(kind)[0])
        pid = app.conductor.begin(
            Order(kind, kill_at=number_of(kind, "switch running before"), how="SIGSTOP", lease_seconds=LONG)
        )
        app.live.wait_until(partial(is_stopped, pid), "it stands still")
        with locked(app.live.env_file.parent):
            os.kill(pid, signal.SIGCONT)
            ended = app.conductor.end()
        assert_undone(app, ended, kind, "switch")
        assert_clean_again(app)


# -- budgets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "step"),
    [("drain_seconds = 5", "drain"), ("fence_seconds = 3", "pause")],
)
def test_a_step_that_takes_too_long_undoes_the_cutover(
    pair: tuple[Store, Store], tmp_path: Path, budget: str, step: str
) -> None:
    name = budget.partition(" ")[0]
    settings = SETTINGS.replace(budget, f"{name} = 0.0001", 1)
    with moved_application(tmp_path, *pair, settings=settings) as app:
        ended = app.conductor.do(Order("cutover"))
        assert (ended.returncode, ended.error) == (UNDONE, "Undone"), app.what_was_said()
        assert app.live.steps("cutover")[step] in {"failed", "undone"}
        assert app.says() == "blue"
        assert app.takes_a_write("blue")
        app.assert_followed()
        app.live.wait_until_clean()
        app.assert_nothing_lost()


def test_an_environment_that_was_switched_late_is_not_switched_back(
    pair: tuple[Store, Store], tmp_path: Path
) -> None:
    """Applications may have written to green by then."""
    settings = SETTINGS.replace("switch_seconds = 5", "switch_seconds = 0.0000001", 1)
    with moved_application(tmp_path, *pair, settings=settings) as app:
        ended = app.conductor.do(Order("cutover"))
        assert ended.returncode == 0, app.what_was_said()
        app.assert_legal()
        app.assert_nothing_lost()


# -- interruptions -----------------------------------------------------------------------------------------------------

INTERRUPTED: Final[tuple[tuple[Kind, str], ...]] = (
    ("cutover", "baseline running after"),
    ("cutover", "pause running after"),
    ("cutover", "drain done after"),
    ("cutover", "refuse done before"),
    ("cutover", "arm done before"),
    ("cutover", "open done after"),
    ("cutover", "switch running after"),
    ("cutover", "switch done before"),
    ("rollback", "pause done before"),
    ("rollback", "turn done before"),
    ("rollback", "open done before"),
    ("rollback", "switch done before"),
    ("cutover", "close running after"),
    ("rollback", "confirm running after"),
)


@deep
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_whoever_is_interrupted_undoes_or_leaves_the_applications_where_they_were_sent(
    app: MovedApplication, name: str, code: int
) -> None:
    for kind, call in INTERRUPTED:
        old, new = sides(kind)
        app.move(old)
        ended = app.do(
            Order(kind, kill_at=number_of(kind, call), how="SIGINT" if code == 130 else "SIGTERM"), call
        )
        assert (ended.returncode, ended.error) == (code, "Interrupted"), (
            f"{call} {ended}{app.what_was_said()}"
        )
        step = call.partition(" ")[0]
        switched = goes_forward(kind, call) and step != "open"
        assert app.says() == (new if switched else old), f"{name} {call}{app.what_was_said()}"
        app.assert_legal()
    app.move("blue")
    app.assert_nothing_lost()
    app.assert_rights_are_back()


# -- one after the other, and at once ----------------------------------------------------------------------------------


@deep
def test_there_and_back_twice_and_once_more_says_that_there_is_nothing_to_do(app: MovedApplication) -> None:
    for _ in range(2):
        assert app.live.run("cutover", "--yes", "--json").code == 0, app.what_was_said()
        app.assert_legal()
        assert app.live.run("rollback", "--yes", "--json").code == 0, app.what_was_said()
        app.assert_legal()
        again = app.live.run("rollback", "--yes", "--json")
        assert (again.code, again.json()["run"]) == (0, None)
        app.assert_legal()
    app.assert_nothing_lost()
    app.assert_rights_are_back()


@deep
@pytest.mark.parametrize("kind", ["cutover", "rollback"])
def test_while_an_operation_is_under_way_another_one_is_refused(app: MovedApplication, kind: Kind) -> None:
    app.move(sides(kind)[0])

    def try_both() -> None:
        assert app.live.run("cutover", "--yes", "--json").code == 4
        assert app.live.run("rollback", "--yes", "--json").code == 4

    ended = disturbed(app, kind, "pause running before", try_both)
    assert ended.returncode == 0, app.what_was_said()
    app.assert_legal()
    assert app.says() == sides(kind)[1]
    app.assert_nothing_lost()


@deep
def test_of_two_cutovers_that_begin_at_once_at_most_one_goes_through(app: MovedApplication) -> None:
    processes = [app.live.start("cutover", "--yes", "--json", name=f"cutover-{n}") for n in range(3)]
    codes = sorted(process.wait(timeout=60) for process in processes)
    assert codes.count(0) <= 1
    assert set(codes) <= {0, 4}
    app.assert_legal()
    assert app.says() == ("green" if 0 in codes else "blue")
    app.assert_nothing_lost()
