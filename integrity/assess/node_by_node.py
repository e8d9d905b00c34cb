"""What a check comes to that was made for each node of a cluster: the worst of them, with what each said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from integrity.assess.model import Finding, Outcome, Severity

_SEVERITIES: Final = (Severity.INFO, Severity.WARNING, Severity.BLOCKING)
_OUTCOMES: Final = (Outcome.NOT_APPLICABLE, Outcome.PASSED, Outcome.UNKNOWN, Outcome.FOUND)
_NAMED: Final = 3
"""So many nodes are named in a sentence; all of them stand in the evidence."""


def merged(findings: Sequence[tuple[str, Finding]]) -> Finding:
    """The worst finding, with the items of all that are as bad, and what was found where.

    :param findings: node (or pair of nodes) → what was found there; not empty.
    """
    worst = max((finding for _, finding in findings), key=_rank)
    bad = [(node, finding) for node, finding in findings if _rank(finding) == _rank(worst)]
    by_summary: dict[str, list[str]] = {}
    for node, finding in bad:
        by_summary.setdefault(finding.summary, []).append(node)
    if len(by_summary) == 1 and len(bad) == len(findings):
        summary = (
            worst.summary if len(findings) == 1 else f"{worst.summary} (On each of {len(findings)} nodes.)"
        )
    else:
        summary = " ".join(f"{_some(nodes)}: {text}" for text, nodes in by_summary.items())
    items = {item for _, finding in bad for item in finding.items}
    if items:
        # A waiver for what was named does not cover a node where all of it is bad.
        items |= {f"node {node}" for node, finding in bad if not finding.items}
    remedy = " ".join(dict.fromkeys(finding.remedy for _, finding in bad if finding.remedy))
    evidence = {
        "nodes": {
            node: {"outcome": finding.outcome.value, "summary": finding.summary, **finding.evidence}
            for node, finding in findings
        }
    }
    return Finding(worst.outcome, summary, worst.severity, evidence, remedy, tuple(sorted(items)))


def _rank(finding: Finding) -> tuple[int, int]:
    """What blocks comes first, then what warns; of two alike, what was found before what is not known."""
    outcome = _OUTCOMES.index(finding.outcome)
    if finding.outcome in {Outcome.PASSED, Outcome.NOT_APPLICABLE}:
        return -1, outcome
    return _SEVERITIES.index(finding.severity), outcome


def _some(nodes: Sequence[str]) -> str:
    more = f" and {len(nodes) - _NAMED} more" if len(nodes) > _NAMED else ""
    return ", ".join(nodes[:_NAMED]) + more
