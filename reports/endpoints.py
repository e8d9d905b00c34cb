"""Both servers as a run saw them, before and after."""

from __future__ import annotations

from typing import Literal

from integrity.ledger.models import Run
from reports import facts
from reports.facts import Facts, masked_text
from reports.model import EndpointView


def endpoint_of(role: Literal["source", "target"], run: Run) -> EndpointView | None:
    """As the run saw it first; None where it never met it."""
    known = run.source if role == "source" else run.target
    address = run.source_address if role == "source" else run.target_address
    return _view(role, known or {}, address) if known is not None or address is not None else None


def endpoint_after(role: Literal["source", "target"], run: Run, verify: Facts) -> EndpointView | None:
    """As the verification saw it last; None where it did not look again."""
    identity = facts.table(facts.table(verify, "afterwards"), role)
    address = run.source_address if role == "source" else run.target_address
    return _view(role, identity, address) if identity else None


def _view(role: Literal["source", "target"], identity: Facts, address: str | None) -> EndpointView:
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
    elif engine is None:
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
        note=note,
    )
