"""The stream phase: every key of every database, range by range, from source to target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from integrity.cluster.changed import recorded_shards, slots_read_anew
from integrity.cluster.slots import slots_text
from integrity.endpoint import Endpoint, Identity
from integrity.errors import ServerRestarted
from integrity.kinds.base import plural
from integrity.ledger import Ledger, RunHandle, models
from integrity.ledger.models import FindingClass, PhaseName
from integrity.ledger.store import CheckpointState
from integrity.meter import Meter
from integrity.partition import CursorRange, Style, node_ranges, plan_ranges
from integrity.phases.leftovers import remove_leftovers_of_killed_runs
from integrity.phases.servers import Servers
from integrity.phases.work import Part, RangeJob, WorkContext, require_same_cluster
from integrity.phases.workers import JobRunner
from integrity.progress import Progress
from integrity.rules import Rules
from integrity.settings import Settings
from integrity.transfer.copy import CopyTotals

RESTARTS: Final = 3
"""How often a phase begins again because a server restarted, before the run breaks off."""


class StreamPhase:
    """Copies what is to be copied; one instance per attempt of a run.

    :param resumed: the run as its earlier owner left it, where it is resumed.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        handle: RunHandle,
        progress: Progress,
        resumed: models.Run | None,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._handle = handle
        self._progress = progress
        self._resumed = resumed
        self._rules = Rules.of(settings.rules)
        self.before = CopyTotals()
        """What earlier attempts of the run copied."""

    def run(self, servers: Servers, detail: dict[str, object]) -> CopyTotals:
        """Copy, and put what there is to tell into *detail*.

        :raises ServerError: a server is lost, full, read-only or refuses; everything acknowledged is checkpointed.
        """
        mine = [self._handle.id] if self._resumed is not None else []
        remove_leftovers_of_killed_runs(self._ledger, servers, mine)
        resumes = self._resumed is not None and self._goes_on(servers, self._resumed)
        if resumes:
            self.before = self._counted_before()
        else:
            self._handle.clear_checkpoints(PhaseName.STREAM)
        totals = CopyTotals()
        meter = Meter(self._handle, PhaseName.STREAM, self._progress)

        def on_part(part: Part) -> None:
            nonlocal totals
            totals = CopyTotals()
            totals.merge(self.before)
            totals.merge(part.copied)
            self._handle.tally(PhaseName.STREAM, totals.tallies)

        cpu = 0.0
        try:
            for restart in range(RESTARTS + 1):
                runner = JobRunner(
                    self._context(servers),
                    self._ledger,
                    self._handle,
                    self._progress,
                    on_progress=meter.advance,
                    on_part=on_part,
                )
                try:
                    jobs = self._jobs(servers)
                    if jobs:
                        cpu = runner.run(jobs).cpu_seconds
                    else:
                        on_part(Part())  # A resumed run had copied everything, or slots merely moved.
                    if runner.lost:
                        now = replace(servers, target_identity=servers.target.identify())
                        remove_leftovers_of_killed_runs(self._ledger, now, [self._handle.id])
                    wait = self._settings.reconnect_seconds
                    require_same_cluster(servers.source, servers.source_identity, self._handle, wait)
                    require_same_cluster(servers.target, servers.target_identity, self._handle, wait)
                    self._count_what_died(totals)
                    break
                except ServerRestarted:
                    if restart == RESTARTS:
                        raise
                    servers = self._begin_again(servers, totals)
                finally:
                    detail["throttle"] = runner.throttle or detail.get("throttle", {})
        finally:
            # Also for a copy that broke off: the ledger tells what reached the target.
            detail.update(meter.finish() | _figures(totals))
            if self._settings.workers > 1:
                detail["client_cpu_seconds"] = round(cpu, 3)
        if totals.refused:
            self._progress.say(f"The target refused {plural(totals.refused, 'key')}; each is a finding.")
        return totals

    def _count_what_died(self, totals: CopyTotals) -> None:
        """Count in what a process copied and checkpointed, and was killed before it could tell of which kinds."""
        rows = self._ledger.checkpoints(self._handle.id, PhaseName.STREAM)
        told = (
            totals.written + totals.skipped + totals.refused + totals.vanished + sum(totals.excluded.values())
        )
        totals.untold = max(0, sum(row.keys for row in rows) - told)
        totals.written += totals.untold
        totals.size = max(totals.size, sum(row.bytes for row in rows))

    def _context(self, servers: Servers) -> WorkContext:
        return WorkContext(
            settings=self._settings,
            source_identity=servers.source_identity,
            target_identity=servers.target_identity,
            databases=servers.databases,
            field_expiries=False,
            run_id=self._handle.id,
            owner=self._handle.owner,
            workers=self._settings.workers,
            batch_keys=self._settings.copying.batch_keys,
        )

    def _jobs(self, servers: Servers) -> list[RangeJob]:
        """What is left to be done: the ranges of the checkpoints where there are any, else new ones."""
        rows = self._ledger.checkpoints(self._handle.id, PhaseName.STREAM)
        jobs: list[RangeJob] = []
        for database in servers.databases:
            states = {row.range_index: row.state for row in rows if row.database == database}
            if states:
                count = next(iter(states.values())).range_count
                ranges = ranges_of(servers.source_identity, count)
            else:
                ranges = planned(servers.source, servers.source_identity, database, self._settings.workers)
            for keys in ranges:
                state = states.get(keys.index)
                if state is None or not state.done:
                    jobs.append(RangeJob("copy", database, keys, state))
        return jobs

    # -- beginning again ----------------------------------------------------------------------------------------

    def _goes_on(self, servers: Servers, then: models.Run) -> bool:
        """Whether the checkpoints still hold, all or (in clusters) those of the masters that are what they were."""
        lost = self._lost(servers, then.source, then.target)
        if isinstance(lost, str):
            self._say_void(lost)
            return False
        self._copy_anew(lost, servers.source_identity.run_id)
        return True

    def _begin_again(self, servers: Servers, totals: CopyTotals) -> Servers:
        """The same servers as who they are now; what of the checkpoints does not hold any more is gone."""
        before = servers
        servers = identified_again(servers, self._handle)
        lost = self._lost(servers, before.source_identity.to_dict(), before.target_identity.to_dict())
        if isinstance(lost, str):
            self._say_void(lost)
            self._handle.clear_checkpoints(PhaseName.STREAM)
            self.before = CopyTotals()
        else:
            self._copy_anew(lost, servers.source_identity.run_id)
            self.before = totals
        return servers

    def _lost(
        self, servers: Servers, source: Mapping[str, object] | None, target: Mapping[str, object] | None
    ) -> str | dict[str, frozenset[int]]:
        """What has to be copied again, by what both servers were before.

        Slots, by the cluster whose masters failed over or restarted; or the name of the server for which it is
        everything.  A master of the target that was replaced may have lost what it had acknowledged.
        """
        reads = servers.source_identity
        slots: dict[str, frozenset[int]] = {}
        for endpoint, now, before in (
            (servers.source, reads, source),
            (servers.target, servers.target_identity, target),
        ):
            if now.run_id == (before or {}).get("run_id"):
                continue
            shards = recorded_shards(before)
            found = slots_read_anew(shards, now) if shards and now.is_cluster else None
            if endpoint.role == "target":
                # Only where a key's slot is the same on both sides do the source's ranges hold those of the target; and
                # slots that went from one of its masters to another took along what was written.
                known = not found or (reads.lists_slots and self._rules.maps_nothing)
            else:
                known = reads.lists_slots
            if found is None or not known:
                return f"{endpoint.role} {endpoint}"
            slots[str(endpoint)] = found
        return slots

    def _copy_anew(self, lost: Mapping[str, frozenset[int]], run_id: str) -> None:
        """The ranges of a master that failed over or restarted begin again; the others go on."""
        for address, slots in lost.items():
            if not slots:
                continue
            for row in self._ledger.checkpoints(self._handle.id, PhaseName.STREAM):
                keys = CursorRange(row.range_index, row.range_count, "slots")
                if not slots.isdisjoint(keys.slots):
                    self._handle.checkpoint(PhaseName.STREAM, run_id, beginning(row.database, keys))
            text = (
                f"Masters of {address} failed over or restarted: slots {slots_text(slots)} are copied again."
            )
            self._progress.say(text)
            self._handle.event("ranges.restarted", {"reason": text})

    def _say_void(self, names: str) -> None:
        text = (
            f"{names} restarted since, or its slots lie elsewhere: cursors are void, so every database is copied from "
            "the beginning."
        )
        self._progress.say(text)
        self._handle.event("ranges.restarted", {"reason": text})

    def _counted_before(self) -> CopyTotals:
        """What earlier attempts counted, to the second in which they were killed."""
        totals = CopyTotals()
        for row in self._ledger.tallies(self._handle.id):
            if row.phase is PhaseName.STREAM:
                totals.tallies[row.database, row.kind] = (row.keys, row.bytes)
        totals.written = sum(keys for keys, _ in totals.tallies.values())
        totals.size = sum(size for _, size in totals.tallies.values())
        for (finding_class, _), count in self._ledger.finding_counts(self._handle.id).items():
            totals.refused += count if finding_class is FindingClass.REFUSED else 0
            totals.skipped += count if finding_class is FindingClass.SKIPPED else 0
        totals.batches = sum(
            row.batches for row in self._ledger.checkpoints(self._handle.id, PhaseName.STREAM)
        )
        phase = next((p for p in self._ledger.phases(self._handle.id) if p.name is PhaseName.STREAM), None)
        excluded = phase.detail.get("excluded") if phase is not None else None
        if isinstance(excluded, Mapping):
            totals.excluded = {str(rule): int(count) for rule, count in excluded.items()}
        return totals


def _figures(totals: CopyTotals) -> dict[str, object]:
    return {
        "keys": totals.written,
        "bytes": totals.size,
        "written": totals.written,
        "skipped": totals.skipped,
        "refused": totals.refused,
        "relabelled": totals.relabelled,
        "rewritten": totals.rewritten,
        "big": totals.big,
        "excluded": dict(totals.excluded),
        "vanished": totals.vanished,
        "untold": totals.untold,
        "batches": totals.batches,
    }


def beginning(database: int, keys: CursorRange) -> CheckpointState:
    """The checkpoint of a range of which nothing is done."""
    return CheckpointState(
        database, keys.start, 0, 0, 0, done=False, range_index=keys.index, range_count=keys.count
    )


def planned(endpoint: Endpoint, identity: Identity, database: int, workers: int) -> list[CursorRange]:
    """Ranges of one database for this many workers."""
    if workers == 1 and not identity.is_cluster:
        return [CursorRange()]
    with endpoint.connect("check", database) as connection:
        return plan_ranges(connection, identity, identity.databases.get(database, 0), workers)


def ranges_of(identity: Identity, count: int) -> list[CursorRange]:
    """The ranges that a database was cut into before."""
    if identity.is_cluster:
        slots = [CursorRange(index, count, "slots") for index in range(count)]
        return slots if identity.lists_slots else node_ranges(count)
    if count == 1:
        return [CursorRange()]
    style: Style = "shards" if identity.engine == "dragonfly" else "bits"
    return [CursorRange(index, count, style) for index in range(count)]


def identified_again(servers: Servers, handle: RunHandle) -> Servers:
    """The same servers, as who they are now; recorded, because checkpoints are tied to it."""
    source, target = servers.source.identify(), servers.target.identify()
    handle.identify(
        source=source.to_dict(),
        target=target.to_dict(),
        source_address=str(servers.source),
        target_address=str(servers.target),
    )
    return replace(servers, source_identity=source, target_identity=target)
