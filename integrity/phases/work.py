"""One range of keys: copied, compared, or searched for what should not be there.

A :class:`RangeWorker` is one process's part of a phase.  A connection that is lost is opened again, with growing
pauses and within a time budget; the copy goes on behind its last acknowledged page, a comparison begins its range
again.  Where another process answers than before, nothing that was read by cursor holds any longer, and
:class:`~integrity.errors.ServerRestarted` says so to whoever dealt the range out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic, process_time
from typing import Final, Literal

from integrity.endpoint import Endpoint, Identity
from integrity.errors import ServerError, ServerNotReady, ServerRestarted, ServerUnreachable
from integrity.ledger import Ledger, RunHandle
from integrity.ledger.models import PhaseName
from integrity.ledger.store import CheckpointState, NewFinding
from integrity.pace import Pace
from integrity.partition import CursorRange
from integrity.phases.leftovers import TEMPORARY_KEYS
from integrity.progress import Progress
from integrity.rules import Rules
from integrity.settings import Settings
from integrity.transfer.copy import Copier, CopyTotals
from integrity.verify.compare import Comparer
from integrity.verify.exceptions import FindingRules
from integrity.verify.extra import ExtraFinder
from integrity.verify.present import Present
from integrity.verify.totals import CompareTotals

_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0


@dataclass(frozen=True, slots=True)
class WorkContext:
    """What every worker of a phase knows; it can be handed to another process."""

    settings: Settings
    source_identity: Identity
    target_identity: Identity
    databases: tuple[int, ...]
    """Of the source, those that the run is about."""
    field_expiries: bool
    """Whether the expiries of single hash fields are compared."""
    run_id: str
    owner: str
    """Of the run's lease."""
    workers: int
    batch_keys: int

    @property
    def source(self) -> Endpoint:
        """The server that is read: the source, or its replica."""
        return Endpoint.from_settings("source", self.settings.reads_from)

    @property
    def target(self) -> Endpoint:
        """The target."""
        return Endpoint.from_settings("target", self.settings.target)


@dataclass(frozen=True, slots=True)
class RangeJob:
    """One range to be dealt with."""

    kind: Literal["copy", "compare", "extra"]
    database: int
    """Of the source; of the target where extra keys are searched for."""
    keys: CursorRange
    start: CheckpointState | None = None
    """Where an earlier attempt to copy it got to."""


@dataclass(slots=True)
class Part:
    """What one job, or several, came to."""

    copied: CopyTotals = field(default_factory=CopyTotals)
    compared: CompareTotals = field(default_factory=CompareTotals)
    cpu_seconds: float = 0.0

    def merge(self, other: Part) -> None:
        """Count another part in."""
        self.copied.merge(other.copied)
        self.compared.merge(other.compared)
        self.cpu_seconds += other.cpu_seconds


class RangeWorker:
    """Does jobs, one after the other.

    :param number: tells this worker's temporary keys from those of the others.
    :param on_progress: told keys and bytes as they are done.
    """

    def __init__(
        self,
        context: WorkContext,
        ledger: Ledger,
        handle: RunHandle,
        pace: Pace,
        progress: Progress,
        *,
        number: int,
        on_progress: Callable[[int, int], None],
    ) -> None:
        self._context = context
        self._handle = handle
        self._pace = pace
        self._progress = progress
        self._number = number
        self._on_progress = on_progress
        self._source, self._target = context.source, context.target
        self._rules = Rules.of(context.settings.rules)
        self._finding_rules = FindingRules(ledger, handle.id, context.settings, context.target_identity)
        self.part = Part()
        """What the job in hand has come to so far."""

    def run(self, job: RangeJob) -> Part:
        """Do one job.

        :raises ServerRestarted: a cursor is void; the phase has to begin again.
        :raises ServerError: a server stayed away longer than the budget, or refuses.
        """
        began = process_time()
        self.part = Part()
        lost_at: float | None = None
        position = job.start
        while True:
            before = position
            try:
                if job.kind == "copy":
                    self._copy(job, position)
                else:
                    self.part.compared = CompareTotals()
                    self._compare(job)
            except (ServerUnreachable, ServerNotReady) as error:
                if isinstance(error, ServerRestarted):
                    raise
                position = self._position or position
                now = monotonic()
                if lost_at is None or position != before:
                    lost_at = now
                self._wait_for_servers(error, lost_at)
                continue
            self.part.cpu_seconds = process_time() - began
            return self.part

    # -- jobs ---------------------------------------------------------------------------------------------------

    def _copy(self, job: RangeJob, start: CheckpointState | None) -> None:
        context, settings = self._context, self._context.settings
        self._position: CheckpointState | None = None

        def checkpoint(state: CheckpointState) -> None:
            self._handle.checkpoint(PhaseName.STREAM, context.source_identity.run_id, state)
            self._position = state

        def findings(found: list[NewFinding]) -> None:
            self._handle.add_findings(PhaseName.STREAM, found)

        Copier(
            self._source,
            self._target,
            context.source_identity,
            context.target_identity,
            settings.copying,
            settings.big_values,
            owner=f"{context.run_id}:{self._number}",
            rules=self._rules,
            pace=self._pace,
            totals=self.part.copied,
            on_checkpoint=checkpoint,
            on_findings=findings,
            on_progress=self._on_progress,
            on_temporary=lambda: self._handle.event(TEMPORARY_KEYS, {"worker": self._number}),
        ).copy_range(job.database, job.keys, start)

    def _compare(self, job: RangeJob) -> None:
        context, settings = self._context, self._context.settings
        self._position = None

        def checkpoint(state: CheckpointState) -> None:
            self._handle.checkpoint(PhaseName.VERIFY, context.source_identity.run_id, state)

        with Present(
            self._source,
            self._target,
            context.source_identity,
            context.target_identity,
            settings.verify,
            settings.big_values,
            databases=context.databases,
            rules=self._rules,
        ) as present:

            def findings(found: list[NewFinding]) -> None:
                marked = present.mark_collisions(found)
                self._handle.add_findings(PhaseName.VERIFY, self._finding_rules.apply(marked))

            if job.kind == "extra":
                ExtraFinder(
                    self._source,
                    self._target,
                    context.target_identity,
                    settings.big_values,
                    databases=context.databases,
                    rules=self._rules,
                    pace=self._pace,
                    totals=self.part.compared,
                    on_findings=findings,
                ).search(job.database, job.keys)
                return
            comparer = Comparer(
                self._source,
                self._target,
                context.source_identity,
                context.target_identity,
                settings.verify,
                settings.big_values,
                rules=self._rules,
                pace=self._pace,
                field_expiries=context.field_expiries,
                on_findings=findings,
                on_checkpoint=checkpoint,
                on_progress=self._on_progress,
            )
            comparer.totals = self.part.compared
            comparer.compare_range(job.database, job.keys)

    # -- lost servers -------------------------------------------------------------------------------------------

    def _wait_for_servers(self, error: ServerError, lost_at: float) -> None:
        """Return when both servers answer again as the ones they were.

        :raises ServerError: they do not within the budget (*error* itself, or a newer one).
        :raises ServerRestarted: another process answers.
        """
        budget = self._context.settings.reconnect_seconds
        pause = _FIRST_PAUSE
        told = False
        while True:
            left = budget - (monotonic() - lost_at)
            if left <= 0:
                raise error
            if not told:
                self._progress.say(f"{error.problem} Trying again for {left:.0f} s.")
                self._handle.event("server.lost", {"problem": error.problem})
                told = True
            self._handle.wait(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)
            try:
                require_same(self._source, self._context.source_identity)
                require_same(self._target, self._context.target_identity)
            except ServerRestarted:
                raise
            except (ServerUnreachable, ServerNotReady) as again:
                error = again
                continue
            self._progress.say("Both servers answer again; going on.")
            self._handle.event("server.back", {})
            return


def require_same(endpoint: Endpoint, before: Identity) -> None:
    """Ask a server who it is, and refuse another than before.

    :raises ServerRestarted: it was restarted, or another one answers at its address.
    """
    now = endpoint.identify()
    if now.run_id != before.run_id:
        raise ServerRestarted(
            endpoint.role,
            str(endpoint),
            "was restarted, or another server took its place.",
            "Cursors do not survive that; the ranges are read from the beginning.",
        )


def require_same_cluster(endpoint: Endpoint, before: Identity, handle: RunHandle, seconds: float) -> None:
    """Refuse a cluster of which a master failed over or restarted; of one server nothing is asked.

    A master can hand over in good order, and no connection is lost.

    :param seconds: how long an election under way is waited for.
    :raises ServerRestarted: a master is another process than before.
    :raises ServerError: the cluster is not whole within that time.
    """
    if not before.is_cluster:
        return
    until = monotonic() + seconds
    while True:
        try:
            require_same(endpoint, before)
            return
        except ServerRestarted:
            raise
        except (ServerUnreachable, ServerNotReady):
            if monotonic() > until:
                raise
        handle.wait(_FIRST_PAUSE)
