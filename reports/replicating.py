"""How Dragonfly's own replication went, and what it had left to be repaired; see ``docs/native.md``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from integrity.ledger.models import PhaseName
from reports import facts
from reports.display import plain_text
from reports.facts import Facts, masked_text


@dataclass(frozen=True, slots=True)
class ReplicationView:
    """What one run's replication came to."""

    full_syncs: int | None
    """How often the target began from nothing."""
    restarts: int | None
    """How often one of the servers restarted meanwhile."""
    dropped: Mapping[str, int]
    """Commands that the target was given and does not know → how often."""
    sentinels: tuple[int, ...]
    """Databases in which a sentinel key proved that everything had arrived."""
    only_offsets: str | None
    """Why there was none, or not in every database."""
    stayed_attached: bool
    """Whether the target stayed a replica when the phase ended, until the cutover."""
    causes: Mapping[str, int]
    """Cause → differences that the comparison found after it, as far as a cause can be told."""
    repaired: int | None
    """Keys that were looked at again and agree now; None where nothing had to be repaired."""
    not_repaired: int | None


_AGREE = ("copied", "expiry set", "deleted", "settled", "exception")


def build_replication(details: Mapping[PhaseName, Facts]) -> ReplicationView | None:
    """None where the run did not replicate."""
    detail = details.get(PhaseName.REPLICATE)
    if detail is None:
        return None
    repair = details.get(PhaseName.REPAIR, {})
    outcomes = _counts(repair, "outcomes")
    agreed = sum(count for name, count in outcomes.items() if name in _AGREE)
    only_offsets = facts.text(detail, "only_offsets")
    listed = detail.get("sentinels")
    return ReplicationView(
        facts.integer(detail, "full_syncs"),
        facts.integer(detail, "restarts"),
        _counts(detail, "dropped"),
        tuple(item for item in listed if isinstance(item, int)) if isinstance(listed, list) else (),
        masked_text(only_offsets) if only_offsets else None,
        facts.truth(detail, "attached") is True,
        _counts(repair, "causes"),
        agreed if repair else None,
        sum(outcomes.values()) - agreed if repair else None,
    )


def _counts(detail: Facts, name: str) -> dict[str, int]:
    table = facts.table(detail, name)
    return {plain_text(item): count for item in table if (count := facts.integer(table, item)) is not None}
