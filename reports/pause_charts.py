"""Charts of the write pause as a client saw it: the whole time, and the writes around the pause one by one."""

from __future__ import annotations

from typing import Final
from xml.etree.ElementTree import Element, SubElement

from reports.client_pause import Gap, PauseView
from reports.display import count, counted, duration
from reports.drawing import Chart, box, label, markup, new_svg, stroke

_SIDES: Final = ("solid", "hatched", "dotted", "outlined")
"""Fillings of the sides in the order blue, green, and whatever else there is."""
_WAITED_PERCENT: Final = 2.0
"""Of the width: a write that was held back for longer is drawn from when it was sent."""


def whole_chart(pause: PauseView) -> Chart | None:
    """All writes of the client, counted by short times; None where there are too few to tell anything."""
    if len(pause.buckets) < 2:
        return None
    sides, end = _ordered(pause), len(pause.buckets) * pause.bucket_ms
    top = max(*(sum(bucket.acknowledged.values()) for bucket in pause.buckets), 1)
    title = "Writes of the client, whole time"
    told = (
        f"{counted(pause.acknowledged, 'write')} acknowledged and {count(pause.refused)} refused in {_ms(end)}: "
        + ("; ".join(f"{side.side} {count(side.acknowledged)}" for side in pause.sides))
    )
    svg = new_svg("writes", "whole", 176, title, told)
    for share in (0.0, 0.5, 1.0):
        stroke(svg, (0, 40 + 84 * share), (100, 40 + 84 * share), "grid")
    width = 100 / len(pause.buckets)
    for index, bucket in enumerate(pause.buckets):
        base = 124.0
        for side, filling in sides.items():
            if number := bucket.acknowledged.get(side, 0):
                tall = 84 * number / top
                base -= tall
                box(svg, index * width, (index + 0.88) * width, base, tall, filling)
        if bucket.refused:
            _cross(svg, (index + 0.5) * width, 136)
    if pause.pause is not None:
        _pause_span(svg, pause.pause, 0.0, float(end), 40, 102)
    label(svg, "0", 14, f"{count(top)} writes in {_ms(pause.bucket_ms)}")
    label(svg, "0", 172, "0 s")
    label(svg, "100%", 172, _ms(end), end=True)
    return Chart(title, told, markup(svg), _legend(pause))


def around_chart(pause: PauseView) -> Chart | None:
    """The writes around the pause one by one, a lane for each side and one for what was refused."""
    gap = pause.pause
    if gap is None or len(pause.around) < 2:
        return None
    begin, end = pause.around[0].answered_ms, pause.around[-1].answered_ms
    if end <= begin:
        return None
    sides = _ordered(pause)
    lanes = [*(side for side in sides if any(w.ok and w.side == side for w in pause.around)), "refused"]
    title = "Around the pause, write by write"
    told = (
        f"The last write on {gap.from_side} was acknowledged at {_ms(gap.start_ms)}, the first one on {gap.to_side} at "
        f"{_ms(gap.end_ms)}: {_ms(gap.length_ms)} without an acknowledged write."
    )
    height = 24 + 34 * len(lanes) + 22
    svg = new_svg("writes", "around", height, title, told)
    _pause_span(svg, gap, begin, end, 24, height - 46)
    for index, lane in enumerate(lanes):
        top = 24 + 34 * index
        stroke(svg, (0, top + 32), (100, top + 32), "grid")
        name = "refused" if lane == "refused" else f"{lane}, acknowledged"
        label(svg, "0", top + 12, name)
        for write in pause.around:
            if (lane == "refused") is write.ok or (write.ok and write.side != lane):
                continue
            at = 100 * (write.answered_ms - begin) / (end - begin)
            if at - (sent := 100 * max(write.at_ms - begin, 0.0) / (end - begin)) > _WAITED_PERCENT:
                stroke(svg, (sent, top + 24), (at, top + 24), "waited")
            if write.ok:
                stroke(svg, (at, top + 16), (at, top + 31), "tick")
            else:
                _cross(svg, at, top + 24)
    label(svg, "0", height - 4, _ms(begin))
    label(svg, "100%", height - 4, _ms(end), end=True)
    return Chart(title, told, markup(svg))


def _pause_span(svg: Element, gap: Gap, begin: float, end: float, top: int, height: int) -> None:
    start = 100 * max(gap.start_ms - begin, 0.0) / (end - begin)
    stop = 100 * min(gap.end_ms - begin, end - begin) / (end - begin)
    box(svg, start, stop, top, height, "pause")
    text = f"pause {_ms(gap.length_ms)}"
    if start > 50:
        label(svg, f"{stop:.2f}%", top - 6, text, end=True)
    else:
        label(svg, f"{start:.2f}%", top - 6, text)


def _cross(svg: Element, at: float, middle: int) -> None:
    inner = SubElement(svg, "svg", {"x": f"{at:.3f}%", "y": str(middle), "class": "cross"})
    SubElement(inner, "path", {"d": "M-3-3L3 3M3-3L-3 3", "class": "refused"})


def _ordered(pause: PauseView) -> dict[str, str]:
    """Side → filling."""
    names = [side.side for side in pause.sides]
    first = [name for name in ("blue", "green") if name in names]
    order = [*first, *(name for name in names if name not in first)]
    fillings = {"blue": _SIDES[0], "green": _SIDES[1]}
    return {name: fillings.get(name, _SIDES[min(index, 3)]) for index, name in enumerate(order)}


def _legend(pause: PauseView) -> tuple[tuple[str, str], ...]:
    sides = [(filling, f"acknowledged by {side}") for side, filling in _ordered(pause).items()]
    marks = [("pause", "pause: no write acknowledged")] if pause.pause is not None else []
    return (*sides, *([("refused", "refused")] if pause.refused else []), *marks)


def _ms(milliseconds: float) -> str:
    return duration(milliseconds / 1000)
