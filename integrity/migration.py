"""A run from its beginning to its verdict: check, snapshot, stream or replicate, verify.

:class:`Run` is what the command line and the flows drive; each method is one phase, recorded in the ledger before and
after.  Whatever goes wrong inside :meth:`Run.recorded` ends the run in the ledger before it goes on to the caller.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic
from typing import Final, Self

from integrity.assess.choose import Choice
from integrity.checksum import Fingerprint
from integrity.cluster.limits import settings_for
from integrity.endpoint import Endpoint, Identity
from integrity.errors import (
    ConfigurationError,
    GreenflyError,
    Interrupted,
    Refused,
    ServerNotReady,
    StopSignal,
    Unfinished,
)
from integrity.keyspace import memory_usage_known
from integrity.kinds.base import plural
from integrity.ledger import Ledger, RunHandle, models
from integrity.ledger.models import PhaseName, PhaseState, RunKind, RunState, Verdict
from integrity.ledger.sync_board import read_status
from integrity.ledger.vocabulary import Direction
from integrity.meter import Meter
from integrity.native.attachment import Attachment
from integrity.native.shards import follows_source
from integrity.phases.assess import AssessPhase, choice_from_detail, choice_to_dict, choice_without
from integrity.phases.dropped import DroppedRepair
from integrity.phases.repair import RepairPhase
from integrity.phases.replicate import ReplicatePhase, has_attached
from integrity.phases.servers import Servers
from integrity.phases.stream import StreamPhase, identified_again
from integrity.phases.sync import SyncPhase
from integrity.phases.verify import VerifyPhase
from integrity.progress import Progress
from integrity.repair import open_findings
from integrity.replica import require_caught_up
from integrity.rules import Rules
from integrity.settings import ConflictPolicy, Settings
from integrity.snapshot.folder import remove_partial
from integrity.snapshot.method import take_snapshot
from integrity.snapshot.writer import Snapshot
from integrity.strategy import Strategy
from integrity.transfer.throttle import Throttle
from integrity.verify.verdict import Conclusion, Coverage

_LOADING_PAUSE: Final = 0.2


def settings_as_started(settings: Settings, run: models.Run) -> Settings:
    """*settings* with the conflict policy, the rules and the databases that an earlier run was started with.

    :raises LedgerError: its rules were recorded by a version with other rules.
    """
    recorded = run.settings
    copying = recorded.get("copy")
    policy = ConflictPolicy(str(copying["conflict"])) if isinstance(copying, Mapping) else ConflictPolicy.FAIL
    databases = recorded.get("databases")
    return settings.model_copy(
        update={
            "copying": settings.copying.model_copy(update={"conflict": policy}),
            "rules": Rules.from_recorded(recorded.get("rules")).settings,
            "databases": tuple(databases) if isinstance(databases, list) else None,
        }
    )


class _Listening:
    """Progress of a copy during which something else has to be done now and then."""

    def __init__(self, inner: Progress, now_and_then: Callable[[], None]) -> None:
        self._inner = inner
        self._now_and_then = now_and_then

    def phase(self, name: str, keys_expected: int) -> None:
        """Pass on."""
        self._inner.phase(name, keys_expected)

    def advance(self, keys: int, size: int) -> None:
        """Pass on, and do it."""
        self._inner.advance(keys, size)
        self._now_and_then()

    def say(self, text: str) -> None:
        """Pass on."""
        self._inner.say(text)

    def show(self, text: str) -> None:
        """Pass on."""
        self._inner.show(text)

    def phase_ended(self) -> None:
        """Pass on."""
        self._inner.phase_ended()


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
        self._rules = Rules.of(settings.rules)
        self._coverage: Coverage | None = None
        """Of the comparison, for what is concluded anew."""

    @classmethod
    def start(
        cls,
        settings: Settings,
        ledger: Ledger,
        kind: RunKind,
        progress: Progress,
        flow_run_id: str | None = None,
        *,
        parent: models.Run | None = None,
    ) -> Self:
        """Record a new run.

        :param parent: the run that this one repairs.
        """
        parent_id = parent.id if parent is not None else None
        handle = ledger.start_run(kind, settings, flow_run_id, parent_id=parent_id)
        return cls(settings, ledger, handle, kind, progress)

    @staticmethod
    def broken_off(
        settings: Settings, ledger: Ledger, kind: RunKind = RunKind.MIGRATE, source_name: str | None = None
    ) -> models.Run | None:
        """The newest run between the two addresses of *settings*, if it began to copy and did not finish.

        :param source_name: of a source that is no server.
        """
        source = source_name or str(Endpoint.from_settings("source", settings.source))
        target = Endpoint.from_settings("target", settings.target)
        return ledger.unfinished_copy(source, str(target), kind)

    @classmethod
    def resume(
        cls,
        settings: Settings,
        ledger: Ledger,
        progress: Progress,
        kind: RunKind = RunKind.MIGRATE,
        source_name: str | None = None,
    ) -> Self:
        """Take over the newest run between the two addresses of *settings* that began to copy and broke off.

        It goes on under the conflict policy, the rules and the databases that it was started with.

        :raises Refused: there is none, or another process still owns it.
        """
        broken = cls.broken_off(settings, ledger, kind, source_name)
        if broken is None:
            source = source_name or Endpoint.from_settings("source", settings.source)
            target = Endpoint.from_settings("target", settings.target)
            raise Refused(
                f"No run from {source} to {target} broke off while it copied.", "Start one without --resume."
            )
        settings = settings_as_started(settings, broken)
        handle = ledger.take_over(broken.id, settings.lease_seconds)
        progress.say(f"Resuming run {broken.id}.")
        return cls(settings, ledger, handle, kind, progress, resumed=broken)

    @property
    def id(self) -> str:
        """The run's id in the ledger."""
        return self.handle.id

    @property
    def resumed(self) -> models.Run | None:
        """The run as its earlier owner left it; None for a new one."""
        return self._resumed

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
            if self.kind is RunKind.REPAIR:
                interrupted.remedy = "What was repaired stays; the same command goes on with the rest."
            self._ended_badly(RunState.INTERRUPTED, "Interrupted", interrupted.problem)
            raise interrupted from error
        except Unfinished:
            self.handle.let_go()
            raise
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
        with self.phase(PhaseName.CHECK) as detail:
            source = Endpoint.from_settings("source", self.settings.source)
            source = self._reader(source)
            identity = source.identify()
            databases = self._databases(source, identity)
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
        with self.phase(PhaseName.CHECK) as detail:
            if self.kind is RunKind.SYNC:
                self._require_live()
            source = Endpoint.from_settings("source", self.settings.source)
            target = Endpoint.from_settings("target", self.settings.target)
            settings = self.settings = settings_for(self.settings, source.address, target.address)
            if source.address.database is not None or target.address.database is not None:
                self._require_same_database(source, target)
            reader = self._reader(source)
            source_identity, target_identity = reader.identify(), self._identify_target(target)
            self._require_two_servers(source, target, source_identity, target_identity)
            databases = self._databases(source, source_identity)
            self._require_sizes(reader)
            self.handle.identify(
                source=source_identity.to_dict(),
                target=target_identity.to_dict(),
                source_address=str(source),
                target_address=str(target),
            )
            detail["databases"] = list(databases)
            detail["rules"] = self._rules.describe()
            onto = self._target_databases(source, target_identity, databases)
            if self.kind not in {RunKind.VERIFY, RunKind.ASSESS}:
                attached = self._goes_on_natively(reader, target, target_identity)
                if not attached and (self.kind is not RunKind.SYNC or self._resumed is None):
                    # Behind a fence, a sync that is resumed writes as another user.
                    target.require_writable()
                self._require_databases(target, tuple(self._rules.target_databases(databases)))
            if self.kind in {RunKind.MIGRATE, RunKind.SYNC}:
                if not attached and (self._resumed is None or self._would_empty()):
                    self._require_empty(source, target, target_identity)
                detail["conflict"] = settings.copying.conflict.value
        return Servers(reader, target, source_identity, target_identity, databases, onto)

    def _identify_target(self, target: Endpoint) -> Identity:
        """Who the target is; one that replicates natively may be loading."""
        until = monotonic() + self.settings.reconnect_seconds
        while True:
            try:
                return target.identify()
            except ServerNotReady:
                if not self._is_native or monotonic() > until:
                    raise
            self.handle.wait(_LOADING_PAUSE)

    @property
    def _is_native(self) -> bool:
        """Whether the native road may be taken, or was."""
        return self.settings.strategy is not Strategy.COPY or self._begun(PhaseName.REPLICATE)

    def _goes_on_natively(self, source: Endpoint, target: Endpoint, identity: Identity) -> bool:
        """Whether the target is a replica of this source, as a killed run leaves it; then the road is settled."""
        if self.kind not in {RunKind.MIGRATE, RunKind.SYNC}:
            return False
        if not self._is_native or not follows_source(self.settings, source, target, identity):
            return False
        self.settings = self.settings.model_copy(update={"strategy": Strategy.NATIVE})
        return True

    def _would_empty(self) -> bool:
        """Whether this run, which is resumed, would be the first to empty the target."""
        return self._begun(PhaseName.REPLICATE) and not has_attached(self.ledger, self.id)

    def _reader(self, source: Endpoint) -> Endpoint:
        """The server that is read: the source, or its replica once that has caught up."""
        if self.settings.replica.url is None:
            return source
        replica = Endpoint.from_settings("source", self.settings.replica)
        require_caught_up(source, replica, self.settings.reconnect_seconds)
        self._progress.say(f"Reading from replica {replica}.")
        return replica

    def _databases(self, source: Endpoint, identity: Identity) -> tuple[int, ...]:
        if self.settings.databases is not None:
            return tuple(sorted(set(self.settings.databases)))
        if source.address.database is not None:
            return (source.address.database,)
        return tuple(sorted(identity.databases))

    def _target_databases(
        self, source: Endpoint, target: Identity, databases: tuple[int, ...]
    ) -> tuple[int, ...]:
        """Where keys go to, and, unless the run is limited to some databases, wherever the target holds keys."""
        onto = set(self._rules.target_databases(databases))
        if self.settings.databases is None and source.address.database is None:
            onto.update(target.databases)
        return tuple(sorted(onto))

    def _require_same_database(self, source: Endpoint, target: Endpoint) -> None:
        """A target URL that asks for another database than keys go to is refused, not ignored."""
        ours, theirs = source.address.database, target.address.database
        if theirs is not None and (ours is None or self._rules.target_database(ours) != theirs):
            raise ConfigurationError(
                f"The target URL names database {theirs}, the source URL {'none' if ours is None else ours}.",
                "Keys keep their database number unless --map-db maps it: name the same one in both, none in the "
                "target, or map it.",
            )

    def _require_live(self) -> None:
        """Refuse what following cannot honour."""
        if self.settings.copying.conflict is ConflictPolicy.SKIP:
            raise ConfigurationError(
                "Keys that the target keeps (--conflict skip) cannot be followed.",
                "Choose replace, or an empty target.",
            )
        if self.settings.replica.url is not None:
            raise ConfigurationError(
                "Changes are followed on the source itself, not on a replica.", "Leave --replica out."
            )

    def _require_sizes(self, source: Endpoint) -> None:
        """Refuse what needs the size of each key where that is not known."""
        if self.settings.throttle.bytes_per_second and not self.settings.copying.probe_sizes:
            raise ConfigurationError(
                "throttle.bytes_per_second needs the size of each key, and copy.probe_sizes is off.",
                "Switch copy.probe_sizes on, or cap keys per second instead.",
            )
        if not self._rules.needs_sizes:
            return
        with source.connect("check") as connection:
            if not memory_usage_known(connection):
                raise Refused(
                    f"Source {source} does not tell the size of a key, which the rules ask for.",
                    "Allow MEMORY USAGE for this user, or leave min_bytes and max_bytes out.",
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
                        "Start it with more databases (--databases on Redis, --dbnum on Dragonfly; a cluster has one), "
                        "leave that one out with --databases, or map it.",
                    ) from error

    def _require_empty(self, source: Endpoint, target: Endpoint, identity: Identity) -> None:
        if self.settings.copying.conflict is not ConflictPolicy.FAIL or not identity.keys:
            return
        held = ", ".join(f"{plural(keys, 'key')} in database {n}" for n, keys in identity.databases.items())
        earlier = self.ledger.unfinished_copy(str(source), str(target), self.kind)
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

    # -- assess -------------------------------------------------------------------------------------------------

    def assess(self, servers: Servers) -> Choice:
        """Look at both servers before anything is written, and choose the road; a run that goes on keeps its road.

        :raises Refused: something blocks, no waiver lets it pass, and this run would go on.
        :raises ServerError: a server is gone.
        """
        earlier = next((p for p in self.ledger.phases(self.id) if p.name is PhaseName.ASSESS), None)
        if self._resumed is not None and (
            earlier is None or earlier.state in {PhaseState.DONE, PhaseState.SKIPPED}
        ):
            return choice_from_detail(earlier.detail if earlier is not None else {})
        if self.kind is not RunKind.ASSESS and not self.settings.assess.enabled:
            choice = choice_without(self.settings)
            self.handle.phase_started(PhaseName.ASSESS)
            self.handle.phase_ended(PhaseName.ASSESS, PhaseState.SKIPPED, detail=choice_to_dict(choice))
            return choice
        phase = AssessPhase(self.settings, self.ledger, self.handle, self._progress)
        with self.phase(PhaseName.ASSESS) as detail:
            made = phase.run(servers, detail)
        if self.kind is RunKind.ASSESS:
            self._conclusion = made.conclusion
        else:
            phase.require_open(made)
        return made.choice

    # -- snapshot -----------------------------------------------------------------------------------------------

    def snapshot(self, source: Endpoint, identity: Identity, databases: tuple[int, ...]) -> Snapshot:
        """Take a snapshot of the source.

        :raises LedgerError: the snapshot folder cannot be written.
        :raises Refused: it is to come by replication, and the source does not allow it.
        """
        expected = sum(identity.databases.get(database, 0) for database in databases)
        remove_partial(self.settings.snapshot_dir / self.id)
        with self.phase(PhaseName.SNAPSHOT, expected) as detail:
            meter = Meter(self.handle, PhaseName.SNAPSHOT, self._progress)
            with Throttle(
                self.settings.throttle,
                self.settings.snapshot.batch_keys,
                endpoints=[source],
                run=self.handle,
                progress=self._progress,
                on_held=self.handle.telling_of(PhaseName.SNAPSHOT),
            ) as pace:
                taken = take_snapshot(
                    self.settings,
                    source,
                    identity,
                    self.settings.snapshot_dir / self.id,
                    databases,
                    pace=pace,
                    on_progress=meter.advance,
                    progress=self._progress,
                )
                detail["throttle"] = pace.summary()
            snapshot = taken.snapshot
            totals = snapshot.totals
            detail.update(taken.to_dict())
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
                ("seal", snapshot.seal),
            ):
                if path is not None:
                    self.ledger.add_artifact(self.id, name, path)
        return snapshot

    @property
    def has_snapshot(self) -> bool:
        """Whether an earlier attempt of this run took its snapshot."""
        return self._has(PhaseName.SNAPSHOT)

    def _begun(self, name: PhaseName) -> bool:
        return any(phase.name is name for phase in self.ledger.phases(self.id))

    def _has(self, name: PhaseName) -> bool:
        return any(p.name is name and p.state is PhaseState.DONE for p in self.ledger.phases(self.id))

    # -- stream and verify --------------------------------------------------------------------------------------

    def stream(self, servers: Servers) -> None:
        """Copy every key of every database from source to target.

        :raises ServerError: a server is lost, full, read-only or refuses; everything acknowledged is checkpointed.
        """
        self._stream(servers, self._progress)

    def _stream(self, servers: Servers, progress: Progress) -> None:
        with self.phase(PhaseName.STREAM, servers.source_keys) as detail:
            phase = StreamPhase(self.settings, self.ledger, self.handle, progress, self._resumed)
            phase.run(servers, detail)

    def replicate(self, servers: Servers) -> Servers:
        """Make the target a replica of the source until it holds everything; returns both as they are then.

        :raises ReplicationFailed: it did not come to its end; the target may hold a part.
        :raises ServerError: a server is lost, or refuses.
        """
        if not self._has(PhaseName.REPLICATE):
            self._replicate(servers)
        return self._seen_again(servers)

    def _replicate(
        self, servers: Servers, now_and_then: Callable[[], None] = lambda: None, *, stay: bool = False
    ) -> Attachment | None:
        with self.phase(PhaseName.REPLICATE, servers.source_keys) as detail:
            phase = ReplicatePhase(
                self.settings, self.ledger, self.handle, self._progress, now_and_then=now_and_then
            )
            return phase.run(servers, detail, stay=stay)

    def _replicate_for(self, phase: SyncPhase, servers: Servers) -> None:
        """Before following: replicate, and leave green attached where that is wanted and changes are announced."""
        stay = self.settings.native.follow == "replication" and phase.has_feed
        if not self._has(PhaseName.REPLICATE):
            attachment = self._replicate(servers, phase.while_copying, stay=stay)
        elif follows_source(self.settings, servers.source, servers.target, servers.target_identity):
            left = ReplicatePhase(self.settings, self.ledger, self.handle, self._progress).adopt(servers)
            if not stay:
                left.end()
            attachment = left if stay else None
        else:
            attachment = None
        if attachment is not None:
            phase.replicated_by(attachment)
        else:
            phase.replicated_by_nobody()

    def _seen_again(self, servers: Servers) -> Servers:
        """Replication carries databases that did not exist when the run began, too."""
        servers = identified_again(servers, self.handle)
        databases = tuple(sorted({*servers.databases, *servers.source_identity.databases}))
        onto = tuple(sorted({*databases, *servers.target_databases, *servers.target_identity.databases}))
        return replace(servers, databases=databases, target_databases=onto)

    def verify(self, servers: Servers) -> Conclusion:
        """Read every key back from both servers, compare, re-check what differs, and conclude.

        :raises ServerError: a server is lost or refuses; the verdict is INCONCLUSIVE.
        """
        self._reader(Endpoint.from_settings("source", self.settings.source))
        servers = replace(
            servers, source_identity=servers.source.identify(), target_identity=servers.target.identify()
        )
        with self.phase(PhaseName.VERIFY, servers.source_keys) as detail:
            phase = VerifyPhase(self.settings, self.ledger, self.handle, self._progress)
            self._conclusion = phase.run(servers, detail)
            self._coverage = phase.coverage
        return self._conclusion

    # -- sync ---------------------------------------------------------------------------------------------------

    def sync(
        self,
        servers: Servers,
        *,
        strategy: Strategy = Strategy.COPY,
        until_equal: bool = False,
        stand_by: Callable[[SyncPhase], None] = lambda phase: None,
    ) -> Conclusion:
        """Follow what changes on blue, copy everything, and go on following until told to stop.

        :param strategy: by which road everything is copied; never ``auto``.
        :param until_equal: end as soon as both sides were proven equal.
        :param stand_by: called now and then; ends operations whose process is gone.
        :raises ServerError: a server stayed away longer than the budget, or refuses; the verdict is INCONCLUSIVE.
        """
        status = read_status(self.ledger.engine, self.id)
        direction = status.direction if status is not None else Direction.FORWARD
        phase = SyncPhase(
            self.settings,
            self.ledger,
            self.handle,
            self._progress,
            servers,
            direction=direction,
            until_equal=until_equal,
            stand_by=stand_by,
            replicates=strategy is Strategy.NATIVE
            and (not self._has(PhaseName.REPLICATE) or servers.target_identity.role == "replica"),
        )
        try:
            phase.open()
            if strategy is Strategy.NATIVE:
                self._replicate_for(phase, servers)
            elif not self._has(PhaseName.STREAM):
                self._stream(servers, _Listening(self._progress, phase.while_copying))
            with self.phase(PhaseName.SYNC) as detail:
                self._conclusion = phase.run(detail)
        finally:
            phase.close()
        return self._conclusion

    # -- repair -------------------------------------------------------------------------------------------------

    def repair(self, servers: Servers, parent: models.Run, *, delete_extra: bool) -> Conclusion:
        """Write what *parent* found to differ once more, look at those keys again, and conclude.

        :raises ServerError: a server is lost, full, read-only or refuses; the verdict is INCONCLUSIVE.
        """
        with self.phase(PhaseName.REPAIR, open_findings(self.ledger, parent.id)) as detail:
            phase = RepairPhase(
                self.settings, self.ledger, self.handle, self._progress, parent, delete_extra=delete_extra
            )
            self._conclusion = phase.run(servers, detail)
        return self._conclusion

    def repair_dropped(self, servers: Servers) -> Conclusion | None:
        """Write what replication dropped, look at those keys again, and conclude anew over everything compared.

        :raises ServerError: a server is lost, full, read-only or refuses; the verdict is INCONCLUSIVE.
        """
        due = open_findings(self.ledger, self.id)
        if due and self._coverage is not None:
            with self.phase(PhaseName.REPAIR, due) as detail:
                repair = DroppedRepair(self.settings, self.ledger, self.handle, self._progress)
                self._conclusion = repair.run(servers, self._coverage, detail)
        return self._conclusion

    # -- shared -------------------------------------------------------------------------------------------------

    def conclude(self, conclusion: Conclusion) -> None:
        """What the run came to, to be recorded at its end."""
        self._conclusion = conclusion

    @contextmanager
    def phase(self, name: PhaseName, keys_expected: int = 0) -> Iterator[dict[str, object]]:
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
