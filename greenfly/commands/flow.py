"""``greenfly flow …``: the same work as a Prefect flow."""

from __future__ import annotations

from typing import Annotated

import typer

from greenfly.commands import options as o
from greenfly.commands.migrate import Conflict, Extra, TakeSnapshot

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The same work as a Prefect flow.")


@app.callback()
def root() -> None:
    """The same work as a Prefect flow: on the server that PREFECT_API_URL names, else on an embedded one."""


@app.command("migrate")
def migrate(
    source: o.Source = None,
    target: o.Target = None,
    conflict: Conflict = None,
    take_snapshot: TakeSnapshot = None,
    allow_extra: Extra = None,
    databases: o.Databases = None,
    include: o.Include = None,
    exclude: o.Exclude = None,
    include_type: o.IncludeType = None,
    exclude_type: o.ExcludeType = None,
    min_bytes: o.MinBytes = None,
    max_bytes: o.MaxBytes = None,
    map_db: o.MapDb = None,
    rename: o.Rename = None,
    workers: o.Workers = None,
    replica: o.Replica = None,
    reconnect: o.Reconnect = None,
    keys_per_second: o.KeysPerSecond = None,
    bytes_per_second: o.BytesPerSecond = None,
    label: o.Label = None,
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
    """Migrate as a Prefect flow: each phase a task, the verdict an artifact."""
    from flows.parameters import MigrateParameters
    from greenfly.commands.finish import finish
    from greenfly.console import make_progress
    from greenfly.orchestrator import run_flow

    loaded = o.load(
        config,
        state_dir,
        {
            "source": o.endpoint_overrides(source, source_password_file, source_ca, source_cert, source_key),
            "target": o.endpoint_overrides(target, target_password_file, target_ca, target_cert, target_key),
            "databases": databases,
            "rules": o.rule_overrides(
                include, exclude, include_type, exclude_type, min_bytes, max_bytes, map_db, rename
            ),
            "label": label,
            "copy": o.without_empty({"conflict": conflict}),
            "snapshot": o.without_empty({"enabled": take_snapshot}),
            "verify": o.without_empty({"extra_keys": "allow" if allow_extra else None}),
            **o.pace_overrides(workers, replica, reconnect, keys_per_second, bytes_per_second),
        },
    )
    settings = loaded.settings
    outcome = run_flow(settings, make_progress(quiet=quiet), "migrate", MigrateParameters.showing(settings))
    assert outcome is not None  # noqa: S101  (a migration that makes no run raises)
    finish(outcome, as_json=as_json)


@app.command("run")
def run(
    name: Annotated[
        str, typer.Argument(help="migrate, rehearse, verify, cutover, rollback, watch or maintain.")
    ],
    parameters: Annotated[
        str,
        typer.Option(
            metavar="JSON",
            help="Parameters, as Prefect's page has them: '{\"workers\": 2}'.",
            rich_help_panel=o.RUNNING,
        ),
    ] = "{}",
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Run any flow here and now; servers come from the settings. A cutover waits for the ledger's approvals."""
    from flows.parameters import read_parameters
    from greenfly.commands.finish import finish
    from greenfly.console import make_progress, print_json
    from greenfly.exit_codes import ExitCode
    from greenfly.orchestrator import run_flow

    given = read_parameters(name, parameters)
    settings = o.load(config or given.config_file, state_dir, dict(given.overrides())).settings
    outcome = run_flow(settings, make_progress(quiet=quiet), name, given)
    if outcome is not None:
        finish(outcome, as_json=as_json)
    if as_json:
        print_json({"run": None, "flow": name, "exit_code": int(ExitCode.OK)})
    else:
        typer.echo(f"The flow {name} has ended; it made no run.")


@app.command("list")
def list_all(config: o.ConfigFile = None, state_dir: o.StateDir = None, as_json: o.Json = False) -> None:
    """The flows, when `greenfly serve` starts them by itself, and what else starts them."""
    from flows.parameters import BY_FLOW
    from greenfly.console import print_json

    settings = o.load(config, state_dir, {}).settings
    schedules = settings.flows.schedules.by_flow()
    events = ["greenfly.rollback.requested", "greenfly.guard.breached"]
    if as_json:
        print_json(
            {
                "flows": [
                    {
                        "flow": name,
                        "deployment": f"greenfly-{name}/default",
                        "schedule": schedules.get(name),
                        "timezone": settings.flows.timezone if name in schedules else None,
                        "events": events if name == "rollback" else [],
                    }
                    for name in BY_FLOW
                ]
            }
        )
        return
    for name in BY_FLOW:
        when = f"{schedules[name]} ({settings.flows.timezone})" if name in schedules else "-"
        started_by = f"  {', '.join(events)}" if name == "rollback" else ""
        typer.echo(f"greenfly-{name + '/default':<17}  {when:<28}{started_by}".rstrip())
