"""What the logs tell about time: how long nobody could write, and whether two sides ever took writes at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.load.journal import Outcome, Timed, read_times


@dataclass(frozen=True, slots=True)
class Gap:
    """Between two acknowledged writes of one client that follow each other."""

    from_side: str
    to_side: str
    start_ns: int
    """When the last one was acknowledged (monotonic)."""
    end_ns: int
    """When the next one was."""

    @property
    def seconds(self) -> float:
        """How long the client could not write."""
        return (self.end_ns - self.start_ns) * 1e-9

    @property
    def spans_switch(self) -> bool:
        """Whether the two writes went to different sides."""
        return self.from_side != self.to_side


@dataclass(frozen=True, slots=True)
class Overlap:
    """Proof that two sides took writes at once: the old side took one that was sent when the new one had answered."""

    old: Timed
    new: Timed


def gaps(folder: Path, *, at_least_s: float = 0.0) -> list[Gap]:
    """The gaps that the probe saw, in order of time."""
    return [gap for gap in _gaps(folder) if gap.seconds >= at_least_s]


def switch_gaps(folder: Path) -> list[Gap]:
    """The gaps that the probe saw when it changed sides, one for each switch: the write pauses."""
    return [gap for gap in _gaps(folder) if gap.spans_switch]


def overlaps(folder: Path, most: int = 100) -> list[Overlap]:
    """Acknowledged writes of a side sent after a write on its successor was acknowledged.

    A write takes effect between its sending and its answer.  Where the newer side has answered before the older one
    is even asked, both took writes in the order new, old, and between two switches there is one order only.  Which side
    is newer is told by when the environment file that named it was put into place.  Writes without an answer prove
    nothing.

    :param most: how many are returned.
    """
    first: dict[int, Timed] = {}
    for write in _acknowledged(folder):
        known = first.get(write.generation)
        if known is None or write.ended_ns < known.ended_ns:
            first[write.generation] = write
    successors: dict[int, Timed] = {}
    for generation, write in first.items():
        later = [
            other for other in first.values() if other.generation > generation and other.side != write.side
        ]
        if later:
            successors[generation] = min(later, key=lambda other: other.ended_ns)
    found = []
    for write in _acknowledged(folder):
        new = successors.get(write.generation)
        if new is not None and write.sent_ns > new.ended_ns:
            found.append(Overlap(write, new))
            if len(found) == most:
                break
    return found


def _gaps(folder: Path) -> Iterator[Gap]:
    last: Timed | None = None
    for write in _acknowledged(folder):
        if write.worker.endswith("-probe"):
            if last is not None:
                yield Gap(last.side, write.side, last.ended_ns, write.ended_ns)
            last = write


def _acknowledged(folder: Path) -> Iterator[Timed]:
    return (write for write in read_times(folder) if write.outcome is Outcome.ACKNOWLEDGED)
