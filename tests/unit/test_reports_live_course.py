"""Reports of sync and watch runs: lag, gaps, passes, health, breaches."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from integrity.ledger import Ledger, open_ledger
from integrity.ledger.database import writing
from integrity.ledger.models import PhaseName, PhaseState, Run, RunKind, RunState, Verdict
from integrity.ledger.samples import SampleRecord
from integrity.ledger.sync_board import SyncBoard, SyncStatus
from integrity.ledger.vocabulary import Direction, SyncState
from integrity.settings import Settings
from reports import build_report
from reports.following import FollowingView
from reports.guarding import GuardView, build_breaches
from reports.live_charts import series_chart
from reports.model import RunReport
from reports.series import MOST_POINTS, Span, build_series, unit_of
from tests.cli import dig
from tests.unit import report_live_fixtures as live
from tests.unit.report_pages import Page, written
from tests.unit.test_reports_course import events

START = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(Settings(state_dir=tmp_path))
    yield opened
    opened.close()


def following(report: RunReport) -> FollowingView:
    assert report.live is not None
    assert report.live.following is not None
    return report.live.following


def guard(report: RunReport) -> GuardView:
    assert report.live is not None
    assert report.live.guard is not None
    return report.live.guard


def samples(*values: float, name: str = "lag_ms") -> list[SampleRecord]:
    return [
        SampleRecord("sync", START + timedelta(seconds=index), {name: value})
        for index, value in enumerate(values)
    ]


# -- sync --------------------------------------------------------------------------------------------------------------


def test_a_sync_run_tells_direction_feed_gaps_passes_and_lag(ledger: Ledger, tmp_path: Path) -> None:
    sync = live.following(ledger, tmp_path)
    html, facts, _ = written(ledger, sync.id, tmp_path / "report")
    assert dig(facts, "live", "following", "direction") == "backward"
    assert dig(facts, "live", "following", "feed") == "monitor"
    assert dig(facts, "live", "following", "dirty") == 7
    passes = dig(facts, "live", "following", "passes")
    assert isinstance(passes, list)
    assert [(row["compared"], row["differed"], row["seconds"], row["clean"]) for row in passes] == [
        (102_500, 14, 9.25, False),
        (102_514, 0, 8.5, True),
    ]
    gaps = dig(facts, "live", "following", "gaps")
    assert isinstance(gaps, list)
    assert [row["closed_at"] is not None for row in gaps] == [True]
    page = Page(html)
    assert "102,514" in page.text
    assert gaps[0]["reason"] in page.text
    assert "51,234" in page.text
    titles = [attrs.get("id") for tag, attrs in page.elements if tag == "title" and "id" in attrs]
    assert {f"chart-series-{name}-title" for name in ("dirty", "unproven", "lag_ms", "backlog_bytes")} <= {
        title for title in titles if title
    }


def test_stuck_keys_are_findings_of_a_sync_run(ledger: Ledger, tmp_path: Path) -> None:
    sync = live.following(ledger, tmp_path)
    _, facts, rows = written(ledger, sync.id, tmp_path / "report")
    assert dig(facts, "live", "following", "stuck") == len(rows) == 1
    assert rows[0]["class"] == "value"


def test_lag_is_the_same_in_model_and_samples(ledger: Ledger, tmp_path: Path) -> None:
    sync = live.following(ledger, tmp_path)
    by_name = {series.name: series for series in following(build_report(ledger, sync.id)).series}
    assert by_name["dirty"].measured == 600
    assert by_name["dirty"].highest == 4_019
    assert by_name["unproven"].last == 399
    assert by_name["lag_ms"].unit == "milliseconds"
    assert by_name["backlog_bytes"].unit == "bytes"


def test_a_running_sync_says_what_it_does(ledger: Ledger, tmp_path: Path) -> None:
    verdict = build_report(ledger, live.following(ledger, tmp_path).id).verdict
    assert (verdict.word, verdict.tone) == ("FOLLOWING", "none")


def test_a_sync_whose_process_is_gone_says_so(ledger: Ledger, tmp_path: Path) -> None:
    sync = live.following(ledger, tmp_path)
    with writing(ledger.engine) as connection:
        gone = datetime.now(UTC) - timedelta(seconds=1)
        connection.execute(update(Run).where(Run.id == sync.id).values(lease_until=gone))
    verdict = build_report(ledger, sync.id).verdict
    assert (verdict.word, verdict.tone) == ("LOST", "fail")


def test_an_open_gap_is_never_a_pass(ledger: Ledger, tmp_path: Path) -> None:
    sync = live.following(ledger, tmp_path)
    sync.event("sync.gap", {"reason": "the source restarted", "since": START.isoformat()})
    report = build_report(ledger, sync.id)
    assert report.verdict.tone == "inconclusive"
    assert [gap.reason for gap in following(report).open_gaps] == ["the source restarted"]
    sync.finish(RunState.FINISHED, verdict=Verdict.PASS, reason="All is well.")
    said = build_report(ledger, sync.id).verdict.contradictions
    assert any("the source restarted" in text for text in said)


def test_a_pass_without_a_comparison_contradicts_itself(ledger: Ledger, tmp_path: Path) -> None:
    sync = ledger.start_run(RunKind.SYNC, Settings(state_dir=tmp_path))
    sync.finish(RunState.FINISHED, verdict=Verdict.PASS, reason="All is well.")
    assert len(build_report(ledger, sync.id).verdict.contradictions) == 1
    compared = live.following(ledger, tmp_path)
    with SyncBoard(ledger.engine, compared.id) as board:
        board.publish(SyncStatus(Direction.FORWARD, SyncState.STOPPED, "tracking"))
    compared.phase_ended(PhaseName.SYNC, PhaseState.DONE, detail={})
    compared.finish(RunState.FINISHED, verdict=Verdict.PASS, reason="All is well.")
    said = build_report(ledger, compared.id).verdict.contradictions
    assert said == ("The verdict is PASS, but 1 finding is open.",)


def test_a_sync_run_that_only_began_has_a_report(ledger: Ledger, tmp_path: Path) -> None:
    run = ledger.start_run(RunKind.SYNC, Settings(state_dir=tmp_path))
    html, facts, _ = written(ledger, run.id, tmp_path / "report")
    assert dig(facts, "verdict", "word") == "STARTING"
    assert dig(facts, "live", "following", "series") == []
    assert not Page(html).unbalanced


# -- watch -------------------------------------------------------------------------------------------------------------


def test_a_watch_tells_breaches_and_numbers_beside_the_baseline(ledger: Ledger, tmp_path: Path) -> None:
    sync = live.following(ledger, tmp_path)
    cutover = live.cutover(ledger, tmp_path, sync.id)
    html, facts, _ = written(ledger, live.watched(ledger, tmp_path, sync.id), tmp_path / "report")
    assert dig(facts, "verdict", "word") == "RECOVERED"
    assert dig(facts, "live", "guard", "baseline_of") == cutover
    assert dig(facts, "live", "guard", "baseline", "latency_p99_ms") == 1.4
    numbers = dig(facts, "live", "guard", "numbers")
    assert isinstance(numbers, list)
    by_name = {row["series"]["name"]: row for row in numbers}
    assert by_name["latency_p99_ms"]["baseline"] == 1.4
    assert by_name["latency_p99_ms"]["series"]["highest"] == 41.5
    assert by_name["used_memory"]["series"]["unit"] == "bytes"
    assert "engine" not in by_name
    text = Page(html).text
    assert "baseline 1.40 ms" in text
    assert "41.5 ms" in text
    assert "99th percentile of latency: 41.5 ms (allowed at most 20 ms)." in text
    breaches = dig(facts, "live", "guard", "breaches")
    assert isinstance(breaches, list)
    assert [(row["rule"], row["value"], row["limit"]) for row in breaches] == [("latency_p99", 41.5, 20.0)]
    assert breaches[0]["seconds"] > 100


def test_a_breach_that_lasts_is_red_and_names_the_rollback(ledger: Ledger, tmp_path: Path) -> None:
    report = build_report(ledger, live.watched(ledger, tmp_path, None, recovers=False))
    assert (report.verdict.word, report.verdict.tone) == ("BREACHED", "fail")
    assert [action.kind for action in guard(report).actions] == ["guard.rollback-started"]
    assert any("It is slow." in note for note in report.verdict.notes)
    assert guard(report).baseline == {}


def test_the_baseline_is_what_the_guard_says_it_compared_with(ledger: Ledger, tmp_path: Path) -> None:
    run = ledger.start_run(RunKind.WATCH, Settings(state_dir=tmp_path))
    run.event("guard.started", {"cutover": "one", "baseline": {"latency_p99_ms": 2.5, "role": "master"}})
    seen = guard(build_report(ledger, run.id))
    assert seen.baseline == {"latency_p99_ms": 2.5}
    assert seen.baseline_of == "one"


def test_a_watch_that_measured_nothing_claims_nothing(ledger: Ledger, tmp_path: Path) -> None:
    run = ledger.start_run(RunKind.WATCH, Settings(state_dir=tmp_path))
    run.finish(RunState.FINISHED, verdict=None, reason=None)
    html, facts, _ = written(ledger, run.id, tmp_path / "report")
    assert dig(facts, "verdict", "tone") == "inconclusive"
    assert not Page(html).unbalanced


def test_only_a_recovery_of_the_same_rule_after_it_ends_a_breach() -> None:
    happened = events((0, "guard.recovered"), (1, "guard.breached"), (2, "guard.recovered"))
    other = [
        event if index < 2 else type(event)(3, event.at, "ops", event.kind, {"rule": "other"}, "")
        for index, event in enumerate(happened)
    ]
    assert [breach.recovered_at for breach in build_breaches(happened)] == [happened[2].at]
    assert [breach.recovered_at for breach in build_breaches(other)] == [None]


# -- numbers over time -------------------------------------------------------------------------------------------------


def test_many_points_are_thinned_and_keep_their_extremes() -> None:
    values = [float(index % 7) for index in range(5 * MOST_POINTS)]
    values[1_234], values[2_345] = 999.0, -5.0
    series = build_series("lag_ms", samples(*values), START)
    assert series is not None
    assert len(series.points) <= MOST_POINTS + 2
    assert series.measured == len(values)
    assert {999.0, -5.0} <= {point.value for point in series.points}
    assert (series.lowest, series.highest) == (-5.0, 999.0)
    seconds = [point.seconds for point in series.points]
    assert seconds == sorted(seconds)


def test_what_is_no_number_is_no_point() -> None:
    assert build_series("lag_ms", samples(float("nan"), float("inf")), START) is None
    assert build_series("other", samples(1.0), START) is None


def test_units_follow_from_names() -> None:
    names = (
        "latency_p99_ms",
        "rss_memory",
        "backlog_bytes",
        "hit_ratio",
        "headroom",
        "ops_per_second",
        "clients",
    )
    assert [unit_of(name) for name in names] == [
        "milliseconds",
        "bytes",
        "bytes",
        "share",
        "share",
        "rate",
        "count",
    ]


def test_a_chart_marks_spans_that_touch_it_and_no_others() -> None:
    series = build_series("lag_ms", samples(*map(float, range(10))), START)
    assert series is not None
    spans = [
        Span(-5.0, -1.0, "before"),
        Span(2.0, 4.0, "within"),
        Span(8.0, None, "open"),
        Span(20.0, None, "after"),
    ]
    chart = series_chart(series, "Lag", str, spans=spans, marked="gap")
    assert chart is not None
    assert chart.svg.count('class="span"') == 2
    assert chart.legend == (("span", "gap"),)
    one = build_series("lag_ms", samples(1.0), START)
    assert one is not None
    assert series_chart(one, "Lag", str) is None
