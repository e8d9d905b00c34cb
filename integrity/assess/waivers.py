"""Waivers: somebody lets a blocking result pass, for two servers, for a while, and says why.

A waiver is given for what an assessment has found, by name, so that whatever is found later blocks again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from integrity.assess.model import Result
from integrity.assess.registry import find_check
from integrity.endpoint import Endpoint
from integrity.errors import ConfigurationError, Refused
from integrity.ledger import Ledger
from integrity.ledger.assessments import (
    AssessmentRecord,
    RecordedResult,
    newest_assessments,
    plain_text,
    read_results,
)
from integrity.ledger.naming import operator_name
from integrity.ledger.waivers import WaiverRecord, add_waiver, read_waivers, withdraw_waivers
from integrity.settings import Settings
from integrity.strategy import Strategy

LONGEST: Final = timedelta(days=366)
MOST_CHARACTERS: Final = 2_000
_DURATION: Final = re.compile(r"(\d{1,5})\s*(h|d|w)", re.ASCII | re.IGNORECASE)
_UNITS: Final = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def place(endpoint: Endpoint) -> str:
    """The server's address without a user: a waiver is for servers, whoever looks at them."""
    address = endpoint.address
    user = f"{address.username}@" if address.username else ""
    return str(address).replace(f"{address.scheme}://{user}", f"{address.scheme}://", 1)


def pair(settings: Settings) -> tuple[str, str]:
    """The places of source and target.

    :raises ConfigurationError: one of them is not set.
    """
    return (
        place(Endpoint.from_settings("source", settings.source)),
        place(Endpoint.from_settings("target", settings.target)),
    )


def covering(
    result: Result, waivers: Sequence[WaiverRecord], now: datetime
) -> tuple[tuple[WaiverRecord, ...], tuple[str, ...]]:
    """The waivers that bear on a blocking result, and what of it none of them covers.

    What is found as one thing, without items, is named as ``*``.
    """
    fitting = [
        waiver
        for waiver in waivers
        if waiver.check_id == result.check and waiver.outcome is result.outcome and waiver.in_force(now)
    ]
    if not result.items:
        whole = tuple(waiver for waiver in fitting if not waiver.items)
        return whole, () if whole else ("*",)
    bearing = tuple(waiver for waiver in fitting if set(waiver.items) & set(result.items))
    covered = {item for waiver in bearing for item in waiver.items}
    return bearing, tuple(item for item in result.items if item not in covered)


def apply_waivers(
    results: Sequence[Result], waivers: Sequence[WaiverRecord], now: datetime
) -> tuple[RecordedResult, ...]:
    """Each result with the waivers that let it pass."""
    judged = []
    for result in results:
        bearing, left = covering(result, waivers, now) if result.blocks else ((), ())
        judged.append(RecordedResult(result, tuple(w.id for w in bearing) if not left else ()))
    return tuple(judged)


def read_until(text: str, now: datetime) -> datetime:
    """When a waiver ends: a day (to its end, UTC), a moment with its zone, or a duration as ``12h``, ``30d``, ``2w``.

    :raises ConfigurationError: it is none of these, past, or more than a year away.
    """
    text = text.strip()
    duration = _DURATION.fullmatch(text)
    until = now + int(duration[1]) * _UNITS[duration[2].lower()] if duration else _moment(text)
    if until <= now:
        raise ConfigurationError(
            f"--until {until:%Y-%m-%d %H:%M} UTC is past.", "Name a day that is to come."
        )
    if until > now + LONGEST:
        raise ConfigurationError(
            f"--until {until:%Y-%m-%d} is more than a year away.", "A waiver holds for a year at most."
        )
    return until


def _moment(text: str) -> datetime:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        pass
    else:
        return datetime.combine(day, time.max, UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ConfigurationError(
            f"--until {plain_text(text)!r} is neither a day nor a duration.",
            "Write 2026-12-31, 2026-12-31T18:00+01:00, 12h, 30d or 2w.",
        )
    return moment.astimezone(UTC)


def waive(
    settings: Settings,
    ledger: Ledger,
    check_id: str,
    *,
    why: str,
    until: str,
    by: str | None = None,
    items: Sequence[str] = (),
) -> WaiverRecord:
    """Let pass what the newest assessment of these two servers found by this check.

    :param items: only these of the things found; all of them by default.
    :raises ConfigurationError: an unknown check or item, no reason, or an end that cannot be used.
    :raises Refused: no assessment of the two has found it blocking.
    """
    check = find_check(check_id)
    why = _said(why, "--why")
    by = _said(by if by is not None else operator_name(), "--by")[:200]
    now = datetime.now(UTC)
    ends = read_until(until, now)
    source, target = pair(settings)
    record, result = _blocking(ledger, source, target, check.id)
    wanted = tuple(dict.fromkeys(plain_text(item) for item in items))
    strange = [item for item in wanted if item not in result.items]
    if strange:
        there = ", ".join(result.items) or "nothing by name: it is waived as one thing, without --item"
        raise ConfigurationError(
            f"{check.id} did not find {', '.join(repr(item) for item in strange)}.",
            f"Run {record.run_id} found {there}.",
        )
    return add_waiver(
        ledger.engine,
        source=source,
        target=target,
        check_id=check.id,
        outcome=result.outcome,
        items=wanted or result.items,
        why=why,
        by=by,
        until=ends,
        run_id=record.run_id,
    )


def unwaive(settings: Settings, ledger: Ledger, check_id: str, by: str | None = None) -> list[WaiverRecord]:
    """Withdraw every waiver of this check that is in force for the two servers.

    :raises ConfigurationError: an unknown check.
    :raises Refused: there is none.
    """
    source, target = pair(settings)
    now = datetime.now(UTC)
    held = [w for w in read_waivers(ledger.engine, source, target) if w.check_id == check_id]
    if not held:
        find_check(check_id)
    standing = [waiver for waiver in held if waiver.in_force(now)]
    if not standing:
        raise Refused(
            f"No waiver of {check_id} is in force for {source} and {target}.",
            "`greenfly assess waivers --all` lists those that have ended.",
        )
    withdraw_waivers(ledger.engine, standing, _said(by if by is not None else operator_name(), "--by")[:200])
    return standing


def _said(text: str, flag: str) -> str:
    said = plain_text(text).strip()
    if not said:
        raise ConfigurationError(f"{flag} is empty.", "Say it in a few words; it is kept with the waiver.")
    if len(said) > MOST_CHARACTERS:
        raise ConfigurationError(
            f"{flag} holds more than {MOST_CHARACTERS:,} characters.", "Say it more briefly."
        )
    return said


def _blocking(ledger: Ledger, source: str, target: str, check_id: str) -> tuple[AssessmentRecord, Result]:
    """The newest assessment of each strategy is looked at: a check may block one road only."""
    seen: set[Strategy] = set()
    said: tuple[AssessmentRecord, Result] | None = None
    for record in newest_assessments(ledger.engine, source, target):
        if record.strategy in seen:
            continue
        result = next(
            (
                each.result
                for each in read_results(ledger.engine, record.run_id)
                if each.result.check == check_id
            ),
            None,
        )
        if result is None:
            continue
        seen.add(record.strategy)
        if result.blocks:
            return record, result
        said = said or (record, result)
    if said is None:
        raise Refused(
            f"No assessment of {source} and {target} has made the check {check_id}.",
            "Run `greenfly assess` first: a waiver is given for what was found.",
        )
    record, result = said
    raise Refused(
        f"{check_id} does not block {source} and {target}: run {record.run_id} says "
        f"{result.outcome.value}, {result.severity.value}.",
        "Nothing has to be waived.",
    )
