"""What ``greenfly runs show`` tells about live runs: the board of a sync, the steps of a cutover or rollback."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from greenfly.console import human_seconds

if TYPE_CHECKING:
    from integrity.ledger import Ledger
    from integrity.ledger.models import Run
    from integrity.ledger.sync_board import SyncStatus
    from reports.steps import StepView


@dataclass(frozen=True, slots=True)
class LiveRun:
    """What the ledger holds about a run beyond phases and findings; empty for a run that is no live one."""

    board: SyncStatus | None
    """How the sync process said it is, last."""
    steps: tuple[StepView, ...]

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values, seconds."""
        return {
            "board": self.board.to_dict() if self.board is not None else None,
            "steps": [
                {
                    "name": step.name,
                    "state": step.state.value,
                    "attempts": step.attempts,
                    "seconds": step.seconds,
                    "budget_seconds": step.budget_seconds,
                    "detail": dict(step.detail),
                }
                for step in self.steps
            ],
        }

    def lines(self, now: datetime) -> list[str]:
        """For people; *now* (aware) dates the board."""
        lines = _board_lines(self.board, now) if self.board is not None else []
        if self.steps:
            lines.append("  steps")
        return lines + [_step_line(step) for step in self.steps]


def read_live(ledger: Ledger, run: Run) -> LiveRun:
    """The board and the steps of one run.

    :raises LedgerError: the ledger cannot be read.
    """
    from integrity.ledger.steps import read_steps
    from integrity.ledger.sync_board import read_status
    from reports.events import event_view
    from reports.steps import build_steps

    records = read_steps(ledger.engine, run.id)
    timeline = tuple(map(event_view, ledger.events(run.id))) if records else ()
    return LiveRun(read_status(ledger.engine, run.id), build_steps(records, timeline))


def _board_lines(board: SyncStatus, now: datetime) -> list[str]:
    from integrity.ledger.vocabulary import SyncState
    from reports.facts import masked_text

    follows = "followed" if board.state is SyncState.STOPPED else "follows"
    age = f", told {human_seconds((now - board.updated_at).total_seconds())} ago" if board.updated_at else ""
    clean = (
        "never" if board.clean_since is None else f"{board.clean_since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    )
    return [
        f"  {follows:<9} {board.direction.value} by {board.feed} ({board.state.value}{age})",
        f"  to do     {board.dirty:,} keys to carry over, {board.unproven:,} to compare, {board.stuck:,} stuck; "
        f"lag {board.lag_ms / 1000:,.1f} s",
        f"  gap       {masked_text(board.gap) if board.gap else 'none'}",
        f"  clean     {'since ' if board.clean_since else ''}{clean}",
    ]


def _step_line(step: StepView) -> str:
    took = "-" if step.seconds is None else f"{step.seconds:,.3f} s"
    budget = f"of {human_seconds(step.budget_seconds)}"
    again = f"  {step.attempts} attempts" if step.attempts > 1 else ""
    problem = step.detail.get("problem")
    why = f"  {problem}" if isinstance(problem, str) and problem else ""
    return f"    {step.name:<9} {step.state.value:<8} {took:>10} {budget:<14}{again}{why}".rstrip()
