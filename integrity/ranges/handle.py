"""A run as a worker on any machine writes it: only while it holds its range, and never keeping the run alive.

The owner's lease is the owner's to renew.  Were workers to do it, a run whose owner died could not be taken over until
the last of them had ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Final

from sqlalchemy import Connection, Engine, bindparam, insert, select, update

from integrity.errors import LedgerError
from integrity.ledger.database import repeated, writing
from integrity.ledger.handle import RunHandle
from integrity.ledger.models import Checkpoint, PhaseName
from integrity.ledger.range_models import RangeLease, RangeSet
from integrity.ledger.values import CheckpointState
from integrity.phases.work import Part
from integrity.ranges.board import Claim, sharers, workable
from integrity.ranges.plain import part_from_dict, part_to_dict

_LONGEST_BEAT: Final = 1.0


class RangeLost(LedgerError):
    """The range was taken away, or nobody owns the run any longer: this worker stops, and writes no more."""

    def __init__(self, claim: Claim) -> None:
        super().__init__(
            f"This worker no longer holds range {claim.job.keys.index} of database {claim.job.database}.",
            "Another one does it.",
        )


@dataclass(slots=True)
class Done:
    """What this attempt has done."""

    keys: int = 0
    bytes: int = 0


class WorkerHandle(RunHandle):
    """The writing side of a run for one worker that holds one range.

    :param owner: of the run's lease.
    :param part: what the range has come to in this attempt; asked when a checkpoint has moved.
    :param on_sharers: told how many workers share the run, after every sign of life.
    """

    def __init__(
        self,
        engine: Engine,
        run_id: str,
        owner: str,
        lease_seconds: float,
        claim: Claim,
        *,
        part: Callable[[], Part],
        on_sharers: Callable[[int], None],
    ) -> None:
        super().__init__(engine, run_id, lease_seconds, owner)
        self._claim = claim
        self._part = part
        self._on_sharers = on_sharers
        self._beat_seconds = min(_LONGEST_BEAT, lease_seconds / 8)
        self._beaten = monotonic()
        self._row: int | None = None
        self._before = part_from_dict(claim.before) if claim.before is not None else None
        self.done = Done()
        self.throttle: Mapping[str, object] = {}
        """What held this worker back by now, where something did."""
        own = select(RangeLease.id).where(claim.mine).exists()
        self._move = (
            update(Checkpoint)
            .where(Checkpoint.id == bindparam("row"), own)
            .values(
                {
                    name: bindparam(name)
                    for name in ("cursor", "batches", "keys", "bytes", "done", "source_run_id", "updated_at")
                }
            )
        )

    def so_far(self) -> dict[str, object]:
        """What the range has come to, with what counts of earlier attempts."""
        whole = Part()
        for part in (self._before, self._part()):
            if part is not None:
                whole.merge(part)
        return part_to_dict(whole)

    def advance(self, keys: int, size: int) -> None:
        """Count what was done."""
        self.done.keys += keys
        self.done.bytes += size

    def renew_lease(self) -> None:
        """Show life, once a second at most.

        :raises RangeLost: the range was taken away, or nobody owns the run.
        """
        if monotonic() - self._beaten >= self._beat_seconds:
            # A comparison begins again with whoever takes it over: nothing of it counts, and this is told alone.
            held = self._held() if self._claim.job.kind != "copy" else {}
            self._beat({"part": held} if held else {})

    def checkpoint(self, phase: PhaseName, source_run_id: str, state: CheckpointState) -> None:
        """Move the range forward.

        :raises RangeLost: it was taken away.
        """
        values: dict[str, object] = {
            "cursor": str(state.cursor),
            "batches": state.batches,
            "keys": state.keys,
            "bytes": state.bytes,
            "done": state.done,
            "source_run_id": source_run_id,
            "updated_at": datetime.now(UTC),
        }
        if self._row is None:
            self._row = self._first(phase, state, values)
        elif not self._checkpoints.statements.execute(self._move, values | {"row": self._row}).rowcount:
            raise RangeLost(self._claim)
        if monotonic() - self._beaten >= self._beat_seconds:
            # Told here and nowhere else, it is what the checkpoint says: whoever goes on counts no page twice.
            self._beat({"part": self.so_far() | self._held()})

    @repeated
    def _first(self, phase: PhaseName, state: CheckpointState, values: Mapping[str, object]) -> int:
        with writing(self.engine) as connection:
            if connection.execute(select(RangeLease.id).where(self._claim.mine)).one_or_none() is None:
                raise RangeLost(self._claim)
            row = connection.execute(
                select(Checkpoint.id).where(
                    Checkpoint.run_id == self.id,
                    Checkpoint.phase == phase,
                    Checkpoint.database == state.database,
                    Checkpoint.range_index == state.range_index,
                )
            ).scalar_one_or_none()
            if row is not None:
                connection.execute(update(Checkpoint).where(Checkpoint.id == row).values(dict(values)))
                return row
            inserted = connection.execute(
                insert(Checkpoint).values(
                    run_id=self.id,
                    phase=phase,
                    database=state.database,
                    range_index=state.range_index,
                    range_count=state.range_count,
                    **values,
                )
            ).inserted_primary_key
        if inserted is None:
            raise LedgerError("The ledger's database did not number a new row.", "Use SQLite or PostgreSQL.")
        return int(inserted[0])

    def _held(self) -> dict[str, object]:
        return {"throttle": dict(self.throttle)} if self.throttle else {}

    def held_back(self, throttle: Mapping[str, object]) -> None:
        """Remember it, to be told with the next sign of life."""
        self.throttle = throttle

    def _beat(self, more: Mapping[str, object]) -> None:
        began = monotonic()
        statements = self._checkpoints.statements
        beaten = statements.execute(
            update(RangeLease)
            .where(
                self._claim.mine,
                select(RangeSet.id).where(RangeSet.id == RangeLease.set_id, workable()).exists(),
            )
            .values(beat=RangeLease.beat + 1, keys=self.done.keys, bytes=self.done.bytes, **more)
        )
        if not beaten.rowcount:
            raise RangeLost(self._claim)
        self._beaten = began
        self._on_sharers(sharers(statements, self._claim.set_id))

    def _renew(self, connection: Connection, *, force: bool = False) -> None:
        """Nothing: the lease is the owner's."""
