"""One run: how it goes, its gates, where its findings are, and what can be asked for."""

from __future__ import annotations

import hashlib
import re
import tempfile
from base64 import b64encode
from pathlib import Path
from typing import Final

from starlette.background import BackgroundTask
from starlette.responses import FileResponse, Response

from integrity.errors import ConfigurationError
from integrity.ledger.finding_waivers import UNWAIVABLE, read_finding_waivers
from integrity.ledger.models import FindingState, RunKind
from integrity.ledger.operations import operations, under_way
from integrity.ledger.reviews import CUTOVER_GATE, decide, read_gates
from integrity.ledger.vocabulary import Decision
from reports.build import build_report
from reports.findings import CLASS_MEANING, STATE_MEANING
from reports.html import write_html
from reports.review.actions import RollbackRequest
from reports.review.live import progress_of
from reports.review.site import NotThere, Page
from reports.review.trend import COUNTED_TO

_STYLE: Final = re.compile(rb"<style>(.*?)</style>", re.DOTALL)
_HEAD_BYTES: Final = 256 * 1024
_DECISIONS: Final = (Decision.APPROVED, Decision.REJECTED, Decision.REPEAT, Decision.REQUESTED)


def show(page: Page) -> Response:
    """The run's page."""
    run = page.run()
    ledger = page.ledger
    counts = page.site.finding_counts(run)
    held = read_finding_waivers(ledger.engine, run.source_address or "", run.target_address or "")
    gates = read_gates(ledger.engine, run.id, page.site.separate)
    return page.render(
        "run.html.jinja",
        run=run,
        progress=progress_of(ledger, run),
        gates=gates,
        needed=_needed(run.settings),
        counts=[
            (kind, meaning, {state: counts.get((kind, state), 0) for state in FindingState})
            for kind, meaning in CLASS_MEANING.items()
            if any((kind, state) in counts for state in FindingState)
        ],
        total=sum(counts.values()),
        states=STATE_MEANING,
        children=ledger.child_runs(run.id),
        waivers=[waiver for waiver in held if waiver.withdrawn_at is None],
        most_days=page.site.settings.max_waiver_days,
        most_findings=page.site.settings.max_waived_findings,
        honoured=page.site.settings.honour_waivers,
        unwaivable=UNWAIVABLE,
        can_roll_back=run.kind is RunKind.SYNC and page.site.actions.roll_back is not None,
        counted_to=COUNTED_TO,
        cutover_gate=CUTOVER_GATE,
    )


def _needed(settings: dict[str, object]) -> int | None:
    cutover = settings.get("cutover")
    needed = cutover.get("approvals") if isinstance(cutover, dict) else None
    return needed if isinstance(needed, int) else None


def report(page: Page) -> Response:
    """The run's whole report, as the file that people keep.

    Its policy names its own style by its hash; nothing else is allowed in it.
    """
    run = page.run()
    with tempfile.NamedTemporaryFile("wb", suffix=".html", prefix="greenfly-report-", delete=False) as file:
        path = Path(file.name)
    try:
        write_html(
            page.ledger,
            build_report(page.ledger, run.id),
            path,
            json_name="report.json",
            csv_name="findings.csv",
        )
        with path.open("rb") as written:
            styles = _STYLE.findall(written.read(_HEAD_BYTES))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    hashes = " ".join(f"'sha256-{b64encode(hashlib.sha256(style).digest()).decode()}'" for style in styles)
    policy = (
        f"default-src 'none'; style-src {hashes}; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return FileResponse(
        path,
        media_type="text/html; charset=utf-8",
        headers={"content-security-policy": policy, "cache-control": "no-store"},
        background=BackgroundTask(path.unlink, missing_ok=True),
    )


def take_decision(page: Page) -> Response:
    """Approve, reject, ask for a repeat, or ask others to approve."""
    run = page.run()
    try:
        decision = Decision(page.form.get("decision", ""))
    except ValueError:
        decision = Decision.BREAK_GLASS
    if decision not in _DECISIONS:
        raise ConfigurationError("That is no decision that this page takes.", "Use one of its buttons.")
    gate = page.form.get("gate", "")
    stands = decide(
        page.ledger.engine,
        run.id,
        gate,
        decision,
        page.who.name,
        page.form.get("comment", ""),
        page.site.separate,
    )
    return page.go(f"/runs/{run.id}#gates", f"Recorded. The gate “{gate}” is {stands.word} now.")


# -- rollback ----------------------------------------------------------------------------------------------------------


def ask_rollback(page: Page) -> Response:
    """The form that asks for it, with what is known."""
    run = page.run()
    if run.kind is not RunKind.SYNC or page.site.actions.roll_back is None:
        raise NotThere(f"Run {run.id} cannot be rolled back from this page.")
    return page.render(
        "rollback.html.jinja",
        run=run,
        progress=progress_of(page.ledger, run),
        operations=operations(page.ledger, run.id),
        under_way=under_way(page.ledger, run.id),
    )


def request_rollback(page: Page) -> Response:
    """Begin it, where the run's id was typed."""
    run = page.run()
    act = page.site.actions.roll_back
    if run.kind is not RunKind.SYNC or act is None:
        raise NotThere(f"Run {run.id} cannot be rolled back from this page.")
    if page.form.get("confirmation", "").strip() != run.id:
        raise ConfigurationError(
            "The run's id was not typed as it is: nothing was done.", f"Type {run.id} to confirm."
        )
    reason = page.form.get("reason", "").strip()
    if not reason:
        raise ConfigurationError("A rollback needs a reason: nothing was done.", "Give one.")
    abandon = page.form.get("abandon") == "yes"
    page.ledger.record_event(
        "review.rollback-requested",
        {"by": page.who.name, "token": page.who.token.id, "reason": reason, "abandon_green": abandon},
        run.id,
    )
    act(RollbackRequest(run.id, page.who.name, reason, abandon))
    return page.go(
        f"/runs/{run.id}", "The rollback was asked for. It appears below as soon as its run has begun."
    )
