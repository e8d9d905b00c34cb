"""An assessment for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap
from typing import Final

from reports.assessing import AssessmentView, CensusView, Histogram, KeyView, ResultView, WaiverView
from reports.display import UNKNOWN, count, duration, plain_text, size
from reports.live_text import any_text

_WIDTH: Final = 100
_BAR: Final = 30
_ITEMS_SHOWN: Final = 20
_KEY_SHOWN: Final = 60
_EVIDENCE_SHOWN: Final = 280
"""Characters."""
_ROWS_SHOWN: Final = 16
_INNER_SHOWN: Final = 30
_SAYS_NOTHING: Final[tuple[object, ...]] = ([], {}, "", None)


def assessment_lines(view: AssessmentView) -> Iterator[str]:
    """Everything, the worst first."""
    for group, title, results in view.groups:
        yield f"{title} ({len(results)})"
        if group == "not-applicable":
            yield from _wrapped(", ".join(result.check for result in results), "  ")
        for result in results:
            if group == "passed":
                yield from _wrapped(f"{result.check:<26} {result.summary}", "  ", " " * 29)
            elif group != "not-applicable":
                yield from _told(result)
        yield ""
    if view.left_out:
        yield f"Not made, because somebody said so ({len(view.left_out)})"
        yield from _wrapped(", ".join(view.left_out), "  ")
        yield ""
    if view.grade is not None:
        points = "" if view.grade.points is None else f", {view.grade.points} points"
        yield f"Complexity {view.grade.letter}: {view.grade.meaning}{points}"
        for number, why in view.grade.parts:
            yield f"  {number:>3}  {why}"
        yield ""
    if view.census is not None:
        yield from _census(view.census)
    yield f"Strategy   {view.strategy}{f' (asked: {view.asked})' if view.asked != view.strategy else ''}"
    for why in view.why:
        yield from _wrapped(why, "           ")


def _told(result: ResultView) -> Iterator[str]:
    unknown = " (not known)" if result.outcome.value == "unknown" else ""
    yield f"  {result.check}{unknown}: {result.title}"
    yield from _wrapped(result.summary, "      ")
    if result.items:
        shown = ", ".join(result.items[:_ITEMS_SHOWN])
        more = len(result.items) - _ITEMS_SHOWN
        yield from _wrapped(f"found: {shown}{f' and {more} more' if more > 0 else ''}", "      ")
    for name, value in evidence_rows(result.evidence):
        told = f"{name}: {value}"
        yield from _wrapped(told if len(told) <= _EVIDENCE_SHOWN else f"{told[:_EVIDENCE_SHOWN]} …", "      ")
    if result.remedy:
        yield from _wrapped(f"do: {result.remedy}", "      ")
    for waiver in result.waivers:
        yield from _wrapped(waiver_text(waiver), "      ")


def evidence_rows(evidence: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """What a check saw, a row each: a table in it is told in one row, and what says nothing is left out."""
    for name, value in evidence.items():
        if value not in _SAYS_NOTHING:
            yield plain_text(name).replace("_", " "), _in_a_line(value)


def _in_a_line(value: object) -> str:
    if not isinstance(value, dict):
        return any_text(value)
    listed = list(value.items())
    inner = [
        f"{plain_text(name)} ({told})" if (told := _parts(row)) else plain_text(name)
        for name, row in listed[:_INNER_SHOWN]
    ]
    more = len(listed) - _INNER_SHOWN
    return "; ".join(inner) + (f"; and {more:,} more" if more > 0 else "")


def _parts(row: object) -> str:
    if not isinstance(row, dict):
        return any_text(row)
    # A share that rounds to nothing says nothing beside the number that it is a share of.
    return ", ".join(
        f"{plain_text(part).replace('_', ' ')} {any_text(value)}"
        for part, value in row.items()
        if value not in _SAYS_NOTHING and not (part == "share" and any_text(value) == "0")
    )


def waiver_text(waiver: WaiverView) -> str:
    """Who, what, until when, why."""
    what = f" for {', '.join(waiver.items)}" if waiver.items else ""
    return f"waived{what} by {waiver.by} until {waiver.until:%Y-%m-%d %H:%M} UTC: {waiver.why}"


def _census(census: CensusView) -> Iterator[str]:
    how = "every key" if census.full else "a sample"
    took = f" in {duration(census.seconds)}" if census.seconds is not None else ""
    yield f"Keys: {how}, {count(census.keys_looked_at)} of {count(census.keys_present)} looked at{took}"
    yield from _wrapped(census.method, "  ")
    for rule, number in census.excluded.items():
        yield f"  {count(number)} left out by rule {rule}"
    yield ""
    for histogram in census.histograms:
        yield f"  {histogram.title}"
        yield from _bars(histogram)
        yield ""
    yield from _key_list("The biggest keys", census.big)
    yield from _key_list("The hottest keys", census.hot)
    if census.hot_method:
        yield from _wrapped(f"Hot keys: {census.hot_method}", "  ")
        yield ""


def _bars(histogram: Histogram) -> Iterator[str]:
    rows = histogram.rows
    total, most = sum(number for _, number in rows), max((number for _, number in rows), default=0)
    for label, number in rows[:_ROWS_SHOWN]:
        bar = "#" * max(round(_BAR * number / most), 1 if number else 0) if most else ""
        share = f"{100 * number / total:5.1f}%" if total else ""
        told = size(number) if histogram.unit == "bytes" else count(number)
        yield f"    {label[:22]:<22} {bar:<{_BAR}} {told:>12} {share}"
    if len(rows) > _ROWS_SHOWN:
        yield f"    … {len(rows) - _ROWS_SHOWN} more in the report"


def _key_list(title: str, keys: Sequence[KeyView]) -> Iterator[str]:
    if not keys:
        return
    yield f"  {title}"
    for key in keys:
        name = key.key if len(key.key) <= _KEY_SHOWN else key.key[:_KEY_SHOWN] + "…"
        database = UNKNOWN if key.database is None else str(key.database)
        detail = f"  {key.detail}" if key.detail else ""
        numbers = f"{size(key.bytes or None):>12} {count(key.elements):>12}"
        yield f"    db {database:<3} {key.kind:<8} {numbers}  {name}{detail}"
    yield ""


def _wrapped(text: str, indent: str, later: str | None = None) -> list[str]:
    behind = indent + "  " if later is None else later
    return wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=behind, break_on_hyphens=False)
