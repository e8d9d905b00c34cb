"""The sections of a page, in their order, and which of them a run has.

The order is that of an auditor's questions: what was decided, of what, by whom, where, on what grounds, when, how, with
which result, and how far the record can be trusted.
"""

from __future__ import annotations

from typing import Final

from integrity.ledger.models import RunKind
from reports.model import RunReport

_TITLES: Final = {
    "at-risk": "What is at risk",
    "coverage": "Coverage",
    "rules": "Rules",
    "run": "The run",
    "configuration": "Configuration",
    "endpoints": "Source and target",
    "assessment": "Assessment",
    "approvals": "Approvals",
    "phases": "Phases",
    "pause": "Write pause",
    "course": "How it went",
    "following": "Following",
    "timeline": "Timeline",
    "counts": "The copy, by database and type",
    "fingerprints": "Verification",
    "expiry": "Expiries",
    "findings": "Findings",
    "repairs": "Repairs",
    "steps": "Steps",
    "gates": "Gates",
    "guarding": "Health of green",
    "story": "The story",
    "exceptions": "Expected differences and exceptions",
    "comparison": "Compared with the run before",
    "artifacts": "Files",
    "integrity": "Integrity and limits",
}
_RENAMED: Final = {"timeline": "Audit events", "endpoints": "Blue and green"}
"""For a run that happens while applications write."""
_COMPARED: Final = frozenset(
    {"coverage", "rules", "exceptions", "course", "counts", "fingerprints", "expiry", "findings"}
)
"""What a run that only looks has nothing to say about."""


def sections_of(report: RunReport) -> dict[str, str]:
    """Identifier → title, in their order."""
    live = report.live
    there = _live_parts(report) | {
        "repairs": report.repairs is not None,
        "assessment": report.assessment is not None,
        "comparison": report.comparison is not None,
    }
    if live is not None:
        there |= _with_content(report)
    elif report.run.kind is RunKind.SNAPSHOT:
        there |= _of_a_snapshot(report)
    elif report.run.kind is RunKind.ASSESS:
        there |= dict.fromkeys(_COMPARED, False) | {"exceptions": bool(report.waivers)}
    titles = _TITLES | (_RENAMED if live is not None else {})
    if report.run.kind is RunKind.SNAPSHOT:
        titles |= {"endpoints": "Source", "fingerprints": "Checksums"}
    if report.copy is None and report.replication is None:
        titles |= {"counts": "Keys by database and type"}
    return {name: title for name, title in titles.items() if there.get(name, True)}


def _of_a_snapshot(report: RunReport) -> dict[str, bool]:
    """What a run that compares nothing has nothing to say about; its fingerprints are what later runs compare with."""
    return {
        "coverage": report.coverage is not None,
        "rules": False,
        "approvals": bool(report.approvals.decisions),
        "expiry": report.expiry is not None,
        "findings": bool(report.finding_counts),
        "exceptions": bool(report.exceptions or report.waivers),
    }


def _live_parts(report: RunReport) -> dict[str, bool]:
    live = report.live
    operation = live is not None and live.operation is not None
    return {
        "at-risk": live is not None and live.at_risk is not None,
        "pause": operation,
        "steps": operation,
        "gates": operation,
        "following": live is not None and live.following is not None,
        "guarding": live is not None and live.guard is not None,
        "story": live is not None and bool(live.story),
    }


def _with_content(report: RunReport) -> dict[str, bool]:
    """What a run that moves or guards applications may have nothing to say about; a sync copies, so it may have it."""
    return {
        "coverage": report.coverage is not None,
        "rules": report.run.kind is RunKind.SYNC,
        "exceptions": bool(report.exceptions or report.waivers),
        "course": bool(report.ranges or report.throttle or report.incidents.events),
        "counts": bool(report.counts or report.copy or report.replication),
        "fingerprints": bool(report.fingerprints),
        "expiry": report.expiry is not None,
    }
