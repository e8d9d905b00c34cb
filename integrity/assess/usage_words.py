"""Words that several checks about usage share."""

from __future__ import annotations

from collections.abc import Iterable

from integrity.assess.model import Finding, Severity, unknown


def no_counts(severity: Severity) -> Finding:
    """What to say of a source that does not count its commands."""
    return unknown(
        severity,
        "The source does not tell which commands it was sent (INFO commandstats is empty).",
        "Look through the applications for commands that the target does not know.",
    )


def some(names: Iterable[str], most: int = 8) -> str:
    """The first of *names*, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
