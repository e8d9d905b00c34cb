"""Charts of where findings are, of the ranges of a run, and of how late the servers answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from xml.etree.ElementTree import SubElement

from integrity.ledger.models import FindingState
from reports.course import RangesRow, RangeState
from reports.display import count, counted, duration, latency
from reports.drawing import ROW, Chart, bar, box, label, markup, new_svg, plot, stroke
from reports.finding_shapes import FindingShapes, ShapeRow
from reports.throttle import Latency, ThrottleView

_NO_PREFIX: Final = "(no part that ends with :)"
_NAME_SHOWN: Final = 70
"""Characters; a table beside the chart has the whole name."""
_CELLS: Final[dict[RangeState, str]] = {"done": "solid", "begun": "hatched", "not begun": "outlined"}
_ROWS_DRAWN: Final = 40


def shape_charts(shapes: FindingShapes | None) -> tuple[Chart, ...]:
    """Findings by type, and by how their keys begin."""
    if shapes is None:
        return ()
    by_type = _bars("by-type", "Findings by type", shapes.by_type)
    named = [row if row.name else ShapeRow(_NO_PREFIX, row.open, row.exceptions) for row in shapes.by_prefix]
    by_prefix = _bars("by-prefix", "Findings by how their keys begin", named)
    return by_type, by_prefix


def _bars(name: str, title: str, rows: Sequence[ShapeRow]) -> Chart:
    told = "; ".join(f"{row.name}: {count(row.open)} open, {count(row.exceptions)} expected" for row in rows)
    svg = new_svg("bars", name, ROW * len(rows), title, told)
    most = max((row.total for row in rows), default=1)
    for index, row in enumerate(rows):
        shown = row.name if len(row.name) <= _NAME_SHOWN else f"{row.name[:_NAME_SHOWN]}…"
        bar(svg, index, shown, count(row.total), [("solid", row.open), ("hatched", row.exceptions)], most)
    legend = [("solid", FindingState.OPEN.value)] if any(row.open for row in rows) else []
    legend += [("hatched", FindingState.EXCEPTION.value)] if any(row.exceptions for row in rows) else []
    return Chart(title, told, markup(svg), tuple(legend))


def ranges_map(rows: Sequence[RangesRow]) -> Chart | None:
    """A strip for each phase and database, a cell for each range; None where there is no range."""
    drawn = rows[:_ROWS_DRAWN]
    if not drawn:
        return None
    title = "Ranges of keys and their states"
    told = "; ".join(
        f"{row.phase.value}, database {row.database}: {row.done:,} of {counted(row.ranges, 'range')} done, "
        f"{row.begun - row.done:,} begun, {max(0, row.ranges - row.begun):,} not begun"
        for row in drawn
    )
    svg = new_svg("cells", "ranges", ROW * len(drawn), title, told)
    for index, row in enumerate(drawn):
        top, whole = index * ROW, row.cells[-1].last + 1
        label(svg, "0", top + 13, f"{row.phase.value} · database {row.database}")
        label(svg, "100%", top + 13, f"{count(row.done)} of {count(row.ranges)} done", end=True)
        for cell in row.cells:
            box(
                svg,
                100 * cell.first / whole,
                100 * (cell.last + 1) / whole,
                top + 19,
                10,
                f"{_CELLS[cell.state]} cell",
            )
    states = {cell.state for row in drawn for cell in row.cells}
    return Chart(
        title, told, markup(svg), tuple((_CELLS[state], state) for state in _CELLS if state in states)
    )


def latency_charts(throttle: Sequence[ThrottleView]) -> tuple[Chart, ...]:
    """One for each phase and server that was measured over time."""
    charts = (_latency(held, server) for held in throttle for server in held.latency)
    return tuple(chart for chart in charts if chart is not None)


def _latency(held: ThrottleView, server: Latency) -> Chart | None:
    points = server.over_time
    begin, end = (points[0].seconds, points[-1].seconds) if points else (0.0, 0.0)
    if end <= begin:
        return None
    top = max(*(point.worst for point in points), server.quiet or 0.0, 0.01)
    title = f"How late the {server.server} answered: {held.phase.value}"
    told = (
        f"From {duration(begin)} to {duration(end)} after the begin of the run: mean {latency(server.mean)}, worst "
        f"{latency(server.worst)}, {latency(server.quiet)} when it was quiet."
    )
    svg = new_svg("latency", f"{held.phase.value}-{server.server}", 132, title, told)
    for share in (0.0, 0.5, 1.0):
        stroke(svg, (0, 22 + 84 * share), (100, 22 + 84 * share), "grid")
    inner = plot(svg, 22, 84)

    def line(values: Sequence[float]) -> str:
        return " ".join(
            f"{1000 * (point.seconds - begin) / (end - begin):.2f},{84 - 84 * value / top:.2f}"
            for point, value in zip(points, values, strict=True)
        )

    worst = line([point.worst for point in points])
    mean = line([point.mean for point in points])
    fixed = {"vector-effect": "non-scaling-stroke"}
    SubElement(inner, "polygon", {"points": f"0,84 {worst} 1000,84", "class": "area"})
    SubElement(inner, "polyline", {"points": worst, "class": "line", **fixed})
    SubElement(inner, "polyline", {"points": mean, "class": "mean", **fixed})
    label(svg, "0", 16, f"worst {latency(top)}")
    if server.quiet is not None:
        label(svg, "100%", 16, f"quiet {latency(server.quiet)}", end=True)
    label(svg, "0", 126, duration(begin))
    label(svg, "100%", 126, duration(end), end=True)
    return Chart(
        title, told, markup(svg), (("line", "worst of each moment"), ("mean", "mean of each moment"))
    )
