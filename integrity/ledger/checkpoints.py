"""Moving checkpoints: the one write that follows every batch, so it is made as cheap as it can be."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection, Engine, bindparam, delete, insert, select, update

from integrity.errors import LedgerError
from integrity.ledger.database import Statements, repeated, writing
from integrity.ledger.models import Checkpoint, PhaseName
from integrity.ledger.values import CheckpointState

# Made once: building a statement costs more than running it, and this one runs after every batch.
_MOVE: Final = (
    update(Checkpoint)
    .where(Checkpoint.id == bindparam("row"))
    .values(
        {
            name: bindparam(name)
            for name in ("cursor", "batches", "keys", "bytes", "done", "source_run_id", "updated_at")
        }
    )
)


class CheckpointWriter:
    """Writes the checkpoints of one run, over one connection that it keeps."""

    def __init__(self, engine: Engine, run_id: str) -> None:
        self._engine = engine
        self._run_id = run_id
        self._rows: dict[tuple[PhaseName, int, int], int] = {}
        self.statements = Statements(engine)
        """For whatever else is asked after every batch."""

    def close(self) -> None:
        """Give the connection back."""
        self.statements.close()

    def move(self, phase: PhaseName, source_run_id: str, state: CheckpointState) -> None:
        """Move a range forward, in one short transaction."""
        values = {
            "cursor": str(state.cursor),
            "batches": state.batches,
            "keys": state.keys,
            "bytes": state.bytes,
            "done": state.done,
            "source_run_id": source_run_id,
            "updated_at": datetime.now(UTC),
        }
        place = (phase, state.database, state.range_index)
        row = self._rows.get(place)
        if row is None:
            self._rows[place] = self._first(phase, state, values)
        else:
            self.statements.execute(_MOVE, values | {"row": row})

    @repeated
    def _first(self, phase: PhaseName, state: CheckpointState, values: dict[str, object]) -> int:
        """Move a range that this process has not moved yet; the number of its row."""
        with writing(self._engine) as connection:
            row = self._find(connection, (phase, state.database, state.range_index))
            if row is None:
                return self._insert(connection, phase, state, values)
            connection.execute(_MOVE, values | {"row": row})
            return row

    @repeated
    def clear(self, phase: PhaseName) -> None:
        """Forget the ranges of a phase, which begins again with others."""
        with writing(self._engine) as connection:
            connection.execute(
                delete(Checkpoint).where(Checkpoint.run_id == self._run_id, Checkpoint.phase == phase)
            )
        self._rows = {place: row for place, row in self._rows.items() if place[0] is not phase}

    def _insert(
        self, connection: Connection, phase: PhaseName, state: CheckpointState, values: dict[str, object]
    ) -> int:
        inserted = connection.execute(
            insert(Checkpoint).values(
                run_id=self._run_id,
                phase=phase,
                database=state.database,
                range_index=state.range_index,
                range_count=state.range_count,
                **values,
            )
        )
        key = inserted.inserted_primary_key
        if key is None:
            raise LedgerError("The ledger's database did not number a new row.", "Use SQLite or PostgreSQL.")
        return int(key[0])

    def _find(self, connection: Connection, place: tuple[PhaseName, int, int]) -> int | None:
        """The row that an earlier owner of this run left."""
        phase, database, range_index = place
        return connection.execute(
            select(Checkpoint.id).where(
                Checkpoint.run_id == self._run_id,
                Checkpoint.phase == phase,
                Checkpoint.database == database,
                Checkpoint.range_index == range_index,
            )
        ).scalar_one_or_none()
