"""Proving a restore: every key is read back from the target and held against the manifest.

The manifest's digests were made from what the source answered when the snapshot was taken, so this also proves that
the bodies in the RDB file mean what they should, on this server.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from integrity.endpoint import Endpoint, Identity
from integrity.expiry import NO_EXPIRY, TIME_COMMAND, clock_ms
from integrity.ledger.models import Verdict
from integrity.replies import ErrorReply
from integrity.snapshot.artifact import Artifact
from integrity.snapshot.manifest import ManifestRow
from integrity.snapshot.totals import RestoreTotals
from integrity.verify.look import BigValues, Look, look
from integrity.wire import Connection

_BATCH_KEYS: Final = 500
_BATCH_BYTES: Final = 4 * 1024 * 1024
_MOST_LISTED: Final = 1_000


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A key on the target that is not what the manifest says."""

    database: int
    key: bytes
    kind: str
    what: str
    """``missing``, ``type``, ``value``, ``expiry`` or ``unreadable``."""
    detail: str


@dataclass(slots=True)
class Proof:
    """What reading everything back found, growing while it runs."""

    keys: int = 0
    """Keys of the manifest that were looked at."""
    equal: int = 0
    expired: int = 0
    """Keys that the target no longer has because their time has come."""
    unproven: int = 0
    """Keys that are there, of the right type, whose value could not be compared."""
    differing: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)
    """The first thousand."""

    def add(self, mismatch: Mismatch) -> None:
        """Note one difference."""
        if mismatch.what == "unreadable":
            self.unproven += 1
        else:
            self.differing += 1
        if len(self.mismatches) < _MOST_LISTED:
            self.mismatches.append(mismatch)


def prove_restored(
    artifact: Artifact,
    target: Endpoint,
    identity: Identity,
    totals: RestoreTotals,
    *,
    databases: Collection[int] | None,
    tolerance_ms: int,
    big: BigValues,
    on_progress: Callable[[int, int], None],
) -> Proof:
    """Read back every key that was written.

    :param totals: what the restore did; keys that it skipped or the target refused are not looked at.
    :param tolerance_ms: how far apart two expiries may be.
    :raises ServerError: the target is lost or refuses.
    """
    proof = Proof()
    with artifact.open_manifest() as manifest, target.connect("restore") as connection:
        for batch in _batches(manifest, totals.not_written, databases):
            connection.select(batch[0].database)
            _compare(connection, batch, proof, identity.has_pexpiretime, tolerance_ms, big)
            on_progress(len(batch), sum(row.length for row in batch))
    return proof


def _batches(
    manifest: Iterable[ManifestRow],
    not_written: Sequence[int],
    databases: Collection[int] | None,
) -> Iterator[list[ManifestRow]]:
    batch: list[ManifestRow] = []
    size = 0
    left_out = iter(not_written)
    next_left_out = next(left_out, None)
    for number, row in enumerate(manifest):
        if number == next_left_out:
            next_left_out = next(left_out, None)
            continue
        if databases is not None and row.database not in databases:
            continue
        if batch and (
            row.database != batch[0].database or len(batch) >= _BATCH_KEYS or size + row.length > _BATCH_BYTES
        ):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += row.length
    if batch:
        yield batch


def _compare(
    connection: Connection,
    batch: Sequence[ManifestRow],
    proof: Proof,
    absolute: bool,
    tolerance_ms: int,
    big: BigValues,
) -> None:
    looks = look(connection, [row.key for row in batch], absolute=absolute, big=big)
    proof.keys += len(batch)
    # The clock is asked last: whatever was gone when its key was looked at is due now.
    connection.send(TIME_COMMAND)
    reply = connection.receive()
    if isinstance(reply, ErrorReply):
        raise connection.error_for(reply, "TIME")
    now_ms = clock_ms(reply)
    for row, seen in zip(batch, looks, strict=True):
        due = row.expiry_ms is not None and row.expiry_ms <= now_ms + tolerance_ms
        if not seen.present and due:
            proof.expired += 1
        elif (what := _difference(row, seen, tolerance_ms)) is not None:
            proof.add(Mismatch(row.database, row.key, row.kind, *what))
        else:
            proof.equal += 1


def _difference(row: ManifestRow, seen: Look, tolerance_ms: int) -> tuple[str, str] | None:
    """What is wrong with one key, in two words and in some more; None where nothing is."""
    if not seen.present:
        return "missing", "the target does not have this key"
    if seen.kind_name != row.kind:
        return "type", f"the target holds a {seen.kind_name}, the snapshot a {row.kind}"
    told = seen.expiry_ms if seen.expiry_ms is not None else NO_EXPIRY
    meant = row.expiry_ms if row.expiry_ms is not None else NO_EXPIRY
    if (told == NO_EXPIRY) != (meant == NO_EXPIRY) or abs(told - meant) > tolerance_ms:
        return "expiry", f"it expires at {_time(told)} on the target, at {_time(meant)} in the snapshot"
    if row.digest is None:
        return "unreadable", "the snapshot holds no digest of this type"
    if seen.digest is None:
        return "unreadable", seen.problem or "the target's value could not be read"
    return None if seen.digest == row.digest else ("value", "the value is another one")


def _time(expiry_ms: int) -> str:
    return "no time" if expiry_ms == NO_EXPIRY else f"{expiry_ms:,} ms"


def judge(totals: RestoreTotals, proof: Proof) -> tuple[Verdict, str]:
    """The verdict on a restore, and why."""
    if proof.differing or totals.refused:
        return Verdict.FAIL, (
            f"{len(totals.refused):,} keys were refused and {proof.differing:,} differ from the snapshot"
        )
    if proof.unproven:
        return Verdict.INCONCLUSIVE, f"{proof.unproven:,} keys could not be compared"
    if not proof.equal:
        return Verdict.INCONCLUSIVE, "no key was compared"
    expired = f", {proof.expired:,} have expired" if proof.expired else ""
    if totals.not_carried:
        return Verdict.PASS_WITH_EXCEPTIONS, (
            f"{proof.equal:,} keys equal the snapshot{expired}, but for what typed commands do not carry of "
            f"{totals.not_carried:,} streams"
        )
    if totals.skipped:
        return Verdict.PASS_WITH_EXCEPTIONS, (
            f"{proof.equal:,} keys equal the snapshot{expired}; "
            f"{totals.skipped:,} that the target had before were kept"
        )
    return Verdict.PASS, f"all {proof.equal:,} keys equal the snapshot{expired}"
