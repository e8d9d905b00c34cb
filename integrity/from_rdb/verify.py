"""The verify phase: every key of the file held against the target, and every key of the target against the file."""

from __future__ import annotations

from integrity.cluster.changed import require_same_masters
from integrity.from_rdb.bodies import Bodies
from integrity.from_rdb.compare import FileComparer
from integrity.from_rdb.places import Places
from integrity.from_rdb.subject import Subject
from integrity.kinds.pieces import PieceSize
from integrity.ledger.models import FindingClass, FindingState, PhaseName
from integrity.meter import Meter
from integrity.snapshot.restore import Selection
from integrity.transfer.throttle import Throttle
from integrity.verify.exceptions import FindingRules
from integrity.verify.look import BigValues
from integrity.verify.verdict import Conclusion, Coverage, conclude
from integrity.verify.waiving import let_pass


def verify_file(subject: Subject, selection: Selection, detail: dict[str, object]) -> Conclusion:
    """Compare, conclude, and put what there is to tell into *detail*.

    :param selection: the rows that the run is about.
    :raises ServerError: the target is lost or refuses; the verdict is INCONCLUSIVE.
    """
    run, settings, header = subject.run, subject.settings, subject.artifact.header
    databases, identity = subject.databases, subject.target.identify()
    onto = set(subject.rules.target_databases(databases))
    if settings.databases is None:
        onto.update(identity.databases)
    rules = FindingRules(run.ledger, run.id, settings, identity)
    piece = PieceSize(settings.big_values.piece_bytes, settings.big_values.piece_elements)
    with (
        Bodies(subject.file.path, header.rdb_version, piece) as bodies,
        Places(subject.rules) as places,
        subject.artifact.open_manifest() as manifest,
        Throttle(
            settings.throttle,
            settings.verify.batch_keys,
            endpoints=[subject.target],
            run=run.handle,
            progress=subject.progress,
            on_held=run.handle.telling_of(PhaseName.VERIFY),
        ) as pace,
    ):
        meter = Meter(run.handle, PhaseName.VERIFY, subject.progress)
        places.note(manifest)
        places.sort()
        comparer = FileComparer(
            subject.target,
            identity,
            bodies,
            selection=selection,
            big=BigValues.of(settings.big_values),
            tolerance_ms=settings.verify.expiry_tolerance_ms,
            pace=pace,
            on_findings=lambda found: run.handle.add_findings(PhaseName.VERIFY, rules.apply(found)),
            on_progress=meter.advance,
        )
        comparer.compare(manifest)
        comparer.search(places, sorted(onto), databases)
    require_same_masters(subject.target, identity)
    waived = let_pass(run.ledger, run.handle, settings)
    totals, counts = comparer.totals, run.ledger.finding_counts(run.id)
    unreadable = counts.get((FindingClass.UNREADABLE, FindingState.OPEN), 0)
    coverage = Coverage(
        subject.keys,
        totals.scanned - totals.vanished - unreadable,
        totals.target_scanned,
        tuple(databases) if settings.databases is not None else None,
        totals.excluded,
    )
    extra = sum(
        count
        for (found, state), count in counts.items()
        if found is FindingClass.EXTRA and state is not FindingState.SETTLED
    )
    detail.update(
        meter.finish()
        | {
            "keys": totals.scanned,
            "bytes": meter.size,
            "source_keys": subject.keys,
            "target_keys": sum(identity.databases.get(number, 0) for number in onto),
            "compared": coverage.compared,
            "equal": totals.equal_keys,
            "vanished": totals.vanished,
            "unreadable": unreadable,
            "big": totals.big,
            "excluded": dict(totals.excluded),
            "out_of_scope": totals.out_of_scope,
            "target_scanned": totals.target_scanned,
            "extra": extra,
            "rechecks": 0,
            "settled": 0,
            "expiry_tolerance_ms": settings.verify.expiry_tolerance_ms,
            "field_expiries": True,
            "max_expiry_drift_ms": totals.max_expiry_drift_ms,
            "fingerprints": totals.fingerprints(),
            "throttle": pace.summary(),
        }
    )
    run.handle.tally(PhaseName.VERIFY, {place: (keys, 0) for place, keys in totals.tallies.items()})
    return conclude(coverage, counts, waived=waived.findings, notes=waived.notes())
