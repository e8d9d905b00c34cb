"""``greenfly snapshot list``"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from greenfly.commands import options as o
from greenfly.commands.snapshot.common import ledger_if_reachable

if TYPE_CHECKING:
    from integrity.snapshot.catalog import Entry


def list_all(
    include_pruned: Annotated[
        bool, typer.Option("--all", help="Also those that were pruned.", rich_help_panel=o.OUTPUT)
    ] = False,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
) -> None:
    """The snapshots in the snapshot folder and in the ledger, newest first."""
    from greenfly.console import print_json
    from integrity.snapshot.catalog import SnapshotState, list_snapshots

    settings = o.load(config, state_dir, {}).settings
    with ledger_if_reachable(settings) as ledger:
        entries = list_snapshots(settings.snapshot_dir, ledger)
    if not include_pruned:
        entries = [entry for entry in entries if entry.state is not SnapshotState.PRUNED]
    if as_json:
        print_json({"snapshots": [entry_facts(entry) for entry in entries]})
        return
    if not entries:
        typer.echo(f"There is no snapshot in {settings.snapshot_dir}.")
    for entry in entries:
        typer.echo(entry_line(entry))


def entry_facts(entry: Entry) -> dict[str, object]:
    """One snapshot in JSON."""
    return {
        "snapshot": entry.id,
        "directory": str(entry.directory),
        "state": entry.state.value,
        "taken_at": entry.taken_at.isoformat() if entry.taken_at else None,
        "source": entry.source,
        "keys": entry.keys,
        "bytes": entry.size,
        "encrypted": entry.encrypted,
        "note": entry.note,
    }


def entry_line(entry: Entry) -> str:
    """One snapshot in one line."""
    from greenfly.console import human_bytes

    parts = [
        f"{entry.id:<22}",
        f"{entry.state.value:<11}",
        f"{entry.taken_at:%Y-%m-%d %H:%M} UTC" if entry.taken_at else " " * 20,
        f"{f'{entry.keys:,} keys' if entry.keys is not None else '-':>16}",
        f"{human_bytes(entry.size) if entry.size is not None else '-':>10}",
        "encrypted" if entry.encrypted else "         ",
        entry.source or "",
        f"({entry.note})" if entry.note else "",
    ]
    return "  ".join(parts).rstrip()
