"""Room on the servers and on this machine, and their clocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import sleep
from typing import Final

import pytest

from integrity.assess import checks_time
from integrity.assess.checks_time import Offset
from integrity.assess.memory import MIB, MemoryNeed
from integrity.assess.model import Outcome, Severity
from integrity.assess.subject import Subject
from integrity.strategy import Strategy
from tests.assessing import checks_of, look, subject_of
from tests.conftest import StartDragonfly, StartServer
from tests.proxy import Proxy
from tests.raw import Raw, as_bytes, as_list
from tests.servers import Store

BLOCKING: Final = (Outcome.FOUND, Severity.BLOCKING)
WARNING: Final = (Outcome.FOUND, Severity.WARNING)
INFO: Final = (Outcome.FOUND, Severity.INFO)


def fill(store: Store, size: int) -> None:
    """About so many bytes, in values that do not shrink; one by one, because what a client sends counts for a while."""
    for number in range(size // 100_000):
        store.client.set(f"fill:{number}", b"x" * 100_000)


@pytest.fixture
def limited(green_redis: Store) -> Iterator[Store]:
    """A target whose limits a test may change; put back afterwards."""
    names = ("maxmemory", "maxmemory-policy", "maxclients")
    with Raw(green_redis.url) as raw:
        before = {name: as_bytes(as_list(raw("CONFIG", "GET", name))[1]) for name in names}
        yield green_redis
        for name, value in before.items():
            raw("CONFIG", "SET", name, value)


# -- memory ------------------------------------------------------------------------------------------------------------


def limit(subject: Subject, share: float) -> None:
    """As if so much of what the source's keys use were free; a real limit would move with the clients."""
    free = int(MemoryNeed.of(subject).keys * share)
    identity = subject.target_identity
    subject.target_identity = replace(identity, max_memory=identity.used_memory + free)


def test_keys_that_cannot_fit_block(blue: Store, green_redis: Store) -> None:
    fill(blue, 4_000_000)
    subject = subject_of(blue.url, green_redis.url)
    limit(subject, 0.9)
    finding = look(subject, "capacity.memory")
    assert (finding.outcome, finding.severity) == BLOCKING
    least, free = finding.evidence["target_least_bytes"], finding.evidence["target_free_bytes"]
    assert isinstance(least, int)
    assert isinstance(free, int)
    assert least > 4_000_000
    assert least > free


def test_keys_that_may_not_leave_what_is_to_stay_free_are_a_warning(blue: Store, green_redis: Store) -> None:
    fill(blue, 4_000_000)
    subject = subject_of(blue.url, green_redis.url)
    limit(subject, 1.05)
    finding = look(subject, "capacity.memory")
    assert (finding.outcome, finding.severity) == WARNING
    limit(subject, 3.0)
    assert look(subject, "capacity.memory").outcome is Outcome.PASSED


def test_a_limit_of_the_target_is_read_from_the_server(blue: Store, limited: Store) -> None:
    limited.client.config_set("maxmemory", 12 * MIB)
    finding = look(subject_of(blue.url, limited.url), "capacity.memory")
    assert finding.evidence["target_limit_bytes"] == 12 * MIB


def test_only_the_databases_of_the_run_count(blue: Store, green_redis: Store) -> None:
    fill(blue, 4_000_000)
    blue.database(3).set("small", 1)
    subject = subject_of(blue.url, green_redis.url)
    limit(subject, 0.5)
    subject.databases = (3,)
    assert look(subject, "capacity.memory").outcome is Outcome.PASSED


@pytest.mark.dragonfly
def test_dragonfly_needs_less_than_redis_and_has_room(blue: Store, green_dragonfly: Store) -> None:
    fill(blue, 2_000_000)
    subject = subject_of(blue.url, green_dragonfly.url)
    finding = look(subject, "capacity.memory")
    assert finding.outcome is Outcome.PASSED
    least, most = finding.evidence["target_least_bytes"], finding.evidence["target_most_bytes"]
    assert isinstance(least, int)
    assert isinstance(most, int)
    assert 500_000 < least < most
    resident = look(subject, "capacity.rss")
    assert resident.outcome is Outcome.PASSED
    assert resident.evidence["ratio"] == 1.25


@pytest.mark.dragonfly
def test_a_source_larger_than_dragonfly_loads_blocks_the_native_road_alone(
    blue: Store, start_dragonfly: StartDragonfly
) -> None:
    green = start_dragonfly("--maxmemory=512mb", "--rss_oom_deny_ratio=0.01")
    native, copy = (subject_of(blue.url, green.url, road) for road in (Strategy.NATIVE, Strategy.COPY))
    limited = int(native.source_identity.used_memory / 1.2)
    for subject in (native, copy):
        # The least that Dragonfly starts with is far more than a test should write.
        subject.target_identity = replace(subject.target_identity, max_memory=limited)
    finding = look(native, "capacity.memory")
    assert (finding.outcome, finding.severity) == BLOCKING
    assert finding.evidence["target_limit_bytes"] == limited
    assert look(copy, "capacity.memory").evidence.keys() != finding.evidence.keys()
    resident = look(copy, "capacity.rss")
    assert (resident.outcome, resident.severity) == BLOCKING
    assert resident.evidence["ratio"] == pytest.approx(0.01)


# -- eviction, threads, connections ------------------------------------------------------------------------------------


def test_a_target_that_evicts_blocks_where_the_source_does_not(blue: Store, limited: Store) -> None:
    limited.client.config_set("maxmemory", 100 * MIB)
    limited.client.config_set("maxmemory-policy", "volatile-ttl")
    finding = look(subject_of(blue.url, limited.url), "capacity.eviction")
    assert (finding.outcome, finding.severity) == BLOCKING
    assert finding.evidence["target_policy"] == "volatile-ttl"


@pytest.mark.dragonfly
def test_a_dragonfly_that_is_a_cache_evicts(
    start_dragonfly: StartDragonfly, start_redis: StartServer
) -> None:
    keeping, cache = start_redis(), start_redis("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru")
    green = start_dragonfly("--cache_mode=true", "--proactor_threads=1", "--maxmemory=300mb")
    finding = look(subject_of(keeping.url, green.url), "capacity.eviction")
    assert (finding.outcome, finding.severity) == BLOCKING
    by_design = look(subject_of(cache.url, green.url), "capacity.eviction")
    assert (by_design.outcome, by_design.severity) == WARNING
    threads = look(subject_of(keeping.url, green.url), "capacity.threads")
    assert (threads.outcome, threads.severity) == INFO
    assert threads.evidence["threads"] == 1


def test_a_policy_without_a_limit_evicts_nothing(blue: Store, limited: Store) -> None:
    limited.client.config_set("maxmemory-policy", "allkeys-lru")
    assert look(subject_of(blue.url, limited.url), "capacity.eviction").outcome is Outcome.PASSED


def test_a_server_without_room_for_the_connections_blocks(blue: Store, limited: Store) -> None:
    limited.client.config_set("maxclients", int(limited.client.info("clients")["connected_clients"]) + 5)
    finding = look(subject_of(blue.url, limited.url), "capacity.connections")
    assert (finding.outcome, finding.severity) == BLOCKING
    limited.client.config_set("maxclients", int(limited.client.info("clients")["connected_clients"]) + 15)
    finding = look(subject_of(blue.url, limited.url), "capacity.connections")
    assert (finding.outcome, finding.severity) == WARNING


# -- this machine, and the source's ------------------------------------------------------------------------------------


def test_a_disk_without_room_blocks_and_one_that_may_not_suffice_warns(
    blue: Store, green_redis: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(blue, 4_000_000)
    subject = subject_of(blue.url, green_redis.url, state_dir=tmp_path / "not" / "yet")

    def free(size: int) -> None:
        # No test should fill the disk.
        monkeypatch.setattr("integrity.assess.host_room.shutil.disk_usage", lambda place: _Usage(place, size))

    free(8 * MIB)
    finding = look(subject, "capacity.disk")
    assert (finding.outcome, finding.severity) == BLOCKING
    free(10 * MIB)
    finding = look(subject, "capacity.disk")
    assert (finding.outcome, finding.severity) == WARNING
    free(20 * MIB)
    assert look(subject, "capacity.disk").outcome is Outcome.PASSED
    without = subject_of(blue.url, green_redis.url, state_dir=tmp_path, snapshot={"enabled": False})
    free(9 * MIB)
    assert look(without, "capacity.disk").outcome is Outcome.PASSED


class _Usage:
    """What :func:`shutil.disk_usage` tells, of a folder that is there."""

    def __init__(self, place: Path, free: int) -> None:
        assert place.exists()
        self.free = free


def test_a_fork_is_looked_at_only_where_the_run_makes_one(
    start_redis: StartServer, green_redis: Store
) -> None:
    disk = start_redis("--repl-diskless-sync", "no")
    assert look(subject_of(disk.url, green_redis.url), "capacity.fork").outcome is Outcome.NOT_APPLICABLE
    subject = subject_of(disk.url, green_redis.url, snapshot={"method": "replication"})
    finding = look(subject, "capacity.fork")
    assert (finding.outcome, finding.severity) == INFO
    assert finding.evidence["diskless"] is False


def test_a_source_whose_last_save_failed_cannot_send_a_file(
    start_redis: StartServer, green_redis: Store, tmp_path: Path
) -> None:
    blue = start_redis("--repl-diskless-sync", "no", "--enable-protected-configs", "yes")
    folder = tmp_path / "gone"
    folder.mkdir()
    blue.client.config_set("dir", str(folder))
    folder.rmdir()
    blue.client.bgsave()
    _wait_until_saved(blue)
    on_disk = subject_of(blue.url, green_redis.url, Strategy.NATIVE)
    finding = look(on_disk, "capacity.fork")
    assert (finding.outcome, finding.severity) == BLOCKING
    blue.client.config_set("repl-diskless-sync", "yes")
    finding = look(subject_of(blue.url, green_redis.url, Strategy.NATIVE), "capacity.fork")
    assert (finding.outcome, finding.severity) == WARNING
    kept = look(subject_of(blue.url, green_redis.url), "rollback.persistence")
    assert "rdb_last_bgsave_status of the source" in kept.items


def _wait_until_saved(store: Store) -> None:
    for _ in range(200):
        if not store.client.info("persistence")["rdb_bgsave_in_progress"]:
            return
        sleep(0.05)
    raise AssertionError("BGSAVE does not end")


# -- time --------------------------------------------------------------------------------------------------------------


def test_clocks_of_one_machine_agree(blue: Store, green: Store) -> None:
    finding = look(subject_of(blue.url, green.url), "time.clocks")
    assert finding.outcome is Outcome.PASSED
    apart = finding.evidence["apart_ms"]
    assert isinstance(apart, float)
    assert apart < 500


def test_clocks_apart_block_and_a_machine_that_is_off_warns(
    blue: Store, green_redis: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = subject_of(blue.url, green_redis.url)

    def clocks(source: float, target: float) -> None:
        # A server's clock is its machine's, which a test does not move.
        told = {"source": Offset(source, 1.0), "target": Offset(target, 1.0)}
        monkeypatch.setattr(checks_time, "offset_of", lambda server: told[server.endpoint.role])

    clocks(0.0, 1_500.0)
    finding = look(subject, "time.clocks")
    assert (finding.outcome, finding.severity) == BLOCKING
    clocks(30_000.0, 30_001.0)
    finding = look(subject, "time.clocks")
    assert (finding.outcome, finding.severity) == WARNING


def test_round_trips_are_measured_for_as_long_as_is_wanted(blue: Store, green: Store) -> None:
    subject = subject_of(blue.url, green.url, assess={"watch_seconds": 0.2})
    finding = look(subject, "time.latency")
    assert finding.outcome in {Outcome.PASSED, Outcome.FOUND}
    looks, p50, p99 = (finding.evidence[name] for name in ("looks", "target_p50_ms", "target_p99_ms"))
    assert isinstance(looks, int)
    assert isinstance(p50, float)
    assert isinstance(p99, float)
    assert looks >= 20
    assert 0 < p50 <= p99


def test_a_server_that_is_far_away_is_told(blue: Store, green_redis: Store) -> None:
    def late(data: bytes) -> tuple[bytes, bool]:
        sleep(0.01)
        return data, False

    with Proxy(blue.url, late) as far:
        finding = look(subject_of(far.url, green_redis.url, assess={"watch_seconds": 0}), "time.latency")
    assert finding.outcome is Outcome.FOUND
    assert finding.evidence["looks"] == 5


def test_a_stall_of_the_source_is_told(start_redis: StartServer, green_redis: Store) -> None:
    blue = start_redis("--latency-monitor-threshold", "10", "--enable-debug-command", "yes")
    assert look(subject_of(blue.url, green_redis.url), "time.slow").outcome is Outcome.PASSED
    with Raw(blue.url) as raw:
        raw("DEBUG", "SLEEP", "1.1")
    finding = look(subject_of(blue.url, green_redis.url), "time.slow")
    assert (finding.outcome, finding.severity) == WARNING
    assert finding.items == ("command",)


def test_what_may_not_be_asked_is_unknown_and_does_not_block(blue: Store, green_redis: Store) -> None:
    blue.client.acl_setuser(
        "narrow", enabled=True, passwords=["+x"], keys=["*"], categories=["+@all"],
        commands=["-config", "-latency", "-slowlog", "-time", "-ping"],
    )  # fmt: skip
    subject = subject_of(blue.url.replace("://", "://narrow:x@"), green_redis.url, Strategy.NATIVE)
    for name in ("time.clocks", "time.latency", "time.slow", "native.output-buffer", "native.timeout"):
        finding = look(subject, name)
        assert finding.outcome is Outcome.UNKNOWN, name
        assert finding.severity is not Severity.BLOCKING, name


def test_ids_are_those_of_their_modules() -> None:
    for module in ("capacity", "time", "rights", "rollback", "native"):
        assert checks_of(module)
        assert all(name.startswith(f"{module}.") for name in checks_of(module))
