"""Why replication did not carry a key, as far as the key itself and what green was given can tell."""

from __future__ import annotations

from collections.abc import Mapping
from time import time
from typing import Final

from integrity.kinds import KINDS
from integrity.ledger.models import Finding, FindingClass
from integrity.verify.exceptions import DRAGONFLY_LIMIT_MS

EXPIRY: Final = "an expiry further away than Dragonfly takes"
FIELD_EXPIRY: Final = "expiries of hash fields, which Dragonfly takes by other commands"
COUNTERS: Final = "counters of a stream, which no command that Dragonfly knows sets"
NOT_TOLD: Final = "not told: Dragonfly drops a command that fails without a word"


def cause_of(finding: Finding, dropped: Mapping[str, int]) -> str:
    """For people; one of few texts, so that they can be counted.

    :param dropped: commands that green did not know while it replicated.
    """
    kind = finding.source_kind
    if kind is not None and kind.encode() not in KINDS:
        return f"type {kind}, which Dragonfly cannot load"
    match finding.finding_class:
        case FindingClass.FIELD_EXPIRY:
            return FIELD_EXPIRY
        case FindingClass.EXPIRY if _is_far(finding.source_expiry_ms):
            return EXPIRY
        case FindingClass.VALUE if (
            kind == "stream" and finding.source_digest == finding.target_digest is not None
        ):
            return COUNTERS
    if dropped:
        return f"most likely a command that Dragonfly does not know ({', '.join(sorted(dropped))})"
    return NOT_TOLD


def _is_far(expiry_ms: int | None) -> bool:
    return expiry_ms is not None and expiry_ms - time() * 1000 > DRAGONFLY_LIMIT_MS
