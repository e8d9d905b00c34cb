"""``greenfly sync``"""

from __future__ import annotations

from typing import Annotated

import typer

from greenfly.commands import options as o
from greenfly.commands.migrate import Extra, Strategy, TakeSnapshot

Conflict = Annotated[
    str | None,
    typer.Option(
        help="When the target already holds keys: fail (refuse to start) or replace.",
        rich_help_panel=o.RUNNING,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Go on with the newest sync between these servers.", rich_help_panel=o.RUNNING
    ),
]
ResumeIfAny = Annotated[
    bool,
    typer.Option(
        "--resume-if-any",
        help="Go on with a sync that broke off if there is one, else start one; for service managers.",
        rich_help_panel=o.RUNNING,
    ),
]
UntilEqual = Annotated[
    bool,
    typer.Option(
        "--until-equal",
        help="End as soon as every key was compared equal and nothing is left to carry over.",
        rich_help_panel=o.RUNNING,
    ),
]
Feed = Annotated[
    str | None,
    typer.Option(
        help="What tells which keys change: auto, tracking, monitor, rounds.", rich_help_panel=o.RUNNING
    ),
]


def sync(
    source: o.Source = None,
    target: o.Target = None,
    conflict: Conflict = None,
    strategy: Strategy = None,
    resume: Resume = False,
    resume_if_any: ResumeIfAny = False,
    until_equal: UntilEqual = False,
    feed: Feed = None,
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
    """Copy every key, and carry over every change until stopped (Ctrl-C, `greenfly runs stop`).

    `greenfly cutover` rests on it, and turns it round: from then on green's changes go back to blue. It goes on after a
    lost connection; after it was stopped or killed, with the same command and --resume.
    """
    from flows import sequence
    from greenfly.commands.finish import finish
    from greenfly.console import make_progress

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
            "strategy": strategy,
            "copy": o.without_empty({"conflict": conflict}),
            "snapshot": o.without_empty({"enabled": take_snapshot}),
            "sync": o.without_empty({"feed": feed}),
            "verify": o.without_empty({"extra_keys": "allow" if allow_extra else None}),
            **o.pace_overrides(workers, None, None, None, None),
        },
    )
    outcome = sequence.sync(
        loaded.settings,
        make_progress(quiet=quiet),
        resume=resume,
        resume_if_any=resume_if_any,
        until_equal=until_equal,
    )
    finish(outcome, as_json=as_json)
