"""The load phase: every key of an indexed file, batch by batch, to the target.

Findings are recorded before the checkpoint moves past their keys, so that a run that is killed and resumed has lost
none.
"""

from __future__ import annotations

from integrity.errors import Refused
from integrity.from_rdb.places import Places
from integrity.from_rdb.subject import Subject
from integrity.ledger.models import FindingClass, FindingState, PhaseName
from integrity.ledger.store import CheckpointState, NewFinding
from integrity.meter import Meter
from integrity.phases.leftovers import TEMPORARY_KEYS
from integrity.settings import ConflictPolicy
from integrity.snapshot.restore import Restorer, Selection
from integrity.snapshot.totals import OddKey, RestoreTotals
from integrity.transfer.copy import TYPED_REWRITE
from integrity.transfer.temporary import remove_leftovers
from integrity.transfer.throttle import Throttle


class FileLoad:
    """Loads; one instance per attempt of a run."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._start = 0
        self._told_temporary = False

    def run(self, detail: dict[str, object]) -> Selection:
        """Write every key that the run is about, and put what there is to tell into *detail*.

        Returns which rows those were.

        :raises Refused: the target has less memory free than the bodies need.
        :raises ServerError: the target is lost, full, read-only or refuses; what was acknowledged is checkpointed.
        :raises ArtifactError: the file was changed since it was indexed.
        """
        subject = self._subject
        run, settings = subject.run, subject.settings
        self._start = self._begin_at()
        wanted = settings.databases
        selection = Selection(
            frozenset(wanted) if wanted is not None else None, subject.rules, self._colliding()
        )
        self._require_headroom(selection)
        meter = Meter(run.handle, PhaseName.STREAM, subject.progress)
        policy = settings.copying.conflict
        if run.resumed is not None and policy is ConflictPolicy.FAIL:
            # The target was empty when the run began: what is there now, it wrote itself.
            policy = ConflictPolicy.REPLACE
        odd: list[OddKey] = []
        with Throttle(
            settings.throttle,
            settings.copying.batch_keys,
            endpoints=[subject.target],
            run=run.handle,
            progress=subject.progress,
            on_held=run.handle.telling_of(PhaseName.STREAM),
        ) as pace:
            restorer = Restorer(
                subject.artifact,
                subject.target,
                subject.identity,
                conflict=policy,
                selection=selection,
                batch_keys=settings.copying.batch_keys,
                big_values=settings.big_values,
                owner=run.id,
                start=self._start,
                incomplete=True,
                pace=pace,
                on_progress=meter.advance,
                on_acknowledged=lambda row: self._acknowledged(row, odd, meter),
                on_odd=odd.append,
                on_temporary=self._tell_temporary,
            )
            try:
                restorer.restore()
            finally:
                # Also for a load that broke off: the ledger tells what reached the target.
                run.handle.tally(PhaseName.STREAM, restorer.totals.tallies)
                detail.update(meter.finish() | _figures(restorer.totals, self._start))
                detail["throttle"] = pace.summary()
        return selection

    def _begin_at(self) -> int:
        """The first row that is not on the target yet; 0 for a new run."""
        subject, run = self._subject, self._subject.run
        if run.resumed is None:
            return 0
        for database in subject.identity.databases:
            with subject.target.connect("restore", database) as connection:
                remove_leftovers(connection, [run.id])
        before = (run.resumed.target or {}).get("run_id")
        if before != subject.identity.run_id:
            text = f"target {subject.target} restarted since: the file is loaded from its beginning."
            subject.progress.say(text)
            run.handle.event("ranges.restarted", {"reason": text})
            run.handle.clear_checkpoints(PhaseName.STREAM)
            return 0
        rows = run.ledger.checkpoints(run.id, PhaseName.STREAM)
        return max((row.state.cursor for row in rows), default=0)

    def _colliding(self) -> set[int]:
        """Rows that go where an earlier one goes already."""
        subject = self._subject
        if not subject.rules.merges_over(subject.databases):
            return set()
        with Places(subject.rules) as places, subject.artifact.open_manifest() as manifest:
            places.note(manifest)
            return places.shared(manifest)

    def _require_headroom(self, selection: Selection) -> None:
        """Refuse a target that cannot hold the bodies, and say where it may not hold the values."""
        subject, identity = self._subject, self._subject.identity
        if not identity.max_memory:
            return
        free = max(0, identity.max_memory - identity.used_memory)
        needed = 0
        with subject.artifact.open_manifest() as manifest:
            for number, row in enumerate(manifest):
                if number >= self._start and selection.wants(number, row):
                    needed += row.length
        if needed > free and subject.settings.copying.conflict is not ConflictPolicy.REPLACE:
            raise Refused(
                f"Target {subject.target} has {free:,} bytes free, and the values need {needed:,} bytes even as they "
                "lie in the file.",
                "Raise its maxmemory, or leave keys out.",
            )
        if subject.file.used_memory > free:
            subject.progress.say(
                f"The server that wrote the file used {subject.file.used_memory:,} bytes; target {subject.target} has "
                f"{free:,} free. If it runs full, the run breaks off and goes on with --resume."
            )

    def _acknowledged(self, row: int, odd: list[OddKey], meter: Meter) -> None:
        """Record what became of the rows before *row*: findings first, then the checkpoint."""
        subject = self._subject
        if odd:
            subject.run.handle.add_findings(PhaseName.STREAM, [_finding(each) for each in odd])
            odd.clear()
        done = row >= subject.artifact.header.keys
        state = CheckpointState(0, row, 0, meter.keys, meter.size, done=done)
        subject.run.handle.checkpoint(PhaseName.STREAM, subject.xxh3, state)

    def _tell_temporary(self) -> None:
        if not self._told_temporary:
            self._told_temporary = True
            self._subject.run.handle.event(TEMPORARY_KEYS, {})


def _finding(odd: OddKey) -> NewFinding:
    finding_class, rule = {
        "kept": (FindingClass.SKIPPED, "copy.conflict=skip"),
        "refused": (FindingClass.REFUSED, None),
        "not carried": (FindingClass.NOT_CARRIED, TYPED_REWRITE),
    }[odd.what]
    return NewFinding(
        finding_class,
        odd.database,
        odd.key,
        source_kind=odd.kind,
        detail=odd.detail,
        state=FindingState.EXCEPTION if rule else FindingState.OPEN,
        rule=rule,
    )


def _figures(totals: RestoreTotals, start: int) -> dict[str, object]:
    return {
        "keys": totals.written,
        "bytes": totals.size,
        "written": totals.written,
        "skipped": totals.skipped,
        "refused": len(totals.refused),
        "relabelled": totals.relabelled,
        "downgraded": totals.downgraded,
        "rewritten": totals.rewritten,
        "big": totals.in_pieces,
        "left_out": totals.left_out,
        "resumed_at": start,
    }
