"""Live runs with made-up facts in a real ledger: a sync run and what rested on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from math import sin
from pathlib import Path

from sqlalchemy import update

from integrity.ledger import Ledger, RunHandle
from integrity.ledger.database import writing
from integrity.ledger.live_models import Step
from integrity.ledger.models import FindingClass, PhaseName, PhaseState, Run, RunKind, RunState, Verdict
from integrity.ledger.samples import SampleRecord, add_samples
from integrity.ledger.steps import StepBook
from integrity.ledger.store import NewFinding
from integrity.ledger.sync_board import SyncBoard, SyncStatus
from integrity.ledger.vocabulary import Decision, Direction, StepState, SyncState
from tests.ledger import record_decision
from tests.unit.report_fixtures import HOSTILE_KEYS, PASSWORD, identified, settings

CUTOVER = (
    ("gates", 30.0, 0.42),
    ("baseline", 30.0, 2.03),
    ("pause", 5.0, 0.21),
    ("drain", 10.0, 0.161),
    ("refuse", 5.0, 0.035),
    ("prove", 10.0, 0.12),
    ("arm", 10.0, 0.03),
    ("open", 5.0, 0.004),
    ("switch", 30.0, 0.052),
    ("close", 5.0, 0.015),
    ("confirm", 65.0, 1.31),
)
"""(name, budget in seconds, seconds it took)"""
GATES: tuple[dict[str, object], ...] = (
    {
        "name": "assessment",
        "passed": True,
        "value": "clean",
        "limit": None,
        "text": "No check of blue failed.",
    },
    {
        "name": "verdict",
        "passed": True,
        "value": 92.5,
        "limit": 3600,
        "text": "The newest clean pass is 92 s old.",
    },
    {"name": "lag", "passed": True, "value": 3, "limit": 1000, "text": "3 keys to carry over."},
    {
        "name": "headroom",
        "passed": True,
        "value": {"free_bytes": 3 << 30},
        "limit": {"free_bytes": 1 << 30},
        "text": f"redis://app:{PASSWORD}@green.example:6380 has <b>room</b>.",
    },
)
PAUSE_MS = 412.0


def following(ledger: Ledger, state_dir: Path) -> RunHandle:
    """A sync run that followed for ten minutes, with a gap that was closed and one that is open."""
    run = ledger.start_run(RunKind.SYNC, settings(state_dir))
    identified(run)
    run.phase_started(PhaseName.STREAM, 102_500)
    run.phase_ended(
        PhaseName.STREAM, PhaseState.DONE, keys=102_500, size=9_000_000, detail={"written": 102_500}
    )
    run.phase_started(PhaseName.SYNC)
    began = began_before(ledger, run, 660)
    samples = []
    for second in range(600):
        burst = 4_000 * max(0.0, 1 - abs(second - 240) / 40)
        numbers: dict[str, object] = {
            "dirty": int(12 + 8 * sin(second / 9) + burst),
            "unproven": 200 + second // 3,
            "lag_ms": 35.0 + 10 * sin(second / 7) + burst / 4,
            "backlog_bytes": int(burst * 90),
            "direction": "forward" if second < 500 else "backward",
        }
        samples.append(SampleRecord("sync", began + timedelta(seconds=50 + second), numbers))
    add_samples(ledger.engine, run.id, samples)
    first = (began + timedelta(seconds=280)).isoformat()
    run.event("sync.following", {"direction": "forward", "feed": "tracking"})
    run.event("sync.pass", {"compared": 102_500, "differed": 14, "seconds": 9.25, "clean": False})
    run.event(
        "sync.gap", {"reason": f"tracking of redis://app:{PASSWORD}@blue.example broke off", "since": first}
    )
    run.event("sync.gap-closed", {})
    run.event("sync.pass", {"compared": 102_514, "differed": 0, "seconds": 8.5, "clean": True})
    run.add_findings(
        PhaseName.SYNC,
        [
            NewFinding(
                FindingClass.VALUE, 0, HOSTILE_KEYS[1], "string", "string", detail="cannot be made equal"
            )
        ],
    )
    with SyncBoard(ledger.engine, run.id) as board:
        board.publish(
            SyncStatus(
                Direction.BACKWARD,
                SyncState.FOLLOWING,
                "monitor",
                dirty=7,
                unproven=31,
                stuck=1,
                lag_ms=48,
                backlog_bytes=2_048,
                clean_since=began + timedelta(seconds=400),
                carried=51_234,
                removed=123,
            )
        )
    return run


def cutover(
    ledger: Ledger,
    state_dir: Path,
    parent: str | None,
    *,
    broken: str | None = None,
    canary: bool = True,
    gates: Sequence[Mapping[str, object]] = GATES,
    kind: RunKind = RunKind.CUTOVER,
) -> str:
    """A cutover that finished; one in which the step *broken* failed was undone."""
    run = ledger.start_run(kind, settings(state_dir), parent_id=parent)
    identified(run)
    run.phase_started(PhaseName(kind.value))
    began_before(ledger, run, 400)
    record_decision(ledger.engine, run.id, "cutover", Decision.REQUESTED, "ada", "tonight, <i>please</i>")
    record_decision(ledger.engine, run.id, "cutover", Decision.APPROVED, "grace")
    book = StepBook(ledger.engine, run.id, run.owner)
    book.plan([(name, budget) for name, budget, _ in CUTOVER])
    done: list[str] = []
    for name, _, _ in CUTOVER:
        book.begin(name, {"gates": list(gates)} if name == "gates" else {"users": 2, "method": "acl"})
        if name == broken:
            book.end(name, StepState.FAILED, {"problem": "green did not answer in time"})
            for earlier in reversed(done):
                if earlier in ("pause", "refuse", "arm", "open", "switch"):
                    book.end(earlier, StepState.UNDONE, {})
            break
        summary = {
            "write_pause_ms": PAUSE_MS,
            "canary": {"attempts": 1_400, "refused": 10, "longest_gap_ms": PAUSE_MS},
        }
        book.end(name, StepState.DONE, summary if name == "confirm" and canary else {})
        done.append(name)
    if broken is None:
        spread(ledger, run)
    if canary:
        add_samples(ledger.engine, run.id, client_writes(undone=broken is not None))
        add_samples(ledger.engine, run.id, [health("blue", 600 + second) for second in range(20)])
    phase_state = PhaseState.DONE if broken is None else PhaseState.FAILED
    run.phase_ended(PhaseName(kind.value), phase_state, detail={})
    reason = "All is moved." if broken is None else f"The step {broken} failed: green did not answer in time."
    run.finish(
        RunState.FINISHED if broken is None else RunState.FAILED,
        verdict=Verdict.PASS if broken is None else None,
        reason=reason,
    )
    return run.id


def abandoned(
    ledger: Ledger, state_dir: Path, sync: RunHandle, keys: Sequence[bytes] = HOSTILE_KEYS[:6]
) -> str:
    """A rollback without green, whose keys at risk the sync run recorded."""
    run = ledger.start_run(RunKind.ROLLBACK, settings(state_dir), parent_id=sync.id)
    run.phase_started(PhaseName.ROLLBACK)
    book = StepBook(ledger.engine, run.id, run.owner)
    book.plan([("check", 30.0), ("at-risk", 120.0), ("open", 5.0), ("switch", 30.0), ("confirm", 65.0)])
    record_decision(ledger.engine, run.id, "rollback", Decision.BREAK_GLASS, "ada", "green is dead")
    sync.event(
        "sync.gap",
        {"reason": "green does not answer", "since": (datetime.now(UTC) - timedelta(seconds=30)).isoformat()},
    )
    sync.add_findings(
        PhaseName.SYNC,
        [
            NewFinding(FindingClass.AT_RISK, 0, key, detail="at risk since 2026-11-23 04:05:01 UTC")
            for key in keys
        ],
    )
    run.event("rollback.requested", {"reason": "green is dead", "abandon": True})
    for name in ("check", "at-risk", "open", "switch", "confirm"):
        book.begin(name, {})
        book.end(name, StepState.DONE, {})
    run.phase_ended(PhaseName.ROLLBACK, PhaseState.DONE, detail={})
    run.finish(RunState.FINISHED, verdict=None, reason=f"Green was abandoned; {len(keys)} keys are at risk.")
    return run.id


def watched(ledger: Ledger, state_dir: Path, parent: str | None, *, recovers: bool = True) -> str:
    """A watch over green in which one rule was broken."""
    run = ledger.start_run(RunKind.WATCH, settings(state_dir), parent_id=parent)
    run.phase_started(PhaseName.WATCH)
    began = began_before(ledger, run, 300)
    samples = [health("green", second) for second in range(290)]
    add_samples(
        ledger.engine,
        run.id,
        [
            SampleRecord(s.side, began + timedelta(seconds=index + 1), s.numbers)
            for index, s in enumerate(samples)
        ],
    )
    run.event("guard.started", {"cutover": None, "on_breach": "rollback", "on_dead": "abandon"})
    breach = {
        "rule": "latency_p99",
        "status": "breached",
        "value": 41.5,
        "limit": 20.0,
        "since": (began + timedelta(seconds=100)).isoformat(),
        "text": "99th percentile of latency: 41.5 ms (allowed at most 20 ms).",
    }
    run.event("guard.breached", breach)
    told = {
        "event": "guard.breached",
        "channel": "webhook",
        "delivered": True,
        "detail": f"http://x:{PASSWORD}@hook",
    }
    run.event("guard.notified", told)
    if recovers:
        run.event("guard.recovered", {"rule": "latency_p99"})
    else:
        run.event(
            "guard.rollback-started", {"abandon": False, "reason": "It is slow.", "rules": ["latency_p99"]}
        )
    run.phase_ended(PhaseName.WATCH, PhaseState.DONE, detail={})
    run.finish(RunState.FINISHED, verdict=None, reason=None)
    return run.id


def health(side: str, second: int) -> SampleRecord:
    """One sample as the guard takes it."""
    bad = side == "green" and 100 <= second < 130
    numbers: dict[str, object] = {
        "latency_p50_ms": 0.21 if side == "blue" else 0.17,
        "latency_p99_ms": 1.4 if side == "blue" else 41.5 if bad else 1.1 + second % 5 / 10,
        "ops_per_second": 5_000 + 40 * sin(second / 5),
        "errors_per_second": 3.5 if bad else 0.0,
        "used_memory": 900_000_000 + 10_000 * second,
        "max_memory": 4 << 30,
        "clients": 42,
        "evicted_per_second": 0,
        "hit_ratio": 0.93,
        "engine": "dragonfly",
    }
    return SampleRecord(side, datetime.now(UTC), numbers)


def client_writes(*, undone: bool = False) -> list[SampleRecord]:
    """200 writes a second for seven seconds; none is acknowledged for :data:`PAUSE_MS` from 3,000.5 ms on.

    The first of the others is held back for 300 ms and then refused, like those after it.
    """
    now = datetime.now(UTC)
    refused = "NOPERM this user has no permissions to run the 'set' command"
    after = 3_000 + PAUSE_MS
    other = "blue" if undone else "green"
    writes: list[tuple[float, str, float, str | None]] = [
        *((float(at), "blue", 0.5, None) for at in range(0, 3_005, 5)),
        (3_005.0, "blue", 300.0, refused),
        *((float(at), "blue", 0.4, refused) for at in range(3_310, 3_400, 10)),
        *((after + at, other, 0.5, None) for at in range(0, 3_600, 5)),
    ]
    return [
        SampleRecord(
            "client",
            now,
            {"at_ms": at, "side": side, "ok": error is None, "latency_ms": latency, "error": error},
        )
        for at, side, latency, error in writes
    ]


def spread(ledger: Ledger, run: RunHandle) -> None:
    """Give the steps the lengths of :data:`CUTOVER`, which a test does not want to wait for."""
    at = datetime.now(UTC) - timedelta(seconds=5)
    with writing(ledger.engine) as connection:
        for name, _, seconds in CUTOVER:
            chosen = (Step.run_id == run.id, Step.name == name, Step.attempts > 0)
            times = {"started_at": at, "ended_at": at + timedelta(seconds=seconds)}
            connection.execute(update(Step).where(*chosen).values(**times))
            at += timedelta(seconds=seconds + 0.004)


def began_before(ledger: Ledger, run: RunHandle, seconds: float) -> datetime:
    """Let the run have begun earlier; when that is."""
    at = datetime.now(UTC) - timedelta(seconds=seconds)
    with writing(ledger.engine) as connection:
        connection.execute(update(Run).where(Run.id == run.id).values(started_at=at))
    return at
