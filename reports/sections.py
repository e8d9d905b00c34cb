"""The sections of a page: which there are depends on what the run was for."""

from __future__ import annotations

from typing import Final

from integrity.ledger.models import RunKind
from reports.model import RunReport

_LIVE: Final = {
    "at-risk": "What is at risk",
    "pause": "Write pause",
    "steps": "Steps",
    "gates": "Gates and approvals",
    "following": "Following",
    "guarding": "Health of green",
    "story": "The story",
}
_ALWAYS: Final = {
    "coverage": "Coverage",
    "rules": "Rules",
    "exceptions": "Expected differences and exceptions",
    "repairs": "Repairs",
    "run": "The run",
    "endpoints": "Source and target",
    "assessment": "Assessment",
    "phases": "Phases",
    "course": "How it went",
    "counts": "Counts by database and type",
    "fingerprints": "Fingerprints",
    "expiry": "Expiries",
    "findings": "Findings",
    "artifacts": "Files",
    "configuration": "Configuration",
    "timeline": "Timeline",
    "integrity": "Integrity and limits",
}
_COMPARED: Final = frozenset(
    {"coverage", "rules", "exceptions", "course", "counts", "fingerprints", "expiry"}
)
"""What a run that only looks has nothing to say about."""


def sections_of(report: RunReport) -> dict[str, str]:
    """Identifier → title, in their order."""
    left_out = set()
    if report.repairs is None:
        left_out.add("repairs")
    if report.assessment is None:
        left_out.add("assessment")
    if report.run.kind is RunKind.ASSESS:
        left_out |= _COMPARED
        # Here it is what the page is about.
        return {
            name: title
            for name, title in ({"assessment": _ALWAYS["assessment"]} | _ALWAYS).items()
            if name not in left_out
        }
    if report.live is not None:
        left_out |= _without_content(report)
        named = _ALWAYS | {"timeline": "Audit events", "endpoints": "Blue and green"}
        return {
            name: title for name, title in (_live_sections(report) | named).items() if name not in left_out
        }
    return {name: title for name, title in _ALWAYS.items() if name not in left_out}


def _live_sections(report: RunReport) -> dict[str, str]:
    live = report.live
    if live is None:
        return {}
    there = {
        "at-risk": live.at_risk is not None,
        "pause": live.operation is not None,
        "steps": live.operation is not None,
        "gates": live.operation is not None,
        "following": live.following is not None,
        "guarding": live.guard is not None,
        "story": bool(live.story),
    }
    return {name: title for name, title in _LIVE.items() if there[name]}


def _without_content(report: RunReport) -> set[str]:
    """What a run that moves or guards applications has nothing to say about; a sync copies, so that it may have."""
    empty = {
        "coverage": report.coverage is None,
        "rules": report.run.kind is not RunKind.SYNC,
        "exceptions": not report.exceptions,
        "course": not (
            report.copy or report.replication or report.ranges or report.throttle or report.incidents.events
        ),
        "counts": not report.counts,
        "fingerprints": not report.fingerprints,
        "expiry": report.expiry is None,
    }
    return {name for name, nothing in empty.items() if nothing}
