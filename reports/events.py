"""The audit events of a run as a report shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from integrity.ledger.models import Event
from reports import facts
from reports.facts import Facts, masked_text


@dataclass(frozen=True, slots=True)
class EventView:
    """One audit event."""

    sequence: int
    at: str
    actor: str
    kind: str
    payload: Mapping[str, object]
    hash: str


def event_view(row: Event) -> EventView:
    """The ledger's row as a value, secrets masked."""
    try:
        payload = json.loads(row.payload)
    except json.JSONDecodeError:
        payload = None
    # A payload that is no table was changed outside Greenfly; the chain says so, the report still shows it.
    known: Facts = payload if isinstance(payload, dict) else {"payload": row.payload}
    return EventView(
        row.sequence,
        masked_text(row.at),
        masked_text(row.actor),
        masked_text(row.kind),
        facts.masked_table(known),
        row.hash,
    )


def event_moment(text: str) -> datetime | None:
    """A time that an event tells as text, aware; None where it is none."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
