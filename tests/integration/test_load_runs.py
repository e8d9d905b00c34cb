"""The load against real servers: what it finds where nothing is wrong, and where something is."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, monotonic_ns, sleep
from typing import Final

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from greenfly.demo.servers import free_port
from tests.conftest import StartDragonfly, StartServer
from tests.load.author import PREFIX
from tests.load.compare import Kind
from tests.load.journal import Outcome, read
from tests.load.judge import at_risk_missing, check
from tests.load.load import Load, LoadFailed
from tests.load.replay import replay
from tests.load.state import Keyspace
from tests.load.timing import gaps, overlaps, switch_gaps
from tests.load.units import touched
from tests.oracle import compare
from tests.raw import Raw
from tests.servers import Store, connect

_RATE = 3000.0


_COMMANDS: Final = """
    APPEND COPY DEL EVAL EXPIRE FLUSHDB GETDEL GETEX GETSET HDEL HINCRBY HSET INCR INCRBY INCRBYFLOAT LINSERT LMOVE LPOP
    LPUSH LREM LSET LTRIM MOVE MSET MULTI PERSIST PEXPIRE PEXPIREAT PFADD RENAME RPOP RPOPLPUSH RPUSH SADD SET SETBIT
    SETRANGE SMOVE SPOP SREM UNLINK XACK XADD XCLAIM XDEL XGROUP XREADGROUP XTRIM ZADD ZINCRBY ZPOPMIN ZRANGESTORE ZREM
    ZREMRANGEBYRANK
"""


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    return tmp_path / "app.env"


def point(env_file: Path, blue: str, green: str | None = None) -> None:
    """Switch the application, as it is done: all at once."""
    fresh = env_file.with_suffix(".fresh")
    fresh.write_text(f"REDIS_URL={blue}\n" + (f"DRAGONFLY_URL={green}\n" if green else ""))
    os.replace(fresh, env_file)


def test_a_server_that_was_only_written_to_holds_what_was_acknowledged(
    green: Store, env_file: Path, tmp_path: Path
) -> None:
    point(env_file, green.url)
    with Load(env_file, tmp_path / "log", rate=_RATE, connections=6, emptied=9) as load:
        load.wait_for(8000)
        tally = load.stop()

    expected = replay(tmp_path / "log")

    assert check(expected, green.url) == []
    assert tally.surprises == 0
    assert tally.refused == 0
    assert expected.outcomes[Outcome.ACKNOWLEDGED] == tally.acknowledged >= 8000
    assert expected.outcomes[Outcome.UNKNOWN] == tally.unknown > 0, "somebody left without an answer"
    assert {0, 1, 5, 9} <= expected.databases
    assert len({type(held) for held in expected.held.values()}) == 7
    seen = {write.commands[0][0].decode() for write in read(tmp_path / "log")}
    assert seen == set(_COMMANDS.split())
    assert overlaps(tmp_path / "log") == []
    assert gaps(tmp_path / "log") != []


def test_a_password_is_used_and_does_not_get_into_the_log(
    start_redis: StartServer, env_file: Path, tmp_path: Path
) -> None:
    server = start_redis(password="hush-hush")
    point(env_file, server.url)
    with Load(env_file, tmp_path / "log", rate=_RATE, leavers_hz=100) as load:
        load.wait_for(1000)
        load.stop()

    expected = replay(tmp_path / "log")

    assert check(expected, server.url) == []
    assert any(server.database(0).exists(key) for choices in expected.undecided for _, key in choices[0])
    assert not any(b"hush" in path.read_bytes() for path in (tmp_path / "log").iterdir())


def test_the_rate_is_kept_to(blue: Store, env_file: Path, tmp_path: Path) -> None:
    point(env_file, blue.url)
    with Load(env_file, tmp_path / "log", rate=400, probe_hz=0, leavers_hz=0) as load:
        load.wait_for(50)
        before, begun = load.count().acknowledged, monotonic()
        sleep(2)
        written = (load.count().acknowledged - before) / (monotonic() - begun)
        load.set_rate(0)
        sleep(0.3)
        still = load.count().acknowledged
        sleep(0.3)
        assert load.count().acknowledged == still
        load.stop()

    assert 300 < written < 440


# -- what is not as it must be -----------------------------------------------------------------------------------------


def test_an_application_that_is_switched_without_a_move_is_found_out(
    blue: Store, green_redis: Store, env_file: Path, tmp_path: Path
) -> None:
    point(env_file, blue.url)
    with Load(env_file, tmp_path / "log", rate=_RATE, workers=3) as load:
        load.wait_for(1500)
        # Often enough that the processes do not notice all of them at the same instant.
        for _ in range(3):
            point(env_file, blue.url, green_redis.url)
            load.wait_for(400)
            point(env_file, blue.url)
            load.wait_for(400)
        tally = load.stop()

    expected = replay(tmp_path / "log")
    lost = {violation.kind for violation in check(expected, green_redis.url)}
    back = {violation.kind for violation in check(expected, blue.url)}

    assert {Kind.LOST, Kind.WRONG_REPLY} <= lost
    assert {Kind.LOST, Kind.RESURRECTED, Kind.WRONG_REPLY} <= back
    assert tally.surprises > 0
    assert overlaps(tmp_path / "log") != [], (
        "the processes did not switch at the same instant, and nothing held them"
    )
    assert [gap.to_side for gap in switch_gaps(tmp_path / "log")] == [
        store.url.removeprefix("redis://").rstrip("/") for store in (green_redis, blue) * 3
    ]


def test_what_a_side_lacks_is_what_the_other_has(
    start_redis: StartServer, green_redis: Store, env_file: Path, tmp_path: Path
) -> None:
    blue = start_redis("--repl-diskless-sync-delay", "0")
    follow(green_redis, blue)
    point(env_file, blue.url)
    with Load(env_file, tmp_path / "log", rate=_RATE, leavers_hz=0) as load:
        load.wait_for(1500)
        green_redis.client.replicaof("NO", "ONE")
        load.wait_for(500)
        load.stop()
    sleep(4.5)  # until nothing expires any more

    expected = replay(tmp_path / "log")

    assert check(expected, blue.url) == []
    differing = {(found.database, found.key) for found in compare(blue.url, green_redis.url)}
    assert at_risk_missing(expected, green_redis.url) == {
        place for place in differing if place[1].startswith(PREFIX)
    }
    assert differing


# -- a move that is done well ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["redis", pytest.param("dragonfly", marks=pytest.mark.dragonfly)])
def test_a_switch_behind_a_fence_loses_nothing_and_its_pause_is_measured(
    start_redis: StartServer,
    start_dragonfly: StartDragonfly,
    env_file: Path,
    tmp_path: Path,
    engine: str,
) -> None:
    old = start_redis("--repl-diskless-sync-delay", "0")
    new = start_redis() if engine == "redis" else start_dragonfly()
    with (
        keeper_of(old) as keeper,
        Load(env_file_for(env_file, old.url), tmp_path / "log", rate=_RATE) as load,
    ):
        load.wait_for(1500)
        follow(new, old)
        load.wait_for(1000)
        fence(keeper)
        fenced = monotonic()
        wait_until(lambda: replicated(old.client.info("replication")))
        new.client.replicaof("NO", "ONE")
        point(env_file, old.url, new.url)
        load.wait_for(1500)
        switched = monotonic()
        tally = load.stop()

    assert check(replay(tmp_path / "log"), new.url) == []
    assert tally.refused > 0
    assert tally.surprises == 0
    assert overlaps(tmp_path / "log") == []
    (pause,) = switch_gaps(tmp_path / "log")
    assert 0 < pause.seconds < switched - fenced


def test_what_a_fenced_server_refuses_has_no_effect(green: Store, env_file: Path, tmp_path: Path) -> None:
    point(env_file, green.url)
    with keeper_of(green) as keeper, Load(env_file, tmp_path / "log", rate=_RATE) as load:
        load.wait_for(1000)
        for _ in range(3):
            fence(keeper)
            try:
                sleep(0.3)
            finally:
                unfence(keeper)
            load.wait_for(500)
        tally = load.stop()

    assert check(replay(tmp_path / "log"), green.url) == []
    assert tally.refused > 100
    assert tally.surprises == 0


@contextmanager
def keeper_of(store: Store) -> Iterator[Raw]:
    """A client that no fence holds."""
    with Raw(store.url) as server:
        server("ACL", "SETUSER", "keeper", "on", ">secret", "+@all", "~*", "&*")
    with Raw(store.url.replace("redis://", "redis://keeper:secret@")) as keeper:
        yield keeper


def fence(keeper: Raw) -> None:
    """Refuse writes to everybody else."""
    keeper("ACL", "SETUSER", "default", "-@write")


def unfence(keeper: Raw) -> None:
    """Let everybody write again."""
    keeper("ACL", "SETUSER", "default", "+@all")


def env_file_for(env_file: Path, url: str) -> Path:
    """The environment file, written."""
    point(env_file, url)
    return env_file


def follow(replica: Store, source: Store) -> None:
    """Make a server follow another, and wait until it does."""
    host, _, port = source.url.removeprefix("redis://").rstrip("/").rpartition(":")
    replica.client.replicaof(host, port)
    wait_until(lambda: replica.client.info("replication").get("master_link_status") == "up")
    wait_until(lambda: "slave0" in source.client.info("replication"))
    wait_until(lambda: source.client.info("replication")["slave0"]["state"] == "online")


def replicated(facts: dict[str, object]) -> bool:
    """Whether a replica has read everything."""
    replica = facts["slave0"]
    assert isinstance(replica, dict)
    return bool(replica["offset"] == facts["master_repl_offset"])


def wait_until(done: Callable[[], bool], seconds: float = 10.0) -> None:
    """Ask again and again.

    :raises AssertionError: it does not happen in time.
    """
    until = monotonic() + seconds
    while not done():
        assert monotonic() < until
        sleep(0.005)


# -- when things end ---------------------------------------------------------------------------------------------------


def test_writes_that_a_killed_server_never_answered_are_done_or_not(env_file: Path, tmp_path: Path) -> None:
    port = free_port()
    url = f"redis://127.0.0.1:{port}"
    point(env_file, url)
    with durable(port, tmp_path) as first, Load(env_file, tmp_path / "log", rate=_RATE, leavers_hz=0) as load:
        load.wait_for(1500)
        first.kill()
        first.wait()
        sleep(0.2)
        with durable(port, tmp_path):
            load.wait_for(1500)
            tally = load.stop()
            expected = replay(tmp_path / "log")

            assert check(expected, url) == []
            assert (
                tally.unknown
                == len(expected.undecided) + sum(len(t.maybe) for t in expected.shared.values())
                > 0
            )
            assert tally.surprises == 0


@contextmanager
def durable(port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Redis that answers a write when it is on the disk."""
    data = folder / "data"
    data.mkdir(exist_ok=True)
    options = ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--dir", str(data)]
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", *options], stdout=subprocess.DEVNULL
    )
    try:
        with connect(f"redis://127.0.0.1:{port}") as client:
            wait_until(lambda: answers(client.ping))
        yield process
    finally:
        process.kill()
        process.wait()


def answers(ping: Callable[[], object]) -> bool:
    """Whether a server is up and has read its data."""
    try:
        ping()
    except (RedisError, RedisConnectionError):
        return False
    return True


def test_when_a_side_dies_what_the_other_lacks_are_its_last_writes(
    start_redis: StartServer, green_redis: Store, env_file: Path, tmp_path: Path
) -> None:
    dying = start_redis("--repl-diskless-sync-delay", "0")
    follow(green_redis, dying)
    point(env_file, dying.url)
    with Load(env_file, tmp_path / "log", rate=_RATE, leavers_hz=0) as load:
        load.wait_for(1500)
        load.stay()
        load.set_rate(0)
        sleep(0.2)
        dying.client.set("after all of them", b"")
        assert dying.client.wait(1, 5000) == 1
        green_redis.client.replicaof("NO", "ONE")
        torn_ns = monotonic_ns()
        load.set_rate(_RATE)
        load.wait_for(300)
        assert dying.server is not None
        assert dying.server.pid is not None
        os.kill(dying.server.pid, signal.SIGKILL)
        point(env_file, green_redis.url)
        load.wait_for(100)
        tally = load.stop()

    missing = at_risk_missing(replay(tmp_path / "log"), green_redis.url)

    late = {
        place
        for write in read(tmp_path / "log")
        if write.timed.ended_ns > torn_ns and write.timed.outcome is Outcome.ACKNOWLEDGED
        for place in touched(Keyspace(), write.database, write.commands)
    }
    assert missing
    assert missing <= late
    assert tally.unknown > 0
    (pause,) = switch_gaps(tmp_path / "log")
    assert pause.seconds < 1


def test_a_writer_that_is_killed_leaves_a_log_that_can_be_judged(
    blue: Store, env_file: Path, tmp_path: Path
) -> None:
    point(env_file, blue.url)
    with Load(env_file, tmp_path / "log", rate=_RATE, leavers_hz=0) as load:
        load.wait_for(1500)
        os.kill(load.pids[0], signal.SIGKILL)
        sleep(0.2)
        with pytest.raises(LoadFailed):
            load.stop()

    expected = replay(tmp_path / "log")

    assert check(expected, blue.url) == []
    assert expected.outcomes[Outcome.ACKNOWLEDGED] > 1500


def test_what_was_sent_into_a_pause_is_done_or_not_and_known_to_be_so(
    green: Store, env_file: Path, tmp_path: Path
) -> None:
    point(env_file, green.url)
    with Load(env_file, tmp_path / "log", rate=_RATE, leavers_hz=100, reply_timeout_s=0.3) as load:
        load.wait_for(1000)
        green.client.client_pause(800, all=False)
        sleep(0.8)
        load.wait_for(1000)
        tally = load.stop()
    sleep(0.3)

    expected = replay(tmp_path / "log")

    assert check(expected, green.url) == []
    assert tally.unknown > 20
    (pause,) = gaps(tmp_path / "log", at_least_s=0.5)
    assert 0.7 < pause.seconds < 1.5
