"""Health of real servers: under load, paused, stopped, full, evicting, restarted, killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic, sleep

import pytest
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from integrity.endpoint import Endpoint
from integrity.errors import AuthenticationFailed, ServerUnreachable
from integrity.ledger import Ledger, open_ledger
from integrity.ledger.models import RunKind
from integrity.ledger.samples import add_sample, read_samples
from integrity.settings import EndpointSettings, Settings, load_settings
from integrity.switch.health import Health, HealthProbe, measure_baseline, read_baseline, record_baseline
from tests.conftest import StartDragonfly, StartServer
from tests.servers import Store


def endpoint(store: Store, **more: object) -> Endpoint:
    return Endpoint.from_settings("target", EndpointSettings.model_validate({"url": store.url} | more))


@contextmanager
def probing(store: Store, **options: float) -> Iterator[HealthProbe]:
    server = endpoint(store)
    with HealthProbe(server, server.identify(), **({"window_seconds": 2.0} | options)) as probe:
        yield probe


def tell(store: Store, *words: str) -> object:
    """One command as it is typed."""
    reply: object = store.client.execute_command(*words)  # type: ignore[no-untyped-call]
    return reply


def until(probe: HealthProbe, true: Callable[[Health], object], seconds: float = 20.0) -> Health:
    """Look until it is *true*, a few times a second."""
    give_up = monotonic() + seconds
    while not true(health := probe.sample()):
        assert monotonic() < give_up, health
        sleep(0.2)
    return health


def settled(probe: HealthProbe, seconds: float = 2.2) -> Health:
    """After a whole window."""
    probe.sample()
    sleep(seconds)
    return probe.sample()


@contextmanager
def calling(store: Store, call: Callable[[Redis, int], object]) -> Iterator[None]:
    """An application that calls again and again; what the server refuses is its own business."""
    stop = Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                call(store.client, number)
            except ResponseError:
                stop.wait(0.01)
            except RedisError:
                return

    thread = Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_server_under_load_is_healthy_and_its_numbers_are_the_loads(green: Store) -> None:
    if shutil.which("redis-benchmark") is None:
        pytest.skip("no redis-benchmark on PATH")
    port = green.url.rsplit(":", 1)[1].split("/")[0]
    command = [
        "redis-benchmark",
        "-p",
        port,
        "-c",
        "7",
        "-n",
        "100000000",
        "-r",
        "1000",
        "-t",
        "set,get",
        "-q",
    ]
    load = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with probing(green) as probe:
            sleep(0.5)
            health = settled(probe)
    finally:
        load.kill()
        load.wait()
    assert health.reachable
    assert health.problem is None
    assert health.ops_per_second is not None
    assert health.ops_per_second > 1000
    assert health.clients is not None
    # Seven of the load (which has one more for its questions), and the test's own.
    assert 7 <= health.clients <= 10
    assert health.latency_p50_ms is not None
    assert health.latency_max_ms is not None
    assert 0 < health.latency_p50_ms <= health.latency_max_ms < 1000
    assert health.probes >= 10
    assert health.errors_per_second == 0
    assert health.refused_writes_per_second == 0
    assert health.role == "master"


def test_a_server_that_nobody_uses_shows_none_of_our_own_traffic(green: Store) -> None:
    with probing(green) as probe:
        health = settled(probe)
        connected = green.client.client_list()
    ours = [client for client in connected if str(client["name"]).startswith("greenfly:watch")]
    assert len(ours) == 2
    assert health.clients == len(connected) - len(ours)
    assert health.ops_per_second is not None
    # Twenty probes of two commands and one look of seven are around 47 a second.
    assert health.ops_per_second < 8
    assert health.lookups_per_second is not None
    assert health.lookups_per_second < 3
    assert health.hit_ratio is None or health.lookups_per_second > 0


def test_the_hit_ratio_is_that_of_the_application(green: Store) -> None:
    green.client.set("there", "x")
    with (
        probing(green) as probe,
        calling(green, lambda client, n: client.get("there" if n % 4 else "missing")),
    ):
        health = settled(probe)
    assert health.hit_ratio == pytest.approx(0.75, abs=0.03)


def test_error_replies_are_counted(green: Store) -> None:
    green.client.set("text", "x")
    with probing(green) as probe, calling(green, lambda client, _: client.lpush("text", "y")):
        health = settled(probe)
    assert health.errors_per_second is not None
    assert health.errors_per_second > 20


def test_a_paused_server_answers_late_and_every_kept_back_probe_counts(green: Store) -> None:
    with probing(green) as probe:
        before = settled(probe)
        tell(green, "CLIENT", "PAUSE", "1500", "ALL")
        sleep(1.2)
        # Our look waits for the end of the pause, as everybody does.
        during = probe.sample()
        after = until(probe, lambda health: health.latency_p99_ms is not None and health.latency_p99_ms < 700)
    assert before.latency_p99_ms is not None
    assert before.latency_p99_ms < 700
    assert during.latency_p99_ms is not None
    assert during.latency_p99_ms > 1000
    assert during.latency_p50_ms is not None
    assert during.latency_p50_ms > before.latency_p99_ms
    assert after.reachable


def stopped(store: Store) -> int:
    assert store.server is not None
    assert store.server.pid is not None
    return store.server.pid


def test_a_stopped_server_is_unreachable_for_as_long_as_it_is(start_redis: StartServer) -> None:
    store = start_redis()
    pid = stopped(store)
    with probing(store) as probe:
        assert settled(probe).reachable
        os.kill(pid, signal.SIGSTOP)
        begun = monotonic()
        try:
            health = until(probe, lambda health: not health.reachable)
            health = until(probe, lambda health: health.unreachable_seconds > 4)
            took = monotonic() - begun
        finally:
            os.kill(pid, signal.SIGCONT)
        back = until(probe, lambda health: health.reachable and health.ops_per_second is not None)
    assert health.unreachable_seconds == pytest.approx(took, abs=1.0)
    assert health.problem is not None
    assert health.used_memory is None
    assert health.latency_p99_ms is not None
    assert health.latency_p99_ms > 2000
    assert back.restarts == 0
    assert back.unreachable_seconds == 0


def test_a_killed_server_is_dead_without_a_latency(start_redis: StartServer) -> None:
    store = start_redis()
    with probing(store) as probe:
        assert settled(probe).reachable
        os.kill(stopped(store), signal.SIGKILL)
        begun = monotonic()
        # A look costs nothing where the connection is refused.
        health = until(
            probe, lambda health: health.unreachable_seconds > 2.5 and health.latency_p99_ms is None
        )
        looks = monotonic() - begun
    assert health.problem is not None
    assert looks < 6


def test_looks_at_a_stopped_server_do_not_wait_longer_than_two_seconds_each(start_redis: StartServer) -> None:
    store = start_redis()
    pid = stopped(store)
    with probing(store) as probe:
        probe.sample()
        os.kill(pid, signal.SIGSTOP)
        try:
            begun = monotonic()
            for _ in range(3):
                probe.sample()
            took = monotonic() - begun
        finally:
            os.kill(pid, signal.SIGCONT)
    assert took < 6


def fill(client: Redis, number: int) -> None:
    client.set(f"key:{number}", "x" * 10_000)


def test_a_redis_at_its_limit_has_no_headroom_and_counts_refused_writes(start_redis: StartServer) -> None:
    store = start_redis("--maxmemory", "5mb", "--maxmemory-policy", "noeviction")
    with probing(store) as probe:
        assert until(probe, lambda health: health.headroom is not None).headroom != 0
        with calling(store, fill):
            health = until(probe, lambda health: (health.refused_writes_per_second or 0) > 5)
    assert health.max_memory == 5 * 1024 * 1024
    assert health.headroom is not None
    assert health.headroom < 0.05
    assert health.evicted_per_second == 0
    assert health.errors_per_second is not None
    assert health.errors_per_second >= (health.refused_writes_per_second or 0)


def test_a_redis_that_evicts_says_so(start_redis: StartServer) -> None:
    store = start_redis("--maxmemory", "5mb", "--maxmemory-policy", "allkeys-lru")
    with probing(store) as probe, calling(store, fill):
        health = until(probe, lambda health: (health.evicted_per_second or 0) > 5)
    assert health.refused_writes_per_second == 0


@pytest.mark.dragonfly
def test_a_dragonfly_at_its_limit_has_no_headroom_and_counts_refused_writes(
    start_dragonfly: StartDragonfly,
) -> None:
    store = start_dragonfly()
    with probing(store) as probe:
        tell(store, "CONFIG", "SET", "maxmemory", "60mb")
        with calling(store, lambda client, number: client.set(f"key:{number}", "x" * 200_000)):
            health = until(probe, lambda health: (health.refused_writes_per_second or 0) > 5)
    assert health.headroom is not None
    assert health.headroom < 0.1
    assert health.rejected_per_second is None


def test_rejected_connections_are_counted(start_redis: StartServer) -> None:
    store = start_redis("--maxclients", "4")
    with probing(store) as probe:
        until(probe, lambda health: health.rejected_per_second == 0)
        port = int(store.url.rsplit(":", 1)[1].split("/")[0])
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(10)]
        try:
            health = until(probe, lambda health: (health.rejected_per_second or 0) > 0, 5.0)
        finally:
            for client in clients:
                client.close()
    assert health.reachable


def test_another_process_in_its_place_is_a_restart(start_redis: StartServer) -> None:
    store = start_redis()
    other = start_redis()
    server = endpoint(store)
    with HealthProbe(server, endpoint(other).identify(), window_seconds=1.0) as probe:
        assert probe.sample().restarts == 1
        assert probe.sample().restarts == 1


def test_who_is_seen_first_is_no_restart_where_nobody_was_known(green: Store) -> None:
    with HealthProbe(endpoint(green), None, window_seconds=1.0) as probe:
        assert probe.sample().restarts == 0


def test_a_replica_says_that_it_is_one(start_redis: StartServer) -> None:
    master, replica = start_redis(), start_redis()
    port = master.url.rsplit(":", 1)[1].split("/")[0]
    tell(replica, "REPLICAOF", "127.0.0.1", port)
    with probing(replica) as probe:
        assert until(probe, lambda health: health.role is not None).role == "replica"


def test_a_server_that_refuses_us_is_not_dead(start_redis: StartServer) -> None:
    store = start_redis()
    with probing(store) as probe:
        assert settled(probe).reachable
        tell(store, "ACL", "SETUSER", "default", "-info", "-ping", "-get")
        health = settled(probe, 3.0)
        tell(store, "ACL", "SETUSER", "default", "+@all")
        back = until(probe, lambda health: health.role is not None and health.latency_p50_ms is not None)
    assert health.reachable
    assert health.problem is not None
    assert health.role is None
    assert back.problem is None


def test_a_user_who_may_not_read_the_probes_key_is_measured_by_ping_alone(start_redis: StartServer) -> None:
    store = start_redis()
    tell(store, "ACL", "SETUSER", "watcher", "on", ">secret", "~app:*", "+@all")
    server = endpoint(store, username="watcher", password="secret")
    with HealthProbe(server, None, window_seconds=2.0) as probe:
        health = settled(probe)
        log = tell(store, "ACL", "LOG")
    assert health.latency_p50_ms is not None
    assert health.probes >= 10
    # One refusal, and no more of them.
    assert isinstance(log, list)
    assert len(log) <= 1


def endless_script(client: Redis) -> None:
    with pytest.raises(RedisError):
        client.eval("while true do end", 0)


def test_a_script_that_does_not_end_is_no_service(start_redis: StartServer) -> None:
    store = start_redis("--busy-reply-threshold", "200")
    with probing(store) as probe:
        assert settled(probe).reachable
        endless = Thread(target=endless_script, args=(store.client,))
        endless.start()
        try:
            health = until(probe, lambda health: not health.reachable)
        finally:
            with Redis(port=int(store.url.rsplit(":", 1)[1].split("/")[0])) as killer:
                killer.script_kill()
            endless.join()
        back = until(probe, lambda health: health.reachable and health.problem is None)
    assert health.problem is not None
    assert back.unreachable_seconds == 0


# -- the baseline ------------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> Settings:
    return load_settings({"state_dir": str(tmp_path)}, environ={}).settings


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    opened = open_ledger(settings)
    yield opened
    opened.close()


def test_a_baseline_is_measured_recorded_and_read_back(
    blue: Store, ledger: Ledger, settings: Settings
) -> None:
    blue.client.set("there", "x")
    with calling(blue, lambda client, _: client.get("there")):
        baseline = measure_baseline(endpoint(blue), 1.5)
    run = ledger.start_run(RunKind.CUTOVER, settings)
    record_baseline(ledger.engine, run.id, baseline)
    add_sample(ledger.engine, run.id, "client", {"at_ms": 1.0, "ok": True})
    (row,) = read_samples(ledger.engine, run.id, "blue")
    assert row.at == baseline.at
    found = read_baseline(ledger.engine, run.id)
    assert found is not None
    assert found == Health.from_dict(baseline.to_dict())
    assert found.hit_ratio == 1.0
    assert found.ops_per_second is not None
    assert found.ops_per_second > 50
    assert found.latency_p99_ms is not None


def test_of_several_samples_of_blue_the_median_is_the_baseline(ledger: Ledger, settings: Settings) -> None:
    run = ledger.start_run(RunKind.CUTOVER, settings)
    for ops, clients in ((100.0, 3), (300.0, 9), (120.0, 4)):
        add_sample(ledger.engine, run.id, "blue", {"ops_per_second": ops, "clients": clients})
    add_sample(ledger.engine, run.id, "blue", {"reachable": False, "ops_per_second": 1.0})
    add_sample(ledger.engine, run.id, "blue", {"reachable": "of another kind"})
    found = read_baseline(ledger.engine, run.id)
    assert found is not None
    assert (found.ops_per_second, found.clients) == (120.0, 4)


def test_where_nothing_was_recorded_there_is_no_baseline(ledger: Ledger, settings: Settings) -> None:
    assert read_baseline(ledger.engine, ledger.start_run(RunKind.CUTOVER, settings).id) is None


def test_no_baseline_is_made_up_for_a_server_that_does_not_answer(start_redis: StartServer) -> None:
    store = start_redis(password="secret")
    with pytest.raises(AuthenticationFailed):
        measure_baseline(endpoint(Store(store.url.replace("secret", "wrong"), "redis", "7")), 0.5)
    os.kill(stopped(store), signal.SIGKILL)
    sleep(0.2)
    with pytest.raises(ServerUnreachable):
        measure_baseline(endpoint(store), 0.5)
