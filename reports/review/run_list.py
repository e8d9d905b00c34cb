"""The runs, newest first, with filters and how they went over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, TypeVar
from urllib.parse import urlencode

from sqlalchemy import Engine, and_, or_, select
from sqlalchemy.orm import Session
from starlette.responses import Response

from integrity.errors import ConfigurationError
from integrity.ledger.database import reading
from integrity.ledger.finding_search import count_findings
from integrity.ledger.models import FindingState, Run, RunKind, RunState, Verdict
from integrity.ledger.operations import is_alive
from integrity.ledger.reviews import REVIEW_GATE, GateView, read_gates
from integrity.ledger.stored import storable
from reports.review.site import Page
from reports.review.trend import COUNTED_TO, trend_chart

PER_PAGE: Final = 50

W = TypeVar("W", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run of the list."""

    run: Run
    state: str
    """``lost`` where its process renews its lease no more."""
    seconds: float | None
    open_findings: int
    review: GateView


def run_state(run: Run) -> str:
    """How far a run is, as people say it."""
    return "lost" if run.state is RunState.RUNNING and not is_alive(run) else run.state.value


def run_seconds(run: Run) -> float:
    """How long it took, or has taken so far."""
    return ((run.ended_at or datetime.now(UTC)) - run.started_at).total_seconds()


def chosen(page: Page, name: str, kind: type[W]) -> W | None:
    """The word that the address chooses from a filter; None where it chooses none.

    :raises ConfigurationError: it is no such word.
    """
    text = page.asked(name)
    try:
        return kind(text) if text else None
    except ValueError:
        raise ConfigurationError(f"There is no {name} {text[:40]!r}.", "Choose one from the list.") from None


def show(page: Page) -> Response:
    """The list."""
    kind, verdict = chosen(page, "kind", RunKind), chosen(page, "verdict", Verdict)
    state, text = chosen(page, "state", RunState), page.asked("text")
    runs = _runs(page.ledger.engine, kind, verdict, state, text, page.asked("before") or None)
    shown = runs[:PER_PAGE]
    engine, separate = page.ledger.engine, page.site.separate
    rows = [
        RunRow(
            run,
            run_state(run),
            run_seconds(run),
            count_findings(engine, run.id, FindingState.OPEN, COUNTED_TO + 1),
            next(g for g in read_gates(engine, run.id, separate) if g.gate == REVIEW_GATE),
        )
        for run in shown
    ]
    filters = {"kind": kind, "verdict": verdict, "state": state, "text": text}
    return page.render(
        "runs.html.jinja",
        rows=rows,
        filters={name: value or "" for name, value in filters.items()},
        filtered=any(filters.values()),
        kinds=list(RunKind),
        verdicts=list(Verdict),
        states=list(RunState),
        trend=trend_chart([row for row in reversed(rows) if row.run.state is not RunState.RUNNING]),
        counted_to=COUNTED_TO,
        more=_address(filters, shown[-1].id) if len(runs) > PER_PAGE else None,
        first=bool(page.asked("before")),
    )


def _address(filters: Mapping[str, object], before: str) -> str:
    kept = {name: str(value) for name, value in filters.items() if value}
    return "/?" + urlencode(kept | {"before": before})


def _runs(
    engine: Engine,
    kind: RunKind | None,
    verdict: Verdict | None,
    state: RunState | None,
    text: str,
    before: str | None,
) -> Sequence[Run]:
    query = select(Run).order_by(Run.started_at.desc(), Run.id.desc()).limit(PER_PAGE + 1)
    if kind is not None:
        query = query.where(Run.kind == kind)
    if verdict is not None:
        query = query.where(Run.verdict == verdict)
    if state is not None:
        query = query.where(Run.state == state)
    if text:
        columns = (Run.id, Run.label, Run.operator, Run.source_address, Run.target_address)
        query = query.where(or_(*(each.icontains(storable(text), autoescape=True) for each in columns)))
    with reading(engine) as connection, Session(connection, expire_on_commit=False) as session:
        if before is not None:
            last = session.scalar(select(Run).where(Run.id == storable(before)))
            if last is None:
                raise ConfigurationError("That is no place in the list of runs.", "Begin at the first page.")
            older = and_(Run.started_at == last.started_at, Run.id < last.id)
            query = query.where(or_(Run.started_at < last.started_at, older))
        rows = list(session.scalars(query))
        session.expunge_all()
        return rows
