"""The report as one HTML file that opens offline: no script, no external request.

The file is written piece by piece, so that its findings are never in memory all at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from integrity.ledger import Ledger
from integrity.ledger.models import FindingClass, FindingState, PhaseName
from reports import display
from reports.assess_text import evidence_rows
from reports.beside import Beside
from reports.charts import findings_by_class, histogram, keys_by_type, throughput
from reports.configuration import configuration_rows
from reports.course import CopyView
from reports.drawing import Chart
from reports.events import EventView
from reports.facts import Facts, flatten, integer, number
from reports.fences import FENCE_METHODS
from reports.findings import CLASS_MEANING, STATE_MEANING, FindingView, Side, first_findings, holder_of
from reports.live_page import live_page
from reports.live_text import any_text, moment_text, number_text, offset, pairs, share_text, step_detail
from reports.model import Amount, CountRow, Coverage, FindingCount, PhaseView, RunReport
from reports.repairs import ACTION_MEANING, all_repairs
from reports.sections import sections_of
from reports.shape_charts import latency_charts, ranges_map, shape_charts

if TYPE_CHECKING:
    from jinja2 import Environment

FINDINGS_SHOWN: Final = 2_000
"""Of all classes together: more makes a page that no browser likes and nobody reads."""
REPAIRS_SHOWN: Final = 2_000
INCIDENTS_SHOWN: Final = 100
EVENTS_SHOWN: Final = 1_000
"""Of the audit events half of them from the beginning, half from the end."""
KEY_BYTES_SHOWN: Final = 1_000
"""Of a longer key the beginning is shown; the JSON and CSV files hold it whole."""


_TOLD_OF_OTHERS: Final = 240


@dataclass(frozen=True, slots=True)
class FindingClassView:
    """The findings of one class that the page shows, and how many there are."""

    counts: FindingCount
    shown: int
    rows: Iterator[FindingView]


@dataclass(frozen=True, slots=True)
class ShownKey:
    """A key as text, and how many of its bytes are not shown."""

    text: str
    left_out: int


def write_html(
    ledger: Ledger,
    report: RunReport,
    path: Path,
    *,
    json_name: str | None = None,
    csv_name: str | None = None,
    parquet_name: str | None = None,
) -> None:
    """Write the page.

    :param json_name: the file beside it that has all facts; None where there is none, and so with the other names.
    """
    shares = _shares(report.finding_counts)
    template = _environment().get_template("report.html.jinja")
    stream = template.stream(
        report=report,
        sections=sections_of(report),
        live=live_page(report),
        throughputs=tuple(map(throughput, report.phases)),
        types=keys_by_type(report.counts),
        configuration=configuration_rows(report.configuration),
        histograms=_histograms(report),
        shapes=shape_charts(report.finding_shapes),
        ranges=ranges_map(report.ranges),
        latencies=latency_charts(report.throttle),
        class_meaning=CLASS_MEANING,
        found_by_class={row.finding_class: row.total for row in report.finding_counts},
        classes=findings_by_class(report.finding_counts),
        totals=_totals(report.counts),
        phases_counted=[
            name
            for name in ("snapshot", "stream", "verify")
            if any(getattr(row, name) is not None for row in report.counts)
        ],
        finding_classes=(
            _finding_class(ledger, report, row, shares[row.finding_class]) for row in report.finding_counts
        ),
        findings_shown=sum(shares.values()),
        repair_rows=all_repairs(ledger, report.run.run_id, REPAIRS_SHOWN),
        action_meaning=ACTION_MEANING,
        repairs_shown=REPAIRS_SHOWN,
        incidents_shown=INCIDENTS_SHOWN,
        state_meaning=STATE_MEANING,
        fence_methods=FENCE_METHODS,
        open_findings=sum(row.by_state.get(FindingState.OPEN, 0) for row in report.finding_counts),
        events=_events(report.timeline),
        beside=Beside(report.run.run_id, json_name, csv_name, parquet_name),
    )
    stream.enable_buffering(64)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for piece in stream:
            file.write(piece)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=display.count,
        size=display.size,
        duration=display.duration,
        moment=display.moment,
        expiry=display.expiry,
        byte_rate=display.byte_rate,
        rate=display.rate,
        shown_key=shown_key,
        flatten=lambda table: tuple(flatten(table)),
        told=told,
        evidence=evidence_rows,
        event_time=event_time,
        milliseconds=display.latency,
        number_text=number_text,
        any_text=any_text,
        moment_text=moment_text,
        offset=offset,
        pairs=pairs,
        share_text=share_text,
        step_detail=step_detail,
        waited=waited,
        more_detail=more_detail,
        cut=cut,
        shortened=shortened,
        ended=display.ended,
        words=lambda name: str(name).replace("_", " "),
    )
    environment.globals.update(
        UNKNOWN=display.UNKNOWN,
        percent=display.percent,
        counted=display.counted,
        side_fate=side_fate,
        said_of=said_of,
        pace_limits=pace_limits,
        drift=drift,
    )
    environment.tests["same_keys"] = same_keys
    return environment


def _histograms(report: RunReport) -> tuple[Chart, ...]:
    census = report.assessment.census if report.assessment is not None else None
    return tuple(map(histogram, census.histograms)) if census is not None else ()


def _shares(rows: Sequence[FindingCount]) -> dict[FindingClass, int]:
    """How many findings of each class the page shows: what one class does not need is left to the others."""
    shares, left = {}, FINDINGS_SHOWN
    ordered = sorted(rows, key=lambda row: row.total)
    for index, row in enumerate(ordered):
        shares[row.finding_class] = min(row.total, max(1, left // (len(ordered) - index)))
        left -= shares[row.finding_class]
    return shares


def _events(timeline: Sequence[EventView]) -> tuple[tuple[EventView, ...], tuple[EventView, ...]]:
    """The events before and after those that the page leaves out."""
    if len(timeline) <= EVENTS_SHOWN:
        return tuple(timeline), ()
    half = EVENTS_SHOWN // 2
    return tuple(timeline[:half]), tuple(timeline[-half:])


def _finding_class(ledger: Ledger, report: RunReport, row: FindingCount, shown: int) -> FindingClassView:
    holder = holder_of(report, row.finding_class)
    return FindingClassView(row, shown, first_findings(ledger, holder, row.finding_class, shown))


def shown_key(key: bytes, length: int | None = None) -> ShownKey:
    """The key's text, cut between characters where it is very long.

    :param length: of the whole key, where *key* is only its beginning.
    """
    whole = len(key) if length is None else length
    if whole <= KEY_BYTES_SHOWN:
        return ShownKey(display.key_text(key), 0)
    end = KEY_BYTES_SHOWN
    while end > KEY_BYTES_SHOWN - 3 and key[end] & 0xC0 == 0x80:
        end -= 1
    return ShownKey(display.key_text(key[:end]), whole - end)


def cut(text: str) -> str:
    """A text that is shown in a table's cell."""
    return text if len(text) <= KEY_BYTES_SHOWN else f"{text[:KEY_BYTES_SHOWN]}…"


def shortened(text: str) -> str:
    """The beginning of a text that stands whole in the report of another run."""
    return text if len(text) <= _TOLD_OF_OTHERS else f"{text[:_TOLD_OF_OTHERS].rpartition(' ')[0]} …"


def side_fate(finding: FindingView, side: Side, role: str) -> str | None:
    """What is said of a side about which nothing is recorded."""
    if side.known:
        return None
    absent = {FindingClass.MISSING: "target", FindingClass.EXTRA: "source"}.get(finding.finding_class)
    return "does not have the key" if absent == role else "nothing recorded"


def drift(finding: FindingView) -> str | None:
    """How far apart two expiries are, in words."""
    apart = finding.expiry_drift_ms
    if not apart or f"{abs(apart):,} ms" in finding.detail:
        return None
    return f"The target's expiry is {abs(apart):,} ms {'later' if apart > 0 else 'earlier'}."


_SHOWN_BY_THE_SIDES: Final = frozenset({"the target does not have this key", "only the target has this key"})


def said_of(finding: FindingView) -> str:
    """The finding's detail as a sentence, without the rule, which is shown beside it."""
    text = finding.detail.removesuffix(f" (rule {finding.rule})")
    if text in _SHOWN_BY_THE_SIDES:
        return ""
    return display.ended(f"{text[:1].upper()}{text[1:]}") if text else ""


def waited(reasons: Mapping[str, float]) -> str:
    """What a phase waited for, and how long."""
    return (
        "; ".join(f"{reason}: {display.duration(seconds)}" for reason, seconds in reasons.items())
        or "nothing"
    )


def pace_limits(configuration: Facts) -> str | None:
    """The limits that the run was started with, in a sentence; None where the settings name none."""
    settings = configuration.get("throttle")
    if not isinstance(settings, dict):
        return None
    latency = number(settings, "max_latency_ms")
    parts = (
        f"no server more than {latency:g} ms later than when it was quiet"
        if settings.get("enabled") is True and latency is not None
        else "no limit on latency (it was not measured)",
        "no cap on keys"
        if (keys := integer(settings, "keys_per_second")) is None
        else f"{display.count(keys)} keys a second",
        "no cap on bytes"
        if (size := integer(settings, "bytes_per_second")) is None
        else f"{display.size(size)} a second",
    )
    return f"Limits that the run was started with: {', '.join(parts)}."


def same_keys(row: CountRow) -> bool:
    """Whether all phases that counted this type counted the same number of keys."""
    return len({amount.keys for amount in (row.snapshot, row.stream, row.verify) if amount is not None}) <= 1


def event_time(text: str) -> str:
    """An event's time to the millisecond; a text that is no time is shown as it is."""
    try:
        return display.moment(datetime.fromisoformat(text), milliseconds=True).removesuffix(" UTC")
    except ValueError:
        return text


def told(event: EventView) -> str:
    """An event's payload in a line; what other sections show in full is left out."""
    left_out = {"detail", "source", "target", "gates", "canary", "plan", "baseline", "values"}
    # The payload comes sorted by name; a reader wants to know first what it is about.
    first = [name for name in ("phase", "step", "kind", "verdict", "reason", "keys") if name in event.payload]
    known = {
        name: event.payload[name]
        for name in (*first, *(other for other in event.payload if other not in first))
        if name not in left_out and event.payload[name] not in (None, "")
    }
    return " · ".join(f"{name}: {shown}" for name, shown in flatten(known))


_SHOWN_ELSEWHERE: Final = re.compile(
    r"(?:client_cpu_)?seconds|rechecked_at|(?:afterwards|fingerprints|throttle|last|excluded|rules|outcomes|dropped|causes)(?:\..*)?"
)
_IN_OTHER_SECTIONS: Final[Mapping[PhaseName, frozenset[str]]] = {
    PhaseName.ASSESS: frozenset(
        {
            "strategy",
            "why",
            "looked_at",
            "mode",
            "grade",
            "verdict",
            "checks",
            "blocking",
            "waived",
            "warnings",
        }
        | {"left_out"}
    ),
    PhaseName.STREAM: frozenset(field.name for field in fields(CopyView)) - {"batches"},
    PhaseName.SYNC: frozenset(
        {"removed", "direction", "feed", "passes", "gap", "gaps", "stuck", "dirty", "unproven", "clean_since"}
    ),
    PhaseName.WATCH: frozenset({"breaches"}),
    PhaseName.REPAIR: frozenset({"repairs", "still_open", "findings"}),
    PhaseName.REPLICATE: frozenset({"full_syncs", "restarts", "sentinels", "only_offsets", "attached"}),
    PhaseName.VERIFY: frozenset(
        (*(field.name for field in fields(Coverage)), "expiry_tolerance_ms", "max_expiry_drift_ms")
    ),
}


def more_detail(phase: PhaseView) -> tuple[tuple[str, str], ...]:
    """What a phase recorded that no other section shows."""
    elsewhere = _IN_OTHER_SECTIONS.get(phase.name, frozenset())
    return tuple(
        (name, shown)
        for name, shown in flatten(phase.detail)
        if name not in elsewhere and not _SHOWN_ELSEWHERE.fullmatch(name)
    )


def _totals(rows: tuple[CountRow, ...]) -> CountRow:
    def total(amounts: list[Amount | None]) -> Amount | None:
        known = [amount for amount in amounts if amount is not None]
        return Amount(sum(a.keys for a in known), sum(a.bytes for a in known)) if known else None

    return CountRow(
        database=-1,
        kind="all",
        snapshot=total([row.snapshot for row in rows]),
        stream=total([row.stream for row in rows]),
        verify=total([row.verify for row in rows]),
    )
