"""Both servers as a run saw them, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from integrity.afterwards import UNKNOWN
from integrity.ledger.models import PhaseName, Run, RunKind
from reports import facts
from reports.events import event_moment
from reports.facts import Facts, masked_text
from reports.model import EndpointView, ShardView

_LOOK_AGAIN = (PhaseName.VERIFY, PhaseName.CUTOVER, PhaseName.ROLLBACK)
"""Phases that tell how both servers were when they had ended."""
_OPERATIONS = (RunKind.CUTOVER, RunKind.ROLLBACK)


def endpoint_of(role: Literal["source", "target"], run: Run) -> EndpointView | None:
    """As the run saw it first; None where it never met it."""
    known = run.source if role == "source" else run.target
    address = (run.source_address if role == "source" else run.target_address) or _configured(role, run)
    if known is None and address is None:
        return None
    return _view(role, known or {}, address, earlier=_seen_earlier(run, known or {}))


def endpoint_after(
    role: Literal["source", "target"], run: Run, details: Mapping[PhaseName, Facts]
) -> EndpointView | None:
    """As the run saw it last, or why it did not; None where it looked at neither server again."""
    afterwards: Facts = {}
    for phase in _LOOK_AGAIN:
        afterwards = facts.table(details.get(phase, {}), "afterwards") or afterwards
    if not afterwards:
        return None
    known = facts.table(afterwards, role)
    unknown = facts.text(known, UNKNOWN)
    if not known:
        first = (run.source if role == "source" else run.target) or {}
        unknown = "a file, which is only read" if first.get("role") == "file" else "it did not answer"
    address = run.source_address if role == "source" else run.target_address
    return _view(role, known, address, unknown=masked_text(unknown) if unknown is not None else None)


def _configured(role: Literal["source", "target"], run: Run) -> str | None:
    """The address that the run was given, where it came to nothing else."""
    if run.kind is RunKind.SNAPSHOT and role == "target":
        return None
    return facts.text(facts.table(run.settings, role), "url")


def _seen_earlier(run: Run, known: Facts) -> bool:
    """Whether what is known of a server is not of this run, but of the sync run that it rests on."""
    at: datetime | None = event_moment(facts.text(known, "observed_at") or "")
    return run.kind in _OPERATIONS and at is not None and at < run.started_at


def _view(
    role: Literal["source", "target"],
    identity: Facts,
    address: str | None,
    *,
    earlier: bool = False,
    unknown: str | None = None,
) -> EndpointView:
    engine, version = facts.text(identity, "engine"), facts.text(identity, "version")
    title = f"{engine.capitalize()} {version or ''}".strip() if engine else None
    databases = {
        int(number): keys
        for number in (facts.table(identity, "databases") if identity else {})
        if number.isdecimal()
        and (keys := facts.integer(facts.table(identity, "databases"), number)) is not None
    }
    seen = facts.text(identity, "address")
    named = masked_text(address) if address else None
    note = None
    if role == "target" and engine is not None and engine != "dragonfly":
        note = f"The target is {title}, not a Dragonfly: this run rehearses the pipeline with a stand-in."
    elif engine is None and unknown is None:
        note = f"The {role} was not identified; it may not have been reached."
    return EndpointView(
        role=role,
        address=named or seen,
        read_from=seen if role == "source" and seen != named else None,
        engine=engine,
        version=version,
        title=title,
        server_run_id=facts.text(identity, "run_id"),
        server_role=facts.text(identity, "role"),
        mode=facts.text(identity, "mode"),
        used_memory=facts.integer(identity, "used_memory"),
        max_memory=facts.integer(identity, "max_memory"),
        databases=dict(sorted(databases.items())) if "databases" in identity else None,
        keys=sum(databases.values()) if "databases" in identity else None,
        observed_at=facts.text(identity, "observed_at"),
        seen_earlier=earlier,
        shards=tuple(map(_shard, facts.tables(identity, "shards"))),
        unknown=unknown,
        note=note,
    )


def _shard(known: Facts) -> ShardView:
    return ShardView(
        node_id=facts.text(known, "node_id"),
        address=facts.text(known, "address"),
        server_run_id=facts.text(known, "run_id"),
        version=facts.text(known, "version"),
        slots=facts.text(known, "slots"),
        slots_moving=facts.integer(known, "slots_moving"),
        keys=facts.integer(known, "keys"),
    )
