"""``greenfly cutover`` and ``greenfly rollback``"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from greenfly.commands import options as o

if TYPE_CHECKING:
    from integrity.settings import Settings
    from integrity.switch.gates import Gate

SyncRun = Annotated[
    str,
    typer.Argument(
        help="The sync run, or an operation that rests on it: its id, its beginning or ending, or latest."
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print the steps, and the gates' present values; do nothing.",
        rich_help_panel=o.RUNNING,
    ),
]
Yes = Annotated[
    bool,
    typer.Option("--yes", "-y", help="Do not ask; needed without a terminal.", rich_help_panel=o.RUNNING),
]


def cutover(
    run: SyncRun = "latest",
    dry_run: DryRun = False,
    yes: Yes = False,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait-for-approvals",
            help="Ask for the approvals that are missing, and begin when they are there (flows.approval_seconds).",
            rich_help_panel=o.RUNNING,
        ),
    ] = False,
    source: o.Source = None,
    target: o.Target = None,
    source_password_file: o.SourcePasswordFile = None,
    source_ca: o.SourceCa = None,
    source_cert: o.SourceCert = None,
    source_key: o.SourceKey = None,
    target_password_file: o.TargetPasswordFile = None,
    target_ca: o.TargetCa = None,
    target_cert: o.TargetCert = None,
    target_key: o.TargetKey = None,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Move the applications from blue to green: fence blue, carry over the rest, switch the environment, confirm.

    Any step that fails or takes too long undoes the ones before it. A cutover whose process was killed is ended by the
    sync process, or by the next call of this command.
    """
    from flows import operations
    from greenfly.commands.finish import finish
    from greenfly.console import make_progress

    settings = _settings(
        o.endpoint_overrides(source, source_password_file, source_ca, source_cert, source_key),
        o.endpoint_overrides(target, target_password_file, target_ca, target_cert, target_key),
        config,
        state_dir,
    )
    if dry_run:
        plan = operations.plan_cutover(settings, run)
        _print_plan(plan.to_dict(), plan.steps, plan.gates, as_json=as_json)
        raise typer.Exit(0 if plan.passes else 4)
    _confirm(f"Move the applications to green ({_where(settings, 'target')})?", yes=yes)
    progress = make_progress(quiet=quiet)
    if wait:
        from flows.approval_desk import wait_in_ledger

        wait_in_ledger(settings, run, progress)
    outcome = operations.cut_over(settings, run, progress)
    finish(outcome, as_json=as_json)


def rollback(
    run: SyncRun = "latest",
    dry_run: DryRun = False,
    yes: Yes = False,
    abandon_green: Annotated[
        bool,
        typer.Option(
            "--abandon-green",
            help="Green is dead: switch at once, and list what may be lost.",
            rich_help_panel=o.RUNNING,
        ),
    ] = False,
    reason: Annotated[
        str, typer.Option(help="Why; kept with the run.", rich_help_panel=o.RUNNING)
    ] = "asked for on the command line",
    source: o.Source = None,
    target: o.Target = None,
    source_password_file: o.SourcePasswordFile = None,
    source_ca: o.SourceCa = None,
    source_cert: o.SourceCert = None,
    source_key: o.SourceKey = None,
    target_password_file: o.TargetPasswordFile = None,
    target_ca: o.TargetCa = None,
    target_cert: o.TargetCert = None,
    target_key: o.TargetKey = None,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Move the applications back to blue; what they wrote to green goes with them.

    Works with no orchestrator running. Where the applications are on blue already, it says so and does nothing.
    """
    from flows import operations
    from greenfly.commands.finish import finish
    from greenfly.console import make_progress, print_json
    from greenfly.exit_codes import ExitCode

    settings = _settings(
        o.endpoint_overrides(source, source_password_file, source_ca, source_cert, source_key),
        o.endpoint_overrides(target, target_password_file, target_ca, target_cert, target_key),
        config,
        state_dir,
    )
    if dry_run:
        plan = operations.plan_rollback(settings, run, abandon=abandon_green)
        _print_plan(plan.to_dict(), plan.steps, (), as_json=as_json)
        return
    _confirm(f"Move the applications back to blue ({_where(settings, 'source')})?", yes=yes)
    outcome = operations.roll_back(
        settings, run, make_progress(quiet=quiet), abandon=abandon_green, reason=reason
    )
    if outcome is None:
        if as_json:
            print_json({"run": None, "reason": operations.ON_BLUE, "exit_code": int(ExitCode.OK)})
        else:
            typer.echo(operations.ON_BLUE)
        return
    finish(outcome, as_json=as_json)


def _settings(
    source: dict[str, object], target: dict[str, object], config: Path | None, state_dir: Path | None
) -> Settings:
    return o.load(config, state_dir, {"source": source, "target": target}).settings


def _where(settings: Settings, side: str) -> str:
    from integrity.endpoint import Endpoint

    if side == "source":
        return str(Endpoint.from_settings("source", settings.source))
    return str(Endpoint.from_settings("target", settings.target))


def _confirm(question: str, *, yes: bool) -> None:
    from integrity.errors import ConfigurationError

    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigurationError("Nobody is there to be asked.", "Say --yes.")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise ConfigurationError("Nothing was done.", "")


def _print_plan(
    plan: Mapping[str, object],
    steps: tuple[tuple[str, float, str], ...],
    gates: tuple[Gate, ...],
    *,
    as_json: bool,
) -> None:
    from greenfly.console import human_seconds, print_json

    if as_json:
        print_json(plan)
        return
    for name, seconds, text in steps:
        typer.echo(f"  {name:<9} at most {human_seconds(seconds):<12} {text}")
    if gates:
        typer.echo("")
    for gate in gates:
        limit = f"  (wanted: {gate.limit})" if gate.limit else ""
        typer.echo(f"  {'pass' if gate.passed else 'STOP'}  {gate.name:<12} {gate.value}{limit}")
        if not gate.passed:
            typer.echo(f"        {gate.text}")
    typer.echo("\nNothing was done.")
