"""The repair phase: what a run found to differ is written once more, looked at again, and recorded, page by page.

A page is recorded in one transaction after both servers are done with it.  A repair that is killed repeats at most one
page, and repeating it is harmless: what agrees by then is not written again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Final

from integrity.cluster.changed import require_same_masters
from integrity.ledger import Ledger, RunHandle
from integrity.ledger.models import (
    Finding,
    FindingClass,
    FindingState,
    PhaseName,
    RepairAction,
    Run,
    RunState,
)
from integrity.ledger.store import NewRepair
from integrity.meter import Meter
from integrity.phases.leftovers import TEMPORARY_KEYS, remove_leftovers_of_killed_runs
from integrity.phases.servers import Servers
from integrity.progress import Progress
from integrity.repair import KeyOutcome, conclude_repair, open_findings
from integrity.repair_plan import PAGE, Intent, KeyPlan, RepairPlanner
from integrity.repair_writer import KeyWriter, Work
from integrity.settings import Settings
from integrity.transfer.throttle import Throttle
from integrity.verify.verdict import Conclusion

_BEGUN: Final = "repair.begun"
_ACTIONS: Final = {
    KeyOutcome.COPIED: RepairAction.COPIED,
    KeyOutcome.EXPIRY_SET: RepairAction.COPIED,
    KeyOutcome.DELETED: RepairAction.DELETED,
    KeyOutcome.SETTLED: RepairAction.SETTLED,
}
_STATES: Final = {
    KeyOutcome.COPIED: FindingState.REPAIRED,
    KeyOutcome.EXPIRY_SET: FindingState.REPAIRED,
    KeyOutcome.DELETED: FindingState.REPAIRED,
    KeyOutcome.SETTLED: FindingState.SETTLED,
    KeyOutcome.EXCEPTION: FindingState.EXCEPTION,
}
"""What becomes of the repaired run's findings; those about any other key stay open."""


class RepairPhase:
    """Repairs the open findings of one run.

    :param settings: with the repaired run's conflict policy, rules and databases.
    :param parent: the repaired run.
    :param delete_extra: delete what only the target has; keep it otherwise.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        handle: RunHandle,
        progress: Progress,
        parent: Run,
        *,
        delete_extra: bool,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._handle = handle
        self._progress = progress
        self._parent = parent
        self._delete_extra = delete_extra
        self._outcomes: Counter[KeyOutcome] = Counter()
        self._findings = 0
        self._ways: Counter[str] = Counter()
        self._told_temporary = False

    def run(self, servers: Servers, detail: dict[str, object]) -> Conclusion:
        """Repair, conclude, and put what there is to tell into *detail*.

        :raises ServerError: a server is lost, full, read-only or refuses; every page that was done is recorded.
        """
        earlier = self._ledger.finding_counts(self._parent.id)
        before = sum(n for (_, state), n in earlier.items() if state is FindingState.REPAIRED)
        remove_leftovers_of_killed_runs(self._ledger, servers)
        unsure = self._unsure()
        meter = Meter(self._handle, PhaseName.REPAIR, self._progress)
        endpoints = [servers.source, servers.target]
        try:
            with (
                RepairPlanner(
                    self._settings, self._ledger, self._parent, servers, delete_extra=self._delete_extra
                ) as planner,
                Throttle(
                    self._settings.throttle,
                    PAGE,
                    endpoints=endpoints,
                    run=self._handle,
                    progress=self._progress,
                    on_held=self._handle.telling_of(PhaseName.REPAIR),
                ) as pace,
                KeyWriter(self._settings, self._handle, servers, planner) as writer,
            ):
                self._ways = writer.ways
                size = 0
                for groups in planner.pages(lambda: pace.batch_keys):
                    pace.admit(len(groups), size)
                    size = self._page(planner, writer, groups, unsure)
                    meter.advance(len(groups), size)
                detail["throttle"] = pace.summary()
            require_same_masters(servers.source, servers.source_identity)
            require_same_masters(servers.target, servers.target_identity)
        finally:
            detail.update(meter.finish() | self._figures(meter))
        exceptions = sum(
            n
            for (_, state), n in self._ledger.finding_counts(self._handle.id).items()
            if state is FindingState.EXCEPTION
        )
        return conclude_repair(self._parent.id, self._outcomes, exceptions, before)

    def _figures(self, meter: Meter) -> dict[str, object]:
        return {
            "keys": self._outcomes.total(),
            "bytes": meter.size,
            "repairs": self._parent.id,
            "delete_extra": self._delete_extra,
            "findings": self._findings,
            "still_open": open_findings(self._ledger, self._parent.id),
            "outcomes": {outcome.value: self._outcomes[outcome] for outcome in KeyOutcome},
            "restored": self._ways["restored"],
            "relabelled": self._ways["relabelled"],
            "rewritten": self._ways["rewritten"],
        }

    # -- one page -----------------------------------------------------------------------------------------------

    def _page(
        self,
        planner: RepairPlanner,
        writer: KeyWriter,
        groups: Sequence[Sequence[Finding]],
        unsure: Sequence[tuple[int, int, str]],
    ) -> int:
        """Write what has to be written, look again until it agrees or the re-checks are used up, record.

        Returns the bytes that were written.
        """
        if not groups:
            return 0
        works = [Work(plan, _digests(plan)) for plan in planner.plan(groups)]
        due = [work for work in works if work.wants_writing]
        if due:
            ids = [finding.id for work in due for finding in work.plan.findings]
            counts = Counter(work.plan.intent.value for work in due)
            if not self._told_temporary:
                self._told_temporary = True
                self._handle.event(TEMPORARY_KEYS, {"repairs": self._parent.id})
            self._handle.event(_BEGUN, {"first": min(ids), "last": max(ids), "keys": dict(counts)})
        size = 0
        for attempt in range(self._settings.verify.rechecks):
            due = [work for work in works if work.wants_writing]
            if attempt and due:
                # Written, and different again: most likely somebody writes to the source at this moment.
                self._handle.wait(self._settings.verify.recheck_delay)
                self._look_again(planner, due)
                due = [work for work in due if work.wants_writing]
            for work in due:
                size += writer.write(work)
                self._handle.renew_lease()
            self._look_again(planner, due)
        for work in works:
            if work.wrote is None and work.plan.intent is Intent.NOTHING:
                work.notes += _may_be_ours(work.plan.findings, unsure)
        self._record(works)
        return size

    def _look_again(self, planner: RepairPlanner, works: Sequence[Work]) -> None:
        """Decide anew by what both sides hold now; a difference that stays is a finding of this run, seen once more."""
        if not works:
            return
        for work, plan in zip(works, planner.plan([work.plan.findings for work in works]), strict=True):
            work.plan, work.seen = plan, True
        self._handle.add_findings(PhaseName.REPAIR, [f for work in works for f in work.plan.differences])

    def _record(self, works: Sequence[Work]) -> None:
        self._settle_own(works)
        unseen = [f for work in works if not work.seen for f in work.plan.differences]
        self._handle.add_findings(PhaseName.REPAIR, unseen)
        repairs: list[NewRepair] = []
        states: dict[int, FindingState] = {}
        for work in works:
            outcome = work.outcome
            after = _digests(work.plan)
            detail = "; ".join(part for part in (*work.notes, work.plan.why) if part)
            for finding in work.plan.findings:
                repairs.append(
                    NewRepair(
                        finding.id,
                        finding.database,
                        finding.key,
                        _ACTIONS.get(outcome, RepairAction.NOT_REPAIRED),
                        *work.before,
                        *after,
                        before_detail=finding.detail,
                        detail=detail,
                    )
                )
                if outcome in _STATES:
                    states[finding.id] = _STATES[outcome]
        counts = Counter(work.outcome for work in works)
        self._handle.record_repairs(
            repairs, states, {"findings": len(repairs), "keys": {o.value: n for o, n in counts.items()}}
        )
        self._outcomes.update(counts)
        self._findings += len(repairs)

    def _settle_own(self, works: Sequence[Work]) -> None:
        """Close what an earlier look of this run found and the last one did not."""
        wrote = [work for work in works if work.wrote is not None]
        if not wrote:
            return
        still = {(f.database, f.key, f.finding_class) for work in wrote for f in work.plan.differences}
        places = [(finding.database, finding.key) for work in wrote for finding in work.plan.findings]
        places += [(work.plan.database, work.plan.key) for work in wrote]
        mine = self._ledger.open_findings_of(self._handle.id, places, list(FindingClass))
        self._handle.settle_findings(
            [f.id for f in mine if (f.database, f.key, f.finding_class) not in still]
        )

    # -- repairs that were killed -------------------------------------------------------------------------------

    def _unsure(self) -> list[tuple[int, int, str]]:
        """Finding ids (first, last) that a killed repair wrote about without recording it, and that repair's id."""
        found = []
        for run in self._ledger.child_runs(self._parent.id):
            if run.id == self._handle.id or run.state is RunState.FINISHED:
                continue
            events = [e for e in self._ledger.events(run.id) if e.kind in {_BEGUN, "repair.applied"}]
            if events and events[-1].kind == _BEGUN:
                payload = json.loads(events[-1].payload)
                found.append((int(payload["first"]), int(payload["last"]), run.id))
        return found


def _may_be_ours(findings: Sequence[Finding], unsure: Sequence[tuple[int, int, str]]) -> list[str]:
    return [
        f"repair {run_id} broke off while it wrote keys like this one, so it may have repaired it"
        for first, last, run_id in unsure
        if any(first <= finding.id <= last for finding in findings)
    ]


def _digests(plan: KeyPlan) -> tuple[bytes | None, bytes | None]:
    return plan.pair.source.digest, plan.pair.target.digest
