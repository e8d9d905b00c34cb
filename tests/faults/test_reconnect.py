"""Servers that are lost for a moment, restart, or stay away: the run waits, begins again or breaks off, and says so."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep
from typing import Final

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from greenfly.demo.process import dragonfly_options, end_process, free_port
from greenfly.demo.servers import find_dragonfly, find_redis_server
from tests.cli import Greenfly
from tests.faults.aftermath import assert_closed, assert_same, assert_works_now
from tests.faults.midway import at_most, ended, events, start_in_the_middle
from tests.inprocess import between
from tests.proxy import Proxy
from tests.runs import detail, migrate
from tests.servers import Store, connect

KEYS: Final = 8_000
SLOWLY: Final = at_most(6_000) | {"GREENFLY_COPY__BATCH_KEYS": "100", "GREENFLY_VERIFY__BATCH_KEYS": "100"}


class Restartable:
    """A server on a port that it keeps; a Redis can keep its data, too."""

    def __init__(self, engine: str, folder: Path) -> None:
        folder.mkdir()
        program = find_redis_server() if engine == "redis" else find_dragonfly()
        if program is None:
            pytest.skip(f"no {engine} on PATH")
        self._port = free_port()
        self._command = [str(program), "--port", str(self._port), "--bind", "127.0.0.1", "--dir", str(folder)]
        self._command += ["--save", ""] if engine == "redis" else dragonfly_options()
        self.url = f"redis://127.0.0.1:{self._port}"
        self.engine = engine
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def store(self) -> Store:
        """With connections of its own; the caller closes it."""
        return Store(self.url, self.engine, "")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
        deadline = monotonic() + 20
        while True:
            assert self._process.poll() is None, "the server did not start"
            try:
                with connect(self.url) as client:
                    if client.ping():
                        return
            except RedisError:
                assert monotonic() < deadline
                sleep(0.02)

    def stop(self, *, save: bool = False) -> None:
        assert self._process is not None
        if save:
            with connect(self.url) as client:
                client.save()
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        if self._process is not None:
            end_process(self._process)


@pytest.fixture
def restartable(tmp_path: Path) -> Iterator[Callable[[str], Restartable]]:
    """Start servers that can be stopped and started again."""
    with ExitStack() as stack:

        def start(engine: str = "redis") -> Restartable:
            server = Restartable(engine, tmp_path / f"server {free_port()}")
            stack.callback(server.close)
            return server

        yield start


def fill(store: Store) -> None:
    """Half of the keys in another database, so that two workers have something to do each."""
    for database in (0, 3):
        pipeline = store.database(database).pipeline(transaction=False)
        for n in range(KEYS // 2):
            if n % 4:
                pipeline.set(f"k:{n}", f"value {n}", px=3_600_000 + n if n % 3 else None)
            else:
                pipeline.rpush(f"k:{n}", n, n + 1)
        pipeline.execute()


def begin(greenfly: Greenfly, phase: str, source: str, target: str, *arguments: str) -> subprocess.Popen[str]:
    """A migration, met in the middle of one of its phases."""
    command = ("migrate", *between(source, target), "--no-snapshot", *arguments)
    return start_in_the_middle(greenfly, *command, env=SLOWLY, keys=1_000, phase=phase)


# -- connections that are cut ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["stream", "verify"])
@pytest.mark.parametrize("role", ["source", "target"])
def test_a_connection_that_is_closed_is_opened_again(
    blue: Store, green: Store, greenfly: Greenfly, role: str, phase: str
) -> None:
    fill(blue)
    process = begin(greenfly, phase, blue.url, green.url)

    victim = blue if role == "source" else green
    closed = 0
    for client in victim.client.client_list():
        if client["name"].startswith("greenfly:") and client["name"] != "greenfly:test":
            victim.client.client_kill_filter(_id=client["id"])
            closed += 1
    run = ended(process)

    assert closed
    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    name = str(run.at("run"))
    assert (events(greenfly, name, "server.lost"), events(greenfly, name, "server.back")) == (1, 1)
    assert events(greenfly, name, "ranges.restarted") == 0
    assert (detail(run, "stream", "written"), detail(run, "verify", "equal")) == (KEYS, KEYS)
    assert_same(blue.url, green.url)


@pytest.mark.parametrize("count", [1, 40, 150])
def test_a_connection_that_breaks_in_the_middle_of_a_command_is_opened_again(
    blue: Store, green: Store, greenfly: Greenfly, count: int
) -> None:
    for number in range(200):
        blue.client.rpush(f"k:{number}", "value")
    seen = 0

    def cut_once(data: bytes) -> tuple[bytes, bool]:
        nonlocal seen
        before = seen
        seen += data.count(b"RESTORE")
        return (data[: len(data) // 2], True) if before < count <= seen else (data, False)

    with Proxy(green.url, cut_once) as proxy:
        run = migrate(greenfly, blue.url, proxy.url, env={"GREENFLY_COPY__BATCH_KEYS": "10"})
        assert proxy.cuts == 1

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert detail(run, "stream", "written") == 200
    assert_same(blue.url, green.url)


def test_a_proxy_whose_server_is_gone_is_waited_for_and_not_taken_for_tls(
    blue: Store, green_redis: Store, greenfly: Greenfly
) -> None:
    """It accepts connections and closes them at once, as load balancers do."""
    for number in range(200):
        blue.client.rpush(f"k:{number}", "value")
    began: float | None = None

    def away_for_a_second(data: bytes) -> tuple[bytes, bool]:
        nonlocal began
        if b"RESTORE" in data and began is None:
            began = monotonic()
        return (b"", True) if began is not None and monotonic() - began < 1.0 else (data, False)

    with Proxy(green_redis.url, away_for_a_second) as proxy:
        run = migrate(greenfly, blue.url, proxy.url, env={"GREENFLY_COPY__BATCH_KEYS": "10"})
        assert proxy.cuts > 1

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert_same(blue.url, green_redis.url)


def test_a_server_that_hangs_for_a_while_is_waited_for(
    blue: Store, restartable: Callable[[str], Restartable], greenfly: Greenfly
) -> None:
    fill(blue)
    target = restartable("redis")
    env = SLOWLY | {"GREENFLY_TARGET__IO_TIMEOUT": "0.5", "GREENFLY_TARGET__CONNECT_TIMEOUT": "0.5"}
    command = ("migrate", *between(blue.url, target.url), "--no-snapshot")
    process = start_in_the_middle(greenfly, *command, env=env, keys=1_000)

    os.kill(target.pid, signal.SIGSTOP)
    sleep(1.5)
    os.kill(target.pid, signal.SIGCONT)
    run = ended(process)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert events(greenfly, str(run.at("run")), "server.lost") >= 1
    assert_same(blue.url, target.url)


# -- servers that restart ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("phase", ["stream", "verify"])
def test_a_source_that_restarts_with_its_data_is_read_from_the_beginning(
    green_redis: Store,
    restartable: Callable[[str], Restartable],
    greenfly: Greenfly,
    phase: str,
    workers: str,
) -> None:
    source = restartable("redis")
    with source.store as store:
        fill(store)
    process = begin(greenfly, phase, source.url, green_redis.url, "--workers", workers)

    source.stop(save=True)
    sleep(0.5)
    source.start()
    run = ended(process)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    name = str(run.at("run"))
    assert events(greenfly, name, "ranges.restarted") == 1
    assert "restarted" in run.stderr
    assert detail(run, "verify", "equal") == KEYS
    assert detail(run, "stream", "written") == KEYS
    assert_same(source.url, green_redis.url)


@pytest.mark.parametrize("engine", ["redis", pytest.param("dragonfly", marks=pytest.mark.dragonfly)])
def test_a_target_that_restarts_empty_during_the_copy_gets_everything(
    blue: Store, restartable: Callable[[str], Restartable], greenfly: Greenfly, engine: str
) -> None:
    fill(blue)
    target = restartable(engine)
    process = begin(greenfly, "stream", blue.url, target.url)

    target.stop()
    sleep(0.3)
    target.start()
    run = ended(process)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert events(greenfly, str(run.at("run")), "ranges.restarted") == 1
    assert_same(blue.url, target.url)


@pytest.mark.parametrize("keeps", [True, False], ids=["with its data", "empty"])
def test_a_target_that_restarts_during_verify_is_compared_from_the_beginning(
    blue: Store, restartable: Callable[[str], Restartable], greenfly: Greenfly, keeps: bool
) -> None:
    fill(blue)
    target = restartable("redis")
    process = begin(greenfly, "verify", blue.url, target.url)

    target.stop(save=keeps)
    sleep(0.3)
    target.start()
    run = ended(process)

    assert events(greenfly, str(run.at("run")), "ranges.restarted") == 1
    if keeps:
        assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
        assert detail(run, "verify", "equal") == KEYS
        assert_same(blue.url, target.url)
    else:
        assert (run.exit_code, run.at("verdict")) == (1, "FAIL"), "what is lost is said, not copied again"
        assert run.at("findings", "open") == {"missing": KEYS}


# -- servers that stay away --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("role", "code"), [("source", 10), ("target", 20)])
def test_a_server_that_stays_away_longer_than_the_budget_ends_the_run_which_can_be_resumed(
    blue: Store,
    green_redis: Store,
    restartable: Callable[[str], Restartable],
    greenfly: Greenfly,
    role: str,
    code: int,
) -> None:
    server = restartable("redis")
    with server.store as store:
        fill(store if role == "source" else blue)
    source, target = (server.url, green_redis.url) if role == "source" else (blue.url, server.url)
    process = begin(greenfly, "stream", source, target, "--reconnect", "1.5")

    began = monotonic()
    server.stop(save=True)
    run = ended(process)

    assert 1.0 < monotonic() - began < 15
    assert run.exit_code == code, run.stderr
    assert run.at("error", "kind") == "ServerUnreachable"
    assert "Traceback" not in run.stderr
    name = assert_closed(greenfly)
    assert (events(greenfly, name, "server.lost"), events(greenfly, name, "server.back")) == (1, 0)
    server.start()
    assert_works_now(greenfly, source, target, "--resume")
    assert_same(source, target)


def test_a_server_that_stays_away_during_verify_is_inconclusive(
    blue: Store, restartable: Callable[[str], Restartable], greenfly: Greenfly
) -> None:
    fill(blue)
    target = restartable("redis")
    process = begin(greenfly, "verify", blue.url, target.url, "--reconnect", "0.5")

    target.stop()
    run = ended(process)

    assert run.exit_code == 20
    assert_closed(greenfly, verdict="INCONCLUSIVE")
    with pytest.raises(RedisConnectionError), target.store as store:
        store.client.ping()


def test_no_budget_ends_the_run_at_once(blue: Store, green_redis: Store, greenfly: Greenfly) -> None:
    blue.client.rpush("k", "v")

    def cut(data: bytes) -> tuple[bytes, bool]:
        return (data[: len(data) // 2], True) if b"RESTORE" in data else (data, False)

    with Proxy(green_redis.url, cut) as proxy:
        began = monotonic()
        run = migrate(greenfly, blue.url, proxy.url, "--reconnect", "0")

    assert monotonic() - began < 5
    assert run.exit_code == 20
    assert "Trying again" not in run.stderr
