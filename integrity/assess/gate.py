"""The assessment in the gate of a cutover: what can be asked in a moment, live, and what the newest assessment of the
same servers says about the keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from integrity.assess.model import Check, Result
from integrity.assess.registry import select_checks
from integrity.assess.runner import make_checks
from integrity.assess.subject import Subject
from integrity.assess.waivers import apply_waivers, pair
from integrity.endpoint import Endpoint, Identity
from integrity.ledger import Ledger
from integrity.ledger.assessments import newest_assessments, read_results
from integrity.ledger.waivers import read_waivers
from integrity.progress import Silent
from integrity.settings import Settings
from integrity.strategy import Strategy

_WATCH_SECONDS: Final = 0.2
"""How long latency is watched here; a cutover does not wait for more."""


@dataclass(frozen=True, slots=True)
class GateLook:
    """What the gate says."""

    open: tuple[Result, ...]
    """What blocks, and no waiver lets pass."""
    waived: tuple[Result, ...]
    made: int
    """Checks that were made now."""
    assessed_at: datetime | None
    """When the newest assessment of these servers was made; None where there is none."""


def look(
    settings: Settings, ledger: Ledger, blue: Endpoint, green: Endpoint, ours: Identity, theirs: Identity
) -> GateLook:
    """Make the checks that need no census, and take the others from the newest assessment.

    :raises ServerError: a server is gone.
    :raises ConfigurationError: ``assess.only`` or ``assess.skip`` name a check that there is not.
    """
    now = datetime.now(UTC)
    source, target = pair(settings)
    chosen = [
        check
        for check in select_checks(settings.assess.only, settings.assess.skip).chosen
        if check.at_cutover
    ]
    assess = settings.assess.model_copy(
        update={"watch_seconds": min(settings.assess.watch_seconds, _WATCH_SECONDS)}
    )
    subject = Subject(
        settings.model_copy(update={"assess": assess}),
        blue,
        green,
        ours,
        theirs,
        # Whatever road the keys came by, from here on Greenfly carries them.
        Strategy.COPY,
        tuple(sorted(ours.databases)),
        Silent(),
    )
    live = make_checks(subject, [check for check in chosen if not check.needs_census])
    kept, assessed_at = _about_keys(ledger, source, target, [check for check in chosen if check.needs_census])
    judged = apply_waivers((*live, *kept), read_waivers(ledger.engine, source, target), now)
    return GateLook(
        tuple(each.result for each in judged if each.open),
        tuple(each.result for each in judged if each.result.blocks and not each.open),
        len(live),
        assessed_at,
    )


def _about_keys(
    ledger: Ledger, source: str, target: str, checks: Sequence[Check]
) -> tuple[list[Result], datetime | None]:
    newest = newest_assessments(ledger.engine, source, target, limit=1)
    if not newest:
        return [], None
    wanted = {check.id for check in checks}
    results = [each.result for each in read_results(ledger.engine, newest[0].run_id)]
    return [result for result in results if result.check in wanted], newest[0].at
