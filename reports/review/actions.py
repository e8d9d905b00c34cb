"""What the page can have done by others: it reads the ledger, and never a server itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from integrity.ledger.models import Finding, Run
    from integrity.verify.side_by_side import SideBySide


class Compare(Protocol):
    """Reads one key of a finding from both servers.

    :raises GreenflyError: that cannot be done.
    """

    def __call__(self, run: Run, finding: Finding, *, reveal: bool) -> SideBySide: ...


@dataclass(frozen=True, slots=True)
class RollbackRequest:
    """Somebody wants the applications back on blue."""

    sync_run_id: str
    by: str
    reason: str
    abandon_green: bool


@dataclass(frozen=True, slots=True)
class Actions:
    """What whoever serves the page lends to it; None where it cannot do that."""

    compare: Compare | None = None
    roll_back: Callable[[RollbackRequest], None] | None = None
    """Begins a rollback through the same state machine as the command, and does not wait for its end."""
