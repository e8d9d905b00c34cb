"""Round trips over time: bounded, and no peak is lost."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from integrity.transfer.latency_history import LatencyHistory

BEGAN = datetime(2026, 11, 23, 4, 5, 6, tzinfo=UTC)


def lists(history: LatencyHistory) -> tuple[float, list[float | None], list[float | None]]:
    facts = history.to_dict()
    step, mean, worst = facts["step_seconds"], facts["mean"], facts["worst"]
    assert isinstance(step, float)
    assert isinstance(mean, list)
    assert isinstance(worst, list)
    return step, mean, worst


def test_each_step_has_its_mean_and_worst() -> None:
    history = LatencyHistory(BEGAN)
    for seconds, milliseconds in ((0.1, 1.0), (0.9, 3.0), (2.5, 8.0)):
        history.add(seconds, milliseconds)
    assert lists(history) == (1.0, [2.0, None, 8.0], [3.0, None, 8.0])
    assert history.to_dict()["began_at"] == BEGAN.isoformat()


@pytest.mark.parametrize("seconds", [79, 80, 81, 10_000, 700_000])
def test_any_length_fits_and_the_peak_stays(seconds: int) -> None:
    history = LatencyHistory(BEGAN)
    for second in range(0, seconds, max(1, seconds // 2_000)):
        history.add(float(second), 250.0 if second == 0 else 1.0)
    history.add(float(seconds), 7.0)
    step, mean, worst = lists(history)
    assert len(mean) == len(worst) <= 80
    assert step * len(worst) > seconds
    assert worst[0] == 250.0
    assert worst[-1] == 7.0


def test_one_late_answer_after_a_long_silence() -> None:
    history = LatencyHistory(BEGAN)
    history.add(1e6, 5.0)
    _, mean, worst = lists(history)
    assert worst[-1] == mean[-1] == 5.0
    assert set(worst[:-1]) == {None}
