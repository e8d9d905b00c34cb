"""Numbers over time as a report shows them: a bounded number of points, and what they come to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from integrity.ledger.samples import SampleRecord
from reports import facts
from reports.display import plain_text

MOST_POINTS: Final = 600
Unit = Literal["milliseconds", "seconds", "bytes", "share", "rate", "count"]


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement."""

    seconds: float
    """Since the run began."""
    value: float


@dataclass(frozen=True, slots=True)
class Series:
    """One number over time."""

    name: str
    unit: Unit
    measured: int
    points: tuple[Point, ...]
    """All of them; of very many the lowest and the highest of each short time."""
    lowest: float
    median: float
    highest: float
    last: float


@dataclass(frozen=True, slots=True)
class Span:
    """A time that a chart marks."""

    start: float
    """Seconds since the run began."""
    end: float | None
    """None where it had not ended."""
    text: str


def unit_of(name: str) -> Unit:
    """The unit that a number's name tells."""
    if name.endswith("_ms"):
        return "milliseconds"
    if name.endswith("_per_second"):
        return "rate"
    if name.endswith("_seconds"):
        return "seconds"
    if name == "headroom" or name.endswith(("_ratio", "_share")):
        return "share"
    if name.endswith(("_bytes", "_memory")):
        return "bytes"
    return "count"


def build_series(name: str, samples: Sequence[SampleRecord], began: datetime) -> Series | None:
    """The number of this name in *samples*; None where none of them has it."""
    points = [
        Point((sample.at - began).total_seconds(), value)
        for sample in samples
        if (value := facts.number(sample.numbers, name)) is not None and math.isfinite(value)
    ]
    if not points:
        return None
    values = sorted(point.value for point in points)
    return Series(
        plain_text(name),
        unit_of(name),
        len(points),
        tuple(_thinned(points)),
        values[0],
        values[len(values) // 2],
        values[-1],
        points[-1].value,
    )


def numeric_names(samples: Sequence[SampleRecord]) -> tuple[str, ...]:
    """The names that hold a number in any of *samples*, in the order in which they first came."""
    seen: dict[str, None] = {}
    for sample in samples:
        for name in sample.numbers:
            if name not in seen and facts.number(sample.numbers, name) is not None:
                seen[name] = None
    return tuple(seen)


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Both extremes of each short time stay, so that no peak and no fall is lost."""
    if len(points) <= MOST_POINTS:
        return list(points)
    size = math.ceil(2 * len(points) / MOST_POINTS)
    kept: list[Point] = []
    for start in range(0, len(points), size):
        group = points[start : start + size]
        extremes = {min(group, key=_value), max(group, key=_value)}
        kept += sorted(extremes, key=lambda point: point.seconds)
    return kept


def _value(point: Point) -> float:
    return point.value
