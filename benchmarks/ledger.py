"""What a ledger bears: several runs at once, each a process, on SQLite and on PostgreSQL.

    python -m benchmarks.ledger [--runs 4] [--seconds 10] [--postgres URL] [--fsync]

Every process does what a run does, without servers: after each batch it moves a checkpoint and asks what operators want
of it, now and then it measures, records findings and an audit event, and changes a row that all of them share.  Every
write is a transaction of its own.  Afterwards everything is counted: nothing may be lost, and the chain must be intact.

Without a URL, PostgreSQL is started for this from ``initdb`` and ``postgres``; ``--fsync`` has it wait for the disk.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from time import monotonic, process_time

import psutil

from integrity.errors import LedgerError
from integrity.ledger import Ledger, open_ledger
from integrity.ledger.models import FindingClass, PhaseName, RunKind, RunState, Verdict
from integrity.ledger.schema_check import check_ledger
from integrity.ledger.values import CheckpointState, NewFinding
from integrity.settings import Settings, load_settings
from tests.ledger import find_programs, place, started

_BATCHES_PER_EVENT = 10
_FINDINGS = 5


@dataclass(frozen=True, slots=True)
class Worked:
    """What one process did."""

    run_id: str
    batches: int
    rare: int
    """How often it also measured, recorded findings and an event, and changed the common row."""
    reads: int
    longest: float
    """Seconds that its slowest round took."""
    cpu: float
    """Seconds of this process."""
    error: str | None = None

    @property
    def writes(self) -> int:
        """Transactions that wrote: a checkpoint a batch, four now and then, and begin and end."""
        return self.batches + 4 * self.rare + 2


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Several runs at once on one ledger.")
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--postgres", help="URL of an empty database; one is started by default")
    parser.add_argument("--fsync", action="store_true", help="have that one wait for the disk")
    arguments = parser.parse_args()
    print(
        f"{arguments.runs} runs, {arguments.seconds:g} s, {psutil.cpu_count()} cores, "
        f"load {psutil.getloadavg()[0]:.1f}, Python {platform.python_version()}"
    )
    with tempfile.TemporaryDirectory() as folder:
        _report("SQLite", place(Path(folder) / "sqlite", None), arguments.runs, arguments.seconds)
        with _postgres(arguments.postgres, fsync=arguments.fsync) as (name, url):
            if url is not None:
                _report(name, place(Path(folder) / "postgres", url), arguments.runs, arguments.seconds)


@contextmanager
def _postgres(url: str | None, *, fsync: bool) -> Iterator[tuple[str, str | None]]:
    programs = find_programs()
    if url is not None:
        yield "PostgreSQL", url
    elif programs is None:
        print("PostgreSQL: no initdb and postgres found, and no --postgres", file=sys.stderr)
        yield "", None
    else:
        with started(programs, fsync=fsync) as server:
            name = "PostgreSQL" if fsync else "PostgreSQL, fsync off"
            yield name, server.database().render_as_string(hide_password=False)


def _report(name: str, overrides: dict[str, object], runs: int, seconds: float) -> None:
    settings = load_settings(overrides, environ={}).settings
    with closing(open_ledger(settings)) as ledger:
        common = ledger.start_run(RunKind.SYNC, settings)
        context = multiprocessing.get_context("spawn")
        results: Queue[Worked] = context.Queue()
        barrier = context.Barrier(runs)
        processes = [
            context.Process(target=_work, args=(overrides, common.id, index, seconds, barrier, results))
            for index in range(runs)
        ]
        for process in processes:
            process.start()
        worked = [results.get(timeout=seconds * 10 + 120) for _ in processes]
        for process in processes:
            process.join()
        _check(ledger, worked)
        writes, reads = sum(w.writes for w in worked), sum(w.reads for w in worked)
        print(
            f"  {name:<24}{writes / seconds:>8,.0f} writes/s  {reads / seconds:>8,.0f} reads/s  "
            f"{(writes + reads) / seconds:>8,.0f} transactions/s   slowest {max(w.longest for w in worked):.3f} s"
            f"   {sum(w.cpu for w in worked) / (writes + reads) * 1000:.2f} ms of client CPU each   nothing lost"
        )


def _work(
    overrides: dict[str, object],
    common: str,
    index: int,
    seconds: float,
    barrier: Barrier,
    results: Queue[Worked],
) -> None:
    settings = load_settings(overrides, environ={}).settings
    with closing(open_ledger(settings)) as ledger:
        barrier.wait()
        results.put(_one_run(ledger, settings, common, index, seconds))


def _one_run(ledger: Ledger, settings: Settings, common: str, index: int, seconds: float) -> Worked:
    run = ledger.start_run(RunKind.MIGRATE, settings)
    batches = rare = 0
    longest, until, cpu = 0.0, monotonic() + seconds, process_time()
    try:
        while (began := monotonic()) < until:
            batches += 1
            state = CheckpointState(0, batches, batches, batches * 100, batches * 4096, done=False)
            run.checkpoint(PhaseName.STREAM, "server", state)
            run.control()
            if batches % _BATCHES_PER_EVENT == 0:
                rare += 1
                run.measure(PhaseName.STREAM, batches, batches)
                run.add_findings(
                    PhaseName.VERIFY,
                    [NewFinding(FindingClass.MISSING, 0, b"%d:%d" % (rare, n)) for n in range(_FINDINGS)],
                )
                run.event("bench.event", {"number": rare})
                if index % 2:
                    ledger.set_control(common, "control.limited", keys_per_second=rare)
                else:
                    ledger.set_control(common, "control.limited", bytes_per_second=rare)
            longest = max(longest, monotonic() - began)
        run.finish(RunState.FINISHED, verdict=Verdict.PASS, reason=None)
    except LedgerError as error:
        return Worked(run.id, batches, rare, batches, longest, process_time() - cpu, str(error))
    return Worked(run.id, batches, rare, batches, longest, process_time() - cpu)


def _check(ledger: Ledger, worked: list[Worked]) -> None:
    """See to it that what was written is there."""
    for each in worked:
        assert each.error is None, each.error
        assert [c.batches for c in ledger.checkpoints(each.run_id)] == [each.batches]
        assert len(ledger.measurements(each.run_id)) == each.rare
        assert sum(ledger.finding_counts(each.run_id).values()) == each.rare * _FINDINGS
        kinds = [event.kind for event in ledger.events(each.run_id)]
        assert kinds.count("bench.event") == each.rare
        assert ledger.find_run(each.run_id).verdict is Verdict.PASS
    chain = ledger.chain_state()
    assert chain.intact, chain.problem
    assert chain.events == 1 + sum(2 * each.rare + 2 for each in worked)
    assert check_ledger(ledger.engine).sound


if __name__ == "__main__":
    main()
