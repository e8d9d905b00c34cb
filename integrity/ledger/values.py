"""What the engine hands to the ledger, and what it gets back about a live run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from integrity.ledger.vocabulary import FindingClass, FindingState, RepairAction


@dataclass(frozen=True, slots=True)
class NewFinding:
    """A finding as the engine hands it over; see :class:`~integrity.ledger.models.Finding` for units."""

    finding_class: FindingClass
    database: int
    key: bytes
    source_kind: str | None = None
    target_kind: str | None = None
    source_digest: bytes | None = None
    target_digest: bytes | None = None
    source_expiry_ms: int | None = None
    target_expiry_ms: int | None = None
    source_size: int | None = None
    target_size: int | None = None
    detail: str = ""
    state: FindingState = FindingState.OPEN
    rule: str | None = None
    """Id of the rule under which it is an expected difference."""


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """How far one range is."""

    database: int
    cursor: int
    batches: int
    keys: int
    bytes: int
    done: bool
    range_index: int = 0
    range_count: int = 1


@dataclass(frozen=True, slots=True)
class NewRepair:
    """What a repair run did about one finding; see :class:`~integrity.ledger.models.Repair`."""

    finding_id: int | None
    database: int
    key: bytes
    action: RepairAction
    before_source_digest: bytes | None = None
    """None where the side did not have the key."""
    before_target_digest: bytes | None = None
    after_source_digest: bytes | None = None
    after_target_digest: bytes | None = None
    before_detail: str = ""
    """What the finding said."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ControlState:
    """What operators ask of a live run."""

    paused: bool = False
    keys_per_second: int | None = None
    """None: the run's own setting holds; 0: no cap."""
    bytes_per_second: int | None = None
    updated_at: datetime | None = None
    """None where nobody has asked for anything."""
    updated_by: str = ""
