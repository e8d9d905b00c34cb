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
