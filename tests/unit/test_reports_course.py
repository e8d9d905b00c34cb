"""How a run went, in its report: copy, ranges, incidents, throttle."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from integrity.ledger import Ledger, open_ledger
from integrity.ledger.models import PhaseName, RunKind
from integrity.settings import Settings
from reports import build_report
from reports.course import build_incidents
from reports.events import EventView
from reports.shape_charts import latency_charts
from reports.throttle import build_throttle
from tests.cli import dig
from tests.unit import report_fixtures as runs
from tests.unit.report_pages import Page, written

START = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(Settings(state_dir=tmp_path))
    yield opened
    opened.close()


def events(*happened: tuple[float, str]) -> list[EventView]:
    """(seconds, kind) as audit events."""
    return [
        EventView(number, (START + timedelta(seconds=at)).isoformat(), "ops", kind, {}, "")
        for number, (at, kind) in enumerate(happened, start=1)
    ]


def test_time_without_a_server_is_not_counted_twice() -> None:
    found = build_incidents(
        events(
            (0, "server.lost"),
            (1, "server.lost"),
            (4, "server.back"),
            (6, "server.back"),
            (20, "server.lost"),
            (21, "server.back"),
        )
    )
    assert found.away_seconds == pytest.approx(7)
    assert [incident.seconds for incident in found.events] == [None, None, 4, 6, None, 1]
    assert found.counts == {"server.lost": 3, "server.back": 3}


def test_a_restart_ends_the_waiting() -> None:
    found = build_incidents(
        events((0, "server.lost"), (5, "ranges.restarted"), (50, "server.lost"), (52, "server.back"))
    )
    assert found.away_seconds == pytest.approx(2)


def test_other_events_are_no_incidents() -> None:
    found = build_incidents(events((0, "run.started"), (1, "phase.done"), (2, "artifact.written")))
    assert (found.events, found.counts, found.away_seconds) == ((), {}, 0)


def test_incidents_on_the_page(ledger: Ledger, tmp_path: Path) -> None:
    html, facts, _ = written(ledger, runs.ruled(ledger, tmp_path), tmp_path / "report")
    text = Page(html).text
    assert "it is gone" in text
    assert "Worker 1 died (exit code -9); another one took its range over." in text
    assert "source restarted since: its cursors are void." in text
    assert "set limits: 500 keys a second, no limit on bytes." in text
    assert "the counts of its phase lack about a second" in text
    assert dig(facts, "incidents", "counts", "server.lost") == 2
    quiet, _, _ = written(ledger, runs.passed(ledger, tmp_path), tmp_path / "quiet")
    assert "None: no server was lost" in Page(quiet).text


def test_many_incidents_are_cut_in_words(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reports.html.INCIDENTS_SHOWN", 3)
    html, facts, _ = written(ledger, runs.ruled(ledger, tmp_path), tmp_path / "report")
    assert "The first 3 are shown" in Page(html).text
    shown = dig(facts, "incidents", "events")
    assert isinstance(shown, list)
    assert len(shown) == 7


BEGAN = datetime(2026, 11, 23, 4, 0, tzinfo=UTC)


def test_latency_over_time_of_several_workers_is_one_line() -> None:
    def worker(began: datetime, step: float, *worst: float | None) -> dict[str, object]:
        history = {
            "began_at": began.isoformat(),
            "step_seconds": step,
            "mean": list(worst),
            "worst": list(worst),
        }
        return {"latency_ms": {"source": {"quiet": 0.1, "over_time": history}}}

    told = {
        "workers": [
            worker(BEGAN, 1.0, 1.0, 9.0, None, 3.0),
            worker(BEGAN, 2.0, 2.0, 5.0, 4.0),
            {"latency_ms": {"source": {"quiet": 0.1, "over_time": {"began_at": "never", "step_seconds": 1}}}},
        ]
    }
    (view,) = build_throttle([(PhaseName.STREAM, {"throttle": told})], BEGAN)
    points = view.latency[0].over_time
    assert [(point.seconds, point.worst) for point in points] == [(1.0, 9.0), (3.0, 5.0), (5.0, 4.0)]
    assert [point.mean for point in points] == [4.0, 4.0, 4.0]
    assert len(latency_charts([view])) == 1


def test_figures_of_workers_are_joined() -> None:
    (view,) = build_throttle([(PhaseName.STREAM, {"throttle": runs.WORKERS})], BEGAN)
    assert (view.workers, view.waited) == (2, {"cap on keys": 5.5, "paused": 2.0})
    assert view.waited_seconds == pytest.approx(7.5)
    assert (view.smallest_batch, view.last_batch, view.longest_pause_ms) == (125, 500, 32)
    source, target = view.latency
    assert (source.server, source.quiet, source.worst) == ("source", 0.1, 36.0)
    assert source.mean == pytest.approx((10 * 1.0 + 30 * 4.0) / 40)
    assert (source.samples, source.lost, source.late) == (40, 2, 3)
    assert (target.quiet, target.mean, target.worst, target.samples, target.late) == (None, None, None, 0, 0)


def test_figures_of_one_process_stay_as_they_are() -> None:
    alone = runs.throttle(waited={}, late=0, smallest=16, last=1000, quiet=0.1, mean=0.5, samples=9)
    (view,) = build_throttle([(PhaseName.VERIFY, {"throttle": alone}), (PhaseName.CHECK, {})], BEGAN)
    assert (view.phase, view.workers, view.waited, view.smallest_batch) == (PhaseName.VERIFY, 1, {}, 16)


@pytest.mark.parametrize("told", [{}, {"throttle": {}}, {"throttle": {"workers": []}}, {"throttle": 7}])
def test_no_figures_make_no_row(told: dict[str, object]) -> None:
    assert build_throttle([(PhaseName.STREAM, told)], BEGAN) == ()


def test_throttle_on_the_page(ledger: Ledger, tmp_path: Path) -> None:
    html, _, _ = written(ledger, runs.ruled(ledger, tmp_path), tmp_path / "report")
    text = Page(html).text
    assert "cap on keys: 5.5 s; paused: 2.0 s (added up over 2 processes)" in text
    assert "Limits that the run was started with: no server more than 20 ms later" in text
    assert "3.25 ms" in text


def test_ranges_of_a_database_are_summed(ledger: Ledger, tmp_path: Path) -> None:
    rows = build_report(ledger, runs.ruled(ledger, tmp_path)).ranges
    assert [(row.database, row.ranges, row.begun, row.done, row.keys) for row in rows] == [
        (0, 2, 2, 2, 1_000),
        (3, 1, 1, 0, 10),
    ]
    assert (rows[0].fewest_keys, rows[0].most_keys) == (480, 520)


def test_unusual_ways_to_copy_are_counted(ledger: Ledger, tmp_path: Path) -> None:
    report = build_report(ledger, runs.ruled(ledger, tmp_path))
    copy = report.copy
    assert copy is not None
    assert (copy.written, copy.rewritten, copy.big, copy.relabelled, copy.left_out) == (918, 12, 5, 7, 80)
    assert report.coverage is not None
    assert report.coverage.big == 5
    assert report.run.workers == 2
    verify = ledger.start_run(RunKind.VERIFY, Settings(state_dir=tmp_path))
    assert build_report(ledger, verify.id).copy is None


def test_what_has_a_section_is_not_said_again(ledger: Ledger, tmp_path: Path) -> None:
    html, _, _ = written(ledger, runs.ruled(ledger, tmp_path), tmp_path / "report")
    text = Page(html).text
    recorded = text[text.index("What each phase recorded") : text.index("Incidents and interventions")]
    assert "batches" in recorded
    for name in ("rewritten", "excluded", "throttle", "field expiries", "include"):
        assert name not in recorded
