"""``greenfly repair``"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from greenfly.commands import options as o
from greenfly.commands.migrate import Extra

if TYPE_CHECKING:
    from integrity.settings import Settings

DeleteExtra = Annotated[
    bool,
    typer.Option(
        "--delete-extra",
        help="Delete keys that only the target has; they are kept otherwise.",
        rich_help_panel=o.RUNNING,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print what would be done about each finding; write nothing.",
        rich_help_panel=o.RUNNING,
    ),
]


def repair(
    run: Annotated[
        str, typer.Argument(help="The run to repair: its id, its beginning or ending, or latest.")
    ],
    source: o.Source = None,
    target: o.Target = None,
    dry_run: DryRun = False,
    delete_extra: DeleteExtra = False,
    allow_extra: Extra = None,
    replica: o.Replica = None,
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
    """Copy exactly those keys again that a run found to differ, and compare them again.

    The rules and databases of that run apply, and its verdict stays as it is: the repair is a run of its own.
    """
    from flows import sequence
    from greenfly.commands.finish import finish
    from greenfly.console import make_progress, print_nothing_to_repair

    settings = o.load(
        config,
        state_dir,
        {
            "source": o.endpoint_overrides(source, source_password_file, source_ca, source_cert, source_key),
            "target": o.endpoint_overrides(target, target_password_file, target_ca, target_cert, target_key),
            "label": label,
            "verify": o.without_empty({"extra_keys": "allow" if allow_extra else None}),
            **o.pace_overrides(None, replica, None, keys_per_second, bytes_per_second),
        },
    ).settings
    if dry_run:
        _print_plan(settings, run, delete_extra=delete_extra, as_json=as_json)
        return
    outcome = sequence.repair(settings, run, make_progress(quiet=quiet), delete_extra=delete_extra)
    if isinstance(outcome, sequence.NothingToRepair):
        print_nothing_to_repair(outcome, as_json=as_json)
        return
    finish(outcome, as_json=as_json)


def _print_plan(settings: Settings, run: str, *, delete_extra: bool, as_json: bool) -> None:
    from flows import sequence
    from greenfly.console import RepairPlanPrinter

    printer = RepairPlanPrinter(as_json=as_json)
    printer.finish(sequence.plan_repair(settings, run, printer.add, delete_extra=delete_extra))
