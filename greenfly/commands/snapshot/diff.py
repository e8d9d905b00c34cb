"""``greenfly snapshot diff``"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from greenfly.commands import options as o
from greenfly.commands.snapshot.common import IdentityFile, identity_overrides, ledger_if_reachable

if TYPE_CHECKING:
    from integrity.snapshot.diff import Difference

_SHOWN_GROUPS: Final = 40
_MARKS: Final = {"added": "+", "removed": "-"}


def diff(
    before: Annotated[
        str, typer.Argument(metavar="A", help="The earlier snapshot: folder, run id or latest.")
    ],
    after: Annotated[str, typer.Argument(metavar="B", help="The later one.")],
    prefix_separator: Annotated[
        str, typer.Option(help="What ends a key's prefix.", rich_help_panel=o.RUNNING)
    ] = ":",
    list_keys: Annotated[
        int,
        typer.Option("--keys", min=0, max=1_000_000, help="How many keys to list.", rich_help_panel=o.OUTPUT),
    ] = 20,
    identity_file: IdentityFile = None,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Tell what was added, removed and changed from A to B, by database, type and key prefix.

    Only the manifests are read; no server is needed. Exits with 0 where nothing differs, with 1 where anything does,
    and with 3 where nothing is known to differ but some values could not be compared.
    """
    from greenfly.console import make_progress, print_json
    from greenfly.exit_codes import ExitCode
    from integrity.errors import ConfigurationError
    from integrity.snapshot.artifact import Artifact
    from integrity.snapshot.catalog import find_snapshot
    from integrity.snapshot.diff import compare_snapshots
    from integrity.snapshot.sealing import load_keys

    if not prefix_separator:
        raise ConfigurationError(
            "--prefix-separator is empty.", "Give at least one character, : for example."
        )
    settings = o.load(config, state_dir, identity_overrides(identity_file)).settings
    keys = load_keys(settings.snapshot)
    with ledger_if_reachable(settings) as ledger:
        folders = [find_snapshot(wanted, settings.snapshot_dir, ledger) for wanted in (before, after)]
    first, second = (Artifact.open(folder, keys) for folder in folders)
    progress = make_progress(quiet=quiet)
    progress.phase("diff", 2 * (first.header.keys + second.header.keys))
    difference = compare_snapshots(
        first,
        second,
        separator=prefix_separator.encode(),
        list_keys=list_keys,
        tolerance_ms=settings.verify.expiry_tolerance_ms,
        on_progress=progress.advance,
    )
    progress.phase_ended()
    code = ExitCode.OK
    if not difference.same:
        code = ExitCode.DIFFERENT
    elif difference.uncompared:
        code = ExitCode.INCONCLUSIVE
    if as_json:
        print_json(
            {
                "before": str(folders[0]),
                "after": str(folders[1]),
                **_facts(difference),
                "exit_code": int(code),
            }
        )
    else:
        _print(difference)
    raise typer.Exit(int(code))


def _facts(difference: Difference) -> dict[str, object]:
    from reports.display import key_text

    return {
        "keys_before": difference.keys_before,
        "keys_after": difference.keys_after,
        "added": difference.added,
        "removed": difference.removed,
        "changed": difference.changed,
        "changed_value": difference.counts["value"],
        "changed_expiry": difference.counts["expiry"],
        "changed_type": difference.counts["type"],
        "uncompared": difference.uncompared,
        "groups": [
            {"database": database, "kind": kind, "prefix": prefix, **counts}
            for (database, kind, prefix), counts in sorted(difference.groups.items())
        ],
        "keys": [
            {"change": list(k.change), "database": k.database, "kind": k.kind, "key": key_text(k.key)}
            for k in difference.listed
        ],
    }


def _print(difference: Difference) -> None:
    from integrity.snapshot.diff import CHANGES
    from reports.display import key_text, plain_text

    counts = difference.counts
    typer.echo(
        f"{difference.keys_before:,} keys before, {difference.keys_after:,} after: {difference.added:,} added, "
        f"{difference.removed:,} removed, {difference.changed:,} changed ({counts['value']:,} values, "
        f"{counts['expiry']:,} expiries, {counts['type']:,} types)"
    )
    if difference.uncompared:
        typer.echo(
            f"{difference.uncompared:,} values of types without a digest are stored differently and could not be "
            "compared"
        )
    if difference.groups:
        typer.echo(f"\n{'db':>4}  {'type':<10}" + "".join(f"{name:>12}" for name in CHANGES) + "  prefix")
    largest = sorted(difference.groups.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    for (database, kind, prefix), group in largest[:_SHOWN_GROUPS]:
        numbers = "".join(f"{group.get(name, 0):>12,}" for name in CHANGES)
        typer.echo(f"{database:>4}  {kind:<10}{numbers}  {plain_text(prefix)}")
    if len(largest) > _SHOWN_GROUPS:
        typer.echo(f"      and {len(largest) - _SHOWN_GROUPS:,} more (--json lists all)")
    if difference.listed:
        typer.echo("")
    for item in difference.listed:
        mark = _MARKS.get(item.change[0], "~")
        typer.echo(
            f"{mark} db {item.database}  {item.kind:<10}  {', '.join(item.change):<14}  {key_text(item.key)}"
        )
