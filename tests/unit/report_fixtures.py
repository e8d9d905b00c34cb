"""Runs with made-up facts in a real ledger, one for each way a report can look."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import update
from xxhash import xxh3_128_digest

from integrity.endpoint import Identity
from integrity.ledger import Ledger, RunHandle
from integrity.ledger.database import writing
from integrity.ledger.models import (
    FindingClass,
    FindingState,
    Measurement,
    Phase,
    PhaseName,
    PhaseState,
    RepairAction,
    Run,
    RunKind,
    RunState,
    Verdict,
)
from integrity.ledger.store import CheckpointState, NewFinding, NewRepair
from integrity.settings import EndpointSettings, RuleSettings, Settings

PASSWORD = "hunter2-Sesame"

HOSTILE_KEYS: tuple[bytes, ...] = (
    b"",
    b"<script>alert(1)</script>",
    b"\"><img src=x onerror=alert(2)>'",
    b"</style></table><h1>PASS</h1>",
    b"{{ 7*7 }}{% raw %}",
    b"\xff\xfe\x00\x80 bytes that are no UTF-8",
    b"nul\x00inside",
    b"=1+1",
    b"+cmd|' /C calc'!A0",
    b"-2+3",
    b"@SUM(A1)",
    b"\t=tab",
    b"\r=return",
    b"a;=1+1",
    "＝1+1".encode(),
    "user:\u202eevil\u2066".encode(),
    "zero\u200bwidth\ufeff".encode(),
    "café:München:日本:😀".encode(),
    b"back\\slash \\x00 literal",
    b" leading, double  and trailing ",
    b"line\nbreak",
    b"x" * 5_000 + b"end-of-the-long-key",
    "ü".encode() * 3_000,
)


def settings(state_dir: Path) -> Settings:
    """Settings that hold a password in each place a password can be."""
    return Settings(
        state_dir=state_dir,
        label="Nightly rehearsal",
        source=EndpointSettings(url=SecretStr(f"redis://app:{PASSWORD}@blue.example:6379/0")),
        target=EndpointSettings(
            url=SecretStr("rediss://green.example:6380"), username="app", password=SecretStr(PASSWORD)
        ),
    )


def identity(engine: str, address: str, version: str, *, databases: dict[int, int]) -> dict[str, object]:
    """A server as the check phase records it."""
    return Identity(
        address=address,
        engine=engine,
        version=version,
        run_id=xxh3_128_digest(address.encode()).hex(),
        role="master",
        mode="standalone",
        used_memory=123_456_789,
        max_memory=0 if engine == "redis" else 4 << 30,
        databases=databases,
        has_pexpiretime=True,
        field_expiries="none",
        observed_at=datetime(2026, 11, 23, 0, 48, 29, tzinfo=UTC),
    ).to_dict()


def identified(run: RunHandle, *, dragonfly: bool = True) -> None:
    """Both servers are known."""
    source = identity("redis", "redis://app@blue.example:6379", "7.0.15", databases={0: 100_000, 3: 2_500})
    target = (
        identity("dragonfly", "rediss://app@green.example:6380", "1.34.2", databases={})
        if dragonfly
        else identity("redis", "redis://app@green.example:6380", "7.0.15", databases={})
    )
    run.identify(
        source=source,
        target=target,
        source_address="redis://app@blue.example:6379",
        target_address="rediss://app@green.example:6380",
    )


def _spread(ledger: Ledger, run: RunHandle, seconds: dict[PhaseName, float]) -> None:
    """Give phases a length and measurements along it, which a test does not want to wait for."""
    start = datetime.now(UTC) - timedelta(seconds=sum(seconds.values()) + 5)
    first = start
    with writing(ledger.engine) as connection:
        for name, length in seconds.items():
            end = start + timedelta(seconds=length)
            chosen = (Phase.run_id == run.id, Phase.name == name)
            connection.execute(update(Phase).where(*chosen).values(started_at=start, ended_at=end))
            rows = [
                {
                    "run_id": run.id,
                    "phase": name,
                    "at": start + timedelta(seconds=length * step / 24),
                    "keys": int(102_500 * (step / 24) ** 1.3),
                    "bytes": 1_200 * int(102_500 * (step / 24) ** 1.3),
                }
                for step in range(1, 25)
            ]
            connection.execute(Measurement.__table__.insert(), rows)  # type: ignore[attr-defined]
            start = end + timedelta(milliseconds=40)
        connection.execute(
            update(Run).where(Run.id == run.id).values(started_at=first - timedelta(milliseconds=300))
        )


COUNTS = {
    (0, "string"): (60_000, 42_000_000),
    (0, "hash"): (25_000, 61_000_000),
    (0, "zset"): (9_000, 8_100_000),
    (0, "list"): (5_000, 12_700_000),
    (0, "stream"): (1_000, 920_000),
    (3, "set"): (2_499, 350_000),
    (3, "ReJSON-RL"): (1, 512),
}


def _snapshot(run: RunHandle) -> None:
    run.phase_started(PhaseName.SNAPSHOT, 102_500)
    run.tally(PhaseName.SNAPSHOT, COUNTS)
    run.phase_ended(
        PhaseName.SNAPSHOT,
        PhaseState.DONE,
        keys=102_500,
        size=125_070_512,
        detail={
            "directory": f"/var/lib/greenfly/snapshots/{run.id}",
            "rdb_version": 10,
            "rdb_bytes": 118_203_344,
            "duplicates": 17,
            "fingerprints": {"0": "5b1c" * 8, "3": "09af" * 8},
            "seconds": 4.2,
            "client_cpu_seconds": 1.9,
        },
    )


def _stream(run: RunHandle) -> None:
    run.phase_started(PhaseName.STREAM, 102_500)
    run.tally(PhaseName.STREAM, COUNTS)
    run.phase_ended(
        PhaseName.STREAM,
        PhaseState.DONE,
        keys=102_500,
        size=125_070_512,
        detail={
            "written": 102_498,
            "skipped": 0,
            "refused": 0,
            "vanished": 2,
            "batches": 206,
            "seconds": 6.8,
            "client_cpu_seconds": 2.4,
        },
    )


def _verify(run: RunHandle, *, equal: int, settled: int = 3, target_print: str = "5b1c") -> None:
    run.tally(PhaseName.VERIFY, COUNTS | {(0, "string"): (59_998, 41_998_000)})
    run.phase_ended(
        PhaseName.VERIFY,
        PhaseState.DONE,
        keys=102_498,
        size=125_068_512,
        detail={
            "source_keys": 102_500,
            "target_keys": 102_498,
            "compared": 102_498,
            "equal": equal,
            "vanished": 2,
            "unreadable": 0,
            "target_scanned": 102_498,
            "extra": 0,
            "rechecks": 2,
            "settled": settled,
            "expiry_tolerance_ms": 1000,
            "max_expiry_drift_ms": 4,
            "fingerprints": {
                "source": {"0": "5b1c" * 8, "3": "09af" * 8},
                "target": {"0": target_print * 8, "3": "09af" * 8},
            },
            "seconds": 9.1,
            "client_cpu_seconds": 3.3,
        },
    )


def passed(ledger: Ledger, state_dir: Path) -> str:
    """A run in which all is well."""
    run = ledger.start_run(
        RunKind.MIGRATE, settings(state_dir), flow_run_id="0198f3c2-77aa-7cc0-9d61-1f0a6f1e2b3c"
    )
    run.phase_started(PhaseName.CHECK)
    identified(run)
    run.phase_ended(PhaseName.CHECK, PhaseState.DONE, detail={})
    _snapshot(run)
    artifact = state_dir / "dump.rdb"
    artifact.write_bytes(b"REDIS0010" + bytes(4000))
    ledger.add_artifact(run.id, "rdb", artifact)
    _stream(run)
    run.phase_started(PhaseName.VERIFY, 102_500)
    _verify(run, equal=102_498)
    _spread(ledger, run, {PhaseName.SNAPSHOT: 4.2, PhaseName.STREAM: 6.8, PhaseName.VERIFY: 9.1})
    run.finish(
        RunState.FINISHED,
        verdict=Verdict.PASS,
        reason="All 102,498 keys agree in value, type and expiry, and the target holds no other key.",
    )
    return run.id


def hostile_findings() -> list[NewFinding]:
    """One finding of each class for hostile keys, with both sides' facts where the class has them."""
    soon = 1_795_394_909_123
    found = []
    classes = list(FindingClass)
    for index, key in enumerate(HOSTILE_KEYS):
        finding_class = classes[index % len(classes)]
        on_source = finding_class is not FindingClass.EXTRA
        on_target = finding_class is not FindingClass.MISSING
        read = finding_class is not FindingClass.UNREADABLE
        differs = finding_class in (FindingClass.VALUE, FindingClass.TYPE)
        found.append(
            NewFinding(
                finding_class,
                database=index % 2 * 3,
                key=key,
                source_kind="string" if on_source else None,
                target_kind=("list" if finding_class is FindingClass.TYPE else "string")
                if on_target
                else None,
                source_digest=bytes(range(16)) if on_source and read else None,
                target_digest=(bytes(range(1, 17)) if differs else bytes(range(16)))
                if on_target and read
                else None,
                source_expiry_ms=soon if on_source else None,
                target_expiry_ms=(soon + 4_321 if finding_class is FindingClass.EXPIRY else soon)
                if on_target
                else None,
                source_size=28 if on_source else None,
                target_size=(31 if differs else 28) if on_target else None,
                detail='=HYPERLINK("x") <b>bold</b> redis://u:' + PASSWORD + "@h:1"
                if index == 0
                else "1 byte differs",
                state=(FindingState.OPEN, FindingState.OPEN, FindingState.SETTLED, FindingState.EXCEPTION)[
                    index % 4
                ],
            )
        )
    return found


def failed(ledger: Ledger, state_dir: Path) -> str:
    """A run whose sides differ, against a stand-in, with hostile keys."""
    run = ledger.start_run(RunKind.MIGRATE, settings(state_dir))
    run.phase_started(PhaseName.CHECK)
    identified(run, dragonfly=False)
    run.phase_ended(PhaseName.CHECK, PhaseState.DONE, detail={})
    _snapshot(run)
    _stream(run)
    run.phase_started(PhaseName.VERIFY, 102_500)
    found = hostile_findings()
    run.add_findings(PhaseName.VERIFY, found)
    run.add_findings(PhaseName.VERIFY, found[3:5])
    _verify(run, equal=102_486, target_print="77e0")
    _spread(ledger, run, {PhaseName.SNAPSHOT: 4.2, PhaseName.STREAM: 6.8, PhaseName.VERIFY: 9.1})
    run.finish(
        RunState.FINISHED,
        verdict=Verdict.FAIL,
        reason="9 differences in 102,498 compared keys: 3 missing, 3 extra, 1 type, 1 value, 1 expiry.",
    )
    return run.id


def inconclusive(ledger: Ledger, state_dir: Path) -> str:
    """A run that an error ended in the middle of the verification."""
    run = ledger.start_run(RunKind.MIGRATE, settings(state_dir))
    run.phase_started(PhaseName.CHECK)
    identified(run)
    run.phase_ended(PhaseName.CHECK, PhaseState.DONE, detail={})
    _snapshot(run)
    _stream(run)
    run.phase_started(PhaseName.VERIFY, 102_500)
    run.measure(PhaseName.VERIFY, 500, 20_000)
    run.finish(
        RunState.FAILED,
        verdict=Verdict.INCONCLUSIVE,
        reason="The verification did not complete.",
        error_kind="ServerUnreachable",
        error=f"Target rediss://app:{PASSWORD}@green.example:6380: the connection was lost. Start the run again.",
    )
    return run.id


def empty(ledger: Ledger, state_dir: Path) -> str:
    """A run that only began."""
    return ledger.start_run(RunKind.MIGRATE, Settings(state_dir=state_dir)).id


RULES = RuleSettings.model_validate(
    {
        "include": ["user:*", "<b>cart</b>:*"],
        "exclude": ["*:tmp"],
        "exclude_types": ["json"],
        "include_types": ["string", "hash"],
        "max_bytes": 500_000,
        "databases": {"3": 0},
        "rename": ["old:=new:", "cut:="],
    }
)
EXCLUDED = {
    "include": 40,
    "exclude *:tmp": 30,
    "type ReJSON-RL": 4,
    "type stream": 3,
    "type <i>zset": 2,
    "max_bytes": 1,
}
"""Rule → keys, as a phase counts them: 80 in all."""


def throttle(
    *, waited: dict[str, float], late: int, smallest: int, last: int, quiet: float, mean: float, samples: int
) -> dict[str, object]:
    """What one process tells about what held it back."""
    return {
        "waited_seconds": waited,
        "late": {"source": late} if late else {},
        "batch_keys": {"smallest": smallest, "last": last},
        "longest_pause_ms": 16 * late,
        "latency_ms": {
            "source": {"quiet": quiet, "mean": mean, "worst": 9 * mean, "samples": samples, "lost": 1},
            "target": {"quiet": None, "mean": None, "worst": None, "samples": 0, "lost": 0},
        },
    }


WORKERS = {
    "workers": [
        throttle(
            waited={"paused": 2.0, "cap on keys": 1.5},
            late=2,
            smallest=125,
            last=500,
            quiet=0.2,
            mean=1.0,
            samples=10,
        ),
        throttle(
            waited={"cap on keys": 4.0}, late=1, smallest=250, last=1000, quiet=0.1, mean=4.0, samples=30
        ),
    ]
}


def ruled(ledger: Ledger, state_dir: Path) -> str:
    """A run under rules, by two workers, that met with incidents and ended with exceptions."""
    run = ledger.start_run(
        RunKind.MIGRATE, settings(state_dir).model_copy(update={"rules": RULES, "workers": 2})
    )
    run.phase_started(PhaseName.CHECK)
    identified(run)
    run.phase_ended(PhaseName.CHECK, PhaseState.DONE, detail={"rules": {"include": ["user:*"]}})
    run.phase_started(PhaseName.STREAM, 1_000)
    for index, keys in enumerate((480, 520)):
        state = CheckpointState(0, 0, 5, keys, 9_000, done=True, range_index=index, range_count=2)
        run.checkpoint(PhaseName.STREAM, "one", state)
    run.checkpoint(PhaseName.STREAM, "one", CheckpointState(3, 77, 1, 10, 90, done=False))
    # Two workers lose the same server, and one of them has it back before the other.
    run.event("server.lost", {"problem": f"Source redis://app:{PASSWORD}@blue.example:6379: it is gone."})
    run.event("server.lost", {"problem": "Source: it is gone."})
    run.event("server.back", {})
    run.event("server.back", {})
    run.event("worker.lost", {"number": 1, "exit_code": -9})
    run.event("ranges.restarted", {"reason": "source restarted since: its cursors are void."})
    run.event("control.limited", {"keys_per_second": 500, "bytes_per_second": 0})
    run.add_findings(
        PhaseName.STREAM,
        [
            NewFinding(
                FindingClass.NOT_CARRIED,
                0,
                b"feed",
                "stream",
                detail="written with typed commands, which do not carry entries-read",
                state=FindingState.EXCEPTION,
                rule="typed-rewrite",
            )
        ],
    )
    detail: dict[str, object] = {
        "written": 918,
        "skipped": 0,
        "refused": 0,
        "relabelled": 7,
        "rewritten": 12,
        "big": 5,
        "excluded": EXCLUDED,
        "vanished": 2,
        "batches": 11,
        "throttle": WORKERS,
    }
    run.phase_ended(PhaseName.STREAM, PhaseState.DONE, keys=918, size=18_090, detail=detail)
    run.phase_started(PhaseName.VERIFY, 1_000)
    far = [
        NewFinding(
            FindingClass.EXPIRY,
            0,
            b"far:%d" % number,
            "string",
            "string",
            source_expiry_ms=2_426_701_437_496,
            target_expiry_ms=2_063_984_923_639,
            detail="expires 362,716,513,857 ms earlier on the target (rule expiry-limit)",
            state=FindingState.EXCEPTION,
            rule="expiry-limit",
        )
        for number in range(3)
    ]
    run.add_findings(PhaseName.VERIFY, far)
    run.add_findings(PhaseName.VERIFY, far[:1])
    detail = {
        "source_keys": 1_000,
        "target_keys": 918,
        "compared": 918,
        "equal": 915,
        "big": 5,
        "vanished": 2,
        "unreadable": 0,
        "excluded": EXCLUDED,
        "out_of_scope": 6,
        "target_scanned": 918,
        "extra": 0,
        "rechecks": 1,
        "settled": 0,
        "expiry_tolerance_ms": 1000,
        "field_expiries": True,
        "max_expiry_drift_ms": 4,
        "throttle": throttle(waited={}, late=0, smallest=1000, last=1000, quiet=0.1, mean=0.5, samples=9),
    }
    run.phase_ended(PhaseName.VERIFY, PhaseState.DONE, keys=918, size=18_090, detail=detail)
    run.finish(RunState.FINISHED, verdict=Verdict.PASS_WITH_EXCEPTIONS, reason="All agree but for 4.")
    return run.id


def repaired(
    ledger: Ledger, state_dir: Path, *, left: int = 1, verdict: Verdict = Verdict.FAIL
) -> tuple[str, str]:
    """A run whose sides differ, and the run that repaired all but *left* of its findings; both ids."""
    parent = ledger.start_run(RunKind.VERIFY, settings(state_dir))
    keys = [b"<script>alert(1)</script>", b"gone", b"=1+1"]
    parent.add_findings(
        PhaseName.VERIFY,
        [NewFinding(FindingClass.MISSING, 0, key, "string", detail="is missing") for key in keys],
    )
    parent.finish(RunState.FINISHED, verdict=Verdict.FAIL, reason="3 differences.")
    found = ledger.findings(parent.id)
    run = ledger.start_run(RunKind.REPAIR, settings(state_dir), parent_id=parent.id)
    run.phase_started(PhaseName.REPAIR, len(found))
    actions = [RepairAction.COPIED, RepairAction.SETTLED, RepairAction.DELETED]
    actions = actions[: len(found) - left] + [RepairAction.NOT_REPAIRED] * left
    repairs = [
        NewRepair(
            finding.id,
            finding.database,
            finding.key,
            action,
            before_source_digest=bytes(16),
            after_source_digest=bytes(16),
            after_target_digest=None if action is RepairAction.NOT_REPAIRED else bytes(16),
            before_detail=finding.detail,
            detail=f"redis://u:{PASSWORD}@h:1 says so",
        )
        for finding, action in zip(found, actions, strict=True)
    ]
    states = {finding.id: FindingState.REPAIRED for finding in found[: len(found) - left]}
    run.record_repairs(repairs, states, {"findings": len(repairs)})
    detail: dict[str, object] = {
        "repairs": parent.id,
        "outcomes": {"copied": len(found) - left, "expiry set": 0, "refused": left},
        "still_open": left,
        "rewritten": 1,
    }
    run.phase_ended(PhaseName.REPAIR, PhaseState.DONE, keys=len(found), detail=detail)
    run.finish(RunState.FINISHED, verdict=verdict, reason=f"{left} left.")
    return parent.id, run.id
