"""``greenfly snapshot take``"""

from __future__ import annotations

from typing import Annotated

import typer

from greenfly.commands import options as o

EncryptTo = Annotated[
    list[str] | None,
    typer.Option(
        metavar="AGE1…",
        help="Encrypt to this age recipient; repeatable. `greenfly snapshot keygen` makes one.",
        rich_help_panel=o.RUNNING,
    ),
]

Method = Annotated[
    str | None,
    typer.Option(
        metavar="scan|replication|auto",
        help="Key by key; the source's own RDB stream, which is one moment; or that where the source allows it.",
        rich_help_panel=o.RUNNING,
    ),
]


def take(
    source: o.Source = None,
    databases: o.Databases = None,
    encrypt_to: EncryptTo = None,
    method: Method = None,
    label: o.Label = None,
    source_password_file: o.SourcePasswordFile = None,
    source_ca: o.SourceCa = None,
    source_cert: o.SourceCert = None,
    source_key: o.SourceKey = None,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Write the source into an RDB file, a Parquet manifest of checksums and a JSON header."""
    from flows import sequence
    from greenfly.commands.finish import finish
    from greenfly.console import make_progress

    loaded = o.load(
        config,
        state_dir,
        {
            "source": o.endpoint_overrides(source, source_password_file, source_ca, source_cert, source_key),
            "databases": databases,
            "label": label,
            "snapshot": o.without_empty({"encrypt_to": encrypt_to or None, "method": method}),
        },
    )
    finish(sequence.snapshot(loaded.settings, make_progress(quiet=quiet)), as_json=as_json)
