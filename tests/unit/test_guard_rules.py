"""The guard's rules over sequences of looks: when they fire, when they recover, and what they cannot tell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from integrity.ledger.sync_board import SyncStatus
from integrity.ledger.vocabulary import Direction, SyncState
from integrity.switch.guard_measures import MEANINGS, FallBack, Observation
from integrity.switch.guard_rules import RuleBook, RuleState, Status
from integrity.switch.health import Health
from integrity.switch.watch_settings import GuardRules, WatchSettings

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
WELL = Health(
    at=BEGIN,
    reachable=True,
    latency_p50_ms=0.5,
    latency_p90_ms=1.0,
    latency_p99_ms=2.0,
    latency_max_ms=3.0,
    probes=100,
    errors_per_second=1.0,
    rejected_per_second=0.0,
    refused_writes_per_second=0.0,
    used_memory=400,
    max_memory=1000,
    rss_memory=500,
    evicted_per_second=0.0,
    expired_per_second=0.0,
    clients=10,
    blocked_clients=0,
    ops_per_second=1000.0,
    lookups_per_second=500.0,
    hit_ratio=0.9,
    role="master",
    run_id="a",
    uptime_seconds=100.0,
)
FALL_BACK = FallBack(True, 0, 0.1, 0, None, 0.1)
FINE = Observation(WELL, FALL_BACK, fence_holds=True, blind_seconds=0.0, blue_silent_seconds=0.0)


def settings(**rules: dict[str, object]) -> WatchSettings:
    return WatchSettings.model_validate({"recover_seconds": 5.0, "rules": rules})


def health(**numbers: object) -> Observation:
    return replace(FINE, health=replace(WELL, **numbers))  # type: ignore[arg-type]


def judge(
    book: RuleBook, looks: Iterable[tuple[float, Observation]], name: str
) -> list[tuple[float, RuleState]]:
    states = []
    for seconds, seen in looks:
        at = BEGIN + timedelta(seconds=seconds)
        judged = book.judge(seconds, replace(seen, health=replace(seen.health, at=at)))
        states.append((seconds, next(state for state in judged if state.name == name)))
    return states


def statuses(
    looks: Iterable[tuple[float, Observation]], name: str, book: RuleBook | None = None, **limit: object
) -> list[Status]:
    book = book or RuleBook(settings(**{name: limit}), WELL)
    return [state.status for _, state in judge(book, looks, name)]


# -- one look ----------------------------------------------------------------------------------------------------------

IN_TROUBLE: dict[str, Observation] = {
    "latency_p50_ratio": health(latency_p50_ms=6.0),
    "latency_p99_ratio": health(latency_p99_ms=11.0),
    "latency_p99": health(latency_p99_ms=251.0),
    "errors": health(errors_per_second=11.1),
    "rejected_connections": health(rejected_per_second=0.2),
    "refused_writes": health(refused_writes_per_second=0.2),
    "evictions": health(evicted_per_second=1.1),
    "headroom": health(used_memory=901),
    "rss": health(rss_memory=1201),
    "clients": health(clients=4),
    "ops": health(ops_per_second=299.0),
    "hit_ratio": health(hit_ratio=0.69),
    "unreachable": health(reachable=False, unreachable_seconds=10.1),
    "blind": replace(FINE, blind_seconds=30.1),
    "restarted": health(restarts=1),
    "replica": health(role="replica"),
    "lag_keys": replace(FINE, fall_back=replace(FALL_BACK, dirty=100_001)),
    "lag_seconds": replace(FINE, fall_back=replace(FALL_BACK, lag_seconds=60.1)),
    "fall_back_silent": replace(FINE, fall_back=replace(FALL_BACK, silent_seconds=30.1)),
    "fall_back_gap": replace(FINE, fall_back=replace(FALL_BACK, gap="the feed was closed")),
    "fall_back_stuck": replace(FINE, fall_back=replace(FALL_BACK, stuck=1)),
    "blue_unreachable": replace(FINE, blue_silent_seconds=30.1),
    "fence": replace(FINE, fence_holds=False),
}


def test_every_rule_has_a_meaning_a_default_and_a_case_here() -> None:
    assert list(GuardRules.model_fields) == list(MEANINGS)
    assert set(IN_TROUBLE) == set(MEANINGS)


@pytest.mark.parametrize("name", list(MEANINGS))
def test_each_rule_is_over_in_its_own_trouble_and_not_when_all_is_well(name: str) -> None:
    book = RuleBook(WatchSettings(), WELL)
    well, trouble = judge(book, [(0.0, FINE), (1.0, IN_TROUBLE[name])], name)
    assert well[1].status is Status.OK
    assert not well[1].over
    assert trouble[1].over
    assert trouble[1].status in {Status.OVER, Status.BREACHED}


def test_without_a_baseline_only_the_rules_that_compare_are_unknown() -> None:
    book = RuleBook(WatchSettings(), None)
    unknown = {state.name for state in book.judge(0.0, FINE) if state.status is Status.UNKNOWN}
    assert unknown == {"latency_p50_ratio", "latency_p99_ratio", "clients", "ops", "hit_ratio"}


def test_what_a_server_does_not_tell_is_unknown_and_never_a_breach() -> None:
    silent = Observation(Health(at=BEGIN, reachable=True))
    states = {state.name: state for state in RuleBook(WatchSettings(), WELL).judge(0.0, silent)}
    known = {name for name, state in states.items() if state.status is not Status.UNKNOWN}
    assert known == {"unreachable", "blind", "restarted"}
    assert not any(state.over for state in states.values())


def test_a_memory_without_limit_has_no_headroom_to_judge() -> None:
    assert statuses([(0.0, health(max_memory=0))], "headroom") == [Status.UNKNOWN]
    assert statuses([(0.0, health(max_memory=0))], "rss") == [Status.UNKNOWN]


def test_a_latency_below_the_floor_breaches_no_ratio_however_good_blue_was() -> None:
    fast = replace(WELL, latency_p50_ms=0.01, latency_p99_ms=0.02)
    book = RuleBook(WatchSettings(), fast)
    (state,) = judge(book, [(0.0, health(latency_p50_ms=4.9))], "latency_p50_ratio")
    assert not state[1].over
    (state,) = judge(book, [(1.0, health(latency_p50_ms=5.1))], "latency_p50_ratio")
    assert state[1].over


def test_errors_and_evictions_that_blue_had_too_do_not_count() -> None:
    busy = replace(WELL, errors_per_second=100.0, evicted_per_second=50.0)
    for name, same in (
        ("errors", health(errors_per_second=105.0)),
        ("evictions", health(evicted_per_second=50.5)),
    ):
        assert statuses([(0.0, same)], name, RuleBook(WatchSettings(), busy)) == [Status.OK]


def test_a_hit_ratio_of_a_handful_of_lookups_says_nothing() -> None:
    assert statuses([(0.0, health(hit_ratio=0.0, lookups_per_second=2.0))], "hit_ratio") == [Status.UNKNOWN]


def test_a_rule_that_is_switched_off_says_nothing() -> None:
    assert statuses([(0.0, health(restarts=3))], "restarted", enabled=False) == [Status.OFF]


# -- over time ---------------------------------------------------------------------------------------------------------


BAD = health(latency_p99_ms=1000.0)


def test_a_limit_passed_for_long_enough_is_a_breach_from_the_first_look_on() -> None:
    book = RuleBook(settings(latency_p99={"for_seconds": 3.0}), WELL)
    states = judge(book, [(float(second), BAD) for second in range(5)], "latency_p99")
    assert [state.status for _, state in states] == [Status.OVER] * 3 + [Status.BREACHED] * 2
    assert states[3][1].since == BEGIN
    assert states[4][1].breached_for == 1.0


def test_a_single_good_look_starts_the_time_anew() -> None:
    looks = [(0.0, BAD), (2.0, BAD), (3.0, FINE), (4.0, BAD), (6.0, BAD), (7.0, BAD)]
    assert statuses(looks, "latency_p99", for_seconds=3.0) == [
        Status.OVER,
        Status.OVER,
        Status.OK,
        Status.OVER,
        Status.OVER,
        Status.BREACHED,
    ]


def test_time_in_which_nobody_looked_does_not_count() -> None:
    assert statuses([(0.0, BAD), (60.0, BAD), (61.0, BAD), (63.0, BAD)], "latency_p99", for_seconds=3.0) == [
        Status.OVER,
        Status.OVER,
        Status.OVER,
        Status.BREACHED,
    ]


def test_a_look_that_tells_nothing_neither_breaks_nor_mends_a_rule() -> None:
    nothing = health(latency_p99_ms=None)
    looks = [(0.0, BAD), (1.0, nothing), (2.0, BAD), (3.0, BAD), (4.0, nothing), (5.0, nothing)]
    assert statuses(looks, "latency_p99", for_seconds=3.0) == [
        Status.OVER,
        Status.UNKNOWN,
        Status.OVER,
        Status.BREACHED,
        Status.BREACHED,
        Status.BREACHED,
    ]


def test_a_breach_is_over_only_after_good_looks_for_the_time_set() -> None:
    looks = [(0.0, BAD), (1.0, FINE), (4.0, FINE), (4.5, BAD), (5.0, FINE), (9.0, FINE), (10.0, FINE)]
    found = statuses(looks, "latency_p99", for_seconds=0.0)
    assert found == [Status.BREACHED] * 6 + [Status.OK]


def test_a_breach_does_not_end_just_inside_its_limit() -> None:
    edge = health(latency_p99_ms=240.0)
    looks = [(0.0, BAD), *((float(second), edge) for second in range(1, 20))]
    assert set(statuses(looks, "latency_p99", for_seconds=0.0)) == {Status.BREACHED}
    under = health(used_memory=895)
    looks = [(0.0, health(used_memory=950)), *((float(second), under) for second in range(1, 20))]
    assert set(statuses(looks, "headroom", for_seconds=0.0)) == {Status.BREACHED}


Step = tuple[float, bool | None]


@given(
    st.lists(st.tuples(st.floats(0.0, 8.0), st.sampled_from([True, False, None])), max_size=60),
    st.floats(0.0, 10.0),
    st.floats(0.0, 10.0),
)
def test_no_rule_fires_before_its_time_or_recovers_before_its_own(
    steps: list[Step], for_seconds: float, recover_seconds: float
) -> None:
    """Against the definition itself, looked up in the whole history at each look."""
    chosen = WatchSettings.model_validate(
        {"recover_seconds": recover_seconds, "rules": {"latency_p99": {"for_seconds": for_seconds}}}
    )
    book = RuleBook(chosen, WELL)
    seconds, breached = 0.0, False
    judged: list[tuple[float, bool]] = []
    for gap, over in steps:
        seconds += gap
        seen = {True: BAD, False: FINE, None: health(latency_p99_ms=None)}[over]
        ((_, state),) = judge(book, [(seconds, seen)], "latency_p99")
        if over is not None:
            judged.append((seconds, over))
            held = seconds - _begin_of_run(judged, over)
            if not breached and over and held >= for_seconds:
                breached = True
            elif breached and not over and held >= recover_seconds:
                breached = False
        assert (state.status is Status.BREACHED) == breached
        assert state.over == (over is True)


def _begin_of_run(judged: list[tuple[float, bool]], over: bool) -> float:
    """When the unbroken row of equal looks at the end began, without a gap of more than five seconds."""
    begin = later = judged[-1][0]
    for seconds, was in reversed(judged):
        if was is not over or later - seconds > 5.0:
            break
        begin = later = seconds
    return begin


# -- the way back ------------------------------------------------------------------------------------------------------


def board(**facts: object) -> SyncStatus:
    values: dict[str, object] = {
        "direction": Direction.BACKWARD,
        "state": SyncState.FOLLOWING,
        "dirty": 7,
        "lag_ms": 1500,
        "updated_at": BEGIN,
    }
    return SyncStatus(**(values | facts))  # type: ignore[arg-type]


def test_a_sync_that_follows_green_tells_what_a_rollback_would_carry() -> None:
    found = FallBack.of(board(gap="why", stuck=2), BEGIN + timedelta(seconds=2), BEGIN)
    assert found == FallBack(True, 7, 3.5, 2, "why", 2.0)


@pytest.mark.parametrize(
    "status",
    [None, board(direction=Direction.FORWARD), board(state=SyncState.STOPPED), board(updated_at=None)],
)
def test_a_sync_that_does_not_follow_green_is_silence_since_the_watch_began(
    status: SyncStatus | None,
) -> None:
    found = FallBack.of(status, BEGIN + timedelta(seconds=40), BEGIN)
    assert found is not None
    assert found.silent_seconds == 40.0
    states = {
        state.name: state
        for state in RuleBook(WatchSettings(), WELL).judge(0.0, replace(FINE, fall_back=found))
    }
    assert states["fall_back_silent"].status is Status.BREACHED
    for name in ("lag_keys", "lag_seconds", "fall_back_gap", "fall_back_stuck"):
        assert states[name].status is Status.UNKNOWN


# -- settings ----------------------------------------------------------------------------------------------------------


def test_a_rule_that_is_given_only_a_limit_keeps_its_own_duration() -> None:
    rules = GuardRules.model_validate({"latency_p99": {"limit": 42}})
    assert rules.latency_p99.limit == 42
    assert rules.latency_p99.for_seconds == GuardRules().latency_p99.for_seconds == 10.0
    assert rules.latency_p99.rollback


@pytest.mark.parametrize(
    "wrong",
    [
        {"rules": {"no_such_rule": {"limit": 1}}},
        {"rules": {"errors": {"limit": "nan"}}},
        {"rules": {"errors": {"for_seconds": -1}}},
        {"on_breach": "panic"},
        {"notify_webhook": "ftp://host/secret-path"},
        {"notify_webhook": "https:///secret-path"},
        {"notify_webhook": "https://user:secret-path@host/"},
        {"notify_webhook": "https://host:99999/secret-path"},
        {"notify_command": [""]},
    ],
)
def test_settings_that_cannot_be_used_are_refused_without_repeating_a_secret(
    wrong: dict[str, object],
) -> None:
    with pytest.raises(ValidationError) as refused:
        WatchSettings.model_validate(wrong)
    told = str(refused.value.errors(include_input=False, include_url=False, include_context=False))
    assert "secret-path" not in told


def test_a_command_given_as_text_is_split_like_a_shell_does() -> None:
    chosen = WatchSettings.model_validate({"notify_command": "send --to 'on call'"})
    assert chosen.notify_command == ("send", "--to", "on call")
