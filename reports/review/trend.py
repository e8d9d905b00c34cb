"""How runs went, one after the other: how long they took, and how many findings they left open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from xml.etree.ElementTree import Element, SubElement

from reports import display
from reports.drawing import Chart, box, label, markup, new_svg

if TYPE_CHECKING:
    from reports.review.run_list import RunRow

COUNTED_TO: Final = 10_000
"""Open findings are not counted any further in a list."""
_FEWEST: Final = 2
_BAND: Final = 46
_GAP: Final = 22


def trend_chart(rows: Sequence[RunRow]) -> Chart | None:
    """The runs of a list, oldest first; None where there is nothing to compare."""
    if len(rows) < _FEWEST:
        return None
    longest = max(row.seconds or 0.0 for row in rows)
    open_findings = max(row.open_findings for row in rows)
    most = (
        display.count(open_findings) if open_findings <= COUNTED_TO else f"over {display.count(COUNTED_TO)}"
    )
    title = f"How the last {len(rows)} ended runs of this list went, oldest first"
    description = (
        f"The longest took {display.duration(longest)}; the most findings left open are {most}. "
        "The table below has the numbers of each."
    )
    svg = new_svg("trend", "runs", 2 * (_BAND + _GAP), title, description)
    _band(
        svg, 0, f"time taken, longest {display.duration(longest)}", [r.seconds or 0.0 for r in rows], "solid"
    )
    _band(
        svg,
        _BAND + _GAP,
        f"findings left open, most {most}",
        [float(r.open_findings) for r in rows],
        "strong",
    )
    return Chart(title, description, markup(svg))


def _band(svg: Element, top: int, text: str, values: Sequence[float], filling: str) -> None:
    label(svg, "0", top + 13, text)
    base, highest = top + _GAP + _BAND - 2, max(values)
    SubElement(svg, "line", {"x1": "0", "x2": "100%", "y1": str(base), "y2": str(base), "class": "grid"})
    width = min(100 / len(values), 6.0)
    for place, value in enumerate(values):
        if value:
            height = max(1.5, (_BAND - 8) * value / highest)
            box(svg, place * width + 0.1 * width, (place + 0.9) * width, base - height, height, filling)
