"""The ledger's tables.

A *run* has *phases*; a phase has *checkpoints* (one per key range, moved after every acknowledged batch), *tallies*
(keys and bytes by database and kind) and *measurements* (progress over time).  *Findings* are keys that differ, and
how; *repairs* tell what a later run did about them.  *Artifacts* are files a run wrote.  *Control* is what operators
ask of a live run.  *Events* are append-only and hash-chained (:mod:`integrity.ledger.audit`).
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Enum,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from integrity.ledger.stored import Line, UtcDateTime, Words
from integrity.ledger.values import CheckpointState
from integrity.ledger.vocabulary import (
    FindingClass,
    FindingState,
    PhaseName,
    PhaseState,
    RepairAction,
    RunKind,
    RunState,
    Verdict,
)

__all__ = [
    "Artifact",
    "Base",
    "Checkpoint",
    "Control",
    "Event",
    "Finding",
    "FindingClass",
    "FindingState",
    "Measurement",
    "Phase",
    "PhaseName",
    "PhaseState",
    "Repair",
    "RepairAction",
    "Run",
    "RunKind",
    "RunState",
    "Tally",
    "UtcDateTime",
    "Verdict",
]


def _values(kind: type[StrEnum]) -> list[str]:
    return [member.value for member in kind]


def stored_word(kind: type[StrEnum]) -> Enum:
    """A column that stores the word, as text, so that words can be added without a migration."""
    return Enum(kind, native_enum=False, create_constraint=False, length=32, values_callable=_values)


class Base(DeclarativeBase):
    """Declarative base; constraint names are fixed so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  (SQLAlchemy's own protocol)
        datetime: UtcDateTime(),
        bytes: LargeBinary(),
        dict[str, object]: JSON(),
        RunKind: stored_word(RunKind),
        RunState: stored_word(RunState),
        PhaseName: stored_word(PhaseName),
        PhaseState: stored_word(PhaseState),
        Verdict: stored_word(Verdict),
        FindingClass: stored_word(FindingClass),
        FindingState: stored_word(FindingState),
        RepairAction: stored_word(RepairAction),
    }


# SQLite numbers rows by itself only for INTEGER primary keys.
_BigId = BigInteger().with_variant(Integer(), "sqlite")
RowId = Annotated[int, mapped_column(_BigId, primary_key=True, autoincrement=True)]
RunId = Annotated[str, mapped_column(String(32), ForeignKey("run.id", ondelete="CASCADE"))]
Big = Annotated[int, mapped_column(BigInteger)]


KEY_HEAD_BYTES: Final = 64
"""Keys can be longer than a database index allows; findings are found by so much of them."""


def _head_of_key(context: DefaultExecutionContext) -> bytes:
    values = context.get_current_parameters(isolate_multiinsert_groups=False)  # type: ignore[no-untyped-call]
    return bytes(values["key"][:KEY_HEAD_BYTES])


class Run(Base):
    """One attempt, with an id."""

    __tablename__ = "run"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[RunKind]
    state: Mapped[RunState]
    verdict: Mapped[Verdict | None]
    reason: Mapped[str | None] = mapped_column(Words)
    """Why the verdict, in one or two sentences."""
    label: Mapped[str | None] = mapped_column(Line(200))
    version: Mapped[str] = mapped_column(Line(40))
    operator: Mapped[str] = mapped_column(Line(200))
    host: Mapped[str] = mapped_column(Line(255))
    checksum_definition: Mapped[str] = mapped_column(Line(80))
    source_address: Mapped[str | None] = mapped_column(Line(500))
    target_address: Mapped[str | None] = mapped_column(Line(500))
    source: Mapped[dict[str, object] | None]
    """The source's identity as the check phase saw it."""
    target: Mapped[dict[str, object] | None]
    settings: Mapped[dict[str, object]]
    """Effective settings, secrets masked."""
    flow_run_id: Mapped[str | None] = mapped_column(String(64))
    started_at: Mapped[datetime] = mapped_column(index=True)
    ended_at: Mapped[datetime | None]
    error_kind: Mapped[str | None] = mapped_column(Line(80))
    error: Mapped[str | None] = mapped_column(Words)
    lease_owner: Mapped[str] = mapped_column(Line(300))
    lease_until: Mapped[datetime]
    parent_id: Mapped[str | None] = mapped_column(String(32))
    """The run that this one rests on: the one that a repair repairs; the sync of a cutover, rollback or watch."""


class Phase(Base):
    """One phase of a run."""

    __tablename__ = "phase"
    __table_args__ = (UniqueConstraint("run_id", "name"),)

    id: Mapped[RowId]
    run_id: Mapped[RunId]
    name: Mapped[PhaseName]
    state: Mapped[PhaseState]
    attempts: Mapped[int]
    """How often it was begun; more than once after a resume."""
    started_at: Mapped[datetime]
    """Of the first attempt."""
    ended_at: Mapped[datetime | None]
    keys_expected: Mapped[Big]
    keys: Mapped[Big]
    bytes: Mapped[Big]
    detail: Mapped[dict[str, object]]
    """What the phase has to tell beyond keys and bytes; documented in ``docs/ledger.md``."""


class Checkpoint(Base):
    """How far one range of one phase is; moved after every acknowledged batch."""

    __tablename__ = "checkpoint"
    __table_args__ = (UniqueConstraint("run_id", "phase", "database", "range_index"),)

    id: Mapped[RowId]
    run_id: Mapped[RunId]
    phase: Mapped[PhaseName]
    database: Mapped[int]
    range_index: Mapped[int]
    range_count: Mapped[int]
    source_run_id: Mapped[str] = mapped_column(String(64))
    """The cursor is void under another one."""
    cursor: Mapped[str] = mapped_column(String(24))
    """SCAN cursor from which the range goes on; everything before it is acknowledged."""
    batches: Mapped[Big]
    keys: Mapped[Big]
    bytes: Mapped[Big]
    done: Mapped[bool]
    updated_at: Mapped[datetime]

    @property
    def state(self) -> CheckpointState:
        """The row as the engine knows it."""
        return CheckpointState(
            self.database,
            int(self.cursor),
            self.batches,
            self.keys,
            self.bytes,
            self.done,
            self.range_index,
            self.range_count,
        )


class Tally(Base):
    """Keys and bytes of one phase by database and kind."""

    __tablename__ = "tally"
    __table_args__ = (UniqueConstraint("run_id", "phase", "database", "kind"),)

    id: Mapped[RowId]
    run_id: Mapped[RunId]
    phase: Mapped[PhaseName]
    database: Mapped[int]
    kind: Mapped[str] = mapped_column(Line(40))
    keys: Mapped[Big]
    bytes: Mapped[Big]


class Measurement(Base):
    """Progress at one moment."""

    __tablename__ = "measurement"
    __table_args__ = (Index(None, "run_id", "phase"),)

    id: Mapped[RowId]
    run_id: Mapped[RunId]
    phase: Mapped[PhaseName]
    at: Mapped[datetime]
    keys: Mapped[Big]
    """Since the phase began."""
    bytes: Mapped[Big]


class Finding(Base):
    """One key that differs, and how."""

    __tablename__ = "finding"
    __table_args__ = (
        Index(None, "run_id", "state", "finding_class", "id"),
        Index("ix_finding_page", "run_id", "id"),
        Index("ix_finding_head", "run_id", "key_head", "id"),
        UniqueConstraint("run_id", "database", "key_digest", "finding_class"),
    )

    id: Mapped[RowId]
    run_id: Mapped[RunId]
    phase: Mapped[PhaseName]
    finding_class: Mapped[FindingClass]
    state: Mapped[FindingState]
    database: Mapped[int]
    key: Mapped[bytes]
    key_digest: Mapped[bytes] = mapped_column(LargeBinary(16))
    """XXH3-128 of the key; keys can be longer than a database index allows."""
    source_kind: Mapped[str | None] = mapped_column(Line(80))
    target_kind: Mapped[str | None] = mapped_column(Line(80))
    source_digest: Mapped[bytes | None]
    target_digest: Mapped[bytes | None]
    source_expiry_ms: Mapped[Big | None]
    """Absolute, milliseconds since 1970; −1 for none, null where the side has not the key."""
    target_expiry_ms: Mapped[Big | None]
    source_size: Mapped[Big | None]
    """Bytes of a string, elements of everything else."""
    target_size: Mapped[Big | None]
    detail: Mapped[str] = mapped_column(Words)
    first_seen_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    times_seen: Mapped[int]
    rule: Mapped[str | None] = mapped_column(Line(80))
    """Id of the rule under which it is an expected difference."""
    key_head: Mapped[bytes | None] = mapped_column(LargeBinary(64), default=_head_of_key)
    """How the key begins, by which it is found; never null but in a row that something else wrote."""


class Repair(Base):
    """What a repair run did about one finding, with both sides before and after."""

    __tablename__ = "repair"
    __table_args__ = (Index("ix_repair_page", "run_id", "id"),)

    id: Mapped[RowId]
    run_id: Mapped[RunId]
    """The repair run; its parent holds the finding."""
    finding_id: Mapped[int | None] = mapped_column(_BigId, ForeignKey("finding.id", ondelete="SET NULL"))
    database: Mapped[int]
    key: Mapped[bytes]
    key_digest: Mapped[bytes] = mapped_column(LargeBinary(16))
    action: Mapped[RepairAction]
    at: Mapped[datetime]
    before_source_digest: Mapped[bytes | None]
    before_target_digest: Mapped[bytes | None]
    after_source_digest: Mapped[bytes | None]
    after_target_digest: Mapped[bytes | None]
    before_detail: Mapped[str] = mapped_column(Words)
    detail: Mapped[str] = mapped_column(Words)


class Control(Base):
    """What operators ask of a live run, which reads it about twice a second."""

    __tablename__ = "control"

    run_id: Mapped[RunId] = mapped_column(primary_key=True)
    paused: Mapped[bool]
    keys_per_second: Mapped[Big | None]
    """Null: the run's own setting holds; 0: no cap."""
    bytes_per_second: Mapped[Big | None]
    updated_at: Mapped[datetime]
    updated_by: Mapped[str] = mapped_column(Line(200))


class Artifact(Base):
    """A file that a run wrote."""

    __tablename__ = "artifact"

    id: Mapped[RowId]
    run_id: Mapped[RunId] = mapped_column(index=True)
    kind: Mapped[str] = mapped_column(Line(40))
    """``rdb``, ``manifest``, ``header``, ``report-html``, ``report-json``."""
    path: Mapped[str] = mapped_column(Words)
    size: Mapped[Big]
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]


ACTOR_LENGTH: Final = 200


class Event(Base):
    """One audit event; append-only."""

    __tablename__ = "event"

    sequence: Mapped[int] = mapped_column(_BigId, primary_key=True, autoincrement=False)
    run_id: Mapped[str | None] = mapped_column(String(32), index=True)
    at: Mapped[str] = mapped_column(String(40))
    """ISO 8601 text, kept as it was hashed."""
    actor: Mapped[str] = mapped_column(String(ACTOR_LENGTH))
    kind: Mapped[str] = mapped_column(String(80))
    payload: Mapped[str] = mapped_column(Text)
    """Canonical JSON, kept as it was hashed."""
    previous_hash: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))
