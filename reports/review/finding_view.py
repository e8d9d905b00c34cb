"""One finding in words, for its own page."""

from __future__ import annotations

from dataclasses import dataclass

from integrity.ledger.models import Finding, FindingClass
from reports.facts import masked_text


@dataclass(frozen=True, slots=True)
class SideThen:
    """What one side had when the finding was recorded."""

    fate: str | None
    """What is said where nothing is recorded about it."""
    kind: str | None
    digest: str | None
    expiry_ms: int | None
    size: int | None


def sides_then(finding: Finding) -> tuple[SideThen, SideThen]:
    """Source and target."""
    return (
        _side(
            finding.finding_class is FindingClass.EXTRA,
            finding.source_kind,
            finding.source_digest,
            finding.source_expiry_ms,
            finding.source_size,
        ),
        _side(
            finding.finding_class is FindingClass.MISSING,
            finding.target_kind,
            finding.target_digest,
            finding.target_expiry_ms,
            finding.target_size,
        ),
    )


def _side(
    absent: bool, kind: str | None, digest: bytes | None, expiry_ms: int | None, size: int | None
) -> SideThen:
    known = (kind, digest, expiry_ms, size) != (None, None, None, None)
    fate = None if known else "does not have the key" if absent else "nothing recorded"
    shown = masked_text(kind) if kind is not None else None
    return SideThen(fate, shown, digest.hex() if digest is not None else None, expiry_ms, size)


def sentences(finding: Finding) -> str:
    """The finding's detail as sentences."""
    text = masked_text(finding.detail)
    said = f"{text[:1].upper()}{text[1:]}{'' if text[-1:] in ('.', '!', '?') else '.'}" if text else ""
    source, target = finding.source_expiry_ms, finding.target_expiry_ms
    if source is None or target is None or source < 0 or target < 0 or source == target:
        return said
    later = "later" if target > source else "earlier"
    return f"{said} The target's expiry is {abs(target - source):,} ms {later}.".strip()
