"""What the page of a live run needs beside the model: its charts, and numbers in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from reports import display
from reports.drawing import Chart
from reports.following import FollowingView, gap_spans
from reports.guarding import GuardView, breach_spans
from reports.live import LiveView, OperationView
from reports.live_charts import series_chart, steps_chart
from reports.live_text import writer
from reports.model import RunReport
from reports.pause_charts import around_chart, whole_chart
from reports.series import Series

LISTED: Final = 60
"""Passes, gaps and breaches that a page shows; the JSON file holds all."""
_LAG_TITLES: Final = {
    "dirty": "Keys changed and not carried over yet",
    "unproven": "Keys carried over and not compared since",
    "lag_ms": "Age of the oldest change not carried over",
    "backlog_bytes": "What waits on the followed server for the reader",
}
_HEALTH_TITLES: Final = {
    "latency_p50_ms": "Latency, median",
    "latency_p99_ms": "Latency, 99 of 100 below",
    "ops_per_second": "Commands a second",
    "errors_per_second": "Errors a second",
    "used_memory": "Memory used",
    "max_memory": "Memory limit",
    "evicted_per_second": "Keys evicted a second",
    "clients": "Connected clients",
    "hit_ratio": "Reads that found their key",
}
_CHARTED: Final = tuple(name for name in _HEALTH_TITLES if name != "max_memory")
_OTHER_TITLES: Final = {
    "blocked_clients": "Clients that wait in a command",
    "expired_per_second": "Keys expired a second",
    "headroom": "Free share of the memory limit",
    "latency_max_ms": "Latency, highest",
    "latency_p90_ms": "Latency, 90 of 100 below",
    "lookups_per_second": "Reads a second",
    "refused_writes_per_second": "Writes refused for lack of memory, a second",
    "rejected_per_second": "Connections refused a second",
    "restarts": "Restarts",
    "rss_memory": "Memory that the process holds",
    "unreachable_seconds": "Has not answered for",
    "uptime_seconds": "Has run for",
}
_NO_LIMIT: Final = "max_memory"
"""Its 0 means that there is none."""


@dataclass(frozen=True, slots=True)
class Glance:
    """One number at the head of the page."""

    name: str
    value: str
    more: str


@dataclass(frozen=True, slots=True)
class NumberRow:
    """One number over time, in words."""

    title: str
    series: Series
    baseline: float | None


@dataclass(frozen=True, slots=True)
class LivePage:
    """What the templates of live runs read beside the report."""

    glance: tuple[Glance, ...]
    steps: Chart | None
    whole: Chart | None
    around: Chart | None
    charts: tuple[Chart, ...]
    numbers: tuple[NumberRow, ...]
    listed: int


def live_page(report: RunReport) -> LivePage | None:
    """None for a run of another kind."""
    live = report.live
    if live is None:
        return None
    pause = live.operation.pause if live.operation is not None else None
    charts: tuple[Chart, ...] = ()
    numbers: tuple[NumberRow, ...] = ()
    if live.following is not None:
        charts, numbers = _lag(report, live.following)
    elif live.guard is not None:
        charts, numbers = _health(report, live.guard)
    return LivePage(
        tuple(_glance(report, live)),
        steps_chart(live.operation) if live.operation is not None else None,
        whole_chart(pause) if pause is not None else None,
        around_chart(pause) if pause is not None else None,
        charts,
        numbers,
        LISTED,
    )


def _glance(report: RunReport, live: LiveView) -> list[Glance]:
    if live.at_risk is not None:
        risk = live.at_risk
        until = (
            f"feed complete until {display.moment(risk.complete_until)}"
            if risk.complete_until
            else "how far the feed was complete is not known"
        )
        first = Glance("Keys at risk", display.count(risk.keys), until)
        return [first, *_operation_glance(live.operation)][:2]
    if live.operation is not None:
        return _operation_glance(live.operation)
    if live.following is not None:
        return _following_glance(live.following)
    if live.guard is not None:
        guard = live.guard
        return [
            Glance(
                "Breaches", display.count(len(guard.breaches)), f"{len(guard.open_breaches)} not recovered"
            ),
            Glance(
                "Guarded for", display.duration(guard.seconds), display.counted(guard.green_samples, "sample")
            ),
        ]
    return []


def _operation_glance(operation: OperationView | None) -> list[Glance]:
    if operation is None:
        return []
    pause = operation.pause
    length = pause.length_ms if pause is not None else None
    done = sum(step.state.value == "done" for step in operation.steps)
    return [
        Glance(
            "Write pause",
            display.duration(length / 1000) if length is not None else "not measured",
            "as one client saw it" if length is not None else "no client measured it",
        ),
        Glance(
            "Steps done",
            f"{done} of {len(operation.steps)}",
            f"in {display.duration(operation.seconds)}" if operation.seconds is not None else "none ended",
        ),
    ]


def _following_glance(following: FollowingView) -> list[Glance]:
    lag = following.lag_ms
    return [
        Glance(
            "Lag",
            display.duration(lag / 1000) if lag is not None else display.UNKNOWN,
            f"{display.UNKNOWN if following.dirty is None else display.counted(following.dirty, 'key')} to carry over",
        ),
        Glance(
            "Open gaps",
            display.count(len(following.open_gaps)),
            f"{display.counted(len(following.gaps), 'gap')} in all, "
            f"{display.counted(following.clean_passes, 'clean pass', 'clean passes')}",
        ),
    ]


def _lag(report: RunReport, following: FollowingView) -> tuple[tuple[Chart, ...], tuple[NumberRow, ...]]:
    spans = gap_spans(following.gaps, report.run.started_at)
    rows = tuple(NumberRow(_LAG_TITLES[series.name], series, None) for series in following.series)
    charts = (
        series_chart(row.series, row.title, writer(row.series.unit), spans=spans, marked="gap in the feed")
        for row in rows
    )
    return tuple(chart for chart in charts if chart is not None), rows


def _health(report: RunReport, guard: GuardView) -> tuple[tuple[Chart, ...], tuple[NumberRow, ...]]:
    spans = breach_spans(report.run.started_at, guard.breaches)
    rows = tuple(
        NumberRow(
            (_HEALTH_TITLES | _OTHER_TITLES).get(
                number.series.name, number.series.name.replace("_", " ").capitalize()
            ),
            number.series,
            None if number.series.name == _NO_LIMIT and not number.baseline else number.baseline,
        )
        for number in guard.numbers
    )
    charts = (
        series_chart(
            row.series,
            row.title,
            writer(row.series.unit),
            baseline=row.baseline,
            spans=spans,
            marked="a rule was broken",
        )
        for row in rows
        if row.series.name in _CHARTED
    )
    return tuple(chart for chart in charts if chart is not None), rows
