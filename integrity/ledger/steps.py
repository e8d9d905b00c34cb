"""The steps of a cutover or rollback: recorded before each begins and after it has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, insert, select, update

from integrity.errors import RunTakenOver
from integrity.ledger import audit
from integrity.ledger.database import reading, repeated, writing
from integrity.ledger.live_models import Step
from integrity.ledger.models import Run
from integrity.ledger.naming import operator_name
from integrity.ledger.vocabulary import RunState, StepState


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step as the ledger holds it."""

    name: str
    state: StepState
    budget_ms: int
    attempts: int
    started_at: datetime | None
    ended_at: datetime | None
    detail: Mapping[str, object]

    @property
    def seconds(self) -> float | None:
        """How long its last attempt took."""
        if self.started_at is None or self.ended_at is None:
            return None
        return (self.ended_at - self.started_at).total_seconds()


class StepBook:
    """Writes the steps of one run, for the process that owns it.

    :param owner: of the run's lease; every write checks that it still holds, so that a process that was taken for
        dead cannot go on beside the one that took over.
    """

    def __init__(self, engine: Engine, run_id: str, owner: str) -> None:
        self._engine = engine
        self._run_id = run_id
        self._owner = owner

    @repeated
    def plan(self, steps: Sequence[tuple[str, float]]) -> None:
        """Record the steps to come (name, budget in seconds), where they are not recorded already."""
        with writing(self._engine) as connection:
            self._require_owner(connection)
            known = set(connection.scalars(select(Step.name).where(Step.run_id == self._run_id)))
            for position, (name, budget) in enumerate(steps):
                if name not in known:
                    connection.execute(
                        insert(Step).values(
                            run_id=self._run_id,
                            position=position,
                            name=name,
                            state=StepState.PENDING,
                            budget_ms=round(budget * 1000),
                            attempts=0,
                            detail={},
                        )
                    )

    def begin(self, name: str, detail: Mapping[str, object]) -> None:
        """Record that the step begins; *detail* holds what undoing it needs, and is kept when it has ended.

        :raises RunTakenOver: another process took the run over.
        """
        self._move(name, StepState.RUNNING, detail, started=True)

    def end(self, name: str, state: StepState, detail: Mapping[str, object]) -> None:
        """Record how it ended; *detail* is added to what is there.

        :raises RunTakenOver: another process took the run over.
        """
        self._move(name, state, detail, started=False)

    @repeated
    def require_owned(self) -> None:
        """Ask whether this process owns the run still.

        :raises RunTakenOver: another process took it over, or it has ended.
        """
        with reading(self._engine) as connection:
            self._require_owner(connection)

    @repeated
    def _move(self, name: str, state: StepState, detail: Mapping[str, object], *, started: bool) -> None:
        now = datetime.now(UTC)
        place = (Step.run_id == self._run_id, Step.name == name)
        with writing(self._engine) as connection:
            self._require_owner(connection)
            row = connection.execute(select(Step.attempts, Step.detail).where(*place)).one()
            values: dict[str, object] = {"state": state, "detail": row.detail | dict(detail)}
            if started:
                values |= {"started_at": now, "ended_at": None, "attempts": row.attempts + 1}
            else:
                values["ended_at"] = now
            connection.execute(update(Step).where(*place).values(values))
            audit.append(
                connection,
                self._run_id,
                operator_name(),
                f"step.{state.value}",
                {"step": name} | dict(detail),
            )

    def _require_owner(self, connection: Connection) -> None:
        require_owner(connection, self._run_id, self._owner)


def require_owner(connection: Connection, run_id: str, owner: str) -> None:
    """See to it that the run is running, and is this owner's.

    :raises RunTakenOver: it is not.
    """
    found = connection.execute(
        select(Run.lease_owner).where(Run.id == run_id, Run.state == RunState.RUNNING)
    ).scalar_one_or_none()
    if found != owner:
        raise RunTakenOver(run_id)


@repeated
def read_steps(engine: Engine, run_id: str) -> list[StepRecord]:
    """In their order."""
    columns = select(
        Step.name,
        Step.state,
        Step.budget_ms,
        Step.attempts,
        Step.started_at,
        Step.ended_at,
        Step.detail,
    )
    with reading(engine) as connection:
        rows = connection.execute(columns.where(Step.run_id == run_id).order_by(Step.position, Step.id))
        return [StepRecord(**row._mapping) for row in rows]
