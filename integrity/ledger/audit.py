"""Append-only, hash-chained audit events.

Each event's hash is SHA-256 over the previous event's hash and its own canonical text, so that changing, removing or
reordering any of them breaks every later hash.  A chain alone cannot see that its newest events were cut off.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, select

from integrity.ledger.models import Event

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
    """Append one event inside the caller's transaction, which must already exclude other writers."""
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


def verify_chain(connection: Connection) -> ChainState:
    """Walk the whole chain, oldest first."""
    previous, expected = GENESIS, 1
    for event in _events(connection):
        if event.sequence != expected:
            return ChainState(expected - 1, previous, expected, f"event {expected} is missing")
        if event.previous_hash != previous:
            return ChainState(expected - 1, previous, expected, "it does not follow the event before it")
        actual = event_hash(
            previous, event.sequence, event.run_id, event.at, event.actor, event.kind, event.payload
        )
        if actual != event.hash:
            return ChainState(expected - 1, previous, expected, "its content was changed")
        previous, expected = event.hash, expected + 1
    return ChainState(expected - 1, previous, None, None)


def _events(connection: Connection) -> Iterator[Event]:
    columns = select(*Event.__table__.columns).order_by(Event.sequence)
    for row in connection.execution_options(yield_per=1000).execute(columns):
        yield Event(**row._mapping)
