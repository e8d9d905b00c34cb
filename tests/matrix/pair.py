"""One real migration from one server to another, and what its ledger says about each key."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flows.sequence import migrate
from integrity.ledger import open_ledger
from integrity.ledger.models import FindingState
from integrity.progress import Silent
from integrity.settings import Settings, load_settings
from tests.matrix.servers import Server
from tests.raw import Raw

BIG_BYTES: Final = 256 * 1024
"""Cases marked as big use more memory than this, all others less."""
_OVERRIDES: Final = {
    "assess": {"enabled": False},
    "snapshot": {"enabled": False},
    "big_values": {"threshold_bytes": BIG_BYTES, "piece_bytes": 32 * 1024, "piece_elements": 500},
    "verify": {"recheck_delay": 0.05},
    "throttle": {"enabled": False},
}


@dataclass(frozen=True, slots=True)
class Recorded:
    """A finding of the ledger that still stands when the run is over."""

    name: str
    """Its class."""
    rule: str | None
    """Set where it is an expected difference."""
    detail: str


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a run came to."""

    verdict: str
    findings: Mapping[bytes, tuple[Recorded, ...]]
    big: int
    """Keys that were copied in pieces because of their size."""


def migrate_pair(source: Server, target: Server) -> Migrated:
    """Empty *target*, then move everything that *source* holds there."""
    with Raw(target.url) as raw:
        raw(b"FLUSHALL")
    with tempfile.TemporaryDirectory(prefix="greenfly-matrix-") as folder:
        settings = _settings(source, target, Path(folder))
        outcome = migrate(settings, Silent())
        ledger = open_ledger(settings)
        try:
            found: dict[bytes, list[Recorded]] = {}
            for finding in ledger.findings(outcome.run_id):
                if finding.state is not FindingState.SETTLED:
                    recorded = Recorded(finding.finding_class.value, finding.rule, finding.detail or "")
                    found.setdefault(finding.key, []).append(recorded)
        finally:
            ledger.close()
    stream = next(phase for phase in outcome.phases if phase.name == "stream")
    big = stream.detail.get("big", 0)
    return Migrated(
        outcome.verdict.value if outcome.verdict else "none",
        {key: tuple(findings) for key, findings in found.items()},
        big if isinstance(big, int) else 0,
    )


def _settings(source: Server, target: Server, folder: Path) -> Settings:
    places = {"source": {"url": source.url}, "target": {"url": target.url}, "state_dir": folder}
    return load_settings({**_OVERRIDES, **places}, environ={}).settings
