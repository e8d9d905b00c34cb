"""``greenfly snapshot restore``"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from greenfly.commands import options as o
from greenfly.commands.migrate import Conflict
from greenfly.commands.snapshot.common import IdentityFile, Wanted, identity_overrides, ledger_if_reachable

if TYPE_CHECKING:
    from integrity.snapshot.restored import RestoreOutcome


def restore(
    snapshot: Wanted,
    target: o.Target = None,
    conflict: Conflict = None,
    databases: o.Databases = None,
    identity_file: IdentityFile = None,
    target_password_file: o.TargetPasswordFile = None,
    target_ca: o.TargetCa = None,
    target_cert: o.TargetCert = None,
    target_key: o.TargetKey = None,
    list_keys: Annotated[
        int, typer.Option("--keys", min=0, help="How many keys to list.", rich_help_panel=o.OUTPUT)
    ] = 20,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Write a snapshot into any Redis-compatible server, and prove every key there against the manifest.

    The snapshot is checked first; a broken one is refused before anything is written.
    """
    from greenfly.console import make_progress, print_json
    from greenfly.exit_codes import ExitCode
    from integrity.ledger.models import Verdict
    from integrity.snapshot.catalog import find_snapshot
    from integrity.snapshot.restored import restore_snapshot

    overrides = identity_overrides(identity_file) | {
        "target": o.endpoint_overrides(target, target_password_file, target_ca, target_cert, target_key),
        "copy": o.without_empty({"conflict": conflict}),
        "databases": databases,
    }
    settings = o.load(config, state_dir, overrides).settings
    with ledger_if_reachable(settings) as ledger:
        directory = find_snapshot(snapshot, settings.snapshot_dir, ledger)
        outcome = restore_snapshot(settings, directory, ledger, make_progress(quiet=quiet))
    code = {Verdict.FAIL: ExitCode.DIFFERENT, Verdict.INCONCLUSIVE: ExitCode.INCONCLUSIVE}.get(
        outcome.verdict, ExitCode.OK
    )
    listed = _listed(outcome, list_keys)
    if as_json:
        print_json(
            {
                "snapshot": directory.resolve().name,
                "directory": str(directory),
                "target": outcome.target,
                "target_engine": outcome.target_engine,
                "verdict": outcome.verdict.value,
                "reason": outcome.reason,
                **outcome.counts(),
                "seconds": round(outcome.seconds, 3),
                "listed": listed,
                "exit_code": int(code),
            }
        )
        raise typer.Exit(int(code))
    typer.echo(f"{outcome.verdict.value}: {outcome.reason}")
    typer.echo(f"  snapshot    {directory}\n  target      {outcome.target} ({outcome.target_engine})")
    for name, number in outcome.counts().items():
        if number:
            typer.echo(f"  {name:<10}  {number:,}")
    for item in listed:
        typer.echo(f"    {item['what']:<10}  db {item['database']}  {item['key']}  {item['detail']}")
    raise typer.Exit(int(code))


def _listed(outcome: RestoreOutcome, limit: int) -> list[dict[str, object]]:
    """The keys that are not as they should be, refused ones first."""
    from reports.display import key_text, plain_text

    rows = [(r.database, r.key, r.kind, "refused", r.detail) for r in outcome.totals.refused]
    rows += [(m.database, m.key, m.kind, m.what, m.detail) for m in outcome.proof.mismatches]
    return [
        {"database": database, "key": key_text(key), "kind": kind, "what": what, "detail": plain_text(detail)}
        for database, key, kind, what, detail in rows[:limit]
    ]
