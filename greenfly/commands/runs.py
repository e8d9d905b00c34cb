"""``greenfly runs list|show``"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from greenfly.commands import options as o

if TYPE_CHECKING:
    from integrity.ledger.models import Run

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What the ledger holds.")


def shown_state(run: Run) -> str:
    """The state for people: a run whose process stopped renewing its lease is ``lost``."""
    if run.state.value == "running" and run.lease_until < datetime.now(UTC):
        return "lost"
    return run.state.value


@app.command("list")
def list_runs(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 20,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
) -> None:
    """The newest runs."""
    from greenfly.console import print_json
    from integrity.ledger import open_ledger

    ledger = open_ledger(o.load(config, state_dir, {}).settings)
    try:
        runs = ledger.runs(limit)
    finally:
        ledger.close()
    if as_json:
        print_json(
            {
                "runs": [
                    {
                        "run": run.id,
                        "kind": run.kind.value,
                        "state": shown_state(run),
                        "verdict": run.verdict.value if run.verdict else None,
                        "started_at": run.started_at.isoformat(),
                        "ended_at": run.ended_at.isoformat() if run.ended_at else None,
                        "source": run.source_address,
                        "target": run.target_address,
                        "label": run.label,
                    }
                    for run in runs
                ]
            }
        )
        return
    if not runs:
        typer.echo("The ledger holds no run yet.")
    for run in runs:
        verdict = run.verdict.value if run.verdict else "-"
        where = (
            f"{run.source_address or '?'} → {run.target_address}"
            if run.target_address
            else run.source_address
        )
        typer.echo(
            f"{run.id}  {run.kind.value:<8}  {shown_state(run):<11}  {verdict:<20}  "
            f"{run.started_at:%Y-%m-%d %H:%M} UTC  {where or ''}{f'  ({run.label})' if run.label else ''}"
        )


@app.command("show")
def show(
    run: Annotated[str, typer.Argument(help="Run id, its beginning or ending, or latest.")],
    findings: Annotated[int, typer.Option(min=0, help="How many findings to list.")] = 20,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
) -> None:
    """One run: phases, verdict, checkpoints, findings."""
    from flows.sequence import read_outcome
    from greenfly.console import print_json, print_outcome
    from greenfly.exit_codes import ExitCode
    from integrity.ledger import open_ledger
    from reports.display import key_text

    ledger = open_ledger(o.load(config, state_dir, {}).settings)
    try:
        found = ledger.find_run(run)
        outcome = read_outcome(ledger, found.id)
        checkpoints = ledger.checkpoints(found.id)
        listed = ledger.findings(found.id, limit=findings) if findings else []
        total = sum(ledger.finding_counts(found.id).values())
    finally:
        ledger.close()
    if as_json:
        print_json(
            outcome.to_dict()
            | {
                "state": shown_state(found),
                "error": {"kind": found.error_kind, "text": found.error} if found.error_kind else None,
                "checkpoints": [
                    {
                        "phase": c.phase.value,
                        "database": c.database,
                        "cursor": c.cursor,
                        "batches": c.batches,
                        "keys": c.keys,
                        "bytes": c.bytes,
                        "done": c.done,
                    }
                    for c in checkpoints
                ],
            }
        )
        return
    print_outcome(outcome, ExitCode.OK, as_json=False)
    typer.echo(f"  state     {shown_state(found)}{f': {found.error}' if found.error else ''}")
    for c in checkpoints:
        typer.echo(
            f"  {c.phase.value:<9} database {c.database}: {c.keys:,} keys in {c.batches:,} batches, "
            f"{'done' if c.done else f'at cursor {c.cursor}'}"
        )
    if listed:
        typer.echo(f"  findings ({len(listed):,} of {total:,}; the report holds all):")
    for f in listed:
        typer.echo(
            f"    {f.finding_class.value:<10} {f.state.value:<9} db {f.database}  {key_text(f.key)}  {f.detail}"
        )
