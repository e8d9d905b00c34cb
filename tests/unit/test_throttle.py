"""The pace of a run: its arithmetic, its caps and its pauses, without a server."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from threading import Timer
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrity.ledger.store import ControlState
from integrity.progress import Silent
from integrity.settings import ThrottleSettings
from integrity.transfer.pacing import BatchSize, TokenBucket
from integrity.transfer.throttle import Throttle

# -- batch size --------------------------------------------------------------------------------------------------------


def test_a_batch_is_halved_down_to_the_least_and_then_there_are_pauses() -> None:
    size = BatchSize(1000)
    seen = []
    for _ in range(9):
        size.slower()
        seen.append((size.keys, size.pause))

    assert [keys for keys, _ in seen] == [500, 250, 125, 62, 31, 16, 16, 16, 16]
    assert [pause for _, pause in seen][:7] == [0, 0, 0, 0, 0, 0, 0.002]
    assert [pause for _, pause in seen][7:] == [0.004, 0.008]


def test_what_was_slowed_down_comes_back_pauses_first() -> None:
    size = BatchSize(160)
    for _ in range(6):
        size.slower()
    assert (size.keys, size.pause) == (16, 0.004)
    seen = []
    for _ in range(4):
        size.faster()
        seen.append((size.keys, size.pause))

    assert seen == [(16, 0.002), (16, 0.0), (26, 0.0), (36, 0.0)]
    assert (size.smallest, size.longest_pause) == (16, 0.004)


@given(st.integers(1, 1000), st.lists(st.booleans(), max_size=200))
def test_a_batch_is_never_empty_nor_more_than_asked_for_nor_a_pause_longer_than_a_second(
    most: int, steps: list[bool]
) -> None:
    size = BatchSize(most)
    for slower in steps:
        size.slower() if slower else size.faster()
        assert min(16, most) <= size.keys <= most
        assert 0 <= size.pause <= 1
    for _ in range(30):
        size.faster()
    assert (size.keys, size.pause) == (most, 0)


# -- caps --------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Clock:
    """Time that passes when told to."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_is_taken_is_paid_for_at_the_rate() -> None:
    clock = Clock()
    bucket = TokenBucket(100, clock)
    bucket.take(50)
    assert bucket.wait() == pytest.approx(0.5)
    clock.now += 0.2
    assert bucket.wait() == pytest.approx(0.3)
    bucket.take(100)
    assert bucket.wait() == pytest.approx(1.3)
    clock.now += 1.3
    assert bucket.wait() == pytest.approx(0)


def test_idle_time_is_saved_up_for_a_tenth_of_a_second_only() -> None:
    clock = Clock()
    bucket = TokenBucket(100, clock)
    clock.now += 3600
    bucket.take(10)
    assert bucket.wait() == 0
    bucket.take(10)
    assert bucket.wait() == pytest.approx(0.1)


def test_a_new_rate_counts_at_once_for_what_is_owed() -> None:
    clock = Clock()
    bucket = TokenBucket(10, clock)
    bucket.take(1000)
    assert bucket.wait() == pytest.approx(100)
    bucket.rate = 1000
    assert bucket.wait() == pytest.approx(1)
    bucket.rate = None
    assert bucket.wait() == 0
    bucket.take(10**9)
    bucket.rate = 10
    assert bucket.wait() == 0


@given(
    st.integers(1, 10_000),
    st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 5)), min_size=1, max_size=50),
)
def test_no_pattern_of_pages_and_idle_times_goes_beyond_the_rate(
    rate: int, pages: list[tuple[int, float]]
) -> None:
    clock = Clock()
    begun, taken = clock.now, 0
    bucket = TokenBucket(rate, clock)
    for keys, idle in pages:
        bucket.take(keys)
        clock.now += bucket.wait()
        taken += keys
        assert taken <= rate * (clock.now - begun) * 1.000_001 + rate * 0.1 + 1e-6
        clock.now += idle


# -- the throttle ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Live:
    """A run whose control row is set by the test."""

    state: ControlState = field(default_factory=ControlState)
    id: str = "20260101-000000-abcdef"
    asked: int = 0
    renewed: int = 0

    def control(self) -> ControlState:
        self.asked += 1
        return self.state

    def renew_lease(self) -> None:
        self.renewed += 1


@dataclass(slots=True)
class Said(Silent):
    """Progress that remembers."""

    lines: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.lines.append(text)


def throttle(
    live: Live | None = None, said: Said | None = None, workers: int = 1, **settings: object
) -> Throttle:
    return Throttle(
        ThrottleSettings.model_validate(settings),
        1000,
        endpoints=[],
        run=live,
        progress=said or Said(),
        workers=workers,
    )


def reasons(pace: Throttle) -> set[str]:
    """What the throttle says it waited for."""
    waited = pace.summary()["waited_seconds"]
    assert isinstance(waited, dict)
    return set(waited)


def test_without_caps_nothing_waits() -> None:
    with throttle() as pace:
        begun = monotonic()
        for _ in range(10_000):
            pace.admit(1000, 1 << 20)
        took = monotonic() - begun

    assert pace.batch_keys == 1000
    assert took < 2
    assert reasons(pace) == set()


@pytest.mark.parametrize(
    ("settings", "batch"),
    [
        ({}, 1000),
        ({"keys_per_second": 1}, 1),
        ({"keys_per_second": 400}, 100),
        ({"keys_per_second": 10**9}, 1000),
        # 100 bytes a key, a quarter of a second's worth.
        ({"bytes_per_second": 40_000}, 100),
        ({"bytes_per_second": 1}, 1),
    ],
)
def test_pages_of_a_capped_run_are_small(settings: dict[str, object], batch: int) -> None:
    with Throttle(
        ThrottleSettings.model_validate(settings), 1000, endpoints=[], run=None, progress=Said()
    ) as pace:
        pace.admit(0, 0)
        pace._key_bytes = 100.0
        assert pace.batch_keys == batch


def test_each_cap_holds_a_run_back_by_itself_and_says_so() -> None:
    with throttle(keys_per_second=1000) as pace:
        begun = monotonic()
        pace.admit(250, 10**9)
        assert monotonic() - begun > 0.2
        assert reasons(pace) == {"cap on keys"}
    with throttle(bytes_per_second="1KB") as pace:
        begun = monotonic()
        pace.admit(10**6, 250)
        assert monotonic() - begun > 0.2
        assert reasons(pace) == {"cap on bytes"}


def test_workers_share_the_caps() -> None:
    with throttle(keys_per_second=1000, workers=4) as pace:
        begun = monotonic()
        pace.admit(100, 0)
        assert monotonic() - begun > 0.3


def test_the_control_row_goes_over_the_settings_and_zero_lifts_a_cap() -> None:
    live, said = Live(ControlState(False, 0, 500, updated_by="ops")), Said()
    with throttle(live, said, keys_per_second=1) as pace:
        begun = monotonic()
        pace.admit(10_000, 0)
        assert monotonic() - begun < 1
    assert said.lines == ["Limits set by ops: no cap on keys, 500 bytes/s."]


def test_a_limit_that_is_lifted_frees_a_run_that_waits_for_it() -> None:
    live = Live(ControlState(keys_per_second=1))
    with throttle(live) as pace:
        timer = Timer(0.3, lambda: setattr(live, "state", ControlState(keys_per_second=0)))
        timer.start()
        begun = monotonic()
        pace.admit(3600, 0)
        timer.join()
        assert 0.25 < monotonic() - begun < 60
    assert live.renewed


def test_a_paused_run_waits_keeps_its_lease_and_says_so_once() -> None:
    live, said = Live(ControlState(paused=True, updated_by="ops")), Said()
    with throttle(live, said) as pace:
        timer = Timer(
            0.7, lambda: setattr(live, "state", replace(live.state, paused=False, updated_by="boss"))
        )
        timer.start()
        begun = monotonic()
        pace.admit(1, 1)
        timer.join()
        assert monotonic() - begun > 0.65
    assert reasons(pace) == {"paused"}
    assert said.lines == [
        f"Paused by ops; `greenfly runs resume {live.id}` lets it go on.",
        "Resumed by boss.",
    ]
    assert live.renewed >= 3


def test_what_holds_a_run_back_is_told_while_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("integrity.transfer.throttle._TELL_SECONDS", 0.25)
    live, told = Live(ControlState(paused=True)), list[dict[str, object]]()

    def tell(summary: dict[str, object]) -> None:
        told.append(summary)
        live.state = ControlState(paused=len(told) < 2)

    with Throttle(ThrottleSettings(), 1000, endpoints=[], run=live, progress=Said(), on_held=tell) as pace:
        pace.admit(1, 1)
        begun = monotonic()
        while monotonic() - begun < 0.6:
            pace.admit(1, 1)

    # Twice while it was paused, and once the rest; where nothing holds it back, nothing is told.
    assert 2 <= len(told) <= 3
    waited = [summary["waited_seconds"] for summary in told]
    assert all(isinstance(reasons_, dict) and reasons_.keys() == {"paused"} for reasons_ in waited)
    assert waited[0] != waited[1]


def test_a_run_that_waits_for_a_cap_can_be_paused() -> None:
    live = Live(ControlState(keys_per_second=10))
    with throttle(live) as pace:
        pause = Timer(0.2, lambda: setattr(live, "state", replace(live.state, paused=True)))
        resume = Timer(1.6, lambda: setattr(live, "state", replace(live.state, paused=False)))
        pause.start()
        resume.start()
        begun = monotonic()
        pace.admit(10, 0)
        pause.join()
        took = monotonic() - begun
        resume.join()
    assert took > 1.5
    assert reasons(pace) == {"cap on keys", "paused"}


def test_whoever_started_a_paused_worker_can_end_its_waiting() -> None:
    def parent_is_gone() -> None:
        raise BrokenPipeError

    pace = Throttle(
        ThrottleSettings(),
        1000,
        endpoints=[],
        run=Live(ControlState(paused=True)),
        progress=Said(),
        on_wait=parent_is_gone,
    )
    with pace, pytest.raises(BrokenPipeError):
        pace.admit(1, 1)


def test_the_ledger_is_asked_at_most_twice_a_second() -> None:
    live = Live()
    with throttle(live) as pace:
        begun = monotonic()
        while monotonic() - begun < 1.2:
            pace.admit(1, 1)
        took = monotonic() - begun
    assert 2 <= live.asked <= took / 0.5 + 1


def test_the_interpreter_is_left_as_it_was() -> None:
    before = sys.getswitchinterval()
    with throttle():
        pass
    assert sys.getswitchinterval() == before
