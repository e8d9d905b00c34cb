"""Append-only, hash-chained audit events.

Each event's hash is SHA-256 over the previous event's hash and its own canonical text, so that changing, removing or
reordering any of them breaks every later hash.  A chain alone cannot see that its newest events were cut off.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from sqlalchemy import Connection, select

from integrity.ledger.models import ACTOR_LENGTH, Event
from integrity.ledger.stored import in_a_line

GENESIS = "0" * 64


def canonical(payload: Mapping[str, object]) -> str:
    """Sorted keys, no white space, ASCII."""
    return json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def event_hash(
    previous_hash: str, sequence: int, run_id: str | None, at: str, actor: str, kind: str, payload: str
) -> str:
    """SHA-256 of the event and its predecessor's hash, as hexadecimal digits."""
    text = json.dumps([previous_hash, sequence, run_id, at, actor, kind, payload], ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def append(
    connection: Connection, run_id: str | None, actor: str, kind: str, payload: Mapping[str, object]
) -> None:
    """Append one event inside the caller's transaction, which must already exclude other writers.

    An *actor* of more than 200 characters is cut before it is hashed: a run must not break off because of a long name.
    """
    actor = in_a_line(actor, ACTOR_LENGTH)
    last = connection.execute(
        select(Event.sequence, Event.hash).order_by(Event.sequence.desc()).limit(1)
    ).one_or_none()
    sequence, previous = (last.sequence + 1, last.hash) if last else (1, GENESIS)
    at, text = datetime.now(UTC).isoformat(), canonical(payload)
    connection.execute(
        Event.__table__.insert(),  # type: ignore[attr-defined]
        {
            "sequence": sequence,
            "run_id": run_id,
            "at": at,
            "actor": actor,
            "kind": kind,
            "payload": text,
            "previous_hash": previous,
            "hash": event_hash(previous, sequence, run_id, at, actor, kind, text),
        },
    )


@dataclass(frozen=True, slots=True)
class ChainState:
    """What a walk along the chain found."""

    events: int
    head: str
    """Hash of the newest event; keep it elsewhere to notice a cut-off tail."""
    broken_at: int | None
    """Sequence number of the first event that does not fit, or None."""
    problem: str | None

    @property
    def intact(self) -> bool:
        """Whether every event fits its predecessor."""
        return self.broken_at is None


class Link(Protocol):
    """An event as the chain holds it, from the ledger or from anywhere else."""

    @property
    def sequence(self) -> int: ...
    @property
    def run_id(self) -> str | None: ...
    @property
    def at(self) -> str: ...
    @property
    def actor(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def payload(self) -> str: ...
    @property
    def previous_hash(self) -> str: ...
    @property
    def hash(self) -> str: ...


class ChainWalk:
    """A walk along the chain, oldest event first, that says where an event does not fit."""

    def __init__(self) -> None:
        self.events = 0
        self.head = GENESIS

    def problem_of(self, link: Link) -> str | None:
        """What is wrong with the next event; the walk goes on behind it only where nothing is."""
        expected = self.events + 1
        if link.sequence != expected:
            return f"event {expected} is missing"
        if link.previous_hash != self.head:
            return "it does not follow the event before it"
        actual = event_hash(
            self.head, link.sequence, link.run_id, link.at, link.actor, link.kind, link.payload
        )
        if actual != link.hash:
            return "its content was changed"
        self.events, self.head = expected, link.hash
        return None

    def pass_over(self, sequence: int, known_hash: str) -> str | None:
        """The next event, of which only the hash is known: the event after it must follow from that hash."""
        expected = self.events + 1
        if sequence != expected:
            return f"event {expected} is missing"
        self.events, self.head = expected, known_hash
        return None

    def state(self, problem: str | None = None) -> ChainState:
        """What was found; *problem* is that of the next event."""
        return ChainState(self.events, self.head, None if problem is None else self.events + 1, problem)


def verify_chain(connection: Connection, seen: Callable[[Event], None] | None = None) -> ChainState:
    """Walk the whole chain, oldest first.

    :param seen: told of each event that fits.
    """
    walk = ChainWalk()
    for event in events_of(connection):
        problem = walk.problem_of(event)
        if problem is not None:
            return walk.state(problem)
        if seen is not None:
            seen(event)
    return walk.state()


def events_of(connection: Connection) -> Iterator[Event]:
    """All events, oldest first, some at a time."""
    columns = select(*Event.__table__.columns).order_by(Event.sequence)
    with connection.execution_options(yield_per=1000).execute(columns) as rows:
        for row in rows:
            yield Event(**row._mapping)
