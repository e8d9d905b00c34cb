"""Shared ranges in the ledger: who may write what, and that nothing is lost on the way through it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrity import errors
from integrity.checksum import Fingerprint
from integrity.errors import (
    GreenflyError,
    LedgerError,
    OrchestratorFailed,
    Refused,
    ServerFull,
    ServerRestarted,
)
from integrity.ledger import Ledger, RunHandle, open_ledger
from integrity.ledger.models import PhaseName, RunKind, RunState
from integrity.ledger.range_models import RangeState
from integrity.ledger.values import CheckpointState
from integrity.partition import CursorRange
from integrity.phases.work import Part, RangeJob
from integrity.ranges import board
from integrity.ranges.board import Claim, SharedSet
from integrity.ranges.handle import RangeLost, WorkerHandle
from integrity.ranges.owner import phase_of
from integrity.ranges.plain import (
    error_from_dict,
    error_to_dict,
    part_from_dict,
    part_to_dict,
    throttle_of_worker,
)
from integrity.settings import Settings, load_settings
from integrity.transfer.copy import CopyTotals
from integrity.transfer.latency_history import MOST_STEPS
from integrity.verify.totals import CompareTotals
from tests.ledger import place

JOBS = [RangeJob("copy", 0, CursorRange(0, 2, "bits")), RangeJob("copy", 0, CursorRange(1, 2, "bits"))]
SOURCE = "source-process"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger_url: str | None) -> Settings:
    monkeypatch.chdir(tmp_path)
    return load_settings(place(tmp_path / "state", ledger_url), environ={}).settings


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    opened = open_ledger(settings)
    yield opened
    opened.close()


@pytest.fixture
def run(ledger: Ledger, settings: Settings) -> RunHandle:
    return ledger.start_run(RunKind.MIGRATE, settings)


@pytest.fixture
def shared(ledger: Ledger, run: RunHandle) -> SharedSet:
    board.lay_out(ledger.engine, run.id, PhaseName.STREAM, run.owner, {"decided": True}, JOBS)
    found = board.find_set(ledger.engine, run.id, PhaseName.STREAM)
    assert found is not None
    return found


def take(ledger: Ledger, shared: SharedSet, number: int = 0, worker: str = "one:1") -> Claim:
    claim = board.claim(ledger.engine, shared, number, worker, SOURCE)
    assert claim is not None
    return claim


def handle_of(ledger: Ledger, shared: SharedSet, claim: Claim, part: Part | None = None) -> WorkerHandle:
    return WorkerHandle(
        ledger.engine,
        shared.run_id,
        shared.owner,
        # So short a lease shows life at every chance.
        0.000_1,
        claim,
        part=lambda: part or Part(),
        on_sharers=lambda _: None,
    )


def at(cursor: int, keys: int, *, done: bool = False) -> CheckpointState:
    return CheckpointState(0, cursor, keys // 10, keys, keys * 8, done, 0, 2)


def free(ledger: Ledger, shared: SharedSet, number: int = 0, *, keeps_part: bool = True) -> bool:
    return board.free(ledger.engine, board.look(ledger.engine, shared.id)[number], keeps_part=keeps_part)


# -- one holder at a time ----------------------------------------------------------------------------------------------


def test_a_range_has_one_holder(ledger: Ledger, shared: SharedSet) -> None:
    take(ledger, shared)

    assert board.claim(ledger.engine, shared, 0, "two:2", SOURCE) is None
    assert take(ledger, shared, 1, "two:2").sharers == 2
    assert [view.process for view in board.look(ledger.engine, shared.id)] == ["one:1", "two:2"]


def test_who_lost_a_range_can_write_nothing_about_it(
    ledger: Ledger, shared: SharedSet, run: RunHandle
) -> None:
    claim = take(ledger, shared)
    stale = handle_of(ledger, shared, claim)
    stale.checkpoint(PhaseName.STREAM, SOURCE, at(7, 100))
    assert free(ledger, shared)
    fresh = take(ledger, shared, worker="two:2")

    with pytest.raises(RangeLost):
        stale.checkpoint(PhaseName.STREAM, SOURCE, at(9, 200))
    with pytest.raises(RangeLost):
        stale.renew_lease()
    assert not board.finish(ledger.engine, claim, part_to_dict(Part()), 1, 1)
    assert not board.fail(ledger.engine, claim, {})
    assert not board.give_back(ledger.engine, claim)

    assert fresh.job.start == at(7, 100)
    assert [row.state for row in ledger.checkpoints(run.id)] == [at(7, 100)]
    view = board.look(ledger.engine, shared.id)[0]
    assert (view.state, view.attempt, view.process) == (RangeState.HELD, 2, "two:2")
    stale.close()


def test_the_first_checkpoint_of_who_lost_a_range_is_void_too(
    ledger: Ledger, shared: SharedSet, run: RunHandle
) -> None:
    stale = handle_of(ledger, shared, take(ledger, shared))
    board.remove(ledger.engine, shared.id)

    with pytest.raises(RangeLost):
        stale.checkpoint(PhaseName.STREAM, SOURCE, at(7, 100))

    assert ledger.checkpoints(run.id) == []


def test_a_worker_that_showed_life_since_keeps_its_range(ledger: Ledger, shared: SharedSet) -> None:
    worker = handle_of(ledger, shared, take(ledger, shared))
    seen = board.look(ledger.engine, shared.id)[0]

    worker.renew_lease()

    assert not board.free(ledger.engine, seen, keeps_part=True)
    worker.close()


def test_a_checkpoint_of_another_process_of_the_source_does_not_count(
    ledger: Ledger, shared: SharedSet
) -> None:
    worker = handle_of(ledger, shared, take(ledger, shared))
    worker.checkpoint(PhaseName.STREAM, "an earlier process", at(7, 100))
    worker.close()
    assert free(ledger, shared)

    assert take(ledger, shared).job.start is None


@pytest.mark.parametrize("keeps", [True, False])
def test_what_a_lost_worker_told_with_its_checkpoint_counts_where_that_goes_on(
    ledger: Ledger, shared: SharedSet, keeps: bool
) -> None:
    worker = handle_of(ledger, shared, take(ledger, shared), Part(copied=CopyTotals(written=100)))
    worker.checkpoint(PhaseName.STREAM, SOURCE, at(7, 100))
    worker.close()
    assert free(ledger, shared, keeps_part=keeps)

    claim = take(ledger, shared)
    successor = handle_of(ledger, shared, claim, Part(copied=CopyTotals(written=20)))

    assert part_from_dict(successor.so_far()).copied.written == (120 if keeps else 20)
    successor.close()


# -- nobody works for a run that nobody owns ---------------------------------------------------------------------------


def test_workers_do_not_keep_a_run_alive(ledger: Ledger, shared: SharedSet, run: RunHandle) -> None:
    worker = handle_of(ledger, shared, take(ledger, shared))
    before = ledger.find_run(run.id).lease_until

    worker.renew_lease()
    worker.checkpoint(PhaseName.STREAM, SOURCE, at(7, 100))

    assert ledger.find_run(run.id).lease_until == before
    worker.close()


@pytest.mark.parametrize("ends", ["close", "finish", "let go"])
def test_workers_stop_when_the_run_stops(
    ledger: Ledger, shared: SharedSet, run: RunHandle, ends: str
) -> None:
    worker = handle_of(ledger, shared, take(ledger, shared))
    if ends == "close":
        board.close(ledger.engine, shared.id)
    elif ends == "finish":
        run.finish(RunState.FAILED, verdict=None, reason=None)
    else:
        run.let_go()

    with pytest.raises(RangeLost):
        worker.renew_lease()
    assert board.claim(ledger.engine, shared, 1, "two:2", SOURCE) is None
    assert board.find_set(ledger.engine, run.id, PhaseName.STREAM) is None
    worker.close()


def test_an_owner_lays_out_anew_what_an_earlier_attempt_left(
    ledger: Ledger, shared: SharedSet, run: RunHandle
) -> None:
    claim = take(ledger, shared)

    board.lay_out(ledger.engine, run.id, PhaseName.STREAM, run.owner, {}, JOBS)
    again = board.find_set(ledger.engine, run.id, PhaseName.STREAM)
    assert again is not None

    assert not board.finish(ledger.engine, claim, {}, 1, 1)
    assert [view.state for view in board.look(ledger.engine, again.id)] == [RangeState.OPEN] * 2
    # SQLite numbers new rows as it did those that are gone; a claim of old is void all the same.
    newer = take(ledger, again, worker="two:2")
    assert (newer.attempt, newer.number_of_worker) != (claim.attempt, claim.number_of_worker)
    assert not board.finish(ledger.engine, claim, {}, 1, 1)
    assert board.finish(ledger.engine, newer, {}, 1, 1)


# -- through the ledger and back ---------------------------------------------------------------------------------------

COUNT = st.integers(0, 2**63 - 1)
WORDS = st.text(max_size=8)
DATABASE = st.integers(0, 20)


@st.composite
def fingerprints(draw: st.DrawFn) -> Fingerprint:
    fingerprint = Fingerprint()
    for key in draw(st.lists(st.binary(max_size=4), max_size=3)):
        fingerprint.add(key, b"\xff" * 16)
    return fingerprint


PARTS = st.builds(
    Part,
    copied=st.builds(
        CopyTotals,
        written=COUNT,
        vanished=COUNT,
        untold=COUNT,
        size=COUNT,
        excluded=st.dictionaries(WORDS, COUNT, max_size=3),
        tallies=st.dictionaries(st.tuples(DATABASE, WORDS), st.tuples(COUNT, COUNT), max_size=3),
    ),
    compared=st.builds(
        CompareTotals,
        scanned=COUNT,
        max_expiry_drift_ms=COUNT,
        excluded=st.dictionaries(WORDS, COUNT, max_size=3),
        tallies=st.dictionaries(st.tuples(DATABASE, WORDS), COUNT, max_size=3),
        equal=st.dictionaries(DATABASE, fingerprints(), max_size=3),
        only_source=st.dictionaries(DATABASE, fingerprints(), max_size=3),
    ),
    cpu_seconds=st.floats(0, 1e6),
)


@given(PARTS)
def test_a_part_comes_back_as_it_was(part: Part) -> None:
    again = part_from_dict(json.loads(json.dumps(part_to_dict(part))))

    assert again.copied == part.copied
    assert again.cpu_seconds == part.cpu_seconds
    assert part_to_dict(again) == part_to_dict(part)
    assert again.compared.fingerprints() == part.compared.fingerprints()
    assert again.compared.equal_keys == part.compared.equal_keys


@pytest.mark.parametrize(
    "told", [{}, {"copied": 1, "compared": {}, "cpu_seconds": 0}, {"copied": {"written": "1"}}]
)
def test_a_part_that_is_none_is_refused(told: dict[str, object]) -> None:
    with pytest.raises(LedgerError):
        part_from_dict(told)


@pytest.mark.parametrize(
    "error",
    [
        ServerFull("target", "redis://green:6379", "is out of memory.", "Give it more."),
        ServerRestarted("source", "redis://blue:6379", "was restarted."),
        Refused("No.", "Ask."),
    ],
)
def test_an_error_comes_back_as_itself(error: GreenflyError) -> None:
    again = error_from_dict(json.loads(json.dumps(error_to_dict(error))))

    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize("told", [{}, {"kind": "annotations"}, {"kind": "Callable", "args": [], "facts": {}}])
def test_an_error_that_is_not_of_the_tree_is_told_by_name(told: dict[str, object]) -> None:
    assert hasattr(errors, "annotations")
    assert type(error_from_dict(told)) is OrchestratorFailed


def test_jobs_tell_their_phase_and_so_do_none() -> None:
    compare = RangeJob("extra", 0, CursorRange(0, 1, "bits"))
    assert [phase_of(jobs) for jobs in (JOBS, [compare], [])] == [
        PhaseName.STREAM,
        PhaseName.VERIFY,
        PhaseName.VERIFY,
    ]


def test_what_held_a_worker_back_is_added_up() -> None:
    def summary(waited: float, quiet: float | None, samples: int, last: int) -> dict[str, object]:
        return {
            "waited_seconds": {"paused": waited},
            "late": {"source": 1},
            "batch_keys": {"smallest": last // 2, "last": last},
            "longest_pause_ms": int(waited),
            "latency_ms": {
                "source": {
                    "quiet": quiet,
                    "mean": 2.0,
                    "worst": waited,
                    "samples": samples,
                    "lost": 1,
                    "over_time": {
                        "began_at": f"2026-11-26T10:00:{samples:02}+00:00",
                        "step_seconds": float(samples),
                        "mean": [waited, None, 1.0],
                        "worst": [waited, None, 7.5],
                    },
                }
            },
        }

    assert throttle_of_worker([{}, summary(1.0, 0.5, 1, 1000), summary(3.0, None, 3, 500)]) == {
        "waited_seconds": {"paused": 4.0},
        "late": {"source": 2},
        "batch_keys": {"smallest": 250, "last": 500},
        "longest_pause_ms": 3,
        "latency_ms": {
            "source": {
                "quiet": 0.5,
                "mean": 2.0,
                "worst": 3.0,
                "samples": 4,
                "lost": 2,
                # From 10:00:01 in steps of three seconds; the second history begins two seconds later.
                "over_time": {
                    "began_at": "2026-11-26T10:00:01+00:00",
                    "step_seconds": 3.0,
                    "mean": [1.0, 3.0, None, 1.0],
                    "worst": [7.5, 3.0, None, 7.5],
                },
            }
        },
    }


def test_what_many_ranges_took_is_no_longer_than_what_one_took() -> None:
    def summary(minute: int) -> dict[str, object]:
        history = {
            "began_at": f"2026-11-26T10:{minute:02}:00+00:00",
            "step_seconds": 1.0,
            "mean": [1.0] * MOST_STEPS,
            "worst": [float(minute)] * MOST_STEPS,
        }
        facts = {"quiet": 1.0, "mean": 1.0, "worst": 1.0, "samples": 80, "lost": 0, "over_time": history}
        return {
            "waited_seconds": {},
            "late": {},
            "batch_keys": {"smallest": 1, "last": 1},
            "longest_pause_ms": 0,
            "latency_ms": {"source": facts},
        }

    told = throttle_of_worker([summary(minute) for minute in range(0, 50, 5)])

    history = told["latency_ms"]["source"]["over_time"]  # type: ignore[index]
    assert len(history["mean"]) == len(history["worst"]) <= MOST_STEPS
    assert history["step_seconds"] == 64.0
    assert history["worst"][-1] == 45.0
    assert None in history["mean"]
