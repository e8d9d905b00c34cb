"""The verify phase: every key read back from both servers, compared, re-checked, and a verdict."""

from __future__ import annotations

from datetime import UTC, datetime

from integrity.afterwards import seen_now
from integrity.endpoint import Identity
from integrity.errors import ServerRestarted
from integrity.ledger import Ledger, RunHandle
from integrity.ledger.models import FindingClass, FindingState, PhaseName
from integrity.meter import Meter
from integrity.phases.servers import Servers
from integrity.phases.stream import RESTARTS, identified_again, planned
from integrity.phases.work import Part, RangeJob, WorkContext, require_same, require_same_cluster
from integrity.phases.workers import JobRunner
from integrity.progress import Progress
from integrity.rules import Rules
from integrity.settings import FieldExpiryPolicy, Settings
from integrity.verify.exceptions import FindingRules
from integrity.verify.present import Present
from integrity.verify.recheck import Rechecker
from integrity.verify.totals import CompareTotals
from integrity.verify.verdict import Conclusion, Coverage, conclude
from integrity.verify.waiving import let_pass


class VerifyPhase:
    """Compares both servers and concludes."""

    def __init__(self, settings: Settings, ledger: Ledger, handle: RunHandle, progress: Progress) -> None:
        self._settings = settings
        self._ledger = ledger
        self._handle = handle
        self._progress = progress
        self._rules = Rules.of(settings.rules)
        self.coverage: Coverage | None = None
        """What was compared of what there was, once it has run."""
        self._rechecked_at: datetime | None = None

    def run(self, servers: Servers, detail: dict[str, object]) -> Conclusion:
        """Compare, conclude, and put what there is to tell into *detail*.

        :raises ServerError: a server is lost or refuses; the verdict is INCONCLUSIVE.
        """
        meter = Meter(self._handle, PhaseName.VERIFY, self._progress)
        for restart in range(RESTARTS + 1):
            runner = JobRunner(
                self._context(servers),
                self._ledger,
                self._handle,
                self._progress,
                on_progress=meter.advance,
                on_part=lambda part: None,
            )
            self._handle.clear_checkpoints(PhaseName.VERIFY)
            try:
                part = runner.run(self._jobs(servers))
                generations = self._recheck(servers)
                wait = self._settings.reconnect_seconds
                require_same_cluster(servers.source, servers.source_identity, self._handle, wait)
                require_same_cluster(servers.target, servers.target_identity, self._handle, wait)
                require_same(servers.source, servers.source_identity)
                require_same(servers.target, servers.target_identity)
                break
            except ServerRestarted as error:
                if restart == RESTARTS:
                    raise
                text = f"{error.role} {error.address} restarted while it was compared; comparing from the beginning."
                self._progress.say(text)
                self._handle.event("ranges.restarted", {"reason": text})
                servers = identified_again(servers, self._handle)
        return self._conclude(servers, part, generations, runner, meter, detail)

    def _context(self, servers: Servers) -> WorkContext:
        return WorkContext(
            settings=self._settings,
            source_identity=servers.source_identity,
            target_identity=servers.target_identity,
            databases=servers.databases,
            field_expiries=self._compares_field_expiries(servers.source_identity, servers.target_identity),
            run_id=self._handle.id,
            owner=self._handle.owner,
            workers=self._settings.workers,
            batch_keys=self._settings.verify.batch_keys,
        )

    def _compares_field_expiries(self, source: Identity, target: Identity) -> bool:
        policy = self._settings.verify.field_expiries
        if policy is FieldExpiryPolicy.AUTO:
            return source.field_expiries != "none" or target.field_expiries == "some"
        return policy is FieldExpiryPolicy.ALWAYS

    def _jobs(self, servers: Servers) -> list[RangeJob]:
        workers = self._settings.workers
        forward = [
            RangeJob("compare", database, keys)
            for database in servers.databases
            for keys in planned(servers.source, servers.source_identity, database, workers)
        ]
        backward = [
            RangeJob("extra", database, keys)
            for database in servers.target_databases
            for keys in planned(servers.target, servers.target_identity, database, workers)
        ]
        return forward + backward

    def _recheck(self, servers: Servers) -> tuple[int, int]:
        """How many generations of re-checks there were, and how many findings settled in them."""
        settings = self._settings.verify
        with Present(
            servers.source,
            servers.target,
            servers.source_identity,
            servers.target_identity,
            settings,
            self._settings.big_values,
            databases=servers.databases,
            rules=self._rules,
            on_piece=lambda _: self._handle.renew_lease(),
        ) as present:
            rechecker = Rechecker(
                present,
                ledger=self._ledger,
                run=self._handle,
                rules=FindingRules(self._ledger, self._handle.id, self._settings, servers.target_identity),
            )
            generations = settled = 0
            self._rechecked_at = None
            for _ in range(settings.rechecks):
                self._handle.wait(settings.recheck_delay if generations or self._open_findings() else 0)
                looked, gone = rechecker.recheck()
                settled += gone
                if not looked:
                    break
                generations += 1
                self._rechecked_at = datetime.now(UTC)
        return generations, settled

    def _open_findings(self) -> bool:
        return bool(self._ledger.findings(self._handle.id, limit=1))

    def _conclude(
        self,
        servers: Servers,
        part: Part,
        generations: tuple[int, int],
        runner: JobRunner,
        meter: Meter,
        detail: dict[str, object],
    ) -> Conclusion:
        totals: CompareTotals = part.compared
        waived = let_pass(self._ledger, self._handle, self._settings)
        counts = self._ledger.finding_counts(self._handle.id)
        unreadable = counts.get((FindingClass.UNREADABLE, FindingState.OPEN), 0)
        limited = self._settings.databases is not None or servers.source.address.database is not None
        coverage = Coverage(
            servers.source_keys,
            totals.scanned - totals.vanished - unreadable,
            totals.target_scanned,
            servers.databases if limited else None,
            totals.excluded,
        )
        self.coverage = coverage
        rechecks, settled = generations
        detail.update(
            meter.finish()
            | {
                "keys": totals.scanned,
                "bytes": meter.size,
                "source_keys": servers.source_keys,
                "target_keys": servers.target_keys,
                "compared": coverage.compared,
                "equal": totals.equal_keys,
                "vanished": totals.vanished,
                "unreadable": unreadable,
                "big": totals.big,
                "excluded": dict(totals.excluded),
                "out_of_scope": totals.out_of_scope,
                "target_scanned": totals.target_scanned,
                "extra": sum(
                    n
                    for (c, state), n in counts.items()
                    if c is FindingClass.EXTRA and state is not FindingState.SETTLED
                ),
                "rechecks": rechecks,
                "settled": settled,
                "rechecked_at": self._rechecked_at.isoformat() if self._rechecked_at is not None else None,
                "afterwards": seen_now((servers.source, servers.target)),
                "expiry_tolerance_ms": self._settings.verify.expiry_tolerance_ms,
                "field_expiries": self._compares_field_expiries(
                    servers.source_identity, servers.target_identity
                ),
                "max_expiry_drift_ms": totals.max_expiry_drift_ms,
                "fingerprints": totals.fingerprints(),
                "throttle": runner.throttle,
            }
        )
        if self._settings.workers > 1:
            detail["client_cpu_seconds"] = round(part.cpu_seconds, 3)
        self._handle.tally(PhaseName.VERIFY, {place: (keys, 0) for place, keys in totals.tallies.items()})
        return conclude(coverage, counts, waived=waived.findings, notes=waived.notes())
