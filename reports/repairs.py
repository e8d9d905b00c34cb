"""Repairs: what a repair run did about each key, and which runs repaired the one that a report is about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from integrity.ledger import Ledger
from integrity.ledger.models import RepairAction, Run, RunKind, RunState, Verdict
from reports import facts
from reports.display import plain_text
from reports.facts import Facts, masked_text
from reports.queries import repair_counts, repair_rows

ACTION_MEANING: Final[Mapping[RepairAction, str]] = {
    RepairAction.COPIED: "the source's value or expiry was written to the target, and both sides agree",
    RepairAction.DELETED: "the key was removed from the target",
    RepairAction.SETTLED: "both sides agreed already; nothing was written",
    RepairAction.NOT_REPAIRED: "not repaired; what is said of the key tells why",
}


@dataclass(frozen=True, slots=True)
class RepairView:
    """What was done about one finding."""

    at: datetime
    action: RepairAction
    database: int
    key: bytes
    finding_id: int | None
    """The finding of the repaired run; None where the ledger no longer holds it."""
    before_source: str | None
    """Digests in hexadecimal; None where the side did not have the key."""
    before_target: str | None
    after_source: str | None
    after_target: str | None
    before_detail: str
    """What the finding said."""
    detail: str


@dataclass(frozen=True, slots=True)
class RepairRun:
    """One run that repaired another."""

    run_id: str
    state: RunState
    verdict: Verdict | None
    reason: str | None
    operator: str
    started_at: datetime
    ended_at: datetime | None
    actions: Mapping[RepairAction, int]


@dataclass(frozen=True, slots=True)
class RepairsView:
    """What the ledger tells about repairs of, or by, one run."""

    of: str | None
    """The run that this one repairs; None where it is no repair run."""
    actions: Mapping[RepairAction, int]
    """What this run did, by finding."""
    outcomes: Mapping[str, int]
    """What became of the keys that this run looked at; only what happened at all."""
    still_open: int | None
    """Findings of the repaired run that were open when this one ended."""
    runs: tuple[RepairRun, ...]
    """The runs that repaired this one, oldest first."""

    @property
    def total(self) -> int:
        """Findings that this run dealt with."""
        return sum(self.actions.values())

    @property
    def keys(self) -> int:
        """Keys that this run looked at; one key can have several findings."""
        return sum(self.outcomes.values())


def build_repairs(ledger: Ledger, run: Run, detail: Facts) -> RepairsView | None:
    """None where the run neither repairs another nor was repaired.

    :param detail: of the repair phase; empty where there was none.
    """
    # Operations of a sync run name it as their parent too.
    children = (child for child in ledger.child_runs(run.id) if child.kind is RunKind.REPAIR)
    runs = tuple(_repair_run(ledger, repair) for repair in children)
    if run.kind is not RunKind.REPAIR and not runs:
        return None
    outcomes = facts.table(detail, "outcomes")
    return RepairsView(
        run.parent_id if run.kind is RunKind.REPAIR else None,
        _ordered(repair_counts(ledger, run.id)),
        {plain_text(name): count for name in outcomes if (count := facts.integer(outcomes, name))},
        facts.integer(detail, "still_open"),
        runs,
    )


def _repair_run(ledger: Ledger, run: Run) -> RepairRun:
    return RepairRun(
        run.id,
        run.state,
        run.verdict,
        masked_text(run.reason) if run.reason else None,
        masked_text(run.operator),
        run.started_at,
        run.ended_at,
        _ordered(repair_counts(ledger, run.id)),
    )


def _ordered(counts: Mapping[RepairAction, int]) -> dict[RepairAction, int]:
    return {action: counts[action] for action in RepairAction if action in counts}


def all_repairs(ledger: Ledger, run_id: str, limit: int | None = None) -> Iterator[RepairView]:
    """What a repair run did, a page at a time: memory does not grow with it."""
    for row in repair_rows(ledger, run_id, limit=limit):
        yield RepairView(
            row.at,
            row.action,
            row.database,
            row.key,
            row.finding_id,
            _hex(row.before_source_digest),
            _hex(row.before_target_digest),
            _hex(row.after_source_digest),
            _hex(row.after_target_digest),
            masked_text(row.before_detail),
            masked_text(row.detail),
        )


def _hex(digest: bytes | None) -> str | None:
    return None if digest is None else digest.hex()
