"""``greenfly report``"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from greenfly.commands import options as o
from reports.write import DEFAULT_FORMATS, ReportFormat


def report(
    run: Annotated[str, typer.Argument(help="Run id, its beginning or ending, or latest.")],
    output: Annotated[Path | None, typer.Option(help="Folder to write to (default: the run's own).")] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="FORMATS",
            help="Of html, json, csv and parquet, between commas or repeated (default: html,json,csv).",
        ),
    ] = None,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
) -> None:
    """Write a run's report again, from the ledger alone: HTML, JSON, and its findings as CSV or Parquet."""
    from greenfly.console import print_json
    from integrity.ledger import open_ledger
    from reports import write_report

    chosen = _formats(formats or ())
    settings = o.load(config, state_dir, {}).settings
    ledger = open_ledger(settings)
    try:
        found = ledger.find_run(run)
        files = write_report(
            ledger, found.id, output or settings.report_dir / found.id, chosen or DEFAULT_FORMATS
        )
    finally:
        ledger.close()
    if as_json:
        print_json(
            {
                "run": found.id,
                "report": {each.value: str(path) for each, path in files.written.items()},
            }
        )
        return
    for path in files.written.values():
        typer.echo(path)


def _formats(given: Sequence[str]) -> list[ReportFormat]:
    """From texts that name one format, or several between commas.

    :raises ConfigurationError: one is not known.
    """
    from integrity.errors import ConfigurationError

    names = [name.strip() for text in given for name in text.split(",") if name.strip()]
    known = [each.value for each in ReportFormat]
    for name in names:
        if name not in known:
            raise ConfigurationError(
                f"There is no report of the format {name!a}.", f"Choose of {', '.join(known)}."
            )
    return [ReportFormat(name) for name in names]
