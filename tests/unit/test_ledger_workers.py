"""Several processes write one run into one ledger."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import sleep

import pytest
from sqlalchemy import text

from integrity.errors import ConfigurationError, LedgerError, Refused
from integrity.ledger import Ledger, RunHandle, open_ledger
from integrity.ledger.database import writing
from integrity.ledger.models import FindingClass, PhaseName, RunKind, RunState
from integrity.ledger.store import CheckpointState, NewFinding
from integrity.settings import Settings, load_settings
from tests.ledger import place

WORKERS = 3
PAGES = 105


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


def work(state_dir: Path, ledger_url: str | None, run_id: str, owner: str, number: int) -> None:
    """What a worker does, without the servers: a finding, a checkpoint and now and then a measurement per page."""
    ledger = open_ledger(load_settings(place(state_dir, ledger_url), environ={}).settings)
    # So short a lease is renewed all the time: the run row is written too.
    handle = ledger.join(run_id, owner, lease_seconds=0.2)
    for page in range(1, PAGES + 1):
        handle.add_findings(
            PhaseName.STREAM, [NewFinding(FindingClass.REFUSED, 0, b"%d:%d" % (number, page))]
        )
        done = page == PAGES
        state = CheckpointState(0, page * 7, page, page * 10, page * 100, done, number, WORKERS)
        handle.checkpoint(PhaseName.STREAM, "server", state)
        if page % 15 == 0:
            handle.measure(PhaseName.STREAM, page, page)
    handle.close()
    ledger.close()


def test_what_several_processes_write_at_once_is_all_there(
    ledger: Ledger, run: RunHandle, settings: Settings, ledger_url: str | None
) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=work, args=(settings.state_dir, ledger_url, run.id, run.owner, number))
        for number in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    events = 0
    while any(worker.is_alive() for worker in workers):
        run.event("test.event", {"number": events})
        events += 1
        sleep(0.002)  # The workers want the processors too.
    for worker in workers:
        worker.join()

    assert [worker.exitcode for worker in workers] == [0] * WORKERS
    assert {
        (c.range_index, c.range_count, c.batches, c.keys, c.cursor, c.done)
        for c in ledger.checkpoints(run.id)
    } == {(number, WORKERS, PAGES, PAGES * 10, str(PAGES * 7), True) for number in range(WORKERS)}
    assert {f.key for f in ledger.iterate_findings(run.id)} == {
        b"%d:%d" % (number, page) for number in range(WORKERS) for page in range(1, PAGES + 1)
    }
    assert len(ledger.measurements(run.id)) == WORKERS * PAGES // 15
    # run.started is the first.
    assert (ledger.chain_state().intact, ledger.chain_state().events) == (True, events + 1)


def test_a_worker_renews_the_lease_of_its_owner(ledger: Ledger, run: RunHandle) -> None:
    worker = ledger.join(run.id, run.owner, lease_seconds=0.000_1)
    with writing(ledger.engine) as connection:
        connection.execute(text("UPDATE run SET lease_until = '2020-01-01 00:00:00'"))

    worker.renew_lease()

    assert ledger.find_run(run.id).lease_until > datetime(2026, 1, 1, tzinfo=UTC)


def test_a_lease_that_is_fresh_is_not_written_again(ledger: Ledger, run: RunHandle) -> None:
    with writing(ledger.engine) as connection:
        connection.execute(text("UPDATE run SET lease_until = '2020-01-01 00:00:00'"))

    run.renew_lease()

    assert ledger.find_run(run.id).lease_until == datetime(2020, 1, 1, tzinfo=UTC)


def test_only_the_owners_workers_can_join(ledger: Ledger, run: RunHandle) -> None:
    with pytest.raises(Refused, match="belongs to"):
        ledger.join(run.id, "elsewhere:1:abcd", 30)
    with pytest.raises(ConfigurationError):
        ledger.join("no-such-run", run.owner, 30)
    run.finish(RunState.FAILED, verdict=None, reason=None)
    with pytest.raises(Refused, match="ended"):
        ledger.join(run.id, run.owner, 30)


def test_a_worker_whose_run_was_taken_over_is_stopped(ledger: Ledger, run: RunHandle) -> None:
    worker = ledger.join(run.id, run.owner, lease_seconds=0.000_1)
    with writing(ledger.engine) as connection:
        past = (datetime.now(UTC) - timedelta(seconds=5)).strftime("%Y-%m-%d %H:%M:%S.%f")
        connection.execute(text("UPDATE run SET lease_until = :past"), {"past": past})
    ledger.take_over(run.id, 30)

    with pytest.raises(LedgerError, match="no longer owns"):
        worker.checkpoint(PhaseName.STREAM, "server", CheckpointState(0, 1, 1, 1, 1, done=False))
