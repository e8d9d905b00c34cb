"""``greenfly migrate``"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from greenfly.commands import options as o

Conflict = Annotated[
    str | None,
    typer.Option(
        help="When the target already holds keys: fail (refuse to start), skip (keep its value), replace.",
        rich_help_panel=o.RUNNING,
    ),
]
TakeSnapshot = Annotated[
    bool | None,
    typer.Option(
        "--snapshot/--no-snapshot", help="Take a snapshot of the source first.", rich_help_panel=o.RUNNING
    ),
]
SnapshotMethod = Annotated[
    str | None,
    typer.Option(
        metavar="scan|replication|auto",
        help="Take it key by key; as the source's own RDB stream, which is one moment; or that where the source allows "
        "it.",
        rich_help_panel=o.RUNNING,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with the newest run between these servers that broke off while it copied.",
        rich_help_panel=o.RUNNING,
    ),
]
ResumeIfAny = Annotated[
    bool,
    typer.Option(
        "--resume-if-any",
        help="Go on with a run that broke off if there is one, else start one; for schedules.",
        rich_help_panel=o.RUNNING,
    ),
]
Strategy = Annotated[
    str | None,
    typer.Option(
        help="How everything is copied: copy, native (Dragonfly's own replication, which empties the target), auto.",
        rich_help_panel=o.RUNNING,
    ),
]
FromRdb = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Load this RDB file, a backup for instance, instead of copying from a server; it is only read.",
        rich_help_panel=o.SERVERS,
    ),
]
Extra = Annotated[
    bool | None,
    typer.Option(
        "--allow-extra", help="Keys that only the target has are exceptions.", rich_help_panel=o.RUNNING
    ),
]


def migrate(
    source: o.Source = None,
    target: o.Target = None,
    from_rdb: FromRdb = None,
    conflict: Conflict = None,
    strategy: Strategy = None,
    resume: Resume = False,
    resume_if_any: ResumeIfAny = False,
    take_snapshot: TakeSnapshot = None,
    snapshot_method: SnapshotMethod = None,
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
    """Copy every key from source (or an RDB file) to target, then prove that both sides are equal.

    Phases: check, snapshot, stream, verify, report. The source is only read.
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
            "snapshot": o.without_empty({"enabled": take_snapshot, "method": snapshot_method}),
            "verify": o.without_empty({"extra_keys": "allow" if allow_extra else None}),
            **o.pace_overrides(workers, replica, reconnect, keys_per_second, bytes_per_second),
        },
    )
    progress = make_progress(quiet=quiet)
    if from_rdb is None:
        outcome = sequence.migrate(loaded.settings, progress, resume=resume, resume_if_any=resume_if_any)
    else:
        _refuse_beside_a_file(
            {
                "--source": source,
                "--replica": replica,
                "--workers": workers,
                "--snapshot-method": snapshot_method,
                "--snapshot": take_snapshot,
            }
        )
        outcome = sequence.migrate_file(
            loaded.settings, from_rdb, progress, resume=resume, resume_if_any=resume_if_any
        )
    finish(outcome, as_json=as_json)


def _refuse_beside_a_file(flags: Mapping[str, object]) -> None:
    """Refuse flags that mean nothing where there is no source server."""
    from integrity.errors import ConfigurationError

    given = [flag for flag, value in flags.items() if value is not None]
    if given:
        raise ConfigurationError(
            f"{', '.join(given)} {'does' if len(given) == 1 else 'do'} not go with --from-rdb.",
            "A file is loaded by one process, and there is no source server; leave it out.",
        )
