"""The board between a sync process and whoever cuts over: how it is doing, what is asked of it, what it answered.

One row, written by both sides, each its own columns.  A sentinel row in the ledger needs no connection between the two
processes, survives either of them, and tells afterwards what was said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Final, Self

from sqlalchemy import Engine, bindparam, insert, select, update

from integrity.errors import ConfigurationError, Refused
from integrity.ledger import audit
from integrity.ledger.database import Statements, reading, repeated, writing
from integrity.ledger.live_models import Sync
from integrity.ledger.naming import operator_name
from integrity.ledger.steps import require_owner
from integrity.ledger.vocabulary import Ask, Direction, SyncState

STANDING: Final = frozenset({Ask.BACKWARD_ANEW, Ask.FORWARD_ANEW, Ask.AT_RISK})
"""What must be done whenever the sync process comes to it, before anything else: else it would write to a side that
applications write to."""
_STANDING_TIME: Final = timedelta(days=3650)

_PUBLISHED: Final = (
    "direction",
    "state",
    "feed",
    "dirty",
    "unproven",
    "stuck",
    "lag_ms",
    "backlog_bytes",
    "gap",
    "clean_since",
    "carried",
    "removed",
    "updated_at",
)
_PUBLISH: Final = (
    update(Sync).where(Sync.run_id == bindparam("row")).values({name: bindparam(name) for name in _PUBLISHED})
)
_QUESTION: Final = select(Sync.asked_id, Sync.asked, Sync.asked_until, Sync.answered_id).where(
    Sync.run_id == bindparam("row")
)
_ANSWER: Final = select(Sync.answered_id, Sync.answer).where(Sync.run_id == bindparam("row"))


@dataclass(frozen=True, slots=True)
class SyncStatus:
    """How a sync process is doing; see :class:`~integrity.ledger.live_models.Sync` for units."""

    direction: Direction
    state: SyncState
    feed: str = "rounds"
    dirty: int = 0
    unproven: int = 0
    stuck: int = 0
    lag_ms: int = 0
    backlog_bytes: int = 0
    gap: str | None = None
    clean_since: datetime | None = None
    carried: int = 0
    removed: int = 0
    updated_at: datetime | None = None

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "direction": self.direction.value,
            "state": self.state.value,
            "feed": self.feed,
            "dirty": self.dirty,
            "unproven": self.unproven,
            "stuck": self.stuck,
            "lag_ms": self.lag_ms,
            "backlog_bytes": self.backlog_bytes,
            "gap": self.gap,
            "clean_since": self.clean_since.isoformat() if self.clean_since else None,
            "carried": self.carried,
            "removed": self.removed,
            "updated_at": self.updated_at.isoformat() if self.updated_at else None,
        }


@dataclass(frozen=True, slots=True)
class RunOwner:
    """A process as the owner of a run."""

    run_id: str
    owner: str
    """The token of its lease."""


@dataclass(frozen=True, slots=True)
class Question:
    """Something that is asked of the sync process, and not answered yet."""

    number: int
    ask: Ask
    until: datetime
    """After this, nobody waits for the answer."""


class SyncBoard:
    """The board of one sync run; a context manager that keeps one connection to the ledger.  Not thread-safe."""

    def __init__(self, engine: Engine, run_id: str) -> None:
        self._engine = engine
        self.run_id = run_id
        self._statements = Statements(engine)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._statements.close()

    # -- the sync process -----------------------------------------------------------------------------------------

    def publish(self, status: SyncStatus) -> None:
        """Tell how it is; the row is made with the first call."""
        status = replace(status, updated_at=datetime.now(UTC))
        values = {name: getattr(status, name) for name in _PUBLISHED}
        done = self._statements.execute(_PUBLISH, values | {"row": self.run_id})
        if not done.rowcount:
            self._first(values)

    @repeated
    def _first(self, values: Mapping[str, object]) -> None:
        with writing(self._engine) as connection:
            connection.execute(insert(Sync).values(run_id=self.run_id, asked_id=0, answered_id=0, **values))

    def question(self) -> Question | None:
        """What is asked and not answered yet; cheap enough to ask many times a second."""
        row = self._statements.execute(_QUESTION, {"row": self.run_id}).one_or_none()
        if row is None or row.asked_id <= row.answered_id or row.asked is None:
            return None
        return Question(row.asked_id, row.asked, row.asked_until)

    @repeated
    def answer(self, question: Question, payload: Mapping[str, object]) -> None:
        """Answer; recorded as an audit event too."""
        with writing(self._engine) as connection:
            connection.execute(
                update(Sync)
                .where(Sync.run_id == self.run_id, Sync.answered_id < question.number)
                .values(answered_id=question.number, answer=dict(payload))
            )
            audit.append(
                connection,
                self.run_id,
                operator_name(),
                "sync.answered",
                {"number": question.number, "ask": question.ask.value} | dict(payload),
            )

    # -- whoever asks ---------------------------------------------------------------------------------------------

    @repeated
    def ask(self, ask: Ask, until: datetime, *, owner: RunOwner | None = None) -> int:
        """Ask something; the number under which the answer comes.

        What is :data:`STANDING` can be answered however late.

        :param owner: whoever asks, where it must own its run for that.
        :raises ConfigurationError: this run has never followed anything.
        :raises Refused: it has not done yet what must come first.
        :raises RunTakenOver: the run of whoever asks belongs to another process by now.
        """
        if ask in STANDING:
            until = datetime.now(UTC) + _STANDING_TIME
        with writing(self._engine) as connection:
            if owner is not None:
                require_owner(connection, owner.run_id, owner.owner)
            row = connection.execute(
                select(Sync.asked_id, Sync.asked, Sync.answered_id).where(Sync.run_id == self.run_id)
            ).one_or_none()
            if row is None:
                raise ConfigurationError(
                    f"Run {self.run_id} does not follow anything.", "Start `greenfly sync` first."
                )
            number = row.asked_id
            if row.asked in STANDING and row.answered_id < number and ask not in STANDING:
                raise Refused(
                    f"The sync process of run {self.run_id} was told to {row.asked.value} and has not done it yet.",
                    "Start `greenfly sync --resume`, or end the sync process that does not answer.",
                )
            connection.execute(
                update(Sync)
                .where(Sync.run_id == self.run_id)
                .values(asked_id=number + 1, asked=ask, asked_until=until)
            )
            audit.append(
                connection,
                self.run_id,
                operator_name(),
                "sync.asked",
                {"number": number + 1, "ask": ask.value, "until": until.isoformat()},
            )
        return int(number) + 1

    def void(self) -> None:
        """Answer what is asked in place of the sync process: whoever asked is gone.  What stands, stands."""
        question = self.question()
        if question is not None and question.ask not in STANDING:
            self.answer(question, {"ok": False, "reason": "whoever asked is gone"})

    def answer_to(self, number: int) -> Mapping[str, object] | None:
        """The answer, once it is there."""
        row = self._statements.execute(_ANSWER, {"row": self.run_id}).one_or_none()
        if row is None or row.answered_id != number or row.answer is None:
            return None
        answer: dict[str, object] = row.answer
        return answer

    def status(self) -> SyncStatus | None:
        """How the sync process said it is, last."""
        return read_status(self._engine, self.run_id)


@repeated
def read_status(engine: Engine, run_id: str) -> SyncStatus | None:
    """How the sync process of this run said it is, last; None where it never followed anything."""
    columns = select(*(getattr(Sync, name) for name in _PUBLISHED)).where(Sync.run_id == run_id)
    with reading(engine) as connection:
        row = connection.execute(columns).one_or_none()
    return SyncStatus(**row._mapping) if row is not None else None
