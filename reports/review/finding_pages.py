"""Findings: some of millions, one of them, its two values, and letting some pass for a while."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import urlencode

from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import Response

from integrity.errors import ConfigurationError
from integrity.ledger.database import reading
from integrity.ledger.finding_search import FindingQuery, databases_of, search_findings
from integrity.ledger.finding_waivers import (
    UNWAIVABLE,
    FindingWaiverRecord,
    Granted,
    WaiverCover,
    read_finding_waivers,
    waive_findings,
    withdraw_finding_waiver,
)
from integrity.ledger.key_search import KeyForm, read_wanted
from integrity.ledger.models import Finding, FindingClass, FindingState, Run
from integrity.ledger.review_models import Role
from integrity.ledger.waived_findings import Subject
from reports.display import counted
from reports.findings import CLASS_MEANING, STATE_MEANING
from reports.review.finding_view import sentences, sides_then
from reports.review.keys import PAGE_BYTES, key_view
from reports.review.run_list import chosen
from reports.review.site import NotThere, Page

PER_PAGE: Final = 50
_AGE: Final = re.compile(r"(\d{1,6})\s*([smhd]?)", re.ASCII)
_UNIT_SECONDS: Final[Mapping[str, int]] = {"": 60, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_NAMES: Final = ("key", "form", "class", "state", "database", "type", "older", "younger")


def show_list(page: Page) -> Response:
    """Findings of a run that fit the filters."""
    run = page.run()
    asked = {name: page.asked(name) for name in _NAMES}
    found = search_findings(
        page.ledger.engine, _query(page, run, asked), cursor=page.asked("after") or None, limit=PER_PAGE
    )
    now = datetime.now(UTC)
    cover = WaiverCover([waiver for waiver in _waivers(page, run) if waiver.in_force(now)])
    rows = [
        # What a pattern would say about the beginning of a key, it need not say about the key.
        (row, cover.of(row.finding_class, row.database, row.key) if row.key_bytes == len(row.key) else None)
        for row in found.rows
    ]
    kept = {name: value for name, value in asked.items() if value and name != "form"}
    kept |= {"form": asked["form"]} if asked["key"] else {}
    here = f"/runs/{run.id}/findings?"
    return page.render(
        "findings_list.html.jinja",
        run=run,
        rows=rows,
        asked=asked,
        filtered=bool(kept),
        out_of_time=found.out_of_time,
        more=here + urlencode(kept | {"after": found.next}) if found.next else None,
        first=here + urlencode(kept) if page.asked("after") else None,
        total=sum(page.site.finding_counts(run).values()),
        classes=list(FindingClass),
        states=list(FindingState),
        forms=list(KeyForm),
        databases=databases_of(page.ledger.engine, run.id),
    )


def _query(page: Page, run: Run, asked: Mapping[str, str]) -> FindingQuery:
    kind, state = chosen(page, "class", FindingClass), chosen(page, "state", FindingState)
    form = chosen(page, "form", KeyForm) or KeyForm.TEXT
    database = asked["database"]
    if database and not (database.isascii() and database.isdecimal() and len(database) < 10):
        raise ConfigurationError("A database is a number.", "Choose one from the list.")
    return FindingQuery(
        run.id,
        classes=(kind,) if kind is not None else (),
        states=(state,) if state is not None else (),
        database=int(database) if database else None,
        kind=asked["type"].replace("\0", "") or None,
        seen_before=_ago(asked["older"]),
        seen_after=_ago(asked["younger"]),
        key=read_wanted(asked["key"], form),
    )


def _ago(text: str) -> datetime | None:
    if not text:
        return None
    parts = _AGE.fullmatch(text.lower())
    if parts is None:
        raise ConfigurationError("An age is written as 90s, 15m, 2h or 3d.", "Correct it.")
    return datetime.now(UTC) - timedelta(seconds=int(parts[1]) * _UNIT_SECONDS[parts[2]])


def _waivers(page: Page, run: Run) -> list[FindingWaiverRecord]:
    return read_finding_waivers(page.ledger.engine, run.source_address or "", run.target_address or "")


def show_one(page: Page) -> Response:
    """One finding."""
    run = page.run()
    return _one(page, run, _finding(page, run), None)


def compare(page: Page) -> Response:
    """The same page with both values as they are now; nothing of them is kept."""
    run = page.run()
    finding = _finding(page, run)
    act = page.site.actions.compare
    if act is None:
        raise NotThere("This page was started without the servers' settings.")
    reveal = page.form.get("reveal") == "yes"
    if reveal and not page.who.may(Role.REVIEWER):
        raise ConfigurationError("Seeing values takes the role reviewer.", "Look at them masked.")
    if reveal:
        # Before anything is read: a look that is not on record does not happen.
        page.ledger.record_event(
            "review.values-revealed",
            {
                "by": page.who.name,
                "token": page.who.token.id,
                "finding": finding.id,
                "database": finding.database,
                "key_digest": finding.key_digest.hex(),
            },
            run.id,
        )
    return _one(page, run, finding, act(run, finding, reveal=reveal))


def _one(page: Page, run: Run, finding: Finding, both: object) -> Response:
    now = datetime.now(UTC)
    covering = [
        waiver
        for waiver in _waivers(page, run)
        if WaiverCover([waiver]).of(finding.finding_class, finding.database, finding.key) is not None
    ]
    return page.render(
        "finding.html.jinja",
        run=run,
        finding=finding,
        sides=sides_then(finding),
        sentence=sentences(finding),
        number=finding.id,
        key=key_view(finding.key, limit=PAGE_BYTES),
        key_bytes=len(finding.key),
        key_digest=finding.key_digest.hex(),
        meaning=CLASS_MEANING[finding.finding_class],
        state_meaning=STATE_MEANING[finding.state],
        both=both,
        can_compare=page.site.actions.compare is not None,
        waivers=covering,
        waived=next((waiver for waiver in covering if waiver.in_force(now)), None),
        most_days=page.site.settings.max_waiver_days,
        waivable=finding.finding_class not in UNWAIVABLE,
        honoured=page.site.settings.honour_waivers,
    )


def _finding(page: Page, run: Run) -> Finding:
    number = int(page.request.path_params["finding"])
    if number >= 2**63:
        raise NotThere(f"Run {run.id} has no finding {number}.")
    query = select(Finding).where(Finding.id == number, Finding.run_id == run.id)
    with reading(page.ledger.engine) as connection, Session(connection, expire_on_commit=False) as session:
        finding = session.scalar(query)
        session.expunge_all()
    if finding is None:
        raise NotThere(f"Run {run.id} has no finding {number}.")
    return finding


# -- waivers -----------------------------------------------------------------------------------------------------------


def waive_one(page: Page) -> Response:
    """Let this finding pass for a while."""
    run = page.run()
    finding = _finding(page, run)
    waiver = _waive(page, run, Subject(finding.finding_class, finding.database, key=finding.key)).waiver
    return page.go(
        f"/runs/{run.id}/findings/{finding.id}",
        f"Recorded: waiver {waiver.id} lets it pass in later runs between these two servers.",
    )


def waive_many(page: Page) -> Response:
    """Let the findings of a pattern pass for a while."""
    run = page.run()
    try:
        kind = FindingClass(page.form.get("class", ""))
    except ValueError:
        raise ConfigurationError("There is no such class of findings.", "Choose one from the list.") from None
    database = page.form.get("database", "").strip()
    if database and not (database.isascii() and database.isdecimal() and len(database) < 10):
        raise ConfigurationError("A database is a number.", "Leave it empty for all.")
    pattern = page.form.get("pattern", "").strip()
    granted = _waive(page, run, Subject(kind, int(database) if database else None, pattern=pattern))
    return page.go(
        "/waivers",
        f"Recorded: waiver {granted.waiver.id}. It covers {counted(granted.covers, 'open finding')} of the run.",
    )


def _waive(page: Page, run: Run, subject: Subject) -> Granted:
    try:
        days = float(page.form.get("days", ""))
    except ValueError:
        raise ConfigurationError("The number of days is no number.", "Correct it.") from None
    most = page.form.get("most", "").strip()
    if most and not (most.isascii() and most.isdecimal() and int(most[:10]) > 0 and len(most) < 10):
        raise ConfigurationError(
            "The number of findings is no number above 0.", "Leave it empty for the most."
        )
    allowed = page.site.settings.max_waived_findings
    return waive_findings(
        page.ledger.engine,
        run.id,
        subject,
        by=page.who.name,
        why=page.form.get("why", ""),
        days=days,
        most_days=page.site.settings.max_waiver_days,
        most_findings=min(int(most), allowed) if most else allowed,
        separate=page.site.settings.separate_reviewer,
    )


def show_waivers(page: Page) -> Response:
    """Every waiver."""
    return page.render(
        "waivers.html.jinja",
        waivers=read_finding_waivers(page.ledger.engine)[::-1],
        honoured=page.site.settings.honour_waivers,
    )


def withdraw(page: Page) -> Response:
    """Let it pass no more."""
    number = int(page.request.path_params["waiver"])
    if number >= 2**63:
        raise NotThere(f"There is no waiver {number}.")
    withdraw_finding_waiver(page.ledger.engine, number, page.who.name)
    return page.go("/waivers", f"Waiver {number} was withdrawn.")
