"""A run from its beginning to its verdict: check, snapshot, stream, verify.

:class:`Run` is what the command line and the flows drive; each method is one phase, recorded in the ledger before and
after.  Whatever goes wrong inside :meth:`Run.recorded` ends the run in the ledger before it goes on to the caller.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from integrity.checksum import Fingerprint
from integrity.endpoint import Endpoint, Identity
from integrity.errors import ConfigurationError, GreenflyError, Interrupted, Refused, StopSignal
from integrity.kinds.base import plural
from integrity.ledger import Ledger, RunHandle, models
from integrity.ledger.models import (
    FindingClass,
    FindingState,
    PhaseName,
    PhaseState,
    RunKind,
    RunState,
    Verdict,
)
from integrity.ledger.store import CheckpointState, NewFinding
from integrity.meter import Meter
from integrity.progress import Progress
from integrity.settings import ConflictPolicy, Settings
from integrity.snapshot.create import Snapshot, SnapshotTaker, remove_partial
from integrity.transfer.copy import Copier, CopyTotals
from integrity.verify.compare import Comparer
from integrity.verify.exceptions import ExceptionRules
from integrity.verify.recheck import Rechecker
from integrity.verify.verdict import Conclusion, Coverage, conclude


@dataclass(frozen=True, slots=True)
class Servers:
    """Both servers as the check phase saw them."""

    source: Endpoint
    target: Endpoint
    source_identity: Identity
    target_identity: Identity
    databases: tuple[int, ...]
    """The databases this run is about, ascending."""


def stored_policy(settings: Mapping[str, object]) -> ConflictPolicy:
    """The conflict policy in a run's recorded settings."""
    copying = settings.get("copy")
    return ConflictPolicy(str(copying["conflict"])) if isinstance(copying, Mapping) else ConflictPolicy.FAIL


class Run:
    """One run, owned by this process."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        handle: RunHandle,
        kind: RunKind,
        progress: Progress,
        *,
        resumed: models.Run | None = None,
    ) -> None:
        self.settings = settings
        self.ledger = ledger
        self.handle = handle
        self.kind = kind
        self._progress = progress
        self._conclusion: Conclusion | None = None
        self._resumed = resumed
        """The run as its earlier owner left it."""

    @classmethod
    def start(
        cls,
        settings: Settings,
        ledger: Ledger,
        kind: RunKind,
        progress: Progress,
        flow_run_id: str | None = None,
    ) -> Self:
        """Record a new run."""
        return cls(settings, ledger, ledger.start_run(kind, settings, flow_run_id), kind, progress)

    @classmethod
    def resume(cls, settings: Settings, ledger: Ledger, progress: Progress) -> Self:
        """Take over the newest run between the two addresses of *settings* that began to copy and broke off.

        It goes on under the conflict policy that it was started with.

        :raises Refused: there is none, or another process still owns it.
        """
        source = Endpoint.from_settings("source", settings.source)
        target = Endpoint.from_settings("target", settings.target)
        broken = ledger.unfinished_copy(str(source), str(target))
        if broken is None:
            raise Refused(
                f"No run from {source} to {target} broke off while it copied.", "Start one without --resume."
            )
        policy = stored_policy(broken.settings)
        settings = settings.model_copy(
            update={"copying": settings.copying.model_copy(update={"conflict": policy})}
        )
        handle = ledger.take_over(broken.id, settings.lease_seconds)
        progress.say(f"Resuming run {broken.id}.")
        return cls(settings, ledger, handle, RunKind.MIGRATE, progress, resumed=broken)

    @property
    def id(self) -> str:
        """The run's id in the ledger."""
        return self.handle.id

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """End the run in the ledger, whatever happens inside.

        :raises Interrupted: Ctrl-C, or a signal to end.
        """
        try:
            yield
        except KeyboardInterrupt as error:
            number = error.signal_number if isinstance(error, StopSignal) else signal.SIGINT
            interrupted = Interrupted(number)
            self._ended_badly(RunState.INTERRUPTED, "Interrupted", interrupted.problem)
            raise interrupted from error
        except GreenflyError as error:
            self._ended_badly(RunState.FAILED, type(error).__name__, str(error))
            raise
        except BaseException as error:
            # A defect: its text may hold anything, so only its kind goes into the ledger.
            self._ended_badly(
                RunState.FAILED, type(error).__name__, "an unexpected error; see the log of this run"
            )
            raise
        conclusion = self._conclusion
        self.handle.finish(
            RunState.FINISHED,
            verdict=conclusion.verdict if conclusion else None,
            reason=conclusion.reason if conclusion else None,
        )

    def _ended_badly(self, state: RunState, kind: str, text: str) -> None:
        due = self.kind is not RunKind.SNAPSHOT
        self.handle.finish(
            state,
            verdict=Verdict.INCONCLUSIVE if due else None,
            reason=f"The run did not reach its end: {text}" if due else None,
            error_kind=kind,
            error=text,
        )

    # -- check --------------------------------------------------------------------------------------------------

    def check_source(self) -> tuple[Endpoint, Identity, tuple[int, ...]]:
        """Reach the source alone (for a snapshot) and record it."""
        with self._phase(PhaseName.CHECK) as detail:
            source = Endpoint.from_settings("source", self.settings.source)
            identity = source.identify()
            databases = self._databases(source, identity, None)
            self.handle.identify(
                source=identity.to_dict(), target=None, source_address=str(source), target_address=None
            )
            detail["databases"] = list(databases)
        return source, identity, databases

    def check(self) -> Servers:
        """Reach both servers, record who they are, and refuse what cannot go well.

        :raises Refused: source and target are the same server, or the target holds keys against the policy.
        :raises ServerError: a server is not reachable, not ready, read-only, or refuses the credentials.
        """
        settings = self.settings
        with self._phase(PhaseName.CHECK) as detail:
            source = Endpoint.from_settings("source", settings.source)
            target = Endpoint.from_settings("target", settings.target)
            if source.address.database is not None or target.address.database is not None:
                self._require_same_database(source, target)
            source_identity, target_identity = source.identify(), target.identify()
            self._require_two_servers(source, target, source_identity, target_identity)
            databases = self._databases(source, source_identity, target_identity)
            self.handle.identify(
                source=source_identity.to_dict(),
                target=target_identity.to_dict(),
                source_address=str(source),
                target_address=str(target),
            )
            detail["databases"] = list(databases)
            if self.kind is RunKind.MIGRATE:
                target.require_writable()
                self._require_databases(target, databases)
                if self._resumed is None:
                    self._require_empty(source, target, target_identity)
                detail["conflict"] = settings.copying.conflict.value
        return Servers(source, target, source_identity, target_identity, databases)

    def _databases(
        self, source: Endpoint, source_id: Identity, target_id: Identity | None
    ) -> tuple[int, ...]:
        if self.settings.databases is not None:
            return tuple(sorted(set(self.settings.databases)))
        if source.address.database is not None:
            return (source.address.database,)
        return tuple(sorted({*source_id.databases, *(target_id.databases if target_id else {})}))

    def _require_same_database(self, source: Endpoint, target: Endpoint) -> None:
        """Keys keep their database number; a URL that asks for another one is refused, not ignored."""
        if target.address.database not in (None, source.address.database):
            raise ConfigurationError(
                f"The target URL names database {target.address.database}, the source URL "
                f"{'none' if source.address.database is None else source.address.database}.",
                "Keys keep their database number in this version: name the same one in both, or none in the target.",
            )

    def _require_two_servers(
        self, source: Endpoint, target: Endpoint, ours: Identity, theirs: Identity
    ) -> None:
        same_place = (
            source.address.scheme,
            source.address.host,
            source.address.port,
            source.address.path,
        ) == (
            target.address.scheme,
            target.address.host,
            target.address.port,
            target.address.path,
        )
        if same_place or (ours.run_id and ours.run_id == theirs.run_id):
            raise Refused(
                f"Source {source} and target {target} are the same server.", "Give two different servers."
            )

    def _require_databases(self, target: Endpoint, databases: tuple[int, ...]) -> None:
        """Select each database once, so that one too many is known before the first write."""
        with target.connect("check") as connection:
            for database in databases:
                try:
                    connection.select(database)
                except GreenflyError as error:
                    raise Refused(
                        f"Target {target} has no database {database} ({error}).",
                        "Start it with more databases (--databases on Redis, --dbnum on Dragonfly), "
                        "or leave that one out with --databases.",
                    ) from error

    def _require_empty(self, source: Endpoint, target: Endpoint, identity: Identity) -> None:
        if self.settings.copying.conflict is not ConflictPolicy.FAIL or not identity.keys:
            return
        held = ", ".join(f"{plural(keys, 'key')} in database {n}" for n, keys in identity.databases.items())
        earlier = self.ledger.unfinished_copy(str(source), str(target))
        if earlier is not None:
            remedy = (
                f"Run {earlier.id} began to copy this source here and did not finish, so they are probably its keys: "
                "go on with --resume."
            )
        else:
            remedy = (
                "Empty it, or choose --conflict replace (overwrite) or --conflict skip (keep the target's)."
            )
        raise Refused(f"Target {target} is not empty: it holds {held}.", remedy)

    # -- snapshot -----------------------------------------------------------------------------------------------

    def snapshot(self, source: Endpoint, identity: Identity, databases: tuple[int, ...]) -> Snapshot:
        """Take a snapshot of the source.

        :raises LedgerError: the snapshot folder cannot be written.
        """
        expected = sum(identity.databases.get(database, 0) for database in databases)
        remove_partial(self.settings.snapshot_dir / self.id)
        with self._phase(PhaseName.SNAPSHOT, expected) as detail:
            meter = Meter(self.handle, PhaseName.SNAPSHOT, self._progress)
            taker = SnapshotTaker(
                source,
                identity,
                self.settings.snapshot_dir / self.id,
                batch_keys=self.settings.snapshot.batch_keys,
                on_progress=meter.advance,
            )
            snapshot = taker.take(list(databases))
            totals = snapshot.totals
            detail.update(
                meter.finish()
                | {
                    "keys": totals.keys,
                    "bytes": totals.body_bytes,
                    "directory": str(snapshot.directory),
                    "rdb_version": snapshot.rdb_version,
                    "rdb_bytes": snapshot.rdb_bytes,
                    "duplicates": totals.duplicates,
                    "vanished": totals.vanished,
                    "uncompared": totals.uncompared,
                    "fingerprints": {
                        str(database): totals.fingerprints.get(database, Fingerprint()).hex()
                        for database in databases
                    },
                }
            )
            self.handle.tally(PhaseName.SNAPSHOT, totals.tallies)
            for name, path in (
                ("rdb", snapshot.rdb),
                ("manifest", snapshot.manifest),
                ("header", snapshot.header),
            ):
                self.ledger.add_artifact(self.id, name, path)
        return snapshot

    @property
    def has_snapshot(self) -> bool:
        """Whether an earlier attempt of this run took its snapshot."""
        return any(
            p.name is PhaseName.SNAPSHOT and p.state is PhaseState.DONE for p in self.ledger.phases(self.id)
        )

    # -- stream -------------------------------------------------------------------------------------------------

    def stream(self, servers: Servers) -> None:
        """Copy every key of every database from source to target.

        :raises ServerError: a server is lost, full, read-only or refuses; everything acknowledged is checkpointed.
        """
        identity = servers.source_identity
        expected = sum(identity.databases.get(database, 0) for database in servers.databases)
        with self._phase(PhaseName.STREAM, expected) as detail:
            copied = self._copied_before(servers)
            totals = self._counted_before() if copied else CopyTotals()
            meter = Meter(
                self.handle,
                PhaseName.STREAM,
                self._progress,
                every=lambda: self.handle.tally(PhaseName.STREAM, totals.tallies),
            )

            def checkpoint(state: CheckpointState) -> None:
                self.handle.checkpoint(PhaseName.STREAM, identity.run_id, state)

            def findings(found: list[NewFinding]) -> None:
                self.handle.add_findings(PhaseName.STREAM, found)

            copier = Copier(
                servers.source,
                servers.target,
                identity,
                servers.target_identity,
                self.settings.copying,
                run_id=self.id,
                broken_runs=[self.id, *self.ledger.broken_runs(str(servers.target))],
                totals=totals,
                on_checkpoint=checkpoint,
                on_findings=findings,
                on_progress=meter.advance,
            )
            try:
                for database in servers.databases:
                    before = copied.get(database)
                    if before is None or not before.done:
                        copier.copy_database(database, before)
            finally:
                # Also for a copy that broke off: the ledger tells what reached the target.
                detail.update(
                    meter.finish()
                    | {
                        "keys": totals.written,
                        "bytes": totals.size,
                        "written": totals.written,
                        "skipped": totals.skipped,
                        "refused": totals.refused,
                        "relabelled": totals.relabelled,
                        "vanished": totals.vanished,
                        "batches": totals.batches,
                    }
                )
                self.handle.tally(PhaseName.STREAM, totals.tallies)
            if totals.refused:
                self._progress.say(f"The target refused {totals.refused:,} keys; each is a finding.")

    def _copied_before(self, servers: Servers) -> dict[int, CheckpointState]:
        """Where a resumed run goes on, by database; nothing where it has to begin again."""
        if self._resumed is None:
            return {}
        restarted = [
            endpoint
            for endpoint, now, then in (
                (servers.source, servers.source_identity, self._resumed.source),
                (servers.target, servers.target_identity, self._resumed.target),
            )
            if now.run_id != (then or {}).get("run_id")
        ]
        if restarted:
            names = " and ".join(f"{endpoint.role} {endpoint}" for endpoint in restarted)
            text = f"{names} restarted since: its cursors are void, so every database is copied from the beginning."
            self._progress.say(text)
            self.handle.event("ranges.restarted", {"reason": text})
            return {}
        return {
            row.database: CheckpointState(
                row.database, int(row.cursor), row.batches, row.keys, row.bytes, row.done
            )
            for row in self.ledger.checkpoints(self.id, PhaseName.STREAM)
        }

    def _counted_before(self) -> CopyTotals:
        """What earlier attempts counted, to the second in which they were killed."""
        totals = CopyTotals()
        for row in self.ledger.tallies(self.id):
            if row.phase is PhaseName.STREAM:
                totals.tallies[row.database, row.kind] = (row.keys, row.bytes)
        totals.written = sum(keys for keys, _ in totals.tallies.values())
        totals.size = sum(size for _, size in totals.tallies.values())
        for (finding_class, _), count in self.ledger.finding_counts(self.id).items():
            totals.refused += count if finding_class is FindingClass.REFUSED else 0
            totals.skipped += count if finding_class is FindingClass.SKIPPED else 0
        totals.batches = sum(row.batches for row in self.ledger.checkpoints(self.id, PhaseName.STREAM))
        return totals

    # -- verify -------------------------------------------------------------------------------------------------

    def verify(self, servers: Servers) -> Conclusion:
        """Read every key back from both servers, compare, re-check what differs, and conclude.

        :raises ServerError: a server is lost or refuses; the verdict is INCONCLUSIVE.
        """
        settings = self.settings.verify
        before_source, before_target = servers.source.identify(), servers.target.identify()
        present = sum(before_source.databases.get(database, 0) for database in servers.databases)
        rules = ExceptionRules(self.ledger, self.id, self.settings)
        with self._phase(PhaseName.VERIFY, present) as detail:
            meter = Meter(self.handle, PhaseName.VERIFY, self._progress)

            def checkpoint(state: CheckpointState) -> None:
                self.handle.checkpoint(PhaseName.VERIFY, before_source.run_id, state)

            def findings(found: list[NewFinding]) -> None:
                self.handle.add_findings(PhaseName.VERIFY, rules.apply(found))

            comparer = Comparer(
                servers.source,
                servers.target,
                before_source,
                before_target,
                settings,
                on_findings=findings,
                on_checkpoint=checkpoint,
                on_progress=meter.advance,
            )
            for database in servers.databases:
                comparer.compare_database(database)
            rechecker = Rechecker(
                servers.source,
                servers.target,
                before_source,
                before_target,
                settings,
                ledger=self.ledger,
                run=self.handle,
                rules=rules,
            )
            rechecks = settled = 0
            for _ in range(settings.rechecks):
                time.sleep(settings.recheck_delay if rechecks or self._open_findings() else 0)
                looked, gone = rechecker.recheck()
                settled += gone
                if not looked:
                    break
                rechecks += 1
            totals = comparer.totals
            counts = self.ledger.finding_counts(self.id)
            unreadable = counts.get((FindingClass.UNREADABLE, FindingState.OPEN), 0)
            limited = self.settings.databases is not None or servers.source.address.database is not None
            coverage = Coverage(
                present,
                totals.scanned - totals.vanished - unreadable,
                totals.target_scanned,
                servers.databases if limited else None,
            )
            detail.update(
                meter.finish()
                | {
                    "keys": totals.scanned,
                    "bytes": meter.size,
                    "source_keys": present,
                    "target_keys": sum(
                        before_target.databases.get(database, 0) for database in servers.databases
                    ),
                    "compared": coverage.compared,
                    "equal": totals.equal_keys,
                    "vanished": totals.vanished,
                    "unreadable": unreadable,
                    "target_scanned": totals.target_scanned,
                    "extra": sum(
                        n
                        for (c, state), n in counts.items()
                        if c is FindingClass.EXTRA and state is not FindingState.SETTLED
                    ),
                    "rechecks": rechecks,
                    "settled": settled,
                    "expiry_tolerance_ms": settings.expiry_tolerance_ms,
                    "max_expiry_drift_ms": totals.max_expiry_drift_ms,
                    "fingerprints": totals.fingerprints(),
                }
            )
            self.handle.tally(PhaseName.VERIFY, {place: (keys, 0) for place, keys in totals.tallies.items()})
            self._require_same_processes(servers, before_source, before_target)
            self._conclusion = conclude(coverage, counts)
        return self._conclusion

    def _open_findings(self) -> bool:
        return bool(self.ledger.findings(self.id, limit=1))

    def _require_same_processes(self, servers: Servers, source: Identity, target: Identity) -> None:
        """A server that restarted under the comparison made its cursors void; nothing may be concluded from them."""
        for endpoint, before in ((servers.source, source), (servers.target, target)):
            now = endpoint.identify()
            if now.run_id != before.run_id:
                raise Refused(
                    f"{endpoint.role.capitalize()} {endpoint} restarted while it was compared.",
                    "Run verify again.",
                )

    # -- shared -------------------------------------------------------------------------------------------------

    @contextmanager
    def _phase(self, name: PhaseName, keys_expected: int = 0) -> Iterator[dict[str, object]]:
        """Record a phase around the block; the dictionary it hands over becomes the phase's detail."""
        detail: dict[str, object] = {}
        self.handle.phase_started(name, keys_expected)
        self._progress.phase(name.value, keys_expected)
        state = PhaseState.FAILED
        try:
            yield detail
            state = PhaseState.DONE
        finally:
            self._progress.phase_ended()
            keys, size = detail.pop("keys", 0), detail.pop("bytes", 0)
            self.handle.phase_ended(
                name,
                state,
                keys=keys if isinstance(keys, int) else 0,
                size=size if isinstance(size, int) else 0,
                detail=detail,
            )
