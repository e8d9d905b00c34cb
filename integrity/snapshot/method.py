"""Which way a snapshot is taken, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from integrity.endpoint import Endpoint, Identity
from integrity.errors import PermissionRefused, Refused
from integrity.pace import Pace
from integrity.progress import Progress
from integrity.replication.receive import BY_SCAN, Received
from integrity.settings import Settings, SnapshotMethod
from integrity.snapshot.by_replication import ReplicationTaker
from integrity.snapshot.create import SnapshotTaker
from integrity.snapshot.writer import Snapshot


@dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot and how it came about."""

    snapshot: Snapshot
    method: SnapshotMethod
    """``scan`` or ``replication``."""
    reason: str
    received: Received | None = None

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values, for the detail of the phase."""
        facts: dict[str, object] = {"method": self.method.value, "method_reason": self.reason}
        if self.received is not None:
            facts["received"] = {
                "bytes": self.received.bytes,
                "seconds": self.received.seconds,
                "waited_seconds": self.received.waited_seconds,
                "diskless": self.received.diskless,
                "replication_id": self.received.replication_id,
                "replication_offset": self.received.offset,
            }
        foreign = self.snapshot.foreign
        if foreign is not None:
            facts["functions"] = list(foreign.functions)
            facts["module_data"] = list(foreign.module_data)
        return facts


def take_snapshot(
    settings: Settings,
    source: Endpoint,
    identity: Identity,
    directory: Path,
    databases: Sequence[int],
    *,
    pace: Pace,
    on_progress: Callable[[int, int], None],
    progress: Progress,
) -> Taken:
    """Take one snapshot the way that the settings ask for.

    :param databases: those that the run is about.
    :param pace: of a SCAN; what a server sends to a replica cannot be slowed down.
    :raises Refused: replication was asked for, and the source or the run does not allow it.
    :raises PermissionRefused: replication was asked for, and the user may not.
    :raises ServerError: the source is lost or refuses; nothing is left but a folder named ``….partial``.
    :raises LedgerError: the folder cannot be written.
    """
    method = settings.snapshot.method
    reason = "snapshot.method"
    if method is not SnapshotMethod.SCAN:
        obstacle = _obstacle(
            settings, source, identity, databases, asked=method is SnapshotMethod.REPLICATION
        )
        if obstacle is None:
            try:
                taker = ReplicationTaker(
                    source,
                    identity,
                    directory,
                    encrypt_to=settings.snapshot.encrypt_to,
                    on_progress=on_progress,
                    progress=progress,
                )
                snapshot = taker.take()
                why = reason if method is SnapshotMethod.REPLICATION else "the source allows replication"
                return Taken(snapshot, SnapshotMethod.REPLICATION, why, taker.received)
            except (Refused, PermissionRefused) as error:
                if method is SnapshotMethod.REPLICATION:
                    raise
                obstacle = error.problem
        elif method is SnapshotMethod.REPLICATION:
            raise Refused(obstacle, BY_SCAN)
        reason = obstacle
        progress.say(f"Taking the snapshot by SCAN: {reason}")
    snapshot = SnapshotTaker(
        source,
        identity,
        directory,
        batch_keys=settings.snapshot.batch_keys,
        encrypt_to=settings.snapshot.encrypt_to,
        big_values=settings.big_values,
        pace=pace,
        on_progress=on_progress,
    ).take(list(databases))
    return Taken(snapshot, SnapshotMethod.SCAN, reason)


def _obstacle(
    settings: Settings, source: Endpoint, identity: Identity, databases: Sequence[int], *, asked: bool
) -> str | None:
    """Why a stream of everything is not what this run wants; None where nothing is in the way."""
    if identity.is_cluster:
        return f"Source {source} is a cluster, and each of its masters sends a stream of its own."
    if identity.engine == "dragonfly":
        return f"Source {source} does not replicate to others than its own kind (Dragonfly)."
    if identity.mode == "cluster":
        return f"The keys of source {source} lie on several servers, and each sends its own alone (Redis Cluster)."
    others = sorted(set(identity.databases) - set(databases))
    if others:
        return (
            f"The run is limited to database {', '.join(map(str, databases))}, and what source {source} sends to a "
            "replica holds all its databases."
        )
    throttle = settings.throttle
    if not asked and (throttle.keys_per_second or throttle.bytes_per_second):
        return "The run has a cap on keys or bytes per second, and what a server sends to a replica cannot be slowed."
    return None
