"""What a run's check cannot show: said in every report, whatever its verdict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from integrity.ledger.models import Run, RunKind
from reports import facts
from reports.display import size
from reports.model import Coverage, EndpointView
from reports.rules import RulesView
from reports.story import LIVE_KINDS

_AUDIT_CHAIN: Final = (
    "Audit chain: it shows that an event was changed, removed or moved. A bare chain cannot show that its newest "
    "events were cut off; keep the head hash elsewhere to notice that."
)
_ALWAYS: Final = (
    "Checksums: XXH3 finds accidents, not adversaries. Someone who can choose values can make two different ones with "
    "the same digest.",
    _AUDIT_CHAIN,
    "Snapshot: one that is read with SCAN is no point in time if the source was written to meanwhile: each batch is "
    "consistent in itself, two batches can be from different moments. One that came by replication is one moment.",
    "Live sources: a verdict speaks about the moments at which the keys were read. What was written later is not "
    "covered.",
    "Samples: keys are not sampled. Throughput and latency are, about once and ten times a second and by Greenfly "
    "itself; a shorter stall between two samples is not seen.",
    "Streams: idle times of consumers and pending entries, and the groups' entries-read counters, are not compared.",
    "Expiries: they are compared as absolute times, with the tolerance stated above.",
)

_OPERATION: Final = (
    "Write pause: it is what one client saw that wrote one key. A client that pools connections, reads its environment "
    "seldom, or waits before it tries again sees a longer one.",
    "Gates: their values are those of the moment at which they were looked at, before anything was done.",
    "Steps: their times are by the clock of the process that took them. Where another process took over, the time in "
    "between belongs to no step.",
    "Applications: that they moved is seen in the servers' client lists, or told by the environment switch. A client "
    "that connects later with an old address is not seen here; the fence refuses its writes.",
)
_ASSESS: Final = (
    "Counters: which commands applications use is told by the source's own counts since it was started, or since they "
    "were reset. What is used once a quarter may not be among them.",
    "Sample: where not every key was looked at, a kind of key that is rare may have been missed.",
    "Moment: an assessment is true of the time at which it was made. The gate of a cutover looks again, at all but the "
    "keys.",
    "Checks: they know what is listed here, and nothing else. An application's own test on the target is not replaced.",
)
_LIVE: Final[dict[RunKind, tuple[str, ...]]] = {
    RunKind.SYNC: (
        "Feeds: some changes are announced by no feed (a swap of databases, the state of a stream's groups). They are "
        "found by looking for them in rounds and by passes over all keys.",
        "Lag: it is sampled. What waited for a shorter time between two samples is not seen in the chart.",
    ),
    RunKind.CUTOVER: _OPERATION,
    RunKind.ROLLBACK: (
        *_OPERATION,
        "Keys at risk: only changes that the feed announced while green lived can be named.",
    ),
    RunKind.WATCH: (
        "Health: it is measured from where Greenfly runs, by a probe of its own. What applications see over their "
        "network can be better or worse, and what happened between two samples is not seen.",
    ),
}


def limits_of(
    run: Run, coverage: Coverage | None, rules: RulesView, source: EndpointView | None
) -> tuple[str, ...]:
    """The limits of the check that this run made, or of what it watched and did."""
    if run.kind is RunKind.ASSESS:
        return (_AUDIT_CHAIN, *_ASSESS)
    live = _LIVE.get(run.kind, ())
    if run.kind in LIVE_KINDS and run.kind is not RunKind.SYNC:
        return (_AUDIT_CHAIN, *live)
    return (*_ALWAYS, *live, *_of_this_run(run, coverage, rules, source))


def _of_this_run(
    run: Run, coverage: Coverage | None, rules: RulesView, source: EndpointView | None
) -> Iterator[str]:
    if coverage is not None and coverage.field_expiries is not None:
        yield f"Hash fields: {_field_expiries(run, compared=coverage.field_expiries)}"
    threshold = facts.integer(facts.table(run.settings, "big_values"), "threshold_bytes")
    if threshold is not None:
        yield (
            f"Big values: those above {size(threshold)} are read in pieces. One that changes meanwhile is read again, "
            "three times at most. A set in which one member takes another's place while it is read keeps its count, "
            "which hides the change from the reading; its digest then differs from the other side's, until a later "
            "look finds it at rest."
        )
    if rules.any:
        yield "Rules: the verdict speaks only of the keys that the run's rules select."
    if rules.sizes:
        yield (
            "Sizes: the source estimates the size of a large collection from a few of its elements. A key close to a "
            "limit can fall on either side of it from one reading to the next."
        )
    if source is not None and source.read_from is not None:
        yield (
            "Replica: the keys were read from a replica, which had applied what the source had written when the run, "
            "and again when the verification, began. What was written to the source later is not covered."
        )
    if run.kind is RunKind.REPAIR:
        yield "Repair: only keys that the repaired run found to differ were looked at, and no others."


def _field_expiries(run: Run, *, compared: bool) -> str:
    if compared:
        engines = {facts.text(side or {}, "engine") for side in (run.source, run.target)}
        seconds = " Dragonfly keeps them in whole seconds." if "dragonfly" in engines else ""
        return f"the expiries of single fields were compared, with the same tolerance.{seconds}"
    if facts.text(facts.table(run.settings, "verify"), "field_expiries") == "never":
        return "the expiries of single fields were not compared, because the run's settings say never."
    return "neither server says that it holds expiries of single fields, so they were not asked for."
