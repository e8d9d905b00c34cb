"""Numbers and details of live runs in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from reports import display
from reports.events import event_moment
from reports.facts import flatten
from reports.series import Unit
from reports.steps import StepView

_SHOWN_ELSEWHERE: Final = frozenset({"gates", "canary", "write_pause_ms", "ok"})


def number_text(value: float | None, unit: Unit) -> str:
    """One measured number with its unit."""
    if value is None:
        return display.UNKNOWN
    match unit:
        case "milliseconds":
            return display.latency(value) if value < 1000 else display.duration(value / 1000)
        case "seconds":
            return display.duration(value)
        case "bytes":
            return display.size(round(value))
        case "share":
            return f"{100 * value:.1f}%"
        case "rate":
            return f"{value:,.1f}/s" if 0 < value < 10 else f"{value:,.0f}/s"
        case _:
            return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"


def writer(unit: Unit) -> Callable[[float], str]:
    """How numbers of this unit are written."""
    return lambda value: number_text(value, unit)


def any_text(value: object) -> str:
    """A value that the ledger holds as it is, in a line."""
    return "; ".join(shown for _, shown in flatten({"": value}))


def pairs(table: Mapping[str, object], *left_out: str) -> str:
    """A small table in a line, without what stands elsewhere."""
    known = {name: value for name, value in table.items() if name not in left_out and value is not None}
    return " · ".join(f"{name.replace('_', ' ')}: {shown}" for name, shown in flatten(known))


def step_detail(step: StepView) -> str:
    """What a step recorded that no other section shows; inner tables are for machines."""
    plain = {
        # Of a side that is dead nobody could count who is still there.
        name: "not known" if name == "left" and value == -1 else value
        for name, value in step.detail.items()
        if not isinstance(value, dict) and value not in ("", [])
    }
    return pairs(plain, *_SHOWN_ELSEWHERE)


def moment_text(text: str | None) -> str:
    """A time of an event; a text that is no time is shown as it is."""
    if text is None:
        return display.UNKNOWN
    at = event_moment(text)
    return text if at is None else display.moment(at, milliseconds=True).removesuffix(" UTC")


def offset(seconds: float | None) -> str:
    """``+1.23 s``: since the first step began."""
    if seconds is None:
        return display.UNKNOWN
    return f"+{seconds:,.3f} s" if seconds < 60 else f"+{display.duration(seconds)}"


def share_text(share: float | None) -> str:
    """``8%``, ``140%``."""
    return display.UNKNOWN if share is None else "less than 1%" if 0 < share < 0.01 else f"{100 * share:.0f}%"
