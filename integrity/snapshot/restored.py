"""A restore from its checks to its verdict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from integrity.cluster.changed import require_same_masters
from integrity.endpoint import Endpoint
from integrity.ledger import Ledger
from integrity.ledger.models import Verdict
from integrity.progress import Progress
from integrity.settings import Settings
from integrity.snapshot.artifact import Artifact
from integrity.snapshot.catalog import recorded_hashes
from integrity.snapshot.check import inspect_snapshot, require_whole
from integrity.snapshot.prove import Proof, judge, prove_restored
from integrity.snapshot.restore import Restorer, check_target
from integrity.snapshot.sealing import load_keys
from integrity.snapshot.totals import RestoreTotals
from integrity.verify.look import BigValues


@dataclass(frozen=True, slots=True)
class RestoreOutcome:
    """What a restore did and what it proved."""

    directory: Path
    target: str
    """Masked address."""
    target_engine: str
    verdict: Verdict
    reason: str
    totals: RestoreTotals
    proof: Proof
    seconds: float

    def counts(self) -> dict[str, int]:
        """Keys by what became of them, and the bytes written."""
        return {
            "written": self.totals.written,
            "skipped": self.totals.skipped,
            "refused": len(self.totals.refused),
            "left_out": self.totals.left_out,
            "relabelled": self.totals.relabelled,
            "downgraded": self.totals.downgraded,
            "in_pieces": self.totals.in_pieces,
            "rewritten": self.totals.rewritten,
            "not_carried": self.totals.not_carried,
            "bytes": self.totals.size,
            "equal": self.proof.equal,
            "expired": self.proof.expired,
            "differing": self.proof.differing,
            "unproven": self.proof.unproven,
        }


def restore_snapshot(
    settings: Settings, directory: Path, ledger: Ledger | None, progress: Progress
) -> RestoreOutcome:
    """Check the target and the snapshot, write it, and read every key back.

    Target, conflict policy and databases are those of *settings*.

    :param ledger: where the restore is recorded; None where it is out of reach.
    :raises ArtifactError: the snapshot is damaged or cannot be opened; nothing was written.
    :raises Refused: the target holds keys and the policy is ``fail``, or it lacks a database; nothing was written.
    :raises ServerError: the target is lost, full, read-only or refuses.
    """
    started = monotonic()
    target = Endpoint.from_settings("target", settings.target)
    databases = frozenset(settings.databases) if settings.databases is not None else None
    keys = load_keys(settings.snapshot)
    artifact = Artifact.open(directory, keys)
    header = artifact.header
    identity = check_target(target, header, settings.copying.conflict, databases)

    progress.phase("check", header.keys)
    recorded = recorded_hashes(ledger, directory) if ledger is not None else None
    inspection = inspect_snapshot(directory, keys, recorded=recorded, on_progress=progress.advance)
    progress.phase_ended()
    require_whole(inspection, directory)
    for sentence in header.foreign.left_behind() if header.foreign is not None else ():
        progress.say(sentence)

    facts = {"snapshot": directory.resolve().name, "directory": str(directory), "target": str(target)}
    if ledger is not None:
        ledger.record_event("snapshot.restore_started", facts)
    expected = sum(
        entry.keys for number, entry in header.databases.items() if databases is None or number in databases
    )
    progress.phase("restore", expected)
    totals = Restorer(
        artifact,
        target,
        identity,
        conflict=settings.copying.conflict,
        databases=databases,
        batch_keys=settings.copying.batch_keys,
        big_values=settings.big_values,
        on_progress=progress.advance,
    ).restore()
    progress.phase_ended()

    progress.phase("prove", expected - len(totals.not_written))
    proof = prove_restored(
        artifact,
        target,
        identity,
        totals,
        databases=databases,
        tolerance_ms=settings.verify.expiry_tolerance_ms,
        big=BigValues.of(settings.big_values),
        on_progress=progress.advance,
    )
    require_same_masters(target, identity)
    progress.phase_ended()

    verdict, reason = judge(totals, proof)
    outcome = RestoreOutcome(
        directory, str(target), identity.title, verdict, reason, totals, proof, monotonic() - started
    )
    if ledger is not None:
        ledger.record_event("snapshot.restored", {**facts, **outcome.counts(), "verdict": verdict.value})
    return outcome
