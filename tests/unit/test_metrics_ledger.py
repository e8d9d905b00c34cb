"""What the exporter tells of a ledger, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from integrity.ledger import Ledger, RunHandle, open_ledger
from integrity.ledger.database import writing
from integrity.ledger.models import (
    Event,
    FindingClass,
    FindingState,
    PhaseName,
    PhaseState,
    Run,
    RunKind,
    RunState,
    Verdict,
)
from integrity.ledger.samples import add_sample
from integrity.ledger.steps import StepBook
from integrity.ledger.store import NewFinding
from integrity.ledger.sync_board import SyncBoard, SyncStatus
from integrity.ledger.vocabulary import Decision, Direction, StepState, SyncState
from integrity.partition import CursorRange
from integrity.phases.work import RangeJob
from integrity.ranges import board
from integrity.settings import Settings, load_settings
from integrity.version import __version__
from reports.metrics import catalogue as c
from reports.metrics.catalogue import all_metrics
from reports.metrics.exporter import Exporter
from reports.metrics.record import ChainReader
from reports.metrics.sheet import Sheet
from tests.ledger import place, record_decision

SECRET_KEY = b"customer:4711:card"
LABELS = frozenset(
    {
        "version",
        "kind",
        "phase",
        "class",
        "state",
        "verdict",
        "direction",
        "reason",
        "side",
        "step",
        "rule",
        "decision",
        "quantile",
        "outcome",
        "severity",
    }
)


@pytest.fixture
def settings(tmp_path: Path, ledger_url: str | None) -> Settings:
    return load_settings(place(tmp_path / "state", ledger_url), environ={}).settings


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    opened = open_ledger(settings)
    yield opened
    opened.close()


def told(settings: Settings) -> Sheet:
    """What a new exporter tells now."""
    with closing(Exporter(settings)) as exporter:
        return exporter.sheet()


def lose(ledger: Ledger, run: RunHandle) -> None:
    """Let the lease of a run end, as if its process were gone."""
    with writing(ledger.engine) as connection:
        gone = datetime.now(UTC) - timedelta(seconds=1)
        connection.execute(update(Run).where(Run.id == run.id).values(lease_until=gone))


def ended(ledger: Ledger, settings: Settings, kind: RunKind, verdict: Verdict) -> RunHandle:
    run = ledger.start_run(kind, settings)
    run.finish(RunState.FINISHED, verdict=verdict, reason=None)
    return run


# -- runs --------------------------------------------------------------------------------------------------------------


def test_runs_are_counted_by_state_and_verdict(ledger: Ledger, settings: Settings) -> None:
    ended(ledger, settings, RunKind.MIGRATE, Verdict.PASS)
    ended(ledger, settings, RunKind.MIGRATE, Verdict.FAIL)
    lose(ledger, ledger.start_run(RunKind.SYNC, settings))
    sheet = told(settings)
    assert sheet.value(c.LEDGER_UP) == 1
    assert sheet.value(c.RUNS, "migrate", "finished") == 2
    assert sheet.value(c.VERDICTS, "migrate", "PASS") == 1
    assert sheet.value(c.RUN_VERDICT, "migrate", "FAIL") == 1
    assert sheet.value(c.RUN_VERDICT, "migrate", "PASS") == 0
    assert sheet.value(c.RUNS, "sync", "lost") == 1
    assert sheet.value(c.RUN_STATE, "sync", "lost") == 1
    assert sheet.value(c.RUN_STATE, "sync", "running") == 0
    newest = sheet.value(c.RUN_START, "migrate")
    passed = sheet.value(c.LAST_PASS, "migrate")
    assert newest is not None
    assert passed is not None
    assert passed <= newest


def test_the_live_run_is_told_of_and_not_the_one_before(ledger: Ledger, settings: Settings) -> None:
    done = ledger.start_run(RunKind.MIGRATE, settings)
    done.phase_started(PhaseName.STREAM, 50)
    done.phase_ended(PhaseName.STREAM, PhaseState.DONE, keys=50, size=500, detail={})
    done.finish(RunState.FINISHED, verdict=Verdict.PASS, reason=None)
    live = ledger.start_run(RunKind.MIGRATE, settings)
    live.phase_started(PhaseName.STREAM, 1000)
    live.measure(PhaseName.STREAM, 0, 0)
    live.measure(PhaseName.STREAM, 400, 4000)
    ledger.set_control(live.id, "control.limited", paused=True, keys_per_second=70)
    sheet = told(settings)
    assert sheet.value(c.PHASE_KEYS, "migrate", "stream") == 400
    assert sheet.value(c.PHASE_BYTES, "migrate", "stream") == 4000
    assert sheet.value(c.PHASE_KEYS_EXPECTED, "migrate", "stream") == 1000
    assert sheet.value(c.PHASE_STATE, "migrate", "stream", "running") == 1
    assert sheet.value(c.PHASE_STATE, "migrate", "stream", "done") == 0
    assert sheet.value(c.RUN_PAUSED, "migrate") == 1
    assert sheet.value(c.KEYS_LIMIT, "migrate") == 70
    assert sheet.value(c.BYTES_LIMIT, "migrate") is None


def test_why_a_live_run_waits_is_told_while_it_does(ledger: Ledger, settings: Settings) -> None:
    live = ledger.start_run(RunKind.MIGRATE, settings)
    live.phase_started(PhaseName.STREAM, 1000)
    held = {"waited_seconds": {"latency of the target": 2.5, "cap on keys": 1.0}, "late": {"target": 3}}

    live.telling_of(PhaseName.STREAM)({"workers": [held, held]})
    live.phase_told(PhaseName.STREAM, {"more": 1})

    sheet = told(settings)
    assert sheet.value(c.THROTTLE_WAIT, "migrate", "stream", "latency of the target") == 5
    assert sheet.value(c.THROTTLE_WAIT, "migrate", "stream", "cap on keys") == 2
    assert sheet.value(c.THROTTLE_LATE, "migrate", "stream", "target") == 6
    live.phase_ended(PhaseName.STREAM, PhaseState.DONE, detail={"throttle": held})
    live.telling_of(PhaseName.STREAM)({"workers": [held, held]})
    assert told(settings).value(c.THROTTLE_WAIT, "migrate", "stream", "cap on keys") == 1


def test_two_live_runs_of_a_kind_are_added_up(ledger: Ledger, settings: Settings) -> None:
    for keys in (10, 32):
        run = ledger.start_run(RunKind.MIGRATE, settings)
        run.phase_started(PhaseName.VERIFY, 100)
        run.measure(PhaseName.VERIFY, keys, 0)
    sheet = told(settings)
    assert sheet.value(c.PHASE_KEYS, "migrate", "verify") == 42
    assert sheet.value(c.RUN_STATE, "migrate", "running") == 2


def test_the_clock_of_a_lost_run_stands_still(ledger: Ledger, settings: Settings) -> None:
    run = ledger.start_run(RunKind.MIGRATE, settings)
    run.phase_started(PhaseName.STREAM)
    with writing(ledger.engine) as connection:
        begun = datetime.now(UTC) - timedelta(hours=2)
        values = {"started_at": begun, "lease_until": begun + timedelta(seconds=30)}
        connection.execute(update(Run).where(Run.id == run.id).values(**values))
    assert told(settings).value(c.RUN_DURATION, "migrate") == pytest.approx(30)


@pytest.mark.parametrize("workers", [False, True])
def test_what_held_a_phase_back_is_told_by_reason(ledger: Ledger, settings: Settings, workers: bool) -> None:
    throttle: dict[str, object] = {
        "waited_seconds": {"paused": 1.5, "latency of the source": 2, "latency of the moon": 3},
        "late": {"source": 4, "moon": 1},
    }
    run = ledger.start_run(RunKind.VERIFY, settings)
    run.phase_started(PhaseName.VERIFY)
    detail = {"throttle": {"workers": [throttle, throttle]} if workers else throttle}
    run.phase_ended(PhaseName.VERIFY, PhaseState.DONE, keys=1, detail=detail)
    sheet, times = told(settings), 2 if workers else 1
    assert sheet.value(c.THROTTLE_WAIT, "verify", "verify", "paused") == 1.5 * times
    assert sheet.value(c.THROTTLE_WAIT, "verify", "verify", "latency of the source") == 2 * times
    assert sheet.value(c.THROTTLE_WAIT, "verify", "verify", "other") == 3 * times
    assert sheet.value(c.THROTTLE_LATE, "verify", "verify", "other") == 1 * times


def test_shared_ranges_are_told_with_who_holds_them(ledger: Ledger, settings: Settings) -> None:
    run = ledger.start_run(RunKind.VERIFY, settings)
    jobs = [RangeJob("compare", 0, CursorRange(index, 4, "bits")) for index in range(4)]
    number = board.lay_out(ledger.engine, run.id, PhaseName.VERIFY, run.owner, {}, jobs)
    shared = board.find_set(ledger.engine, run.id, PhaseName.VERIFY)
    assert shared is not None
    assert board.claim(ledger.engine, shared, 0, "one", "")
    assert board.claim(ledger.engine, shared, 1, "lost", "")
    lost = next(view for view in board.look(ledger.engine, number) if view.process == "lost")
    assert board.free(ledger.engine, lost, keeps_part=False)
    assert board.claim(ledger.engine, shared, 1, "one", "")
    done = board.claim(ledger.engine, shared, 2, "two", "")
    assert done is not None
    assert board.finish(ledger.engine, done, {}, 10, 100)
    sheet = told(settings)
    states = {state: sheet.value(c.RANGES, "verify", "verify", state) for state in ("open", "held", "done")}
    assert states == {"open": 1, "held": 2, "done": 1}
    assert sheet.value(c.RANGE_WORKERS, "verify", "verify") == 1
    assert sheet.value(c.RANGE_ATTEMPTS, "verify", "verify") == 1
    lose(ledger, run)
    assert told(settings).value(c.RANGES, "verify", "verify", "open") is None


def test_findings_are_counted_by_class_and_state(ledger: Ledger, settings: Settings) -> None:
    run = ledger.start_run(RunKind.VERIFY, settings)
    found = [NewFinding(FindingClass.MISSING, 0, b"%d" % n) for n in range(3)]
    rule = NewFinding(FindingClass.EXTRA, 0, b"x", state=FindingState.EXCEPTION, rule="extra")
    run.add_findings(PhaseName.VERIFY, [*found, rule])
    sheet = told(settings)
    assert sheet.value(c.FINDINGS, "verify", "missing", "open") == 3
    assert sheet.value(c.FINDINGS, "verify", "extra", "exception") == 1
    assert sheet.value(c.FINDINGS, "verify", "extra", "open") is None


# -- live --------------------------------------------------------------------------------------------------------------


def test_a_lag_is_told_while_its_process_lives(ledger: Ledger, settings: Settings) -> None:
    run = ledger.start_run(RunKind.SYNC, settings)
    status = SyncStatus(
        Direction.BACKWARD, SyncState.FOLLOWING, "monitor", 7, 8, 9, 2500, 64, "a lost connection", carried=11
    )
    with SyncBoard(ledger.engine, run.id) as board:
        board.publish(status)
    sheet = told(settings)
    assert sheet.value(c.SYNC_LAG, "backward") == 2.5
    assert sheet.value(c.SYNC_DIRTY, "backward") == 7
    assert sheet.value(c.SYNC_UNPROVEN, "backward") == 8
    assert sheet.value(c.SYNC_STUCK, "backward") == 9
    assert sheet.value(c.SYNC_BACKLOG, "backward") == 64
    assert sheet.value(c.SYNC_GAP, "backward") == 1
    assert sheet.value(c.SYNC_CARRIED, "backward") == 11
    assert sheet.value(c.SYNC_STATE, "backward", "following") == 1
    assert sheet.value(c.SYNC_CLEAN, "backward") is None
    lose(ledger, run)
    assert told(settings).value(c.SYNC_LAG, "backward") is None


def test_steps_and_the_write_pause_of_an_operation(ledger: Ledger, settings: Settings) -> None:
    run = ledger.start_run(RunKind.CUTOVER, settings)
    book = StepBook(ledger.engine, run.id, run.owner)
    book.plan([("drain", 20.0), ("confirm", 30.0)])
    book.begin("drain", {})
    book.end("drain", StepState.DONE, {})
    book.begin("confirm", {})
    book.end("confirm", StepState.DONE, {"write_pause_ms": 612.5, "canary": {"longest_gap_ms": 700}})
    record_decision(ledger.engine, run.id, "cutover", Decision.APPROVED, "somebody")
    sheet = told(settings)
    assert sheet.value(c.STEP_STATE, "cutover", "drain", "done") == 1
    assert sheet.value(c.STEP_BUDGET, "cutover", "drain") == 20
    assert sheet.value(c.WRITE_PAUSE, "cutover") == 0.6125
    assert sheet.value(c.LONGEST_GAP, "cutover") == 0.7
    assert sheet.value(c.DECISIONS, "approved") == 1


def test_the_guard_and_the_health_of_green(ledger: Ledger, settings: Settings) -> None:
    run = ledger.start_run(RunKind.WATCH, settings)
    numbers: Mapping[str, object] = {
        "reachable": True,
        "latency_p99_ms": 12.0,
        "used_memory": 99,
        "clients": None,
    }
    add_sample(ledger.engine, run.id, "green", {"reachable": False, "used_memory": 1})
    add_sample(ledger.engine, run.id, "green", numbers)
    for rule in ("latency_p99", "errors", "errors", "<script>"):
        run.event("guard.breached", {"rule": rule})
    run.event("guard.recovered", {"rule": "errors"})
    run.event("rollback.requested", {"reason": "r"})
    sheet = told(settings)
    assert sheet.value(c.GUARD_BREACHES, "errors") == 2
    assert sheet.value(c.GUARD_BREACHES, "other") == 1
    assert sheet.value(c.GUARD_BREACHED, "errors") == 0
    assert sheet.value(c.GUARD_BREACHED, "latency_p99") == 1
    assert sheet.value(c.GUARD_BREACHED, "ops") == 0
    assert sheet.value(c.ROLLBACK_REQUESTS) == 1
    assert sheet.value(c.HEALTH_REACHABLE, "green") == 1
    assert sheet.value(c.HEALTH_LATENCY, "green", "0.99") == 0.012
    assert sheet.value(c.HEALTH_MEMORY, "green") == 99
    assert sheet.value(c.HEALTH_CLIENTS, "green") is None
    run.finish(RunState.FINISHED, verdict=None, reason=None)
    after = told(settings)
    assert after.value(c.GUARD_BREACHED, "latency_p99") is None
    assert after.value(c.GUARD_BREACHES, "latency_p99") == 1


# -- the record --------------------------------------------------------------------------------------------------------


def test_a_changed_event_shows_with_the_next_walk(ledger: Ledger, settings: Settings) -> None:
    for number in range(5):
        ledger.record_event("note", {"number": number})
    walking = ChainReader(anew_seconds=0)
    before, after = Sheet(), Sheet()
    walking.put(before, ledger.engine, [])
    with writing(ledger.engine) as connection:
        connection.execute(update(Event).where(Event.sequence == 3).values(payload="{}"))
    walking.put(after, ledger.engine, [])
    assert before.value(c.AUDIT_INTACT) == 1
    assert before.value(c.AUDIT_EVENTS) == 5
    assert after.value(c.AUDIT_INTACT) == 0
    assert after.value(c.AUDIT_WALKED) == 2


def test_a_cut_off_tail_shows_to_whoever_walked_it(ledger: Ledger) -> None:
    for number in range(5):
        ledger.record_event("note", {"number": number})
    walking = ChainReader()
    walking.put(Sheet(), ledger.engine, [])
    with writing(ledger.engine) as connection:
        connection.execute(Event.__table__.delete().where(Event.sequence > 3))  # type: ignore[attr-defined]
    sheet = Sheet()
    walking.put(sheet, ledger.engine, [])
    assert sheet.value(c.AUDIT_INTACT) == 0


def test_a_long_chain_is_walked_in_parts(ledger: Ledger) -> None:
    for _ in range(7):
        ledger.record_event("server.lost", {})
    walking, walked, losses = ChainReader(events_at_a_time=3), [], []
    for _ in range(3):
        sheet = Sheet()
        walking.put(sheet, ledger.engine, [])
        walked.append(sheet.value(c.AUDIT_WALKED))
        losses.append(sheet.value(c.SERVER_LOSSES))
    assert walked == [3, 6, 7]
    assert losses == [None, None, 7], "a part of the count would look like a fall later"


# -- the whole ---------------------------------------------------------------------------------------------------------


def test_no_key_no_address_and_no_run_id_is_told(ledger: Ledger, settings: Settings) -> None:
    run = ledger.start_run(RunKind.VERIFY, settings)
    address = "redis://user@blue.example.org:6379"
    run.identify(source={}, target={}, source_address=address, target_address=address)
    run.phase_started(PhaseName.VERIFY)
    run.add_findings(PhaseName.VERIFY, [NewFinding(FindingClass.VALUE, 0, SECRET_KEY, detail="seen")])
    run.event("guard.breached", {"rule": SECRET_KEY.decode()})
    with closing(Exporter(settings)) as exporter:
        text = generate_latest(exporter.registry()).decode()
    assert 'class="value"' in text
    for forbidden in (SECRET_KEY.decode(), "4711", "example.org", run.id, run.id.split("-")[-1]):
        assert forbidden not in text


def test_prometheus_can_read_it_and_it_is_all_in_the_catalogue(ledger: Ledger, settings: Settings) -> None:
    ended(ledger, settings, RunKind.MIGRATE, Verdict.PASS_WITH_EXCEPTIONS)
    with closing(Exporter(settings)) as exporter:
        text = generate_latest(exporter.registry()).decode()
    known = {metric.name: metric for metric in all_metrics()}
    seen = set()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            metric = known[sample.name]
            assert set(sample.labels) == set(metric.labels), sample
            assert family.type == ("counter" if metric.is_counter else "gauge")
            seen.add(sample.name)
    assert {"greenfly_ledger_up", "greenfly_run_verdict", "greenfly_audit_events_total"} <= seen


def test_labels_are_words_of_known_vocabularies() -> None:
    assert {label for metric in all_metrics() for label in metric.labels} <= LABELS
    for metric in all_metrics():
        assert metric.name.startswith("greenfly_")
        assert metric.help.endswith(".")


def test_an_empty_database_has_nothing_to_tell_and_stays_empty(
    tmp_path: Path, fresh_ledger_url: str | None
) -> None:
    settings = load_settings(place(tmp_path / "fresh", fresh_ledger_url), environ={}).settings
    sheet = told(settings)
    assert sheet.value(c.LEDGER_UP) == 1
    assert sheet.value(c.AUDIT_EVENTS) is None
    assert told(settings).value(c.AUDIT_EVENTS) is None, "looking on makes no schema"


def test_a_ledger_of_another_schema_is_told_as_away(ledger: Ledger, settings: Settings) -> None:
    said: list[str] = []
    with closing(Exporter(settings, said.append)) as exporter:
        assert exporter.sheet().value(c.LEDGER_UP) == 1
        with writing(ledger.engine) as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'from the future'")
        exporter.forget()
        sheet = exporter.sheet()
        assert sheet.value(c.LEDGER_UP) == 0
        assert sheet.value(c.AUDIT_EVENTS) is None
        assert len(said) == 1
        assert "from the future" in said[0]


def test_a_word_that_this_version_does_not_know_is_no_crash(ledger: Ledger, settings: Settings) -> None:
    ended(ledger, settings, RunKind.MIGRATE, Verdict.PASS)
    with writing(ledger.engine) as connection:
        connection.exec_driver_sql("UPDATE run SET kind = 'teleport'")
    sheet = told(settings)
    assert sheet.value(c.LEDGER_UP) == 0
    assert sheet.value(c.BUILD_INFO, __version__) == 1
