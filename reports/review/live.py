"""A run as it goes on: its phases, what is followed, its steps.  Asked for again and again while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import Response

from integrity.ledger import Ledger
from integrity.ledger.database import reading
from integrity.ledger.finding_search import count_findings
from integrity.ledger.models import FindingState, Measurement, Phase, PhaseName, PhaseState, Run, RunState
from integrity.ledger.steps import StepRecord, read_steps
from integrity.ledger.sync_board import SyncStatus, read_status
from reports.review.run_list import run_seconds, run_state
from reports.review.site import Page
from reports.review.trend import COUNTED_TO

_RATE_SECONDS: Final = 10.0
"""The rate that is shown is that of so long."""


@dataclass(frozen=True, slots=True)
class PhaseProgress:
    """One phase now."""

    phase: Phase
    keys: int
    bytes: int
    rate: float | None
    """Keys a second, lately."""
    seconds: float
    share: float | None
    """Of the keys that were expected, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A run now."""

    run: Run
    state: str
    moving: bool
    seconds: float
    phases: tuple[PhaseProgress, ...]
    open_findings: int
    sync: SyncStatus | None
    steps: tuple[StepRecord, ...]


def progress_of(ledger: Ledger, run: Run) -> Progress:
    """What the ledger tells about a run at this moment."""
    phases = ledger.phases(run.id)
    return Progress(
        run,
        run_state(run),
        run.state is RunState.RUNNING,
        run_seconds(run),
        tuple(_phase(phase, _newest(ledger, run.id, phase.name, 15)) for phase in phases),
        count_findings(ledger.engine, run.id, FindingState.OPEN, COUNTED_TO + 1),
        read_status(ledger.engine, run.id),
        tuple(read_steps(ledger.engine, run.id)),
    )


def _phase(phase: Phase, newest: Sequence[Measurement]) -> PhaseProgress:
    running = phase.state is PhaseState.RUNNING
    last = newest[0] if newest else None
    keys, size = (last.keys, last.bytes) if running and last is not None else (phase.keys, phase.bytes)
    ended = phase.ended_at or datetime.now(UTC)
    rate = None
    recent = [m for m in newest if last is not None and (last.at - m.at).total_seconds() <= _RATE_SECONDS]
    if running and len(recent) > 1:
        took = (recent[0].at - recent[-1].at).total_seconds()
        rate = (recent[0].keys - recent[-1].keys) / took if took > 0 else None
    share = min(1.0, keys / phase.keys_expected) if phase.keys_expected else None
    return PhaseProgress(phase, keys, size, rate, (ended - phase.started_at).total_seconds(), share)


def _newest(ledger: Ledger, run_id: str, phase: PhaseName, count: int) -> list[Measurement]:
    """The newest first."""
    query = (
        select(Measurement)
        .where(Measurement.run_id == run_id, Measurement.phase == phase)
        .order_by(Measurement.id.desc())
        .limit(count)
    )
    with reading(ledger.engine) as connection, Session(connection, expire_on_commit=False) as session:
        rows = list(session.scalars(query))
        session.expunge_all()
        return rows


def show(page: Page) -> Response:
    """The part of a run's page that moves."""
    return page.fragment(
        "progress.html.jinja", progress=progress_of(page.ledger, page.run()), counted_to=COUNTED_TO
    )
