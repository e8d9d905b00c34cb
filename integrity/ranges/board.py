"""Shared ranges in the ledger: laid out by the owner of the run, claimed, renewed and ended by workers.

Every change of a range is a compare-and-set on its attempt, so that of two who believe that they hold it only one
writes.  Whether a worker is alive is told by a counter, not by a time of day: no two clocks are compared.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, Connection, Engine, Row, and_, delete, func, insert, select, update

from integrity.errors import LedgerError
from integrity.ledger.database import Statements, reading, repeated, writing
from integrity.ledger.models import Checkpoint, PhaseName, Run, RunState
from integrity.ledger.range_models import RangeLease, RangeSet, RangeState
from integrity.ledger.values import CheckpointState
from integrity.partition import CursorRange
from integrity.phases.work import RangeJob


@dataclass(frozen=True, slots=True)
class RangeView:
    """One range, as it is now."""

    id: int
    number: int
    state: RangeState
    attempt: int
    beat: int
    worker: str | None
    keys: int
    """Done in this attempt."""
    bytes: int

    @property
    def process(self) -> str:
        """``host:pid`` of the worker."""
        return (self.worker or "").rpartition(":")[0]


@dataclass(frozen=True, slots=True)
class SharedSet:
    """The ranges of one phase of one run."""

    id: int
    run_id: str
    phase: PhaseName
    owner: str
    context: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Claim:
    """One range that this worker holds."""

    id: int
    set_id: int
    attempt: int
    token: str
    """Eight hexadecimal digits that no other claim has: a database may number new rows as it did deleted ones."""
    worker: str
    """``host:pid:token``"""
    job: RangeJob
    before: Mapping[str, object] | None
    """What earlier attempts came to, where that counts."""
    sharers: int
    """How many workers held a range of this set then, this one included."""

    @property
    def number_of_worker(self) -> int:
        """No two attempts of a run have the same: temporary keys are told apart by it."""
        return int(self.token, 16)

    @property
    def mine(self) -> ColumnElement[bool]:
        """Holds while the range was not taken away."""
        return and_(
            RangeLease.id == self.id,
            RangeLease.attempt == self.attempt,
            RangeLease.worker == self.worker,
            RangeLease.state == RangeState.HELD,
        )


# -- the owner of the run ----------------------------------------------------------------------------------------------


@repeated
def lay_out(
    engine: Engine,
    run_id: str,
    phase: PhaseName,
    owner: str,
    context: Mapping[str, object],
    jobs: Sequence[RangeJob],
) -> int:
    """Record the ranges of a phase in place of those that an earlier owner, or attempt, shared; the set's id."""
    with writing(engine) as connection:
        connection.execute(delete(RangeSet).where(RangeSet.run_id == run_id, RangeSet.phase == phase))
        inserted = connection.execute(
            insert(RangeSet).values(
                run_id=run_id,
                phase=phase,
                owner=owner,
                open=True,
                context=dict(context),
                created_at=datetime.now(UTC),
            )
        ).inserted_primary_key
        if inserted is None:
            raise LedgerError("The ledger's database did not number a new row.", "Use SQLite or PostgreSQL.")
        number = int(inserted[0])
        rows = [
            {
                "set_id": number,
                "number": place,
                "kind": job.kind,
                "database": job.database,
                "range_index": job.keys.index,
                "range_count": job.keys.count,
                "style": job.keys.style,
                "state": RangeState.OPEN,
                "attempt": 0,
                "beat": 0,
                "keys": 0,
                "bytes": 0,
            }
            for place, job in enumerate(jobs)
        ]
        connection.execute(insert(RangeLease), rows)
    return number


@repeated
def look(engine: Engine, set_id: int) -> list[RangeView]:
    """All ranges, as they are at one moment."""
    columns = (
        RangeLease.id,
        RangeLease.number,
        RangeLease.state,
        RangeLease.attempt,
        RangeLease.beat,
        RangeLease.worker,
        RangeLease.keys,
        RangeLease.bytes,
    )
    with reading(engine) as connection:
        rows = connection.execute(
            select(*columns).where(RangeLease.set_id == set_id).order_by(RangeLease.number)
        )
        return [RangeView(*row) for row in rows]


@repeated
def parts(engine: Engine, ids: Sequence[int]) -> dict[int, Mapping[str, object]]:
    """What these ranges came to so far; those that have not told are left out."""
    query = select(RangeLease.id, RangeLease.part).where(RangeLease.id.in_(ids))
    with reading(engine) as connection:
        return {number: part for number, part in connection.execute(query) if part is not None}


@repeated
def error_of(engine: Engine, lease_id: int) -> Mapping[str, object]:
    """Why a worker gave this range up."""
    with reading(engine) as connection:
        told = connection.execute(select(RangeLease.error).where(RangeLease.id == lease_id)).scalar_one()
    return told or {}


@repeated
def free(engine: Engine, view: RangeView, *, keeps_part: bool) -> bool:
    """Take a range away from a worker that shows no life; False where it has shown some since *view*.

    :param keeps_part: whether what it came to counts (a copy goes on; a comparison begins again).
    """
    changed: dict[str, object] = {"state": RangeState.OPEN, "keys": 0, "bytes": 0}
    if not keeps_part:
        changed["part"] = None
    with writing(engine) as connection:
        freed = connection.execute(
            update(RangeLease)
            .where(
                RangeLease.id == view.id,
                RangeLease.attempt == view.attempt,
                RangeLease.beat == view.beat,
                RangeLease.state == RangeState.HELD,
            )
            .values(changed)
        )
        return bool(freed.rowcount)


@repeated
def close(engine: Engine, set_id: int) -> None:
    """Let no worker begin a range, and have those at work stop at their next sign of life."""
    with writing(engine) as connection:
        connection.execute(update(RangeSet).where(RangeSet.id == set_id).values(open=False))


@repeated
def remove(engine: Engine, set_id: int) -> None:
    """Forget the ranges: whatever a worker still writes about them is void."""
    with writing(engine) as connection:
        connection.execute(delete(RangeSet).where(RangeSet.id == set_id))


# -- workers -----------------------------------------------------------------------------------------------------------


@repeated
def find_set(engine: Engine, run_id: str, phase: PhaseName) -> SharedSet | None:
    """The ranges that are to be worked on, if there are any and the run's owner is there."""
    query = select(RangeSet.id, RangeSet.owner, RangeSet.context).where(
        RangeSet.run_id == run_id, RangeSet.phase == phase, workable()
    )
    with reading(engine) as connection:
        row = connection.execute(query).one_or_none()
    return SharedSet(row[0], run_id, phase, row[1], row[2]) if row is not None else None


def workable() -> ColumnElement[bool]:
    """Whether a set is open and the run still belongs to the owner that laid it out."""
    return and_(
        RangeSet.open,
        select(Run.id)
        .where(
            Run.id == RangeSet.run_id,
            Run.lease_owner == RangeSet.owner,
            Run.state == RunState.RUNNING,
            Run.lease_until > datetime.now(UTC),
        )
        .exists(),
    )


@repeated
def claim(engine: Engine, shared: SharedSet, number: int, process: str, source_run_id: str) -> Claim | None:
    """Take the range of this number, if nobody has it.

    :param process: ``host:pid`` of this worker.
    :param source_run_id: checkpoints of another process of the source do not count.
    """
    token = secrets.token_hex(4)
    worker = f"{process}:{token}"
    with writing(engine) as connection:
        taken = connection.execute(
            update(RangeLease)
            .where(
                RangeLease.set_id == shared.id,
                RangeLease.number == number,
                RangeLease.state == RangeState.OPEN,
                select(RangeSet.id).where(RangeSet.id == RangeLease.set_id, workable()).exists(),
            )
            .values(
                state=RangeState.HELD,
                attempt=RangeLease.attempt + 1,
                beat=RangeLease.beat + 1,
                worker=worker,
                keys=0,
                bytes=0,
            )
        )
        if not taken.rowcount:
            return None
        row = connection.execute(
            select(RangeLease.__table__).where(RangeLease.set_id == shared.id, RangeLease.number == number)
        ).one()
        keys = CursorRange(row.range_index, row.range_count, row.style)
        start = None
        if row.kind == "copy":
            start = _start(connection, shared, row, source_run_id)
        return Claim(
            row.id,
            shared.id,
            row.attempt,
            token,
            worker,
            RangeJob(row.kind, row.database, keys, start),
            row.part if row.kind == "copy" else None,
            sharers(connection, shared.id),
        )


def _start(
    connection: Connection, shared: SharedSet, row: Row[tuple[object, ...]], source_run_id: str
) -> CheckpointState | None:
    found = connection.execute(
        select(
            Checkpoint.cursor,
            Checkpoint.batches,
            Checkpoint.keys,
            Checkpoint.bytes,
            Checkpoint.done,
        ).where(
            Checkpoint.run_id == shared.run_id,
            Checkpoint.phase == shared.phase,
            Checkpoint.database == row.database,
            Checkpoint.range_index == row.range_index,
            Checkpoint.range_count == row.range_count,
            Checkpoint.source_run_id == source_run_id,
        )
    ).one_or_none()
    if found is None:
        return None
    cursor, batches, keys, size, done = found
    return CheckpointState(
        row.database, int(cursor), batches, keys, size, done, row.range_index, row.range_count
    )


def sharers(connection: Connection | Statements, set_id: int) -> int:
    """How many ranges of a set are held now."""
    return connection.execute(
        select(func.count()).where(RangeLease.set_id == set_id, RangeLease.state == RangeState.HELD)
    ).scalar_one()


@repeated
def finish(engine: Engine, held: Claim, part: Mapping[str, object], keys: int, size: int) -> bool:
    """Record what a range came to; False where it was taken away."""
    return _end(engine, held, {"state": RangeState.DONE, "part": dict(part), "keys": keys, "bytes": size})


@repeated
def fail(engine: Engine, held: Claim, error: Mapping[str, object]) -> bool:
    """Record why this worker gives up; False where the range was taken away."""
    return _end(engine, held, {"state": RangeState.FAILED, "error": dict(error)})


@repeated
def give_back(engine: Engine, held: Claim) -> bool:
    """Let another worker have it; False where it was taken away."""
    return _end(engine, held, {"state": RangeState.OPEN})


def _end(engine: Engine, held: Claim, values: Mapping[str, object]) -> bool:
    with writing(engine) as connection:
        ended = connection.execute(update(RangeLease).where(held.mine).values(dict(values)))
        return bool(ended.rowcount)
