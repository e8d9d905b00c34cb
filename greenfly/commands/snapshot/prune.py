"""``greenfly snapshot prune``"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer

from greenfly.commands import options as o

_UNITS: Final = {"m": 1 / 1440, "h": 1 / 24, "d": 1.0, "w": 7.0}


def days(text: str) -> float:
    """``30d``, ``12h``, ``2w``, ``90m`` or a number of days, in days.

    :raises ConfigurationError: it is something else.
    """
    from integrity.errors import ConfigurationError

    match = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw]?)", text.strip().lower())
    if match is None or not float(match[1]):
        raise ConfigurationError(f"--older-than {text!r} is no age.", "Write 30d, 12h, 2w or 90m.")
    return float(match[1]) * _UNITS[match[2] or "d"]


def prune(
    keep: Annotated[
        int | None,
        typer.Option(min=1, help="The newest so many whole ones stay.", rich_help_panel=o.RUNNING),
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Only older ones go: 30d, 12h, 2w.", rich_help_panel=o.RUNNING),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go; remove nothing.", rich_help_panel=o.RUNNING)
    ] = False,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
) -> None:
    """Remove old snapshots of the snapshot folder, and what processes left behind that are gone.

    With both --keep and --older-than only those go that both let go. The newest whole one always stays. What is
    removed is recorded in the ledger first.
    """
    from greenfly.commands.snapshot.listing import entry_facts, entry_line
    from greenfly.console import human_bytes, print_json
    from integrity.errors import ConfigurationError
    from integrity.ledger import open_ledger
    from integrity.snapshot.catalog import list_snapshots
    from integrity.snapshot.retention import decide, remove

    age = days(older_than) if older_than is not None else None
    settings = o.load(
        config, state_dir, {"snapshot": o.without_empty({"keep": keep, "max_age_days": age})}
    ).settings
    rules = settings.snapshot
    if rules.keep is None and rules.max_age_days is None:
        raise ConfigurationError(
            "Nothing says which snapshots may go.",
            "Give --keep N, --older-than 30d or both, or set snapshot.keep and snapshot.max_age_days.",
        )
    folder = settings.snapshot_dir
    ledger = open_ledger(settings)
    try:
        here = [entry for entry in list_snapshots(folder, ledger) if entry.directory.parent == folder]
        decisions = decide(
            here,
            keep=rules.keep,
            max_age=timedelta(days=rules.max_age_days) if rules.max_age_days is not None else None,
            now=datetime.now(UTC),
        )
        for decision in decisions:
            if decision.removed and not dry_run:
                remove(decision, ledger)
            if not as_json:
                word = ("would go" if dry_run else "removed") if decision.removed else "kept"
                typer.echo(f"{word:<8}  {entry_line(decision.entry)}  [{decision.reason}]")
    finally:
        ledger.close()
    gone = [decision.entry for decision in decisions if decision.removed]
    freed = sum(entry.size or 0 for entry in gone)
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "removed": len(gone),
                "bytes": freed,
                "snapshots": [
                    entry_facts(d.entry) | {"removed": d.removed, "reason": d.reason} for d in decisions
                ],
            }
        )
    else:
        verb = "would be removed" if dry_run else "removed"
        typer.echo(f"{len(gone):,} of {len(decisions):,} {verb}, {human_bytes(freed)}.")
