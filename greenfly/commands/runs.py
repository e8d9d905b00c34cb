"""``greenfly runs list|show|pause|resume|stop|limit``"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from greenfly.commands import options as o

if TYPE_CHECKING:
    from integrity.ledger.models import Run
    from integrity.ledger.store import ControlState

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="What the ledger holds, and the pace of a live run."
)

RunName = Annotated[str, typer.Argument(help="Run id, its beginning or ending, or latest.")]


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
    from reports.display import plain_text

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
                        "parent": run.parent_id,
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
            f"{run.started_at:%Y-%m-%d %H:%M} UTC  {where or ''}{f'  ({plain_text(run.label)})' if run.label else ''}"
        )


@app.command("show")
def show(
    run: RunName,
    findings: Annotated[int, typer.Option(min=0, help="How many findings to list.")] = 20,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
) -> None:
    """One run: phases, verdict, checkpoints, findings; the board of a sync, the steps of a cutover or rollback."""
    from flows.sequence import read_outcome
    from greenfly.commands.run_live import read_live
    from greenfly.console import human_seconds, print_json, print_outcome
    from greenfly.exit_codes import ExitCode
    from integrity.ledger import open_ledger
    from reports.display import key_text, plain_text

    ledger = open_ledger(o.load(config, state_dir, {}).settings)
    try:
        found = ledger.find_run(run)
        outcome = read_outcome(ledger, found.id)
        checkpoints = ledger.checkpoints(found.id)
        listed = ledger.findings(found.id, limit=findings) if findings else []
        total = sum(ledger.finding_counts(found.id).values())
        control = ledger.control(found.id)
        live = read_live(ledger, found)
    finally:
        ledger.close()
    if as_json:
        print_json(
            outcome.to_dict()
            | {
                "state": shown_state(found),
                "error": {"kind": found.error_kind, "text": found.error} if found.error_kind else None,
                "control": _control_values(control) if control.updated_at else None,
                **live.to_dict(),
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
    typer.echo(f"  state     {shown_state(found)}{f': {plain_text(found.error)}' if found.error else ''}")
    if control.updated_at:
        typer.echo(
            f"  control   {_control_text(control)} (by {control.updated_by}, {control.updated_at:%Y-%m-%d %H:%M} UTC)"
        )
    for line in live.lines(datetime.now(UTC)):
        typer.echo(line)
    for c in checkpoints:
        typer.echo(
            f"  {c.phase.value:<9} database {c.database}: {c.keys:,} keys in {c.batches:,} batches, "
            f"{'done' if c.done else f'at cursor {c.cursor}'}"
        )
    if listed:
        typer.echo(f"  findings ({len(listed):,} of {total:,}; the report holds all):")
    for f in listed:
        age = human_seconds((f.last_seen_at - f.first_seen_at).total_seconds())
        typer.echo(
            f"    {f.finding_class.value:<12} {f.state.value:<9} db {f.database}  {key_text(f.key)}  "
            f"{plain_text(f.detail)}  (seen {f.times_seen}×, first {f.first_seen_at:%Y-%m-%d %H:%M} UTC, "
            f"{age} until last seen)"
        )


@app.command("pause")
def pause(
    run: RunName, config: o.ConfigFile = None, state_dir: o.StateDir = None, as_json: o.Json = False
) -> None:
    """Let a live run stop before its next page of keys; it keeps its place."""
    found, control = _ask(run, config, state_dir, "control.paused", paused=True)
    _confirm(found, control, f"Run {found} is paused; `greenfly runs resume {found}` lets it go on.", as_json)


@app.command("resume")
def resume(
    run: RunName, config: o.ConfigFile = None, state_dir: o.StateDir = None, as_json: o.Json = False
) -> None:
    """Let a paused run go on.  (A run that broke off goes on with `greenfly migrate --resume`.)"""
    found, control = _ask(run, config, state_dir, "control.resumed", paused=False)
    _confirm(found, control, f"Run {found} goes on: {_control_text(control)}.", as_json)


@app.command("stop")
def stop(
    run: RunName, config: o.ConfigFile = None, state_dir: o.StateDir = None, as_json: o.Json = False
) -> None:
    """Let a sync carry over what is left, conclude, and end."""
    from flows import operations
    from greenfly.console import print_json

    answer = operations.stop_sync(o.load(config, state_dir, {}).settings, run)
    if as_json:
        print_json(answer)
    else:
        typer.echo(f"Run {answer['run']} ends.")


@app.command("limit")
def limit(
    run: RunName,
    keys_per_second: Annotated[int | None, typer.Option(min=1, help="No more keys than this.")] = None,
    bytes_per_second: Annotated[
        str | None, typer.Option(help="No more bytes than this, as 50MB or 1.5GiB.")
    ] = None,
    off: Annotated[
        bool, typer.Option("--off", help="Lift both limits, also those that the run was started with.")
    ] = False,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
) -> None:
    """Change how fast a live run reads."""
    from integrity.errors import ConfigurationError

    size = _bytes_per_second(bytes_per_second) if bytes_per_second is not None else None
    if off == (keys_per_second is not None or size is not None):
        raise ConfigurationError(
            "--off goes with no other limit." if off else "No limit is given.",
            "Give --keys-per-second, --bytes-per-second or both; or --off alone.",
        )
    if off:
        keys_per_second = size = 0
    found, control = _ask(
        run, config, state_dir, "control.limited", keys_per_second=keys_per_second, bytes_per_second=size
    )
    _confirm(found, control, f"Run {found}: {_control_text(control)}.", as_json)


def _bytes_per_second(text: str) -> int:
    from integrity.errors import ConfigurationError
    from integrity.rule_text import read_size

    try:
        size = read_size(text)
    except ValueError as error:
        raise ConfigurationError(f"--bytes-per-second: {error}.", "Write 50MB or 1.5GiB.") from error
    if not isinstance(size, int) or not 0 < size < 2**63:
        raise ConfigurationError("--bytes-per-second is out of range.", "--off lifts the limit.")
    return size


def _ask(
    run: str,
    config: Path | None,
    state_dir: Path | None,
    event: str,
    *,
    paused: bool | None = None,
    keys_per_second: int | None = None,
    bytes_per_second: int | None = None,
) -> tuple[str, ControlState]:
    """Write the control row of a live run; its id and what now holds."""
    from integrity.ledger import open_ledger

    ledger = open_ledger(o.load(config, state_dir, {}).settings)
    try:
        found = ledger.find_run(run)
        return found.id, ledger.set_control(
            found.id, event, paused=paused, keys_per_second=keys_per_second, bytes_per_second=bytes_per_second
        )
    finally:
        ledger.close()


def _confirm(run_id: str, control: ControlState, text: str, as_json: bool) -> None:
    from greenfly.console import print_json

    if as_json:
        print_json({"run": run_id} | _control_values(control))
    else:
        typer.echo(text)


def _control_values(control: ControlState) -> dict[str, object]:
    return {
        "paused": control.paused,
        "keys_per_second": control.keys_per_second,
        "bytes_per_second": control.bytes_per_second,
        "updated_at": control.updated_at.isoformat() if control.updated_at else None,
        "updated_by": control.updated_by,
    }


def _control_text(control: ControlState) -> str:
    from greenfly.console import human_bytes

    paused = "paused; " if control.paused else ""
    if control.keys_per_second is None and control.bytes_per_second is None:
        return f"{paused}no limits but those that it was started with"

    def cap(limit: int | None, shown: str, unit: str) -> str:
        if limit is None:
            return f"{unit}/s as the run was started"
        return shown if limit else f"no limit on {unit}"

    keys = cap(control.keys_per_second, f"{control.keys_per_second or 0:,} keys/s", "keys")
    size = cap(control.bytes_per_second, f"{human_bytes(control.bytes_per_second or 0)}/s", "bytes")
    return f"{paused}{keys}, {size}"
