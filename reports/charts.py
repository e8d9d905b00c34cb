"""Charts of what was copied and compared: throughput, keys by type, findings by class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final
from xml.etree.ElementTree import SubElement

from integrity.ledger.models import FindingState
from reports.assessing import Histogram
from reports.display import count, counted, duration, rate, size
from reports.drawing import ROW, Chart, bar, label, markup, new_svg, plot
from reports.model import Amount, CountRow, FindingCount, PhaseView

_MOST_STEPS: Final = 80
_SHORTEST_SECONDS: Final = 0.2
_PATTERNS: Final = {
    FindingState.OPEN: "solid",
    FindingState.EXCEPTION: "hatched",
    FindingState.SETTLED: "outlined",
    FindingState.REPAIRED: "dotted",
}


@dataclass(frozen=True, slots=True)
class Throughput:
    """One phase's progress: the picture where there is one, and the numbers always."""

    phase: PhaseView
    chart: Chart | None
    slowest: float | None
    fastest: float | None
    points: int


def throughput(phase: PhaseView) -> Throughput:
    """Keys per second over the time of one phase, as steps between its measurements."""
    steps = _steps(phase)
    if len(steps) < 2:
        return Throughput(phase, None, None, None, len(phase.samples))
    rates = [keys / seconds for seconds, keys in steps]
    top, end = max(rates), sum(seconds for seconds, _ in steps)
    title = f"Keys per second while {_DOING.get(phase.name.value, phase.name.value)}"
    description = (
        f"{counted(len(steps), 'step')} in {duration(end)}: slowest {rate(min(rates), 'keys')}, fastest "
        f"{rate(top, 'keys')}."
    )
    svg = new_svg("throughput", phase.name.value, 158, title, description)
    for share in (0.0, 0.5, 1.0):
        y = 22 + 108 * (1 - share)
        SubElement(svg, "line", {"x1": "0", "x2": "100%", "y1": f"{y:g}", "y2": f"{y:g}", "class": "grid"})
    inner = plot(svg, 22, 108)
    outline, at = [], 0.0
    for (seconds, _), value in zip(steps, rates, strict=True):
        y = 108 - (108 * value / top if top else 0)
        outline.append(f"{1000 * at / end:.2f},{y:.2f}")
        at += seconds
        outline.append(f"{1000 * at / end:.2f},{y:.2f}")
    SubElement(inner, "polygon", {"points": f"0,108 {' '.join(outline)} 1000,108", "class": "area"})
    SubElement(
        inner,
        "polyline",
        {"points": " ".join(outline), "class": "line", "vector-effect": "non-scaling-stroke"},
    )
    label(svg, "0", 16, rate(top, "keys"))
    label(svg, "0", 150, "0 s")
    label(svg, "100%", 150, duration(end), end=True)
    return Throughput(phase, Chart(title, description, markup(svg)), min(rates), top, len(phase.samples))


_DOING: Final = {
    "snapshot": "taking the snapshot",
    "stream": "streaming",
    "replicate": "replicating",
    "verify": "verifying",
}


def _steps(phase: PhaseView) -> list[tuple[float, int]]:
    """(seconds, keys) between measurements, neighbours merged where they are too close to tell anything.

    A process that takes a run over may count from an older checkpoint: keys that go back are shown as none.
    """
    if not phase.samples:
        return []
    # The first measurement is usually taken before the first key: time until then is not part of the work.
    first = phase.samples[0]
    points = [(first.seconds, 0) if first.keys == 0 else (0.0, 0)]
    shortest = max((phase.samples[-1].seconds - points[0][0]) / _MOST_STEPS, _SHORTEST_SECONDS)
    for sample in phase.samples:
        if sample.seconds - points[-1][0] >= shortest:
            points.append((sample.seconds, sample.keys))
    last = phase.samples[-1]
    if len(points) > 1 and last.seconds > points[-1][0]:
        points[-1] = (last.seconds, last.keys)
    return [(b[0] - a[0], max(b[1] - a[1], 0)) for a, b in pairwise(points)]


def keys_by_type(rows: Sequence[CountRow]) -> Chart | None:
    """Horizontal bars, from the last phase that counted; None where none did."""
    for phase in ("verify", "stream", "snapshot"):
        sums: dict[str, int] = defaultdict(int)
        for row in rows:
            amounts: dict[str, Amount | None] = {
                "verify": row.verify,
                "stream": row.stream,
                "snapshot": row.snapshot,
            }
            amount = amounts[phase]
            if amount is not None:
                sums[row.kind] += amount.keys
        if sums:
            ordered = sorted(sums.items(), key=lambda item: (-item[1], item[0]))
            told = "; ".join(f"{kind} {count(keys)}" for kind, keys in ordered)
            title = f"Keys by type, as the {phase} phase counted them"
            svg = new_svg("bars", "types", ROW * len(ordered), title, told)
            for index, (kind, keys) in enumerate(ordered):
                bar(svg, index, kind, count(keys), [("solid", keys)], ordered[0][1])
            return Chart(title, told, markup(svg))
    return None


def findings_by_class(rows: Sequence[FindingCount]) -> Chart | None:
    """Horizontal bars, one piece per state; None where nothing was found."""
    if not rows:
        return None
    title = "Findings by class and state"
    told = "; ".join(
        f"{row.finding_class.value}: "
        + ", ".join(f"{count(n)} {state.value}" for state, n in row.by_state.items())
        for row in rows
    )
    svg = new_svg("bars", "findings", ROW * len(rows), title, told)
    most = max(row.total for row in rows)
    for index, row in enumerate(rows):
        pieces = [(_PATTERNS[state], row.by_state.get(state, 0)) for state in _PATTERNS]
        bar(svg, index, row.finding_class.value, count(row.total), pieces, most)
    used = [state for state in _PATTERNS if any(row.by_state.get(state) for row in rows)]
    return Chart(title, told, markup(svg), tuple((_PATTERNS[state], state.value) for state in used))


def histogram(shown: Histogram) -> Chart:
    """Horizontal bars in the order of the labels."""
    rows = [(name.replace("<=", "≤ ").replace(">", "> "), number) for name, number in shown.rows]
    told = "; ".join(f"{name} {_told(shown, number)}" for name, number in rows)
    svg = new_svg("bars", f"census-{shown.name}", ROW * len(shown.rows), shown.title, told)
    most = max((number for _, number in shown.rows), default=0)
    for index, (name, number) in enumerate(rows):
        bar(svg, index, name, _told(shown, number), [("solid", number)], max(most, 1))
    return Chart(shown.title, told, markup(svg))


def _told(shown: Histogram, number: int) -> str:
    return size(number) if shown.unit == "bytes" else count(number)
