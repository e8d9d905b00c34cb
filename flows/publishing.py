"""What Prefect's page shows of a run: verdict, findings, a link to the report, and tags that name the ledger's run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run

from flows.sequence import Outcome
from integrity.rehearsal import Comparison
from integrity.settings import Settings

_AWAY = (PrefectException, httpx.HTTPError, RuntimeError)
"""What Prefect raises when it cannot be reached; the ledger holds everything that is shown there."""


def publish(settings: Settings, outcome: Outcome) -> None:
    """Verdict, findings, link and tags."""
    verdict = outcome.verdict.value if outcome.verdict else "no verdict"
    link = _report_link(settings, outcome)
    where = f"\n\n[Report]({link}): `{outcome.report.html}`" if outcome.report and link else ""
    publish_markdown(
        "greenfly-verdict",
        f"# {verdict}\n\n{outcome.reason or ''}\n\nRun `{outcome.run_id}`, {outcome.kind.value}, {outcome.state}"
        f"{where}",
        f"{verdict}: {outcome.run_id}",
    )
    rows = [
        {"state": state, "class": name, "findings": count}
        for state, classes in outcome.findings.items()
        for name, count in classes.items()
    ]
    publish_table("greenfly-findings", rows, f"Findings of {outcome.run_id}")
    try:
        if link:
            create_link_artifact(
                link, link_text=f"Report of {outcome.run_id}", key="greenfly-report", description="The report"
            )
        _tag([outcome.run_id, verdict.lower().replace(" ", "-")])
    except _AWAY as error:
        _not_shown(error)


def publish_comparison(comparison: Comparison) -> None:
    """A rehearsal beside the one before it."""
    publish_markdown(
        "greenfly-rehearsal", f"# {comparison.text}\n\nRun `{comparison.run_id}`", comparison.text
    )
    publish_table(
        "greenfly-rehearsal-changes",
        [change.to_dict() for change in comparison.changes],
        f"{comparison.run_id} beside {comparison.previous_id}",
    )


def publish_markdown(key: str, markdown: str, description: str) -> None:
    """A text; a Prefect that is away changes nothing about the work."""
    try:
        create_markdown_artifact(markdown, key=key, description=description)
    except _AWAY as error:
        _not_shown(error)


def publish_table(key: str, rows: Sequence[Mapping[str, object]], description: str) -> None:
    """A table, unless it is empty."""
    if not rows:
        return
    try:
        create_table_artifact([dict(row) for row in rows], key=key, description=description)
    except _AWAY as error:
        _not_shown(error)


def _report_link(settings: Settings, outcome: Outcome) -> str | None:
    if settings.flows.report_url is not None:
        return settings.flows.report_url.replace("{run}", outcome.run_id)
    return outcome.report.html.resolve().as_uri() if outcome.report else None


def _tag(tags: Sequence[str]) -> None:
    """Tags of a flow run can be searched for: the other way of the link from the ledger's run."""
    own = flow_run.get_id()
    if own is None:
        return
    with get_client(sync_client=True) as client:
        known = client.read_flow_run(UUID(own)).tags
        client.update_flow_run(UUID(own), tags=[*known, *(tag for tag in tags if tag not in known)])


def _not_shown(error: Exception) -> None:
    get_run_logger().warning("Prefect could not be told (%s); the ledger holds it.", type(error).__name__)
