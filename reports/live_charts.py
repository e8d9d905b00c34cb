"""Charts of what happened live: steps on their time axis, and numbers over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final
from xml.etree.ElementTree import Element, SubElement

from integrity.ledger.vocabulary import StepState
from reports.display import duration
from reports.drawing import Chart, box, label, markup, new_svg, plot, stroke
from reports.live import OperationView
from reports.series import Series, Span

_ROW: Final = 38
_PATTERNS: Final = {
    StepState.DONE: "solid",
    StepState.UNDONE: "dotted",
    StepState.FAILED: "hatched",
    StepState.RUNNING: "outlined",
    StepState.PENDING: "outlined",
}


def steps_chart(operation: OperationView) -> Chart | None:
    """A bar per step on a common time axis, its budget as an outline; None where no step began."""
    begun = [step for step in operation.steps if step.start_seconds is not None]
    if not begun:
        return None
    ends = [(step.start_seconds or 0.0) + (step.seconds or 0.0) for step in begun]
    budgets = [(step.start_seconds or 0.0) + step.budget_seconds for step in begun]
    # Budgets are generous: an axis that held them all would leave nothing to see of the steps themselves.
    span = max(min(max(budgets), 1.5 * max(ends)), *ends, 0.001)
    told = "; ".join(
        f"{step.name} {step.state.value}, from {duration(step.start_seconds)}"
        + (f" for {duration(step.seconds)}" if step.seconds is not None else ", without an end")
        + f", budget {duration(step.budget_seconds)}"
        for step in begun
    )
    title = "Steps on a common time axis"
    height = _ROW * len(begun) + 22
    svg = new_svg("steps", "operation", height, title, told)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        stroke(svg, (100 * share, 0), (100 * share, height - 20), "grid")
    for index, step in enumerate(begun):
        top, start = index * _ROW, 100 * (step.start_seconds or 0.0) / span
        over = " – over its budget" if step.over_budget else ""
        took = duration(step.seconds) if step.seconds is not None else "no end"
        label(svg, "0", top + 14, f"{step.name} · {step.state.value}")
        label(svg, "100%", top + 14, f"{took} of {duration(step.budget_seconds)}{over}", end=True)
        _outline(svg, start, 100 * step.budget_seconds / span, top + 20)
        length = step.seconds if step.seconds is not None else span - (step.start_seconds or 0.0)
        box(svg, start, min(start + 100 * length / span, 100.0), top + 23, 7, _PATTERNS[step.state])
    label(svg, "0", height - 4, "0 s")
    label(svg, "100%", height - 4, duration(span), end=True)
    used = [state for state in _PATTERNS if any(step.state is state for step in begun)]
    legend = (*((_PATTERNS[state], state.value) for state in used), ("budget", "budget"))
    return Chart(title, told, markup(svg), legend)


def _outline(svg: Element, start: float, length: float, top: int) -> None:
    """A budget; open at the right where it goes beyond the axis."""
    end = min(start + length, 100.0)
    stroke(svg, (start, top), (end, top), "budget")
    stroke(svg, (start, top + 13), (end, top + 13), "budget")
    stroke(svg, (start, top), (start, top + 13), "budget")
    if start + length <= 100.0:
        stroke(svg, (end, top), (end, top + 13), "budget")


# -- numbers over time -------------------------------------------------------------------------------------------------


def series_chart(
    series: Series,
    title: str,
    shown: Callable[[float], str],
    *,
    baseline: float | None = None,
    spans: Sequence[Span] = (),
    marked: str = "",
) -> Chart | None:
    """A line over time, with a dashed one for the baseline and hatched times; None with fewer than two points.

    :param shown: how a value is written.
    :param marked: what the hatched times are.
    """
    if len(series.points) < 2 or series.points[-1].seconds <= series.points[0].seconds:
        return None
    begin, end = series.points[0].seconds, series.points[-1].seconds
    top = max(series.highest, baseline or 0.0)
    told = (
        f"From {duration(begin)} to {duration(end)}: lowest {shown(series.lowest)}, median {shown(series.median)}, "
        f"highest {shown(series.highest)}, last {shown(series.last)}"
        + (f"; baseline {shown(baseline)}." if baseline is not None else ".")
    )
    svg = new_svg("series", series.name, 132, title, told)

    def across(seconds: float) -> float:
        return min(max((seconds - begin) / (end - begin), 0.0), 1.0)

    marks = [span for span in spans if span.start <= end and (span.end is None or span.end >= begin)]
    for span in marks:
        until = across(span.end) if span.end is not None else 1.0
        box(svg, 100 * across(span.start), 100 * until, 22, 84, "span")
    for share in (0.0, 0.5, 1.0):
        stroke(svg, (0, 22 + 84 * share), (100, 22 + 84 * share), "grid")
    line = " ".join(
        f"{1000 * across(point.seconds):.2f},{84 - (84 * max(point.value, 0.0) / top if top > 0 else 0):.2f}"
        for point in series.points
    )
    inner = plot(svg, 22, 84)
    SubElement(inner, "polygon", {"points": f"0,84 {line} 1000,84", "class": "area"})
    SubElement(inner, "polyline", {"points": line, "class": "line", "vector-effect": "non-scaling-stroke"})
    if baseline is not None:
        at = 106 - (84 * max(baseline, 0.0) / top if top > 0 else 0)
        stroke(svg, (0, at), (100, at), "budget")
    label(svg, "0", 16, shown(top))
    if baseline is not None:
        label(svg, "100%", 16, f"baseline {shown(baseline)}", end=True)
    label(svg, "0", 126, duration(begin))
    label(svg, "100%", 126, duration(end), end=True)
    legend = (("span", marked),) if marks and marked else ()
    return Chart(title, told, markup(svg), legend)
