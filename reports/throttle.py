"""What held a run back, and how late its servers answered; see ``docs/throttle.md`` for what is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from integrity.ledger.models import PhaseName
from reports import facts
from reports.display import plain_text
from reports.facts import Facts


@dataclass(frozen=True, slots=True)
class Latency:
    """Round trips of a PING to one server, in milliseconds.  None where nothing was measured."""

    server: str
    quiet: float | None
    """Before the load; with several workers the lowest that one of them saw."""
    mean: float | None
    worst: float | None
    samples: int
    lost: int
    """How often a probe's connection was lost or could not be made."""
    late: int
    """How often it answered too late, so that the run slowed down."""


@dataclass(frozen=True, slots=True)
class ThrottleView:
    """What held one phase back."""

    phase: PhaseName
    workers: int
    """Processes whose figures are added up; waiting times add up too."""
    waited: Mapping[str, float]
    """Reason → seconds."""
    smallest_batch: int | None
    last_batch: int | None
    """The smallest of the workers' last ones."""
    longest_pause_ms: int | None
    latency: tuple[Latency, ...]

    @property
    def waited_seconds(self) -> float:
        """For all reasons together."""
        return sum(self.waited.values())


def build_throttle(phases: Sequence[tuple[PhaseName, Facts]]) -> tuple[ThrottleView, ...]:
    """From the details of the phases, those that have such figures."""
    views = []
    for name, detail in phases:
        summary = facts.table(detail, "throttle")
        listed = summary.get("workers")
        parts = [part for part in listed if isinstance(part, dict)] if isinstance(listed, list) else [summary]
        parts = [part for part in parts if part]
        if parts:
            views.append(_view(name, parts))
    return tuple(views)


def _view(name: PhaseName, parts: Sequence[Facts]) -> ThrottleView:
    waited: dict[str, float] = {}
    for part in parts:
        table = facts.table(part, "waited_seconds")
        for reason in table:
            seconds = facts.number(table, reason)
            waited[plain_text(reason)] = waited.get(plain_text(reason), 0.0) + (seconds or 0.0)
    batches = [facts.table(part, "batch_keys") for part in parts]
    pauses = [pause for part in parts if (pause := facts.integer(part, "longest_pause_ms")) is not None]
    servers = dict.fromkeys(server for part in parts for server in facts.table(part, "latency_ms"))
    return ThrottleView(
        name,
        len(parts),
        dict(sorted(waited.items(), key=lambda item: -item[1])),
        _least(batches, "smallest"),
        _least(batches, "last"),
        max(pauses, default=None),
        tuple(_latency(server, parts) for server in servers),
    )


def _latency(server: str, parts: Sequence[Facts]) -> Latency:
    measured = [facts.table(facts.table(part, "latency_ms"), server) for part in parts]

    def known(name: str) -> list[float]:
        return [value for table in measured if (value := facts.number(table, name)) is not None]

    weighted = [
        (mean, facts.integer(table, "samples") or 0)
        for table in measured
        if (mean := facts.number(table, "mean")) is not None
    ]
    samples = sum(count for _, count in weighted)
    return Latency(
        plain_text(server),
        min(known("quiet"), default=None),
        sum(mean * count for mean, count in weighted) / samples if samples else None,
        max(known("worst"), default=None),
        samples,
        sum(facts.integer(table, "lost") or 0 for table in measured),
        sum(facts.integer(facts.table(part, "late"), server) or 0 for part in parts),
    )


def _least(tables: Sequence[Facts], name: str) -> int | None:
    return min((value for table in tables if (value := facts.integer(table, name)) is not None), default=None)
