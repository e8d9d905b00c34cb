"""What the checks about keys have in common: how keys are shown, and what a sample cannot say."""

from __future__ import annotations

from collections.abc import Iterable

from integrity.assess.census import Census, KeyFact
from integrity.assess.model import Facts, Finding, Outcome, Severity


def noticed(
    severity: Severity, summary: str, remedy: str, evidence: Facts, *, items: tuple[str, ...] = ()
) -> Finding:
    """Something was found."""
    return Finding(Outcome.FOUND, summary, severity, evidence, remedy, items)


def absent(census: Census, summary: str, **evidence: object) -> Finding:
    """Nothing of the kind was seen; of a sample that is no proof, and the finding says how much may be there.

    :param summary: a sentence without its full stop.
    """
    if census.full:
        return Finding(Outcome.PASSED, f"{summary}; every key was looked at.", evidence=evidence)
    unseen = census.unseen_at_most
    return Finding(
        Outcome.PASSED,
        f"{summary} in the sample, which does not prove that there is none: of {census.keys_present:,} keys up to "
        f"{unseen:,} may be so (95 % certainty).",
        evidence=evidence | {"unseen_at_most": unseen},
    )


def seen(census: Census) -> str:
    """``of all 1,000 keys``, ``of the 50,000 of 1,000,000 keys that were looked at``."""
    if census.full:
        return f"of all {census.keys_looked_at:,} keys"
    return f"of the {census.keys_looked_at:,} of {census.keys_present:,} keys that were looked at"


def listed(keys: Iterable[KeyFact]) -> list[dict[str, object]]:
    """Keys as plain JSON values."""
    return [
        {
            "database": fact.database,
            "key": fact.key.decode("utf-8", "backslashreplace"),
            "type": fact.kind,
            "bytes": fact.bytes,
            "elements": fact.elements,
            "detail": fact.detail,
        }
        | ({"heat": fact.heat} if fact.heat else {})
        for fact in keys
    ]


def plural(count: int, noun: str) -> str:
    """``1 key``, ``2 keys``; ``1 hash``, ``2 hashes``."""
    ending = "es" if noun.endswith(("s", "sh", "x")) else "s"
    return f"{count:,} {noun}{'' if count == 1 else ending}"


def human_bytes(count: int) -> str:
    """``1.5 MiB``."""
    size = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"
