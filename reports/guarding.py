"""What the guard saw after a cutover: numbers of both sides, the baseline, and the rules that were broken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from integrity.ledger.models import Run
from integrity.ledger.samples import SampleRecord
from reports import facts
from reports.display import plain_text
from reports.events import EventView, event_moment
from reports.facts import Facts
from reports.series import Series, Span, build_series, numeric_names

_FIRST: Final = (
    "latency_p50_ms",
    "latency_p99_ms",
    "ops_per_second",
    "errors_per_second",
    "used_memory",
    "max_memory",
    "evicted_per_second",
    "clients",
    "hit_ratio",
)
"""The numbers that a reader looks for first; all others follow in the order of the samples."""
STARTED: Final = "guard.started"
BREACHED: Final = "guard.breached"
RECOVERED: Final = "guard.recovered"
NOTIFIED: Final = "guard.notified"
ACTION: Final = "guard.rollback-"
"""How the kinds of event begin that tell what was done about a rollback."""


@dataclass(frozen=True, slots=True)
class NumberView:
    """One number of the guarded side, beside what it was on the other side before."""

    series: Series
    baseline: float | None
    """The median of the baseline's samples."""


@dataclass(frozen=True, slots=True)
class BreachView:
    """A rule that was broken."""

    rule: str
    since: str
    """When the rule's limit was first passed; ISO 8601."""
    at: str
    """When it had been passed for long enough to be a breach."""
    recovered_at: str | None
    """None where the guard never saw it recover."""
    seconds: float | None
    """From *since* to the recovery."""
    text: str | None
    """What the guard said of it."""
    value: float | None
    limit: float | None
    baseline: float | None


@dataclass(frozen=True, slots=True)
class RuleView:
    """What one rule said at the last look."""

    rule: str
    status: str | None
    text: str | None
    """The sentence for people, with value and limit."""


@dataclass(frozen=True, slots=True)
class NoticeView:
    """Something that the guard did: it told somebody, or went back."""

    at: str
    kind: str
    """Of the audit event."""
    payload: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class GuardView:
    """What the guard recorded."""

    green_samples: int
    unreachable: int
    """Samples at which green did not answer."""
    seconds: float
    """From the first sample of green to the last."""
    numbers: tuple[NumberView, ...]
    baseline_of: str | None
    """The run whose samples of blue are the baseline; None where there is none."""
    baseline_samples: int
    baseline: Mapping[str, float]
    rules: tuple[RuleView, ...]
    """As they were at the last look; empty where the guard did not come to its end."""
    breaches: tuple[BreachView, ...]
    notices: tuple[NoticeView, ...]
    actions: tuple[NoticeView, ...]
    """What it did about a rollback."""
    on_breach: str | None
    """The policy: what a lasting breach leads to."""
    on_dead: str | None
    """And what a green that does not answer any more."""

    @property
    def open_breaches(self) -> tuple[BreachView, ...]:
        """Those from which green did not recover."""
        return tuple(breach for breach in self.breaches if breach.recovered_at is None)


def build_guard(
    run: Run,
    green: Sequence[SampleRecord],
    baseline: Sequence[SampleRecord],
    baseline_of: str | None,
    timeline: Sequence[EventView],
    detail: Facts,
) -> GuardView:
    """From samples and audit events.

    :param detail: what the phase recorded at its end.
    :param baseline: the samples of blue that green is measured against, of the run *baseline_of*.
    """
    known = numeric_names(green)
    names = [*(name for name in _FIRST if name in known), *(name for name in known if name not in _FIRST)]
    started = next((event.payload for event in timeline if event.kind == STARTED), {})
    compared = facts.table(started, "baseline")
    before = {name: value for name in compared if (value := facts.number(compared, name)) is not None} or {
        name: series.median
        for name in numeric_names(baseline)
        if (series := build_series(name, baseline, run.started_at)) is not None
    }
    return GuardView(
        green_samples=len(green),
        unreachable=sum(facts.truth(sample.numbers, "reachable") is False for sample in green),
        seconds=(green[-1].at - green[0].at).total_seconds() if green else 0.0,
        numbers=tuple(
            NumberView(series, before.get(name))
            for name in names
            if (series := build_series(name, green, run.started_at)) is not None
        ),
        baseline_of=baseline_of or facts.text(started, "cutover") if before else None,
        baseline_samples=len(baseline),
        baseline={plain_text(name): value for name, value in before.items()},
        rules=tuple(
            RuleView(_rule(row), facts.text(row, "status"), facts.text(row, "text"))
            for row in facts.tables(facts.table(detail, "last"), "rules")
        ),
        breaches=build_breaches(timeline),
        notices=_notices(timeline, NOTIFIED),
        actions=_notices(timeline, ACTION),
        on_breach=facts.text(started, "on_breach"),
        on_dead=facts.text(started, "on_dead"),
    )


def build_breaches(timeline: Sequence[EventView]) -> tuple[BreachView, ...]:
    """Each breach with the first recovery of the same rule after it."""
    breaches: list[BreachView] = []
    for event in timeline:
        rule = _rule(event.payload)
        if event.kind == BREACHED:
            breaches.append(_breach(rule, event))
        elif event.kind == RECOVERED:
            for index, breach in enumerate(breaches):
                if breach.rule == rule and breach.recovered_at is None:
                    lasted = _seconds(breach.since, event.at)
                    breaches[index] = replace(breach, recovered_at=event.at, seconds=lasted)
    return tuple(breaches)


def breach_spans(began: datetime, breaches: Sequence[BreachView]) -> tuple[Span, ...]:
    """Breaches as times that a chart can mark."""
    spans = []
    for breach in breaches:
        start = _since(began, breach.since)
        end = _since(began, breach.recovered_at) if breach.recovered_at is not None else None
        if start is not None:
            spans.append(Span(start, end, breach.rule))
    return tuple(spans)


def _since(began: datetime, text: str) -> float | None:
    at = event_moment(text)
    return (at - began).total_seconds() if at is not None else None


def _seconds(start: str, end: str) -> float | None:
    first, last = event_moment(start), event_moment(end)
    return (last - first).total_seconds() if first is not None and last is not None else None


def _breach(rule: str, event: EventView) -> BreachView:
    payload = event.payload
    limit = facts.number(payload, "limit")
    return BreachView(
        rule,
        facts.text(payload, "since") or event.at,
        event.at,
        None,
        None,
        facts.text(payload, "text"),
        facts.number(payload, "value"),
        facts.number(payload, "threshold") if limit is None else limit,
        facts.number(payload, "baseline"),
    )


def _notices(timeline: Sequence[EventView], kind: str) -> tuple[NoticeView, ...]:
    return tuple(
        NoticeView(event.at, event.kind, event.payload) for event in timeline if event.kind.startswith(kind)
    )


def _rule(payload: Facts) -> str:
    return facts.text(payload, "rule") or facts.text(payload, "name") or "a rule without a name"
