"""A run that is stopped, or loses a server, in the middle: the ledger tells it, and the next run makes it good."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import weakref
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from time import monotonic, sleep

import pytest
from sqlalchemy import Dialect

from integrity.ledger.models import UtcDateTime
from integrity.transfer.temporary import PREFIX as TEMPORARY_PREFIX
from tests.cli import Greenfly, dig
from tests.conftest import StartDragonfly, StartServer
from tests.faults.aftermath import assert_closed, assert_same, assert_works_now
from tests.inprocess import between, run_here
from tests.proxy import Proxy
from tests.raw import Raw
from tests.servers import Store

KEYS = 6_000
SLOWLY = {"GREENFLY_COPY__BATCH_KEYS": "1", "GREENFLY_LEASE_SECONDS": "1"}
"""A batch for each key makes a copy of little data last for seconds."""
AT_ONCE = {"GREENFLY_RECONNECT_SECONDS": "0"}
"""A lost server ends the run; :mod:`tests.faults.test_reconnect` is about waiting for it."""


def fill_slowly_copied(store: Store) -> None:
    pipeline = store.client.pipeline(transaction=False)
    for number in range(KEYS):
        pipeline.set(f"k:{number}", f"value {number}")
    pipeline.execute()


def streamed(greenfly: Greenfly) -> int:
    """Keys behind the stream's checkpoints, straight from the ledger's file."""
    path = greenfly.state_dir / "ledger.sqlite3"
    if not path.exists():
        return 0
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as database:
        try:
            row = database.execute("SELECT sum(keys) FROM checkpoint WHERE phase = 'stream'").fetchone()
        except sqlite3.OperationalError:
            return 0
    return int(row[0] or 0)


def start_and_wait(greenfly: Greenfly, *arguments: str, keys: int = 300) -> subprocess.Popen[str]:
    """Start a migration and come back when it is in the middle of the copy."""
    process = greenfly.start("migrate", *arguments, "--no-snapshot", "--json", env=SLOWLY | AT_ONCE)
    deadline = monotonic() + 40
    while streamed(greenfly) < keys:
        assert process.poll() is None, process.communicate()
        assert monotonic() < deadline, "the copy did not begin"
        sleep(0.005)
    return process


def end_of(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=40)
    return process.returncode, out, err


def newest(greenfly: Greenfly, name: str) -> object:
    return run_here(greenfly, "runs", "list", "--json").at("runs", 0, name)


def kill(store: Store) -> None:
    """End a server that this test started, without a chance to say good-bye."""
    assert store.server is not None
    assert store.server.pid is not None
    os.kill(store.server.pid, signal.SIGKILL)


def keys_of(store: Store) -> set[bytes]:
    with Raw(store.url) as raw:
        return raw.keys()


# -- signals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["SIGINT", "SIGTERM", "SIGHUP"],
)
def test_a_signal_ends_the_run_in_the_ledger_and_the_next_run_makes_it_good(
    blue: Store, green_redis: Store, greenfly: Greenfly, number: signal.Signals, code: int
) -> None:
    fill_slowly_copied(blue)
    servers = between(blue.url, green_redis.url)
    process = start_and_wait(greenfly, *servers)

    process.send_signal(number)
    returned, out, err = end_of(process)

    assert returned == code, err
    assert "Traceback" not in err
    assert "error" in out
    run_id = assert_closed(greenfly, state="interrupted")
    assert len(keys_of(green_redis)) < KEYS
    shown = run_here(greenfly, "runs", "show", run_id, "--json")
    checkpoints = shown.at("checkpoints")
    assert isinstance(checkpoints, list)
    copied = dig(checkpoints[0], "keys")
    assert isinstance(copied, int)
    assert 300 <= copied <= len(keys_of(green_redis))
    assert (dig(checkpoints[0], "done"), shown.at("verdict")) == (False, "INCONCLUSIVE")
    again = run_here(greenfly, "migrate", *servers, "--no-snapshot", "--json")
    assert (again.exit_code, again.at("error", "kind")) == (4, "Refused")
    assert run_id in str(again.at("error", "remedy"))
    assert_works_now(greenfly, blue.url, green_redis.url, "--conflict", "replace")
    assert_same(blue.url, green_redis.url)


def test_a_signal_during_replace_leaves_nothing_of_ours_behind(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    fill_slowly_copied(blue)
    fill_slowly_copied(green)
    green.client.set("k:7", "old")
    process = start_and_wait(greenfly, *between(blue.url, green.url), "--conflict", "replace")

    process.send_signal(signal.SIGTERM)
    returned, _, err = end_of(process)

    assert returned == 143, err
    assert {key for key in keys_of(green) if key.startswith(TEMPORARY_PREFIX)} == set()
    assert_works_now(greenfly, blue.url, green.url, "--conflict", "replace")
    assert_same(blue.url, green.url)


def test_a_killed_run_is_lost_when_its_lease_ends(
    blue: Store, green_redis: Store, greenfly: Greenfly
) -> None:
    fill_slowly_copied(blue)
    process = start_and_wait(greenfly, *between(blue.url, green_redis.url))
    assert newest(greenfly, "state") == "running"

    process.kill()
    process.communicate(timeout=10)

    deadline = monotonic() + 10
    while newest(greenfly, "state") != "lost":
        assert monotonic() < deadline
        sleep(0.1)
    assert newest(greenfly, "verdict") is None
    assert run_here(greenfly, "audit", "verify").exit_code == 0
    report = run_here(greenfly, "report", "latest", "--json")
    assert report.exit_code == 0, report.stderr
    assert_works_now(greenfly, blue.url, green_redis.url, "--conflict", "replace")
    assert_same(blue.url, green_redis.url)


def test_ctrl_c_during_verify_is_no_verdict(blue: Store, green_redis: Store, greenfly: Greenfly) -> None:
    blue.client.set("k", "v")
    # It waits a long time before it looks at the difference again.
    process = greenfly.start(
        *("verify", *between(blue.url, green_redis.url), "--json"),
        env={"GREENFLY_VERIFY__RECHECK_DELAY": "60"},
    )
    path, deadline = greenfly.state_dir / "ledger.sqlite3", monotonic() + 30
    while True:
        assert process.poll() is None, process.communicate()
        assert monotonic() < deadline
        if path.exists():
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as database:
                try:
                    if database.execute("SELECT count(*) FROM finding").fetchone()[0]:
                        break
                except sqlite3.OperationalError:
                    pass
        sleep(0.01)

    process.send_signal(signal.SIGINT)
    returned, _, err = end_of(process)

    assert returned == 130, err
    assert_closed(greenfly, state="interrupted")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("moment", [5, 9, 13])
def test_a_signal_in_the_middle_of_a_ledger_write_is_an_interruption_and_no_ledger_error(
    blue: Store,
    green_redis: Store,
    greenfly: Greenfly,
    monkeypatch: pytest.MonkeyPatch,
    moment: int,
    number: signal.Signals,
) -> None:
    blue.client.set("k", "v")
    honest, calls = UtcDateTime.process_bind_param, 0

    def interrupted(self: UtcDateTime, value: datetime | None, dialect: Dialect) -> datetime | None:
        nonlocal calls
        calls += 1
        if calls == moment:
            signal.raise_signal(number)
        return honest(self, value, dialect)

    monkeypatch.setattr(UtcDateTime, "process_bind_param", interrupted)

    run = run_here(greenfly, "migrate", *between(blue.url, green_redis.url), "--json")

    assert calls > moment
    assert (run.exit_code, run.at("error", "kind")) == (128 + number, "Interrupted")
    assert_closed(greenfly, state="interrupted")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_that_python_drops_inside_a_callback_of_its_own_is_not_lost(
    blue: Store,
    green_redis: Store,
    greenfly: Greenfly,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    """What a handler raises inside a weak reference's callback, the interpreter only reports."""
    blue.client.set("k", "v")
    honest, calls = UtcDateTime.process_bind_param, 0

    def interrupted(self: UtcDateTime, value: datetime | None, dialect: Dialect) -> datetime | None:
        nonlocal calls
        calls += 1
        if calls == 9:
            doomed = Doomed()
            watching = weakref.ref(doomed, lambda _: signal.raise_signal(number))
            del doomed
            assert watching() is None
            sleep(0.1)
        return honest(self, value, dialect)

    monkeypatch.setattr(UtcDateTime, "process_bind_param", interrupted)

    run = run_here(greenfly, "migrate", *between(blue.url, green_redis.url), "--json")

    assert (run.exit_code, run.at("error", "kind")) == (128 + number, "Interrupted")
    assert_closed(greenfly, state="interrupted")


class Doomed:
    """Something that a weak reference can watch."""


# -- servers that die --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["redis", pytest.param("dragonfly", marks=pytest.mark.dragonfly)])
def doomed_target(
    request: pytest.FixtureRequest, start_redis: StartServer, start_dragonfly: StartDragonfly
) -> Callable[[], Store]:
    return start_redis if request.param == "redis" else start_dragonfly


def test_a_target_that_dies_is_told_by_name_and_nothing_is_concluded(
    blue: Store, doomed_target: Callable[[], Store], greenfly: Greenfly
) -> None:
    fill_slowly_copied(blue)
    target = doomed_target()
    process = start_and_wait(greenfly, *between(blue.url, target.url))

    kill(target)
    returned, out, err = end_of(process)

    assert returned == 20, err
    assert target.url in out
    assert "Traceback" not in err
    assert_closed(greenfly)
    fresh = doomed_target()
    assert_works_now(greenfly, blue.url, fresh.url)
    assert_same(blue.url, fresh.url)


def test_a_source_that_dies_is_told_by_name_and_nothing_is_concluded(
    blue: Store, green_redis: Store, start_redis: StartServer, greenfly: Greenfly
) -> None:
    source = start_redis()
    fill_slowly_copied(source)
    process = start_and_wait(greenfly, *between(source.url, green_redis.url))

    kill(source)
    returned, out, err = end_of(process)

    assert returned == 10, err
    assert source.url in out
    assert_closed(greenfly)
    fill_slowly_copied(blue)
    assert_works_now(greenfly, blue.url, green_redis.url, "--conflict", "replace")
    assert_same(blue.url, green_redis.url)


def test_a_server_that_dies_during_verify_is_inconclusive(
    blue: Store, start_redis: StartServer, greenfly: Greenfly
) -> None:
    fill_slowly_copied(blue)
    target = start_redis()
    fill_slowly_copied(target)
    process = greenfly.start(
        *("verify", *between(blue.url, target.url), "--json"),
        env={"GREENFLY_VERIFY__BATCH_KEYS": "1"} | AT_ONCE,
    )
    path, deadline = greenfly.state_dir / "ledger.sqlite3", monotonic() + 40
    while True:
        assert process.poll() is None, process.communicate()
        assert monotonic() < deadline
        if path.exists():
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as database:
                try:
                    if database.execute("SELECT sum(keys) FROM checkpoint").fetchone()[0]:
                        break
                except sqlite3.OperationalError:
                    pass
        sleep(0.005)

    kill(target)
    returned, _, err = end_of(process)

    assert returned == 20, err
    assert_closed(greenfly)


# -- connections that break between two commands -----------------------------------------------------------------------


def cut_before_rename(data: bytes) -> tuple[bytes, bool]:
    """Let a temporary key be written, and cut the connection before it is renamed."""
    where = data.find(b"*3\r\n$6\r\nRENAME")
    return (data, False) if where < 0 else (data[:where], True)


@pytest.fixture
def half_replaced(blue: Store, green_dragonfly: Store) -> Store:
    for number in range(50):
        blue.client.rpush(f"k:{number}", "new")
        green_dragonfly.client.set(f"k:{number}", "old")
    return green_dragonfly


@pytest.mark.dragonfly
@pytest.mark.parametrize("way", [("--resume",), ("--conflict", "replace")], ids=["resume", "a new run"])
def test_a_temporary_key_of_a_broken_run_does_not_stay(
    blue: Store, half_replaced: Store, greenfly: Greenfly, way: tuple[str, ...]
) -> None:
    def temporary() -> set[bytes]:
        return {key for key in keys_of(half_replaced) if key.startswith(TEMPORARY_PREFIX)}

    def wait_for_it() -> None:
        deadline = monotonic() + 10
        while not temporary() and monotonic() < deadline:
            sleep(0.01)

    with Proxy(half_replaced.url, cut_before_rename, wait_for_it) as proxy:
        servers = between(blue.url, proxy.url)
        policy = ("--conflict", "replace")
        broken = run_here(greenfly, "migrate", *servers, "--no-snapshot", "--json", *policy, env=AT_ONCE)
        assert broken.exit_code == 20, broken.stderr
        assert proxy.cuts
        assert temporary(), "the connection was cut where a temporary key is left"

        proxy.change = lambda data: (data, False)
        assert_works_now(greenfly, blue.url, proxy.url, *way)

    assert temporary() == set()
    assert_same(blue.url, half_replaced.url)


def cut_after(count: int) -> Callable[[bytes], tuple[bytes, bool]]:
    """Cut a connection in the middle of the *count*-th RESTORE."""
    seen = 0

    def change(data: bytes) -> tuple[bytes, bool]:
        nonlocal seen
        seen += data.count(b"RESTORE")
        return (data[: len(data) // 2], True) if seen >= count else (data, False)

    return change


@pytest.mark.parametrize("count", [1, 40, 150])
def test_a_connection_that_breaks_in_the_middle_of_a_command_is_made_good(
    blue: Store, green: Store, greenfly: Greenfly, count: int
) -> None:
    for number in range(200):
        blue.client.rpush(f"k:{number}", "value")
    small = {"GREENFLY_COPY__BATCH_KEYS": "10"} | AT_ONCE

    with Proxy(green.url, cut_after(count)) as proxy:
        servers = between(blue.url, proxy.url)
        broken = run_here(greenfly, "migrate", *servers, "--no-snapshot", "--json", env=small)
        assert broken.exit_code == 20, broken.stderr
        assert_closed(greenfly)
        proxy.change = lambda data: (data, False)
        assert_works_now(greenfly, blue.url, proxy.url, "--resume")

    assert_same(blue.url, green.url)
