"""Charts as inline SVG, with their text alternatives: what all of them are drawn with.

Lengths are percentages of the width and text has a fixed size, so that a chart stays readable on a narrow screen.
Nothing is told by colour alone: bars carry their numbers, states have their own fillings (the page defines the
patterns once).  Elements are built as a tree, never as text, so that a name from a server cannot become markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

ROW: Final = 34
"""Pixels that a bar takes with its name above it."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture and its numbers."""

    title: str
    description: str
    svg: Markup
    legend: tuple[tuple[str, str], ...] = ()
    """(filling, what it means)"""


def new_svg(shape: str, name: str, height: int, title: str, description: str) -> Element:
    """An empty picture; *shape* and *name* together must be unique in the page."""
    identifier = f"chart-{shape}-{name}"
    svg = Element(
        "svg",
        {
            "class": f"chart {shape}",
            "role": "img",
            "aria-labelledby": f"{identifier}-title {identifier}-desc",
            "width": "100%",
            "height": str(height),
        },
    )
    SubElement(svg, "title", {"id": f"{identifier}-title"}).text = title
    SubElement(svg, "desc", {"id": f"{identifier}-desc"}).text = description
    return svg


def plot(svg: Element, top: int, height: int) -> Element:
    """An area whose coordinates go from 0 to 1000 across, however wide the page is; for lines, not for text."""
    return SubElement(
        svg,
        "svg",
        {
            "x": "0",
            "y": str(top),
            "width": "100%",
            "height": str(height),
            "viewBox": f"0 0 1000 {height}",
            "preserveAspectRatio": "none",
        },
    )


def label(svg: Element, x: str, y: int, text: str, *, end: bool = False) -> None:
    """A text that begins, or with *end* ends, at *x*."""
    SubElement(svg, "text", {"x": x, "y": str(y), **({"text-anchor": "end"} if end else {})}).text = text


def box(svg: Element, start: float, end: float, top: float, height: float, filling: str) -> None:
    """A rectangle from *start* to *end* percent of the width, never too narrow to be seen."""
    width = max(end - start, 0.3)
    start = min(start, 100 - width)
    facts = {
        "x": f"{start:.3f}%",
        "y": f"{top:g}",
        "width": f"{width:.3f}%",
        "height": f"{height:g}",
        "class": filling,
    }
    SubElement(svg, "rect", facts)


def bar(
    svg: Element, index: int, name: str, number: str, pieces: Sequence[tuple[str, int]], most: int
) -> None:
    """The bar number *index* of a picture of bars: its name, its number, and (filling, value) one behind the other."""
    top = index * ROW
    label(svg, "0", top + 13, name)
    label(svg, "100%", top + 13, number, end=True)
    start = 0.0
    for filling, value in pieces:
        if value:
            # A single key among millions must still be seen.
            width = max(99.4 * value / most, 0.4)
            box(svg, start, start + width, top + 19, 9, filling)
            start += width


def stroke(
    svg: Element, start: tuple[float, float], end: tuple[float, float], filling: str, *, shift: float = 0
) -> None:
    """A straight line between two points (percent of the width, pixels from the top)."""
    facts = {
        "x1": f"{start[0]:.3f}%",
        "y1": f"{start[1]:g}",
        "x2": f"{end[0]:.3f}%",
        "y2": f"{end[1]:g}",
        "class": filling,
    }
    if shift:
        facts["transform"] = f"translate({shift:g} 0)"
    SubElement(svg, "line", facts)


def markup(svg: Element) -> Markup:
    """The picture as text for the page."""
    # The serializer escapes all text and attributes.
    return Markup(tostring(svg, encoding="unicode"))  # noqa: S704
