"""The audit chain as a file: one event a line, oldest first, as it was hashed.

Events of other runs can be left out but for their hashes.  Each event that is told still has to follow from the hash
before it; that one hash which is told alone followed from the one before it cannot be seen from the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, Self

from sqlalchemy import Connection

from integrity.audit.checkpoint import EVENT_KIND
from integrity.audit.texts import line_of, lines, number_at, read_table, require_names, text_at
from integrity.ledger.audit import ChainState, ChainWalk, Link, events_of

_TOLD: Final = frozenset({"sequence", "run_id", "at", "actor", "kind", "payload", "previous_hash", "hash"})
_HIDDEN: Final = frozenset({"sequence", "hash"})


@dataclass(frozen=True, slots=True)
class HiddenLine:
    """An event of another run, of which only the hash is told."""

    sequence: int
    hash: str


@dataclass(frozen=True, slots=True)
class EventLine:
    """An event as a file holds it."""

    sequence: int
    run_id: str | None
    at: str
    actor: str
    kind: str
    payload: str
    previous_hash: str
    hash: str

    @classmethod
    def of(cls, link: Link) -> Self:
        """From the ledger."""
        return cls(
            link.sequence,
            link.run_id,
            link.at,
            link.actor,
            link.kind,
            link.payload,
            link.previous_hash,
            link.hash,
        )

    def line(self) -> bytes:
        """Its line."""
        return line_of({name: getattr(self, name) for name in _TOLD})


def read_line(line: bytes) -> EventLine | HiddenLine:
    """An event from its line.

    :raises ValueError: it is none.
    """
    table = read_table(line)
    if table.keys() == _HIDDEN:
        return HiddenLine(number_at(table, "sequence"), text_at(table, "hash"))
    require_names(table, _TOLD)
    run_id = table["run_id"]
    if run_id is not None and not isinstance(run_id, str):
        raise ValueError("its run_id is not a text")
    at, actor, kind, payload, previous, own = (
        text_at(table, name) for name in ("at", "actor", "kind", "payload", "previous_hash", "hash")
    )
    return EventLine(number_at(table, "sequence"), run_id, at, actor, kind, payload, previous, own)


def write_chain(connection: Connection, file: BinaryIO, run_id: str, *, hide_other_runs: bool) -> ChainState:
    """Write all events, up to the first that does not fit.

    :param hide_other_runs: tell of the events of other runs only their hashes; checkpoints are always told.
    """
    walk = ChainWalk()
    for event in events_of(connection):
        problem = walk.problem_of(event)
        if problem is not None:
            return walk.state(problem)
        if hide_other_runs and event.run_id != run_id and event.kind != EVENT_KIND:
            file.write(line_of({"sequence": event.sequence, "hash": event.hash}))
        else:
            file.write(EventLine.of(event).line())
    return walk.state()


@dataclass(frozen=True, slots=True)
class ReadEvent:
    """One line, and what is wrong with it or with its place."""

    number: int
    event: EventLine | HiddenLine | None
    problem: str | None


def walk_file(file: BinaryIO, walk: ChainWalk) -> Iterator[ReadEvent]:
    """The events of a file, along the chain; it ends behind the first one that does not fit."""
    number = 0
    try:
        for number, line in lines(file):
            try:
                event = read_line(line)
            except ValueError as error:
                yield ReadEvent(number, None, f"it is no event: {error}")
                return
            problem = (
                walk.pass_over(event.sequence, event.hash)
                if isinstance(event, HiddenLine)
                else walk.problem_of(event)
            )
            yield ReadEvent(number, event, problem)
            if problem is not None:
                return
    except ValueError as error:
        yield ReadEvent(number + 1, None, str(error))
