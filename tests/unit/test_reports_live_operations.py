"""Reports of cutovers and rollbacks: outcome, gates, approvals, steps, write pause, what is at risk, the story."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest
from sqlalchemy import update

from integrity.ledger import Ledger, open_ledger
from integrity.ledger.database import writing
from integrity.ledger.models import FindingClass, PhaseName, Run, RunKind, RunState, Verdict
from integrity.ledger.samples import SampleRecord, add_samples
from integrity.ledger.steps import StepBook
from integrity.ledger.store import NewFinding
from integrity.ledger.sync_board import SyncBoard, SyncStatus
from integrity.ledger.vocabulary import Ask, Decision, Direction, StepState, SyncState
from integrity.settings import Settings
from reports import build_report
from reports.client_pause import build_pause
from reports.display import key_from_text
from reports.live import OperationView
from reports.live_charts import steps_chart
from reports.model import RunReport
from reports.outcome import Outcome
from reports.pause_charts import around_chart, whole_chart
from tests.cli import dig
from tests.ledger import record_decision
from tests.unit import report_fixtures as runs
from tests.unit import report_live_fixtures as live
from tests.unit.report_pages import Page, written


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(Settings(state_dir=tmp_path))
    yield opened
    opened.close()


def operation(report: RunReport) -> OperationView:
    assert report.live is not None
    assert report.live.operation is not None
    return report.live.operation


def begun(
    ledger: Ledger,
    state_dir: Path,
    *steps: str,
    kind: RunKind = RunKind.CUTOVER,
    parent: str | None = None,
) -> str:
    """An operation that is under way, with these steps begun."""
    run = ledger.start_run(kind, Settings(state_dir=state_dir), parent_id=parent)
    book = StepBook(ledger.engine, run.id, run.owner)
    book.plan([("gates", 1.0), ("baseline", 1.0), ("pause", 1.0), ("switch", 1.0)])
    for name in steps:
        book.begin(name, {})
    return run.id


def ended(ledger: Ledger, run_id: str, state: RunState) -> None:
    with writing(ledger.engine) as connection:
        connection.execute(
            update(Run).where(Run.id == run_id).values(state=state, ended_at=datetime.now(UTC))
        )


def test_a_run_that_copies_has_nothing_live(ledger: Ledger, tmp_path: Path) -> None:
    run_id = runs.passed(ledger, tmp_path)
    _, facts, _ = written(ledger, run_id, tmp_path / "report")
    assert build_report(ledger, run_id).live is None
    assert facts["live"] is None


def test_a_cutover_tells_its_outcome_steps_and_pause_first(ledger: Ledger, tmp_path: Path) -> None:
    sync = live.following(ledger, tmp_path)
    html, _, _ = written(ledger, live.cutover(ledger, tmp_path, sync.id), tmp_path / "report")
    page = Page(html)
    assert not page.unbalanced
    assert not page.open
    identifiers = [attrs["id"] for tag, attrs in page.elements if tag == "section"]
    assert identifiers == [
        "verdict",
        "run",
        "configuration",
        "endpoints",
        "approvals",
        "phases",
        "pause",
        "timeline",
        "findings",
        "steps",
        "gates",
        "story",
        "artifacts",
        "integrity",
    ]
    links = {attrs["href"] for tag, attrs in page.elements if tag == "a" and "href" in attrs}
    assert {f"#{name}" for name in identifiers[1:]} <= links
    every = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(every) == len(set(every))


def test_html_and_json_of_a_cutover_say_the_same(ledger: Ledger, tmp_path: Path) -> None:
    html, facts, _ = written(ledger, live.cutover(ledger, tmp_path, None), tmp_path / "report")
    text = Page(html).text
    assert dig(facts, "verdict", "word") == "CUT OVER"
    assert dig(facts, "live", "operation", "outcome") == "finished"
    assert text.index("CUT OVER") < text.index("Contents")
    steps = dig(facts, "live", "operation", "steps")
    assert isinstance(steps, list)
    assert [step["name"] for step in steps] == [name for name, _, _ in live.CUTOVER]
    assert [step["budget_seconds"] for step in steps] == [budget for _, budget, _ in live.CUTOVER]
    assert [round(step["seconds"], 3) for step in steps] == [seconds for _, _, seconds in live.CUTOVER]
    for step in steps:
        assert f"+{step['start_seconds']:.3f} s" in text
    gates = dig(facts, "live", "operation", "gates")
    assert isinstance(gates, list)
    assert [(gate["name"], gate["passed"]) for gate in gates] == [
        (g["name"], g["passed"]) for g in live.GATES
    ]
    assert all(gate["text"] in text for gate in gates)
    assert dig(facts, "live", "operation", "pause", "recorded_ms") == live.PAUSE_MS
    assert dig(facts, "live", "operation", "pause", "pause", "start_ms") == 3_000.5
    assert f"{live.PAUSE_MS:.0f} ms without an acknowledged write" in text


def test_nothing_hostile_and_no_secret_gets_out(ledger: Ledger, tmp_path: Path) -> None:
    sync = live.following(ledger, tmp_path)
    made = (
        live.cutover(ledger, tmp_path, sync.id),
        live.abandoned(ledger, tmp_path, sync, runs.HOSTILE_KEYS),
        live.watched(ledger, tmp_path, sync.id),
        sync.id,
    )
    for run_id in made:
        directory = tmp_path / "report"
        html, _, _ = written(ledger, run_id, directory)
        page = Page(html)
        assert {tag for tag, _ in page.elements}.isdisjoint({"script", "img", "b", "i", "iframe", "form"})
        assert all(char.isprintable() or char == "\n" for char in html)
        for file in directory.iterdir():
            assert runs.PASSWORD not in file.read_text("utf-8")


def test_budget_and_share_are_of_the_step(ledger: Ledger, tmp_path: Path) -> None:
    report = build_report(ledger, live.cutover(ledger, tmp_path, None))
    by_name = {step.name: step for step in operation(report).steps}
    assert by_name["confirm"].budget_share == pytest.approx(1.31 / 65)
    assert not any(step.over_budget for step in by_name.values())
    assert by_name["gates"].start_seconds == 0.0
    assert operation(report).seconds == pytest.approx(
        sum(seconds for _, _, seconds in live.CUTOVER) + 0.004 * (len(live.CUTOVER) - 1)
    )


def test_the_picture_has_a_bar_for_each_step_that_began(ledger: Ledger, tmp_path: Path) -> None:
    undone = operation(build_report(ledger, live.cutover(ledger, tmp_path, None, broken="prove")))
    chart = steps_chart(undone)
    assert chart is not None
    svg = ElementTree.fromstring(chart.svg)  # noqa: S314  (our own text)
    fillings = [rect.attrib["class"] for rect in svg.iter("rect")]
    assert fillings == ["solid", "solid", "dotted", "solid", "dotted", "hatched"]
    for rect in svg.iter("rect"):
        assert 0 <= float(rect.attrib["x"][:-1]) <= 100
        assert float(rect.attrib["x"][:-1]) + float(rect.attrib["width"][:-1]) <= 100.001
    told = svg.findtext("desc")
    assert told is not None
    assert all(step.name in told for step in undone.steps if step.begun)
    assert chart.legend[-1] == ("budget", "budget")
    assert steps_chart(replace(undone, steps=undone.steps[-1:])) is None


def test_the_pictures_of_the_pause_mark_sides_refusals_and_the_pause() -> None:
    pause = build_pause(live.client_writes(), (), {})
    assert pause is not None
    around = around_chart(pause)
    assert around is not None
    svg = ElementTree.fromstring(around.svg)  # noqa: S314  (our own text)
    near = [write for write in pause.around if write.ok]
    assert sum(line.attrib["class"] == "waited" for line in svg.iter("line")) == 1
    assert sum(line.attrib["class"] == "tick" for line in svg.iter("line")) == len(near)
    assert sum(path.attrib["class"] == "refused" for path in svg.iter("path")) == pause.refused
    assert [rect.attrib["class"] for rect in svg.iter("rect")] == ["pause"]
    whole = whole_chart(pause)
    assert whole is not None
    assert {filling for filling, _ in whole.legend} == {"solid", "hatched", "refused", "pause"}


def test_a_step_beyond_its_budget_is_said_at_the_top(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tuple(
        (name, budget, 15.0 if name == "drain" else seconds) for name, budget, seconds in live.CUTOVER
    )
    monkeypatch.setattr(live, "CUTOVER", slow)
    run_id = live.cutover(ledger, tmp_path, None)
    report = build_report(ledger, run_id)
    assert [step.name for step in operation(report).steps if step.over_budget] == ["drain"]
    assert [note for note in report.verdict.notes if "drain" in note]
    html, _, _ = written(ledger, run_id, tmp_path / "report")
    assert "150%, over" in Page(html).text


def test_an_undone_cutover_says_so_and_keeps_each_steps_own_time(ledger: Ledger, tmp_path: Path) -> None:
    report = build_report(ledger, live.cutover(ledger, tmp_path, None, broken="prove"))
    assert operation(report).outcome is Outcome.UNDONE
    assert report.verdict.tone == "undone"
    states = {step.name: step.state for step in operation(report).steps}
    assert states["gates"] is StepState.DONE
    assert states["pause"] is states["refuse"] is StepState.UNDONE
    assert states["drain"] is StepState.DONE
    assert states["prove"] is StepState.FAILED
    assert states["switch"] is StepState.PENDING
    pause = operation(report).steps[2]
    assert pause.start_seconds is not None
    assert pause.seconds is not None
    assert pause.undone_seconds is not None
    prove = operation(report).steps[5]
    assert prove.start_seconds is not None
    assert pause.start_seconds + pause.seconds <= prove.start_seconds < pause.undone_seconds
    assert not report.verdict.contradictions


@pytest.mark.parametrize(
    ("steps", "state", "outcome"),
    [
        (("gates", "baseline"), RunState.FAILED, Outcome.REFUSED),
        (("gates", "pause"), RunState.FAILED, Outcome.FAILED),
        (("gates", "pause"), RunState.INTERRUPTED, Outcome.INTERRUPTED),
        (("gates", "pause"), RunState.RUNNING, Outcome.RUNNING),
        (("gates", "pause", "switch"), RunState.FINISHED, Outcome.FINISHED),
    ],
)
def test_outcome_follows_from_run_and_steps(
    ledger: Ledger, tmp_path: Path, steps: tuple[str, ...], state: RunState, outcome: Outcome
) -> None:
    run_id = begun(ledger, tmp_path, *steps)
    ended(ledger, run_id, state)
    assert operation(build_report(ledger, run_id)).outcome is outcome


def test_an_operation_whose_process_is_gone_is_broken_off(ledger: Ledger, tmp_path: Path) -> None:
    run_id = begun(ledger, tmp_path, "gates", "pause")
    with writing(ledger.engine) as connection:
        gone = datetime.now(UTC) - timedelta(seconds=1)
        connection.execute(update(Run).where(Run.id == run_id).values(lease_until=gone))
    report = build_report(ledger, run_id)
    assert operation(report).outcome is Outcome.BROKEN_OFF
    assert report.verdict.tone == "fail"


def test_finished_over_a_step_that_is_not_done_is_a_contradiction(ledger: Ledger, tmp_path: Path) -> None:
    run_id = begun(ledger, tmp_path, "gates", "pause")
    ended(ledger, run_id, RunState.FINISHED)
    assert len(build_report(ledger, run_id).verdict.contradictions) == 4


def test_a_gate_that_said_no_is_a_contradiction_unless_broken_open(ledger: Ledger, tmp_path: Path) -> None:
    closed = [{"name": "lag", "passed": False, "value": 5_000, "limit": 1_000, "text": "Too many."}]
    run_id = live.cutover(ledger, tmp_path, None, gates=closed)
    assert ["lag" in said for said in build_report(ledger, run_id).verdict.contradictions] == [True]
    record_decision(ledger.engine, run_id, "lag", Decision.BREAK_GLASS, "grace", "it must be now")
    report = build_report(ledger, run_id)
    assert report.verdict.contradictions == ()
    assert [row.decision for row in operation(report).approvals][-1] is Decision.BREAK_GLASS
    assert any("grace" in note for note in report.verdict.notes)


def test_gates_that_refused_are_told_though_their_step_failed(ledger: Ledger, tmp_path: Path) -> None:
    run = ledger.start_run(RunKind.CUTOVER, Settings(state_dir=tmp_path))
    book = StepBook(ledger.engine, run.id, run.owner)
    book.plan([("gates", 1.0), ("pause", 1.0)])
    book.begin("gates", {})
    run.event(
        "cutover.gates", {"gates": [{"name": "lag", "passed": False, "value": 5, "limit": 1, "text": "No."}]}
    )
    book.end("gates", StepState.FAILED, {"problem": "a gate is closed"})
    run.finish(RunState.FAILED, verdict=Verdict.INCONCLUSIVE, reason="A gate is closed.")
    report = build_report(ledger, run.id)
    assert operation(report).outcome is Outcome.REFUSED
    assert [(gate.name, gate.passed, gate.value) for gate in operation(report).gates] == [("lag", False, 5)]


@pytest.mark.parametrize("state", [RunState.FINISHED, RunState.FAILED])
def test_applications_that_did_not_come_are_no_finished_cutover(
    ledger: Ledger, tmp_path: Path, state: RunState
) -> None:
    run = ledger.start_run(RunKind.CUTOVER, Settings(state_dir=tmp_path))
    book = StepBook(ledger.engine, run.id, run.owner)
    book.plan([("switch", 1.0), ("confirm", 1.0)])
    for name, end in (("switch", StepState.DONE), ("confirm", StepState.FAILED)):
        book.begin(name, {})
        book.end(name, end, {})
    run.finish(state, verdict=Verdict.INCONCLUSIVE, reason="Nobody came.")
    report = build_report(ledger, run.id)
    assert operation(report).outcome is Outcome.UNCONFIRMED
    assert report.verdict.tone == "inconclusive"


@pytest.mark.parametrize(
    ("verdict", "tone"),
    [
        (Verdict.PASS, "pass"),
        (Verdict.PASS_WITH_EXCEPTIONS, "exceptions"),
        (Verdict.INCONCLUSIVE, "inconclusive"),
        (Verdict.FAIL, "fail"),
    ],
)
def test_a_finished_cutover_looks_as_its_verdict(
    ledger: Ledger, tmp_path: Path, verdict: Verdict, tone: str
) -> None:
    run_id = live.cutover(ledger, tmp_path, None)
    with writing(ledger.engine) as connection:
        connection.execute(update(Run).where(Run.id == run_id).values(verdict=verdict))
    report = build_report(ledger, run_id)
    assert (report.verdict.word, report.verdict.tone) == ("CUT OVER", tone)


def test_approvals_are_told_in_their_order(ledger: Ledger, tmp_path: Path) -> None:
    html, facts, _ = written(ledger, live.cutover(ledger, tmp_path, None), tmp_path / "report")
    rows = dig(facts, "live", "operation", "approvals")
    assert isinstance(rows, list)
    assert [(row["gate"], row["decision"], row["by"]) for row in rows] == [
        ("cutover", "requested", "ada"),
        ("cutover", "approved", "grace"),
    ]
    assert "tonight, <i>please</i>" in Page(html).text


# -- the write pause ---------------------------------------------------------------------------------------------------


def test_pause_is_between_the_last_write_on_one_side_and_the_first_on_the_other() -> None:
    pause = build_pause(live.client_writes(), (), {})
    assert pause is not None
    assert pause.pause is not None
    assert (pause.pause.from_side, pause.pause.to_side) == ("blue", "green")
    assert pause.pause.length_ms == live.PAUSE_MS
    assert pause.recorded_ms is None
    assert pause.length_ms == live.PAUSE_MS
    assert pause.changes == 1
    assert pause.attempts == pause.acknowledged + pause.refused
    assert pause.refused == sum(pause.errors.values()) > 0
    assert sum(sum(b.acknowledged.values()) for b in pause.buckets) == pause.acknowledged
    assert sum(b.refused for b in pause.buckets) == pause.refused
    assert {side.side: side.refused for side in pause.sides} == {"blue": pause.refused, "green": 0}


def test_a_longer_gap_on_one_side_is_not_the_pause() -> None:
    numbers = [(0.0, "blue"), (900.0, "blue"), (1_000.0, "green"), (1_010.0, "green")]
    pause = build_pause([client(at, side) for at, side in numbers], (), {})
    assert pause is not None
    assert pause.pause is not None
    assert pause.pause.length_ms == 100.0


def test_a_write_that_was_held_back_counts_when_it_was_acknowledged() -> None:
    held = SampleRecord(
        "client", datetime.now(UTC), {"at_ms": 10.0, "side": "blue", "ok": True, "latency_ms": 500.0}
    )
    pause = build_pause([client(0.0, "blue"), held, client(600.0, "green")], (), {})
    assert pause is not None
    assert pause.pause is not None
    assert (pause.pause.start_ms, pause.pause.end_ms) == (510.0, 600.0)


def test_writes_that_change_sides_back_and_forth_contradict_a_cutover(ledger: Ledger, tmp_path: Path) -> None:
    run_id = live.cutover(ledger, tmp_path, None)
    add_samples(ledger.engine, run_id, [client(6_998.5, "blue"), client(7_100.0, "green")])
    report = build_report(ledger, run_id)
    pause = operation(report).pause
    assert pause is not None
    assert pause.changes == 3
    assert len(report.verdict.contradictions) == 1


def test_a_recorded_pause_that_the_writes_do_not_show_is_noted(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agreeing = build_report(ledger, live.cutover(ledger, tmp_path, None)).verdict.notes
    samples = live.client_writes()
    monkeypatch.setattr(live, "client_writes", lambda *, undone: samples)
    monkeypatch.setattr(live, "PAUSE_MS", 4_000.0)
    noted = build_report(ledger, live.cutover(ledger, tmp_path, None)).verdict.notes
    assert len(noted) == len(agreeing) + 1


def test_without_a_canary_the_page_says_that_nobody_measured(ledger: Ledger, tmp_path: Path) -> None:
    html, facts, _ = written(ledger, live.cutover(ledger, tmp_path, None, canary=False), tmp_path / "report")
    assert dig(facts, "live", "operation", "pause") is None
    assert "No client measured the write pause" in Page(html).text
    assert "chart-writes" not in html


def test_samples_of_another_shape_are_passed_over() -> None:
    odd = [SampleRecord("client", datetime.now(UTC), numbers) for numbers in ({}, {"at_ms": "x", "ok": True})]
    assert build_pause(odd, (), {}) is None
    pause = build_pause(odd, (), {"write_pause_ms": 12})
    assert pause is not None
    assert pause.length_ms == 12.0
    assert pause.around == ()
    assert pause.buckets == ()


def client(at: float, side: str, *, ok: bool = True) -> SampleRecord:
    return SampleRecord("client", datetime.now(UTC), {"at_ms": at, "side": side, "ok": ok})


# -- what is at risk ---------------------------------------------------------------------------------------------------


def test_keys_at_risk_are_listed_though_the_sync_run_holds_them(ledger: Ledger, tmp_path: Path) -> None:
    sync = live.following(ledger, tmp_path)
    keys = runs.HOSTILE_KEYS[:8]
    html, facts, rows = written(ledger, live.abandoned(ledger, tmp_path, sync, keys), tmp_path / "report")
    assert dig(facts, "verdict", "word") == "ROLLED BACK, GREEN ABANDONED"
    assert dig(facts, "live", "at_risk", "keys") == len(keys)
    assert dig(facts, "live", "at_risk", "recorded_by") == sync.id
    findings = facts["findings"]
    assert isinstance(findings, list)
    assert [bytes.fromhex(row["key"]["hex"]) for row in findings] == list(keys)
    assert {row["class"] for row in findings} == {row["class"] for row in rows} == {"at-risk"}
    assert [bytes.fromhex(row["key_hex"]) for row in rows] == list(keys)
    page = Page(html)
    assert {key_from_text(shown) for shown in page.keys} == {key for key in keys if key}
    assert page.text.count("At risk since 2026-11-23 04:05:01 UTC.") == len(keys)
    assert "cannot be named" in page.text
    identifiers = [attrs["id"] for tag, attrs in page.elements if tag == "section"]
    assert identifiers[:2] == ["verdict", "at-risk"]


def test_the_sync_process_answer_tells_keys_and_moment(ledger: Ledger, tmp_path: Path) -> None:
    sync = live.following(ledger, tmp_path)
    until = datetime(2026, 11, 23, 4, 5, 6, 789_000, tzinfo=UTC)
    with SyncBoard(ledger.engine, sync.id) as board:
        board.ask(Ask.AT_RISK, datetime.now(UTC) + timedelta(seconds=5))
        question = board.question()
        assert question is not None
        board.answer(question, {"ok": True, "keys": 3, "complete_until": until.isoformat()})
    report = build_report(ledger, live.abandoned(ledger, tmp_path, sync, runs.HOSTILE_KEYS[:6]))
    assert report.live is not None
    risk = report.live.at_risk
    assert risk is not None
    assert (risk.keys, risk.findings, risk.complete_until) == (3, 6, until)


def test_the_step_that_asked_tells_keys_and_moment_before_anything_else(
    ledger: Ledger, tmp_path: Path
) -> None:
    sync = live.following(ledger, tmp_path)
    until = datetime(2026, 11, 23, 4, 5, 6, tzinfo=UTC)
    run = ledger.start_run(RunKind.ROLLBACK, Settings(state_dir=tmp_path), parent_id=sync.id)
    book = StepBook(ledger.engine, run.id, run.owner)
    book.plan([("at-risk", 1.0)])
    book.begin("at-risk", {})
    run.add_findings(PhaseName.ROLLBACK, [NewFinding(FindingClass.AT_RISK, db, b"k") for db in (0, 1)])
    book.end("at-risk", StepState.DONE, {"keys": 1, "complete_until": until.isoformat()})
    run.finish(RunState.FINISHED, verdict=Verdict.INCONCLUSIVE, reason="Green was abandoned.")
    report = build_report(ledger, run.id)
    assert report.live is not None
    assert report.live.at_risk is not None
    risk = report.live.at_risk
    assert (risk.keys, risk.findings, risk.complete_until, risk.recorded_by) == (1, 2, until, run.id)


def test_without_a_gap_the_feed_was_complete_until_the_sync_process_last_spoke(
    ledger: Ledger, tmp_path: Path
) -> None:
    sync = ledger.start_run(RunKind.SYNC, Settings(state_dir=tmp_path))
    with SyncBoard(ledger.engine, sync.id) as board:
        board.publish(SyncStatus(Direction.BACKWARD, SyncState.FOLLOWING, "monitor"))
        status = board.status()
    run = ledger.start_run(RunKind.ROLLBACK, Settings(state_dir=tmp_path), parent_id=sync.id)
    run.add_findings(PhaseName.ROLLBACK, [NewFinding(FindingClass.AT_RISK, 0, b"k")])
    run.finish(RunState.FINISHED, verdict=None, reason=None)
    report = build_report(ledger, run.id)
    assert status is not None
    assert report.live is not None
    assert report.live.at_risk is not None
    assert report.live.at_risk.complete_until == status.updated_at
    assert report.live.at_risk.recorded_by == run.id


def test_risks_of_another_rollback_are_not_this_ones(ledger: Ledger, tmp_path: Path) -> None:
    sync = live.following(ledger, tmp_path)
    before = live.cutover(ledger, tmp_path, sync.id, kind=RunKind.ROLLBACK)
    abandoning = live.abandoned(ledger, tmp_path, sync)
    after = begun(ledger, tmp_path, kind=RunKind.ROLLBACK, parent=sync.id)
    ended(ledger, after, RunState.FINISHED)
    reports = [build_report(ledger, run_id) for run_id in (before, abandoning, after)]
    assert [operation(report).outcome for report in reports] == [
        Outcome.FINISHED,
        Outcome.ABANDONED,
        Outcome.FINISHED,
    ]
    assert [report.findings for report in reports] == [0, 6, 0]
    assert [report.live.at_risk is None for report in reports if report.live] == [True, False, True]


# -- the story ---------------------------------------------------------------------------------------------------------


def test_the_story_names_every_run_of_the_sync_run(ledger: Ledger, tmp_path: Path) -> None:
    sync = live.following(ledger, tmp_path)
    undone = live.cutover(ledger, tmp_path, sync.id, broken="drain")
    done = live.cutover(ledger, tmp_path, sync.id)
    back = live.abandoned(ledger, tmp_path, sync)
    other = live.cutover(ledger, tmp_path, None)
    html, facts, _ = written(ledger, done, tmp_path / "report")
    rows = dig(facts, "live", "story")
    assert isinstance(rows, list)
    assert {(row["run_id"], row["kind"], row["outcome"]) for row in rows} == {
        (sync.id, "sync", "running"),
        (undone, "cutover", "undone"),
        (done, "cutover", "finished"),
        (back, "rollback", "abandoned"),
    }
    assert [row["run_id"] for row in rows if row["this"]] == [done]
    assert all(row["run_id"] in Page(html).text for row in rows)
    alone = build_report(ledger, other).live
    assert alone is not None
    assert alone.story == ()


def test_operations_of_a_sync_run_are_no_repairs(ledger: Ledger, tmp_path: Path) -> None:
    sync = live.following(ledger, tmp_path)
    cutover = live.cutover(ledger, tmp_path, sync.id)
    assert build_report(ledger, sync.id).repairs is None
    assert build_report(ledger, cutover).repairs is None
