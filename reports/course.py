"""How a run went: how its keys were copied, its ranges, and what went wrong or was asked of it on the way."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from integrity.ledger.models import Checkpoint, PhaseName
from reports import facts
from reports.display import counted, size
from reports.events import EventView
from reports.facts import Facts


@dataclass(frozen=True, slots=True)
class CopyView:
    """How the keys of the copy were written.  None is a count that the ledger does not hold."""

    written: int | None
    rewritten: int | None
    """With typed commands, because they were big or the target refused their payload."""
    big: int | None
    """Too large to be read whole, so that they were read in pieces."""
    relabelled: int | None
    """Taken by the target only under an older RDB version."""
    skipped: int | None
    refused: int | None
    vanished: int | None
    left_out: int | None
    batches: int | None


def build_copy(detail: Facts | None, left_out: int | None) -> CopyView | None:
    """From the stream phase's detail; None where there was no such phase.

    :param left_out: keys that the rules left out.
    """
    if detail is None:
        return None

    def count(name: str) -> int | None:
        return facts.integer(detail, name)

    return CopyView(
        written=count("written"),
        rewritten=count("rewritten"),
        big=count("big"),
        relabelled=count("relabelled"),
        skipped=count("skipped"),
        refused=count("refused"),
        vanished=count("vanished"),
        left_out=left_out,
        batches=count("batches"),
    )


# -- ranges ------------------------------------------------------------------------------------------------------------


RangeState = Literal["done", "begun", "not begun"]
_MOST_CELLS: Final = 500


@dataclass(frozen=True, slots=True)
class RangeCell:
    """One range, or neighbours that are told together because there are very many."""

    first: int
    last: int
    """Their numbers, from 0."""
    state: RangeState
    """Of several the one that is furthest behind."""
    keys: int


@dataclass(frozen=True, slots=True)
class RangesRow:
    """The ranges of one database in one phase."""

    phase: PhaseName
    database: int
    ranges: int
    done: int
    begun: int
    keys: int
    bytes: int
    batches: int
    fewest_keys: int
    """In one range that was begun."""
    most_keys: int
    cells: tuple[RangeCell, ...]
    """The ranges in their order."""


def build_ranges(checkpoints: Sequence[Checkpoint]) -> tuple[RangesRow, ...]:
    """By phase and database, in the order in which they began."""
    groups: dict[tuple[PhaseName, int], list[Checkpoint]] = defaultdict(list)
    for checkpoint in checkpoints:
        groups[checkpoint.phase, checkpoint.database].append(checkpoint)
    return tuple(
        RangesRow(
            phase,
            database,
            ranges=max(row.range_count for row in rows),
            done=sum(row.done for row in rows),
            begun=len(rows),
            keys=sum(row.keys for row in rows),
            bytes=sum(row.bytes for row in rows),
            batches=sum(row.batches for row in rows),
            fewest_keys=min(row.keys for row in rows),
            most_keys=max(row.keys for row in rows),
            cells=_cells(rows),
        )
        for (phase, database), rows in groups.items()
    )


def _cells(rows: Sequence[Checkpoint]) -> tuple[RangeCell, ...]:
    known = {row.range_index: row for row in rows}
    total = max(max(known) + 1, *(row.range_count for row in rows))
    together = math.ceil(total / _MOST_CELLS)
    return tuple(
        _cell(known, range(first, min(first + together, total))) for first in range(0, total, together)
    )


def _cell(known: Mapping[int, Checkpoint], indices: range) -> RangeCell:
    rows = [known[index] for index in indices if index in known]
    state: RangeState = "begun"
    if not rows:
        state = "not begun"
    elif len(rows) == len(indices) and all(row.done for row in rows):
        state = "done"
    return RangeCell(indices[0], indices[-1], state, sum(row.keys for row in rows))


# -- incidents ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that hindered the run, or that an operator asked of it."""

    sequence: int
    """Of the audit event."""
    at: str
    kind: str
    text: str
    seconds: float | None
    """How long a server had been away when it was back; None for everything else."""


@dataclass(frozen=True, slots=True)
class IncidentsView:
    """What happened on the way."""

    counts: Mapping[str, int]
    """Kind of audit event → how often."""
    away_seconds: float
    """Time in which at least one worker waited for a server that came back."""
    events: tuple[Incident, ...]


_SAID: Final[Mapping[str, str]] = {
    "server.lost": "A server was lost.",
    "server.back": "Both servers answered again.",
    "ranges.restarted": "The ranges were read again from the beginning.",
    "worker.lost": "A worker process died; another one took its range over.",
    "run.resumed": "The run had broken off and was resumed.",
    "control.paused": "paused the run.",
    "control.resumed": "let the run go on.",
    "control.limited": "set limits:",
}
_BEGIN_ANEW: Final = frozenset({"ranges.restarted", "run.resumed"})


def build_incidents(events: Sequence[EventView]) -> IncidentsView:
    """The incidents among a run's audit events, oldest first."""
    found = []
    away = 0.0
    lost_at: datetime | None = None
    waiting = 0
    for event in events:
        if event.kind not in _SAID:
            continue
        at, seconds = _time(event.at), None
        if event.kind == "server.lost":
            # Several workers lose the same server, each with an event of its own.
            lost_at = at if waiting == 0 else lost_at
            waiting += 1
        elif event.kind == "server.back" and waiting:
            waiting -= 1
            if lost_at is not None and at is not None:
                seconds = (at - lost_at).total_seconds()
                away += 0.0 if waiting else seconds
        elif event.kind in _BEGIN_ANEW:
            waiting = 0
        found.append(Incident(event.sequence, event.at, event.kind, _text(event), seconds))
    counts = Counter(incident.kind for incident in found)
    return IncidentsView({kind: counts[kind] for kind in _SAID if kind in counts}, away, tuple(found))


def _text(event: EventView) -> str:
    payload = event.payload
    match event.kind:
        case "server.lost":
            return facts.text(payload, "problem") or _SAID[event.kind]
        case "ranges.restarted":
            return facts.text(payload, "reason") or _SAID[event.kind]
        case "worker.lost":
            number, code = facts.integer(payload, "number"), facts.integer(payload, "exit_code")
            return f"Worker {number} died (exit code {code}); another one took its range over."
        case "control.limited":
            return f"{event.actor} set limits: {', '.join(_limits(payload)) or 'none'}."
        case "control.paused" | "control.resumed":
            return f"{event.actor} {_SAID[event.kind]}"
        case _:
            return _SAID[event.kind]


def _limits(payload: Facts) -> Iterator[str]:
    keys, size_ = facts.integer(payload, "keys_per_second"), facts.integer(payload, "bytes_per_second")
    if keys is not None:
        yield f"{counted(keys, 'key')} a second" if keys else "no limit on keys"
    if size_ is not None:
        yield f"{size(size_)} a second" if size_ else "no limit on bytes"


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
