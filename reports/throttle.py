"""What held a run back, and how late its servers answered; see ``docs/throttle.md`` for what is measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from integrity.ledger.models import PhaseName
from reports import facts
from reports.display import plain_text
from reports.events import event_moment
from reports.facts import Facts


@dataclass(frozen=True, slots=True)
class LatencyPoint:
    """Round trips of a short time, of all workers."""

    seconds: float
    """Since the run began, at the middle of that time."""
    mean: float
    worst: float


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
    over_time: tuple[LatencyPoint, ...]
    """Empty where the run was of a version that did not keep it."""


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


def build_throttle(phases: Sequence[tuple[PhaseName, Facts]], began: datetime) -> tuple[ThrottleView, ...]:
    """From the details of the phases, those that have such figures.

    :param began: when the run did.
    """
    views = []
    for name, detail in phases:
        summary = facts.table(detail, "throttle")
        listed = summary.get("workers")
        parts = [part for part in listed if isinstance(part, dict)] if isinstance(listed, list) else [summary]
        parts = [part for part in parts if part]
        if parts:
            views.append(_view(name, parts, began))
    return tuple(views)


def _view(name: PhaseName, parts: Sequence[Facts], began: datetime) -> ThrottleView:
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
        tuple(_latency(server, parts, began) for server in servers),
    )


def _latency(server: str, parts: Sequence[Facts], began: datetime) -> Latency:
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
        _over_time([facts.table(table, "over_time") for table in measured], began),
    )


def _over_time(histories: Sequence[Facts], began: datetime) -> tuple[LatencyPoint, ...]:
    """Several workers' histories in one, in steps as long as the longest of theirs."""
    step = max((facts.number(each, "step_seconds") or 0.0 for each in histories), default=0.0)
    if step <= 0:
        return ()
    means: dict[int, list[float]] = defaultdict(list)
    worst: dict[int, float] = defaultdict(float)
    for history in histories:
        start = event_moment(facts.text(history, "began_at") or "")
        own = facts.number(history, "step_seconds")
        means_told, worst_told = history.get("mean"), history.get("worst")
        if start is None or not own or not isinstance(means_told, list) or not isinstance(worst_told, list):
            continue
        offset = (start - began).total_seconds()
        for index, (mean, most) in enumerate(zip(means_told, worst_told, strict=False)):
            if isinstance(mean, int | float) and isinstance(most, int | float):
                place = int((offset + (index + 0.5) * own) // step)
                means[place].append(float(mean))
                worst[place] = max(worst[place], float(most))
    return tuple(
        LatencyPoint((place + 0.5) * step, sum(means[place]) / len(means[place]), worst[place])
        for place in sorted(means)
    )


def _least(tables: Sequence[Facts], name: str) -> int | None:
    return min((value for table in tables if (value := facts.integer(table, name)) is not None), default=None)
