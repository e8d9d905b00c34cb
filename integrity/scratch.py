"""The scratch server: filled by rehearsals and tried backups, and emptied only where they filled it.

It is emptied by FLUSHALL, so everything speaks against it until the ledger speaks for it: a server that holds keys is
emptied only if this ledger recorded that it was empty, under the same start of the same server, when it was claimed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import select

from integrity.endpoint import Endpoint, Identity
from integrity.errors import ConfigurationError, Refused, ServerUnreachable
from integrity.ledger import Ledger
from integrity.ledger.database import reading, repeated
from integrity.ledger.models import Event, RunState
from integrity.settings import EndpointSettings, Settings

CLAIMED: Final = "scratch.claimed"
EMPTIED: Final = "scratch.emptied"


@dataclass(frozen=True, slots=True)
class Claim:
    """A scratch server that is empty now, and ours to fill."""

    address: str
    """Masked address."""
    title: str
    """``Dragonfly 1.40.1``."""
    removed: int
    """Keys of an earlier rehearsal that were removed from it."""


def on_scratch(settings: Settings) -> Settings:
    """*settings* with the scratch server as the target.

    :raises ConfigurationError: no scratch server is set.
    """
    if settings.scratch.url is None:
        raise ConfigurationError(
            "No scratch server is set.",
            "Set [scratch] url in greenfly.toml or GREENFLY_SCRATCH__URL to a server that may be filled and emptied.",
        )
    return settings.model_copy(update={"target": settings.scratch})


def claim_scratch(settings: Settings, ledger: Ledger, run_id: str | None = None) -> Claim:
    """Make sure that the scratch server is nobody else's and empty; recorded in the ledger.

    :param run_id: the run that fills it.
    :raises ConfigurationError: no scratch server is set.
    :raises Refused: it is the source, its replica or the target, another run fills it, or it holds keys that no
        rehearsal put there.
    :raises ServerError: it cannot be reached, or refuses.
    """
    scratch = Endpoint.from_settings("target", on_scratch(settings).target)
    identity = scratch.identify()
    _require_another_server(settings, scratch, identity)
    other = _filled_by(ledger, str(scratch), run_id)
    if other is not None:
        raise Refused(
            f"Run {other} fills the scratch server {scratch} at this moment.",
            "Wait until it has ended; two rehearsals need two scratch servers.",
        )
    removed = identity.keys
    if removed:
        if not _was_claimed(ledger, str(scratch), identity.run_id):
            raise Refused(
                f"The scratch server {scratch} holds {removed:,} keys that no rehearsal of this ledger put there.",
                "Empty it by hand if nobody needs them, or name another server in [scratch].",
            )
        _flush(scratch)
    facts = {"address": str(scratch), "server_run": identity.run_id, "removed": removed}
    ledger.record_event(CLAIMED, facts, run_id)
    return Claim(str(scratch), identity.title, removed)


def empty_scratch(settings: Settings, ledger: Ledger, run_id: str | None = None) -> None:
    """Empty the scratch server after it was claimed; recorded in the ledger.

    :raises Refused: another server answers at its address by now.
    :raises ServerError: it cannot be reached, or refuses.
    """
    scratch = Endpoint.from_settings("target", on_scratch(settings).target)
    identity = scratch.identify()
    if identity.keys and not _was_claimed(ledger, str(scratch), identity.run_id):
        raise Refused(
            f"The scratch server {scratch} was restarted, or another one took its place.",
            "It was not emptied; look at what it holds.",
        )
    _flush(scratch)
    ledger.record_event(EMPTIED, {"address": str(scratch), "removed": identity.keys}, run_id)


def _flush(scratch: Endpoint) -> None:
    with scratch.connect("scratch") as connection:
        connection.command(b"FLUSHALL")


def _require_another_server(settings: Settings, scratch: Endpoint, identity: Identity) -> None:
    others: tuple[tuple[str, EndpointSettings], ...] = (
        ("source", settings.source),
        ("replica", settings.replica),
        ("target", settings.target),
    )
    for name, other in others:
        if other.url is None:
            continue
        endpoint = Endpoint.from_settings("target" if name == "target" else "source", other)
        if str(endpoint) != str(scratch):
            try:
                known = endpoint.identify()
            except ServerUnreachable:
                # What does not answer is not the server that has just answered.
                continue
            if known.run_id != identity.run_id and identity.run_id not in {s.run_id for s in known.shards}:
                continue
        raise Refused(
            f"The scratch server {scratch} is the {name}.",
            "A scratch server is emptied: name one that nobody needs in [scratch].",
        )


def _filled_by(ledger: Ledger, address: str, run_id: str | None) -> str | None:
    """The run that is alive and writes to this address."""
    now = datetime.now(UTC)
    for run in ledger.runs(200):
        alive = run.state is RunState.RUNNING and run.lease_until >= now
        if alive and run.target_address == address and run.id != run_id:
            return run.id
    return None


@repeated
def _was_claimed(ledger: Ledger, address: str, server_run: str) -> bool:
    query = select(Event.payload).where(Event.kind == CLAIMED).order_by(Event.sequence.desc()).limit(200)
    with reading(ledger.engine) as connection:
        texts = list(connection.scalars(query))
    return bool(server_run) and any(_names(text, address, server_run) for text in texts)


def _names(text: str, address: str, server_run: str) -> bool:
    payload = json.loads(text)
    named = (payload["address"], payload["server_run"])
    return bool(named == (address, server_run))
