"""What the webhook was asked, in the ledger, so that a request that comes twice does nothing twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import select

from integrity.ledger import Ledger
from integrity.ledger.database import reading, repeated
from integrity.ledger.models import Event

ASKED: Final = "webhook.asked"
ENDED: Final = "webhook.ended"
FRESH: Final = timedelta(hours=1)
"""How long a request that never came to its end may be made again under its key."""


@dataclass(frozen=True, slots=True)
class Known:
    """A request that came before."""

    asked_at: datetime
    reason: str
    result: Mapping[str, object] | None
    """What it came to; None where its end is not recorded."""

    @property
    def is_stale(self) -> bool:
        """Whether it is too old to be taken up again."""
        return self.result is None and datetime.now(UTC) - self.asked_at > FRESH


def key_digest(key: str) -> str:
    """SHA-256 of an idempotency key; the key itself is kept nowhere."""
    return hashlib.sha256(key.encode()).hexdigest()


def record_asked(ledger: Ledger, sync_run_id: str, digest: str, reason: str, caller: str) -> None:
    """Record a request before anything is done about it."""
    ledger.record_event(ASKED, {"key": digest, "reason": reason, "from": caller}, sync_run_id)


def record_ended(ledger: Ledger, sync_run_id: str, digest: str, result: Mapping[str, object]) -> None:
    """Record what it came to."""
    ledger.record_event(ENDED, {"key": digest, "result": dict(result)}, sync_run_id)


@repeated
def find_request(ledger: Ledger, sync_run_id: str, digest: str) -> Known | None:
    """What is known of a request with this key about this run."""
    query = (
        select(Event.kind, Event.at, Event.payload)
        .where(Event.run_id == sync_run_id, Event.kind.in_([ASKED, ENDED]))
        .order_by(Event.sequence)
    )
    known: Known | None = None
    with reading(ledger.engine) as connection:
        for kind, at, text in connection.execute(query):
            payload = json.loads(text)
            if payload["key"] != digest:
                continue
            if kind == ASKED:
                known = known or Known(datetime.fromisoformat(at), payload["reason"], None)
            elif known is not None:
                known = Known(known.asked_at, known.reason, payload["result"])
    return known
