"""``greenfly metrics serve|write``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from greenfly.commands import options as o

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The ledger as metrics: for Prometheus, or for the node exporter.",
)

Listen = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Where to serve (default: metrics.listen, or 127.0.0.1:9469)."),
]
AllowRemote = Annotated[
    bool,
    typer.Option("--allow-remote", help="Serve on an address that other machines can reach."),
]
File = Annotated[
    Path | None,
    typer.Argument(metavar="[FILE]", help="File whose name ends in .prom (default: metrics.textfile)."),
]


@app.command("serve", short_help="Serve them to Prometheus.")
def serve(
    listen: Listen = None,
    allow_remote: AllowRemote = False,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
) -> None:
    """Serve the metrics of every run in the ledger until Ctrl-C; the ledger is only read.

    No key, address or run id is in them. A ledger that is away is told as greenfly_ledger_up 0.
    """
    from threading import Event

    from integrity.errors import StopSignal
    from integrity.metrics_settings import DEFAULT_LISTEN
    from reports.metrics.exporter import Exporter
    from reports.metrics.telling import served

    settings = o.load(config, state_dir, {}).settings
    address = listen or settings.metrics.listen or DEFAULT_LISTEN
    exporter = Exporter(settings)
    exporter.require_readable()
    with served(
        exporter.registry(), address, allow_remote=allow_remote or settings.metrics.allow_remote
    ) as port:
        typer.echo(f"http://{address.rpartition(':')[0]}:{port}/metrics")
        try:
            Event().wait()
        except StopSignal as stop:
            raise typer.Exit(128 + stop.signal_number) from None


@app.command("write", short_help="Write them to a file.")
def write(
    file: File = None,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
) -> None:
    """Write the metrics as they are now to a file that the node exporter reads, at once and whole."""
    from integrity.errors import ConfigurationError
    from reports.metrics.exporter import Exporter
    from reports.metrics.telling import write_text_file

    flags: dict[str, object | None] = {"metrics": {"textfile": file}} if file is not None else {}
    settings = o.load(config, state_dir, flags).settings
    path = settings.metrics.textfile
    if path is None:
        raise ConfigurationError("No file is named.", "Give one, or set metrics.textfile.")
    exporter = Exporter(settings)
    exporter.require_readable()
    write_text_file(exporter.registry(), path)
    typer.echo(str(path))
