"""The write pause as one client saw it: a canary that writes one key over and over, and notes which side answered."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from integrity.ledger.samples import SampleRecord
from integrity.ledger.steps import StepRecord
from reports import facts
from reports.facts import Facts
from reports.steps import CONFIRM_STEP

_MOST_BUCKETS: Final = 90
_BUCKET_MS: Final = (10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000)
_MOST_AROUND: Final = 1_200
_LEAST_MARGIN_MS: Final = 100.0


@dataclass(frozen=True, slots=True)
class Write:
    """One write that the client tried."""

    at_ms: float
    """When it was sent, since the client began."""
    side: str
    ok: bool
    latency_ms: float | None
    error: str | None

    @property
    def answered_ms(self) -> float:
        """When it was acknowledged or refused, since the client began; a write that is held back is answered late."""
        return self.at_ms + (self.latency_ms or 0.0)


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which no write was acknowledged."""

    start_ms: float
    """The last acknowledgement before it."""
    end_ms: float
    """The first one after it."""
    from_side: str
    to_side: str

    @property
    def length_ms(self) -> float:
        """How long it was."""
        return self.end_ms - self.start_ms


@dataclass(frozen=True, slots=True)
class SideWrites:
    """The writes that went to one side."""

    side: str
    acknowledged: int
    refused: int
    first_ms: float | None
    """The first acknowledgement."""
    last_ms: float | None
    median_latency_ms: float | None
    worst_latency_ms: float | None


@dataclass(frozen=True, slots=True)
class Bucket:
    """The writes that were answered in a short time."""

    start_ms: float
    acknowledged: Mapping[str, int]
    """Side → writes."""
    refused: int


@dataclass(frozen=True, slots=True)
class PauseView:
    """What the client saw."""

    recorded_ms: float | None
    """The pause as the operation itself recorded it; None where it did not."""
    pause: Gap | None
    """The pause as its writes show it: around the change of sides, else the longest; None with fewer than two."""
    changes: int
    """How often acknowledged writes changed sides."""
    attempts: int
    acknowledged: int
    refused: int
    sides: tuple[SideWrites, ...]
    errors: Mapping[str, int]
    """What refused writes were told → how often."""
    bucket_ms: int
    buckets: tuple[Bucket, ...]
    around: tuple[Write, ...]
    """The writes around the pause, one by one."""
    summary: Mapping[str, object]
    """What the client said of itself."""

    @property
    def length_ms(self) -> float | None:
        """The pause: as recorded, else as the writes show it."""
        if self.recorded_ms is not None:
            return self.recorded_ms
        return self.pause.length_ms if self.pause is not None else None


def build_pause(
    samples: Sequence[SampleRecord], records: Sequence[StepRecord], detail: Facts
) -> PauseView | None:
    """From the samples of side ``client`` and the operation's own summary; None where there is neither.

    :param detail: of the run's phase, where the summary can be instead of in the step.
    """
    writes = sorted(
        (write for sample in samples if (write := _write(sample.numbers)) is not None),
        key=_answered,
    )
    told = _summary(records, detail)
    if not writes and told is None:
        return None
    acknowledged = [write for write in writes if write.ok]
    pause, changes = _gaps(acknowledged)
    size = _bucket_size(writes)
    errors = Counter(write.error or "no reason given" for write in writes if not write.ok)
    return PauseView(
        recorded_ms=facts.number(told or {}, "write_pause_ms"),
        pause=pause,
        changes=changes,
        attempts=len(writes),
        acknowledged=len(acknowledged),
        refused=len(writes) - len(acknowledged),
        sides=tuple(_side(side, writes) for side in dict.fromkeys(write.side for write in writes)),
        errors=dict(errors.most_common(20)),
        bucket_ms=size,
        buckets=_buckets(writes, size),
        around=_around(writes, pause),
        summary=facts.masked_table(facts.table(told or {}, "canary")),
    )


def _summary(records: Sequence[StepRecord], detail: Facts) -> Facts | None:
    steps = sorted(records, key=lambda record: record.name != CONFIRM_STEP)
    for table in (*(record.detail for record in steps), detail):
        if facts.number(table, "write_pause_ms") is not None or facts.table(table, "canary"):
            return table
    return None


def _write(numbers: Facts) -> Write | None:
    at, ok = facts.number(numbers, "at_ms"), facts.truth(numbers, "ok")
    if at is None or ok is None:
        return None
    return Write(
        at,
        facts.text(numbers, "side") or "unknown",
        ok,
        facts.number(numbers, "latency_ms"),
        facts.text(numbers, "error"),
    )


def _gaps(acknowledged: Sequence[Write]) -> tuple[Gap | None, int]:
    """The gap that matters, and how many of all are between two sides."""
    gaps = [Gap(a.answered_ms, b.answered_ms, a.side, b.side) for a, b in pairwise(acknowledged)]
    between = [gap for gap in gaps if gap.from_side != gap.to_side]
    return max(between or gaps, key=lambda gap: gap.length_ms, default=None), len(between)


def _side(side: str, writes: Sequence[Write]) -> SideWrites:
    ours = [write for write in writes if write.side == side]
    done = [write for write in ours if write.ok]
    latencies = sorted(write.latency_ms for write in done if write.latency_ms is not None)
    return SideWrites(
        side,
        len(done),
        len(ours) - len(done),
        done[0].answered_ms if done else None,
        done[-1].answered_ms if done else None,
        latencies[len(latencies) // 2] if latencies else None,
        latencies[-1] if latencies else None,
    )


def _bucket_size(writes: Sequence[Write]) -> int:
    """Milliseconds, so that the whole time fits into a few dozen."""
    length = writes[-1].answered_ms if writes else 0.0
    return next(
        (size for size in _BUCKET_MS if length / size <= _MOST_BUCKETS), int(length / _MOST_BUCKETS) + 1
    )


def _buckets(writes: Sequence[Write], size: int) -> tuple[Bucket, ...]:
    if not writes:
        return ()
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    refused: Counter[int] = Counter()
    for write in writes:
        index = int(max(write.answered_ms, 0.0) // size)
        if write.ok:
            counts[index][write.side] += 1
        else:
            refused[index] += 1
    last = int(max(writes[-1].answered_ms, 0.0) // size)
    return tuple(Bucket(float(n * size), dict(counts[n]), refused[n]) for n in range(last + 1))


def _around(writes: Sequence[Write], pause: Gap | None) -> tuple[Write, ...]:
    """The writes from somewhat before the pause to somewhat after it."""
    if pause is None:
        return ()
    margin = max(pause.length_ms / 2, _LEAST_MARGIN_MS)
    near = [w for w in writes if pause.start_ms - margin <= w.answered_ms <= pause.end_ms + margin]
    middle = (pause.start_ms + pause.end_ms) / 2
    near = sorted(near, key=lambda write: abs(write.answered_ms - middle))[:_MOST_AROUND]
    return tuple(sorted(near, key=_answered))


def _answered(write: Write) -> float:
    return write.answered_ms
