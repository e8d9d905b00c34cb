"""Flags that several commands share, and how they become settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from integrity.settings import LoadedSettings

SERVERS = "Servers"
RUNNING = "Running"
OUTPUT = "Output"
PACE = "Pace"
RULES = "Rules (what is left out, where keys go)"

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", help="Configuration file (default: greenfly.toml here).", rich_help_panel=OUTPUT
    ),
]
StateDir = Annotated[
    Path | None,
    typer.Option(help="Folder of the ledger, snapshots and reports.", rich_help_panel=OUTPUT),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="One JSON object on stdout.", rich_help_panel=OUTPUT),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.", rich_help_panel=OUTPUT)]

Source = Annotated[
    str | None,
    typer.Option(help="redis://, rediss:// or unix:// URL of the server to read.", rich_help_panel=SERVERS),
]
Target = Annotated[
    str | None,
    typer.Option(help="redis://, rediss:// or unix:// URL of the server to write.", rich_help_panel=SERVERS),
]
SourcePasswordFile = Annotated[
    Path | None, typer.Option(help="File whose first line is the password.", rich_help_panel=SERVERS)
]
TargetPasswordFile = Annotated[
    Path | None, typer.Option(help="File whose first line is the password.", rich_help_panel=SERVERS)
]
SourceCa = Annotated[Path | None, typer.Option(help="CA certificates (PEM).", rich_help_panel=SERVERS)]
TargetCa = Annotated[Path | None, typer.Option(help="CA certificates (PEM).", rich_help_panel=SERVERS)]
SourceCert = Annotated[Path | None, typer.Option(help="Client certificate (PEM).", rich_help_panel=SERVERS)]
TargetCert = Annotated[Path | None, typer.Option(help="Client certificate (PEM).", rich_help_panel=SERVERS)]
SourceKey = Annotated[Path | None, typer.Option(help="Client key (PEM).", rich_help_panel=SERVERS)]
TargetKey = Annotated[Path | None, typer.Option(help="Client key (PEM).", rich_help_panel=SERVERS)]
Databases = Annotated[
    str | None, typer.Option(help="Only these databases, as 0,1,2.", rich_help_panel=RUNNING)
]
Label = Annotated[str | None, typer.Option(help="Free text kept with the run.", rich_help_panel=RUNNING)]

Replica = Annotated[
    str | None,
    typer.Option(
        help="URL of a replica of the source to read from, so that the source is left alone; its user and password may "
        "come from GREENFLY_REPLICA__USERNAME and GREENFLY_REPLICA__PASSWORD.",
        rich_help_panel=SERVERS,
    ),
]

Workers = Annotated[
    int | None,
    typer.Option(metavar="N", help="Processes that share the work (default: 1).", rich_help_panel=PACE),
]
Reconnect = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="How long to try a lost server again before the run breaks off (default: 60).",
        rich_help_panel=PACE,
    ),
]
KeysPerSecond = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="No more keys than this; `greenfly runs limit` changes it while the run goes on.",
        rich_help_panel=PACE,
    ),
]
BytesPerSecond = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="No more bytes than this: 50MB, 1.5GiB.", rich_help_panel=PACE),
]

Include = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help=r"Only keys that this pattern of Redis (user:*) matches; repeatable. \xNN is that byte.",
        rich_help_panel=RULES,
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="No key that this pattern matches, whatever includes it; repeatable.",
        rich_help_panel=RULES,
    ),
]
IncludeType = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TYPE", help="Only keys of this type, as TYPE names it; repeatable.", rich_help_panel=RULES
    ),
]
ExcludeType = Annotated[
    list[str] | None,
    typer.Option(metavar="TYPE", help="No key of this type; repeatable.", rich_help_panel=RULES),
]
MinBytes = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="No key that uses less memory on the source: 1500, 10KB, 1MiB.",
        rich_help_panel=RULES,
    ),
]
MaxBytes = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="No key that uses more memory on the source.", rich_help_panel=RULES),
]
MapDb = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FROM=TO",
        help="Source database 1 goes to database 0 of the target: 1=0; repeatable.",
        rich_help_panel=RULES,
    ),
]
Rename = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FROM=TO",
        help="Keys that begin with old: begin with new: on the target: old:=new:; repeatable, the first that fits "
        "counts.",
        rich_help_panel=RULES,
    ),
]


def rule_overrides(
    include: list[str] | None = None,
    exclude: list[str] | None = None,
    include_type: list[str] | None = None,
    exclude_type: list[str] | None = None,
    min_bytes: str | None = None,
    max_bytes: str | None = None,
    map_db: list[str] | None = None,
    rename: list[str] | None = None,
) -> dict[str, object]:
    """The ``[rules]`` table that the flags make; a flag that was not given leaves the file's rule alone."""
    values: dict[str, object | None] = {
        "include": include or None,
        "exclude": exclude or None,
        "include_types": include_type or None,
        "exclude_types": exclude_type or None,
        "min_bytes": min_bytes,
        "max_bytes": max_bytes,
        "databases": map_db or None,
        "rename": rename or None,
    }
    return without_empty(values)


def pace_overrides(
    workers: int | None = None,
    replica: str | None = None,
    reconnect: float | None = None,
    keys_per_second: int | None = None,
    bytes_per_second: str | None = None,
) -> dict[str, object]:
    """The settings, at the top level, that the flags about the pace and the replica make."""
    throttle = without_empty({"keys_per_second": keys_per_second, "bytes_per_second": bytes_per_second})
    return without_empty(
        {
            "workers": workers,
            "replica": endpoint_overrides(replica),
            "reconnect_seconds": reconnect,
            "throttle": throttle,
        }
    )


def endpoint_overrides(
    url: str | None,
    password_file: Path | None = None,
    ca: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
) -> dict[str, object]:
    """The ``[source]`` or ``[target]`` table that the flags make."""
    values: dict[str, object | None] = {
        "url": url,
        "password_file": password_file,
        "tls_ca_file": ca,
        "tls_cert_file": cert,
        "tls_key_file": key,
    }
    return {name: value for name, value in values.items() if value is not None}


def without_empty(values: dict[str, object | None]) -> dict[str, object]:
    """*values* without what no flag set."""
    return {name: value for name, value in values.items() if value is not None and value != {}}


def load(config: Path | None, state_dir: Path | None, overrides: dict[str, object | None]) -> LoadedSettings:
    """Settings from file, environment and flags.

    :raises ConfigurationError: something in them cannot be used.
    """
    from integrity.settings import load_settings

    databases = overrides.get("databases")
    if isinstance(databases, str):
        overrides = overrides | {"databases": [part.strip() for part in databases.split(",") if part.strip()]}
    return load_settings(without_empty(overrides | {"state_dir": state_dir}), config_file=config)
