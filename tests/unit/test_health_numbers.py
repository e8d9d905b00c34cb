"""What INFO tells, rates between two looks, percentiles, and health as plain JSON."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrity.switch.health import Health
from integrity.switch.health_info import Counts, CountWindow, Rates, parse_facts
from integrity.switch.latency_window import Latencies, summarise

REDIS = """# Server
redis_version:7.0.15
run_id:0123456789abcdef
uptime_in_seconds:77
# Clients
connected_clients:12
blocked_clients:3
# Memory
used_memory:1000
used_memory_rss:2000
maxmemory:4000
# Persistence
loading:0
# Stats
total_commands_processed:500
rejected_connections:4
expired_keys:5
evicted_keys:6
keyspace_hits:70
keyspace_misses:30
total_error_replies:9
# Replication
role:master
"""
DRAGONFLY = """# Server
redis_version:7.4.0
dragonfly_version:df-v1.40.1
uptime_in_seconds:77
# Clients
connected_clients:12
max_clients:64000
blocked_clients:0
# Memory
used_memory:1000
used_memory_rss:2000
maxmemory:4000
# Persistence
loading:0
# Stats
total_commands_processed:500
rejected_connections:-1
expired_keys:5
evicted_keys:6
oom_rejections:8
keyspace_hits:70
keyspace_misses:30
# Replication
role:replica
master_replid:fedcba
"""


def test_redis_counts_its_errors_in_one_total_and_names_those_for_lack_of_memory() -> None:
    facts = parse_facts(REDIS, "# Errorstats\r\nerrorstat_ERR:count=6\r\nerrorstat_OOM:count=3\r\n")
    assert facts is not None
    assert facts.counts == Counts(500, 9, 4, 3, 6, 5, 70, 30)
    assert (facts.run_id, facts.role, facts.uptime_seconds) == ("0123456789abcdef", "master", 77)
    assert (facts.used_memory, facts.max_memory, facts.rss_memory) == (1000, 4000, 2000)
    assert (facts.clients, facts.blocked_clients) == (12, 3)


def test_redis_without_any_error_for_lack_of_memory_has_had_none() -> None:
    facts = parse_facts(REDIS, "# Errorstats\r\n")
    assert facts is not None
    assert facts.counts.refused_writes == 0


def test_dragonfly_counts_errors_by_text_and_does_not_tell_rejected_connections() -> None:
    kinds = ["syntax_error:2", "ERR odd: text: with colons:3", "-WRONGTYPE Operation:40", "no number"]
    errors = "\r\n".join(["# Errorstats", *kinds, ""])
    facts = parse_facts(DRAGONFLY, errors)
    assert facts is not None
    assert facts.counts == Counts(500, 45, None, 8, 6, 5, 70, 30)
    assert (facts.run_id, facts.role) == ("fedcba", "replica")


def test_a_redis_that_counts_no_errors_has_none_to_judge() -> None:
    facts = parse_facts(REDIS.replace("total_error_replies:9\n", ""), "")
    assert facts is not None
    assert facts.counts.errors is None
    assert facts.counts.refused_writes is None


def test_a_server_that_loads_tells_nothing_yet() -> None:
    assert parse_facts(REDIS.replace("loading:0", "loading:1"), "") is None


# -- rates -------------------------------------------------------------------------------------------------------------


def test_rates_are_those_of_the_window_without_the_own_commands_and_misses() -> None:
    window = CountWindow(5.0)
    window.add(0.0, Counts(0, 0, 0, 0, 0, 0, 0, 0), 0, 0)
    assert window.rates() == Rates()
    window.add(10.0, Counts(1000, 10, None, 20, 30, 40, 50, 60), 100, 10)
    window.add(12.0, Counts(1300, 12, None, 26, 38, 50, 62, 74), 200, 20)
    # Of the last 5 s, the look before them still counts: the window is full.
    assert window.rates().errors == 1.0
    window.add(16.0, Counts(1800, 22, None, 26, 38, 50, 92, 84), 400, 30)
    rates = window.rates()
    assert rates == Rates(
        commands=(800 - 300) / 6,
        errors=2.0,
        rejected=None,
        refused_writes=1.0,
        evicted=8 / 6,
        expired=10 / 6,
        lookups=(42 + 4) / 6,
        hit_ratio=(42 / 6) / (46 / 6),
    )


def test_counts_that_were_reset_make_no_negative_rate() -> None:
    window = CountWindow(5.0)
    window.add(0.0, Counts(commands=1000, errors=5), 0, 0)
    window.add(1.0, Counts(commands=3, errors=0), 10, 0)
    assert (window.rates().commands, window.rates().errors) == (0.0, 0.0)


def test_without_lookups_there_is_no_hit_ratio() -> None:
    window = CountWindow(5.0)
    window.add(0.0, Counts(hits=5, misses=5), 0, 0)
    window.add(1.0, Counts(hits=5, misses=25), 0, 20)
    assert (window.rates().lookups, window.rates().hit_ratio) == (0.0, None)


# -- percentiles -------------------------------------------------------------------------------------------------------


def test_percentiles_are_nearest_ranks_in_milliseconds() -> None:
    assert summarise([n / 1000 for n in range(1, 101)], 10.0) == Latencies(50.0, 90.0, 99.0, 100.0, 100)
    assert summarise([], 0.05) == Latencies()


def test_one_stall_counts_for_all_the_probes_that_it_kept_from_being_sent() -> None:
    fast = [0.001] * 60
    found = summarise([*fast, 2.0], 0.05)
    assert found.probes == 61
    assert found.longest == 2000.0
    # 39 of 100: those that would have been sent while it lasted, waiting for what was left of it.
    assert found.p50 == 1.0
    assert found.p90 is not None
    assert 1500.0 <= found.p90 <= 1600.0
    assert found.p99 is not None
    assert found.p99 >= 1900.0


@given(st.lists(st.floats(0.0, 3.0), min_size=1, max_size=50), st.floats(0.02, 1.0))
def test_percentiles_rise_and_end_with_the_longest(taken: list[float], every: float) -> None:
    found = summarise(taken, every)
    assert found.p50 is not None
    assert found.p90 is not None
    assert found.p99 is not None
    assert found.longest is not None
    assert found.p50 <= found.p90 <= found.p99 <= found.longest == round(max(taken) * 1000, 3)


# -- JSON --------------------------------------------------------------------------------------------------------------


NUMBER = st.none() | st.floats(0, 1e12).map(lambda number: round(number, 4))
COUNT = st.none() | st.integers(0, 2**60)
HEALTH = st.builds(
    Health,
    at=st.datetimes(timezones=st.just(UTC)),
    reachable=st.booleans(),
    unreachable_seconds=st.floats(0, 1e6).map(lambda number: round(number, 4)),
    problem=st.none() | st.text(max_size=20),
    latency_p50_ms=NUMBER,
    latency_p99_ms=NUMBER,
    used_memory=COUNT,
    max_memory=COUNT,
    clients=COUNT,
    ops_per_second=NUMBER,
    hit_ratio=NUMBER,
    role=st.sampled_from(["master", "replica", None]),
    restarts=st.integers(0, 9),
)


@given(HEALTH)
def test_health_comes_back_from_the_ledger_as_it_went_in(health: Health) -> None:
    text = json.dumps(health.to_dict())
    assert Health.from_dict(json.loads(text)) == health


def test_the_ledger_holds_every_number_and_the_headroom() -> None:
    health = Health(at=datetime.now(UTC), reachable=True, used_memory=25, max_memory=100)
    numbers = health.to_dict()
    assert set(numbers) == {field.name for field in fields(Health)} | {"headroom"}
    assert numbers["headroom"] == 0.75


def test_names_of_a_later_version_are_passed_over_and_those_of_an_earlier_one_unknown() -> None:
    at = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    assert Health.from_dict({"at": at.isoformat(), "novelty": [1]}) == Health(at=at, reachable=True)


@pytest.mark.parametrize(
    "numbers",
    [
        {},
        {"at": 5},
        {"at": "2026-01-01T00:00:00+00:00", "clients": "many"},
        {"at": "2026-01-01T00:00:00+00:00", "hit_ratio": True},
        {"at": "2026-01-01T00:00:00+00:00", "reachable": 1},
        {"at": "2026-01-01T00:00:00+00:00", "role": 4},
    ],
)
def test_numbers_of_another_kind_are_not_taken_for_health(numbers: dict[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (the kind of error is what matters)
        Health.from_dict(numbers)
