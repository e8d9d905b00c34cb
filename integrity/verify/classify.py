"""What two looks at the same key amount to."""

from __future__ import annotations

from dataclasses import replace

from integrity.expiry import NO_EXPIRY
from integrity.kinds import HASH
from integrity.kinds.field_expiry import FieldExpiries
from integrity.ledger.models import FindingClass
from integrity.ledger.store import NewFinding
from integrity.verify.look import Look


def expiries_agree(source_ms: int, target_ms: int, tolerance_ms: int) -> bool:
    """Both none, or both set and no further apart than the tolerance."""
    if source_ms == NO_EXPIRY or target_ms == NO_EXPIRY:
        return source_ms == target_ms
    return abs(source_ms - target_ms) <= tolerance_ms


def classify(database: int, key: bytes, source: Look, target: Look, tolerance_ms: int) -> list[NewFinding]:
    """The findings for one key; none where both sides agree or neither has it."""

    def finding(finding_class: FindingClass, detail: str) -> NewFinding:
        return NewFinding(
            finding_class,
            database,
            key,
            source_kind=source.kind_name,
            target_kind=target.kind_name,
            source_digest=source.digest,
            target_digest=target.digest,
            source_expiry_ms=source.expiry_ms,
            target_expiry_ms=target.expiry_ms,
            source_size=source.size,
            target_size=target.size,
            detail=detail,
        )

    if not source.present and not target.present:
        return []
    if not target.present:
        return [finding(FindingClass.MISSING, "the target does not have this key")]
    if not source.present:
        return [finding(FindingClass.EXTRA, "only the target has this key")]
    if source.problem or target.problem:
        side, problem = ("source", source.problem) if source.problem else ("target", target.problem)
        return [finding(FindingClass.UNREADABLE, f"not compared: {side}: {problem}")]
    findings = []
    if source.kind_name != target.kind_name:
        findings.append(
            finding(FindingClass.TYPE, f"{source.kind_name} on the source, {target.kind_name} on the target")
        )
    elif source.digest != target.digest or counters_differ(source, target):
        findings.append(finding(FindingClass.VALUE, _value_difference(source, target)))
    if (
        source.expiry_ms is not None
        and target.expiry_ms is not None
        and not expiries_agree(source.expiry_ms, target.expiry_ms, tolerance_ms)
    ):
        findings.append(finding(FindingClass.EXPIRY, _expiry_difference(source.expiry_ms, target.expiry_ms)))
    if source.kind is HASH and target.kind is HASH:
        ours, theirs = source.field_expiries or FieldExpiries(), target.field_expiries or FieldExpiries()
        apart = ours.difference(theirs, tolerance_ms) if len(ours) or len(theirs) else None
        if apart is not None:
            found = finding(FindingClass.FIELD_EXPIRY, apart.text)
            findings.append(
                replace(found, source_expiry_ms=apart.source_ms, target_expiry_ms=apart.target_ms)
            )
    return findings


def _value_difference(source: Look, target: Look) -> str:
    if source.kind is None:
        return ""
    if source.value is not None and target.value is not None:
        return source.kind.difference(source.value, target.value)
    # At least one side was read in pieces, of which nothing is kept.
    if source.digest == target.digest:
        return "entries-added or max-deleted-entry-id differ"
    unit = "bytes" if source.kind_name in {"string", "ReJSON-RL"} else "elements"
    return f"another content ({source.size or 0:,} {unit} against {target.size or 0:,})"


def counters_differ(source: Look, target: Look) -> bool:
    """Whether a stream's counters differ, where both servers keep them."""
    return source.counters is not None and target.counters is not None and source.counters != target.counters


def _expiry_difference(source_ms: int, target_ms: int) -> str:
    if target_ms == NO_EXPIRY:
        return "expires on the source, never on the target"
    if source_ms == NO_EXPIRY:
        return "never expires on the source, expires on the target"
    apart = target_ms - source_ms
    return f"expires {abs(apart):,} ms {'later' if apart > 0 else 'earlier'} on the target"
